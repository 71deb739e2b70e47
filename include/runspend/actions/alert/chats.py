"""Builds the messages of chats: Slack's Block Kit, an Adaptive Card for Teams, a card for Google Chat.

Belongs here: pure functions from a post to a request, and how each chat refuses a post. Names in posts come from people who may be hostile:
in no chat do they mention a person, become a link, or end the block they are in. Each chat accepts less text than a mail, and the post says
that it was cut.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from typing import Any

from runspend.actions.alert.posting import Answer, Post, Request, encode, meaning, short
from runspend.actions.alert.smtp import SendResult
from runspend.config.mail import ChannelSettings

# Slack: 150 characters in a header, 2,000 in a field, 3,000 in a section, 75 on a button, 3,000 in an address; 50 blocks.
SLACK_HEADER, SLACK_FIELD, SLACK_LETTERS, SLACK_BUTTON = 150, 2_000, 2_900, 75
MOST_BYTES = 20_000  # of details: no one reads a longer post
TEAMS_BYTES = 27_000  # of the whole message; Teams takes 28 KB
GOOGLE_BYTES = 31_000  # of the whole message; Google Chat takes 32,000 bytes
# A connector of Teams answers 200 even if it could not deliver the message. The text tells.
TEAMS_NOT_DELIVERED = "Webhook message delivery failed"


def slack_requests(post: Post, channel: ChannelSettings) -> list[Request]:
    """Return the post for Slack's incoming webhook: a header, fields, a button, and the details as preformatted text."""
    blocks: list[dict[str, Any]] = [{"type": "header", "text": _plain(post.title, SLACK_HEADER)}]
    if post.figures:
        fields = [_mrkdwn(short(_slack(f"*{name}*\n{value}\n{note}"), SLACK_FIELD)) for name, value, note in post.figures]
        blocks.append({"type": "section", "fields": fields})
    if post.says:
        blocks.append({"type": "section", "text": _plain(post.says, SLACK_LETTERS)})
    if post.button:
        button = {"type": "button", "text": _plain(post.button[0], SLACK_BUTTON), "url": post.button[1], "action_id": "open"}
        blocks.append({"type": "actions", "elements": [button]})
    blocks += [{"type": "section", "text": _mrkdwn(f"```{_slack(part)}```")} for part in _parts(_cut(post.details, MOST_BYTES))]
    blocks.append({"type": "context", "elements": [_plain(post.mail.message_id, SLACK_FIELD)]})
    return [Request(channel.address, {"text": _slack(post.title), "blocks": blocks})]


def teams_requests(post: Post, channel: ChannelSettings) -> list[Request]:
    """Return the post for a Workflows webhook of Teams: one Adaptive Card. Its text runs have no markup, so names stay plain text."""

    def text(words: str, **style: Any) -> dict[str, Any]:
        return {"type": "RichTextBlock", "inlines": [{"type": "TextRun", "text": words, **style}]}

    def column(name: str, value: str, note: str) -> dict[str, Any]:
        items = [text(name, isSubtle=True), text(value, weight="Bolder"), text(note or " ", isSubtle=True, size="Small")]
        return {"type": "Column", "width": "stretch", "items": items}

    def message(details: str) -> dict[str, Any]:
        body = [text(post.title, weight="Bolder", size="Medium")]
        body += [{"type": "ColumnSet", "columns": [column(*figure) for figure in post.figures]}] if post.figures else []
        body += [text(part, **style) for part, style in ((post.says, {}), (details, {"fontType": "Monospace"})) if part]
        card: dict[str, Any] = {
            "$schema": "http://adaptivecards.io/schemas/adaptive-card.json", "type": "AdaptiveCard", "version": "1.4",
            "body": [*body, text(post.mail.message_id, isSubtle=True, size="Small")], "msteams": {"width": "Full"},
        }  # fmt: skip
        if post.button:
            card["actions"] = [{"type": "Action.OpenUrl", "title": post.button[0], "url": post.button[1]}]
        attachment = {"contentType": "application/vnd.microsoft.card.adaptive", "contentUrl": None, "content": card}
        return {"type": "message", "attachments": [attachment]}

    return [Request(channel.address, _fitted(message, post.details, TEAMS_BYTES))]


def google_chat_requests(post: Post, channel: ChannelSettings) -> list[Request]:
    """Return the post for a webhook of Google Chat: one card. Its strings are HTML, in which names are escaped.

    Posts about one budget and period are one thread. There is no fixed-width text in cards: the columns of tables become dots.
    """

    def message(details: str) -> dict[str, Any]:
        widgets: list[dict[str, Any]] = [
            {"decoratedText": {"topLabel": _html(name), "text": f"<b>{_html(value)}</b>", "bottomLabel": _html(note)}}
            for name, value, note in post.figures
        ]
        widgets += [{"textParagraph": {"text": _html(post.says)}}] if post.says else []
        if post.button:
            widgets.append({"buttonList": {"buttons": [{"text": _html(post.button[0]), "onClick": {"openLink": {"url": post.button[1]}}}]}})
        sections: list[dict[str, Any]] = [{"widgets": widgets}] if widgets else []
        if details:
            shown = "<br>".join(_html(re.sub(r"(?<=\S) {2,}", " · ", line.strip())) for line in details.splitlines())
            sections.append({"header": "Details", "collapsible": True, "widgets": [{"textParagraph": {"text": shown}}]})
        sections.append({"widgets": [{"textParagraph": {"text": f"<i>{_html(post.mail.message_id)}</i>"}}]})
        title = post.title.replace("<", "‹").replace(">", "›")  # no page says whether this is HTML
        card = {"header": {"title": title}, "sections": sections}
        thread = {"thread": {"threadKey": post.mail.thread or post.mail.message_id}}
        return {"cardsV2": [{"cardId": "runspend", "card": card}], "fallbackText": title, **thread}

    together = "&" if "?" in channel.address else "?"
    address = f"{channel.address}{together}messageReplyOption=REPLY_MESSAGE_FALLBACK_TO_NEW_THREAD"
    return [Request(address, _fitted(message, post.details, GOOGLE_BYTES))]


def read_teams(answer: Answer) -> SendResult:
    """Return the meaning of Teams' answer, which may state in words that nothing was delivered."""
    if answer.text.startswith(TEAMS_NOT_DELIVERED):
        return SendResult("waiting", f"{answer.code} {answer.text}"[:300], wait=answer.wait)
    return meaning(answer)


def _fitted(message: Callable[[str], dict[str, Any]], details: str, most: int) -> dict[str, Any]:
    """Return the message with as much of the details as fits into its bytes.

    Escaping makes strings longer. So the details are cut again until the message as a whole fits.
    """
    room = MOST_BYTES
    while len(encode(made := message(_cut(details, room)))) > most and room:
        room = room * 3 // 4
    return made


def _cut(text: str, most: int) -> str:
    """Return the text, cut at a line end where it exceeds these bytes. The mail has the full text."""
    kept, size, lines = list[str](), 0, text.splitlines(keepends=True)
    for line in lines:
        size += len(line.encode("utf-8", "replace"))
        if size > most:
            left = len(lines) - len(kept)
            return "".join(kept) + (f"… {left} more lines are in the mail\n" if left > 1 else "… the last line is in the mail\n")
        kept.append(line)
    return text


def _parts(text: str) -> Iterator[str]:
    """Split the text into parts that fit a section of Slack after escaping. Parts end at line ends."""
    part = ""
    for line in text.splitlines(keepends=True):
        if part and len(_slack(part + line)) > SLACK_LETTERS:
            yield part
            part = ""
        part += short(line, SLACK_LETTERS // 5)  # `&` becomes five characters
    if part.strip():
        yield part


def _plain(text: str, most: int) -> dict[str, Any]:
    """Return a string of Slack without any markup."""
    return {"type": "plain_text", "text": short(text, most) or " ", "emoji": False}


def _mrkdwn(text: str) -> dict[str, Any]:
    return {"type": "mrkdwn", "text": text, "verbatim": True}


def _slack(text: str) -> str:
    """Escape the characters with which Slack's markup mentions people and makes links (see its "Formatting text")."""
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;").replace("```", "'''")


def _html(text: str) -> str:
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
