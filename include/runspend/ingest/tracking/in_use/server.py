"""Check with the MLflow server, right before bytes are deleted, whether it still needs the artifacts of a plan.

Belongs here: the checks of one owner of artifacts. Is the owner unchanged since the last extract? Does anything live depend on it?
`ingest/tracking/protection_tags.py` defines the tags that protect. `registry.py` checks registered versions, and `model_uses.py` finds the
runs that use a model. If the server does not answer a question, the artifacts are protected. An incomplete answer protects them too,
because a lost page looks like an answer without findings.
"""

from __future__ import annotations

import os
import re
from collections.abc import Collection, Iterator
from datetime import datetime
from typing import Any

from runspend.config.settings import TrackingServer
from runspend.core.errors import SourceError, SourceUnreachable
from runspend.core.secret_shapes import redact_place
from runspend.ingest.tracking.artifact_folders import find_folders, is_same_or_inside, like_pattern
from runspend.ingest.tracking.client import DEFAULT_WORKSPACE, Client
from runspend.ingest.tracking.database import database_uri
from runspend.ingest.tracking.in_use.database import DatabaseUses
from runspend.ingest.tracking.in_use.model_uses import LiveUses, RecentUses, ask_side_by_side, find_live_version
from runspend.ingest.tracking.in_use.registry import RegistryQuestions
from runspend.ingest.tracking.in_use.snapshot import LastExtract, Owner
from runspend.ingest.tracking.protection_tags import holding_tag

PAGE_RUNS = 1_000
DEEPEST = 10  # levels of parents that are followed
RUN_ID, MODEL_ID, TRACE_ID = re.compile(r"[0-9a-f]{32}"), re.compile(r"m-[0-9a-f]{32}"), re.compile(r"tr-[0-9a-f]{16,32}")


class LiveServer:
    """Check artifacts with one server. Each check sends new requests.

    The list of workspaces and the models of ended runs are read only once. The models of other runs are reused for TRUSTED_SECONDS.
    """

    def __init__(self, server: TrackingServer, known: LastExtract, now: datetime) -> None:
        # By default, the client retries for minutes. Here, artifacts are protected if the server does not answer quickly.
        os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "1")
        os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "30")
        self.name = server.name
        self._client = Client(server)
        self._known = known
        self._today = now.date()
        self._workspaces: list[str] | None = None
        self._has_asked = False
        self._has_own_registry = server.registry is None
        self._database = database_uri(server)
        self._is_copy = server.database is not None  # a separate database may be a replica that lags behind, so MLflow is asked too
        self._behind = server.artifacts
        self._uses: dict[str, LiveUses] = {}  # by workspace

    def protects(self, owner: Owner) -> str | None:
        """Return why the owner's artifacts must stay, for example "alias champion on fraud/7". Returns None if nothing protects them."""
        try:
            if owner.owner_kind == "orphan":
                return self._find_owner(owner.owner_id)
            with self._client.in_workspace(self._in(owner.workspace)):
                return self._ask(owner)
        except SourceError as error:
            return f"whether MLflow still needs it is unknown: {error}"

    def _in(self, workspace: str) -> str | None:
        """Return the workspace to send requests to, or None if the server has no workspaces.

        Raises SourceUnreachable if the server does not have this workspace.
        """
        there = self._list_workspaces()
        if there is None:
            if workspace not in ("", DEFAULT_WORKSPACE):
                raise SourceUnreachable(self.name, f"cannot ask {self.name} for workspace {workspace}: this server has no workspaces.")
            return None
        if workspace not in there:
            raise SourceUnreachable(self.name, f"cannot ask {self.name} for workspace {workspace}: this server does not list it.")
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
        if model_id is None and owner.owner_kind == "logged_model":
            return f"whether MLflow still needs it is unknown: {owner.owner_id!r} is not a valid model id"
        reason = self._ask_model(model_id) if model_id else None
        reason = reason or (self._ask_run(owner, owner.run_id) if owner.run_id else None)
        reason = reason or self._ask_registry(owner.workspace).ask(run_id=owner.run_id, model_id=model_id, is_run=owner.owner_kind == "run")
        return reason or self._ask_uses(owner, model_id)

    def _ask_registry(self, workspace: str) -> RegistryQuestions:
        there = workspace if self._has_own_registry else DEFAULT_WORKSPACE
        known = self._known
        return RegistryQuestions(self._client, known.read_at, known.registered_run.get(there), known.loose_versions.get(there, ()))

    # --- the run ------------------------------------------------------------------------------------------------------

    def _get_run(self, run_id: str) -> Any:
        """Return the run, or None if MLflow answers that it does not exist. Raises SourceUnreachable if the answer has another run id."""
        run = self._client.find(lambda: self._client.store.get_run(run_id))
        if run is not None and run.info.run_id != run_id:
            raise SourceUnreachable(self.name, f"cannot ask {self.name} for run {run_id}: its answer has no run.")
        return run

    def _ask_run(self, owner: Owner, run_id: str) -> str | None:
        is_own = owner.owner_kind == "run"
        its = "its" if is_own else "its run's"
        run = self._get_run(run_id)
        there = redact_place(run.info.artifact_uri or "") if run is not None else ""  # in the form that the extract stores
        if run is None:  # objects that exist only in the archive may be deleted even if their run is gone
            return None if owner.action == "delete" else f"MLflow no longer shows run {run_id}: it may only be hidden"
        experiment = self._get_experiment(run.info.experiment_id)
        reasons = (
            self._busy(run, "it" if is_own else "its run"),
            self._restored(run, experiment, "it" if is_own else "its run"),
            f"its artifacts are in {there} now" if is_own and owner.artifact_uri not in (None, there) else None,
            holding_tag(run.data.tags, its, self._today),
            holding_tag(experiment.tags, f"{its} experiment's" if not is_own else "its experiment's", self._today),
        )
        return next((reason for reason in reasons if reason), None) or self._ask_family(run) or (self._ask_sharing(run) if is_own else None)

    def _busy(self, run: Any, what: str) -> str | None:
        if run.info.status in ("RUNNING", "SCHEDULED") or not run.info.end_time:
            return f"{what} is running, or its end is missing"
        if run.info.end_time > int(self._known.read_at.timestamp() * 1000):
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
            raise SourceUnreachable(self.name, f"cannot ask {self.name} for experiment {experiment_id}: its answer has none.")
        return found

    # --- related runs --------------------------------------------------------------------------------------------------

    def _ask_family(self, run: Any) -> str | None:
        """Return why a parent run, a parent's parent (up to DEEPEST levels) or a child run protects the run's artifacts."""
        parent_id, seen = run.data.tags.get("mlflow.parentRunId"), {run.info.run_id}
        while parent_id and parent_id not in seen and len(seen) <= DEEPEST:
            seen.add(parent_id)
            parent = self._get_run(parent_id)
            if parent is None and parent_id not in self._known.purged_runs:
                return f"MLflow no longer shows its parent run {parent_id}: it may only be hidden"
            if parent is None:
                break
            if reason := self._busy(parent, f"its parent run {parent_id}") or holding_tag(
                parent.data.tags, "its parent run's", self._today
            ):
                return reason
            parent_id = parent.data.tags.get("mlflow.parentRunId")
        children = {
            r.info.run_id: r for r in self._search([run.info.experiment_id], f"tags.`mlflow.parentRunId` = {_filter_text(run.info.run_id)}")
        }
        # The other known children are in other experiments, or missing in the answer.
        for child_id in sorted(self._known.children_of(run.info.run_id) - set(children)):
            if (child := self._get_run(child_id)) is None:
                return f"MLflow no longer shows its child run {child_id}: it may only be hidden"
            if child.info.experiment_id == run.info.experiment_id and child.data.tags.get("mlflow.parentRunId") == run.info.run_id:
                raise SourceUnreachable(
                    self.name, f"cannot ask {self.name} for the children of run {run.info.run_id}: its answer leaves out run {child_id}."
                )
            children[child_id] = child
        for child_id, child in sorted(children.items()):
            if reason := self._busy(child, f"its child run {child_id}") or holding_tag(
                child.data.tags, f"its child run {child_id}'s", self._today
            ):
                return reason
        return None

    def _ask_sharing(self, run: Any) -> str | None:
        """Return a reason if another run's artifacts are in this run's folder or below it, in any spelling of the URI.

        Raises SourceUnreachable if the answer does not contain the run itself.
        """
        uri = redact_place(run.info.artifact_uri)
        folders = find_folders(uri, self._behind)
        found = {
            r.info.run_id: r
            for r in self._search(
                self._experiment_ids(), f"attributes.artifact_uri LIKE {_filter_text(like_pattern(run.info.artifact_uri, run.info.run_id))}"
            )
        }
        if run.info.run_id not in found:
            raise SourceUnreachable(
                self.name, f"cannot ask {self.name} who shares {uri}: its answer leaves out run {run.info.run_id} itself."
            )
        for run_id, other in sorted(found.items()):
            theirs = find_folders(redact_place(other.info.artifact_uri or ""), self._behind)
            if run_id != run.info.run_id and any(is_same_or_inside(folder, ours) for folder in theirs for ours in folders):
                return f"shares its folder with run {run_id}"
        return None

    def _experiment_ids(self) -> list[str]:
        from mlflow.entities import ViewType

        return [
            e.experiment_id
            for e in self._client.list_items(lambda token: self._client.store.search_experiments(ViewType.ALL, PAGE_RUNS, page_token=token))
        ]

    def _search(self, experiment_ids: list[str], condition: str) -> Iterator[Any]:
        from mlflow.entities import ViewType

        return self._client.list_items(
            lambda token: self._client.store.search_runs(experiment_ids, condition, ViewType.ALL, PAGE_RUNS, None, token)
        )

    # --- models, traces, orphans -----------------------------------------------------------------------------------------

    def _ask_model(self, model_id: str) -> str | None:
        model = self._client.ask(lambda: self._client.store.get_logged_model(model_id, allow_deleted=True))
        if model.model_id != model_id:
            raise SourceUnreachable(self.name, f"cannot ask {self.name} for model {model_id}: its answer has no model.")
        if str(model.status) == "PENDING":
            return "the model is still being logged"
        experiment = self._get_experiment(model.experiment_id)  # checked here because a model may not have a run
        return holding_tag(model.tags, "its", self._today) or holding_tag(experiment.tags, "its experiment's", self._today)

    def _ask_uses(self, owner: Owner, model_id: str | None) -> str | None:
        """Return a reason if a run uses the model, or if a live registered version was made from it.

        For a run without a model of its own, the models that the run logged are checked for live versions.
        """
        uses = self._get_uses(owner.workspace)
        if model_id:
            uses.look(self._experiment_ids)
            if reason := self._ask_users(uses, model_id):
                return reason
        models = (
            {model_id} if model_id else uses.made_by([owner.run_id]) if owner.run_id and owner.owner_kind == "run" else frozenset[str]()
        )
        label = self._ask_lineage(owner.workspace, models)
        return label and (
            f"used by a run that led to a live model: {label}" if model_id else f"a run that led to a live model used its output: {label}"
        )

    def _ask_lineage(self, workspace: str, model_ids: Collection[str]) -> str | None:
        """Return a live registered version that was made from any of the models, directly or through further runs, or None."""
        if not model_ids:
            return None
        uses = self._get_uses(workspace)
        uses.look(self._experiment_ids)
        return find_live_version(model_ids, uses, self._ask_registry(workspace))

    def _get_uses(self, workspace: str) -> LiveUses:
        if workspace not in self._uses:
            known = self._known
            newest, still_open = known.newest_run.get(workspace), known.open_runs.get(workspace, frozenset())
            recent = RecentUses(self._client, known.read_at, newest, still_open) if self._database is None or self._is_copy else None
            database = DatabaseUses(self.name, self._database, newest[0] if newest else None) if self._database is not None else None
            self._uses[workspace] = LiveUses(known.users_of, known.made_by, recent, database)
        return self._uses[workspace]

    def _ask_users(self, uses: LiveUses, model_id: str) -> str | None:
        """Return a reason if a run that used the model is still running, or if a run has used it since the tables were read."""

        def ask(run_id: str) -> str | None:
            run = self._get_run(run_id)
            return None if run is None or run.info.lifecycle_stage != "active" else self._busy(run, f"run {run_id}, which uses it,")

        reasons = ask_side_by_side(ask, sorted(self._known.users_of([model_id])))
        since = sorted(uses.users_since(model_id))
        return next((reason for reason in reasons if reason), None) or (
            f"run {since[0]} has used it since the tables were read" if since else None
        )

    def _ask_trace(self, owner: Owner) -> str | None:
        trace = self._client.ask(lambda: self._client.store.get_trace_info(owner.owner_id))
        if trace.trace_id != owner.owner_id:
            raise SourceUnreachable(self.name, f"cannot ask {self.name} for trace {owner.owner_id}: its answer has no trace.")
        if str(trace.state.value) == "IN_PROGRESS":
            return "the trace is not finished"
        experiment = self._get_experiment(trace.experiment_id)
        reason = holding_tag(trace.tags, "its", self._today) or holding_tag(experiment.tags, "its experiment's", self._today)
        source = trace.trace_metadata.get("mlflow.sourceRun")
        if reason or not source or (run := self._get_run(source)) is None:
            return reason
        return self._busy(run, "its run") or holding_tag(run.data.tags, "its run's", self._today)

    def _ask_experiment(self, experiment_id: str) -> str | None:
        """Return why an experiment must not be deleted in MLflow. MLflow deletes an experiment's runs with it.

        An experiment with active runs must stay. One with traces must stay too: traces do not belong to runs, and a deleted experiment
        does not accept new traces.
        """
        from mlflow.entities import ViewType

        experiment = self._get_experiment(experiment_id)
        if reason := holding_tag(experiment.tags, "its", self._today):
            return reason
        if experiment_id in self._known.deleted_experiments and experiment.lifecycle_stage == "active":
            return "it was restored after the tables were read"
        if self._client.ask(lambda: self._client.store.search_runs([experiment_id], "", ViewType.ACTIVE_ONLY, 1)):
            return "it has active runs"
        traces, _ = self._client.ask(lambda: self._client.store.search_traces(experiment_ids=[experiment_id], max_results=1))
        return "it has traces" if traces else None

    def _find_owner(self, folder: str) -> str | None:
        """Return a reason if a part of an orphan's folder is the id of a run, model or trace in MLflow."""
        parts, there = folder.split("/"), self._list_workspaces()
        for workspace in [None] if there is None else there:
            with self._client.in_workspace(workspace):
                for above, name in zip(["", *parts], parts, strict=False):
                    if reason := self._ask_owner(name, above) or self._ask_deleted(name, workspace or DEFAULT_WORKSPACE):
                        return reason
        return None

    def _ask_owner(self, name: str, above: str) -> str | None:
        """Return a reason if `name`, a folder inside the folder `above`, is the id of a run, model or trace in MLflow."""
        is_run = RUN_ID.fullmatch(name)
        if is_run and self._get_run(name) is not None:
            return f"it belongs to run {name} of {self.name}"
        if (
            MODEL_ID.fullmatch(name)
            and self._client.find(lambda: self._client.store.get_logged_model(name, allow_deleted=True)) is not None
        ):
            return f"it belongs to model {name} of {self.name}"
        is_trace = TRACE_ID.fullmatch(name) or (above == "traces" and is_run)
        if is_trace and self._client.find(lambda: self._client.store.get_trace_info(name)) is not None:
            return f"it belongs to trace {name} of {self.name}"
        return None

    def _ask_deleted(self, name: str, workspace: str) -> str | None:
        """Return a registered version that depends on a deleted run or model, or None.

        MLflow allows registering a version from the files of a deleted run or model.
        """
        if RUN_ID.fullmatch(name):
            return self._ask_registry(workspace).ask(run_id=name, model_id=None, is_run=True)
        if not MODEL_ID.fullmatch(name):
            return None
        if reason := self._ask_registry(workspace).ask(run_id=None, model_id=name, is_run=False):
            return reason
        label = self._ask_lineage(workspace, [name])
        return label and f"used by a run that led to a live model: {label}"


def _filter_text(text: str) -> str:
    """Return a quoted string for MLflow's filter language, which has no escapes.

    Raises SourceUnreachable if the text contains both kinds of quotes.
    """
    if '"' not in text:
        return f'"{text}"'
    if "'" not in text:
        return f"'{text}'"
    raise SourceUnreachable("mlflow", f"cannot ask MLflow about {text!r}: it has both kinds of quotes.")
