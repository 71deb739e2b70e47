"""`runspend -v` shows what the steps read, build and skip, and how long that takes. Without it, standard error shows none of this."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.command import run_here, run_process
from tests.tiny_world import NOW, make_store, make_tiny_world


@pytest.fixture
def config(tmp_path: Path) -> Path:
    (tmp_path / "store").mkdir()
    make_store(tmp_path / "store")
    return make_tiny_world(tmp_path / "world", tmp_path / "store")


def test_verbose_logs_every_step_with_counts_times_and_reasons(config: Path) -> None:
    """A second pipeline run states what it skips and why."""
    given = ("nightly", "--config", str(config), "--now", f"{NOW:%Y-%m-%dT%H:%M}")
    first = run_process(*given, "-v").stderr
    for expected in (
        "load: bill bill: started",
        "load: bill bill has 24 rows, complete to 2026-11-03 00:00:00+00:00",
        "extract: tracking lab has 2 rows",
        "allocate 2026-11: built and checked cost_allocations, ",
        "allocate: changed allocate 2026-11",
    ):
        assert f" INFO {expected}" in first
    assert "load: done in " in first
    quiet = run_here(*given).stderr
    assert "INFO" not in quiet
    again = run_process(*given, "--verbose").stderr
    assert "load: billing_lines 2026-11 bill is unchanged and was not replaced" in again
    assert "built and checked cost_allocations" not in again


def test_the_log_shows_no_secret(config: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The address of a server that does not answer has a password. The line about it does not show the password."""
    monkeypatch.setenv("LAB_TOKEN", "pa55-canary")
    text = config.read_text(encoding="utf-8").replace("sqlite:///mlflow.db", "http://lab:${LAB_TOKEN}@127.0.0.1:9")
    config.write_text(text, encoding="utf-8")
    shown = run_process("extract", "--config", str(config), "--now", f"{NOW:%Y-%m-%dT%H:%M}", "-v", code=3)
    assert " WARNING extract: " in shown.stderr
    assert "pa55-canary" not in shown.stderr + shown.stdout
