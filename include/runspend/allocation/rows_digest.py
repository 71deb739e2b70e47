"""A digest of a query's rows, which tells whether a billing period must be built again.

Belongs to `allocation/inputs`. Digests of whole tables are in `warehouse/content_digest.py`.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import pyarrow as pa

NO_ROWS = hashlib.sha256().hexdigest()

# Control characters, so that the names on a bill cannot be confused with them.
_NULL, _BETWEEN_ITEMS, _BETWEEN_VALUES, _AFTER_ROW = "\x00", "\x1f", "\x1e", "\n"


def rows_digest(batches: Iterable[pa.RecordBatch]) -> str:
    """Return the SHA-256 of the rows in their order, as 64 hexadecimal digits; NO_ROWS if there are none.

    Neither the sizes of the batches nor the warehouse engine changes it.
    """
    import pyarrow as pa
    import pyarrow.compute as pc

    found = hashlib.sha256()
    for batch in batches:
        if batch.num_rows:
            rows = pc.binary_join_element_wise(*(_texts(column) for column in batch.columns), _BETWEEN_VALUES)
            whole = pa.ListArray.from_arrays([0, len(rows)], rows)
            found.update(pc.binary_join(whole, _AFTER_ROW)[0].as_py().encode() + _AFTER_ROW.encode())
    return found.hexdigest()


def _texts(column: pa.Array) -> pa.Array:
    """Return the values as strings. A null list equals an empty one, because BigQuery stores no null lists."""
    import pyarrow as pa
    import pyarrow.compute as pc

    if pa.types.is_list(column.type):
        return pc.fill_null(pc.binary_join(column.cast(pa.list_(pa.string())), _BETWEEN_ITEMS), "")
    if pa.types.is_timestamp(column.type):
        column = column.cast(pa.timestamp("us", "UTC")).cast(pa.int64())
    return pc.fill_null(column.cast(pa.string()), _NULL)
