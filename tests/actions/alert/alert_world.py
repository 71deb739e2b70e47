"""Rows and settings for the tests of alerts and of the archive plan, in memory or in a real Parquet warehouse."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import date, datetime, timezone
from decimal import Decimal
from email.message import EmailMessage
from functools import cache
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa

from runspend.schema.tables import TABLES
from runspend.warehouse.base import Reader
from runspend.warehouse.dialect import duckdb_sql, table_names
from runspend.warehouse.parquet.engine import fetch, narrow, used
from runspend.warehouse.parquet.warehouse import ParquetWarehouse

NOW = datetime(2026, 11, 24, 6, tzinfo=timezone.utc)
UTC = timezone.utc


class Killed(BaseException):
    """A stand-in for SIGKILL. No code in the library catches it."""


def count_down(left: list[int], operation: str) -> None:
    """Return a function that raises Killed at the moment whose number is in `left`."""
    left[0] -= 1
    if left[0] < 0:
        raise Killed(operation)


def cost(day: str, amount: str | Decimal, **names: Any) -> dict[str, Any]:
    """Return one row of cost_daily."""
    on = date.fromisoformat(day)
    row = {
        "source": "aws", "billing_period": on.replace(day=1), "charge_date": on, "service_provider_name": "AWS", "cost_kind": "compute", "allocated_to": "run",
        "tracking_server": "prod", "workspace": "default", "experiment_id": "12", "experiment_name": "resnet-sweep", "team": "vision", "user_name": "ana",
        "confidence": "exact", "cost_status": "provisional", "billing_currency": "USD",
        **{f"{kind}_cost": Decimal(amount) for kind in ("list", "contracted", "effective", "billed")},
    }  # fmt: skip
    return row | names


def run(run_id: str, **facts: Any) -> dict[str, Any]:
    """Return one row of runs."""
    row = {
        "tracking_server": "prod", "workspace": "default", "run_id": run_id, "run_name": run_id, "experiment_id": "12", "experiment_name": "resnet-sweep",
        "user_name": "ana", "team": "vision", "run_status": "FINISHED", "lifecycle_stage": "active", "start_time": datetime(2026, 11, 20, 8, tzinfo=UTC),
        "end_time": datetime(2026, 11, 20, 9, tzinfo=UTC), "tags": "{}", "params": "{}",
    } | facts  # fmt: skip
    return row | {"start_month": row["start_time"].date().replace(day=1)}


def source(name: str = "aws", until: datetime = datetime(2026, 11, 22, 23, tzinfo=UTC)) -> dict[str, Any]:
    """Return one row of sources."""
    return {"source": name, "kind": "bill", "state": "ok", "covered_until": until, "usual_lag_seconds": 86400.0}


def budget(name: str = "vision", amount: str = "5000", **more: Any) -> dict[str, Any]:
    """Return one entry of budgets."""
    return {"name": name, "for": {"team": "vision"}, "amount": amount, "notify": ["vision-leads@acme.com"], **more}


class MemoryReader:
    """A warehouse's reader over fixed rows in memory. It computes each query's answer only once."""

    def __init__(self, tables: Mapping[str, Sequence[Mapping[str, Any]]]) -> None:
        self._tables = tables
        self._known: set[str] = set()
        self._answers: dict[tuple[str, str], pa.Table] = {}
        self._connection = _database().cursor()  # each connection has its own registered rows
        self._connection.execute("set TimeZone = 'UTC'")

    def query(self, sql: str, parameters: Mapping[str, Any] | None = None, *, native: bool = False) -> pa.Table:
        assert not native
        for name in (table_names(sql) & TABLES.keys()) - self._known:
            rows = [dict(row) for row in self._tables.get(name, ())]
            self._connection.register(name, pa.Table.from_pylist(rows, schema=TABLES[name].arrow_schema()))
            self._known.add(name)
        given = used(sql, parameters or {})
        asked = sql, repr(sorted(given.items()))
        if asked not in self._answers:
            self._answers[asked] = narrow(fetch(self._connection, duckdb_sql(sql), given))
        return self._answers[asked]

    def batches(self, sql: str, parameters: Mapping[str, Any] | None = None, *, rows: int) -> Iterator[pa.RecordBatch]:
        yield from self.query(sql, parameters).to_batches(max_chunksize=rows)


@cache
def _database() -> duckdb.DuckDBPyConnection:
    """Return one engine with one thread for all readers of a process.

    Opening one takes as long as a query on so few rows.
    """
    return duckdb.connect(config={"threads": 1})


def in_memory(**tables: Sequence[Mapping[str, Any]]) -> Reader:
    """Return a reader over these rows only."""
    assert tables.keys() <= TABLES.keys()
    reader: Any = MemoryReader(tables)
    return reader


@contextmanager
def warehouse(root: Path, **tables: Sequence[Mapping[str, Any]]) -> Iterator[Reader]:
    """Return a reader over these rows in a real warehouse."""
    house = ParquetWarehouse(root)
    with house.step("test", "b1") as step:
        for name, rows in tables.items():
            table = TABLES[name]
            by_period: dict[str, list[Mapping[str, Any]]] = {}
            for row in rows:
                period = f"{row[table.period_column]:%Y-%m}" if table.period_column else "all"
                by_period.setdefault(period, []).append(row)
            for period, part in by_period.items():
                step.put(name, period, "test", pa.Table.from_pylist([dict(r) for r in part], schema=table.arrow_schema()))
        step.publish()
    with house.reader() as reader:
        yield reader


def text_of(message: EmailMessage) -> str:
    """Return the plain text of a mail."""
    body = message.get_body(("plain",))
    assert body is not None
    return str(body.get_content())
