"""Convert values for BigQuery and back: parameters of a query, and the money in its rows."""

from __future__ import annotations

import datetime as dt
from decimal import Decimal
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

MONEY = pa.decimal128(38, 22)


def parameter(name: str | None, value: Any) -> Any:
    """Return a query parameter for Google's client. A list becomes an array. A list of mappings becomes an array of structs."""
    from google.cloud.bigquery import ArrayQueryParameter, ScalarQueryParameter, StructQueryParameter

    if isinstance(value, list):
        if value and isinstance(value[0], dict):
            structs = [StructQueryParameter(None, *(parameter(key, item) for key, item in row.items())) for row in value]
            return ArrayQueryParameter(name, "STRUCT", structs)
        return ArrayQueryParameter(name, _kind(value[0]) if value else "STRING", value)
    return ScalarQueryParameter(name, _kind(value), value)


def _kind(value: object) -> str:
    """Return the GoogleSQL type of a parameter. Null has no type of its own, so it gets STRING."""
    kinds: tuple[tuple[type, str], ...] = (
        (bool, "BOOL"),
        (int, "INT64"),
        (float, "FLOAT64"),
        (Decimal, "BIGNUMERIC"),
        (dt.datetime, "TIMESTAMP"),
        (dt.date, "DATE"),
    )
    return next((name for kind, name in kinds if isinstance(value, kind)), "STRING")


def exact(rows: pa.Table) -> pa.Table:
    """Return the rows with money as decimal128(38, 22), as DuckDB returns it. More decimals are rounded, half away from zero."""
    for index, field in enumerate(rows.schema):
        if pa.types.is_decimal(field.type) and field.type != MONEY:
            column = rows.column(index)
            if field.type.scale > MONEY.scale:
                column = pc.round(column, ndigits=MONEY.scale, round_mode="half_towards_infinity")
            rows = rows.set_column(index, field.name, column.cast(MONEY))
    return rows
