"""Rows for a table: from Python's values, and by the month of its period column. What each table has for columns stands in `tables.py`."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from datetime import date, datetime
from typing import TYPE_CHECKING, Any

from runspend.schema.tables import TABLES

if TYPE_CHECKING:
    import pyarrow as pa

__all__ = ["arrow_rows", "by_month", "first_day", "make_load_id"]


def first_day(period: str) -> date:
    """The first day of "YYYY-MM"."""
    return date.fromisoformat(f"{period}-01")


def arrow_rows(table: str, rows: Sequence[Mapping[str, Any]]) -> pa.Table:
    """Rows as the table's own Arrow schema; keys left out are null."""
    import pyarrow as pa

    schema = TABLES[table].arrow_schema()
    return pa.Table.from_pylist([{name: row.get(name) for name in schema.names} for row in rows], schema=schema)


def by_month(table: str, rows: pa.Table) -> Iterator[tuple[str, pa.Table]]:
    """Rows split by the month their period column names, as ("YYYY-MM", rows)."""
    import pyarrow.compute as pc

    column = TABLES[table].period_column
    assert column is not None
    for month in pc.unique(rows.column(column)).to_pylist():
        yield f"{month:%Y-%m}", rows.filter(pc.equal(rows.column(column), first_day(f"{month:%Y-%m}")))


def make_load_id(name: str, now: datetime) -> str:
    """The id of one read: a hash of who was read and when, so that the same night run twice writes the same."""
    return hashlib.sha256(f"{name}|{now.isoformat()}".encode()).hexdigest()[:16]
