"""Which budgets crossed which thresholds: pure functions of budgets, spend, what was decided before, and now.

Put here what decides. Reading spend (`figures.py`), recording a decision (`__init__.py`) and mail do not belong here.

The rule: a threshold is crossed when spent >= threshold, in exact decimals. It is decided once per (budget version,
threshold, kind, period), for good: falling below fires nothing, crossing again fires nothing. A budget whose deciding
parts are edited is a new version and is judged anew.
"""

from __future__ import annotations

import calendar
import hashlib
import json
import re
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from decimal import ROUND_DOWN, Context, Decimal
from typing import Literal

from runspend.config import Budget
from runspend.errors import ConfigError

# 22 decimals and any total: the 28 digits of Python's default context would round sums past a million.
EXACT = Context(prec=76)
KIND = "actual"
Every = Literal["day", "week", "month", "quarter", "year"]
EVERY: tuple[Every, ...] = ("day", "week", "month", "quarter", "year")
# Bills are hours to days late. A period that just ended is judged this much longer, else a crossing in its last hours is never seen.
LATE_BILLS = timedelta(days=3)

_THRESHOLD = re.compile(r"(\d+(?:\.\d+)?)\s*(%|[A-Z]{3})?", re.ASCII)


@dataclass(frozen=True, order=True)
class BudgetPeriod:
    """Days [start, end) of one period; `name` is 2026-11-24, 2026-W48, 2026-11, 2026-Q4 or 2026."""

    start: date
    end: date
    name: str

    @property
    def month(self) -> date:
        """First day of the month the period starts in."""
        return self.start.replace(day=1)


@dataclass(frozen=True, order=True)
class Threshold:
    """A level of spend, in the budget's currency; `text` is how it was asked for: "80 %" or "500 USD"."""

    level: Decimal
    text: str

    @property
    def slug(self) -> str:
        """For keys and Message-IDs: "80", "500USD"."""
        return self.text.removesuffix(" %").replace(" ", "")


@dataclass(frozen=True)
class Crossing:
    """A threshold that is crossed, and the charge date that took the spend over it for good."""

    threshold: Threshold
    on: date


@dataclass(frozen=True)
class Status:
    """One budget in one period. `not_judged` says why there is no verdict; then `spent` is None and nothing is crossed."""

    budget: Budget
    currency: str
    version: str
    period: BudgetPeriod
    thresholds: tuple[Threshold, ...]
    spent: Decimal | None
    crossed: tuple[Crossing, ...] = ()
    not_judged: str | None = None

    @property
    def percent(self) -> Decimal | None:
        """Percent of the amount, cut (not rounded) to one decimal: 99.97 % never reads as 100.0 %."""
        if self.spent is None:
            return None
        ratio = EXACT.divide(EXACT.multiply(self.spent, Decimal(100)), self.budget.amount)
        return ratio.quantize(Decimal("0.1"), ROUND_DOWN, EXACT)

    @property
    def is_over(self) -> bool:
        """Whether the whole amount is spent."""
        return self.spent is not None and self.spent >= self.budget.amount

    @property
    def next_threshold(self) -> Threshold | None:
        """The lowest threshold not crossed yet."""
        crossed = {c.threshold for c in self.crossed}
        return next((t for t in self.thresholds if t not in crossed), None)


@dataclass(frozen=True)
class Decision:
    """Thresholds of one budget decided now, lowest first. One mail tells of them and names the highest."""

    status: Status
    crossings: tuple[Crossing, ...]

    @property
    def highest(self) -> Crossing:
        """The one the mail names."""
        return self.crossings[-1]

    def alert_id(self, threshold: Threshold) -> str:
        """Key of the once-only record of one threshold."""
        return alert_id(self.status, threshold)


def alert_id(status: Status, threshold: Threshold) -> str:
    """NAME.PERIOD.actual.THRESHOLD.VERSION: fit for the left side of a Message-ID, different for different budgets."""
    name = status.budget.name
    if not re.fullmatch(r"[A-Za-z0-9_-]+(?:\.[A-Za-z0-9_-]+)*", name):  # "a..b" and "a." are no dot-atoms
        name = re.sub(r"[^A-Za-z0-9_-]", "-", name) + "-" + hashlib.sha256(name.encode()).hexdigest()[:8]
    return f"{name}.{status.period.name}.{KIND}.{threshold.slug}.{status.version}"


def current_period(every: Every, day: date) -> BudgetPeriod:
    """The period that holds a UTC date."""
    if every == "day":
        return BudgetPeriod(day, day + timedelta(days=1), day.isoformat())
    if every == "week":
        start = day - timedelta(days=day.weekday())
        year, week, _ = day.isocalendar()
        return BudgetPeriod(start, start + timedelta(days=7), f"{year}-W{week:02d}")
    if every == "month":
        start = day.replace(day=1)
        return BudgetPeriod(start, _add_months(start, 1), f"{start:%Y-%m}")
    if every == "quarter":
        start = date(day.year, 3 * ((day.month - 1) // 3) + 1, 1)
        return BudgetPeriod(start, _add_months(start, 3), f"{day.year}-Q{(start.month + 2) // 3}")
    return BudgetPeriod(date(day.year, 1, 1), date(day.year + 1, 1, 1), f"{day.year}")


def periods_to_judge(every: Every, now: datetime, first_judged: datetime | None) -> list[BudgetPeriod]:
    """The current period, and those that ended less than LATE_BILLS ago and were already being judged when they ended.

    `first_judged` is when this budget version was first judged: a new installation says nothing of the months before it.
    """
    current = current_period(every, now.date())
    periods = [current]
    while first_judged is not None:
        last_day = periods[-1].start - timedelta(days=1)
        ended_at = datetime.combine(periods[-1].start, datetime.min.time(), now.tzinfo)
        if now - ended_at >= LATE_BILLS or first_judged >= ended_at:
            break
        periods.append(current_period(every, last_day))
    return periods[::-1]


def same_days_before(period: BudgetPeriod, until: date) -> tuple[date, date]:
    """The stretch of the period before that compares with [period.start, until): the same days, as far as it had them."""
    before = current_period(_every(period), period.start - timedelta(days=1))
    if before.start.day == 1 and period.start.day == 1 and "W" not in period.name:
        months = (until.year - period.start.year) * 12 + until.month - period.start.month
        month = _add_months(before.start, months)
        end = month + timedelta(days=min(until.day - 1, calendar.monthrange(month.year, month.month)[1]))
    else:
        end = before.start + (until - period.start)
    return before.start, min(end, before.end)


def parse_threshold(text: str, amount: Decimal, currency: str) -> Threshold:
    """ "80%" of the amount, or money like "500 USD" or "500". Raises ConfigError for anything else, zero, or another currency."""
    match = _THRESHOLD.fullmatch(text.strip())
    if match is None or Decimal(match[1]) == 0:
        raise ConfigError(
            f'cannot use threshold {text!r}: it is neither a percentage nor an amount above zero. Write "80%" or "500 {currency}".'
        )
    number, unit = Decimal(match[1]), match[2] or currency
    if unit == "%":
        return Threshold(EXACT.divide(EXACT.multiply(amount, number), Decimal(100)), f"{_plain(number)} %")
    if unit != currency:
        raise ConfigError(
            f"cannot use threshold {text!r}: the budget is in {currency}. Write the threshold in {currency}, or as a percentage."
        )
    return Threshold(number, f"{_plain(number)} {currency}")


def parse_thresholds(budget: Budget, currency: str) -> tuple[Threshold, ...]:
    """The budget's actual thresholds, lowest level first; two texts of one level are one threshold."""
    by_level: dict[Decimal, Threshold] = {}
    for text in budget.actual:
        threshold = parse_threshold(text, budget.amount, currency)
        by_level.setdefault(threshold.level, threshold)
    return tuple(by_level[level] for level in sorted(by_level))


def budget_version(budget: Budget, currency: str) -> str:
    """Hash of what the budget decides by. Owner, notify, runbook, spelling and order of the file change nothing."""
    thresholds = [
        sorted(parse_threshold(t, budget.amount, currency).text for t in set(texts)) for texts in (budget.actual, budget.forecast)
    ]
    parts = [
        _plain(budget.amount),
        currency,
        {key: sorted(set(patterns)) for key, patterns in budget.for_.items()},
        budget.every,
        budget.measure,
        *thresholds,
    ]
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:8]


def judge_budget(budget: Budget, currency: str, period: BudgetPeriod, spend: Mapping[tuple[date, str], Decimal]) -> Status:
    """One budget against its spend by (charge date, currency). Money still in another currency has no rate: no verdict."""
    version, thresholds = budget_version(budget, currency), parse_thresholds(budget, currency)
    days = {key: cost for key, cost in spend.items() if period.start <= key[0] < period.end}
    others = sorted((code, day) for (day, code), cost in days.items() if code != currency and cost)
    if others:
        first = dict(reversed(others))  # the earliest day of each
        why = ", ".join(f"no rate from {code} to {currency} for {day}" for code, day in sorted(first.items()))
        return Status(budget, currency, version, period, thresholds, None, not_judged=f"{why}: write it under rates.exchange")
    spent, crossed_on = Decimal(0), dict[Threshold, date]()
    for (day, _), cost in sorted((key, cost) for key, cost in days.items() if key[1] == currency):
        spent = EXACT.add(spent, cost)
        for threshold in thresholds:
            if spent < threshold.level:
                crossed_on.pop(threshold, None)
            else:
                crossed_on.setdefault(threshold, day)
    return Status(
        budget, currency, version, period, thresholds, spent, tuple(Crossing(t, crossed_on[t]) for t in thresholds if t in crossed_on)
    )


def decide(statuses: Iterable[Status], decided: Collection[str]) -> list[Decision]:
    """What has not been decided before. `decided` are the alert ids of all records; the order of statuses is kept."""
    decisions = []
    for status in statuses:
        new = tuple(c for c in status.crossed if alert_id(status, c.threshold) not in decided)
        if new:
            decisions.append(Decision(status, new))
    return decisions


def _every(period: BudgetPeriod) -> Every:
    days = (period.end - period.start).days
    if days == 1:
        return "day"
    if days == 7:
        return "week"
    return "month" if days < 32 else "quarter" if days < 93 else "year"


def _add_months(first: date, months: int) -> date:
    index = first.year * 12 + first.month - 1 + months
    return date(index // 12, index % 12 + 1, 1)


def _plain(number: Decimal) -> str:
    """1E+3 as "1000", 80.0 as "80"."""
    text = f"{number:f}"
    return text.rstrip("0").rstrip(".") if "." in text else text
