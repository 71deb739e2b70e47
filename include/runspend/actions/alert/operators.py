"""Mail to `mail.operators` about the machinery: refused, stale, failed. Once per cause and night; needs no warehouse.

Put here what any failure handler may call with nothing but settings and records. Budget mails never go here.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from datetime import datetime
from typing import Literal

from runspend.actions.alert.mail import Block, Envelope, Facts, Paragraph, clean, make_mail
from runspend.actions.alert.outbox import Delivery, RecordStore, send_outbox
from runspend.config import Settings

Kind = Literal["REFUSED", "CHECK FAILED", "DAG FAILED", "STALE", "NOT JUDGED"]


def notify(
    settings: Settings,
    records: RecordStore,
    kind: Kind,
    key: str,
    now: datetime,
    headline: str,
    *,
    details: Sequence[str] = (),
    still_works: str = "Everything else of the night went on; the last good data stay in place.",
    do: Sequence[tuple[str, str]] = (("See the state", "runspend status"),),
    next_try: str = "Runspend tries again at the next night.",
) -> list[Delivery]:
    """Write down and send "[runspend] KIND: headline"; [] if nobody is configured or this cause was told tonight.

    `key` names the cause (a source and period, a check, a DAG): the second call of a night with the same key sends nothing.
    Whatever was waiting for a mail server is sent along, so the returned deliveries may hold more than this one.
    """
    if not settings.mail.operators:
        return []
    cause = hashlib.sha256(key.encode("utf-8", "surrogatepass")).hexdigest()[:16]
    local_id = f"operators.{kind.replace(' ', '-')}.{cause}.{now:%Y-%m-%d}"
    blocks: list[Block] = [Paragraph(f"{kind}: {clean(headline, 400)}")]
    if details:
        blocks.append(Facts("WHAT WAS FOUND", tuple(("", clean(line, 400)) for line in details[:50])))
    blocks += [
        Facts("WHAT STILL WORKS", (("", clean(still_works, 400)),)),
        Facts("WHAT YOU CAN DO", tuple((clean(name, 30), clean(value, 400)) for name, value in do)),
        Paragraph(f"{clean(next_try, 200)} Sent once for this cause and night, {now:%Y-%m-%d %H:%M} UTC."),
    ]
    mail = make_mail(
        Envelope(settings.mail.from_, "operators", kind.lower().replace(" ", "-")),
        local_id=local_id,
        recipients=settings.mail.operators,
        subject=f"[runspend] {kind}: {headline}",
        blocks=blocks,
        now=now,
    )
    is_new = records.create("notices", local_id, {"kind": kind, "key": key, "decided_at": now.isoformat(), "mail": mail.as_record()})
    return send_outbox(settings.mail, settings.home, records, now) if is_new else []
