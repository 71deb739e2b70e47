"""Run only the rules that price from a pool, over small worlds, on DuckDB and on the reference implementation.

A case is one file `tests/allocation/pooled/<situation>.yaml`. It has `lines` that no earlier rule has allocated, `runs`, `artifacts`,
`traces`, `next_lines` of the next period's bill, and `expect`, the cost of each target. Rows name only the values that matter. Tests of the
whole ledger show what earlier rules allocate and how shares become money.
"""

from __future__ import annotations

import datetime as dt
from collections import defaultdict
from collections.abc import Mapping
from decimal import Decimal
from fractions import Fraction
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa
import yaml

from runspend.allocation.inputs import ALIVE_HOURS, SILENT_HOURS
from runspend.warehouse.dialect import duckdb_sql, parameter_names
from runspend.warehouse.parquet.engine import narrow
from runspend.warehouse.sql_files import read_sql
from tests.allocation.chain import DAY, PACKAGE, UTC, World, arrow, moment, query_reference
from tests.reference import GoogleSQL

# The rules in their order.
RULES = (("artifact_bytes", "storage"), ("llm_cost", "llm"), ("pool_time", "pool"), ("instance_type_time", "type"))
MODELS = (
    "window_runs", "run_gaps", "run_ancestors", "type_claims", "wanted_types", "machine_blocks",
    "rest_lines", "line_cells", "offered_lines", "offered_machines", "offered_times", "offered_sums", "offered_taken",
    "storage_candidates", "storage_targets", "storage_lines",
    "llm_candidates", "llm_cells", "llm_tokens", "llm_targets", "llm_lines",
    "timed_candidates", "type_choices", "pools", "pool_cells", "pool_machines", "pool_spans", "pool_held", "pool_claims", "pool_windows", "pool_uses", "pool_taken", "pool_families", "pool_clock", "pool_shares",
    "pool_targets", "pools_with_other_charges", "pool_day_hours", "pool_other_shares", "pool_lines", "type_parts", "type_targets", "type_lines", "offered_blocks", "offered_windows",
)  # fmt: skip
TARGET_COLUMNS = [
    ("match_method", "STRING"), ("target_key", "STRING"), ("window_start", "TIMESTAMP"), ("window_end", "TIMESTAMP"), ("allocated_to", "STRING"),
    ("tracking_server", "STRING"), ("workspace", "STRING"), ("run_id", "STRING"), ("owner_id", "STRING"), ("reason", "STRING"), ("weight_kind", "STRING"),
    ("run_end_rule", "STRING"), ("is_scaled", "BOOL"), ("nanoseconds", "INT64"), ("ratio_from", "FLOAT64"), ("ratio_to", "FLOAT64"), ("is_last", "BOOL"),
]  # fmt: skip
LINE_COLUMNS = [
    ("source", "STRING"),
    ("line_id", "STRING"),
    ("target_key", "STRING"),
    ("window_start", "TIMESTAMP"),
    ("window_end", "TIMESTAMP"),
]
RUN_KEY = pa.schema([(name, pa.string()) for name in ("tracking_server", "workspace", "run_id")])
MOMENT = pa.timestamp("us", "UTC")
SPANS = pa.schema([*RUN_KEY, ("resource_key", pa.string()), ("span_start", MOMENT), ("span_end", MOMENT)])
TAKEN = pa.schema(
    [
        ("resource_key", pa.string()),
        *((name, MOMENT) for name in ("window_start", "window_end", "taken_from", "taken_to")),
        ("taken", pa.int64()),
        ("units", pa.int64()),
    ]
)
KNOWN_USES = pa.schema(
    [
        *((name, pa.string()) for name in ("target_key", "tracking_server", "workspace", "run_id", "run_end_rule", "weight_kind")),
        ("window_start", MOMENT), ("window_end", MOMENT), ("is_part", pa.bool_()), ("is_ambiguous", pa.bool_()), ("nanoseconds", pa.int64()),
    ]
)  # fmt: skip
TIMES = pa.schema(
    [("resource_key", pa.string()), ("charge_period_start", MOMENT), ("charge_period_end", MOMENT), ("billed_nanoseconds", pa.int64())]
)
UNITS = pa.schema([("resource_key", pa.string()), ("month", pa.date32()), ("is_several", pa.bool_())])
PROPERTIES = pa.schema(
    [
        *((name, pa.string()) for name in ("resource_key", "region_id", "availability_zone", "purchase_option")),
        ("month", pa.date32()), ("charge_period_start", MOMENT), ("charge_period_end", MOMENT),
    ]
)  # fmt: skip
SLOT_TARGETS = pa.schema(
    [
        ("resource_key", pa.string()), ("charge_period_start", MOMENT), ("charge_period_end", MOMENT), ("allocated_to", pa.string()),
        ("nanoseconds", pa.int64()), ("ratio_from", pa.float64()),
    ]
)  # fmt: skip
PAID = pa.schema([*RUN_KEY, ("day", pa.date32()), ("llm_cloud", pa.string()), ("list_cost", pa.decimal128(38, 22))])
SETTLED = pa.schema([("source", pa.string()), ("line_id", pa.string())])
WINDOW_START, WINDOW_END = dt.datetime(2026, 10, 1, tzinfo=UTC), dt.datetime(2026, 11, 1, tzinfo=UTC)
PARAMETERS = {
    "period": DAY, "window_start": WINDOW_START, "window_end": WINDOW_END, "alive_hours": ALIVE_HOURS, "silent_hours": SILENT_HOURS, "rented_pools": "|rented|",
    "jobs_from": WINDOW_START, "jobs_until": WINDOW_START,
}  # fmt: skip


def read_case(path: Path) -> tuple[World, list[dict[str, Any]]]:
    """Return the world of a case, with defaults, and what the case expects."""
    said = yaml.safe_load(path.read_text(encoding="utf-8"))
    world: World = {
        "lines": [rest_line(n, **row) for n, row in enumerate(said.pop("lines"))],
        "runs": [pool_run(**row) for row in said.pop("runs", [])],
        "artifacts": [artifact(**row) for row in said.pop("artifacts", [])],
        "traces": [trace(**row) for row in said.pop("traces", [])],
        "next_lines": [rest_line(n, **row) for n, row in enumerate(said.pop("next_lines", []))],
    }
    expected = said.pop("expect")
    assert not said, f"{path.name} has {sorted(said)}, which nothing reads"
    return world, expected


def rest_line(number: int, **row: Any) -> dict[str, Any]:
    """Make a line: `at` is its charge window, then `cost`, `machine`, `hours` its billed time, and `pool` or `type` its pool.

    If runs state the machine (`known`), `free` is the hours that they leave. `taken` are the times when they use a part (`00:10..00:20 1/8`).
    """
    start, end = (moment(t) for t in row.pop("at", "00:00..01:00").split(".."))
    machine, hours, instance_type = row.pop("machine", "m1"), row.pop("hours", None), row.pop("type", None)
    free = row.pop("free", None)
    return {
        "source": "aws",
        "billing_period": DAY,
        "line_id": row.pop("id", f"line-{number}"),
        "billing_currency": "USD",
        "charge_category": "Usage",
        "charge_period_start": start,
        "charge_period_end": end,
        "charge_date": start.date(),
        "sku_id": "box",
        "resource_key": machine,
        "cost_kind": "compute",
        "llm_cloud": "other" if row.get("cost_kind") == "llm" else None,
        "line_kind": "plain" if machine is None else "timed",
        "is_inside": True,
        "pool_key": row.pop("pool", None if instance_type or row.get("storage_key") or row.get("cost_kind") == "llm" else "pool"),
        "instance_type": instance_type,
        "billed_nanoseconds": None if hours is None else int(Decimal(str(hours)) * 3_600_000_000_000),
        "free_nanoseconds": None if free is None else int(Decimal(str(free)) * 3_600_000_000_000),
        "is_offered": row.pop("known", free is not None),
        "taken": [taken_stretch(text) for text in row.pop("taken", [])],
        "effective_cost": Decimal(str(row.pop("cost", "10.00"))),
        **row,
    }


def taken_stretch(text: str) -> tuple[dt.datetime, dt.datetime, int, int]:
    """Parse `from..to taken/units`."""
    at, _, part = text.partition(" ")
    start, end = (moment(t) for t in at.split(".."))
    taken, units = part.split("/")
    return start, end, int(taken), int(units)


def pool_run(**row: Any) -> dict[str, Any]:
    """Make a run: `at` is start..end (without an end it never ended), and `pool` or `type` what it asks for.

    If `claimed`, it states a machine all the time; `own` are the times in which it does.
    """
    start, _, end = row.pop("at", "00:00..01:00").partition("..")
    sign, instance_type = row.pop("last_sign", None), row.pop("type", None)
    return {
        "tracking_server": row.pop("server", "prod"),
        "workspace": "default",
        "run_id": row.pop("id"),
        "start_month": moment(start).date().replace(day=1),
        "start_time": moment(start),
        "end_time": moment(end) if end else None,
        "last_sign_at": moment(sign) if sign else None,
        "parent_run_id": row.pop("parent", None),
        "pool_key": row.pop("pool", None if instance_type else "pool"),
        "instance_type": instance_type,
        "claimed": row.pop("claimed", False),
        "own": [tuple(moment(t) for t in text.split("..")) for text in row.pop("own", [])],
        **row,
    }


def artifact(**row: Any) -> dict[str, Any]:
    """Make bytes of an owner: `kind`, `id`, `at` (days `from..to` of October) and `bytes`."""
    first, _, last = str(row.pop("at", "1")).partition("..")
    kind = row.pop("kind", "run")
    return {
        "month": DAY,
        "store": row.pop("store", "s3://bucket/"),
        "owner_kind": kind,
        "owner_id": row.pop("id"),
        "tracking_server": "prod" if kind in ("run", "logged_model", "trace") else None,
        "workspace": "default" if kind in ("run", "logged_model", "trace") else None,
        "storage_class": row.pop("class", "STANDARD"),
        "valid_from": WINDOW_START + dt.timedelta(days=float(first) - 1),
        "valid_to": WINDOW_START + dt.timedelta(days=float(last) - 1) if last else None,
        "is_complete": True,
        **row,
    }


def trace(**row: Any) -> dict[str, Any]:
    """Make traces of a `day` of October: `run`, `model`, `cost`."""
    return {
        "month": DAY,
        "tracking_server": "prod",
        "workspace": "default",
        "charge_date": DAY.replace(day=row.pop("day", 1)),
        "experiment_id": "1",
        "run_id": row.pop("run", ""),
        "user_name": row.pop("user", ""),
        "model": row.pop("model", ""),
        "list_cost": Decimal(str(row.pop("cost"))),
        "currency": "USD",
        **row,
    }


def world_tables(world: World) -> dict[str, pa.Table]:
    """Return the tables that exist before these models run."""
    lines, runs = world["lines"], world["runs"]
    ledger = arrow("billing_lines", lines)
    kinds = {
        "line_kind": pa.string(),
        "cost_kind": pa.string(),
        "llm_cloud": pa.string(),
        "is_inside": pa.bool_(),
        "is_offered": pa.bool_(),
    }
    for name, kind in kinds.items():
        ledger = ledger.append_column(name, pa.array([l[name] for l in lines], kind))
    ledger = ledger.append_column("month", pa.array([dt.date(2026, 10, 1)] * len(lines), pa.date32()))
    ledger = ledger.append_column("allocated_by", pa.array(["resource_id" if l["is_offered"] else "rest" for l in lines]))
    offered = [l for l in lines if l["is_offered"]]
    next_period = [l | {"billing_period": dt.date(2026, 11, 1)} for l in world.get("next_lines", [])]
    return {
        "ledger_lines": ledger,
        "machine_units": UNITS.empty_table(),  # tests of the whole ledger cover the clusters of several machines
        "known_machines": pa.table({"resource_key": pa.array([l["resource_key"] for l in offered], pa.string())}),
        "slot_targets": pa.Table.from_pylist([slot_target(l) for l in offered if l["free_nanoseconds"] is not None], schema=SLOT_TARGETS),
        "billing_lines": arrow("billing_lines", [*lines, *next_period]),
        "runs": arrow("runs", runs),
        "run_spans": pa.Table.from_pylist(
            [
                {**{name: r[name] for name in RUN_KEY.names}, "resource_key": "elsewhere", "span_start": a, "span_end": b}
                for r in runs
                for a, b in r["own"]
            ],
            schema=SPANS,
        ),
        "stated_machines": pa.Table.from_pylist([{name: r[name] for name in RUN_KEY.names} for r in runs if r["own"]], schema=RUN_KEY),
        "tagged_runs": RUN_KEY.append(pa.field("run_tag", pa.string())).empty_table(),
        "machine_taken": pa.Table.from_pylist(taken_rows(lines), schema=TAKEN),
        "earlier_properties": PROPERTIES.empty_table(),
        "earlier_times": TIMES.empty_table(),  # tests of the whole ledger cover corrections of earlier months
        "pool_known_uses": KNOWN_USES.empty_table(),  # tests of the whole ledger cover the known uses of a pool
        "claimed_runs": pa.Table.from_pylist([{name: r[name] for name in RUN_KEY.names} for r in runs if r["claimed"]], schema=RUN_KEY),
        "attached_lines": pa.Table.from_pylist(
            [{"source": l["source"], "line_id": l["line_id"]} for l in lines if l.get("attached_to")], schema=SETTLED
        ),
        "identity_paid": PAID.empty_table(),  # tests of the whole ledger cover costs of callers of language models
        "artifact_bytes": arrow("artifact_bytes", world["artifacts"]),
        "trace_costs": arrow("trace_costs", world["traces"]),
    }


def slot_target(line: dict[str, Any]) -> dict[str, Any]:
    """Return the free time of a stated machine. Runs that state it take nothing of its cost before that."""
    return {
        **{name: line[name] for name in ("resource_key", "charge_period_start", "charge_period_end")},
        "allocated_to": "idle",
        "nanoseconds": line["free_nanoseconds"],
        "ratio_from": 0.0,
    }


def taken_rows(lines: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return the times in which runs use a part of a machine that they state, in windows like those of candidates."""
    rows = []
    for line in lines:
        hour = line["charge_period_start"].replace(minute=0, second=0, microsecond=0)
        is_in_an_hour = line["charge_period_end"] <= hour + dt.timedelta(hours=1)
        start, end = (hour, hour + dt.timedelta(hours=1)) if is_in_an_hour else (line["charge_period_start"], line["charge_period_end"])
        for taken_from, taken_to, taken, units in line["taken"]:
            rows.append(
                {
                    "resource_key": line["resource_key"],
                    "window_start": start,
                    "window_end": end,
                    "taken_from": taken_from,
                    "taken_to": taken_to,
                    "taken": taken,
                    "units": units,
                }
            )
    return rows


def model_text(name: str) -> str:
    return read_sql(PACKAGE / "models", name)


def run_pools(world: World, parameters: Mapping[str, Any] = PARAMETERS) -> dict[str, pa.Table]:
    """Return the rows of every model on DuckDB."""
    connection = duckdb.connect(config={"threads": 1})
    connection.execute("set TimeZone = 'UTC'")
    for name, rows in world_tables(world).items():
        connection.register(f"arrow_{name}", rows)
        connection.execute(f"create table {name} as select * from arrow_{name}")
    for name in MODELS:
        text = model_text(name)
        connection.execute(f"create table {name} as {duckdb_sql(text)}", {p: parameters[p] for p in parameter_names(text)})
    found = {name: narrow(connection.sql(f"select * from {name}").to_arrow_table()) for name in MODELS}
    connection.close()
    return found


def run_pools_on_reference(reference: GoogleSQL, world: World, parameters: Mapping[str, Any] = PARAMETERS) -> dict[str, pa.Table]:
    """Return the rows of every model on the reference implementation.

    Targets and lines must have exactly the columns that the ledger reads.
    """
    known = world_tables(world)
    for name in MODELS:
        result = query_reference(reference, model_text(name), known, parameters)
        if name.endswith("_targets"):
            assert result.columns == TARGET_COLUMNS, name
        if name in {f"{prefix}_lines" for _, prefix in RULES}:
            assert result.columns == LINE_COLUMNS, name
        known[name] = result.to_arrow()
    return {name: known[name] for name in MODELS}


def lines_of(found: Mapping[str, pa.Table], method: str, prefix: str) -> list[dict[str, Any]]:
    """Return the lines of a rule: those of machines that no run states, and the offered lines of stated machines."""
    windows = {
        (row["match_method"], row["target_key"], row["window_start"], row["window_end"]) for row in found["offered_windows"].to_pylist()
    }
    offered = [
        row
        for row in found["offered_lines"].to_pylist()
        if (row["match_method"], row["target_key"], row["window_start"], row["window_end"]) in windows
    ]
    return [*found[f"{prefix}_lines"].to_pylist(), *(row for row in offered if row["match_method"] == method)]


def targets_of(found: Mapping[str, pa.Table], prefix: str) -> list[dict[str, Any]]:
    """Return the targets of a rule. Disks, addresses and traffic of a pool may have separate targets."""
    return [*found[f"{prefix}_targets"].to_pylist(), *(found["pool_other_shares"].to_pylist() if prefix == "pool" else [])]


def targets_by_line(world: World, found: Mapping[str, pa.Table]) -> dict[str, list[dict[str, Any]]]:
    """Return the targets of each line, by the first rule that takes it. `part` is a target's share, exactly as its two ends define it."""
    targets: dict[tuple[Any, ...], list[dict[str, Any]]] = defaultdict(list)
    for method, prefix in RULES:
        for row in targets_of(found, prefix):
            assert row["match_method"] == method
            part = Fraction(1 if row["is_last"] else row["ratio_to"]) - Fraction(row["ratio_from"])
            targets[method, row["target_key"], row["window_start"], row["window_end"]].append({**row, "part": part})
    by_line: dict[str, list[dict[str, Any]]] = {}
    for method, prefix in RULES:
        for row in lines_of(found, method, prefix):
            by_line.setdefault(row["line_id"], targets[method, row["target_key"], row["window_start"], row["window_end"]])
    return by_line


def target_name(row: Mapping[str, Any]) -> str:
    """Return the name that cases and the brute force use for a target: its run, its model, or its kind."""
    return str(row["run_id"] or row["owner_id"] or row["allocated_to"])


def line_parts(world: World, found: Mapping[str, pa.Table]) -> dict[tuple[str, str], Fraction]:
    """Return the part of each line's cost by (line, target). If none of these rules takes a line, its target is `left`."""
    by_line = targets_by_line(world, found)
    parts: dict[tuple[str, str], Fraction] = defaultdict(Fraction)
    for line in world["lines"]:
        for row in by_line.get(line["line_id"]) or [{"run_id": "left", "part": Fraction(1)}]:
            parts[line["line_id"], target_name(row)] += row["part"]
    return {key: part for key, part in parts.items() if part}


def exact(value: object) -> Fraction:
    """Parse a number of a case, a quotient of two, or several of these joined by `+`."""
    total = Fraction(0)
    for text in str(value).split("+"):
        above, _, below = text.strip().partition("/")
        total += Fraction(above) / Fraction(below or 1)
    return total
