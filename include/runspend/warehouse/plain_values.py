"""Tests of values in JSON that somebody else may have written: states of units and records."""

from __future__ import annotations

import re
from datetime import datetime

__all__ = ["LARGEST", "SHA256", "is_count", "is_time"]

LARGEST = 1 << 60  # exclusive: of every count, and of every number of bytes or rows
SHA256 = re.compile(r"[0-9a-f]{64}", re.ASCII)


def is_count(value: object) -> bool:
    """Whether it is a whole number from 0 on, small enough for a column of 64 bits. True and False are none."""
    return type(value) is int and 0 <= value < LARGEST


def is_time(value: object) -> bool:
    """Whether it is the text of a time with an offset from UTC."""
    try:
        return isinstance(value, str) and datetime.fromisoformat(value).tzinfo is not None
    except ValueError:
        return False
