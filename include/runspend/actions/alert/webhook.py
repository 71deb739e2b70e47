"""Post to a webhook with Slack's or Teams' message format, and call the heartbeat address.

Put here the posted content and the meaning of an answer. Both addresses are secrets as a whole. No message repeats them, so the text of
an error is never shown. The decision to post is in `outbox.py`.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from runspend.actions.alert.message import Mail
from runspend.actions.alert.smtp import SendResult
from runspend.config.mail import WebhookSettings
from runspend.config.types import address_secrets

# The recipient name of a webhook, used in place of a mail address.
WEBHOOK = "webhook"
TIMEOUT_SECONDS = (10.0, 20.0)  # to connect; between two bytes
DEADLINE_SECONDS = 60.0  # for one whole answer
NO_ANSWER = "no answer"
# Teams accepts 28 KB per message, Slack 3,000 characters per block and 50 blocks.
MOST_LETTERS = 20_000
SLACK_LETTERS = 2_900
TRY_AGAIN = (408, 425, 429)


class Webhook:
    """Posts the mails of one pipeline run. A webhook that gave no answer is not called again, so that the remaining mails do not wait."""

    def __init__(self, settings: WebhookSettings | None) -> None:
        self.settings = settings
        self._given_up: str | None = None

    def post(self, mail: Mail) -> SendResult:
        """Post a mail's subject and text. A 4xx is a refusal. No answer, a 5xx or "too many" is waiting."""
        if self.settings is None:
            return SendResult("refused", "mail.webhook is no longer configured")
        if self._given_up is not None:
            return SendResult("waiting", self._given_up, was_tried=False)
        body = slack_body(mail) if self.settings.kind == "slack" else teams_body(mail)
        outcome = _call("POST", self.settings.url.get_secret_value(), body)
        if outcome.reply.startswith(NO_ANSWER):
            self._given_up = outcome.reply
        return outcome


def ring(address: str) -> SendResult:
    """Call the heartbeat address once. It tells the monitoring service that this pipeline run was good."""
    return _call("GET", address, None)


def slack_body(mail: Mail) -> dict[str, Any]:
    """Return the body for Slack's "incoming webhook".

    Names cannot mention anyone: Slack's special characters are escaped (see its "Formatting text").
    """
    blocks: list[dict[str, Any]] = [{"type": "header", "text": {"type": "plain_text", "text": _short(mail.subject, 150), "emoji": False}}]
    for part in _parts(_shown(mail), SLACK_LETTERS):
        blocks.append({"type": "section", "text": {"type": "mrkdwn", "text": f"```{_escaped(part)}```", "verbatim": True}})
    blocks.append({"type": "context", "elements": [{"type": "plain_text", "text": mail.message_id, "emoji": False}]})
    return {"text": _escaped(mail.subject), "blocks": blocks}


def teams_body(mail: Mail) -> dict[str, Any]:
    """Return a message for Teams' "Workflows" with one Adaptive Card. Its text runs have no markup, so names stay plain text."""

    def text(words: str, **style: Any) -> dict[str, Any]:
        return {"type": "RichTextBlock", "inlines": [{"type": "TextRun", "text": words, **style}]}

    body = [
        text(mail.subject, weight="Bolder", size="Medium"),
        text(_shown(mail), fontType="Monospace"),
        text(mail.message_id, isSubtle=True),
    ]
    card = {"$schema": "http://adaptivecards.io/schemas/adaptive-card.json", "type": "AdaptiveCard", "version": "1.4", "body": body}
    return {
        "type": "message",
        "attachments": [{"contentType": "application/vnd.microsoft.card.adaptive", "contentUrl": None, "content": card}],
    }


def _call(method: str, address: str, body: dict[str, Any] | None) -> SendResult:
    """Call the address in a thread that is abandoned at the deadline.

    A server that answers one letter at a time never exceeds a timeout of `requests`.
    """
    answers = list[SendResult]()
    asking = threading.Thread(target=lambda: answers.append(_ask(method, address, body)), daemon=True)
    asking.start()
    asking.join(DEADLINE_SECONDS)
    return answers[0] if answers else SendResult("waiting", f"{NO_ANSWER} in time")


def _ask(method: str, address: str, body: dict[str, Any] | None) -> SendResult:
    import requests

    try:
        with (
            _unlogged(),
            requests.request(method, address, json=body, timeout=TIMEOUT_SECONDS, allow_redirects=False, stream=True) as answer,
        ):
            code = answer.status_code
            said = next(answer.iter_content(200), b"")
    except (requests.RequestException, OSError, ValueError) as error:
        return SendResult("waiting", f"{NO_ANSWER}: {type(error).__name__}")
    if 200 <= code < 300:
        return SendResult("accepted", str(code))
    words = said.decode("utf-8", "replace")
    reply = str(code) if any(secret in words for secret in (address, *address_secrets(address))) else f"{code} {words}".strip()
    return SendResult("waiting" if code >= 500 or code in TRY_AGAIN else "refused", reply)


@contextmanager
def _unlogged() -> Iterator[None]:
    """Hide urllib3's debug log records. They contain the path of the request, which is the secret."""
    logger = logging.getLogger("urllib3.connectionpool")

    def keep(record: logging.LogRecord) -> bool:
        return record.levelno > logging.DEBUG

    logger.addFilter(keep)
    try:
        yield
    finally:
        logger.removeFilter(keep)


def _shown(mail: Mail) -> str:
    """Return the mail's text, cut at a line end where it exceeds a chat's limit. The mail has the full text."""
    kept, left = "", mail.text.splitlines(keepends=True)
    while left and len((kept + left[0]).encode()) <= MOST_LETTERS:
        kept += left.pop(0)
    return kept + (f"… {len(left)} more lines are in the mail\n" if left else "")


def _parts(text: str, most: int) -> Iterator[str]:
    """Split the text into parts that each, after escaping, stay below `most` letters. Parts end at line ends."""
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
