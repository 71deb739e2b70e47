"""`airflow standalone` in an empty home, with only the wheel: its scheduler runs the pipeline by itself, from asset to asset.

The page and the connection type exist. A backfill through the API of Airflow's own page writes as of its date, and lineage is recorded.
"""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import signal
import sqlite3
import subprocess
import sys
import sysconfig
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from datetime import datetime, timedelta, timezone
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from runspend.config.settings import load_settings
from runspend.warehouse.factory import open_warehouse
from tests.dag_ids import DAG_IDS
from tests.servers.ports import free_port
from tests.tiny_world import OWNERS, make_store, make_tiny_world

ROOT = Path(__file__).resolve().parents[2]
BILLS = {"bill": 24, "small": 500, "large": 20_000}
BUNDLE = {"name": "runspend", "classpath": "runspend.airflow.bundle.RunspendBundle", "kwargs": {}}
RETRY_DELAY = '"retry_delay": timedelta(minutes=5)'  # longer than a test can wait for a second try
PATIENCE = 900  # seconds; usually under 180, but a busy machine takes long to start the ten processes


@pytest.fixture
def config(tmp_path: Path) -> Path:
    """A tiny world of this month, with bills of very different sizes."""
    today = datetime.now(timezone.utc).replace(hour=0, minute=0, second=0, microsecond=0)
    day = today if today.day == 1 else today - timedelta(days=1)
    make_store(tmp_path / "store", day)
    return make_tiny_world(tmp_path / "world", tmp_path / "store", BILLS, day=day)


def environment_with_wheel(folder: Path) -> Path:
    """Make an environment with the wheel, and return its folder. Its other packages are links to this environment's, with their byte code."""
    uv, made = Path(sys.executable).with_name("uv"), folder / "environment"
    build = ("build", "--quiet", "--wheel", "--no-build-isolation", "--python", sys.executable, "--out-dir", folder / "dist", ROOT)
    subprocess.run([uv, *build], check=True)
    subprocess.run([uv, "venv", "--quiet", "--python", sys.executable, made], check=True)
    here, there = Path(sysconfig.get_path("purelib")), next(made.glob("lib/python*/site-packages"))
    for entry in here.iterdir():
        if "runspend" not in entry.name and not (there / entry.name).exists():
            (there / entry.name).symlink_to(entry)
    into = ("pip", "install", "--quiet", "--no-deps", "--python", made / "bin" / "python")
    subprocess.run([uv, *into, *(folder / "dist").glob("*.whl")], check=True)
    script = Path(sys.executable).with_name("airflow").read_text(encoding="utf-8")
    (made / "bin" / "airflow").write_text(f"#!{made / 'bin' / 'python'}\n{script.partition(chr(10))[2]}", encoding="utf-8")
    (made / "bin" / "airflow").chmod(0o755)
    options = there / "runspend" / "airflow" / "tasks.py"
    assert RETRY_DELAY in options.read_text()
    options.write_text(options.read_text().replace(RETRY_DELAY, '"retry_delay": timedelta(seconds=15)'))
    return made


@pytest.fixture
def airflow(tmp_path: Path, config: Path) -> Iterator[Callable[..., Any]]:
    """Start `airflow standalone` in `tmp_path`. Yield a function that calls its API, and returns None while it does not answer."""
    port, home = free_port(), tmp_path / "airflow"
    made = environment_with_wheel(tmp_path)
    environment = {key: value for key, value in os.environ.items() if not key.startswith("AIRFLOW")} | {
        "PATH": f"{made / 'bin'}:{os.environ['PATH']}",
        "AIRFLOW_HOME": str(home),
        "AIRFLOW__API_AUTH__JWT_SECRET": secrets.token_hex(64),
        "AIRFLOW__API__BASE_URL": f"http://127.0.0.1:{port}",
        "AIRFLOW__API__HOST": "127.0.0.1",
        "AIRFLOW__API__PORT": str(port),
        "AIRFLOW__CORE__DAGS_ARE_PAUSED_AT_CREATION": "False",
        "AIRFLOW__CORE__EXECUTION_API_SERVER_URL": f"http://127.0.0.1:{port}/execution/",
        "AIRFLOW__CORE__LOAD_EXAMPLES": "False",
        "AIRFLOW__CORE__PARALLELISM": "3",
        "AIRFLOW__CORE__SIMPLE_AUTH_MANAGER_ALL_ADMINS": "True",
        "AIRFLOW__DAG_PROCESSOR__DAG_BUNDLE_CONFIG_LIST": json.dumps([BUNDLE]),
        "AIRFLOW__DAG_PROCESSOR__MIN_FILE_PROCESS_INTERVAL": "600",  # DAG files do not change here, so each is read only once
        "AIRFLOW__DAG_PROCESSOR__PARSING_PROCESSES": "1",
        "AIRFLOW__LOGGING__LOGGING_LEVEL": "WARNING",
        "AIRFLOW__LOGGING__TRIGGER_LOG_SERVER_PORT": str(free_port()),
        "AIRFLOW__LOGGING__WORKER_LOG_SERVER_PORT": str(free_port()),
        "AIRFLOW__OPENLINEAGE__TRANSPORT": json.dumps({"type": "file", "log_file_path": str(tmp_path / "lineage.jsonl"), "append": True}),
        "AIRFLOW__RUNSPEND__SCHEDULE_ANNOTATE": "none",
        "AIRFLOW__RUNSPEND__SCHEDULE_ARCHIVE": "none",
        "AIRFLOW__RUNSPEND__SCHEDULE_MEASURE": "none",  # no DAG waits for it
        "AIRFLOW__USAGE_DATA_COLLECTION__ENABLED": "False",
        # The first tasks may begin before the API answers. They try every second, instead of failing and trying again in five minutes.
        "AIRFLOW__WORKERS__EXECUTION_API_RETRIES": "300",
        "AIRFLOW__WORKERS__EXECUTION_API_RETRY_WAIT_MAX": "1",
        "AIRFLOW__WORKERS__EXECUTION_API_TIMEOUT": "60",  # the default of 5 s may be too short on a busy machine
        "RUNSPEND_CONFIG": str(config),
    }
    address = f"http://127.0.0.1:{port}"
    token: dict[str, str] = {}

    def ask(path: str, body: dict[str, Any] | None = None) -> Any:
        try:
            if not token:
                with urllib.request.urlopen(f"{address}/auth/token", timeout=60) as answer:
                    token["Authorization"] = f"Bearer {json.load(answer)['access_token']}"
            data, headers = (None, token) if body is None else (json.dumps(body).encode(), token | {"Content-Type": "application/json"})
            url = f"{address}{path}" if path.startswith("/") else f"{address}/api/v2/{path}"
            with urllib.request.urlopen(urllib.request.Request(url, data, headers), timeout=60) as answer:
                return json.load(answer)
        except (urllib.error.URLError, ConnectionError, TimeoutError):
            return None

    with (tmp_path / "airflow.log").open("wb") as log:
        process = subprocess.Popen(
            [made / "bin" / "airflow", "standalone"],
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        try:
            yield ask
        finally:
            os.killpg(process.pid, signal.SIGKILL)  # SIGTERM does not end the children, and some still ran half a minute after SIGINT
            process.wait()


def wait_for(what: str, look: Callable[[], Any], log: Path) -> Any:
    """Return the first true answer."""
    until = time.monotonic() + PATIENCE
    while time.monotonic() < until:
        if found := look():
            return found
        time.sleep(1)
    pytest.fail(f"{story(log)}\nno {what} within {PATIENCE} s")


def story(log: Path) -> str:
    """Return what a developer needs after a failure, with the most important part last.

    These are the ends of Airflow's log and of its tasks' logs, and the state of every DAG run and task in its database.
    """
    home = log.parent / "airflow"
    with contextlib.closing(sqlite3.connect(f"file:{home / 'airflow.db'}?mode=ro", uri=True)) as database:
        dag_runs = database.execute("select dag_id, run_type, state, start_date, end_date from dag_run order by start_date").fetchall()
        tasks = database.execute(
            "select dag_id, task_id, map_index, try_number, state, start_date, end_date from task_instance"
            " where state is null or state not in ('success', 'skipped') order by start_date"
        ).fetchall()
    logs = [f"{file.relative_to(home)}\n{file.read_text(errors='replace')[-1500:]}" for file in sorted(home.glob("logs/dag_id=*/**/*.log"))]
    error_lines = [line for line in logs if "error" in line.lower() or "exception" in line.lower()]
    own = [line for line in log.read_text(errors="replace").splitlines() if "Starting call to" not in line]
    return "\n".join([*own[-40:], *error_lines[:10], *(str(row) for row in (*dag_runs, *tasks))])


@pytest.mark.timeout(3000)
def test_the_scheduler_runs_the_pipeline(airflow: Callable[..., Any], config: Path, tmp_path: Path) -> None:
    """Nothing is triggered by hand. A clock starts loads and extraction, either of them wakes allocation, and allocation wakes report and mail."""
    log = tmp_path / "airflow.log"

    def woken(name: str) -> list[Any]:
        """Return the ended runs of a DAG that assets started, oldest first. `wakers` has the DAG and the run behind each event.

        A run's id alone is not unique, because runs of two DAGs with one schedule share it.
        """
        runs = (airflow(f"dags/{DAG_IDS[name]}/dagRuns?order_by=id") or {"dag_runs": []})["dag_runs"]
        ended = [run for run in runs if run["run_type"] == "asset_triggered" and run["state"] in ("success", "failed")]
        for run in ended:
            run["events"] = airflow(f"dags/{DAG_IDS[name]}/dagRuns/{run['dag_run_id']}/upstreamAssetEvents")["asset_events"]
            run["wakers"] = {(event["source_dag_id"], event["source_run_id"]) for event in run["events"]}
        return ended

    def allocated() -> Any:
        """Return the runs of allocation once both bills and runs have woken it, in any order or with one event for both."""
        runs = woken("allocate")
        return runs if {dag for run in runs for dag, _ in run["wakers"]} == {"runspend_extract_runs", "runspend_load_bills"} else None

    def woken_by(waker: Any, name: str) -> Any:
        return next((run for run in woken(name) if (waker["dag_id"], waker["dag_run_id"]) in run["wakers"]), None)

    # By its clock, allocation also runs at once on empty tables, and wakes an empty report. Only runs that loads and extraction caused count.
    allocations = wait_for("runs of allocate that both bills and runs woke", allocated, log)
    allocate = allocations[-1]
    report = wait_for("report woken by it", lambda: woken_by(allocate, "report"), log)
    alert = wait_for("alert woken by it", lambda: woken_by(allocate, "alert"), log)
    assert {run["state"] for run in (*allocations, report, alert)} == {"success"}, story(log)

    load = next(run for run in airflow("dags/runspend_load_bills/dagRuns")["dag_runs"] if run["run_type"] == "scheduled")
    tasks = airflow(f"dags/runspend_load_bills/dagRuns/{load['dag_run_id']}/taskInstances?limit=100")["task_instances"]
    assert {task["rendered_map_index"] for task in tasks if task["task_id"] == "load"} == set(BILLS)
    assert {task["state"] for task in tasks} == {"success", "skipped"}
    # The task that Airflow starts after the last bill woke allocation, not the first loaded bill. (The end of a task
    # is not usable here: on a busy machine, Airflow recorded it 13 s after it had started the next task.)
    of_bills = next(run for run in allocations if (load["dag_id"], load["dag_run_id"]) in run["wakers"])
    assert [event["source_task_id"] for event in of_bills["events"] if event["source_dag_id"] == load["dag_id"]] == ["published"]

    settings = load_settings(config)
    with open_warehouse(settings.warehouse.uri).reader() as reader:
        rows = reader.query("select sum(effective_cost) as cost, countif(allocated_to = 'run') as runs from cost_allocations").to_pylist()
    others = sum(BILLS.values()) - 24
    assert rows[0]["cost"] == 24 * 40 + others * Decimal("0.01") and rows[0]["runs"] > 0
    assert list((settings.home / "reports").glob("20??-??.html"))
    mails = [file.read_text(errors="replace") for file in (settings.home / "mail").rglob("*.eml")]
    is_quiet = datetime.now(timezone.utc).day == 1  # a monthly budget sends nothing in the first 24 hours of a month
    assert is_quiet or [mail for mail in mails if OWNERS in mail], [mail.splitlines()[:4] for mail in mails]

    assert airflow("plugins/importErrors") in ({"import_errors": [], "total_entries": 0}, None)
    assert "runspend" in [plugin["name"] for plugin in airflow("plugins")["plugins"]]
    assert "Runspend" in [found["hook_name"] for found in airflow("/ui/connections/hook_meta")]
    dags = airflow("dags?limit=100")["dags"]
    assert {dag["dag_id"]: (dag["bundle_name"], dag["relative_fileloc"]) for dag in dags} == {
        name: ("runspend", f"{name}.py") for name in DAG_IDS.values()
    }
    assert datasets(tmp_path / "lineage.jsonl", "runspend_load_bills.load") >= {
        ("input", "file", str(config.parent / "bills" / "large")),
        ("output", "file", str(config.parent / "home" / "warehouse" / "billing_lines")),
    }
    check_backfill(airflow, config, log)


def datasets(file: Path, job: str) -> set[tuple[str, str, str]]:
    """Return what a task read and wrote, according to OpenLineage's events."""
    events = [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]
    mine = [event for event in events if event["job"]["name"] == job and event["eventType"] == "COMPLETE"]
    return {(kind, found["namespace"], found["name"]) for event in mine for kind in ("input", "output") for found in event[f"{kind}s"]}


def check_backfill(airflow: Callable[..., Any], config: Path, log: Path) -> None:
    """Start a backfill as Airflow's page does. Runs of past days read the tracking server as of their dates."""
    day = datetime.now(timezone.utc).replace(hour=4, minute=0, second=0, microsecond=0) - timedelta(days=2)
    asked: dict[str, Any] = {
        "dag_id": "runspend_extract_runs",
        "from_date": f"{day - timedelta(hours=1):%FT%TZ}",
        "to_date": f"{day + timedelta(hours=1):%FT%TZ}",
    }
    asked |= {"reprocess_behavior": "failed", "max_active_runs": 1, "run_backwards": False, "dag_run_conf": {}}

    def ended() -> Any:
        runs = (airflow("dags/runspend_extract_runs/dagRuns?run_type=backfill") or {"dag_runs": []})["dag_runs"]
        if not runs:  # a busy SQLite may have refused the request; Airflow refuses a second backfill next to the first
            airflow("backfills", asked)
        return runs if runs and all(run["state"] in ("success", "failed") for run in runs) else None

    runs = wait_for("end of the backfill", ended, log)
    assert [(run["state"], run["logical_date"]) for run in runs] == [("success", f"{day:%FT%TZ}")], story(log)
    with open_warehouse(load_settings(config).warehouse.uri).reader() as reader:
        assert reader.query("select last_tried_at from sources where kind = 'tracking'").to_pylist() == [{"last_tried_at": day}]
