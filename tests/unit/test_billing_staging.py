"""Rows while they are staged: what is asked of them comes back to the row it was asked of."""

from __future__ import annotations

import datetime as dt
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from runspend.billing import settle
from runspend.billing.lines import write_lines
from runspend.billing.staging import Staged, delivered_fields

# More than DuckDB hands to one thread at a time, so that it could mix them up.
ROWS = 400_000


def stage_numbered(staged: Staged, file_index: int, rows: int) -> None:
    """So many rows of October, each with its number as its cost."""
    start = dt.datetime(2026, 10, 1, tzinfo=dt.timezone.utc)
    said = {
        "billed_cost": pa.arange(0, rows).cast(pa.decimal128(19)).cast(pa.decimal128(38, 22)),
        "billing_currency": pa.repeat(pa.scalar("USD"), rows).dictionary_encode(),
        "billing_period": pa.repeat(pa.scalar(dt.date(2026, 10, 1), pa.date32()), rows),
        "charge_period_start": pa.repeat(pa.scalar(start, pa.timestamp("us", "UTC")), rows),
        "row_number": pa.arange(0, rows),
        "file_index": pa.repeat(pa.scalar(file_index, pa.int32()), rows),
    }
    staged.add(file_index, pa.table({f.name: said[f.name] if f.name in said else pa.nulls(rows, f.type) for f in delivered_fields()}))


def test_answers_come_in_the_order_of_the_rows(tmp_path: Path) -> None:
    with Staged(tmp_path) as staged:
        stage_numbered(staged, 0, ROWS)
        staged.con.execute("create temp table odd as select unnest(range(1, 2000, 2)) as number")
        for _ in range(5):
            numbers = staged.ask_rows("case when row_number in (select number from odd) then -row_number else row_number end")
            assert pc.abs(numbers).equals(pa.arange(0, ROWS))


def test_lines_have_the_ids_of_their_own_rows_and_the_files_that_were_chosen(tmp_path: Path) -> None:
    with Staged(tmp_path) as staged:
        for file_index in range(2):
            stage_numbered(staged, file_index, ROWS // 2)
        staged.join_up()
        settle.settle_rows(staged, "aws", settle.Rules())
        is_second = pc.equal(staged.column("file_index"), 1)
        wanted = {
            f"{row_hash:016x}-{ordinal}": cost
            for row_hash, ordinal, cost in zip(
                *(staged.column(n).filter(is_second).to_pylist() for n in ("row_hash", "ordinal", "billed_cost")), strict=True
            )
        }
        write_lines(staged, "aws", "2026-10", [1], "load", tmp_path / "lines.parquet", is_scoped=False)
    found = pq.read_table(tmp_path / "lines.parquet", columns=["line_id", "billed_cost"])
    assert dict(zip(found.column(0).to_pylist(), found.column(1).to_pylist(), strict=True)) == wanted
