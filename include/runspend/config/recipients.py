"""Decides whether an owner named in data may receive mail. Authors of such data, such as MLflow's tags, are not trusted.

This rule applies to every mail whose recipient comes from MLflow or a bill. An owner must be a name with an address in `mail.users`, or
an address in an allowed domain. `mail.domains` lists the allowed domains; by default, they are the domains of the addresses in
runspend.yaml. Mail is sent only to the plain address that this module returns, never to the original text.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field

from runspend.config.settings import Settings
from runspend.config.types import address_of, is_plain_local

# Anyone can get an address in these domains. An operator's address therefore does not allow the domain, but `mail.domains` may.
PUBLIC = frozenset(
    "aol.com fastmail.com gmail.com gmx.com gmx.de gmx.net googlemail.com hotmail.com icloud.com live.com mail.com mail.ru me.com msn.com outlook.com "
    "proton.me protonmail.com qq.com web.de yahoo.co.jp yahoo.com yandex.com yandex.ru zoho.com 126.com 163.com".split()
)
LONGEST = 320  # characters of an owner's text, which may be an address with a name
_NAMES_AN_ADDRESS = re.compile(r"[@\uff20\ufe6b]")


@dataclass(frozen=True)
class Recipients:
    """The addresses of the configuration, and the allowed domains of addresses in data."""

    domains: frozenset[str]
    users: Mapping[str, str] = field(default_factory=dict)  # folded name -> plain address
    known: frozenset[str] = frozenset()  # plain addresses that runspend.yaml names as operators or users

    def find(self, owner: str | None) -> str | None:
        """Return the plain address of an owner. None if no mail may be sent to the owner."""
        if not owner or len(owner) > LONGEST:
            return None
        if (address := self.users.get(fold_name(owner))) is not None:
            return address
        return self._allowed(owner)

    def why_not(self, owner: str | None) -> str:
        """Return the reason why `find` returned None, for users."""
        if not owner:
            return "it has no owner"
        if len(owner) > LONGEST:
            return "its owner's name is too long"
        if not _NAMES_AN_ADDRESS.search(owner):
            return "its owner is a name without an address in mail.users"
        if address_of(owner) is None:
            return "its owner is not one plain mail address"
        return f"its owner's address is not in an allowed domain ({self.listed})"

    def may_receive(self, address: str) -> bool:
        """Return whether content from data may be sent to an address: it is in the configuration, or in an allowed domain."""
        plain = address_of(address) if len(address) <= LONGEST else None
        return plain is not None and (_same(plain) in self.known or self._allowed(plain) is not None)

    @property
    def listed(self) -> str:
        """Return the allowed domains as text."""
        return ", ".join(sorted(self.domains)) or "none is configured"

    def _allowed(self, text: str) -> str | None:
        address = address_of(text)
        if address is None or len(address) > 254:
            return None
        local, _, domain = address.rpartition("@")
        return address if domain.casefold() in self.domains and is_plain_local(local) else None


def find_recipients(settings: Settings) -> Recipients:
    """Return the addresses and domains that the configuration allows."""
    users = {fold_name(name): plain for name, text in settings.mail.users.items() if (plain := address_of(text)) is not None}
    domains = settings.mail.domains if settings.mail.domains is not None else set(_own_domains(settings)) - PUBLIC
    known = [*users.values(), *(plain for text in settings.mail.operators if (plain := address_of(text)) is not None)]
    return Recipients(frozenset(domains), users, frozenset(_same(plain) for plain in known))


def mailed_domains(settings: Settings) -> frozenset[str]:
    """Return every domain to which this configuration can send mail. A forged mail record cannot send mail to other domains."""
    recipients = find_recipients(settings)
    users = {address.rpartition("@")[2].casefold() for address in recipients.users.values()}
    return frozenset(recipients.domains | users | set(_own_domains(settings)))


def mailed_addresses(settings: Settings, addresses: Collection[str]) -> set[str]:
    """Return the given plain addresses to which this configuration can send mail: those in `mailed_domains`.

    At public mail providers, only addresses in the file are returned, unless `mail.domains` names the provider.
    """
    recipients, domains = find_recipients(settings), mailed_domains(settings)
    named = {_same(address) for address in (*recipients.users.values(), *_own_addresses(settings))}
    found = set()
    for address in addresses:
        domain = address.rpartition("@")[2].casefold()
        is_anybodys = domain in PUBLIC and domain not in recipients.domains
        if domain in domains and (not is_anybodys or _same(address) in named):
            found.add(address)
    return found


def fold_name(name: str) -> str:
    """Return a user's name for comparison, without differences in case, character width and surrounding spaces."""
    return unicodedata.normalize("NFKC", name).strip().casefold()


def _same(address: str) -> str:
    """Return an address for comparison, with its domain in lower case."""
    local, _, domain = address.rpartition("@")
    return f"{local}@{domain.casefold()}"


def _own_domains(settings: Settings) -> Iterator[str]:
    """Yield the domains of the addresses in the file from which or to which mail is sent."""
    return (address.rpartition("@")[2].casefold() for address in _own_addresses(settings))


def _own_addresses(settings: Settings) -> Iterator[str]:
    """Yield the plain addresses in the file from which or to which mail is sent."""
    named = [settings.mail.from_, *settings.mail.operators, *(r for b in settings.budgets for r in b.all_recipients())]
    named += [r for rules in settings.tag_budgets for r in rules.notify]
    for text in named:
        if (address := address_of(text)) is not None:
            yield address
