"""Records of things that must happen only once, such as an alert decision, a mail, a manifest or a lease. Each is a small JSON file.

A record is created only if it does not exist. It is changed only by a process that has seen its last state. The files are
`<home>/records/<kind>/<slug>.json`. This module does not know what the records mean.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from runspend.core.errors import RecordRefused, RunspendError
from runspend.core.own_files import fsync_path, json_value, open_lock, own_folder, read_bytes, try_lock, write_scratch, write_whole
from runspend.core.own_files import refused as refused_file
from runspend.warehouse.record_shapes import problem_of

MOST_BYTES = 16 << 20  # maximum size of a file; the largest records, 1,000 objects of an archive with the longest names, have 8 MB
LOCK_WAIT = 60.0  # seconds to wait for the lock; changing a record takes milliseconds


class Records:
    """The records in a home folder. All processes that use the folder share them."""

    def __init__(self, home: Path) -> None:
        self._root = home / "records"

    def create(self, kind: str, key: str, value: dict[str, Any]) -> bool:
        """Create the record and return True once it is on disk. Returns False, and changes nothing, if it exists."""
        path = self._path(kind, key)
        own_folder(path.parent)
        scratch = write_scratch(path, _text(key, value))
        try:
            os.link(scratch, path)  # fails if the file exists; unlike O_EXCL alone, it never leaves half a file
        except FileExistsError:
            return False
        finally:
            scratch.unlink()
        fsync_path(path.parent)
        return True

    def get(self, kind: str, key: str) -> tuple[dict[str, Any], str] | None:
        """Return the record and a token of its current state, or None if it does not exist. Raises RecordRefused if it is not valid."""
        path = self._path(kind, key)
        text = read_bytes(path, most_bytes=MOST_BYTES)
        return None if text is None else (self._parse(kind, path, text)[1], _token(text))

    def replace(self, kind: str, key: str, value: dict[str, Any], token: str) -> bool:
        """Change the record if its state still matches `token`, and return True. Otherwise return False and change nothing."""
        path = self._path(kind, key)
        with self._locked(path.parent):
            text = read_bytes(path, most_bytes=MOST_BYTES)
            if text is None or _token(text) != token:
                return False
            write_whole(path, _text(key, value))
        return True

    def list(self, kind: str, refused: list[RecordRefused] | None = None) -> dict[str, dict[str, Any]]:
        """Return all records of a kind, by key.

        The errors of records that are not valid are added to `refused`. Without `refused`, the first one is raised.
        """
        found = {}
        for path in sorted((self._root / kind).glob("*.json")):
            try:
                text = read_bytes(path, most_bytes=MOST_BYTES)
                if text is not None:  # None: another process has removed it meanwhile
                    key, value = self._parse(kind, path, text)
                    found[key] = value
            except RecordRefused as error:
                if refused is None:
                    raise
                refused.append(error)
        return dict(sorted(found.items()))

    def where(self, kind: str, key: str) -> Path:
        """Return the path of a record, to show it to people."""
        return self._path(kind, key)

    def _parse(self, kind: str, path: Path, text: bytes) -> tuple[str, dict[str, Any]]:
        """Return the key and the value of a record. Raises RecordRefused if Runspend would not have written it, or not to this path."""
        record = json_value(text, path)
        if not isinstance(record, dict) or not isinstance(record.get("key"), str) or not isinstance(record.get("value"), dict):
            raise refused_file(path, "it is not a record")
        if self._path(kind, record["key"]) != path:
            raise refused_file(path, f"it is the record of {record['key']!r}")
        if problem := problem_of(kind, record["key"], record["value"]):
            raise refused_file(path, problem)
        return record["key"], record["value"]

    def _path(self, kind: str, key: str) -> Path:
        if not re.fullmatch(r"[a-z][a-z0-9_]*", kind):
            raise ValueError(f"cannot store records of kind {kind!r}: a kind must be a lower-case word.")
        readable = re.sub(r"[^A-Za-z0-9.-]+", "-", key).strip("-.")[:80]
        return self._root / kind / f"{readable}-{hashlib.sha256(key.encode('utf-8', 'surrogatepass')).hexdigest()[:16]}.json"

    @contextmanager
    def _locked(self, folder: Path) -> Iterator[None]:
        own_folder(folder)
        with open_lock(folder / "lock") as lock:
            end = time.monotonic() + LOCK_WAIT
            while not try_lock(lock.fileno()):
                if time.monotonic() > end:
                    raise RunspendError(
                        f"cannot change records in {folder}: waited {LOCK_WAIT:g} s for its lock, which another process holds. Nothing was changed. "
                        f"Run again later, or end that process if it hangs: fuser -v {folder / 'lock'}"
                    )
                time.sleep(0.01)
            yield


def _text(key: str, value: dict[str, Any]) -> bytes:
    # The nonce makes the token of every state unique, even if a value returns to an earlier one.
    return json.dumps({"key": key, "value": value, "nonce": uuid.uuid4().hex}, ensure_ascii=False, sort_keys=True).encode()


def _token(text: bytes) -> str:
    return hashlib.sha256(text).hexdigest()
