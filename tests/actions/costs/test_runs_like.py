"""The cost of runs similar to a planned one. Finished and failed runs are separate, nested runs count with their parent, and few runs have no interval."""

from __future__ import annotations

import datetime as dt
import json
from dataclasses import replace
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

import runspend
from runspend.actions.costs import runs_like
from runspend.actions.costs.runs_like import RunsLike, find_runs_like, say_what_it_costs
from runspend.core.errors import UsageError
from runspend.interfaces.cli import cli
from runspend.warehouse.base import Reader
from runspend.warehouse.parquet.warehouse import ParquetWarehouse
from tests.allocation.chain import arrow, make_run
from tests.sql_lint import lint

NOW = dt.datetime(2026, 10, 20, tzinfo=dt.timezone.utc)


def billed(
    number: int, cost: str, *, hours: int = 1, status: str = "FINISHED", currency: str = "USD", **row: Any
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return a run and its row of run_costs."""
    params = row.pop("params", {})
    run, _ = make_run(id=f"r{number}", at=f"2026-10-02T00:00:00..2026-10-02T{hours:02d}:00:00", **row)
    run |= {"experiment_name": "vision", "run_status": status, "params": json.dumps(params)}
    shared = (
        "tracking_server",
        "workspace",
        "run_id",
        "start_month",
        "experiment_name",
        "run_status",
        "start_time",
        "end_time",
        "parent_run_id",
    )
    return run, {name: run[name] for name in shared} | {"billing_currency": currency, "cost_with_children": Decimal(cost)}


@pytest.fixture
def reader(tmp_path: Path) -> Any:
    made = [billed(n, str(n), hours=n, params={"lr": "0.1" if n <= 3 else "it's", "model.name": "x"}) for n in range(1, 12)]
    made += [
        billed(20, "500", status="FAILED"),
        billed(21, "700", status="KILLED"),
        billed(22, "9999", status="RUNNING"),
        billed(23, "9999", parent="r1"),
        billed(24, "9999", currency=""),
        billed(25, "80", currency="EUR"),
    ]
    warehouse = ParquetWarehouse(tmp_path)
    with warehouse.step("test", "test") as step:
        step.put("runs", "2026-10", "prod", arrow("runs", [run for run, _ in made]))
        names = [
            {"tracking_server": "prod", "workspace": "default", "experiment_id": f"{i}", "experiment_name": n}
            for i, n in enumerate(("vision", "speech"))
        ]
        step.put("experiments", "all", "prod", arrow("experiments", names))
        step.put("run_costs", "2026-10", "all", arrow("run_costs", [row for _, row in made]))
        assert step.publish()
    with warehouse.reader() as opened:
        yield opened


def say(reader: Reader, experiment: str = "vision", **params: str) -> list[str]:
    return say_what_it_costs(experiment, find_runs_like(reader, experiment, {k.replace("__", "."): v for k, v in params.items()}, NOW))


def test_finished_and_failed_runs_are_separate_in_each_currency(reader: Reader) -> None:
    assert say(reader) == [
        "1 finished run: 80.00 EUR and 1.0 h",
        "11 finished runs: median 6.00 USD and 6.0 h; the middle 80% cost 2.00 to 10.00 USD",
        "2 failed or stopped runs: median 500.00 USD and 1.0 h; they cost 500.00 to 700.00 USD",
    ]


def test_params_narrow_the_runs(reader: Reader) -> None:
    assert say(reader, lr="0.1") == ["3 finished runs: median 2.00 USD and 2.0 h; they cost 1.00 to 3.00 USD"]
    assert say(reader, lr="it's", model__name="x")[0].startswith("8 finished runs: median 7.00 USD")
    assert say(reader, lr="7") == ["No similar run of vision ended in the last 365 days and was billed."]


def test_an_unknown_selector_is_reported(reader: Reader) -> None:
    assert say(reader, "speech") == ["No similar run of speech ended in the last 365 days and was billed."]
    with pytest.raises(UsageError, match="cannot compare with runs of visoin: the warehouse has no experiment of this name"):
        say(reader, "visoin")
    with pytest.raises(UsageError, match=r"no run of vision has it in the warehouse\. Name it in `copy\.params`"):
        say(reader, epochs="3")
    with pytest.raises(UsageError, match="cannot use the param"):
        find_runs_like(reader, "vision", {"x') or ('1' = '1": "1"}, NOW)


def test_short_and_cheap_runs_keep_their_digits() -> None:
    one = RunsLike("prod", "default", "USD", False, 2, Decimal("0.0047"), Decimal("0.0004"), Decimal("1.06"), 5 / 3600, False)
    assert say_what_it_costs("vit", [one]) == ["2 failed or stopped runs: median 0.0047 USD and 5 s; they cost 0.0004 to 1.06 USD"]
    assert say_what_it_costs("vit", [replace(one, median_hours=0.5)])[0].startswith(
        "2 failed or stopped runs: median 0.0047 USD and 30 min;"
    )


def test_python_and_the_command_give_the_same(reader: Reader, tmp_path: Path) -> None:
    (tmp_path / "runspend.yaml").write_text(f"home: {tmp_path}\nwarehouse: {{uri: {tmp_path}}}\n")
    given = ["forecast", "-e", "vision", "--param", "lr=0.1", "--json", "--config", str(tmp_path / "runspend.yaml"), "--now", "2026-10-20"]
    shown = json.loads(CliRunner().invoke(cli, given).stdout)
    assert runspend.forecast("vision", {"lr": 0.1}, config=str(tmp_path / "runspend.yaml"), now=NOW) == shown
    assert [(one["runs"], Decimal(one["median"]), one["is_finished"]) for one in shown] == [(3, 2, True)]


def test_both_engines_read_its_query() -> None:
    text = (Path(runs_like.__file__).parent / "runs_like.sql").read_text()
    assert lint(text.replace("{with_params}", "and json_value(r.params, '$.\"lr\"') = @param_0")) == []
