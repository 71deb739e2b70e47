"""The common part of the warehouses in a folder and in a bucket: read units, run queries, and begin a step.

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
    """Tables in Parquet files that DuckDB queries on this machine. `folder` contains the tables, or the cache of a bucket."""

    def __init__(self, folder: Folder, models: Path, checks: Path) -> None:
        self.folder = folder
        self.models = models
        self.checks = checks
        self._left_out: set[Unit] = set()
        self._seen_by: Restriction | None = None
        self._reading = threading.local()
        self.folder.recover()

    def read(self, unit: Unit) -> pa.Table | None:
        """Return the rows of one published unit with the current columns, or None if the unit does not exist."""
        with self._one(unit) as found:
            if found is None:
                return None
            import pyarrow.parquet as pq

            from runspend.warehouse.parquet.files import with_columns

            with pq.ParquetFile(found[0]) as file:
                return with_columns(file.read(), TABLES[unit.table])

    def fetch(self, unit: Unit, folder: Path) -> Path | None:
        """Copy one published unit to a Parquet file in `folder`, with the current columns. Return None if the unit does not exist.

        The file belongs to the caller.
        """
        with self._one(unit) as found:
            if found is None:
                return None
            from runspend.warehouse.parquet.files import as_own_file

            return as_own_file(found[0], folder, TABLES[unit.table], found[1])

    @contextmanager
    def reader(self) -> Iterator[ParquetReader]:
        """Open a reader of one build. It never shows a half-done publish, and it does not block publishers."""
        from runspend.warehouse.parquet.engine import empty_engine

        with self._reader(empty_engine) as reader:
            yield reader

    def answer(self, sql: str, *, native: bool = False, timeout: float | None = None, at_most: int | None = None) -> pa.Table:
        """Return the rows of one user-written statement, or its first `at_most` rows.

        The statement can read only the published tables. Raises SqlRefused if it takes longer than `timeout` seconds.
        """
        from runspend.warehouse.parquet.engine import guarded_engine
        from runspend.warehouse.parquet.reader import answer

        return answer(partial(self._reader, guarded_engine), sql, native=native, timeout=timeout, at_most=at_most)

    @contextmanager
    def step(self, name: str, build_id: str) -> Iterator[ParquetStep]:
        """Begin a step, which replaces units. If the context ends without `publish`, the staged rows are discarded."""
        from runspend.warehouse.parquet.step import begin

        with self.folder.stage(name) as stage, begin(self, stage, build_id) as step:
            yield step

    def without(self: Own, units: set[Unit]) -> Own:
        """Return the same warehouse without these units, for a caller that replaces them.

        When a step publishes or drops one of them, it is removed from the set `units`.
        """
        other = copy.copy(self)
        other._left_out = units
        return other

    def restricted(self: Own, seen: Restriction) -> Own:
        """Return the same warehouse, with readers and answers that show only the rows that some teams may see."""
        other = copy.copy(self)
        other._seen_by = seen
        return other

    @abstractmethod
    def _one(self, unit: Unit) -> AbstractContextManager[tuple[Path, list[str]] | None]:
        """Yield the path of a unit's file and its columns, or None if the unit does not exist.

        Inside a reader of this thread, the file is the one that the reader sees. Otherwise it is the current one.
        """

    @abstractmethod
    def _reader(self, engine: Callable[[Path], AbstractContextManager[duckdb.DuckDBPyConnection]]) -> AbstractContextManager[ParquetReader]:
        """Open a reader of one build on an engine. `engine` lends one that spills into the given folder."""
