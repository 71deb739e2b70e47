"""The one selector language: a map of and-ed keys, each value a text, a glob, or a list of them (or).

Selectors name runs (`pools[].runs`, `budgets[].for`, `retention[].select`) and bill lines (`scope`, `shared.lines`, `pools[].lines`).
Validated here; matched by whoever holds the rows (SQL with `glob_to_regex`, so no loops over rows).
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

RUN_KEYS = ("tracking", "workspace", "experiment", "user", "status")
RUN_MAPS = ("tag", "param", "experiment_tag")
LINE_KEYS = ("source", "account", "service", "region", "resource", "instance_type", "category")
LINE_MAPS = ("tag",)
BUDGET_KEYS = ("tracking", "workspace", "experiment", "user", "owner", "team", "project", "cost_center", "cost_kind", "provider", "source", "model")
BUDGET_RUN_KEYS = ("model", *RUN_MAPS)  # of runs alone: a budget that selects by them counts no money but runs'

Selector = dict[str, list[str]]


def parse_selector(raw: Any, keys: tuple[str, ...], maps: tuple[str, ...]) -> Selector:
    """A mapping from YAML as {key: [pattern, …]}; raises ValueError that names the key and what is allowed."""
    if not isinstance(raw, Mapping) or not raw:
        raise ValueError("a selector is a map of at least one key to a text, a glob or a list of them")
    parsed: Selector = {}
    for key, value in raw.items():
        head, _, rest = str(key).partition(".")
        if key not in keys and not (head in maps and rest):
            allowed = ", ".join((*keys, *(f"{m}.KEY" for m in maps)))
            raise ValueError(f"unknown selector key {key!r}; allowed are {allowed}")
        parsed[str(key)] = parse_patterns(str(key), value)
    return parsed


def parse_patterns(key: str, value: Any) -> list[str]:
    """The value of one selector key as a list of globs; an empty one would match nothing or, worse, be read as all."""
    patterns = value if isinstance(value, list) else [value]
    if not patterns or not all(isinstance(p, (str, int, float)) and not isinstance(p, bool) and str(p).strip() for p in patterns):
        raise ValueError(f"selector key {key!r} needs a text, a glob or a list of them, none of them empty")
    return [str(p) for p in patterns]


def glob_to_regex(pattern: str) -> str:
    """A glob (`*` and `?` only) as an RE2 expression that must match the whole text."""
    body = "".join(".*" if c == "*" else "." if c == "?" else re.escape(c) for c in pattern)
    return f"(?s)^{body}$"


def matches(pattern: str, text: str | None) -> bool:
    """Whether a glob matches the whole text, case and all; what is missing matches nothing. For a few texts, not for rows.

    Not by `re`: it tries `*a*a*a*b` in every way there is. Here each `*` takes as little as it can, and only the last one ever takes more.
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
