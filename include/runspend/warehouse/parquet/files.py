"""Convert one Parquet file of a table: bring it to the current columns, rename values, sort rows in the table's order.

`warehouse.py` knows which file belongs to which unit.
"""

from __future__ import annotations

import shutil
import uuid
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from runspend.core.errors import RunspendError
from runspend.core.own_files import fsync_path
from runspend.core.sql_quoting import sql_name
from runspend.schema.former_names import RENAMED_VALUES, VALUE_COLUMNS, former_name
from runspend.schema.tables import Column, Table
from runspend.warehouse.parquet.engine import ROW_GROUP, copy_parquet, file_list

if TYPE_CHECKING:
    import duckdb


def rename_rows(
    connection: duckdb.DuckDBPyConnection, table: Table, source: Path, names: Mapping[str, tuple[str, str]], target: Path
) -> Path:
    """Copy the rows of a file to `target`, and rename values in some columns. Return `target`.

    `names`: {column: (old value, new value)}. An old value that ends in "/" is a prefix.
    """
    parameters = {f"{side}_{name}": value for name, values in names.items() for side, value in zip(("old", "new"), values, strict=True)}
    sql = ", ".join(_renamed(c.name, names[c.name][0]) if c.name in names else sql_name(c.name) for c in table.columns)
    rows = f"select {sql} from read_parquet({file_list([source])}, hive_partitioning = false)"
    copy_parquet(connection, table, rows, parameters, target)
    return target


def _renamed(column: str, old: str) -> str:
    """Return SQL for a column in which the value of the parameter $old_COLUMN is replaced by $new_COLUMN."""
    name = sql_name(column)
    if old.endswith("/"):
        return f"case when starts_with({name}, $old_{column}) then $new_{column} || substr({name}, length($old_{column}) + 1) else {name} end as {name}"
    return f"case when {name} = $old_{column} then $new_{column} else {name} end as {name}"


def difference(found: pa.Schema, wanted: pa.Schema) -> str:
    """Describe how the columns of a file differ from the columns of its table."""
    lacking = [f.name for f in wanted if f.name not in found.names]
    extra = [f.name for f in found if f.name not in wanted.names]
    if lacking or extra:
        return f"it lacks columns {lacking} and has columns {extra} in addition"
    if found.names != wanted.names:
        return "its columns are in another order than in tables.py"
    return "; ".join(f"{a.name} is {a.type} and must be {b.type}" for a, b in zip(found, wanted, strict=True) if not a.equals(b))


def conform(rows: pa.Table, table: Table, build_id: str) -> pa.Table:
    """Return the rows with the table's columns, types and sort order. Raises RunspendError if the columns do not fit."""
    schema = table.arrow_schema()
    for name in ("build_id", "load_id"):
        if name in schema.names and name not in rows.column_names:
            rows = rows.append_column(name, pa.array([build_id] * rows.num_rows, pa.string()))
    if sorted(rows.column_names) != sorted(schema.names):
        raise RunspendError(f"cannot put rows into {table.name}: {difference(rows.schema, schema)}. Nothing was changed.")
    try:
        exact = rows.select(schema.names).cast(schema)
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError) as error:
        raise RunspendError(f"cannot put rows into {table.name}: {error}. Nothing was changed.") from error
    return exact.sort_by([(name, "ascending") for name in table.sort]) if table.sort else exact


def add_columns(source: Path, target: Path, table: Table) -> None:
    """Copy a file and bring its rows to the current columns and values. New columns are null."""
    schema = table.arrow_schema()
    with pq.ParquetFile(source) as old, pq.ParquetWriter(target, schema, compression="zstd") as new:
        for batch in old.iter_batches():
            new.write_table(with_columns(pa.Table.from_batches([batch]), table), row_group_size=ROW_GROUP)
    fsync_path(target)


def as_own_file(file: Path, folder: Path, table: Table, present: Sequence[str]) -> Path:
    """Copy a published file to the caller's folder, with the current columns. `present`: the columns of the published file."""
    own = folder / f"{uuid.uuid4().hex}.parquet"
    if list(present) == [c.name for c in table.columns]:
        shutil.copyfile(file, own)
    else:
        add_columns(file, own, table)
    return own


def with_columns(rows: pa.Table, table: Table) -> pa.Table:
    """Return the rows with the current columns. Former names and values are translated. Missing columns are null."""
    schema = table.arrow_schema()
    columns = [_stored(rows, table, c) for c in table.columns]
    return pa.table(
        [pa.nulls(rows.num_rows, f.type) if c is None else c for c, f in zip(columns, schema, strict=True)], names=schema.names
    ).cast(schema)


def _stored(rows: pa.Table, table: Table, column: Column) -> pa.ChunkedArray | None:
    """Return a column of a file, or None if the file does not have it. The file may have it under a former name or with former values."""
    name = column.name if column.name in rows.column_names else former_name(table, column, rows.column_names)
    if name is None:
        return None
    values = rows.column(name)
    if column.name in VALUE_COLUMNS.get(table.name, ()):
        for before, now in RENAMED_VALUES.items():
            values = pc.if_else(pc.equal(values, before), now, values)
    return values
