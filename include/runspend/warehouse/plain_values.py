"""Tests of JSON values that others may have written: states of units and records."""

from __future__ import annotations

import re
from datetime import datetime

LARGEST = 1 << 60  # exclusive limit of every count, and of every number of bytes or rows
CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029]")  # a character that no name has
SHA256 = re.compile(r"[0-9a-f]{64}", re.ASCII)


def is_count(value: object) -> bool:
    """Whether it is an integer from 0 on that fits a 64-bit column. True and False do not count."""
    return type(value) is int and 0 <= value < LARGEST


def is_time(value: object) -> bool:
    """Whether it is the text of a time with an offset from UTC."""
    try:
        return isinstance(value, str) and datetime.fromisoformat(value).tzinfo is not None
    except ValueError:
        return False
