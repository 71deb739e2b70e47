"""One bill in several formats: with each of them, every run costs the same to the last decimal."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Callable, Sequence
from decimal import Decimal
from pathlib import Path

import pytest

from tests import azure_files, cur_files, focus_files, gcp_files
from tests.allocation.chain import World, make_run, run_on_duckdb
from tests.focus_files import Nights, nights

TAGGED = "00000000000000000000000000000007"
HOURS = [("10", "2.50"), ("11", "2.50"), ("12", "0.625")]
DAY = "2026-10-05"


def runs(machine: str, other: str) -> World:
    """Make two runs that share the first hour of a machine, of which one has the rest.

    A third is known only by a tag, and a fourth is on another machine.
    """
    world: World = {"billing_loads": [], "runs": [], "run_resources": []}
    for row in (
        {"id": "a", "at": f"{DAY}T10:00:00..{DAY}T11:00:00", "on": [machine]},
        {"id": "b", "at": f"{DAY}T10:30:00..{DAY}T12:15:00", "on": [machine]},
        {"id": TAGGED, "at": f"{DAY}T10:00:00..{DAY}T10:05:00", "on": []},
        {"id": "c", "at": f"{DAY}T11:30:00..{DAY}T12:00:00", "on": [other]},
    ):
        run, resources = make_run(**row)
        world["runs"].append(run)
        world["run_resources"] += resources
    return world


def cost_of(bill: Nights, world: World, root: Path) -> dict[str, Decimal]:
    """Return the effective cost of the loaded bill by run or other target."""
    lines = bill.lines()
    found = run_on_duckdb({**world, "billing_lines": lines}, root)["cost_allocations"].to_pylist()
    costs: dict[str, Decimal] = defaultdict(Decimal)
    for row in found:
        costs[row["run_id"] or row["allocated_to"]] += row["effective_cost"]
    assert sum(costs.values()) == sum(line["effective_cost"] for line in lines) == Decimal("9.375")
    return dict(costs)


def as_focus(folder: Path, machine: str, other: str) -> Nights:
    def at(hour: str) -> dict[str, str]:
        return {"ChargePeriodStart": f"{DAY}T{hour}:00:00Z", "ChargePeriodEnd": f"{DAY}T{int(hour) + 1}:00:00Z"}

    rows = [
        focus_files.row(cost, ResourceId=machine, ConsumedQuantity="1" if cost == "2.50" else "0.25", ConsumedUnit="Hours", **at(hour))
        for hour, cost in HOURS
    ]
    rows.append(focus_files.row("1.25", ResourceId=other, ConsumedQuantity="0.5", ConsumedUnit="Hours", **at("11")))
    rows.append(
        focus_files.row("3.00", ResourceId="", ConsumedQuantity="", ConsumedUnit="", Tags=json.dumps({"mlflow_run_id": TAGGED}), **at("10"))
    )
    rows.append(focus_files.row("-0.50", ResourceId=machine, ChargeCategory="Credit", ConsumedQuantity="", ConsumedUnit="", **at("10")))
    return nights(folder, focus_files.write_csv(folder / "in" / "focus.csv", rows))


def cur_lines(machine: str, other: str) -> list[dict[str, str]]:
    def at(hour: str) -> dict[str, str]:
        return {"line_item_usage_start_date": f"{DAY}T{hour}:00:00Z", "line_item_usage_end_date": f"{DAY}T{int(hour) + 1}:00:00Z"}

    def line(kind: str, cost: str, amount: str, resource: str, hour: str, **more: str) -> dict[str, str]:
        return cur_files.line(kind, cost, line_item_usage_amount=amount, line_item_resource_id=resource, **at(hour), **more)

    tagged = {"resource_tags": json.dumps({"user_mlflow_run_id": TAGGED}), "pricing_unit": "Requests"}
    return [
        *(line("Usage", cost, "1" if cost == "2.50" else "0.25", machine, hour) for hour, cost in HOURS),
        line("Usage", "1.25", "0.5", other, "11"),
        line("Usage", "3.00", "1000", "", "10", **tagged),
        line("Credit", "-0.50", "", machine, "10"),
    ]


def as_cur(folder: Path, machine: str, other: str) -> Nights:
    return nights(folder, cur_files.write_cur(folder / "in" / "cur.csv.gz", cur_lines(machine, other)))


def as_cur_parquet(folder: Path, machine: str, other: str) -> Nights:
    return nights(folder, cur_files.write_cur(folder / "in" / "cur.parquet", cur_lines(machine, other)))


def as_legacy_cur(folder: Path, machine: str, other: str) -> Nights:
    return nights(folder, focus_files.write_csv(folder / "in" / "cur.csv", cur_files.legacy(cur_lines(machine, other))))


def as_gcp(folder: Path, machine: str, other: str) -> Nights:
    """Credits are nested in the lines that they belong to."""

    cores = [{"key": "compute.googleapis.com/cores", "value": "1"}]  # Google sells hours of cores, not of machines

    def usage(amount: str) -> dict[str, object]:
        return {"system_labels": cores, "usage": {"amount": str(Decimal(amount) * 3600), "unit": "seconds", "amount_in_pricing_units": amount, "pricing_unit": "hour"}}  # fmt: skip

    def on(name: str) -> dict[str, object]:
        return {"resource": {"name": name.rpartition("/")[2], "global_name": name}}

    rows = [
        gcp_files.gcp(cost, f"{DAY}T{hour}:00:00Z", **on(machine), **usage("1" if cost == "2.50" else "0.25"))
        | ({"credits": [gcp_files.credit("-0.50")]} if hour == "10" else {})
        for hour, cost in HOURS
    ]
    rows.append(gcp_files.gcp("1.25", f"{DAY}T11:00:00Z", **on(other), **usage("0.5")))
    nothing = {"usage": {"amount": "1000", "unit": "requests", "amount_in_pricing_units": "1000", "pricing_unit": "count"}}
    labels = gcp_files.labels(mlflow_run_id=TAGGED)
    rows.append(gcp_files.gcp("3.00", f"{DAY}T10:00:00Z", resource={"name": None, "global_name": None}, labels=labels, **nothing))
    return nights(folder, gcp_files.write_jsonl(folder / "in" / "gcp.jsonl", rows))


AWS = ("i-0123456789abcdef0", "i-0123456789abcdef1")
GOOGLE = tuple(f"//compute.googleapis.com/projects/ml/zones/us-central1-a/instances/{n}" for n in ("4711", "4712"))
SAME: Sequence[tuple[str, Callable[[Path, str, str], Nights], tuple[str, ...]]] = (
    ("CUR 2.0", as_cur, AWS),
    ("CUR 2.0 as Parquet", as_cur_parquet, AWS),
    ("the legacy CUR", as_legacy_cur, AWS),
    ("Google's detailed export", as_gcp, GOOGLE),
)


@pytest.mark.parametrize(("write", "machines"), [(write, machines) for _, write, machines in SAME], ids=[name for name, _, _ in SAME])
def test_a_bill_by_the_hour_gives_the_same_cost_per_run_in_every_format(
    tmp_path: Path, write: Callable[[Path, str, str], Nights], machines: tuple[str, str]
) -> None:
    """The first hour costs 2.00 after its credit. Run a has half of it alone, and both share the other half.

    The second hour is b's. A quarter of the third is billed, and b has all of it.
    """
    keys = tuple(m.rpartition("/")[2] for m in machines)
    world = runs(*keys)
    costs = {}
    for name, writer in (("focus", as_focus), ("other", write)):
        bill = writer(tmp_path / name, *machines)
        bill.load()
        costs[name] = cost_of(bill, world, tmp_path / name / "warehouse")
    assert costs["focus"] == {
        "a": Decimal("1.5"), "b": Decimal("0.5") + Decimal("2.5") + Decimal("0.625"), TAGGED: Decimal(3), "c": Decimal("1.25"),
    }  # fmt: skip
    assert costs["other"] == costs["focus"]


def test_a_bill_by_the_day_gives_the_same_cost_per_run_as_azures_own_exports(tmp_path: Path) -> None:
    """A machine has six hours on one line a day, half of them under a reservation. The actual and amortized exports are loaded together."""
    machine = azure_files.VM
    own = [
        azure_files.cost("6.00", Quantity="3"),
        azure_files.cost("2.40", Quantity="3", PricingModel="Reservation"),
        azure_files.cost("3.00", Quantity="1000", UnitOfMeasure="1", ResourceId="", Tags=f'"mlflow.run_id": "{TAGGED}"'),
    ]
    amortized = [*own, azure_files.cost("0.60", Quantity="1", PricingModel="Reservation", ChargeType="UnusedReservation", ResourceId="")]
    bought = azure_files.cost("3.00", Quantity="1", PricingModel="Reservation", ChargeType="Purchase", ResourceId="")
    for name, rows in (("amortized", amortized), ("actual", [own[0], own[1] | {"CostInBillingCurrency": "0"}, own[2], bought])):
        focus_files.write_bytes(tmp_path / "azure" / "in" / name / "part.csv", azure_files.text(rows).encode())
    azure = nights(tmp_path / "azure", tmp_path / "azure" / "in", format="azure")

    day = {"ChargePeriodStart": f"{DAY}T00:00:00Z", "ChargePeriodEnd": "2026-10-06T00:00:00Z", "BillingCurrency": "EUR"}
    covered = {"BilledCost": "0", "CommitmentDiscountId": "r", "CommitmentDiscountStatus": "Used"}
    rows = [
        focus_files.row("6.00", ResourceId=machine, ConsumedQuantity="3", ConsumedUnit="Hours", SkuId="vm", **day),
        focus_files.row("2.40", ResourceId=machine, ConsumedQuantity="3", ConsumedUnit="Hours", SkuId="vm", **day) | covered,
        focus_files.row("3.00", ResourceId="", Tags=json.dumps({"mlflow.run_id": TAGGED}), **day),
        focus_files.row("0.60", ResourceId="", **day) | covered | {"CommitmentDiscountStatus": "Unused"},
        focus_files.row("3.00", ResourceId="", ChargeCategory="Purchase", **day) | {"EffectiveCost": "0"},
    ]
    header = list(dict.fromkeys(name for row in rows for name in row))
    focus = nights(tmp_path / "focus", focus_files.write_csv(tmp_path / "focus" / "in" / "focus.csv", rows, header=header))

    world: World = {"billing_loads": [], "runs": [], "run_resources": []}
    for row in (
        {"id": "a", "at": f"{DAY}T06:00:00..{DAY}T09:00:00", "on": [machine.lower()]},
        {"id": "b", "at": f"{DAY}T08:00:00..{DAY}T09:00:00", "on": [machine.lower()]},
        {"id": TAGGED, "at": f"{DAY}T10:00:00..{DAY}T10:05:00", "on": []},
    ):
        run, resources = make_run(**row)
        world["runs"].append(run)
        world["run_resources"] += resources

    found = {}
    for name, bill in (("azure", azure), ("focus", focus)):
        assert [p.state for p in bill.load().periods] == ["loaded"]
        lines = bill.lines()
        assert [sum((line[m] for line in lines), Decimal(0)) for m in ("billed_cost", "effective_cost")] == [Decimal(12), Decimal(12)]
        rows_of = run_on_duckdb({**world, "billing_lines": lines}, tmp_path / name / "warehouse")["cost_allocations"].to_pylist()
        costs: dict[str, Decimal] = defaultdict(Decimal)
        for each in rows_of:
            costs[each["run_id"] or each["allocated_to"]] += each["effective_cost"]
        found[name] = dict(costs)
    by_hand = {"a": Decimal("3.5"), "b": Decimal("0.7"), "idle": Decimal("4.2"), TAGGED: Decimal(3), "shared": Decimal("0.6")}
    assert {who: cost.quantize(Decimal("1e-15")) for who, cost in found["focus"].items()} == by_hand
    assert found["azure"] == found["focus"]
