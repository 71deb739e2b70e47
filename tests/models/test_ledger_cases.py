"""Every worked case of the ledger, and the awkward ones found since: on DuckDB as the product runs it, and on the reference."""

from __future__ import annotations

from collections import defaultdict
from decimal import Decimal
from fractions import Fraction
from pathlib import Path

import pytest
import yaml

from tests.models.chain import read_settings, read_world, run_on_duckdb

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
