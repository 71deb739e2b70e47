"""A publish to BigQuery has one effect if it is killed at any moment, gets no reply, or competes with others: never half, never twice.

`python -m tests.faults.test_bigquery_swap SETTINGS publish VERSION` publishes one version of several tables together.
`python -m tests.faults.test_bigquery_swap SETTINGS rounds WRITER COUNT` publishes again and again, each time over the rows that it read.
"""

from __future__ import annotations

import datetime as dt
import itertools
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from runspend.config.settings import WarehouseSettings
from runspend.core.errors import RunspendError, SourceUnreachable
from runspend.schema.tables import TABLES
from runspend.warehouse.base import Unit
from runspend.warehouse.bigquery import publish as swap_module
from runspend.warehouse.bigquery.tables import quoted
from runspend.warehouse.bigquery.warehouse import BigQueryWarehouse
from tests.faults.world import PERIOD, TOGETHER, rows_of
from tests.servers.bigquery_target import Request, Target, losing_replies

REPOSITORY = Path(__file__).parents[2]
BEGAN = dt.datetime.now(dt.timezone.utc)
GONE = Unit("billing_lines", PERIOD, "gone")
CHANGES = Unit("bill_changes", PERIOD, "all")
POINTS = {"load.done": "old", "publish.staged": "old", "publish.before_commit": "old", "publish.after_commit": "new"}


def publish_version(warehouse: BigQueryWarehouse, version: int) -> None:
    """Replace one unit of each table of TOGETHER by its next version, all together. Version 2 also drops a unit of billing_lines."""
    with warehouse.step("fault", f"build-{version}") as step:
        for name in TOGETHER:
            step.put(name, PERIOD, "all", rows_of(TABLES[name], cost=str(version), build_id=f"build-{version}"))
        if version > 1:
            step.drop(*GONE)
        assert step.publish()


def add_in_rounds(warehouse: BigQueryWarehouse, writer: str, count: int) -> int:
    """Add one row to the same unit `count` times, each time to the rows just read. Return how often another writer published first."""
    superseded = done = 0
    while done < count:
        with warehouse.reader():  # states and rows of the same moment
            state, old = warehouse.states("bill_changes").get(CHANGES), warehouse.read(CHANGES)
        new = rows_of(TABLES["bill_changes"], count=1, source=f"{writer}-{done}")
        with warehouse.step("rounds", f"{writer}-{done}") as step:
            step.put(*CHANGES, new if old is None else pa.concat_tables([old, new]))
            if step.publish({CHANGES: None if state is None else state.digest}):
                done += 1
            else:
                superseded += 1
    return superseded


def counted(warehouse: BigQueryWarehouse) -> tuple[str, bool]:
    """Return the only build in all tables of TOGETHER and in their states, with fifty rows each, and whether the dropped unit exists."""
    sql = " union all ".join(
        f"select '{name}' as name, build_id, count(*) as n, cast(sum(billed_cost) as int64) as c from {name} group by build_id"
        for name in TOGETHER
    )
    with warehouse.reader() as reader:
        rows = reader.query(sql).to_pylist()
        lines = reader.query("select count(*) as n from billing_lines").to_pylist()[0]["n"]
        states = warehouse.states()
    builds = {row["build_id"] for row in rows} | {states[Unit(name, PERIOD, "all")].build_id for name in TOGETHER}
    assert len(builds) == 1, (rows, states)
    [build] = builds
    assert {(row["name"], row["n"], row["c"]) for row in rows} == {(name, 50, 50 * int(build.removeprefix("build-"))) for name in TOGETHER}
    assert lines == (50 if GONE in states else 0)
    return build, GONE in states


@pytest.fixture(scope="module")
def shared(bigquery_target: Target) -> BigQueryWarehouse:
    """The warehouse that these tests share. Each test begins with version 1."""
    return BigQueryWarehouse(bigquery_target.settings())


@pytest.fixture
def warehouse(shared: BigQueryWarehouse) -> BigQueryWarehouse:
    """Version 1, a unit that version 2 drops, and nothing else."""
    with shared.step("first", "build-1") as step:
        step.put(*GONE, rows_of(TABLES["billing_lines"], source="gone", build_id="build-1"))
        step.drop(*CHANGES)
        step.publish()
    publish_version(shared, 1)
    assert counted(shared) == ("build-1", True)
    return shared


def run(warehouse: BigQueryWarehouse, *arguments: str, crash_at: str = "") -> subprocess.Popen[str]:
    settings = warehouse.jobs._settings.model_dump_json()
    command = [sys.executable, "-m", "tests.faults.test_bigquery_swap", settings, *arguments]
    return subprocess.Popen(command, cwd=REPOSITORY, env={**os.environ, "RUNSPEND_CRASH_AT": crash_at}, stdout=subprocess.PIPE, text=True)


def jobs_of(warehouse: BigQueryWarehouse, kind: str, *words: str) -> list[str]:
    """Return the jobs of a kind whose ids contain these words."""
    return [
        job.job_id
        for job in warehouse.jobs.client.list_jobs(min_creation_time=BEGAN)
        if job.job_type == kind and all(word in job.job_id for word in words)
    ]


# --- killed --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("point", [pytest.param(point, marks=() if point.endswith("_commit") else pytest.mark.torture) for point in POINTS])
def test_kill_at_each_named_point_leaves_old_or_new(warehouse: BigQueryWarehouse, point: str) -> None:
    """Before the commit, readers see the old version. From then on they see the new one, without dropped units, and the next try completes it."""
    process = run(warehouse, "publish", "2", crash_at=point)
    process.communicate()
    assert process.returncode == -signal.SIGKILL
    assert counted(warehouse) == (("build-2", False) if POINTS[point] == "new" else ("build-1", True))
    number = warehouse.head().number
    publish_version(warehouse, 2)
    assert counted(warehouse) == ("build-2", False)
    assert warehouse.head().number == number + (POINTS[point] == "old")  # rows that are there are not published again


def test_rows_loaded_before_a_kill_are_not_loaded_again(warehouse: BigQueryWarehouse) -> None:
    """The next try finds the finished loads of the killed one by their ids."""
    before = set(jobs_of(warehouse, "load"))
    process = run(warehouse, "publish", "3", crash_at="publish.before_commit")
    process.communicate()
    killed = set(jobs_of(warehouse, "load")) - before
    assert (process.returncode, len(killed)) == (-signal.SIGKILL, len(TOGETHER))
    publish_version(warehouse, 3)
    assert set(jobs_of(warehouse, "load")) - before == killed
    assert counted(warehouse) == ("build-3", False)


def test_a_kill_at_any_moment_leaves_old_or_new(warehouse: BigQueryWarehouse) -> None:
    """The process is killed at any moment of a publish. The server finishes the request that it received, or never began it."""
    for number, after in enumerate((0.05, 0.2, 0.4), 4):
        process = run(warehouse, "publish", str(number))
        assert process.stdout is not None and process.stdout.readline() == "begun\n"
        time.sleep(after)
        process.kill()
        process.communicate()
        build, _ = counted(warehouse)
        assert build in ("build-1", f"build-{number - 1}", f"build-{number}")
        publish_version(warehouse, number)
        assert counted(warehouse) == (f"build-{number}", False)


# --- unheard -------------------------------------------------------------------------------------------------------------


def is_upload_begun(request: Request) -> bool:
    return request.verb == "POST" and "uploadType=resumable" in request.path


def is_upload(request: Request) -> bool:
    return request.verb == "PUT" and "/upload/" in request.path


def is_swap(request: Request) -> bool:
    return request.verb == "POST" and request.path.partition("?")[0].endswith("/jobs") and b"commit transaction" in request.body


def is_end_of_swap(request: Request) -> bool:
    return request.verb == "GET" and "-swap-" in request.path


def is_end_of_load(request: Request) -> bool:
    return request.verb == "GET" and "/jobs/runspend-fault-" in request.path and "-swap-" not in request.path


@pytest.mark.parametrize(
    "loses",
    [
        pytest.param(loses, id=loses.__name__, marks=() if loses in (is_upload, is_swap) else pytest.mark.torture)
        for loses in (is_upload_begun, is_upload, is_swap, is_end_of_swap, is_end_of_load)
    ],
)
def test_a_lost_reply_has_one_effect(warehouse: BigQueryWarehouse, bigquery_target: Target, loses: Callable[[Request], bool]) -> None:
    """The server did the work, but its reply was lost. The result is found, and nothing is done twice."""
    number, before = warehouse.head().number, set(jobs_of(warehouse, "load"))
    swaps = set(jobs_of(warehouse, "query", "-swap-"))
    version = 20 + [is_upload_begun, is_upload, is_swap, is_end_of_swap, is_end_of_load].index(loses)
    with losing_replies(bigquery_target, loses) as proxy:
        publish_version(BigQueryWarehouse(proxy.settings(warehouse.jobs._settings)), version)
        assert len(proxy.lost) == 1
    assert counted(warehouse) == (f"build-{version}", False)
    assert warehouse.head().number == number + 1
    assert len(set(jobs_of(warehouse, "load")) - before) == len(TOGETHER)
    assert len(set(jobs_of(warehouse, "query", "-swap-")) - swaps) == 1


def test_a_publish_without_a_reply_is_visible_to_the_next(
    warehouse: BigQueryWarehouse, bigquery_target: Target, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All replies about the swap are lost. The step fails with a message, its effect exists once, and another try does not repeat it."""
    number = warehouse.head().number
    monkeypatch.setattr("google.cloud.bigquery.retry._DEFAULT_RETRY_DEADLINE", 1.0)

    def about_swap(request: Request) -> bool:
        return is_swap(request) or is_end_of_swap(request)

    with losing_replies(bigquery_target, about_swap, times=10**6) as proxy:
        through = BigQueryWarehouse(proxy.settings(warehouse.jobs._settings))
        client = through.jobs.client
        for name in ("query", "get_job"):
            real = getattr(client, name)
            monkeypatch.setattr(client, name, lambda *given, _real=real, **named: _real(*given, **{**named, "retry": None}))
        with pytest.raises(SourceUnreachable, match="cannot use warehouse"):
            publish_version(through, 30)
    assert counted(warehouse) == ("build-30", False)
    assert warehouse.head().number == number + 1
    publish_version(warehouse, 30)
    assert counted(warehouse) == ("build-30", False)


# --- many ----------------------------------------------------------------------------------------------------------------


def test_writers_at_once_end_in_a_serial_order(warehouse: BigQueryWarehouse) -> None:
    """Three processes add rows to one unit; no row is lost or doubled, in any order."""
    number = warehouse.head().number
    writers = {name: run(warehouse, "rounds", name, "2") for name in ("a", "b", "c")}
    for process in writers.values():
        process.communicate()
        assert process.returncode == 0
    rows = warehouse.read(CHANGES)
    assert rows is not None
    assert sorted(rows["source"].to_pylist()) == sorted(f"{name}-{n}" for name in writers for n in range(2))
    assert (warehouse.head().number, warehouse.states()[CHANGES].rows) == (number + 6, 6)


def test_a_reader_never_sees_two_builds(warehouse: BigQueryWarehouse) -> None:
    """Versions are published without pause. All answers of a reader come from one build, however many queries it sends."""
    stop, seen, faults = threading.Event(), set(), []

    def publish() -> None:
        other = BigQueryWarehouse(warehouse.jobs._settings)
        version = 40
        while not stop.is_set():
            publish_version(other, version)
            version += 1

    thread = threading.Thread(target=publish)
    thread.start()
    try:
        for _ in range(6):
            with warehouse.reader() as reader:
                builds = set()
                for name in TOGETHER:
                    builds |= {row["build_id"] for row in reader.query(f"select distinct build_id from {name}").to_pylist()}
                builds |= {warehouse.states()[Unit(name, PERIOD, "all")].build_id for name in TOGETHER}
                builds |= {
                    row["build_id"]
                    for row in reader.query(
                        " union distinct ".join(f"select distinct build_id from {name}" for name in TOGETHER)
                    ).to_pylist()
                }
                faults += [builds] if len(builds) != 1 else []
                seen |= builds
    finally:
        stop.set()
        thread.join()
    assert faults == []
    assert len(seen) > 1


def test_a_transaction_that_lost_is_tried_again(warehouse: BigQueryWarehouse) -> None:
    """Another user's transaction holds the head and rolls back. The next try, which is another job, succeeds."""
    places = warehouse.places
    session = warehouse.jobs.begin_session(dataset=places.internal, labels={"step": "other"})
    held = f"update {quoted(places.published)} set row_count = row_count + 1 where table_name = ''"
    warehouse.jobs.ask(swap_module.Statement(held), dataset=places.internal, labels={"step": "other"}, session=session)
    number = warehouse.head().number
    thread = threading.Thread(target=publish_version, args=(BigQueryWarehouse(warehouse.jobs._settings), 60))
    thread.start()
    deadline = time.monotonic() + 60
    while not jobs_of(warehouse, "query", "fault-swap-", "-2") and time.monotonic() < deadline:
        time.sleep(0.1)
    warehouse.jobs.end_session(session, dataset=places.internal, labels={"step": "other"})
    thread.join()
    assert counted(warehouse) == ("build-60", False)
    assert warehouse.head().number == number + 1


def test_who_never_gets_through_says_so(warehouse: BigQueryWarehouse, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another writer publishes each time between reading the head and the swap. After several tries there is an error, and no change."""
    monkeypatch.setattr(swap_module, "TRIES", 2)
    monkeypatch.setattr(swap_module.time, "sleep", lambda _: None)
    other, run_once, sizes = BigQueryWarehouse(warehouse.jobs._settings), warehouse.jobs.run_once, itertools.count(1)

    def late(*given: Any, **named: Any) -> None:
        with other.step("other", "other") as step:
            step.put(*CHANGES, rows_of(TABLES["bill_changes"], count=next(sizes)))
            assert step.publish()
        run_once(*given, **named)

    monkeypatch.setattr(warehouse.jobs, "run_once", late)
    with pytest.raises(RunspendError, match=r"others published first 2 times in a row\. Nothing was changed"):
        publish_version(warehouse, 70)
    assert counted(warehouse) == ("build-1", True)


def main(settings: str, verb: str, *arguments: str) -> None:
    warehouse = BigQueryWarehouse(WarehouseSettings(**json.loads(settings)))
    if verb == "publish":
        warehouse.make_ready()
        print("begun", flush=True)
        publish_version(warehouse, int(arguments[0]))
    elif verb == "rounds":
        print(add_in_rounds(warehouse, arguments[0], int(arguments[1])))
    else:
        sys.exit(f"cannot {verb}: the verbs are publish and rounds.")


if __name__ == "__main__":
    main(*sys.argv[1:])
