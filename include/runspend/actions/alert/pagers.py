"""Build the requests to pagers: events of PagerDuty's Events API v2 and alerts of Opsgenie.

Belongs here: pure functions from a post to requests, and how each pager refuses a post. The id of a decision is also the id of its incident,
so a repeated post does not open a second incident. A correction closes the incidents of the decisions that it withdraws.
"""

from __future__ import annotations

import hashlib
from email.utils import parsedate_to_datetime
from typing import Any
from urllib.parse import quote

from runspend.actions.alert.posting import Answer, Post, Request, meaning, short
from runspend.actions.alert.smtp import SendResult
from runspend.config.mail import ChannelSettings

# Limits of PagerDuty in characters: 255 for a key, 1,024 for a summary, and 512 KB for the whole event. Limits of Opsgenie in characters: 130
# for a message, 512 for an alias, 15,000 for a description, 8,000 for all details, 50 for a tag, 25,000 for a note.
LONGEST_KEY = 250
LONGEST_SUMMARY, LONGEST_MESSAGE, LONGEST_DESCRIPTION, LONGEST_DETAIL, LONGEST_TAG, LONGEST_NOTE = 1_024, 130, 15_000, 1_500, 50, 2_000
LONGEST_TEXT = 20_000  # characters of the mail in an event
PRIORITIES = {"critical": "P1", "error": "P2", "warning": "P3", "info": "P5"}


def pagerduty_requests(post: Post, channel: ChannelSettings) -> list[Request]:
    """Return the requests to PagerDuty: one `trigger` event, or for a correction one `resolve` event per withdrawn decision."""

    def event(action: str, key: str, **more: Any) -> Request:
        return Request(channel.address, {"routing_key": channel.secret_key, "event_action": action, "dedup_key": short_key(key), **more})

    if post.is_correction:
        return [event("resolve", key) for key in post.takes_back]
    payload = {
        "summary": short(post.title, LONGEST_SUMMARY), "source": "runspend", "severity": post.severity,
        "timestamp": parsedate_to_datetime(post.mail.date).isoformat(), "class": post.mail.kind,
        "custom_details": {**_figures(post), "summary": post.says, "details": short(post.details, LONGEST_TEXT), "id": post.mail.message_id},
    }  # fmt: skip
    page = {"links": [{"href": post.button[1], "text": post.button[0]}], "client_url": post.button[1]} if post.button else {}
    return [event("trigger", post.key, payload=payload, client="Runspend", **page)]


def opsgenie_requests(post: Post, channel: ChannelSettings) -> list[Request]:
    """Return the requests to Opsgenie: one that creates an alert, or for a correction one `close` per withdrawn decision."""
    headers = {"Authorization": f"GenieKey {channel.secret_key}"}
    if post.is_correction:
        note = {"source": "Runspend", "note": short(f"{post.title}\n\n{post.says}", LONGEST_NOTE)}
        alerts = channel.address.rstrip("/")
        return [Request(f"{alerts}/{quote(short_key(key), safe='')}/close?identifierType=alias", note, headers) for key in post.takes_back]
    page = f"\n\n{post.button[0]}: {post.button[1]}" if post.button else ""
    body = {
        "message": short(post.title, LONGEST_MESSAGE), "alias": short_key(post.key), "source": "Runspend",
        "description": short(f"{post.title}\n\n{post.says}{page}\n\n{post.details}", LONGEST_DESCRIPTION),
        "priority": PRIORITIES[post.severity], "tags": ["runspend", post.mail.kind[:LONGEST_TAG]],
        "details": {name: short(value, LONGEST_DETAIL) for name, value in ({**_figures(post), "id": post.mail.message_id}).items()},
    }  # fmt: skip
    return [Request(channel.address, body, headers)]


def read_pager(answer: Answer) -> SendResult:
    """Return the result that an answer of a pager means.

    Both pagers answer a wrong key with a status that otherwise means a wrong post. Only the text of the answer shows the difference.
    """
    text = answer.text.casefold()
    return meaning(
        answer,
        is_bad_key="routing_key" in text or "routing key" in text or "invalid key" in text or "api key" in text or "key format" in text,
    )


def short_key(key: str) -> str:
    """Return the id of a decision in a length that both pagers accept. A long id is cut and gets a digest, so that ids remain different."""
    return key if len(key) <= LONGEST_KEY else f"{key[: LONGEST_KEY - 17]}-{hashlib.sha256(key.encode()).hexdigest()[:16]}"


def _figures(post: Post) -> dict[str, str]:
    return {name: f"{value} ({note})" if note else value for name, value, note in post.figures}
