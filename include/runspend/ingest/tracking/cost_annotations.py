"""Read and write the costs that MLflow shows of its runs, experiments and model versions, at a bounded rate.

Put here the requests. `actions/annotate` decides what is written; `core/cost_keys.py` names the keys. Like `mlflow_writer.py`, it logs
in with `write_token` of the tracking server. Deleted runs are neither read nor written.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, TypeVar

from runspend.config.settings import TrackingServer
from runspend.core.cost_keys import FIRST_STEP, RECORD, is_cost_metric, may_be_cost
from runspend.core.errors import SourceRefused
from runspend.ingest.tracking.client import DEFAULT_WORKSPACE, Client, NoSuchThing, PageTokens

__all__ = ["READ_RUNS", "AnnotatedRun", "CostAnnotations", "ShownCost"]

READ_RUNS = 500  # of one request
EXPERIMENTS_PER_REQUEST = 500
T = TypeVar("T")


@dataclass(frozen=True)
class ShownCost:
    """The newest value of a cost metric; NaN if it was withdrawn. `is_ours`: Runspend wrote it."""

    value: float
    step: int
    is_ours: bool


@dataclass(frozen=True)
class AnnotatedRun:
    """What MLflow shows of an active run. `time_ms`: its end; its start while it has none. `costs`: by key of the metric."""

    run_id: str
    experiment_id: str
    time_ms: int
    tags: Mapping[str, str]
    costs: Mapping[str, ShownCost]

    def next_step(self, key: str) -> int:
        """Return the step of the metric's next value. MLflow shows the value with the highest step."""
        return max(self.costs[key].step + 1, FIRST_STEP) if key in self.costs else FIRST_STEP


class CostAnnotations:
    """One server. Every write may be repeated. Calls raise SourceError if the server does not answer, or refuses."""

    def __init__(self, server: TrackingServer, requests_per_second: float) -> None:
        self.name = server.name
        self.has_own_registry = server.registry is None  # another one is listed once, and may be that of other servers too
        self.place = f"{server.name} {server.uri}"  # a server of the same name elsewhere is another one
        self._client = Client(server, server.write_token)
        self._pace = _Pace(requests_per_second)
        self._has_workspaces: bool | None = None

    def read_runs(self, workspace: str, experiments: Collection[str], run_ids: Sequence[str]) -> dict[str, AnnotatedRun]:
        """Return those of at most READ_RUNS runs that are active. `experiments` must hold the runs' own."""
        listed = ", ".join(f"'{run_id}'" for run_id in run_ids)
        found = self._search(workspace, sorted(experiments), f"attributes.run_id IN ({listed})", len(run_ids), None)
        return {run.run_id: run for run in found}

    def read_annotated_runs(self, workspace: str, experiments: Sequence[str]) -> Iterator[list[AnnotatedRun]]:
        """Yield pages of the active runs that carry a record of costs. The caller may remove it meanwhile."""
        for start in range(0, len(experiments), EXPERIMENTS_PER_REQUEST):
            seen: set[str] = set()
            is_new = True
            while is_new:  # once more until nothing is new, because a run that lost its record shifts the pages
                is_new, token = False, None
                tokens = PageTokens(self.name)
                while True:
                    page = self._search(
                        workspace, experiments[start : start + EXPERIMENTS_PER_REQUEST], f"tags.`{RECORD}` LIKE '%'", READ_RUNS, token
                    )
                    if fresh := [run for run in page if run.run_id not in seen]:
                        is_new = True
                        seen |= {run.run_id for run in fresh}
                        yield fresh
                    if (token := tokens.follow(page.token)) is None:
                        break

    def write_run(self, workspace: str, run: AnnotatedRun, costs: Mapping[str, float], tags: Mapping[str, str]) -> None:
        """Write metrics, at the run's own time, and tags of a run in one request."""
        from mlflow.entities import Metric, RunTag

        metrics = [Metric(key, value, run.time_ms, run.next_step(key)) for key, value in costs.items()]
        written = [RunTag(key, value) for key, value in tags.items()]
        self._ask(workspace, lambda store: store.log_batch(run.run_id, metrics, [], written))

    def delete_run_tags(self, workspace: str, run_id: str, keys: Iterable[str]) -> None:
        for key in keys:
            with suppress(NoSuchThing):
                self._ask(workspace, lambda store: store.delete_tag(run_id, key))  # noqa: B023 (called at once)

    def list_experiments(self, workspace: str) -> dict[tuple[str, ...], dict[str, str]]:
        """Return the tags of all active experiments, by id (a tuple of one)."""
        from mlflow.entities import ViewType

        found: dict[tuple[str, ...], dict[str, str]] = {}
        token: str | None = None
        tokens = PageTokens(self.name)
        while True:
            page = self._ask(workspace, lambda store: store.search_experiments(ViewType.ACTIVE_ONLY, 1_000, page_token=token))
            found |= {(experiment.experiment_id,): dict(experiment.tags) for experiment in page}
            if (token := tokens.follow(page.token)) is None:
                return found

    def write_experiment(self, workspace: str, names: Sequence[str], tags: Mapping[str, str | None]) -> None:
        """Set tags of an experiment (`names`: its id), and delete those that are None."""
        from mlflow.entities import ExperimentTag

        [experiment_id] = names
        for key, value in tags.items():
            if value is not None:
                tag = ExperimentTag(key, value)
                self._ask(workspace, lambda store: store.set_experiment_tag(experiment_id, tag))  # noqa: B023 (called at once)
            else:
                with suppress(NoSuchThing):
                    self._ask(workspace, lambda store: store.delete_experiment_tag(experiment_id, key))  # noqa: B023 (called at once)

    def list_model_versions(self, workspace: str) -> dict[tuple[str, ...], dict[str, str]]:
        """Return the tags of all versions, by model and version."""
        found: dict[tuple[str, ...], dict[str, str]] = {}
        token: str | None = None
        tokens = PageTokens(self.name)
        while True:
            page = self._ask(workspace, lambda registry: registry.search_model_versions(None, 1_000, page_token=token), is_registry=True)
            found |= {(version.name, str(version.version)): dict(version.tags) for version in page}
            if (token := tokens.follow(page.token)) is None:
                return found

    def write_model_version(self, workspace: str, names: Sequence[str], tags: Mapping[str, str | None]) -> None:
        """Set tags of a model version (`names`: the model and its version), and delete those that are None."""
        from mlflow.entities.model_registry import ModelVersionTag

        model, version = names
        for key, value in tags.items():
            if value is not None:
                tag = ModelVersionTag(key, value)
                self._ask(workspace, lambda registry: registry.set_model_version_tag(model, version, tag), is_registry=True)  # noqa: B023 (called at once)
            else:
                with suppress(NoSuchThing):
                    self._ask(workspace, lambda registry: registry.delete_model_version_tag(model, version, key), is_registry=True)  # noqa: B023 (called at once)

    def list_workspaces(self) -> list[str]:
        """Return the workspaces of the server; the default one if it has none."""
        self._pace.wait()
        return self._client.ask(self._client.find_workspaces) or [DEFAULT_WORKSPACE]

    def _search(self, workspace: str, experiments: Sequence[str], condition: str, limit: int, token: str | None) -> Any:
        from mlflow.entities import ViewType

        page = self._ask(
            workspace,
            lambda store: store.search_runs(experiments, condition, ViewType.ACTIVE_ONLY, limit, ["attributes.start_time ASC"], token),
        )
        return _Page([_annotated(run) for run in page], page.token)

    def _ask(self, workspace: str, call: Callable[[Any], T], *, is_registry: bool = False) -> T:
        self._pace.wait()
        with self._client.in_workspace(self._place(workspace)):
            return self._client.ask(lambda: call(self._client.registry if is_registry else self._client.store))

    def _place(self, workspace: str) -> str | None:
        """Return the workspace to enter. Raises SourceRefused if the server lacks it."""
        if self._has_workspaces is None:
            self._client.ask(lambda: self._client.store)
            self._has_workspaces = self._client.find_workspaces() is not None
        if not self._has_workspaces and workspace not in ("", DEFAULT_WORKSPACE):
            raise SourceRefused(self.name, f"cannot write to {self.name}: it has no workspace {workspace}.")
        return workspace if self._has_workspaces else None


class _Page(list[AnnotatedRun]):
    def __init__(self, runs: list[AnnotatedRun], token: str | None) -> None:
        super().__init__(runs)
        self.token = token


class _Pace:
    """At most so many requests a second, of all threads together."""

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
        if may_be_cost(m.key) and not m.key.endswith("_estimated")  # those are the run's own, and stay
    }
    return AnnotatedRun(info.run_id, info.experiment_id, info.end_time or info.start_time or 0, dict(run.data.tags), costs)
