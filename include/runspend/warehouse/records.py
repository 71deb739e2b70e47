"""Things that must happen once, as one small JSON record per key: an alert decision, a mail, a manifest, a lease.

A record is made only if it is not there and changed only by whoever saw its last state. What the records mean does not
belong here. Files: `<home>/records/<kind>/<slug>.json`.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import re
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from runspend.errors import RunspendError

__all__ = ["Records"]


class Records:
    """Once-only records under a home folder, shared by every process that uses it."""

    def __init__(self, home: Path) -> None:
        self._root = home / "records"

    def create(self, kind: str, key: str, value: dict[str, Any]) -> bool:
        """Make the record. False, and nothing changed, if it is there already. True only once it is on disk."""
        path = self._path(kind, key)
        path.parent.mkdir(parents=True, exist_ok=True)
        scratch = _write_scratch(path, key, value)
        try:
            os.link(scratch, path)  # create-if-absent and never half a file, which O_EXCL alone would not give
        except FileExistsError:
            return False
        finally:
            scratch.unlink()
        _fsync_folder(path.parent)
        return True

    def get(self, kind: str, key: str) -> tuple[dict[str, Any], str] | None:
        """The record and a token of its present state; None when there is none."""
        path = self._path(kind, key)
        try:
            text = path.read_bytes()
        except FileNotFoundError:
            return None
        return _parse(path, text)["value"], _token(text)

    def replace(self, kind: str, key: str, value: dict[str, Any], token: str) -> bool:
        """Change the record if it still is in the state `token` tells of. False, and nothing changed, otherwise."""
        path = self._path(kind, key)
        with self._locked(path.parent):
            try:
                if _token(path.read_bytes()) != token:
                    return False
            except FileNotFoundError:
                return False
            os.replace(_write_scratch(path, key, value), path)
            _fsync_folder(path.parent)
        return True

    def list(self, kind: str) -> dict[str, dict[str, Any]]:
        """Every record of a kind, by key."""
        found = {}
        for path in sorted((self._root / kind).glob("*.json")):
            record = _parse(path, path.read_bytes())
            found[record["key"]] = record["value"]
        return dict(sorted(found.items()))

    def _path(self, kind: str, key: str) -> Path:
        if not re.fullmatch(r"[a-z][a-z0-9_]*", kind):
            raise ValueError(f"cannot keep records of kind {kind!r}: a kind is a lower-case word.")
        readable = re.sub(r"[^A-Za-z0-9.-]+", "-", key).strip("-.")[:80]
        return self._root / kind / f"{readable}-{hashlib.sha256(key.encode()).hexdigest()[:16]}.json"

    @contextmanager
    def _locked(self, folder: Path) -> Iterator[None]:
        folder.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(folder / "lock", os.O_RDWR | os.O_CREAT, 0o644)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            yield
        finally:
            os.close(descriptor)


def _write_scratch(path: Path, key: str, value: dict[str, Any]) -> Path:
    scratch = path.with_name(f".{path.stem}.{uuid.uuid4().hex}.tmp")
    with scratch.open("w", encoding="utf-8") as file:
        # The nonce makes every state's token its own, also when a value comes back to what it was.
        json.dump({"key": key, "value": value, "nonce": uuid.uuid4().hex}, file, ensure_ascii=False, sort_keys=True)
        file.flush()
        os.fsync(file.fileno())
    return scratch


def _parse(path: Path, text: bytes) -> dict[str, Any]:
    try:
        record = json.loads(text)
    except ValueError as error:
        raise RunspendError(f"cannot read the record {path}: {error}. The file is damaged; restore it from a copy.") from error
    if not isinstance(record, dict) or not isinstance(record.get("key"), str) or not isinstance(record.get("value"), dict):
        raise RunspendError(f"cannot read the record {path}: it is not a record. Move it out of the folder.")
    return record


def _token(text: bytes) -> str:
    return hashlib.sha256(text).hexdigest()


def _fsync_folder(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
