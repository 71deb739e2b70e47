"""Which tables Runspend does not build while irreplaceable data are damaged, and which it still builds."""

from __future__ import annotations

import pytest

from runspend.pipeline.damage import Damage
from runspend.warehouse.base import Unit


def damage_of(*units: Unit) -> Damage:
    return Damage(0.0, dict.fromkeys(units, "its file is gone"), left=set(units))


@pytest.mark.parametrize(
    ("unit", "blocked"),
    [
        (Unit("billing_lines", "2026-10", "aws"), {"2026-09", "2026-10", "2026-11"}),  # jobs continue in the next month
        (Unit("billing_loads", "2026-10", "aws"), {"2026-10"}),
        (Unit("runs", "2026-10", "prod"), {"2026-09", "2026-10", "2026-11", "2026-12"}),  # later runs may be descendants
        (Unit("artifact_bytes", "2026-10", "store"), {"2026-10"}),
        (Unit("experiments", "all", "prod"), {"2026-08", "2026-09", "2026-10", "2026-11", "2026-12"}),
        (Unit("budget_status", "2026-10", "all"), set()),
        (Unit("cost_daily", "2026-10", "all"), set()),  # this table is built, not read
    ],
    ids=lambda value: "/".join(value) if isinstance(value, Unit) else "",
)
def test_billing_periods_that_need_no_damaged_table_are_built(unit: Unit, blocked: set[str]) -> None:
    damage = damage_of(unit)
    months = ("2026-08", "2026-09", "2026-10", "2026-11", "2026-12")
    assert {month for month in months if damage.lacking(month)} == blocked


def test_costs_of_runs_wait_for_the_billing_periods_that_may_hold_them() -> None:
    """A damaged period blocks its own and earlier start months. Runspend builds months that started well after it."""
    damage = damage_of(Unit("run_costs_daily", "2026-10", "all"))
    assert [month for month in ("2026-09", "2026-10", "2026-11", "2026-12") if damage.lacking_of_month(month)] == [
        "2026-09",
        "2026-10",
        "2026-11",
    ]


def test_replaced_data_block_nothing() -> None:
    damage = damage_of(Unit("billing_lines", "2026-01", "aws"))
    assert damage.lacking("2025-12") == {"billing_lines 2026-01 aws": "its file is gone"}
    damage.left.clear()
    assert damage.lacking("2026-01") == {}
