"""Machines as in real bills: resized, with one name in two accounts, billed late, idle without a run, or paid by the month.

A machine's page, the explorer and the ledger must agree on them to the last digit, also for one team.
"""

from __future__ import annotations

import asyncio
import datetime as dt
import html
import json
import re
from collections.abc import Mapping
from decimal import Decimal
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx
import pytest
from fastapi import FastAPI

from runspend.actions.explore import read_home
from runspend.actions.explore.home_page import HomePage
from runspend.config.settings import load_settings
from runspend.interfaces.web import Caller
from runspend.interfaces.web.app import create_app
from runspend.warehouse.factory import open_warehouse
from runspend.warehouse.parquet.warehouse import ParquetWarehouse
from runspend.warehouse.records import Records
from tests.allocation.chain import World, arrow, line, make_run, run_on_duckdb, summarize_on_duckdb

MINE, THEIRS = "a0" + "0" * 30, "b0" + "0" * 30
NOVEMBER = "from=2026-11-01&to=2026-11-30&compare=none"


def hours(day: int, first: int, count: int = 1, month: int = 11) -> str:
    begin = dt.datetime(2026, month, day, first, tzinfo=dt.timezone.utc)
    return f"{begin:%Y-%m-%dT%H:%M}..{begin + dt.timedelta(hours=count):%Y-%m-%dT%H:%M}"


def world() -> World:
    lines: list[dict[str, Any]] = []

    def bill(machine: str, at: str, cost: str, kind: str | None = None, month: int = 11, **more: Any) -> None:
        lines.append(line(len(lines), on=machine, at=at, cost=cost, hours=1, instance_type=kind, period=f"2026-{month:02}", **more))

    for day in range(1, 6):  # the team's run uses it only on the second
        for hour in range(2):
            bill("steady", hours(day, hour), "3.3333333333", "p4d")
    bill("steady", hours(20, 0, month=10), "-2", "p4d")  # a correction of October, in November's bill
    for account, kind, cost in (("account", "g5", "7"), ("other", "g6", "11")):
        bill("twin", hours(2, 0), cost, kind, sub_account_id=account)
    bill("resized", hours(2, 0), "1", "g5")
    bill("resized", hours(3, 0), "2", "g6")
    bill("late", hours(31, 23, month=10), "4", "n1")  # a machine's last hour is in October, and November has only its storage
    storage = {"service_category": "Storage", "service_name": "Notebook storage"}
    for hour in range(10):
        bill("late", hours(2, hour), "30", **storage)
    for cost, at in (("30", "2026-11-01T00:00..2026-12-01T00:00"), ("9", "2026-11-02T00:00..2026-11-05T00:00")):
        bill("monthly", at, cost, run_tag=MINE, service_name="SageMaker")
    bill("october", hours(2, 0, month=10), "1", month=10)
    runs = [
        make_run(id=MINE, at=hours(2, 0, 1), on=["steady"], team="vision", team_from="run.tag.team", experiment_name="exp"),
        make_run(id=THEIRS, at=hours(3, 0, 1), on=["resized"], team="nlp", team_from="run.tag.team", experiment_name="exp"),
    ]
    return {
        "billing_lines": lines,
        "billing_loads": [],
        "runs": [run for run, _ in runs],
        "run_resources": [stated for _, several in runs for stated in several],
    }


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> Path:
    home = tmp_path_factory.mktemp("untidy")
    tables = world()
    months = [dt.date(2026, month, 1) for month in (10, 11)]
    for month in months:
        run_on_duckdb(tables, home / "warehouse", month, check=False)
    for month in months:
        summarize_on_duckdb(home / "warehouse", month)
    bill = {"source": "aws", "kind": "bill", "state": "ok", "covered_until": dt.datetime(2026, 11, 6, tzinfo=dt.timezone.utc)}
    with ParquetWarehouse(home / "warehouse").step("load", "state") as step:
        step.put("sources", "all", "aws", arrow("sources", [{**bill, "late_after_seconds": 172800.0}]))
        assert step.publish()
    groups = {"vision-devs": ["vision"], "finance": "all"}
    (home / "runspend.yaml").write_text(json.dumps({"home": ".", "access": {"groups": groups, "header": "X-Groups"}}), encoding="utf-8")
    return home / "runspend.yaml"


@pytest.fixture(scope="module", params=["finance", "vision-devs"])
def anyone(request: pytest.FixtureRequest, config: Path) -> FastAPI:
    return create_app(load_settings(config), lambda: Caller("ben", (request.param,)))


@pytest.fixture(scope="module")
def finance(config: Path) -> FastAPI:
    return create_app(load_settings(config), lambda: Caller("ben", ("finance",)))


@pytest.fixture(scope="module")
def vision(config: Path) -> FastAPI:
    return create_app(load_settings(config), lambda: Caller("ben", ("vision-devs",)))


def get(app: FastAPI, address: str) -> httpx.Response:
    async def ask() -> httpx.Response:
        async with httpx.AsyncClient(transport=httpx.ASGITransport(app=app), base_url="http://127.0.0.1", timeout=120) as browser:
            return await browser.get(address)

    return asyncio.run(ask())


def costs(app: FastAPI, query: str) -> dict[str, Any]:
    answer = get(app, f"/api/v1/costs?{query}")
    assert answer.status_code == 200, answer.text
    found: dict[str, Any] = answer.json()
    return found


def of_groups(found: Mapping[str, Any]) -> dict[str | None, Decimal]:
    """Return the cost of each value of the first dimension, including parts without a run."""
    sums: dict[str | None, Decimal] = {}
    for row in found["rows"]:
        value = row[found["by"][0]]
        sums[value] = sums.get(value, Decimal(0)) + Decimal(row["cost"])
    return sums


def shown(page: httpx.Response) -> Decimal:
    """Return the cost at the top of a machine's page."""
    found = re.search(r"cost ([−0-9.,]+) USD effective", spoken(page.text))
    assert page.status_code == 200 and found, spoken(page.text)[:500]
    return Decimal(found[1].replace("−", "-").replace(",", "")).quantize(Decimal("0.01"))


def spoken(page: str) -> str:
    return " ".join(html.unescape(re.sub(r"<[^>]+>", " ", page)).split())


@pytest.mark.parametrize("machine", ["steady", "twin", "resized", "late"])
def test_a_machine_page_has_the_total_of_the_view_behind_its_links(finance: FastAPI, machine: str) -> None:
    page = get(finance, f"/machine/{machine}?period=2026-11")
    assert page.status_code == 200
    links = {html.unescape(link) for link in re.findall(r'href="\.\./(explore\?[^"]*)"', page.text)}
    own = next(link for link in links if "machine=" in link or "service=" in link)
    found = Decimal(costs(finance, urlsplit(own).query)["total"]["cost"])
    assert shown(page) == found.quantize(Decimal("0.01"))
    for link in links - {own}:  # lists by type contain the machine
        assert machine in of_groups(costs(finance, urlsplit(link).query))


def test_idle_days_of_a_machine_are_its_teams_to_see(anyone: FastAPI) -> None:
    """This includes days without the team's runs, whose bill lines the team does not see."""
    answer = get(anyone, "/machine/steady?period=2026-11")
    page = spoken(answer.text)
    assert [f"{day} Nov" in page for day in range(1, 7)] == [True] * 5 + [False]
    total = Decimal(costs(anyone, f"by=run&machine=steady&{NOVEMBER}")["total"]["cost"])
    assert total == 10 * Decimal("3.3333333333") and shown(answer) == Decimal("33.33")
    assert shown(get(anyone, "/machine/steady?period=2026-10")) == -2


def test_machines_of_one_name_have_the_types_of_their_accounts(finance: FastAPI) -> None:
    by_type = of_groups(costs(finance, f"by=instance_type&machine=twin&{NOVEMBER}"))
    assert by_type == {"g5": Decimal(7), "g6": Decimal(11)}
    assert "Machine of type g5 , g6 in November 2026" in spoken(get(finance, "/machine/twin").text)


def test_a_resized_machine_has_the_type_of_each_day(finance: FastAPI) -> None:
    assert of_groups(costs(finance, f"by=instance_type&machine=resized&{NOVEMBER}")) == {"g5": Decimal(1), "g6": Decimal(2)}


@pytest.mark.parametrize("by", ["machine", "instance_type"])
def test_comparing_with_an_earlier_period_does_not_change_the_groups(finance: FastAPI, by: str) -> None:
    days = f"by={by}&from=2026-11-02&to=2026-11-30"
    assert {k: v for k, v in of_groups(costs(finance, days)).items() if v} == of_groups(costs(finance, f"{days}&compare=none"))


def test_actions_lead_to_their_cost(finance: FastAPI, config: Path) -> None:
    settings = load_settings(config)
    with open_warehouse(settings).reader() as reader:
        home = read_home(reader, settings, Records(settings.home), dt.datetime(2026, 11, 6, tzinfo=dt.timezone.utc))
    assert home is not None and home.actions
    page = HomePage(home)
    for action in home.actions:
        assert Decimal(costs(finance, urlsplit(page.action_address(action)).query)["total"]["cost"]) == action.cost, action


@pytest.mark.parametrize(("first", "last"), [(1, 1), (1, 2), (3, 4), (10, 12), (1, 30)])
def test_runs_are_counted_and_their_costs_are_of_the_days_shown(finance: FastAPI, first: int, last: int) -> None:
    """A charge for a month counts in each of its days, but not in a run's days: run_costs_daily has all of it on the first day."""
    days = f"from=2026-11-{first:02}&to=2026-11-{last:02}&compare=none"
    found = costs(finance, f"by=run&{days}")
    by_run, listed = of_groups(found), {run["run_id"]: Decimal(run["cost"]) for run in found["runs"]}
    assert listed == {run: by_run.get(run, Decimal(0)) for run in listed} and MINE in listed
    teams = {row["team"]: row for row in costs(finance, f"by=team&{days}")["rows"] if row["part"] == "run"}
    assert teams["vision"]["runs"] == 1 and Decimal(teams["vision"]["cost"]) > 0
    assert "Charges longer than a day are not included" in get(finance, f"/explore?by=team&{days}").text


def test_servers_of_other_teams_have_no_link_and_no_count(vision: FastAPI) -> None:
    page = get(vision, f"/explore?by=server&{NOVEMBER}").text
    assert "other teams" in page and "server=other" not in page
    for row in costs(vision, f"by=server&{NOVEMBER}")["rows"]:
        assert (row["runs"] is None) == (row["server"] == "other teams" or row["part"] != "run")
    assert "your runs" in page
