"""Tests of JSON values that a program other than Runspend may have written, in states of units and in records."""

from __future__ import annotations

import re
from datetime import datetime

LARGEST = 1 << 60  # exclusive upper limit of all counts, such as numbers of bytes or rows
CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029]")  # control characters, which no valid name contains
SHA256 = re.compile(r"[0-9a-f]{64}", re.ASCII)


def is_count(value: object) -> bool:
    """Whether the value is an integer from 0 to below LARGEST, so that it fits into a 64-bit column. True and False are not integers here."""
    return type(value) is int and 0 <= value < LARGEST


def is_time(value: object) -> bool:
    """Whether the value is the ISO 8601 text of a time with an offset from UTC."""
    try:
        return isinstance(value, str) and datetime.fromisoformat(value).tzinfo is not None
    except ValueError:
        return False
