"""Render a statement as an HTML page for screen and print, and as CSV. Equal documents give equal bytes.

The page has the style sheet and base template of the report. It does not request anything from the network.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from dataclasses import dataclass
from decimal import Decimal
from functools import cache
from pathlib import Path

from jinja2 import Environment
from markupsafe import Markup

from runspend import __version__
from runspend.actions.report import render as report
from runspend.actions.statement.document import Document
from runspend.actions.statement.lines import DIRECT, OUTSIDE, Line, Team
from runspend.core import amounts
from runspend.core.amounts import add, plain
from runspend.core.spreadsheet_text import guard_text
from runspend.core.text import visible

TEMPLATES = Path(__file__).parent / "templates"
MOST_ROWS = 200  # limit for experiments on the page; the CSV has all
COLUMNS = ("number", "period", "team", "experiment", "cost_center", "part", "cost", "rounded_cost", "currency")
MEASURE_WORDS = {
    "effective_cost": "effective cost (prepaid purchases are spread over the usage that they cover)",
    "billed_cost": "billed cost (as invoiced)",
    "contracted_cost": "contracted cost",
    "list_cost": "list cost",
}


@dataclass(frozen=True)
class Row:
    """One experiment of a statement, with rounded amounts by part."""

    experiment: str | None
    cost_center: str | None
    amounts: tuple[Decimal | None, ...]
    total: Decimal


def title_of(team: Team) -> str:
    """Return the team's name, or "no team" for the statement of costs without a team."""
    return "no team" if team is None else team


def render_csv(document: Document) -> str:
    """Return all lines as CSV. A text that a spreadsheet would interpret as a formula gets a leading quote."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(COLUMNS)
    for line in document.lines:
        names = (document.number or "preliminary", document.month.period, document.team, line.experiment, line.cost_center)
        writer.writerow([*(guard_text(name or "") for name in names), line.part, plain(line.cost), f"{line.rounded:f}", line.currency])
    return text.getvalue()


def render_page(document: Document) -> str:
    """Return the statement as an HTML page."""
    style = (report.TEMPLATES / "report.css").read_text(encoding="utf-8")
    return (
        _environment()
        .get_template("statement.html.j2")
        .render(
            d=document,
            month=document.month,
            policy_of=document.month.policy,
            title=title_of(document.team),
            sections=[_Section(document, code) for code in document.currencies],
            describe=lambda part: describe_part(document, part),
            measure=MEASURE_WORDS[document.month.policy.measure],
            style=Markup(style),
            policy=report.content_policy(f"<style>{style}</style></head>"),
            version=__version__,
        )
    )


def describe_part(document: Document, part: str) -> str:
    """Return a description of a part of a statement, with the reason why the part is on this statement."""
    policy, is_none = document.month.policy, document.team is None
    if part == DIRECT:
        return "allocated to runs without a team" if is_none else "allocated to the team’s runs"
    if part in ("idle", "shared", "unallocated"):
        what = {
            "idle": "paid-for time that no run used",
            "shared": "taxes, fees, credits, and services of the whole platform",
            "unallocated": "ML platform cost without a run",
        }[part]
        how = getattr(policy, part)
        if how == "spread":
            return f"{what}: a part in proportion to direct cost"
        return f"{what}: not spread over teams" if is_none else f"{what}, assigned to the team by the bill itself"
    return {"models": "logged models without a run", "orphaned": "artifacts that no run owns", OUTSIDE: "the rest of the bill"}[part]


class _Section:
    """The section of a page with the figures of one currency."""

    def __init__(self, document: Document, currency: str) -> None:
        self.currency = currency
        self.parts = [(part, sums) for (code, part), sums in document.sums.items() if code == currency]
        self.total = document.totals[currency]
        self.whole = document.month.whole.get(currency)
        self.differences = (
            [(part, sums) for (code, part), sums in document.before.differences.items() if code == currency and sums.rounded]
            if document.before is not None
            else []
        )
        self.difference = add(sums.rounded for _, sums in self.differences)
        rows = _rows([line for line in document.lines if line.currency == currency], [part for part, _ in self.parts])
        self.rows, rest = rows[:MOST_ROWS], rows[MOST_ROWS:]
        self.rest_count = len(rest)
        self.rest = [add(row.amounts[i] for row in rest) for i in range(len(self.parts))]
        self.rest_total = add(row.total for row in rest)
        self.has_cost_centers = any(row.cost_center for row in rows)

    def share(self) -> Decimal | None:
        """Return the statement's share of the whole bill as a percentage. None if the bill has no cost in this currency."""
        return None if self.whole is None else amounts.share_of(self.total.cost, self.whole.cost)


def _rows(lines: Sequence[Line], parts: Sequence[str]) -> list[Row]:
    found: dict[tuple[str | None, str | None], dict[str, Decimal]] = {}
    for line in lines:
        found.setdefault((line.experiment, line.cost_center), {})[line.part] = line.rounded
    return [Row(*key, tuple(own.get(part) for part in parts), add(own.values())) for key, own in found.items()]


@cache
def _environment() -> Environment:
    return report.page_templates(TEMPLATES, finalize=lambda value: visible(value) if type(value) is str else value)
