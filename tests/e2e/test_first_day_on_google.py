"""The first day of a company on GKE Autopilot and Vertex AI, whose bill names no pods, jobs and endpoints."""

from __future__ import annotations

import random
from collections import defaultdict
from dataclasses import dataclass
from datetime import date, datetime, timedelta, timezone
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
import yaml

from runspend.config.settings import load_settings
from runspend.warehouse.factory import open_warehouse
from tests.command import run_here
from tests.gcp_files import gcp, write_jsonl
from tests.mixed_world import NOW, Run, write_store
from tests.mlflow_store import make_schema

MONTH, HOUR = datetime(2026, 10, 1, tzinfo=timezone.utc), timedelta(hours=1)
GKE, VERTEX = "Kubernetes Engine", "Vertex AI"
CLUSTER = {"name": "c", "global_name": "//container.googleapis.com/projects/pods/locations/us-central1/clusters/c"}
TRAINING = [f"Vertex AI: Training/Pipelines on N1 Predefined Instance {part} running in Americas" for part in ("Core", "Ram")]
# experiment -> project, price of an hour, SKUs, labels
WORK: dict[str, tuple[str, int, list[str], dict[str, str]]] = {
    "detector": ("pods", 3, ["Autopilot Pod mCPU Requests (us-central1)", "Autopilot NVIDIA L4 Pod GPU Requests (us-central1)"], {"k8s-namespace": "vision"}),
    "tagger": ("pods", 1, ["Autopilot Pod mCPU Requests (us-central1)", "Autopilot Pod Memory Requests (us-central1)"], {"k8s-namespace": "nlp"}),
    "ranker": ("training", 2, TRAINING, {}),
    "fraud": ("mixed", 2, TRAINING, {}),
    "churn": ("mixed", 2, TRAINING, {"runspend_job_id": "{job}"}),
}  # fmt: skip


@dataclass(frozen=True)
class Day:
    """What a trial printed and left, and the true cost of each experiment."""

    screen: str
    config: Path
    truth: dict[str, Decimal]

    def sums(self, column: str, having: str) -> dict[str, Decimal]:
        """Return the cost of runs by a column of `cost_daily`."""
        query = f"select {column} as name, sum(effective_cost) as cost from cost_daily where billing_period = @first and allocated_to = 'run' and {having} group by {column}"
        with open_warehouse(load_settings(self.config)).reader() as reader:
            return {row["name"]: row["cost"] for row in reader.query(query, {"first": date(2026, 10, 1)}).to_pylist()}


def charge(at: datetime, project: str, sku: str, cost: int | str, labels: dict[str, str]) -> dict[str, Any]:
    """Return one hour of a SKU."""
    service = GKE if "Autopilot" in sku else VERTEX
    return gcp(
        str(cost), f"{at:%Y-%m-%dT%H:%M:%SZ}",
        service={"id": service, "description": service}, sku={"id": sku, "description": sku}, project={"id": project, "name": project, "labels": []},
        resource=CLUSTER if service == GKE else None, labels=[{"key": key, "value": value} for key, value in labels.items()],
    )  # fmt: skip


def make_company(folder: Path) -> tuple[str, Path, dict[str, Decimal]]:
    """Write runs and a bill. Each run is one job of whole hours. A cluster's fee, an endpoint and calls of a model are billed too."""
    dice = random.Random("google")
    runs: list[Run] = []
    lines: list[dict[str, Any]] = []
    truth: dict[str, Decimal] = defaultdict(Decimal)
    for number in range(160):
        experiment = dice.choice(list(WORK))
        project, price, skus, labels = WORK[experiment]
        start, length = MONTH + dice.randrange(730) * HOUR, dice.randrange(2, 7)
        job = f"job-{number}"
        names = {"k8s-workload-name": job} if project == "pods" else {}
        params = {"runspend.job_id": job} if experiment == "churn" else {}
        runs.append(Run(f"{number:032x}", experiment, "ann", start, start + length * HOUR, job, params=params))
        for hour in range(length):
            for sku in skus:
                own = {key: value.format(job=job) for key, value in labels.items()} | names
                lines.append(charge(start + hour * HOUR, project, sku, f"{price / len(skus)}", own))
            truth[experiment] += price
    for hour in range(744):
        at = MONTH + hour * HOUR
        lines.append(charge(at, "pods", "Autopilot Kubernetes Clusters", "0.1", {}))
        lines.append(charge(at, "mixed", "Vertex AI: Online/Batch Prediction NVIDIA L4 running in Americas", 1, {}))
        lines.append(charge(at, "mixed", "Gemini 2.5 Pro Text Input - Predictions", 1, {}))
    folder.mkdir()
    write_store(make_schema(folder / "mlflow.db"), runs)
    return f"sqlite:///{folder / 'mlflow.db'}", write_jsonl(folder / "bill.jsonl", lines), truth


@pytest.fixture(scope="module")
def day(tmp_path_factory: pytest.TempPathFactory) -> Day:
    """Run one trial."""
    folder = tmp_path_factory.mktemp("google")
    tracking, bill, truth = make_company(folder / "company")
    done = run_here("try", "--tracking", tracking, "--bill", str(bill), "--folder", str(folder / "trial"), "--now", NOW, cwd=folder)
    return Day(done.stdout, folder / "trial" / "runspend.yaml", truth)


def test_pods_and_jobs_that_the_bill_does_not_name_get_pools(day: Day) -> None:
    """Pods have one by namespace. Jobs without a label have one by service, and by meter beside endpoints."""
    pools = yaml.safe_load(day.config.read_text())["pools"]
    assert {pool["runs"]["experiment"]: pool["lines"] for pool in pools} == {
        "detector": {"tag.k8s-namespace": "vision", "account": "pods", "service": GKE},
        "tagger": {"tag.k8s-namespace": "nlp", "account": "pods", "service": GKE},
        "ranker": {"account": "training", "service": VERTEX},
        "fraud": {"account": "mixed", "service": VERTEX, "meter": ["*training*instance*", "*training*gpu*", "*training*tpu*"]},
    }


def test_each_experiment_has_the_cost_of_its_jobs(day: Day) -> None:
    """Labeled jobs match exactly. Pools have the rest: what two jobs of one hour cost is split, and nothing stays idle."""
    assert day.sums("experiment_name", "true") == day.truth
    assert day.sums("confidence", "experiment_name = 'churn'") == {"exact": day.truth["churn"]}
    assert "share endpoints of Vertex AI in account mixed: explains 744.00" in day.screen
    assert "name jobs of Vertex AI" not in day.screen
