"""Plans, announces, moves and verifies archived artifacts."""

from __future__ import annotations

from datetime import datetime

from runspend.config.settings import Settings
from runspend.core.step_result import Outcome, Progress, silent
from runspend.pipeline.damage import DELETING, open_undamaged, watching
from runspend.warehouse.factory import open_warehouse


@watching(("archive_plan",), needs=DELETING)
def archive_plan(settings: Settings, *, now: datetime, progress: Progress = silent) -> Outcome:
    """Write `archive_plan`: the items that retention policies select, with their protection and state. Nothing is moved or mailed."""
    from runspend.actions.archive import plan_notes
    from runspend.pipeline.archive_planning import publish_plan
    from runspend.warehouse.records import Records

    outcome = Outcome("archive plan")
    progress("archive plan")
    publish_plan(open_undamaged(settings), settings, Records(settings.home), outcome, now)
    outcome.notes += plan_notes(settings)
    return outcome


@watching(needs=DELETING)
def archive_notify(settings: Settings, *, now: datetime, progress: Progress = silent) -> Outcome:
    """Send each owner one mail about planned items that were not announced yet. The grace period begins when a mail server accepts it.

    Raises UsageError if `now` is not the machine's time, so that no notice is backdated.
    """
    from runspend.actions.archive import plan_notes
    from runspend.pipeline.archive_planning import notify_owners, publish_plan, refuse_other_times, tell_enclosing
    from runspend.warehouse.records import Records

    outcome = Outcome("archive notify")
    if settings.retention:
        refuse_other_times(now, "notify")
    warehouse, records = open_warehouse(settings), Records(settings.home)
    progress("archive plan")
    plan = publish_plan(warehouse, settings, records, Outcome("archive plan"), now)
    progress("archive notify")
    notify_owners(settings, records, plan, outcome, now)
    tell_enclosing(warehouse, settings, records, plan, now)
    publish_plan(warehouse, settings, records, outcome, now)
    outcome.notes += plan_notes(settings)
    return outcome


@watching(needs=DELETING)
def archive_apply(settings: Settings, *, now: datetime, progress: Progress = silent) -> Outcome:
    """Move due items. An item is due if it was announced, its grace period has ended, and it is not protected.

    If the process is killed at any point, the next call continues the work.

    Raises UsageError if `now` is not the machine's time, so that no grace period ends early.
    """
    from runspend.actions.archive import plan_notes
    from runspend.pipeline.archive_moving import apply_due
    from runspend.pipeline.archive_planning import refuse_other_times
    from runspend.warehouse.records import Records

    outcome = Outcome("archive apply")
    if settings.retention:
        refuse_other_times(now, "apply")
    progress("archive apply")
    apply_due(open_warehouse(settings), settings, Records(settings.home), outcome, now, progress)
    outcome.notes += plan_notes(settings)
    return outcome


def archive_verify(settings: Settings, *, now: datetime, full: bool = False, progress: Progress = silent) -> Outcome:
    """Compare all archived copies with their manifests. Read and hash a sample of them, or all if `full`."""
    from runspend.pipeline.archive_moving import verify_archives
    from runspend.warehouse.records import Records

    outcome = Outcome("archive verify")
    verify_archives(settings, Records(settings.home), outcome, now, full=full, progress=progress)
    return outcome


def archive_verify_monthly(settings: Settings, *, now: datetime, progress: Progress = silent) -> Outcome:
    """Call `archive_verify`, unless a verification in the month of `now` found no damage: reading a sample every week may be expensive."""
    from runspend.actions.archive.verify import was_whole
    from runspend.warehouse.records import Records

    if not was_whole(Records(settings.home), f"{now:%Y-%m}"):
        return archive_verify(settings, now=now, progress=progress)
    outcome = Outcome("archive verify")
    outcome.unchanged.append(f"archives: verified in {now:%Y-%m}")
    return outcome
