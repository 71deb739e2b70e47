"""Write to MLflow where artifacts were moved, and soft-delete pruned runs and experiments.

Apart from `cost_annotations.py`, which writes costs, no other module here writes to MLflow. This module logs in with the tracking
server's `write_token`, never with the credentials for reading. Belongs here: what is written. The archive decides when to write, and
after which checks. Runs are only soft-deleted. `mlflow gc` is never used, because it deletes more than requested.
"""

from __future__ import annotations

from functools import partial
from typing import Any, Protocol

from runspend.config.settings import TrackingServer
from runspend.core.errors import SourceError, SourceUnreachable
from runspend.ingest.tracking.client import DEFAULT_WORKSPACE, Client

ARCHIVED, RESTORED, PRUNED = "runspend.archived", "runspend.restored", "runspend.pruned"


class TaggedOwner(Protocol):
    """The owner of artifacts that gets the tags, for example an item of the archive."""

    @property
    def workspace(self) -> str: ...
    @property
    def owner_kind(self) -> str: ...
    @property
    def owner_id(self) -> str: ...
    @property
    def run_id(self) -> str | None: ...


class MlflowWriter:
    """Write to one server. The methods return None, or the reason why nothing was written.

    Every call may be repeated: values that MLflow already has are not written again.
    """

    def __init__(self, server: TrackingServer) -> None:
        self._server = server
        self._client = Client(server, server.write_token) if server.write_token is not None else None

    def archived(self, owner: TaggedOwner, where: str) -> str | None:
        """Set the tag `runspend.archived` to `where`, which tells where the artifacts were moved and how to restore them."""
        return self._write(owner, {ARCHIVED: where, RESTORED: None})

    def restored(self, owner: TaggedOwner, where: str) -> str | None:
        """Remove the tag `runspend.archived`, and set `runspend.restored` to `where`, which tells where the artifacts are."""
        return self._write(owner, {RESTORED: where, ARCHIVED: None})

    def prune_run(self, owner: TaggedOwner, why: str) -> str | None:
        """Soft-delete a run, as MLflow's web page does, and write the reason to the tag `runspend.pruned`. The run's artifacts stay."""

        def prune(client: Client) -> str | None:
            run = _run_of(client, owner)
            if run.info.lifecycle_stage == "deleted":
                return None
            _set_tags(client, owner, {PRUNED: why})
            client.ask(lambda: client.store.delete_run(run.info.run_id))
            if _run_of(client, owner).info.lifecycle_stage != "deleted":
                raise SourceUnreachable(
                    client.name, f"cannot delete run {run.info.run_id} of {client.name}: it is still active. Nothing was lost."
                )
            return None

        return self._with(owner, prune)

    def prune_experiment(self, workspace: str, experiment_id: str) -> str | None:
        """Soft-delete an experiment that has no active runs.

        An experiment with active runs is kept, because MLflow deletes the runs together with the experiment.
        """
        from mlflow.entities import ViewType

        def prune(client: Client) -> str | None:
            experiment = client.ask(lambda: client.store.get_experiment(experiment_id))
            if experiment.lifecycle_stage == "deleted":
                return None
            if client.ask(lambda: client.store.search_runs([experiment_id], "", ViewType.ACTIVE_ONLY, 1)):
                return f"{client.name}: experiment {experiment_id} has active runs, so it was not deleted"
            client.ask(lambda: client.store.delete_experiment(experiment_id))
            return None

        return self._in(workspace, f"experiment {experiment_id}", prune)

    def restore_run(self, owner: TaggedOwner) -> str | None:
        """Restore a soft-deleted run if MLflow still has it.

        A run in a deleted experiment is not restored, because the next `mlflow gc` would delete it.
        """

        def restore(client: Client) -> str | None:
            run = _run_of(client, owner)
            if run.info.lifecycle_stage == "active":
                return None
            experiment = client.ask(lambda: client.store.get_experiment(run.info.experiment_id))
            if experiment.lifecycle_stage == "deleted":
                return f"{client.name}: run {run.info.run_id} stays deleted, because its experiment {experiment.name!r} is. Restore the experiment in MLflow"
            client.ask(lambda: client.store.restore_run(run.info.run_id))
            _set_tags(client, owner, {PRUNED: None})
            return None

        return self._with(owner, restore)

    def _write(self, owner: TaggedOwner, tags: dict[str, str | None]) -> str | None:
        return self._with(owner, lambda client: _set_tags(client, owner, tags))

    def _with(self, owner: TaggedOwner, write: Any) -> str | None:
        name = f"{owner.owner_kind.replace('_', ' ')} {owner.owner_id}"
        if owner.owner_kind == "orphan":
            return f"{self._server.name}: {name} has no page in MLflow, so no tags were written"
        return self._in(owner.workspace, name, write)

    def _in(self, workspace: str, name: str, write: Any) -> str | None:
        if self._client is None:
            return f"{self._server.name}: cannot write to MLflow for {name}, because the server has no `write_token` in runspend.yaml"
        client = self._client
        try:
            client.ask(lambda: client.store)
            there = workspace if client.find_workspaces() is not None else None
            if there is None and workspace not in ("", DEFAULT_WORKSPACE):
                return f"{client.name}: cannot write to MLflow for {name}: the server has no workspace {workspace}"
            with client.in_workspace(there):
                problem: str | None = write(client)
                return problem
        except SourceError as error:
            return f"{client.name}: cannot write to MLflow for {name}: {error}"


def _run_of(client: Client, owner: TaggedOwner) -> Any:
    run = client.ask(lambda: client.store.get_run(owner.run_id))
    if run.info.run_id != owner.run_id:
        raise SourceUnreachable(client.name, f"cannot ask {client.name} for run {owner.run_id}: its answer has no run.")
    return run


def _set_tags(client: Client, owner: TaggedOwner, tags: dict[str, str | None]) -> str | None:
    """Set the given tags, and remove the tags whose value is None. Tags that already match are not written.

    Returns None, or the reason why nothing was written. A soft-deleted run does not accept tags.
    """
    from mlflow.entities import LoggedModelTag, RunTag

    store, key = client.store, owner.owner_id
    if key.startswith("m-"):
        there = client.ask(lambda: store.get_logged_model(key)).tags
        put, remove = lambda name, value: store.set_logged_model_tags(key, [LoggedModelTag(name, value)]), store.delete_logged_model_tag
    elif owner.owner_kind == "trace":
        there = client.ask(lambda: store.get_trace_info(key)).tags
        put, remove = partial(store.set_trace_tag, key), store.delete_trace_tag
    else:
        run = _run_of(client, owner)
        there, key = run.data.tags, run.info.run_id
        if all(there.get(name) == value for name, value in tags.items()):
            return None
        if run.info.lifecycle_stage != "active":
            return f"{client.name}: run {key} is deleted in MLflow and does not accept tags, so none were written"
        put, remove = lambda name, value: store.set_tag(key, RunTag(name, value)), store.delete_tag
    for name, value in tags.items():
        if value is not None and there.get(name) != value:
            client.ask(partial(put, name, value))
        elif value is None and name in there:
            client.find(partial(remove, key, name))
    return None
