"""The monthly check of the archive lists everything and reads a sample. It reports damage with all known facts."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Iterator
from decimal import Decimal

import pytest

from runspend.actions.archive.context import Tools
from runspend.actions.archive.verify import Verification, price_of_reading, sample_size, verify, was_whole
from runspend.core.errors import SourceUnreachable
from runspend.storage.objects import StoredObject
from tests.archive_world import ARCHIVE, PREFIX, SOURCE, Kept, World, flipped, make_item

FILES = {f"file {number}": b"%d" % number * 100 for number in range(500)}


@pytest.fixture
def world(world: World) -> World:
    for name, body in FILES.items():
        world.put(name, body)
    assert world.apply()[0].state == "archived"
    return world


def look(world: World, **options: object) -> Verification:
    return verify(
        world.settings, world.records, now=world.now, tools=Tools(open_store=world.open, workers=1), chance=random.Random(1), **options
    )


def copy_of(world: World, body: bytes) -> Kept:
    """Return the copy of some bytes, in any archive."""
    sha256 = hashlib.sha256(body).hexdigest()
    [found] = [kept for key, kept in world.archive.objects.items() if key.endswith(f"data/{sha256}")]
    return found


@pytest.mark.parametrize(("confidence", "share", "size"), [(0.95, 0.01, 299), (0.99, 0.01, 459), (0.95, 0.001, 2995), (0.5, 0.5, 1)])
def test_a_sample_is_large_enough_for_its_confidence(confidence: float, share: float, size: int) -> None:
    """If `share` of the copies are damaged, a sample of this size misses them all at most once in 1 / (1 - confidence)."""
    assert sample_size(confidence, share) == size
    assert (1 - share) ** size <= 1 - confidence < (1 - share) ** (size - 1)


def test_a_sample_is_read_and_the_rest_is_listed(world: World) -> None:
    found = look(world)
    assert (found.archives, found.objects, found.read, found.damaged, found.unknown) == (1, 500, 299, [], [])
    assert (
        found.summary
        == f"1 archive, 500 objects, {found.bytes:,} bytes listed; 299 objects read, none damaged. With 95% confidence, less than 1.0% are damaged"
    )
    full = look(world, full=True)
    assert (
        full.read == 500 and full.read_bytes == full.bytes and full.summary.endswith("500 objects read: each one equals what was archived")
    )


def test_the_sample_is_fair() -> None:
    """Every copy has the same chance. Over many checks, each is read about equally often."""
    world = World()
    for number in range(40):
        world.put(f"{number}", b"%d" % number)
    world.apply()
    counts, chance, read = [0] * 40, random.Random(7), world.archive.read

    def counted(obj: StoredObject) -> Iterator[bytes]:
        if "/data/" in obj.key:
            counts[int(world.archive.objects[obj.key].body)] += 1
        return read(obj)

    world.archive.read = counted  # type: ignore[method-assign]
    for _ in range(200):
        verify(
            world.settings,
            world.records,
            now=world.now,
            tools=Tools(open_store=world.open, workers=1),
            chance=chance,
            confidence=0.95,
            share=0.26,
        )
    assert sample_size(0.95, 0.26) == 10 and sum(counts) == 2_000
    assert min(counts) >= 25 and max(counts) <= 80, counts


@pytest.mark.parametrize(
    ("damage", "reported"), [("gone", "is missing"), ("cut", "has 99 bytes, not 100"), ("flipped", "has other bytes: sha256 ")]
)
def test_damage_is_reported_with_all_that_is_known(world: World, damage: str, reported: str) -> None:
    body = b"7" * 100
    kept = copy_of(world, body)
    key = next(key for key, found in world.archive.objects.items() if found is kept)
    if damage == "gone":
        del world.archive.objects[key]
    else:
        kept.body = body[:-1] if damage == "cut" else flipped(body)
    [sentence] = look(world, full=True).damaged
    sha256 = hashlib.sha256(body).hexdigest()
    assert f"{ARCHIVE.rstrip('/')}/{key} {reported}" in sentence
    assert f"It is 'file 7' of run run1, 100 bytes, sha256 {sha256}, archived 2026-11-25 from {SOURCE.rstrip('/')}/{PREFIX}." in sentence
    assert sentence.endswith("No other copy of it is known.")
    world.put("file 7", body)
    assert look(world, full=True).damaged[0].endswith("The same bytes are still in their original place.")


def test_a_damage_report_names_equal_bytes_elsewhere(world: World) -> None:
    world.put("copy", b"7" * 100, prefix="1/run2/artifacts")
    world.put("again", b"7" * 100, prefix="1/run2/artifacts")
    world.apply(make_item(run_id="run2", owner_id="run2", prefix="1/run2/artifacts"))
    key = next(key for key in world.archive.objects if "/run2/" in key and "/data/" in key)
    world.archive.objects[key].body = flipped(b"7" * 100)
    [sentence] = look(world, full=True).damaged
    assert (
        "It is 'again' (and 1 equal files) of run run2" in sentence and "/prod/1/run1/" in sentence.rpartition("The same bytes are in ")[2]
    )


def test_new_copies_are_read_first(world: World) -> None:
    kept = copy_of(world, b"7" * 100)
    kept.etag, kept.body = '"written again"', flipped(b"7" * 100)
    assert len(look(world).damaged) == 1
    kept.body = b"7" * 100
    assert look(world).damaged == []
    for number in range(400):
        copy_of(world, FILES[f"file {number}"]).etag = f'"{number}"'
    assert look(world).unknown == [
        "101 more copies were written again since they were archived. They were not read. To read them: runspend archive verify --full"
    ]


def test_a_storage_class_that_cannot_be_read_now_is_not_damage(world: World) -> None:
    for kept in world.archive.objects.values():
        if not kept.body.startswith(b"{"):
            kept.storage_class = "DEEP_ARCHIVE"
    world.faults.plan = {(f"read {ARCHIVE}", number): "refused" for number in range(2, 1_000)}  # all reads except the manifest's
    world.faults.made.clear()
    found = look(world)
    assert (found.damaged, found.not_readable, found.read) == ([], 299, 0) and found.summary.endswith("too few to conclude more")


def test_an_archive_that_cannot_be_believed_is_unknown(world: World) -> None:
    key = next(key for key in world.archive.objects if key.endswith("manifest.jsonl"))
    world.archive.objects[key].body = world.archive.objects[key].body[:-30]
    found = look(world)
    assert (found.archives, found.objects) == (0, 0) and len(found.unknown) == 1 and "cannot trust the manifest" in found.unknown[0]


def test_a_store_that_does_not_answer_is_unknown(world: World) -> None:
    def silent(folder: str) -> Iterator[str]:
        raise SourceUnreachable(ARCHIVE, "no answer")

    world.archive.folders = silent  # type: ignore[method-assign]
    assert look(world).unknown == ["no answer"]


def test_copies_that_no_manifest_names_are_counted(world: World) -> None:
    folder = next(key for key in world.archive.objects if key.endswith("manifest.jsonl")).rpartition("/")[0]
    world.archive.put(f"{folder}/data/{'0' * 64}", b"left")
    world.archive.put(f"{folder.rpartition('/')[0]}/{'e' * 32}/data/{'1' * 64}", b"never finished")
    found = look(world)
    assert (found.left_over, found.left_over_bytes, found.damaged) == (2, 18, [])


def test_the_price_of_reading_is_stated_first(world: World) -> None:
    for key, kept in world.archive.objects.items():
        if "/data/" in key:
            kept.storage_class = "GLACIER_IR"
    world.faults.made.clear()
    found = price_of_reading(world.settings, now=world.now, open_store=world.open)
    # 500 requests at 0.01 a thousand, and the bytes at 0.03 a GB
    assert found.objects == 500 and found.price == Decimal("0.005") + Decimal("0.03") * found.bytes / 2**30
    assert not any(what == f"read {ARCHIVE}" and count > 1 for what, count in world.faults.made.items())
    next(kept for key, kept in world.archive.objects.items() if "/data/" in key).storage_class = "ODD"
    assert price_of_reading(world.settings, now=world.now, open_store=world.open).price is None


def test_each_check_is_recorded(world: World) -> None:
    """A month counts as checked when everything was whole."""
    month = f"{world.now:%Y-%m}"
    assert not was_whole(world.records, month)
    look(world)
    world.records.create("archive_verifications", "2020-01-05", {"at": "2020-01-05", "damaged": ["a copy"], "unknown": []})
    assert was_whole(world.records, month) and not was_whole(world.records, "2020-01")
    [reported] = [each for each in world.records.list("archive_verifications").values() if each["at"].startswith(month)]
    assert (reported["objects"], reported["read"], reported["damaged"], reported["unknown"]) == (500, 299, [], [])
