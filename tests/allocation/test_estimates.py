"""Estimates of hours that no bill reaches yet.

Each situation gives the expected rows, equal on both engines. Once the bill is there, they equal the ledger's split.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Mapping, Sequence
from decimal import Decimal
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from runspend.allocation.estimates import CHECKS, UNIT, estimate_models, estimate_parameters
from runspend.core.errors import CheckFailed
from runspend.schema.tables import TABLES
from runspend.warehouse.base import Unit
from runspend.warehouse.parquet.engine import narrow
from runspend.warehouse.parquet.warehouse import ParquetWarehouse
from runspend.warehouse.sql_files import read_sql
from tests.allocation.chain import DAY, FILLED, PACKAGE, arrow, line, make_run, moment, query_reference, run_on_duckdb
from tests.allocation.test_reference import multiset
from tests.allocation.truth import random_world
from tests.reference import GoogleSQL, exact_rows

World = dict[str, list[dict[str, Any]]]
MONTH = f"{DAY:%Y-%m}"
STANDING = ("price_list", "trace_costs", "cost_allocations", "run_estimates", "estimate_errors")


def world_of(lines: Sequence[Mapping[str, Any]] = (), runs: Sequence[Mapping[str, Any]] = (), **tables: list[dict[str, Any]]) -> World:
    """Make a world of rows named as in the ledger's cases. `instance_type`, `region_id` and the like are columns of a line."""
    world: World = {name: [] for name in ("billing_lines", "runs", "run_resources", *STANDING)} | tables
    world["billing_lines"] = [line(n, **row) for n, row in enumerate(lines)]
    for row in runs:
        run, resources = make_run(**row)
        world["runs"].append(run)
        world["run_resources"] += resources
    return world


def units_of(table: str, rows: Sequence[dict[str, Any]]) -> dict[tuple[str, str], list[dict[str, Any]]]:
    """Return rows by (period, writer)."""
    found: dict[tuple[str, str], list[dict[str, Any]]] = {}
    column = TABLES[table].period_column
    for row in rows:
        period = f"{row[column]:%Y-%m}" if column else "all"
        writer = (
            row["source"]
            if table == "billing_lines"
            else row["tracking_server"]
            if table in ("runs", "run_resources", "trace_costs")
            else "all"
        )
        found.setdefault((period, writer), []).append(row)
    return found


def estimate(world: World, root: Path, now: str, *, names: Sequence[str] = ()) -> dict[str, pa.Table]:
    """Run the step as the product does."""
    warehouse = ParquetWarehouse(root)
    with warehouse.step("inputs", "inputs") as step:
        for table, rows in world.items():
            for (period, writer), part in units_of(table, rows).items():
                step.put(table, period, writer, arrow(table, part))
        assert step.publish()
    parameters = estimate_parameters(moment(now))
    with warehouse.step("estimate", "build") as step:
        step.run(estimate_models(), parameters, keep=names)
        step.check(CHECKS, parameters)
        found = {name: narrow(step.connection.sql(f"select * from {name}").to_arrow_table()) for name in names}
        assert step.publish()
    return found | {name: warehouse.read(Unit(name, *UNIT)) for name in ("run_estimates", "estimate_errors")}


def figures(world: World, root: Path, now: str = "06:00") -> dict[tuple[str, str], Decimal | str]:
    """Return, by (run, first hour), the effective cost or the reason why there is none."""
    rows = estimate(world, root, now)["run_estimates"].to_pylist()
    return {(r["run_id"], f"{r['estimated_from']:%H:%M}"): r["effective_cost"] if r["reason"] is None else r["reason"] for r in rows}


def hours(first: int, last: int, **line: Any) -> list[dict[str, Any]]:
    """Make a line for each hour of the day from `first` to before `last`."""
    return [{"at": f"{h:02d}:00..{h + 1:02d}:00", **line} for h in range(first, last)]


def test_hours_after_the_bill_are_estimated_at_its_price(tmp_path: Path) -> None:
    """Runs on one machine share its hours by exclusive time. Hours that the bill reaches are not estimated, nor is the unfinished hour."""
    world = world_of(
        hours(0, 2, cost="12.00"), [{"id": "A", "at": "00:00..04:00"}, {"id": "B", "at": "03:00..03:30"}, {"id": "C", "at": "05:30"}]
    )
    assert figures(world, tmp_path, "05:59") == {("A", "02:00"): 12, ("A", "03:00"): 9, ("B", "03:00"): 3}


def test_a_machine_is_priced_by_its_name_on_the_bill(tmp_path: Path) -> None:
    """A run states only a part of the name. If two machines have that part, both are estimated, with less confidence."""
    place = "projects/{}/zones/us-central1-a/instances/{}"
    lines = [row for p, name in (("p", "one"), ("p", "two"), ("q", "two")) for row in hours(0, 1, cost="12.00", on=place.format(p, name))]
    world = world_of(lines, [{"id": "A", "at": "00:00..02:00", "on": ["one"]}, {"id": "B", "at": "00:00..02:00", "on": ["two"]}])
    rows = estimate(world, tmp_path, "02:00")["run_estimates"].to_pylist()
    found = sorted((r["run_id"], r["resource_key"], r["effective_cost"], r["confidence"]) for r in rows)
    assert found == [
        ("A", place.format("p", "one"), 12, "high"),
        ("B", place.format("p", "two"), 12, "medium"),
        ("B", place.format("q", "two"), 12, "medium"),
    ]


def test_a_name_in_two_regions_lowers_the_confidence(tmp_path: Path) -> None:
    """Two clusters named `prod` have a pod of one name, as in the ledger. A line without billed time does not show where a machine is."""
    pod, other = "k8s://prod/ns/train-0", "k8s://prod/ns/train-1"
    lines = [
        *hours(0, 1, cost="12.00", hours=1, on=pod, region_id="eu"),
        *hours(0, 1, cost="8.00", hours=1, on=pod, region_id="us"),
        *hours(0, 1, cost="12.00", hours=1, on=other, region_id="eu"),
        *hours(0, 1, cost="1.00", on=other, region_id="global", service_category="Networking"),
    ]
    world = world_of(lines, [{"id": "A", "at": "00:00..02:00", "on": [pod]}, {"id": "B", "at": "00:00..02:00", "on": [other]}])
    rows = estimate(world, tmp_path, "02:00")["run_estimates"].to_pylist()
    assert {(r["run_id"], r["confidence"]) for r in rows} == {("A", "medium"), ("B", "high")}


def test_a_run_is_shown_with_what_it_was_estimated_from(tmp_path: Path) -> None:
    """It has the window, machine, account, type, origin of the price and all four measures, but nothing that only a bill can tell."""
    lines = hours(
        0,
        1,
        cost="4.00",
        list_cost=Decimal(8),
        billed_cost=Decimal(0),
        instance_type="P4d.24xlarge",
        region_id="eu",
        resource_id="arn:m1",
        on="m1",
    )
    for row in lines:
        row["resource_key"] = "m1"
    row = estimate(world_of(lines, [{"id": "A", "at": "00:00..02:00", "user_name": "ana"}]), tmp_path, "02:00")[
        "run_estimates"
    ].to_pylist()[0]
    assert (row["list_cost"], row["contracted_cost"], row["effective_cost"], row["billed_cost"]) == (8, 4, 4, 0)
    assert (row["source"], row["sub_account_id"], row["resource_id"], row["resource_key"]) == ("aws", "account", "arn:m1", "m1")
    assert (row["instance_type"], row["region_id"], row["price_from"], row["confidence"], row["cost_status"]) == (
        "p4d.24xlarge",
        "eu",
        "bill",
        "high",
        "estimated",
    )
    assert (row["estimated_from"], row["estimated_to"], row["charge_date"], row["billing_period"]) == (
        moment("01:00"),
        moment("02:00"),
        DAY,
        DAY,
    )
    assert (row["machine_seconds"], row["unused_cost"], row["user_name"]) == (3600, None, "ana")


def test_the_price_is_the_median_for_type_region_and_purchase_option(tmp_path: Path) -> None:
    """Machines that no run states count too. Spot machines have their own price. Of two middle prices, the lower counts."""
    box = {"instance_type": "big", "region_id": "eu", "pricing_category": "Standard"}
    lines = [
        *hours(0, 2, cost="5.00", **box),
        *hours(0, 1, cost="9.00", on="other", **box),
        *hours(1, 2, cost="2.00", on="other", **box),
        *hours(0, 2, cost="70", on="far", **{**box, "region_id": "us"}),
        *hours(0, 2, cost="1.50", on="spot", **{**box, "pricing_category": "Dynamic"}),
        *hours(1, 2, cost="3.50", on="spot2", **{**box, "pricing_category": "Dynamic"}),
        {"at": "01:00..02:00", "cost": "100", "charge_category": "Tax", **box},
        {"at": "01:00..02:00", "cost": "100", "charge_class": "Correction", **box},
    ]
    world = world_of(lines, [{"id": "A", "at": "02:00..03:00"}, {"id": "B", "at": "02:00..03:00", "on": ["spot"]}])
    assert figures(world, tmp_path) == {("A", "02:00"): 5, ("B", "02:00"): Decimal("1.5")}


def test_the_price_is_by_billed_time_and_all_lines_of_the_window(tmp_path: Path) -> None:
    """A quarter of an hour for 2.50, with a license of 0.50 and a credit of -1.00, costs 8.00 an hour."""
    lines = [{"hours": 0.25, "cost": "2.50"}, {"cost": "0.50", "sku_id": "licence"}, {"cost": "-1.00", "charge_category": "Credit"}]
    assert figures(world_of(lines, [{"id": "A", "at": "01:00..02:00"}]), tmp_path) == {("A", "01:00"): 8}


def test_the_price_of_several_machines_on_one_line_is_that_of_one(tmp_path: Path) -> None:
    """A scale set bills four hours in one, for 8.00. Up to 5% more than the hour is rounding."""
    box = {"instance_type": "big", "region_id": "eu"}
    runs = [{"id": "A", "at": "01:00..02:00", "on": [], "instance_type": "big"}]
    assert figures(world_of([{"hours": 4, "cost": "8.00", "on": "set", **box}], runs), tmp_path / "set") == {("A", "01:00"): 2}
    assert figures(world_of([{"hours": 1.04, "cost": "8.00", "on": "box", **box}], runs), tmp_path / "box") == {("A", "01:00"): 8}


def test_old_prices_are_forgotten(tmp_path: Path) -> None:
    """Prices of lines that end more than 30 days before the bill's end do not count."""
    lines = [{"at": "2026-08-31T01:00:00..2026-08-31T02:00:00", "period": "2026-08", "cost": 1}, {"at": "01:00..02:00", "cost": 6}]
    assert figures(world_of(lines, [{"id": "A", "at": "02:00..03:00"}]), tmp_path) == {("A", "02:00"): 6}


def test_each_account_reaches_as_far_as_its_own_machines_do(tmp_path: Path) -> None:
    """One account is billed to 04:00, the other to 02:00. A machine that ended early is not estimated while its account is billed."""
    lines = [*hours(0, 4, on="m1"), *hours(0, 2, on="m2", sub_account_id="late"), *hours(0, 1, on="m3")]
    runs = [{"id": name, "at": "00:00..05:00", "on": [machine]} for name, machine in (("A", "m1"), ("B", "m2"), ("C", "m3"))]
    assert sorted(figures(world_of(lines, runs), tmp_path)) == [
        ("A", "04:00"),
        ("B", "02:00"),
        ("B", "03:00"),
        ("B", "04:00"),
        ("C", "04:00"),
    ]


@pytest.mark.parametrize("stated", ["type", "unknown machine"])
def test_hours_of_the_ledger_are_not_estimated_where_another_account_has_stopped(tmp_path: Path, stated: str) -> None:
    """One account used the type to 01:00, the other to 04:00.

    The hours of a family begin where the ledger ends, because its members share a claim.
    """
    box = {"instance_type": "box", "hours": 1, "cost": "10.00"}
    lines = [*hours(0, 1, on="m1", sub_account_id="stopped", **box), *hours(0, 4, on="m2", **box)]
    on = ["nowhere"] if stated == "unknown machine" else []
    runs = [
        {"id": "A", "at": "00:00..05:00", "on": on, "instance_type": "box"},
        {"id": "C", "at": "00:00..03:00", "on": [], "parent": "A"},
        {"id": "N", "at": "03:00..05:00", "on": [], "instance_type": "box"},
    ]
    ledger = [
        charge(
            at=row["at"], cost="10", run_id="C" if n < 3 else "A", match_method="instance_type_time", resource_id=None, cost_kind="compute"
        )
        for n, row in enumerate(hours(0, 4))
    ]
    found = figures(world_of(lines, runs, cost_allocations=ledger), tmp_path, "05:00")
    assert sorted(found) == [("A", "04:00"), ("N", "03:00"), ("N", "04:00")]


def test_estimates_begin_where_the_ledger_ends_within_an_hour(tmp_path: Path) -> None:
    """A job's last line ends at 01:15. The rest of that hour is estimated, and its row does not reach into the ledger's."""
    box = {"instance_type": "box", "hours": 1, "cost": "10.00"}
    lines = [*hours(0, 1, on="m1", sub_account_id="behind", **box), *hours(0, 2, on="m2", **box)]
    runs = [{"id": "A", "at": "00:00..02:00", "on": [], "instance_type": "box"}]
    by_job = {"match_method": "job_id", "resource_id": "m9", "cost_kind": "compute"}
    ledger = [charge(at="00:00..01:00", cost="10", **by_job), charge(at="01:00..01:15", cost="2.5", **by_job)]
    (row,) = estimate(world_of(lines, runs, cost_allocations=ledger), tmp_path, "02:00")["run_estimates"].to_pylist()
    assert (row["estimated_from"], row["estimated_to"], row["effective_cost"]) == (moment("01:15"), moment("02:00"), Decimal("7.5"))


def test_a_run_that_only_tags_name_is_open_after_its_tagged_hours(tmp_path: Path) -> None:
    """No run states a machine, so only the ledger shows how far this run is billed."""
    lines = hours(0, 2, on="m1", hours=1, run_tag="A")
    ledger = [charge(at="00:00..02:00", cost="20", match_method="run_tag", cost_kind="compute")]
    world = world_of(lines, [{"id": "A", "at": "00:00..03:00", "on": []}], cost_allocations=ledger)
    assert figures(world, tmp_path, "03:00") == {("A", "02:00"): "no_machine"}


def test_a_family_is_open_where_another_bill_ends(tmp_path: Path) -> None:
    """One trial is billed by its job, on a bill that reaches far. The other asks for a type that only a slower bill has."""
    lines = [
        *hours(0, 1, on="m1", instance_type="box", hours=1, cost="10.00", source="slow"),
        *hours(0, 4, on="m2", instance_type="other", hours=1),
    ]
    runs = [
        {"id": "P", "at": "00:00..04:00", "on": []},
        {"id": "A", "at": "00:00..04:00", "on": [], "parent": "P", "job_key": "job"},
        {"id": "B", "at": "00:00..02:00", "on": [], "parent": "P", "instance_type": "box"},
        {"id": "X", "at": "00:00..01:00", "on": ["m2"]},
    ]
    ledger = [
        charge(at="00:00..04:00", cost="40", run_id="A", match_method="job_id", cost_kind="compute"),
        charge(at="00:00..01:00", cost="10", run_id="B", source="slow", match_method="instance_type_time", cost_kind="compute"),
    ]
    found = figures(world_of(lines, runs, cost_allocations=ledger), tmp_path, "04:00")
    assert found == {("B", "01:00"): 10}


def test_ledger_costs_are_compared_with_estimates_before_the_account_is_billed(tmp_path: Path) -> None:
    """Another account, which is behind, decides how far the type is billed."""
    box = {"instance_type": "box", "hours": 1, "cost": "10.00"}
    lines = [*hours(0, 1, on="m1", sub_account_id="behind", **box), *hours(0, 3, on="m2", **box)]
    before = [estimated("02:00..03:00", "8", resource_key="", sub_account_id=None, instance_type="box")]
    ledger = [charge(at="02:00..03:00", cost="10", match_method="instance_type_time", cost_kind="compute")]
    world = world_of(
        lines, [{"id": "A", "at": "02:00..03:00", "on": [], "instance_type": "box"}], run_estimates=before, cost_allocations=ledger
    )
    found = estimate(world, tmp_path, "03:00")
    assert found["run_estimates"].num_rows == 0
    (row,) = found["estimate_errors"].to_pylist()
    assert (row["estimated_cost"], row["actual_cost"]) == (8, 10)


def test_an_account_that_is_three_days_behind_its_bill_has_stopped(tmp_path: Path) -> None:
    """By then, the bill would show its machines, so runs that got none have used none."""
    box = {"instance_type": "box", "hours": 1, "cost": "10.00"}
    lines = [*hours(0, 1, on="m1", **box), {"at": "95:00..96:00", "on": "db", "sub_account_id": "web", "service_category": "Databases"}]
    runs = [{"id": "A", "at": "20:00..26:00", "on": [], "instance_type": "box"}]
    assert sorted(figures(world_of(lines, runs), tmp_path, "96:00")) == [("A", "00:00"), ("A", "01:00")]  # hours of the next day


def test_the_rest_of_an_hour_is_estimated_if_the_bill_ends_within_it(tmp_path: Path) -> None:
    """The rest of the hour is estimated at its part of the price."""
    world = world_of([{"at": "00:00..01:15", "cost": "10.00"}], [{"id": "A", "at": "01:00..02:00"}])
    assert figures(world, tmp_path) == {("A", "01:15"): 6}


def test_runs_without_an_end_are_estimated_to_their_last_sign_of_life(tmp_path: Path) -> None:
    """A run is alive if it showed a sign in the last six hours.

    A dead run ends at its last sign, and a silent run a day after its start.
    """
    lines = [{"at": f"{h:02d}:00..{h + 1:02d}:00", "on": m} for h in (0,) for m in ("m1", "m2", "m3", "m4")]
    runs = [
        {"id": "alive", "at": "00:00", "last_sign": "24:30", "on": ["m1"]},
        {"id": "dead", "at": "00:00", "last_sign": "02:00", "on": ["m2"]},
        {"id": "silent", "at": "00:00", "on": ["m3"]},
        {"id": "new", "at": "26:00", "on": ["m4"]},
    ]
    rows = estimate(world_of(lines, runs), tmp_path, "30:00")["run_estimates"].to_pylist()
    last = {r["run_id"]: max(x["estimated_to"] for x in rows if x["run_id"] == r["run_id"]) for r in rows}
    assert last == {"alive": moment("30:00"), "dead": moment("02:00"), "silent": moment("24:00"), "new": moment("30:00")}


def test_a_machine_that_no_bill_has_is_priced_by_its_type(tmp_path: Path) -> None:
    """The price is that of the one bill that has the type, else that of the price list, the most specific first.

    Without a price, the row says why.
    """
    lines = [
        *hours(0, 2, cost="5.00", instance_type="big"),
        *hours(0, 3, cost="7.00", on="b", instance_type="shared-type"),
        *hours(0, 3, cost="8.00", on="c", instance_type="shared-type", source="gcp", sub_account_id="g"),
    ]
    asks = {"A": ("new-1", "Big"), "B": ("new-2", "shared-type"), "C": ("new-3", "listed"), "D": ("new-4", "strange"), "E": ("new-5", None)}
    runs = [
        {"id": "X", "at": "00:00..01:00"},
        *({"id": k, "at": "01:00..04:00", "on": [m], "instance_type": t} for k, (m, t) in asks.items()),
    ]
    runs += [{"id": "Y", "at": "00:00..01:00", "on": [m]} | {"id": f"Y{m}"} for m in ("b", "c")]
    prices = [
        {"instance_type": "listed", "region_id": "eu", "pricing_category": "", "billing_currency": "EUR", "hour_price": Decimal(99)},
        {"instance_type": "Listed", "region_id": "", "pricing_category": "", "billing_currency": "EUR", "hour_price": Decimal("3.25")},
    ]
    rows = estimate(world_of(lines, runs, price_list=prices), tmp_path, "04:00")["run_estimates"].to_pylist()
    told = {
        r["run_id"]: (r["source"], r["effective_cost"], r["billing_currency"], r["price_from"] or r["reason"], f"{r['estimated_from']:%H}")
        for r in reversed(rows)
    }
    assert told == {
        "A": ("aws", 5, "USD", "bill", "03"),
        "B": ("rates", None, "", "no_price", "03"),
        "C": ("rates", Decimal("3.25"), "EUR", "rates", "03"),
        "D": ("rates", None, "", "no_price", "03"),
        "E": ("rates", None, "", "no_instance_type", "03"),
    }


def test_a_run_that_states_no_machine_is_priced_by_type_and_nodes(tmp_path: Path) -> None:
    """The cost is nodes times own time times the type's price.

    A parent gets the time that its children do not cover. Without a type there is no figure.
    """
    lines = hours(0, 1, cost="4.00", instance_type="big")
    ask = {"on": [], "instance_type": "big"}
    runs = [
        {"id": "X", "at": "00:00..00:30"},
        {"id": "A", "at": "00:30..02:00", "num_nodes": 3, **ask},
        {"id": "P", "at": "01:00..03:00", **ask},
        {"id": "child", "at": "01:15..01:45", "parent": "P", **ask},
        {"id": "elsewhere", "at": "02:00..02:30", "parent": "P", "on": ["m1"]},
        {"id": "N", "at": "00:00..02:30", "on": []},
    ]
    assert figures(world_of(lines, runs), tmp_path, "03:00") == {
        ("A", "01:00"): 12, ("P", "01:00"): 2, ("P", "02:00"): 2, ("child", "01:00"): 2, ("elsewhere", "02:00"): 2, ("N", "01:00"): "no_machine",
    }  # fmt: skip


def test_the_other_nodes_of_a_run_cost_as_much_as_the_stated_one(tmp_path: Path) -> None:
    """If the stated resource is not one machine of the run's type, it is all that the run has: of a scale set, as many of its machines as nodes."""
    box = {"instance_type": "big"}
    lines = [
        *hours(0, 1, cost="4.00", **box),
        *hours(0, 1, cost="9.00", on="far", sub_account_id="far", region_id="us", **box),
        *hours(0, 1, cost="12.00", on="fleet", hours=3, **box),
        *hours(0, 1, cost="12.00", on="/virtualmachinescalesets/set", hours=3, **box),
        *hours(0, 1, cost="2.00", on="small", instance_type="small"),
        *hours(0, 1, cost="1.00", on="cluster"),
        *hours(0, 1, cost="5.00", on="pooled", pool_key="gpu", hours=1),
    ]
    ask = {"instance_type": "big", "num_nodes": 4}
    runs = [
        {"id": "four", "at": "00:00..02:00", **ask},
        {"id": "far", "at": "01:00..02:00", "on": ["far"], **ask},
        {"id": "two", "at": "02:00..02:30", "on": ["m1", "new"], **ask},
        {"id": "all", "at": "02:00..03:00", "on": ["a", "b"], **ask, "num_nodes": 2},
        {"id": "while", "at": "03:00..04:00", "on": [{"id": "m1", "from": "03:00", "to": "03:30"}], **ask},
        {"id": "pool", "at": "01:00..02:00", "on": ["pooled"], "pool_key": "gpu", "num_nodes": 3},
        {"id": "fleet", "at": "01:00..02:00", "on": ["fleet"], **ask},
        {"id": "set", "at": "01:00..02:00", "on": ["/virtualmachinescalesets/set"], **ask, "num_nodes": 2},
        {"id": "half", "at": "03:00..03:30", "on": ["/virtualmachinescalesets/set"]},
        {"id": "beside", "at": "03:00..04:00", "on": ["/virtualmachinescalesets/set"]},
        {"id": "small", "at": "01:00..02:00", "on": ["small"], **ask},
        {"id": "pod", "at": "01:00..02:00", "on": ["k8s://blue/ns/pod"], **ask},
        {"id": "alone", "at": "04:00..05:00"},
        {"id": "parent", "at": "05:00..06:00", **ask},
        {"id": "child", "at": "05:00..05:30", "on": ["small"], "parent": "parent"},
    ]
    rows = estimate(world_of(lines, runs), tmp_path, "06:00")["run_estimates"].to_pylist()
    found: dict[str, dict[str, Any]] = {}
    for r in rows:
        found.setdefault(r["run_id"], {})[r["resource_key"]] = r["effective_cost"]
    assert found == {
        "four": {"m1": 4, "": 12},
        "far": {"far": 9, "": 27},
        "two": {"m1": 2, "new": 2, "": 4},
        "all": {"a": 4, "b": 4},
        "while": {"m1": 2, "": 14},
        "pool": {"pooled": 5, "": 10},
        "fleet": {"fleet": 12},
        "set": {"/virtualmachinescalesets/set": 8},
        "half": {"/virtualmachinescalesets/set": 2},
        "beside": {"/virtualmachinescalesets/set": 4},
        "small": {"small": 2},
        "pod": {"k8s://blue/ns/pod": 4},
        "alone": {"m1": 4},
        "parent": {"m1": 4, "": 6},
        "child": {"small": 1},
    }
    assert {(r["confidence"], r["machine_seconds"]) for r in rows if (r["run_id"], r["resource_key"]) == ("four", "")} == {("low", 10800)}


def test_children_share_the_nodes_that_their_parent_asks_for(tmp_path: Path) -> None:
    """As in the ledger, two at a time have half of them each. A child with its own machine leaves the other nodes to its siblings."""
    lines = [*hours(0, 1, cost="4.00", instance_type="big"), *hours(0, 1, cost="2.00", on="small", instance_type="small")]
    runs = [
        {"id": "P", "at": "01:00..04:00", "instance_type": "big", "num_nodes": 4},
        {"id": "A", "at": "01:00..02:00", "on": [], "parent": "P"},
        {"id": "B", "at": "02:00..03:00", "on": [], "parent": "P"},
        {"id": "C", "at": "02:30..03:00", "on": [], "parent": "P"},
        {"id": "Q", "at": "01:00..04:00", "on": [], "instance_type": "Big", "num_nodes": 2},
        {"id": "D", "at": "01:00..02:00", "on": [], "parent": "Q"},
        {"id": "E", "at": "02:00..03:00", "on": ["small"], "parent": "Q"},
        {"id": "F", "at": "02:00..03:30", "on": [], "parent": "Q"},
    ]
    rows = estimate(world_of(lines, runs), tmp_path, "04:00")["run_estimates"].to_pylist()
    assert {(r["run_id"], f"{r['estimated_from']:%H}", r["resource_key"]): r["effective_cost"] for r in rows} == {
        ("A", "01", "m1"): 4, ("A", "01", ""): 12,
        ("B", "02", "m1"): 3, ("B", "02", ""): 9, ("C", "02", "m1"): 1, ("C", "02", ""): 3,
        ("P", "03", "m1"): 4, ("P", "03", ""): 12,
        ("D", "01", ""): 8, ("E", "02", "small"): 2, ("F", "02", ""): 4, ("F", "03", ""): 4, ("Q", "03", ""): 4,
    }  # fmt: skip


def test_a_trial_is_not_on_its_drivers_machine_of_another_type(tmp_path: Path) -> None:
    """Two trials ask for large machines and get their cost. The third asks for the driver's type and shares the driver's machine."""
    lines = [*hours(0, 1, cost="1.00", on="small", instance_type="small"), *hours(0, 1, cost="30.00", on="large", instance_type="large")]
    runs = [
        {"id": "driver", "at": "01:00..02:00", "on": ["small"]},
        {"id": "A", "at": "01:00..02:00", "on": [], "parent": "driver", "instance_type": "Large"},
        {"id": "B", "at": "01:00..01:30", "on": [], "parent": "driver", "instance_type": "large"},
        {"id": "C", "at": "01:00..01:30", "on": [], "parent": "driver", "instance_type": "small"},
    ]
    found = figures(world_of(lines, runs), tmp_path, "02:00")
    assert found == {("driver", "01:00"): Decimal("0.5"), ("C", "01:00"): Decimal("0.5"), ("A", "01:00"): 30, ("B", "01:00"): 15}


def test_runs_of_a_pool_or_a_job_are_billed_as_far_as_its_lines_reach(tmp_path: Path) -> None:
    """No run states a machine there. Hours that the lines of the pool or job cover count as billed, and later hours do not."""
    lines = [
        *hours(0, 3, cost="4.00", on="gpubox", pool_key="box"),
        *hours(0, 1, cost="4.00", on="4711", job_key="4711"),
        *hours(0, 2, cost="4.00", on="m1"),
    ]
    runs = [
        {"id": "ended", "at": "00:00..02:30", "on": [], "pool_key": "box"},
        {"id": "runs", "at": "02:00..04:30", "on": [], "pool_key": "box"},
        {"id": "job", "at": "00:30..01:30", "on": [], "job_key": "4711", "pool_key": "box"},
        {"id": "other", "at": "01:30..02:30", "on": [], "pool_key": "elsewhere"},
        {"id": "stated", "at": "00:00..01:00", "on": ["m1"]},
    ]
    rows = estimate(world_of(lines, runs), tmp_path, "04:00")["run_estimates"].to_pylist()
    assert {(r["run_id"], f"{r['estimated_from']:%H:%M}", f"{r['estimated_to']:%H:%M}", r["reason"]) for r in rows} == {
        ("runs", "03:00", "04:00", "no_machine"), ("job", "01:00", "01:30", "no_machine"), ("other", "02:00", "02:30", "no_machine"),
    }  # fmt: skip


def test_without_any_bill_the_month_is_estimated_from_the_price_list(tmp_path: Path) -> None:
    """A team that has only prices sees what this month has cost so far."""
    prices = [{"instance_type": "big", "region_id": "", "pricing_category": "", "billing_currency": "USD", "hour_price": Decimal(2)}]
    world = world_of([], [{"id": "A", "at": "-01:00..02:00", "on": ["box"], "instance_type": "big"}], price_list=prices)
    assert figures(world, tmp_path) == {("A", "00:00"): 2, ("A", "01:00"): 2}


def trace(day: int, **row: Any) -> dict[str, Any]:
    return {
        "month": DAY, "tracking_server": "prod", "workspace": "default", "charge_date": DAY.replace(day=day), "experiment_id": "1", "run_id": "A", "user_name": "ana",
        "model": "m", "traces": 3, "list_cost": Decimal("0.25"), "currency": "USD", **row,
    }  # fmt: skip


def test_token_costs_end_with_the_bill_of_their_own_cloud(tmp_path: Path) -> None:
    """Bedrock's bill of the day does not end the estimates of calls to OpenAI. Providers of one model are added up."""
    models = (("bedrock", "claude"), ("openai", "gpt-4o"), ("", "gpt-4o"), ("", "our-model"))
    world = world_of(
        [], [{"id": "A", "at": "00:00..01:00"}], trace_costs=[trace(1, provider=provider, model=model) for provider, model in models]
    )
    world["cost_allocations"] = [charge(at="00:00..24:00", cost="1", match_method="llm_cost", pool_key="llm aws", resource_id=None)]
    rows = [r for r in estimate(world, tmp_path, "30:00")["run_estimates"].to_pylist() if r["cost_kind"] == "llm"]
    assert [(r["model"], r["effective_cost"]) for r in rows] == [("gpt-4o", Decimal("0.5"))]


def charge(**row: Any) -> dict[str, Any]:
    """Make a row of the ledger."""
    start, end = (moment(t) for t in row.pop("at").split(".."))
    cost = Decimal(row.pop("cost"))
    return {
        "source": "aws", "billing_period": DAY, "charge_id": "c", "target_id": "t", "charge_date": start.date(), "charge_period_start": start, "charge_period_end": end,
        "charge_category": "Usage", "allocated_to": "run", "tracking_server": "prod", "workspace": "default", "run_id": "A", "resource_id": "m1", "billing_currency": "USD",
        "effective_cost": cost, "match_method": "resource_id", **row,
    }  # fmt: skip


def test_token_costs_are_estimates_until_they_split_a_providers_bill(tmp_path: Path) -> None:
    """They are by run, user and model, from MLflow, at list price in all four measures.

    They end on days for which the ledger has llm_cost rows.
    """
    listed = trace(2, run_id="", model="listed", price_source="genai-prices 1", provider="anthropic")
    costs = [trace(1), trace(2), trace(2, run_id="", model="other"), trace(9), listed]
    world = world_of([], [{"id": "A", "at": "00:00..01:00"}], trace_costs=costs)
    world["cost_allocations"] = [charge(at="00:00..24:00", cost="1", match_method="llm_cost", resource_id=None)]
    rows = [r for r in estimate(world, tmp_path, "30:00")["run_estimates"].to_pylist() if r["cost_kind"] == "llm"]
    told = {
        (
            r["run_id"],
            r["charge_date"].day,
            r["model"],
            r["user_name"],
            r["effective_cost"],
            r["list_cost"],
            r["price_from"],
            r["confidence"],
            r["source"],
        )
        for r in rows
    }
    assert told == {
        (run, 2, model, "ana", Decimal("0.25"), Decimal("0.25"), price_from, confidence, "mlflow")
        for run, model, price_from, confidence in (
            ("A", "m", "mlflow", "medium"),
            ("", "other", "mlflow", "medium"),
            ("", "listed", "genai-prices 1", "low"),
        )
    }


def estimated(at: str, cost: str, **row: Any) -> dict[str, Any]:
    """Make an estimate of the pipeline run before."""
    start, end = (moment(t) for t in at.split(".."))
    return {
        "tracking_server": "prod", "workspace": "default", "run_id": "A", "charge_date": start.date(), "cost_kind": "compute", "source": "aws", "billing_period": DAY,
        "billing_currency": "USD", "effective_cost": Decimal(cost), "resource_key": "m1", "estimated_from": start, "estimated_to": end, "sub_account_id": "account",
        "experiment_id": "1", "user_name": "", "model": "", **row,
    }  # fmt: skip


def test_billed_costs_are_compared_with_their_estimates(tmp_path: Path) -> None:
    """Runs and hours must match. Cost billed elsewhere counts as 0, a run without an estimate does not count, and open hours stay open."""
    before = [
        estimated("00:00..01:00", "10"), estimated("01:00..02:00", "10"), estimated("02:00..03:00", "10"),
        estimated("00:00..01:00", "4", run_id="B"), estimated("00:00..01:00", "7", resource_key="gone", run_id="A", source="rates", sub_account_id=None, instance_type="x"),
    ]  # fmt: skip
    ledger = [
        charge(at="00:00..01:00", cost="9.5"),
        charge(at="01:00..02:00", cost="12"),
        charge(at="00:00..01:00", cost="3", run_id="late"),
    ]
    old = {
        "source": "aws",
        "charge_date": DAY,
        "billing_currency": "USD",
        "judged_at": moment("-01:00"),
        "estimated_from": moment("-02:00"),
        "estimated_cost": Decimal(1),
        "actual_cost": Decimal(1),
        "difference_cost": Decimal(0),
    }
    world = world_of(
        hours(0, 2),
        [{"id": "A", "at": "00:00..03:00"}, {"id": "B", "at": "00:00..01:00", "on": []}],
        run_estimates=before,
        cost_allocations=ledger,
        estimate_errors=[old],
    )
    found = estimate(world, tmp_path, "03:00")
    rows = sorted(found["estimate_errors"].to_pylist(), key=lambda r: r["judged_at"])
    assert rows[0]["estimated_cost"] == 1
    new = rows[1]
    assert (new["source"], new["charge_date"], new["judged_at"], new["runs"]) == ("aws", DAY, moment("03:00"), 2)
    assert (new["estimated_from"], new["estimated_to"]) == (moment("00:00"), moment("02:00"))
    assert (new["estimated_cost"], new["actual_cost"], new["difference_cost"]) == (24, Decimal("21.5"), Decimal("2.5"))
    assert len(rows) == 2
    again = estimate({}, tmp_path, "03:00")  # the same step again, over its own results
    assert multiset(again["estimate_errors"], TABLES["estimate_errors"].content) == multiset(
        found["estimate_errors"], TABLES["estimate_errors"].content
    )


def test_a_day_line_counts_with_the_part_of_the_run_that_was_estimated(tmp_path: Path) -> None:
    """Four of the run's eight hours were estimated, so half of the day line's cost is compared."""
    lines = [{"at": "00:00..24:00", "cost": "240"}]
    before = [estimated(f"{h:02d}:00..{h + 1:02d}:00", "10") for h in range(4)]
    world = world_of(
        lines, [{"id": "A", "at": "00:00..08:00"}], run_estimates=before, cost_allocations=[charge(at="00:00..24:00", cost="88")]
    )
    row = estimate(world, tmp_path, "30:00")["estimate_errors"].to_pylist()[0]
    assert (row["estimated_cost"], row["actual_cost"]) == (40, 44)


@pytest.mark.parametrize(("sign", "actual"), [("08:00", 44), ("23:00", 44 / 3)], ids=["dead", "alive"])
def test_a_run_without_an_end_counts_to_where_the_ledger_ends_it(sign: str, actual: float, tmp_path: Path) -> None:
    """A run that died in the eighth hour of the day line has eight hours of it, one that is alive all 24. Four were estimated."""
    before = [estimated(f"{h:02d}:00..{h + 1:02d}:00", "10") for h in range(4)]
    world = world_of(
        [{"at": "00:00..24:00", "cost": "240"}],
        [{"id": "A", "at": "00:00", "last_sign": sign}],
        run_estimates=before,
        cost_allocations=[charge(at="00:00..24:00", cost="88")],
    )
    row = estimate(world, tmp_path, "30:00")["estimate_errors"].to_pylist()[0]
    assert float(row["actual_cost"]) == pytest.approx(actual)


@pytest.mark.parametrize("seed", range(3))
def test_estimates_split_cost_as_the_ledger_does(seed: int, tmp_path: Path) -> None:
    """Hours are estimated at the price at which they are billed later.

    Each run's estimate equals its cost in the ledger, to the last decimal.
    """
    made = random_world(seed, runs=12, machines=3, hours=6)
    machines = sorted({r["resource_key"] for r in made["run_resources"]})
    price = {m: Decimal(n + 1) * Decimal("3.3") for n, m in enumerate(machines)}
    lines = [
        line(n * 100 + h, at=f"{h:02d}:00..{h + 1:02d}:00", cost=price[m], on=m)
        for n, m in enumerate(machines)
        for h in range(-1, 8)
        if h >= 0
    ]
    lines += [line(9000 + n, at="-01:00..00:00", period="2026-09", cost=price[m], on=m) for n, m in enumerate(machines)]
    for run in made["runs"]:
        run["end_time"] = run["end_time"] or run["start_time"] + dt.timedelta(
            hours=1
        )  # the end of a run without an end time depends on the end of the bill
    bill = [l for l in lines if l["charge_period_end"] <= moment("00:00")]
    early = {**world_of(), "runs": made["runs"], "run_resources": made["run_resources"], "billing_lines": bill}
    rows = estimate(early, tmp_path / "early", "08:00")["run_estimates"].to_pylist()
    guessed = {(r["run_id"], r["resource_key"], r["estimated_from"]): r["effective_cost"] for r in rows if r["reason"] is None}
    ledger = run_on_duckdb({**made, "billing_lines": lines}, tmp_path / "late")["cost_allocations"].to_pylist()
    billed = {
        (r["run_id"], r["resource_id"], r["charge_period_start"]): r["effective_cost"]
        for r in ledger
        if r["allocated_to"] == "run" and r["match_method"] == "resource_id"
    }
    assert len(guessed) > 5
    assert guessed == billed


def test_both_engines_give_the_same_rows(tmp_path: Path) -> None:
    """The test compares all rows of every model, temporary ones too, over a world of all situations, and the checks."""
    box = {"instance_type": "big", "region_id": "eu", "pricing_category": "Standard"}
    lines = [
        *hours(0, 3, cost="24.576", **box), *hours(0, 2, cost="1.1", on="m2", sub_account_id="late"), *hours(0, 1, cost="7", hours=0.25, on="m3", instance_type="small", source="gcp"),
        {"at": "00:00..03:20", "cost": "12.345678901234567890123", "on": "m4", "machine_gpus": 8, **{**box, "pricing_category": "Dynamic"}}, {"cost": "-0.5", "charge_category": "Credit"},
        *hours(0, 2, cost=5, on="m5", source="gcp", **box), *hours(0, 2, cost=2, on="k8s://blue/ns/pod"), {"at": "2026-09-30T10:00:00..2026-09-30T11:00:00", "period": "2026-09", "cost": 3, "on": "m3", "source": "gcp"},
        {"at": "2026-07-01T10:00:00..2026-07-01T11:00:00", "period": "2026-07", "on": "vm", "attached_to": "cluster", "hours": 1},
    ]  # fmt: skip
    runs = [
        {"id": "A", "at": "00:00..05:10"}, {"id": "B", "at": "02:30..04:00", "gaps": ["03:30..03:40"]}, {"id": "C", "at": "01:00", "on": ["m2"], "last_sign": "04:30"}, {"id": "D", "at": "01:00", "on": ["m3"]},
        {"id": "E", "at": "02:00..04:30", "on": [{"id": "m4", "from": "03:00", "to": "04:00"}, {"id": "m4", "from": "03:30", "to": "04:10"}], "gpu_count": 3.0}, {"id": "F", "at": "03:10..04:10", "on": ["m4"], "gpu_count": 1.0},
        {"id": "G", "at": "01:00..05:00", "on": [], "parent": "A"}, {"id": "H", "at": "00:00..05:30", "on": [], "instance_type": "Big", "num_nodes": 2}, {"id": "I", "at": "03:15..04:15", "on": [], "parent": "H", "instance_type": "small"},
        {"id": "J", "at": "-30:00..05:00", "on": []}, {"id": "K", "at": "01:00..04:00", "on": ["unseen"], "instance_type": "listed"}, {"id": "L", "at": "01:00..04:00", "on": ["unseen-2"]}, {"id": "M", "at": "00:30..04:00", "on": ["m5"]},
        {"id": "N", "at": "01:00..04:00", "on": ["ns/pod"]}, {"id": "O", "at": "03:15..04:15", "on": [], "parent": "A", "instance_type": "small"},
        {"id": "P", "at": "02:10..05:05", "on": [{"id": "m3", "from": "02:30", "to": "04:30"}], "instance_type": "Small", "num_nodes": 3},
        {"id": "Q", "at": "02:40..03:40", "on": [], "parent": "P"}, {"id": "R", "at": "03:00..04:15", "on": [], "parent": "P"}, {"id": "S", "at": "03:10..03:50", "on": ["m2"], "parent": "P"},
    ]  # fmt: skip
    world = world_of(
        lines, runs,
        price_list=[{"instance_type": "listed", "region_id": "", "pricing_category": "", "billing_currency": "EUR", "hour_price": Decimal("3.123456789")}],
        trace_costs=[trace(1), trace(2), trace(2, run_id="")],
        run_estimates=[estimated("01:00..02:00", "24"), estimated("02:00..03:00", "25"), estimated("00:00..01:00", "5", run_id="H", resource_key="", sub_account_id=None, instance_type="small", source="gcp")],
        cost_allocations=[charge(at="01:00..02:00", cost="24.576"), charge(at="00:00..24:00", cost="3.3", run_id="H", resource_id=None, match_method="instance_type_time", source="gcp"), charge(at="02:00..03:30", cost="2", run_id="I", match_method="pool_time", cost_kind="compute", source="gcp")],
        estimate_errors=[{"source": "aws", "charge_date": DAY, "billing_currency": "USD", "judged_at": moment("-01:00"), "estimated_from": moment("-02:00"), "estimated_cost": Decimal(1), "actual_cost": Decimal(1), "difference_cost": Decimal(0)}],
    )  # fmt: skip
    models, parameters = estimate_models(), estimate_parameters(moment("06:00"))
    ours = estimate(world, tmp_path, "06:00", names=[m.target for m in models if m.into is None])
    reference = GoogleSQL()
    known = {name: arrow(name, rows) for name, rows in world.items()}
    for model in models:
        result = query_reference(reference, read_sql(PACKAGE / "models", model.name), known, parameters)
        if model.into is not None:
            assert dict(result.columns) == {c.name: c.type for c in TABLES[model.target].columns if c.name not in FILLED}, model.name
        known[model.target] = result.to_arrow() if model.into is None else arrow(model.target, result.to_arrow().to_pylist())
        columns = [c for c in ours[model.target].column_names if c not in FILLED]
        mine, other = multiset(ours[model.target], columns), multiset(known[model.target], columns)
        assert (mine - other, other - mine) == ({}, {}), model.name
        assert known[model.target].num_rows, model.name
    of_stopped = [
        (r["estimated_from"], r["confidence"], r["machine_seconds"]) for r in ours["run_estimates"].to_pylist() if r["run_id"] == "B"
    ]
    assert of_stopped == [(moment("03:20"), "medium", 900.0)]  # half of 30 minutes (a stop takes ten of 40), next to another run
    for name in CHECKS:
        sql = read_sql(PACKAGE / "checks", name)
        assert query_reference(reference, sql, known, {"period": parameters["period"]}).rows == [], name


@pytest.mark.parametrize(
    ("check", "rows", "difference"),
    [
        ("run_estimates_grain", [estimated("01:00..02:00", "10"), estimated("01:00..02:00", "3")], 1),
        ("run_estimates_not_billed", [estimated("00:00..01:00", "10", resource_id="m1")], Decimal("0.5")),
        ("run_estimates_not_billed", [estimated("00:00..01:00", "10", run_id="B", resource_id=None, source="rates")], Decimal("3")),
    ],
    ids=["an estimate twice", "an hour that is billed", "an hour that is allocated by type"],
)
def test_the_check_fails(check: str, rows: list[dict[str, Any]], difference: object, tmp_path: Path) -> None:
    """The step stops with the failing rows, and the reference implementation finds the same rows."""
    by_type = charge(at="00:00..01:00", cost="7", run_id="B", match_method="instance_type_time", cost_kind="compute")
    world = world_of(run_estimates=rows, cost_allocations=[charge(at="00:00..01:00", cost="9.5"), by_type])
    with ParquetWarehouse(tmp_path).step("estimate", "build") as step:
        for table, those in world.items():
            for (period, writer), part in units_of(table, those).items():
                step.put(table, period, writer, arrow(table, part))
        step.check([name for name in CHECKS if name != check], {"period": DAY})
        with pytest.raises(CheckFailed, match=f"check {check} failed") as failure:
            step.check(CHECKS, {"period": DAY})
    assert [row["difference"] for row in failure.value.rows] == [difference]
    sql = read_sql(PACKAGE / "checks", check)
    theirs = query_reference(GoogleSQL(), sql, {name: arrow(name, part) for name, part in world.items()}, {"period": DAY})
    assert exact_rows(theirs.rows) == exact_rows(failure.value.rows)


def test_estimate_models_give_the_rows_of_the_models_that_read_the_bill() -> None:
    """This test finds a column that a later model needs and that an estimate's model lacks."""
    from runspend.warehouse.googlesql import parse

    def columns(name: str) -> set[str]:
        return set(parse(read_sql(PACKAGE / "models", name)).named_selects)

    assert columns("estimate_spans") == columns("run_spans")
    assert columns("estimate_units") == columns("machine_units")
