"""The warehouse in BigQuery. It has the same tables, models and checks as a folder, for data of any size.

The table `published` contains the state of every unit. It changes in the same transaction as the rows. A reader runs its queries in a
session with an open transaction, so that all answers show the same moment. `tables.py` names datasets and tables, `step.py` runs
steps, `jobs.py` runs jobs.

Source: BigQuery "Multi-statement transactions". They have snapshot isolation, and if two of them change one table, one fails.
"""

from __future__ import annotations

import copy
import tempfile
import threading
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pyarrow as pa
from sqlglot import exp

from runspend.config.exchange_rates import Stretch
from runspend.config.settings import WarehouseSettings
from runspend.core.errors import RunspendError, SqlRefused
from runspend.schema.public_views import VIEWS
from runspend.schema.tables import SCHEMA_VERSION, TABLES
from runspend.warehouse.base import ALLOCATION, Unit, UnitState
from runspend.warehouse.bigquery.exchange import in_one_currency, put_before
from runspend.warehouse.bigquery.jobs import Jobs, NotAllowed, Statement
from runspend.warehouse.bigquery.published import READING, Head, fetch_rows, head_of, published_rows, read_head, unit_rows
from runspend.warehouse.bigquery.step import BigQueryStep
from runspend.warehouse.bigquery.tables import WRITER, Places, make_tables, quoted, schema_digest
from runspend.warehouse.dialect import table_names
from runspend.warehouse.googlesql import parse
from runspend.warehouse.parquet.engine import used
from runspend.warehouse.parquet.journal import Folder
from runspend.warehouse.team_views import Restriction, restricted_sql


class BigQueryWarehouse:
    """Tables in a BigQuery dataset and the datasets that belong to it. Opening the warehouse sends no request."""

    def __init__(
        self,
        settings: WarehouseSettings,
        cache: Path | None = None,
        *,
        models: Path = ALLOCATION / "models",
        checks: Path = ALLOCATION / "checks",
    ) -> None:
        self.places = Places.parse(settings.uri)
        self.folder = Folder(cache or Path(tempfile.gettempdir()) / "runspend-bigquery")  # for files that are being loaded
        self.folder.recover()
        self.jobs = Jobs(settings, self.places.project)
        self.models = models
        self.checks = checks
        self._is_ready = False
        self._seen_by: Restriction | None = None
        self._reading = threading.local()

    def states(self, *tables: str) -> dict[Unit, UnitState]:
        """Return the published units of these tables, or of all tables if none is named. Inside a reader, return the units that it sees."""
        reader: BigQueryReader | None = getattr(self._reading, "reader", None)
        head = self.head() if reader is None else reader.head()
        return {unit: state for unit, state in head.units.items() if not tables or unit.table in tables}

    def read(self, unit: Unit) -> pa.Table | None:
        """Return the rows of one published unit in the sort order of the table, or None if the unit does not exist."""
        if unit not in self.states(unit.table):
            return None
        return self.jobs.ask(unit_rows(self.places, unit), dataset=self.places.internal, labels=READING).cast(
            TABLES[unit.table].arrow_schema()
        )

    def fetch(self, unit: Unit, folder: Path) -> Path | None:
        """Copy one published unit to a Parquet file in `folder`. Return None if the unit does not exist.

        Inside a reader, the rows are those that the reader sees. The file belongs to the caller.
        """
        if unit not in self.states(unit.table):
            return None
        reader: BigQueryReader | None = getattr(self._reading, "reader", None)
        return fetch_rows(self.jobs, self.places, unit, folder) if reader is None else reader.fetch(unit, folder)

    @contextmanager
    def reader(self) -> Iterator[BigQueryReader]:
        """Open a reader of one moment. It never shows a half-done publish, and it does not block publishers."""
        try:
            self.make_ready()
        except NotAllowed:
            if not self.head().extra:
                raise
            # The tables exist, and this user may read them but not change them to this version.
        reader = BigQueryReader(self.jobs, self.places, self._seen_by)
        outer = getattr(self._reading, "reader", None)
        self._reading.reader = reader
        try:
            yield reader
        finally:
            self._reading.reader = outer
            reader.close()

    def answer(self, sql: str, *, native: bool = False, timeout: float | None = None, at_most: int | None = None) -> pa.Table:
        """Return the rows of one user-written statement, or its first `at_most` rows.

        Raises SqlRefused if the statement is not a SELECT, or takes longer than `timeout` seconds.
        """
        with self.reader() as reader:
            return reader.answer(sql, native=native, timeout=timeout, at_most=at_most)

    @contextmanager
    def step(self, name: str, build_id: str) -> Iterator[BigQueryStep]:
        """Begin a step, which replaces units. If the context ends without `publish`, the staged rows are discarded."""
        self.make_ready()
        with self.folder.stage(name) as stage:
            step = BigQueryStep(self.jobs, self.places, name, build_id, folder=stage.path, models=self.models, checks=self.checks)
            try:
                yield step
            finally:
                step.close()

    def find_damage(
        self, units: Collection[Unit] | None = None, *, since: float | None = None, progress: Callable[[str], None] = lambda _: None
    ) -> dict[Unit, str]:
        """Return an empty mapping, because BigQuery itself stores and verifies the bytes."""
        return {}

    def without(self, units: set[Unit]) -> BigQueryWarehouse:
        """Return the warehouse itself. Callers leave out damaged units, and `find_damage` never finds any here."""
        return self

    def restricted(self, seen: Restriction) -> BigQueryWarehouse:
        """Return the same warehouse, with readers that show only the rows that some teams may see.

        It does not run user-written statements.
        """
        other = copy.copy(self)
        other._seen_by = seen
        return other

    def head(self) -> Head:
        """Return the current state of all published units (see `read_head`).

        Raises ConfigError if a newer version of Runspend wrote the warehouse.
        """
        return read_head(self.jobs, self.places)

    def cost_of(self, sql: str) -> int:
        """Return the bytes that a query would read. Uses a dry run, which costs nothing."""
        return self.jobs.bytes_of(Statement(sql), dataset=self.places.internal)[1]

    def make_ready(self) -> None:
        """Create the tables or bring them to this version, unless that is already done."""
        if not self._is_ready:
            extra = self.head().extra
            if extra.get("schema") != schema_digest():
                make_tables(self.jobs, self.places, extra.get("schema_version", SCHEMA_VERSION))
            self._is_ready = True


class BigQueryReader:
    """Read-only SQL over the published tables of one moment."""

    def __init__(self, jobs: Jobs, places: Places, seen: Restriction | None = None) -> None:
        self._jobs = jobs
        self._seen = seen  # the rows that teams may see; None: all rows
        self._places = places
        self._session: str | None = None
        self._is_over = False

    def head(self) -> Head:
        """Return the state of all published units at the reader's moment."""
        with self._moment() as session:
            rows = self._jobs.ask(published_rows(self._places), dataset=self._places.internal, labels=READING, session=session)
        return head_of(rows.to_pylist(), self._jobs.place)

    def query(self, sql: str, parameters: Mapping[str, Any] | None = None, *, native: bool = False) -> pa.Table:
        """Return the rows of one GoogleSQL statement. With `native`, Runspend does not parse the statement first.

        Money is decimal128(38, 22).
        """
        statement = self._only_reading(sql, parameters or {}, native)
        with self._moment() as session:
            return _public_columns(self._jobs.ask(statement, dataset=self._places.internal, labels=READING, session=session), sql)

    def names(self) -> dict[str, str]:
        """Return the SQL to write after FROM for each table: its quoted name, or a query for the visible rows."""
        whole = {name: quoted(self._places.table(table)) for name, table in TABLES.items()}
        if self._seen is None:
            return whole
        return {name: f"({restricted_sql(table, whole, self._seen)})" for name, table in TABLES.items()}

    def answer(self, sql: str, *, native: bool, timeout: float | None, at_most: int | None = None) -> pa.Table:
        """Return the rows of one user-written statement. BigQuery itself decides if it is a SELECT, independently of Runspend's parser."""
        if self._seen is not None:  # a statement could name a table with its dataset, and would then see all rows
            raise SqlRefused("cannot run the SQL: with BigQuery, only users who see all teams can run SQL. Nothing was run.")
        statement = self._only_reading(sql, {}, native)
        if not native:
            self._refuse_all_but_select(statement)
        with self._moment() as session:
            return _public_columns(
                self._jobs.ask(statement, dataset=self._places.internal, labels=READING, session=session, at_most=at_most, timeout=timeout),
                sql,
            )

    def batches(self, sql: str, parameters: Mapping[str, Any] | None = None, *, rows: int) -> Iterator[pa.RecordBatch]:
        """Yield the rows of a query in batches of at most `rows` rows."""
        statement = self._only_reading(sql, parameters or {}, False)
        with self._moment() as session:
            for batch in self._jobs.stream(statement, dataset=self._places.internal, labels=READING, session=session):
                shown = _public_columns(batch, sql)
                yield from (shown.slice(start, rows) for start in range(0, shown.num_rows, rows))

    def fetch(self, unit: Unit, folder: Path) -> Path:
        """Copy the rows of one unit, at the reader's moment, to a new Parquet file in `folder`."""
        with self._moment() as session:
            return fetch_rows(self._jobs, self._places, unit, folder, session=session)

    def in_currency(self, currency: str, rates: Sequence[Stretch]) -> ExchangedReader:
        """Return a reader that shows the money of the cost tables in one currency.

        Money is converted by charge date, exact to 22 decimals. Money without a rate keeps its currency.
        """
        return ExchangedReader(self, self._places, currency, rates)

    def close(self) -> None:
        """End the session. An error is ignored, because all queries are answered and sessions expire."""
        if self._session is not None:
            with suppress(RunspendError):
                self._jobs.end_session(self._session, dataset=self._places.internal, labels=READING)
            self._session = None

    @contextmanager
    def _moment(self) -> Iterator[str]:
        """Yield the id of the reader's session.

        After a failed query, the reader refuses further ones: the failure may have ended the transaction, so that later answers would show
        another moment.
        """
        if self._is_over:
            raise RunspendError(
                "cannot query: an earlier query of this reader failed, and its snapshot may have expired. Open another reader."
            )
        if self._session is None:
            self._session = self._jobs.begin_session(dataset=self._places.internal, labels=READING)
        try:
            yield self._session
        except RunspendError:
            self._is_over = True
            raise

    def _only_reading(self, sql: str, parameters: Mapping[str, Any], native: bool) -> Statement:
        if native:
            if self._seen is not None:
                raise RunspendError("cannot run native SQL: this reader shows the rows of some teams only. Use GoogleSQL.")
            return self._refuse_all_but_select(Statement(sql, parameters))
        sql = self._restricted(sql)
        tree = parse(sql)
        if not isinstance(tree, exp.Query):
            raise SqlRefused(f"cannot run {tree.key.upper()}: the warehouse is read-only here. Write a SELECT. Nothing was run.")
        return Statement(sql, used(sql, parameters))

    def _restricted(self, sql: str) -> str:
        """Return one of Runspend's own queries, changed so that it reads only the visible rows."""
        asked = table_names(sql) & {*TABLES, *VIEWS} if self._seen is not None else frozenset()
        if not asked:
            return sql
        names = self.names()
        views = [f"{name} as ({VIEWS[name].sql})" for name in sorted(asked & VIEWS.keys())]
        tables = {*(asked & TABLES.keys()), *(table for name in asked & VIEWS.keys() for table in VIEWS[name].over)}
        return put_before(sql, ", ".join([*(f"{name} as {names[name]}" for name in sorted(tables)), *views]))

    def _refuse_all_but_select(self, statement: Statement) -> Statement:
        kind, _, _ = self._jobs.bytes_of(statement, dataset=self._places.internal)
        if kind != "SELECT":
            raise SqlRefused(
                f"cannot run the SQL: the warehouse is read-only here, but the statement is of type {kind}. Write exactly one SELECT. Nothing was run."
            )
        return statement


class ExchangedReader:
    """The tables of a reader, with the money of the cost tables in one currency."""

    def __init__(self, reader: BigQueryReader, places: Places, currency: str, rates: Sequence[Stretch]) -> None:
        self._reader = reader
        self._places = places
        self._currency = currency
        self._rates = list(rates)

    def query(self, sql: str, parameters: Mapping[str, Any] | None = None, *, native: bool = False) -> pa.Table:
        """Return the rows of one GoogleSQL statement."""
        text, given = in_one_currency(sql, self._places, self._currency, self._rates, self._reader.names())
        return self._reader.query(text, {**(parameters or {}), **given}, native=native)

    def batches(self, sql: str, parameters: Mapping[str, Any] | None = None, *, rows: int) -> Iterator[pa.RecordBatch]:
        """Yield the rows of a query in batches of at most `rows` rows."""
        text, given = in_one_currency(sql, self._places, self._currency, self._rates, self._reader.names())
        yield from self._reader.batches(text, {**(parameters or {}), **given}, rows=rows)

    def in_currency(self, currency: str, rates: Sequence[Stretch]) -> ExchangedReader:
        """Return a reader that shows the money in another currency."""
        return self._reader.in_currency(currency, rates)


def _public_columns(rows: Any, sql: str) -> Any:
    """Drop the writer column, which is not in `schema/tables.py`, unless the query names it."""
    return rows.drop_columns([WRITER.name]) if WRITER.name in rows.schema.names and WRITER.name not in sql else rows
