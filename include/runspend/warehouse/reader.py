"""SQL over the published Parquet files of one build.

What is published belongs in `parquet.py`, how DuckDB is asked in `engine.py`.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from runspend.errors import UsageError
from runspend.tables import TABLES
from runspend.warehouse import Unit
from runspend.warehouse.dialect import duckdb_sql, names_read, table_names
from runspend.warehouse.engine import create_view, fetch, narrow, restrict, stream, used
from runspend.warehouse.exchange import DATED, SUMMED, exchange

if TYPE_CHECKING:
    import duckdb
    import pyarrow as pa

    from runspend.rates import Stretch

__all__ = ["ExchangedReader", "ParquetReader"]


def _asked(sql: str) -> Collection[str]:
    """Tables that a GoogleSQL statement may read; all, if it names one that there is not: the engine tells of those that are like it."""
    if table_names(sql) - TABLES.keys():
        return TABLES.keys()
    return {name.lower() for name in names_read(sql)}


class _Answers:
    """SQL over what one connection shows."""

    _connection: duckdb.DuckDBPyConnection

    def _show(self, names: Collection[str]) -> None:
        """See to it that these tables can be read; other names are passed over."""
        raise NotImplementedError

    def query(self, sql: str, parameters: Mapping[str, Any] | None = None, *, native: bool = False) -> pa.Table:
        """Rows of one GoogleSQL statement (`native`: DuckDB's own dialect). Money is decimal128(38, 22)."""
        import duckdb

        given = parameters or {}
        try:
            self._show(TABLES.keys() if native else _asked(sql))
            if native:
                statements = self._connection.extract_statements(sql)
                if len(statements) != 1 or statements[0].type not in (duckdb.StatementType.SELECT, duckdb.StatementType.EXPLAIN):
                    raise UsageError("cannot run the SQL: the warehouse is read-only here. Write exactly one SELECT.")
                return fetch(self._connection, sql, dict(given))
            return narrow(fetch(self._connection, duckdb_sql(sql), used(sql, given)))
        except duckdb.Error as error:
            raise UsageError(f"cannot run the SQL: {error}. `runspend sql --tables` lists tables and columns.") from error

    def batches(self, sql: str, parameters: Mapping[str, Any] | None = None, *, rows: int) -> Iterator[pa.RecordBatch]:
        """The same rows as `query`, about `rows` at a time; what the engine has to keep of them it spills to disk."""
        import duckdb

        try:
            self._show(_asked(sql))
            yield from stream(self._connection, duckdb_sql(sql), used(sql, parameters or {}), rows)
        except duckdb.Error as error:
            raise UsageError(f"cannot run the SQL: {error}. `runspend sql --tables` lists tables and columns.") from error


class ParquetReader(_Answers):
    """Read-only SQL over the published tables of one build."""

    def __init__(self, units: Mapping[Unit, Path], columns: Mapping[str, list[str]], connection: duckdb.DuckDBPyConnection) -> None:
        self._hidden: dict[str, list[Path]] = {name: [] for name in TABLES}  # tables nobody asked for yet, and their files
        for unit, path in units.items():
            self._hidden[unit.table].append(path)
        self._columns = columns
        self._files = list(units.values())
        self._connection = connection
        self._second = self._connection.cursor()  # for `in_currency`
        self._views = self._connection.cursor()  # which never has rows on the way, as the others may

    def guard(self) -> None:
        """From here on it reads the published tables and nothing else: what it is asked next people have written."""
        restrict(self._connection, self._files)

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
            create_view(self._views, TABLES[name], self._hidden[name], self._columns[name])
            del self._hidden[name]

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
