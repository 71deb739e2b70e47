"""Machines without a run, as the warehouse has them: how many there were, when, and which belong to jobs."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from runspend.allocation.suggest.evidence import Cell, read_evidence
from runspend.warehouse.parquet.warehouse import ParquetWarehouse
from tests.allocation.chain import DAY, line, make_run, put_world

BOX: Mapping[str, Any] = {"at": "00:00..24:00", "machine_gpus": 1, "instance_type": "box"}
WORKSPACE = "/subscriptions/s/resourceGroups/g/providers/Microsoft.MachineLearningServices/workspaces/w"
POD: Mapping[str, Any] = {"node_key": "n1", "node_instance_type": "shared", "node_gpus": 4, "instance_type": None, "machine_gpus": None}
LINES: tuple[Mapping[str, Any], ...] = (
    {"on": "fleet", "hours": 60, "cost": 60},
    {"on": "license", "hours": 12, "cost": 12, "instance_type": "licensed"},
    {"on": "license", "cost": 3, "instance_type": "licensed", "sku_id": "license"},
    {"on": "unknown", "cost": 24, "instance_type": "timeless"},
    {"on": "nothing", "hours": 0, "cost": 0, "instance_type": "timeless"},
    {"on": "job", "resource_id": WORKSPACE, "hours": 2, "cost": 2, "instance_type": "trained"},
    {"on": "train", "resource_id": "arn:aws:sagemaker:us-east-1:1:training-job/t", "hours": 2, "cost": 2, "instance_type": "ml.trained"},
    {"on": "serve", "resource_id": "arn:aws:sagemaker:us-east-1:1:endpoint/e", "hours": 2, "cost": 2, "instance_type": "ml.served"},
    {"on": "host", "sku_meter": "USE1-Host:ml.hosted", "hours": 2, "cost": 2, "instance_type": "ml.hosted"},
    {"on": None, "service_name": "Vertex AI", "hours": 2, "cost": 2, "instance_type": "a3-trained"},
    {"on": "vertex", "service_name": "Vertex AI", "hours": 2, "cost": 2, "instance_type": "a2-trained"},
    {
        "on": "notes",
        "service_name": "Amazon SageMaker",
        "resource_id": "arn:aws:sagemaker:us-east-1:1:notebook-instance/n",
        "hours": 2,
        "cost": 2,
        "instance_type": "ml.noted",
    },
    # two pods share a machine, one of them for half of the machine's time; no run has either
    {**POD, "on": "pod-a", "allocated_resource_id": "pod-a", "hours": 12, "cost": 12},
    {**POD, "on": "pod-a", "allocated_resource_id": "pod-a", "cost": -2},
    {**POD, "on": "pod-b", "allocated_resource_id": "pod-b", "hours": 6, "cost": 3},
    {**POD, "on": "n1", "hours": 12, "cost": 1},
    # a run has the pod of this machine
    {**POD, "node_key": "n2", "on": "pod-c", "allocated_resource_id": "pod-c", "hours": 12, "cost": 12, "node_instance_type": "used"},
    {**POD, "node_key": "n2", "on": "pod-d", "allocated_resource_id": "pod-d", "hours": 12, "cost": 12, "node_instance_type": "used"},
)


@pytest.fixture(scope="module")
def cells(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Cell]:
    """The examined machines by type."""
    warehouse = ParquetWarehouse(tmp_path_factory.mktemp("home"))
    with warehouse.step("inputs", "inputs") as step:
        lines = [line(n, **{**BOX, **row}) for n, row in enumerate(LINES)]
        paid = [
            {"billing_period": DAY, "source": each["source"], "charge_id": each["line_id"], "allocated_to": "run"}
            for each in lines
            if each["resource_key"] == "pod-c"
        ]
        put_world(step, {"billing_lines": lines, "cost_allocations": paid})
        assert step.publish()
    with warehouse.reader() as reader:
        found = read_evidence(reader, DAY, "USD")
    assert found is not None
    return {cell.names["instance_type"]: cell for cell in found.machines}


def test_a_daily_line_of_several_machines_has_all_their_hours(cells: dict[str, Cell]) -> None:
    assert round(sum(cells["box"].hours.values())) == 60
    assert set(cells["box"].machines.values()) == {3}


def test_a_license_adds_no_time_and_a_line_without_a_time_is_on_all_day(cells: dict[str, Cell]) -> None:
    assert round(sum(cells["licensed"].hours.values())) == 12
    assert round(sum(cells["timeless"].hours.values())) == 24


def test_a_line_without_time_and_cost_is_not_a_machine(cells: dict[str, Cell]) -> None:
    assert set(cells["timeless"].machines.values()) == {1}


def test_pods_count_as_the_machine_that_they_share(cells: dict[str, Cell]) -> None:
    """The time of the shared machine counts once, with all its cost, its type and its GPUs.

    If a run has one of the pods, the machine is left out.
    """
    shared = cells["shared"]
    assert (round(sum(shared.hours.values())), round(sum(shared.costs.values())), shared.gpus) == (12, 14, 4)
    assert set(shared.machines.values()) == {1}
    assert "used" not in cells


def test_machines_of_managed_services_belong_to_jobs_except_notebooks(cells: dict[str, Cell]) -> None:
    assert {name for name, cell in cells.items() if cell.is_job and not cell.is_serving} == {
        "trained",
        "ml.trained",
        "a2-trained",
        "a3-trained",
    }
    assert {name: cell.names["job_resource"] for name, cell in cells.items() if "job_resource" in cell.names} == {
        "ml.trained": ":training-job/"
    }


def test_machines_that_serve_models_are_known_by_resource_or_meter(cells: dict[str, Cell]) -> None:
    assert {name for name, cell in cells.items() if cell.is_serving} == {"ml.served", "ml.hosted"}


def test_pods_and_jobs_that_google_does_not_name_are_told_apart_by_their_labels(tmp_path: Path) -> None:
    """Each of their lines is for cores, memory or GPUs. Calls of models and endpoints are not jobs, and a cluster's fee is not a pod."""
    typeless = {"instance_type": None, "machine_gpus": None, "at": "00:00..01:00", "cost": 1}
    gke = {**typeless, "on": "clusters/c", "service_name": "Kubernetes Engine"}
    vertex = {**typeless, "on": None, "service_name": "Vertex AI"}
    pod = '{{"goog-k8s-cluster-name":"c","k8s-namespace":"{}","k8s-workload-name":"{}","k8s-workload-type":"batch/v1-Job"}}'.format
    train = "Vertex AI: Training/Pipelines on "
    rows = [
        {**gke, "sku_meter": "Autopilot Kubernetes Clusters"},
        *(
            {**gke, "sku_id": sku, "sku_meter": f"Autopilot {sku} Requests (us-central1)", "tags": pod(space, name)}
            for space, name, skus in (("a", "w1", ["Pod mCPU", "Pod Memory"]), ("a", "w2", ["Pod mCPU"]), ("b", "w3", ["Pod mCPU", "NVIDIA L4 Pod GPU"]))
            for sku in skus
        ),
        *({**vertex, "sku_id": sku, "sku_meter": train + sku} for sku in ("A2 Instance Core", "A2 Instance Ram", "Nvidia Tesla A100 GPU")),
        {**vertex, "sku_meter": "Vertex AI: Online/Batch Prediction NVIDIA L4"},
        {**vertex, "sku_meter": "Gemini 2.0 Flash Tuning - Training tokens"},
    ]  # fmt: skip
    warehouse = ParquetWarehouse(tmp_path)
    with warehouse.step("inputs", "inputs") as step:
        put_world(step, {"billing_lines": [line(n, **row) for n, row in enumerate(rows)]})
        assert step.publish()
    with warehouse.reader() as reader:
        found = read_evidence(reader, DAY, "USD")
    assert found is not None
    seen = {
        (cell.names.get("tag.k8s-namespace", cell.names["service"]), cell.is_serving): (
            sum(cell.hours.values()), sum(cell.costs.values()), cell.gpus, {k for k in cell.names if k.startswith("tag.")},
        )
        for cell in found.machines
    }  # fmt: skip
    assert seen == {
        ("a", False): (2, 3, 0, {"tag.k8s-namespace"}),
        ("b", False): (1, 2, 1, {"tag.k8s-namespace"}),
        ("Vertex AI", False): (1, 3, 1, set()),
        ("Vertex AI", True): (1, 2, 1, set()),
    }


@pytest.mark.parametrize(
    ("times", "hours"),
    [
        (["00:00..01:00", "12:00..13:00", "00:00..24:00"], 13),
        (["00:00..01:00", "24:00..48:00"], 24),
        (["00:00..24:00", "24:00..48:00"], 48),
    ],
)
def test_a_day_counts_as_billed_as_far_as_lines_by_the_hour_reach(tmp_path: Path, times: list[str], hours: int) -> None:
    """The newest day is delivered in part, and the whole day of a bucket is on the bill already."""
    warehouse = ParquetWarehouse(tmp_path)
    with warehouse.step("inputs", "inputs") as step:
        put_world(step, {"billing_lines": [line(n, **{**BOX, "on": "m", "cost": 1, "at": at}) for n, at in enumerate(times)]})
        assert step.publish()
    with warehouse.reader() as reader:
        found = read_evidence(reader, DAY, "USD")
    assert found is not None and found.upto - found.since == hours


def test_accounts_of_stated_machines_and_buckets_are_the_home_of_runs(tmp_path: Path) -> None:
    """Other runs are likely to be in these accounts. A pool is not evidence of that, because it may be wrong."""
    warehouse = ParquetWarehouse(tmp_path)
    paid = [
        {"billing_period": DAY, "allocated_to": "run", "sub_account_id": account, "match_method": method}
        for account, method in (("1111", "resource_id"), ("2222", "pool_time"))
    ]
    stores = {"acme-ml": "3333", "acmeml": "4444", "others": "5555"}
    lines = [line(0, **{**BOX, "on": "free", "cost": 1})]
    lines += [
        line(n, **{"on": None, "cost": 1, "storage_key": key, "sub_account_id": account})
        for n, (key, account) in enumerate(stores.items(), 1)
    ]
    uris = ("s3://acme-ml/1/a/artifacts", "abfss://runs@AcmeML.dfs.core.windows.net/1/b/artifacts")
    made = [make_run(id=f"r{n}", at="00:00..01:00", on=[], artifact_uri=uri)[0] for n, uri in enumerate(uris)]
    with warehouse.step("inputs", "inputs") as step:
        put_world(step, {"billing_lines": lines, "runs": made, "cost_allocations": paid})
        assert step.publish()
    with warehouse.reader() as reader:
        found = read_evidence(reader, DAY, "USD")
    assert found is not None and found.home_accounts == {"1111", "3333", "4444"}
