"""Create the rows of a table from Python values, and split rows by month. `tables.py` defines the columns of each table."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from datetime import date, datetime, timezone
from typing import TYPE_CHECKING, Any

from runspend.schema.tables import TABLES

if TYPE_CHECKING:
    import pyarrow as pa


def first_day(period: str) -> date:
    """Return the first day of a month "YYYY-MM"."""
    return date.fromisoformat(f"{period}-01")


def midnight(day: date) -> datetime:
    """Return the time at which a date begins in UTC."""
    return datetime(day.year, day.month, day.day, tzinfo=timezone.utc)


def month_after(first: date, months: int) -> date:
    """Return the first day of the month that is this many months later, or earlier if `months` is negative."""
    index = first.year * 12 + first.month - 1 + months
    return date(index // 12, index % 12 + 1, 1)


def arrow_rows(table: str, rows: Sequence[Mapping[str, Any]]) -> pa.Table:
    """Return the rows as an Arrow table with the schema of the table. Missing keys become null."""
    import pyarrow as pa

    schema = TABLES[table].arrow_schema()
    return pa.Table.from_pylist([{name: row.get(name) for name in schema.names} for row in rows], schema=schema)


def by_month(table: str, rows: pa.Table) -> Iterator[tuple[str, pa.Table]]:
    """Split rows by the month of their period column and yield ("YYYY-MM", rows)."""
    import pyarrow.compute as pc

    column = TABLES[table].period_column
    assert column is not None
    for month in pc.unique(rows.column(column)).to_pylist():
        yield f"{month:%Y-%m}", rows.filter(pc.equal(rows.column(column), first_day(f"{month:%Y-%m}")))


def make_load_id(name: str, now: datetime) -> str:
    """Return the id of one read, which is a hash of the source and the time. A repeated pipeline run gets the same id."""
    return hashlib.sha256(f"{name}|{now.isoformat()}".encode()).hexdigest()[:16]
