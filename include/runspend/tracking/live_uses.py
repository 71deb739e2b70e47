"""Which runs began to use a logged model after the tables were read.

MLflow has no question for the runs that use a model, so the runs that may have begun to since are asked one by one: those that
started since, and those that are running. Runs that used it before stand in `model_uses`.
"""

from __future__ import annotations

import time
from collections.abc import Collection, Iterator
from datetime import datetime
from typing import Any

from runspend.errors import SourceUnreachable
from runspend.tracking.client import Client

PAGE_RUNS = 1_000
MOST_RUNS = 5_000  # more cannot be asked before every delete
TRUSTED_SECONDS = 30.0  # for which the answers of running runs are taken as they were


class RecentUses:
    """Inputs of recent runs. Those of ended ones are asked for once. `newest` and `open_runs` were there at the last extract: they must be in the answers."""

    def __init__(self, client: Client, since: datetime, newest: tuple[str, int] | None, open_runs: Collection[str]) -> None:
        self._client = client
        self._newest = newest
        self._open_runs = open_runs
        self._since_ms = min(int(since.timestamp() * 1000), newest[1] if newest else 2**53)
        self._inputs: dict[str, tuple[bool, frozenset[str]]] = {}  # run id -> whether it had ended, and the models it used
        self._asked_at = float("-inf")

    def ask(self, model_id: str, experiment_ids: list[str]) -> str | None:
        """The first recent run that used the model, in words. Raises SourceUnreachable where there are too many to ask."""
        if time.monotonic() - self._asked_at > TRUSTED_SECONDS:
            self._refresh(experiment_ids)
        return next((f"run {run_id} has used it since the tables were read" for run_id, (_, models) in sorted(self._inputs.items()) if model_id in models), None)

    def _refresh(self, experiment_ids: list[str]) -> None:
        asked_at = time.monotonic()
        conditions = (f"attributes.start_time >= {self._since_ms}", "attributes.status = 'RUNNING'")
        found = {run.info.run_id for condition in conditions for run in self._search(experiment_ids, condition)}
        if self._newest is not None and self._newest[0] not in found:
            raise SourceUnreachable(self._client.name, f"cannot ask {self._client.name} which runs use a model: its answer leaves out run {self._newest[0]}, which it had.")
        left_out = set(self._open_runs) - found
        found |= left_out
        if len(found) > MOST_RUNS:
            raise SourceUnreachable(self._client.name, f"cannot ask {self._client.name} which runs use a model: {len(found)} started since the last extract or run. Run runspend extract first.")
        for run_id in found:
            if run_id not in self._inputs or not self._inputs[run_id][0]:
                self._inputs[run_id] = self._ask_run(run_id)
            if run_id in left_out and not self._inputs[run_id][0]:
                raise SourceUnreachable(self._client.name, f"cannot ask {self._client.name} which runs are running: its answer leaves out run {run_id}.")
        self._asked_at = asked_at

    def _ask_run(self, run_id: str) -> tuple[bool, frozenset[str]]:
        run = self._client.find(lambda: self._client.store.get_run(run_id))
        if run is None:  # gone since
            return True, frozenset()
        if run.info.run_id != run_id:
            raise SourceUnreachable(self._client.name, f"cannot ask {self._client.name} for run {run_id}: its answer tells of no run.")
        models = run.inputs.model_inputs if run.inputs else []
        return bool(run.info.end_time), frozenset(model.model_id for model in models)

    def _search(self, experiment_ids: list[str], condition: str) -> Iterator[Any]:
        from mlflow.entities import ViewType

        token: str | None = None
        while True:
            page = self._client.ask(lambda: self._client.store.search_runs(experiment_ids, condition, ViewType.ALL, PAGE_RUNS, None, token))  # noqa: B023 (called at once)
            yield from page
            token = page.token
            if not token:
                return
