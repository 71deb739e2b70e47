"""The seam to the outside for what is not mail: one webhook with Slack's or Teams' bodies, and the heartbeat address.

Put here what is posted and what an answer means. An address of either kind is a secret as a whole: no message repeats it,
which is why no error's own text is shown. Whether something is posted at all is in `outbox.py`.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from runspend.actions.alert.message import Mail
from runspend.actions.alert.smtp import Outcome
from runspend.config.mail import WebhookSettings
from runspend.config.types import address_secrets

# A webhook as recipient of a mail, where addresses stand.
WEBHOOK = "webhook"
TIMEOUT_SECONDS = (10.0, 20.0)  # to connect; between two bytes
DEADLINE_SECONDS = 60.0  # for all of one answer
NO_ANSWER = "no answer"
# Teams takes 28 KB a message, Slack 3,000 letters a block and 50 blocks.
MOST_LETTERS = 20_000
SLACK_LETTERS = 2_900
TRY_AGAIN = (408, 425, 429)


class Webhook:
    """Posts a night's mails. One that gave no answer is not asked again for every mail: those behind it must not wait."""

    def __init__(self, settings: WebhookSettings | None) -> None:
        self.settings = settings
        self._given_up: str | None = None

    def post(self, mail: Mail) -> Outcome:
        """Post a mail's subject and text. A 4xx is a refusal; no answer, a 5xx or "too many" is waiting."""
        if self.settings is None:
            return Outcome("refused", "mail.webhook is not configured any more")
        if self._given_up is not None:
            return Outcome("waiting", self._given_up, was_tried=False)
        body = slack_body(mail) if self.settings.kind == "slack" else teams_body(mail)
        outcome = _call("POST", self.settings.url.get_secret_value(), body)
        if outcome.reply.startswith(NO_ANSWER):
            self._given_up = outcome.reply
        return outcome


def ring(address: str) -> Outcome:
    """Call the heartbeat address once: whoever watches it knows that this night was good."""
    return _call("GET", address, None)


def slack_body(mail: Mail) -> dict[str, Any]:
    """An "incoming webhook" of Slack. Names cannot mention anybody: what Slack gives a meaning to is escaped (its "Formatting text")."""
    blocks: list[dict[str, Any]] = [{"type": "header", "text": {"type": "plain_text", "text": _short(mail.subject, 150), "emoji": False}}]
    for part in _parts(_shown(mail), SLACK_LETTERS):
        blocks.append({"type": "section", "text": {"type": "mrkdwn", "text": f"```{_escaped(part)}```", "verbatim": True}})
    blocks.append({"type": "context", "elements": [{"type": "plain_text", "text": mail.message_id, "emoji": False}]})
    return {"text": _escaped(mail.subject), "blocks": blocks}


def teams_body(mail: Mail) -> dict[str, Any]:
    """A message of Teams' "Workflows" with one Adaptive Card. Its text runs know no markup, so names stay text."""

    def text(words: str, **style: Any) -> dict[str, Any]:
        return {"type": "RichTextBlock", "inlines": [{"type": "TextRun", "text": words, **style}]}

    body = [text(mail.subject, weight="Bolder", size="Medium"), text(_shown(mail), fontType="Monospace"), text(mail.message_id, isSubtle=True)]
    card = {"$schema": "http://adaptivecards.io/schemas/adaptive-card.json", "type": "AdaptiveCard", "version": "1.4", "body": body}
    return {"type": "message", "attachments": [{"contentType": "application/vnd.microsoft.card.adaptive", "contentUrl": None, "content": card}]}


def _call(method: str, address: str, body: dict[str, Any] | None) -> Outcome:
    """In a thread that is left behind: a server that answers a letter at a time is within every timeout of `requests`."""
    answers = list[Outcome]()
    asking = threading.Thread(target=lambda: answers.append(_ask(method, address, body)), daemon=True)
    asking.start()
    asking.join(DEADLINE_SECONDS)
    return answers[0] if answers else Outcome("waiting", f"{NO_ANSWER} in time")


def _ask(method: str, address: str, body: dict[str, Any] | None) -> Outcome:
    import requests

    try:
        with _unlogged(), requests.request(method, address, json=body, timeout=TIMEOUT_SECONDS, allow_redirects=False, stream=True) as answer:
            code = answer.status_code
            said = next(answer.iter_content(200), b"")
    except (requests.RequestException, OSError, ValueError) as error:
        return Outcome("waiting", f"{NO_ANSWER}: {type(error).__name__}")
    if 200 <= code < 300:
        return Outcome("accepted", str(code))
    words = said.decode("utf-8", "replace")
    reply = str(code) if any(secret in words for secret in (address, *address_secrets(address))) else f"{code} {words}".strip()
    return Outcome("waiting" if code >= 500 or code in TRY_AGAIN else "refused", reply)


@contextmanager
def _unlogged() -> Iterator[None]:
    """urllib3 logs the path of what it asks for, which is the secret, where somebody set the level to DEBUG."""
    logger = logging.getLogger("urllib3.connectionpool")

    def keep(record: logging.LogRecord) -> bool:
        return record.levelno > logging.DEBUG

    logger.addFilter(keep)
    try:
        yield
    finally:
        logger.removeFilter(keep)


def _shown(mail: Mail) -> str:
    """The text of the mail, cut at a line where a chat takes no more; the mail has it all."""
    kept, left = "", mail.text.splitlines(keepends=True)
    while left and len((kept + left[0]).encode()) <= MOST_LETTERS:
        kept += left.pop(0)
    return kept + (f"… {len(left)} more lines are in the mail\n" if left else "")


def _parts(text: str, most: int) -> Iterator[str]:
    """The text in parts that each, escaped, stay below `most` letters; parts end where lines do."""
    part = ""
    for line in text.splitlines(keepends=True):
        if part and len(_escaped(part + line)) > most:
            yield part
            part = ""
        part += line
    if part:
        yield part


def _escaped(text: str) -> str:
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;").replace("```", "'''")


def _short(text: str, most: int) -> str:
    return text if len(text) <= most else text[: most - 1] + "…"
