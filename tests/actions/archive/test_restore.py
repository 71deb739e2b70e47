"""A restore returns the archived files byte for byte. A hostile archive restores nothing and changes nothing."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import shutil
import stat
from collections.abc import Callable, Iterator
from dataclasses import asdict
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from runspend.actions.archive.context import Tools
from runspend.actions.archive.items import ARCHIVE_FOLDER, NOTE_NAME, RETURNED_NAME
from runspend.actions.archive.manifest import MAX_ENTRIES, check_key, read_manifest, write_manifest
from runspend.actions.archive.restore import restore
from runspend.actions.archive.verify import verify
from runspend.config.settings import ArtifactStore
from runspend.core.errors import NotDone, RunspendError, SourceRefused, UsageError
from runspend.storage.factory import open_objects
from runspend.storage.local_objects import LocalObjects
from runspend.warehouse.records import Records
from tests.archive_disk import OLD, Disk, fill, tree_of
from tests.archive_world import PREFIX, SOURCE, MemoryStore, World, make_item


@pytest.fixture
def disk(tmp_path: Path) -> Disk:
    return Disk(tmp_path / "disk")


# --- there and back ------------------------------------------------------------------------------------------------------

LETTERS = st.characters(exclude_categories=["Cs", "Cc", "Zl", "Zp"], exclude_characters="/\\")
NAMES = st.text(LETTERS, min_size=1, max_size=20).filter(lambda name: check_key(name) is None and len(name.encode()) <= 80)
TREES = st.recursive(st.binary(max_size=200), lambda inner: st.dictionaries(NAMES, inner, max_size=4), max_leaves=12)


def flat(tree: Any, above: str = "") -> dict[str, bytes]:
    """Return a nested dictionary as names with slashes. The name of an empty folder ends in one."""
    if isinstance(tree, bytes):
        return {above or "file": tree}
    found: dict[str, bytes] = {}
    for name, inner in tree.items():
        found |= flat(inner, f"{above}/{name}" if above else name)
    return found or ({f"{above}/": b""} if above else {})


def there_and_back(folder: Path, tree: dict[str, bytes]) -> None:
    shutil.rmtree(folder, ignore_errors=True)  # an earlier example may have failed
    disk = Disk(folder)
    fill(disk.run, tree)
    before = tree_of(disk.run)
    assert disk.apply() == ["archived" if tree else "nothing"]
    if tree:
        assert tree_of(disk.run) == {} and (disk.run / NOTE_NAME).is_file()
        shutil.rmtree(disk.home)
        restore("run1", disk.settings, to=folder / "there", tools=Tools(workers=2))
        assert tree_of(folder / "there") == before
        result = restore("run1", disk.settings, tools=Tools(workers=2))
        assert tree_of(disk.run) == before and not (disk.run / NOTE_NAME).exists() and not result.notes


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(TREES)
def test_generated_trees_come_back_identical(tmp_path: Path, tree: Any) -> None:
    there_and_back(tmp_path / "world", flat(tree) if tree != {} else {})


@pytest.mark.torture
@pytest.mark.timeout(3600)
def test_ten_thousand_generated_trees(tmp_path: Path) -> None:
    @settings(max_examples=10_000, deadline=None, suppress_health_check=list(HealthCheck))
    @given(TREES)
    def come_back(tree: Any) -> None:
        there_and_back(tmp_path / "world", flat(tree) if tree != {} else {})

    come_back()


def test_existing_files_are_never_overwritten(disk: Disk) -> None:
    fill(disk.run, {"a": b"old", "b": b"same"})
    disk.apply()
    fill(disk.run, {"a": b"new", "b": b"same"})
    result = restore("run1", disk.settings)
    assert [result.objects, result.there_already] == [0, 1] and "another object has this name" in result.problems[0]
    assert tree_of(disk.run) == {"a": b"new", "b": b"same"}


def test_files_come_back_with_their_modes(disk: Disk) -> None:
    """In a new folder, files also get their old times. In the original place, they count as new.

    A mode never makes a file run as another user.
    """
    modes = {"script": 0o750, "open": 0o666, "shut": 0o200, "as its owner": 0o4755, "empty/": 0o500}
    fill(disk.run, dict.fromkeys(modes, b""))
    for name, mode in modes.items():
        (disk.run / name).chmod(mode)
    os.chmod(disk.run / "shut", 0o400)
    began = datetime.now(timezone.utc).timestamp()
    disk.apply()
    wanted = {"script": 0o750, "open": 0o666, "shut": 0o400, "as its owner": 0o755, "empty/": 0o700}
    restore("run1", disk.settings, to=disk.folder / "there")
    assert {name: stat.S_IMODE((disk.folder / "there" / name).stat().st_mode) for name in modes} == wanted
    assert {(disk.folder / "there" / name).stat().st_mtime for name in modes if name != "empty/"} == {OLD}
    restore("run1", disk.settings)
    assert {name: stat.S_IMODE((disk.run / name).stat().st_mode) for name in modes} == wanted
    assert all((disk.run / name).stat().st_mtime >= began - 1 for name in modes)


def test_an_object_that_came_back_as_something_else_is_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    """An object that was never deleted is rewritten in place. Runspend reads the result back."""
    world = World()
    world.put("a", b"whole")
    world.may_delete = False
    assert [result.state for result in world.apply()] == ["copied"]
    renew = MemoryStore.renew

    def spoil(store: MemoryStore, obj: Any) -> Any:
        renew(store, obj)
        store.objects[obj.key].body = b"whine"
        return store.head(obj.key)

    monkeypatch.setattr(MemoryStore, "renew", spoil)
    result = restore("run1", world.settings, tools=Tools(open_store=world.open), records=world.records)
    assert "differs from the archived one" in result.problems[0] and not any(key.endswith(RETURNED_NAME) for key in world.archive.objects)
    world.close()


def test_two_restores_into_one_folder_do_not_mix(disk: Disk, monkeypatch: pytest.MonkeyPatch) -> None:
    """While one restore writes, another one is refused. Files of a killed restore do not block the next one."""
    fill(disk.run, {"a": b"first", "b/c": b"c"})
    disk.apply()
    there, tries, refusals = disk.folder / "there", list[str](), list[str]()
    fill(disk.folder / ".there.runspend-restore", {"a": b"of a restore that was killed", "odd": b""})
    (disk.folder / ".there.runspend-restore.lock").touch()
    write = LocalObjects.write

    def write_meanwhile(store: LocalObjects, key: str, *parts: Any, **options: Any) -> Any:
        if store.uri.endswith(".runspend-restore") and not tries:
            tries.append(key)
            with pytest.raises(UsageError) as refusal:
                restore("run1", disk.settings, to=there)
            refusals.append(str(refusal.value))
        return write(store, key, *parts, **options)

    monkeypatch.setattr(LocalObjects, "write", write_meanwhile)
    assert restore("run1", disk.settings, to=there, tools=Tools(workers=1)).objects == 2
    assert "another restore is writing there" in refusals[0]
    assert tree_of(there) == {"a": b"first", "b": None, "b/c": b"c"} and not list(disk.folder.glob(".*"))


@pytest.mark.parametrize("lock", ["a link", "not there"])
def test_a_lock_file_that_is_not_a_lock(disk: Disk, monkeypatch: pytest.MonkeyPatch, lock: str) -> None:
    """A link is not followed, and a disk without locks is reported."""
    fill(disk.run, {"a": b"a"})
    disk.apply()
    path, outside = disk.folder / ".there.runspend-restore.lock", disk.folder / "outside"
    if lock == "a link":
        path.symlink_to(outside)
    else:
        monkeypatch.setattr("fcntl.flock", no_locks)
    with pytest.raises(UsageError, match=r"cannot be (written|locked): "):
        restore("run1", disk.settings, to=disk.folder / "there")
    assert not outside.exists() and not (disk.folder / "there").exists()


def test_a_lock_file_that_someone_removed_meanwhile(disk: Disk, monkeypatch: pytest.MonkeyPatch) -> None:
    fill(disk.run, {"a": b"a"})
    disk.apply()
    write = LocalObjects.write

    def write_without(store: LocalObjects, key: str, *parts: Any, **options: Any) -> Any:
        (disk.folder / ".there.runspend-restore.lock").unlink(missing_ok=True)
        return write(store, key, *parts, **options)

    monkeypatch.setattr(LocalObjects, "write", write_without)
    assert restore("run1", disk.settings, to=disk.folder / "there").objects == 1
    assert tree_of(disk.folder / "there") == {"a": b"a"}


def no_locks(*_: Any) -> None:
    """Fail like a network disk without a lock server."""
    raise OSError(errno.ENOLCK, "No locks available")


def test_a_link_in_place_of_a_folder_gives_its_mode_to_no_other_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The target of the link keeps its mode."""
    (tmp_path / "store").mkdir()
    (tmp_path / "outside").mkdir(mode=0o700)
    mkdir = os.mkdir

    def swapped(name: str, *_: Any, dir_fd: int, **__: Any) -> None:
        mkdir(name, dir_fd=dir_fd)
        os.rmdir(name, dir_fd=dir_fd)
        os.symlink(tmp_path / "outside", name, dir_fd=dir_fd)

    store = open_objects(ArtifactStore(uri=str(tmp_path / "store")), "archive")
    monkeypatch.setattr(os, "mkdir", swapped)
    with pytest.raises(NotDone):
        store.write("empty/", [], size=0, metadata={"mode": "777"})
    assert stat.S_IMODE((tmp_path / "outside").stat().st_mode) == 0o700


def test_files_that_another_restore_has_just_written_stay_whole(disk: Disk, monkeypatch: pytest.MonkeyPatch) -> None:
    fill(disk.run, {"a": b"a"})
    disk.apply()
    there, usage = disk.folder / "there", shutil.disk_usage

    def bring(folder: Path) -> Any:
        monkeypatch.undo()
        fill(there, {"a": b"another's"})
        return usage(folder)

    monkeypatch.setattr(shutil, "disk_usage", bring)
    with pytest.raises(UsageError, match="is not an empty folder"):
        restore("run1", disk.settings, to=there)
    assert tree_of(there) == {"a": b"another's"} and not list(disk.folder.glob(".*"))


def test_the_newest_of_each_name_comes_back(disk: Disk) -> None:
    fill(disk.run, {"a": b"first", "b": b"only the first has it"})
    disk.apply()
    fill(disk.run, {"a": b"second"})
    disk.apply()
    assert restore("run1", disk.settings, to=disk.folder / "there").notes == []
    assert tree_of(disk.folder / "there") == {"a": b"second", "b": b"only the first has it"}
    manifests = sorted(disk.archive.rglob("manifest.jsonl"), key=lambda path: path.stat().st_mtime_ns)
    times = [path.stat().st_mtime_ns for path in manifests]
    for path, time in zip(manifests, reversed(times), strict=True):  # the store was copied elsewhere, with its files in another order
        os.utime(path, ns=(time, time))
    [note] = restore("run1", disk.settings, to=disk.folder / "copied").notes
    assert note.startswith("the newest archive is the one whose manifest was written last, but the archives were planned in another order")
    for path, time in zip(manifests, times, strict=True):
        os.utime(path, ns=(time, time))
    for path, body in zip(
        sorted((disk.archive / ARCHIVE_FOLDER / "prod/1/run1").iterdir(), key=lambda p: (p / "manifest.jsonl").stat().st_mtime_ns),
        [b"first", b"second"],
        strict=True,
    ):
        restore("run1", disk.settings, to=disk.folder / path.name, archive_id=path.name)
        assert (disk.folder / path.name / "a").read_bytes() == body


def test_checkpoints_and_models_of_a_run_come_back_next_to_each_other(disk: Disk) -> None:
    fill(disk.run, {"checkpoints/1/w": b"1", "checkpoints/2/w": b"2", "log": b"l"})
    fill(disk.source / "1/models/m-7/artifacts", {"MLmodel": b"m"})
    model = disk.item(owner_kind="logged_model", owner_id="m-7", prefix="1/models/m-7/artifacts")
    assert disk.apply(disk.item(owner_kind="checkpoint", owner_id="c1", prefix=f"{PREFIX}/checkpoints/1"), model) == ["archived"] * 2
    assert disk.apply() == ["archived"]
    restore("run1", disk.settings, to=disk.folder / "there")
    found = {name: body for name, body in tree_of(disk.folder / "there").items() if body is not None}
    assert found.pop(f"checkpoints/1/{NOTE_NAME}") is not None  # the note was archived as a file of the run
    assert found == {"checkpoints/1/w": b"1", "checkpoints/2/w": b"2", "log": b"l", "m-7/MLmodel": b"m"}


def test_without_the_right_to_delete_the_note_stays_and_is_reported(disk: Disk) -> None:
    fill(disk.run, {"a": b"a"})
    disk.apply()
    stores = [store.model_copy(update={"delete_credentials": None}) for store in disk.settings.stores]
    result = restore("run1", disk.settings.model_copy(update={"stores": stores}))
    assert (disk.run / NOTE_NAME).exists() and len(result.notes) == 1 and "was left in" in result.notes[0]


@pytest.mark.parametrize("damage", ["flip", "cut", "gone"])
def test_a_damaged_archive_brings_nothing_unless_asked(disk: Disk, damage: str) -> None:
    fill(disk.run, {"a": b"whole", "b": b"hurt"})
    disk.apply()
    copy = disk.archived / "data" / hashlib.sha256(b"hurt").hexdigest()
    if damage == "gone":
        copy.unlink()
    else:
        copy.write_bytes(b"hurT" if damage == "flip" else b"hur")
    with pytest.raises(SourceRefused, match="Nothing was restored"):
        restore("run1", disk.settings, to=disk.folder / "there")
    assert sorted(path.name for path in disk.folder.iterdir()) == ["archive", "home", "source"]
    result = restore("run1", disk.settings, to=disk.folder / "there", take_damaged=True)
    assert tree_of(disk.folder / "there") == {"a": b"whole"} and len(result.problems) == 1 and "'b'" in result.problems[0]


TARGETS: list[Callable[[Path], object]] = [
    lambda to: (to.mkdir(), (to / "x").write_bytes(b"x")),
    lambda to: to.write_bytes(b"x"),
    lambda to: to.symlink_to("/tmp"),
    lambda to: to.with_name(".there.runspend-restore").symlink_to("/tmp"),
]


@pytest.mark.parametrize("make", TARGETS)
def test_a_folder_that_is_taken_is_left_alone(disk: Disk, make: Callable[[Path], object]) -> None:
    fill(disk.run, {"a": b"a"})
    disk.apply()
    make(disk.folder / "there")
    before = tree_of(disk.folder)
    with pytest.raises(UsageError, match="Nothing was restored"):
        restore("run1", disk.settings, to=disk.folder / "there")
    assert tree_of(disk.folder) == before


def test_the_remains_of_a_killed_restore_are_removed(disk: Disk) -> None:
    fill(disk.run, {"a": b"a"})
    disk.apply()
    fill(disk.folder / ".there.runspend-restore", {"half/of": b"it"})
    (disk.folder / "there").mkdir()
    restore("run1", disk.settings, to=disk.folder / "there")
    assert tree_of(disk.folder / "there") == {"a": b"a"} and not (disk.folder / ".there.runspend-restore").exists()


def test_an_owner_without_an_archive_is_refused(disk: Disk) -> None:
    with pytest.raises(UsageError, match="cannot restore nobody: it has no archive"):
        restore("nobody", disk.settings)


def test_a_run_is_restored_by_the_beginning_of_its_id_and_a_model_by_its_own_id(disk: Disk) -> None:
    """An ambiguous beginning is refused, and the message lists the runs."""
    run, model = "3f1c9a7b" * 4, f"m-{'a' * 32}"
    fill(disk.run, {"a": b"a"})
    fill(disk.source / "1/models" / model / "artifacts", {"weights": b"w"})
    model_item = disk.item(owner_kind="logged_model", owner_id=model, run_id=run, prefix=f"1/models/{model}/artifacts")
    assert disk.apply(disk.item(owner_id=run, run_id=run), model_item) == ["archived", "archived"]
    found = restore("3f1c9a7b", disk.settings, to=disk.folder / "run")
    assert (found.owner, found.objects) == (run, 2)  # the tags of this owner are written
    found = restore(model, disk.settings, to=disk.folder / "model")
    assert found.objects == 1 and [path.name for path in (disk.folder / "model").rglob("*") if path.is_file()] == ["weights"]
    fill(disk.run, {"b": b"b"})
    disk.apply(disk.item(owner_id="3f1c9aff", run_id="3f1c9aff"))
    with pytest.raises(UsageError, match=r"3f1c9a may be 3f1c9a7b.*, 3f1c9aff"):
        restore("3f1c9a", disk.settings, to=disk.folder / "which")
    owners = disk.archive / ARCHIVE_FOLDER / "prod" / "1"  # policies may archive to different stores
    other = disk.folder / "other" / ARCHIVE_FOLDER / "prod" / "1"
    other.mkdir(parents=True)
    (owners / "3f1c9aff").rename(other / "3f1c9aff")
    with_other = disk.settings.model_copy(update={"stores": [*disk.settings.stores, ArtifactStore(uri=str(disk.folder / "other"))]})
    with pytest.raises(UsageError, match=r"3f1c9a may be 3f1c9a7b.*, 3f1c9aff"):
        restore("3f1c9a", with_other, to=disk.folder / "which")


@pytest.mark.parametrize("is_swapped", [False, True])
def test_a_killed_delete_loses_no_file(disk: Disk, monkeypatch: pytest.MonkeyPatch, is_swapped: bool) -> None:
    """The killed delete's own file is gone from its folder. A file that another user swapped in at the last moment is back in its place."""
    fill(disk.run, {"a": b"a", "b": b"b"})
    unlink, stat, aside = os.unlink, os.stat, ".runspend-delete-"

    def killed(name: Any, *given: Any, **options: Any) -> Any:
        raise KeyboardInterrupt

    def swapped(name: Any, *given: Any, **options: Any) -> Any:
        if str(name).startswith(aside) and (path := disk.run / str(name)).is_file():  # each of two threads may hold a file
            path.write_bytes(b"theirs, newer")
            killed(name)
        return stat(name, *given, **options)

    if is_swapped:
        monkeypatch.setattr(os, "stat", swapped)
    else:
        monkeypatch.setattr(
            os, "unlink", lambda name, *given, **options: killed(name) if str(name).startswith(aside) else unlink(name, *given, **options)
        )
    with pytest.raises(KeyboardInterrupt):
        disk.apply()
    monkeypatch.undo()
    assert disk.apply() == (["partial"] if is_swapped else ["archived"])
    assert not list(disk.run.glob(f"{aside}*"))
    if is_swapped:
        assert b"theirs, newer" in [path.read_bytes() for path in disk.run.iterdir()]
    restore("run1", disk.settings, to=disk.folder / "back")
    assert {path.name: path.read_bytes() for path in (disk.folder / "back").iterdir()} == {"a": b"a", "b": b"b"}


def test_a_store_that_is_not_measured_does_not_stop_a_restore(disk: Disk) -> None:
    fill(disk.run, {"a": b"a"})
    disk.apply()
    given = disk.settings.model_copy(update={"stores": [ArtifactStore(uri="hdfs://name/mlflow", measure="none"), *disk.settings.stores]})
    assert restore("run1", given, to=disk.folder / "there").objects == 1
    assert verify(given, Records(disk.home), now=datetime.now(timezone.utc)).archives == 1


def test_a_place_that_is_no_longer_a_store_is_refused(disk: Disk) -> None:
    fill(disk.run, {"a": b"a"})
    disk.apply()
    gone = disk.settings.model_copy(update={"stores": disk.settings.stores[1:]})
    with pytest.raises(SourceRefused, match="it is not in `stores`"):
        restore("run1", gone)
    assert restore("run1", gone, to=disk.folder / "there").objects == 1


def test_a_bucket_may_hold_a_file_and_a_folder_of_one_name() -> None:
    world = World()
    world.put("a", b"file")
    world.put("a/b", b"in a folder")
    world.apply()
    with pytest.raises(SourceRefused, match="'a' is both a file and a folder"):
        restore("run1", world.settings, to=Path("there"), tools=Tools(open_store=world.open))
    assert not Path("there").exists()
    restore("run1", world.settings, tools=Tools(open_store=world.open, workers=1))
    assert world.here() == {"a": b"file", "a/b": b"in a folder"}
    world.close()


# --- hostile archives ----------------------------------------------------------------------------------------------------

KEYS = [
    "..", "../x", "../../etc/passwd", "a/../../x", "a/..", "/etc/passwd", "//etc/passwd", "/", "", ".", "./x", "a/./b", "a//b", "a///", "//", "a/../b",
    "..\\x", "a\\b", "C:\\x", "\\\\host\\share", "a\x00b", "a\nb", "\x1b[2J", "a\rb", "a\tb", "\x7f", "\x85", "\u2028", "\u2029", "\ud800", "\udfff",
    "%2e%2e/x", "%2E%2E%2Fx", "a%2fb", "%252e%252e", "%25252fx", "%5cx", "x%00", "a/" * 600 + "x", "x" * 256, "é" * 128, "a/" + "y" * 300 + "/b", "../", "a/../",
    "..//", "x/..", ".../../x", "....//....//x/..", "a/.", "./", "a/b/../../..", "\u202e\n",
]  # fmt: skip


def entry_of(key: str = "a", body: bytes = b"hello", **changes: Any) -> dict[str, Any]:
    sha256 = hashlib.sha256(body).hexdigest()
    error = {
        "key": key,
        "size": len(body),
        "sha256": sha256,
        "data": f"data/{sha256}",
        "copy_etag": "e",
        "etag": "e",
        "version": None,
        "storage_class": "STANDARD",
        "modified": "2026-01-01T00:00:00+00:00",
    }
    return {**error, **changes}


def manifest_of(*entries: Any, **head: Any) -> bytes:
    """Return a manifest with correct counts and hashes, and any content."""
    objects, size = len(entries), sum(entry["size"] for entry in entries if isinstance(entry, dict) and type(entry.get("size")) is int)
    first = {
        "runspend_archive": 1,
        "archive_id": "f" * 32,
        "planned_at": "2026-01-01T00:00:00+00:00",
        "item": asdict(make_item()),
        "objects": objects,
        "bytes": size,
        **head,
    }
    text = b"".join(json.dumps(line).encode() + b"\n" for line in (first, *entries))
    return text + json.dumps({"end": objects, "bytes": size, "sha256": hashlib.sha256(text).hexdigest()}).encode() + b"\n"


def item_with(**changes: Any) -> dict[str, Any]:
    return {**asdict(make_item()), **changes}


GOOD = manifest_of(entry_of())
ENTRIES: dict[str, Any] = {
    **{f"key {key[:30]!r} {number}": entry_of(key) for number, key in enumerate(KEYS)},
    **{f"{name} {value!r}"[:60]: entry_of(**{name: value}) for name, value in [
        ("size", -1), ("size", "5"), ("size", 5.0), ("size", True), ("size", None), ("size", 1 << 60), ("size", [5]), ("sha256", "abc"), ("sha256", None), ("sha256", "G" * 64),
        ("sha256", "é" * 64), ("sha256", "A" * 64), ("data", "data/../../../etc/passwd"), ("data", "/etc/passwd"), ("data", "data/" + "0" * 64), ("data", ""), ("data", None),
        ("data", entry_of()["data"] + "-0"), ("data", entry_of()["data"] + "-10"), ("data", entry_of()["data"] + "/x"), ("data", entry_of()["data"] + "\n"),
        ("copy_etag", None), ("copy_etag", 5), ("etag", None), ("version", 5), ("storage_class", None), ("modified", "yesterday"), ("modified", "2026-01-01T00:00:00"),
        ("modified", None), ("type", "symlink"), ("linkname", "/etc"), ("mode", 0o4755), ("told", None), ("told", []), ("told", {"mode": "4755"}), ("told", {"mode": "٧٧٧"}), ("told", {"mode": 644}),
        ("told", {"content-type": "text/csv\r\nx: y"}), ("told", {"x-amz-acl": "public-read"}), ("told", {"meta.a: b": "c"}), ("told", {"meta.": "c"}),
        ("told", {"content-type": ""}), ("told", {"meta.a": "b" * 8192}), ("told", {"modified": "2026-01-01T00:00:00+00:00"}), ("key", None), ("key", 5), ("key", ["a"]), ("state", "deleted"), ("key", "folder/"), ("key", ""),
    ]},
    "no key": {name: value for name, value in entry_of().items() if name != "key"},
    "a list": [1, 2],
    "a text": "a",
    "null": None,
    "a number": 5,
}  # fmt: skip
WHOLE: dict[str, bytes] = {
    "empty": b"",
    "one newline": b"\n",
    "no end": GOOD.rsplit(b"\n", 2)[0] + b"\n",
    "cut in a line": GOOD[:-20],
    "cut before the last newline": GOOD[:-1],
    "more after the end": GOOD + b"{}\n",
    "a second end": GOOD + GOOD.splitlines(keepends=True)[-1],
    "another hash": GOOD.replace(b'"sha256": "', b'"sha256": "0')[:-1] + b"\n",
    "an entry changed": GOOD.replace(b'"key": "a"', b'"key": "b"'),
    "an entry left out": b"".join(GOOD.splitlines(keepends=True)[::2]),
    "the same name twice": manifest_of(entry_of(), entry_of()),
    "a name twice in a line": GOOD.replace(b'"key": "a"', b'"key": "a", "key": "../b"'),
    "not UTF-8": GOOD.replace(b'"key": "a"', b'"key": "\xff"'),
    "UTF-16": GOOD.decode().encode("utf-16"),
    "a byte order mark": b"\xef\xbb\xbf" + GOOD,
    "gzip": b"\x1f\x8b\x08\x00" + b"\x00" * 20,
    "a tar": b"../x" + b"\x00" * 508 + GOOD,
    "not JSON": b"hello\n",
    "NaN": GOOD.replace(b'"size": 5', b'"size": NaN'),
    "Infinity": GOOD.replace(b'"size": 5', b'"size": Infinity'),
    "a number of 5,000 digits": GOOD.replace(b'"size": 5', b'"size": ' + b"9" * 5000),
    "deeply nested": b"[" * 30_000 + b"\n",
    "a line of 100 kB": b'{"x": "' + b"y" * 100_000 + b'"}\n',
    "a line without end": b"x" * 200_000,
    "no objects, one entry": manifest_of(entry_of(), objects=0),
    "two objects, one entry": manifest_of(entry_of(), objects=2),
    "other bytes": manifest_of(entry_of(), bytes=6),
    "objects below zero": manifest_of(objects=-1),
    "version 2": manifest_of(entry_of(), runspend_archive=2),
    "version true": manifest_of(entry_of(), runspend_archive=True),
    "another archive's": manifest_of(entry_of(), archive_id="e" * 32),
    "an id that is a path": manifest_of(entry_of(), archive_id="../" + "f" * 29),
    "an id with a newline": manifest_of(entry_of(), archive_id="f" * 32 + "\n"),
    "no time": manifest_of(entry_of(), planned_at="now"),
    "one field more": manifest_of(entry_of(), extra=1),
    "no item": manifest_of(entry_of(), item=None),
    "an item that is a list": manifest_of(entry_of(), item=[]),
    **{f"item {name} {value!r}"[:60]: manifest_of(entry_of(), item=item_with(**{name: value})) for name, value in [
        ("prefix", "../../etc"), ("prefix", "/etc"), ("prefix", ""), ("prefix", "a/"), ("prefix", "a//b"), ("prefix", "a/%2e%2e/b"), ("prefix", None), ("prefix", "a\x00"),
        ("prefix", "runspend-archive/v1"), ("store", 5), ("run_id", "another"), ("run_id", 5), ("run_id", "run1\x1b[2J"), ("owner_kind", "root"), ("action", "delete"),
        ("action", None), ("tracking_server", "other"), ("experiment_id", "2"), ("policy", "x\ny"), ("surprise", 1), ("objects", "many"), ("workspace", "\ud800"),
    ]},
}  # fmt: skip
CORPUS = {
    **{f"entry: {name}": manifest_of(entry) for name, entry in ENTRIES.items()},
    **{f"manifest: {name}": text for name, text in WHOLE.items()},
}
FITS = {  # such a manifest may be correct for a bucket, but a disk cannot have its contents
    "file and folder": manifest_of(entry_of("a"), entry_of("a/b")),
    "folder and file": manifest_of(entry_of("a/b/c"), entry_of("a/b")),
    "file and empty folder": manifest_of(entry_of("a"), entry_of("a/", b"")),
    "more than the disk has": manifest_of(entry_of(size=(1 << 60) - 1)),
    "a copy that is missing": manifest_of(entry_of(body=b"nowhere")),
}


def test_the_corpus_is_large_and_the_good_one_is_good() -> None:
    assert len(CORPUS) + len(FITS) + len(PLANTED) >= 150
    assert read_manifest([GOOD], "good").entries[0].key == "a"


@pytest.fixture
def trap(disk: Disk) -> Iterator[Path]:
    """An archive that someone planted. Nothing outside its own folder may change."""
    folder = disk.archive / ARCHIVE_FOLDER / "prod" / "1" / "run1" / ("f" * 32)
    fill(
        folder,
        {"manifest.jsonl": GOOD, f"data/{hashlib.sha256(b'hello').hexdigest()}": b"hello", f"data/{hashlib.sha256(b'').hexdigest()}": b""},
    )
    stores = [disk.settings.stores[0].model_copy(update={"uri": SOURCE}), disk.settings.stores[1]]
    disk.settings = disk.settings.model_copy(update={"stores": stores})
    yield folder
    assert not list(disk.folder.glob(".*")), "a partial restore was left"
    assert not disk.bucket.objects, "something was restored to its place"


def refused(disk: Disk) -> str:
    """Try a restore in place and to a new folder. Neither may write anything."""
    before = tree_of(disk.folder)
    with pytest.raises(RunspendError) as raised:
        restore("run1", disk.settings, to=disk.folder / "there", tools=Tools(open_store=disk.open))
    assert tree_of(disk.folder) == before
    return str(raised.value)


@pytest.mark.parametrize("text", CORPUS.values(), ids=[name.encode("ascii", "replace").decode() for name in CORPUS])
def test_a_hostile_manifest_is_refused_before_the_first_write(disk: Disk, trap: Path, text: bytes) -> None:
    (trap / "manifest.jsonl").write_bytes(text)
    error = refused(disk)
    assert "Nothing was restored" in error
    assert error.isprintable() or "\n" not in error
    with pytest.raises(RunspendError, match="Nothing was restored"):
        restore("run1", disk.settings, tools=Tools(open_store=disk.open))


@pytest.mark.parametrize("text", FITS.values(), ids=FITS)
def test_a_manifest_that_does_not_fit_is_refused_before_the_first_write(disk: Disk, trap: Path, text: bytes) -> None:
    (trap / "manifest.jsonl").write_bytes(text)
    if text == FITS["more than the disk has"]:
        os.truncate(trap / "data" / hashlib.sha256(b"hello").hexdigest(), 1 << 42)  # a sparse file, as large as this system allows
        (trap / "manifest.jsonl").write_bytes(manifest_of(entry_of(size=1 << 42)))
    assert "Nothing was restored" in refused(disk)


PLANTED: dict[str, Callable[[Path, Path], object]] = {
    "a copy is a link": lambda copy, outside: (copy.unlink(), copy.symlink_to(outside)),
    "a copy is a device": lambda copy, outside: (copy.unlink(), os.mkfifo(copy)),
    "the copies' folder is a link": lambda copy, outside: (shutil.move(copy.parent, outside.parent / "data"), copy.parent.symlink_to(outside.parent / "data")),
    "the archive's folder is a link": lambda copy, outside: (shutil.move(copy.parents[1], outside.parent / "f"), copy.parents[1].symlink_to(outside.parent / "f")),
    "the manifest is a link": lambda copy, outside: ((copy.parents[1] / "manifest.jsonl").rename(outside.parent / "m"), (copy.parents[1] / "manifest.jsonl").symlink_to(outside.parent / "m")),
    "a copy is a folder": lambda copy, outside: (copy.unlink(), copy.mkdir()),
}  # fmt: skip


@pytest.mark.parametrize("plant", PLANTED.values(), ids=PLANTED)
def test_links_planted_in_an_archive_are_not_followed(disk: Disk, trap: Path, plant: Callable[[Path, Path], object]) -> None:
    outside = disk.folder / "outside" / "secret"
    fill(outside.parent, {"secret": b"hello"})
    plant(trap / "data" / hashlib.sha256(b"hello").hexdigest(), outside)
    assert "Nothing was" in refused(disk)


def test_a_hard_link_comes_back_as_a_file_of_its_own(disk: Disk, trap: Path) -> None:
    outside = disk.folder / "secret"
    outside.write_bytes(b"hello")
    copy = trap / "data" / hashlib.sha256(b"hello").hexdigest()
    copy.unlink()
    os.link(outside, copy)
    restore("run1", disk.settings, to=disk.folder / "there", tools=Tools(open_store=disk.open))
    (disk.folder / "there" / "a").write_bytes(b"changed")
    assert outside.read_bytes() == b"hello"


def test_a_million_and_one_entries_are_too_many() -> None:
    def lines() -> Iterator[bytes]:
        yield (
            json.dumps(
                {
                    "runspend_archive": 1,
                    "archive_id": "f" * 32,
                    "planned_at": "2026-01-01T00:00:00+00:00",
                    "item": asdict(make_item()),
                    "objects": 10**9,
                    "bytes": 0,
                }
            ).encode()
            + b"\n"
        )
        blank = json.dumps(entry_of("KEY", b"")).encode()
        for number in range(10**9):
            yield blank.replace(b"KEY", b"%d" % number) + b"\n"

    with pytest.MonkeyPatch.context() as patch:
        assert MAX_ENTRIES == 1_000_000
        patch.setattr("runspend.actions.archive.manifest.MAX_ENTRIES", 5_000)
        with pytest.raises(SourceRefused, match="line 5002: it has more objects than"):
            read_manifest(lines(), "endless")


def test_a_manifest_that_is_written_is_believed() -> None:
    entries = read_manifest([manifest_of(*[entry_of(f"a{n}", b"%d" % n) for n in range(2000)])], "x").entries
    text = b"".join(write_manifest("f" * 32, make_item(), "2026-01-01T00:00:00+00:00", entries, len(entries), sum(e.size for e in entries)))
    assert read_manifest([text[n : n + 7] for n in range(0, len(text), 7)], "x").entries == entries


def test_verified_names_are_those_of_the_archive() -> None:
    """A manifest may not contain a name that the archive would refuse to write."""
    assert [key for key in KEYS if check_key(key) is None] == []
    world = World()
    world.put("a", b"a")
    world.apply()
    assert all(check_key(key) is None for key in world.archive.objects)
    world.close()
