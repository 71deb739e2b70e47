"""Writes costs to MLflow, and removes them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import datetime
from functools import partial
from typing import TYPE_CHECKING

from runspend.config.settings import AnnotateSettings, Settings, TrackingServer
from runspend.core.errors import SourceError, UsageError
from runspend.core.step_result import Outcome, Progress, silent
from runspend.ingest.tracking.cost_annotations import CostAnnotations
from runspend.pipeline.damage import watching
from runspend.pipeline.monitoring import tell_not_annotated
from runspend.pipeline.source_status import chosen
from runspend.warehouse.factory import open_warehouse

if TYPE_CHECKING:
    from runspend.actions.annotate import Written


NAMED = 3  # a note names at most this many values that were not changed


@watching()
def annotate(settings: Settings, names: Sequence[str] | None = None, *, now: datetime, progress: Progress = silent) -> Outcome:
    """Write the costs of runs, experiments and model versions to each server that has `annotate`. Only changed values are written."""
    from runspend.actions import annotate as annotations
    from runspend.actions.annotate.wanted import are_versions_read, as_of_text, wanted_experiments, wanted_models, wanted_runs

    outcome = Outcome("annotate")
    site = settings.site.url if settings.site else ""
    servers = _annotated(settings, names)
    _say_if_none(outcome, servers, "`annotate: true`")
    for server in servers:
        progress(f"annotate {server.name}")
        with open_warehouse(settings).reader() as reader:
            runs = wanted_runs(reader, server.name, site)
            if not are_versions_read(reader, server.name):
                outcome.notes.append(
                    f"{server.name}: model versions show no cost yet, because no extract has read them. Run `runspend extract {server.name}`, then this again"
                )
            experiments, models = wanted_experiments(reader, server.name, now), wanted_models(reader, server.name)
        write = partial(
            annotations.write_costs,
            runs=runs,
            experiments=experiments,
            models=models,
            as_of=as_of_text(now),
            home=settings.home,
            other_servers=_others(settings, server),
            progress=progress,
        )
        _report(settings, server, write, outcome, now)
    return outcome


def remove_annotations(settings: Settings, names: Sequence[str] | None = None, *, now: datetime, progress: Progress = silent) -> Outcome:
    """Remove the values that `annotate` wrote. Without `names`, from all servers that have a `write_token`."""
    from runspend.actions import annotate as annotations

    outcome = Outcome("annotate")
    servers = chosen({s.name: s for s in settings.tracking if s.write_token is not None}, names, "tracking server with a `write_token`")
    _say_if_none(outcome, servers, "a `write_token`")
    for server in servers:
        remove = partial(annotations.remove_costs, home=settings.home, other_servers=_others(settings, server), progress=progress)
        _report(settings, server, remove, outcome, now, is_removal=True)
    return outcome


def _annotated(settings: Settings, names: Sequence[str] | None) -> list[TrackingServer]:
    servers = chosen({s.name: s for s in settings.tracking}, names, "tracking server")
    if names is not None and (silent_ones := [s.name for s in servers if s.annotate is None]):
        raise UsageError(f"cannot write costs to {', '.join(silent_ones)}: the server has no `annotate: true` in runspend.yaml.")
    return [server for server in servers if server.annotate is not None]


def _say_if_none(outcome: Outcome, servers: Sequence[TrackingServer], key: str) -> None:
    if not servers:
        outcome.notes.append(f"no tracking server in runspend.yaml has {key}: nothing was written to MLflow")


def _others(settings: Settings, server: TrackingServer) -> list[str]:
    return [other.name for other in settings.tracking if other.name != server.name]


def _report(
    settings: Settings,
    server: TrackingServer,
    work: Callable[[CostAnnotations], Written],
    outcome: Outcome,
    now: datetime,
    *,
    is_removal: bool = False,
) -> None:
    """Do the work on one server and report the result. A failure does not stop the work on other servers. Operators get a mail about it."""
    pace = (server.annotate or AnnotateSettings()).requests_per_second
    failed = f"cannot {'remove all costs from' if is_removal else 'write all costs to'} {server.name}"
    again = f"runspend annotate {'--remove ' * is_removal}{server.name}"
    try:
        written = work(CostAnnotations(server, pace))
    except SourceError as error:
        problem: SourceError = type(error)(server.name, f"{failed}: {error} Completed changes are kept. For the rest, run: {again}")
        outcome.fail(problem)
        tell_not_annotated(settings, outcome, server.name, str(problem), again, now)
        return
    counts = [(written.runs, "run"), (written.experiments, "experiment"), (written.model_versions, "model version")]
    changed = [f"{count:,} {noun}{'s' * (count != 1)}" for count, noun in counts if count]
    if changed:
        outcome.changed.append(f"{server.name}: {'removed the costs of' if is_removal else 'costs of'} {', '.join(changed)}")
    else:
        outcome.unchanged.append(f"{server.name}: costs in MLflow")
    if written.foreign:
        named = ", ".join(written.foreign[:NAMED]) + (f" and {len(written.foreign) - NAMED:,} more" if len(written.foreign) > NAMED else "")
        outcome.notes.append(f"{server.name}: not changed, because these names already have values that Runspend did not write: {named}")
    for other, count in (+written.others).items():
        outcome.notes.append(
            f"{server.name}: did not change the costs that another Runspend installation ({other}) wrote to {count:,} runs, experiments and model versions. "
            f"Let only one installation annotate them. If the other one is gone, write its id to {settings.home / 'installation'}"
        )
    for name, count in written.other_servers.items():
        outcome.notes.append(
            f"{server.name}: left the costs of {name} on {count:,} runs, experiments and model versions. "
            f"To remove them too, run: runspend annotate --remove {name}"
        )
    if written.gone:
        outcome.notes.append(f"{server.name}: {written.gone:,} runs with a cost are deleted in MLflow, or hidden from `write_token`")
    if written.failures.count:
        problem = SourceError(server.name, f"{failed}: {written.failures.count:,} are missing. {written.failures.reason}")
        outcome.fail(problem)
        tell_not_annotated(settings, outcome, server.name, str(problem), again, now)
