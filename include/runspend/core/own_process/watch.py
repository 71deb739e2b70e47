"""Watch a process: how much memory it holds, whether it still works, how long it has taken.

Put here what is measured and when it is too much. Linux tells it in /proc; elsewhere nothing is measured and no limit is kept.

Counted is memory that only the process holds: anonymous, shared and swapped pages. Pages of files it maps are not: the system takes
them back whenever it needs them. A limit of the kernel's own would count address space (RLIMIT_AS, RLIMIT_DATA), of which DuckDB and
Arrow reserve much more than they use, or needs the right to make control groups, which neither a container nor an Airflow task has.
"""

from __future__ import annotations

import contextlib
import os
import signal
import time
from dataclasses import dataclass
from pathlib import Path

LOOK_SECONDS = 0.02  # short: a process fills memory between two looks
ENDS_WITHIN = 10.0  # seconds a killed process has to be gone
COUNTED = ("RssAnon:", "RssShmem:", "VmSwap:")


@dataclass(frozen=True)
class Limits:
    """What a call may take. None is without a limit. `idle_seconds` is how long it may neither compute nor say anything."""

    memory_bytes: int | None = None
    seconds: float | None = None
    idle_seconds: float | None = None


class ProcessFailed(Exception):
    """The process of a call ended without a result. `why` is memory, time, idle or ended; `signal` is what ended it, if one did."""

    def __init__(self, why: str, peak_bytes: int, seconds: float, status: int | None = None) -> None:
        super().__init__(f"its process failed ({why}, status {status}) after {seconds:.1f} s at {peak_bytes} bytes")
        self.why = why
        self.peak_bytes = peak_bytes
        self.seconds = seconds
        self.status = status

    @property
    def signal(self) -> signal.Signals | None:
        """The signal that ended the process."""
        if self.status is None or not os.WIFSIGNALED(self.status):
            return None
        return signal.Signals(os.WTERMSIG(self.status))


def memory_of(process: int) -> int | None:
    """Bytes that only this process holds; None if the process has ended, or the system does not say."""
    try:
        lines = Path(f"/proc/{process}/status").read_text(encoding="ascii", errors="replace").splitlines()
    except OSError:
        return None
    told = {name: int(rest.split()[0]) * 1024 for line in lines if (name := line.split(maxsplit=1)[0]).startswith(("Rss", "Vm")) and (rest := line[len(name) :])}
    return sum(told.get(name, 0) for name in COUNTED) if "RssAnon:" in told else told.get("VmRSS:")


def ticks_of(process: int) -> int | None:
    """Processor time a process took, user and system, in the kernel's ticks."""
    try:
        fields = Path(f"/proc/{process}/stat").read_text(encoding="ascii", errors="replace").rpartition(")")[2].split()
    except OSError:
        return None
    return int(fields[11]) + int(fields[12])


class Watch:
    """One process from its start. `look` is called often; it kills the process when it takes too much."""

    def __init__(self, limits: Limits) -> None:
        self.limits = limits
        self.peak_bytes = 0
        self.broken: str | None = None  # which limit, once the process was killed for it
        self.has_begun = False
        self._killed_at = 0.0
        self._began = self._looked = self._alive = time.monotonic()
        self._ticks: int | None = None
        self._process: int | None = None
        self._handle: int | None = None

    @property
    def seconds(self) -> float:
        """Since the start."""
        return time.monotonic() - self._began

    def begin(self, process: int) -> None:
        """The process that is to be watched; it is alive now, so that its number is its own."""
        self._process, self.has_begun = process, True
        with contextlib.suppress(OSError, AttributeError):  # an old kernel, or not Linux: then by its number
            self._handle = os.pidfd_open(process)

    def heard(self) -> None:
        """It has said something."""
        self._alive = time.monotonic()

    def look(self) -> None:
        """Measure, and kill it for what is too much."""
        now = time.monotonic()
        if self.broken and now - self._killed_at > ENDS_WITHIN:
            raise EOFError  # it waits for a disk that does not answer: nobody waits for it
        if self._process is None or self.broken or now - self._looked < LOOK_SECONDS / 2:
            return
        self._looked = now
        self.peak_bytes = max(self.peak_bytes, memory_of(self._process) or 0)
        ticks = ticks_of(self._process)
        if ticks != self._ticks:
            self._ticks, self._alive = ticks, now
        limits = self.limits
        if limits.memory_bytes is not None and self.peak_bytes > limits.memory_bytes:
            self.broken = "memory"
        elif limits.seconds is not None and now - self._began > limits.seconds:
            self.broken = "time"
        elif limits.idle_seconds is not None and now - self._alive > limits.idle_seconds:
            self.broken = "idle"
        if self.broken:
            self._killed_at = now
            self.kill()

    def kill(self) -> None:
        """End the process at once, if it is there."""
        if self._process is None:
            return
        with contextlib.suppress(ProcessLookupError):
            if self._handle is not None:
                signal.pidfd_send_signal(self._handle, signal.SIGKILL)
            else:
                os.kill(self._process, signal.SIGKILL)

    def end(self) -> None:
        """Nothing is watched any more."""
        if self._handle is not None:
            os.close(self._handle)
            self._handle = None
        self._process = None
