"""A real MLflow model is archived and restored. It loads and gives the same predictions."""

from __future__ import annotations

import os
from collections.abc import Iterator
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import pytest

from runspend.actions.archive.items import NOTE_NAME, Item
from runspend.actions.archive.restore import restore
from runspend.actions.archive.run import StoreTotals, apply
from runspend.config.settings import Settings
from runspend.warehouse.records import Records
from tests.archive_world import make_item
from tests.mlflow_store import make_schema
from tests.servers.mlflow_client import mlflow_client
from tests.settings_builder import make_archive_settings

mlflow = pytest.importorskip("mlflow")


@pytest.fixture
def tracked(tmp_path: Path) -> Iterator[str]:
    """Return an MLflow tracking URI with its own folder."""
    uri = f"sqlite:///{make_schema(tmp_path / 'mlflow.db')}"
    with mlflow_client(uri):
        yield uri


@pytest.mark.filterwarnings("ignore")
def test_a_scikit_learn_model_comes_back_and_loads(tmp_path: Path, tracked: str) -> None:
    sklearn_linear = pytest.importorskip("sklearn.linear_model")
    artifacts = tmp_path / "artifacts"
    experiment_id = mlflow.create_experiment("fraud", artifact_location=str(artifacts))
    model = sklearn_linear.LinearRegression().fit([[0.0], [1.0], [2.0]], [1.0, 3.0, 5.0])
    with mlflow.start_run(experiment_id=experiment_id) as run:
        logged = mlflow.sklearn.log_model(model, name="model", serialization_format="pickle", pip_requirements=["scikit-learn"])
        mlflow.log_text("ünïcode", "notes/ünï.txt")
    run_folder = Path(run.info.artifact_uri.removeprefix("file://"))
    model_folder = Path(mlflow.get_logged_model(logged.model_id).artifact_location.removeprefix("file://"))
    before = float(mlflow.pyfunc.load_model(logged.model_uri).predict([[10.0]])[0])
    settings = settings_of(tmp_path, artifacts)
    items = [
        item_of(artifacts, run_folder, run.info.run_id, experiment_id),
        item_of(artifacts, model_folder, run.info.run_id, experiment_id, owner_kind="logged_model", owner_id=logged.model_id),
    ]
    for path in artifacts.rglob("*"):
        os.utime(path, (1.7e9, 1.7e9))
    states = apply(
        items,
        settings,
        Records(settings.home),
        now=datetime.now(timezone.utc),
        protects=lambda item: None,
        known=lambda uri: StoreTotals(10**6, 10**9),
    )
    assert [result.state for result in states] == ["archived", "archived"], [result.reason for result in states]
    listed = mlflow.artifacts.list_artifacts(artifact_uri=str(run_folder))
    assert [Path(found.path).name for found in listed] == [NOTE_NAME]
    assert "runspend archive restore" in mlflow.artifacts.load_text(f"{run_folder}/{NOTE_NAME}")

    restore(run.info.run_id, settings, to=tmp_path / "back")
    [mlmodel] = (tmp_path / "back").rglob("MLmodel")
    assert float(mlflow.pyfunc.load_model(str(mlmodel.parent)).predict([[10.0]])[0]) == before
    assert (tmp_path / "back" / "notes" / "ünï.txt").read_text(encoding="utf-8") == "ünïcode"

    restore(run.info.run_id, settings)
    assert float(mlflow.sklearn.load_model(logged.model_uri).predict([[10.0]])[0]) == before
    assert mlflow.artifacts.load_text(f"{run_folder}/notes/ünï.txt") == "ünïcode"
    assert [found.path for found in mlflow.artifacts.list_artifacts(run_id=run.info.run_id, artifact_path="notes")] == ["notes/ünï.txt"]


def settings_of(folder: Path, artifacts: Path) -> Settings:
    (folder / "cold").mkdir()
    source, archive = {"uri": str(artifacts), "delete_credentials": "local"}, {"uri": str(folder / "cold")}
    return make_archive_settings(folder / "home", source, archive)


def item_of(artifacts: Path, folder: Path, run_id: str, experiment_id: str, **changes: Any) -> Item:
    return make_item(**{
        "store": str(artifacts), "prefix": str(folder.relative_to(artifacts)), "artifact_uri": str(folder), "run_id": run_id, "owner_id": run_id, "experiment_id": experiment_id, **changes
    })  # fmt: skip
