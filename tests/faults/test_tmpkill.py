"""A test run that is killed leaves nothing behind: no server, no browser, no process that put itself into the background."""

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

ROOT = Path(__file__).resolve().parents[2]
SECONDS = 20  # within which all must be gone; it takes 2 to 5 on a quiet machine
OURS = "TESTS_OF_KILLED_RUNS"  # in the environment of everything that a killed run starts, but of what hides from it

# A test that starts servers, and processes that hide in four ways: in a session of their own, as an orphan, without a mark, and
# without all of it while deaf to signals. It says so in a file, and never ends.
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


def left(mark: str, *hidden: int) -> dict[int, str]:
    """What still runs of a killed run: id and command."""
    wanted = f"{OURS}={mark}".encode()
    found = {}
    for process in reaper.living():
        try:
            if process in hidden or wanted in Path("/proc", str(process), "environ").read_bytes().split(b"\0"):
                found[process] = Path("/proc", str(process), "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")[:150]
        except OSError:
            continue
    return found


def watchers(process: int) -> list[int]:
    """The reapers that watch a run."""
    words = [str(process).encode()]
    return [p for p in reaper.living() if reaper.is_reaper(p) and Path("/proc", str(p), "cmdline").read_bytes().split(b"\0")[4:5] == words]


class Run:
    """A test run of its own, whose tests all wait."""

    def __init__(self, folder: Path, *, workers: int = 0, make: bool = False, fixtures: tuple[str, ...] = ("s3_server", "gcs_server"), imports: str = "") -> None:  # fmt: skip
        self.folder, self.mark, self.tests = folder, uuid.uuid4().hex, max(workers, 1)
        self.hidden: list[int] = []
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
        return left(self.mark, *self.hidden)

    def end(self) -> None:
        """Whatever the test found: these tests leave nothing behind themselves."""
        for process in self.left():
            with contextlib.suppress(ProcessLookupError):
                os.kill(process, signal.SIGKILL)
        self.process.wait()

    def wait_until_gone(self) -> float:
        """Seconds until nothing was left of it; fails after `SECONDS`."""
        began = time.monotonic()
        while found := self.left():
            if time.monotonic() > began + SECONDS:
                pytest.fail(f"{len(found)} processes left behind: {found}")
            time.sleep(0.1)
        return time.monotonic() - began


@pytest.fixture
def bystander() -> Iterator[int]:
    """A process of somebody else, with a mark that only looks like one of a run."""
    with subprocess.Popen(["sleep", "600"], env={reaper.MARK: "0123456789ab0"}, start_new_session=True) as process:
        yield process.pid
        process.kill()


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[..., Run]]:
    """Start runs; they end with the test, whatever it finds."""
    runs: list[Run] = []

    def start(name: str, **options: Any) -> Run:
        runs.append(Run(tmp_path / name, **options))
        return runs[-1]

    yield start
    for run in runs:
        run.end()


def test_a_killed_run_leaves_nothing_behind(start: Callable[..., Run], bystander: int) -> None:
    """The first process of a run alone gets the signal: pytest, one with workers, or make. All at once, since each mostly waits."""
    runs = [
        (start("int"), signal.SIGINT),
        (start("term"), signal.SIGTERM),
        (start("kill"), signal.SIGKILL),
        (start("workers", workers=2), signal.SIGKILL),
        (start("make", make=True), signal.SIGKILL),
    ]
    for run, _ in runs:
        run.wait_until_ready()
        # pytest, two of S3's, Google's, an orphan, two in sessions of their own
        assert len(run.left()) >= 7, run.left()
    for run, number in runs:
        run.process.send_signal(number)
    for run, _ in runs:
        run.process.wait(60)
    for run, _ in runs:
        run.wait_until_gone()
    assert reaper.look_at(bystander) is not None


# Every server the tests know, a browser, and Airflow with all of its processes.
EVERYTHING = """
from tests.contract.mlflow_servers import mlflow_on_postgres, mlflow_on_sqlite, postgres
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
@pytest.mark.timeout(900)
@pytest.mark.parametrize("make", [False, True], ids=["pytest", "make"])
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL], ids=lambda n: n.name)
def test_no_server_survives_a_killed_run(start: Callable[..., Run], number: signal.Signals, make: bool) -> None:
    """With two workers, of which one has everything."""
    run = start("run", workers=2, make=make, fixtures=ALL_SERVERS, imports=EVERYTHING)
    run.wait_until_ready(600)
    before = run.left()
    words = ("weed", "fake-gcs", "azurite", "bigquery_launcher", "postgres", "chromium", "forkserver")
    assert [word for word in words if not any(word in command for command in before.values())] == [], before
    assert len(before) > 30
    if make and number == signal.SIGINT:
        os.killpg(run.process.pid, number)  # as a terminal does: make itself waits for its children
    else:
        run.process.send_signal(number)
    run.process.wait(120)
    print(f"{len(before)} processes were gone after {run.wait_until_gone():.1f} s")
