"""Rows of answers, kept for further queries so that the warehouse is read once, on either engine.

They are in the memory of a separate engine on this machine. The callers decide what is kept and queried.
"""

from __future__ import annotations

import tempfile
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from runspend.warehouse.parquet.engine import empty_engine
from runspend.warehouse.parquet.reader import SqlReader

if TYPE_CHECKING:
    import duckdb
    import pyarrow as pa


class KeptRows(SqlReader):
    """SQL over kept rows. Queries like a Reader."""

    def __init__(self, connection: duckdb.DuckDBPyConnection) -> None:
        self._connection = connection

    def _show(self, names: Collection[str]) -> None:
        """All rows are readable from the start."""

    def _doubt(self) -> bool:
        return False  # there is no file


@contextmanager
def keep(tables: Mapping[str, pa.Table]) -> Iterator[KeptRows]:
    """Lend a reader of these rows, by table name. Names of tables of the warehouse are not allowed: `charges`, not `cost_daily`."""
    with tempfile.TemporaryDirectory(prefix="runspend-") as folder, empty_engine(Path(folder) / "spill") as connection:
        for name, rows in tables.items():
            connection.register(name, rows)
        yield KeptRows(connection)
