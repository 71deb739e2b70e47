"""The locks of a warehouse folder: who may read or publish now, in turn, and who is named when somebody has to wait.

Two files: `lock` is held shared by readers and exclusive by a publisher; `turn` is a turnstile in front of it. Whoever wants
the lock passes the turnstile first and keeps it until the lock is theirs, so that a publisher who waits is next: readers who
come later stand behind it. Always turnstile before lock: no two can wait for each other.

What is done under a lock does not belong here. Source: flock(2), proc(5) "/proc/locks".
"""

from __future__ import annotations

import fcntl
import json
import logging
import os
import random
import socket
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import datetime, timezone
from pathlib import Path

from runspend.errors import RunspendError

__all__ = ["LOCK_MODE", "Locks", "SharedLock", "open_lock"]

LOCK_MODE = 0o660  # minus the umask; nobody else may open a lock, so nobody else can hold it
PATIENCE = 5.0  # seconds after which a wait says who it waits for
READ_WAIT = 300.0  # seconds a reader waits for a publisher …
WRITE_WAIT = 1800.0  # … and a publisher for readers and other publishers
LONGEST_PAUSE = 0.02  # seconds between two looks at a lock

log = logging.getLogger(__name__)


def open_lock(path: Path, *, create: bool = False, mode: int = LOCK_MODE) -> int:
    """A descriptor of a lock file, for reading only where it cannot be written to. What an older version made open to all is closed to others.

    Errors: FileNotFoundError; RunspendError where this user may not open it at all.
    """
    flags = os.O_NOFOLLOW | os.O_CLOEXEC
    try:
        descriptor = os.open(path, os.O_RDWR | flags | (os.O_CREAT if create else 0), mode)
    except FileNotFoundError:
        raise
    except OSError as refused:  # not ours to write, or a disk that cannot be written to
        try:
            return os.open(path, os.O_RDONLY | flags)
        except PermissionError:
            raise RunspendError(
                f"cannot use the warehouse: this user may not open {path}. Nothing was read or changed. "
                "Join the group of that file, or run as somebody who is in it."
            ) from refused
    found = os.fstat(descriptor)
    if found.st_mode & 0o007 and found.st_uid == os.geteuid():
        with suppress(OSError):  # a file system without modes
            os.fchmod(descriptor, found.st_mode & 0o770)
    return descriptor


class Locks:
    """The lock of one folder, with its turnstile."""

    def __init__(self, home: Path) -> None:
        self.file = home / "lock"
        self._turn = home / "turn"

    def make(self) -> None:
        """Make the files, where nobody has yet."""
        for path in (self.file, self._turn):
            os.close(open_lock(path, create=True))

    def shared(self, wait: float = READ_WAIT) -> SharedLock:
        """Nobody publishes until it is released. Many may hold it; keep it for as short as you can: publishers wait."""
        return SharedLock(self._take(fcntl.LOCK_SH, wait, "read"))

    @contextmanager
    def exclusive(self, wait: float = WRITE_WAIT) -> Iterator[None]:
        """Nobody reads or publishes meanwhile."""
        descriptor = self._take(fcntl.LOCK_EX, wait, "publish")
        try:
            _sign(descriptor)
            yield
        finally:
            with suppress(OSError):  # opened for reading only
                os.ftruncate(descriptor, 0)
            os.close(descriptor)

    @contextmanager
    def at_once(self) -> Iterator[bool]:
        """Exclusive if nobody holds it now; False, and no lock, if somebody does."""
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
        """The lock of that kind, its turn waited for. RunspendError that names the holder when it takes longer than `wait` seconds."""
        patience = _Patience(self, wait, purpose)
        with self._turn_taken(patience):
            descriptor = open_lock(self.file)
            try:
                # Whoever is at the turnstile is the only one who asks for the lock: asking now and then is as good as a queue.
                patience.until_locked(descriptor, kind)
            except BaseException:
                os.close(descriptor)
                raise
        return descriptor

    @contextmanager
    def _turn_taken(self, patience: _Patience) -> Iterator[None]:
        turn = self._open_turn()
        try:
            if turn is not None:
                patience.until_locked(turn, fcntl.LOCK_EX)
            yield
        finally:
            if turn is not None:
                os.close(turn)

    def _open_turn(self) -> int | None:
        """None in a folder of an older version that cannot be written to: nobody can publish there either."""
        try:
            return open_lock(self._turn, create=True)
        except FileNotFoundError:
            return None

    def holders(self) -> str:
        """Who holds the lock, in words: host, pid, command and since when, as far as it can be found out."""
        note = _note(self.file)
        pids = _flock_pids(self.file)
        if note is not None and (note["host"] != socket.gethostname() or note["pid"] in pids):
            return f"held by pid {note['pid']} on {note['host']} (`{note['command']}`) since {note['since']}"
        if not pids:
            return "held by somebody this machine cannot see"
        named = [_process(pid) for pid in pids[:3]]
        return f"held by {', '.join(named)}{f' and {len(pids) - 3} more' if len(pids) > 3 else ''} on {socket.gethostname()}"


class SharedLock:
    """A lock that is held; releasing it twice does no harm, nor does another thread that does it."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        self._guard = threading.Lock()
        self.is_held = True

    def release(self) -> None:
        """Let publishers in."""
        with self._guard:
            if self.is_held:
                self.is_held = False
                os.close(self._descriptor)

    def __enter__(self) -> SharedLock:
        return self

    def __exit__(self, *_: object) -> None:
        self.release()


class _Patience:
    """A wait that says once who it waits for, and ends."""

    def __init__(self, locks: Locks, wait: float, purpose: str) -> None:
        self._locks, self._wait, self._purpose = locks, wait, purpose
        self._started = time.monotonic()
        self._has_said = False

    def until_locked(self, descriptor: int, kind: int) -> None:
        """Return when the lock is ours."""
        pause = 0.001
        while True:
            try:
                fcntl.flock(descriptor, kind | fcntl.LOCK_NB)
            except BlockingIOError:
                self._check()
                time.sleep(pause * random.uniform(0.5, 1))  # so that those who wait do not ask in step
                pause = min(pause * 1.5, LONGEST_PAUSE)
            else:
                return

    def _check(self) -> None:
        waited = time.monotonic() - self._started
        root = self._locks.file.parent.parent
        if waited >= self._wait:
            raise RunspendError(
                f"cannot {self._purpose} {root}: waited {self._wait:g} s for its lock, {self._locks.holders()}. Nothing was changed. "
                "Run again later, or end that process if it hangs."
            )
        if waited >= PATIENCE and not self._has_said:
            self._has_said = True
            log.warning("waiting to %s %s: its lock is %s.", self._purpose, root, self._locks.holders())


def _sign(descriptor: int) -> None:
    """Write down who holds the lock, for those who wait. No arguments: they may hold what nobody else should read."""
    note = {
        "host": socket.gethostname(),
        "pid": os.getpid(),
        "command": _short([sys.argv[0], *sys.argv[1:]]) if sys.argv else "python",
        "since": f"{datetime.now(timezone.utc):%Y-%m-%d %H:%M:%S} UTC",
    }
    with suppress(OSError):  # opened for reading only, or a full disk: the lock holds without a note
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, json.dumps(note).encode(), 0)


def _note(file: Path) -> dict[str, str | int] | None:
    """What the holder wrote down; None where that is nothing one could read."""
    try:
        with file.open("rb") as opened:
            value = json.loads(opened.read(4096))
        return {
            "host": _clean(str(value["host"])),
            "pid": int(value["pid"]),
            "command": _clean(str(value["command"])),
            "since": _clean(str(value["since"])),
        }
    except (OSError, ValueError, KeyError, TypeError, RecursionError, OverflowError):
        return None


def _flock_pids(file: Path) -> list[int]:
    """Processes of this machine that hold a lock of the file, by the kernel's list; none where it has no such list."""
    try:
        inode = str(file.stat().st_ino)
        lines = Path("/proc/locks").read_text(encoding="ascii").splitlines()
    except OSError:
        return []
    found = [line.split() for line in lines]
    held = [words for words in found if len(words) > 6 and words[1] == "FLOCK" and words[5].rpartition(":")[2] == inode]
    return sorted({int(words[4]) for words in held if words[4].isdigit()})


def _process(pid: int) -> str:
    """A process of this machine in words."""
    try:
        words = Path(f"/proc/{pid}/cmdline").read_bytes().decode(errors="replace").split("\0")
        started = datetime.fromtimestamp(Path(f"/proc/{pid}").stat().st_mtime, timezone.utc)
    except OSError:
        return f"pid {pid}"
    return f"pid {pid} (`{_short([word for word in words if word])}`, running since {started:%Y-%m-%d %H:%M:%S} UTC)"


def _short(words: list[str]) -> str:
    """A command by its program and verb: "runspend sql". Its arguments may hold what nobody else should read."""
    names = [os.path.basename(word) for word in words if not word.startswith("-")]
    if names and names[0].startswith("python"):
        names = names[1:] or names
    verb = names[1] if len(names) > 1 and names[1].isalpha() and len(names[1]) < 20 else ""
    return _clean(f"{names[0] if names else 'python'} {verb}".strip())


def _clean(text: str) -> str:
    """Text of others that moves no cursor."""
    return "".join(c if c.isprintable() else "?" for c in text)[:120]
