"""How a process identifies itself. Each platform has its own process with its environment and a real metadata service on loopback."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
from click.testing import CliRunner

from runspend.core import machine_tags
from runspend.interfaces.cli import cli
from runspend.interfaces.identify import environment, hardware, metadata_services
from runspend.interfaces.identify.tagging import missing_tags
from tests.servers.metadata_services import AZURE_ID, ECS_TASK, HANGING_SECONDS, WRONGS, serve_metadata

ON = {"RUNSPEND_IDENTIFY": "on", "AWS_EC2_METADATA_DISABLED": "false"}
EC2, GOOGLE, AZURE = metadata_services.ADDRESSES["ec2"], metadata_services.ADDRESSES["compute engine"], metadata_services.ADDRESSES["azure"]
NOBODY = {EC2: "127.0.0.1:9"}  # a port without a server
OF_EC2 = {
    "runspend.machine.id": "arn:aws:ec2:us-east-1:123456789012:instance/i-0123456789abcdef0",
    "runspend.machine.type": "g5.2xlarge",
    "runspend.machine.account": "123456789012",
    "runspend.machine.region": "us-east-1",
    "runspend.machine.zone": "us-east-1c",
    "runspend.machine.purchase_option": "spot",
}
LIMITS = {machine_tags.CORES, machine_tags.MEMORY, machine_tags.GPU_COUNT, machine_tags.GPU_TYPE, "runspend.machine.host_digest"}


def identified(**variables: str) -> dict[str, str]:
    """Return the tags of a new process with these variables, without the tags of the machine that runs the tests."""
    command = [sys.executable, "-m", "runspend.interfaces.cli", "identify", "--json"]
    done = subprocess.run(command, env={**os.environ, **ON, **variables}, capture_output=True, text=True, check=True)
    return {found["key"]: found["value"] for found in json.loads(done.stdout) if found["key"] not in LIMITS}


def test_an_ec2_instance_is_named_as_on_its_bill() -> None:
    with serve_metadata() as (address, asked):
        assert identified(**{EC2: f"http://{address}/"}) == OF_EC2
    assert asked[0] == "PUT /latest/api/token"  # only version 2, because a careless proxy may forward requests of version 1


@pytest.mark.parametrize(("life", "option"), [("on-demand", "on-demand"), ("capacity-block", "on-demand"), ("", None), ("<html>", None)])
def test_the_purchase_option_of_an_instance_is_found(life: str, option: str | None) -> None:
    with serve_metadata(life=life) as (address, _):
        assert identified(**{EC2: address}).get(machine_tags.PURCHASE_OPTION) == option


def test_a_compute_engine_machine_is_named_as_on_its_bill() -> None:
    with serve_metadata() as (address, _):
        assert identified(**{GOOGLE: address}) == {
            "runspend.machine.id": "//compute.googleapis.com/projects/ml-prod/zones/europe-west4-a/instances/7417415098172356107",
            "runspend.machine.type": "a2-highgpu-1g",
            "runspend.machine.account": "ml-prod",
            "runspend.machine.region": "europe-west4",
            "runspend.machine.zone": "europe-west4-a",
            "runspend.machine.purchase_option": "spot",
        }


def test_an_azure_machine_is_named_as_on_its_bill() -> None:
    with serve_metadata() as (address, _):
        assert identified(**{AZURE: address}) == {
            "runspend.machine.id": AZURE_ID,
            "runspend.machine.type": "Standard_NC24ads_A100_v4",
            "runspend.machine.account": AZURE_ID.split("/")[2],
            "runspend.machine.region": "westeurope",
            "runspend.machine.purchase_option": "spot",
        }


def test_a_fargate_task_is_the_machine_and_a_task_on_ec2_is_not() -> None:
    with serve_metadata() as (address, _):
        ecs = {"ECS_CONTAINER_METADATA_URI_V4": f"http://{address}/v4/abc"}
        assert identified(**ecs, **{EC2: "127.0.0.1:9"})[machine_tags.ID] == ECS_TASK["TaskARN"]
        assert (
            identified(ECS_CONTAINER_METADATA_URI_V4=f"http://{address}/v4/other", **{EC2: address})[machine_tags.ID]
            == OF_EC2[machine_tags.ID]
        )


@pytest.mark.parametrize(
    ("variables", "tags"),
    [
        pytest.param(
            {
                "TRAINING_JOB_ARN": "arn:aws:sagemaker:us-east-1:1:training-job/j",
                "TRAINING_JOB_NAME": "j",
                "SM_CURRENT_INSTANCE_TYPE": "ml.g5.xlarge",
            },
            {
                "TRAINING_JOB_ARN": "arn:aws:sagemaker:us-east-1:1:training-job/j",
                "TRAINING_JOB_NAME": "j",
                "runspend.machine.type": "ml.g5.xlarge",
            },
            id="SageMaker",
        ),
        pytest.param(
            {"CLOUD_ML_JOB_ID": "123", "CLOUD_ML_PROJECT_ID": "ml-prod"},
            {"CLOUD_ML_JOB_ID": "123", "runspend.machine.account": "ml-prod"},
            id="Vertex AI",
        ),
        pytest.param(
            {
                "AZUREML_RUN_ID": "sweet_name",
                "AZUREML_ARM_WORKSPACE_NAME": "w",
                "AZUREML_ARM_RESOURCEGROUP": "g",
                "AZUREML_ARM_SUBSCRIPTION": "s",
            },
            {
                "AZUREML_RUN_ID": "sweet_name",
                "AZUREML_ARM_WORKSPACE_NAME": "w",
                "AZUREML_ARM_RESOURCEGROUP": "g",
                "AZUREML_ARM_SUBSCRIPTION": "s",
            },
            id="Azure ML",
        ),
        pytest.param({"DB_CLUSTER_ID": "1101-a-b"}, {"runspend.machine.id": "1101-a-b"}, id="Databricks"),
        pytest.param(
            {
                "KUBERNETES_SERVICE_HOST": "10.0.0.1",
                "RUNSPEND_CLUSTER": "prod",
                "RUNSPEND_POD_NAMESPACE": "ml",
                "RUNSPEND_POD_NAME": "train-0",
            },
            {
                "runspend.machine.id": "k8s://prod/ml/train-0",
                "kubernetes.cluster": "prod",
                "kubernetes.namespace": "ml",
                "kubernetes.pod": "train-0",
            },
            id="Kubernetes with a cluster's name",
        ),
    ],
)
def test_platforms_that_bill_something_other_than_machines_are_not_asked(variables: dict[str, str], tags: dict[str, str]) -> None:
    assert identified(**variables, **NOBODY) == tags


@pytest.mark.parametrize(
    "variables",
    [
        pytest.param({"SLURM_JOB_ID": "123", "SLURM_CLUSTER_NAME": "main"}, id="SLURM"),
        pytest.param({"AWS_BATCH_JOB_ID": "0a-1b"}, id="AWS Batch"),
    ],
)
def test_jobs_on_machines_name_both(variables: dict[str, str]) -> None:
    with serve_metadata() as (address, _):
        assert identified(**variables, **{EC2: address}) == OF_EC2 | variables


def test_a_pod_without_a_cluster_is_on_the_machine_of_its_node() -> None:
    with serve_metadata() as (address, _):
        found = identified(KUBERNETES_SERVICE_HOST="10.0.0.1", RUNSPEND_POD_NAME="train-0", RUNSPEND_POD_NAMESPACE="ml", **{EC2: address})
    assert found == OF_EC2 | {"kubernetes.pod": "train-0", "kubernetes.namespace": "ml"}


def test_a_pod_names_its_node_and_its_service_account() -> None:
    own = {"RUNSPEND_NODE_NAME": "ip-10-0-0-7.ec2.internal", "RUNSPEND_SERVICE_ACCOUNT": "trainer"}
    tags = {"kubernetes.node": "ip-10-0-0-7.ec2.internal", "kubernetes.service_account": "trainer"}
    with serve_metadata() as (address, _):
        assert identified(KUBERNETES_SERVICE_HOST="10.0.0.1", **own, **{EC2: address}) == OF_EC2 | tags
        assert identified(**own, **{EC2: address}) == OF_EC2  # outside a pod


def test_a_worker_of_ray_names_its_cluster_and_job_and_ray_is_not_imported(tmp_path: Path) -> None:
    (tmp_path / "ray.py").write_text("raise SystemExit('imported')", encoding="utf-8")
    with serve_metadata() as (address, _):
        found = identified(RAY_CLUSTER_NAME="tune", RAY_JOB_ID="02000000", PYTHONPATH=str(tmp_path), **{EC2: address})
    assert found == OF_EC2 | {"ray.cluster": "tune", "ray.job_id": "02000000"}
    assert "ray.job_id" not in identified(RAY_JOB_ID="ffffffff", **NOBODY)  # Ray's value for no job


def shown(**variables: str) -> dict[str, str]:
    """Return what the command reports for each service."""
    command = [sys.executable, "-m", "runspend.interfaces.cli", "identify"]
    done = subprocess.run(command, env={**os.environ, **ON, **variables}, capture_output=True, text=True, check=True)
    return dict(line.strip().split(": ", 1) for line in done.stdout.split("Metadata services:\n")[1].splitlines())


def test_the_command_says_what_each_service_did() -> None:
    with serve_metadata("500") as (address, _):
        answers = shown(**{EC2: address})
    assert answers == {
        "ec2": "gave an answer that differs from its documentation: status 500",
        "compute engine": f"not asked: {EC2} names another cloud's service",
        "azure": f"not asked: {EC2} names another cloud's service",
        "ecs": "not asked: ECS_CONTAINER_METADATA_URI_V4 is not set",
    }
    assert shown(**NOBODY)["ec2"].startswith("refused the connection: ")
    with serve_metadata() as (address, _):
        assert shown(**{GOOGLE: address, "AWS_EC2_METADATA_DISABLED": "true"}) | {"azure": ""} == {
            "ec2": "switched off by AWS_EC2_METADATA_DISABLED",
            "compute engine": "answered",
            "azure": "",
            "ecs": "not asked: ECS_CONTAINER_METADATA_URI_V4 is not set",
        }


def test_the_command_asks_as_often_as_a_training_process() -> None:
    """The command asks a service that hangs three times, and then uses the host's name."""
    with serve_metadata("hangs") as (address, asked):
        assert shown(**{EC2: address})["ec2"] == "no answer within 1 s (asked 3 times)"
    assert len(asked) == 3


def test_runs_in_airflow_name_their_task() -> None:
    found = identified(AIRFLOW_CTX_DAG_ID="train", AIRFLOW_CTX_TASK_ID="fit", AIRFLOW_CTX_DAG_RUN_ID="scheduled__1", **NOBODY)
    assert {key: found[key] for key in found if key.startswith("airflow")} == {
        "airflow.dag_id": "train",
        "airflow.task_id": "fit",
        "airflow.run_id": "scheduled__1",
    }


@pytest.mark.parametrize("wrong", WRONGS)
def test_a_service_that_misbehaves_delays_nothing_and_states_nothing(wrong: str, monkeypatch: pytest.MonkeyPatch) -> None:
    script = (
        "import time\nfrom runspend.interfaces.identify.identity import find_identity\n"
        "began = time.monotonic(); first = find_identity(); once = time.monotonic() - began\n"
        "began = time.monotonic(); find_identity(); twice = time.monotonic() - began\n"
        "print(once, twice, [f for f in first if f.key in ('runspend.machine.type', 'runspend.machine.account')])"
    )
    with serve_metadata(wrong) as (address, asked):
        addresses = dict.fromkeys((EC2, GOOGLE, AZURE), address) | {"ECS_CONTAINER_METADATA_URI_V4": f"http://{address}/v4/abc"}
        done = subprocess.run(
            [sys.executable, "-c", script], env={**os.environ, **ON, **addresses}, capture_output=True, text=True, check=False
        )
        assert len(asked) >= 4
    assert (done.returncode, done.stderr) == (0, "")
    once, twice, found = done.stdout.split(" ", 2)
    assert found.strip() == "[]"
    assert max(float(once), float(twice)) < HANGING_SECONDS / 2  # no call waited for the service; docs/identify.md states the delays


def ask_in_process(script: str, **variables: str) -> str:
    """Run a script in a new process that identifies itself, and return its output. In the script, `find` returns the tags."""
    begin = (
        "import os, signal, sys, threading, time\n"
        "from runspend.interfaces.identify import identity, metadata_services\n"
        "find = lambda wait=identity.WAIT_SECONDS: {one.key: one.value for one in identity.find_identity(wait)}\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", begin + script],
        env={**os.environ, **ON, **variables},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout


SLOW = """
services = dict(metadata_services.SERVICES)
def late(name, seconds):
    def ask():
        time.sleep(seconds)
        return services[name]()
    metadata_services.SERVICES[name] = ask
"""


def test_an_answer_that_comes_too_late_is_in_the_next_runs_tags() -> None:
    with serve_metadata() as (address, _):
        answers = ask_in_process(
            f"{SLOW}late('ec2', 3)\nprint(find().get('runspend.machine.id'))\nidentity._Question.current.services_answered.wait(30)\nprint(find()['runspend.machine.id'])",
            **{EC2: address},
        )
    assert answers.split() == ["None", OF_EC2[machine_tags.ID]]


def test_a_service_that_hangs_does_not_hide_the_one_that_answers() -> None:
    with serve_metadata() as (address, _), serve_metadata("hangs") as (silent, _):
        own = {"ECS_CONTAINER_METADATA_URI_V4": f"http://{address}/v4/abc", EC2: silent}
        assert ask_in_process("print(find(8)['runspend.machine.id'])", **own).strip() == ECS_TASK["TaskARN"]


def test_a_service_that_was_too_slow_is_asked_again_before_the_host_is_named() -> None:
    script = """
asked = []
def ask():
    asked.append(1)
    if len(asked) == 1:
        raise TimeoutError
    return answer()
answer = metadata_services.SERVICES['ec2']
metadata_services.SERVICES['ec2'] = ask
print(find(30).get('runspend.machine.id'))
find(); identity._Question.current.services_answered.wait(30)
print(find()['runspend.machine.id'])
"""
    with serve_metadata() as (address, _):
        assert ask_in_process(script, **{EC2: address}).split() == ["None", OF_EC2[machine_tags.ID]]


def test_a_process_may_fork_and_be_interrupted_while_it_asks() -> None:
    script = f"""{SLOW}late('ec2', 0.5)
signal.signal(signal.SIGALRM, lambda *_: (find(), signal.setitimer(signal.ITIMER_REAL, 0.002)))
signal.setitimer(signal.ITIMER_REAL, 0.001)
threading.Thread(target=find).start()
for _ in range(20):
    child = os.fork()
    if child == 0:
        signal.setitimer(signal.ITIMER_REAL, 0)
        found = find(5).get('runspend.machine.id')
        os._exit(0 if found and found.startswith('arn:') else 9)
    time.sleep(0.002)
    while True:
        try:
            assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
            break
        except InterruptedError:
            continue
signal.signal(signal.SIGALRM, signal.SIG_IGN)  # a handler that still runs sets the timer again
print('ok')
"""
    with serve_metadata() as (address, _):
        assert ask_in_process(script, **{EC2: address}).strip() == "ok"


def test_the_end_of_a_process_waits_for_no_answer() -> None:
    with serve_metadata("hangs") as (address, _):
        began = time.monotonic()
        assert ask_in_process("print(len(find()) >= 0)", **{EC2: address}).strip() == "True"
    assert time.monotonic() - began < HANGING_SECONDS - 1


@pytest.mark.parametrize("value", ["europe-" + "x" * 9000 + "1-a", "europe\0-west4-a", "europe-west4-a\x1b[31m"])
def test_values_that_mlflow_may_refuse_are_never_tags(monkeypatch: pytest.MonkeyPatch, value: str) -> None:
    from tests.servers import metadata_services as server

    monkeypatch.setitem(server.GOOGLE_MACHINE, "zone", f"projects/1/zones/{value}")
    monkeypatch.setitem(server.AZURE_MACHINE["compute"], "resourceId", f"{AZURE_ID}{value}")  # type: ignore[arg-type]
    with serve_metadata() as (address, _):
        for name in (GOOGLE, AZURE):
            assert all(len(found) < 500 and found.isprintable() for found in identified(**{name: address}).values())


def test_metadata_other_than_the_machines_id_may_be_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    """GKE's metadata server returns less than Compute Engine's."""
    from tests.servers import metadata_services as server

    monkeypatch.delitem(server.GOOGLE_MACHINE, "machineType")
    monkeypatch.delitem(server.GOOGLE_MACHINE, "scheduling")
    with serve_metadata() as (address, _):
        assert sorted(identified(**{GOOGLE: address})) == sorted(OF_EC2.keys() - {machine_tags.TYPE, machine_tags.PURCHASE_OPTION})


@pytest.mark.parametrize(
    ("maker", "services"),
    [
        ("Amazon EC2", ["ec2"]),
        ("Google", ["compute engine"]),
        ("Microsoft Corporation", ["azure"]),
        ("LENOVO", []),
        (None, ["ec2", "compute engine", "azure"]),
    ],
)
def test_only_the_cloud_that_made_the_machine_is_asked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, maker: str | None, services: list[str]
) -> None:
    if maker is not None:
        (tmp_path / "sys_vendor").write_text(f"{maker}\n")
    monkeypatch.delenv("AWS_EC2_METADATA_DISABLED")
    monkeypatch.setattr(metadata_services, "DMI", tmp_path)
    assert list(metadata_services.possible_services()) == services
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    assert list(metadata_services.possible_services()) == [name for name in services if name != "ec2"]


def test_a_host_that_no_cloud_knows_is_its_name_and_never_its_machine_id(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    number = "0123456789abcdef0123456789abcdef"
    (tmp_path / "machine-id").write_text(f"{number}\n")
    monkeypatch.setattr(environment, "MACHINE_ID_FILE", tmp_path / "machine-id")
    monkeypatch.setattr("socket.gethostname", lambda: "dgx-7")
    monkeypatch.setattr(environment, "CONTAINER_FILES", (tmp_path / ".dockerenv",))
    named, digest = environment.find_host()
    assert (named.key, named.value) == ("runspend.machine.id", "dgx-7")
    assert len(digest.value) == 32 and number not in digest.value
    (tmp_path / ".dockerenv").touch()
    assert [found.key for found in environment.find_host()] == ["runspend.machine.host_digest"]  # no bill contains a container's name


def test_every_machine_of_a_run_has_a_tag_of_its_own() -> None:
    """No machine's tag replaces another's, in any order, even if all machines read the run before any of them writes."""
    empty: dict[str, str] = {}
    added = [missing_tags({"runspend.machine.id": f"m{node}", "runspend.machine.type": "p4d"}, empty) for node in range(600)]
    merged = {key: value for tags in added for key, value in tags.items()}
    assert {value for key, value in merged.items() if key.startswith(machine_tags.FURTHER)} == {f"m{node}" for node in range(600)}
    assert (merged[machine_tags.SEVERAL], merged["runspend.machine.type"]) == ("true", "p4d")
    assert machine_tags.ID not in merged


def test_a_run_that_is_resumed_elsewhere_keeps_both_machines() -> None:
    tags = {"runspend.machine.id": "first", "runspend.machine.type": "p4d"}
    for machine in ("first", "second", "second", "third", "fourth", "fifth", "sixth"):
        tags |= missing_tags({"runspend.machine.id": machine, "runspend.machine.type": "g5"}, tags)
    assert (tags["runspend.machine.id"], tags["runspend.machine.type"]) == ("first", "p4d")
    assert [value for key, value in tags.items() if key.startswith(machine_tags.FURTHER)] == ["second", "third", "fourth", "fifth", "sixth"]
    assert missing_tags({"runspend.machine.id": "third"}, tags) == {}


def test_the_plug_in_can_be_turned_off() -> None:
    for word in ("off", "0", "False", " no "):
        shown = CliRunner().invoke(cli, ["identify"], env={"RUNSPEND_IDENTIFY": word})
        assert shown.output == "Runs here do not identify themselves: RUNSPEND_IDENTIFY is off.\n"


@pytest.mark.parametrize(
    ("files", "found"),
    [
        ({"cpu.max": "50000 100000", "memory.max": "1073741824"}, {machine_tags.CORES: "0.5", machine_tags.MEMORY: "1073741824"}),
        ({"cpu.max": "max 100000", "memory.max": "max"}, {}),
        (
            {"cpu/cpu.cfs_quota_us": "150000", "cpu/cpu.cfs_period_us": "100000", "memory/memory.limit_in_bytes": "536870912"},
            {machine_tags.CORES: "1.5", machine_tags.MEMORY: "536870912"},
        ),
        ({"cpu/cpu.cfs_quota_us": "-1", "cpu/cpu.cfs_period_us": "100000", "memory/memory.limit_in_bytes": "9223372036854771712"}, {}),
        ({"cpu.max": "\x00", "memory.max": "1e9"}, {}),
        (
            {
                "own": "0::/slurm/job_7/step_0",
                "slurm/job_7/cpu.max": "200000 100000",
                "slurm/job_7/step_0/memory.max": "1048576",
                "memory.max": "2097152",
            },
            {machine_tags.CORES: "2", machine_tags.MEMORY: "1048576"},
        ),
        (
            {
                "own": "5:cpu,cpuacct:/docker/x\n3:memory:/docker/x",
                "memory/docker/x/memory.limit_in_bytes": "4096",
                "cpu/docker/memory.max": "1",
            },
            {machine_tags.MEMORY: "4096"},
        ),
        ({"own": "0::/../../etc\nnonsense\n0::", "cpu.max": "100000 100000"}, {machine_tags.CORES: "1"}),
        ({}, {}),
    ],
)
def test_limits_of_control_groups(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, files: dict[str, str], found: dict[str, str]) -> None:
    monkeypatch.setattr("os.cpu_count", lambda: 4)
    monkeypatch.setattr(hardware, "OWN_GROUPS", tmp_path / "own")
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    assert {one.key: one.value for one in hardware.find_limits(tmp_path)} == found


class FakeDriver:
    """NVML with these GPUs. A list is one GPU's slices. It replaces only the GPU that the test machine lacks."""

    def __init__(self, *gpus: str | list[str]) -> None:
        self.gpus = gpus

    def nvmlInit_v2(self) -> int:
        return 0

    def nvmlShutdown(self) -> int:
        return 0

    def nvmlDeviceGetCount_v2(self, count: object) -> int:
        count._obj.value = len(self.gpus)  # type: ignore[attr-defined]
        return 0

    def nvmlDeviceGetHandleByIndex_v2(self, number: object, device: object) -> int:
        device._obj.value = 1000 * (number.value + 1)  # type: ignore[attr-defined]
        return 0

    def nvmlDeviceGetMigMode(self, device: object, current: object, pending: object) -> int:
        gpu = self._gpu(device)
        current._obj.value = int(isinstance(gpu, list))  # type: ignore[attr-defined]
        return 0 if isinstance(gpu, list) else 3  # NVML's code for "not supported"

    def nvmlDeviceGetMaxMigDeviceCount(self, device: object, most: object) -> int:
        most._obj.value = 7  # type: ignore[attr-defined]
        return 0

    def nvmlDeviceGetMigDeviceHandleByIndex(self, device: object, place: object, part: object) -> int:
        if place.value >= len(self._gpu(device)):  # type: ignore[attr-defined]
            return 6  # NVML's code for "not found"
        part._obj.value = device.value + place.value + 1  # type: ignore[attr-defined]
        return 0

    def nvmlDeviceGetName(self, device: object, text: object, size: object) -> int:
        gpu = self._gpu(device)
        text.value = (gpu if isinstance(gpu, str) else gpu[device.value % 1000 - 1]).encode()  # type: ignore[attr-defined]
        return 0

    def nvmlDeviceGetUUID(self, device: object, text: object, size: object) -> int:
        prefix = "GPU" if isinstance(self._gpu(device), str) else "MIG"
        text.value = f"{prefix}-{device.value:x}".encode()  # type: ignore[attr-defined]
        return 0

    def _gpu(self, device: object) -> str | list[str]:
        return self.gpus[device.value // 1000 - 1]  # type: ignore[attr-defined, no-any-return]


A100 = "NVIDIA A100-SXM4-40GB"


@pytest.mark.parametrize(
    ("gpus", "visible", "found"),
    [
        ((A100, A100), None, {machine_tags.GPU_COUNT: "2", machine_tags.GPU_TYPE: A100}),
        ((A100, A100), "1", {machine_tags.GPU_COUNT: "1", machine_tags.GPU_TYPE: A100}),
        ((A100, A100), "GPU-7d0,0", {machine_tags.GPU_COUNT: "2", machine_tags.GPU_TYPE: A100}),
        ((A100, A100), "", {machine_tags.GPU_COUNT: "0"}),
        ((A100, A100), "1,1", {machine_tags.GPU_COUNT: "1", machine_tags.GPU_TYPE: A100}),
        ((A100, A100), "9" * 5000, {machine_tags.GPU_COUNT: "0"}),
        ((A100, A100), "0,-1,1", {machine_tags.GPU_COUNT: "1", machine_tags.GPU_TYPE: A100}),
        ((A100, "NVIDIA T4"), None, {machine_tags.GPU_COUNT: "2", machine_tags.GPU_TYPE: f"{A100}, NVIDIA T4"}),
        # A process uses one slice: the first of its GPU, unless a variable names another.
        (([f"{A100} MIG 3g.20gb", f"{A100} MIG 1g.5gb"],), None, {machine_tags.GPU_COUNT: "0.4286", machine_tags.GPU_TYPE: f"{A100} MIG 3g.20gb"}),
        (([f"{A100} MIG 3g.20gb", f"{A100} MIG 1g.5gb"],), "0", {machine_tags.GPU_COUNT: "0.4286", machine_tags.GPU_TYPE: f"{A100} MIG 3g.20gb"}),
        (([f"{A100} MIG 1g.5gb", f"{A100} MIG 1c.2g.10gb"],), "MIG-3ea", {machine_tags.GPU_COUNT: "0.2857", machine_tags.GPU_TYPE: f"{A100} MIG 1c.2g.10gb"}),
        ((["NVIDIA A30 MIG 1g.6gb"],), None, {machine_tags.GPU_COUNT: "0.25", machine_tags.GPU_TYPE: "NVIDIA A30 MIG 1g.6gb"}),
    ],
)  # fmt: skip
def test_gpus_and_slices(
    monkeypatch: pytest.MonkeyPatch, gpus: tuple[str | list[str], ...], visible: str | None, found: dict[str, str]
) -> None:
    if visible is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    assert {one.key: one.value for one in hardware.find_gpus(hardware.ask_driver(FakeDriver(*gpus)))} == found


def test_without_a_driver_only_the_requested_gpus_are_known(monkeypatch: pytest.MonkeyPatch) -> None:
    assert list(hardware.find_gpus(hardware.ask_driver(object()))) == []
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,1,2,3")
    [found] = hardware.find_gpus(None)
    assert found.value == "4"


def test_importing_it_loads_nothing_heavy() -> None:
    script = (
        "import sys\nimport runspend.interfaces.identify.identity\n"
        "print(sorted({'pydantic', 'yaml', 'click', 'duckdb', 'pyarrow', 'mlflow'} & sys.modules.keys()))"
    )
    assert subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout == "[]\n"


def test_a_process_that_may_start_no_thread_goes_on() -> None:
    script = "def refuse(*_): raise RuntimeError('no more threads')\nthreading.Thread.start = refuse\nprint(len(find()) >= 0)"
    assert ask_in_process(script, **NOBODY).strip() == "True"
