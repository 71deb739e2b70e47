"""What the alert reads from the cost tables: spend of all budgets in one query, and the figures of a mail.

Put here queries and the plain values they become. The SQL is in the .sql files beside this; what a person typed reaches it
as parameters only. Deciding (`budgets.py`) and wording (`mail.py`) do not belong here.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from decimal import Decimal
from importlib.resources import files
from typing import Any

from runspend.actions.alert.budgets import EXACT, BudgetPeriod, Status, same_days_before
from runspend.config import Budget
from runspend.errors import ConfigError
from runspend.selectors import glob_to_regex
from runspend.warehouse import Reader

COST_COLUMNS = {
    "experiment": "experiment_name",
    "team": "team",
    "project": "project",
    "cost_center": "cost_center",
    "owner": "owner",
    "user": "user_name",
    "tracking": "tracking_server",
    "workspace": "workspace",
    "cost_kind": "cost_kind",
    "provider": "service_provider_name",
    "source": "source",
}
# Keys that name bill lines, not runs: MLflow cannot say which bill or provider a run will be on.
LINE_ONLY = ("cost_kind", "provider", "source")
# A run without an end that gave no sign for this long is not "running now" (ledger: never-ended runs).
ALIVE_WITHIN = timedelta(hours=24)
TOP = 5


@dataclass(frozen=True)
class Driver:
    """One experiment, or one kind of money without an experiment, with the same days of the period before."""

    name: str
    who: str | None
    spent: Decimal
    spent_before: Decimal


@dataclass(frozen=True)
class RunningRun:
    """One run that is on now. `per_hour` is its mean so far, None while no bill reaches it."""

    name: str
    who: str | None
    machines: str
    since: datetime
    per_hour: Decimal | None


@dataclass(frozen=True)
class Coverage:
    """How far one bill reaches."""

    source: str
    covered_until: datetime | None
    usual_lag: timedelta | None
    state: str


@dataclass(frozen=True)
class Figures:
    """What a budget mail tells besides the decision itself."""

    running: tuple[RunningRun, ...]
    running_count: int
    drivers: tuple[Driver, ...]
    others: Driver | None
    other_count: int
    failed: Decimal | None
    by_confidence: Mapping[str, Decimal]
    no_run: Decimal
    idle_elsewhere: Decimal
    coverage: tuple[Coverage, ...]
    estimated: Decimal | None = None  # of time no bill reaches yet; None: nothing, or not known of what the budget selects

    @property
    def covered_until(self) -> datetime | None:
        """All bills are complete to here; None if one of them never said."""
        return covered_until(self.coverage)


def selector_sql(selector: Mapping[str, Sequence[str]], columns: Mapping[str, str], prefix: str) -> tuple[str, dict[str, str]]:
    """A selector as a GoogleSQL condition over `columns` (key -> column), and the parameters it needs."""
    conditions, parameters = [], dict[str, str]()
    for key, patterns in selector.items():
        if key not in columns:
            raise ConfigError(f"cannot select by {key!r}: budgets know {', '.join(sorted(columns))}. Change the key under `for`.")
        choices = []
        for pattern in patterns:
            name = f"{prefix}{len(parameters)}"
            has_glob = "*" in pattern or "?" in pattern
            parameters[name] = glob_to_regex(pattern) if has_glob else pattern
            choices.append(f"regexp_contains({columns[key]}, @{name})" if has_glob else f"{columns[key]} = @{name}")
        conditions.append(f"({' or '.join(choices)})")
    return " and ".join(conditions) or "true", parameters


def read_spend(reader: Reader, budgets: Sequence[Budget], periods: Sequence[BudgetPeriod]) -> list[dict[tuple[date, str], Decimal]]:
    """For each budget its spend by (charge date, currency) over all days that `periods` reach: one scan for all budgets."""
    if not budgets or not periods:
        return [{} for _ in budgets]
    parameters: dict[str, Any] = {"first_date": min(p.start for p in periods), "end_date": max(p.end for p in periods)}
    sums = []
    for number, budget in enumerate(budgets):
        condition, bound = selector_sql(budget.for_, COST_COLUMNS, f"b{number}_")
        parameters |= bound
        sums.append(f"sum(if({condition}, {budget.measure}, null)) as b{number}")
    rows = reader.query(_sql("spend").replace("{budgets}", ",\n  ".join(sums)), parameters).to_pylist()
    return [
        {(row["charge_date"], row["billing_currency"]): row[f"b{number}"] for row in rows if row[f"b{number}"] is not None}
        for number in range(len(budgets))
    ]


def read_coverage(reader: Reader) -> tuple[Coverage, ...]:
    """How far each bill reaches."""
    rows = reader.query(_sql("covered")).to_pylist()
    return tuple(
        Coverage(
            row["source"],
            row["covered_until"],
            None if row["usual_lag_seconds"] is None else timedelta(seconds=row["usual_lag_seconds"]),
            row["state"],
        )
        for row in rows
    )


def covered_until(coverage: Sequence[Coverage]) -> datetime | None:
    """The earliest of all bills; None without bills, or if one never said."""
    ends = [c.covered_until for c in coverage]
    known = [end for end in ends if end is not None]
    return min(known) if known and len(known) == len(ends) else None


def read_figures(reader: Reader, status: Status, coverage: tuple[Coverage, ...], now: datetime) -> Figures:
    """The figures of one budget's mail."""
    budget, period = status.budget, status.period
    until = min(period.end, max(period.start, (covered_until(coverage) or now).date()) + timedelta(days=1))
    before_first, before_end = same_days_before(period, until)
    base: dict[str, Any] = {"first_date": period.start, "end_date": period.end, "currency": status.currency}

    def rows(
        name: str, columns: Mapping[str, str], parameters: Mapping[str, Any], keys: Mapping[str, Sequence[str]] = budget.for_
    ) -> list[dict[str, Any]]:
        condition, bound = selector_sql(keys, columns, "p")
        text = _sql(name).replace("{measure}", budget.measure).replace("{selector}", condition)
        found: list[dict[str, Any]] = reader.query(text, {**parameters, **bound}).to_pylist()
        return found

    drivers = rows("drivers", COST_COLUMNS, {**base, "before_first_date": before_first, "before_end_date": before_end, "top": TOP})
    sureness = rows("sureness", COST_COLUMNS, base)
    run_columns = {key: f"r.{column}" for key, column in COST_COLUMNS.items() if key not in LINE_ONLY}
    of_runs = {key: patterns for key, patterns in budget.for_.items() if key not in LINE_ONLY}
    running = rows(
        "running", run_columns, {"currency": status.currency, "alive_since": now - ALIVE_WITHIN, "now": now, "top": 2 * TOP}, of_runs
    )
    failed = estimated = None
    if "provider" not in budget.for_:  # run_costs_daily does not keep the provider
        failed = rows("failed", {**run_columns, "cost_kind": "c.cost_kind", "source": "c.source"}, base)[0]["spent"] or Decimal(0)
        estimated = rows("estimated", {**run_columns, "cost_kind": "e.cost_kind", "source": "e.source"}, base)[0]["spent"]
    idle = rows("idle", {}, base, {})[0]["spent"] or Decimal(0)

    shown = tuple(Driver(_driver_name(r), r["last_user"] if r["first_user"] == r["last_user"] else None, *_spent(r)) for r in drivers)
    other_count = drivers[0]["driver_count"] - len(shown) if drivers else 0
    others = None
    if other_count:
        total_before = drivers[0]["total_before"] or Decimal(0)
        rest, rest_before = (status.spent or Decimal(0)), total_before
        for driver in shown:
            rest, rest_before = EXACT.subtract(rest, driver.spent), EXACT.subtract(rest_before, driver.spent_before)
        others = Driver(f"{other_count} others", None, rest, rest_before)
    by_confidence = {r["confidence"] or "none": r["spent"] or Decimal(0) for r in sureness if r["allocated_to"] == "run"}
    own_idle = _total(r for r in sureness if r["allocated_to"] == "idle")
    return Figures(
        running=tuple(_running_run(r, covered_until(coverage)) for r in running),
        running_count=running[0]["run_count"] if running else 0,
        drivers=shown,
        others=others,
        other_count=other_count,
        failed=failed,
        by_confidence=by_confidence,
        no_run=_total(r for r in sureness if r["allocated_to"] != "run"),
        idle_elsewhere=idle - own_idle,
        estimated=estimated,
        coverage=coverage,
    )


def _sql(name: str) -> str:
    return files(__package__).joinpath(f"{name}.sql").read_text(encoding="utf-8")


def _total(rows: Any) -> Decimal:
    total = Decimal(0)
    for row in rows:
        total = EXACT.add(total, row["spent"] or Decimal(0))
    return total


def _spent(row: Mapping[str, Any]) -> tuple[Decimal, Decimal]:
    return row["spent"] or Decimal(0), row["spent_before"] or Decimal(0)


def _driver_name(row: Mapping[str, Any]) -> str:
    if row["experiment_id"] is None and row["experiment_name"] is None:
        return f"({row['allocated_to']})"
    return str(row["experiment_name"] or f"experiment {row['experiment_id']}")


def _running_run(row: Mapping[str, Any], billed_until: datetime | None) -> RunningRun:
    machines = f"{row['num_nodes'] or 1} x {row['instance_type']}" if row["instance_type"] else ""
    per_hour = None
    if row["spent"] and billed_until and billed_until > row["start_time"]:
        seconds = Decimal((billed_until - row["start_time"]) // timedelta(seconds=1))
        per_hour = row["spent"] * 3600 / seconds if seconds else None
    return RunningRun(row["run_name"] or row["run_id"], row["user_name"], machines, row["start_time"], per_hour)
