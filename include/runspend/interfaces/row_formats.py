"""Write rows for programs as JSON, CSV or an Arrow stream. Amounts are exact: decimal strings in JSON and CSV, decimals in Arrow.

Queries and HTTP belong in other modules.
"""

from __future__ import annotations

import base64
import json
import math
from collections.abc import Mapping, Sequence
from datetime import date, datetime, time
from decimal import Decimal
from typing import TYPE_CHECKING, Any

from runspend.actions.costs.query import as_values, csv_text
from runspend.core.amounts import iso_utc, plain
from runspend.core.spreadsheet_text import guard_text

if TYPE_CHECKING:
    import pyarrow as pa


def rows_as(form: str, rows: pa.Table, about: Mapping[str, Any]) -> bytes:
    """Return rows in the format "json", "csv" or "arrow". In JSON, `about` has the other keys of the object."""
    if form == "arrow":
        import pyarrow as pa

        sink = pa.BufferOutputStream()
        with pa.ipc.new_stream(sink, rows.schema) as stream:
            stream.write_table(rows)
        written: bytes = sink.getvalue().to_pybytes()
        return written
    if form == "csv":
        return csv_text(rows, guard=guard_text).encode("utf-8")
    return json_bytes({**about, "rows": as_values(rows)})


def json_bytes(value: Any) -> bytes:
    """Return a value as JSON. Values that JSON does not have (decimals, times, infinity, NaN) become text."""
    return f"{json.dumps(_plain(value), ensure_ascii=False, allow_nan=False, indent=1)}\n".encode()


def _plain(value: Any) -> Any:
    if value is None or isinstance(value, (str, bool, int)):
        return value
    if isinstance(value, Decimal):
        return plain(value)
    if isinstance(value, float):
        return value if math.isfinite(value) else str(value)
    if isinstance(value, datetime):
        return value.isoformat() if value.tzinfo is None else iso_utc(value)
    if isinstance(value, (date, time)):
        return value.isoformat()
    if isinstance(value, bytes):
        return base64.b64encode(value).decode("ascii")
    if isinstance(value, Mapping):
        return {str(key): _plain(one) for key, one in value.items()}
    if isinstance(value, Sequence):
        return [_plain(one) for one in value]
    return str(value)
