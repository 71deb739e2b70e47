"""`mail` of runspend.yaml: how mail is sent, its operators, and webhooks.

This module defines the keys of mail. `actions/alert/` writes and sends it.
"""

from __future__ import annotations

import unicodedata
from datetime import timedelta
from typing import Annotated, Literal

from pydantic import AliasChoices, Field, model_validator

from runspend.config.types import Address, Duration, Frozen, MailDomain, Secret, SecretAddress


class WebhookSettings(Frozen):
    """One address that receives alerts as posts. The address is a secret: everybody who knows it can post there."""

    url: SecretAddress
    kind: Literal["slack", "teams"] = "slack"
    about: list[Literal["budgets", "operators"]] = Field(default=["budgets"], min_length=1)


class MailSettings(Frozen):
    """How mail is sent: as .eml files under home, or by SMTP."""

    backend: Literal["file", "smtp", "none"] = "file"
    host: str | None = None
    port: Annotated[int, Field(ge=1, le=65535)] = 587
    tls: Literal["starttls", "implicit", "none"] = "starttls"
    username: str | None = None
    password: Secret | None = None
    connection: str | None = None  # an Airflow connection, resolved by dags/runspend_settings.py
    from_: Address = Field(
        default="Runspend <runspend@localhost>", validation_alias=AliasChoices("from", "from_"), serialization_alias="from"
    )
    operators: list[Address] = Field(default=[])
    # For owners in tags and users of MLflow: the address of a name, and the allowed domains of addresses in tags. Default: the
    # domains in this file's own addresses.
    users: dict[Annotated[str, Field(min_length=1, max_length=320)], Address] = Field(default={})
    domains: list[MailDomain] | None = None
    people: Literal["show", "pseudonym", "hide"] = "show"
    silent_after: Duration = timedelta(hours=25)  # operators get a mail when a nightly step was not done for longer
    webhook: WebhookSettings | None = None
    heartbeat: SecretAddress | None = None  # called after each successful pipeline run; the service behind it alarms when the calls stop

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
