"""One HTTP request to a store's REST interface. It follows no redirect, and no error contains an address, which may hold a token."""

from __future__ import annotations

import http.client
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

SECONDS = 60
RETRY_SECONDS = (1, 4, 10)  # between the attempts at a page

Answer = TypeVar("Answer")


class RestError(Exception):
    """A failed request: the status and code of the answer; status None if there was no answer."""

    def __init__(self, status: int | None, code: str) -> None:
        super().__init__(f"{status or 'no answer'} {code}".strip())
        self.status, self.code = status, code

    @property
    def is_refusal(self) -> bool:
        """Whether the service reported that it did nothing."""
        return self.status is not None and (300 <= self.status < 500 or self.status == 501)

    @property
    def is_passing(self) -> bool:
        """Whether a retry may help."""
        return self.status is None or self.status == 429 or self.status >= 500


@contextmanager
def asked(request: urllib.request.Request, *, code: Callable[[Any], str] = lambda headers: "") -> Iterator[Any]:
    """Yield the open reply. `code` finds the service's code in the headers of a refusal. Raises RestError, also while the reply is read."""
    try:
        # created for each request, since it reads the environment's proxies
        with urllib.request.build_opener(_NoRedirects).open(request, timeout=SECONDS) as reply:
            yield reply
    except urllib.error.HTTPError as error:
        with error:
            raise RestError(error.code, code(error.headers)) from None
    except (OSError, http.client.HTTPException) as error:
        raise RestError(None, type(error).__name__) from None


def tried(ask: Callable[[], Answer]) -> Answer:
    """Request a page, with retries while the service is busy: one busy reply must not end a listing of millions."""
    for seconds in RETRY_SECONDS:
        try:
            return ask()
        except RestError as error:
            if not error.is_passing:
                raise
            time.sleep(seconds)
    return ask()


class _NoRedirects(urllib.request.HTTPRedirectHandler):
    def redirect_request(self, *_: Any) -> None:
        """Refuse every redirect: the address may contain a token."""
