"""Read the daily billed and estimated costs of all budgets at once.

Belongs here: queries that compute many budgets in one scan. The SQL is in the .sql files of this folder. User input is passed only as query
parameters. `figures.py` reads the figures of one mail.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import date
from decimal import Decimal
from typing import Any

from runspend.actions.alert.judge import Series, series_key
from runspend.actions.alert.selector_sql import cost_source, run_columns, selector_sql, sql
from runspend.actions.alert.tag_budgets import OF_EXPERIMENT
from runspend.config.settings import Budget
from runspend.warehouse.base import Reader

BATCH = 200  # budgets per scan: each adds two sums to the query


def read_series(reader: Reader, budgets: Sequence[Budget], first: date, end: date) -> list[Series]:
    """Return one series per budget: its billed and estimated costs by (day, currency) in [first, end).

    One scan computes up to BATCH budgets. Budgets that select the same costs share one series.
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
            known = [(n, b) for n, b in part if "provider" not in b.for_]  # estimates have no provider
            estimated = _rows(reader, "estimates", known, days, is_of_runs) if known else []
            for n, budget in part:
                found[series_key(budget)] = Series(_column(billed, f"b{n}"), _column(billed, f"r{n}"), _column(estimated, f"b{n}"))
    return [found[series_key(budget)] for budget in budgets]


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
    """Return the series of budgets that each select one experiment, by series key.

    There may be thousands of them, so the query groups by experiment instead of computing one sum per budget.
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
