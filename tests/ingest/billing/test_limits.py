"""Hostile bills of every format: invalid times, endless headers, endlessly nested JSON.

Runspend refuses or quarantines them quickly, and names the problem.
"""

from __future__ import annotations

import json
import time
from decimal import Decimal
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from runspend.core.errors import SourceRefused
from runspend.ingest.billing import quick_csv
from tests import azure_files, cur_files, focus_files, gcp_files
from tests.focus_files import nights, only, row

NO_TIMES = (
    "2026-10-31T23:00:00+99:99",
    "2026-10-31T23:00:00-99:99",
    "2026-10-31T23:00:00+99",
    "2026-10-31T23:00:00-9999",
    "2026-10-31T23:00:00+14:01",
    "2026-10-31T23:00:00-14:01",
    "2026-10-31T23:00:00-15:00",
    "2026-10-31T23:00:00-23:59",
    "2026-10-31T23:00:00+05:60",
    "2026-10-31T23:00:00-05:30:59",
    "2026-10-31T23:00:00.5-99:99",
    "2026-10-31T23:00-99:99",
    "2026-10-31 23:00:00-99:99",
    "2026-10-31T24:00:00Z",
    "2026-10-31 24:00:00",
    "2026-10-31T23:59:60Z",
    "2026-10-31T25:00:00Z",
    "2026-10-31T23:60:00Z",
    "2026-10-32T00:00:00Z",
    "0000-10-31T00:00:00Z",
    "0001-10-31T00:00:00Z",
    "9999-12-31T23:00:00Z",
    "10000-01-01T00:00:00Z",
    "-2026-10-31T00:00:00Z",
    "infinity",
    "epoch",
    "now",
)
TIMES = {
    "2026-10-31T23:00:00+14:00": "2026-10-31 09:00:00",
    "2026-10-31T23:00:00+1400": "2026-10-31 09:00:00",
    "2026-10-31T23:00:00-00:59": "2026-10-31 23:59:00",
    "2026-10-31T23:00:00+05:30": "2026-10-31 17:30:00",
    "2026-10-31T23:00:00.250Z": "2026-10-31 23:00:00.250000",
    "2026-10-31 23:00:00 UTC": "2026-10-31 23:00:00",
    "2026-10-31 23:00:00": "2026-10-31 23:00:00",
    "2026-10-24T23:00:00Z": "2026-10-24 23:00:00",
}


def write_json(path: Path, rows: list[dict[str, Any]]) -> None:
    path.write_text("".join(json.dumps(r) + "\n" for r in rows), encoding="utf-8")


def write_parquet(path: Path, rows: list[dict[str, Any]]) -> None:
    pq.write_table(pa.Table.from_pylist([{k: v or None for k, v in r.items()} for r in rows]), path)


def write_focus(path: Path, rows: list[dict[str, str]]) -> None:
    path.parent.mkdir()
    writers = {".csv": focus_files.write_csv, ".jsonl": write_json, ".parquet": write_parquet}
    writers[path.suffix](path, rows)


@pytest.mark.parametrize("kind", ["csv", "jsonl", "parquet"])
@pytest.mark.parametrize("column", ["ChargePeriodStart", "BillingPeriodStart"])
def test_focus_sets_rows_with_an_invalid_time_aside(tmp_path: Path, kind: str, column: str) -> None:
    """Such a row never counts as another month's charge, and the valid rows next to it are loaded."""
    rows = [row("1.00"), *(row("8.00", **{column: text}) for text in NO_TIMES)]
    write_focus(tmp_path / "in" / f"bill.{kind}", rows)
    bill = nights(tmp_path, tmp_path / "in")
    load = bill.load()
    assert [p.period for p in load.periods] == ["2026-10"]
    assert bill.total() == Decimal("1.00")
    assert len(bill.rows("billing_quarantine")) == len(NO_TIMES)


@pytest.mark.parametrize("text", NO_TIMES)
def test_the_fast_reader_leaves_odd_times_to_the_exact_one(text: str) -> None:
    assert quick_csv._read_times(pa.array(["2026-10-31T23:00:00Z", text]).dictionary_encode()) is None


@pytest.mark.parametrize("kind", ["csv", "jsonl", "parquet"])
def test_focus_reads_every_valid_spelling_of_a_time(tmp_path: Path, kind: str) -> None:
    write_focus(
        tmp_path / "in" / f"bill.{kind}", [row("1.00", ChargePeriodStart=text, ChargePeriodEnd="2026-11-01T00:00:00Z") for text in TIMES]
    )
    bill = nights(tmp_path, tmp_path / "in")
    bill.load()
    assert not bill.rows("billing_quarantine")
    assert sorted(str(r["charge_period_start"].replace(tzinfo=None)) for r in bill.lines()) == sorted(TIMES.values())


def test_aws_sets_rows_with_an_invalid_time_aside(tmp_path: Path) -> None:
    lines = [cur_files.line(cost="1.00"), *(cur_files.line(cost="8.00", line_item_usage_start_date=text) for text in NO_TIMES)]
    cur_files.write_cur(tmp_path / "in" / "a.csv", lines)
    bill = nights(tmp_path, tmp_path / "in")
    assert [p.period for p in bill.load().periods] == ["2026-10"]
    assert bill.total() == Decimal("1.00")
    assert len(bill.rows("billing_quarantine")) == len(NO_TIMES)


def test_google_sets_rows_with_an_invalid_time_aside(tmp_path: Path) -> None:
    rows = [gcp_files.gcp("1.00"), *(gcp_files.gcp("8.00") | {"usage_start_time": text} for text in NO_TIMES)]
    gcp_files.write_csv(tmp_path / "in" / "a.csv", rows)
    bill = nights(tmp_path, tmp_path / "in")
    bill.load()
    assert bill.total() == Decimal("1.00")
    assert len(bill.rows("billing_quarantine")) == len(NO_TIMES)


def test_azure_sets_rows_with_an_invalid_day_aside(tmp_path: Path) -> None:
    folder = tmp_path / "in"
    folder.mkdir()
    odd = [text for text in NO_TIMES if "T24" in text or " 24" in text or "+99" in text]
    rows = [azure_files.cost("1.00"), *(azure_files.cost("8.00", Date=text) for text in odd)]
    (folder / "a.csv").write_text(azure_files.text(rows), encoding="utf-8")
    bill = nights(tmp_path, folder)
    bill.load()
    assert bill.total("2026-10") + bill.total("2026-11") == Decimal("1.00")
    assert len(bill.rows("billing_quarantine", "2026-10")) + len(bill.rows("billing_quarantine", "2026-11")) == len(odd)


WIDE = 100_000
FORMATS = ("auto", "focus", "aws-cur", "gcp", "azure", "databricks", "slurm")


@pytest.mark.parametrize(("kind", "format_name"), [*(("csv", name) for name in FORMATS), ("jsonl", "auto"), ("parquet", "auto")])
def test_a_header_without_end_is_refused_at_once(tmp_path: Path, kind: str, format_name: str) -> None:
    folder = tmp_path / "in"
    folder.mkdir()
    wide = WIDE // 10 if kind == "parquet" else WIDE  # writing a wider file takes minutes
    names = [*focus_files.ROW, *cur_files.LINE, *(f"column_{n}" for n in range(wide))]
    if kind == "csv":
        (folder / "bill.csv").write_text(",".join(names) + "\n" + ",".join(["1"] * len(names)) + "\n", encoding="utf-8")
    elif kind == "jsonl":
        (folder / "bill.jsonl").write_text(json.dumps(dict.fromkeys(names, "1")) + "\n", encoding="utf-8")
    else:
        pq.write_table(pa.table({name: pa.array(["1"]) for name in names}), folder / "bill.parquet")
    settings = {"slurm": {"prices": {"gpu": "1"}}} if format_name == "slurm" else {}
    bill = nights(tmp_path, folder, format=format_name, **settings)
    began = time.process_time()
    with pytest.raises(SourceRefused, match=rf"bill\.{kind} of the bill: it has 10\d?,\d{{3}} columns, more than 5,000"):
        bill.load()
    assert time.process_time() - began < 4


def test_a_header_with_hundreds_of_columns_is_read_in_seconds(tmp_path: Path) -> None:
    lines = [{**cur_files.line(cost="1.00"), **{f"resource_tags_user_{n}": "x" for n in range(900)}}]
    cur_files.write_cur(tmp_path / "in" / "a.csv", lines)
    bill = nights(tmp_path, tmp_path / "in")
    began = time.process_time()
    bill.load()
    assert bill.total() == Decimal("1.00")
    assert time.process_time() - began < 10


@pytest.mark.parametrize("depth", [101, 990, 5_000, 200_000])
@pytest.mark.parametrize("opening", ["[", '{"a":'])
def test_a_manifest_nested_without_end_is_refused_by_name(tmp_path: Path, depth: int, opening: str) -> None:
    folder = tmp_path / "in" / "20261001-20261101"
    folder.mkdir(parents=True)
    (folder / "a-manifest.json").write_text(
        '{"dataFiles": ' + opening * depth + "1" + ("]" if opening == "[" else "}") * depth + "}", encoding="utf-8"
    )
    focus_files.write_csv(folder / "a.csv", [row()])
    load = nights(tmp_path, tmp_path / "in", delivery="manifest").load()
    assert only(load).state == "refused"
    assert "a-manifest.json is not valid JSON" in str(only(load).error)


@pytest.mark.parametrize("depth", [101, 990, 5_000])
def test_json_lines_nested_without_end_are_refused_by_name(tmp_path: Path, depth: int) -> None:
    folder = tmp_path / "in"
    folder.mkdir()
    deep = '{"a":' * depth + "1" + "}" * depth
    (folder / "a.jsonl").write_text(json.dumps(row())[:-1] + f', "x_Deep": {deep}}}\n', encoding="utf-8")
    with pytest.raises(SourceRefused, match=r"a\.jsonl"):
        nights(tmp_path, folder).load()


@pytest.mark.parametrize("depth", [101, 990, 5_000])
@pytest.mark.parametrize("column", ["Tags", "SkuPriceDetails"])
def test_a_column_of_json_nested_without_end_counts_as_empty(tmp_path: Path, depth: int, column: str) -> None:
    write_focus(tmp_path / "in" / "bill.csv", [row("1.00", **{column: ""}), row("2.00", **{column: '{"a":' * depth + "1" + "}" * depth})])
    bill = nights(tmp_path, tmp_path / "in")
    bill.load()
    assert bill.total() == Decimal("3.00")


def test_parquet_columns_in_columns_without_end_are_refused_by_name(tmp_path: Path) -> None:
    folder = tmp_path / "in"
    folder.mkdir()
    kind: pa.DataType = pa.string()
    for _ in range(400):
        kind = pa.struct([("a", kind)])
    table = pa.table({name: pa.array([value]) for name, value in row().items()}).append_column("x_Deep", pa.nulls(1, kind))
    pq.write_table(table, folder / "a.parquet")
    with pytest.raises(SourceRefused, match=r"a\.parquet"):
        nights(tmp_path, folder).load()
