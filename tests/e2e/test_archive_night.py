"""Plan and notify on a real MLflow and real files. Everything that MLflow protects in its own ways stays, and owners get notices about the rest."""

from __future__ import annotations

import os
from collections.abc import Iterator
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
from mlflow import MlflowClient

from runspend import pipeline
from runspend.config.settings import Settings
from runspend.pipeline import archive_planning as archiving
from runspend.warehouse.base import Unit
from runspend.warehouse.factory import open_warehouse
from runspend.warehouse.records import Records
from tests.due_items import due_items
from tests.mlflow_store import make_schema
from tests.servers.mlflow_client import mlflow_client
from tests.servers.smtp import smtp_server
from tests.settings_builder import read_settings, smtp_mail

NOW = datetime(2026, 11, 24, 6, tzinfo=timezone.utc)
OLD = datetime(2026, 3, 1, tzinfo=timezone.utc)


def put(uri: str, name: str = "model/weights.bin") -> None:
    """Write a file into an artifact folder, as old as the run."""
    path = Path(urlsplit(uri).path) / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(name.encode() * 100)
    os.utime(path, (OLD.timestamp(), OLD.timestamp()))


def write_mlflow(folder: Path) -> dict[str, str]:
    """Create runs and models that are protected in every way, and some that are not. Return their ids by name."""
    with mlflow_client(f"sqlite:///{make_schema(folder / 'mlflow.db')}") as client:
        return write_with(client, folder)


def write_with(client: MlflowClient, folder: Path) -> dict[str, str]:
    from mlflow.entities import LoggedModelInput, LoggedModelOutput

    start = int(OLD.timestamp() * 1000)
    ids: dict[str, str] = {}
    free = client.create_experiment("fraud", artifact_location=f"file://{folder}/artifacts/1")
    kept = client.create_experiment(
        "paper", artifact_location=f"file://{folder}/artifacts/2", tags={"runspend.keep": "until the paper is out"}
    )

    def run(name: str, experiment: str = free, tags: dict[str, str] | None = None, ended: bool = True) -> str:
        found = client.create_run(experiment, start_time=start, run_name=name, tags={"owner": "ana@acme.com", **(tags or {})})
        put(found.info.artifact_uri)
        if ended:
            client.set_terminated(found.info.run_id, end_time=start + 3_600_000)
        ids[name] = found.info.run_id
        return ids[name]

    def model(name: str, run_id: str, step: int = 0) -> str:
        made = client.create_logged_model(free, name=name, source_run_id=run_id)
        client.log_outputs(run_id, [LoggedModelOutput(made.model_id, step)])
        put(made.artifact_location)
        ids[name] = made.model_id
        return ids[name]

    for name in ("free", "old champion", "trained", "base", "parent"):
        run(name)
    run("kept", tags={"runspend.keep": "yes"})
    run("held", tags={"runspend.hold": "case 17"})
    run("in production", tags={"stage": "production"})
    run("paper", kept)
    run("running", ended=False, tags={"mlflow.parentRunId": ids["parent"]})
    for name, maker in (("m-base", "base"), ("m-best", "trained"), ("m-other", "trained")):
        model(name, ids[maker])
    client.log_inputs(ids["trained"], models=[LoggedModelInput(ids["m-base"])])
    client.create_registered_model("fraud")
    folder_version = client.create_model_version(
        "fraud", f"{client.get_run(ids['old champion']).info.artifact_uri}/model", ids["old champion"]
    )
    client.create_model_version("fraud", f"models:/{ids['m-best']}", ids["trained"], model_id=ids["m-best"])
    client.set_registered_model_alias("fraud", "champion", folder_version.version)
    return ids


@pytest.fixture
def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[Settings, dict[str, str], Any]]:
    """A server, its files, a policy for everything old, and a mail server."""
    monkeypatch.setattr(archiving, "OTHER_TIME", timedelta(days=100_000))
    ids = write_mlflow(tmp_path)
    (tmp_path / "archive").mkdir()
    with smtp_server() as server:
        data = {
            "home": "home", "tracking": [{"name": "prod", "uri": f"sqlite:///{tmp_path}/mlflow.db"}], "stores": [{"uri": "artifacts"}, {"uri": "archive", "measure": "none"}], "archive": {"to": "archive"},
            "retention": [{"name": "old", "select": {"unused_for": "90d", "kind": ["run", "model"]}, "action": "archive"}],
            "mail": smtp_mail(server.port, operators=["oncall@acme.com"]),
        }  # fmt: skip
        yield read_settings(tmp_path, data), ids, server


def read(settings: Settings, now: datetime) -> None:
    """Run the reading steps of the pipeline."""
    for step in (pipeline.extract, pipeline.measure):
        outcome = step(settings, now=now)
        assert outcome.exit_code == 0, outcome.problems


def planned(settings: Settings, ids: dict[str, str], now: datetime) -> dict[str, str]:
    """Return each name with its state or its protection."""
    rows = open_warehouse(settings).read(Unit("archive_plan", f"{now:%Y-%m}", "all"))
    assert rows is not None
    names = {value: name for name, value in ids.items()}
    return {names[row["owner_id"]]: row["reason"] if row["state"] == "protected" else row["state"] for row in rows.to_pylist()}


KEPT = {
    "kept": "its tag runspend.keep", "held": "legal hold: tag runspend.hold", "in production": "its tag stage is production", "paper": "its experiment's tag runspend.keep",
    "old champion": "it made a model: alias champion on fraud/1", "trained": "it made a model: registered as fraud/2",
    "base": "a run that led to a live model used its output: registered as fraud/2", "m-best": "registered as fraud/2", "m-base": "used by a run that led to a live model: registered as fraud/2",
}  # fmt: skip


def test_runs_that_mlflow_protects_stay_and_others_are_announced(world: tuple[Settings, dict[str, str], Any]) -> None:
    """Protected are runs, experiments, versions with and without alias, lineage, and a running child. A month later, exactly the rest is due."""
    settings, ids, server = world
    read(settings, NOW)
    assert pipeline.archive_notify(settings, now=NOW).exit_code == 0
    found = planned(settings, ids, NOW)
    assert {name: found[name] for name in KEPT} == KEPT
    assert found["parent"] == f"a child run is running: {ids['running']}"
    assert found["running"].startswith("it is running, or its end is missing")
    assert {name for name, state in found.items() if state == "announced"} == {"free", "m-other"}
    assert [mail.recipients for mail in server.accepted] == [["ana@acme.com", "oncall@acme.com"]]
    for day in (10, 20, 30):
        now = NOW + timedelta(days=day)
        read(settings, now)
        assert pipeline.archive_plan(settings, now=now).exit_code == 0
    with open_warehouse(settings).reader() as reader:
        assert {item.owner_id for item in due_items(reader, Records(settings.home), settings, now)} == {ids["free"], ids["m-other"]}


def test_a_registration_of_the_last_day_stops_it(world: tuple[Settings, dict[str, str], Any]) -> None:
    """The version is registered after the notice, on the day of the move."""
    settings, ids, _ = world
    read(settings, NOW)
    assert pipeline.archive_notify(settings, now=NOW).exit_code == 0
    for day in (10, 20, 29):
        assert pipeline.archive_plan(settings, now=NOW + timedelta(days=day)).exit_code == 0
    with mlflow_client(settings.tracking[0].uri) as client:
        client.create_model_version("fraud", f"models:/{ids['m-other']}", ids["trained"], model_id=ids["m-other"])
    now = NOW + timedelta(days=30)
    read(settings, now)
    with open_warehouse(settings).reader() as reader:
        assert {item.owner_id for item in due_items(reader, Records(settings.home), settings, now)} == {ids["free"]}
