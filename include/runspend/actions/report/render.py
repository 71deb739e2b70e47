"""Write the report as files: two self-contained pages per month, an index of months, and the tables as CSV in the same folder.

The page of a month is for teams. The audit page of a month is for finance: reconciliation, confidence and sources, ready to print.

A page makes no network requests, and its Content-Security-Policy forbids them. `plan.py` computes the figures. `templates/` and
`core/amounts.py` decide how they look.
"""

from __future__ import annotations

import base64
import csv
import hashlib
import re
from collections.abc import Mapping, Sequence
from datetime import date
from decimal import Decimal
from functools import cache
from pathlib import Path
from typing import Any
from urllib.parse import quote

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from runspend import __version__
from runspend.actions.report import charts
from runspend.actions.report.csv_files import report_sheets, write_sheet
from runspend.actions.report.figures import MEASURES, PARTS, PLATFORM, CurrencyFigures, ReportFigures, days_covered
from runspend.actions.report.labels import RULES, WASTE, coverage_words
from runspend.config.budgets import percent_used
from runspend.core import amounts
from runspend.core.own_files import write_whole
from runspend.schema.rows import month_after

TEMPLATES = Path(__file__).parent / "templates"
WIDE, NARROW = 920, 350
PAGE = re.compile(r"(?:index|[0-9]{4}-[0-9]{2}(?:-audit)?)\.html")  # the names that pages may have
LONGEST_NAME = 48  # characters; the whole name is shown on hover, and copied
FORMER_SHEETS = ("unmatched", "certainty")  # now "unallocated" and "confidence"; otherwise the index would list old and new files


def write_report(figures: ReportFigures, folder: Path) -> Path:
    """Write the two pages of a month, its CSVs and `index.html`, and return the path of the month's page.

    The pages are `<period>.html` and `<period>-audit.html`. A reader sees either the old or the new content of a file, never a mix.
    """
    folder.mkdir(parents=True, exist_ok=True)
    for name, (header, rows) in report_sheets(figures):
        write_whole(folder / f"{figures.period}-{name}.csv", write_sheet(header, rows, figures.snapshot))
    for name in FORMER_SHEETS:
        (folder / f"{figures.period}-{name}.csv").unlink(missing_ok=True)
    page = folder / f"{figures.period}.html"
    write_whole(folder / f"{figures.period}-audit.html", render_audit(figures).encode("utf-8"))
    write_whole(page, render_page(figures).encode("utf-8"))
    write_whole(folder / "index.html", render_index(folder).encode("utf-8"))
    return page


def render_page(figures: ReportFigures) -> str:
    """Return the month's page as HTML."""
    return _render("month.html.j2", figures)


def render_audit(figures: ReportFigures) -> str:
    """Return the month's audit page as HTML."""
    return _render("audit.html.j2", figures)


def _render(template: str, figures: ReportFigures) -> str:
    return (
        _environment()
        .get_template(template)
        .render(
            f=figures,
            views=[CurrencyView(c, figures) for c in figures.currencies],
            sheets=[name for name, _ in report_sheets(figures)],
            artifacts=ArtifactView(figures),
            **_page_words(),
        )
    )


def render_index(folder: Path) -> str:
    """Return the page that lists the months in `folder`, newest first. The total of a month comes from its CSV."""
    months = []
    for page in sorted(folder.glob("????-??.html"), reverse=True):
        totals = []
        parts = folder / f"{page.stem}-parts.csv"
        if parts.exists():
            with parts.open(encoding="utf-8", newline="") as lines:
                totals = [(r["currency"], Decimal(r["effective_cost"])) for r in csv.DictReader(lines) if r["part"] == "ML platform"]
        audit = folder / f"{page.stem}-audit.html"
        sheets = sorted(p.name for p in folder.glob(f"{page.stem}-*.csv"))
        months.append((page.stem, audit.name if audit.exists() else None, totals, sheets))
    return _environment().get_template("index.html.j2").render(months=months, **_page_words())


def content_policy(page: str) -> str:
    """Return the Content-Security-Policy of a Runspend page. It allows the first style sheet in the head, and nothing else."""
    head = page.partition("</head>")[0]
    style = re.search(r"<style>(.*?)</style>", head, re.DOTALL)
    return _policy(style[1]) if style else "default-src 'none'"


def live_policy(page: str) -> str:
    """Return the Content-Security-Policy of a page from a server. It also allows forms to that server, and scripts from it."""
    return content_policy(page).replace("form-action 'none'", "script-src 'self'; form-action 'self'")


def live_style() -> str:
    """Return the style sheet of pages with the script."""
    return "".join((TEMPLATES / name).read_text(encoding="utf-8") for name in ("report.css", "pages.css"))


@cache
def live_script() -> tuple[str, str]:
    """Return the script of live pages, and its address relative to the home page. The address changes when the script changes."""
    script = (TEMPLATES / "pages.js").read_text(encoding="utf-8")
    return script, f"pages.js?v={hashlib.sha256(script.encode()).hexdigest()[:12]}"


def _policy(style: str) -> str:
    digest = base64.b64encode(hashlib.sha256(style.encode()).digest()).decode()
    return f"default-src 'none'; style-src 'sha256-{digest}'; img-src data:; base-uri 'none'; form-action 'none'"


def _page_words() -> dict[str, Any]:
    style = (TEMPLATES / "report.css").read_text(encoding="utf-8")
    return {"style": Markup(style), "policy": _policy(style), "version": __version__}


def page_templates(*folders: Path, **options: Any) -> Environment:
    """Return the templates in these folders and those of the report, with the filters that format figures the same on every page."""
    made = Environment(
        loader=FileSystemLoader([*folders, TEMPLATES]),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        **options,
    )
    made.filters |= {
        "money": amounts.money, "rough_money": amounts.rough_money, "change": amounts.change, "percent": amounts.percent, "size": amounts.size,
        "hours": amounts.hours, "day": amounts.day, "instant": amounts.instant, "month": amounts.month_name, "name": long_name,
    }  # fmt: skip
    return made


@cache
def _environment() -> Environment:
    made = page_templates()
    made.filters |= {
        "used": percent_used, "span": _span, "rate": _rate, "coverage_words": coverage_words, "machine": machine_name, "store": store_name,
        "address": _address,
    }  # fmt: skip
    made.globals |= {
        "measures": MEASURES,
        "swatch": charts.swatch,
        "bar": charts.bar,
        "bullet": charts.bullet,
        "PART_CLASS": charts.PART_CLASS,
        "WASTE": WASTE,
        "RULES": RULES,
    }
    return made


def _span(value: Any) -> str:
    """Format a length of time in hours, or in days if it is long."""
    if value is None:
        return "–"
    hours = value.total_seconds() / 3600
    return f"{hours:,.0f} h" if hours < 96 else f"{hours / 24:,.0f} days"


def short_name(name: str) -> str:
    """Return the last part of a long resource ID, such as an ARN."""
    return name.rstrip("/").rpartition("/")[2] or name


def machine_name(name: str) -> Markup:
    """Show the last part of a resource ID. The whole ID is shown on hover, copied, and read by screen readers."""
    short = short_name(name)
    start = len(name.rstrip("/")) - len(short) if short != name else 0
    return _partly(name, name[:start], name[start:], "", css="nm")


def store_name(name: str) -> Markup:
    """Show the last two parts of a long path or address of an artifact store."""
    end = "/".join(name.rstrip("/").split("/")[-2:])
    start = len(name.rstrip("/")) - len(end) if len(name) > 36 else 0
    return _partly(name, name[:start], name[start:], "", css="nm from" if start else "nm")


def long_name(name: str) -> Markup:
    """Show the beginning of a long name."""
    return _partly(name, "", name[:LONGEST_NAME], name[LONGEST_NAME:], css="nm to" if len(name) > LONGEST_NAME else "nm")


def _partly(whole: str, before: str, shown: str, after: str, *, css: str) -> Markup:
    """Return a name of which only `shown` is visible. The whole name is read by screen readers and copied."""
    return Markup('<span class="{}" title="{}"><i>{}</i>{}<i>{}</i></span>').format(css, whole, before, shown, after)


def _address(name: str | None) -> str:
    """Return a name, encoded as a part of an address."""
    return quote(name or "", safe="", errors="replace")


def _rate(cost: Decimal, seconds: float) -> str:
    """Format money per hour, for display only."""
    return amounts.money(amounts.EXACT.divide(amounts.EXACT.multiply(cost, Decimal(3600)), Decimal(seconds)))


class CurrencyView:
    """One currency's figures as the template prints them, with charts."""

    def __init__(self, c: CurrencyFigures, figures: ReportFigures) -> None:
        self.c = c
        self.places = amounts.places_for(c.bill.effective_cost)
        self.bill, self.platform = c.bill, c.platform
        self.before = f"{month_after(figures.first, -1):%B}"
        length = (month_after(figures.first, 1) - figures.first).days
        self.length = length
        self.billed_days = days_covered(figures.first, c.covered_until or figures.now)
        self.is_complete = (
            c.covered_until is not None and self.billed_days >= length and c.covered_until.date() >= month_after(figures.first, 1)
        )
        self.shares = {part: amounts.share_of(c.parts[part].effective_cost, self.platform.effective_cost) for part in PLATFORM}
        self.rows = [
            (part, self.shares.get(part), c.parts[part])
            for part in PARTS
            if part in ("allocated to runs", "out of scope") or any(amounts.round_money(c.parts[part][m], self.places) for m in MEASURES)
        ]
        self.days_shown = [p for p in PARTS if any(amounts.round_money(d[p], self.places) for _, d in c.days if p in d)]
        self.idle_machines = [(short_name(r.name), r.idle_days) for r in c.idle if r.idle_days]
        self.most_idle = charts.most_idle(self.idle_machines)

    def change_of(self, parts: Sequence[str] = PLATFORM) -> Decimal | None:
        """Return how much the cost of some parts changed from the same days of the previous month. None if these days have no cost at all."""
        if not any(self.c.same_days_before.values()):
            return None
        return amounts.add([*(self.c.same_days[p] for p in parts), *(self.c.same_days_before[p].copy_negate() for p in parts)])

    def growth(self) -> str:
        """Return the ML platform's change as a percentage. Empty if there was no previous cost."""
        before = amounts.add(self.c.same_days_before[p] for p in PLATFORM)
        change = self.change_of()
        return "" if change is None else amounts.growth(change, before)

    def money(self, value: Decimal | None) -> str:
        """Format money with this page's decimals."""
        return amounts.money(value, self.places)

    def own_money(self, value: Decimal) -> str:
        """Format money in a currency other than the page's, with the decimals that it needs."""
        return amounts.money(value, amounts.places_for(value))

    def change(self, value: Decimal | None) -> str:
        """Format a difference with this page's decimals."""
        return amounts.change(value, self.places)

    def both(self, draw: Any) -> Markup:
        """Draw a chart twice: for wide screens and paper, and for phones."""
        return Markup("{}{}").format(draw(WIDE, "chart wide"), draw(NARROW, "chart narrow"))

    def where_chart(self) -> Markup:
        """Draw the parts of the bill as one bar."""
        pieces = [
            (
                p,
                self.c.parts[p].effective_cost,
                charts.PART_CLASS[p],
                amounts.percent(self.shares.get(p)) if self.shares.get(p) is not None else "",
            )
            for p in PARTS
        ]
        return self.both(lambda width, css: charts.stacked_bar(pieces, width, css, "Cost breakdown; the figures above have the numbers"))

    def days_chart(self, figures: ReportFigures) -> Markup:
        """Draw the costs by day."""
        label = "Effective cost by day; the table has the numbers"
        return self.both(
            lambda width, css: charts.day_columns(
                self.c.days,
                self.c.previous_days,
                self.estimated_days(figures),
                charts.MonthDays(figures.first, self.length, self.billed_days),
                width,
                css,
                label,
            )
        )

    def estimated_days(self, figures: ReportFigures) -> dict[date, Decimal]:
        """Return the estimated cost of the month's days that no bill covers completely."""
        return {day: cost for day, cost in self.c.estimates.days if day < month_after(figures.first, 1)}

    def all_days(self, figures: ReportFigures) -> list[tuple[date, Mapping[str, Decimal]]]:
        """Return the days with charges or with an estimate."""
        known = dict(self.c.days)
        return [(day, known.get(day, {})) for day in sorted({*known, *self.estimated_days(figures)})]

    def heat_chart(self) -> Markup:
        """Draw idle cost by machine and day. Empty if no machine has days to show."""
        machines = self.idle_machines
        if not machines:
            return Markup()
        label = "Idle cost by machine and day; the table has the numbers"
        return self.both(lambda width, css: charts.heat_map(machines, self.length, width, css, label))

    def confidence_chart(self) -> Markup:
        """Draw allocated cost by confidence."""
        names = ("exact", "high", "medium", "low", "none")
        whole = amounts.add(self.c.confidence.values())
        costs = [(n, self.c.confidence.get(n, Decimal(0))) for n in names]
        pieces = [(n, cost, f"c{i}", amounts.percent(amounts.share_of(cost, whole))) for i, (n, cost) in enumerate(costs)]
        return self.both(
            lambda width, css: charts.stacked_bar(pieces, width, css, "Allocated cost by confidence; the table has the numbers")
        )

    def cumulative(self) -> list[Decimal | None]:
        """Return the cumulative share of unallocated cost for each resource, from the largest on."""
        whole = self.c.parts["unallocated"].effective_cost
        running, shares = Decimal(0), []
        for r in self.c.unallocated:
            running = amounts.add([running, r.effective_cost])
            shares.append(amounts.share_of(running, whole))
        return shares


class ArtifactView:
    """The charts of artifacts."""

    def __init__(self, figures: ReportFigures) -> None:
        a = figures.artifacts
        current = dict(a.months[-1][1]) if a.months and a.months[-1][0] == figures.first else {}
        self.classes = sorted({name for _, held in a.months for name, _ in held}, key=lambda n: (-current.get(n, 0), n))
        self.current = [(name, current[name], f"c{min(i, 4)}") for i, name in enumerate(self.classes) if name in current]
        self.months = a.months

    def class_chart(self) -> Markup:
        """Draw bytes by storage class."""
        pieces = [(f"{name} {amounts.size(count)}", Decimal(count), css, "") for name, count, css in self.current]
        return Markup("{}{}").format(
            *(charts.stacked_bar(pieces, w, css, "Bytes by storage class") for w, css in ((WIDE, "chart wide"), (NARROW, "chart narrow")))
        )

    def months_chart(self) -> Markup:
        """Draw bytes over the last twelve months. Empty with fewer than two months."""
        if len(self.months) < 2:
            return Markup()
        label = "Bytes at the end of each month; the table has the numbers"
        return Markup("{}{}").format(
            *(charts.month_columns(self.months, self.classes, w, css, label) for w, css in ((WIDE, "chart wide"), (NARROW, "chart narrow")))
        )
