"""Cached facts about GoogleSQL statements. Imports sqlglot only when the first statement is parsed: storing rows does not need it.

`googlesql.py` translates statements to DuckDB's SQL, and to PostgreSQL's.
"""

from __future__ import annotations

from collections.abc import Collection
from functools import lru_cache
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from runspend.warehouse.googlesql import Statement


@lru_cache(maxsize=4096)
def _statement(sql: str) -> Statement:
    from runspend.warehouse.googlesql import Statement

    return Statement(sql)


def duckdb_sql(sql: str) -> str:
    """Return the SQL that DuckDB runs for a GoogleSQL query. Anything that sqlglot cannot translate is an error, not a warning."""
    return _statement(sql).duckdb


def has_no_rows(sql: str, empty: Collection[str]) -> bool:
    """Whether a query certainly has no rows if the tables of these names have none. False: it may have some."""
    return _statement(sql).has_no_rows(empty)


def postgres_sql(sql: str) -> str:
    """Return the SQL that PostgreSQL runs for one of our own GoogleSQL queries."""
    return _statement(sql).postgres


def table_names(sql: str) -> frozenset[str]:
    """Return the bare names of the tables that a query reads, without its own CTEs."""
    return _statement(sql).tables


def names_read(sql: str) -> frozenset[str]:
    """Return the last part of the name of everything that a query reads from: its own CTEs, tables with a schema, and bare ones."""
    return _statement(sql).names


def parameter_names(sql: str) -> frozenset[str]:
    """Return the names of the `@parameters` that a query uses."""
    return _statement(sql).parameters
