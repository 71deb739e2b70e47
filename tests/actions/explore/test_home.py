"""The home page has the figures of the explorer and of `runspend costs`, up to the last day that the bills cover completely."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from datetime import date, datetime, timedelta, timezone
from decimal import Decimal
from pathlib import Path
from urllib.parse import parse_qsl

import pytest

from runspend.actions.explore import View, home_as_page, read_figures, read_home
from runspend.actions.explore.home import Home, forecast_month, months_of
from runspend.actions.explore.home_page import HomePage
from runspend.config.settings import Settings, load_settings
from runspend.core.amounts import add
from runspend.core.errors import UsageError
from runspend.warehouse.base import Unit
from runspend.warehouse.factory import open_warehouse
from runspend.warehouse.parquet.warehouse import ParquetWarehouse
from runspend.warehouse.records import Records
from tests.actions.explain import explain_world as w
from tests.allocation.chain import arrow
from tests.command import run_here

NOW = datetime(2026, 10, 4, 6, tzinfo=timezone.utc)
PLATFORM = [f"allocated_to={part}" for part in ("run", "logged_model", "orphan", "idle", "shared", "unallocated")]


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A warehouse with three days of October, and a budget that no alert step has judged."""
    folder = tmp_path_factory.mktemp("home")
    w.make_explained(folder / "warehouse")
    budget = "budgets: [{name: vision, amount: 10, every: month, for: {team: vision}, notify: [a@example.com]}]\n"
    (folder / "runspend.yaml").write_text(f"home: .\n{budget}", encoding="utf-8")
    return folder / "runspend.yaml"


def home_of(settings: Settings, *, currency: str | None = None, hides_people: bool = False) -> Home:
    with open_warehouse(settings).reader() as reader:
        found = read_home(reader, settings, Records(settings.home), NOW, currency=currency, hides_people=hides_people)
    assert found is not None
    return found


def test_the_pages_month_equals_the_command_lines(config: Path) -> None:
    home = home_of(load_settings(config))
    where = [word for part in PLATFORM for word in ("--where", part)]
    days = ("--since", f"{home.month.view.since}", "--until", f"{home.month.view.last}")
    printed = json.loads(run_here("costs", "--by", "allocated_to", *days, *where, "--format", "json", "--config", str(config)).stdout)
    assert {part: amount.cost for part, amount in home.month.parts.items() if part != "out_of_scope"} == {
        row["allocated_to"]: Decimal(row["effective_cost"]) for row in printed
    }
    assert add(home.months[-1][1].values()) == home.month.total.cost > 0
    assert home.months[-1][0] == date(2026, 10, 1)


def test_a_day_that_bills_do_not_wholly_cover_does_not_count(config: Path, tmp_path: Path) -> None:
    """The bill ends in the morning of the third day. The page ends with the second day, and names the bill."""
    shutil.copytree(config.parent, tmp_path / "copy")
    warehouse = ParquetWarehouse(tmp_path / "copy" / "warehouse")
    with warehouse.step("load", "state") as step:
        rows = warehouse.read(Unit("sources", "all", "aws"))
        assert rows is not None
        early = [{**row, "covered_until": datetime(2026, 10, 3, 7, tzinfo=timezone.utc)} for row in rows.to_pylist()]
        step.put("sources", "all", "aws", arrow("sources", early))
        assert step.publish()
    home = home_of(load_settings(tmp_path / "copy" / "runspend.yaml"))
    whole = home_of(load_settings(config))
    assert home.month.view.last == date(2026, 10, 2) and whole.month.view.last == date(2026, 10, 3)
    assert home.month.total.cost == add(group.course[day] for group in (*whole.month.groups, *whole.month.without_run) for day in (0, 1))
    assert [(bill.name, bill.covered_until) for bill in home.bills] == [("aws", datetime(2026, 10, 3, 7, tzinfo=timezone.utc))]


def test_it_names_budgets_in_trouble_and_what_costs_without_use(config: Path) -> None:
    home = home_of(load_settings(config))
    assert [(row["budget"], row["state"]) for row in home.budgets] == [("vision", "not judged")]
    assert [action.cost for action in home.actions] == sorted((action.cost for action in home.actions), reverse=True)
    assert "idle" in {action.kind for action in home.actions}
    for action in home.actions:  # the page that an action links to has its cost
        query = parse_qsl(HomePage(home).action_address(action).partition("?")[2], keep_blank_values=True)
        settings = load_settings(config)
        with open_warehouse(settings).reader() as reader:
            assert read_figures(reader, settings, View.of(query, date(2026, 10, 3)), date(2026, 10, 3)).total.cost == action.cost
    page = home_as_page(home)
    assert "no alert step since it was added" in page
    assert page.count("<script") == 1


def test_a_month_of_even_days_ends_as_it_began(config: Path) -> None:
    """Of sixty days at 10 each, eleven are in this month. The forecast adds 10 a day to its end, and last month counts completely."""
    home = home_of(load_settings(config))
    last = date(2026, 10, 11)
    days = {(last - timedelta(days=n), "run"): Decimal(10) for n in range(60)}
    forecast = forecast_month(days, last + timedelta(days=1))
    assert forecast is not None and forecast.total == 310
    months = months_of(days, date(2026, 10, 1), last + timedelta(days=1))
    assert [add(parts.values()) for _, parts in months] == [190, 300, 110]
    seen = replace(home, months=months, forecast=forecast)
    assert seen.last_month == 300
    assert "probably be about <b>310</b>" in home_as_page(seen)
    assert forecast_month(days, date(2026, 11, 1)) is None  # the month is over
    assert home.forecast is None  # with only three days of history


def test_currencies_are_not_added_without_a_rate(config: Path, tmp_path: Path) -> None:
    shutil.copytree(config.parent, tmp_path / "copy")
    copied = tmp_path / "copy" / "runspend.yaml"
    copied.write_text(copied.read_text(encoding="utf-8") + "currency: EUR\n", encoding="utf-8")
    settings = load_settings(copied)
    with pytest.raises(UsageError, match=r"currency=USD"):
        home_of(settings)
    assert home_of(settings, currency="USD").month.total.cost == home_of(load_settings(config)).month.total.cost
