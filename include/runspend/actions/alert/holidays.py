"""Holidays a series of daily costs shows by itself: days of last year on which it rested, and the days they fall on this year.

Put here what tells a holiday from a quiet day, and which day of the next year is the same one. No list of countries: what is no
holiday for a team is none here. Most fall on the same date; those that follow Easter or are the n-th Monday of a month move with it.
Feasts of the moon's calendars are looked for on last year's date.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import date, timedelta

from dateutil.easter import easter

BELOW, AT_MOST = 0.5, 0.1  # of the usual cost; of a year's working days, else the series just rests often
YEAR_BACK = 28 + 366  # days of history before any is looked for: a year, and the weeks beside it
# Days from Easter Sunday: Maundy Thursday to Easter Monday, Ascension and the day after, Whit Monday, Corpus Christi and the day after.
OF_EASTER = (-3, -2, -1, 0, 1, 39, 40, 49, 50, 60, 61)
# Month, weekday (Monday is 0), which of the month (-1 the last), days after it: the United States' and the United Kingdom's.
OF_MONTHS = (
    (1, 0, 3, 0), (2, 0, 3, 0), (5, 0, 1, 0), (5, 0, -1, 0), (8, 0, -1, 0), (9, 0, 1, 0), (10, 0, 2, 0), (11, 3, 4, 0), (11, 3, 4, 1),
)  # fmt: skip


def find_holidays(values: Sequence[float], first: date) -> dict[date, float]:
    """Days of the history that cost less than half of what their weekday costs around them, with that ratio; none where such days are common."""
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
    """The days of the next year on which those holidays are, with what part of a usual day they cost."""
    return {a_year_later(day): ratio for day, ratio in sorted(holidays.items())}


def a_year_later(day: date) -> date:
    """The same holiday of the next year: by Easter, by the week of its month, else by its date."""
    from_easter = (day - easter(day.year)).days
    if from_easter in OF_EASTER:
        return easter(day.year + 1) + timedelta(days=from_easter)
    for month, weekday, place, after in OF_MONTHS:
        if day == _weekday_of(day.year, month, weekday, place) + timedelta(days=after):
            return _weekday_of(day.year + 1, month, weekday, place) + timedelta(days=after)
    return day.replace(year=day.year + 1, day=28 if (day.month, day.day) == (2, 29) else day.day)


def _weekday_of(year: int, month: int, weekday: int, place: int) -> date:
    """The third Monday of January, or (-1) the last one of May."""
    if place < 0:
        last = date(year, month + 1, 1) - timedelta(days=1)  # none of them is in December
        return last - timedelta(days=(last.weekday() - weekday) % 7)
    first = date(year, month, 1)
    return first + timedelta(days=(weekday - first.weekday()) % 7 + 7 * (place - 1))
