"""Traps of bill ingestion, as FOCUS rows with the totals they must have: amortization, signs, currencies, precision, time.

Traps of delivery and restatement are in `test_focus_deliveries.py`, and those of strings and keys in `test_focus_rows.py` and
`test_focus_identity.py`. Traps of splitting money among runs are in `tests/allocation/test_traps.py`.
"""

from __future__ import annotations

import csv
import random
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from datetime import date, datetime, timedelta, timezone
from decimal import Context, Decimal
from pathlib import Path
from typing import Any

import pytest

from runspend.core.errors import SourceRefused
from runspend.ingest.billing import staging
from runspend.ingest.billing.memory_budget import room_of
from tests.focus_files import Nights, csv_text, month, nights, only, row, write_bytes, write_csv

WIDE = Context(prec=76)


def loaded(tmp_path: Path, rows: Sequence[Mapping[str, str]], **source: Any) -> Nights:
    """Load a bill of these rows once."""
    header = list(dict.fromkeys(name for line in rows for name in line))
    write_csv(tmp_path / "bill.csv", rows, header=header)
    bill = nights(tmp_path, tmp_path / "bill.csv", **source)
    bill.load()
    return bill


def costs(billed: str, effective: str, **other: str) -> dict[str, str]:
    return {**row(**other), "BilledCost": billed, "EffectiveCost": effective}


def sums(lines: Iterable[Mapping[str, Any]], by: str, column: str = "billed_cost") -> dict[Any, Decimal]:
    found: dict[Any, Decimal] = defaultdict(Decimal)
    for line in lines:
        found[line[by]] = WIDE.add(found[line[by]], line[column])
    return dict(found)


def charge_months(lines: Iterable[dict[str, Any]]) -> dict[str, Decimal]:
    return sums([{**line, "month": f"{line['charge_date']:%Y-%m}"} for line in lines], "month")


def hours_of(first: datetime, hours: int) -> list[dict[str, str]]:
    """Return the columns of charge and billing periods for so many hours from `first`."""
    found = []
    for n in range(hours):
        start = first + timedelta(hours=n)
        found.append(
            {
                **month(f"{start:%Y-%m}"),
                "ChargePeriodStart": f"{start:%Y-%m-%dT%H:%M:%SZ}",
                "ChargePeriodEnd": f"{start + timedelta(hours=1):%Y-%m-%dT%H:%M:%SZ}",
            }
        )
    return found


# --- B. Amortization ---------------------------------------------------------------------------------------------------

SAVINGS_PLAN = {"CommitmentDiscountId": "sp-1", "CommitmentDiscountCategory": "Spend"}


def test_savings_plan_counts_the_fee_once(tmp_path: Path) -> None:
    rows = [
        costs("0", "0.6036", **SAVINGS_PLAN, CommitmentDiscountStatus="Used", ConsumedQuantity="1", ConsumedUnit="Hours"),
        costs("0", "0.0964", **SAVINGS_PLAN, CommitmentDiscountStatus="Unused", ResourceId="sp-1"),
        costs("0.70", "0", **SAVINGS_PLAN, ChargeCategory="Purchase", ResourceId="sp-1"),
    ]
    bill = loaded(tmp_path, rows)
    assert (bill.total(), bill.total(column="effective_cost")) == (Decimal("0.70"), Decimal("0.70"))
    assert sums(bill.lines(), "charge_category") == {"Usage": Decimal(0), "Purchase": Decimal("0.70")}
    assert sums(bill.lines(), "commitment_discount_status", "effective_cost") == {
        "Used": Decimal("0.6036"),
        "Unused": Decimal("0.0964"),
        None: Decimal(0),
    }


@pytest.mark.parametrize(("used_hours", "unused"), [(720, "1.44"), (0, "44.64")])
def test_reservation_fee_is_not_added_to_discounted_usage(tmp_path: Path, used_hours: int, unused: str) -> None:
    held = {"CommitmentDiscountId": "ri-1", "CommitmentDiscountCategory": "Usage"}
    hours = hours_of(datetime(2026, 10, 1, tzinfo=timezone.utc), 720)[:used_hours]
    rows = [costs("0", "0.06", **held, **hour, CommitmentDiscountStatus="Used") for hour in hours]
    rows += [costs("0", unused, **held, CommitmentDiscountStatus="Unused", ResourceId="ri-1")]
    rows += [costs("44.64", "0", **held, ChargeCategory="Purchase", ResourceId="ri-1")]
    bill = loaded(tmp_path, rows)
    assert (bill.total(), bill.total(column="effective_cost")) == (Decimal("44.64"), Decimal("44.64"))
    assert [line["effective_cost"] for line in bill.lines() if line["commitment_discount_status"] == "Unused"] == [Decimal(unused)]


def test_all_upfront_purchase_is_billed_once_and_used_all_year(tmp_path: Path) -> None:
    purchase = costs("8760.00", "0", **month("2023-01"), ChargeCategory="Purchase", ResourceId="ri-1")
    purchase |= {"ChargePeriodStart": "2023-01-01T00:00:00Z", "ChargePeriodEnd": "2024-01-01T00:00:00Z"}
    rows = [purchase, *(costs("0", "1.00", **hour) for hour in hours_of(datetime(2023, 1, 1, tzinfo=timezone.utc), 8760))]
    bill = loaded(tmp_path, rows)
    both = {p: (bill.total(p), bill.total(p, "effective_cost")) for p in (f"2023-{n:02d}" for n in range(1, 13))}
    assert both["2023-01"] == (Decimal("8760.00"), Decimal("744.00"))
    assert both["2023-02"] == (Decimal(0), Decimal("672.00"))
    assert tuple(sum(pair[i] for pair in both.values()) for i in (0, 1)) == (Decimal("8760.00"), Decimal("8760.00"))


def test_the_example_of_the_specification_has_its_totals(tmp_path: Path, samples: Path) -> None:
    """The example has only the columns that it is about. The test adds the others."""
    with (samples / "focus_spec_1_2_examples/commitment_discount_purchase_scenario_1.csv").open(newline="", encoding="utf-8-sig") as file:
        rows = [{**row(), **line} for line in csv.DictReader(file)]
    bill = nights(tmp_path, write_csv(tmp_path / "bill.csv", rows))
    periods = [p.period for p in bill.load().periods]
    assert sum(bill.total(p) for p in periods) == Decimal("8760.00")
    assert sum(bill.total(p, "effective_cost") for p in periods) == Decimal("0.00")


def test_fees_do_not_double_quantities(tmp_path: Path) -> None:
    def used(hours: str, **other: str) -> dict[str, str]:
        return row("1.00", ConsumedQuantity=hours, ConsumedUnit="Hours", **other)

    fees = [
        row("0.70", ChargeCategory="Purchase", PricingQuantity="1", PricingUnit="Hours"),
        row("44.64", ChargeCategory="Purchase", PricingQuantity="744", PricingUnit="Hours"),
    ]
    bill = loaded(tmp_path, [used("1", **SAVINGS_PLAN), used("3", CommitmentDiscountId="ri-1"), used("2"), *fees])
    assert sum(line["consumed_quantity"] or 0 for line in bill.lines()) == 6
    assert sum(line["billed_nanoseconds"] or 0 for line in bill.lines()) == 6 * 3600 * 10**9


def test_hours_of_a_fargate_tasks_parts_are_not_its_time(tmp_path: Path) -> None:
    """AWS's sample export has the unit "Hours" for vCPUs and memory. The quantity is the task's hours times its vCPUs or gigabytes."""

    def part(what: str, hours: str) -> dict[str, str]:
        return row("1.00", ChargeDescription=f"AWS Fargate - {what}  - US West 2 (Oregon)", ConsumedQuantity=hours, ConsumedUnit="Hours")

    bill = loaded(
        tmp_path,
        [part("vCPU", "0.8"), part("Memory", "3.2"), part("Windows OS", "0.8"), row("1.00", ConsumedQuantity="1", ConsumedUnit="Hours")],
    )
    assert sorted((line["billed_nanoseconds"] for line in bill.lines()), key=str) == [3600 * 10**9, None, None, None]


def test_split_rows_replace_the_node_and_are_not_added_to_it(tmp_path: Path) -> None:
    pods = [("A", "2.50"), ("A", "1.50"), ("B", "4.00"), ("B", "2.00")]
    rows = [
        row(
            cost,
            ResourceId="i-node",
            AllocatedMethodId="split",
            AllocatedResourceId=f"pod/{pod}",
            AllocatedTags=f'{{"mlflow_run_id":"{pod}"}}',
        )
        for pod, cost in pods
    ]
    bill = loaded(tmp_path, rows)
    assert bill.total(column="effective_cost") == Decimal("10.00")
    assert sums(bill.lines(), "allocated_resource_id", "effective_cost") == {"pod/A": Decimal("4.00"), "pod/B": Decimal("6.00")}
    assert sums(bill.lines(), "run_tag", "effective_cost") == {"A": Decimal("4.00"), "B": Decimal("6.00")}


# --- C. Categories and signs -------------------------------------------------------------------------------------------


def test_tax_stays_in_the_bill(tmp_path: Path) -> None:
    bill = loaded(
        tmp_path,
        [row("100.00", Tags='{"mlflow_run_id":"r1"}'), row("19.00", ChargeCategory="Tax", ResourceId="", Tags="", ServiceName="Tax")],
    )
    assert bill.total() == Decimal("119.00")
    assert sums(bill.lines(), "run_tag") == {"r1": Decimal("100.00"), None: Decimal("19.00")}


def test_credits_are_rows_of_their_own_and_none_is_lost(tmp_path: Path) -> None:
    """FOCUS has no nested credits: each is a row of category Credit. A usage row without credits keeps its cost."""
    rows = [
        row("10"),
        row("5", ResourceId="i-2"),
        row("-2", ChargeCategory="Credit", ChargeDescription="PROMOTION"),
        row("-1", ChargeCategory="Credit", ChargeDescription="SUSTAINED_USAGE_DISCOUNT"),
    ]
    bill = loaded(tmp_path, rows)
    assert sums(bill.lines(), "charge_category") == {"Usage": Decimal(15), "Credit": Decimal(-3)}
    assert (bill.total(), len([line for line in bill.lines() if line["charge_category"] == "Usage"])) == (Decimal(12), 2)


def test_refunds_keep_their_sign_category_and_charge_month(tmp_path: Path) -> None:
    september = month("2026-09")
    refund = row(
        "-5.00",
        ChargeClass="Correction",
        InvoiceId="oct",
        ChargePeriodStart=september["ChargePeriodStart"],
        ChargePeriodEnd=september["ChargePeriodEnd"],
    )
    rows = [
        row("25.00", **september, InvoiceId="sep"),
        row("30.00", InvoiceId="oct"),
        refund,
        row("-2.00", ChargeCategory="Credit", InvoiceId="oct"),
    ]
    bill = loaded(tmp_path, rows)
    assert (bill.total("2026-09"), bill.total("2026-10")) == (Decimal("25.00"), Decimal("23.00"))
    assert charge_months(bill.lines("2026-09") + bill.lines("2026-10")) == {"2026-09": Decimal("20.00"), "2026-10": Decimal("28.00")}
    [kept] = [line for line in bill.lines("2026-10") if line["charge_class"]]
    assert (kept["charge_category"], kept["charge_class"], kept["charge_date"]) == ("Usage", "Correction", date(2026, 9, 5))


def test_a_negative_unit_price_is_rejected_and_a_negative_cost_is_not(tmp_path: Path) -> None:
    write_csv(
        tmp_path / "bill.csv",
        [row("-5.00", ListUnitPrice="-0.50", ContractedUnitPrice="0.40"), row("2.00", ListUnitPrice="1.00", ContractedUnitPrice="")],
    )
    bill = nights(tmp_path, tmp_path / "bill.csv")
    assert bill.load().extra["warnings"]["negative_unit_prices"] == 1
    prices = {line["billed_cost"]: (line["list_unit_price"], line["contracted_unit_price"]) for line in bill.lines()}
    assert prices == {Decimal("-5.00"): (None, Decimal("0.40")), Decimal("2.00"): (Decimal("1.00"), None)}


def test_a_third_party_payee_is_effective_but_not_billed(tmp_path: Path) -> None:
    bill = loaded(tmp_path, [costs("12.00", "12.00"), costs("0", "8.00", PublisherName="Vendor")])
    assert (bill.total(), bill.total(column="effective_cost")) == (Decimal("12.00"), Decimal("20.00"))


# --- D. Currency and precision -----------------------------------------------------------------------------------------


def test_currencies_are_kept_apart_and_unknown_ones_are_quarantined(tmp_path: Path) -> None:
    bill = loaded(tmp_path, [row("100", BillingCurrency="USD"), row("90", BillingCurrency="EUR"), row("7", BillingCurrency="MC")])
    assert sums(bill.lines(), "billing_currency") == {"USD": Decimal(100), "EUR": Decimal(90)}
    assert {r["billing_currency"]: r["billed_cost"] for r in bill.rows("billing_loads")} == {"USD": Decimal(100), "EUR": Decimal(90)}
    [kept] = bill.rows("billing_quarantine")
    assert (kept["billed_cost"], kept["reason"].startswith("BillingCurrency is 'MC'")) == (Decimal(7), True)
    assert len({line["line_id"] for line in bill.lines()}) == len(bill.lines()) == 2


def test_very_small_costs_add_up(tmp_path: Path) -> None:
    """4E-10 would be zero with nine decimals. A hundred thousand such costs are 0.00004."""
    bill = loaded(tmp_path, [row("4E-10")] * 100_000)
    assert (bill.store["billing_lines", "2026-10"].num_rows, bill.total()) == (100_000, Decimal("0.00004"))


def test_nineteen_decimals_of_a_real_bill_are_kept(tmp_path: Path, samples: Path) -> None:
    with (samples / "koku/test_cur.csv").open(newline="") as file:
        header, *real = list(csv.reader(file))
    amounts = [line[header.index("lineItem/UnblendedCost")] for line in real if line]
    bill = loaded(tmp_path, [row(amount, ResourceId=f"r{n}") for n, amount in enumerate(amounts)])
    assert bill.total() == Decimal("0.0827499841274349353")


def test_decimals_are_read_in_every_notation(tmp_path: Path) -> None:
    written = {
        "35.2E-7": "0.00000352",
        "1.7166668039999999e-06": "0.0000017166668039999999",
        "-0": "0",
        "0.000000060000000000000000000": "0.00000006",
    }
    bill = loaded(tmp_path, [row(text, ResourceId=f"i-{n}") for n, text in enumerate(written)])
    found = {line["resource_id"]: line["billed_cost"] for line in bill.lines()}
    assert found == {f"i-{n}": Decimal(value) for n, value in enumerate(written.values())}


def test_ten_tenths_are_one(tmp_path: Path) -> None:
    assert loaded(tmp_path, [row("0.1")] * 10).total() == Decimal("1.0")


def test_the_order_of_rows_and_files_changes_nothing(tmp_path: Path, samples: Path) -> None:
    """The test shuffles the public sample into 1, 2 and 7 files. The sum, the lines and their order are the same."""
    with (samples / "focus_1_0/focus_sample.csv").open(newline="") as file:
        delivered = list(csv.DictReader(file))
    seen = set()
    for seed, parts in enumerate([1, 1, 1, 1, 1, 2, 7]):
        shuffled = random.Random(seed).sample(delivered, len(delivered))
        folder = tmp_path / f"in-{seed}"
        for part in range(parts):
            write_csv(folder / f"part-{part}.csv", shuffled[part::parts])
        bill = nights(tmp_path / f"{seed}", folder, delivery="parts")
        periods = [p.period for p in bill.load().periods]
        assert sum(bill.total(p) for p in periods) == Decimal("20.52022672899")
        seen.add(repr([bill.store["billing_lines", p].drop_columns(["load_id"]).to_pylist() for p in periods]))
    assert len(seen) == 1


# --- E. Time -----------------------------------------------------------------------------------------------------------


def pacific(period: str, charged: str) -> dict[str, str]:
    """Return a row with a billing month in Pacific time (07:00 or 08:00 UTC) for one hour."""
    bounds = {"2026-10": ("2026-10-01T07", "2026-11-01T07"), "2026-11": ("2026-11-01T07", "2026-12-01T08"), "2026-12": ("2026-12-01T08", "2027-01-01T08"), "2026-03": ("2026-03-01T08", "2026-04-01T07")}[period]  # fmt: skip
    start = datetime.fromisoformat(charged)
    return row(
        BillingPeriodStart=f"{bounds[0]}:00:00Z", BillingPeriodEnd=f"{bounds[1]}:00:00Z",
        ChargePeriodStart=f"{start:%Y-%m-%dT%H:%M:%SZ}", ChargePeriodEnd=f"{start + timedelta(hours=1):%Y-%m-%dT%H:%M:%SZ}",
    )  # fmt: skip


def test_a_month_may_be_in_us_pacific_and_its_hours_in_utc(tmp_path: Path) -> None:
    rows = [
        pacific("2026-10", "2026-11-01T06:30"),
        pacific("2026-11", "2026-11-01T07:30"),
        pacific("2026-11", "2026-12-01T07:30"),
        pacific("2026-12", "2026-12-01T08:00"),
    ]
    bill = loaded(tmp_path, [*rows, pacific("2026-03", "2026-03-08T10:00")])
    assert [bill.total(p) for p in ("2026-10", "2026-11", "2026-12")] == [Decimal("1.00"), Decimal("2.00"), Decimal("1.00")]
    lines = [line for p in ("2026-10", "2026-11", "2026-12") for line in bill.lines(p)]
    assert charge_months(lines) == {"2026-11": Decimal("2.00"), "2026-12": Decimal("2.00")}
    lengths = {p: {line["billing_period_end"] - line["billing_period_start"] for line in bill.lines(p)} for p in ("2026-11", "2026-03")}
    assert lengths == {"2026-11": {timedelta(hours=721)}, "2026-03": {timedelta(hours=743)}}


def test_days_end_where_the_next_begins_and_local_formats_are_refused(tmp_path: Path) -> None:
    def day(first: str, after: str) -> dict[str, str]:
        return {**month("2026-02"), "ChargePeriodStart": first, "ChargePeriodEnd": after}

    rows = [
        row("3.00", **day("2026-02-03T00:00:00Z", "2026-02-04T00:00:00Z")),
        row("4.00", **day("2026-02-28", "2026-03-01")),
        row("9.00", **day("02/03/2026", "2026-02-04T00:00:00Z")),
        row("8.00", **day("2026-02-05T30:00:00Z", "2026-02-06T00:00:00Z")),
    ]
    bill = loaded(tmp_path, rows)
    assert bill.total("2026-02") == Decimal("7.00")
    assert {(line["charge_period_start"].isoformat(), line["charge_period_end"].isoformat()) for line in bill.lines("2026-02")} == {
        ("2026-02-03T00:00:00+00:00", "2026-02-04T00:00:00+00:00"),
        ("2026-02-28T00:00:00+00:00", "2026-03-01T00:00:00+00:00"),
    }
    assert sorted(r["reason"].split(",")[0] for r in bill.rows("billing_quarantine", "2026-02")) == [
        "ChargePeriodStart is '02/03/2026'",
        "ChargePeriodStart is '2026-02-05T30:00:00Z'",
    ]


def test_times_may_have_seven_digits_of_a_second(tmp_path: Path) -> None:
    bill = loaded(tmp_path, [row("1.00", ChargePeriodStart="2026-10-01T04:05:06.1234567Z")])
    [line] = bill.lines()
    assert line["charge_period_start"] == datetime(2026, 10, 1, 4, 5, 6, 123456, tzinfo=timezone.utc)


# --- more traps --------------------------------------------------------------------------------------------------------


def test_savings_are_measured_on_usage(tmp_path: Path) -> None:
    rows = [{**costs("0", "0.60"), "ListCost": "1.00"}, {**costs("0.60", "0", ChargeCategory="Purchase"), "ListCost": "0.60"}]
    bill = loaded(tmp_path, rows)
    assert sums(bill.lines(), "charge_category", "list_cost")["Usage"] == Decimal("1.00")


def test_tokens_are_never_added_to_money(tmp_path: Path) -> None:
    bill = loaded(
        tmp_path,
        [row("1230.00", PricingCurrency="Tokens", PricingCurrencyEffectiveCost="615", PricingQuantity="615", PricingUnit="Tokens")],
    )
    [line] = bill.lines()
    assert (line["billing_currency"], line["effective_cost"]) == ("USD", Decimal("1230.00"))
    assert (line["pricing_currency"], line["pricing_currency_effective_cost"]) == ("Tokens", Decimal(615))
    assert [r["effective_cost"] for r in bill.rows("billing_loads")] == [Decimal("1230.00")]


def test_a_sample_with_odd_values_is_loaded_unchanged(tmp_path: Path, samples: Path) -> None:
    bill = nights(tmp_path, samples / "focus_1_0/focus_sample.csv")
    periods = [p.period for p in bill.load().periods]
    aws = [line for p in periods for line in bill.lines(p) if line["host_provider_name"] == "AWS"]
    assert (sum(line["effective_cost"] for line in aws), sum(line["billed_cost"] for line in aws)) == (
        Decimal(13),
        Decimal("18.0066386184"),
    )


def test_invoices_reconcile_one_by_one(tmp_path: Path) -> None:
    bill = loaded(tmp_path, [row("60.00", InvoiceId="one"), row("40.00", InvoiceId="two"), row("5.00", InvoiceId="")])
    assert sums(bill.lines(), "invoice_id") == {"one": Decimal("60.00"), "two": Decimal("40.00"), None: Decimal("5.00")}
    assert {r["is_invoiced"] for r in bill.rows("billing_loads")} == {False}


def test_enumerations_are_respelled_with_a_count_and_unknown_values_reported(tmp_path: Path) -> None:
    write_csv(
        tmp_path / "bill.csv",
        [
            row(ChargeCategory="usage", ChargeFrequency="Usage-based", PricingCategory="standard"),
            row("2.00", ChargeCategory="Mystery", ChargeFrequency="", PricingCategory=""),
        ],
    )
    bill = nights(tmp_path, tmp_path / "bill.csv")
    warnings = bill.load().extra["warnings"]
    assert warnings["respelled_values"] == {
        "charge_category: usage": 1,
        "charge_frequency: Usage-based": 1,
        "pricing_category: standard": 1,
    }
    assert warnings["unknown_values"] == {"charge_category: Mystery": 1}
    assert bill.total() == Decimal("3.00")


def test_the_slow_reader_finds_the_same_lines(tmp_path: Path, samples: Path) -> None:
    """A blank line makes Runspend use the slow reader. Ids, strings, times and money are the same as from the fast reader."""
    delivered = (samples / "focus_synthetic/focus_1_2_cost_and_usage_aws.csv").read_text()
    found = []
    for name, text in (("fast", delivered), ("slow", delivered + "\n")):
        (tmp_path / name).mkdir()
        (tmp_path / name / "bill.csv").write_text(text)
        bill = nights(tmp_path / f"{name}-work", tmp_path / name / "bill.csv")
        assert only(bill.load(), "2026-05").state == "loaded"
        found.append(bill.store["billing_lines", "2026-05"])
    assert found[0].equals(found[1])
    assert found[0].num_rows == 300


@pytest.mark.parametrize("ending", ["", "\n"], ids=["fast", "slow"])
def test_a_bill_larger_than_memory_is_read_in_parts(tmp_path: Path, samples: Path, ending: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Parts have about two lines each and are kept in files. The lines and their order are the same."""
    path = write_bytes(tmp_path / "bill.csv", (samples / "focus_1_0/focus_sample.csv").read_bytes() + ending.encode())
    found = []
    for name in ("whole", "in parts"):
        bill = nights(tmp_path / name, path)
        found.append([bill.store["billing_lines", p.period] for p in bill.load().periods])
        monkeypatch.setattr(
            staging, "room_of", lambda memory: replace(room_of(memory), quick_part_bytes=2_000, share_rows=15, kept_bytes=0)
        )
    assert [t.num_rows for t in found[0]] == [999, 1]
    assert found[0] == found[1]


@pytest.mark.parametrize("cut", [1, 2, 10])
def test_a_file_cut_inside_its_last_quoted_field_is_refused(tmp_path: Path, cut: int) -> None:
    text = csv_text([row(Tags='{"team":"one"}'), row(Tags='{"team":"two"}')]).encode()
    write_bytes(tmp_path / "bill.csv", text.rstrip(b"\n")[:-cut])
    with pytest.raises(SourceRefused, match="quote"):
        nights(tmp_path, tmp_path / "bill.csv").load()
