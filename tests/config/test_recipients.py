"""Which addresses in data may get mail. Each way to write an address that looks allowed but is not."""

from __future__ import annotations

import pytest
from pydantic import ValidationError

from runspend.config.recipients import Recipients, find_recipients, mailed_addresses
from runspend.config.settings import Settings
from runspend.config.types import address_of

ALLOWED = {"acme.com", "xn--bcher-kva.example"}


def rule(**mail: object) -> Recipients:
    given = {"backend": "file", "from": "Runspend <runspend@acme.com>", "operators": ["oncall@ops.example"], **mail}
    return find_recipients(Settings.model_validate({"mail": given}))


@pytest.mark.parametrize(
    ("owner", "address"),
    [
        ("ana@acme.com", "ana@acme.com"), ("Ana Smith <ana@acme.com>", "ana@acme.com"), ("ana@ACME.com", "ana@ACME.com"), ("ana+ml@acme.com", "ana+ml@acme.com"), ("o'brien@acme.com", "o'brien@acme.com"),
        ("a_b-c.d@acme.com", "a_b-c.d@acme.com"), ("boss@ops.example", "boss@ops.example"), ("<@evil.example:ana@acme.com>", "ana@acme.com"), ("ana@\uff41\uff43\uff4d\uff45.com", "ana@acme.com"),
    ],
)  # fmt: skip
def test_addresses_in_allowed_domains_are_accepted(owner: str, address: str) -> None:
    """Runspend uses the plain address, without the name next to it."""
    assert rule().find(owner) == address


HOSTILE = [
    "mallory@evil.example", "ana@acme.com.evil.example", "ana@evil-acme.com", "ana@acme.comm", "ana@sub.acme.com", "ana@acme.com.", "ana@acme", "@acme.com", "ana@", "ana@@acme.com", "ana@evil.example@acme.com",
    "ana@\u0430cme.com", "ana@acm\u0435.com", "ana@xn--cme-8cd.com", "ana@acme\u3002com.evil.example", "ana@acme.com\u200b", "ana@acme.com\u202e", "ana@[10.0.0.1]", "ana@acme.com:25", "ana@acme.com/x",
    '"ana"@acme.com', '"mallory@evil.example"@acme.com', '"ana@acme.com"@evil.example', "ana@acme.com <mallory@evil.example>", "<ana@acme.com> <mallory@evil.example>", "ana@acme.com, mallory@evil.example",
    "mallory@evil.example, ana@acme.com", "ana@acme.com; mallory@evil.example", "ana@acme.com mallory@evil.example", "team: ana@acme.com, mallory@evil.example;", "mallory%evil.example@acme.com", "evil.example!mallory@acme.com",
    "@evil.example:ana@acme.com", "evil@evil.example <ana@acme.com>", "ana@acme.com\r\nBcc: mallory@evil.example", "ana@acme.com\nRCPT TO:<mallory@evil.example>", "ana@acme.com\x00", "ana\t@acme.com\x0b", "-oQ/tmp@acme.com",
    "|sh@acme.com", "`id`@acme.com", "$(id)@acme.com", ".ana@acme.com", "ana.@acme.com", "a..b@acme.com", "a" * 65 + "@acme.com", "ana@" + "a" * 300 + ".acme.com", "mailto:ana@evil.example", "=?utf-8?q?ana?=@acme.com",
    "(" * 900, ":" * 900, "<" * 900, "a:" * 450, '"' * 900, "x" * 100_000, "a@" * 50_000, "", " ", "ana", "root", None, "ana\uff20evil.example", "ana@evil.example(@acme.com)", "ana(@acme.com)@evil.example",
]  # fmt: skip


@pytest.mark.parametrize("owner", HOSTILE, ids=range(len(HOSTILE)))
def test_no_other_address_is_mailed(owner: str | None) -> None:
    """Runspend does not accept the address, and gives operators the reason."""
    allowed = rule()
    found = allowed.find(owner)
    assert found is None, found
    assert allowed.why_not(owner)
    assert not owner or not allowed.may_receive(owner) or address_of(owner) is not None


def test_an_accepted_address_is_read_the_same_way_again() -> None:
    """Reading the accepted address a second time gives the same address."""
    for owner in ("Ana <ana@acme.com>", "<@evil.example:ana@acme.com>"):
        found = rule().find(owner)
        assert found is not None and address_of(found) == found


def test_domains_are_those_of_the_file_unless_it_names_them() -> None:
    """Domains match exactly, without subdomains. They may be in any script, and are compared in the form that mail uses."""
    assert rule().domains == {"acme.com", "ops.example"}
    named = rule(domains=["Acme.com", "b\u00fccher.example"])
    assert named.domains == ALLOWED
    assert named.find("x@B\u00dcCHER.example") == "x@xn--bcher-kva.example"
    assert named.find("oncall@ops.example") is None
    assert named.may_receive("oncall@ops.example")  # an operator, named in the file itself
    assert rule(domains=[]).find("ana@acme.com") is None


def test_an_operator_at_a_public_mail_host_allows_no_other_address_there() -> None:
    """Anyone can have an address there. `mail.domains` may still name the host."""
    recipients = rule(operators=["oncall@gmail.com"])
    assert recipients.find("mallory@gmail.com") is None and recipients.find("ana@acme.com") == "ana@acme.com"
    assert recipients.may_receive("oncall@gmail.com") and not recipients.may_receive("mallory@gmail.com")
    assert rule(operators=["oncall@gmail.com"], domains=["gmail.com"]).find("ana@gmail.com") == "ana@gmail.com"


def test_users_have_the_addresses_of_the_map() -> None:
    """A user's name matches in any case and width, but a look-alike does not. The domains in the map do not allow other addresses."""
    allowed = rule(users={"Ana": "Ana <ana@partner.example>", "bob@old.example": "bob@acme.com"})
    assert allowed.find("ana") == allowed.find(" ANA ") == allowed.find("\uff21na") == "ana@partner.example"
    assert allowed.find("bob@old.example") == "bob@acme.com"
    assert allowed.find("\u0430na") is None
    assert allowed.find("eve@partner.example") is None
    assert not allowed.may_receive("eve@partner.example") and allowed.may_receive("ana@PARTNER.example")


@pytest.mark.parametrize(
    "mail",
    [
        {"users": {"Ana": "a@acme.com", "ana ": "b@acme.com"}},
        {"users": {" ": "a@acme.com"}},
        {"users": {"ana": "nobody"}},
        {"domains": ["evil"]},
        {"domains": ["a b.com"]},
        {"domains": ["*.acme.com"]},
        {"users": {"x" * 400: "a@acme.com"}},
    ],
)
def test_the_map_is_checked_when_it_is_read(mail: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        rule(**mail)


def test_a_record_mails_no_other_address_at_a_public_mail_host() -> None:
    """A forged mail record reaches only addresses that the file names, and addresses in the file's own domains."""
    given = Settings.model_validate({
        "mail": {"from": "runspend@acme.com", "operators": ["Ann <ann@gmail.com>"], "users": {"bob": "bob@gmx.de"}},
        "budgets": [{"name": "ml", "amount": 1, "notify": ["cy@outlook.com"]}],
    })  # fmt: skip
    asked = {
        "ann@gmail.com",
        "ann@GMAIL.com",
        "mallory@gmail.com",
        "bob@gmx.de",
        "mallory@gmx.de",
        "cy@outlook.com",
        "any@acme.com",
        "x@evil.example",
    }
    assert mailed_addresses(given, asked) == {"ann@gmail.com", "ann@GMAIL.com", "bob@gmx.de", "cy@outlook.com", "any@acme.com"}
    assert "any@gmail.com" in mailed_addresses(Settings.model_validate({"mail": {"domains": ["gmail.com"]}}), ["any@gmail.com"])
