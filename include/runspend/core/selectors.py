"""The selector language: a map whose keys must all match; each value is a string, a glob, or a list of alternatives.

Selectors name runs (`pools[].runs`, `budgets[].for`, `retention[].select`) and bill lines (`scope`, `shared.lines`,
`pools[].lines`). They are validated here. The code that reads the rows matches them in SQL, with `glob_to_regex`, so no code loops
over rows.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any

RUN_KEYS = ("tracking", "workspace", "experiment", "user", "status")
RUN_MAPS = ("tag", "param", "experiment_tag")
LINE_KEYS = ("source", "account", "service", "region", "resource", "instance_type", "meter", "category")
LINE_MAPS = ("tag",)
BUDGET_KEYS = (
    "tracking",
    "workspace",
    "experiment",
    "user",
    "owner",
    "team",
    "project",
    "cost_center",
    "cost_kind",
    "provider",
    "source",
    "model",
)
BUDGET_RUN_KEYS = ("model", *RUN_MAPS)  # only runs have these: a budget that selects by them counts only cost of runs

Selector = dict[str, list[str]]


def parse_selector(raw: Any, keys: tuple[str, ...], maps: tuple[str, ...]) -> Selector:
    """Return a mapping from YAML as {key: [pattern, …]}. Raises ValueError that names the key and the allowed ones."""
    if not isinstance(raw, Mapping) or not raw:
        raise ValueError("a selector is a map of at least one key to a string, a glob or a list of them")
    parsed: Selector = {}
    for key, value in raw.items():
        head, _, rest = str(key).partition(".")
        if key not in keys and not (head in maps and rest):
            allowed = ", ".join((*keys, *(f"{m}.KEY" for m in maps)))
            raise ValueError(f"unknown selector key {key!r}; allowed keys are {allowed}")
        parsed[str(key)] = parse_patterns(str(key), value)
    return parsed


def parse_patterns(key: str, value: Any) -> list[str]:
    """Return the value of one selector key as a list of globs. An empty one is refused: it would match nothing or, worse, count as
    everything.
    """
    patterns = value if isinstance(value, list) else [value]
    if not patterns or not all(isinstance(p, (str, int, float)) and not isinstance(p, bool) and str(p).strip() for p in patterns):
        raise ValueError(f"selector key {key!r} needs a string, a glob or a list of them, none of them empty")
    return [str(p) for p in patterns]


def selector_yaml(selector: Mapping[str, Any]) -> str:
    """Return a selector, ready to paste: JSON is YAML."""
    return "{" + ", ".join(f"{key}: {json.dumps(value, ensure_ascii=False)}" for key, value in selector.items()) + "}"


def glob_to_regex(pattern: str) -> str:
    """Return a glob (`*` and `?` only) as an RE2 expression that must match the whole text."""
    body = "".join(".*" if c == "*" else "." if c == "?" else re.escape(c) for c in pattern)
    return f"(?s)^{body}$"


def matches(pattern: str, text: str | None) -> bool:
    """Whether a glob matches the whole text, including its case. No glob matches None. Use it for a few strings, not for rows.

    Does not use `re`, which tries every way to match `*a*a*a*b`. Here each `*` matches as little as possible, and only the last one
    is ever extended.
    """
    if text is None:
        return False
    at = place = retried = 0
    last_star = -1
    while at < len(text):
        if place < len(pattern) and pattern[place] == "*":
            last_star, retried = place, at
            place += 1
        elif place < len(pattern) and pattern[place] in ("?", text[at]):
            place, at = place + 1, at + 1
        elif last_star >= 0:
            retried += 1
            place, at = last_star + 1, retried
        else:
            return False
    return set(pattern[place:]) <= {"*"}
