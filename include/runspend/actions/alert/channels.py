"""Post the mails of one pipeline run to chats and pagers.

Belongs here: when to wait between posts, and when to give up on a channel. The content for each kind of channel is in `chats.py`, `pagers.py`
and `by_apprise.py`. `outbox.py` decides what to post, and records the results.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from datetime import datetime, timedelta
from decimal import Decimal
from typing import Any, NamedTuple

from runspend.actions.alert.by_apprise import send_by_apprise
from runspend.actions.alert.chats import google_chat_requests, read_teams, slack_requests, teams_requests
from runspend.actions.alert.message import Mail
from runspend.actions.alert.pagers import opsgenie_requests, pagerduty_requests, read_pager
from runspend.actions.alert.posting import NO_ANSWER, Answer, Post, Request, Severity, ask, meaning
from runspend.actions.alert.smtp import SendResult
from runspend.config.mail import ChannelSettings, MailSettings
from runspend.config.types import CONNECTION

SECONDS_BETWEEN = 1.0  # between two posts to one channel: Slack and Google Chat accept one per second, PagerDuty two
LONGEST_PAUSE = timedelta(seconds=30)  # after a request for a longer pause, the channel is not called again in this pipeline run
PAUSES = 3  # highest number of attempts for one post
RUN_SECONDS = 600.0  # limit for all posts of a pipeline run to one channel
GONE = "runspend.yaml no longer has this channel"
ONLY_IN_TASKS = "it uses an Airflow connection, which only a task can read"


class Kind(NamedTuple):
    requests: Callable[[Post, ChannelSettings], list[Request]]
    read: Callable[[Answer], SendResult]


KINDS: Mapping[str, Kind] = {
    "slack": Kind(slack_requests, meaning),
    "teams": Kind(teams_requests, read_teams),
    "google_chat": Kind(google_chat_requests, meaning),
    "pagerduty": Kind(pagerduty_requests, read_pager),
    "opsgenie": Kind(opsgenie_requests, read_pager),
}
# Severity of mails to operators, by their kind. All other kinds are "error".
CRITICAL = ("damaged", "machine-failed", "no-warehouse")
HARMLESS = ("not-archived", "not-annotated")


class Channels:
    """Sender of posts to all channels. A channel that did not answer or refused the key is not called again, so other mails do not wait."""

    def __init__(self, settings: MailSettings, now: datetime, paused: Mapping[str, str] | None = None) -> None:
        """Set the channels. `paused` maps each channel that asked for a pause to the time (ISO) when the pause ends."""
        self.settings = settings
        self._given_up = {name: f"asked to wait until {until[:16]}" for name, until in (paused or {}).items() if until > now.isoformat()}
        self._begun = dict[str, float]()
        self._last = dict[str, float]()

    def post(self, recipient: str, post: Post) -> SendResult:
        """Post a mail to one channel and return the result. If a correction needs several requests to a pager, the first failure is the result."""
        channel = self.settings.posts_to.get(recipient)
        if channel is None:
            return SendResult("refused", GONE)
        if recipient in self._given_up:
            return SendResult("waiting", self._given_up[recipient], was_tried=False)
        if any(text.startswith(CONNECTION) for text in (channel.address, channel.secret_key)):
            return SendResult("waiting", ONLY_IN_TASKS, was_tried=False)
        if channel.is_pager and post.is_taken_back:
            return SendResult("skipped", "a correction withdrew it before it was delivered")
        result = self._send(recipient, channel, post)
        is_lost = result.state == "waiting" and (result.wait is not None or result.reply.startswith(NO_ANSWER))
        if is_lost or (result.state == "refused" and not result.is_final):
            self._given_up[recipient] = result.reply
        return result

    def _send(self, recipient: str, channel: ChannelSettings, post: Post) -> SendResult:
        if channel.kind == "apprise":
            return self._paced(recipient, lambda: send_by_apprise(post, channel))
        kind, result = KINDS[channel.kind], SendResult("skipped", "it has no incident to resolve")
        for request in kind.requests(post, channel):
            result = self._paced(recipient, lambda request=request: _read(kind, request, channel))  # type: ignore[misc]
            if result.state != "accepted":
                return result
        return result

    def _paced(self, recipient: str, call: Callable[[], SendResult]) -> SendResult:
        """Make a call at least SECONDS_BETWEEN after the last one. If the service asks for a short pause, wait and call again."""
        begun = self._begun.setdefault(recipient, time.monotonic())
        for left in reversed(range(PAUSES)):
            sleep(self._last.get(recipient, -SECONDS_BETWEEN) + SECONDS_BETWEEN - time.monotonic())
            if time.monotonic() - begun > RUN_SECONDS:
                return SendResult("waiting", f"{NO_ANSWER} in time: more than {RUN_SECONDS:.0f} s for all posts", was_tried=False)
            result = call()
            self._last[recipient] = time.monotonic()
            if result.wait is None or result.wait > LONGEST_PAUSE or not left:
                break
            sleep(result.wait.total_seconds())
        return result


def post_test(settings: MailSettings, recipient: str, mail: Mail, now: datetime) -> SendResult:
    """Post a test message and return the result. For a pager, the incident has the lowest severity and is resolved at once."""
    channels, key = Channels(settings, now), mail.message_id.strip("<>").rpartition("@")[0]
    result = channels.post(recipient, Post(mail, key))
    if result.state == "accepted" and settings.posts_to[recipient].is_pager:
        result = channels.post(recipient, Post(mail, key, takes_back=(key,), is_correction=True))
        return replace(result, reply=f"{result.reply}; incident {key} opened and resolved") if result.state == "accepted" else result
    return result


def post_of(kind: str, key: str, value: Mapping[str, Any], leads: Mapping[str, str]) -> Post:
    """Return the mail of a record as a post. `leads` maps each alert id to the key of the record whose mail reported it."""
    mail = Mail.from_record(value["mail"])
    if kind == "digests":
        return Post(mail, key)
    if kind == "notices":  # the key ends with the date, which is removed: the same cause on the next day is the same incident
        severity: Severity = "critical" if mail.kind in CRITICAL else "warning" if mail.kind in HARMLESS else "error"
        return Post(mail, key.rpartition(".")[0], severity)
    if value.get("kind") == "correction":
        return Post(mail, key, "info", takes_back(value, leads), is_correction=True)
    return Post(mail, key, "error" if is_exceeded(value) else "warning")


def is_exceeded(alert: Mapping[str, Any]) -> bool:
    """Return whether an alert's record reports that the whole budget is spent."""
    return alert.get("kind") == "actual" and Decimal(alert["spent"]) >= Decimal(alert["amount"])


def takes_back(alert: Mapping[str, Any], leads: Mapping[str, str]) -> tuple[str, ...]:
    """Return the keys of the records whose mails reported the alerts that a correction withdraws. Empty for other alerts."""
    found = dict[str, None]()
    for item in alert.get("items") or ():
        if item["kind"] == "correction":
            head, _, tail = str(item["alert_id"]).rpartition(".correction.")
            if (lead := leads.get(f"{head}.actual.{tail}")) is not None:
                found[lead] = None
    return tuple(found)


def sleep(seconds: float) -> None:
    """Wait for this time. Zero and negative times return at once."""
    if seconds > 0:
        time.sleep(seconds)


def _read(kind: Kind, request: Request, channel: ChannelSettings) -> SendResult:
    answer = ask(request, [channel.address, channel.secret_key])
    return answer if isinstance(answer, SendResult) else kind.read(answer)
