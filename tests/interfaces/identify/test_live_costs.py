"""What a training process reports about the cost of its runs, during training and at its end. No error ever reaches the training."""

from __future__ import annotations

import json
import sqlite3
import subprocess
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from runspend.interfaces.identify import live_costs, metadata_services
from runspend.interfaces.identify.live_costs import Price, find_price
from tests.interfaces.identify.forked_training import run_training
from tests.mlflow_store import make_schema
from tests.servers.metadata_services import serve_metadata

EC2 = metadata_services.ADDRESSES["ec2"]
PRICES = [
    {"instance_type": "g5.2xlarge", "region": "us-east-1", "purchase_option": "spot", "currency": "USD", "gpus": 1, "machine_hours": 9, "hour_cost": "3600"},
    {"instance_type": "g5.2xlarge", "region": "us-east-1", "purchase_option": "on_demand", "currency": "USD", "gpus": 1, "machine_hours": 99, "hour_cost": "7200"},
    {"instance_type": "g5.2xlarge", "region": "", "purchase_option": "on_demand", "currency": "EUR", "gpus": 1, "machine_hours": 1, "hour_cost": "1"},
    {"instance_type": "p4d.24xlarge", "region": "us-east-1", "purchase_option": "on_demand", "currency": "USD", "gpus": 8, "machine_hours": 9, "hour_cost": "32"},
]  # fmt: skip
LISTED = {
    "version": 1,
    "prices": PRICES,
    "experiments": [
        {"tracking_server": "prod", "workspace": "default", "experiment_id": "1", "experiment": "vit", "currency": "USD"}
        | {"runs": 9, "low": "38.00", "high": "52.00"},
        {"tracking_server": "dev", "workspace": "default", "experiment_id": "7", "experiment": "vit", "currency": "USD"}
        | {"runs": 9, "low": "1.00", "high": "2.00"},
    ],
}
TRAINING = """
import sys, time, threading, mlflow
mlflow.set_tracking_uri(sys.argv[1])
mlflow.set_experiment("vit")
with mlflow.start_run(run_name="outer"):
    time.sleep(float(sys.argv[2]))
    if len(sys.argv) > 3:
        with mlflow.start_run(run_name="inner", nested=True):
            time.sleep(float(sys.argv[3]))
"""


def train(
    folder: Path, prices: str, *seconds: float, address: str, has_store: bool = False, minutes: str = "0.01"
) -> subprocess.CompletedProcess[str]:
    own = {
        "RUNSPEND_IDENTIFY": "on",
        "AWS_EC2_METADATA_DISABLED": "false",
        EC2: address,
        "RUNSPEND_PRICES": prices,
        "RUNSPEND_LIVE_MINUTES": minutes,
    }
    if not has_store:
        make_schema(folder / "mlflow.db")
    done = run_training(TRAINING, f"sqlite:///{folder / 'mlflow.db'}", *map(str, seconds), cwd=folder, environment=own)
    assert done.returncode == 0, done.stderr
    return done


def shown(folder: Path) -> dict[str, tuple[float, int]]:
    """Return each run's newest estimate in dollars, and how many estimates it has."""
    with sqlite3.connect(folder / "mlflow.db") as database:
        rows = database.execute(
            "select r.name, l.value, count(*) from latest_metrics l join metrics m using (run_uuid, key) join runs r using (run_uuid)"
            " where key = 'cost_usd_estimated' group by 1, 2"
        ).fetchall()
    database.close()
    return {name: (value, count) for name, value, count in rows}


def test_runs_show_their_cost_while_they_train_and_the_process_says_it(tmp_path: Path) -> None:
    """At 3,600 per hour, a second costs one dollar. The outer run pays until the inner one begins."""
    (tmp_path / "prices.json").write_text(json.dumps(LISTED), encoding="utf-8")
    with serve_metadata() as (address, _):
        done = train(tmp_path, str(tmp_path / "prices.json"), 3, 2, address=address)
    costs = shown(tmp_path)
    assert costs["outer"][0] == pytest.approx(3, abs=1.2) and costs["outer"][1] > 1
    assert costs["inner"][0] == pytest.approx(2, abs=1.2)
    [line] = [line for line in done.stderr.splitlines() if line.startswith("Runspend: ")]
    assert line.startswith("Runspend: these 2 runs have cost about ") and line.endswith(" USD, 3,600.00 an hour")


def test_one_run_is_compared_with_runs_like_it(tmp_path: Path) -> None:
    (tmp_path / "prices.json").write_text(json.dumps(LISTED), encoding="utf-8")
    with serve_metadata() as (address, _):
        done = train(tmp_path, str(tmp_path / "prices.json"), 2, address=address)
    [line] = [line for line in done.stderr.splitlines() if line.startswith("Runspend: ")]
    assert line.startswith("Runspend: this run has cost about ") and line.endswith("an hour; similar runs cost 38.00 to 52.00")


def test_experiments_of_two_servers_with_the_same_name_and_id_are_not_compared(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mlflow.MlflowClient.get_experiment", lambda _, experiment_id: SimpleNamespace(name="vit"))
    listed: Any = LISTED["experiments"]
    assert live_costs._find_typical(listed, "7", "USD") == listed[1]
    assert live_costs._find_typical(listed, "7", "EUR") is None
    assert live_costs._find_typical([*listed, listed[1] | {"tracking_server": "test"}], "7", "USD") is None


SLOW_SERVICE = """
import time
from runspend.interfaces.identify import metadata_services
ask = metadata_services.SERVICES["ec2"]
metadata_services.SERVICES["ec2"] = lambda *given: (time.sleep(0.5), ask(*given))[1]
"""


def test_the_price_waits_for_the_machine_to_be_known(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The process reads the price list before the metadata service answers."""
    (tmp_path / "prices.json").write_text(json.dumps(LISTED), encoding="utf-8")
    monkeypatch.setattr("tests.interfaces.identify.test_live_costs.TRAINING", SLOW_SERVICE + TRAINING)
    with serve_metadata() as (address, _):
        done = train(tmp_path, str(tmp_path / "prices.json"), 2, address=address)
    assert "Runspend: this run has cost about " in done.stderr


FORKED = """
import multiprocessing, sys, time, mlflow
mlflow.set_tracking_uri(sys.argv[1])
mlflow.set_experiment("vit")
def trial():
    with mlflow.start_run(run_name="forked"):
        time.sleep(4)
worker = multiprocessing.get_context("fork").Process(target=trial)
worker.start()
worker.join()
print("worker ended", worker.exitcode, file=sys.stderr)
"""


def test_a_forked_worker_writes_its_last_value(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The first value would be due after the worker has ended, so only its end can write one."""
    (tmp_path / "prices.json").write_text(json.dumps(LISTED), encoding="utf-8")
    monkeypatch.setattr("tests.interfaces.identify.test_live_costs.TRAINING", FORKED)
    with serve_metadata() as (address, _):
        done = train(tmp_path, str(tmp_path / "prices.json"), address=address, minutes="0.1")
    assert shown(tmp_path)["forked"][0] == pytest.approx(4, abs=2.2)
    assert done.stderr.count("Runspend: this run has cost about ") == 1


RESUMED = """
import sys, time, threading, mlflow, runspend
mlflow.set_tracking_uri(sys.argv[1])
run = mlflow.MlflowClient().search_runs(["1"])[0]
open_thread = threading.Thread(target=lambda: mlflow.start_run(run_name="left open"))
open_thread.start(); open_thread.join()
with mlflow.start_run(run_id=run.info.run_id):
    runspend.identify()
    time.sleep(2)
"""


def test_a_resumed_run_continues_from_its_earlier_cost(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A thread left another run open. That run no longer trains, so it gets no time."""
    (tmp_path / "prices.json").write_text(json.dumps(LISTED), encoding="utf-8")
    with serve_metadata() as (address, _):
        train(tmp_path, str(tmp_path / "prices.json"), 2, address=address)
        before, count = shown(tmp_path)["outer"]
        monkeypatch.setattr("tests.interfaces.identify.test_live_costs.TRAINING", RESUMED)
        train(tmp_path, str(tmp_path / "prices.json"), address=address, has_store=True)
    after, more = shown(tmp_path)["outer"]
    assert after == pytest.approx(before + 2, abs=1.2) and more > count


@pytest.mark.parametrize("text", [None, "[]", '{"prices": 7}', '{"prices": [{"instance_type": "g5.2xlarge"}]}'])
def test_a_list_that_cannot_be_used_is_not_noticed_by_the_training(tmp_path: Path, text: str | None) -> None:
    if text is not None:
        (tmp_path / "prices.json").write_text(text, encoding="utf-8")
    with serve_metadata() as (address, _):
        began = time.monotonic()
        done = train(tmp_path, str(tmp_path / "prices.json"), 0.2, address=address)
    assert time.monotonic() - began < 60
    assert "Traceback" not in done.stderr and "Runspend:" not in done.stderr
    assert shown(tmp_path) == {}


def test_an_address_that_hangs_does_not_delay_the_training(tmp_path: Path) -> None:
    with serve_metadata() as (address, _), serve_metadata("hangs") as (silent, _):
        done = train(tmp_path, f"http://{silent.removeprefix('http://')}/prices.json", 0.2, address=address)
    assert "Traceback" not in done.stderr and "Runspend:" not in done.stderr


@pytest.mark.parametrize(
    ("tags", "expected"),
    [
        ({"type": "g5.2xlarge", "region": "us-east-1", "purchase_option": "spot"}, Price(3600.0, "USD")),
        ({"type": "G5.2xlarge", "region": "us-east-1"}, Price(7200.0, "USD")),
        ({"type": "g5.2xlarge", "region": "eu-west-1"}, Price(1.0, "EUR")),  # from a bill that does not name regions
        ({"type": "g5.2xlarge"}, Price(7200.0, "USD")),  # the region with most of its hours
        ({"type": "p4d.24xlarge", "region": "eu-west-1"}, None),
        ({"type": "p4d.24xlarge", "region": "us-east-1", "purchase_option": "spot"}, None),
        ({"type": "p4d.24xlarge", "region": "us-east-1", "gpu_count": "2"}, Price(8.0, "USD")),
        ({"type": "p4d.24xlarge", "gpu_count": "16"}, Price(32.0, "USD")),
        ({"type": "p4d.24xlarge", "gpu_count": "many"}, Price(32.0, "USD")),
        ({"type": "m5.large"}, None),
        ({}, None),
    ],
)
def test_the_nearest_price_counts(tags: dict[str, str], expected: Price | None) -> None:
    assert find_price(PRICES, {f"runspend.machine.{key}": value for key, value in tags.items()}) == expected


@pytest.mark.parametrize(
    "price", [{"hour_cost": "nan"}, {"hour_cost": "-5"}, {"hour_cost": "1e999"}, {"currency": {"a": 1}}, {"currency": "US Dollar"}]
)
def test_a_price_that_cannot_be_is_refused(price: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="an hour cannot cost"):
        find_price([PRICES[1] | price], {"runspend.machine.type": "g5.2xlarge"})


@pytest.mark.parametrize(
    ("variables", "nodes"),
    [({}, 1), ({"WORLD_SIZE": "16", "LOCAL_WORLD_SIZE": "8"}, 2), ({"SLURM_JOB_NUM_NODES": "4"}, 4), ({"WORLD_SIZE": "x"}, 1)],
)
def test_every_machine_of_a_job_counts(monkeypatch: pytest.MonkeyPatch, variables: dict[str, str], nodes: int) -> None:
    for key, value in variables.items():
        monkeypatch.setenv(key, value)
    assert live_costs._nodes() == nodes
    found: Any = find_price(PRICES, {"runspend.machine.type": "p4d.24xlarge"}, nodes)
    assert found.hour_cost == 32 * nodes


def test_one_module_knows_the_variable_of_the_price_list() -> None:
    modules = Path(live_costs.__file__).parent.glob("*.py")
    assert [module.name for module in modules if '"RUNSPEND_PRICES"' in module.read_text(encoding="utf-8")] == ["environment.py"]
