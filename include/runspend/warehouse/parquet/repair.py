"""Repair the bookkeeping of a warehouse folder: rebuild `schema.json` and the index of units, and add checksums to old state files.

This module does not change rows; it only upgrades restored files to the current columns. `verification.py` finds damage.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from runspend.schema.former_names import RENAMED_VALUES, VALUE_COLUMNS, VALUES_VERSION
from runspend.schema.tables import SCHEMA_VERSION, TABLES, Table
from runspend.warehouse.base import Unit
from runspend.warehouse.parquet.journal import write_json
from runspend.warehouse.parquet.units import state_name
from runspend.warehouse.parquet.verification import (
    BEHIND,
    INDEX,
    NOTHING,
    SCHEMA_KEYS,
    UNSEALED,
    read_sealed,
    read_state,
    seal,
    why_damaged,
)

SCHEMA = Unit("_runspend", "all", "schema.json")


def mend_folder(root: Path) -> dict[Unit, str]:
    """Repair the bookkeeping of a warehouse folder. Return what was damaged, each with the reason.

    Takes the exclusive lock only if there is something to repair. Returns {} if the folder is not a warehouse or this user may only read.
    """
    root = root.absolute()
    home = root / "_runspend"
    if not (home / "units").is_dir() or not os.access(home, os.W_OK):
        return {}
    from runspend.warehouse.parquet.warehouse import ParquetWarehouse, open_folder

    mended: dict[Unit, str] = {}
    if _is_to_mend(*read_sealed(home / "schema.json", SCHEMA_KEYS)):
        with open_folder(root).exclusive():
            schema, why = read_sealed(home / "schema.json", SCHEMA_KEYS)  # read again: another process may have upgraded it meanwhile
            if _is_to_mend(schema, why):
                write_json(home / "schema.json", seal(_schema_of(root) if schema is None else schema))
            if why is not None:
                mended[SCHEMA] = f"{why}; it was rebuilt from the Parquet files"
    warehouse = ParquetWarehouse(root)
    listed, why = warehouse.verified.units()
    with warehouse.folder.shared():
        records = warehouse.records()
    if any(BEHIND in record for record in records.values()):
        warehouse.widen_restored()
    unlisted = records.keys() - listed  # units of a publish that was killed before it updated the index
    if why is None and not unlisted and not any(_is_unsealed(record) for record in records.values()):
        return mended
    if why is not None:
        mended[INDEX] = f"{why}; it was rebuilt from the state files"
    with warehouse.folder.exclusive():
        records = warehouse.records()
        for unit, record in records.items():
            if _is_unsealed(record):
                write_json(warehouse.state_path(unit), seal(record))
        warehouse.verified.index(records)
    return mended


def _is_to_mend(schema: Any, why: str | None) -> bool:
    """Whether `schema.json` is damaged, or was written by a version without checksums."""
    return why is not None or (schema is not None and "check" not in schema)


def _is_unsealed(record: Mapping[str, Any]) -> bool:
    """Whether a state file was written by a version without checksums. Such files may exist even if there is an index."""
    return "why" not in record and record.keys() <= UNSEALED


def _schema_of(root: Path) -> dict[str, object]:
    """Return the content of `schema.json`, derived from the Parquet files. All files of a table have the same columns."""
    import pyarrow.parquet as pq

    columns = {}
    is_todays = True
    for table in TABLES.values():
        names = [column.name for column in table.columns]
        columns[table.name] = next((pq.read_schema(path).names for path in _intact_files(root, table)), names)
        is_todays &= columns[table.name] == names
        if table.name in VALUE_COLUMNS:
            is_todays = is_todays and not any(_holds_former_values(path, VALUE_COLUMNS[table.name]) for path in _intact_files(root, table))
    return {"version": SCHEMA_VERSION if is_todays else VALUES_VERSION - 1, "tables": columns}


def _intact_files(root: Path, table: Table) -> Iterator[Path]:
    """Yield the intact files of a table. In a damaged file, a flipped bit may have changed the name of a column."""
    place = root / table.name if table.is_public else root / "_internal" / table.name
    for path in sorted(place.glob("period=*/*.parquet")):
        unit = Unit(table.name, path.parent.name.removeprefix("period="), path.stem)
        record = read_state(root / state_name(unit), unit)
        if record is not None and why_damaged(unit, path, record, NOTHING, since=time.time()) is None:
            yield path


def _holds_former_values(path: Path, columns: Sequence[str]) -> bool:
    """Whether these columns of a file contain values that were renamed in a later version."""
    import pyarrow as pa
    import pyarrow.compute as pc
    import pyarrow.parquet as pq

    former, rows = pa.array(list(RENAMED_VALUES)), pq.read_table(path, columns=list(columns), partitioning=None)
    return any(pc.any(pc.is_in(column, former)).as_py() for column in rows.columns)
