"""A small month for the tests of the report: tables as in `schema/tables.py`, read through DuckDB as GoogleSQL."""

from __future__ import annotations

import re
from collections.abc import Mapping
from datetime import date, datetime, timedelta, timezone
from decimal import Context, Decimal
from functools import cache
from typing import Any

import duckdb
import pyarrow as pa
import sqlglot

from runspend.schema.tables import TABLES

NOW = datetime(2026, 11, 24, 6, 10, tzinfo=timezone.utc)
COVERED = datetime(2026, 11, 22, 23, tzinfo=timezone.utc)
NOVEMBER = date(2026, 11, 1)


class TableReader:
    """A `warehouse.Reader` over rows in memory."""

    def __init__(self, rows: Mapping[str, list[dict[str, Any]]]) -> None:
        for name, given in rows.items():
            columns = set(TABLES[name].arrow_schema().names)
            for row in given:
                assert set(row) <= columns, (name, set(row) - columns)
        self._rows = rows
        self._known: set[str] = set()
        self._connection = _database().cursor()  # each connection has its own registered rows
        self._connection.execute("set TimeZone = 'UTC'")

    def query(self, sql: str, parameters: Mapping[str, Any] | None = None, *, native: bool = False) -> pa.Table:
        """Return the rows of one GoogleSQL statement."""
        for name in TABLES.keys() & set(re.findall(r"\w+", sql)) - self._known:
            schema = TABLES[name].arrow_schema()
            rows = [{column: row.get(column) for column in schema.names} for row in self._rows.get(name, [])]
            self._connection.register(name, pa.Table.from_pylist(rows, schema=schema))
            self._known.add(name)
        text = sql if native else _on_duckdb(sql)
        assert set(re.findall(r"@(\w+)", sql)) == set(parameters or {})
        return self._connection.sql(text, params=dict(parameters or {})).to_arrow_table()


@cache
def _database() -> duckdb.DuckDBPyConnection:
    """Return one engine with one thread for all readers of a process.

    Opening one takes as long as a query on so few rows.
    """
    return duckdb.connect(config={"threads": 1})


@cache
def _on_duckdb(sql: str) -> str:
    return sqlglot.transpile(sql, read="bigquery", write="duckdb", unsupported_level=sqlglot.ErrorLevel.RAISE)[0]


def costs(effective: str | Decimal, **more: str) -> dict[str, Decimal]:
    """Return the four measures, all equal to `effective` unless given."""
    unit = Decimal(1).scaleb(-22)
    return {
        m: Decimal(more.get(m, effective)).quantize(unit, context=Context(prec=60))
        for m in ("list_cost", "contracted_cost", "effective_cost", "billed_cost")
    }


def month_world(currency: str = "USD", names: Mapping[str, str] | None = None) -> dict[str, list[dict[str, Any]]]:
    """Return two months of a company with five teams. `names` replaces strings that outsiders can choose."""
    say = dict(names or {})

    def text(value: str) -> str:
        return say.get(value, say.get("*", value))

    world: dict[str, list[dict[str, Any]]] = {name: [] for name in TABLES}
    teams = [
        ("vision", "resnet-sweep", "ana"),
        ("vision", "vit-pretrain", "ben"),
        ("nlp", "bert-small", "cleo"),
        ("forecasting", "demand", "dan"),
        (None, "scratch", "eva"),
    ]
    machines = [f"gpu-a100-{i:02d}" for i in range(1, 9)]
    first_day = date(2026, 10, 1)
    sums: dict[str, dict[str, Decimal]] = {}

    def charge(when: date, target: str, amount: Decimal, kind: str = "compute", **more: Any) -> None:
        period = when.replace(day=1)
        four = costs(amount, list_cost=str(amount * Decimal("1.25")), billed_cost=str(amount * Decimal("0.9")))
        run = more.get("run")
        keys = {"tracking_server": "prod", "workspace": "default"} if run else {}
        world["cost_daily"].append(
            {
                "source": "aws", "billing_period": period, "charge_date": when, "service_name": "AmazonEC2", "charge_category": more.get("category", "Usage"),
                "cost_kind": kind, "allocated_to": target, "billing_currency": currency, "cost_status": "provisional", **keys, **four,
                **{k: v for k, v in more.items() if k in ("experiment_id", "experiment_name", "team", "user_name", "confidence")},
            }
        )  # fmt: skip
        n = len(world["cost_allocations"])
        world["cost_allocations"].append(
            {
                "source": "aws", "billing_period": period, "charge_id": f"line{n}", "target_id": f"prod/default/{run}" if run else target, "charge_date": when,
                "charge_category": more.get("category", "Usage"), "resource_id": more.get("machine"), "invoice_id": "INV-1" if when.day < 10 else None,
                "cost_kind": kind, "allocated_to": target, "billing_currency": currency, "match_method": more.get("method", "none"), "confidence": more.get("confidence"), **four,
            }
        )  # fmt: skip
        world["billing_lines"].append(
            {"source": "aws", "billing_period": period, "line_id": f"line{n}", "billing_currency": currency, **four}
        )
        total = sums.setdefault(str(period), {m: Decimal(0) for m in four})
        for m in four:
            total[m] = Context(prec=60).add(total[m], four[m])
        if run:
            world["run_costs_daily"].append(
                {
                    "tracking_server": "prod", "workspace": "default", "run_id": run, "charge_date": when, "cost_kind": kind, "source": "aws", "billing_period": period,
                    "billing_currency": currency, **four, "unused_cost": costs(amount / 8)["list_cost"] if more["team"] == "nlp" else Decimal(0), "machine_seconds": 3600.0 * 5, "gpu_seconds": 3600.0 * 40,
                    "confidence": more.get("confidence"),
                }
            )  # fmt: skip

    for offset in range(31 + 22):
        when = first_day + timedelta(days=offset)
        for i, (team, experiment, user) in enumerate(teams):
            run = f"{offset:02x}{i:02x}".ljust(32, "a")
            machine = machines[(i + offset) % 6]
            amount = Decimal("31.4159265358979323846264") * (i + 1) * (1 + Decimal(offset % 7) / 10)
            charge(when, "run", amount, run=run, team=text(team) if team else None, experiment_id=str(i), experiment_name=text(experiment),
                   user_name=text(user), confidence=("exact", "high", "high", "medium", "low")[i], method=("run_tag", "resource_id", "resource_id", "pool_time", "instance_type_time")[i], machine=machine)  # fmt: skip
            status = "FAILED" if (offset + i) % 9 == 0 else "KILLED" if (offset + i) % 17 == 0 else "FINISHED"
            world["runs"].append(
                {
                    "tracking_server": "prod", "workspace": "default", "run_id": run, "start_month": when.replace(day=1), "run_name": text(f"{experiment}-{offset:03d}"), "experiment_id": str(i),
                    "experiment_name": text(experiment), "user_name": text(user), "team": text(team) if team else None, "run_status": status,
                    "start_time": datetime(when.year, when.month, when.day, 8, i, tzinfo=timezone.utc), "end_time": datetime(when.year, when.month, when.day, 13, i, tzinfo=timezone.utc),
                    "params_digest": f"p{offset % 11}", "git_commit": "c0ffee",
                }
            )  # fmt: skip
        charge(
            when,
            "run",
            Decimal("10.25"),
            kind="storage",
            run=f"{offset:02x}00".ljust(32, "a"),
            team=text("vision"),
            experiment_id="0",
            experiment_name=text("resnet-sweep"),
            user_name=text("ana"),
            confidence="high",
            method="artifact_bytes",
        )
        for i, machine in enumerate(machines):
            charge(when, "idle", Decimal(7 + i * 3 + offset % 5) / 2, machine=machine, method="resource_id")
        charge(when, "unallocated", Decimal("61.5") + offset % 4)
        charge(when, "shared", Decimal("-12.5") if offset % 10 == 3 else Decimal("40"), category="Credit" if offset % 10 == 3 else "Tax")
        charge(when, "orphan", Decimal("4.1"), kind="storage")
        charge(when, "out_of_scope", Decimal("320.5"))
    for i, machine in enumerate(machines):
        world["unallocated_costs"].append(
            {
                "source": "aws", "billing_period": NOVEMBER, "allocated_to": "idle", "resource_id": machine, "service_name": "AmazonEC2", "sub_account_id": "", "billing_currency": currency,
                "instance_type": "p4d.24xlarge", **costs(Decimal(7 + i * 3 + 2) * 11), "billed_seconds": 96 * 3600.0, "used_seconds": (96 - 11 * (i + 1)) * 3600.0,
                "last_run_id": None if i == 7 else "0" * 32, "last_used_at": None if i == 7 else COVERED - timedelta(days=i), "suspected_owner": text("ana"),
            }
        )  # fmt: skip
    for name, amount, reason in (("i-0gpuspot", "812.51", None), ("i-0other", "301", "unknown_run"), ("", "240", "not_timed")):
        world["unallocated_costs"].append(
            {
                "source": "aws", "billing_period": NOVEMBER, "allocated_to": "unallocated", "resource_id": text(name) if name else "", "service_name": "AmazonSageMaker", "sub_account_id": "",
                "billing_currency": currency, **costs(amount), "reason": reason, "suspected_owner": text("ben"),
            }
        )  # fmt: skip
    for period, total in sums.items():
        world["billing_loads"].append(
            {
                "source": "aws", "billing_period": date.fromisoformat(period), "version": "v" * 16, "billing_currency": currency, "version_number": 23, "state": "current", "delivered_at": COVERED,
                "row_count": len(world["billing_lines"]), "quarantined_count": 0, **total, "rounded_cost": Decimal(0),
                "covered_until": COVERED if period == "2026-11-01" else datetime(2026, 11, 1, tzinfo=timezone.utc), "is_invoiced": False,
            }
        )  # fmt: skip
    world["bill_changes"].append(
        {
            "source": "aws",
            "billing_period": NOVEMBER,
            "version": "v" * 16,
            "version_number": 23,
            "charge_date": date(2026, 11, 20),
            "service_name": "AmazonEC2",
            "sub_account_id": "",
            "billing_currency": currency,
            **costs("412.90"),
        }
    )
    for name, spent, amount in (("vision", "5012.38", "5000"), ("nlp", "3870.12", "4500"), ("forecasting", "1964.05", "6000")):
        world["budget_status"].append(
            {
                "budget": text(name),
                "title": text(name),
                "forecast": Decimal(spent) * 2,
                "forecast_low": Decimal(spent) * Decimal("1.5"),
                "forecast_high": Decimal(spent) * 3,
                "exceeded_on": date(2026, 11, 28),
                "month": NOVEMBER,
                "budget_period": "2026-11",
                "amount": Decimal(amount),
                "spent": Decimal(spent),
                "currency": currency,
                "measure": "effective_cost",
                "owner": text("ana"),
                "covered_until": COVERED,
            }
        )
    world["alerts"].append(
        {
            "alert_id": "a1",
            "month": NOVEMBER,
            "budget": text("vision"),
            "budget_period": "2026-11",
            "kind": "actual",
            "threshold": "100%",
            "message_id": "<a1@acme.com>",
            "decided_at": NOW,
        }
    )
    for i, (_, experiment, _) in enumerate(teams):
        world["experiments"].append(
            {"tracking_server": "prod", "workspace": "default", "experiment_id": str(i), "experiment_name": text(experiment)}
        )
        for month, factor in ((9, 5), (10, 8), (11, 10)):
            for storage_class, share in (("STANDARD", 7), ("GLACIER_IR", 3)):
                world["artifact_bytes"].append(
                    {
                        "month": date(2026, month, 1), "store": "s3://acme-mlflow", "owner_kind": "run", "owner_id": f"run{i}", "tracking_server": "prod", "workspace": "default", "experiment_id": str(i),
                        "storage_class": storage_class, "valid_from": datetime(2026, month, 1, tzinfo=timezone.utc), "valid_to": None if month == 11 else datetime(2026, month + 1, 1, tzinfo=timezone.utc),
                        "objects": 1000 * (i + 1), "bytes": 10**11 * (i + 1) * factor * share // 10, "oldest_at": NOW - timedelta(days=200), "newest_at": NOW, "is_complete": True,
                    }
                )  # fmt: skip
    world["artifact_bytes"].append(
        {
            "month": NOVEMBER,
            "store": "s3://acme-mlflow",
            "owner_kind": "orphan",
            "owner_id": "old/1",
            "storage_class": "STANDARD",
            "valid_from": datetime(2026, 11, 1, tzinfo=timezone.utc),
            "objects": 500,
            "bytes": 4_100_000_000_000,
            "is_complete": True,
        }
    )
    for name, kind, state, error in (
        ("aws", "bill", "ok", None),
        ("prod", "tracking", "ok", None),
        ("lab", "tracking", "unreachable", "connection refused: <b>host</b>"),
    ):
        world["sources"].append(
            {
                "source": name,
                "kind": kind,
                "state": state,
                "covered_until": COVERED,
                "usual_lag_seconds": 100_000.0,
                "row_count": 412,
                "last_error": error,
                "last_good_at": NOW,
            }
        )
    world["builds"].append({"step": "allocate", "month": NOVEMBER, "build_id": "b" * 64, "now": NOW})
    return world
