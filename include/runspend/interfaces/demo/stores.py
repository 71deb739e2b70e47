"""Write the runs of a plan to real MLflow stores with MLflow's own client. Needs the full MLflow package."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import unquote, urlsplit

from runspend.core.errors import MissingExtra
from runspend.interfaces.demo.plan import BEGIN, Plan, Run

if TYPE_CHECKING:
    from mlflow import MlflowClient

SERVERS = ("prod", "research")


def write_stores(folder: Path, plan: Plan, teams: dict[str, str], *, progress: Callable[[str], None]) -> dict[int, str]:
    """Write both stores, each a SQLite database next to a folder of artifacts. Return {id(run): MLflow run id}."""
    os.environ["MLFLOW_DISABLE_TELEMETRY"] = "true"
    os.environ["MLFLOW_LOGGING_LEVEL"] = "WARNING"
    try:
        import sqlalchemy  # noqa: F401 (mlflow-skinny comes without it, and cannot write stores)
        from mlflow import MlflowClient
    except ImportError as missing:
        raise MissingExtra("mlflow", "demo") from missing
    ids: dict[int, str] = {}
    for server in SERVERS:
        root = folder / server
        root.mkdir(parents=True)
        client = MlflowClient(f"sqlite:///{root / 'mlflow.db'}")
        experiments: dict[str, str] = {}
        for run in plan.runs:
            if run.server == server:
                if run.experiment not in experiments:
                    location = (root / "artifacts" / str(len(experiments) + 1)).as_uri()
                    experiments[run.experiment] = client.create_experiment(run.experiment, location, tags={"team": teams[run.experiment]})
                _write_run(client, experiments[run.experiment], run, None, ids)
                progress(f"demo: {len(ids)} of {plan.count_runs()} runs")
        _write_orphan(root)
    return ids


def _write_run(client: MlflowClient, experiment_id: str, run: Run, parent_id: str | None, ids: dict[int, str]) -> None:
    from mlflow.entities import Metric, Param, RunTag

    tags = {"mlflow.user": run.user, "mlflow.source.name": "train.py"}
    if parent_id is not None:
        tags["mlflow.parentRunId"] = parent_id
    if run.states_machine and len(run.machines) > 1:
        tags["runspend.resources"] = json.dumps([{"id": m.resource_id} for m in run.machines])
    elif run.states_machine and run.machines:
        tags["runspend.instance_id"] = run.machines[0].resource_id
    made = client.create_run(experiment_id, start_time=_millis(run.start), tags=tags, run_name=run.name)
    run_id = made.info.run_id
    ids[id(run)] = run_id
    params = {"learning_rate": "0.001", "instance_type": run.machines[0].kind.name if run.machines else "laptop"}
    if run.gpus:
        params["gpu_count"] = str(run.gpus)
    sign = run.last_sign or run.end or run.start
    metrics = [Metric("loss", 1 / (step + 1), _millis(run.start + (sign - run.start) * (step + 1) / 3), step) for step in range(3)]
    client.log_batch(run_id, metrics=metrics, params=[Param(k, v) for k, v in params.items()], tags=[RunTag("stage", "experiment")])
    if run.artifact_kilobytes:
        client.log_text(run_id, "x" * 1024 * run.artifact_kilobytes, "model/weights.txt")
        _date(Path(unquote(urlsplit(made.info.artifact_uri).path)) / "model" / "weights.txt", sign)
    for child in run.children:
        _write_run(client, experiment_id, child, run_id, ids)
    if run.end is not None:
        client.set_terminated(run_id, run.status, _millis(run.end))


def _write_orphan(root: Path) -> None:
    """Write an orphaned artifact: a file of a run that is not on the server."""
    file = root / "artifacts" / "1" / ("0" * 31 + "f") / "artifacts" / "checkpoint.bin"
    file.parent.mkdir(parents=True)
    file.write_bytes(b"\0" * 300_000)
    _date(file, BEGIN)


def _date(file: Path, moment: datetime) -> None:
    """Set the modification time of a file, which retention reads."""
    os.utime(file, (moment.timestamp(), moment.timestamp()))


def _millis(moment: datetime) -> int:
    return int(moment.timestamp() * 1000)
