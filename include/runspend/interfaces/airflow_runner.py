"""Run the pipeline through the Airflow DAGs of a folder, in the order of their assets.

Airflow runs in a separate process, because the library never imports it.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path

from runspend.config.settings import Settings
from runspend.core.errors import RunspendError, UsageError
from runspend.core.step_result import Outcome

RUNNER = (sys.executable, "-m", "runspend.airflow.run_pipeline")


def run_dags(settings: Settings, dags: Path, *, now: datetime, periods: Sequence[str]) -> Outcome:
    """Run the DAGs of a folder, and return the results of all tasks as one outcome.

    Raises UsageError if the folder or the configuration file is missing, RunspendError if Airflow wrote no result.
    """
    if not dags.is_dir():
        raise UsageError(f"cannot run the DAGs of {dags}: it is not a folder. Give the folder with runspend_dags.py.")
    if settings.path is None:
        raise UsageError(
            "cannot run the DAGs: these settings have no file that tasks could read. Write a runspend.yaml first: runspend init"
        )
    with tempfile.TemporaryDirectory(prefix="runspend-") as folder:
        result = Path(folder) / "outcome.json"
        command = [
            *RUNNER,
            "--dags",
            str(dags),
            "--config",
            str(settings.path),
            "--home",
            str(settings.home),
            "--now",
            now.isoformat(),
            "--result",
            str(result),
        ]
        for period in periods:
            command += ["--period", period]
        # Skip steps without settings, as `pipeline.nightly` does, so that they print nothing.
        steps = {"publish": settings.publish, "annotate": any(server.annotate for server in settings.tracking)}
        for step in (name for name, wanted in steps.items() if not wanted):
            command += ["--skip", step]
        done = subprocess.run(command, stdin=subprocess.DEVNULL, check=False)
        if not result.exists():
            raise RunspendError(
                f"cannot run the DAGs: Airflow ended with {done.returncode} and left no result. See {settings.home / 'airflow' / 'pipeline.log'}."
            )
        result_values = json.loads(result.read_text(encoding="utf-8"))
    return Outcome(
        "nightly",
        changed=result_values["changed"],
        unchanged=result_values["unchanged"],
        problems=result_values["problems"],
        notes=result_values["notes"],
        exit_code=result_values["exit_code"],
    )
