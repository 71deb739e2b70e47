"""Find days with exceptional costs, such as a credit, a fee or an accident, and those that recur every month or every few months.

Belongs here: the rules that find such days only by the size of their cost. `levels.py` forecasts from the history without them, and adds the
recurring ones. Otherwise it would expect a single credit again on the same weekday, and a fee on the 1st would raise the level of all days.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import date, timedelta
from itertools import pairwise

FAR = 5.0  # an exceptional day costs at least this many times as much as the largest other day
# At most one day in this many is exceptional. The first number is for days that do not recur, the second for recurring days.
ONE_IN, ONE_IN_OF_MONTHS = 100, 25
KINDS = 3  # highest number of kinds that are found, such as a single credit and a monthly fee
MONTHS = 12


def set_apart(values: Sequence[float], first: date, count: int) -> tuple[list[float], list[float]]:
    """Return the history in which exceptional days have a usual cost, and the recurring extra cost of each of the next `count` days."""
    usual, again = list(values), [0.0] * count
    for _ in range(KINDS):
        found = _find(usual)
        days = [first + timedelta(days=n) for n in found]
        months, shift = _months_apart(days)
        is_once = len(found) <= max(1, len(usual) // ONE_IN) and any(cost for n, cost in enumerate(usual) if n not in found)
        is_once &= all(after - before > 1 for before, after in pairwise(found))  # two in a row may be a new level
        if not found or not (months or is_once):
            break
        before = usual[:]
        for n in found:
            usual[n] = _usual(before, n, found)
        if months:
            more = before[found[-1]] - usual[found[-1]]
            _add_again(again, first + timedelta(days=len(usual)) + shift, days[-1] + shift, months, more)
    return usual, again


def _find(values: Sequence[float]) -> list[int]:
    """Return the indexes of the smallest set of days that each cost at least FAR times as much as any other day.

    Credits are compared by their absolute value. Returns [] if there is no such set.
    """
    ordered = sorted(range(len(values)), key=lambda n: -abs(values[n]))
    for count in range(1, max(1, len(values) // ONE_IN_OF_MONTHS) + 1):
        least, next_one = abs(values[ordered[count - 1]]), abs(values[ordered[count]])
        if least > 0 and least >= FAR * next_one:
            return sorted(ordered[:count])
    return []


def _usual(values: Sequence[float], n: int, found: Sequence[int]) -> float:
    near = sorted(values[m] for week in range(-4, 5) if 0 <= (m := n + 7 * week) < len(values) and m not in found)
    return near[len(near) // 2] if near else 0.0


def _months_apart(days: Sequence[date]) -> tuple[int, timedelta]:
    """Return the number of months between consecutive days, and a shift to apply to the days.

    All days must have the same distance in months and the same day of the month. They can also all be the last day of a month. The shift is
    then one day, so that shifted days are the first of a month. The number of months is 0 if the days do not recur in this way.
    """
    for shift in (timedelta(0), timedelta(days=1)):
        shifted = [day + shift for day in days]
        apart = {_month(after) - _month(before) for before, after in pairwise(shifted)}
        if len(apart) == 1 and len({day.day for day in shifted}) == 1:
            return apart.pop(), shift
    return 0, timedelta(0)


def _add_again(again: list[float], begin: date, last: date, months: int, more: float) -> None:
    """Add `more` to the days of `again` on which the recurring cost is due.

    `begin` is the first day of `again`, and `last` is the newest exceptional day, both shifted as by `_months_apart`. If the cost did not
    recur on its last due day, it has ended and nothing is added.
    """
    due = _month(last) + months
    if (_month(begin), begin.day) > (due, last.day):
        return
    for n in range(len(again)):
        day = begin + timedelta(days=n)
        if day.day == last.day and (_month(day) - due) % months == 0:
            again[n] += more


def _month(day: date) -> int:
    return day.year * MONTHS + day.month
