"""The cost of active runs: billed, estimated, and since the last pipeline run. Silent and ended runs are not included."""

from __future__ import annotations

import datetime as dt
import json
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from runspend.actions.costs import running
from runspend.actions.costs.running import find_running, say_nothing_runs, say_what_runs
from runspend.core.amounts import plain
from runspend.interfaces.cli import cli
from runspend.warehouse.base import Reader
from runspend.warehouse.parquet.warehouse import ParquetWarehouse
from tests.allocation.chain import arrow, make_run, moment
from tests.command import run_here
from tests.sql_lint import lint

READ = "2026-10-20T06:00:00"
NOW = moment("2026-10-20T08:30:00")
IDS = {"tracking_server": "prod", "workspace": "default"}


def estimate(run: str, start: str, cost: str, *, machine: str = "m1", hours: float = 1, currency: str = "USD") -> dict[str, Any]:
    begin = moment(start)
    return {
        **IDS, "run_id": run, "charge_date": begin.date(), "cost_kind": "compute", "source": "aws", "billing_period": dt.date(2026, 10, 1),
        "billing_currency": currency, "effective_cost": Decimal(cost), "resource_key": machine, "estimated_from": begin,
        "estimated_to": begin + dt.timedelta(hours=hours), "experiment_id": "1", "user_name": "ada", "model": "",
    }  # fmt: skip


def billed(run: str, cost: str, last: str, *, currency: str = "USD", **row: Any) -> dict[str, Any]:
    return {
        **IDS, "run_id": run, "start_month": dt.date(2026, 10, 1), "billing_currency": currency, "effective_cost": Decimal(cost),
        "cost_with_children": Decimal(cost), "last_charge_date": dt.date.fromisoformat(last), **row,
    }  # fmt: skip


@pytest.fixture
def reader(tmp_path: Path) -> Any:
    runs = [
        make_run(id="aaaa1111", at="2026-10-18T00:00:00..", last_sign="2026-10-20T05:50:00", run_name="vit", user_name="ada"),
        make_run(id="bbbb2222", at="2026-10-20T04:00:00..", last_sign="2026-10-20T05:00:00", run_name="new"),
        make_run(id="cccc3333", at="2026-10-19T00:00:00..", last_sign="2026-10-20T05:59:00", experiment_name="speech"),
        make_run(id="dddd4444", at="2026-10-18T00:00:00..", last_sign="2026-10-19T20:00:00"),  # silent for ten hours
        make_run(id="eeee5555", at="2026-10-18T00:00:00..", last_sign="2026-10-20T05:59:00", lifecycle_stage="deleted"),
        make_run(id="0000aaaa", at="2026-10-19T00:00:00..", last_sign="2026-10-20T05:59:00", experiment_name="parents"),
        make_run(id="ffff6666", at="2026-10-01T00:00:00..2026-10-02T00:00:00"),
    ]
    rows = {
        "runs": [{"lifecycle_stage": "active", **run} for run, _ in runs],
        "run_costs": [
            billed("aaaa1111", "24", "2026-10-18"),
            billed("cccc3333", "48", "2026-10-19"),
            billed("dddd4444", "9", "2026-10-18"),
            billed(
                "ffff6666", "38", "2026-10-01", experiment_name="exp", run_status="FINISHED", start_time=moment("2026-10-01T00:00:00"),
                end_time=moment("2026-10-02T00:00:00"),
            ),
        ],
        # The run has two machines in its last hour, and one before.
        "run_estimates": [
            estimate("aaaa1111", "2026-10-19T00:00:00", "5", hours=29),
            estimate("aaaa1111", "2026-10-20T05:00:00", "3"),
            estimate("aaaa1111", "2026-10-20T05:00:00", "3.20", machine="m2"),
            estimate("0000aaaa", "2026-10-20T01:00:00", "1.00"),  # afterwards it waited for its nested run
            estimate("0000aaaa", "2026-10-20T00:00:00", "50.00", hours=24) | {"cost_kind": "llm"},
            estimate("dddd4444", "2026-10-20T05:00:00", "3"),
        ],
    }  # fmt: skip
    sources = [{"source": "prod", "kind": "tracking", "state": "ok", "covered_until": moment(READ), "row_count": 1}]
    warehouse = ParquetWarehouse(tmp_path)
    with warehouse.step("test", "test") as step:
        step.put("runs", "2026-10", "prod", arrow("runs", rows["runs"]))
        step.put("run_costs", "2026-10", "all", arrow("run_costs", rows["run_costs"]))
        step.put("run_estimates", "all", "all", arrow("run_estimates", rows["run_estimates"]))
        step.put("sources", "all", "prod", arrow("sources", sources))
        assert step.publish()
    with warehouse.reader() as opened:
        yield opened


def test_costs_continue_after_the_last_pipeline_run(reader: Reader) -> None:
    found = {run.run_id: run for run in find_running(reader, NOW)}
    assert sorted(found) == ["0000aaaa", "aaaa1111", "bbbb2222", "cccc3333"]
    assert (found["0000aaaa"].cost, found["0000aaaa"].hour_cost) == (Decimal(51), Decimal(0))
    # 24 is billed, 11.20 is estimated until 06:00, and 2.5 hours cost 6.20 each, as in the last hour.
    assert (found["aaaa1111"].cost, found["aaaa1111"].hour_cost) == (Decimal("50.7"), Decimal("6.2"))
    # 24 billed hours cost 48, and 8.5 more hours cost 2 each.
    assert (found["cccc3333"].cost, found["cccc3333"].hour_cost) == (Decimal(65), Decimal(2))
    assert (found["bbbb2222"].cost, found["bbbb2222"].hour_cost) == (None, None)


def test_each_run_is_a_sentence(reader: Reader) -> None:
    assert list(say_what_runs(find_running(reader, NOW))) == [
        "cccc3333 (cccc3333) of speech: has cost about 65.00 USD, 2.00 an hour",
        "0000aaaa (0000aaaa) of parents: has cost about 51.00 USD, 0.00 an hour",
        "vit (aaaa1111) of exp: has cost about 50.70 USD, 6.20 an hour; similar runs cost 38.00 to 38.00",
        "new (bbbb2222) of exp: its cost is not known: it states neither a machine nor an instance type. For details: runspend explain bbbb2222",
    ]
    assert [run.run_id for run in find_running(reader, NOW, run="vit")] == ["aaaa1111"]
    assert [run.run_id for run in find_running(reader, NOW, run="cccc")] == ["cccc3333"]
    assert [run.run_id for run in find_running(reader, NOW, experiment="speech")] == ["cccc3333"]
    assert find_running(reader, NOW, run="x") == []
    assert list(say_nothing_runs(reader)) == [
        "No run was active when MLflow was last read (prod at 2026-10-20 06:00 UTC). Runs that started since then appear after `runspend extract`."
    ]
    assert next(iter(say_nothing_runs(reader, run="zzzz", experiment="exp"))).startswith(
        "No run named zzzz, or with an id that begins with it, of exp was active when MLflow was last read (prod at"
    )


def test_the_command_shows_the_same(reader: Reader, tmp_path: Path) -> None:
    (tmp_path / "runspend.yaml").write_text(f"home: {tmp_path}\nwarehouse: {{uri: {tmp_path}}}\n")
    given = ("live", "--config", str(tmp_path / "runspend.yaml"), "--now", "2026-10-20T08:30")
    assert "vit (aaaa1111) of exp: has cost about 50.70 USD, 6.20 an hour" in run_here(*given).stdout
    shown = json.loads(run_here(*given, "--json", "vit").stdout)
    assert [(one["cost"], one["hour_cost"], one["known_until"], one["runs_like"]["runs"]) for one in shown] == [
        ("50.7", "6.2", "2026-10-20T06:00:00+00:00", 1)
    ]


def hour_of(machine: str, start: str, cost: str, kind: str = "p4d.24xlarge", **row: Any) -> dict[str, Any]:
    begin = moment(start)
    return {
        "source": "aws", "billing_period": dt.date(2026, 10, 1), "line_id": f"{machine}{start}{cost}", "resource_key": machine, "instance_type": kind,
        "charge_category": "Usage", "charge_period_start": begin, "charge_period_end": begin + dt.timedelta(hours=1), "charge_date": begin.date(),
        "billing_currency": "USD", "region_id": "eu-west-1", "pricing_category": "Standard", "effective_cost": Decimal(cost), **row,
    }  # fmt: skip


def test_a_run_that_is_newer_than_all_estimates_is_priced_by_its_machine(tmp_path: Path) -> None:
    began = "2026-10-20T08:00:00.."
    given: list[tuple[str, list[str], dict[str, Any]]] = [
        ("alone", ["m1"], {}),
        ("first", ["m2"], {"gpu_count": 6.0}),
        ("second", ["m2"], {"gpu_count": 2.0}),
        ("several", ["m3", "m4"], {}),
        ("typed", [], {"instance_type": "P4D.24xlarge", "region_id": "eu-west-1", "num_nodes": 2}),
        ("foreign", ["m9"], {"instance_type": "p4d.24xlarge", "region_id": "us-east-1"}),
        ("spot", [], {"instance_type": "p4d.24xlarge", "region_id": "eu-west-1", "purchase_option": "spot"}),
        ("listed", [], {"instance_type": "own-box"}),
        ("of-job", ["job"], {}),
        ("of-set", ["s/virtualmachinescalesets/set"], {"num_nodes": 2}),
        ("beside-it", ["s/virtualmachinescalesets/set"], {}),
        ("parent", ["m5"], {}),
        ("child", ["m5"], {"parent_run_id": "parent"}),
        ("nothing", [], {}),
    ]
    runs, machines = [], []
    for name, stated, row in given:
        start = "2026-10-20T08:15:00.." if name == "child" else began
        run, resources = make_run(id=name, at=start, on=stated, **row)
        runs.append({"lifecycle_stage": "active", **run})
        machines += resources
    lines = [
        hour_of("m1", "2026-10-20T05:00:00", "4"), hour_of("m1", "2026-10-20T06:00:00", "5"), hour_of("m1", "2026-10-20T06:00:00", "1", sku_id="disk"),
        hour_of("m2", "2026-10-20T06:00:00", "8"), hour_of("m3", "2026-10-20T06:00:00", "8"), hour_of("m4", "2026-10-20T06:00:00", "2", kind="g5"),
        hour_of("m5", "2026-10-20T06:00:00", "8"), hour_of("job", "2026-10-20T06:00:00", "20", kind="g6", billed_nanoseconds=4 * 3600 * 10**9),
        hour_of("s/virtualmachinescalesets/set", "2026-10-20T06:00:00", "8", kind="g6", billed_nanoseconds=4 * 3600 * 10**9),
    ]  # fmt: skip
    price = {"instance_type": "own-box", "region_id": "", "pricing_category": "", "billing_currency": "EUR", "hour_price": Decimal("0.5")}
    warehouse = ParquetWarehouse(tmp_path)
    with warehouse.step("test", "test") as step:
        step.put("runs", "2026-10", "prod", arrow("runs", runs))
        step.put("run_resources", "2026-10", "prod", arrow("run_resources", machines))
        step.put("billing_lines", "2026-10", "aws", arrow("billing_lines", lines))
        step.put("price_list", "all", "all", arrow("price_list", [price]))
        source = {"source": "prod", "kind": "tracking", "state": "ok", "covered_until": moment("2026-10-20T08:20:00"), "row_count": 1}
        step.put("sources", "all", "prod", arrow("sources", [source]))
        assert step.publish()
    with warehouse.reader() as opened:
        found = {run.run_id: run for run in find_running(opened, NOW)}
        sentences = {one.split(" ", 1)[0]: one for one in say_what_runs(list(found.values()))}
    costs = {
        name: (run.billing_currency, plain(run.cost), plain(run.hour_cost)) for name, run in found.items() if run.cost and run.hour_cost
    }
    assert costs == {
        "alone": ("USD", "3", "6"),
        "first": ("USD", "3", "6"),
        "second": ("USD", "1", "2"),
        "several": ("USD", "5", "10"),
        "typed": ("USD", "8", "16"),
        "of-job": ("USD", "10", "20"),
        "of-set": ("USD", "2", "4"),
        "beside-it": ("USD", "1", "2"),
        "listed": ("EUR", "0.25", "0.5"),
        "child": ("USD", "2", "8"),
    }
    assert (found["parent"].cost, found["parent"].hour_cost) == (Decimal(2), Decimal(0))  # the quarter of an hour before its nested run
    assert sentences["alone"] == (
        "alone (alone) of exp: has cost about 3.00 USD, 6.00 an hour, by the last price of its machine (not estimated or billed yet)"
    )
    assert "by the price of P4D.24xlarge (not" in sentences["typed"]
    assert "not known: no bill or price list has m9, or a price of p4d.24xlarge. " in sentences["foreign"]
    assert "not known: no bill or price list has p4d.24xlarge. " in sentences["spot"]
    assert "not known: it states neither a machine nor an instance type. " in sentences["nothing"]


def test_a_bill_that_reaches_past_now_does_not_raise_the_cost_of_an_hour(tmp_path: Path) -> None:
    run, _ = make_run(id="long", at="2026-10-20T07:30:00..")
    cost = billed("long", "93600", "2026-10-21", machine_seconds=26 * 3600.0)
    warehouse = ParquetWarehouse(tmp_path)
    with warehouse.step("test", "test") as step:
        step.put("runs", "2026-10", "prod", arrow("runs", [{"lifecycle_stage": "active", **run}]))
        step.put("run_costs", "2026-10", "all", arrow("run_costs", [cost]))
        source = {"source": "prod", "kind": "tracking", "state": "ok", "covered_until": NOW, "row_count": 1}
        step.put("sources", "all", "prod", arrow("sources", [source]))
        assert step.publish()
    with warehouse.reader() as opened:
        [found] = find_running(opened, NOW)
    assert (found.cost, found.hour_cost) == (Decimal(93600), Decimal(3600))


def daily(run: str, cost: str, day: str, source: str = "aws") -> dict[str, Any]:
    return {
        **IDS, "run_id": run, "charge_date": dt.date.fromisoformat(day), "cost_kind": "compute", "source": source, "billing_period": dt.date(2026, 10, 1),
        "billing_currency": "USD", "effective_cost": Decimal(cost),
    }  # fmt: skip


@pytest.mark.parametrize("hour", [5.5, 12, 20])
def test_a_bill_without_estimates_counts_to_where_it_reaches(tmp_path: Path, hour: float) -> None:
    """Four hours are billed at 40. Later hours cost the same, independent of the time of the query."""
    now = moment("2026-10-20T00:00:00") + dt.timedelta(hours=hour)
    run, _ = make_run(id="alone", at="2026-10-20T01:00:00..")
    waiting, _ = make_run(id="parent", at="2026-10-20T01:00:00..")
    child, _ = make_run(id="child", at="2026-10-20T04:00:00..", parent_run_id="parent")
    warehouse = ParquetWarehouse(tmp_path)
    with warehouse.step("test", "test") as step:
        step.put("runs", "2026-10", "prod", arrow("runs", [{"lifecycle_stage": "active", **one} for one in (run, waiting, child)]))
        costs = [
            billed("alone", "160", "2026-10-20", machine_seconds=4 * 3600.0),
            billed("parent", "30", "2026-10-20", machine_seconds=3 * 3600.0),
        ]
        step.put("run_costs", "2026-10", "all", arrow("run_costs", costs))
        days = [daily("alone", "160", "2026-10-20"), daily("parent", "30", "2026-10-20", "late")]
        step.put("run_costs_daily", "2026-10", "all", arrow("run_costs_daily", days))
        step.put(
            "run_estimates",
            "all",
            "all",
            arrow("run_estimates", [estimate("child", "2026-10-20T04:00:00", "10", machine="m2") | {"source": "late"}]),
        )
        kinds = (("prod", "tracking", 6), ("aws", "bill", 5), ("late", "bill", 4))
        for name, kind, until in kinds:
            source = {
                "source": name,
                "kind": kind,
                "state": "ok",
                "covered_until": moment("2026-10-20T00:00:00") + dt.timedelta(hours=until),
                "row_count": 1,
            }
            step.put("sources", "all", name, arrow("sources", [source]))
        assert step.publish()
    with warehouse.reader() as opened:
        found = {run.run_id: run for run in find_running(opened, now)}
    assert (found["alone"].cost, found["alone"].hour_cost) == (160 + Decimal(40) * Decimal(str(hour - 5)), Decimal(40))
    assert (found["parent"].cost, found["parent"].hour_cost) == (Decimal(30), Decimal(0))  # its nested run pays for the machine
    assert (found["child"].cost, found["child"].hour_cost) == (10 + Decimal(10) * Decimal(str(hour - 5)), Decimal(10))


@pytest.mark.parametrize("name", ["running_runs", "running_prices", "listed_prices", "last_reads"])
def test_both_engines_read_its_queries(name: str) -> None:
    assert lint((Path(running.__file__).parent / f"{name}.sql").read_text()) == []
    assert "live" in cli.commands


def test_long_statements_about_a_machine_are_cut() -> None:
    """An instance type of fifty thousand characters and a thousand machines still make one line of text."""
    row = {
        "tracking_server": "prod",
        "workspace": "default",
        "run_id": "a",
        "region_id": None,
        "purchase_option": None,
        "num_nodes": 1,
        "hour_cost": None,
    }
    machines = [{**row, "instance_type": "t" * 50_000, "resource_key": f"machine-{number}"} for number in range(1000)]
    assert len(running._price(machines, [], []).priced_by) < 350
