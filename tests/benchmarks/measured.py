"""A command run as a process of its own, measured from outside: wall clock, processor seconds, peak memory of its largest process.

Every benchmark measures whole processes with this, ours and those beside them alike. What is run belongs to the benchmarks.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Measured:
    """What one command took, with the processes that it started. `memory_gb`: of the largest of them. `printed`: its standard output."""

    wall: float
    cpu: float
    memory_gb: float
    printed: str

    def __str__(self) -> str:
        return f"{self.wall:.1f} s wall, {self.cpu:.1f} s of processors, {self.memory_gb:.2f} GB at most"


def run_measured(command: Sequence[str], folder: Path) -> Measured:
    """Run a command in `folder` to its end; one that fails is an error with its output."""
    out, err = folder / "measured.out", folder / "measured.err"
    with out.open("wb") as stdout, err.open("wb") as stderr:
        start = time.monotonic()
        process = subprocess.Popen(command, cwd=folder, stdin=subprocess.DEVNULL, stdout=stdout, stderr=stderr)
        memory, ended = 0, 0
        while not ended:
            # Asked again and again, for the rusage of the end counts what the parent had when it forked.
            memory = max(memory, *(_peak_kb(pid) for pid in _family(process.pid)))
            time.sleep(0.02)
            ended, status, used = os.wait4(process.pid, os.WNOHANG)
        wall = time.monotonic() - start
        process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode != 0:
        raise AssertionError(f"{' '.join(command)[:200]} ended with {process.returncode}:\n{out.read_text()}\n{err.read_text()}")
    return Measured(wall, used.ru_utime + used.ru_stime, memory / 2**20, out.read_text())


def _family(pid: int) -> list[int]:
    """A process and all that it started, such as the one that reads a bill."""
    found = [pid]
    for one in found:
        with suppress(OSError):
            for task in Path(f"/proc/{one}/task").iterdir():
                found += [int(child) for child in (task / "children").read_text().split()]
    return found


def _peak_kb(pid: int) -> int:
    """Peak resident memory so far; 0 once the process has ended."""
    with suppress(OSError):
        status = Path(f"/proc/{pid}/status").read_text(encoding="utf-8")
        return next((int(line.split()[1]) for line in status.splitlines() if line.startswith("VmHWM:")), 0)
    return 0


def run_runspend(folder: Path, *arguments: str) -> Measured:
    """One command of the product over `folder`/runspend.yaml, as a person would type it."""
    return run_measured(
        [sys.executable, "-m", "runspend.interfaces.cli", *arguments, "--config", str(folder / "runspend.yaml"), "--quiet"], folder
    )


def run_python(folder: Path, code: str, *arguments: str) -> Measured:
    """A few lines of Python, for what is measured beside the product."""
    return run_measured([sys.executable, "-c", code, *arguments], folder)


def load_average() -> str:
    """How busy the machine was: figures from a busy one are not the product's."""
    return f"{os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}"


def scaled(size: int) -> int:
    """`size`, times $BENCH_SCALE for a quick look; goals are meant at 1."""
    return max(1, int(size * float(os.environ.get("BENCH_SCALE", "1"))))
