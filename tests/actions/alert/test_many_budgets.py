"""Many budgets at the same time: one series for the same money, and one scan for all experiments with a budget in their tags."""

from __future__ import annotations

from contextlib import nullcontext
from datetime import date, datetime, timedelta
from decimal import Decimal
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from runspend.actions import alert
from runspend.actions.alert import tag_budgets
from runspend.actions.alert.budget_costs import read_series
from runspend.config.settings import Budget
from tests.actions.alert.alert_world import NOW, UTC, budget, cost, in_memory, run, source, text_of, warehouse
from tests.actions.alert.test_kinds import TAGS, estimate, tagged
from tests.actions.alert.test_reference import Listening
from tests.actions.alert.test_run import mails
from tests.memory_records import MemoryRecords
from tests.settings_builder import make_settings


def judged(folder: Path, count: int, *budgets: Any) -> tuple[dict[str, tuple[Decimal | None, Decimal]], int]:
    """Return spent and estimated cost by title for this many experiments, each more expensive than the last, and the number of queries."""
    numbers = range(1, count + 1)
    rows = [cost("2026-11-05", str(n), experiment_id=str(n), experiment_name=f"e{n}") for n in numbers]
    rows += [cost("2026-11-06", "0.5", experiment_id=str(n), experiment_name=f"e{n}", allocated_to="idle") for n in numbers]
    rows += [
        cost("2026-11-06", "9000", experiment_id="1", tracking_server="other"),
        cost("2026-11-06", "8000", experiment_id="1", allocated_to="out_of_scope"),
    ]
    tables = {
        "cost_daily": rows,
        "sources": [source()],
        "experiments": [tagged("500 USD / month", str(n), name=f"e{n}") for n in numbers],
        "runs": [run(f"r{n}", experiment_id=str(n), start_time=datetime(2026, 11, 23, tzinfo=UTC)) for n in numbers],
        "run_estimates": [estimate(f"r{n}", "2026-11-23", str(n * 10)) for n in numbers],
    }
    listening = Listening(in_memory(**tables))
    found = alert.judge(listening, make_settings(folder, TAGS, *budgets), MemoryRecords(), NOW)
    return {s.budget.title: (s.spent, s.estimated) for s in found.statuses}, len(listening.asked)


def test_a_thousand_experiments_cost_no_more_queries_than_two(tmp_path: Path) -> None:
    """Each budget is judged by the cost and estimates of its own experiment on its own server. Out-of-scope cost counts for none of them."""
    few, asked = judged(tmp_path / "few", 2)
    many, asked_for_many = judged(tmp_path / "many", 1001)
    assert (asked_for_many, len(many)) == (asked, 1001)
    assert few == {f"experiment e{n}": (n + Decimal("0.5"), Decimal(n * 10)) for n in (1, 2)}
    assert all(many[f"experiment e{n}"] == (n + Decimal("0.5"), Decimal(n * 10)) for n in range(1, 1002))


def test_more_budgets_in_tags_than_the_limit_are_reported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """This can be a mistake or an attack. It takes limited time and gives a note."""
    monkeypatch.setattr(tag_budgets, "MOST", 3)
    found, _ = judged(tmp_path, 5)
    assert len(found) == 3


def test_budgets_of_the_same_money_are_read_once(tmp_path: Path) -> None:
    """A team's daily, monthly and yearly budgets use one sum of the query, each with its own period."""
    entries = [Budget.model_validate(budget(name, "5", every=every)) for name, every in (("a", "day"), ("b", "month"), ("c", "year"))]
    with warehouse(tmp_path / "w", cost_daily=[cost("2026-11-05", "7")]) as reader:
        listening = Listening(reader)
        found = read_series(listening, entries, NOW.date() - timedelta(days=400), date(2026, 12, 1))
    assert found[0] is found[1] is found[2] and sum(found[0].billed.values()) == 7
    assert "b0" in listening.asked[0][0] and "b1" not in listening.asked[0][0]


def test_a_storm_of_alerts_queries_nothing_for_mails_it_does_not_send(tmp_path: Path) -> None:
    """Twenty budgets of one recipient are exceeded, and one mail lists them. A recipient of only one gets its full mail."""
    entries = [budget(f"b{n:02d}", str(100 + n), actual=["100%"], forecast=[]) for n in range(20)]
    given = make_settings(tmp_path, *entries, budget("alone", "50", notify=["solo@acme.com", "vision-leads@acme.com"], forecast=[]))
    records = MemoryRecords()
    with warehouse(tmp_path / "w", cost_daily=[cost("2026-11-05", "200")], sources=[source()]) as reader:
        listening = Listening(reader)
        alert.run(partial(nullcontext, listening), given, records, NOW)
    assert len(listening.asked) < 20
    found = {m["To"]: m for m in mails(tmp_path).values()}
    assert len(found) == 2 and "TOP COSTS" in text_of(found["solo@acme.com, vision-leads@acme.com"])
    assert all(f"b{n:02d} " in text_of(found["vision-leads@acme.com"]) for n in range(20))
    short = next(value["mail"]["text"] for key, value in records.list("alerts").items() if key.startswith("b03."))
    assert all(
        part in " ".join(short.split())
        for part in (
            "b03 has spent 200.00 of 103.00 USD",
            "Runspend did not stop any run.",
            "CONFIDENCE",
            "complete to 22 Nov",
            "NEXT STEPS",
        )
    )
    assert "ACTIVE RUNS" not in short and "No matching runs" not in short
