"""Budget alerts: judge, record, send. Decided once per budget version, threshold, kind and period; sent at least once.

`run` is the whole step. Put here the order of things; each thing is in its own module: `budgets.py` decides, `figures.py`
reads, `wording.py` and `mail.py` write, `outbox.py` remembers who has what, `send.py` talks to the outside.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from datetime import date, datetime
from decimal import Decimal
from typing import TYPE_CHECKING, Any

from runspend.actions.alert import operators
from runspend.actions.alert.budgets import (
    EVERY,
    KIND,
    Decision,
    Status,
    alert_id,
    budget_version,
    current_period,
    decide,
    judge_budget,
    periods_to_judge,
)
from runspend.actions.alert.figures import Coverage, covered_until, read_coverage, read_figures, read_spend
from runspend.actions.alert.mail import money
from runspend.actions.alert.outbox import Delivery, RecordStore, recipient_states, send_outbox
from runspend.actions.alert.wording import Writer, period_name
from runspend.config import Settings
from runspend.errors import PartialFailure, RunspendError, SourceError
from runspend.rates import missing_rates, stretches
from runspend.tables import ALERTS, BUDGET_STATUS
from runspend.warehouse import Reader

if TYPE_CHECKING:
    import pyarrow as pa

__all__ = ["AlertResult", "Judgement", "alerts_table", "judge", "operators", "record", "run", "send"]


@dataclass(frozen=True)
class Judgement:
    """What the budgets say now. `notes` are for operators: budgets that could not be judged and why."""

    statuses: list[Status]
    decisions: list[Decision]
    budget_status: pa.Table
    notes: list[str]
    coverage: tuple[Coverage, ...]
    reader: Reader  # what the figures of mails are read from: money in the budgets' currency
    missing: SourceError | None = None  # the rates without which some were not judged


@dataclass(frozen=True)
class AlertResult:
    """What the step did. Rows of the two tables may lie in several months; both hold every row of each month they touch."""

    budget_status: pa.Table
    alerts: pa.Table
    deliveries: list[Delivery]
    notes: list[str]
    lines_for_summary: list[tuple[str, str]]
    missing: SourceError | None = None

    @property
    def sent(self) -> list[str]:
        """Message-IDs of the mails at least one recipient was sent tonight."""
        return list(dict.fromkeys(d.mail.message_id for d in self.deliveries if d.outcome.state == "accepted"))

    @property
    def refused(self) -> list[Delivery]:
        """Mails that did not get through tonight: refused for good, or still waiting for a server."""
        return [d for d in self.deliveries if d.outcome.state in ("refused", "waiting")]

    @property
    def errors(self) -> list[RunspendError]:
        """What the command ends with besides its work: an exchange rate that is missing, a PartialFailure when a mail did not get through."""
        errors: list[RunspendError] = [] if self.missing is None else [self.missing]
        failures = [f"{d.mail.subject} to {d.recipient}: {d.outcome.state}, {d.outcome.reply}" for d in self.refused]
        if not failures:
            return errors
        return [
            *errors,
            PartialFailure(
                f"cannot deliver {len(failures)} of {len(self.deliveries)} mails: {failures[0]}. Fix mail or notify in runspend.yaml.",
                failures,
            ),
        ]


def judge(reader: Reader, settings: Settings, records: RecordStore, now: datetime) -> Judgement:
    """Judge every budget in its current period (and one that just ended, see `periods_to_judge`). Sends and records nothing
    but the first time each budget version was judged."""
    budgets = settings.budgets
    first_judged = {b.name: _first_judged(records, b.name, budget_version(b, settings.currency), now) for b in budgets}
    periods = {b.name: periods_to_judge(b.every, now, first_judged[b.name]) for b in budgets}
    judged = [p for ps in periods.values() for p in ps]
    spend = read_spend(reader, budgets, judged)
    missing = None
    foreign = {(code, day) for days in spend for (day, code), cost in days.items() if code != settings.currency and cost}
    if foreign:  # only then does anything have to be converted
        rates = stretches(settings.rates.exchange, settings.currency)
        missing = missing_rates(rates, settings.currency, foreign)
        if rates:
            reader = reader.in_currency(settings.currency, rates)
            spend = read_spend(reader, budgets, judged)
    coverage = read_coverage(reader)
    statuses = [
        judge_budget(b, settings.currency, period, days) for b, days in zip(budgets, spend, strict=True) for period in periods[b.name]
    ]
    notes = [f"budget {s.budget.name} was not judged for {period_name(s.period)}: {s.not_judged}" for s in statuses if s.not_judged]
    table = _status_table(reader, statuses, coverage, now)
    missing = missing if any(s.not_judged for s in statuses) else None
    return Judgement(statuses, decide(statuses, _decided(records)), table, notes, coverage, reader, missing)


def record(reader: Reader, settings: Settings, records: RecordStore, judgement: Judgement, now: datetime) -> None:
    """Write each decision and its mail as once-only records; whoever comes second changes nothing.

    The record of the highest threshold holds the mail and lists the lower ones it covers. It is made first and is the
    commit: lower ones that a crash left out count as decided, and are made up for by the next run.
    """
    writer = Writer(settings.mail, str(settings.path or "runspend.yaml"))
    for decision in judgement.decisions:
        mail = writer.budget_mail(decision, read_figures(reader, decision.status, judgement.coverage, now), now)
        covers = [decision.alert_id(c.threshold) for c in decision.crossings]
        for crossing in reversed(decision.crossings):
            value = _alert_record(decision.status, decision.alert_id(crossing.threshold), crossing.threshold.text, now)
            if crossing is decision.highest:
                value |= {"covers": covers, "mail": mail.as_record()}
            else:
                value |= {"mail_of": covers[-1]}
            records.create("alerts", value["alert_id"], value)
    _complete_covered(records)


def send(settings: Settings, records: RecordStore, now: datetime) -> list[Delivery]:
    """Send what waits: budget mails of this and of earlier nights, and operators' mails."""
    writer = Writer(settings.mail, str(settings.path or "runspend.yaml"))
    return send_outbox(settings.mail, settings.home, records, now, writer.digest_mail)


def run(open_reader: Callable[[], AbstractContextManager[Reader]], settings: Settings, records: RecordStore, now: datetime) -> AlertResult:
    """The whole step. Never raises for mail that did not get through: see `AlertResult.errors`.

    The warehouse is let go before anything is sent: publishing would have to wait for a slow mail server.
    """
    with open_reader() as reader:
        judgement = judge(reader, settings, records, now)
        record(judgement.reader, settings, records, judgement, now)
    deliveries = send(settings, records, now)
    if judgement.notes:
        headline = f"{len(judgement.notes)} budget{' was' if len(judgement.notes) == 1 else 's were'} not judged: {judgement.notes[0]}"
        deliveries += operators.notify(settings, records, "NOT JUDGED", "budgets", now, headline, details=judgement.notes)
    for delivery in [d for d in deliveries if d.outcome.state == "refused" and d.mail.kind.startswith("budget")]:
        headline = f"a mail to {delivery.recipient} was refused: {delivery.outcome.reply}"
        deliveries += operators.notify(
            settings, records, "REFUSED", f"{delivery.mail.message_id} {delivery.recipient}", now, headline,
            details=[f"Subject: {delivery.mail.subject}"],
            still_works="The other recipients were sent to; the decision is kept and shown in the alerts table.",
            do=[("Correct the address", f"notify in {settings.path or 'runspend.yaml'}"), ("Tell them yourself", "this mail is not sent again")],
            next_try="Runspend does not try this address again for this mail.",
        )  # fmt: skip
    notes = list(judgement.notes)
    if settings.tag_budgets:
        notes.append("budgets written as experiment tags are not judged by this version")
    return AlertResult(judgement.budget_status, alerts_table(records), deliveries, notes, _summary(judgement, deliveries), judgement.missing)


def alerts_table(records: RecordStore) -> pa.Table:
    """The table `alerts`, rebuilt from the records: every alert ever decided."""
    import pyarrow as pa

    states = recipient_states(records)
    found = records.list("alerts")
    rows = []
    for key in sorted(found):
        value = found[key]
        holder = found[value["mail_of"]] if "mail_of" in value else value
        message_id = holder["mail"]["message_id"]
        recipients = {r: states.get((message_id, r), "waiting") for r in holder["mail"]["recipients"]}
        rows.append({
            **{c.name: value[c.name] for c in ALERTS.columns if c.name in value},
            "month": date.fromisoformat(value["month"]),
            "spent": Decimal(value["spent"]),
            "amount": Decimal(value["amount"]),
            "message_id": message_id,
            "recipients": json.dumps(recipients, sort_keys=True),
            "decided_at": datetime.fromisoformat(value["decided_at"]),
        })  # fmt: skip
    return pa.Table.from_pylist(rows, schema=ALERTS.arrow_schema())


def _first_judged(records: RecordStore, name: str, version: str, now: datetime) -> datetime:
    key = f"{name}.{version}"
    records.create("budgets", key, {"budget": name, "version": version, "first_judged_at": now.isoformat()})
    found = records.get("budgets", key)
    assert found is not None, "a record that was just made"
    return datetime.fromisoformat(found[0]["first_judged_at"])


def _decided(records: RecordStore) -> set[str]:
    found = records.list("alerts")
    return set(found) | {covered for value in found.values() for covered in value.get("covers", ())}


def _complete_covered(records: RecordStore) -> None:
    found = records.list("alerts")
    for key, value in found.items():
        for covered in value.get("covers", ()):
            if covered not in found:
                threshold = covered.removeprefix(f"{key.rpartition(f'.{KIND}.')[0]}.{KIND}.").rpartition(".")[0]
                text = f"{threshold} %" if threshold.replace(".", "").isdigit() else f"{threshold[:-3]} {threshold[-3:]}"
                lower = {k: v for k, v in value.items() if k not in ("mail", "covers")}
                records.create("alerts", covered, {**lower, "alert_id": covered, "threshold": text, "mail_of": key})


def _alert_record(status: Status, key: str, threshold: str, now: datetime) -> dict[str, Any]:
    return {
        "alert_id": key,
        "month": status.period.month.isoformat(),
        "budget": status.budget.name,
        "budget_version": status.version,
        "kind": KIND,
        "threshold": threshold,
        "budget_period": status.period.name,
        "spent": f"{status.spent:f}",
        "amount": f"{status.budget.amount:f}",
        "currency": status.currency,
        "decided_at": now.isoformat(),
    }


def _status_table(reader: Reader, statuses: Sequence[Status], coverage: tuple[Coverage, ...], now: datetime) -> pa.Table:
    """Rows of all months the statuses touch: a month is replaced whole, so what others left there is carried over."""
    import pyarrow as pa

    rows: dict[tuple[str, str], Mapping[str, Any]] = {}
    if statuses:
        months = {s.period.month for s in statuses}
        columns = ", ".join(c.name for c in BUDGET_STATUS.columns)
        kept = reader.query(
            f"select {columns} from budget_status where month >= @first and month <= @last", {"first": min(months), "last": max(months)}
        ).to_pylist()
        # A running period's row that nobody judged now is of a budget that is no longer configured.
        running = {current_period(every, now.date()).name for every in EVERY}
        rows = {(r["budget"], r["budget_period"]): r for r in kept if r["month"] in months and r["budget_period"] not in running}
    for status in statuses:
        rows[(status.budget.name, status.period.name)] = {
            "budget": status.budget.name,
            "month": status.period.month,
            "budget_period": status.period.name,
            "budget_version": status.version,
            "amount": status.budget.amount,
            "spent": status.spent,
            "currency": status.currency,
            "measure": status.budget.measure,
            "crossed": status.crossed[-1].threshold.text if status.crossed else None,
            "covered_until": covered_until(coverage),
            "owner": status.budget.owner,
            "judged_at": now,
        }
    return pa.Table.from_pylist([dict(rows[key]) for key in sorted(rows)], schema=BUDGET_STATUS.arrow_schema())


def _summary(judgement: Judgement, deliveries: Sequence[Delivery]) -> list[tuple[str, str]]:
    """Lines for a person: budgets that are over, near, or could not be judged each on one; the rest counted."""
    mails = {
        d.mail.message_id.strip("<").rpartition("@")[0].removeprefix("budget."): d for d in deliveries if d.mail.kind == "budget-actual"
    }
    decided = {(d.status.budget.name, d.status.period.name): d for d in judgement.decisions}
    current = {s.budget.name: s for s in judgement.statuses}  # the last one of a budget is its current period
    shown = [s for s in judgement.statuses if s is current[s.budget.name] or (s.budget.name, s.period.name) in decided]
    width = max((len(s.budget.name) for s in shown), default=0)
    lines, fine = [], 0
    for status in sorted(shown, key=lambda s: (s.spent is not None, -(s.percent or Decimal(0)), s.budget.name)):
        name = status.budget.name.ljust(width)
        if status.spent is None:
            lines.append(("▲", f"{name}  not judged: {status.not_judged}"))
            continue
        if not status.crossed:
            fine += 1
            continue
        text = f"{name}  {money(status.spent):>12} / {money(status.budget.amount, short=True)}  {status.percent:>6} %"
        if status is not current[status.budget.name]:
            text += f"  in {period_name(status.period)}"
        decision = decided.get((status.budget.name, status.period.name))
        if decision:
            crossing = decision.highest
            delivery = mails.get(alert_id(status, crossing.threshold))
            what = (
                "1 mail"
                if delivery and delivery.outcome.state == "accepted"
                else "told in one mail"
                if not delivery
                else f"mail {delivery.outcome.state}"
            )
            text += f"   crossed {crossing.threshold.text} on {crossing.on.day} {crossing.on:%b} → {what}"
        lines.append(("✗" if status.is_over else "▲", text))
    if fine:
        lines.append(("✓", f"{fine} {'other' if lines else 'budget'}{'' if fine == 1 else 's'} below every threshold"))
    return lines
