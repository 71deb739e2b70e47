"""After a rename of a tracking server or a bill, alerts of budgets that select by it are neither repeated nor corrected."""

from __future__ import annotations

from contextlib import nullcontext
from datetime import date, timedelta
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from runspend.actions import alert
from runspend.actions.alert.renamed_sources import note_rename
from runspend.actions.alert.snooze import Quiet, read_quiet, set_quiet
from tests.actions.alert.alert_world import NOW, Killed, budget, cost, count_down, source, warehouse
from tests.actions.alert.test_kinds import TAGS, tagged
from tests.actions.alert.test_run import OVER, step, subjects
from tests.memory_records import MemoryRecords
from tests.settings_builder import make_settings

KINDS = [("tracking", "tracking", "tracking_server", "prod"), ("bill", "source", "source", "aws")]
OVER_BUDGET = "[runspend] Budget vision: 100.2% of 5,000 USD spent in November"


def of(column: str, name: str, rows: list[dict[str, Any]] = OVER) -> list[dict[str, Any]]:
    return [{**row, column: name} for row in rows]


@pytest.mark.parametrize(("kind", "key", "column", "old"), KINDS)
def test_nothing_is_mailed_again_or_corrected(tmp_path: Path, kind: Any, key: str, column: str, old: str) -> None:
    """This holds if budgets are judged between the rename and the next build of the cost tables, and if the name changes back."""
    records, now = MemoryRecords(), NOW
    given = {name: make_settings(tmp_path, budget(**{"for": {key: [name, "z"]}})) for name in (old, "new")}
    tables = {name: {"cost_daily": of(column, name), "sources": [source()]} for name in given}
    with warehouse(tmp_path / "old", **tables[old]) as before, warehouse(tmp_path / "new", **tables["new"]) as after:
        alert.run(partial(nullcontext, before), given[old], records, now)
        for was, becomes, readers in ((old, "new", (after,)), ("new", old, (after, before)), (old, "new", (before, after, after))):
            note_rename(records, kind, was, becomes)
            for reader in readers:
                now += timedelta(days=1)
                result = alert.run(partial(nullcontext, reader), given[becomes], records, now)
    assert subjects(tmp_path) == [OVER_BUDGET]
    assert set(result.alerts["budget_version"].to_pylist()) == set(result.budget_status["budget_version"].to_pylist())


def test_a_restatement_after_the_rename_is_corrected_once_and_says_by_how_much(tmp_path: Path) -> None:
    """Mails under the new name keep the threshold, the day and the beginning of the old name's mails."""
    records, given = MemoryRecords(), make_settings(tmp_path, budget(actual=["100%"], **{"for": {"tracking": "new"}}))
    step(tmp_path, records, make_settings(tmp_path, budget(actual=["100%"], **{"for": {"tracking": "prod"}})), cost_daily=OVER)
    note_rename(records, "tracking", "prod", "new")
    restated = of("tracking_server", "new", [cost("2026-11-05", "900"), *OVER[1:]])
    step(tmp_path, records, given, NOW + timedelta(days=1), cost_daily=of("tracking_server", "new"))
    for day in (2, 3):
        step(tmp_path, records, given, NOW + timedelta(days=day), cost_daily=restated)
    assert subjects(tmp_path) == [OVER_BUDGET, "[runspend] Budget vision: correction, 98.2% of 5,000 USD spent in November"]


def test_a_budget_in_an_experiment_tag_is_the_same_budget(tmp_path: Path) -> None:
    """The budget's name contains the server's. Decisions, expensive days and snoozes follow it, even if a process is killed in between."""
    usual = [cost(f"2026-{day:%m-%d}", "10") for day in (date(2026, 10, 18) + timedelta(days=n) for n in range(34))]
    rows, tags = [*usual, cost("2026-11-21", "900")], [tagged("500 USD / month")]
    after = {"cost_daily": of("tracking_server", "new", rows), "experiments": of("tracking_server", "new", tags), "sources": [source()]}
    moment, was_killed = 0, True
    with (
        warehouse(tmp_path / "before", cost_daily=rows, experiments=tags, sources=[source()]) as old,
        warehouse(tmp_path / "after", **after) as new,
    ):
        while was_killed:
            records, given, now = MemoryRecords(), make_settings(tmp_path / str(moment), TAGS), NOW + timedelta(days=1)
            alert.run(partial(nullcontext, old), given, records, NOW - timedelta(days=5))
            alerted = alert.run(partial(nullcontext, old), given, records, NOW).alerts.to_pylist()
            assert {row["kind"] for row in alerted} == {"actual", "anomaly"} and len(alerted) == 3
            name = alerted[0]["budget"]
            set_quiet(records, [name], Quiet(name, "acknowledged", date(2026, 11, 30), "ana", NOW), NOW)
            note_rename(records, "tracking", "prod", "new")
            records.before = records.after = partial(count_down, [moment])  # type: ignore[method-assign]  # the seam this class is for
            try:
                alert.run(partial(nullcontext, new), given, records, now)
                was_killed = False
            except Killed:
                moment += 1
            records.before = records.after = lambda operation: None  # type: ignore[method-assign]  # as above
            result = alert.run(partial(nullcontext, new), given, records, now)
            (renamed,) = result.budget_status["budget"].to_pylist()
            assert renamed != name
            assert len(result.alerts) == len(alerted) and result.sent == []
            for row in result.alerts.to_pylist():
                (same,) = (one for one in alerted if (one["kind"], one["threshold"]) == (row["kind"], row["threshold"]))
                changed = {key for key in row if row[key] != same[key]}
                assert changed == {"budget", "budget_version", "alert_id"} and row["budget"] == renamed
            assert [q.by for q in read_quiet(records, now).values()] == ["ana"] and set(read_quiet(records, now)) == {renamed}
    assert moment > 10


@pytest.mark.parametrize(("kind", "key", "column", "old"), KINDS)
@pytest.mark.parametrize("every", ["month", "year"])
def test_nothing_is_mailed_between_a_rename_and_the_next_pipeline_run(
    tmp_path: Path, kind: Any, key: str, column: str, old: str, every: str
) -> None:
    """At that time closed months have the new name and open months the old one. With only one of the names, a threshold would be reached again, or be corrected."""
    records = MemoryRecords()
    given = {name: make_settings(tmp_path, budget(every=every, **{"for": {key: [name]}})) for name in (old, "new")}
    closed, still_open = [cost("2026-10-05", "5100")], [cost("2026-11-05", "120")]
    step(tmp_path, records, given[old], NOW - timedelta(days=35), cost_daily=of(column, old, closed))
    step(tmp_path, records, given[old], cost_daily=of(column, old, [*closed, *still_open]))
    alerted = subjects(tmp_path)
    note_rename(records, kind, old, "new")
    between = step(
        tmp_path, records, given["new"], NOW + timedelta(hours=6), cost_daily=[*of(column, "new", closed), *of(column, old, still_open)]
    )
    assert [s for s in subjects(tmp_path) if "NOT JUDGED" not in s] == alerted
    assert [note for note in between.notes if f"still use the old name {old} for new" in note]
    after = step(tmp_path, records, given["new"], NOW + timedelta(days=1), cost_daily=of(column, "new", [*closed, *still_open]))
    assert [s for s in subjects(tmp_path) if "NOT JUDGED" not in s] == alerted and not after.notes
    assert alerted == [f"[runspend] Budget vision: 102.0% of 5,000 USD spent in {'2026' if every == 'year' else 'October'}"]


def test_several_renames_may_precede_the_next_pipeline_run(tmp_path: Path) -> None:
    """The order in which their notes are read does not matter. A rename that was taken back does not count, even if the name changes again later."""
    records = MemoryRecords()
    given = {name: make_settings(tmp_path, budget(**{"for": {"tracking": [name]}})) for name in ("z", "m", "a", "k")}
    tables = {name: of("tracking_server", name) for name in given}
    step(tmp_path, records, given["z"], cost_daily=tables["z"])
    note_rename(records, "tracking", "z", "m")
    note_rename(records, "tracking", "m", "a")
    step(tmp_path, records, given["a"], NOW + timedelta(days=1), cost_daily=tables["a"])
    note_rename(records, "tracking", "a", "m")
    note_rename(records, "tracking", "m", "a")
    step(tmp_path, records, given["a"], NOW + timedelta(days=2), cost_daily=tables["a"])
    note_rename(records, "tracking", "a", "z")
    step(tmp_path, records, given["z"], NOW + timedelta(days=3), cost_daily=tables["z"])
    assert subjects(tmp_path) == [OVER_BUDGET]


def test_a_rename_that_is_taken_back_forgets_no_month(tmp_path: Path) -> None:
    """A late bill of the previous month is still judged, because the budget keeps its start under every name."""
    records, given = MemoryRecords(), {name: make_settings(tmp_path, budget(**{"for": {"tracking": [name]}})) for name in ("prod", "new")}
    december, low = NOW + timedelta(days=8), OVER[:1]
    step(tmp_path, records, given["prod"], cost_daily=low)
    for day, (old, new) in enumerate((("prod", "new"), ("new", "prod"))):
        note_rename(records, "tracking", old, new)
        step(tmp_path, records, given[new], december + timedelta(days=day), cost_daily=of("tracking_server", new, low))
    step(tmp_path, records, given["prod"], december + timedelta(days=2), cost_daily=OVER)
    assert subjects(tmp_path) == [OVER_BUDGET]
