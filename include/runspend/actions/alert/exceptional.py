"""Days with exceptional costs, such as a credit, a fee or an accident, and those of them that recur monthly.

Belongs here: the rules that find such days by their size alone. `levels.py` uses the history without them, and adds the recurring ones.
Otherwise a single yearly credit would be expected again on its weekday, and a fee of the 1st would raise every day a little.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import date, timedelta
from itertools import pairwise

FAR = 5.0  # times the cost of the largest other day
ONE_IN, ONE_IN_OF_MONTHS = 100, 25  # At most one day in so many is exceptional. If there are more, such days are normal.
KINDS = 3  # for example a single credit and a monthly fee
MONTHS = 12


def set_apart(values: Sequence[float], first: date, count: int) -> tuple[list[float], list[float]]:
    """Return the history with exceptional days replaced by usual ones, and the recurring extra cost of each of the next `count` days."""
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
    """Return the positions of the smallest set of days, if any, that each cost at least FAR times as much as any other. Costs or credits
    count.
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
    """Return the number of months between consecutive days.

    Returns 0 unless the number is always the same, and all days are the same day of the month or all are the last day of a month.
    """
    for shift in (timedelta(0), timedelta(days=1)):
        shifted = [day + shift for day in days]
        apart = {_month(after) - _month(before) for before, after in pairwise(shifted)}
        if len(apart) == 1 and len({day.day for day in shifted}) == 1:
            return apart.pop(), shift
    return 0, timedelta(0)


def _add_again(again: list[float], begin: date, last: date, months: int, more: float) -> None:
    """Add `more` to the days of `again` on which the cost is due.

    `begin` is the first day of `again`, and `last` is the newest exceptional day, both shifted by the same number of days. A cost
    that did not recur on its due day has ended, so nothing is added.
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
