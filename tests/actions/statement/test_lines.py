"""The arithmetic of statements: no cost is lost or counted twice, and rounded amounts add up as exact ones do."""

from __future__ import annotations

from decimal import Decimal
from typing import Any

from hypothesis import example, given, settings
from hypothesis import strategies as st

from runspend.actions.statement.lines import MOST_EXPERIMENTS, OTHERS, PART_OF, distribute, sums_of
from runspend.core.amounts import add, round_money

COSTS = st.decimals(-(10**9), 10**9, places=22, allow_nan=False)
ROWS = st.fixed_dictionaries(
    {
        "team": st.sampled_from([None, "a", "b", "c"]),
        "experiment_name": st.sampled_from([None, "x", "y"]),
        "cost_center": st.sampled_from([None, "1"]),
        "allocated_to": st.sampled_from(list(PART_OF)),
        "billing_currency": st.sampled_from(["EUR", "USD"]),
        "effective_cost": COSTS,
    }
)
SPREAD = ("idle", "shared", "unallocated")


def row(team: str | None, cost: str, target: str = "run", experiment: str | None = "x") -> dict[str, Any]:
    """Return one row of a bill in dollars."""
    return {
        "team": team,
        "experiment_name": experiment,
        "cost_center": None,
        "allocated_to": target,
        "billing_currency": "USD",
        "effective_cost": Decimal(cost),
    }


@settings(max_examples=150, deadline=None)
@given(rows=st.lists(ROWS, max_size=25), spread=st.sets(st.sampled_from(SPREAD)))
@example(rows=[row("a", "0.005"), row("b", "0.005"), row(None, "0.005", "idle")], spread={"idle"})
@example(rows=[row("a", "-5"), row("b", "0"), row(None, "7", "shared")], spread={"shared"})
def test_all_statements_add_up_to_the_bill_exactly_and_to_the_cent(rows: list[dict[str, Any]], spread: set[str]) -> None:
    found = distribute(rows, "effective_cost", spread, ["gone"])
    assert found["gone"] == ()
    for currency in ("EUR", "USD"):
        billed = add(r["effective_cost"] for r in rows if r["billing_currency"] == currency)
        totals = [sums_of(line for line in lines if line.currency == currency) for lines in found.values()]
        assert add(t.cost for t in totals) == billed
        assert add(t.rounded for t in totals) == round_money(billed)
    for lines in found.values():
        assert all(abs(line.cost - line.rounded) < Decimal("0.01") for line in lines)
        assert len({(line.experiment, line.cost_center, line.part, line.currency) for line in lines}) == len(lines)
    for part in (PART_OF[target] for target in PART_OF):  # the sum of a part stays the same, independent of which statements contain it
        mine = add(line.cost for lines in found.values() for line in lines if line.part == part)
        assert mine == add(r["effective_cost"] for r in rows if PART_OF[r["allocated_to"]] == part)


def test_teams_share_idle_cost_by_their_direct_cost_and_each_experiment_has_its_part() -> None:
    bill = [row("a", "30", experiment="x"), row("a", "10", experiment="y"), row("b", "60"), row(None, "50", "idle", None)]
    found = distribute(bill, "effective_cost", ["idle"])
    idle = {(team, line.experiment): line.cost for team, lines in found.items() for line in lines if line.part == "idle"}
    assert idle == {("a", "x"): 15, ("a", "y"): 5, ("b", "x"): 30}
    separate = distribute(bill, "effective_cost", [])
    assert [(line.part, line.cost) for line in separate[None]] == [("idle", 50)]


def test_experiments_beyond_the_largest_are_one_line() -> None:
    bill = [row("a", f"{number}", experiment=f"e{number}") for number in range(1, MOST_EXPERIMENTS + 11)]
    lines = distribute([*bill, row(None, "1000", "idle", None)], "effective_cost", ["idle"])["a"]
    assert len({line.experiment for line in lines}) == MOST_EXPERIMENTS + 1
    assert add(line.cost for line in lines if (line.experiment, line.part) == (OTHERS, "direct")) == sum(range(1, 11))
    assert add(line.cost for line in lines) == add(r["effective_cost"] for r in bill) + 1000
