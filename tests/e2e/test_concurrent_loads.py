"""Concurrent or killed loads of one bill: the newer delivery counts, with all of its months."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable
from datetime import datetime, timedelta, timezone
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from runspend import pipeline
from runspend.config.settings import load_settings
from runspend.core.step_result import Outcome
from runspend.ingest.billing import load_process as loading
from runspend.warehouse.base import Unit
from runspend.warehouse.factory import open_warehouse
from runspend.warehouse.parquet.warehouse import ParquetWarehouse
from tests.cur_files import line, month, write_cur

NOW = datetime(2026, 10, 5, 12, tzinfo=timezone.utc)
OLDER, NEWER = NOW - timedelta(hours=2), NOW - timedelta(hours=1)
LINES = "billing_lines 2026-10 cur"


def deliver(folder: Path, name: str, *costs: str, at: datetime, september: str | None = None) -> Path:
    """Write a delivery of the bill `cur` for the home in `folder`. Return its configuration."""
    rows = [line(cost=cost) for cost in costs]
    rows += [line(cost=september, **month("2026-09"))] if september else []
    write_cur(folder / name / "p.csv.gz", rows, at=at)
    config = folder / f"{name}.yaml"
    config.write_text(f"home: home\nbilling: [{{name: cur, format: aws-cur, uri: {name}, late_after: 400d}}]\n")
    return config


def load(config: Path) -> Outcome:
    """Load the bill once, in this process."""
    return pipeline.load(load_settings(config), now=NOW)


def total(folder: Path, period: str = "2026-10", table: str = "billing_lines") -> Decimal:
    """Return the current billed cost of a month."""
    rows = open_warehouse(str(folder / "home" / "warehouse")).read(Unit(table, period, "cur"))
    return sum(rows["billed_cost"].to_pylist(), Decimal(0))


def versions(folder: Path) -> list[tuple[int, str, Decimal]]:
    """Return number, state and total of every version of October."""
    rows = open_warehouse(str(folder / "home" / "warehouse")).read(Unit("billing_loads", "2026-10", "cur")).to_pylist()
    return sorted((row["version_number"], row["state"], row["billed_cost"]) for row in rows)


@pytest.fixture
def meanwhile(monkeypatch: pytest.MonkeyPatch) -> Callable[[Callable[[], object], int], None]:
    """Call a function between a load's reading and publishing, the first `times` times."""
    read = loading.load_bill

    def arrange(do: Callable[[], object], times: int) -> None:
        left = [do] * times

        def slow(*arguments: object, **options: object) -> object:
            result = read(*arguments, **options)
            if left:
                monkeypatch.setattr(loading, "load_bill", read)
                left.pop()()
                monkeypatch.setattr(loading, "load_bill", slow)
            return result

        monkeypatch.setattr(loading, "load_bill", slow)

    return arrange


def test_a_newer_delivery_overtaken_by_an_older_one_is_read_again(tmp_path: Path, meanwhile: Callable[..., None]) -> None:
    """A load of 15.00 finishes while the load of 12.50 runs. In the end, 12.50 counts, and no month is reported twice."""
    older = deliver(tmp_path, "d1", "10", "5", at=OLDER)
    newer = deliver(tmp_path, "d2", "10", "2.5", at=NEWER, september="7")
    meanwhile(lambda: load(older), 1)
    outcome = load(newer)
    assert (outcome.exit_code, outcome.problems) == (0, [])
    assert sorted(outcome.changed) == ["billing_lines 2026-09 cur", LINES]
    assert outcome.unchanged == []
    assert "superseded: cur was read by another process in the meantime; try 1 of 3 failed" in outcome.notes
    assert total(tmp_path) == total(tmp_path, table="bill_changes") == Decimal("12.50")
    assert total(tmp_path, "2026-09") == Decimal(7)
    assert versions(tmp_path) == [(1, "replaced", Decimal(15)), (2, "current", Decimal("12.50"))]


def test_an_older_delivery_overtaken_by_a_newer_one_is_refused(tmp_path: Path, meanwhile: Callable[..., None]) -> None:
    """The load of 15.00 reports that its delivery is older. It changes only the month that no other delivery has."""
    older = deliver(tmp_path, "d1", "10", "5", at=OLDER, september="7")
    newer = deliver(tmp_path, "d2", "10", "2.5", at=NEWER)
    meanwhile(lambda: load(newer), 1)
    outcome = load(older)
    assert outcome.exit_code == 3
    [problem] = outcome.problems
    assert "it was delivered at 2026-10-05 10:00:00 UTC, before the version in place (2026-10-05 11:00:00 UTC)" in problem
    assert (outcome.changed, outcome.unchanged) == (["billing_lines 2026-09 cur"], [])
    assert total(tmp_path) == total(tmp_path, table="bill_changes") == Decimal("12.50")
    assert versions(tmp_path) == [(1, "current", Decimal("12.50")), (2, "refused", Decimal(15))]


def test_the_same_delivery_loaded_twice_at_once_is_one_version(tmp_path: Path, meanwhile: Callable[..., None]) -> None:
    """The second load finds the same version, and reports that nothing changed."""
    config = deliver(tmp_path, "d2", "10", "2.5", at=NEWER)
    meanwhile(lambda: load(config), 1)
    outcome = load(config)
    assert (outcome.exit_code, outcome.changed, outcome.unchanged) == (0, [], [LINES])
    assert versions(tmp_path) == [(1, "current", Decimal("12.50"))]


@pytest.mark.parametrize("times", [2, 3])
def test_a_load_overtaken_each_time_gives_up_and_says_so(tmp_path: Path, meanwhile: Callable[..., None], times: int) -> None:
    """The load tries again twice. After the third time, the other version stays and the exit code is 3."""
    newer = deliver(tmp_path, "d2", "10", "2.5", at=NEWER)
    older = iter(deliver(tmp_path, f"d1-{n}", "10", cost, at=OLDER + timedelta(minutes=n)) for n, cost in enumerate(("5", "5.5", "6")))
    meanwhile(lambda: load(next(older)), times)
    outcome = load(newer)
    if times < 3:
        assert (outcome.exit_code, outcome.changed, total(tmp_path)) == (0, [LINES], Decimal("12.50"))
        return
    assert (outcome.exit_code, outcome.changed, outcome.unchanged, total(tmp_path)) == (3, [], [], Decimal(16))
    assert [text for text in outcome.problems if "another process published it each of the 3 times it was read" in text] == outcome.problems
    assert len(outcome.problems) == 1
    with open_warehouse(str(tmp_path / "home" / "warehouse")).reader() as reader:
        assert reader.query("select state from sources")["state"].to_pylist() == ["refused"]


@pytest.mark.parametrize("publishes", [0, 1])
def test_a_file_of_two_months_is_published_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, publishes: int) -> None:
    """A load is killed before or after its first publish. The next load publishes both months.

    If only one month were published, the file would count as loaded, and the other month would never be read.
    """
    config = deliver(tmp_path, "d2", "10", "2.5", at=NEWER, september="7")
    replace, seen = ParquetWarehouse.replace, []

    def killed(*arguments: Any, **options: Any) -> bool:
        if len(seen) == publishes:
            raise KeyboardInterrupt
        seen.append(arguments)
        return replace(*arguments, **options)

    with monkeypatch.context() as patch:
        patch.setattr(ParquetWarehouse, "replace", killed)
        with pytest.raises(KeyboardInterrupt):
            load(config)
    assert load(config).exit_code == 0
    assert (total(tmp_path, "2026-09"), total(tmp_path)) == (Decimal(7), Decimal("12.50"))


@pytest.mark.parametrize("first", ["d1", "d2"])
def test_a_second_load_at_the_same_time_publishes_the_newer_delivery_or_is_refused(tmp_path: Path, first: str) -> None:
    """Two real processes start a moment apart. In the end, 12.50 counts: the older delivery was published before it, or refused."""
    deliver(tmp_path, "d1", "10", "5", at=OLDER)
    deliver(tmp_path, "d2", "10", "2.5", at=NEWER)
    running = {}
    for name in sorted(("d1", "d2"), key=lambda name: name != first):
        command = [sys.executable, "-m", "runspend.interfaces.cli", "load", "--config", f"{name}.yaml", "--now", "2026-10-05T12:00"]
        running[name] = subprocess.Popen(
            command, cwd=tmp_path, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        )
        time.sleep(0.1)
    printed = {name: process.communicate(timeout=120)[0] for name, process in running.items()}
    assert running["d2"].returncode == 0, printed
    assert running["d1"].returncode in (0, 3), printed
    assert ("before the version in place" in printed["d1"]) == (running["d1"].returncode == 3), printed
    assert total(tmp_path) == total(tmp_path, table="bill_changes") == Decimal("12.50"), printed
