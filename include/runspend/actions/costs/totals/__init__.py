"""A few rows of totals for each asset that the DAGs emit, for programs that read Airflow's asset events."""

from __future__ import annotations

from decimal import Decimal
from pathlib import Path
from typing import TYPE_CHECKING, Any

from runspend.core.amounts import plain
from runspend.warehouse.base import Reader

if TYPE_CHECKING:
    import pyarrow as pa

__all__ = ["TOTALS", "as_json", "read_totals"]

TOTALS = ("runs", "bills", "artifact_bytes", "costs")


def read_totals(reader: Reader, asset: str) -> pa.Table:
    """Return the totals of an asset: at most 100 rows, newest period first. `asset` is one of TOTALS."""
    return reader.query((Path(__file__).parent / f"{asset}.sql").read_text(encoding="utf-8"))


def as_json(totals: pa.Table) -> list[dict[str, Any]]:
    """Return the rows as values for JSON: amounts as strings with all their digits, months as YYYY-MM."""
    return [
        {name: value if isinstance(value, (str, int)) or value is None else _text(value) for name, value in row.items()}
        for row in totals.to_pylist()
    ]


def _text(value: Any) -> str:
    return plain(value) if isinstance(value, Decimal) else f"{value:%Y-%m}"
