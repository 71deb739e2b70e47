"""Judge budgets: how much of a period's budget is spent, how much will be spent, and which thresholds are crossed.

Belongs here: pure functions of budgets and series. `decisions.py` decides which alerts to send, `figures.py` reads the warehouse, and
`__init__.py` records alerts.

A threshold is crossed when spent >= threshold, in exact decimals. A forecast threshold is crossed when two of three outcomes reach it.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import date, datetime, timedelta
from decimal import Decimal
from functools import cached_property
from typing import Any

from runspend.actions.alert.anomalies import Anomaly, find_anomalies
from runspend.actions.alert.forecast import Forecast, Seen, forecast_total
from runspend.actions.alert.periods import BudgetPeriod
from runspend.config.budgets import percent_used
from runspend.config.settings import Budget
from runspend.config.types import threshold_amount
from runspend.core.amounts import EXACT, add, plain
from runspend.schema.rows import midnight


@dataclass(frozen=True, order=True)
class Threshold:
    """A level of spend in the budget's currency. `text` is the form for people: "80%" or "500 USD"."""

    level: Decimal
    text: str

    @property
    def slug(self) -> str:
        """The form for keys and Message-IDs, such as "80" or "500USD"."""
        return self.text.removesuffix("%").replace(" ", "")


@dataclass(frozen=True)
class Crossing:
    """A crossed threshold and its date.

    `on` is the charge date since which the spend has stayed at or above the threshold. For a forecast, it is the expected date.
    """

    threshold: Threshold
    on: date


@dataclass(frozen=True)
class Series:
    """The known costs of a budget by day and currency.

    `billed` is the cost on the bill, `of_runs` is the part of it that is allocated to runs, and `estimated` is for hours not billed yet.
    """

    billed: Mapping[tuple[date, str], Decimal] = field(default_factory=dict)
    of_runs: Mapping[tuple[date, str], Decimal] = field(default_factory=dict)
    estimated: Mapping[tuple[date, str], Decimal] = field(default_factory=dict)

    @cached_property
    def billed_by_day(self) -> Mapping[date, Mapping[str, Decimal]]:
        """Billed costs as a mapping from day to currency to cost. It makes daily budgets fast: each judges up to 400 days."""
        found = dict[date, dict[str, Decimal]]()
        for (day, code), cost in self.billed.items():
            found.setdefault(day, {})[code] = cost
        return found


@dataclass(frozen=True)
class Status:
    """The state of one budget in one period.

    If the budget could not be judged, `not_judged` is the reason, `spent` is None and no threshold is crossed. `spent` includes `estimated`
    only if the budget's `judged_on` is `bill_and_estimates`. `foreseen` holds the forecast thresholds that will probably be crossed. `by_day`
    is the judged spend of each day.
    """

    budget: Budget
    currency: str
    version: str
    period: BudgetPeriod
    thresholds: tuple[Threshold, ...]
    spent: Decimal | None
    crossed: tuple[Crossing, ...] = ()
    not_judged: str | None = None
    estimated: Decimal = Decimal(0)
    forecast: Forecast | None = None
    foreseen: tuple[Crossing, ...] = ()
    anomalies: tuple[Anomaly, ...] = ()
    is_closed: bool = False  # judged only to correct earlier alerts: the period ended long ago, or the budget's version is not current
    by_day: Mapping[date, Decimal] = field(default_factory=dict, compare=False)

    @property
    def percent(self) -> Decimal | None:
        """Spend as a percentage of the amount."""
        return None if self.spent is None else percent_used(self.spent, self.budget.amount)

    @property
    def is_over(self) -> bool:
        """Whether the spend has reached the whole amount."""
        return self.spent is not None and self.spent >= self.budget.amount

    @property
    def next_threshold(self) -> Threshold | None:
        """The lowest threshold that is not crossed yet, or None."""
        crossed = {c.threshold for c in self.crossed}
        return next((t for t in self.thresholds if t not in crossed), None)

    def exceeded_on(self) -> date | None:
        """Return the day on which the spend reached the whole amount, or the forecast day. None if neither is known."""
        whole = Threshold(self.budget.amount, "100%")
        _, crossed = _cross(self.by_day, (whole,))
        if crossed:
            return crossed[0].on
        return self.forecast.exceeded_on(whole.level) if self.forecast else None

    @property
    def through(self) -> date:
        """The last day of the period with any spend. Without spend, the day before the period."""
        return max((day for day, cost in self.by_day.items() if cost), default=self.period.start - timedelta(days=1))

    def spent_through(self, day: date) -> Decimal:
        """Return the period's spend up to and including a day, by today's data."""
        total = Decimal(0)
        for one, cost in self.by_day.items():
            if one <= day:
                total = EXACT.add(total, cost)
        return total


def threshold_of(text: str, amount: Decimal, currency: str) -> Threshold:
    """Return the threshold for a text of `Budget`: "80%" (of the amount), "500 USD", or "500" in the budget's currency."""
    number, unit = text.removesuffix("%").partition(" ")[::2]
    shown = plain(Decimal(number))
    return Threshold(threshold_amount(text, amount), f"{shown}%" if text.endswith("%") else f"{shown} {unit or currency}")


def thresholds_of(texts: list[str], amount: Decimal, currency: str) -> tuple[Threshold, ...]:
    """Return the thresholds of these texts, lowest level first. Texts with the same level become one threshold."""
    by_level: dict[Decimal, Threshold] = {}
    for text in texts:
        threshold = threshold_of(text, amount, currency)
        by_level.setdefault(threshold.level, threshold)
    return tuple(by_level[level] for level in sorted(by_level))


def budget_version(budget: Budget, currency: str) -> str:
    """Return a hash of the settings that a budget's decisions depend on.

    The hash does not depend on owner, notify, runbook or anomalies, nor on the order and notation of values in the file.
    """
    thresholds = [sorted(threshold_of(t, budget.amount, currency).text for t in set(texts)) for texts in (budget.actual, budget.forecast)]
    parts = [
        plain(budget.amount),
        currency,
        {key: sorted(set(patterns)) for key, patterns in budget.for_.items()},
        budget.every,
        budget.measure,
        *thresholds,
        *([] if budget.judged_on == "bill" else [budget.judged_on]),
    ]
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:8]


def rules_of(budget: Budget) -> dict[str, Any]:
    """Return the rules of a budget as a JSON object. They are kept because a period that ended before an edit is judged by the old rules."""
    kept = {key: getattr(budget, key) for key in ("every", "measure", "actual", "forecast", "judged_on")}
    return {**kept, "for_": dict(budget.for_), "amount": f"{budget.amount:f}"}


def with_rules(budget: Budget, rules: Mapping[str, Any]) -> Budget:
    """Return the budget with earlier `rules` (from `rules_of`), but with its current owner and recipients."""
    return budget.model_copy(update={**rules, "amount": Decimal(rules["amount"])})


def series_version(budget: Budget, currency: str) -> str:
    """Return a hash of the costs that a budget selects. A day of unusual spend is reported once per hash, even if the amount is edited."""
    parts = [currency, {key: sorted(set(patterns)) for key, patterns in budget.for_.items()}, budget.measure]
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:8]


def series_key(budget: Budget) -> str:
    """Return a key of the budget's cost query. Budgets with equal keys share one query."""
    return json.dumps([{key: sorted(set(patterns)) for key, patterns in budget.for_.items()}, budget.measure], sort_keys=True)


def judge_budget(
    budget: Budget, currency: str, period: BudgetPeriod, series: Series, covered: date | None = None, now: datetime | None = None
) -> Status:
    """Return the status of one budget in one period. It is not judged if an exchange rate for a cost of the period is missing.

    `covered` is the first day that the bills do not wholly cover. A forecast needs `covered`, `now` and two weeks of history.
    """
    in_period = {(day, code): cost for day in period.days for code, cost in series.billed_by_day.get(day, {}).items()}
    others = sorted((code, day) for (day, code), cost in in_period.items() if code != currency and cost)
    if others:
        first = dict(reversed(others))  # the earliest day of each currency
        why = ", ".join(f"no rate from {code} to {currency} for {day}" for code, day in sorted(first.items()))
        return not_judged(budget, currency, period, f"{why}: write it under rates.exchange")
    version, thresholds = budget_version(budget, currency), thresholds_of(budget.actual, budget.amount, currency)
    estimates = {day: cost for (day, code), cost in series.estimated.items() if code == currency and period.start <= day < period.end}
    by_day = {day: cost for (day, code), cost in in_period.items() if code == currency}
    if budget.judged_on == "bill_and_estimates":
        by_day |= {day: EXACT.add(by_day.get(day, Decimal(0)), cost) for day, cost in estimates.items()}
    spent, crossed = _cross(by_day, thresholds)
    forecast = None
    if covered is not None and now is not None and now.date() < period.end:
        forecast = _forecast(currency, period, series, covered, now)
    return Status(
        budget, currency, version, period, thresholds, spent, crossed,
        estimated=add(estimates.values()), forecast=forecast, foreseen=_foresee(budget, currency, spent, forecast), by_day=by_day,
    )  # fmt: skip


def not_judged(budget: Budget, currency: str, period: BudgetPeriod, why: str) -> Status:
    """Return the status of a budget that could not be judged in a period, with the reason `why`."""
    thresholds = thresholds_of(budget.actual, budget.amount, currency)
    return Status(budget, currency, budget_version(budget, currency), period, thresholds, None, not_judged=why)


def judge_days(budget: Budget, currency: str, series: Series, covered: date, since: date) -> tuple[Anomaly, ...]:
    """Return the days of unusual spend: wholly billed days from `since` on that are far above the budget's own history."""
    if budget.anomalies is None:
        return ()
    days = {day: cost for (day, code), cost in series.billed.items() if code == currency}
    level = threshold_of(budget.anomalies.money, budget.amount, currency).level
    return find_anomalies(days, covered, since, budget.anomalies.ratio, level)


def _cross(by_day: Mapping[date, Decimal], thresholds: tuple[Threshold, ...]) -> tuple[Decimal, tuple[Crossing, ...]]:
    spent, crossed_on = Decimal(0), dict[Threshold, date]()
    for day, cost in sorted(by_day.items()):
        spent = EXACT.add(spent, cost)
        for threshold in thresholds:
            if spent < threshold.level:
                crossed_on.pop(threshold, None)
            else:
                crossed_on.setdefault(threshold, day)
    return spent, tuple(Crossing(t, crossed_on[t]) for t in thresholds if t in crossed_on)


def _forecast(currency: str, period: BudgetPeriod, series: Series, covered: date, now: datetime) -> Forecast | None:
    """Return a forecast of the billed cost, even if estimates count for the budget. Estimates only show how much unbilled days may cost."""
    begin = max(covered, period.start)
    days = {day: cost for (day, code), cost in series.billed.items() if code == currency}
    estimated = {day: cost for (day, code), cost in series.estimated.items() if code == currency}
    seen = {
        day: Seen(float(days.get(day, 0)), float(estimated.get(day, 0)), _part_over(day, now))
        for day in {*days, *estimated}
        if begin <= day < period.end
    }
    whole = add(cost for day, cost in days.items() if day < covered)
    runs = add(cost for (day, code), cost in series.of_runs.items() if code == currency and day < covered)
    share = min(1.0, max(0.0, float(runs / whole))) if whole > 0 else 1.0
    spent = add(cost for day, cost in days.items() if period.start <= day < begin)
    return forecast_total(days, covered, (period.start, period.end), spent, seen, share)


def _foresee(budget: Budget, currency: str, spent: Decimal, forecast: Forecast | None) -> tuple[Crossing, ...]:
    """Return the forecast thresholds that two of three outcomes reach and that the spend has not reached yet."""
    if forecast is None:
        return ()
    thresholds = thresholds_of(budget.forecast, budget.amount, currency)
    return tuple(Crossing(t, on) for t in thresholds if spent < t.level and (on := forecast.exceeded_on(t.level)))


def _part_over(day: date, now: datetime) -> float:
    """Return the part of a day that has passed, from 0 to 1."""
    return min(1.0, max(0.0, (now - midnight(day)) / timedelta(days=1)))
