"""Build the tables `budget_status` and `alerts` from statuses and records.

Belongs here: the content of a row. `judge.py` judges budgets, and `decisions.py` decides alerts.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Mapping, Sequence
from datetime import date, datetime, timedelta, timezone
from decimal import Decimal
from typing import TYPE_CHECKING, Any

from runspend.actions.alert.judge import Status
from runspend.actions.alert.outbox import State, recipient_states
from runspend.actions.alert.periods import EVERY, current_period
from runspend.actions.alert.snooze import Quiet
from runspend.config.types import is_channel
from runspend.schema.tables import ALERTS, BUDGET_STATUS
from runspend.warehouse.base import Reader
from runspend.warehouse.records import Records

if TYPE_CHECKING:
    import pyarrow as pa

LOOK_BACK = timedelta(days=800)  # long enough for a yearly period that has ended and its last bills


def alerts_table(records: Records) -> pa.Table:
    """Return the table `alerts` with all alerts that were ever decided, built from the records."""
    import pyarrow as pa

    states = recipient_states(records)
    posted = defaultdict[str, dict[str, State]](dict)
    for (message_id, recipient), state in states.items():
        if is_channel(recipient):
            posted[message_id][recipient] = state
    found = records.list("alerts")
    rows = []
    for key in sorted(found):
        value = found[key]
        mail = found[value["mail_of"]]["mail"] if "mail_of" in value else value.get("mail")
        addressees = mail["recipients"] if mail else value.get("recipients", [])
        recipients: dict[str, State] = {r: states.get((mail["message_id"], r), "waiting") if mail else "skipped" for r in addressees}
        recipients |= posted[mail["message_id"]] if mail else {}
        rows.append({
            **{c.name: value[c.name] for c in ALERTS.columns if c.name in value},
            "month": date.fromisoformat(value["month"]),
            "spent": Decimal(value["spent"]),
            "amount": Decimal(value["amount"]),
            "forecast": None if value.get("forecast") is None else Decimal(value["forecast"]),
            "message_id": mail["message_id"] if mail else None,
            "recipients": json.dumps(recipients, sort_keys=True),
            "decided_at": datetime.fromisoformat(value["decided_at"]),
        })  # fmt: skip
    return pa.Table.from_pylist(rows, schema=ALERTS.arrow_schema())


def read_judged_on(reader: Reader, now: datetime) -> dict[str, dict[str, date]]:
    """Return, by budget and period, the first day that was not wholly billed when the period was last judged.

    The day is `date.max` if it was not known how far the bills reach. It is `date.min` if the budget was snoozed or could not be judged.
    """
    found = defaultdict[str, dict[str, date]](dict)
    query = "select budget, budget_period, covered_until, not_judged, muted from budget_status where month >= @first"
    for row in reader.query(query, {"first": (now - LOOK_BACK).date()}).to_pylist():
        is_unsettled, until = row["not_judged"] is not None or (row["muted"] or "").startswith("snoozed"), row["covered_until"]
        open_day = until.astimezone(timezone.utc).date() if until else date.max
        found[row["budget"]][row["budget_period"]] = date.min if is_unsettled else open_day
    return found


def status_table(
    reader: Reader, statuses: Sequence[Status], covered_until: datetime | None, quiet: Mapping[str, Quiet], now: datetime
) -> pa.Table:
    """Return all rows of the months that change. Each month is replaced as a whole, so rows of its periods that were not judged are kept.

    The row of a closed period changes only if its spend changed and the row is of the budget version that was judged.
    """
    import pyarrow as pa

    rows: dict[tuple[str, str], Mapping[str, Any]] = {}
    months = {s.period.month for s in statuses if not s.is_closed}
    if statuses:
        touched = {s.period.month for s in statuses}
        columns = ", ".join(c.name for c in BUDGET_STATUS.columns)
        kept = reader.query(
            f"select {columns} from budget_status where month >= @first and month <= @last", {"first": min(touched), "last": max(touched)}
        ).to_pylist()
        # Rows of current periods are not kept: if such a budget was not judged now, it is no longer configured.
        running = {current_period(every, now.date()).name for every in EVERY}
        rows = {(r["budget"], r["budget_period"]): r for r in kept if r["month"] in touched and r["budget_period"] not in running}
    for status in statuses:
        key = status.budget.name, status.period.name
        if status.is_closed:
            row = rows.get(key)
            if row is None or row["budget_version"] != status.version or row["spent"] == status.spent:
                continue
            months.add(status.period.month)
        rows[key] = _status_row(status, covered_until, quiet.get(status.budget.name), now)
    return pa.Table.from_pylist(
        [dict(rows[key]) for key in sorted(rows) if rows[key]["month"] in months], schema=BUDGET_STATUS.arrow_schema()
    )


def _status_row(status: Status, covered_until: datetime | None, quiet: Quiet | None, now: datetime) -> dict[str, Any]:
    budget, forecast, following = status.budget, status.forecast, status.next_threshold
    return {
        "budget": budget.name,
        "month": status.period.month,
        "budget_period": status.period.name,
        "budget_version": status.version,
        "title": budget.title,
        "amount": budget.amount,
        "spent": status.spent,
        "estimated": status.estimated,
        "judged_on": budget.judged_on,
        "forecast": forecast.total if forecast else None,
        "forecast_low": forecast.low if forecast else None,
        "forecast_high": forecast.high if forecast else None,
        "exceeded_on": status.exceeded_on(),
        "currency": status.currency,
        "measure": budget.measure,
        "threshold_reached": status.crossed[-1].threshold.text if status.crossed else None,
        "next_threshold": following.text if following else None,
        "not_judged": status.not_judged,
        "covered_until": covered_until,
        "owner": budget.owner,
        "muted": str(quiet) if quiet else None,
        "judged_at": now,
    }
