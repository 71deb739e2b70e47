"""DuckDB over the warehouse's Parquet files: connections, views, types, content digests.

This module does not know where the files are or when they become visible.
"""

from __future__ import annotations

import datetime as dt
import hashlib
import os
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, suppress
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from runspend.core.duckdb_pool import borrow_connection, borrow_parser
from runspend.core.errors import MissingExtra, RunspendError, SqlRefused
from runspend.core.sql_quoting import sql_name, sql_text
from runspend.schema.former_names import RENAMED_VALUES, former_name, has_former_values
from runspend.schema.rows import first_day
from runspend.schema.tables import DUCKDB_TYPES, Column, Table
from runspend.warehouse.dialect import parameter_names

try:
    import duckdb
    import pyarrow as pa
except ImportError as missing:
    raise MissingExtra(missing.name or "duckdb", "pipeline") from missing


MEMORY = "2600MB"  # a step or a reader uses at most this much before DuckDB spills to disk
ROW_GROUP = 122_880  # rows
MOST_BYTES = 64_000_000  # maximum size of an answer with limited rows
FILLED = ("build_id", "load_id")  # bookkeeping columns; the warehouse fills them if a model does not


def _open() -> duckdb.DuckDBPyConnection:
    engine = duckdb.connect(
        config={
            "threads": len(os.sched_getaffinity(0)),
            "max_temp_directory_size": "100GB",
            "preserve_insertion_order": False,
            "autoload_known_extensions": False,
            "autoinstall_known_extensions": False,
            "allow_community_extensions": False,
            "python_enable_replacements": False,
        }
    )
    engine.execute("set global TimeZone = 'UTC'")
    # A checkpoint compacts a database file. This database is in memory, so a checkpoint would only block all other queries.
    engine.execute("set global checkpoint_threshold = '1TB'")
    return engine


def _open_for_steps() -> duckdb.DuckDBPyConnection:
    engine = _open()
    engine.execute("create schema never")
    engine.execute("create table never.rows as select unnest([1, 3]) as number")
    return engine


def _open_for_people() -> duckdb.DuckDBPyConnection:
    from runspend.warehouse.parquet.read_only_files import ReadOnlyFiles

    engine = _open()
    engine.register_filesystem(ReadOnlyFiles())
    return engine


def empty_engine(spill: Path) -> AbstractContextManager[duckdb.DuckDBPyConnection]:
    """Lend an empty database with the time zone UTC. It spills into the folder `spill` and never downloads an extension."""
    return borrow_connection("warehouse", _open_for_steps, spill, memory=MEMORY)


def guarded_engine(spill: Path) -> AbstractContextManager[duckdb.DuckDBPyConnection]:
    """Lend an empty engine for user-written statements. It opens published files by the names from `read_only_files.offered`.

    Call `restrict` before running a statement, so that the engine can open no other file.
    """
    return borrow_connection("people", _open_for_people, spill, memory=MEMORY)


def parser() -> AbstractContextManager[duckdb.DuckDBPyConnection]:
    """Lend an engine that only parses statements. It has no files, and callers must not run a statement on it."""
    return borrow_parser(_open_parser)


def _open_parser() -> duckdb.DuckDBPyConnection:
    return duckdb.connect(
        config={
            "threads": 1,
            "memory_limit": "1GB",
            "temp_directory": str(Path(os.devnull) / "spill"),
            "autoload_known_extensions": False,
            "python_enable_replacements": False,
        }
    )


@lru_cache(maxsize=1024)
def parsed(sql: str) -> duckdb.Statement:
    """Return the parsed statement. Results are cached, because parsing would otherwise take a tenth of a small pipeline run."""
    with parser() as connection:
        (statement,) = connection.extract_statements(sql)
    return statement


def restrict(connection: duckdb.DuckDBPyConnection, names: Iterable[str]) -> None:
    """Allow the engine to open only these files. The limit cannot be removed from this engine."""
    connection.execute(f"set allowed_paths = {file_list(names)}")
    connection.execute("set enable_external_access = false")
    connection.execute("set lock_configuration = true")


def create_view(
    connection: duckdb.DuckDBPyConnection, table: Table, files: Sequence[Path | str], present: Iterable[str], *, name: str | None = None
) -> None:
    """Create the view of a table over these files. `name`: the name of the view (default: the table's name).

    `present` lists the columns of the files. Columns that are missing there are null. Former names and values are translated to the
    current ones.
    """
    known = set(present)
    if files:
        columns = ", ".join(f"{_stored(table, c, known)} as {sql_name(c.name)}" for c in table.columns)
        source = f"from read_parquet({file_list(files)}, hive_partitioning = false)"
    else:
        columns = ", ".join(f"cast(null as {DUCKDB_TYPES[c.type]}) as {sql_name(c.name)}" for c in table.columns)
        source = "where false"
    connection.execute(f"create or replace view main.{sql_name(name or table.name)} as select {columns} {source}")


def _stored(table: Table, column: Column, present: Collection[str]) -> str:
    """Return SQL for a column of published files. The files may have it under a former name or with former values."""
    if column.name in present:
        return sql_name(column.name)
    if has_former_values(column, present):
        whens = " ".join(f"when {sql_text(before)} then {sql_text(now)}" for before, now in RENAMED_VALUES.items())
        return f"case {sql_name(column.name)} {whens} else {sql_name(column.name)} end"
    former = former_name(table, column, present)
    return f"cast(null as {DUCKDB_TYPES[column.type]})" if former is None else sql_name(former)


def column_types(connection: duckdb.DuckDBPyConnection, name: str) -> dict[str, str]:
    """Return the columns of a table: name -> DuckDB type."""
    return dict(connection.execute(f"select column_name, column_type from (describe main.{sql_name(name)})").fetchall())


def copy_parquet(connection: duckdb.DuckDBPyConnection, table: Table, sql: str, parameters: Mapping[str, Any], target: Path) -> None:
    """Write the rows of a query to a Parquet file, in the sort order of the table. The query has exactly the table's columns."""
    # DuckDB marks a column as required if it can prove that the column contains no null. Files of one table would then have different
    # schemas. DuckDB cannot prove that never.rows has no row with number 2, so the row of nulls below keeps every column nullable.
    nothing = ", ".join("null" for _ in table.columns)
    order = f"order by {', '.join(sql_name(c) for c in table.sort)}" if table.sort else ""
    connection.execute(
        f"copy (select * from ({sql} union all select {nothing} from never.rows where number = 2) {order}) "
        # Compression level 3 takes 20% more time and saves 3% of the bytes. Unlimited dictionaries take 20% more time and 1% more bytes.
        f"to {sql_text(target)} (format parquet, compression zstd, compression_level 1, dictionary_size_limit 5000, row_group_size {ROW_GROUP})",
        parameters,
    )


def declared(connection: duckdb.DuckDBPyConnection, table: Table, sql: str, parameters: Mapping[str, Any], build_id: str, name: str) -> str:
    """Return the query with exactly the columns and types of the table. Raises RunspendError for missing, extra or float money columns."""
    types = dict(connection.execute(f"select column_name, column_type from (describe {sql})", parameters).fetchall())
    wanted = {c.name for c in table.columns}
    missing = [c.name for c in table.columns if c.name not in types and c.name not in FILLED]
    extra = [column for column in types if column not in wanted]
    if missing or extra:
        raise RunspendError(
            f"cannot fill {table.name} from model {name}: it lacks {missing or 'nothing'} and has {extra or 'nothing'} in addition. "
            f"Select exactly the columns in tables.py. The warehouse fills {' and '.join(FILLED)}."
        )
    floats = [c.name for c in table.columns if c.type == "BIGNUMERIC" and types.get(c.name) in ("DOUBLE", "FLOAT")]
    if floats:
        raise RunspendError(f"cannot fill {table.name} from model {name}: {floats} are floats, and Runspend does not cast floats to money.")
    build = f"cast({sql_text(build_id)} as {_numbers([build_id])})"
    columns = [f"{_exact(c, types[c.name]) if c.name in types else build} as {sql_name(c.name)}" for c in table.columns]
    return f"select {', '.join(columns)} from ({sql})"


def _exact(column: Column, found: str) -> str:
    """Return SQL that casts a column to the type of its table.

    Strings with a fixed list of values become ENUMs, which are faster to sort and write. The Parquet file still contains text.
    """
    name = sql_name(column.name)
    if column.type == "STRING" and found.startswith("ENUM"):
        return name
    return f"cast({name} as {_numbers(column.words) if column.words else DUCKDB_TYPES[column.type]})"


def _numbers(texts: Sequence[str]) -> str:
    """Return an ENUM type of these strings in sorted order. Casting any other text to it is a conversion error."""
    return f"enum ({', '.join(sql_text(text) for text in sorted(texts))})"


@dataclass(frozen=True)
class Content:
    """A summary of rows that does not depend on their order. The contents of two sets of rows can be added."""

    rows: int
    hash_sum: int
    hash_xor: int

    def __add__(self, other: Content) -> Content:
        return Content(self.rows + other.rows, self.hash_sum + other.hash_sum, self.hash_xor ^ other.hash_xor)

    @property
    def digest(self) -> str:
        """The SHA-256 of the content, in hex."""
        return hashlib.sha256(f"{self.rows},{self.hash_sum},{self.hash_xor}".encode()).hexdigest()


def measure_rows(connection: duckdb.DuckDBPyConnection, table: Table, file: Path, period: str) -> Content:
    """Return the content of a file.

    Raises RunspendError if a row is of a month other than `period`, because the next replacement of the unit would lose such a row.
    """
    outside = "0"
    if table.period_column is not None:
        column = sql_name(table.period_column)
        first, after = month_of(period)
        outside = f"count(*) filter (where {column} is null or {column} < date '{first}' or {column} >= date '{after}')"
    row_hash = f"hash({', '.join(sql_name(c) for c in table.content)})"
    strays, rows, hash_sum, hash_xor = connection.execute(
        f"select {outside}, count(*), coalesce(sum({row_hash}::hugeint), 0), coalesce(bit_xor({row_hash}), 0) "
        f"from read_parquet({file_list([file])}, hive_partitioning = false)"
    ).fetchall()[0]
    if strays:
        raise RunspendError(
            f"cannot put {strays} of {rows} rows into {table.name} of {period}: their {table.period_column} is in another month. "
            "Nothing was changed."
        )
    return Content(int(rows), int(hash_sum), int(hash_xor))


def used(sql: str, parameters: Mapping[str, Any]) -> dict[str, Any]:
    """Return the parameters that the statement uses, because DuckDB refuses others. Raises SqlRefused if one of them has no value."""
    names = parameter_names(sql)
    missing = sorted(names - parameters.keys())
    if missing:
        raise SqlRefused(f"cannot run the SQL: no value for @{', @'.join(missing)}. Given: {', '.join(sorted(parameters)) or 'none'}.")
    return {name: parameters[name] for name in names}


def fetch(connection: duckdb.DuckDBPyConnection, sql: str, parameters: dict[str, Any]) -> pa.Table:
    """Return all rows of a query. Raises SqlRefused if the statement returns no rows."""
    relation = connection.sql(sql, params=parameters) if parameters else connection.sql(sql)
    if relation is None:
        raise SqlRefused("cannot run the SQL: it returns no rows. Write a SELECT.")
    return relation.to_arrow_table()


def fetch_first(connection: duckdb.DuckDBPyConnection, sql: str, rows: int) -> pa.Table:
    """Return the first `rows` rows of a query without computing the others. Raises SqlRefused if they are larger than MOST_BYTES."""
    batches, found, size = [], 0, 0
    reader = connection.sql(sql)
    if reader is None:
        raise SqlRefused("cannot run the SQL: it returns no rows. Write a SELECT.")
    with reader.to_arrow_reader(min(rows, ROW_GROUP)) as stream_of_rows:
        for batch in stream_of_rows:
            batches.append(batch)
            found += batch.num_rows
            size += batch.nbytes
            if size > MOST_BYTES:
                raise SqlRefused(f"cannot answer: its rows are larger than {MOST_BYTES // 10**6} MB. Nothing was changed. Ask for less.")
            if found >= rows:
                break
        return pa.Table.from_batches(batches, stream_of_rows.schema).slice(0, rows)


def stream(connection: duckdb.DuckDBPyConnection, sql: str, parameters: dict[str, Any], rows: int) -> Iterator[pa.RecordBatch]:
    """Yield the rows of a query in batches of about `rows` rows."""
    relation = connection.sql(sql, params=parameters) if parameters else connection.sql(sql)
    if relation is None:
        raise SqlRefused("cannot run the SQL: it returns no rows. Write a SELECT.")
    yield from relation.to_arrow_reader(rows)


def narrow(rows: pa.Table) -> pa.Table:
    """Cast DuckDB's 38-digit integers (from countif or sums of integers) to GoogleSQL's INT64.

    A column with a value that does not fit keeps its type.
    """
    for index, field in enumerate(rows.schema):
        if pa.types.is_decimal(field.type) and field.type.scale == 0:
            with suppress(pa.ArrowInvalid):
                rows = rows.set_column(index, field.name, rows.column(index).cast(pa.int64()))
    return rows


def file_list(files: Iterable[Path | str]) -> str:
    """Return a SQL list of these files, for read_parquet."""
    return "[" + ", ".join(sql_text(f) for f in files) + "]"


def month_of(period: str) -> tuple[dt.date, dt.date]:
    """Return the first day of a month "YYYY-MM", and of the next month."""
    first = first_day(period)
    return first, (first + dt.timedelta(days=31)).replace(day=1)
