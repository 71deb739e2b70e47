"""Notices: who was notified of which items, and when a mail server accepted the mail. Only that acceptance starts the grace period.

This module keeps the records of notices. Other code connects it with the outbox, and writes and sends the mail.

One notice is one mail to one owner. It lists all planned items that were not yet announced to that owner. Its items are recorded before
the mail is written, in records of at most 1,000 items. A notice counts only once its mail was written. So if the process is killed in
between, the next run creates the same notice with the same id.

A notice is valid for one owner of an item. If the owner changes, the new owner gets a new notice and a new grace period. A notice is
invalid if Runspend may no longer mail its recipient (`config/recipients.py`). Operators get a copy of every notice, and the notices of
owners whom Runspend may not mail.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from runspend.config.recipients import Recipients, find_recipients
from runspend.config.settings import Settings
from runspend.config.types import address_of
from runspend.warehouse.records import Records

KIND = "archive_notices"
CHUNK_ITEMS = 1_000
UNKNOWN_OWNER = ""  # for old records without an owner: it equals no owner, so the item is announced again
# Reasons that report a failed read. They protect an item, but do not withdraw its notice.
_UNREAD = re.compile(r"\b(unknown|not known|not certain|no \S.* of it is known)\b")
REFUSED = "the mail server of its owner refused the last notice"


@dataclass(frozen=True)
class Announcement:
    """The newest notice of an item.

    `accepted_at` is when a mail server accepted its mail, or None while the mail is queued, or if it was refused.
    """

    notice_id: str
    turn: int  # the number of this notice among the notices of the item, from 1
    owner: str | None  # the item's owner, even if the mail went to operators
    policy_digest: str
    objects: int
    bytes: int
    is_mailed: bool
    is_refused: bool
    decided_at: datetime
    accepted_at: datetime | None
    withdrawn_at: datetime | None
    is_allowed: bool = True  # whether Runspend may still mail at least one of its recipients

    def covers(self, row: Mapping[str, Any]) -> bool:
        """Whether the notice is valid for a row of the plan: it was mailed, and not refused or withdrawn.

        The row must have the same policy and owner, and at most the announced objects and bytes.
        """
        same = (
            (self.policy_digest, self.owner) == (row["policy_digest"], row["owner"])
            and row["objects"] <= self.objects
            and row["bytes"] <= self.bytes
        )
        return same and self.is_mailed and not self.is_refused and self.is_allowed and self.withdrawn_at is None


@dataclass(frozen=True)
class Notice:
    """One mail to be written: the rows of the plan that must be announced to the same recipients."""

    notice_id: str
    recipients: tuple[str, ...]  # the grace period begins when a mail server accepts the mail to them
    rows: Sequence[Mapping[str, Any]]
    turns: Mapping[str, int] = field(default_factory=dict)  # by item key
    copies: tuple[str, ...] = ()  # operators who get a copy
    reasons: Mapping[str, str] = field(default_factory=dict)  # by item key: why its owner is not mailed; empty in a notice to an owner


@dataclass(frozen=True)
class Received:
    """The outcome of a notice's mail."""

    accepted_at: datetime | None
    is_refused: bool  # whether the mail was refused for all its recipients


def read_announcements(records: Records, allowed: Recipients) -> dict[str, Announcement]:
    """Return the newest notice of each item, by item key. `allowed` decides whether Runspend may still mail a recipient."""
    found: dict[str, Announcement] = {}
    for value in records.list(KIND).values():
        is_allowed = any(allowed.may_receive(recipient) for recipient in value["recipients"])
        for key, item in value["items"].items():
            this = Announcement(
                value["notice_id"], item.get("turn", 0), item.get("owner", UNKNOWN_OWNER), item["policy_digest"], item["objects"], item["bytes"], value["is_mailed"], value["is_refused"],
                datetime.fromisoformat(value["decided_at"]), _moment(value["accepted_at"]), _moment(value["withdrawn"].get(key)), is_allowed,
            )  # fmt: skip
            if key not in found or _order(this) > _order(found[key]):
                found[key] = this
    return found


def _order(notice: Announcement) -> tuple[int, bool, datetime, str]:
    return notice.turn, notice.is_mailed, notice.decided_at, notice.notice_id


def plan_notices(rows: Iterable[Mapping[str, Any]], announced: Mapping[str, Announcement], settings: Settings) -> list[Notice]:
    """Return the notices to write: one per owner with planned items that have no valid notice.

    If Runspend may not mail an owner, operators get the notice instead. Without operators, the item is left out.
    """
    allowed, operators = find_recipients(settings), tuple(dict.fromkeys(settings.mail.operators))
    by_recipients = defaultdict[tuple[str, ...], list[Mapping[str, Any]]](list)
    reasons: dict[str, str] = {}
    for row in rows:
        before = announced.get(row["item_key"])
        if row["state"] != "planned" or (before and before.covers(row)):
            continue
        owner, why = _find_owner(row["owner"], before, allowed)
        if owner is None:
            reasons[row["item_key"]] = why
        if recipients := (owner,) if owner is not None else operators:
            by_recipients[recipients].append(row)
    notices = []
    for recipients, found in sorted(by_recipients.items()):
        turns = {row["item_key"]: _turn(announced.get(row["item_key"])) for row in found}
        copies = tuple(
            operator for operator in operators if address_of(operator) not in [address_of(recipient) for recipient in recipients]
        )
        whys = {row["item_key"]: reasons[row["item_key"]] for row in found if row["item_key"] in reasons}
        notices.append(Notice(_notice_id(recipients, found, turns), recipients, found, turns, () if whys else copies, whys))
    return notices


def _find_owner(owner: str | None, before: Announcement | None, allowed: Recipients) -> tuple[str | None, str]:
    """Return the owner's address and an empty text. If operators must be notified instead, return None and the reason."""
    if (
        before is not None
        and before.is_refused
        and before.withdrawn_at is None
        and before.owner == owner
        and allowed.find(owner) is not None
    ):
        return None, REFUSED
    address = allowed.find(owner)
    return address, "" if address is not None else allowed.why_not(owner)


def _notice_id(recipients: tuple[str, ...], rows: Sequence[Mapping[str, Any]], turns: Mapping[str, int]) -> str:
    """Return the id of a notice. The same recipients and items in the same state have the same id.

    Once the notice of an item is mailed or withdrawn, the item's next notice has another id, because its turn increases.
    """
    items = sorted(
        (row["item_key"], row["policy_digest"], row["owner"], row["objects"], row["bytes"], turns[row["item_key"]]) for row in rows
    )
    return hashlib.sha256(json.dumps([recipients, items]).encode("utf-8", "surrogatepass")).hexdigest()[:32]


def _turn(before: Announcement | None) -> int:
    """Return the turn of an item's next notice. If the last notice was interrupted before its mail was written, its turn is reused."""
    if before is None:
        return 1
    return before.turn + (before.is_mailed or before.withdrawn_at is not None)


def record_notice(records: Records, notice: Notice, now: datetime) -> None:
    """Record the items of a notice. The caller writes the mail afterwards."""
    for number, value in enumerate(_chunks(notice, now)):
        records.create(KIND, f"{notice.notice_id}.{number:04}", value)


def _chunks(notice: Notice, now: datetime) -> Iterable[dict[str, Any]]:
    for start in range(0, len(notice.rows), CHUNK_ITEMS):
        items = {
            row["item_key"]: {name: row[name] for name in ("policy_digest", "owner", "objects", "bytes")} | {"turn": notice.turns[row["item_key"]]}
            for row in notice.rows[start : start + CHUNK_ITEMS]
        }  # fmt: skip
        yield {
            "notice_id": notice.notice_id, "recipients": list(notice.recipients), "decided_at": now.isoformat(), "items": items,
            "is_mailed": False, "is_refused": False, "accepted_at": None, "withdrawn": {},
        }  # fmt: skip


def record_deliveries(records: Records, received: Callable[[str], Received | None]) -> None:
    """Record the outcome of each notice's mail: written, accepted by a mail server, or refused. Acceptance is final.

    `received(notice_id)` returns the outcome, or None if the mail was not written yet.
    """
    for key, value in records.list(KIND).items():
        if value["accepted_at"] is not None:
            continue
        mail = received(value["notice_id"])
        if mail is None:
            continue
        accepted_at = None if mail.accepted_at is None else mail.accepted_at.isoformat()
        _change(records, key, {"is_mailed": True, "is_refused": mail.is_refused, "accepted_at": accepted_at})


def withdraw_notices(records: Records, states: Mapping[str, tuple[str, str]], now: datetime) -> None:
    """Withdraw the notices of items that are now protected, kept, or no longer selected. If selected again, they need a new notice.

    `states` maps each item key to (state, reason) in the current plan. A notice stays valid if its item is protected only because a
    read failed.
    """
    for key, value in records.list(KIND).items():
        gone = [item for item in value["items"] if item not in value["withdrawn"] and _is_over(states.get(item))]
        if gone:
            _change(records, key, {"withdrawn": dict.fromkeys(gone, now.isoformat())})


def withdraw_notice(records: Records, item_key: str, now: datetime) -> None:
    """Withdraw the notices of an item that was restored. If it is selected again, it needs a new notice."""
    for key, value in records.list(KIND).items():
        if item_key in value["items"] and item_key not in value["withdrawn"]:
            _change(records, key, {"withdrawn": {item_key: now.isoformat()}})


def _is_over(found: tuple[str, str] | None) -> bool:
    if found is None:
        return True
    state, reason = found
    return state == "kept" or (state == "protected" and not all(_UNREAD.search(part) for part in reason.split("; ")))


def _change(records: Records, key: str, changed: Mapping[str, Any]) -> None:
    """Change a record, even if other processes change it at the same time.

    An accepted mail stays accepted, and a withdrawn item stays withdrawn.
    """
    while (found := records.get(KIND, key)) is not None:
        old = found[0]
        value = {
            **old,
            **changed,
            "accepted_at": old["accepted_at"] or changed.get("accepted_at"),
            "withdrawn": {**changed.get("withdrawn", {}), **old["withdrawn"]},
        }
        if value == old or records.replace(KIND, key, value, found[1]):
            return


def _moment(text: str | None) -> datetime | None:
    return None if text is None else datetime.fromisoformat(text)
