"""Real questions of users, each answered from the home page in at most three clicks, in a real browser over the demo.

The tests use a pointer on a desktop, a phone in dark mode, and only the keyboard. The HTTP API and Python give the same figures, to the
last digit.
"""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Callable, Iterator
from datetime import datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import httpx
import pytest
from playwright.sync_api import Browser, Locator, Page

import runspend
from runspend.interfaces.web import api, app
from tests.e2e.served import CHROMIUM, served

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="Chromium is not installed (apt-get install chromium)")


@pytest.fixture(scope="module")
def address(made_night: Path) -> Iterator[str]:
    """The address of the pages over the demo after a pipeline run, with its month as the current one."""

    class InItsMonth(datetime):
        @classmethod
        def now(cls, tz: Any = None) -> datetime:  # type: ignore[override]
            return datetime(2026, 11, 30, 12, tzinfo=tz)

    with pytest.MonkeyPatch.context() as patch, served(made_night) as address:
        for module in (api, app):
            patch.setattr(module, "datetime", InItsMonth)
        yield address


class Visitor:
    """A user who begins at the home page. Counts followed links and pressed buttons."""

    def __init__(self, page: Page, address: str, *, by_keyboard: bool) -> None:
        self.page, self.by_keyboard, self.clicks = page, by_keyboard, 0
        page.goto(f"{address}/")
        link = self.link("Explore these days").get_attribute("href") or ""
        self.days = {key: re.findall(rf"{key}=([0-9-]+)", link)[0] for key in ("from", "to")}

    def follow(self, what: Locator) -> None:
        """Follow a link or press a button, and wait for the page that it opens."""
        with self.page.expect_navigation():
            self.press(what)

    def press(self, what: Locator) -> None:
        """Click on an element, or press Enter on it."""
        self.clicks += 1
        if self.by_keyboard:
            self.reach(what)
            self.page.keyboard.press("Enter")
        else:
            what.click()

    def reach(self, what: Locator) -> None:
        """Press Tab until an element has the focus."""
        for _ in range(150):
            self.page.keyboard.press("Tab")
            if what.evaluate("e => e === document.activeElement"):
                return
        raise AssertionError(f"the Tab key does not reach {what}")

    def find(self, text: str) -> None:
        """Search for a string."""
        field = self.page.get_by_role("searchbox", name="Search runs")
        if self.by_keyboard:
            self.reach(field)
            self.page.keyboard.type(text)
        else:
            field.fill(text)
        self.follow(self.page.get_by_role("button", name="Search"))

    def link(self, name: str | re.Pattern[str], within: str = "main") -> Locator:
        """Return the first link with this name."""
        return self.page.locator(within).get_by_role("link", name=name, exact=True).first

    def row(self, section: str, name: str) -> dict[str, str]:
        """Return a row of a section's table, with its cells by their names."""
        cells = self.page.locator(f"#{section} tr", has=self.page.get_by_role("link", name=name, exact=True)).first.locator("td[data-l]")
        return {cell.get_attribute("data-l") or "": cell.inner_text() for cell in cells.all()}

    @property
    def text(self) -> str:
        """Return all text on the page."""
        return self.page.locator("body").inner_text()


class Programs:
    """Programs that ask the same questions, through the HTTP API and Python."""

    def __init__(self, address: str, config: Path) -> None:
        self.address, self.python = address, runspend.connect(config)

    def get(self, path: str, **parameters: str) -> Any:
        """Return the API's answer."""
        answer = httpx.get(f"{self.address}/api/v1/{path}", params=parameters, timeout=60)
        assert answer.status_code == 200, answer.text
        return answer.json()

    def row(self, days: dict[str, str], by: str, value: str, **filters: str) -> dict[str, Any]:
        """Return a row of the explorer for some days. API and Python must agree to the last digit."""
        (found,) = [row for row in self.get("costs", **days, by=by, **filters)["rows"] if row[by] == value and row["part"] in ("run", None)]
        ours = self.python.explore(by=by, since=days["from"], until=days["to"], where=filters).to_dicts()
        (same,) = [row for row in ours if row[by] == value and row["part"] in ("run", None)]
        for key in ("cost", "change", "cost_per_gpu_hour"):
            assert same.get(key) == (None if found.get(key) is None else Decimal(found[key])), key
        assert (same["runs"], same["failed_runs"]) == (found["runs"], found["failed_runs"])
        return found

    def sql(self, statement: str) -> list[dict[str, Any]]:
        """Return the rows of a statement. API and Python must agree."""
        rows = self.get("sql", q=statement)["rows"]
        same = self.python.sql(statement).to_dicts()
        assert [{key: str(value) for key, value in row.items()} for row in rows] == [
            {key: format(value, "f").rstrip("0").rstrip(".") if isinstance(value, Decimal) else str(value) for key, value in row.items()}
            for row in same
        ]
        return same


def shown(amount: str | Decimal, places: int = 2) -> str:
    """Return an amount as the pages print it."""
    return f"{Decimal(amount):,.{places}f}"


def cost_of_a_team(v: Visitor, p: Programs) -> None:
    """A team lead: what has my team cost this month, and is that more than last month?"""
    row, same = v.row("teams", "vision"), p.row(v.days, "team", "vision")
    assert row["cost"] == shown(same["cost"])
    assert row["change"] == f"+{shown(same['change'])}"
    assert (row["runs"], row["failed"]) == (str(same["runs"]), str(same["failed_runs"]))


def most_expensive_experiment(v: Visitor, p: Programs) -> None:
    """A team lead: which of our experiments costs the most?"""
    v.follow(v.link("vision", "#teams"))
    name = v.page.locator("#groups tbody tr").first.get_by_role("link").first.inner_text()
    assert v.row("groups", name)["cost"] == shown(p.row(v.days, "experiment", name, team="vision", allocated_to="run")["cost"])


def most_expensive_run(v: Visitor, p: Programs) -> None:
    """A team lead: which run was the most expensive, and on what did it spend the money?"""
    v.follow(v.link("vision", "#teams"))
    v.follow(v.page.locator("#runs tbody a").first)
    (run,) = re.findall(r"/run/([0-9a-f]{32})", v.page.url)
    (cost,) = p.get(f"explain/{run}")["currencies"]
    assert shown(cost["summed"]["effective_cost"], 4) in v.text and "Machines by hour" in v.text
    (same,) = p.python.explain(run).to_dict()["currencies"]
    assert (same["summed"], same["stated"]) == (cost["summed"], cost["stated"])


def failed_runs(v: Visitor, p: Programs) -> None:
    """An ML engineer: whose failed runs cost the most?"""
    link = v.link(re.compile("^Failed runs of "), "#actions")
    name = link.inner_text().removeprefix("Failed runs of ")
    cost = v.row("actions", link.inner_text())["cost"]
    v.follow(link)
    runs = v.page.locator("#runs tr", has_text="FAILED")
    assert runs.count() > 0 and runs.first.locator("td[data-l=user]").inner_text()
    (same,) = p.sql(
        "select sum(a.effective_cost) as cost from cost_allocations a join run_costs r using (tracking_server, workspace, run_id)"
        f" where r.experiment_name = '{name}' and r.run_status in ('FAILED', 'KILLED')"
        f" and a.charge_date between date '{v.days['from']}' and date '{v.days['to']}'"
    )
    assert cost == shown(same["cost"])
    assert cost in v.page.locator("body").inner_text()


def end_of_the_month(v: Visitor, p: Programs) -> None:
    """A finance partner: what has this month cost, and where will it end?"""
    found = p.get("costs", **v.days)["total"]["cost"]
    kinds = [kind for kind in p.get("costs", **v.days)["by_allocated_to"] if kind != "out_of_scope"]
    ours = p.python.costs(by="allocated_to", since=v.days["from"], until=v.days["to"], where={"allocated_to": kinds}).to_dicts()
    assert sum(row["effective_cost"] for row in ours) == Decimal(found)
    assert v.page.locator("h1").inner_text() == f"{shown(found)} USD"
    (forecast,) = re.findall(r"it will probably be about ([\d,]+) \(80% interval: ([\d,]+) to ([\d,]+)\)", v.text)
    middle, low, high = (Decimal(figure.replace(",", "")) for figure in forecast)
    assert Decimal(found) < low < middle < high


def budget_in_trouble(v: Visitor, p: Programs) -> None:
    """A finance partner: which budget was exceeded, by how much, and what drove it?"""
    row = v.row("budgets", "vision")
    v.follow(v.link("vision", "#budgets"))
    (state,) = [found for found in p.get("budgets")["rows"] if found["budget"] == "vision"]
    (same,) = p.sql("select sum(effective_cost) as spent from cost_daily where team = 'vision' and charge_date >= date '2026-11-01'")
    assert (Decimal(state["spent"]), state["state"]) == (same["spent"], "exceeded")
    assert row["spent"] == shown(state["spent"]) and row["used"] == f"{state['percent']}%"
    assert row["spent"] in v.text and "vit-pretrain" in v.text


def whole_bill(v: Visitor, p: Programs) -> None:
    """A finance partner: do the figures of October add up to the bill?"""
    v.follow(v.link("All reports"))
    v.follow(v.page.locator("a[href='2026-10-audit.html']").first)
    days = {"from": "2026-10-01", "to": "2026-10-31"}
    whole = sum(Decimal(part["cost"]) for part in p.get("costs", **days)["by_allocated_to"].values())
    assert whole == sum(row["effective_cost"] for row in p.python.costs(by="team", since=days["from"], until=days["to"]).to_dicts())
    assert shown(whole) in v.text and "Reconciliation" in v.text


def idle_machine(v: Visitor, p: Programs) -> None:
    """A platform engineer: which machine was idle the most, and when?"""
    v.follow(v.link(re.compile("^Idle "), "#actions"))
    row = v.page.locator("#groups tbody tr").first
    name, cost = row.locator("[title]").first.get_attribute("title") or "", row.locator("td[data-l=cost]").inner_text()
    found = p.row({"from": "2026-11-01", "to": "2026-11-30"}, "machine", name, machine=name, allocated_to="idle")
    assert cost == shown(found["cost"])
    v.follow(row.get_by_role("link", name=re.compile("^Page of machine ")))
    assert shown(found["cost"]) in v.page.locator("#days tr.sum").inner_text()


def table_for_a_sheet(v: Visitor, p: Programs) -> None:
    """An analyst: give me this table as a file."""
    v.follow(v.link("Explore these days"))
    with v.page.expect_download() as download:
        v.press(v.link("CSV"))
    rows = list(csv.DictReader(io.StringIO(Path(download.value.path()).read_text(encoding="utf-8"))))
    ours = p.python.explore(by="team", since=v.days["from"], until=v.days["to"]).to_dicts()
    assert [(row["team"], Decimal(row["cost"])) for row in rows] == [(row["team"] or "", row["cost"]) for row in ours]


def gpu_hour(v: Visitor, p: Programs) -> None:
    """An ML engineer: what does a GPU hour cost in each of our experiments?"""
    v.follow(v.link("vision", "#teams"))
    names = [row["experiment"] for row in p.get("costs", **v.days, by="experiment", team="vision", allocated_to="run")["rows"]]
    assert len(names) >= 2
    for name in names:
        same = p.row(v.days, "experiment", name, team="vision", allocated_to="run")["cost_per_gpu_hour"]
        assert v.row("groups", name)["per GPU hour"] == (shown(same) if same else "")


def run_by_name(v: Visitor, p: Programs) -> None:
    """An ML engineer: what did my run cost, and is that usual for its experiment?"""
    v.find("vit-pretrain-39")
    v.follow(v.link("vit-pretrain-39"))
    (same,) = p.sql("select effective_cost as cost from run_costs where run_name = 'vit-pretrain-39'")
    assert shown(same["cost"], 4) in v.text and re.search(r"times the median of the \d+ runs of its experiment", v.text)


def freshness(v: Visitor, p: Programs) -> None:
    """Anyone: how new are the bills?"""
    bills = [found for found in p.get("sources")["rows"] if found["kind"] == "bill"]
    assert len(bills) == 2
    for bill in bills:
        (same,) = p.sql(f"select cast(covered_until as string) as until from sources where source = '{bill['source']}'")
        assert same["until"][:10] == bill["covered_until"][:10] == "2026-11-22"
        assert v.page.locator("#bills tr", has_text=bill["source"]).locator("td").last.inner_text() == "22 Nov 23:00 UTC"


QUESTIONS = (
    cost_of_a_team, most_expensive_experiment, most_expensive_run, failed_runs, end_of_the_month, budget_in_trouble, whole_bill, idle_machine,
    table_for_a_sheet, gpu_hour, run_by_name, freshness,
)  # fmt: skip
WAYS: dict[str, dict[str, Any]] = {
    "desk": {"viewport": {"width": 1280, "height": 900}, "color_scheme": "light"},
    "phone": {"viewport": {"width": 390, "height": 844}, "color_scheme": "dark", "has_touch": True, "is_mobile": True},
    "keyboard": {"viewport": {"width": 1280, "height": 900}, "color_scheme": "light"},
}


@pytest.mark.parametrize(
    ("question", "way"),
    [
        # `make test` asks each question in one way, and `make torture` in the other two.
        pytest.param(question, way, id=f"{question.__name__}-{way}", marks=() if (place - turn) % 3 == 0 else pytest.mark.torture)
        for place, question in enumerate(QUESTIONS)
        for turn, way in enumerate(WAYS)
    ],
)
def test_a_question_is_answered_in_three_clicks(
    question: Callable[[Visitor, Programs], None], way: str, browser: Browser, address: str, made_night: Path
) -> None:
    """Page, API and Python agree, and the browser reports no error."""
    context = browser.new_context(**WAYS[way])
    page = context.new_page()
    messages: list[str] = []
    page.on("console", lambda message: messages.append(message.text))
    page.on("pageerror", lambda error: messages.append(f"{error}"))
    visitor = Visitor(page, address, by_keyboard=way == "keyboard")
    question(visitor, Programs(address, made_night))
    assert visitor.clicks <= 3
    assert messages == []
    context.close()
