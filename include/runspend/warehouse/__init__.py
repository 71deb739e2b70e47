"""The seam to where tables live. Small enough that another engine can follow without its callers noticing.

A unit is one file's worth of rows: a table, a month (or "all") and a writer. A step replaces units whole, several at
once or none. `warehouse/parquet/warehouse.py` keeps them as Parquet files in a folder queried by DuckDB, `warehouse/parquet/bucket.py` the same files in a bucket,
`warehouse/bigquery/warehouse.py` as tables in BigQuery. What rows mean does not belong here.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

from runspend.core.errors import ConfigError

if TYPE_CHECKING:
    import pyarrow as pa

    from runspend.config.exchange_rates import Stretch
    from runspend.config.settings import Settings

__all__ = ["Model", "Reader", "Step", "Unit", "UnitState", "Warehouse", "mend_warehouse", "open_warehouse"]


class Unit(NamedTuple):
    """What is replaced whole: the rows of one writer for one month of one table. `period` is "YYYY-MM" or "all"."""

    table: str
    period: str
    writer: str


@dataclass(frozen=True)
class UnitState:
    """What is known of a published unit without reading it."""

    digest: str  # content digest: independent of row order and of bookkeeping columns
    rows: int
    build_id: str
    extra: Mapping[str, Any] = field(default_factory=dict)  # small JSON facts the writer wants to find again


class Reader(Protocol):
    """Read-only SQL over the published tables of one build."""

    def query(self, sql: str, parameters: Mapping[str, Any] | None = None, *, native: bool = False) -> pa.Table:
        """Rows of one GoogleSQL statement (`native`: the engine's own dialect). Money is decimal128(38, 22)."""
        ...

    def batches(self, sql: str, parameters: Mapping[str, Any] | None = None, *, rows: int) -> Iterator[pa.RecordBatch]:
        """The same rows as `query`, about `rows` at a time: for what does not fit in memory. One at a time; finish it before the next question."""
        ...

    def in_currency(self, currency: str, rates: Sequence[Stretch]) -> Reader:
        """The same view with the cost tables' money in one currency, by charge date, exact to 22 decimals; what has no rate stays in its own."""
        ...


class Step(Protocol):
    """Units being replaced together. Nothing is visible to anybody until `publish`."""

    build_id: str

    def put(self, table: str, period: str, writer: str, rows: Path | pa.Table, *, extra: Mapping[str, Any] | None = None) -> UnitState:
        """Stage rows from outside: a Parquet file with the columns of `schema/tables.py` (it is moved), or an Arrow table."""
        ...

    def drop(self, table: str, period: str, writer: str) -> None:
        """Stage the removal of a unit."""
        ...

    def rename(self, unit: Unit, writer: str, names: Mapping[str, tuple[str, str]], *, extra: Mapping[str, Any]) -> UnitState:
        """Stage a published unit as another writer's, with other names in some columns: {column: (old, new)}; an old that ends in / is a beginning."""
        ...

    def run(self, models: Sequence[Model], parameters: Mapping[str, Any]) -> None:
        """Run `allocation/models/*.sql` in order over published and staged rows. See `Model`."""
        ...

    def check(self, names: Sequence[str], parameters: Mapping[str, Any]) -> None:
        """Run `allocation/checks/*.sql` over what would be published; raises CheckFailed with the failing rows."""
        ...

    def state(self, unit: Unit) -> UnitState:
        """What is known of a unit staged so far."""
        ...

    def publish(self, inputs: Mapping[Unit, str | None] | None = None) -> bool:
        """Make all staged units visible at once. False ("superseded", nothing changed) if an input's digest is not what it was."""
        ...


@dataclass(frozen=True)
class Model:
    """One file of `allocation/models/`. Its name is the table it fills, or the one it `makes` for later models.

    `into` is the unit it replaces; without it the rows live only until the step ends. Models next to each other with the
    same `bucket_by` column may be run by an engine with little memory one share of that column's values at a time: they
    must give the same rows either way, and those without `into` are there for later models of the same `run` only.
    """

    name: str
    into: tuple[str, str] | None = None  # (period, writer)
    bucket_by: str | None = None
    fills: str | None = None  # the table, where the model adds rows to what another model of the step put into the same unit
    makes: str | None = None  # the temporary table, where several models may stand for the same one in a chain
    inline: bool = False  # takes no parameter and is read once, by the model after it: an engine need not keep its rows
    sums: bool = False  # adds up what it reads before it does anything else: an engine has room for more of it at a time

    @property
    def target(self) -> str:
        """The table its rows go to: one of `schema/tables.py` with `into`, else one that lives until the step ends."""
        return self.fills or self.makes or self.name


class Warehouse(Protocol):
    """Where tables live."""

    def states(self, *tables: str) -> dict[Unit, UnitState]:
        """Published units of these tables (all tables when none is named)."""
        ...

    def read(self, unit: Unit) -> pa.Table | None:
        """The rows of one published unit; None when there is none."""
        ...

    def fetch(self, unit: Unit, folder: Path) -> Path | None:
        """The rows of one published unit as a Parquet file in `folder`, the caller's to keep, in today's columns; None when there is none."""
        ...

    def reader(self) -> AbstractContextManager[Reader]:
        """One consistent view: no publish is seen half done."""
        ...

    def answer(self, sql: str, *, native: bool = False, timeout: float | None = None) -> pa.Table:
        """Rows of one statement that people wrote: it reads the published tables and nothing else, for `timeout` seconds at most."""
        ...

    def step(self, name: str, build_id: str) -> AbstractContextManager[Step]:
        """Begin replacing units. Leaving without `publish` throws the staged rows away."""
        ...

    def find_damage(self, units: Collection[Unit] | None = None, *, since: float | None = None, progress: Callable[[str], None] = ...) -> dict[Unit, str]:
        """Units, of these or of all, that are not what was published, and what is wrong with each. What was verified at `since` or later
        (seconds of the epoch; None: nothing) is not looked at again."""
        ...

    def without(self, units: set[Unit]) -> Warehouse:
        """The same warehouse for whoever replaces these units: as if they were not there. What is replaced leaves the set."""
        ...


def mend_warehouse(settings: Settings) -> dict[Unit, str]:
    """Make damaged bookkeeping of a warehouse in a folder again from its files, and give that of older versions its checksums.
    Returns what was damaged and why; nothing where somebody may only read."""
    uri = settings.warehouse.uri
    if "://" in uri and not uri.startswith("file://"):
        return {}
    from runspend.warehouse.parquet.repair import mend_folder

    return mend_folder(Path(uri.removeprefix("file://")))


def open_warehouse(settings: Settings | str) -> Warehouse:
    """The warehouse of a configuration, or the one in a folder; finishes any publish that was killed."""
    uri = settings if isinstance(settings, str) else settings.warehouse.uri
    if "://" not in uri or uri.startswith("file://"):
        from runspend.warehouse.parquet.warehouse import ParquetWarehouse

        return ParquetWarehouse(Path(uri.removeprefix("file://")))
    if uri.startswith("bigquery://"):
        from runspend.config.settings import WarehouseSettings
        from runspend.warehouse.bigquery.warehouse import BigQueryWarehouse

        if isinstance(settings, str):
            return BigQueryWarehouse(WarehouseSettings(uri=uri))
        return BigQueryWarehouse(settings.warehouse, settings.home / "cache" / hashlib.sha256(uri.encode()).hexdigest()[:16])
    if not uri.startswith("s3://") or isinstance(settings, str):
        raise ConfigError(f"cannot open warehouse {uri!r}: this version keeps tables in a folder, an S3 bucket or BigQuery. Set warehouse.uri to one of them.")
    from runspend.storage.s3_warehouse import Bucket
    from runspend.warehouse.parquet.bucket import BucketWarehouse

    place = settings.warehouse
    bucket = Bucket(uri, endpoint=place.endpoint, region=place.region, credentials=place.credentials)
    return BucketWarehouse(bucket, settings.home / "cache" / hashlib.sha256(bucket.where.encode()).hexdigest()[:16])
