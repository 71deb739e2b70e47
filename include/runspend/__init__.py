"""Runspend: what every MLflow run costs, why, and who should know.

The order of a night is in `pipeline/__init__.py`; the tables it fills are in `schema/tables.py`. Training jobs import this file, so it
imports nothing until it is asked to.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from mlflow import MlflowClient

__version__ = "0.1.0"


def identify(run_id: str | None = None, client: MlflowClient | None = None) -> dict[str, str]:
    """Tag an MLflow run with the machine and the job of this process; return the tags that were added. Never raises.

    Runs that `mlflow.start_run()` creates have these tags already. Call this for a resumed run, for a run that `MlflowClient.create_run`
    created, and in every process of a run on several nodes. `run_id`: by default the active run's.
    """
    # By name, because every room imports this file for its version, and the rooms below must not import the topmost one.
    tagging = import_module("runspend.interfaces.identify.tagging")
    return dict(tagging.identify_run(run_id, client))
