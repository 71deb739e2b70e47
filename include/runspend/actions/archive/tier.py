"""The action `tier`: change the storage class of every object of an item, in place, if the object is unchanged since it was listed.

The store copies the bytes itself. Afterwards Runspend compares the size and the storage class. Nothing is deleted or downloaded: a
download would cost the money that `tier` is meant to save.
"""

from __future__ import annotations

from dataclasses import replace

from runspend.actions.archive.archive_records import Archive
from runspend.actions.archive.context import Result, Work
from runspend.actions.archive.manifest import Entry
from runspend.core.crash_points import crash_point
from runspend.core.errors import NotDone, OutcomeUnknown


def tier(work: Work, archive: Archive) -> Result:
    """Change the objects of an item to the storage class of its policy, as far as is possible now, and return the outcome.

    Raises SourceError if a store does not answer. Raises LeaseLost if another archiver has taken over.
    """
    item, archive_records = archive.item, work.archive_records
    store, wanted, watch = work.open(item.store, "archive"), item.to or "", work.watch(item)

    if why := store.why_no_tier():
        return work.wait(archive, "protected", why)

    def move(entry: Entry) -> Entry:
        obj = entry.at(item.prefix)
        if watch.reason() is not None:
            return entry
        crash_point("archive.before_tier")
        try:
            found = store.set_class(obj, wanted)
        except (NotDone, OutcomeUnknown):
            looked = store.head(obj.key)
            if looked is None:
                return replace(entry, state="gone", reason="it was gone before it was moved")
            if looked.storage_class != wanted:
                if looked.etag != entry.etag:
                    return replace(entry, state="changed", reason="it was written again after it was planned")
                raise
            found = looked
        crash_point("archive.after_tier")
        if (found.size, found.storage_class) != (entry.size, wanted):
            return replace(
                entry, reason=f"{obj.key!r} has {found.size} bytes of class {found.storage_class} now, not {entry.size} of class {wanted}"
            )
        return replace(entry, state="tiered", reason=None)

    for chunk in range(archive.chunks):
        work.each(archive, chunk, move, lambda entry: entry.state == "planned", "moved")
        if watch.found is not None:
            return work.wait(archive, "protected", watch.found)
    left = [entry for entry in archive_records.every_entry(archive) if not entry.is_settled]
    if left:
        reason = f"{len(left)} of {archive.objects} objects do not have the class {wanted} yet. {left[0].reason or ''}".strip()
        return work.wait(archive, "partial", reason)
    return Result(archive_records.end(archive, "tiered", work.now), "tiered")
