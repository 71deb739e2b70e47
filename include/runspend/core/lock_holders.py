"""Name the holders of a lock file, and wait for a lock with a time limit and a message.

Which locks exist does not belong here. Source: flock(2), proc(5) "/proc/locks", "/proc/pid/fdinfo", "/proc/pid/mountinfo".
"""

from __future__ import annotations

import fcntl
import json
import logging
import os
import random
import socket
import sys
import time
from contextlib import suppress
from datetime import datetime, timezone
from pathlib import Path

from runspend.core.errors import RunspendError

PATIENCE = 5.0  # seconds until a wait reports the holder
LONGEST_PAUSE = 0.02  # seconds between two attempts
UNSEEN = "held by a process that this machine cannot see"

log = logging.getLogger(__name__)


class Patience:
    """A wait with a time limit for one or several locks in turn. It reports the holder once."""

    def __init__(self, purpose: str, wait: float) -> None:
        """`purpose`: the action that needs the lock, after "cannot". `wait`: seconds."""
        self._purpose, self._wait = purpose, wait
        self._started = time.monotonic()
        self._has_reported = False

    def until_locked(self, descriptor: int, kind: int, file: Path, *, behind: Path | None = None) -> None:
        """Wait for the lock of `file`. `behind`: another lock that the holder may be waiting for."""
        pause = 0.001
        while True:
            try:
                fcntl.flock(descriptor, kind | fcntl.LOCK_NB)
            except BlockingIOError:
                self._check(file, behind)
                time.sleep(pause * random.uniform(0.5, 1))  # so that waiting processes do not poll at the same moment
                pause = min(pause * 1.5, LONGEST_PAUSE)
            else:
                return

    def _check(self, file: Path, behind: Path | None) -> None:
        waited = time.monotonic() - self._started
        if waited >= self._wait:
            raise RunspendError(
                f"cannot {self._purpose}: waited {self._wait:g} s for the lock {file}, {_chain(file, behind)}. Nothing was changed. "
                "Run again later, or end that process if it hangs."
            )
        if waited >= PATIENCE and not self._has_reported:
            self._has_reported = True
            log.warning("waiting to %s: the lock %s is %s.", self._purpose, file, _chain(file, behind))


def lock_in_time(descriptor: int, file: Path, purpose: str, wait: float) -> None:
    """Lock a file for this process alone. Raises RunspendError, with the holder's name, after `wait` seconds."""
    Patience(purpose, wait).until_locked(descriptor, fcntl.LOCK_EX, file)


def _chain(file: Path, behind: Path | None) -> str:
    """Name the holder of the lock, and the holder of the lock that they may be waiting for."""
    if behind is None:
        return holders(file)
    found = holders(behind)
    return f"{holders(file)}; the lock that it may wait for, {behind.name}, is {'not held by a process on this machine' if found == UNSEEN else found}"


def holders(file: Path) -> str:
    """Name the holders of the lock: host, pid, command and since when, as far as known."""
    note = _note(file)
    pids = _flock_pids(file)
    if note is not None and (note["host"] != socket.gethostname() or note["pid"] in pids):
        return f"held by pid {note['pid']} on {note['host']} (`{note['command']}`) since {note['since']}"
    if not pids:
        return UNSEEN
    named = [_process(pid) for pid in pids[:3]]
    return f"held by {', '.join(named)}{f' and {len(pids) - 3} more' if len(pids) > 3 else ''} on {socket.gethostname()}"


def sign(descriptor: int) -> None:
    """Write the holder into the lock file, for waiting processes. No arguments: they may be confidential."""
    note = {
        "host": socket.gethostname(),
        "pid": os.getpid(),
        "command": _short([sys.argv[0], *sys.argv[1:]]) if sys.argv else "python",
        "since": f"{datetime.now(timezone.utc):%Y-%m-%d %H:%M:%S} UTC",
    }
    with suppress(OSError):  # the file was opened for reading only, or the disk is full: the lock is valid without a note
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, json.dumps(note).encode(), 0)


def _note(file: Path) -> dict[str, str | int] | None:
    """Return the holder's note; None if it cannot be read."""
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
    """Return the processes of this machine that hold a lock of the file, from the kernel's list; empty if there is no list."""
    try:
        place = _kernel_name(file)
        lines = Path("/proc/locks").read_text(encoding="ascii").splitlines()
    except (OSError, ValueError, KeyError, StopIteration):
        return []
    found = [line.split() for line in lines]
    held = [words for words in found if len(words) > 6 and words[1] == "FLOCK" and words[5] == place]
    return sorted({int(words[4]) for words in held if words[4].isdigit()})


def _kernel_name(file: Path) -> str:
    """Return the file as /proc/locks names it, "fe:00:1234": the device of its mount and its inode there.

    stat(2) may return another device (btrfs, overlay). An inode number alone could be another file on another file system.
    """
    descriptor = os.open(file, os.O_PATH | os.O_CLOEXEC)
    try:
        lines = Path(f"/proc/self/fdinfo/{descriptor}").read_text(encoding="ascii").splitlines()
        fields = dict(line.split(":\t", 1) for line in lines if ":\t" in line)
        inode = fields.get("ino", str(os.fstat(descriptor).st_ino))
    finally:
        os.close(descriptor)
    mounts = (line.split(b" ", 3) for line in Path("/proc/self/mountinfo").read_bytes().splitlines())
    major, minor = next(mount[2] for mount in mounts if mount[0].decode() == fields["mnt_id"]).decode().split(":")
    return f"{int(major):02x}:{int(minor):02x}:{inode}"


def _process(pid: int) -> str:
    """Describe a process of this machine."""
    try:
        words = Path(f"/proc/{pid}/cmdline").read_bytes().decode(errors="replace").split("\0")
        # Field 22 in proc(5): start time in ticks since boot. The command name before it, in brackets, may contain blanks and brackets.
        ticks = int(Path(f"/proc/{pid}/stat").read_bytes().rpartition(b")")[2].split()[19])
    except (OSError, IndexError, ValueError):
        return f"pid {pid}"
    began = time.time() - time.clock_gettime(time.CLOCK_BOOTTIME) + ticks / os.sysconf("SC_CLK_TCK")
    started = datetime.fromtimestamp(began, timezone.utc)
    return f"pid {pid} (`{_short([word for word in words if word])}`, running since {started:%Y-%m-%d %H:%M:%S} UTC)"


def _short(words: list[str]) -> str:
    """Return the program and verb of a command, such as "runspend sql". Its arguments may be confidential."""
    names = [os.path.basename(word) for word in words if not word.startswith("-")]
    if names and names[0].startswith("python"):
        names = names[1:] or names
    verb = names[1] if len(names) > 1 and names[1].isalpha() and len(names[1]) < 20 else ""
    return _clean(f"{names[0] if names else 'python'} {verb}".strip())


def _clean(text: str) -> str:
    """Return text from outside without control characters, which could move the cursor."""
    return "".join(c if c.isprintable() else "?" for c in text)[:120]
