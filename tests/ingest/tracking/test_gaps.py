"""When runs were active: Runspend does not believe ends in the future, and long silences in a run's metrics are gaps."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from runspend.ingest.tracking import raw
from runspend.ingest.tracking.database import DatabaseReader
from tests.ingest.tracking.tracking_world import HOUR, Night, World, at

MINUTE = 60_000
START = at("2026-11-10")
Point = tuple[int, int]  # step, epoch milliseconds


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path)


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[raw.StepRange]:
    """The ranges of metrics whose times Runspend read."""
    real, seen = DatabaseReader.read_times, []

    def read(self: DatabaseReader, wanted: Sequence[raw.StepRange]) -> Iterator[pa.RecordBatch]:
        seen.extend(wanted)
        return real(self, wanted)

    monkeypatch.setattr(DatabaseReader, "read_times", read)
    return seen


def log(world: World, run_id: str, key: str, points: Sequence[Point]) -> None:
    with world.open() as db:
        db.executemany("insert into metrics values (?, 0, ?, ?, ?, false)", [(key, ms, run_id, step) for step, ms in points])
        step, ms = max(points)
        db.execute("insert or replace into latest_metrics values (?, 0, ?, ?, ?)", (key, ms, run_id, step))
    db.close()


def every(minutes: float, first: float, after: float, *, step: int = 0, by: int = 1) -> list[Point]:
    """Return points at a regular interval in the hours [first, after) after `START`."""
    count = round((after - first) * 60 / minutes)
    return [(step + by * n, START + round(first * HOUR + n * minutes * MINUTE)) for n in range(count)]


def run(world: World, run_id: str, hours: float | None, metrics: dict[str, list[Point]]) -> None:
    world.add_run(run_id, START, None if hours is None else START + round(hours * HOUR))
    for key, points in metrics.items():
        log(world, run_id, key, points)


def text(hours: float) -> str:
    moment = datetime.fromtimestamp((START + round(hours * HOUR)) / 1000, timezone.utc)
    return f"{moment:%Y-%m-%dT%H:%M:%S}.{moment.microsecond // 1000:03}Z"


def gaps(row: dict[str, Any]) -> tuple[list[str], float | None]:
    return row["gaps"], row["gap_seconds"]


def gap(first: float, after: float) -> str:
    return f"{text(first)}/{text(after)}"


LAST = 1 / 60  # with one point a minute: the hours between the last point of an hour and the next hour
LATE = [(200 + n, START + 30 * HOUR + n * MINUTE) for n in range(20)]
# case -> the hours that the run lasted, its metrics, its gaps
CASES: dict[str, tuple[float, dict[str, list[Point]], list[tuple[float, float]]]] = {
    "resumed a day later": (29, {"loss": [*every(1, 0, 2), *every(1, 26, 29, step=120)]}, [(2 - LAST, 26)]),
    "resumed from a checkpoint, steps are logged again": (29, {"loss": [*every(1, 0, 2), *every(1, 26, 29, step=60)]}, [(2 - LAST, 26)]),
    "two gaps in the order of their times": (
        60, {"loss": [*every(10, 0, 10), *every(10, 20, 30, step=60), *every(10, 50, 60, step=120)]}, [(10 - 1 / 6, 20), (30 - 1 / 6, 50)],
    ),
    "one step in twenty is looked at, and all around the silence": (170, {"loss": [*every(0.5, 0, 60), *every(0.5, 70, 170, step=7_200)]}, [(60 - 1 / 120, 70)]),
    "every 50th step of a million is logged": (290, {"loss": [*every(1, 0, 60, by=50), *every(1, 90, 290, step=180_000, by=50)]}, [(60 - LAST, 90)]),
    "ten points and a gap a millisecond over six hours": (30, {"loss": [*every(1, 0, 9 / 60), (9, START + 8 * MINUTE + 6 * HOUR + 1)]}, [(8 / 60, 8 / 60 + 6 + 1 / HOUR)]),
    "system metrics count as any other": (29, {"system/gpu_0_x": [*every(1, 0, 2), *every(1, 26, 29, step=120)], "loss": [(1, START + HOUR)]}, [(2 - LAST, 26)]),
    "another metric cuts the silence in two": (60, {"loss": [*every(1, 0, 2), *every(1, 40, 44, step=120)], "check": [(1, START + 30 * HOUR)]}, [(2 - LAST, 30), (30, 40)]),
    "a validation of ten hours between two epochs": (30, {"loss": [*every(1, 0, 2), *every(1, 12, 14, step=120)], "check": every(10, 2, 12)}, []),
    "logged before the start and long after the end": (7, {"loss": [(0, START - 20 * HOUR), *every(1, 0, 2, step=1), *LATE]}, []),
    "logs twice in ten hours": (30, {"loss": [(0, START), (1, START + 10 * HOUR)]}, []),
    "nine points are too few": (30, {"loss": [*every(1, 0, 8 / 60), (8, START + 20 * HOUR)]}, []),
    "six hours are no gap": (30, {"loss": [*every(1, 0, 2), *every(1, 8 - LAST, 10, step=120)]}, []),
    "an hour between two is usual": (30, {"loss": [*every(60, 0, 10), *every(60, 18, 30, step=10)]}, []),
    "the largest steps there are": (30, {"loss": [*every(1, 0, 2, step=2**63 - 200), (2**63 - 1, START + 29 * HOUR)]}, []),
    "logs at one step only": (30, {"loss": [(0, START + n * MINUTE) for n in range(60)] + [(0, START + 29 * HOUR)]}, []),
    "logged everything at once": (30, {"loss": [(n, START) for n in range(100)]}, []),
    "no metric at all": (30, {}, []),
}  # fmt: skip


@pytest.fixture(scope="module")
def night(tmp_path_factory: pytest.TempPathFactory) -> Night:
    """One extract of all cases."""
    world = World(tmp_path_factory.mktemp("gaps"))
    for name, (hours, metrics, _) in CASES.items():
        run(world, name, hours, metrics)
    return world.night()


@pytest.mark.parametrize("case", CASES)
def test_a_run_has_the_expected_gaps(night: Night, case: str) -> None:
    expected = CASES[case][2]
    found = night.run(case)
    assert found["gaps"] == [gap(*g) for g in expected]
    length = sum(round(after * HOUR) - round(first * HOUR) for first, after in expected) / 1000
    assert found["gap_seconds"] == (length if expected else found["gap_seconds"] and 0)


def test_a_long_metric_is_sampled_and_read_again_around_a_silence(world: World, asked: list[raw.StepRange]) -> None:
    run(world, "long", *CASES["one step in twenty is looked at, and all around the silence"][:2])
    world.night()
    assert [(w.first_step, w.stride) for w in asked] == [(0, 20), (7_180, 1)] and sum(w.points for w in asked) < 1_100


def test_a_run_without_an_end_that_was_resumed(world: World, asked: list[raw.StepRange]) -> None:
    run(world, "a", None, {"loss": [*every(1, 0, 2), *every(1, 26, 29, step=120)]})
    night = world.night()
    assert (night.run("a")["end_time"], gaps(night.run("a"))[0]) == (None, [gap(2 - 1 / 60, 26)])
    count = len(asked)
    second = world.night(night)
    assert (gaps(second.run("a")), len(asked)) == (gaps(night.run("a")), count)
    log(world, "a", "loss", [*every(1, 50, 51, step=300)])
    assert gaps(world.night(second).run("a"))[0] == [gap(2 - 1 / 60, 26), gap(29 - 1 / 60, 50)]


def test_short_runs_need_no_query_and_long_ones_one_in_their_life(world: World, asked: list[raw.StepRange]) -> None:
    run(world, "short", 6, {"loss": every(1, 0, 6)})
    run(world, "long", 29, {"loss": [*every(1, 0, 2), *every(1, 26, 29, step=120)]})
    first = world.night()
    assert {w.run_id for w in asked} == {"long"}
    assert first.run("short")["gap_seconds"] is None
    asked.clear()
    second = world.night(first)
    assert (asked, gaps(second.run("long"))) == ([], gaps(first.run("long")))
    world.do("update runs set end_time = end_time + 1 where run_uuid = 'long'")
    third = world.night(second)
    assert {w.run_id for w in asked} == {"long"} and gaps(third.run("long")) == gaps(first.run("long"))


def test_only_a_changed_rule_searches_for_gaps_again(world: World, asked: list[raw.StepRange]) -> None:
    run(world, "long", 29, {"loss": every(1, 0, 29)})
    first = world.night()
    asked.clear()
    world.night(first, settings_of={"2026-11": None})
    assert asked == []
    world.night(first, settings_of={"2026-11": first.extract.extras["runs", "2026-11"]["settings"]})
    assert asked == []
    world.night(first, settings_of={"2026-11": "another version"})
    assert {w.run_id for w in asked} == {"long"}


def test_gaps_are_added_to_rows_of_a_version_that_had_none(world: World) -> None:
    run(world, "long", 29, {"loss": [*every(1, 0, 2), *every(1, 26, 29, step=120)]})
    first = world.night()
    found = gaps(first.run("long"))
    first.tables["runs", "2026-11"] = first.tables["runs", "2026-11"].drop_columns(["gaps", "gap_seconds", "future_end_time"])
    assert gaps(world.night(first, settings_of={"2026-11": None}).run("long")) == found


def test_purged_runs_keep_their_gaps(world: World) -> None:
    run(world, "long", 29, {"loss": [*every(1, 0, 2), *every(1, 26, 29, step=120)]})
    first = world.night()
    world.remove_run("long")
    gone = world.night(first).run("long")
    assert gone["purged_at"] is not None and gaps(gone) == gaps(first.run("long"))


# --- ends in the future -------------------------------------------------------------------------------------------------


def ends(row: dict[str, Any]) -> tuple[datetime, datetime | None]:
    return row["end_time"], row["future_end_time"]


FUTURE = at("2099-01-01")
# Each `now` below is later than the real clock. The last test shows an extract as of an earlier time.
BEGAN, THEN = at("2096-11-10"), datetime(2096, 11, 25, 6, tzinfo=timezone.utc)


def later(points: list[Point]) -> list[Point]:
    return [(step, ms - START + BEGAN) for step, ms in points]


def moment(ms: int) -> datetime:
    return datetime.fromtimestamp(ms / 1000, timezone.utc)


def test_an_end_more_than_an_hour_ahead_is_not_believed(world: World) -> None:
    """An end more than an hour ahead is not believed.

    The run then ends six hours after its newest metric or its start, but not after its stated end.
    """
    now = round(THEN.timestamp() * 1000)
    world.add_run("with metrics", BEGAN, FUTURE)
    log(world, "with metrics", "loss", [(0, BEGAN), (1, BEGAN + 5 * HOUR)])
    log(world, "with metrics", "wild", [(0, FUTURE)])
    world.add_run("without", BEGAN, FUTURE)
    world.add_run("soon", now - HOUR, now + 2 * HOUR)
    world.add_run("ahead", now - 20 * HOUR, now + HOUR)
    world.add_run("wild", now + 30 * HOUR, now + 31 * HOUR)
    world.add_run("open", BEGAN, None)
    log(world, "open", "loss", [(0, BEGAN + HOUR)])
    log(world, "open", "wild", [(0, FUTURE)])
    night = world.night(now=THEN)
    assert ends(night.run("with metrics", "2096-11")) == (moment(BEGAN + 11 * HOUR), moment(FUTURE))
    assert ends(night.run("without", "2096-11")) == (moment(BEGAN + 6 * HOUR), moment(FUTURE))
    assert ends(night.run("soon", "2096-11")) == (moment(now + 2 * HOUR), moment(now + 2 * HOUR))
    assert ends(night.run("ahead", "2096-11")) == (moment(now + HOUR), None)
    assert ends(night.run("wild", "2096-11")) == (moment(now + 31 * HOUR), moment(now + 31 * HOUR))
    assert (night.run("open", "2096-11")["end_time"], night.run("open", "2096-11")["last_sign_at"]) == (None, moment(BEGAN + HOUR)), (
        "a metric in the future is not a sign of life"
    )


def test_an_end_in_the_future_is_not_believed_after_that_time_either(world: World) -> None:
    end = at("2096-12-05")
    world.add_run("a", BEGAN, end)
    first = world.night(now=THEN)
    assert ends(first.run("a", "2096-11")) == (moment(BEGAN + 6 * HOUR), moment(end))
    after = world.night(first, now=datetime(2096, 12, 20, tzinfo=timezone.utc))
    assert ends(after.run("a", "2096-11")) == ends(first.run("a", "2096-11"))
    again = world.night(after, now=datetime(2096, 12, 21, tzinfo=timezone.utc))
    assert ends(again.run("a", "2096-11")) == ends(first.run("a", "2096-11"))
    assert again.extract.extras["runs", "2096-11"]["last_end"] == moment(BEGAN + 6 * HOUR).isoformat()
    world.remove_run("a")
    gone = world.night(again, now=datetime(2096, 12, 22, tzinfo=timezone.utc))
    assert ends(gone.run("a", "2096-11")) == ends(first.run("a", "2096-11"))


def test_a_corrected_end_is_believed(world: World) -> None:
    world.add_run("a", BEGAN, FUTURE)
    first = world.night(now=THEN)
    world.do("update runs set end_time = ?", BEGAN + 9 * HOUR)
    assert ends(world.night(first, now=THEN).run("a", "2096-11")) == (moment(BEGAN + 9 * HOUR), None)


def test_a_run_that_states_a_future_end_goes_on_while_it_logs_metrics(world: World) -> None:
    world.add_run("a", BEGAN, FUTURE)
    log(world, "a", "loss", later(every(10, 0, 20)))
    first = world.night(now=THEN)
    log(world, "a", "loss", later(every(10, 20, 60, step=120)))
    second = world.night(first, now=THEN)
    assert [n.run("a", "2096-11")["end_time"] for n in (first, second)] == [moment(BEGAN + round((h + 6 - 1 / 6) * HOUR)) for h in (20, 60)]


def test_gaps_of_a_run_that_ends_in_the_future(world: World, asked: list[raw.StepRange]) -> None:
    world.add_run("a", BEGAN, at("2096-12-05"))
    log(world, "a", "loss", later([*every(1, 0, 2), *every(1, 26, 29, step=120)]))
    first = world.night(now=THEN)
    assert first.run("a", "2096-11")["gap_seconds"] == (24 * 60 + 1) * 60
    asked.clear()
    after = world.night(first, now=datetime(2096, 12, 20, tzinfo=timezone.utc))
    assert (asked, gaps(after.run("a", "2096-11")), ends(after.run("a", "2096-11"))) == (
        [],
        gaps(first.run("a", "2096-11")),
        ends(first.run("a", "2096-11")),
    )


def test_an_extract_as_of_an_earlier_day_keeps_no_gaps(world: World) -> None:
    """It reads MLflow as it is today. An end after the extract's `now` is not believed, but a later extract believes it."""
    run(world, "a", 30, {"loss": [*every(1, 0, 2), *every(1, 26, 29, step=120)]})
    earlier = world.night(now=datetime(2026, 11, 10, 1, tzinfo=timezone.utc))
    assert ends(earlier.run("a"))[1] == moment(START + 30 * HOUR)
    second = world.night(earlier, settings_of={"2026-11": earlier.extract.extras["runs", "2026-11"]["settings"]})
    assert ends(second.run("a")) == (moment(START + 30 * HOUR), None)
    assert gaps(second.run("a"))[0] == [gap(2 - LAST, 26)]
    assert second.extract.extras["runs", "2026-11"]["settings"] != earlier.extract.extras["runs", "2026-11"]["settings"]
