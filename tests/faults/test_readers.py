"""Readers and publishers at the same time: no publish waits for readers, and no reader sees two builds, even if one of them is killed."""

from __future__ import annotations

import contextlib
import os
import random
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from runspend.core.lock_holders import Patience
from runspend.warehouse.parquet.warehouse import ParquetWarehouse
from tests.faults.torture import torn_files
from tests.faults.world import publish_version, versions_seen

REPOSITORY = Path(__file__).parents[2]
READ = """
import sys, time
from pathlib import Path
from tests.faults.world import versions_seen
from runspend.warehouse.factory import open_warehouse
from runspend.core.lock_holders import Patience
from runspend.warehouse.parquet.warehouse import ParquetWarehouse

root, slow = Path(sys.argv[1]), float(sys.argv[2])
print("reading", flush=True)
reads = 0
while True:
    with ParquetWarehouse(root).reader() as reader:
        seen = {r["build_id"] for name in ("cost_daily", "cost_allocations") for r in reader.query(f"select distinct build_id from {name}").to_pylist()}
        assert len(seen) == 1, seen
        time.sleep(slow)
        again = {r["build_id"] for r in reader.query("select distinct build_id from run_costs_daily").to_pylist()}
        assert again == seen, (seen, again)
    reads += 1
    print(reads, flush=True)
"""
PUBLISH = """
import sys, time
from pathlib import Path
from runspend.core.lock_holders import Patience
from tests.faults.world import publish_version
waited = 0.0
until_locked = Patience.until_locked
def timed(*given, **named):
    global waited
    started = time.monotonic()
    until_locked(*given, **named)
    waited += time.monotonic() - started
Patience.until_locked = timed
started = time.monotonic()
publish_version(Path(sys.argv[1]), int(sys.argv[2]))
print(time.monotonic() - started, waited)
"""


@contextlib.contextmanager
def readers(root: Path, count: int, slow: float) -> Iterator[list[subprocess.Popen[str]]]:
    """Start this many processes that read in a loop. On entry, all of them are reading."""
    command = [sys.executable, "-c", READ, str(root), str(slow)]
    started = [subprocess.Popen(command, cwd=REPOSITORY, stdout=subprocess.PIPE, text=True) for _ in range(count)]
    try:
        for process in started:
            assert process.stdout is not None and process.stdout.readline() == "reading\n"
        yield started
    finally:
        for process in started:
            process.kill()
        for process in started:
            process.communicate()


def publish(root: Path, version: int) -> tuple[float, float]:
    """Return the seconds that a publish in its own process took, and how many of them it waited for locks."""
    done = subprocess.run(
        [sys.executable, "-c", PUBLISH, str(root), str(version)], cwd=REPOSITORY, capture_output=True, text=True, check=True, timeout=300
    )
    took, waited = done.stdout.split()
    return float(took), float(waited)


def assert_alive(started: list[subprocess.Popen[str]]) -> None:
    """Check that no reader saw two builds or failed in another way."""
    assert [process.poll() for process in started] == [None] * len(started)


def test_a_publish_does_not_wait_for_readers(tmp_path: Path) -> None:
    """Three readers stay open for a minute. A publish completes meanwhile, and each reader still sees its build."""
    root = tmp_path / "warehouse"
    publish_version(root, 1)
    with readers(root, 3, 60) as started:
        time.sleep(1)
        _, waited = publish(root, 2)
        assert waited < 5
        assert versions_seen(root) == {"build-2"}
        assert_alive(started)


@pytest.mark.torture
@pytest.mark.timeout(1200)
def test_twenty_readers_in_a_loop_hold_no_publish_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Twenty processes only open, query and close. A publish waits for its turn for at most five seconds in total."""
    root = tmp_path / "warehouse"
    waits: list[float] = []
    until_locked = Patience.until_locked

    def timed(*given: Any, **named: Any) -> None:
        started = time.monotonic()
        until_locked(*given, **named)
        waits.append(time.monotonic() - started)

    def publish_again(versions: range) -> tuple[list[float], list[float]]:
        took, waited = [], []
        for version in versions:
            waits.clear()
            started = time.monotonic()
            publish_version(root, version)
            took.append(time.monotonic() - started)
            waited.append(sum(waits))
        return took, waited

    monkeypatch.setattr(Patience, "until_locked", timed)
    alone = publish_again(range(1, 8))
    with readers(root, 20, 0) as started:
        beside = publish_again(range(8, 20))
        assert_alive(started)
    for name, (took, waited) in (("alone", alone), ("beside 20 readers", beside)):
        print(
            f"{name}: publish {statistics.median(took):.2f} s, slowest {max(took):.2f} s; of that waited for locks {statistics.median(waited):.3f} s, longest {max(waited):.3f} s"
        )
    assert max(beside[1]) < 5


@pytest.mark.parametrize("kills", [4, pytest.param(30, marks=[pytest.mark.torture, pytest.mark.timeout(1200)])])
def test_kills_with_live_readers(tmp_path: Path, kills: int) -> None:
    """Publishers and readers are killed at any moment. Every reader still sees one build, and the next command completes the publish."""
    root = tmp_path / "warehouse"
    publish_version(root, 1)
    moments = random.Random(kills)
    points = (
        "publish.staged",
        "publish.before_journal",
        "publish.after_journal",
        "publish.after_first_move",
        "publish.after_moves",
        "publish.after_journal_dropped",
    )
    with readers(root, 3, 0.05) as started:
        for number in range(kills):
            version = number + 2
            environment = {**os.environ, "RUNSPEND_CRASH_AT": points[number % len(points)] if number % 2 else ""}
            process = subprocess.Popen(
                [sys.executable, "-c", PUBLISH, str(root), str(version)], cwd=REPOSITORY, env=environment, stdout=subprocess.DEVNULL
            )
            if number % 2 == 0:
                time.sleep(moments.uniform(0.2, 2.5))
                process.kill()
            process.wait(timeout=120)
            if number % 3 == 2:
                started[0].kill()
                started[0].communicate()
                started[0] = subprocess.Popen(
                    [sys.executable, "-c", READ, str(root), "0.05"], cwd=REPOSITORY, stdout=subprocess.PIPE, text=True
                )
            assert len(versions_seen(root)) == 1
            assert torn_files(root) == []
            assert_alive(started)
    publish_version(root, kills + 2)
    assert versions_seen(root) == {f"build-{kills + 2}"}
    assert ParquetWarehouse(root).find_damage() == {}
    assert not list((root / "_runspend" / "stage").iterdir())
