"""Turn errors of the warehouse into HTTP answers, find equal requests, and hide people as `mail.people` says.

The routes are in `app.py` and `api.py`.
"""

from __future__ import annotations

import logging
from collections.abc import Hashable, Iterator, Sequence
from contextlib import contextmanager

from fastapi import HTTPException, Request

from runspend.actions.explain import UnknownName
from runspend.actions.explain.figures import Candidate
from runspend.actions.explore.view import PEOPLE
from runspend.config.settings import Settings
from runspend.core.errors import ConfigError, MissingExtra, RunspendError, SqlRefused, UsageError, WarehouseDamaged

RETRY = {"Retry-After": "60"}

log = logging.getLogger(__name__)


class WayOut(HTTPException):
    """An error whose page has links: to the same page in one of `currencies`, or to one of `runs`."""

    def __init__(self, status: int, why: str, currencies: Sequence[str] = (), runs: Sequence[Candidate] = ()) -> None:
        super().__init__(status, why)
        self.currencies = tuple(currencies)
        self.runs = tuple(runs)


@contextmanager
def asked() -> Iterator[None]:
    """Turn errors into HTTPException: 400 for a wrong request, 503 for a warehouse that cannot be read."""
    try:
        yield
    except (SqlRefused, ConfigError, MissingExtra) as error:  # subclasses of UsageError that the reader of the page did not cause
        raise _unreadable(error) from error
    except UsageError as error:
        raise WayOut(400, str(error), getattr(error, "currencies", ()), getattr(error, "candidates", ())) from error
    except WarehouseDamaged as error:  # its text names units, not paths
        raise HTTPException(503, str(error), RETRY) from error
    except (RunspendError, OSError) as error:
        raise _unreadable(error) from error


@contextmanager
def known() -> Iterator[None]:
    """Turn UnknownName into HTTPException 404: the run, machine or bill line does not exist."""
    try:
        yield
    except UnknownName as error:
        raise HTTPException(404, str(error)) from error


def key_of(request: Request) -> Hashable:
    """Return a key that is the same for equal requests of one user. Simultaneous requests with the same key are answered once."""
    path = request.scope.get("raw_path") or request.scope["path"]  # as it was sent: %2F and / are two addresses
    return id(request.app), request.headers.get("host"), request.scope.get("root_path"), path, request.scope["query_string"]


def hidden_people(settings: Settings) -> tuple[str, ...]:
    """Return the dimensions that name people if `mail.people` hides them, otherwise ()."""
    return () if settings.mail.people == "show" else PEOPLE


def _unreadable(error: Exception) -> HTTPException:
    log.error("a page failed: %s", error)  # only in the log: it contains paths and hosts that not every reader may see
    return HTTPException(
        503,
        "cannot show this page: the warehouse cannot be read. Operators find the reason in the server's log, or run: runspend doctor",
        RETRY,
    )
