"""The locks of a warehouse folder: who may read or publish now, in which order, and which holder is named when a process waits.

There are two files. Readers hold `lock` shared, a publisher holds it exclusively; `turn` is a turnstile in front of it. A process that
waits for the lock passes the turnstile first and keeps it until it has the lock. So a publisher at the turnstile is next, and later
readers wait behind it. `at_once` does not wait and does not use the turnstile. The order is always turnstile before lock, so
two processes cannot wait for each other.

Locks are voluntary: flock(2) only requires that a process can open the file. So an account that may read the warehouse can hold its
lock, even exclusively. The file mode keeps all other accounts out. Every wait has an end and names the holder.

Work under a lock does not belong here; `lock_holders.py` names the holders.
"""

from __future__ import annotations

import errno
import fcntl
import os
import stat
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from runspend.core.errors import RunspendError
from runspend.core.lock_holders import Patience, sign
from runspend.core.own_files import refused

LOCK_MODE = 0o660  # minus the umask; other accounts cannot open a lock, so they cannot hold it
READ_WAIT = 300.0  # seconds a reader waits for a publisher …
WRITE_WAIT = 1800.0  # … and a publisher for readers and other publishers
NOT_A_FILE = (errno.ELOOP, errno.EISDIR, errno.ENXIO)


def open_lock(path: Path, *, create: bool = False, mode: int = LOCK_MODE) -> int:
    """Open a lock file; read-only if it cannot be written to. Removes access for other accounts that an older version granted.

    Errors: FileNotFoundError; RecordRefused for a link or anything other than a file; RunspendError if this user may not open it at all.
    """
    flags = os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC  # do not wait for a pipe
    try:
        descriptor = os.open(path, os.O_RDWR | flags | (os.O_CREAT if create else 0), mode)
    except FileNotFoundError:
        raise
    except OSError as error:
        if error.errno in NOT_A_FILE:
            raise _not_a_file(path) from error
        descriptor = _open_to_read(path, flags, error)
    found = os.fstat(descriptor)
    if not stat.S_ISREG(found.st_mode):
        os.close(descriptor)
        raise _not_a_file(path)
    if found.st_mode & 0o007 and found.st_uid == os.geteuid():
        with suppress(OSError):  # a file system without modes, or one that cannot be written to
            os.fchmod(descriptor, found.st_mode & 0o770)
    return descriptor


def _open_to_read(path: Path, flags: int, error: OSError) -> int:
    """Open a lock that belongs to another account, or is on a read-only disk. It can still be locked."""
    try:
        return os.open(path, os.O_RDONLY | flags)
    except PermissionError:
        raise RunspendError(
            f"cannot use the warehouse: this user may not open {path}. Nothing was read or changed. "
            "Join the group of that file, or run as a user in that group."
        ) from error


def _not_a_file(path: Path) -> RunspendError:
    return refused(path, "it is a link or not a file, and Runspend locks it", do="Remove it, then run the command again.")


class Locks:
    """The lock of one folder, with its turnstile."""

    def __init__(self, home: Path) -> None:
        self.file = home / "lock"
        self._turn = home / "turn"

    def make(self) -> None:
        """Create the files if they do not exist."""
        for path in (self.file, self._turn):
            os.close(open_lock(path, create=True))

    def shared(self, wait: float = READ_WAIT) -> SharedLock:
        """Take the lock shared: nothing is published until it is released. Many readers may hold it. Release it soon: publishers wait."""
        return SharedLock(self._take(fcntl.LOCK_SH, wait, "read"))

    @contextmanager
    def exclusive(self, wait: float = WRITE_WAIT) -> Iterator[None]:
        """Hold the lock exclusively: nothing is read or published meanwhile."""
        descriptor = self._take(fcntl.LOCK_EX, wait, "publish")
        try:
            sign(descriptor)
            yield
        finally:
            with suppress(OSError):  # opened for reading only
                os.ftruncate(descriptor, 0)
            os.close(descriptor)

    @contextmanager
    def at_once(self) -> Iterator[bool]:
        """Yield True with the exclusive lock if it is free now; False, without a lock, if it is not."""
        descriptor = open_lock(self.file)
        try:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                yield False
            else:
                yield True
        finally:
            os.close(descriptor)

    def _take(self, kind: int, wait: float, purpose: str) -> int:
        """Wait for a turn and take the lock. Raises RunspendError that names the holder after `wait` seconds."""
        patience = Patience(f"{purpose} {self.file.parent.parent}", wait)
        with self._turn_taken(patience):
            descriptor = open_lock(self.file)
            try:
                # Only the process at the turnstile polls for the lock, so polling is as fair as a queue.
                patience.until_locked(descriptor, kind, self.file)
            except BaseException:
                os.close(descriptor)
                raise
        return descriptor

    @contextmanager
    def _turn_taken(self, patience: Patience) -> Iterator[None]:
        turn = self._open_turn()
        try:
            if turn is not None:
                patience.until_locked(turn, fcntl.LOCK_EX, self._turn, behind=self.file)
            yield
        finally:
            if turn is not None:
                os.close(turn)

    def _open_turn(self) -> int | None:
        """Open the turnstile; None in a read-only folder of an older version, where publishing is impossible too."""
        try:
            return open_lock(self._turn, create=True)
        except FileNotFoundError:
            return None


class SharedLock:
    """A lock that is held. Releasing it twice, or from another thread, is harmless."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        self._guard = threading.Lock()
        self.is_held = True

    def release(self) -> None:
        """Release the lock, so that publishers can continue."""
        with self._guard:
            if self.is_held:
                self.is_held = False
                os.close(self._descriptor)

    def __enter__(self) -> SharedLock:
        return self

    def __exit__(self, *_: object) -> None:
        self.release()
