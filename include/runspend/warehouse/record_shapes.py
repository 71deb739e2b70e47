"""The fields that a record of each kind must have, checked before Runspend acts on the record.

Everyone who can write to Runspend's home folder could have written a record. `Records` refuses a record if a required field is missing, if
a field has another type, or if a path or an address has a form that Runspend never writes. The error names the file.

Unknown fields are accepted, because a later version may have written them, except in the kinds of `CLOSED`. A name that ends in "?" is an
optional field, which older versions did not write.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from datetime import date
from decimal import Decimal, InvalidOperation
from typing import Any

from runspend.warehouse.plain_values import CONTROL, LARGEST, SHA256
from runspend.warehouse.plain_values import is_count as _count
from runspend.warehouse.plain_values import is_time as _time

Test = Callable[[Any], bool]

LONGEST = 100_000  # maximum characters of a string, except the body of a mail
STATEMENT_PARTS = ("direct", "models", "orphaned", "idle", "shared", "unallocated", "out of scope")
ATTACHED = ("text/csv", "text/html", "application/pdf")
_MESSAGE_ID = re.compile(r"<[!-;=?-~]{1,800}@[!-;=?-~]{1,200}>", re.ASCII)
_NUMBER = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}", re.ASCII)  # the number of a statement, which is part of file names
_SLUG = re.compile(r"[a-z0-9][a-z0-9-]{0,59}", re.ASCII)
_MONTH = re.compile(r"[0-9]{4}-(0[1-9]|1[0-2])", re.ASCII)
_ID = re.compile(r"[0-9a-f]{32}", re.ASCII)


def problem_of(kind: str, key: str, value: Mapping[str, Any]) -> str | None:
    """Return what is wrong with a record, or None if it is valid. Records of a kind that is not in SHAPES are not checked."""
    shape = SHAPES.get(kind)
    if shape is None:
        return None
    for name, test in shape.items():
        is_optional = name.endswith("?")
        name = name.removesuffix("?")
        if name not in value:
            if not is_optional:
                return f"it has no {name}"
        elif not test(value[name]):
            return f"{name} is {value[name]!r}"
    if kind in CLOSED and (more := value.keys() - {name.removesuffix("?") for name in shape}):
        return f"it has {', '.join(sorted(more))}, which no such record has"
    if kind == "archives" and key != value["archive_id"]:
        return f"it is the record of the archive {value['archive_id']}"
    if kind == "statements":
        return _problem_of_statement(key, value)
    return None


def _problem_of_statement(key: str, value: Mapping[str, Any]) -> str | None:
    """Return what is wrong with the key or the number of a statement, or None.

    The number is part of file names. It ends with the parts of the key.
    """
    if key != f"{value['period']}/{value['slug']}/{value['version']}":
        return f"it is the record of version {value['version']} of {value['slug']} in {value['period']}"
    if not value["number"].endswith(f"{value['period']}-{value['slug']}-{value['version']}"):
        return f"number is {value['number']!r}"
    return None


# --- tests of fields -----------------------------------------------------------------------------------------------------


def _text(value: Any) -> bool:
    return isinstance(value, str) and len(value) <= LONGEST


def _line(value: Any) -> bool:
    """Whether the value is text without control characters, which is safe in a mail header."""
    return _text(value) and not CONTROL.search(value)


def _number(value: Any) -> bool:
    return type(value) in (int, float) and 0 <= value < LARGEST


def _flag(value: Any) -> bool:
    return type(value) is bool


def _day(value: Any) -> bool:
    try:
        return isinstance(value, str) and bool(date.fromisoformat(value))
    except ValueError:
        return False


def _money(value: Any) -> bool:
    try:
        return isinstance(value, str) and len(value) < 200 and Decimal(value).is_finite()
    except InvalidOperation:
        return False


def _or_none(test: Test) -> Test:
    return lambda value: value is None or test(value)


def _list_of(test: Test) -> Test:
    return lambda value: isinstance(value, list) and all(map(test, value))


def _tuple_of(test: Test, length: int) -> Test:
    return lambda value: isinstance(value, (list, tuple)) and len(value) == length and all(map(test, value))


def _button(value: Any) -> bool:
    """Whether the value is the text of a button, followed by the address of a web page."""
    return _tuple_of(_line, 2)(value) and re.match(r"https?://[^\s/]", value[1]) is not None


def _map_of(test: Test) -> Test:
    return lambda value: isinstance(value, dict) and all(map(test, value.values()))


def _inputs(value: Any) -> bool:
    """Whether the value maps inputs to digests. An input is a name, or the table/period/writer of a unit."""
    return _map_of(_or_none(_text))(value) and all(name.count("/") != 1 for name in value)


def _one_of(*words: str) -> Test:
    return lambda value: value in words


def _shaped(shape: Mapping[str, Test], *, is_closed: bool = False) -> Test:
    """Return a test for a map with these fields. With `is_closed`, other fields are not allowed."""
    names = {name.removesuffix("?"): test for name, test in shape.items()}
    required = {name for name in shape if not name.endswith("?")}

    def test(value: Any) -> bool:
        return (
            isinstance(value, dict)
            and required <= value.keys()
            and (not is_closed or value.keys() <= names.keys())
            and all(names[name](found) for name, found in value.items() if name in names)
        )

    return test


def _message_id(value: Any) -> bool:
    return isinstance(value, str) and _MESSAGE_ID.fullmatch(value) is not None


def _place(value: Any) -> bool:
    """Whether the value is an unambiguous path of a folder below the root of a store: no "", "." or ".." parts, no backslash."""
    return _text(value) and not CONTROL.search(value) and "\\" not in value and not {"", ".", ".."} & set(value.split("/"))


def _object(value: Any) -> bool:
    """Whether the value is the key of an object below such a folder. "" and keys with a trailing slash are folders."""
    return value == "" or (isinstance(value, str) and _place(value.removesuffix("/")))


def _like(pattern: re.Pattern[str]) -> Test:
    return lambda value: isinstance(value, str) and pattern.fullmatch(value) is not None


# --- the kinds -----------------------------------------------------------------------------------------------------------

_BRIEF = _shaped(
    {
        "says": _text, "figures": _list_of(_tuple_of(_text, 3)), "button": _or_none(_button), "details_at": _count,
    },
    is_closed=True,
)  # fmt: skip

_MAIL = _shaped(
    {
        "message_id": _message_id, "kind": _line, "sender": _line, "recipients": _list_of(_line), "copies?": _list_of(_line), "subject": _line, "date": _line,
        "text": lambda value: isinstance(value, str), "html": lambda value: isinstance(value, str), "list_id": _line,
        "reply_to?": _or_none(_line), "thread?": _or_none(_message_id), "picture?": _or_none(lambda value: isinstance(value, str)),
        "attachments?": _list_of(_shaped({"name": _line, "type": _one_of(*ATTACHED), "content": lambda value: isinstance(value, str)}, is_closed=True)),
        "brief?": _or_none(_BRIEF),
    },
    is_closed=True,
)  # fmt: skip

_ITEM = _shaped(
    {
        **dict.fromkeys(("policy", "policy_digest", "tracking_server", "workspace", "owner_id", "store"), _text),
        **dict.fromkeys(("to", "experiment_id", "run_id", "artifact_uri", "storage_class"), _or_none(_text)),
        "action": _one_of("tier", "archive", "delete", "prune"),
        "owner_kind": _one_of("run", "logged_model", "checkpoint", "trace", "orphan", "experiment"),
        "prefix": _place, "objects": _or_none(_count), "bytes": _or_none(_count),
    },
    is_closed=True,
)  # fmt: skip

_ENTRY = _shaped(
    {
        "key": _object, "size": _count, "etag": _text, "version": _or_none(_text), "storage_class": _text, "modified": _time,
        "state": _one_of("planned", "copied", "deleted", "tiered", "gone", "changed"), "sha256": _or_none(_like(SHA256)),
        "data": _or_none(_like(re.compile(r"data/[0-9a-f]{64}(-[1-9])?", re.ASCII))), "copy_etag": _or_none(_text), "told?": _map_of(_text),
        "changes": _count, "reason": _or_none(_text),
    },
    is_closed=True,
)  # fmt: skip

_NOTICE_ITEM = _shaped({"policy_digest": _text, "owner?": _or_none(_text), "objects": _count, "bytes": _count, "turn?": _count})

SHAPES: Mapping[str, Mapping[str, Test]] = {
    "alerts": {
        "alert_id": _text, "kind": _one_of("actual", "forecast", "correction", "anomaly"), "month": _day, "budget": _text, "budget_period": _text,
        "spent": _money, "amount": _money, "forecast?": _or_none(_money), "currency": _text, "threshold": _text, "decided_at": _time,
        "through?": _or_none(_day), "mail?": _or_none(_MAIL), "mail_of?": _text, "covers?": _list_of(_text),
        "items?": _list_of(_shaped({"alert_id": _text, "kind": _text, "threshold": _text})), "recipients?": _list_of(_line),
    },
    "digests": {"recipient": _line, "members": _list_of(_message_id), "decided_at": _time, "mail": _MAIL},
    "notices": {"kind": _line, "key?": _text, "decided_at": _time, "mail": _MAIL, "members?": _list_of(_text)},
    "outbox": {
        "message_id": _message_id, "recipient": _line, "kind?": _line, "subject?": _line, "state": _one_of("accepted", "refused", "waiting", "skipped"),
        "reply": _text, "at": _time, "backend?": _text, "attempts": _count, "retried_until?": _time, "put_off_since?": _time,
        "not_before?": _time,
    },
    "budgets": {"budget": _text, "version": _text, "first_judged_at": _time, "rules?": _or_none(lambda value: isinstance(value, dict)), "taken_back_at?": _time},
    "quiet": {"budget": _text, "kind": _text, "until": _day, "by": _or_none(_text), "at": _time, "note": _or_none(_text), "number": _count},
    "renames": {"kind": _one_of("tracking", "bill"), "old": _text, "new": _text, "is_settled": _flag},
    "reads": {
        "kind": _text, "last_tried_at?": _time, "last_good_at?": _time, "first_missed_at?": _time, "covered_until?": _or_none(_time),
        "late_after_seconds?": _number, "is_good?": _flag,
    },
    "installation": {"at": _time},
    "damage": {"why": _text, "at": _time},
    "webhooks": {"since": _or_none(_time)},
    "heartbeats": {"night": _text, "at": _time},
    "archives": {
        "archive_id": _like(_ID), "item": _ITEM, "planned_at": _time, "to": _or_none(_text), "chunks": _count, "objects": _count, "bytes": _count,
        "state": _one_of("listing", "open", "archived", "tiered", "deleted", "partial"), "reason": _or_none(_text), "ended_at": _or_none(_time),
        "restored_at?": _or_none(_time), "is_cut?": _flag,
    },
    "archive_objects": {"objects": _list_of(_ENTRY)},
    "archives_told": {"owner": _text},
    "archives_not_told": {"owner": _text, "reason": _text},
    "archive_lease": {
        "number": _count, "until": _or_none(_time), "host?": _text, "process?": _count, "machine?": _or_none(_text), "began?": _or_none(_text),
    },
    "archive_clock": {"looks": _list_of(_time)},
    "archive_keeps": {
        "kind": _one_of("run", "experiment"), "tracking_server": _text, "workspace": _text, "id": _text, "name": _or_none(_text), "until": _day,
        "reason": _or_none(_text), "at": _time,
    },
    "archive_notices": {
        "notice_id": _text, "recipients": _list_of(_line), "decided_at": _time, "items": _map_of(_NOTICE_ITEM), "is_mailed": _flag,
        "is_refused": _flag, "accepted_at": _or_none(_time), "withdrawn": _map_of(_time),
    },
    "archive_enclosing": {"who": _text, "at": _time},
    "statements": {
        "number": _like(_NUMBER), "slug": _like(_SLUG), "version": _count, "period": _like(_MONTH), "team": _or_none(_text), "issued_at": _time,
        "policy": _map_of(_text), "hides_people": _flag, "bills": _map_of(_or_none(_count)), "inputs": _inputs,
        "totals": _list_of(_shaped({"currency": _line, "part": _one_of(*STATEMENT_PARTS), "cost": _money, "rounded_cost": _money})),
        "replaces": _or_none(_line), "reasons": _list_of(_text),
        **dict.fromkeys(("digest", "page_sha256", "csv_sha256"), _like(SHA256)),
    },
    "statement_texts": {"number": _line, "page": lambda value: isinstance(value, str), "csv": lambda value: isinstance(value, str)},
    "archive_verifications": {"at": _time, "objects": _count, "read": _count, "damaged": _list_of(_text), "unknown": _list_of(_text)},
}  # fmt: skip

CLOSED = ("archives", "archive_objects", "archive_keeps")  # kinds that may not have unknown fields, because a class gets all of them
