"""Days that are far more expensive than their own history, both in percent and in money. New series give no alert."""

from __future__ import annotations

from datetime import date, timedelta
from decimal import Decimal

import pytest

from runspend.actions.alert.anomalies import find_anomalies

DAY = date(2026, 11, 22)  # a Sunday


def series(last: str, usual: str = "100", *, weeks: int = 8, **days: str) -> dict[date, Decimal]:
    """Return `usual` on every day of this many weeks before DAY, and `last` on DAY. "d3" is three days before it."""
    found = {DAY - timedelta(days=n): Decimal(usual) for n in range(1, 7 * weeks + 1)}
    return found | {DAY - timedelta(days=int(n[1:])): Decimal(cost) for n, cost in days.items()} | {DAY: Decimal(last)}


def found(days: dict[date, Decimal], *, ratio: str = "1", level: str = "50", since: int = 0) -> list[tuple[int, Decimal, Decimal]]:
    at = find_anomalies(days, DAY + timedelta(days=1), DAY - timedelta(days=since), Decimal(ratio), Decimal(level))
    return [((DAY - a.day).days, a.spent, a.usual) for a in at]


@pytest.mark.parametrize(
    ("days", "options", "is_one"),
    [
        (series("200"), {}, True),  # exactly at both limits
        (series("199.99"), {}, False),
        (series("200"), {"level": "100.01"}, False),  # a large percentage of little money
        (series("2000", "1900"), {"level": "50"}, False),  # a small percentage of much money
        (series("500", d9="600"), {}, False),  # there was a more expensive day within four weeks
        (series("500", d29="600"), {}, True),  # too long ago to count
        (series("500", weeks=4), {}, True),
        (series("500", weeks=3), {}, False),  # a new series
        (series("500", d7="450", d14="450", d21="450", d28="450", d35="450"), {}, False),  # every Sunday is expensive
        ({DAY: Decimal(500), DAY - timedelta(days=40): Decimal(1)}, {}, False),  # a series that hardly ever costs anything
        (series("0"), {}, False),
        (series("-500"), {}, False),
    ],
)
def test_a_day_is_an_anomaly_if_it_reaches_both_limits_and_has_a_history(
    days: dict[date, Decimal], options: dict[str, str], is_one: bool
) -> None:
    """A day must reach both limits and be more expensive than in each of the last four weeks. The series needs such a history."""
    assert bool(found(days, **options)) is is_one


def test_a_step_to_a_new_level_is_reported_once() -> None:
    """Only the first day is reported, because the next ones are not more expensive."""
    days = series("400", d3="400", d2="400", d1="400")
    assert [ago for ago, _, _ in found(days, since=7)] == [3]


def test_a_day_not_wholly_billed_is_not_judged() -> None:
    """A partly billed day may already be expensive, but Runspend judges it only when the bill has all its hours."""
    days = series("100") | {DAY + timedelta(days=1): Decimal(900)}
    assert found(days) == []


def test_an_anomaly_has_its_difference_in_percent() -> None:
    """The anomaly has the cost of the day, the usual cost, and the difference in percent."""
    (one,) = find_anomalies(series("512.5"), DAY + timedelta(days=1), DAY, Decimal(1), Decimal(50))
    assert (one.spent, one.usual, one.percent_more) == (Decimal("512.5"), Decimal(100), 412)
