"""Orphaned artifacts and dangling owners: when Runspend counts bytes without an owner and owners without bytes, and when it stops."""

from __future__ import annotations

import shutil
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from runspend.config.settings import ArtifactStore
from runspend.core.step_result import ReadJob
from runspend.ingest.artifacts import Measurement, Readings, measure_store
from runspend.schema.tables import DANGLING_OWNERS
from tests.ingest.artifacts.owners import OWNER_SCHEMA

NOW = datetime(2026, 10, 14, 2, tzinfo=timezone.utc)
DAY = timedelta(days=1)
HOUR = timedelta(hours=1)
RUN1, RUN2, LOST = "a" * 31 + "1", "a" * 31 + "2", "b" * 32
MODEL = "m-" + "c" * 32


class World:
    """A folder that is measured repeatedly, and the tables that the warehouse would have of it."""

    def __init__(self, folder: Path) -> None:
        self.root, self.work = folder / "mlruns", folder / "work"
        self.root.mkdir()
        self.owners: list[dict[str, Any]] = []
        self.months: dict[str, pa.Table] = {}
        self.known: pa.Table | None = None
        for run in (RUN1, RUN2, LOST):
            self.write(f"1/{run}/artifacts/x", 100)
        self.own("run", RUN1)
        self.own("run", RUN2)

    def write(self, path: str, size: int) -> None:
        (self.root / path).parent.mkdir(parents=True, exist_ok=True)
        (self.root / path).write_bytes(b"x" * size)

    def own(self, kind: str, owner_id: str, *, server: str = "prod", is_purged: bool = False) -> None:
        folder = f"1/models/{owner_id}" if kind == "logged_model" else f"1/{owner_id}"
        row = {"owner_kind": kind, "owner_id": owner_id, "tracking_server": server, "workspace": "default", "experiment_id": "1"}
        self.owners.append({**row, "is_purged": is_purged, "uri": f"{self.root}/{folder}/artifacts"})

    def measure(self, now: datetime, readings: Readings | None = None) -> Measurement:
        """Measure once. If `readings` is not given, every server was read an hour before."""
        found = measure_store(
            ArtifactStore(uri=str(self.root)),
            pa.Table.from_pylist(self.owners, OWNER_SCHEMA),
            ReadJob(now, f"{now:%d}", self.work),
            previous=self.months.get,
            known_dangling=self.known,
            readings=Readings(now - HOUR, 1) if readings is None else readings,
        )
        self.months |= found.tables
        self.known = self.known if found.dangling is None else found.dangling
        return found

    def orphans(self, month: str = "2026-10") -> list[tuple[Any, ...]]:
        """Return (since, confirmed, from, to, bytes) of the orphans' rows."""
        columns = ("unowned_since", "confirmed_at", "valid_from", "valid_to", "bytes")
        return [tuple(r[c] for c in columns) for r in self.months[month].to_pylist() if r["owner_kind"] == "orphan"]

    def dangling(self) -> list[tuple[Any, ...]]:
        assert self.known is not None
        assert self.known.schema.equals(DANGLING_OWNERS.arrow_schema())
        return [(r["owner_kind"], r["owner_id"], r["gone_since"], r["had_objects"], r["had_bytes"]) for r in self.known.to_pylist()]


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path)


def test_an_orphan_counts_after_a_second_reading_a_day_later(world: World) -> None:
    """The orphan is found on day 0. On day 1 the newest reading is not a day younger; on day 2 it is. The row stays the same."""
    world.measure(NOW)
    assert world.orphans() == [(NOW, None, NOW, None, 100)]
    world.measure(NOW + DAY)
    assert world.orphans() == [(NOW, None, NOW, None, 100)]
    world.measure(NOW + 2 * DAY)
    assert world.orphans() == [(NOW, NOW + 2 * DAY, NOW, None, 100)]
    world.measure(NOW + 3 * DAY)
    assert world.orphans() == [(NOW, NOW + 2 * DAY, NOW, None, 100)]


def test_a_repeated_pipeline_run_confirms_nothing(world: World) -> None:
    """Several measurements after a single reading of MLflow do not confirm an orphan."""
    for now in (NOW, NOW, NOW + HOUR, NOW + 5 * DAY):
        world.measure(now, Readings(NOW - HOUR, 1))
    assert world.orphans() == [(NOW, None, NOW, None, 100)]


@pytest.mark.parametrize(
    ("readings", "confirmed"),
    [
        (Readings(None, 1), None),  # the server that was never read may have the owner
        (Readings(NOW - DAY, 1), NOW + 30 * DAY),  # the server was read once, and then not for a month
        (Readings(None, 0), NOW + 30 * DAY),  # no server is configured
    ],
    ids=["never read", "not read again", "no server"],
)
def test_where_no_server_is_read_an_orphan_counts_after_30_days(world: World, readings: Readings, confirmed: datetime | None) -> None:
    """It does not count on day 29."""
    for days in (0, 29, 30):
        world.measure(NOW + days * DAY, readings)
        if days == 29:
            assert {row[1] for row in world.orphans("2026-11")} == {None}
    assert [row[:2] for row in world.orphans("2026-11")] == [(NOW, confirmed)]


def test_a_growing_orphan_stays_one_and_an_orphan_owned_meanwhile_starts_again(world: World) -> None:
    """New bytes do not reset a confirmed orphan. An owner does."""
    for days in (0, 2):
        world.measure(NOW + days * DAY)
    world.write(f"1/{LOST}/artifacts/y", 11)
    world.measure(NOW + 3 * DAY)
    assert world.orphans()[-1] == (NOW, NOW + 2 * DAY, NOW + 3 * DAY, None, 111)
    world.own("run", LOST)
    world.measure(NOW + 4 * DAY)
    assert [row for row in world.orphans() if row[3] is None] == []
    world.owners.pop()
    world.measure(NOW + 5 * DAY)
    assert [row for row in world.orphans() if row[3] is None] == [(NOW + 5 * DAY, None, NOW + 5 * DAY, None, 111)]


def test_a_listing_that_breaks_off_confirms_nothing(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """The orphan's row does not change."""
    world.measure(NOW)
    with monkeypatch.context() as broken:
        broken.setattr("runspend.storage.local._list_one", lambda *_: (_ for _ in ()).throw(PermissionError(13, "Permission denied")))
        assert not world.measure(NOW + 3 * DAY).is_complete
    assert world.orphans() == [(NOW, None, NOW, None, 100)]


def test_an_owner_whose_bytes_are_gone_is_dangling(world: World) -> None:
    """The row has the time when the bytes were gone, and what they were.

    A run that never had bytes, or that MLflow purged, is not dangling.
    """
    world.own("run", "never")
    world.own("run", LOST, is_purged=True)
    assert world.measure(NOW).error is None
    assert world.dangling() == []
    shutil.rmtree(world.root / "1" / RUN1)
    shutil.rmtree(world.root / "1" / LOST)
    for days in (1, 1, 2, 30):
        world.measure(NOW + days * DAY)
        assert world.dangling() == [("run", RUN1, NOW + DAY, 1, 100)]
    world.write(f"1/{RUN1}/artifacts/x", 100)
    world.measure(NOW + 31 * DAY)
    assert world.dangling() == []


def test_a_model_that_never_had_bytes_is_dangling_from_the_first_measurement(world: World) -> None:
    """A registered model may point to a folder without files."""
    world.own("logged_model", MODEL)
    world.measure(NOW)
    assert world.dangling() == [("logged_model", MODEL, NOW, None, None)]
    world.write(f"1/models/{MODEL}/artifacts/m", 1)
    world.measure(NOW + DAY)
    assert world.dangling() == []


def test_an_owner_is_not_dangling_while_another_is_below_it(world: World) -> None:
    """A run's only file belongs to its model, or two servers read the same MLflow."""
    world.write("1/outer/artifacts/model/m", 1)
    world.own("run", "outer")
    world.owners.append(
        {**world.owners[-1], "owner_kind": "logged_model", "owner_id": MODEL, "uri": f"{world.root}/1/outer/artifacts/model"}
    )
    world.own("run", RUN1, server="copy")
    world.measure(NOW)
    world.measure(NOW + DAY)
    assert world.dangling() == []


def test_a_listing_that_breaks_off_makes_no_owner_dangling(world: World) -> None:
    """The volume is not mounted. The rows of `dangling_owners` stay as they were."""
    world.measure(NOW)
    shutil.rmtree(world.root)
    found = world.measure(NOW + DAY)
    assert (found.is_complete, found.dangling, world.dangling()) == (False, None, [])
