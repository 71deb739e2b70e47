"""Represent a mail as a stored record and as the bytes that are sent: headers, addresses and parts of the message.

Belongs here: the format of a mail whose text is final. `render.py` makes its text and HTML, and `outbox.py` records its delivery.
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

# The Content-ID of the picture of a mail. A mail has at most one.
PICTURE_ID = "picture"


@dataclass(frozen=True)
class Attachment:
    """A file attached to a mail: its name, its MIME type such as "text/csv", and its content in base64."""

    name: str
    type: str
    content: str


@dataclass(frozen=True)
class Brief:
    """The beginning of a mail in parts. Chats and pagers show each part in their own format."""

    says: str  # the first paragraph
    figures: tuple[tuple[str, str, str], ...] = ()  # name, value, note
    button: tuple[str, str] | None = None  # text and address of the link
    details_at: int = 0  # index in the mail's text at which the details begin

    @staticmethod
    def from_record(value: Mapping[str, Any]) -> Brief:
        """Return the brief of a record."""
        figures = tuple((name, shown, note) for name, shown, note in value["figures"])
        return Brief(value["says"], figures, tuple(value["button"]) if value["button"] else None, value["details_at"])


@dataclass(frozen=True)
class Mail:
    """One complete mail. It is stored in the record of its decision, so that it has the same bytes whenever it is sent."""

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
    thread: str | None = None  # Message-ID that all mails of a conversation refer to; no mail needs to have this id
    picture: str | None = None  # a PNG in base64
    copies: tuple[str, ...] = ()  # the part of `recipients` that is in Cc
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
        """Return the mail of a JSON object from `as_record`."""
        attachments = tuple(Attachment(**one) for one in value.get("attachments", ()))
        copies = tuple(value.get("copies", ()))
        brief = Brief.from_record(value["brief"]) if value.get("brief") else None
        known = {"recipients": tuple(value["recipients"]), "copies": copies, "attachments": attachments, "brief": brief}
        return Mail(**{**value, **known})


def as_bytes(mail: Mail) -> bytes:
    """Return the bytes of the message. The same mail always gives the same bytes. Raises ValueError or MessageError for an invalid header."""
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
    # These headers are not written by the standard library, for three reasons:
    # It changes ids longer than a line to encoded words, and mail programs then do not recognize the id.
    # It folds a long subject so that mail programs show a leading space.
    # A name can look like an encoded word. It must be encoded again, because mail programs would decode it, with its line breaks.
    is_plain = mail.subject.isascii() and "=?" not in mail.subject
    subject = mail.subject if is_plain else Header(mail.subject, "utf-8", header_name="Subject").encode(linesep="\r\n")
    by_hand = f"Message-ID: {mail.message_id}\r\nList-Id: {mail.list_id}\r\nSubject: {subject}\r\n"
    if mail.thread:
        by_hand += f"In-Reply-To: {mail.thread}\r\nReferences: {mail.thread}\r\n"
    return by_hand.encode("ascii") + message.as_bytes()


def _add_picture(message: EmailMessage, png: bytes) -> None:
    """Add the picture to the message as a part related to the HTML. So a mail program does not have to load it from a server."""
    html = message.get_body(("html",))
    assert isinstance(html, MIMEPart), "a message whose HTML was just added"
    html.add_related(png, "image", "png", cid=f"<{PICTURE_ID}>", disposition="inline", filename="spend.png")


def sender_host(sender: str) -> str:
    """Return the host after the @ of a sender's address, or "localhost" if the address is not valid."""
    address = address_of(sender)
    return address.rpartition("@")[2] if address else "localhost"


def _address(text: str) -> Address:
    spec = address_of(text)
    local, _, domain = (spec or "runspend@localhost").rpartition("@")
    name = parseaddr(text)[0]
    return Address(clean(name) if name else "", local, domain)
