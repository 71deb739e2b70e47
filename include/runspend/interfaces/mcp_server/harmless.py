"""Make strings from outside safe for an assistant: without control characters, not too long, without names of hidden people.

A name can still contain any words. So the descriptions of the tools say that names are data, and no tool changes anything.
"""

from __future__ import annotations

import math
from typing import Any

from runspend.core.text import visible, without_person

LONGEST = 1000  # characters of one text
LONGEST_PAGE = 30_000  # characters of a text with several lines
PAGES = ("text",)  # keys whose texts have several lines
SAFE = 2**53  # larger integers lose digits in JavaScript


def harmless(value: Any, *, hides_people: bool, is_page: bool = False) -> Any:
    """Return a JSON value whose strings have a limited length and no control characters.

    Such strings cannot hide, reverse or break text, and cannot fill the context of an assistant. Numbers that JSON or JavaScript cannot
    represent become text. `hides_people` removes the names in `/Users/NAME/…`, the form of experiment names in Databricks.
    """
    if isinstance(value, str):
        return harmless_text(value, hides_people=hides_people, is_page=is_page)
    if isinstance(value, dict):
        return {
            harmless_text(key, hides_people=hides_people): harmless(member, hides_people=hides_people, is_page=key in PAGES)
            for key, member in value.items()
        }
    if isinstance(value, (list, tuple)):
        return [harmless(member, hides_people=hides_people) for member in value]
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    if isinstance(value, int) and not isinstance(value, bool) and abs(value) > SAFE:
        return str(value)
    return value


def harmless_text(text: str, *, hides_people: bool, is_page: bool = False) -> str:
    """Return a string of limited length, without control characters. Texts with several lines (`is_page`) keep their line breaks."""
    longest = LONGEST_PAGE if is_page else LONGEST
    kept = text[: longest + 1]
    kept = "\n".join(map(visible, kept.split("\n"))) if is_page else visible(kept)
    if hides_people:
        kept = without_person(kept) or ""
    return kept if len(text) <= longest else f"{kept[:longest]}…"
