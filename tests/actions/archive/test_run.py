"""One run of the archive: what it does and what stops it. After an interruption anywhere, another run completes the work."""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from dataclasses import replace
from datetime import datetime, timedelta, timezone
from typing import Any

import pytest

from runspend.actions.archive.archive_records import ArchiveRecords
from runspend.actions.archive.context import Result, Tools
from runspend.actions.archive.items import ARCHIVE_FOLDER, NOTE_NAME, Item
from runspend.actions.archive.protection_watch import ANSWER_SECONDS, ProtectionWatch
from runspend.actions.archive.restore import restore
from runspend.actions.archive.run import StoreTotals
from runspend.actions.archive.verify import verify
from runspend.core.errors import CapPassed, LeaseLost, NotDone, SourceRefused, SourceUnreachable, UsageError
from runspend.ingest.tracking.in_use.model_uses import TRUSTED_SECONDS
from tests.archive_world import ARCHIVE, KINDS, PREFIX, SOURCE, Killed, World, make_item
from tests.memory_records import MemoryRecords

FILES = {"model/MLmodel": b"flavors: {}\n", "model/weights.bin": b"w" * 3000, "notes ü.txt": b"", "empty/": b"", "copy.bin": b"w" * 3000}


@pytest.fixture
def world(world: World) -> World:
    for name, body in FILES.items():
        world.put(name, body)
    return world


def states(world: World, *items: Item, **options: Any) -> list[tuple[str, str | None]]:
    return [(result.state, result.reason) for result in world.apply(*items, **options)]


def test_moves_a_run_and_leaves_a_note(world: World) -> None:
    world.put("x", b"mine", prefix="1/run10/artifacts")
    assert states(world) == [("archived", None)]
    assert world.here() == {} and world.restorable() == FILES
    assert world.here("1/run10/artifacts") == {"x": b"mine"}
    note = world.source.objects[f"{PREFIX}/{NOTE_NAME}"].body.decode()
    assert note.startswith("Archived by Runspend.\n") and "runspend archive restore run1" in note
    assert f"{ARCHIVE}{ARCHIVE_FOLDER}/prod/1/run1/" in note and "The 5 files" in note and "(6,012 bytes)" in note


def test_a_file_that_only_begins_like_the_note_is_archived(world: World) -> None:
    body = b"Archived by Runspend.\nMy thesis, in a file of this name.\n"
    world.put(NOTE_NAME, body)
    assert states(world)[0][0] == "archived"
    assert world.restorable() == {**FILES, NOTE_NAME: body}


def test_a_folder_with_more_than_was_announced_stays(world: World) -> None:
    """Someone copied files with old times into the folder after it was last measured."""
    files, size = sum(not name.endswith("/") for name in FILES), sum(map(len, FILES.values()))
    item = make_item(objects=files, bytes=size)
    world.put("brought", b"old, and new here")
    (state, reason), *_ = states(world, item)
    assert state == "protected" and reason is not None and reason.startswith(f"it has {files + 1} objects")
    assert world.here() == {**FILES, "brought": b"old, and new here"}
    del world.source.objects[f"{PREFIX}/brought"]
    world.may_delete = False
    assert states(world, item)[0][0] == "copied"
    world.put("brought", b"old, and new here")
    world.may_delete = True
    assert states(world, item)[0][0] == "protected" and world.here() == {**FILES, "brought": b"old, and new here"}


@pytest.mark.parametrize("anew", [{"objects": 5, "bytes": 9_000}, {"objects": 5, "bytes": 9_000, "policy_digest": "1" * 8}])
@pytest.mark.parametrize("is_cut", [False, True])
def test_a_move_that_was_announced_again_goes_on(world: World, anew: dict[str, Any], is_cut: bool) -> None:
    """The move began under an earlier notice, which no longer limits it."""
    first = make_item(objects=4, bytes=6_012)
    protects = lambda item: None if item.policy_digest == anew.get("policy_digest", "0" * 8) else "another policy"  # noqa: E731
    world.may_delete = is_cut
    world.faults.plan = {(f"delete {SOURCE}", 3): "kill before"} if is_cut else {}
    with pytest.raises(Killed) if is_cut else nullcontext():
        world.apply(first)
    world.faults.plan, world.faults.is_dead = {}, False
    world._take_lease_of_the_dead()
    world.may_delete = True
    for number in range(3):
        world.put(f"brought{number}", b"b" * 900)
    assert states(world, first)[0][0] == "protected"
    assert states(world, make_item(**anew | {"objects": 7}), protects=protects) == [("archived", None)]
    assert world.here() == {} and world.restorable() == {**FILES, **{f"brought{number}": b"b" * 900 for number in range(3)}}


def test_an_archive_with_a_new_destination_starts_again_unless_deletion_began(world: World) -> None:
    """Runspend uses the class that the policy names now, not the one that was announced before."""
    world.protection = "legal hold"
    assert states(world, make_item(action="tier", to="GLACIER_IR")) == [("protected", "legal hold")]
    world.protection = None
    assert states(world, make_item(action="tier", to="STANDARD_IA", policy_digest="1" * 8)) == [("tiered", None)]
    assert {kept.storage_class for kept in world.source.objects.values() if kept.body} == {"STANDARD_IA"}


def test_a_folder_that_changes_at_each_delete_is_not_archived(world: World) -> None:
    """Hard links on a disk behave like this: removing one changes the times of the others."""
    delete = world.source.delete

    def touched(obj: Any) -> None:
        if obj.key.endswith("copy.bin"):
            world.put("copy.bin", FILES["copy.bin"])
        delete(obj)

    world.source.delete = touched  # type: ignore[method-assign]
    assert states(world)[0][0] == "partial"
    assert states(world) == [("partial", "'copy.bin' keeps changing; nothing more was deleted")]
    assert world.here() == {"copy.bin": FILES["copy.bin"]} and f"{PREFIX}/{NOTE_NAME}" not in world.source.objects


def test_a_protection_halfway_names_the_command_to_restore(world: World) -> None:
    world.faults.plan = {}
    world.apply_faulty({(f"delete {SOURCE}", 3): "kill before"})
    gone = len(FILES) - len(world.here())
    assert gone
    world.protection = "alias champion on fraud/7"
    other = make_item(owner_id="run2", run_id="run2", prefix="1/run2/artifacts")  # run1 is no longer due, but is still reported
    assert states(world, other)[:1] == [
        (
            "protected",
            f"alias champion on fraud/7. {gone} of its 5 objects are only in the archive. To restore them: runspend archive restore run1",
        )
    ]


def test_equal_files_are_kept_once(world: World) -> None:
    world.apply()
    copies = [key for key in world.archive.objects if "/data/" in key]
    assert len(copies) == 3, copies


def test_does_nothing_the_second_time(world: World) -> None:
    world.apply()
    assert states(world) == [("nothing", "its folder has no objects to act on")]
    assert world.changes_made == 0


def test_no_byte_is_deleted_before_the_manifest_is_there(world: World) -> None:
    seen = []

    def look() -> None:
        if any(what.startswith("delete") for what in world.faults.made) and not seen and len(world.here()) < len(FILES):
            seen.append(world.restorable())

    world.faults.after = look
    world.apply()
    assert seen == [FILES]


# --- what stops it -----------------------------------------------------------------------------------------------------


def test_protected_runs_stay(world: World) -> None:
    world.protection = "alias champion on fraud/7"
    assert states(world) == [("protected", "alias champion on fraud/7")]
    assert world.here() == FILES
    world.protection = None
    assert states(world) == [("archived", None)]


@pytest.mark.parametrize("error", [SourceUnreachable("prod", "no answer"), ConnectionResetError("reset")])
def test_a_question_that_fails_protects(world: World, error: Exception) -> None:
    def protects(item: Item) -> str | None:
        raise error

    [(state, reason)] = states(world, protects=protects)
    assert state == "protected" and reason is not None and reason.startswith("whether anything protects it is unknown")
    assert world.here() == FILES


class Ticking:
    """The machine's clock, which advances only when a test does so."""

    def __init__(self) -> None:
        self.seconds = 1e6

    def monotonic(self) -> float:
        return self.seconds


@pytest.fixture
def ticking(monkeypatch: pytest.MonkeyPatch) -> Ticking:
    clock = Ticking()
    monkeypatch.setattr("runspend.actions.archive.protection_watch.time", clock)
    return clock


def slow_change(world: World, store: str, change: str, ticking: Ticking, seconds: float) -> list[float]:
    """Make each change of a store take this long. Return the times of the changes."""
    made: list[float] = []
    target = world.stores[store]
    before = getattr(target, change)

    def slow(*args: Any) -> Any:
        made.append(ticking.seconds)
        ticking.seconds += seconds
        return before(*args)

    setattr(target, change, slow)
    return made


@pytest.mark.parametrize(("seconds", "questions"), [(0.0, 1), (0.1, 3), (1.0, 21), (2.9, 31), (3.0, 62), (60.0, 62)])
def test_nothing_is_deleted_on_an_answer_of_more_than_a_few_seconds(world: World, ticking: Ticking, seconds: float, questions: int) -> None:
    """One question to MLflow covers all deletes within three seconds. If each delete takes longer, Runspend asks before each.

    Nothing is deleted before everything has a copy.
    """
    for number in range(57):
        world.put(f"many/{number}", b"%d" % number)
    deleted = slow_change(world, SOURCE, "delete", ticking, seconds)
    asked: list[float] = []

    def protects(item: Item) -> str | None:
        assert len(world.restorable()) == 62
        asked.append(ticking.seconds)
        return None

    assert states(world, protects=protects) == [("archived", None)]
    deleted = deleted[1:]  # the first delete only tests whether the store respects conditions
    assert len(deleted) == 62
    assert all(any(0 <= moment - put < ANSWER_SECONDS for put in asked) for moment in deleted)
    assert len(asked) <= questions + 1


def test_protected_half_way_stops_it_in_the_middle_of_a_thousand(world: World, ticking: Ticking) -> None:
    """One answer allows hundreds of deletes. The objects that are left when the next answer arrives stay."""
    for number in range(2500):
        world.put(f"many/{number}", b"%d" % number)
    slow_change(world, SOURCE, "delete", ticking, 0.01)
    asked = []

    def protects(item: Item) -> str | None:
        asked.append(len(world.here()))
        return "tagged keep" if len(asked) == 4 else None

    assert states(world, protects=protects) == [
        ("protected", "tagged keep. 899 of its 2,505 objects are only in the archive. To restore them: runspend archive restore run1")
    ]
    assert asked == [2505, 2206, 1906, 1606]
    assert world.apply()[0].state == "archived" and world.restorable().items() >= FILES.items()


def test_an_answer_that_takes_too_long_protects(world: World, ticking: Ticking) -> None:
    """An answer is as old as its question. Runspend asks a second time, and deletes nothing if that is slow too."""
    took = iter([60.0, 1.0, 60.0, 60.0])

    def protects(item: Item) -> str | None:
        ticking.seconds += next(took)
        return None

    assert states(world, protects=protects) == [("archived", None)]
    world.put("later", b"x")
    [(state, reason)] = states(world, protects=protects)
    assert (
        state == "protected"
        and reason is not None
        and reason.startswith("whether anything protects it is unknown: the answer took 60.0 seconds")
    )
    assert world.here() == {"later": b"x"} and next(took, None) is None


def test_threads_share_one_answer(ticking: Ticking) -> None:
    """Eight threads that delete at the same time share one answer, and a protection is remembered."""
    asked = []

    def ask() -> None:
        asked.append(1)

    watch = ProtectionWatch(ask)
    with ThreadPoolExecutor(8) as pool:
        assert set(pool.map(lambda _: watch.reason(), range(100))) == {None}
        assert len(asked) == 1
        ticking.seconds += ANSWER_SECONDS
        assert set(pool.map(lambda _: watch.reason(), range(100))) == {None}
    assert len(asked) == 2
    answers = iter([None, "tagged keep", None])
    watch = ProtectionWatch(lambda: next(answers))
    found = []
    for _ in range(4):
        found.append(watch.reason())
        ticking.seconds += ANSWER_SECONDS
    assert found == [None, "tagged keep", "tagged keep", "tagged keep"]


def test_a_delete_needs_an_answer_of_the_last_five_seconds() -> None:
    """The limit is the one in docs/archive.md."""
    assert ANSWER_SECONDS + TRUSTED_SECONDS == 5


def test_without_credentials_everything_is_done_but_the_delete(world: World) -> None:
    world.may_delete = False
    [(state, reason)] = states(world)
    assert state == "copied" and reason is not None and "delete_credentials" in reason
    assert world.here() == FILES and world.restorable() == FILES
    world.may_delete = True
    assert states(world) == [("archived", None)]
    assert world.faults.made[f"write {ARCHIVE}"] == 0, "what was copied is not copied again"


def test_objects_younger_than_the_margin_stay(world: World) -> None:
    world.put("model/new.bin", b"new", world.now - timedelta(days=6, hours=23))
    [(state, reason)] = states(world)
    assert state == "protected" and reason == "'model/new.bin' was written 2026-11-18T07:00: it is younger than `archive.margin`"
    world.advance(hours=2)
    assert states(world) == [("archived", None)]


CAPS = [
    ({"max_objects": 4}, "cannot act on 5 objects: `archive.max_objects` is 4"),
    ({"max_bytes": 6011}, "cannot act on 6,012 bytes: `archive.max_bytes` is 6,011"),
    ({"max_percent": "49%"}, "cannot act on 5 of 10 objects in s3://source/root/: `archive.max_percent` allows 4"),
]


@pytest.mark.parametrize(("caps", "reported"), CAPS)
def test_a_cap_stops_everything_before_anything(caps: dict[str, Any], reported: str) -> None:
    world = World(**caps)
    for name, body in FILES.items():
        world.put(name, body)
    with pytest.raises(CapPassed, match="Nothing was moved or deleted") as raised:
        world.apply(known=lambda uri: StoreTotals(10, 20_000))
    assert str(raised.value).startswith(reported) and raised.value.wanted > raised.value.allowed and raised.value.exit_code == 4
    assert world.archive.objects == {} and world.here() == FILES


@pytest.mark.parametrize(("caps"), [{"max_objects": 5}, {"max_bytes": 6012}, {"max_percent": "50%"}])
def test_a_cap_that_is_just_met_stops_nothing(caps: dict[str, Any]) -> None:
    world = World(**caps)
    for name, body in FILES.items():
        world.put(name, body)
    assert world.apply(known=lambda uri: StoreTotals(10, 20_000))[0].state == "archived"


def test_two_items_share_the_caps() -> None:
    world = World(max_objects=3)
    for run in ("run1", "run2"):
        world.put("a", b"1", prefix=f"1/{run}/artifacts")
        world.put("b", b"2", prefix=f"1/{run}/artifacts")
    items = [make_item(run_id=run, owner_id=run, prefix=f"1/{run}/artifacts") for run in ("run1", "run2")]
    with pytest.raises(CapPassed, match="cannot act on 4 objects"):
        world.apply(*items)


def test_a_store_that_was_not_measured_is_not_touched(world: World) -> None:
    with pytest.raises(CapPassed, match="its size is unknown"):
        world.apply(known=lambda uri: None)
    assert world.archive.objects == {}


@pytest.mark.parametrize("minutes", [-6, 6])
def test_clocks_that_differ_stop_it(world: World, minutes: int) -> None:
    world.archive.clock = lambda: world.now + timedelta(minutes=minutes)  # type: ignore[method-assign]
    with pytest.raises(SourceRefused, match="Correct the clocks"):
        world.apply()
    assert world.here() == FILES and world.archive.objects == {}


def test_a_time_that_is_to_come_stops_it(world: World) -> None:
    with pytest.raises(SourceRefused, match="that is in the future"):
        states(world, now=world.now + timedelta(days=365))
    assert world.archive.objects == {}


PLACES = [
    {"prefix": ""}, {"prefix": "1/../2"}, {"prefix": "1//2"}, {"prefix": "1/run1/"}, {"prefix": "/1"}, {"prefix": "1/%2e%2e/2"}, {"prefix": "a\\b"},
    {"store": "s3://elsewhere/"}, {"store": "/etc", "prefix": "ssh"}, {"to": "s3://elsewhere/"}, {"prefix": ARCHIVE_FOLDER}, {"prefix": "runspend-archive"},
    {"store": ARCHIVE, "prefix": "runspend-archive/v1/prod"}, {"action": "delete"}, {"action": "delete", "store": ARCHIVE, "prefix": ARCHIVE_FOLDER},
    {"action": "delete", "store": ARCHIVE, "prefix": f"{ARCHIVE_FOLDER}/prod/1/run1"}, {"action": "delete", "store": ARCHIVE, "prefix": f"{ARCHIVE_FOLDER}/prod/1/run1/../x"},
]  # fmt: skip


@pytest.mark.parametrize("place", PLACES)
def test_nothing_outside_a_runs_own_folder_is_changed(world: World, place: dict[str, Any]) -> None:
    [(state, reason)] = states(world, make_item(**place))
    assert state == "failed" and reason is not None and reason.startswith("cannot ")
    assert not [what for what in world.faults.made if not what.startswith("record")], world.faults.made


def test_an_archive_inside_the_folder_is_refused(world: World) -> None:
    world.settings = world.settings.model_copy(update={"archive": world.settings.archive.model_copy(update={"to": SOURCE})})
    world.source.put(f"{PREFIX}/x", b"x")
    [(state, reason)] = states(world, make_item(to=SOURCE, prefix="runspend-archive/v1"))
    assert state == "failed" and reason is not None and "it is the archive itself" in reason


@pytest.mark.parametrize("name", ["a\\b", "a\nb", "..", "a/../b", "a//b", "%2e%2e/x", "x" * 256, "\u2028", "a/\x85"])
def test_a_name_that_could_not_be_restored_keeps_its_run_in_place(world: World, name: str) -> None:
    world.put(name, b"odd")
    [(state, reason)] = states(world)
    assert state == "failed" and reason is not None and "cannot be restored" in reason
    assert world.here() == {**FILES, name: b"odd"} and world.archive.objects == {}


def test_one_bad_item_stops_no_other() -> None:
    world = World()
    items = []
    for number in range(100):
        world.put("a", b"%d" % number, prefix=f"1/run{number}/artifacts")
        items.append(make_item(run_id=f"run{number}", owner_id=f"run{number}", prefix=f"1/run{number}/artifacts"))
    world.put("a\\b", b"poison", prefix="1/run7/artifacts")
    results = world.apply(*items)
    assert [result.state for result in results] == ["failed" if number == 7 else "archived" for number in range(100)]
    assert world.here("1/run7/artifacts") == {"a": b"7", "a\\b": b"poison"}


def test_a_store_that_ignores_conditions_keeps_everything(world: World) -> None:
    world.source._same = lambda obj: None  # type: ignore[method-assign]
    [(state, reason)] = states(world)
    assert state == "failed" and reason is not None and "it ignores the condition of a delete" in reason
    assert len(world.here()) == len(FILES) - 1 and world.restorable() == FILES  # the object of that test has a copy
    assert world.apply()[0].state == "failed" and len(world.here()) == len(FILES) - 2


def test_a_store_that_only_claims_to_delete(world: World) -> None:
    world.faults.plan = {(f"delete {SOURCE}", number): "lie" for number in range(3, 9)}
    [(state, reason)] = states(world)
    assert state == "partial" and reason is not None and reason.startswith("4 of 5 objects are still in their original place.")
    world.faults.plan = {}
    assert states(world) == [("archived", None)]


def test_copies_that_never_arrive_whole(world: World) -> None:
    world.faults.plan = {(f"write {ARCHIVE}", number): "flipped" for number in range(1, 100)}
    [(state, reason)] = states(world)
    assert state == "partial" and reason is not None and "differ from what was written" in reason
    assert world.here() == FILES


@pytest.mark.parametrize("number", [1, 2, 3])
@pytest.mark.parametrize("damage", ["flipped", "short"])
def test_one_copy_of_many_that_arrives_damaged_is_copied_again(world: World, number: int, damage: str) -> None:
    del world.source.objects[f"{PREFIX}/notes ü.txt"], world.source.objects[f"{PREFIX}/empty/"]
    world.put("notes ü.txt", b"no empty one: that would grow")
    world.faults.plan = {(f"write {ARCHIVE}", number): damage}
    assert states(world) == [("archived", None)]
    assert world.restorable() == {name: body or b"no empty one: that would grow" for name, body in FILES.items() if name != "empty/"}
    assert any(key.endswith(("-1", "manifest-2.jsonl")) for key in world.archive.objects)


def test_one_object_that_cannot_be_copied_keeps_the_whole_run_in_place(world: World) -> None:
    world.faults.plan = {(f"write {ARCHIVE}", 1): "refused"}
    [(state, reason)] = states(world)
    assert state == "partial" and reason is not None and "nothing more was deleted" in reason
    assert world.here() == FILES and world.faults.made[f"delete {SOURCE}"] == 0
    world.faults.plan = {}
    assert states(world) == [("archived", None)]


def test_a_copy_that_changed_after_it_was_verified_is_made_again(world: World) -> None:
    world.may_delete = False
    world.apply()
    key = next(key for key, kept in world.archive.objects.items() if kept.body == FILES["model/MLmodel"])
    world.archive.put(key, b"flavors: []\n")
    world.may_delete = True
    [(state, _)] = states(world)
    assert state == "partial" and world.here() == {"model/MLmodel": FILES["model/MLmodel"]}
    assert states(world) == [("archived", None)] and world.restorable() == FILES


def test_a_file_written_between_copy_and_delete_is_kept_and_reported(world: World) -> None:
    def write() -> None:
        if any(what.startswith("list") and ARCHIVE in what for what in world.faults.made):
            world.faults.after = lambda: None
            world.put("model/MLmodel", b"new", world.now)

    world.faults.after = write
    [(state, reason)] = states(world)
    assert state == "partial" and reason == "1 of 5 objects are still in their original place. it was written again after it was copied"
    assert world.here() == {"model/MLmodel": b"new"}


def test_objects_deleted_before_the_copy_are_in_no_archive(world: World) -> None:
    """So no note refers to an archive without the file."""
    read = world.source.read

    def gone(obj: Any) -> Any:
        world.source.objects.clear()
        return read(obj)

    world.source.read = gone  # type: ignore[method-assign]
    assert states(world) == [("nothing", None)]
    assert [(archive.state, archive.reason) for archive in ArchiveRecords(world.records).all()] == [
        ("partial", "everything was gone before it was copied")
    ]
    assert world.archive.objects == {}


# --- interrupted -------------------------------------------------------------------------------------------------------


def clean(world: World) -> list[list[tuple[str, str | None]]]:
    """Check that two undisturbed runs finish the work, and that a third does nothing."""
    reported = [states(world) for _ in range(2)]
    assert world.here() == {} and world.restorable() == FILES, reported
    world.apply()
    assert world.changes_made == 0, reported
    return reported


def calls_of_a_run() -> int:
    world = World()
    for name, body in FILES.items():
        world.put(name, body)
    world.apply()
    world.close()
    return world.faults.calls


@pytest.mark.parametrize("kind", KINDS)
def test_every_fault_at_every_call_loses_nothing(kind: str) -> None:
    """The process is killed, refused, not answered or given a false reply, at every call of the first run and at one of the second."""
    for call in range(1, calls_of_a_run() + 1):
        world = World()
        for name, body in FILES.items():
            world.put(name, body)

        def whole(world: World = world) -> None:
            here = world.here()
            assert FILES.items() <= here.items() or FILES.items() <= {**world.restorable(), **here}.items()

        world.faults.after = whole
        world.apply_faulty({call: kind})
        world.apply_faulty({call // 2 + 1: kind})
        clean(world)
        world.close()


def test_a_rewrite_at_every_call_is_kept() -> None:
    """A user rewrites an object between any two calls. The new bytes are never lost, and not deleted while they are new."""
    for call in range(1, calls_of_a_run() + 1):
        world = World()
        for name, body in FILES.items():
            world.put(name, body)

        def write(world: World = world, call: int = call) -> None:
            if world.faults.calls >= call:
                world.faults.after = lambda: None
                world.put("model/weights.bin", b"new", world.now)

        world.faults.after = write
        world.apply()
        assert world.here()["model/weights.bin"] == b"new", call
        [result] = world.apply()
        assert result.state in ("protected", "archived", "nothing") and world.here()["model/weights.bin"] == b"new", (call, result)
        world.advance(days=8)
        world.apply()
        world.apply()
        assert world.here() == {} and world.restorable() == {**FILES, "model/weights.bin": b"new"}, call
        world.close()


def test_a_protection_at_every_call_is_respected() -> None:
    """A protection that appears at any moment counts from the next question on. One question precedes the first delete."""
    for call in range(1, calls_of_a_run() + 1):
        world = World()
        for name, body in FILES.items():
            world.put(name, body)
        asked: list[int] = []

        def protects(item: Item, world: World = world, asked: list[int] = asked, call: int = call) -> str | None:
            asked.append(world.faults.calls)
            return "pinned" if world.faults.calls >= call else None

        [result] = world.apply(protects=protects)
        assert (result.state == "protected") == (call <= asked[0]), call
        assert result.state == "archived" or world.here() == FILES, call
        world.close()


def test_a_second_archiver_does_not_begin(world: World) -> None:
    world.records.values["archive_lease", "lease"] = (
        {
            "number": 4,
            "until": (datetime.now(timezone.utc) + timedelta(minutes=5)).isoformat(),
            "host": "elsewhere",
            "process": 1,
            "machine": "another",
            "began": "1",
        },
        "token",
    )
    with pytest.raises(LeaseLost, match="process 1 on elsewhere is archiving"):
        world.apply()
    assert not world.faults.made


def test_an_archiver_that_lost_its_lease_changes_nothing(world: World) -> None:
    """Another archiver takes over at each call. The first one makes no change after that."""
    for call in range(1, calls_of_a_run() + 1):
        world = World()
        for name, body in FILES.items():
            world.put(name, body)
        before: list[Any] = []

        def take_over(world: World = world, call: int = call, before: list[Any] = before) -> None:
            if world.faults.calls >= call:
                world.faults.after = lambda: None
                found, token = world.records.values["archive_lease", "lease"]
                world.records.values["archive_lease", "lease"] = {**found, "number": found["number"] + 1}, token + "'"
                before.extend([dict(world.source.objects), dict(world.archive.objects), dict(world.records.values)])

        world.faults.after = take_over
        try:
            world.apply()
        except LeaseLost:
            assert before == [world.source.objects, world.archive.objects, world.records.values], call
        else:
            assert call >= calls_of_a_run() - 1, call
        world.close()


def test_work_done_before_the_lease_was_lost_is_reported() -> None:
    """If the lease is lost at any call, finished items are reported once, and unfinished ones are not."""
    items = [make_item(run_id=run, owner_id=run, prefix=f"1/{run}/artifacts") for run in ("run1", "run2", "run3")]

    def one(call: int) -> tuple[list[Result], set[str], bool]:
        world = World()
        for item in items:
            world.put("a", b"1", prefix=item.prefix)

        def take_over() -> None:
            if world.faults.calls >= call:
                world.faults.after = lambda: None
                found, token = world.records.values["archive_lease", "lease"]
                world.records.values["archive_lease", "lease"] = {**found, "number": found["number"] + 1}, token + "'"

        world.faults.after = take_over
        reported: list[Result] = []
        is_lost = False
        try:
            world.apply(*items, tell=reported.append)
        except LeaseLost:
            is_lost = True
        whole = {archive.item.owner_id for archive in ArchiveRecords(world.records).all() if archive.state == "archived"}
        world.close()
        return reported, whole, is_lost

    counts = set()
    for call in range(1, 400):
        reported, whole, is_lost = one(call)
        assert [result.archive.item.owner_id for result in reported] == sorted(whole) and all(
            result.state == "archived" for result in reported
        ), call
        counts.add((len(reported), is_lost))
        if not is_lost:
            break
    assert counts >= {(0, True), (1, True), (2, True), (3, False)}


def test_items_that_cannot_begin_are_reported_before_a_cap_stops_the_rest() -> None:
    """Items whose names could not be restored are reported even if the run is stopped by a cap."""
    world = World(max_objects=1)
    world.put("a\\b", b"poison", prefix="1/run2/artifacts")
    for name in "ab":
        world.put(name, b"1")
    reported: list[Result] = []
    with pytest.raises(CapPassed):
        world.apply(make_item(), make_item(run_id="run2", owner_id="run2", prefix="1/run2/artifacts"), tell=reported.append)
    assert [(result.archive.item.owner_id, result.state) for result in reported] == [("run2", "failed")]


# --- tier and delete -----------------------------------------------------------------------------------------------------


def test_tiering_changes_the_class_and_moves_nothing(world: World) -> None:
    world.source.objects[f"{PREFIX}/copy.bin"].storage_class = "GLACIER_IR"
    item = make_item(action="tier", to="GLACIER_IR")
    assert states(world, item) == [("tiered", None)]
    assert world.here() == FILES and world.faults.made[f"set_class {SOURCE}"] == 3
    classes = {key.removeprefix(f"{PREFIX}/"): kept.storage_class for key, kept in world.source.objects.items()}
    assert classes == {name: "STANDARD" if name == "empty/" else "GLACIER_IR" for name in FILES}
    assert states(world, item) == [("nothing", "its folder has no objects to act on")]
    assert world.archive.objects == {} and not any(what.startswith(("read", "delete")) for what in world.faults.made)


@pytest.mark.parametrize("kind", ["no reply before", "no reply after", "refused", "lie", "kill before", "kill after"])
def test_interrupted_tiering_continues(kind: str) -> None:
    item = make_item(action="tier", to="GLACIER_IR")
    for call in range(1, 4):
        world = World()
        for name, body in FILES.items():
            world.put(name, body)
        world.faults.plan = {(f"set_class {SOURCE}", call): kind}
        try:
            [result] = world.apply(item)
            assert result.state == ("tiered" if kind == "no reply after" else "partial"), result
        except Killed:
            world._take_lease_of_the_dead()
        world.faults.plan = {}
        assert states(world, item) == [("tiered", None)] if kind != "no reply after" else True
        assert world.here() == FILES


def test_protected_runs_are_not_tiered(world: World) -> None:
    world.protection = "running"
    assert states(world, make_item(action="tier", to="GLACIER_IR")) == [("protected", "running")]
    assert world.faults.made[f"set_class {SOURCE}"] == 0


def expiring(world: World) -> Item:
    [archive] = ArchiveRecords(world.records).all()
    return replace(archive.item, policy="forget", action="delete", store=ARCHIVE, prefix=archive.folder, to=None)


def test_an_archive_is_deleted_only_after_its_retention(world: World) -> None:
    world.apply()
    item = expiring(world)
    world.advance(days=364)
    [(state, reason)] = states(world, item)
    assert state == "protected" and reason is not None and "younger than `archive.retention`" in reason
    assert world.restorable() == FILES
    world.advance(days=2)
    assert states(world, item) == [("deleted", None)]
    assert [key.rpartition("/")[2] for key in world.archive.objects] == ["deleted.json"]
    assert json.loads(world.archive.objects[f"{item.prefix}/deleted.json"].body)["objects"] == 4
    assert states(world, item) == [("nothing", "its folder has no objects to act on")]
    with pytest.raises(UsageError, match="the retention policy 'forget' deleted its 4 objects on 20"):
        restore("run1", world.settings, tools=Tools(open_store=world.open))


def test_a_protected_archive_is_not_deleted(world: World) -> None:
    world.apply()
    item = expiring(world)
    world.advance(days=400)
    world.protection = "legal hold"
    assert states(world, item) == [("protected", "legal hold")]
    world.protection, world.may_delete = None, False
    assert world.apply(item)[0].state == "copied" and world.restorable() == FILES


def protected_from(asked: list[float], number: int, ticking: Ticking) -> Any:
    """Return a function that protects from the nth question on."""

    def protects(item: Item) -> str | None:
        asked.append(ticking.seconds)
        return "legal hold" if len(asked) >= number else None

    return protects


def test_runspend_keeps_asking_while_it_deletes_the_last_copy(world: World, ticking: Ticking) -> None:
    """A hold that is set halfway keeps the remaining objects, and the reason counts the deleted ones."""
    world.apply()
    item = expiring(world)
    world.advance(days=400)
    slow_change(world, ARCHIVE, "delete", ticking, 2.0)
    before = len(world.archive.objects)
    assert states(world, item, protects=protected_from([], 2, ticking)) == [
        ("protected", "legal hold. 1 of its 4 objects were already deleted")
    ]
    assert len(world.archive.objects) == before - 1 + 1  # and one tombstone more
    assert states(world, item) == [("deleted", None)]


def test_runspend_keeps_asking_while_it_changes_a_class(world: World, ticking: Ticking) -> None:
    """Changing the class loses nothing, but a run that is reported as protected must not change."""
    changed = slow_change(world, SOURCE, "set_class", ticking, 2.0)
    assert states(world, make_item(action="tier", to="GLACIER_IR"), protects=protected_from([], 2, ticking)) == [
        ("protected", "legal hold")
    ]
    assert len(changed) == 2


def test_an_archive_that_is_being_deleted_is_not_restored(world: World) -> None:
    world.apply()
    item = expiring(world)
    world.advance(days=400)
    world.faults.plan = {(f"delete {ARCHIVE}", 3): "kill before"}
    with pytest.raises(Killed):
        world.apply(item)
    world.faults.plan, world.faults.is_dead = {}, False
    world._take_lease_of_the_dead()
    with pytest.raises(
        UsageError, match=r"deleted its 4 objects on .*\. If that deletion was stopped halfway, --partial restores the rest"
    ):
        restore("run1", world.settings, tools=Tools(open_store=world.open))
    left = {kept.body for key, kept in world.archive.objects.items() if "/data/" in key}
    restored = restore("run1", world.settings, tools=Tools(open_store=world.open, workers=1), records=world.records, take_damaged=True)
    assert restored.problems and set(world.here().values()) == left
    assert states(world, item) == [("deleted", None)]


def test_the_manifest_stays_while_a_copy_does(world: World) -> None:
    """A copy that the store keeps under a lock can still be restored by its name."""
    world.apply()
    item = expiring(world)
    world.advance(days=400)
    delete = world.archive.delete

    def locked(obj: Any) -> None:
        if obj.size == 3000:
            raise NotDone(ARCHIVE, "it is under a lock")
        delete(obj)

    world.archive.delete = locked  # type: ignore[method-assign]
    assert states(world, item) == [("partial", "2 of 4 objects still exist. it is under a lock")]
    restored = restore("run1", world.settings, tools=Tools(open_store=world.open, workers=1), records=world.records, take_damaged=True)
    assert restored.objects == 2 and set(world.here().values()) == {b"w" * 3000}


def test_an_archive_whose_deletion_never_began_is_brought_back(world: World) -> None:
    """The process was killed after writing the tombstone, and then a hold was set. Everything can be restored."""
    world.apply()
    item = expiring(world)
    world.advance(days=400)
    world.faults.plan = {(f"delete {ARCHIVE}", 2): "kill before"}
    with pytest.raises(Killed):
        world.apply(item)
    world.faults.plan, world.faults.is_dead = {}, False
    world._take_lease_of_the_dead()
    world.protection = "legal hold"
    assert states(world, item) == [("protected", "legal hold")]
    verified = verify(world.settings, world.records, now=world.now, tools=Tools(open_store=world.open, workers=1))
    assert (verified.archives, verified.objects, verified.damaged) == (1, 3, [])
    restored = restore("run1", world.settings, tools=Tools(open_store=world.open, workers=1), records=world.records)
    assert restored.problems == [] and world.here() == FILES


def test_records_of_two_archivers_never_mix() -> None:
    """A record that another process has changed since it was read is not overwritten."""
    records = MemoryRecords()
    world = World()
    world.records = records
    world.put("a", b"a")
    world.apply()
    archive_records = ArchiveRecords(records)
    [archive] = archive_records.all()
    get = records.get

    def changed_meanwhile(kind: str, key: str) -> Any:
        found = get(kind, key)
        records.values[kind, key] = records.values[kind, key][0], "newer"
        return found

    records.get = changed_meanwhile  # type: ignore[method-assign]
    with pytest.raises(LeaseLost, match="another archiver writes the same records"):
        archive_records.save(replace(archive, reason="stale"))
