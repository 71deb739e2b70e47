"""Runs the DAGs once in this process, in the order in which their assets start them. `runspend nightly` uses it if Airflow is installed.

It needs no scheduler and no server: Airflow's `dag.test()` runs each DAG, with a temporary database.

    python -m runspend.airflow.run_pipeline --config runspend.yaml --home .runspend --now 2026-11-24T06:00+00:00 --result outcome.json

The result has keys of `runspend.core.step_result.Outcome`, and the exit code is the same. Airflow's log is `<home>/airflow/pipeline.log`.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from pathlib import Path
from typing import Any, TextIO

DAG_IDS = {  # step -> DAG, in running order
    "extract": "runspend_extract_runs",
    "measure": "runspend_measure_artifacts",
    "load": "runspend_load_bills",
    "allocate": "runspend_allocate_costs",
    "alert": "runspend_alert_budgets",
    "archive": "runspend_archive_artifacts",
    "report": "runspend_report",
    "publish": "runspend_publish",
    "annotate": "runspend_annotate_costs",
}
# A pipeline run only writes the archive plan. The weekly DAG, or a command, notifies the owners and moves the items.
SKIPPED_TASKS = {"archive": "(?!plan$).+"}  # a task is skipped if the expression matches its whole name
LISTS = ("changed", "unchanged", "problems", "notes")


def main(arguments: list[str]) -> int:
    """Run the pipeline once. Return the exit code."""
    parser = argparse.ArgumentParser(description="Run the DAGs once, in one process.")
    parser.add_argument(
        "--dags", type=Path, default=Path(__file__).parent / "dags", help="folder of the DAGs; by default those of this package"
    )
    parser.add_argument("--config", type=Path, required=True)
    parser.add_argument("--home", type=Path, required=True, help="folder for Airflow's own files (in its subfolder airflow)")
    parser.add_argument("--now", required=True)
    parser.add_argument("--period", action="append", default=[], help="a billing period to allocate even if its inputs are unchanged")
    parser.add_argument("--result", type=Path, help="write the outcome here, as JSON")
    parser.add_argument("--skip", action="append", default=[], choices=list(DAG_IDS))
    given = parser.parse_args(arguments)
    from runspend.core.own_files import private_umask

    private_umask()
    folder = given.home.resolve() / "airflow"
    folder.mkdir(parents=True, exist_ok=True)
    database = folder / f"pipeline-{os.getpid()}.db"
    prepare_environment(folder, database, given.config.resolve(), given.dags.resolve())
    screen = os.fdopen(os.dup(2), "w", buffering=1)
    log = folder / "pipeline.log"
    send_output_to(log)
    try:
        outcome = run_dags(given.dags.resolve(), [name for name in DAG_IDS if name not in given.skip], given.now, given.period, screen)
    finally:
        for leftover in folder.glob(f"{database.name}*"):
            leftover.unlink()
    if given.result:
        given.result.write_text(json.dumps(outcome), encoding="utf-8")
    else:
        print(*outcome["problems"], sep="\n", end="", file=screen)
    if outcome["exit_code"] == 1:
        print(f"The log of Airflow is in {log}.", file=screen)
    return int(outcome["exit_code"])


def prepare_environment(folder: Path, database: Path, config: Path, dags: Path) -> None:
    """Set Airflow's environment variables before Airflow is imported: its home, Runspend's DAGs, a temporary database, no telemetry."""
    for key in [key for key in os.environ if key.startswith("AIRFLOW_") and not key.startswith("AIRFLOW_CONN_")]:
        del os.environ[key]
    os.environ.pop("RUNSPEND_POOL", None)  # the temporary database has no such pool, and only one task runs at a time
    os.environ.update(
        {
            "AIRFLOW_HOME": str(folder),
            "AIRFLOW__CORE__DAGS_FOLDER": str(dags),
            "AIRFLOW__CORE__PLUGINS_FOLDER": str(folder / "plugins"),
            "AIRFLOW__CORE__LOAD_EXAMPLES": "False",
            "AIRFLOW__CORE__DAGS_ARE_PAUSED_AT_CREATION": "False",
            "AIRFLOW__DATABASE__SQL_ALCHEMY_CONN": f"sqlite:///{database}",
            "AIRFLOW__LOGGING__BASE_LOG_FOLDER": str(folder / "logs"),
            "AIRFLOW__LOGGING__LOGGING_LEVEL": "WARNING",
            "AIRFLOW__USAGE_DATA_COLLECTION__ENABLED": "False",
            "MLFLOW_DISABLE_TELEMETRY": "true",
            "DO_NOT_TRACK": "true",
            "RUNSPEND_CONFIG": str(config),
        }
    )


def send_output_to(log: Path) -> None:
    """Send all later output of this process to the log file."""
    log.unlink(missing_ok=True)  # if the log is a symbolic link, the link is removed and not followed
    descriptor = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600)
    sys.stdout.flush()
    sys.stderr.flush()
    os.dup2(descriptor, 1)
    os.dup2(descriptor, 2)


def run_dags(dags: Path, names: list[str], now: str, periods: list[str], screen: TextIO) -> dict[str, Any]:
    """Run each DAG, even if an earlier one failed. Return their combined outcome."""
    from airflow.dag_processing.dagbag import BundleDagBag
    from airflow.utils.db import initdb

    initdb()
    bag = BundleDagBag(dags, bundle_path=dags)
    total: dict[str, Any] = {"step": "nightly", "exit_code": 0, **{key: [] for key in LISTS}}
    if bag.import_errors:
        total |= {"exit_code": 1, "problems": [f"cannot import {file}: {error}" for file, error in bag.import_errors.items()]}
        return total
    for name in names:
        dag = bag.dags[DAG_IDS[name]]
        for task in dag.tasks:
            task.retries = 0
        conf = {"now": now} | ({"periods": periods} if periods and name == "allocate" else {})
        started = time.monotonic()
        run = dag.test(logical_date=None, run_conf=conf, mark_success_pattern=SKIPPED_TASKS.get(name))
        add_outcomes(total, dag.dag_id, run)
        if screen.isatty():
            print(f"{name}: {run.state}, {time.monotonic() - started:.1f} s", file=screen)
    return total


def add_outcomes(total: dict[str, Any], dag_id: str, run: Any) -> None:
    """Add the outcomes that the tasks of a DAG run stored under the key `outcome`. A failed task without an outcome is also reported."""
    from airflow.models.xcom import XComModel
    from airflow.utils.session import create_session

    with create_session() as session:
        rows = session.scalars(XComModel.get_many(run_id=run.run_id, key="outcome", dag_ids=dag_id)).all()
        outcomes = [XComModel.deserialize_value(row) for row in rows]
        reported = {(row.task_id, row.map_index) for row in rows}
        failed = [ti for ti in run.get_task_instances(session=session) if ti.state == "failed" and ti.task_id != "watcher"]
        silent = [ti.task_id for ti in failed if (ti.task_id, ti.map_index) not in reported]
    for outcome in outcomes:
        total["exit_code"] = max(total["exit_code"], outcome["exit_code"])
        for key in LISTS:
            total[key] += outcome.get(key, [])
    if silent:
        total["problems"].append(f"{dag_id} failed in {', '.join(silent)}, which is a bug or a broken machine.")
        total["exit_code"] = max(total["exit_code"], 1)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
