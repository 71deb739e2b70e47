"""Hide secrets in text: passwords in URIs, and known values in every form in which they may be printed.

Pure functions from text to text. `config/settings.py` knows which values are secret.
"""

from __future__ import annotations

import base64
import html
import json
import re
from collections.abc import Iterable, Iterator
from urllib.parse import quote, quote_plus, unquote

HIDDEN = "***"
# A shorter value occurs in many words: hiding it would garble every text and protect nothing.
MIN_LENGTH = 4

# Servers answer with megabytes that may end up in an error, so each pattern reads a character only a few times.
_WORD = re.compile(r"\S+")
_BEFORE_PASSWORD = re.compile(r"[A-Za-z][A-Za-z0-9+.-]{0,30}://[^\s/?#:@]*:(?!\d+(?:[/?#\s\"'),;]|$))")
_PARAMETER = re.compile(r"[?&;]([\w.-]+)=")
_PARAMETER_VALUE = re.compile(r"[^&\s\"'#]*")
_SECRET_NAME = re.compile(r"password|passwd|pwd|secret|token|signature|credential|api[_-]?key|access[_-]?key")


def redact_uri(text: str) -> str:
    """Replace the password of every `scheme://user:password@host`, and secret query parameters, by ***."""
    for find in (_passwords, _secret_parameters):
        shown, at = [], 0
        for first, after in find(text):
            shown += [text[at:first], HIDDEN]
            at = after
        text = "".join([*shown, text[at:]])
    return text


def uri_secrets(text: str) -> list[str]:
    """Return the values that `redact_uri` hides, as written and percent-decoded."""
    found = [text[first:after] for find in (_passwords, _secret_parameters) for first, after in find(text)]
    return [form for value in found for form in (value, unquote(value)) if value and value != HIDDEN]


def _passwords(text: str) -> Iterator[tuple[int, int]]:
    """Yield where an address's password begins and ends. It ends at the last @ of a word, since people write passwords with an @."""
    for word in _WORD.finditer(text):
        after = text.rfind("@", word.start(), word.end())
        if after >= 0 and (before := _BEFORE_PASSWORD.search(text, word.start(), word.end())) and before.end() <= after:
            yield before.end(), after


def _secret_parameters(text: str) -> Iterator[tuple[int, int]]:
    """Yield where the value of each secret query parameter begins and ends."""
    at = 0
    while parameter := _PARAMETER.search(text, at):
        at = parameter.end()
        if names_secret(parameter[1]):
            value = _PARAMETER_VALUE.match(text, at)
            assert value is not None, "a pattern that matches nothing too"
            yield value.span()
            at = value.end()


def names_secret(name: str) -> bool:
    """Whether a query parameter or environment variable with this name holds a secret."""
    folded = name.casefold()
    return folded in ("sig", "key") or _SECRET_NAME.search(folded) is not None


def redact_error(error: BaseException, secrets: Iterable[str]) -> str:
    """Return an error in one line, without these values and without the secrets of addresses."""
    return redact_values(redact_uri(" ".join(str(error).split())), secrets)


def redact_values(text: str, secrets: Iterable[str]) -> str:
    """Replace the secrets in a string: plain, URL-encoded, escaped, and in base64 (alone or inside longer text)."""
    forms = {form for secret in secrets if len(secret) >= MIN_LENGTH for form in _forms(secret)}
    if not forms:
        return text
    longest_first = sorted(forms, key=lambda form: (-len(form), form))
    return re.sub("|".join(re.escape(form) for form in longest_first), HIDDEN, text)


def _forms(secret: str) -> set[str]:
    forms = {secret, json.dumps(secret)[1:-1], json.dumps(secret, ensure_ascii=False)[1:-1], repr(secret)[1:-1], html.escape(secret)}
    raw = secret.encode("utf-8", "surrogatepass")
    for encoded in (quote(raw, safe=""), quote(raw), quote_plus(raw)):
        forms |= {encoded, re.sub(r"%[0-9A-F]{2}", lambda m: m[0].lower(), encoded)}
    for shift in range(3):  # the base64 of a value differs at each of three offsets in the encoded text
        # Leave out characters that also carry bits of the text around the secret.
        first, last = -(-8 * shift // 6), 8 * (shift + len(raw)) // 6
        for encode in (base64.b64encode, base64.urlsafe_b64encode):
            middle = encode(b"\0" * shift + raw).decode()[first:last]
            if len(middle) >= MIN_LENGTH:
                forms.add(middle)
    forms |= {base64.b64encode(raw).decode(), base64.urlsafe_b64encode(raw).decode()}
    return forms
