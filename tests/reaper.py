"""Ends all processes that a test run left behind. A run that is killed cannot do so itself.

`start` launches the reaper, a process in its own session. It waits for the end of the run's first process. Then it ends the processes
with the run's mark in their environment, those it saw descend from the run, and the descendants of both. It ends no other process,
because it identifies a process by id and start time.

The reaper runs without site-packages and imports nothing from the repository. On systems other than Linux there is no reaper.
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

MARK = "TESTS_RUN"  # environment variable of all processes of a run
ENDS_WITH = "TESTS_END_WITH"  # environment variable, set by the Makefile: the process id of make; the run ends when make ends
LOOK_SECONDS = 1.0
LEAVING_SECONDS = 1.0  # time in which processes may end by themselves
ENDING_SECONDS = 3.0  # time to end after SIGTERM
KILLING_SECONDS = 30.0


def start() -> None:
    """Put the mark into the environment, and launch the reaper. The first process of a run calls this once."""
    os.environ[MARK] = secrets.token_hex(6)
    if not hasattr(os, "pidfd_open") or not Path("/proc/self/stat").exists():
        return
    with_ = os.environ.pop(ENDS_WITH, "")
    command = [sys.executable, "-I", "-S", __file__, str(os.getpid()), os.environ[MARK], with_, tempfile.gettempdir()]
    nowhere = [(os.POSIX_SPAWN_OPEN, number, os.devnull, os.O_RDWR, 0) for number in (0, 1, 2)]
    # The reaper's environment is empty: without the mark, it does not end itself.
    os.posix_spawn(sys.executable, command, {}, file_actions=nowhere, setsid=True)


def marked() -> dict[str, str]:
    """Return the mark, for processes that do not inherit the environment."""
    return {MARK: os.environ[MARK]} if MARK in os.environ else {}


def make_folder(use: str) -> Path:
    """Make a folder in the system's temporary folder. The reaper removes it if the run did not."""
    return Path(tempfile.mkdtemp(prefix=f"runspend-{os.environ.get(MARK, 'by-hand')}-{use}-"))


def look_at(process: int) -> tuple[int, str] | None:
    """Return a process's parent and its start time in ticks, or None if it does not run."""
    try:
        # the command name in brackets may contain spaces and brackets
        fields = Path("/proc", str(process), "stat").read_bytes().rpartition(b")")[2].split()
    except OSError:
        return None
    return None if fields[0] in (b"Z", b"X") else (int(fields[1]), fields[19].decode())


def living() -> dict[int, tuple[int, str]]:
    """Return every running process with its parent and start time."""
    return {int(name): seen for name in os.listdir("/proc") if name.isdigit() and (seen := look_at(int(name)))}


def with_descendants(roots: set[int], processes: dict[int, tuple[int, str]]) -> set[int]:
    """Return these processes and all their descendants."""
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
    """Return whether a process was started with the mark in its environment."""
    try:
        return f"{MARK}={mark}".encode() in Path("/proc", str(process), "environ").read_bytes().split(b"\0")
    except OSError:  # it has ended, or belongs to another user
        return False


def is_reaper(process: int) -> bool:
    """Return whether a process is a reaper, perhaps of another run inside this run. Reapers end by themselves."""
    try:
        words = Path("/proc", str(process), "cmdline").read_bytes().split(b"\0")
    except OSError:
        return False
    return words[1:3] == [b"-I", b"-S"] and words[3:4] == [os.path.abspath(__file__).encode()]


def of_the_run(mark: str, known: dict[int, str]) -> dict[int, str]:
    """Return the remaining processes of the run with their start times. `known` are those seen before."""
    processes = living()
    roots = still(known, processes) | {process for process in processes if has_mark(process, mark)}
    found = with_descendants(roots, processes) - {os.getpid()}
    return {process: processes[process][1] for process in found if not is_reaper(process)}


def send(process: int, began: str, number: signal.Signals) -> None:
    """Signal a process, unless its id belongs to another process now."""
    with contextlib.suppress(OSError):
        handle = os.pidfd_open(process)
        try:
            seen = look_at(process)  # the handle stays bound to this process
            if seen is not None and seen[1] == began:
                signal.pidfd_send_signal(handle, number)
        finally:
            os.close(handle)


def still(known: dict[int, str], processes: dict[int, tuple[int, str]]) -> set[int]:
    """Return the known processes that still run. A new process that reuses an id does not count."""
    return {process for process, began in known.items() if process in processes and processes[process][1] == began}


def watch(run: int, ends_with: int | None) -> dict[int, str]:
    """Wait for the end of the run, and return its running descendants. If only make has ended, these include the run itself."""
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
    """Yield the signals to send, each with the time to wait: none, then SIGTERM, then SIGKILL."""
    yield None, LEAVING_SECONDS
    yield signal.SIGTERM, ENDING_SECONDS
    yield signal.SIGKILL, KILLING_SECONDS


def end(mark: str, known: dict[int, str]) -> None:
    """End the run's processes until none is left. New ones are found by their mark or their parent."""
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
    """Run the reaper. Its arguments are the id of the run's first process, the mark, the id of make or an empty string, and the temporary folder."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)  # such signals are sent to the run, not to the reaper
    run, mark, ends_with, temporary = sys.argv[1:5]
    end(mark, watch(int(run), int(ends_with) if ends_with else None))
    for folder in Path(temporary).glob(f"runspend-{mark}-*"):
        shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    main()
