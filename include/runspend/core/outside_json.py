"""Read JSON from outside: a bill, a manifest, a tag, a record, a server's answer.

This module limits the size and nesting of all such text. Without the limit, deep nesting would raise RecursionError. Readers
check the values.
"""

from __future__ import annotations

import json
from typing import Any

MAX_BYTES = 64 << 20
MAX_DEPTH = 100  # of objects and lists; manifests and tags have fewer than ten levels


def parse_json(text: str | bytes, **hooks: Any) -> Any:
    """Return the value of a JSON text; `hooks` are those of `json.loads`. Raises only ValueError if the text cannot be read."""
    if len(text) > MAX_BYTES:
        raise ValueError(f"it has {len(text)} bytes, more than {MAX_BYTES}")
    try:
        value = json.loads(text, **hooks)
        is_deep = _is_deep(value)
    except RecursionError:
        is_deep = True
    if is_deep:
        raise ValueError(f"its objects or lists are nested deeper than {MAX_DEPTH} levels")
    return value


def _is_deep(value: Any) -> bool:
    """Whether a value is nested too deeply; checked level by level, without recursion."""
    level = [value]
    for _ in range(MAX_DEPTH):
        level = [
            inner for outer in level if isinstance(outer, (dict, list)) for inner in (outer.values() if isinstance(outer, dict) else outer)
        ]
        if not level:
            return False
    return any(isinstance(inner, (dict, list)) for inner in level)
