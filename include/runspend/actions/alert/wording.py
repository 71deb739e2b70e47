"""Write the words of budget mails: pure functions from a decision and its figures to a mail.

Put here the first paragraph, the recipients and the subject. The sections below it are in `sections.py`. Rendering as text,
HTML and bytes is in `render.py`.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from decimal import Decimal
from typing import Any

from runspend.actions.alert.anomalies import Anomaly
from runspend.actions.alert.decisions import Decision, slug
from runspend.actions.alert.figures import DayRun, Figures, Restatement
from runspend.actions.alert.judge import EXACT, Status
from runspend.actions.alert.render import Block, Envelope, Facts, Mail, Paragraph, Table, clean, make_mail, money
from runspend.actions.alert.sections import (
    bill_ages,
    day_name,
    how_sure,
    period_name,
    running_now,
    spend_chart,
    weekday,
    what_drove_it,
    what_you_can_do,
    which_runs,
)
from runspend.actions.alert.series import Coverage
from runspend.config.budgets import percent_used
from runspend.config.settings import MailSettings

MEASURES = {
    "effective_cost": "effective cost",
    "billed_cost": "billed cost",
    "contracted_cost": "contracted cost",
    "list_cost": "list cost",
}


@dataclass(frozen=True)
class Writer:
    """Writes mails with the sender, the naming of people, and the configuration file of an installation."""

    settings: MailSettings
    config_path: str

    def budget_mail(self, decision: Decision, figures: Figures, now: datetime) -> Mail:
        """Return the mail about crossings and forecasts, in the order people need the facts."""
        status, people = decision.status, self.settings.people
        expected = " If the runs below are expected, this can wait until morning." if figures.running else " No run of it is on right now."
        blocks: list[Block] = [Paragraph(_what_happened(status, now) + expected)]
        if figures.running:
            blocks.append(running_now(figures, status, people, now))
        blocks += [chart] if (chart := spend_chart(status)) else []
        blocks += [what_drove_it(figures, status, people), how_sure(figures, status, now), what_you_can_do(status, now)]
        return self._mail(decision, budget_subject(decision, now), [*blocks, Paragraph(self._footer(status))], now)

    def short_mail(self, decision: Decision, coverage: Sequence[Coverage], now: datetime) -> Mail:
        """Return the same mail without figures that need queries. It is used when so many alerts occur that one mail lists them all."""
        status = decision.status
        blocks: list[Block] = [Paragraph(_what_happened(status, now)), Facts("HOW SURE", tuple(bill_ages(coverage, now))), what_you_can_do(status, now)]
        return self._mail(decision, budget_subject(decision, now), [*blocks, Paragraph(self._footer(status))], now)

    def correction_mail(self, decision: Decision, restated: Sequence[Restatement], coverage: Sequence[Coverage], now: datetime) -> Mail:
        """Return the mail that withdraws a crossing."""
        status, highest = decision.status, decision.lead.crossing.threshold
        assert status.spent is not None
        where = "under budget" if highest.level == status.budget.amount else f"below {highest.text} of its budget"
        why = ", ".join(f"{clean(r.source, 30)} restated {_span(r.first, r.last)}" for r in restated)
        title = clean(status.budget.title, 40)
        said = (
            f"{title} is {where} after all: {money(status.spent)} of {money(status.budget.amount)} {status.currency} "
            f"({MEASURES[status.budget.measure]}) in {period_name(status.period)}. You were told that it had passed "
            f"{', '.join(item.crossing.threshold.text for item in decision.items)}, by what was known of {day_name(decision.lead.crossing.on)}. "
            + (f"Since then {why}." if why else "Since then costs of it moved elsewhere: tags, rules or rates changed.")
            + _forecast_words(status, now)
        )
        footer = f"Sent once. If it passes {highest.text} again in {period_name(status.period)} no second mail is sent: see `runspend budgets`."
        blocks: list[Block] = [
            Paragraph(said), Facts("HOW SURE", tuple(bill_ages(coverage, now))), what_you_can_do(status, now), Paragraph(f"{footer} {self._source(status)}"),
        ]  # fmt: skip
        short = f"({money(status.spent)}{'; ' + why if why else ''})"
        return self._mail(decision, f"[runspend] Correction: {title} is {where} after all {short}", blocks, now)

    def anomaly_mail(self, decision: Decision, anomaly: Anomaly, runs: tuple[tuple[DayRun, ...], int], coverage: Sequence[Coverage], now: datetime) -> Mail:
        """Return the mail about a day far above its history."""
        status, title = decision.status, clean(decision.status.budget.title, 40)
        cost, more = f"{money(anomaly.spent)} {status.currency}", anomaly.percent_more
        said = (
            f"{title} cost {cost} ({MEASURES[status.budget.measure]}) on {weekday(anomaly.day)}. A usual day costs {money(anomaly.usual)}: "
            f"this is {'' if more is None else f'{more:,} % more, and '}more than any of the four weeks before. Nothing was stopped."
            + _forecast_words(status, now)
        )
        blocks: list[Block] = [Paragraph(said)]
        if runs[0]:
            blocks.append(which_runs(*runs, anomaly.day, self.settings.people))
        blocks += [Facts("HOW SURE", tuple(bill_ages(coverage, now))), what_you_can_do(status, now)]
        blocks.append(Paragraph(f"Sent once for this day. {self._source(status)}"))
        return self._mail(decision, f"[runspend] {title}: {cost} on {day_name(anomaly.day)}, a usual day is {money(anomaly.usual)}", blocks, now)

    def first_night_mail(self, recipient: str, alerts: Sequence[Mapping[str, Any]], statuses: Sequence[Status], now: datetime) -> Mail:
        """Return the only mail of an installation's first pipeline run: thresholds that the recipient's budgets have reached."""
        mine = {s.budget.name for s in statuses if recipient in s.budget.everybody()} | {a["budget"] for a in alerts}
        counted = _counted(alerts)
        rest = len(mine) - len({a["budget"] for a in alerts})
        others = f" {rest} other{' is' if rest == 1 else 's are'} below every threshold." if rest > 0 else ""
        members = "\n".join([recipient, *sorted(a["mail"]["message_id"] for a in alerts)])
        return make_mail(
            Envelope(self.settings.from_, "budgets", "budget-first-night"),
            local_id=f"first-night.{hashlib.sha256(members.encode()).hexdigest()[:32]}",
            recipients=[recipient],
            subject=f"[runspend] Runspend watches {len(mine)} budgets for you: {counted} already",
            blocks=[
                Paragraph(f"From tonight on you are told when a budget of yours passes a threshold, once each. Already so: {counted}.{others} Nothing was stopped."),
                _alerts_table(alerts),
                Facts("WHAT YOU CAN DO", (("See them all", "runspend budgets"), ("What drove it", "runspend costs --by team,experiment"))),
                Paragraph(f"Sent once, instead of one mail for each. What is passed already is not told again. Budgets are in {self.config_path}."),
            ],
            now=now,
        )

    def _mail(self, decision: Decision, subject: str, blocks: Sequence[Block], now: datetime) -> Mail:
        status = decision.status
        return make_mail(
            Envelope(self.settings.from_, "budgets", f"budget-{decision.kind}"),
            local_id=f"budget.{decision.lead.alert_id}",
            recipients=recipients_of(decision),
            subject=subject,
            blocks=blocks,
            now=now,
            reply_to=status.budget.owner,
            thread=f"budget.{slug(status.budget.name)}.{status.period.name}",
        )

    def _footer(self, status: Status) -> str:
        following = status.next_threshold
        after = f"Next mail: at {following.text}, if ever." if following else "There is no higher threshold."
        return f"Sent once for this threshold and period. {after} {self._source(status)}"

    def _source(self, status: Status) -> str:
        return f'Budget "{clean(status.budget.name)}", {self.config_path}, version {status.version}.'


def budget_subject(decision: Decision, now: datetime) -> str:
    """ "[runspend] vision is over budget: 100.2 % of 5,000 USD for November", or a forecast.

    A forecast says "… will pass 5,000 USD around 22 Nov (now 4,410.00, 88 %)".
    For a day in the past: "… has likely passed 5,000 USD around 22 Nov (billed 4,410.00, 88 %)".
    """
    status, lead = decision.status, decision.lead
    title, amount = clean(status.budget.title, 40), f"{money(status.budget.amount, short=True)} {status.currency}"
    if lead.kind == "forecast":
        assert status.spent is not None
        level = amount if lead.crossing.threshold.level == status.budget.amount else f"{lead.crossing.threshold.text} of {amount}"
        day, billed = day_name(lead.crossing.on), f"{money(status.spent)}, {status.percent} %"
        if lead.crossing.on < now.date():
            return f"[runspend] {title} has likely passed {level} around {day} (billed {billed})"
        return f"[runspend] {title} will pass {level} around {day} (now {billed})"
    of = f"{status.percent} % of {amount} for {period_name(status.period)}"
    return f"[runspend] {title} " + (f"is over budget: {of}" if status.is_over else f"has used {of}")


def recipients_of(decision: Decision) -> list[str]:
    """Return the recipients of a decision. `owner` means the budget's owner, or no one if the budget has none."""
    levels = () if decision.anomaly else [item.crossing.threshold.level for item in decision.items]
    return decision.status.budget.recipients(levels)


def _what_happened(status: Status, now: datetime) -> str:
    assert status.spent is not None
    of = f"{money(status.budget.amount)} {status.currency} ({MEASURES[status.budget.measure]})"
    said = [f"{clean(status.budget.title, 40)} has spent {money(status.spent)} of {of} in {period_name(status.period)}."]
    if status.crossed:
        *lower, highest = status.crossed
        said.append(f"It passed {highest.threshold.text} on {weekday(highest.on)}.")
        said += [", ".join(f"{c.threshold.text} was on {day_name(c.on)}" for c in lower) + "."] if lower else []
    if status.budget.judged_on == "bill_and_estimates" and status.estimated:
        said.append(f"Of it {money(status.estimated)} {status.currency} is estimated: no bill reaches those hours yet.")
    said.append(_forecast_words(status, now).strip())
    if now.date() < status.period.end:
        said.append(f"{_days_left(status, now)} of the period {'is' if _days_left(status, now) == '1 day' else 'are'} left.")
    said.append("Nothing was stopped.")
    return " ".join(text for text in said if text)


def _forecast_words(status: Status, now: datetime) -> str:
    """ " Forecast for 30 November: 6,580 USD (80 % sure: 6,240 to 6,930). Will cross 100 % around 23 Nov." Empty without a forecast."""
    forecast = status.forecast
    if forecast is None:
        return ""
    last = status.period.end - timedelta(days=1)
    text = f" Forecast for {last.day} {last:%B}: {_whole(forecast.total)} {status.currency} (80 % sure: {_whole(forecast.low)} to {_whole(forecast.high)})."
    if not status.is_over and (on := status.exceeded_on()):
        text += f" Has likely crossed 100 % around {day_name(on)}: not all of it is billed." if on < now.date() else f" Will cross 100 % around {day_name(on)}."
    return text


def _alerts_table(alerts: Sequence[Mapping[str, Any]]) -> Table:
    ranked = sorted(alerts, key=lambda a: (-_ratio(a), a["budget"], a["budget_period"], a["alert_id"]))
    rows = tuple(
        (
            clean(a.get("title") or a["budget"], 30),
            a["budget_period"],
            money(Decimal(a["spent"])),
            money(Decimal(a["amount"]), short=True) + f" {a['currency']}",
            f"{_percent(a)} %{_MARKS.get(a['kind'], '')}",
        )
        for a in ranked
    )
    return Table("BUDGETS", ("", "period", "spent", "of", "used"), "llrrr", rows)


_MARKS = {"forecast": ", will pass", "correction": ", corrected", "anomaly": ", one day"}


def _counted(alerts: Sequence[Mapping[str, Any]]) -> str:
    """ "3 over, 11 near it, 2 will pass"."""
    kinds = {
        "over": sum(1 for a in alerts if a["kind"] == "actual" and Decimal(a["spent"]) >= Decimal(a["amount"])),
        "near it": sum(1 for a in alerts if a["kind"] == "actual" and Decimal(a["spent"]) < Decimal(a["amount"])),
        "will pass": sum(1 for a in alerts if a["kind"] == "forecast"),
        "corrected": sum(1 for a in alerts if a["kind"] == "correction"),
        "with a dear day": sum(1 for a in alerts if a["kind"] == "anomaly"),
    }
    return ", ".join(f"{count} {words}" for words, count in kinds.items() if count)


def _ratio(alert: Mapping[str, Any]) -> Decimal:
    return EXACT.divide(Decimal(alert["spent"]), Decimal(alert["amount"]))


def _percent(alert: Mapping[str, Any]) -> Decimal:
    return percent_used(Decimal(alert["spent"]), Decimal(alert["amount"]))


def _whole(amount: Decimal) -> str:
    """Format a forecast without cents, because it is not that precise. Amounts below 100 keep them."""
    return money(amount) if amount < 100 else money(amount.quantize(Decimal(1)), short=True)


def _span(first: date, last: date) -> str:
    if first == last:
        return day_name(first)
    return f"{first.day}–{day_name(last)}" if first.month == last.month else f"{day_name(first)}–{day_name(last)}"


def _days_left(status: Status, now: datetime) -> str:
    days = (status.period.end - now.date()).days
    return f"{days} day{'' if days == 1 else 's'}"
