"""List every budget with its state at the last alert step, for `runspend budgets`. Also record acknowledgments and snoozes.

Belongs here: questions about budgets between pipeline runs. This module reads tables and records. It does not judge budgets or send mail.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import date, datetime
from decimal import Decimal
from typing import Any

from runspend.actions.alert.judge import budget_version
from runspend.actions.alert.outbox import recipient_states
from runspend.actions.alert.periods import current_period
from runspend.actions.alert.snooze import Quiet, QuietKind, read_quiet, set_quiet
from runspend.actions.alert.tag_budgets import read_tag_budgets
from runspend.config.budgets import percent_used
from runspend.config.settings import Budget, Settings
from runspend.core.amounts import day, money, rough_money
from runspend.warehouse.base import Reader
from runspend.warehouse.records import Records

COLUMNS = (
    "budget", "title", "state", "budget_period", "spent", "amount", "currency", "percent", "measure", "judged_on", "estimated", "forecast", "forecast_low",
    "forecast_high", "exceeded_on", "next_threshold", "last_mail", "muted", "owner", "notify", "covered_until", "judged_at", "reason",
)  # fmt: skip


def list_budgets(reader: Reader, settings: Settings, records: Records, now: datetime) -> list[dict[str, Any]]:
    """Return one row of COLUMNS per budget. Budgets that were not judged come first, then those with the highest percentage used.

    The state is "exceeded", "forecast to exceed", "threshold reached", "ok" or "not judged".
    """
    tagged, _ = read_tag_budgets(reader, settings)
    budgets = [*settings.budgets, *tagged]
    columns = "budget, budget_period, budget_version, amount, spent, estimated, forecast, forecast_low, forecast_high, exceeded_on, threshold_reached, next_threshold, not_judged, covered_until, judged_at"
    judged = {(r["budget"], r["budget_period"]): r for r in reader.query(f"select {columns} from budget_status").to_pylist()}
    quiet, mails = read_quiet(records, now), _last_mails(records)
    rows = []
    for budget in budgets:
        period = current_period(budget.every, now.date()).name
        found = judged.get((budget.name, period), {})
        if found and found["budget_version"] != budget_version(budget, settings.currency):
            found = {"spent": None, "not_judged": "no alert step since the budget was changed"}
        rows.append(_row(budget, settings.currency, period, found, mails.get((budget.name, period)), quiet.get(budget.name)))
    return sorted(rows, key=lambda r: (r["percent"] is not None, -(r["percent"] or Decimal(0)), r["budget"]))


def budget_lines(rows: Sequence[Mapping[str, Any]]) -> list[tuple[str, ...]]:
    """Return rows of `list_budgets` as text for a table on the screen. The first row has the column heads."""
    lines: list[tuple[str, ...]] = [
        (
            "budget",
            "state",
            "period",
            "spent",
            "amount",
            "used",
            "forecast (80% interval)",
            "exceeded",
            "next alert at",
            "last alert",
            "muted",
        )
    ]
    for row in rows:
        foreseen = (
            "-"
            if row["forecast"] is None
            else f"{rough_money(row['forecast'])} ({rough_money(row['forecast_low'])}–{rough_money(row['forecast_high'])})"
        )
        passes = "-" if row["exceeded_on"] is None else f"{'' if row['state'] == 'exceeded' else 'around '}{day(row['exceeded_on'])}"
        name = row["budget"] if row["title"] == row["budget"] else f"{row['budget']}: {row['title']}"
        lines.append((
            name, row["state"] if row["reason"] is None else f"{row['state']}: {row['reason']}", row["budget_period"],
            "-" if row["spent"] is None else money(row["spent"]), f"{money(row['amount'], short=True)} {row['currency']}",
            "-" if row["percent"] is None else f"{row['percent']}%", foreseen, passes,
            row["next_threshold"] or "-", row["last_mail"] or "-", row["muted"] or "-",
        ))  # fmt: skip
    return lines


@dataclass(frozen=True)
class QuietRequest:
    """A request to acknowledge or snooze a budget, or to end that. Without `until`, it lasts until the end of the budget's period."""

    budget: str
    kind: QuietKind
    until: date | None
    by: str
    note: str | None


def say_quiet(reader: Reader, settings: Settings, records: Records, asked: QuietRequest, now: datetime) -> Quiet:
    """Record the request and return its entry. Raises UsageError for an unknown budget, or if `until` is not in the future."""
    tagged, _ = read_tag_budgets(reader, settings)
    budgets = {b.name: b for b in [*settings.budgets, *tagged]}
    every = budgets[asked.budget].every if asked.budget in budgets else "month"
    quiet = Quiet(asked.budget, asked.kind, asked.until or current_period(every, now.date()).end, asked.by, now, asked.note)
    set_quiet(records, budgets, quiet, now)
    return quiet


def _row(
    budget: Budget, currency: str, period: str, judged: Mapping[str, Any], last_mail: str | None, quiet: Quiet | None
) -> dict[str, Any]:
    spent = judged.get("spent")
    percent = None if spent is None else percent_used(spent, budget.amount)
    values = {
        "budget": budget.name, "title": budget.title, "state": _state(budget, judged), "budget_period": period, "spent": spent, "amount": budget.amount, "currency": currency,
        "percent": percent, "measure": budget.measure, "judged_on": budget.judged_on, "last_mail": last_mail, "muted": str(quiet) if quiet else None, "owner": budget.owner,
        "notify": budget.all_recipients(), "reason": "no alert step since it was added" if not judged else judged["not_judged"],
    }  # fmt: skip
    return {name: values[name] if name in values else judged.get(name) for name in COLUMNS}


def _state(budget: Budget, judged: Mapping[str, Any]) -> str:
    if judged.get("spent") is None:
        return "not judged"
    if judged["spent"] >= budget.amount:
        return "exceeded"
    if judged["exceeded_on"] is not None:
        return "forecast to exceed"
    return "threshold reached" if judged["threshold_reached"] else "ok"


def _last_mails(records: Records) -> dict[tuple[str, str], str]:
    """Return, by (budget, period), the reason and date of the newest mail. If no recipient received it, its state is added.

    Mails about days of unusual spend are left out.
    """
    states, found = recipient_states(records), dict[tuple[str, str], tuple[tuple[str, bool], str]]()
    for value in records.list("alerts").values():
        if "mail_of" in value or value["kind"] == "anomaly":
            continue
        text = f"{value['kind']} {value['threshold']}, {day(datetime.fromisoformat(value['decided_at']))}"
        if (mail := value.get("mail")) is None:
            text += " (acknowledged, not mailed)"
        else:
            became = {states.get((mail["message_id"], r), "waiting") for r in mail["recipients"]}
            text += "" if "accepted" in became else f" ({', '.join(sorted(became)) or 'no recipient'})"
        key = value["budget"], value["budget_period"]
        rank = value["decided_at"], "covers" in value  # of alerts decided at the same time, the record that lists the others is shown
        if key not in found or rank >= found[key][0]:
            found[key] = rank, text
    return {key: text for key, (_, text) in found.items()}
