"""What holds while one input runs: a time limit, a memory limit, no write outside the work folder, no process, no connection elsewhere.

The audit hook sees what Python does in this process. What DuckDB's own code does, and the one process that may be started (the one that
answers statements over HTTP), it does not see: targets that run SQL compare folders before and after.
"""

from __future__ import annotations

import os
import resource
import signal
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from runspend.core.own_process.call import SERVER

# Event -> which of its arguments are paths, each with the folder descriptor that a relative one counts from (None: it has none).
WRITES: dict[str, dict[int, int | None]] = {
    "os.remove": {0: 1}, "os.rename": {0: 2, 1: 3}, "os.rmdir": {0: 1}, "os.mkdir": {0: 2}, "os.link": {1: 3}, "os.symlink": {1: 2}, "os.truncate": {0: None}, "os.chmod": {0: 2}, "os.chown": {0: 3},
}  # fmt: skip
STARTS = ("subprocess.Popen", "os.system", "os.exec", "os.posix_spawn", "os.fork")
FLAGS = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND
WAITS = 6
SHARED: list[str] = []  # folders outside of work folders where locks may be taken
LOOPBACK = ("127.0.0.1", "localhost", "::1")


class Finding(Exception):
    """An invariant that does not hold."""


class TooSlow(BaseException):
    """The time limit, raised wherever the input is: no `except Exception` of the library swallows it."""


class _Watch:
    """The one audit hook of the process: hooks cannot be removed."""

    def __init__(self) -> None:
        self.allowed: tuple[str, ...] = ()
        self.seen: list[str] = []
        self.is_hooked = False

    def hook(self, event: str, arguments: tuple[Any, ...]) -> None:
        if not self.allowed:
            return
        if event == "open":
            path, mode, flags = arguments
            if isinstance(path, (str, bytes, os.PathLike)) and ((mode and set(mode) & set("wax+")) or (flags or 0) & FLAGS):
                self._check(event, path)
        elif event in WRITES:
            for at, folder_at in WRITES[event].items():
                folder = -1 if folder_at is None else arguments[folder_at]
                self._check(event, arguments[at], folder if isinstance(folder, int) else -1)
        elif event in STARTS:
            if event == "subprocess.Popen" and list(arguments[1])[:2] == [sys.executable, str(SERVER)]:
                return
            self.seen.append(f"{event} {arguments[0]!r}")
        elif event == "socket.connect":
            address = arguments[1]
            if isinstance(address, tuple) and address[0] not in LOOPBACK:
                self.seen.append(f"connection to {address}")

    def _check(self, event: str, path: Any, folder: int = -1) -> None:
        if not isinstance(path, (str, bytes, os.PathLike)):
            return  # a file descriptor
        text = os.path.realpath(os.path.join(f"/proc/self/fd/{folder}" if folder >= 0 else "", os.fsdecode(path)))
        if not text.startswith(self.allowed) and not text.endswith((".pyc", "__pycache__")) and ".pyc." not in text and text != "/dev/null":
            self.seen.append(f"{event} {text}")


_WATCH = _Watch()


@contextmanager
def guarded(*, seconds: float, megabytes: int) -> Iterator[Path]:
    """An empty work folder, below which everything must happen. Raises Finding, or TooSlow.

    `seconds` are the processors', so that a busy machine fails nothing; what only waits has as many times `WAITS`.
    """
    if not _WATCH.is_hooked:
        sys.addaudithook(_WATCH.hook)
        _WATCH.is_hooked = True
    before, where = tempfile.tempdir, os.getcwd()
    with tempfile.TemporaryDirectory(prefix="runspend-fuzz-") as folder:
        work = Path(os.path.realpath(folder))
        (work / "tmp").mkdir()
        tempfile.tempdir = str(work / "tmp")
        _WATCH.seen, _WATCH.allowed = [], (str(work), f"/proc/{os.getpid()}/fd/", *SHARED)
        peak, began = _peak(), time.process_time()
        timers = {signal.SIGPROF: (signal.ITIMER_PROF, seconds), signal.SIGALRM: (signal.ITIMER_REAL, seconds * WAITS)}
        handlers = {number: signal.signal(number, _raise_too_slow) for number in timers}
        for timer, limit in timers.values():
            signal.setitimer(timer, limit)
        try:
            yield work
        finally:
            for number, (timer, _) in timers.items():
                signal.setitimer(timer, 0)
                signal.signal(number, handlers[number])
            _WATCH.allowed = ()
            tempfile.tempdir = before
            os.chdir(where)
        if _WATCH.seen:
            raise Finding(f"it touched what it must not: {'; '.join(_WATCH.seen[:3])}")
        if time.process_time() - began > seconds:
            raise Finding(f"it took more than {seconds:g} s of the processors")
        if _peak() - peak > megabytes:
            raise Finding(f"it took {_peak() - peak} MB of memory, more than {megabytes}")


def _raise_too_slow(*_: object) -> None:
    raise TooSlow


def _peak() -> int:
    """Megabytes of the largest this process ever was."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
