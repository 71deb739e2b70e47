"""Traps of bill ingestion that appear only when cost is split: FOCUS rows are loaded as a bill and go through the whole ledger.

`tests/ingest/billing/formats/test_focus_traps.py` shows how each trap changes the loaded bill.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from runspend.ingest.billing.cost_splits import Weights
from tests.allocation.chain import DAY, make_run, run_on_duckdb, total
from tests.allocation.pooled_chain import trace
from tests.focus_files import month, nights, row, write_csv
from tests.weights import claim, weights

HOUR = {"ConsumedQuantity": "1", "ConsumedUnit": "Hours"}
ML = {"ServiceCategory": "AI and Machine Learning"}  # in the default scope even if it serves no run


def at(window: str, day: str = "2026-10-01") -> dict[str, str]:
    """Return the columns of the charge period for `HH:MM..HH:MM`."""
    start, end = window.split("..")
    return {"ChargePeriodStart": f"{day}T{start}:00Z", "ChargePeriodEnd": f"{day}T{end}:00Z"}


def allocated(
    tmp_path: Path,
    rows: Sequence[Mapping[str, str]],
    runs: Sequence[Mapping[str, Any]],
    period: str = "2026-10",
    splits: Sequence[Weights] = (),
    traces: Sequence[Mapping[str, Any]] = (),
) -> list[dict[str, Any]]:
    """Load the rows as a bill, and return `cost_allocations` of a period. Their sum must be the bill's."""
    header = list(dict.fromkeys(name for line in rows for name in line))
    bill = nights(tmp_path, write_csv(tmp_path / "bill.csv", rows, header=header))
    periods = [p.period for p in bill.load(weights=splits).periods]
    world: dict[str, Any] = {
        "billing_lines": [line for p in periods for line in bill.lines(p)],
        "runs": [],
        "run_resources": [],
        "trace_costs": list(traces),
    }
    for stated in runs:
        run, resources = make_run(**stated)
        world["runs"].append(run)
        world["run_resources"] += resources
    ledger = run_on_duckdb(world, tmp_path / "warehouse", DAY.replace(year=int(period[:4]), month=int(period[5:])))[
        "cost_allocations"
    ].to_pylist()
    for measure in ("billed_cost", "effective_cost"):
        assert total(r[measure] for r in ledger) == bill.total(period, measure)
    return ledger


def by_target(ledger: list[dict[str, Any]], measure: str = "effective_cost") -> dict[str, Decimal]:
    found: dict[str, Decimal] = defaultdict(Decimal)
    for part in ledger:
        found[part["run_id"] or part["allocated_to"]] += part[measure]
    return dict(found)


def test_a_run_pays_what_the_savings_plan_covers_not_the_fee(tmp_path: Path) -> None:
    plan = {"CommitmentDiscountId": "sp-1", "CommitmentDiscountCategory": "Spend"}
    rows = [
        row(**at("10:00..11:00"), **HOUR, **plan, CommitmentDiscountStatus="Used") | {"BilledCost": "0", "EffectiveCost": "0.6036"},
        row(**at("10:00..11:00"), **plan, CommitmentDiscountStatus="Unused", ResourceId="sp-1")
        | {"BilledCost": "0", "EffectiveCost": "0.0964"},
        row(**at("10:00..11:00"), **plan, ChargeCategory="Purchase", ResourceId="sp-1") | {"BilledCost": "0.70", "EffectiveCost": "0"},
    ]
    ledger = allocated(tmp_path, rows, [{"id": "A", "at": "10:00..11:00", "on": ["i-1"]}])
    assert by_target(ledger)["A"] == Decimal("0.6036")
    assert total(r["effective_cost"] for r in ledger if r["run_id"] is None) == Decimal("0.0964")
    assert total(r["billed_cost"] for r in ledger) == Decimal("0.70")


def test_each_run_pays_for_its_own_machine_of_an_azure_scale_set(tmp_path: Path) -> None:
    """Azure bills all machines of the set under one resource, a day per machine and line."""
    scale_set = "/subscriptions/s/resourceGroups/g/providers/Microsoft.Compute/virtualMachineScaleSets/aks-gpu-vmss"
    day = {"ChargePeriodStart": "2026-10-01T00:00:00Z", "ChargePeriodEnd": "2026-10-02T00:00:00Z", "ConsumedUnit": "Hours"}
    rows = [
        row(hours, **day, ResourceId=scale_set, ConsumedQuantity=hours, SkuPriceDetails=f'{{"x_VMName":"aks-gpu-vmss_{number}"}}')
        for number, hours in enumerate(("24.00", "24.00", "10.00"))
    ]
    machines = [f"{scale_set.lower()}/virtualmachines/{number}" for number in range(3)]
    runs = [
        {"id": "A", "at": "06:00..16:00", "on": machines[:1]},
        {"id": "B", "at": "06:00..12:00", "on": machines[1:2]},
        {"id": "C", "at": "12:00..14:30", "on": machines[2:]},
    ]
    assert by_target(allocated(tmp_path, rows, runs)) == {
        "A": Decimal("10.00"),
        "B": Decimal("6.00"),
        "C": Decimal("2.50"),
        "idle": Decimal("39.50"),
    }


def test_runs_in_pods_have_their_part_of_a_disk(tmp_path: Path) -> None:
    """A states its pod, which had 30 % of the machine. B states the machine, and has the half that no pod had."""
    hour = at("10:00..11:00")
    rows = [
        row("10.00", **hour, **HOUR, ResourceId="i-1"),
        row("1.00", **hour, ResourceId="vol-1", ServiceCategory="Storage", Tags='{"instance_id":"i-1"}'),
    ]
    claims = [claim(pod, weight, "2026-10-01T10:00..2026-10-01T11:00") for pod, weight in (("a", "3.00"), ("other", "2.00"))]
    stated = [{"id": "A", "at": "10:00..11:00", "on": ["k8s://c/ml/a"]}, {"id": "B", "at": "10:00..11:00", "on": ["i-1"]}]
    ledger = allocated(tmp_path, rows, stated, splits=[weights(claims)])
    assert by_target(ledger) == {"A": Decimal("3.30"), "B": Decimal("5.50"), "out_of_scope": Decimal("2.20")}


def test_calls_of_bedrock_without_callers_follow_token_costs(tmp_path: Path) -> None:
    """FOCUS 1.0 has no ServiceSubcategory. Bedrock sells Claude as a product of its own."""
    calls = {"ServiceCategory": "Other", "ResourceId": ""}
    rows = [
        row("8.00", **at("10:00..11:00"), **calls, ServiceName="Amazon Bedrock"),
        row("4.00", **at("10:00..11:00"), **calls, ServiceName="Claude Sonnet 4 (Amazon Bedrock Edition)"),
    ]
    traces = [trace(run="A", cost="3", model="claude-sonnet-4"), trace(run="B", cost="1", model="claude-sonnet-4")]
    ledger = allocated(
        tmp_path, rows, [{"id": "A", "at": "10:00..11:00", "on": []}, {"id": "B", "at": "10:00..11:00", "on": []}], traces=traces
    )
    assert by_target(ledger) == {"A": Decimal(9), "B": Decimal(3)}
    assert {part["match_method"] for part in ledger} == {"llm_cost"}


def test_a_day_that_is_reversed_and_billed_again_has_the_time_of_the_last_line(tmp_path: Path) -> None:
    day = {"ChargePeriodStart": "2026-10-01T00:00:00Z", "ChargePeriodEnd": "2026-10-02T00:00:00Z", "ConsumedUnit": "Hours"}
    rows = [row(amount, **day, ConsumedQuantity=hours) for amount, hours in (("240.00", "24"), ("-240.00", "-24"), ("60.00", "6"))]
    ledger = allocated(tmp_path, rows, [{"id": "A", "at": "06:00..09:00", "on": ["i-1"]}])
    assert by_target(ledger) == {"A": Decimal(30), "idle": Decimal(30)}


def test_fees_add_no_machine_time(tmp_path: Path) -> None:
    """Three machines have six hours of usage, next to fees of 744 hours and 1 hour."""

    def used(machine: str, hours: int, price: str) -> dict[str, str]:
        return row(
            "1.00", **at(f"10:00..{10 + hours}:00"), ResourceId=machine, ConsumedQuantity=str(hours), ConsumedUnit="Hours", SkuId=price
        )

    fees = [
        row(cost, **at("10:00..11:00"), ChargeCategory="Purchase", PricingQuantity=hours, PricingUnit="Hours")
        for cost, hours in (("44.64", "744"), ("0.70", "1"))
    ]
    rows = [used("i-1", 1, "sp"), used("i-2", 2, "od"), used("i-3", 3, "ri"), *fees]
    header = list(dict.fromkeys(name for line in rows for name in line))
    bill = nights(tmp_path, write_csv(tmp_path / "bill.csv", rows, header=header))
    bill.load()
    run, resources = make_run(id="A", at="10:00..13:00", on=["i-1", "i-2", "i-3"])
    world = {"billing_lines": bill.lines(), "runs": [run], "run_resources": resources}
    daily = run_on_duckdb(world, tmp_path / "warehouse")["run_costs_daily"].to_pylist()
    assert sum(r["machine_seconds"] or 0 for r in daily) == pytest.approx(6 * 3600)


def test_split_rows_go_to_their_pods_runs(tmp_path: Path) -> None:
    pods = [("A", "2.50"), ("A", "1.50"), ("B", "4.00"), ("B", "2.00")]
    rows = [
        row(
            cost,
            **at("10:00..11:00"),
            **HOUR,
            ResourceId="i-node",
            AllocatedMethodId="split",
            AllocatedResourceId=f"pod/{pod}",
            AllocatedTags=f'{{"mlflow_run_id":"{pod}"}}',
        )
        for pod, cost in pods
    ]
    ledger = allocated(tmp_path, rows, [{"id": run, "at": "10:00..11:00", "on": ["i-node"]} for run in "AB"])
    assert by_target(ledger) == {"A": Decimal("4.00"), "B": Decimal("6.00")}
    assert {r["match_method"] for r in ledger} == {"run_tag"}


def test_tax_is_shared_not_lost(tmp_path: Path) -> None:
    rows = [
        row("100.00", **at("10:00..11:00"), **ML, Tags='{"mlflow_run_id":"A"}'),
        row("19.00", **at("10:00..11:00"), **ML, ChargeCategory="Tax", ResourceId="", SkuId="", Tags=""),
    ]
    ledger = allocated(tmp_path, rows, [{"id": "A", "at": "10:00..11:00", "on": []}])
    assert by_target(ledger, "billed_cost") == {"A": Decimal("100.00"), "shared": Decimal("19.00")}


def test_a_refund_goes_to_the_run_that_had_the_machine_then(tmp_path: Path) -> None:
    """September costs 25.00.

    October's bill has usage of 30.00, a refund of -5.00 for September, and a credit of -2.00 without a machine.
    """
    september = {**month("2026-09"), **at("10:00..11:00", "2026-09-05")}
    rows = [
        row("25.00", **september, **HOUR),
        row("30.00", **at("10:00..11:00"), **HOUR),
        row("-5.00", **at("10:00..11:00", "2026-09-05"), ChargeClass="Correction"),
        row("-2.00", **at("10:00..11:00"), ChargeCategory="Credit", ResourceId=""),
    ]
    runs = [{"id": "sep", "at": "2026-09-05T10:00..2026-09-05T11:00", "on": ["i-1"]}, {"id": "oct", "at": "10:00..11:00", "on": ["i-1"]}]
    assert by_target(allocated(tmp_path / "oct", rows, runs)) == {
        "oct": Decimal("30.00"),
        "sep": Decimal("-5.00"),
        "shared": Decimal("-2.00"),
    }
    assert by_target(allocated(tmp_path / "sep", rows, runs, "2026-09")) == {"sep": Decimal("25.00")}


def test_a_run_has_the_effective_cost_of_third_party_charges(tmp_path: Path) -> None:
    rows = [
        row("12.00", **at("10:00..11:00"), **HOUR),
        row("8.00", **at("10:00..11:00"), **HOUR, PublisherName="Vendor") | {"BilledCost": "0"},
    ]
    ledger = allocated(tmp_path, rows, [{"id": "A", "at": "10:00..11:00", "on": ["i-1"]}])
    assert (by_target(ledger), by_target(ledger, "billed_cost")) == ({"A": Decimal("20.00")}, {"A": Decimal("12.00")})


def test_costs_of_one_machine_in_two_currencies_are_not_added(tmp_path: Path) -> None:
    rows = [row("100", **at("10:00..11:00"), **HOUR), row("90", **at("10:00..11:00"), **HOUR, BillingCurrency="EUR")]
    ledger = allocated(tmp_path, rows, [{"id": "A", "at": "10:00..11:00", "on": ["i-1"]}])
    assert {(r["run_id"], r["billing_currency"]): r["effective_cost"] for r in ledger} == {
        ("A", "USD"): Decimal(100),
        ("A", "EUR"): Decimal(90),
    }


def test_three_equal_parts_of_a_tenth_sum_to_a_tenth(tmp_path: Path) -> None:
    runs = [{"id": run, "at": "10:00..11:00", "on": ["i-1"]} for run in "ABC"]
    shares = by_target(allocated(tmp_path, [row("0.10", **at("10:00..11:00"), **HOUR)], runs))
    assert sorted(shares) == ["A", "B", "C"]
    assert total(shares.values()) == Decimal("0.10")
    assert all(abs(share - Decimal("0.10") / 3) < Decimal("1e-16") for share in shares.values())


def hours(*windows: str) -> list[dict[str, str]]:
    return [row("1.00", **at(window), **HOUR) for window in windows]


def test_the_boundary_of_an_hour_belongs_to_one_side(tmp_path: Path) -> None:
    runs = [
        {"id": "A", "at": "10:00..11:00", "on": ["i-1"]},
        {"id": "B", "at": "11:00..11:30", "on": ["i-1"]},
        {"id": "C", "at": "09:00..10:00", "on": ["i-1"]},
        {"id": "Z", "at": "11:00..11:00", "on": ["i-1"]},
    ]
    ledger = allocated(tmp_path, hours("10:00..11:00", "11:00..12:00"), runs)
    assert {run: cost for run, cost in by_target(ledger).items() if cost} == {
        "A": Decimal("1.00"),
        "B": Decimal("0.50"),
        "idle": Decimal("0.50"),
    }


def test_overlapping_runs_share_equally(tmp_path: Path) -> None:
    runs = [{"id": run, "at": "10:00..11:00", "on": ["i-1"]} for run in "AD"]
    assert by_target(allocated(tmp_path, hours("10:00..11:00"), runs)) == {"A": Decimal("0.50"), "D": Decimal("0.50")}


def test_a_run_still_active_ends_with_the_data_and_is_provisional(tmp_path: Path) -> None:
    ledger = allocated(tmp_path, hours("10:00..11:00", "11:00..12:00"), [{"id": "A", "at": "11:30", "on": ["i-1"], "last_sign": "11:45"}])
    assert by_target(ledger) == {"A": Decimal("0.50"), "idle": Decimal("1.50")}
    assert {(r["cost_status"], r["run_end_rule"]) for r in ledger if r["run_id"]} == {("provisional", "alive")}
