"""Create the tables of models without `into`, and skip queries that certainly return no rows.

In a small month, most of these tables have no rows, and DuckDB spends more time on planning a query than on running it. So if a table
certainly has no rows and its columns are known from an earlier run of the same query, it is created without running the query.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from runspend.core.sql_quoting import sql_name
from runspend.warehouse.dialect import duckdb_sql
from runspend.warehouse.parquet.engine import column_types, parsed

if TYPE_CHECKING:
    import duckdb


MOST_KNOWN = 2000  # maximum number of queries whose columns are remembered; one ledger has about a hundred queries
_known: dict[tuple[object, ...], str] = {}


@dataclass(frozen=True)
class Made:
    """A table or view with the rows of a model."""

    kind: str = "table"  # or "view"
    columns: str | None = None  # names and types in the syntax of CREATE TABLE; None: not known
    is_empty: bool = False


def make_table(
    connection: duckdb.DuckDBPyConnection, name: str, sql: str, parameters: Mapping[str, Any], inputs: Mapping[str, Made], *, is_empty: bool
) -> Made:
    """Create the table main.NAME with the rows of a GoogleSQL query.

    `inputs`: the tables of other models that the query reads. `is_empty`: whether the query certainly returns no rows.
    """
    key = _key(sql, parameters, inputs)
    columns = _known.get(key) if key else None
    if is_empty and columns is not None:
        connection.execute(parsed(f"create table main.{sql_name(name)} ({columns})"))
        return Made("table", columns, is_empty=True)
    [(rows,)] = connection.execute(parsed(f"create table main.{sql_name(name)} as {duckdb_sql(sql)}"), parameters).fetchall()
    if columns is None:
        types = column_types(connection, name)
        if any("ENUM" in type_ for type_ in types.values()):  # an ENUM type lists all its strings, and these depend on the rows
            return Made("table", None, is_empty=rows == 0)
        columns = ", ".join(f"{sql_name(column)} {type_}" for column, type_ in types.items())
        if key and len(_known) < MOST_KNOWN:
            _known[key] = columns
    return Made("table", columns, is_empty=rows == 0)


def _key(sql: str, parameters: Mapping[str, Any], inputs: Mapping[str, Made]) -> tuple[object, ...] | None:
    """Return all values that the column types of a query depend on, or None if one of them is not known.

    The types of published tables never change, so they are not part of the key.
    """
    if any(made.columns is None for made in inputs.values()):
        return None
    given = tuple((name, _type_of(value)) for name, value in sorted(parameters.items()))
    return sql, given, tuple((name, made.columns) for name, made in inputs.items())


def _type_of(value: object) -> object:
    """Return what DuckDB's type for a parameter depends on. For a number, that is its value: DuckDB uses the smallest type that fits."""
    return (type(value), getattr(value, "tzinfo", None)) if isinstance(value, dt.date) else repr(value)
