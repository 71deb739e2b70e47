"""Splits of a machine's lines among pods and tasks: they are exact for all weights, and the right runs get the cost.

OpenCost's own weights are tested in `tests/ingest/billing/formats/test_opencost.py`.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterable, Sequence
from decimal import Decimal
from fractions import Fraction
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from runspend.config.settings import Pool, ScopeSettings
from runspend.ingest.billing.cost_splits import Weights
from tests.allocation.chain import make_run, moment, run_on_duckdb
from tests.cur_files import LINE, legacy, line, write_cur
from tests.focus_files import Nights, nights, only, row, write_csv
from tests.weights import claim, weights

COSTS = ("billed_cost", "effective_cost", "list_cost", "contracted_cost")
POD = "arn:aws:eks:us-east-1:000000000042:pod/ml/train/{0}/uid-of-{0}"
NODE = LINE["line_item_resource_id"]
SPLIT = dict.fromkeys(("split_line_item_parent_resource_id", "split_line_item_split_cost", "split_line_item_unused_cost"), "")
HOUR = {"ConsumedQuantity": "1", "ConsumedUnit": "Hours", "SkuId": "box"}
RUN = "0123456789abcdef0123456789abcdef"


def pod(name: str, split: str, unused: str, parent: str = NODE, **other: str) -> dict[str, str]:
    """Return a row of split cost allocation data."""
    return line(
        "Usage",
        "0",
        line_item_operation="EKSPod-EC2",
        line_item_resource_id=POD.format(name) if name else "",
        split_line_item_parent_resource_id=parent,
        split_line_item_split_cost=split,
        split_line_item_unused_cost=unused,
        **other,
    )


def loaded(tmp_path: Path, rows: Sequence[dict[str, str]], *claims: dict[str, Any], **rules: Any) -> Nights:
    """Load a FOCUS bill that these claims split."""
    bill = nights(tmp_path, write_csv(tmp_path / "bills" / "part.csv", rows, header=sorted({name for each in rows for name in each})))
    bill.load(weights=[weights(claims)], **rules)
    return bill


def parts(bill: Nights, by: str = "allocated_resource_name", column: str = "effective_cost") -> dict[Any, Decimal]:
    """Return the cost of each part of each resource."""
    sums: dict[Any, Decimal] = defaultdict(Decimal)
    for each in bill.lines():
        sums[each[by]] += each[column]
    return dict(sums)


# --- rows of split cost allocation -------------------------------------------------------------------------------------


@pytest.mark.parametrize("form", ["cur.csv", "cur.parquet", "legacy.csv"])
def test_split_rows_replace_their_parent_and_the_sum_is_the_bill(tmp_path: Path, form: str) -> None:
    """In every measure, A gets 4.00, B gets 6.00, the node nothing, and the sum is 10.00. A row without a parent is counted as such."""
    rows = [{**line("Usage", "10.00"), **SPLIT}, pod("a", "2.50", "1.50"), pod("b", "4.00", "2.00"), pod("", "0", "0", "")]
    if form == "legacy.csv":
        spelled = {name: "splitLineItem/" + name.removeprefix("split_line_item_").title().replace("_", "") for name in SPLIT}
        rows = [{**stated, **{spelled[name]: each[name] for name in SPLIT}} for stated, each in zip(legacy(rows), rows, strict=True)]
        bill = nights(tmp_path, write_csv(tmp_path / form, rows))
    else:
        bill = nights(tmp_path, write_cur(tmp_path / form, rows))
    reported = only(bill.load()).extra["skip_reasons"]
    assert reported["split cost allocation"] == 3 and reported["split cost allocation without a parent"] == 1
    for measure in COSTS:
        assert parts(bill, column=measure) == {"a": Decimal("4.00"), "b": Decimal("6.00")}
    assert parts(bill, "allocated_resource_id") == {POD.format("a"): 4, POD.format("b"): 6}
    assert {each["resource_id"] for each in bill.lines()} == {NODE}
    assert {each["allocated_method_id"] for each in bill.lines()} == {"aws-split-cost-allocation"}
    assert sum(each["consumed_quantity"] for each in bill.lines()) == 1


def test_cpu_and_memory_rows_of_a_pod_add_up_and_so_do_all_lines_of_the_node(tmp_path: Path) -> None:
    """A pod has two rows per hour. A node's covered line, uncovered line and discount are all split in the same way."""
    rows = [
        {**line("Usage", "6.00"), **SPLIT},
        {**line("EdpDiscount", "-1.00"), **SPLIT},
        pod("a", "1.00", "0.50"), pod("a", "0.50", "0.50"), pod("b", "1.50", "1.00"),
    ]  # fmt: skip
    bill = nights(tmp_path, write_cur(tmp_path / "cur.csv", rows))
    bill.load()
    assert sorted((each["allocated_resource_name"], each["effective_cost"]) for each in bill.lines()) == [
        ("a", Decimal("-0.50")), ("a", Decimal("3.00")), ("b", Decimal("-0.50")), ("b", Decimal("3.00")),
    ]  # fmt: skip


def test_parts_that_another_tool_allocated_total_the_same(tmp_path: Path) -> None:
    """In FOCUS 1.3, the four amounts of Allocated* rows already add up to the bill. Runspend does not split them again."""
    stated = [("a", "2.50"), ("a", "1.50"), ("b", "4.00"), ("b", "2.00")]
    rows = [
        row(
            cost,
            AllocatedMethodId="theirs",
            AllocatedResourceId=POD.format(name),
            AllocatedResourceName=name,
            AllocatedTags='{"mlflow_run_id":"r"}',
        )
        for name, cost in stated
    ]
    bill = loaded(tmp_path, rows, claim("other", "1"))
    assert bill.total() == Decimal("10.00") and len(bill.lines()) == 4
    assert parts(bill) == {"a": Decimal("4.00"), "b": Decimal("6.00")}
    assert {each["resource_key"] for each in bill.lines()} == {
        "arn:aws:eks:us-east-1:000000000042:pod/ml/train/a",
        "arn:aws:eks:us-east-1:000000000042:pod/ml/train/b",
    }


def test_split_rows_may_be_ignored(tmp_path: Path) -> None:
    """With `pods: whole`, the node keeps its line, for runs that name nodes. Changing the setting creates another version."""
    bill = nights(tmp_path, write_cur(tmp_path / "cur.csv", [{**line("Usage", "10.00"), **SPLIT}, pod("a", "10.00", "0")]), pods="whole")
    bill.load()
    assert [(each["allocated_resource_id"], each["resource_key"]) for each in bill.lines()] == [(None, NODE)]
    assert only(bill.load(source=bill.source.model_copy(update={"pods": "split"}))).state == "loaded"
    assert parts(bill) == {"a": Decimal("10.00")}


def test_rows_of_an_hour_split_that_hour_and_no_other(tmp_path: Path) -> None:
    later = {"line_item_usage_start_date": "2026-10-05T11:00:00Z", "line_item_usage_end_date": "2026-10-05T12:00:00Z"}
    rows = [{**line("Usage", "10.00"), **SPLIT}, {**line("Usage", "5.00", **later), **SPLIT}, pod("a", "9.00", "1.00")]
    bill = nights(tmp_path, write_cur(tmp_path / "cur.csv", rows))
    bill.load()
    assert parts(bill) == {"a": Decimal("10.00"), None: Decimal("5.00")}


def test_net_weights_go_with_net_costs(tmp_path: Path) -> None:
    """Under a private discount, net columns count both for costs and for weights."""
    net = {"line_item_net_unblended_cost": "8.00", "split_line_item_net_split_cost": "", "split_line_item_net_unused_cost": ""}
    zero = {"line_item_net_unblended_cost": "0"}
    rows = [
        {**line("Usage", "10.00"), **SPLIT, **net},
        {**pod("a", "5.00", "0"), **zero, "split_line_item_net_split_cost": "2.00", "split_line_item_net_unused_cost": "0"},
        {**pod("b", "5.00", "0"), **zero, "split_line_item_net_split_cost": "6.00", "split_line_item_net_unused_cost": "0"},
    ]
    rows = [{k: v for k, v in each.items() if not k.startswith(("reservation", "savings"))} for each in rows]
    bill = nights(tmp_path, write_csv(tmp_path / "cur.csv", rows))
    bill.load()
    assert parts(bill) == {"a": Decimal("2.00"), "b": Decimal("6.00")}


# --- exactly -----------------------------------------------------------------------------------------------------------

UNITS = st.integers(-(10**33), 10**33) | st.integers(-1000, 1000)
MONEY = UNITS.map(lambda units: Decimal(units).scaleb(-22))
WEIGHT = st.integers(1, 10**26).map(lambda units: Decimal(units).scaleb(-22)) | st.sampled_from(
    [Decimal("0.1"), Decimal("1e-22"), Decimal(10**9)]
)


@settings(max_examples=10)
@given(
    lines=st.lists(st.tuples(MONEY, MONEY, MONEY, MONEY), min_size=1, max_size=4),
    shares=st.dictionaries(st.text("abcdef", min_size=1, max_size=3), WEIGHT, min_size=1, max_size=6),
    idle=st.none() | WEIGHT,
    order=st.randoms(use_true_random=False),
)
def test_parts_sum_to_their_line_in_all_measures_and_no_order_matters(
    lines: list[tuple[Decimal, ...]], shares: dict[str, Decimal], idle: Decimal | None, order: Any
) -> None:
    """For any sign and size, the parts equal the line exactly and each is its share to 16 digits. The order of rows and claims does not matter."""
    names = ("BilledCost", "EffectiveCost", "ListCost", "ContractedCost")
    rows = [
        {**row(**HOUR), **{name: f"{cost:f}" for name, cost in zip(names, costs, strict=True)}, "ResourceName": f"line {n}"}
        for n, costs in enumerate(lines)
    ]
    claims = [claim(name, weight) for name, weight in shares.items()] + ([claim(None, idle)] if idle else [])
    with TemporaryDirectory() as folder:
        found = loaded(Path(folder) / "one", rows, *claims).lines()
        order.shuffle(rows)
        order.shuffle(claims)
        again = loaded(Path(folder) / "two", rows, *claims).lines()
    assert found == again
    assert len({each["line_id"] for each in found}) == len(found)
    # Without an idle claim, the part of the machine's cost that no pod has is idle.
    whole = sum(Fraction(w) for w in shares.values())
    used = Fraction(sum(costs[1] for costs in lines))
    whole += Fraction(idle) if idle else max(Fraction(0), used - whole)
    for n, costs in enumerate(lines):
        mine = [each for each in found if each["resource_name"] == f"line {n}"]
        for measure, cost in zip(COSTS, costs, strict=True):
            assert sum(Fraction(each[measure]) for each in mine) == Fraction(cost)
            if not any(costs):
                continue
            for each in mine:
                if each["allocated_resource_name"] is not None:
                    fair = Fraction(cost) * Fraction(shares[each["allocated_resource_name"]]) / whole
                    # Each weight is cut to a whole number of at least 10^17, so their sum may be off by the number of weights. Both ends of
                    # a part are then rounded to the last decimal.
                    cut = Fraction(len(claims) + 1, 10**17 - len(claims) - 1)
                    assert abs(Fraction(each[measure]) - fair) <= abs(Fraction(cost)) * cut + Fraction(2, 10**22)


def test_the_last_of_three_equal_parts_takes_the_remainder(tmp_path: Path) -> None:
    bill = loaded(tmp_path, [row("0.10")], claim("a", "7"), claim("b", "7"), claim("c", "7"))
    assert parts(bill) == {
        "a": Decimal("0.0333333333333333333333"), "b": Decimal("0.0333333333333333333333"), "c": Decimal("0.0333333333333333333334"),
    }  # fmt: skip


def test_equal_rows_give_equal_parts_with_different_ids(tmp_path: Path) -> None:
    bill = loaded(tmp_path, [row("0.05")] * 3 + [row("0.20", ResourceId="i-2")], claim("a", "1"), claim("b", "1"))
    assert len(bill.lines()) == 7 and bill.total() == Decimal("0.35")
    assert len({each["line_id"] for each in bill.lines()}) == 7


def test_digits_rounded_at_load_are_reported_once(tmp_path: Path) -> None:
    """A cost with 25 decimals is split in two. The sum of the rounded amounts is the same as without parts."""
    cost = "1.0000000000000000000001234"
    whole = loaded(tmp_path / "whole", [row(cost)])
    split = loaded(tmp_path / "split", [row(cost)], claim("a", "2"), claim("b", "1"))
    reported = [bill.rows("billing_loads")[0]["rounded_cost"] for bill in (whole, split)]
    assert len(split.lines()) == 2 and reported[0] == reported[1] == Decimal("0.0000000000000000000000").copy_abs()
    finer = "1.00000000000000000000014999"
    assert (
        loaded(tmp_path / "finer", [row(finer)] * 10**3, claim("a", "2"), claim("b", "1")).rows("billing_loads")[0]["rounded_cost"]
        == loaded(tmp_path / "as delivered", [row(finer)] * 10**3).rows("billing_loads")[0]["rounded_cost"]
        > 0
    )


# --- which lines, which time -------------------------------------------------------------------------------------------


def test_fees_taxes_unused_commitments_and_months_stay_whole(tmp_path: Path) -> None:
    rows = [
        row("1.00"),
        row("2.00", ChargeCategory="Purchase"),
        row("3.00", ChargeCategory="Tax"),
        row("4.00", CommitmentDiscountStatus="Unused", CommitmentDiscountId="sp"),
        row("5.00", ChargePeriodStart="2026-10-01T00:00:00Z", ChargePeriodEnd="2026-11-01T00:00:00Z"),
        row("6.00", ResourceId="i-2"),
        row("-7.00", ChargeCategory="Credit"),
    ]
    bill = loaded(tmp_path, rows, claim("a", "1"))
    assert parts(bill) == {"a": Decimal("-6.00"), None: Decimal("20.00")}


def test_a_pod_has_a_part_only_of_hours_in_which_it_ran(tmp_path: Path) -> None:
    """Costs of a day are spread over the hours in which the pod ran. A costs 1.00 from 10:00 to 11:00, and B 1.00 from 10:00 to 12:00."""
    rows = [
        row("3.00"),
        row("3.00", ChargePeriodStart="2026-10-05T11:00:00Z", ChargePeriodEnd="2026-10-05T12:00:00Z"),
        row("3.00", ChargePeriodStart="2026-10-05T12:00:00Z", ChargePeriodEnd="2026-10-05T13:00:00Z"),
    ]
    claims = [
        claim("a", "1.00"),
        claim("b", "1.00", "10:00..12:00"),
        claim(None, "0.50", "10:00..12:00"),
        claim(None, "0.25", "11:00..11:00"),
    ]
    bill = loaded(tmp_path, rows, *claims)
    # 10:00: a 1, b 0.5, idle 0.25. So a's part ends at 12/7 and b's at 18/7. 11:00: b 0.5, idle 0.25. 12:00: no pod, so the line is not
    # split.
    assert parts(bill) == {
        "a": Decimal("1.7142857142857142857142"),
        "b": Decimal("0.8571428571428571428572") + 2,
        None: Decimal("0.4285714285714285714286") + 1 + 3,
    }
    assert sum(each["allocated_method_id"] is None for each in bill.lines()) == 1


def test_a_pod_lives_only_while_one_of_its_name_does(tmp_path: Path) -> None:
    """A StatefulSet's pod keeps its name. Between two lives, and where its containers overlap, no time is added."""
    day = {"ChargePeriodStart": "2026-10-05T00:00:00Z", "ChargePeriodEnd": "2026-10-06T00:00:00Z", **HOUR, "ConsumedQuantity": "24"}
    claims = [claim("a", "1.00", at) for at in ("02:00..03:00", "02:30..03:30", "02:40..03:10", "20:00..21:00")]
    bill = loaded(tmp_path, [row("24.00", **day)], *claims)
    lives = {line["allocated_resource_name"]: line["billed_nanoseconds"] for line in bill.lines()}
    assert lives == {"a": int(2.5 * 3600e9), None: int(24 * 3600e9)}


def test_a_node_groups_keys_are_not_those_of_parts(tmp_path: Path) -> None:
    """The group's traffic would follow only the parts that runs state, however small a share of the machine they are."""
    bill = loaded(
        tmp_path,
        [row("10.00", Tags='{"eks:nodegroup-name":"gpu"}'), row("1.00", ResourceId="i-2", Tags='{"eks:nodegroup-name":"gpu"}')],
        claim("a", "4"),
    )
    assert {(line["node_key"], line["allocated_resource_name"]): bool(line["group_keys"]) for line in bill.lines()} == {
        ("i-1", "a"): False,
        ("i-1", None): False,
        (None, None): True,
    }


def test_a_day_line_is_split_by_the_hours_in_it(tmp_path: Path) -> None:
    day = {"ChargePeriodStart": "2026-10-05T00:00:00Z", "ChargePeriodEnd": "2026-10-06T00:00:00Z"}
    claims = [claim("a", "1.00", f"{h:02d}:00..{h:02d}:59") for h in range(12)] + [
        claim("b", "3.00", "06:00..18:00"),
        claim(None, "9.00", "00:00..23:59:59"),
    ]
    bill = loaded(tmp_path, [row("24.00", **day)], *claims)
    assert parts(bill) == {"a": Decimal("12.00"), "b": Decimal("3.00"), None: Decimal("9.00")}


def test_the_bills_own_weights_come_before_others(tmp_path: Path) -> None:
    rows = [{**line("Usage", "10.00"), **SPLIT}, pod("a", "9.00", "1.00")]
    bill = nights(tmp_path, write_cur(tmp_path / "cur.csv", rows))
    bill.load(weights=[weights([claim("b", "1", on=NODE)])])
    assert parts(bill) == {"a": Decimal("10.00")}


def test_machines_are_found_by_id_scale_set_and_name(tmp_path: Path) -> None:
    """Kubernetes names them aws:///, azure:/// (where the bill names the scale set), or by a Compute Engine name."""
    vmss = "/subscriptions/s/resourceGroups/g/providers/Microsoft.Compute/virtualMachineScaleSets/aks-pool-vmss"
    rows = [
        row("1.00", ResourceId="arn:aws:ec2:eu-west-1:1:instance/i-0abcdef0123456789"),
        row("2.00", ResourceId=vmss),
        row("3.00", ResourceId="//compute.googleapis.com/projects/p/zones/z/instances/123", ResourceName="gke-n1"),
        row("4.00", ResourceId="i-0000000000000000f"),
    ]
    claims = [
        claim("aws", "9", on="aws:///eu-west-1a/i-0abcdef0123456789"),
        claim("one", "1", on=f"azure://{vmss}/virtualMachines/11"), claim("two", "3", on=f"azure://{vmss}/virtualMachines/12"),
        claim("gcp", "9", on="gke-n1", resource_name="gke-n1"),
        claim("elsewhere", "9", on="i-0000000000000000e"),
    ]  # fmt: skip
    bill = nights(tmp_path, write_csv(tmp_path / "part.csv", rows, header=[*rows[0], "ResourceName"]))
    reported = bill.load(weights=[weights(claims)]).extra["warnings"]
    assert parts(bill) == {"aws": 1, "one": Decimal("0.50"), "two": Decimal("1.50"), "gcp": 3, None: 4}
    assert reported["machines_with_weights_that_are_not_on_the_bill"] == 1


def test_a_disk_is_split_with_the_machine_that_it_names(tmp_path: Path) -> None:
    """Not if the machine has no line for the disk's window: how much of it no pod had is then unknown."""
    disk = {"ServiceCategory": "Storage", "ResourceId": "vol-1", "ConsumedUnit": "GB-Month", "Tags": '{"instance_id":"i-1"}'}
    day = {"ChargePeriodStart": "2026-10-05T00:00:00Z", "ChargePeriodEnd": "2026-10-06T00:00:00Z"}
    bill = loaded(tmp_path, [row("10.00"), row("1.00", **disk), row("7.00", **disk, **day)], claim("a", "4"))
    columns = ("resource_id", "node_key", "allocated_resource_name", "attached_to", "billed_cost")
    assert {tuple(line[column] for column in columns) for line in bill.lines()} == {
        ("i-1", "i-1", "a", None, Decimal("4.00")),
        ("i-1", "i-1", None, None, Decimal("6.00")),
        ("vol-1", "i-1", "a", None, Decimal("0.40")),
        ("vol-1", "i-1", None, "i-1", Decimal("0.60")),
        ("vol-1", None, None, "i-1", Decimal("7.00")),
    }


def test_a_disk_is_split_where_the_weights_call_its_machine_by_a_name(tmp_path: Path) -> None:
    """Of an instance of Google, OpenCost states only the name. The disk states its path."""
    instance = "//compute.googleapis.com/projects/p/zones/z/instances/gke-1"
    disk = {"ServiceCategory": "Storage", "ResourceId": "disk-1", "Tags": json.dumps({"instance_id": instance})}
    bill = loaded(tmp_path, [row("10.00", ResourceId=instance), row("1.00", **disk)], claim("a", "4", on="gke-1"))
    assert parts(bill) == {"a": Decimal("4.40"), None: Decimal("6.60")}


def test_the_pods_of_a_machine_split_that_machine_of_its_scale_set(tmp_path: Path) -> None:
    vmss = "/subscriptions/s/resourceGroups/g/providers/Microsoft.Compute/virtualMachineScaleSets/aks-pool-vmss"
    rows = [row("4.00", ResourceId=vmss, x_SkuDetails=f'{{"VMName":"aks-pool-vmss_{number}"}}') for number in (11, 12)]
    claims = [claim("one", "1", on=f"azure://{vmss}/virtualMachines/11"), claim("two", "3", on=f"azure://{vmss}/virtualMachines/12")]
    bill = nights(tmp_path, write_csv(tmp_path / "part.csv", rows, header=list(rows[0])))
    bill.load(weights=[weights(claims)])
    assert parts(bill) == {"one": 1, "two": 3, None: 4}


def test_an_instance_is_found_by_its_name_if_no_other_has_it(tmp_path: Path) -> None:
    """OpenCost states only the name. If instances of two projects have the same name, Runspend matches neither."""
    place = "//compute.googleapis.com/projects/{}/zones/z/instances/{}"
    rows = [
        row("1.00", ResourceId=place.format("p", "gke-1")),
        row("2.00", ResourceId=place.format("p", "gke-2")),
        row("4.00", ResourceId=place.format("q", "gke-2")),
    ]
    claims = [claim("one", "9", on="gke-1"), claim("two", "9", on="gke-2"), claim("whole", "9", on="gce://q/z/gke-2")]
    assert parts(loaded(tmp_path, rows, *claims)) == {"one": 1, "whole": 4, None: 2}


# --- versions ----------------------------------------------------------------------------------------------------------


def test_weights_are_part_of_the_version_of_the_periods_they_reach(tmp_path: Path) -> None:
    """Loading the same weights again changes nothing.

    Other weights create another version of the bill. Weights of an unrelated month have no effect.
    """
    bill = nights(tmp_path, write_csv(tmp_path / "bills" / "part.csv", [row("10.00")]))

    def night(*claims: dict[str, Any], **stated: Any) -> Any:
        return only(bill.load(weights=[weights(claims, **stated)]))

    first = night(claim("a", "4"), claim("b", "6"))
    assert night(claim("b", "6"), claim("a", "4")).state == "unchanged"
    assert night(claim("a", "4"), claim("b", "6"), claim("c", "1", "2026-12-05T10:00..2026-12-05T11:00")).state == "unchanged"
    second = night(claim("a", "6"), claim("b", "4"))
    assert (second.state, parts(bill)) == ("loaded", {"a": Decimal("6.00"), "b": Decimal("4.00")})
    assert first.extra["bill_digest"] == second.extra["bill_digest"]
    assert night(claim("a", "6"), claim("b", "4"), idle="share").state == "loaded"
    last = only(bill.load())
    assert (last.state, len(bill.lines()), last.extra["bill_digest"]) == ("loaded", 1, first.extra["bill_digest"])


def test_a_late_correction_is_split_by_the_month_before_and_no_older_one(tmp_path: Path) -> None:
    """Weights count within a month of the billing period, because its version depends on them."""
    september = {"ChargePeriodStart": "2026-09-05T10:00:00Z", "ChargePeriodEnd": "2026-09-05T11:00:00Z"}
    june = {"ChargePeriodStart": "2026-06-05T10:00:00Z", "ChargePeriodEnd": "2026-06-05T11:00:00Z"}
    claims = [claim("a", "1", f"2026-0{m}-05T10:00:00..2026-0{m}-05T11:00:00") for m in (6, 9)]
    bill = loaded(tmp_path, [row("-1.00", ChargeClass="Correction", **september), row("-2.00", ChargeClass="Correction", **june)], *claims)
    assert parts(bill) == {"a": Decimal("-1.00"), None: Decimal("-2.00")}


def test_changed_split_rows_change_the_digest_of_the_bill(tmp_path: Path) -> None:
    digests = []
    for n, (a, b) in enumerate([("4.00", "6.00"), ("6.00", "4.00")]):
        bill = nights(
            tmp_path / str(n),
            write_cur(tmp_path / str(n) / "cur.csv", [{**line("Usage", "10.00"), **SPLIT}, pod("a", a, "0"), pod("b", b, "0")]),
        )
        digests.append(only(bill.load()).extra["bill_digest"])
    assert digests[0] != digests[1]


def test_each_version_of_a_bill_is_split_by_its_own_rows(tmp_path: Path) -> None:
    """With `delivery: versions`, split rows of the older file do not count for lines of the newer file."""
    for n, (a, b) in enumerate([("9.00", "1.00"), ("5.00", "5.00")]):
        rows = [{**line("Usage", "10.00"), **SPLIT}, pod("a", a, "0"), pod("b", b, "0")]
        write_csv(tmp_path / "bills" / f"{n}.csv", rows, at=moment(f"2026-11-0{n + 1}T00:00:00"))
    bill = nights(tmp_path, tmp_path / "bills", delivery="versions")
    bill.load()
    assert parts(bill) == {"a": Decimal("5.00"), "b": Decimal("5.00")}


# --- who pays ----------------------------------------------------------------------------------------------------------


def allocations(folder: Path, bill: Nights, *runs: dict[str, Any]) -> list[dict[str, Any]]:
    """Run the ledger's models over the lines, and return `cost_allocations`."""
    world: dict[str, Any] = {"billing_lines": bill.lines(), "runs": [], "run_resources": []}
    for stated in runs:
        run, resources = make_run(**stated)
        world["runs"].append(run)
        world["run_resources"] += resources
    rows: list[dict[str, Any]] = run_on_duckdb(world, folder / "warehouse")["cost_allocations"].to_pylist()
    return rows


def sums(rows: Iterable[dict[str, Any]]) -> dict[tuple[str, str, str], Decimal]:
    """Return (run or bucket, rule, reason) -> effective cost."""
    found: dict[tuple[str, str, str], Decimal] = defaultdict(Decimal)
    for each in rows:
        found[each["run_id"] or each["allocated_to"], each["match_method"], each["reason"] or ""] += each["effective_cost"]
    return dict(found)


def ledger(folder: Path, bill: Nights, *runs: dict[str, Any]) -> dict[tuple[str, str, str], Decimal]:
    """Run the ledger's models over the lines, and return the sums."""
    return sums(allocations(folder, bill, *runs))


ALL = ScopeSettings(include=[{"account": ["*"]}])
AT = "2026-10-05T10:00:00..2026-10-05T11:00:00"
CLAIMS = (claim("a", "4.00", part_tags=json.dumps({"mlflow_run_id": RUN})), claim("b", "3.00"), claim(None, "3.00"))


def test_a_labeled_pod_pays_its_part_and_not_that_of_another_pod(tmp_path: Path) -> None:
    """Pod a's run pays exactly 4.00. The node's run does not pay for pod b, but for the node's idle time. The sum is 10.00."""
    bill = loaded(tmp_path, [row("10.00", **HOUR, Tags='{"eks:nodegroup-name":"gpu"}')], *CLAIMS, scope=ALL)
    on_node = {"id": "c" * 32, "at": "2026-10-05T10:00:00..2026-10-05T10:30:00", "on": ["i-1"]}
    assert ledger(tmp_path, bill, {"id": RUN, "at": AT, "on": []}, on_node) == {
        (RUN, "run_tag", ""): Decimal("4.00"),
        ("unallocated", "none", "no_run"): Decimal("3.00"),
        ("c" * 32, "resource_id", ""): Decimal("1.50"),
        ("idle", "resource_id", "no_run"): Decimal("1.50"),
    }


def test_without_a_scope_a_pod_without_an_owner_is_not_platform_cost(tmp_path: Path) -> None:
    bill = loaded(tmp_path, [row("10.00", **HOUR)], *CLAIMS)
    found = ledger(tmp_path, bill, {"id": RUN, "at": AT, "on": []}, {"id": "c" * 32, "at": AT, "on": ["i-1"]})
    assert found[(RUN, "run_tag", "")] == 4 and found[("c" * 32, "resource_id", "")] == 3
    assert sum(cost for (target, _, _), cost in found.items() if target == "out_of_scope") == 3


def test_a_run_may_name_its_pod(tmp_path: Path) -> None:
    """A run states NAMESPACE/NAME. The pod and the run exist for the same half of the line's hour, so none of the line is idle."""
    claims = [claim("b", "3.00", "10:00..10:30"), claim(None, "7.00")]
    bill = loaded(tmp_path, [row("10.00", **HOUR)], *claims, scope=ALL)
    run = {"id": RUN, "at": "2026-10-05T10:00:00..2026-10-05T10:30:00", "on": ["ml/b"]}
    assert ledger(tmp_path, bill, run) == {(RUN, "resource_id", ""): Decimal("3.00"), ("unallocated", "none", "no_run"): Decimal("7.00")}


NODES = {  # lines of a node in its account, and what the run on pod a pays
    "one line": ([{}], "6.00"),
    "partly committed: two lines of one SKU": ([{"line_item_usage_amount": "0.1"}, {"line_item_usage_amount": "0.15"}], "6.00"),
    "the largest SKU is the machine": ([{}, {"line_item_usage_amount": "0.1", "product_sku": "license"}], "6.00"),
    "a whole hour": ([{"line_item_usage_amount": "1"}], "1.50"),
    "vCPU-Hours are not a time, so the whole hour counts": ([{"pricing_unit": "vCPU-Hours"}], "1.50"),
}  # fmt: skip


@pytest.fixture(scope="module")
def paid_on_nodes(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[tuple[str, str, str], Decimal]]:
    """The ledger of each of NODES: one bill with a node, two pods and a run in the account of each."""
    rows: list[dict[str, str]] = []
    runs = []
    for n, (name, (lines, _)) in enumerate(NODES.items()):
        node = {"line_item_resource_id": f"i-{n:017x}", "line_item_usage_account_id": name}
        cost = str(Decimal("8.00") / len(lines))
        rows += ({**line("Usage", cost, line_item_usage_amount="0.25"), **SPLIT, **node, **each} for each in lines)
        rows += (
            pod(f"{pod_name}{n}", part, "0", node["line_item_resource_id"], line_item_usage_account_id=name)
            for pod_name, part in (("a", "6.00"), ("b", "2.00"))
        )
        runs.append({"id": f"{n:032x}", "at": "2026-10-05T10:45:00..2026-10-05T11:00:00", "on": [f"train/a{n}"]})
    folder = tmp_path_factory.mktemp("nodes")
    bill = nights(folder, write_cur(folder / "cur.csv", rows))
    bill.load(scope=ALL)
    return {name: sums(each for each in allocations(folder, bill, *runs) if each["sub_account_id"] == name) for name in NODES}


@pytest.mark.parametrize("name", NODES)
def test_a_pod_lives_no_longer_than_its_node_was_billed(paid_on_nodes: dict[str, dict[tuple[str, str, str], Decimal]], name: str) -> None:
    """The node is billed 8.00 for a quarter of an hour, and the pod's part is 6.00. A run used the pod for the last quarter of the hour."""
    found, paid = dict(paid_on_nodes[name]), Decimal(NODES[name][1])
    assert found.pop((f"{list(NODES).index(name):032x}", "resource_id", "")) == paid
    assert found.pop(("idle", "resource_id", "no_run"), 0) == 6 - paid
    assert found == {("unallocated", "none", "no_run"): Decimal("2.00")}


def test_parts_in_a_pool_are_as_many_machines_as_were_billed(tmp_path: Path) -> None:
    """For the pool, two nodes of three parts each are two machines. A run that had one of them gets half."""
    pools = [Pool.model_validate({"name": "gpu", "runs": {"tracking": "prod"}, "lines": {"resource": "i-*"}})]
    claims = [claim(name, "1.00", on=f"i-{node}") for node in (1, 2) for name in (f"x{node}", f"y{node}")]
    claims += [claim(None, "1.00", on=f"i-{node}") for node in (1, 2)]
    rows = [row("10.00", **HOUR, ResourceId=f"i-{node}", ServiceCategory="Compute") for node in (1, 2)]
    bill = loaded(tmp_path, rows, *claims, pools=pools, scope=ALL)
    assert len(bill.lines()) == 6
    found = ledger(tmp_path, bill, {"id": RUN, "at": AT, "on": [], "pool_key": "gpu"})
    assert {key: round(cost, 12) for key, cost in found.items()} == {
        (RUN, "pool_time", ""): Decimal("10.000000000000"), ("idle", "pool_time", "no_run"): Decimal("10.000000000000"),
    }  # fmt: skip


def test_a_pod_is_not_a_machine_of_the_nodes_type(tmp_path: Path) -> None:
    """Prices and claims of an instance type are for whole machines."""
    bill = loaded(
        tmp_path,
        [row("10.00", **HOUR, x_InstanceType="p4d.24xlarge"), row("1.00", ResourceId="i-2", x_InstanceType="p4d.24xlarge")],
        *CLAIMS,
    )
    assert {(each["allocated_method_id"], each["instance_type"], each["machine_gpus"]) for each in bill.lines()} == {
        ("opencost", None, None), ("opencost", None, 8), (None, "p4d.24xlarge", 8),
    }  # fmt: skip
    named = {(each["node_key"], each["node_instance_type"], each["node_gpus"]) for each in bill.lines() if each["allocated_method_id"]}
    assert named == {("i-1", "p4d.24xlarge", 8)}
    assert {each["node_key"] for each in bill.lines() if not each["allocated_method_id"]} == {None}


def test_a_source_of_weights_without_claims_changes_nothing(tmp_path: Path) -> None:
    """A source without claims does not change the bill."""
    bill = nights(tmp_path, write_csv(tmp_path / "part.csv", [row("10.00")]))
    empty: Weights = weights([])
    bill.load(weights=[empty])
    assert len(bill.lines()) == 1
