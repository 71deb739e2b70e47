"""Publishes the archive plan in the warehouse, and sends notices about it to owners.

`actions/archive` decides which items are planned, announced and due. `actions/alert` sends mail. Code that needs both belongs here,
including the text of the notice.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta, timezone
from decimal import Decimal
from typing import TYPE_CHECKING, Any

from runspend.actions.alert import operators
from runspend.actions.alert.notices import read_receipts, write_archive_notice
from runspend.actions.alert.outbox import send_outbox
from runspend.actions.alert.render import Block, Button, Card, Facts, MailTable, Paragraph
from runspend.actions.alert.sections import run_address
from runspend.actions.archive.enclosing import find_enclosing
from runspend.actions.archive.notices import (
    Notice,
    Received,
    plan_notices,
    read_announcements,
    record_deliveries,
    record_notice,
    withdraw_notices,
)
from runspend.actions.archive.states import archives_table, current_plan, plan_states, record_look
from runspend.config.recipients import find_recipients
from runspend.config.retention import RetentionPolicy
from runspend.config.settings import Settings
from runspend.config.types import format_duration
from runspend.core.amounts import add, money, small_money
from runspend.core.amounts import size as size_text
from runspend.core.crash_points import crash_point
from runspend.core.errors import PartialFailure, UsageError
from runspend.core.step_result import Outcome
from runspend.core.text import clean, counted, cut, person, short_place, without_person
from runspend.schema.rows import by_month, make_load_id
from runspend.warehouse.base import Warehouse
from runspend.warehouse.records import Records

if TYPE_CHECKING:
    import pyarrow as pa

OTHER_TIME = timedelta(hours=24)  # `now` is not the machine's time if it differs by more
LISTED = 200  # items listed in one mail; further items are only counted
OWNERS_LISTED = 20
CENT = Decimal("0.01")
SHORT_ID = 8  # characters of a run id, enough for commands
ENCLOSING = "archive_enclosing"  # kind of the records of mails about folders that contain folders of other owners
_NOUNS = {"tier": "Other storage class", "archive": "Archive", "delete": "Deletion of archives", "prune": "Deletion in MLflow"}
_VERBS = {
    "tier": "moved to another storage class",
    "archive": "moved to the archive",
    "delete": "permanently deleted from the archive",
    "prune": "deleted in MLflow",
}


def publish_plan(warehouse: Warehouse, settings: Settings, records: Records, outcome: Outcome, now: datetime) -> pa.Table:
    """Make a new plan, withdraw notices about items that must stay, and publish `archive_plan` and `archives`. Return the plan.

    If `now` is not the machine's time, the plan is only a preview: nothing is recorded, and no notice is withdrawn.
    """
    import pyarrow.compute as pc

    is_real = is_machine_time(now)
    if is_real:
        record_deliveries(records, lambda notice_id: _received(records, notice_id, now))
        record_look(records, now)
    with warehouse.reader() as reader:
        plan = current_plan(reader, records, settings, now)
        enclosing = find_enclosing(reader, plan.filter(pc.equal(plan["state"], "protected")).column("reason").to_pylist())
    outcome.notes += [f"archive: {clean(one.sentence, 900)}" for one in enclosing]
    if is_real:
        withdraw_notices(records, plan_states(plan), now)
    with warehouse.step("archive", make_load_id("archive", now)) as step:
        step.put("archive_plan", f"{now:%Y-%m}", "all", plan)
        for period, part in by_month("archives", archives_table(records)):
            step.put("archives", period, "all", part)
        step.publish()
    outcome.changed.append(f"archive_plan {now:%Y-%m}: {describe_states(plan)}")
    return plan


def wall_clock() -> datetime:
    """Return the time of this machine's clock, UTC."""
    return datetime.now(timezone.utc)


def is_machine_time(now: datetime) -> bool:
    """Return whether a step's time is within 24 hours of the machine's. The start of the hour and a retry from yesterday still count."""
    return abs(now - wall_clock()) <= OTHER_TIME


def refuse_other_times(now: datetime, what: str) -> None:
    """Raise UsageError if `now` is not the machine's time. Needed by steps that write the dates of notices, or act on them.

    A future time is the most dangerous case, so it may differ by at most one hour.
    """
    if not is_machine_time(now) or now - wall_clock() > OTHER_TIME / 24:
        raise UsageError(
            f"cannot {what} as of {now:%Y-%m-%d %H:%M}: this machine's clock says {wall_clock():%Y-%m-%d %H:%M} UTC, and grace periods depend on it. Leave out --now. Nothing was done."
        )


def describe_states(plan: pa.Table) -> str:
    """Return the number of the plan's items by state: "3 announced, 12 planned, 7 protected"."""
    counts: dict[str, int] = {}
    for state in plan.column("state").to_pylist():
        counts[state] = counts.get(state, 0) + 1
    return ", ".join(f"{counts[state]:,} {state}" for state in sorted(counts)) or "nothing selected"


def notify_owners(settings: Settings, records: Records, plan: pa.Table, outcome: Outcome, now: datetime) -> None:
    """Mail owners about items without a notice, send queued mail, and record which mails a server accepted.

    Each person gets one mail.
    """
    rows = plan.to_pylist()
    allowed = find_recipients(settings)
    notices = plan_notices(rows, read_announcements(records, allowed), settings)
    for notice in notices:
        record_notice(records, notice, now)
        crash_point("archive.notice_recorded")
        subject, blocks = compose_notice(notice, settings, now)
        write_archive_notice(settings.mail, records, notice.notice_id, notice.recipients, subject, blocks, now, copies=notice.copies)
        crash_point("archive.notice_written")
        outcome.changed.append(f"notice {notice.notice_id[:8]} to {', '.join(notice.recipients)}: {counted(len(notice.rows), 'item')}")
    deliveries = send_outbox(settings, records, now)
    crash_point("archive.notices_sent")
    record_deliveries(records, lambda notice_id: _received(records, notice_id, now))
    if failures := [failure for delivery in deliveries if (failure := delivery.failure) is not None]:
        outcome.fail(
            PartialFailure(
                f"cannot deliver {len(failures)} of {len(deliveries)} mails: {failures[0]}. No grace period begins before delivery.",
                failures,
            )
        )
    announced = read_announcements(records, allowed)
    without_notice = sum(
        row["state"] == "planned" and not (row["item_key"] in announced and announced[row["item_key"]].is_allowed) for row in rows
    )
    if without_notice:
        outcome.notes.append(
            f"archive: no notice was sent for {counted(without_notice, 'item')}: no owner's address is allowed (mail.users, mail.domains), and mail.operators is empty. Without a notice, nothing is moved"
        )


def tell_enclosing(warehouse: Warehouse, settings: Settings, records: Records, plan: pa.Table, now: datetime) -> None:
    """Mail operators once about each run or model whose folder contains folders of other owners. Such folders are not archived."""
    rows = [
        reason
        for state, reason in zip(plan.column("state").to_pylist(), plan.column("reason").to_pylist(), strict=True)
        if state == "protected"
    ]
    with warehouse.reader() as reader:
        found = find_enclosing(reader, rows)
    for one in found:
        key = hashlib.sha256(f"{one.kind} {one.id} {one.uri}".encode("utf-8", "surrogatepass")).hexdigest()[:40]
        if records.get(ENCLOSING, key) is not None:
            continue
        operators.notify(
            settings, records, "NOT ARCHIVED", f"encloses {key}", now, f"{one.kind} {one.id} owns a folder that contains {one.items:,} others. They are not archived",
            details=[one.sentence],
            advice=operators.Advice(
                subject=f"{one.items:,} folders inside that of {one.kind} {one.id}",
                still_works="Runspend archives everything outside this folder as usual.",
                do=[("See why", f"runspend archive why {one.id}" if one.kind == "run" else "runspend archive plan"), ("Do not use", "mlflow gc: it deletes everything in the folder")],
                next_try="The folder stays protected as long as MLflow names it.",
            ),
        )  # fmt: skip
        records.create(ENCLOSING, key, {"who": f"{one.kind} {one.id}", "at": now.isoformat()})


def _received(records: Records, notice_id: str, now: datetime) -> Received | None:
    """Return the delivery result of a notice. None if there is no result yet.

    An acceptance time that is not recent is not trusted. The present time counts instead.
    """
    receipts = read_receipts(records, notice_id)
    if not receipts:
        return None
    accepted = [receipt.accepted_at for receipt in receipts.values() if receipt.accepted_at is not None]
    latest = wall_clock()
    since = min((at if latest - OTHER_TIME / 12 <= at <= latest else max(now, latest) for at in accepted), default=None)
    return Received(since, all(receipt.state == "refused" for receipt in receipts.values()))


def compose_notice(notice: Notice, settings: Settings, now: datetime) -> tuple[str, list[Block]]:
    """Return the subject and the content of a notice."""
    policies = {policy.name: policy for policy in settings.retention}
    used = [policies[name] for name in dict.fromkeys(row["policy"] for row in notice.rows)]
    grace = min(policy.grace for policy in used)
    size = sum(row["bytes"] for row in notice.rows)
    is_prune = all(policy.action == "prune" for policy in used)
    what = (
        counted(len(notice.rows), "run or experiment", "runs or experiments")
        if is_prune
        else f"{counted(len(notice.rows), 'folder')} of artifacts"
    )
    how_much = "" if is_prune else f" ({size_text(size)})"
    day = f"{(now + grace).day} {now + grace:%b}"
    subject = f"{'Move or deletion' if _is_mixed(used) else _NOUNS[used[0].action]} from {day}: {what}{how_much}"
    site = settings.site.url.rstrip("/") if settings.site else None
    saving = _sum(notice.rows, "monthly_saving")
    card = [("selected", f"{len(notice.rows):,}", what.partition(" ")[2]), *([("size", size_text(size), "")] if not is_prune else [])]
    card += [("saves", f"{money(saving)} {settings.currency}", "per month")] if saving else []
    card += [("from", day, "if you take no action")]
    to_operators = bool(notice.reasons)
    whose = "Runspend cannot mail their owners, so you receive this notice." if to_operators else "You are the owner or user of their runs."
    blocks: list[Block] = [
        Card(tuple(card)),
        Paragraph(f"A retention policy selects {what}{how_much}. {whose}"),
        Paragraph(f"If you take no action, {_consequence(used)} {format_duration(grace)} after the delivery of this mail, on {(now + grace).day} {now + grace:%B %Y} at the earliest."),
        *([Button("See the retention policies", f"{site}/{now:%Y-%m}.html#artifacts")] if site else []),
        *_why_operators(notice, settings),
        *[_table(policy, [row for row in notice.rows if row["policy"] == policy.name], settings, site, with_owner=to_operators) for policy in used],
        Facts("NEXT STEPS", (
            ("Keep one run", f"runspend archive keep {notice.rows[0]['run_id'] or 'RUN_ID'}"),
            ("Keep an experiment", "runspend archive keep EXPERIMENT --until 2027-12-31 --reason \"paper\"".replace("2027-12-31", f"{now.year + 1}-12-31")),
            ("In MLflow", "set the tag runspend.keep on the run or the experiment"),
            ("See why", f"runspend archive why {notice.rows[0]['run_id'] or 'RUN_ID'}"),
        )),
        Facts("EFFECT", tuple(_meaning(policy, settings) for policy in used)),
        Paragraph("Sent once. If a policy changes or selects more later, you get another mail with its own date."),
    ]  # fmt: skip
    return subject, blocks


def _why_operators(notice: Notice, settings: Settings) -> list[Block]:
    """Return the section that explains why operators get the notice instead of the owners. It lists each owner, and the fix."""
    counts: dict[tuple[str, str], int] = {}
    for row in notice.rows:
        if (why := notice.reasons.get(row["item_key"])) is not None:
            key = (person(row["owner"], settings.mail.people) or "(no owner)", why)
            counts[key] = counts.get(key, 0) + 1
    if not counts:
        return []
    listed = sorted(counts.items(), key=lambda item: (-item[1], item[0]))
    lines = [(owner, f"{counted(count, 'item')}: {clean(why, 200)}") for (owner, why), count in listed[:OWNERS_LISTED]]
    rest = [("", f"and {len(listed) - OWNERS_LISTED:,} more owners")] if len(listed) > OWNERS_LISTED else []
    return [
        Facts(
            "WHY YOU GET THIS",
            (*lines, *rest, ("", "To reach the owners, add their address to mail.users or their domain to mail.domains.")),
        )
    ]


def _consequence(policies: Sequence[RetentionPolicy]) -> str:
    """Return what happens if no owner objects, such as "the files move"."""
    if _is_mixed(policies):
        return "Runspend moves or deletes them"
    return {
        "tier": "the files move",
        "archive": "the files move",
        "delete": "the archive is deleted",
        "prune": "Runspend deletes them in MLflow",
    }[policies[0].action]


def _is_mixed(policies: Sequence[RetentionPolicy]) -> bool:
    return len({policy.action for policy in policies}) > 1


def _meaning(policy: RetentionPolicy, settings: Settings) -> tuple[str, str]:
    target = short_place(policy.to or settings.archive.to or "")
    if policy.action == "delete":
        return policy.name, "Runspend deletes the archive, which is the last copy. It cannot be restored."
    if policy.action == "prune":
        return (
            policy.name,
            "Runspend deletes the runs and experiments in MLflow, where you can restore them. Their artifacts stay in place.",
        )
    if policy.action == "tier":
        return policy.name, f"The files stay in place, in storage class {target}. Reading them may cost more or take longer."
    return (
        policy.name,
        f"Runspend copies the files to {target}, compares every byte, then removes the originals. To restore them: runspend archive restore RUN_ID",
    )


def _table(
    policy: RetentionPolicy, rows: Sequence[Mapping[str, Any]], settings: Settings, site: str | None, *, with_owner: bool
) -> MailTable:
    """Return the table of a policy's items, by owner and then by savings. If there are more than LISTED items, the largest are listed."""
    largest = sorted(rows, key=lambda row: (-row["bytes"], row["store"], row["prefix"]))
    listed = sorted(
        largest[:LISTED], key=lambda row: (row["owner"] or "", -(row["monthly_saving"] or 0), -row["bytes"], row["store"], row["prefix"])
    )
    shown = tuple(_line(row, settings, with_owner) for row in listed)
    notes = []
    if len(rows) > LISTED:
        rest = largest[LISTED:]
        notes.append(
            f"and {len(rest):,} more, {size_text(sum(row['bytes'] for row in rest))}: runspend sql \"select * from archive_plan where policy = '{policy.name}'\" lists all"
        )
    saving, cost = _sum(rows, "monthly_saving"), _sum(rows, "action_cost")
    if saving or cost:
        notes.append(f"saves about {money(saving)} {settings.currency} per month; the move costs about {money(cost)} {settings.currency}")
    if site:
        notes.append(f"each run has a page: {site}/run/RUN")
    links = tuple(
        run_address(row["tracking_server"] or "", row["workspace"] or "", row["run_id"], site) if row["run_id"] else None for row in listed
    )
    heads = ("", "run", "owner" if with_owner else "experiment", "size", "unused", "saves")
    return MailTable(f"{policy.name.upper()}: {_VERBS[policy.action]}", heads, "lllrrr", shown, tuple(notes), links if site else ())


def _sum(rows: Sequence[Mapping[str, Any]], column: str) -> Decimal:
    return add(row[column] for row in rows)


def _line(row: Mapping[str, Any], settings: Settings, with_owner: bool) -> tuple[str, ...]:
    name = row["run_name"] or row["owner_id"]
    title = clean(name if row["owner_kind"] == "run" else f"{row['owner_kind'].replace('_', ' ')} {row['owner_id']}", 32)
    experiment = row["experiment_name"] if settings.mail.people == "show" else without_person(row["experiment_name"])
    middle = cut(person(row["owner"], settings.mail.people) or "-", 18) if with_owner else clean(experiment or "-", 18)
    saving = row["monthly_saving"]
    saves = "" if saving is None else money(saving) if abs(saving) >= CENT else small_money(saving)
    return title, (row["run_id"] or "-")[:SHORT_ID], middle, size_text(row["bytes"]), f"{row['unused_days']} d", saves
