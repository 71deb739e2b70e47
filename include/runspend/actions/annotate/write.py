"""Write the changed costs to one MLflow server, with a bounded number of requests. Values of other tools are never overwritten.

Each write starts from the values that MLflow has now, and correct values are not written again. So an annotation that is killed and
started again has the same result.
"""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from runspend.actions.annotate.changes import RunCost, Writer, find_changes, find_other_installation, find_other_server, find_owner_changes
from runspend.actions.annotate.installation import read_installation_id
from runspend.actions.annotate.shown import doubt_shown, is_doubted, read_shown, write_shown
from runspend.actions.annotate.wanted import RUN_COSTS, OwnerCosts
from runspend.core.cost_keys import COST_TAGS, RECORD, cost_key, run_note
from runspend.core.crash_points import crash_point
from runspend.core.errors import SourceError, SourceRefused
from runspend.core.step_result import Progress, silent
from runspend.ingest.tracking.client import DEFAULT_WORKSPACE, NotInMlflow, RequestRefused
from runspend.ingest.tracking.cost_annotations import READ_RUNS, AnnotatedRun, CostAnnotations

WRITERS = 4  # threads: one can write while others wait for MLflow
MOST_BROKEN = 10  # the step ends when writes failed in this many experiments and models
SAMPLE = 200  # runs that are read to check that MLflow still has the costs that were written

RUN_KEY = ["workspace", "run_id"]
Key = tuple[str, str]


@dataclass
class Failures:
    """Failed reads and writes of one server, by place: an experiment, a model or a workspace.

    After its first failed write, an experiment or model is skipped. `broken` is the number of places that failed for a reason other than
    a refused login. If the server hangs, each of them takes minutes. `left` holds experiments in which a write failed, and writer threads
    update it immediately. `places` and `broken` are counted later, in the order of the runs.
    """

    count: int = 0
    reason: str = ""
    places: set[str] = field(default_factory=set)
    broken: int = 0
    left: set[str] = field(default_factory=set)

    def note(self, place: str, error: SourceError, count: int = 1) -> None:
        """Count a failure. Raises `error` if MOST_BROKEN places failed: the server cannot be used now."""
        self.count += count
        self.reason = self.reason or str(error)
        if isinstance(error, RequestRefused):
            return  # MLflow refused only this one run and may accept others
        self.broken += place not in self.places and not isinstance(error, SourceRefused)
        self.places.add(place)
        if self.broken >= MOST_BROKEN:
            raise error


@dataclass
class Written:
    """Number of items written to one server, and of items that were not written, by reason.

    `gone` is the number of runs with a cost that were deleted or that the login cannot see.
    """

    runs: int = 0
    experiments: int = 0
    model_versions: int = 0
    gone: int = 0
    foreign: list[str] = field(default_factory=list)  # items with foreign values under the same names
    others: Counter[str] = field(default_factory=Counter)  # items with costs of another installation, by the installation's id
    # Items that a removal skips because their costs belong to another tracking server of runspend.yaml, by its name.
    other_servers: Counter[str] = field(default_factory=Counter)
    failures: Failures = field(default_factory=Failures)


@dataclass
class _Looked:
    """Runs that were compared with MLflow.

    `done` holds the runs that need no further comparison. `waiting` holds rows of RUN_COSTS for runs that may still show a wrong cost,
    unless they are also in `done`. These rows have no amount, so the next annotation compares the runs again. `unread` is the number of
    runs that MLflow refused to return.
    """

    done: list[Key] = field(default_factory=list)
    waiting: list[dict[str, Any]] = field(default_factory=list)
    unread: int = 0


def write_costs(
    server: CostAnnotations,
    runs: pa.Table,
    experiments: Sequence[OwnerCosts],
    models: Sequence[OwnerCosts],
    as_of: Mapping[str, str],
    home: Path,
    *,
    other_servers: Collection[str] = (),
    progress: Progress = silent,
) -> Written:
    """Make MLflow show these costs and no others. Raises SourceError if the server does not answer: values already written remain.

    `runs` has the columns of RUN_COSTS and holds all runs of the server. `as_of` is the tag that is written with every change, or empty
    to remove costs. `other_servers` are the names of the other tracking servers in runspend.yaml, whose costs may be in the same MLflow.
    """
    written = Written()
    by = Writer(server.name, read_installation_id(home), frozenset(other_servers))
    workspaces = server.list_workspaces()
    _write_runs(server, workspaces, runs, as_of, by, home, written, progress)
    _write_owners(server, "experiments", workspaces, experiments, as_of, by, written)
    registries = workspaces if server.has_own_registry else [DEFAULT_WORKSPACE]
    _write_owners(server, "model_versions", registries, models, as_of, by, written)
    return written


def remove_costs(server: CostAnnotations, home: Path, *, other_servers: Collection[str] = (), progress: Progress = silent) -> Written:
    """Remove the values that annotations wrote. MLflow can delete tags but not metrics, so a removed cost becomes NaN and is shown as NaN."""
    return write_costs(server, RUN_COSTS.empty_table(), [], [], {}, home, other_servers=other_servers, progress=progress)


def _write_runs(
    server: CostAnnotations,
    workspaces: Sequence[str],
    wanted: pa.Table,
    as_of: Mapping[str, str],
    by: Writer,
    home: Path,
    written: Written,
    progress: Progress,
) -> None:
    known = read_shown(home, server.place)
    shown = RUN_COSTS.empty_table() if known is None else known
    is_complete = bool(known is not None and as_of and not is_doubted(home, server.place) and _is_still_shown(server, workspaces, known))
    base = shown if is_complete else RUN_COSTS.empty_table()
    unwanted = [] if is_complete else _find_unwanted(server, workspaces, wanted, shown, written)
    changed, looked = _changed_runs(wanted, base), _Looked()
    if not unwanted and not changed and is_complete:
        return
    doubt_shown(home, server.place)  # if the process is killed from here on, the next one cannot know what was written
    try:
        for batch in _batches(unwanted):
            _write_batch(server, workspaces, batch, {}, by, written, looked)
            progress(f"{server.name}: withdrew the costs of {written.runs:,} runs")
        is_withdrawn = not written.failures.count
        for batch in _batches(changed):
            _write_batch(server, workspaces, batch, as_of, by, written, looked)
            progress(f"{server.name}: {len(looked.done):,} of {len(changed):,} runs whose cost changed")
        is_complete = is_complete or (is_withdrawn and not looked.unread)
    finally:  # after an error too, so that the next annotation does not compare correct runs again
        write_shown(home, server.place, _now_shown(wanted, base if is_complete else shown, looked), is_sure=is_complete)


def _is_still_shown(server: CostAnnotations, workspaces: Sequence[str], shown: pa.Table) -> bool:
    """Return whether a sample of runs still has the written costs. A server that was restored from a backup has lost them."""
    known = shown.filter(pc.is_valid(shown["cost"]))
    sample = known.take(pa.array(range(0, known.num_rows, known.num_rows // SAMPLE + 1), pa.int64())).to_pylist()
    for workspace in sorted({row["workspace"] for row in sample}):
        rows = {row["run_id"]: row for row in sample if row["workspace"] == workspace}
        try:
            found = _read_runs(server, workspaces, [RunCost(workspace, row["experiment_id"], run_id) for run_id, row in rows.items()])
        except SourceRefused:
            continue
        for run_id, run in found.items():
            cost = run.costs.get(cost_key(rows[run_id]["currency"]))
            if cost is None or cost.value != float(rows[run_id]["cost"]) or not run.tags.keys() >= {*COST_TAGS, RECORD}:
                return False
    return True


def _find_unwanted(
    server: CostAnnotations, workspaces: Sequence[str], wanted: pa.Table, shown: pa.Table, written: Written
) -> list[RunCost]:
    """Return the runs without a cost now that have costs in MLflow, or had them after the last annotation."""
    vanished = shown.join(wanted, RUN_KEY, join_type="left anti").to_pylist()
    found = {(row["workspace"], row["run_id"]): row["experiment_id"] for row in vanished}
    keep = {(row["workspace"], row["run_id"]) for row in wanted.select(RUN_KEY).to_pylist()}
    for workspace in workspaces:
        try:
            for page in server.read_annotated_runs(workspace, server.list_experiments(workspace)):
                found |= {(workspace, run.run_id): run.experiment_id for run in page}
            with suppress(NotInMlflow):  # Databricks may refuse to search deleted experiments
                for page in server.read_annotated_runs(workspace, server.list_experiments(workspace, are_deleted=True)):
                    found |= {(workspace, run.run_id): run.experiment_id for run in page}
        except (NotInMlflow, SourceRefused) as error:
            written.failures.note(f"workspace {workspace}", error)
    runs = [RunCost(workspace, experiment, run_id) for (workspace, run_id), experiment in found.items() if (workspace, run_id) not in keep]
    return sorted(runs, key=lambda run: (run.workspace, run.experiment_id, run.run_id))


def _changed_runs(wanted: pa.Table, shown: pa.Table) -> list[RunCost]:
    """Return the runs whose costs differ from the last known costs in MLflow, sorted by workspace, experiment and run."""
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
    """Yield the runs in batches of one workspace, each with at most READ_RUNS runs: the limit of one request."""
    start = 0
    while start < len(runs):
        end = start
        while end < len(runs) and end - start < READ_RUNS and runs[end].workspace == runs[start].workspace:
            end += 1
        yield runs[start:end]
        start = end


def _read_runs(server: CostAnnotations, workspaces: Sequence[str], runs: Sequence[RunCost]) -> dict[str, AnnotatedRun]:
    """Return the runs of one workspace that MLflow still has, by run id.

    Databricks refuses a search if one of the experiments does not exist. Then each half of the experiments is read separately.
    """
    workspace, experiments = runs[0].workspace, sorted({run.experiment_id for run in runs})
    try:
        return server.read_runs(workspace, experiments, [run.run_id for run in runs])
    except NotInMlflow:
        if workspace not in workspaces or len(experiments) == 1:
            return {}
    first = set(experiments[: len(experiments) // 2])
    halves = ([run for run in runs if (run.experiment_id in first) == is_first] for is_first in (True, False))
    return {run_id: run for half in halves for run_id, run in _read_runs(server, workspaces, half).items()}


def _write_batch(
    server: CostAnnotations,
    workspaces: Sequence[str],
    runs: Sequence[RunCost],
    as_of: Mapping[str, str],
    by: Writer,
    written: Written,
    looked: _Looked,
) -> None:
    """Write the changes of these runs of one workspace, and add the runs to `looked`."""
    workspace = runs[0].workspace
    try:
        found = _read_runs(server, workspaces, runs)
    except SourceRefused as error:
        looked.unread += len(runs)
        written.failures.note(f"workspace {workspace}", error, len(runs))
        return

    def write(run: RunCost) -> str | SourceError:
        shown = found.get(run.run_id)
        if shown is None or not shown.is_active:
            return "gone"
        if find_other_installation(shown.tags, by) is not None:
            return "other"
        if not as_of and find_other_server(shown.tags, by) is not None:
            return "other server"
        changes = find_changes(shown, run, as_of, by)
        if changes is None:
            return "foreign"
        if not changes:
            return "right"
        if _place(run) in written.failures.left:
            return "skipped"
        looked.waiting += _without_amounts(run, {*shown.costs, *run.costs})  # until the server confirms the write
        try:
            if changes.costs or changes.tags:
                server.write_run(run.workspace, shown, changes.costs, changes.tags)
            server.delete_run_tags(run.workspace, run.run_id, changes.deleted)
        except SourceError as error:
            if not isinstance(error, (RequestRefused, NotInMlflow)):
                written.failures.left.add(_place(run))
            return error
        crash_point("annotate.run")
        return "written"

    with ThreadPoolExecutor(WRITERS) as pool:
        try:
            for run, result in zip(runs, pool.map(write, runs), strict=True):
                _note(server, run, result, found, by, written, looked)
        except SourceError:
            pool.shutdown(cancel_futures=True)
            raise


def _note(
    server: CostAnnotations,
    run: RunCost,
    result: str | SourceError,
    found: Mapping[str, AnnotatedRun],
    by: Writer,
    written: Written,
    looked: _Looked,
) -> None:
    """Count the outcome of one run. Raises SourceError if the server cannot be used now."""
    if isinstance(result, SourceError):
        if _place(run) in written.failures.places or _is_active(server, run):
            written.failures.note(_place(run), result)
        else:
            written.gone += 1  # the run was deleted after it was read: MLflow refuses writes to deleted runs
            written.failures.left.discard(_place(run))
    elif result == "skipped":
        written.failures.count += 1
        looked.waiting += _own_costs(run, found[run.run_id])
    elif result == "other":
        written.others[find_other_installation(found[run.run_id].tags, by) or ""] += 1
        looked.done += [] if run.costs else [(run.workspace, run.run_id)]
    elif result == "other server":
        written.other_servers[find_other_server(found[run.run_id].tags, by) or ""] += 1
        looked.done.append((run.workspace, run.run_id))
    elif result == "foreign":
        written.foreign.append(f"run {run.run_id}")
        looked.waiting += _own_costs(run, found[run.run_id])
    elif result == "gone":
        written.gone += bool(run.costs)
        kept = _own_costs(run, found.get(run.run_id))
        looked.waiting += kept
        looked.done += [] if run.costs or kept else [(run.workspace, run.run_id)]
    else:
        written.runs += result == "written"
        looked.done.append((run.workspace, run.run_id))


def _own_costs(run: RunCost, shown: AnnotatedRun | None) -> list[dict[str, Any]]:
    """Return the costs that Runspend wrote to a run and did not remove later, as rows of RUN_COSTS without amounts."""
    own = [key for key, cost in shown.costs.items() if cost.is_ours and not math.isnan(cost.value)] if shown is not None else []
    return _without_amounts(run, own)


def _without_amounts(run: RunCost, keys: Iterable[str]) -> list[dict[str, Any]]:
    """Return these costs of a run as rows of RUN_COSTS without amounts."""
    names = {"workspace": run.workspace, "experiment_id": run.experiment_id, "run_id": run.run_id}
    return [{**names, "currency": key.removeprefix(cost_key(""))} for key in sorted(keys)]


def _place(run: RunCost) -> str:
    return f"experiment {run.workspace}/{run.experiment_id}"


def _is_active(server: CostAnnotations, run: RunCost) -> bool:
    """Return whether the login still sees the run as active. Raises SourceError if the server is down, which ends the step."""
    try:
        found = server.read_runs(run.workspace, [run.experiment_id], [run.run_id])
        return run.run_id in found and found[run.run_id].is_active
    except NotInMlflow:  # the experiment of the run was deleted
        return False
    except SourceRefused:
        return True


def _now_shown(wanted: pa.Table, shown: pa.Table, looked: _Looked) -> pa.Table:
    """Return the costs that MLflow probably has now: the new costs of runs that are done, and the earlier costs of all other runs."""
    done, waiting = _keys(looked.done), pa.Table.from_pylist(looked.waiting, schema=RUN_COSTS)
    kept = shown.join(done, RUN_KEY, join_type="left anti").join(waiting, RUN_KEY, join_type="left anti").select(RUN_COSTS.names)
    new = wanted.join(done, RUN_KEY, join_type="inner").select(RUN_COSTS.names)
    return pa.concat_tables([kept, new, waiting])


def _keys(runs: Sequence[Key]) -> pa.Table:
    return pa.table([pa.array([key[i] for key in runs], pa.string()) for i in (0, 1)], names=RUN_KEY)


def _write_owners(
    server: CostAnnotations,
    kind: str,
    workspaces: Sequence[str],
    wanted: Sequence[OwnerCosts],
    as_of: Mapping[str, str],
    by: Writer,
    written: Written,
) -> None:
    """Write the changed cost tags of experiments or model versions, and delete the tags of those without a cost.

    `kind` is "experiments" or "model_versions". It is also the attribute of `written` that counts the changed ones.
    """
    read, write = (
        (server.list_experiments, server.write_experiment)
        if kind == "experiments"
        else (server.list_model_versions, server.write_model_version)
    )
    by_name = {(owner.workspace, *owner.names): owner.tags for owner in wanted}
    for workspace in workspaces:
        try:
            shown = read(workspace)
        except (NotInMlflow, SourceRefused) as error:
            written.failures.note(f"{kind} of workspace {workspace}", error)
            continue
        for names, tags in shown.items():
            tags_wanted = by_name.get((workspace, *names), {})
            if (other := find_other_installation(tags, by)) is not None:
                written.others[other] += bool(tags_wanted) or not as_of  # a removal counts every skipped item
                continue
            if not as_of and (other := find_other_server(tags, by)) is not None:
                written.other_servers[other] += 1
                continue
            changes = find_owner_changes(tags, tags_wanted, as_of, by)
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
                    server.list_workspaces()  # raises SourceError if the server is down, which ends the step
                    continue
                setattr(written, kind, getattr(written, kind) + 1)
