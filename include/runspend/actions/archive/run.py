"""Run the archive once: take the lease, record the objects of each item, check the caps, then act on one item after another.

No store is changed before the objects of every item are recorded and the total is within the caps. An item that fails is reported
and does not stop the others. `states.py` decides which items are due; `move.py`, `tier.py` and `delete.py` act on them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from dataclasses import dataclass, replace
from datetime import datetime
from itertools import islice
from pathlib import PurePosixPath

from runspend.actions.archive.archive_records import CHUNK_OBJECTS, Archive, ArchiveRecords, new_archive
from runspend.actions.archive.context import Protects, Result, Tools, Work, find_store, holds_own_files, is_note
from runspend.actions.archive.delete import TOMBSTONE, expire, is_archive_folder
from runspend.actions.archive.items import ARCHIVE_FOLDER, RETURNED_NAME, Item
from runspend.actions.archive.lease import take_lease
from runspend.actions.archive.manifest import MAX_ENTRIES, Entry, check_entry, check_key, folders_above, planned_entry
from runspend.actions.archive.move import move
from runspend.actions.archive.tier import tier
from runspend.config.settings import Settings
from runspend.core.crash_points import crash_point
from runspend.core.errors import CapPassed, NotDone, SourceError, SourceRefused
from runspend.storage.uris import parse_root
from runspend.warehouse.records import Records


@dataclass(frozen=True)
class StoreTotals:
    """Totals of a store in its last inventory. `archive.max_percent` is a percentage of them."""

    objects: int
    bytes: int


def apply(
    items: Sequence[Item],
    settings: Settings,
    records: Records,
    *,
    now: datetime,
    protects: Protects,
    known: Callable[[str], StoreTotals | None],
    tools: Tools = Tools(),  # noqa: B008 (frozen)
    tell: Callable[[Result], None] = lambda result: None,
) -> list[Result]:
    """Act on due items, and continue deletions that an earlier run began. Return one result per item; continued items come first.

    `protects(item)` returns what protects an item now, in words, or None. Its answer is at most ANSWER_SECONDS old at each delete.
    `known(store)` returns the store's totals in the last inventory, or None if they are unknown.
    `tell(result)` is called as soon as an item is finished, so the caller knows the results even if this function raises.

    Raises CapPassed or SourceRefused before anything is changed. Raises LeaseLost if another archiver is running or takes over.
    """
    with ThreadPoolExecutor(tools.workers) if tools.workers > 1 else nullcontext() as pool, take_lease(records) as lease:
        archive_records = ArchiveRecords(records, lease.check)
        work = Work(
            settings, archive_records, lease.check, now, protects, tools.open_store, settings.home / "tmp" / "archive", pool, tools.progress
        )
        archives, results = _write_down(work, items, tools.clock)
        for result in results.values():
            if result.state != "open":
                tell(result)
        _check_caps(work, archives, known)
        _check_clocks(work, archives, tools.clock)
        crash_point("archive.planned")
        for archive in archives:
            try:
                results[archive.item.key] = _act(work, archive)
            except (SourceError, OSError) as error:
                results[archive.item.key] = work.wait(archive, "failed", str(error))
            tell(results[archive.item.key])
        return list(results.values())


def _act(work: Work, archive: Archive) -> Result:
    steps = {"archive": move, "tier": tier, "delete": expire}
    return steps[archive.item.action](work, archive)


# --- write down --------------------------------------------------------------------------------------------------------


def _write_down(work: Work, items: Sequence[Item], clock: Callable[[], datetime]) -> tuple[list[Archive], dict[str, Result]]:
    """Record the objects of every item. Return the open archives to act on, and a result per item key.

    The result of an item that cannot be acted on, or needs no action, is final. The results of the others have the state `open`.
    """
    due = {item.key for item in items}
    newest = {archive.item.key: archive for archive in work.archive_records.all()}
    begun = [
        a.item
        for a in newest.values()
        if a.state == "open" and (a.is_cut or any(e.state == "deleted" for e in work.archive_records.every_entry(a)))
    ]
    archives, results = list[Archive](), dict[str, Result]()
    for item in {item.key: item for item in (*begun, *items)}.values():
        archive = newest.get(item.key)
        try:
            if archive is not None and archive.state == "open" and _came_back(work, archive):
                archive = work.archive_records.end(
                    archive, "partial", work.now, "it was restored to its original place before all of it was archived"
                )
                if item.key not in due:
                    continue
            archive = _begin_or_go_on(archive, item, _target(work, item), clock())
            _check_place(work, item, archive.to)
            opened = _look_again(work, archive) if archive.state == "open" else _list_objects(work, archive)
        except SourceError as error:
            results[item.key] = Result(archive or new_archive(item, _target(work, item), clock()), "failed", str(error))
            continue
        if isinstance(opened, Result):
            results[item.key] = opened
        else:
            archives.append(opened)
            results[item.key] = Result(opened, "open")  # keeps the place in the order; `apply` replaces it
    return archives, results


def _came_back(work: Work, archive: Archive) -> bool:
    """Return whether everything in an open archive was restored to its original place. If so, the item starts over."""
    return archive.to is not None and work.open(archive.to, "read").head(f"{archive.folder}/{RETURNED_NAME}") is not None


def _begin_or_go_on(archive: Archive | None, item: Item, to: str | None, moment: datetime) -> Archive:
    """Return the unfinished archive of an item, updated to the latest announcement. If there is none, return a new archive.

    If the target has changed, a new archive begins as well. But an archive whose deletions have begun keeps its target, because
    some of its objects are only there.
    """
    if (
        archive is None
        or archive.is_over
        or (not archive.is_cut and (archive.to != to or (archive.item.to != item.to and item.action == "tier")))
    ):
        return new_archive(item, to, moment)
    return replace(archive, item=replace(archive.item, policy_digest=item.policy_digest, objects=item.objects, bytes=item.bytes))


def _target(work: Work, item: Item) -> str | None:
    return (item.to or work.settings.archive.to) if item.action == "archive" else None


def _check_place(work: Work, item: Item, to: str | None) -> None:
    """Raise SourceRefused if the item's folder must never be acted on."""
    if why := _why_not(work, item, to):
        raise SourceRefused(item.store, f"cannot {item.action} {item.name} in {item.store} ({item.prefix!r}): {why}. Nothing was moved.")


def _why_not(work: Work, item: Item, to: str | None) -> str | None:
    """Return why the item's folder must never be acted on, or None if it may be."""
    store = find_store(work.settings, item.store)
    source = parse_root(store)
    if not item.prefix or item.prefix.endswith("/") or check_key(item.prefix):
        return "stores may read the name of its folder differently, or its folder is the whole store"
    if item.action == "delete":
        return None if is_archive_folder(item.prefix) else "only an archive can be deleted by a policy"
    if f"{item.prefix}/".startswith(f"{ARCHIVE_FOLDER.partition('/')[0]}/"):
        return "it is the archive itself"
    if holds_own_files(work.settings, store, item.prefix):
        return "Runspend's own files are in it, or it is inside them"
    if item.action != "archive":
        return None
    if to is None:
        return "no archive store is named. Set `to` of its policy or `archive.to`"
    target = parse_root(find_store(work.settings, to))
    if (target.scheme, target.bucket) != (source.scheme, source.bucket):
        return None
    place, archive = (
        PurePosixPath("/", root.other_folder or root.folder, below) for root, below in ((source, item.prefix), (target, ARCHIVE_FOLDER))
    )
    is_nested = place.is_relative_to(archive) or archive.is_relative_to(place)
    return "the archive is inside it, or it is inside the archive" if is_nested else None


def _list_objects(work: Work, archive: Archive) -> Archive | Result:
    """Record the objects in an item's folder. Return the open archive, or a result if there is nothing to do or to allow.

    An interrupted listing starts over. That is safe, because nothing is changed before the listing is complete.
    """
    item, archive_records = archive.item, work.archive_records
    cutoff = work.now - work.settings.archive.retention if item.action == "delete" else work.cutoff
    work.progress(f"{item.name}: list")
    found = _entries(work, archive)
    chunks, objects, files, size = 0, 0, 0, 0
    is_begun = False
    while entries := list(islice(found, CHUNK_OBJECTS)):
        if not is_begun:
            archive = archive_records.save(replace(archive, state="listing"))
            crash_point("archive.listing")
            is_begun = True
        if young := next((e for e in entries if datetime.fromisoformat(e.modified) > cutoff), None):
            limit = "archive.retention" if item.action == "delete" else "archive.margin"
            return Result(archive, "protected", f"{young.key!r} was written {young.modified[:16]}: it is younger than `{limit}`")
        archive_records.save_entries(archive, chunks, entries)
        chunks, objects, size = chunks + 1, objects + len(entries), size + sum(e.size for e in entries)
        files += sum(not e.is_folder for e in entries)
        if objects > MAX_ENTRIES:
            raise SourceRefused(
                item.store,
                f"cannot {item.action} {item.name}: it has more than {MAX_ENTRIES:,} objects. Pack them into fewer files first. Nothing was moved.",
            )
    if not objects:
        return Result(archive, "nothing", "its folder has no objects to act on")
    if more := _beyond_notice(item, files, size):
        return Result(archive, "protected", more)
    return archive_records.save(replace(archive, state="open", chunks=chunks, objects=objects, bytes=size))


def _look_again(work: Work, archive: Archive) -> Archive | Result:
    """Compare an unfinished archive with the current content of its folder, and plan new and changed objects.

    Return the updated archive, or a result if the folder is now protected.
    """
    item, archive_records = archive.item, work.archive_records
    if item.action != "archive":
        return archive
    emptied = folders_above(entry.key for entry in archive_records.every_entry(archive))
    found = {entry.key: entry for entry in _entries(work, archive) if entry.key not in emptied}
    chunks = list[list[Entry]]()
    for chunk in range(archive.chunks):
        entries = archive_records.entries(archive, chunk)
        chunks.append([_seen_again(entry, found.pop(entry.key, None)) for entry in entries])
    fresh = list(found.values())
    chunks += [fresh[start : start + CHUNK_OBJECTS] for start in range(0, len(fresh), CHUNK_OBJECTS)]
    planned = [entry for entries in chunks for entry in entries if entry.state == "planned"]
    if young := next((entry for entry in planned if datetime.fromisoformat(entry.modified) > work.cutoff), None):
        return Result(archive, "protected", f"{young.key!r} was written {young.modified[:16]}: it is younger than `archive.margin`")
    left = [entry for entries in chunks for entry in entries if not entry.is_settled]
    if more := _beyond_notice(item, sum(not entry.is_folder for entry in left), sum(entry.size for entry in left)):
        return Result(archive, "protected", more)
    for chunk, entries in enumerate(chunks):
        archive_records.save_entries(archive, chunk, entries)
    every = [entry for entries in chunks for entry in entries]
    return archive_records.save(replace(archive, chunks=len(chunks), objects=len(every), bytes=sum(entry.size for entry in every)))


def _beyond_notice(item: Item, files: int, size: int) -> str | None:
    """Return a sentence if a folder has more objects or bytes than were announced, otherwise None.

    The age of the files does not show this: files that were copied there may have kept their old times.
    """
    if item.action == "delete" or item.objects is None or item.bytes is None or (files <= item.objects and size <= item.bytes):
        return None
    return f"it has {files:,} objects ({size:,} bytes), more than the {item.objects:,} ({item.bytes:,} bytes) that were announced. Run `runspend measure`, then `runspend archive notify`"


def _seen_again(entry: Entry, found: Entry | None) -> Entry:
    """Return the entry unchanged, or planned again if another object has its name now. `found` is that object, or None.

    A copied object with the same size and time counts as the same, even if its etag differs. It is read again before it is deleted.
    """
    is_same = found is not None and (
        found.etag == entry.etag or (entry.state == "copied" and (found.size, found.modified) == (entry.size, entry.modified))
    )
    if found is None or (is_same and not entry.is_settled):
        return entry
    return found if entry.is_settled else entry.seen_as(found)


def _entries(work: Work, archive: Archive) -> Iterator[Entry]:
    """Yield the objects in an item's folder to which its action applies. Raises SourceRefused for a name that cannot be restored."""
    item = archive.item
    store = work.open(item.store, "read")
    for found in store.list(item.prefix):
        name = found.key[len(item.prefix) + 1 :]
        if is_note(name, store, found, item) or (item.action == "delete" and name in (TOMBSTONE, RETURNED_NAME)):
            continue
        if item.action == "tier" and (found.storage_class == item.to or found.key.endswith("/")):
            continue
        entry = planned_entry(name, found)
        if why := check_entry(entry):
            raise SourceRefused(
                item.store,
                f"cannot {item.action} {item.name}: the name {name!r} cannot be restored: {why}. Rename the file. Nothing was moved.",
            )
        yield entry


# --- limits ------------------------------------------------------------------------------------------------------------


def _check_caps(work: Work, archives: Sequence[Archive], known: Callable[[str], StoreTotals | None]) -> None:
    """Raise CapPassed if the objects or bytes still to act on exceed a cap of the settings. Nothing was changed then.

    `max_objects` and `max_bytes` limit all stores together, `max_percent` limits each store. A store of unknown size is refused.
    """
    caps = work.settings.archive
    by_store: dict[str, list[int]] = {}
    for archive in archives:
        total = by_store.setdefault(archive.item.store, [0, 0])
        for entry in work.archive_records.every_entry(archive):
            if not entry.is_settled:
                total[0], total[1] = total[0] + 1, total[1] + entry.size
    for what, index, allowed in (("objects", 0, caps.max_objects), ("bytes", 1, caps.max_bytes)):
        wanted = sum(total[index] for total in by_store.values())
        if wanted > allowed:
            raise CapPassed(
                f"cannot act on {wanted:,} {what}: `archive.max_{what}` is {allowed:,}. `runspend archive plan` shows what is due. "
                "If this is intended, raise the limit. Nothing was moved or deleted.",
                wanted=wanted,
                allowed=allowed,
            )
    for store, total in by_store.items():
        whole = known(store)
        if whole is None:
            raise CapPassed(
                f"cannot act in {store}: its size is unknown. Run `runspend measure`. Nothing was moved or deleted.",
                wanted=total[0],
                allowed=0,
            )
        for what, wanted, of in (("objects", total[0], whole.objects), ("bytes", total[1], whole.bytes)):
            allowed = int(of * caps.max_percent)
            if wanted > allowed:
                raise CapPassed(
                    f"cannot act on {wanted:,} of {of:,} {what} in {store}: `archive.max_percent` allows {allowed:,}. `runspend archive plan` "
                    "shows what is due. If this is intended, raise the limit. Nothing was moved or deleted.",
                    wanted=wanted,
                    allowed=allowed,
                )


def _check_clocks(work: Work, archives: Sequence[Archive], clock: Callable[[], datetime]) -> None:
    """Raise SourceRefused if the clocks of this machine and of a store differ, or if `now` is later than the store's clock.

    A difference up to `archive.clock_skew` is allowed. The check is needed because `now` decides which items are due.
    """
    skew = work.settings.archive.clock_skew
    for uri in {archive.item.store for archive in archives} | {archive.to for archive in archives if archive.to is not None}:
        try:
            there, here = work.open(uri, "read").clock(), clock()
        except NotDone as error:
            raise SourceRefused(uri, str(error)) from error
        if abs(there - here) > skew:
            raise SourceRefused(
                uri,
                f"cannot archive: this machine's clock says {here:%Y-%m-%d %H:%M:%S}, and the clock of {uri} says {there:%Y-%m-%d %H:%M:%S}. Correct the clocks. Nothing was moved.",
            )
        if work.now > there + skew:
            raise SourceRefused(
                uri, f"cannot archive as of {work.now:%Y-%m-%d %H:%M}: that is in the future. Leave --now out. Nothing was moved."
            )
