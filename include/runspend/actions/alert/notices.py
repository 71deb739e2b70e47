"""Write mails for other steps, such as the notice before an archive move, or a statement. Each mail is written once under its own id.

Belongs here: the interface for steps other than alerts, to write a mail and to read its receipts. The calling step provides the text.
`outbox.py` and `smtp.py` send the mail.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime

from runspend.actions.alert.message import Attachment
from runspend.actions.alert.outbox import Receipt, receipt
from runspend.actions.alert.render import Block, Envelope, make_mail
from runspend.config.settings import MailSettings
from runspend.warehouse.records import Records


def write_archive_notice(
    settings: MailSettings,
    records: Records,
    notice_id: str,
    recipients: Sequence[str],
    subject: str,
    blocks: Sequence[Block],
    now: datetime,
    *,
    copies: Sequence[str] = (),
) -> str:
    """Record the mail "[runspend] SUBJECT" for sending. Return its Message-ID, which is the same for the same id.

    `notice_id` has only letters, digits, dots and dashes. The first call records the mail, and later calls change nothing, so a different text
    needs a different id. `copies` are further recipients, whose receipts do not count. `send_outbox` sends the mail. `read_receipts` returns
    which recipients have received it, and when.
    """
    mail = make_mail(
        Envelope(settings.from_, "archive", "archive-notice"),
        local_id=_key(notice_id),
        recipients=recipients,
        copies=copies,
        subject=f"[runspend] {subject}",
        blocks=blocks,
        now=now,
    )
    records.create("notices", _key(notice_id), {"kind": "ARCHIVE NOTICE", "decided_at": now.isoformat(), "mail": mail.as_record()})
    return mail.message_id


def write_statement_mail(
    settings: MailSettings,
    records: Records,
    statement_id: str,
    recipients: Sequence[str],
    subject: str,
    blocks: Sequence[Block],
    attachments: Sequence[Attachment],
    now: datetime,
) -> str:
    """Record the mail "[runspend] SUBJECT" with its attachments for sending. Return its Message-ID: the same for the same id and recipients.

    `statement_id` has only letters, digits, dots, underscores and dashes. The first call records the mail, and later calls change nothing.
    """
    key = f"statement.{statement_id}.{hashlib.sha256(' '.join(sorted(recipients)).encode()).hexdigest()[:12]}"
    mail = make_mail(
        Envelope(settings.from_, "statements", "statement"),
        local_id=key,
        recipients=recipients,
        subject=f"[runspend] {subject}",
        blocks=blocks,
        now=now,
    )
    mail = replace(mail, attachments=tuple(attachments))
    records.create("notices", key, {"kind": "STATEMENT", "decided_at": now.isoformat(), "mail": mail.as_record()})
    return mail.message_id


def read_receipts(records: Records, notice_id: str) -> dict[str, Receipt]:
    """Return the receipts of a notice by recipient, without those of `copies`. Returns {} if there is no notice with this id."""
    found = records.get("notices", _key(notice_id))
    if found is None:
        return {}
    mail = found[0]["mail"]
    return {
        recipient: receipt(records, mail["message_id"], recipient)
        for recipient in mail["recipients"]
        if recipient not in mail.get("copies", ())
    }


def _key(notice_id: str) -> str:
    return f"archive.{notice_id}"
