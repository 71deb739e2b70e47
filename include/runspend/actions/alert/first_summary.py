"""Combine the alerts of an installation's first pipeline run: each recipient gets one summary instead of one mail per budget.

Belongs here: when the first pipeline run begins and ends, and which mails are combined. A recipient with only one mail gets that mail. Later
pipeline runs send alerts as usual, also for budgets that are added later.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

from runspend.actions.alert.digest import record_digest
from runspend.actions.alert.judge import Status
from runspend.actions.alert.outbox import recipient_states
from runspend.actions.alert.wording import Writer
from runspend.warehouse.records import Records

ROWS_IN_A_MAIL = 100
KIND, BEGAN, SENT = "installation", "first-night", "first-night-told"


def begin(records: Records, now: datetime) -> None:
    """Record that this is the first pipeline run. Does nothing if a budget was judged before."""
    if not records.list("budgets"):
        records.create(KIND, BEGAN, {"at": now.isoformat()})


def is_first_run(records: Records) -> bool:
    """Return whether the first summaries must still be written. This is also true after a crash while they were written."""
    return records.get(KIND, BEGAN) is not None and records.get(KIND, SENT) is None


def summarise(records: Records, writer: Writer, statuses: Sequence[Status], now: datetime) -> None:
    """Record one summary for each recipient who would get several mails, and record that the first pipeline run has ended."""
    tried = recipient_states(records)
    waiting: dict[str, list[Mapping[str, Any]]] = defaultdict(list)
    for alert in records.list("alerts").values():
        for recipient in alert["mail"]["recipients"] if alert.get("mail") else ():
            if (alert["mail"]["message_id"], recipient) not in tried and recipient not in writer.settings.pagers:
                waiting[recipient].append(alert)
    for recipient, found in sorted(waiting.items()):
        if 1 < len(found) <= ROWS_IN_A_MAIL:  # if there are more, the mails are sent as in every pipeline run
            record_digest(records, writer.first_run_mail(recipient, found, statuses, now), recipient, found, now)
    records.create(KIND, SENT, {"at": now.isoformat()})
