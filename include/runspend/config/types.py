"""Defines the types of values in `runspend.yaml`: lengths of time, money, thresholds, URIs, addresses, selectors.

Each type converts a value to one form, or raises an error that states what is allowed. No error repeats the value, which may be a
secret. `settings.py` assigns types to keys.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from datetime import timedelta
from decimal import Decimal
from email.utils import getaddresses, parseaddr
from typing import Annotated, Any, Literal
from zoneinfo import ZoneInfo

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    PlainSerializer,
    SecretStr,
    ValidationInfo,
    WithJsonSchema,
)

from runspend.core.amounts import EXACT
from runspend.core.redaction import redact_uri
from runspend.core.selectors import BUDGET_KEYS, LINE_KEYS, LINE_MAPS, RUN_KEYS, RUN_MAPS, Selector, parse_selector

CHANNEL = "channel:"  # followed by the name of a chat or pager; may be used instead of a mail recipient
CONNECTION = "connection:"  # followed by the id of an Airflow connection, which runspend.airflow.connections resolves
NAME_PATTERN = r"^[A-Za-z0-9][A-Za-z0-9_.-]{0,62}$"
CURRENCY_PATTERN = r"^[A-Z]{3}$"
DIMENSION_PATTERN = r"^(run\.user|(run|experiment|line)\.tag\..+|run\.param\..+)$"

_DATABASE = re.compile(r"(postgres(ql)?|mysql|mariadb)(\+\w+)?://", re.IGNORECASE)
_DURATION = re.compile(r"(?:\d+(?:\.\d+)?\s*[wdhms]\s*)+")
_SECONDS = {"w": 604800, "d": 86400, "h": 3600, "m": 60, "s": 1}
SCHEME = re.compile(r"^[A-Za-z][A-Za-z0-9+.-]+:")
_SIZE = re.compile(r"(\d+(?:\.\d+)?)\s*([kmgtp]?i?b)?", re.ASCII | re.IGNORECASE)
_MAILBOX = re.compile(
    r"[A-Za-z0-9.!#$%&'*+/=?^_`{|}~-]{1,64}@[A-Za-z0-9](?:[A-Za-z0-9-]*[A-Za-z0-9])?(?:\.[A-Za-z0-9](?:[A-Za-z0-9-]*[A-Za-z0-9])?)*"
)
_PLAIN_LOCAL = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9._+'=~-]{0,62}[A-Za-z0-9_+'=~-])?")
LONGEST_ADDRESS = 1_000  # characters, including the name; the standard library parses longer addresses slowly
_UNITS = {"b": 1, "ib": 1, **{f"{p}b": 1000**n for n, p in enumerate("kmgtp", 1)}, **{f"{p}ib": 1024**n for n, p in enumerate("kmgtp", 1)}}


def check_database_address(text: str) -> None:
    """Raise ValueError if the user or password of a database address contains a plain `/`, `?`, `#` or `@`.

    The password would end at such a character, and the rest of it would be shown as a host.
    """
    if not _DATABASE.match(text):
        return
    place, _, rest = text.partition("://")[2].partition("/")
    if "#" in text or "@" in rest.partition("?")[0] or "@" in place.partition("?")[2]:
        raise ValueError("its user or password has a special character. Write / as %2F, ? as %3F, # as %23 and @ as %40")


class Frozen(BaseModel):
    """Base class of all settings. It is frozen and refuses unknown keys. Errors never repeat values; `repr` hides passwords in URIs."""

    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True, populate_by_name=True)

    def __repr_args__(self) -> Iterator[tuple[str | None, Any]]:
        for name, value in super().__repr_args__():
            yield name, redact_uri(value) if isinstance(value, str) else value


def parse_duration(raw: object) -> timedelta:
    """Return the length of time in a text such as `36h`, `30d`, `90m` or `1d 12h`.

    Raises ValueError if the value is empty, zero, negative, without a unit, or above 100 years.
    """
    if isinstance(raw, timedelta):
        duration = raw
    elif isinstance(raw, str) and _DURATION.fullmatch(raw.strip()):
        parts = re.findall(r"(\d+(?:\.\d+)?)\s*([wdhms])", raw)
        seconds = sum(Decimal(number) * _SECONDS[unit] for number, unit in parts)
        if seconds > 100 * 366 * 86400:
            raise ValueError("a length of time of at most 100 years is needed")
        duration = timedelta(seconds=float(seconds))
    else:
        raise ValueError("a length of time with its unit is needed, such as 90m, 36h, 30d or 2w")
    if duration <= timedelta(0):
        raise ValueError("a length of time above zero is needed, such as 90m, 36h, 30d or 2w")
    return duration


def format_duration(duration: timedelta) -> str:
    """Return a length of time as text, such as `36h` or `3d`: in the largest unit (days, hours or minutes) that needs no fraction.

    Days are used from two days on. Seconds are used if minutes would need a fraction.
    """
    seconds = duration.total_seconds()
    for unit in "dhm":
        if seconds % _SECONDS[unit] == 0 and (unit != "d" or seconds >= 2 * 86400):
            return f"{seconds // _SECONDS[unit]:.0f}{unit}"
    return f"{Decimal(duration // timedelta(microseconds=1)) / 1_000_000:f}s"


def parse_size(raw: object) -> int:
    """Return the number of bytes in a text such as `500MB` or `2 GiB`. Raises ValueError if the value is not a size above zero."""
    match = None if isinstance(raw, bool) else _SIZE.fullmatch(str(raw).strip())
    size = int(Decimal(match[1]) * _UNITS[(match[2] or "b").lower()]) if match else 0
    if size <= 0:
        raise ValueError("a size above zero is needed, such as 500MB or 2GiB")
    return size


def _parse_ratio(raw: object) -> object:
    if isinstance(raw, str) and raw.strip().endswith("%"):
        number = raw.strip()[:-1].strip()
        return float(number) / 100 if re.fullmatch(r"\d+(\.\d+)?", number) else raw
    return raw


def _parse_discount(raw: object) -> object:
    """Return the exact decimal 0.18 for `18%`. The sign is required, because 0.5 could also mean half a percent."""
    if isinstance(raw, Decimal):
        return raw
    text = raw.strip() if isinstance(raw, str) else ""
    if not re.fullmatch(r"\d{1,2}(\.\d{1,4})?\s*%", text):
        raise ValueError("a percentage below 100 with its sign is needed, such as 18% or 12.5%")
    return Decimal(text[:-1].strip()) / 100


def _parse_money(raw: object) -> object:
    """Return a float as its shortest text, so that the Decimal made from it is the number that was written."""
    return str(raw) if isinstance(raw, float) else raw


def _short_number(number: Decimal) -> Decimal:
    """Return the number in its shortest form. Raises ValueError if it has more than 18 digits before and after the point together.

    Longer numbers would not fit into the integers that convert money exactly.
    """
    shortest = number.normalize()
    _, digits, exponent = shortest.as_tuple()
    assert isinstance(exponent, int)
    if max(len(digits) + max(exponent, 0), -exponent) > 18:
        raise ValueError("a number of at most 18 digits is needed")
    return shortest if exponent <= 0 else shortest.quantize(Decimal(1))  # settings are shown as 28800, not as 2.88E+4


def _amount(number: Decimal) -> Decimal:
    """Return the amount. Raises ValueError if a money column cannot store it: at most 15 digits before the point and 22 after it."""
    exponent = number.normalize(EXACT).as_tuple().exponent
    if number >= 10**15 or (isinstance(exponent, int) and exponent < -22):
        raise ValueError("an amount below 1,000,000,000,000,000 with at most 22 decimals is needed")
    return number


def _hour_price(number: Decimal) -> Decimal:
    """Return the price in its shortest form. Raises ValueError if it is too large or too long.

    Within the limits, integer arithmetic multiplies a price exactly with any amount of a job's resources.
    """
    shortest = number.normalize()
    exponent = shortest.as_tuple().exponent
    assert isinstance(exponent, int)
    if exponent < -10 or number >= 10_000:
        raise ValueError("a price below 10,000 with at most 10 decimals is needed")
    return shortest if exponent <= 0 else shortest.quantize(Decimal(1))


def parse_threshold(raw: object) -> str:
    """Return a threshold in one spelling: `80%`, `500 USD` or `500`. Raises ValueError if it is not a threshold above zero."""
    text = str(raw).strip() if isinstance(raw, (str, int, float, Decimal)) and not isinstance(raw, bool) else ""
    match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*(%|[A-Z]{3})?", text, re.ASCII)
    if match is None or Decimal(match[1]) == 0:
        raise ValueError("a threshold above zero is needed, such as 80%, 500 USD, or 500 (money in `currency`)")
    return match[1] + {"%": "%", None: ""}.get(match[2], f" {match[2]}")


def threshold_amount(threshold: str, amount: Decimal) -> Decimal:
    """Return the exact amount at which a budget of `amount` crosses a threshold: 4000 for "80%" of 5000, 500 for "500 USD"."""
    number = Decimal(threshold.split(" ")[0].removesuffix("%"))
    return EXACT.divide(EXACT.multiply(amount, number), Decimal(100)) if threshold.endswith("%") else number


def _known_zone(name: str) -> str:
    try:
        ZoneInfo(name)
    except (KeyError, ValueError, OSError):  # not found, not the name of a zone, or a folder of zones
        raise ValueError("the name of a time zone is needed, such as UTC or Europe/Berlin") from None
    return name


def absolute(path: str, info: ValidationInfo) -> str:
    base = (info.context or {}).get("base")
    return path if base is None else os.path.abspath(os.path.join(base, os.path.expanduser(path)))


def resolve_uri(uri: str, info: ValidationInfo) -> str:
    """Return a URI. Paths of folders and SQLite files become absolute, relative to the file that names them. Other URIs do not change."""
    if not uri.strip() or re.search(r"[\x00-\x1f\x7f]", uri):
        raise ValueError("a URI or a folder is needed; this value is empty or has control characters")
    if uri.startswith("sqlite:") and (match := re.fullmatch(r"(sqlite(?:\+\w+)?:///)([^/?:][^?]*)(.*)", uri)):
        return f"{match[1]}{absolute(match[2], info)}{match[3]}"
    if re.match(r"file:(?!/)", uri):
        return f"file://{absolute(uri.removeprefix('file:'), info)}"
    if SCHEME.match(uri) or uri == "databricks":
        return uri
    return absolute(uri, info)


def _filled_secret(secret: SecretStr) -> SecretStr:
    if not secret.get_secret_value().strip():
        raise ValueError("a value is needed; this one is empty (an environment variable without a value?)")
    return secret


class HiddenAddress(SecretStr):
    """An address that is entirely secret: everyone who knows it can use it."""


def callable_address(address: HiddenAddress) -> HiddenAddress:
    """Return the address. Raises ValueError unless it is `https`, `http` to this machine, or an Airflow connection.

    Other addresses would send the secret without encryption.
    """
    text = address.get_secret_value()
    is_here = re.match(r"http://(localhost|127\.0\.0\.1|\[::1\])[:/]", text)
    if not text.startswith(CONNECTION) and not (
        re.fullmatch(r"https?://[^\s/\\@]+(/\S*)?", text) and (is_here or text.startswith("https://"))
    ):
        raise ValueError("an address that begins with https:// is needed (http:// only for this machine)")
    return address


def address_secrets(address: str) -> list[str]:
    """Return the part of a secret address that would reveal the secret by itself: its path and everything after it."""
    path = address.partition("://")[2].partition("/")[2]
    return [path] if len(path) > 5 else []


def address_of(text: str) -> str | None:
    """Return the address in "Name <a@b>" or "a@b", with its domain in ASCII. None if plain SMTP cannot transport the address."""
    if len(text) > LONGEST_ADDRESS or not text.isprintable():
        return None
    try:
        if len(getaddresses([text])) != 1:
            return None
        local, at, domain = parseaddr(text)[1].rpartition("@")
    except RecursionError:  # the standard library's parser recurses for each bracket or colon; hundreds of them are too many
        return None
    try:
        address = f"{local}{at}{domain.encode('idna').decode('ascii')}"
    except UnicodeError:
        return None
    return address if _MAILBOX.fullmatch(address) else None


def is_plain_local(local: str) -> bool:
    """Return whether the text before the @ is a plain mailbox. On some servers, `a%b` and `b!a` are routes to other hosts."""
    return _PLAIN_LOCAL.fullmatch(local) is not None and ".." not in local


def _mail_domain(text: str) -> str:
    """Return a domain in ASCII and lower case. It does not include its subdomains."""
    found = address_of(f"x@{text.strip().removeprefix('@')}")
    if found is None or "." not in found or re.search(r"[\s()<>\"]", text.strip()):
        raise ValueError("a mail domain is needed, such as example.com")
    return found.rpartition("@")[2].casefold()


def _address(text: str) -> str:
    if not re.fullmatch(r"[^@\s]+@[^@\s]+|[^\x00-\x1f\x7f<>]*<[^@\s<>]+@[^@\s<>]+>", text) or address_of(text) is None:
        raise ValueError("a mail address is needed, such as ana@example.com or Ana <ana@example.com>")
    return text


def _recipient(text: str) -> str:
    if text.startswith(CHANNEL):  # `Settings` checks that the channel exists
        return text
    return text if text == "owner" else _address(text)


def is_channel(recipient: str) -> bool:
    """Return whether a recipient is a chat or pager."""
    return recipient == "webhook" or recipient.startswith(CHANNEL)


def _with_json_paths(selector: Selector) -> Selector:
    odd = next((key for key in selector if '"' in key or "\\" in key), None)
    if odd is not None:  # otherwise, the invalid SQL of one budget would stop the evaluation of all budgets
        raise ValueError(f"cannot select by {odd!r}: a key with a quote or backslash has no JSON path. Leave it out")
    return selector


SELECTOR_SCHEMA = WithJsonSchema(
    {
        "type": "object",
        "minProperties": 1,
        "additionalProperties": {
            "anyOf": [{"type": ["string", "number"]}, {"type": "array", "items": {"type": ["string", "number"]}, "minItems": 1}]
        },
    }
)
Name = Annotated[str, Field(pattern=NAME_PATTERN)]
RunSelector = Annotated[Selector, BeforeValidator(lambda v: parse_selector(v, RUN_KEYS, RUN_MAPS)), SELECTOR_SCHEMA]
LineSelector = Annotated[Selector, BeforeValidator(lambda v: parse_selector(v, LINE_KEYS, LINE_MAPS)), SELECTOR_SCHEMA]
BudgetSelector = Annotated[
    Selector, BeforeValidator(lambda v: parse_selector(v, BUDGET_KEYS, RUN_MAPS)), AfterValidator(_with_json_paths), SELECTOR_SCHEMA
]
CostMeasure = Literal["effective_cost", "billed_cost", "contracted_cost", "list_cost"]
Zone = Annotated[str, AfterValidator(_known_zone)]
Dimension = Annotated[str, Field(pattern=DIMENSION_PATTERN)]
Currency = Annotated[str, Field(pattern=CURRENCY_PATTERN)]
Duration = Annotated[
    timedelta,
    BeforeValidator(parse_duration),
    PlainSerializer(format_duration, return_type=str),
    WithJsonSchema({"type": "string", "pattern": r"^\s*(\d+(\.\d+)?\s*[wdhms]\s*)+$", "examples": ["90m", "36h", "30d"]}),
]
Ratio = Annotated[
    float,
    BeforeValidator(_parse_ratio),
    Field(gt=0, le=1, allow_inf_nan=False),
    WithJsonSchema(
        {"anyOf": [{"type": "number", "exclusiveMinimum": 0, "maximum": 1}, {"type": "string", "pattern": r"^\d+(\.\d+)?\s*%$"}]}
    ),
]
Money = Annotated[Decimal, BeforeValidator(_parse_money), Field(gt=0, allow_inf_nan=False), AfterValidator(_amount)]
Rate = Annotated[Decimal, BeforeValidator(_parse_money), Field(gt=0, allow_inf_nan=False), AfterValidator(_short_number)]
Discount = Annotated[
    Decimal,
    BeforeValidator(_parse_discount),
    Field(ge=0, lt=1),
    PlainSerializer(lambda d: f"{(d * 100).normalize():f}%", return_type=str),
    WithJsonSchema({"type": "string", "pattern": r"^\s*\d{1,2}(\.\d{1,4})?\s*%\s*$"}),
]
HourPrice = Annotated[Decimal, BeforeValidator(_parse_money), Field(ge=0, allow_inf_nan=False), AfterValidator(_hour_price)]
Threshold = Annotated[str, BeforeValidator(parse_threshold), WithJsonSchema({"type": ["string", "number"], "examples": ["80%", "500 USD"]})]
Uri = Annotated[str, AfterValidator(resolve_uri)]
LocalPath = Annotated[str, AfterValidator(absolute)]
Secret = Annotated[SecretStr, AfterValidator(_filled_secret)]
SecretAddress = Annotated[HiddenAddress, AfterValidator(callable_address)]
Address = Annotated[str, AfterValidator(_address)]
MailDomain = Annotated[str, AfterValidator(_mail_domain)]
Recipient = Annotated[str, AfterValidator(_recipient)]
