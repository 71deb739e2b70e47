"""The warehouse in BigQuery: the same tables, models and checks, at any size.

Rows are read back for reports, for comparisons by the extract, and to move them elsewhere. `published` holds the state of every unit,
and is replaced in the same transaction as the rows. A reader queries inside a session with an open transaction, so that all its
answers are of one moment. `tables.py` names datasets and tables, `step.py` runs steps, `jobs.py` runs jobs.

Source: BigQuery "Multi-statement transactions": snapshot isolation; of two transactions that change one table, one fails.
"""

from __future__ import annotations

import json
import tempfile
import threading
import uuid
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from sqlglot import exp

from runspend.config.exchange_rates import Stretch
from runspend.config.settings import WarehouseSettings
from runspend.core.errors import ConfigError, RunspendError, SqlRefused
from runspend.schema.tables import SCHEMA_VERSION, TABLES
from runspend.warehouse import Unit, UnitState
from runspend.warehouse.bigquery.exchange import in_one_currency
from runspend.warehouse.bigquery.jobs import Jobs, NotAllowed, NotThere, Statement
from runspend.warehouse.bigquery.step import BigQueryStep
from runspend.warehouse.bigquery.tables import PUBLISHED, WRITER, Places, column_names, make_tables, quoted, schema_digest
from runspend.warehouse.bigquery.units import rows_of
from runspend.warehouse.googlesql import parse
from runspend.warehouse.parquet.engine import used
from runspend.warehouse.parquet.journal import Folder

__all__ = ["BigQueryReader", "BigQueryWarehouse", "Head"]

ALLOCATION = Path(__file__).parents[2] / "allocation"  # models and checks that run here
READING = {"step": "read"}
PAGE = 50_000  # rows of `published` per request


@dataclass(frozen=True)
class Head:
    """The content of `published` at one moment. `number` counts the publishes so far."""

    number: int
    extra: Mapping[str, Any]
    units: Mapping[Unit, UnitState]
    publish_ids: Mapping[Unit, str]


class BigQueryWarehouse:
    """Tables in a dataset and its related datasets. Opening it contacts no service."""

    def __init__(
        self, settings: WarehouseSettings, cache: Path | None = None, *, models: Path = ALLOCATION / "models", checks: Path = ALLOCATION / "checks"
    ) -> None:
        self.places = Places.parse(settings.uri)
        self.folder = Folder(cache or Path(tempfile.gettempdir()) / "runspend-bigquery")  # files being loaded; a sweep removes old ones
        self.folder.recover()
        self.jobs = Jobs(settings, self.places.project)
        self.models = models
        self.checks = checks
        self._is_ready = False
        self._reading = threading.local()

    def states(self, *tables: str) -> dict[Unit, UnitState]:
        """Return published units of these tables (all tables when none is named); inside a reader, those that it sees."""
        reader: BigQueryReader | None = getattr(self._reading, "reader", None)
        head = self.head() if reader is None else reader.head()
        return {unit: state for unit, state in head.units.items() if not tables or unit.table in tables}

    def read(self, unit: Unit) -> pa.Table | None:
        """Return the rows of one published unit, in the table's order; None if it does not exist."""
        if unit not in self.states(unit.table):
            return None
        return self.jobs.ask(self._rows_of(unit), dataset=self.places.internal, labels=READING).cast(TABLES[unit.table].arrow_schema())

    def fetch(self, unit: Unit, folder: Path) -> Path | None:
        """Copy one published unit to a Parquet file in `folder`; None if it does not exist. The caller keeps the file."""
        if unit not in self.states(unit.table):
            return None
        own, schema = folder / f"{uuid.uuid4().hex}.parquet", TABLES[unit.table].arrow_schema()
        with pq.ParquetWriter(own, schema, compression="zstd") as file:
            for batch in self.jobs.stream(self._rows_of(unit), dataset=self.places.internal, labels=READING):
                file.write_table(pa.Table.from_batches([batch]).cast(schema))
        return own

    def _rows_of(self, unit: Unit) -> Statement:
        table = TABLES[unit.table]
        where, parameters = rows_of(unit)
        order = f" order by {', '.join(table.sort)}" if table.sort else ""
        return Statement(f"select {column_names(table)} from {quoted(self.places.table(table))} where {where}{order}", parameters)

    @contextmanager
    def reader(self) -> Iterator[BigQueryReader]:
        """Open one consistent view: a half-done publish is never visible. It does not block publishers."""
        try:
            self.make_ready()
        except NotAllowed:
            if not self.head().extra:
                raise  # else the user may only read tables of another version
        reader = BigQueryReader(self)
        outer = getattr(self._reading, "reader", None)
        self._reading.reader = reader
        try:
            yield reader
        finally:
            self._reading.reader = outer
            reader.close()

    def answer(self, sql: str, *, native: bool = False, timeout: float | None = None) -> pa.Table:
        """Return the rows of one user-written statement. Only a SELECT runs, for at most `timeout` seconds."""
        with self.reader() as reader:
            return reader.answer(sql, native=native, timeout=timeout)

    @contextmanager
    def step(self, name: str, build_id: str) -> Iterator[BigQueryStep]:
        """Begin replacing units. Leaving without `publish` discards the staged rows."""
        self.make_ready()
        with self.folder.stage(name) as stage:
            step = BigQueryStep(self, name, build_id, stage.path)
            try:
                yield step
            finally:
                step.close()

    def find_damage(self, units: Collection[Unit] | None = None, *, since: float | None = None, progress: Callable[[str], None] = lambda _: None) -> dict[Unit, str]:
        """Return nothing: BigQuery stores and verifies the bytes itself."""
        return {}

    def without(self, units: set[Unit]) -> BigQueryWarehouse:
        """Return the warehouse itself: no unit is ever found damaged."""
        return self

    def head(self) -> Head:
        """Return what is published now: one free read of a small table. Refuses a warehouse newer than this version."""
        try:
            with self.jobs.words():
                pages = iter(self.jobs.client.list_rows(self.places.published, page_size=PAGE).pages)
                rows = [dict(row.items()) for row in next(pages, ())]
                is_more = next(pages, None) is not None
        except NotThere:
            return self.read_head([])
        except NotAllowed as error:
            if "may not exist" not in str(error) or self._is_there():
                raise
            return self.read_head([])
        if is_more:  # pages may be of different moments
            rows = self.jobs.ask(self.published_rows(), dataset=self.places.internal, labels=READING).to_pylist()
        return self.read_head(rows)

    def published_rows(self) -> Statement:
        """Return the query for the state of all units."""
        return Statement(f"select {column_names(PUBLISHED)} from {quoted(self.places.published)}")

    def _is_there(self) -> bool:
        """Whether the project has the dataset, for accounts that may not get it by name before it exists."""
        internal = self.places.internal.rpartition(".")[2]
        with self.jobs.words():
            return any(item.dataset_id == internal for item in self.jobs.client.list_datasets())

    def read_head(self, rows: Sequence[Mapping[str, Any]]) -> Head:
        """Return the head from rows that were read in another way."""
        heads = [row for row in rows if not row["table_name"]]
        extra = json.loads(heads[0]["extra"]) if heads else {}
        if extra.get("schema_version", 0) > SCHEMA_VERSION:
            raise ConfigError(
                f"cannot use warehouse {self.jobs.place}: it has schema version {extra['schema_version']}, this runspend knows {SCHEMA_VERSION}. "
                "Install the newer runspend. Nothing was changed."
            )
        known = {Unit(row["table_name"], row["period"], row["writer"]): row for row in rows if row["table_name"] in TABLES}
        return Head(
            number=max((row["row_count"] for row in heads), default=0),
            extra=extra,
            units={unit: UnitState(row["digest"], row["row_count"], row["build_id"], json.loads(row["extra"])) for unit, row in known.items()},
            publish_ids={unit: row["publish_id"] for unit, row in known.items()},
        )

    def cost_of(self, sql: str) -> int:
        """Return the bytes that a query would read, by a dry run, which costs nothing."""
        return self.jobs.bytes_of(Statement(sql), dataset=self.places.internal)[1]

    def make_ready(self) -> None:
        """Create or widen the tables, unless they already match this version."""
        if not self._is_ready:
            extra = self.head().extra
            if extra.get("schema") != schema_digest():
                make_tables(self.jobs, self.places, extra.get("schema_version", SCHEMA_VERSION))
            self._is_ready = True


class BigQueryReader:
    """Read-only SQL over the published tables of one moment."""

    def __init__(self, warehouse: BigQueryWarehouse) -> None:
        self._warehouse = warehouse
        self._jobs = warehouse.jobs
        self._places = warehouse.places
        self._session: str | None = None
        self._is_over = False

    def head(self) -> Head:
        """Return what was published at the moment that the reader sees."""
        with self._moment() as session:
            rows = self._jobs.ask(self._warehouse.published_rows(), dataset=self._places.internal, labels=READING, session=session)
        return self._warehouse.read_head(rows.to_pylist())

    def query(self, sql: str, parameters: Mapping[str, Any] | None = None, *, native: bool = False) -> pa.Table:
        """Return the rows of one GoogleSQL statement, sent as written (`native`: without parsing it first). Money is decimal128(38, 22)."""
        statement = self._only_reading(sql, parameters or {}, native)
        with self._moment() as session:
            return _as_said(self._jobs.ask(statement, dataset=self._places.internal, labels=READING, session=session), sql)

    def answer(self, sql: str, *, native: bool, timeout: float | None) -> pa.Table:
        """Return the rows of one user-written statement. BigQuery itself determines its kind, independently of Runspend's parser."""
        statement = self._only_reading(sql, {}, native)
        if not native:
            self._refuse_all_but_select(statement)
        with self._moment() as session:
            return _as_said(self._jobs.ask(statement, dataset=self._places.internal, labels=READING, session=session, timeout=timeout), sql)

    def batches(self, sql: str, parameters: Mapping[str, Any] | None = None, *, rows: int) -> Iterator[pa.RecordBatch]:
        """Yield the rows of `query`, at most `rows` at a time."""
        statement = self._only_reading(sql, parameters or {}, False)
        with self._moment() as session:
            for batch in self._jobs.stream(statement, dataset=self._places.internal, labels=READING, session=session):
                shown = _as_said(batch, sql)
                yield from (shown.slice(start, rows) for start in range(0, shown.num_rows, rows))

    def in_currency(self, currency: str, rates: Sequence[Stretch]) -> ExchangedReader:
        """Return this view with the money of the cost tables in one currency.

        Converts by charge date, exact to 22 decimals; money without a rate keeps its currency.
        """
        return ExchangedReader(self, self._places, currency, rates)

    def close(self) -> None:
        """End the session; failure is ignored because all queries are answered and sessions expire."""
        if self._session is not None:
            with suppress(RunspendError):
                self._jobs.end_session(self._session, dataset=self._places.internal, labels=READING)
            self._session = None

    @contextmanager
    def _moment(self) -> Iterator[str]:
        """Yield the session to query in. A failed query may end its transaction, and later answers would be of another moment."""
        if self._is_over:
            raise RunspendError("cannot query: an earlier query of this reader failed, and its snapshot may have expired. Open another reader.")
        if self._session is None:
            self._session = self._jobs.begin_session(dataset=self._places.internal, labels=READING)
        try:
            yield self._session
        except RunspendError:
            self._is_over = True
            raise

    def _only_reading(self, sql: str, parameters: Mapping[str, Any], native: bool) -> Statement:
        if native:
            return self._refuse_all_but_select(Statement(sql, parameters))
        tree = parse(sql)
        if not isinstance(tree, exp.Query):
            raise SqlRefused(f"cannot run {tree.key.upper()}: the warehouse is read-only here. Write a SELECT. Nothing was run.")
        return Statement(sql, used(sql, parameters))


    def _refuse_all_but_select(self, statement: Statement) -> Statement:
        kind, _, _ = self._jobs.bytes_of(statement, dataset=self._places.internal)
        if kind != "SELECT":
            raise SqlRefused(f"cannot run the SQL: the warehouse is read-only here, and BigQuery calls it {kind}. Write exactly one SELECT. Nothing was run.")
        return statement


class ExchangedReader:
    """A reader's view with the money of the cost tables in one currency."""

    def __init__(self, reader: BigQueryReader, places: Places, currency: str, rates: Sequence[Stretch]) -> None:
        self._reader = reader
        self._places = places
        self._currency = currency
        self._rates = list(rates)

    def query(self, sql: str, parameters: Mapping[str, Any] | None = None, *, native: bool = False) -> pa.Table:
        """Return the rows of one GoogleSQL statement."""
        text, given = in_one_currency(sql, self._places, self._currency, self._rates)
        return self._reader.query(text, {**(parameters or {}), **given}, native=native)

    def batches(self, sql: str, parameters: Mapping[str, Any] | None = None, *, rows: int) -> Iterator[pa.RecordBatch]:
        """Yield the rows of `query`, at most `rows` at a time."""
        text, given = in_one_currency(sql, self._places, self._currency, self._rates)
        yield from self._reader.batches(text, {**(parameters or {}), **given}, rows=rows)

    def in_currency(self, currency: str, rates: Sequence[Stretch]) -> ExchangedReader:
        """Return the view in another currency."""
        return self._reader.in_currency(currency, rates)


def _as_said(rows: Any, sql: str) -> Any:
    """Drop the writer column, which is not in `schema/tables.py`, unless the query names it."""
    return rows.drop_columns([WRITER.name]) if WRITER.name in rows.schema.names and WRITER.name not in sql else rows
