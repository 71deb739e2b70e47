"""A pipeline run is killed with SIGKILL at random moments and started again. Digests and mails are the same, and no reader sees two builds."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from tests.command import run_here
from tests.faults.torture import torture
from tests.tiny_world import make_store, make_tiny_world


def assert_finished(config: Path, *, now: str, kills: int, seed: int, mails: int) -> None:
    """Check that from an empty home each time, the next pipeline run gives the result of an undisturbed one, after a kill at any moment."""
    home = config.parent
    command = ["nightly", "--config", str(config), "--now", now]
    process = [sys.executable, "-m", "runspend.interfaces.cli", *command]
    report = torture(process, state=home, warehouse=home / "warehouse", kills=kills, seed=seed, repeat=lambda: run_here(*command))
    assert report.kills >= int(kills * 0.8)  # the machine may be faster now than during the measurement
    assert report.faults == []
    assert len(list((home / "mail").glob("*.eml"))) == mails


def test_a_killed_pipeline_run_over_two_runs_is_finished_by_the_next(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = tmp_path / "store"
    store.mkdir()
    make_store(store)
    monkeypatch.chdir(store)  # the home itself is restored before each kill
    config = make_tiny_world(tmp_path / "home", store)
    config.write_text(
        config.read_text(encoding="utf-8").replace('"home": "home"', '"home": "."').replace("home/warehouse", "warehouse"), encoding="utf-8"
    )
    # after a quarter of the pipeline run, while it reads, and after half of it, while it allocates
    assert_finished(config, now="2026-11-04T06:00", kills=2, seed=45, mails=1)


@pytest.mark.torture
@pytest.mark.timeout(5400)
def test_a_killed_pipeline_run_of_the_demo_is_finished_by_the_next(world: Path, made_world: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(made_world)
    assert_finished(world, now="2026-11-24T06:00", kills=100, seed=100, mails=2)
