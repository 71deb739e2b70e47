"""Defines `mail` of runspend.yaml: how mail is sent, the operators, and the chats and pagers that also receive alerts.

`actions/alert/` writes and sends the mail.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Mapping
from datetime import timedelta
from typing import Annotated, Literal

from pydantic import AliasChoices, Field, ValidationInfo, field_validator, model_validator

from runspend.config.types import (
    CHANNEL,
    Address,
    Duration,
    Frozen,
    HiddenAddress,
    MailDomain,
    Name,
    Secret,
    SecretAddress,
    callable_address,
)

WEBHOOK = "webhook"  # the recipient name of `mail.webhook`
PAGERS = ("pagerduty", "opsgenie")
PAGER_ADDRESSES = {"pagerduty": "https://events.pagerduty.com/v2/enqueue", "opsgenie": "https://api.opsgenie.com/v2/alerts"}
About = Literal["budgets", "exceeded", "operators"]


class ChannelSettings(Frozen):
    """A chat or pager that receives alerts. Its address or key is a secret, because everyone who knows it can post there."""

    kind: Literal["slack", "teams", "google_chat", "pagerduty", "opsgenie", "apprise"] = "slack"
    name: Name | None = None  # `channel:NAME` in a budget's `notify`; default: the kind
    url: HiddenAddress | None = None  # the address for posts; for a pager its API, by default that of the service
    key: Secret | None = None  # a pager's routing key or API key
    about: list[About] | None = None  # in addition to budgets whose `notify` names the channel; default: see `subjects`

    @property
    def recipient(self) -> str:
        """Return the name of the channel as a recipient, such as "channel:slack"."""
        return f"{CHANNEL}{self.name or self.kind}"

    @property
    def is_pager(self) -> bool:
        """Return whether the channel is a pager: a post opens an incident and notifies the person on call."""
        return self.kind in PAGERS

    @property
    def subjects(self) -> list[About]:
        """Return what the channel receives: all budget alerts (`budgets`), alerts of exceeded budgets (`exceeded`), pipeline problems
        (`operators`).
        """
        if self.about is not None:
            return self.about
        return ["exceeded", "operators"] if self.is_pager else ["budgets"]

    @property
    def address(self) -> str:
        """Return the address to which alerts are posted. It may be a secret."""
        return self.url.get_secret_value() if self.url else PAGER_ADDRESSES[self.kind]

    @property
    def secret_key(self) -> str:
        """Return the key of a pager. Empty for other channels."""
        return self.key.get_secret_value() if self.key else ""

    @field_validator("url")
    @classmethod
    def _can_be_called(cls, url: HiddenAddress | None, info: ValidationInfo) -> HiddenAddress | None:
        if url is None or info.data.get("kind") != "apprise":
            return None if url is None else callable_address(url)
        if not re.fullmatch(r"[a-z][a-z0-9+.-]*:(//)?\S+", url.get_secret_value()):
            raise ValueError("an address of Apprise is needed, such as ntfys://ntfy.example.com/topic")
        return url

    @field_validator("key")
    @classmethod
    def _fits_a_header(cls, key: Secret | None) -> Secret | None:
        if key is not None and not re.fullmatch(r"[!-~]+", key.get_secret_value()):
            raise ValueError("a key of ASCII letters, digits and signs, without spaces, is needed")
        return key

    @model_validator(mode="after")
    def _has_address_or_key(self) -> ChannelSettings:
        if self.is_pager and self.key is None:
            what = "routing key of the service's Events API v2 integration" if self.kind == "pagerduty" else "key of an API integration"
            raise ValueError(f"`kind: {self.kind}` needs `key`, the {what}")
        if not self.is_pager and self.url is None:
            raise ValueError(f"`kind: {self.kind}` needs `url`, the address to which alerts are posted")
        if not self.is_pager and self.key is not None:
            raise ValueError(f"`key` belongs to {' and '.join(PAGERS)}. The secret of `kind: {self.kind}` is in its `url`")
        return self


class MailSettings(Frozen):
    """How mail is sent (as .eml files under `home`, or by SMTP), and to whom."""

    backend: Literal["file", "smtp", "none"] = "file"
    host: str | None = None
    port: Annotated[int, Field(ge=1, le=65535)] = 587
    tls: Literal["starttls", "implicit", "none"] = "starttls"
    username: str | None = None
    password: Secret | None = None
    connection: str | None = None  # an Airflow connection, resolved by runspend.airflow.connections
    from_: Address = Field(
        default="Runspend <runspend@localhost>", validation_alias=AliasChoices("from", "from_"), serialization_alias="from"
    )
    operators: list[Address] = Field(default=[])
    # For owners named in MLflow's tags and users: `users` has the address of each name; `domains` are the allowed domains of addresses.
    # Default of `domains`: the domains of the addresses in this file.
    users: dict[Annotated[str, Field(min_length=1, max_length=320)], Address] = Field(default={})
    domains: list[MailDomain] | None = None
    people: Literal["show", "pseudonym", "hide"] = "show"
    silent_after: Duration = timedelta(hours=25)  # operators get a mail if a step of the nightly pipeline did not run for longer
    webhook: ChannelSettings | None = None  # short form for a single chat
    channels: list[ChannelSettings] = Field(default=[])
    heartbeat: SecretAddress | None = None  # called after each successful pipeline run, for a service that alerts if the calls stop

    @property
    def posts_to(self) -> Mapping[str, ChannelSettings]:
        """Return the chats and pagers by their names as recipients."""
        return ({WEBHOOK: self.webhook} if self.webhook else {}) | {channel.recipient: channel for channel in self.channels}

    @property
    def pagers(self) -> frozenset[str]:
        """Return the recipients that are pagers. They get each alert separately, never a list of several alerts."""
        return frozenset(name for name, channel in self.posts_to.items() if channel.is_pager)

    @property
    def operator_channels(self) -> list[str]:
        """Return the chats and pagers that receive the same messages as operators."""
        return [name for name, channel in self.posts_to.items() if "operators" in channel.subjects]

    @model_validator(mode="after")
    def _one_name_a_channel(self) -> MailSettings:
        names = [channel.recipient.removeprefix(CHANNEL) for channel in self.channels]
        if twice := next((name for name in names if names.count(name) > 1), None):
            raise ValueError(f"two `channels` have the name {twice!r}. Give each a different `name`")
        return self

    @model_validator(mode="after")
    def _one_address_a_user(self) -> MailSettings:
        seen: dict[str, str] = {}
        for name in self.users:
            folded = unicodedata.normalize("NFKC", name).strip().casefold()  # as recipients.py compares them
            if not folded or folded in seen:
                raise ValueError(
                    f"`users` has {name!r} and {seen[folded]!r}, which are the same name. Keep one"
                    if folded
                    else "`users` has an empty name. Leave it out"
                )
            seen[folded] = name
        return self

    @model_validator(mode="after")
    def _can_be_sent(self) -> MailSettings:
        if self.backend == "smtp" and not (self.host or self.connection):
            raise ValueError("`backend: smtp` needs `host` (or `connection`, an Airflow connection)")
        if (self.username is None) != (self.password is None):
            raise ValueError("`username` and `password` belong together, and one of them is missing. Write both or neither")
        return self
