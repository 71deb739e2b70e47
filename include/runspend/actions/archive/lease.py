"""One archiver at a time: a lease with an increasing number, and stores that check the lease before every change.

If an archiver is suspended for longer than its lease, another one may take over with a higher number. When the first one resumes,
it finds that number and changes nothing. Its pending requests are conditional on an etag, a version or a free key. So they fail, or
they repeat what was done already.

A restore to the original place takes the lease as well. The objects that it writes get a new etag, even in stores that derive the
etag from the bytes. So a pending delete cannot delete restored objects.
"""

from __future__ import annotations

import os
import socket
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

from runspend.core.errors import LeaseLost
from runspend.core.own_files import refused
from runspend.storage.objects import ObjectStore, StoredObject
from runspend.warehouse.records import Records

KIND, KEY = "archive_lease", "lease"
LASTS = timedelta(minutes=15)
LONGEST = timedelta(days=1)  # far longer than a lease plus the difference of two clocks


class Lease(AbstractContextManager["Lease"]):
    """The right to change stores. It is valid while its number is the newest and its time is not over.

    As a context manager, it is released at the end.
    """

    def __init__(self, records: Records, number: int) -> None:
        self.number = number
        self._records = records
        self._renewed_at = time.monotonic()
        self._lock = threading.Lock()

    def check(self) -> None:
        """Raise LeaseLost if this process no longer has the lease. Renews the lease once a third of its duration has passed."""
        with self._lock:
            if not self._is_held():
                raise LeaseLost(
                    "cannot continue archiving: another archiver has taken over. Nothing more was changed; the other archiver finishes the work."
                )

    def _is_held(self) -> bool:
        found = self._records.get(KIND, KEY)
        if found is None or found[0]["number"] != self.number or found[0]["until"] is None:
            return False
        if time.monotonic() - self._renewed_at > LASTS.total_seconds() / 3:
            if not self._records.replace(KIND, KEY, _holder(self.number), found[1]):
                return False
            self._renewed_at = time.monotonic()
        return True

    def release(self) -> None:
        """End the lease, so that the next archiver can begin at once."""
        found = self._records.get(KIND, KEY)
        if found is not None and found[0]["number"] == self.number:
            self._records.replace(KIND, KEY, {**found[0], "until": None}, found[1])

    def __exit__(self, *error: object) -> None:
        self.release()


def take_lease(records: Records, *, to: str = "archive") -> Lease:
    """Take the lease, with a higher number than any lease before, and return it. `to` is its purpose, as a verb for errors.

    Raises LeaseLost while another process has the lease. A process on this machine loses the lease when it ends. A process on another
    machine keeps it until its time is over.
    """
    records.create(KIND, KEY, {"number": 0, "until": None})
    found = records.get(KIND, KEY)
    assert found is not None
    held, token = found
    _check(held, records)
    if held["until"] is not None and datetime.fromisoformat(held["until"]) > datetime.now(timezone.utc) and not _is_gone(held):
        raise LeaseLost(
            f"cannot {to}: process {held['process']} on {held['host']} is archiving or restoring (until {held['until'][:16]} at least). "
            "Wait for it, then try again. Nothing was changed."
        )
    number = held["number"] + 1
    if not records.replace(KIND, KEY, _holder(number), token):
        raise LeaseLost(f"cannot {to}: another archive or restore has just begun. Wait for it, then try again. Nothing was changed.")
    return Lease(records, number)


def _check(held: dict[str, Any], records: Records) -> None:
    """Raise RecordRefused for a lease that ends too far in the future, because every archiver would wait for it.

    A lease whose process has ended is accepted, because no archiver waits for it.
    """
    if held["until"] is None:
        return
    if not {"host", "process", "machine", "began"} <= held.keys():
        raise refused(records.where(KIND, KEY), "it does not name the process that has the lease")
    if datetime.fromisoformat(held["until"]) > datetime.now(timezone.utc) + LONGEST and not _is_gone(held):
        do = "Make sure that no archive or restore is running, then move the record away."
        raise refused(records.where(KIND, KEY), f"it ends at {held['until'][:16]}, later than any lease can", do=do)


def _holder(number: int) -> dict[str, Any]:
    until = datetime.now(timezone.utc) + LASTS
    return {
        "number": number,
        "until": until.isoformat(),
        "host": socket.gethostname(),
        "process": os.getpid(),
        "machine": _machine(),
        "began": _began(os.getpid()),
    }


def _is_gone(held: dict[str, Any]) -> bool:
    """Whether the process that has the lease was started on this machine since its last boot, and has ended."""
    return held["machine"] is not None and held["machine"] == _machine() and _began(held["process"]) != held["began"]


def _machine() -> str | None:
    """Return the boot id and the pid namespace: within both, a process number with its start tick is unique. None without /proc."""
    try:
        return f"{Path('/proc/sys/kernel/random/boot_id').read_text().strip()} {os.readlink('/proc/self/ns/pid')}"
    except OSError:
        return None


def _began(process: int) -> str | None:
    """Return the clock tick at which a process began, or None if it has ended."""
    try:
        state, *fields = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return None
    return None if state in "ZX" else fields[18]


class FencedObjects:
    """A store whose methods check the lease before every change."""

    def __init__(self, store: ObjectStore, check: Callable[[], None]) -> None:
        self.uri = store.uri
        self._store, self._check = store, check

    def list(self, folder: str) -> Iterator[StoredObject]:
        return self._store.list(folder)

    def folders(self, folder: str) -> Iterator[str]:
        return self._store.folders(folder)

    def head(self, key: str) -> StoredObject | None:
        return self._store.head(key)

    def read(self, obj: StoredObject) -> Iterator[bytes]:
        return self._store.read(obj)

    def clock(self) -> datetime:
        return self._store.clock()

    def renew(self, obj: StoredObject) -> StoredObject:
        self._check()
        return self._store.renew(obj)

    def why_no_tier(self) -> str | None:
        return self._store.why_no_tier()

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
        self._check()
        return self._store.write(key, chunks, size=size, storage_class=storage_class, unlike=unlike, metadata=metadata)

    def delete(self, obj: StoredObject) -> None:
        self._check()
        self._store.delete(obj)

    def set_class(self, obj: StoredObject, storage_class: str) -> StoredObject:
        self._check()
        return self._store.set_class(obj, storage_class)

    def prune(self, folder: str) -> None:
        self._check()
        self._store.prune(folder)
