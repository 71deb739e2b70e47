"""A store in memory that misbehaves as a test specifies, records in memory, and a small world around one run's folder.

The store follows the protocol of `storage/objects.py`: conditions, three outcomes, etags that change with every write. Its faults are
those of networks and servers: no reply before or after the change, a refusal, lost or flipped bytes, a kill.
"""

from __future__ import annotations

import hashlib
import shutil
import tempfile
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

from runspend.actions.archive.context import NOTE_NAMES, Result, Tools
from runspend.actions.archive.find import find_archives, load_manifest, tombstone_of
from runspend.actions.archive.items import RETURNED_NAME, Item
from runspend.actions.archive.run import StoreTotals, apply
from runspend.config.settings import ArtifactStore
from runspend.core.errors import NotDone, OutcomeUnknown, SourceError, SourceUnreachable
from runspend.storage.objects import ObjectStore, StoredObject
from tests.memory_records import MemoryRecords
from tests.settings_builder import make_archive_settings

SOURCE, ARCHIVE = "s3://source/root/", "s3://archive/cold/"
PREFIX = "1/run1/artifacts"
START = datetime(2026, 11, 25, 6, tzinfo=timezone.utc)
OLD = START - timedelta(days=400)
CHANGES = ("write", "delete", "set_class", "prune")


class Killed(BaseException):
    """The simulated end of the process. No code may catch it."""


@dataclass
class Kept:
    """An object in a memory store."""

    body: bytes
    etag: str
    modified: datetime
    storage_class: str = "STANDARD"
    metadata: dict[str, str] = field(default_factory=dict)


class MemoryStore:
    """A store without faults. `now` is its clock."""

    def __init__(self, uri: str) -> None:
        self.uri = uri
        self.objects: dict[str, Kept] = {}
        self.now = START
        self.writes = 0

    def put(self, key: str, body: bytes, modified: datetime | None = None) -> None:
        """Write an object as another user would, even if it exists."""
        self.writes += 1
        self.objects[key] = Kept(body, f'"{hashlib.sha256(body).hexdigest()[:12]}-{self.writes}"', modified or self.now)

    def list(self, folder: str) -> Iterator[StoredObject]:
        below = f"{folder}/" if folder else ""
        yield from [self._stored(key) for key in sorted(self.objects) if key.startswith(below)]

    def folders(self, folder: str) -> Iterator[str]:
        below = f"{folder}/" if folder else ""
        yield from sorted({key[len(below) :].split("/")[0] for key in self.objects if key.startswith(below) and "/" in key[len(below) :]})

    def head(self, key: str) -> StoredObject | None:
        return self._stored(key) if key in self.objects else None

    def read(self, obj: StoredObject) -> Iterator[bytes]:
        self._same(obj)
        body = self.objects[obj.key].body
        yield body[: len(body) // 2]
        yield body[len(body) // 2 :]

    def write(
        self,
        key: str,
        chunks: Iterable[bytes],
        *,
        size: int,
        storage_class: str | None = None,
        unlike: str | None = None,
        metadata: Mapping[str, str] | None = None,
    ) -> StoredObject:
        body = b"".join(chunks)
        if key in self.objects or len(body) != size:
            raise NotDone(self.uri, f"{key!r} is taken, or {len(body)} is not {size}")
        self.put(key, body)
        self.objects[key].storage_class = storage_class or "STANDARD"
        self.objects[key].metadata = dict(metadata or {})
        return self._stored(key)

    def delete(self, obj: StoredObject) -> None:
        if obj.key in self.objects:
            self._same(obj)
            del self.objects[obj.key]

    def renew(self, obj: StoredObject) -> StoredObject:
        self._same(obj)
        storage_class = obj.storage_class
        self.put(obj.key, self.objects[obj.key].body)
        self.objects[obj.key].storage_class = storage_class
        return self._stored(obj.key)

    def why_no_tier(self) -> str | None:
        return None

    def set_class(self, obj: StoredObject, storage_class: str) -> StoredObject:
        self._same(obj)
        self.put(obj.key, self.objects[obj.key].body)
        self.objects[obj.key].storage_class = storage_class
        return self._stored(obj.key)

    def prune(self, folder: str) -> None:
        pass

    def clock(self) -> datetime:
        return self.now

    def _same(self, obj: StoredObject) -> None:
        if obj.key not in self.objects or self.objects[obj.key].etag != obj.etag:
            raise NotDone(self.uri, f"{obj.key!r} is another")

    def _stored(self, key: str) -> StoredObject:
        kept = self.objects[key]
        return StoredObject(key, len(kept.body), kept.etag, None, kept.storage_class, kept.modified, kept.metadata)


@dataclass
class Faults:
    """Decides which fault occurs at which call, for example at the fifth of all, or at the second "write s3://archive/cold/"."""

    plan: dict[int | tuple[str, int], str] = field(default_factory=dict)  # call -> kind
    calls: int = 0
    made: Counter[str] = field(default_factory=Counter)
    is_dead: bool = False
    after: Callable[[], None] = lambda: None

    def next(self, what: str) -> str | None:
        """Count a call, and return its fault."""
        if self.is_dead:
            raise Killed
        self.calls += 1
        self.made[what] += 1
        kind = self.plan.get(self.calls) or self.plan.get((what, self.made[what]))
        if kind == "kill before":
            self.die()
        return kind

    def die(self) -> None:
        self.is_dead = True
        raise Killed

    def done(self, kind: str | None) -> None:
        """Check all invariants after a call has taken effect, and then apply its fault."""
        self.after()
        if kind == "kill after":
            self.die()


CALLS = (
    *(f"{what} {uri}" for uri in (SOURCE, ARCHIVE) for what in ("list", "head", "read", "write")),
    f"delete {SOURCE}", f"prune {SOURCE}", "record archives", "record archive_objects",
)  # fmt: skip
KINDS = ("kill before", "kill after", "refused", "no reply before", "no reply after", "short", "flipped", "lie")


class FaultyStore:
    """A memory store with faults."""

    def __init__(self, store: MemoryStore, faults: Faults) -> None:
        self.uri = store.uri
        self._store, self._faults = store, faults

    def list(self, folder: str) -> Iterator[StoredObject]:
        found = list(self._store.list(folder))
        kind = self._ask("list")
        yield from found[: len(found) // 2]
        if kind in ("short", "flipped", "lie"):
            raise SourceUnreachable(self.uri, "a page failed")
        yield from found[len(found) // 2 :]
        self._faults.done(kind)

    def folders(self, folder: str) -> Iterator[str]:
        kind = self._ask("folders")
        yield from self._store.folders(folder)
        self._faults.done(kind)

    def head(self, key: str) -> StoredObject | None:
        kind = self._ask("head")
        found = self._store.head(key)
        self._faults.done(kind)
        if kind == "no reply after":
            raise OutcomeUnknown(self.uri, "no reply")
        return found

    def read(self, obj: StoredObject) -> Iterator[bytes]:
        kind = self._ask("read")
        body = b"".join(self._store.read(obj))
        if kind == "short":
            body = body[:-1]
        elif kind in ("flipped", "lie"):
            body = flipped(body)
        yield body
        self._faults.done(kind)
        if kind == "no reply after":
            raise OutcomeUnknown(self.uri, "the connection broke")

    def write(
        self,
        key: str,
        chunks: Iterable[bytes],
        *,
        size: int,
        storage_class: str | None = None,
        unlike: str | None = None,
        metadata: Mapping[str, str] | None = None,
    ) -> StoredObject:
        kind = self._ask("write")
        body = b"".join(chunks)
        found = self._store.write(key, [body], size=size, storage_class=storage_class, unlike=unlike, metadata=metadata)
        if kind in ("short", "flipped"):  # the store keeps other bytes than it received, and reports success
            self._store.objects[key].body = body[:-1] if kind == "short" else flipped(body)
            found = self._store._stored(key)
        elif kind == "lie":
            del self._store.objects[key]
        self._faults.done(kind)
        if kind == "no reply after":
            raise OutcomeUnknown(self.uri, "no reply")
        return found

    def delete(self, obj: StoredObject) -> None:
        kind = self._ask("delete")
        if kind not in ("lie", "short", "flipped"):
            self._store.delete(obj)
        self._faults.done(kind)
        if kind == "no reply after":
            raise OutcomeUnknown(self.uri, "no reply")

    def renew(self, obj: StoredObject) -> StoredObject:
        kind = self._ask("renew")
        found = self._store.renew(obj)
        self._faults.done(kind)
        if kind == "no reply after":
            raise OutcomeUnknown(self.uri, "no reply")
        return found

    def why_no_tier(self) -> str | None:
        return self._store.why_no_tier()

    def set_class(self, obj: StoredObject, storage_class: str) -> StoredObject:
        kind = self._ask("set_class")
        found = self._store.set_class(obj, storage_class) if kind not in ("lie", "short", "flipped") else self._store._stored(obj.key)
        self._faults.done(kind)
        if kind == "no reply after":
            raise OutcomeUnknown(self.uri, "no reply")
        return found

    def prune(self, folder: str) -> None:
        kind = self._ask("prune")
        self._store.prune(folder)
        self._faults.done(kind)

    def clock(self) -> datetime:
        return self._store.clock()

    def _ask(self, what: str) -> str | None:
        kind = self._faults.next(f"{what} {self.uri}")
        if kind == "refused":
            raise NotDone(self.uri, "refused")
        if kind == "no reply before":
            raise OutcomeUnknown(self.uri, "no reply")
        return kind


def flipped(body: bytes) -> bytes:
    """Return the bytes with one flipped bit."""
    return bytes([body[0] ^ 1]) + body[1:] if body else b"?"


class FaultyRecords(MemoryRecords):
    """Records whose changes fail as the test specifies."""

    def __init__(self, faults: Faults) -> None:
        super().__init__()
        self._faults = faults

    def _change(self, change: str, kind: str, key: str, value: dict[str, Any]) -> bool:
        fault = self._faults.next(f"record {kind}") if kind != "archive_lease" else ("dead" if self._faults.is_dead else None)
        if fault == "dead":
            raise Killed
        super()._change(change, kind, key, value)
        self._faults.done(fault)
        return True


def make_item(**changes: Any) -> Item:
    """Return one run's artifacts as an item to archive."""
    fields = {
        "policy": "old runs", "policy_digest": "0" * 8, "action": "archive", "to": None, "tracking_server": "prod", "workspace": "default",
        "owner_kind": "run", "owner_id": "run1", "experiment_id": "1", "run_id": "run1", "artifact_uri": f"{SOURCE}{PREFIX}", "store": SOURCE,
        "prefix": PREFIX, "storage_class": "STANDARD", "objects": None, "bytes": None,
    }  # fmt: skip
    return Item(**{**fields, **changes})


class World:
    """A source, an archive, records, and the work of an archive run. Only a scratch folder is on disk."""

    def __init__(self, **archive: Any) -> None:
        self.folder = tempfile.mkdtemp(prefix="runspend-archive-")
        self.faults = Faults()
        self.stores = {uri: MemoryStore(uri) for uri in (SOURCE, ARCHIVE)}
        self.source, self.archive = self.stores[SOURCE], self.stores[ARCHIVE]
        self.records: MemoryRecords = FaultyRecords(self.faults)
        self.may_delete = True
        self.protection: str | None = None
        self.now = START
        stores = ({"uri": uri, "delete_credentials": "cleaner"} for uri in (SOURCE, ARCHIVE))
        self.settings = make_archive_settings(self.folder, *stores, **archive)

    def open(self, store: ArtifactStore, purpose: str) -> ObjectStore:
        if purpose == "delete" and not self.may_delete:
            raise NotDone(store.uri, "it has no `delete_credentials`")
        return FaultyStore(self.stores[store.uri], self.faults)

    def put(self, name: str, body: bytes, modified: datetime = OLD, prefix: str = PREFIX) -> None:
        self.source.put(f"{prefix}/{name}", body, modified)

    def here(self, prefix: str = PREFIX) -> dict[str, bytes]:
        """Return the files in the run's folder, without notes. A note that the store cut short is archived, and its replacement has a longer name."""
        below = f"{prefix}/"
        found = {key[len(below) :]: kept.body for key, kept in self.source.objects.items() if key.startswith(below)}
        return {name: body for name, body in found.items() if not NOTE_NAMES.fullmatch(name)}

    def advance(self, **time: float) -> None:
        self.now += timedelta(**time)
        for store in self.stores.values():
            store.now = self.now

    def apply(self, *items: Item, **options: Any) -> list[Result]:
        """Run the archive once, one call at a time."""
        self.advance(seconds=1)
        self.faults.is_dead, self.faults.calls, self.faults.made = False, 0, Counter()
        own = {name: options.pop(name) for name in ("open_store", "workers", "clock", "progress") if name in options}
        given = {
            "now": self.now, "protects": lambda item: self.protection, "known": lambda uri: StoreTotals(10_000, 10**9),
            "tools": Tools(**{"open_store": self.open, "workers": 1, "clock": lambda: self.now, **own}),
        }  # fmt: skip
        return apply(items or [make_item()], self.settings, self.records, **{**given, **options})

    def apply_faulty(self, plan: dict[int | tuple[str, int], str]) -> list[Result]:
        """Run the archive once with faults. A kill ends the run."""
        self.faults.plan = plan
        try:
            return self.apply()
        except Killed:
            return []
        finally:
            self.faults.plan, self.faults.is_dead = {}, False
            self._take_lease_of_the_dead()

    @property
    def changes_made(self) -> int:
        """Return how many changes the last run made in stores and records."""
        return sum(count for what, count in self.faults.made.items() if what.split()[0] in (*CHANGES, "record"))

    def restorable(self, owner: str = "run1") -> dict[str, bytes]:
        """Return the files that the archive alone could restore to the run's folder, computed without the code under test.

        The newest archive of each name counts. An archive that was restored before the folder was archived again does not count.
        """
        loaded = []
        for found in find_archives(self.archive, owner):
            with suppress(SourceError):
                manifest = load_manifest(found)
                if manifest is not None and tombstone_of(found) is None:
                    loaded.append((manifest.written_at, manifest.planned_at, found, manifest))
        whole, last = {}, max((part[0] for part in loaded), default="")
        for written_at, _, found, manifest in sorted(loaded, key=lambda part: part[:2]):
            came_back = self.archive.objects.get(f"{found.folder}/{RETURNED_NAME}")
            if came_back is not None and written_at <= came_back.modified.isoformat() < last:
                continue
            for entry in manifest.entries:
                kept = self.archive.objects.get(f"{found.folder}/{entry.data}")
                if kept is not None and hashlib.sha256(kept.body).hexdigest() == entry.sha256:
                    whole[entry.key] = kept.body
                else:
                    whole.pop(entry.key, None)
        return whole

    def close(self) -> None:
        shutil.rmtree(self.folder, ignore_errors=True)

    def _take_lease_of_the_dead(self) -> None:
        """Release the lease of the "killed" process. That process is this one, so a check of its id would find it alive."""
        found = self.records.get("archive_lease", "lease")
        if found is not None:
            self.records.values["archive_lease", "lease"] = {**found[0], "until": None}, found[1]


def scratch_home(folder: Path) -> Path:
    """Return a home folder for records on disk."""
    home = folder / "home"
    home.mkdir(exist_ok=True)
    return home
