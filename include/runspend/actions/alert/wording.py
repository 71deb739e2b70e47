"""The words of budget mails: pure functions from a decision and its figures to a mail.

Put here sentences and their order: what is over, what runs now, what drove it, how sure that is, what to do. How a mail
becomes text, HTML and bytes is in `mail.py`.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from decimal import ROUND_DOWN, Decimal
from typing import Any

from runspend.actions.alert.budgets import EXACT, BudgetPeriod, Decision, Status
from runspend.actions.alert.figures import Figures
from runspend.actions.alert.mail import Block, Envelope, Facts, Mail, Paragraph, Table, clean, make_mail, money, person
from runspend.config import MailSettings

MEASURES = {
    "effective_cost": "effective cost",
    "billed_cost": "billed cost",
    "contracted_cost": "contracted cost",
    "list_cost": "list cost",
}


@dataclass(frozen=True)
class Writer:
    """Whose mails these are: sender, how people are named, and the configuration file to point at."""

    settings: MailSettings
    config_path: str

    def budget_mail(self, decision: Decision, figures: Figures, now: datetime) -> Mail:
        """The mail of one decision, in the order people need it."""
        status, people = decision.status, self.settings.people
        blocks: list[Block] = [Paragraph(_what_happened(decision, figures, now))]
        if figures.running:
            blocks.append(_running_now(figures, status, people, now))
        blocks += [_what_drove_it(figures, status, people), _how_sure(figures, status, now), _what_you_can_do(status, people)]
        blocks.append(Paragraph(self._footer(status)))
        return make_mail(
            Envelope(self.settings.from_, "budgets", "budget-actual"),
            local_id="budget." + decision.alert_id(decision.highest.threshold),
            recipients=recipients_of(status),
            subject=budget_subject(status),
            blocks=blocks,
            now=now,
            reply_to=status.budget.owner,
        )

    def digest_mail(self, recipient: str, alerts: Sequence[Mapping[str, Any]], now: datetime) -> Mail:
        """One mail for many: every alert in one table, worst first. The same alerts give the same Message-ID."""
        ranked = sorted(alerts, key=lambda a: (-_ratio(a), a["budget"], a["budget_period"], a["alert_id"]))
        over = sum(1 for a in ranked if Decimal(a["spent"]) >= Decimal(a["amount"]))
        below = len(ranked) - over
        members = "\n".join([recipient, *sorted(a["mail"]["message_id"] for a in ranked)])
        rows = tuple(
            (
                clean(a["budget"], 30),
                a["budget_period"],
                money(Decimal(a["spent"])),
                money(Decimal(a["amount"]), short=True) + f" {a['currency']}",
                f"{_percent(a)} %",
            )
            for a in ranked
        )
        counted = ", ".join(text for text in (f"{over} over" if over else "", f"{below} near it" if below else "") if text)
        return make_mail(
            Envelope(self.settings.from_, "budgets", "budget-digest"),
            local_id=f"digest.{hashlib.sha256(members.encode()).hexdigest()[:32]}",
            recipients=[recipient],
            subject=f"[runspend] {len(ranked)} budgets crossed a threshold: {counted}",
            blocks=[
                Paragraph(f"{len(ranked)} of the budgets you are told about crossed a threshold: {counted}. All of them, worst first."),
                Table("BUDGETS", ("", "period", "spent", "of", "used"), "llrrr", rows),
                Facts("WHAT YOU CAN DO", (("What drove it", "runspend costs --by team,experiment"),)),
                Paragraph(f"Sent once for these thresholds, instead of one mail each. Budgets are in {self.config_path}."),
            ],
            now=now,
        )

    def _footer(self, status: Status) -> str:
        following = status.next_threshold
        after = f"Next mail: at {following.text}, if ever." if following else "There is no higher threshold."
        return (
            f'Sent once for this threshold and period. {after} Budget "{status.budget.name}", {self.config_path}, version {status.version}.'
        )


def budget_subject(status: Status) -> str:
    """ "[runspend] vision is over budget: 100.2 % of 5,000 USD for November"."""
    of = f"{status.percent} % of {money(status.budget.amount, short=True)} {status.currency} for {period_name(status.period)}"
    return f"[runspend] {status.budget.name} " + (f"is over budget: {of}" if status.is_over else f"has used {of}")


def recipients_of(status: Status) -> list[str]:
    """Who is told; `owner` stands for the budget's owner and for nobody where it has none."""
    budget = status.budget
    return [r for r in (budget.owner if r == "owner" else r for r in budget.notify) if r]


def period_name(period: BudgetPeriod) -> str:
    """The period as people say it: 24 November, week 48 of 2026, November, Q4 2026, 2026."""
    if "W" in period.name:
        return f"week {int(period.name[-2:])} of {period.name[:4]}"
    if "Q" in period.name:
        return f"{period.name[5:]} {period.name[:4]}"
    days = (period.end - period.start).days
    return f"{period.start.day} {period.start:%B}" if days == 1 else f"{period.start:%B}" if days < 32 else period.name


def _what_happened(decision: Decision, figures: Figures, now: datetime) -> str:
    status, highest = decision.status, decision.highest
    assert status.spent is not None
    of = f"{money(status.budget.amount)} {status.currency} ({MEASURES[status.budget.measure]})"
    said = [
        f"{status.budget.name} has spent {money(status.spent)} of {of} in {period_name(status.period)}.",
        f"It passed {highest.threshold.text} on {_weekday(highest.on)}.",
    ]
    lower = [f"{c.threshold.text} was on {_day(c.on)}" for c in status.crossed if c.threshold < highest.threshold]
    if lower:
        said.append(", ".join(lower) + ".")
    if now.date() < status.period.end:
        said.append(f"{_days_left(status.period, now)} of the period {'is' if _days_left(status.period, now) == '1 day' else 'are'} left.")
    said.append(
        "Nothing was stopped."
        + (" If the runs below are expected, this can wait until morning." if figures.running else " No run of it is on right now.")
    )
    return " ".join(said)


def _running_now(figures: Figures, status: Status, people: str, now: datetime) -> Table:
    rows, together, unknown = [], Decimal(0), figures.running_count - len(figures.running)
    for run in figures.running:
        unknown += run.per_hour is None
        together = EXACT.add(together, run.per_hour or Decimal(0))
        rows.append(
            (
                clean(run.name, 24),
                person(run.who, people),
                clean(run.machines, 20) if run.machines else "",
                _time(run.since),
                "" if run.per_hour is None else money(run.per_hour),
            )
        )
    notes = (
        [
            f"together {money(together)} an hour, {money(EXACT.multiply(together, Decimal(24)), short=True).split('.')[0]} {status.currency} a day (mean of each run so far)"
        ]
        if together
        else []
    )
    if unknown:
        notes.append(
            f"{unknown} running {'run has' if unknown == 1 else 'runs have'} no figure here{' yet: no bill reaches them' if unknown <= len(figures.running) else ''}"
        )
    return Table(
        f"RUNNING NOW (MLflow, {_time(now)} UTC)", ("", "", "", "since", f"{status.currency}/hour"), "llllr", tuple(rows), tuple(notes)
    )


def _what_drove_it(figures: Figures, status: Status, people: str) -> Table:
    spent = status.spent or Decimal(0)
    rows = []
    for driver in (*figures.drivers, *([figures.others] if figures.others else [])):
        who = person(driver.who, people)
        name = clean(driver.name, 32 - len(who)) + (f" ({who})" if who else "")
        rows.append((name, _share(driver.spent, spent), money(driver.spent), money(driver.spent_before)))
    notes = () if figures.failed is None else (f"of it: failed or killed runs {money(figures.failed)} ({_share(figures.failed, spent)})",)
    return Table("WHAT DROVE IT", ("", "", period_name(status.period), "same days before"), "lrrr", tuple(rows), notes)


def _how_sure(figures: Figures, status: Status, now: datetime) -> Facts:
    facts = []
    for bill in figures.coverage:
        if bill.covered_until is None:
            facts.append(("", f"Bill {clean(bill.source)} does not say how far it reaches."))
            continue
        usual = f", usual {_hours(bill.usual_lag)}" if bill.usual_lag else ""
        facts.append(
            (
                "",
                f"Bill {clean(bill.source)} is complete to {_time(bill.covered_until)} UTC: {_hours(now - bill.covered_until)} old{usual}.",
            )
        )
    since = f"about {money(figures.estimated)} {status.currency} estimated since then" if figures.estimated else "what ran since then"
    missing = [since] if figures.coverage or figures.estimated else []
    if figures.idle_elsewhere > 0:
        missing.append(f"{money(figures.idle_elsewhere)} of idle machines, which no run of this budget owns")
    if missing:
        facts.append(("", f"Not in the figure: {'; '.join(missing)}."))
    matched = Decimal(0)
    for cost in figures.by_confidence.values():
        matched = EXACT.add(matched, cost)
    total = EXACT.add(matched, figures.no_run)
    shares = [f"{_share(figures.by_confidence[c], total)} {c}" for c in ("exact", "high", "medium", "low") if figures.by_confidence.get(c)]
    if figures.no_run:
        shares.append(f"{_share(figures.no_run, total)} of it is no run's: idle, shared, unmatched or orphaned")
    if shares:
        facts.append(("", f"Matched to runs: {', '.join(shares)}."))
    return Facts("HOW SURE", tuple(facts))


def _what_you_can_do(status: Status, people: str) -> Facts:
    facts = [
        ("See the runs", f"runspend costs --by experiment --since {status.period.start:%Y-%m}"),
        ("Stop one", "in MLflow or where it runs; Runspend never stops a run"),
    ]
    if status.budget.runbook:
        facts.append(("Runbook", clean(status.budget.runbook, 400)))
    if status.budget.owner:
        facts.append(("Owner", clean(status.budget.owner)))
    return Facts("WHAT YOU CAN DO", tuple(facts))


def _ratio(alert: Mapping[str, Any]) -> Decimal:
    return EXACT.divide(Decimal(alert["spent"]), Decimal(alert["amount"]))


def _percent(alert: Mapping[str, Any]) -> Decimal:
    return EXACT.multiply(_ratio(alert), Decimal(100)).quantize(Decimal("0.1"), ROUND_DOWN, EXACT)


def _share(part: Decimal, whole: Decimal) -> str:
    return f"{EXACT.divide(EXACT.multiply(part, Decimal(100)), whole).quantize(Decimal(1), context=EXACT)} %" if whole else ""


def _days_left(period: BudgetPeriod, now: datetime) -> str:
    days = (period.end - now.date()).days
    return f"{days} day{'' if days == 1 else 's'}"


def _hours(span: timedelta) -> str:
    hours = max(0, span // timedelta(hours=1))
    return f"{hours} hour{'' if hours == 1 else 's'}"


def _weekday(day: date) -> str:
    return f"{day:%A} {day.day} {day:%B}"


def _day(day: date) -> str:
    return f"{day.day} {day:%b}"


def _time(moment: datetime) -> str:
    return f"{moment.day} {moment:%b %H:%M}"
