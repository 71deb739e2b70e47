"""Staged rows: answers of SQL about them return to the right rows."""

from __future__ import annotations

import datetime as dt
from dataclasses import replace
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest

from runspend.ingest.billing import columns, normalize, staging
from runspend.ingest.billing.billing_lines import write_lines
from runspend.ingest.billing.memory_budget import room_of
from runspend.ingest.billing.staging import Staged, delivered_fields

# more than DuckDB gives one thread at a time, so it could mix up their order
ROWS = 400_000


def stage_numbered(staged: Staged, file_index: int, rows: int, **more: pa.Array) -> None:
    """Stage so many rows of October with `more` columns. The cost of each row is its number."""
    start = dt.datetime(2026, 10, 1, tzinfo=dt.timezone.utc)
    given = {
        "billed_cost": pa.arange(0, rows).cast(pa.decimal128(19)).cast(pa.decimal128(38, 22)),
        "billing_currency": pa.repeat(pa.scalar("USD"), rows).dictionary_encode(),
        "billing_period": pa.repeat(pa.scalar(dt.date(2026, 10, 1), pa.date32()), rows),
        "charge_period_start": pa.repeat(pa.scalar(start, pa.timestamp("us", "UTC")), rows),
        "row_number": pa.arange(0, rows),
        "file_index": pa.repeat(pa.scalar(file_index, pa.int32()), rows),
        **more,
    }
    staged.add(file_index, pa.table({f.name: given[f.name] if f.name in given else pa.nulls(rows, f.type) for f in delivered_fields()}))


def test_answers_are_in_the_order_of_the_rows(tmp_path: Path) -> None:
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
        normalize.normalize_rows(staged, "aws", normalize.Rules())
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


@pytest.mark.parametrize("file_indexes", [[0, 1], [1]])
def test_ids_of_rows_that_all_differ_are_those_that_sql_computes(tmp_path: Path, file_indexes: list[int]) -> None:
    """This holds for all rows and for those of some files. Some hashes begin with zeros."""
    with Staged(tmp_path) as staged:
        for file_index in range(2):
            stage_numbered(staged, file_index, 2000, resource_id=pa.array([f"i-{file_index}-{n}" for n in range(2000)]).dictionary_encode())
        staged.join_up()
        normalize.normalize_rows(staged, "aws", normalize.Rules())
        given = staged.con.sql(
            f"select {staging.LINE_ID} as id, resource_id from staged where list_contains({file_indexes}, file_index)"
        ).fetchall()
        write_lines(staged, "aws", "2026-10", file_indexes, "load", tmp_path / "lines.parquet", is_scoped=False)
    found = pq.read_table(tmp_path / "lines.parquet", columns=["line_id", "resource_id"]).to_pylist()
    assert {(row["line_id"], row["resource_id"]) for row in found} == set(given)
    assert any(line_id.startswith("00") for line_id, _ in given) and len(found) == len(given)


@pytest.mark.parametrize(
    ("code", "known"),
    [
        ("USD", True),
        ("EUR", True),
        ("usd", False),
        ("US", False),
        ("XXY", False),
        ("D|E", False),
        ("|US", False),
        ("", False),
        (None, None),
    ],
)
def test_a_currency_is_one_of_the_codes_and_nothing_like_one(tmp_path: Path, code: str | None, known: bool | None) -> None:
    with Staged(tmp_path) as staged:
        assert staged.con.execute("select is_currency(?::varchar)", [code]).fetchall() == [(known,)]


@pytest.mark.parametrize("kept_bytes", [0, 1 << 30])
def test_deduplication_shortcut_keeps_lines_identical(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kept_bytes: int) -> None:
    """Two files have one machine in a thousand in common, and a part of the tags names a run.

    The columns are in memory or in mapped files.
    """
    monkeypatch.setattr(staging, "room_of", lambda memory: replace(room_of(memory), kept_bytes=kept_bytes))
    rows, found = 60_000, []
    for name, differs in (("plain", columns.nearly_all_differ), ("coded", lambda values: False)):
        monkeypatch.setattr(columns, "nearly_all_differ", differs)
        with Staged(tmp_path / name) as staged:
            for file_index in range(2):
                numbers = [n if n % 1000 == 0 else n + rows * file_index for n in range(rows)]
                ids = pa.array([f"i-{n:017x}" for n in numbers]).dictionary_encode()
                tags = [f'{{"mlflow_run_id": "r{n}"}}' if n % 3 else f'{{"team": "t{n}"}}' for n in numbers]
                stage_numbered(staged, file_index, rows, resource_id=ids, tags=pa.array(tags).dictionary_encode())
            staged.join_up()
            normalize.normalize_rows(staged, "aws", normalize.Rules())
            texts = {each: len(staged.column(each).dictionary) for each in ("resource_id", "resource_key", "run_tag", "tags")}
            assert (texts["resource_id"] > len(set(staged.column("resource_id").to_pylist()))) == (name == "plain")
            write_lines(staged, "aws", "2026-10", [0, 1], "load", tmp_path / f"{name}.parquet", is_scoped=False)
        found.append(pq.read_table(tmp_path / f"{name}.parquet"))
    assert found[0].num_rows == 2 * rows
    assert found[0].equals(found[1])
    assert found[0].column("run_tag").null_count == sum(1 for n in range(2 * rows) if not (n % rows if n % 1000 == 0 else n) % 3)
