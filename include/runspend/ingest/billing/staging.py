"""Holds the rows of a load between reading and writing: Arrow columns in memory, which SQL sees as the view `staged`.

Belongs here: the engine, the columns that every format's module fills, and how SQL is run over distinct values. The SQL expressions
themselves belong to the modules that need them. The formats read the files.
"""

from __future__ import annotations

import mmap
import weakref
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from importlib.resources import files
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING

from runspend.core.ahead import Ahead
from runspend.core.duckdb_pool import borrow_connection
from runspend.core.errors import MissingExtra
from runspend.core.resource_keys import resource_key_sql
from runspend.ingest.billing import columns
from runspend.ingest.billing.memory_budget import room_of
from runspend.ingest.billing.verify import free_bytes
from runspend.schema.tables import DUCKDB_TYPES, FOCUS_COLUMNS

if TYPE_CHECKING:
    import duckdb
    import pyarrow as pa

    from runspend.ingest.billing import distinct
    from runspend.ingest.billing.manifests import Delivered

# Equal rows are separate lines, not duplicates of one line. The id of the second and later ones ends in a number.
LINE_ID = "printf('%016x', row_hash) || coalesce('-' || ordinal, '')"


def arrow_type(kind: str) -> pa.DataType:
    """Return the Arrow type that a column of this FOCUS type has while it is staged."""
    import pyarrow as pa

    return {"BIGNUMERIC": pa.decimal128(38, 22), "TIMESTAMP": pa.timestamp("us", "UTC")}.get(kind) or columns.text_type()


def delivered_fields() -> list[pa.Field]:
    """Return the columns that the module of a format fills: all except `row_hash` and `ordinal`, which are computed later."""
    return [field for field in staged_schema() if field.name not in ("row_hash", "ordinal")]


def staged_schema() -> pa.Schema:
    """Return the schema of staged rows: the FOCUS columns, the problems of unreadable rows, and the columns that identify a row."""
    import pyarrow as pa

    text = columns.text_type()
    return pa.schema(
        [(c.name, arrow_type(c.type)) for c in FOCUS_COLUMNS]
        + [
            ("delivered_instance_type", text),
            ("iam_principal", text),
            ("billing_period", pa.date32()),
            ("reject_reason", text),  # why the row goes into quarantine; null for all other rows
            ("raw", text),
            ("long_billed_cost", text),
            ("row_number", pa.int64()),
            ("file_index", pa.int32()),
            ("row_hash", pa.uint64()),
            ("ordinal", pa.int64()),  # 1 for the second of equal rows, 2 for the third, set by `normalize_rows`; null for the first
        ]
    )


@dataclass(frozen=True)
class StagedFile:
    """What a format's module reports about one file it staged."""

    focus_version: str  # of a format other than FOCUS: the variant of the format
    rows: int  # delivered rows
    dropped_columns: tuple[str, ...] = ()
    unreadable: dict[str, int] = field(default_factory=dict)  # column -> values that became null
    is_aside: bool = False  # whether the file has no charges, only data that the SQL of other files looks up
    skip_reasons: dict[str, int] = field(default_factory=dict)  # reason why rows charge nothing and do not become lines -> number of rows
    reading: str | None = None  # the reading mode that the format used, if other files of the load may require a different one


@dataclass(frozen=True)
class SecondConnection:
    """A separate connection whose view `staged` shows the staged rows."""

    con: duckdb.DuckDBPyConnection
    delivered_rows: str


class Staged:
    """The rows of the files of one load."""

    def __init__(self, workdir: Path, memory: int | None = None) -> None:
        import pyarrow as pa

        self.room = room_of(memory)
        self._engine = open_engine(workdir, memory)
        self._con = self._engine.__enter__()
        self._is_shown = False
        # Arrow's default allocator returns every block that parsing frees to the system at once. That costs a fifth of a load's time.
        self._memory = pa.default_memory_pool()
        if "jemalloc" in pa.supported_memory_backends():
            pa.set_memory_pool(pa.jemalloc_memory_pool())
        self._workdir = workdir
        self._files: dict[int, list[pa.Table]] = {}
        self._mapped = 0
        self._maps: weakref.WeakSet[mmap.mmap] = weakref.WeakSet()
        self._aside: set[str] = set()
        self.following: dict[int, Delivered] = {}  # file index -> the file that is staged next
        self.begun: dict[int, tuple[object, Ahead[pa.Table]]] = {}  # file index -> how the file is read, and its batches read ahead
        self.answers: dict[str, distinct.KnownAnswers] = {}  # SQL results of earlier files, until the lookup tables change
        # SQL for the digest of the bill. It covers the rows as delivered, before any of them is replaced by its parts.
        self.delivered_rows = (
            "(select file_index, billing_period, 1 as rows, row_hash::hugeint as hash_sum, row_hash as hash_xor from staged)"
        )
        self._rows = staged_schema().empty_table()

    def __enter__(self) -> Staged:
        return self

    @property
    def con(self) -> duckdb.DuckDBPyConnection:
        """The engine, for the thread that stages. Its view `staged` shows the current rows. Get `con` again after the rows change."""
        if not self._is_shown:
            self._con.register("staged", self._rows)
            self._is_shown = True
        return self._con

    def cursor(self) -> duckdb.DuckDBPyConnection:
        """Return a connection for another thread, without the view `staged`."""
        return self._con.cursor()

    @contextmanager
    def second_connection(self) -> Iterator[SecondConnection]:
        """Yield the current rows on a connection for another thread."""
        with self.cursor() as con:
            con.register("staged", self._rows)
            yield SecondConnection(con, self.delivered_rows)

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        import pyarrow as pa

        self.let_go()
        self._engine.__exit__(kind, error, trace)
        pa.set_memory_pool(self._memory)

    def let_go(self) -> None:
        """Stop reading files ahead, and discard the batches that were read ahead and not used."""
        self.following.clear()
        while self.begun:  # a loop, because a reading that ends may start the next one at this moment
            _, (_, reading) = self.begun.popitem()
            reading.close()

    @property
    def rows(self) -> pa.Table:
        """All rows: files in the order in which they were added, rows in the order of their file."""
        return self._rows

    def add(self, file_index: int, table: pa.Table) -> None:
        """Add rows of one file. The table has the columns of `staged_schema`, except `row_hash` and `ordinal`, which are added here."""
        import pyarrow as pa

        whole = self._with_hash(table).append_column("ordinal", pa.nulls(table.num_rows, pa.int64()))
        kept = self._keep(whole.select(staged_schema().names))
        self._files.setdefault(file_index, []).append(kept)
        self._put_together()
        self.release_memory()

    def _with_hash(self, table: pa.Table) -> pa.Table:
        """Return the rows with `row_hash`, the hash of the FOCUS columns."""
        self._con.register("hashed", table)
        # For an empty column, the query hashes a constant null. The hash is the same, and takes no time.
        is_empty = {c.name: table.column(c.name).null_count == table.num_rows for c in FOCUS_COLUMNS}
        names = ", ".join(f"cast(null as {DUCKDB_TYPES[c.type]})" if is_empty[c.name] else c.name for c in FOCUS_COLUMNS)
        hashes = self._con.sql(f"select hash({names}) as row_hash from hashed").to_arrow_table()
        self._con.unregister("hashed")
        return table.append_column("row_hash", columns.combine_chunks(hashes.column(0)))

    def replace(self, is_kept: pa.Array, parts: Iterable[pa.Table]) -> None:
        """Replace the rows for which `is_kept` is false with `parts`, tables with the columns of `rows`. Each new row gets its own hash."""
        names = self._rows.column_names
        made: list[pa.Table] = []
        for table in parts:
            hashed = self._with_hash(table.drop_columns(["row_hash"])).select(names)
            made.append(self._map(hashed) if sum(t.nbytes for t in made) + hashed.nbytes > self.room.kept_bytes else hashed)
        kept = self._rows.filter(is_kept)
        self._files = {-1: [kept, *made]}
        self._put_together()
        self.join_up()

    @property
    def aside(self) -> frozenset[str]:
        """The names of the lookup tables: rows that are not charges, kept for the SQL of rows that are."""
        return frozenset(self._aside)

    def keep_aside(self, name: str, file_index: int, table: pa.Table) -> None:
        """Add rows that are not charges to the lookup table `name`, for the SQL of charges. All columns but `file_index` are strings."""
        self._con.register("aside", table)
        self._con.execute(
            f"create table if not exists {name} as select *, {file_index} as file_index from aside limit 0; "
            f"insert into {name} by name select *, {file_index} as file_index from aside"
        )
        self._con.unregister("aside")
        self._aside.add(name)
        self.answers.clear()

    def drop(self, file_index: int) -> None:
        """Remove the rows of one file, also from the lookup tables."""
        for name in self._aside:
            self._con.execute(f"delete from {name} where file_index = {file_index}")
            self.answers.clear()
        if self._files.pop(file_index, None) is not None:
            self._put_together()

    def set(self, **changed: pa.Array) -> None:
        """Replace or append columns of the current rows."""
        import pyarrow as pa

        table = self._rows
        for name, made in changed.items():
            column = self._map(pa.table({name: made})).column(name) if self._maps and made.null_count < len(made) else made
            at = table.schema.get_field_index(name)
            table = table.append_column(name, column) if at < 0 else table.set_column(at, name, column)
        self._show(table)
        self.release_memory()

    def has(self, name: str) -> bool:
        """Return whether any row has a value in a column."""
        return bool(self._rows.column(name).null_count < self._rows.num_rows)

    def column(self, name: str) -> pa.Array:
        """Return one column as one array."""
        return columns.combine_chunks(self._rows.column(name))

    def ask(self, distinct: pa.Table, *expressions: str) -> list[pa.Array]:
        """Run SQL expressions over a table of distinct values. Return one array per expression, in the order of the table.

        A large table is processed one part at a time, to save memory. If a string differs in every row, the input, the result and the
        joined copy would each be as large as the bill.
        """
        import pyarrow as pa

        size = self.room.asked_rows
        if distinct.num_rows <= size:
            return ask(self._con, distinct, *expressions)
        parts = []
        for start in range(0, distinct.num_rows, size):
            parts.append(ask(self._con, distinct.slice(start, size), *expressions))
            self.release_memory()
        return [pa.concat_arrays(pieces) for pieces in zip(*parts, strict=True)]

    def ask_of(self, name: str, *expressions: str) -> list[pa.Array]:
        """Run SQL expressions that return text over the dictionary of one text column. Return one array per expression."""
        import pyarrow as pa

        values = self.column(name).dictionary
        if not len(values):  # planning the query alone would take 2 to 15 ms
            return [columns.texts([])] * len(expressions)
        return self.ask(pa.table({name: values}), *expressions)

    def rows_where(self, name: str, condition: str) -> pa.Array:
        """Return a boolean array: whether a SQL condition on one text column is true for each row. It is false for null."""
        import pyarrow as pa
        import pyarrow.compute as pc

        column = self.column(name)
        if not len(column.dictionary):
            return pa.repeat(pa.scalar(False), len(column))
        [fits] = self.ask(pa.table({name: column.dictionary}), condition)
        return pc.fill_null(columns.spread(column.indices, fits), False)

    def ask_rows(self, expression: str) -> pa.Array:
        """Run a SQL expression over every row. Return its values in the order of the rows."""
        [answer] = self.ask(self._rows, expression)
        return answer

    def ask_values(self, found: Mapping[str, pa.Array], expression: str) -> pa.Array:
        """Run a SQL expression over numeric columns of equal length. It runs once per combination of values if these are few."""
        import pyarrow as pa
        import pyarrow.compute as pc

        if any(columns.nearly_all_differ(column) for column in found.values()):
            [answer] = self.ask(pa.table(found), expression)
            return answer
        codes, distinct = columns.combine([pc.dictionary_encode(column) for column in found.values()], list(found))
        [answer] = self.ask(distinct, expression)
        return columns.spread(codes, answer)

    def _put_together(self) -> None:
        import pyarrow as pa

        tables = [part for parts in self._files.values() for part in parts] or [staged_schema().empty_table()]
        self._show(tables[0] if len(tables) == 1 else pa.concat_tables(tables))

    def _show(self, table: pa.Table) -> None:
        if self._is_shown:  # otherwise the engine would keep the old rows in memory
            self._con.unregister("staged")
            self._is_shown = False
        self._rows = table

    def keep(self, kept: pa.Array) -> None:
        """Remove the rows for which `kept` is false. Called when all files are staged."""
        import pyarrow as pa

        if kept.true_count < len(kept):
            self.join_up()
            self._show(
                pa.table([columns.combine_chunks(column) for column in self._rows.filter(kept).columns], names=self._rows.column_names)
            )

    def join_up(self) -> None:
        """Turn every column into one array. Called when all files are staged. Files can no longer be dropped one by one after it."""
        import pyarrow as pa

        table = self._rows
        if all(column.num_chunks == 1 for column in table.columns):
            return
        self._files = {}
        names = table.column_names
        nulls = columns.Nulls(table.num_rows)
        is_large = table.get_total_buffer_size() > self.room.kept_bytes
        # The pieces of a column are freed as soon as the column is joined. So nothing else may refer to them.
        pieces = {name: table.column(name) for name in names}
        del table
        self._show(staged_schema().empty_table())

        def joined(name: str) -> pa.Array | pa.ChunkedArray:
            chunked = pieces.pop(name)
            if chunked.null_count == len(chunked):
                return nulls.of(chunked.type)
            column = columns.combine_chunks(chunked)
            if is_large:
                column = self._map(pa.table({name: column})).column(name)
                self.release_memory()
            return column

        if is_large:
            self._show(pa.table([joined(name) for name in names], names=names))
            return
        with ThreadPoolExecutor() as several:
            self._show(pa.table(list(several.map(joined, names)), names=names))

    def _keep(self, table: pa.Table) -> pa.Table:
        """Return the table, or its copy in a mapped file. If rows exceed their share of memory, all tables become mapped files."""
        if self._rows.get_total_buffer_size() + table.get_total_buffer_size() <= self.room.kept_bytes or not self._files:
            return table
        if not self._maps:
            self._files = {index: [self._map(before) for before in tables] for index, tables in self._files.items()}
        return self._map(table)

    def _map(self, table: pa.Table) -> pa.Table:
        import pyarrow as pa

        filled = [name for name in table.column_names if table.column(name).null_count < table.num_rows]
        if not filled:
            return table
        path = self._workdir / f"staged-{self._mapped}.arrow"
        self._mapped += 1
        written = table.select(filled)  # all empty columns share one column of nulls in memory
        with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_file(sink, written.schema) as writer:
            writer.write_table(written)
        with path.open("rb") as file:
            bytes_of_file = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        path.unlink()  # the data stays readable through the map until the map is freed
        self._maps.add(bytes_of_file)
        mapped = pa.ipc.open_file(pa.py_buffer(bytes_of_file)).read_all()
        return pa.table({name: mapped.column(name) if name in filled else table.column(name) for name in table.column_names})

    @property
    def is_mapped(self) -> bool:
        """Whether rows are in mapped files, because the bill is too large for memory."""
        return bool(self._maps)

    def drop_pages(self) -> None:
        """Release the pages of mapped rows from memory. A later read loads them again."""
        for bytes_of_file in self._maps:
            bytes_of_file.madvise(mmap.MADV_DONTNEED)

    def release_memory(self) -> None:
        """Release memory between the steps of a load, if rows are in mapped files or memory is scarce.

        It releases the pages of mapped rows, and freed memory that libraries keep.
        """
        import pyarrow as pa

        if self._maps or self.room.is_tight:
            self.drop_pages()
            pa.default_memory_pool().release_unused()
            give_back()


def ask(con: duckdb.DuckDBPyConnection, distinct: pa.Table, *expressions: str) -> list[pa.Array]:
    """Run SQL expressions over a table, on this connection. Return one array per expression, in the order of the table."""
    import pyarrow as pa

    # Positions restore the order: a join, and so `in (select …)`, returns rows of large tables in the order in which its threads finish.
    con.register("asked_rows", distinct.append_column("asked_at", pa.arange(0, distinct.num_rows)))
    names = ", ".join(f"{e} as a{i}" for i, e in enumerate(expressions))
    answer = con.sql(f"select asked_at, {names} from asked_rows").to_arrow_table()
    con.unregister("asked_rows")
    return _in_order(answer)


def _in_order(answer: pa.Table) -> list[pa.Array]:
    """Return the columns after the first, sorted by the first, which is the position of each row."""
    import pyarrow as pa
    import pyarrow.compute as pc

    at, *found = (columns.combine_chunks(column) for column in answer.columns)
    if pc.all(pc.equal(at, pa.arange(0, len(at))), min_count=0).as_py():
        return found
    order = pc.sort_indices(at)
    return [column.take(order) for column in found]


def give_back() -> None:
    """Return freed memory that the C library keeps for each thread to the system, on platforms with `malloc_trim`."""
    import ctypes

    if trim := getattr(ctypes.CDLL(None), "malloc_trim", None):
        trim(0)


def warm_imports() -> None:
    """Import the libraries that reading needs, while other work leaves the interpreter idle.

    The imports take a second together. If pandas is installed, most of that second is Arrow's search for pandas at its first Python value.
    """
    import pyarrow as pa
    import pyarrow.compute
    import pyarrow.csv
    import pyarrow.parquet

    pa.scalar(0)


@contextmanager
def open_engine(workdir: Path, memory: int | None = None) -> Iterator[duckdb.DuckDBPyConnection]:
    """Open an in-memory DuckDB with the macros of the SQL files. It spills into the work folder and keeps rows in order.

    All settings apply to all connections. So a thread with its own cursor has the same macros, tables and time zone.
    """
    workdir.mkdir(parents=True, exist_ok=True)
    with borrow_connection("bills", _make_engine, workdir / "spill", memory=f"{room_of(memory).engine_bytes}B") as con:
        con.execute(f"set max_temp_directory_size = '{max(free_bytes(workdir) // 2, 1 << 30)}B'")
        yield con


def _make_engine() -> duckdb.DuckDBPyConnection:
    try:
        import duckdb
    except ImportError as error:
        raise MissingExtra("duckdb", "pipeline") from error
    con = duckdb.connect(":memory:", config={"allow_unsigned_extensions": "false", "autoinstall_known_extensions": "false"})
    con.execute("set global TimeZone = 'UTC'")
    # A lookup without a join, because DuckDB returns joined rows in the order in which its threads finish.
    con.execute(f"create macro is_currency(code) as length(code) = 3 and contains('|{'|'.join(currencies())}|', '|' || code || '|')")
    for name in ("exact_decimals.sql", "macros.sql"):
        con.execute(files("runspend.ingest.billing").joinpath(name).read_text(encoding="utf-8"))
    con.execute(f"create macro resource_key(id) as {resource_key_sql('id')}")
    return con


def currencies() -> list[str]:
    """Return the ISO 4217 codes of national currencies and funds in use, and of those replaced since 2020 that old bills still use."""
    return files("runspend.ingest.billing").joinpath("currencies.csv").read_text(encoding="utf-8").split()[1:]
