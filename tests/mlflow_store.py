"""MLflow's databases on SQLite. MLflow takes seconds to make one, so each process makes it once and copies it."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from functools import cache
from pathlib import Path

# In a process of its own: MLflow migrates a database with the help of much that tests treat as an error.
SCHEMA = "import sys; from mlflow import MlflowClient; MlflowClient(tracking_uri=sys.argv[1], registry_uri=sys.argv[1]).search_experiments()"


def make_schema(path: Path) -> Path:
    """An empty store as MLflow itself makes it."""
    shutil.copyfile(_schema(), path)
    return path


def run_script(script: str, *arguments: str, cwd: Path) -> None:
    """Python with MLflow in a process of its own, and a folder for what MLflow may leave."""
    environment = os.environ | {"MLFLOW_DISABLE_TELEMETRY": "true", "MLFLOW_LOGGING_LEVEL": "WARNING"}
    subprocess.run([sys.executable, "-c", script, *arguments], check=True, env=environment, cwd=cwd, stdin=subprocess.DEVNULL, capture_output=True, timeout=300)


def kept_folder(name: str) -> Path:
    """A folder that goes with this process's home."""
    return Path(tempfile.mkdtemp(prefix=name, dir=os.environ["HOME"]))


@cache
def _schema() -> Path:
    path = kept_folder("mlflow-schema-") / "mlflow.db"
    run_script(SCHEMA, f"sqlite:///{path}", cwd=path.parent)
    return path
