"""Run SQL over the published Parquet files of one build.

`warehouse.py` knows which files are published. `engine.py` runs DuckDB.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from runspend.core.ctrl_c import let_ctrl_c_interrupt, raise_ctrl_c
from runspend.core.errors import RunspendError, SqlRefused
from runspend.core.machine_faults import has_no_room_to_spill, machine_failed
from runspend.core.sql_quoting import sql_name
from runspend.schema.public_views import VIEWS
from runspend.schema.tables import TABLES
from runspend.warehouse.base import Unit
from runspend.warehouse.currency_views import DATED, SUMMED, exchange
from runspend.warehouse.dialect import duckdb_sql, names_read, table_names
from runspend.warehouse.engine_messages import in_one_line
from runspend.warehouse.parquet.engine import create_view, fetch, fetch_first, narrow, restrict, stream, used
from runspend.warehouse.parquet.verification import Guard
from runspend.warehouse.read_only_sql import check_only_reads, text_to_run
from runspend.warehouse.team_views import LEDGERS, Restriction, restricted_sql, set_sql, sets_behind, tables_behind
from runspend.warehouse.time_limit import time_limit

if TYPE_CHECKING:
    import duckdb
    import pyarrow as pa

    from runspend.config.exchange_rates import Stretch
    from runspend.warehouse.parquet.snapshots import Hold


ENGINE_ERRORS = frozenset(
    {"IOException", "SerializationException", "InternalException", "FatalException", "Error"}
)  # caused by DuckDB, not by the statement
NAMES = frozenset((*TABLES, *VIEWS))


def tables_asked(sql: str) -> Collection[str]:
    """Return the names of the tables and views that a GoogleSQL statement may read.

    If the statement contains an unknown name, return all names, so that DuckDB can suggest similar ones.
    """
    if table_names(sql) - NAMES:
        return NAMES
    return {name.lower() for name in names_read(sql)}


def with_tables(names: Collection[str]) -> Collection[str]:
    """Return these names, plus the names of the tables that the views among them read."""
    return {*names, *(table for name in VIEWS.keys() & names for table in VIEWS[name].over)}


def answer(
    open_reader: Callable[[], AbstractContextManager[ParquetReader]],
    sql: str,
    *,
    native: bool,
    timeout: float | None,
    at_most: int | None = None,
) -> pa.Table:
    """Return the rows of one user-written statement, or its first `at_most` rows.

    The statement is checked to be read-only first. Only then is the reader opened, on a `guarded_engine`.
    """
    text = text_to_run(sql, native=native)
    if not native:
        used(sql, {})  # raises SqlRefused if the statement has parameters, because they have no values
    with open_reader() as reader:
        rows = reader.answer(text, NAMES if native else tables_asked(sql), timeout=timeout, at_most=at_most)
    return rows if native else narrow(rows)


class SqlReader:
    """Runs SQL over the tables that one connection can read."""

    _connection: duckdb.DuckDBPyConnection

    def _show(self, names: Collection[str]) -> None:
        """Make these tables readable. Ignores other names."""
        raise NotImplementedError

    def _doubt(self) -> bool:
        """Verify the files that were read, after an error that a file may have caused. Raises WarehouseDamaged if one is damaged.

        Returns whether there was time to verify all files.
        """
        raise NotImplementedError

    def query(self, sql: str, parameters: Mapping[str, Any] | None = None, *, native: bool = False) -> pa.Table:
        """Return the rows of one GoogleSQL statement. With `native`, the statement is in DuckDB's own dialect.

        Money is decimal128(38, 22).
        """
        with self._translate_errors():
            if native:
                self._refuse_native()
                check_only_reads(self._connection, sql)
                self._show(NAMES)
                return fetch(self._connection, sql, dict(parameters or {}))
            self._show(tables_asked(sql))
            return narrow(fetch(self._connection, duckdb_sql(sql), used(sql, parameters or {})))

    def batches(self, sql: str, parameters: Mapping[str, Any] | None = None, *, rows: int) -> Iterator[pa.RecordBatch]:
        """Yield the rows of a query in batches of about `rows` rows. Rows that DuckDB must buffer are spilled to disk."""
        with self._translate_errors():
            self._show(tables_asked(sql))
            yield from stream(self._connection, duckdb_sql(sql), used(sql, parameters or {}), rows)

    @contextmanager
    def _translate_errors(self) -> Iterator[None]:
        """Translate a DuckDB error: raise WarehouseDamaged if a damaged file caused it, otherwise a RunspendError or SqlRefused."""
        import duckdb

        self._check()
        try:
            with raise_ctrl_c():
                yield
        except duckdb.Error as error:
            self._check()
            are_whole = _may_come_from_a_file(error) and self._doubt()
            raise _in_words(error, are_whole) from error

    def _check(self) -> None:
        """Raise RunspendError if this reader can no longer run queries."""

    def _refuse_native(self) -> None:
        """Raise RunspendError if only some rows are visible: a statement in DuckDB's own dialect could read the other rows."""


def _may_come_from_a_file(error: Exception) -> bool:
    """Whether a damaged file may have caused this error.

    Unknown names and wrong types are mistakes in the statement, so no files are hashed after them.
    """
    return type(error).__name__ in ENGINE_ERRORS or "Parquet" in str(error) or "magic bytes" in str(error)


def _in_words(error: Exception, are_whole: bool) -> RunspendError:
    """Return DuckDB's error as a Runspend error.

    Folders are removed from paths in the message, because they are local and exist for one query only.
    """
    if (failed := machine_failed(error, "run the SQL")) is not None:
        return failed
    text = re.sub(r"(?:(?<![\w:/])/|published://)[^\s'\"]*/([^\s'\"/]+)", r"\1", in_one_line(error))
    if type(error).__name__ in ENGINE_ERRORS:
        files = " The files that it reads were verified: they are whole." if are_whole else ""
        return RunspendError(
            f"cannot run the SQL: the database engine failed: {text}.{files} Nothing was changed. Write the statement differently, or report it."
        )
    return SqlRefused(f"cannot run the SQL: {text}. `runspend sql --tables` lists tables and columns.")


@contextmanager
def _temporary_files_bounded() -> Iterator[None]:
    """Raise SqlRefused, and not a machine fault, if the temporary files of a query do not fit on the disk."""
    import duckdb

    try:
        yield
    except duckdb.Error as error:
        if not has_no_room_to_spill(error):
            raise
        raise SqlRefused(
            "cannot answer: its temporary files need more space than the disk has. Nothing was changed. "
            "Ask for less, or set TMPDIR to a folder on a larger disk."
        ) from error


class ParquetReader(SqlReader):
    """Read-only SQL over the published tables of one build."""

    def __init__(
        self,
        units: Mapping[Unit, Path],
        columns: Mapping[str, list[str]],
        connection: duckdb.DuckDBPyConnection,
        guard: Guard,
        *,
        hold: Hold | None = None,
        seen: Restriction | None = None,
    ) -> None:
        self._seen = seen  # the rows that teams may see; None: all rows
        self._restricted: set[str] = set()  # tables whose restricted view exists
        self._sets: set[str] = set()  # sets of `team_views` that are stored in tables
        self._made: set[str] = set()  # views of `public_views` that exist
        self._hidden: dict[str, dict[Unit, Path]] = {name: {} for name in TABLES}  # tables not queried yet, and their files
        for unit, path in units.items():
            self._hidden[unit.table][unit] = path
        self._names: Mapping[Path, str] = {}  # the names under which the engine opens files, if these are not their paths
        self._shown: list[Unit] = []
        self._guard = guard
        self._columns = columns
        self._connection = connection
        self._second = self._connection.cursor()  # for `in_currency`
        self._views = self._connection.cursor()  # creates views; unlike the other cursors, it never has a pending result
        self._interruptible = ExitStack()
        for cursor in (self._second, self._views):
            self._interruptible.enter_context(let_ctrl_c_interrupt(cursor))
        self._doubt_until: float | None = None  # seconds of the monotonic clock
        self._hold = hold
        if hold is not None:
            hold.interrupt = connection.interrupt

    def answer(self, text: str, names: Collection[str], *, timeout: float | None, at_most: int | None = None) -> pa.Table:
        """Return the rows of a user-written statement. Call this only once per reader, because it locks the engine's configuration.

        `text` comes from `text_to_run`. `names` are the tables and views that it may read. The reader's connection is a `guarded_engine`.
        Raises SqlRefused if the statement takes longer than `timeout` seconds.
        """
        from runspend.warehouse.parquet.read_only_files import offered

        self._doubt_until = None if timeout is None else time.monotonic() + timeout
        offer = offered(path for files in self._hidden.values() for path in files.values())
        with offer as names_of_files, time_limit(self._connection.interrupt, timeout), self._translate_errors(), _temporary_files_bounded():
            self._names = names_of_files
            if self._seen is None:
                self._show(names)
                restrict(self._connection, names_of_files.values())
            else:
                self._keep(self._seen, names)
                restrict(self._connection, ())
            self._connection.execute("begin transaction read only")
            return fetch(self._connection, text, {}) if at_most is None else fetch_first(self._connection, text, at_most)

    def in_currency(self, currency: str, rates: Sequence[Stretch]) -> ExchangedReader:
        """Return a reader that shows the money of the cost tables in one currency.

        Money is converted by charge date, exact to 22 decimals. Money without a rate keeps its currency. Only one currency is possible at a
        time: a second call also changes the currency of the readers from earlier calls.
        """
        self._show((*DATED, *SUMMED))
        exchange(self._second, currency, rates)
        return ExchangedReader(self, self._second)

    def _show(self, names: Collection[str]) -> None:
        names = with_tables(names)
        self._show_tables(names)
        for name in sorted((VIEWS.keys() & names) - self._made):
            self._views.execute(f"create view main.{sql_name(name)} as {duckdb_sql(VIEWS[name].sql)}")
            self._made.add(name)

    def _show_tables(self, names: Collection[str]) -> None:
        if self._seen is None:
            self._open(names)
            return
        self._open({behind for name in names if name in TABLES for behind in tables_behind(name)})
        for name in sorted((TABLES.keys() & names) - self._restricted):
            # A page queries cost_daily often. Its visible part is small, because the cost of other teams is summed.
            kind = "table" if name == "cost_daily" else "view"
            self._views.execute(f"create {kind} main.{sql_name(name)} as {self._restricted_to(self._seen, name)}")
            self._restricted.add(name)

    def _keep(self, seen: Restriction, names: Collection[str]) -> None:
        """Copy the visible rows of these tables and drop the views over the files, so that a statement can read nothing else."""
        names = with_tables(names)
        asked = TABLES.keys() & names
        opened = {behind for name in asked for behind in tables_behind(name)}
        self._open(opened)
        for name in sorted(asked):
            self._views.execute(f"create table main.{sql_name(name)} as {self._restricted_to(seen, name)}")
        for name in sorted(opened):
            self._views.execute(f"drop view main.{sql_name(_whole(name))}")
        for one in sorted(self._sets):
            self._views.execute(f"drop table main.{sql_name(_kept(one))}")
        for name in sorted(VIEWS.keys() & names):
            self._views.execute(f"create view main.{sql_name(name)} as {duckdb_sql(VIEWS[name].sql)}")

    def _restricted_to(self, seen: Restriction, name: str) -> str:
        """Return SQL for the visible rows of a table. First stores the sets that this SQL reads in tables."""
        names = {table: f"`{_whole(table)}`" for table in TABLES}
        for one in sets_behind(name):
            if one in LEDGERS:
                continue
            if one not in self._sets:
                self._views.execute(f"create table main.{sql_name(_kept(one))} as {duckdb_sql(set_sql(one, names, seen))}")
                self._sets.add(one)
            names[one] = f"`{_kept(one)}`"
        return duckdb_sql(restricted_sql(TABLES[name], names, seen))

    def _open(self, names: Collection[str]) -> None:
        """Create the views over the files of these tables. If only some rows are visible, the views get names from `_whole`."""
        import duckdb

        for name in sorted(self._hidden.keys() & names):
            self._guard(self._hidden[name])
            files = [self._names.get(path, path) for path in self._hidden[name].values()]
            try:
                create_view(self._views, TABLES[name], files, self._columns[name], name=None if self._seen is None else _whole(name))
            except duckdb.Error:  # not caused by the statement: a view over intact files always has these columns
                self._guard.doubt(self._hidden[name], self._doubt_until)
                raise
            self._shown += self._hidden.pop(name)

    def _doubt(self) -> bool:
        return self._guard.doubt(self._shown, self._doubt_until)

    def _check(self) -> None:
        if self._hold is not None:
            self._hold.check()

    def _refuse_native(self) -> None:
        if self._seen is not None:
            raise RunspendError("cannot run a statement in DuckDB's own dialect: this reader shows the rows of some teams only.")

    def close(self) -> None:
        """Close the reader's own cursors."""
        self._interruptible.close()
        self._views.close()
        self._second.close()


def _whole(name: str) -> str:
    """Return the name of the view over all rows of a table, used if only some rows are visible. No parsed statement can contain it."""
    return f"every row of {name}"


def _kept(name: str) -> str:
    """Return the name of the table that stores a set of `team_views`."""
    return f"set {name}"


class ExchangedReader(SqlReader):
    """The tables of a reader, with the money of the cost tables in one currency."""

    def __init__(self, reader: ParquetReader, connection: duckdb.DuckDBPyConnection) -> None:
        self._reader = reader
        self._connection = connection

    def in_currency(self, currency: str, rates: Sequence[Stretch]) -> ExchangedReader:
        """Return a reader that shows the money in another currency."""
        return self._reader.in_currency(currency, rates)

    def _show(self, names: Collection[str]) -> None:
        self._reader._show(names)
        for name in sorted(VIEWS.keys() & names):  # over the exchanged tables
            self._connection.execute(f"create or replace temp view {sql_name(name)} as {duckdb_sql(VIEWS[name].sql)}")

    def _check(self) -> None:
        self._reader._check()

    def _doubt(self) -> bool:
        return self._reader._doubt()

    def _refuse_native(self) -> None:
        self._reader._refuse_native()
