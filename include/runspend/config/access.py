"""Defines `access` of runspend.yaml: which groups and users see the costs of which teams on pages and in the HTTP API.

This module decides what a viewer may see. `interfaces/web/access.py` identifies the viewer. `warehouse/team_views.py` removes the
rows of other teams from tables.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Annotated, Literal

from pydantic import AfterValidator, Field, model_validator

from runspend.config.types import Frozen

ALL = "all"
RESERVED = ("other teams", "no team")  # names that pages use for costs of other teams and for costs without a team


@dataclass(frozen=True)
class Viewer:
    """A viewer of costs: their groups in `access`, and the teams whose costs they may see. `teams` is None if they may see all costs.

    `budgets`: names and versions of the budgets of these teams. Results for other budgets or versions may include costs of other teams.
    """

    groups: tuple[str, ...]
    teams: tuple[str, ...] | None
    budgets: tuple[tuple[str, str], ...] = ()


def _team(text: str) -> str:
    if text in RESERVED:
        raise ValueError(f"{text!r} is reserved: pages use it for costs of other teams or without a team. Write the name of a team")
    return text


def _network(text: str) -> str:
    try:
        ipaddress.ip_network(text, strict=False)
    except ValueError:
        raise ValueError("an address or a network is needed, such as 10.0.0.5 or 10.0.0.0/24") from None
    return text


# Line breaks are refused, because they would end an SQL literal. The name is not a pattern: it means one team.
Team = Annotated[str, Field(min_length=1, max_length=200, pattern=r"^[^\x00-\x1f\x7f]+$"), AfterValidator(_team)]
Teams = Annotated[list[Team], Field(min_length=1)] | Literal["all"]
Who = Annotated[
    str, Field(min_length=1, max_length=200, pattern=r"^[^\s,]([^,\x00-\x1f\x7f]*[^\s,])?$")
]  # a group or user as it appears between the commas of a header
Header = Annotated[str, Field(pattern=r"^[A-Za-z0-9-]{1,100}$")]
Network = Annotated[str, AfterValidator(_network)]


class AccessSettings(Frozen):
    """Groups and users, and the teams whose costs they see, or `all`. All other users see nothing.

    Groups are Airflow's roles, or the names in `header`, which the reverse proxy in front of `runspend serve` sets.
    """

    groups: dict[Who, Teams] = Field(default={})
    users: dict[Who, Teams] = Field(default={})
    header: Header | None = None  # contains the names of groups, separated by commas
    user_header: Header | None = None  # contains the name of the user
    proxies: list[Network] = Field(default=["127.0.0.1", "::1"], min_length=1)  # addresses whose headers are trusted

    @model_validator(mode="after")
    def _someone_sees_something(self) -> AccessSettings:
        if not self.groups and not self.users:
            raise ValueError("no user could see any costs. Name groups or users, such as `groups: {finance: all}`")
        if self.header is not None and self.user_header is not None and self.header.casefold() == self.user_header.casefold():
            raise ValueError("`header` and `user_header` are the same header. Name two different headers")
        return self

    @property
    def is_of_headers(self) -> bool:
        """Return whether a reverse proxy names the user or their groups."""
        return self.header is not None or self.user_header is not None

    def viewer(self, user: str | None, groups: Iterable[str]) -> Viewer | None:
        """Return the viewer, who may see everything that the user or any of the groups may see. None if this is nothing."""
        known = [group for group in dict.fromkeys(groups) if group in self.groups]
        found = [self.groups[group] for group in known] + [self.users[name] for name in (user,) if name is not None and name in self.users]
        if not found:
            return None
        if any(teams == ALL for teams in found):
            return Viewer(tuple(known), None)
        return Viewer(tuple(known), tuple(dict.fromkeys(team for teams in found for team in teams)))

    def trusts(self, address: str | None) -> bool:
        """Return whether the headers of a request from this address are trusted."""
        try:
            found = ipaddress.ip_address(address or "")
        except ValueError:
            return False
        known = getattr(found, "ipv4_mapped", None) or found
        return any(known in ipaddress.ip_network(proxy, strict=False) for proxy in self.proxies)


def is_own_budget(teams: Iterable[str], asked: Iterable[str]) -> bool:
    """Return whether a budget that selects the teams `asked` belongs only to `teams`. False for patterns: they may match other teams."""
    own, wanted = set(teams), list(asked)
    return bool(wanted) and all(team in own and not set(team) & set("*?") for team in wanted)
