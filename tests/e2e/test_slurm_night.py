"""A cluster's job list and MLflow's own store, as in docs/start-slurm.md. The runs of a job pay exactly its cost."""

from __future__ import annotations

import json
from decimal import Decimal
from pathlib import Path

import pytest

from tests.e2e.conftest import Runspend
from tests.mlflow_store import make_schema
from tests.servers.mlflow_client import mlflow_client

PAGE = Path(__file__).resolve().parents[2] / "docs" / "start-slurm.md"
BEGIN = 1795464000000  # 23 November, 20:00
RUNS = [  # job, user, start and end in minutes
    ("48211", "ana", 4, 595),
    ("48300", "ben", 782, 898),
    ("48301", "cai", 782, 830),
    ("48301", "dan", 832, 895),
]


def fence(language: str) -> str:
    """Return the page's first block in a language."""
    return PAGE.read_text(encoding="utf-8").split(f"```{language}\n", 1)[1].split("```", 1)[0]


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The page's configuration and job list, and a store."""
    folder = tmp_path_factory.mktemp("cluster")
    with mlflow_client(f"sqlite:///{make_schema(folder / 'mlflow.db')}") as client:
        experiment = client.create_experiment("segment", artifact_location=(folder / "artifacts").as_uri())
        for job, user, start, end in RUNS:
            run = client.create_run(experiment, start_time=BEGIN + start * 60_000, tags={"mlflow.user": user, "slurm_job_id": job})
            client.set_terminated(run.info.run_id, end_time=BEGIN + end * 60_000)
    (folder / "runspend.yaml").write_text(fence("yaml"), encoding="utf-8")
    (folder / "sacct").mkdir()
    (folder / "sacct" / "2026-11.txt").write_text(fence("csv"), encoding="utf-8")
    return folder


def test_runs_pay_their_jobs(cluster: Path, runspend: Runspend) -> None:
    """One job has 16 cores, 128 GiB and 2 A100 for 10 hours.

    Two have 8 cores, 32 GiB and a GPU for 2 hours, and two runs share the second of them.
    """
    printed = dict(
        line.split("=", 1) for line in runspend("nightly", "--now", "2026-11-25T02:00", cwd=cluster).stdout.splitlines() if "=" in line
    )
    assert (printed["2026-11.EUR.bill"], printed["2026-11.EUR.equals_loaded_bill"]) == ("59.84", "true")
    query = "select owner, effective_cost, confidence from run_costs order by owner"
    rows = json.loads(runspend("sql", "--json", query, cwd=cluster).stdout, parse_float=Decimal)
    big, small = Decimal("53.76"), Decimal("2.848")
    expected = {"ana": big, "ben": small, "cai": small * 48 / 111, "dan": small * 63 / 111}
    assert [(row["owner"], row["confidence"]) for row in rows] == [(owner, "exact") for owner in expected]
    for row in rows:
        assert abs(Decimal(row["effective_cost"]) - expected[row["owner"]]) < Decimal("1e-9"), row
