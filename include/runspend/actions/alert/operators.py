"""Send mail to `mail.operators` about Runspend itself, such as refused or stale data and failed steps. One mail per cause and date.

Belongs here: functions that any failure handler can call with settings and records, without the warehouse. Budget mails do not belong here.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Literal

from runspend.actions.alert.freshness import Stale, figures_are_this_old
from runspend.actions.alert.message import Mail
from runspend.actions.alert.outbox import DIGEST_ABOVE, REFUSED_FOR, Delivery, Unrecorded, send_outbox
from runspend.actions.alert.render import Block, Button, Card, Envelope, Facts, Paragraph, make_mail
from runspend.actions.alert.smtp import open_backend
from runspend.config.settings import Settings
from runspend.config.types import address_of, is_channel
from runspend.core.machine_faults import machine_failed
from runspend.core.text import clean, short_place, short_places
from runspend.warehouse.records import Records

NoticeKind = Literal[
    "REFUSED",
    "UNREACHABLE",
    "CHECK FAILED",
    "DAG FAILED",
    "STALE",
    "NOT JUDGED",
    "NO WAREHOUSE",
    "DAMAGED",
    "MACHINE FAILED",
    "NOT ARCHIVED",
    "NOT ANNOTATED",
    "NOT PUBLISHED",
    "TEST",
]
LIST_NAME = "operators"
TRIES_TOLD = 5  # a deferred recipient is reported after this many attempts; in Airflow, they take more than a day
MOST_LINES = 50  # limit for the details of one mail


@dataclass(frozen=True)
class Advice:
    """What still works, what people can do (a phrase and a command or address), and when Runspend tries again."""

    still_works: str = "All other steps of the pipeline run continued. The last good data stay in place."
    do: Sequence[tuple[str, str]] = (("Check the status", "runspend status"),)
    next_try: str = "Runspend tries again in the next pipeline run."
    subject: str | None = None  # a short phrase; by default the first sentence of the headline
    figures: Sequence[tuple[str, str, str]] = ()  # (name, value, note)


@dataclass(frozen=True)
class Head:
    """The beginning of a mail: its subject, its first sentences, and its main figures as (name, value, note)."""

    subject: str
    headline: str
    figures: tuple[tuple[str, str, str], ...] = ()


def notify(
    settings: Settings,
    records: Records,
    kind: NoticeKind,
    key: str,
    now: datetime,
    headline: str,
    *,
    details: Sequence[str] = (),
    advice: Advice = Advice(),
) -> list[Delivery]:
    """Record and send the mail "[runspend] KIND: subject", whose text begins with the headline. Return its deliveries.

    `key` names the cause: for example a source and period, a check, or a DAG. A second call with the same kind and key on the same date sends
    nothing. Returns [] in that case, and if neither operators nor a channel for them is configured. Other waiting mail is sent at the same
    time, so the result can include its deliveries.
    """
    if not settings.mail.operators and not settings.mail.operator_channels:
        return []
    local_id = _notice_id(kind, key, f"{now:%Y-%m-%d}")
    ending = f"{clean(advice.next_try, 200)} Sent once per cause and day ({now:%Y-%m-%d %H:%M} UTC)."
    blocks = [*_found(details), *_help(advice.still_works, advice.do)]
    head = Head(short_places(advice.subject or first_sentence(headline)), headline, tuple(advice.figures))
    try:
        old = figures_are_this_old(records, now)
        mail = _write(settings, kind, local_id, now, head, [*blocks, *([old] if old else []), Paragraph(ending)])
        is_new = records.create("notices", local_id, {"kind": kind, "key": key, "decided_at": now.isoformat(), "mail": mail.as_record()})
        return send_outbox(settings, records, now) if is_new else []
    except OSError as error:
        failed = machine_failed(error, "note that this mail was sent")
        if failed is None:
            raise
        if isinstance(error, Unrecorded) and any(
            d.mail.message_id.startswith(f"<{local_id}@") and d.outcome.state == "accepted" for d in error.tried
        ):
            return error.tried  # the mail was sent; only its record is missing
        again = f"You may get this mail again for the same cause: Runspend {failed}"
        return _send_directly(settings, _write(settings, kind, local_id, now, head, [*blocks, Paragraph(clean(again, 600))]))


def _send_directly(settings: Settings, mail: Mail) -> list[Delivery]:
    """Send a mail by SMTP without records, because the disk cannot be written. Other backends need the disk, so they send nothing."""
    if settings.mail.backend != "smtp":
        return []
    reachable = {recipient: address for recipient in mail.recipients if (address := address_of(recipient))}
    with open_backend(settings.mail, settings.home) as backend:
        answers = backend.deliver(mail, sorted(set(reachable.values())))
    return [Delivery(mail, recipient, answers[address]) for recipient, address in reachable.items()]


def tell_refused(settings: Settings, records: Records, now: datetime) -> list[Delivery]:
    """Report to operators every recipient that a mail server refused or keeps deferring. Return all deliveries of this call.

    Each mail and recipient is reported once, and once more when Runspend gives up on a deferred recipient. More than DIGEST_ABOVE reports
    at once become one mail, because people who tag experiments can name thousands of recipients.

    The reports are made from the records. So a refusal is reported even if the process that recorded it was killed. If a mail to operators
    was refused, its recipient is reported only once, and only to the other operators. Otherwise every report would cause another one.
    """
    found = list(_find_refused(settings, records, now))
    written = (
        [_write_refused(settings, now, found)]
        if len(found) > DIGEST_ABOVE
        else [(_write_one_refused(settings, now, one), [one]) for one in found]
    )
    for mail, members in written:
        value = {"kind": "REFUSED", "decided_at": now.isoformat(), "mail": mail.as_record(), "members": [one.local_id for one in members]}
        records.create("notices", mail.message_id.strip("<>").rpartition("@")[0], value)
    return send_outbox(settings, records, now) if found else []


@dataclass(frozen=True)
class _Refused:
    """A mail that did not reach a recipient, and the operators to notify."""

    local_id: str
    subject: str
    message_id: str
    headline: str
    phrase: str
    then: str
    to: tuple[str, ...]
    is_channel: bool


def _find_refused(settings: Settings, records: Records, now: datetime) -> Iterator[_Refused]:
    notices, operators = records.list("notices"), settings.mail.operators
    reported = {*notices, *(member for value in notices.values() for member in value.get("members", ()))}
    for value in records.list("outbox").values():
        is_ours, since = value["message_id"].startswith(f"<{LIST_NAME}."), value.get("put_off_since", "")
        is_put_off = value["state"] == "waiting" and value["attempts"] >= TRIES_TOLD
        is_given_up = value["state"] == "refused" and since != ""
        key = value["recipient"] if is_ours else f"{value['message_id']} {value['recipient']}"
        local_id = _notice_id("REFUSED", key, "given-up" if is_given_up else "once")
        others = [r for r in operators if r != value["recipient"]] if is_ours else operators
        is_heard = others or any(r != value["recipient"] for r in settings.mail.operator_channels)
        if not (value["state"] == "refused" or is_put_off) or "subject" not in value or local_id in reported or not is_heard:
            continue
        times, retried_until = f"was deferred {value['attempts']} times", value.get("retried_until", "")
        if is_given_up:
            what, then = f"{times} since {since[:10]}, and Runspend gave up", NOT_SENT_AGAIN
        elif is_put_off:
            what, then = times, f"Runspend tries again{f' for up to {REFUSED_FOR.days} days' if since else ''}"
        else:
            what, then = (
                "was refused",
                f"Runspend tries again until {retried_until[:10]}" if retried_until > now.isoformat() else NOT_SENT_AGAIN,
            )
        sent = "post" if is_channel(value["recipient"]) else "mail"
        headline = f"a {sent} to {value['recipient']} {what}: {value['reply']}"
        phrase = (
            f"{sent} to {value['recipient']} {'given up' if is_given_up else 'deferred' if is_put_off else 'refused'}: {value['reply']}"
        )
        yield _Refused(local_id, value["subject"], value["message_id"], headline, phrase, then, tuple(others), sent == "post")


def _write_one_refused(settings: Settings, now: datetime, one: _Refused) -> Mail:
    blocks: list[Block] = [
        *_found([f"Subject: {one.subject}", f"Message-ID: {one.message_id}"]),
        *_help(
            STILL_REFUSED, [(f"Correct the {'channel' if one.is_channel else 'address'}", f"in {_file(settings)}"), ("Delivery", one.then)]
        ),
        Paragraph(f"This mail is sent once for each {'post and channel' if one.is_channel else 'mail and recipient'}."),
    ]
    return _write(settings, "REFUSED", one.local_id, now, Head(one.phrase, one.headline), blocks, one.to)


def _write_refused(settings: Settings, now: datetime, found: Sequence[_Refused]) -> tuple[Mail, Sequence[_Refused]]:
    local_id = _notice_id("REFUSED", "\n".join(one.local_id for one in found), "many")
    blocks: list[Block] = [
        *_found([f"{one.headline}; {one.then}" for one in found]),
        *_help(STILL_REFUSED, [("Correct the addresses", f"in {_file(settings)}, or in the owner tag of experiments"), ("List them all", "see the recipients column of the alerts table")]),
        Paragraph("Sent once per mail and recipient."),
    ]  # fmt: skip
    to = [r for r in settings.mail.operators if all(r in one.to for one in found)] or settings.mail.operators
    headline = f"{len(found)} mails were refused or deferred. First: {found[0].headline}"
    head = Head(f"{len(found)} mails not delivered", headline, (("mails", f"{len(found)}", "not delivered"),))
    return _write(settings, "REFUSED", local_id, now, head, blocks, to), found


def tell_stale(settings: Settings, records: Records, stale: Sequence[Stale], now: datetime) -> list[Delivery]:
    """Send one mail about everything that is stale now. A second mail on the same date is sent only if the stale sources or steps change."""
    untold = [one for one in stale if records.get("notices", _notice_id("STALE", f"{one.name}/all", f"{now:%Y-%m-%d}")) is None]
    if not untold:
        return []
    if len(untold) == 1:
        [one] = untold
        advice = Advice(still_works=STILL_STALE, do=DO_STALE, subject=one.phrase, figures=one.figures)
        return notify(settings, records, "STALE", f"{one.name}/all", now, one.text, advice=advice)
    names = ", ".join(short_place(one.name) for one in untold)
    headline = f"{len(untold)} sources or steps are late: {names}"
    key = f"stale: {', '.join(one.name for one in untold)}"
    return notify(
        settings,
        records,
        "STALE",
        key,
        now,
        headline,
        details=[one.text for one in untold],
        advice=Advice(still_works=STILL_STALE, do=DO_STALE, figures=(("late", f"{len(untold)}", "sources and steps"),)),
    )


NOT_SENT_AGAIN = "Runspend does not send it again"
STILL_REFUSED = "Other recipients are not affected. The alerts table has all alerts."
STILL_STALE = "Runspend keeps the last good data and judges budgets by it. Alerts may be late, because newer costs are missing."
DO_STALE = (
    ("Check the status", "runspend status"),
    ("Check the schedule", "the DAGs in Airflow, or cron"),
    ("Run it now", "runspend nightly"),
)


def _notice_id(kind: str, key: str, when: str) -> str:
    cause = hashlib.sha256(key.encode("utf-8", "surrogatepass")).hexdigest()[:16]
    return f"{LIST_NAME}.{kind.replace(' ', '-')}.{cause}.{when}"


def _write(
    settings: Settings, kind: NoticeKind, local_id: str, now: datetime, head: Head, blocks: Sequence[Block], to: Sequence[str] = ()
) -> Mail:
    site = settings.site.url.rstrip("/") if settings.site else None
    button = [Button("See how fresh the bills are", f"{site}/#bills")] if site else []
    card = [Card(head.figures)] if head.figures else []
    return make_mail(
        Envelope(settings.mail.from_, LIST_NAME, kind.lower().replace(" ", "-")),
        local_id=local_id,
        recipients=to or settings.mail.operators,
        subject=f"[runspend] {kind}: {head.subject}",
        blocks=[*card, Paragraph(f"{kind}: {clean(head.headline, 400)}"), *button, *blocks],
        now=now,
    )


def first_sentence(text: str) -> str:
    """Return a text up to its first full stop or semicolon with a space after it."""
    return re.split(r"[.;] ", text, maxsplit=1)[0].removesuffix(".")


def _file(settings: Settings) -> str:
    return settings.path.name if settings.path else "runspend.yaml"


def _found(details: Sequence[str]) -> list[Block]:
    shown = [*details[:MOST_LINES], *([f"and {len(details) - MOST_LINES} more"] if len(details) > MOST_LINES else [])]
    return [Facts("DETAILS", tuple(("", clean(line, 400)) for line in shown))] if details else []


def _help(still_works: str, do: Sequence[tuple[str, str]]) -> list[Block]:
    steps = tuple((clean(name, 30), clean(value, 400)) for name, value in do)
    return [Facts("IMPACT", (("", clean(still_works, 400)),)), Facts("NEXT STEPS", steps)]
