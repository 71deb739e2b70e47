"""The archive plan with the state of each item: planned, announced, due, kept, or already moved.

This module joins the plan with the records. It does not trust a single clock. A grace period counts only witnessed time: each check
of the plan is recorded, and the time between two checks counts for at most half the grace period. So nothing becomes due because a
clock jumped by a year, or because the machine was off. The other half must still pass. An item is not due either if its sources
were read too long ago, or at a time in the future.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from itertools import pairwise
from typing import TYPE_CHECKING, Any

from runspend.actions.archive.archive_records import Archive, ArchiveRecords
from runspend.actions.archive.holds import Keep, keep_of, read_keeps
from runspend.actions.archive.notices import Announcement, read_announcements
from runspend.actions.archive.plan import BATCH_ROWS, plan_items
from runspend.config.recipients import find_recipients
from runspend.config.settings import Settings
from runspend.schema.tables import ARCHIVE_OBJECTS, ARCHIVES
from runspend.warehouse.base import Reader
from runspend.warehouse.records import Records

if TYPE_CHECKING:
    import pyarrow as pa

CLOCK = "archive_clock"
LOOKS_KEPT = 400  # recorded checks of the plan; older ones are dropped
LOOK_APART = timedelta(hours=6)  # minimum time between two recorded checks
STALE = timedelta(days=8)  # a server or store that was not read for longer may have changed
DONE = ("archived", "tiered", "deleted")


@dataclass(frozen=True)
class History:
    """The content of the records and of `sources` at one moment."""

    announced: Mapping[str, Announcement]
    keeps: Mapping[tuple[str, str, str, str], Keep]
    archives: Mapping[tuple[str, str, str], Archive]  # (action, store, folder) -> the newest
    looks: Sequence[datetime]  # when the plan was checked
    read_at: Mapping[tuple[str, str], datetime | None]  # (kind, source) -> last good read
    graces: Mapping[str, timedelta]  # by policy
    servers: Sequence[str]
    skew: timedelta


def current_plan(reader: Reader, records: Records, settings: Settings, now: datetime) -> pa.Table:
    """Return the rows of `archive_plan` for the month of `now`, each with its state."""
    import pyarrow as pa

    plan = plan_items(reader, settings, now)
    history = read_history(reader, records, settings, now)
    batches = [
        pa.Table.from_pylist([judge(row, history, now) for row in batch.to_pylist()], schema=plan.schema)
        for batch in plan.to_batches(max_chunksize=BATCH_ROWS)
    ]
    return pa.concat_tables(batches) if batches else plan


def read_history(reader: Reader, records: Records, settings: Settings, now: datetime) -> History:
    """Return everything that `judge` needs in addition to the plan."""
    sources = reader.query("select kind, source, last_good_at from sources").to_pylist()
    seen = records.get(CLOCK, "looks")
    return History(
        read_announcements(records, find_recipients(settings)),
        read_keeps(records, now),
        {(a.item.action, a.item.store, a.item.prefix): a for a in ArchiveRecords(records).all()},
        [datetime.fromisoformat(moment) for moment in (seen[0]["looks"] if seen else [])],
        {(row["kind"], row["source"]): row["last_good_at"] for row in sources},
        {policy.name: policy.grace for policy in settings.retention},
        [server.name for server in settings.tracking],
        settings.archive.clock_skew,
    )


def judge(row: dict[str, Any], history: History, now: datetime) -> dict[str, Any]:
    """Return a row of the plan with its state and the dates of its notice."""
    archive = history.archives.get((row["action"], row["store"], row["prefix"]))
    if archive is not None and archive.restored_at is not None:
        if not _is_measured_since(row, archive.restored_at, history):
            return {
                **row,
                "state": "protected",
                "reason": f"restored on {archive.restored_at[:10]}, and its store was not measured since",
                "monthly_saving": None,
                "action_cost": None,
            }
    elif archive is not None and archive.state in DONE and _nothing_came_since(row, archive, history):
        return {
            **row,
            "state": archive.state,
            "reason": f"{archive.state} on {(archive.ended_at or archive.planned_at)[:10]}",
            "monthly_saving": None,
            "action_cost": None,
        }
    if row["state"] == "protected":
        return row
    if keep := keep_of(history.keeps, row):
        return {**row, "state": "kept", "reason": keep.sentence}
    notice = history.announced.get(row["item_key"])
    if notice is None or not notice.covers(row):
        return row
    if notice.accepted_at is None:
        return {**row, "reason": f"{row['reason']}; its notice is queued for a mail server"}
    grace = history.graces[row["policy"]]
    dates = {"announced_at": notice.accepted_at, "earliest_at": notice.accepted_at + grace}
    waits = _why_not_due(row, notice.accepted_at, grace, history, now)
    return {**row, **dates, "state": "announced" if waits else "due", "reason": f"{row['reason']}; {waits}" if waits else row["reason"]}


def _nothing_came_since(row: Mapping[str, Any], archive: Archive, history: History) -> bool:
    """Whether no new objects are known in a folder since it was moved.

    That is so if its store was not measured since, or if the folder has only the note. The note is one file of another size than the
    archive.
    """
    if row["action"] == "delete" or not _is_measured_since(row, archive.ended_at or archive.planned_at, history):
        return True
    return not row["objects"] or (row["objects"] == 1 and row["bytes"] != archive.bytes)


def _is_measured_since(row: Mapping[str, Any], moment: str, history: History) -> bool:
    measured_at = history.read_at.get(("store", row["store"]))
    return measured_at is not None and measured_at > datetime.fromisoformat(moment)


def _why_not_due(row: Mapping[str, Any], announced_at: datetime, grace: timedelta, history: History, now: datetime) -> str | None:
    if now < announced_at + grace:
        return f"due from {announced_at + grace:%Y-%m-%d}"
    if (witnessed := witnessed_time(history.looks, announced_at, now, grace)) < grace:
        return f"the clock jumped, or Runspend did not run for a long time: only {witnessed.days} of the {grace.days} days since the notice count"
    needed = [("tracking", name) for name in ([row["tracking_server"]] if row["tracking_server"] else history.servers)]
    needed += [("store", row["store"])] if row["action"] not in ("delete", "prune") else []
    for kind, name in needed:
        read_at = history.read_at.get((kind, name))
        if read_at is None or now - read_at > STALE:
            return f"{name} was {'never read successfully' if read_at is None else f'last read on {read_at:%Y-%m-%d}'}, so protection is not certain"
        if read_at > now + timedelta(hours=1) + history.skew:
            return f"the clock says {now:%Y-%m-%d %H:%M}, and {name} was read on {read_at:%Y-%m-%d %H:%M}: one of the two is wrong"
    return None


def witnessed_time(looks: Sequence[datetime], since: datetime, now: datetime, grace: timedelta) -> timedelta:
    """Return the witnessed time from `since` to `now`. `looks` are the times at which the plan was checked.

    The time between two checks counts for at most half the grace period.
    """
    moments = [since, *sorted(look for look in looks if since < look < now), now]
    return sum((min(later - earlier, grace / 2) for earlier, later in pairwise(moments)), timedelta())


def record_look(records: Records, now: datetime) -> None:
    """Record that the plan was checked now, unless a check within LOOK_APART is recorded already."""
    while True:
        found = records.get(CLOCK, "looks")
        looks = [] if found is None else [datetime.fromisoformat(moment) for moment in found[0]["looks"]]
        if any(abs(now - look) < LOOK_APART for look in looks):
            return
        value = {"looks": [look.isoformat() for look in sorted([*looks, now])[-LOOKS_KEPT:]]}
        if records.create(CLOCK, "looks", value) if found is None else records.replace(CLOCK, "looks", value, found[1]):
            return


def archives_table(records: Records) -> pa.Table:
    """Return the table `archives`, built from the records: one row for each action that ever began."""
    import pyarrow as pa

    found = ArchiveRecords(records).all()
    removed = {(a.item.store.rstrip("/"), a.item.prefix) for a in found if a.item.action == "delete" and a.state == "deleted"}
    rows = []
    for archive in found:
        item, begun_at = archive.item, datetime.fromisoformat(archive.planned_at)
        is_removed = archive.to is not None and (archive.to.rstrip("/"), archive.folder) in removed
        rows.append({
            **{c.name: getattr(item, c.name) for c in ARCHIVES.columns if hasattr(item, c.name)},
            "month": begun_at.date().replace(day=1), "archive_id": archive.archive_id, "state": "deleted" if is_removed else "open" if archive.state == "listing" else archive.state,
            "target": archive.to, "folder": archive.folder if archive.to is not None else None, "objects": archive.objects, "bytes": archive.bytes, "reason": archive.reason,
            "begun_at": begun_at, "ended_at": None if archive.ended_at is None else datetime.fromisoformat(archive.ended_at),
        })  # fmt: skip
    return pa.Table.from_pylist(rows, schema=ARCHIVES.arrow_schema())


def objects_table(records: Records) -> pa.Table:
    """Return the table `archive_objects`, built from the records: one row for each object of these actions, with its progress."""
    import pyarrow as pa

    archive_records = ArchiveRecords(records)
    rows = [
        {
            "month": datetime.fromisoformat(archive.planned_at).date().replace(day=1), "archive_id": archive.archive_id, "key": entry.key, "state": entry.state,
            "bytes": entry.size, "sha256": entry.sha256, "data": entry.data, "etag": entry.etag, "version": entry.version, "storage_class": entry.storage_class,
            "modified_at": datetime.fromisoformat(entry.modified), "reason": entry.reason,
        }
        for archive in archive_records.all()
        for entry in archive_records.every_entry(archive)
    ]  # fmt: skip
    return pa.Table.from_pylist(rows, schema=ARCHIVE_OBJECTS.arrow_schema())


def plan_states(plan: pa.Table) -> dict[str, tuple[str, str]]:
    """Return (state, reason) of each item, by item key."""
    columns = (plan.column(name).to_pylist() for name in ("item_key", "state", "reason"))
    return {key: (state, reason) for key, state, reason in zip(*columns, strict=True)}
