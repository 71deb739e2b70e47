"""Open connections to MLflow's database: ADBC for the copy of a SQLite file and for PostgreSQL, PyMySQL for MySQL and MariaDB.

Belongs here: how a connection is opened and how results are read. `database.py` has the queries and interprets errors.

SQLite is read through ADBC's low-level interface. Its DB-API module imports pandas and polars if they are installed, which costs a
third of a second of CPU time. PostgreSQL needs the DB-API module, because it reports the cause of an error (`sqlstate`) and allows Ctrl-C.
ADBC has no MySQL driver on PyPI. MLflow's own documentation names PyMySQL, which is pure Python and installs wherever Python does.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol
from urllib.parse import parse_qsl, quote, unquote, urlsplit

from runspend.core.errors import MissingExtra
from runspend.ingest.tracking.dialects import MYSQL, Dialect

if TYPE_CHECKING:
    import pyarrow as pa

BATCH_BYTES = 8 * 2**20  # approximate size of a batch from PostgreSQL or MySQL
BATCH_ROWS = 2_048  # maximum rows of a batch from MySQL
# MySQL cuts the result of an aggregate at `max_allowed_packet` and gives only one of these warnings.
CUT_WARNINGS = (1260, 1301, 3903)


class Connection(Protocol):
    """The interface of all connections, as `database.py` uses it."""

    def read(self, sql: str) -> Iterator[pa.RecordBatch]: ...

    def scalars(self, sql: str) -> list[Any]: ...

    def rollback(self) -> None: ...

    def close(self) -> None: ...


def load_drivers(dialect: Dialect) -> tuple[type[Exception], ...]:
    """Import the drivers of an engine and return the exception types that they raise. Raises MissingExtra if a driver is not installed."""
    if dialect is MYSQL:
        try:
            import pymysql
        except ImportError as error:
            raise MissingExtra("pymysql", "mysql") from error
        return OSError, RuntimeError, pymysql.Error  # RuntimeError: the login method of the server needs another package
    try:
        import adbc_driver_manager
        import adbc_driver_postgresql  # noqa: F401 (checks that it is installed)
        import adbc_driver_sqlite  # noqa: F401 (checks that it is installed)
    except ImportError as error:
        raise MissingExtra(str(error.name), "pipeline") from error
    import pyarrow as pa

    pa.scalar(0)  # Arrow imports pandas when it converts the first Python value. This does it now, while a SQLite file is copied.
    return OSError, pa.ArrowException, adbc_driver_manager.Error


class SqliteCopy:
    """A read-only connection to the copy of a SQLite file, which is memory-mapped. `batch_rows`: rows per batch."""

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
        """Do nothing, because the copy never changes."""

    def close(self) -> None:
        self._connection.close()
        self._database.close()


class Postgres:
    """A read-only connection to PostgreSQL with one snapshot. The URI sets both (see `database.postgres_uri`)."""

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
        """Allow ("on") or forbid ("off") that the planner scans whole tables, until the snapshot ends."""
        for kind in ("seqscan", "bitmapscan"):
            with self._executed(f"set local enable_{kind} = {state}"):
                pass

    def rollback(self) -> None:
        self._connection.rollback()

    def close(self) -> None:
        self._connection.close()


class Mysql:
    """A read-only connection with one snapshot to MySQL or MariaDB. Rows are streamed, so a result never has to fit into memory."""

    def __init__(self, options: Mapping[str, Any], timeout_ms: int) -> None:
        self._options = options
        self._timeout_ms = timeout_ms
        self._connection: Any = self._connect()

    def _connect(self) -> Any:
        import pymysql
        from pymysql.cursors import SSCursor

        connection = pymysql.connect(**self._options, charset="utf8mb4", cursorclass=SSCursor, autocommit=True)
        is_mariadb = "mariadb" in connection.get_server_info().lower()
        seconds = self._timeout_ms / 1000
        with connection.cursor() as cursor:
            for statement in (
                "set session transaction isolation level repeatable read",
                "set session transaction read only",
                # In this mode, only quotes in a literal are escaped (by doubling them), as in the other engines.
                "set session sql_mode = 'NO_BACKSLASH_ESCAPES'",
                "set session group_concat_max_len = 4294967295",
                f"set session net_write_timeout = {int(seconds) + 1}",  # Runspend may pause reading while it writes Parquet
                f"set session max_statement_time = {seconds}" if is_mariadb else f"set session max_execution_time = {self._timeout_ms}",
                # The recursive queries produce one row per metric and step, for all metrics of a query together.
                f"set session {'max_recursive_iterations' if is_mariadb else 'cte_max_recursion_depth'} = 1000000",
            ):
                cursor.execute(statement)
            # Literals get the collation of the key column. Otherwise a comparison of keys could not use the index.
            cursor.execute(
                "select collation_name from information_schema.columns"
                " where table_schema = database() and table_name = 'metrics' and column_name = 'key'"
            )
            for [collation] in cursor.fetchall():
                cursor.execute(f"set session collation_connection = {collation}")
            cursor.execute("start transaction with consistent snapshot, read only")
        return connection

    @contextmanager
    def _executed(self, sql: str) -> Iterator[Any]:
        if self._connection is None:
            self._connection = self._connect()
        cursor = self._connection.cursor()
        try:
            cursor.execute(sql)
            yield cursor
        except BaseException:
            if cursor._result is not None:
                cursor._result.unbuffered_active = False  # otherwise PyMySQL would first read the rest of the result
            cursor.connection = None
            self.rollback()
            raise
        if cursor.warning_count:
            self._refuse_cut_rows()
        cursor.close()

    def _refuse_cut_rows(self) -> None:
        import pymysql

        with self._connection.cursor() as cursor:
            cursor.execute("show warnings")
            cut = next((text for _, code, text in cursor.fetchall() if code in CUT_WARNINGS), None)
        if cut is not None:
            raise pymysql.DataError(f"a run's tags or params are larger than the server's max_allowed_packet; raise it ({cut})")

    def read(self, sql: str) -> Iterator[pa.RecordBatch]:
        import pyarrow as pa

        with self._executed(sql) as cursor:
            names = [column[0] for column in cursor.description]
            rows: list[tuple[Any, ...]] = []
            size = 0
            for row in cursor:
                rows.append(row)
                size += sum(map(sys.getsizeof, row))
                if len(rows) == BATCH_ROWS or size > BATCH_BYTES:
                    yield pa.RecordBatch.from_arrays([pa.array(column) for column in zip(*rows, strict=True)], names)
                    rows, size = [], 0
            if rows:
                yield pa.RecordBatch.from_arrays([pa.array(column) for column in zip(*rows, strict=True)], names)

    def scalars(self, sql: str) -> list[Any]:
        with self._executed(sql) as cursor:
            return [row[0] for row in cursor.fetchall()]

    def rollback(self) -> None:
        """Close the connection, which ends its snapshot. The next query opens a new connection."""
        self.close()

    def close(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None and connection.open:
            connection.close()


def mysql_options(uri: str) -> dict[str, Any]:
    """Return PyMySQL's connection arguments for a SQLAlchemy URI. Raises ValueError if a parameter of the URI is unknown or invalid."""
    parts = urlsplit(uri)
    options: dict[str, Any] = {
        "host": parts.hostname or "localhost",
        "port": parts.port or 3306,
        "user": unquote(parts.username or "") or None,
        "password": unquote(parts.password or ""),
        "database": unquote(parts.path.removeprefix("/")),
        "connect_timeout": 10,
        "program_name": "runspend",
    }
    for name, value in parse_qsl(parts.query, keep_blank_values=True):
        if name == "charset":  # always utf8mb4
            continue
        if name not in _MYSQL_PARAMETERS:
            raise ValueError(f"`{name}` in its URI is unknown. Allowed parameters are {', '.join(sorted(_MYSQL_PARAMETERS))}")
        try:
            options[name] = _MYSQL_PARAMETERS[name](value)
        except ValueError:
            raise ValueError(f"`{name}` in its URI is {value!r}, which is not {_MYSQL_PARAMETERS[name].__doc__}") from None
    return options


def _yes_or_no(text: str) -> bool:
    """true or false"""
    found = {"true": True, "1": True, "yes": True, "false": False, "0": False, "no": False}.get(text.lower())
    if found is None:
        raise ValueError(text)
    return found


def _whole_number(text: str) -> int:
    """a whole number"""
    return int(text)


_MYSQL_PARAMETERS: dict[str, Callable[[str], Any]] = {
    **dict.fromkeys(("unix_socket", "ssl_ca", "ssl_cert", "ssl_key"), str),
    **dict.fromkeys(("ssl_verify_cert", "ssl_verify_identity", "ssl_disabled"), _yes_or_no),
    **dict.fromkeys(("connect_timeout", "read_timeout"), _whole_number),
}
