"""MLflow's databases on SQLite. MLflow takes seconds to make one, so it is made once a run and copied."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

from tests.kept import made_once

# In a process of its own: MLflow migrates a database with the help of much that tests treat as an error.
SCHEMA = (
    "import sys; from mlflow import MlflowClient; MlflowClient(tracking_uri=sys.argv[1], registry_uri=sys.argv[1]).search_experiments()"
)


def make_schema(path: Path) -> Path:
    """An empty store as MLflow itself makes it."""
    shutil.copyfile(made_once("mlflow-schema", _write_schema) / "mlflow.db", path)
    return path


def run_script(script: str, *arguments: str, cwd: Path) -> None:
    """Python with MLflow in a process of its own, and a folder for what MLflow may leave."""
    environment = os.environ | {"MLFLOW_DISABLE_TELEMETRY": "true", "MLFLOW_LOGGING_LEVEL": "WARNING"}
    subprocess.run(
        [sys.executable, "-c", script, *arguments],
        check=True,
        env=environment,
        cwd=cwd,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        timeout=300,
    )


def _write_schema(folder: Path) -> None:
    folder.mkdir()
    run_script(SCHEMA, f"sqlite:///{folder / 'mlflow.db'}", cwd=folder)
