"""Airflow in this process: a database, the DAGs of this repository, and DAG runs without a scheduler."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from email import message_from_bytes, policy
from pathlib import Path
from typing import Any

import pytest

from runspend.airflow import lent_files
from tests.dag_ids import DAG_IDS
from tests.tiny_world import make_tiny_world

DAGS = Path(__file__).resolve().parents[2] / "include" / "runspend" / "airflow" / "dags"


@pytest.fixture(autouse=True)
def no_renewal_outlives_its_test(monkeypatch: pytest.MonkeyPatch) -> None:
    """A thread renews lent tokens every minute. Without this fixture, it would request an earlier test's tokens during later tests."""
    monkeypatch.setattr(lent_files, "_renewed", {})


@pytest.fixture(scope="session")
def dag_bag() -> Any:
    """All DAGs, with one try per task."""
    from airflow.dag_processing.dagbag import BundleDagBag
    from airflow.utils.db import initdb

    initdb()
    bag = BundleDagBag(DAGS, bundle_path=DAGS)
    assert bag.import_errors == {}
    for dag in bag.dags.values():
        for task in dag.tasks:
            task.retries = 0
    yield bag
    sys.path.remove(str(DAGS))


@pytest.fixture
def config(tmp_path: Path, store: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A new tiny world for each test. Tasks read its `runspend.yaml`."""
    path = make_tiny_world(tmp_path / "world", store)
    monkeypatch.setenv("RUNSPEND_CONFIG", str(path))
    return path


@pytest.fixture
def unhurried(monkeypatch: pytest.MonkeyPatch) -> None:
    """DAG runs without a scheduler do not wait. Airflow's loop sleeps for a second whenever no task can start, and this fixture skips that."""
    from airflow.sdk.definitions import dag

    rest = time.sleep

    def sleep(seconds: float) -> None:
        if sys._getframe(1).f_code.co_filename != dag.__file__:
            rest(seconds)

    monkeypatch.setattr(time, "sleep", sleep)


@pytest.fixture
def run_dag(dag_bag: Any, unhurried: None) -> Callable[..., Any]:
    """Run a DAG as an asset event does, without a logical date. Return {task: state}.

    Mapped tasks are "task[name]", and the DAG run itself is "dag".
    """

    def run(name: str, **conf: Any) -> dict[str, str]:
        done = dag_bag.dags[DAG_IDS[name]].test(logical_date=None, run_conf=conf)
        states = {
            ti.task_id if ti.map_index < 0 else f"{ti.task_id}[{ti.rendered_map_index}]": str(ti.state) for ti in done.get_task_instances()
        }
        return states | {"dag": str(done.state)}

    return run


def subjects(home: Path) -> list[str]:
    """Return the subjects of the mails under `home`, in order."""
    return sorted(message_from_bytes(file.read_bytes(), policy=policy.default)["Subject"] for file in (home / "mail").rglob("*.eml"))
