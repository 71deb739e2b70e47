"""Every case of the tables that are summed from the ledger.

They are `run_costs`, `run_costs_daily`, `cost_daily`, `unallocated_costs`, `unmet_claims` and `instance_type_hours`.
"""

from __future__ import annotations

import random
from datetime import datetime
from fractions import Fraction
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
import yaml

from runspend.config.settings import Settings
from tests.allocation.chain import SETTINGS, World, line, make_run, moment, run_on_duckdb, summarize_on_duckdb, total
from tests.allocation.side_by_side import companies
from tests.allocation.test_ledger_cases import exact

TABLES = ("run_costs", "run_costs_daily", "cost_daily", "unallocated_costs", "unmet_claims", "instance_type_hours")
CASES = sorted(p.parent for table in TABLES for p in Path(__file__).parent.glob(f"{table}/*/expect.yaml"))


def build(world: World, root: Path, settings: Settings = SETTINGS) -> dict[str, pa.Table]:
    """Build all tables of October, and the ledgers of other billing periods."""
    periods = sorted({l["billing_period"] for l in world["billing_lines"]}, reverse=True)
    ledgers = [run_on_duckdb(world, root, period, settings=settings) for period in periods]
    return ledgers[-1] | summarize_on_duckdb(root, settings=settings)


def assert_row(got: dict[str, Any], expected: dict[str, Any]) -> None:
    """Values must be equal: costs to the last decimal, quotients to 15 digits."""
    for column, value in expected.items():
        if column.endswith("_cost") or column == "cost_with_children":
            tolerance = abs(exact(value)) * Fraction(1, 10**15) if "/" in str(value) else 0
            assert abs(Fraction(got[column]) - exact(value)) <= tolerance, (column, got[column])
        elif isinstance(got[column], datetime):
            assert got[column] == moment(value), column
        else:
            assert got[column] == value, (column, got[column])


@pytest.fixture(scope="module")
def tables(tmp_path_factory: pytest.TempPathFactory) -> dict[Path, list[dict[str, Any]]]:
    """The rows of every case. Many cases are built together."""
    found = {}
    for company in companies(CASES):
        built = build(company.world, tmp_path_factory.mktemp("company"), company.settings)
        found |= {folder: company.rows(built[folder.parent.name], folder) for folder in company.folders}
    return found


@pytest.mark.parametrize("folder", CASES, ids=lambda p: f"{p.parent.name}/{p.name}")
def test_case_gives_the_expected_rows(folder: Path, tables: dict[Path, list[dict[str, Any]]]) -> None:
    """The table has exactly the rows of `expect.yaml`, in the columns that it names."""
    expected = yaml.safe_load((folder / "expect.yaml").read_text())
    names = [c for c in expected[0] if not c.endswith(("_cost", "_seconds", "_ratio")) and c not in ("cost_with_children", "last_used_at")]

    def place(row: dict[str, Any]) -> list[str]:
        return [str(row[name]) for name in names]

    rows = sorted(tables[folder], key=place)
    expected.sort(key=place)
    assert [place(row) for row in rows] == [place(row) for row in expected]
    for got, wanted in zip(rows, expected, strict=True):
        assert wanted.keys() == expected[0].keys()
        assert_row(got, wanted)


def test_there_are_cases_of_every_table() -> None:
    """Without this, the test above could run no case."""
    assert {folder.parent.name for folder in CASES} == set(TABLES)


def test_a_spread_charge_adds_up_to_itself(tmp_path: Path) -> None:
    """The 31 days of a monthly charge sum to the charge, to the last decimal, in each of the four costs."""
    costs = ("10.00", "-0.0000000000000000000007", "9999999.0827499841274349353", "0")
    month = {"at": "2026-10-01T00:00:00..2026-11-01T00:00:00", "on": None, "charge_category": "Purchase"}
    lines = [line(n, cost=cost, source=f"bill-{n}", **month) for n, cost in enumerate(costs)]
    rows = run_on_duckdb({"billing_lines": lines, "billing_loads": [], "runs": [], "run_resources": []}, tmp_path)["cost_daily"].to_pylist()
    for charge in lines:
        days = [row for row in rows if row["source"] == charge["source"]]
        assert [row["charge_date"].day for row in days] == list(range(1, 32))
        for measure in ("list_cost", "contracted_cost", "effective_cost", "billed_cost"):
            assert total(row[measure] for row in days) == charge[measure]


def test_the_order_of_rows_does_not_matter(tmp_path: Path) -> None:
    """Shuffled bills and runs give the same tables, with machine seconds equal to the last bit.

    A repeated pipeline run therefore changes nothing.
    """
    machines = [f"m{n}" for n in range(250)]
    draw = random.Random(3)
    stated = [
        make_run(id="A", at="00:07:13..05:01:07", on=machines),
        make_run(id="B", at="00:00:01..04:59:59", on=machines[::3]),
        make_run(id="C", at="00:11:01..04:19:59", on=machines[::7]),
        make_run(id="D", at="00:11:01..04:19:59", on=["gone"]),
    ]
    stated += [
        make_run(id="E", at="00:13:01..04:19:59", on=[], instance_type="g5", num_nodes=7),
        make_run(id="F", at="00:02:03..05:19:59", on=[], instance_type="g5", purchase_option="spot"),
    ]
    world: World = {
        "billing_lines": [
            line(number, on=machine, at=f"{hour:02d}:00..{hour + 1:02d}:00", hours=draw.choice(["0.16666667", "0.333", 1]), machine_gpus=draw.choice([3, 7]))
            for number, (machine, hour) in enumerate((m, h) for m in machines for h in range(6))
        ]
        + [
            line(10_000 + number, on=f"t{number % 20}", at=f"{number // 20:02d}:00..{number // 20 + 1:02d}:00", hours=draw.choice(["0.16666667", 1]), instance_type="g5", pricing_category=draw.choice(["Dynamic", "Standard"]), cost=draw.choice(["1.37", "3.1"]))
            for number in range(120)
        ],
        "billing_loads": [],
        "runs": [run for run, _ in stated],
        "run_resources": [row for _, rows in stated for row in rows],
    }  # fmt: skip
    first = build(world, tmp_path / "first")
    for table in ("billing_lines", "runs", "run_resources"):
        draw.shuffle(world[table])
    second = build(world, tmp_path / "second")
    for name in TABLES:

        def rows(tables: dict[str, pa.Table], name: str = name) -> list[dict[str, Any]]:
            return sorted(tables[name].to_pylist(), key=str)

        assert rows(first)
        assert rows(first) == rows(second), name
