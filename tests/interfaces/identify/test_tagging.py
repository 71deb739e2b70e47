"""`runspend.identify` on a real MLflow, with runs that a client created, that another machine resumed, or that no longer exist."""

from __future__ import annotations

from pathlib import Path

from tests.interfaces.identify.forked_training import run_training
from tests.mlflow_store import make_schema
from tests.servers.metadata_services import serve_metadata

SCRIPT = """
import sys
import mlflow, runspend
from runspend.core import machine_tags

client = mlflow.MlflowClient(sys.argv[1])
mlflow.set_tracking_uri(sys.argv[1])
run = client.create_run(client.create_experiment("e"), tags={"runspend.machine.region": "mine"}).info.run_id
print(len(runspend.identify(run, client)) > 3, runspend.identify(run))
tags = client.get_run(run).data.tags
machine = "arn:aws:ec2:us-east-1:123456789012:instance/i-0123456789abcdef0"
print(tags["runspend.machine.region"], tags[machine_tags.SEVERAL], tags[machine_tags.further_key(machine)] == machine)
with mlflow.start_run(run_id=run):
    print(runspend.identify())
print(runspend.identify("0" * 32), runspend.identify())
"""


def test_runs_that_exist_are_tagged_once_and_failures_do_not_reach_the_job(tmp_path: Path) -> None:
    store = f"sqlite:///{make_schema(tmp_path / 'mlflow.db')}"
    with serve_metadata() as (address, _):
        own = {"RUNSPEND_IDENTIFY": "on", "AWS_EC2_METADATA_DISABLED": "false", "AWS_EC2_METADATA_SERVICE_ENDPOINT": f"http://{address}"}
        done = run_training(SCRIPT, store, cwd=tmp_path, environment=own)
    assert done.stdout.splitlines() == ["True {}", "mine true True", "{}", "{} {}"], done.stderr
    assert "cannot tag run 0000" in done.stderr
    assert "no run is active. Pass its run_id" in done.stderr
