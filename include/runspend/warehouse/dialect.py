"""What is asked of a GoogleSQL statement, remembered. sqlglot is imported when the first one is read: what only stores rows needs none.

How a statement becomes DuckDB's belongs in `googlesql.py`.
"""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from runspend.warehouse.googlesql import Statement

__all__ = ["duckdb_sql", "names_read", "parameter_names", "table_names"]


@lru_cache(maxsize=4096)
def _statement(sql: str) -> Statement:
    from runspend.warehouse.googlesql import Statement

    return Statement(sql)


def duckdb_sql(sql: str) -> str:
    """What DuckDB runs for a GoogleSQL query. Anything sqlglot says it cannot carry over is an error, not a warning."""
    return _statement(sql).duckdb


def table_names(sql: str) -> frozenset[str]:
    """Bare names of the tables a query reads; its own CTEs are left out."""
    return _statement(sql).tables


def names_read(sql: str) -> frozenset[str]:
    """Last names of whatever a query reads rows of: its own CTEs, tables with a schema before them, and bare ones."""
    return _statement(sql).names


def parameter_names(sql: str) -> frozenset[str]:
    """Names of the `@parameters` a query uses."""
    return _statement(sql).parameters
