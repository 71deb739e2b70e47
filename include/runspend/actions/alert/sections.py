"""Build the sections of a budget mail below its first paragraph: active runs, cost drivers, confidence and next steps.

Belongs here: blocks made of figures. The first paragraph and the recipients are in `wording.py`.
"""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from datetime import date, datetime, timedelta
from decimal import Decimal
from urllib.parse import quote

from runspend.actions.alert.bill_coverage import Coverage
from runspend.actions.alert.chart import ForecastDay, SpendChart
from runspend.actions.alert.figures import Figures, TopRun
from runspend.actions.alert.judge import Status
from runspend.actions.alert.periods import BudgetPeriod, current_period
from runspend.actions.alert.render import Button, Card, Facts, MailTable
from runspend.config.settings import Budget
from runspend.core.amounts import EXACT, add, day, instant, money, rough_money
from runspend.core.text import clean, counted, person, without_person

DIMENSIONS = {  # key of a budget's selector -> dimension of `runspend costs`
    "experiment": "experiment", "team": "team", "project": "project", "cost_center": "cost_center", "owner": "owner", "user": "user", "tracking": "server",
    "cost_kind": "kind", "provider": "provider", "source": "source",
}  # fmt: skip

OF_PEOPLE = ("owner", "user")  # dimensions that are names of people


def title_for(title: str, people: str, limit: int = 40) -> str:
    """Return a budget's title. Unless `mail.people` is `show`, the user in a Databricks path such as `/Users/ada@acme.com/llm` is removed.

    The title of a budget from an experiment's tag can contain such a path.
    """
    return clean(title if people == "show" else without_person(title), limit)


def running_now(figures: Figures, status: Status, people: str, now: datetime) -> MailTable:
    """Return the active runs, most expensive first, and their total cost per hour."""
    rows, together, unknown = [], Decimal(0), figures.running_count - len(figures.running)
    for run in figures.running:
        unknown += run.per_hour is None
        together = EXACT.add(together, run.per_hour or Decimal(0))
        rows.append(
            (
                clean(run.name, 24),
                person(run.who, people),
                clean(run.machines, 20) if run.machines else "",
                time_name(run.since),
                "" if run.per_hour is None else money(run.per_hour),
            )
        )
    notes = (
        [
            f"total {money(together)} per hour, {money(EXACT.multiply(together, Decimal(24)), short=True).split('.')[0]} {status.currency} per day (average of each run so far)"
        ]
        if together
        else []
    )
    if unknown:
        notes.append(
            f"{counted(unknown, 'active run has', 'active runs have')} no price{' yet: no bill covers them' if unknown <= len(figures.running) else ''}"
        )
    return MailTable(
        f"ACTIVE RUNS (MLflow, {instant(now)})", ("", "", "", "since", f"{status.currency}/hour"), "llllr", tuple(rows), tuple(notes)
    )


def what_drove_it(figures: Figures, status: Status, people: str) -> MailTable:
    """Return the most expensive experiments, compared with the same days of the previous period."""
    spent = status.spent or Decimal(0)
    rows = []
    for driver in (*figures.drivers, *([figures.others] if figures.others else [])):
        who = person(driver.who, people)
        name = clean(driver.name if people == "show" else without_person(driver.name), 32 - len(who)) + (f" ({who})" if who else "")
        rows.append((name, share(driver.spent, spent), money(driver.spent), money(driver.spent_before)))
    notes = (
        (f"including failed or killed runs: {money(figures.failed)} ({share(figures.failed, spent)})",) if figures.failed and spent else ()
    )
    return MailTable("TOP COSTS", ("", "", period_name(status.period), "same days before"), "lrrr", tuple(rows), notes)


def at_a_glance(status: Status, now: datetime) -> Card:
    """Return the main figures of a budget: spent, left or over budget, days to go, and the forecast if there is one."""
    spent, budget = status.spent or Decimal(0), status.budget.amount
    left, days = EXACT.subtract(budget, spent), (status.period.end - now.date()).days
    figures = [
        ("spent", f"{money(spent)} {status.currency}", f"{status.percent}% of {money(budget, short=True)}"),
        (
            "over budget by" if left < 0 else "left",
            f"{money(abs(left))} {status.currency}",
            f"{counted(max(days, 0), 'day')} to go",
        ),
    ]
    if (forecast := status.forecast) is not None:
        interval = f"80% interval: {rough_money(forecast.low)}–{rough_money(forecast.high)}"
        figures.append(("forecast", f"{rough_money(forecast.total)} {status.currency}", interval))
    return Card(tuple(figures))


def budget_button(name: str, period: str, site: str | None) -> list[Button]:
    """Return the link to the budget's page as a list. The list is empty if there are no live pages."""
    address = budget_address(name, period, site)
    return [Button("See the budget", address)] if address else []


def budget_address(name: str, period: str, site: str | None) -> str | None:
    """Return the address of a budget's page on the live `site`, or None without a site."""
    return f"{site}/budget/{quote(name, safe='', errors='replace')}?period={period}" if site else None


def run_address(server: str, workspace: str, run_id: str, site: str | None) -> str | None:
    """Return the address of a run's page on the live `site`, or None without a site."""
    if not site:
        return None
    run, own, space = (quote(text, safe="", errors="replace") for text in (run_id, server, workspace))
    return f"{site}/run/{run}?server={own}&workspace={space}"


def top_people(figures: Figures, status: Status, people: str) -> MailTable:
    """Return the people whose runs cost the most."""
    rows = tuple(
        (person(user, people) or "(no user)", f"{runs:,}", share(spent, status.spent or Decimal(0)), money(spent))
        for user, runs, spent in figures.people
    )
    more = figures.people_count - len(rows)
    return MailTable("TOP USERS", ("", "runs", "", "cost"), "lrrr", rows, (f"and {more} more",) if more > 0 else ())


def which_runs(runs: Sequence[TopRun], count: int, title: str, people: str, site: str | None) -> MailTable:
    """Return the most expensive runs."""
    rows = tuple(
        (
            clean(run.name, 24),
            clean(run.experiment if people == "show" else without_person(run.experiment), 20) if run.experiment else "",
            person(run.who, people),
            clean(run.machines, 20) if run.machines else "",
            money(run.spent),
        )
        for run in runs
    )
    notes = (f"and {count - len(runs)} more runs",) if count > len(runs) else ()
    links = tuple(run_address(run.server, run.workspace, run.run_id, site) for run in runs) if site else ()
    return MailTable(title, ("", "experiment", "", "", "cost"), "llllr", rows, notes, links)


def bill_ages(coverage: Sequence[Coverage], now: datetime) -> list[tuple[str, str]]:
    """Return one sentence per bill: the time to which it is complete, and how far it is behind."""
    facts = []
    for bill in coverage:
        if bill.covered_until is None:
            facts.append(("", f"Bill {clean(bill.source)} has no known end of coverage."))
            continue
        usual = f" (typically {_hours(bill.usual_lag)})" if bill.usual_lag else ""
        facts.append(
            (
                "",
                f"Bill {clean(bill.source)} is complete to {instant(bill.covered_until)}, {_hours(now - bill.covered_until)} behind{usual}.",
            )
        )
    return facts


def allocation_confidence(figures: Figures, status: Status, now: datetime) -> Facts:
    """Return the age of the figures, the costs that are not included, and the share of each allocation confidence."""
    facts = bill_ages(figures.coverage, now)
    is_counted = status.budget.judged_on == "bill_and_estimates"
    if is_counted and status.estimated:
        facts.append(("", f"Included: {money(status.estimated)} {status.currency} of estimates for hours that are not billed yet."))
    estimated = Decimal(0) if is_counted else status.estimated
    since = (
        f"about {money(estimated)} {status.currency} estimated for later hours"
        if estimated
        else ""
        if is_counted
        else "the cost of later hours"
    )
    missing = [since] if since and (figures.coverage or estimated) else []
    if figures.idle_elsewhere > 0:
        missing.append(f"{money(figures.idle_elsewhere)} {status.currency} idle cost outside this budget")
    if missing:
        facts.append(("", f"Not included: {'; '.join(missing)}."))
    total = add([*figures.by_confidence.values(), figures.no_run])
    shares = [f"{share(figures.by_confidence[c], total)} {c}" for c in ("exact", "high", "medium", "low") if figures.by_confidence.get(c)]
    if figures.no_run:
        shares.append(f"{share(figures.no_run, total)} not allocated to runs (idle, shared, unallocated or orphaned)")
    if shares:
        facts.append(("", f"Allocation confidence: {', '.join(shares)}."))
    return Facts("CONFIDENCE", tuple(facts))


def what_you_can_do(status: Status, now: datetime, people: str) -> Facts:
    """Return the next steps: commands, the runbook and the owner.

    `people` decides how the owner is named. Unless it is `show`, no command contains the name of a person. The command that mutes the
    budget is for the current period, even if the mail is about an earlier one. Only the current period can be acknowledged.
    """
    budget, until = status.budget, current_period(status.budget.every, now.date()).end
    facts = [
        *([("See the costs", _command(status))] if people == "show" or not _names_person(budget) else []),
        ("Stop a run", "in MLflow or on its platform; Runspend never stops runs"),
        (f"Mute until {day(until)}", f"runspend budgets ack {budget.name} --until {until}"),
    ]
    if budget.runbook:
        facts.append(("Runbook", clean(budget.runbook, 400)))
    if owner := clean(budget.owner) if budget.owner and people == "show" else person(budget.owner, people):
        facts.append(("Owner", owner))
    return Facts("NEXT STEPS", tuple(facts))


def filters_of(budget: Budget) -> dict[str, tuple[str, ...]] | None:
    """Return the filters of `runspend costs` that select the costs of a budget, as a mapping from dimension to values.

    Returns None if the budget selects by a pattern, or by a key that is not a dimension of `runspend costs`.
    """
    found = {}
    for key, patterns in budget.for_.items():
        name = DIMENSIONS.get(key)
        if name is None or any(set(pattern) & set("*?") for pattern in patterns):
            return None
        found[name] = tuple(patterns)
    return found


def _names_person(budget: Budget) -> bool:
    """Return whether a budget's filters name a person: by owner or user, or by a Databricks path that contains a user."""
    chosen = filters_of(budget) or {}
    return any(name in OF_PEOPLE or without_person(value) != value for name, values in chosen.items() for value in values)


def _command(status: Status) -> str:
    """Return the command that lists a budget's costs. It has no filters if `runspend costs` cannot express them."""
    days = ["--since", f"{status.period.start}", "--until", f"{status.period.end - timedelta(days=1)}"]
    chosen = [
        word for name, values in (filters_of(status.budget) or {}).items() for value in values for word in ("--where", f"{name}={value}")
    ]
    measure = status.budget.measure.removesuffix("_cost")
    return shlex.join(
        ["runspend", "costs", "--by", "experiment", *days, *chosen, *([] if measure == "effective" else ["--measure", measure])]
    )


def spend_chart(status: Status) -> SpendChart | None:
    """Return a chart of the cumulative spend by day and of the forecast with its interval. None if there are not enough days.

    The interval grows in equal steps to its full width at the period's end. Spend is drawn up to the last day with any, even if that day is
    not wholly billed. The last value is therefore the same as the sum in the text.
    """
    forecast, start = status.forecast, status.period.start
    last = max(status.through, forecast.path[0][0] - timedelta(days=1)) if forecast else status.through
    spent, cumulative = Decimal(0), []
    for number in range((last - start).days + 1):
        spent = EXACT.add(spent, status.by_day.get(start + timedelta(days=number), Decimal(0)))
        cumulative.append(spent)
    outlook = []
    if forecast:
        for number, (day, middle) in enumerate(forecast.path, 1):
            if day < last:  # the forecast begins at the last day with spend, even if that day is not wholly billed
                continue
            part = Decimal(number) / len(forecast.path)
            outlook.append(
                ForecastDay(middle - (forecast.total - forecast.low) * part, middle, middle + (forecast.high - forecast.total) * part)
            )
    is_open = forecast is not None and forecast.path[0][0] <= last
    chart = SpendChart(start, status.period.end, tuple(cumulative), status.budget.amount, status.currency, tuple(outlook), is_open)
    return chart if chart.is_worth_drawing else None


def period_name(period: BudgetPeriod) -> str:
    """Return the period's name for people, such as "24 November", "week 48 of 2026", "November", "Q4 2026" or "2026"."""
    if "W" in period.name:
        return f"week {int(period.name[-2:])} of {period.name[:4]}"
    if "Q" in period.name:
        return f"{period.name[5:]} {period.name[:4]}"
    days = (period.end - period.start).days
    return f"{period.start.day} {period.start:%B}" if days == 1 else f"{period.start:%B}" if days < 32 else period.name


def share(part: Decimal, whole: Decimal) -> str:
    """Return a share as a whole percentage, such as "58%". "" if `whole` is zero."""
    return f"{EXACT.divide(EXACT.multiply(part, Decimal(100)), whole).quantize(Decimal(1), context=EXACT)}%" if whole else ""


def weekday(day: date) -> str:
    """Return a date with its weekday, such as "Sunday 22 November"."""
    return f"{day:%A} {day.day} {day:%B}"


def time_name(moment: datetime) -> str:
    """Return a time without its year, such as "22 Nov 23:00"."""
    return f"{moment.day} {moment:%b %H:%M}"


def _hours(span: timedelta) -> str:
    hours = max(0, span // timedelta(hours=1))
    return f"{hours} h"
