"""Models that run one share of a column's values at a time, so that memory stays small however long the bill is.

Shares are ranges of the column, cut so that each holds about as many rows. A file sorted by the column is then read once in
all, its row groups shared out among the buckets; by hash of the column every bucket would read the whole file.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

from runspend.tables import TABLES
from runspend.warehouse import Model
from runspend.warehouse.dialect import duckdb_sql, table_names
from runspend.warehouse.engine import column_types, literal, quote, used

if TYPE_CHECKING:
    import duckdb

    from runspend.warehouse.parquet import ParquetStep

__all__ = ["ROWS_PER_BUCKET", "run_in_buckets"]

ROWS_PER_BUCKET = 1_000_000


def run_in_buckets(step: ParquetStep, models: Sequence[Model], column: str, parameters: Mapping[str, Any], later: set[str]) -> None:
    """Run the models, all of them for one bucket, then all for the next. `later`: names that models after these read."""
    step.refresh_views()
    connection = step.connection
    texts = {model.name: step.read_model(model) for model in models}
    read_by = {model.name: table_names(texts[model.name]) for model in models}
    split = {}  # what the models read from outside and holds the column: name -> type of the column
    for name in sorted(set().union(*read_by.values()) - texts.keys()):
        types = column_types(connection, name)
        if column in types:
            split[name] = types[column]
    if not split:
        raise ValueError(f"cannot run {', '.join(texts)} by {column}: no table they read has that column.")
    buckets = _cut(connection, {name: step.rows_source(name, parameters) for name in split}, column)
    if len(buckets) == 1:
        for model in models:
            step.run_one(model, parameters)
        return

    parts: dict[str, list[Path]] = {model.name: [] for model in models if model.into is not None}
    connection.execute("create schema bucket")
    connection.execute("set search_path = 'bucket,main'")
    for number, (low, high) in enumerate(buckets):
        for name, type_ in split.items():
            condition = _range(column, type_, low, high)
            connection.execute(f"create or replace view bucket.{quote(name)} as select * from main.{quote(name)} where {condition}")
        for position, model in enumerate(models):
            sql, given = duckdb_sql(texts[model.name]), used(texts[model.name], parameters)
            target = f"bucket.{quote(model.name)}"
            if model.into is not None:
                part = step.stage / f"{model.name}-{number}.part"
                step.copy_sorted(model, sql, given, part)
                parts[model.name].append(part)
                connection.execute(f"create or replace view {target} as from read_parquet({literal(part)})")
                continue
            connection.execute(f"create or replace table {target} as {sql}", given)
            if model.name in later:
                _keep(connection, model.name, first=number == 0)
            done = {m.name for m in models[: position + 1] if m.into is None}
            for name in done - set().union(*(read_by[m.name] for m in models[position + 1 :])):
                connection.execute(f"drop table if exists bucket.{quote(name)}")
    connection.execute("set search_path = 'main'")
    connection.execute("drop schema bucket cascade")
    for model in models:
        if model.into is not None:
            step.accept_parts(model, parts[model.name])


def _cut(connection: duckdb.DuckDBPyConnection, sources: Mapping[str, str], column: str) -> list[tuple[object, object]]:
    """Ranges (at least, below) of about ROWS_PER_BUCKET rows of the longest source; None is open. Nulls go with the lowest."""
    rows = {name: connection.execute(f"select count(*) from {source}").fetchall()[0][0] for name, source in sources.items()}
    longest = max(rows, key=lambda name: (rows[name], name))
    count = -(-rows[longest] // ROWS_PER_BUCKET)
    found = connection.execute(
        f"""
        with counted as (
          select {quote(column)} as value, count(*) as n from {sources[longest]} where {quote(column)} is not null group by 1
        ),
        placed as (
          select value, (sum(n) over (order by value) - n) * {count} // sum(n) over () as bucket from counted
        )
        select min(value) from placed where bucket > 0 group by bucket order by 1
        """
    ).fetchall()
    bounds = [None, *(value for (value,) in found), None]
    return list(pairwise(bounds))


def _range(column: str, type_: str, low: object, high: object) -> str:
    name = quote(column)
    below = f"{name} < cast({literal(high)} as {type_})"
    if low is None:
        return f"({below} or {name} is null)"
    above = f"{name} >= cast({literal(low)} as {type_})"
    return above if high is None else f"{above} and {below}"


def _keep(connection: duckdb.DuckDBPyConnection, name: str, *, first: bool) -> None:
    if name in TABLES:
        raise ValueError(f"cannot keep the rows of {name}: a table has that name.")
    if first:
        connection.execute(f"create or replace table main.{quote(name)} as from bucket.{quote(name)}")
    else:
        connection.execute(f"insert into main.{quote(name)} from bucket.{quote(name)}")
