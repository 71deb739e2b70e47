"""The measured power of GPUs: which run measured which machine, hour by hour, and that Runspend reads no more than it needs."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from runspend.config.settings import Pool
from runspend.ingest.tracking import raw
from runspend.ingest.tracking.database import DatabaseReader
from runspend.ingest.tracking.settings import MeasuredMachines
from tests.ingest.tracking.tracking_world import HOUR, Night, World, at

BOX = MeasuredMachines(("gpubox",))
START = at("2026-11-02T10:30")
Point = tuple[int, int, float]  # step, epoch milliseconds, watts


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path)


def every(seconds: int, watts: float, start: int = START, until: int = START + HOUR) -> list[Point]:
    """Return regular measurements. MLflow's monitor logs each at the end of the time that it covers."""
    count = (until - start) // (seconds * 1000)
    return [(n, start + (n + 1) * seconds * 1000, watts + n % 3) for n in range(count)]


def log(world: World, run_id: str, key: str, points: Sequence[Point]) -> None:
    with world.open() as db:
        db.executemany("insert into metrics values (?, ?, ?, ?, ?, false)", [(key, watts, ms, run_id, step) for step, ms, watts in points])
        step, ms, watts = max(points)
        db.execute("insert or replace into latest_metrics values (?, ?, ?, ?, ?)", (key, watts, ms, run_id, step))
    db.close()


def run(
    world: World, run_id: str, points: dict[str, list[Point]], *, start: int = START, end: int | None = START + HOUR, **stated: Any
) -> None:
    world.add_run(run_id, start, end, **({"tags": {"instance_id": "gpubox"}} | stated))
    for key, logged in points.items():
        log(world, run_id, f"system/{key}_power_usage_watts", logged)


def rows(night: Night, period: str = "2026-11") -> list[tuple[Any, ...]]:
    """Return (run, GPU, hour of the day, start and end in seconds of the hour, milliseconds, mean watts)."""
    found = []
    for r in night.rows("machine_power", period):
        inside = [(r[c] - r["hour_start"]).total_seconds() for c in ("measured_from", "measured_to")]
        mean = r["energy_microjoules"] / r["measured_milliseconds"] / 1000
        found.append((r["run_id"], r["gpu"], r["hour_start"].hour, *inside, r["measured_milliseconds"], mean))
    return sorted(found)


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[raw.UseKey]:
    """The metrics of power that Runspend read."""
    real, seen = DatabaseReader.read_power, []

    def read(self: DatabaseReader, wanted: Sequence[raw.UseKey]) -> Iterator[pa.RecordBatch]:
        seen.extend(wanted)
        return real(self, wanted)

    monkeypatch.setattr(DatabaseReader, "read_power", read)
    return seen


def by_seconds(points: list[Point], start: int, hour: datetime) -> tuple[int, int]:
    """Return (milliseconds, microjoules) of an hour. Each second belongs to the next measurement, if that is at most ten minutes later."""
    first = int(hour.timestamp()) * 1000
    held = energy = 0
    for second in range(first, first + HOUR, 1000):
        following = [p for p in points if p[1] > second]
        if second < start or not following or following[0][1] - second > 600_000:
            continue
        held, energy = held + 1000, energy + 1000 * round(following[0][2] * 1000)
    return held, energy


def test_each_measurement_counts_for_the_time_before_it(world: World) -> None:
    """A run from 10:30 to 11:30 logs once a minute, with a pause of 25 minutes. Both hours are right to the millisecond."""
    points = [p for p in every(60, 300.4) if not START + 5 * 60_000 < p[1] < START + 30 * 60_000]
    run(world, "r", {"gpu_0": points})
    found = {r["hour_start"].hour: r for r in world.night(measured=BOX).rows("machine_power")}
    assert sorted(found) == [10, 11]
    for hour, row in found.items():
        expected = by_seconds(points, START, datetime(2026, 11, 2, hour, tzinfo=timezone.utc))
        assert (row["measured_milliseconds"], row["energy_microjoules"]) == expected, hour
    assert found[10]["measured_milliseconds"] == (5 + 10) * 60_000, "five minutes, plus ten before the first measurement after the pause"
    assert found[11]["measured_to"] == datetime(2026, 11, 2, 11, 30, tzinfo=timezone.utc)
    assert {c: found[11][c] for c in ("tracking_server", "workspace", "metric", "resource_id", "gpu")} == {
        "tracking_server": "prod", "workspace": "default", "metric": "system/gpu_0_power_usage_watts", "resource_id": "gpubox", "gpu": 0,
    }  # fmt: skip


def test_invalid_measurements_are_left_out(world: World) -> None:
    """Negative values, excessive values and non-numbers are left out, and so are times before the run's start.

    Two values of one moment count as their mean.
    """
    run(
        world,
        "r",
        {
            "gpu_1": [
                (0, START + 60_000, 100),
                (1, START + 120_000, -1),
                (2, START + 180_000, 1e6),
                (3, START + 240_000, 200),
                (3, START + 240_000, 250),
            ]
        },
    )
    world.do("insert into metrics values ('system/gpu_1_power_usage_watts', 0, ?, 'r', 2, true)", START + 200_000)
    run(world, "early", {"gpu_0": [(0, START - 60_000, 100)]})
    assert rows(world.night(measured=BOX)) == [("r", 1, 10, 1800, 2040, 240_000, (100 * 60 + 225 * 180) / 240)]


@pytest.mark.parametrize(
    ("stated", "measured", "pools", "expected"),
    [
        ({"tags": {"instance_id": " gpubox "}}, BOX, [], {"gpu_0": "gpubox", "rank 7/gpu_1": "gpubox"}),
        ({"tags": {"instance_id": "other"}}, BOX, [], {}),
        ({"tags": {}}, BOX, [], {}),
        ({"tags": {}}, MeasuredMachines(("gpubox",), (("lab", ("gpubox",)),)), ["lab"], {"gpu_0": "gpubox", "rank 7/gpu_1": "gpubox"}),
        ({"tags": {"instance_id": "other"}}, MeasuredMachines(("gpubox",), (("lab", ("gpubox",)),)), ["lab"], {}),
        ({"tags": {"instance_id": "other"}}, MeasuredMachines(("rank 7",), (("lab", ("rank 7",)),)), ["lab"], {}),
        ({"tags": {}}, MeasuredMachines(("gpubox",), (("lab", ("gpubox", "rank 7")),)), ["lab"], {}),
        ({"tags": {}}, MeasuredMachines(("gpubox", "rank 7"), (("lab", ("gpubox", "rank 7")),)), ["lab"], {"rank 7/gpu_1": "rank 7"}),
        ({"tags": {"runspend.resource_ids": "gpubox, rank 7"}}, MeasuredMachines(("gpubox", "rank 7")), [], {"rank 7/gpu_1": "rank 7"}),
        ({"tags": {"runspend.resource_ids": "gpubox, rank 7"}}, BOX, [], {}),
    ],
    ids=["stated", "other", "nothing", "pool", "pool, but stated", "pool and node, but stated", "pool of two", "pool of two, node named", "several, node named", "several, node not measured"],
)  # fmt: skip
def test_gpus_belong_to_the_machine_of_their_run_or_pool(
    world: World, stated: dict[str, Any], measured: MeasuredMachines, pools: list[str], expected: dict[str, str]
) -> None:
    """The run's stated machine counts, else that of its pool.

    If there are several, the node in the metric's name decides, or no machine gets the GPU.
    """
    run(world, "r", {"gpu_0": every(60, 100), "rank 7/gpu_1": every(60, 100), "cpu": every(60, 100)}, **stated)
    made = [Pool.model_validate({"name": name, "runs": {"tracking": "prod"}, "lines": {"resource": "gpubox"}}) for name in pools]
    found = world.night(measured=measured, pools=made).rows("machine_power")
    assert {r["metric"].removeprefix("system/").removesuffix("_power_usage_watts"): r["resource_id"] for r in found} == expected


def test_without_measured_machines_nothing_is_read(world: World, asked: list[raw.UseKey]) -> None:
    """Runspend reads no metrics and writes no table."""
    run(world, "r", {"gpu_0": every(60, 100)})
    night = world.night()
    assert (asked, [table for table, _ in night.tables if table == "machine_power"]) == ([], [])


def test_a_long_run_is_looked_at_once_a_minute(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """A run of two days logs every ten seconds. Runspend reads one measurement in six, and each hour is complete."""
    read: list[int] = []
    real = DatabaseReader.read_power

    def count(self: DatabaseReader, wanted: Sequence[raw.UseKey]) -> Iterator[pa.RecordBatch]:
        for batch in real(self, wanted):
            read.append(batch.num_rows)
            yield batch

    monkeypatch.setattr(DatabaseReader, "read_power", count)
    run(world, "r", {"gpu_0": every(10, 250, until=START + 48 * HOUR)}, end=START + 48 * HOUR)
    night = world.night(measured=BOX)
    assert sum(read) == 48 * 60
    hours = night.rows("machine_power")
    assert {r["step_stride"] for r in hours} == {6}
    assert sum(r["measured_milliseconds"] for r in hours) == 48 * HOUR - 50_000, (
        "the last measurement looked at is 50 seconds before the end"
    )
    assert all(math.isclose(r["energy_microjoules"] / r["measured_milliseconds"], 250_000, rel_tol=0.01) for r in hours)


def test_unchanged_runs_are_not_read_again(world: World, asked: list[raw.UseKey]) -> None:
    """An ended run is read once, and a run that goes on is read again. A run that MLflow no longer has keeps its power."""
    run(world, "ended", {"gpu_0": every(60, 100)})
    run(world, "gone", {"gpu_0": every(60, 200)})
    run(world, "going on", {"gpu_0": every(60, 300)}, end=None)
    first = world.night(measured=BOX)
    assert [key.run_id for key in asked] == ["ended", "going on", "gone"]
    asked.clear()
    world.remove_run("gone")
    log(world, "going on", "system/gpu_0_power_usage_watts", [(60, START + HOUR + 60_000, 300.0)])
    second = world.night(first, measured=BOX)
    assert [key.run_id for key in asked] == ["going on"]
    assert [r for r in rows(second) if r[0] != "going on"] == [r for r in rows(first) if r[0] != "going on"]
    assert [r[5] for r in rows(second) if r[0] == "going on"] == [30 * 60_000, 31 * 60_000]
    asked.clear()
    assert world.night(second, measured=BOX).tables["machine_power", "2026-11"] == second.tables["machine_power", "2026-11"]
    assert asked == []
    moved = world.night(second, measured=MeasuredMachines(("gpubox", "new")))
    world.do("update tags set value = 'new' where run_uuid = 'ended'")
    assert {
        r["resource_id"] for r in world.night(moved, measured=MeasuredMachines(("new",))).rows("machine_power") if r["run_id"] == "ended"
    } == {"new"}


def test_an_hour_ends_where_the_next_begins(world: World) -> None:
    """A measurement at exactly eleven belongs to the hour before, and no row begins with it."""
    run(world, "r", {"gpu_0": every(60, 100, until=START + 30 * 60_000)}, end=START + 30 * 60_000)
    assert [r[1:6] for r in rows(world.night(measured=BOX))] == [(0, 10, 1800, 3600, 30 * 60_000)]


def test_months_are_those_of_the_runs(world: World) -> None:
    """A run from the last evening of October measures an hour of November. Both hours are in the month of the run's start."""
    start = at("2026-10-31T23:30")
    run(world, "r", {"gpu_0": every(60, 100, start, start + HOUR)}, start=start, end=start + HOUR)
    night = world.night(measured=BOX)
    assert [(r["start_month"].isoformat(), r["hour_start"].month) for r in night.rows("machine_power", "2026-10")] == [
        ("2026-10-01", 10),
        ("2026-10-01", 11),
    ]


def test_a_database_without_the_index_is_not_scanned(world: World) -> None:
    """MLflow has had the index since revision a5b4c3d2e1f0. An older database gives no rows, and a warning says so."""
    world.do("update alembic_version set version_num = 'c3d6457b6d8a'")
    run(world, "r", {"gpu_0": every(60, 100)})
    night = world.night(measured=BOX)
    assert night.rows("machine_power") == []
    assert any(
        "power that runs measured cannot be read from a database older than revision a5b4c3d2e1f0" in w for w in night.extract.warnings
    )


def test_another_list_of_machines_reads_every_month_again(world: World) -> None:
    """Through the API, Runspend reads only months that may have changed. A changed list of machines makes every month such a month."""
    world.add_run("r")
    digests = [
        world.night(measured=m).extract.extras["runs", "2026-11"]["settings"]
        for m in (MeasuredMachines(), BOX, MeasuredMachines(("other",)))
    ]
    assert len(set(digests)) == 3


def test_queries_have_a_bounded_number_of_points() -> None:
    """A statement that looks up too many points would be cut off."""
    from runspend.ingest.tracking.database import POINTS_PER_QUERY, USE_KEYS_PER_QUERY, _parts

    long = [raw.UseKey("r", f"k{n}", 49_999, 1) for n in range(25)]
    assert [len(part) for part in _parts(long)] == [10, 10, 5]
    assert [len(part) for part in _parts([raw.UseKey("r", "k", 2 * POINTS_PER_QUERY, 1)] * 2)] == [1, 1]
    assert [len(part) for part in _parts([raw.UseKey("r", "k", 0, 1)] * (USE_KEYS_PER_QUERY + 1))] == [USE_KEYS_PER_QUERY, 1]
    assert list(_parts([])) == []
    assert timedelta(milliseconds=raw.POWER_POINTS / raw.POWER_POINTS_PER_HOUR * HOUR) > timedelta(days=30)
