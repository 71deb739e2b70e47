"""MLflow's databases on SQLite. Creating one takes MLflow seconds, so each test run creates it once and copies it."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

from tests.kept import made_once

# In its own process, because MLflow's migration raises warnings that tests treat as errors.
SCHEMA = (
    "import sys; from mlflow import MlflowClient; MlflowClient(tracking_uri=sys.argv[1], registry_uri=sys.argv[1]).search_experiments()"
)


def make_schema(path: Path) -> Path:
    """Write an empty store as MLflow creates it."""
    shutil.copyfile(made_once("mlflow-schema", _write_schema) / "mlflow.db", path)
    return path


def run_script(script: str, *arguments: str, cwd: Path) -> None:
    """Run Python with MLflow in its own process, in a folder for the files that MLflow may leave."""
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
