"""The report's files are complete and self-contained, and names of runs cannot harm them."""

from __future__ import annotations

import base64
import csv
import hashlib
import io
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from datetime import date, datetime, timezone
from decimal import Context, Decimal, localcontext
from itertools import cycle, repeat
from pathlib import Path

import html5lib
import pytest
from bs4 import BeautifulSoup
from markupsafe import escape

from runspend.actions.alert import overview
from runspend.actions.alert.decisions import decide
from runspend.actions.alert.judge import Series, judge_budget
from runspend.actions.alert.periods import current_period
from runspend.actions.alert.wording import Writer
from runspend.actions.report import plan_report, write_report
from runspend.actions.report.csv_files import guard_text, report_sheets, write_sheet
from runspend.actions.report.figures import MEASURES, PARTS, Costs, Outlook, ReportFigures
from runspend.actions.report.render import content_policy, render_audit, render_page
from runspend.actions.report.terminal_summary import PipelineRun, render_summary
from runspend.allocation.without_run import Group
from runspend.config.settings import Budget, MailSettings, Settings
from runspend.interfaces import nightly_summary
from tests.actions.report.report_world import NOW, TableReader, month_world
from tests.hostile_names import FORMULAS, PAYLOADS, with_names


def figures_with(names: dict[str, str] | None = None, **settings: object) -> ReportFigures:
    """Return the figures of the small month with some strings replaced."""
    return plan_report(TableReader(month_world(names=names)), "2026-11", settings=Settings.model_validate(settings), now=NOW)


@pytest.fixture(scope="module")
def figures() -> ReportFigures:
    """The figures of the small month."""
    return figures_with(tracking=[{"name": "prod", "uri": "https://mlflow.example.com"}])


def test_files_are_complete_and_stable(figures: ReportFigures, tmp_path: Path) -> None:
    """A report has both pages, the index and every CSV. Writing it again changes no byte and leaves no other file."""
    page = write_report(figures, tmp_path)
    assert page == tmp_path / "2026-11.html"
    names = {f"2026-11-{name}.csv" for name, _ in report_sheets(figures)} | {"2026-11.html", "2026-11-audit.html", "index.html"}
    first = {p.name: p.read_bytes() for p in tmp_path.iterdir()}
    write_report(figures, tmp_path)
    assert {p.name: p.read_bytes() for p in tmp_path.iterdir()} == first
    assert set(first) == names
    assert all(p.stat().st_mode & 0o777 == 0o644 for p in tmp_path.iterdir())


def test_index_lists_every_month_newest_first(figures: ReportFigures, tmp_path: Path) -> None:
    """Each month links to its pages and CSVs, and these files exist."""
    write_report(plan_report(TableReader(month_world()), "2026-10", settings=Settings(), now=NOW), tmp_path)
    write_report(figures, tmp_path)
    links = [str(a["href"]) for a in BeautifulSoup((tmp_path / "index.html").read_bytes(), "html.parser").find_all("a")]
    assert [link for link in links if link.endswith(".html")] == [
        "2026-11.html",
        "2026-11-audit.html",
        "2026-10.html",
        "2026-10-audit.html",
    ]
    assert all((tmp_path / link).is_file() for link in links)
    assert "17,666.13 USD" in (tmp_path / "index.html").read_text(encoding="utf-8")


def test_a_csv_with_its_former_name_is_removed(figures: ReportFigures, tmp_path: Path) -> None:
    """The index lists every CSV of a month. If the old file stayed, the month's unallocated cost would appear twice, once out of date."""
    (tmp_path / "2026-11-unmatched.csv").write_text("old")
    (tmp_path / "2026-10-unmatched.csv").write_text("of a month that was not written again")
    (tmp_path / "2026-11-certainty.csv").write_text("old")
    write_report(figures, tmp_path)
    assert not (tmp_path / "2026-11-certainty.csv").exists()
    assert sorted(path.name for path in tmp_path.glob("*-un*.csv")) == ["2026-10-unmatched.csv", "2026-11-unallocated.csv"]


def test_every_relative_link_of_the_page_leads_somewhere(figures: ReportFigures, tmp_path: Path) -> None:
    """Links lead to existing CSVs, the index, the other page and sections of the page. Ids are unique."""
    write_report(figures, tmp_path)
    for name, other in (("2026-11.html", "2026-11-audit.html"), ("2026-11-audit.html", "2026-11.html")):
        soup = BeautifulSoup((tmp_path / name).read_bytes(), "html.parser")
        ids = [str(e["id"]) for e in soup.find_all(id=True)]
        assert len(ids) == len(set(ids))
        links = [str(a["href"]) for a in soup.find_all("a")]
        assert other in links
        for link in links:
            if link.startswith("#"):
                assert link[1:] in ids
            elif not link.startswith("https://mlflow.example.com/"):
                assert (tmp_path / link).is_file(), link


def test_the_month_is_for_teams_and_the_audit_for_finance(figures: ReportFigures) -> None:
    """The sections have a fixed order. Only the audit page has reconciliation and confidence."""
    month, audit = (BeautifulSoup(page, "html.parser") for page in (render_page(figures), render_audit(figures)))
    assert [h.get_text() for h in month.find_all("h2")] == [
        "Teams and experiments", "Top runs", "Budgets", "Idle machines", "Waste", "Unallocated", "Costs by day", "Artifacts", "Terms"
    ]  # fmt: skip
    assert [h.get_text() for h in audit.find_all("h2")] == ["Statement", "Teams", "Reconciliation", "Allocation confidence", "Sources"]
    assert "✓ equal" in audit.get_text() and "✓ equal" not in month.get_text()
    (c,) = figures.currencies
    assert f"{c.bill.list_cost:,.2f}" in audit.select_one("#where").get_text()
    assert "connection refused" in audit.select_one("#sources").get_text()
    rules = {cell["title"]: cell.get_text() for cell in audit.select("#confidence td[title]")}
    assert rules["resource_id"] == "run and bill name the same machine" and "resource_id" not in audit.get_text()


def test_the_head_says_the_change_and_the_probable_end() -> None:
    """Changes compare the same days of both months. Only a month that is not over gets a forecast, which knows the platform's earlier days."""
    asked: list[tuple[dict[tuple[date, str], Decimal], date]] = []

    def forecast(days: Mapping[tuple[date, str], Decimal], after: date) -> Outlook:
        asked.append((dict(days), after))
        return Outlook(Decimal("23500.4"), Decimal(22000), Decimal(25000))

    reader = TableReader(month_world())
    november, october = (plan_report(reader, p, settings=Settings(), now=NOW, forecast=forecast) for p in ("2026-11", "2026-10"))
    ((days, after),) = asked
    assert after == date(2026, 11, 22) and min(days)[0] == date(2026, 10, 1)
    rows = [r for r in month_world()["cost_daily"] if r["allocated_to"] != "out_of_scope"]
    with localcontext(Context(prec=60)):
        assert sum(days.values()) == sum(r["effective_cost"] for r in rows)
        same, before = (
            sum(r["effective_cost"] for r in rows if r["charge_date"].month == m and r["charge_date"].day <= 22) for m in (11, 10)
        )
        lead = BeautifulSoup(render_page(november), "html.parser").select_one("main .lead").get_text()
        assert f"The cost of its first 22 days changed by +{same - before:,.2f} (" in lead and "the same days of October" in lead
    assert "probably be about 23,500\xa0USD (80% interval: 22,000–25,000)" in lead
    assert october.currencies[0].forecast is None
    assert "probably" not in BeautifulSoup(render_page(october), "html.parser").select_one("main .lead").get_text()


def test_parts_without_money_have_no_slot(figures: ReportFigures) -> None:
    """Parts without cost, and parts that round to 0.00, are not in the head, in a legend or in a column of days."""
    world = month_world()
    for row in world["cost_daily"]:
        if row["allocated_to"] == "orphan":
            row |= dict.fromkeys((m for m in MEASURES), Decimal(0))
    without = BeautifulSoup(render_page(plan_report(TableReader(world), "2026-11", settings=Settings(), now=NOW)), "html.parser")
    whole = BeautifulSoup(render_page(figures), "html.parser")
    for place in (".strip", "#days .key"):
        assert "orphaned" in whole.select_one(place).get_text() and "orphaned" not in without.select_one(place).get_text()


def test_idle_money_is_drawn_by_day(figures: ReportFigures) -> None:
    """The strongest color marks the most idle cost of a day, and the table has the cost of each day."""
    soup = BeautifulSoup(render_page(figures), "html.parser")
    (c,) = figures.currencies
    days = [(r.name, d) for r in c.idle for d in r.idle_days]
    name, most = max(days, key=lambda item: item[1].idle_cost)
    cells = {cell.title.get_text(): cell for cell in soup.select("#idle svg.wide rect.idle-day")}
    title = f"{name}, {most.day.day} {most.day:%b}: {most.idle_cost:,.2f} idle, {most.used_share:.0%} used"
    assert (len(cells), cells[title]["fill-opacity"]) == (len(days), "1.00")
    assert f"{most.idle_cost:,.2f} ({most.used_share:.0%} used)" in soup.select_one("#idle details").get_text()


@pytest.mark.parametrize("render", [render_page, render_audit])
def test_page_is_valid_and_asks_the_network_for_nothing(figures: ReportFigures, render: Callable[[ReportFigures], str]) -> None:
    """The HTML5 has no errors, no script, and no element or attribute that loads anything. The policy allows only the page's own style sheet."""
    page = render(figures)
    html5lib.HTMLParser(strict=True).parse(page)
    soup = BeautifulSoup(page, "html.parser")
    assert not soup.find_all(["script", "img", "iframe", "object", "embed", "form", "base", "video", "audio"])
    assert [link["href"] for link in soup.find_all("link")] == ["data:,"]
    assert not [e for e in soup.find_all(True) if any(a.startswith("on") or a in ("style", "src", "srcset") for a in e.attrs)]
    (style,) = re.findall(r"<style>(.*?)</style>", page, re.DOTALL)
    assert "url(" not in style
    assert "@import" not in style
    digest = base64.b64encode(hashlib.sha256(style.encode()).digest()).decode()
    meta = soup.find("meta", attrs={"http-equiv": "Content-Security-Policy"})
    assert meta is not None
    assert meta["content"] == content_policy(page)
    assert f"style-src 'sha256-{digest}'" in str(meta["content"])
    assert "unsafe" not in str(meta["content"])


def test_hostile_names_stay_text(figures: ReportFigures) -> None:
    """The page has the same elements and attributes for every name of a run, experiment, team, budget, machine, tag rule or user."""
    linked = replace(figures, site="https://costs.example.com")

    def pages(names: Iterator[str]) -> str:
        named = with_names(linked, names)
        return render_page(named) + render_audit(named)

    harmless = BeautifulSoup(pages(repeat("x")), "html.parser")
    shape = [(e.name, sorted(e.attrs)) for e in harmless.find_all(True)]
    names = cycle(PAYLOADS)
    missing = set(PAYLOADS)
    for _ in range(6):
        page = pages(names)
        assert [(e.name, sorted(e.attrs)) for e in BeautifulSoup(page, "html.parser").find_all(True)] == shape
        missing -= {p for p in missing if str(escape(p)) in page}
    assert len(PAYLOADS) >= 300
    assert not missing


def test_two_currencies_share_a_page_and_no_sum(tmp_path: Path) -> None:
    """Each currency has its own sections. Links within the page work, quarantine and bridge are shown, and the index lists both currencies."""
    world = month_world("USD")
    for name, rows in month_world("EUR").items():
        if name in ("cost_daily", "billing_lines", "billing_loads", "cost_allocations", "unallocated_costs", "run_costs_daily"):
            world[name] += rows
    late = {**world["cost_daily"][-1], "billing_period": date(2026, 12, 1)}
    world["cost_daily"].append(late)
    world["billing_quarantine"] = [{"source": "aws", "billing_period": date(2026, 11, 1), "line_id": "q", "billed_cost": Decimal("9.99")}]
    page = write_report(plan_report(TableReader(world), "2026-11", settings=Settings(), now=NOW), tmp_path).read_text(encoding="utf-8")
    html5lib.HTMLParser(strict=True).parse(page)
    soup = BeautifulSoup(page, "html.parser")
    ids = [str(e["id"]) for e in soup.find_all(id=True)]
    assert len(ids) == len(set(ids))
    assert {str(a["href"])[1:] for a in soup.find_all("a") if str(a["href"]).startswith("#")} <= set(ids)
    assert {"where-USD", "where-EUR", "teams-EUR", "budgets", "artifacts"} <= set(ids)
    audit = BeautifulSoup((tmp_path / "2026-11-audit.html").read_text(encoding="utf-8"), "html.parser")
    assert {"where-USD", "reconciliation-EUR", "sources"} <= {str(e["id"]) for e in audit.find_all(id=True)}
    text = soup.get_text(" ") + audit.get_text(" ")
    assert "1 unreadable row is excluded" in text
    assert "on bills of other months" in text
    assert "35,332.26" not in text
    index = (tmp_path / "index.html").read_text(encoding="utf-8")
    assert "17,666.13 USD" in index
    assert "17,666.13 EUR" in index


def test_a_budget_is_shown_with_its_forecast() -> None:
    """The page shows the forecast, its range, a whisker on the bar and, if the budget is not yet exceeded, the expected day.

    It shows none of these without a forecast.
    """
    world = month_world()
    vision = world["budget_status"][0]
    vision |= {
        "spent": Decimal(400),
        "amount": Decimal(1000),
        "forecast": Decimal("1200.5"),
        "forecast_low": Decimal(1100),
        "forecast_high": Decimal(1300),
    }
    world["budget_status"][1] |= {"forecast": None, "forecast_low": None, "forecast_high": None}
    cells = {
        row.td.span.get_text(): row
        for row in BeautifulSoup(
            render_page(plan_report(TableReader(world), "2026-11", settings=Settings(), now=NOW)), "html.parser"
        ).select("#budgets tbody tr")
    }
    assert (
        cells["vision"].select_one(".forecast").get_text() == "forecast 1,200.50 (80% interval: 1,100.00–1,300.00), exceeded around 28 Nov"
    )
    assert len(cells["vision"].select("rect.thin")) == 3
    other = next(row for name, row in cells.items() if name == world["budget_status"][1]["budget"])
    assert not other.select(".forecast, rect.thin")


def test_a_budget_that_was_not_judged_says_so() -> None:
    """Budgets without a figure have no bar, no percentage and no 0. They come first."""
    world = month_world()
    world["budget_status"][1]["spent"] = None
    figures = plan_report(TableReader(world), "2026-11", settings=Settings(), now=NOW)
    rows = BeautifulSoup(render_page(figures), "html.parser").select("#budgets tbody tr")
    assert [b.name for b in figures.budgets] == ["nlp", "vision", "forecasting"]
    assert "not judged" in rows[0].get_text()
    assert "%" not in rows[0].get_text().replace("80% interval", "")
    assert rows[0].find("svg") is None
    assert "100.2" in rows[1].get_text()


def test_names_are_shown_as_they_are() -> None:
    """Escaping preserves emoji, other scripts, quotes and tags."""
    name = "модель 🚀 <b>\"quoted\" & 'more'</b> نموذج"
    soup = BeautifulSoup(render_page(figures_with({"resnet-sweep": name})), "html.parser")
    assert any(name == span.get_text() == span["title"] for span in soup.select("td span.nm"))


def test_an_empty_month_is_still_a_page(tmp_path: Path) -> None:
    """If no bill is loaded, the page says so."""
    empty = plan_report(TableReader({}), "2026-11", settings=Settings(), now=NOW)
    page = write_report(empty, tmp_path).read_text(encoding="utf-8")
    html5lib.HTMLParser(strict=True).parse(page)
    assert "No charges of this month are loaded." in page
    assert (tmp_path / "2026-11-runs.csv").read_text(encoding="utf-8").count("\n") == 1


def test_people_are_in_no_file_when_hidden(tmp_path: Path) -> None:
    """With `people: hide`, no page and no CSV has a person's name or a column for one."""
    names = {p: f"{p}-surname" for p in ("ana", "ben", "cleo", "dan", "eva")}
    write_report(figures_with(names, mail={"people": "hide"}), tmp_path)
    for file in tmp_path.iterdir():
        text = file.read_text(encoding="utf-8")
        assert "surname" not in text, file.name
        if file.suffix == ".csv":
            assert not {"person", "owner"} & set(text.splitlines()[0].split(",")), file.name
    write_report(figures_with(names), tmp_path)
    assert "ana-surname" in (tmp_path / "2026-11-runs.csv").read_text(encoding="utf-8")


def test_csvs_hold_exact_numbers_and_one_snapshot(figures: ReportFigures, tmp_path: Path) -> None:
    """Totals of the CSVs equal the figures to the last decimal. Every row and the page name the same snapshot."""
    page = write_report(figures, tmp_path)
    (currency,) = figures.currencies
    rows = {p.stem[8:]: list(csv.DictReader(io.StringIO(p.read_text(encoding="utf-8")))) for p in tmp_path.glob("*.csv")}
    assert {r["snapshot"] for sheet in rows.values() for r in sheet} == {figures.snapshot}
    assert figures.snapshot in page.read_text(encoding="utf-8")
    for measure in MEASURES:
        assert {r["part"]: Decimal(r[measure]) for r in rows["parts"]}["bill"] == currency.bill[measure]
    assert [Decimal(r["effective_cost"]) for r in rows["runs"]] == [r.costs.effective_cost for r in currency.runs]
    assert any(Decimal(r["effective_cost"]) < 0 for r in rows["days"])


@pytest.mark.parametrize(("exact", "shown"), [("5012.125", "5,012.13"), ("4012.375", "4,012.38"), ("4012.385", "4,012.39")])
def test_one_amount_reads_the_same_everywhere(exact: str, shown: str, tmp_path: Path) -> None:
    """Half a cent is rounded up on the page, in the mail and on both screens. The CSV has the exact value."""
    world = month_world()
    world["budget_status"] = [
        row | {"spent": Decimal(exact), "judged_at": NOW} for row in world["budget_status"] if row["budget"] == "vision"
    ]
    reader = TableReader(world)
    page = write_report(plan_report(reader, "2026-11", settings=Settings(), now=NOW), tmp_path).read_text(encoding="utf-8")
    assert f'data-l="spent">{shown} USD<' in page
    assert [r["spent"] for r in csv.DictReader(io.StringIO((tmp_path / "2026-11-budgets.csv").read_text(encoding="utf-8")))] == [exact]

    vision = Budget.model_validate({"name": "vision", "amount": "5000", "notify": ["leads@acme.com"]})
    status = judge_budget(vision, "USD", current_period("month", NOW.date()), Series({(NOW.date(), "USD"): Decimal(exact)}))
    writer = Writer(MailSettings.model_validate({"from": "runspend@acme.com"}), "runspend.yaml")
    mail = writer.short_mail(decide([status], {}, NOW)[0], (), NOW)
    assert f"has spent {shown} of 5,000.00 USD" in " ".join(mail.text.split())

    row = dict.fromkeys(overview.COLUMNS) | {
        "budget": "vision",
        "title": "vision",
        "state": "ok",
        "budget_period": "2026-11",
        "currency": "USD",
    }
    assert overview.budget_lines([row | {"spent": Decimal(exact), "amount": Decimal(5000)}])[1][3] == shown
    assert [text for _, text in nightly_summary._budgets(reader) if f" {shown} of  5,000.00 USD" in text]


def test_totals_read_the_same_on_both_pages_and_the_screen(figures: ReportFigures) -> None:
    """Each total is its exact value, rounded, even if the rounded parts have another sum."""
    exact = ("3267.850762951638", "1790.346438929962", "388.5817811359", "1162.0864868067", "0", "2594.6966944192")
    (c,) = figures.currencies
    parts = {part: Costs(*[Decimal(cost)] * 4) for part, cost in zip(PARTS, exact, strict=True)}
    team = replace(c.teams[0], effective_cost=Decimal(exact[0]))
    uneven = replace(figures, currencies=(replace(c, parts=parts, teams=(team,)),))
    screen = " ".join(render_summary([uneven], PipelineRun(NOW, 1)).split())
    month, audit = (BeautifulSoup(page, "html.parser") for page in (render_page(uneven), render_audit(uneven)))
    shown = {"allocated to runs": "3,267.85", "idle": "1,790.35", "unallocated": "388.58", "shared": "1,162.09", "ML platform": "6,608.87"}
    assert "The ML platform cost 6,608.87" in month.select_one(".lead").get_text()
    strip = {box.select_one(".k").get_text(): box.select_one(".v").get_text() for box in month.select(".strip > div")}
    assert strip == {("ML platform, USD" if name == "ML platform" else name): amount for name, amount in shown.items()}
    statement = {row.td.get_text(): {cell.get_text() for cell in row.select("td[data-l]")} for row in audit.select("#where tbody tr")}
    assert statement == {name: {amount} for name, amount in {**shown, "out of scope": "2,594.70", "bill": "9,203.56"}.items()}
    for name, amount in {**shown, "idle machines": "1,790.35", "bill": "9,203.56"}.items():
        assert f"{name} {amount}" in screen or name == "idle"
    assert "allocated to runs 3,267.85 49.4%" in screen and "49.4%" in month.select_one(".strip").get_text()


def test_every_group_without_a_run_is_on_the_page_and_in_a_csv(figures: ReportFigures, tmp_path: Path) -> None:
    """The ten most expensive groups are open, and the others are folded."""
    (c,) = figures.currencies
    groups = tuple(Group(f"team={n}", {"tag.team": str(n)}, Decimal(100 - n), "add a pool") for n in range(15))
    page = write_report(replace(figures, currencies=(replace(c, groups=groups),)), tmp_path)
    section = BeautifulSoup(page.read_bytes(), "html.parser").select_one("#unallocated")
    names = [cell.get_text() for cell in section.select("tbody td:first-child") if cell.get_text().startswith("team=")]
    assert names == [g.words for g in groups]
    folded = section.find("summary", string="5 more groups").parent
    assert [cell.get_text() for cell in folded.select("tbody td:first-child")] == names[10:]
    rows = list(csv.DictReader(io.StringIO((tmp_path / "2026-11-groups.csv").read_text(encoding="utf-8"))))
    assert [(r["group"], r["effective_cost"], r["suggestion"]) for r in rows] == [
        (g.words, str(g.effective_cost), g.advice) for g in groups
    ]


def test_nothing_is_compared_with_a_month_that_has_no_cost(figures: ReportFigures) -> None:
    """The first month has no "vs last month", no thin bar and no dotted line. The next one has all three."""
    october = plan_report(TableReader(month_world()), "2026-10", settings=Settings(), now=NOW)
    for page, is_compared in ((october, False), (figures, True)):
        text = BeautifulSoup(render_page(page), "html.parser").select_one("main").get_text()
        for words in ("vs last month", "Thin bar: the same", "Dotted line"):
            assert (words in text) is is_compared


@pytest.mark.parametrize("text", FORMULAS)
def test_no_text_cell_starts_a_formula(text: str) -> None:
    """Spreadsheets show such cells as text, because they start with an apostrophe or a harmless character."""
    line = write_sheet(["name", "cost"], [[text, Decimal("-3.330")]], "s").decode("utf-8").split("\r\n", 1)[1]
    name, cost, _ = next(csv.reader(io.StringIO(line, newline="")))
    assert name.startswith("'")
    assert name.removeprefix("'") in (text.replace("\0", ""), text.replace("\0", "").removeprefix("'"))
    assert cost == "-3.33"


def test_ordinary_text_is_left_alone() -> None:
    """Names that no spreadsheet would run are written unchanged."""
    for text in ("resnet-sweep", "a=b", "3.5", "naïve", "", "untagged", "/Users/x"):
        assert guard_text(text) == text


def test_runs_and_the_explorer_are_linked_where_the_site_is_known() -> None:
    """With `site.url`, runs link to their explanations and the month links to the explorer.

    Without it, the page does not link to pages that may not exist.
    """
    given = {"tracking": [{"name": "prod", "uri": "https://mlflow.example.com"}]}
    alone = plan_report(TableReader(month_world()), "2026-11", settings=Settings.model_validate(given), now=NOW)
    linked = plan_report(
        TableReader(month_world()),
        "2026-11",
        settings=Settings.model_validate({**given, "site": {"url": "https://costs.example.com/"}}),
        now=NOW,
    )
    page = render_page(linked)
    # The month is not over, so the range ends at its newest charge.
    assert 'href="https://costs.example.com/explore?from=2026-11-01"' in page
    after = replace(linked, now=datetime(2026, 12, 1, tzinfo=timezone.utc))
    assert 'href="https://costs.example.com/explore?from=2026-11-01&amp;to=2026-11-30"' in render_page(after)
    for run in linked.currencies[0].runs[:25]:
        assert f'href="https://costs.example.com/run/{run.run_id}?server=prod&amp;workspace=default"' in page
        assert str(escape(run.url)) in page
    assert 'href="https://costs.example.com/budget/vision?period=2026-11"' in page
    assert 'href="https://costs.example.com/explore?from=2026-11-01&amp;by=experiment&amp;team=vision"' in page
    assert 'href="https://costs.example.com/explore?from=2026-11-01&amp;by=user&amp;experiment=resnet-sweep"' in page
    assert 'href="https://costs.example.com/explore?from=2026-11-01&amp;by=experiment&amp;user=ana"' in page
    assert "/explore" not in render_page(alone)
    assert ">explained<" not in render_page(alone)
