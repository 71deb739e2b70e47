"""The price list for training jobs: median cost of machines per hour, and the cost of an experiment's finished runs."""

from __future__ import annotations

import datetime as dt
import json
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from runspend.actions.costs import prices
from runspend.actions.costs.prices import list_prices
from runspend.warehouse.base import Reader
from runspend.warehouse.parquet.warehouse import ParquetWarehouse
from tests.allocation.chain import arrow, moment
from tests.command import run_here
from tests.sql_lint import lint

NOW = moment("2026-10-20T00:00:00")


def line(number: int, cost: str, *, hours: float = 1, machine: str = "m1", at: str = "2026-10-10T00:00:00", **row: Any) -> dict[str, Any]:
    start = moment(at)
    return {
        "source": "aws", "billing_period": dt.date(2026, 10, 1), "line_id": f"l{number}", "resource_key": machine, "charge_category": "Usage",
        "charge_period_start": start, "charge_period_end": start + dt.timedelta(hours=hours), "charge_date": start.date(), "billing_currency": "USD",
        "instance_type": "g5.2xlarge", "region_id": "eu-west-1", "pricing_category": "Standard", "machine_gpus": 1, "effective_cost": Decimal(cost), **row,
    }  # fmt: skip


def ended(number: int, cost: str, **row: Any) -> dict[str, Any]:
    return {
        "tracking_server": "prod", "workspace": "default", "run_id": f"r{number}", "start_month": dt.date(2026, 10, 1), "experiment_name": "vit",
        "run_status": "FINISHED", "start_time": moment("2026-10-02T00:00:00"), "end_time": moment("2026-10-02T01:00:00"), "billing_currency": "USD",
        "cost_with_children": Decimal(cost), **row,
    }  # fmt: skip


@pytest.fixture
def reader(tmp_path: Path) -> Any:
    lines = [
        line(1, "1.00"),
        line(2, "0.20"),  # a second line in the same hour, so the machine's price is their sum
        line(3, "1.30", machine="m2"),
        line(4, "31.20", machine="m3", hours=24),  # one day at 1.30 an hour
        line(5, "9.00", machine="m4", pricing_category="Dynamic"),
        line(6, "0.00", machine="m5"),
        line(7, "99.00", machine="m6", at="2026-09-01T00:00:00"),  # too long ago
        line(8, "99.00", machine="m7", charge_category="Purchase"),
        line(9, "99.00", machine="m8", charge_class="Correction"),
        line(10, "99.00", machine=None, resource_id=None),  # type: ignore[arg-type]
        line(11, "2.00", machine="m9", billing_currency="EUR", instance_type="G5.2xlarge"),
        line(12, "99.00", machine="m10", instance_type=None),
        line(13, "0.65", machine="m11", billed_nanoseconds=1_800_000_000_000),  # half an hour is billed
        line(15, "5.20", machine="set", billed_nanoseconds=14_400_000_000_000),  # four machines on one line
        line(14, "0.10", machine="m12", commitment_discount_status="Unused"),
    ]
    runs = [ended(number, str(number)) for number in range(1, 13)]
    runs += [ended(20, "999", run_status="FAILED"), ended(21, "999", parent_run_id="r1"), ended(22, "7", experiment_name="speech")]
    runs += [ended(23, "500", tracking_server="dev")]
    warehouse = ParquetWarehouse(tmp_path)
    with warehouse.step("test", "test") as step:
        step.put("billing_lines", "2026-10", "aws", arrow("billing_lines", lines))
        step.put("run_costs", "2026-10", "all", arrow("run_costs", runs))
        assert step.publish()
    with warehouse.reader() as opened:
        yield opened


def test_an_hour_is_priced_at_its_usual_cost(reader: Reader) -> None:
    found = list_prices(reader, NOW)
    rows = [(row["purchase_option"], row["currency"], row["hour_cost"], row["machine_hours"], row["gpus"]) for row in found["prices"]]
    assert rows == [("on_demand", "EUR", "2.0000", 1, 1), ("on_demand", "USD", "1.3000", 30.5, 1), ("spot", "USD", "9.0000", 1, 1)]
    assert {(row["instance_type"], row["region"]) for row in found["prices"]} == {("g5.2xlarge", "eu-west-1")}


def test_runs_of_an_experiment_cost_between_these(reader: Reader) -> None:
    found = list_prices(reader, NOW)["experiments"]
    assert [(row["experiment"], row["tracking_server"], row["runs"], row["low"], row["high"]) for row in found] == [
        ("speech", "prod", 1, "7.00", "7.00"),
        ("vit", "dev", 1, "500.00", "500.00"),
        ("vit", "prod", 12, "2.00", "11.00"),
    ]


def test_the_command_writes_a_file_or_prints(reader: Reader, tmp_path: Path) -> None:
    (tmp_path / "runspend.yaml").write_text(f"home: {tmp_path}\nwarehouse: {{uri: {tmp_path}}}\n")
    given = ("export", "prices", "--config", str(tmp_path / "runspend.yaml"), "--now", "2026-10-20")
    printed = json.loads(run_here(*given).stdout)
    assert printed == list_prices(reader, NOW)
    for _ in range(2):  # the second time, it replaces Runspend's own file
        assert run_here(*given, "--out", str(tmp_path / "prices.json")).stdout.startswith("3 prices in ")
    (tmp_path / "mine.json").write_text("{}")
    assert "is not a file that `runspend export prices` wrote" in run_here(*given, "--out", str(tmp_path / "mine.json"), code=2).stderr
    assert json.loads((tmp_path / "prices.json").read_text(encoding="utf-8")) == printed


@pytest.mark.parametrize("name", ["hour_prices", "typical_costs"])
def test_both_engines_read_its_queries(name: str) -> None:
    assert lint((Path(prices.__file__).parent / f"{name}.sql").read_text()) == []
