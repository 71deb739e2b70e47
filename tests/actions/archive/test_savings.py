"""What a move saves and costs: at the bill's own rate if there is one, otherwise at list prices, and never at a guess."""

from __future__ import annotations

import csv
from dataclasses import replace
from datetime import datetime, timedelta
from decimal import Decimal
from importlib.resources import files
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runspend.actions.archive.savings import GB, ClassTotal, Money, Rates, bucket_of, list_prices, price_item
from runspend.config.settings import Settings
from tests.actions.archive.policy_world import AGED, NOW, OLD, UTC, given_settings, planned, run, stored

TB = 1024 * GB
SETTINGS = Settings()
LISTED = list_prices(SETTINGS, NOW.date())
LIST_ONLY = Rates({}, {}, LISTED, "USD")
NO_RATES = Rates({}, {}, {}, "USD")


def part(storage_class: str = "STANDARD", objects: int = 1000, size: int = TB, age_days: int = 1000) -> ClassTotal:
    return ClassTotal(storage_class, objects, size, NOW - timedelta(days=age_days))


def line(bucket: str, day: str, amount: str, **more: Any) -> dict[str, Any]:
    """Return one storage line of a bill."""
    start = datetime.fromisoformat(day).replace(tzinfo=UTC)
    return {
        "source": "aws", "billing_period": start.date().replace(day=1), "line_id": f"{bucket}{day}{amount}", "service_category": "Storage", "charge_category": "Usage",
        "storage_key": bucket, "charge_date": start.date(), "charge_period_start": start, "charge_period_end": start + timedelta(days=1), "billing_currency": "USD",
        "effective_cost": Decimal(amount), "consumed_unit": "GB-Mo",
    } | more  # fmt: skip


def test_savings_of_a_terabyte_in_glacier_equal_a_calculation_by_hand() -> None:
    """Moving 1 TB in 1,000 objects saves (0.023 - 0.004) x 1,024 a month. It costs 1,000 reads and 1,000 writes once."""
    found = price_item("tier", "GLACIER_IR", "s3://ml", [part()], LIST_ONLY, NOW)
    assert found == Money(Decimal("19.456").quantize(Decimal("1E-22")), Decimal("0.0204").quantize(Decimal("1E-22")), "list")
    assert found.payback_months == pytest.approx(0.0204 / 19.456)


def test_early_deletion_is_charged_for_the_days_that_are_left() -> None:
    """30 of a minimum of 90 days have passed, so two more months of 0.004 x 1,024 are charged. A class without a minimum charges nothing."""
    young = price_item("delete", None, "s3://ml", [part("GLACIER_IR", age_days=30)], LIST_ONLY, NOW)
    assert young.action_cost == Decimal("8.192")
    assert price_item("delete", None, "s3://ml", [part("GLACIER_IR", age_days=90)], LIST_ONLY, NOW).action_cost == 0
    assert price_item("delete", None, "s3://ml", [part("STANDARD", age_days=0)], LIST_ONLY, NOW).action_cost == 0
    unknown_age = ClassTotal("GLACIER_IR", 1000, TB, None)
    assert price_item("delete", None, "s3://ml", [unknown_age], LIST_ONLY, NOW).action_cost == Decimal("12.288")


def test_small_objects_are_charged_as_large_ones() -> None:
    """GLACIER_IR counts at least 128 KiB per object. A million files of 1 kB cost more there, so there is no saving and no payback."""
    found = price_item("tier", "GLACIER_IR", "s3://ml", [part(objects=10**6, size=10**9)], LIST_ONLY, NOW)
    assert found.monthly_saving is not None and found.monthly_saving < 0
    assert found.payback_months is None
    deep = price_item("tier", "DEEP_ARCHIVE", "s3://ml", [part(objects=10**6, size=10**9)], LIST_ONLY, NOW)
    assert deep.monthly_saving == ((Decimal("0.023") * 10**9 - Decimal("0.00099") * (10**9 + 40960 * 10**6)) / GB).quantize(
        Decimal("1E-22")
    )


def test_retrieval_is_part_of_the_cost() -> None:
    """Reading a terabyte from STANDARD_IA costs 0.01 x 1,024 and its requests. 1,000 writes follow, and 1,000 reads to verify them."""
    rates = Rates({("ml", "STANDARD_IA"): Decimal("0.0125") / GB, ("cold", "GLACIER"): Decimal("0.001") / GB}, {}, LISTED, "USD")
    found = price_item("archive", "s3://cold", "s3://ml", [part("STANDARD_IA")], rates, NOW)
    assert found.action_cost == Decimal("10.24") + Decimal("0.001") + Decimal("0.005") + Decimal("0.0004")
    assert (found.monthly_saving, found.rates_from) == (Decimal("11.776"), "bill")


def test_objects_already_in_the_target_class_cost_nothing() -> None:
    """Only the part in another class counts."""
    parts = [part(), part("GLACIER_IR", 10**6, 50 * TB)]
    assert price_item("tier", "GLACIER_IR", "s3://ml", parts, LIST_ONLY, NOW) == price_item(
        "tier", "GLACIER_IR", "s3://ml", parts[:1], LIST_ONLY, NOW
    )


@pytest.mark.parametrize(
    ("action", "to", "store", "storage_class", "rates", "saving", "cost"),
    [
        ("archive", "s3://cold", "s3://ml", "STANDARD", LIST_ONLY, None, "known"),  # no bill shows what the archive costs per month
        ("tier", "GLACIER_IR", "s3://ml", "ODD_CLASS", LIST_ONLY, None, None),
        ("tier", "ODD_CLASS", "s3://ml", "STANDARD", LIST_ONLY, None, None),
        ("tier", "GLACIER_IR", "s3://ml", "STANDARD", NO_RATES, None, None),
        ("delete", None, "/srv/archive", "UNKNOWN", LIST_ONLY, None, "known"),
        ("archive", "/srv/archive", "/srv/files", "LOCAL", LIST_ONLY, None, "known"),
        ("archive", "s3://cold", "/srv/files", "LOCAL", NO_RATES, None, None),
    ],
)
def test_a_missing_rate_gives_no_number(
    action: str, to: str | None, store: str, storage_class: str, rates: Rates, saving: None, cost: str | None
) -> None:
    """A missing rate gives no number. Requests to a folder cost nothing."""
    found = price_item(action, to, store, [part(storage_class)], rates, NOW)
    assert found.monthly_saving is saving
    assert (found.action_cost is None) == (cost is None)
    assert found.rates_from is None


def test_one_unknown_part_makes_the_sum_unknown() -> None:
    """A sum of only the known parts would be too small."""
    found = price_item("tier", "GLACIER_IR", "s3://ml", [part(), part("ODD_CLASS")], LIST_ONLY, NOW)
    assert (found.monthly_saving, found.action_cost) == (None, None)


def test_saving_is_at_the_bills_own_rate(tmp_path: Path) -> None:
    """October's bill is 310.00 for 4,000 bytes over 31 days, so 1,000 of them cost 77.50 a month. Requests are not storage."""
    bill = [line("ml", f"2026-10-{day:02d}", "10") for day in range(1, 32)] + [
        line("ml", "2026-10-05", "999", consumed_unit="Requests"),
        line("ml", "2026-11-05", "999"),
    ]
    objects = [stored("a"), stored("other", 3000, owner_kind="other")]
    rows = planned(
        tmp_path,
        given_settings(tmp_path, {"action": "tier", "to": "GLACIER_IR"}),
        runs=[run("a", **AGED)],
        artifact_bytes=objects,
        billing_lines=bill,
    )
    listed = Decimal("0.004") * 3 * 131072 / GB
    assert rows[0]["monthly_saving"] == (Decimal("77.5") - listed).quantize(Decimal("1E-22"))
    assert (rows[0]["currency"], rows[0]["rates_from"]) == ("USD", "bill and list")
    assert rows[0]["payback_months"] == pytest.approx(float(rows[0]["action_cost"] / rows[0]["monthly_saving"]))


def test_only_folders_that_save_enough_are_selected(tmp_path: Path) -> None:
    """The saving must be above the amount, not equal to it. An unknown saving is not enough."""
    runs = [run(name, **AGED) for name in "abc"]
    found = [stored("a", TB), stored("b", TB // 2), stored("c", TB, storage_class="ODD")]
    for amount, expected in (("19.456", ""), ("19.4", "a"), ("9.7 USD / month", "ab"), ("0.01", "ab")):
        policy = {"select": {"saves_more_than": amount, "unused_for": "90d"}, "action": "tier", "to": "GLACIER_IR"}
        rows = planned(tmp_path, given_settings(tmp_path, policy), runs=runs, artifact_bytes=found)
        assert "".join(row["run_id"] for row in rows) == expected, amount


def test_an_archive_is_priced_as_newly_written_bytes() -> None:
    """In a bucket with several classes, that is STANDARD. In a bucket with one class, it is that class. Otherwise it is unknown."""
    by_bucket = {
        ("a", "STANDARD"): Decimal(1),
        ("a", "GLACIER"): Decimal(2),
        ("b", "GLACIER"): Decimal(3),
        ("c", "GLACIER"): Decimal(4),
        ("c", "DEEP"): Decimal(5),
    }
    rates = Rates(by_bucket, {}, LISTED, "USD")
    assert [rates.billed_where_written(store) for store in ("s3://a", "s3://b/", "s3://c", "s3://d", "/srv/a")] == [
        Decimal(1),
        Decimal(3),
        None,
        None,
        None,
    ]
    assert [bucket_of(u) for u in ("s3://ml", "s3://ml/", "gs://x", "s3://ml/a", "/srv/a", "file:///srv")] == [
        "ml",
        "ml",
        "x",
        None,
        None,
        None,
    ]


def test_an_archive_of_a_class_of_its_own_by_hand() -> None:
    """Moving 1 TB in 1,000 objects to GLACIER_IR saves (0.023 - 0.004) x 1,024 a month.

    It is read once, written once, and read back, for which that class charges 0.03 per GB.
    """
    cold = replace(LIST_ONLY, archive_class="GLACIER_IR")
    found = price_item("archive", "s3://cold", "s3://ml", [part()], cold, NOW)
    assert (found.monthly_saving, found.rates_from) == (Decimal("19.456"), "list")
    assert found.action_cost == Decimal("0.0004") + Decimal("0.02") + Decimal("0.01") + Decimal("30.72")
    tiny = price_item("archive", "s3://cold", "s3://ml", [part(objects=10**6, size=10**9)], cold, NOW)
    assert tiny.monthly_saving == ((Decimal("0.023") * 10**9 - Decimal("0.004") * 131072 * 10**6) / GB).quantize(Decimal("1E-22"))
    billed = replace(
        cold,
        by_bucket={("cold", "GLACIER_IR"): Decimal("0.001") / GB, ("cold", "STANDARD"): Decimal(1)},
        by_class={"GLACIER_IR": Decimal("0.0005") / GB},
    )
    found = price_item("archive", "s3://cold", "s3://ml", [part()], billed, NOW)
    assert (found.monthly_saving, found.rates_from) == (Decimal("22.528"), "bill and list")
    assert price_item("archive", "s3://cold", "/srv/files", [part("LOCAL")], cold, NOW).action_cost == Decimal("0.02") + Decimal(
        "0.01"
    ) + Decimal("30.72")
    odd = price_item("archive", "s3://cold", "s3://ml", [part()], replace(cold, archive_class="ODD"), NOW)
    assert (odd.monthly_saving, odd.action_cost) == (None, None)


def test_the_plan_uses_the_class_of_the_archive(tmp_path: Path) -> None:
    """Another class needs another notice."""
    digests = set()
    for archive, saving in (
        ({"to": "s3://cold"}, None),
        ({"to": "s3://cold", "storage_class": "glacier_ir"}, Decimal("19.456")),
        ({"to": "s3://cold", "storage_class": "STANDARD_IA"}, Decimal("10.752")),
    ):
        given_ = given_settings(tmp_path, {})
        given_ = Settings.model_validate(
            {
                **given_.model_dump(include={"retention", "tracking"}),
                "stores": [{"uri": "s3://ml"}, {"uri": "s3://cold"}],
                "archive": archive,
            }
        )
        [row] = planned(tmp_path, given_, runs=[run("a", **AGED)], artifact_bytes=[stored("a", TB)])
        assert row["monthly_saving"] == saving
        digests.add(row["policy_digest"])
    assert len(digests) == 3


def test_an_archive_of_unknown_class_has_the_rate_of_its_bucket() -> None:
    """Deleting the archive saves what its bytes cost there."""
    rates = Rates({("cold", "STANDARD"): Decimal("0.5")}, {}, LISTED, "USD")
    assert price_item("delete", None, "s3://cold", [part("UNKNOWN", 3, 100)], rates, NOW).monthly_saving == 50


def test_prices_of_the_settings_come_before_list_prices() -> None:
    """This includes classes unknown to Runspend. Prices are converted to the plan's currency at the day's rate, or ignored without one."""
    mine = {"provider": "s3", "storage_class": "glacier_ir", "month_per_gb": "0.0039", "currency": "EUR", "minimum_days": 60}
    other = {"provider": "s3", "storage_class": "COLD_ONES", "month_per_gb": "0.5", "currency": "CHF"}
    exchange = [{"from": "EUR", "to": "USD", "rate": "1.10", "date": "2026-01-01"}]
    prices = list_prices(Settings.model_validate({"rates": {"storage": [mine, other], "exchange": exchange}}), NOW.date())
    assert (prices["s3", "GLACIER_IR"].month_per_gb, prices["s3", "GLACIER_IR"].minimum_days) == (Decimal("0.00429"), 60)
    assert ("s3", "COLD_ONES") not in prices
    assert list_prices(Settings.model_validate({"currency": "EUR"}), NOW.date()) == {}
    assert list_prices(Settings.model_validate({"currency": "EUR", "rates": {"exchange": [exchange[0] | {"inverse": True}]}}), NOW.date())[
        "s3", "STANDARD"
    ].month_per_gb < Decimal("0.023")


def test_every_price_says_where_it_is_from() -> None:
    """Each class has one row with its source page. Colder classes never cost more to keep."""
    rows = list(csv.DictReader(files("runspend.actions.archive").joinpath("storage_rates.csv").read_text(encoding="utf-8").splitlines()))
    assert len({(row["provider"], row["storage_class"]) for row in rows}) == len(rows)
    assert all("pric" in row["source"] for row in rows)
    for provider in ("s3", "gs", "azure"):
        kept = [Decimal(row["month_per_gb"]) for row in rows if row["provider"] == provider]
        assert kept == sorted(kept, reverse=True)


@given(
    st.integers(0, 10**7),
    st.integers(0, 10**15),
    st.integers(0, 800),
    st.sampled_from(["STANDARD", "STANDARD_IA", "GLACIER_IR", "DEEP_ARCHIVE"]),
    st.sampled_from(["STANDARD", "GLACIER_IR"]),
)
def test_cost_is_never_negative_and_grows_with_what_is_moved(objects: int, size: int, age: int, storage_class: str, to: str) -> None:
    """Twice the data cost twice as much, except for rounding in the last digit."""
    one = price_item("tier", to, "s3://ml", [part(storage_class, objects, size, age)], LIST_ONLY, NOW)
    two = price_item("tier", to, "s3://ml", [part(storage_class, 2 * objects, 2 * size, age)], LIST_ONLY, NOW)
    assert one.action_cost is not None and two.action_cost is not None
    assert one.action_cost >= 0
    assert abs(two.action_cost - 2 * one.action_cost) <= Decimal("1E-21")


def test_the_test_data_are_old_enough() -> None:
    """The data in these tests are older than any minimum."""
    assert timedelta(days=180) < NOW - OLD
