"""The first pipeline run of an installation: each recipient gets one summary instead of a mail for each budget already over.

Belongs here: when this first run begins and ends, and which mails are combined. A recipient with only one mail gets it as it is. Later
pipeline runs, and budgets added later, send alerts as usual.
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
    """Record that this is the first pipeline run, if no budget was ever judged."""
    if not records.list("budgets"):
        records.create(KIND, BEGAN, {"at": now.isoformat()})


def is_first_run(records: Records) -> bool:
    """Return whether the first summary must still be written, including after a crash while writing it."""
    return records.get(KIND, BEGAN) is not None and records.get(KIND, SENT) is None


def summarise(records: Records, writer: Writer, statuses: Sequence[Status], now: datetime) -> None:
    """Replace several mails by one for each recipient who would get several. After that, the first pipeline run is over."""
    tried = recipient_states(records)
    waiting: dict[str, list[Mapping[str, Any]]] = defaultdict(list)
    for alert in records.list("alerts").values():
        for recipient in alert["mail"]["recipients"] if alert.get("mail") else ():
            if (alert["mail"]["message_id"], recipient) not in tried and recipient not in writer.settings.pagers:
                waiting[recipient].append(alert)
    for recipient, found in sorted(waiting.items()):
        if 1 < len(found) <= ROWS_IN_A_MAIL:  # more mails go out as in every pipeline run
            record_digest(records, writer.first_run_mail(recipient, found, statuses, now), recipient, found, now)
    records.create(KIND, SENT, {"at": now.isoformat()})
