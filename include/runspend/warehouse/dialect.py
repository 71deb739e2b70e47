"""Cached facts about GoogleSQL statements. sqlglot is imported only when the first statement is parsed, because storing rows does not need it.

`googlesql.py` translates statements to the SQL of DuckDB and PostgreSQL.
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
    """Return the SQL that DuckDB runs for a GoogleSQL query. Raises SqlRefused if sqlglot cannot translate a part of it."""
    return _statement(sql).duckdb


def has_no_rows(sql: str, empty: Collection[str]) -> bool:
    """Whether a query certainly has no rows if these tables are empty. False means that it may have rows."""
    return _statement(sql).has_no_rows(empty)


def postgres_sql(sql: str) -> str:
    """Return the SQL that PostgreSQL runs for one of Runspend's own GoogleSQL queries."""
    return _statement(sql).postgres


def table_names(sql: str) -> frozenset[str]:
    """Return the names of the tables without a schema that a query reads. Its CTEs are not included."""
    return _statement(sql).tables


def names_read(sql: str) -> frozenset[str]:
    """Return the names of everything that a query reads from, without schemas: its CTEs and all tables."""
    return _statement(sql).names


def parameter_names(sql: str) -> frozenset[str]:
    """Return the names of the `@parameters` that a query uses."""
    return _statement(sql).parameters
