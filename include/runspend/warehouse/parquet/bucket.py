"""The warehouse in a bucket. File names and contents are the same as in a folder, so other tools can read either one.

    <prefix>/<table>/period=YYYY-MM/<writer>.parquet              public tables
    <prefix>/_internal/<table>/period=YYYY-MM/<writer>.parquet    internal tables
    <prefix>/_runspend/head.json                                  the head: the list of published units, in one object
    <prefix>/_runspend/stage/<step>/…                             uploaded files that are not yet copied to their names

The head lists every unit with the SHA-256 of its file. It is only replaced by conditional puts, and each put increases its number.

A publish works in three steps:

1. Upload the files to the stage.
2. Replace the head, but only the version that the inputs were checked against. This put is the commit point. If another publisher
   replaced the head first, the store refuses the put.
3. Copy the files from the stage to their names.

Until step 3 is done, the head lists the remaining copies. Runspend reads these files from the stage, so a reader sees one complete
build and never waits.

The list of copies is also a lease. The next publisher waits until the copies are done. If the head was not renewed for `LEASE` seconds
(measured by the store's clock), the next publisher makes the copies itself. A publisher that lost its lease without noticing does no
harm: its staged files are gone, and its removals name an ETag that no longer matches.

SQL runs on this machine over a cache of files named by their SHA-256. `reader.py` and `step.py` run SQL. `storage/s3_warehouse.py`
sends the requests to the store.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import re
import shutil
import time
import uuid
from collections.abc import Callable, Collection, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, closing, contextmanager, suppress
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from runspend.core.crash_points import crash_point
from runspend.core.errors import ConfigError, RecordRefused, RunspendError, WarehouseDamaged
from runspend.core.own_files import fsync_path, json_value, own_folder, refused
from runspend.schema.former_names import published_columns
from runspend.schema.tables import SCHEMA_VERSION, TABLES
from runspend.storage.s3_warehouse import Bucket, NotAllowed
from runspend.warehouse.base import ALLOCATION, Unit, UnitState
from runspend.warehouse.parquet.base import Pinned, StagedFiles
from runspend.warehouse.parquet.files import add_columns
from runspend.warehouse.parquet.journal import Folder
from runspend.warehouse.parquet.queried_files import QueriedFiles
from runspend.warehouse.parquet.reader import ParquetReader
from runspend.warehouse.parquet.units import (
    check_copies,
    check_removals,
    check_schema,
    check_state,
    file_name,
    is_unit_name,
    state_of,
    unit_of_text,
)
from runspend.warehouse.parquet.verification import (
    ALTERED,
    BEHIND,
    Guard,
    KnownDamage,
    Signature,
    VerificationNotes,
    as_published,
    is_sealed,
    name_of,
    seal,
    sha256_of,
    signature_of,
    why_damaged,
)

if TYPE_CHECKING:
    import duckdb


HEAD = "_runspend/head.json"
STAGE = "_runspend/stage"
UNSEALED_HEAD = {"number", "put", "schema", "units", "copies", "removals"}  # written by a version without checksums
LEASE = 30.0  # seconds without a renewal after which another publisher may finish the publish
DAY = 86_400.0
AT_ONCE = 8  # parallel transfers
OBJECT_ALTERED = "its object was changed or removed after it was published"
NANO = 1_000_000_000
# Nanoseconds of the modification time of a cached file. They show that the file was hashed when it was cached. Any write changes them.
MARK = 271_828_183
_OWN = re.compile(r"[0-9a-f]{64}\.parquet|[0-9a-f]{32}\.tmp", re.ASCII)  # names of files in the cache


@dataclass(frozen=True)
class _Head:
    """The published units, and the files that still have to be copied to their names."""

    number: int = 0
    units: Mapping[Unit, Mapping[str, Any]] = field(default_factory=dict)
    version: int = SCHEMA_VERSION
    columns: Mapping[str, list[str]] = field(default_factory=lambda: {t.name: [c.name for c in t.columns] for t in TABLES.values()})
    copies: tuple[tuple[str, str, int], ...] = ()  # (key in the stage, final key, bytes)
    removals: tuple[tuple[str, str], ...] = ()  # (key, ETag)
    etag: str | None = None
    age: float = 0.0

    @property
    def is_settled(self) -> bool:
        """Whether all copies and removals of the last publish are done."""
        return not self.copies and not self.removals

    @cached_property
    def stored(self) -> dict[str, list[str]]:
        """The columns of the published files, by table. Columns with former values are marked (see `schema/former_names.py`)."""
        return published_columns(self.version, self.columns)

    @cached_property
    def staged(self) -> dict[str, str]:
        """Final key -> key in the stage, for files that are not copied yet."""
        return {target: source for source, target, _ in self.copies}

    def body(self) -> bytes:
        value = {
            "number": self.number,
            "put": uuid.uuid4().hex,  # makes the content of every head unique, and so its ETag
            "schema": {"version": self.version, "tables": self.columns},
            "units": {"/".join(unit): record for unit, record in sorted(self.units.items())},
            "copies": self.copies,
            "removals": self.removals,
        }
        return json.dumps(seal(value), ensure_ascii=False, sort_keys=True).encode()


class BucketWarehouse(QueriedFiles):
    """Tables in a bucket, with a cache in a local folder. Opening the warehouse finishes a publish that was killed."""

    def __init__(
        self,
        bucket: Bucket,
        cache: Path,
        *,
        models: Path = ALLOCATION / "models",
        checks: Path = ALLOCATION / "checks",
        lease: float = LEASE,
    ) -> None:
        super().__init__(Folder(cache), models, checks)
        self.bucket = bucket
        self._lease = lease
        self._files = cache / "files"
        self._verified = VerificationNotes(cache)
        head = self._head()  # raises ConfigError if a newer version of Runspend wrote it
        try:
            self._prove_conditions(cache)
            if not head.is_settled and head.age > self._lease:
                self._finish(head)
        except NotAllowed:
            if head.etag is None:
                raise
            # The warehouse exists, and this user may only read it.

    def states(self, *tables: str) -> dict[Unit, UnitState]:
        """Return the published units of these tables, or of all tables if none is named. Inside a reader, return the units that it sees."""
        units = self._seen().units
        return {
            unit: state_of(record) for unit, record in units.items() if (not tables or unit.table in tables) and unit not in self._left_out
        }

    @contextmanager
    def _one(self, unit: Unit) -> Iterator[tuple[Path, list[str]] | None]:
        with self.folder.stage("read") as stage:
            paths, head = self._pin(stage.path / "pinned", self._seen(), unit)
            if unit in paths:
                self._guard(paths, head)([unit])
            yield (paths[unit], head.stored[unit.table]) if unit in paths else None

    @contextmanager
    def _reader(self, engine: Callable[[Path], AbstractContextManager[duckdb.DuckDBPyConnection]]) -> Iterator[ParquetReader]:
        with self.folder.stage("read") as stage, engine(stage.path / "spill") as connection:
            units, head = self._pin(stage.path / "pinned", self._seen())
            with closing(ParquetReader(units, head.stored, connection, self._guard(units, head), seen=self._seen_by)) as reader:
                outer = getattr(self._reading, "head", None)
                self._reading.head = head
                try:
                    yield reader
                finally:
                    self._reading.head = outer

    def find_damage(
        self, units: Collection[Unit] | None = None, *, since: float | None = None, progress: Callable[[str], None] = lambda _: None
    ) -> dict[Unit, str]:
        """Return the damaged units among `units` (None: all), each with the reason.

        Downloads and hashes every object that was not verified at `since` or later (Unix seconds; None: every object).
        An object with the ETag of its last verification counts as unchanged.
        """
        since = time.time() if since is None else since
        damaged, whole = {}, {}
        with self.folder.stage("verify") as stage:
            head, known = self._settled(), self._verified.read()
            for unit, record in head.units.items():
                if units is not None and unit not in units:
                    continue
                progress(f"verifying {name_of(unit)}")
                signature = _signature(self.bucket.etag(file_name(unit)))
                if known.is_whole(unit, signature, record["sha256"], since):
                    continue
                self._drop_rotten_copy(record["sha256"])
                found = self.bucket.download(file_name(unit), stage.path / "object")
                if found == record["sha256"]:
                    whole[unit] = (signature, record["sha256"])
                else:
                    damaged[unit] = "its object is gone" if found is None else ALTERED
        newer = self._head() if damaged else head  # a unit that another publisher replaced meanwhile is not damaged
        damaged = {unit: why for unit, why in damaged.items() if newer.units.get(unit) == head.units[unit]}
        self._verified.note(whole, damaged)
        return damaged

    # Used by `ParquetStep`.

    def pin(self, folder: Path) -> Pinned:
        """Return the currently published files under names in `folder` that later publishes do not change."""
        units, head = self._pin(folder, self._head())
        return Pinned(units, head.stored, self._guard(units, head))

    def _guard(self, files: Mapping[Unit, Path], head: _Head) -> Guard:
        return Guard({unit: (path, head.units[unit]) for unit, path in files.items()}, self._known_copies(head, files))

    def _known_copies(self, head: _Head, files: Mapping[Unit, Path]) -> KnownDamage:
        """Return notes about the local copies that are unchanged since they were hashed. `_keep` marks these by their modification time."""
        signatures = {unit: signature_of(path) for unit, path in files.items() if path.exists()}
        return KnownDamage(
            {"/".join(u): (s, head.units[u]["sha256"], time.time()) for u, s in signatures.items() if s[-1] % NANO == MARK}, {}
        )

    def _drop_rotten_copy(self, sha256: str) -> None:
        """Delete the cached copy if its hash no longer matches, so that Runspend downloads the object again."""
        path = self._files / f"{sha256}.parquet"
        try:
            if sha256_of(path) != sha256:
                path.unlink(missing_ok=True)
        except FileNotFoundError:  # the cache has no copy, or another process has just removed it
            return

    def replace(
        self, staged: Mapping[Unit, StagedFiles], dropped: set[Unit], inputs: Mapping[Unit, str | None], *, stage: Path, build_id: str
    ) -> bool:
        """Make all units of a step visible at once. Returns False, and changes nothing, if the digest of an input has changed."""
        if not _hold(self._head(), inputs, self._left_out):
            return False
        place, uploaded = f"{STAGE}/{uuid.uuid4().hex}", time.time()
        records = {unit: _record(one.file, one.record) for unit, one in staged.items()}
        copies = self._upload(place, {unit: one.file for unit, one in staged.items()}) if staged else ()
        crash_point("publish.staged")
        while True:
            head = self._settled()
            if not _hold(head, inputs, self._left_out):
                for key, _, _ in copies:
                    self.bucket.delete(key)
                return False
            gone = [unit for unit in sorted(dropped) if unit in head.units]
            if not copies and not gone:
                return True
            new = self._upgraded(head, {*staged, *gone}, place, stage)
            new = replace(
                new,
                units={unit: record for unit, record in new.units.items() if unit not in dropped} | records,
                copies=(*new.copies, *copies),
                removals=tuple((file_name(unit), etag) for unit in gone if (etag := self.bucket.etag(file_name(unit))) is not None),
            )
            if time.time() - uploaded > DAY / 2:  # other publishers delete staged files that are older than a day
                raise RunspendError(
                    f"cannot publish to {self.bucket.where}: it took longer than half a day. Nothing was changed. Run again."
                )
            crash_point("publish.before_journal")
            committed = self._put(head, new)
            if committed is not None:
                break
        crash_point("publish.after_journal")
        for unit, one in staged.items():
            self._keep(one.file, records[unit]["sha256"])
        self._finish(committed)
        self._sweep()
        self._left_out -= staged.keys() | dropped
        return True

    # The head.

    def _head(self) -> _Head:
        found = self.bucket.get(HEAD)
        where = f"{self.bucket.uri}/{HEAD}"
        if found is None:
            if (unit := self._any_unit()) is None:
                return _Head()
            if (found := self.bucket.get(HEAD)) is None:  # read again: the first publish may have just happened
                raise WarehouseDamaged({HEAD: f"the object is missing, but {unit} exists; restore the object's previous version"})
        try:
            value = json_value(found.body, where)
        except RecordRefused:
            value = None
        if not is_sealed(value) and (not isinstance(value, dict) or value.keys() != UNSEALED_HEAD):
            raise WarehouseDamaged({HEAD: "the object was changed after Runspend wrote it; restore its previous version"})
        if not value.keys() >= UNSEALED_HEAD:
            raise refused(where, "it is not the head of a warehouse")
        schema = check_schema(value["schema"], where)
        if schema["version"] > SCHEMA_VERSION:
            raise ConfigError(
                f"cannot use warehouse {self.bucket.where}: it has schema version {schema['version']}, this runspend knows {SCHEMA_VERSION}. "
                "Install the newer runspend. Nothing was changed."
            )
        if type(value["number"]) is not int or value["number"] < 0 or not isinstance(value["units"], dict):
            raise refused(where, "its number or its units are of another type")
        units = {unit_of_text(name, where): check_state(record, where) for name, record in value["units"].items()}
        return _Head(
            number=value["number"],
            units=units,
            version=schema["version"],
            columns={table: schema["tables"].get(table, []) for table in TABLES},
            copies=check_copies(value["copies"], units, where),
            removals=check_removals(value["removals"], units, where),
            etag=found.etag,
            age=found.age,
        )

    def _any_unit(self) -> str | None:
        """Return the key of one object that is a unit's file, or None. None means that nothing was ever published."""
        with suppress(NotAllowed):  # the user may not be allowed to list objects
            for place in ("_internal", *(name for name, table in TABLES.items() if table.is_public)):
                if (found := next((key for key, _ in self.bucket.ages(f"{place}/") if is_unit_name(key)), None)) is not None:
                    return found
        return None

    def _seen(self) -> _Head:
        """Return the head of the reader that this thread has open, or the current head if it has none open."""
        head: _Head | None = getattr(self._reading, "head", None)
        return self._head() if head is None else head

    def _put(self, old: _Head, new: _Head) -> _Head | None:
        """Replace the head `old`. Returns None if another publisher has replaced it already."""
        new = replace(new, number=old.number + 1, age=0.0)
        body = new.body()
        etag = self.bucket.create(HEAD, body) if old.etag is None else self.bucket.replace(HEAD, body, old.etag)
        return None if etag is None else replace(new, etag=etag)

    def _settled(self) -> _Head:
        """Return the head once all its copies are done. Waits for the publisher that makes them, or makes them if its lease has ended."""
        while not (head := self._head()).is_settled:
            if head.age > self._lease:
                self._finish(head)
            else:
                time.sleep(0.2)
        return head

    def _finish(self, head: _Head) -> None:
        """Copy the files of a committed head to their names. Stops if another publisher has taken over the lease."""
        taken = self._put(head, head)
        renewed = time.monotonic()
        for number, (source, target, size) in enumerate(head.copies):
            if taken is not None and time.monotonic() - renewed > self._lease / 3:
                taken, renewed = self._put(taken, taken), time.monotonic()
            if taken is None:
                return
            self.bucket.copy(source, target, size)  # does nothing if the staged file is gone: then it was copied already
            if number == 0:
                crash_point("publish.after_first_move")
        if taken is None:
            return
        for key, etag in head.removals:
            self.bucket.delete(key, etag=etag)
        crash_point("publish.after_moves")
        for source, _, _ in head.copies:  # while this process holds the lease, so that a former holder finds nothing left to copy
            self.bucket.delete(source)
        self._put(taken, replace(taken, copies=(), removals=()))
        crash_point("publish.after_journal_dropped")

    def _upgraded(self, head: _Head, replaced: set[Unit], place: str, stage: Path) -> _Head:
        """Return the head, with all files of an older schema rewritten with the current columns and values.

        A damaged file is skipped and stays unreadable. It becomes readable once it is replaced, or once someone restores it and the
        next publish upgrades it.
        """
        is_old = {
            table: head.version != SCHEMA_VERSION and head.stored[table] != [c.name for c in TABLES[table].columns] for table in TABLES
        }
        old = {u for u, record in head.units.items() if u not in replaced and (is_old[u.table] or BEHIND in record)}
        if head.version == SCHEMA_VERSION and not old:
            return head
        paths, found = self._pin(stage / "old", head, *old) if old else ({}, head)
        files = {}
        damaged = {u: {BEHIND: head.columns[u.table], **head.units[u]} for u in old if "why" in found.units[u]}
        for number, unit in enumerate(sorted(old - damaged.keys())):
            files[unit] = stage / f"upgrade-{number}.parquet"
            add_columns(paths[unit], files[unit], TABLES[unit.table])
        records = {unit: _record(file, as_published(head.units[unit])) for unit, file in files.items()}
        copies = self._upload(f"{place}/upgrade-{head.number}", files)
        return replace(head, version=SCHEMA_VERSION, columns=_Head().columns, units={**head.units, **damaged, **records}, copies=copies)

    def _prove_conditions(self, cache: Path) -> None:
        """Raise ConfigError if the store ignores the conditions of a put. Two publishers could then overwrite each other's work."""
        proven = cache / "conditions-hold"
        if proven.exists():
            return
        key = f"_runspend/probe-{uuid.uuid4().hex}"
        etag = self.bucket.create(key, b"1")
        try:
            twice = self.bucket.create(key, b"2")
            wrong = self.bucket.replace(key, b"3", '"00000000000000000000000000000000"')
            right = self.bucket.replace(key, b"4", etag or "")
        finally:
            self.bucket.delete(key)
        if etag is None or twice is not None or wrong is not None or right is None:
            raise ConfigError(
                f"cannot use {self.bucket.where} as a warehouse: the store ignores the conditions of a put (If-None-Match, If-Match), "
                "so two publishers could overwrite each other. Set warehouse.uri to a folder, or to a store that applies them."
            )
        cache.mkdir(parents=True, exist_ok=True)
        proven.touch()

    # Files.

    def _pin(self, folder: Path, head: _Head, *only: Unit) -> tuple[dict[Unit, Path], _Head]:
        """Return the files of one head under names in `folder`, and that head. `only`: the units to return (default: all).

        If the head was replaced meanwhile, the newer head is used. A unit with a damaged object gets a path without a file. The
        returned head holds the reason, and `_guard` then refuses to read that unit.
        """
        while True:
            wanted = [unit for unit in head.units if (not only or unit in only) and unit not in self._left_out]
            with ThreadPoolExecutor(AT_ONCE) as pool:
                found = dict(zip(wanted, pool.map(partial(self._fetch, folder, head), wanted), strict=True))
            lost = {unit: {**head.units[unit], "why": OBJECT_ALTERED} for unit, path in found.items() if path is None}
            if not lost:
                return {unit: path for unit, path in found.items() if path is not None}, head
            newer = self._head()
            if newer.number == head.number:
                return {unit: path or folder / "damaged" / unit.table for unit, path in found.items()}, replace(
                    head, units={**head.units, **lost}
                )
            head = newer

    def _fetch(self, folder: Path, head: _Head, unit: Unit) -> Path | None:
        """Return a path in `folder` for the file of a unit, or None if the store no longer has these bytes."""
        sha256 = head.units[unit]["sha256"]
        cached = self._files / f"{sha256}.parquet"
        pin = folder / unit.table / f"{unit.period}+{unit.writer}+{sha256[:16]}.parquet"
        if pin.exists():
            return pin
        pin.parent.mkdir(parents=True, exist_ok=True)
        try:
            _link(cached, pin)
        except FileNotFoundError:
            pass
        else:
            if why_damaged(unit, pin, as_published(head.units[unit]), self._known_copies(head, {unit: pin}), since=None) is None:
                return pin
            pin.unlink()  # the cached copy is damaged: download the object again
            cached.unlink(missing_ok=True)
        for key in (head.staged.get(file_name(unit)), file_name(unit)):
            if key is not None and self.bucket.download(key, pin) == sha256:
                self._keep(pin, sha256)
                return pin
        pin.unlink(missing_ok=True)
        return None

    def _keep(self, file: Path, sha256: str) -> None:
        """Link a finished file into the cache. The file must never be written to afterwards."""
        own_folder(self._files)
        fsync_path(file)
        scratch = self._files / f"{uuid.uuid4().hex}.tmp"
        _link(file, scratch)
        os.utime(scratch, ns=(time.time_ns(), time.time_ns() // NANO * NANO + MARK))
        os.replace(scratch, self._files / f"{sha256}.parquet")
        scratch.unlink(missing_ok=True)  # `os.replace` leaves it if both names already link to the same file

    def _upload(self, place: str, files: Mapping[Unit, Path]) -> tuple[tuple[str, str, int], ...]:
        copies = {
            unit: (f"{place}/{number}.parquet", file_name(unit), files[unit].stat().st_size) for number, unit in enumerate(sorted(files))
        }
        with ThreadPoolExecutor(AT_ONCE) as pool:
            list(pool.map(lambda unit: self.bucket.upload(copies[unit][0], files[unit]), copies))
        return tuple(copies.values())

    def _sweep(self) -> None:
        """Remove files older than a day that are no longer needed, from the stage and from the cache."""
        head = self._head()
        needed = {source for source, _, _ in head.copies}
        for key, age in self.bucket.ages(f"{STAGE}/"):
            if age > DAY and key not in needed:
                self.bucket.delete(key)
        shas = {record["sha256"] for record in head.units.values()}
        for path in self._files.glob("*"):
            if _OWN.fullmatch(path.name) and path.stem not in shas and time.time() - path.stat().st_mtime > DAY:
                path.unlink(missing_ok=True)
        fsync_path(self._files)


def _hold(head: _Head, inputs: Mapping[Unit, str | None], left_out: Collection[Unit]) -> bool:
    """Whether every input still has the digest that it had when the build read it."""
    return all(
        (head.units[unit]["digest"] if unit in head.units and unit not in left_out else None) == digest for unit, digest in inputs.items()
    )


def _signature(etag: str | None) -> Signature:
    return () if etag is None else (int.from_bytes(hashlib.sha256(etag.encode()).digest()[:6], "big"),)


def _link(file: Path, name: Path) -> None:
    """Give a file a second name by a hard link, or copy it if the file system cannot link. The file is never written to."""
    try:
        os.link(file, name)
    except OSError as error:
        if error.errno not in (errno.EPERM, errno.ENOTSUP, errno.EMLINK, errno.EXDEV):
            raise
        shutil.copyfile(file, name)


def _record(file: Path, record: Mapping[str, Any]) -> dict[str, Any]:
    return {**record, "bytes": file.stat().st_size, "sha256": sha256_of(file)}
