"""The explorer's page: the view in words and figures, a chart, a table with links, and the most expensive runs.

The page is one HTML file that works without its script, which only sorts and filters tables. Filters are links, and the form sends its
values in the address. The style sheet and the base template are those of the report.
"""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from contextvars import ContextVar
from dataclasses import replace
from datetime import date, timedelta
from decimal import Decimal
from functools import cache
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlencode

from jinja2 import Environment
from markupsafe import Markup

from runspend import __version__
from runspend.actions.costs.query import UNTAGGED
from runspend.actions.explain.figures import RunKey
from runspend.actions.explore import chart
from runspend.actions.explore.figures import RUN_KEYS, Change, Figures, Group, Run
from runspend.actions.explore.search import MOST_NAMES, MOST_RUNS, Found, FoundName, FoundRun
from runspend.actions.explore.view import (
    COLUMNS,
    GROUPS,
    MEASURES,
    NEVER_WITHOUT_RUN,
    NEXT,
    SPREAD_PARTS,
    STEPS,
    View,
    fitting_step,
    next_dimension,
)
from runspend.actions.report import render as report
from runspend.actions.report.charts import swatch
from runspend.core import amounts
from runspend.core.text import counted
from runspend.schema.rows import month_after
from runspend.schema.tables import DIMENSION_NAMES
from runspend.warehouse.team_views import OTHER_TEAMS, OTHERS

TEMPLATES = Path(__file__).parent / "templates"
MOST_COURSES = 200  # with more rows, no row has a line chart
COLORS = 6  # groups with their own color; all other groups share one color
PART_WORDS = {
    "run": "runs",
    "logged_model": "models without a run",
    "orphan": "orphaned",
    "idle": "idle",
    "shared": "shared",
    "unallocated": "unallocated",
    "out_of_scope": "out of scope",
}
PART_COLORS = {
    "logged_model": "orphan",
    "orphan": "orphan",
    "idle": "idle",
    "shared": "shared",
    "unallocated": "unallocated",
    "out_of_scope": "scope",
}
DOTS = (".", "..")  # names that cannot have a page: a browser changes `machine/..` to another address
OWN_PAGES = ("run", "machine", "model", "experiment")
# Whether pages link to the reports, which show the costs of all teams. The web server sets it for each response, depending on the user.
HAS_REPORTS: ContextVar[bool] = ContextVar("runspend_has_reports", default=True)
PAIRS = ("team,experiment", "team,user", "team,kind", "project,experiment", "experiment,user", "service,region", "service,account")


def figures_as_page(f: Figures, *, hidden: Sequence[str]) -> str:
    """Return one self-contained HTML page. `hidden`: dimensions that the page does not offer."""
    return render_page("explore.html.j2", f=f, v=f.view, page=Page(f, hidden))


def found_as_page(found: Found) -> str:
    """Return the page of a search."""

    def address(name: FoundName) -> str:
        if name.key in ("machine", "model") and name.value not in DOTS:
            return f"{name.key}/{quote(name.value, safe='')}"
        view = View(
            name.since,
            name.last + timedelta(days=1),
            (NEXT[name.key],),
            {name.key: (name.value,)},
            every=fitting_step(name.since, name.last),
        )
        return f"explore?{view.address()}"

    return render_page(
        "search.html.j2", found=found, address=address, short_machine=report.short_name, most_runs=MOST_RUNS, most_names=MOST_NAMES
    )


def run_address(run: Run | FoundRun | RunKey) -> str:
    """Return the address of a run's page."""
    return f"run/{quote(run.run_id, safe='')}?{urlencode({'server': run.tracking_server, 'workspace': run.workspace})}"


def is_others(run: RunKey) -> bool:
    """Return whether this key replaces the keys of other teams' runs, which the viewer may not see."""
    return {run.tracking_server, run.workspace, run.run_id} == {OTHERS}


def budget_address(name: str) -> str:
    """Return the address of a budget's page."""
    return f"budget/{quote(name, safe='')}"


def message_as_page(text: str, *, up: str, ways: Sequence[tuple[str, str]], has_reports: bool) -> str:
    """Return a page that explains why there is nothing to show.

    `ways` are links to offer instead, as (name, address). `up` is the relative path to the home page.
    """
    return render_page("message.html.j2", text=text, up=up, ways=ways, has_reports=has_reports)


def render_page(template: str, **given: Any) -> str:
    """Return a page made from a template of this folder, with its style sheet and its content security policy.

    `up`, by default empty, is the relative path to the home page.
    """
    style = report.live_style() + (TEMPLATES / "explore.css").read_text(encoding="utf-8")
    policy = report.live_policy(f"<style>{style}</style></head>")
    script = given.setdefault("up", "") + report.live_script()[1]
    given.setdefault("has_reports", HAS_REPORTS.get())
    return _environment().get_template(template).render(style=Markup(style), policy=policy, script=script, version=__version__, **given)


@cache
def _environment() -> Environment:
    made = report.page_templates(TEMPLATES)
    made.globals |= {
        "swatch": swatch,
        "course": chart.course,
        "measures": MEASURES,
        "steps": STEPS,
        "run_address": run_address,
        "budget_address": budget_address,
        "is_others": is_others,
        "other_teams": OTHER_TEAMS,
    }
    return made


class Page:
    """The words, links and charts that the template prints."""

    def __init__(self, f: Figures, hidden: Sequence[str]) -> None:
        self.f = f
        self.view = f.view
        self.places = amounts.places_for(f.total.cost) if f.total.cost else 2
        self.has_courses = len(f.groups) <= MOST_COURSES
        self.dimensions = [key for key in GROUPS if key not in hidden]

    def money(self, value: Decimal) -> str:
        """Format money with this page's decimals."""
        return amounts.money(value, self.places)

    def change(self, value: Decimal) -> str:
        """Format a difference with this page's decimals."""
        return amounts.change(value, self.places)

    def growth(self, amount: Any) -> str:
        """Format a change as a percentage of the previous cost. Empty if there was no previous cost."""
        return amounts.growth(amount.change, amount.previous)

    def share(self, value: Decimal) -> Decimal | None:
        """Return the percentage of the view's total."""
        return amounts.share_of(value, self.f.total.cost)

    def part_word(self, part: str) -> str:
        """Return the name of a part of the bill."""
        return PART_WORDS[part]

    def part_color(self, part: str) -> str:
        """Return the color class of a part of the bill."""
        return PART_COLORS.get(part, "g0")

    def name(self, key: str, value: str | None) -> str:
        """Return the text that the table shows for a value."""
        if not value:
            return UNTAGGED if key in DIMENSION_NAMES else f"no {key.replace('_', ' ')}"
        if key == "run":
            keys = self.f.run_keys.get(value, ())
            return f"{value[:8]} ({len(keys)} runs)" if len(keys) > 1 else self.f.run_names.get(value) or value[:8]
        return PART_WORDS[value] if key == "allocated_to" else report.short_name(value) if key == "machine" else value

    def whole(self, key: str, value: str | None) -> str:
        """Return the full form of a shortened value: the ID of a run, or the whole name of a machine. Empty if it is not shortened."""
        return value if value and key in ("run", "machine") and self.name(key, value) != value else ""

    def own_page(self, key: str, value: str | None, group: Group) -> str:
        """Return the address of a value's own page. Empty if it has none.

        If several servers have a run with this ID, the address shows its cost by server.
        """
        if not value or value in DOTS or key not in OWN_PAGES or group.is_others:
            return ""
        if key != "run":
            return f"{key}/{quote(value, safe='')}"
        server = dict(zip(self.view.by, group.values, strict=True)).get("server")
        keys = [one for one in self.f.run_keys.get(value, ()) if server in (None, one.tracking_server)]
        if len(keys) > 1:
            return f"explore?{self.view.with_filter('run', value).address(by=('server',), is_spread=False)}"
        return run_address(keys[0]) if keys else ""

    def color(self, number: int, group: Group) -> str:
        """Return the color class of a row."""
        if group.part is not None:
            return PART_COLORS[group.part]
        return f"g{number}" if number < COLORS else "gx"

    def link(self, **changed: object) -> str:
        """Return the address of this view with other fields."""
        return f"?{self.view.address(**changed)}"

    def into(self, group: Group) -> str:
        """Return the address that a click on a group opens: the costs of this group, split by the next dimension."""
        view = replace(self.view, is_spread=False)  # the link shows the group's own cost, without cost spread onto it
        for key, value in zip(view.by, group.values, strict=True):
            if group.part is None or COLUMNS[key] not in NEVER_WITHOUT_RUN:
                view = view.with_filter(key, value)
        if self.view.splits_parts:
            view = view.with_filter("allocated_to", group.part or "run")
        if group.part is not None:
            return f"?{view.address(by=('service',) if 'service' not in view.where else ('account',))}"
        return f"?{view.address(by=(next_dimension(view.where, view.by[-1]),))}"

    def into_change(self, one: Change) -> str:
        """Return the explorer's address for a change: its group, split by the dimension in which it changed most."""
        key = self.view.by[0]
        view = self.view if one.part is not None and COLUMNS[key] in NEVER_WITHOUT_RUN else self.view.with_filter(key, one.value)
        if self.view.splits_parts:
            view = view.with_filter("allocated_to", one.part or "run")
        return f"?{view.address(by=(one.by,), order='-change' if one.change > 0 else 'change')}"

    def change_name(self, one: Change) -> str:
        """Return the name of what changed."""
        if one.part is not None:
            return " · ".join([PART_WORDS[one.part], *([one.value] if one.value else [])])
        return self.name(self.view.by[0], one.value)

    def driver(self, one: Change) -> str:
        """Describe the largest change within a change. Empty if its value is that of the change itself, or if it has no value."""
        if one.driver is None or one.driver == one.value:
            return ""
        return f"{one.by.replace('_', ' ')} {self.name(one.by, one.driver)}: {self.change(one.driver_change)}"

    def before(self) -> str:
        """Return the days of the previous period in words."""
        first, last = self.view.previous[0], self.view.previous[1] - timedelta(days=1)
        year = f" {last.year}" if {first.year, last.year} != {self.view.last.year} else ""
        return f"{amounts.day(first)}{f' {first.year}' if first.year != last.year else ''} to {amounts.day(last)}{year}"

    def before_month(self) -> str:
        """Return the name of the month before the first day."""
        return f"{month_after(self.view.since, -1):%B}"

    def has_before(self) -> bool:
        """Return whether the previous period has a cost to compare with."""
        return any(amount.previous for amount in self.f.parts.values())

    def is_fitting(self) -> bool:
        """Return whether the chart has the default step for its number of days."""
        return self.view.every == fitting_step(self.view.since, self.view.last)

    def has_runs(self) -> bool:
        """Return whether the rows have run counts."""
        return any(g.runs is not None for g in self.f.groups)

    def has_gpus(self) -> bool:
        """Return whether a row has GPU hours."""
        return any(g.counts is not None and g.counts.gpu_seconds > 0 for g in self.f.groups)

    def gpu_hour(self, group: Group) -> str:
        """Format the cost per GPU hour. Empty without GPU time."""
        cost = None if group.counts is None else group.counts.gpu_hour_cost
        return "" if cost is None else amounts.small_money(cost)

    def can_spread(self) -> bool:
        """Return whether the view has cost of runs, and idle, shared or unallocated cost that can be spread over them."""
        return self.view.splits_parts and "run" in self.f.parts and any(part in self.f.parts for part in SPREAD_PARTS)

    def outside(self) -> Mapping[str, tuple[str, ...]]:
        """Return the filters that show out-of-scope cost."""
        return {**self.view.where, "allocated_to": ("out_of_scope",)}

    def unlisted(self) -> str:
        """Return the names of the filtered dimensions that runs do not have."""
        return " and no ".join(key.replace("_", " ") for key in self.view.where if key not in RUN_KEYS)

    def groupings(self) -> list[str]:
        """Return the choices of the form to group by: each dimension, common pairs, and the current choice."""
        pairs = [pair for pair in PAIRS if set(pair.split(",")) <= set(self.dimensions)]
        return list(dict.fromkeys([*self.dimensions, *pairs, ",".join(self.view.by)]))

    def filters(self) -> list[tuple[str, str, str]]:
        """Return (dimension, value, address without it) for each filter."""
        return [
            (key, self.name(key, value), f"?{self.view.without_filter(key, value).address()}")
            for key, values in self.view.where.items()
            for value in values
        ]

    def ranges(self) -> list[tuple[str, str, bool]]:
        """Return (name, address, whether it is the current one) for each common range of days up to the newest charge."""
        newest = self.f.newest
        month = newest.replace(day=1)
        named: Mapping[str, tuple[date, date]] = {
            "this month": (month, newest + timedelta(days=1)),
            "last month": (month_after(month, -1), month),
            "last 7 days": (newest - timedelta(days=6), newest + timedelta(days=1)),
            "last 30 days": (newest - timedelta(days=29), newest + timedelta(days=1)),
            "last 90 days": (newest - timedelta(days=89), newest + timedelta(days=1)),
            "12 months": (month_after(month, -11), newest + timedelta(days=1)),
        }
        return [
            (
                name,
                self.link(since=since, until=until, every=fitting_step(since, until - timedelta(days=1))),
                (since, until) == (self.view.since, self.view.until),
            )
            for name, (since, until) in named.items()
        ]

    def drawing(self) -> Markup:
        """Draw the costs over time twice: for wide screens and paper, and for phones."""
        f = self.f
        stacks = [(self._title(g), self.color(n, g), g.course) for n, g in enumerate(f.groups[:COLORS])]
        others = [g.course for g in f.groups[COLORS:]]
        if others:
            stacks.append(
                (
                    counted(len(others), "more group"),
                    "gx",
                    tuple(amounts.add(column) for column in zip(*others, strict=True)),
                )
            )
        stacks += [(self._title(g), self.color(0, g), g.course) for g in f.without_run]
        label = f"{self.view.measure.capitalize()} cost by {self.view.every}; the table has the numbers"
        return Markup("").join(
            chart.stacked_columns(
                f.steps, stacks, f.previous_course if self.has_before() else (), width, css, label, is_by_month=self.view.every == "month"
            )
            for width, css in ((report.WIDE, "chart wide"), (report.NARROW, "chart narrow"))
        )

    def _title(self, group: Group) -> str:
        if group.part is not None:
            return " · ".join([PART_WORDS[group.part], *(v for v in group.values if v)])
        return " · ".join(self.name(key, value) for key, value in zip(self.view.by, group.values, strict=True))

    def command(self) -> str | None:
        """Return the command that prints the same costs in a terminal. None if the command cannot show this view."""
        view = self.view
        if view.is_fine or view.is_spread:
            return None
        parts = ["runspend", "costs", "--by", ",".join(view.by), "--since", f"{view.since}", "--until", f"{view.last}"]
        parts += [p for key, values in view.where.items() for value in values for p in ("--where", f"{key}={value}")]
        if "out_of_scope" in self.f.parts and not view.selects_parts:
            parts += [p for part in self.f.parts if part != "out_of_scope" for p in ("--where", f"allocated_to={part}")]
        if view.measure != "effective":
            parts += ["--measure", view.measure]
        if len(self.f.groups) + len(self.f.without_run) + self.f.rest_count > 20:
            parts += ["--top", "1000"]
        return shlex.join(parts)
