"""Open, final and closed months: a month's cost tables change when it becomes final. Later, only its bill or a user's request changes them."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import pytest

from runspend import pipeline
from runspend.actions.costs.query import status_of
from runspend.actions.explain import explain_run
from runspend.actions.explain.figures import NoCost
from runspend.actions.report import plan_report, write_report
from runspend.config.settings import Settings, load_settings
from runspend.core.step_result import Outcome
from runspend.warehouse.base import Unit
from runspend.warehouse.factory import open_warehouse
from runspend.warehouse.parquet.warehouse import ParquetWarehouse
from tests.e2e.conftest import ask
from tests.faults.damaged_world import Flip
from tests.kept_world import KeptWorld
from tests.tiny_world import NOW

DECEMBER, FINAL, CLOSED, LATER = (
    datetime(*day, 6, tzinfo=timezone.utc) for day in ((2026, 12, 10), (2026, 12, 20), (2027, 2, 20), (2027, 2, 21))
)
LATE_RUN = "f" * 32
COST_TABLES = ("cost_allocations", "run_costs_daily", "cost_daily", "unallocated_costs", "run_costs")

Night = Callable[..., Outcome]


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory, store: Path) -> KeptWorld:
    """A tiny world before its first pipeline run, after each run in which only time had passed, and after a user changed its runs.

    When the month was closed, the user tagged its runs and later logged another one. `tagged` and `late` skipped that, and `applied` built it.
    """
    world = KeptWorld(tmp_path_factory.mktemp("world"), store)
    world.keep("new")
    settings = load_settings(world.config)
    night(settings, NOW)
    world.keep("first")
    for moment, now in (("december", DECEMBER), ("final", FINAL), ("closed", CLOSED)):
        build(settings, now)
        world.keep(moment)
    retag(world.config, "late")
    night(settings, LATER)
    world.keep("tagged")
    log_late_run(world.config)
    night(settings, LATER)
    world.keep("late")
    build(settings, LATER, periods=["2026-11"])
    world.keep("applied")
    return world


@pytest.fixture
def config(world: KeptWorld) -> Path:
    """The configuration after the first pipeline run."""
    return world.put_back("first")


@pytest.fixture
def settings(config: Path) -> Settings:
    """The settings of that configuration."""
    return load_settings(config)


def night(settings: Settings, now: datetime, **given: Any) -> Outcome:
    """Run the pipeline up to the cost tables."""
    outcome = pipeline.extract(settings, now=now)
    outcome.merge(build(settings, now, **given))
    assert outcome.problems == []
    return outcome


def build(settings: Settings, now: datetime, **given: Any) -> Outcome:
    """Load the bill and build the cost tables, without a look at the runs."""
    outcome = pipeline.load(settings, now=now)
    outcome.merge(pipeline.allocate(settings, now=now, **given))
    assert outcome.problems == []
    return outcome


def digests(settings: Settings) -> dict[Unit, str]:
    """Return the content digests of the cost tables."""
    return {unit: state.digest for unit, state in open_warehouse(settings).states(*COST_TABLES).items()}


def state(settings: Settings) -> dict[str, Any]:
    """Return the only row of `period_states`."""
    (row,) = ask(settings, "select * from period_states")
    return row


def statuses(settings: Settings) -> set[str]:
    """Return the statuses of the ledger's charges."""
    return {row["cost_status"] for row in ask(settings, "select distinct cost_status from cost_allocations")}


def retag(config: Path, team: str) -> None:
    """Change a tag of all runs in MLflow, as a user would."""
    with sqlite3.connect(config.parent / "mlflow.db") as store:
        store.execute("update tags set value = ? where key = 'team'", [team])


def log_late_run(config: Path) -> None:
    """Log a run of the closed month, with the data of another run."""
    with sqlite3.connect(config.parent / "mlflow.db") as store:
        for table in ("runs", "tags"):
            names = [row[1] for row in store.execute(f"pragma table_info({table})")]
            values = ", ".join("?" if name == "run_uuid" else name for name in names)
            store.execute(f"insert into {table} select {values} from {table} where run_uuid = (select min(run_uuid) from runs)", [LATE_RUN])


def teams(settings: Settings) -> set[str]:
    """Return the teams with money, from every table that names them."""
    rows = ask(settings, "select team from cost_daily where allocated_to = 'run' union distinct select team from run_costs")
    return {row["team"] for row in rows}


def page_of(settings: Settings, folder: Path) -> str:
    """Return the month's page and its audit page."""
    with open_warehouse(settings).reader() as reader:
        page = write_report(plan_report(reader, "2026-11", settings=settings, now=LATER), folder)
    return page.read_text(encoding="utf-8") + page.with_name("2026-11-audit.html").read_text(encoding="utf-8")


def test_tables_change_when_a_month_becomes_final_and_not_with_the_days(settings: Settings, world: KeptWorld) -> None:
    """The tables are unchanged after ten more days. They change fifteen days after the month's end, and not again."""
    first = digests(settings)
    assert (state(settings)["state"], statuses(settings)) == ("open", {"provisional"})
    world.put_back("december")
    assert digests(settings) == first
    world.put_back("final")
    last = digests(settings)
    assert last != first
    assert (state(settings)["state"], state(settings)["final_since"]) == ("final", datetime(2026, 12, 16, tzinfo=timezone.utc))
    assert statuses(settings) == {"final"}
    world.put_back("closed")
    assert state(settings)["closed_since"] == datetime(2027, 2, 14, tzinfo=timezone.utc)
    assert digests(settings) == last
    before = open_warehouse(settings).states()
    assert night(settings, LATER).notes == []
    assert {u: s for u, s in open_warehouse(settings).states().items() if u.table == "period_states"} == {
        u: s for u, s in before.items() if u.table == "period_states"
    }


def test_a_month_that_no_pipeline_run_saw_final_is_final_once_it_is_closed(settings: Settings, world: KeptWorld) -> None:
    """The pipeline did not run from December to February. The figures are the same and no longer provisional, and no change is listed as skipped."""
    world.put_back("december")
    sums = "select sum(effective_cost) as cost, count(*) as charges from cost_allocations"
    before = ask(settings, sums)
    assert statuses(settings) == {"provisional"}
    assert night(settings, LATER).notes == []
    assert (state(settings)["state"], state(settings)["ignored_changes"], statuses(settings)) == ("closed", None, {"final"})
    assert ask(settings, sums) == before


def test_a_late_tag_moves_a_final_month_and_no_closed_one(settings: Settings, config: Path, world: KeptWorld) -> None:
    """The closed month keeps every digest. Notes and `status` list skipped changes, and a user can apply them."""
    world.put_back("final")
    retag(config, "nlp")
    night(settings, FINAL + timedelta(days=1))
    assert teams(settings) == {"nlp"}
    world.put_back("closed")
    kept = digests(settings)
    retag(config, "late")
    outcome = night(settings, LATER)
    assert digests(settings) == kept
    assert outcome.notes == [
        "2026-11 is closed and stays as it is, although these changed: runs of lab. To apply the changes, run: runspend allocate --period 2026-11"
    ]
    assert state(settings)["ignored_changes"] == "runs of lab"
    assert "2026-11 is closed, skipped changes: runs of lab" in status_of(settings, LATER)[1]
    assert "Changed after closing and not applied: runs of lab." in page_of(settings, config.parent / "reports")
    world.put_back("applied")
    assert teams(settings) == {"late"}
    assert (state(settings)["state"], state(settings)["ignored_changes"]) == ("closed", None)
    assert night(settings, LATER).notes == []


def test_explain_says_how_a_closed_month_takes_a_late_run_in(settings: Settings, world: KeptWorld) -> None:
    """A user logs a run of a closed month. It has no cost, and following the advice gives it one."""

    def no_cost() -> NoCost | None:
        with open_warehouse(settings).reader() as reader:
            return explain_run(reader, LATE_RUN, settings, now=LATER).no_cost

    world.put_back("late")
    explanation = no_cost()
    assert explanation is not None
    assert (explanation.reason, explanation.advice) == ("not_allocated", "Run: runspend allocate --period 2026-11")
    world.put_back("applied")
    assert no_cost() is None


def test_a_closed_month_follows_its_bill(settings: Settings, config: Path, world: KeptWorld) -> None:
    """A restated line rebuilds the month, which stays closed. The same rows in another file do not."""
    world.put_back("tagged")
    kept = digests(settings)
    part = config.parent / "bills" / "bill" / "part.csv"
    header, *lines = part.read_text().splitlines()
    part.write_text("\n".join([header, *reversed(lines)]) + "\n")
    build(settings, LATER)
    assert digests(settings) == kept
    part.write_text(part.read_text().replace("40.0000000000", "41.0000000000"))
    build(settings, LATER + timedelta(days=1))
    assert {str(row["cost"])[:3] for row in ask(settings, "select sum(effective_cost) as cost from cost_allocations")} == {"984"}
    assert state(settings)["state"] == "closed"
    assert statuses(settings) == {"final"}
    page = page_of(settings, config.parent / "reports")
    assert "Closed: it changes only if the bill is restated." in page
    assert "Restated after closing: +24.00 effective." in page


@pytest.mark.parametrize("moment", ["closed", "tagged"])
def test_a_damaged_table_of_a_closed_month_is_rebuilt_and_a_difference_is_reported(world: KeptWorld, moment: str) -> None:
    """The month is rebuilt from today's sources. The rows are the same if nothing changed since the month was closed."""
    settings = load_settings(world.put_back(moment))
    kept = digests(settings)
    units = [Unit("cost_daily", "2026-11", "all"), Unit("run_costs", "2026-11", "all"), Unit("runs", "2026-11", "lab")]
    for unit in units:
        path = ParquetWarehouse(Path(settings.warehouse.uri)).path(unit)
        Flip(path, path.stat().st_size // 2, 1, is_silent=True).make()
    outcome = pipeline.extract(settings, now=LATER)
    outcome.merge(pipeline.settle(settings, now=LATER))
    assert outcome.exit_code == 4
    assert "runs 2026-11 lab was damaged and is restored, with the same rows" in outcome.notes
    matching_notes = [
        note for note in outcome.notes if note.startswith(("cost_daily 2026-11 all was damaged", "run_costs 2026-11 all was damaged"))
    ]
    assert len(matching_notes) == 2
    if moment == "closed":
        assert digests(settings) == kept
        assert all(note.endswith("with the same rows") for note in matching_notes)
    else:
        assert teams(settings) == {"late"}
        assert all("with different rows" in note for note in matching_notes)
    assert night(settings, LATER).notes == []


@pytest.mark.parametrize(
    ("moment", "damaged"),
    [
        pytest.param("closed", Unit("cost_allocations", "2026-11", "all"), id="allocations, unchanged"),
        pytest.param("tagged", Unit("builds", "2026-11", "allocate"), id="build, changed"),
        pytest.param("closed", Unit("builds", "2026-11", "allocate"), id="build, unchanged", marks=pytest.mark.torture),
        pytest.param("tagged", Unit("cost_allocations", "2026-11", "all"), id="allocations, changed", marks=pytest.mark.torture),
        pytest.param("closed", Unit("builds", "2026-11", "summarize"), id="summary, unchanged", marks=pytest.mark.torture),
        pytest.param("tagged", Unit("builds", "2026-11", "summarize"), id="summary, changed", marks=pytest.mark.torture),
    ],
)
def test_a_closed_month_that_changes_with_another_damaged_file_is_reported(world: KeptWorld, moment: str, damaged: Unit) -> None:
    """The damaged file returns with the same rows. Tables built with it include changes since the month was closed."""
    settings = load_settings(world.put_back(moment))
    kept = digests(settings)
    path = ParquetWarehouse(Path(settings.warehouse.uri)).path(damaged)
    Flip(path, path.stat().st_size // 2, 1, is_silent=True).make()
    outcome = pipeline.settle(settings, now=LATER)
    assert outcome.exit_code == 4
    moved = sorted(unit.table for unit, digest in digests(settings).items() if digest != kept[unit])
    matching_notes = [note for note in outcome.notes if "have changed" in note]
    assert (moved != []) == (moment == "tagged")
    assert len(matching_notes) == len(moved[:1])
    assert all(table in matching_notes[0] and matching_notes[0].startswith("2026-11 is closed") for table in moved)


def test_an_invoice_on_every_line_of_a_month_that_is_over_is_final(settings: Settings, config: Path, world: KeptWorld) -> None:
    """Invoices on only some lines do not make a month final, and the current month is never final."""
    world.put_back("new")
    part = config.parent / "bills" / "bill" / "part.csv"
    header, *lines = part.read_text().splitlines()
    part.write_text("\n".join([f"{header},InvoiceId", *(f"{line},{'x-1' if number else ''}" for number, line in enumerate(lines))]) + "\n")
    night(settings, NOW)
    assert (state(settings)["state"], statuses(settings)) == ("open", {"provisional"})
    part.write_text("\n".join([f"{header},InvoiceId", *(f"{line},x-1" for line in lines)]) + "\n")
    build(settings, NOW + timedelta(days=1))
    assert (state(settings)["state"], statuses(settings)) == ("open", {"provisional"})
    build(settings, datetime(2026, 12, 1, 6, tzinfo=timezone.utc))
    assert (state(settings)["state"], statuses(settings)) == ("final", {"final"})


def test_a_source_that_does_not_answer_proves_nothing(settings: Settings, config: Path) -> None:
    """A bill that could not be read for ten days may have changed in that time. The month stays open until the bill is read again."""
    bills = config.parent / "bills"
    bills.rename(config.parent / "away")
    for step in (pipeline.load, pipeline.allocate):
        step(settings, now=FINAL)
    assert state(settings)["state"] == "open"
    (config.parent / "away").rename(bills)
    night(settings, FINAL)
    assert state(settings)["state"] == "final"
