"""Whether MLflow still needs what a plan would take away, asked of the server itself right before bytes are deleted.

Put here the questions about one owner of artifacts: is it as the last extract saw it, and does anything live lean on it? The tags
that protect are in `holds.py`, the registry's part in `live_registry.py`, runs that use a model in `live_uses.py`. Whatever cannot
be asked protects, and so does an answer that leaves out what must be in it: an empty page looks like a clean one.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Protocol

from runspend.config import TrackingServer
from runspend.errors import SourceError, SourceUnreachable
from runspend.tracking.client import DEFAULT_WORKSPACE, Client
from runspend.tracking.holds import holding_tag
from runspend.tracking.live_registry import RegistryQuestions
from runspend.tracking.live_uses import RecentUses

PAGE_RUNS = 1_000
DEEPEST = 10  # parents of parents that are looked at
RUN_ID, MODEL_ID, TRACE_ID = re.compile(r"[0-9a-f]{32}"), re.compile(r"m-[0-9a-f]{32}"), re.compile(r"tr-[0-9a-f]{16,32}")


class Owner(Protocol):
    """What is asked about: an item of the archive is one."""

    @property
    def action(self) -> str: ...
    @property
    def workspace(self) -> str: ...
    @property
    def owner_kind(self) -> str: ...
    @property
    def owner_id(self) -> str: ...
    @property
    def run_id(self) -> str | None: ...
    @property
    def artifact_uri(self) -> str | None: ...


@dataclass(frozen=True)
class Known:
    """What the last extract saw of a server: what a true answer must not leave out, and what has happened since."""

    read_at: datetime
    deleted_runs: frozenset[str] = frozenset()
    purged_runs: frozenset[str] = frozenset()  # which MLflow no longer had
    deleted_experiments: frozenset[str] = frozenset()
    children_of: Callable[[str], frozenset[str]] = lambda run_id: frozenset()
    users_of: Callable[[str], frozenset[str]] = lambda model_id: frozenset()  # runs that used a model
    # by workspace:
    open_runs: Mapping[str, frozenset[str]] = field(default_factory=dict)  # runs that had not ended
    newest_run: Mapping[str, tuple[str, int]] = field(default_factory=dict)  # the run that started last, and when, in epoch milliseconds
    registered_run: Mapping[str, str] = field(default_factory=dict)  # a run that some registered version names
    loose_versions: Mapping[str, tuple[tuple[str, str], ...]] = field(default_factory=dict)  # label and source of versions that name no run


class LiveServer:
    """One server, asked anew each time. Nothing is remembered but what cannot change."""

    def __init__(self, server: TrackingServer, known: Known, now: datetime) -> None:
        # The client would try for minutes: a server that does not answer soon protects.
        os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "1")
        os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "30")
        self.name = server.name
        self._client = Client(server)
        self._known = known
        self._today = now.date()
        self._workspaces: list[str] | None = None
        self._has_asked = False
        self._has_own_registry = server.registry is None
        self._recent: dict[str, RecentUses] = {}  # by workspace

    def protects(self, owner: Owner) -> str | None:
        """What keeps the owner's artifacts where they are, in words like "alias champion on fraud/7"; None when nothing does."""
        try:
            if owner.owner_kind == "orphan":
                return self._find_owner(owner.owner_id)
            with self._client.in_workspace(self._in(owner.workspace)):
                return self._ask(owner)
        except SourceError as error:
            return f"whether MLflow still needs it cannot be told: {error}"

    def _in(self, workspace: str) -> str | None:
        """The workspace to ask in; None where the server has none."""
        there = self._list_workspaces()
        if there is None:
            if workspace not in ("", DEFAULT_WORKSPACE):
                raise SourceUnreachable(self.name, f"cannot ask {self.name} for workspace {workspace}: it has none.")
            return None
        if workspace not in there:
            raise SourceUnreachable(self.name, f"cannot ask {self.name} for workspace {workspace}: it does not show it.")
        return workspace

    def _list_workspaces(self) -> list[str] | None:
        if not self._has_asked:
            self._client.ask(lambda: self._client.store)
            self._workspaces = self._client.find_workspaces()
            self._has_asked = True
        return self._workspaces

    def _ask(self, owner: Owner) -> str | None:
        if owner.owner_kind == "trace":
            return self._ask_trace(owner)
        if owner.owner_kind == "experiment":
            return self._ask_experiment(owner.owner_id)
        model_id = owner.owner_id if MODEL_ID.fullmatch(owner.owner_id) else None
        reason = self._ask_model(model_id) if model_id else None
        reason = reason or (self._ask_run(owner, owner.run_id) if owner.run_id else None)
        reason = reason or self._ask_registry(owner.workspace).ask(run_id=owner.run_id, model_id=model_id, is_run=owner.owner_kind == "run")
        return reason or (self._ask_users(owner.workspace, model_id) if model_id else None)

    def _ask_registry(self, workspace: str) -> RegistryQuestions:
        there = workspace if self._has_own_registry else DEFAULT_WORKSPACE
        known = self._known
        return RegistryQuestions(self._client, known.read_at, known.registered_run.get(there), known.loose_versions.get(there, ()))

    # --- the run ------------------------------------------------------------------------------------------------------

    def _get_run(self, run_id: str) -> Any:
        """The run, or None when MLflow says it has none. An answer about nothing is an error."""
        run = self._client.find(lambda: self._client.store.get_run(run_id))
        if run is not None and run.info.run_id != run_id:
            raise SourceUnreachable(self.name, f"cannot ask {self.name} for run {run_id}: its answer tells of no run.")
        return run

    def _ask_run(self, owner: Owner, run_id: str) -> str | None:
        is_own = owner.owner_kind == "run"
        its = "its" if is_own else "its run's"
        run = self._get_run(run_id)
        if run is None:  # what lies in the archive only is deleted after its run is gone, too
            return None if owner.action == "delete" else f"MLflow no longer shows run {run_id}: it may only be hidden"
        experiment = self._get_experiment(run.info.experiment_id)
        reasons = (
            self._busy(run, "it" if is_own else "its run"),
            self._restored(run, experiment, "it" if is_own else "its run"),
            f"its artifacts lie in {run.info.artifact_uri} by now" if is_own and owner.artifact_uri not in (None, run.info.artifact_uri) else None,
            holding_tag(run.data.tags, its, self._today),
            holding_tag(experiment.tags, f"{its} experiment's" if not is_own else "its experiment's", self._today),
        )
        return next((reason for reason in reasons if reason), None) or self._ask_family(run) or (self._ask_sharing(run) if is_own else None)

    def _busy(self, run: Any, what: str) -> str | None:
        if run.info.status in ("RUNNING", "SCHEDULED") or not run.info.end_time:
            return f"{what} is running, or never said that it ended"
        if run.info.end_time > _milliseconds(self._known.read_at):
            return f"{what} ended after the tables were read"
        return None

    def _restored(self, run: Any, experiment: Any, what: str) -> str | None:
        stage, around = run.info.lifecycle_stage, experiment.lifecycle_stage
        if stage == "active" and around == "deleted":
            return f"{what} was restored inside a deleted experiment"
        if stage == "active" and run.info.run_id in self._known.deleted_runs:
            return f"{what} was restored after the tables were read"
        if around == "active" and experiment.experiment_id in self._known.deleted_experiments:
            return "its experiment was restored after the tables were read"
        return None

    def _get_experiment(self, experiment_id: str) -> Any:
        found = self._client.ask(lambda: self._client.store.get_experiment(experiment_id))
        if found is None or found.experiment_id != experiment_id:
            raise SourceUnreachable(self.name, f"cannot ask {self.name} for experiment {experiment_id}: its answer tells of none.")
        return found

    # --- who is near ---------------------------------------------------------------------------------------------------

    def _ask_family(self, run: Any) -> str | None:
        """Parents all the way up, and children."""
        parent_id, seen = run.data.tags.get("mlflow.parentRunId"), {run.info.run_id}
        while parent_id and parent_id not in seen and len(seen) <= DEEPEST:
            seen.add(parent_id)
            parent = self._get_run(parent_id)
            if parent is None and parent_id not in self._known.purged_runs:
                return f"MLflow no longer shows its parent run {parent_id}: it may only be hidden"
            if parent is None:
                break
            if reason := self._busy(parent, f"its parent run {parent_id}") or holding_tag(parent.data.tags, "its parent run's", self._today):
                return reason
            parent_id = parent.data.tags.get("mlflow.parentRunId")
        children = {r.info.run_id: r for r in self._search([run.info.experiment_id], f"tags.`mlflow.parentRunId` = {_quoted(run.info.run_id)}")}
        for child_id in sorted(self._known.children_of(run.info.run_id) - set(children)):  # in other experiments, or left out
            if (child := self._get_run(child_id)) is None:
                return f"MLflow no longer shows its child run {child_id}: it may only be hidden"
            if child.info.experiment_id == run.info.experiment_id and child.data.tags.get("mlflow.parentRunId") == run.info.run_id:
                raise SourceUnreachable(self.name, f"cannot ask {self.name} for the children of run {run.info.run_id}: its answer leaves out run {child_id}.")
            children[child_id] = child
        for child_id, child in sorted(children.items()):
            if reason := self._busy(child, f"its child run {child_id}") or holding_tag(child.data.tags, f"its child run {child_id}'s", self._today):
                return reason
        return None

    def _ask_sharing(self, run: Any) -> str | None:
        """Another run whose folder is this one, or lies in it. The run itself must be among those found."""
        folder = run.info.artifact_uri.rstrip("/")
        found = {r.info.run_id: r for r in self._search(self._experiment_ids(), f"attributes.artifact_uri LIKE {_quoted(folder + '%')}")}
        if run.info.run_id not in found:
            raise SourceUnreachable(self.name, f"cannot ask {self.name} who shares {folder}: its answer leaves out run {run.info.run_id} itself.")
        others = (r for run_id, r in sorted(found.items()) if run_id != run.info.run_id)
        return next((f"shares its folder with run {r.info.run_id}" for r in others if f"{r.info.artifact_uri.rstrip('/')}/".startswith(f"{folder}/")), None)

    def _experiment_ids(self) -> list[str]:
        from mlflow.entities import ViewType

        return [e.experiment_id for e in self._pages(lambda token: self._client.store.search_experiments(ViewType.ALL, PAGE_RUNS, page_token=token))]

    def _search(self, experiment_ids: list[str], condition: str) -> Iterator[Any]:
        from mlflow.entities import ViewType

        return self._pages(lambda token: self._client.store.search_runs(experiment_ids, condition, ViewType.ALL, PAGE_RUNS, None, token))

    def _pages(self, ask: Any) -> Iterator[Any]:
        token: str | None = None
        while True:
            page = self._client.ask(lambda: ask(token))  # noqa: B023 (called at once)
            yield from page
            token = page.token
            if not token:
                return

    # --- models, traces, orphans -----------------------------------------------------------------------------------------

    def _ask_model(self, model_id: str) -> str | None:
        model = self._client.ask(lambda: self._client.store.get_logged_model(model_id, allow_deleted=True))
        if model.model_id != model_id:
            raise SourceUnreachable(self.name, f"cannot ask {self.name} for model {model_id}: its answer tells of no model.")
        if str(model.status) == "PENDING":
            return "the model is still being logged"
        return holding_tag(model.tags, "its", self._today)

    def _ask_users(self, workspace: str, model_id: str) -> str | None:
        """Runs that used the model and run, or used it after the tables were read."""
        for run_id in sorted(self._known.users_of(model_id)):
            run = self._get_run(run_id)
            if run is None or run.info.lifecycle_stage != "active":
                continue
            if reason := self._busy(run, f"run {run_id}, which uses it,"):
                return reason
        if workspace not in self._recent:
            newest, still_open = self._known.newest_run.get(workspace), self._known.open_runs.get(workspace, frozenset())
            self._recent[workspace] = RecentUses(self._client, self._known.read_at, newest, still_open)
        return self._recent[workspace].ask(model_id, self._experiment_ids())

    def _ask_trace(self, owner: Owner) -> str | None:
        trace = self._client.ask(lambda: self._client.store.get_trace_info(owner.owner_id))
        if trace.trace_id != owner.owner_id:
            raise SourceUnreachable(self.name, f"cannot ask {self.name} for trace {owner.owner_id}: its answer tells of no trace.")
        if str(trace.state.value) == "IN_PROGRESS":
            return "the trace is not finished"
        experiment = self._get_experiment(trace.experiment_id)
        reason = holding_tag(trace.tags, "its", self._today) or holding_tag(experiment.tags, "its experiment's", self._today)
        source = trace.trace_metadata.get("mlflow.sourceRun")
        if reason or not source or (run := self._get_run(source)) is None:
            return reason
        return self._busy(run, "its run") or holding_tag(run.data.tags, "its run's", self._today)

    def _ask_experiment(self, experiment_id: str) -> str | None:
        """An experiment is asked about to be deleted in MLflow, which deletes its runs with it: it may have none that are active."""
        from mlflow.entities import ViewType

        experiment = self._get_experiment(experiment_id)
        if reason := holding_tag(experiment.tags, "its", self._today):
            return reason
        if experiment_id in self._known.deleted_experiments and experiment.lifecycle_stage == "active":
            return "it was restored after the tables were read"
        if self._client.ask(lambda: self._client.store.search_runs([experiment_id], "", ViewType.ACTIVE_ONLY, 1)):
            return "it has active runs"
        return None

    def _find_owner(self, folder: str) -> str | None:
        """Whether MLflow knows a run, model or trace that an orphan's folder is named after."""
        there = self._list_workspaces()
        workspaces: list[str | None] = [None] if there is None else [*there]
        for workspace in workspaces:
            with self._client.in_workspace(workspace):
                parts = folder.split("/")
                for above, name in zip(["", *parts], parts, strict=False):
                    is_model, is_trace = MODEL_ID.fullmatch(name), TRACE_ID.fullmatch(name) or (above == "traces" and RUN_ID.fullmatch(name))
                    if RUN_ID.fullmatch(name) and self._get_run(name) is not None:
                        return f"it belongs to run {name} of {self.name}"
                    if is_model and self._client.find(lambda: self._client.store.get_logged_model(name, allow_deleted=True)) is not None:  # noqa: B023 (called at once)
                        return f"it belongs to model {name} of {self.name}"
                    if is_trace and self._client.find(lambda: self._client.store.get_trace_info(name)) is not None:  # noqa: B023
                        return f"it belongs to trace {name} of {self.name}"
                    if is_model or RUN_ID.fullmatch(name):  # gone from MLflow, which lets a version be registered from its files all the same
                        ids = {"run_id": None if is_model else name, "model_id": name if is_model else None}
                        if reason := self._ask_registry(workspace or DEFAULT_WORKSPACE).ask(**ids, is_run=not is_model):
                            return reason
        return None


def _milliseconds(moment: datetime) -> int:
    return int(moment.timestamp() * 1000)


def _quoted(text: str) -> str:
    """A text in MLflow's filter language, which knows no escape. Raises SourceUnreachable for one that cannot be said."""
    if '"' not in text:
        return f'"{text}"'
    if "'" not in text:
        return f"'{text}'"
    raise SourceUnreachable("mlflow", f"cannot ask MLflow about {text!r}: it holds both kinds of quotes.")
