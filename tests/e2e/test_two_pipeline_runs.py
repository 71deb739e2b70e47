"""Two pipeline runs of one home at the same time: the tables are those of one run alone."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from runspend.warehouse.factory import open_warehouse
from tests.command import run_here
from tests.tiny_world import NIGHT_BILLS, NOW, make_tiny_world, tiny_night


def digests(home: Path) -> dict[tuple[str, str, str], str]:
    """Return the content of the cost tables, runs and bills, independent of their writer and time."""
    tables = ("runs", "billing_lines", "cost_allocations", "cost_daily", "run_costs", "run_costs_daily")
    return {tuple(unit): state.digest for unit, state in open_warehouse(str(home / "warehouse")).states(*tables).items()}


def test_two_pipeline_runs_at_once_leave_the_tables_of_one(tmp_path: Path) -> None:
    """Both end with exit code 0, nothing is damaged, and a third run succeeds."""
    alone = tiny_night()
    both = make_tiny_world(tmp_path / "both", alone / "store", NIGHT_BILLS)
    command = [sys.executable, "-m", "runspend.interfaces.cli", "nightly", "--config", str(both), "--now", NOW.isoformat()]
    started = [
        subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) for _ in range(2)
    ]
    ended = [(*process.communicate(timeout=300), process.returncode) for process in started]
    assert {code for *_, code in ended} <= {0}, ended
    assert digests(both.parent / "home") == digests(alone / "world" / "home")
    run_here("verify", "--full", "--config", str(both))
    assert "exit=0" in run_here("nightly", "--config", str(both), "--now", NOW.isoformat()).stdout
