"""The billed price of a stored byte per month: a bucket's cost divided by its bytes, by storage class if the lines name one."""

from __future__ import annotations

from datetime import date, datetime, timedelta, timezone
from decimal import Decimal
from importlib.resources import files
from typing import Any

import pytest

from runspend.allocation.storage_prices import BilledRate, billed_rates, priced_stores
from runspend.warehouse.sql_files import expand_macros
from tests.actions.report.report_world import TableReader, costs
from tests.sql_lint import lint

NOW = datetime(2026, 11, 10, 6, tzinfo=timezone.utc)
OCTOBER, NOVEMBER = date(2026, 10, 1), date(2026, 11, 1)


def at(day: date) -> datetime:
    return datetime(day.year, day.month, day.day, tzinfo=timezone.utc)


def line(
    cost: str, *, key: str = "b", storage_class: str | None = "STANDARD", period: date = OCTOBER, days: int = 31, **more: Any
) -> dict[str, Any]:
    """Make a storage line that covers the first `days` days of its period."""
    return {
        "billing_period": period, "charge_date": period, "storage_key": key, "storage_class": storage_class, "service_category": "Storage", "charge_category": "Usage",
        "billing_currency": "USD", "consumed_unit": "GB-Mo", "charge_period_start": at(period), "charge_period_end": at(period) + timedelta(days=days), **costs(cost), **more,
    }  # fmt: skip


def held(size: int | None, *, store: str = "s3://b", storage_class: str = "STANDARD", month: date = OCTOBER, **more: Any) -> dict[str, Any]:
    """Make stored bytes for the whole month. In November they are still there."""
    end = None if month == NOVEMBER else at(NOVEMBER)
    return {
        "month": month, "store": store, "owner_kind": "run", "owner_id": f"r{size}", "storage_class": storage_class, "valid_from": at(month), "valid_to": end, "objects": 1, "bytes": size,
        "is_complete": size is not None, **more,
    }  # fmt: skip


def ask(lines: list[dict[str, Any]], rows: list[dict[str, Any]]) -> dict[tuple[str, str], Decimal]:
    found = billed_rates(TableReader({"billing_lines": lines, "artifact_bytes": rows}), "USD", NOW)
    return {key: rate.of(1000) for key, rate in found.items()}


STANDARD, GLACIER = ("s3://b", "STANDARD"), ("s3://b", "GLACIER")


@pytest.mark.parametrize(
    ("lines", "rows", "expected"),
    [
        pytest.param([line("10")], [held(4000), held(1000)], {STANDARD: "2"}, id="a month's lines over the month's bytes"),
        pytest.param([line("10"), line("1", storage_class="GLACIER")], [held(5000), held(2000, storage_class="GLACIER")], {STANDARD: "2", GLACIER: "0.5"}, id="each class its own"),
        pytest.param([line("12", storage_class=None)], [held(4000), held(2000, storage_class="GLACIER")], {STANDARD: "2", GLACIER: "2"}, id="lines without a class: the bucket's mean"),
        pytest.param([line("10")], [held(5000), held(2000, storage_class="GLACIER")], {STANDARD: "2"}, id="a class no line names has none"),
        pytest.param([line("12")], [held(4000), held(2000, storage_class="UNKNOWN")], {STANDARD: "3", ("s3://b", "UNKNOWN"): "2"}, id="a class nobody tells: the bucket's mean"),
        pytest.param([line("10")], [held(1000, noncurrent_bytes=4000)], {STANDARD: "2"}, id="versions that are not current are billed too"),
        pytest.param([line("1", period=OCTOBER, days=1)], [held(1000)], {STANDARD: "31"}, id="a day billed is a day of 31"),
        pytest.param([line("10"), line("90", period=NOVEMBER, days=1)], [held(5000), held(5000, month=NOVEMBER)], {STANDARD: "2"}, id="the newest full month"),
        pytest.param([line("1", period=NOVEMBER, days=1)], [held(1000, month=NOVEMBER)], {STANDARD: "30"}, id="else the month that runs"),
        pytest.param([line("10")], [held(None), held(5000)], {}, id="bytes nobody knows: no rate"),
        pytest.param([line("10"), line("1", billing_currency="EUR"), line("7", consumed_unit="Requests"), line("7", consumed_unit="GB - data")], [held(5000)], {STANDARD: "2"}, id="no requests, no traffic, no other currency"),
        pytest.param([line("4", consumed_unit="byte-seconds"), line("6", consumed_unit="gibibyte month")], [held(5000)], {STANDARD: "2"}, id="units as Google writes them"),
        pytest.param([line("10", service_category="Compute"), line("10", charge_category="Tax"), line("10", key="c"), line("-1")], [held(5000)], {}, id="nothing that is not storage of the bucket"),
        pytest.param([line("10")], [held(5000, store="s3://b/mlflow"), held(5000, store="/b"), held(5000, store="abfss://b@acme.dfs.core.windows.net")], {}, id="part of a bucket has none"),
    ],
)  # fmt: skip
def test_the_rate_comes_from_the_bill(
    lines: list[dict[str, Any]], rows: list[dict[str, Any]], expected: dict[tuple[str, str], str]
) -> None:
    """The rate is the cost of a thousand bytes per month."""
    assert ask(lines, rows) == {key: Decimal(value) for key, value in expected.items()}


def test_bytes_are_averaged_by_time_and_not_by_listing() -> None:
    """The bucket has 1,000 bytes for ten days and 11,000 for twenty-one. The mean of October is weighted by time."""
    middle = at(OCTOBER) + timedelta(days=10)
    rows = [held(1000, valid_to=middle), held(11000, valid_from=middle)]
    assert ask([line("240")], rows)[STANDARD] == (Decimal(240) * 1000 / Decimal(round(1000 * 10 / 31 + 11000 * 21 / 31))).quantize(
        Decimal("1E-22")
    )


def test_rates_are_exact() -> None:
    """A third has 22 decimals, and no digit is lost."""
    assert str(BilledRate(Decimal("1"), 3).of(1)) == "0.3333333333333333333333"
    assert BilledRate(Decimal("0.1"), 10).of(10**15) == Decimal(10) ** 13


def test_each_store_is_priced_by_what_is_in_it_now() -> None:
    """It shows all billed bytes and the parts that may be saved. A folder has bytes but no price, and ended rows do not count."""
    now = {"month": NOVEMBER, "noncurrent_bytes": 2000, "duplicate_bytes": 500, "objects": 3}
    rows = [
        held(6000, **now),
        held(1000, owner_kind="orphan", confirmed_at=NOW, **now),
        held(1000, owner_kind="orphan", **(now | {"noncurrent_bytes": None})),
        held(9000, valid_to=at(NOVEMBER), **now),
        held(9000),
        held(7, store="/mnt/x", storage_class="LOCAL", **(now | {"noncurrent_bytes": 0, "duplicate_bytes": None})),
    ]
    folder, bucket = priced_stores(TableReader({"billing_lines": [line("9")], "artifact_bytes": rows}), "USD", NOW)
    counts = ("objects", "bytes", "noncurrent_bytes", "duplicate_bytes", "orphaned_bytes", "unconfirmed_bytes")
    assert [bucket[name] for name in counts] == [9, 8000, 4000, 1500, 1000, 1000]
    money = ("month_cost", "noncurrent_month_cost", "duplicate_month_cost", "orphaned_month_cost")
    assert [bucket[name] for name in money] == [Decimal(12), Decimal(4), Decimal("1.5"), Decimal(1)]
    assert ([folder[name] for name in counts], folder["billing_currency"], folder.get("month_cost")) == ([3, 7, 0, None, 0, 0], None, None)


@pytest.mark.parametrize("name", ["billed", "stores"])
def test_the_queries_run_on_both_engines(name: str) -> None:
    """The queries use no construct of a single engine."""
    assert lint(expand_macros(files("runspend.allocation.storage_prices").joinpath(f"{name}.sql").read_text(encoding="utf-8"))) == []
