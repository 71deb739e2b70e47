"""Keep a process to its limits: how much memory it holds, whether it still works, how long it has run.

This module measures and enforces limits. It reads /proc of Linux; on other systems it measures nothing and enforces no limit.

Only memory that the process alone holds counts: anonymous, shared and swapped pages. Pages of mapped files do not count, since the
system reclaims them when needed. The kernel's own limits do not work here. RLIMIT_AS and RLIMIT_DATA count address space, of which
DuckDB and Arrow reserve much more than they use. Control groups need rights that neither a container nor an Airflow task has.
"""

from __future__ import annotations

import contextlib
import os
import signal
import time
from dataclasses import dataclass
from pathlib import Path

LOOK_SECONDS = 0.02  # short, since a process can fill memory between two measurements
ENDS_WITHIN = 10.0  # seconds until a killed process must be gone
COUNTED = ("RssAnon:", "RssShmem:", "VmSwap:")


@dataclass(frozen=True)
class Limits:
    """The limits of a call; None means no limit. `idle_seconds` is how long it may neither compute nor send anything."""

    memory_bytes: int | None = None
    seconds: float | None = None
    idle_seconds: float | None = None


class ProcessFailed(Exception):
    """The process of a call ended without a result. `why` is memory, time, idle or ended; `signal` is the signal that ended it, if any."""

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
    """Return the bytes that only this process holds; None if the process has ended or the system does not report it."""
    try:
        lines = Path(f"/proc/{process}/status").read_text(encoding="ascii", errors="replace").splitlines()
    except OSError:
        return None
    bytes_by_name = {
        name: int(rest.split()[0]) * 1024
        for line in lines
        if (name := line.split(maxsplit=1)[0]).startswith(("Rss", "Vm")) and (rest := line[len(name) :])
    }
    return sum(bytes_by_name.get(name, 0) for name in COUNTED) if "RssAnon:" in bytes_by_name else bytes_by_name.get("VmRSS:")


def ticks_of(process: int) -> int | None:
    """Return the processor time of a process, user and system, in the kernel's ticks."""
    try:
        fields = Path(f"/proc/{process}/stat").read_text(encoding="ascii", errors="replace").rpartition(")")[2].split()
    except OSError:
        return None
    return int(fields[11]) + int(fields[12])


class ProcessWatch:
    """Watches one process from its start. Call `look` often; it kills the process when it exceeds a limit."""

    def __init__(self, limits: Limits) -> None:
        self.limits = limits
        self.peak_bytes = 0
        self.broken: str | None = None  # the limit that the process exceeded
        self.has_begun = False
        self._killed_at = 0.0
        self._began = self._looked = self._alive = time.monotonic()
        self._ticks: int | None = None
        self._process: int | None = None
        self._handle: int | None = None

    @property
    def seconds(self) -> float:
        """Return the seconds since the start."""
        return time.monotonic() - self._began

    def begin(self, process: int) -> None:
        """Watch this process. It is alive now, so its process number still belongs to it. Its time begins now: the caller may have started
        the waiting process earlier.
        """
        self._process, self.has_begun = process, True
        self._began = self._alive = time.monotonic()
        with contextlib.suppress(OSError, AttributeError):  # an old kernel, or not Linux: then use its number
            self._handle = os.pidfd_open(process)

    def heard(self) -> None:
        """Note that the process sent something."""
        self._alive = time.monotonic()

    def look(self) -> None:
        """Measure the process, and kill it if it exceeds a limit."""
        now = time.monotonic()
        if self.broken and now - self._killed_at > ENDS_WITHIN:
            raise EOFError  # the killed process waits for a disk that does not answer: give up
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
        """Kill the process at once, if it exists."""
        if self._process is None:
            return
        with contextlib.suppress(ProcessLookupError):
            if self._handle is not None:
                signal.pidfd_send_signal(self._handle, signal.SIGKILL)
            else:
                os.kill(self._process, signal.SIGKILL)

    def end(self) -> None:
        """Stop watching."""
        if self._handle is not None:
            os.close(self._handle)
            self._handle = None
        self._process = None
