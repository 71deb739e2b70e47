"""The first night of an installation: one summary for each recipient, in the place of a mail for everything that is over already.

Put here when it begins and ends, and whose mails are gathered. A recipient with one mail gets it as it is. Every later night,
and every budget added later, is told of as usual.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

from runspend.actions.alert.judge import Status
from runspend.actions.alert.outbox import RecordStore, recipient_states
from runspend.actions.alert.wording import Writer

ROWS_IN_A_MAIL = 100
KIND, BEGAN, TOLD = "installation", "first-night", "first-night-told"


def begin(records: RecordStore, now: datetime) -> None:
    """Note that this is the first night, if no budget was ever judged."""
    if not records.list("budgets"):
        records.create(KIND, BEGAN, {"at": now.isoformat()})


def is_first_night(records: RecordStore) -> bool:
    """Whether the summary of the first night is still to be written: also after a crash in the middle of it."""
    return records.get(KIND, BEGAN) is not None and records.get(KIND, TOLD) is None


def summarise(records: RecordStore, writer: Writer, statuses: Sequence[Status], now: datetime) -> None:
    """Put one mail in the place of several for each recipient who would get several; then the first night is over."""
    tried = recipient_states(records)
    waiting: dict[str, list[Mapping[str, Any]]] = defaultdict(list)
    for alert in records.list("alerts").values():
        for recipient in alert["mail"]["recipients"] if alert.get("mail") else ():
            if (alert["mail"]["message_id"], recipient) not in tried:
                waiting[recipient].append(alert)
    for recipient, found in sorted(waiting.items()):
        if 1 < len(found) <= ROWS_IN_A_MAIL:  # more go out as every night's do
            mail = writer.first_night_mail(recipient, found, statuses, now)
            members = [alert["mail"]["message_id"] for alert in found]
            records.create(
                "digests", mail.message_id.strip("<>"),
                {"recipient": recipient, "members": members, "decided_at": now.isoformat(), "mail": mail.as_record()},
            )  # fmt: skip
    records.create(KIND, TOLD, {"at": now.isoformat()})
