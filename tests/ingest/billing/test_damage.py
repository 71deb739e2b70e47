"""Odd and damaged files of every format. Runspend reads them exactly or refuses them by name, and never crashes or skips them silently."""

from __future__ import annotations

import csv
import io
import json
from decimal import Decimal
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from runspend.core.errors import SourceRefused
from runspend.ingest.billing import delivered_files as arrivals
from runspend.ingest.billing import file_sources as places
from tests import azure_files, cur_files, focus_files, gcp_files
from tests.focus_files import nights, only, write_bytes


def test_a_file_that_disappears_between_listing_and_reading_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = cur_files.write_cur(tmp_path / "in" / "a.csv", [cur_files.line()])
    fetch = places.LocalFolder.fetch

    def vanish(self: places.LocalFolder, entry: places.Entry) -> Path:
        path.unlink()
        return fetch(self, entry)

    monkeypatch.setattr(places.LocalFolder, "fetch", vanish)
    with pytest.raises(SourceRefused, match=r"cannot load a\.csv of the bill: it disappeared after the folder was listed"):
        nights(tmp_path, tmp_path / "in").load()


@pytest.mark.parametrize("step", ["read_header", "find_format"])
def test_a_file_that_disappears_while_it_is_read_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: str) -> None:
    """The file disappears before Runspend reads its header, or before it reads its rows."""
    path = cur_files.write_cur(tmp_path / "in" / "a.csv", [cur_files.line()])
    whole = getattr(arrivals, step)

    def vanish(*given: object) -> object:
        if step == "read_header":
            path.unlink()
        found = whole(*given)
        path.unlink()
        return found

    monkeypatch.setattr(arrivals, step, vanish)
    with pytest.raises(SourceRefused, match=r"a\.csv disappeared while it was read"):
        nights(tmp_path, tmp_path / "in").load()


def test_a_parquet_file_with_a_changed_byte_is_refused(tmp_path: Path) -> None:
    """The writer stored checksums of the pages. Without them, Runspend can detect only some changes."""
    table = cur_files.parquet_table([cur_files.line(cost=f"{n}.25") for n in range(500)])
    path = tmp_path / "in" / "a.parquet"
    path.parent.mkdir()
    pq.write_table(table, path, write_page_checksum=True, compression="none", use_dictionary=False)
    whole = path.read_bytes()
    for at in (200, len(whole) // 3, len(whole) // 2):
        path.write_bytes(whole[:at] + bytes([whole[at] ^ 0xFF]) + whole[at + 1 :])
        with pytest.raises(SourceRefused, match=r"cannot load a\.parquet of the bill"):
            nights(tmp_path / str(at), tmp_path / "in").load()


def test_a_manifest_of_nothing_but_brackets_is_refused(tmp_path: Path) -> None:
    """Python raises a RecursionError for it."""
    cur_files.write_cur(tmp_path / "in/export/data/BILLING_PERIOD=2026-10/a.csv.gz", [cur_files.line()])
    write_bytes(tmp_path / "in/export/metadata/BILLING_PERIOD=2026-10/export-Manifest.json", b"[" * 100_000)
    [period] = nights(tmp_path, tmp_path / "in").load().periods
    assert period.state == "refused" and "is not valid JSON" in str(period.error)


def test_an_underscore_is_not_part_of_a_number(tmp_path: Path) -> None:
    """DuckDB would read 1_000 as a thousand."""
    covered = cur_files.line("SavingsPlanCoveredUsage", "2.00", savings_plan_savings_plan_effective_cost="1_000")
    bill = nights(tmp_path / "cur", cur_files.write_cur(tmp_path / "cur" / "a.csv", [covered]))
    assert only(bill.load()).extra["unreadable"] == {"EffectiveCost": 1}
    assert [line["effective_cost"] for line in bill.lines()] == [None]
    bill = nights(tmp_path / "focus", focus_files.write_csv(tmp_path / "focus" / "a.csv", [focus_files.row() | {"EffectiveCost": "1_000"}]))
    assert only(bill.load()).extra["unreadable"] == {"EffectiveCost": 1}
    bill = nights(
        tmp_path / "azure",
        write_bytes(tmp_path / "azure" / "a.csv", azure_files.text([azure_files.cost("1.00", Quantity="1_000")]).encode()),
        format="azure",
    )
    bill.load()
    assert [line["billed_nanoseconds"] for line in bill.lines()] == [None]


def test_googles_json_lines_may_be_in_a_file_named_json(tmp_path: Path) -> None:
    gcp_files.write_csv(tmp_path / "in" / "a.csv", [gcp_files.gcp("1.00")])
    gcp_files.write_jsonl(tmp_path / "in" / "b.json", [gcp_files.gcp("2.00", "2026-10-06T10:00:00Z")])
    bill = nights(tmp_path, tmp_path / "in", format="gcp")
    bill.load()
    assert bill.total() == Decimal(3)


def test_files_that_look_like_a_bill_and_are_not_read_are_reported(tmp_path: Path) -> None:
    focus_files.write_csv(tmp_path / "in" / "a.csv", [focus_files.row()])
    for name in ("b.xlsx", "c.json", "notes.md"):
        write_bytes(tmp_path / "in" / name, b"x")
    assert nights(tmp_path, tmp_path / "in").load().extra["warnings"]["files that are not read"] == "b.xlsx, c.json"


def test_data_of_a_month_without_a_manifest_is_reported_where_others_have_one(tmp_path: Path) -> None:
    for month in ("2026-10", "2026-11"):
        cur_files.write_cur(tmp_path / f"in/export/data/BILLING_PERIOD={month}/a.csv.gz", [cur_files.line(**cur_files.month(month))])
    manifest = {"dataFiles": ["in/export/data/BILLING_PERIOD=2026-10/a.csv.gz"]}
    write_bytes(tmp_path / "in/export/metadata/BILLING_PERIOD=2026-10/export-Manifest.json", json.dumps(manifest).encode())
    load = nights(tmp_path, tmp_path / "in").load()
    assert [(p.period, p.state) for p in load.periods] == [("2026-10", "loaded")]
    assert load.extra["warnings"] == {"files that are not read": "export/data/BILLING_PERIOD=2026-11/a.csv.gz"}


@pytest.mark.parametrize(("ends", "within"), [("\r\n", "\n"), ("\n", "\r\n"), ("\n", "\n")])
def test_a_line_break_inside_quotes_breaks_no_row(tmp_path: Path, ends: str, within: str) -> None:
    """This holds for all line endings. Runspend makes its normalized copy outside the user's folder."""
    lines = [cur_files.line(cost=cost, line_item_line_item_description=f"two{within}lines") for cost in ("1.00", "2.00")]
    out = io.StringIO()
    writer = csv.DictWriter(out, list(lines[0]), lineterminator=ends)
    writer.writeheader()
    writer.writerows(lines)
    bill = nights(tmp_path, write_bytes(tmp_path / "in" / "a.csv", out.getvalue().encode()).parent)
    bill.load()
    assert bill.total() == Decimal(3)
    assert [path.name for path in (tmp_path / "in").iterdir()] == ["a.csv"]


@pytest.mark.parametrize("cost", ["0.10000000000000001", "9007199254740993.5", "0.1234567890123456", "12.5"])
def test_a_number_in_json_keeps_every_digit(tmp_path: Path, cost: str) -> None:
    line = json.dumps(gcp_files.flat(gcp_files.gcp("COST")) | {"cost_at_list": "1"}, default=str).replace('"COST"', cost)
    bill = nights(tmp_path, write_bytes(tmp_path / "in" / "a.jsonl", f"{line}\n".encode()).parent, format="gcp")
    bill.load()
    assert bill.total() == Decimal(cost)


@pytest.mark.parametrize("where", ["first", "last"])
def test_an_empty_object_of_json_takes_nothing_from_other_rows(tmp_path: Path, where: str) -> None:
    """BigQuery leaves out null values, so the resource of a tax is {}, and so is adjustment_info of a usual charge."""
    usage = gcp_files.gcp("2.00", labels=[{"key": "team", "value": "vision"}]) | {"adjustment_info": {}}
    tax = gcp_files.gcp("0.50", cost_type="tax", resource={}, project={}) | {"adjustment_info": {}}
    credit = gcp_files.gcp("-1.00", cost_type="adjustment") | {"adjustment_info": {"id": "a1", "type": "GOODWILL"}}
    rows = [tax, usage, credit] if where == "first" else [credit, usage, tax]
    bill = nights(tmp_path, gcp_files.write_jsonl(tmp_path / "bill.jsonl", rows), format="gcp")
    bill.load()
    found = {r["billed_cost"]: (r["charge_category"], r["resource_key"], r["sub_account_id"]) for r in bill.lines()}
    assert found == {
        Decimal(2): ("Usage", "projects/ml/zones/us-central1-a/instances/4711", "ml"),
        Decimal("0.5"): ("Tax", None, None),
        Decimal(-1): ("Credit", "projects/ml/zones/us-central1-a/instances/4711", "ml"),
    }


def test_json_of_nothing_but_braces_is_refused(tmp_path: Path) -> None:
    deep = '{"a":' * 20_000 + "1" + "}" * 20_000
    text = json.dumps(gcp_files.flat(gcp_files.gcp("2")), default=str)
    bill = nights(tmp_path, write_bytes(tmp_path / "a.jsonl", f"{text}\n{deep}\n".encode()), format="gcp")
    with pytest.raises(SourceRefused, match=r"a\.jsonl .* its objects are nested deeper than in any bill"):
        bill.load()


def test_an_object_of_json_that_names_a_cost_twice_is_refused(tmp_path: Path) -> None:
    """Some readers of JSON use the first value, others the last."""
    text = json.dumps(gcp_files.flat(gcp_files.gcp("2")), default=str)
    bill = nights(tmp_path, write_bytes(tmp_path / "a.jsonl", f'{text}\n{text[:-1]}, "cost": 99}}\n'.encode()), format="gcp")
    with pytest.raises(SourceRefused, match="names cost more than once"):
        bill.load()


def test_amortized_usage_with_a_commitments_id_and_no_pricing_model_is_covered(tmp_path: Path) -> None:
    """Usage costs 2, covered usage 0.6 and unused commitment 0.4. The reservation was bought for 31."""
    none = {"PricingModel": ""}
    amortized = [
        azure_files.cost("2.00", **none),
        azure_files.cost("0.60", ReservationId="r1", **none),
        azure_files.cost("0.40", ReservationId="r1", ChargeType="UnusedReservation", **none),
    ]
    actual = [
        azure_files.cost("2.00", **none),
        azure_files.cost("0", ReservationId="r1", **none),
        azure_files.cost("31.00", ReservationId="r1", ChargeType="Purchase", **none),
    ]
    for name, rows in (("amortized", amortized), ("actual", actual)):
        write_bytes(tmp_path / "in" / name / "a.csv", azure_files.text(rows).encode())
    bill = nights(tmp_path, tmp_path / "in", format="azure")
    bill.load()
    assert (bill.total(), bill.total(column="effective_cost")) == (Decimal(33), Decimal(3))


def test_a_month_without_a_readable_row_is_an_error_each_time_it_is_loaded(tmp_path: Path) -> None:
    """The rows are quarantined with their reasons. The error ends with a delivery that has at least one readable row."""
    bad = focus_files.row(BillingCurrency="MC")
    bill = nights(tmp_path, focus_files.write_csv(tmp_path / "in" / "a.csv", [bad, {**bad, "ResourceId": "i-2"}]))
    for state in ("loaded", "unchanged", "unchanged"):
        found = only(bill.load())
        assert (found.state, type(found.error)) == (state, SourceRefused)
        assert str(found.error).startswith(
            "cannot load 2026-10 of the bill: none of its 2 rows can be read: BillingCurrency is 'MC', which is not"
        )
    assert len(bill.rows("billing_quarantine")) == 2
    focus_files.write_csv(tmp_path / "in" / "a.csv", [bad, focus_files.row()])
    for state in ("loaded", "unchanged"):
        found = only(bill.load())
        assert (found.state, found.error) == (state, None)
    assert len(bill.rows("billing_quarantine")) == 1


@pytest.mark.parametrize("billed", ["0", "500"])
def test_a_month_with_charges_stays_if_no_row_of_the_next_delivery_can_be_read(tmp_path: Path, billed: str) -> None:
    """Usage that a commitment covers has a billed cost of 0, so the check of falling totals would not stop this delivery."""
    good = focus_files.row(BilledCost=billed, EffectiveCost="500")
    bill = nights(tmp_path, focus_files.write_csv(tmp_path / "in" / "a.csv", [good]))
    assert only(bill.load()).error is None
    focus_files.write_csv(tmp_path / "in" / "a.csv", [{**good, "BillingCurrency": "MC"}])
    for _ in range(2):
        found = only(bill.load())
        assert found.state == "refused"
        assert str(found.error).startswith(
            "cannot load 2026-10 of the bill: its only row cannot be read: BillingCurrency is 'MC', which is not"
        )
        assert str(found.error).endswith("billing[].format. The period did not change.")
        assert bill.total(column="effective_cost") == Decimal(500)


def test_a_delivery_without_rows_is_not_unreadable(tmp_path: Path) -> None:
    """The folder's name gives the month, which has no charges yet."""
    focus_files.write_csv(tmp_path / "in" / "BILLING_PERIOD=2026-10" / "a.csv", [])
    bill = nights(tmp_path, tmp_path / "in")
    assert [period.error for period in bill.load().periods] == [None]
    assert [period.error for period in bill.load().periods] == [None]
