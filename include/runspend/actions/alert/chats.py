"""Build the messages for chats: blocks for Slack, an Adaptive Card for Teams, a card for Google Chat.

Belongs here: pure functions from a post to a request, and how each chat refuses a post. Names in posts may come from attackers, so they are
escaped. They cannot notify a person, become a link, or end the block that contains them. Chats accept less text than a mail. If the text
was cut, the post states it.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from typing import Any

from runspend.actions.alert.posting import Answer, Post, Request, encode, meaning, short
from runspend.actions.alert.smtp import SendResult
from runspend.config.mail import ChannelSettings

# Limits of Slack: 50 blocks, and in characters 150 for a header, 2,000 for a field, 3,000 for a section, 75 for a button, 3,000 for an address.
SLACK_HEADER, SLACK_FIELD, SLACK_LETTERS, SLACK_BUTTON = 150, 2_000, 2_900, 75
MOST_BYTES = 20_000  # limit for details, because people do not read longer posts
TEAMS_BYTES = 27_000  # limit for the whole message; Teams accepts 28 KB
GOOGLE_BYTES = 31_000  # limit for the whole message; Google Chat accepts 32,000 bytes
# A connector of Teams answers 200 even if it could not deliver the message. Only the text of the answer shows the failure.
TEAMS_NOT_DELIVERED = "Webhook message delivery failed"


def slack_requests(post: Post, channel: ChannelSettings) -> list[Request]:
    """Return the request to an incoming webhook of Slack: a header, fields, a button, and the details as preformatted text."""
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
    """Return the request to a Workflows webhook of Teams: one Adaptive Card. Its texts do not allow markup, so names need no escaping."""

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
    """Return the request to a webhook of Google Chat: one card. Its texts are HTML, in which names are escaped.

    Posts about one budget and period are in one thread. Cards have no fixed-width text, so columns of tables are separated by dots.
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
        title = post.title.replace("<", "‹").replace(">", "›")  # Google does not document whether a title is HTML
        card = {"header": {"title": title}, "sections": sections}
        thread = {"thread": {"threadKey": post.mail.thread or post.mail.message_id}}
        return {"cardsV2": [{"cardId": "runspend", "card": card}], "fallbackText": title, **thread}

    together = "&" if "?" in channel.address else "?"
    address = f"{channel.address}{together}messageReplyOption=REPLY_MESSAGE_FALLBACK_TO_NEW_THREAD"
    return [Request(address, _fitted(message, post.details, GOOGLE_BYTES))]


def read_teams(answer: Answer) -> SendResult:
    """Return the result that an answer of Teams means. With status 200, its text may still report that nothing was delivered."""
    if answer.text.startswith(TEAMS_NOT_DELIVERED):
        return SendResult("waiting", f"{answer.code} {answer.text}"[:300], wait=answer.wait)
    return meaning(answer)


def _fitted(message: Callable[[str], dict[str, Any]], details: str, most: int) -> dict[str, Any]:
    """Return the message with as much of the details as fits into `most` bytes.

    Escaping makes text longer, so the details are cut repeatedly until the whole message fits.
    """
    room = MOST_BYTES
    while len(encode(made := message(_cut(details, room)))) > most and room:
        room = room * 3 // 4
    return made


def _cut(text: str, most: int) -> str:
    """Return the text with whole lines up to `most` bytes. If it was cut, a last line refers to the mail, which has the full text."""
    kept, size, lines = list[str](), 0, text.splitlines(keepends=True)
    for line in lines:
        size += len(line.encode("utf-8", "replace"))
        if size > most:
            left = len(lines) - len(kept)
            return "".join(kept) + (f"… {left} more lines are in the mail\n" if left > 1 else "… the last line is in the mail\n")
        kept.append(line)
    return text


def _parts(text: str) -> Iterator[str]:
    """Yield the text in parts of whole lines. After escaping, each part fits into one section of Slack."""
    part = ""
    for line in text.splitlines(keepends=True):
        if part and len(_slack(part + line)) > SLACK_LETTERS:
            yield part
            part = ""
        part += short(line, SLACK_LETTERS // 5)  # `&` becomes five characters
    if part.strip():
        yield part


def _plain(text: str, most: int) -> dict[str, Any]:
    """Return a text object of Slack without markup."""
    return {"type": "plain_text", "text": short(text, most) or " ", "emoji": False}


def _mrkdwn(text: str) -> dict[str, Any]:
    return {"type": "mrkdwn", "text": text, "verbatim": True}


def _slack(text: str) -> str:
    """Escape the characters that Slack uses for mentions, links and preformatted text (see "Formatting text" in Slack's documentation)."""
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;").replace("```", "'''")


def _html(text: str) -> str:
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
