"""What a budget will have spent by the end of its period, with an interval that holds four times in five.

Put here arithmetic over one series of daily costs. Reading the series (`figures.py`) and what follows from a forecast
(`decisions.py`) do not belong here. Floats on purpose: a forecast is no money anybody was billed; it becomes a decimal of
two places at the end, and what is billed already goes in exactly.

The method: an average of the last eight weeks in which newer days weigh more, times the weekday's share, times what the same date
did last year where that was a holiday of a series that seldom rests. The interval is split-conformal: the same method is
replayed from earlier days over as many days as are left, and how wrong it was then is how wrong it may be now.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import date, timedelta
from decimal import ROUND_FLOOR, Context, Decimal

EXACT = Context(prec=76)
HISTORY = timedelta(days=400)  # a year back, and the four weeks beside it that tell a holiday from a quiet month
LEAST_DAYS = 14  # with less there is no weekday to learn
WINDOW, HALF_LIFE = 56, 14.0  # days
PRIOR_WEEKS = 1.5  # so many average weeks are mixed into what a weekday shows
REPLAYS = 90
SLACK = 1.0  # replays overlap: so much wider where they are as long as the history they are taken from
HOLIDAY_BELOW, HOLIDAYS_AT_MOST = 0.5, 0.1  # of the expected cost; of a year's working days, else the series just rests often


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
        """The day around which a level is passed; None if it is not."""
        return next((day for day, cost in self.path if cost >= level), None)


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
    first = min((day for day, cost in days.items() if cost and day < covered), default=covered)
    values = [float(days.get(first + timedelta(days=n), 0)) for n in range((covered - first).days)]
    left = (end - start).days
    if len(values) < LEAST_DAYS or left < 1:
        return None
    expected = expect(values, first, (end - covered).days)[-left:]
    path, sum_left = [], 0.0
    for number, model in enumerate(expected):
        day = start + timedelta(days=number)
        sum_left += _of_day(model, seen.get(day, Seen()), run_share)
        path.append((day, spent + _cents(sum_left)))
    low, high, likely = (spent + _cents(max(_known(seen), sum_left + error * sum(expected))) for error in _errors(values, first, left))
    total = path[-1][1]
    return Forecast(total, min(low, total), max(high, total), likely, tuple(path))


def expect(values: Sequence[float], first: date, count: int) -> list[float]:
    """The cost of each of the `count` days after `values`, whose first day is `first`."""
    holidays = find_holidays(values, first)
    start = max(0, len(values) - WINDOW)
    weekday = first.weekday()
    sums, weights = [0.0] * 7, [0.0] * 7
    for n in range(start, len(values)):
        if _last_year(first, n, holidays) is None:
            weight = 0.5 ** ((len(values) - 1 - n) / HALF_LIFE)
            sums[(weekday + n) % 7] += weight * values[n]
            weights[(weekday + n) % 7] += weight
    together = sum(weights)
    mean = sum(sums) / together if together else 0.0
    prior = PRIOR_WEEKS * together / max(1, len(values) - start)  # of the weight a day has on average
    by_weekday = [(s + prior * mean) / (w + prior) if w + prior else mean for s, w in zip(sums, weights, strict=True)]
    found = []
    for n in range(len(values), len(values) + count):
        ratio = _last_year(first, n, holidays)
        found.append(by_weekday[(weekday + n) % 7] * (1.0 if ratio is None else ratio))
    return found


def find_holidays(values: Sequence[float], first: date) -> dict[date, float]:
    """Days of the history that cost less than half of what their weekday costs around them, with that ratio; none where such days are common."""
    if len(values) < 28 + 366:
        return {}
    weekday, dips, working = first.weekday(), dict[date, float](), 0
    for n, value in enumerate(values):
        near = [values[n + 7 * week] for week in (-4, -3, -2, -1, 1, 2, 3, 4) if 0 <= n + 7 * week < len(values)]
        usual = sorted(near)[len(near) // 2]
        if usual <= 0 or ((weekday + n) % 7 > 4 and value >= HOLIDAY_BELOW * usual):
            continue
        working += 1
        if value < HOLIDAY_BELOW * usual:
            dips[first + timedelta(days=n)] = max(0.0, value / usual)
    return dips if len(dips) <= HOLIDAYS_AT_MOST * working else {}


def _last_year(first: date, n: int, holidays: Mapping[date, float]) -> float | None:
    """How much of a usual day the same date of the year before was, if that was a holiday."""
    if not holidays:
        return None
    day = first + timedelta(days=n)
    return holidays.get(day.replace(year=day.year - 1, day=min(day.day, 28) if day.month == 2 else day.day))


def _of_day(model: float, seen: Seen, run_share: float) -> float:
    """One day not wholly billed: estimates stand for what runs cost of the part that is over, the model for all else; never less than is known."""
    known = seen.billed + seen.estimated
    if not seen.estimated:
        return max(model, known)
    return max(known, known + model * (1.0 - seen.over * run_share) - seen.billed * (1.0 - seen.over * run_share))


def _known(seen: Mapping[date, Seen]) -> float:
    return sum(s.billed + s.estimated for s in seen.values())


def _errors(values: Sequence[float], first: date, left: int) -> tuple[float, float, float]:
    """Errors of the replays, as a part of what was expected: the 10th, 90th and 33rd percentile, wider for how few there are."""
    reach = max(1, min(left, (len(values) - LEAST_DAYS) // 3))
    last = len(values) - reach
    begins = range(max(LEAST_DAYS, last - 2 * REPLAYS), last + 1, 2) if last - LEAST_DAYS > REPLAYS else range(min(LEAST_DAYS, last), last + 1)
    errors = []
    for begin in begins:
        expected = sum(expect(values[:begin], first, reach))
        if expected > 0:
            errors.append(sum(values[begin : begin + reach]) / expected - 1.0)
    if not errors:
        return -1.0, 1.0, 0.0
    errors.sort()
    apart = 1.0 + SLACK * reach / (len(values) - LEAST_DAYS + 1)
    return tuple(_quantile(errors, share) * (apart if share != 1 / 3 else 1.0) for share in (0.1, 0.9, 1 / 3))  # type: ignore[return-value]


def _quantile(errors: Sequence[float], share: float) -> float:
    """Split-conformal: outwards, so that it holds for one more draw."""
    n = len(errors)
    place = math.floor((n + 1) * share) - 1 if share < 0.5 else math.ceil((n + 1) * share) - 1
    return errors[min(n - 1, max(0, place))]


def _cents(amount: float) -> Decimal:
    return Decimal(f"{amount:.2f}")
