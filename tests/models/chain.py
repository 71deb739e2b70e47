"""The ledger's models over small worlds written as YAML, on DuckDB and on Google's reference implementation of GoogleSQL.

A case is a folder `tests/models/<model>/<situation>/` with one YAML file per input table and `expect.yaml`. Rows name only
what matters; the rest is filled in here: one bill, one machine family, October 2026, US dollars.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterable, Mapping, Sequence
from decimal import Context, Decimal
from pathlib import Path
from typing import Any

import pyarrow as pa
import yaml

from runspend import pipeline
from runspend.tables import TABLES
from runspend.warehouse import Model, Unit
from runspend.warehouse.parquet import ParquetWarehouse

UTC = dt.timezone.utc
EXACT = Context(prec=76)
DAY = dt.date(2026, 10, 1)
INPUTS = ("billing_lines", "billing_loads", "runs", "run_resources")
UNBUCKETED = (*pipeline.WINDOW_MODELS, *pipeline.PLACING_MODELS)
BUCKETED = (*pipeline.MACHINE_MODELS, "cost_allocations", *pipeline.MACHINE_RESULTS)
SUMMED = ("run_costs_daily", "cost_daily", "unallocated_costs")
FILLED = {"build_id", "load_id"}

World = dict[str, list[dict[str, Any]]]


def read_world(folder: Path) -> World:
    """The rows of a case's input tables, defaults filled in."""
    world: World = {name: [] for name in INPUTS}
    for path in folder.glob("*.yaml"):
        if path.stem == "lines":
            world["billing_lines"] = [line(n, **row) for n, row in enumerate(yaml.safe_load(path.read_text()))]
        elif path.stem == "runs":
            for row in yaml.safe_load(path.read_text()):
                run, resources = make_run(**row)
                world["runs"].append(run)
                world["run_resources"] += resources
    return world


def moment(text: str) -> dt.datetime:
    """`HH:MM[:SS]` of 1 October 2026 (hours may pass 24 or be negative), or a whole ISO time."""
    if "T" in text:
        return dt.datetime.fromisoformat(text).replace(tzinfo=UTC)
    sign = -1 if text.startswith("-") else 1
    parts = [int(p) for p in text.lstrip("-").split(":")]
    seconds = sum(p * f for p, f in zip(parts, (3600, 60, 1), strict=False))
    return dt.datetime.combine(DAY, dt.time(), tzinfo=UTC) + sign * dt.timedelta(seconds=seconds)


def line(number: int, **row: Any) -> dict[str, Any]:
    """One bill line: `at` is its charge window, `cost` all four costs, `on` its machine, `hours` its billed time."""
    start, end = (moment(t) for t in row.pop("at", "00:00..01:00").split(".."))
    cost = Decimal(str(row.pop("cost", "10.00")))
    machine = row.pop("on", "m1")
    hours = row.pop("hours", None)
    period = dt.date.fromisoformat(f"{row.pop('period', '2026-10')}-01")
    return {
        "source": "aws",
        "billing_period": period,
        "line_id": row.pop("id", f"line-{number}"),
        "billing_account_id": "payer",
        "sub_account_id": "account",
        "billing_currency": "USD",
        "charge_category": "Usage",
        "charge_period_start": start,
        "charge_period_end": end,
        "charge_date": start.date(),
        "service_category": "Compute",
        "service_name": "EC2",
        "sku_id": "box",
        "resource_id": machine,
        "resource_key": machine,
        "scope": "include",
        "billed_nanoseconds": None if hours is None else int(Decimal(str(hours)) * 3_600_000_000_000),
        **{f"{m}_cost": cost for m in ("list", "contracted", "effective", "billed")},
        **row,
    }


def make_run(**row: Any) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """One run: `at` its start..end (no end: never ended), `on` its machines, each a name or {id, from, to}."""
    start, _, end = row.pop("at").partition("..")
    run_id = row.pop("id")
    machines = row.pop("on", ["m1"])
    server = row.pop("server", "prod")
    month = moment(start).date().replace(day=1)
    sign = row.pop("last_sign", None)
    run = {
        "tracking_server": server,
        "workspace": "default",
        "run_id": run_id,
        "start_month": month,
        "experiment_id": "1",
        "experiment_name": "exp",
        "run_status": "FINISHED" if end else "RUNNING",
        "start_time": moment(start),
        "end_time": moment(end) if end else None,
        "last_sign_at": moment(sign) if sign else None,
        "parent_run_id": row.pop("parent", None),
        "resource_ids": sorted({m["id"] if isinstance(m, dict) else m for m in machines}),
        **row,
    }
    resources = []
    for ordinal, machine in enumerate(machines):
        stated = machine if isinstance(machine, dict) else {"id": machine}
        resources.append(
            {
                "tracking_server": server,
                "workspace": "default",
                "run_id": run_id,
                "start_month": month,
                "resource_id": stated["id"],
                "resource_key": stated["id"],
                "used_ordinal": ordinal,
                "used_from": moment(stated["from"]) if "from" in stated else None,
                "used_to": moment(stated["to"]) if "to" in stated else None,
            }
        )
    return run, resources


def arrow(table: str, rows: Sequence[Mapping[str, Any]]) -> pa.Table:
    """Rows in the table's declared types."""
    schema = TABLES[table].arrow_schema()
    return pa.Table.from_pylist([{name: row.get(name) for name in schema.names} for row in rows], schema=schema)


def parameters_of(world: World, period: dt.date) -> dict[str, Any]:
    """What `pipeline` gives the models for this world."""
    times = [l["charge_period_start"] for l in world["billing_lines"] if l["billing_period"] == period]
    ends = [l["charge_period_end"] for l in world["billing_lines"] if l["billing_period"] == period]
    first = min(times).replace(day=1, hour=0, minute=0, second=0, microsecond=0)
    last = (max(ends) - dt.timedelta(microseconds=1)).replace(day=1, hour=0, minute=0, second=0, microsecond=0)
    return {
        "period": period,
        "alive_hours": pipeline.ALIVE_HOURS,
        "silent_hours": pipeline.SILENT_HOURS,
        "window_start": first,
        "window_end": (last + dt.timedelta(days=32)).replace(day=1),
    }


def run_on_duckdb(world: World, root: Path, period: dt.date = DAY, *, names: Sequence[str] = (), check: bool = True) -> dict[str, pa.Table]:
    """The whole step as the product runs it; returns the tables it fills and the temporary ones in `names`."""
    warehouse = ParquetWarehouse(root)
    with warehouse.step("inputs", "inputs") as step:
        put_world(step, world)
        assert step.publish()
    month = f"{period:%Y-%m}"
    parameters = parameters_of(world, period)
    with warehouse.step("allocate", "build") as step:
        models = pipeline.ledger_models(month)
        if names:  # a temporary table is kept only if somebody asks for it: one share of machines at a time then
            models = [Model(m.name, into=m.into, fills=m.fills) for m in models]
        step.run(models, parameters)
        if check:
            step.check(pipeline.LEDGER_CHECKS, parameters)
        found = {name: step.connection.execute(f"select * from {name}").to_arrow_table() for name in names}
        assert step.publish()
    tables = ("cost_allocations", "run_costs_daily", "cost_daily", "unallocated_costs")
    return found | {name: warehouse.read(Unit(name, month, "all")) for name in tables}


def total(amounts: Iterable[Decimal]) -> Decimal:
    """The exact sum: Python's default of 28 digits is not enough for millions with 22 decimals."""
    result = Decimal(0)
    for amount in amounts:
        result = EXACT.add(result, amount)
    return result


def put_world(step: Any, world: World) -> None:
    """Stage the inputs of a world, and the load its lines would have come with."""
    lines = world["billing_lines"]
    for period in sorted({l["billing_period"] for l in lines}):
        mine = [l for l in lines if l["billing_period"] == period]
        for source in sorted({l["source"] for l in mine}):
            part = [l for l in mine if l["source"] == source]
            step.put("billing_lines", f"{period:%Y-%m}", source, arrow("billing_lines", part))
            loads = [
                {
                    "source": source,
                    "billing_period": period,
                    "version": "v1",
                    "version_number": 1,
                    "state": "current",
                    "billing_currency": currency,
                    "billed_cost": total(l["billed_cost"] for l in part if l["billing_currency"] == currency),
                }
                for currency in sorted({l["billing_currency"] for l in part})
            ]
            step.put("billing_loads", f"{period:%Y-%m}", source, arrow("billing_loads", loads))
    for table in ("runs", "run_resources"):
        for server in sorted({r["tracking_server"] for r in world[table]}):
            for month in sorted({r["start_month"] for r in world[table]}):
                rows = [r for r in world[table] if r["tracking_server"] == server and r["start_month"] == month]
                step.put(table, f"{month:%Y-%m}", server, arrow(table, rows))
