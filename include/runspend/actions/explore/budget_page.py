"""The page of one budget. Alerts link to it, and it shows what a mail about the budget would show now, with the same code."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from decimal import Decimal
from typing import Any

from markupsafe import Markup

from runspend.actions.alert import judge_one
from runspend.actions.alert.judge import Status
from runspend.actions.alert.overview import list_budgets
from runspend.actions.alert.periods import current_period, period_named
from runspend.actions.alert.render import Facts, MailTable
from runspend.actions.alert.sections import allocation_confidence, filters_of, running_now, spend_chart, what_drove_it, what_you_can_do
from runspend.actions.alert.tag_budgets import read_tag_budgets
from runspend.actions.alert.wording import what_happened
from runspend.actions.explore import chart
from runspend.actions.explore.page import render_page
from runspend.actions.explore.view import Measure, View
from runspend.actions.report import render as report
from runspend.config.settings import Settings
from runspend.core.amounts import EXACT
from runspend.core.errors import UsageError
from runspend.core.text import without_person
from runspend.warehouse.base import Reader
from runspend.warehouse.records import Records


@dataclass(frozen=True)
class BudgetState:
    """One budget in one period. `row` is its row in `runspend budgets`, if the period is the current one.

    Hidden names are already removed from the strings.
    """

    status: Status
    title: str
    summary: str
    row: Mapping[str, Any] | None
    blocks: tuple[MailTable | Facts, ...]
    hidden: Sequence[str]


def read_budget(
    reader: Reader,
    settings: Settings,
    records: Records,
    name: str,
    now: datetime,
    *,
    period: str | None = None,
    hidden: Sequence[str] = (),
) -> BudgetState | None:
    """Return the state of a budget by the present tables. None if there is no such budget.

    `period` is the name of a period, such as 2026-11 or 2026-W48, by default the current one. `hidden`: dimensions of people. Raises
    UsageError if `period` is not a period of this budget.
    """
    tagged, _ = read_tag_budgets(reader, settings)
    budget = next((one for one in (*settings.budgets, *tagged) if one.name == name), None)
    if budget is None:
        return None
    present = current_period(budget.every, now.date())
    chosen = present
    if period is not None:
        try:
            chosen = period_named(period)
        except (ValueError, OverflowError):
            chosen = present
        if chosen.name != period or current_period(budget.every, chosen.start) != chosen:
            raise UsageError(f"cannot show budget {name} for {period[:40]!r}: it must be a {budget.every}, such as {present.name}.")
    status, figures = judge_one(reader, settings, budget, chosen, now)
    people = settings.mail.people
    if status.spent is None:
        return BudgetState(status, _shown(budget.title, hidden), f"It is not judged: {status.not_judged}.", None, (), hidden)
    rows = list_budgets(reader, settings, records, now) if chosen == present else []
    running: list[MailTable] = [running_now(figures, status, people, now)] if figures.running and chosen == present else []
    steps = what_you_can_do(status, now, settings.mail.people)
    if hidden:
        left_out = ("Owner", *(["See the costs"] if set(filters_of(budget) or ()) & set(hidden) else []))
        steps = replace(steps, facts=tuple((name, _shown(value, hidden)) for name, value in steps.facts if name not in left_out))
    blocks: tuple[MailTable | Facts, ...] = (
        *running,
        what_drove_it(figures, status, people),
        allocation_confidence(figures, status, now),
        steps,
    )
    row = next((row for row in rows if row["budget"] == name), None)
    return BudgetState(
        status, _shown(budget.title, hidden), _shown(what_happened(status, now, settings.mail.people), hidden), row, blocks, hidden
    )


def _shown(text: str, hidden: Sequence[str]) -> str:
    return (without_person(text) or "") if hidden else text


def budget_as_page(state: BudgetState, *, up: str) -> str:
    """Return one self-contained HTML page. `up` is the relative path from its address to the home page."""
    return render_page("budget.html.j2", state=state, s=state.status, drawing=_drawing(state.status), costs=_costs(state), up=up)


def _drawing(status: Status) -> Markup:
    """Draw the spend since the period's start by day, with a line at the budget, for wide screens and for phones."""
    drawn = spend_chart(status)
    if drawn is None:
        return Markup()
    days = (drawn.end - drawn.first).days
    foreseen = {drawn.day(len(drawn.spent) - drawn.is_last_day_open + n): day.middle for n, day in enumerate(drawn.forecast)}
    steps = [drawn.first + timedelta(days=n) for n in range(days)]
    spent = [drawn.spent[n] if n < len(drawn.spent) else Decimal(0) for n in range(days)]
    rest = [
        max(EXACT.subtract(foreseen[day], known), Decimal(0)) if day in foreseen else Decimal(0)
        for day, known in zip(steps, spent, strict=True)
    ]
    stacks = [("spent", "g0", spent), ("forecast", "gx", rest)]
    label = "Spend since the start of the period by day, and its forecast"
    return Markup("").join(
        chart.stacked_columns(steps, stacks, [drawn.budget] * days, width, css, label, is_by_month=False)
        for width, css in ((report.WIDE, "chart wide"), (report.NARROW, "chart narrow"))
    )


def _costs(state: BudgetState) -> str | None:
    """Return the query string that shows the budget's costs in the explorer.

    None if the budget selects by a pattern, by a key that the explorer does not have, or by a value that the viewer may not see.
    """
    budget, period = state.status.budget, state.status.period
    where = filters_of(budget)
    if where is None or set(where) & set(state.hidden):
        return None
    if state.hidden and any(without_person(value) != value for values in where.values() for value in values):
        return None
    by = "user" if set(where) == {"experiment"} and "user" not in state.hidden else "experiment"
    measure: Measure = budget.measure.removesuffix("_cost")  # type: ignore[assignment]  # both types have the same four names
    return View(period.start, min(period.end, period.start + timedelta(days=366)), (by,), where, measure=measure).address()
