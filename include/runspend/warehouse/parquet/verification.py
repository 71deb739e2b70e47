"""Verification: whether the published files are still the files that were published.

Every unit has a state file with the size and the SHA-256 of its Parquet file. The state file, `schema.json` and the index of
all units contain their own checksum. This finds any flipped bit and any file that is missing, cut off or swapped.

docs/benchmarks.md shows the cost of hashing. A pipeline run hashes everything. A reader hashes a file only if its device, inode, size
or modification time differs from the note in `_runspend/verified.json`. So the next reader finds a file that was written to or
exchanged. Only the next pipeline run finds bits that rot on the disk, and a write that restores the time (`touch -r`).
DuckDB neither writes nor checks the checksums of Parquet pages (`tests/faults/test_damage.py` flips bits), so they would not help.

`warehouse.py` and `bucket.py` know where the files are; `pipeline/damage.py` decides what a pipeline run does about damage.
"""

from __future__ import annotations

import errno
import hashlib
import json
import logging
import os
import time
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from runspend.core.errors import RecordRefused, WarehouseDamaged
from runspend.core.own_files import open_lock, read_bytes, try_lock, write_whole
from runspend.warehouse.base import Unit
from runspend.warehouse.parquet.units import check_schema, check_state, unit_of_text

# Keys of a state file from before state files had a checksum. With any other key and no valid checksum, it is damaged.
UNSEALED = frozenset({"digest", "rows", "build_id", "extra", "unit", "bytes", "sha256"})
SCHEMA_KEYS = ("version", "tables")
INDEX = Unit("_runspend", "all", "index.json")  # represents the index in lists of damage
ALTERED = "its bytes are not those that were published"
BEHIND = "columns"  # key of a record: the columns of a file that was damaged when its table got new ones
_hashed: dict[tuple[int, ...], str] = {}  # signature -> SHA-256, of files this process hashed
_MOST = 100_000
NOTE_WAIT = 5.0  # seconds to wait for other processes that write notes

log = logging.getLogger(__name__)

Signature = tuple[int, ...]


def name_of(unit: Unit) -> str:
    """Return a unit's readable name: cost_daily 2026-10 all."""
    return " ".join(unit)


# --- JSON that holds its own checksum ---------------------------------------------------------------------------------


def seal(value: Mapping[str, Any]) -> dict[str, Any]:
    """Return the value with its own checksum."""
    plain = json.loads(_text({key: part for key, part in value.items() if key != "check"}))
    return {**plain, "check": hashlib.sha256(_text(plain).encode()).hexdigest()}


def is_sealed(value: Any) -> bool:
    """Whether the value is unchanged since it was sealed."""
    return isinstance(value, dict) and isinstance(value.get("check"), str) and seal(value)["check"] == value["check"]


def _text(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, sort_keys=True)


def read_sealed(path: Path, unsealed: Collection[str]) -> tuple[Any, str | None]:
    """Return (value, None), or (None, the reason for the damage); (None, None) if there is no such file.

    `unsealed`: the keys of files older than checksums.
    """
    try:
        found = read_bytes(path)
        if found is None:
            return None, None
        text = found.decode("utf-8")
        value = json.loads(text)
    except (ValueError, RecursionError):
        return None, f"{path.name} is not valid JSON, or was changed after it was written"
    except OSError as error:
        if error.errno != errno.EIO:
            raise
        return None, f"{path.name} cannot be read: {error.strerror}"
    if isinstance(value, dict) and value.keys() <= set(unsealed):
        return value, None
    return (value, None) if _is_as_written(value, text) else (None, f"{path.name} was changed after it was written")


def _is_as_written(value: Any, text: str) -> bool:
    """Whether a sealed value's text is exactly the one that was written.

    Hashes the text as read, which is faster than serializing again.
    """
    check = value.get("check") if isinstance(value, dict) else None
    return isinstance(check, str) and hashlib.sha256(text.replace(f'"check": "{check}", ', "", 1).encode()).hexdigest() == check


def read_schema(path: Path) -> tuple[dict[str, Any] | None, str | None]:
    """Read `schema.json` in the same way. Raises RecordRefused for an undamaged one that Runspend would not write."""
    value, why = read_sealed(path, SCHEMA_KEYS)
    return (None, why) if value is None else (check_schema(value, path), None)


def read_state(path: Path, unit: Unit) -> dict[str, Any] | None:
    """Return the state file of a unit, or a substitute for a damaged one; None if there is none. The caller must not change it.

    Raises RecordRefused for an undamaged one that Runspend would not write.
    """
    value, why = read_sealed(path, UNSEALED)
    if why is None and value is not None and (value.get("unit") != list(unit) or value.keys() < UNSEALED):
        why = f"{path.name} is the state file of another unit, or lacks keys"
    if why is not None:
        return lost(why)
    return None if value is None else check_state(value, path, unit)


def as_published(record: Mapping[str, Any]) -> dict[str, Any]:
    """Return the record of a unit's file as published, without the note about columns that its table got later."""
    return {key: value for key, value in record.items() if key != BEHIND}


def lost(why: str) -> dict[str, Any]:
    """Return a substitute for the lost state of a unit: no digest equals its digest, no file has its SHA-256."""
    return {"digest": "damaged", "rows": 0, "build_id": "", "extra": {}, "bytes": -1, "sha256": "", "why": why}


# --- files ------------------------------------------------------------------------------------------------------------


def sha256_of(path: Path) -> str:
    """Return the SHA-256 of a file's bytes."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 22):
            digest.update(block)
    return digest.hexdigest()


def signature_of(path: Path) -> Signature:
    """Return values that change when a file is written to or replaced. Another name of the same file has the same signature."""
    found = path.stat()
    return found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns


@dataclass(frozen=True)
class KnownDamage:
    """Earlier findings about units: the time at which each was intact, with its file's signature at that time, and the damaged units."""

    whole: Mapping[str, tuple[Signature, str, float]]
    damaged: Mapping[str, str]

    def is_whole(self, unit: Unit, signature: Signature, sha256: str, since: float) -> bool:
        """Whether the file with this signature was hashed to `sha256` at `since` or later (seconds of the epoch; 0: at any time).

        A note from the future does not count: either a clock was wrong, or the note is damaged.
        """
        found = self.whole.get("/".join(unit))
        if found is None or "/".join(unit) in self.damaged or found[:2] != (signature, sha256):
            return False
        return since <= 0 or since <= found[2] <= time.time()


NOTHING = KnownDamage({}, {})


def why_damaged(unit: Unit, path: Path, record: Mapping[str, Any], known: KnownDamage, *, since: float | None) -> str | None:
    """Return why a unit's file must not be read; None when it is intact.

    `since`: files hashed at that time or later are not hashed again. None: files that this process ever hashed are not hashed again either.
    """
    if "why" in record:
        return str(record["why"])
    if BEHIND in record:
        return "it was damaged when columns were added to its table. Restore its file; the next pipeline run then adds the columns"
    try:
        signature = signature_of(path)
        if signature[2] != record["bytes"]:
            return f"its file has {signature[2]:,} bytes, {record['bytes']:,} were published"
        if known.is_whole(unit, signature, record["sha256"], since or 0.0):
            return None
        is_doubted = since is not None or "/".join(unit) in known.damaged
        if is_doubted or _hashed.get(signature) != record["sha256"]:
            found = sha256_of(path)
            if len(_hashed) > _MOST:
                _hashed.clear()
            _hashed[signature] = found
            return None if found == record["sha256"] else ALTERED
    except FileNotFoundError:
        return "its file is gone"
    except IsADirectoryError:
        return "a folder has the name of its file"
    except OSError as error:
        if error.errno not in (errno.EIO, errno.ENOTDIR):
            raise
        return f"its file cannot be read: {error.strerror}"
    return None


class Guard:
    """Refuses damaged units before they are read. Remembers the units that it verified."""

    def __init__(self, files: Mapping[Unit, tuple[Path, Mapping[str, Any]]], known: KnownDamage) -> None:
        self._files = files
        self._known = known
        self._passed: set[Unit] = set()

    def __call__(self, units: Collection[Unit]) -> None:
        """Raises WarehouseDamaged."""
        self._refuse(set(units) - self._passed, None)
        self._passed.update(units)

    def doubt(self, units: Collection[Unit], until: float | None = None) -> bool:
        """Hash these units even if they were verified before. Raises WarehouseDamaged.

        Returns False if not all were hashed by `until`, seconds of the monotonic clock.
        """
        return self._refuse(units, time.time(), until)

    def _refuse(self, units: Collection[Unit], since: float | None, until: float | None = None) -> bool:
        found, are_all = {}, True
        for unit in sorted(units):
            if until is not None and time.monotonic() > until:
                are_all = False
                break
            if (why := why_damaged(unit, *self._files[unit], self._known, since=since)) is not None:
                found[name_of(unit)] = why
        if found:
            raise WarehouseDamaged(found)
        return are_all


class VerificationNotes:
    """The notes in `_runspend/verified.json`, and the index of all units. Without them, more is hashed and less damage is found."""

    def __init__(self, home: Path) -> None:
        self._home = home
        self._path = home / "verified.json"
        self._index = home / "index.json"

    def read(self) -> KnownDamage:
        """Return the notes; empty if there are none or they cannot be read."""
        try:
            value = json.loads(read_bytes(self._path) or b"")
            whole = {str(unit): (tuple(entry[0]), str(entry[1]), float(entry[2])) for unit, entry in value["whole"].items()}
            return KnownDamage(whole, {str(unit): str(why) for unit, why in value["damaged"].items()})
        except (OSError, ValueError, KeyError, TypeError, AttributeError, IndexError, RecursionError, RecordRefused):
            return NOTHING  # only notes: without them, files are hashed

    def note(
        self,
        whole: Mapping[Unit, tuple[Signature, str]],
        damaged: Mapping[Unit, str],
        gone: Collection[Unit] = (),
        *,
        hashed_at: float | None = None,
    ) -> None:
        """Record units as intact or damaged in their state when they were hashed (now), and forget those that are gone."""
        if not (whole or damaged or gone) or not os.access(self._home, os.W_OK):
            return  # nothing new, or the user may only read
        moment = time.time() if hashed_at is None else hashed_at
        with suppress(OSError), self._alone() as is_ours:  # for example a full disk: the file is hashed again later
            if not is_ours:
                return
            known = self.read()
            touched = {"/".join(unit) for unit in (*whole, *damaged, *gone)}
            entries = {unit: entry for unit, entry in known.whole.items() if unit not in touched}
            marks = {unit: why for unit, why in known.damaged.items() if unit not in touched}
            entries |= {"/".join(unit): (signature, sha256, moment) for unit, (signature, sha256) in whole.items()}
            marks |= {"/".join(unit): why for unit, why in damaged.items()}
            write_whole(self._path, _text({"whole": entries, "damaged": marks}).encode())

    def units(self) -> tuple[set[Unit], str | None]:
        """Return all units in the index, and why it is damaged."""
        value, why = read_sealed(self._index, ())
        if value is None:
            return set(), why
        try:
            return {unit_of_text(name, self._index) for name in value["units"]}, None
        except (RecordRefused, KeyError, TypeError, AttributeError):
            return set(), f"{self._index.name} is not a list of units"

    def missing(self, found: Collection[Unit], tables: Collection[str]) -> dict[Unit, dict[str, Any]] | None:
        """Return substitutes for indexed units of these tables that were not found; None if the index is empty."""
        listed, _ = self.units()
        return {unit: lost("its state file is gone") for unit in sorted(listed - set(found)) if unit.table in tables} if listed else None

    @contextmanager
    def indexing(self, known: Callable[[], Collection[Unit]], staged: Collection[Unit], dropped: Collection[Unit]) -> Iterator[None]:
        """Update the index around the moves of a publish, so that after a kill it never lists a unit that was dropped on purpose.

        `known`: all units, if there is no index yet. The caller holds the exclusive lock.
        """
        listed, why = self.units()
        units = set(known()) if why is not None or not self._index.exists() else listed
        if (before := units - set(dropped)) != listed:
            self.index(before)
        yield
        if (after := before | set(staged)) != before:
            self.index(after)

    def index(self, units: Collection[Unit]) -> None:
        """Write the index of units. The caller holds the exclusive lock."""
        write_whole(self._index, _text(seal({"units": sorted("/".join(unit) for unit in units)})).encode())

    @contextmanager
    def _alone(self) -> Iterator[bool]:
        """Yield whether this process is the only one that writes notes meanwhile. The wait is short: notes only save hashing."""
        path = self._home / "verified.lock"
        try:
            opened = open_lock(path)
        except RecordRefused as error:
            log.warning("cannot note what was verified: %s", error)
            yield False
            return
        with opened:
            end = time.monotonic() + NOTE_WAIT
            while not try_lock(opened.fileno()):
                if time.monotonic() > end:
                    log.warning(
                        "cannot note what was verified: another process has held %s for %g s. It will be verified again.", path, NOTE_WAIT
                    )
                    yield False
                    return
                time.sleep(0.02)
            yield True


def _signature_if_there(path: Path) -> Signature | None:
    try:
        return signature_of(path)
    except OSError:  # hashing the file reports the error
        return None


def judge(
    files: Mapping[Unit, tuple[Path, Mapping[str, Any]]], known: KnownDamage, since: float, progress: Callable[[str], None] = lambda _: None
) -> tuple[dict[Unit, tuple[Signature, str]], dict[Unit, str]]:
    """Hash every file that was not hashed at `since` or later.

    Returns (intact units that were hashed now, with their signature and SHA-256; damaged units and why).
    """
    whole, damaged = {}, {}
    for unit, (path, record) in files.items():
        progress(f"verifying {name_of(unit)}")
        signature = _signature_if_there(path)  # before hashing: a file written to meanwhile must not be noted as intact
        why = why_damaged(unit, path, record, known, since=since)
        if why is not None:
            damaged[unit] = why
            continue
        sha256 = str(record["sha256"])
        if signature is not None and not known.is_whole(unit, signature, sha256, since):  # otherwise it keeps the time of its earlier hash
            whole[unit] = (signature, sha256)
    return whole, damaged
