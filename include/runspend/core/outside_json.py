"""Read JSON that somebody else wrote: a bill, a manifest, a tag, a record, an answer of a server.

Put here the limits of all such text: its size, and a nesting so deep that Python ends with an error that is not a ValueError. What the
value must look like is for its reader.
"""

from __future__ import annotations

import json
from typing import Any

MAX_BYTES = 64 << 20
MAX_DEPTH = 100  # objects and lists inside one another; manifests and tags have fewer than ten


def parse_json(text: str | bytes, *, max_bytes: int = MAX_BYTES, **hooks: Any) -> Any:
    """The value of a JSON text; `hooks` are those of `json.loads`. Raises ValueError, and nothing else, for one that cannot be read."""
    if len(text) > max_bytes:
        raise ValueError(f"it has {len(text)} bytes, more than {max_bytes}")
    try:
        value = json.loads(text, **hooks)
    except RecursionError:
        raise ValueError(f"it has objects or lists in one another deeper than {MAX_DEPTH}") from None
    if _is_deep(value):
        raise ValueError(f"it has objects or lists in one another deeper than {MAX_DEPTH}")
    return value


def _is_deep(value: Any) -> bool:
    """Whether a value is nested more deeply than it may be; found without recursion, a level at a time."""
    level = [value]
    for _ in range(MAX_DEPTH):
        level = [inner for outer in level if isinstance(outer, (dict, list)) for inner in (outer.values() if isinstance(outer, dict) else outer)]
        if not level:
            return False
    return any(isinstance(inner, (dict, list)) for inner in level)
