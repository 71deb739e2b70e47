"""AWS Cost and Usage Reports: every delivery and spelling, the meaning of line item types, and traps of bill ingestion.

Tests of traps state the totals that a bill must have. Rules for bills of every format are tested with FOCUS.
"""

from __future__ import annotations

import csv
import gzip
import json
import os
import random
import shutil
import time
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from datetime import date, datetime, timedelta, timezone
from decimal import Decimal
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from runspend.config.settings import BillSource
from runspend.core.errors import SourceRefused
from runspend.ingest.billing import distinct, format_spec, probe_source, staging
from runspend.ingest.billing.memory_budget import room_of
from runspend.pipeline.source_status import unread_notes
from tests.cur_files import LINE, NET, athena, legacy, line, month, parquet_table, write_cur
from tests.focus_files import NOW, Nights, csv_text, nights, only, row, write_bytes, write_csv

PLAN, RESERVATION = "arn:aws:savingsplans::012345678901:savingsplan/sp-1", "arn:aws:ec2:us-east-1:012345678901:reserved-instances/ri-1"
RUN = "0123456789abcdef0123456789abcdef"


def loaded(tmp_path: Path, lines: Sequence[Mapping[str, str]], **source: Any) -> Nights:
    """Load a bill of one CSV once. Tests check what happened."""
    bill = nights(tmp_path, write_cur(tmp_path / "cur.csv", lines), format="aws-cur", **source)
    bill.load()
    return bill


def sums(lines: Iterable[Mapping[str, Any]], by: str, column: str = "billed_cost") -> dict[Any, Decimal]:
    found: dict[Any, Decimal] = defaultdict(Decimal)
    for each in lines:
        found[each[by]] += each[column]
    return dict(found)


def both(bill: Nights, period: str = "2026-10") -> tuple[Decimal, Decimal]:
    return bill.total(period), bill.total(period, "effective_cost")


def covered(cost: str, effective: str, **other: str) -> dict[str, str]:
    plan = {"savings_plan_savings_plan_a_r_n": PLAN, "savings_plan_savings_plan_effective_cost": effective}
    return line("SavingsPlanCoveredUsage", cost, **plan, **other)


def plan_fee(cost: str, commitment: str = "", used: str = "", **other: str) -> dict[str, str]:
    given = {"savings_plan_total_commitment_to_date": commitment, "savings_plan_used_commitment": used}
    return line("SavingsPlanRecurringFee", cost, savings_plan_savings_plan_a_r_n=PLAN, line_item_resource_id=PLAN, **given, **other)


def negation(cost: str) -> dict[str, str]:
    return line("SavingsPlanNegation", cost, savings_plan_savings_plan_a_r_n=PLAN)


def discounted(effective: str, **other: str) -> dict[str, str]:
    return line("DiscountedUsage", "0", reservation_reservation_a_r_n=RESERVATION, reservation_effective_cost=effective, **other)


def reservation_fee(cost: str, unused: str, upfront: str = "0", **other: str) -> dict[str, str]:
    given = {
        "reservation_unused_recurring_fee": unused,
        "reservation_unused_amortized_upfront_fee_for_billing_period": upfront,
        "line_item_usage_amount": "744",
    }
    return line("RIFee", cost, reservation_reservation_a_r_n=RESERVATION, **given, **other)


def tags(**given: str) -> str:
    """Return tags as a CSV of CUR 2.0 spells them."""
    return json.dumps(given, separators=(",", ":"))


def hours(first: datetime, count: int) -> list[dict[str, str]]:
    """Return the time columns of so many hours from `first`."""
    starts = [first + timedelta(hours=n) for n in range(count)]
    return [
        {
            **month(f"{start:%Y-%m}"),
            "line_item_usage_start_date": f"{start:%Y-%m-%dT%H:%M:%SZ}",
            "line_item_usage_end_date": f"{start + timedelta(hours=1):%Y-%m-%dT%H:%M:%SZ}",
        }
        for start in starts
    ]


def without(lines: Sequence[Mapping[str, str]], *columns: str) -> list[dict[str, str]]:
    """Return the lines of an export that lacks some columns."""
    return [{name: value for name, value in each.items() if name not in columns} for each in lines]


PLAN_HOUR = [covered("1.006", "0.6036"), negation("-1.006"), plan_fee("0.70", "0.70", "0.6036")]


# --- exports without the columns about commitments -----------------------------------------------------------------------


@pytest.mark.parametrize("write", ["quick", "slow"])
def test_a_fee_whose_unused_part_the_export_does_not_state_is_reported(tmp_path: Path, write: str) -> None:
    """If Runspend did not report them, all sums would silently lack the unused part of the plan."""
    given = {"line_item_line_item_description": "two\nlines"} if write == "slow" else {}
    lines = [*PLAN_HOUR, plan_fee("0.70", "0.70", "0.60"), reservation_fee("44.64", "1.44"), line("Usage", "1", **given)]
    path = tmp_path / "cur.csv"
    missing = ("savings_plan_total_commitment_to_date", "reservation_unused_recurring_fee")
    cur = without(lines, *missing)
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, list(dict.fromkeys(name for each in cur for name in each)), restval="")
        writer.writeheader()
        writer.writerows(cur)
    bill = nights(tmp_path, path, format="aws-cur")
    reported = only(bill.load()).extra["unreadable"]
    assert reported == {"savings_plan_total_commitment_to_date": 2, "reservation_unused_recurring_fee": 1}
    assert both(bill) == (Decimal("47.04"), Decimal("1.6036"))


@pytest.mark.parametrize(
    "fee",
    [plan_fee("0.70", "1,5", "0.60"), plan_fee("0.70", "0.70", "some"), reservation_fee("0.70", "?"), reservation_fee("0.70", "0", "?")],
)
def test_an_unused_part_that_is_not_a_number_is_reported(tmp_path: Path, fee: Mapping[str, str]) -> None:
    bill = nights(tmp_path, write_cur(tmp_path / "cur.csv", [fee, line("Usage", "1")]), format="aws-cur")
    assert only(bill.load()).extra["unreadable"] == {"EffectiveCost": 1}
    assert sorted((r["billed_cost"], r["effective_cost"]) for r in bill.lines()) == [(Decimal("0.70"), None), (Decimal(1), Decimal(1))]


def test_usage_without_its_effective_cost_is_reported(tmp_path: Path) -> None:
    bill = nights(tmp_path, write_cur(tmp_path / "cur.csv", [covered("1.006", ""), discounted(""), line("Usage", "1")]), format="aws-cur")
    outcome = only(bill.load())
    assert bill.total(column="effective_cost") == Decimal(1)
    assert unread_notes("bill", "2026-10", outcome.extra) == ["bill 2026-10: 2 rows have no EffectiveCost and are excluded from its totals"]


# --- what line item types mean -------------------------------------------------------------------------------------------

MEANINGS = [
    # line item, (category, frequency, class, billed, effective, list)
    (line("Usage", "2"), ("Usage", "Usage-Based", None, "2", "2", "2")),
    (line("Usage", "2", pricing_public_on_demand_cost="3"), ("Usage", "Usage-Based", None, "2", "2", "3")),
    (line("Fee", "2"), ("Purchase", "One-Time", None, "2", "2", "2")),
    (line("Fee", "2", reservation_reservation_a_r_n=RESERVATION), ("Purchase", "One-Time", None, "2", "0", "2")),
    (line("SavingsPlanUpfrontFee", "2", savings_plan_savings_plan_a_r_n=PLAN), ("Purchase", "One-Time", None, "2", "0", "2")),
    (plan_fee("2", "2", "2"), ("Purchase", "Recurring", None, "2", "0", "2")),
    (reservation_fee("2", "0"), ("Purchase", "Recurring", None, "2", "0", "2")),
    (covered("2", "1"), ("Usage", "Usage-Based", None, "0", "1", "2")),
    (discounted("1", pricing_public_on_demand_cost="3"), ("Usage", "Usage-Based", None, "0", "1", "3")),
    (line("Tax", "2", line_item_tax_type="VAT"), ("Tax", "One-Time", None, "2", "2", "2")),
    (line("Credit", "-2"), ("Credit", "One-Time", None, "-2", "-2", "-2")),
    (line("Refund", "-2"), ("Usage", "Usage-Based", None, "-2", "-2", "-2")),
    (line("Refund", "-2", line_item_usage_start_date="2026-09-30T23:00:00Z"), ("Usage", "Usage-Based", "Correction", "-2", "-2", "-2")),
    (line("Refund", "-2", line_item_tax_type="VAT"), ("Tax", "One-Time", None, "-2", "-2", "-2")),
    (line("Refund", "-2", line_item_product_code="ComputeSavingsPlans"), ("Purchase", "One-Time", None, "-2", "0", "-2")),
    (line("EdpDiscount", "-2"), ("Usage", "Usage-Based", None, "-2", "-2", "0")),
    (line("PrivateRateDiscount", "-2"), ("Usage", "Usage-Based", None, "-2", "-2", "0")),
    (line("BundledDiscount", "-2"), ("Usage", "Usage-Based", None, "-2", "-2", "0")),
    (line("Discount", "-2"), ("Usage", "Usage-Based", None, "-2", "-2", "0")),
    (line("FlatRateSubscription", "2"), ("Usage", "Usage-Based", None, "2", "2", "2")),
    (line("SomethingNew", "2"), ("Adjustment", "One-Time", None, "2", "2", "2")),
    (line("", "2"), ("Adjustment", "One-Time", None, "2", "2", "2")),
]


def by_account(bill: Nights) -> list[dict[str, Any]]:
    """Return the lines of a bill in the order of `in_accounts`, where each line has its own account."""
    return sorted(bill.lines(), key=lambda found: str(found["sub_account_id"]))


def in_accounts(items: Iterable[Mapping[str, str]]) -> list[dict[str, str]]:
    return [{**item, "line_item_usage_account_id": f"{n:012}"} for n, item in enumerate(items)]


def test_each_line_item_type_has_its_category_and_costs(tmp_path: Path) -> None:
    bill = loaded(tmp_path, in_accounts(item for item, _ in MEANINGS))
    for found, (item, (category, frequency, correction, *amounts)) in zip(by_account(bill), MEANINGS, strict=True):
        assert (found["charge_category"], found["charge_frequency"], found["charge_class"]) == (category, frequency, correction), item
        assert [found[name] for name in ("billed_cost", "effective_cost", "list_cost")] == [Decimal(a) for a in amounts], item


def test_commitments_are_named_on_covered_usage_and_on_their_unused_part(tmp_path: Path) -> None:
    lines = [covered("2", "1"), plan_fee("5", "5", "3"), discounted("1"), reservation_fee("4", "1", "2"), line("Usage", "7")]
    found = [
        tuple(
            each[name]
            for name in ("charge_category", "commitment_discount_id", "commitment_discount_category", "commitment_discount_status", "resource_id", "pricing_category")
        )
        for each in sorted(loaded(tmp_path, lines).lines(), key=lambda each: (each["effective_cost"], each["billed_cost"], each["resource_id"]))
    ]  # fmt: skip
    machine = LINE["line_item_resource_id"]
    assert found == [
        ("Purchase", RESERVATION, "Usage", None, RESERVATION, None),
        ("Purchase", PLAN, "Spend", None, PLAN, None),
        ("Usage", PLAN, "Spend", "Used", machine, "Committed"),
        ("Usage", RESERVATION, "Usage", "Used", machine, "Committed"),
        ("Usage", PLAN, "Spend", "Unused", PLAN, "Committed"),
        ("Usage", RESERVATION, "Usage", "Unused", RESERVATION, "Committed"),
        ("Usage", None, None, None, machine, "Standard"),
    ]


def test_unused_capacity_reservations_are_marked_and_reserved_hours_are_no_lines(tmp_path: Path) -> None:
    """The hours of a reservation are also on its used and unused machines, which have its cost."""
    reservation = {"line_item_resource_id": "arn:aws:ec2:us-east-1:000000000042:capacity-reservation/cr-0be443example1db6f"}
    lines = [
        line("Usage", "1.00", line_item_usage_type="EUC1-BoxUsage:p4d.24xlarge"),
        line("Usage", "2.00", line_item_usage_type="EUC1-UnusedBox:p4d.24xlarge", **reservation),
        covered("4.00", "3.00", line_item_usage_type="UnusedDed:p4d.24xlarge", **reservation),
        line("EdpDiscount", "-0.50", line_item_usage_type="UnusedBox:p4d.24xlarge", **reservation),
        line("Usage", "0", line_item_usage_type="EUC1-Reservation:p4d.24xlarge", line_item_usage_amount="3", **reservation),
        line("Usage", "0.0000000000", line_item_usage_type="DedicatedRes:p4d.24xlarge", **reservation),
        line("Usage", "7.00", line_item_usage_type="Reservation:p4d.24xlarge", **reservation),
    ]
    bill = nights(tmp_path, write_cur(tmp_path / "cur.csv", lines), format="aws-cur")
    assert only(bill.load()).extra["skip_reasons"] == {"capacity reservation": 2}
    found = {each["effective_cost"]: (each["capacity_reservation_status"], each["capacity_reservation_id"]) for each in bill.lines()}
    unused = ("Unused", reservation["line_item_resource_id"])
    assert found == {Decimal(1): (None, None), Decimal(2): unused, Decimal(3): unused, Decimal("-0.5"): unused, Decimal(7): (None, None)}


def test_a_cost_that_the_report_does_not_state_is_null_and_counted(tmp_path: Path) -> None:
    bill = loaded(tmp_path, [discounted(""), line("Usage", "2")])
    assert {each["effective_cost"] for each in bill.lines()} == {None, Decimal(2)}
    assert [r["null_effective_count"] for r in bill.rows("billing_loads")] == [1]


def test_a_line_has_its_place_and_machine(tmp_path: Path) -> None:
    [found] = loaded(tmp_path, [line(bill_invoice_id="42", pricing_rate_code="SKU1.T.R", pricing_public_on_demand_rate="32.77")]).lines()
    given = {
        "billing_account_id": "012345678901", "sub_account_id": "000000000042", "invoice_id": "42", "invoice_issuer_name": "Amazon Web Services, Inc.",
        "service_provider_name": "AWS", "host_provider_name": "AWS", "service_name": "Amazon Elastic Compute Cloud", "service_category": "Compute",
        "region_id": "us-east-1", "availability_zone": "us-east-1a", "resource_id": "i-0123456789abcdef0", "sku_id": "SKU1", "sku_price_id": "SKU1.T.R",
        "list_unit_price": Decimal("32.77"), "instance_type": "p4d.24xlarge", "machine_gpus": 8, "consumed_quantity": Decimal(1), "consumed_unit": "Hours",
        "billed_nanoseconds": 3600 * 10**9, "billing_currency": "USD", "charge_description": "an hour",
        "charge_period_start": datetime(2026, 10, 5, 10, tzinfo=timezone.utc), "charge_period_end": datetime(2026, 10, 5, 11, tzinfo=timezone.utc),
    }  # fmt: skip
    assert {name: found[name] for name in given} == given


SERVICES = [
    ({"line_item_product_code": "AmazonSageMaker", "line_item_usage_type": "USE1-Train:ml.p3.2xlarge"}, "Amazon SageMaker", "AI and Machine Learning"),
    ({"line_item_product_code": "AmazonBedrock"}, "Amazon Bedrock", "AI and Machine Learning"),
    ({"line_item_product_code": "AmazonEC2"}, "Amazon Elastic Compute Cloud", "Compute"),
    ({"line_item_product_code": "AmazonEC2", "line_item_usage_type": "EBS:VolumeUsage.gp3"}, "Amazon Elastic Compute Cloud", "Storage"),
    ({"line_item_product_code": "AmazonEC2", "line_item_usage_type": "USE1-DataTransfer-Out-Bytes"}, "Amazon Elastic Compute Cloud", "Networking"),
    ({"line_item_product_code": "AmazonEC2", "line_item_usage_type": "NatGateway-Hours"}, "Amazon Elastic Compute Cloud", "Networking"),
    ({"line_item_product_code": "AmazonS3", "line_item_usage_type": "TimedStorage-ByteHrs"}, "Amazon Simple Storage Service", "Storage"),
    ({"line_item_product_code": "AmazonS3", "product_product_family": "Data Transfer"}, "Amazon Simple Storage Service", "Networking"),
    ({"line_item_product_code": "AmazonX", "product_servicecode": "AmazonXService"}, "AmazonXService", "Other"),
    ({"line_item_product_code": "AmazonX", "product_servicecode": ""}, "AmazonX", "Other"),
    ({"line_item_product_code": "AmazonEC2", "product": '{"product_name":"EC2 as named"}'}, "EC2 as named", "Compute"),
]  # fmt: skip


def test_services_by_name_and_category(tmp_path: Path) -> None:
    bill = loaded(tmp_path, in_accounts(line(**{"product": "", **given}) for given, _, _ in SERVICES))
    assert [(found["service_name"], found["service_category"]) for found in by_account(bill)] == [
        (name, category) for _, name, category in SERVICES
    ]


SPOT = {
    "USE1-SpotUsage:p4d.24xlarge": "Dynamic",
    "USW2-Train-Spot:ml.g5.xlarge": "Dynamic",
    "USE1-Train:ml.g5.xlarge": "Standard",
    "EU-BoxUsage:p3.2xlarge": "Standard",
}


def test_spot_is_recognized_by_usage_type(tmp_path: Path) -> None:
    """The usage type is EC2's SpotUsage, or another service's with the word Spot in it."""
    bill = loaded(tmp_path, in_accounts(line(line_item_usage_type=usage) for usage in SPOT))
    assert [found["pricing_category"] for found in by_account(bill)] == list(SPOT.values())


def test_buckets_and_storage_classes_are_recognized_by_usage_type(tmp_path: Path) -> None:
    given = {
        "line_item_product_code": "AmazonS3",
        "line_item_usage_type": "USE1-TimedStorage-SIA-ByteHrs",
        "product_instance_type": "",
        "pricing_unit": "GB-Mo",
    }
    [found] = loaded(tmp_path, [line(**given, line_item_resource_id="my-models")]).lines()
    assert (found["storage_key"], found["storage_class"], found["billed_nanoseconds"]) == ("my-models", "STANDARD_IA", None)


def test_marketplace_lines_name_their_seller(tmp_path: Path) -> None:
    sold = {"bill_billing_entity": "AWS Marketplace", "line_item_legal_entity": "Vendor Ltd", "bill_invoicing_entity": "AWS EMEA SARL"}
    [found] = loaded(tmp_path, [line("Usage", "8.00", **sold)]).lines()
    assert (found["service_provider_name"], found["host_provider_name"], found["invoice_issuer_name"]) == (
        "Vendor Ltd",
        "AWS",
        "AWS EMEA SARL",
    )
    assert (found["billed_cost"], found["effective_cost"]) == (Decimal("8.00"), Decimal("8.00"))


def test_a_row_without_a_readable_cost_is_set_aside_whole(tmp_path: Path) -> None:
    bill = loaded(tmp_path, [line(), line("Usage", "1,50"), line("Usage", ""), line(line_item_currency_code="MC")])
    aside = bill.rows("billing_quarantine")
    assert bill.total() == Decimal("1.00")
    assert {each["row_number"]: each["reason"].split(",")[0] for each in aside} == {
        2: "BilledCost is '1",
        3: "BilledCost is empty",
        4: "BillingCurrency is 'MC'",
    }
    assert json.loads(next(each["raw"] for each in aside if each["row_number"] == 2))["line_item_unblended_cost"] == "1,50"


# --- files ---------------------------------------------------------------------------------------------------------------

TAGGED = [
    *PLAN_HOUR,
    discounted("0.06", resource_tags=tags(user_mlflow_run_id=RUN, user_team="vision")),
    reservation_fee("44.64", "1.44"),
    line("Tax", "19.00", line_item_tax_type="VAT", line_item_resource_id="", product_sku=""),
    line("Refund", "-5.00", line_item_usage_start_date="2026-09-05T10:00:00Z", line_item_usage_end_date="2026-09-05T11:00:00Z"),
    line("Usage", "0.000000123456789", resource_tags=tags(user_mlflow_run_id=RUN)),
]


@pytest.fixture(scope="module")
def expected(tmp_path_factory: pytest.TempPathFactory) -> Nights:
    """The tagged lines, of a CUR 2.0 CSV."""
    return loaded(tmp_path_factory.mktemp("expected"), TAGGED)


@pytest.mark.parametrize("name", ["legacy.csv", "legacy.csv.gz", "athena.parquet", "two.csv", "two.csv.gz", "two.parquet"])
def test_every_spelling_and_kind_of_file_gives_the_same_lines(tmp_path: Path, expected: Nights, name: str) -> None:
    """They equal the lines of a CUR 2.0 CSV, except that each report spells the keys of tags in its own way."""
    spelled = {"legacy": legacy, "athena": athena, "two": list}[name.split(".")[0]](TAGGED)
    bill = nights(tmp_path, write_cur(tmp_path / name, spelled))
    assert only(bill.load()).state == "loaded"

    def shown(found: Nights) -> list[dict[str, Any]]:
        lines = [{k: v for k, v in each.items() if k not in ("line_id", "tags", "load_id")} for each in found.lines()]
        return sorted(lines, key=repr)

    assert shown(bill) == shown(expected)
    assert {each["run_tag"] for each in bill.lines() if each["run_tag"]} == {RUN}
    if name.startswith("two"):
        assert [each["line_id"] for each in bill.lines()] == [each["line_id"] for each in expected.lines()]
    version = "CUR 2.0" if name.startswith("two") else "CUR legacy"
    assert [r["focus_version"] for r in bill.rows("billing_loads")] == [version]


def test_the_format_is_found_by_its_header(tmp_path: Path) -> None:
    for name, lines in (("legacy.csv", legacy([line()])), ("two.csv", [line()]), ("focus.csv", [row()])):
        write_csv(tmp_path / name, lines)
    reported = {
        name: probe_source(BillSource(name="bill", uri=str(tmp_path / name)))["format"] for name in ("legacy.csv", "two.csv", "focus.csv")
    }
    assert reported == {"legacy.csv": "aws-cur", "two.csv": "aws-cur", "focus.csv": "focus"}


def test_a_missing_column_is_named(tmp_path: Path) -> None:
    short = [{k: v for k, v in line().items() if k != "line_item_currency_code"}]
    with pytest.raises(SourceRefused, match=r"cur\.csv of the bill: it lacks line_item_currency_code"):
        loaded(tmp_path, short)


def test_parts_their_order_and_the_time_zone_do_not_change_the_lines(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rng = random.Random(7)
    lines = [
        line("Usage", str(Decimal(n) / 8), **hour, line_item_resource_id=f"i-{n % 5:017x}", resource_tags=tags(user_team=f"t{n % 3}"))
        for n, hour in enumerate(hours(datetime(2026, 10, 31, 20, tzinfo=timezone.utc), 4) * 15)
    ] + PLAN_HOUR * 3
    seen = set()
    for run, (zone, parts, kind) in enumerate(
        [
            ("UTC", 1, "csv"),
            ("America/Los_Angeles", 3, "csv"),
            ("Asia/Kolkata", 2, "csv.gz"),
            ("Asia/Kolkata", 2, "parquet"),
            ("UTC", 4, "parquet"),
        ]
    ):
        monkeypatch.setenv("TZ", zone)
        time.tzset()
        if run:
            room = replace(room_of(None), part_bytes=3_000 * run, share_rows=5 * run, asked_rows=7 * run, kept_bytes=0)
            monkeypatch.setattr(staging, "room_of", lambda memory, room=room: room)
        if run % 2:  # ask once per combination, and keep answers for later shares and files
            for name in ("LEAST_ROWS", "FEW", "FEW_VALUES"):
                monkeypatch.setattr(distinct, name, 1)
        shuffled = rng.sample(lines, len(lines))
        for part in range(parts):
            write_cur(tmp_path / f"in-{run}" / f"part-{part}.{kind}", shuffled[part::parts])
        bill = nights(tmp_path / f"night-{run}", tmp_path / f"in-{run}", delivery="parts")
        bill.load()
        seen.add(repr(sorted((p, t.drop_columns(["load_id"]).to_pylist()) for (n, p), t in bill.store.items() if n == "billing_lines")))
        assert both(bill) == (bill.total(), bill.total(column="effective_cost"))
    monkeypatch.undo()
    time.tzset()
    assert len(seen) == 1


def test_times_with_a_zone_in_parquet_are_the_same_rows_in_every_time_zone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Rows that are set aside are also the same, with times in UTC in their reasons."""
    first = datetime(2026, 10, 1, tzinfo=timezone.utc)
    lines = [line("Usage", f"{n}.5", **hour) for n, hour in enumerate(hours(first, 3))]
    lines.append(line("Usage", "7", line_item_usage_start_date="1970-01-01T00:00:00Z"))
    table = parquet_table(lines)
    zoned = [column.cast(pa.timestamp("us", "UTC")) if pa.types.is_timestamp(column.type) else column for column in table.columns]
    pq.write_table(pa.table(zoned, names=table.column_names), tmp_path / "cur.parquet")
    found = []
    for zone in ("UTC", "Asia/Tokyo", "America/Los_Angeles"):
        monkeypatch.setenv("TZ", zone)
        time.tzset()
        bill = nights(tmp_path / zone.replace("/", "-"), tmp_path / "cur.parquet")
        bill.load()
        found.append(
            [bill.store[name, "2026-10"].drop_columns(["load_id"]).to_pylist() for name in ("billing_lines", "billing_quarantine")]
        )
    monkeypatch.undo()
    time.tzset()
    good, [aside] = found[0]
    assert sorted(each["charge_period_start"] for each in good) == [first + timedelta(hours=n) for n in range(3)]
    assert aside["reason"] == "ChargePeriodStart is '1970-01-01 00:00:00+00', which is not a UTC time such as 2026-10-01T00:00:00Z"
    assert found[1:] == [found[0]] * 2


def test_asking_once_per_combination_finds_the_same_lines(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """SQL sees every row, or each combination of values once. The lines are the same, also for rows that become none or two."""
    path = write_cur(tmp_path / "cur.csv", [*TAGGED, line("Usage", "one"), line(line_item_currency_code="?")] * 2)
    found = []
    for least_rows in (1, 10**9):
        monkeypatch.setattr(distinct, "LEAST_ROWS", least_rows)
        monkeypatch.setattr(distinct, "FEW", 1)
        monkeypatch.setattr(distinct, "FEW_VALUES", 1)
        distinct._kept.clear()
        bill = nights(tmp_path / str(least_rows), path)
        outcome = only(bill.load())
        found.append((bill.store["billing_lines", "2026-10"], bill.store["billing_quarantine", "2026-10"], outcome.extra["skip_reasons"]))
        assert [needs is not None for needs in distinct._kept.values()] == [True] * (least_rows == 1)
    assert found[0] == found[1]
    assert (found[0][0].num_rows, found[0][1].num_rows) == (2 * 9, 4)


def test_a_query_that_compares_rows_sees_all_rows(tmp_path: Path) -> None:
    """A sum over rows, or a join of rows with rows, needs all rows. A join with a list of values does not."""
    rows = pa.table({"kind": pa.array(["a", "b", "b"]).dictionary_encode(), "row_number": pa.array([1, 2, 3], pa.int64())})
    queries = {
        "select kind, row_number from bill": True,
        "select kind || name as kind, row_number from bill left join (values ('a', 'x')) named(code, name) on code = kind": True,
        "select kind, row_number from bill where row_number > 1 union all select kind, row_number from bill": True,
        "select kind || count(*) over (partition by kind) as kind, row_number from bill": False,
        "select max(kind) as kind, min(row_number) as row_number from bill": False,
        "select a.kind, a.row_number from bill a join bill b on a.kind = b.kind": False,
        "with c as materialized (select * from bill) select a.kind, a.row_number from c a join c b on a.kind = b.kind": False,
    }
    with staging.Staged(tmp_path) as staged:
        staged.con.register("bill", rows)
        reported = {query: distinct._find_needs(staged.con, rows.column_names, query, ["kind"], "") for query in queries}
    assert {query: needs is not None for query, needs in reported.items()} == queries
    assert "kind" in reported["select kind, row_number from bill"]["kind"]  # type: ignore[index]


def test_the_slow_reader_finds_the_same_lines(tmp_path: Path) -> None:
    """A line break inside quotes and a blank last line make Runspend use the slow reader."""
    lines = [*TAGGED, line(line_item_line_item_description="two\nlines")]
    found = []
    for name, text in (("fast", csv_text([*TAGGED, line(line_item_line_item_description="two lines")])), ("slow", csv_text(lines) + "\n")):
        bill = nights(tmp_path / name, write_bytes(tmp_path / f"{name}.csv", text.encode()))
        bill.load()
        found.append(sorted((each["effective_cost"], each["tags"], each["charge_period_start"]) for each in bill.lines()))
    assert found[0] == found[1] and len(found[0]) == len(TAGGED) + 2


def test_a_file_that_is_read_slowly_does_not_change_the_others(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Runspend begins the next file while it stages one. With either reader, each row counts once."""
    monkeypatch.setattr(staging, "room_of", lambda memory: replace(room_of(memory), part_bytes=1_000, share_rows=3))
    described = {part: [f"{part}{' ' if part % 2 else chr(10)}{n}" for n in range(9)] for part in range(5)}
    for part, texts_of_part in described.items():
        write_cur(tmp_path / f"in/part-{part}.csv", [line("Usage", "1", line_item_line_item_description=text) for text in texts_of_part])
    bill = nights(tmp_path, tmp_path / "in", delivery="parts")
    bill.load()
    assert sorted(each["charge_description"] for each in bill.lines()) == sorted(text for part in described.values() for text in part)


# --- deliveries ----------------------------------------------------------------------------------------------------------


def deliver(root: Path, execution: str, lines: Sequence[Mapping[str, str]], at: datetime, period: str = "2026-10", **parts: Any) -> Path:
    """Write a CUR 2.0 export of one period in the layout of Data Exports. If files are overwritten, `execution` is empty."""
    folder = "/".join(part for part in ("exports/cur/data", f"BILLING_PERIOD={period}", execution) if part)
    names = []
    for n in range(parts.get("count", 2)):
        name = f"{folder}/cur-{n + 1:05d}.csv.gz"
        write_cur(root / name.removeprefix("exports/"), lines[n :: parts.get("count", 2)], at=at)
        names.append(f"s3://bucket/{name}")
    manifest = "/".join(part for part in ("cur/metadata", f"BILLING_PERIOD={period}", execution, "cur-Manifest.json") if part)
    text = json.dumps({"exportArn": "arn:aws:bcm-data-exports:us-east-1:1:export/cur", "dataFiles": names})
    return write_bytes(root / manifest, text.encode(), at=at + timedelta(minutes=1))


def test_an_overwritten_export_is_what_its_manifest_names(tmp_path: Path) -> None:
    deliver(tmp_path / "in", "", [line("Usage", "6.00"), line("Usage", "4.00"), line("Usage", "1.00")], NOW - timedelta(days=2))
    write_cur(tmp_path / "in/cur/data/BILLING_PERIOD=2026-10/stray.csv.gz", [line("Usage", "9.00")])
    bill = nights(tmp_path, tmp_path / "in")
    assert only(bill.load()).state == "loaded"
    assert bill.total() == Decimal("11.00")
    deliver(tmp_path / "in", "", [line("Usage", "6.00"), line("Usage", "4.50")], NOW - timedelta(days=1))
    assert only(bill.load()).state == "loaded"
    assert bill.total() == Decimal("10.50")


def test_only_the_newest_of_several_executions_counts(tmp_path: Path) -> None:
    """With create-new delivery, the folder has the month once per execution."""
    for n, cost in enumerate(("15.00", "12.50", "13.00")):
        deliver(
            tmp_path / "in",
            f"2026-11-0{n + 1}T05:06:07.000Z-abc",
            [line("Usage", cost), line("Usage", "1.00")],
            NOW - timedelta(days=9 - n),
        )
    bill = nights(tmp_path, tmp_path / "in")
    assert only(bill.load()).state == "loaded"
    assert (bill.total(), len(bill.lines())) == (Decimal("14.00"), 2)
    assert only(bill.load()).state == "unchanged"


def test_a_newer_execution_with_a_file_missing_leaves_the_month(tmp_path: Path) -> None:
    deliver(tmp_path / "in", "one", [line("Usage", "8.00"), line("Usage", "1.00")], NOW - timedelta(days=2))
    bill = nights(tmp_path, tmp_path / "in")
    bill.load()
    deliver(tmp_path / "in", "two", [line("Usage", "80.00"), line("Usage", "1.00")], NOW - timedelta(days=1))
    (tmp_path / "in/cur/data/BILLING_PERIOD=2026-10/two/cur-00002.csv.gz").unlink()
    assert only(bill.load()).error is not None
    assert bill.total() == Decimal("9.00")


def test_the_header_counts_if_the_manifest_names_fewer_columns(tmp_path: Path, samples: Path) -> None:
    """The manifest names 57 columns, and the CSV has 196."""
    named = json.loads(next((samples / "cur_legacy_nise").rglob("mlcur-Manifest.json")).read_text())["columns"]
    bill = nights(tmp_path, samples / "cur_legacy_nise/bucket")
    outcome = only(bill.load(), "2026-09")
    with gzip.open(next((samples / "cur_legacy_nise").rglob("*.csv.gz")), "rt") as file:
        delivered = list(csv.DictReader(file))
    assert (len(named), len(delivered[0]), len(delivered)) == (57, 196, 120)
    assert outcome.state == "loaded" and outcome.extra["skip_reasons"] == {"SavingsPlanNegation": 24}
    assert both(bill, "2026-09") == (Decimal("803.3424"), Decimal("801.0288"))
    by_type = {
        kind: sum(Decimal(r["lineItem/UnblendedCost"]) for r in delivered if r["lineItem/LineItemType"] == kind)
        for kind in ("Usage", "SavingsPlanRecurringFee")
    }
    assert by_type == {"Usage": Decimal("786.5424"), "SavingsPlanRecurringFee": Decimal("16.8")}
    assert sums([each for each in bill.lines("2026-09") if each["effective_cost"] is not None], "instance_type", "effective_cost") == {
        "p4d.24xlarge": Decimal("786.5424"),
        "g5.xlarge": Decimal("14.4864"),
    }
    assert sums([each for each in bill.lines("2026-09") if each["run_tag"]], "run_tag") == {RUN: Decimal("786.5424")}
    assert only(bill.load(), "2026-09").state == "unchanged"


def test_an_older_legacy_assembly_is_not_added(tmp_path: Path, samples: Path) -> None:
    """If reports are not overwritten, an older assembly stays next to the newest, each with its manifest."""
    month_folder = "cur/mlcur/20260901-20261001"
    shutil.copytree(samples / "cur_legacy_nise/bucket", tmp_path / "in", copy_function=shutil.copyfile)
    for path in [tmp_path / "in", *(tmp_path / "in").rglob("*")]:
        path.chmod(0o755)
    older = tmp_path / "in" / month_folder / "00000000-older"
    write_csv(older / "mlcur-1.csv.gz", legacy([line("Usage", "5.00", **month("2026-09"))]), at=NOW - timedelta(days=30))
    text = json.dumps({"reportKeys": [f"{month_folder}/00000000-older/mlcur-1.csv.gz"], "billingPeriod": {"start": "20260901T000000.000Z"}})
    write_bytes(older / "mlcur-Manifest.json", text.encode(), at=NOW - timedelta(days=30))
    for path in (tmp_path / "in" / month_folder).rglob("mlcur-Manifest.json"):
        if path.parent != older:
            os.utime(path, (NOW.timestamp(), NOW.timestamp()))
    bill = nights(tmp_path, tmp_path / "in")
    bill.load()
    assert bill.total("2026-09") == Decimal("803.3424")


def test_a_legacy_manifest_names_the_assembly_that_counts_at_any_file_times(tmp_path: Path) -> None:
    """A copy made with `cp -r` has new file times. Earlier assemblies count if the newest is not complete."""
    folder = "cur/mlcur/20261001-20261101"
    for assembly, cost, days in (("aaaa", "5.00", 2), ("bbbb", "6.00", 3), ("cccc", "7.00", 1)):
        write_csv(tmp_path / "in" / folder / assembly / "mlcur-1.csv.gz", legacy([line("Usage", cost)]))
        given = {"assemblyId": assembly, "reportKeys": [f"{folder}/{assembly}/mlcur-1.csv.gz"]}
        for where in (assembly, "") if assembly == "bbbb" else (assembly,):
            path = tmp_path / "in" / folder / where / "mlcur-Manifest.json"
            write_bytes(path, json.dumps(given).encode(), at=NOW - timedelta(days=days))
    bill = nights(tmp_path, tmp_path / "in")
    assert (only(bill.load()).state, bill.total()) == ("loaded", Decimal("6.00"))
    (tmp_path / "in" / folder / "bbbb/mlcur-1.csv.gz").unlink()
    fresh = nights(tmp_path / "fresh", tmp_path / "in")
    assert only(fresh.load()).error is not None
    assert fresh.total() == Decimal("7.00")
    assert only(bill.load()).error is not None
    assert bill.total() == Decimal("6.00")


def test_executions_are_ordered_by_their_names_not_by_file_times(tmp_path: Path) -> None:
    """A create-new folder of CUR 2.0 has a name that begins with the time of its execution."""
    for n, name in enumerate(("2026-11-02T12:34:56.789Z-aaa", "2026-11-03T00:00:00.000Z-aaa", "2026-11-01T12:34:56.789Z-zzz")):
        deliver(tmp_path / "in", name, [line("Usage", str(n + 1)), line("Usage", "10")], NOW - timedelta(days=9 - n))
    bill = nights(tmp_path, tmp_path / "in")
    assert (only(bill.load()).state, bill.total()) == ("loaded", Decimal(12))
    assert [r["delivered_at"] for r in bill.rows("billing_loads")] == [datetime(2026, 11, 3, tzinfo=timezone.utc)]


def test_parts_of_the_same_bytes_that_one_manifest_names_both_count(tmp_path: Path) -> None:
    """Each part has as many charges. A part that is named twice is one part. Without a manifest, the second file is a copy."""
    folder = tmp_path / "in/20261001-20261101"
    for name in ("p1.csv.gz", "p2.csv.gz"):
        write_cur(folder / name, [line("Usage", "0.05")] * 3)

    def name_parts(*names: str) -> None:
        text = json.dumps({"reportKeys": [f"20261001-20261101/{name}" for name in names]})
        write_bytes(folder / "cur-Manifest.json", text.encode())

    bill = nights(tmp_path, tmp_path / "in")
    for names, rows in ((("p1.csv.gz",) * 2, 3), (("p1.csv.gz", "p2.csv.gz"), 6)):
        name_parts(*names)
        assert only(bill.load()).state == "loaded"
        assert (len(bill.lines()), bill.total()) == (rows, rows * Decimal("0.05"))
        assert len({each["line_id"] for each in bill.lines()}) == rows
    assert only(bill.load()).state == "unchanged"
    without = nights(tmp_path / "without", tmp_path / "in", delivery="parts")
    assert only(without.load()).extra["duplicates"] == ["20261001-20261101/p2.csv.gz"]
    assert (len(without.lines()), without.total()) == (3, Decimal("0.15"))


# --- traps ---------------------------------------------------------------------------------------------------------------


def test_an_open_month_that_is_delivered_again_counts_once(tmp_path: Path) -> None:
    folder = tmp_path / "in"
    november = month("2026-11")
    first = [line("Usage", "10.00", **november, line_item_resource_id="a"), line("Usage", "5.00", **november, line_item_resource_id="b")]
    second = [first[0], {**first[1], "line_item_unblended_cost": "2.50"}]
    bill = nights(tmp_path, folder)
    deliver(folder, "one", first, NOW - timedelta(days=2), "2026-11")
    bill.load()
    assert bill.total("2026-11") == Decimal("15.00")
    deliver(folder, "two", second, NOW - timedelta(days=1), "2026-11")
    bill.load()
    assert (bill.total("2026-11"), len(bill.lines("2026-11"))) == (Decimal("12.50"), 2)
    shutil.rmtree(folder / "cur/metadata/BILLING_PERIOD=2026-11/two")
    assert only(bill.load(), "2026-11").state == "refused"
    assert bill.total("2026-11") == Decimal("12.50")


def test_a_real_month_before_and_after_its_invoice_has_the_total_of_each(tmp_path: Path, samples: Path) -> None:
    bill = nights(tmp_path, tmp_path / "in", delivery="versions")
    for days, name in ((2, "aws_2023-06-01-not-final.csv"), (1, "aws_2023-06-01.csv")):
        write_bytes(tmp_path / "in" / name, (samples / "koku" / name).read_bytes(), at=NOW - timedelta(days=days))
        bill.load()
        lines = bill.lines("2023-06")
        # Covered by a Savings Plan: the list price is what 30 NOK of usage would cost, and the cost is the plan's share.
        assert (len(lines), {each["billing_currency"] for each in lines}) == (3, {"NOK"})
        assert [bill.total("2023-06", c) for c in ("list_cost", "billed_cost", "effective_cost")] == [
            Decimal(30),
            Decimal(0),
            Decimal("0.3"),
        ]
    assert {each["billing_account_id"] for each in lines} == {"0099999999999"}
    assert {each["invoice_id"] for each in lines} == {"987654321"}
    assert [r["is_invoiced"] for r in bill.rows("billing_loads", "2023-06")] == [False, True]


def test_a_month_without_rows_is_loaded_and_a_vanished_one_is_kept(tmp_path: Path, samples: Path) -> None:
    folder = tmp_path / "in"
    deliver(folder, "one", [], NOW - timedelta(days=3), "2026-09")
    deliver(folder, "one", [line("Usage", "50.00")], NOW - timedelta(days=3))
    write_bytes(folder / "cur/data/BILLING_PERIOD=2026-08/cur.csv", (samples / "koku/aws_empty_frame.csv").read_bytes())
    write_bytes(
        folder / "cur/metadata/BILLING_PERIOD=2026-08/cur-Manifest.json", b'{"dataFiles": ["cur/data/BILLING_PERIOD=2026-08/cur.csv"]}'
    )
    bill = nights(tmp_path, folder)
    bill.load()
    for period in ("2026-08", "2026-09"):
        assert [(r["state"], r["row_count"], r["billed_cost"]) for r in bill.rows("billing_loads", period)] == [("current", 0, Decimal(0))]
    deliver(folder, "two", [], NOW - timedelta(days=1))
    assert only(bill.load()).state == "refused"
    assert bill.total() == Decimal("50.00")
    shutil.rmtree(folder / "cur/metadata/BILLING_PERIOD=2026-10")
    assert only(bill.load()).state == "refused"
    assert bill.total() == Decimal("50.00")


def test_an_empty_file_among_good_ones_is_loaded(tmp_path: Path) -> None:
    write_cur(tmp_path / "in/part-1.parquet", [line("Usage", "7.00")])
    pq.write_table(parquet_table([line()]).slice(0, 0), tmp_path / "in/part-2.parquet")
    write_cur(tmp_path / "in/part-3.csv.gz", [])
    bill = nights(tmp_path, tmp_path / "in", delivery="parts")
    bill.load()
    assert bill.total() == Decimal("7.00")


def test_a_savings_plan_counts_its_fee_once(tmp_path: Path) -> None:
    bill = loaded(tmp_path, PLAN_HOUR)
    assert both(bill) == (Decimal("0.70"), Decimal("0.70"))
    assert {(each["charge_category"], each["commitment_discount_status"], each["billed_cost"], each["effective_cost"]) for each in bill.lines()} == {
        ("Usage", "Used", Decimal(0), Decimal("0.6036")),
        ("Usage", "Unused", Decimal(0), Decimal("0.0964")),
        ("Purchase", None, Decimal("0.70"), Decimal(0)),
    }  # fmt: skip


@pytest.mark.parametrize(("used_hours", "unused", "used"), [(720, "1.44", "43.20"), (0, "44.64", "0")])
def test_a_reservation_fee_is_not_added_to_discounted_usage(tmp_path: Path, used_hours: int, unused: str, used: str) -> None:
    october = hours(datetime(2026, 10, 1, tzinfo=timezone.utc), 744)[:used_hours]
    bill = loaded(tmp_path, [reservation_fee("44.64", unused), *(discounted("0.06", **hour) for hour in october)])
    assert both(bill) == (Decimal("44.64"), Decimal("44.64"))
    by_status = sums(bill.lines(), "commitment_discount_status", "effective_cost")
    assert (by_status["Unused"], by_status.get("Used", Decimal(0))) == (Decimal(unused), Decimal(used))


def test_an_upfront_fee_is_billed_once_and_used_all_year(tmp_path: Path) -> None:
    year = hours(datetime(2023, 1, 1, tzinfo=timezone.utc), 8760)
    fee = line("Fee", "8760.00", **month("2023-01"), reservation_reservation_a_r_n=RESERVATION)
    bill = loaded(tmp_path, [fee, *(discounted("1.00", **hour) for hour in year)])
    by_month = {f"2023-{n:02d}": both(bill, f"2023-{n:02d}") for n in range(1, 13)}
    assert by_month["2023-01"] == (Decimal("8760.00"), Decimal("744.00"))
    assert by_month["2023-02"] == (Decimal(0), Decimal("672.00"))
    assert tuple(sum(pair[i] for pair in by_month.values()) for i in (0, 1)) == (Decimal("8760.00"), Decimal("8760.00"))


def test_only_usage_has_hours(tmp_path: Path) -> None:
    lines = [
        *PLAN_HOUR,
        discounted("0.18", line_item_usage_amount="3"),
        reservation_fee("44.64", "0"),
        line("Usage", "2", line_item_usage_amount="2"),
    ]
    bill = loaded(tmp_path, lines)
    assert sum(each["consumed_quantity"] or 0 for each in bill.lines()) == 6
    assert sum(each["billed_nanoseconds"] or 0 for each in bill.lines()) == 6 * 3600 * 10**9


def split(pod: str, parent: str, cost: str, unused: str, operation: str = "EKSPod-EC2") -> dict[str, str]:
    given = {"split_line_item_parent_resource_id": parent, "split_line_item_split_cost": cost, "split_line_item_unused_cost": unused}
    return line("Usage", "0", line_item_operation=operation, line_item_resource_id=f"arn:aws:eks:us-east-1:1:pod/{pod}", **given)


def test_split_cost_allocation_rows_charge_nothing(tmp_path: Path) -> None:
    node = line(
        "Usage",
        "10.00",
        **dict.fromkeys(("split_line_item_parent_resource_id", "split_line_item_split_cost", "split_line_item_unused_cost"), ""),
    )
    parent = LINE["line_item_resource_id"]
    lines = [node, split("A", parent, "2.50", "1.50"), split("B", parent, "4.00", "2.00", "ECSTask-EC2"), split("C", "", "0", "0")]
    bill = nights(tmp_path, write_cur(tmp_path / "cur.csv", lines))
    assert only(bill.load()).extra["skip_reasons"]["split cost allocation"] == 3
    assert both(bill) == (Decimal("10.00"), Decimal("10.00"))
    assert sorted(each["effective_cost"] for each in bill.lines()) == [4, 6]  # parts of the node: test_cost_splits.py


def test_a_split_row_that_charges_is_set_aside_not_lost(tmp_path: Path) -> None:
    bill = loaded(tmp_path, [line("Usage", "10.00"), line("Usage", "3.00", line_item_operation="EKSPod-EC2")])
    assert bill.total() == Decimal("10.00")
    assert [(r["billed_cost"], r["reason"].split(",")[0]) for r in bill.rows("billing_quarantine")] == [
        (Decimal("3.00"), "line_item_unblended_cost is '3.00'")
    ]


def test_refunds_keep_their_sign_category_and_charge_month(tmp_path: Path) -> None:
    back_to_september = {k: v for k, v in month("2026-09").items() if k.startswith("line_item")}
    lines = [
        line("Usage", "25.00", **month("2026-09"), bill_invoice_id="sep"),
        line("Usage", "30.00"),
        line("Refund", "-5.00", **back_to_september),
        line("Credit", "-2.00"),
    ]
    bill = loaded(tmp_path, lines)
    assert (bill.total("2026-09"), bill.total()) == (Decimal("25.00"), Decimal("23.00"))
    by_month = sums([{**each, "month": f"{each['charge_date']:%Y-%m}"} for p in ("2026-09", "2026-10") for each in bill.lines(p)], "month")
    assert by_month == {"2026-09": Decimal("20.00"), "2026-10": Decimal("28.00")}
    [refund] = [each for each in bill.lines() if each["charge_class"]]
    assert (refund["charge_category"], refund["charge_class"], refund["charge_date"]) == ("Usage", "Correction", date(2026, 9, 5))
    assert sums(bill.lines(), "charge_category") == {"Usage": Decimal("25.00"), "Credit": Decimal("-2.00")}


def test_a_negative_unit_price_is_not_a_price(tmp_path: Path) -> None:
    [found] = loaded(tmp_path, [line("Usage", "-5.00", pricing_public_on_demand_rate="-0.50")]).lines()
    assert (found["billed_cost"], found["list_unit_price"]) == (Decimal("-5.00"), None)


def test_marketplace_lines_are_in_the_bill(tmp_path: Path) -> None:
    bill = loaded(
        tmp_path, [line("Usage", "12.00"), line("Usage", "8.00", bill_billing_entity="AWS Marketplace", line_item_legal_entity="Vendor")]
    )
    assert sums(bill.lines(), "service_provider_name") == {"AWS": Decimal("12.00"), "Vendor": Decimal("8.00")}


def test_nineteen_decimals_of_a_real_report_are_kept(tmp_path: Path, samples: Path) -> None:
    """The rows of the sample are one field shorter than its header, so the test drops the last name."""
    header, *rows = (samples / "koku/test_cur.csv").read_text().splitlines()
    text = "\n".join([header.rpartition(",")[0], *rows])
    bill = nights(tmp_path, write_bytes(tmp_path / "cur.csv", text.encode()))
    bill.load()
    assert (len(bill.lines("2018-06")), bill.total("2018-06")) == (19, Decimal("0.0827499841274349353"))


def test_decimals_are_read_in_every_notation(tmp_path: Path) -> None:
    written = {
        "35.2E-7": "0.00000352",
        "1.7166668039999999e-06": "0.0000017166668039999999",
        "-0": "0",
        "0.000000060000000000000000000": "0.00000006",
    }
    bill = loaded(tmp_path, in_accounts(line("Usage", text) for text in written))
    assert [found["billed_cost"] for found in by_account(bill)] == [Decimal(value) for value in written.values()]


def test_a_double_of_parquet_is_read_as_its_shortest_text(tmp_path: Path) -> None:
    costs = ["0.1", "4e-10", "0.30000000000000004", "12345678.9", "1.7166668039999999e-06"]
    bill = nights(tmp_path, write_cur(tmp_path / "cur.parquet", [line("Usage", cost) for cost in costs]))
    bill.load()
    assert sorted(each["billed_cost"] for each in bill.lines()) == sorted(Decimal(cost) for cost in costs)


TAGS = [
    ({"user_mlflow_run_id": RUN}, RUN, None),
    ({"user_mlflow_run_id": "0" * 32}, "0" * 32, None),
    ({"user_slurm_job_id": "77"}, None, "77"),
    ({"aws_batch_job_id": "job-1"}, None, "job-1"),
    ({"aws:batch:job-id": "job-1"}, None, "job-1"),
    ({"user_job_run_id": "88"}, None, "88"),
    ({"user_mlflow_runid": RUN}, RUN, None),
    ({"resourceTags/mlflow_run_id": RUN}, RUN, None),
]


@pytest.mark.parametrize("name", ["cur.csv", "cur.parquet"])
def test_runs_and_jobs_are_found_by_tags_of_cur_2(tmp_path: Path, name: str) -> None:
    bill = nights(tmp_path, write_cur(tmp_path / name, in_accounts(line(resource_tags=json.dumps(given)) for given, _, _ in TAGS)))
    bill.load()
    assert [(json.loads(found["tags"]), found["run_tag"], found["job_key"]) for found in by_account(bill)] == TAGS


@pytest.mark.parametrize(
    "columns",
    [
        {"resourceTags/user:mlflow_run_id": ("1", None), "resourceTags/user:JobRunId": (None, "1")},
        {"resourceTags/user:mlflow.run_id": ("1", None), "resourceTags/aws:batch:job-id": (None, "1")},
        {
            "resource_tags_user_mlflow_run_id": ("1", None),
            "resource_tags_user_job_run_id": (None, "1"),
            "resource_tags_aws_batch_job_id": (None, "1"),
        },
    ],
)
def test_runs_and_jobs_are_found_by_tag_columns(tmp_path: Path, columns: dict[str, tuple[str | None, str | None]]) -> None:
    [one] = legacy([line()])
    empty = {**one, **dict.fromkeys(columns, "")}
    bill = nights(tmp_path, write_csv(tmp_path / "cur.csv", [empty, *({**empty, column: "1"} for column in columns)]))
    bill.load()
    expected = {(json.dumps({column: "1"}, separators=(",", ":")), run, job) for column, (run, job) in columns.items()}
    assert {(each["tags"], each["run_tag"], each["job_key"]) for each in bill.lines()} == expected | {(None, None, None)}


def test_the_cost_of_a_line_with_unreadable_tags_is_kept(tmp_path: Path) -> None:
    texts_of_tags = ['{"user_mlflow_run_id":"r1"}', '{"a":"1","a":"2"}', '{"a":{"b":1}}', "no json", "{}", ""]
    bill = nights(tmp_path, write_cur(tmp_path / "cur.csv", [line(resource_tags=each) for each in texts_of_tags]))
    load = only(bill.load())
    assert (load.state, bill.total(), len(bill.lines())) == ("loaded", Decimal("6.00"), 6)
    assert sums(bill.lines(), "tags") == {'{"user_mlflow_run_id":"r1"}': Decimal("1.00"), None: Decimal("5.00")}


@pytest.mark.parametrize("named", ["resource_tags", "tags"])
def test_empty_tags_in_one_column_do_not_hide_those_in_the_other(tmp_path: Path, named: str) -> None:
    """CUR 2.0 has two columns of tags, and an empty map is not a value."""
    given = {"resource_tags": "{}", "tags": "{}", named: tags(user_mlflow_run_id=RUN)}
    [found] = loaded(tmp_path, [line(**given)]).lines()
    assert (json.loads(found["tags"]), found["run_tag"]) == ({"user_mlflow_run_id": RUN}, RUN)


def test_ids_stay_strings_and_words_for_null_are_null(tmp_path: Path) -> None:
    given = {"bill_payer_account_id": "0099999999999", "product_sku": "1E5", "line_item_resource_id": "i-A"}
    nothing = [line(**given, product_region_code=word) for word in ("NULL", "null", "(null)", "", "nan")]
    text = "\ufeff" + csv_text([*nothing, line(**{**given, "line_item_resource_id": "i-a"}, resource_tags='{"user_team":"NULL"}')]) + "\n"
    bill = nights(tmp_path, write_bytes(tmp_path / "cur.csv", text.encode()))
    bill.load()
    lines = bill.lines()
    assert len(lines) == 6
    assert {each["billing_account_id"] for each in lines} == {"0099999999999"}
    assert {each["sku_id"] for each in lines} == {"1E5"}
    assert {each["region_id"] for each in lines} == {None, "us-east-1"}
    assert {each["resource_key"] for each in lines} == {"i-A", "i-a"}
    assert {each["tags"] for each in lines} == {None, '{"user_team":"NULL"}'}


def test_columns_are_matched_by_name_and_new_ones_reported(tmp_path: Path) -> None:
    write_csv(tmp_path / "in/sep.csv", legacy([line("Usage", "3.00", **month("2026-09"), resource_tags='{"user_a":"1"}')]))
    october = [{**each, "x/New": "y"} for each in legacy([line("Usage", "4.00", resource_tags='{"user_b":"1"}')])]
    write_csv(tmp_path / "in/oct.csv", october, header=list(reversed(october[0])))
    bill = nights(tmp_path, tmp_path / "in")
    load = bill.load()
    assert (bill.total("2026-09"), bill.total()) == (Decimal("3.00"), Decimal("4.00"))
    assert load.extra["dropped_columns"] == ["x/New"]


def test_a_header_that_does_not_fit_its_rows_is_refused(tmp_path: Path, samples: Path) -> None:
    with pytest.raises(SourceRefused, match="line 2: it has 130 fields, but the header has 131"):
        nights(tmp_path, samples / "koku/test_cur.csv").load()


def test_money_may_be_double_in_one_part_and_decimal_in_the_next(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    pq.write_table(parquet_table([line("Usage", "0.1")]), tmp_path / "in/a.parquet")
    pq.write_table(parquet_table([line("Usage", "0.2000000000000000000001")], pa.decimal128(38, 22)), tmp_path / "in/b.parquet")
    bill = nights(tmp_path, tmp_path / "in", delivery="parts")
    bill.load()
    assert bill.total() == Decimal("0.3000000000000000000001")


def test_savings_are_measured_on_usage(tmp_path: Path) -> None:
    bill = loaded(tmp_path, [covered("1.00", "0.60"), negation("-1.00"), plan_fee("0.60", "0.60", "0.60")])
    assert sums(bill.lines(), "charge_category", "list_cost")["Usage"] == Decimal("1.00")


NET_LINES = [
    {**NET, **plan_fee("10.00"), "line_item_net_unblended_cost": "8.00"},
    {**NET, **covered("7.00", "6.00"), "line_item_net_unblended_cost": "5.60", "savings_plan_net_savings_plan_effective_cost": "5.00"},
]
NET_VIEWS = [
    ("every net column", lambda each: each, ("8.00", "5.00")),
    ("no net column", lambda each: {k: v for k, v in each.items() if k not in NET}, ("10.00", "6.00")),
    ("net columns without a value", lambda each: {**each, **NET}, ("10.00", "6.00")),
    ("net columns of nothing but zero", lambda each: {**each, **dict.fromkeys(NET, "0.0")}, ("10.00", "6.00")),
    ("a net column missing", lambda each: {k: v for k, v in each.items() if k != "savings_plan_net_savings_plan_effective_cost"}, ("10.00", "6.00")),
]  # fmt: skip


@pytest.mark.parametrize("kind", ["csv", "parquet"])
@pytest.mark.parametrize(("delivered", "expected"), [view[1:] for view in NET_VIEWS], ids=[view[0] for view in NET_VIEWS])
def test_net_costs_are_used_for_every_column_or_for_none(tmp_path: Path, kind: str, delivered: Any, expected: tuple[str, str]) -> None:
    bill = nights(tmp_path, write_cur(tmp_path / f"cur.{kind}", [delivered(each) for each in NET_LINES]))
    bill.load()
    assert both(bill) == (Decimal(expected[0]), Decimal(expected[1]))


def test_unused_fees_are_net_where_fees_are(tmp_path: Path) -> None:
    given = {
        "line_item_net_unblended_cost": "8.00",
        "reservation_net_unused_recurring_fee": "2.40",
        "reservation_net_unused_amortized_upfront_fee_for_billing_period": "0.80",
    }
    bill = loaded(tmp_path, [{**NET, **reservation_fee("10.00", "3.00", "1.00"), **given}])
    assert both(bill) == (Decimal("8.00"), Decimal("3.20"))


USED_NET = line("Usage", "10", **{**NET, "line_item_net_unblended_cost": "8"})
RESERVED_NET = {**NET, **discounted("6.00"), "line_item_net_unblended_cost": "0", "reservation_net_effective_cost": "5.00"}


@pytest.mark.parametrize("parts", [[[USED_NET, RESERVED_NET]], [[USED_NET], [RESERVED_NET]], [[RESERVED_NET], [USED_NET]]])
def test_any_net_amount_means_that_costs_are_net(tmp_path: Path, parts: list[list[dict[str, str]]]) -> None:
    for n, lines in enumerate(parts):
        write_cur(tmp_path / f"in/{n}.csv", lines)
    bill = nights(tmp_path, tmp_path / "in", delivery="parts")
    bill.load()
    assert both(bill) == (Decimal(8), Decimal(13))


@pytest.mark.parametrize(("kind", "is_by_manifest"), [("csv", True), ("csv.gz", False), ("parquet", True), ("parquet", False)])
def test_a_part_of_zero_net_costs_follows_the_other_parts_of_its_month(tmp_path: Path, kind: str, is_by_manifest: bool) -> None:
    """Lines of the discount itself cost nothing net. In a month without net costs, zeros do not mean that costs are net."""
    off = line("EdpDiscount", "-2", **{**NET, "line_item_net_unblended_cost": "0"})
    names = [f"cur-{n}.{kind}" for n in range(4)]
    for name, lines in zip(names, [[off], [USED_NET], [off, off], [RESERVED_NET]], strict=True):
        write_cur(tmp_path / "in/20261001-20261101" / name, lines)
    before = [{**off, **month("2026-09")}, line("Usage", "10", **{**NET, **month("2026-09")})]
    write_cur(tmp_path / f"in/20260901-20261001/cur.{kind}", before)
    if is_by_manifest:
        for folder, named in (("20261001-20261101", names), ("20260901-20261001", [f"cur.{kind}"])):
            text = json.dumps({"reportKeys": [f"{folder}/{name}" for name in named]})
            write_bytes(tmp_path / "in" / folder / "cur-Manifest.json", text.encode())
    bill = nights(tmp_path, tmp_path / "in", delivery="manifest" if is_by_manifest else "parts")
    bill.load()
    assert (both(bill), len(bill.lines())) == ((Decimal(8), Decimal(13)), 5)
    assert both(bill, "2026-09") == (Decimal(8), Decimal(8))
    assert {each.state for each in bill.load().periods} == {"unchanged"}


@pytest.mark.parametrize("kind", ["csv", "csv.gz", "parquet"])
def test_consecutive_parts_of_zero_net_costs_are_each_read_again(tmp_path: Path, kind: str) -> None:
    off = line("EdpDiscount", "-2", **{**NET, "line_item_net_unblended_cost": "0"})
    for n, lines in enumerate([[off], [off] * 2, [off] * 3, [USED_NET], [RESERVED_NET]]):
        write_cur(tmp_path / f"in/cur-{n}.{kind}", lines)
    bill = nights(tmp_path, tmp_path / "in", delivery="parts")
    load = bill.load()
    assert (load.error, both(bill), len(bill.lines())) == (None, (Decimal(8), Decimal(13)), 8)


def test_tags_that_differ_in_case_are_two_with_either_reader(tmp_path: Path) -> None:
    """A line break in a field makes Runspend use the slow reader. A row that is set aside keeps every column by name."""
    tagged = line(resource_tags='{"user_Team": "a", "user_team": "b"}', line_item_line_item_description="one\ntwo")
    bill = loaded(tmp_path, legacy([tagged, {**tagged, "line_item_unblended_cost": "?"}]))
    [found], [aside] = bill.lines(), bill.rows("billing_quarantine")
    assert set(json.loads(found["tags"]).values()) == {"a", "b"}
    raw = json.loads(aside["raw"])
    assert (raw["resourceTags/user:Team"], raw["resourceTags/user:team"]) == ("a", "b")


def test_a_file_damaged_behind_a_row_that_is_set_aside_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Runspend looks up the row in a file that it has not yet read to the end."""
    monkeypatch.setattr(staging, "room_of", lambda memory: replace(room_of(memory), part_bytes=1))
    path = write_cur(tmp_path / "cur.csv", [line(), line("Usage", "?"), *[line()] * 20])
    path.write_bytes(path.read_bytes()[:-60])
    with pytest.raises(SourceRefused, match=r"line 23: it has \d+ fields, but the header has"):
        nights(tmp_path, path).load()


def test_a_row_without_net_price_has_its_net_effective_cost(tmp_path: Path) -> None:
    covered_net = {**NET, **covered("7.00", "6.00"), "savings_plan_net_savings_plan_effective_cost": "5.00"}
    bill = loaded(tmp_path, [USED_NET, covered_net, line("Usage", "1", **NET)])
    assert both(bill) == (Decimal(9), Decimal(14))


def test_discounts_are_negative_usage_without_net_columns(tmp_path: Path) -> None:
    """A private discount counts once: as separate lines, or in the net costs of the discounted lines."""
    without = loaded(tmp_path / "a", [line("Usage", "10.00"), line("EdpDiscount", "-2.00")])
    net = loaded(tmp_path / "b", [line("Usage", "10.00", **{**NET, "line_item_net_unblended_cost": "8.00"}), line("EdpDiscount", "-2.00", **{**NET, "line_item_net_unblended_cost": "0"})])  # fmt: skip
    assert both(without) == both(net) == (Decimal("8.00"), Decimal("8.00"))


# --- the same bill as FOCUS ------------------------------------------------------------------------------------------------


def test_the_same_month_as_cur_and_as_focus_costs_the_same(tmp_path: Path) -> None:
    """The effective cost that runs get is the same per resource, run and hour."""
    runs = {"i-00000000000000001": RUN, "i-00000000000000002": "f" * 32}
    cur, focus = [], []
    for n, hour in enumerate(hours(datetime(2026, 10, 5, tzinfo=timezone.utc), 24)):
        start, end = hour["line_item_usage_start_date"], hour["line_item_usage_end_date"]
        for machine, run in runs.items():
            cost = str(Decimal(n + 1) / 8)
            given = {"resource_tags": tags(user_mlflow_run_id=run), "line_item_resource_id": machine, **hour}
            as_focus = {
                "ChargePeriodStart": start,
                "ChargePeriodEnd": end,
                "ResourceId": machine,
                "Tags": json.dumps({"mlflow_run_id": run}),
            }
            cur += [covered("9.00", cost, **given), negation("-9.00")] if n % 2 else [line("Usage", cost, **given)]
            focus += [row("0" if n % 2 else cost, **as_focus) | {"EffectiveCost": cost}]
    found = []
    for name, bill in (
        ("cur", loaded(tmp_path / "cur", cur)),
        ("focus", nights(tmp_path / "focus", write_csv(tmp_path / "focus.csv", focus))),
    ):
        if name == "focus":
            bill.load()
        found.append(
            sorted(
                (each["run_tag"], each["resource_key"], each["charge_period_start"], each["billed_cost"], each["effective_cost"])
                for each in bill.lines()
            )
        )
    assert found[0] == found[1] and len(found[0]) == 48


def test_no_spelling_belongs_to_two_columns() -> None:
    """Each spelling belongs to only one column."""
    from runspend.ingest.billing.formats.aws_cur import KINDS

    [kind] = KINDS
    spelled = [name for names in kind.columns.values() for name in names]
    assert len(spelled) == len(set(spelled))
    assert isinstance(kind, format_spec.FileKind)
