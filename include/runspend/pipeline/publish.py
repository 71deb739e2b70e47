"""Copies tables to the databases and files in `publish`, for other tools."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from runspend.config.publish import DuckDBTarget, PostgresTarget, PublishTarget
from runspend.config.settings import Settings, redact
from runspend.core.errors import MissingExtra, RecordRefused, SourceError
from runspend.core.machine_faults import fault_of
from runspend.core.step_result import Outcome, Progress, silent
from runspend.pipeline.damage import watching
from runspend.pipeline.monitoring import tell_not_published
from runspend.pipeline.source_status import chosen
from runspend.schema.public_views import COSTS_FOR_DASHBOARDS
from runspend.warehouse.factory import open_warehouse

if TYPE_CHECKING:
    from runspend.actions.publish import Content, Found, Published


@watching()
def publish(settings: Settings, *, now: datetime, targets: Sequence[str] = (), progress: Progress = silent) -> Outcome:
    """Copy the published tables to each target. A target that already has this build is skipped.

    A target that fails does not stop the others.
    """
    from runspend.actions.publish import open_content

    outcome = Outcome("publish")
    wanted = chosen({target.name: target for target in settings.publish}, targets or None, "target of `publish`")
    if not wanted:
        outcome.notes.append("there is no target of `publish` in runspend.yaml: nothing was copied")
        return outcome
    with open_content(open_warehouse(settings), _site(settings)) as content:
        if not content.parts:  # if the warehouse was lost with its disk, the targets must not be emptied
            outcome.notes.append(
                "the warehouse has no tables yet: nothing was copied, and targets keep what they have. Run: runspend nightly"
            )
            return outcome
        has_view = False
        for target in wanted:
            progress(f"publish {target.name}")
            try:
                published = _publish_to(target, content, now)
                _report(outcome, target, published)
                has_view |= COSTS_FOR_DASHBOARDS.name in published.rows
            except (SourceError, MissingExtra, RecordRefused) as error:
                kind = type(error) if isinstance(error, SourceError) else SourceError
                problem = kind(target.name, redact(str(error), settings))
                outcome.fail(problem)
                tell_not_published(settings, outcome, target.name, str(problem), now)
        if has_view:
            _note_rounding(outcome, content)
    return outcome


def look_at(settings: Settings, target: PublishTarget) -> tuple[Found, str | None]:
    """Return the target's build, and the warehouse's build for this target. The latter is None before the first pipeline run.

    Changes nothing.
    """
    from runspend.actions.publish import open_content

    found: Found = _module(target).probe(target)
    uri = settings.warehouse.uri.removeprefix("file://")
    if "://" not in uri and not Path(uri).is_dir():
        return found, None
    with open_content(open_warehouse(settings), _site(settings)) as content:
        wanted = content.of(target.tables)
        return found, wanted.build_id if wanted.parts else None


def _site(settings: Settings) -> str | None:
    return settings.site.url.rstrip("/") if settings.site else None


def _module(target: PublishTarget) -> Any:
    """Return the module that contains `publish` and `probe` for the target's kind."""
    if isinstance(target, PostgresTarget):
        from runspend.actions.publish import postgres

        return postgres
    if isinstance(target, DuckDBTarget):
        from runspend.actions.publish import duckdb_file

        return duckdb_file
    from runspend.actions.publish import iceberg

    return iceberg


def _publish_to(target: PublishTarget, content: Content, now: datetime) -> Published:
    published: Published = _module(target).publish(target, content.of(target.tables), now)
    return published


def _report(outcome: Outcome, target: PublishTarget, published: Published) -> None:
    outcome.notes += [f"{target.name}: {note}" for note in published.notes]
    if not published.is_new:
        outcome.unchanged.append(f"publish {target.name}: build {published.build_id}")
        return
    tables = ", ".join(f"{name} {count:,}" for name, count in published.rows.items())
    what = f"rows of {tables}" if tables else "rows were only removed"
    outcome.changed.append(f"publish {target.name}: build {published.build_id}, {what}")


def _note_rounding(outcome: Outcome, content: Content) -> None:
    """Add notes about the difference between rounded costs and the ledger.

    Nothing else depends on these notes, so an error of the machine only becomes a note too.
    """
    try:
        rounding = content.rounding()
    except Exception as error:
        if (fault := fault_of(error)) is None:
            raise
        outcome.notes.append(f"how far rounded costs are from the ledger could not be computed: {fault}")
        return
    for found in rounding:
        outcome.notes.append(
            f"costs_for_dashboards of {found.month}: effective_cost_rounded differs from the ledger by {found.period:.3f} {found.currency} in total,"
            f" by at most {found.day:.3f} in a day of a bill, and by at most {found.team:.3f} for a team."
            " The other cost columns do not differ"
        )
