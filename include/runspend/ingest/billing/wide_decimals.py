"""Converts Parquet files with decimals of more than 38 digits, such as BigQuery's BIGNUMERIC. The engine would read them as doubles.

Belongs here: how such a file becomes one that the engine reads exactly. Wide decimals become strings, also inside structs and lists.
"""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import pyarrow as pa

BATCH_ROWS = 65_536


def narrowed(path: Path, folder: Path) -> Path:
    """Return the path of the file, or if it has wide decimals, of a copy in `folder` with strings instead of them."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    schema = pq.read_schema(path)
    target = pa.schema([field.with_type(_narrow(field.type)) for field in schema])
    if target.equals(schema):
        return path
    with tempfile.NamedTemporaryFile(dir=folder, suffix=".parquet", delete=False) as made:
        copy = Path(made.name)
    with pq.ParquetFile(path, page_checksum_verification=True) as opened, pq.ParquetWriter(copy, target) as writer:
        for batch in opened.iter_batches(batch_size=BATCH_ROWS):
            writer.write_table(pa.Table.from_batches([batch]).cast(target))
    return copy


def _narrow(kind: pa.DataType) -> pa.DataType:
    """Return the type with strings instead of wide decimals."""
    import pyarrow as pa

    if pa.types.is_decimal256(kind):
        return pa.string()
    if pa.types.is_struct(kind):
        return pa.struct([field.with_type(_narrow(field.type)) for field in kind])
    if pa.types.is_list(kind):
        return pa.list_(kind.value_field.with_type(_narrow(kind.value_type)))
    return kind
