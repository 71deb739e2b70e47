"""What a mail says and how it becomes bytes: names made harmless, one document rendered as text and as HTML, headers.

Put here wording-free machinery of messages. The words of budget mails are in `wording.py`, those of operators' mails in
`operators.py`; sending is in `send.py`. Names in mails come from people who may be hostile: every one passes `clean`, the
HTML is written by one autoescaped template, and a name can never stop a mail from being sent.
"""

from __future__ import annotations

import hashlib
import re
import textwrap
import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from datetime import datetime
from decimal import ROUND_HALF_UP, Context, Decimal
from email.header import Header
from email.headerregistry import Address
from email.message import EmailMessage
from email.policy import SMTP
from email.utils import format_datetime, getaddresses, parseaddr
from functools import cache
from importlib.resources import files
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import jinja2

WIDTH = 72
# Breaks lines, hides, or turns the direction of what stands beside it. Zero-width joiners stay: emoji and Indic scripts need them.
_SPACES = ("Cc", "Zl", "Zp", "Zs")
_DROPPED = ("Cf", "Co", "Cn")
_JOINERS = "\u200c\u200d"
_ADDRESS = re.compile(
    r"[A-Za-z0-9.!#$%&'*+/=?^_`{|}~-]{1,64}@[A-Za-z0-9](?:[A-Za-z0-9-]*[A-Za-z0-9])?(?:\.[A-Za-z0-9](?:[A-Za-z0-9-]*[A-Za-z0-9])?)*"
)


@dataclass(frozen=True)
class Paragraph:
    """Running text."""

    text: str


@dataclass(frozen=True)
class Table:
    """Rows under a title. `align` has one letter a column, l or r; `total` closes the table."""

    title: str
    heads: tuple[str, ...]
    align: str
    rows: tuple[tuple[str, ...], ...]
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Facts:
    """A list of named facts; a fact that is an http(s) address becomes a link in HTML."""

    title: str
    facts: tuple[tuple[str, str], ...]


Block = Paragraph | Table | Facts


@dataclass(frozen=True)
class Mail:
    """One mail, whole: what the once-only record keeps, so that any later sending gives the same bytes."""

    message_id: str
    kind: str
    sender: str
    recipients: tuple[str, ...]
    subject: str
    date: str
    text: str
    html: str
    list_id: str
    reply_to: str | None = None

    def as_record(self) -> dict[str, Any]:
        """A JSON object."""
        return {**asdict(self), "recipients": list(self.recipients)}

    @staticmethod
    def from_record(value: Mapping[str, Any]) -> Mail:
        """The inverse of `as_record`."""
        return Mail(**{**value, "recipients": tuple(value["recipients"])})


@dataclass(frozen=True)
class Envelope:
    """Who a kind of mail is from and which list it belongs to."""

    sender: str
    list_name: str
    kind: str
    host: str = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "host", sender_host(self.sender))


def clean(text: object, limit: int = 60) -> str:
    """A name fit for a header, a line of text and a table cell: one line, visible, left to right controls removed, at most `limit` wide."""
    kept = []
    for char in str(text)[: 8 * limit]:
        category = unicodedata.category(char)
        if category in _SPACES:
            kept.append(" ")
        elif category == "Cs":
            kept.append("\ufffd")
        elif category not in _DROPPED or char in _JOINERS:
            kept.append(char)
    return cut(" ".join("".join(kept).split()), limit) or "(no name)"


def cut(text: str, limit: int) -> str:
    """At most `limit` columns wide, with … where something was cut off."""
    if width(text) <= limit:
        return text
    kept, used = "", 1
    for char in text:
        used += width(char)
        if used > limit:
            break
        kept += char
    return kept + "…"


def width(text: str) -> int:
    """Columns a fixed-width font needs."""
    return sum(0 if unicodedata.combining(c) or c in _JOINERS else 2 if unicodedata.east_asian_width(c) in "WF" else 1 for c in text)


def money(amount: Decimal, *, short: bool = False) -> str:
    """5,012.38; `short` leaves out .00."""
    rounded = amount.quantize(Decimal("0.01"), ROUND_HALF_UP, Context(prec=76))
    text = f"{rounded:,.2f}"
    text = "0.00" if text == "-0.00" else text
    return text.removesuffix(".00") if short else text


def person(name: str | None, people: str) -> str:
    """A user's name as `mail.people` wants it; empty when there is none or it is hidden."""
    if not name or people == "hide":
        return ""
    if people == "pseudonym":
        return "person-" + hashlib.sha256(name.encode("utf-8", "surrogatepass")).hexdigest()[:6]
    return clean(name, 24)


def render_text(blocks: Sequence[Block]) -> str:
    """The text part, at most WIDTH columns wide."""
    parts = []
    for block in blocks:
        if isinstance(block, Paragraph):
            parts.append(_wrap(block.text))
        elif isinstance(block, Table):
            parts.append("\n".join([*_table_lines(block), *(_wrap(note, "  ") for note in block.notes)]))
        else:
            name_width = max((width(name) for name, _ in block.facts), default=0)
            lines = [block.title] if block.title else []
            for name, value in block.facts:
                head = f"  {name}{' ' * (name_width - width(name))}  " if name else "  "
                lines.append(_wrap(value, head, " " * width(head)))
            parts.append("\n".join(lines))
    return "\n\n".join(parts) + "\n"


def render_html(subject: str, blocks: Sequence[Block]) -> str:
    """The HTML part: the same words in the same order, nothing that a mail program would fetch."""
    return _environment().get_template("mail.html.j2").render(subject=subject, blocks=blocks)


def make_mail(
    envelope: Envelope,
    *,
    local_id: str,
    recipients: Sequence[str],
    subject: str,
    blocks: Sequence[Block],
    now: datetime,
    reply_to: str | None = None,
) -> Mail:
    """A mail from its blocks. `local_id` is the left side of the Message-ID: the same id is the same mail, whenever it is sent."""
    subject = clean(subject, 180)
    return Mail(
        message_id=f"<{local_id}@{envelope.host}>",
        kind=envelope.kind,
        sender=envelope.sender,
        recipients=tuple(dict.fromkeys(recipients)),
        subject=subject,
        date=format_datetime(now),
        text=render_text(blocks),
        html=render_html(subject, blocks),
        list_id=f"Runspend {envelope.list_name} <{envelope.list_name}.runspend.{envelope.host}>",
        reply_to=reply_to if reply_to and address_of(reply_to) else None,
    )


def as_bytes(mail: Mail) -> bytes:
    """The message as it goes over the wire; the same mail gives the same bytes."""
    message = EmailMessage(policy=SMTP)
    message["From"] = _address(mail.sender)
    message["To"] = [_address(r) for r in mail.recipients if address_of(r)]
    if mail.reply_to:
        message["Reply-To"] = _address(mail.reply_to)
    message["Date"] = mail.date
    message["X-Runspend-Kind"] = mail.kind
    message["Auto-Submitted"] = "auto-generated"
    message.set_content(mail.text, cte="7bit" if mail.text.isascii() else "quoted-printable")
    message.add_alternative(mail.html, subtype="html", cte="quoted-printable")
    message.set_boundary("=_" + hashlib.sha256(mail.message_id.encode()).hexdigest()[:32])
    # Written by hand: the stdlib's newer policies turn ids longer than a line into encoded words, which no mail program
    # compares, and fold a subject so that it is read back with a blank before it. A name that spells an encoded word is
    # encoded again, else the reader would decode it, line breaks and all.
    is_plain = mail.subject.isascii() and "=?" not in mail.subject
    subject = mail.subject if is_plain else Header(mail.subject, "utf-8", header_name="Subject").encode(linesep="\r\n")
    by_hand = f"Message-ID: {mail.message_id}\r\nList-Id: {mail.list_id}\r\nSubject: {subject}\r\n"
    return by_hand.encode("ascii") + message.as_bytes()


def address_of(text: str) -> str | None:
    """The address in "Name <a@b>" or "a@b", its domain in ASCII; None if there is none that plain SMTP can carry."""
    if not text.isprintable() or len(getaddresses([text])) != 1:
        return None
    local, at, domain = parseaddr(text)[1].rpartition("@")
    try:
        address = f"{local}{at}{domain.encode('idna').decode('ascii')}"
    except UnicodeError:
        return None
    return address if _ADDRESS.fullmatch(address) else None


def sender_host(sender: str) -> str:
    """The host behind the @ of `mail.from`."""
    address = address_of(sender)
    return address.rpartition("@")[2] if address else "localhost"


def _address(text: str) -> Address:
    spec = address_of(text)
    local, _, domain = (spec or "runspend@localhost").rpartition("@")
    name = parseaddr(text)[0]
    return Address(clean(name) if name else "", local, domain)


def _table_lines(table: Table) -> list[str]:
    """The title stands on the line of the column heads where it fits before the first of them, else above it."""
    grid = [table.heads, *table.rows]
    widths = [max(width(row[i]) for row in grid) for i in range(len(table.heads))]
    widths[0] = max(8, min(widths[0], WIDTH - 2 - sum(w + 2 for w in widths[1:])))
    lines = []
    for row in grid:
        cells = []
        for i, cell in enumerate(row):
            shown = cut(cell, widths[i])
            pad = " " * (widths[i] - width(shown))
            cells.append(pad + shown if table.align[i] == "r" else shown + pad)
        lines.append(("  " + "  ".join(cells)).rstrip())
    heads = lines[0]
    room = len(heads) - len(heads.lstrip())
    lines[0] = (
        table.title + heads[len(table.title) :] if heads and len(table.title) + 2 <= room else table.title + (f"\n{heads}" if heads else "")
    )
    return lines


def _wrap(text: str, first: str = "", rest: str | None = None) -> str:
    """Wrapped at WIDTH columns; a word longer than a line is broken, except an address people must be able to click."""
    return textwrap.fill(
        text, WIDTH, initial_indent=first, subsequent_indent=first if rest is None else rest, break_long_words=False, break_on_hyphens=False
    )


@cache
def _environment() -> jinja2.Environment:
    import jinja2

    def load(name: str) -> str:
        return files(__package__).joinpath("templates", name).read_text(encoding="utf-8")

    environment = jinja2.Environment(
        loader=jinja2.FunctionLoader(load), autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters["is_link"] = lambda value: re.fullmatch(r"https?://[^\s<>\"']+", value) is not None
    environment.filters["block_kind"] = lambda block: type(block).__name__
    return environment
