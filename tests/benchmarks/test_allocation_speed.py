"""The ledger of a big month: 1 million runs x 7 million lines, all four costs, checked, sorted and published.

Goal on two quiet cores: 60 s and 3 GB, also with all runs on 100 machines; time grows with the rows, not faster.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import duckdb
import pytest

from tests.benchmarks.ledger_world import MONTH, NOW, make_ledger_world
from tests.benchmarks.measured import Measured, load_average, run_runspend, scaled

pytestmark = [pytest.mark.bench, pytest.mark.timeout(3600)]

RUNS, LINES, LADDER_LINES = 1_000_000, 7_000_000, 10_000_000


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[Path]:
    yield tmp_path / "world"
    shutil.rmtree(tmp_path)  # gigabytes


def allocate(folder: Path, *, runs: int, lines: int, used_machines: int | None = None, ladder: bool = False) -> Measured:
    """Make a world, allocate it in a process of its own, and see that the ledger is the bill."""
    make_ledger_world(folder, runs=runs, lines=lines, used_machines=used_machines, ladder=ladder)
    took = run_runspend(folder, "allocate", "--now", f"{NOW:%Y-%m-%dT%H:%M}")
    tables = folder / "warehouse"
    costs = "sum(list_cost), sum(contracted_cost), sum(effective_cost), sum(billed_cost)"
    bill = duckdb.execute(f"select {costs}, count(*) from '{tables}/_internal/billing_lines/period={MONTH}/aws.parquet'").fetchall()[0]
    ledger = duckdb.execute(
        f"select {costs}, count(*), count(distinct run_id) from '{tables}/cost_allocations/period={MONTH}/all.parquet'"
    ).fetchall()[0]
    daily = duckdb.execute(f"select {costs} from '{tables}/cost_daily/period={MONTH}/all.parquet'").fetchall()[0]
    assert ledger[:4] == bill[:4] == daily
    assert bill[4] == -(-lines // 720) * 720 or bill[4] == lines
    assert (
        ledger[5] > (0.8 if ladder else 0.9) * runs
    )  # nearly every run meets a billed hour; in the world of every rule a tenth of them are on disks and buckets
    where = f"{used_machines} machines" if used_machines else "all machines"
    if ladder:
        rules = duckdb.execute(
            f"select match_method, count(*), sum(effective_cost)::double from '{tables}/cost_allocations/period={MONTH}/all.parquet' group by 1 order by 1"
        ).fetchall()
        assert {"job_id", "resource_id", "attached", "artifact_bytes", "pool_time", "instance_type_time"} <= {rule for rule, *_ in rules}
        print("\n".join(f"    {rule:20} {rows:12,} rows {cost:18,.2f}" for rule, rows, cost in rules))
    print(f"\n  {runs:,} runs on {where} x {lines:,} lines -> {ledger[4]:,} rows: {took} [{load_average()}]")
    return took


def test_allocation_grows_with_the_rows(folder: Path) -> None:
    """A quarter of the month, then all of it."""
    quarter = allocate(folder / "quarter", runs=scaled(RUNS // 4), lines=scaled(LINES // 4))
    whole = allocate(folder / "whole", runs=scaled(RUNS), lines=scaled(LINES))
    print(f"  goal 60 s, 3 GB; four times the rows took {whole.cpu / quarter.cpu:.1f} times the processor seconds")


def test_every_allocation_rule(folder: Path) -> None:
    """Every rule has lines to settle, and a hundred thousand runs have artifacts; a tenth of it first."""
    tenth = allocate(folder / "tenth", runs=scaled(RUNS // 10), lines=scaled(LADDER_LINES // 10), ladder=True)
    whole = allocate(folder / "whole", runs=scaled(RUNS), lines=scaled(LADDER_LINES), ladder=True)
    print(
        f"  goal 120 s, 4 GB; ten times the rows took {whole.wall / tenth.wall:.1f} times the time, {whole.cpu / tenth.cpu:.1f} times the processor seconds"
    )


def test_allocation_with_all_runs_on_few_machines(folder: Path) -> None:
    """Ten thousand runs a machine, thirty at once."""
    allocate(folder, runs=scaled(RUNS), lines=scaled(LINES), used_machines=100)
