"""Restore archives byte for byte, to their original place or to a folder that MLflow can load. A restore needs only the archive.

Before the first write, Runspend checks the manifests and every name. It also checks that every copy exists with the right size,
and, for a restore to a folder, that the disk has room. Bytes are compared with their sha256 before and after they are written.
Existing objects are never overwritten.

A restore to the original place holds the archive lease (`lease.py`), so nothing is archived meanwhile. Every restored object gets
an etag other than the archived one, so a pending delete of an interrupted archiver fails.
"""

from __future__ import annotations

import fcntl
import os
import shutil
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from datetime import datetime, timezone
from functools import partial
from pathlib import Path

from runspend.actions.archive.archive_records import as_folder
from runspend.actions.archive.context import OpenStore, Tools, digest_of, find_store, held, holds_own_files, is_note, parts_of
from runspend.actions.archive.find import Found, find_owner, lacks_copies, load_manifest, readable_stores, tombstone_of
from runspend.actions.archive.items import ARCHIVE_FOLDER, NOTE_NAME, Item, note_name
from runspend.actions.archive.lease import FencedObjects, Lease, take_lease
from runspend.actions.archive.manifest import Entry, Manifest
from runspend.actions.archive.returned import leave_out_older, note_returned
from runspend.config.settings import ArtifactStore, Settings
from runspend.core.errors import NotDone, SourceError, SourceRefused, UsageError
from runspend.core.step_result import Progress
from runspend.storage.factory import open_objects
from runspend.storage.objects import ObjectStore, StoredObject
from runspend.warehouse.records import Records


@dataclass
class Restored:
    """The result of a restore. `problems` has one sentence for each object that was not restored."""

    owner: str  # full id
    places: list[str] = field(default_factory=list)  # stores or the folder to which it was restored
    objects: int = 0  # written objects
    bytes: int = 0
    there_already: int = 0  # objects that were in place with the same bytes
    problems: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class _Copy:
    """One object to restore: its source in an archive and its key in the target."""

    found: Found
    entry: Entry
    key: str


def restore(
    owner: str,
    settings: Settings,
    *,
    to: Path | None = None,
    archive_id: str | None = None,
    take_damaged: bool = False,
    records: Records | None = None,
    now: datetime | None = None,
    tools: Tools = Tools(),  # noqa: B008 (frozen)
) -> Restored:
    """Restore a run (or logged model, checkpoint, folder) as it was last archived, to its original place or to the new folder `to`.

    Objects come from the newest archive of each folder, and from older archives whose objects were never restored. If several
    archives have an object of the same name, the newest archive counts. `archive_id` restores only that archive.
    `take_damaged` restores the intact objects of a damaged archive; without it, nothing of a damaged archive is restored.

    Raises UsageError if there is no such archive. Raises SourceRefused, before the first write, if an archive cannot be restored.
    Raises LeaseLost while another process archives or restores.
    """
    open_store, progress = tools.open_store, tools.progress
    progress(f"{owner}: look for its archives")
    records = Records(settings.home) if records is None else records
    with ThreadPoolExecutor(tools.workers) as pool, take_lease(records, to="restore into place") if to is None else nullcontext() as lease:
        archives, older = _load(owner, settings, archive_id, open_store, take_damaged=take_damaged)
        items = [manifest.item for _, manifest in archives]
        is_whole = any(owner in (item.owner_id, item.run_id) for item in items)
        result = Restored(owner if is_whole else items[0].run_id or items[0].owner_id)
        if older:
            result.notes.append(
                f"left out, because its restored files were archived again unchanged: {', '.join(found.archive_id for found, _ in older)}. To restore it: --archive ID"
            )
        if [manifest.planned_at for _, manifest in archives] != sorted(manifest.planned_at for _, manifest in archives):
            result.notes.append(
                "the newest archive is the one whose manifest was written last, but the archives were planned in another order. If the store is a copy, check each archive (--archive ID)"
            )
        wanted = _layout(archives, None if to is None else str(to))
        if to is None:
            _check_places(archives, settings)
        wanted = {target: _whole(copies, result, take_damaged=take_damaged) for target, copies in wanted.items()}
        if to is not None:
            _restore_to_folder(to, wanted[str(to)], settings, result, pool, progress, take_damaged=take_damaged)
        if lease is not None:
            _remove_notes(archives, settings, open_store, result, lease, only_in_the_way=True)
            opened = {uri: FencedObjects(open_store(find_store(settings, uri), "archive"), lease.check) for uri in wanted}
            for uri, copies in wanted.items():
                _write_all(opened[uri], copies, settings, result, pool, progress)
                result.places.append(uri)
            _remove_notes(archives, settings, open_store, result, lease)
            if not result.problems:
                result.notes += note_returned(archives, settings, records, open_store, lease.check, now or datetime.now(timezone.utc))
    return result


# --- check before the first write ----------------------------------------------------------------------------------------


def _load(
    owner: str, settings: Settings, archive_id: str | None, open_store: OpenStore, *, take_damaged: bool
) -> tuple[list[tuple[Found, Manifest]], list[tuple[Found, Manifest]]]:
    """Return an owner's archives with their manifests: those to restore, and older ones that a newer archive replaces.

    Both are sorted by the time at which the manifest was written, oldest first. The time of the plan does not show the order: an
    archive that was planned earlier may contain newer bytes. Raises UsageError if there is no archive, or if several owners match.
    """
    loaded, gone, looked = list[tuple[Found, Manifest]](), list[str](), list[str]()
    for store in readable_stores(settings):
        looked.append(store.uri)
        for found in find_owner(open_store(store, "read"), owner):
            if archive_id is not None and found.archive_id != archive_id:
                continue
            why, manifest = tombstone_of(found), load_manifest(found)
            if manifest is not None and (
                why is None or take_damaged or not lacks_copies(found, manifest)
            ):  # a tombstone without a deleted copy: the deletion was stopped before it began
                loaded.append((found, manifest))
            elif why is not None:
                gone.append(
                    f"{found.where}: {why}"
                    + ("" if manifest is None else ". If that deletion was stopped halfway, --partial restores the rest")
                )
    if not loaded:
        why = "; ".join(gone) or f"Runspend looked in {', '.join(looked) or 'no store: `stores` of runspend.yaml is empty'}"
        raise UsageError(f"cannot restore {owner}: it has no archive. {why}. Nothing was restored.")
    if len(owners := sorted({found.owner for found, _ in loaded})) > 1:  # each in a different store
        raise UsageError(f"cannot choose the archives: {owner} may be {', '.join(owners)}. Give one full id. Nothing was restored.")
    loaded.sort(key=lambda pair: (pair[1].written_at, pair[1].planned_at))
    return leave_out_older(loaded) if archive_id is None else (loaded, [])


def _layout(archives: Sequence[tuple[Found, Manifest]], to: str | None) -> dict[str, list[_Copy]]:
    """Return the copies to write for each target store, or for the folder `to`: each key once, from the newest archive.

    Raises SourceRefused if a target is inside the archive folder, or if a name is both a file and a folder.
    """
    copies: dict[tuple[str, str], _Copy] = {}
    roots = {manifest.item.prefix for _, manifest in archives if manifest.item.owner_kind == "run"} or {m.item.prefix for _, m in archives}
    for found, manifest in archives:
        item = manifest.item
        if f"{item.prefix}/".startswith(f"{ARCHIVE_FOLDER.partition('/')[0]}/"):
            raise SourceRefused(
                found.where, f"cannot restore {found.where}: its original place is inside the archive itself. Nothing was restored."
            )
        target, below = (item.store, item.prefix) if to is None else (to, _below(item, roots))
        for entry in manifest.entries:
            key = f"{below}/{entry.key}" if below else entry.key
            if key:  # an empty key is the marker of the item's own folder: at the top of `to`, it has no name
                copies[target, key] = _Copy(found, entry, key)
    wanted: dict[str, list[_Copy]] = {}
    for (target, _), copy in copies.items():
        wanted.setdefault(target, []).append(copy)
    if to is not None:
        _check_tree(wanted.setdefault(to, []))
    return wanted


def _check_places(archives: Sequence[tuple[Found, Manifest]], settings: Settings) -> None:
    """Raise SourceRefused if a restore would write among Runspend's own files.

    Everyone who can write to the archive can forge a manifest, so its folder is not trusted.
    """
    for found, manifest in archives:
        item = manifest.item
        if holds_own_files(settings, find_store(settings, item.store), item.prefix):
            raise SourceRefused(
                found.where,
                f"cannot restore {found.where}: its original place, {item.prefix!r} of {item.store}, has Runspend's own files. Nothing was restored.",
            )


def _below(item: Item, roots: set[str]) -> str:
    """Return an item's folder below the new folder.

    The artifacts of a run are at the top, and items inside the run's folder keep their path. Other items get a folder of their own.
    """
    for root in roots if len(roots) == 1 else ():
        if item.prefix == root or item.prefix.startswith(f"{root}/"):
            return item.prefix[len(root) + 1 :]
    return as_folder(item.owner_id)


def _check_tree(copies: Sequence[_Copy]) -> None:
    """Raise SourceRefused if a name is both a file and a folder. A bucket allows that, but a disk does not."""
    files = {copy.key for copy in copies if not copy.key.endswith("/")}
    for copy in copies:
        parts = copy.key.rstrip("/").split("/")
        above = ["/".join(parts[:n]) for n in range(1, len(parts) + copy.key.endswith("/"))]
        if both := next((path for path in above if path in files), None):
            raise SourceRefused(
                copy.found.where,
                f"cannot restore {copy.found.where} to a folder: {both!r} is both a file and a folder. Restore it to its original place. Nothing was restored.",
            )


def _whole(copies: Sequence[_Copy], result: Restored, *, take_damaged: bool) -> list[_Copy]:
    """Return the copies that exist with the right size. Raises SourceRefused if one does not, unless `take_damaged`."""
    listed: dict[str, dict[str, int]] = {}
    whole, lost = list[_Copy](), list[str]()
    for copy in copies:
        folder = copy.found.folder
        if folder not in listed:
            listed[folder] = {held.key[len(folder) + 1 :]: held.size for held in copy.found.store.list(f"{folder}/data")}
        size = listed[folder].get(copy.entry.data or "")
        if size == copy.entry.size:
            whole.append(copy)
        else:
            lost.append(
                f"{copy.entry.key!r} of {copy.found.where}: "
                + ("its copy does not exist" if size is None else f"its copy has {size:,} bytes, not {copy.entry.size:,}")
            )
    if lost and not take_damaged:
        raise SourceRefused(
            result.owner,
            f"cannot restore {result.owner}: {len(lost)} of {len(copies)} objects are damaged ({lost[0]}). --partial restores the others. Nothing was restored.",
        )
    result.problems += lost
    return whole


# --- write ---------------------------------------------------------------------------------------------------------------


def _restore_to_folder(
    to: Path,
    copies: Sequence[_Copy],
    settings: Settings,
    result: Restored,
    pool: ThreadPoolExecutor,
    progress: Progress,
    *,
    take_damaged: bool,
) -> None:
    """Restore everything to a new folder. The folder appears only when it is complete; after an error, there is no folder.

    Raises UsageError if the folder exists and is not empty, or if another restore writes to it. Raises SourceRefused if the disk
    lacks room or an object cannot be restored.
    """
    to = Path(os.path.abspath(to))
    _check_free(to)
    to.parent.mkdir(parents=True, exist_ok=True)
    size, free = sum(copy.entry.size for copy in copies), shutil.disk_usage(to.parent).free
    if size > free:
        raise SourceRefused(
            str(to),
            f"cannot restore to {to}: it needs {size:,} bytes, and {free:,} are free. Name a folder on another disk. Nothing was restored.",
        )
    growing = to.with_name(f".{to.name}.runspend-restore")
    with _only_one(to, growing.with_name(f"{growing.name}.lock")):
        _check_free(to)  # another restore may have written it before this one got the lock
        if growing.is_symlink():
            raise UsageError(f"cannot restore to {to}: {growing} is a link. Remove it. Nothing was restored.")
        if growing.exists():
            shutil.rmtree(growing)  # left by a restore that was killed
        growing.mkdir()
        try:
            before = len(result.problems)
            _write_all(open_objects(ArtifactStore(uri=str(growing)), "archive"), copies, settings, result, pool, progress, keeps_times=True)
            if result.problems[before:] and not take_damaged:
                raise SourceRefused(result.owner, f"cannot restore {result.owner}: {result.problems[before]}. Nothing was restored.")
            os.rename(growing, to)
        except BaseException:
            shutil.rmtree(growing, ignore_errors=True)
            raise
    result.places.append(str(to))


def _check_free(to: Path) -> None:
    """Raise UsageError unless `to` is free or an empty folder."""
    if to.is_symlink() or (to.exists() and (not to.is_dir() or any(to.iterdir()))):
        raise UsageError(
            f"cannot restore to {to}: it exists and is not an empty folder. Name a new folder, or an empty one. Nothing was restored."
        )


@contextmanager
def _only_one(to: Path, lock: Path) -> Iterator[None]:
    """Hold a lock while the context lasts, so that no other restore writes to the same folder. Raises UsageError if one does.

    The operating system holds the lock, so the lock file of a killed restore does not block later ones.
    """
    try:
        file = os.fdopen(os.open(lock, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o666))
    except OSError as error:
        raise UsageError(
            f"cannot restore to {to}: {lock} cannot be written: {error.strerror}. Name another folder. Nothing was restored."
        ) from error
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            is_alone = os.path.samestat(os.fstat(file.fileno()), os.lstat(lock))
        except (BlockingIOError, FileNotFoundError):
            is_alone = False
        except OSError as error:
            raise UsageError(
                f"cannot restore to {to}: {lock} cannot be locked: {error.strerror}. Name a folder on another disk. Nothing was restored."
            ) from error
        if not is_alone:  # another restore has the lock, or has just ended and removed its lock file
            raise UsageError(
                f"cannot restore to {to}: another restore is writing there. Wait for it, or name another folder. Nothing was restored."
            )
        try:
            yield
        finally:
            lock.unlink(missing_ok=True)


def _write_all(
    target: ObjectStore,
    copies: Sequence[_Copy],
    settings: Settings,
    result: Restored,
    pool: ThreadPoolExecutor,
    progress: Progress,
    *,
    keeps_times: bool = False,
) -> None:
    """Write all copies to the target and record the outcomes in `result`.

    `keeps_times` gives files the modification times of the archived originals. In the original place, files get the current time,
    because they are in use again.
    """
    scratch = settings.home / "tmp" / "restore"
    for number, (copy, outcome) in enumerate(_tried(partial(_write_one, target, scratch, keeps_times), copies, pool), 1):
        progress(f"{result.owner}: {number:,} of {len(copies):,} objects")
        if isinstance(outcome, str):
            result.problems.append(outcome)
        elif outcome:
            result.objects, result.bytes = result.objects + 1, result.bytes + copy.entry.size
        else:
            result.there_already += 1


def _tried(write: Callable[[_Copy], bool], copies: Sequence[_Copy], pool: ThreadPoolExecutor) -> Iterator[tuple[_Copy, bool | str]]:
    def tried(copy: _Copy) -> tuple[_Copy, bool | str]:
        try:
            return copy, write(copy)
        except SourceError as error:
            return copy, str(error)
        except OSError as error:
            return copy, f"cannot restore {copy.key!r}: {error.strerror}"

    return pool.map(tried, copies)


def _write_one(target: ObjectStore, scratch: Path, keeps_times: bool, copy: _Copy) -> bool:
    """Write one object. Return True if it was written, False if the same bytes were already in place.

    Raises SourceRefused if the copy is missing or damaged, if another object is in its place, or if the written bytes differ.
    """
    key = f"{copy.found.folder}/{copy.entry.data}"
    stored = copy.found.store.head(key)
    if stored is None:
        raise SourceRefused(copy.found.where, f"cannot restore {copy.key!r}: its copy {key!r} no longer exists")
    with held(copy.found.store.read(stored), scratch) as found:
        if (found.size, found.sha256) != (copy.entry.size, copy.entry.sha256):
            raise SourceRefused(
                copy.found.where,
                f"cannot restore {copy.key!r}: its copy {key!r} in {copy.found.store.uri} is damaged (sha256 {found.sha256}). It was not written",
            )
        metadata = copy.entry.metadata | ({"modified": copy.entry.modified} if keeps_times else {})
        try:
            _check_back(target, target.write(copy.key, parts_of(found), size=found.size, unlike=copy.entry.etag, metadata=metadata), copy)
            return True
        except NotDone:
            there = target.head(copy.key)
            if there is None:
                raise
        if there.size != copy.entry.size or digest_of(target.read(there)) != copy.entry.sha256:
            raise SourceRefused(
                target.uri, f"cannot restore {copy.key!r} to {target.uri}: another object has this name. It was not overwritten"
            )
        if there.etag == copy.entry.etag:  # change its etag, so that a pending delete of an interrupted archiver fails
            _check_back(target, target.renew(there), copy)
    return False


def _check_back(target: ObjectStore, written: StoredObject, copy: _Copy) -> None:
    """Read a written object back. Raises SourceRefused if it differs from the archived one."""
    if written.size != copy.entry.size or digest_of(target.read(written)) != copy.entry.sha256:
        raise SourceRefused(
            target.uri,
            f"cannot restore {copy.key!r} to {target.uri}: the object that was read back differs from the archived one. Delete it, and restore again",
        )


def _remove_notes(
    archives: Sequence[tuple[Found, Manifest]],
    settings: Settings,
    open_store: OpenStore,
    result: Restored,
    lease: Lease,
    *,
    only_in_the_way: bool = False,
) -> None:
    """Delete the notes that archiving left in the original place. If a note cannot be deleted, `result.notes` states why.

    `only_in_the_way` deletes only notes that have the name of an archived user file.
    """
    places = dict[tuple[str, str, str], Item]()
    for found, manifest in archives:
        is_taken = any(entry.key == NOTE_NAME for entry in manifest.entries)
        names = [NOTE_NAME] if only_in_the_way else [NOTE_NAME, note_name(found.archive_id, is_taken=True)]
        places |= {
            (manifest.item.store, manifest.item.prefix, name): manifest.item
            for name in names
            if is_taken or (name == NOTE_NAME and not only_in_the_way)
        }
    for (_, prefix, name), item in places.items():
        store = find_store(settings, item.store)
        reader, key = open_store(store, "read"), f"{prefix}/{name}"
        try:
            there = reader.head(key)
            if there is not None and is_note(name, reader, there, item):
                FencedObjects(open_store(store, "delete"), lease.check).delete(there)
        except SourceError as error:
            result.notes.append(f"the note {key!r} was left in {store.uri}: {error}")
