"""What runs that are still going have cost: billed, estimated, and since the last pipeline run; silent and ended runs are not among them."""

from __future__ import annotations

import datetime as dt
import json
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from runspend.actions.costs import running
from runspend.actions.costs.running import find_running, say_what_runs
from runspend.interfaces.cli import cli
from runspend.warehouse.base import Reader
from runspend.warehouse.lint import lint
from runspend.warehouse.parquet.warehouse import ParquetWarehouse
from tests.allocation.chain import arrow, make_run, moment
from tests.command import run_here

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
        # Two machines in its last hour; before it, one.
        "run_estimates": [
            estimate("aaaa1111", "2026-10-19T00:00:00", "5", hours=29),
            estimate("aaaa1111", "2026-10-20T05:00:00", "3"),
            estimate("aaaa1111", "2026-10-20T05:00:00", "3.20", machine="m2"),
            estimate("0000aaaa", "2026-10-20T01:00:00", "1.00"),  # then it waited for its nested run
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


def test_costs_go_on_after_the_last_pipeline_run(reader: Reader) -> None:
    found = {run.run_id: run for run in find_running(reader, NOW)}
    assert sorted(found) == ["0000aaaa", "aaaa1111", "bbbb2222", "cccc3333"]
    assert (found["0000aaaa"].cost, found["0000aaaa"].hour_cost) == (Decimal(51), Decimal(0))
    # 24 billed, 11.20 estimated until 06:00, and two and a half hours at the 6.20 of its last hour.
    assert (found["aaaa1111"].cost, found["aaaa1111"].hour_cost) == (Decimal("50.7"), Decimal("6.2"))
    # 48 for the 24 hours that are billed, then 8.5 hours at 2.
    assert (found["cccc3333"].cost, found["cccc3333"].hour_cost) == (Decimal(65), Decimal(2))
    assert (found["bbbb2222"].cost, found["bbbb2222"].hour_cost) == (None, None)


def test_each_run_is_a_sentence(reader: Reader) -> None:
    assert list(say_what_runs(find_running(reader, NOW))) == [
        "cccc3333 (cccc3333) of speech: has cost about 65.00 USD, 2.00 an hour",
        "0000aaaa (0000aaaa) of parents: has cost about 51.00 USD, 0.00 an hour",
        "vit (aaaa1111) of exp: has cost about 50.70 USD, 6.20 an hour; runs like it cost 38.00 to 38.00",
        "new (bbbb2222) of exp: its cost is not known: no bill or price shows its machine. `runspend explain` says why",
    ]
    assert [run.run_id for run in find_running(reader, NOW, run="vit")] == ["aaaa1111"]
    assert [run.run_id for run in find_running(reader, NOW, run="cccc")] == ["cccc3333"]
    assert [run.run_id for run in find_running(reader, NOW, experiment="speech")] == ["cccc3333"]
    assert list(say_what_runs(find_running(reader, NOW, run="x"))) == ["No run was active when the tracking servers were last read."]


def test_the_command_shows_the_same(reader: Reader, tmp_path: Path) -> None:
    (tmp_path / "runspend.yaml").write_text(f"home: {tmp_path}\nwarehouse: {{uri: {tmp_path}}}\n")
    given = ("live", "--config", str(tmp_path / "runspend.yaml"), "--now", "2026-10-20T08:30")
    assert "vit (aaaa1111) of exp: has cost about 50.70 USD, 6.20 an hour" in run_here(*given).stdout
    shown = json.loads(run_here(*given, "--json", "vit").stdout)
    assert [(one["cost"], one["hour_cost"], one["known_until"], one["runs_like"]["runs"]) for one in shown] == [
        ("50.7", "6.2", "2026-10-20T06:00:00+00:00", 1)
    ]


def test_both_engines_read_its_query() -> None:
    assert lint((Path(running.__file__).parent / "running_runs.sql").read_text()) == []
    assert "live" in cli.commands
