"""Compute what active runs have cost so far, and what they cost per hour.

The cost comes from bills and estimates, plus the cost per hour for the time since then. A run that is not billed or estimated yet gets
the last price of its machines. If that is not known, it gets the price of the instance type that it states.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

from runspend.actions.costs.prices import PRICE_DAYS
from runspend.actions.costs.runs_like import RunsLike, read_runs_like
from runspend.core.amounts import EXACT, plain, small_money
from runspend.core.price_rows import choose_price
from runspend.core.text import clean, cut
from runspend.warehouse.base import Reader
from runspend.warehouse.sql_files import read_sql

PLACES = Decimal("0.0001")


@dataclass(frozen=True)
class RunningRun:
    """An active run, in one currency.

    `cost` is the approximate cost until now: the billed and estimated cost up to `known_until`, plus `hour_cost` for each hour since
    then. It is None if no price is known.
    `priced_by` is set only for a run that is not billed or estimated yet. It is the source of its price, or why there is none.
    `runs_like` has the finished runs of the same experiment, server, workspace and currency, or None if there are none.
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
    priced_by: str | None
    runs_like: RunsLike | None


def find_running(reader: Reader, now: datetime, *, run: str = "", experiment: str = "") -> list[RunningRun]:
    """Return the active runs, most expensive first. The cost per hour does not include token costs.

    `run` limits the result to runs with this name, or with an id that begins with it. `experiment` limits it to one experiment.
    """
    rows = reader.query(read_sql(Path(__file__).parent, "running_runs"), {"now": now, "run": run, "experiment": experiment}).to_pylist()
    like: dict[str, list[RunsLike]] = {
        name: read_runs_like(reader, name, {}, now) for name in sorted({row["experiment_name"] for row in rows} - {None})
    }
    prices = _price_new_runs(reader, rows, now)
    found = [_running(row, now, prices, like.get(row["experiment_name"], [])) for row in rows]
    return sorted(found, key=lambda one: (one.cost is None, -(one.cost or 0)))


@dataclass(frozen=True)
class _NewPrice:
    """The price of a run that is not billed or estimated yet.

    `hour_cost` is the cost of an hour now: 0 while a nested run is active, because the nested run pays. `past_hour_cost` is the cost
    of an hour so far. `hours` is the run's time so far, without the time of its nested runs.
    """

    billing_currency: str | None
    hour_cost: float
    past_hour_cost: float
    hours: float
    priced_by: str


def _price_new_runs(reader: Reader, rows: Sequence[dict[str, Any]], now: datetime) -> dict[tuple[str, str, str], _NewPrice]:
    """Return the prices of the runs in `rows` that are not billed or estimated yet, by (tracking server, workspace, run id)."""
    new = sorted({row["run_id"] for row in rows if row["billing_currency"] is None})
    if not new:
        return {}
    folder, since = Path(__file__).parent, now - timedelta(days=PRICE_DAYS)
    machines = reader.query(read_sql(folder, "running_prices"), {"now": now, "since": since, "runs": new}).to_pylist()
    of_types = reader.query(read_sql(folder, "hour_prices"), {"now": now, "since": since}).to_pylist()
    listed = reader.query(read_sql(folder, "listed_prices")).to_pylist()
    of_runs: dict[tuple[str, str, str], list[dict[str, Any]]] = {}
    for row in machines:
        of_runs.setdefault((row["tracking_server"], row["workspace"], row["run_id"]), []).append(row)
    return {run: _price(of_run, of_types, listed) for run, of_run in of_runs.items()}


def _price(machines: Sequence[dict[str, Any]], of_types: Sequence[dict[str, Any]], listed: Sequence[dict[str, Any]]) -> _NewPrice:
    """Return the price of one run. `machines` has a row for each of its machines, or one row if it states none.

    A machine costs its own last price, or else the price of the instance type that the run states.
    """
    run = machines[0]
    kind, region, option = run["instance_type"] or "", run["region_id"] or "", run["purchase_option"] or ""
    of_type = choose_price(of_types, kind, region, option) or choose_price(listed, kind, region, option)
    costs: dict[str, float] = {}
    for machine in machines:
        if machine["hour_cost"] is not None:
            currency, cost = machine["billing_currency"], machine["hour_cost"]
        elif of_type is not None:
            currency, cost = of_type["currency"], of_type["hour_cost"] * (1 if machine["resource_key"] else run["num_nodes"])
        else:
            continue
        costs[currency] = costs.get(currency, 0.0) + cost * (machine["share"] or 1)
    if len(costs) != 1:
        shown = cut(", ".join(machine["resource_key"] for machine in machines if machine["resource_key"]), 200)
        kind = cut(kind, 60)
        why = f"no bill or price list has {shown or kind}" if shown or kind else "it states neither a machine nor an instance type"
        if shown and kind:
            why += f", or a price of {kind}"
        return _NewPrice(None, 0, 0, 0, why if not costs else "its machines are billed in several currencies")
    [(currency, cost)] = costs.items()
    by = (
        "the last price of its machine"
        if all(machine["hour_cost"] is not None for machine in machines)
        else f"the price of {cut(kind, 60)}"
    )
    return _NewPrice(currency, 0.0 if run["is_waiting"] else cost, cost, max(run["own_hours"], 0.0), by)


def _running(row: dict[str, Any], now: datetime, prices: dict[tuple[str, str, str], _NewPrice], like: Sequence[RunsLike]) -> RunningRun:
    hour_cost = None if row["hour_cost"] is None else Decimal(repr(row["hour_cost"])).quantize(PLACES, context=EXACT)
    cost: Decimal | None = row.pop("known_cost")
    is_nested, priced_by = row.pop("is_nested"), None
    if cost is not None and hour_cost is not None:
        hours = Decimal((now - row["known_until"]).total_seconds()) / 3600
        cost = EXACT.add(cost, EXACT.multiply(hours, hour_cost)).quantize(PLACES, context=EXACT)
    if (price := prices.get((row["tracking_server"], row["workspace"], row["run_id"]))) is not None:
        priced_by = price.priced_by
        if price.billing_currency is not None:
            cost = Decimal(repr(price.hours * price.past_hour_cost)).quantize(PLACES, context=EXACT)
            hour_cost = Decimal(repr(price.hour_cost)).quantize(PLACES, context=EXACT)
            row |= {"billing_currency": price.billing_currency, "known_until": row["start_time"]}
    same = [
        one
        for one in like
        if one.is_finished
        and not is_nested
        and (one.tracking_server, one.workspace, one.billing_currency)
        == (row["tracking_server"], row["workspace"], row["billing_currency"])
    ]
    return RunningRun(**{**row, "hour_cost": hour_cost}, cost=cost, priced_by=priced_by, runs_like=same[0] if same else None)


def say_what_runs(found: Sequence[RunningRun]) -> Iterator[str]:
    """Yield one sentence per run and currency. It names the tracking server if there are several."""
    has_several = len({run.tracking_server for run in found}) > 1
    for run in found:
        where = f" on {run.tracking_server}" if has_several else ""
        experiment = clean(run.experiment_name, 200) if run.experiment_name else "no experiment"
        yield f"{clean(run.run_name or run.run_id, 200)} ({run.run_id[:8]}) of {experiment}{where}: {_say_cost(run)}"


def say_nothing_runs(reader: Reader, *, run: str = "", experiment: str = "") -> Iterator[str]:
    """Yield why there are no active runs to show: when each tracking server was last read, and how to read it again."""
    what = " ".join(
        ["No run", *([f"named {run}, or with an id that begins with it,"] if run else []), *([f"of {experiment}"] if experiment else [])]
    )
    read = reader.query(read_sql(Path(__file__).parent, "last_reads")).to_pylist()
    if not read:
        yield "No tracking server was read yet. Run `runspend extract`."
        return
    times = ", ".join(f"{one['source']} at {one['covered_until']:%Y-%m-%d %H:%M} UTC" for one in read)
    yield f"{what} was active when MLflow was last read ({times}). Runs that started since then appear after `runspend extract`."


def _say_cost(run: RunningRun) -> str:
    if run.cost is None:
        return f"its cost is not known: {run.priced_by or 'no bill or price list has its machine'}. For details: runspend explain {run.run_id[:8]}"
    text = f"has cost about {small_money(run.cost)} {run.billing_currency}"
    if run.hour_cost is not None:
        text += f", {small_money(run.hour_cost)} an hour"
    if run.priced_by is not None:
        text += f", by {run.priced_by} (not estimated or billed yet)"
    if run.runs_like is not None:
        whose = "similar runs, with their nested runs, cost" if run.runs_like.has_nested else "similar runs cost"
        text += f"; {whose} {small_money(run.runs_like.low)} to {small_money(run.runs_like.high)}"
    return text


def running_as_json(found: Sequence[RunningRun]) -> list[dict[str, Any]]:
    """Return the runs as values for JSON: amounts as strings with all their digits, times as ISO 8601."""
    return [{key: _plain(value) for key, value in vars(run).items()} for run in found]


def _plain(value: object) -> object:
    if isinstance(value, RunsLike):
        return {key: _plain(one) for key, one in vars(value).items()}
    return plain(value) if isinstance(value, Decimal) else value.isoformat() if isinstance(value, datetime) else value
