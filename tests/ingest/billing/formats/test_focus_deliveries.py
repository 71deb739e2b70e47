"""Deliveries of FOCUS bills: what is loaded, what is refused, and what a refusal leaves in place."""

from __future__ import annotations

import gzip
import json
from datetime import datetime, timedelta, timezone
from decimal import Decimal
from pathlib import Path

import pytest

from runspend.config.settings import BillSource
from runspend.core.errors import SourceRefused, SourceUnreachable
from tests.focus_files import NOW, csv_text, month, nights, only, row, write_bytes, write_csv

T1 = datetime(2026, 11, 1, 3, tzinfo=timezone.utc)
T2 = T1 + timedelta(days=1)


def test_a_restated_month_replaces_the_old_one_and_the_difference_is_shown(tmp_path: Path) -> None:
    """Row ids differ between deliveries, and totals may fall. A delivery replaces the whole month and is never added to it."""
    bill = nights(tmp_path, tmp_path / "in")
    write_csv(tmp_path / "in/oct.csv", [row("10.00", ResourceId="a"), row("5.00", ResourceId="b")], at=T1)
    assert only(bill.load()).state == "loaded"
    write_csv(tmp_path / "in/oct.csv", [row("10.00", ResourceId="a2"), row("2.50", ResourceId="b2")], at=T2)
    assert only(bill.load()).state == "loaded"
    assert (len(bill.lines()), bill.total()) == (2, Decimal("12.50"))
    loads = bill.rows("billing_loads")
    assert [(r["version_number"], r["state"], r["billed_cost"]) for r in loads] == [
        (1, "replaced", Decimal(15)),
        (2, "current", Decimal("12.5")),
    ]
    changes = bill.rows("bill_changes")
    assert [(r["version_number"], r["billed_cost"]) for r in changes] == [(1, Decimal(15)), (2, Decimal("-2.5"))]


def test_an_older_delivery_never_replaces_a_newer_one(tmp_path: Path) -> None:
    bill = nights(tmp_path, tmp_path / "in")
    first = [row("10.00"), row("5.00")]
    write_csv(tmp_path / "in/oct.csv", first, at=T1)
    bill.load()
    write_csv(tmp_path / "in/oct.csv", [row("10.00"), row("2.50")], at=T2)
    bill.load()
    write_csv(tmp_path / "in/oct.csv", first, at=T1)
    refused = only(bill.load())
    assert refused.state == "refused"
    assert "before the version in place" in str(refused.error)
    assert bill.total() == Decimal("12.50")
    assert only(bill.load(accept=["bill:2026-10"])).state == "loaded"
    assert bill.total() == Decimal("15.00")
    assert sum(r["billed_cost"] for r in bill.rows("bill_changes")) == Decimal(15), "the changes sum to the bill in place"
    states = [(r["version_number"], r["state"]) for r in bill.rows("billing_loads")]
    assert sorted(states) == [(1, "replaced"), (2, "replaced"), (4, "current")], "version 3 was refused"


def test_the_same_files_again_change_nothing(tmp_path: Path) -> None:
    bill = nights(tmp_path, tmp_path / "in")
    write_csv(tmp_path / "in/oct.csv", [row("10.00")])
    write_csv(tmp_path / "in/nov.csv", [row("3.00", **month("2026-11"))])
    bill.load()
    again = bill.load()
    assert [(p.period, p.state, p.tables) for p in again.periods] == [("2026-10", "unchanged", {}), ("2026-11", "unchanged", {})]


def test_a_file_that_is_read_again_makes_all_files_of_its_months_read(tmp_path: Path) -> None:
    """A new file for September makes Runspend read a file of September and October again, so October also needs its other file."""
    bill = nights(tmp_path, tmp_path / "in", delivery="parts")
    write_csv(tmp_path / "in/a.csv", [row("1.00", **month("2026-09")), row("2.00")])
    write_csv(tmp_path / "in/b.csv", [row("4.00"), row("8.00", **month("2026-11"))])
    write_csv(tmp_path / "in/c.csv", [row("16.00", **month("2026-11"))])
    bill.load()
    write_csv(tmp_path / "in/new.csv", [row("32.00", **month("2026-09"))])
    assert {p.period: p.state for p in bill.load().periods} == {"2026-09": "loaded", "2026-10": "unchanged", "2026-11": "unchanged"}
    assert [bill.total(period) for period in ("2026-09", "2026-10", "2026-11")] == [Decimal(33), Decimal(6), Decimal(24)]


def test_a_file_of_one_month_leaves_other_months(tmp_path: Path) -> None:
    """One file has two months. A later file for one of them replaces only that month."""
    bill = nights(tmp_path, tmp_path / "in", delivery="versions")
    write_csv(tmp_path / "in/a.csv", [row("20.00", **month("2026-09")), row("0.24")], at=T1)
    bill.load()
    write_csv(tmp_path / "in/b.csv", [row("0.30")], at=T2)
    load = bill.load()
    assert {p.period: p.state for p in load.periods} == {"2026-09": "unchanged", "2026-10": "loaded"}
    assert (bill.total("2026-09"), bill.total("2026-10")) == (Decimal(20), Decimal("0.30"))
    files = json.loads(next(r for r in bill.rows("billing_loads") if r["state"] == "current")["files"])
    assert [(f["name"], f["state"]) for f in files] == [("a.csv", "older"), ("b.csv", "read")]
    assert [p.state for p in bill.load().periods] == ["unchanged", "unchanged"]


def test_three_equal_rows_are_three_lines_and_a_copied_file_counts_once(tmp_path: Path) -> None:
    bill = nights(tmp_path, tmp_path / "in")
    rows = [row("0.05")] * 3 + [row("0.20")]
    write_csv(tmp_path / "in/run1/oct.csv", rows)
    bill.load()
    assert (len(bill.lines()), bill.total()) == (4, Decimal("0.35"))
    assert len({r["line_id"] for r in bill.lines()}) == 4
    write_csv(tmp_path / "in/run2/oct.csv", rows)
    outcome = only(bill.load())
    assert (outcome.state, outcome.error, list(outcome.tables)) == ("unchanged", None, ["billing_loads"])
    assert bill.total() == Decimal("0.35")
    [listed] = bill.rows("billing_loads")
    assert [(f["name"], f["state"]) for f in json.loads(listed["files"])] == [("run1/oct.csv", "read"), ("run2/oct.csv", "duplicate")]
    assert only(bill.load()).tables == {}


def test_two_files_that_may_be_the_same_bill_are_refused_until_delivery_is_set(tmp_path: Path) -> None:
    folder = tmp_path / "in"
    write_csv(folder / "a.csv", [row("1.00"), row("2.00", **month("2026-09"))], at=T1)
    write_csv(folder / "b.csv", [row("1.25")], at=T2)
    bill = nights(tmp_path, folder)
    for _ in range(2):  # reported in every pipeline run, not only the first
        load = bill.load()
        refused = only(load)
        assert refused.state == "refused"
        message = str(refused.error)
        assert "a.csv (1.00 USD)" in message
        assert "b.csv (1.25 USD)" in message
        assert "delivery: parts" in message
        assert "versions" in message
        assert "billing_lines" not in refused.tables
    assert bill.total("2026-09") == Decimal(2)
    assert only(bill.load(source=BillSource(name="bill", uri=str(folder), delivery="parts"))).state == "loaded"
    assert bill.total() == Decimal("2.25")
    assert [r["state"] for r in bill.rows("billing_loads")] == ["current"]
    assert only(bill.load(source=BillSource(name="bill", uri=str(folder), delivery="versions"))).state == "loaded"
    assert bill.total() == Decimal("1.25")


def test_files_of_different_days_or_accounts_add_up(tmp_path: Path) -> None:
    folder = tmp_path / "in"
    write_csv(folder / "a.csv", [row("1.00")])
    write_csv(folder / "b.csv", [row("2.00", BillingAccountId="another")])
    write_csv(folder / "c.csv", [row("4.00", ChargePeriodStart="2026-10-06T00:00:00Z", ChargePeriodEnd="2026-10-06T01:00:00Z")])
    bill = nights(tmp_path, folder)
    assert only(bill.load()).state == "loaded"
    assert bill.total() == Decimal(7)


def test_a_period_without_files_stays_until_its_loss_is_accepted(tmp_path: Path) -> None:
    folder = tmp_path / "in"
    write_csv(folder / "oct.csv", [row("50.00")])
    write_csv(folder / "nov.csv", [row("1.00", **month("2026-11"))])
    bill = nights(tmp_path, folder)
    bill.load()
    (folder / "oct.csv").unlink()
    for _ in range(2):
        refused = only(bill.load())
        assert refused.state == "refused"
        assert "has no source now" in str(refused.error)
        assert "--accept bill:2026-10" in str(refused.error)
        assert bill.total() == Decimal(50)
    assert only(bill.load(accept=["bill:2026-10"])).state == "loaded"
    assert bill.lines() == []
    assert sum(r["billed_cost"] for r in bill.rows("bill_changes")) == 0
    assert only(bill.load()).state == "unchanged"


def test_a_total_that_falls_by_more_than_max_drop_stays_until_it_is_accepted(tmp_path: Path) -> None:
    bill = nights(tmp_path, tmp_path / "in")
    write_csv(tmp_path / "in/oct.csv", [row("50.00")], at=T1)
    bill.load()
    write_csv(tmp_path / "in/oct.csv", [row("25.00")], at=T2)
    assert only(bill.load()).state == "loaded", "exactly half is not more than half"
    write_csv(tmp_path / "in/oct.csv", [row("12.49")], at=T2 + timedelta(days=1))
    for _ in range(2):
        refused = only(bill.load())
        assert refused.state == "refused"
        assert "from 25.00 to 12.49 USD" in str(refused.error)
    assert [r["state"] for r in bill.rows("billing_loads")] == ["replaced", "current", "refused"]
    assert only(bill.load(accept=["other:2026-10"])).state == "refused"
    assert only(bill.load(accept=["bill:2026-10"])).state == "loaded"
    assert bill.total() == Decimal("12.49")


def test_a_day_that_becomes_empty_is_zero_not_stale(tmp_path: Path) -> None:
    bill = nights(tmp_path, tmp_path / "in")
    later = {"ChargePeriodStart": "2026-10-14T00:00:00Z", "ChargePeriodEnd": "2026-10-14T01:00:00Z"}
    write_csv(tmp_path / "in/oct.csv", [row("60.00"), row("40.00", **later)], at=T1)
    bill.load()
    write_csv(tmp_path / "in/oct.csv", [row("60.00")], at=T2)
    bill.load()
    assert bill.total() == Decimal(60)
    assert [(str(r["charge_date"]), r["billed_cost"]) for r in bill.rows("bill_changes") if r["version_number"] == 2] == [
        ("2026-10-14", Decimal(-40))
    ]


def test_a_header_without_rows_is_a_month_without_charges(tmp_path: Path) -> None:
    write_csv(tmp_path / "in/BILLING_PERIOD=2026-10/part.csv", [])
    bill = nights(tmp_path, tmp_path / "in")
    assert only(bill.load()).state == "loaded"
    [listed] = bill.rows("billing_loads")
    assert (listed["row_count"], listed["billed_cost"], listed["state"]) == (0, Decimal(0), "current")
    assert bill.lines() == []


@pytest.mark.parametrize("damage", ["no tail", "half", "flipped byte", "rubbish after the end"])
def test_a_damaged_gzip_leaves_the_period_as_it_was(tmp_path: Path, damage: str) -> None:
    good = [row("0.0001", ResourceId=f"r-{n}") for n in range(20_000)]
    packed = gzip.compress(csv_text(good).encode(), mtime=0)
    middle = len(packed) // 2
    broken = {
        "no tail": packed[:-8],
        "half": packed[:middle],
        "flipped byte": packed[:middle] + bytes([packed[middle] ^ 0x10]) + packed[middle + 1 :],
        "rubbish after the end": packed + b"rubbish",
    }[damage]
    bill = nights(tmp_path, tmp_path / "in")
    write_csv(tmp_path / "in/oct.csv.gz", [row("8.00")], at=T1)
    bill.load()
    write_bytes(tmp_path / "in/oct.csv.gz", broken, at=T2)
    refused = only(bill.load())
    assert refused.state == "refused"
    assert "oct.csv.gz" in str(refused.error)
    assert bill.total() == Decimal(8)


def test_a_gzip_of_two_members_is_whole(tmp_path: Path) -> None:
    text = csv_text([row("0.0001", ResourceId=f"r-{n}") for n in range(2_000)]).encode()
    write_bytes(tmp_path / "oct.csv.gz", gzip.compress(text[:50_001]) + gzip.compress(text[50_001:]))
    bill = nights(tmp_path, tmp_path / "oct.csv.gz")
    bill.load()
    assert (len(bill.lines()), bill.total()) == (2_000, Decimal("0.2"))


@pytest.mark.parametrize(
    ("text", "why"),
    [
        (csv_text([row()]).replace("i-1", "i-1,more"), "line 2: it has 17 fields, but the header has 16"),
        (csv_text([row(), row()])[:-30], "line 3: it has"),
        (csv_text([row()]).replace("i-1", "i\0"), "NUL"),
        (csv_text([row(), row()]).replace("i-1", '"i-1', 1), "quote"),
        (csv_text([row()]).replace("i-1", "\udcff"), "unicode"),
        (csv_text([row(), row()]).replace("i-1", "i\rx", 1), "carriage return"),
        ("", "empty"),
        (csv_text([row()]).replace("BilledCost,", "").replace("1.00,", "", 1), "lacks mandatory FOCUS columns: BilledCost"),
        (csv_text([row()]).replace("ListCost", "BilledCost"), "BilledCost more than once"),
        (
            csv_text([row(BillingPeriodStart="9/1/25", ChargePeriodStart="9/1/25")]),
            "states a billing period: BillingPeriodStart is '9/1/25'",
        ),
        ("some,other\nfile,here\n", "format"),
    ],
)
def test_a_file_that_is_not_a_bill_is_refused_by_name_and_line(tmp_path: Path, text: str, why: str) -> None:
    write_bytes(tmp_path / "in/oct.csv", text.encode(errors="surrogateescape"))
    with pytest.raises(SourceRefused) as caught:
        nights(tmp_path, tmp_path / "in").load()
    assert why in str(caught.value)
    assert "oct.csv" in str(caught.value)


@pytest.mark.parametrize(("row_end", "inside"), [("\r\n", "\n"), ("\n", "\r\n"), ("\n", "\n"), ("\r\n", "\r\n")])
def test_a_line_break_inside_quotes_may_differ_from_those_of_the_rows(tmp_path: Path, row_end: str, inside: str) -> None:
    """Python's csv module ends rows with CRLF and keeps the LF inside a field. Such a file is valid."""
    rows = [row("1.25", ResourceName=""), row("2.50", ResourceName="two@lines")]
    text = csv_text(rows).replace("\r\n", "\n").replace("\n", row_end).replace("two@lines", f'"two{inside}lines"')
    write_bytes(tmp_path / "in/oct.csv", text.encode())
    bill = nights(tmp_path, tmp_path / "in")
    bill.load()
    assert bill.total() == Decimal("3.75")
    assert {line["resource_name"] for line in bill.lines()} - {None} in ({"two\nlines"}, {f"two{inside}lines"})


def test_a_bad_file_does_not_stop_the_other_months(tmp_path: Path) -> None:
    folder = tmp_path / "in"
    write_csv(folder / "oct.csv", [row("8.00")], at=T1)
    bill = nights(tmp_path, folder)
    bill.load()
    write_csv(folder / "nov.csv", [row("3.00", **month("2026-11"))], at=T2)
    write_bytes(folder / "oct.csv", csv_text([row("9.00")])[:-20].encode(), at=T2)
    load = bill.load()
    assert {p.period: p.state for p in load.periods} == {"2026-10": "refused", "2026-11": "loaded"}
    assert (bill.total(), bill.total("2026-11")) == (Decimal(8), Decimal(3))


def test_a_decompression_bomb_is_refused_before_it_fills_the_disk(tmp_path: Path) -> None:
    header = csv_text([]).encode()
    line = csv_text([row()]).encode()[len(header) :]
    write_bytes(tmp_path / "in/bomb.csv.gz", gzip.compress(header + line * 1_500_000, 9))
    with pytest.raises(SourceRefused, match="unpacks to more than"):
        nights(tmp_path, tmp_path / "in").load()


def test_an_endless_line_is_refused(tmp_path: Path) -> None:
    write_bytes(tmp_path / "in/oct.csv", csv_text([row(ResourceId="x" * (17 << 20))]).encode())
    with pytest.raises(SourceRefused, match="line of more than"):
        nights(tmp_path, tmp_path / "in").load()


def test_an_empty_folder_and_a_missing_folder_have_different_errors(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    with pytest.raises(SourceRefused, match=r"no file of a bill"):
        nights(tmp_path, tmp_path / "in").load()
    with pytest.raises(SourceUnreachable, match="does not exist"):
        nights(tmp_path, tmp_path / "nowhere").load()


# --- delivery: manifest ------------------------------------------------------------------------------------------------

EXPORT = "exports/ml"


def deliver(
    root: Path, parts: dict[str, list[dict[str, str]]], *, at: datetime, folder: str = "", stated: list[str] | None = None
) -> list[str]:
    """Write an AWS Data Exports delivery of 2026-10: parts, and a manifest that names them or what `stated` says."""
    data = f"{EXPORT}/data/BILLING_PERIOD=2026-10/{folder}"
    for name, rows in parts.items():
        write_csv(root / data / name, rows, at=at)
    keys = [f"s3://billing-bucket/{data}{name}" for name in (stated or parts)]
    manifest = {"executionId": folder, "dataFiles": keys, "columns": [{"name": "BilledCost", "type": "double"}]}
    write_bytes(root / f"{EXPORT}/metadata/BILLING_PERIOD=2026-10/{folder}ml-Manifest.json", json.dumps(manifest).encode(), at=at)
    return keys


PARTS = {
    "ml-00001.csv.gz": [row("1.00"), row("2.00"), row("3.00")],
    "ml-00002.csv.gz": [row("1.50"), row("2.50")],
    "ml-00003.csv.gz": [row("1.00", ResourceId="c")],
}


def test_a_manifest_that_names_a_missing_part_is_refused_whole(tmp_path: Path) -> None:
    root = tmp_path / "bucket"
    bill = nights(tmp_path, root, delivery="manifest")
    deliver(root, {"ml-00001.csv.gz": [row("8.00")]}, at=T1)
    bill.load()
    deliver(root, dict(list(PARTS.items())[:2]), at=T2, stated=list(PARTS))
    refused = only(bill.load())
    assert refused.state == "refused"
    assert "1 are missing" in str(refused.error)
    assert "ml-00003.csv.gz" in str(refused.error)
    assert bill.total() == Decimal(8)
    assert [(r["state"], r["row_count"]) for r in bill.rows("billing_loads")] == [("current", 1), ("refused", 0)]
    deliver(root, PARTS, at=T2)
    write_csv(root / EXPORT / "data/BILLING_PERIOD=2026-10/ml-00004.csv.gz", [row("9.00")])
    assert only(bill.load()).state == "loaded"
    assert bill.total() == Decimal(11), "a part that is not in the manifest is not read"


def test_create_new_executions_count_once_and_a_cut_manifest_falls_back(tmp_path: Path) -> None:
    root = tmp_path / "bucket"
    bill = nights(tmp_path, root, delivery="manifest")
    deliver(root, {"ml-00001.csv.gz": [row("10.00")]}, at=T1, folder="20261101T030000Z-aa/")
    deliver(root, {"ml-00001.csv.gz": [row("12.00")]}, at=T2, folder="20261102T030000Z-bb/")
    bill.load()
    assert bill.total() == Decimal(12)
    write_bytes(
        root / f"{EXPORT}/metadata/BILLING_PERIOD=2026-10/20261103T030000Z-cc/ml-Manifest.json",
        b'{"dataFiles": ["s3://b',
        at=T2 + timedelta(1),
    )
    refused = only(bill.load())
    assert refused.state == "refused"
    assert "not valid JSON" in str(refused.error)
    assert bill.total() == Decimal(12)


def test_the_newest_complete_manifest_is_loaded_and_a_newer_broken_one_reported(tmp_path: Path) -> None:
    root = tmp_path / "bucket"
    bill = nights(tmp_path, root, delivery="manifest")
    deliver(root, {"ml-00001.csv.gz": [row("10.00")]}, at=T1, folder="a/")
    deliver(root, {}, at=T2, folder="b/", stated=["ml-00001.csv.gz"])
    outcome = only(bill.load())
    assert outcome.state == "loaded"
    assert "missing" in str(outcome.error)
    assert bill.total() == Decimal(10)


def test_an_older_manifest_never_replaces_a_newer(tmp_path: Path) -> None:
    root = tmp_path / "bucket"
    bill = nights(tmp_path, root, delivery="manifest")
    deliver(root, {"ml-00001.csv.gz": [row("12.00")]}, at=T2)
    bill.load()
    deliver(root, {"ml-00001.csv.gz": [row("10.00")]}, at=T1)
    assert only(bill.load()).state == "refused"
    assert bill.total() == Decimal(12)


def test_files_must_have_the_size_and_rows_that_the_manifest_states(tmp_path: Path) -> None:
    """Azure's manifest states the bytes and rows of each blob. Nothing else reveals a plain CSV that is cut at the end of a row."""
    root = tmp_path / "container"
    folder = "costs/focus/20261001-20261031/202611020300/0001"
    text = csv_text([row("1.00"), row("2.00")]).encode()
    cut = text[: text.rindex(b"\n", 0, -1) + 1]

    def manifest(size: int, rows: int) -> bytes:
        blobs = [{"blobName": f"{folder}/part_0.csv", "byteCount": size, "dataRowCount": rows}]
        return json.dumps({"blobs": blobs, "runInfo": {"submittedTime": "2026-11-02T03:00:00.1234567Z"}}).encode()

    bill = nights(tmp_path, root, delivery="manifest")
    write_bytes(root / folder / "part_0.csv", cut)
    write_bytes(root / folder / "manifest.json", manifest(len(text), 2))
    assert f"has {len(cut)} bytes, but" in str(only(bill.load()).error)
    write_bytes(root / folder / "manifest.json", manifest(len(cut), 2))
    assert "holds 1 row, but its manifest states 2" in str(only(bill.load()).error)
    assert "billing_lines" not in {t for t, _ in bill.store}
    write_bytes(root / folder / "part_0.csv", text)
    write_bytes(root / folder / "manifest.json", manifest(len(text), 2))
    assert only(bill.load()).state == "loaded"
    assert bill.rows("billing_loads")[-1]["delivered_at"] == datetime(2026, 11, 2, 3, 0, 0, 123456, tzinfo=timezone.utc)


def test_a_deleted_manifest_leaves_its_month(tmp_path: Path) -> None:
    root = tmp_path / "bucket"
    bill = nights(tmp_path, root, delivery="manifest")
    deliver(root, PARTS, at=T1)
    bill.load()
    (root / f"{EXPORT}/metadata/BILLING_PERIOD=2026-10/ml-Manifest.json").unlink()
    assert only(bill.load()).state == "refused"
    assert bill.total() == Decimal(11)


def test_a_manifest_with_no_rows_at_all_does_not_empty_the_month(tmp_path: Path) -> None:
    root = tmp_path / "bucket"
    bill = nights(tmp_path, root, delivery="manifest")
    deliver(root, {"ml-00001.csv.gz": [row("50.00")]}, at=T1)
    bill.load()
    deliver(root, {"ml-00001.csv.gz": []}, at=T2)
    assert "from 50.00 to 0.00 USD" in str(only(bill.load()).error)
    assert bill.total() == Decimal(50)
    assert NOW > T2
