"""Evaluates budgets and sends alerts."""

from __future__ import annotations

from datetime import datetime

from runspend.config.settings import Settings
from runspend.core.step_result import Outcome, Progress, silent
from runspend.pipeline.damage import open_undamaged, watching
from runspend.pipeline.monitoring import ring_heartbeat, tell_stale, telling_of_the_warehouse
from runspend.schema.rows import by_month, make_load_id


def alert(settings: Settings, *, now: datetime, heartbeat: bool = True, progress: Progress = silent) -> Outcome:
    """Evaluate the budgets of the current period, record each decision once, and send mail. Also report stale sources and steps.

    Stale sources are reported even if the warehouse cannot be opened. With `heartbeat`, also call the heartbeat address. `nightly` calls it
    at its end instead.
    """
    outcome = _alert(settings, now=now, progress=progress)
    if heartbeat:
        ring_heartbeat(settings, outcome, now)
    return outcome


@watching(("budget_status", "alerts"))
def _alert(settings: Settings, *, now: datetime, progress: Progress) -> Outcome:
    from runspend.actions import alert as alerts
    from runspend.warehouse.records import Records

    outcome = Outcome("alert")
    tell_stale(settings, outcome, now)
    progress("alert")
    with telling_of_the_warehouse(settings, outcome, now):
        warehouse = open_undamaged(settings)
        result = alerts.run(warehouse.reader, settings, Records(settings.home), now)
    with warehouse.step("alert", make_load_id("alert", now)) as step:
        for table, rows in (("budget_status", result.budget_status), ("alerts", result.alerts)):
            for period, part in by_month(table, rows):
                step.put(table, period, "all", part)
        step.publish()
    outcome.changed += [f"mail {message_id}" for message_id in result.sent]
    outcome.notes += result.notes
    for error in result.errors:
        outcome.fail(error)
    return outcome
