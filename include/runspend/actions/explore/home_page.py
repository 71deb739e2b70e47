"""The home page: the month's cost at a glance, with links to details. It works without scripts."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from decimal import Decimal

from markupsafe import Markup

from runspend.actions.explore import chart
from runspend.actions.explore.home import Action, Home
from runspend.actions.explore.page import Page, render_page
from runspend.actions.explore.view import FAILED, PARTS, View
from runspend.actions.report import render as report
from runspend.core.amounts import add, day
from runspend.core.text import counted
from runspend.schema.rows import month_after

MOST_TEAMS = 8
WHAT_TO_DO = {
    "idle": "Stop or shrink the machines. If runs use them, let those runs name them.",
    "failed": "Find out why they failed. Their cost produced no result.",
    "unallocated": "Tag the resources, or add a rule. The command runspend suggest proposes one.",
}


def home_as_page(home: Home) -> str:
    """Return one self-contained HTML page."""
    return render_page("home.html.j2", home=home, page=HomePage(home), f=home.month, v=home.month.view)


class HomePage(Page):
    """The words, links and charts that the template prints."""

    def __init__(self, home: Home) -> None:
        super().__init__(home.month, ())
        self.home = home
        self.teams = home.month.groups[:MOST_TEAMS]
        self.other_teams = len(home.month.groups) + home.month.rest_count - len(self.teams)

    def month_drawing(self) -> Markup:
        """Draw the cost of twelve months twice: for wide screens and paper, and for phones."""
        months = self.home.months
        stacks = [
            (self.part_word(part), self.part_color(part), tuple(parts.get(part, Decimal(0)) for _, parts in months))
            for part in PARTS
            if any(part in parts for _, parts in months)
        ]
        return Markup("").join(
            chart.stacked_columns(
                [first for first, _ in months],
                stacks,
                (),
                width,
                css,
                "Effective cost by month; the table has the numbers",
                is_by_month=True,
            )
            for width, css in ((report.WIDE, "chart wide"), (report.NARROW, "chart narrow"))
        )

    def month_rows(self) -> list[tuple[str, str, Decimal]]:
        """Return (name, address of its costs, cost) for each month with a cost, the newest first."""
        return [
            (
                f"{first:%B %Y}",
                f"explore?{View(first, min(month_after(first, 1), self.view.until), ('team',), self.view.where).address()}",
                add(parts.values()),
            )
            for first, parts in reversed(self.home.months)
            if parts
        ]

    def action_title(self, action: Action) -> str:
        """Return a short name of the cause of the cost."""
        name = action.name or "without a name"
        return {"idle": f"Idle {name}", "failed": f"Failed runs of {name}", "unallocated": f"Unallocated: {name}"}[action.kind]

    def action_note(self, action: Action) -> str:
        """Return the number of machines or runs, and what to do."""
        number = {
            "idle": f"{counted(action.count, 'machine')}. " if action.count else "",
            "failed": f"{counted(action.count, 'run')}. ",
            "unallocated": "",
        }
        return f"{number[action.kind]}{WHAT_TO_DO[action.kind]}"

    def action_address(self, action: Action) -> str:
        """Return the address of the costs of an action."""
        view = self.view.with_filter("allocated_to", "run" if action.kind == "failed" else action.kind)
        if action.kind == "failed":
            view = replace(view, where={**view.where, "status": FAILED}).with_filter("experiment", action.name)
            return f"explore?{view.address(by=('run',))}"
        if action.is_type:
            return f"explore?{view.with_filter('instance_type', action.name).address(by=('machine',))}"
        if action.kind == "idle":
            return f"explore?{view.with_filter('instance_type', None).with_filter('service', action.name).address(by=('machine',))}"
        return f"explore?{view.with_filter('service', action.name).address(by=('account',))}"

    def compared_days(self) -> str:
        """Return the days of the previous month with which the month so far is compared."""
        first, until = self.view.previous
        return f"{day(first)} to {day(until - timedelta(days=1))}"
