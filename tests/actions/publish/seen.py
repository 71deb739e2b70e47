"""What a reader of a target sees: the number of rows and the exact sum of effective_cost of each table, and the build."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import closing
from datetime import date, datetime, timedelta, timezone
from decimal import Context, Decimal
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa

from runspend.actions.publish.content import BUILDS
from runspend.config.publish import DuckDBTarget, IcebergTarget, PostgresTarget
from runspend.schema.published import PUBLISHED_TABLES
from runspend.warehouse.base import Unit
from runspend.warehouse.factory import open_warehouse

EXACT = Context(prec=76)


def tables_of(target: PostgresTarget | DuckDBTarget | IcebergTarget, chosen: Sequence[str] = ()) -> dict[str, list[dict[str, Any]]]:
    """Return all rows by table, at one moment if the target supports that. Without a publish, the result is empty."""
    names = chosen or [table.name for table in (*PUBLISHED_TABLES, BUILDS)]
    if isinstance(target, DuckDBTarget):
        if not target.file.exists():
            return {}
        with closing(duckdb.connect(target.file, read_only=True)) as connection:
            connection.execute("set TimeZone = 'UTC'")
            return {name: connection.sql(f"select * from {name}").to_arrow_table().to_pylist() for name in names}
    if isinstance(target, IcebergTarget):
        from pyiceberg.catalog import load_catalog

        catalog = load_catalog(target.name, **target.properties)  # a catalog in SQL also needs its name to find tables
        if not catalog.namespace_exists(target.namespace):
            return {}
        there = {name for _, name in catalog.list_tables(target.namespace)}
        return {name: catalog.load_table(f"{target.namespace}.{name}").scan().to_arrow().to_pylist() for name in names if name in there}
    import psycopg2
    import psycopg2.extras

    with closing(psycopg2.connect(target.uri.get_secret_value())) as connection, connection.cursor() as cursor:
        connection.set_session("repeatable read", readonly=True)
        cursor.execute("set TimeZone = 'UTC'")
        cursor.execute("select 1 from pg_namespace where nspname = %s", [target.schema_name])
        if not cursor.fetchall():
            return {}
        found = {}
        columns_of = {table.name: ", ".join(column.name for column in table.columns) for table in (*PUBLISHED_TABLES, BUILDS)}
        for name in names:  # cost_daily also has rounded costs
            cursor.execute(f'select {columns_of[name]} from "{target.schema_name}".{name}')
            columns = [column.name for column in cursor.description]
            found[name] = [dict(zip(columns, row, strict=True)) for row in cursor.fetchall()]
        return found


def see(target: PostgresTarget | DuckDBTarget | IcebergTarget, *names: str) -> dict[str, list[Any]]:
    """Return rows and sums of each table, or of these tables, as JSON values."""
    return {name: summed(rows) for name, rows in tables_of(target, names).items()}


def summed(rows: list[dict[str, Any]]) -> list[Any]:
    """Return the number of rows and the exact sum of effective_cost. For the table of builds, return the build."""
    whole = [row["build_id"] for row in rows if row.get("table_name") == "all"]
    total = EXACT.create_decimal(0)
    for row in rows:
        total = EXACT.add(total, row.get("effective_cost") or 0)
    return [len(rows), whole[0] if whole else str(total.normalize(EXACT))]


def plain(rows: pa.Table | list[dict[str, Any]]) -> list[str]:
    """Return the rows as sorted strings, for comparison."""
    listed = rows if isinstance(rows, list) else rows.to_pylist()
    return sorted(repr(sorted((key, _plain(value)) for key, value in row.items())) for row in listed)


def _plain(value: Any) -> Any:
    return value.astimezone(timezone.utc).isoformat() if isinstance(value, datetime) else value


def double_cost_daily(home: Path, build_id: str = "later") -> None:
    """Publish one unit of cost_daily again, with twice the cost."""
    warehouse = open_warehouse(f"{home}/warehouse")
    unit = Unit("cost_daily", "2026-10", "decoys")
    rows = warehouse.read(unit)
    assert rows is not None
    doubled = pa.Table.from_pylist(
        [row | {"effective_cost": row["effective_cost"] * 2 + Decimal("1e-22")} for row in rows.to_pylist()], rows.schema
    )
    with warehouse.step("later", build_id) as step:
        step.put(*unit, doubled)
        assert step.publish()


def add_days(home: Path, count: int = 5) -> None:
    """Publish one unit of cost_daily with its rows repeated on `count` more days.

    The last day has other costs too: halves of a cent, credits and tiny amounts.
    """
    warehouse = open_warehouse(f"{home}/warehouse")
    unit = Unit("cost_daily", "2026-10", "decoys")
    rows = warehouse.read(unit)
    assert rows is not None
    costs = [
        Decimal("0.005"),
        Decimal("-0.0049999999999999999999"),
        Decimal("0.0000000000000000000001"),
        Decimal("12.345"),
        Decimal("-7.005"),
    ]
    more = [
        row
        | {"charge_date": row["charge_date"] + timedelta(days=day) if day <= count else date.max}
        | {cost: costs[(day + place) % len(costs)] for place, cost in enumerate(("contracted_cost", "effective_cost", "billed_cost"))}
        for day in range(1, count + 2)
        for row in rows.to_pylist()
    ]
    with warehouse.step("more", "more") as step:
        step.put(*unit, pa.concat_tables([rows, pa.Table.from_pylist(more, rows.schema)]))
        assert step.publish()
