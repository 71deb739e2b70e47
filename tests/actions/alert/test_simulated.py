"""A simulated quarter of pipeline runs (a year under torture) with late bills, restatements and crashes.

Every alert is sent once, and none is false.
"""

from __future__ import annotations

import random
from collections import Counter
from contextlib import nullcontext
from dataclasses import dataclass, field
from datetime import date, datetime, timedelta, timezone
from decimal import Decimal
from email import message_from_bytes
from functools import partial
from pathlib import Path

import pyarrow as pa
import pytest

from runspend.actions import alert
from runspend.warehouse.base import Reader
from tests.actions.alert.alert_world import Killed, budget, cost, count_down, in_memory, source
from tests.memory_records import MemoryRecords
from tests.settings_builder import make_settings

UTC = timezone.utc
BEGIN = date(2026, 1, 1)


@dataclass
class Bill:
    """Each day's true cost for a team, its first billed cost, when the bill arrives, and when it is restated."""

    draw: random.Random
    level: Decimal
    truth: dict[date, Decimal] = field(default_factory=dict)
    first: dict[date, Decimal] = field(default_factory=dict)
    arrives: dict[date, datetime] = field(default_factory=dict)
    restated: dict[date, datetime] = field(default_factory=dict)

    def bill(self, day: date) -> None:
        """A weekday costs its level, a weekend day a third, and some days ten times as much. One day in eight is restated later."""
        usual = self.level / 3 if day.weekday() > 4 else self.level
        factor = Decimal(self.draw.randrange(80, 121)) / 100 * (10 if self.draw.random() < 0.02 else 1)
        self.truth[day] = (usual * factor).quantize(Decimal("0.0001"))
        late = timedelta(hours=self.draw.choice((26, 30, 31, 36)) if self.draw.random() < 0.9 else self.draw.randrange(40, 200))
        after = max(
            [
                datetime(day.year, day.month, day.day, tzinfo=UTC) + timedelta(days=1) + late,
                *[a for d, a in self.arrives.items() if d < day],
            ]
        )
        self.arrives[day] = after
        self.first[day] = self.truth[day]
        if self.draw.random() < 0.125:
            self.first[day] = (self.truth[day] * Decimal(self.draw.choice(("0.2", "0.8", "1.3", "3")))).quantize(Decimal("0.0001"))
            self.restated[day] = after + timedelta(
                days=self.draw.randrange(1, 12) if self.draw.random() < 0.8 else self.draw.randrange(12, 90)
            )

    def known(self, now: datetime) -> dict[date, Decimal]:
        """Return the bill as known at a time."""
        return {
            day: self.truth[day] if self.restated.get(day, now + timedelta(1)) <= now or day not in self.restated else self.first[day]
            for day, at in self.arrives.items()
            if at <= now
        }

    def covered(self, now: datetime) -> date:
        """Return the first day that is not billed yet."""
        return max((day for day, at in self.arrives.items() if at <= now), default=BEGIN - timedelta(days=1)) + timedelta(days=1)


def reading(now: datetime, bills: dict[str, Bill]) -> Reader:
    """Return the warehouse as it was after that run's load."""
    rows = [cost(day.isoformat(), amount, team=team) for team, bill in bills.items() for day, amount in bill.known(now).items()]
    until = min(bill.covered(now) for bill in bills.values())
    return in_memory(cost_daily=rows, sources=[source(until=datetime(until.year, until.month, until.day, tzinfo=UTC))])


def mails(home: Path) -> Counter[str]:
    """Return the Message-IDs of the .eml files. The same id twice is the same file."""
    return Counter(str(message_from_bytes(path.read_bytes())["Message-ID"]) for path in (home / "mail").glob("*.eml"))


class Oracle:
    """Computes the expected mails by brute force: the sum of the bill for each pipeline run, month and threshold."""

    def __init__(self, amounts: dict[str, Decimal], levels: tuple[int, ...]) -> None:
        self.amounts, self.levels = amounts, levels
        self.due: dict[tuple[str, str, str, int], date] = {}

    def night(self, now: datetime, first: datetime, bills: dict[str, Bill]) -> None:
        for team, bill in bills.items():
            known = bill.known(now)
            months = {day.replace(day=1) for day in known} | {now.date().replace(day=1)}
            for month in months:
                end = (month + timedelta(days=31)).replace(day=1)
                begins, ends = (datetime(d.year, d.month, 1, tzinfo=UTC) for d in (month, end))
                if now - begins < timedelta(hours=24) or now < begins or first >= ends:
                    continue
                is_closed = now - ends >= timedelta(days=15) and bill.covered(now) >= end
                mine = {day: amount for day, amount in known.items() if month <= day < end}
                total = sum(mine.values(), Decimal(0))
                for percent in self.levels:
                    level = self.amounts[team] * percent / 100
                    key = team, f"{month:%Y-%m}"
                    through = self.due.get((*key, "actual", percent))
                    if through is None and total >= level and not is_closed:
                        self.due[(*key, "actual", percent)] = max((d for d, c in mine.items() if c), default=month)
                    elif through is not None and total < level and sum((c for d, c in mine.items() if d <= through), Decimal(0)) < level:
                        self.due.setdefault((*key, "correction", percent), now.date())


def simulate(home: Path, days: int, seed: int, crashes: float, hours: tuple[int, ...] = (6,)) -> tuple[Oracle, pa.Table, int]:
    """Run every day at six, or at these hours. Some runs are killed at a write and then started again."""
    draw = random.Random(seed)
    bills = {team: Bill(random.Random(f"{seed} {team}"), Decimal(level)) for team, level in (("vision", 100), ("nlp", 40), ("ops", 7))}
    amounts = {"vision": Decimal(2600), "nlp": Decimal(1000), "ops": Decimal(150)}
    given = make_settings(
        home,
        *[
            budget(team, str(amount), **{"for": {"team": team}, "actual": ["80%", "100%", "120%"], "notify": [f"{team}@acme.com"]})
            for team, amount in amounts.items()
        ],
    )
    oracle, records, first, result, kills = Oracle(amounts, (80, 100, 120)), MemoryRecords(), None, None, 0
    for number in range(days):
        for bill in bills.values():
            bill.bill(BEGIN + timedelta(days=number))
        for hour in hours:
            now = datetime(BEGIN.year, 1, 1, hour, tzinfo=UTC) + timedelta(days=number)
            if number < 3:
                continue  # the bill has no day yet
            reader = reading(now, bills)
            first = first or now
            if draw.random() < crashes:
                records.before = records.after = partial(count_down, [draw.randrange(0, 8)])  # type: ignore[method-assign]  # the seam this class is for
                try:
                    alert.run(partial(nullcontext, reader), given, records, now)
                except Killed:
                    kills += 1
                records.before = records.after = lambda operation: None  # type: ignore[method-assign]  # as above
            result = alert.run(partial(nullcontext, reader), given, records, now)
            oracle.night(now, first, bills)
    assert result is not None
    return oracle, result.alerts, kills


def check(home: Path, oracle: Oracle, alerts: pa.Table) -> None:
    """Check that decisions equal the oracle's, each has one mail that names it, and every mail belongs to a decision."""
    rows = alerts.to_pylist()
    alerted = {
        (r["budget"], r["budget_period"], r["kind"], int(r["threshold"].removesuffix("%")))
        for r in rows
        if r["kind"] in ("actual", "correction")
    }
    assert alerted == set(oracle.due)
    assert len(alerted) == sum(1 for r in rows if r["kind"] in ("actual", "correction")), "one row each"
    assert all('"accepted"' in r["recipients"] for r in rows)
    assert set(mails(home)) == {r["message_id"] for r in rows}
    forecasts = [r for r in rows if r["kind"] == "forecast"]
    assert len({(r["budget"], r["budget_period"], r["threshold"]) for r in forecasts}) == len(forecasts)


def test_a_quarter_of_nightly_runs_mails_every_crossing_once(tmp_path: Path) -> None:
    """There are three budgets. Half of the pipeline runs are killed at a write, if there is one."""
    oracle, alerts, kills = simulate(tmp_path, 92, 20261125, 0.5)
    check(tmp_path, oracle, alerts)
    kinds = Counter(alerts["kind"].to_pylist())
    assert kills > 3 and kinds["actual"] > 10 and kinds["correction"] > 0 and kinds["forecast"] > 0 and kinds["anomaly"] > 0, (kills, kinds)


@pytest.mark.torture
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("seed", range(4))
def test_a_year_of_nightly_runs_mails_every_crossing_once(tmp_path: Path, seed: int) -> None:
    """The test simulates a year, four times."""
    oracle, alerts, kills = simulate(tmp_path, 366, seed, 0.5, (6, 12))
    check(tmp_path, oracle, alerts)
    print(f"\n  year {seed}: {kills} kills, {dict(Counter(alerts['kind'].to_pylist()))}")
