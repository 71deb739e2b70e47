"""Build the sections of a budget mail below its first paragraph: active runs, cost drivers, confidence and next steps.

Put here blocks made of figures. The first paragraph and the recipients are in `wording.py`.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import date, datetime, timedelta
from decimal import Decimal

from runspend.actions.alert.chart import ForecastDay, SpendChart
from runspend.actions.alert.figures import DayRun, Figures
from runspend.actions.alert.judge import Status
from runspend.actions.alert.periods import BudgetPeriod, current_period
from runspend.actions.alert.render import Facts, MailTable, clean, person
from runspend.actions.alert.series import Coverage
from runspend.core.amounts import EXACT, add, money


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
            f"{unknown} active {'run has' if unknown == 1 else 'runs have'} no price{' yet: no bill covers them' if unknown <= len(figures.running) else ''}"
        )
    return MailTable(
        f"ACTIVE RUNS (MLflow, {time_name(now)} UTC)", ("", "", "", "since", f"{status.currency}/hour"), "llllr", tuple(rows), tuple(notes)
    )


def what_drove_it(figures: Figures, status: Status, people: str) -> MailTable:
    """Return the most expensive experiments, compared with the same days of the previous period."""
    spent = status.spent or Decimal(0)
    rows = []
    for driver in (*figures.drivers, *([figures.others] if figures.others else [])):
        who = person(driver.who, people)
        name = clean(driver.name, 32 - len(who)) + (f" ({who})" if who else "")
        rows.append((name, share(driver.spent, spent), money(driver.spent), money(driver.spent_before)))
    notes = (
        () if figures.failed is None else (f"including failed or killed runs: {money(figures.failed)} ({share(figures.failed, spent)})",)
    )
    return MailTable("TOP COSTS", ("", "", period_name(status.period), "same days before"), "lrrr", tuple(rows), notes)


def which_runs(runs: Sequence[DayRun], count: int, day: date, people: str) -> MailTable:
    """Return the most expensive runs of one day."""
    rows = tuple(
        (
            clean(run.name, 24),
            clean(run.experiment, 20) if run.experiment else "",
            person(run.who, people),
            clean(run.machines, 20) if run.machines else "",
            money(run.spent),
        )
        for run in runs
    )
    notes = (f"and {count - len(runs)} more runs",) if count > len(runs) else ()
    return MailTable(f"TOP RUNS, {weekday(day)}", ("", "experiment", "", "", "cost"), "llllr", rows, notes)


def bill_ages(coverage: Sequence[Coverage], now: datetime) -> list[tuple[str, str]]:
    """Describe how far each bill reaches."""
    facts = []
    for bill in coverage:
        if bill.covered_until is None:
            facts.append(("", f"Bill {clean(bill.source)} has no known end of coverage."))
            continue
        usual = f" (typically {_hours(bill.usual_lag)})" if bill.usual_lag else ""
        facts.append(
            (
                "",
                f"Bill {clean(bill.source)} is complete to {time_name(bill.covered_until)} UTC, {_hours(now - bill.covered_until)} behind{usual}.",
            )
        )
    return facts


def how_sure(figures: Figures, status: Status, now: datetime) -> Facts:
    """Return the age of the figures, the costs they leave out, and how runs were matched."""
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


def what_you_can_do(status: Status, now: datetime) -> Facts:
    """Return commands to type and people to ask.

    A budget can be acknowledged only in the current period, even if the mail is about an earlier one.
    """
    budget, until = status.budget, current_period(status.budget.every, now.date()).end
    facts = [
        ("See the runs", f"runspend costs --by experiment --since {status.period.start:%Y-%m}"),
        ("Stop a run", "in MLflow or on its platform; Runspend never stops runs"),
        (f"Mute until {day_name(until)}", f"runspend budgets ack {budget.name} --until {until}"),
    ]
    if budget.runbook:
        facts.append(("Runbook", clean(budget.runbook, 400)))
    if budget.owner:
        facts.append(("Owner", clean(budget.owner)))
    return Facts("NEXT STEPS", tuple(facts))


def spend_chart(status: Status) -> SpendChart | None:
    """Return daily cumulative spend, and the forecast with its interval. The interval is zero today and full at the period's end.

    Spend reaches the last day that has any, even if that day is not wholly billed. So the chart ends at the sum that the text gives.
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
    """Return the period's name for people: 24 November, week 48 of 2026, November, Q4 2026, 2026."""
    if "W" in period.name:
        return f"week {int(period.name[-2:])} of {period.name[:4]}"
    if "Q" in period.name:
        return f"{period.name[5:]} {period.name[:4]}"
    days = (period.end - period.start).days
    return f"{period.start.day} {period.start:%B}" if days == 1 else f"{period.start:%B}" if days < 32 else period.name


def share(part: Decimal, whole: Decimal) -> str:
    """ "58%". Empty if the whole is zero."""
    return f"{EXACT.divide(EXACT.multiply(part, Decimal(100)), whole).quantize(Decimal(1), context=EXACT)}%" if whole else ""


def weekday(day: date) -> str:
    """ "Sunday 22 November"."""
    return f"{day:%A} {day.day} {day:%B}"


def day_name(day: date) -> str:
    """ "22 Nov"."""
    return f"{day.day} {day:%b}"


def time_name(moment: datetime) -> str:
    """ "22 Nov 23:00"."""
    return f"{moment.day} {moment:%b %H:%M}"


def _hours(span: timedelta) -> str:
    hours = max(0, span // timedelta(hours=1))
    return f"{hours} h"
