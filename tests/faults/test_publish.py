"""A publish killed at any moment leaves the old or the new version, never half, never both. The next command completes it."""

from __future__ import annotations

import contextlib
import errno
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from runspend.schema.tables import TABLES
from runspend.warehouse.base import Unit
from runspend.warehouse.parquet.warehouse import ParquetWarehouse
from tests.accounts import without_rights_of_root
from tests.faults.torture import torn_files, torture
from tests.faults.world import PERIOD, TOGETHER, add_in_rounds, publish_version, rows_of, versions_seen
from tests.forked import run_forked

REPOSITORY = Path(__file__).parents[2]
POINTS = {
    "publish.staged": "old",
    "publish.before_journal": "old",
    "publish.after_journal": "new",
    "publish.after_first_move": "new",
    "publish.after_moves": "new",
    "publish.after_journal_dropped": "new",
}


def world(root: Path, *arguments: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "tests.faults.world", str(root), *arguments]
    return subprocess.Popen(command, cwd=REPOSITORY, stdout=subprocess.PIPE, text=True)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A warehouse with version 1, and a unit that version 2 drops."""
    root = tmp_path / "warehouse"
    publish_gone(root)
    return root


@pytest.mark.parametrize("point", POINTS)
def test_kill_at_each_named_point_leaves_old_or_new(root: Path, point: str) -> None:
    """Until the journal is written, readers see the old version. From then on they see the new one, without dropped units."""
    publish_version(root, 1)
    killed = run_forked("tests.faults.world", str(root), "publish", "2", RUNSPEND_CRASH_AT=point)
    assert killed.returncode == -signal.SIGKILL
    assert torn_files(root) == []
    expected = "build-2" if POINTS[point] == "new" else "build-1"
    assert versions_seen(root) == {expected}
    warehouse = ParquetWarehouse(root)
    assert {state.build_id for unit, state in warehouse.states(*TOGETHER).items() if unit.writer == "all"} == {expected}
    assert (Unit("billing_lines", PERIOD, "gone") in warehouse.states()) == (expected == "build-1")
    assert warehouse.find_damage() == {}
    assert list((root / "_runspend" / "stage").iterdir()) == []
    assert not (root / "_runspend" / "journal.json").exists()


def test_drop_takes_the_file_and_its_state(root: Path) -> None:
    """A dropped unit is in no state, no query and no file."""
    unit = Unit("billing_lines", PERIOD, "gone")
    warehouse = ParquetWarehouse(root)
    assert warehouse.path(unit).exists()
    publish_version(root, 2)
    assert unit not in warehouse.states()
    assert not warehouse.path(unit).exists()
    assert warehouse.read(unit) is None


def test_a_reader_never_sees_two_builds(root: Path) -> None:
    """Versions are published without pause and their writer is killed. Each read comes from one build."""
    moments = random.Random(7)
    version = 1
    publish_version(root, version)
    reads = 0
    for _ in range(6):
        process = world(root, "publish", str(version + 1))
        deadline = time.monotonic() + moments.uniform(0.2, 1.6)
        while time.monotonic() < deadline and process.poll() is None:
            assert len(versions_seen(root)) == 1
            reads += 1
        process.kill()
        process.communicate()
        assert torn_files(root) == []
        (seen,) = versions_seen(root)
        assert seen in (f"build-{version}", f"build-{version + 1}")
        version = int(seen.removeprefix("build-"))
    assert reads >= 6


def test_writers_at_once_end_in_a_serial_order(tmp_path: Path) -> None:
    """Three processes add rows to one unit; no row is lost or doubled, in any order."""
    root = tmp_path / "warehouse"
    writers = {name: world(root, "rounds", name, "6") for name in ("a", "b", "c")}
    for process in writers.values():
        process.communicate()
        assert process.returncode == 0
    rows = ParquetWarehouse(root).read(Unit("bill_changes", PERIOD, "all"))
    assert rows is not None
    assert sorted(rows["source"].to_pylist()) == sorted(f"{name}-{number}" for name in writers for number in range(6))


def test_a_stale_build_is_superseded(tmp_path: Path) -> None:
    """A step that read an older input publishes nothing, and says so."""
    root = tmp_path / "warehouse"
    add_in_rounds(root, "a", 1)
    warehouse = ParquetWarehouse(root)
    unit = Unit("bill_changes", PERIOD, "all")
    read = warehouse.states()[unit].digest
    add_in_rounds(root, "b", 1)
    with warehouse.step("late", "late") as step:
        step.put(*unit, rows_of(TABLES["bill_changes"], count=1, source="late"))
        assert step.publish({unit: read}) is False
    rows = warehouse.read(unit)
    assert rows is not None
    assert sorted(rows["source"].to_pylist()) == ["a-0", "b-0"]


def test_sweep_spares_the_stage_of_a_live_writer(root: Path) -> None:
    """The next opening removes the staging folders of dead processes, and never those of living ones."""
    dead = root / "_runspend" / "stage" / "dead-1"
    dead.mkdir(parents=True)
    (dead / "scrap.parquet").write_bytes(b"scrap")
    with ParquetWarehouse(root).step("live", "live") as step:
        step.put("billing_lines", PERIOD, "live", rows_of(TABLES["billing_lines"], source="live"))
        ParquetWarehouse(root)
        assert not dead.exists()
        assert step.publish()
    assert Unit("billing_lines", PERIOD, "live") in ParquetWarehouse(root).states()


def test_a_disk_that_fails_at_any_call_leaves_old_or_new(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Any file operation of a publish may fail (disk full). The old or the new version is readable, and the next publish succeeds."""
    real = {name: getattr(os, name) for name in ("fsync", "replace", "unlink", "mkdir", "rmdir")}
    calls = 0

    def failing(name: str, at: int) -> Callable[..., object]:
        def call(*arguments: Any, **options: Any) -> object:
            nonlocal calls
            calls += 1
            if calls == at:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            return real[name](*arguments, **options)

        return call

    first, two = tmp_path / "first", TOGETHER[:2]
    publish_version(first, 1, two)
    outcomes = set()
    for number in range(1, 1000):
        root = tmp_path / f"warehouse-{number}"
        shutil.copytree(first, root)
        calls = 0
        with monkeypatch.context() as patch:
            for name in real:
                patch.setattr(os, name, failing(name, number))
            with contextlib.suppress(OSError):
                publish_version(root, 2, two)
        calls_made = calls
        assert torn_files(root) == []
        (seen,) = versions_seen(root, two)
        outcomes.add(seen)
        assert list((root / "_runspend" / "stage").iterdir()) == []
        publish_version(root, 2, two)
        assert versions_seen(root, two) == {"build-2"}
        assert ParquetWarehouse(root).find_damage() == {}
        if calls_made < number:
            break
    assert outcomes == {"build-1", "build-2"}
    assert number > 20


@pytest.mark.parametrize(
    "closed", ["cost_daily/period=2026-10", "_runspend/units/unallocated_costs", "_runspend/units/billing_lines/2026-10"]
)
def test_a_folder_that_may_not_be_written_is_found_before_the_first_move(closed: str) -> None:
    """Another account may have created the folder. A publish that stops after half of its moves would lock out both accounts."""
    with tempfile.TemporaryDirectory(prefix="runspend-publish-") as folder:
        root = Path(folder) / "warehouse"
        publish_version(root, 1)
        publish_gone(root)
        new = root / closed
        if closed.endswith("unallocated_costs"):  # where a folder would have to be created
            shutil.rmtree(new)
            new.mkdir()
        with without_rights_of_root(Path(folder)):
            new.chmod(0o555)
            with pytest.raises(PermissionError, match=closed):
                publish_version(root, 2)
            assert not (root / "_runspend" / "journal.json").exists()
            assert list((root / "_runspend" / "stage").iterdir()) == []
            assert versions_seen(root, TOGETHER[:3]) == {"build-1"}
            new.chmod(0o755)
            publish_version(root, 2)
            assert versions_seen(root) == {"build-2"}


def publish_gone(root: Path) -> None:
    """Publish the unit that version 2 drops."""
    with ParquetWarehouse(root).step("first", "build-1") as step:
        step.put("billing_lines", PERIOD, "gone", rows_of(TABLES["billing_lines"], source="gone", build_id="build-1"))
        step.publish()


def test_torture_finds_equal_digests(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The torture of whole pipeline runs is tried on a small publish. Killed and repeated, it gives the digests of the undisturbed run."""
    monkeypatch.chdir(REPOSITORY)
    root = tmp_path / "state" / "warehouse"
    publish_version(root, 1)
    command = [sys.executable, "-m", "tests.faults.world", str(root), "publish", "2"]
    report = torture(command, state=tmp_path / "state", warehouse=root, kills=4, seed=3, repeat=lambda: publish_version(root, 2))
    assert report.faults == []
    assert report.kills + report.finished == 4


def test_torture_notices_a_difference(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """If a command's result depends on the moment of the kill, torture reports it."""
    monkeypatch.chdir(REPOSITORY)
    root = tmp_path / "state" / "warehouse"
    publish_version(root, 1)
    count = tmp_path / "count"
    script = (
        f"import pathlib; p = pathlib.Path({str(count)!r}); n = int(p.read_text()) + 1 if p.exists() else 2; p.write_text(str(n));"
        f"from tests.faults.world import publish_version; publish_version(pathlib.Path({str(root)!r}), n)"
    )
    report = torture([sys.executable, "-c", script], state=tmp_path / "state", warehouse=root, kills=1, seed=3)
    assert any("unharmed it was" in fault for fault in report.faults)
