"""Convert values for BigQuery and back: parameters of a query, and the money in its rows."""

from __future__ import annotations

import datetime as dt
from decimal import Decimal
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

MONEY = pa.decimal128(38, 22)


def parameter(name: str | None, value: Any) -> Any:
    """Return a query parameter for Google's client. A list becomes an array, of structs if its items are mappings."""
    from google.cloud.bigquery import ArrayQueryParameter, ScalarQueryParameter, StructQueryParameter

    if isinstance(value, list):
        if value and isinstance(value[0], dict):
            structs = [StructQueryParameter(None, *(parameter(key, item) for key, item in row.items())) for row in value]
            return ArrayQueryParameter(name, "STRUCT", structs)
        return ArrayQueryParameter(name, _kind(value[0]) if value else "STRING", value)
    return ScalarQueryParameter(name, _kind(value), value)


def _kind(value: object) -> str:
    """Return GoogleSQL's type of a parameter; STRING for null, whose type is unknown."""
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
    """Return money with 22 decimals, as the other engine does. A user's query may return more."""
    for index, field in enumerate(rows.schema):
        if pa.types.is_decimal(field.type) and field.type != MONEY:
            column = rows.column(index)
            if field.type.scale > MONEY.scale:
                column = pc.round(column, ndigits=MONEY.scale, round_mode="half_towards_infinity")
            rows = rows.set_column(index, field.name, column.cast(MONEY))
    return rows
