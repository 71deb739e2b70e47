"""Forecast a budget's spend at the end of its period, with an 80% interval.

Belongs here: arithmetic over one series of daily costs. Reading the series (`figures.py`) and acting on a forecast (`decisions.py`) do not
belong here. Floats are used on purpose: a forecast is not billed money. At the end it becomes a decimal of two places, and the amount
already billed is added exactly.

The method is in `levels.py`: simple methods, mixed by how well each would have predicted the series, times last year's ratio for the
same holiday. The interval is split-conformal. The mix is replayed from earlier days over the number of days that are left, and its
errors in the past are the expected errors now.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import date, timedelta
from decimal import ROUND_FLOOR, Decimal

from runspend.actions.alert.levels import LEAST_DAYS, ExpectedDays, look_ahead
from runspend.core.amounts import EXACT, round_money

HISTORY = timedelta(days=400)  # one year, plus the four weeks around a day that tell a holiday from a quiet month
SLACK = 1.0  # Replays overlap, so their errors are widened: by this share if one replay is as long as the history.
ENOUGH_REPLAYS = 60  # from here on, replays can show that the method is always too low or always too high
FEW_REPLAYS = 5  # Fewer give no percentiles on both sides, so the largest error counts in both directions.


@dataclass(frozen=True)
class Forecast:
    """The period's total. It is between `low` and `high` in 80 of 100 cases, and above `likely` in two of three.

    `path` is the cumulative cost at the end of each day that is not wholly billed yet.
    """

    total: Decimal
    low: Decimal
    high: Decimal
    likely: Decimal
    path: tuple[tuple[date, Decimal], ...]

    def exceeded_on(self, level: Decimal) -> date | None:
        """Return the day around which a level will be passed. None unless two of three outcomes pass it.

        All code that asks whether a level will be passed uses this function.
        """
        return next((day for day, cost in self.path if cost >= level), None) if level <= self.likely else None


@dataclass(frozen=True)
class Seen:
    """The known cost of one day that no bill wholly covers.

    It has the cost billed so far, the cost estimated for runs since, and the elapsed part of the day (0 to 1).
    """

    billed: float = 0.0
    estimated: float = 0.0
    over: float = 0.0


def forecast_total(
    days: Mapping[date, Decimal],
    covered: date,
    period: tuple[date, date],
    spent: Decimal,
    seen: Mapping[date, Seen],
    run_share: float = 1.0,
) -> Forecast | None:
    """Forecast the total at the end of `period` [start, end).

    `days` are daily costs, and `covered` is the first day not wholly billed. Returns None with less than two weeks of history, or when
    all of the period is billed. `spent` is the period's exact cost before `covered`. `run_share` is the part of the history that is run
    cost: estimates cover only that part.
    """
    start, end = max(period[0], covered), period[1]
    begin = spent.quantize(Decimal("0.01"), ROUND_FLOOR, EXACT)  # never rounded up to a threshold
    first = min((day for day, cost in days.items() if cost and covered - HISTORY <= day < covered), default=covered)
    values = [float(days.get(first + timedelta(days=n), 0)) for n in range((covered - first).days)]
    left = (end - start).days
    if len(values) < LEAST_DAYS or left < 1:
        return None
    outlook = look_ahead(values, first, (end - covered).days, left)
    errors, model, again = _errors(outlook), outlook.days[-left:], outlook.again[-left:]
    shift = _shift(outlook, errors)
    path, sum_left = [], 0.0
    for number, cost in enumerate(model):
        day = start + timedelta(days=number)
        sum_left += _of_day(cost + shift * abs(cost) + again[number], seen.get(day, Seen()), run_share)
        path.append((day, begin + _cents(sum_left)))
    least = _known(seen) if min(values) >= 0 else -math.inf  # with credits, the total may be lower than the known cost
    size = sum(map(abs, model))
    low, high, likely = (begin + _cents(max(least, sum_left + (error - shift) * size)) for error in errors)
    total = path[-1][1]
    if math.isfinite(least):  # the total and its interval begin at the known cost as people read it, rounded half up
        known = round_money(EXACT.add(spent, Decimal(least)))
        total, low = max(total, known), max(low, known)
    return Forecast(total, min(low, total), max(high, total), min(likely, total), tuple(path))


def _of_day(model: float, seen: Seen, run_share: float) -> float:
    """Return the cost of one day that is not wholly billed.

    Estimates cover the runs' cost of the elapsed part of the day, and the model covers the rest. The result is never below the known
    cost, or for a series of credits never above it.
    """
    known = seen.billed + seen.estimated
    if not seen.estimated:
        return max(model, known) if model >= 0 else min(model, known)
    return max(known, known + model * (1.0 - seen.over * run_share) - seen.billed * (1.0 - seen.over * run_share))


def _known(seen: Mapping[date, Seen]) -> float:
    return sum(s.billed + s.estimated for s in seen.values())


def _errors(outlook: ExpectedDays) -> tuple[float, float, float]:
    """Return errors of the replays as parts of the expected cost: the 10th, 90th and 33rd percentile. Fewer replays widen them."""
    if not outlook.errors:
        return -1.0, 1.0, 0.0
    apart = 1.0 + SLACK * outlook.reach / (outlook.length - LEAST_DAYS + 1)
    low, high, likely = (_quantile(outlook.errors, share) for share in (0.1, 0.9, 1 / 3))
    if len(outlook.errors) < FEW_REPLAYS:
        high = max(map(abs, outlook.errors))
        low = -high
    return low * apart, high * apart, likely


def _shift(outlook: ExpectedDays, errors: tuple[float, float, float]) -> float:
    """Return the median error if many replays agree that the method is too low or too high, else 0.

    It is added to the forecast, because otherwise the forecast would be outside its own interval.
    """
    if errors[0] <= 0 <= errors[1] or len(outlook.errors) < ENOUGH_REPLAYS:
        return 0.0
    return outlook.errors[len(outlook.errors) // 2]


def _quantile(errors: Sequence[float], share: float) -> float:
    """Return a split-conformal quantile, rounded outwards so that it holds for one more draw."""
    n = len(errors)
    place = math.floor((n + 1) * share) - 1 if share < 0.5 else math.ceil((n + 1) * share) - 1
    return errors[min(n - 1, max(0, place))]


def _cents(amount: float) -> Decimal:
    return Decimal(f"{amount:.2f}")
