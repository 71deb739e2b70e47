"""The common part of the warehouses in a folder and in a bucket: reading, asking, and beginning a step.

Opening a warehouse and listing its units needs no engine, so this module does not import one at the top.
"""

from __future__ import annotations

import copy
import threading
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from runspend.schema.tables import TABLES
from runspend.warehouse.base import Unit
from runspend.warehouse.parquet.base import FileWarehouse
from runspend.warehouse.parquet.journal import Folder
from runspend.warehouse.team_views import Restriction

if TYPE_CHECKING:
    import duckdb
    import pyarrow as pa

    from runspend.warehouse.parquet.reader import ParquetReader
    from runspend.warehouse.parquet.step import ParquetStep


Own = TypeVar("Own", bound="QueriedFiles")


class QueriedFiles(FileWarehouse, ABC):
    """Tables in Parquet files that DuckDB queries on this machine. `folder` has the tables, or the cache of a bucket."""

    def __init__(self, folder: Folder, models: Path, checks: Path) -> None:
        self.folder = folder
        self.models = models
        self.checks = checks
        self._left_out: set[Unit] = set()
        self._seen_by: Restriction | None = None
        self._reading = threading.local()
        self.folder.recover()

    def read(self, unit: Unit) -> pa.Table | None:
        """Return the rows of one published unit, in today's columns; None if it does not exist."""
        with self._one(unit) as found:
            if found is None:
                return None
            import pyarrow.parquet as pq

            from runspend.warehouse.parquet.files import with_columns

            with pq.ParquetFile(found[0]) as file:
                return with_columns(file.read(), TABLES[unit.table])

    def fetch(self, unit: Unit, folder: Path) -> Path | None:
        """Copy one published unit to a Parquet file in `folder`, in today's columns; None if it does not exist.

        The caller keeps the file.
        """
        with self._one(unit) as found:
            if found is None:
                return None
            from runspend.warehouse.parquet.files import as_own_file

            return as_own_file(found[0], folder, TABLES[unit.table], found[1])

    @contextmanager
    def reader(self) -> Iterator[ParquetReader]:
        """Open one consistent view: a half-done publish is never visible. It does not block publishers."""
        from runspend.warehouse.parquet.engine import empty_engine

        with self._reader(empty_engine) as reader:
            yield reader

    def answer(self, sql: str, *, native: bool = False, timeout: float | None = None, at_most: int | None = None) -> pa.Table:
        """Return the rows of one user-written statement, or its first `at_most` rows.

        It can read only the published tables, for at most `timeout` seconds.
        """
        from runspend.warehouse.parquet.engine import guarded_engine
        from runspend.warehouse.parquet.reader import answer

        return answer(partial(self._reader, guarded_engine), sql, native=native, timeout=timeout, at_most=at_most)

    @contextmanager
    def step(self, name: str, build_id: str) -> Iterator[ParquetStep]:
        """Begin replacing units. Leaving without `publish` discards the staged rows."""
        from runspend.warehouse.parquet.step import begin

        with self.folder.stage(name) as stage, begin(self, stage, build_id) as step:
            yield step

    def without(self: Own, units: set[Unit]) -> Own:
        """Return the same warehouse without these units, for a caller that replaces them. A replaced unit leaves the set."""
        other = copy.copy(self)
        other._left_out = units
        return other

    def restricted(self: Own, seen: Restriction) -> Own:
        """Return the same warehouse, whose readers and answers show only what some teams see."""
        other = copy.copy(self)
        other._seen_by = seen
        return other

    @abstractmethod
    def _one(self, unit: Unit) -> AbstractContextManager[tuple[Path, list[str]] | None]:
        """Give a name to the file of one unit, and its columns: as an open reader of this thread sees it, otherwise the current one."""

    @abstractmethod
    def _reader(self, engine: Callable[[Path], AbstractContextManager[duckdb.DuckDBPyConnection]]) -> AbstractContextManager[ParquetReader]:
        """Open one consistent view in an engine."""
