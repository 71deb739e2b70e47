"""The interface to the warehouse, which stores the tables. It is small, so that another engine can be added without changing the callers.

A unit is one file's worth of rows: a table, a month (or "all") and a writer. A step replaces whole units, several at
once or none. `warehouse/parquet/warehouse.py` keeps units as Parquet files in a folder, queried by DuckDB.
`warehouse/parquet/bucket.py` keeps the same files in a bucket, `warehouse/bigquery/warehouse.py` keeps tables in BigQuery.
What the rows mean does not belong here.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

if TYPE_CHECKING:
    import pyarrow as pa

    from runspend.config.exchange_rates import Stretch
    from runspend.warehouse.team_views import Restriction


ALLOCATION = Path(__file__).parents[1] / "allocation"  # models and checks that run in a warehouse


class Unit(NamedTuple):
    """The rows of one writer for one month of one table, always replaced as a whole. `period` is "YYYY-MM" or "all"."""

    table: str
    period: str
    writer: str


@dataclass(frozen=True)
class UnitState:
    """Facts about a published unit that are known without reading it."""

    digest: str  # content digest: independent of row order and of bookkeeping columns
    rows: int
    build_id: str
    extra: Mapping[str, Any] = field(default_factory=dict)  # small JSON facts that the writer reads again later


class Reader(Protocol):
    """Read-only SQL over the published tables of one build."""

    def query(self, sql: str, parameters: Mapping[str, Any] | None = None, *, native: bool = False) -> pa.Table:
        """Return the rows of one GoogleSQL statement (`native`: the engine's own dialect). Money is decimal128(38, 22)."""
        ...

    def batches(self, sql: str, parameters: Mapping[str, Any] | None = None, *, rows: int) -> Iterator[pa.RecordBatch]:
        """Yield the rows of `query`, about `rows` at a time, for results that do not fit in memory. Finish it before the next query."""
        ...

    def in_currency(self, currency: str, rates: Sequence[Stretch]) -> Reader:
        """Return this view with the money of the cost tables in one currency.

        Converts by charge date, exact to 22 decimals; money without a rate keeps its currency.
        """
        ...


class Step(Protocol):
    """Units being replaced together. Nothing is visible to readers before `publish`."""

    build_id: str

    def put(self, table: str, period: str, writer: str, rows: Path | pa.Table, *, extra: Mapping[str, Any] | None = None) -> UnitState:
        """Stage rows from outside: a Parquet file with the columns of `schema/tables.py` (it is moved), or an Arrow table."""
        ...

    def drop(self, table: str, period: str, writer: str) -> None:
        """Stage the removal of a unit."""
        ...

    def rename(self, unit: Unit, writer: str, names: Mapping[str, tuple[str, str]], *, extra: Mapping[str, Any]) -> UnitState:
        """Stage a published unit under another writer, with values renamed in some columns.

        names: {column: (old, new)}; an old that ends in / is a prefix.
        """
        ...

    def run(self, models: Sequence[Model], parameters: Mapping[str, Any]) -> None:
        """Run `allocation/models/*.sql` in order over published and staged rows. See `Model`."""
        ...

    def check(self, names: Sequence[str], parameters: Mapping[str, Any]) -> None:
        """Run `allocation/checks/*.sql` over what would be published; raises CheckFailed with the failing rows."""
        ...

    def state(self, unit: Unit) -> UnitState:
        """Return the state of a unit staged so far."""
        ...

    def publish(self, inputs: Mapping[Unit, str | None] | None = None) -> bool:
        """Make all staged units visible at once. Returns False ("superseded", nothing changed) if an input's digest has changed."""
        ...


@dataclass(frozen=True)
class Model:
    """One file of `allocation/models/`. Its name is the table it fills, or the one it `makes` for later models.

    `into` is the unit it replaces; without it, the rows exist only until the step ends. An engine with little memory may run
    adjacent models with the same `shard_by` column in shards, which are ranges of that column's values. They must give the same rows either
    way, and those without `into` serve only later models of the same `run`.
    """

    name: str
    into: tuple[str, str] | None = None  # (period, writer)
    shard_by: str | None = None
    fills: str | None = None  # the table, where the model adds rows to a unit that another model of the step already filled
    makes: str | None = None  # the temporary table, where several models may take the same position in a chain
    inline: bool = False  # has no parameters and is read once, by the model after it: an engine need not keep its rows
    sums: bool = False  # aggregates its input first: an engine can process more of it at a time

    @property
    def target(self) -> str:
        """The table that its rows go to: one of `schema/tables.py` with `into`, otherwise one that exists until the step ends."""
        return self.fills or self.makes or self.name


class Warehouse(Protocol):
    """Where tables live."""

    def states(self, *tables: str) -> dict[Unit, UnitState]:
        """Return the published units of these tables (all tables when none is named)."""
        ...

    def read(self, unit: Unit) -> pa.Table | None:
        """Return the rows of one published unit; None if it does not exist."""
        ...

    def fetch(self, unit: Unit, folder: Path) -> Path | None:
        """Copy one published unit to a Parquet file in `folder`, in today's columns; None if it does not exist.

        The caller keeps the file.
        """
        ...

    def reader(self) -> AbstractContextManager[Reader]:
        """Open one consistent view: a half-done publish is never visible."""
        ...

    def answer(self, sql: str, *, native: bool = False, timeout: float | None = None, at_most: int | None = None) -> pa.Table:
        """Return the rows of one user-written statement, or its first `at_most` rows.

        It can read only the published tables, for at most `timeout` seconds.
        """
        ...

    def step(self, name: str, build_id: str) -> AbstractContextManager[Step]:
        """Begin replacing units. Leaving without `publish` discards the staged rows."""
        ...

    def find_damage(
        self, units: Collection[Unit] | None = None, *, since: float | None = None, progress: Callable[[str], None] = ...
    ) -> dict[Unit, str]:
        """Return damaged units (of these or of all) that differ from what was published, with the problem of each.

        Units verified at `since` or later (seconds of the epoch; None: none) are not checked again.
        """
        ...

    def restricted(self, seen: Restriction) -> Warehouse:
        """Return the same warehouse, whose readers and answers show only what some teams see."""
        ...

    def without(self, units: set[Unit]) -> Warehouse:
        """Return the same warehouse without these units, for a caller that replaces them. A replaced unit leaves the set."""
        ...
