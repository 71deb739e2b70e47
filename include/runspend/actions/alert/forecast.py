"""What a budget will have spent by the end of its period, with an interval that holds four times in five.

Put here arithmetic over one series of daily costs. Reading the series (`figures.py`) and what follows from a forecast
(`decisions.py`) do not belong here. Floats on purpose: a forecast is no money anybody was billed; it becomes a decimal of
two places at the end, and what is billed already goes in exactly.

The method, in `levels.py`: simple ones mixed by how well each would have foretold the series, times what the same holiday was last
year. The interval is split-conformal: the mix is replayed from earlier days over as many days as are left, and how wrong it was
then is how wrong it may be now.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import date, timedelta
from decimal import ROUND_FLOOR, Context, Decimal

from runspend.actions.alert.levels import LEAST_DAYS, Outlook, look_ahead

EXACT = Context(prec=76)
HISTORY = timedelta(days=400)  # a year back, and the four weeks beside it that tell a holiday from a quiet month
SLACK = 1.0  # replays overlap: so much wider where they are as long as the history they are taken from
ENOUGH_REPLAYS = 60  # to believe them that the method is wrong on one side
FEW_REPLAYS = 5  # below it the widest error seen counts both ways: percentiles of one or two are on one side


@dataclass(frozen=True)
class Forecast:
    """The period's total: `low` to `high` holds it in 80 of 100 cases, `likely` is passed in two of three. `path` is the cumulative
    cost at the end of each day that is not wholly billed yet."""

    total: Decimal
    low: Decimal
    high: Decimal
    likely: Decimal
    path: tuple[tuple[date, Decimal], ...]

    def passes_on(self, level: Decimal) -> date | None:
        """The day around which a level will be passed, where two of three outcomes pass it; None if they do not. The one answer to "will it?"."""
        return next((day for day, cost in self.path if cost >= level), None) if level <= self.likely else None


@dataclass(frozen=True)
class Seen:
    """What is known of one day no bill wholly covers: billed so far, estimated of runs since, and how much of the day is over (0 to 1)."""

    billed: float = 0.0
    estimated: float = 0.0
    over: float = 0.0


def forecast_total(
    days: Mapping[date, Decimal], covered: date, period: tuple[date, date], spent: Decimal, seen: Mapping[date, Seen], run_share: float = 1.0
) -> Forecast | None:
    """The total at the end of `period` [start, end), from daily costs before `covered`, the first day not wholly billed; None with less
    than two weeks of history, or when all of it is billed.

    `spent` is the period's exact cost before `covered`. `run_share` is the part of the history that runs cost: estimates speak for it alone.
    """
    start, end, spent = max(period[0], covered), period[1], spent.quantize(Decimal("0.01"), ROUND_FLOOR, EXACT)  # never up to a threshold
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
        path.append((day, spent + _cents(sum_left)))
    least = _known(seen) if min(values) >= 0 else -math.inf  # where there are credits, less may come than is known
    size = sum(map(abs, model))
    low, high, likely = (spent + _cents(max(least, sum_left + (error - shift) * size)) for error in errors)
    total = path[-1][1]
    return Forecast(total, min(low, total), max(high, total), min(likely, total), tuple(path))


def _of_day(model: float, seen: Seen, run_share: float) -> float:
    """One day not wholly billed: estimates stand for what runs cost of the part that is over, the model for all else; never less than is
    known, or of a series of credits never more."""
    known = seen.billed + seen.estimated
    if not seen.estimated:
        return max(model, known) if model >= 0 else min(model, known)
    return max(known, known + model * (1.0 - seen.over * run_share) - seen.billed * (1.0 - seen.over * run_share))


def _known(seen: Mapping[date, Seen]) -> float:
    return sum(s.billed + s.estimated for s in seen.values())


def _errors(outlook: Outlook) -> tuple[float, float, float]:
    """Errors of the replays, as a part of what was expected: the 10th, 90th and 33rd percentile, wider for how few there are."""
    if not outlook.errors:
        return -1.0, 1.0, 0.0
    apart = 1.0 + SLACK * outlook.reach / (outlook.length - LEAST_DAYS + 1)
    low, high, likely = (_quantile(outlook.errors, share) for share in (0.1, 0.9, 1 / 3))
    if len(outlook.errors) < FEW_REPLAYS:
        high = max(map(abs, outlook.errors))
        low = -high
    return low * apart, high * apart, likely


def _shift(outlook: Outlook, errors: tuple[float, float, float]) -> float:
    """The middle error, where many replays agree that the method is too low or too high: a figure outside its own range is no figure."""
    if errors[0] <= 0 <= errors[1] or len(outlook.errors) < ENOUGH_REPLAYS:
        return 0.0
    return outlook.errors[len(outlook.errors) // 2]


def _quantile(errors: Sequence[float], share: float) -> float:
    """Split-conformal: outwards, so that it holds for one more draw."""
    n = len(errors)
    place = math.floor((n + 1) * share) - 1 if share < 0.5 else math.ceil((n + 1) * share) - 1
    return errors[min(n - 1, max(0, place))]


def _cents(amount: float) -> Decimal:
    return Decimal(f"{amount:.2f}")
