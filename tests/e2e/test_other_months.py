"""What a month shows also changes with the runs and bills of other months."""

from __future__ import annotations

import json
import shutil
import sqlite3
from datetime import datetime, timedelta, timezone
from decimal import Decimal
from pathlib import Path

import pytest

from runspend import pipeline
from runspend.config.settings import Settings, load_settings
from runspend.core.step_result import Outcome
from tests.e2e.conftest import ask
from tests.tiny_world import make_tiny_world, write_bill

AUGUST, SEPTEMBER, OCTOBER, NOVEMBER = (datetime(2026, month, 5, tzinfo=timezone.utc) for month in (8, 9, 10, 11))
NOW = datetime(2026, 11, 20, 6, tzinfo=timezone.utc)


@pytest.fixture
def config(tmp_path: Path, store: Path) -> Path:
    """A tiny world with a run of three hours in August, another in September, and one of two hours in October, before its first pipeline run."""
    config = make_tiny_world(tmp_path / "tiny", store)
    (config.parent / "bills" / "bill" / "part.csv").unlink()
    for month in (AUGUST, SEPTEMBER, OCTOBER):
        change_bill(config, month)
    with sqlite3.connect(config.parent / "mlflow.db") as mlflow:
        first, second = (row[0] for row in mlflow.execute("select run_uuid from runs order by start_time"))
        for run_id, name, start in ((first, "august", AUGUST), (second, "october", OCTOBER)):
            moment = int(start.timestamp() * 1000)
            mlflow.execute(
                "update runs set name = ?, end_time = end_time - start_time + ?, start_time = ? where run_uuid = ?",
                (name, moment, moment, run_id),
            )
        for table in ("runs", "tags"):
            names = [row[1] for row in mlflow.execute(f"pragma table_info({table})")]
            values = ", ".join("'september'" if name == "name" else "?" if name == "run_uuid" else name for name in names)
            mlflow.execute(f"insert into {table} select {values} from {table} where run_uuid = ?", ("e" * 32, first))
        days = (SEPTEMBER - AUGUST).days * 86_400_000
        mlflow.execute("update runs set start_time = start_time + ?, end_time = end_time + ? where name = 'september'", (days, days))
    return config


def change_bill(config: Path, month: datetime, cost: str = "40") -> None:
    """Write the bill of one month. The machine's hours cost as much as given."""
    part = config.parent / "bills" / "bill" / f"{month:%m}.csv"
    write_bill(part, 24, day=month)
    part.write_text(part.read_text().replace("40.0000000000", cost))


def nest(config: Path, child: str, parent: str) -> None:
    """Make one run a nested run of another."""
    with sqlite3.connect(config.parent / "mlflow.db") as mlflow:
        mlflow.execute(
            "insert into tags (key, value, run_uuid) select 'mlflow.parentRunId', p.run_uuid, c.run_uuid from runs p, runs c"
            " where p.name = ? and c.name = ?",
            (parent, child),
        )


def at(config: Path, run: str, start: datetime, end: datetime) -> None:
    """Set the start and end of a run."""
    with sqlite3.connect(config.parent / "mlflow.db") as mlflow:
        mlflow.execute(
            "update runs set start_time = ?, end_time = ? where name = ?", (int(start.timestamp() * 1000), int(end.timestamp() * 1000), run)
        )


def night(settings: Settings, now: datetime = NOW) -> Outcome:
    """Run the pipeline up to the cost tables. A problem fails the test."""
    outcome = pipeline.extract(settings, now=now)
    outcome.merge(pipeline.load(settings, now=now))
    outcome.merge(pipeline.allocate(settings, now=now))
    assert outcome.problems == []
    return outcome


def totals(settings: Settings) -> dict[str, Decimal]:
    """Return `cost_with_children` of each run."""
    return {row["run_name"]: row["cost_with_children"] for row in ask(settings, "select run_name, cost_with_children from run_costs")}


def test_a_total_follows_children_that_start_months_later(config: Path) -> None:
    """The child's cost is in its parent's total, also after its bill changes. A month between them is not built again."""
    settings = load_settings(config)
    night(settings)
    assert totals(settings) == {"august": 120, "september": 120, "october": 80}
    nest(config, "october", "august")
    outcome = night(settings)
    assert totals(settings) == {"august": 200, "september": 120, "october": 80}
    assert {"summarize 2026-08", "summarize 2026-10"} <= {*outcome.changed}
    change_bill(config, OCTOBER, "50")
    outcome = night(settings)
    assert totals(settings) == {"august": 220, "september": 120, "october": 100}
    assert "summarize 2026-09" in outcome.unchanged


def pages(settings: Settings) -> dict[str, Decimal]:
    """Write the report pages that are due. Return the cost allocated to runs on each."""
    outcome = pipeline.report(settings, now=NOW)
    return {period: figures.currencies[0].parts["allocated to runs"].effective_cost for period, figures in outcome.reported.items()}


def test_a_page_follows_corrections_in_the_bill_of_a_later_month(config: Path) -> None:
    """The page of October, and the next one, which compares with it, have a correction in November's bill. Earlier pages are not written again."""
    change_bill(config, NOVEMBER)
    settings = load_settings(config)
    night(settings)
    assert pages(settings) == {"2026-08": 120, "2026-09": 120, "2026-10": 80, "2026-11": 0}
    assert pages(settings) == {"2026-11": 0}
    bills = config.parent / "bills" / "bill"
    charge = (bills / "10.csv").read_text().splitlines()[1].replace("40", "-30")  # the hour from 00:00
    for there, here in (("2026-11-01", "2026-12-01"), ("2026-10-01", "2026-11-01")):
        charge = charge.replace(there, here)
    with (bills / "11.csv").open("a") as november:
        november.write(f"{charge}\n")
    night(settings)
    assert pages(settings) == {"2026-10": 50, "2026-11": 0}


def test_a_page_follows_the_exchange_rates_of_its_days(config: Path) -> None:
    """A page with a missing rate is written again once the rate is there, and no page is written again for a rate of later days."""
    for bill in (config.parent / "bills" / "bill").glob("*.csv"):
        bill.write_text(bill.read_text().replace("USD", "EUR"))
    rates: list[dict[str, object]] = []

    def with_rate(rate: float, date: str) -> Settings:
        rates.append({"from": "EUR", "to": "USD", "rate": rate, "date": date})
        config.write_text(json.dumps({**json.loads(config.read_text()), "rates": {"exchange": rates}}))
        return load_settings(config)

    settings = with_rate(2, "2026-09-01")
    night(settings)
    assert pages(settings) == {"2026-08": 120, "2026-09": 120, "2026-10": 160}  # no rate: euros
    assert pages(with_rate(3, "2026-08-01")) == {"2026-08": 360, "2026-09": 240, "2026-10": 160}
    assert pages(with_rate(4, "2026-10-01")) == {"2026-10": 320}
    assert pages(with_rate(5, "2026-09-02")) == {"2026-09": 600, "2026-10": 320}
    assert pages(with_rate(6, "2026-11-01")) == {"2026-10": 320}


@pytest.mark.parametrize(
    "nights", [[], [datetime(2026, 12, 10, tzinfo=timezone.utc), datetime(2027, 2, 20, tzinfo=timezone.utc)]], ids=["open", "closed"]
)
def test_a_forgotten_server_leaves_open_months_and_stays_in_closed_ones(config: Path, nights: list[datetime]) -> None:
    """The server had the only run of September. An open month loses it from every cost table, a closed one keeps it, and the checks pass."""
    shutil.copy(config.parent / "mlflow.db", config.parent / "old.db")
    for name, runs in (("mlflow", "name = 'september'"), ("old", "name <> 'september'")):
        with sqlite3.connect(config.parent / f"{name}.db") as mlflow:
            mlflow.execute(f"delete from runs where {runs}")
    written = json.loads(config.read_text())
    config.write_text(json.dumps({**written, "tracking": [*written["tracking"], {"name": "old", "uri": "sqlite:///old.db"}]}))
    for now in (NOW, *nights):
        night(load_settings(config), now)
    assert totals(load_settings(config)) == {"august": 120, "september": 120, "october": 80}
    config.write_text(json.dumps(written))
    settings = load_settings(config)
    pipeline.forget(settings, "old", now=NOW)
    night(settings, nights[-1] if nights else NOW)
    assert totals(settings) == {"august": 120, "october": 80} | ({"september": 120} if nights else {})
    sums = [ask(settings, f"select sum(effective_cost) as cost from {table}") for table in ("run_costs", "run_costs_daily")]
    assert sums[0] == sums[1]
    assert pipeline.check(settings, now=NOW).problems == []


def test_run_costs_of_a_closed_month_follow_the_bills_of_open_ones(config: Path) -> None:
    """A run of August reached September, and so did its child. When its end is corrected, or its child's bill, its costs in September change."""
    (config.parent / "bills" / "bill" / "10.csv").unlink()
    last, first = datetime(2026, 8, 31, tzinfo=timezone.utc), datetime(2026, 9, 1, tzinfo=timezone.utc)
    for day in (last, first):
        change_bill(config, day)
    at(config, "august", last + timedelta(hours=22), first + timedelta(hours=2))
    at(config, "october", first + timedelta(hours=4), first + timedelta(hours=5))
    nest(config, "october", "august")
    settings = load_settings(config)
    for month, day in ((9, 5), (9, 20), (11, 16)):
        night(settings, datetime(2026, month, day, tzinfo=timezone.utc))
    states = ask(settings, "select distinct state from period_states order by billing_period")
    assert [row["state"] for row in states] == ["closed", "final"]
    assert totals(settings) == {"august": 200, "september": 0, "october": 40}
    at(config, "august", last + timedelta(hours=22), first)
    night(settings, datetime(2026, 11, 17, tzinfo=timezone.utc))
    assert totals(settings) == {"august": 120, "september": 0, "october": 40}
    change_bill(config, first, "50")
    night(settings, datetime(2026, 11, 18, tzinfo=timezone.utc))
    assert totals(settings) == {"august": 130, "september": 0, "october": 50}
    assert pipeline.check(settings, now=NOW).problems == []
