"""The manifest of an archive: `manifest.jsonl`, one object per line, next to the copies. A restore needs nothing else.

The first line names the owner of the archive; the last line counts and hashes everything before it. Anyone who can write to the
archive could forge a manifest, so `read_manifest` refuses everything that `write_manifest` would not have written. Other modules
read and move the bytes.
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

MAX_ENTRIES = 1_000_000  # more entries are neither archived nor restored
MAX_LINE_BYTES = 1 << 16
MAX_MANIFEST_BYTES = 1 << 30
VERSION = 1
# Names that some system reads in a second way: control characters, backslashes, encoded dots and slashes.
_ODD = re.compile(r"[\x00-\x1f\x7f-\x9f\\\u2028\u2029\ud800-\udfff]|%(?:25)*(?:2e|2f|5c|00)", re.IGNORECASE)

# Field of an entry -> its key in records and manifests, where it differs.
_STORED_NAMES = {"metadata": "told"}
_FIELD_NAMES = {stored: name for name, stored in _STORED_NAMES.items()}

EntryState = Literal["planned", "copied", "deleted", "tiered", "gone", "changed"]


@dataclass(frozen=True)
class Entry:
    """One object of an item, and its progress. `reason` says why it did not get further."""

    key: str  # below the item's folder; "" is a bucket's marker of that folder itself
    size: int  # bytes
    etag: str
    version: str | None
    storage_class: str
    modified: str  # ISO 8601, UTC
    state: EntryState = "planned"
    sha256: str | None = None  # of what was read from the source, and read back from the archive
    data: str | None = None  # the copy's key below the archive's folder
    copy_etag: str | None = None  # of the copy that was read back
    metadata: dict[str, str] = field(default_factory=dict, hash=False)  # the object's, when it was copied
    changes: int = 0  # how often the source changed after it was planned
    reason: str | None = None

    @property
    def is_folder(self) -> bool:
        """Whether it is a folder: an empty one on a disk, or a bucket's marker of one. It has no bytes."""
        return not self.key or self.key.endswith("/")

    @property
    def is_settled(self) -> bool:
        """Whether there is nothing left to do."""
        return self.state in ("deleted", "tiered", "gone", "changed")

    def as_record(self) -> dict[str, Any]:
        """Return the entry as records keep it."""
        return {_STORED_NAMES.get(name, name): value for name, value in asdict(self).items()}

    @classmethod
    def from_record(cls, value: Mapping[str, Any]) -> Entry:
        """Return the entry of a record, or of a line of a manifest with its `state`."""
        return cls(**{_FIELD_NAMES.get(name, name): one for name, one in value.items()})

    def at(self, prefix: str) -> StoredObject:
        """Return the object in the state that the store last showed."""
        key = f"{prefix}/{self.key}" if prefix else self.key
        return StoredObject(key, self.size, self.etag, self.version, self.storage_class, datetime.fromisoformat(self.modified))

    def seen_as(self, found: Entry) -> Entry:
        """Return the entry of an object that changed: planned again, but only once."""
        return replace(found, changes=self.changes + 1, state="planned" if self.changes == 0 else "changed")


@dataclass(frozen=True)
class Manifest:
    """The owner and the entries of an archive. Entries have sha256, data and copy_etag."""

    archive_id: str
    item: Item
    planned_at: str
    entries: list[Entry]
    written_at: str = ""  # by the archive store's clock, where it was read from one

    @property
    def bytes(self) -> int:
        """Bytes of the objects in their original place: equal objects count each time."""
        return sum(entry.size for entry in self.entries)


def planned_entry(key: str, found: StoredObject) -> Entry:
    """Return the entry of a listed object, under its key below the item's folder."""
    return Entry(key, found.size, found.etag, found.version, found.storage_class, found.modified.isoformat())


def check_entry(entry: Entry) -> str | None:
    """Return why an object cannot be archived or restored, None when it can."""
    if entry.is_folder and entry.size:
        return "it has the name of a folder, but contains bytes"
    return check_key(entry.key) if entry.key else None


def folders_above(keys: Iterable[str]) -> set[str]:
    """Return the folders that hold these keys, as keys. On a disk, they stay empty for a while after their objects are gone."""
    found: set[str] = set()
    for key in keys:
        above = key.removesuffix("/").rpartition("/")[0]
        while above and f"{above}/" not in found:
            found.add(f"{above}/")
            above = above.rpartition("/")[0]
    return found


def check_key(key: str) -> str | None:
    """Return why a key cannot be archived or restored, None when it can: every store must read it the same way."""
    parts = key.removesuffix("/").split("/")
    if _ODD.search(key):
        return "it has a control character, a backslash or an encoded separator in it"
    if any(part in ("", ".", "..") for part in parts):
        return "it has an empty part, or one of dots only"
    if len(key.encode()) > 1000 or any(len(part.encode()) > 255 for part in parts):
        return "it is longer than file systems or buckets allow"
    return None


def write_manifest(archive_id: str, item: Item, planned_at: str, entries: Iterable[Entry], objects: int, size: int) -> Iterator[bytes]:
    """Yield the lines of a manifest. `objects` and `size` are the number of entries and their total bytes."""
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
    """Read a manifest and check its consistency. Raises SourceRefused with the line number; nothing in it was acted on then."""
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
                _refuse(where, number, "the count and hash in its last line do not match the lines before")
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
            _refuse(where, number, "it is larger than any manifest")
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
        json.dumps(value, ensure_ascii=False).encode()  # json accepts half a surrogate pair as text; nothing else does
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
        _refuse(where, number, "its bytes are not named by their sha256")
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
