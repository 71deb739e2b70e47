"""The pipeline: one module per step, and `nightly`, which runs them in order.

    extract, measure, load  →  allocate (models, checks, publish), estimate  →  alert  →  archive_plan  →  report  →  publish  →  annotate

Each step replaces whole units. A step that runs again gives the same result. Steps pass rows to each other through the warehouse. An
`Outcome` contains only names, notes and problems, and the figures of the reports. `nightly` sends no archive notices and moves no
artifacts. The caller always passes `now`. The details of a step belong in its own package, not here.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import datetime

from runspend.config.settings import Settings
from runspend.core.errors import RecordRefused
from runspend.core.step_result import Outcome, Progress, silent
from runspend.ingest.billing import load_process as loading
from runspend.pipeline.admin import forget
from runspend.pipeline.alert import alert
from runspend.pipeline.allocate import allocate, estimate, foresee_queries, settle
from runspend.pipeline.annotate import annotate, remove_annotations
from runspend.pipeline.archive import archive_apply, archive_notify, archive_plan, archive_verify, archive_verify_monthly
from runspend.pipeline.check import check, verify
from runspend.pipeline.damage import watching
from runspend.pipeline.extract import extract
from runspend.pipeline.load import load
from runspend.pipeline.measure import measure
from runspend.pipeline.monitoring import ring_heartbeat, tell_refused_file
from runspend.pipeline.publish import publish
from runspend.pipeline.report import report
from runspend.pipeline.statement import statement

__all__ = [
    "alert",
    "allocate",
    "annotate",
    "archive_apply",
    "archive_notify",
    "archive_plan",
    "archive_verify",
    "archive_verify_monthly",
    "check",
    "estimate",
    "extract",
    "foresee_queries",
    "forget",
    "load",
    "measure",
    "nightly",
    "publish",
    "remove_annotations",
    "report",
    "settle",
    "statement",
    "verify",
]


@watching(None)
def nightly(
    settings: Settings, *, now: datetime, periods: Sequence[str] | None = None, accept: Sequence[str] = (), progress: Progress = silent
) -> Outcome:
    """Run all steps in order. A failed source or a refused file of Runspend does not stop them, but the exit code shows the failure."""
    outcome = Outcome("nightly")
    loading.warm_up(settings)
    steps: list[Callable[[], Outcome]] = [
        lambda: extract(settings, now=now, accept=accept, progress=progress),
        lambda: measure(settings, now=now, progress=progress),
        lambda: load(settings, now=now, accept=accept, progress=progress),
        lambda: settle(settings, now=now, periods=periods, progress=progress),
        lambda: alert(settings, now=now, heartbeat=False, progress=progress),
        *([lambda: archive_plan(settings, now=now, progress=progress)] if settings.retention else []),
        lambda: report(settings, now=now, progress=progress),  # after the steps above, because the page shows their results
        *([lambda: publish(settings, now=now, progress=progress)] if settings.publish else []),
        *([lambda: annotate(settings, now=now, progress=progress)] if any(s.annotate for s in settings.tracking) else []),
    ]
    for step in steps:
        try:
            outcome.merge(step())
        except RecordRefused as error:
            if str(error) not in outcome.problems:
                outcome.fail(error)
            tell_refused_file(settings, error, now)
    ring_heartbeat(settings, outcome, now)
    return outcome
