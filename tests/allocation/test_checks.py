"""Every check fails on tampered tables, on both engines with the same rows, because a check that cannot fail is a defect."""

from __future__ import annotations

from collections.abc import Callable
from decimal import Decimal
from typing import Any

import pyarrow as pa
import pytest

from runspend.allocation import model_order
from runspend.allocation.estimates import CHECKS as ESTIMATE_CHECKS
from runspend.core.errors import CheckFailed
from runspend.warehouse.base import Unit
from runspend.warehouse.parquet.warehouse import ParquetWarehouse
from runspend.warehouse.sql_files import read_sql, sql_files
from tests.allocation.chain import (
    DAY,
    PACKAGE,
    World,
    arrow,
    build_on_duckdb,
    line,
    make_run,
    query_reference,
)
from tests.reference import GoogleSQL, exact_rows

Rows = list[dict[str, Any]]
SMALLEST = Decimal("0.0000000000000000000001")
MEASURES = ("list_cost", "contracted_cost", "effective_cost", "billed_cost")
WRITERS = {"billing_lines": "test", "billing_loads": "test"}


def world() -> World:
    """Make two bills in two currencies, with runs, idle time, a fee spread over three days, and a charge out of scope."""
    stated = [make_run(id="A", at="00:00..00:30"), make_run(id="B", at="00:00..01:00", on=["m2"])]
    return {
        "billing_lines": [
            line(0, at="00:00..01:00"),
            line(1, on="m2", source="eu", billing_currency="EUR", cost="7.0000000000000000000001"),
            line(2, on=None, charge_category="Purchase", at="2026-10-01T00:00:00..2026-10-04T00:00:00"),
            line(3, on="db", service_name="RDS", scope="exclude", cost="3"),
        ],
        "billing_loads": [],
        "runs": [run for run, _ in stated],
        "run_resources": [row for _, rows in stated for row in rows],
    }


def add(column: str, amount: Decimal = SMALLEST, **where: str) -> Callable[[Rows], Rows]:
    """Return a change that adds the amount to the first matching row."""

    def tamper(rows: Rows) -> Rows:
        row = next(r for r in rows if all(r[k] == v for k, v in where.items()))
        row[column] += amount
        return rows

    return tamper


def put(column: str, value: object, **where: str) -> Callable[[Rows], Rows]:
    """Return a change that gives the first matching row this value."""

    def tamper(rows: Rows) -> Rows:
        next(r for r in rows if all(r[k] == v for k, v in where.items()))[column] = value
        return rows

    return tamper


def lose(**where: str) -> Callable[[Rows], Rows]:
    """Return a change that removes every matching row."""

    def tamper(rows: Rows) -> Rows:
        kept = [r for r in rows if not all(r[k] == v for k, v in where.items())]
        assert len(kept) < len(rows)
        return kept

    return tamper


def double(rows: Rows) -> Rows:
    """Double one row. The second has no cost."""
    return [*rows, rows[0] | {m: Decimal(0) for m in MEASURES}]


def shift(rows: Rows) -> Rows:
    """Move one dollar to the euro bill, so that the sum over all bills stays the same."""
    return add("effective_cost", Decimal(1), source="eu")(add("effective_cost", Decimal(-1), source="aws")(rows))


def under_both_bills(rows: Rows) -> Rows:
    """Add a line to both bills, with the same account and sub-account."""
    line = next(r for r in rows if r["source"] == "aws") | {"billing_account_id": "111", "sub_account_id": None, "scope": "include"}
    return [*rows, line | {"line_id": "once"}, line | {"line_id": "again", "source": "eu"}]


def under_both_slurm_bills(rows: Rows) -> Rows:
    """Add two SLURM bills with one job in common, for a part of its time."""
    return [*rows, *two_slurm_bills(("1", 0, 3), ("1", 2, 4))]


def two_slurm_bills(first: tuple[str, int, int], second: tuple[str, int, int]) -> Rows:
    """Return a line of each of two SLURM bills of one account: a job, from an hour to another."""
    return [
        line(
            number, on=job, job_key=job, at=f"{start:02}:00..{end:02}:00", source=source, cost="2", scope=None,
            billing_account_id="hydra", sub_account_id="vision", service_provider_name="SLURM", billing_currency="EUR",
        )
        for number, (source, (job, start, end)) in enumerate((("hpc", first), ("hpc2", second)), 10)
    ]  # fmt: skip


SUMS = {
    **{f"{m} is off by the last decimal": add(m, allocated_to="run") for m in MEASURES},
    "a bill is lost": lose(source="eu"),
    "a row is lost": lose(allocated_to="run", source="aws"),
    "money changes its bill": shift,
    "another bill": put("source", "gcp", allocated_to="run"),
    "another currency": put("billing_currency", "GBP", allocated_to="run"),
    "a cost becomes null": put("list_cost", None, allocated_to="run"),
}
TAMPERINGS: dict[str, dict[str, tuple[str, Callable[[Rows], Rows]]]] = {
    "accounts_once": {
        "a bill holds another's account": ("billing_lines", under_both_bills),
        "two SLURM bills hold one job": ("billing_lines", under_both_slurm_bills),
    },
    # before the colon: the table that the failing row names
    "costs_add_up": {
        "billing_lines: a line is lost": ("billing_lines", lose(line_id="line-2")),
        "billing_lines: a line twice": ("billing_lines", lambda rows: [*rows, rows[0] | {"line_id": "again"}]),
        "billing_lines: billed_cost is off by the last decimal": ("billing_lines", add("billed_cost")),
        "billing_lines: another currency": ("billing_lines", put("billing_currency", "GBP")),
        "billing_lines: the load is off by the last decimal": ("billing_loads", add("billed_cost", -SMALLEST)),
        "billing_lines: the load is not the current one": ("billing_loads", put("state", "replaced")),
        **{f"cost_allocations: {what}": ("cost_allocations", tamper) for what, tamper in SUMS.items()},
        "cost_allocations: out of scope is lost": ("cost_allocations", lose(allocated_to="out_of_scope")),
        "cost_allocations: the bill has more": ("billing_lines", lambda rows: [*rows, rows[0] | {"line_id": "again"}]),
        **{f"cost_daily: {what}": ("cost_daily", tamper) for what, tamper in SUMS.items()},
        "cost_daily: a day of a spread charge is lost": (
            "cost_daily",
            lambda rows: [r for r in rows if not (r["is_spread"] and r["charge_date"].day == 2)],
        ),
        "cost_daily: the ledger has more": ("cost_allocations", add("billed_cost", allocated_to="shared")),
        **{f"run_costs_daily: {m} is off by the last decimal": ("run_costs_daily", add(m)) for m in MEASURES},
        "run_costs_daily: a bill is lost": ("run_costs_daily", lose(source="eu")),
        "run_costs_daily: money changes its bill": ("run_costs_daily", shift),
        "run_costs_daily: another currency": ("run_costs_daily", put("billing_currency", "GBP")),
        "run_costs_daily: the ledger gives idle time to a run": ("cost_allocations", put("allocated_to", "run", allocated_to="idle")),
    },
    "allocations_complete": {
        **{f"{c} is null": ("cost_allocations", put(c, None)) for c in ("target_id", "cost_kind", "billing_currency", "charge_date")},
        **{
            f"{c} of a run is null": ("cost_allocations", put(c, None, allocated_to="run"))
            for c in ("tracking_server", "workspace", "run_id")
        },
        "a word nobody knows": ("cost_allocations", put("allocated_to", "overhead", allocated_to="shared")),
    },
    "cost_allocations_grain": {
        "a row twice": ("cost_allocations", double),
        **{f"{c} is null": ("cost_allocations", put(c, None)) for c in ("source", "charge_id", "target_id")},
    },
    "run_costs_daily_grain": {
        "a row twice": ("run_costs_daily", double),
        **{
            f"{c} is null": ("run_costs_daily", put(c, None))
            for c in ("tracking_server", "workspace", "run_id", "charge_date", "cost_kind", "source", "billing_currency")
        },
    },
    "run_costs_equals_daily": {
        "effective_cost is off by the last decimal": ("run_costs", add("effective_cost")),
        "billed_cost is off by the last decimal": ("run_costs", add("billed_cost")),
        "a run is lost": ("run_costs", lose(run_id="A")),
        "another currency": ("run_costs", put("billing_currency", "GBP")),
        "a run's days say more": ("run_costs_daily", add("effective_cost")),
        "a cost that counts for nothing": ("run_costs", put("cost_status", "none")),
    },
    "run_costs_grain": {
        "a row twice": ("run_costs", double),
        **{f"{c} is null": ("run_costs", put(c, None)) for c in ("tracking_server", "workspace", "run_id", "billing_currency")},
    },
}
CASES = [(check, what) for check, ways in TAMPERINGS.items() for what in ways]


@pytest.fixture(scope="module")
def warehouse(tmp_path_factory: pytest.TempPathFactory) -> ParquetWarehouse:
    """The tables without tampering."""
    return build_on_duckdb(world(), tmp_path_factory.mktemp("warehouse"))


@pytest.fixture(scope="module")
def built(warehouse: ParquetWarehouse) -> dict[str, dict[Unit, pa.Table]]:
    """The same tables by name and unit."""
    names = ("billing_lines", "billing_loads", "cost_allocations", "cost_daily", "run_costs_daily", "run_costs", "runs")
    return {name: {unit: warehouse.read(unit) for unit in warehouse.states(name)} for name in names}


def test_no_check_is_forgotten() -> None:
    """Each file in checks/ has a tampering here or, for estimates, in test_estimates.py."""
    assert {*TAMPERINGS, *ESTIMATE_CHECKS} == sql_files(PACKAGE / "checks").keys()


def test_nothing_fails_on_the_tables_as_built(warehouse: ParquetWarehouse) -> None:
    """The failures below are therefore caused by the tampering."""
    with warehouse.step("check", "check") as step:
        step.check([*model_order.LEDGER_CHECKS, *model_order.RUN_CHECKS], {"period": DAY})


@pytest.mark.parametrize("second", [("2", 0, 3), ("1", 3, 4)], ids=["another job", "the same job later"])
def test_two_slurm_bills_may_share_an_account(
    reference: GoogleSQL,
    warehouse: ParquetWarehouse,
    built: dict[str, dict[Unit, pa.Table]],
    second: tuple[str, int, int],
) -> None:
    """One bill for each price list, and no time of a job in both."""
    unit = Unit("billing_lines", "2026-10", "test")
    table = arrow("billing_lines", [*built["billing_lines"][unit].to_pylist(), *two_slurm_bills(("1", 0, 3), second)])
    with warehouse.step("check", "check") as step:
        step.put(*unit, table)
        step.check(["accounts_once"], {"period": DAY})
    found = query_reference(reference, read_sql(PACKAGE / "checks", "accounts_once"), {"billing_lines": table}, {"period": DAY})
    assert found.rows == []


@pytest.mark.parametrize(("check", "what"), CASES, ids=[f"{check}: {what}" for check, what in CASES])
def test_the_check_fails(
    reference: GoogleSQL, warehouse: ParquetWarehouse, built: dict[str, dict[Unit, pa.Table]], check: str, what: str
) -> None:
    """The step stops with the failing rows, and the reference implementation finds the same rows."""
    table, tamper = TAMPERINGS[check][what]
    unit = Unit(table, "2026-10", WRITERS.get(table, "all"))
    before = built[table][unit]
    after = arrow(table, tamper(before.to_pylist()))
    assert after != before
    with warehouse.step("check", "check") as step:
        step.put(*unit, after)
        with pytest.raises(CheckFailed, match=f"check {check} failed for 2026-10") as failure:
            step.check([check], {"period": DAY})
    assert failure.value.exit_code == 4
    checked, colon, _ = what.partition(": ")
    assert not colon or checked in {row["checked_table"] for row in failure.value.rows}

    tables = {
        name: pa.concat_tables((units | {unit: after}).values() if name == table else units.values()) for name, units in built.items()
    }
    found = query_reference(reference, read_sql(PACKAGE / "checks", check), tables, {"period": DAY})
    assert exact_rows(found.rows) == exact_rows(failure.value.rows)
