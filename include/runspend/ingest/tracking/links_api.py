"""Read the facts that protect artifacts through MLflow's client.

Belongs here: the facts collected while the pages of runs and models are read, and the facts that need more requests. Search results do not
contain the models that a run used, so each run is requested once. `links.py` defines what the rows mean.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from runspend.ingest.tracking import raw
from runspend.ingest.tracking.client import Client
from runspend.ingest.tracking.registry import read_versions

if TYPE_CHECKING:
    import pyarrow as pa

PAGE_POINTS = 25_000


class ApiLinks:
    """See `raw.LinkReader`."""

    asks_each_run = True

    def __init__(self, client: Client, workspace_of: Mapping[str, str | None]) -> None:
        self._client = client
        self._workspace_of = workspace_of
        self.workspaces: list[str | None] = [None]
        self._metrics: frozenset[str] | None = None
        self._uses: list[tuple[str, str, str, int]] = []
        self._last: list[tuple[Any, ...]] = []
        self._model_points: list[tuple[Any, ...]] = []
        self._has_models = False

    def note_runs(self, runs: Iterable[Any], metrics: Sequence[str] | None) -> None:
        """Collect the needed facts from a page of runs. `metrics` is None if no facts are needed."""
        if metrics is None:
            return
        self._metrics = frozenset(metrics)
        for run in runs:
            made = run.outputs.model_outputs if run.outputs else []
            self._uses += [(run.info.run_id, model.model_id, "output", model.step) for model in made]
            newest = [m for m in run.data._metric_objs if m.key in self._metrics and m.value == m.value]
            self._last += [(run.info.run_id, "", m.key, m.step, m.timestamp, m.value) for m in newest]

    def note_model(self, model: Any) -> None:
        """Collect the needed facts of a logged model."""
        self._has_models = True
        if self._metrics is None:
            return
        if model.source_run_id:
            self._uses.append((model.source_run_id, model.model_id, "source", -1))
        points = [m for m in model.metrics or [] if m.key in self._metrics and m.run_id and m.value == m.value]
        self._model_points += [(m.run_id, model.model_id, m.key, m.step, m.timestamp, m.value) for m in points]

    def read_versions(self) -> pa.Table:
        return read_versions(self._client, self.workspaces)

    def read_uses(self, run_ids: Sequence[str]) -> pa.Table:
        """Return the models that runs made or used, with one request for each run in `run_ids`.

        On a server without logged models, no run can have used one, so no request is sent.
        """
        used: list[tuple[str, str, str, int]] = []
        for run_id in run_ids if self._has_models or self._uses else ():
            with self._client.in_workspace(self._workspace_of.get(run_id)):
                run = self._client.ask(lambda: self._client.store.get_run(run_id))  # noqa: B023 (called at once)
            used += [(run_id, model.model_id, "input", -1) for model in (run.inputs.model_inputs if run.inputs else [])]
        return raw.rows_to_table({*self._uses, *used}, raw.link_schema())

    def read_last(self, metrics: Sequence[str]) -> pa.Table:
        return raw.rows_to_table(self._last, raw.point_schema())

    def read_points(self, wanted: Sequence[raw.UseKey]) -> pa.Table:
        """Return the points of metrics at the chosen steps.

        Each page of each metric of each run costs one request, because the API cannot select steps.
        """
        by_metric: dict[tuple[str, str], list[raw.UseKey]] = {}
        for metric in wanted:
            by_metric.setdefault((metric.run_id, metric.key), []).append(metric)
        rows: list[tuple[Any, ...]] = []
        for (run_id, key), chosen in by_metric.items():
            steps = {step for metric in chosen for step in range(0, metric.last_step + 1, metric.stride)}
            with self._client.in_workspace(self._workspace_of.get(run_id)):
                rows += [
                    (run_id, "", key, p.step, p.timestamp, p.value)
                    for p in self._history(run_id, key)
                    if p.step in steps and p.value == p.value
                ]
        return raw.rows_to_table(rows, raw.point_schema())

    def _history(self, run_id: str, key: str) -> Iterator[Any]:
        return self._client.list_items(
            lambda token: self._client.store.get_metric_history(run_id, key, max_results=PAGE_POINTS, page_token=token)
        )

    def read_model_points(self, metrics: Sequence[str]) -> pa.Table:
        return raw.rows_to_table(self._model_points, raw.point_schema())
