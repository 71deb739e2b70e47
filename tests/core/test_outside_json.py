"""JSON from outside: read, or refused with a ValueError."""

from __future__ import annotations

import json

import pytest

from runspend.core.outside_json import MAX_BYTES, MAX_DEPTH, parse_json


@pytest.mark.parametrize("depth", [MAX_DEPTH + 1, 900, 1_000, 5_000, 1_000_000])
@pytest.mark.parametrize(("opening", "closing"), [("[", "]"), ('{"a":', "}"), ('[{"a":', "}]")])
def test_nesting_without_end_is_a_value_error(depth: int, opening: str, closing: str) -> None:
    with pytest.raises(ValueError, match="deeper than 100"):
        parse_json(opening * depth + "1" + closing * depth)
    with pytest.raises(ValueError, match=r"deeper than 100|Expecting"):
        parse_json(opening * depth)


def test_valid_json_is_parsed() -> None:
    value = {"a": [1, {"b": None}], "c": "é"}
    assert parse_json(json.dumps(value)) == parse_json(json.dumps(value).encode()) == value
    deep = "[" * MAX_DEPTH + "1" + "]" * MAX_DEPTH
    assert json.dumps(parse_json(deep)) == deep


@pytest.mark.parametrize("text", ["", "{", "[1,]", "nan", '{"a":1}x', "\ud800", "1" * 5_000, b"\xff\xfe\x00"])
def test_invalid_json_is_a_value_error(text: str | bytes) -> None:
    with pytest.raises(ValueError, match=r"."):
        parse_json(text)


def test_a_text_that_is_too_long_is_a_value_error() -> None:
    with pytest.raises(ValueError, match=f"it has {MAX_BYTES + 1} bytes, more than {MAX_BYTES}"):
        parse_json(" " * (MAX_BYTES + 1))
