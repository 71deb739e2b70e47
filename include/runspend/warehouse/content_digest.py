"""Content digests of rows that are equal on any engine: one GoogleSQL query per table, the same on DuckDB and BigQuery.

Each row becomes a string: every value is preceded by its length, so that different rows give different strings. The text becomes its
MD5, and the MD5 becomes four numbers of 28 bits, which are summed. Parts of a table add up to the whole, in any order of rows. Money
counts with all its decimals, times in microseconds, floats in millionths: sums of floats differ in their last bits between
engines, and no cost is computed from a float.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

from runspend.schema.tables import Column, Table

PIECES = tuple(range(4))  # of 28 bits each: sums of 34 billion rows fit an INT64
PREFIX = "sums:"


@dataclass(frozen=True)
class Sums:
    """Number of rows, and the sums of the pieces of their hashes."""

    rows: int
    pieces: tuple[int, ...]

    def __add__(self, other: Sums) -> Sums:
        return Sums(self.rows + other.rows, tuple(a + b for a, b in zip(self.pieces, other.pieces, strict=True)))

    @property
    def digest(self) -> str:
        """The content as one text, with a prefix that names this method."""
        return PREFIX + hashlib.sha256(",".join(map(str, (self.rows, *self.pieces))).encode()).hexdigest()


def sums_sql(table: Table, source: str, *, group_by: str | None = None) -> str:
    """Return the query for rows and sums of `source` (a table, or a query in parentheses); with `group_by`, per value of it."""
    types = {c.name: c for c in table.columns}
    text = ", ".join(
        f"coalesce(concat(cast(length({t}) as string), ':', {t}), '-')" for t in (_text(types[name]) for name in table.content)
    )
    pieces = ", ".join(f"sum(cast(concat('0x', substr(row_hash, {1 + 7 * n}, 7)) as int64)) as piece_{n}" for n in PIECES)
    key = f"{group_by}, " if group_by else ""
    hashed = f"select {key}to_hex(md5(concat({text}))) as row_hash from {source} as t"
    counted = f"select {key}count(*) as row_count, {pieces}"
    grouped = f" group by {group_by} order by {group_by}" if group_by else ""
    return f"with hashed as ({hashed}) {counted} from hashed{grouped}"


def _text(column: Column) -> str:
    """Return SQL for the value as a string that is the same on every engine; null for null."""
    name = f"t.{column.name}"
    match column.type:
        case "STRING":
            return name
        case "TIMESTAMP":
            return f"cast(unix_micros({name}) as string)"
        case "FLOAT64":
            return f"cast(safe_cast(round({name} * 1e6) as int64) as string)"
        case "ARRAY<STRING>":
            return f"concat(cast(coalesce(array_length({name}), 0) as string), '[', coalesce(array_to_string({name}, ',', '-'), ''))"  # BigQuery stores a null list as an empty one
        case "BIGNUMERIC":  # 1.50 on one engine, 1.5 on the other
            return f"if(strpos(cast({name} as string), '.') > 0, rtrim(rtrim(cast({name} as string), '0'), '.'), cast({name} as string))"
    return f"cast({name} as string)"
