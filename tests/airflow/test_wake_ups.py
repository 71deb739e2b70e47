"""Which asset events wake which DAG. The tests use Airflow's own asset manager, database, and the part of its scheduler that creates DAG runs."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.airflow.conftest import DAGS
from tests.dag_ids import DAG_IDS

STATES = ("queued", "running")


@pytest.fixture
def scheduler(dag_bag: Any, monkeypatch: pytest.MonkeyPatch) -> Iterator[Scheduler]:
    """The DAGs as the scheduler sees them, without DAG runs or events."""
    from airflow.dag_processing.bundles.manager import DagBundlesManager
    from airflow.dag_processing.dagbag import sync_bag_to_db

    monkeypatch.setenv("AIRFLOW__CORE__MIN_SERIALIZED_DAG_UPDATE_INTERVAL", "0")  # a changed DAG takes effect immediately
    DagBundlesManager().sync_bundles_to_db()
    sync_bag_to_db(dag_bag, "dags-folder", None)
    made = Scheduler()
    made.forget_all()
    yield made
    made.forget_all()


class Scheduler:
    """Processes assets as Airflow's scheduler does. It only creates DAG runs; they end when a test ends them."""

    def emit(self, asset: str) -> None:
        """Record an asset event, as the API server does when a task with this outlet succeeds."""
        from airflow.assets.manager import AssetManager
        from airflow.models.asset import AssetModel
        from airflow.utils.session import create_session
        from sqlalchemy import select

        with create_session() as session:
            model = session.scalar(select(AssetModel).where(AssetModel.name == f"runspend/{asset}"))
            AssetManager().register_asset_change(asset=model.to_serialized(), session=session)

    def look(self) -> None:
        """Run one round of the scheduler's loop, as far as assets are concerned."""
        from airflow.jobs.job import Job
        from airflow.jobs.scheduler_job_runner import SchedulerJobRunner
        from airflow.models.dag import DagModel
        from airflow.utils.session import create_session

        with create_session() as session:
            query, ready = DagModel.dags_needing_dagruns(session)
            models = [model for model in query if model.dag_id in ready]
            SchedulerJobRunner(Job())._create_dag_runs_asset_triggered(dag_models=models, session=session)

    def active(self, name: str) -> int:
        """Return how many runs of a DAG are queued or running."""
        return len(self._runs(name))

    def end(self, name: str) -> None:
        """End all active runs of a DAG."""
        from airflow.utils.session import create_session

        with create_session() as session:
            for run in self._runs(name):
                run.state = "success"
                session.merge(run)

    def _runs(self, name: str) -> list[Any]:
        from airflow.models.dagrun import DagRun
        from airflow.utils.session import create_session
        from sqlalchemy import select

        with create_session() as session:
            return list(session.scalars(select(DagRun).where(DagRun.dag_id == DAG_IDS[name], DagRun.state.in_(STATES))))

    def forget_all(self) -> None:
        """Delete all DAG runs, events and waiting assets."""
        from airflow.models.asset import AssetDagRunQueue, AssetEvent
        from airflow.models.dagrun import DagRun
        from airflow.utils.session import create_session
        from sqlalchemy import delete

        with create_session() as session:
            for model in (AssetDagRunQueue, DagRun, AssetEvent):
                session.execute(delete(model))


@pytest.mark.parametrize("asset", ["runs", "bills"])
def test_allocation_starts_when_either_input_is_new(scheduler: Scheduler, asset: str) -> None:
    """A reloaded bill does not wait for the next extract of runs, and new runs do not wait for a bill."""
    scheduler.emit(asset)
    scheduler.look()
    assert scheduler.active("allocate") == 1


def test_an_event_that_comes_while_allocation_runs_starts_it_once_more(scheduler: Scheduler) -> None:
    """New runs wake allocation, and the bill arrives while it runs. If both assets were required, the bill would wait forever, because the
    event of the runs is already used.
    """
    scheduler.emit("runs")
    scheduler.look()
    scheduler.emit("bills")
    scheduler.look()
    assert scheduler.active("allocate") == 1, "one at a time"
    scheduler.end("allocate")
    scheduler.look()
    assert scheduler.active("allocate") == 1


@pytest.mark.parametrize("consumer", ["allocate", "report", "alert"])
def test_merged_events_start_a_dag_run_after_the_last_of_them(scheduler: Scheduler, consumer: str) -> None:
    """Airflow keeps one row per asset and DAG, and drops later events. One DAG run is enough, because it begins after all of these events.

    Each step itself checks what has changed.
    """
    asset = "bills" if consumer == "allocate" else "costs"
    scheduler.emit(asset)
    scheduler.look()
    for _ in range(3):
        scheduler.emit(asset)
        scheduler.look()
    scheduler.end(consumer)
    scheduler.look()
    assert scheduler.active(consumer) == 1, "the merged events are lost"
    scheduler.end(consumer)
    scheduler.look()
    assert scheduler.active(consumer) == 0, "there is nothing left to do"


def test_requiring_both_assets_would_lose_a_bill(scheduler: Scheduler, tmp_path: Path) -> None:
    """Shows that these tests can fail. With the schedule of earlier versions, merged events leave a bill that is never allocated."""
    from airflow.dag_processing.dagbag import BundleDagBag, sync_bag_to_db

    earlier = shutil.copytree(DAGS, tmp_path / "dags", ignore=shutil.ignore_patterns("__pycache__"))
    file = earlier / "runspend_allocate_costs.py"
    text = file.read_text()
    assert text.count("RUNS | BILLS)") == 1
    file.write_text(text.replace("RUNS | BILLS)", "[RUNS, BILLS])"))
    sync_bag_to_db(BundleDagBag(earlier, bundle_path=earlier), "dags-folder", None)
    for asset in ("runs", "bills", "runs"):  # Airflow merges the second event of `runs` into the first
        scheduler.emit(asset)
    scheduler.look()
    scheduler.emit("bills")  # the event of its runs has just been used
    scheduler.end("allocate")
    scheduler.look()
    assert scheduler.active("allocate") == 0
