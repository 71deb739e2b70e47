"""Find the runs that used a logged model, and the models that they logged, right before bytes are deleted.

Belongs here: how the API and the database answer this. MLflow's API has no query for the runs that used a model. So Runspend
starts from the last extract, and then requests each run that was active since then and may have used the model. If Runspend reads the
database, it queries the database directly. `server.py` and `find_live_version` (in this module) decide what a use protects.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextvars import copy_context
from datetime import datetime
from typing import Any, NamedTuple, Protocol, TypeVar

from runspend.core.errors import SourceUnreachable
from runspend.ingest.tracking.client import Client
from runspend.ingest.tracking.in_use.database import DatabaseUses

PAGE_RUNS = 1_000
MOST_RUNS = 5_000  # checking more runs before every delete would take too long
TRUSTED_SECONDS = 2.0  # answers about running runs are reused for this long, because items are checked one after the other
AT_ONCE = 8  # parallel requests
DEEPEST = 10  # how many levels of models made from other models are followed, as in `plan.sql`

T = TypeVar("T")
S = TypeVar("S")


class Registry(Protocol):
    """The interface of `registry.RegistryQuestions` that `find_live_version` needs."""

    def ask_any(self, run_ids: Collection[str], model_ids: Collection[str]) -> str | None: ...


class Used(NamedTuple):
    """The ids of the models that a recent run used (`inputs`) and logged (`outputs`)."""

    has_ended: bool
    inputs: frozenset[str]
    outputs: frozenset[str]


NOTHING = Used(True, frozenset(), frozenset())


class LiveUses:
    """Model uses in one workspace. The functions `users_of` and `made_by` answer from the last extract.

    `recent` (the API) and `database` are queried for newer uses, unless they are None.
    """

    def __init__(
        self,
        users_of: Callable[[Collection[str]], frozenset[str]],
        made_by: Callable[[Collection[str]], frozenset[str]],
        recent: RecentUses | None,
        database: DatabaseUses | None,
    ) -> None:
        self._known_users, self._known_made = users_of, made_by
        self._recent, self._database = recent, database

    def look(self, experiment_ids: Callable[[], list[str]]) -> None:
        """Read the recent runs again if the last answers are too old. Raises SourceUnreachable if there are too many."""
        if self._recent is not None:
            self._recent.look(experiment_ids)

    def users_of(self, model_ids: Collection[str]) -> frozenset[str]:
        """Return the runs that have used any of the models. Raises SourceUnreachable if the database cannot be read."""
        return self._known_users(model_ids) | self._asked_users(model_ids)

    def users_since(self, model_id: str) -> frozenset[str]:
        """Return the runs that use the model but were not known to do so at the last extract."""
        return self._asked_users([model_id]) - self._known_users([model_id])

    def made_by(self, run_ids: Collection[str]) -> frozenset[str]:
        """Return the models that any of the runs logged. Raises SourceUnreachable if the database cannot be read."""
        found = self._known_made(run_ids)
        if self._recent is not None:
            found |= self._recent.made_by(run_ids)
        return found if self._database is None or not run_ids else found | self._database.made_by(run_ids)

    def _asked_users(self, model_ids: Collection[str]) -> frozenset[str]:
        found = frozenset[str]() if self._recent is None else self._recent.users_of(model_ids)
        return found if self._database is None or not model_ids else found | self._database.users_of(model_ids)


def find_live_version(model_ids: Collection[str], uses: LiveUses, registry: Registry) -> str | None:
    """Return a registered version that was made from any of the models, directly or through further runs and their models, or None.

    Raises SourceUnreachable if more than MOST_RUNS runs would have to be checked.
    """
    models, runs, newest = set(model_ids), set[str](), frozenset(model_ids)
    for _ in range(DEEPEST):
        users = uses.users_of(newest) - runs if newest else frozenset()
        if not users:
            break
        runs |= users
        newest = uses.made_by(users) - models
        models |= newest
        if len(runs) > MOST_RUNS:
            raise SourceUnreachable(
                "mlflow", f"cannot ask the registry about everything made with {min(model_ids)}: at least {len(runs):,} runs are involved."
            )
    return registry.ask_any(runs, models - set(model_ids)) if runs else None


def ask_side_by_side(ask: Callable[[S], T], whom: Iterable[S]) -> list[T]:
    """Call `ask` for each element of `whom`, several in parallel, and return the answers in order. The caller's workspace is used."""
    asked = [(copy_context(), one) for one in whom]
    if len(asked) < 2:
        return [ask(one) for _, one in asked]
    with ThreadPoolExecutor(AT_ONCE) as pool:
        return list(pool.map(lambda pair: pair[0].run(ask, pair[1]), asked))


class RecentUses:
    """The models of recent runs, read through the API. An ended run is requested only once.

    `newest` and `open_runs` are runs known from the last extract. They prove that an answer is complete: it must include `newest`, and
    those of `open_runs` that are still running.
    """

    def __init__(self, client: Client, since: datetime, newest: tuple[str, int] | None, open_runs: Collection[str]) -> None:
        self._client = client
        self._newest = newest
        self._open_runs = open_runs
        self._since_ms = min(int(since.timestamp() * 1000), newest[1] if newest else 2**53)
        self._used: dict[str, Used] = {}  # by run id
        self._asked_at = float("-inf")

    def users_of(self, model_ids: Collection[str]) -> frozenset[str]:
        """Return the recent runs that used any of the models."""
        wanted = frozenset(model_ids)
        return frozenset(run_id for run_id, used in self._used.items() if used.inputs & wanted)

    def made_by(self, run_ids: Collection[str]) -> frozenset[str]:
        """Return the models that those of the runs that are recent have logged."""
        return frozenset().union(*(self._used.get(run_id, NOTHING).outputs for run_id in run_ids))

    def look(self, experiment_ids: Callable[[], list[str]]) -> None:
        """Read the recent runs again if the last answers are older than TRUSTED_SECONDS."""
        if time.monotonic() - self._asked_at > TRUSTED_SECONDS:
            asked_at = time.monotonic()
            self._refresh(experiment_ids())
            self._asked_at = asked_at

    def _refresh(self, experiment_ids: list[str]) -> None:
        conditions = (f"attributes.start_time >= {self._since_ms}", "attributes.status = 'RUNNING'")
        found = {run.info.run_id for condition in conditions for run in self._search(experiment_ids, condition)}
        if self._newest is not None and self._newest[0] not in found:
            raise SourceUnreachable(
                self._client.name,
                f"cannot ask {self._client.name} which runs use a model: its answer leaves out run {self._newest[0]}, which it had before.",
            )
        left_out = set(self._open_runs) - found
        found |= left_out
        if len(found) > MOST_RUNS:
            raise SourceUnreachable(
                self._client.name,
                f"cannot ask {self._client.name} which runs use a model: {len(found)} runs are running or started since the last extract. Run runspend extract first.",
            )
        again = sorted(run_id for run_id in found if not self._used.get(run_id, NOTHING._replace(has_ended=False)).has_ended)
        self._used |= dict(zip(again, ask_side_by_side(self._ask_run, again), strict=True))
        if restless := next((run_id for run_id in sorted(left_out) if not self._used[run_id].has_ended), None):
            raise SourceUnreachable(
                self._client.name, f"cannot ask {self._client.name} which runs are running: its answer leaves out run {restless}."
            )

    def _ask_run(self, run_id: str) -> Used:
        run = self._client.find(lambda: self._client.store.get_run(run_id))
        if run is None:  # deleted since then
            return NOTHING
        if run.info.run_id != run_id:
            raise SourceUnreachable(self._client.name, f"cannot ask {self._client.name} for run {run_id}: its answer has no run.")
        inputs = run.inputs.model_inputs if run.inputs else []
        outputs = run.outputs.model_outputs if run.outputs else []
        return Used(bool(run.info.end_time), frozenset(m.model_id for m in inputs), frozenset(m.model_id for m in outputs))

    def _search(self, experiment_ids: list[str], condition: str) -> Iterator[Any]:
        from mlflow.entities import ViewType

        return self._client.list_items(
            lambda token: self._client.store.search_runs(experiment_ids, condition, ViewType.ALL, PAGE_RUNS, None, token)
        )
