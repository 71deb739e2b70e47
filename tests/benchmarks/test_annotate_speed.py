"""Costs of 100,000 runs into a real MLflow server on SQLite: the first time, again, again without the cache, and after a kill.

Goal: the second time no write. The first is bounded by the server, or by `requests_per_second` before that.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterator
from decimal import Decimal
from pathlib import Path

import pyarrow as pa
import pytest

from runspend.config.settings import load_settings
from runspend.schema.tables import TABLES
from runspend.warehouse.factory import open_warehouse
from tests.benchmarks.measured import load_average, run_runspend, scaled
from tests.benchmarks.test_extract_speed import ROWS
from tests.ingest.tracking.mlflow_servers import mlflow_server
from tests.mlflow_store import make_schema

pytestmark = [pytest.mark.bench, pytest.mark.timeout(7200)]

RUNS = 100_000


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[Path]:
    yield tmp_path
    shutil.rmtree(tmp_path)


def fill(path: Path, runs: int) -> None:
    """Experiments and runs as MLflow's client would have left them."""
    with sqlite3.connect(make_schema(path)) as database:
        database.executemany(
            "insert into experiments (experiment_id, name, artifact_location, lifecycle_stage, creation_time, last_update_time, workspace)"
            " values (?, ?, ?, 'active', 0, 0, 'default')",
            [(number, f"experiment-{number}", f"s3://ml/{number}") for number in range(1, 21)],
        )
        database.executescript(ROWS.format(runs=runs))
    database.close()


def price(config: Path) -> None:
    """A cost for every run, as if a bill had been allocated."""
    settings = load_settings(config)
    warehouse = open_warehouse(settings)
    with warehouse.reader() as reader:
        runs = reader.query("select tracking_server, workspace, run_id, start_month, experiment_id from runs").to_pylist()
    schema = TABLES["run_costs"].arrow_schema()
    rows = [
        run
        | {"billing_currency": "USD", "effective_cost": Decimal(number % 9973) / 100, "confidence": "high", "cost_status": "provisional"}
        for number, run in enumerate(runs)
    ]
    table = pa.Table.from_pylist([{name: row.get(name) for name in schema.names} for row in rows], schema=schema)
    with warehouse.step("test", "test") as step:
        step.put("run_costs", f"{runs[0]['start_month']:%Y-%m}", "all", table)
        assert step.publish()


def count_written(path: Path) -> int:
    with sqlite3.connect(path) as database:
        [(written,)] = database.execute("select count(*) from metrics where key = 'cost_usd'").fetchall()
    database.close()
    return int(written)


def test_annotate(folder: Path) -> None:
    runs = scaled(RUNS)
    fill(folder / "mlflow.db", runs)
    with mlflow_server(folder, f"sqlite:///{folder / 'mlflow.db'}") as uri:
        server = {
            "name": "prod",
            "uri": uri,
            "database": "sqlite:///mlflow.db",
            "write_token": "anonymous",
            "annotate": {"requests_per_second": 1000},
        }
        (folder / "runspend.yaml").write_text(json.dumps({"home": "home", "tracking": [server]}), encoding="utf-8")
        run_runspend(folder, "extract")
        price(folder / "runspend.yaml")
        print(f"\nload average {load_average()}, {runs:,} runs")

        command = [sys.executable, "-m", "runspend.interfaces.cli", "annotate", "--config", str(folder / "runspend.yaml"), "--quiet"]
        process = subprocess.Popen(command, cwd=folder, env=os.environ)
        while count_written(folder / "mlflow.db") < runs // 10:
            time.sleep(0.2)
        process.send_signal(signal.SIGKILL)
        process.wait()
        time.sleep(1)  # what the server was asked already
        print(f"killed after {(before := count_written(folder / 'mlflow.db')):,} runs")

        rest = run_runspend(folder, "annotate")
        assert count_written(folder / "mlflow.db") == runs  # each run once in all
        print(f"the other {runs - before:,} runs: {rest}; {(runs - before) / rest.wall:,.0f} runs a second")
        again = run_runspend(folder, "annotate")
        print(f"again: {again}")
        shutil.rmtree(folder / "home" / "annotated")
        compared = run_runspend(folder, "annotate")
        assert count_written(folder / "mlflow.db") == runs
        print(f"again, every run compared with MLflow: {compared}")
