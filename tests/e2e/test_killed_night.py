"""A night killed with SIGKILL at random moments and started again: the same digests, the same mails, and nobody saw two builds."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from tests.faults.torture import torture


@pytest.mark.parametrize(
    "kills",
    [pytest.param(3, id="a few"), pytest.param(100, id="many", marks=[pytest.mark.torture, pytest.mark.timeout(5400)])],
)
def test_a_killed_night_is_finished_by_the_next(world: Path, made_world: Path, kills: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """From an empty home each time: whatever was under way, the next night comes to what an unharmed one does."""
    home = world.parent
    monkeypatch.chdir(made_world)  # the home itself is put back before each kill
    command = [sys.executable, "-m", "runspend.cli", "nightly", "--config", str(world), "--now", "2026-11-24T06:00"]
    report = torture(command, state=home, warehouse=home / "warehouse", kills=kills, seed=kills)
    assert report.kills >= kills * 0.8
    assert report.faults == []
    assert len(list((home / "mail").glob("*.eml"))) == 2
