"""Check that a user-written statement only reads, before it runs. DuckDB's own parser provides the syntax tree.

It is not enough that DuckDB calls a statement a SELECT, because a CTE may write: `with x as (copy … to …) select …`. So the whole syntax
tree is checked. Every kind of node, every table function and every table in it must be on a list. There are too many scalar functions for a
list of allowed ones. So those that reveal machine details, wait or keep a state are refused, and all others are allowed.

This is not the only protection: the engine itself cannot write files (see `warehouse/parquet/read_only_files.py`).
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from runspend.core.errors import SqlRefused
from runspend.schema.tables import TABLES
from runspend.warehouse.dialect import duckdb_sql
from runspend.warehouse.engine_messages import in_one_line
from runspend.warehouse.parquet.engine import parser

if TYPE_CHECKING:
    import duckdb


LONGEST = 200_000  # maximum characters of a statement

# Allowed parts of a statement, by DuckDB's names. Expressions have a class, and other parts have only a type.
EXPRESSIONS = frozenset((
    "BETWEEN", "CASE", "CAST", "COLLATE", "COLUMN_REF", "COMPARISON", "CONJUNCTION", "CONSTANT", "DEFAULT", "FUNCTION", "LAMBDA", "LAMBDA_REF",
    "OPERATOR", "PARAMETER", "POSITIONAL_REFERENCE", "STAR", "SUBQUERY", "TYPE", "WINDOW",
))  # fmt: skip
PARTS = frozenset((
    "SELECT_NODE", "SET_OPERATION_NODE", "RECURSIVE_CTE_NODE", "CTE_NODE",
    "BASE_TABLE", "SUBQUERY", "JOIN", "TABLE_FUNCTION", "EXPRESSION_LIST", "EMPTY", "EMPTY_FROM", "PIVOT", "SHOW_REF", "COLUMN_DATA",
    "ORDER_MODIFIER", "LIMIT_MODIFIER", "LIMIT_PERCENT_MODIFIER", "DISTINCT_MODIFIER",
    "ORDER_DEFAULT", "ASCENDING", "DESCENDING", "INVALID",
))  # fmt: skip
TABLE_FUNCTIONS = frozenset((
    "duckdb_columns", "duckdb_functions", "duckdb_keywords", "duckdb_tables", "duckdb_types", "duckdb_views", "generate_series", "json_each", "json_tree",
    "pg_timezone_names", "pragma_table_info", "pragma_version", "range", "regexp_split_to_table", "repeat", "repeat_row", "summary", "unnest",
))  # fmt: skip
# Functions that reveal machine details, wait, write to a log, or keep something from one statement to the next.
NOT_FUNCTIONS = frozenset((
    "current_setting", "currval", "getenv", "inet_client_addr", "inet_client_port", "inet_server_addr", "inet_server_port", "json_execute_serialized_sql",
    "json_serialize_plan", "nextval", "pg_sleep", "query", "query_table", "read_blob", "read_text", "setval", "sleep_ms", "which_secret", "write_log",
))  # fmt: skip
CATALOG = frozenset(("duckdb_columns", "duckdb_tables", "duckdb_types", "duckdb_views"))
CATALOG_PREFIX = re.compile(r"(?:duckdb|pg|pragma|sqlite)_", re.IGNORECASE)
_EXPLAIN = re.compile(r"\s*explain\b(.*)", re.IGNORECASE | re.DOTALL)


def text_to_run(sql: str, *, native: bool) -> str:
    """Return DuckDB's SQL for a user-written statement. The statement is GoogleSQL, or with `native` DuckDB's own dialect.

    Raises SqlRefused if the statement does not only read, or if it is too long.
    """
    if len(sql) > LONGEST:
        raise SqlRefused(f"cannot run the SQL: it has {len(sql):,} characters, {LONGEST:,} are allowed. Nothing was run.")
    text = sql if native else duckdb_sql(sql)
    with parser() as connection:
        check_only_reads(connection, text)
    return text


def check_only_reads(connection: duckdb.DuckDBPyConnection, sql: str) -> None:
    """Check that the text is one statement in DuckDB's dialect that only reads, and reads tables only by their names.

    EXPLAIN of such a statement is allowed too. Raises SqlRefused otherwise.
    """
    explained = _EXPLAIN.fullmatch(sql)
    if explained is not None and explained[1].lstrip().startswith("("):
        raise _refusal("EXPLAIN takes no options here")
    if explained is not None and re.match(r"\s*analy[sz]e\b", explained[1], re.IGNORECASE):
        raise _refusal("EXPLAIN ANALYZE runs what it explains")
    trees = _trees(connection, sql if explained is None else explained[1])
    if len(trees) != 1:
        raise _refusal(f"it contains {len(trees)} statements")
    for part in _parts(trees[0]):
        _check(part)


def _trees(connection: duckdb.DuckDBPyConnection, sql: str) -> list[Any]:
    import duckdb

    try:
        # The text is a parameter, so DuckDB does not run it.
        found = connection.execute("select json_serialize_sql($sql)", {"sql": sql}).fetchall()[0][0]
        read = json.loads(found)
    except duckdb.Error as error:
        raise SqlRefused(f"cannot run the SQL: {in_one_line(error)}. Nothing was run.") from error
    except (RecursionError, ValueError) as error:
        raise _refusal("it is nested too deeply to check") from error
    if read.get("error"):
        if read.get("error_type") == "not implemented":
            raise _refusal("it is not a SELECT")
        raise SqlRefused(f"cannot run the SQL: {in_one_line(read.get('error_message'))}. `runspend sql --tables` lists tables and columns.")
    statements: list[Any] = read["statements"]
    return statements


def _parts(tree: Any) -> Iterator[Mapping[str, Any]]:
    """Yield every JSON object in a syntax tree."""
    waiting = [tree]
    while waiting:
        value = waiting.pop()
        if isinstance(value, dict):
            yield value
            waiting += value.values()
        elif isinstance(value, list):
            waiting += value


def _check(part: Mapping[str, Any]) -> None:
    kind, class_ = part.get("type"), part.get("class")
    if class_ is not None and class_ not in EXPRESSIONS:
        raise _refusal(f"a {str(class_).lower().replace('_', ' ')} is not known to be harmless")
    if class_ is None and isinstance(kind, str) and kind not in PARTS and not kind.endswith("_TYPE_INFO"):
        raise _refusal(f"it contains {_named(kind)}")
    if kind == "TABLE_FUNCTION":
        name = str((part.get("function") or {}).get("function_name", "")).lower()
        if name not in TABLE_FUNCTIONS:
            raise _refusal(f"the table function {name!r} is not available in `runspend sql`")
    if "function_name" in part and str(part["function_name"]).lower() in NOT_FUNCTIONS:
        raise _refusal(f"the function {str(part['function_name']).lower()!r} is not available in `runspend sql`")
    if kind == "BASE_TABLE":
        _check_table(part)


def _check_table(part: Mapping[str, Any]) -> None:
    """Raise SqlRefused if this is not a table that may be read.

    The names of CTEs are checked too, because outside the scope of the CTE the name may mean a table.
    """
    name, schema = str(part.get("table_name", "")), str(part.get("schema_name", "")).lower()
    if schema == "information_schema" or name.lower() in CATALOG or name.lower() in TABLES:
        return
    if schema == "pg_catalog" or CATALOG_PREFIX.match(name):
        raise _refusal(f"{name!r} describes the engine, not the warehouse")
    if re.search(r"[^\w $-]", name):
        raise _refusal(f"{name[:80]!r} is not a table, and files cannot be read")


def _named(kind: str) -> str:
    if kind.endswith("_QUERY_NODE"):
        return kind.removesuffix("_QUERY_NODE").replace("_", " ")
    return f"a {kind.lower().replace('_', ' ')}, which is not known to be harmless"


def _refusal(why: str) -> SqlRefused:
    return SqlRefused(
        f"cannot run the SQL: the warehouse is read-only here, and {in_one_line(why)}. Write exactly one SELECT over its tables. Nothing was run."
    )
