"""Find holidays in a series of daily costs, and their dates in the next year.

Belongs here: the rules that distinguish a holiday from a quiet day, and that find its date in the next year. No list of countries is needed:
a day counts as a holiday only if its cost was low. Most holidays have the same date every year. Some depend on Easter, or are on the n-th
Monday or Thursday of a month. Holidays of lunar calendars are expected on last year's date.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import date, timedelta

from dateutil.easter import easter

BELOW, AT_MOST = 0.5, 0.1  # a holiday costs less than BELOW of the usual cost; if more than AT_MOST of all days do, they are not holidays
YEAR_BACK = 28 + 366  # minimum days of history: one year, and four weeks before it
# Days from Easter Sunday: Maundy Thursday to Easter Monday, Ascension and the day after, Whit Monday, Corpus Christi and the day after.
OF_EASTER = (-3, -2, -1, 0, 1, 39, 40, 49, 50, 60, 61)
# Holidays of the United States and the United Kingdom: month, weekday (0 is Monday), number of that weekday in the month (-1 is the last), and
# days to add.
OF_MONTHS = (
    (1, 0, 3, 0), (2, 0, 3, 0), (5, 0, 1, 0), (5, 0, -1, 0), (8, 0, -1, 0), (9, 0, 1, 0), (10, 0, 2, 0), (11, 3, 4, 0), (11, 3, 4, 1),
)  # fmt: skip


def find_holidays(values: Sequence[float], first: date) -> dict[date, float]:
    """Return the holidays, each with its cost divided by the usual cost. A holiday costs less than half of the same weekday in other weeks.

    The usual cost is the median of the same weekday in the four weeks before and after. Returns {} if such days are common, because they are
    then not evidence of holidays.
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
    """Return the days of these holidays in the next year, each with its expected cost divided by the usual cost."""
    return {a_year_later(day): ratio for day, ratio in sorted(holidays.items())}


def a_year_later(day: date) -> date:
    """Return the date of the same holiday in the next year: relative to Easter, by its weekday in the month, or the same date."""
    from_easter = (day - easter(day.year)).days
    if from_easter in OF_EASTER:
        return easter(day.year + 1) + timedelta(days=from_easter)
    for month, weekday, place, after in OF_MONTHS:
        if day == _weekday_of(day.year, month, weekday, place) + timedelta(days=after):
            return _weekday_of(day.year + 1, month, weekday, place) + timedelta(days=after)
    return day.replace(year=day.year + 1, day=28 if (day.month, day.day) == (2, 29) else day.day)


def _weekday_of(year: int, month: int, weekday: int, place: int) -> date:
    """Return a weekday of a month by its number, for example the third Monday of January. -1 is the last one of the month."""
    if place < 0:
        last = date(year, month + 1, 1) - timedelta(days=1)  # none of these holidays is in December
        return last - timedelta(days=(last.weekday() - weekday) % 7)
    first = date(year, month, 1)
    return first + timedelta(days=(weekday - first.weekday()) % 7 + 7 * (place - 1))
