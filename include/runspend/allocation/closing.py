"""Decides when a bill is final and a month is closed, and lists changes skipped in closed months: the rows of `period_states`.

    open    lines may still be added or changed
    final   the month is over and every line has an InvoiceId. Otherwise: unchanged for 10 days, and the month ended at least 15 days ago
    closed  60 days after the last bill of the month became final. A closed month stays closed

The result depends only on stored data and `now`, so repeating a pipeline run writes nothing. One build covers all bills of a month,
so the bills of a month close together. Building a month does not belong here.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta, timezone
from functools import cached_property
from typing import Any

from runspend.allocation.inputs import BILL, FINAL_BILLS, configuration_digest, digest, month_start
from runspend.config.settings import Settings
from runspend.schema.rows import arrow_rows, first_day
from runspend.warehouse.base import Unit, Warehouse

UNCHANGED_FOR = timedelta(days=10)
ENDED_FOR = timedelta(days=15)
FINAL_FOR = timedelta(days=60)

# Facts about each current bill. If a later version was refused, the current bill may be wrong (`is_doubted`).
BILLS = """
select
  source, billing_period, max(if(state = 'current', loaded_at, null)) as loaded_at,
  countif(state = 'current' and is_invoiced and row_count > 0) = countif(state = 'current') as is_invoiced,
  coalesce(max(if(state = 'refused', version_number, null)), 0) > max(if(state = 'current', version_number, null)) as is_doubted
from billing_loads
group by source, billing_period
having max(if(state = 'current', version_number, null)) is not null
"""


def is_bill(name: str) -> bool:
    """Return whether a build input is a bill as delivered. No other kind of input may change a closed month."""
    return name.startswith(BILL)


@dataclass(frozen=True)
class Bill:
    """One bill of one month, as stored in the warehouse. `seen_until`: the last time at which its source was seen with this bill."""

    source: str
    bill_digest: str
    loaded_at: datetime
    is_invoiced: bool
    is_doubted: bool
    seen_until: datetime


def judge_bills(bills: Sequence[Bill], before: Mapping[str, Mapping[str, Any]], period: str, now: datetime) -> list[dict[str, Any]]:
    """Return the `period_states` rows of one month. `before`: the rows of the previous pipeline run, by source."""
    month_end = month_start(datetime.combine(first_day(period), datetime.min.time(), tzinfo=timezone.utc) + timedelta(days=32))
    rows = [_judge_bill(bill, before.get(bill.source, {}), month_end, now) for bill in sorted(bills, key=lambda bill: bill.source)]
    since = [row["final_since"] for row in rows]
    is_due = bool(rows) and all(since) and now >= max(since) + FINAL_FOR
    for row in rows:
        row["billing_period"] = first_day(period)
        row["closed_since"] = row["closed_since"] or (max(since) + FINAL_FOR if is_due else None)
        row["state"] = "closed" if row["closed_since"] else "final" if row["final_since"] else "open"
    return rows


def _judge_bill(bill: Bill, before: Mapping[str, Any], month_end: datetime, now: datetime) -> dict[str, Any]:
    is_same = before.get("bill_digest") == bill.bill_digest
    unchanged_since = before["unchanged_since"] if is_same else bill.loaded_at
    final_since = before.get("final_since")
    keeps = final_since is not None and (is_same or before.get("closed_since") is not None or (bill.is_invoiced and before["is_invoiced"]))
    if not keeps:
        due = max(bill.loaded_at, month_end) if bill.is_invoiced else max(unchanged_since + UNCHANGED_FOR, month_end + ENDED_FOR)
        seen_until = now if bill.is_invoiced else min(now, bill.seen_until)
        final_since = due if seen_until >= due and not bill.is_doubted else None
    return {
        "source": bill.source,
        "bill_digest": bill.bill_digest,
        "is_invoiced": bill.is_invoiced,
        "unchanged_since": unchanged_since,
        "final_since": final_since,
        "closed_since": before.get("closed_since"),
    }


class Finality:
    """The rows of `period_states` for this pipeline run, by month. Stored rows are read once."""

    def __init__(self, warehouse: Warehouse, settings: Settings, now: datetime) -> None:
        self._warehouse = warehouse
        self._settings = settings
        self._now = now
        self._ignored_changes: dict[str, list[str]] = {}
        self._judged: dict[str, list[dict[str, Any]]] = {}

    def rows(self, period: str) -> list[dict[str, Any]]:
        """Return the month's rows for this pipeline run. Empty if the month has no bill."""
        if period not in self._judged:
            bills = [bill for key, bill in self._bills.items() if key[1] == period]
            before = {row["source"]: row for row in self._before if row["billing_period"] == first_day(period)}
            self._judged[period] = judge_bills(bills, before, period, self._now)
        return self._judged[period]

    def is_closed(self, period: str) -> bool:
        """Return whether the month is closed: only a changed bill or an explicit request may then change its figures."""
        return any(row["state"] == "closed" for row in self.rows(period))

    def inputs(self, period: str) -> dict[str, str | None]:
        """Return inputs for the month's build: the digest of each bill as delivered, and the names of the final bills."""
        final = ", ".join(row["source"] for row in self.rows(period) if row["state"] != "open")
        return {**{f"{BILL}{row['source']}": row["bill_digest"] for row in self.rows(period)}, FINAL_BILLS: final}

    def publish(self, period: str, ignored_changes: str | None) -> None:
        """Write the month's rows if they differ from the stored rows. `ignored_changes`: the changes skipped in a closed month, as text."""
        if ignored_changes:
            self._ignored_changes.setdefault(ignored_changes, []).append(period)
        rows = [{**row, "ignored_changes": ignored_changes or None if row["state"] == "closed" else None} for row in self.rows(period)]
        unit = Unit("period_states", period, "all")
        before = (
            [{name: row[name] for name in rows[0]} for row in self._before if row["billing_period"] == first_day(period)] if rows else []
        )
        extra = {"configuration": configuration_digest(self._settings)} if period == self._newest else {}
        state = self._warehouse.states("period_states").get(unit)
        if rows == before and state is not None and dict(state.extra) == extra:
            return
        with self._warehouse.step("finality", digest(rows)) as step:
            step.put(*unit, arrow_rows("period_states", rows), extra=extra)
            step.publish({unit: None if state is None else state.digest})

    def notes(self) -> list[str]:
        """Return a note for each reason for which this pipeline run skipped changes in closed months."""
        return [
            f"{_months(periods)} closed and stay as they are, although these changed: {words}. To apply the changes, run: runspend allocate --period {periods[-1]}"
            if len(periods) > 1
            else f"{periods[0]} is closed and stays as it is, although these changed: {words}. To apply the changes, run: runspend allocate --period {periods[0]}"
            for words, periods in sorted(self._ignored_changes.items())
        ]

    @cached_property
    def _newest(self) -> str | None:
        return max((period for _, period in self._bills), default=None)

    @property
    def _before(self) -> list[dict[str, Any]]:
        return self._known[0]

    @cached_property
    def _known(self) -> tuple[list[dict[str, Any]], list[dict[str, Any]], list[dict[str, Any]]]:
        """Return the rows stored before this pipeline run, the facts about each current bill, and the last read of each source."""
        questions = ("select * from period_states order by billing_period, source", BILLS, "select * from sources where kind = 'bill'")
        with self._warehouse.reader() as reader:
            before, loads, tries = (reader.query(question).to_pylist() for question in questions)
        return before, loads, tries

    @cached_property
    def _bills(self) -> dict[tuple[str, str], Bill]:
        _, loads, rows = self._known
        tries = {row["source"]: row for row in rows}
        lines = self._warehouse.states("billing_lines")
        configured = {source.name for source in self._settings.billing}
        bills = {}
        for load in loads:
            source, period = load["source"], f"{load['billing_period']:%Y-%m}"
            unit = lines.get(Unit("billing_lines", period, source))
            if unit is None:
                continue
            row = tries.get(source) if source in configured else None
            # An unreachable source does not show whether its bill changed, so only its last good read counts. A source that is no longer
            # configured cannot change its bill, so the bill counts as seen now.
            seen_until = self._now if row is None else row["last_good_at"] if row["state"] == "unreachable" else row["last_tried_at"]
            bill_digest = unit.extra.get("bill_digest") or unit.digest
            bills[source, period] = Bill(
                source, bill_digest, load["loaded_at"], load["is_invoiced"], load["is_doubted"], seen_until or load["loaded_at"]
            )
        return bills


def _months(periods: Sequence[str]) -> str:
    return f"{', '.join(periods)} are" if len(periods) <= 3 else f"{len(periods)} months from {periods[0]} to {periods[-1]} are"
