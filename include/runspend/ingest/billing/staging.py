"""The rows of tonight's files between reading and writing: Arrow columns in memory, which SQL sees as the view `staged`.

Put here the engine, the form every format's module brings its rows into, and how distinct values are asked about. What is
asked belongs to the modules that ask; how files are read to the formats.
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
from typing import TYPE_CHECKING, TypeVar

from runspend.core.duckdb_pool import lent
from runspend.core.errors import MissingExtra
from runspend.core.resource_keys import resource_key_sql
from runspend.ingest.billing import columns
from runspend.ingest.billing.memory_budget import room_of
from runspend.ingest.billing.verify import free_bytes
from runspend.schema.tables import FOCUS_COLUMNS

if TYPE_CHECKING:
    import duckdb
    import pyarrow as pa

    from runspend.ingest.billing import distinct
    from runspend.ingest.billing.manifests import Delivered

Item = TypeVar("Item")
# Equal rows are equal lines, never one line twice: from the second on they carry their number.
LINE_ID = "printf('%016x', row_hash) || coalesce('-' || ordinal, '')"


def sql_text(text: str) -> str:
    """A text as a SQL literal."""
    return "'" + text.replace("'", "''") + "'"


def arrow_type(kind: str) -> pa.DataType:
    """The type a delivered column of a FOCUS type has while it is staged."""
    import pyarrow as pa

    return {"BIGNUMERIC": pa.decimal128(38, 22), "TIMESTAMP": pa.timestamp("us", "UTC")}.get(kind) or columns.text_type()


def delivered_fields() -> list[pa.Field]:
    """The columns a format's module brings: all but the two that `Staged` finds."""
    return [field for field in staged_schema() if field.name not in ("row_hash", "ordinal")]


def staged_schema() -> pa.Schema:
    """The FOCUS columns, what is told of rows that cannot be read, and what tells rows apart."""
    import pyarrow as pa

    text = columns.text_type()
    return pa.schema(
        [(c.name, arrow_type(c.type)) for c in FOCUS_COLUMNS]
        + [
            ("delivered_instance_type", text),
            ("iam_principal", text),
            ("billing_period", pa.date32()),
            ("trouble", text),  # why the row goes into quarantine; null for all others
            ("raw", text),
            ("long_billed_cost", text),
            ("row_number", pa.int64()),
            ("file_index", pa.int32()),
            ("row_hash", pa.uint64()),
            ("ordinal", pa.int64()),  # among equal rows, once `settle_rows` has counted; null for the first
        ]
    )


@dataclass(frozen=True)
class StagedFile:
    """What a format's module tells of one file it staged."""

    focus_version: str  # or the variant of another format
    rows: int  # delivered ones
    dropped_columns: tuple[str, ...] = ()
    unreadable: dict[str, int] = field(default_factory=dict)  # column -> values that became null
    is_aside: bool = False  # no charges: what the SQL of others looks up
    left_out: dict[str, int] = field(default_factory=dict)  # why rows charge nothing and become no line -> how many
    reading: str | None = None  # which of its format's ways of reading it was, where what is beside it may ask for another


@dataclass(frozen=True)
class Beside:
    """Rows that are staged, by a connection of one's own; its view `staged` shows them."""

    con: duckdb.DuckDBPyConnection
    delivered_rows: str


class Staged:
    """Rows of tonight's files."""

    def __init__(self, workdir: Path, memory: int | None = None) -> None:
        import pyarrow as pa

        self.room = room_of(memory)
        self._engine = open_engine(workdir, memory)
        self._con = self._engine.__enter__()
        self._is_shown = False
        # Arrow's usual allocator gives every block of parsing back to the system at once: a fifth of the time a load takes.
        self._memory = pa.default_memory_pool()
        if "jemalloc" in pa.supported_memory_backends():
            pa.set_memory_pool(pa.jemalloc_memory_pool())
        self._workdir = workdir
        self._files: dict[int, list[pa.Table]] = {}
        self._mapped = 0
        self._maps: weakref.WeakSet[mmap.mmap] = weakref.WeakSet()
        self._aside: set[str] = set()
        self.following: dict[int, Delivered] = {}  # by a file's index the one that is staged next
        self.begun: dict[int, tuple[object, Ahead[pa.Table]]] = {}  # by its index what is read before its turn, and as what (`format_spec.py`)
        self.answers: dict[str, distinct.Known] = {}  # what SQL said of files before (`format_spec.py`), as long as it looks up the same
        # What the bill's digest is of: rows as they were delivered, before any was replaced by its parts.
        self.delivered_rows = "(select file_index, billing_period, 1 as rows, row_hash::hugeint as hash_sum, row_hash as hash_xor from staged)"
        self._rows = staged_schema().empty_table()

    def __enter__(self) -> Staged:
        return self

    @property
    def con(self) -> duckdb.DuckDBPyConnection:
        """The engine, for the thread that stages. Its view `staged` shows the rows there are now: whoever changes them asks for it anew."""
        if not self._is_shown:
            self._con.register("staged", self._rows)
            self._is_shown = True
        return self._con

    def cursor(self) -> duckdb.DuckDBPyConnection:
        """A connection of a thread's own, without the view `staged`."""
        return self._con.cursor()

    @contextmanager
    def beside(self) -> Iterator[Beside]:
        """The rows as they are now, for the questions of another thread."""
        with self.cursor() as con:
            con.register("staged", self._rows)
            yield Beside(con, self.delivered_rows)

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        import pyarrow as pa

        self.let_go()
        self._engine.__exit__(kind, error, trace)
        pa.set_memory_pool(self._memory)

    def let_go(self) -> None:
        """Read no file before its turn, and forget what is read of those that were not asked for."""
        self.following.clear()
        while self.begun:  # one that is at its end may just begin another
            _, (_, reading) = self.begun.popitem()
            reading.close()

    @property
    def rows(self) -> pa.Table:
        """All rows, each column in one piece: files in the order they came, rows in the order they have there."""
        return self._rows

    def add(self, file_index: int, table: pa.Table) -> None:
        """More rows of one file, in the columns of `staged_schema` but the last two, which are found here."""
        import pyarrow as pa

        whole = self._with_hash(table).append_column("ordinal", pa.nulls(table.num_rows, pa.int64()))
        kept = self._keep(whole.select(staged_schema().names))
        self._files.setdefault(file_index, []).append(kept)
        self._put_together()
        self.ease()

    def _with_hash(self, table: pa.Table) -> pa.Table:
        """The rows with `row_hash`, of the FOCUS columns."""
        self._con.register("hashed", table)
        # A constant null counts as the null of every row does, and takes no time.
        sql_types = {"STRING": "varchar", "BIGNUMERIC": "decimal(38, 22)", "TIMESTAMP": "timestamptz"}
        is_empty = {c.name: table.column(c.name).null_count == table.num_rows for c in FOCUS_COLUMNS}
        names = ", ".join(f"cast(null as {sql_types[c.type]})" if is_empty[c.name] else c.name for c in FOCUS_COLUMNS)
        hashes = self._con.sql(f"select hash({names}) as row_hash from hashed").to_arrow_table()
        self._con.unregister("hashed")
        return table.append_column("row_hash", one_piece(hashes.column(0)))

    def replace(self, is_kept: pa.Array, parts: Iterable[pa.Table]) -> None:
        """Other rows in the place of those that are not kept, in the columns of `rows`; each gets a hash of its own."""
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
        """The tables that are kept aside."""
        return frozenset(self._aside)

    def keep_aside(self, name: str, file_index: int, table: pa.Table) -> None:
        """Rows that are no charges, as the table `name` (all texts, and `file_index`) for the SQL of those that are."""
        self._con.register("aside", table)
        self._con.execute(
            f"create table if not exists {name} as select *, {file_index} as file_index from aside limit 0; "
            f"insert into {name} by name select *, {file_index} as file_index from aside"
        )
        self._con.unregister("aside")
        self._aside.add(name)
        self.answers.clear()

    def drop(self, file_index: int) -> None:
        """Forget the rows of one file."""
        for name in self._aside:
            self._con.execute(f"delete from {name} where file_index = {file_index}")
            self.answers.clear()
        if self._files.pop(file_index, None) is not None:
            self._put_together()

    def set(self, **changed: pa.Array) -> None:
        """Replace or append columns of the rows that are there."""
        import pyarrow as pa

        table = self._rows
        for name, made in changed.items():
            column = self._map(pa.table({name: made})).column(name) if self._maps and made.null_count < len(made) else made
            at = table.schema.get_field_index(name)
            table = table.append_column(name, column) if at < 0 else table.set_column(at, name, column)
        self._show(table)
        self.ease()

    def has(self, name: str) -> bool:
        """Whether any row says something in a column."""
        return bool(self._rows.column(name).null_count < self._rows.num_rows)

    def column(self, name: str) -> pa.Array:
        """One column, in one piece."""
        return one_piece(self._rows.column(name))

    def ask(self, distinct: pa.Table, *expressions: str) -> list[pa.Array]:
        """SQL expressions over a table of distinct values, row by row, in its order. Many are asked for a part at a time: of a text that
        every row has one of its own, what is asked, the answer and the copy that joins the answers are each as large as a bill."""
        import pyarrow as pa

        size = self.room.asked_rows
        if distinct.num_rows <= size:
            return ask(self._con, distinct, *expressions)
        parts = []
        for start in range(0, distinct.num_rows, size):
            parts.append(ask(self._con, distinct.slice(start, size), *expressions))
            self.ease()
        return [pa.concat_arrays(pieces) for pieces in zip(*parts, strict=True)]

    def ask_of(self, name: str, *expressions: str) -> list[pa.Array]:
        """SQL expressions over the distinct values of one text column."""
        import pyarrow as pa

        return self.ask(pa.table({name: self.column(name).dictionary}), *expressions)

    def ask_rows(self, expression: str) -> pa.Array:
        """A SQL expression over every row, in order."""
        [answer] = self.ask(self._rows, expression)
        return answer

    def ask_values(self, found: Mapping[str, pa.Array], expression: str) -> pa.Array:
        """A SQL expression over columns of numbers that have one length, asked once per combination where those are few."""
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
        if self._is_shown:  # the engine holds them otherwise
            self._con.unregister("staged")
            self._is_shown = False
        self._rows = table

    def keep(self, kept: pa.Array) -> None:
        """Forget the rows for which `kept` is false; called once all files are there."""
        import pyarrow as pa

        if kept.true_count < len(kept):
            self.join_up()
            self._show(pa.table([one_piece(column) for column in self._rows.filter(kept).columns], names=self._rows.column_names))

    def join_up(self) -> None:
        """Bring every column into one piece; called once, when all files are there."""
        import pyarrow as pa

        table = self._rows
        if all(column.num_chunks == 1 for column in table.columns):
            return
        self._files = {}
        names = table.column_names
        nulls = columns.Nulls(table.num_rows)
        is_large = table.get_total_buffer_size() > self.room.kept_bytes
        # The pieces of a column go as soon as it is joined: nothing else may hold them.
        pieces = {name: table.column(name) for name in names}
        del table
        self._show(staged_schema().empty_table())

        def joined(name: str) -> pa.Array | pa.ChunkedArray:
            chunked = pieces.pop(name)
            if chunked.null_count == len(chunked):
                return nulls.of(chunked.type)
            column = one_piece(chunked)
            if is_large:
                column = self._map(pa.table({name: column})).column(name)
                self.ease()
            return column

        if is_large:
            self._show(pa.table([joined(name) for name in names], names=names))
            return
        with ThreadPoolExecutor() as several:
            self._show(pa.table(list(several.map(joined, names)), names=names))

    def _keep(self, table: pa.Table) -> pa.Table:
        """The table; once rows are more than may be kept, all of them lie in files that are mapped: memory need not hold a large bill."""
        if self._rows.get_total_buffer_size() + table.get_total_buffer_size() <= self.room.kept_bytes or not self._files:
            return table
        if not self._maps:
            self._files = {index: [self._map(before) for before in tables] for index, tables in self._files.items()}
        return self._map(table)

    def _map(self, table: pa.Table) -> pa.Table:
        import pyarrow as pa

        said = [name for name in table.column_names if table.column(name).null_count < table.num_rows]
        if not said:
            return table
        path = self._workdir / f"staged-{self._mapped}.arrow"
        self._mapped += 1
        written = table.select(said)  # one column of nulls in memory stands for all others
        with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_file(sink, written.schema) as writer:
            writer.write_table(written)
        with path.open("rb") as file:
            bytes_of_file = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        path.unlink()  # the map keeps it until the last reader is gone
        self._maps.add(bytes_of_file)
        mapped = pa.ipc.open_file(pa.py_buffer(bytes_of_file)).read_all()
        return pa.table({name: mapped.column(name) if name in said else table.column(name) for name in table.column_names})

    @property
    def is_mapped(self) -> bool:
        """Whether rows lie in files: the bill is too large for memory."""
        return bool(self._maps)

    def drop_pages(self) -> None:
        """Give back the pages of mapped rows that lie in memory; whoever looks at one gets it again."""
        for bytes_of_file in self._maps:
            bytes_of_file.madvise(mmap.MADV_DONTNEED)

    def ease(self) -> None:
        """The same, and what libraries keep of memory that was freed: between the steps of a bill that is too large for memory, or may be."""
        import pyarrow as pa

        if self._maps or self.room.is_tight:
            self.drop_pages()
            pa.default_memory_pool().release_unused()
            give_back()


def ask(con: duckdb.DuckDBPyConnection, distinct: pa.Table, *expressions: str) -> list[pa.Array]:
    """`Staged.ask`, by a connection of one's own."""
    import pyarrow as pa

    # A join, which `in (select …)` is too, hands rows of large tables on as its threads come by them.
    con.register("asked_rows", distinct.append_column("asked_at", pa.arange(0, distinct.num_rows)))
    names = ", ".join(f"{e} as a{i}" for i, e in enumerate(expressions))
    answer = con.sql(f"select asked_at, {names} from asked_rows").to_arrow_table()
    con.unregister("asked_rows")
    return _in_order(answer)


def _in_order(answer: pa.Table) -> list[pa.Array]:
    """The columns of an answer behind the first, which says where each row belongs."""
    import pyarrow as pa
    import pyarrow.compute as pc

    at, *found = (one_piece(column) for column in answer.columns)
    if pc.all(pc.equal(at, pa.arange(0, len(at))), min_count=0).as_py():
        return found
    order = pc.sort_indices(at)
    return [column.take(order) for column in found]


def one_piece(column: pa.ChunkedArray) -> pa.Array:
    """A column as one array; texts get one dictionary."""
    import pyarrow as pa

    if column.num_chunks == 1:
        return column.chunk(0)
    if column.num_chunks == 0:
        return pa.array([], column.type)
    if pa.types.is_dictionary(column.type):
        if sum(len(piece.dictionary) for piece in column.chunks) * 4 > len(column) * 3:
            texts = pa.concat_arrays([piece.dictionary for piece in column.chunks])
            if columns.nearly_all_differ(texts):
                return columns.end_to_end(column.chunks, texts)
        column = column.unify_dictionaries()
    joined = column.combine_chunks()
    return joined.chunk(0) if isinstance(joined, pa.ChunkedArray) else joined


class Ahead(Iterator[Item]):
    """The same items, each got while the one before it is at work; the first one from now on. To be closed."""

    def __init__(self, items: Iterator[Item]) -> None:
        self._beside = ThreadPoolExecutor(1)
        self._items = items
        self._following = self._beside.submit(next, items, None)

    def __next__(self) -> Item:
        item = self._following.result()
        if item is None:
            raise StopIteration
        self._following = self._beside.submit(next, self._items, None)
        return item

    def close(self) -> None:
        """Wait for what is at work, and let go."""
        self._beside.shutdown()


def give_back() -> None:
    """Give what the C library keeps of memory that threads have freed back to the system, where it can: it keeps some for every thread."""
    import ctypes

    if trim := getattr(ctypes.CDLL(None), "malloc_trim", None):
        trim(0)


def wake() -> None:
    """Import what reading needs; called beside work that leaves the interpreter idle. Arrow looks for pandas at its first
    Python value, which is most of this second where pandas is installed."""
    import pyarrow as pa
    import pyarrow.compute
    import pyarrow.csv
    import pyarrow.parquet

    pa.scalar(0)


@contextmanager
def open_engine(workdir: Path, memory: int | None = None) -> Iterator[duckdb.DuckDBPyConnection]:
    """A DuckDB in memory that spills into the work folder, with the macros of the SQL files. It keeps rows in their order.

    Nothing here is of one connection: a thread with a cursor of its own finds the same macros, tables and time zone.
    """
    workdir.mkdir(parents=True, exist_ok=True)
    with lent("bills", _make_engine, workdir / "spill", memory=f"{room_of(memory).engine_bytes}B") as con:
        con.execute(f"set max_temp_directory_size = '{max(free_bytes(workdir) // 2, 1 << 30)}B'")
        yield con


def _make_engine() -> duckdb.DuckDBPyConnection:
    try:
        import duckdb
    except ImportError as error:
        raise MissingExtra("duckdb", "pipeline") from error
    con = duckdb.connect(":memory:", config={"allow_unsigned_extensions": "false", "autoinstall_known_extensions": "false"})
    con.execute("set global TimeZone = 'UTC'")
    # A look-up that is no join: DuckDB hands on joined rows as its threads come by them.
    con.execute(f"create macro is_currency(code) as length(code) = 3 and contains('|{'|'.join(currencies())}|', '|' || code || '|')")
    con.execute(files("runspend.ingest.billing").joinpath("macros.sql").read_text(encoding="utf-8"))
    con.execute(f"create macro resource_key(id) as {resource_key_sql('id')}")
    return con


def currencies() -> list[str]:
    """ISO 4217 codes of national currencies and funds in use, and those replaced since 2020 that old bills still carry."""
    return files("runspend.ingest.billing").joinpath("currencies.csv").read_text(encoding="utf-8").split()[1:]
