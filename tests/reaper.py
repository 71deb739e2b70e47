"""Ends what a test run started and did not end itself: a run that is killed cannot.

`start` begins a process beside the run, in a session of its own. It waits until the run's first process is gone, however that came
about, and then ends every process of the run: those whose environment has the run's mark, those it saw descend from the run while
that lived, and whatever descends from them. It ends nothing else: a process is known by its id and the moment it began.

It is run without site-packages and imports nothing of the repository. Linux only; elsewhere a killed run leaves its servers behind.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import select
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

MARK = "TESTS_RUN"  # environment variable: whatever has it belongs to the run
ENDS_WITH = "TESTS_END_WITH"  # environment variable, set by the Makefile: the id of make, whose end is the run's end too
LOOK_SECONDS = 1.0
LEAVING_SECONDS = 1.0  # for those that end by themselves
ENDING_SECONDS = 3.0  # for those that are asked to
KILLING_SECONDS = 30.0


def start() -> None:
    """Mark this process's environment, and begin to watch this process. Called once a run, by the process that starts the workers."""
    os.environ[MARK] = secrets.token_hex(6)
    if not hasattr(os, "pidfd_open") or not Path("/proc/self/stat").exists():
        return
    with_ = os.environ.pop(ENDS_WITH, "")
    command = [sys.executable, "-I", "-S", __file__, str(os.getpid()), os.environ[MARK], with_, tempfile.gettempdir()]
    nowhere = [(os.POSIX_SPAWN_OPEN, number, os.devnull, os.O_RDWR, 0) for number in (0, 1, 2)]
    os.posix_spawn(sys.executable, command, {}, file_actions=nowhere, setsid=True)  # no mark: it is not of those it ends


def marked() -> dict[str, str]:
    """The mark, for the environment of a process that gets none of ours."""
    return {MARK: os.environ[MARK]} if MARK in os.environ else {}


def make_folder(use: str) -> Path:
    """A new folder in the system's temporary one, which goes with the run if nobody else removes it."""
    return Path(tempfile.mkdtemp(prefix=f"runspend-{os.environ.get(MARK, 'by-hand')}-{use}-"))


def look_at(process: int) -> tuple[int, str] | None:
    """Its parent, and when it began (in ticks since the machine did). None if it does not run."""
    try:
        # the name in brackets may hold anything
        fields = Path("/proc", str(process), "stat").read_bytes().rpartition(b")")[2].split()
    except OSError:
        return None
    return None if fields[0] in (b"Z", b"X") else (int(fields[1]), fields[19].decode())


def living() -> dict[int, tuple[int, str]]:
    """Every process that runs."""
    return {int(name): seen for name in os.listdir("/proc") if name.isdigit() and (seen := look_at(int(name)))}


def with_descendants(roots: set[int], processes: dict[int, tuple[int, str]]) -> set[int]:
    """These and all that descend from them."""
    found, queue = set(roots), list(roots)
    children: dict[int, list[int]] = {}
    for process, (parent, _) in processes.items():
        children.setdefault(parent, []).append(process)
    while queue:
        for child in children.get(queue.pop(), ()):
            if child not in found:
                found.add(child)
                queue.append(child)
    return found


def has_mark(process: int, mark: str) -> bool:
    """Whether it was started with the mark in its environment."""
    try:
        return f"{MARK}={mark}".encode() in Path("/proc", str(process), "environ").read_bytes().split(b"\0")
    except OSError:  # it is gone, or another user's
        return False


def is_reaper(process: int) -> bool:
    """Whether it watches a run, perhaps one that a test of this run started: it ends when its work is done."""
    try:
        words = Path("/proc", str(process), "cmdline").read_bytes().split(b"\0")
    except OSError:
        return False
    return words[1:3] == [b"-I", b"-S"] and words[3:4] == [os.path.abspath(__file__).encode()]


def of_the_run(mark: str, known: dict[int, str]) -> dict[int, str]:
    """What is left of the run: id and beginning. `known` are those seen before."""
    processes = living()
    roots = still(known, processes) | {process for process in processes if has_mark(process, mark)}
    found = with_descendants(roots, processes) - {os.getpid()}
    return {process: processes[process][1] for process in found if not is_reaper(process)}


def send(process: int, began: str, number: signal.Signals) -> None:
    """Signal a process, if it is still the one that began then."""
    with contextlib.suppress(OSError):
        handle = os.pidfd_open(process)
        try:
            seen = look_at(process)  # the handle is of this process: it cannot become another's now
            if seen is not None and seen[1] == began:
                signal.pidfd_send_signal(handle, number)
        finally:
            os.close(handle)


def still(known: dict[int, str], processes: dict[int, tuple[int, str]]) -> set[int]:
    """Those that live, and are not others that got their ids."""
    return {process for process, began in known.items() if process in processes and processes[process][1] == began}


def watch(run: int, ends_with: int | None) -> dict[int, str]:
    """Wait for the end of the run; those that descended from it and live, itself included if it is make that ended."""
    poll, over = select.poll(), False
    for process in (run, ends_with):
        if process is not None:
            try:
                poll.register(os.pidfd_open(process), select.POLLIN)
            except OSError:
                over = True
    known: dict[int, str] = {}
    if os.getppid() == run and (seen := look_at(run)) is not None:
        known[run] = seen[1]
    else:
        over = True
    while True:
        over = over or bool(poll.poll(LOOK_SECONDS * 1000))
        processes = living()
        known = {process: processes[process][1] for process in with_descendants(still(known, processes), processes)}
        if over:
            return known


def stages() -> Iterator[tuple[signal.Signals | None, float]]:
    """How the rest is ended: what is ending anyway may; what can end in order may; the rest is killed."""
    yield None, LEAVING_SECONDS
    yield signal.SIGTERM, ENDING_SECONDS
    yield signal.SIGKILL, KILLING_SECONDS


def end(mark: str, known: dict[int, str]) -> None:
    """Until nothing of the run is left. A process that appears while others are ended is found by its mark or its parent."""
    for number, seconds in stages():
        asked: dict[int, str] = {}
        until = time.monotonic() + seconds
        while time.monotonic() < until:
            left = of_the_run(mark, known)
            known |= left
            if not left:
                return
            for process, began in left.items():
                if number is not None and (asked.get(process) != began or number == signal.SIGKILL):
                    send(process, began, number)
                    asked[process] = began
            time.sleep(0.05)


def main() -> None:
    """Run's process, its mark, make's process or nothing, the temporary folder."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)  # what is meant for the run, it outlives
    run, mark, ends_with, temporary = sys.argv[1:5]
    end(mark, watch(int(run), int(ends_with) if ends_with else None))
    for folder in Path(temporary).glob(f"runspend-{mark}-*"):
        shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    main()
