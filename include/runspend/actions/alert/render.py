"""Render the blocks of a mail (paragraphs, tables, one chart) as plain text and as HTML with the same content.

Belongs here: layout, without wording. The texts of budget mails are in `wording.py`, those of mails to operators in `operators.py`. Headers
and bytes are in `message.py`, and `smtp.py` sends.

Names in mails may come from attackers. So every name passes through `clean`, one autoescaped template writes the HTML, and no name can
prevent a mail from being sent.
"""

from __future__ import annotations

import base64
import re
import textwrap
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime
from email.utils import format_datetime
from functools import cache
from importlib.resources import files
from itertools import takewhile
from typing import TYPE_CHECKING

from runspend.actions.alert.chart import WIDTH as PICTURE_WIDTH
from runspend.actions.alert.chart import SpendChart, draw
from runspend.actions.alert.message import PICTURE_ID, Brief, Mail, sender_host
from runspend.config.types import address_of
from runspend.core.amounts import money
from runspend.core.text import clean, cut, visible, width

if TYPE_CHECKING:
    import jinja2

WIDTH = 72


@dataclass(frozen=True)
class Paragraph:
    """A paragraph of text."""

    text: str


@dataclass(frozen=True)
class MailTable:
    """Rows under a title, with notes below. `align` has one letter per column: l for left, r for right."""

    title: str
    heads: tuple[str, ...]
    align: str
    rows: tuple[tuple[str, ...], ...]
    notes: tuple[str, ...] = ()
    links: tuple[str | None, ...] = ()  # in HTML: the link of each row's first cell


@dataclass(frozen=True)
class Facts:
    """A list of facts as (name, value) under a title. In HTML, a value that is an http(s) address becomes a link."""

    title: str
    facts: tuple[tuple[str, str], ...]


@dataclass(frozen=True)
class Card:
    """The main figures of a mail as (name, value, note), at most four."""

    figures: tuple[tuple[str, str, str], ...]


@dataclass(frozen=True)
class Button:
    """A link to the page on which people can act."""

    text: str
    url: str


Block = Paragraph | MailTable | Facts | SpendChart | Card | Button


@dataclass(frozen=True)
class Envelope:
    """The sender of a kind of mail, its mailing list, and the address for replies."""

    sender: str
    list_name: str
    kind: str
    reply_to: str | None = None
    host: str = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "host", sender_host(self.sender))


def render_text(blocks: Sequence[Block]) -> str:
    """Return the text part, at most WIDTH columns wide."""
    parts = []
    for block in blocks:
        if isinstance(block, SpendChart):
            block = _chart_table(block)
        if isinstance(block, Paragraph):
            parts.append(_wrap(block.text))
        elif isinstance(block, Button):
            parts.append(f"{block.text}:\n  {block.url}")
        elif isinstance(block, Card):
            parts.append("\n".join(_table_lines(MailTable("", ("", "", ""), "lrl", block.figures))[1:]))
        elif isinstance(block, MailTable):
            parts.append("\n".join([*_table_lines(block), *(_wrap(note, "  ") for note in block.notes)]))
        else:
            facts = [(cut(name, WIDTH // 2), value) for name, value in block.facts]
            name_width = max((width(name) for name, _ in facts), default=0)
            lines = [block.title] if block.title else []
            for name, value in facts:
                head = f"  {name}{' ' * (name_width - width(name))}  " if name else "  "
                lines.append(_wrap(value, head, " " * width(head)))
            parts.append("\n".join(lines))
    # Without this, a value that was not cleaned could block this mail and all mails after it.
    return "\n".join(visible(line) for line in "\n\n".join(parts).split("\n")) + "\n"


def render_html(subject: str, blocks: Sequence[Block], *, has_picture: bool = False) -> str:
    """Return the HTML part: the same content in the same order as the text part. It does not load anything from the network.

    A chart is shown as the attached picture, with a description as alternative text. Without a picture, a table replaces it.
    """
    shown = [_chart_table(block) if isinstance(block, SpendChart) and not has_picture else block for block in blocks]
    return (
        _environment().get_template("mail.html.j2").render(subject=subject, blocks=shown, picture=PICTURE_ID, picture_width=PICTURE_WIDTH)
    )


def make_mail(
    envelope: Envelope,
    *,
    local_id: str,
    recipients: Sequence[str],
    subject: str,
    blocks: Sequence[Block],
    now: datetime,
    thread: str | None = None,
    copies: Sequence[str] = (),
) -> Mail:
    """Return a mail with these blocks. At most one of them can be a chart.

    `local_id` is the part of the Message-ID before the @. The same id means the same mail, even if it is sent later. Mail programs show the
    mails of one `thread` (a budget and period) as one conversation.
    """
    subject = clean(subject, 180)
    picture = next((drawn for block in blocks if isinstance(block, SpendChart) and (drawn := draw(block))), None)
    text = render_text(blocks)
    return Mail(
        message_id=f"<{local_id}@{envelope.host}>",
        kind=envelope.kind,
        sender=envelope.sender,
        recipients=tuple(dict.fromkeys((*recipients, *copies))),
        copies=tuple(copies),
        subject=subject,
        date=format_datetime(now),
        text=text,
        html=render_html(subject, blocks, has_picture=picture is not None),
        list_id=f"Runspend {envelope.list_name} <{envelope.list_name}.runspend.{envelope.host}>",
        reply_to=envelope.reply_to if envelope.reply_to and address_of(envelope.reply_to) else None,
        thread=f"<{thread}@{envelope.host}>" if thread else None,
        picture=base64.b64encode(picture).decode("ascii") if picture else None,
        brief=_brief(blocks),
    )


def _brief(blocks: Sequence[Block]) -> Brief:
    """Return the beginning of a mail, for chats: the card, the first paragraph and the button."""
    head, seen = list[Block](), set[type]()
    for block in takewhile(lambda block: isinstance(block, (Card, Paragraph, Button)) and type(block) not in seen, blocks):
        seen.add(type(block))
        head.append(block)
    says = next((visible(block.text) for block in head if isinstance(block, Paragraph)), "")
    figures = next((block.figures for block in head if isinstance(block, Card)), ())
    button = next(((visible(block.text), block.url) for block in head if isinstance(block, Button)), None)
    shown = tuple((visible(name), visible(value), visible(note)) for name, value, note in figures)
    return Brief(says, shown, button, len(render_text(head)) + 1 if head else 0)


def _chart_table(chart: SpendChart) -> MailTable:
    """Return a chart as a table."""
    heads = ("", f"of {money(chart.budget, short=True)} {chart.currency}", "")
    return MailTable("SPEND TO DATE", heads, "lrr", chart.rows())


def _table_lines(table: MailTable) -> list[str]:
    """Return the lines of a table as text. The title is on the line of the column heads if it fits there, otherwise above it."""
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
    """Wrap text at WIDTH columns. A word longer than a line is not split, so that addresses can still be clicked."""
    return textwrap.fill(
        text, WIDTH, initial_indent=first, subsequent_indent=first if rest is None else rest, break_long_words=False, break_on_hyphens=False
    )


@cache
def _environment() -> jinja2.Environment:
    import jinja2

    def load(name: str) -> str:
        return files(__package__).joinpath("templates", name).read_text(encoding="utf-8")

    environment = jinja2.Environment(
        loader=jinja2.FunctionLoader(load), autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True,
        finalize=lambda value: visible(value) if type(value) is str else value,
    )  # fmt: skip
    environment.filters["is_link"] = lambda value: re.fullmatch(r"https?://[^\s<>\"']+", value) is not None
    environment.filters["is_wide"] = lambda table: len(table.heads) > 3
    environment.filters["block_kind"] = lambda block: type(block).__name__
    return environment
