"""Forecast a budget's spend at the end of its period, with an 80% interval.

Belongs here: arithmetic with one series of daily costs. `budget_costs.py` reads the series, and `decisions.py` decides about alerts.

A forecast is not billed money, so it is computed with floats. The result is rounded to a decimal with two places, and the amount that is
already billed is added exactly.

The method is in `levels.py`: a weighted mean of simple methods, times last year's ratio for the same holiday. The interval is
split-conformal. The same forecast is replayed from earlier days, each time over as many days as are left now. The errors of these replays are
the expected errors now.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import date, timedelta
from decimal import ROUND_FLOOR, Decimal

from runspend.actions.alert.levels import LEAST_DAYS, ExpectedDays, look_ahead
from runspend.core.amounts import EXACT, round_money

HISTORY = timedelta(days=400)  # one year, plus the four weeks around a day that show whether it is a holiday or in a quiet month
SLACK = 1.0  # Replays overlap, so their errors are increased: by this share if one replay is as long as the history.
ENOUGH_REPLAYS = 60  # minimum to conclude that the forecasts are always too low or always too high
FEW_REPLAYS = 5  # fewer replays do not give a low and a high percentile, so the largest error is used for both


@dataclass(frozen=True)
class Forecast:
    """A forecast of the period's total cost.

    The true total is between `low` and `high` in 80% of cases, and above `likely` in two of three cases. `path` is the expected cumulative
    cost at the end of each day that is not wholly billed yet.
    """

    total: Decimal
    low: Decimal
    high: Decimal
    likely: Decimal
    path: tuple[tuple[date, Decimal], ...]

    def exceeded_on(self, level: Decimal) -> date | None:
        """Return the day around which the cost will reach a level. None unless two of three outcomes reach it.

        All code that needs to know whether a level will be reached calls this method, so that all answers are the same.
        """
        return next((day for day, cost in self.path if cost >= level), None) if level <= self.likely else None


@dataclass(frozen=True)
class Seen:
    """The known cost of one day that the bills do not wholly cover.

    `billed` is the cost billed so far. `estimated` is the estimated cost of runs in later hours. `over` is the part of the day that has passed
    (0 to 1).
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
    """Return the forecast of the total cost of `period` [start, end).

    `days` are daily costs, and `covered` is the first day that is not wholly billed. `spent` is the exact cost of the period before `covered`.
    `run_share` is the share of the history that is allocated to runs (0 to 1), because estimates cover only runs. Returns None with less than
    two weeks of history, or if the whole period is billed.
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
    if math.isfinite(least):  # the total and its interval are never below the known cost as it is displayed, rounded half up
        known = round_money(EXACT.add(spent, Decimal(least)))
        total, low = max(total, known), max(low, known)
    return Forecast(total, min(low, total), max(high, total), min(likely, total), tuple(path))


def _of_day(model: float, seen: Seen, run_share: float) -> float:
    """Return the expected cost of one day that is not wholly billed.

    Estimates give the cost of runs for the part of the day that has passed. The model gives the rest. The result is never below the known
    cost. For a series of credits without estimates, it is never above it.
    """
    known = seen.billed + seen.estimated
    if not seen.estimated:
        return max(model, known) if model >= 0 else min(model, known)
    return max(known, known + model * (1.0 - seen.over * run_share) - seen.billed * (1.0 - seen.over * run_share))


def _known(seen: Mapping[date, Seen]) -> float:
    return sum(s.billed + s.estimated for s in seen.values())


def _errors(outlook: ExpectedDays) -> tuple[float, float, float]:
    """Return the 10th, 90th and 33rd percentile of the replay errors, as parts of the expected cost.

    The 10th and 90th are increased if replays are long compared with the history, because such replays overlap.
    """
    if not outlook.errors:
        return -1.0, 1.0, 0.0
    apart = 1.0 + SLACK * outlook.reach / (outlook.length - LEAST_DAYS + 1)
    low, high, likely = (_quantile(outlook.errors, share) for share in (0.1, 0.9, 1 / 3))
    if len(outlook.errors) < FEW_REPLAYS:
        high = max(map(abs, outlook.errors))
        low = -high
    return low * apart, high * apart, likely


def _shift(outlook: ExpectedDays, errors: tuple[float, float, float]) -> float:
    """Return the median error if many replays show that the forecasts are always too low or always too high, otherwise 0.

    The caller adds it to the forecast, which would otherwise be outside its own interval.
    """
    if errors[0] <= 0 <= errors[1] or len(outlook.errors) < ENOUGH_REPLAYS:
        return 0.0
    return outlook.errors[len(outlook.errors) // 2]


def _quantile(errors: Sequence[float], share: float) -> float:
    """Return a split-conformal quantile of sorted errors. Its position is rounded outward, so that the quantile holds for one new error."""
    n = len(errors)
    place = math.floor((n + 1) * share) - 1 if share < 0.5 else math.ceil((n + 1) * share) - 1
    return errors[min(n - 1, max(0, place))]


def _cents(amount: float) -> Decimal:
    return Decimal(f"{amount:.2f}")
