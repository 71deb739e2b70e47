"""What users read about the hours of an instance type that runs claim: the share, its meaning, and how much prices differ."""

from __future__ import annotations

from dataclasses import replace
from datetime import date
from pathlib import Path

import pytest

from runspend.allocation.claimed_hours import ClaimedHours, claimed_hours, with_open_prices
from runspend.warehouse.factory import open_warehouse
from tests.allocation.chain import DAY, read_world, run_on_duckdb

CASE = Path(__file__).parent / "instance_type_hours" / "shares_of_a_types_hours"
HALF = ClaimedHours(
    date(2026, 10, 1), "p4d.24xlarge|spot", "p4d.24xlarge", 3_600_000.0, 1_800_000.0, 0.0, 1_800_000.0, 0.5, 9.83, 9.9, "USD"
)


@pytest.mark.parametrize(
    ("ratio", "words"),
    [
        (0.5, "runs claim 50% of 1,000 h of p4d.24xlarge, spot"),
        (0.96, "runs claim 96% of 1,000 h of p4d.24xlarge, spot: nearly all, so other work on these machines would be charged to runs"),
        (0.031, "runs claim 3.1% of 1,000 h of p4d.24xlarge, spot: nearly none, so their machines are hard to tell from others"),
        (2.5, "runs claim 250% of 1,000 h of p4d.24xlarge, spot: more than was billed, so their shares are scaled down"),
    ],
)
def test_a_share_of_claimed_hours_is_explained(ratio: float, words: str) -> None:
    hours = replace(HALF, claimed_ratio=ratio)
    assert hours.words == words
    assert hours.is_notable is (ratio != 0.5)


def test_hours_that_no_run_claims_are_not_notable() -> None:
    """Runs asked for this type in another account, or state their machines."""
    assert not replace(HALF, claimed_seconds=0.0, claimed_ratio=0.0, highest_hour_cost=32.774).is_notable


def test_different_prices_are_stated() -> None:
    hours = replace(HALF, pool_key="p4d.24xlarge", highest_hour_cost=32.774)
    assert hours.is_notable
    assert (
        hours.words
        == "runs claim 50% of 1,000 h of p4d.24xlarge; an hour costs 9.83 to 32.77 USD, and runs do not state which price applies"
    )


def test_control_characters_of_a_bill_are_replaced() -> None:
    assert replace(HALF, pool_key="p4d\x1b[2J|spot\n").label == "p4d?[2J, spot?"


def test_rows_that_statements_do_not_tell_apart_have_one_range_of_prices(tmp_path: Path) -> None:
    """Some runs of p4d state no purchase option, so both of its rows have all its prices.

    Runs of g5 state nothing that tells its two prices apart.
    """
    run_on_duckdb(read_world(CASE), tmp_path / "warehouse")
    with open_warehouse(str(tmp_path / "warehouse")).reader() as reader:
        found = {hours.pool_key: hours for hours in claimed_hours(reader, DAY)}
    assert {key: (h.lowest_hour_cost, h.highest_hour_cost) for key, h in found.items()} == {
        "p4d|spot": (10, 48),
        "p4d|on_demand": (10, 48),
        "g5": (1, 2),
        "m5": (1, 1),
    }
    assert {key for key, h in found.items() if h.is_notable} == {"p4d|spot", "p4d|on_demand", "g5"}


def test_prices_in_two_currencies_are_not_compared() -> None:
    rows = [
        vars(replace(HALF, open_seconds=1.0, billing_currency=currency, pool_key=f"p4d.24xlarge|{currency}")) for currency in ("USD", "EUR")
    ]
    assert [hours.billing_currency for hours in with_open_prices(rows)] == ["USD", "EUR"]
