"""Read MLflow's database (a copy of a SQLite file, PostgreSQL or MySQL) read-only, in one snapshot.

Belongs here: how rows are fetched, and three guards. Only known schema revisions are read. `latest_metrics` is searched only by run.
`metrics` is searched only by run, key and step. Every engine returns a run as one row, with its wanted tags as one JSON object and its
wanted params as another. Only keys that at least one run has are requested. `dialects` contains the differences between the engines.
`runs.sql` defines what the rows mean.
"""

from __future__ import annotations

import os
import sqlite3
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import replace
from itertools import islice
from pathlib import Path
from queue import SimpleQueue
from types import TracebackType
from typing import TYPE_CHECKING, Any, TypeVar
from urllib.parse import parse_qsl, quote, unquote, urlencode, urlsplit, urlunsplit

from runspend.config.settings import TrackingServer
from runspend.core import machine_tags
from runspend.core.errors import ConfigError, SourceError, SourceRefused, SourceUnreachable
from runspend.core.machine_faults import cannot_be_written
from runspend.core.redaction import redact_error, uri_secrets
from runspend.ingest.tracking import raw, revisions
from runspend.ingest.tracking.connections import Connection, Mysql, Postgres, SqliteCopy, load_drivers, mysql_options
from runspend.ingest.tracking.dialects import (
    MYSQL,
    MYSQL_MAP,
    POSTGRES,
    POSTGRES_MAP,
    SQLITE,
    SQLITE_MAP,
    SQLITE_USE_KEYS,
    dialect_of,
    is_database_uri,
    literal,
)
from runspend.ingest.tracking.links_database import DatabaseLinks

if TYPE_CHECKING:
    import pyarrow as pa

Looked = TypeVar("Looked", raw.UseKey, raw.StepRange)

USE_KEYS_PER_QUERY = 200
POINTS_PER_QUERY = 500_000
CHUNK_ROWS = 4_096  # runs per query of a SQLite copy: two full vectors of DuckDB
READERS = 2  # concurrent queries of a SQLite copy: building the JSON objects is the slowest part of an extract
STATEMENT_TIMEOUT_MS = 600_000
PIECE_BYTES = 2**23, 2**27  # first and largest size of one copy call; after each call, the copy waits for the interpreter
COPY_BYTES = 2**18  # fits into the processor's cache, which makes it four times as fast as 4 MB
LOCK_SECONDS = 1.0  # a waiting writer is blocked no longer than about this; MLflow's writers wait for 5 s
STEP_PAGES = 25_000
COPY_SECONDS = 900
COPY = "mlflow-copy.db"
TABLE_CHANGED = 1412  # MySQL's error number if a table was altered after the snapshot began
# A PostgreSQL replica may cancel a reader (40001, or 57014 "conflict with recovery"). Reading again in a new snapshot usually succeeds.
RETRIES = 3

INDEXES = {"tags": "run_uuid", "params": "run_uuid", "latest_metrics": "run_uuid"}

MODELS = """
select 'logged_model', cast(model_id as {text}), coalesce(cast(experiment_id as {text}), ''), cast(artifact_location as {text}) from logged_models
where artifact_location <> ''
"""
TRACES = """
select 'trace', cast(i.request_id as {text}), coalesce(cast(i.experiment_id as {text}), ''), cast(t.value as {text})
from trace_info i join trace_tags t on t.request_id = i.request_id
where {t_key} = 'mlflow.artifactLocation' and t.value <> ''
"""

# Some clients write a trace's user to a tag, others to its metadata. -1 and '' replace null, because SQLite's driver infers column types
# from the first rows.
TRACE_COSTS = """
select cast(i.request_id as {text}), coalesce(cast(i.experiment_id as {text}), ''),
       coalesce((select cast(m.value as {text}) from trace_request_metadata m where m.request_id = i.request_id and {m_key} = 'mlflow.sourceRun'), ''),
       coalesce((select cast(m.value as {text}) from trace_request_metadata m where m.request_id = i.request_id and {m_key} = 'mlflow.trace.user'), ''),
       coalesce((select cast(m.value as {text}) from trace_request_metadata m where m.request_id = i.request_id and {m_key} = 'mlflow.user'),
                (select cast(t.value as {text}) from trace_tags t where t.request_id = i.request_id and {t_key} = 'mlflow.user'), ''),
       cast(coalesce(i.timestamp_ms, 0) as {integer}), cast(coalesce(i.input_tokens, -1) as {integer}),
       cast(coalesce(i.output_tokens, -1) as {integer}),
       cast(i.total_cost as {real})
from trace_info i where {wanted} {months}
"""
SPAN_COSTS = """
select cast(s.trace_id as {text}), cast(s.span_id as {text}), coalesce(cast(s.parent_span_id as {text}), ''), coalesce(cast(s.model_name as {text}), ''),
       coalesce(cast(s.model_provider as {text}), ''), {usage}, cast(coalesce(s.total_cost, -1) as {real})
from trace_info i join spans s on s.trace_id = i.request_id where {wanted} {months}
"""


class SnapshotLost(SourceUnreachable):
    """The database ended the snapshot while it was read. Reading again from the start usually succeeds."""


class DatabaseReader:
    """Read MLflow's rows from one snapshot of its database. Leaving the context ends the snapshot and deletes the copy of a SQLite file."""

    def __init__(self, server: TrackingServer, uri: str, workdir: Path, progress: Callable[[str], None]) -> None:
        self.name = server.name
        self.only_workspaces = None if server.workspaces in (None, "all") else list(server.workspaces)
        self._prices_tokens = server.token_prices is not None
        self.warnings: list[str] = []
        self.repaired = 0
        self.version = ""
        self.revision = ""
        self._secrets = uri_secrets(uri)
        self._uri = uri
        self._workdir = workdir
        self._progress = progress
        self._copy: Path | None = None
        self.dialect = dialect_of(uri)
        self._connection: Connection | None = None
        self.links = DatabaseLinks(self, server)
        self._failures: tuple[type[Exception], ...] = (OSError,)

    def __enter__(self) -> DatabaseReader:
        try:
            self._open()
            self.revision = self._check_revision()
        except BaseException:
            self._close()
            raise
        self.version = f"revision {self.revision}"
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._close()

    def _open(self) -> None:
        with ThreadPoolExecutor(1) as beside:  # the operating system copies the file while Python imports the drivers
            if self.dialect is SQLITE:
                self._copy = self._workdir / COPY
                copying = beside.submit(copy_sqlite, self.name, sqlite_path(self._uri), self._copy, self._progress)
            self._failures = load_drivers(self.dialect)
        if self.dialect is SQLITE:
            copying.result()
            self._connection = self._connect_copy()
        else:
            self._connection = self._connect_server()

    def _connect_server(self) -> Connection:
        try:
            return open_server(self._uri)
        except self._failures as error:
            raise SourceUnreachable(
                self.name,
                f"cannot open the database of {self.name}: {redact_error(error, self._secrets)}. Check `database` in runspend.yaml.",
            ) from None

    def _connect_copy(self) -> Connection:
        assert self._copy is not None
        return SqliteCopy(self._copy, CHUNK_ROWS)

    def _close(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None
        if self._copy is not None:
            remove_copy(self._copy)

    def _check_revision(self) -> str:
        """Return the schema revision of the database. Raises SourceRefused unless it has exactly one revision, and Runspend supports it."""
        try:
            found = sorted(str(r) for r in self._scalars(f"select cast(version_num as {self.dialect.text}) from alembic_version"))
        except SourceError:
            raise SourceRefused(
                self.name,
                f"cannot read the database of {self.name}: it has no table alembic_version, so it is not MLflow's. Check `database` in runspend.yaml.",
            ) from None
        supported = revisions.REVISIONS[revisions.REVISIONS.index(revisions.OLDEST_SUPPORTED) :]
        if len(found) == 1 and found[0] in supported:
            return found[0]
        shown = " and ".join(found) if found else "none"
        raise SourceRefused(
            self.name,
            f"cannot read the database of {self.name}: its schema revision is {shown}, and Runspend knows {revisions.describe_range()}. Nothing was read. "
            "Set `via: api` for this server, or upgrade MLflow or Runspend, whichever is older.",
        )

    def read_experiments(self) -> pa.Table:
        has_workspaces = revisions.is_at_least(self.revision, revisions.WORKSPACES_SINCE)
        sql = self.dialect.sql("experiments").format(
            workspace=f"cast(e.workspace as {self.dialect.text})" if has_workspaces else "'default'"
        )
        schema = raw.raw_schema(raw.EXPERIMENT_TEXT, raw.EXPERIMENT_TIMES)
        table = raw.to_table(self.batches(sql, schema), schema)
        if self.only_workspaces is not None:
            import pyarrow as pa
            import pyarrow.compute as pc

            table = table.filter(pc.is_in(table["workspace"], value_set=pa.array(self.only_workspaces, pa.string())))
        return table

    def list_months(self) -> list[str]:
        day = self.dialect.day.format("coalesce(start_time, 0)")
        days = self._scalars(f"select distinct cast({day} as {self.dialect.integer}) from runs")
        return sorted({raw.month_of(int(d) * 86_400_000 + 1 if d else 0) for d in days})

    def count_runs(self) -> int:
        return int(self._scalars(f"select cast(count(*) as {self.dialect.integer}) from runs")[0])

    def narrow_keys(self, wanted: raw.Keys) -> raw.Keys:
        """Return those of the wanted keys that at least one run has, with one index search per key."""
        return replace(
            wanted,
            tags=self._present("tags", wanted.tags),
            params=self._present("params", wanted.params),
            has_further_machines=bool(self._present("tags", [machine_tags.SEVERAL])),
        )

    def _present(self, table: str, keys: Sequence[str] | None) -> Sequence[str] | None:
        if not keys:
            return keys
        listed = self.dialect.listed([(literal(key),) for key in keys])
        found = self._scalars(
            f"select cast(w.column1 as {self.dialect.text}) from {listed} w where exists (select 1 from {table} t where t.key = w.column1)"
        )
        return [key for key in keys if key in set(found)]

    def read_runs(self, months: Sequence[str] | None, keys: raw.Keys) -> Iterator[pa.RecordBatch]:
        where = "" if months is None else "where " + (" or ".join(_month_condition(m) for m in months) or "false")
        schema = raw.run_schema()
        times = {"long_ms": raw.LONG_MS, "step_keys": raw.STEP_KEYS, "believed_ms": keys.believed_ms}
        if self.dialect is MYSQL:
            maps = {
                t: "'{}'"
                if k is not None and not k and not has_further
                else MYSQL_MAP.format(table=t, among=self._among("t.key", k, has_further))
                for t, k in keys.by_table()
                for has_further in [t == "tags" and keys.has_further_machines]
            }
            kinds = " or ".join(f"{MYSQL.exact.format('m.key')} like 'system/%{kind}'" for kind in raw.use_kinds(keys))
            within = where.replace("where", "and (", 1) + ")" if where else ""
            runs = MYSQL.sql("runs").format(
                within=within, is_from_run=MYSQL.from_run, kinds=kinds, between=raw.BETWEEN, after=raw.AFTER, **times, **maps
            )
            yield from self.batches(runs, schema)
            return
        if self.dialect is POSTGRES:
            only_chosen = "and run_uuid in (select run_uuid from chosen)" if where else ""
            maps = {
                t: POSTGRES_MAP.format(
                    table=t, among=self._among("key", k, t == "tags" and keys.has_further_machines), only_chosen=only_chosen
                )
                for t, k in keys.by_table()
            }
            kinds = " or ".join(f"key like 'system/%{kind}'" for kind in raw.use_kinds(keys))
            yield from self.batches(
                POSTGRES.sql("runs").format(
                    where=where, is_from_run=POSTGRES.from_run, only_chosen=only_chosen, kinds=kinds, **times, **maps
                ),
                schema,
            )
            return
        further = {"tags"} if keys.has_further_machines else set()
        maps = {
            t: "'{}'"
            if k is not None and not k and t not in further
            else SQLITE_MAP.format(table=t, among=self._among("+t.key", k, t in further))
            for t, k in keys.by_table()
        }
        [has_use] = self._scalars("select exists (select 1 from latest_metrics where key >= 'system/' and key < 'system0')")
        kinds = " or ".join(f"m.key glob 'system/*{kind}'" for kind in raw.use_kinds(keys))
        runs = SQLITE.sql("runs").format(
            is_from_run=SQLITE.from_run,
            **maps,
            **times,
            between=raw.BETWEEN,
            after=raw.AFTER,
            use_keys=SQLITE_USE_KEYS.format(kinds=kinds) if has_use else "''",
        )
        first, last = (int(self._scalars(f"select coalesce({f}(rowid), 0) from runs")[0]) for f in ("min", "max"))
        step = max(CHUNK_ROWS, (last - first) // 10_000)
        chunks = (
            f"{runs} where r.rowid >= {start} and r.rowid < {start + step} {where.replace('where', 'and (', 1) + ')' if where else ''}"
            for start in range(first, last + 1, step)
        )
        yield from self._read_side_by_side(chunks, schema)

    def read_use(self, wanted: Sequence[raw.UseKey]) -> Iterator[pa.RecordBatch]:
        """Yield the chosen points of utilization metrics, by the index on run, key and step. A database without it yields nothing."""
        return self.read_points(wanted, raw.use_schema(), logged_ms="", most=100)

    def read_power(self, wanted: Sequence[raw.UseKey]) -> Iterator[pa.RecordBatch]:
        """Yield the chosen points of power metrics with their times. Add a warning if the database lacks the index for them."""
        if wanted and not revisions.is_at_least(self.revision, revisions.METRIC_INDEX_SINCE):
            self.warnings.append(
                f"{self.name}: power that runs measured cannot be read from a database older than revision {revisions.METRIC_INDEX_SINCE}: "
                "its metrics have no index. `idle_watts` is used for those hours. Run `mlflow db upgrade`, or set `via: api`."
            )
        logged_ms = f"cast(m.timestamp as {self.dialect.integer}),"
        return self.read_points(wanted, raw.power_schema(), logged_ms=logged_ms, most=raw.LARGEST_WATTS)

    def read_points(
        self, wanted: Sequence[raw.UseKey], schema: pa.Schema, *, logged_ms: str, least: float = 0, most: float
    ) -> Iterator[pa.RecordBatch]:
        """Yield points of metrics whose values are between `least` and `most`, each found by an index search.

        A database without the index on run, key and step yields nothing. `logged_ms` is SQL of the columns before the value.
        """
        if not revisions.is_at_least(self.revision, revisions.METRIC_INDEX_SINCE):
            return
        if wanted and isinstance(self._connection, Postgres):  # even if its planner prefers scans for a small or never analyzed table
            self._connection.let_scans("off")
        for part in _parts(wanted):
            listed = self.dialect.listed([(literal(u.run_id), literal(u.key), str(u.last_step), str(u.stride)) for u in part])
            yield from self.batches(self.dialect.sql("points").format(listed=listed, logged_ms=logged_ms, least=least, most=most), schema)
        if wanted and isinstance(self._connection, Postgres):
            self._connection.let_scans("on")

    def read_times(self, wanted: Sequence[raw.StepRange]) -> Iterator[pa.RecordBatch]:
        """Yield the times at which metrics were logged at the chosen steps, by the index on run, key and step.

        A database without that index yields nothing.
        """
        if not wanted or not revisions.is_at_least(self.revision, revisions.METRIC_INDEX_SINCE):
            return
        if isinstance(self._connection, Postgres):  # even if its planner prefers scans for a small or never analyzed table
            self._connection.let_scans("off")
        for part in _parts(wanted):
            listed = self.dialect.listed(
                [(literal(w.run_id), literal(w.key), str(w.first_step), str(w.last_step), str(w.stride)) for w in part]
            )
            yield from self.batches(self.dialect.sql("times").format(listed=listed), raw.time_schema())
        if isinstance(self._connection, Postgres):
            self._connection.let_scans("on")

    def _among(self, column: str, keys: Sequence[str] | None, has_further: bool) -> str:
        """Return SQL that restricts `column` to the wanted keys. If `has_further` is set, the keys of further machines are included."""
        if keys is None:
            return ""
        wanted = [self.dialect.among(column, keys)] if keys else []
        if has_further:
            wanted.append(f"{self.dialect.exact.format(column)} like '{machine_tags.FURTHER}%'")
        return f"and ({' or '.join(wanted) or 'false'})"

    def _read_side_by_side(self, queries: Iterator[str], schema: pa.Schema) -> Iterator[pa.RecordBatch]:
        """Yield the batches of many queries of the copy, in the order of the queries. A few queries run ahead on their own connections."""
        free: SimpleQueue[Connection] = SimpleQueue()
        connections = [self._connect_copy() for _ in range(READERS)]
        for connection in connections:
            free.put(connection)

        def read(sql: str) -> list[pa.RecordBatch]:
            connection = free.get()
            try:
                return list(self.batches(sql, schema, connection))
            finally:
                free.put(connection)

        pool = ThreadPoolExecutor(READERS)
        try:
            ahead = deque(pool.submit(read, sql) for sql in islice(queries, READERS + 1))
            while ahead:
                batches = ahead.popleft().result()
                ahead.extend(pool.submit(read, sql) for sql in islice(queries, 1))
                yield from batches
        finally:
            pool.shutdown(cancel_futures=True)
            for connection in connections:
                connection.close()

    def read_owners(self) -> pa.Table:
        schema = raw.raw_schema(raw.OWNER_TEXT)
        batches: list[pa.RecordBatch] = []
        if revisions.is_at_least(self.revision, revisions.LOGGED_MODELS_SINCE):
            batches += self.batches(self.fill(MODELS), schema)
        if revisions.is_at_least(self.revision, revisions.TRACES_SINCE):
            batches += self.batches(self.fill(TRACES), schema)
        return raw.to_table(batches, schema)

    def list_trace_months(self) -> list[str]:
        if not revisions.is_at_least(self.revision, revisions.TRACE_COSTS_SINCE):
            return []
        day = self.dialect.day.format("timestamp_ms")
        wanted = self._token_columns()["wanted"]
        days = self._scalars(f"select distinct cast({day} as {self.dialect.integer}) from trace_info i where {wanted}")
        return sorted({raw.month_of(int(d) * 86_400_000 + 1) for d in days})

    def _token_columns(self) -> dict[str, str]:
        """Return SQL that selects the wanted traces, and SQL of the span's token usage, which is empty unless tokens are priced."""
        if not self._prices_tokens:
            return {"wanted": "i.total_cost is not null", "usage": "''"}
        usage = f"case when s.content like '%mlflow.chat.tokenUsage%' then {self.dialect.token_usage} end"
        return {
            "wanted": "(i.total_cost is not null or i.input_tokens > 0 or i.output_tokens > 0)",
            "usage": self.fill(f"coalesce(cast({usage} as {{text}}), '')"),
        }

    def read_traces(self, months: Sequence[str]) -> tuple[pa.Table, pa.Table]:
        bounds = [raw.month_bounds(month) for month in months]
        within = " or ".join(f"(i.timestamp_ms >= {first} and i.timestamp_ms < {after})" for first, after in bounds)
        condition = f"and ({within or 'false'})"
        tables = []
        for sql, schema in ((TRACE_COSTS, raw.trace_schema()), (SPAN_COSTS, raw.span_schema())):
            tables.append(
                raw.to_table(self.batches(self.fill(sql, months=condition, **self._token_columns()), schema) if months else (), schema)
            )
        return tables[0], tables[1]

    def fill(self, sql: str, **parts: str) -> str:
        """Return a query that all engines share, with the SQL types and operators of this engine."""
        words = self.dialect
        exact = {"m_key": words.exact.format("m.key"), "t_key": words.exact.format("t.key")}
        return sql.format(text=words.text, real=words.real, integer=words.integer, **exact, **parts)

    def batches(self, sql: str, schema: pa.Schema, connection: Connection | None = None) -> Iterator[pa.RecordBatch]:
        asked = connection or self._opened()
        try:
            for batch in asked.read(sql):
                if batch.num_rows:
                    clean, repaired = raw.to_batch(batch.columns, schema)
                    self.repaired += repaired
                    yield clean
        except self._failures as error:
            raise self._failed(asked, error) from None

    def _scalars(self, sql: str) -> list[Any]:
        asked = self._opened()
        try:
            return asked.scalars(sql)
        except self._failures as error:
            raise self._failed(asked, error) from None

    def _failed(self, asked: Connection, error: BaseException) -> SourceUnreachable:
        """End the snapshot and return the error to raise. The next query begins a new snapshot."""
        with suppress(*self._failures):  # the connection may already be lost
            asked.rollback()
        return self._unreadable(error)

    def _opened(self) -> Connection:
        assert self._connection is not None, "entered"
        return self._connection

    def _unreadable(self, error: BaseException) -> SourceUnreachable:
        state = getattr(error, "sqlstate", None)
        is_lost = state == "40001" or (state == "57014" and "recovery" in str(error)) or error.args[:1] == (TABLE_CHANGED,)
        kind = SnapshotLost if is_lost else SourceUnreachable
        return kind(self.name, f"cannot read the database of {self.name}: {redact_error(error, self._secrets)}.")


def _parts(wanted: Sequence[Looked]) -> Iterator[list[Looked]]:
    """Split the metrics into one list per query: at most USE_KEYS_PER_QUERY metrics, and about POINTS_PER_QUERY points at most.

    With more points, a query could exceed the statement timeout.
    """
    part: list[Looked] = []
    points = 0
    for metric in wanted:
        if part and (len(part) == USE_KEYS_PER_QUERY or points + metric.points > POINTS_PER_QUERY):
            yield part
            part, points = [], 0
        part.append(metric)
        points += metric.points
    if part:
        yield part


def _month_condition(month: str) -> str:
    first, after = raw.month_bounds(month)
    if month == raw.NO_START:
        return f"(r.start_time is null or r.start_time < {after} or r.start_time >= {raw.LAST_MS})"
    return f"(r.start_time >= {first} and r.start_time < {after})"


def sqlite_path(uri: str) -> Path:
    """Return the file of a `sqlite:///relative` or `sqlite:////absolute` URI."""
    text = uri.split(":///", 1)[-1].split("?", 1)[0]
    return Path(text) if Path(text).exists() else Path(unquote(text))


def postgres_uri(uri: str) -> str:
    """Return the URI for libpq: without SQLAlchemy's driver name, with read-only transactions, one snapshot and a statement timeout."""
    parts = urlsplit(uri)
    query = dict(parse_qsl(parts.query, keep_blank_values=True))
    ours = f"-c default_transaction_read_only=on -c default_transaction_isolation=repeatable\\ read -c statement_timeout={STATEMENT_TIMEOUT_MS}"
    query["options"] = f"{query['options']} {ours}" if query.get("options") else ours
    query = {"connect_timeout": "10", "application_name": "runspend", **query}
    return urlunsplit(("postgresql", parts.netloc, parts.path, urlencode(query, quote_via=quote), ""))


def open_server(uri: str) -> Connection:
    """Open a PostgreSQL or MySQL database read-only, in one snapshot. Errors of the driver are raised unchanged."""
    return Mysql(mysql_options(uri), STATEMENT_TIMEOUT_MS) if dialect_of(uri) is MYSQL else Postgres(postgres_uri(uri))


def copy_sqlite(name: str, path: Path, target: Path, progress: Callable[[str], None]) -> None:
    """Copy a SQLite database to `target`, because a reader that holds a snapshot of the original would block MLflow's writers.

    Python's SQLite and ADBC's SQLite are two builds in one process that do not see each other's locks. So only this function opens the
    original, and ADBC opens the copy only after this function has returned. Raises SourceUnreachable if the database cannot be copied.
    """
    if not path.is_file():
        raise SourceUnreachable(
            name, f"cannot read the database of {name}: {path} does not exist. Check `uri` or `database` in runspend.yaml."
        )
    remove_copy(target)
    started = time.monotonic()
    last = 0.0

    def watch(status: int, remaining: int, total: int) -> None:
        nonlocal last
        if time.monotonic() - started > COPY_SECONDS:
            raise TimeoutError(f"MLflow wrote without pause for {COPY_SECONDS} s")
        if total and time.monotonic() - last > 1:
            last = time.monotonic()
            progress(f"{name}: copying the database, {100 * (total - remaining) // total}%")

    source = copy = None
    try:
        source = sqlite3.connect(f"file:{quote(str(path.resolve()))}?mode=ro", uri=True, timeout=30, isolation_level=None)
        is_copied = _copy_locked(source, path, target)
        if not is_copied:
            remove_copy(target)
        copy = sqlite3.connect(target, isolation_level=None)
        copy.execute("pragma synchronous = off")
        if not is_copied:
            source.backup(copy, pages=STEP_PAGES, progress=watch, sleep=0.05)
        copy.execute("pragma journal_mode = delete")
        _add_indexes(copy)
    except (sqlite3.Error, OSError) as error:
        remove_copy(target)
        if cannot_be_written(error):
            raise
        raise SourceUnreachable(name, f"cannot copy the database of {name} ({path}): {error}.") from None
    finally:
        for connection in (source, copy):
            if connection is not None:
                connection.close()


def _copy_piece(original: int, copy: int, at: int, most: int) -> int:
    """Copy at most `most` bytes from and to the offset `at`, and return the number of copied bytes.

    If possible, the operating system copies the bytes itself. Copying in Python would compete with the import of the drivers, which
    keeps the interpreter busy at the same time.
    """
    try:
        if size := os.copy_file_range(original, copy, most, at, at):
            return size
    except (AttributeError, OSError):  # the operating system does not support it, or the files are on two file systems
        pass
    return os.pwrite(copy, os.pread(original, COPY_BYTES, at), at)


def _copy_locked(source: sqlite3.Connection, path: Path, target: Path) -> bool:
    """Copy the bytes of the file while SQLite's shared lock blocks writers. This is three times as fast as SQLite's backup.

    Returns False if SQLite's backup has to copy in steps instead. That is the case if copying takes long while a writer is waiting (its
    journal exists). It is also the case in WAL mode, where this lock does not stop pages from being moved into the file. Closing any
    descriptor of the file would release the process's POSIX locks on it, so the file stays open while the lock is needed.
    """
    source.execute("begin")
    try:
        source.execute("select count(*) from sqlite_master").fetchone()  # takes the lock; raises an error if a crash left a journal
        if source.execute("pragma journal_mode").fetchone()[0] == "wal":
            return False
        until = time.monotonic() + LOCK_SECONDS
        journal = path.with_name(path.name + "-journal")
        with path.open("rb", buffering=0) as original, target.open("wb", buffering=0) as copy:
            at, most, began = 0, PIECE_BYTES[0], time.monotonic()
            while size := _copy_piece(original.fileno(), copy.fileno(), at, most):
                at, now = at + size, time.monotonic()
                if now > until and journal.exists():
                    return False
                most = min(2 * most, PIECE_BYTES[1]) if now - began < LOCK_SECONDS / 4 else PIECE_BYTES[0]  # slow disk: small pieces
                began = now
        return True
    finally:
        source.execute("rollback")


def _add_indexes(copy: sqlite3.Connection) -> None:
    """Add to the copy the indexes that MLflow itself has had since 3.2. Without them, each run would scan whole tables."""
    tables = {row[0] for row in copy.execute("select name from sqlite_master where type = 'table'")}
    for table, column in INDEXES.items():
        indexed = any(
            copy.execute("select name from pragma_index_info(?) where seqno = 0 and name = ?", (index[1], column)).fetchone()
            for index in copy.execute(f"pragma index_list({table})").fetchall()
        )
        if table in tables and not indexed:
            copy.execute(f"create index runspend_{table} on {table}({column})")


def remove_copy(target: Path) -> None:
    for leftover in (target, *(target.with_name(target.name + end) for end in ("-journal", "-wal", "-shm"))):
        leftover.unlink(missing_ok=True)


def database_uri(server: TrackingServer) -> str | None:
    """Return the URI of the database to read the server from, or None to use the API. Raises ConfigError for an unsupported URI."""
    if server.via == "api":
        return None
    uri = server.database.get_secret_value() if server.database else server.uri
    if is_database_uri(uri):
        if dialect_of(uri) is MYSQL:
            try:
                mysql_options(uri)
            except ValueError as error:
                raise ConfigError(f"cannot read the database of {server.name}: {error}.") from None
        return uri
    if server.via == "database" or server.database:
        scheme = uri.split(":", 1)[0]
        raise ConfigError(
            f"cannot read the database of {server.name}: {scheme} databases are not supported, only sqlite:///, postgresql://, mysql:// and mariadb://. "
            "Leave `database` out and set `via: api`."
        )
    return None
