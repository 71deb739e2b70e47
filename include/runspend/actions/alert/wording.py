"""Write the texts of budget mails, with pure functions that turn a decision and its figures into a mail.

Belongs here: the subject, the recipients and the first paragraph. The sections below it are in `sections.py`. Rendering as text and HTML
is in `render.py`.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from decimal import Decimal
from typing import Any

from runspend.actions.alert.anomalies import Anomaly
from runspend.actions.alert.bill_coverage import Coverage
from runspend.actions.alert.decisions import Decision, slug
from runspend.actions.alert.figures import Figures, Restatement, TopRun
from runspend.actions.alert.judge import Status, Threshold
from runspend.actions.alert.message import Mail
from runspend.actions.alert.render import Block, Button, Card, Envelope, Facts, MailTable, Paragraph, make_mail
from runspend.actions.alert.sections import (
    allocation_confidence,
    at_a_glance,
    bill_ages,
    budget_address,
    budget_button,
    period_name,
    running_now,
    spend_chart,
    title_for,
    top_people,
    weekday,
    what_drove_it,
    what_you_can_do,
    which_runs,
)
from runspend.config.budgets import percent_used
from runspend.config.settings import MailSettings
from runspend.core.amounts import EXACT, day, money, rough_money
from runspend.core.text import clean, counted

MEASURES = {
    "effective_cost": "effective cost",
    "billed_cost": "billed cost",
    "contracted_cost": "contracted cost",
    "list_cost": "list cost",
}


@dataclass(frozen=True)
class Writer:
    """Writer of mails for one configuration.

    `settings` give the sender and how people are named. `config_name` is the name of the configuration file. `site` is the address of the
    live pages, or None.
    """

    settings: MailSettings
    config_name: str
    site: str | None = None

    def budget_mail(self, decision: Decision, figures: Figures, now: datetime) -> Mail:
        """Return the mail about reached thresholds and forecasts. The most urgent facts come first."""
        status, people = decision.status, self.settings.people
        expected = " If you expect the runs below, you need not act now." if figures.running else " No matching runs are active."
        blocks = self._head(status, what_happened(status, now, self.settings.people) + expected, now)
        if figures.running:
            blocks.append(running_now(figures, status, people, now))
        blocks += [chart] if (chart := spend_chart(status)) else []
        blocks.append(what_drove_it(figures, status, people))
        if figures.runs:
            blocks.append(which_runs(figures.runs, figures.run_count, "TOP RUNS", people, self.site))
        if figures.people and people != "hide":
            blocks.append(top_people(figures, status, people))
        blocks += [allocation_confidence(figures, status, now), what_you_can_do(status, now, self.settings.people)]
        return self._mail(decision, budget_subject(decision, now, self.settings.people), [*blocks, Paragraph(self._footer(status))], now)

    def short_mail(self, decision: Decision, coverage: Sequence[Coverage], now: datetime) -> Mail:
        """Return the budget mail without the figures that need queries. It is used if a digest will list the mail."""
        status = decision.status
        blocks = self._head(status, what_happened(status, now, self.settings.people), now)
        blocks += [Facts("CONFIDENCE", tuple(bill_ages(coverage, now))), what_you_can_do(status, now, self.settings.people)]
        return self._mail(decision, budget_subject(decision, now, self.settings.people), [*blocks, Paragraph(self._footer(status))], now)

    def correction_mail(self, decision: Decision, restated: Sequence[Restatement], coverage: Sequence[Coverage], now: datetime) -> Mail:
        """Return the mail that corrects an earlier alert: the spend is below the threshold again."""
        status, highest = decision.status, decision.lead.crossing.threshold
        assert status.spent is not None
        is_whole = highest.level == status.budget.amount
        why = _listed([f"{clean(r.source, 30)} restated {_span(r.first, r.last)}" for r in restated])
        title = title_for(status.budget.title, self.settings.people)
        summary = (
            f"{title} has spent {money(status.spent)} of {money(status.budget.amount)} {status.currency} "
            f"({MEASURES[status.budget.measure]}) in {period_name(status.period)}, {'so it is under budget' if is_whole else f'which is below {of_budget(highest)}'}. "
            f"An earlier alert reported that it had reached {_listed([of_budget(item.crossing.threshold) for item in decision.items])}, "
            f"based on the costs known for {day(decision.lead.crossing.on)}. "
            + (f"Since then, {why}." if why else "Since then, its costs moved elsewhere because tags, rules or exchange rates changed.")
            + _forecast_words(status, now)
        )
        footer = f"Sent once. If it reaches {of_budget(highest)} again in {period_name(status.period)}, Runspend sends no second alert: see `runspend budgets`."
        blocks: list[Block] = [
            *self._head(status, summary, now), Facts("CONFIDENCE", tuple(bill_ages(coverage, now))), what_you_can_do(status, now, self.settings.people), Paragraph(f"{footer} {self._source(status)}"),
        ]  # fmt: skip
        return self._mail(decision, f"[runspend] Budget {title}: correction, {_used(status)}", blocks, now)

    def anomaly_mail(
        self, decision: Decision, anomaly: Anomaly, runs: tuple[tuple[TopRun, ...], int], coverage: Sequence[Coverage], now: datetime
    ) -> Mail:
        """Return the mail about a day of unusual spend."""
        status, title = decision.status, title_for(decision.status.budget.title, self.settings.people)
        cost, more = f"{money(anomaly.spent)} {status.currency}", anomaly.percent_more
        summary = (
            f"{title} cost {cost} ({MEASURES[status.budget.measure]}) on {weekday(anomaly.day)}. A typical day costs {money(anomaly.usual)}. "
            f"This is {'' if more is None else f'{more:,}% more, and '}more than on any day of the four weeks before. Runspend did not stop any run."
            + _forecast_words(status, now)
        )
        more_words = "highest in four weeks" if more is None else f"{more:,}% more"
        card = Card((("cost", cost, day(anomaly.day)), ("typical day", f"{money(anomaly.usual)} {status.currency}", more_words)))
        blocks: list[Block] = [card, Paragraph(summary), *budget_button(status.budget.name, status.period.name, self.site)]
        if runs[0]:
            blocks.append(which_runs(*runs, f"TOP RUNS, {weekday(anomaly.day)}", self.settings.people, self.site))
        blocks += [Facts("CONFIDENCE", tuple(bill_ages(coverage, now))), what_you_can_do(status, now, self.settings.people)]
        blocks.append(Paragraph(f"Sent once for this day. {self._source(status)}"))
        return self._mail(
            decision,
            f"[runspend] Budget {title}: unusual spend of {cost} on {day(anomaly.day)}",
            blocks,
            now,
        )

    def first_run_mail(self, recipient: str, alerts: Sequence[Mapping[str, Any]], statuses: Sequence[Status], now: datetime) -> Mail:
        """Return the summary that a recipient gets after the first pipeline run, instead of one mail per alert."""
        mine = {s.budget.name for s in statuses if recipient in s.budget.all_recipients()} | {a["budget"] for a in alerts}
        counted = _counted(alerts)
        rest = len(mine) - len({a["budget"] for a in alerts})
        others = f" {rest} other{' is' if rest == 1 else 's are'} below all thresholds." if rest > 0 else ""
        members = "\n".join([recipient, *sorted(a["mail"]["message_id"] for a in alerts)])
        return make_mail(
            Envelope(self.settings.from_, "budgets", "budget-first-night"),
            local_id=f"first-night.{hashlib.sha256(members.encode()).hexdigest()[:32]}",
            recipients=[recipient],
            subject=f"[runspend] {len(mine)} budgets monitored: {counted}",
            blocks=[
                Card((("budgets", f"{len(mine)}", "monitored"), ("alerts", f"{len(alerts)}", counted))),
                Paragraph(
                    f"Runspend now monitors {len(mine)} of your budgets. It sends one alert for each threshold that a budget reaches. Current state: {counted}.{others} Runspend did not stop any run."
                ),
                *([Button("See all budgets", f"{self.site}/#budgets")] if self.site else []),
                _alerts_table(alerts, self.settings.people, self.site),
                Facts("NEXT STEPS", (("List all budgets", "runspend budgets"), ("See top costs", "runspend costs --by team,experiment"))),
                Paragraph(
                    f"Sent once, instead of one alert per budget. Runspend does not repeat alerts for thresholds that are already reached. Budgets are configured in {self.config_name}."
                ),
            ],
            now=now,
        )

    def _mail(self, decision: Decision, subject: str, blocks: Sequence[Block], now: datetime) -> Mail:
        status = decision.status
        return make_mail(
            Envelope(self.settings.from_, "budgets", f"budget-{decision.kind}", status.budget.owner),
            local_id=f"budget.{decision.lead.alert_id}",
            recipients=recipients_of(decision),
            subject=subject,
            blocks=blocks,
            now=now,
            thread=f"budget.{slug(status.budget.name)}.{status.period.name}",
        )

    def _head(self, status: Status, summary: str, now: datetime) -> list[Block]:
        """Return the first blocks of a mail: its main figures, the summary, and a link to the budget's page."""
        return [at_a_glance(status, now), Paragraph(summary), *budget_button(status.budget.name, status.period.name, self.site)]

    def _footer(self, status: Status) -> str:
        following = status.next_threshold
        after = f"Next alert: at {of_budget(following)}." if following else "There is no higher threshold."
        return f"Sent once for this threshold and period. {after} {self._source(status)}"

    def _source(self, status: Status) -> str:
        return f'Budget "{clean(status.budget.name)}", {self.config_name}, version {status.version}.'


def budget_subject(decision: Decision, now: datetime, people: str) -> str:
    """Return the subject of a budget mail: "[runspend] Budget vision: 100.2% of 5,000 USD spent in November".

    A forecast adds ", forecast 100% around 22 Nov", or ", probably 100% since 22 Nov" if that day is in the past.
    """
    status, threshold, on = decision.status, decision.lead.crossing.threshold, decision.lead.crossing.on
    subject = f"[runspend] Budget {title_for(status.budget.title, people)}: {_used(status)}"
    if decision.lead.kind != "forecast":
        return subject
    when = f"probably {threshold.text} since" if on < now.date() else f"forecast {threshold.text} around"
    return f"{subject}, {when} {day(on)}"


def of_budget(threshold: Threshold) -> str:
    """Return a threshold in words: "80% of budget", or "500 USD" if the threshold is an amount."""
    return f"{threshold.text} of budget" if threshold.text.endswith("%") else threshold.text


def _listed(texts: Sequence[str]) -> str:
    """Join texts to a list in words, such as "a, b and c"."""
    return " and ".join(filter(None, (", ".join(texts[:-1]), *texts[-1:])))


def _used(status: Status) -> str:
    """Return the used part of a budget in words: "82.0% of 5,000 USD spent in November"."""
    when = "on" if (status.period.end - status.period.start).days == 1 else "in"
    return f"{status.percent}% of {money(status.budget.amount, short=True)} {status.currency} spent {when} {period_name(status.period)}"


def recipients_of(decision: Decision) -> list[str]:
    """Return the recipients of a decision. The recipient `owner` is the budget's owner. A budget without an owner has no such recipient."""
    levels = () if decision.anomaly else [item.crossing.threshold.level for item in decision.items]
    return decision.status.budget.recipients(levels)


def what_happened(status: Status, now: datetime, people: str) -> str:
    """Return the first paragraph of a budget mail: the spend, the thresholds that it reached, and the forecast."""
    assert status.spent is not None
    of = f"{money(status.budget.amount)} {status.currency} ({MEASURES[status.budget.measure]})"
    sentences = [f"{title_for(status.budget.title, people)} has spent {money(status.spent)} of {of} in {period_name(status.period)}."]
    if status.crossed:
        *lower, highest = status.crossed
        is_whole = highest.threshold.level == status.budget.amount
        sentences.append(f"It {'exceeded its budget' if is_whole else f'reached {of_budget(highest.threshold)}'} on {weekday(highest.on)}.")
        sentences += ["It reached " + ", ".join(f"{c.threshold.text} on {day(c.on)}" for c in lower) + "."] if lower else []
    if status.budget.judged_on == "bill_and_estimates" and status.estimated:
        sentences.append(f"This includes {money(status.estimated)} {status.currency} of estimates for hours that are not billed yet.")
    sentences.append(_forecast_words(status, now).strip())
    if now.date() < status.period.end:
        sentences.append(f"{_days_left(status, now)} of the period remain{'s' if _days_left(status, now) == '1 day' else ''}.")
    sentences.append("Runspend did not stop any run.")
    return " ".join(text for text in sentences if text)


def _forecast_words(status: Status, now: datetime) -> str:
    """Return sentences about the forecast, after a space, or "" without a forecast.

    For example: " Forecast for 30 November: 6,580 USD (80% interval: 6,240–6,930). It will probably exceed its budget around 23 Nov."
    """
    forecast = status.forecast
    if forecast is None:
        return ""
    last = status.period.end - timedelta(days=1)
    text = f" Forecast for {last.day} {last:%B}: {rough_money(forecast.total)} {status.currency} (80% interval: {rough_money(forecast.low)}–{rough_money(forecast.high)})."
    if not status.is_over and (on := status.exceeded_on()):
        text += (
            f" Probably exceeded around {day(on)}; billing data is incomplete."
            if on < now.date()
            else f" It will probably exceed its budget around {day(on)}."
        )
    return text


def _alerts_table(alerts: Sequence[Mapping[str, Any]], people: str, site: str | None) -> MailTable:
    ranked = sorted(alerts, key=lambda a: (-spent_ratio(a), a["budget"], a["budget_period"], a["alert_id"]))
    rows = tuple(
        (
            title_for(a.get("title") or a["budget"], people, 30),
            a["budget_period"],
            money(Decimal(a["spent"])),
            money(Decimal(a["amount"]), short=True) + f" {a['currency']}",
            f"{_percent(a)}%{_MARKS.get(a['kind'], '')}",
        )
        for a in ranked
    )
    links = tuple(budget_address(a["budget"], a["budget_period"], site) for a in ranked) if site else ()
    return MailTable("BUDGETS", ("", "period", "spent", "amount", "used"), "llrrr", rows, (), links)


_MARKS = {"forecast": ", forecast", "correction": ", corrected", "anomaly": ", unusual day"}


def _counted(alerts: Sequence[Mapping[str, Any]]) -> str:
    """Count alerts in words, such as "3 exceeded, 11 above a threshold, 2 forecast to exceed"."""
    kinds = {
        "exceeded": sum(1 for a in alerts if a["kind"] == "actual" and Decimal(a["spent"]) >= Decimal(a["amount"])),
        "above a threshold": sum(1 for a in alerts if a["kind"] == "actual" and Decimal(a["spent"]) < Decimal(a["amount"])),
        "forecast to exceed": sum(1 for a in alerts if a["kind"] == "forecast"),
        "corrected": sum(1 for a in alerts if a["kind"] == "correction"),
        "with unusual spend": sum(1 for a in alerts if a["kind"] == "anomaly"),
    }
    return ", ".join(f"{count} {words}" for words, count in kinds.items() if count)


def spent_ratio(alert: Mapping[str, Any]) -> Decimal:
    """Return the spend of an alert divided by its budget."""
    return EXACT.divide(Decimal(alert["spent"]), Decimal(alert["amount"]))


def _percent(alert: Mapping[str, Any]) -> Decimal:
    return percent_used(Decimal(alert["spent"]), Decimal(alert["amount"]))


def _span(first: date, last: date) -> str:
    if first == last:
        return day(first)
    return f"{first.day}–{day(last)}" if first.month == last.month else f"{day(first)}–{day(last)}"


def _days_left(status: Status, now: datetime) -> str:
    days = (status.period.end - now.date()).days
    return counted(days, "day")
