"""Find holidays from a series of daily costs: days with low cost last year, and the days of the same holidays this year.

Belongs here: the rules that tell a holiday from a quiet day, and that find its date next year. There is no list of countries: a holiday
counts only if the team's costs show it. Most holidays fall on the same date. Those that depend on Easter, or on the n-th Monday of a
month, move with it. Holidays of lunar calendars are expected on last year's date.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import date, timedelta

from dateutil.easter import easter

BELOW, AT_MOST = 0.5, 0.1  # a holiday costs less than this part of the usual cost; more such days a year than this part are not holidays
YEAR_BACK = 28 + 366  # minimum days of history: a year, and the weeks around it
# Days from Easter Sunday: Maundy Thursday to Easter Monday, Ascension and the day after, Whit Monday, Corpus Christi and the day after.
OF_EASTER = (-3, -2, -1, 0, 1, 39, 40, 49, 50, 60, 61)
# Month, weekday (Monday is 0), which of the month (-1 is the last), days after it.
# These are holidays of the United States and the United Kingdom.
OF_MONTHS = (
    (1, 0, 3, 0), (2, 0, 3, 0), (5, 0, 1, 0), (5, 0, -1, 0), (8, 0, -1, 0), (9, 0, 1, 0), (10, 0, 2, 0), (11, 3, 4, 0), (11, 3, 4, 1),
)  # fmt: skip


def find_holidays(values: Sequence[float], first: date) -> dict[date, float]:
    """Return the days that cost less than half of what their weekday usually costs in the weeks around them, with that ratio.

    Returns none if such days are common, because then they are not evidence of holidays.
    """
    if len(values) < YEAR_BACK:
        return {}
    weekday, dips, working = first.weekday(), dict[date, float](), 0
    for n, value in enumerate(values):
        near = [values[n + 7 * week] for week in (-4, -3, -2, -1, 1, 2, 3, 4) if 0 <= n + 7 * week < len(values)]
        usual = sorted(near)[len(near) // 2]
        if usual <= 0 or ((weekday + n) % 7 > 4 and value >= BELOW * usual):
            continue
        working += 1
        if value < BELOW * usual:
            dips[first + timedelta(days=n)] = max(0.0, value / usual)
    return dips if len(dips) <= AT_MOST * working else {}


def expect_again(holidays: Mapping[date, float]) -> dict[date, float]:
    """Return the days of those holidays in the next year, with their cost as a share of a usual day's cost."""
    return {a_year_later(day): ratio for day, ratio in sorted(holidays.items())}


def a_year_later(day: date) -> date:
    """Return the same holiday in the next year: by Easter, by the week of its month, or by its date."""
    from_easter = (day - easter(day.year)).days
    if from_easter in OF_EASTER:
        return easter(day.year + 1) + timedelta(days=from_easter)
    for month, weekday, place, after in OF_MONTHS:
        if day == _weekday_of(day.year, month, weekday, place) + timedelta(days=after):
            return _weekday_of(day.year + 1, month, weekday, place) + timedelta(days=after)
    return day.replace(year=day.year + 1, day=28 if (day.month, day.day) == (2, 29) else day.day)


def _weekday_of(year: int, month: int, weekday: int, place: int) -> date:
    """Return, for example, the third Monday of January, or with -1 the last Monday of May."""
    if place < 0:
        last = date(year, month + 1, 1) - timedelta(days=1)  # none of these holidays is in December
        return last - timedelta(days=(last.weekday() - weekday) % 7)
    first = date(year, month, 1)
    return first + timedelta(days=(weekday - first.weekday()) % 7 + 7 * (place - 1))
