"""Mails that were decided and who has them: at least once, the same Message-ID every time, never none.

Put here the bookkeeping between a decision and its delivery. Talking to a mail server (`smtp.py`) does not belong here.

A record of kind "alerts", "digests" or "notices" that holds a `mail` is the decision and its mail in one: made with
create-if-absent, it is the commit. What happened to the mail is one record of kind "outbox" per mail and recipient;
without one, the recipient is still waiting. A crash anywhere therefore leaves a mail that goes out at the next run.
"""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime, timedelta
from email.errors import MessageError
from pathlib import Path
from typing import Any, Literal, NamedTuple

from runspend.actions.alert.digest import write_digests
from runspend.actions.alert.freshness import RecordStore, figures_are_this_old
from runspend.actions.alert.message import Mail, address_of, as_bytes, sender_host
from runspend.actions.alert.smtp import Backend, Outcome, open_backend
from runspend.actions.alert.webhook import WEBHOOK, Webhook
from runspend.config.recipients import find_recipients, mailed_addresses, mailed_domains
from runspend.config.settings import Settings
from runspend.core.errors import RecordRefused
from runspend.core.own_files import open_lock
from runspend.warehouse.parquet.journal import crash_point
from runspend.warehouse.parquet.lock_holders import lock_in_time

__all__ = ["Delivery", "Receipt", "RecordStore", "State", "Unrecorded", "receipt", "recipient_states", "send_outbox", "set_outcome"]

MAIL_KINDS = ("alerts", "digests", "notices")
# A recipient with more budget mails waiting than this gets one mail that lists them all.
DIGEST_ABOVE = 5
# A refusal that may be policy or greylisting, and a 4xx, are tried again as long as a mail server would keep a mail (RFC 5321 4.5.4.1: 4 to 5 days).
REFUSED_FOR = timedelta(days=4)
NOT_TRIED: Mapping[str, Any] = {"attempts": 0}
UNKNOWN_DOMAIN = "its domain is in no address of runspend.yaml, or is a public mail host's and runspend.yaml does not name the address: no mail is sent there"
OUTBOX_WAIT = 1800.0  # seconds for another process that sends; mail that waits goes out with the next run
TRIED_TOGETHER = 2  # times that a mail goes to all its recipients in one transaction

State = Literal["accepted", "refused", "waiting", "skipped"]


@dataclass(frozen=True)
class Delivery:
    """What happened to one mail for one recipient."""

    mail: Mail
    recipient: str
    outcome: Outcome

    @property
    def failure(self) -> str | None:
        """What kept the mail from its recipient, in words; None if it was accepted or left out."""
        if self.outcome.state not in ("refused", "waiting"):
            return None
        return f"{self.mail.subject} to {self.recipient}: {self.outcome.state}, {self.outcome.reply}"


@dataclass(frozen=True)
class Receipt:
    """What is known of one mail and one recipient. `accepted` by `backend` smtp is a mail server's word; by file, a file's."""

    state: State
    at: datetime | None = None  # of the last try; None before the first
    backend: str = ""
    reply: str = ""

    @property
    def accepted_at(self) -> datetime | None:
        """Since when a mail server answers for the mail; None if none does."""
        return self.at if self.state == "accepted" and self.backend == "smtp" else None


class Unrecorded(OSError):
    """A mail was sent, and the disk could not take down what became of it: the next run sends it again. `tried`: it and those before it."""

    def __init__(self, error: OSError, tried: list[Delivery]) -> None:
        super().__init__(error.errno, error.strerror, error.filename)
        self.tried = tried


class Waiting(NamedTuple):
    """A mail, who waits for it, and the record of the alert it tells of, where it is a budget's."""

    mail: Mail
    recipients: list[str]
    alert: Mapping[str, Any] | None
    attempts: int


def send_outbox(settings: Settings, records: RecordStore, now: datetime) -> list[Delivery]:
    """Send every mail that a recipient still waits for, or was refused lately and not for good; record what happened, return what was tried.

    Two senders at once wait for each other, so neither sends what the other just did. A record that cannot be believed keeps its own
    mail alone: the others are sent, then RecordRefused is raised. Raises Unrecorded where a mail was sent and the disk keeps no record of it.
    """
    with _one_at_a_time(settings.home):
        refused = list[RecordRefused]()
        waiting = _find_waiting(settings, records, now, refused)
        if _make_digests(settings, records, now, waiting):
            waiting = _find_waiting(settings, records, now, refused)
        tried, webhook = [], Webhook(settings.mail.webhook)
        with open_backend(settings.mail, settings.home) as backend:
            taken_last = _taken_last(records, now) if waiting else ""
            for mail, recipients, _, attempts in waiting:
                for channel, outcomes in _deliver(settings, backend, webhook, mail, recipients, attempts):
                    crash_point("outbox.sent")
                    tried += [Delivery(mail, recipient, outcome) for recipient, outcome in outcomes.items()]
                    for recipient, outcome in outcomes.items():
                        try:
                            set_outcome(records, mail, recipient, outcome, now, channel, taken_last)
                        except OSError as error:
                            raise Unrecorded(error, tried) from error
                        crash_point("outbox.recorded")
        if refused:
            raise refused[0]
        return tried


def recipient_states(records: RecordStore) -> dict[tuple[str, str], State]:
    """(Message-ID, recipient) -> accepted, refused, skipped or waiting; a mail inside a digest has the digest's state."""
    states = {(r["message_id"], r["recipient"]): r["state"] for r in records.list("outbox").values()}
    for member, digest_id in _digested(records).items():
        states[member] = states.get((digest_id, member[1]), "waiting")
    return states


def receipt(records: RecordStore, message_id: str, recipient: str) -> Receipt:
    """What became of a mail for one recipient; waiting where nobody tried yet."""
    found = records.get("outbox", _outbox_key(message_id, recipient))
    if found is None:
        return Receipt("waiting")
    value = found[0]
    return Receipt(value["state"], datetime.fromisoformat(value["at"]), value.get("backend", ""), value["reply"])


def set_outcome(records: RecordStore, mail: Mail, recipient: str, outcome: Outcome, now: datetime, backend: str, taken_last: str = "") -> None:
    """Record what happened; an accepted mail stays accepted whatever another sender says later.

    `retried_until` is there while a refusal is not for good: counted from the first one. `put_off_since` is there while a recipient is put
    off; after as long it is refused, if the server took another mail since (`taken_last`): else the trouble is the server's, and it waits.
    """
    key = _outbox_key(mail.message_id, recipient)
    value = {
        "message_id": mail.message_id, "recipient": recipient, "kind": mail.kind, "subject": mail.subject, "state": outcome.state,
        "reply": outcome.reply, "at": now.isoformat(), "backend": backend, "attempts": int(outcome.was_tried),
    }  # fmt: skip
    may_change = outcome.state == "waiting" or (outcome.state == "refused" and not outcome.is_final)
    if may_change and outcome.state == "refused":
        value["retried_until"] = (now + REFUSED_FOR).isoformat()
    if outcome.is_put_off:
        value["put_off_since"] = now.isoformat()
    while not records.create("outbox", key, value):
        found = records.get("outbox", key)
        if found is None:
            continue
        before, token = found
        if "retried_until" in before and may_change:
            value["retried_until"] = before["retried_until"]
        if "put_off_since" in before and outcome.state == "waiting":
            value["put_off_since"] = since = before["put_off_since"]
            if outcome.is_put_off and since <= (now - REFUSED_FOR).isoformat() and since < taken_last:
                value["state"] = "refused"
        if before["state"] in ("accepted", "skipped") or records.replace(
            "outbox", key, {**value, "attempts": before["attempts"] + value["attempts"]}, token
        ):
            return


def _taken_last(records: RecordStore, now: datetime) -> str:
    """When, before this run, a mail server last took a mail; "" for never."""
    smtp = [r["at"] for r in records.list("outbox", []).values() if r["state"] == "accepted" and r.get("backend") == "smtp"]
    return max((at for at in smtp if at < now.isoformat()), default="")


def _find_waiting(settings: Settings, records: RecordStore, now: datetime, refused: list[RecordRefused]) -> list[Waiting]:
    """Every mail with the recipients that still wait for it: those tried least first, then the oldest decision.

    So a mail, or a recipient, that a server chokes on cannot keep others waiting. A webhook is one more recipient of what is decided
    after it was configured. What cannot be believed is in `refused`.
    """
    tries = {(r["message_id"], r["recipient"]): r for r in records.list("outbox", refused).values()}
    settled = {key for key, r in tries.items() if r["state"] != "waiting" and r.get("retried_until", "") <= now.isoformat()} | set(_digested(records, refused))
    asked_since = _webhook_since(settings, records, now)
    found = []
    for kind in MAIL_KINDS:
        for key, value in records.list(kind, refused).items():
            if not value.get("mail"):
                continue
            mail = Mail.from_record(value["mail"])
            is_posted = asked_since is not None and value["decided_at"] >= asked_since and _is_for_webhook(settings, kind, mail)
            own = tuple(r for r in mail.recipients if r != WEBHOOK or kind == "digests")
            tried = {r: tries.get((mail.message_id, r), NOT_TRIED)["attempts"] for r in (*own, *([WEBHOOK] if is_posted else [])) if (mail.message_id, r) not in settled}
            if refused:
                tried = {r: times for r, times in tried.items() if times or _is_untried(records, mail.message_id, r)}
            if tried:
                attempts = max(tried.values())
                found.append(((attempts, value["decided_at"], key), Waiting(mail, sorted(tried, key=tried.__getitem__), value if kind == "alerts" else None, attempts)))
    return [waiting for _, waiting in sorted(found, key=lambda item: item[0])]


def _deliver(
    settings: Settings, backend: Backend, webhook: Webhook, mail: Mail, recipients: Sequence[str], attempts: int
) -> Iterator[tuple[str, dict[str, Outcome]]]:
    """By channel one outcome for each recipient, whatever the other side is. What a mail server took is told before a webhook is asked.

    The first tries are one transaction. After them each address has its own: a server that hangs up at one of them does so on that one alone.
    """
    addressed = [r for r in recipients if r != WEBHOOK]
    by_address = defaultdict[str | None, list[str]](list)
    for recipient in addressed:
        by_address[address_of(recipient)].append(recipient)
    for together in list(by_address.values()) if attempts >= TRIED_TOGETHER else [addressed] if addressed else []:
        yield settings.mail.backend, _mail_to(settings, backend, mail, together)
    if WEBHOOK in recipients:
        yield WEBHOOK, {WEBHOOK: webhook.post(mail)}


def _mail_to(settings: Settings, backend: Backend, mail: Mail, recipients: Sequence[str]) -> dict[str, Outcome]:
    """By recipient what became of the mail. It leaves only for domains that runspend.yaml names, whoever wrote the record of the mail."""
    domains = mailed_domains(settings)
    addresses = {r: address for r in recipients if (address := address_of(r))}
    allowed_addresses = mailed_addresses(settings, addresses.values())
    reachable = {r: address for r, address in addresses.items() if address in allowed_addresses}
    if sender_host(mail.sender).casefold() not in domains | {sender_host(settings.mail.from_).casefold()}:
        return dict.fromkeys(recipients, Outcome("refused", f"its sender is {mail.sender!r}, and mail.from of runspend.yaml is of another domain"))
    outcomes = {r: Outcome("refused", UNKNOWN_DOMAIN if r in addresses else "not an address that mail can be sent to") for r in recipients if r not in reachable}
    if mail.list_id.startswith("Runspend archive "):  # to owners that data names; a notice may have been written under other settings
        allowed = find_recipients(settings)
        outcomes |= {r: Outcome("refused", f"not sent: it is not in an allowed domain ({allowed.listed})") for r in reachable if not allowed.may_receive(r)}
        reachable = {r: address for r, address in reachable.items() if r not in outcomes}
    try:
        as_bytes(mail)
    except (ValueError, MessageError) as error:  # such a mail must not keep those behind it; its refusal is told to operators
        return outcomes | dict.fromkeys(reachable, Outcome("refused", f"the mail cannot be written: {error}"))
    if reachable:
        by_address = backend.deliver(mail, sorted(set(reachable.values())))
        outcomes |= {r: by_address[address] for r, address in reachable.items()}
    return outcomes


def _is_for_webhook(settings: Settings, kind: str, mail: Mail) -> bool:
    about = settings.mail.webhook.about if settings.mail.webhook else ()
    return ("budgets" in about and kind == "alerts") or ("operators" in about and mail.list_id.startswith("Runspend operators "))


def _webhook_since(settings: Settings, records: RecordStore, now: datetime) -> str | None:
    """Since when a webhook is asked for, this time: what was decided before is not posted. None without one."""
    wanted = None if settings.mail.webhook is None else now.isoformat()
    if (found := records.get("webhooks", "since")) is None:
        if wanted is not None:
            records.create("webhooks", "since", {"since": wanted})
    elif (found[0]["since"] is None) != (wanted is None):
        records.replace("webhooks", "since", {"since": wanted}, found[1])
    else:
        return found[0]["since"] and str(found[0]["since"])
    return wanted


def _outbox_key(message_id: str, recipient: str) -> str:
    return hashlib.sha256(f"{message_id} {recipient}".encode()).hexdigest()[:40]


def _is_untried(records: RecordStore, message_id: str, recipient: str) -> bool:
    """Whether nothing is recorded of a mail and recipient: where the record cannot be believed, the mail may have been sent."""
    try:
        return records.get("outbox", _outbox_key(message_id, recipient)) is None
    except RecordRefused:
        return False


def _digested(records: RecordStore, refused: list[RecordRefused] | None = None) -> dict[tuple[str, str], str]:
    """(Message-ID, recipient) -> Message-ID of the digest that stands for it."""
    return {(member, d["recipient"]): d["mail"]["message_id"] for d in records.list("digests", refused).values() for member in d["members"]}


def _make_digests(settings: Settings, records: RecordStore, now: datetime, waiting: Sequence[Waiting]) -> bool:
    """Put a recipient's many budget mails into few; whether there were any."""
    by_recipient: dict[str, list[Mapping[str, Any]]] = defaultdict(list)
    for _, recipients, alert, _ in waiting:
        if alert is not None:
            for recipient in recipients:
                by_recipient[recipient].append(alert)
    many = {recipient: alerts for recipient, alerts in sorted(by_recipient.items()) if len(alerts) > DIGEST_ABOVE}
    for recipient, alerts in many.items():
        for mail, listed in write_digests(settings, recipient, alerts, now, figures_are_this_old(records, now)):
            members = [alert["mail"]["message_id"] for alert in listed]
            records.create(
                "digests", mail.message_id.strip("<>"),
                {"recipient": recipient, "members": members, "decided_at": now.isoformat(), "mail": mail.as_record()},
            )  # fmt: skip
    return bool(many)


@contextmanager
def _one_at_a_time(home: Path) -> Iterator[None]:
    folder = home / "mail"
    folder.mkdir(parents=True, exist_ok=True)
    with open_lock(folder / ".lock") as lock:  # released by the kernel when the process dies
        lock_in_time(lock.fileno(), folder / ".lock", "send mail", OUTBOX_WAIT)
        yield
