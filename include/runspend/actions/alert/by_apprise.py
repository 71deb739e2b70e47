"""Post through Apprise, which supports ntfy, Discord, Telegram and many other services. The address decides the service.

Belongs here: the one call of the library (extra `apprise`). Apprise escapes the text for each service and respects its limits. It returns
only whether the service accepted the message, so the status of the answer is read from its log. The log is not shown, because it contains
the address.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Iterator
from contextlib import contextmanager

from runspend.actions.alert.posting import NO_ANSWER, Answer, Post, in_time, meaning, unlogged
from runspend.actions.alert.smtp import SendResult
from runspend.config.mail import ChannelSettings

# Limits in bytes and in characters. ntfy accepts a document of 8,000 bytes, in which escaped letters can be three times as long.
LONGEST_TEXT, LONGEST_ADDRESS = 1_500, 500
NOT_INSTALLED = "Apprise is not installed. Install it: pip install 'runspend[apprise]'"
_CODE = re.compile(r"error=(\d{3})")


def send_by_apprise(post: Post, channel: ChannelSettings) -> SendResult:
    """Send the post to the service of the channel's address, and return the result."""
    try:
        import apprise
    except ModuleNotFoundError:
        return SendResult("waiting", NOT_INSTALLED)
    body = _text(post)

    def send() -> SendResult:
        with unlogged(), _kept_log() as lines:
            try:
                service = apprise.Apprise.instantiate(channel.address)
                if service is None:
                    return SendResult("refused", "Apprise does not know an address of this form", is_final=False)
                if service.notify(body=body, title=post.title, body_format=apprise.NotifyFormat.TEXT):
                    return SendResult("accepted", "accepted by the service")
            except Exception as error:  # noqa: BLE001  # any error of one of the many plug-ins must not prevent other mails
                return SendResult("waiting", f"{NO_ANSWER}: {type(error).__name__}")
        code = next((int(found[1]) for line in lines if (found := _CODE.search(line))), None)
        return SendResult("waiting", NO_ANSWER) if code is None else meaning(Answer(code, ""))

    return in_time(send)


def _text(post: Post) -> str:
    """Return the post as text: the figures, the first paragraph or else the details, the link and the Message-ID."""
    figures = "\n".join(f"{name}: {value} ({note})" if note else f"{name}: {value}" for name, value, note in post.figures)
    text = "\n\n".join(part for part in (figures, post.says or post.details) if part).encode("utf-8", "replace")
    page = f"\n\n{post.button[0]}: {post.button[1]}" if post.button and len(post.button[1]) < LONGEST_ADDRESS else ""
    shown = text.decode() if len(text) <= LONGEST_TEXT else text[:LONGEST_TEXT].decode("utf-8", "ignore") + "…"
    return f"{shown}{page}\n\n{post.mail.message_id}"


@contextmanager
def _kept_log() -> Iterator[list[str]]:
    """Hide the log of Apprise and yield its warnings and errors. They contain addresses, topics and keys."""
    lines, logger = list[str](), logging.getLogger("apprise")

    def keep(record: logging.LogRecord) -> bool:
        if record.levelno >= logging.WARNING:
            lines.append(record.getMessage())
        return False

    logger.addFilter(keep)
    try:
        yield lines
    finally:
        logger.removeFilter(keep)
