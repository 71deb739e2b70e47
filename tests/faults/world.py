"""A small warehouse whose rows show their version, and what writers and readers of the fault tests do with it.

`python -m tests.faults.world ROOT publish VERSION` publishes one version of several tables together.
`python -m tests.faults.world ROOT rounds WRITER COUNT` publishes again and again, each time over the rows that it read.
"""

from __future__ import annotations

import datetime as dt
import sys
from collections.abc import Sequence
from decimal import Decimal
from pathlib import Path
from typing import Any

import pyarrow as pa

from runspend.schema.tables import TABLES, Column, Table
from runspend.warehouse.base import Unit
from runspend.warehouse.parquet.warehouse import ParquetWarehouse

PERIOD = "2026-10"
TOGETHER = ("cost_daily", "cost_allocations", "run_costs_daily", "unallocated_costs")
ROWS = 50


def rows_of(
    table: Table, *, count: int = ROWS, period: str = PERIOD, source: str = "aws", cost: str = "1", build_id: str = "b"
) -> pa.Table:
    """Return rows with all keys filled, all costs equal to `cost`, and a value in every column."""
    first = dt.date.fromisoformat(f"{period}-01") if period != "all" else dt.date(2026, 10, 1)
    when = dt.datetime(2026, 10, 3, 12, tzinfo=dt.timezone.utc)

    def value(name: str, type_: str, number: int) -> Any:
        if name == table.period_column:
            return first
        if name in ("build_id", "load_id"):
            return build_id
        if name == "source":
            return source
        return {
            "STRING": f"{name} {number}",
            "INT64": number,
            "FLOAT64": number / 8,
            "BOOL": number % 2 == 0,
            "DATE": first + dt.timedelta(days=number % 28),
            "TIMESTAMP": when,
            "BIGNUMERIC": Decimal(cost),
            "ARRAY<STRING>": [f"{name} {number}"],
        }[type_]

    rows = [{c.name: value(c.name, c.type, number) for c in table.columns} for number in range(count)]
    return pa.Table.from_pylist(rows, schema=table.arrow_schema())


def with_new_column(table: Table) -> Table:
    """Return the table as a later version may define it."""
    return Table(
        table.name, table.grain, table.meaning, (*table.columns, Column("new_cost", "BIGNUMERIC", "New.")), is_public=True,
        period_column=table.period_column, sort=table.sort,
    )  # fmt: skip


def publish_version(root: Path, version: int, tables: Sequence[str] = TOGETHER) -> None:
    """Replace one unit of each table by its next version, all together. Version 2 also drops a unit of billing_lines."""
    with ParquetWarehouse(root).step("fault", f"build-{version}") as step:
        for name in tables:
            step.put(name, PERIOD, "all", rows_of(TABLES[name], cost=str(version), build_id=f"build-{version}"))
        if version > 1:
            step.drop("billing_lines", PERIOD, "gone")
        step.publish()


def versions_seen(root: Path, tables: Sequence[str] = TOGETHER) -> set[str]:
    """Return the builds that a reader sees in these tables. There must be only one."""
    sql = " union distinct ".join(f"select distinct build_id from {name}" for name in tables)
    with ParquetWarehouse(root).reader() as reader:
        return set(reader.query(sql)["build_id"].to_pylist())


def add_in_rounds(root: Path, writer: str, count: int) -> int:
    """Add one row to the same unit `count` times, each time to the rows just read. Return how often another writer published first."""
    unit = Unit("bill_changes", PERIOD, "all")
    table = TABLES["bill_changes"]
    warehouse = ParquetWarehouse(root)
    superseded = done = 0
    while done < count:
        state = warehouse.states("bill_changes").get(unit)
        old = warehouse.read(unit)
        new = rows_of(table, count=1, source=f"{writer}-{done}")
        with warehouse.step("rounds", f"{writer}-{done}") as step:
            step.put(*unit, new if old is None else pa.concat_tables([old, new]))
            if step.publish({unit: None if state is None else state.digest}):
                done += 1
            else:
                superseded += 1
    return superseded


def main(root: str, verb: str, *arguments: str) -> None:
    if verb == "publish":
        publish_version(Path(root), int(arguments[0]))
    elif verb == "rounds":
        print(add_in_rounds(Path(root), arguments[0], int(arguments[1])))
    else:
        sys.exit(f"cannot {verb}: the verbs are publish and rounds.")


if __name__ == "__main__":
    main(*sys.argv[1:])
