"""Every worked case of the ledger, and awkward ones found later, on DuckDB as the product runs it.

`test_reference.py` runs them on the reference implementation.
"""

from __future__ import annotations

import datetime as dt
from collections import defaultdict
from decimal import Decimal
from fractions import Fraction
from pathlib import Path
from typing import Any

import pytest
import yaml

from runspend.allocation import model_order
from tests.allocation.chain import DAY, World, line, make_run, read_settings, read_world, run_on_duckdb
from tests.allocation.side_by_side import companies

CASES = sorted(p.parent for p in Path(__file__).parent.glob("cost_allocations/*/expect.yaml"))


def exact(value: object) -> Fraction:
    """Parse a cost of `expect.yaml`: a number, or a quotient of two."""
    above, _, below = str(value).partition("/")
    return Fraction(above) / Fraction(below or 1)


@pytest.fixture(scope="module")
def ledgers(tmp_path_factory: pytest.TempPathFactory) -> dict[Path, list[dict[str, Any]]]:
    """The ledger of every case. Many are built together."""
    found = {}
    for company in companies(CASES):
        ledger = run_on_duckdb(company.world, tmp_path_factory.mktemp("company"), settings=company.settings)["cost_allocations"]
        found |= {folder: company.rows(ledger, folder) for folder in company.folders}
    return found


def assert_as_expected(folder: Path, world: World, ledger: list[dict[str, Any]]) -> None:
    """Each target must have the stated cost to 15 digits, no target may be missing, and the sum must be exactly the bill."""
    assert sum(r["effective_cost"] for r in ledger) == sum(
        l["effective_cost"] for l in world["billing_lines"] if l["billing_period"] == DAY
    )
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


@pytest.mark.parametrize("folder", CASES, ids=lambda p: p.name)
def test_case_gives_the_expected_ledger(folder: Path, ledgers: dict[Path, list[dict[str, Any]]]) -> None:
    """The case is built together with many others, each with its own bills, servers and machines."""
    assert_as_expected(folder, read_world(folder), ledgers[folder])


@pytest.mark.torture
@pytest.mark.parametrize("folder", CASES, ids=lambda p: p.name)
def test_case_by_itself_gives_the_expected_ledger(folder: Path, tmp_path: Path) -> None:
    """The case is built alone."""
    world = read_world(folder)
    assert_as_expected(folder, world, run_on_duckdb(world, tmp_path, settings=read_settings(folder))["cost_allocations"].to_pylist())


def test_the_rounding_remainder_of_a_jobs_hour_is_not_overhead(tmp_path: Path) -> None:
    """Seven runs are in the first hour of a job, and an eighth in its third.

    The rounding remainder of the first hour does not go to the eighth.
    """
    lines = [line(n, job_key="train-7", hours=1, cost=1000, at=f"{n:02d}:00..{n + 1:02d}:00") for n in (0, 2)]
    runs = [make_run(id=f"run{n}", at="00:00..01:00", on=[], job_key="train-7")[0] for n in range(7)]
    runs.append(make_run(id="later", at="02:00..03:00", on=[], job_key="train-7")[0])
    world = {"billing_lines": lines, "billing_loads": [], "runs": runs, "run_resources": []}
    ledger = run_on_duckdb(world, tmp_path)["cost_allocations"].to_pylist()
    assert sorted(r["run_id"] for r in ledger if r["charge_id"] == "line-0") == [f"run{n}" for n in range(7)]
    assert [(r["run_id"], r["effective_cost"]) for r in ledger if r["charge_id"] == "line-2"] == [("later", 1000)]
    assert {r["overhead_cost"] for r in ledger} == {0}


def test_a_jobs_last_hour_in_the_next_month_is_overhead_of_all_its_runs(tmp_path: Path) -> None:
    """No run was active in the job's last hour, which is overhead of both its runs, even of the one that ended before midnight."""
    world = read_world(Path(__file__).parent / "cost_allocations" / "a_job_runs_over_the_months_end")
    ledger = run_on_duckdb(world, tmp_path, dt.date(2026, 11, 1))["cost_allocations"].to_pylist()
    assert sorted((r["charge_id"], r["run_id"], r["effective_cost"], r["overhead_cost"]) for r in ledger if r["run_id"] in ("A", "B")) == [
        ("line-2", "B", 10, 0),
        ("line-3", "A", 5, 5),
        ("line-3", "B", 5, 5),
    ]


def test_an_instance_id_on_two_providers_bills_is_one_machine(tmp_path: Path) -> None:
    """Ids of EC2 instances are unique, so a second bill has the same machine, and its cost is as certain."""
    name = "i-0123456789abcdef0"
    lines = [
        line(0, on=name, hours=1, service_provider_name="AWS"),
        line(1, on=name, hours=1, source="v", service_provider_name="V", sub_account_id="v"),
    ]
    run, machines = make_run(id="A", at="00:00..01:00", on=[name])
    world = {"billing_lines": lines, "billing_loads": [], "runs": [run], "run_resources": machines}
    ledger = run_on_duckdb(world, tmp_path)["cost_allocations"].to_pylist()
    assert [(r["run_id"], r["effective_cost"], r["confidence"]) for r in ledger] == [("A", 10, "high")] * 2


@pytest.mark.parametrize(
    ("uri", "name"),
    [
        ("s3://acme-ml/1/A/artifacts", "acme-ml"),
        ("gs://acme-ml/1/A/artifacts", "acme-ml"),
        ("abfss://mlflow@AcmeMl.dfs.core.windows.net/1/A/artifacts", "acmeml"),
        ("wasbs://mlflow@acmeml.blob.core.windows.net/1/A/artifacts", "acmeml"),
    ],
)
def test_the_artifact_store_of_a_run_and_its_accounts_fees_are_in_scope(uri: str, name: str, tmp_path: Path) -> None:
    """The bill names the bucket or storage account by its key, independent of the resource id. Its account's fees are in scope too."""
    lines = [
        line(0, on=f"somewhere/{name}", storage_key=name, scope=None, service_category="Storage", cost=4),
        line(1, on="somewhere/web", storage_key="web", scope=None, service_category="Storage", cost=7),
        line(2, on=None, scope=None, charge_category="Tax", cost=3),
    ]
    run, _ = make_run(id="A", at="00:00..01:00", on=[], artifact_uri=uri)
    world = {"billing_lines": lines, "billing_loads": [], "runs": [run], "run_resources": []}
    ledger = run_on_duckdb(world, tmp_path)["cost_allocations"].to_pylist()
    assert {r["allocated_to"]: r["effective_cost"] for r in ledger} == {"unallocated": 4, "out_of_scope": 7, "shared": 3}


def test_without_a_bill_and_runs_every_table_is_empty(tmp_path: Path) -> None:
    """Every table exists and has no rows."""
    tables = run_on_duckdb({"billing_lines": [], "billing_loads": [], "runs": [], "run_resources": []}, tmp_path)
    assert {name: rows.num_rows for name, rows in tables.items()} == dict.fromkeys(("cost_allocations", *model_order.LEDGER_SUMS), 0)


def test_slices_of_a_gpu_are_shared_by_runs_that_state_only_its_type(tmp_path: Path) -> None:
    """An hour cannot be divided into sevenths of a clock tick, so shares of a pool are right to 9 digits. The sum is exact."""
    lines = [line(0, on="m1", instance_type="p5.4xlarge", machine_gpus=1, hours=1, cost="7.00")]
    stated, machines = make_run(id="A", at="00:00..01:00", on=["m1"], instance_type="p5.4xlarge", gpu_count=2 / 7)
    asked, _ = make_run(id="B", at="00:00..00:30", on=[], instance_type="p5.4xlarge", gpu_count=3 / 7)
    world = {"billing_lines": lines, "billing_loads": [], "runs": [stated, asked], "run_resources": machines}
    ledger = run_on_duckdb(world, tmp_path)["cost_allocations"].to_pylist()
    costs = {r["run_id"] or r["allocated_to"]: r["effective_cost"] for r in ledger}
    assert sum(costs.values()) == 7
    assert {name: round(cost, 9) for name, cost in costs.items()} == {"A": 2, "B": Decimal("1.5"), "idle": Decimal("3.5")}
