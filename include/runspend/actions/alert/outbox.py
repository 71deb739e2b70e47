"""Send each recorded mail at least once, always with the same Message-ID, and record its deliveries.

Belongs here: the records between a decision and its delivery. `smtp.py` sends to mail servers, `channels.py` to chats and pagers.

A record of kind "alerts", "digests" or "notices" that holds a `mail` is both the decision and its mail. It is created only if it does not
exist yet, and creating it is the commit. The result of a mail is one record of kind "outbox" per mail and recipient. While that record
does not exist, the recipient is still waiting. After a crash at any point, the next pipeline run therefore sends the mail.
"""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from email.errors import MessageError
from operator import attrgetter
from pathlib import Path
from typing import Any, Literal, NamedTuple

from runspend.actions.alert.channels import Channels, is_exceeded, post_of, takes_back
from runspend.actions.alert.digest import record_digest, write_digests
from runspend.actions.alert.freshness import figures_are_this_old
from runspend.actions.alert.message import Mail, as_bytes, sender_host
from runspend.actions.alert.posting import Post
from runspend.actions.alert.smtp import Backend, SendResult, open_backend
from runspend.config.mail import WEBHOOK
from runspend.config.recipients import find_recipients, mailed_addresses, mailed_domains
from runspend.config.settings import Settings
from runspend.config.types import address_of, is_channel
from runspend.core.crash_points import crash_point
from runspend.core.errors import RecordRefused
from runspend.core.lock_holders import lock_in_time
from runspend.core.own_files import open_lock
from runspend.warehouse.records import Records

MAIL_KINDS = ("alerts", "digests", "notices")
# A recipient with more budget mails waiting than this gets one mail that lists them all.
DIGEST_ABOVE = 5
# How long Runspend retries after a 4xx reply, or after a refusal that a policy or greylisting may have caused. Mail servers retry for the
# same time: RFC 5321, section 4.5.4.1, recommends 4 to 5 days.
REFUSED_FOR = timedelta(days=4)
NOT_TRIED: Mapping[str, Any] = {"attempts": 0}
UNKNOWN_DOMAIN = "runspend.yaml has no address of its domain, or the domain is a public mail host and runspend.yaml does not have this address. Nothing was sent"
OUTBOX_WAIT = 1800.0  # seconds to wait for another sending process. After that, the next pipeline run sends the waiting mail
TRIED_TOGETHER = 2  # the first attempts send a mail to all its recipients in one transaction

State = Literal["accepted", "refused", "waiting", "skipped"]


@dataclass(frozen=True)
class Delivery:
    """The result of one mail for one recipient."""

    mail: Mail
    recipient: str
    outcome: SendResult

    @property
    def failure(self) -> str | None:
        """The reason why the mail did not reach its recipient. None if it was accepted or skipped."""
        if self.outcome.state not in ("refused", "waiting"):
            return None
        return f"{self.mail.subject} to {self.recipient}: {self.outcome.state}, {self.outcome.reply}"


def last_results(deliveries: Sequence[Delivery]) -> list[Delivery]:
    """Return the last attempt for each mail and recipient. One step may try a mail several times, because each sending retries waiting mail."""
    return list({(d.mail.message_id, d.recipient): d for d in deliveries}.values())


@dataclass(frozen=True)
class Receipt:
    """The recorded result of one mail for one recipient.

    With `backend` smtp, `accepted` means that a mail server accepted the mail. With file, it means that the file was written.
    """

    state: State
    at: datetime | None = None  # time of the last attempt; None before the first
    backend: str = ""
    reply: str = ""

    @property
    def accepted_at(self) -> datetime | None:
        """The time when a mail server accepted the mail. None if no server did."""
        return self.at if self.state == "accepted" and self.backend == "smtp" else None


class Unrecorded(OSError):
    """A mail was sent, but its result could not be written to disk. The next pipeline run sends the mail again.

    `tried` holds the attempts for this mail and for all mails sent before it.
    """

    def __init__(self, error: OSError, tried: list[Delivery]) -> None:
        super().__init__(error.errno, error.strerror, error.filename)
        self.tried = tried


class Waiting(NamedTuple):
    """A mail, also as a post for chats, and the recipients waiting for it. `alert` is the alert's record, or None if it is not a budget mail."""

    post: Post
    recipients: list[str]
    alert: Mapping[str, Any] | None
    attempts: int
    order: tuple[int, str, str]  # attempts, time of the decision, key of its record


def send_outbox(settings: Settings, records: Records, now: datetime) -> list[Delivery]:
    """Send every mail for which a recipient is still waiting, record the results, and return all attempts.

    Recent refusals that are not final are retried. A second sending process waits for the first, so it does not repeat the same mails. A
    record that cannot be trusted blocks only its own mail: all other mails are sent, and then RecordRefused is raised. Raises Unrecorded
    if a mail was sent but its result could not be written to disk.
    """
    with _one_at_a_time(settings.home):
        refused = list[RecordRefused]()
        waiting = _find_waiting(settings, records, now, refused)
        if _make_digests(settings, records, now, waiting):
            waiting = _find_waiting(settings, records, now, refused)
        tried, channels = [], Channels(settings.mail, now, _asked_to_wait(records) if waiting else None)
        with open_backend(settings.mail, settings.home) as backend:
            taken_last = _taken_last(records, now) if waiting else ""
            for one in waiting:
                for way, outcomes in _deliver(settings, backend, channels, one.post, one.recipients, one.attempts):
                    crash_point("outbox.sent")
                    tried += [Delivery(one.post.mail, recipient, outcome) for recipient, outcome in outcomes.items()]
                    for recipient, outcome in outcomes.items():
                        try:
                            set_outcome(records, one.post.mail, recipient, outcome, now, way, taken_last)
                        except OSError as error:
                            raise Unrecorded(error, tried) from error
                        crash_point("outbox.recorded")
        if refused:
            raise refused[0]
        return tried


def recipient_states(records: Records) -> dict[tuple[str, str], State]:
    """Map (Message-ID, recipient) to accepted, refused, skipped or waiting. A mail inside a digest has the digest's state."""
    states = {(r["message_id"], r["recipient"]): r["state"] for r in records.list("outbox").values()}
    for member, digest_id in _digested(records).items():
        states[member] = states.get((digest_id, member[1]), "waiting")
    return states


def receipt(records: Records, message_id: str, recipient: str) -> Receipt:
    """Return the result of a mail for one recipient: waiting if there was no attempt yet."""
    found = records.get("outbox", _outbox_key(message_id, recipient))
    if found is None:
        return Receipt("waiting")
    value = found[0]
    return Receipt(value["state"], datetime.fromisoformat(value["at"]), value.get("backend", ""), value["reply"])


def set_outcome(
    records: Records, mail: Mail, recipient: str, outcome: SendResult, now: datetime, backend: str, taken_last: str = ""
) -> None:
    """Record the result of an attempt. An accepted mail stays accepted, even if another process later records a different result.

    `retried_until` is set while a refusal is not final: REFUSED_FOR after the first refusal. `put_off_since` is the time since which the
    server has deferred the recipient (4xx). After REFUSED_FOR, a deferred recipient counts as refused if the server has accepted another
    mail since then (`taken_last`). Otherwise the server is the cause, and the mail keeps waiting.
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
    if outcome.wait is not None:
        value["not_before"] = (now + outcome.wait).isoformat()
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


def _taken_last(records: Records, now: datetime) -> str:
    """Return when a mail server last accepted a mail before this pipeline run, as ISO time. "" if it never did."""
    smtp = [r["at"] for r in records.list("outbox", []).values() if r["state"] == "accepted" and r.get("backend") == "smtp"]
    return max((at for at in smtp if at < now.isoformat()), default="")


def _find_waiting(settings: Settings, records: Records, now: datetime, refused: list[RecordRefused]) -> list[Waiting]:
    """Return the mails that still have waiting recipients: fewest attempts first, then oldest decision.

    With this order, a mail or recipient that a server cannot handle does not block the others. Chats and pagers are recipients too, but
    only of decisions made after they were configured. Records that cannot be trusted are added to `refused`.
    """
    tries = {(r["message_id"], r["recipient"]): r for r in records.list("outbox", refused).values()}
    settled = {key for key, r in tries.items() if r["state"] != "waiting" and r.get("retried_until", "") <= now.isoformat()} | set(
        _digested(records, refused)
    )
    since = _channels_since(settings, records, now)
    kinds = {kind: records.list(kind, refused) for kind in MAIL_KINDS}
    alerts = kinds["alerts"]
    leads = {covered: key for key, value in alerts.items() if value.get("mail") for covered in (key, *value.get("covers", ()))}
    taken_back = {lead for value in alerts.values() for lead in takes_back(value, leads)}
    found = list[Waiting]()
    for kind, values in kinds.items():
        for key, value in values.items():
            if not value.get("mail"):
                continue
            post = replace(post_of(kind, key, value, leads), is_taken_back=key in taken_back)
            mail = post.mail
            subjects = _subjects(kind, value, mail, [alerts[lead] for lead in post.takes_back])
            channel_recipients = [
                r for r, channel in settings.mail.posts_to.items() if subjects & {*channel.subjects} and since[r] <= value["decided_at"]
            ]
            named_recipients = [r for r in mail.recipients if r != WEBHOOK or kind == "digests"]
            attempts = {
                r: tries.get((mail.message_id, r), NOT_TRIED)["attempts"]
                for r in dict.fromkeys(named_recipients + channel_recipients)
                if (mail.message_id, r) not in settled
            }
            if refused:
                attempts = {r: times for r, times in attempts.items() if times or _is_untried(records, mail.message_id, r)}
            if attempts:
                recipients, most = sorted(attempts, key=attempts.__getitem__), max(attempts.values())
                alert = value if kind == "alerts" else None
                found.append(Waiting(post, recipients, alert, most, (most, value["decided_at"], key)))
    return sorted(found, key=attrgetter("order"))


def _deliver(
    settings: Settings, backend: Backend, channels: Channels, post: Post, recipients: Sequence[str], attempts: int
) -> Iterator[tuple[str, dict[str, SendResult]]]:
    """Yield the outcome of each recipient, with the mail backend or the kind of channel that was used.

    Mail is sent first, so the caller records its outcomes before any chat or pager is called. In the first TRIED_TOGETHER attempts, all
    addresses share one transaction. Later each address has its own, so a server that disconnects at one address affects only that one.
    """
    addressed = [r for r in recipients if not is_channel(r)]
    by_address = defaultdict[str | None, list[str]](list)
    for recipient in addressed:
        by_address[address_of(recipient)].append(recipient)
    for together in list(by_address.values()) if attempts >= TRIED_TOGETHER else [addressed] if addressed else []:
        yield settings.mail.backend, _mail_to(settings, backend, post.mail, together)
    for recipient in recipients:
        if is_channel(recipient):
            known = settings.mail.posts_to.get(recipient)
            yield known.kind if known else WEBHOOK, {recipient: channels.post(recipient, post)}


def _mail_to(settings: Settings, backend: Backend, mail: Mail, recipients: Sequence[str]) -> dict[str, SendResult]:
    """Send the mail and return one outcome per recipient.

    Mail is sent only to domains that runspend.yaml names, even if someone else wrote the record of the mail.
    """
    domains = mailed_domains(settings)
    addresses = {r: address for r in recipients if (address := address_of(r))}
    allowed_addresses = mailed_addresses(settings, addresses.values())
    reachable = {r: address for r, address in addresses.items() if address in allowed_addresses}
    if sender_host(mail.sender).casefold() not in domains | {sender_host(settings.mail.from_).casefold()}:
        return dict.fromkeys(
            recipients, SendResult("refused", f"its sender is {mail.sender!r}, but mail.from in runspend.yaml has another domain")
        )
    outcomes = {
        r: SendResult("refused", UNKNOWN_DOMAIN if r in addresses else "this is not a valid mail address")
        for r in recipients
        if r not in reachable
    }
    if mail.list_id.startswith("Runspend archive "):  # owners come from MLflow data, and the settings may have changed since the notice
        allowed = find_recipients(settings)
        outcomes |= {
            r: SendResult("refused", f"not sent: it is not in an allowed domain ({allowed.listed})")
            for r in reachable
            if not allowed.may_receive(r)
        }
        reachable = {r: address for r, address in reachable.items() if r not in outcomes}
    try:
        as_bytes(mail)
    except (ValueError, MessageError) as error:  # such a mail must not block the next ones; operators get a mail about its refusal
        return outcomes | dict.fromkeys(reachable, SendResult("refused", f"the mail cannot be written: {error}"))
    if reachable:
        by_address = backend.deliver(mail, sorted(set(reachable.values())))
        outcomes |= {r: by_address[address] for r, address in reachable.items()}
    return outcomes


def _subjects(kind: str, value: Mapping[str, Any], mail: Mail, taken_back: Sequence[Mapping[str, Any]]) -> set[str]:
    """Return the subjects of a mail as a channel's setting names them: "operators", or "budgets" with "exceeded"."""
    if kind != "alerts":
        return {"operators"} if mail.list_id.startswith("Runspend operators ") else set()
    return {"budgets", *(["exceeded"] if any(map(is_exceeded, (value, *taken_back))) else [])}


def _channels_since(settings: Settings, records: Records, now: datetime) -> dict[str, str]:
    """Return the time (ISO) since which each chat or pager has been configured. Earlier decisions are not posted there."""
    known, found = records.list("webhooks"), dict[str, str]()
    wanted = {_since_key(recipient): recipient for recipient in settings.mail.posts_to}
    for key in {**known, **wanted}:
        before = known.get(key, {}).get("since")
        if key in wanted:
            found[wanted[key]] = before or now.isoformat()
        if key not in known:
            records.create("webhooks", key, {"since": now.isoformat()})
        elif (before is None) == (key in wanted) and (record := records.get("webhooks", key)) is not None:
            records.replace("webhooks", key, {"since": now.isoformat() if key in wanted else None}, record[1])
    return found


def _since_key(recipient: str) -> str:
    return "since" if recipient == WEBHOOK else recipient.replace(":", ".")


def _asked_to_wait(records: Records) -> dict[str, str]:
    """Return for each chat and pager that asked for a pause the time (ISO) when the pause ends."""
    found = dict[str, str]()
    for value in records.list("outbox", []).values():
        if "not_before" in value and value["state"] == "waiting":
            found[value["recipient"]] = max(value["not_before"], found.get(value["recipient"], ""))
    return found


def _outbox_key(message_id: str, recipient: str) -> str:
    return hashlib.sha256(f"{message_id} {recipient}".encode()).hexdigest()[:40]


def _is_untried(records: Records, message_id: str, recipient: str) -> bool:
    """Return whether no attempt is recorded for this mail and recipient. False for an untrusted record: the mail may have been sent."""
    try:
        return records.get("outbox", _outbox_key(message_id, recipient)) is None
    except RecordRefused:
        return False


def _digested(records: Records, refused: list[RecordRefused] | None = None) -> dict[tuple[str, str], str]:
    """Map (Message-ID, recipient) to the Message-ID of the digest that replaces the mail."""
    return {(member, d["recipient"]): d["mail"]["message_id"] for d in records.list("digests", refused).values() for member in d["members"]}


def _make_digests(settings: Settings, records: Records, now: datetime, waiting: Sequence[Waiting]) -> bool:
    """Write a digest for each recipient with more than DIGEST_ABOVE waiting budget mails. Return whether there was such a recipient."""
    by_recipient: dict[str, list[Mapping[str, Any]]] = defaultdict(list)
    for one in waiting:
        if one.alert is not None:
            for recipient in one.recipients:
                if recipient not in settings.mail.pagers:  # a pager needs one incident per decision, because each is closed by its own id
                    by_recipient[recipient].append(one.alert)
    many = {recipient: alerts for recipient, alerts in sorted(by_recipient.items()) if len(alerts) > DIGEST_ABOVE}
    for recipient, alerts in many.items():
        for mail, listed in write_digests(settings, recipient, alerts, now, figures_are_this_old(records, now)):
            record_digest(records, mail, recipient, listed, now)
    return bool(many)


@contextmanager
def _one_at_a_time(home: Path) -> Iterator[None]:
    folder = home / "mail"
    folder.mkdir(parents=True, exist_ok=True)
    with open_lock(folder / ".lock") as lock:  # the kernel releases it when the process dies
        lock_in_time(lock.fileno(), folder / ".lock", "send mail", OUTBOX_WAIT)
        yield
