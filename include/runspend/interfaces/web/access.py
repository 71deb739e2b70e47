"""Find the user of a request, and the settings that limit what this user may see.

The server in front of the pages identifies the user. Every answer uses `settings_of_caller`. Without `access`, it returns the settings
unchanged. With `access`, it returns the settings of the viewer, whose warehouse has no rows of other teams. The rules are in
`config/access.py`.
"""

from __future__ import annotations

from collections.abc import Callable
from contextvars import ContextVar
from dataclasses import dataclass, replace
from typing import Any

from fastapi import HTTPException, Request

from runspend.actions.alert.judge import budget_version
from runspend.config.settings import Settings


@dataclass(frozen=True)
class Caller:
    """The user of a request: the name and the groups (or roles) that the server in front of the pages states."""

    name: str | None = None
    groups: tuple[str, ...] = ()


BLANKS = " \t"  # characters that may surround the value of a header (RFC 9110, section 5.6.3)

# The user of the request in this context. The thread that answers gets a copy of the context: see `gate.py`.
CALLER: ContextVar[Caller] = ContextVar("runspend_caller", default=Caller())  # noqa: B039 (it is frozen)


def settings_of_caller(settings: Settings) -> Settings:
    """Return the settings with what the caller of this context may see. Raises HTTPException 403 if the caller may see no costs."""
    if settings.access is None:
        return settings
    caller = CALLER.get()
    viewer = settings.access.viewer(caller.name, caller.groups)
    if viewer is None:
        raise HTTPException(
            403, "cannot show costs: none of your groups may see them. Ask the operators to name one of your groups under `access`."
        )
    seen = settings.seen_by(viewer)
    if viewer.teams is None:
        return seen
    versions = tuple((budget.name, budget_version(budget, settings.currency)) for budget in seen.budgets)
    return settings.seen_by(replace(viewer, budgets=versions))


def sees_all(settings: Settings) -> bool:
    """Return whether the caller of this context sees the costs of all teams. `settings` are those of the file, without restrictions."""
    if settings.access is None:
        return True
    caller = CALLER.get()
    viewer = settings.access.viewer(caller.name, caller.groups)
    return viewer is not None and viewer.teams is None


def require_all(settings: Settings, what: str, instead: str) -> None:
    """Raise HTTPException 403 unless the viewer of `settings` sees all teams. `what` and `instead` are parts of the message."""
    if settings.viewer is not None and settings.viewer.teams is not None:
        own = ", ".join(settings.viewer.teams)
        raise HTTPException(403, f"cannot show this: {what} the costs of all teams, and you may only see those of {own}. {instead}")


def headers_guard(settings: Callable[[], Settings]) -> Callable[[Request], Caller]:
    """Return a guard that reads the caller from the headers of a reverse proxy. Without the headers, a caller has no groups.

    The guard raises HTTPException 403 if the request does not come from a proxy of `access.proxies`. It does the same if a header is there
    twice, because the proxy then passed on a header of the client.
    """

    def guard(request: Request) -> Caller:
        access = settings().access
        if access is None or not access.is_of_headers:
            return Caller()
        if not access.trusts(None if request.client is None else request.client.host):
            raise HTTPException(403, "cannot answer: this address is not a proxy of `access.proxies`. Open the pages through the proxy.")
        groups = _one(request, access.header)
        return Caller(_one(request, access.user_header) or None, tuple(filter(None, (group.strip(BLANKS) for group in groups.split(",")))))

    return guard


def _one(request: Request, header: str | None) -> str:
    found = [] if header is None else request.headers.getlist(header)
    if len(found) > 1:
        raise HTTPException(
            403, f"cannot answer: the request has the header {header} {len(found)} times. Let the proxy replace it, not add to it."
        )
    return _text(found[0]).strip(BLANKS) if found else ""


def _text(header: str) -> str:
    """Return the text of a header. HTTP reads headers as Latin-1, but the proxy may have sent UTF-8."""
    try:
        return header.encode("latin-1").decode("utf-8")
    except UnicodeError:
        return header


def groups_of(user: Any) -> tuple[str, ...]:
    """Return the roles of an Airflow user, or () if it has none.

    Airflow's simple auth manager has `role`. Other auth managers have `roles`, whose names count.
    """
    roles = getattr(user, "roles", None)
    found = [getattr(role, "name", role) for role in roles] if isinstance(roles, (list, tuple, set, frozenset)) else []
    return tuple(str(role) for role in (*found, getattr(user, "role", None)) if role)
