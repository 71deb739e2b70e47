"""Measures how well the hours of runs fit the hours of machines, compared with a fit by chance.

All functions take lists with one number per slot. A slot is an hour, or a day if machines are billed by the day.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

HOURS_A_DAY = 24
# A likeness of at least this counts even if it repeats every day, although other daily work would look the same.
CLOSE = 0.8


@dataclass(frozen=True)
class Fit:
    """Sums of billed machines, of runs, and of what they have in common. `likeness` and `chance`, its expected value, are from 0 to 1."""

    billed: float
    ran: float
    both: float
    likeness: float
    chance: float

    @property
    def score(self) -> float:
        """Return 1 if the hours are the same, 0 if they fit as well as by chance, less than 0 if worse."""
        return (self.likeness - self.chance) / (1 - self.chance) if self.chance < 1 else 0.0


def fit(billed: Sequence[float], ran: Sequence[float], is_daily: bool = False, *, may_repeat: bool = True) -> Fit:
    """Compare billed machines and runs slot by slot: twice the common hours, divided by the sum of both (Dice).

    The value by chance compares each day's runs with the machines of every other day at the same time of day. Common working hours
    therefore prove nothing. With `may_repeat`, a close fit counts even if it is the same every day.
    """
    both = sum(map(min, billed, ran))
    whole = sum(billed) + sum(ran)
    if whole <= 0:
        return Fit(0.0, 0.0, 0.0, 0.0, 1.0)
    alike = 2 * both / whole
    overall = 2 * _by_chance(billed, ran) / whole
    by_time = overall if is_daily or (may_repeat and alike >= CLOSE) else 2 * _by_time_of_day(billed, ran) / whole
    return Fit(sum(billed), sum(ran), both, alike, min(1.0, max(overall, by_time)))


def crowding(billed: Sequence[float], ran: Sequence[float]) -> float:
    """Return how many runs share one machine at a time: run-hours divided by machine-hours, over the slots that have both. At least 1."""
    machines = sum(b for b, r in zip(billed, ran, strict=True) if r > 0)
    runs = sum(r for b, r in zip(billed, ran, strict=True) if b > 0)
    return max(1.0, runs / machines) if machines > 0 else 1.0


def likeness(billed: Sequence[float], ran: Sequence[float]) -> float:
    """Return twice the common hours, divided by the sum of both (Dice). Chance is not considered."""
    return 2 * sum(map(min, billed, ran)) / (sum(billed) + sum(ran) or 1.0)


def _by_time_of_day(billed: Sequence[float], ran: Sequence[float]) -> float:
    return sum(_by_chance(billed[hour::HOURS_A_DAY], ran[hour::HOURS_A_DAY]) for hour in range(HOURS_A_DAY))


def _by_chance(billed: Sequence[float], ran: Sequence[float]) -> float:
    """Return the hours that would be common by chance: each slot's runs compared with the machines of all other slots, on average."""
    count = len(billed)
    if count < 2:
        return sum(map(min, billed, ran))
    every = _sum_of_least(sorted(billed), sorted(ran))
    return max(0.0, (every - sum(map(min, billed, ran))) / (count - 1))


def _sum_of_least(first: Sequence[float], second: Sequence[float]) -> float:
    """Return the sum of min(a, b) over all pairs. Both lists must be sorted."""
    total, place, below = 0.0, 0, 0.0
    for a in first:
        while place < len(second) and second[place] < a:
            below += second[place]
            place += 1
        total += below + a * (len(second) - place)
    return total
