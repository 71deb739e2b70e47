"""Checks published tables, and finds damaged files."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

from runspend.allocation.estimates import CHECKS as ESTIMATE_CHECKS
from runspend.allocation.estimates import estimate_parameters
from runspend.allocation.model_order import LEDGER_CHECKS, RUN_CHECKS
from runspend.config.settings import Settings
from runspend.core.errors import CheckFailed
from runspend.core.step_result import Outcome, Progress, silent
from runspend.schema.rows import first_day, make_load_id
from runspend.warehouse.factory import open_warehouse


def check(settings: Settings, *, now: datetime, periods: Sequence[str] | None = None, progress: Progress = silent) -> Outcome:
    """Run every check over the published tables. No table is built."""
    outcome = Outcome("check")
    warehouse = open_warehouse(settings)
    for table, names in (("cost_allocations", LEDGER_CHECKS), ("run_costs", RUN_CHECKS), ("run_estimates", ESTIMATE_CHECKS)):
        for period in sorted({u.period for u in warehouse.states(table) if not periods or u.period in periods}):
            progress(f"check {table} {period}")
            month = estimate_parameters(now)["period"] if period == "all" else first_day(period)
            with warehouse.step("check", make_load_id("check", now)) as step:
                try:
                    step.check(names, {"period": month})
                    outcome.unchanged.append(f"{table} {period}")
                except CheckFailed as error:
                    outcome.fail(error)
    return outcome


def verify(settings: Settings, *, now: datetime, full: bool = False, drop: Sequence[str] = (), progress: Progress = silent) -> Outcome:
    """Find damaged files and report them in the outcome. Damage is not mailed.

    `full`: hash all files. Default: hash files that changed since they were last verified. `drop`: remove these damaged units
    ("TABLE/MONTH/WRITER").
    """
    from runspend.pipeline.damage import drop_damaged, look_at_all

    outcome = Outcome("verify")
    if drop:  # dropped first, so that exit code 0 means that the remaining files are intact
        drop_damaged(settings, outcome, drop, make_load_id("verify", now))
    look_at_all(settings, outcome, full=full, progress=progress)
    return outcome
