"""Every worked case of the ledger, and the awkward ones found since: on DuckDB as the product runs it, and on the reference."""

from __future__ import annotations

import datetime as dt
from collections import defaultdict
from decimal import Decimal
from fractions import Fraction
from pathlib import Path

import pytest
import yaml

from tests.models.chain import line, make_run, read_settings, read_world, run_on_duckdb

CASES = sorted(p.parent for p in Path(__file__).parent.glob("cost_allocations/*/expect.yaml"))


def exact(value: object) -> Fraction:
    """A cost of `expect.yaml`: a number, or a quotient of two."""
    above, _, below = str(value).partition("/")
    return Fraction(above) / Fraction(below or 1)


@pytest.mark.parametrize("folder", CASES, ids=lambda p: p.name)
def test_case(folder: Path, tmp_path: Path) -> None:
    """Each target has the stated cost to 15 digits, all targets are stated, and the sum is the bill exactly."""
    world = read_world(folder)
    ledger = run_on_duckdb(world, tmp_path, settings=read_settings(folder))["cost_allocations"].to_pylist()
    lines = [l for l in world["billing_lines"] if l["billing_period"] == ledger[0]["billing_period"]]
    assert sum(r["effective_cost"] for r in ledger) == sum(l["effective_cost"] for l in lines)

    got: dict[str, list[dict[str, object]]] = defaultdict(list)
    for row in ledger:
        got[row["run_id"] or row["allocated_to"]].append(row)
    expected = yaml.safe_load((folder / "expect.yaml").read_text())
    assert sorted(got) == sorted(row["target"] for row in expected)
    for row in expected:
        rows = got[row.pop("target")]
        cost = exact(row.pop("cost"))
        assert abs(Fraction(sum((r["effective_cost"] for r in rows), Decimal(0))) - cost) <= abs(cost) * Fraction(1, 10**15)
        for column, value in row.items():
            wanted = Decimal(str(value)) if column.endswith("_cost") else value
            assert {r[column] for r in rows} == {wanted}, column


def test_what_a_division_leaves_of_a_jobs_hour_is_not_overhead(tmp_path: Path) -> None:
    """Seven runs in the first hour of a job, an eighth in its third: it has none of the first, whatever seven leaves of an hour."""
    lines = [line(n, job_key="train-7", hours=1, cost=1000, at=f"{n:02d}:00..{n + 1:02d}:00") for n in (0, 2)]
    runs = [make_run(id=f"run{n}", at="00:00..01:00", on=[], job_key="train-7")[0] for n in range(7)]
    runs.append(make_run(id="later", at="02:00..03:00", on=[], job_key="train-7")[0])
    world = {"billing_lines": lines, "billing_loads": [], "runs": runs, "run_resources": []}
    ledger = run_on_duckdb(world, tmp_path)["cost_allocations"].to_pylist()
    assert sorted(r["run_id"] for r in ledger if r["charge_id"] == "line-0") == [f"run{n}" for n in range(7)]
    assert [(r["run_id"], r["effective_cost"]) for r in ledger if r["charge_id"] == "line-2"] == [("later", 1000)]
    assert {r["overhead_cost"] for r in ledger} == {0}


def test_the_month_after_a_job_that_ran_over_its_end(tmp_path: Path) -> None:
    """The job's last hour, in which nothing ran, is overhead of both its runs, also of the one that ended before midnight."""
    world = read_world(Path(__file__).parent / "cost_allocations" / "a_job_runs_over_the_months_end")
    ledger = run_on_duckdb(world, tmp_path, dt.date(2026, 11, 1))["cost_allocations"].to_pylist()
    assert sorted((r["charge_id"], r["run_id"], r["effective_cost"], r["overhead_cost"]) for r in ledger if r["run_id"] in ("A", "B")) == [
        ("line-2", "B", 10, 0),
        ("line-3", "A", 5, 5),
        ("line-3", "B", 5, 5),
    ]
