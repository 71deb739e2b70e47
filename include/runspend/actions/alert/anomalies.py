"""Find days of unusual spend: they cost far more than the same budget's other days, both in percent and in money.

Belongs here: the rule for one series of daily costs. `figures.py` reads the runs of such a day.

A day is reported if it costs more than a usual day by at least the share `ratio` and by at least the amount `level`. It must also cost more
than each day of the four weeks before it. The usual cost is the median of these four weeks, or the median of the last eight days with the same
weekday if that is higher. So an expensive Monday is not reported if every Monday is expensive. If costs rise to a new level, only the first
day is reported, unless a later day costs even more.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import date, timedelta
from decimal import Decimal
from statistics import median

from runspend.core.amounts import EXACT

LOOK_BACK = 28
WEEKS_BACK = 8
LEAST_SPENT_ON = 10  # minimum number of days with cost in the four weeks: with fewer, there is no usual cost


@dataclass(frozen=True)
class Anomaly:
    """A day of unusual spend: its date, its cost and the cost of a usual day."""

    day: date
    spent: Decimal
    usual: Decimal

    @property
    def percent_more(self) -> int | None:
        """The percentage above a usual day. None if a usual day costs nothing."""
        return int(EXACT.divide(EXACT.multiply(EXACT.subtract(self.spent, self.usual), Decimal(100)), self.usual)) if self.usual else None


def find_anomalies(days: Mapping[date, Decimal], covered: date, since: date, ratio: Decimal, level: Decimal) -> tuple[Anomaly, ...]:
    """Return the days of unusual spend in [since, covered), earliest first. Each needs at least four weeks of history before it."""
    first = min((day for day, cost in days.items() if cost), default=covered)
    found = []
    for number in range((covered - since).days):
        day = since + timedelta(days=number)
        spent = days.get(day, Decimal(0))
        before = [days.get(day - timedelta(days=n), Decimal(0)) for n in range(1, LOOK_BACK + 1)]
        if day - timedelta(days=LOOK_BACK) < first or sum(1 for cost in before if cost > 0) < LEAST_SPENT_ON:
            continue
        weeks = [day - timedelta(weeks=n) for n in range(1, WEEKS_BACK + 1)]
        usual = max(median(before), median([days.get(one, Decimal(0)) for one in weeks if one >= first]), Decimal(0))
        more = EXACT.subtract(spent, usual)
        if spent > max(before) and more >= level and more >= EXACT.multiply(usual, ratio):
            found.append(Anomaly(day, spent, usual))
    return tuple(found)
