"""Records of archives under home: one record with the item and state of each archive, and one for every 1,000 of its objects.

Each step checks the stores before it acts, so the records need not be complete. If a record is lost, Runspend checks the stores
again; no data is lost. Decisions and moves do not belong here.
"""

from __future__ import annotations

import hashlib
import uuid
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from datetime import datetime
from typing import Any, Literal

from runspend.actions.archive.items import ARCHIVE_FOLDER, Item
from runspend.actions.archive.manifest import Entry
from runspend.core.errors import LeaseLost
from runspend.warehouse.records import Records

ARCHIVES, OBJECTS = "archives", "archive_objects"
TAGGED, NOT_TAGGED = "archives_told", "archives_not_told"  # what was written to MLflow, and why it could not be written
CHUNK_OBJECTS = 1_000

# listing: the objects are being recorded. open: the action is in progress. The others: the action is over.
ArchiveState = Literal["listing", "open", "archived", "tiered", "deleted", "partial"]


@dataclass(frozen=True)
class Archive:
    """One action on one item: an archive, a `tier` or a `delete`."""

    archive_id: str
    item: Item
    planned_at: str  # ISO 8601, UTC
    state: ArchiveState = "listing"
    to: str | None = None  # URI of the store the copies go to; None for tier and delete
    chunks: int = 0
    objects: int = 0
    bytes: int = 0
    reason: str | None = None  # why it is not over, or not complete
    ended_at: str | None = None
    restored_at: str | None = None  # when all of it was last restored to its original place
    is_cut: bool = False  # whether originals may be deleted already; recorded before the first delete

    @property
    def is_over(self) -> bool:
        """Whether the action is over. If so, a new action on the item may begin."""
        return self.state not in ("listing", "open")

    @property
    def tagged_key(self) -> str:
        """Key of the record that MLflow has the tag with the current place of the artifacts. A restore changes the key."""
        return self.archive_id if self.restored_at is None else f"{self.archive_id} {self.restored_at}"

    @property
    def folder(self) -> str:
        """The archive's folder below the root of the archive store. It has the copies and the manifest."""
        item = self.item
        parts = (item.tracking_server, item.experiment_id or "none", item.run_id or item.owner_id)
        return "/".join([ARCHIVE_FOLDER, *map(as_folder, parts), self.archive_id])


class ArchiveRecords:
    """The records of all archives. `check` is called before every change; it raises LeaseLost if the lease is lost."""

    def __init__(self, records: Records, check: Callable[[], None] = lambda: None) -> None:
        self._records, self._check = records, check

    def all(self) -> list[Archive]:
        """Return every archive that ever began, oldest first."""
        found = [_archive(value) for value in self._records.list(ARCHIVES).values()]
        return sorted(found, key=lambda archive: (archive.planned_at, archive.archive_id))

    def find(self, archive_id: str) -> Archive | None:
        """Return the archive with this id, or None if this home has no record of it."""
        found = self._records.get(ARCHIVES, archive_id)
        return None if found is None else _archive(found[0])

    def save(self, archive: Archive) -> Archive:
        """Record the current state of the archive."""
        self._put(ARCHIVES, archive.archive_id, asdict(archive))
        return archive

    def entries(self, archive: Archive, chunk: int) -> list[Entry]:
        """Return the objects in one chunk of an archive: at most 1,000."""
        found = self._records.get(OBJECTS, f"{archive.archive_id}/{chunk:06}")
        return [] if found is None else [Entry.from_record(value) for value in found[0]["objects"]]

    def every_entry(self, archive: Archive) -> Iterator[Entry]:
        """Yield all objects of an archive. Only one chunk at a time is in memory."""
        for chunk in range(archive.chunks):
            yield from self.entries(archive, chunk)

    def save_entries(self, archive: Archive, chunk: int, entries: Sequence[Entry]) -> None:
        """Record all objects of one chunk, with their progress."""
        self._put(OBJECTS, f"{archive.archive_id}/{chunk:06}", {"objects": [entry.as_record() for entry in entries]})

    def end(self, archive: Archive, state: ArchiveState, now: datetime, reason: str | None = None) -> Archive:
        """Record that the action is over, and return the archive. This clears the time of an earlier restore."""
        return self.save(replace(archive, state=state, ended_at=now.isoformat(), reason=reason, restored_at=None))

    def _put(self, kind: str, key: str, value: dict[str, Any]) -> None:
        self._check()
        found = self._records.get(kind, key)
        if found is not None and found[0] == value:
            return
        if not (self._records.create(kind, key, value) if found is None else self._records.replace(kind, key, value, found[1])):
            raise LeaseLost(
                "cannot continue archiving: another archiver writes the same records. Nothing more was changed; the other archiver finishes the work."
            )


def _archive(value: dict[str, Any]) -> Archive:
    return Archive(**{**value, "item": Item(**value["item"])})


def new_archive(item: Item, to: str | None, moment: datetime) -> Archive:
    """Return a new archive with its own id."""
    identity = f"{item.key} {moment.isoformat()} {uuid.uuid4().hex}"
    return Archive(hashlib.sha256(identity.encode()).hexdigest()[:32], item, moment.isoformat(), to=to)


def as_folder(name: str) -> str:
    """Return the folder name for an id: the id itself if it has at most 64 letters, digits, - and _; otherwise a digest of it."""
    if name and len(name) <= 64 and name.isascii() and name.replace("-", "").replace("_", "").isalnum():
        return name
    return f"x-{hashlib.sha256(name.encode('utf-8', 'surrogatepass')).hexdigest()[:32]}"
