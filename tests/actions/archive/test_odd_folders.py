"""Unusual folders: files with several names, and folders that change every week."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path
from typing import Any

import pytest

from runspend.actions.archive.context import Tools
from runspend.actions.archive.items import ARCHIVE_FOLDER
from runspend.actions.archive.move import COPIES, _Move
from runspend.actions.archive.restore import restore
from runspend.config.settings import ArtifactStore
from runspend.storage.local_objects import LocalObjects
from tests.archive_disk import Disk, fill, tree_of
from tests.archive_world import ARCHIVE, World, make_item


@pytest.fixture
def disk(tmp_path: Path) -> Disk:
    return Disk(tmp_path / "disk")


# --- files with several names --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("names", [2, 3, 40])
def test_a_file_with_several_names_is_archived_in_one_run(disk: Disk, names: int) -> None:
    """Deleting one name changes the times of the others. The archive keeps one copy, and a restore brings back every name."""
    fill(disk.run, {"model/0": b"weights", "log": b"l"})
    for number in range(1, names):
        os.link(disk.run / "model/0", disk.run / f"model/{number}")
    before = tree_of(disk.run)
    assert disk.apply() == ["archived"] and tree_of(disk.run) == {}
    assert len(list((disk.archived / "data").iterdir())) == 2 and not (disk.archived / "manifest-2.jsonl").exists()
    restore("run1", disk.settings)
    assert tree_of(disk.run) == before


def test_a_name_outside_the_folder_stays(disk: Disk) -> None:
    fill(disk.run, {"a": b"a"})
    os.link(disk.run / "a", disk.source / "snapshot")
    assert disk.apply() == ["archived"] and (disk.source / "snapshot").read_bytes() == b"a"


def test_a_file_that_was_written_through_another_name_stays(disk: Disk, monkeypatch: pytest.MonkeyPatch) -> None:
    """The file has its old size and time, but Runspend reads its bytes and sees that they are not the copied bytes."""
    fill(disk.run, {"a": b"one", "b": b"b"})
    os.link(disk.run / "a", disk.source / "outside")
    was = _Move._put_manifest

    def written_through(move: Any, entries: Any) -> None:
        was(move, entries)
        times = os.stat(disk.run / "a")
        (disk.source / "outside").write_bytes(b"two")
        os.utime(disk.run / "a", ns=(times.st_atime_ns, times.st_mtime_ns))

    monkeypatch.setattr(_Move, "_put_manifest", written_through)
    assert disk.apply() == ["partial"]
    monkeypatch.undo()
    assert tree_of(disk.run) == {"a": b"two"}
    assert disk.apply(is_old=True) == ["archived"]
    restore("run1", disk.settings)
    assert tree_of(disk.run) == {"a": b"two", "b": b"b"}


def test_names_left_by_a_killed_process_are_not_a_change(disk: Disk, monkeypatch: pytest.MonkeyPatch) -> None:
    """The process is killed repeatedly between two names. The work continues, and is not given up as a folder that keeps changing."""
    fill(disk.run, {"0": b"weights"})
    for number in range(1, 6):
        os.link(disk.run / "0", disk.run / str(number))
    delete, gone, kills = LocalObjects.delete, set[str](), list[bool]()

    def killed(store: LocalObjects, obj: Any) -> None:
        if kills[-1]:
            raise KeyboardInterrupt
        was_there = store.head(obj.key) is not None
        delete(store, obj)
        if was_there and obj.key not in gone:
            gone.add(obj.key)
            if len(gone) % 2 == 0:
                kills[-1] = True
                raise KeyboardInterrupt

    monkeypatch.setattr(LocalObjects, "delete", killed)
    for _ in range(10):
        kills.append(False)
        try:
            states = disk.apply()
            break
        except KeyboardInterrupt:
            continue
    assert kills == [True, True, True, False]
    assert states == ["archived"] and tree_of(disk.run) == {}
    monkeypatch.undo()
    assert restore("run1", disk.settings).objects == 6


# --- storage classes -----------------------------------------------------------------------------------------------------


def test_copies_are_of_the_class_that_is_set_and_manifests_are_not() -> None:
    """Manifests stay cheap to read, because Runspend reads them to find an archive."""
    world = World(storage_class="glacier_ir")
    world.put("a", b"a")
    assert [result.state for result in world.apply()] == ["archived"]
    assert {key.rpartition("/")[2].partition(".")[0]: kept.storage_class for key, kept in world.archive.objects.items()} == {
        hashlib.sha256(b"a").hexdigest(): "GLACIER_IR", "manifest": "STANDARD",
    }  # fmt: skip
    world.close()


# --- folders that change -------------------------------------------------------------------------------------------------


def test_a_folder_that_changes_each_week_has_a_manifest_for_each(world: World) -> None:
    world.may_delete = False
    for week in range(14):
        world.put(str(week), b"%d" % week, world.now)
        world.advance(days=10)
        assert [(result.state, result.reason) for result in world.apply()] == [("copied", "it has no `delete_credentials`")], week
    world.may_delete = True
    assert [result.state for result in world.apply()] == ["archived"]
    assert world.restorable() == {str(week): b"%d" % week for week in range(14)}
    assert sum("manifest" in key for key in world.archive.objects) == 14


def test_a_folder_that_changed_too_often_says_so(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("runspend.actions.archive.move.GENERATIONS", 3)
    world.may_delete = False
    for week in range(3):
        world.put(str(week), b"%d" % week, world.now)
        world.advance(days=10)
        [result] = world.apply()
    assert result.state == "failed" and "its folder keeps changing, and it has 2 manifests already" in (result.reason or "")
    assert len(world.here()) == 3


def test_a_store_that_spoils_every_manifest_is_found_out_at_once(world: World) -> None:
    world.put("a", b"a")
    world.faults.plan = {(f"write {ARCHIVE}", number): "flipped" for number in range(2, 9)}  # the first write is the copy
    [result] = world.apply()
    world.faults.plan = {}
    assert result.state == "failed" and f"its manifest was written {COPIES} times, and each time other bytes were read back" in (
        result.reason or ""
    )
    assert world.here() == {"a": b"a"} and sum("manifest" in key for key in world.archive.objects) == COPIES
    assert [result.state for result in world.apply()] == ["archived"] and world.restorable() == {"a": b"a"}


@pytest.mark.parametrize("is_linked", [False, True])
def test_an_archive_is_never_moved_into_itself(tmp_path: Path, is_linked: bool) -> None:
    """This covers a store around the archive store, and owners whose folder is in the archive store or contains it, also through a link."""
    disk = Disk(tmp_path / "disk")
    fill(disk.run, {"a": b"a"})
    assert disk.apply() == ["archived"]
    place = str(disk.folder)
    if is_linked:
        (tmp_path / "link").symlink_to(disk.folder)
        place = str(tmp_path / "link")
    stores = [*disk.settings.stores, ArtifactStore.model_validate({"uri": place, "delete_credentials": "local"})]
    disk.settings = disk.settings.model_copy(update={"stores": stores})
    before = tree_of(disk.archive)
    below = disk.archived.relative_to(disk.folder)
    for prefix in (str(below), str(below / "data"), "archive", f"archive/{ARCHIVE_FOLDER}"):
        assert disk.apply(make_item(store=place, prefix=prefix)) == ["failed"], prefix
    assert tree_of(disk.archive) == before


# --- folders of a bucket ---------------------------------------------------------------------------------------------------


def test_markers_of_folders_are_archived_and_come_back(world: World) -> None:
    """This includes the item's own folder, and a folder with other objects. Nothing remains that a policy could select."""
    files = {"": b"", "model/": b"", "model/w": b"w", "empty/": b""}
    for name, body in files.items():
        world.put(name, body)
    assert [result.state for result in world.apply()] == ["archived"] and world.here() == {}
    assert world.restorable() == files
    to = Path(world.folder) / "there"
    restore("run1", world.settings, to=to, tools=Tools(open_store=world.open))
    assert tree_of(to) == {"model": None, "model/w": b"w", "empty": None}
    result = restore("run1", world.settings, tools=Tools(open_store=world.open), records=world.records)
    assert result.problems == [] and world.here() == files


def test_a_folder_name_that_is_not_utf_8_is_reported_before_anything_is_copied(world: World) -> None:
    world.put("model/", b"bytes")
    [result] = world.apply()
    assert (result.state, world.here(), world.archive.objects) == ("failed", {"model/": b"bytes"}, {})
    assert "the name 'model/' cannot be restored: it has the name of a folder, but contains bytes" in (result.reason or "")
