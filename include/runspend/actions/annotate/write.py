"""Write costs to one MLflow server: only what changed, with a bounded number of requests, and never over somebody else's values.

MLflow itself says what is there, so an annotation that is killed and started again ends the same: what is right is not written again.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa

from runspend.actions.annotate.changes import RunCost, find_changes, find_owner_changes
from runspend.actions.annotate.shown import forget_shown, read_shown, write_shown
from runspend.actions.annotate.wanted import RUN_COSTS, OwnerCosts
from runspend.core.cost_keys import cost_key, run_note
from runspend.core.crash_points import crash_point
from runspend.core.errors import SourceError, SourceRefused
from runspend.core.step_result import Progress, silent
from runspend.ingest.tracking.client import DEFAULT_WORKSPACE, NoSuchThing
from runspend.ingest.tracking.cost_annotations import READ_RUNS, AnnotatedRun, CostAnnotations

__all__ = ["Failures", "Written", "remove_costs", "write_costs"]

WRITERS = 4  # threads: one waits for MLflow while another writes
SAMPLE = 200  # runs that are read to see whether MLflow still shows what was written

RUN_KEY = ["workspace", "run_id"]
Key = tuple[str, str]


@dataclass
class Failures:
    """What MLflow refused, by place: an experiment or a model, which is left alone after its first failure."""

    count: int = 0
    reason: str = ""
    places: set[str] = field(default_factory=set)

    def note(self, place: str, error: SourceError, count: int = 1) -> None:
        """Count a failure."""
        self.count += count
        self.reason = self.reason or str(error)
        self.places.add(place)


@dataclass
class Written:
    """How much was written to one server, and the reasons why something was not. `gone`: runs with a cost that the login is not shown."""

    runs: int = 0
    experiments: int = 0
    model_versions: int = 0
    gone: int = 0
    foreign: list[str] = field(default_factory=list)  # what has values of somebody else under the same names
    failures: Failures = field(default_factory=Failures)


def write_costs(
    server: CostAnnotations,
    runs: pa.Table,
    experiments: Sequence[OwnerCosts],
    models: Sequence[OwnerCosts],
    as_of: Mapping[str, str],
    home: Path,
    *,
    progress: Progress = silent,
) -> Written:
    """Make MLflow show these costs and no others. Raises SourceError if the server does not answer; what was written by then stays.

    `runs`: RUN_COSTS of all runs of the server. `as_of`: the tag that goes with every change.
    """
    written = Written()
    workspaces = server.list_workspaces()
    _write_runs(server, workspaces, runs, as_of, home, written, progress)
    _write_owners(server, "experiments", workspaces, experiments, as_of, written)
    registries = workspaces if server.has_own_registry else [DEFAULT_WORKSPACE]
    _write_owners(server, "model_versions", registries, models, as_of, written)
    return written


def remove_costs(server: CostAnnotations, home: Path, *, progress: Progress = silent) -> Written:
    """Take back what annotations wrote. MLflow can delete tags, but no metric: a removed cost is NaN, and shown as such."""
    forget_shown(home, server.place)
    return write_costs(server, RUN_COSTS.empty_table(), [], [], {}, home, progress=progress)


def _write_runs(
    server: CostAnnotations,
    workspaces: Sequence[str],
    wanted: pa.Table,
    as_of: Mapping[str, str],
    home: Path,
    written: Written,
    progress: Progress,
) -> None:
    shown = read_shown(home, server.place)
    is_complete = True
    if shown is None or not _is_still_shown(server, shown):
        shown = RUN_COSTS.empty_table()
        is_complete = _withdraw_unwanted(server, workspaces, wanted, written, progress)
    changed = _changed_runs(wanted, shown)
    done: list[Key] = []
    try:
        for batch in _batches(changed):
            done += _write_batch(server, batch, as_of, written)
            progress(f"{server.name}: {len(done):,} of {len(changed):,} runs whose cost changed")
    finally:  # whatever ends this: what is known to be right is not asked for again
        if is_complete:
            write_shown(home, server.place, _now_shown(wanted, shown, done))
        else:
            forget_shown(home, server.place)


def _is_still_shown(server: CostAnnotations, shown: pa.Table) -> bool:
    """Return whether a sample of runs is shown as it was written. A server that was restored from a backup has lost it."""
    sample = shown.take(pa.array(range(0, shown.num_rows, shown.num_rows // SAMPLE + 1), pa.int64())).to_pylist()
    for workspace in sorted({row["workspace"] for row in sample}):
        rows = {row["run_id"]: row for row in sample if row["workspace"] == workspace}
        try:
            found = server.read_runs(workspace, {row["experiment_id"] for row in rows.values()}, list(rows))
        except (NoSuchThing, SourceRefused):
            continue
        for run_id, run in found.items():
            cost = run.costs.get(cost_key(rows[run_id]["currency"]))
            if cost is None or cost.value != float(rows[run_id]["cost"]):
                return False
    return True


def _withdraw_unwanted(server: CostAnnotations, workspaces: Sequence[str], wanted: pa.Table, written: Written, progress: Progress) -> bool:
    """Withdraw the costs of runs that have none now; return whether all of them are. MLflow is asked which runs carry one."""
    keep = {(row["workspace"], row["run_id"]) for row in wanted.select(RUN_KEY).to_pylist()}
    for workspace in workspaces:
        try:
            for page in server.read_annotated_runs(workspace, [names[0] for names in server.list_experiments(workspace)]):
                left = {run.run_id: run for run in page if (workspace, run.run_id) not in keep}
                _write_found(server, [RunCost(workspace, run.experiment_id, run.run_id) for run in left.values()], left, {}, written)
                progress(f"{server.name}: withdrew the costs of {written.runs:,} runs")
        except (NoSuchThing, SourceRefused) as error:
            written.failures.note(f"workspace {workspace}", error)
    return not written.failures.count


def _changed_runs(wanted: pa.Table, shown: pa.Table) -> list[RunCost]:
    """Return runs whose costs are not those that MLflow shows as far as we know, in the order of their experiments."""
    new = wanted.join(shown, RUN_COSTS.names, join_type="left anti")
    lost = shown.join(wanted, [*RUN_KEY, "currency"], join_type="left anti")
    keys = pa.concat_tables([new.select(RUN_KEY), lost.select(RUN_KEY)]).group_by(RUN_KEY).aggregate([])
    rows: dict[Key, list[dict[str, Any]]] = defaultdict(list)
    for row in wanted.join(keys, RUN_KEY, join_type="inner").to_pylist():
        rows[row["workspace"], row["run_id"]].append(row)
    vanished = {(row["workspace"], row["run_id"]): row["experiment_id"] for row in lost.to_pylist()}
    found = [_run_cost(key, of_run) for key, of_run in rows.items()]
    found += [RunCost(key[0], experiment, key[1]) for key, experiment in vanished.items() if key not in rows]
    return sorted(found, key=lambda run: (run.workspace, run.experiment_id, run.run_id))


def _run_cost(key: Key, rows: Sequence[Mapping[str, Any]]) -> RunCost:
    workspace, run_id = key
    return RunCost(
        workspace,
        rows[0]["experiment_id"],
        run_id,
        {cost_key(row["currency"]): float(row["cost"]) for row in rows},
        max(row["state"] for row in rows),
        max(row["match"] for row in rows),
        run_note(rows[0]["site"], run_id) if rows[0]["site"] else None,
    )


def _batches(runs: Sequence[RunCost]) -> Iterator[Sequence[RunCost]]:
    """Yield runs of one workspace, at most as many as one request reads."""
    start = 0
    while start < len(runs):
        end = start
        while end < len(runs) and end - start < READ_RUNS and runs[end].workspace == runs[start].workspace:
            end += 1
        yield runs[start:end]
        start = end


def _write_batch(server: CostAnnotations, runs: Sequence[RunCost], as_of: Mapping[str, str], written: Written) -> list[Key]:
    """Return the runs that need no further look."""
    workspace = runs[0].workspace
    try:
        found = server.read_runs(workspace, {run.experiment_id for run in runs}, [run.run_id for run in runs])
    except NoSuchThing:  # the workspace is gone
        found = {}
    except SourceRefused as error:
        written.failures.note(f"workspace {workspace}", error, len(runs))
        return []
    return _write_found(server, runs, found, as_of, written)


def _write_found(
    server: CostAnnotations, runs: Sequence[RunCost], found: Mapping[str, AnnotatedRun], as_of: Mapping[str, str], written: Written
) -> list[Key]:
    """Write what these runs lack. Return those that need no further look: they are right now, or gone and without a cost."""

    def write(run: RunCost) -> str | SourceError:
        shown = found.get(run.run_id)
        if shown is None:
            return "gone"
        changes = find_changes(shown, run, as_of, server.name)
        if changes is None:
            return "foreign"
        if not changes:
            return "right"
        if _place(run) in written.failures.places:
            return "skipped"
        try:
            if changes.costs or changes.tags:
                server.write_run(run.workspace, shown, changes.costs, changes.tags)
            server.delete_run_tags(run.workspace, run.run_id, changes.deleted)
        except SourceError as error:
            return error
        crash_point("annotate.run")
        return "written"

    done: list[Key] = []
    with ThreadPoolExecutor(WRITERS) as pool:
        for run, result in zip(runs, pool.map(write, runs), strict=True):
            if isinstance(result, SourceError):
                if _place(run) in written.failures.places or _is_active(server, run):
                    written.failures.note(_place(run), result)
                else:
                    written.gone += 1  # deleted a moment ago: MLflow refuses writes to deleted runs
            elif result == "skipped":
                written.failures.count += 1
            elif result == "foreign":
                written.foreign.append(f"run {run.run_id}")
            elif result == "gone":
                written.gone += bool(run.costs)
                done += [] if run.costs else [(run.workspace, run.run_id)]
            else:
                written.runs += result == "written"
                done.append((run.workspace, run.run_id))
    return done


def _place(run: RunCost) -> str:
    return f"experiment {run.workspace}/{run.experiment_id}"


def _is_active(server: CostAnnotations, run: RunCost) -> bool:
    """Return whether the login still sees the run. Raises SourceError if the server is down: then nothing more is tried."""
    try:
        return run.run_id in server.read_runs(run.workspace, [run.experiment_id], [run.run_id])
    except SourceRefused:
        return True


def _now_shown(wanted: pa.Table, shown: pa.Table, done: Sequence[Key]) -> pa.Table:
    """Return what MLflow shows as far as we know: what is wanted of the runs that are done, and what was known of all others."""
    keys = pa.table([pa.array([key[i] for key in done], pa.string()) for i in (0, 1)], names=RUN_KEY)
    kept = shown.join(keys, RUN_KEY, join_type="left anti").select(RUN_COSTS.names)
    new = wanted.join(keys, RUN_KEY, join_type="inner").select(RUN_COSTS.names)
    return pa.concat_tables([kept, new])


def _write_owners(
    server: CostAnnotations, kind: str, workspaces: Sequence[str], wanted: Sequence[OwnerCosts], as_of: Mapping[str, str], written: Written
) -> None:
    """Write the tags of experiments or model versions that differ, and delete those that no cost supports. `written` counts under `kind`."""
    read, write = (
        (server.list_experiments, server.write_experiment)
        if kind == "experiments"
        else (server.list_model_versions, server.write_model_version)
    )
    by_name = {(owner.workspace, *owner.names): owner.tags for owner in wanted}
    for workspace in workspaces:
        try:
            shown = read(workspace)
        except (NoSuchThing, SourceRefused) as error:
            written.failures.note(f"{kind} of workspace {workspace}", error)
            continue
        for names, tags in shown.items():
            changes = find_owner_changes(tags, by_name.get((workspace, *names), {}), as_of, server.name)
            place = f"{kind} {workspace}/{names[0]}"
            if changes is None:
                written.foreign.append(f"{kind.removesuffix('s').replace('_', ' ')} {' '.join(names)}")
            elif changes and place in written.failures.places:
                written.failures.count += 1
            elif changes:
                try:
                    write(workspace, names, changes)
                except SourceError as error:
                    written.failures.note(place, error)
                    server.list_workspaces()  # raises if the server is down: then nothing more is tried
                    continue
                setattr(written, kind, getattr(written, kind) + 1)
