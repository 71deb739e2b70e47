"""One POST to a chat or pager, and the meaning of its answer. Also the call of the heartbeat address.

Belongs here: what all of them share: a finished post, a request, an answer. The content for each service is in `chats.py` and `pagers.py`.
Addresses and keys are secrets as a whole. No message repeats them, so the text of an error is never shown.
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

TIMEOUT_SECONDS = (10.0, 20.0)  # to connect; between two bytes
DEADLINE_SECONDS = 60.0  # for one whole answer
NO_ANSWER = "no answer"
BAD_PLACE = (401, 403, 404, 410)  # the key or the address is wrong: operators can fix that, and the post is sent then
TRY_AGAIN = (408, 425, 429)
LONGEST_ANSWER = 2_000  # bytes that are read
LONGEST_WAIT = timedelta(days=1)  # that a service may ask for
# Characters of a title, of the first paragraph, and of a figure's name, value and note. Details are cut by each service's limit.
LONGEST_TITLE, LONGEST_SAYS, LONGEST_FIGURE = 200, 2_000, (40, 100, 150)
MOST_FIGURES, LONGEST_BUTTON, LONGEST_ADDRESS = 4, 75, 2_000

T = TypeVar("T")
Severity = Literal["critical", "error", "warning", "info"]


@dataclass(frozen=True)
class Post:
    """A mail in the form for chats and pagers, with the facts about the decision that a pager needs."""

    mail: Mail
    key: str  # the decision's id: a pager's incident has the same
    severity: Severity = "info"
    takes_back: tuple[str, ...] = ()  # a correction: the ids of the decisions that no longer hold
    is_correction: bool = False
    is_taken_back: bool = False  # a correction of this decision is known

    @property
    def title(self) -> str:
        """The mail's subject without the program's name: a post has a sender of its own."""
        return short(self.mail.subject.removeprefix("[runspend] "), LONGEST_TITLE)

    @property
    def figures(self) -> Sequence[tuple[str, str, str]]:
        """The figures at a glance: name, value, note."""
        name, value, note = LONGEST_FIGURE
        found = self.mail.brief.figures if self.mail.brief else ()
        return [(short(one[0], name), short(one[1], value), short(one[2], note)) for one in found[:MOST_FIGURES]]

    @property
    def says(self) -> str:
        """The mail's first paragraph."""
        return short(self.mail.brief.says, LONGEST_SAYS) if self.mail.brief else ""

    @property
    def button(self) -> tuple[str, str] | None:
        """The text and the address of the page where people can act."""
        found = self.mail.brief.button if self.mail.brief else None
        return (short(found[0], LONGEST_BUTTON), found[1]) if found and len(found[1]) <= LONGEST_ADDRESS else None

    @property
    def details(self) -> str:
        """The rest of the mail's text."""
        return self.mail.text[self.mail.brief.details_at :] if self.mail.brief else self.mail.text


@dataclass(frozen=True)
class Request:
    """A JSON document to post."""

    url: str = field(repr=False)
    body: Mapping[str, Any]
    headers: Mapping[str, str] = field(default_factory=dict, repr=False)


@dataclass(frozen=True)
class Answer:
    """An answer of a service: its code, the beginning of the body, and how long it asks to wait."""

    code: int
    text: str
    wait: timedelta | None = None


def short(text: str, most: int) -> str:
    """Return a string of at most this many characters."""
    return text if len(text) <= most else text[: most - 1] + "…"


def encode(body: Mapping[str, Any]) -> bytes:
    """Return a document as it is posted."""
    return json.dumps(body, ensure_ascii=False).encode("utf-8", "replace")


def ask(request: Request, secrets: Sequence[str]) -> Answer | SendResult:
    """Post a document and return the answer, without the secrets; or a waiting result if there is no answer."""
    secrets = [part for secret in (request.url, *secrets) for part in _parts(secret)]
    return in_time(lambda: _ask("POST", request.url, encode(request.body), request.headers, secrets))


def _parts(secret: str) -> list[str]:
    """Return the secret strings: a key, or an address with its path and the long parts of the path."""
    paths = address_secrets(secret)
    return [part for part in (secret, *paths, *(word for path in paths for word in re.split(r"[/?&=]", path) if len(word) >= 12)) if part]


def ring(address: str) -> SendResult:
    """Call the heartbeat address once. It tells the monitoring service that this pipeline run was good."""
    answer = in_time(lambda: _ask("GET", address, None, {}, _parts(address)))
    return answer if isinstance(answer, SendResult) else SendResult("accepted", str(answer.code)) if is_good(answer) else meaning(answer)


def is_good(answer: Answer) -> bool:
    """Whether the service took the post."""
    return 200 <= answer.code < 300


def meaning(answer: Answer, *, is_bad_key: bool = False) -> SendResult:
    """Return the meaning of an answer. `is_bad_key`: the service says that it is about the key, with any code.

    2xx is an acceptance, but a web page is not the service's answer: a proxy's login page has this code too. 5xx and "too many
    requests" are waiting. A wrong key or address is a refusal that operators can fix. Any other 4xx is about the post itself.
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
    """Return the result of a call made in a thread that is abandoned at the deadline.

    A server that answers one letter at a time never exceeds a timeout of `requests`.
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
    """Return what `Retry-After` asks for: seconds, or a date (RFC 9110, 10.2.3)."""
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
    """Hide urllib3's debug log records. They contain the path of the request, which is the secret."""
    logger = logging.getLogger("urllib3.connectionpool")

    def keep(record: logging.LogRecord) -> bool:
        return record.levelno > logging.DEBUG

    logger.addFilter(keep)
    try:
        yield
    finally:
        logger.removeFilter(keep)
