"""Find facts about the job and the machine in environment variables and small files, without the network."""

from __future__ import annotations

import hashlib
import hmac
import json
import os
import re
import socket
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from runspend.core import machine_tags


@dataclass(frozen=True)
class Found:
    """One tag, and where its value comes from."""

    key: str
    value: str
    origin: str


# Variables of schedulers whose names are also the keys that extraction reads.
JOB_VARIABLES = (
    "TRAINING_JOB_ARN",  # SageMaker
    "TRAINING_JOB_NAME",
    "CLOUD_ML_JOB_ID",  # Vertex AI
    "AZUREML_RUN_ID",
    "AZUREML_ARM_SUBSCRIPTION",
    "AZUREML_ARM_RESOURCEGROUP",
    "AZUREML_ARM_WORKSPACE_NAME",
    "AWS_BATCH_JOB_ID",
    "SLURM_JOB_ID",
    "SLURM_CLUSTER_NAME",
)
# Airflow sets these for the process of a task.
AIRFLOW_VARIABLES = {
    "AIRFLOW_CTX_DAG_ID": "airflow.dag_id",
    "AIRFLOW_CTX_TASK_ID": "airflow.task_id",
    "AIRFLOW_CTX_DAG_RUN_ID": "airflow.run_id",
}
# KubeRay sets the first in all of its pods. Ray sets the second in workers; it is all `f` if the worker was started before its job.
RAY_VARIABLES = {"RAY_CLUSTER_NAME": "ray.cluster", "RAY_JOB_ID": "ray.job_id"}
# Variables from the Kubernetes downward API, as docs/identify.md recommends.
POD_VARIABLES = {
    "RUNSPEND_CLUSTER": "kubernetes.cluster",
    "RUNSPEND_POD_NAMESPACE": "kubernetes.namespace",
    "RUNSPEND_POD_NAME": "kubernetes.pod",
    "RUNSPEND_NODE_NAME": "kubernetes.node",
    "RUNSPEND_SERVICE_ACCOUNT": "kubernetes.service_account",
}
# Platforms that bill jobs, not machines: their machine is hidden, or belongs to the platform.
MANAGED = {"TRAINING_JOB_ARN": "SageMaker", "TRAINING_JOB_NAME": "SageMaker", "CLOUD_ML_JOB_ID": "Vertex AI", "AZUREML_RUN_ID": "Azure ML"}
CONTAINER_FILES = (Path("/.dockerenv"), Path("/run/.containerenv"))  # the first is of Docker, the second of Podman
MACHINE_ID_FILE = Path("/etc/machine-id")
SAGEMAKER_FILE = Path("/opt/ml/input/config/resourceconfig.json")
NAMESPACE_FILE = Path("/var/run/secrets/kubernetes.io/serviceaccount/namespace")
PRICES = "RUNSPEND_PRICES"  # variable with the path or address of the price list of `live_costs.py`
MOST = 500  # characters of a value; MLflow 2 refuses tags of more than 5,000
_ID_OF_HOSTS = b"runspend machine"  # message of the digest: a machine-id is confidential, so only its digest leaves the machine


def find_job() -> Iterator[Found]:
    """Yield tags of the job that this process belongs to."""
    for name in JOB_VARIABLES:
        if value := _variable(name):
            yield Found(name, value, f"environment variable {name}")
    is_pod = bool(_variable("KUBERNETES_SERVICE_HOST"))
    for name, key in (AIRFLOW_VARIABLES | RAY_VARIABLES | (POD_VARIABLES if is_pod else {})).items():
        if (value := _variable(name)) and not (key == "ray.job_id" and not value.strip("f")):
            yield Found(key, value, f"environment variable {name}")
    if is_pod and (namespace := as_text(_read(NAMESPACE_FILE))):
        yield Found("kubernetes.namespace", namespace, str(NAMESPACE_FILE))
    yield from _sagemaker_type()
    if _variable("CLOUD_ML_PROJECT_ID"):
        yield Found(machine_tags.ACCOUNT, _variable("CLOUD_ML_PROJECT_ID"), "environment variable CLOUD_ML_PROJECT_ID")
    if cluster := _variable("DB_CLUSTER_ID"):
        yield Found(machine_tags.ID, cluster, "environment variable DB_CLUSTER_ID")
    elif pod := _pod():
        yield pod


def find_ray() -> Iterator[Found]:
    """Yield Ray's facts about this process, if the process has imported and started Ray.

    Ray's client is not asked, because it uses the network.
    """
    worker = sys.modules.get("ray._private.worker")
    if worker is None or not worker.global_worker.connected:
        return
    context = sys.modules["ray"].get_runtime_context()
    for key, value in (("ray.job_id", context.get_job_id()), ("ray.node_id", context.get_node_id())):
        if value := as_text(value):
            yield Found(key, value, "Ray's runtime context")


def managed_platform() -> str | None:
    """Return the name of the platform that bills this job without its machines, or None."""
    return next((name for variable, name in MANAGED.items() if _variable(variable)), None)


def find_host() -> Iterator[Found]:
    """Yield tags of a machine that is not in a cloud: its host name, and a digest that stays the same when the name changes.

    In a container, the host name is left out: it is not the name of a machine and is not on any bill.
    """
    is_container = any(file.exists() for file in CONTAINER_FILES) or "KUBERNETES_SERVICE_HOST" in os.environ
    if (name := as_text(socket.gethostname())) and not is_container:
        yield Found(machine_tags.ID, name, "host name")
    number = _read(MACHINE_ID_FILE)
    if re.fullmatch(r"[0-9a-f]{32}", number):
        digest = hmac.new(bytes.fromhex(number), _ID_OF_HOSTS, hashlib.sha256).hexdigest()[:32]
        yield Found("runspend.machine.host_digest", digest, f"digest of {MACHINE_ID_FILE}")


def _sagemaker_type() -> Iterator[Found]:
    """Yield the instance type of a SageMaker job. SageMaker's training toolkit sets a variable; other containers have a file."""
    if value := _variable("SM_CURRENT_INSTANCE_TYPE"):
        yield Found(machine_tags.TYPE, value, "environment variable SM_CURRENT_INSTANCE_TYPE")
    elif _variable("TRAINING_JOB_NAME") or _variable("TRAINING_JOB_ARN"):
        try:
            value = json.loads(_read(SAGEMAKER_FILE) or "{}").get("current_instance_type")
        except (ValueError, AttributeError):
            return
        if isinstance(value, str) and as_text(value):
            yield Found(machine_tags.TYPE, as_text(value), str(SAGEMAKER_FILE))


def _pod() -> Found | None:
    """Return the pod if RUNSPEND_CLUSTER is set, otherwise None. Only then does the bill split machines into pods."""
    cluster, namespace, pod = _variable("RUNSPEND_CLUSTER"), _variable("RUNSPEND_POD_NAMESPACE"), _variable("RUNSPEND_POD_NAME")
    if not cluster or not _variable("KUBERNETES_SERVICE_HOST"):
        return None
    pod = pod or as_text(socket.gethostname())  # the host name of a pod is its name, unless it uses the network of its node
    namespace = namespace or as_text(_read(NAMESPACE_FILE))
    if not namespace or not pod:
        return None
    return Found(machine_tags.ID, f"k8s://{cluster}/{namespace}/{pod}", "RUNSPEND_CLUSTER, the pod's namespace and name")


def _variable(name: str) -> str:
    return as_text(os.environ.get(name, ""))


def as_text(value: str) -> str:
    """Return the value without surrounding spaces, or "" if it is too long or not printable."""
    value = value.strip()
    return value if len(value) <= MOST and value.isprintable() else ""


def _read(file: Path) -> str:
    try:
        with file.open(encoding="utf-8") as opened:
            return opened.read(65_536).strip()
    except (OSError, ValueError):
        return ""
