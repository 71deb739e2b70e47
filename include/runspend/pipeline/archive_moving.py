"""Moves due archive items, verifies archived copies, and updates the tables.

Code that provides tables for an archive action, or converts its results to an outcome, belongs here. `actions/archive` moves the files.
`archive_planning.py` makes the plan and its notices. `actions/archive/protection.py` checks protection immediately before a delete.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from typing import Any

from runspend.actions.alert import operators
from runspend.actions.archive.archive_records import ArchiveRecords
from runspend.actions.archive.context import Result, Tools
from runspend.actions.archive.holds import keep_of, read_keeps
from runspend.actions.archive.items import Item
from runspend.actions.archive.mlflow_tags import Pruned, count_active, prune, tag_archived
from runspend.actions.archive.plan import item_of
from runspend.actions.archive.protection import open_protection
from runspend.actions.archive.protection_watch import is_unanswered
from runspend.actions.archive.run import StoreTotals, apply
from runspend.actions.archive.selection import policy_digest
from runspend.actions.archive.states import objects_table, plan_states
from runspend.actions.archive.verify import verify
from runspend.config.settings import Settings
from runspend.core.errors import ArchiveDamaged, CapPassed, LeaseLost, PartialFailure, SourceError, SourceUnreachable
from runspend.core.step_result import Outcome, Progress
from runspend.pipeline.archive_planning import publish_plan
from runspend.pipeline.monitoring import note_undelivered
from runspend.schema.rows import by_month, make_load_id
from runspend.warehouse.base import Reader, Warehouse
from runspend.warehouse.records import Records

ACTIONS = ("tier", "archive", "delete")
NO_NOTICE = "no notice was delivered to a mail server, so no grace period has begun. Run: runspend archive notify"
_STORED = """
select store, sum(objects) as objects, sum(bytes) as bytes, logical_and(objects is not null and bytes is not null and is_complete) as is_known
from artifact_bytes
where valid_to is null
group by store
"""
_THERE = """
select sum(objects) as objects
from artifact_bytes
where valid_to is null and store = @store and prefix = @prefix and month = (select max(month) from artifact_bytes where store = @store)
"""


def apply_due(warehouse: Warehouse, settings: Settings, records: Records, outcome: Outcome, now: datetime, progress: Progress) -> None:
    """Move, delete or prune every due item, then update the tables `archive_plan`, `archives` and `archive_objects`."""
    plan = publish_plan(warehouse, settings, records, Outcome("archive plan"), now)
    due = [item_of(row) for row in plan.to_pylist() if row["state"] == "due"]
    with warehouse.reader() as reader:
        known, active = read_known(reader, records), count_active(reader)
    protects = _protection(warehouse, settings, records, plan_states(plan), now)
    pruned: list[Pruned] = []
    results: list[Result] = []  # filled one by one, so that actions before a lost lease are still reported
    try:
        try:
            apply(
                [item for item in due if item.action in ACTIONS],
                settings,
                records,
                now=now,
                protects=protects,
                known=known.get,
                tools=Tools(progress=progress),
                tell=results.append,
            )
        finally:
            tell_results(results, outcome)
        pruned = prune(due, settings, protects=protects, active=active, progress=progress)
        tell_pruned(pruned, outcome)
        if not due and not results:
            outcome.notes.append(why_nothing_is_due(plan.to_pylist()))
    except (CapPassed, LeaseLost, SourceError) as error:  # each of these stops all further actions, including `prune`
        outcome.fail(error)
    tell_unanswered(settings, records, outcome, [(r.archive.item, r.reason) for r in results] + [(p.item, p.reason) for p in pruned], now)
    outcome.notes += tag_archived(settings, records)
    publish_plan(warehouse, settings, records, Outcome("archive plan"), now)
    with warehouse.step("archive", make_load_id("archive", now)) as step:
        for period, part in by_month("archive_objects", objects_table(records)):
            step.put("archive_objects", period, "all", part)
        step.publish()


def read_known(reader: Reader, records: Records) -> dict[str, StoreTotals]:
    """Return the known contents of each artifact store, from its last measurement.

    For an archive store that is not measured, the archive records are counted, without archives that a policy has deleted.
    """
    known: dict[str, StoreTotals] = {}
    archives = ArchiveRecords(records).all()
    expired = {(a.item.store.rstrip("/"), a.item.prefix) for a in archives if a.item.action == "delete" and a.state == "deleted"}
    for archive in archives:
        if archive.to is not None and archive.state == "archived" and (archive.to.rstrip("/"), archive.folder) not in expired:
            before = known.get(archive.to, StoreTotals(0, 0))
            known[archive.to] = StoreTotals(before.objects + archive.objects, before.bytes + archive.bytes)
    measured = reader.query(_STORED).to_pylist()
    return known | {row["store"]: StoreTotals(row["objects"], row["bytes"]) for row in measured if row["is_known"]}


def _protection(
    warehouse: Warehouse, settings: Settings, records: Records, states: Mapping[str, tuple[str, str]], now: datetime
) -> Callable[[Item], str | None]:
    """Return a function that returns why an item is protected, or None.

    It checks the plan, the retention policies, recorded objections, and then MLflow.
    """
    digests = {policy.name: policy_digest(policy, settings) for policy in settings.retention}
    by_size = {
        policy.name for policy in settings.retention if {"larger_than", "saves_more_than"} & set(policy.select)
    }  # these policies may no longer select an item that was moved in part
    live = open_protection(warehouse, settings, now)

    def protects(item: Item) -> str | None:
        state, reason = states.get(item.key, ("", ""))
        if state in ("protected", "kept"):
            return reason
        if state in ("planned", "announced"):  # moving began, but then the item was restored or changed, and its notice was withdrawn
            return f"it needs a new notice and a new grace period: {reason}"
        if digests.get(item.policy) != item.policy_digest:
            return f"the retention policy {item.policy!r} has changed or was removed"
        if item.key not in states and (item.action == "delete" or (item.policy not in by_size and _is_there(warehouse, item))):
            return f"the retention policy {item.policy!r} no longer selects it"
        keep = keep_of(read_keeps(records, now), vars(item))
        return live(item) if keep is None else keep.sentence

    return protects


def _is_there(warehouse: Warehouse, item: Item) -> bool:
    """Return whether more than one object was counted in the folder of an item whose move has begun.

    The note that a move leaves behind is one object. If nothing else is there, no policy can select the item, and the move is finished.
    """
    with warehouse.reader() as reader:
        [row] = reader.query(_THERE, {"store": item.store, "prefix": item.prefix}).to_pylist()
    return (row["objects"] or 0) > 1


def tell_results(results: list[Result], outcome: Outcome) -> None:
    """Report each item in one line: done, waiting or failed."""
    failures = []
    for result in results:
        archive, item = result.archive, result.archive.item
        what = f"{item.name} ({item.policy}): {archive.objects:,} objects, {archive.bytes:,} bytes"
        if result.state == "nothing":
            outcome.unchanged.append(f"{item.name} ({item.policy}): {result.reason}")
        elif result.state == "archived":
            outcome.changed.append(f"archived {what} to {(archive.to or '').rstrip('/')}/{archive.folder}")
        elif result.state in ("tiered", "deleted"):
            outcome.changed.append(f"{result.state} {what}" + (f" to {item.to}" if item.action == "tier" else ""))
        elif result.state not in ("copied", "protected"):
            failures.append(f"{item.name} ({item.policy}): {result.reason}")
    outcome.notes += _waiting([result for result in results if result.state in ("copied", "protected")])
    if failures:
        outcome.fail(PartialFailure(f"cannot finish {len(failures)} of {len(results)} items; the next run continues with them.", failures))
        outcome.problems += failures


def _waiting(results: list[Result]) -> list[str]:
    """Return a line about each reason for which items wait, with the number of items."""
    alike: dict[tuple[str, str, str | None], list[Item]] = {}
    for result in results:
        alike.setdefault((result.state, result.archive.item.policy, result.reason), []).append(result.archive.item)
    return [
        f"{'copied, not deleted' if state == 'copied' else 'kept'}: {items[0].name if len(items) == 1 else f'{len(items):,} items'} ({policy}): {reason}"
        for (state, policy, reason), items in alike.items()
    ]


def tell_unanswered(
    settings: Settings, records: Records, outcome: Outcome, reasons: Sequence[tuple[Item, str | None]], now: datetime
) -> None:
    """Report items that stay because a tracking server did not answer.

    The command ends with exit code 3, and operators get one mail per server and day. No data is lost. Without the mail, an archive that
    moves nothing for weeks would look like an archive without due items.
    """
    by_server: dict[str, list[str]] = {}
    for item, reason in reasons:
        if reason is not None and is_unanswered(reason):
            by_server.setdefault(item.tracking_server or "any tracking server", []).append(reason)
    for server, found in sorted(by_server.items()):
        headline = f"{server} did not answer whether its artifacts are still needed, so {len(found):,} due items stay in place"
        outcome.fail(
            SourceUnreachable(server, f"{headline}. {found[0]}. Nothing was deleted. Check the server, then run runspend archive apply.")
        )
        notices = operators.notify(
            settings, records, "NOT ARCHIVED", f"{server}/archive", now, headline, details=sorted(set(found)),
            advice=operators.Advice(
                subject=f"{server}, {len(found):,} due items in place",
                still_works="Runspend deletes nothing without an answer. It processed all other due items.",
                do=[("Find the problem", "runspend doctor"), ("Continue", "runspend archive apply")],
                next_try="Runspend asks again at the next: runspend archive apply.",
            ),
        )  # fmt: skip
        note_undelivered(outcome, notices)


def why_nothing_is_due(rows: Sequence[Mapping[str, Any]]) -> str:
    """Return a sentence that explains why nothing is due: the plan's items by state, with one reason for each state."""
    if not rows:
        return "archive: nothing is due, because no policy selects anything"
    by_state: dict[str, list[str]] = {}
    for row in rows:
        by_state.setdefault(row["state"], []).append(row["reason"])
    if "planned" in by_state:
        by_state["planned"] = [NO_NOTICE] * len(by_state["planned"])
    if "announced" in by_state:  # show only the due date; the text before it is the reason for the selection
        by_state["announced"] = [reason.rpartition("; ")[2] for reason in by_state["announced"]]
    return (
        f"archive: nothing is due: {', '.join(f'{len(reasons):,} {state} ({min(reasons)})' for state, reasons in sorted(by_state.items()))}"
    )


def tell_pruned(pruned: list[Pruned], outcome: Outcome) -> None:
    """Report each run and experiment that was due for deletion in MLflow, in one line."""
    failures = [f"{p.item.name} ({p.item.policy}): {p.reason}" for p in pruned if p.state == "failed"]
    outcome.changed += [
        f"deleted {p.item.name} ({p.item.policy}) in MLflow, where it can be restored" for p in pruned if p.state == "pruned"
    ]
    outcome.notes += [f"kept: {p.item.name} ({p.item.policy}): {p.reason}" for p in pruned if p.state == "protected"]
    if failures:
        outcome.fail(PartialFailure(f"cannot delete {len(failures)} of {len(pruned)} runs and experiments in MLflow.", failures))
        outcome.problems += failures


def verify_archives(settings: Settings, records: Records, outcome: Outcome, now: datetime, *, full: bool, progress: Progress) -> None:
    """Compare archived copies with their manifests and read a sample, or all if `full`. Each damaged copy is a separate problem."""
    found = verify(settings, records, now=now, full=full, tools=Tools(progress=progress))
    outcome.notes.append(f"archives: {found.summary}")
    if found.not_readable:
        outcome.notes.append(
            f"archives: {found.not_readable:,} objects of the sample are in a storage class that must be retrieved before reading"
        )
    if found.left_over:
        outcome.notes.append(
            f"archives: no manifest lists {found.left_over:,} objects ({found.left_over_bytes:,} bytes): they are left from unfinished archives or failed copies"
        )
    for sentence in found.damaged:
        outcome.fail(ArchiveDamaged(sentence))
    for sentence in found.unknown:
        outcome.fail(SourceError("archives", sentence))
