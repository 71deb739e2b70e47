"""Names of 100 kB are refused with a message or cut, without delay."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from runspend.actions.alert.render import Facts, MailTable, Paragraph, render_html, render_text
from runspend.config.settings import load_settings
from runspend.core.errors import ConfigError
from runspend.core.redaction import redact_uri, uri_secrets
from runspend.core.text import clean

LONG = 100_000
SECONDS = 30  # about two on a quiet machine; each of these tests used to take minutes


@pytest.mark.parametrize("text", ["a", "a ", "日", "-", "\u202e"], ids=["letters", "words", "wide", "dashes", "hidden"])
def test_mails_with_long_names_are_written(text: str) -> None:
    """Every kind of block cuts or wraps them."""
    name = (text * LONG)[:LONG]
    began = time.perf_counter()
    blocks = [Facts("FACTS", ((name, clean(name)),)), MailTable("TABLE", ("a", "b"), "lr", ((name, "1"),)), Paragraph(clean(name, 400))]
    assert max(len(line) for line in render_text(blocks).splitlines()) < LONG
    assert render_html(name, blocks)
    assert time.perf_counter() - began < SECONDS


@pytest.mark.parametrize("text", ["a", "://", "://a:", "?", "?token", "&password", "a://b:", "token"])
def test_hiding_passwords_is_linear(text: str) -> None:
    """The text almost looks like an address everywhere."""
    began = time.perf_counter()
    redact_uri((text * LONG)[:LONG])
    uri_secrets((text * LONG)[:LONG])
    assert time.perf_counter() - began < SECONDS


@pytest.mark.parametrize(
    "key",
    [
        "budgets: [{amount: 5, notify: [a@b.co], name: %s}]",
        "budgets: [{name: x, amount: 5, notify: [%s]}]",
        "tracking: [{uri: /x, name: %s}]",
        "mail: {operators: [%s]}",
    ],
)
def test_long_names_in_the_configuration_are_refused_in_a_sentence(tmp_path: Path, key: str) -> None:
    """The message contains only the beginning of the name."""
    (tmp_path / "runspend.yaml").write_text(key % ("a" * LONG), encoding="utf-8")
    began = time.perf_counter()
    with pytest.raises(ConfigError) as error:
        load_settings(tmp_path / "runspend.yaml", {})
    assert time.perf_counter() - began < SECONDS
    assert len(str(error.value)) < 2_000 and "100,000 characters" in str(error.value)
