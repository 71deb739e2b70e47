"""`access` of runspend.yaml: which groups and users see the costs of which teams on pages and in the HTTP API.

This module decides what a viewer may see. `interfaces/web/access.py` finds out who the viewer is. `warehouse/team_views.py` removes the
rows of others from tables.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Annotated, Literal

from pydantic import AfterValidator, Field, model_validator

from runspend.config.types import Frozen

ALL = "all"
RESERVED = ("other teams", "no team")  # the name of the costs of others on pages


@dataclass(frozen=True)
class Viewer:
    """A viewer of costs: the groups that decide what they see, and their teams. `teams` is None for those who see all.

    `budgets`: names and versions of the teams' budgets. Results judged by other rules may include the costs of others.
    """

    groups: tuple[str, ...]
    teams: tuple[str, ...] | None
    budgets: tuple[tuple[str, str], ...] = ()


def _team(text: str) -> str:
    if text in RESERVED:
        raise ValueError(f"{text!r} is the name that pages give to the costs of others. Write the name of a team")
    return text


def _network(text: str) -> str:
    try:
        ipaddress.ip_network(text, strict=False)
    except ValueError:
        raise ValueError("an address or a network is needed, such as 10.0.0.5 or 10.0.0.0/24") from None
    return text


# No line breaks: they would end a literal of SQL. No pattern: a team is one name.
Team = Annotated[str, Field(min_length=1, max_length=200, pattern=r"^[^\x00-\x1f\x7f]+$"), AfterValidator(_team)]
Teams = Annotated[list[Team], Field(min_length=1)] | Literal["all"]
Who = Annotated[
    str, Field(min_length=1, max_length=200, pattern=r"^[^\s,]([^,\x00-\x1f\x7f]*[^\s,])?$")
]  # as written between the commas of a header
Header = Annotated[str, Field(pattern=r"^[A-Za-z0-9-]{1,100}$")]
Network = Annotated[str, AfterValidator(_network)]


class AccessSettings(Frozen):
    """Groups and users, and the teams whose costs they see, or `all`. People in none of them see nothing.

    Groups are Airflow's roles, or those in `header`, which the reverse proxy in front of `runspend serve` sets.
    """

    groups: dict[Who, Teams] = Field(default={})
    users: dict[Who, Teams] = Field(default={})
    header: Header | None = None  # names of groups, with commas between them
    user_header: Header | None = None  # the name of the user
    proxies: list[Network] = Field(default=["127.0.0.1", "::1"], min_length=1)  # whose headers are trusted

    @model_validator(mode="after")
    def _someone_sees_something(self) -> AccessSettings:
        if not self.groups and not self.users:
            raise ValueError("no user could see any costs. Name groups or users, such as `groups: {finance: all}`")
        if self.header is not None and self.user_header is not None and self.header.casefold() == self.user_header.casefold():
            raise ValueError("`header` and `user_header` are the same header. Name two")
        return self

    @property
    def is_of_headers(self) -> bool:
        """Whether a reverse proxy names the user."""
        return self.header is not None or self.user_header is not None

    def viewer(self, user: str | None, groups: Iterable[str]) -> Viewer | None:
        """Return what a viewer may see: everything that one of the groups, or the user, may see. None if the viewer may see nothing."""
        known = [group for group in dict.fromkeys(groups) if group in self.groups]
        found = [self.groups[group] for group in known] + [self.users[name] for name in (user,) if name is not None and name in self.users]
        if not found:
            return None
        if any(teams == ALL for teams in found):
            return Viewer(tuple(known), None)
        return Viewer(tuple(known), tuple(dict.fromkeys(team for teams in found for team in teams)))

    def trusts(self, address: str | None) -> bool:
        """Whether the headers of a request from this address are trusted."""
        try:
            found = ipaddress.ip_address(address or "")
        except ValueError:
            return False
        known = getattr(found, "ipv4_mapped", None) or found
        return any(known in ipaddress.ip_network(proxy, strict=False) for proxy in self.proxies)


def is_own_budget(teams: Iterable[str], asked: Iterable[str]) -> bool:
    """Whether a budget that selects `asked` teams belongs to these teams alone. A pattern may also match other teams."""
    own, wanted = set(teams), list(asked)
    return bool(wanted) and all(team in own and not set(team) & set("*?") for team in wanted)
