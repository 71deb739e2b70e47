"""Runspend: what every MLflow run costs, why, and who should know.

The order of the nightly pipeline is in `pipeline/__init__.py`; the tables it fills are in `schema/tables.py`. Training jobs import this
file, so it imports nothing before it is needed.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping
    from datetime import datetime
    from pathlib import Path
    from typing import Any

    from mlflow import MlflowClient

__version__ = "0.1.0"


def identify(run_id: str | None = None, client: MlflowClient | None = None) -> dict[str, str]:
    """Tag an MLflow run with the machine and the job of this process; return the tags that were added. Never raises.

    Runs that `mlflow.start_run()` creates have these tags already. Call this for a resumed run, for a run that `MlflowClient.create_run`
    created, and in every process of a run on several nodes. `run_id`: by default the active run's.
    """
    # Imported by name: every room imports this file for its version, and the rooms below must not import the topmost one.
    tagging = import_module("runspend.interfaces.identify.tagging")
    return dict(tagging.identify_run(run_id, client))


def connect(config: str | Path | None = None, *, token: str | None = None) -> Any:
    """Return a `Connection` (runspend.interfaces.library) that asks for costs, runs, SQL and explanations:
    `runspend.connect("runspend.yaml").costs(by="team")`.

    By default it reads the warehouse of $RUNSPEND_CONFIG or ./runspend.yaml. With an address (`"http://127.0.0.1:8321"`), it asks a server
    of `runspend serve` or Airflow, with the same results; `token` is for a server that requires a login. Raises RunspendError. Needs
    `runspend[pipeline]`.
    """
    return import_module("runspend.interfaces.library").connect(config, token)


def forecast(
    experiment: str, params: Mapping[str, object] | None = None, *, config: str | Path | None = None, now: datetime | None = None
) -> list[dict[str, Any]]:
    """Return what the ended runs of an experiment cost in the last year, those with these params if any are given.

    One dict per tracking server, currency and outcome: `runs`, `is_finished`, `median`, `low` and `high` (the range of the middle 80%, or
    of all runs if there are fewer than 10; strings with all digits), `billing_currency`, `median_hours`. Empty without such runs. It reads
    the warehouse of `config`, by default $RUNSPEND_CONFIG or ./runspend.yaml. Raises RunspendError. Needs `runspend[pipeline]`.
    """
    forecasts = import_module("runspend.interfaces.forecasts")
    return list(forecasts.forecast_costs(experiment, params, config, now))
