"""What it costs to verify a big warehouse: a month of 1 million runs x 10 million lines and its ledger.

Goal on two quiet cores: a second a gigabyte for `verify --full`, which is what each pipeline run adds; `verify` in a second.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.benchmarks.ledger_world import NOW, make_ledger_world
from tests.benchmarks.measured import load_average, run_runspend, scaled

pytestmark = [pytest.mark.bench, pytest.mark.timeout(3600)]

RUNS, LINES = 1_000_000, 10_000_000


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[Path]:
    yield tmp_path / "world"
    shutil.rmtree(tmp_path)  # gigabytes


def test_a_big_month_is_verified_fast_enough(folder: Path) -> None:
    runs, lines = scaled(RUNS), scaled(LINES)
    make_ledger_world(folder, runs=runs, lines=lines)
    print(f"\n  {runs:,} runs x {lines:,} lines: allocate {run_runspend(folder, 'allocate', '--now', f'{NOW:%Y-%m-%dT%H:%M}')}")
    size = sum(path.stat().st_size for path in (folder / "warehouse").rglob("*.parquet")) / 1e9
    for label, arguments in (("verify --full", ("--full",)), ("verify", ()), ("verify --full", ("--full",)), ("verify", ())):
        took = run_runspend(folder, "verify", *arguments)
        print(f"  {label:14} of {size:.2f} GB: {took}, {size / took.wall:.2f} GB/s [{load_average()}]")
