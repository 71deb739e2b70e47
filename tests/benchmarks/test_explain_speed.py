"""`explain` and `export focus` over the big month: 1 million runs x 10 million lines.

Goal on two quiet cores: any run, machine or line explained within 2 s from the prompt; the export in 4 minutes and 2.5 GB.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from decimal import Decimal
from pathlib import Path

import duckdb
import pytest

from tests.benchmarks.ledger_world import MONTH, NOW, make_ledger_world
from tests.benchmarks.measured import Measured, load_average, run_runspend, scaled

pytestmark = [pytest.mark.bench, pytest.mark.timeout(3600)]

RUNS, LINES = 1_000_000, 10_000_000


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The month, allocated."""
    folder = tmp_path_factory.mktemp("explain") / "world"
    make_ledger_world(folder, runs=scaled(RUNS), lines=scaled(LINES))
    run_runspend(folder, "allocate", "--now", f"{NOW:%Y-%m-%dT%H:%M}")
    yield folder
    shutil.rmtree(folder)  # gigabytes


def explain(folder: Path, *arguments: str) -> Measured:
    """Run one command and print its time."""
    took = run_runspend(folder, "explain", *arguments, "--now", f"{NOW:%Y-%m-%dT%H:%M}")
    print(f"\n  explain {' '.join(arguments)}: {took} [{load_average()}]")
    return took


def test_any_run_is_explained(folder: Path) -> None:
    """The run with the most charges, one of the middle, one without any; each sum is `run_costs`'."""
    costs = f"'{folder}/warehouse/run_costs/period={MONTH}/all.parquet'"
    ledger = f"'{folder}/warehouse/cost_allocations/period={MONTH}/all.parquet'"
    (most,) = duckdb.execute(
        f"select run_id from {ledger} where run_id is not null group by run_id order by count(*) desc, run_id limit 1"
    ).fetchall()[0]
    ((middle,), *_) = duckdb.execute(
        f"select run_id from {costs} where effective_cost > 0 order by run_id limit 1 offset {scaled(RUNS) // 2}"
    ).fetchall()
    none = duckdb.execute(f"select run_id from {costs} where effective_cost = 0 order by run_id limit 1").fetchall()
    for run_id in (most, middle):
        found = json.loads(explain(folder, run_id, "--json").printed)
        (cost,) = found["currencies"]
        parts = [p for b in cost["blocks"] for p in b["parts"]]
        assert cost["difference"] == "0" and sum(Decimal(p["costs"]["effective_cost"]) for p in parts) > 0
    for (run_id,) in none:
        assert json.loads(explain(folder, run_id, "--json").printed)["no_cost"]["reason"]


def test_a_machine_and_a_line_are_explained(folder: Path) -> None:
    """By hour, and by part."""
    lines = f"'{folder}/warehouse/_internal/billing_lines/period={MONTH}/aws.parquet'"
    ((machine, line),) = duckdb.execute(f"select resource_id, line_id from {lines} limit 1 offset {scaled(LINES) // 2}").fetchall()
    assert "HOURS" in explain(folder, "--resource", machine).printed
    assert "= the line  ✓" in explain(folder, "--line", line).printed


def test_the_month_is_exported(folder: Path) -> None:
    """All rows as one Parquet file whose sum is the bill's, in memory that does not grow with them."""
    took = run_runspend(folder, "export", "focus", "--period", MONTH, "--out", str(folder / "focus.parquet"))
    found = duckdb.execute(f"select count(*), sum(EffectiveCost) from '{folder}/focus.parquet'").fetchall()[0]
    bill = duckdb.execute(
        f"select sum(effective_cost) from '{folder}/warehouse/_internal/billing_lines/period={MONTH}/aws.parquet'"
    ).fetchall()[0][0]
    print(f"\n  export focus, {found[0]:,} rows: {took} [{load_average()}]")
    assert found[1] == bill
