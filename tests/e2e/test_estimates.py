"""Pipeline runs whose bill is late estimate the cost of runs until the bill arrives. Other runs have bills in two currencies."""

from __future__ import annotations

import json
import os
import re
import signal
import sqlite3
import subprocess
import sys
from contextlib import closing
from datetime import timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from runspend import pipeline
from runspend.config.settings import Settings, load_settings
from runspend.core.step_result import Outcome
from runspend.interfaces.nightly_summary import summarize_pipeline_run
from runspend.warehouse.factory import open_warehouse
from tests.kept_world import KeptWorld
from tests.tiny_world import DAY, MACHINE, make_tiny_world

COST_TABLES = ("cost_allocations", "run_costs_daily", "run_costs", "cost_daily", "unallocated_costs", "billing_lines")


@pytest.fixture
def config(tmp_path: Path, store: Path) -> Path:
    return make_tiny_world(tmp_path / "tiny", store)


def deliver(config: Path, hours: int, cost: str = "40") -> None:
    """Write the bill after this many billed hours of the day: the first hour costs 40, the others `cost`."""
    part = config.parent / "bills" / "bill" / "part.csv"
    whole = config.parent / "whole.csv"
    if not whole.exists():
        whole.write_text(part.read_text())
    head, first, *others = whole.read_text().splitlines(keepends=True)
    part.write_text(head + first + "".join(line.replace("40.0000000000", f"{cost}.0000000000") for line in others[: hours - 1]))


def rows(settings: Settings, sql: str) -> list[dict[str, Any]]:
    with open_warehouse(settings).reader() as reader:
        found: list[dict[str, Any]] = reader.query(sql).to_pylist()
    return found


def night(settings: Settings, hour: int) -> Outcome:
    """Run the pipeline up to its tables. `whole_night` also sends mails."""
    outcome = pipeline.extract(settings, now=DAY + timedelta(hours=hour))
    for step in (pipeline.load, pipeline.settle):
        outcome.merge(step(settings, now=DAY + timedelta(hours=hour)))
    assert (outcome.exit_code, outcome.problems) == (0, [])
    return outcome


def whole_night(settings: Settings, hour: int) -> Outcome:
    outcome = pipeline.nightly(settings, now=DAY + timedelta(hours=hour))
    assert (outcome.exit_code, outcome.problems) == (0, [])
    return outcome


def digests(settings: Settings) -> dict[Any, str]:
    return {unit: state.digest for unit, state in open_warehouse(settings).states(*COST_TABLES).items()}


def estimates(settings: Settings) -> list[tuple[int, Decimal]]:
    found = rows(
        settings, "select estimated_from, sum(effective_cost) as cost from run_estimates group by estimated_from order by estimated_from"
    )
    return [(r["estimated_from"].hour, r["cost"]) for r in found]


@pytest.fixture(scope="module")
def guessed(tmp_path_factory: pytest.TempPathFactory, store: Path) -> KeptWorld:
    """A world whose pipeline runs at two and at six saw one hour of the bill. It is kept in four states.

    These are: after each of these runs, with the whole bill delivered, and with the bill in the ledger but not yet in the estimates.
    """
    world = KeptWorld(tmp_path_factory.mktemp("guessed"), store)
    settings = load_settings(world.config)
    deliver(world.config, 1)
    for hour, moment in ((2, "at two"), (6, "at six")):
        night(settings, hour)
        world.keep(moment)
    deliver(world.config, 24, "50")
    world.keep("delivered")
    for step in (pipeline.load, pipeline.allocate):
        assert step(settings, now=DAY + timedelta(hours=7)).problems == []
    world.keep("allocated")
    return world


def test_an_estimate_is_kept_until_its_hour_is_billed_and_then_is_judged(guessed: KeptWorld) -> None:
    """With one billed hour, three hours are estimated at its price.

    Two more arrive at 50 each: one is left, and the error is 20. Then none is left.
    """
    config = guessed.put_back("at six")
    settings = load_settings(config)
    assert estimates(settings) == [(1, 40), (2, 40), (3, 40)]
    assert rows(settings, "select sum(effective_cost) as c from cost_daily") == [{"c": 40}]
    deliver(config, 3, "50")
    night(settings, 7)
    assert estimates(settings) == [(3, 50)]  # the median of 40, 50, 50
    errors = (
        "select charge_date, source, runs, estimated_cost, actual_cost, difference_cost, judged_at from estimate_errors order by judged_at"
    )
    first = {
        "charge_date": DAY.date(),
        "source": "bill",
        "runs": 2,
        "estimated_cost": 80,
        "actual_cost": 100,
        "difference_cost": -20,
        "judged_at": DAY + timedelta(hours=7),
    }
    assert rows(settings, errors) == [first]
    deliver(config, 24, "50")
    night(settings, 8)
    assert estimates(settings) == []
    assert rows(settings, errors) == [
        first,
        {**first, "runs": 1, "estimated_cost": 50, "actual_cost": 50, "difference_cost": 0, "judged_at": DAY + timedelta(hours=8)},
    ]
    again = night(settings, 8)
    assert "estimate 2026-11" in again.unchanged
    assert len(rows(settings, errors)) == 2


def test_estimates_change_no_figure_of_the_bill(guessed: KeptWorld) -> None:
    """Cost tables depend only on the bill. Some hours later, with another estimate, they are the same."""
    settings = load_settings(guessed.put_back("at two"))
    before, first = digests(settings), estimates(settings)
    guessed.put_back("at six")
    assert digests(settings) == before
    assert estimates(settings) != first


def test_people_see_estimates_next_to_the_sums_and_not_in_them(guessed: KeptWorld) -> None:
    """The screen, the page and the budget's mail show the estimate. A later pipeline run shows how accurate it was."""
    config = guessed.put_back("at six")
    settings = load_settings(config)
    settings = settings.model_copy(update={"budget_entries": [settings.budgets[0].model_copy(update={"amount": Decimal(40)})]})
    outcome = whole_night(settings, 6)
    screen = summarize_pipeline_run(settings, outcome, now=DAY + timedelta(hours=6), seconds=1, is_watched=True)
    assert re.search(r"^  estimated since then +120\.0000 +2 Nov 01:00 UTC → 2 Nov 04:00 UTC; excluded from totals$", screen, re.MULTILINE)
    assert re.search(r"^  bill +40\.0000 ", screen, re.MULTILINE)
    facts = summarize_pipeline_run(settings, outcome, now=DAY + timedelta(hours=6), seconds=1, is_watched=False)
    assert "2026-11.USD.estimated=120\n" in facts
    page = (settings.home / "reports" / "2026-11.html").read_text()
    assert "about 120.0000 USD for runs" in page
    assert "estimated, not billed" in page
    mail = next((settings.home / "mail").glob("budget*.eml")).read_text()
    assert "about 120.00 USD" in mail
    deliver(config, 4, "50")
    whole_night(settings, 7)
    assert "Accuracy of estimates" in (settings.home / "reports" / "2026-11-audit.html").read_text()


def test_the_price_list_prices_a_machine_that_is_on_no_bill(config: Path) -> None:
    """`rates.prices` has prices by instance type. Without it, the run is counted, but no cost is invented."""
    deliver(config, 1)
    text = json.loads(config.read_text())
    part = config.parent / "bills" / "bill" / "part.csv"
    part.write_text(part.read_text().replace(MACHINE, "i-0ffffffffffffffff"))
    settings = load_settings(config)
    outcome = night(settings, 6)
    assert {r["reason"] for r in rows(settings, "select reason from run_estimates")} == {"no_instance_type"}
    assert "no estimate for 2 runs: no instance type" in summarize_pipeline_run(
        settings, outcome, now=DAY + timedelta(hours=6), seconds=1, is_watched=True
    )
    config.write_text(json.dumps({**text, "rates": {"prices": [{"instance_type": "other", "price": 3, "currency": "USD"}]}}))
    assert "estimate 2026-11" in pipeline.estimate(load_settings(config), now=DAY + timedelta(hours=6)).changed
    assert rows(settings, "select instance_type, hour_price from price_list") == [{"instance_type": "other", "hour_price": 3}]


KILLED = """
import sys
from contextlib import closing
from datetime import datetime
from pathlib import Path
from runspend import pipeline
from runspend.config.settings import load_settings
getattr(pipeline, sys.argv[1])(load_settings(Path(sys.argv[2])), now=datetime.fromisoformat(sys.argv[3]))
"""


def begin(step: str, config: Path, **environment: str) -> subprocess.Popen[bytes]:
    """Start a step of the pipeline in its own process, at seven."""
    command = [sys.executable, "-c", KILLED, step, str(config), (DAY + timedelta(hours=7)).isoformat()]
    return subprocess.Popen(
        command, env={**os.environ, **environment}, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )


@pytest.mark.parametrize(
    "point",
    [
        pytest.param("publish.before_journal", marks=pytest.mark.torture),
        "publish.after_first_move",
        pytest.param("publish.after_moves", marks=pytest.mark.torture),
    ],
)
def test_a_killed_estimate_neither_loses_nor_doubles_an_error(guessed: KeptWorld, point: str) -> None:
    """The process is killed while hours change from estimated to billed. The next run ends like one that was never killed."""
    config = guessed.put_back("allocated")
    assert begin("estimate", config, RUNSPEND_CRASH_AT=point).wait(120) == -signal.SIGKILL
    assert_judged_once(config)


@pytest.mark.torture
@pytest.mark.parametrize("after", [1, 4, 8])
def test_a_killed_pipeline_run_neither_loses_nor_doubles_an_error(guessed: KeptWorld, after: int) -> None:
    """The whole pipeline run is killed at several moments, with the same result."""
    config = guessed.put_back("delivered")
    child = begin("nightly", config)
    try:
        child.wait(after)
    except subprocess.TimeoutExpired:
        child.kill()
        child.wait()
    assert_judged_once(config)


def assert_judged_once(config: Path) -> None:
    settings = load_settings(config)
    night(settings, 7)
    assert estimates(settings) == []
    assert rows(settings, "select estimated_cost, actual_cost from estimate_errors") == [{"estimated_cost": 120, "actual_cost": 150}]


def test_bills_in_two_currencies_need_a_rate(config: Path) -> None:
    """Without a rate, the exit code is 3, the pair and the date are named, and everything else is done. With it, screen and budget are in dollars."""
    other = config.parent / "bills" / "euro" / "part.csv"
    other.parent.mkdir()
    other.write_text(
        (config.parent / "bills" / "bill" / "part.csv")
        .read_text()
        .replace("000000000000,USD,", "999999999999,EUR,")
        .replace(MACHINE, "i-0aaaaaaaaaaaaaaaa")
    )
    text = json.loads(config.read_text())
    text["billing"].append({"name": "euro", "uri": "bills/euro", "late_after": "400d"})
    text["budgets"].append({"name": "all", "amount": 3000, "notify": ["all@example.com"]})
    config.write_text(json.dumps(text))
    now = DAY + timedelta(days=2, hours=6)
    outcome = pipeline.nightly(load_settings(config), now=now)
    assert outcome.exit_code == 3
    assert any("rates.exchange" in problem and "from EUR to USD for 2026-11-02" in problem for problem in outcome.problems)
    assert (config.parent / "home" / "reports" / "2026-11.html").exists()
    config.write_text(json.dumps({**text, "rates": {"exchange": [{"from": "EUR", "to": "USD", "rate": "1.09", "date": "2026-11-01"}]}}))
    settings = load_settings(config)
    outcome = pipeline.nightly(settings, now=now)
    assert (outcome.exit_code, outcome.problems) == (0, [])
    day = Decimal(24 * 40)
    bill = day + day * Decimal("1.09")
    screen = summarize_pipeline_run(settings, outcome, now=now, seconds=1, is_watched=True)
    assert re.search(rf"^  bill +{bill:,.2f} ", screen, re.MULTILINE)
    spent = {r["budget"]: r["spent"] for r in rows(settings, "select budget, spent from budget_status")}
    assert spent["all"] == day  # no run uses the machine of the other bill
    ledger = rows(
        settings,
        "select billing_currency, sum(effective_cost) as c from cost_allocations group by billing_currency order by billing_currency",
    )
    assert ledger == [{"billing_currency": "EUR", "c": day}, {"billing_currency": "USD", "c": day}]


def test_a_trace_in_another_currency_is_a_note(config: Path) -> None:
    """MLflow prices tokens in dollars. Under `currency: EUR` without a rate, they are shown in dollars, and the pipeline run succeeds."""
    part = config.parent / "bills" / "bill" / "part.csv"
    part.write_text(part.read_text().replace(",USD,", ",EUR,"))
    with closing(sqlite3.connect(config.parent / "mlflow.db")) as db, db:
        moment = int((DAY + timedelta(hours=1)).timestamp() * 1000)
        db.execute(
            "insert into trace_info (request_id, experiment_id, timestamp_ms, status, total_cost) values ('t1', 1, ?, 'OK', 0.06)",
            (moment,),
        )
    text = {**json.loads(config.read_text()), "currency": "EUR"}
    config.write_text(json.dumps(text))
    settings, now = load_settings(config), DAY + timedelta(days=2, hours=6)
    outcome = whole_night(settings, 54)
    screen, facts = (summarize_pipeline_run(settings, outcome, now=now, seconds=1, is_watched=is_watched) for is_watched in (True, False))
    page = (settings.home / "reports" / "2026-11.html").read_text()
    assert [note for note in outcome.notes if "estimates in USD" in note] == [
        "2026-11: estimates in USD are not converted to EUR: no rate from USD to EUR for 2026-11-02. "
        "Add the rate under rates.exchange. No other figure needs it."
    ]
    assert re.search(r"^  bill +960\.00 ", screen, re.MULTILINE)
    assert re.search(r"^  tokens, list price +0\.060000 +USD; MLflow's price; on no bill", screen, re.MULTILINE)
    assert "2026-11.USD.estimated_tokens=0.06\n" in facts and "2026-11.EUR.estimated_tokens=0\n" in facts
    assert "list prices: 0.060000 USD" in page and "No exchange rate from USD to EUR is configured" in page
    assert "Currencies are never added" not in page
    rates = {"exchange": [{"from": "USD", "to": "EUR", "rate": "0.5", "date": "2026-11-01"}]}
    config.write_text(json.dumps({**text, "rates": rates}))
    again = pipeline.report(load_settings(config), now=now, periods=["2026-11"])
    assert (again.exit_code, again.notes) == (0, [])
    figures = again.reported["2026-11"]
    assert ([c.estimates.token_cost for c in figures.currencies], figures.other_estimates) == ([Decimal("0.03")], ())
