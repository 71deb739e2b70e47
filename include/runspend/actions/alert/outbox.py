"""Mails that were decided and who has them: at least once, the same Message-ID every time, never none.

Put here the bookkeeping between a decision and its delivery. Talking to a mail server (`send.py`) does not belong here.

A record of kind "alerts", "digests" or "notices" that holds a `mail` is the decision and its mail in one: made with
create-if-absent, it is the commit. What happened to the mail is one record of kind "outbox" per mail and recipient;
without one, the recipient is still waiting. A crash anywhere therefore leaves a mail that goes out at the next run.
"""

from __future__ import annotations

import fcntl
import hashlib
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, Literal, Protocol

from runspend.actions.alert.message import Mail, address_of
from runspend.actions.alert.send import Outcome, open_backend
from runspend.config import MailSettings

MAIL_KINDS = ("alerts", "digests", "notices")
# A recipient with more budget mails waiting than this gets one mail that lists them all.
DIGEST_ABOVE = 5

State = Literal["accepted", "refused", "waiting", "skipped"]
ComposeDigest = Callable[[str, Sequence[Mapping[str, Any]], datetime], Mail]


class RecordStore(Protocol):
    """The once-only records under home; `warehouse.records.Records` is one."""

    def create(self, kind: str, key: str, value: dict[str, Any]) -> bool:
        """Write the record; False, and nothing changed, if there is one."""
        ...

    def get(self, kind: str, key: str) -> tuple[dict[str, Any], Any] | None:
        """The record and a token for `replace`."""
        ...

    def replace(self, kind: str, key: str, value: dict[str, Any], token: Any) -> bool:
        """Write the record if it is still the one the token came with."""
        ...

    def list(self, kind: str) -> dict[str, dict[str, Any]]:
        """All records of a kind."""
        ...


@dataclass(frozen=True)
class Delivery:
    """What happened to one mail for one recipient."""

    mail: Mail
    recipient: str
    outcome: Outcome


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


def send_outbox(
    settings: MailSettings, home: Path, records: RecordStore, now: datetime, compose_digest: ComposeDigest | None = None
) -> list[Delivery]:
    """Send every mail that a recipient still waits for, and record what happened; returns what was tried.

    `compose_digest(recipient, alert records, now)` makes the one mail for a recipient with many budget mails waiting.
    Two senders at once wait for each other, so neither sends what the other just did.
    """
    with _one_at_a_time(home):
        if compose_digest is not None:
            _make_digests(records, now, compose_digest)
        tried = []
        with open_backend(settings, home) as backend:
            for mail, recipients in waiting_mails(records):
                reachable = {r: address for r in recipients if (address := address_of(r))}
                outcomes = {r: Outcome("refused", "not an address that mail can be sent to") for r in recipients if r not in reachable}
                if reachable:
                    by_address = backend.deliver(mail, sorted(set(reachable.values())))
                    outcomes |= {r: by_address[address] for r, address in reachable.items()}
                for recipient in recipients:
                    set_outcome(records, mail, recipient, outcomes[recipient], now, settings.backend)
                    tried.append(Delivery(mail, recipient, outcomes[recipient]))
        return tried


def waiting_mails(records: RecordStore) -> Iterator[tuple[Mail, list[str]]]:
    """Every mail with the recipients that still wait for it, the oldest decision first."""
    settled = {(r["message_id"], r["recipient"]) for r in records.list("outbox").values() if r["state"] != "waiting"}
    settled |= set(_digested(records))
    found = [
        (v["decided_at"], key, Mail.from_record(v["mail"])) for kind in MAIL_KINDS for key, v in records.list(kind).items() if v.get("mail")
    ]
    for _, _, mail in sorted(found, key=lambda item: item[:2]):
        recipients = [r for r in mail.recipients if (mail.message_id, r) not in settled]
        if recipients:
            yield mail, recipients


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


def set_outcome(records: RecordStore, mail: Mail, recipient: str, outcome: Outcome, now: datetime, backend: str = "") -> None:
    """Record what happened; an accepted mail stays accepted whatever another sender says later."""
    key = _outbox_key(mail.message_id, recipient)
    value = {
        "message_id": mail.message_id, "recipient": recipient, "state": outcome.state, "reply": outcome.reply, "at": now.isoformat(),
        "backend": backend, "attempts": 1,
    }  # fmt: skip
    while not records.create("outbox", key, value):
        found = records.get("outbox", key)
        if found is None:
            continue
        before, token = found
        if before["state"] in ("accepted", "skipped") or records.replace(
            "outbox", key, {**value, "attempts": before["attempts"] + 1}, token
        ):
            return


def _outbox_key(message_id: str, recipient: str) -> str:
    return hashlib.sha256(f"{message_id} {recipient}".encode()).hexdigest()[:40]


def _digested(records: RecordStore) -> dict[tuple[str, str], str]:
    """(Message-ID, recipient) -> Message-ID of the digest that stands for it."""
    return {(member, d["recipient"]): d["mail"]["message_id"] for d in records.list("digests").values() for member in d["members"]}


def _make_digests(records: RecordStore, now: datetime, compose_digest: ComposeDigest) -> None:
    by_recipient: dict[str, list[Mapping[str, Any]]] = defaultdict(list)
    alerts = {v["mail"]["message_id"]: v for v in records.list("alerts").values() if v.get("mail")}
    for mail, recipients in waiting_mails(records):
        if mail.message_id in alerts:
            for recipient in recipients:
                by_recipient[recipient].append(alerts[mail.message_id])
    for recipient, waiting in sorted(by_recipient.items()):
        if len(waiting) > DIGEST_ABOVE:
            mail = compose_digest(recipient, waiting, now)
            members = [alert["mail"]["message_id"] for alert in waiting]
            records.create(
                "digests", mail.message_id.strip("<>"),
                {"recipient": recipient, "members": members, "decided_at": now.isoformat(), "mail": mail.as_record()},
            )  # fmt: skip


@contextmanager
def _one_at_a_time(home: Path) -> Iterator[None]:
    folder = home / "mail"
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / ".lock").open("a") as lock:  # released by the kernel when the process dies
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield
