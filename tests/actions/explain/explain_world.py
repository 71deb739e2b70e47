"""A day on four machines, allocated by Runspend's own models. `explain` is tested on it, and its page is drawn from it."""

from __future__ import annotations

import datetime as dt
from decimal import Decimal
from pathlib import Path
from typing import Any

from runspend.config.settings import Settings
from runspend.warehouse.parquet.warehouse import ParquetWarehouse
from tests.allocation.chain import World, arrow, build_on_duckdb, line, make_run
from tests.kept import copy_made_once

NOW = dt.datetime(2026, 10, 4, 6, tzinfo=dt.timezone.utc)
SETTINGS = Settings.model_validate(
    {"tracking": [{"name": "prod", "uri": "https://mlflow.example.com"}], "billing": [{"name": "aws", "uri": "bills"}]}
)

BIG = "3f1c9a7be2d84c6f9a50c1d2e3f4a5b6"
SMALL = "e77b01aa00000000000000000000000a"
TAGGED = "7a66ed00000000000000000000000001"
PARENT, CHILD = "aa00000000000000000000000000000a", "aa11111111111111111111111111111b"
LONG = "10a6000000000000000000000000000c"
LOST = "105700000000000000000000000000cc"
STOPPED = "5709000000000000000000000000000c"
ZERO_LENGTH, NOWHERE, LATE = "2e60000000000000000000000000000d", "ffff00000000000000000000000000ee", "1a7e000000000000000000000000000e"
ON_NODE = "e0de000000000000000000000000000f"
ELSEWHERE, EXCLUDED, TWICE = "e15e000000000000000000000000000f", "e8c1000000000000000000000000000f", "dd00000000000000000000000000dddd"


def explain_world() -> World:
    """Return the rows of the bill and of MLflow. Each run without a cost has a different reason."""
    stated = [
        make_run(
            id=BIG,
            run_name="vit-l16-224",
            at="08:14:10..13:44:40",
            on=["m1"],
            gpu_count=8.0,
            instance_type="p4d.24xlarge",
            num_nodes=1,
            team="vision",
            team_from="experiment.tag.team",
            user_name="ben",
        ),
        make_run(id=SMALL, run_name="eval-vit", at="11:00..12:00", on=["m1"], gpu_count=1.0),
        make_run(id=TAGGED, run_name="tagged", at="02:10..02:50", on=[]),
        make_run(id=PARENT, run_name="sweep", at="00:00..02:00", on=["m2"]),
        make_run(id=CHILD, run_name="trial", at="00:00..02:00", on=["m2"], parent=PARENT),
        make_run(id=LONG, run_name="long", at="00:00..72:00", on=["m3"]),
        make_run(id=LOST, run_name="lost", at="20:00", on=["m2"], last_sign="21:30"),
        make_run(
            id=STOPPED,
            at="00:00..12:00",
            on=["m5"],
            gaps=["02:15..10:00"],
            future_end_time=dt.datetime(2099, 1, 1, tzinfo=dt.timezone.utc),
            run_status="KILLED",
        ),
        make_run(id=ZERO_LENGTH, at="09:00..09:00", on=["m1"]),
        make_run(id=NOWHERE, at="09:00..10:00", on=[]),
        make_run(id=LATE, at="2026-10-20T00:00..2026-10-20T01:00", on=["m1"]),
        make_run(id=ELSEWHERE, at="09:00..10:00", on=["gpu-m9"]),
        make_run(id=EXCLUDED, at="09:00..10:00", on=["db"]),
        make_run(id=ON_NODE, at="09:00..10:00", on=["node-1"]),
        make_run(id=TWICE, at="09:00..10:00", on=["m9"], server="lab"),
        make_run(id=TWICE, at="09:00..10:00", on=["m9"]),
    ]
    hours = [f"{hour:02d}:00..{hour + 1:02d}:00" for hour in range(72)]
    lines = [
        line(
            100 + h,
            on="m1",
            at=hours[h],
            cost="24.576",
            machine_gpus=8,
            instance_type="p4d.24xlarge",
            pricing_category="Committed",
            billed_cost=Decimal("0.10"),
            list_cost=Decimal("32.7733"),
            id=f"{h:016x}",
        )
        for h in range(8, 14)
    ]
    lines += [
        line(200 + h, on="vol-1", attached_to="m1", at=hours[h], cost="0.66", service_name="EBS", service_category="Storage")
        for h in range(8, 14)
    ]
    lines += [line(300, on="m4", at=hours[2], cost="5.00", run_tag=TAGGED, hours=0.75)]
    lines += [line(301, on="m4", at=hours[5], cost="0.25", run_tag=TAGGED, hours=0.1)]  # the tag was on the machine longer than the run
    lines += [line(400 + h, on="m2", at=hours[h], cost="1.00") for h in (0, 1, 20, 21, 22)]
    lines += [line(500 + h, on="m3", at=hours[h], cost="0.3333333333333333333333") for h in range(72)]
    lines += [line(700 + h, on="m5", at=hours[h], cost="1.00") for h in range(12)]
    lines += [
        line(602, on="pod-1", node_key="node-1", at=hours[9], cost="2.00", allocated_resource_id="pod-1"),
        line(600, on="db", at=hours[9], cost="7.00", scope="exclude"),
        line(601, on=None, charge_category="Tax", cost="1.10", service_name="Tax"),
    ]
    return {
        "billing_lines": lines,
        "billing_loads": [],
        "runs": [run for run, _ in stated],
        "run_resources": [row for _, rows in stated for row in rows],
    }


def make_explained(root: Path, *more: dict[str, Any]) -> ParquetWarehouse:
    """Write the world to a warehouse, with the state of its bill and the changes of its second version. `more` are further bill lines."""
    if more:
        _make(root, *more)
    else:
        copy_made_once("explained", _make, root)
    return ParquetWarehouse(root)


def called_by(number: int, team: str, cost: str) -> dict[str, Any]:
    """Return a bill line of a language model. No run states its caller, and the bill names its team."""
    return line(
        number, on=None, cost=cost, service_name="Amazon Bedrock", service_category="AI and Machine Learning",
        service_subcategory="Generative AI", principal_key=f"aws:1:role/{team}", line_team=team,
    )  # fmt: skip


def _make(root: Path, *more: dict[str, Any]) -> None:
    world = explain_world()
    world["billing_lines"] += more
    warehouse = build_on_duckdb(world, root)
    covered = dt.datetime(2026, 10, 4, tzinfo=dt.timezone.utc)
    loads = warehouse.states("billing_loads")
    with warehouse.step("load", "state") as step:
        for unit in loads:
            rows = warehouse.read(unit)
            assert rows is not None
            step.put(*unit, arrow("billing_loads", [{**r, "version_number": 2, "covered_until": covered} for r in rows.to_pylist()]))
        change = {"source": "aws", "billing_period": dt.date(2026, 10, 1), "version": "v2", "version_number": 2, "charge_date": dt.date(2026, 10, 1), "service_name": "EC2", "sub_account_id": "account",
                  "billing_currency": "USD", "load_id": "load", **dict.fromkeys(("list_cost", "contracted_cost", "effective_cost", "billed_cost"), world["billing_lines"][0]["effective_cost"])}  # fmt: skip
        step.put("bill_changes", "2026-10", "aws", arrow("bill_changes", [change]))
        source = {"source": "aws", "kind": "bill", "state": "ok", "covered_until": covered, "late_after_seconds": 172800.0}
        step.put("sources", "all", "aws", arrow("sources", [source]))
        assert step.publish()
