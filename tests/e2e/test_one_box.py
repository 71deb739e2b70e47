"""One machine under a desk, as in docs/start-one-box.md: MLflow's own store, the page's file, and a pipeline run."""

from __future__ import annotations

import json
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from tests.command import run_here
from tests.mlflow_store import make_schema
from tests.servers.mlflow_client import mlflow_client

EXAMPLE = Path(__file__).resolve().parents[1] / "config" / "examples" / "one-box.yaml"
BEGIN = 1793491200000  # November
RUNS = [  # experiment, user, requested GPUs, start and end in hours of November
    ("vit", "ana", 4, 56, 62),
    ("vit", "ben", 2, 58, 66),
    ("asr", "cai", 2, 456, 480),
]


def log(folder: Path) -> None:
    """Create the runs, as MLflow's client writes them."""
    with mlflow_client(f"sqlite:///{make_schema(folder / 'mlflow.db')}") as client:
        experiments: dict[str, str] = {}
        for experiment, user, gpus, start, end in RUNS:
            if experiment not in experiments:
                experiments[experiment] = client.create_experiment(experiment, artifact_location=(folder / "artifacts").as_uri())
            run = client.create_run(experiments[experiment], start_time=BEGIN + start * 3_600_000, tags={"mlflow.user": user}).info.run_id
            client.log_param(run, "gpu_count", gpus)
            client.set_terminated(run, end_time=BEGIN + end * 3_600_000)


def runspend(folder: Path, *arguments: str) -> str:
    """Return what a command prints."""
    return run_here(*arguments, cwd=folder).stdout


@pytest.fixture(scope="module")
def box(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The example's file over a store in a folder, with the machine from October on, after the pipeline run of 1 December."""
    folder = tmp_path_factory.mktemp("box")
    log(folder)
    text = EXAMPLE.read_text(encoding="utf-8").replace("sqlite:////srv/mlflow/mlflow.db", "sqlite:///mlflow.db")
    assert "from: 2026-01-01" in text
    (folder / "runspend.yaml").write_text(text.replace("from: 2026-01-01", "from: 2026-10-01"), encoding="utf-8")
    (folder / "first.txt").write_text(night(folder), encoding="utf-8")
    return folder


def night(folder: Path) -> str:
    return runspend(folder, "nightly", "--config", "runspend.yaml", "--now", "2026-12-01T07:00")


def ask(folder: Path, query: str) -> list[dict[str, Any]]:
    found = runspend(folder, "sql", "--config", "runspend.yaml", "--json", query)
    return list(json.loads(found, parse_float=Decimal))


def test_november_is_what_the_box_cost(box: Path) -> None:
    """The bill is 1,155.08. Every hour belongs to a run or is idle, the bill equals the export, and the month is final on 1 December."""
    printed = dict(line.split("=", 1) for line in (box / "first.txt").read_text().splitlines() if "=" in line)
    assert (printed["2026-11.EUR.bill"], printed["2026-11.EUR.equals_loaded_bill"], printed["exit"]) == ("1155.08", "true", "0")
    assert printed["2026-11.EUR.covered_until"] == "2026-12-01T00:00:00Z"
    assert (printed["2026-11.EUR.out_of_scope"], printed["2026-11.EUR.unallocated"], printed["2026-11.EUR.shared"]) == ("0", "0", "0")
    assert Decimal(printed["2026-11.EUR.allocated_to_runs"]) + Decimal(printed["2026-11.EUR.idle"]) == Decimal("1155.08")
    assert (box / ".runspend" / "reports" / "2026-11.html").is_file()
    [state] = ask(box, "select state from period_states where billing_period = '2026-11-01'")
    assert state["state"] == "final"


def test_runs_pay_for_the_gpus_they_had(box: Path) -> None:
    """The machine has four GPUs. Runs request all for two hours, 4 + 2 for four hours, two for four hours, and two for a day.

    The rest is idle.
    """
    hour = Decimal("1155.08") / 720
    expected = {
        "ana": hour * 2 + hour * 4 * 4 / 6,
        "ben": hour * 4 * 2 / 6 + hour * 4 * 2 / 4,
        "cai": hour * 24 * 2 / 4,
    }
    rows = ask(box, "select owner, effective_cost, confidence, gpu_seconds from run_costs order by owner")
    assert {row["owner"]: row["confidence"] for row in rows} == dict.fromkeys(expected, "medium")
    for row in rows:
        assert abs(Decimal(row["effective_cost"]) - expected[row["owner"]]) < Decimal("1e-7"), row
