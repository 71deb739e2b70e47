"""Run models on shares of a column's values, two shares at a time, so that memory stays small even for a long bill.

Shares are ranges of the column with about the same number of rows. A file sorted by the column is then read only once: its
row groups are split among the buckets. With a hash of the column, every bucket would read the whole file.
"""

from __future__ import annotations

import re
import time
from collections.abc import Collection, Mapping, Sequence
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from contextlib import ExitStack
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from queue import SimpleQueue
from typing import TYPE_CHECKING, Any, Protocol

from runspend.warehouse.base import Model
from runspend.warehouse.dialect import duckdb_sql, table_names
from runspend.warehouse.parquet.engine import column_types, file_list, literal, quote, used

if TYPE_CHECKING:
    import duckdb

__all__ = ["ROWS_PER_BUCKET", "Kept", "ShardStep", "run_in_buckets"]

ROWS_PER_BUCKET = 1_000_000
AT_ONCE = 2  # buckets
SUMMED = 4  # times as many rows per bucket if the models aggregate first
# Text columns that models pass through or join by, usually with few distinct values. A column with more than about FEW stays text.
FEW_TEXTS = frozenset((
    "source", "service_provider_name", "billing_account_id", "sub_account_id", "region_id", "service_name", "charge_category", "resource_id", "resource_key",
    "invoice_id", "billing_currency", "cost_kind", "allocated_to", "confidence", "cost_status", "tracking_server", "workspace",
    "experiment_id", "experiment_name", "team", "project", "cost_center", "owner", "user_name", "line_team", "line_project", "line_cost_center", "line_owner",
))  # fmt: skip
FEW = 10_000


@dataclass(frozen=True)
class Share:
    """One bucket's rows in a file: the range of the column that they were made from."""

    low: Any  # None: open
    high: Any  # exclusive
    file: Path


@dataclass(frozen=True)
class Kept:
    """Rows stored bucket by bucket."""

    column: str
    columns: str  # select list for the files
    shares: Sequence[Share]

    def between(self, low: Any, high: Any) -> str:
        """Return a query over the files that may hold rows of this range."""
        files = [
            s.file
            for s in self.shares
            if (s.low is None or high is None or s.low < high) and (low is None or s.high is None or low < s.high)
        ]
        return f"(select {self.columns} from read_parquet({file_list(files)}))"


class ShardStep(Protocol):
    """The part of a step that `run_in_buckets` needs."""

    connection: duckdb.DuckDBPyConnection
    kept: dict[str, Kept]

    def read_model(self, model: Model) -> str:
        """Return the model's GoogleSQL."""
        ...

    def refresh_views(self, names: Collection[str]) -> None:
        """Update the views of these tables: published rows, replaced by staged ones. Other names are ignored."""
        ...

    def rows_source(self, name: str, parameters: Mapping[str, Any]) -> str:
        """Return where to count the rows that a model is likely to read of a table."""
        ...

    def part_file(self, name: str) -> Path:
        """Return a new path for one bucket's rows of a model, unique for each call."""
        ...

    def copy_sorted(
        self, connection: duckdb.DuckDBPyConnection, model: Model, sql: str, parameters: Mapping[str, Any], target: Path
    ) -> None:
        """Write the rows of a model that fills a table, in the table's types and order."""
        ...

    def show_made(self, name: str, sql: str, kept: Kept) -> None:
        """Show the rows of a query as those of a model without `into`, replacing any rows with that name."""
        ...

    def accept_parts(self, model: Model, parts: Sequence[Path]) -> None:
        """Stage a model's rows."""
        ...


def run_in_buckets(step: ShardStep, models: Sequence[Model], column: str, parameters: Mapping[str, Any], later: set[str]) -> None:
    """Run all models for one bucket, then for the next. `later`: tables of these models that later models read."""
    connection = step.connection
    texts = {model.name: step.read_model(model) for model in models}
    read_by = {model.name: table_names(texts[model.name]) for model in models}
    step.refresh_views(set().union(*read_by.values()))
    named = set(re.findall(r"\w+", " ".join(texts.values())))
    split = {}  # tables from outside with that column: name -> type of the column
    for name in sorted(set().union(*read_by.values()) - {model.target for model in models}):
        types = column_types(connection, name)
        if column in types:
            split[name] = types[column]
    if not split:
        raise ValueError(f"cannot run {', '.join(texts)} by {column}: no table they read has that column.")
    sums = models[0].sums
    sources = {name: step.rows_source(name, parameters) for name in split}
    rows = {name: connection.execute(f"select count(*) from {source}").fetchall()[0][0] for name, source in sources.items()}
    longest = max(rows, key=lambda name: (rows[name], name))
    buckets = _cut(connection, sources[longest], rows[longest], column, ROWS_PER_BUCKET * (SUMMED if sums else 1))
    # Aggregated rows are neither sorted nor written, and a few rows sort as fast as they are counted: ENUMs would not be worth the effort.
    is_numbered = len(buckets) > 1 or rows[longest] > FEW
    columns = {
        name: {c: t for c, t in column_types(connection, name).items() if c in named} if is_numbered and not sums else {} for name in split
    }
    for position, model in enumerate(models):
        if model.inline:
            read_by[models[position + 1].name] |= read_by[model.name]
    kept = {model.target for model in models if model.into is None and model.target in later}
    queries = {name: (duckdb_sql(text), used(text, parameters)) for name, text in texts.items()}
    group = _Group(models, column, queries, read_by, split, sources, columns, kept)
    made = _run_each(step, group, buckets)
    for name in [model.target for model in models if model.target in kept]:
        shares = [Share(low, high, files[name]) for (low, high), files in zip(buckets, made, strict=True)]
        source = f"read_parquet({file_list(share.file for share in shares)})"
        types = dict(connection.execute(f"select column_name, column_type from (describe from {source})").fetchall()) if is_numbered else {}
        numbered = _number_texts(connection, name, {name: (types, source)})
        step.show_made(name, f"select {numbered[name]} from {source}", Kept(column, numbered[name], shares))
    for model in models:
        if model.into is not None:
            step.accept_parts(model, [files[model.name] for files in made])


@dataclass(frozen=True)
class _Group:
    """Models that run together, bucket by bucket, and what is the same in every bucket."""

    models: Sequence[Model]
    column: str
    queries: Mapping[str, tuple[str, Mapping[str, Any]]]  # model -> DuckDB's SQL, and its parameters
    read_by: Mapping[str, Collection[str]]  # model -> tables
    split: Mapping[str, str]  # tables from outside that have the column -> its type
    sources: Mapping[str, str]  # the same tables -> where to count their rows
    texts_of: Mapping[str, Mapping[str, str]]  # the same tables -> columns that may become ENUMs, with their types
    kept: Collection[str]  # tables that later models read


def _run_each(step: ShardStep, group: _Group, buckets: Sequence[tuple[object, object]]) -> list[dict[str, Path]]:
    """Run the group for every bucket. Return the files of each: by model if it fills a table, by table if later models read it.

    Two buckets run at the same time, each in a schema of its own: while a query of one keeps a single processor busy, the other uses the rest.
    """
    with ExitStack() as stack:
        cursors = {f"bucket_{place}": stack.enter_context(step.connection.cursor()) for place in range(min(AT_ONCE, len(buckets)))}
        free: SimpleQueue[str] = SimpleQueue()
        for schema, cursor in cursors.items():
            cursor.execute(f"create schema {schema}")
            cursor.execute(f"set search_path = '{schema},main'")
            free.put(schema)

        def run(bucket: tuple[object, object]) -> dict[str, Path]:
            schema = free.get()
            try:
                return _run_bucket(step, cursors[schema], schema, group, *bucket)
            finally:
                free.put(schema)

        pool = stack.enter_context(ThreadPoolExecutor(len(cursors)))
        running = [pool.submit(run, bucket) for bucket in buckets]
        try:
            waiting = set(running)
            while waiting:  # Python may notice Ctrl-C only between two waits
                done, waiting = wait(running, timeout=0.2, return_when=FIRST_EXCEPTION)
                for bucket in done:
                    bucket.result()
            made = [bucket.result() for bucket in running]
        except BaseException:  # Ctrl-C, too
            pool.shutdown(wait=False, cancel_futures=True)
            while not all(bucket.done() for bucket in running):  # one that is between two queries is met in its next
                for cursor in cursors.values():
                    cursor.interrupt()
                time.sleep(0.05)
            raise
        for schema in cursors:
            step.connection.execute(f"drop schema {schema} cascade")
        return made


def _run_bucket(
    step: ShardStep, connection: duckdb.DuckDBPyConnection, schema: str, group: _Group, low: object, high: object
) -> dict[str, Path]:
    """Run the group's models over the rows of one range."""
    files: dict[str, Path] = {}
    split, models = group.split, group.models
    conditions = {name: _range(group.column, type_, low, high) for name, type_ in split.items()}
    shares = {name: kept.between(low, high) for name, kept in step.kept.items() if name in split and kept.column == group.column}
    numbered = _number_texts(
        connection,
        schema,
        {name: (group.texts_of[name], f"(from {shares.get(name, group.sources[name])} where {conditions[name]})") for name in split},
    )
    for name in split:
        source = shares.get(name, f"main.{quote(name)}")
        connection.execute(
            f"create or replace view {schema}.{quote(name)} as select {numbered[name]} from {source} where {conditions[name]}"
        )
    for position, model in enumerate(models):
        sql, given = group.queries[model.name]
        target = f"{schema}.{quote(model.target)}"
        if model.into is not None:
            files[model.name] = step.part_file(model.name)
            step.copy_sorted(connection, model, sql, given, files[model.name])
            connection.execute(f"create or replace view {target} as from read_parquet({literal(files[model.name])})")
            continue
        is_kept = model.target in group.kept
        if model.inline and not is_kept:
            connection.execute(f"create or replace view {target} as {sql}")
            continue
        still_read = set[str]().union(*(group.read_by[m.name] for m in models[position + 1 :]))
        if model.target in still_read or not is_kept:
            connection.execute(f"create or replace table {target} as {sql}", given)
            sql, given = f"from {target}", {}
        if is_kept:
            files[model.target] = _keep(connection, sql, given, step.part_file(model.target))
        done = {m.target for m in models[: position + 1] if m.into is None and not m.inline}
        for name in done - still_read:
            connection.execute(f"drop table if exists {schema}.{quote(name)}")
    return files


def _cut(connection: duckdb.DuckDBPyConnection, source: str, rows: int, column: str, size: int) -> list[tuple[object, object]]:
    """Return ranges (at least, below) of about `size` of a source's rows; None is open. Nulls go to the lowest range."""
    count = -(-rows // size)
    if count <= 1:
        return [(None, None)]
    found = connection.execute(
        f"""
        with counted as (
          select {quote(column)} as value, count(*) as n from {source} where {quote(column)} is not null group by 1
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
    if low is None and high is None:
        return "true"
    if type_.startswith("ENUM"):  # naming the type would list all its texts
        name, type_ = f"cast({name} as varchar)", "varchar"
    below = f"{name} < cast({literal(high)} as {type_})"
    if low is None:
        return f"({below} or {name} is null)"
    above = f"{name} >= cast({literal(low)} as {type_})"
    return above if high is None else f"{above} and {below}"


def _number_texts(
    connection: duckdb.DuckDBPyConnection, family: str, sources: Mapping[str, tuple[Mapping[str, str], str]]
) -> dict[str, str]:
    """Return a select list for each table in which low-cardinality text columns are ENUMs: sorting and writing them takes half the time.

    sources: table -> (its columns with their types, its rows). A column of several tables gets one ENUM type, so that they can join
    by number. In SQL, values still compare and sort as text, since the ENUM follows the order of the texts. `family` separates the
    types of one call from those of others.
    """
    texts = {name: [c for c, type_ in types.items() if type_ == "VARCHAR" and c in FEW_TEXTS] for name, (types, _) in sources.items()}
    many: set[str] = set()
    for name, columns in texts.items():
        if columns:
            counts = connection.execute(
                f"select {', '.join(f'approx_count_distinct({quote(c)})' for c in columns)} from {sources[name][1]}"
            ).fetchall()[0]
            many |= {column for column, count in zip(columns, counts, strict=True) if count > FEW}
    found: dict[str, list[str]] = {}  # column -> queries of its texts
    for number, (name, columns) in enumerate(texts.items()):
        if few := [column for column in columns if column not in many]:
            lists = ", ".join(f"list(distinct {quote(c)}) as {quote(c)}" for c in few)
            connection.execute(f"create or replace temp table texts_{number} as select {lists} from {sources[name][1]}")
            for column in few:
                found.setdefault(column, []).append(f"select unnest({quote(column)}) as value from temp.texts_{number}")
    types = {column: f"main.{quote(f'{family}.{column}')}" for column in sorted(found)}
    for column, type_ in types.items():
        connection.execute(
            f"create or replace type {type_} as enum (select distinct value from ({' union all '.join(found[column])}) where value is not null order by value)"
        )
    replaced = {name: [f"cast({quote(c)} as {types[c]}) as {quote(c)}" for c in columns if c in types] for name, columns in texts.items()}
    return {name: f"* replace ({', '.join(casts)})" if casts else "*" for name, casts in replaced.items()}


def _keep(connection: duckdb.DuckDBPyConnection, sql: str, parameters: Mapping[str, Any], file: Path) -> Path:
    """Store a bucket's rows in a file for the models after the buckets, so that they take no memory until then."""
    types = dict(connection.execute(f"select column_name, column_type from (describe {sql})", parameters).fetchall())
    # Parquet has no 128-bit integers, which DuckDB returns for sums of integers.
    columns = ", ".join(f"cast({quote(c)} as bigint) as {quote(c)}" if type_ == "HUGEINT" else quote(c) for c, type_ in types.items())
    # zstd would make the file a quarter smaller, but writing takes a quarter longer.
    connection.execute(
        f"copy (select {columns} from ({sql})) to {literal(file)} (format parquet, compression snappy, dictionary_size_limit 5000)",
        parameters,
    )
    return file
