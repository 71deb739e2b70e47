"""Mutations that keep the shape of an input: cells of a CSV, values of a JSON document, words of a string. Seeded, so repeatable."""

from __future__ import annotations

import csv
import io
import json
import random
import re
from collections.abc import Callable, Sequence
from typing import Any

NUMBERS = (
    "0", "-0", "-1", "+1", "1e5", "1e400", "1e-400", "NaN", "Infinity", "-inf", "1" * 39, "9" * 19, "9" * 5000, "0.00000000000000000000001", "0." + "3" * 60, "1_000", "1,000.00",
    "\u0661\u0662", "\uff11", "0x10", "9223372036854775807", "9223372036854775808", "-9223372036854775809", "1e38", "99999999999999999999999999999999999999", ".5", "5.", "1.2.3", "$1", "(1)",
)  # fmt: skip
TIMES = (
    "0000-00-00", "0001-01-01T00:00:00Z", "9999-12-31T23:59:59.999999Z", "10000-01-01T00:00:00Z", "-0001-01-01", "2026-02-30T00:00:00Z", "2026-10-05T24:00:00Z", "2026-10-05T10:00:00+99:99",
    "2026-10-05T10:00:00-14:00", "2026-10-05T10:00:60Z", "infinity", "-infinity", "epoch", "now", "today", "2026-10-05", "2026-10-05T10:00", "20261005T100000Z", "1e10", "1761213600000", "2026-W40-1",
    "290309-12-22 (BC) 00:00:00", "294247-01-10T04:00:54.775807Z", "2026-13-01", "10/32/2026", "2026-10-05 10:00:00 UTC", "2026-10-05T10:00:00.1234567890Z",
)  # fmt: skip
TEXTS = (
    "", " ", "\x00", "\r", "\n", "\r\n", "\t", '"', "'", "\\", ",", ";", "|", "{}", "[]", '{"a":', '{"a": {"a": {"a": 1}}}', "[" * 200, '{"a":' * 200, "A" * 10_000, "../../x", "/etc/passwd",
    "http://[", "http://[::1", "https://user:pw@h:99999/", "%00", "%zz", "%2e%2e%2f", "${HOME}", "${", "$${", "\u2028", "\ufeff", "\u202e", "=1+1", "a\u0301", "\U0001f600", "\ud7ff", "\ufffe", "null",
    "NULL", "None", "true", "~", "*", "?", "[", "a" * 300, "-", "--", "/*", "*/", "';", "$$", "@x", "\u0130", "\u1e9e", "\x7f", "\x1b[2J", "s3://", "s3:///", "file:///", "abfss://c@", "a@b", "<a@b>",
    "a@[127.0.0.1]", "runs:/", "mlflow-artifacts:/", ".", "..", "/", "//", "0", "\x85", "\xa0", "con", "ﬁ",
)  # fmt: skip
HOSTILE = (*NUMBERS, *TIMES, *TEXTS)
VALUES: tuple[Any, ...] = (
    None, True, False, 0, -1, 1.5, -0.0, 1e308, 10**18, 2**63, -(2**63) - 1, 10**40, [], {}, [[]], [None], {"": None}, {"a": {"b": []}}, "\ud800", [1, "a", None], {"key": 1},
    float("nan"), float("inf"),
)  # fmt: skip
SQL_WORDS = (
    "select", "from", "where", "group by all", "order by", "limit 1", "with x as (select 1)", "union all", "copy", "attach", "read_csv('/etc/passwd')", "read_text('/etc/hostname')", "'..'", "unnest", "(", ")", ",", ";",
    "--", "/*", "*/", "`", '"', "'", "r'", "b'", '"""', "null", "cast(x as", "as bignumeric)", "bignumeric '1e400'", "numeric 'x'", "date '0000-00-00'", "timestamp", "interval 1", "@p", "?", "::", "{", "[", "struct(", "array<", "pivot",
    "qualify", "over (", "except", "replace", "explain analyze", "pragma", "set", "install", "getenv('HOME')", "runs", "cost_daily", "never.rows", "information_schema.tables", "x.y.z", "div(", "timestamp_diff(", "countif(distinct",
    "safe_cast", "format(", "lambda x: x", "1e999", "0x1f", "exists", "case when", "end", "recursive", "values (1)", "$1", "sum(", "10" * 30, "json '{}'", "generate_array(1, 10)", "1 +", "a.b", "*",
)  # fmt: skip

Mutation = Callable[[bytes, random.Random], bytes]


def mutate(kind: str, data: bytes, chance: random.Random, largest: int) -> bytes:
    """One to four mutations of an input of this kind; never longer than `largest` bytes, never none at all."""
    for _ in range(chance.choice((1, 1, 2, 4))):
        shaped = chance.random() < 0.85
        data = (_KINDS[kind] if shaped else _bytes)(data, chance)
    return data[:largest] or b" "


def as_json(data: bytes) -> Any:
    """The document a target is about; None for bytes that are none."""
    try:
        return json.loads(data)
    except (ValueError, RecursionError):
        return None


def _hostile(chance: random.Random) -> str:
    return chance.choice(chance.choice((NUMBERS, TIMES, TEXTS)))


def _encode(text: str) -> bytes:
    return text.encode("utf-8", "surrogatepass")


def _bytes(data: bytes, chance: random.Random) -> bytes:
    """Flips, cuts, doublings and foreign pieces, independent of the meaning of the bytes."""
    at, to = sorted((chance.randrange(len(data) + 1), chance.randrange(len(data) + 1)))
    to = min(to, at + chance.choice((1, 4, 40, 4000)))
    new = {
        0: lambda: bytes([chance.randrange(256)]),
        1: lambda: b"",
        2: lambda: data[at:to] * 2,
        3: lambda: _encode(_hostile(chance)),
        4: lambda: bytes(chance.randrange(256) for _ in range(chance.randrange(8))),
        5: lambda: bytes(b ^ (1 << chance.randrange(8)) for b in data[at : at + 1]),
    }[chance.randrange(6)]()
    return data[:at] + new + data[to:]


def _text(data: bytes, chance: random.Random) -> bytes:
    """Words and lines of a string, replaced, dropped, doubled, swapped."""
    text = data.decode("utf-8", "replace")
    if chance.random() < 0.4:
        lines = text.split("\n")
        i, j = chance.randrange(len(lines)), chance.randrange(len(lines))
        match chance.randrange(4):
            case 0:
                lines[i], lines[j] = lines[j], lines[i]
            case 1:
                lines.insert(j, lines[i])
            case 2:
                del lines[i]
            case _:
                lines[i] = (" " * chance.randrange(5)) + lines[i].lstrip()
        return _encode("\n".join(lines))
    words = re.split(r"([^\w.-]+)", text)
    i = chance.randrange(len(words))
    words[i] = chance.choice((_hostile(chance), chance.choice(words), words[i] + _hostile(chance)))
    return _encode("".join(words))


def _sql(data: bytes, chance: random.Random) -> bytes:
    """Tokens of a statement."""
    tokens = re.findall(r"\w+|\s+|[^\w\s]", data.decode("utf-8", "replace")) or [" "]
    i, j = chance.randrange(len(tokens)), chance.randrange(len(tokens))
    match chance.randrange(5):
        case 0:
            tokens[i] = f" {chance.choice(SQL_WORDS)} "
        case 1:
            tokens.insert(i, f" {chance.choice(SQL_WORDS)} ")
        case 2:
            tokens[i], tokens[j] = tokens[j], tokens[i]
        case 3:
            low, high = sorted((i, j))
            tokens = tokens[:low] + ["(", *tokens[low:high], ")"] * chance.choice((1, 2)) + tokens[high:]
        case _:
            low, high = sorted((i, j))
            del tokens[low : min(high, low + 6)]
    return _encode("".join(tokens))


def _csv(data: bytes, chance: random.Random) -> bytes:
    """Cells, columns and rows of a CSV, with the delimiter it has."""
    text = data.decode("utf-8", "replace")
    delimiter = max(",|;\t", key=text.partition("\n")[0].count)
    try:
        rows = list(csv.reader(io.StringIO(text), delimiter=delimiter))
    except csv.Error:
        return _text(data, chance)
    rows = [row for row in rows if row] or [[""]]
    row = chance.choice(rows[1:] or rows)
    column = chance.randrange(len(row))
    match chance.randrange(10):
        case 0 | 1 | 2:
            row[column] = _hostile(chance)
        case 3:
            other = chance.choice(rows)
            row[column] = other[column % len(other)]
        case 4:
            row[column] = chance.choice(
                (row[column] + _hostile(chance), _hostile(chance) + row[column], row[column][: len(row[column]) // 2])
            )
        case 5:
            rows.insert(chance.randrange(len(rows) + 1), list(row))
        case 6:
            i = chance.randrange(len(rows[0]))
            rows[0][i] = chance.choice((_hostile(chance), rows[0][i].upper(), rows[0][i - 1], rows[0][i] + " "))
        case 7:
            for each in rows:
                del each[column : column + 1]
        case 8:
            row.insert(column, _hostile(chance)) if chance.random() < 0.5 else row.pop(column)
        case _:
            rows.pop(chance.randrange(len(rows)))
    out = io.StringIO()
    csv.writer(out, delimiter=delimiter, lineterminator=chance.choice(("\n", "\n", "\n", "\r\n", "\r"))).writerows(
        row or [""] for row in rows
    )
    return _encode(out.getvalue())


def _json(data: bytes, chance: random.Random) -> bytes:
    """A value, a key or a list of a JSON document; of JSON lines, of one of them."""
    text = data.decode("utf-8", "surrogatepass") if _is_utf8(data) else data.decode("utf-8", "replace")
    try:
        return _encode(json.dumps(_changed(json.loads(text), chance), ensure_ascii=chance.random() < 0.5))
    except (ValueError, RecursionError):
        pass
    lines = text.split("\n")
    i = chance.randrange(len(lines))
    try:
        lines[i] = json.dumps(_changed(json.loads(lines[i]), chance))
    except (ValueError, RecursionError):
        return _text(data, chance)
    if chance.random() < 0.1:
        lines.insert(i, lines[i])
    return _encode("\n".join(lines))


def _is_utf8(data: bytes) -> bool:
    try:
        data.decode("utf-8", "surrogatepass")
    except UnicodeDecodeError:
        return False
    return True


def _changed(value: Any, chance: random.Random) -> Any:
    """The document with one place changed: the deeper a place, the rarer it is not reached."""
    if isinstance(value, dict) and value and chance.random() < 0.9:
        key = chance.choice(list(value))
        action = chance.randrange(12)
        if action == 0:
            return {k: v for k, v in value.items() if k != key}
        if action == 1:
            return {(_hostile(chance) if k == key else k): v for k, v in value.items()}
        if action == 2:
            return {**value, _hostile(chance): value[key]}
        return {**value, key: _changed(value[key], chance)}
    if isinstance(value, list) and value and chance.random() < 0.9:
        i = chance.randrange(len(value))
        action = chance.randrange(8)
        if action == 0:
            return value[:i] + value[i + 1 :]
        if action == 1:
            return [*value, value[i]]
        return [*value[:i], _changed(value[i], chance), *value[i + 1 :]]
    if isinstance(value, str) and chance.random() < 0.3:
        return chance.choice((value + _hostile(chance), _hostile(chance) + value, value[: len(value) // 2], value.upper()))
    if chance.random() < 0.1:
        for _ in range(chance.choice((3, 50, 3000))):
            value = [value] if chance.random() < 0.5 else {"a": value}
        return value
    return chance.choice((chance.choice(VALUES), _hostile(chance)))


_KINDS: dict[str, Mutation] = {"bytes": _bytes, "text": _text, "sql": _sql, "csv": _csv, "json": _json}
KINDS: Sequence[str] = tuple(_KINDS)
