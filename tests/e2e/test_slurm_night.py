"""A cluster's job list and a store of MLflow's own, as docs/start-slurm.md has them: a job's runs pay the job, exactly."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from decimal import Decimal
from pathlib import Path

import pytest

Runspend = Callable[..., subprocess.CompletedProcess[str]]
PAGE = Path(__file__).resolve().parents[2] / "docs" / "start-slurm.md"
RUNS = [  # job, user, start and end in minutes of 23 November, 20:00
    ("48211", "ana", 4, 595),
    ("48300", "ben", 782, 898),
    ("48301", "cai", 782, 830),
    ("48301", "dan", 832, 895),
]
STORE = """
import json, sys
from mlflow import MlflowClient
uri, root, runs, begin = sys.argv[1], sys.argv[2], json.loads(sys.argv[3]), 1795464000000
client = MlflowClient(tracking_uri=uri, registry_uri=uri)
experiment = client.create_experiment("segment", artifact_location=root)
for job, user, start, end in runs:
    run = client.create_run(experiment, start_time=begin + start * 60000, tags={"mlflow.user": user, "slurm_job_id": job})
    client.set_terminated(run.info.run_id, end_time=begin + end * 60000)
"""


def fence(language: str) -> str:
    """The page's first block in a language."""
    return PAGE.read_text(encoding="utf-8").split(f"```{language}\n", 1)[1].split("```", 1)[0]


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The page's configuration and job list beside a store."""
    folder = tmp_path_factory.mktemp("cluster")
    command = [sys.executable, "-c", STORE, f"sqlite:///{folder / 'mlflow.db'}", (folder / "artifacts").as_uri(), json.dumps(RUNS)]
    subprocess.run(command, check=True, stdin=subprocess.DEVNULL, capture_output=True)
    (folder / "runspend.yaml").write_text(fence("yaml"), encoding="utf-8")
    (folder / "sacct").mkdir()
    (folder / "sacct" / "2026-11.txt").write_text(fence("csv"), encoding="utf-8")
    return folder


def test_runs_pay_their_jobs(cluster: Path, runspend: Runspend) -> None:
    """10 hours of 16 cores, 128 GiB and 2 A100; 2 hours of 8 cores, 32 GiB and a GPU, the second such shared by two runs."""
    said = dict(line.split("=", 1) for line in runspend("nightly", "--now", "2026-11-25T02:00", cwd=cluster).stdout.splitlines() if "=" in line)
    assert (said["2026-11.EUR.bill"], said["2026-11.EUR.equals_loaded_bill"]) == ("59.84", "true")
    query = "select owner, effective_cost, confidence from run_costs order by owner"
    rows = json.loads(runspend("sql", "--json", query, cwd=cluster).stdout, parse_float=Decimal)
    big, small = Decimal("53.76"), Decimal("2.848")
    expected = {"ana": big, "ben": small, "cai": small * 48 / 111, "dan": small * 63 / 111}
    assert [(row["owner"], row["confidence"]) for row in rows] == [(owner, "exact") for owner in expected]
    for row in rows:
        assert abs(Decimal(row["effective_cost"]) - expected[row["owner"]]) < Decimal("1e-9"), row
