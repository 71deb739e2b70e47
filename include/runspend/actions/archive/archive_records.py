"""What is recorded of every archive under home: one record for its item and state, one for each 1,000 of its objects.

Whatever is recorded is also true of the stores, because each step looks before it acts: a record that was lost costs another
look, never a byte. Deciding and moving do not belong here.
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

__all__ = ["CHUNK_OBJECTS", "NOT_TOLD", "TOLD", "Archive", "ArchiveState", "Book", "new_archive"]

ARCHIVES, OBJECTS = "archives", "archive_objects"
TOLD, NOT_TOLD = "archives_told", "archives_not_told"  # what MLflow was told of, and why it could not be told
CHUNK_OBJECTS = 1_000

# listing: what is to be done is being written down · open: it is being done · the rest: it is over.
ArchiveState = Literal["listing", "open", "archived", "tiered", "deleted", "partial"]


@dataclass(frozen=True)
class Archive:
    """One time that one item is acted on: by a `tier` or a `delete` as well."""

    archive_id: str
    item: Item
    planned_at: str  # ISO 8601, UTC
    state: ArchiveState = "listing"
    to: str | None = None  # URI of the store the copies go to; None for tier and delete
    chunks: int = 0
    objects: int = 0
    bytes: int = 0
    reason: str | None = None  # why it is not over, or not whole
    ended_at: str | None = None
    restored_at: str | None = None  # when all of it was last brought back into its place
    is_cut: bool = False  # whether something of it may be gone from its place: recorded before the first delete, since single ones are not

    @property
    def is_over(self) -> bool:
        """Whether there is nothing left to do; the item may be acted on anew."""
        return self.state not in ("listing", "open")

    @property
    def told_key(self) -> str:
        """Of the record that MLflow was told where the artifacts are: in the archive, or in their place again."""
        return self.archive_id if self.restored_at is None else f"{self.archive_id} {self.restored_at}"

    @property
    def folder(self) -> str:
        """Where the copies lie, below the root of the archive store."""
        item = self.item
        parts = (item.tracking_server, item.experiment_id or "none", item.run_id or item.owner_id)
        return "/".join([ARCHIVE_FOLDER, *map(as_folder, parts), self.archive_id])


class Book:
    """The records of all archives. `check` is asked before every change: the lease."""

    def __init__(self, records: Records, check: Callable[[], None] = lambda: None) -> None:
        self._records, self._check = records, check

    def all(self) -> list[Archive]:
        """Every archive that was ever begun, oldest first."""
        found = [_archive(value) for value in self._records.list(ARCHIVES).values()]
        return sorted(found, key=lambda archive: (archive.planned_at, archive.archive_id))

    def find(self, archive_id: str) -> Archive | None:
        """An archive by its id; None where this home knows of none."""
        found = self._records.get(ARCHIVES, archive_id)
        return None if found is None else _archive(found[0])

    def save(self, archive: Archive) -> Archive:
        """Record the archive as it is now."""
        self._put(ARCHIVES, archive.archive_id, asdict(archive))
        return archive

    def entries(self, archive: Archive, chunk: int) -> list[Entry]:
        """Up to 1,000 objects of an archive."""
        found = self._records.get(OBJECTS, f"{archive.archive_id}/{chunk:06}")
        return [] if found is None else [Entry(**value) for value in found[0]["objects"]]

    def every_entry(self, archive: Archive) -> Iterator[Entry]:
        """All objects of an archive, one chunk in memory at a time."""
        for chunk in range(archive.chunks):
            yield from self.entries(archive, chunk)

    def save_entries(self, archive: Archive, chunk: int, entries: Sequence[Entry]) -> None:
        """Record how far these objects got."""
        self._put(OBJECTS, f"{archive.archive_id}/{chunk:06}", {"objects": [asdict(entry) for entry in entries]})

    def end(self, archive: Archive, state: ArchiveState, now: datetime, reason: str | None = None) -> Archive:
        """Record that there is nothing left to do: what had come back meanwhile is gone again."""
        return self.save(replace(archive, state=state, ended_at=now.isoformat(), reason=reason, restored_at=None))

    def _put(self, kind: str, key: str, value: dict[str, Any]) -> None:
        self._check()
        found = self._records.get(kind, key)
        if found is not None and found[0] == value:
            return
        if not (self._records.create(kind, key, value) if found is None else self._records.replace(kind, key, value, found[1])):
            raise LeaseLost("cannot go on archiving: another archiver writes the same records. Nothing more was changed; it finishes the work.")


def _archive(value: dict[str, Any]) -> Archive:
    return Archive(**{**value, "item": Item(**value["item"])})


def new_archive(item: Item, to: str | None, moment: datetime) -> Archive:
    """An archive that nobody has begun yet, with an id of its own."""
    identity = f"{item.key} {moment.isoformat()} {uuid.uuid4().hex}"
    return Archive(hashlib.sha256(identity.encode()).hexdigest()[:32], item, moment.isoformat(), to=to)


def as_folder(name: str) -> str:
    """A name as one part of a key: itself where it is plain, else a digest of it."""
    if name and len(name) <= 64 and name.isascii() and name.replace("-", "").replace("_", "").isalnum():
        return name
    return f"x-{hashlib.sha256(name.encode('utf-8', 'surrogatepass')).hexdigest()[:32]}"
