"""What Runspend writes to MLflow about moved artifacts and pruned runs: once, and only with a separate token for writing."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest

from runspend.config.settings import TrackingServer
from runspend.ingest.tracking.mlflow_writer import MlflowWriter
from tests.ingest.tracking.mlflow_servers import mlflow_server
from tests.servers.faulty_proxy import FaultyProxy, faulty_proxy


@dataclass(frozen=True)
class Owner:
    owner_kind: str
    owner_id: str
    run_id: str | None = None
    workspace: str = "default"


@pytest.fixture(scope="module")
def mlflow(tmp_path_factory: pytest.TempPathFactory) -> Iterator[FaultyProxy]:
    folder = tmp_path_factory.mktemp("tell")
    with mlflow_server(folder, f"sqlite:///{folder / 'mlflow.db'}") as uri, faulty_proxy(uri) as proxy:
        yield proxy


@pytest.fixture
def client(mlflow: FaultyProxy) -> Any:
    from mlflow import MlflowClient

    return MlflowClient(tracking_uri=mlflow.uri)


def teller(mlflow: FaultyProxy, **server: Any) -> MlflowWriter:
    return MlflowWriter(TrackingServer.model_validate({"name": "prod", "uri": mlflow.uri, "write_token": "anonymous", **server}))


def new_run(client: Any, experiment: str = "0") -> Owner:
    run_id = client.create_run(experiment).info.run_id
    client.set_terminated(run_id)
    return Owner("run", run_id, run_id)


def writes(mlflow: FaultyProxy) -> list[str]:
    return [
        request
        for request in mlflow.seen
        if "set-tag" in request or "delete-tag" in request or "/tags" in request or "runs/delete" in request or "runs/restore" in request
    ]


def test_a_run_states_where_its_artifacts_are_until_they_are_restored(mlflow: FaultyProxy, client: Any) -> None:
    run = new_run(client)
    for _ in range(2):
        assert teller(mlflow).archived(run, "s3://cold/x; restore: runspend archive restore") is None
        assert client.get_run(run.run_id).data.tags["runspend.archived"] == "s3://cold/x; restore: runspend archive restore"
        mlflow.begin()
    assert teller(mlflow).archived(run, "s3://cold/x; restore: runspend archive restore") is None
    assert writes(mlflow) == []
    assert teller(mlflow).restored(run, "in place") is None
    tags = client.get_run(run.run_id).data.tags
    assert (tags.get("runspend.archived"), tags["runspend.restored"]) == (None, "in place")
    assert teller(mlflow).archived(run, "s3://cold/y") is None
    tags = client.get_run(run.run_id).data.tags
    assert (tags["runspend.archived"], tags.get("runspend.restored")) == ("s3://cold/y", None)


def test_a_model_carries_the_tag_itself(mlflow: FaultyProxy, client: Any) -> None:
    run = new_run(client)
    model = client.create_logged_model("0", name="net", source_run_id=run.run_id)
    owner = Owner("logged_model", model.model_id, run.run_id)
    assert teller(mlflow).archived(owner, "s3://cold/x") is None
    assert client.get_logged_model(model.model_id).tags["runspend.archived"] == "s3://cold/x"
    assert "runspend.archived" not in client.get_run(run.run_id).data.tags
    assert teller(mlflow).restored(owner, "in place") is None
    assert "runspend.archived" not in client.get_logged_model(model.model_id).tags


def test_without_a_token_of_its_own_nothing_is_written(mlflow: FaultyProxy, client: Any) -> None:
    run = new_run(client)
    mlflow.begin()
    reported = teller(mlflow, write_token=None, token="reads only").archived(run, "s3://cold/x")
    assert reported == f"prod: cannot write to MLflow for run {run.run_id}, because the server has no `write_token` in runspend.yaml"
    assert mlflow.seen == []


@pytest.mark.parametrize(
    ("secret", "sent"), [("abc.def", "Bearer abc.def"), ("robot:pass:word", "Basic cm9ib3Q6cGFzczp3b3Jk"), ("anonymous", None)]
)
def test_writing_uses_write_token_and_not_the_token_that_reads(secret: str, sent: str | None) -> None:
    from runspend.ingest.tracking.client import Client

    server = TrackingServer.model_validate({"name": "prod", "uri": "http://u:p@mlflow", "token": "reads", "write_token": secret})
    creds = Client(server, server.write_token)._creds(server.uri, is_own=True)
    basic = f"Basic {__import__('base64').b64encode(f'{creds.username}:{creds.password}'.encode()).decode()}" if creds.username else None
    assert (f"Bearer {creds.token}" if creds.token else basic) == sent


def test_a_pruned_run_is_deleted_softly_and_comes_back(mlflow: FaultyProxy, client: Any) -> None:
    run, other = new_run(client), new_run(client)
    for _ in range(2):
        assert teller(mlflow).prune_run(run, "policy old-runs") is None
        assert client.get_run(run.run_id).info.lifecycle_stage == "deleted"
    assert client.get_run(run.run_id).data.tags["runspend.pruned"] == "policy old-runs"
    assert client.get_run(other.run_id).info.lifecycle_stage == "active"
    assert (
        teller(mlflow).archived(run, "s3://cold/x")
        == f"prod: run {run.run_id} is deleted in MLflow and does not accept tags, so none were written"
    )
    for _ in range(2):
        assert teller(mlflow).restore_run(run) is None
        assert client.get_run(run.run_id).info.lifecycle_stage == "active"
    assert "runspend.pruned" not in client.get_run(run.run_id).data.tags


def test_an_experiment_with_an_active_run_is_not_pruned(mlflow: FaultyProxy, client: Any) -> None:
    experiment = client.create_experiment("to be pruned")
    run = new_run(client, experiment)
    reported = teller(mlflow).prune_experiment("default", experiment)
    assert reported == f"prod: experiment {experiment} has active runs, so it was not deleted"
    assert client.get_experiment(experiment).lifecycle_stage == "active"
    assert teller(mlflow).prune_run(run, "old") is None
    for _ in range(2):
        assert teller(mlflow).prune_experiment("default", experiment) is None
        assert client.get_experiment(experiment).lifecycle_stage == "deleted"
    reported = teller(mlflow).restore_run(run)
    assert reported is not None and "its experiment 'to be pruned' is" in reported
    assert client.get_run(run.run_id).info.lifecycle_stage == "deleted"


def test_a_tag_that_cannot_be_written_is_reported(
    mlflow: FaultyProxy, client: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    run = new_run(client)
    assert "cannot write to MLflow for run" in (teller(mlflow, uri="http://127.0.0.1:1").archived(run, "x") or "")
    assert "cannot write to MLflow for run" in (teller(mlflow).archived(replace(run, run_id="f" * 32), "x") or "")
    assert "has no page in MLflow" in (teller(mlflow).archived(Owner("orphan", "7/x"), "x") or "")
    assert "the server has no workspace speech" in (teller(mlflow).archived(replace(run, workspace="speech"), "x") or "")
