"""Daily costs whose whole course is known: kinds of teams, and the accuracy worlds' bills by day.

Put a kind of series here by what happens in it. What is foreseen of it is judged in `test_forecast.py`.
"""

from __future__ import annotations

import math
import random
from collections import defaultdict
from collections.abc import Callable, Iterator
from datetime import date, timedelta
from decimal import Decimal
from fractions import Fraction

from tests.benchmarks.accuracy.worlds import WORLDS, Size, make_world

BEGIN = date(2025, 7, 1)
DAYS = 520
COME_AND_GO = ("rented", "jobs", "autoscaled", "spot", "daily_bills", "reused_names")  # of all others every day costs the same
Days = dict[date, Decimal]
Shape = Callable[[random.Random, date, int, dict[object, float]], float]


def office(draw: random.Random, day: date, n: int, state: dict[object, float]) -> float:
    """Weekdays alike, weekends less."""
    return state["week", day.weekday()] * draw.gauss(1, 0.12)


def holidays(draw: random.Random, day: date, n: int, state: dict[object, float]) -> float:
    """An office that rests from Christmas to New Year and on five days more."""
    is_off = (day.month == 12 and day.day >= 24) or (day.month, day.day) in ((1, 1), (5, 1), (7, 4), (8, 15), (11, 11))
    return office(draw, day, n, state) * (0.1 if is_off else 1)


def growth(draw: random.Random, day: date, n: int, state: dict[object, float]) -> float:
    """Three percent more every week."""
    return office(draw, day, n, state) * 1.004**n


def bursts(draw: random.Random, day: date, n: int, state: dict[object, float]) -> float:
    """No week at all: many small days and a few very expensive ones."""
    return draw.lognormvariate(-0.4, 0.9)


def sweeps(draw: random.Random, day: date, n: int, state: dict[object, float]) -> float:
    """An office in which a sweep starts now and then and fades out over days."""
    state["sweep"] = draw.uniform(2, 6) if draw.random() < 0.06 else max(1.0, state.get("sweep", 1.0) * 0.8)
    return office(draw, day, n, state) * state["sweep"]


def sparse(draw: random.Random, day: date, n: int, state: dict[object, float]) -> float:
    """A training on one day in four, nothing on the others."""
    return draw.lognormvariate(0, 0.6) if draw.random() < 0.25 else 0.0


def steps(draw: random.Random, day: date, n: int, state: dict[object, float]) -> float:
    """A level that changes permanently three or four times a year."""
    if draw.random() < 0.01:
        state["level"] = state.get("level", 1.0) * draw.choice((0.6, 1.5))
    return office(draw, day, n, state) * state.get("level", 1.0)


def mondays(draw: random.Random, day: date, n: int, state: dict[object, float]) -> float:
    """The model is trained again every Monday."""
    return (4 if day.weekday() == 0 else 0.4) * draw.gauss(1, 0.2)


def drift(draw: random.Random, day: date, n: int, state: dict[object, float]) -> float:
    """A level that wanders five percent a day."""
    state["drift"] = state.get("drift", 1.0) * math.exp(draw.gauss(0, 0.05))
    return office(draw, day, n, state) * state["drift"]


SHAPES: tuple[Shape, ...] = (office, holidays, growth, bursts, sweeps, sparse, steps, mondays, drift)


def make_series(shape: Shape, seed: int) -> Days:
    """A year and five months of daily costs."""
    draw = random.Random(f"{shape.__name__} {seed}")
    level, state = draw.uniform(50, 2000), dict[object, float]()
    for weekday in range(7):
        state["week", weekday] = draw.uniform(0.9, 1.2) if weekday < 5 else draw.uniform(0.2, 0.5)
    days = (BEGIN + timedelta(days=n) for n in range(DAYS))
    return {day: Decimal(f"{max(0.0, level * shape(draw, day, n, state)):.4f}") for n, day in enumerate(days)}


def accuracy_series(days: int, seed: int) -> Iterator[tuple[str, Days]]:
    """Of every accuracy world whose machines come and go: the bill by day, and by day what each experiment truly cost."""
    for maker in [maker for makers in WORLDS.values() for maker in makers if maker.__name__ in COME_AND_GO]:
        world = make_world(maker, Size(4, days), seed)
        experiment = {run.run_id: run.experiment for run in world.runs}
        series: dict[str, dict[date, Fraction]] = defaultdict(lambda: defaultdict(Fraction))
        for line in world.lines:
            day = date.fromisoformat(line.row["ChargePeriodStart"][:10])
            series[world.name][day] += line.cost()
            for who, share in line.shares.items():
                if who in experiment:
                    series[f"{world.name}, {experiment[who]}"][day] += line.cost() * share
        for name, found in sorted(series.items()):
            yield name, {day: Decimal(f"{float(cost):.4f}") for day, cost in found.items()}
