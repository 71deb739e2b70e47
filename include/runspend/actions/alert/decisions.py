"""Decide which alerts to send. Each is sent once.

A pure function of the budgets' state, earlier alerts, snoozed budgets, and now. Belongs here: the rules for alerts. `judge.py` judges the
state of a budget. `__init__.py` records a decision.

Each rule decides once per (budget version, threshold, kind, period), permanently:
* `actual`: spend is at or above the threshold. Falling below it and crossing it again sends nothing.
* `forecast`: two of three outcomes pass the threshold by the period's end, and no earlier alert reported it as reached.
* `correction`: a threshold reported as reached is no longer reached, and the days that the alert was based on no longer reach it. A
  credit of a later day is not a correction. A correction is never sent twice.
* `anomaly`: a day far above its history, once per day and series, even if the budget's amount is edited.
Nothing is decided in a period's first hours, or while the budget is snoozed. Alerts that still hold are decided afterwards. For a
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
# Alert id -> the last day of spend that the verdict was based on; None if it is not known.
LastSpendDays = Mapping[str, date | None]


@dataclass(frozen=True)
class Item:
    """One decided alert: the key of its once-only record, its kind and its crossing."""

    alert_id: str
    kind: AlertKind
    crossing: Crossing


@dataclass(frozen=True)
class Decision:
    """The content of one mail about one budget.

    It has crossings, forecasts and corrections, lowest first, or one anomalous day. `lead` gives the mail its name.
    """

    status: Status
    items: tuple[Item, ...]
    anomaly: Anomaly | None = None

    @property
    def lead(self) -> Item:
        """The item that leads the mail.

        If the budget is over, it is the highest reached threshold. Otherwise it is the highest forecast one,
        or without forecasts the highest reached one.
        """
        if self.status.is_over:
            passed = [i for i in self.items if i.kind != "forecast"]
            return (passed or list(self.items))[-1]
        return ([i for i in self.items if i.kind == "forecast"] or list(self.items))[-1]

    @property
    def kind(self) -> AlertKind:
        """The kind of mail."""
        return self.lead.kind


def alert_id(status: Status, kind: AlertKind, threshold: Threshold) -> str:
    """Return NAME.PERIOD.KIND.THRESHOLD.VERSION. It is valid as the left side of a Message-ID, and different budgets have different ids."""
    return f"{slug(status.budget.name)}.{status.period.name}.{kind}.{threshold.slug}.{status.version}"


def anomaly_id(status: Status, anomaly: Anomaly) -> str:
    """NAME.DAY.anomaly.day.SERIES."""
    return f"{slug(status.budget.name)}.{anomaly.day}.anomaly.day.{series_version(status.budget, status.currency)}"


def slug(name: str) -> str:
    """Return a budget's name as part of a key."""
    if re.fullmatch(r"[A-Za-z0-9_-]+(?:\.[A-Za-z0-9_-]+)*", name):  # "a..b" and "a." are not dot-atoms
        return name
    return re.sub(r"[^A-Za-z0-9_-]", "-", name) + "-" + hashlib.sha256(name.encode()).hexdigest()[:8]


def decide(statuses: Iterable[Status], sent: LastSpendDays, now: datetime, snoozed: Collection[str] = ()) -> list[Decision]:
    """Return all alerts not sent before, in the order of the statuses.

    Each budget and period gets at most one mail of crossings, one of corrections, and one for each anomalous day.
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
    # already reported as reached, so a forecast is not news
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
