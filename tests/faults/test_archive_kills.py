"""The archive over real folders: killed by SIGKILL at every named point, stopped while another archiver takes over, and without disk space."""

from __future__ import annotations

import errno
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from runspend.actions.archive.items import NOTE_NAME
from runspend.actions.archive.restore import restore
from tests.archive_world import PREFIX
from tests.faults.archiver import FILES, make, run, settings_of
from tests.forked import run_forked

REPOSITORY = Path(__file__).parents[2]
NAMED = re.compile(r'crash_point\("(archive\.[a-z_]+)"\)')
OTHERS = {
    "archive.before_tier",
    "archive.after_tier",
    "archive.tombstone",
    "archive.after_expire",
}  # tests/actions/archive/test_run.py kills it in memory
OTHERS |= {"archive.tagged", "archive.before_prune", "archive.pruned"}  # tests/e2e/test_prune.py kills it with a real MLflow
POINTS = sorted(
    {name for path in (REPOSITORY / "include/runspend/actions/archive").glob("*.py") for name in NAMED.findall(path.read_text())} - OTHERS
)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    make(tmp_path)
    return tmp_path


def start(folder: Path, *arguments: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "tests.faults.archiver", str(folder), *arguments]
    return subprocess.Popen(command, cwd=REPOSITORY, stdout=subprocess.PIPE, text=True)


def here(folder: Path) -> dict[str, bytes]:
    run_folder = folder / "source" / PREFIX
    return {
        str(path.relative_to(run_folder)): path.read_bytes() for path in run_folder.rglob("*") if path.is_file() and path.name != NOTE_NAME
    }


def everything(folder: Path) -> dict[str, tuple[int, bytes]]:
    """Return every file of the stores and of home, with its inode."""
    return {str(path): (path.stat().st_ino, path.read_bytes()) for path in folder.rglob("*") if path.is_file()}


def whole(folder: Path, place: str) -> bool:
    """Check that each byte is in its place or can be restored from the archive."""
    there = here(folder)
    if FILES.items() <= there.items():
        return True
    restore("run1", settings_of(folder), to=folder / place)
    back = {str(path.relative_to(folder / place)): path.read_bytes() for path in (folder / place).rglob("*") if path.is_file()}
    return FILES.items() <= {**back, **there}.items()


def test_the_points_are_those_of_the_code() -> None:
    assert len(POINTS) >= 12 and all(name.startswith("archive.") for name in POINTS), POINTS


@pytest.mark.parametrize("point", [p for p in POINTS if not p.startswith("archive.notice")])
def test_killed_at_a_named_point(folder: Path, point: str) -> None:
    """The archiver is killed in the first and in the second run. Two clean runs then finish the work, and a third one does nothing."""
    killed = run_forked("tests.faults.archiver", str(folder), RUNSPEND_CRASH_AT=point)
    assert killed.returncode == -signal.SIGKILL, f"{point} is never passed"
    assert whole(folder, "back1")
    again = run_forked("tests.faults.archiver", str(folder), RUNSPEND_CRASH_AT=point)
    assert again.returncode in (0, -signal.SIGKILL) and whole(folder, "back2")
    printed = [run(folder), run(folder)]
    assert here(folder) == {} and whole(folder, "back3"), printed
    lease = {name: found for name, found in everything(folder).items() if "archive_lease" not in name}
    assert run(folder) == ["nothing"]
    assert {name: found for name, found in everything(folder).items() if "archive_lease" not in name} == lease, printed


@pytest.fixture
def stop(tmp_path: Path) -> Iterator[Callable[[int], tuple[Path, subprocess.Popen[str]]]]:
    """Start an archiver in its own folder that is stopped in the middle of its work."""
    processes: list[subprocess.Popen[str]] = []

    def stop(number: int) -> tuple[Path, subprocess.Popen[str]]:
        folder = tmp_path / str(number)
        folder.mkdir()
        make(folder)
        process = start(folder, str(number))
        processes.append(process)
        deadline = time.monotonic() + 60
        while "T" not in Path(f"/proc/{process.pid}/stat").read_text().rpartition(")")[2].split()[0]:
            assert process.poll() is None and time.monotonic() < deadline, "it never stopped"
            time.sleep(0.05)
        return folder, process

    yield stop
    for process in processes:
        process.kill()
        process.communicate()


def test_a_holder_that_sleeps_too_long_changes_nothing_when_it_wakes(stop: Callable[[int], tuple[Path, subprocess.Popen[str]]]) -> None:
    """It stops before it asks for the lease the second, fifth, ninth and thirteenth time. It wakes when another archiver has done the work."""
    held = []
    for number in (2, 5, 9, 13):
        folder, holder = stop(number)
        held.append((folder, holder, run_early(folder, holder)))
    time.sleep(2.2)
    for folder, holder, printed in held:
        if printed != "archived\n":  # the first archiver may still hold the lease so soon after
            assert run(folder) == ["archived"]
        before = everything(folder)
        holder.send_signal(signal.SIGCONT)
        output, _ = holder.communicate(timeout=60)
        assert holder.returncode == 5 and "another archiver has taken over" in output
        assert everything(folder) == before
        assert here(folder) == {} and whole(folder, "back")


def run_early(folder: Path, holder: subprocess.Popen[str]) -> str:
    """Run an archiver while another is stopped, and return its output. It is refused until the other's lease ends."""
    early = start(folder)
    printed, _ = early.communicate(timeout=120)
    assert (early.returncode, printed) == (0, "archived\n") or (early.returncode == 5 and f"process {holder.pid}" in printed)
    return printed


def test_no_room_left_at_every_write(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The nth write to the disk fails, for every n until a run has no failure. No byte is lost, and a clean run finishes the work."""
    real, left = os.write, 0

    def write(descriptor: int, data: bytes) -> int:
        nonlocal left
        left -= 1
        if left == 0:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return real(descriptor, data)

    failures = 0
    for number in range(1, 100):
        left = number
        monkeypatch.setattr(os, "write", write)
        states = run(folder)
        monkeypatch.setattr(os, "write", real)
        assert whole(folder, f"back{number}")
        if states in (["archived"], ["nothing"]):
            break
        failures += 1
        assert states in (["partial"], ["failed"])
    assert failures >= 2 and here(folder) == {} and run(folder) == ["nothing"]


def test_a_full_temporary_disk_loses_no_file(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_room(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr("tempfile.SpooledTemporaryFile.write", no_room)
        assert run(folder) == ["partial"]
    assert here(folder) == FILES
    assert run(folder) == ["archived"]
