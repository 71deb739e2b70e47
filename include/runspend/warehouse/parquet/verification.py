"""Verify that the published files still have the bytes that were published.

Every unit has a state file with the size and the SHA-256 of its Parquet file. The state file, `schema.json` and the index of
all units contain their own checksum. Verification finds every flipped bit, and every file that is missing, truncated or swapped.

docs/benchmarks.md shows the cost of hashing. A pipeline run hashes all files. A reader hashes a file only if its device, inode, size
or modification time differs from the note in `_runspend/verified.json`. A reader therefore finds every file that was written to or
replaced. Two kinds of damage are found only by the next pipeline run: bits that changed on the disk, and a write that restored the
modification time (`touch -r`). Checksums of Parquet pages would not help, because DuckDB neither writes nor checks them
(`tests/faults/test_damage.py` flips bits).

`warehouse.py` and `bucket.py` know where the files are. `pipeline/damage.py` decides what a pipeline run does about damage.
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

# Keys of a state file that was written before state files had a checksum. A state file with any other key and without a valid checksum
# is damaged.
UNSEALED = frozenset({"digest", "rows", "build_id", "extra", "unit", "bytes", "sha256"})
SCHEMA_KEYS = ("version", "tables")
INDEX = Unit("_runspend", "all", "index.json")  # the name of the index in lists of damage
ALTERED = "its bytes are not those that were published"
BEHIND = "columns"  # key of a record: the columns of a file that was damaged when its table got new columns
_hashed: dict[tuple[int, ...], str] = {}  # signature -> SHA-256, of the files that this process hashed
_MOST = 100_000
NOTE_WAIT = 5.0  # seconds to wait for other processes that write notes

log = logging.getLogger(__name__)

Signature = tuple[int, ...]


def name_of(unit: Unit) -> str:
    """Return a unit's readable name, such as "cost_daily 2026-10 all"."""
    return " ".join(unit)


# --- JSON that holds its own checksum ---------------------------------------------------------------------------------


def seal(value: Mapping[str, Any]) -> dict[str, Any]:
    """Return the value with its checksum under the key "check"."""
    plain = json.loads(_text({key: part for key, part in value.items() if key != "check"}))
    return {**plain, "check": hashlib.sha256(_text(plain).encode()).hexdigest()}


def is_sealed(value: Any) -> bool:
    """Whether the value has a checksum that matches its content."""
    return isinstance(value, dict) and isinstance(value.get("check"), str) and seal(value)["check"] == value["check"]


def _text(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, sort_keys=True)


def read_sealed(path: Path, unsealed: Collection[str]) -> tuple[Any, str | None]:
    """Read a JSON file that contains its own checksum.

    Returns (value, None) for an intact file, (None, reason) for a damaged one, and (None, None) if the file does not exist.
    `unsealed`: the keys of files that were written before checksums existed. A file with only these keys needs no checksum.
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
    """Whether the text of a sealed value is exactly the text that was written.

    Hashes the text as read, which is faster than serializing the value again.
    """
    check = value.get("check") if isinstance(value, dict) else None
    return isinstance(check, str) and hashlib.sha256(text.replace(f'"check": "{check}", ', "", 1).encode()).hexdigest() == check


def read_schema(path: Path) -> tuple[dict[str, Any] | None, str | None]:
    """Read `schema.json` as `read_sealed` does. Raises RecordRefused if it is intact, but Runspend would never write this content."""
    value, why = read_sealed(path, SCHEMA_KEYS)
    return (None, why) if value is None else (check_schema(value, path), None)


def read_state(path: Path, unit: Unit) -> dict[str, Any] | None:
    """Return the content of a unit's state file, `lost(reason)` if it is damaged, or None if it does not exist.

    The caller must not change the returned value. Raises RecordRefused if the file is intact, but Runspend would never write this content.
    """
    value, why = read_sealed(path, UNSEALED)
    if why is None and value is not None and (value.get("unit") != list(unit) or value.keys() < UNSEALED):
        why = f"{path.name} is the state file of another unit, or lacks keys"
    if why is not None:
        return lost(why)
    return None if value is None else check_state(value, path, unit)


def as_published(record: Mapping[str, Any]) -> dict[str, Any]:
    """Return the record of a unit as it was published, without the `BEHIND` key that an upgrade may have added."""
    return {key: value for key, value in record.items() if key != BEHIND}


def lost(why: str) -> dict[str, Any]:
    """Return a placeholder for the lost state of a unit. No unit has its digest, and no file has its SHA-256."""
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
    """Return values that change when a file is written to or replaced. All hard links to one file have the same signature."""
    found = path.stat()
    return found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns


@dataclass(frozen=True)
class KnownDamage:
    """What earlier verifications found."""

    whole: Mapping[str, tuple[Signature, str, float]]  # intact unit -> (signature, SHA-256, Unix seconds of its last hash)
    damaged: Mapping[str, str]  # damaged unit -> reason

    def is_whole(self, unit: Unit, signature: Signature, sha256: str, since: float) -> bool:
        """Whether the file with this signature was hashed at `since` or later, and had the hash `sha256`.

        `since`: Unix seconds; 0 accepts a hash of any time. Otherwise a note with a future time does not count: either a clock was
        wrong, or the note is damaged.
        """
        found = self.whole.get("/".join(unit))
        if found is None or "/".join(unit) in self.damaged or found[:2] != (signature, sha256):
            return False
        return since <= 0 or since <= found[2] <= time.time()


NOTHING = KnownDamage({}, {})


def why_damaged(unit: Unit, path: Path, record: Mapping[str, Any], known: KnownDamage, *, since: float | None) -> str | None:
    """Return why a unit's file must not be read, or None if the file is intact.

    `since` (Unix seconds): a file that was noted as intact at that time or later is not hashed again. None: any note counts, and a
    file that this process has hashed is not hashed again either.
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
    """Refuses damaged units before they are read. Verifies each unit only once."""

    def __init__(self, files: Mapping[Unit, tuple[Path, Mapping[str, Any]]], known: KnownDamage) -> None:
        self._files = files
        self._known = known
        self._passed: set[Unit] = set()

    def __call__(self, units: Collection[Unit]) -> None:
        """Verify these units. Raises WarehouseDamaged if any of them is damaged."""
        self._refuse(set(units) - self._passed, None)
        self._passed.update(units)

    def doubt(self, units: Collection[Unit], until: float | None = None) -> bool:
        """Hash these units even if they were verified before. Raises WarehouseDamaged if any of them is damaged.

        Returns False if not all units were hashed by `until` (seconds of the monotonic clock).
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
    """The notes in `_runspend/verified.json`, and the index of all units in `_runspend/index.json`.

    Without the notes, more files are hashed. Without the index, a missing state file is not noticed.
    """

    def __init__(self, home: Path) -> None:
        self._home = home
        self._path = home / "verified.json"
        self._index = home / "index.json"

    def read(self) -> KnownDamage:
        """Return the notes. They are empty if the file does not exist or cannot be read."""
        try:
            value = json.loads(read_bytes(self._path) or b"")
            whole = {str(unit): (tuple(entry[0]), str(entry[1]), float(entry[2])) for unit, entry in value["whole"].items()}
            return KnownDamage(whole, {str(unit): str(why) for unit, why in value["damaged"].items()})
        except (OSError, ValueError, KeyError, TypeError, AttributeError, IndexError, RecursionError, RecordRefused):
            return NOTHING  # without notes, the files are hashed again

    def note(
        self,
        whole: Mapping[Unit, tuple[Signature, str]],
        damaged: Mapping[Unit, str],
        gone: Collection[Unit] = (),
        *,
        hashed_at: float | None = None,
    ) -> None:
        """Record which units were intact or damaged when they were hashed, and remove the notes about units that are gone.

        `hashed_at`: Unix seconds; None: now.
        """
        if not (whole or damaged or gone) or not os.access(self._home, os.W_OK):
            return  # nothing new, or the user may only read
        moment = time.time() if hashed_at is None else hashed_at
        with suppress(OSError), self._alone() as is_ours:  # if the disk is full, for example, the files are hashed again later
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
        """Return the units in the index, and the reason if the index is damaged (otherwise None)."""
        value, why = read_sealed(self._index, ())
        if value is None:
            return set(), why
        try:
            return {unit_of_text(name, self._index) for name in value["units"]}, None
        except (RecordRefused, KeyError, TypeError, AttributeError):
            return set(), f"{self._index.name} is not a list of units"

    def missing(self, found: Collection[Unit], tables: Collection[str]) -> dict[Unit, dict[str, Any]] | None:
        """Return a placeholder (see `lost`) for each indexed unit of these tables that is not in `found`. None if the index is empty."""
        listed, _ = self.units()
        return {unit: lost("its state file is gone") for unit in sorted(listed - set(found)) if unit.table in tables} if listed else None

    @contextmanager
    def indexing(self, known: Callable[[], Collection[Unit]], staged: Collection[Unit], dropped: Collection[Unit]) -> Iterator[None]:
        """Update the index before and after the moves of a publish.

        Dropped units are removed before the moves, and new units are added after them. So even after a kill, the index never lists a
        unit that was dropped on purpose.
        `known` returns all units; it is called if the index is missing or damaged. The caller holds the exclusive lock.
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
        """Yield True while this process is the only one that writes notes, or False if it cannot get the lock.

        It waits at most NOTE_WAIT seconds, because a missing note only means that a file is hashed again.
        """
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
    except OSError:  # `why_damaged` meets the same error and reports it
        return None


def judge(
    files: Mapping[Unit, tuple[Path, Mapping[str, Any]]], known: KnownDamage, since: float, progress: Callable[[str], None] = lambda _: None
) -> tuple[dict[Unit, tuple[Signature, str]], dict[Unit, str]]:
    """Hash every file that was not hashed at `since` (Unix seconds) or later.

    Returns two mappings: intact units that were hashed now -> (signature, SHA-256), and damaged units -> reason.
    """
    whole, damaged = {}, {}
    for unit, (path, record) in files.items():
        progress(f"verifying {name_of(unit)}")
        signature = _signature_if_there(path)  # before hashing, so that a file that is written to meanwhile is not noted as intact
        why = why_damaged(unit, path, record, known, since=since)
        if why is not None:
            damaged[unit] = why
            continue
        sha256 = str(record["sha256"])
        # A file that was not hashed now keeps the time of its earlier hash.
        if signature is not None and not known.is_whole(unit, signature, sha256, since):
            whole[unit] = (signature, sha256)
    return whole, damaged
