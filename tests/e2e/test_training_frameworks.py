"""Runs that Optuna, Ray Tune, Lightning and Transformers create in MLflow name their machine, including parallel and nested trials.

The training, MLflow's server and the metadata service are real. `make test-frameworks` installs the frameworks from
requirements/frameworks.txt into their own environment, `.venv/frameworks`, and runs these tests.

Lightning and Transformers also need PyTorch. As root, the command installs Debian's (171 MB to download, 0.9 GB on disk, two minutes).
Elsewhere, put any PyTorch from 2.6 on into that environment.
"""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from mlflow import MlflowClient
from mlflow.entities import Run

from tests.ingest.tracking.mlflow_servers import mlflow_server
from tests.servers.metadata_services import EC2_DOCUMENT, serve_metadata

pytestmark = pytest.mark.torture
ROOT = Path(__file__).resolve().parents[2]
PYTHON = ROOT / ".venv" / "frameworks" / "bin" / "python"
SCRIPTS = Path(__file__).with_name("frameworks")
INSTANCE = f"arn:aws:ec2:us-east-1:{EC2_DOCUMENT['accountId']}:instance/{EC2_DOCUMENT['instanceId']}"
PARENT, MACHINE, FURTHER = "mlflow.parentRunId", "runspend.machine.id", "runspend.machine.further."
HAS_TORCH = """
import sys
try:
    import torch
except ImportError:
    sys.exit(1)
sys.exit(tuple(map(int, torch.__version__.split(".")[:2])) < (2, 6))
"""

Train = Callable[[str], dict[str, list[Run]]]


@pytest.fixture(scope="module")
def server(python: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    folder = tmp_path_factory.mktemp("mlflow")
    with mlflow_server(folder, f"sqlite:///{folder / 'mlflow.db'}") as uri:
        yield uri


@pytest.fixture(scope="module")
def python() -> Path:
    """The Python with the frameworks."""
    if not PYTHON.exists():
        pytest.skip("the frameworks are not installed: run `make test-frameworks`")
    return PYTHON


@pytest.fixture(scope="module")
def python_with_torch(python: Path) -> Path:
    """The Python with the frameworks, if it also has PyTorch."""
    if subprocess.run([python, "-c", HAS_TORCH], check=False, timeout=300).returncode != 0:
        pytest.skip("there is no PyTorch from 2.6 on for .venv/frameworks: run `make test-frameworks` as root on Debian 13")
    return python


@pytest.fixture
def train(python: Path, server: str, tmp_path: Path) -> Train:
    """Run a script to its end. Return its runs by experiment, oldest first."""

    def run(name: str) -> dict[str, list[Run]]:
        with serve_metadata() as (address, _):
            here = {
                "HOME": str(tmp_path),
                "RUNSPEND_IDENTIFY": "on",
                "AWS_EC2_METADATA_DISABLED": "false",
                "AWS_EC2_METADATA_SERVICE_ENDPOINT": f"http://{address}",
                "HF_HUB_OFFLINE": "1",
                "RAY_USAGE_STATS_ENABLED": "0",
            }
            done = subprocess.run(
                [python, SCRIPTS / f"{name}.py", server],
                cwd=tmp_path,
                env={**os.environ, **here},
                capture_output=True,
                text=True,
                timeout=500,
                check=False,
            )
        assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-6000:]
        client = MlflowClient(server)
        experiments = {experiment.name: experiment.experiment_id for experiment in client.search_experiments()}
        found = {
            n: client.search_runs([i], order_by=["start_time"]) for n, i in experiments.items() if n.startswith(name.removeprefix("with_"))
        }
        for run in (run for runs in found.values() for run in runs):
            machines = [value for key, value in run.data.tags.items() if key == MACHINE or key.startswith(FURTHER)]
            assert machines == [INSTANCE], (run.info.run_name, run.data.tags)
            assert run.data.tags["runspend.machine.type"] == "g5.2xlarge"
            assert run.info.status == "FINISHED", run.info.run_name
        return found

    return run


def split(runs: list[Run]) -> tuple[Run, list[Run]]:
    """Return the run of a sweep, and its children."""
    [parent] = [run for run in runs if run.info.run_name == "sweep"]
    children = [run for run in runs if run.data.tags.get(PARENT) == parent.info.run_id]
    return parent, children


def test_optuna_trials_in_threads_and_processes_name_their_machine(train: Train) -> None:
    found = train("with_optuna")
    assert {name: len(runs) for name, runs in found.items()} == {
        "optuna threads": 5,
        "optuna processes": 5,
        "optuna callback": 4,
        "optuna decorator": 4,
    }
    for name in ("optuna threads", "optuna processes"):
        _, trials = split(found[name])
        assert [(len(run.data.params), list(run.data.metrics)) for run in trials] == [(1, ["loss"])] * 4
    for name in ("optuna callback", "optuna decorator"):
        assert [(list(run.data.params), list(run.data.metrics)) for run in found[name]] == [(["rate"], ["loss"])] * 4
        assert {run.data.tags["state"] for run in found[name]} == {"COMPLETE"}


def test_ray_trials_in_workers_name_their_machine(train: Train) -> None:
    found = train("with_ray")
    assert {name: len(runs) for name, runs in found.items()} == {"ray setup": 5, "ray callback": 2, "ray callback with tags": 2}
    _, trials = split(found["ray setup"])
    [(job, _)] = {(run.data.tags["ray.job_id"], run.data.tags["ray.node_id"]) for run in trials}  # both trials ran on the same node
    assert set(job) != {"f"}
    nested = [run for run in found["ray setup"] if run.info.run_name == "evaluation"]
    assert {run.data.tags[PARENT] for run in nested} == {run.info.run_id for run in trials}
    for runs in (trials, nested, found["ray callback"], found["ray callback with tags"]):
        assert {run.data.params["rate"] for run in runs} == {"0.1", "0.2"}
        assert all("loss" in run.data.metrics for run in runs)
    # The callback does not use plug-ins. The line in the trial or the tags name the machine.
    assert not any("mlflow.user" in run.data.tags for run in found["ray callback"])


def test_lightning_runs_in_processes_and_ranks_name_their_machine(python_with_torch: Path, train: Train) -> None:
    found = train("with_lightning")
    assert {name: len(runs) for name, runs in found.items()} == {"lightning": 3, "lightning ranks": 1, "lightning autolog": 1}
    _, trials = split(found["lightning"])
    for run in [*trials, *found["lightning ranks"]]:
        assert run.data.params["rate"] in ("0.1", "0.01") and run.data.metrics["loss"] > 0
    assert len(trials) == 2
    assert found["lightning autolog"][0].data.params["optimizer_name"] == "SGD"
    assert "loss" in found["lightning autolog"][0].data.metrics


def test_transformers_runs_name_their_machine(python_with_torch: Path, train: Train) -> None:
    found = train("with_transformers")
    _, children = split(found["transformers"])
    assert {run.info.run_name for run in children} == {"nested", "rate 0.1", "rate 0.01"}
    for run in [*children, *(run for run in found["transformers search"] if run.info.run_name == "search")]:
        assert run.data.params["max_steps"] == "4" and run.data.metrics["train_loss"] > 0
    # MLflow starts additional runs for the trials of a search, because the Trainer ends its own before it evaluates.
    assert len(found["transformers"]) == 4 and len(found["transformers search"]) >= 2
