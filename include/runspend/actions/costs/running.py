"""What runs that are still going have cost so far, and cost an hour: from bills, estimates, and the time since the last pipeline run."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

from runspend.actions.costs.runs_like import RunsLike, find_runs_like
from runspend.core.amounts import EXACT, money, plain
from runspend.warehouse.base import Reader
from runspend.warehouse.sql_files import read_sql

__all__ = ["RunningRun", "find_running", "running_as_json", "say_what_runs"]


@dataclass(frozen=True)
class RunningRun:
    """A run without an end, in one currency. `cost`: about what it cost until now; None if nothing shows a price.

    `cost` is what is billed and estimated up to `known_until`, and `hour_cost` for each hour since then.
    `runs_like`: finished runs of the same experiment, on the same server and in the same currency; None without any.
    """

    tracking_server: str
    workspace: str
    run_id: str
    run_name: str | None
    experiment_name: str | None
    user_name: str | None
    start_time: datetime
    billing_currency: str | None
    cost: Decimal | None
    hour_cost: Decimal | None
    known_until: datetime | None
    runs_like: RunsLike | None


def find_running(reader: Reader, now: datetime, *, run: str = "", experiment: str = "") -> list[RunningRun]:
    """Return active runs, the most expensive first. `run`: the start of its id, or its name. Token costs have no cost per hour."""
    rows = reader.query(read_sql(Path(__file__).parent, "running_runs"), {"now": now, "run": run, "experiment": experiment}).to_pylist()
    like: dict[str, list[RunsLike]] = {
        name: find_runs_like(reader, name, {}, now) for name in sorted({row["experiment_name"] for row in rows} - {None})
    }
    found = [_running(row, now, like.get(row["experiment_name"], [])) for row in rows]
    return sorted(found, key=lambda one: (one.cost is None, -(one.cost or 0)))


def _running(row: dict[str, Any], now: datetime, like: Sequence[RunsLike]) -> RunningRun:
    hour_cost = None if row["hour_cost"] is None else Decimal(repr(row["hour_cost"])).quantize(Decimal("0.0001"))
    cost: Decimal | None = row.pop("known_cost")
    if cost is not None and hour_cost is not None:
        hours = Decimal((now - row["known_until"]).total_seconds()) / 3600
        cost = EXACT.add(cost, EXACT.multiply(hours, hour_cost)).quantize(Decimal("0.0001"), context=EXACT)
    same = [
        one
        for one in like
        if one.is_finished
        and (one.tracking_server, one.workspace, one.billing_currency)
        == (row["tracking_server"], row["workspace"], row["billing_currency"])
    ]
    return RunningRun(**{**row, "hour_cost": hour_cost}, cost=cost, runs_like=same[0] if same else None)


def say_what_runs(found: Sequence[RunningRun]) -> Iterator[str]:
    """Yield a sentence per run and currency."""
    if not found:
        yield "No run was active when the tracking servers were last read."
    for run in found:
        yield f"{run.run_name or run.run_id} ({run.run_id[:8]}) of {run.experiment_name or 'no experiment'}: {_say_cost(run)}"


def _say_cost(run: RunningRun) -> str:
    if run.cost is None:
        return "its cost is not known: no bill or price shows its machine. `runspend explain` says why"
    text = f"has cost about {money(run.cost)} {run.billing_currency}"
    if run.hour_cost is not None:
        text += f", {money(run.hour_cost)} an hour"
    if run.runs_like is not None:
        text += f"; runs like it cost {money(run.runs_like.low)} to {money(run.runs_like.high)}"
    return text


def running_as_json(found: Sequence[RunningRun]) -> list[dict[str, Any]]:
    """Return the runs as plain values; amounts are texts, times are ISO 8601."""
    return [{key: _plain(value) for key, value in vars(run).items()} for run in found]


def _plain(value: object) -> object:
    if isinstance(value, RunsLike):
        return {key: _plain(one) for key, one in vars(value).items()}
    return plain(value) if isinstance(value, Decimal) else value.isoformat() if isinstance(value, datetime) else value
