"""DAG files import without errors or I/O. Every task states its owner, retries, timeout and purpose."""

from __future__ import annotations

import re
import subprocess
import sys
from datetime import timedelta
from typing import Any

import pytest

from runspend.airflow.run_pipeline import SKIPPED_TASKS
from tests.airflow.conftest import DAGS
from tests.dag_ids import DAG_IDS

ARCHIVE_TASKS = ("plan", "notify", "apply", "verify")
NAMES = tuple(DAG_IDS)

# A fresh interpreter in which I/O and imports that take seconds raise an error.
IMPORT = """
import builtins, os, socket, sys, warnings
from pathlib import Path
from airflow.dag_processing.dagbag import BundleDagBag
from airflow.sdk import BaseHook, Connection, Variable
dags = Path(sys.argv[1])

def refuse(*given, **named):
    raise AssertionError(f"I/O while a DAG file was imported: {given}")

Connection.get = Variable.get = BaseHook.get_connection = refuse
socket.socket.connect = socket.socket.connect_ex = refuse
real_open = builtins.open
def guarded_open(file, *given, **named):
    path = str(file)
    if "runspend.yaml" in path or any(letter in (given[0] if given else named.get("mode", "r")) for letter in "wax+"):
        refuse(file, *given)
    return real_open(file, *given, **named)
builtins.open = guarded_open
import runspend.config.settings
runspend.config.settings.load_settings = refuse
warnings.simplefilter("always")
before = set(sys.modules)
bag = BundleDagBag(dags, bundle_path=dags)
assert bag.import_errors == {}, bag.import_errors
assert bag.captured_warnings == {}, bag.captured_warnings
heavy = "adbc_driver_manager boto3 duckdb fastapi google.cloud mlflow azure pandas pyarrow sqlglot airflow.models".split()
new = [name for name in heavy if name in set(sys.modules) - before]
assert not new, new
print(*sorted(bag.dags))
"""


def test_import_does_no_io() -> None:
    """A fresh interpreter parses every DAG without a connection, a variable, a socket, a written file or a heavy import."""
    done = subprocess.run([sys.executable, "-c", IMPORT, str(DAGS)], capture_output=True, text=True, check=False, stdin=subprocess.DEVNULL)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    assert done.stdout.split()[-len(DAG_IDS) :] == sorted(DAG_IDS.values())


@pytest.mark.parametrize("name", NAMES)
def test_dag_and_its_tasks_are_complete(dag_bag: Any, name: str) -> None:
    """A DAG has a tag and a text, and runs once at a time without catch-up. Each task has an owner, retries, a timeout, a pool and a failure mail."""
    from runspend.airflow.tasks import tell_operators

    dag = dag_bag.dags[DAG_IDS[name]]
    assert set(dag.tags) == {"runspend"} and dag.doc_md and dag.catchup is False and dag.max_active_runs == 1
    assert dag.is_paused_upon_creation is (True if name == "archive" else None)
    assert set(dag.params) <= {"now", "periods"}
    for task in dag.tasks:
        assert task.owner == "runspend" and task.doc_md and task.execution_timeout == timedelta(hours=3)
        assert task.pool == "default_pool"  # always exists; in a missing pool, a task waits forever without a message
        if task.task_id != "watcher":
            assert task.retry_delay == timedelta(minutes=5)
            callbacks = task.on_failure_callback
            assert tell_operators in (callbacks if isinstance(callbacks, (list, tuple)) else [callbacks])
        assert task.max_active_tis_per_dag == (None if task.is_mapped else 1)


def test_tasks_try_again() -> None:
    """Each task except the watcher has three tries. Other tests set this to one."""
    from runspend.airflow.tasks import DAG_OPTIONS

    assert DAG_OPTIONS["default_args"]["retries"] == 2


def test_dags_start_by_their_clock_or_asset(dag_bag: Any) -> None:
    """Schedules are timetable classes, not cron strings. A DAG that waits for an asset also has a clock, in case an event is lost."""
    from airflow.sdk import AssetAny, AssetOrTimeSchedule, CronTriggerTimetable

    clocks = {"extract": "0 4 * * *", "load": "0 4 * * *", "measure": "0 4 * * *", "archive": "0 8 * * 1"}
    woken = {
        "allocate": ("0 6 * * *", {"runspend/runs", "runspend/bills"}),
        "report": ("0 7 * * *", {"runspend/costs"}),
        "alert": ("0 */6 * * *", {"runspend/costs"}),
        "publish": ("30 */6 * * *", {"runspend/costs"}),
        "annotate": ("0 8 * * *", {"runspend/costs"}),
    }
    assert set(clocks) | set(woken) == set(NAMES)
    for name, cron in clocks.items():
        assert dag_bag.dags[DAG_IDS[name]].timetable == CronTriggerTimetable(cron, timezone="UTC")
    for name, (cron, assets) in woken.items():
        timetable = dag_bag.dags[DAG_IDS[name]].timetable
        assert isinstance(timetable, AssetOrTimeSchedule) and timetable.timetable == CronTriggerTimetable(cron, timezone="UTC")
        assert {asset.name for asset in timetable.asset_condition.objects} == assets
        assert len(assets) == 1 or isinstance(timetable.asset_condition, AssetAny), "either of them is enough"


def test_asset_names_do_not_collide_with_others() -> None:
    """Names and URIs have a prefix. Airflow does not validate URIs whose scheme begins with x-, so no provider can claim it."""
    from runspend.airflow import tasks

    for name in ("runs", "bills", "artifact_bytes", "costs"):
        asset = getattr(tasks, name.upper())
        assert (asset.name, asset.uri, asset.group) == (f"runspend/{name}", f"x-runspend://{name}", "runspend")


def test_only_a_last_unmapped_task_emits(dag_bag: Any) -> None:
    """Airflow emits an asset event at the first success of a mapped task. So an unmapped last task has the outlet, and runs even after failures."""
    emitted = {"extract": "runspend/runs", "load": "runspend/bills", "measure": "runspend/artifact_bytes", "allocate": "runspend/costs"}
    for name in NAMES:
        dag = dag_bag.dags[DAG_IDS[name]]
        assert {t.task_id: [asset.name for asset in t.outlets] for t in dag.tasks if t.outlets} == (
            {"published": [emitted[name]]} if name in emitted else {}
        )
        if name in emitted:
            published, watcher = dag.get_task("published"), dag.get_task("watcher")
            assert not published.is_mapped and not published.downstream_task_ids and published.trigger_rule == "all_done"
            assert watcher.trigger_rule == "one_failed" and watcher.upstream_task_ids == published.upstream_task_ids


def test_a_pipeline_run_only_plans_the_archive() -> None:
    """Airflow marks tasks as done if their whole name matches. Notices and moves wait for the weekly run."""
    pattern = SKIPPED_TASKS["archive"]
    assert [name for name in ARCHIVE_TASKS if not re.fullmatch(pattern, name)] == ["plan"]


def test_dag_files_are_thin() -> None:
    """A DAG file has no SQL, no loop over data, and at most 60 lines."""
    for name in NAMES:
        text = (DAGS / f"{DAG_IDS[name]}.py").read_text(encoding="utf-8")
        assert len(text.splitlines()) <= 60
        assert "select " not in text.lower() and "\nfor " not in text and "    for " not in text
