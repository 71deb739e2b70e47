"""What every step of an archive run is given: the stores it may touch, what it may ask, the time it is, and hands to work with.

How an item is moved belongs in `move.py`, `tier.py` and `delete.py`.
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
from datetime import datetime
from pathlib import Path
from typing import IO

from runspend.actions.archive.archive_records import CHUNK_OBJECTS, Archive, Book, as_folder
from runspend.actions.archive.items import Item
from runspend.actions.archive.lease import FencedObjects
from runspend.actions.archive.manifest import Entry
from runspend.actions.archive.watch import Watch
from runspend.config.settings import ArtifactStore, Settings
from runspend.core.errors import NotDone, RunspendError, SourceError, SourceRefused
from runspend.core.step_result import Progress
from runspend.storage.objects import CHUNK_BYTES, ObjectStore, Purpose, StoredObject
from runspend.storage.uris import parse_root

__all__ = ["NOTE_BEGINS", "Protects", "Result", "Work", "digest_of", "find_store", "held", "holds_own_files"]

Protects = Callable[[Item], str | None]
OpenStore = Callable[[ArtifactStore, Purpose], ObjectStore]
OWN_FOLDERS = ("airflow", "cache", "mail", "records", "reports", "tmp", "warehouse", "work")  # under home
BATCH = 64  # objects between two records of how far they got
IN_MEMORY = 32 << 20  # bytes of one object; more of it waits on the disk
NOTE_BEGINS = b"Archived by Runspend.\n"
_NOTE_NAMES = re.compile(r"archived-by-runspend(?:-[A-Za-z0-9_-]+)?\.txt")
# The whole of it, and of this very owner: a file of somebody's that only begins so, or is a copy of another run's note, is an artifact like any
# other. A policy's name has no line end in it.
_NOTE = re.compile(
    re.escape(NOTE_BEGINS) + rb"\nThe [\d,]+ files that were here \([\d,]+ bytes\) were moved by the retention policy [^\n]+\.\n"
    rb"They lie, with a manifest of their names and checksums, in\n\n    [^\n]+/([^\n/]+)/[^\n/]+\n\nTo bring them back:\n\n    runspend archive restore ([^\n]+)\n"
)  # fmt: skip


@dataclass(frozen=True)
class Result:
    """What became of an item tonight. archived, tiered and deleted are whole; nothing: there was nothing to do."""

    archive: Archive
    state: str  # archived, tiered, deleted, nothing, copied (may not delete), protected, partial, failed
    reason: str | None = None

    @property
    def is_whole(self) -> bool:
        """Whether nothing is left to do or to say."""
        return self.state in ("archived", "tiered", "deleted", "nothing")


@dataclass
class Work:
    """One run of the archive. `now` decides what is old enough; `check` raises LeaseLost before any change once the lease is gone."""

    settings: Settings
    book: Book
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
        """What was written later is younger than the margin, and protects."""
        return self.now - self.settings.archive.margin

    def open(self, uri: str, purpose: Purpose) -> FencedObjects:
        """A store of the allow-list. Raises SourceRefused for any other, NotDone where nothing may be deleted."""
        store = find_store(self.settings, uri)
        if (uri, purpose) not in self._opened:
            self._opened[uri, purpose] = FencedObjects(self.open_store(store, purpose), self.check)
        return self._opened[uri, purpose]

    def kept(self, item: Item) -> str | None:
        """What protects an item now, in words. A question that fails protects."""
        try:
            return self.protects(item)
        except (RunspendError, OSError) as error:
            return f"whether anything protects it cannot be told: {error}"

    def watch(self, item: Item) -> Watch:
        """What protects an item, asked again and again while it is acted on."""
        return Watch(lambda: self.kept(item))

    def each(self, archive: Archive, chunk: int, function: Callable[[Entry], Entry], wanted: Callable[[Entry], bool], what: str) -> None:
        """Let the function take every entry of a chunk that is wanted a step further, recorded batch by batch; an error in a store is its reason."""

        def tried(entry: Entry) -> Entry:
            try:
                return function(entry)
            except SourceError as error:
                return replace(entry, reason=str(error))
            except OSError as error:  # this machine's disk
                return replace(entry, reason=f"cannot hold {entry.key!r} for a moment: {error.strerror}. Make room in {self.scratch}.")

        entries = {entry.key: entry for entry in self.book.entries(archive, chunk)}
        todo = [entry for entry in entries.values() if wanted(entry)]
        for start in range(0, len(todo), BATCH):
            batch = todo[start : start + BATCH]
            for entry in map(tried, batch) if self.pool is None else self.pool.map(tried, batch):
                entries[entry.key] = entry
            self.book.save_entries(archive, chunk, list(entries.values()))
            self.progress(f"{archive.item.name}: {what} {chunk * CHUNK_OBJECTS + start + len(batch):,} of {archive.objects:,} objects")


def find_store(settings: Settings, uri: str) -> ArtifactStore:
    """The configured store of exactly this URI. Raises SourceRefused when there is none."""
    for store in settings.stores:
        if store.uri.rstrip("/") == uri.rstrip("/"):
            return store
    raise SourceRefused(uri, f"cannot use {uri}: it is not in `stores` of runspend.yaml. Add it there. Nothing was contacted.")


def holds_own_files(settings: Settings, store: ArtifactStore, folder: str) -> bool:
    """Whether a folder of a store on this machine holds files of Runspend's own, or lies among them: home, and a warehouse in a folder."""
    root = parse_root(store)
    if root.scheme != "file":
        return False
    top, home = Path(os.path.realpath(f"/{root.folder}")), Path(os.path.realpath(settings.home))
    place = Path(os.path.realpath(top / folder))
    own = [home / name for name in OWN_FOLDERS] if top.is_relative_to(home) else [home]  # of the demo, all stores lie under home
    warehouse = settings.warehouse.uri.removeprefix("file://")
    own += [Path(os.path.realpath(warehouse))] if "://" not in warehouse else []
    return any(place.is_relative_to(path) or path.is_relative_to(place) for path in own)


def is_note(name: str, store: ObjectStore, found: StoredObject, item: Item) -> bool:
    """Whether an object in an item's folder is the note that Runspend left there for it, and not the item's."""
    if not _NOTE_NAMES.fullmatch(name) or found.size >= CHUNK_BYTES:
        return False
    owner, note = item.run_id or item.owner_id, _NOTE.fullmatch(b"".join(store.read(found)))
    return note is not None and (note[1].decode("utf-8", "replace"), note[2].decode("utf-8", "replace")) == (as_folder(owner), owner)


def prove_conditions(obj: StoredObject, reader: ObjectStore, deleter: ObjectStore) -> None:
    """See that the store keeps an object when another etag is given. Raises SourceRefused where conditions are ignored.

    The object is one whose deletion would be no loss: where it is deleted against the condition, nothing else will be.
    """
    with suppress(NotDone):  # as it should be
        deleter.delete(replace(obj, etag=obj.etag[::-1], version=None))  # turned round it is well-formed, and another one
    if reader.head(obj.key) is None:
        raise SourceRefused(reader.uri, f"cannot delete in {reader.uri}: it ignores conditions, so what is written meanwhile would be lost. Nothing more was deleted.")


@dataclass(frozen=True)
class Held:
    """Bytes in memory or on the disk."""

    file: IO[bytes]
    size: int
    sha256: str
    md5: str  # what many stores use as an etag


@contextmanager
def held(chunks: Iterable[bytes], scratch: Path) -> Iterator[Held]:
    """The bytes, read once, for as long as they are needed."""
    scratch.mkdir(parents=True, exist_ok=True)
    with tempfile.SpooledTemporaryFile(max_size=IN_MEMORY, dir=str(scratch)) as file:
        sha256, md5, size = hashlib.sha256(), hashlib.md5(usedforsecurity=False), 0
        for chunk in chunks:
            sha256.update(chunk)
            md5.update(chunk)
            size += file.write(chunk)
        yield Held(file, size, sha256.hexdigest(), md5.hexdigest())


def parts_of(found: Held) -> Iterator[bytes]:
    """Held bytes from their start."""
    found.file.seek(0)
    while chunk := found.file.read(CHUNK_BYTES):
        yield chunk


def digest_of(chunks: Iterable[bytes]) -> str:
    """sha256 of bytes that are not kept."""
    digest = hashlib.sha256()
    for chunk in chunks:
        digest.update(chunk)
    return digest.hexdigest()
