"""The manifest of an archive: `manifest.jsonl`, one object per line, next to the copies. A restore needs only these.

The first line names the owner of the archive. The last line has the number, the bytes and the sha256 of the lines before it.
Everyone who can write to the archive can forge a manifest. So `read_manifest` refuses everything that `write_manifest` would not
have written. Other modules read and move the bytes.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from datetime import datetime
from itertools import chain
from typing import Any, Literal, NoReturn, get_args

from runspend.actions.archive.items import Item, OwnerKind
from runspend.core.errors import SourceRefused
from runspend.core.outside_json import parse_json
from runspend.storage.objects import StoredObject, portable_metadata
from runspend.warehouse.plain_values import CONTROL, SHA256

MAX_ENTRIES = 1_000_000  # an item with more objects is neither archived nor restored
MAX_LINE_BYTES = 1 << 16
MAX_MANIFEST_BYTES = 1 << 30
VERSION = 1
# Parts of names that some systems read differently: control characters, backslashes, encoded dots and slashes.
_ODD = re.compile(r"[\x00-\x1f\x7f-\x9f\\\u2028\u2029\ud800-\udfff]|%(?:25)*(?:2e|2f|5c|00)", re.IGNORECASE)

# Field of an entry -> its key in records and manifests, if the two differ.
_STORED_NAMES = {"metadata": "told"}
_FIELD_NAMES = {stored: name for name, stored in _STORED_NAMES.items()}

EntryState = Literal["planned", "copied", "deleted", "tiered", "gone", "changed"]


@dataclass(frozen=True)
class Entry:
    """One object of an item, and its progress. `reason` says why the last step failed."""

    key: str  # below the item's folder; "" is a bucket's marker of that folder itself
    size: int  # bytes
    etag: str
    version: str | None
    storage_class: str
    modified: str  # ISO 8601, UTC
    state: EntryState = "planned"
    sha256: str | None = None  # of the source, equal to that of the copy that was read back
    data: str | None = None  # the copy's key below the archive's folder
    copy_etag: str | None = None  # of the copy that was read back
    metadata: dict[str, str] = field(default_factory=dict, hash=False)  # of the source when it was copied
    changes: int = 0  # how often the source has changed since it was first planned
    reason: str | None = None

    @property
    def is_folder(self) -> bool:
        """Whether the entry is a folder: an empty folder on a disk, or a folder marker in a bucket. It has no bytes."""
        return not self.key or self.key.endswith("/")

    @property
    def is_settled(self) -> bool:
        """Whether nothing is left to do for the object."""
        return self.state in ("deleted", "tiered", "gone", "changed")

    def as_record(self) -> dict[str, Any]:
        """Return the entry in the form of a record."""
        return {_STORED_NAMES.get(name, name): value for name, value in asdict(self).items()}

    @classmethod
    def from_record(cls, value: Mapping[str, Any]) -> Entry:
        """Return the entry of a record, or of a manifest line to which `state` was added."""
        return cls(**{_FIELD_NAMES.get(name, name): one for name, one in value.items()})

    def at(self, prefix: str) -> StoredObject:
        """Return the object with the state in which Runspend last saw it. `prefix` is the item's folder."""
        key = f"{prefix}/{self.key}" if prefix else self.key
        return StoredObject(key, self.size, self.etag, self.version, self.storage_class, datetime.fromisoformat(self.modified))

    def seen_as(self, found: Entry) -> Entry:
        """Return the entry for an object that has changed to `found`.

        After the first change it is planned again. After a further change its state is `changed`, and it stays in its place.
        """
        return replace(found, changes=self.changes + 1, state="planned" if self.changes == 0 else "changed")


@dataclass(frozen=True)
class Manifest:
    """The owner and the entries of an archive. Every entry has `sha256`, `data` and `copy_etag`."""

    archive_id: str
    item: Item
    planned_at: str
    entries: list[Entry]
    written_at: str = ""  # by the archive store's clock; empty if it was not read from a store

    @property
    def bytes(self) -> int:
        """Bytes of the objects in their original place. Equal objects count each time, although they share one copy."""
        return sum(entry.size for entry in self.entries)


def planned_entry(key: str, found: StoredObject) -> Entry:
    """Return a planned entry for a listed object. `key` is its key below the item's folder."""
    return Entry(key, found.size, found.etag, found.version, found.storage_class, found.modified.isoformat())


def check_entry(entry: Entry) -> str | None:
    """Return why an object cannot be archived or restored, or None if it can."""
    if entry.is_folder and entry.size:
        return "it has the name of a folder, but contains bytes"
    return check_key(entry.key) if entry.key else None


def folders_above(keys: Iterable[str]) -> set[str]:
    """Return the keys of all folders above these keys. On a disk, such a folder stays, empty, for a while after its objects are gone."""
    found: set[str] = set()
    for key in keys:
        above = key.removesuffix("/").rpartition("/")[0]
        while above and f"{above}/" not in found:
            found.add(f"{above}/")
            above = above.rpartition("/")[0]
    return found


def check_key(key: str) -> str | None:
    """Return why a key cannot be archived or restored, or None if it can. All stores must read it the same way."""
    parts = key.removesuffix("/").split("/")
    if _ODD.search(key):
        return "it has a control character, a backslash or an encoded separator, such as %2f"
    if any(part in ("", ".", "..") for part in parts):
        return "one of its parts is empty, `.` or `..`"
    if len(key.encode()) > 1000 or any(len(part.encode()) > 255 for part in parts):
        return "it is longer than file systems or buckets allow"
    return None


def write_manifest(archive_id: str, item: Item, planned_at: str, entries: Iterable[Entry], objects: int, size: int) -> Iterator[bytes]:
    """Yield the lines of a manifest. `objects` and `size` are the number and the total bytes of the entries."""
    digest = hashlib.sha256()
    head = {
        "runspend_archive": VERSION,
        "archive_id": archive_id,
        "planned_at": planned_at,
        "item": asdict(item),
        "objects": objects,
        "bytes": size,
    }
    lines = ({name: getattr(entry, name) for name in _LINE} | ({"told": entry.metadata} if entry.metadata else {}) for entry in entries)
    for value in chain([head], lines):
        line = json.dumps(value, ensure_ascii=True).encode() + b"\n"
        digest.update(line)
        yield line
    yield json.dumps({"end": objects, "bytes": size, "sha256": digest.hexdigest()}).encode() + b"\n"


def read_manifest(chunks: Iterable[bytes], where: str) -> Manifest:
    """Return the manifest that `chunks` contain, after checking every line.

    Raises SourceRefused, with the line number, before anything was done with the manifest. `where` names it in errors.
    """
    digest = hashlib.sha256()
    head: dict[str, Any] | None = None
    entries: dict[str, Entry] = {}
    size, is_over = 0, False
    for number, line in enumerate(_lines(chunks, where), 1):
        if is_over:
            _refuse(where, number, "it has text after its end")
        value = _parse(line, where, number)
        if head is None:
            head = _check_head(value, where)
        elif "end" in value:
            if value != {"end": len(entries), "bytes": size, "sha256": digest.hexdigest()}:
                _refuse(where, number, "the count, bytes or hash in its last line do not match the lines before it")
            is_over = True
        else:
            entry = _check_entry(value, where, number)
            if entry.key in entries:
                _refuse(where, number, f"{entry.key!r} is listed twice")
            entries[entry.key] = entry
            size += entry.size
            if len(entries) > min(MAX_ENTRIES, head["objects"]):
                _refuse(where, number, "it has more objects than it states, or than an archive can have")
        digest.update(line)
    if head is None or not is_over:
        _refuse(where, 0, "it ends early")
    if (len(entries), size) != (head["objects"], head["bytes"]):
        _refuse(where, 1, "its content does not match its first line")
    return Manifest(head["archive_id"], Item(**head["item"]), head["planned_at"], list(entries.values()))


_LINE = ("key", "size", "sha256", "data", "copy_etag", "etag", "version", "storage_class", "modified")
_HEAD = {"runspend_archive": int, "archive_id": str, "planned_at": str, "item": dict, "objects": int, "bytes": int}
_OPTIONAL_TEXTS = ("to", "experiment_id", "run_id", "artifact_uri", "storage_class")
_OPTIONAL_NUMBERS = ("objects", "bytes")


def _lines(chunks: Iterable[bytes], where: str) -> Iterator[bytes]:
    held, total, number = b"", 0, 0
    for chunk in chunks:
        total += len(chunk)
        if total > MAX_MANIFEST_BYTES:
            _refuse(where, number, "it is larger than a manifest can be")
        *whole, held = (held + chunk).split(b"\n")
        for line in whole:
            number += 1
            if len(line) > MAX_LINE_BYTES:
                _refuse(where, number, "the line is too long")
            yield line + b"\n"
        if len(held) > MAX_LINE_BYTES:
            _refuse(where, number + 1, "the line is too long")
    if held:
        _refuse(where, number + 1, "it ends early")


def _parse(line: bytes, where: str, number: int) -> dict[str, Any]:
    def once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        if len(dict(pairs)) < len(pairs):
            raise ValueError("it contains a name twice")
        return dict(pairs)

    def no_constant(name: str) -> NoReturn:
        raise ValueError(f"{name} is not a number")

    try:
        value = parse_json(line.decode("utf-8"), object_pairs_hook=once, parse_constant=no_constant)
        json.dumps(value, ensure_ascii=False).encode()  # json accepts half a surrogate pair, which is not valid text
    except ValueError as error:
        _refuse(where, number, f"it is not JSON: {error}")
    if not isinstance(value, dict):
        _refuse(where, number, "it is not an object")
    return value


def _check_head(value: dict[str, Any], where: str) -> dict[str, Any]:
    if value.keys() != _HEAD.keys() or any(type(value[name]) is not kind for name, kind in _HEAD.items()):
        _refuse(where, 1, "its first line is not the header of a manifest")
    if value["runspend_archive"] != VERSION:
        _refuse(where, 1, f"it has format version {value['runspend_archive']}, and this Runspend reads version {VERSION}")
    item = value["item"]
    if item.keys() != {field.name for field in fields(Item)}:
        _refuse(where, 1, "its item has fields that an item does not have")
    for name, found in item.items():
        wanted = (int, type(None)) if name in _OPTIONAL_NUMBERS else (str, type(None)) if name in _OPTIONAL_TEXTS else (str,)
        if type(found) not in wanted:
            _refuse(where, 1, f"{name} of its item is {found!r}")
    if not re.fullmatch(r"[0-9a-f]{32}", value["archive_id"], re.ASCII) or not _is_time(value["planned_at"]):
        _refuse(where, 1, "its id or time is missing")
    if any(CONTROL.search(text) for text in item.values() if isinstance(text, str)):
        _refuse(where, 1, "its item has control characters in it")
    if item["action"] != "archive" or item["owner_kind"] not in get_args(OwnerKind):
        _refuse(where, 1, f"its action {item['action']!r} is not possible on {item['owner_kind']!r}")
    if not item["prefix"] or item["prefix"].endswith("/") or check_key(item["prefix"]):
        _refuse(where, 1, f"its folder is {item['prefix']!r}")
    if value["objects"] < 0 or value["bytes"] < 0:
        _refuse(where, 1, "one of its counts is negative")
    return value


def _check_entry(value: dict[str, Any], where: str, number: int) -> Entry:
    if value.keys() - {"told"} != set(_LINE):
        _refuse(where, number, f"it has fields other than {', '.join(_LINE)} and told")
    for name in _LINE:
        wanted = (int,) if name == "size" else (str, type(None)) if name == "version" else (str,)
        if type(value[name]) not in wanted:
            _refuse(where, number, f"{name} is {value[name]!r}")
    metadata = value.get("told", {})
    if type(metadata) is not dict or any(type(text) is not str for text in metadata.values()) or portable_metadata(metadata) != metadata:
        _refuse(where, number, f"its metadata are {metadata!r}")
    entry = Entry.from_record({**value, "state": "copied"})
    if why := check_entry(entry):
        _refuse(where, number, f"the name {value['key']!r} cannot be restored: {why}")
    if not 0 <= value["size"] < 1 << 60:
        _refuse(where, number, f"the size is {value['size']}")
    if not SHA256.fullmatch(value["sha256"]) or not re.fullmatch(rf"data/{value['sha256']}(-[1-9])?", value["data"], re.ASCII):
        _refuse(where, number, "its copy is not named after its sha256")
    if not _is_time(value["modified"]):
        _refuse(where, number, f"the time is {value['modified']!r}")
    return entry


def _is_time(text: str) -> bool:
    try:
        return datetime.fromisoformat(text).tzinfo is not None
    except ValueError:
        return False


def _refuse(where: str, number: int, why: str) -> NoReturn:
    raise SourceRefused(
        where, f"cannot trust the manifest {where}{f', line {number}' if number else ''}: {why}. Nothing was restored or changed."
    )
