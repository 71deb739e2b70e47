"""Run the ledger's models over small worlds written in YAML, on DuckDB and on Google's reference implementation of GoogleSQL.

A case is a folder `tests/allocation/<model>/<situation>/` with one YAML file per input table, and `expect.yaml`. Rows name only the values
that matter. This module adds the rest: one bill, one machine family, October 2026, US dollars.
"""

from __future__ import annotations

import datetime as dt
import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from decimal import Context, Decimal
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import yaml

from runspend.allocation import model_order
from runspend.config.settings import Settings
from runspend.schema.tables import TABLES
from runspend.warehouse.base import Model, Unit
from runspend.warehouse.dialect import parameter_names, table_names
from runspend.warehouse.parquet.engine import narrow
from runspend.warehouse.parquet.warehouse import ParquetWarehouse
from runspend.warehouse.sql_files import read_sql
from tests.reference import GoogleSQL, Result

UTC = dt.timezone.utc
EXACT = Context(prec=76)
DAY = dt.date(2026, 10, 1)
INPUTS = (
    "billing_lines",
    "billing_loads",
    "runs",
    "run_resources",
    "artifact_bytes",
    "artifact_owners",
    "experiments",
    "trace_costs",
    "period_states",
)
SETTINGS = Settings()  # the settings of cases without their own
FILLED = {"build_id", "load_id"}
PACKAGE = Path(model_order.__file__).parent

World = dict[str, Any]  # input table -> rows


def read_world(folder: Path) -> World:
    """Return the rows of a case's input tables, with defaults."""
    world: World = {name: [] for name in INPUTS}
    for path in folder.glob("*.yaml"):
        if path.stem == "lines":
            world["billing_lines"] = [line(n, **row) for n, row in enumerate(yaml.safe_load(path.read_text()))]
        elif path.stem in INPUTS and path.stem != "runs":
            world[path.stem] = yaml.safe_load(path.read_text())
        elif path.stem == "runs":
            for row in yaml.safe_load(path.read_text()):
                run, resources = make_run(**row)
                world["runs"].append(run)
                world["run_resources"] += resources
    return world


def read_settings(folder: Path) -> Settings:
    """Return the settings of a case, which are mostly the defaults."""
    path = folder / "settings.yaml"
    return Settings(**yaml.safe_load(path.read_text())) if path.exists() else SETTINGS


def moment(text: str) -> dt.datetime:
    """Return the time of `HH:MM[:SS]` on 1 October 2026 (hours may exceed 24 or be negative), or of a whole ISO time."""
    if "T" in text:
        return dt.datetime.fromisoformat(text).replace(tzinfo=UTC)
    sign = -1 if text.startswith("-") else 1
    parts = [int(p) for p in text.lstrip("-").split(":")]
    seconds = sum(p * f for p, f in zip(parts, (3600, 60, 1), strict=False))
    return dt.datetime.combine(DAY, dt.time(), tzinfo=UTC) + sign * dt.timedelta(seconds=seconds)


def line(number: int, **row: Any) -> dict[str, Any]:
    """Make a bill line: `at` is its charge window, `cost` all four costs, `on` its machine, `hours` its billed time."""
    start, end = (moment(t) for t in row.pop("at", "00:00..01:00").split(".."))
    cost = Decimal(str(row.pop("cost", "10.00")))
    machine = row.pop("on", "m1")
    hours = row.pop("hours", None)
    period = dt.date.fromisoformat(f"{row.pop('period', '2026-10')}-01")
    return {
        "source": "aws",
        "billing_period": period,
        "line_id": row.pop("id", f"line-{number}"),
        "billing_account_id": "payer" if row.get("source", "aws") == "aws" else f"payer of {row['source']}",
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
    """Make a run: `at` is start..end (without an end it never ended), `on` its machines (names or {id, from, to}), `gaps` its stops."""
    start, _, end = row.pop("at").partition("..")
    run_id = row.pop("id")
    machines = row.pop("on", ["m1"])
    server = row.pop("server", "prod")
    month = moment(start).date().replace(day=1)
    sign = row.pop("last_sign", None)
    gaps = [[moment(t) for t in gap.split("..")] for gap in row.pop("gaps", [])]
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
        "gaps": [f"{first:%Y-%m-%dT%H:%M:%S}.000Z/{after:%Y-%m-%dT%H:%M:%S}.000Z" for first, after in gaps],
        "gap_seconds": sum((after - first).total_seconds() for first, after in gaps),
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
    """Return rows in the types that the table declares."""
    schema = TABLES[table].arrow_schema()
    return pa.Table.from_pylist([{name: row.get(name) for name in schema.names} for row in rows], schema=schema)


def parameters_of(world: World, period: dt.date, settings: Settings = SETTINGS) -> dict[str, Any]:
    """Return the parameters that `model_order` and `inputs` give the models for this world."""
    windows = [
        (l["charge_period_start"], l["charge_period_end"] if is_timed else l["charge_period_start"] + dt.timedelta(microseconds=1))
        for l in world["billing_lines"]
        for is_timed in (dt.timedelta() < l["charge_period_end"] - l["charge_period_start"] <= dt.timedelta(hours=25),)
        if l["billing_period"] == period
        and (
            (l["resource_key"] and (is_timed or l["charge_category"] == "Usage"))
            or (
                is_timed
                and (
                    l.get("job_key")
                    or l.get("pool_key")
                    or l.get("principal_key")
                    or l.get("service_subcategory") == "Generative AI"
                    or (l.get("instance_type") and l["charge_category"] == "Usage" and l.get("charge_class") != "Correction")
                    or (l["charge_date"] < period and (l.get("attached_to") or l.get("group_keys")))
                )
            )
        )
    ] or [(dt.datetime.combine(period, dt.time(), tzinfo=UTC),) * 2]
    first = min(start for start, _ in windows).replace(day=1, hour=0, minute=0, second=0, microsecond=0)
    beyond = jobs_beyond(world["billing_lines"], period) or [(first, first)]
    last = (max(end for _, end in windows) - dt.timedelta(microseconds=1)).replace(day=1, hour=0, minute=0, second=0, microsecond=0)
    return {
        **model_order.ledger_parameters(settings),
        "period": period,
        "window_start": first,
        "window_end": (last + dt.timedelta(days=32)).replace(day=1),
        "jobs_from": min(start for start, _ in beyond),
        "jobs_until": max(end for _, end in beyond),
    }


def jobs_beyond(lines: Sequence[Mapping[str, Any]], period: dt.date) -> list[tuple[dt.datetime, dt.datetime]]:
    """Return windows in which jobs of the period are on the bill of the month before or after, without a day's pause.

    Jobs of the period include those whose machine is named by a line of the period, at most a day away. Windows that the period only
    corrects count as the other month's.
    """
    beside = [(period - dt.timedelta(days=1)).replace(day=1), (period + dt.timedelta(days=32)).replace(day=1)]
    day, found = dt.timedelta(days=1), set()
    attached = [
        (l["attached_to"], l["charge_period_start"], l["charge_period_end"])
        for l in lines
        if l.get("attached_to")
        and l["billing_period"] == period
        and dt.timedelta() < l["charge_period_end"] - l["charge_period_start"] <= dt.timedelta(hours=25)
    ]
    of_jobs = defaultdict(list)
    for l in lines:
        if l.get("job_key"):
            of_jobs[l["job_key"]].append(l)
    for job_lines in of_jobs.values():
        windows = sorted(
            {(l["charge_period_start"], l["charge_period_end"]) for l in job_lines if l["billing_period"] in (period, *beside)}
        )
        lives: list[list[tuple[dt.datetime, dt.datetime]]] = []
        for start, end in windows:
            if not lives or start - max(e for _, e in lives[-1]) > dt.timedelta(days=1):
                lives.append([])
            lives[-1].append((start, end))
        mine = {(l["charge_period_start"], l["charge_period_end"]) for l in job_lines if l["billing_period"] == period}
        used = {
            (l["charge_period_start"], l["charge_period_end"])
            for l in job_lines
            if l["billing_period"] == period and l["charge_category"] == "Usage" and not l.get("charge_class")
        }
        others = {(l["charge_period_start"], l["charge_period_end"]) for l in job_lines if l["billing_period"] in beside}
        reached = {
            (l["charge_period_start"], l["charge_period_end"])
            for l in job_lines
            for machine, start, end in attached
            if l["resource_key"] == machine
            and l["billing_period"] in beside
            and l["charge_period_start"] < end + day
            and l["charge_period_end"] > start - day
        }
        found |= {window for life in lives if (mine | reached) & set(life) for window in life if window in others - used}
    return sorted(found)


def run_on_duckdb(
    world: World, root: Path, period: dt.date = DAY, *, names: Sequence[str] = (), check: bool = True, settings: Settings = SETTINGS
) -> dict[str, pa.Table]:
    """Run the whole step as the product does. Return the tables that it fills, and the temporary ones in `names`."""
    warehouse = ParquetWarehouse(root)
    with warehouse.step("inputs", "inputs") as step:
        put_world(step, world)
        assert step.publish()
    month = f"{period:%Y-%m}"
    parameters = parameters_of(world, period, settings)
    with warehouse.step("allocate", "build") as step:
        step.run(model_order.ledger_models(month), parameters, keep=names)
        if check:
            step.check(model_order.LEDGER_CHECKS, parameters)
        found = {name: narrow(step.connection.sql(f"select * from {name}").to_arrow_table()) for name in names}
        assert step.publish()
    tables = ("cost_allocations", *model_order.LEDGER_SUMS)
    return found | {name: warehouse.read(Unit(name, month, "all")) for name in tables}


def parameters_of_month(month: dt.date, settings: Settings = SETTINGS) -> dict[str, Any]:
    """Return the parameters of the models of a start month."""
    return {**model_order.ledger_parameters(settings), "period": month}


def summarize_on_duckdb(
    root: Path, month: dt.date = DAY, *, names: Sequence[str] = (), settings: Settings = SETTINGS
) -> dict[str, pa.Table]:
    """Build `run_costs` of a start month as the product does, after `run_on_duckdb` filled the ledgers at `root`."""
    warehouse = ParquetWarehouse(root)
    parameters = parameters_of_month(month, settings)
    with warehouse.step("summarize", "build") as step:
        step.run(model_order.run_costs_models(f"{month:%Y-%m}"), parameters, keep=names)
        step.check(model_order.RUN_CHECKS, parameters)
        found = {name: narrow(step.connection.sql(f"select * from {name}").to_arrow_table()) for name in names}
        assert step.publish()
    return found | {"run_costs": warehouse.read(Unit("run_costs", f"{month:%Y-%m}", "all"))}


def build_on_duckdb(world: World, root: Path, settings: Settings = SETTINGS) -> ParquetWarehouse:
    """Build all cost tables of October as the product does."""
    run_on_duckdb(world, root, settings=settings)
    summarize_on_duckdb(root, settings=settings)
    return ParquetWarehouse(root)


def run_on_reference(
    reference: GoogleSQL,
    models: Sequence[Model],
    tables: Mapping[str, pa.Table],
    parameters: Mapping[str, Any],
    counted: Counter[str] | None = None,
) -> dict[str, pa.Table]:
    """Run the models on the reference implementation, each over the results of those before it. Return all tables.

    A model that fills a table must give exactly its columns and types. Columns of other models need unique names, or they cannot become a
    table. `counted` gets the number of rows of each model.
    """
    known = dict(tables)
    for model in models:
        result = query_reference(reference, read_sql(PACKAGE / "models", model.name), known, parameters)
        target = model.target
        assert len(set(result.names)) == len(result.names) and all(re.fullmatch(r"[a-z][a-z0-9_]*", name) for name in result.names), (
            model.name
        )
        if counted is not None:
            counted[model.name] += len(result.rows)
        if model.into is None:
            known[target] = result.to_arrow()
            continue
        assert dict(result.columns) == {c.name: c.type for c in TABLES[target].columns if c.name not in FILLED}, model.name
        rows = arrow(target, result.to_arrow().to_pylist())
        known[target] = pa.concat_tables([known[target], rows]) if model.fills else rows
    return known


def query_reference(reference: GoogleSQL, sql: str, tables: Mapping[str, pa.Table], parameters: Mapping[str, Any]) -> Result:
    """Run one statement over the tables that it names. Only columns that it mentions are handed over, because wide ones are slow."""
    words = set(re.findall(r"\w+", sql))
    given = {name: tables[name].select([c for c in tables[name].column_names if c in words]) for name in table_names(sql)}
    return reference.query(sql, given, {name: parameters[name] for name in parameter_names(sql)})


def input_tables(world: World) -> dict[str, pa.Table]:
    """Return the input tables of a world, as `put_world` stages them."""
    return {name: arrow(name, world.get(name, [])) for name in INPUTS if name != "billing_loads"} | {
        "billing_loads": arrow("billing_loads", loads_of(world))
    }


# The columns with names of machines, runs, jobs and buckets. They distinguish the small worlds of one build.
NAMES = {
    "billing_lines": (
        "billing_account_id",
        "resource_id",
        "resource_key",
        "run_tag",
        "job_key",
        "attached_to",
        "node_key",
        "pool_key",
        "storage_key",
        "instance_type",
        "principal_key",
    ),
    "runs": ("run_id", "parent_run_id", "job_key", "pool_key", "instance_type", "principal_key"),
    "run_resources": ("run_id", "resource_id", "resource_key"),
    "artifact_bytes": ("owner_id",),
    "trace_costs": ("run_id",),
}


PATHS = {"resource_id", "resource_key", "job_key", "attached_to", "node_key"}  # only the last part of these names is unique


def _own_name(column: str, mine: str, name: str) -> str:
    # A machine of a scale set has a number. The name of the set is unique.
    name, *number = name.split("/virtualmachines/") if "/virtualmachinescalesets/" in name else [name]
    before, slash, last = name.rpartition("/") if column in PATHS else ("", "", name)
    return "/virtualmachines/".join([f"{before}{slash}{mine}{last}", *number])


def merge_worlds(worlds: Mapping[str, World]) -> World:
    """Merge several worlds into one, where each has its own bills, servers and machines. A world without a name keeps its names."""
    merged: World = {name: [] for name in INPUTS}
    for name, world in worlds.items():
        mine = f"{name}." if name else ""
        for table in INPUTS:
            for row in world.get(table, []):
                own: dict[str, Any] = {
                    c: _own_name(c, mine, row[c]) for c in (*NAMES.get(table, ()), "source", "tracking_server") if row.get(c)
                }
                own |= {"group_keys": [mine + key for key in row["group_keys"]]} if row.get("group_keys") else {}
                own |= {c: row[c].replace("://", f"://{mine}") for c in ("artifact_uri", "store") if row.get(c)}
                merged[table].append(row | own)
    return merged


def rows_of(table: pa.Table, name: str) -> list[dict[str, Any]]:
    """Return the rows of one of the merged worlds, with its original names."""
    mine = f"{name}."

    def alone(value: Any) -> Any:
        if isinstance(value, list):
            return [alone(item) for item in value]
        return value.removeprefix(mine).replace(f"/{mine}", "/") if isinstance(value, str) else value

    column = next(name for name in ("source", "tracking_server", "pool_key") if name in table.column_names)
    chosen = table.filter(pc.starts_with(table[column].cast(pa.string()), mine))
    return [{key: alone(value) for key, value in row.items()} for row in chosen.to_pylist()]


def total(amounts: Iterable[Decimal]) -> Decimal:
    """Return the exact sum. Python's default of 28 digits is too few for millions with 22 decimals."""
    result = Decimal(0)
    for amount in amounts:
        result = EXACT.add(result, amount)
    return result


def loads_of(world: World) -> list[dict[str, Any]]:
    """Return one row per bill, period and currency: the load that its lines would have come with."""
    lines = world["billing_lines"]
    return [
        {
            "source": source,
            "billing_period": period,
            "version": "v1",
            "version_number": 1,
            "state": "current",
            "billing_currency": currency,
            **{
                measure: total(
                    l[measure] or Decimal(0)
                    for l in lines
                    if (l["source"], l["billing_period"], l["billing_currency"]) == (source, period, currency)
                )
                for measure in ("list_cost", "contracted_cost", "effective_cost", "billed_cost")
            },
        }
        for source, period, currency in sorted({(l["source"], l["billing_period"], l["billing_currency"]) for l in lines})
    ]


def put_world(step: Any, world: World) -> None:
    """Stage the inputs of a world, one unit per table and month."""
    for table, rows in {**world, "billing_loads": loads_of(world)}.items():
        column = TABLES[table].period_column
        for period in sorted({f"{row[column]:%Y-%m}" if column else "all" for row in rows}):
            step.put(table, period, "test", arrow(table, [row for row in rows if column is None or f"{row[column]:%Y-%m}" == period]))
