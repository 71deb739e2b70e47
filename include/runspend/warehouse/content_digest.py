"""Content digests of rows that are equal on every engine. DuckDB and BigQuery run the same GoogleSQL query.

Each row becomes a string in which every value is preceded by its length, so that different rows give different strings. The MD5 of this
string gives four numbers of 28 bits, and these are summed over all rows. So the order of rows does not matter, and the sums of two parts
can be added.

Money counts with all its decimals, and times count in microseconds. Floats count in millionths, because sums of floats differ in their last
bits between engines. No cost is computed from a float.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

from runspend.schema.tables import Column, Table

PIECES = tuple(range(4))  # each has 28 bits, so that the sum over 34 billion rows fits into an INT64
PREFIX = "sums:"


@dataclass(frozen=True)
class Sums:
    """The number of rows, and the sum of each piece of their hashes."""

    rows: int
    pieces: tuple[int, ...]

    def __add__(self, other: Sums) -> Sums:
        return Sums(self.rows + other.rows, tuple(a + b for a, b in zip(self.pieces, other.pieces, strict=True)))

    @property
    def digest(self) -> str:
        """The digest as text. Its prefix names the method of this module."""
        return PREFIX + hashlib.sha256(",".join(map(str, (self.rows, *self.pieces))).encode()).hexdigest()


def sums_sql(table: Table, source: str, *, group_by: str | None = None) -> str:
    """Return the query for the number of rows and the sums of `source`, which is a table or a query in parentheses.

    With `group_by`, the query returns one row per value of this column.
    """
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
    """Return SQL for the value of a column as a string that is the same on every engine. The string of null is null."""
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
        case "BIGNUMERIC":  # one engine writes 1.50 and the other 1.5, so trailing zeros are removed
            return f"if(strpos(cast({name} as string), '.') > 0, rtrim(rtrim(cast({name} as string), '0'), '.'), cast({name} as string))"
    return f"cast({name} as string)"
