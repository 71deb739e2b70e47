"""Read and write the costs that MLflow shows for its runs, experiments and model versions, at a limited rate.

Belongs here: the requests. `actions/annotate` decides what is written. `core/cost_keys.py` names the keys. Like `mlflow_writer.py`, this
module logs in with the tracking server's `write_token`. Deleted runs are read but never written.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, TypeVar

from runspend.config.settings import TrackingServer
from runspend.core.cost_keys import FIRST_STEP, RECORD, is_cost_metric, may_be_cost
from runspend.core.errors import SourceRefused
from runspend.ingest.tracking.client import DEFAULT_WORKSPACE, Client, NotInMlflow, pages

READ_RUNS = 500  # runs per request
EXPERIMENTS_PER_REQUEST = 500
# Shorter limits than MLflow's own. By default, its client retries a request for four minutes, and waits as long as the server asks it to.
PATIENCE = {
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "2",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "30",
    "MLFLOW_HTTP_RESPECT_RETRY_AFTER_HEADER": "false",
    "MLFLOW_DATABRICKS_ENDPOINT_HTTP_RETRY_TIMEOUT": "60",
}
PAUSES = 30  # seconds: the longest time for all pauses between the tries of one request
T = TypeVar("T")


@dataclass(frozen=True)
class ShownCost:
    """The newest value of a cost metric; NaN if the cost was withdrawn. `is_ours`: whether Runspend wrote it."""

    value: float
    step: int
    is_ours: bool


@dataclass(frozen=True)
class AnnotatedRun:
    """The tags and costs that MLflow shows for a run. `costs` has the metrics' keys as keys.

    `time_ms` is the run's end, or its start if it has no end, in epoch milliseconds. It is never negative.
    """

    run_id: str
    experiment_id: str
    time_ms: int
    tags: Mapping[str, str]
    costs: Mapping[str, ShownCost]
    is_active: bool = True

    def next_step(self, key: str) -> int:
        """Return the step of the metric's next value. MLflow shows the value with the highest step."""
        return max(self.costs[key].step + 1, FIRST_STEP) if key in self.costs else FIRST_STEP


class CostAnnotations:
    """Read and write costs on one server. Every write may be repeated. Calls raise SourceError if the server does not answer or refuses."""

    def __init__(self, server: TrackingServer, requests_per_second: float) -> None:
        for variable, value in PATIENCE.items():
            os.environ.setdefault(variable, value)
        self.name = server.name
        self.has_own_registry = server.registry is None  # a separate registry is listed only once, and other servers may share it
        self.place = f"{server.name} {server.uri}"  # a server with the same name but another URI counts as another server
        self._client = Client(server, server.write_token, seconds=_most_seconds())
        self._pace = _Pace(requests_per_second)
        self._has_workspaces: bool | None = None

    def read_runs(self, workspace: str, experiments: Collection[str], run_ids: Sequence[str]) -> dict[str, AnnotatedRun]:
        """Return the runs that MLflow still has, by id.

        `run_ids` has at most READ_RUNS ids. `experiments` must include the experiments of these runs.
        """
        listed = ", ".join(f"'{run_id}'" for run_id in run_ids)
        found = self._search(workspace, sorted(experiments), f"attributes.run_id IN ({listed})", len(run_ids), None)
        return {run.run_id: run for run in found}

    def read_annotated_runs(self, workspace: str, experiments: Iterable[tuple[str, ...]]) -> Iterator[list[AnnotatedRun]]:
        """Yield pages of the runs that have a record of costs, from experiments as `list_experiments` returns them.

        The caller must not remove records before the last page is read, because that would shift the pages.
        """
        ids = [names[0] for names in experiments]
        for start in range(0, len(ids), EXPERIMENTS_PER_REQUEST):
            some = ids[start : start + EXPERIMENTS_PER_REQUEST]
            yield from pages(self.name, lambda token: self._search(workspace, some, f"tags.`{RECORD}` LIKE '%'", READ_RUNS, token))  # noqa: B023

    def write_run(self, workspace: str, run: AnnotatedRun, costs: Mapping[str, float], tags: Mapping[str, str]) -> None:
        """Write the cost metrics and tags of a run in one request. The metrics get the time `run.time_ms`."""
        from mlflow.entities import Metric, RunTag

        metrics = [Metric(key, value, run.time_ms, run.next_step(key)) for key, value in costs.items()]
        written = [RunTag(key, value) for key, value in tags.items()]
        self._write(workspace, lambda store: store.log_batch(run.run_id, metrics, [], written))

    def delete_run_tags(self, workspace: str, run_id: str, keys: Iterable[str]) -> None:
        for key in keys:
            with suppress(NotInMlflow):
                self._write(workspace, lambda store: store.delete_tag(run_id, key))  # noqa: B023 (called at once)

    def list_experiments(self, workspace: str, *, are_deleted: bool = False) -> dict[tuple[str, ...], dict[str, str]]:
        """Return the tags of all active (or all deleted) experiments. The key is a tuple with the experiment's id."""
        from mlflow.entities import ViewType

        view = ViewType.DELETED_ONLY if are_deleted else ViewType.ACTIVE_ONLY
        read = pages(self.name, lambda token: self._ask(workspace, lambda store: store.search_experiments(view, 1_000, page_token=token)))
        return {(experiment.experiment_id,): dict(experiment.tags) for page in read for experiment in page}

    def write_experiment(self, workspace: str, names: Sequence[str], tags: Mapping[str, str | None]) -> None:
        """Set the tags of an experiment, and delete the tags whose value is None. `names` contains only the experiment's id."""
        from mlflow.entities import ExperimentTag

        [experiment_id] = names
        for key, value in tags.items():
            if value is not None:
                tag = ExperimentTag(key, value)
                self._write(workspace, lambda store: store.set_experiment_tag(experiment_id, tag))  # noqa: B023 (called at once)
            else:
                with suppress(NotInMlflow):
                    self._write(workspace, lambda store: store.delete_experiment_tag(experiment_id, key))  # noqa: B023 (called at once)

    def list_model_versions(self, workspace: str) -> dict[tuple[str, ...], dict[str, str]]:
        """Return the tags of all registered versions. The key is the model's name and the version."""

        def ask(token: str | None) -> Any:
            return self._ask(workspace, lambda registry: registry.search_model_versions(None, 1_000, page_token=token), is_registry=True)

        return {(version.name, str(version.version)): dict(version.tags) for page in pages(self.name, ask) for version in page}

    def write_model_version(self, workspace: str, names: Sequence[str], tags: Mapping[str, str | None]) -> None:
        """Set the tags of a model version, and delete the tags whose value is None. `names`: the model's name and the version."""
        from mlflow.entities.model_registry import ModelVersionTag

        model, version = names
        for key, value in tags.items():
            if value is not None:
                tag = ModelVersionTag(key, value)
                self._write(workspace, lambda registry: registry.set_model_version_tag(model, version, tag), is_registry=True)  # noqa: B023 (called at once)
            else:
                with suppress(NotInMlflow):
                    self._write(workspace, lambda registry: registry.delete_model_version_tag(model, version, key), is_registry=True)  # noqa: B023 (called at once)

    def check_login(self) -> None:
        """Check the login by reading one experiment. Raises SourceError if the server does not answer or refuses the login."""
        from mlflow.entities import ViewType

        workspace = self.list_workspaces()[0]
        self._ask(
            workspace,
            lambda store: store.search_experiments(ViewType.ACTIVE_ONLY, 1),
            failed=f"cannot log in to {self.name} to write costs",
        )

    def list_workspaces(self) -> list[str]:
        """Return the workspaces of the server, or only the default one if it has none."""
        self._pace.wait()
        return self._client.ask(self._client.find_workspaces) or [DEFAULT_WORKSPACE]

    def _search(self, workspace: str, experiments: Sequence[str], condition: str, limit: int, token: str | None) -> Any:
        from mlflow.entities import ViewType

        page = self._ask(
            workspace,
            lambda store: store.search_runs(experiments, condition, ViewType.ALL, limit, ["attributes.start_time ASC"], token),
        )
        return _Page([_annotated(run) for run in page], page.token)

    def _ask(self, workspace: str, call: Callable[[Any], T], *, is_registry: bool = False, failed: str = "") -> T:
        self._pace.wait()
        with self._client.in_workspace(self._place(workspace)):
            return self._client.ask(lambda: call(self._client.registry if is_registry else self._client.store), failed=failed)

    def _write(self, workspace: str, call: Callable[[Any], None], *, is_registry: bool = False) -> None:
        self._ask(workspace, call, is_registry=is_registry, failed=f"cannot write costs to {self.name}")

    def _place(self, workspace: str) -> str | None:
        """Return the workspace to send requests to, or None if the server has no workspaces.

        Raises SourceRefused if the server has no workspaces and `workspace` is not the default one.
        """
        if self._has_workspaces is None:
            self._client.ask(lambda: self._client.store)
            self._has_workspaces = self._client.find_workspaces() is not None
        if not self._has_workspaces and workspace not in ("", DEFAULT_WORKSPACE):
            raise SourceRefused(self.name, f"cannot write to {self.name}: it has no workspace {workspace}.")
        return workspace if self._has_workspaces else None


def _most_seconds() -> float:
    """Return the longest time in seconds that one request may take: all its tries and the pauses between them."""
    try:
        return (int(os.environ["MLFLOW_HTTP_REQUEST_MAX_RETRIES"]) + 1) * float(os.environ["MLFLOW_HTTP_REQUEST_TIMEOUT"]) + PAUSES
    except ValueError:  # a variable is not a number: MLflow's client raises an error that names it
        return float(PAUSES)


class _Page(list[AnnotatedRun]):
    def __init__(self, runs: list[AnnotatedRun], token: str | None) -> None:
        super().__init__(runs)
        self.token = token


class _Pace:
    """Limit the number of requests per second, for all threads together."""

    def __init__(self, per_second: float) -> None:
        self._seconds = 1 / per_second
        self._next = 0.0
        self._lock = threading.Lock()

    def wait(self) -> None:
        with self._lock:
            now = time.monotonic()
            begin = max(now, self._next)
            self._next = begin + self._seconds
        time.sleep(begin - now)


def _annotated(run: Any) -> AnnotatedRun:
    info = run.info
    costs = {
        m.key: ShownCost(float(m.value), int(m.step), is_cost_metric(m.key, int(m.step)))
        for m in run.data._metric_objs
        if may_be_cost(m.key) and not m.key.endswith("_estimated")  # the run itself logs its estimates, so they are left alone
    }
    time_ms = max(info.end_time or info.start_time or 0, 0)  # MLflow accepts runs that start before 1970, but not such metrics
    return AnnotatedRun(info.run_id, info.experiment_id, time_ms, dict(run.data.tags), costs, info.lifecycle_stage != "deleted")
