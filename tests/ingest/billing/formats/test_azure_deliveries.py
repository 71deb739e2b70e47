"""Runs of Azure exports: the newest complete run counts per scope, type and month, and overlapping scopes are refused."""

from __future__ import annotations

import json
import shutil
from datetime import datetime, timezone
from decimal import Decimal
from pathlib import Path

import pytest

from tests.azure_files import SUBSCRIPTION, cost, november, write_run
from tests.focus_files import nights, only, write_bytes

FIRST, SECOND, THIRD = "2026-10-06T04:05:06.1234567Z", "2026-10-07T04:05:06.1234567Z", "2026-10-08T04:05:06.1234567Z"
RESERVED = {"PricingModel": "Reservation", "BenefitId": "/providers/Microsoft.Capacity/reservationOrders/r1"}
BOUGHT = {"ChargeType": "Purchase", "ResourceId": "", **RESERVED}


def test_export_runs_that_are_kept_side_by_side_count_once(tmp_path: Path) -> None:
    """Each run is the month to date. The newest counts, independent of its folder's name and its file times."""
    newest = write_run(tmp_path, "daily", "a", [cost("10.00"), cost("2.50")], submitted=SECOND, parts=2, packed=True)
    write_run(tmp_path, "daily", "b", [cost("10.00"), cost("5.00")], submitted=FIRST)
    bill = nights(tmp_path, tmp_path / "exports", format="azure")
    assert only(bill.load()).state == "loaded"
    assert (bill.total(), len(bill.lines())) == (Decimal("12.50"), 2)
    assert bill.rows("billing_loads")[0]["delivered_at"] == datetime(2026, 10, 7, 4, 5, 6, 123456, tzinfo=timezone.utc)
    assert only(bill.load()).tables == {}
    shutil.rmtree(newest)
    refused = only(bill.load())
    assert refused.state == "refused", "the older run does not replace it"
    assert "before the version in place" in str(refused.error)
    assert bill.total() == Decimal("12.50")


def test_export_runs_of_one_second_are_ordered_by_its_fraction(tmp_path: Path) -> None:
    write_run(tmp_path, "daily", "a", [cost("1.00")], submitted="2026-10-06T04:05:06.7000000Z")
    write_run(tmp_path, "daily", "b", [cost("2.00")], submitted="2026-10-06T04:05:06.1999999Z")
    bill = nights(tmp_path, tmp_path, format="azure")
    bill.load()
    assert bill.total() == Decimal(1)


def test_a_run_that_replaces_the_one_before_is_a_new_version(tmp_path: Path) -> None:
    old = write_run(tmp_path, "daily", "a", [cost("10.00"), cost("5.00")], submitted=FIRST)
    bill = nights(tmp_path, tmp_path, format="azure")
    bill.load()
    shutil.rmtree(old)
    write_run(tmp_path, "daily", "b", [cost("10.00"), cost("2.50")], submitted=SECOND)
    assert only(bill.load()).state == "loaded"
    assert bill.total() == Decimal("12.50")
    assert sum(r["billed_cost"] for r in bill.rows("bill_changes")) == Decimal("12.50")


@pytest.mark.parametrize(
    ("wrong", "why"),
    [
        ({"blobName": "exports/daily/gone.csv"}, "names 1 files, of which 1 are missing"),
        ({"byteCount": 17}, "states 17"),
        ({"dataRowCount": 7}, "holds 1 row, but its manifest states 7"),
        ({"byteCount": "many"}, "states 'many' bytes"),
    ],
)
def test_an_incomplete_newest_run_falls_back_to_the_one_before_and_is_reported(tmp_path: Path, wrong: dict[str, object], why: str) -> None:
    write_run(tmp_path, "daily", "a", [cost("11.00")], submitted=FIRST)
    write_run(tmp_path, "daily", "b", [cost("99.00")], submitted=SECOND, wrong=wrong)
    bill = nights(tmp_path, tmp_path, format="azure")
    outcome = only(bill.load())
    assert (outcome.state, bill.total()) == ("loaded", Decimal(11))
    assert why in str(outcome.error)
    again = only(bill.load())
    assert (again.state, bill.total()) == ("refused", Decimal(11)), "reported by every load"
    assert again.tables == {} or list(again.tables) == ["billing_loads"]


def test_an_incomplete_run_leaves_the_good_one_before_it(tmp_path: Path) -> None:
    write_run(tmp_path, "daily", "a", [cost("8.00")], submitted=FIRST)
    bill = nights(tmp_path, tmp_path, format="azure")
    bill.load()
    parts = write_run(tmp_path, "daily", "b", [cost("6.00"), cost("4.00"), cost("1.00")], submitted=SECOND, parts=3)
    kept = (parts / "part_2_0001.csv").read_bytes()
    (parts / "part_2_0001.csv").unlink()
    assert (only(bill.load()).state, bill.total()) == ("refused", Decimal(8))
    write_bytes(parts / "part_2_0001.csv", kept[:-3])
    assert (only(bill.load()).state, bill.total()) == ("refused", Decimal(8))
    write_bytes(parts / "part_2_0001.csv", kept)
    write_bytes(parts / "part_9_0001.csv", kept.replace(b"1.00", b"9.00"))
    load = bill.load()
    assert (only(load).state, bill.total()) == ("loaded", Decimal(11)), "a file that no manifest names is not read"
    assert [name for name in load.extra["ignored_files"] if "part_9" in name]


def test_a_manifest_cut_in_half_falls_back_to_the_run_before(tmp_path: Path) -> None:
    write_run(tmp_path, "daily", "202610060405", [cost("11.00")], submitted=FIRST)
    write_run(tmp_path, "daily", "202610070405", [cost("99.00")], submitted=SECOND, cut=True)
    bill = nights(tmp_path, tmp_path, format="azure")
    outcome = only(bill.load())
    assert (outcome.state, bill.total()) == ("loaded", Decimal(11))
    assert "is not valid JSON" in str(outcome.error)


def test_a_manifest_cut_in_half_alone_is_refused(tmp_path: Path) -> None:
    write_run(tmp_path, "daily", "202610070405", [cost("99.00")], submitted=SECOND, cut=True)
    outcome = only(nights(tmp_path, tmp_path, format="azure").load())
    assert (outcome.state, "is not valid JSON" in str(outcome.error)) == ("refused", True)


def test_the_older_of_two_exports_of_one_scope_is_not_added(tmp_path: Path) -> None:
    """Two exports have the same scope, such as a daily export and one of last month. Only the newest run of the scope counts."""
    write_run(tmp_path, "daily", "a", [cost("0.05")] * 3 + [cost("0.20")], submitted=FIRST)
    write_run(
        tmp_path, "last-month", "a", [cost("0.05")] * 3 + [cost("0.25")], submitted=SECOND, scope=f"/subscriptions/{SUBSCRIPTION.upper()}"
    )
    bill = nights(tmp_path, tmp_path, format="azure")
    bill.load()
    assert (bill.total(), len(bill.lines())) == (Decimal("0.40"), 4)


def test_one_delivery_in_two_folders_counts_once(tmp_path: Path) -> None:
    rows = [cost("0.05")] * 3 + [cost("0.20")]
    for export in ("one", "two"):
        write_run(tmp_path, export, "a", rows, submitted=FIRST, scope=f"/subscriptions/{export}")
    bill = nights(tmp_path, tmp_path, format="azure")
    bill.load()
    assert (bill.total(), len(bill.lines())) == (Decimal("0.35"), 4)


def test_two_subscriptions_side_by_side_add_up(tmp_path: Path) -> None:
    write_run(tmp_path, "one", "a", [cost("1.00")], submitted=FIRST)
    write_run(tmp_path, "two", "a", [cost("2.00", SubscriptionId="two")], submitted=SECOND, scope="/subscriptions/two")
    bill = nights(tmp_path, tmp_path, format="azure")
    assert only(bill.load()).state == "loaded"
    assert bill.total() == Decimal(3)
    write_run(tmp_path, "two", "b", [cost("4.00", SubscriptionId="two")], submitted=THIRD, scope="/subscriptions/two")
    bill.load()
    assert bill.total() == Decimal(5)


def test_only_the_export_with_a_broken_run_falls_back(tmp_path: Path) -> None:
    """A broken run of one export does not affect another export."""
    write_run(tmp_path, "one", "a", [cost("1.00")], submitted=FIRST)
    write_run(tmp_path, "one", "b", [cost("1.50")], submitted=THIRD, wrong={"dataRowCount": 9})
    write_run(tmp_path, "two", "a", [cost("2.00", SubscriptionId="two")], submitted=FIRST, scope="/subscriptions/two")
    write_run(tmp_path, "two", "b", [cost("4.00", SubscriptionId="two")], submitted=SECOND, scope="/subscriptions/two")
    bill = nights(tmp_path, tmp_path, format="azure")
    outcome = only(bill.load())
    assert (outcome.state, bill.total()) == ("loaded", Decimal(5))
    assert "holds 1 row, but its manifest states 9" in str(outcome.error)


@pytest.mark.parametrize("kind", ["ActualCost", "AmortizedCost"])
def test_a_subscription_and_the_account_above_it_are_refused(tmp_path: Path, kind: str) -> None:
    write_run(tmp_path, "sub", "a", [cost("0.35")], submitted=FIRST, type=kind)
    bill = nights(tmp_path, tmp_path, format="azure")
    bill.load()
    account = "/providers/Microsoft.Billing/billingAccounts/12345678"
    write_run(tmp_path, "all", "a", [cost("0.35"), cost("7.00", SubscriptionId="two")], submitted=SECOND, type=kind, scope=account)
    refused = only(bill.load())
    assert (refused.state, bill.total()) == ("refused", Decimal("0.35"))
    message = str(refused.error)
    assert f"{kind} of {account.lower()}" in message
    assert f"{kind} of /subscriptions/{SUBSCRIPTION}" in message
    assert "these charges would count twice. Point billing[].uri at one of the exports" in message
    assert only(bill.load()).state == "refused", "reported by every load"


def test_a_focus_export_with_a_cost_export_of_the_same_scope_is_refused(tmp_path: Path) -> None:
    write_run(tmp_path, "costs", "a", [cost("1.00")], submitted=FIRST)
    folder = write_run(tmp_path, "focus", "a", [cost("1.00")], submitted=SECOND, type="FocusCost")
    focus = (
        "BilledCost,EffectiveCost,ListCost,ContractedCost,BillingCurrency,BillingAccountId,BillingPeriodStart,BillingPeriodEnd,ChargePeriodStart,"
        "ChargePeriodEnd,ChargeCategory,ServiceName,ProviderName,SubAccountId\n1,1,1,1,EUR,/providers/Microsoft.Billing/billingAccounts/12345678,"
        "2026-10-01T00:00:00Z,2026-11-01T00:00:00Z,2026-10-05T00:00:00Z,2026-10-06T00:00:00Z,Usage,Virtual Machines,Microsoft,"
        f"/subscriptions/{SUBSCRIPTION.upper()}\n"
    )
    write_bytes(folder / "part_0_0001.csv", focus.encode())
    manifest = json.loads((folder / "manifest.json").read_text())
    manifest["blobs"][0]["byteCount"] = len(focus)
    (folder / "manifest.json").write_text(json.dumps(manifest))
    refused = only(nights(tmp_path, tmp_path, format="azure").load())
    assert refused.state == "refused"
    assert "FocusCost of" in str(refused.error)


def test_actual_and_amortized_exports_side_by_side_are_one_bill(tmp_path: Path) -> None:
    """Each export has its own runs. Its kind is decided by the manifest, not by the names of folders."""
    actual = [cost("10.00"), cost("0", **RESERVED), cost("90.00", **BOUGHT)]
    amortized = [cost("10.00"), cost("3.00", **RESERVED), cost("1.00", ChargeType="UnusedReservation", **RESERVED)]
    write_run(tmp_path, "x-amortized", "a", actual, submitted=FIRST, type="ActualCost")
    write_run(tmp_path, "x-actual", "a", [cost("10.00"), cost("2.00", **RESERVED)], submitted=FIRST, type="AmortizedCost")
    write_run(tmp_path, "x-actual", "b", amortized, submitted=SECOND, type="AmortizedCost")
    bill = nights(tmp_path, tmp_path, format="azure")
    assert only(bill.load()).state == "loaded"
    assert (bill.total(), bill.total(column="effective_cost"), len(bill.lines())) == (Decimal(100), Decimal(14), 4)
    assert only(bill.load()).tables == {}
    write_run(tmp_path, "x-amortized", "b", [*actual, cost("5.00", **BOUGHT)], submitted=THIRD, type="ActualCost")
    bill.load()
    assert (bill.total(), bill.total(column="effective_cost")) == (Decimal(105), Decimal(14))


def test_exports_with_the_same_bytes_count_as_actual_and_amortized(tmp_path: Path) -> None:
    """Without commitments, both exports are equal."""
    for kind in ("ActualCost", "AmortizedCost"):
        write_run(tmp_path, kind, "a", [cost("10.00"), cost("10.00")], submitted=FIRST, type=kind)
    bill = nights(tmp_path, tmp_path, format="azure")
    bill.load()
    assert (bill.total(), bill.total(column="effective_cost"), len(bill.lines())) == (Decimal(20), Decimal(20), 2)
    assert not [line for line in bill.progress if "without" in line], "both exports were read"


def test_months_of_one_export_are_loaded_separately(tmp_path: Path) -> None:
    write_run(tmp_path, "daily", "a", [cost("10.00")], submitted=FIRST)
    write_run(tmp_path, "daily", "a", [cost("3.00", **november())], submitted="2026-11-06T04:05:06.1234567Z", month="20261101-20261130")
    bill = nights(tmp_path, tmp_path, format="azure")
    assert [(p.period, p.state) for p in bill.load().periods] == [("2026-10", "loaded"), ("2026-11", "loaded")]
    assert (bill.total(), bill.total("2026-11")) == (Decimal(10), Decimal(3))


def test_a_month_that_is_delivered_empty_is_refused_until_confirmed(tmp_path: Path) -> None:
    write_run(tmp_path, "daily", "a", [cost("50.00")], submitted=FIRST)
    bill = nights(tmp_path, tmp_path, format="azure")
    bill.load()
    write_run(tmp_path, "daily", "b", [], submitted=SECOND)
    refused = only(bill.load())
    assert (refused.state, bill.total()) == ("refused", Decimal(50))
    assert "max_drop" in str(refused.error)


def test_the_manifest_of_a_real_export_is_read(tmp_path: Path, samples: Path) -> None:
    """The manifest is from 2021 and lacks the run's time and the export's scope. The test writes a file with the stated number of rows."""
    manifest = json.loads((samples / "koku/azure_manifest.json").read_text())
    [blob] = manifest["blobs"]
    assert (blob["byteCount"], blob["dataRowCount"]) == (423869, 490)
    january = {"BillingPeriodStartDate": "2023-01-01", "BillingPeriodEndDate": "2023-01-31", "Date": "2023-01-14"}
    row = cost("0.01", **january)
    data = "\n".join([",".join(row), *[",".join(row.values())] * 490, ""]).encode()
    place = write_bytes(tmp_path / blob["blobName"], data)
    (place.parent / "manifest.json").write_text(json.dumps(manifest))
    bill = nights(tmp_path, tmp_path / "cost", format="azure")
    refused = only(bill.load(), "2023-01")
    assert f"has {len(data)} bytes, but" in str(refused.error)
    blob["byteCount"] = len(data)
    (place.parent / "manifest.json").write_text(json.dumps(manifest))
    assert only(bill.load(), "2023-01").state == "loaded"
    assert (bill.total("2023-01"), len(bill.lines("2023-01"))) == (Decimal("4.90"), 490)
    assert bill.rows("billing_loads", "2023-01")[-1]["delivered_at"] == datetime(2023, 1, 4, 14, 42, tzinfo=timezone.utc)
