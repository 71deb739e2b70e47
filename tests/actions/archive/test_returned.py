"""Restored folders: a stopped archiver cannot archive them again, they have their last archived content, and MLflow's tags follow."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from runspend.actions.archive import mlflow_tags as telling
from runspend.actions.archive.archive_records import Archive, ArchiveRecords, new_archive
from runspend.actions.archive.context import Tools
from runspend.actions.archive.find import find_archives, load_manifest
from runspend.actions.archive.items import NOTE_NAME, RETURNED_NAME
from runspend.actions.archive.lease import take_lease
from runspend.actions.archive.manifest import Entry
from runspend.actions.archive.mlflow_tags import tag_archived, tag_restored
from runspend.actions.archive.notices import Notice, Received, read_announcements, record_deliveries, record_notice
from runspend.actions.archive.restore import Restored, restore
from runspend.config.recipients import Recipients
from runspend.config.settings import Settings
from runspend.core.errors import LeaseLost, NotDone
from runspend.pipeline.archive_moving import read_known
from runspend.warehouse.records import Records
from tests.archive_world import ARCHIVE, PREFIX, SOURCE, START, Killed, World, make_item


def bring_back(world: World, **options: Any) -> Restored:
    world.advance(seconds=1)
    own = {name: options.pop(name) for name in ("open_store", "workers", "progress") if name in options}
    tools = Tools(**{"open_store": world.open, "workers": 1, **own})
    return restore("run1", world.settings, **{"records": world.records, "now": world.now, "tools": tools, **options})


def archived_entries(world: World) -> list[Entry]:
    manifests = [manifest for found in find_archives(world.archive) if (manifest := load_manifest(found)) is not None]
    return [entry for manifest in manifests for entry in manifest.entries]


# --- not archived again -------------------------------------------------------------------------------------------------


def test_nothing_is_archived_while_it_is_restored(world: World) -> None:
    world.put("a", b"a")
    world.apply()
    lease = take_lease(world.records)
    with pytest.raises(LeaseLost, match=r"cannot restore into place: process .* is archiving or restoring"):
        bring_back(world)
    assert world.here() == {}
    restore(
        "run1", world.settings, to=Path(world.folder) / "there", tools=Tools(open_store=world.open, workers=1)
    )  # another folder is not in conflict
    lease.release()
    assert bring_back(world).objects == 1 and world.here() == {"a": b"a"}
    take_lease(world.records).release()


def test_a_restore_that_lost_its_lease_stops_writing(world: World) -> None:
    for name in "abc":
        world.put(name, name.encode())
    world.apply()
    write = type(world.source).write

    def taken_over(store: Any, key: str, *given: Any, **options: Any) -> Any:
        world._take_lease_of_the_dead()
        take_lease(world.records)
        return write(store, key, *given, **options)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(type(world.source), "write", taken_over)
        with pytest.raises(LeaseLost):
            bring_back(world)
    assert list(world.here()) == ["a"]  # only the write that was in progress


def test_a_restore_rewrites_objects_that_were_not_deleted_yet(world: World) -> None:
    """The archiver stopped right before its deletes. After the restore, the condition of these deletes is no longer met."""
    world.put("a", b"a")
    world.may_delete = False
    world.apply()
    [entry] = archived_entries(world)
    result = bring_back(world)
    assert (result.objects, result.there_already, result.problems, world.here()) == (0, 1, [], {"a": b"a"})
    with pytest.raises(NotDone):
        world.source.delete(entry.at(PREFIX))
    assert world.here() == {"a": b"a"}
    state = world.source.head(f"{PREFIX}/a")
    # The second time, the object is not rewritten.
    assert bring_back(world).there_already == 1 and world.source.head(f"{PREFIX}/a") == state


# --- as it was last archived ---------------------------------------------------------------------------------------------


def test_a_file_removed_after_a_restore_stays_removed(world: World, tmp_path: Path) -> None:
    for name in "abc":
        world.put(name, name.encode())
    world.apply()
    bring_back(world)
    del world.source.objects[f"{PREFIX}/b"]
    world.put("c", b"newer")
    world.advance(days=30)
    assert [result.state for result in world.apply()] == ["archived"]
    world.put("d", b"d", world.now)
    world.advance(days=30)
    assert [result.state for result in world.apply()] == ["archived"]  # only d, because the others are archived and were not restored again
    first = min(find_archives(world.archive), key=lambda found: load_manifest(found).planned_at)  # type: ignore[union-attr]
    result = bring_back(world)
    assert world.here() == {"a": b"a", "c": b"newer", "d": b"d"}
    [note] = result.notes
    assert note == f"left out, because its restored files were archived again unchanged: {first.archive_id}. To restore it: --archive ID"
    restore("run1", world.settings, to=tmp_path / "first", archive_id=first.archive_id, tools=Tools(open_store=world.open, workers=1))
    assert {path.name: path.read_bytes() for path in (tmp_path / "first").iterdir()} == {"a": b"a", "b": b"b", "c": b"c"}
    assert world.restorable() == world.here()


def test_a_run_restored_before_its_archiving_ended_is_archived_again(world: World) -> None:
    """When the margin has passed, the archive contains the whole folder as it is then."""
    world.put("a", b"a")
    world.may_delete = False
    world.apply()
    bring_back(world)
    world.may_delete = True
    world.advance(days=30)
    assert [result.state for result in world.apply()] == ["archived"]
    assert [archive.state for archive in ArchiveRecords(world.records).all()] == ["partial", "archived"]
    world.put("b", b"b")
    assert [result.state for result in world.apply()] == ["archived"]
    [note] = bring_back(world).notes
    assert note.startswith("left out, ") and world.here() == {"a": b"a", "b": b"b"}


def test_a_file_removed_after_a_partial_restore_stays_removed(world: World) -> None:
    """The archiver was stopped between deletes, and the folder was restored. Only when it is due again, its present content is archived."""
    for name in "abc":
        world.put(name, name.encode())
    world.faults.plan = {(f"delete {SOURCE}", 3): "kill before"}
    with pytest.raises(Killed):
        world.apply()
    world.faults.plan, world.faults.is_dead = {}, False
    world._take_lease_of_the_dead()
    assert sorted(world.here()) == ["b", "c"] and bring_back(world).objects == 1
    del world.source.objects[f"{PREFIX}/a"]
    world.advance(days=30)
    written = set(world.archive.objects)
    assert world.apply(make_item(prefix="1/other", owner_id="other", run_id="other"))[0].state == "nothing"
    assert sorted(world.here()) == ["b", "c"] and set(world.archive.objects) == written
    assert [result.state for result in world.apply()] == ["archived"]
    bring_back(world)
    assert world.here() == {"b": b"b", "c": b"c"} == world.restorable()


def test_a_second_restore_is_not_noted_again(world: World) -> None:
    """The note is not rewritten, because the archive's credentials may not overwrite it."""
    world.put("a", b"a")
    world.apply()
    bring_back(world)
    world.source.objects.clear()
    [noted] = [kept.modified for key, kept in world.archive.objects.items() if key.endswith(RETURNED_NAME)]
    world.archive.renew = world.archive.set_class = None  # type: ignore[assignment,method-assign]
    result = bring_back(world)
    assert (result.objects, result.notes) == (1, []) and world.here() == {"a": b"a"}
    assert [kept.modified for key, kept in world.archive.objects.items() if key.endswith(RETURNED_NAME)] == [noted]
    del world.source.objects[f"{PREFIX}/a"]
    world.put("b", b"b")
    world.apply()
    bring_back(world)
    assert world.here() == {"b": b"b"}


def test_notices_sent_before_a_restore_no_longer_count(world: World) -> None:
    """This holds whether or not the store is measured again before the next plan."""
    world.put("a", b"a")
    world.apply()
    item, other = make_item(), make_item(prefix="1/run2/artifacts")
    rows = [{"item_key": key, "policy_digest": "0" * 8, "owner": None, "objects": 1, "bytes": 1} for key in (item.key, other.key)]
    record_notice(world.records, Notice("n", ("a@acme.com",), rows, {row["item_key"]: 1 for row in rows}), world.now)
    record_deliveries(world.records, lambda notice_id: Received(world.now, False))
    announced = read_announcements(world.records, Recipients(frozenset({"acme.com"})))
    assert all(announced[row["item_key"]].covers(row) for row in rows)
    bring_back(world)
    announced = read_announcements(world.records, Recipients(frozenset({"acme.com"})))
    assert [announced[row["item_key"]].covers(row) for row in rows] == [False, True]


def test_a_partly_restored_archive_still_counts(world: World) -> None:
    """Another file is in the place of an archived one. The archived one may still be needed, so the archive does not count as restored."""
    for name in "ab":
        world.put(name, name.encode())
    world.apply()
    world.put("a", b"another", world.now)
    assert len(bring_back(world).problems) == 1
    assert not [key for key in world.archive.objects if key.endswith(RETURNED_NAME)]
    assert ArchiveRecords(world.records).all()[0].restored_at is None


def test_a_restore_may_be_killed_anywhere(world: World) -> None:
    """The restore is killed once at each call of a store or a record. The next restore brings everything back and records it."""
    for name in "ab":
        world.put(name, name.encode())
    world.apply()
    kept = {uri: dict(store.objects) for uri, store in world.stores.items()}
    records = dict(world.records.values)
    for call in range(1, 60):
        for uri, store in world.stores.items():
            store.objects = dict(kept[uri])
        world.records.values = dict(records)
        world.faults.plan, world.faults.calls = {call: "kill after"}, 0
        try:
            bring_back(world)
            break
        except Killed:
            world.faults.plan, world.faults.is_dead = {}, False
            world._take_lease_of_the_dead()
        result = bring_back(world)
        assert (result.problems, result.notes, world.here()) == ([], [], {"a": b"a", "b": b"b"}), call
        assert f"{PREFIX}/{NOTE_NAME}" not in world.source.objects
        assert ArchiveRecords(world.records).all()[0].restored_at is not None
        assert [key for key in world.archive.objects if key.endswith(RETURNED_NAME)]
    assert 10 < call < 59


def test_a_restore_reads_back_what_it_wrote(world: World) -> None:
    """Runspend reports a store that keeps other bytes, and the archive does not count as restored."""
    for name in "ab":
        world.put(name, name.encode())
    world.apply()
    world.faults.plan = {(f"write {SOURCE}", 1): "flipped"}
    world.faults.made.clear()
    [problem] = bring_back(world).problems
    assert problem.startswith(
        "cannot restore '1/run1/artifacts/a' to s3://source/root/: the object that was read back differs from the archived one"
    )
    assert not [key for key in world.archive.objects if key.endswith(RETURNED_NAME)]


def test_an_archive_that_may_not_be_written_is_restored_and_says_so(world: World) -> None:
    world.put("a", b"a")
    world.apply()
    world.faults.plan = {(f"write {ARCHIVE}", 1): "refused"}
    world.faults.made.clear()
    result = bring_back(world)
    assert world.here() == {"a": b"a"} and len(result.notes) == 1 and result.notes[0].startswith("cannot record the restore in ")


def test_a_restored_archive_may_expire(world: World) -> None:
    """The record of a restore does not make the archive younger."""
    world.put("a", b"a")
    world.apply()
    world.advance(days=300)
    bring_back(world)
    world.advance(days=100)
    [found] = find_archives(world.archive)
    assert [result.state for result in world.apply(make_item(action="delete", store=ARCHIVE, prefix=found.folder))] == ["deleted"]
    assert {key.rpartition("/")[2] for key in world.archive.objects} == {RETURNED_NAME, "deleted.json"}


# --- reports and counts ---------------------------------------------------------------------------------------------------


class Words:
    """MLflow's side: the tags that were written, and whether MLflow answers."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.tagged: list[tuple[str, str]] = []
        self.refuses: str | None = None
        for name in ("archived", "restored"):
            monkeypatch.setattr(telling.MlflowWriter, name, self._listen(name))
        monkeypatch.setattr(telling.MlflowWriter, "restore_run", lambda teller, owner: None)

    def _listen(self, name: str) -> Any:
        def heard(teller: Any, owner: Any, text: str) -> str | None:
            if self.refuses is None:
                self.tagged.append((name, owner.owner_id))
            return self.refuses

        return heard


@pytest.fixture
def words(monkeypatch: pytest.MonkeyPatch) -> Words:
    return Words(monkeypatch)


def given(tmp_path: Path) -> tuple[Settings, Records]:
    return Settings.model_validate({"home": str(tmp_path), "tracking": [{"name": "prod", "uri": "http://127.0.0.1:1"}]}), Records(tmp_path)


def record_archived(records: Records, run: str, days: int = 0, **changes: Any) -> Archive:
    archive = replace(
        new_archive(make_item(owner_id=run, run_id=run, prefix=f"1/{run}"), ARCHIVE, START.replace(day=1 + days)),
        state="archived",
        objects=2,
        bytes=20,
        **changes,
    )
    return ArchiveRecords(records).save(archive)


def test_a_tag_that_mlflow_does_not_take_is_retried_and_reported_once(tmp_path: Path, words: Words) -> None:
    settings, records = given(tmp_path)
    for number in range(5):
        record_archived(records, f"run{number}")
    words.refuses = "prod: MLflow was not told of it: 503"
    assert tag_archived(settings, records) == [words.refuses] * 3 + ["and 2 more that MLflow does not show"]
    record_archived(records, "run5")
    assert tag_archived(settings, records) == [words.refuses]  # only the new failure
    assert tag_archived(settings, records) == []
    words.refuses = None
    assert tag_archived(settings, records) == []
    assert sorted(words.tagged) == [("archived", f"run{number}") for number in range(6)]
    assert tag_archived(settings, records) == [] and len(words.tagged) == 6


def test_a_restored_run_is_tagged_later_too(tmp_path: Path, words: Words) -> None:
    """The server was down when the run was restored. Later, Runspend does not tag the run as archived, although that tag is missing too."""
    settings, records = given(tmp_path)
    old, new = record_archived(records, "run1"), record_archived(records, "run1", days=1)
    words.refuses = "prod: MLflow was not told of it: 503"
    assert len(tag_archived(settings, records)) == 1
    ArchiveRecords(records).save(replace(old, restored_at=START.isoformat()))
    ArchiveRecords(records).save(replace(new, restored_at=START.isoformat()))
    assert tag_restored(settings, records, "run1") == [words.refuses]
    words.refuses = None
    assert tag_archived(settings, records) == [] and words.tagged == [("restored", "run1")]
    ArchiveRecords(records).save(replace(new, restored_at=START.replace(day=28).isoformat()))
    assert tag_restored(settings, records, "run1") == [] and words.tagged == [("restored", "run1")] * 2


def test_an_older_archive_is_not_tagged_in_place_of_a_newer_one(tmp_path: Path, words: Words) -> None:
    settings, records = given(tmp_path)
    record_archived(records, "run1")
    record_archived(records, "run1", days=1)
    assert tag_archived(settings, records) == [] and words.tagged == [("archived", "run1")]


class NothingMeasured:
    """A warehouse without measured stores."""

    def query(self, sql: str, parameters: Any = None) -> Any:
        return self

    def to_pylist(self) -> list[dict[str, Any]]:
        return []


def test_expired_archives_are_not_part_of_the_total(tmp_path: Path) -> None:
    """Caps are a share of the archive store. If it is not measured, its archives count, except those that a policy deleted."""
    _, records = given(tmp_path)
    gone = record_archived(records, "run1")
    record_archived(records, "run2")
    reader: Any = NothingMeasured()
    assert read_known(reader, records)[ARCHIVE].objects == 4
    expired = new_archive(make_item(action="delete", store=ARCHIVE, prefix=gone.folder), None, START)
    ArchiveRecords(records).save(replace(expired, state="open"))
    assert read_known(reader, records)[ARCHIVE].objects == 4
    ArchiveRecords(records).save(replace(expired, state="deleted", objects=3))
    assert (read_known(reader, records)[ARCHIVE].objects, read_known(reader, records)[ARCHIVE].bytes) == (2, 20)
    assert SOURCE not in read_known(reader, records)
