"""Forecast the cost of each coming day from a series of daily costs.

Belongs here: arithmetic with one list of floats. Periods, bills and known parts of a day are in `forecast.py`.

The forecast is a weighted mean of a few simple methods. Each method multiplies a typical cost per weekday by a level. The level is the
recent average cost relative to those weekdays, and newer days weigh more. The methods differ in how fast a day loses weight. One method
also continues the growth of the last eight weeks.

All methods are replayed: they forecast from earlier days of the history, and the results are compared with the true costs. The errors of
the replays give the weight of each method and the likely error of the forecast. If the cost level has clearly changed, only the history
after this step is used, because earlier costs do not show the future.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import date, timedelta
from itertools import accumulate

from runspend.actions.alert.exceptional import set_apart
from runspend.actions.alert.holidays import expect_again, find_holidays

LEAST_DAYS = 14  # the difference between weekdays cannot be seen in fewer days
HALF_LIVES = (2.0, 10.0, 120.0)  # days until the weight of a day has halved
OF_TREND, OF_WEEKDAYS = 10.0, 100.0  # also half-lives in days
BOLD = (True, False, False, True)  # the fastest and the growing method; with few replays, their errors are increased by CAUTION
CAUTION = 5.0
PRIOR_DAYS = 0.7  # the mean of a weekday includes this many days of average cost
FOUR_WEEKS, DAMPING, FASTEST = (
    28,
    0.98,
    0.02,
)  # Growth: measured over this many days, damped by this factor per day, and limited to this much per day.
REPLAYED, EVERY = 270, 3  # replays of a long history start at most this many days back, on every third day
ALL_REPLAYED_BELOW = 90
WEEK = 7
SHARPNESS = 8  # exponent of the errors: almost only the best method counts, but the forecast does not jump when another becomes best
STEP_CHANCE, STEP_BY = 0.01, 2.0  # highest p-value of Pettitt's test, and lowest ratio of means and of medians


@dataclass(frozen=True)
class ExpectedDays:
    """The expected cost of each day after a history, and the errors of such forecasts in the past.

    `errors` are sorted. Each is the error of a forecast over `reach` days, divided by the expected cost. `length` is the number of days in
    the history that they come from. `again` holds the cost of each day that recurs by the month. The caller adds it to `days`, to the cent.
    """

    days: list[float]
    errors: list[float]
    reach: int
    length: int
    again: list[float]


@dataclass(frozen=True)
class _Replay:
    true: float
    totals: list[float]  # by method
    sizes: list[float]  # by method, sums of absolute values
    of_week: list[float]  # by method, errors of the first week


def look_ahead(values: Sequence[float], first: date, count: int, reach: int) -> ExpectedDays:
    """Return the forecast of the `count` days after `values`. `first` is the date of the first value.

    Errors are measured over `reach` days, or over fewer if the history is short.
    """
    usual, again = set_apart(values, first, count)
    resting = expect_again(find_holidays(usual, first))
    begin = find_step(usual)
    history = History(usual[begin:], first + timedelta(days=begin), resting)
    reach = max(1, min(reach, (history.length - LEAST_DAYS) // 3))
    replays = list(_replay(history, reach))
    weights = _weigh(replays)
    days = [
        sum(w * cost for w, cost in zip(weights, costs, strict=True))
        for costs in zip(*history.foretell(history.length, count), strict=True)
    ]
    errors = []
    for replay in replays:
        expected = sum(w * total for w, total in zip(weights, replay.totals, strict=True))
        size = sum(w * total for w, total in zip(weights, replay.sizes, strict=True))
        if size > 0:
            errors.append((replay.true - expected) / size)
    return ExpectedDays(days, sorted(errors), reach, history.length, again)


class History:
    """Daily costs with cumulative sums. They make it possible to evaluate each method at any day without summing all costs again."""

    def __init__(self, values: Sequence[float], first: date, resting: Mapping[date, float]) -> None:
        self.length = len(values)
        self.weekday = first.weekday()
        self.resting = {(day - first).days: ratio for day, ratio in resting.items()}
        self.totals = [0.0, *accumulate(values)]
        self.sums = {half_life: self._weighted(values, half_life) for half_life in {*HALF_LIVES, OF_TREND, OF_WEEKDAYS}}

    def foretell(self, n: int, count: int) -> list[list[float]]:
        """Return the forecast of each method for the `count` days after the first `n` days. It uses only those `n` days."""
        weekdays = self._weekdays(n)
        shape = [weekdays[(self.weekday + day) % WEEK] * self.resting.get(day, 1.0) for day in range(n, n + count)]
        found = [self._at_level(n, half_life, weekdays, shape) for half_life in HALF_LIVES]
        growing, growth = self._at_level(n, OF_TREND, weekdays, shape), self._growth(n)
        if growth:
            age, left = 1.0 / (2.0 ** (1.0 / OF_TREND) - 1.0), 1.0  # mean age of the days in the level
            for place in range(count):
                age, left = age + left, left * DAMPING
                growing[place] *= math.exp(growth * age)
        return [*found, growing]

    def _weekdays(self, n: int) -> list[float]:
        costs, weights = self._until(n, OF_WEEKDAYS)
        together = sum(weights)
        mean = sum(costs) / together if together else 0.0
        prior = PRIOR_DAYS * together / max(1.0, min(n, 2 * OF_WEEKDAYS))
        return [(cost + prior * mean) / (weight + prior) if weight + prior else mean for cost, weight in zip(costs, weights, strict=True)]

    def _at_level(self, n: int, half_life: float, weekdays: Sequence[float], shape: Sequence[float]) -> list[float]:
        costs, weights = self._until(n, half_life)
        usual = sum(weight * cost for weight, cost in zip(weights, weekdays, strict=True))
        if usual and (min(weekdays) >= 0 or max(weekdays) <= 0):
            level = sum(costs) / usual
            return [level * cost for cost in shape]
        together = sum(weights)  # mixed costs and credits: they nearly cancel out, so a ratio would be arbitrary
        more = (sum(costs) - usual) / together if together else 0.0
        return [cost + more for cost in shape]

    def _growth(self, n: int) -> float:
        if n < 2 * FOUR_WEEKS:
            return 0.0
        newer = self.totals[n] - self.totals[n - FOUR_WEEKS]
        older = self.totals[n - FOUR_WEEKS] - self.totals[n - 2 * FOUR_WEEKS]
        if newer * older <= 0:
            return 0.0
        return max(-FASTEST, min(FASTEST, math.log(newer / older) / FOUR_WEEKS))

    def _weighted(self, values: Sequence[float], half_life: float) -> list[tuple[list[float], list[float]]]:
        """Return the cumulative weighted sums of costs and of weights for each weekday.

        Weights grow by a constant factor per day. They need no fixed scale, because only ratios of them are used.
        """
        found: list[tuple[list[float], list[float]]] = [([0.0], [0.0]) for _ in range(WEEK)]
        faster, weight = 2.0 ** (1.0 / half_life), 1.0
        for n, value in enumerate(values):
            costs, weights = found[(self.weekday + n) % WEEK]
            counts = 0.0 if n in self.resting else weight
            costs.append(costs[-1] + counts * value)
            weights.append(weights[-1] + counts)
            weight *= faster
        return found

    def _until(self, n: int, half_life: float) -> tuple[list[float], list[float]]:
        """Return the sums of `_weighted` for the first `n` days, scaled so that the newest day has a weight of about one."""
        scale = 2.0 ** (-n / half_life)
        places = [(n - (weekday - self.weekday) % WEEK + 6) // WEEK for weekday in range(WEEK)]
        sums = self.sums[half_life]
        return (
            [sums[weekday][0][place] * scale for weekday, place in enumerate(places)],
            [sums[weekday][1][place] * scale for weekday, place in enumerate(places)],
        )


def find_step(values: Sequence[float]) -> int:
    """Return the index of the first value after the last step of the history, or 0 without a step.

    A step is a change that is unlikely by chance (Pettitt, 1979) and that at least doubles or halves the cost. At least two weeks of values
    must follow it.
    """
    begin = 0
    while len(values) - begin >= LEAST_DAYS + WEEK:
        part = values[begin:]
        place, chance = _most_likely_step(part)
        if chance > STEP_CHANCE or len(part) - place < LEAST_DAYS:
            break
        before, after = sorted(part[max(0, place - FOUR_WEEKS) : place]), sorted(part[place : place + FOUR_WEEKS])
        means = sum(before) / len(before), sum(after) / len(after)
        medians = before[len(before) // 2], after[len(after) // 2]
        if not (_is_far(*means) and _is_far(*medians)):
            break
        begin += place
    return begin


def _most_likely_step(values: Sequence[float]) -> tuple[int, float]:
    """Return the index that separates the values into the two parts with the most different ranks, and the p-value of this difference."""
    n, ranks = len(values), dict[float, float]()
    ordered, begin = sorted(values), 0
    for place, value in enumerate(ordered):
        if place + 1 == n or ordered[place + 1] != value:
            ranks[value], begin = (begin + place) / 2 + 1, place + 1
    found, most, apart = 1, 0.0, 0.0
    for place, value in enumerate(values[:-1], 1):
        apart += 2 * ranks[value] - (n + 1)
        if abs(apart) > most:
            found, most = place, abs(apart)
    return found, 2 * math.exp(-6 * most**2 / (n**3 + n**2))


def _is_far(one: float, other: float) -> bool:
    return one != other and (one * other <= 0 or max(abs(one), abs(other)) >= STEP_BY * min(abs(one), abs(other)))


def _replay(history: History, reach: int) -> list[_Replay]:
    last, found = history.length - reach, []
    is_long = last - LEAST_DAYS > ALL_REPLAYED_BELOW
    begins = range(max(LEAST_DAYS, last - REPLAYED), last + 1, EVERY) if is_long else range(min(LEAST_DAYS, last), last + 1)
    for begin in begins:
        by_method, week = history.foretell(begin, reach), min(WEEK, reach)
        true_week = history.totals[begin + week] - history.totals[begin]
        found.append(_Replay(
            history.totals[begin + reach] - history.totals[begin],
            [sum(days) for days in by_method],
            [sum(map(abs, days)) for days in by_method],
            [true_week - sum(days[:week]) for days in by_method],
        ))  # fmt: skip
    return found


def _weigh(replays: Sequence[_Replay]) -> list[float]:
    """Return the weight of each method. The weights add up to 1.

    The score of a method is its mean squared error over the whole reach times its mean squared error over one week. Errors over a week are
    included because a history has many more separate weeks than separate reaches.
    """
    scores = []
    for method, is_bold in enumerate(BOLD):
        whole = sum((replay.true - replay.totals[method]) ** 2 for replay in replays) / len(replays)
        week = sum(replay.of_week[method] ** 2 for replay in replays) / len(replays)
        scores.append(whole * week * (1.0 + CAUTION / len(replays)) ** (2 * is_bold))
    best = min(scores)
    found = [(best / score) ** SHARPNESS if best else float(not score) for score in scores]
    return [share / sum(found) for share in found]
