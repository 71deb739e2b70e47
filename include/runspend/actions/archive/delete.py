"""The action `delete`: delete an archive whose own retention is over. Only this module deletes last copies.

First it writes a tombstone into the archive, so that a half-deleted archive is not restored. The tombstone stays, as a record of the
number and the bytes of the deleted objects.
"""

from __future__ import annotations

import json
from dataclasses import replace
from itertools import product

from runspend.actions.archive.archive_records import Archive
from runspend.actions.archive.context import Result, Work, prove_conditions
from runspend.actions.archive.items import ARCHIVE_FOLDER
from runspend.actions.archive.manifest import Entry
from runspend.core.crash_points import crash_point
from runspend.core.errors import NotDone, OutcomeUnknown

TOMBSTONE = "deleted.json"


def is_archive_folder(prefix: str) -> bool:
    """Whether a folder is the folder of one archive. A policy cannot delete anything else."""
    parts = prefix.split("/")
    return prefix.startswith(f"{ARCHIVE_FOLDER}/") and len(parts) == 6 and all(parts) and not {".", ".."} & set(parts)


def expire(work: Work, archive: Archive) -> Result:
    """Delete one archive as far as is possible now, and return the outcome.

    Raises SourceError if a store does not answer or refuses. Raises LeaseLost if another archiver has taken over.
    """
    item, archive_records = archive.item, work.archive_records
    store = work.open(item.store, "archive")
    watch = work.watch(item)
    protection = watch.reason()
    if protection is not None:
        return work.wait(archive, "protected", protection)
    try:
        deleter = work.open(item.store, "delete")
    except NotDone as error:
        return work.wait(archive, "copied", str(error))
    tombstone = json.dumps({"policy": item.policy, "at": archive.planned_at, "objects": archive.objects, "bytes": archive.bytes}).encode()
    key = f"{item.prefix}/{TOMBSTONE}"
    prove_conditions(store.head(key) or store.write(key, [tombstone], size=len(tombstone)), store, deleter)
    crash_point("archive.tombstone")

    def remove(entry: Entry) -> Entry:
        obj, is_known = entry.at(item.prefix), True
        if watch.reason() is not None:
            return entry
        try:
            deleter.delete(obj)
        except OutcomeUnknown:
            is_known = False
        crash_point("archive.after_expire")
        if store.head(obj.key) is not None:
            return replace(entry, reason=f"{obj.key!r} still exists" + (", although it was reported as deleted" if is_known else ""))
        return replace(entry, state="deleted", reason=None)

    # Delete the manifest last. If the deletion is interrupted, the rest of the archive can still be restored.
    for is_last, chunk in product((False, True), range(archive.chunks)):
        if (is_last, chunk) == (True, 0) and any(
            entry.state == "planned" and entry.key.startswith("data/") for entry in archive_records.every_entry(archive)
        ):
            break
        work.each(
            archive,
            chunk,
            remove,
            lambda entry: entry.state == "planned" and entry.key.startswith("data/") is not is_last,  # noqa: B023 (called at once)
            "deleted",
        )
        if watch.found is not None:
            gone = sum(entry.state == "deleted" for entry in archive_records.every_entry(archive))
            reason = f"{watch.found}. {gone:,} of its {archive.objects:,} objects were already deleted" if gone else watch.found
            return work.wait(archive, "protected", reason)
    left = [entry for entry in archive_records.every_entry(archive) if not entry.is_settled]
    if left:
        reason = f"{len(left)} of {archive.objects} objects still exist. {left[0].reason or ''}".strip()
        return work.wait(archive, "partial", reason)
    store.prune(item.prefix)
    return Result(archive_records.end(archive, "deleted", work.now), "deleted")
