"""SQL over the published Parquet files of one build.

What is published belongs in `parquet.py`, how DuckDB is asked in `engine.py`.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from runspend.errors import RunspendError, SqlRefused, WarehouseDamaged
from runspend.machine import machine_failed
from runspend.tables import TABLES
from runspend.warehouse import Unit
from runspend.warehouse.dialect import duckdb_sql, names_read, table_names
from runspend.warehouse.engine import create_view, fetch, narrow, restrict, stream, used
from runspend.warehouse.exchange import DATED, SUMMED, exchange
from runspend.warehouse.guard import check_only_reads, text_to_run
from runspend.warehouse.sentences import in_one_line
from runspend.warehouse.time_limit import time_limit
from runspend.warehouse.verification import Guard

if TYPE_CHECKING:
    import duckdb
    import pyarrow as pa

    from runspend.rates import Stretch
    from runspend.warehouse.moments import Hold

__all__ = ["ExchangedReader", "ParquetReader", "answer"]


def tables_asked(sql: str) -> Collection[str]:
    """Tables that a GoogleSQL statement may read; all, if it names one that there is not: the engine tells of those that are like it."""
    if table_names(sql) - TABLES.keys():
        return TABLES.keys()
    return {name.lower() for name in names_read(sql)}


def answer(open_reader: Callable[[], AbstractContextManager[ParquetReader]], sql: str, *, native: bool, timeout: float | None) -> pa.Table:
    """Rows of one statement that people wrote, of a reader on a `guarded_engine`, which is opened once the statement turned out to only read."""
    text = text_to_run(sql, native=native)
    if not native:
        used(sql, {})  # refuses parameters: nobody gave any
    with open_reader() as reader:
        rows = reader.answer(text, TABLES.keys() if native else tables_asked(sql), timeout=timeout)
    return rows if native else narrow(rows)


class _Answers:
    """SQL over what one connection shows."""

    _connection: duckdb.DuckDBPyConnection

    def _show(self, names: Collection[str]) -> None:
        """See to it that these tables can be read; other names are passed over."""
        raise NotImplementedError

    def _doubt(self) -> None:
        """After an error of the engine: raises WarehouseDamaged if it is a file's fault, not the statement's."""
        raise NotImplementedError

    def query(self, sql: str, parameters: Mapping[str, Any] | None = None, *, native: bool = False) -> pa.Table:
        """Rows of one GoogleSQL statement (`native`: DuckDB's own dialect). Money is decimal128(38, 22)."""
        with self._translate_errors():
            if native:
                check_only_reads(self._connection, sql)
                self._show(TABLES.keys())
                return fetch(self._connection, sql, dict(parameters or {}))
            self._show(tables_asked(sql))
            return narrow(fetch(self._connection, duckdb_sql(sql), used(sql, parameters or {})))

    def batches(self, sql: str, parameters: Mapping[str, Any] | None = None, *, rows: int) -> Iterator[pa.RecordBatch]:
        """The same rows as `query`, about `rows` at a time; what the engine has to keep of them it spills to disk."""
        with self._translate_errors():
            self._show(tables_asked(sql))
            yield from stream(self._connection, duckdb_sql(sql), used(sql, parameters or {}), rows)

    @contextmanager
    def _translate_errors(self) -> Iterator[None]:
        """DuckDB's errors in our words: what was asked wrong, or what cannot be read."""
        import duckdb

        self._check()
        try:
            yield
        except duckdb.Error as error:
            self._check()
            self._doubt()
            if (failed := machine_failed(error, "run the SQL")) is not None:
                raise failed from error
            raise _in_words(error) from error

    def _check(self) -> None:
        """RunspendError when this can answer no more."""


def _in_words(error: Exception) -> RunspendError:
    """What DuckDB says, as an error of ours. Paths are left out: they are this machine's, and of names that live for one question."""
    text = re.sub(r"(?:(?<![\w:/])/|published://)[^\s'\"]*/([^\s'\"/]+)", r"\1", in_one_line(error))
    kind = type(error).__name__
    if any(said in text for said in ("No space left", "max_temp_directory_size", "Too many open files", "Read-only file system")):
        return RunspendError(f"cannot answer: {text}. Nothing was changed. Free the disk of temporary files ($TMPDIR), or ask for less.")
    if kind in ("IOException", "SerializationException", "InternalException", "FatalException", "Error") or "Parquet" in text or "magic bytes" in text:
        found = re.search(r"\b\d+-([a-z_]+)-([\w-]+)-([\w.-]+)\.parquet", text)
        return WarehouseDamaged({" ".join(found.groups()) if found else "a published file": text})
    return SqlRefused(f"cannot run the SQL: {text}. `runspend sql --tables` lists tables and columns.")


class ParquetReader(_Answers):
    """Read-only SQL over the published tables of one build."""

    def __init__(
        self,
        units: Mapping[Unit, Path],
        columns: Mapping[str, list[str]],
        connection: duckdb.DuckDBPyConnection,
        guard: Guard,
        *,
        hold: Hold | None = None,
    ) -> None:
        self._hidden: dict[str, dict[Unit, Path]] = {name: {} for name in TABLES}  # tables nobody asked for yet, and their files
        for unit, path in units.items():
            self._hidden[unit.table][unit] = path
        self._names: Mapping[Path, str] = {}  # by which the engine opens files, where it is not by their paths
        self._shown: list[Unit] = []
        self._guard = guard
        self._columns = columns
        self._connection = connection
        self._second = self._connection.cursor()  # for `in_currency`
        self._views = self._connection.cursor()  # which never has rows on the way, as the others may
        self._hold = hold
        if hold is not None:
            hold.interrupt = connection.interrupt

    def answer(self, text: str, names: Collection[str], *, timeout: float | None) -> pa.Table:
        """Rows of the one statement this reader is for, which people wrote: `guard.text_to_run` of it, and the tables it may name.

        Its engine is a `guarded_engine`. SqlRefused when it takes longer than `timeout` seconds.
        """
        from runspend.warehouse.read_only import offered

        with offered(path for files in self._hidden.values() for path in files.values()) as names_of_files, self._translate_errors():
            self._names = names_of_files
            with time_limit(self._connection.interrupt, timeout):
                self._show(names)
                restrict(self._connection, names_of_files.values())
                self._connection.execute("begin transaction read only")
                return fetch(self._connection, text, {})

    def in_currency(self, currency: str, rates: Sequence[Stretch]) -> ExchangedReader:
        """The same view with the cost tables' money in one currency, by charge date, exact to 22 decimals; what has no rate stays in its own.

        One at a time: asked again, an earlier one answers as the new one does.
        """
        self._show((*DATED, *SUMMED))
        exchange(self._second, currency, rates)
        return ExchangedReader(self, self._second)

    def tables(self) -> list[str]:
        """Tables that can be asked, public ones first."""
        return sorted(TABLES, key=lambda name: (not TABLES[name].is_public, name))

    def _show(self, names: Collection[str]) -> None:
        for name in sorted(self._hidden.keys() & names):
            self._guard(self._hidden[name])
            files = [self._names.get(path, path) for path in self._hidden[name].values()]
            create_view(self._views, TABLES[name], files, self._columns[name])
            self._shown += self._hidden.pop(name)

    def _doubt(self) -> None:
        self._guard.doubt(self._shown)

    def _check(self) -> None:
        if self._hold is not None:
            self._hold.check()

    def close(self) -> None:
        """Let go of what it has of its own."""
        self._views.close()
        self._second.close()


class ExchangedReader(_Answers):
    """What a reader shows, with the cost tables' money in one currency."""

    def __init__(self, reader: ParquetReader, connection: duckdb.DuckDBPyConnection) -> None:
        self._reader = reader
        self._connection = connection

    def in_currency(self, currency: str, rates: Sequence[Stretch]) -> ExchangedReader:
        """In another one."""
        return self._reader.in_currency(currency, rates)

    def _show(self, names: Collection[str]) -> None:
        self._reader._show(names)

    def _check(self) -> None:
        self._reader._check()

    def _doubt(self) -> None:
        self._reader._doubt()
