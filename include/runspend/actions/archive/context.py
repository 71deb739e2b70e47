"""The context of an archive run: its stores, its question for protection, its time, its records and its thread pool.

`move.py`, `tier.py` and `delete.py` act on the items.
"""

from __future__ import annotations

import hashlib
import os
import re
import tempfile
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from datetime import datetime, timezone
from pathlib import Path
from typing import IO

from runspend.actions.archive.archive_records import CHUNK_OBJECTS, Archive, ArchiveRecords, as_folder
from runspend.actions.archive.items import Item
from runspend.actions.archive.lease import FencedObjects
from runspend.actions.archive.manifest import Entry
from runspend.actions.archive.protection_watch import ProtectionWatch
from runspend.config.settings import ArtifactStore, Settings
from runspend.core.errors import NotDone, RunspendError, SourceError, SourceRefused
from runspend.core.step_result import Progress, silent
from runspend.storage.factory import open_objects
from runspend.storage.objects import CHUNK_BYTES, ObjectStore, Purpose, StoredObject
from runspend.storage.uris import parse_root

Protects = Callable[[Item], str | None]
OpenStore = Callable[[ArtifactStore, Purpose], ObjectStore]
OWN_FOLDERS = ("airflow", "cache", "mail", "records", "reports", "tmp", "warehouse", "work")  # under home
BATCH = 64  # progress is recorded after this number of objects
IN_MEMORY = 32 << 20  # bytes; larger objects are held on disk
NOTE_BEGINS = b"Archived by Runspend.\n"
NOTE_NAMES = re.compile(r"archived-by-runspend(?:-[A-Za-z0-9_-]+)?\.txt")
# This matches the whole note, and `is_note` compares the owner. A user's file that only begins like a note is an artifact, and so is
# a copy of another run's note. The name of a policy has no line break.
_NOTE = re.compile(
    re.escape(NOTE_BEGINS) + rb"\nThe [\d,]+ files that were here \([\d,]+ bytes\) were moved by the retention policy [^\n]+\.\n"
    rb"They (?:are|lie), with a manifest of their names and checksums, in\n\n    [^\n]+/([^\n/]+)/[^\n/]+\n\nTo bring them back:\n\n    runspend archive restore ([^\n]+)\n"
)  # fmt: skip


@dataclass(frozen=True)
class Result:
    """The outcome of an item in this run. `archived`, `tiered` and `deleted` are complete. `nothing`: there was nothing to do."""

    archive: Archive
    state: str  # open, archived, tiered, deleted, nothing, copied (deletes are not allowed), protected, partial, failed
    reason: str | None = None

    @property
    def is_whole(self) -> bool:
        """Whether nothing is left to do or to report."""
        return self.state in ("archived", "tiered", "deleted", "nothing")


@dataclass(frozen=True)
class Tools:
    """Access to stores and to the clock. Tests replace them."""

    open_store: OpenStore = open_objects
    workers: int = 8  # concurrent requests; a store answers each in about 20 ms
    clock: Callable[[], datetime] = lambda: datetime.now(timezone.utc)
    progress: Progress = silent


@dataclass
class Work:
    """One run of the archive.

    `now` decides whether an object is old enough. `check` raises LeaseLost if this process no longer has the lease. `protects`
    returns what protects an item, in words, or None.
    """

    settings: Settings
    archive_records: ArchiveRecords
    check: Callable[[], None]
    now: datetime
    protects: Protects
    open_store: OpenStore
    scratch: Path
    pool: ThreadPoolExecutor | None
    progress: Progress
    _opened: dict[tuple[str, Purpose], FencedObjects] = field(default_factory=dict)

    @property
    def cutoff(self) -> datetime:
        """Time before which all objects of an item must have been written: `now` minus `archive.margin`."""
        return self.now - self.settings.archive.margin

    def open(self, uri: str, purpose: Purpose) -> FencedObjects:
        """Open a configured store, once per purpose. Raises SourceRefused for any other store, NotDone if deletes are not allowed."""
        store = find_store(self.settings, uri)
        if (uri, purpose) not in self._opened:
            self._opened[uri, purpose] = FencedObjects(self.open_store(store, purpose), self.check)
        return self._opened[uri, purpose]

    def kept(self, item: Item) -> str | None:
        """Return what protects an item now, in words, or None. If the question fails, that failure protects the item."""
        try:
            return self.protects(item)
        except (RunspendError, OSError) as error:
            return f"whether anything protects it is unknown: {error}"

    def watch(self, item: Item) -> ProtectionWatch:
        """Return a watch that asks again and again what protects an item while Runspend acts on it."""
        return ProtectionWatch(lambda: self.kept(item))

    def wait(self, archive: Archive, state: str, reason: str) -> Result:
        """Record why an item is not finished, and return that as its result. The next run continues from there."""
        return Result(self.archive_records.save(replace(archive, reason=reason)), state, reason)

    def each(self, archive: Archive, chunk: int, function: Callable[[Entry], Entry], wanted: Callable[[Entry], bool], what: str) -> None:
        """Apply `function` to every entry of a chunk that is `wanted`, and record the results after each batch.

        If the store or this machine's disk fails, the entry keeps its state and the error becomes its `reason`. `what` is the verb
        of the progress line, such as "copied".
        """

        def tried(entry: Entry) -> Entry:
            try:
                return function(entry)
            except SourceError as error:
                return replace(entry, reason=str(error))
            except OSError as error:  # this machine's disk
                return replace(entry, reason=f"cannot hold {entry.key!r} temporarily: {error.strerror}. Make room in {self.scratch}.")

        entries = {entry.key: entry for entry in self.archive_records.entries(archive, chunk)}
        todo = [entry for entry in entries.values() if wanted(entry)]
        for start in range(0, len(todo), BATCH):
            batch = todo[start : start + BATCH]
            for entry in map(tried, batch) if self.pool is None else self.pool.map(tried, batch):
                entries[entry.key] = entry
            self.archive_records.save_entries(archive, chunk, list(entries.values()))
            self.progress(f"{archive.item.name}: {what} {chunk * CHUNK_OBJECTS + start + len(batch):,} of {archive.objects:,} objects")


def find_store(settings: Settings, uri: str) -> ArtifactStore:
    """Return the configured store with this URI. Raises SourceRefused if there is none."""
    for store in settings.stores:
        if store.uri.rstrip("/") == uri.rstrip("/"):
            return store
    raise SourceRefused(uri, f"cannot use {uri}: it is not in `stores` of runspend.yaml. Add it there. Runspend did not contact it.")


def holds_own_files(settings: Settings, store: ArtifactStore, folder: str) -> bool:
    """Whether a folder of a local store contains Runspend's own files, or is inside them: home, and a warehouse in a folder."""
    root = parse_root(store)
    if root.scheme != "file":
        return False
    top, home = Path(os.path.realpath(f"/{root.folder}")), Path(os.path.realpath(settings.home))
    place = Path(os.path.realpath(top / folder))
    own = [home / name for name in OWN_FOLDERS] if top.is_relative_to(home) else [home]  # in the demo, all stores are under home
    warehouse = settings.warehouse.uri.removeprefix("file://")
    own += [Path(os.path.realpath(warehouse))] if "://" not in warehouse else []
    return any(place.is_relative_to(path) or path.is_relative_to(place) for path in own)


def is_note(name: str, store: ObjectStore, found: StoredObject, item: Item) -> bool:
    """Whether an object in an item's folder is the note that Runspend left there, and not one of the item's artifacts."""
    if not NOTE_NAMES.fullmatch(name) or found.size >= CHUNK_BYTES:
        return False
    owner, note = item.run_id or item.owner_id, _NOTE.fullmatch(b"".join(store.read(found)))
    return note is not None and (note[1].decode("utf-8", "replace"), note[2].decode("utf-8", "replace")) == (as_folder(owner), owner)


def prove_conditions(obj: StoredObject, reader: ObjectStore, deleter: ObjectStore) -> None:
    """Check that the store does not delete an object if the request has a wrong etag. Raises SourceRefused if it does.

    `obj` must be an object whose loss does no harm. If the store deletes it despite the wrong etag, nothing else is deleted.
    """
    with suppress(NotDone):  # the correct answer: the store refuses
        deleter.delete(replace(obj, etag=obj.etag[::-1], version=None))  # reversed, the etag is well-formed but wrong
    if reader.head(obj.key) is None:
        raise SourceRefused(
            reader.uri,
            f"cannot delete in {reader.uri}: it ignores the condition of a delete, so files written meanwhile would be lost. Nothing more was deleted.",
        )


@dataclass(frozen=True)
class Held:
    """The bytes of one object, in memory or in a temporary file, with their size and digests."""

    file: IO[bytes]
    size: int
    sha256: str
    md5: str  # many stores use it as the etag


@contextmanager
def held(chunks: Iterable[bytes], scratch: Path) -> Iterator[Held]:
    """Read all chunks, and hold the bytes while the context lasts. `scratch` is the folder for bytes that do not fit in memory."""
    scratch.mkdir(parents=True, exist_ok=True)
    with tempfile.SpooledTemporaryFile(max_size=IN_MEMORY, dir=str(scratch)) as file:
        sha256, md5, size = hashlib.sha256(), hashlib.md5(usedforsecurity=False), 0
        for chunk in chunks:
            sha256.update(chunk)
            md5.update(chunk)
            size += file.write(chunk)
        yield Held(file, size, sha256.hexdigest(), md5.hexdigest())


def parts_of(found: Held) -> Iterator[bytes]:
    """Yield the held bytes from the beginning, in chunks."""
    found.file.seek(0)
    while chunk := found.file.read(CHUNK_BYTES):
        yield chunk


def digest_of(chunks: Iterable[bytes]) -> str:
    """Return the sha256 of all chunks, without holding them in memory."""
    digest = hashlib.sha256()
    for chunk in chunks:
        digest.update(chunk)
    return digest.hexdigest()
