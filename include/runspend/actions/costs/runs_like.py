"""Estimate the cost of a future run from the ended runs of its experiment: the median, and the range of the middle 80%."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

from runspend.core.amounts import plain, small_money
from runspend.core.errors import UsageError
from runspend.warehouse.base import Reader
from runspend.warehouse.sql_files import read_sql

DAYS = 365
ENOUGH = 10  # runs for a range of the middle 80%; with fewer, the range is from the lowest to the highest cost
_KEY = re.compile(r"[\w./: -]{1,250}")


@dataclass(frozen=True)
class RunsLike:
    """Ended runs of an experiment in one workspace of a server, with one currency and one outcome.

    Costs include those of nested runs. `low` and `high` are the range of the middle 80% of the costs.
    `has_nested` states whether any of the runs has nested runs with a cost of their own.
    """

    tracking_server: str
    workspace: str
    billing_currency: str
    is_finished: bool
    runs: int
    median: Decimal
    low: Decimal
    high: Decimal
    median_hours: float
    has_nested: bool


def find_runs_like(reader: Reader, experiment: str, params: Mapping[str, str], now: datetime) -> list[RunsLike]:
    """Return what the runs of an experiment with these params cost in the last year, one item per server, currency and outcome.

    Raises UsageError for an unknown experiment, or for a param that no run of it has in the warehouse.
    """
    found = read_runs_like(reader, experiment, params, now)
    if not found:
        _check_known(reader, experiment)
        for key in params:
            _check_copied(reader, experiment, key)
    return found


def read_runs_like(reader: Reader, experiment: str, params: Mapping[str, str], now: datetime) -> list[RunsLike]:
    """Return what similar runs cost, like `find_runs_like`. Return an empty list if no such run was billed."""
    given = {"experiment": experiment, "since": now - timedelta(days=DAYS), "now": now}
    values = {f"param_{number}": value for number, value in enumerate(params.values())}
    conditions = "".join(f" and {_param(key)} = @{name}" for key, name in zip(params, values, strict=True))
    text = read_sql(Path(__file__).parent, "runs_like").replace("{with_params}", conditions)
    return [RunsLike(**row) for row in reader.query(text, {**given, **values}).to_pylist()]


def say_what_it_costs(experiment: str, found: Sequence[RunsLike]) -> list[str]:
    """Return one sentence per item."""
    if not found:
        return [f"No similar run of {experiment} ended in the last {DAYS} days and was billed."]
    several = len({(one.tracking_server, one.workspace) for one in found}) > 1
    return [_say(one, f" on {one.tracking_server}/{one.workspace}" if several else "") for one in found]


def as_json(found: Sequence[RunsLike]) -> list[dict[str, Any]]:
    """Return the items as values for JSON. Amounts are strings with all their digits."""
    return [{key: plain(value) if isinstance(value, Decimal) else value for key, value in asdict(one).items()} for one in found]


def _say(one: RunsLike, where: str) -> str:
    kind = "finished" if one.is_finished else "failed or stopped"
    middle = f"{small_money(one.median)} {one.billing_currency} and {_say_time(one.median_hours)}"
    if one.runs == 1:
        return f"1 {kind} run{where}: {middle}"
    spread = "the middle 80% cost" if one.runs >= ENOUGH else "they cost"
    return f"{one.runs:,} {kind} runs{where}: median {middle}; {spread} {small_money(one.low)} to {small_money(one.high)} {one.billing_currency}"


def _say_time(hours: float) -> str:
    return f"{hours:,.1f} h" if hours >= 0.95 else f"{hours * 60:.0f} min" if hours * 60 >= 0.95 else f"{hours * 3600:.0f} s"


def _param(key: str) -> str:
    """Return the SQL expression for a param of a run. A JSON path must be a literal in the SQL, so the key is checked first."""
    if not _KEY.fullmatch(key):
        raise UsageError(f"cannot use the param {key!r}: a name can have only letters, digits, spaces and _ - . / :")
    return f"json_value(r.params, '$.\"{key}\"')"


def _check_known(reader: Reader, experiment: str) -> None:
    sql = "select count(*) as experiments from experiments e where e.experiment_name = @experiment"
    if reader.query(sql, {"experiment": experiment}).to_pylist()[0]["experiments"] == 0:
        raise UsageError(
            f"cannot compare with runs of {experiment}: the warehouse has no experiment of this name. `runspend costs --by experiment` lists those with costs."
        )


def _check_copied(reader: Reader, experiment: str, key: str) -> None:
    sql = f"select count(*) as runs from runs r where r.experiment_name = @experiment and {_param(key)} is not null"
    if reader.query(sql, {"experiment": experiment}).to_pylist()[0]["runs"] == 0:
        raise UsageError(
            f"cannot compare by the param {key}: no run of {experiment} has it in the warehouse. Name it in `copy.params` of the tracking server."
        )
