"""Statements of the demo company. Their direct cost is what `runspend costs` prints, and together they equal the ledger."""

from __future__ import annotations

import json
from decimal import Decimal
from pathlib import Path

from runspend.actions.statement import plan_month
from runspend.config.settings import load_settings
from runspend.core.amounts import add, round_money
from runspend.warehouse.factory import open_warehouse
from tests.command import run_here

LEDGER = "select sum(effective_cost) as cost from cost_allocations where billing_period = '2026-10-01'"


def test_statements_of_a_month_equal_the_ledger_to_the_last_digit(made_night: Path) -> None:
    settings = load_settings(made_night)
    with open_warehouse(settings).reader() as reader:
        month = plan_month(reader, settings, "2026-10")
        [ledger] = reader.query(LEDGER)["cost"].to_pylist()
    words = ("--by", "team", "--period", "2026-10", "--where", "allocated_to=run", "--format", "json", "--config", str(made_night))
    printed = {row["team"]: Decimal(row["effective_cost"]) for row in json.loads(run_here("costs", *words).stdout)}
    direct = {team: add(line.cost for line in lines if line.part == "direct") for team, lines in month.statements.items() if team}
    assert len(direct) > 3 and direct == printed
    assert add(line.cost for lines in month.statements.values() for line in lines) == ledger
    assert add(line.rounded for lines in month.statements.values() for line in lines) == round_money(ledger)
