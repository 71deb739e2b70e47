"""Compute budget periods: their names, their days, and how long a period is still judged after its end.

Belongs here: only calendar arithmetic. `judge.py` judges the spend of a period.
"""

from __future__ import annotations

import calendar
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import date, datetime, timedelta, timezone
from types import MappingProxyType

from runspend.config.budgets import Every
from runspend.schema.rows import midnight, month_after

EVERY: tuple[Every, ...] = ("day", "week", "month", "quarter", "year")
# How long a period is still judged after its end. Bills are days behind, and they are restated when a month is invoiced. Without this time,
# thresholds that were reached in the last hours would be missed, and so would corrections.
LATE_BILLS = timedelta(days=15)
# If the bill is missing, a period is judged until this time after its end. A bill that has not arrived by then is an incident.
VERY_LATE_BILLS = timedelta(days=62)
QUIET_AT_MOST = timedelta(hours=24)


@dataclass(frozen=True, order=True)
class BudgetPeriod:
    """The days [start, end) of one period. `name` has the form 2026-11-24, 2026-W48, 2026-11, 2026-Q4 or 2026."""

    start: date
    end: date
    name: str

    @property
    def month(self) -> date:
        """First day of the month in which the period starts."""
        return self.start.replace(day=1)

    @property
    def days(self) -> Iterator[date]:
        """All days of the period."""
        return (self.start + timedelta(days=n) for n in range((self.end - self.start).days))

    @property
    def quiet_until(self) -> datetime:
        """The end of the first hours, in which no alert is decided: a quarter of the period, but at most QUIET_AT_MOST."""
        return midnight(self.start) + min(QUIET_AT_MOST, (self.end - self.start) / 4)


def current_period(every: Every, day: date) -> BudgetPeriod:
    """Return the period that contains a UTC date."""
    if every == "day":
        return BudgetPeriod(day, day + timedelta(days=1), day.isoformat())
    if every == "week":
        start = day - timedelta(days=day.weekday())
        year, week, _ = day.isocalendar()
        return BudgetPeriod(start, start + timedelta(days=7), f"{year}-W{week:02d}")
    if every == "month":
        start = day.replace(day=1)
        return BudgetPeriod(start, month_after(start, 1), f"{start:%Y-%m}")
    if every == "quarter":
        start = date(day.year, 3 * ((day.month - 1) // 3) + 1, 1)
        return BudgetPeriod(start, month_after(start, 3), f"{day.year}-Q{(start.month + 2) // 3}")
    return BudgetPeriod(date(day.year, 1, 1), date(day.year + 1, 1, 1), f"{day.year}")


def period_named(name: str) -> BudgetPeriod:
    """Return the period with a name from `current_period`."""
    if "W" in name:
        return current_period("week", date.fromisocalendar(int(name[:4]), int(name[6:]), 1))
    if "Q" in name:
        return current_period("quarter", date(int(name[:4]), 3 * int(name[6:]) - 2, 1))
    year, *rest = map(int, name.split("-"))
    every: Every = "day" if len(rest) == 2 else "month" if rest else "year"
    month, day = [*rest, 1, 1][:2]
    return current_period(every, date(year, month, day))


def periods_to_judge(
    every: Every,
    now: datetime,
    first_judged: datetime | None,
    covered: date | None = None,
    judged_on: Mapping[str, date] = MappingProxyType({}),
) -> list[BudgetPeriod]:
    """Return the current period and the ended periods that must still be judged, oldest first.

    An ended period must still be judged if this budget version was already judged when it ended, and if one of these is true:
    * It ended less than LATE_BILLS ago.
    * It ended less than VERY_LATE_BILLS ago, and the bills do not reach its end yet.
    * It was last judged when not all of its days were billed, and now they are.
    * It ended less than VERY_LATE_BILLS ago, and was never judged because no pipeline run happened.

    `covered` is the first day that the bills do not wholly cover. `judged_on` maps the name of a period to the value of `covered` when the
    period was last judged. `first_judged` is the time when this budget version was first judged. Periods before it are not judged, so a new
    installation does not judge earlier months.
    """
    current = current_period(every, now.astimezone(timezone.utc).date())
    periods, unjudged, end = [current], list[BudgetPeriod](), current.start
    unsettled = {name for name, verdict in judged_on.items() if verdict == date.min}
    while first_judged is not None and first_judged < midnight(end):
        before, age = current_period(every, end - timedelta(days=1)), now - midnight(end)
        has_come, verdict = covered is None or covered >= end, judged_on.get(before.name)
        if age < LATE_BILLS or (not has_come and age < VERY_LATE_BILLS):
            periods.append(before)
        elif has_come and verdict is None:  # There was an outage if an older period was judged. Otherwise the budget did not exist yet.
            unjudged += [before] if age < VERY_LATE_BILLS else []
        else:
            is_open = has_come and verdict is not None and verdict < end
            periods += [*unjudged, before] if is_open else unjudged
            unjudged = []
            unsettled.discard(before.name)
            if not is_open and not unsettled:
                break
        end = before.start
    return periods[::-1]


def same_days_before(period: BudgetPeriod, until: date) -> tuple[date, date]:
    """Return the days [start, end) of the previous period that correspond to [period.start, until). A shorter period has fewer of them."""
    before = current_period(_every(period), period.start - timedelta(days=1))
    if before.start.day == 1 and period.start.day == 1 and "W" not in period.name:
        months = (until.year - period.start.year) * 12 + until.month - period.start.month
        month = month_after(before.start, months)
        end = month + timedelta(days=min(until.day - 1, calendar.monthrange(month.year, month.month)[1]))
    else:
        end = before.start + (until - period.start)
    return before.start, min(end, before.end)


def _every(period: BudgetPeriod) -> Every:
    days = (period.end - period.start).days
    if days == 1:
        return "day"
    if days == 7:
        return "week"
    return "month" if days < 32 else "quarter" if days < 93 else "year"
