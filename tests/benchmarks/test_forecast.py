"""How good the forecast is, beside the plain run rate, last month and Holt-Winters: replayed over a year of series whose course is known.

Goals: the 80% interval holds 75 to 85 of 100 totals; the error is below that of all others. A forecast threshold is mailed early and rarely in vain.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import date, timedelta
from decimal import Decimal

import pytest

from runspend.actions.alert.forecast import HISTORY, Forecast, forecast_total
from tests.benchmarks.holt_winters import foretell
from tests.benchmarks.measured import scaled
from tests.benchmarks.series_world import BEGIN, SHAPES, Days, accuracy_series, make_series

pytestmark = [pytest.mark.bench, pytest.mark.timeout(3600)]

SEEDS, ACCURACY_DAYS = 12, 100


@dataclass
class Score:
    """Forecasts of one kind of series, errors as parts of the true total."""

    name: str
    held: int = 0
    below: int = 0
    forecast: list[float] = field(default_factory=list)
    run_rate: list[float] = field(default_factory=list)
    last_month: list[float] = field(default_factory=list)
    holt_winters: list[float] = field(default_factory=list)
    width: list[float] = field(default_factory=list)
    warned: int = 0
    warned_rightly: int = 0
    passed: int = 0
    days_ahead: list[int] = field(default_factory=list)

    @property
    def count(self) -> int:
        return len(self.forecast)

    def add(self, found: Forecast, true: float, run_rate: float, last_month: float, holt_winters: float) -> None:
        """One forecast against what came."""
        self.held += float(found.low) <= true + 0.005 and true - 0.005 <= float(found.high)
        self.below += true < float(found.low) - 0.005
        figures = (
            (self.forecast, float(found.total)),
            (self.run_rate, run_rate),
            (self.last_month, last_month),
            (self.holt_winters, holt_winters),
        )
        for errors, figure in figures:
            errors.append(abs(figure - true) / true)
        self.width.append(float(found.high - found.low) / true)

    def __str__(self) -> str:
        mean = lambda values: sum(values) / len(values) if values else 0.0  # noqa: E731  # one expression
        return (
            f"{self.name:<28} {self.count:>5} {self.held / self.count:>7.1%} {self.below / self.count:>7.1%} {mean(self.width):>7.1%}"
            f" {mean(self.forecast):>8.1%} {mean(self.run_rate):>8.1%} {mean(self.last_month):>8.1%} {mean(self.holt_winters):>8.1%}"
            f" {self.warned:>5} {self.warned - self.warned_rightly:>6} {self.passed:>6} {mean(self.days_ahead):>5.1f}"
        )


HEADS = f"{'':<28} {'n':>5} {'held':>7} {'below':>7} {'width':>7} {'error':>8} {'run rate':>8} {'last m.':>8} {'Holt-W.':>8} {'told':>5} {'wrong':>6} {'passed':>6} {'ahead':>5}"


def months(days: Days, since: date) -> Iterator[tuple[date, date]]:
    """Whole months of a series from a day on."""
    start = since.replace(day=1) if since.day == 1 else (since.replace(day=1) + timedelta(days=32)).replace(day=1)
    while (end := (start + timedelta(days=32)).replace(day=1)) <= max(days) + timedelta(days=1):
        yield start, end
        start = end


def total(days: Days, start: date, end: date) -> Decimal:
    return sum((cost for day, cost in days.items() if start <= day < end), Decimal(0))


def replay(days: Days, since: date, every: int, score: Score) -> None:
    """Each month from its fourth day on; and one budget of 105% of last month, mailed when two of three outcomes pass it."""
    for start, end in months(days, since):
        true = float(total(days, start, end))
        last_month = total(days, (start - timedelta(days=1)).replace(day=1), start)
        amount, warned_on = last_month * Decimal("1.05"), None
        if true <= 0:
            continue
        for n in range(3, (end - start).days - 2, every):
            covered = start + timedelta(days=n)
            spent = total(days, start, covered)
            history = {d: c for d, c in days.items() if covered - HISTORY <= d < covered}
            found = forecast_total(history, covered, (start, end), spent, {})
            assert found is not None
            score.add(found, true, float(spent) / n * (end - start).days, float(last_month), float(spent) + smoothed(history, covered, end))
            if warned_on is None and spent < amount <= found.likely:
                warned_on = covered
        is_passed = Decimal(true) >= amount
        score.passed += is_passed
        if warned_on is not None:
            score.warned += 1
            score.warned_rightly += is_passed
            if is_passed:
                running = Decimal(0)
                passed_on = next(day for day in sorted(days) if day >= start and (running := running + days[day]) >= amount)
                score.days_ahead.append((passed_on - warned_on).days)


def smoothed(history: Days, covered: date, end: date) -> float:
    """What Holt-Winters says of the days left."""
    first = min(day for day, cost in history.items() if cost)
    return foretell([float(history.get(first + timedelta(days=n), 0)) for n in range((covered - first).days)], (end - covered).days)


def summed(scores: list[Score], name: str) -> Score:
    """All of them as one."""
    whole = Score(name)
    for score in scores:
        for key, value in vars(score).items():
            if key != "name":
                setattr(whole, key, getattr(whole, key) + value)
    return whole


def check(scores: list[Score], name: str) -> Score:
    """Print the table and hold it against the goals."""
    whole = summed(scores, name)
    print("\n".join(["", HEADS, *map(str, scores), str(whole)]))
    assert 0.75 <= whole.held / whole.count <= 0.85
    assert sum(whole.forecast) < sum(whole.run_rate)
    assert sum(whole.forecast) < sum(whole.last_month)
    assert sum(whole.forecast) < sum(whole.holt_winters)
    return whole


def test_forecasts_of_seasonal_series_are_as_accurate_as_promised() -> None:
    """Nine kinds of teams over fourteen months, the first forecast after two months of history."""
    scores = []
    for shape in SHAPES:
        scores.append(Score(shape.__name__))
        for seed in range(scaled(SEEDS)):
            replay(make_series(shape, seed), BEGIN + timedelta(days=62), 4, scores[-1])
    whole = check(scores, "all")
    assert whole.warned_rightly / whole.warned > 0.7
    assert sum(sum(s.forecast) <= 1.03 * sum(s.holt_winters) for s in scores) == len(scores), "as good for every kind, better for most"
    assert sum(sum(s.forecast) < sum(s.holt_winters) for s in scores) >= 7


def test_accuracy_worlds() -> None:
    """The bills of the accuracy worlds and their experiments, with four weeks of history at first."""
    scores: dict[str, Score] = {}
    for seed in range(max(1, scaled(3))):
        for name, days in accuracy_series(ACCURACY_DAYS, seed):
            world = name.partition(",")[0]
            replay(days, min(days) + timedelta(days=27), 2, scores.setdefault(world, Score(world)))
    check(list(scores.values()), "all")
