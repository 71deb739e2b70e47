"""Writes the report pages."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

from runspend.allocation.builds import note_report, report_versions
from runspend.config.settings import Settings
from runspend.core.errors import SourceError
from runspend.core.step_result import Outcome, Progress, silent
from runspend.pipeline.damage import watching
from runspend.warehouse.factory import open_warehouse


@watching()
def report(settings: Settings, *, now: datetime, periods: Sequence[str] | None = None, progress: Progress = silent) -> Outcome:
    """Write a page and CSV files for each of `periods`.

    Default: the newest billing period, and all periods whose page is older than their costs.
    """
    from runspend.actions import report as reports
    from runspend.actions.explore.home import forecast_month

    outcome = Outcome("report")
    warehouse = open_warehouse(settings)
    folder = settings.home / "reports"
    with warehouse.reader() as reader:
        for period, version in report_versions(warehouse, reader, settings, folder, periods).items():
            progress(f"report {period}")
            figures = reports.plan_report(reader, period, settings=settings, now=now, forecast=forecast_month)
            outcome.reported[period] = figures
            outcome.changed.append(str(reports.write_report(figures, folder)))
            if figures.problem:
                outcome.fail(SourceError("rates", figures.problem))
            if figures.estimate_note:
                outcome.notes.append(f"{period}: {figures.estimate_note}")
            note_report(folder, period, version)
    return outcome
