"""Send one POST request to a chat or pager and interpret the answer. Also call the heartbeat address.

Belongs here: the parts that all services share: a post, a request and an answer. The content for each service is in `chats.py` and
`pagers.py`. Addresses and keys are secrets. No message may contain them, so the text of an exception is never shown.
"""

from __future__ import annotations

import json
import logging
import re
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime, timedelta, timezone
from email.utils import parsedate_to_datetime
from typing import Any, Literal, TypeVar

from runspend.actions.alert.message import Mail
from runspend.actions.alert.smtp import SendResult
from runspend.config.types import address_secrets

TIMEOUT_SECONDS = (10.0, 20.0)  # to connect, and between two bytes
DEADLINE_SECONDS = 60.0  # for one complete answer
NO_ANSWER = "no answer"
BAD_PLACE = (401, 403, 404, 410)  # the key or the address is wrong; Runspend sends the post after operators correct it
TRY_AGAIN = (408, 425, 429)
LONGEST_ANSWER = 2_000  # bytes of an answer that are read
LONGEST_WAIT = timedelta(days=1)  # limit for the pause that a service may ask for
# Limits in characters for a title, for the first paragraph, and for the name, value and note of a figure. Each service has its own limit for
# details.
LONGEST_TITLE, LONGEST_SAYS, LONGEST_FIGURE = 200, 2_000, (40, 100, 150)
MOST_FIGURES, LONGEST_BUTTON, LONGEST_ADDRESS = 4, 75, 2_000

T = TypeVar("T")
Severity = Literal["critical", "error", "warning", "info"]


@dataclass(frozen=True)
class Post:
    """A mail as a message for chats and pagers, with the facts about its decision that a pager needs."""

    mail: Mail
    key: str  # id of the decision, also used for a pager's incident
    severity: Severity = "info"
    takes_back: tuple[str, ...] = ()  # for a correction: the ids of the corrected decisions
    is_correction: bool = False
    is_taken_back: bool = False  # a later correction withdraws this decision

    @property
    def title(self) -> str:
        """The mail's subject without "[runspend]", because chats show the sender."""
        return short(self.mail.subject.removeprefix("[runspend] "), LONGEST_TITLE)

    @property
    def figures(self) -> Sequence[tuple[str, str, str]]:
        """The main figures as (name, value, note)."""
        name, value, note = LONGEST_FIGURE
        found = self.mail.brief.figures if self.mail.brief else ()
        return [(short(one[0], name), short(one[1], value), short(one[2], note)) for one in found[:MOST_FIGURES]]

    @property
    def says(self) -> str:
        """The mail's first paragraph."""
        return short(self.mail.brief.says, LONGEST_SAYS) if self.mail.brief else ""

    @property
    def button(self) -> tuple[str, str] | None:
        """The text and the address of the link to the page on which people can act. None without a link, or if the address is too long."""
        found = self.mail.brief.button if self.mail.brief else None
        return (short(found[0], LONGEST_BUTTON), found[1]) if found and len(found[1]) <= LONGEST_ADDRESS else None

    @property
    def details(self) -> str:
        """The text of the mail after its first part (`brief`)."""
        return self.mail.text[self.mail.brief.details_at :] if self.mail.brief else self.mail.text


@dataclass(frozen=True)
class Request:
    """A JSON document to send by POST."""

    url: str = field(repr=False)
    body: Mapping[str, Any]
    headers: Mapping[str, str] = field(default_factory=dict, repr=False)


@dataclass(frozen=True)
class Answer:
    """The answer of a service: its HTTP status, the beginning of the body, and the requested pause (`Retry-After`)."""

    code: int
    text: str
    wait: timedelta | None = None


def short(text: str, most: int) -> str:
    """Return a text of at most `most` characters. A longer text is cut and ends with "…"."""
    return text if len(text) <= most else text[: most - 1] + "…"


def encode(body: Mapping[str, Any]) -> bytes:
    """Return a document as JSON in UTF-8."""
    return json.dumps(body, ensure_ascii=False).encode("utf-8", "replace")


def ask(request: Request, secrets: Sequence[str]) -> Answer | SendResult:
    """Post a document and return the answer. Its text is empty if it contains a secret. Without an answer, the result is `waiting`."""
    secrets = [part for secret in (request.url, *secrets) for part in _parts(secret)]
    return in_time(lambda: _ask("POST", request.url, encode(request.body), request.headers, secrets))


def _parts(secret: str) -> list[str]:
    """Return the texts that must not be shown: the secret itself, the path of an address, and parts of the path with 12 or more characters."""
    paths = address_secrets(secret)
    return [part for part in (secret, *paths, *(word for path in paths for word in re.split(r"[/?&=]", path) if len(word) >= 12)) if part]


def ring(address: str) -> SendResult:
    """Call the heartbeat address once. The call informs the monitoring service that this pipeline run succeeded."""
    answer = in_time(lambda: _ask("GET", address, None, {}, _parts(address)))
    return answer if isinstance(answer, SendResult) else SendResult("accepted", str(answer.code)) if is_good(answer) else meaning(answer)


def is_good(answer: Answer) -> bool:
    """Return whether the service accepted the post: its status is 2xx."""
    return 200 <= answer.code < 300


def meaning(answer: Answer, *, is_bad_key: bool = False) -> SendResult:
    """Return the result that an answer means. `is_bad_key`: the text of the answer reports a wrong key, with any status.

    2xx means accepted. The exception is a web page, which may be the login page of a proxy and means waiting. 5xx and "too many requests"
    also mean waiting. A wrong key or address is a refusal that operators can fix, so it is not final. Any other 4xx is a final refusal,
    because the post itself is wrong.
    """
    reply = f"{answer.code} {' '.join(answer.text.split())}".strip()[:300]
    if is_good(answer):
        if answer.text.lstrip().startswith("<"):
            return SendResult("waiting", f"{answer.code} with a web page instead of the service's answer")
        return SendResult("accepted", str(answer.code))
    if answer.code >= 500 or answer.code in TRY_AGAIN:
        return SendResult("waiting", reply, wait=answer.wait)
    return SendResult("refused", reply, is_final=not (is_bad_key or answer.code in BAD_PLACE or answer.code < 400))


def in_time(call: Callable[[], T]) -> T | SendResult:
    """Return the result of a call, or `waiting` if it takes longer than DEADLINE_SECONDS.

    The call runs in a thread, which is abandoned at the deadline. The timeouts of `requests` are not enough, because a server that sends one
    byte at a time never exceeds them.
    """
    answers = list[T]()
    asking = threading.Thread(target=lambda: answers.append(call()), daemon=True)
    asking.start()
    asking.join(DEADLINE_SECONDS)
    return answers[0] if answers else SendResult("waiting", f"{NO_ANSWER} in time")


def _ask(method: str, address: str, body: bytes | None, headers: Mapping[str, str], secrets: Sequence[str]) -> Answer | SendResult:
    import requests

    headers = {**({} if body is None else {"Content-Type": "application/json; charset=utf-8"}), **headers}
    try:
        with (
            unlogged(),
            requests.request(
                method, address, data=body, headers=headers, timeout=TIMEOUT_SECONDS, allow_redirects=False, stream=True
            ) as answer,
        ):
            text = next(answer.iter_content(LONGEST_ANSWER), b"").decode("utf-8", "replace")
            wait = _wait(answer.headers.get("Retry-After"))
            return Answer(answer.status_code, "" if any(secret in text for secret in secrets) else text, wait)
    except (requests.RequestException, OSError, ValueError) as error:
        return SendResult("waiting", f"{NO_ANSWER}: {type(error).__name__}")


def _wait(header: str | None) -> timedelta | None:
    """Return the pause that `Retry-After` asks for, as seconds or a date (RFC 9110, section 10.2.3). None without a valid one."""
    text = (header or "").strip()
    if text.isdecimal() and len(text) < 10:
        return min(timedelta(seconds=int(text)), LONGEST_WAIT)
    try:
        at = parsedate_to_datetime(text)
        return max(timedelta(0), min((at if at.tzinfo else at.replace(tzinfo=timezone.utc)) - datetime.now(timezone.utc), LONGEST_WAIT))
    except (ValueError, OverflowError):
        return None


@contextmanager
def unlogged() -> Iterator[None]:
    """Hide the debug log of urllib3. It contains the path of the request, which is secret."""
    logger = logging.getLogger("urllib3.connectionpool")

    def keep(record: logging.LogRecord) -> bool:
        return record.levelno > logging.DEBUG

    logger.addFilter(keep)
    try:
        yield
    finally:
        logger.removeFilter(keep)
