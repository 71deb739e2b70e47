"""Keep the rows of an answer for further queries, so that the warehouse is read only once. Works with every engine.

The rows are in the memory of a separate DuckDB engine on this machine.
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
    """Runs SQL over the kept rows, in the same way as a Reader."""

    def __init__(self, connection: duckdb.DuckDBPyConnection) -> None:
        self._connection = connection

    def _show(self, names: Collection[str]) -> None:
        """Do nothing: all rows are readable from the start."""

    def _doubt(self) -> bool:
        return False  # there are no files to verify


@contextmanager
def keep(tables: Mapping[str, pa.Table]) -> Iterator[KeptRows]:
    """Lend a reader of these rows, by table name. The names must differ from the tables of the warehouse: `charges`, not `cost_daily`."""
    with tempfile.TemporaryDirectory(prefix="runspend-") as folder, empty_engine(Path(folder) / "spill") as connection:
        for name, rows in tables.items():
            connection.register(name, rows)
        yield KeptRows(connection)
