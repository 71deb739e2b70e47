"""Pairs of jobs and machines with one name in two accounts, regions, projects, workspaces and clusters. Each run pays only for its own."""

from __future__ import annotations

import json
from decimal import Decimal
from pathlib import Path

import pytest

from tests.e2e.conftest import Runspend
from tests.focus_files import row, write_csv
from tests.mlflow_store import make_schema
from tests.servers.mlflow_client import mlflow_client

BEGIN = 1793527200000  # 1 November 2026, 10:00
SAGEMAKER = "arn:aws:sagemaker:{}:{}:training-job/train"
VERTEX = "//aiplatform.googleapis.com/projects/{}/locations/us-central1/customJobs/77"
AZURE = "/subscriptions/s/resourceGroups/ml/providers/Microsoft.MachineLearningServices/workspaces/{}/jobs/mango"
INSTANCE = "//compute.googleapis.com/projects/{}/zones/{}/instances/trainer"
POD = "arn:aws:eks:us-east-1:111111111111:pod/{}/train/a/uid-of-{}"
WORKSPACE = {"AZUREML_ARM_SUBSCRIPTION": "s", "AZUREML_ARM_RESOURCEGROUP": "ml", "AZUREML_RUN_ID": "mango"}
# What each run states, and its own bill line. The other line of the pair belongs to users without MLflow.
PAIRS: dict[str, tuple[dict[str, str], dict[str, str], dict[str, str]]] = {
    "accounts": ({"TRAINING_JOB_ARN": SAGEMAKER.format("us-east-1", 1)}, {"ResourceId": SAGEMAKER.format("us-east-1", 1)}, {"ResourceId": SAGEMAKER.format("us-east-1", 2)}),
    "regions": ({"TRAINING_JOB_ARN": SAGEMAKER.format("eu-west-1", 3)}, {"ResourceId": SAGEMAKER.format("eu-west-1", 3)}, {"ResourceId": SAGEMAKER.format("eu-west-3", 3)}),
    "projects": ({"runspend.job_id": VERTEX.format("p")}, {"ResourceId": VERTEX.format("p")}, {"ResourceId": VERTEX.format("q")}),
    "workspaces": ({**WORKSPACE, "AZUREML_ARM_WORKSPACE_NAME": "W1"}, {"ResourceId": AZURE.format("W1")}, {"ResourceId": AZURE.format("W2")}),
    "one subscription": (
        {**WORKSPACE, "AZUREML_ARM_WORKSPACE_NAME": "W3", "AZUREML_RUN_ID": "kiwi"}, {"ResourceId": AZURE.format("W3").removesuffix("/jobs/mango"), "Tags": '{"azureml.job_id":"kiwi"}'},
        {"ResourceId": AZURE.format("W4").removesuffix("/jobs/mango"), "Tags": '{"azureml.job_id":"kiwi"}'},
    ),
    "slurm": (
        {"SLURM_JOB_ID": "4711", "SLURM_CLUSTER_NAME": "hydra"}, {"ResourceId": "", "Tags": '{"slurm_job_id":"4711","cluster":"hydra"}'},
        {"ResourceId": "", "Tags": '{"slurm_job_id":"4711","cluster":"medusa"}'},
    ),
    "instances": ({"instance_id": "gce://p/us-central1-a/trainer"}, {"ResourceId": INSTANCE.format("p", "us-central1-a")}, {"ResourceId": INSTANCE.format("p", "us-central1-b")}),
    "bare": (
        {"instance_id": "gce://p/us-central1-a/lonely"}, {"ResourceId": "lonely", "ServiceName": "Compute Engine", "SubAccountId": "p", "RegionId": "us-central1"},
        {"ResourceId": "lonely", "ServiceName": "Compute Engine", "SubAccountId": "q", "RegionId": "us-central1"},
    ),
    "pods": ({"instance_id": "k8s://blue/train/a"}, {"ResourceId": POD.format("blue", 1)}, {"ResourceId": POD.format("green", 2)}),
}  # fmt: skip
SHORT = {"two jobs": {"sagemaker.training_job_name": "twice"}, "one job": {"sagemaker.training_job_name": "once"}}


@pytest.fixture(scope="module")
def company(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store and a bill. In every pair, the run's own machine costs 10 and the other one 1000."""
    folder = tmp_path_factory.mktemp("names")
    with mlflow_client(f"sqlite:///{make_schema(folder / 'mlflow.db')}") as client:
        experiment = client.create_experiment("names", artifact_location=(folder / "artifacts").as_uri())
        for name, tags in {**{name: pair[0] for name, pair in PAIRS.items()}, **SHORT}.items():
            run = client.create_run(experiment, start_time=BEGIN, tags={"mlflow.user": name, **tags})
            client.set_terminated(run.info.run_id, end_time=BEGIN + 3_600_000)
    hour = {
        "BillingPeriodStart": "2026-11-01T00:00:00Z",
        "BillingPeriodEnd": "2026-12-01T00:00:00Z",
        "ChargePeriodStart": "2026-11-01T10:00:00Z",
        "ChargePeriodEnd": "2026-11-01T11:00:00Z",
    }
    rows = [row(cost, **hour, **line) for _, own, other in PAIRS.values() for cost, line in (("10.00", own), ("1000.00", other))]
    names = [("1.00", 1, "once"), ("2.00", 1, "twice"), ("4.00", 2, "twice")]
    rows += [row(cost, **hour, ResourceId=f"arn:aws:sagemaker:us-east-1:{account}:training-job/{name}") for cost, account, name in names]
    write_csv(folder / "bill" / "nov.csv", rows, header=sorted({name for each in rows for name in each}))
    (folder / "runspend.yaml").write_text(
        "tracking: [{name: prod, uri: 'sqlite:///mlflow.db'}]\nbilling: [{name: bill, uri: bill, format: focus}]\n"
        "dimensions: {owner: [run.user]}\nmail: {backend: none}\n",
        encoding="utf-8",
    )
    return folder


def test_a_machine_with_a_duplicate_name_is_paid_by_its_own_run(company: Path, runspend: Runspend) -> None:
    for step in ("extract", "load", "allocate"):
        runspend(step, "--now", "2026-11-02T02:00", cwd=company)
    query = "select owner, effective_cost, confidence from run_costs order by owner"
    rows = json.loads(runspend("sql", "--json", query, cwd=company).stdout, parse_float=Decimal)
    found = {r["owner"]: (Decimal(r["effective_cost"]), r["confidence"]) for r in rows}
    by_machine = {"instances", "bare", "pods"}
    assert found == {
        **{name: (10, "high" if name in by_machine else "exact") for name in PAIRS},
        "one job": (1, "exact"),
        "two jobs": (6, "medium"),
    }
    query = "select distinct reason from cost_allocations where confidence = 'medium'"
    assert json.loads(runspend("sql", "--json", query, cwd=company).stdout) == [{"reason": "ambiguous_name"}]
