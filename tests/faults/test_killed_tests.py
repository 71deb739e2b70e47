"""A killed test run leaves no process behind: no server, no browser, no daemon."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests import reaper
from tests.servers.ports import is_free

ROOT = Path(__file__).resolve().parents[2]
SECONDS = 20  # seconds in which all processes must end; 2 to 5 on an idle machine
OURS = "TESTS_OF_KILLED_RUNS"  # in the environment of every process of a killed run, except those that hide

#  A test that starts servers and processes that are hard to find or stop: in their own session, orphaned, without the mark, or ignoring
# signals. It then writes a file and never ends.
RUN = """
import os, subprocess, sys, time
from pathlib import Path
import pytest
from tests.servers.s3 import s3_server
from tests.servers.gcs import gcs_server
{imports}

DEAF = "import signal, time; [signal.signal(n, signal.SIG_IGN) for n in (1, 2, 15)]; time.sleep(600)"
ORPHAN = "import os, sys, time; os.fork() and os._exit(0); os.setsid(); os.fork() and os._exit(0); time.sleep(600)"

@pytest.mark.parametrize("number", range({tests}))
def test_that_never_ends(number, request):
    if number % 2 == 0:
        for name in {fixtures}:
            request.getfixturevalue(name)
            with Path({folder!r}, "log").open("a") as log:
                print(name, "is there after", round(time.process_time()), "s of work", file=log, flush=True)
    subprocess.run([sys.executable, "-c", ORPHAN])
    kept = [subprocess.Popen([sys.executable, "-c", DEAF], start_new_session=True)]
    kept += [subprocess.Popen([sys.executable, "-c", DEAF], start_new_session=True, env={{}})]
    time.sleep(2.5)
    Path({folder!r}, f"hidden-{{number}}").write_text(str(kept[1].pid))
    Path({folder!r}, f"ready-{{number}}").touch()
    time.sleep(600)
"""


def words_of(process: int) -> set[bytes]:
    """Return the environment of a process as NAME=value, or nothing if it has ended."""
    try:
        return set(Path("/proc", str(process), "environ").read_bytes().split(b"\0"))
    except OSError:
        return set()


def command_of(process: int) -> str:
    """Return the command of a process, or nothing if it has ended."""
    try:
        return Path("/proc", str(process), "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")[:400]
    except OSError:
        return ""


def watchers(process: int) -> list[int]:
    """Return the reapers that watch a run."""
    words = [str(process).encode()]
    return [p for p in reaper.living() if reaper.is_reaper(p) and Path("/proc", str(p), "cmdline").read_bytes().split(b"\0")[4:5] == words]


class Run:
    """A separate test run, whose tests wait forever."""

    def __init__(self, folder: Path, *, workers: int = 0, make: bool = False, fixtures: tuple[str, ...] = ("s3_server", "gcs_server"), imports: str = "") -> None:  # fmt: skip
        self.folder, self.mark, self.tests = folder, uuid.uuid4().hex, max(workers, 1)
        self.hidden: list[int] = []
        self.marks = {f"{OURS}={self.mark}".encode()}  # and the mark that the run makes for itself: some servers inherit only that
        folder.mkdir()
        (folder / "test_waits.py").write_text(RUN.format(folder=str(folder), tests=self.tests, fixtures=fixtures, imports=imports))
        (folder / "conftest.py").write_text("from tests.conftest import *\n")
        shared = ["-n", str(workers), "--dist", "load"] if workers else []
        options = ["-c", "pyproject.toml", "-m", "''" if make else "", "-q", *shared, str(folder / "test_waits.py")]
        command = [sys.executable, "-m", "pytest", *options]
        if make:
            command = ["make", "--old-file", ".venv/.ready-dev", "torture", f"ARGS={' '.join(options)}"]
        self.environment = {**os.environ, OURS: self.mark}
        self.environment.pop(reaper.MARK, None)
        with (folder / "log").open("wb") as log:
            self.process = subprocess.Popen(
                command, cwd=ROOT, env=self.environment, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True
            )

    def wait_until_ready(self, seconds: float = 150) -> None:
        until = time.monotonic() + seconds
        while not all((self.folder / f"ready-{n}").exists() for n in range(self.tests)):
            assert self.process.poll() is None and time.monotonic() < until, (self.folder / "log").read_text()[-3000:]
            time.sleep(0.1)
        self.hidden = [int((self.folder / f"hidden-{n}").read_text()) for n in range(self.tests)]

    def left(self) -> dict[int, str]:
        """Return the id and the command of its running processes."""
        environments = {process: words_of(process) for process in reaper.living()}
        for words in environments.values():
            if words & self.marks:
                self.marks |= {word for word in words if word.startswith(f"{reaper.MARK}=".encode())}
        return {
            process: command
            for process, words in environments.items()
            if (process in self.hidden or words & self.marks) and (command := command_of(process))
        }

    def end(self) -> None:
        """Kill all processes of this run, even if the test failed."""
        for process in self.left():
            with contextlib.suppress(ProcessLookupError):
                os.kill(process, signal.SIGKILL)
        self.process.wait()

    def wait_until_gone(self) -> float:
        """Return the seconds until no process was left. Fails after `SECONDS`."""
        began = time.monotonic()
        while found := self.left():
            if time.monotonic() > began + SECONDS:
                pytest.fail(f"{len(found)} processes left behind: {found}")
            time.sleep(0.1)
        return time.monotonic() - began


@pytest.fixture
def bystander() -> Iterator[int]:
    """A process that belongs to no run, with a mark similar to one of a run."""
    with subprocess.Popen(["sleep", "600"], env={reaper.MARK: "0123456789ab0"}, start_new_session=True) as process:
        yield process.pid
        process.kill()


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[..., Run]]:
    """Start test runs. The fixture ends them."""
    runs: list[Run] = []

    def start(name: str, **options: Any) -> Run:
        runs.append(Run(tmp_path / name, **options))
        return runs[-1]

    yield start
    for run in runs:
        run.end()


def test_a_killed_run_leaves_nothing_behind(start: Callable[..., Run], bystander: int) -> None:
    """Only the first process of a run gets the signal: pytest, pytest with workers, or make. The runs wait at the same time."""
    runs = [
        (start("int"), signal.SIGINT),
        (start("term"), signal.SIGTERM),
        (start("kill"), signal.SIGKILL),
        (start("workers", workers=2), signal.SIGKILL),
        (start("make", make=True), signal.SIGKILL),
    ]
    for run, _ in runs:
        run.wait_until_ready()
        # pytest, two of S3, one of GCS, an orphan, two in their own sessions
        assert len(run.left()) >= 7, run.left()
    for run, number in runs:
        run.process.send_signal(number)
    for run, _ in runs:
        run.process.wait(60)
    for run, _ in runs:
        run.wait_until_gone()
    assert reaper.look_at(bystander) is not None


def test_a_port_belongs_to_one_test_process_until_that_is_killed() -> None:
    """A server may listen only after a minute. Until then, other processes cannot see that its port is taken."""
    take = "import time; from tests.servers.ports import free_ports; print(*free_ports(8), flush=True); time.sleep(600)"
    with subprocess.Popen([sys.executable, "-c", take], cwd=ROOT, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        theirs = [int(port) for port in process.stdout.readline().split()]
        assert len(theirs) == 8
        assert [port for port in theirs if is_free(port)] == []
        process.kill()
    assert [port for port in theirs if is_free(port)] == theirs


# All servers of the tests, a browser, and all processes of Airflow.
EVERYTHING = """
from tests.ingest.tracking.mlflow_servers import mlflow_on_postgres, mlflow_on_sqlite, postgres
from tests.e2e.test_mail_browser import browser
from tests.e2e.test_standalone import airflow, config
from tests.servers.azure import azure_server

@pytest.fixture
def running_airflow(airflow):
    for _ in range(400):
        if airflow("dags"):
            return
        time.sleep(1)
    pytest.fail("Airflow does not answer")
"""
ALL_SERVERS = (
    "s3_server",
    "gcs_server",
    "azure_server",
    "bigquery_server",
    "mlflow_on_postgres",
    "mlflow_on_sqlite",
    "browser",
    "running_airflow",
)


@pytest.mark.torture
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("make", [False, True], ids=["pytest", "make"])
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL], ids=lambda n: n.name)
def test_no_server_survives_a_killed_run(start: Callable[..., Run], number: signal.Signals, make: bool) -> None:
    """One of two workers starts all of them."""
    run = start("run", workers=2, make=make, fixtures=ALL_SERVERS, imports=EVERYTHING)
    run.wait_until_ready(1500)
    before = run.left()
    words = ("weed", "fake-gcs", "azurite", "bigquery_launcher", "postgres", "chromium", "airflow", "forkserver")
    assert [word for word in words if not any(word in command for command in before.values())] == [], before
    assert len(before) > 20
    if make and number == signal.SIGINT:
        os.killpg(run.process.pid, number)  # as Ctrl-C in a terminal does
    else:
        run.process.send_signal(number)
    run.process.wait(120)
    print(f"{len(before)} processes were gone after {run.wait_until_gone():.1f} s")
