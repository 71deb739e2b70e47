"""The interface to the warehouse, which stores the tables. It is small, so that another engine can be added without changing the callers.

A unit is the rows of one table for one month (or "all") from one writer. A step replaces whole units, and either all of them or none.
Three classes implement the interface:

* `warehouse/parquet/warehouse.py` stores units as Parquet files in a folder, queried by DuckDB.
* `warehouse/parquet/bucket.py` stores the same files in a bucket.
* `warehouse/bigquery/warehouse.py` stores tables in BigQuery.

The interface does not know what the rows mean.
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

    digest: str  # hash of the content; does not depend on the order of rows or on bookkeeping columns
    rows: int
    build_id: str
    extra: Mapping[str, Any] = field(default_factory=dict)  # small JSON facts that the writer reads again later


class Reader(Protocol):
    """Read-only SQL over the published tables of one build."""

    def query(self, sql: str, parameters: Mapping[str, Any] | None = None, *, native: bool = False) -> pa.Table:
        """Return the rows of one GoogleSQL statement. With `native`, the statement is in the engine's own dialect.

        Money is decimal128(38, 22).
        """
        ...

    def batches(self, sql: str, parameters: Mapping[str, Any] | None = None, *, rows: int) -> Iterator[pa.RecordBatch]:
        """Yield the rows of a query in batches of about `rows` rows, for results that do not fit in memory.

        Read all batches before the next query.
        """
        ...

    def in_currency(self, currency: str, rates: Sequence[Stretch]) -> Reader:
        """Return a reader that shows the money of the cost tables in one currency.

        Money is converted by charge date, exact to 22 decimals. Money without a rate keeps its currency.
        """
        ...


class Step(Protocol):
    """Replaces several units together. Readers see no change before `publish`."""

    build_id: str

    def put(self, table: str, period: str, writer: str, rows: Path | pa.Table, *, extra: Mapping[str, Any] | None = None) -> UnitState:
        """Stage rows that no model makes. `rows` is an Arrow table, or a Parquet file with the columns of `schema/tables.py`.

        A file is moved, not copied.
        """
        ...

    def drop(self, table: str, period: str, writer: str) -> None:
        """Stage the removal of a unit."""
        ...

    def rename(self, unit: Unit, writer: str, names: Mapping[str, tuple[str, str]], *, extra: Mapping[str, Any]) -> UnitState:
        """Stage the rows of a published unit under another writer, and rename values in some columns.

        `names`: {column: (old value, new value)}. An old value that ends in "/" is a prefix.
        """
        ...

    def run(self, models: Sequence[Model], parameters: Mapping[str, Any]) -> None:
        """Run `allocation/models/*.sql` in order over published and staged rows. See `Model`."""
        ...

    def check(self, names: Sequence[str], parameters: Mapping[str, Any]) -> None:
        """Run `allocation/checks/*.sql` over the rows as they would be after publishing. Raises CheckFailed with the failing rows."""
        ...

    def state(self, unit: Unit) -> UnitState:
        """Return the state of a unit that this step has staged."""
        ...

    def publish(self, inputs: Mapping[Unit, str | None] | None = None) -> bool:
        """Make all staged units visible at once.

        `inputs`: the digest that each unit had when the step read it. If one has changed, the step is superseded: nothing is changed, and
        the result is False.
        """
        ...


@dataclass(frozen=True)
class Model:
    """One SQL file of `allocation/models/`.

    With `into`, its rows replace a unit of a table. Without `into`, its rows exist only until the step ends, for later models.

    An engine with little memory may run adjacent models with the same `shard_by` column in shards, which are ranges of that column's
    values. Such models must give the same rows with and without shards. Those without `into` serve only later models of the same `run`.
    """

    name: str
    into: tuple[str, str] | None = None  # (period, writer)
    shard_by: str | None = None
    fills: str | None = None  # the table, if the model adds rows to a unit that another model of the step already filled
    makes: str | None = None  # the name of its temporary table, if alternative models make the same table
    inline: bool = False  # has no parameters, and only the next model reads it, once; so an engine need not store its rows
    sums: bool = False  # aggregates its input first, so an engine can process more of the input at a time

    @property
    def target(self) -> str:
        """The table that gets the model's rows: a table of `schema/tables.py` with `into`, otherwise a temporary one of the step."""
        return self.fills or self.makes or self.name


class Warehouse(Protocol):
    """The store of all tables."""

    def states(self, *tables: str) -> dict[Unit, UnitState]:
        """Return the published units of these tables, or of all tables if none is named."""
        ...

    def read(self, unit: Unit) -> pa.Table | None:
        """Return the rows of one published unit, or None if the unit does not exist."""
        ...

    def fetch(self, unit: Unit, folder: Path) -> Path | None:
        """Copy one published unit to a Parquet file in `folder`, with the current columns. Return None if the unit does not exist.

        The file belongs to the caller.
        """
        ...

    def reader(self) -> AbstractContextManager[Reader]:
        """Open a reader of one build. It never shows a half-done publish."""
        ...

    def answer(self, sql: str, *, native: bool = False, timeout: float | None = None, at_most: int | None = None) -> pa.Table:
        """Return the rows of one user-written statement, or its first `at_most` rows.

        The statement can read only the published tables. Raises SqlRefused if it takes longer than `timeout` seconds.
        """
        ...

    def step(self, name: str, build_id: str) -> AbstractContextManager[Step]:
        """Begin a step, which replaces units. If the context ends without `publish`, the staged rows are discarded."""
        ...

    def find_damage(
        self, units: Collection[Unit] | None = None, *, since: float | None = None, progress: Callable[[str], None] = ...
    ) -> dict[Unit, str]:
        """Return the units among `units` (None: all) that differ from what was published, each with the reason.

        Units that were verified at `since` or later are not checked again (Unix seconds; None: all units are checked).
        """
        ...

    def restricted(self, seen: Restriction) -> Warehouse:
        """Return the same warehouse, with readers and answers that show only the rows that some teams may see."""
        ...

    def without(self, units: set[Unit]) -> Warehouse:
        """Return the same warehouse without these units, for a caller that replaces them.

        When a step publishes or drops one of them, it is removed from the set `units`.
        """
        ...
