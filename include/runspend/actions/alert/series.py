"""Read the inputs for all budgets at once: their daily series, how far the bills reach, and selectors as SQL.

Belongs here: queries that answer for every budget in one scan. The SQL is in the .sql files of this folder. User input reaches it only as
parameters. The figures of one mail are read in `figures.py`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import date, datetime, timedelta, timezone
from decimal import Decimal
from importlib.resources import files
from typing import Any

from runspend.actions.alert.judge import Series, series_key
from runspend.actions.alert.periods import VERY_LATE_BILLS
from runspend.config.settings import Budget
from runspend.core.errors import ConfigError
from runspend.core.selectors import glob_to_regex
from runspend.warehouse.base import Reader

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
    "experiment_id": "experiment_id",  # for budgets in experiment tags; people do not write it
}
# Keys that name bill lines, not runs. MLflow cannot say which bill or provider a run will be on.
LINE_ONLY = ("cost_kind", "provider", "source")
RUN_COLUMNS = {key: f"r.{column}" for key, column in COST_COLUMNS.items() if key not in LINE_ONLY}
# Attributes of runs only. The key of a run's tag or param is a parameter too, because a person typed it.
MODEL = "coalesce(json_value({runs}tags, '$.model'), json_value({runs}params, '$.model'))"
MAPS = {"tag": "r.tags", "param": "r.params", "experiment_tag": "x.tags"}
BATCH = 200  # budgets per scan: each adds two sums to the query
# keys of budgets in experiment tags; experiment_id may not be written in settings
OF_EXPERIMENT = {"tracking", "workspace", "experiment_id"}


@dataclass(frozen=True)
class Coverage:
    """How far one bill reaches."""

    source: str
    covered_until: datetime | None
    usual_lag: timedelta | None
    state: str


def read_series(reader: Reader, budgets: Sequence[Budget], first: date, end: date) -> list[Series]:
    """Return each budget's billed and estimated money by (day, currency) in [first, end).

    One or two scans serve all budgets. Budgets of the same money share one series.
    """
    days = {"first_date": first, "end_date": end}
    wanted = {series_key(budget): budget for budget in budgets}
    found = dict[str, Series]()
    of_experiments = {key: budget for key, budget in wanted.items() if set(budget.for_) == OF_EXPERIMENT}
    for measure in {budget.measure for budget in of_experiments.values()}:
        found |= _read_tagged(reader, {key: b for key, b in of_experiments.items() if b.measure == measure}, measure, days)
    for is_of_runs in (False, True):
        numbered = [(n, b) for n, (key, b) in enumerate(wanted.items()) if b.is_of_runs is is_of_runs and key not in found]
        for start in range(0, len(numbered), BATCH):
            part = numbered[start : start + BATCH]
            billed = _rows(reader, "spend", part, days, is_of_runs)
            known = [(n, b) for n, b in part if "provider" not in b.for_]  # estimates do not know the provider
            estimated = _rows(reader, "estimates", known, days, is_of_runs) if known else []
            for n, budget in part:
                found[series_key(budget)] = Series(_column(billed, f"b{n}"), _column(billed, f"r{n}"), _column(estimated, f"b{n}"))
    return [found[series_key(budget)] for budget in budgets]


def read_first_day(reader: Reader) -> date | None:
    """Return the first day in the cost tables; None if they are empty."""
    found: date | None = reader.query("select min(charge_date) as first_date from cost_daily").to_pylist()[0]["first_date"]
    return found


def read_coverage(reader: Reader, now: datetime) -> tuple[Coverage, ...]:
    """Return how far each bill reaches. Lines that cover a whole month do not count beyond now."""
    rows = reader.query(sql("covered")).to_pylist()
    return tuple(
        Coverage(
            row["source"],
            None if row["covered_until"] is None else min(now, row["covered_until"]),
            None if row["usual_lag_seconds"] is None else timedelta(seconds=row["usual_lag_seconds"]),
            row["state"],
        )
        for row in rows
    )


def read_unread(reader: Reader) -> str:
    """Say which tracking servers could not be read, if none was ever read: no run has a cost yet. Otherwise empty."""
    rows = reader.query("select source, state, last_good_at from sources where kind = 'tracking' order by source").to_pylist()
    names = [row["source"] for row in rows if row["last_good_at"] is None and row["state"] in ("unreachable", "refused")]
    if not names or len(names) < len(rows):
        return ""
    return f"{', '.join(names)} {'was' if len(names) == 1 else 'were'} never read, so the cost of runs is not known"


def covered_until(coverage: Sequence[Coverage]) -> datetime | None:
    """Return the earliest end of all bills. None without bills, or if one bill does not state how far it reaches."""
    ends = [c.covered_until for c in coverage]
    known = [end for end in ends if end is not None]
    return min(known) if known and len(known) == len(ends) else None


def first_open_day(coverage: Sequence[Coverage], behind: timedelta = VERY_LATE_BILLS) -> date | None:
    """Return the first day that not every bill wholly covers; None if it is not known.

    A bill that ended long before the others is dead, or a failure that is reported to operators. It is left out: a forecast must not fill
    the months since then with its old costs.
    """
    newest = max((c.covered_until for c in coverage if c.covered_until is not None), default=None)
    alive = [c for c in coverage if newest is None or c.covered_until is None or newest - c.covered_until < behind]
    until = covered_until(alive)
    return None if until is None else until.astimezone(timezone.utc).date()


def selector_sql(selector: Mapping[str, Sequence[str]], columns: Mapping[str, str], prefix: str) -> tuple[str, dict[str, str]]:
    """Return a selector as a GoogleSQL condition over `columns` (key -> column), and its parameters."""
    conditions, parameters = [], dict[str, str]()

    def bind(value: str) -> str:
        name = f"{prefix}{len(parameters)}"
        parameters[name] = value
        return f"@{name}"

    for key, patterns in selector.items():
        kind, _, rest = key.partition(".")
        if rest and kind in columns:
            if '"' in rest or "\\" in rest:
                raise ConfigError(f"cannot select by {key!r}: a key with a quote or backslash has no JSON path. Leave it out.")
            column = f"json_value({columns[kind]}, {bind(f'$.{chr(34)}{rest}{chr(34)}')})"
        elif key in columns:
            column = columns[key]
        else:
            raise ConfigError(f"cannot select by {key!r}: budgets know {', '.join(sorted(columns))}. Change the key under `for`.")
        choices = []
        for pattern in patterns:
            has_glob = "*" in pattern or "?" in pattern
            choices.append(f"regexp_contains({column}, {bind(glob_to_regex(pattern))})" if has_glob else f"{column} = {bind(pattern)}")
        conditions.append(f"({' or '.join(choices)})")
    return " and ".join(conditions) or "true", parameters


def run_columns(*, own: Mapping[str, str] | None = None) -> dict[str, str]:
    """Map keys to columns of runs and experiments. `own` adds another table's columns for keys that runs do not have."""
    return {**RUN_COLUMNS, **MAPS, "model": MODEL.format(runs="r."), **(own or {})}


def cost_source(budget_is_of_runs: bool) -> tuple[str, dict[str, str]]:
    """Return the text for {costs} in a query, and its columns by key.

    It is the whole bill by day, or the cost of runs by day with their tags.
    """
    if not budget_is_of_runs:
        return "cost_daily", dict(COST_COLUMNS)
    maps = {"tag": "tags", "param": "params", "experiment_tag": "experiment_tags"}
    columns = {key: column for key, column in COST_COLUMNS.items() if key != "provider"}
    return f"(\n{sql('run_days')})", {**columns, **maps, "model": MODEL.format(runs="")}


def sql(name: str) -> str:
    """Return the text of one of the .sql files in this folder, with {runs} replaced."""
    text = files(__package__).joinpath(f"{name}.sql").read_text(encoding="utf-8")
    return text.replace("{runs}", sql("joined_runs")) if "{runs}" in text else text


def _rows(
    reader: Reader, name: str, budgets: Sequence[tuple[int, Budget]], days: Mapping[str, date], is_of_runs: bool
) -> list[dict[str, Any]]:
    costs, columns = cost_source(is_of_runs)
    if name == "estimates":
        columns = run_columns(own={"cost_kind": "e.cost_kind", "source": "e.source"})
    parameters: dict[str, Any] = dict(days)
    sums = []
    for n, budget in budgets:
        condition, bound = selector_sql(budget.for_, columns, f"b{n}_")
        parameters |= bound
        measure = f"e.{budget.measure}" if name == "estimates" else budget.measure
        sums.append(f"sum(if({condition}, {measure}, null)) as b{n}")
        if name == "spend":
            sums.append(f"sum(if({condition} and allocated_to = 'run', {measure}, null)) as r{n}")
    text = sql(name).replace("{costs}", costs).replace("{budgets}", ",\n  ".join(sums))
    found: list[dict[str, Any]] = reader.query(text, parameters).to_pylist()
    return found


def _read_tagged(reader: Reader, budgets: Mapping[str, Budget], measure: str, days: Mapping[str, date]) -> dict[str, Series]:
    """Return the series of budgets of one experiment each.

    There may be thousands, so the query groups by experiment instead of computing a sum for each budget.
    """
    keys = {tuple(b.for_[name][0] for name in ("tracking", "workspace", "experiment_id")): key for key, b in budgets.items()}
    found = {key: Series({}, {}, {}) for key in budgets}
    shared = dict[tuple[date, str], tuple[date, str]]()
    for name, columns in (("tagged_spend", ("billed", "of_runs")), ("tagged_estimates", ("estimated",))):
        table = reader.query(sql(name).replace("{measure}", measure), dict(days))
        for batch in table.to_batches(max_chunksize=10_000):
            for row in batch.to_pylist():
                key = keys.get((row["tracking_server"], row["workspace"], row["experiment_id"]))
                if key is None:
                    continue
                day = row["charge_date"], row["billing_currency"]
                for column in columns:
                    if row[column] is not None:
                        getattr(found[key], column)[shared.setdefault(day, day)] = row[column]
    return found


def _column(rows: Sequence[Mapping[str, Any]], name: str) -> dict[tuple[date, str], Decimal]:
    return {(row["charge_date"], row["billing_currency"]): row[name] for row in rows if row.get(name) is not None}
