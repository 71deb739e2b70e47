"""Tables of models without `into`. Most tables of a small month have no rows, and planning a query takes longer than few rows.

So a table that certainly has no rows is created from the columns that the same query gave before, without running it.
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


MOST_KNOWN = 2000  # queries whose columns are remembered: a ledger has a hundred
_known: dict[tuple[object, ...], str] = {}


@dataclass(frozen=True)
class Made:
    """A table, or a view, of a model's rows."""

    kind: str = "table"
    columns: str | None = None  # with their types, as CREATE TABLE takes them; None: not known
    is_empty: bool = False


def make_table(
    connection: duckdb.DuckDBPyConnection, name: str, sql: str, parameters: Mapping[str, Any], inputs: Mapping[str, Made], *, is_empty: bool
) -> Made:
    """Create the table main.NAME of a GoogleSQL query's rows. `inputs`: tables that it reads and other models made.

    `is_empty`: it certainly has no rows.
    """
    key = _key(sql, parameters, inputs)
    columns = _known.get(key) if key else None
    if is_empty and columns is not None:
        connection.execute(parsed(f"create table main.{sql_name(name)} ({columns})"))
        return Made("table", columns, is_empty=True)
    [(rows,)] = connection.execute(parsed(f"create table main.{sql_name(name)} as {duckdb_sql(sql)}"), parameters).fetchall()
    if columns is None:
        types = column_types(connection, name)
        if any("ENUM" in type_ for type_ in types.values()):  # it lists all its strings
            return Made("table", None, is_empty=rows == 0)
        columns = ", ".join(f"{sql_name(column)} {type_}" for column, type_ in types.items())
        if key and len(_known) < MOST_KNOWN:
            _known[key] = columns
    return Made("table", columns, is_empty=rows == 0)


def _key(sql: str, parameters: Mapping[str, Any], inputs: Mapping[str, Made]) -> tuple[object, ...] | None:
    """Return everything that the types of a query's columns depend on; None if not known. The types of published tables never change."""
    if any(made.columns is None for made in inputs.values()):
        return None
    given = tuple((name, _type_of(value)) for name, value in sorted(parameters.items()))
    return sql, given, tuple((name, made.columns) for name, made in inputs.items())


def _type_of(value: object) -> object:
    """Return what DuckDB's type for a parameter depends on. Numbers get the smallest type that has them."""
    return (type(value), getattr(value, "tzinfo", None)) if isinstance(value, dt.date) else repr(value)
