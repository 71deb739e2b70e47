"""What BigQuery would bill for a query, by its text: the columns it reads of each table, and how large they are.

Reading is by sqlglot: columns that nothing needs, of a `select *` too, are left out, as BigQuery leaves them out. A table that
a query names twice counts once. Whether a string keeps to some months of a partitioned table is read from its `where` and `on`.
Running models does not belong here.

Source: BigQuery "Estimate and control costs" and "Data types", data type sizes; "Query partitioned tables", pruning by a
parameter. It was not compared with a real bill.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

import duckdb
from sqlglot import exp
from sqlglot.optimizer.pushdown_projections import pushdown_projections
from sqlglot.optimizer.qualify import qualify
from sqlglot.optimizer.scope import Scope, traverse_scope

from runspend.warehouse.googlesql import parse

MINIMUM = 10 * 2**20  # bytes billed of each table a query reads, at least
SIZES = {"BIGINT": 8, "INTEGER": 8, "HUGEINT": 8, "DOUBLE": 8, "BOOLEAN": 1, "DATE": 8, "TIMESTAMP": 8, "TIMESTAMP WITH TIME ZONE": 8}


@dataclass
class Read:
    """What a query reads of one table: which columns, of how many months that its text names (0: of all there are)."""

    columns: set[str] = field(default_factory=set)
    months: int = 1


def reads(sql: str, tables: Mapping[str, Mapping[str, str]], partitions: Mapping[str, str]) -> dict[str, Read]:
    """By table name. `tables`: {table: {column: type}} of all that the text may name; `partitions`: {table: column}."""
    tree = qualify(parse(sql).copy(), schema=tables, dialect="bigquery", quote_identifiers=False, validate_qualify_columns=True)
    tree = pushdown_projections(tree)
    found: dict[str, Read] = {}
    for scope in traverse_scope(tree):
        for alias, table in _tables(scope):
            read = found.setdefault(table, Read())
            read.columns |= {column.name for column in scope.columns if column.table == alias}
            if table in partitions:
                months = _named_months(scope, alias, partitions[table])
                read.months = max(read.months, months) if read.months and months else 0
    return found


def _tables(scope: Scope) -> Iterator[tuple[str, str]]:
    """Tables of the `from` and the joins, not those of the query around it."""
    for alias, (_, source) in scope.selected_sources.items():
        if isinstance(source, exp.Table):
            yield alias, source.name


def _named_months(scope: Scope, alias: str, column: str) -> int:
    """With how many constants and parameters the partition column is compared; 0 if with something else, or not at all."""
    conditions = [node.this for node in scope.find_all(exp.Where)] + [
        join.args["on"] for join in scope.find_all(exp.Join) if join.args.get("on")
    ]
    for condition in conditions:
        for term in condition.flatten() if isinstance(condition, exp.And) else [condition]:
            sides = [term.this, *(term.expressions if isinstance(term, exp.In) else [term.args.get("expression")])]
            if not isinstance(term, (exp.EQ, exp.In)) or None in sides:
                continue
            ours = [side for side in sides if isinstance(side, exp.Column) and (side.table, side.name) == (alias, column)]
            others = [side for side in sides if side not in ours]
            if ours and others and not any(list(side.find_all(exp.Column)) for side in others):
                return len(others)
    return 0


def column_bytes(connection: duckdb.DuckDBPyConnection, relation: str) -> dict[str, int]:
    """Logical bytes of each column as BigQuery counts them: null is nothing, a string 2 and its UTF-8."""
    described = connection.execute(f"describe {relation}").fetchall()
    sums = [f"coalesce(sum({_size(name, kind)}), 0)::bigint" for name, kind, *_ in described]
    row = connection.execute(f"select {', '.join(sums)} from {relation}").fetchall()[0]
    return {name: size for (name, *_), size in zip(described, row, strict=True)}


def _size(name: str, kind: str) -> str:
    value = f'"{name}"'
    if kind == "VARCHAR":
        return f"2 + strlen({value})"
    if kind == "VARCHAR[]":
        return f"coalesce(list_sum([2 + strlen(x) for x in {value}]), 0)"
    size = 32 if kind.startswith("DECIMAL") else SIZES[kind]
    return f"case when {value} is not null then {size} end"
