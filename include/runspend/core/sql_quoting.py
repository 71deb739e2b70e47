"""Names and strings in SQL, as DuckDB, PostgreSQL and SQLite read them."""

from __future__ import annotations


def sql_name(name: str) -> str:
    """Return a name as a quoted identifier."""
    return '"' + name.replace('"', '""') + '"'


def sql_text(text: object) -> str:
    """Return a string as a literal."""
    return "'" + str(text).replace("'", "''") + "'"
