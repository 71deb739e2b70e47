"""The report's artifact stores: noncurrent versions, duplicate bytes, orphans and dangling owners, with cost at the bill's own rate."""

from __future__ import annotations

from datetime import datetime, timedelta, timezone
from decimal import Decimal
from typing import Any

from bs4 import BeautifulSoup

from runspend.actions.report.csv_files import report_sheets
from runspend.actions.report.plan import plan_report
from runspend.actions.report.render import render_page
from runspend.config.settings import Settings
from tests.actions.report.report_world import NOVEMBER, NOW, TableReader, costs, month_world

START = datetime(2026, 11, 1, tzinfo=timezone.utc)
OWNED = {"tracking_server": "prod", "workspace": "default", "experiment_id": "1", "storage_class": "STANDARD"}


def world() -> dict[str, list[dict[str, Any]]]:
    """Return a bucket with 1,000 GB current and 500 GB noncurrent bytes. Its first day is billed at 1 USD, so a month costs 30 USD."""
    tables = month_world()
    tables["artifact_bytes"] = [
        {
            "month": NOVEMBER, "store": "s3://acme-mlflow", "valid_from": START, "objects": 10, "oldest_at": START, "newest_at": NOW, "is_complete": True, "duplicate_bytes": 0, "noncurrent_bytes": 0,
            **OWNED, **row,
        }
        for row in (
            {"owner_kind": "run", "owner_id": "r1", "bytes": 600 * 10**9, "duplicate_bytes": 60 * 10**9, "noncurrent_bytes": 500 * 10**9},
            {"owner_kind": "orphan", "owner_id": "1/a/artifacts", "bytes": 300 * 10**9, "unowned_since": START, "confirmed_at": START + timedelta(days=2)},
            {"owner_kind": "orphan", "owner_id": "1/b/artifacts", "bytes": 100 * 10**9, "unowned_since": START},
            {"owner_kind": "run", "owner_id": "r2", "store": "/mnt/mlruns", "storage_class": "LOCAL", "bytes": 7, "duplicate_bytes": None},
        )
    ]  # fmt: skip
    tables["billing_lines"].append(
        {
            "source": "aws", "billing_period": NOVEMBER, "charge_date": NOVEMBER, "storage_key": "acme-mlflow", "storage_class": "STANDARD", "service_category": "Storage", "charge_category": "Usage",
            "billing_currency": "USD", "consumed_unit": "GB-Mo", "charge_period_start": START, "charge_period_end": START + timedelta(days=1), **costs("1"),
        }
    )  # fmt: skip
    for kind, owner, had in (("run", "r3", 5), ("run", "r4", 6), ("logged_model", "m-1", None)):
        gone = {"gone_since": START + timedelta(days=3), "had_bytes": had}
        tables["dangling_owners"].append(
            {"store": "s3://acme-mlflow", "owner_kind": kind, "owner_id": owner, "tracking_server": "prod", "workspace": "default", **gone}
        )
    return tables


def test_each_store_says_what_it_holds_and_what_that_costs() -> None:
    """30 USD a month for 1,500 GB is 0.02 USD per GB for each kind of bytes. A folder without a bill has no cost."""
    figures = plan_report(TableReader(world()), "2026-11", settings=Settings(), now=NOW).artifacts
    bucket, folder = figures.stores
    gb = 10**9
    assert (bucket.bytes, bucket.noncurrent_bytes, bucket.duplicate_bytes, bucket.orphaned_bytes, bucket.unconfirmed_bytes) == (
        1000 * gb, 500 * gb, 60 * gb, 300 * gb, 100 * gb,
    )  # fmt: skip
    money = [bucket.month_cost(count) for count in (1500 * gb, bucket.noncurrent_bytes, bucket.duplicate_bytes, bucket.orphaned_bytes)]
    assert money == [Decimal(30), Decimal(10), Decimal("1.2"), Decimal(6)]
    assert (folder.bytes, folder.duplicate_bytes, folder.rate, folder.month_cost(7)) == (7, None, None, None)
    assert figures.dangling == (("s3://acme-mlflow", "logged_model", 1, None), ("s3://acme-mlflow", "run", 2, 11))


def test_the_page_and_its_sheet_show_them() -> None:
    """Each figure appears once with its explanation. A figure that the store does not report is not shown as 0."""
    figures = plan_report(TableReader(world()), "2026-11", settings=Settings(), now=NOW)
    section = BeautifulSoup(render_page(figures), "html.parser").find(id="artifacts")
    assert section is not None
    text = " ".join(section.get_text(" ").split())
    assert "2 runs in s3://acme-mlflow have no artifacts left there: 11 B are gone" in text
    assert "1 logged model in s3://acme-mlflow has no artifacts left there" in text
    rows = [
        [" ".join(cell.get_text(" ").split()) for cell in row.find_all("td")] for row in section.find_all("table")[-1].find_all("tr")[1:]
    ]
    assert rows == [
        [
            "s3://acme-mlflow",
            "STANDARD",
            "1.0 TB",
            "500 GB 10.00 USD",
            "60.0 GB 1.20 USD",
            "300 GB 6.00 USD plus 100 GB not confirmed yet",
            "30.00 USD",
        ],
        ["/mnt/mlruns", "LOCAL", "7 B", "0 B", "unknown", "0 B", ""],
    ]
    header, values = dict(report_sheets(figures))["stores"]
    first = dict(zip(header, values[0], strict=True))
    assert (first["currency"], first["month_cost"], first["orphaned_month_cost"]) == ("USD", Decimal(30), Decimal(6))
