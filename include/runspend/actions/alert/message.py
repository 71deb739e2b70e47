"""A mail as it is stored and as it is sent: headers, addresses, parts of the message.

Belongs here: the steps after a mail's words are final. The words come from `render.py`. Its delivery is recorded in `outbox.py`.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from email.header import Header
from email.headerregistry import Address
from email.message import EmailMessage, MIMEPart
from email.policy import SMTP
from email.utils import parseaddr
from typing import Any

from runspend.config.types import address_of
from runspend.core.text import clean

# The id of the mail's one picture in its HTML.
PICTURE_ID = "picture"


@dataclass(frozen=True)
class Attachment:
    """A file attached to a mail: its name, its type such as "text/csv", and its content in base64."""

    name: str
    type: str
    content: str


@dataclass(frozen=True)
class Brief:
    """The beginning of a mail in parts, for chats and pagers, which show them in their own form."""

    says: str  # the first paragraph
    figures: tuple[tuple[str, str, str], ...] = ()  # name, value, note
    button: tuple[str, str] | None = None  # its text and its address
    details_at: int = 0  # where the rest begins in the mail's text

    @staticmethod
    def from_record(value: Mapping[str, Any]) -> Brief:
        """Return the brief of a record."""
        figures = tuple((name, shown, note) for name, shown, note in value["figures"])
        return Brief(value["says"], figures, tuple(value["button"]) if value["button"] else None, value["details_at"])


@dataclass(frozen=True)
class Mail:
    """One whole mail. The once-only record keeps it, so that any later sending gives the same bytes."""

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
    thread: str | None = None  # id that all mails of a conversation refer to; a mail with that id need not exist
    picture: str | None = None  # a PNG in base64
    copies: tuple[str, ...] = ()  # the `recipients` that are listed in Cc
    attachments: tuple[Attachment, ...] = ()
    brief: Brief | None = None  # None in records of earlier versions

    def as_record(self) -> dict[str, Any]:
        """Return the mail as a JSON object."""
        found = {
            **asdict(self),
            "recipients": list(self.recipients),
            "copies": list(self.copies),
            "attachments": list(map(asdict, self.attachments)),
        }
        return {name: value for name, value in found.items() if value or name not in ("attachments", "brief")}

    @staticmethod
    def from_record(value: Mapping[str, Any]) -> Mail:
        """Return the mail of a record, as the inverse of `as_record`."""
        attachments = tuple(Attachment(**one) for one in value.get("attachments", ()))
        copies = tuple(value.get("copies", ()))
        brief = Brief.from_record(value["brief"]) if value.get("brief") else None
        known = {"recipients": tuple(value["recipients"]), "copies": copies, "attachments": attachments, "brief": brief}
        return Mail(**{**value, **known})


def as_bytes(mail: Mail) -> bytes:
    """Return the message as it is sent. The same mail gives the same bytes."""
    message = EmailMessage(policy=SMTP)
    message["From"] = _address(mail.sender)
    message["To"] = [_address(r) for r in mail.recipients if address_of(r) and r not in mail.copies]
    if mail.copies:
        message["Cc"] = [_address(r) for r in mail.copies if address_of(r)]
    if mail.reply_to:
        message["Reply-To"] = _address(mail.reply_to)
    message["Date"] = mail.date
    message["X-Runspend-Kind"] = mail.kind
    message["Auto-Submitted"] = "auto-generated"
    message.set_content(mail.text, cte="7bit" if mail.text.isascii() else "quoted-printable")
    message.add_alternative(mail.html, subtype="html", cte="quoted-printable")
    if mail.picture:
        _add_picture(message, base64.b64decode(mail.picture))
    for file in mail.attachments:
        kind, _, subtype = file.type.partition("/")
        charset = {"charset": "utf-8"} if kind == "text" else None
        message.add_attachment(base64.b64decode(file.content), maintype=kind, subtype=subtype, filename=file.name, params=charset)
    for number, part in enumerate(part for part in message.walk() if part.is_multipart()):  # the stdlib chooses boundaries at random
        part.set_boundary(f"=_{number}{hashlib.sha256(mail.message_id.encode()).hexdigest()[:32]}")
    # Written by hand for three reasons. The stdlib's newer policies turn ids longer than a line into encoded words, which mail programs
    # do not compare. They also fold a subject so that readers get a leading blank. And a name that spells an encoded word must be
    # encoded again, or the reader would decode it, line breaks included.
    is_plain = mail.subject.isascii() and "=?" not in mail.subject
    subject = mail.subject if is_plain else Header(mail.subject, "utf-8", header_name="Subject").encode(linesep="\r\n")
    by_hand = f"Message-ID: {mail.message_id}\r\nList-Id: {mail.list_id}\r\nSubject: {subject}\r\n"
    if mail.thread:
        by_hand += f"In-Reply-To: {mail.thread}\r\nReferences: {mail.thread}\r\n"
    return by_hand.encode("ascii") + message.as_bytes()


def _add_picture(message: EmailMessage, png: bytes) -> None:
    """Add the picture next to the HTML, inside the message, so that reading the mail contacts no server."""
    html = message.get_body(("html",))
    assert isinstance(html, MIMEPart), "a message whose HTML was just added"
    html.add_related(png, "image", "png", cid=f"<{PICTURE_ID}>", disposition="inline", filename="spend.png")


def sender_host(sender: str) -> str:
    """Return the host after the @ of `mail.from`."""
    address = address_of(sender)
    return address.rpartition("@")[2] if address else "localhost"


def _address(text: str) -> Address:
    spec = address_of(text)
    local, _, domain = (spec or "runspend@localhost").rpartition("@")
    name = parseaddr(text)[0]
    return Address(clean(name) if name else "", local, domain)
