"""One open connection to MLflow's database over ADBC: the copy of a SQLite file, or PostgreSQL.

Put here how a connection is opened and how results are read; `database.py` has the queries and interprets errors. SQLite is read
through the drivers' low-level interface: their DB-API module imports pandas and polars if they are installed, which costs a third
of a second of CPU time. PostgreSQL uses the DB-API, for the cause of an error (`sqlstate`) and Ctrl-C.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol
from urllib.parse import quote

from runspend.core.errors import MissingExtra

if TYPE_CHECKING:
    import pyarrow as pa

BATCH_BYTES = 8 * 2**20  # of PostgreSQL


class Connection(Protocol):
    """The interface that `database.py` needs of both."""

    def read(self, sql: str) -> Iterator[pa.RecordBatch]: ...

    def scalars(self, sql: str) -> list[Any]: ...

    def rollback(self) -> None: ...

    def close(self) -> None: ...


def load_drivers() -> tuple[type[Exception], ...]:
    """Import the drivers; return the errors that reading raises."""
    try:
        import adbc_driver_manager
        import adbc_driver_postgresql  # noqa: F401 (is it there?)
        import adbc_driver_sqlite  # noqa: F401 (is it there?)
    except ImportError as error:
        raise MissingExtra(str(error.name), "pipeline") from error
    import pyarrow as pa

    pa.scalar(0)  # Arrow imports pandas at its first Python value: do it now, while the kernel copies a SQLite file
    return OSError, pa.ArrowException, adbc_driver_manager.Error


class SqliteCopy:
    """A SQLite file that is not written to, mapped into memory. `batch_rows`: rows per batch."""

    def __init__(self, path: Path, batch_rows: int) -> None:
        import adbc_driver_manager as adbc
        import adbc_driver_sqlite as sqlite

        self._batch_rows = batch_rows
        self._database = sqlite.connect(f"file:{quote(str(path))}?mode=ro")
        self._connection = adbc.AdbcConnection(self._database)
        for pragma in ("query_only = on", "mmap_size = 2147418112", "cache_size = -32768", "temp_store = memory"):
            self.scalars(f"pragma {pragma}")

    def read(self, sql: str) -> Iterator[pa.RecordBatch]:
        import adbc_driver_manager as adbc
        import pyarrow as pa

        with closing(adbc.AdbcStatement(self._connection)) as statement:
            statement.set_options(**{"adbc.sqlite.query.batch_rows": str(self._batch_rows)})
            statement.set_sql_query(sql)
            handle, _ = statement.execute_query()
            with pa.RecordBatchReader.from_stream(handle) as reader:
                yield from reader

    def scalars(self, sql: str) -> list[Any]:
        return [value for batch in self.read(sql) for value in batch.column(0).to_pylist()]

    def rollback(self) -> None:
        """Do nothing: all queries see the same file."""

    def close(self) -> None:
        self._connection.close()
        self._database.close()


class Postgres:
    """A read-only connection with one snapshot, as set in its URI (`database.postgres_uri`)."""

    def __init__(self, uri: str) -> None:
        import adbc_driver_postgresql.dbapi as postgres

        self._connection = postgres.connect(uri)

    @contextmanager
    def _executed(self, sql: str) -> Iterator[Any]:
        with self._connection.cursor() as cursor:
            cursor.adbc_statement.set_options(**{"adbc.postgresql.batch_size_hint_bytes": str(BATCH_BYTES)})
            cursor.execute(sql)
            yield cursor

    def read(self, sql: str) -> Iterator[pa.RecordBatch]:
        with self._executed(sql) as cursor:
            yield from cursor.fetch_record_batch()

    def scalars(self, sql: str) -> list[Any]:
        with self._executed(sql) as cursor:
            return [row[0] for row in cursor.fetchall()]

    def let_scans(self, state: str) -> None:
        """Set whether the planner may scan whole tables, "on" or "off", until the snapshot ends."""
        for kind in ("seqscan", "bitmapscan"):
            with self._executed(f"set local enable_{kind} = {state}"):
                pass

    def rollback(self) -> None:
        self._connection.rollback()

    def close(self) -> None:
        self._connection.close()
