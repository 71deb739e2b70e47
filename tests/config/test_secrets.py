"""No secret, from any place in runspend.yaml, ever appears in a string."""

from __future__ import annotations

import base64
import html
import io
import json
import pickle
import re
import tempfile
import traceback
from contextlib import redirect_stdout
from pathlib import Path
from urllib.parse import quote, quote_plus

import pytest
from hypothesis import example, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from runspend.config.settings import Settings, redact, secret_values, show_settings
from runspend.core.errors import ConfigError
from runspend.core.redaction import redact_uri, redact_values
from tests.settings_builder import read_settings

# Long and unusual, so that it is not part of any word in Runspend's output.
SECRETS = st.text(st.characters(codec="utf-8", exclude_categories=["Cc", "Zs", "Zl", "Zp", "Cs"]), min_size=8, max_size=40).map(
    lambda text: f"q9{text}zx"
)
EVERYWHERE = """
home: state
tracking:
  - {name: a, uri: "https://u:${S}@mlflow/", token: "${S}", database: "postgresql://u:${S}@db/mlflow"}
  - {name: b, uri: "http://mlflow?token=tok", username: u, password: "${S}"}
billing:
  - {name: c, uri: "https://host/export?sv=1&sig=sig-canary-value"}
mail: {backend: smtp, host: mail, username: u, password: "${S}"}
"""


def load(text: str, env: dict[str, str]) -> Settings:
    with tempfile.TemporaryDirectory() as folder:
        return read_settings(Path(folder), text, env)


def traces(secret: str) -> list[str]:
    """Return the forms of a secret that a search must look for."""
    raw = secret.encode()
    return [
        secret,
        quote(secret, safe=""),
        quote_plus(secret),
        base64.b64encode(raw).decode(),
        base64.urlsafe_b64encode(raw).decode(),
        json.dumps(secret)[1:-1],
    ]


@hypothesis_settings(deadline=None, max_examples=60)
@given(SECRETS)
@example("q9p@ss/w:rd?#&zx")
@example('q9"\\\\<>zx')
def test_a_secret_is_in_no_text_of_the_settings(secret: str) -> None:
    """This holds for repr, str, print, format, JSON and `runspend config`, in any encoding."""
    settings = load(EVERYWHERE, {"S": secret})
    printed = io.StringIO()
    with redirect_stdout(printed):
        print(settings, settings.tracking, settings.mail, settings.tracking[0].database)
    texts = [
        repr(settings),
        str(settings),
        f"{settings}",
        printed.getvalue(),
        show_settings(settings),
        settings.mail.model_dump_json(),
        str(settings.model_dump()["mail"]),
    ]
    for text in texts:
        assert not [form for form in traces(secret) if form in text]
    assert settings.mail.password is not None
    assert settings.mail.password.get_secret_value() == secret


@hypothesis_settings(deadline=None, max_examples=60)
@given(
    SECRETS,
    st.sampled_from(
        [
            "{S: 1}",  # an unknown key in another place
            "tracking: [{name: a, uri: http://m, tokn: '${S}'}]",
            "tracking: [{name: a, uri: http://m, pasword: '${S}', token: '${S}'}]",
            "tracking: [{name: a, uri: http://m, token: ['${S}']}]",
            "tracking: [{name: a, uri: http://m, max_vanish: '${S}', database: 'postgresql://u:${S}@db/m'}]",
            "tracking: [{name: ' ${S}', uri: 'postgresql://u:${S}@db/m'}]",
            "currency: '${S}'",
            "mail: {backend: smtp, password: '${S}', username: u}",
            "mail: {port: '${S}', from: '${S}'}",
            "retention: [{name: a, select: {unused_for: '${S}'}, action: delete}]",
            "budgets: [{name: a, amount: '${S}', actual: ['${S}'], notify: ['${S}']}]",
            "scope: {include: [{account: {a: '${S}'}}]}",
            "billing: [{name: a, uri: b, slurm: {prices: {gpu: '${S}'}, timezone: '${S}'}}]",
        ]
    ),
)
def test_a_secret_is_in_no_error(secret: str, text: str) -> None:
    """The secret is not in the message, the traceback or the exception's context either."""
    with pytest.raises(ConfigError) as caught:
        load(text, {"S": secret})
    error = caught.value
    shown = "".join(traceback.format_exception(error)) + repr(error) + repr(error.__context__) + repr(error.__cause__)
    assert not [form for form in traces(secret) if form in shown]
    assert error.__context__ is None


@pytest.mark.parametrize(
    "text",
    [
        "mail:\n  password: %q9literal\n",
        'mail:\n  password: "q9literal\n',
        "mail:\n  password: *q9literal\n",
        "mail:\n  password: !q9literal!x y\n",
        "mail: {pass: q9literal}\n",
        "mail: [q9literal\n",
        "mail:\n  password: @q9literal\n",
        "mail:\n  token: q9literal: x\n",
    ],
)
def test_a_secret_written_out_is_not_shown_when_the_syntax_is_broken(text: str) -> None:
    """The parser's own message quotes the line. Runspend's message does not."""
    with pytest.raises(ConfigError) as caught:
        load(text, {})
    assert "q9literal" not in "".join(traceback.format_exception(caught.value))


@hypothesis_settings(deadline=None)
@given(SECRETS, st.text(max_size=7), st.text(max_size=7))
@example("q9zx5678", "", "")
def test_redact_finds_every_form(secret: str, before: str, after: str) -> None:
    """A secret is hidden in its plain, URL-encoded and escaped forms, and in base64 with any text before and after it."""
    settings = load("mail: {backend: smtp, host: m, username: u, password: '${S}'}\n", {"S": secret})
    lower = re.sub("%[0-9A-F]{2}", lambda m: m[0].lower(), quote(secret, safe=""))
    for form in [*traces(secret), repr(secret)[1:-1], html.escape(secret), quote(secret), lower]:
        assert redact(f"error: {form}.", settings) in ("error: ***.", f"error: {redact_uri(form)}.")
        assert form not in redact(f"error: {form}.", settings)
    around = len(before.encode("utf-8", "surrogatepass")) + len(after.encode("utf-8", "surrogatepass"))
    inside = base64.b64encode(f"{before}{secret}{after}".encode("utf-8", "surrogatepass")).decode()
    left = redact(inside, settings).replace("***", "")
    # The rest encodes the text around the secret, including characters that share bits with it.
    assert len(left) <= around * 4 / 3 + 6


def test_redact_knows_the_passwords_in_uris() -> None:
    """Passwords are hidden as written in the URI and decoded, and so is HTTP Basic's base64 of user and password."""
    settings = load(EVERYWHERE, {"S": "p@ss/canary"})
    assert {"p@ss/canary", "p%40ss%2Fcanary", "sig-canary-value", "u:p@ss/canary"} <= set(secret_values(settings))
    basic = base64.b64encode(b"u:p@ss/canary").decode()
    text = f"GET https://u:p%40ss%2Fcanary@mlflow/ failed for p@ss/canary with Authorization: Basic {basic} and sig-canary-value"
    assert redact(text, settings) == "GET https://u:***@mlflow/ failed for *** with Authorization: Basic *** and ***"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("postgresql://u:pw@db:5432/m", "postgresql://u:***@db:5432/m"),
        ("postgresql://u:p@w/x@db/m failed", "postgresql://u:***@db/m failed"),
        ("postgresql+psycopg2://u:pw@db/m", "postgresql+psycopg2://u:***@db/m"),
        ("http://:pw@host/", "http://:***@host/"),
        ("http://mlflow:5000/#/experiments/1?mail=a@b.c", "http://mlflow:5000/#/experiments/1?mail=a@b.c"),
        ("http://mlflow:5000", "http://mlflow:5000"),
        ("http://u:12345@host:80/", "http://u:***@host:80/"),
        ("abfss://costs@acme.dfs.core.windows.net/exports/", "abfss://costs@acme.dfs.core.windows.net/exports/"),
        ("https://a.blob.core.windows.net/x?sv=2024&sig=abc%3D&se=1", "https://a.blob.core.windows.net/x?sv=2024&sig=***&se=1"),
        ("s3://b/k?X-Amz-Signature=abc&X-Amz-Credential=d", "s3://b/k?X-Amz-Signature=***&X-Amz-Credential=***"),
        ("postgresql://db/m?user=u&password=pw", "postgresql://db/m?user=u&password=***"),
        ("nothing to hide: mail ana@example.com at 12:30", "nothing to hide: mail ana@example.com at 12:30"),
    ],
)
def test_passwords_in_uris_are_hidden(text: str, expected: str) -> None:
    """Only the password is hidden, because people need user, host and path to understand an error."""
    assert redact_uri(text) == expected


def test_text_too_short_to_be_a_secret_is_left_alone() -> None:
    """Hiding every `a` would protect nothing and make strings unreadable."""
    assert redact_values("a cat", ["a", ""]) == "a cat"


def test_names_of_connections_are_not_secrets() -> None:
    """`connection:ID` is a name that is resolved when a task runs."""
    settings = load("tracking: [{name: a, uri: http://m, token: 'connection:mlflow_prod'}]\n", {})
    assert secret_values(settings) == []
    assert settings.tracking[0].token is not None
    assert settings.tracking[0].token.get_secret_value() == "connection:mlflow_prod"


def test_settings_reach_another_process_unchanged() -> None:
    """Pickling keeps the values, which a worker needs, and still hides them in strings."""
    settings = load(EVERYWHERE, {"S": "canary-secret"})
    copy = pickle.loads(pickle.dumps(settings))
    assert copy == settings
    assert "canary" not in repr(copy)
