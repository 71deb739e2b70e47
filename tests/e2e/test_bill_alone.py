"""A bill that takes too much memory, crashes its libraries or is killed is refused. The other bills and steps continue."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from datetime import datetime, timezone
from decimal import Decimal
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from runspend import pipeline
from runspend.config.settings import Settings, load_settings
from runspend.core.own_process import call as calls
from runspend.core.own_process import limits
from runspend.core.step_result import ReadJob
from runspend.ingest.billing import load_process as loading
from runspend.interfaces.doctor import diagnose
from runspend.warehouse.base import Unit
from runspend.warehouse.factory import open_warehouse
from tests.focus_files import ROW, row, write_csv
from tests.settings_builder import read_settings

NOW = datetime(2026, 11, 24, 2, tzinfo=timezone.utc)


def configure(folder: Path, *bills: str, **more: Any) -> Settings:
    """Configure the bills in `folder`, and operators with a mailbox."""
    bill_sources = [{"name": name, "uri": name, "late_after": "90d"} for name in bills]
    return read_settings(folder, {"home": "home", "billing": bill_sources, "mail": {"operators": ["ops@example.com"]}, **more})


def bomb(path: Path, rows: int, width: int) -> None:
    """Write a small Parquet file with many rows: 32 columns of one value each, stored once."""
    names = [*ROW, *(f"x_Column{n}" for n in range(12)), "RegionId", "SkuId", "InvoiceId", "ResourceName"]
    values = {name: ROW.get(name) or "x" * width for name in names}
    coded = {
        name: pa.DictionaryArray.from_arrays(pa.repeat(pa.scalar(0, pa.int32()), rows), pa.array([value])) for name, value in values.items()
    }
    path.parent.mkdir(parents=True)
    pq.write_table(pa.table(coded), path, compression="zstd", row_group_size=rows)


def total(settings: Settings, bill: str) -> Decimal:
    rows = open_warehouse(settings).read(Unit("billing_lines", "2026-10", bill))
    return sum(rows["billed_cost"].to_pylist(), Decimal(0)) if rows is not None else Decimal(0)


def mails(settings: Settings) -> list[str]:
    return [path.read_text(encoding="utf-8") for path in sorted((settings.home / "mail").rglob("*.eml"))]


def left_over(settings: Settings) -> list[str]:
    return [path.name for path in (settings.home / "work").iterdir() if path.name != ".lock"]


@pytest.fixture
def two(tmp_path: Path) -> Settings:
    """Return a hostile bill and another bill after it."""
    write_csv(tmp_path / "first" / "a.csv", [row("1.00")])
    write_csv(tmp_path / "second" / "a.csv", [row("2.00")])
    return configure(tmp_path, "first", "second")


def at_first(monkeypatch: pytest.MonkeyPatch, step: str, do: Callable[[int], None]) -> None:
    """Act on the process that reads `first` when it reports a step."""
    load, begin = loading.load_bill, limits.ProcessWatch.begin
    watches: list[limits.ProcessWatch] = []

    def watched(settings: Settings, source: Any, rules: Any, published: Any, job: ReadJob, **given: Any) -> Any:
        def note(text: str) -> None:
            job.progress(text)
            if source.name == "first" and step in text:
                do(next(w._process for w in watches if w._process is not None))

        return load(settings, source, rules, published, replace(job, progress=note), **given)

    def noted(self: limits.ProcessWatch, process: int) -> None:
        watches.append(self)
        begin(self, process)

    monkeypatch.setattr(limits.ProcessWatch, "begin", noted)
    monkeypatch.setattr(loading, "load_bill", watched)


def test_a_bill_that_needs_too_much_memory_is_refused_alone(tmp_path: Path) -> None:
    """4 MB of Parquet become gigabytes.

    The exit code is 3, and a message and a mail name the bill, the limit and the peak. The next bill is loaded.
    """
    bomb(tmp_path / "first" / "bomb.parquet", 200_000, 4_000)
    write_csv(tmp_path / "second" / "a.csv", [row("2.00")])
    settings = configure(tmp_path, "first", "second", memory="500MB")
    outcome = pipeline.load(settings, now=NOW)
    assert (outcome.exit_code, outcome.changed) == (3, ["billing_lines 2026-10 second"])
    [problem] = outcome.problems
    assert "cannot load bill first: reading it " in problem
    assert "`memory: 500MB`" in problem
    assert "Raise `memory` in runspend.yaml" in problem
    assert total(settings, "second") == 2
    [mail] = mails(settings)
    assert "first" in mail
    assert left_over(settings) == []


@pytest.mark.torture
def test_three_million_rows_in_400_kilobytes_keep_to_the_memory_or_are_refused(tmp_path: Path) -> None:
    """These rows used to take 3.4 GB. Now the process never exceeds the limit by more than it can take between two measurements."""
    bomb(tmp_path / "first" / "bomb.parquet", 3_000_000, 20)
    settings = configure(tmp_path, "first", memory="600MB")
    outcome = pipeline.load(settings, now=NOW)
    assert outcome.exit_code == 0 or "`memory: 600MB` allows 868MB" in outcome.problems[0]


@pytest.mark.parametrize(
    ("how", "step"),
    [(signal.SIGKILL, "verifying"), (signal.SIGKILL, "reading"), (signal.SIGKILL, "writing"), (signal.SIGSEGV, "reading")],
)
def test_a_bill_whose_process_is_killed_is_refused_alone_and_loads_again(
    two: Settings, monkeypatch: pytest.MonkeyPatch, step: str, how: signal.Signals
) -> None:
    """The process is killed at each step. The cause changes only one word of the message, so one kind of crash is enough."""
    with monkeypatch.context() as patched:
        at_first(patched, step, lambda process: os.kill(process, how))
        outcome = pipeline.load(two, now=NOW)
    assert (outcome.exit_code, outcome.changed) == (3, ["billing_lines 2026-10 second"])
    [problem] = outcome.problems
    assert "cannot load bill first: the process that read it " + ("was killed" if how == signal.SIGKILL else "crashed (SIGSEGV)") in problem
    assert step in problem
    assert len(mails(two)) == 1
    assert left_over(two) == []
    outcome = pipeline.load(two, now=NOW)
    assert (outcome.exit_code, outcome.changed, total(two, "first")) == (0, ["billing_lines 2026-10 first"], 1)


def test_a_bill_that_makes_no_progress_is_refused_alone(two: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loading, "limits_of", lambda settings: limits.Limits(idle_seconds=1))
    at_first(monkeypatch, "reading", lambda process: os.kill(process, signal.SIGSTOP))
    outcome = pipeline.load(two, now=NOW)
    assert (outcome.exit_code, outcome.changed) == (3, ["billing_lines 2026-10 second"])
    assert "made no progress" in outcome.problems[0]


def test_a_bill_has_its_time(tmp_path: Path, two: Settings) -> None:
    settings = configure(tmp_path, "first", "second", load_timeout="0.001s")
    outcome = pipeline.load(settings, now=NOW)
    assert outcome.exit_code == 3
    assert all("Raise `load_timeout` in runspend.yaml" in problem for problem in outcome.problems)
    assert len(outcome.problems) == 2


def test_ctrl_c_ends_the_load_and_its_process(two: Settings, tmp_path: Path) -> None:
    """SIGINT goes to the whole group, as from a terminal. No process stays, nothing is published, and the next load is complete."""
    command = [sys.executable, "-c", "import tests.e2e.test_bill_alone as t; t.load_slowly()"]
    environment = {**os.environ, "RUNSPEND_CONFIG": str(tmp_path / "runspend.yaml")}
    loader = subprocess.Popen(
        command,
        start_new_session=True,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        cwd=Path(__file__).parents[2],
    )
    assert loader.stdout is not None
    assert loader.stdout.readline() == "begun\n"
    os.killpg(loader.pid, signal.SIGINT)
    assert loader.wait(30) != 0
    loader.stdout.close()
    until = time.monotonic() + 20
    while time.monotonic() < until:
        try:
            os.killpg(loader.pid, 0)
        except ProcessLookupError:
            break
        time.sleep(0.05)
    with pytest.raises(ProcessLookupError):
        os.killpg(loader.pid, 0)
    assert total(two, "first") == 0
    assert pipeline.load(two, now=NOW).exit_code == 0
    assert left_over(two) == []


def load_slowly() -> None:
    """Run the load that the previous test interrupts."""

    def say(text: str) -> None:
        if "reading" in text:
            print("begun", flush=True)
            time.sleep(60)

    pipeline.load(load_settings(None), now=NOW, progress=say)


def test_nothing_waits_when_there_is_no_bill(tmp_path: Path) -> None:
    before = set(calls._all)
    pipeline.load(configure(tmp_path), now=NOW)
    assert set(calls._all) == before


def test_the_doctor_keeps_to_memory_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The limit `memory` also holds when doctor reads a bill. The other findings of doctor are still printed."""
    bomb(tmp_path / "greedy" / "a.parquet", 200_000, 4_000)
    write_csv(tmp_path / "second" / "a.csv", [row("2.00")])
    settings = configure(tmp_path, "greedy", "second", memory="500MB")
    (tmp_path / "tmp").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "tmp"))
    found = {f.name: (f.level, f.text) for f in diagnose(settings, now=NOW) if f.section == "bill" and f.level != "WARN"}
    assert found["greedy"][0] == "FAIL"
    assert "cannot look at bill greedy: reading it" in found["greedy"][1]
    assert "`memory: 500MB`" in found["greedy"][1]
    assert found["second"][0] == "ok"
    assert list((tmp_path / "tmp").iterdir()) == []
