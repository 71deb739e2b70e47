"""Judge budgets, record alerts and send their mail.

Each alert is decided once per budget version, threshold, kind and period. It is sent at least once.

`run` is the whole pipeline step. This module calls the parts in order: `budget_costs.py` reads costs, `judge.py` judges budgets and
`decisions.py` decides alerts. `figures.py` and `wording.py` fill a mail, `outbox.py` records deliveries, and `smtp.py` sends.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from datetime import date, datetime, timedelta
from typing import TYPE_CHECKING, Any

from runspend.actions.alert import operators
from runspend.actions.alert.bill_coverage import (
    Coverage,
    TableExtent,
    covered_until,
    first_open_day,
    read_coverage,
    read_extent,
    read_unread,
)
from runspend.actions.alert.budget_costs import read_series
from runspend.actions.alert.decisions import Decision, LastSpendDays, alert_id, decide
from runspend.actions.alert.figures import Figures, read_day_runs, read_figures, read_restated
from runspend.actions.alert.first_summary import begin, is_first_run, summarise
from runspend.actions.alert.forecast import HISTORY
from runspend.actions.alert.judge import Series, Status, judge_budget, judge_days, not_judged
from runspend.actions.alert.message import Mail
from runspend.actions.alert.outbox import DIGEST_ABOVE, Delivery, last_results, send_outbox
from runspend.actions.alert.periods import BudgetPeriod, period_named
from runspend.actions.alert.renamed_sources import finish_renames
from runspend.actions.alert.sections import period_name
from runspend.actions.alert.selector_sql import LINE_ONLY
from runspend.actions.alert.snooze import Quiet, read_quiet
from runspend.actions.alert.tables import alerts_table, read_judged_on, status_table
from runspend.actions.alert.tag_budgets import TAG_KEYS, read_tag_budgets
from runspend.actions.alert.versions import Job, plan_judging, read_versions, watched_since
from runspend.actions.alert.wording import Writer, recipients_of
from runspend.config.exchange_rates import missing_rates, stretches
from runspend.config.settings import Budget, Settings
from runspend.core.errors import PartialFailure, RunspendError, SourceError
from runspend.core.text import counted
from runspend.warehouse.base import Reader
from runspend.warehouse.records import Records

if TYPE_CHECKING:
    import pyarrow as pa

__all__ = ["TAG_KEYS", "AlertResult", "Judgement", "alerts_table", "judge", "judge_one", "operators", "record", "run"]

# A day with unusual spend is reported only if it is not older than this. A bill that is further behind is reported as stale instead.
NEWS = timedelta(days=7)


@dataclass(frozen=True)
class Judgement:
    """The current state of all budgets.

    `notes` name the budgets that could not be judged, with the reason. They are sent to operators; `refused_tags` are not.
    """

    statuses: list[Status]
    decisions: list[Decision]
    budget_status: pa.Table
    notes: list[str]
    refused_tags: list[str]
    coverage: tuple[Coverage, ...]
    extent: TableExtent
    quiet: Mapping[str, Quiet]
    reader: Reader  # source of the figures in mails, with money in the budgets' currency
    missing: SourceError | None = None  # missing exchange rates that left some budgets unjudged


@dataclass(frozen=True)
class AlertResult:
    """The result of the step.

    The two tables may have rows of several months. For each of these months they are complete.
    """

    budget_status: pa.Table
    alerts: pa.Table
    deliveries: list[Delivery]
    notes: list[str]
    missing: SourceError | None = None

    @property
    def sent(self) -> list[str]:
        """Message-IDs of the mails that this step sent to at least one recipient."""
        return list(dict.fromkeys(d.mail.message_id for d in self.deliveries if d.outcome.state == "accepted"))

    @property
    def refused(self) -> list[Delivery]:
        """Mails that this step could not deliver: refused, or still waiting for a server."""
        return [d for d in last_results(self.deliveries) if d.outcome.state in ("refused", "waiting")]

    @property
    def errors(self) -> list[RunspendError]:
        """Errors that the command reports after its work.

        These are the error about missing exchange rates, if any, and a PartialFailure if a mail was not delivered.
        """
        errors: list[RunspendError] = [] if self.missing is None else [self.missing]
        results = last_results(self.deliveries)
        failures = [failure for d in results if (failure := d.failure) is not None]
        if not failures:
            return errors
        return [
            *errors,
            PartialFailure(
                f"cannot deliver {len(failures)} of {len(results)} mails: {failures[0]}. Fix mail or notify in runspend.yaml.",
                failures,
            ),
        ]


def judge(reader: Reader, settings: Settings, records: Records, now: datetime) -> Judgement:
    """Judge every budget in its current period and in recently ended periods (see `plan_judging`).

    Sends no mail. Records only when each budget version was first judged, which versions were reverted, and renamed sources that budgets
    select.
    """
    unfinished = finish_renames(reader, records, settings.currency)
    tagged, refused_tags = read_tag_budgets(reader, settings)
    budgets = [*settings.budgets, *tagged]
    if budgets:
        begin(records, now)
    coverage = read_coverage(reader, now)
    covered = first_open_day(coverage)
    versions, alerts = read_versions(records, budgets, settings.currency, now), records.list("alerts")
    extent = read_extent(reader, coverage)
    jobs = _not_lost(extent, plan_judging(versions, alerts, read_judged_on(reader, now), covered, now))
    reader, series, missing = _read_series(reader, settings, jobs, now)
    statuses = []
    unread = read_unread(reader)
    for job, one in zip(jobs, series, strict=True):
        why = next(filter(None, (rename.why_not_judged(job.budget) for rename in unfinished)), None)
        if why := why or (unread if set(job.budget.for_) - set(LINE_ONLY) else None):
            statuses += [not_judged(job.budget, settings.currency, p, why) for p in job.periods if not job.is_closed]
            continue
        open_day = covered or max((day for day, _ in one.billed), default=now.date())
        is_open = not job.is_closed
        found = [
            replace(judge_budget(job.budget, settings.currency, p, one, open_day if is_open else None, now), is_closed=job.is_closed)
            for p in job.periods
        ]
        if is_open and job.periods[-1].end > now.date():
            news_day = first_open_day(coverage, NEWS) or open_day  # a monthly bill must not delay the news of other bills
            watched = watched_since(versions[job.budget.name], settings.currency)
            found[-1] = _with_days(found[-1], one, news_day, max(watched, news_day - NEWS))
        statuses += found
    quiet = read_quiet(records, now)
    unjudged = [
        f"budget {s.budget.name} was not judged for {period_name(s.period)}: {s.not_judged}"
        for s in statuses
        if s.not_judged and not s.is_closed
    ]
    decisions = decide(statuses, _alerted_days(alerts, extent), now, [name for name, q in quiet.items() if q.kind == "snoozed"])
    table = status_table(reader, statuses, covered_until(coverage), quiet, now)
    missing = missing if unjudged else None
    return Judgement(statuses, decisions, table, unjudged, refused_tags, coverage, extent, quiet, reader, missing)


def judge_one(reader: Reader, settings: Settings, budget: Budget, period: BudgetPeriod, now: datetime) -> tuple[Status, Figures]:
    """Return the status of one budget in one period, by today's tables, with the figures of its mail. Records nothing."""
    coverage = read_coverage(reader, now)
    reader, [series], _ = _read_series(reader, settings, [Job(budget, (period,))], now)
    covered = first_open_day(coverage) or max((day for day, _ in series.billed), default=now.date())
    status = judge_budget(budget, settings.currency, period, series, covered, now)
    return status, read_figures(reader, status, coverage, now)


def record(settings: Settings, records: Records, judgement: Judgement, now: datetime) -> None:
    """Record each decision and its mail once. A second call changes nothing.

    A decision has one record per item. The record of the leading item holds the mail and lists all items of the decision. It is written
    first and is the commit. If a crash prevents the other records, their items still count as decided, and the next pipeline run writes
    them. An acknowledged budget gets no mail.
    """
    writer = Writer(
        settings.mail, settings.path.name if settings.path else "runspend.yaml", settings.site.url.rstrip("/") if settings.site else None
    )
    mailed = Counter(r for d in judgement.decisions if d.status.budget.name not in judgement.quiet for r in recipients_of(d))
    for decision in judgement.decisions:
        lead, quiet = decision.lead, judgement.quiet.get(decision.status.budget.name)
        value = _alert_record(decision, now) | {"rests_on": judgement.extent.as_record()}
        if quiet is None:
            # a digest will list this mail, so a short one is enough
            is_listed = all(mailed[r] > DIGEST_ABOVE for r in recipients_of(decision))
            value["mail"] = _compose(writer, judgement, decision, records, now, is_listed).as_record()
        else:
            value |= {"acknowledged": str(quiet), "recipients": recipients_of(decision)}
        value["items"] = [_item(decision, number) for number in range(len(decision.items))]
        value["covers"] = [item.alert_id for item in decision.items]
        records.create("alerts", lead.alert_id, value)
    _complete_covered(records)
    is_anything_known = any(s.by_day for s in judgement.statuses) or any(c.covered_until for c in judgement.coverage)
    if is_anything_known and is_first_run(records):  # without a bill, this does not count as the first pipeline run
        summarise(records, writer, judgement.statuses, now)


def run(open_reader: Callable[[], AbstractContextManager[Reader]], settings: Settings, records: Records, now: datetime) -> AlertResult:
    """Run the whole step. Undelivered mail raises no error here: see `AlertResult.errors`.

    The warehouse is closed before mail is sent, because a slow mail server would otherwise block publishing.
    """
    with open_reader() as reader:
        judgement = judge(reader, settings, records, now)
        record(settings, records, judgement, now)
    deliveries = send_outbox(settings, records, now)
    if judgement.notes:
        count = len(judgement.notes)
        headline = f"{counted(count, 'budget was', 'budgets were')} not judged: {judgement.notes[0]}"
        first = judgement.notes[0].replace(" was not judged for ", " in ", 1)
        advice = operators.Advice(
            still_works="All other budgets were judged.",
            subject=f"{f'{count} budgets, first: ' if count > 1 else ''}{first}",
            figures=(("not judged", f"{count}", "budgets"),),
        )
        deliveries += operators.notify(settings, records, "NOT JUDGED", "budgets", now, headline, details=judgement.notes, advice=advice)
    deliveries += operators.tell_refused(settings, records, now)
    return AlertResult(
        judgement.budget_status, alerts_table(records), deliveries, [*judgement.notes, *judgement.refused_tags], judgement.missing
    )


def _read_series(reader: Reader, settings: Settings, jobs: Sequence[Job], now: datetime) -> tuple[Reader, list[Series], SourceError | None]:
    """Return a reader that converts currencies, one series per job, and the error about missing exchange rates, if any.

    The series are in the budgets' currency where rates exist.
    """
    if not jobs:
        return reader, [], None
    periods, budgets = [p for job in jobs for p in job.periods], [job.budget for job in jobs]
    end, history = max(p.end for p in periods), min(*(p.start for p in periods), now.date() - HISTORY)
    series = read_series(reader, budgets, history, end)
    foreign = {(code, day) for one in series for (day, code), cost in one.billed.items() if code != settings.currency and cost}
    is_guessed = any(code != settings.currency and cost for one in series for (_, code), cost in one.estimated.items())
    if not foreign and not is_guessed:  # nothing needs conversion
        return reader, series, None
    first = min((p.start for job in jobs if not job.is_closed for p in job.periods), default=end)
    rates = stretches(settings.rates.exchange, settings.currency)
    missing = missing_rates(rates, settings.currency, {(code, day) for code, day in foreign if first <= day < end})
    if rates:
        reader = reader.in_currency(settings.currency, rates)
        series = read_series(reader, budgets, history, end)
    return reader, series, missing


def _not_lost(extent: TableExtent, jobs: Sequence[Job]) -> list[Job]:
    """Drop closed periods that end before the cost tables begin.

    Tables that were rebuilt from fewer bills cannot confirm or correct earlier alerts.
    """
    first = extent.first_day
    kept = [
        replace(job, periods=tuple(p for p in job.periods if not job.is_closed or (first is not None and p.end > first))) for job in jobs
    ]
    return [job for job in kept if job.periods]


def _with_days(status: Status, series: Series, covered: date, since: date) -> Status:
    """Return the status of a budget's current period, with its recent days of unusual spend added."""
    return replace(status, anomalies=judge_days(status.budget, status.currency, series, covered, since))


def _compose(writer: Writer, judgement: Judgement, decision: Decision, records: Records, now: datetime, in_short: bool) -> Mail:
    """Return the mail of a decision. With `in_short`, figures that need a query of the warehouse are left out."""
    reader, status = judgement.reader, decision.status
    if decision.anomaly is not None:
        runs = ((), 0) if in_short else read_day_runs(reader, status, decision.anomaly.day)
        return writer.anomaly_mail(decision, decision.anomaly, runs, judgement.coverage, now)
    if decision.kind == "correction":
        earlier_id = alert_id(status, "actual", decision.lead.crossing.threshold)
        earlier = [datetime.fromisoformat(v["decided_at"]) for v in records.list("alerts").values() if v["alert_id"] == earlier_id]
        since = min(earlier, default=now)
        return writer.correction_mail(decision, read_restated(reader, status, decision.lead.crossing.on, since), judgement.coverage, now)
    if in_short:
        return writer.short_mail(decision, judgement.coverage, now)
    return writer.budget_mail(decision, read_figures(reader, status, judgement.coverage, now), now)


def _alerted_days(alerts: Mapping[str, Mapping[str, Any]], extent: TableExtent) -> LastSpendDays:
    """Map each decided alert id to the last day with spend that the decision was based on. Includes items whose record a crash prevented.

    The day is None for acknowledged alerts: no mail announced them, so no mail corrects them. It is also None if today's tables have
    less data than the tables on which the alert was decided.
    """
    earlier = dict[str, date | None]()
    for value in alerts.values():
        through = None
        if (
            value.get("through")
            and "acknowledged" not in value
            and extent.is_as_wide_as(value.get("rests_on"), period_named(value["budget_period"]))
        ):
            through = date.fromisoformat(value["through"])
        earlier |= dict.fromkeys([value["alert_id"], *value.get("covers", ())], through)
    return earlier


def _complete_covered(records: Records) -> None:
    found = records.list("alerts")
    known = {value["alert_id"] for value in found.values()}
    for key, value in found.items():
        whole = {k: v for k, v in value.items() if k not in ("mail", "covers", "items")}
        for item in value.get("items", ()):
            if item["alert_id"] not in known:
                records.create("alerts", item["alert_id"], {**whole, **item, **({"mail_of": key} if value.get("mail") else {})})


def _alert_record(decision: Decision, now: datetime) -> dict[str, Any]:
    status, anomaly = decision.status, decision.anomaly
    lead = next(n for n, item in enumerate(decision.items) if item is decision.lead)
    return {
        "month": (anomaly.day.replace(day=1) if anomaly else status.period.month).isoformat(),
        "budget": status.budget.name,
        "title": status.budget.title,
        "budget_version": status.version,
        "budget_period": anomaly.day.isoformat() if anomaly else status.period.name,
        "spent": f"{anomaly.spent if anomaly else status.spent:f}",
        "amount": f"{status.budget.amount:f}",
        "forecast": f"{status.forecast.total:f}" if status.forecast and not anomaly else None,
        "currency": status.currency,
        "through": None if anomaly else status.through.isoformat(),
        "decided_at": now.isoformat(),
        **_item(decision, lead),
    }


def _item(decision: Decision, number: int) -> dict[str, Any]:
    item = decision.items[number]
    return {"alert_id": item.alert_id, "kind": item.kind, "threshold": item.crossing.threshold.text}
