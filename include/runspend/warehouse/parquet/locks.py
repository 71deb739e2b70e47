"""The locks of a warehouse folder. They decide which process may read or publish now, and which process is next.

There are two lock files. Readers hold `lock` shared, and a publisher holds it exclusively. `turn`, the turnstile, sets the order:
a process takes `turn` before it waits for `lock`, and releases `turn` once it has `lock`. So a publisher that holds `turn` is next, and
later readers wait behind it. Every process takes `turn` before `lock`, so two processes cannot wait for each other. `at_once` does not
wait and does not use `turn`.

The locks are advisory: flock(2) only requires that a process can open the file. So every account that may read the warehouse can hold its
lock, even exclusively. The file mode keeps all other accounts out. Every wait is limited, and its error names the holder.

`lock_holders.py` names the holders.
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

LOCK_MODE = 0o660  # minus the umask; accounts outside the group cannot open a lock file, so they cannot hold the lock
READ_WAIT = 300.0  # seconds that a reader waits for a publisher
WRITE_WAIT = 1800.0  # seconds that a publisher waits for readers and other publishers
NOT_A_FILE = (errno.ELOOP, errno.EISDIR, errno.ENXIO)


def open_lock(path: Path, *, create: bool = False, mode: int = LOCK_MODE) -> int:
    """Return the descriptor of a lock file. It is read-only if this user may not write to the file.

    If an older version gave accounts outside the group access to the file, this access is removed.

    Raises FileNotFoundError if the file does not exist, RecordRefused if it is a link or not a regular file, and RunspendError if this
    user may not open it.
    """
    flags = os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC  # O_NONBLOCK, so that opening a pipe does not wait
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
        with suppress(OSError):  # the file system may have no modes or be read-only
            os.fchmod(descriptor, found.st_mode & 0o770)
    return descriptor


def _open_to_read(path: Path, flags: int, error: OSError) -> int:
    """Open a lock file for reading, because it belongs to another account or is on a read-only disk. It can still be locked."""
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
    """The two lock files of one folder."""

    def __init__(self, home: Path) -> None:
        self.file = home / "lock"
        self._turn = home / "turn"

    def make(self) -> None:
        """Create the lock files if they do not exist."""
        for path in (self.file, self._turn):
            os.close(open_lock(path, create=True))

    def shared(self, wait: float = READ_WAIT) -> SharedLock:
        """Take the lock shared. Nothing is published until it is released. Several readers may hold it at the same time.

        Release it soon, because publishers wait for it.
        """
        return SharedLock(self._take(fcntl.LOCK_SH, wait, "read"))

    @contextmanager
    def exclusive(self, wait: float = WRITE_WAIT) -> Iterator[None]:
        """Hold the lock exclusively. Meanwhile no other process opens files or publishes."""
        descriptor = self._take(fcntl.LOCK_EX, wait, "publish")
        try:
            sign(descriptor)
            yield
        finally:
            with suppress(OSError):  # the descriptor may be read-only
                os.ftruncate(descriptor, 0)
            os.close(descriptor)

    @contextmanager
    def at_once(self) -> Iterator[bool]:
        """Yield True and hold the exclusive lock if it is free now. Otherwise yield False without a lock."""
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
        """Take `turn`, then the lock. Raises RunspendError, which names the holder, after `wait` seconds."""
        patience = Patience(f"{purpose} {self.file.parent.parent}", wait)
        with self._turn_taken(patience):
            descriptor = open_lock(self.file)
            try:
                # Only the process that holds `turn` polls for the lock, so a later process cannot get the lock first.
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
        """Open `turn`. Returns None in a read-only folder of an older version, which has no such file and cannot be published to."""
        try:
            return open_lock(self._turn, create=True)
        except FileNotFoundError:
            return None


class SharedLock:
    """A shared lock that is held. It may be released twice, and from another thread."""

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
