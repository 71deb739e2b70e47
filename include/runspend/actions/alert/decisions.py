"""What is told, once: a pure function of how budgets stand, what was told before, who is not to be disturbed, and now.

Put here the rules of telling. How a budget stands is judged in `judge.py`; a decision is recorded in `__init__.py`.

The rules, each decided once per (budget version, threshold, kind, period), for good:
* `actual`: spent >= threshold. Falling below and crossing again fires nothing.
* `forecast`: two of three outcomes pass the threshold by the period's end, and it was not told as passed before.
* `correction`: a threshold that was told as passed is not passed any more, and the days it was told by no longer reach it. A
  credit of a later day is no correction; nor is one sent twice.
* `anomaly`: a day far above its history, once per day and series, whatever the budget's amount is edited to.
Nothing is decided in a period's first hours, nor while somebody snoozes the budget: what still holds afterwards is. Of a period that is
closed nothing is decided but corrections.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from datetime import date, datetime
from typing import Literal

from runspend.actions.alert.anomalies import Anomaly
from runspend.actions.alert.judge import Crossing, Status, Threshold, series_version

Kind = Literal["actual", "forecast", "correction", "anomaly"]
# Alert id -> the last day of spend the verdict rested on, None where it is not known.
Told = Mapping[str, date | None]


@dataclass(frozen=True)
class Item:
    """One thing decided: the key of its once-only record, and what it says."""

    alert_id: str
    kind: Kind
    crossing: Crossing


@dataclass(frozen=True)
class Decision:
    """What one mail tells of one budget: crossings, forecasts and corrections, lowest first, or one anomalous day. `lead` names the mail."""

    status: Status
    items: tuple[Item, ...]
    anomaly: Anomaly | None = None

    @property
    def lead(self) -> Item:
        """The highest that is passed where the budget is over, else the highest that will be, else the highest that is passed."""
        if self.status.is_over:
            passed = [i for i in self.items if i.kind != "forecast"]
            return (passed or list(self.items))[-1]
        return ([i for i in self.items if i.kind == "forecast"] or list(self.items))[-1]

    @property
    def kind(self) -> Kind:
        """The kind of mail."""
        return self.lead.kind


def alert_id(status: Status, kind: Kind, threshold: Threshold) -> str:
    """NAME.PERIOD.KIND.THRESHOLD.VERSION: fit for the left side of a Message-ID, different for different budgets."""
    return f"{slug(status.budget.name)}.{status.period.name}.{kind}.{threshold.slug}.{status.version}"


def anomaly_id(status: Status, anomaly: Anomaly) -> str:
    """NAME.DAY.anomaly.day.SERIES."""
    return f"{slug(status.budget.name)}.{anomaly.day}.anomaly.day.{series_version(status.budget, status.currency)}"


def slug(name: str) -> str:
    """A budget's name as part of a key."""
    if re.fullmatch(r"[A-Za-z0-9_-]+(?:\.[A-Za-z0-9_-]+)*", name):  # "a..b" and "a." are no dot-atoms
        return name
    return re.sub(r"[^A-Za-z0-9_-]", "-", name) + "-" + hashlib.sha256(name.encode()).hexdigest()[:8]


def decide(statuses: Iterable[Status], told: Told, now: datetime, snoozed: Collection[str] = ()) -> list[Decision]:
    """What has not been told before, in the order of the statuses; of each budget and period at most a mail of crossings, one of
    corrections, and one for each anomalous day."""
    decisions = []
    for status in statuses:
        if status.spent is None or status.budget.name in snoozed:
            continue
        if now >= status.period.quiet_until:
            for items in ((() if status.is_closed else _crossings(status, told)), _corrections(status, told)):
                if items:
                    decisions.append(Decision(status, items))
        for anomaly in status.anomalies:
            key = anomaly_id(status, anomaly)
            if key not in told:
                above = "above usual" if anomaly.percent_more is None else f"{anomaly.percent_more} % above usual"
                crossing = Crossing(Threshold(anomaly.spent, above), anomaly.day)
                decisions.append(Decision(status, (Item(key, "anomaly", crossing),), anomaly))
    return decisions


def _crossings(status: Status, told: Told) -> tuple[Item, ...]:
    passed = [(alert_id(status, "actual", c.threshold), c) for c in status.crossed]
    known = {t.level for t in status.thresholds if alert_id(status, "actual", t) in told}  # passed once: that it will be is no news
    coming = [(alert_id(status, "forecast", c.threshold), c) for c in status.foreseen if c.threshold.level not in known]
    found = [Item(key, "actual", c) for key, c in passed if key not in told] + [Item(key, "forecast", c) for key, c in coming if key not in told]
    return tuple(sorted(found, key=lambda item: (item.crossing.threshold.level, item.kind)))


def _corrections(status: Status, told: Told) -> tuple[Item, ...]:
    found = []
    crossed = {c.threshold for c in status.crossed}
    for threshold in status.thresholds:
        through = told.get(alert_id(status, "actual", threshold))
        key = alert_id(status, "correction", threshold)
        if through is not None and threshold not in crossed and key not in told and status.spent_through(through) < threshold.level:
            found.append(Item(key, "correction", Crossing(threshold, through)))
    return tuple(found)
