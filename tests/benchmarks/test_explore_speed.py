"""The pages over a year: 1 million runs x 10 million lines in twelve months.

Goals on two quiet cores: a view of the newest month by team and experiment, compared with the month before, within 1 s; a search within
1 s; a run's page within 1.5 s; and fifty people at once, in bounded memory.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import duckdb
import httpx
import pytest

from tests.benchmarks.ledger_world import MONTH, NOW, make_ledger_year
from tests.benchmarks.measured import load_average, run_runspend, scaled
from tests.servers.ports import free_port

pytestmark = [pytest.mark.bench, pytest.mark.timeout(7200)]

RUNS, LINES = 1_000_000, 10_000_000
PEOPLE = 50
TIMES = 7


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The year, allocated. `EXPLORE_YEAR` names a folder that has one already."""
    if "EXPLORE_YEAR" in os.environ:
        yield Path(os.environ["EXPLORE_YEAR"])
        return
    folder = tmp_path_factory.mktemp("explore") / "year"
    make_ledger_year(folder, runs=scaled(RUNS), lines=scaled(LINES))
    run_runspend(folder, "allocate", "--now", f"{NOW:%Y-%m-%dT%H:%M}")
    yield folder
    shutil.rmtree(folder)  # gigabytes


@pytest.fixture(scope="module")
def server(folder: Path) -> Iterator[tuple[str, int]]:
    """Address and process id of `runspend serve`."""
    port = free_port()
    command = [sys.executable, "-m", "runspend.interfaces.cli", "serve", "--port", str(port), "--config", str(folder / "runspend.yaml")]
    process = subprocess.Popen(command, cwd=folder, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    address = f"http://127.0.0.1:{port}"
    try:
        for _ in range(600):
            with contextlib.suppress(httpx.TransportError):
                httpx.get(f"{address}/health")
                break
            time.sleep(0.1)
        yield address, process.pid
    finally:
        process.terminate()
        process.wait()


def peak_gb(pid: int) -> float:
    """Peak resident memory of a process so far."""
    status = Path(f"/proc/{pid}/status").read_text(encoding="utf-8")
    return next(int(line.split()[1]) for line in status.splitlines() if line.startswith("VmHWM:")) / 2**20


def addresses(folder: Path) -> dict[str, str]:
    """Pages by what they are."""
    costs = f"'{folder}/warehouse/run_costs/period={MONTH}/all.parquet'"
    ((run, name), *_) = duckdb.execute(
        f"select run_id, run_name from {costs} where effective_cost > 0 order by run_id limit 1 offset {scaled(RUNS) // 24}"
    ).fetchall()
    return {
        "the home page": "/",
        "by team and experiment, compared": "/explore?by=team,experiment",
        "by user, compared": "/explore?by=user",
        "by machine, compared": "/explore?by=machine",
        "by team, twelve months": "/explore?by=team&from=2025-11-01&to=2026-10-30",
        "a search": f"/search?q={name}",
        "a run": f"/run/{run}",
    }


def test_each_page(folder: Path, server: tuple[str, int]) -> None:
    """Median and slowest of seven, one after the other, after a first one."""
    address, pid = server
    for what, path in addresses(folder).items():
        httpx.get(f"{address}{path}", timeout=120)
        took = []
        for _ in range(TIMES):
            begin = time.monotonic()
            assert httpx.get(f"{address}{path}", timeout=120).status_code == 200
            took.append(time.monotonic() - begin)
        print(f"\n  {what}: median {statistics.median(took):.2f} s, slowest {max(took):.2f} s [{load_average()}]")
    print(f"\n  memory at most: {peak_gb(pid):.2f} GB")


def test_fifty_people_at_once_all_get_a_page(folder: Path, server: tuple[str, int]) -> None:
    """All open the newest month, each with another filter: everyone gets a page, in their turn."""
    address, pid = server

    def visit(person: int) -> tuple[int, float]:
        begin = time.monotonic()
        answer = httpx.get(f"{address}/explore?by=experiment&team=team-{person % 40}&top={50 + person}", timeout=120)
        return answer.status_code, time.monotonic() - begin

    with ThreadPoolExecutor(PEOPLE) as people:
        answers = list(people.map(visit, range(PEOPLE)))
    shown = sorted(took for status, took in answers if status == 200)
    print(
        f"\n  {len(shown)} of {PEOPLE} pages shown, median {statistics.median(shown):.1f} s, slowest {shown[-1]:.1f} s,"
        f" memory at most {peak_gb(pid):.2f} GB [{load_average()}]"
    )
    assert {status for status, _ in answers} <= {200, 503}
