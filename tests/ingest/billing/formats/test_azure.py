"""Azure cost exports: how headers, days, units and charge types are converted, and that no money is lost or counted twice.

Which run of an export counts is in `test_azure_deliveries.py`.
"""

from __future__ import annotations

import csv
import json
import random
from collections import defaultdict
from collections.abc import Mapping, Sequence
from datetime import date, datetime, timezone
from decimal import Context, Decimal
from importlib.resources import files
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from runspend.config.settings import Pool
from runspend.core.errors import SourceRefused
from runspend.ingest.billing import probe_source
from runspend.ingest.billing.formats import azure
from runspend.ingest.billing.staging import open_engine
from tests.azure_files import COST, SUBSCRIPTION, VM, cost, november, text
from tests.focus_files import Nights, nights, only, write_bytes

WIDE = Context(prec=90)


def loaded(tmp_path: Path, rows: Sequence[Mapping[str, str]], name: str = "bill.csv", **source: Any) -> Nights:
    bill = nights(tmp_path, write_bytes(tmp_path / "in" / name, text(rows).encode()).parent, format="azure", **source)
    bill.load()
    return bill


def each_its_own(rows: Sequence[Mapping[str, str]]) -> list[dict[str, str]]:
    """Return the rows, each with its own subscription."""
    return [{**row, "SubscriptionId": f"{n:012}"} for n, row in enumerate(rows)]


def in_order(bill: Nights) -> list[dict[str, Any]]:
    """Return the lines of a bill in the order of their subscriptions."""
    return sorted(bill.lines(), key=lambda line: str(line["sub_account_id"]))


def set_aside(bill: Nights) -> list[dict[str, Any]]:
    """Return the quarantined rows in the order of the file."""
    return sorted(bill.rows("billing_quarantine"), key=lambda row: int(row["row_number"]))


def sums(lines: Sequence[Mapping[str, Any]], by: str, column: str) -> dict[Any, Decimal]:
    found: dict[Any, Decimal] = defaultdict(Decimal)
    for line in lines:
        found[line[by]] += line[column]
    return dict(found)


# --- headers of past and present exports --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "period", "currency", "billed", "day", "variant"),
    [
        ("azure_headers/Enterprise.csv", "2021-05", "CAD", "0", date(2021, 2, 2), "enterprise agreement"),
        ("azure_headers/EnterpriseCamel.csv", "2021-02", "USD", "0.012", date(2021, 2, 2), "customer agreement"),
        ("azure_headers/German.csv", "2021-02", "USD", "0.075", date(2021, 2, 2), "pay-as-you-go, localised"),
        ("azure_headers/PayAsYouGo.csv", "2021-02", "USD", "0.075", date(2021, 2, 2), "pay-as-you-go"),
        ("azure_headers/YA.csv", "2021-02", "USD", "0.075", date(2021, 2, 2), "pay-as-you-go, localised"),
    ],
)
def test_every_header_is_read_by_its_own_spelling(
    tmp_path: Path, samples: Path, name: str, period: str, currency: str, billed: str, day: date, variant: str
) -> None:
    bill = nights(tmp_path, samples / name, format="auto")
    assert [(p.period, p.extra["quarantined"], p.extra["dropped_columns"] != []) for p in bill.load().periods] == [(period, 0, True)]
    [line] = bill.lines(period)
    assert (line["billing_currency"], line["billed_cost"], line["effective_cost"]) == (currency, Decimal(billed), Decimal(billed))
    assert (line["charge_date"], line["charge_period_end"].date()) == (day, date(2021, 2, 3))
    assert line["resource_id"].startswith("/subscriptions/")
    assert line["sku_id"] is not None
    assert line["service_name"] in ("Virtual Machines", "Virtual Network", "Load Balancer")
    assert line["sub_account_id"].startswith("11111111-")
    assert [r["focus_version"] for r in bill.rows("billing_loads", period)] == [variant]


def test_a_byte_order_mark_hides_no_column_and_an_empty_cost_is_set_aside(tmp_path: Path, samples: Path) -> None:
    bill = nights(tmp_path, samples / "azure_headers/BOM.csv", format="azure")
    assert bill.load().periods[0].extra["rows"] == 0
    [aside] = bill.rows("billing_quarantine", "2022-11")
    assert aside["reason"] == "CostInBillingCurrency is empty, which is not a plain decimal number"
    assert '"SubscriptionGuid"' in aside["raw"]


def test_a_generated_month_loads_to_the_last_of_its_nineteen_decimals(tmp_path: Path, samples: Path) -> None:
    bill = nights(tmp_path, samples / "azure_export/nise_azure_v2_2026-09.csv", format="azure")
    bill.load()
    assert (len(bill.lines("2026-09")), bill.total("2026-09")) == (24, Decimal("3.5138081709558148177"))
    assert bill.total("2026-09", "effective_cost") == Decimal("3.5138081709558148177")
    assert {line["charge_period_end"].month for line in bill.lines("2026-09")} == {9}
    assert {line["billing_period_end"] for line in bill.lines("2026-09")} == {datetime(2026, 10, 1, tzinfo=timezone.utc)}


def test_an_unknown_currency_code_sets_every_row_aside(tmp_path: Path, samples: Path) -> None:
    bill = nights(tmp_path, samples / "koku/azure_azure_version_2.csv", format="azure")
    assert bill.load().periods[0].extra["quarantined"] == 5
    aside = bill.rows("billing_quarantine", "2020-09")
    assert {r["reason"] for r in aside} == {"BillingCurrency is 'MC', which is not an ISO 4217 code such as USD"}
    assert sum(r["billed_cost"] for r in aside) == Decimal("19.998413754")
    assert bill.total("2020-09") == 0


def test_a_file_without_a_currency_is_refused_until_the_source_states_one(tmp_path: Path, samples: Path) -> None:
    """Runspend does not guess a currency. The sample's rows have one field less than its header, so the test adds it."""
    header, *rows = (samples / "azure_export/opencost_Template.csv").read_text(encoding="utf-8").splitlines()
    place = write_bytes(
        tmp_path / "bill.csv", "\n".join([header, *(f"{row}," if len(next(csv.reader([row]))) == 10 else row for row in rows), ""]).encode()
    )
    bill = nights(tmp_path, place, format="azure")
    with pytest.raises(
        SourceRefused, match=r"no column that names the currency .* billing\[\]\.currency is not set\. Write .*currency: EUR"
    ):
        bill.load()
    bill = nights(tmp_path, place, format="azure", currency="USD")
    bill.load()
    lines = bill.lines("2021-02")
    assert (len(lines), bill.total("2021-02"), bill.total("2021-02", "list_cost")) == (
        87,
        Decimal("16.393506212224391"),
        Decimal("16.393506212224391"),
    )
    assert {line["billing_currency"] for line in lines} == {"USD"}
    assert sum(line["tags"] is None for line in lines) == 10
    assert sum(line["sku_price_details"] is None for line in lines) == 62


def test_rows_that_do_not_fit_their_header_are_refused(tmp_path: Path, samples: Path) -> None:
    bill = nights(tmp_path, samples / "azure_export/opencost_Template.csv", format="azure", currency="USD")
    with pytest.raises(SourceRefused, match="line 2: it has 10 fields, but the header has 11"):
        bill.load()


def test_the_currency_of_the_source_never_overrules_a_column(tmp_path: Path) -> None:
    bill = loaded(tmp_path, [cost("1.00"), cost("2.00", BillingCurrencyCode="")], currency="USD")
    assert [(line["billing_currency"], line["billed_cost"]) for line in bill.lines()] == [("EUR", Decimal(1))]
    assert [r["reason"] for r in bill.rows("billing_quarantine")] == ["BillingCurrency is empty, which is not an ISO 4217 code such as USD"]


def test_another_currency_of_the_source_is_another_version(tmp_path: Path) -> None:
    rows = [{k: v for k, v in cost("3.00").items() if k != "BillingCurrencyCode"}]
    place = write_bytes(tmp_path / "in/bill.csv", ",".join(rows[0]).encode() + b"\n" + ",".join(rows[0].values()).encode() + b"\n")
    bill = nights(tmp_path, place, format="azure", currency="USD")
    assert only(bill.load()).state == "loaded"
    assert only(bill.load()).state == "unchanged"
    bill.source = bill.source.model_copy(update={"currency": "EUR"})
    outcome = only(bill.load(accept=["bill:2026-10"]))
    assert (outcome.state, [line["billing_currency"] for line in bill.lines()]) == ("loaded", ["EUR"])


@pytest.mark.parametrize("spelled", [str, lambda name: name[0].lower() + name[1:], str.lower], ids=["Pascal", "camel", "lower"])
def test_one_export_in_three_spellings_is_the_same_bill(tmp_path: Path, spelled: Any) -> None:
    rows = [cost("1.00", Tags='"team":"nlp"', AdditionalInfo='{"ServiceType":"Standard_NC6s_v3"}', PayGPrice="0.05"), cost("2.00")]
    before = loaded(tmp_path / "a", rows).lines()
    after = loaded(tmp_path / "b", [{spelled(name): value for name, value in row.items()} for row in rows]).lines()
    assert [{k: v for k, v in line.items() if k != "load_id"} for line in after] == [
        {k: v for k, v in line.items() if k != "load_id"} for line in before
    ]
    assert sum(line["billed_cost"] for line in after) == 3


def test_a_header_that_is_almost_right_is_refused_not_guessed(tmp_path: Path) -> None:
    place = write_bytes(tmp_path / "bill.csv", text([cost("1.00")]).replace("CostInBillingCurrency", "Cost In Billing Currency").encode())
    with pytest.raises(SourceRefused, match="its header is of another format"):
        nights(tmp_path, place, format="azure").load()


def test_columns_in_another_order_and_new_ones_change_no_sum(tmp_path: Path) -> None:
    rows = [dict(reversed(cost("1.25", Novelty="x").items())), dict(reversed(cost("2.50", Novelty="y").items()))]
    header = list(rows[0])
    place = write_bytes(tmp_path / "bill.csv", "\n".join([",".join(header), *(",".join(r[h] for h in header) for r in rows), ""]).encode())
    bill = nights(tmp_path, place, format="azure")
    outcome = only(bill.load())
    assert (bill.total(), outcome.extra["dropped_columns"]) == (Decimal("3.75"), ["Novelty"])


# --- days --------------------------------------------------------------------------------------------------------------


def test_days_are_inclusive_and_months_come_first(tmp_path: Path) -> None:
    month = {"BillingPeriodStartDate": "02/01/2026", "BillingPeriodEndDate": "02/28/2026"}
    bill = loaded(tmp_path, [cost("3.00", Date="02/03/2026", **month), cost("4.00", Date="2026-02-28", **month)])
    lines = sorted(bill.lines("2026-02"), key=lambda line: line["charge_date"])
    assert [(line["charge_period_start"].date(), line["charge_period_end"].date()) for line in lines] == [
        (date(2026, 2, 3), date(2026, 2, 4)),
        (date(2026, 2, 28), date(2026, 3, 1)),
    ]
    assert {(line["billing_period_start"].date(), line["billing_period_end"].date()) for line in lines} == {
        (date(2026, 2, 1), date(2026, 3, 1))
    }
    assert bill.total("2026-02") == Decimal("7.00")


def test_days_of_parquet_may_be_instants_in_utc(tmp_path: Path) -> None:
    """Spark writes days in this way, and a CSV made of such a file has the zone."""
    (tmp_path / "in").mkdir()
    days = {"Date": 5, "BillingPeriodStartDate": 1, "BillingPeriodEndDate": 31}
    instants = {name: datetime(2026, 10, day, tzinfo=timezone.utc) for name, day in days.items()}
    times = {name: pa.array([at], pa.timestamp("us", "UTC")) for name, at in instants.items()}
    pq.write_table(pa.table({**{name: [value] for name, value in COST.items()}, **times}), tmp_path / "in/a.parquet")
    shown = {name: at.isoformat() for name, at in instants.items()}
    write_bytes(tmp_path / "in/b.csv", text([cost("2.00", **shown)]).encode())
    bill = nights(tmp_path, tmp_path / "in", format="azure", delivery="parts")
    bill.load()
    assert {(line["charge_date"], line["billing_period_end"].date()) for line in bill.lines()} == {(date(2026, 10, 5), date(2026, 11, 1))}
    assert bill.total() == Decimal(3)


def test_a_file_of_ambiguous_days_is_read_month_first(tmp_path: Path) -> None:
    bill = loaded(tmp_path, [cost("1.00", Date=f"10/{day:02d}/2026") for day in range(1, 13)])
    assert [line["charge_date"] for line in sorted(bill.lines(), key=lambda line: line["charge_date"])] == [
        date(2026, 10, day) for day in range(1, 13)
    ]


def test_a_day_in_no_known_form_is_set_aside_with_its_cost(tmp_path: Path) -> None:
    days = ["9/1/25", "13/02/2026", "2026-10-05T30:00:00Z", "2026-02-30", "05.10.2026", "2026/10/05", "10/5/2026", "soon", ""]
    bill = loaded(tmp_path, [cost("1.00"), *(cost("9.00", Date=day) for day in days)])
    expected = [f"Date is {repr(day) if day else 'empty'}, which is not a day such as 2026-02-28 or 02/28/2026" for day in days]
    assert [(aside["reason"], aside["billed_cost"]) for aside in set_aside(bill)] == [(reason, Decimal(9)) for reason in expected]
    assert bill.total() == Decimal(1)


@pytest.mark.parametrize(("column", "value"), [("BillingPeriodStartDate", "31/12/2026"), ("BillingPeriodEndDate", "1/1/27")])
def test_an_unreadable_billing_period_is_not_replaced_by_the_day(tmp_path: Path, column: str, value: str) -> None:
    bill = loaded(tmp_path, [cost("1.00"), cost("9.00", **{column: value})])
    assert [r["reason"].split(",")[0] for r in bill.rows("billing_quarantine")] == [f"{column} is '{value}'"]
    assert bill.total() == Decimal(1)


def test_late_days_stay_in_the_month_that_bills_them(tmp_path: Path) -> None:
    bill = loaded(tmp_path, [cost("5.00", Date="09/30/2026")])
    [line] = bill.lines()
    assert (line["billing_period"], line["charge_date"]) == (date(2026, 10, 1), date(2026, 9, 30))


def test_points_between_day_and_month_are_read_in_localized_files_alone(tmp_path: Path, samples: Path) -> None:
    german = (samples / "azure_headers/German.csv").read_text(encoding="utf-8")
    place = write_bytes(tmp_path / "bill.csv", german.replace("2021-02-02", "03.02.2021").encode())
    bill = nights(tmp_path, place, format="azure")
    bill.load()
    assert [line["charge_date"] for line in bill.lines("2021-02")] == [date(2021, 2, 3)]


# --- actual and amortized cost ------------------------------------------------------------------------------------------

RESERVED = {
    "PricingModel": "Reservation",
    "BenefitId": "/providers/Microsoft.Capacity/reservationOrders/r1",
    "BenefitName": "gpu reservation",
}
PLANNED = {"PricingModel": "SavingsPlan", "BenefitId": "/providers/Microsoft.BillingBenefits/savingsPlanOrders/s1", "BenefitName": "plan"}
BOUGHT = {
    "ResourceId": "",
    "SubscriptionId": "",
    "Quantity": "1",
    "UnitOfMeasure": "1",
    "ConsumedService": "",
    "MeterCategory": "Virtual Machines",
}
# lines that both exports have
ORDINARY = [
    cost("10.00"),
    cost("4.00", PricingModel="Spot"),
    cost("2.50", ChargeType="Purchase", PricingModel="OnDemand", Frequency="Recurring", MeterCategory="Unassigned", PublisherType="Marketplace", PublisherName="Vendor"),
    cost("1.90", ChargeType="Tax", PricingModel="", Frequency="OneTime"),
    cost("-0.01", ChargeType="RoundingAdjustment", PricingModel="", Frequency="OneTime", Quantity="1", UnitPrice="-0.01"),
]  # fmt: skip
ACTUAL = [
    *ORDINARY,
    cost("0", **RESERVED),
    cost("0", **PLANNED),
    cost("8760.00", ChargeType="Purchase", Frequency="OneTime", **BOUGHT, **RESERVED),
    cost("70.00", ChargeType="Purchase", Frequency="Recurring", **{**BOUGHT, "SubscriptionId": SUBSCRIPTION}, **PLANNED),
    cost("-60.00", ChargeType="Refund", Frequency="OneTime", **BOUGHT, **RESERVED),
]
AMORTIZED = [
    *ORDINARY,
    cost("18.00", **RESERVED),
    cost("6.00", ChargeType="UnusedReservation", ResourceId=RESERVED["BenefitId"], **RESERVED),
    cost("60.36", **PLANNED),
    cost("9.64", ChargeType="UnusedSavingsPlan", ResourceId=PLANNED["BenefitId"], **PLANNED),
]
# Both exports have 10 + 4 + 2.50 + 1.90 - 0.01. Only billed cost has 8760 + 70 - 60, and only effective cost 18 + 6 + 60.36 + 9.64.
BILLED, EFFECTIVE = Decimal("8788.39"), Decimal("112.39")


def test_spot_and_low_priority_machines_are_dynamic(tmp_path: Path) -> None:
    """Their pricing model says so, or their meter if the model says on demand. An event meter with a similar name does not count."""
    rows = [
        cost("1.00", PricingModel="Spot"),
        cost("2.00", MeterName="NC6s v3 Low Priority"),
        cost("4.00", MeterName="NC6s v3 Spot"),
        cost("8.00", MeterName="Spotlight Events"),
    ]
    assert sums(loaded(tmp_path, rows).lines(), "pricing_category", "effective_cost") == {"Dynamic": Decimal(7), "Standard": Decimal(8)}


def both(tmp_path: Path) -> Path:
    write_bytes(tmp_path / "in/actual/oct.csv", text(ACTUAL).encode())
    write_bytes(tmp_path / "in/amortized/oct.csv", text(AMORTIZED).encode())
    return tmp_path / "in"


def test_actual_and_amortized_cost_are_one_bill(tmp_path: Path) -> None:
    bill = nights(tmp_path, both(tmp_path), format="azure")
    load = bill.load()
    assert (only(load).state, load.extra["warnings"]) == ("loaded", {})
    lines = bill.lines()
    assert (bill.total(), bill.total(column="effective_cost"), len(lines)) == (BILLED, EFFECTIVE, 12)
    assert sums(lines, "charge_category", "billed_cost") == {
        "Usage": Decimal(14), "Purchase": Decimal("8772.50"), "Tax": Decimal("1.90"), "Adjustment": Decimal("-0.01"),
    }  # fmt: skip
    assert sums(lines, "charge_category", "effective_cost") == {
        "Usage": Decimal("108.00"), "Purchase": Decimal("2.50"), "Tax": Decimal("1.90"), "Adjustment": Decimal("-0.01"),
    }  # fmt: skip
    assert sums(lines, "commitment_discount_status", "effective_cost") == {
        "Used": Decimal("78.36"), "Unused": Decimal("15.64"), None: Decimal("18.39"),
    }  # fmt: skip
    assert sums(lines, "pricing_category", "effective_cost") == {
        "Committed": Decimal("94.00"), "Standard": Decimal("12.50"), "Dynamic": Decimal(4), None: Decimal("1.89"),
    }  # fmt: skip
    [refund] = [line for line in lines if line["charge_class"]]
    assert (refund["charge_category"], refund["charge_class"], refund["billed_cost"]) == ("Purchase", "Correction", Decimal(-60))
    kinds = {(line["commitment_discount_type"], line["commitment_discount_category"]) for line in lines if line["commitment_discount_id"]}
    assert kinds == {("Reservation", "Usage"), ("Savings Plan", "Spend")}
    unused = [line for line in lines if line["commitment_discount_status"] == "Unused"]
    assert {line["consumed_quantity"] for line in unused} == {None}
    assert {line["charge_frequency"] for line in lines} == {"Usage-Based", "Recurring", "One-Time"}
    vendor = next(line for line in lines if line["service_provider_name"] != "Microsoft")
    assert (vendor["service_provider_name"], vendor["host_provider_name"], vendor["service_name"]) == (
        "Vendor",
        "Microsoft",
        "Microsoft.Compute",
    )


def test_actual_cost_alone_is_billed_and_effective_and_that_is_stated(tmp_path: Path) -> None:
    place = write_bytes(tmp_path / "in/export.csv", text(ACTUAL).encode())
    bill = nights(tmp_path, place, format="azure")
    load = bill.load()
    assert (bill.total(), bill.total(column="effective_cost")) == (BILLED, BILLED)
    assert load.extra["warnings"] == {"actual_cost_without_amortized": ["2026-10"]}
    assert "bill: actual cost without amortized: 2026-10" in bill.progress


def test_amortized_cost_alone_lacks_the_fees_and_that_is_stated(tmp_path: Path) -> None:
    place = write_bytes(tmp_path / "in/amortized.csv", text(AMORTIZED).encode())
    bill = nights(tmp_path, place, format="azure")
    load = bill.load()
    assert (bill.total(), bill.total(column="effective_cost")) == (Decimal("18.39"), EFFECTIVE)
    assert load.extra["warnings"] == {"amortized_cost_without_actual": ["2026-10"]}


@pytest.mark.parametrize(
    ("place", "stated", "label"),
    [
        ("in/AmortizedCost/a.csv", None, "AmortizedCost"),
        ("in/amortised/a.csv", None, "AmortizedCost"),
        ("in/ActualCost/a.csv", None, "ActualCost"),
        ("in/dailyActual/a.csv", None, "ActualCost"),
        ("in/actual-and-amortized/actual/a.csv", None, "ActualCost"),
        ("in/actual-and-amortized/amortized/a.csv", None, "AmortizedCost"),
        ("in/contractual/a.csv", None, "ActualCost"),
        ("amortized/contractual/a.csv", None, "AmortizedCost"),
        ("in/a.csv", None, "ActualCost"),
        ("in/actual/a.csv", "AmortizedCost", "AmortizedCost"),
        ("in/amortized/a.csv", "ActualCost", "ActualCost"),
        ("in/amortized/a.csv", "Usage", "ActualCost"),
    ],
)
def test_the_manifest_says_which_file_is_which_else_the_path(place: str, stated: str | None, label: str) -> None:
    assert azure.label(place, stated, list(COST)) == label


def test_adding_or_removing_amortized_cost_makes_a_version(tmp_path: Path) -> None:
    """The rows of a file depend on the files next to it, so the version does too."""
    actual, amortized = tmp_path / "in/actual.csv", tmp_path / "in/amortized.csv"
    write_bytes(actual, text(ACTUAL).encode())
    bill = nights(tmp_path, tmp_path / "in", format="azure")
    bill.load()
    assert (bill.total(), bill.total(column="effective_cost")) == (BILLED, BILLED)
    write_bytes(amortized, text(AMORTIZED).encode())
    assert only(bill.load()).state == "loaded"
    assert (bill.total(), bill.total(column="effective_cost")) == (BILLED, EFFECTIVE)
    again = only(bill.load())
    assert (again.state, again.tables) == ("unchanged", {})
    aside = amortized.rename(tmp_path / "amortized.csv")
    assert only(bill.load(accept=["bill:2026-10"])).state == "loaded"
    assert (bill.total(), bill.total(column="effective_cost")) == (BILLED, BILLED)
    aside.rename(amortized)
    bill.load(accept=["bill:2026-10"])
    assert bill.total(column="effective_cost") == EFFECTIVE
    assert [r["version_number"] for r in bill.rows("billing_loads") if r["state"] == "current"] == [4]


def test_a_file_that_is_renamed_to_another_kind_is_read_again(tmp_path: Path) -> None:
    place = write_bytes(tmp_path / "in/export.csv", text([*ORDINARY, cost("18.00", **RESERVED)]).encode())
    bill = nights(tmp_path, tmp_path / "in", format="azure")
    bill.load()
    assert bill.total() == Decimal("36.39")
    place.rename(tmp_path / "in/amortized.csv")
    assert only(bill.load(accept=["bill:2026-10"])).state == "loaded"
    assert (bill.total(), bill.total(column="effective_cost")) == (Decimal("18.39"), Decimal("36.39"))


def test_actual_cost_that_has_nothing_to_add_is_not_read_again(tmp_path: Path) -> None:
    write_bytes(tmp_path / "in/actual.csv", text([*ORDINARY, cost("0", **RESERVED)]).encode())
    write_bytes(tmp_path / "in/amortized.csv", text([*ORDINARY, cost("18.00", **RESERVED)]).encode())
    bill = nights(tmp_path, tmp_path / "in", format="azure")
    bill.load()
    assert (bill.total(), bill.total(column="effective_cost"), len(bill.lines())) == (Decimal("18.39"), Decimal("36.39"), 6)
    bill.progress.clear()
    assert [(p.state, p.tables) for p in bill.load().periods] == [("unchanged", {})]
    assert not [line for line in bill.progress if "reading" in line]


def test_a_month_that_only_actual_cost_has_loses_nothing_to_another_months_amortized_cost(tmp_path: Path) -> None:
    write_bytes(tmp_path / "in/actual.csv", text([*ACTUAL, cost("5.00", **november())]).encode())
    write_bytes(tmp_path / "in/amortized.csv", text(AMORTIZED).encode())
    bill = nights(tmp_path, tmp_path / "in", format="azure")
    load = bill.load()
    assert (bill.total(), bill.total(column="effective_cost")) == (BILLED, EFFECTIVE)
    assert (bill.total("2026-11"), bill.total("2026-11", "effective_cost")) == (Decimal(5), Decimal(5))
    assert load.extra["warnings"] == {"actual_cost_without_amortized": ["2026-11"]}


def test_a_subscription_that_only_actual_cost_names_keeps_its_rows(tmp_path: Path) -> None:
    """The file of actual cost covers the whole account, and the file of amortized cost only one subscription."""
    write_bytes(tmp_path / "in/actual.csv", text([*ACTUAL, cost("5.00", SubscriptionId="another")]).encode())
    write_bytes(tmp_path / "in/amortized.csv", text([row | {"SubscriptionId": SUBSCRIPTION.upper()} for row in AMORTIZED]).encode())
    bill = nights(tmp_path, tmp_path / "in", format="azure")
    load = bill.load()
    assert (bill.total(), bill.total(column="effective_cost")) == (BILLED + 5, EFFECTIVE + 5)
    assert load.extra["warnings"]["actual_cost_without_amortized"] == ["2026-10"]


def test_two_actual_files_of_one_account_and_day_are_still_refused(tmp_path: Path) -> None:
    folder = both(tmp_path)
    write_bytes(folder / "actual/again.csv", text([*ACTUAL, cost("0.01")]).encode())
    bill = nights(tmp_path, folder, format="azure")
    refused = only(bill.load())
    assert refused.state == "refused"
    assert "actual/again.csv" in str(refused.error)
    assert "actual/oct.csv" in str(refused.error)


def test_with_delivery_versions_the_newest_file_of_each_kind_counts(tmp_path: Path) -> None:
    at = datetime(2026, 11, 1, tzinfo=timezone.utc)
    for day, factor in ((1, "1.00"), (2, "2.00")):
        write_bytes(
            tmp_path / f"in/actual-{day}.csv",
            text([cost(factor), cost("70", ChargeType="Purchase", **PLANNED)]).encode(),
            at=at.replace(day=day),
        )
        write_bytes(tmp_path / f"in/amortized-{day}.csv", text([cost(factor), cost("60", **PLANNED)]).encode(), at=at.replace(day=day))
    bill = nights(tmp_path, tmp_path / "in", format="azure", delivery="versions")
    assert only(bill.load()).state == "loaded"
    assert (bill.total(), bill.total(column="effective_cost")) == (Decimal(72), Decimal(62))


# --- quantities and prices ------------------------------------------------------------------------------------------------


UNITS = [
    # unit of measure, consumed unit, hours of a machine, priced quantity
    ("100 Hours", "Hours", 24, "0.24"),
    ("10 Hours", "Hours", 24, "2.4"),
    ("1 Hour", "Hour", 24, "24"),
    ("Hours", "Hours", 24, "24"),
    ("1/Month", "Units/Month", None, "24"),
    ("1 /Month", "Units/Month", None, "24"),
    ("1/Hour", "Units/Hour", None, "24"),
    ("1 GB/Month", "GB/Month", None, "24"),
    ("GB-Mo", "GB-Mo", None, "24"),
    ("100 GB Hours", "GB Hours", None, "0.24"),
    ("10K", "Units", None, "0.0024"),
    ("1M", "Units", None, "0.000024"),
    ("1 Month", "Month", None, "24"),
    ("100000000", "Units", None, "0.00000024"),
    ("3 Hours", "Hours", 24, None),
]


def test_quantities_are_single_units_and_prices_are_for_blocks(tmp_path: Path) -> None:
    """A VM that runs all day has Quantity 24 for every block size. 24 times 100 Hours would be 100 machines."""
    bill = loaded(tmp_path, each_its_own([cost("1.00", UnitOfMeasure=unit) for unit, *_ in UNITS]))
    for line, (unit, consumed, hours, priced) in zip(in_order(bill), UNITS, strict=True):
        assert (line["consumed_quantity"], line["consumed_unit"]) == (Decimal(24), consumed)
        assert line["billed_nanoseconds"] == (None if hours is None else hours * 3600 * 10**9)
        assert (line["pricing_quantity"], line["pricing_unit"]) == (None if priced is None else Decimal(priced), unit)


PRICED = [
    # row, list cost, contracted cost
    (cost("0.75", PayGPrice="0.04", Quantity="24"), "0.96", "0.75"),
    (cost("0.75", PayGPrice="4.00", Quantity="24", UnitOfMeasure="100 Hours"), "0.96", "0.75"),
    (cost("0.75", PayGPrice="0.012345678901", Quantity="0.0121338245679121"), "0.0001498002999703", "0.75"),
    (cost("0.75", PayGPrice="0.04", PaygCostInBillingCurrency="0.91"), "0.91", "0.75"),
    (cost("0.75", PayGPrice="0"), None, "0.75"),
    (cost("0", PayGPrice="0"), "0", "0"),
    (cost("0.75", PayGPrice="0.04", PricingCurrency="USD"), None, "0.75"),
    (cost("0.75", PayGPrice="0.04", PricingCurrency="EUR"), "0.96", "0.75"),
    (cost("0.30", PayGPrice="4.00", UnitPrice="3.00", UnitOfMeasure="100 Hours", **RESERVED), "0.96", "0.72"),
    (cost("6.00", ChargeType="UnusedReservation", PayGPrice="0.04", UnitPrice="0.03", **RESERVED), None, None),
    (cost("8760", ChargeType="Purchase", PayGPrice="0.04", Quantity="1", **RESERVED), "8760", "8760"),
]


def test_list_and_contracted_cost(tmp_path: Path) -> None:
    bill = loaded(tmp_path, each_its_own([row for row, _, _ in PRICED]), "amortized.csv")
    for line, (row, listed, contracted) in zip(in_order(bill), PRICED, strict=True):
        if row["PayGPrice"] == "0.012345678901":
            listed = str(WIDE.multiply(Decimal(row["PayGPrice"]), Decimal(row["Quantity"])).quantize(Decimal(1).scaleb(-22), context=WIDE))
        assert line["list_cost"] == (None if listed is None else Decimal(listed)), row
        assert line["contracted_cost"] == (None if contracted is None else Decimal(contracted)), row


def test_products_of_long_decimals_are_exact(tmp_path: Path) -> None:
    chance = random.Random(22)

    def some() -> Decimal:
        places = chance.choice([0, 3, 11, 12, 17, 22])
        whole = chance.choice([0, 1, 9, 12345678])
        return Decimal(chance.choice([1, -1])) * (whole + Decimal(chance.randrange(10**places)).scaleb(-places, WIDE))

    pairs = [(some(), some()) for _ in range(3000)] + [(Decimal("9999999999999998.5"), Decimal(1)), (Decimal("1e-22"), Decimal("1e-22"))]
    with open_engine(tmp_path) as con:
        con.register("pairs", pa.table({"a": [f"{a:f}" for a, _ in pairs], "b": [f"{b:f}" for _, b in pairs]}))
        found = con.execute("select exact_product(cast(a as decimal(38, 22)), cast(b as decimal(38, 22))) from pairs").fetchall()
        unit = Decimal(1).scaleb(-22)
        exact = 0
        for (a, b), (product,) in zip(pairs, found, strict=True):
            true = WIDE.multiply(a, b)
            assert abs(WIDE.subtract(product, true)) < unit
            if WIDE.quantize(true, unit) == true:
                exact += 1
                assert product == true
        assert exact > 500
        [(too_large,)] = con.execute("select exact_product(cast('9e9' as decimal(38, 22)), cast('9e9' as decimal(38, 22)))").fetchall()
        assert too_large is None


def test_an_invalid_quantity_is_counted_and_the_cost_is_kept(tmp_path: Path) -> None:
    bill = nights(
        tmp_path, write_bytes(tmp_path / "bill.csv", text([cost("1.00", Quantity="many"), cost("2.00")]).encode()), format="azure"
    )
    assert only(bill.load()).extra["unreadable"] == {"ConsumedQuantity": 1}
    assert bill.total() == Decimal(3)


def test_an_old_export_without_units_or_pricing_models(tmp_path: Path) -> None:
    """A purchase counts as a commitment's fee if it has a reservation, and a price is for one unit."""
    fee = {**BOUGHT, "PricingModel": "", "ReservationId": "r1"}
    write_bytes(tmp_path / "in/actual.csv", text([cost("3.00"), cost("90.00", ChargeType="Purchase", **fee)]).encode())
    write_bytes(tmp_path / "in/amortized.csv", text([cost("3.00", UnitOfMeasure="", PayGPrice="0.25"), cost("2.00", **RESERVED)]).encode())
    bill = nights(tmp_path, tmp_path / "in", format="azure")
    bill.load()
    assert (bill.total(), bill.total(column="effective_cost")) == (Decimal(93), Decimal(5))
    assert [line["list_cost"] for line in bill.lines() if line["consumed_unit"] is None and line["charge_category"] == "Usage"] == [
        Decimal(6)
    ]


def test_an_invalid_cost_is_set_aside_also_where_a_commitment_covers_it(tmp_path: Path) -> None:
    amounts = ["$10,000.00 ", "1,5", "1_000", "", "NULL", "one"]
    rows = [cost("1.00"), *(cost(amount, **RESERVED) for amount in amounts)]
    place = tmp_path / "in/amortized.csv"
    place.parent.mkdir(parents=True)
    with place.open("w", newline="") as file:
        writer = csv.DictWriter(file, list(dict.fromkeys([*COST, *RESERVED])), restval="")
        writer.writeheader()
        writer.writerows(rows)
    bill = nights(tmp_path, place, format="azure")
    bill.load()
    assert (bill.total(), len(bill.lines())) == (Decimal(1), 1)
    assert [r["reason"].split(" is ")[0] for r in bill.rows("billing_quarantine")] == ["CostInBillingCurrency"] * len(amounts)


def test_small_and_long_costs_are_kept_to_the_last_decimal(tmp_path: Path) -> None:
    amounts = ["35.2E-7", "1.7166668039999999e-06", "-0", "0.000000060000000000000000000", "0.0000000000000000000001"]
    bill = loaded(tmp_path, [cost(amount) for amount in amounts])
    assert bill.total() == sum((Decimal(a) for a in amounts), Decimal(0))


# --- values of lines ------------------------------------------------------------------------------------------------------

RUN = "00000000000000000000000000000000"


def test_tags_without_braces_name_the_run(tmp_path: Path) -> None:
    rows = [
        cost("1.00", Tags=f'"mlflow.run_id":"{RUN}","team":"nlp"'),
        cost("1.00", Tags=f'{{"mlflow.run_id": "{RUN}"}}'),
        cost("1.00", Tags='"a":"1","a":"2"'),
        cost("1.00", Tags='"a":{"b":1}'),
        cost("1.00", Tags='"note":"NULL"'),
        cost("1.00", Tags='""'),
    ]
    bill = nights(tmp_path, write_bytes(tmp_path / "bill.csv", text(rows).encode()), format="azure")
    load = bill.load()
    assert sums(bill.lines(), "run_tag", "billed_cost") == {RUN: Decimal(2), None: Decimal(4)}
    assert load.extra["warnings"]["unreadable_tags"] == 2
    assert {line["tags"] for line in bill.lines()} == {
        f'{{"mlflow.run_id":"{RUN}","team":"nlp"}}', f'{{"mlflow.run_id": "{RUN}"}}', '{"note":"NULL"}', None,
    }  # fmt: skip


@pytest.mark.parametrize("blank", [b"", b"\n", b"\n\n\n", b"\r\n"])
def test_one_resource_in_two_cases_is_one_and_ids_stay_strings(tmp_path: Path, blank: bytes) -> None:
    rows = [
        cost("1.00", ResourceId=VM.upper(), BillingAccountId="0012345678", MeterId="1E5", SubscriptionName="NULL"),
        cost("1.00", ResourceId=VM, BillingAccountId="0012345678", MeterId="1E5", SubscriptionName="(null)"),
    ]
    place = write_bytes(tmp_path / "bill.csv", b"\xef\xbb\xbf" + text(rows).encode() + blank)
    bill = nights(tmp_path, place, format="azure")
    bill.load()
    assert sums(bill.lines(), "resource_key", "billed_cost") == {VM.lower(): Decimal(2)}
    assert {line["resource_id"] for line in bill.lines()} == {VM, VM.upper()}
    assert {(line["billing_account_id"], line["sku_id"], line["sub_account_name"]) for line in bill.lines()} == {
        ("0012345678", "1E5", None)
    }
    assert bill.rows("billing_quarantine") == []


def test_details_state_the_size_of_a_machine_and_its_name(tmp_path: Path) -> None:
    rows = [
        cost("1.00", AdditionalInfo='{"ServiceType":"Standard_NC6s_v3","VMName":"pool_2","VCPUs":6}'),
        cost("1.00", AdditionalInfo='"ServiceType":"Standard_Q9_v9","VCPUs":9'),
        cost("1.00", AdditionalInfo='{"ServiceType":"DataAnalysis"}'),
        cost("1.00", AdditionalInfo="nonsense"),
    ]
    lines = loaded(tmp_path, rows).lines()
    machines = {(line["instance_type"], line["machine_gpus"], line["machine_cpus"], line["resource_name"]) for line in lines}
    assert machines == {("Standard_NC6s_v3", 1, 6, "pool_2"), ("Standard_Q9_v9", None, 9, "gpu-1"), (None, None, None, "gpu-1")}


SCALE_SET = "/subscriptions/s/resourceGroups/g/providers/Microsoft.Compute/virtualMachineScaleSets/aks-gpu-vmss"


@pytest.mark.parametrize(
    ("name", "machine"),
    [
        ("aks-gpu-vmss_0", "/virtualmachines/0"),
        ("AKS-GPU-VMSS_12", "/virtualmachines/12"),
        ("aks-gpu-vmss_3f2a9c1e", ""),
        ("another_1", ""),
        (None, ""),
    ],
)
def test_a_machine_of_a_scale_set_has_the_path_that_it_calls_itself(tmp_path: Path, name: str | None, machine: str) -> None:
    """Azure bills it under the scale set. The details name the machine; other names stay with the scale set."""
    row = cost("1.00", ResourceId=SCALE_SET, AdditionalInfo=json.dumps({"ServiceType": "Standard_NC6s_v3", "VMName": name}))
    machines = {(line["resource_id"], line["resource_key"]) for line in loaded(tmp_path, [row, cost("1.00")]).lines()}
    assert machines == {(SCALE_SET, SCALE_SET.lower() + machine), (VM, VM.lower())}


@pytest.mark.parametrize("named", [SCALE_SET, SCALE_SET.lower(), "aks-gpu-vmss", "aks-gpu-*", f"{SCALE_SET.lower()}/virtualmachines/1"])
def test_a_pool_may_name_a_scale_set_or_its_machine(tmp_path: Path, named: str) -> None:
    rows = [cost("1.00", ResourceId=SCALE_SET, AdditionalInfo='{"VMName":"aks-gpu-vmss_1"}'), cost("1.00")]
    bill = nights(tmp_path, write_bytes(tmp_path / "bill.csv", text(rows).encode()), format="azure")
    bill.load(pools=[Pool(name="gpu", runs={"experiment": "*"}, lines={"resource": [named]})])
    assert {(line["resource_id"], line["pool_key"]) for line in bill.lines()} == {(SCALE_SET, "gpu"), (VM, None)}


METERS = [
    # category and subcategory of the meter; category and subcategory of the service
    ("Virtual Machines", "", "Compute", "Virtual Machines"),
    ("virtual machines", "", "Compute", "Virtual Machines"),
    ("Storage", "", "Storage", None),
    ("Bandwidth", "", "Networking", None),
    ("Azure Machine Learning", "", "AI and Machine Learning", "Machine Learning"),
    ("Cognitive Services", "Azure OpenAI", "AI and Machine Learning", "Generative AI"),
    ("Cognitive Services", "Speech", "AI and Machine Learning", "AI Platforms"),
    ("Foundry Models", "", "AI and Machine Learning", "Generative AI"),
    ("Azure Databricks", "", "Analytics", None),
    ("Something New", "", "Other", None),
]


def test_meters_have_categories(tmp_path: Path) -> None:
    bill = loaded(tmp_path, each_its_own([cost("1.00", MeterCategory=meter, MeterSubCategory=sub) for meter, sub, _, _ in METERS]))
    found = [(line["service_name"], line["service_category"], line["service_subcategory"]) for line in in_order(bill)]
    assert found == [(meter, category, subcategory) for meter, _, category, subcategory in METERS]


def test_no_meter_is_listed_twice() -> None:
    """A second entry would double the rows of that meter."""
    query = files("runspend.ingest.billing.formats").joinpath("azure.sql").read_text(encoding="utf-8")
    block = query.split("values", 1)[1].split("\n),", 1)[0]
    meters = [line.strip().lstrip("(").split("', ")[0] for line in block.splitlines() if line.strip().startswith("(")]
    assert len(meters) > 60
    assert len(set(meters)) == len(meters)


def test_a_reversal_takes_back_the_time_of_its_line(tmp_path: Path) -> None:
    """A day of 24 hours, taken back, and billed again as six hours."""
    bill = loaded(tmp_path, [cost(amount, Quantity=quantity) for amount, quantity in (("240", "24"), ("-240", "-24"), ("60", "6"))])
    assert sum(line["billed_nanoseconds"] for line in bill.lines()) == 6 * 3600 * 10**9
    assert bill.total() == 60


def test_equal_rows_are_all_counted(tmp_path: Path) -> None:
    bill = loaded(tmp_path, [*[cost("0.05")] * 3, cost("0.20")])
    assert (len(bill.lines()), bill.total()) == (4, Decimal("0.35"))


def test_currencies_are_never_added(tmp_path: Path) -> None:
    bill = loaded(tmp_path, [cost("100", BillingCurrencyCode="USD"), cost("90"), cost("7", BillingCurrencyCode="MC")])
    assert {r["billing_currency"]: r["billed_cost"] for r in bill.rows("billing_loads")} == {"USD": Decimal(100), "EUR": Decimal(90)}
    assert [r["billed_cost"] for r in bill.rows("billing_quarantine")] == [Decimal(7)]


def test_a_charge_type_becomes_its_focus_category(tmp_path: Path) -> None:
    kinds = {"Credit": "Credit", "Adjustment": "Adjustment", "RoundingAdjustment": "Adjustment", "usage": "Usage", "New": "Adjustment"}
    bill = loaded(tmp_path, each_its_own([cost("-3.00", ChargeType=kind) for kind in kinds]))
    found = [(line["charge_category"], line["billed_cost"], line["effective_cost"]) for line in in_order(bill)]
    assert found == [(category, Decimal(-3), Decimal(-3)) for category in kinds.values()]


# --- Parquet, FOCUS, only -----------------------------------------------------------------------------------------------------


def test_an_empty_parquet_file_among_good_ones_is_loaded(tmp_path: Path) -> None:
    rows = [cost("3.00"), cost("4.00")]
    for number, part in enumerate((rows[:1], [], rows[1:])):
        columns = {name: [row[name] for row in part] for name in COST}
        table = pa.table({**columns, "Date": pa.array([date(2026, 10, 5)] * len(part), pa.date32())})
        if not part:
            table = pa.table({name: pa.nulls(0) for name in table.column_names})
        (tmp_path / "in").mkdir(exist_ok=True)
        pq.write_table(table, tmp_path / f"in/part_{number}.snappy.parquet")
    bill = nights(tmp_path, tmp_path / "in", format="azure", delivery="parts")
    load = bill.load()
    assert (bill.total(), load.extra["files_without_rows"]) == (Decimal(7), ["part_1.snappy.parquet"])


def test_costs_may_be_doubles_in_one_part_and_decimals_in_the_next(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    doubles, decimals = pa.array([0.1] * 10), pa.array([Decimal("0.0000000000000000001")] * 10, pa.decimal128(38, 19))
    days = pa.array([date(2026, 10, 5)] * 10).cast(pa.timestamp("ms"))
    for number, costs in enumerate((doubles, decimals)):
        columns = {**{name: [COST[name]] * 10 for name in COST}, "CostInBillingCurrency": costs, "Date": days}
        pq.write_table(pa.table(columns), tmp_path / f"in/part_{number}.parquet")
    bill = nights(tmp_path, tmp_path / "in", format="azure", delivery="parts")
    bill.load()
    assert bill.total() == Decimal("1.000000000000000001")


def focus_rows(samples: Path, version: str) -> list[dict[str, str]]:
    """Return two rows in every column that Azure lists for a version of its FOCUS export."""
    listed = json.loads((samples / f"focus_metadata/FocusCost_{version}.json").read_text(encoding="utf-8-sig"))
    header = [column["ColumnName"] for column in listed["Columns"]]
    filled = {
        "BillingAccountId": "/providers/Microsoft.Billing/billingAccounts/12345678", "BillingCurrency": "EUR",
        "BillingPeriodStart": "2026-10-01T00:00:00Z", "BillingPeriodEnd": "2026-11-01T00:00:00Z",
        "ChargePeriodStart": "2026-10-05T00:00:00Z", "ChargePeriodEnd": "2026-10-06T00:00:00Z", "ChargeCategory": "Usage",
        "ServiceName": "Virtual Machines", "ServiceCategory": "Compute", "ProviderName": "Microsoft", "PublisherName": "Microsoft",
        "SubAccountId": f"/subscriptions/{SUBSCRIPTION}", "ConsumedQuantity": "24", "ConsumedUnit": "Hours", "SkuPriceId": "1E5",
        "Tags": '"mlflow.run_id":"' + RUN + '"', "x_SkuDetails": '{"ServiceType":"Standard_NC6s_v3","VCPUs":6}',
        "SkuPriceDetails": '{"x_ServiceType":"Standard_NC6s_v3"}',
        **dict.fromkeys(("BilledCost", "EffectiveCost", "ListCost", "ContractedCost"), "1.2500000000000000000001"),
    }  # fmt: skip
    return [{name: filled.get(name, "") for name in header} | {"ResourceId": resource} for resource in (VM, VM.upper())]


@pytest.mark.parametrize(
    ("version", "kind", "format_name"),
    [
        ("1.0", "csv", "azure"),
        ("1.0", "csv", "auto"),
        ("1.0", "parquet", "focus"),
        ("1.2-preview", "csv", "focus"),
        ("1.2-preview", "parquet", "azure"),
        ("1.2-preview", "parquet", "auto"),
    ],
)
def test_focus_exports_of_azure_load_with_either_format_name(
    tmp_path: Path, samples: Path, version: str, kind: str, format_name: str
) -> None:
    rows = focus_rows(samples, version)
    place = tmp_path / f"in/part_0.{kind}"
    place.parent.mkdir()
    if kind == "csv":
        with place.open("w", newline="") as file:
            writer = csv.DictWriter(file, list(rows[0]))
            writer.writeheader()
            writer.writerows(rows)
    else:
        pq.write_table(pa.Table.from_pylist(rows), place)
    bill = nights(tmp_path, place, format=format_name)
    assert only(bill.load()).extra["quarantined"] == 0
    assert bill.total() == Decimal("2.5000000000000000000002")
    assert {(line["run_tag"], line["sku_price_id"], line["instance_type"], line["machine_gpus"]) for line in bill.lines()} == {
        (RUN, "1E5", "Standard_NC6s_v3", 1)
    }
    assert {line["resource_key"] for line in bill.lines()} == {VM.lower()}
    assert {line["billed_nanoseconds"] for line in bill.lines()} == {24 * 3600 * 10**9}


def test_a_focus_export_with_cost_exports_of_the_same_days_is_refused(tmp_path: Path, samples: Path) -> None:
    folder = both(tmp_path)
    rows = [row | {"BillingAccountId": "12345678"} for row in focus_rows(samples, "1.0")]
    with (folder / "focus.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    refused = only(nights(tmp_path, folder, format="azure").load())
    assert refused.state == "refused"
    assert "focus.csv" in str(refused.error)


def test_only_the_named_lines_count_and_the_others_are_summed_not_lost(tmp_path: Path) -> None:
    """The Azure bill and the Databricks bill both have DBUs. Runspend takes them from the Databricks bill."""
    dbu = {"MeterCategory": "Azure Databricks", "UnitOfMeasure": "1", "ResourceId": "/subscriptions/s/w/1"}
    rows = [cost("6.00", Tags='"ClusterId":"0103-1"'), cost("4.00", **dbu), cost("0.50", **dbu)]
    bill = loaded(tmp_path, rows, only={"tag.ClusterId": "*"})
    assert "bill: lines left out by only: 2" in bill.progress
    assert [
        (line["scope"], line["service_name"], line["effective_cost"])
        for line in sorted(bill.lines(), key=lambda line: line["service_name"])
    ] == [
        ("exclude", "Azure Databricks", Decimal("4.50")),
        (None, "Virtual Machines", Decimal(6)),
    ]
    assert bill.total() == Decimal("10.50")
    assert [r["billed_cost"] for r in bill.rows("billing_loads")] == [Decimal("10.50")]
    bill.source = bill.source.model_copy(update={"only": None})
    assert only(bill.load()).state == "loaded"
    assert {line["scope"] for line in bill.lines()} == {None}


def test_doctor_counts_both_exports_once(tmp_path: Path) -> None:
    found = probe_source(nights(tmp_path, both(tmp_path), format="azure").source)
    assert (found["billed"], found["rows"], found["problems"]) == ({"EUR": BILLED}, 12, [])
