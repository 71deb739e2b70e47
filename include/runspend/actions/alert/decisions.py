"""Decide which alerts to send. Each alert is decided once.

Belongs here: the rules for alerts, as a pure function of the budgets' state, earlier alerts, snoozed budgets and the time. `judge.py` judges
the state of a budget, and `__init__.py` records a decision.

There are four kinds of alert. Each is decided at most once per budget version, threshold and period:
* `actual`: the spend is at or above the threshold. If it falls below the threshold and reaches it again, no second alert is sent.
* `forecast`: the spend will reach the threshold by the period's end in two of three outcomes. No earlier alert reported it as reached.
* `correction`: a threshold that was reported as reached is no longer reached. The spend of the days that the alert was based on must be below
  the threshold too. A credit of a later day is therefore not a correction.
* `anomaly`: a day is far above the budget's history. It is decided once per day and series, even if the budget's amount is edited.
In a period's first hours, and while a budget is snoozed, no alert is decided. Afterwards, the alerts that are still true are decided. For a
closed period, only corrections are decided.
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

AlertKind = Literal["actual", "forecast", "correction", "anomaly"]
# Alert id -> the last day with spend that the alert was based on, or None if the alert must not be corrected.
LastSpendDays = Mapping[str, date | None]


@dataclass(frozen=True)
class Item:
    """One decided alert: its id, its kind, and the threshold with its date."""

    alert_id: str
    kind: AlertKind
    crossing: Crossing


@dataclass(frozen=True)
class Decision:
    """The content of one mail about one budget.

    It is either reached and forecast thresholds, or corrections, or one day of unusual spend (`anomaly`). Items are sorted by their threshold,
    lowest first.
    """

    status: Status
    items: tuple[Item, ...]
    anomaly: Anomaly | None = None

    @property
    def lead(self) -> Item:
        """The item that gives the mail its subject and id.

        If the budget is exceeded, it is the highest reached threshold. Otherwise it is the highest forecast threshold, or the highest reached
        threshold if there is no forecast.
        """
        if self.status.is_over:
            passed = [i for i in self.items if i.kind != "forecast"]
            return (passed or list(self.items))[-1]
        return ([i for i in self.items if i.kind == "forecast"] or list(self.items))[-1]

    @property
    def kind(self) -> AlertKind:
        """The kind of the mail: the kind of its leading item."""
        return self.lead.kind


def alert_id(status: Status, kind: AlertKind, threshold: Threshold) -> str:
    """Return NAME.PERIOD.KIND.THRESHOLD.VERSION. It is unique per budget, and valid as the part of a Message-ID before the @."""
    return f"{slug(status.budget.name)}.{status.period.name}.{kind}.{threshold.slug}.{status.version}"


def anomaly_id(status: Status, anomaly: Anomaly) -> str:
    """Return NAME.DAY.anomaly.day.SERIES, where SERIES is the `series_version` of the budget."""
    return f"{slug(status.budget.name)}.{anomaly.day}.anomaly.day.{series_version(status.budget, status.currency)}"


def slug(name: str) -> str:
    """Return a budget's name as part of a key. Other characters than letters, digits, `_`, `-` and `.` are replaced, and a digest is added."""
    if re.fullmatch(r"[A-Za-z0-9_-]+(?:\.[A-Za-z0-9_-]+)*", name):  # "a..b" and "a." are not valid in a Message-ID
        return name
    return re.sub(r"[^A-Za-z0-9_-]", "-", name) + "-" + hashlib.sha256(name.encode()).hexdigest()[:8]


def decide(statuses: Iterable[Status], sent: LastSpendDays, now: datetime, snoozed: Collection[str] = ()) -> list[Decision]:
    """Return the decisions that were not made before, in the order of the statuses. `sent` holds the ids of all earlier alerts.

    Each budget and period gets at most one mail about reached and forecast thresholds, one about corrections, and one for each day of unusual
    spend.
    """
    decisions = []
    for status in statuses:
        if status.spent is None or status.budget.name in snoozed:
            continue
        if now >= status.period.quiet_until:
            for items in ((() if status.is_closed else _crossings(status, sent)), _corrections(status, sent)):
                if items:
                    decisions.append(Decision(status, items))
        for anomaly in status.anomalies:
            key = anomaly_id(status, anomaly)
            if key not in sent:
                above = "above usual" if anomaly.percent_more is None else f"{anomaly.percent_more}% above usual"
                crossing = Crossing(Threshold(anomaly.spent, above), anomaly.day)
                decisions.append(Decision(status, (Item(key, "anomaly", crossing),), anomaly))
    return decisions


def _crossings(status: Status, sent: LastSpendDays) -> tuple[Item, ...]:
    passed = [(alert_id(status, "actual", c.threshold), c) for c in status.crossed]
    # A threshold that was reported as reached needs no forecast.
    known = {t.level for t in status.thresholds if alert_id(status, "actual", t) in sent}
    coming = [(alert_id(status, "forecast", c.threshold), c) for c in status.foreseen if c.threshold.level not in known]
    found = [Item(key, "actual", c) for key, c in passed if key not in sent] + [
        Item(key, "forecast", c) for key, c in coming if key not in sent
    ]
    return tuple(sorted(found, key=lambda item: (item.crossing.threshold.level, item.kind)))


def _corrections(status: Status, sent: LastSpendDays) -> tuple[Item, ...]:
    found = []
    crossed = {c.threshold for c in status.crossed}
    for threshold in status.thresholds:
        through = sent.get(alert_id(status, "actual", threshold))
        key = alert_id(status, "correction", threshold)
        if through is not None and threshold not in crossed and key not in sent and status.spent_through(through) < threshold.level:
            found.append(Item(key, "correction", Crossing(threshold, through)))
    return tuple(found)
