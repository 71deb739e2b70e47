"""Digests of rows of other months: which changes are seen, and which are none."""

from __future__ import annotations

import datetime as dt
from decimal import Decimal
from typing import Any

import pyarrow as pa
import pytest

from runspend.allocation.rows_digest import NO_ROWS, rows_digest

SCHEMA = pa.schema(
    [
        ("name", pa.string()), ("other_name", pa.string()), ("machines", pa.list_(pa.string())), ("start", pa.timestamp("us", "UTC")), ("day", pa.date32()),
        ("hours", pa.float64()), ("units", pa.int64()), ("is_late", pa.bool_()), ("cost", pa.decimal128(38, 22)),
    ]
)  # fmt: skip
ROW: dict[str, Any] = {
    "name": "i-1", "other_name": "node", "machines": ["a", "b"], "start": dt.datetime(2026, 10, 1, 5, tzinfo=dt.timezone.utc), "day": dt.date(2026, 10, 1),
    "hours": 0.1, "units": 8, "is_late": False, "cost": Decimal("1.5"),
}  # fmt: skip


def digest_of(*rows: dict[str, Any], batch: int = 100) -> str:
    return rows_digest(pa.Table.from_pylist(list(rows), schema=SCHEMA).to_batches(max_chunksize=batch))


@pytest.mark.parametrize("batch", [1, 2, 3, 7])
def test_sizes_of_batches_do_not_change_a_digest(batch: int) -> None:
    rows = [ROW | {"units": n} for n in range(7)]
    assert digest_of(*rows, batch=batch) == digest_of(*rows)


def test_no_rows_have_a_digest_of_their_own() -> None:
    assert digest_of() == NO_ROWS != digest_of(dict.fromkeys(ROW))


@pytest.mark.parametrize("column", ROW)
def test_a_null_is_not_a_value(column: str) -> None:
    assert digest_of(ROW | {column: None}) != digest_of(ROW)


@pytest.mark.parametrize(
    "changed",
    [
        {"name": "i-1node", "other_name": ""}, {"name": None, "other_name": "i-1"}, {"machines": ["ab"]}, {"machines": ["a,b"]}, {"machines": ["b", "a"]},
        {"start": ROW["start"] + dt.timedelta(microseconds=1)}, {"day": dt.date(2026, 10, 2)}, {"hours": 0.1 + 2e-17}, {"units": -8}, {"is_late": True},
        {"cost": Decimal("1.5000000000000000000001")},
    ],
    ids=str,
)  # fmt: skip
def test_the_smallest_change_gives_another_digest(changed: dict[str, Any]) -> None:
    assert digest_of(ROW | changed) != digest_of(ROW)


def test_order_and_number_of_rows_count() -> None:
    other = ROW | {"units": 9}
    assert len({digest_of(ROW, other), digest_of(other, ROW), digest_of(ROW), digest_of(ROW, ROW)}) == 4


def test_types_in_which_the_engines_differ_give_the_same_digest() -> None:
    """DuckDB counts in 38 digits, BigQuery in 64 bits; BigQuery has no null lists, and its times may have another zone's name."""
    table = pa.Table.from_pylist([ROW, ROW | {"machines": []}], schema=SCHEMA)
    other = table.set_column(6, "units", table["units"].cast(pa.decimal128(38, 0)))
    other = other.set_column(3, "start", other["start"].cast(pa.timestamp("us", "Etc/UTC")))
    other = other.set_column(2, "machines", pa.chunked_array([pa.array([["a", "b"], None], pa.list_(pa.string()))]))
    assert rows_digest(other.to_batches()) == rows_digest(table.to_batches())
