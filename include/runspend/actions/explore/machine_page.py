"""The page of a machine: its cost day by day in one billing period, the runs that paid, and the idle rest."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date, timedelta
from decimal import Decimal

from markupsafe import Markup

from runspend.actions.explain.figures import MachineHour, ResourceExplanation
from runspend.actions.explore import chart
from runspend.actions.explore.page import PART_COLORS, PART_WORDS, render_page, short_machine
from runspend.actions.explore.view import PARTS, View
from runspend.actions.report import render as report
from runspend.core import amounts
from runspend.schema.rows import first_day, month_after

__all__ = ["Day", "days_of", "machine_as_page"]

MOST_RUNS = 50


@dataclass(frozen=True)
class Day:
    """One day of a machine: hours of its charges, its cost by part of the bill, and how many runs paid."""

    day: date
    hours: Decimal
    parts: dict[str, Decimal]
    runs: int

    @property
    def cost(self) -> Decimal:
        """The whole cost of the day."""
        return amounts.add(self.parts.values())

    @property
    def hour_cost(self) -> Decimal | None:
        """The cost of an hour; None without hours."""
        return amounts.EXACT.divide(self.cost, self.hours) if self.hours else None

    @property
    def used(self) -> Decimal | None:
        """The percentage of the cost that runs paid; None without a positive cost."""
        cost = self.cost
        return amounts.EXACT.divide(self.parts.get("run", Decimal(0)) * 100, cost) if cost > 0 else None


def days_of(hours: Sequence[MachineHour]) -> list[Day]:
    """Sum the charges of a machine by the day they start on (UTC). An hour counts once, however many charges it has."""
    by_day: dict[date, list[MachineHour]] = defaultdict(list)
    for hour in hours:
        by_day[hour.starts_at.date()].append(hour)
    found = []
    for day, mine in sorted(by_day.items()):
        parts: dict[str, Decimal] = {}
        for share in (share for hour in mine for share in hour.shares):
            parts[share.allocated_to] = amounts.add([parts.get(share.allocated_to), share.effective_cost])
        seconds = sum(((hour.ends_at - hour.starts_at) for hour in mine), timedelta()) // timedelta(seconds=1)
        runs = {share.run for hour in mine for share in hour.shares if share.run is not None}
        found.append(Day(day, Decimal(seconds) / 3600, parts, len(runs)))
    return found


def machine_as_page(e: ResourceExplanation, *, up: str) -> str:
    """Return one self-contained HTML page. `up` is the way from its address to the home page."""
    first = first_day(e.period)
    days = days_of(e.hours)
    whole = Day(first, amounts.add(d.hours for d in days), _summed(days), 0)
    view = View(first, month_after(first, 1), ("run",), {"machine": (e.resource_id,)}, is_compared=False)
    users = [(user, PART_WORDS[user.share.allocated_to]) for user in e.users]
    return render_page(
        "machine.html.j2",
        e=e,
        name=short_machine(e.resource_id),
        month=amounts.month_name(e.period),
        days=days,
        whole=whole,
        parts=[(part, PART_WORDS[part], PART_COLORS.get(part, "g0")) for part in PARTS if part in whole.parts],
        users=users[:MOST_RUNS],
        more=len(users) - MOST_RUNS,
        places=amounts.places_for(e.effective_cost),
        drawing=_drawing(days),
        costs=view.address(),
        up=up,
    )


def _summed(days: Sequence[Day]) -> dict[str, Decimal]:
    return {part: amounts.add(d.parts.get(part) for d in days) for part in PARTS if any(part in d.parts for d in days)}


def _drawing(days: Sequence[Day]) -> Markup:
    """Draw the cost of each day by part, for wide screens and for phones. Days without a charge are empty."""
    if not days:
        return Markup()
    steps = [days[0].day + timedelta(days=n) for n in range((days[-1].day - days[0].day).days + 1)]
    by_day = {d.day: d.parts for d in days}
    stacks = [
        (PART_WORDS[part], PART_COLORS.get(part, "g0"), [by_day.get(step, {}).get(part, Decimal(0)) for step in steps])
        for part in PARTS
        if any(part in parts for parts in by_day.values())
    ]
    return Markup("").join(
        chart.stacked_columns(
            steps, stacks, (), width, css, "Effective cost of the machine by day; the table has the numbers", is_by_month=False
        )
        for width, css in ((report.WIDE, "chart wide"), (report.NARROW, "chart narrow"))
    )
