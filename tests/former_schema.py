"""Rows and files of the previous schema version, made by renaming today's back."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from runspend.schema.former_names import RENAMED_COLUMNS, RENAMED_VALUES, VALUE_COLUMNS, VALUES_VERSION
from runspend.schema.tables import TABLES
from runspend.warehouse.base import Unit
from runspend.warehouse.parquet.journal import write_json
from runspend.warehouse.parquet.verification import seal
from runspend.warehouse.parquet.warehouse import ParquetWarehouse, _write_state
from tests.faults.world import PERIOD, rows_of

UNITS = tuple(Unit(name, PERIOD, "all") for name in sorted({*RENAMED_COLUMNS, *VALUE_COLUMNS}))
FORMER_COLUMNS = {name: [RENAMED_COLUMNS.get(name, {}).get(c.name, c.name) for c in table.columns] for name, table in TABLES.items()}
FORMER_VERSION = VALUES_VERSION - 1


def todays_rows(unit: Unit) -> pa.Table:
    """Return rows of today's schema. Half of them contain a renamed value."""
    rows = rows_of(TABLES[unit.table], period=unit.period)
    for column in VALUE_COLUMNS.get(unit.table, ()):
        for now in RENAMED_VALUES.values():
            values = [now if number % 2 else value for number, value in enumerate(rows.column(column).to_pylist())]
            rows = rows.set_column(rows.column_names.index(column), column, pa.array(values, pa.string()))
    return rows


def former_rows(table: str, rows: pa.Table) -> pa.Table:
    """Return the same rows with the previous names and values."""
    for column in VALUE_COLUMNS.get(table, ()):
        for before, now in RENAMED_VALUES.items():
            values = rows.column(column)
            rows = rows.set_column(rows.column_names.index(column), column, pc.if_else(pc.equal(values, now), before, values))
    return rows.rename_columns([RENAMED_COLUMNS.get(table, {}).get(name, name) for name in rows.column_names])


def rewrite(path: Path, table: str) -> None:
    """Rewrite a file of today's schema with the previous one."""
    pq.write_table(former_rows(table, pq.read_table(path, partitioning=None)), path, compression="zstd")


def make_former(root: Path) -> None:
    """Convert a folder warehouse to the previous schema. Only its internal records and the files of `UNITS` change."""
    warehouse = ParquetWarehouse(root)
    for unit, record in warehouse.records().items():
        if unit.table in {u.table for u in UNITS}:
            rewrite(warehouse.path(unit), unit.table)
            _write_state(warehouse.path(unit), unit, record).replace(warehouse.state_path(unit))
    write_json(root / "_runspend" / "schema.json", seal({"version": FORMER_VERSION, "tables": FORMER_COLUMNS}))
    for name in ("index.json", "verified.json"):
        (root / "_runspend" / name).unlink(missing_ok=True)
    assert json.loads((root / "_runspend" / "schema.json").read_text())["version"] == FORMER_VERSION


def contents(read: Callable[[Unit], pa.Table | None]) -> dict[Unit, pa.Table]:
    """Return the rows of every unit of `UNITS` in a fixed order."""
    found = {unit: read(unit) for unit in UNITS}
    return {
        unit: rows.sort_by([(name, "ascending") for name in TABLES[unit.table].key or rows.column_names[:1]])
        for unit, rows in found.items()
        if rows is not None
    }
