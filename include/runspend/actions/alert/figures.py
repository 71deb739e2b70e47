"""Read the figures of one budget mail from the cost tables: active runs, cost drivers and allocation confidence.

Belongs here: queries about one budget, and their results as plain values. The SQL is in the .sql files of this folder. `budget_costs.py`
reads the costs of all budgets at once, `decisions.py` decides, and `wording.py` writes the texts.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from decimal import Decimal
from typing import Any

from runspend.actions.alert.bill_coverage import Coverage, covered_until
from runspend.actions.alert.judge import Status
from runspend.actions.alert.periods import same_days_before
from runspend.actions.alert.selector_sql import LINE_ONLY, cost_source, run_columns, selector_sql, sql
from runspend.core.amounts import EXACT, add
from runspend.warehouse.base import Reader

# A run without an end time counts as active only if it had a sign of activity within this time. Some runs are never ended in MLflow.
ALIVE_WITHIN = timedelta(hours=24)
TOP = 5


@dataclass(frozen=True)
class Driver:
    """The cost of one experiment, or of one kind of cost without an experiment, and its cost in the same days of the previous period."""

    name: str
    who: str | None
    spent: Decimal
    spent_before: Decimal


@dataclass(frozen=True)
class RunningRun:
    """One run that is active now. `per_hour` is its mean billed cost per hour so far, or None while no bill covers it."""

    name: str
    who: str | None
    machines: str
    since: datetime
    per_hour: Decimal | None


@dataclass(frozen=True)
class TopRun:
    """One run of a budget, with its cost in the days of a query."""

    server: str
    workspace: str
    run_id: str
    name: str
    who: str | None
    experiment: str | None
    machines: str
    spent: Decimal


@dataclass(frozen=True)
class Restatement:
    """A range of days that a bill restated. `source` is the name of the bill, and `last` is included."""

    source: str
    first: date
    last: date


@dataclass(frozen=True)
class Figures:
    """The figures of a budget mail that are not part of the decision."""

    running: tuple[RunningRun, ...]
    running_count: int
    drivers: tuple[Driver, ...]
    others: Driver | None
    failed: Decimal | None
    by_confidence: Mapping[str, Decimal]
    no_run: Decimal
    idle_elsewhere: Decimal
    coverage: tuple[Coverage, ...]
    runs: tuple[TopRun, ...] = ()
    run_count: int = 0
    people: tuple[tuple[str | None, int, Decimal], ...] = ()  # user, number of runs, cost
    people_count: int = 0

    @property
    def covered_until(self) -> datetime | None:
        """The time to which all bills are complete. None if it is not known for one of them."""
        return covered_until(self.coverage)


def read_figures(reader: Reader, status: Status, coverage: tuple[Coverage, ...], now: datetime) -> Figures:
    """Return the figures of one budget's mail."""
    budget, period = status.budget, status.period
    until = min(period.end, max(period.start, (covered_until(coverage) or now).date()) + timedelta(days=1))
    before_first, before_end = same_days_before(period, until)
    base: dict[str, Any] = {"first_date": period.start, "end_date": period.end, "currency": status.currency}

    def rows(
        name: str, columns: Mapping[str, str], parameters: Mapping[str, Any], keys: Mapping[str, Sequence[str]] = budget.for_
    ) -> list[dict[str, Any]]:
        condition, bound = selector_sql(keys, columns, "p")
        text = sql(name).replace("{costs}", costs).replace("{measure}", budget.measure).replace("{selector}", condition)
        found: list[dict[str, Any]] = reader.query(text, {**parameters, **bound}).to_pylist()
        return found

    costs, cost_columns = cost_source(budget.is_of_runs)
    drivers = rows("drivers", cost_columns, {**base, "before_first_date": before_first, "before_end_date": before_end, "top": TOP})
    confidence = rows("confidence", cost_columns, base)
    of_runs = {key: patterns for key, patterns in budget.for_.items() if key not in LINE_ONLY}
    running = rows(
        "running", run_columns(), {"currency": status.currency, "alive_since": now - ALIVE_WITHIN, "now": now, "top": 2 * TOP}, of_runs
    )
    failed, top_runs, top_people = None, list[dict[str, Any]](), list[dict[str, Any]]()
    if "provider" not in budget.for_:  # run_costs_daily does not keep the provider
        own = run_columns(own={"cost_kind": "c.cost_kind", "source": "c.source"})
        failed = rows("failed", own, base)[0]["spent"] or Decimal(0)
        top_runs, top_people = rows("top_runs", own, {**base, "top": TOP}), rows("top_people", own, {**base, "top": TOP})
    idle = rows("idle", {}, base, {})[0]["spent"] or Decimal(0)

    shown = tuple(Driver(_driver_name(r), r["last_user"] if r["first_user"] == r["last_user"] else None, *_spent(r)) for r in drivers)
    other_count = drivers[0]["driver_count"] - len(shown) if drivers else 0
    others = None
    if other_count:
        total_before = drivers[0]["total_before"] or Decimal(0)
        is_estimated = budget.judged_on == "bill_and_estimates"  # drivers are from the bill and do not include estimates
        rest, rest_before = EXACT.subtract(status.spent or Decimal(0), status.estimated if is_estimated else Decimal(0)), total_before
        for driver in shown:
            rest, rest_before = EXACT.subtract(rest, driver.spent), EXACT.subtract(rest_before, driver.spent_before)
        others = Driver(f"{other_count} others", None, rest, rest_before)
    by_confidence = {r["confidence"] or "none": r["spent"] or Decimal(0) for r in confidence if r["allocated_to"] == "run"}
    own_idle = add(r["spent"] for r in confidence if r["allocated_to"] == "idle")
    return Figures(
        running=tuple(_running_run(r, covered_until(coverage)) for r in running),
        running_count=running[0]["run_count"] if running else 0,
        drivers=shown,
        others=others,
        failed=failed,
        by_confidence=by_confidence,
        no_run=add(r["spent"] for r in confidence if r["allocated_to"] != "run"),
        idle_elsewhere=idle - own_idle,
        coverage=coverage,
        runs=_top_runs(top_runs),
        run_count=top_runs[0]["run_count"] if top_runs else 0,
        people=tuple((r["user_name"], r["runs"], r["spent"] or Decimal(0)) for r in top_people),
        people_count=top_people[0]["user_count"] if top_people else 0,
    )


def read_day_runs(reader: Reader, status: Status, day: date) -> tuple[tuple[TopRun, ...], int]:
    """Return the most expensive runs of a budget on one day, and the number of its runs with costs on that day.

    Returns no runs for a budget that selects by provider, because only bill lines have a provider.
    """
    budget = status.budget
    if "provider" in budget.for_:
        return (), 0
    condition, bound = selector_sql(budget.for_, run_columns(own={"cost_kind": "c.cost_kind", "source": "c.source"}), "p")
    text = sql("top_runs").replace("{measure}", budget.measure).replace("{selector}", condition)
    days = {"first_date": day, "end_date": day + timedelta(days=1)}
    rows = reader.query(text, {**days, "currency": status.currency, "top": TOP, **bound}).to_pylist()
    return _top_runs(rows), rows[0]["run_count"] if rows else 0


def _top_runs(rows: Sequence[Mapping[str, Any]]) -> tuple[TopRun, ...]:
    return tuple(
        TopRun(r["tracking_server"], r["workspace"], r["run_id"], r["run_name"] or r["run_id"], r["user_name"], r["experiment_name"], _machines(r), r["spent"] or Decimal(0))
        for r in rows
    )  # fmt: skip


def read_restated(reader: Reader, status: Status, through: date, since: datetime) -> tuple[Restatement, ...]:
    """Return the restatements after `since` of days in the period up to and including `through`."""
    text = sql("restated").replace("{measure}", status.budget.measure)
    parameters = {"first_date": status.period.start, "through": through, "currency": status.currency, "since": since}
    return tuple(Restatement(r["source"], r["first_date"], r["last_date"]) for r in reader.query(text, parameters).to_pylist())


def _spent(row: Mapping[str, Any]) -> tuple[Decimal, Decimal]:
    return row["spent"] or Decimal(0), row["spent_before"] or Decimal(0)


def _driver_name(row: Mapping[str, Any]) -> str:
    if row["experiment_id"] is None and row["experiment_name"] is None:
        return f"({row['allocated_to']})"
    return str(row["experiment_name"] or f"experiment {row['experiment_id']}")


def _running_run(row: Mapping[str, Any], billed_until: datetime | None) -> RunningRun:
    per_hour = None
    if row["spent"] and billed_until and billed_until > row["start_time"]:
        seconds = Decimal((billed_until - row["start_time"]) // timedelta(seconds=1))
        per_hour = row["spent"] * 3600 / seconds if seconds else None
    return RunningRun(row["run_name"] or row["run_id"], row["user_name"], _machines(row), row["start_time"], per_hour)


def _machines(row: Mapping[str, Any]) -> str:
    return f"{row['num_nodes'] or 1} x {row['instance_type']}" if row["instance_type"] else ""
