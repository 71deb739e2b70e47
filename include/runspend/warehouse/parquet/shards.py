"""Run models on shards, two at a time, so that memory use stays small even for a long bill.

A shard is a range of a column's values. All shards have about the same number of rows. If a file is sorted by that column, each of its
row groups is read for about one shard only. If shards were made by a hash of the column, every shard would read the whole file.
"""

from __future__ import annotations

import re
import threading
import time
from collections.abc import Collection, Mapping, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from queue import Empty, SimpleQueue
from typing import TYPE_CHECKING, Any, Protocol

from runspend.core.sql_quoting import sql_name, sql_text
from runspend.warehouse.base import Model
from runspend.warehouse.dialect import duckdb_sql, table_names
from runspend.warehouse.parquet.engine import column_types, file_list, parsed, used

if TYPE_CHECKING:
    import duckdb


ROWS_PER_SHARD = 1_000_000
FEW_ROWS = 10_000  # up to this many rows, making shards takes longer than running the models
SHARDS_AT_ONCE = 2
SUMS_FACTOR = 4  # a shard has this many times more rows if the models aggregate first
# Text columns that models pass through or join by. They usually have few distinct values. A column with more than about MAX_ENUM_TEXTS
# distinct values is not converted.
ENUM_COLUMNS = frozenset((
    "source", "service_provider_name", "billing_account_id", "sub_account_id", "region_id", "service_name", "charge_category", "resource_id", "resource_key",
    "invoice_id", "billing_currency", "cost_kind", "allocated_to", "confidence", "cost_status", "tracking_server", "workspace",
    "experiment_id", "experiment_name", "team", "project", "cost_center", "owner", "user_name", "line_team", "line_project", "line_cost_center", "line_owner",
))  # fmt: skip
MAX_ENUM_TEXTS = 10_000


@dataclass(frozen=True)
class Shard:
    """A file with the rows of one shard, and the shard's range of column values."""

    low: Any  # inclusive; None: no lower limit
    high: Any  # exclusive; None: no upper limit
    file: Path


@dataclass(frozen=True)
class Kept:
    """The rows of a table, stored in one file per shard."""

    column: str  # that the shards are ranges of
    columns: str  # select list for reading the files
    shards: Sequence[Shard]

    def between(self, low: Any, high: Any) -> str:
        """Return a query over the files that may hold rows of the range from `low` to below `high`."""
        files = [
            s.file
            for s in self.shards
            if (s.low is None or high is None or s.low < high) and (low is None or s.high is None or low < s.high)
        ]
        return f"(select {self.columns} from read_parquet({file_list(files)}))"


class ShardStep(Protocol):
    """The attributes and methods of a step that `run_in_shards` uses."""

    connection: duckdb.DuckDBPyConnection
    kept: dict[str, Kept]

    def read_model(self, model: Model) -> str:
        """Return the model's GoogleSQL."""
        ...

    def refresh_views(self, names: Collection[str]) -> None:
        """Update the views of these tables to show published rows, with staged units in place of published ones. Ignores other names."""
        ...

    def rows_source(self, name: str, parameters: Mapping[str, Any]) -> str:
        """Return SQL for the rows of a table that a model is likely to read."""
        ...

    def part_file(self, name: str) -> Path:
        """Return a new path for a model's rows of one shard. Each call returns another path; safe to call from several threads."""
        ...

    def copy_sorted(
        self, connection: duckdb.DuckDBPyConnection, model: Model, sql: str, parameters: Mapping[str, Any], target: Path
    ) -> None:
        """Write the rows of a model that fills a table, with the column types and the sort order of that table."""
        ...

    def show_made(self, name: str, sql: str, kept: Kept) -> None:
        """Make the rows of a query readable under the name of a model without `into`. They replace earlier rows with that name."""
        ...

    def accept_parts(self, model: Model, parts: Sequence[Path]) -> None:
        """Stage the files in `parts` as the rows of a model."""
        ...


def have_few_rows(step: ShardStep, models: Sequence[Model], parameters: Mapping[str, Any]) -> bool:
    """Whether all tables that the models read are small. Making shards would then take longer than running the models."""
    return max(_count_rows(step, models, parameters).values(), default=0) <= min(FEW_ROWS, ROWS_PER_SHARD)


def _count_rows(step: ShardStep, models: Sequence[Model], parameters: Mapping[str, Any]) -> dict[str, int]:
    """Return, for each table that the models read but do not make, how many rows they are likely to read."""
    read = set[str]().union(*(table_names(step.read_model(model)) for model in models)) - {model.target for model in models}
    step.refresh_views(read)
    sources = {name: step.rows_source(name, parameters) for name in sorted(read)}
    return {name: step.connection.execute(f"select count(*) from {source}").fetchall()[0][0] for name, source in sources.items()}


def run_in_shards(
    step: ShardStep, models: Sequence[Model], column: str, parameters: Mapping[str, Any], later: Mapping[str, Collection[str] | None]
) -> None:
    """Run all models shard by shard.

    `later`: the tables of these models that later models read, each with a set of words that contains the columns read (None: all
    columns).
    """
    connection = step.connection
    sqls = {model.name: step.read_model(model) for model in models}
    rows = _count_rows(step, models, parameters)
    types = {name: column_types(connection, name) for name in rows}
    types = {name: found for name, found in types.items() if column in found}
    if not types:
        raise ValueError(f"cannot run {', '.join(sqls)} by {column}: no table they read has that column.")
    sources = {name: step.rows_source(name, parameters) for name in types}
    longest = max(types, key=lambda name: (rows[name], name))
    sums = models[0].sums
    ranges = _ranges(connection, sources[longest], rows[longest], column, ROWS_PER_SHARD * (SUMS_FACTOR if sums else 1))
    words = set(re.findall(r"\w+", " ".join(sqls.values())))
    inputs = {
        # ENUMs make sorting and writing faster. Models with `sums` do neither.
        name: _Input(found[column], sources[name], {} if sums else {c: t for c, t in found.items() if c in words})
        for name, found in types.items()
    }
    group = _Group(column, inputs, _plan(models, sqls, parameters, later))
    made = _run_each(step, group, ranges)
    kept: dict[str, list[Shard]] = {}
    for query in group.queries:
        if query.is_kept:
            kept[query.model.target] = [Shard(low, high, files[query.model.name]) for (low, high), files in zip(ranges, made, strict=True)]
        elif query.model.into is not None:
            step.accept_parts(query.model, [files[query.model.name] for files in made])
    if kept:
        _show_kept(step, column, kept)


def _show_kept(step: ShardStep, column: str, kept: Mapping[str, Sequence[Shard]]) -> None:
    """Make the rows in the files of a group's models readable.

    All tables of a group share their ENUM types, so that a union of two tables keeps them.
    """
    connection = step.connection
    sources = {name: f"read_parquet({file_list(shard.file for shard in shards)})" for name, shards in kept.items()}
    texts = {
        name: dict(connection.execute(f"select column_name, column_type from (describe from {source})").fetchall())
        for name, source in sources.items()
    }
    selects = _select_with_enums(connection, next(iter(kept)), {name: (texts[name], source) for name, source in sources.items()}, "cast")
    for name, shards in kept.items():
        step.show_made(name, f"select {selects[name]} from {sources[name]}", Kept(column, selects[name], shards))


@dataclass(frozen=True)
class _Input:
    """A table that the group reads but does not make, and that has the shard column. Each shard sees only its range of the rows."""

    type: str  # of the shard column
    source: str  # SQL for the rows that models are likely to read
    texts: Mapping[str, str]  # columns that may become ENUMs, with their types


@dataclass(frozen=True)
class _Query:
    """A model, with the values that are the same in every shard."""

    model: Model
    sql: str  # in DuckDB's dialect
    parameters: Mapping[str, Any]
    is_kept: bool  # models after the group read its rows
    kept_columns: Collection[str] | None  # a set of words that contains the columns those models read; None: all columns
    is_read: bool  # later models of the group read its rows
    unread: Collection[str]  # tables of the group, up to this model, that later models do not read


@dataclass(frozen=True)
class _Group:
    """Models that run together in each shard."""

    column: str  # that the shards are ranges of
    inputs: Mapping[str, _Input]  # by table name
    queries: Sequence[_Query]


def _plan(
    models: Sequence[Model], sqls: Mapping[str, str], parameters: Mapping[str, Any], later: Mapping[str, Collection[str] | None]
) -> list[_Query]:
    """Return the queries of a group, in the order in which they run."""
    read_by = {name: table_names(text) for name, text in sqls.items()}
    kept = {model.target for model in models if model.into is None and model.target in later}
    for model, after in pairwise(models):
        if model.inline and model.target not in kept:
            read_by[after.name] |= read_by[model.name]
    queries = []
    for position, model in enumerate(models):
        still_read = set[str]().union(*(read_by[m.name] for m in models[position + 1 :]))
        made = {m.target for m in models[: position + 1] if m.into is None and not m.inline}
        text = sqls[model.name]
        queries.append(
            _Query(
                model,
                duckdb_sql(text),
                used(text, parameters),
                model.target in kept,
                later.get(model.target),
                model.target in still_read,
                made - still_read,
            )
        )
    return queries


def _run_each(step: ShardStep, group: _Group, ranges: Sequence[tuple[object, object]]) -> list[dict[str, Path]]:
    """Run the group for every range. Return one mapping per range: model name -> file.

    Two shards run at the same time, because many queries use only one processor. If the memory is too small for two shards, the remaining
    shards run one after another.
    """
    import duckdb

    made: dict[int, dict[str, Path]] = {}
    threads = step.connection.execute("select current_setting('threads')").fetchall()[0][0]
    at_once = min(SHARDS_AT_ONCE, threads, len(ranges))
    try:
        _run_beside(step, group, ranges, made, at_once)
    except duckdb.OutOfMemoryException:
        if at_once == 1:
            raise
        _run_beside(step, group, ranges, made, 1)
    return [made[number] for number in range(len(ranges))]


def _run_beside(
    step: ShardStep, group: _Group, ranges: Sequence[tuple[object, object]], made: dict[int, dict[str, Path]], at_once: int
) -> None:
    """Run the ranges whose number is not in `made`, and add their files to it.

    `at_once` threads run one shard each, every thread in its own schema. The first error in a shard, or Ctrl-C, stops all threads.
    """
    waiting: SimpleQueue[int] = SimpleQueue()
    results: SimpleQueue[tuple[int, dict[str, Path] | BaseException]] = SimpleQueue()
    stopped = threading.Event()
    for number in range(len(ranges)):
        if number not in made:
            waiting.put(number)

    def work(connection: duckdb.DuckDBPyConnection, schema: str) -> None:
        with suppress(Empty):
            while not stopped.is_set():
                number = waiting.get_nowait()
                try:
                    results.put((number, _run_shard(step, connection, schema, group, *ranges[number])))
                except BaseException as error:  # noqa: BLE001 - the waiting thread raises it
                    results.put((number, error))
                    return

    with ExitStack() as stack:
        workers = {f"shard_{place}": stack.enter_context(step.connection.cursor()) for place in range(at_once)}
        for schema, connection in workers.items():
            connection.execute(f"drop schema if exists {schema} cascade")  # may remain from a group that failed
            connection.execute(f"create schema {schema}")
            connection.execute(f"set search_path = '{schema},main'")
        running = [threading.Thread(target=work, args=(connection, schema)) for schema, connection in workers.items()]
        try:
            for thread in running:
                thread.start()
            while len(made) < len(ranges):
                # The wait is short because in a long-lived process, Python sometimes noticed Ctrl-C only between two waits.
                with suppress(Empty):
                    number, found = results.get(timeout=0.2)
                    if isinstance(found, BaseException):
                        raise found
                    made[number] = found
        except BaseException:
            _end(running, list(workers.values()), stopped)
            raise
        for thread in running:
            thread.join()
        for schema in workers:
            step.connection.execute(f"drop schema {schema} cascade")


def _end(running: Sequence[threading.Thread], connections: Sequence[duckdb.DuckDBPyConnection], stopped: threading.Event) -> None:
    """Interrupt the threads until all have ended, even if the user presses Ctrl-C again.

    An interrupt has no effect between two queries of a shard, so it is repeated until it reaches the next query.
    """
    has_ended = False
    while not has_ended:
        with suppress(KeyboardInterrupt):  # the caller raises the first error afterwards
            stopped.set()
            while any(thread.is_alive() for thread in running):
                for connection in connections:
                    connection.interrupt()
                time.sleep(0.02)
            has_ended = True


def _run_shard(
    step: ShardStep, connection: duckdb.DuckDBPyConnection, schema: str, group: _Group, low: object, high: object
) -> dict[str, Path]:
    """Run the group's models over the rows of one range. Return their files, by model name."""
    conditions = {name: _range(group.column, table.type, low, high) for name, table in group.inputs.items()}
    stored = {name: kept.between(low, high) for name, kept in step.kept.items() if name in group.inputs and kept.column == group.column}
    rows = {name: f"(from {stored.get(name, table.source)} where {conditions[name]})" for name, table in group.inputs.items()}
    # DuckDB may cast rows of other ranges or periods before the view's filter and the model's filter remove them. Strings that occur only
    # in such rows are not in the ENUMs and become null. This is why a model must not read another period.
    selects = _select_with_enums(connection, schema, {name: (table.texts, rows[name]) for name, table in group.inputs.items()}, "try_cast")
    for name, condition in conditions.items():
        source = stored.get(name, f"main.{sql_name(name)}")
        connection.execute(f"create or replace view {schema}.{sql_name(name)} as select {selects[name]} from {source} where {condition}")
    files: dict[str, Path] = {}
    for query in group.queries:
        model, sql, given = query.model, query.sql, query.parameters
        target = f"{schema}.{sql_name(model.target)}"
        if model.into is not None:
            files[model.name] = step.part_file(model.name)
            step.copy_sorted(connection, model, sql, given, files[model.name])
            connection.execute(f"create or replace view {target} as from read_parquet({sql_text(files[model.name])})")
        elif model.inline and not query.is_kept:
            connection.execute(parsed(f"create or replace view {target} as {sql}"))
        else:
            if query.is_read or not query.is_kept:
                connection.execute(parsed(f"create or replace table {target} as {sql}"), given)
                sql, given = f"from {target}", {}
            if query.is_kept:
                files[model.name] = _keep(connection, sql, given, query.kept_columns, step.part_file(model.target))
        for name in query.unread:
            connection.execute(f"drop table if exists {schema}.{sql_name(name)}")
    return files


def _ranges(connection: duckdb.DuckDBPyConnection, source: str, rows: int, column: str, size: int) -> list[tuple[object, object]]:
    """Return ranges (low, high) of column values with about `size` rows each. `low` is inclusive, `high` exclusive; None means no limit.

    The lowest range includes null.
    """
    count = -(-rows // size)
    if count <= 1:
        return [(None, None)]
    found = connection.execute(
        f"""
        with counted as (
          select {sql_name(column)} as value, count(*) as n from {source} where {sql_name(column)} is not null group by 1
        ),
        placed as (
          select value, (sum(n) over (order by value) - n) * {count} // sum(n) over () as shard from counted
        )
        select min(value) from placed where shard > 0 group by shard order by 1
        """
    ).fetchall()
    bounds = [None, *(value for (value,) in found), None]
    return list(pairwise(bounds))


def _range(column: str, type_: str, low: object, high: object) -> str:
    name = sql_name(column)
    if low is None and high is None:
        return "true"
    if type_.startswith("ENUM"):  # the name of an ENUM type would list all its strings
        name, type_ = f"cast({name} as varchar)", "varchar"
    below = f"{name} < cast({sql_text(high)} as {type_})"
    if low is None:
        return f"({below} or {name} is null)"
    above = f"{name} >= cast({sql_text(low)} as {type_})"
    return above if high is None else f"{above} and {below}"


def _select_with_enums(
    connection: duckdb.DuckDBPyConnection, family: str, sources: Mapping[str, tuple[Mapping[str, str], str]], cast: str
) -> dict[str, str]:
    """Return a select list for each table that casts low-cardinality text columns to ENUMs. Sorting and writing ENUMs takes half the time.

    `sources`: table -> (its columns with their types, SQL for its rows). A column that several tables have gets one ENUM type, so that
    joins compare numbers. In SQL, values still compare and sort as text, because an ENUM lists its strings in sorted order.
    `family`: prefix of the type names, so that two calls do not share types.
    `cast`: "cast", or "try_cast" if rows may have strings that are not in `sources`. Every such string makes "try_cast" slow, even one
    that is only in a file's dictionary and in no row.
    """
    texts = {name: [c for c, type_ in types.items() if type_ == "VARCHAR" and c in ENUM_COLUMNS] for name, (types, _) in sources.items()}
    many: set[str] = set()
    for name, columns in texts.items():
        if columns:
            counts = connection.execute(
                f"select {', '.join(f'approx_count_distinct({sql_name(c)})' for c in columns)} from {sources[name][1]}"
            ).fetchall()[0]
            many |= {column for column, count in zip(columns, counts, strict=True) if count > MAX_ENUM_TEXTS}
    found: dict[str, list[str]] = {}  # column -> queries for its distinct strings
    for number, (name, columns) in enumerate(texts.items()):
        if few := [column for column in columns if column not in many]:
            lists = ", ".join(f"list(distinct {sql_name(c)}) as {sql_name(c)}" for c in few)
            connection.execute(f"create or replace temp table texts_{number} as select {lists} from {sources[name][1]}")
            for column in few:
                found.setdefault(column, []).append(f"select unnest({sql_name(column)}) as value from temp.texts_{number}")
    types = {column: f"main.{sql_name(f'{family}.{column}')}" for column in sorted(found)}
    for column, type_ in types.items():
        connection.execute(
            f"create or replace type {type_} as enum (select distinct value from ({' union all '.join(found[column])}) where value is not null order by value)"
        )
    replaced = {
        name: [f"{cast}({sql_name(c)} as {types[c]}) as {sql_name(c)}" for c in columns if c in types] for name, columns in texts.items()
    }
    return {name: f"* replace ({', '.join(casts)})" if casts else "*" for name, casts in replaced.items()}


def _keep(
    connection: duckdb.DuckDBPyConnection, sql: str, parameters: Mapping[str, Any], wanted: Collection[str] | None, file: Path
) -> Path:
    """Write the rows of a shard to a file for models that run after all shards, so that the rows use no memory until then."""
    types = dict(connection.execute(f"select column_name, column_type from (describe {sql})", parameters).fetchall())
    read = types.keys() & (types if wanted is None else wanted)
    # DuckDB returns 128-bit integers for sums of integers. Parquet has no such type.
    columns = ", ".join(
        f"cast({sql_name(c)} as bigint) as {sql_name(c)}" if type_ == "HUGEINT" else sql_name(c)
        for c, type_ in types.items()
        if c in (read or types)
    )
    # The file is read only once or twice, and soon. Snappy would make it a third smaller, but writing and reading would take 50% longer.
    connection.execute(
        f"copy (select {columns} from ({sql})) to {sql_text(file)} (format parquet, compression uncompressed, dictionary_size_limit 5000)",
        parameters,
    )
    return file
