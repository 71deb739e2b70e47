"""Names as people read them: one visible line, cut to size, and harmless with any characters in them.

Amounts and dates are in `core/amounts.py`. Whole mails are in `actions/alert/render.py`.
"""

from __future__ import annotations

import hashlib
import re
import unicodedata

# Characters that break lines, hide, or reverse the text next to them. Zero-width joiners stay: emoji and Indic scripts need them.
_SPACES = ("Cc", "Zl", "Zp", "Zs")
_DROPPED = ("Cf", "Co", "Cn")
_JOINERS = "\u200c\u200d"


def clean(text: object, limit: int = 60) -> str:
    """Make a name fit for a header, a line of text and a table cell: one line, visible, no direction controls, at most `limit` wide."""
    return cut(" ".join(visible(str(text)[: 8 * limit]).split()), limit) or "(no name)"


def quoted_value(text: str) -> str:
    """Return a given value as errors quote it: with its quotes and escapes. A long one is cut."""
    return repr(text if len(text) <= 60 else f"{text[:60]}…")


def counted(number: int, noun: str, nouns: str = "") -> str:
    """Return a number with its noun: "1 row", "2 rows". `nouns`: the plural, if it does not just end in s."""
    return f"{number:,} {noun if number == 1 else nouns or f'{noun}s'}"


def finding(key: str, value: object) -> str:
    """Return a finding of a loader as people read it: "actual cost without amortized: 2026-10"."""
    return f"{key.replace('_', ' ')}: {', '.join(map(str, value)) if isinstance(value, list) else value}"


def visible(text: str) -> str:
    """Remove line breaks, control characters and text that cannot be encoded."""
    kept = []
    for char in text:
        category = unicodedata.category(char)
        if category in _SPACES:
            kept.append(" ")
        elif category == "Cs":
            kept.append("\ufffd")
        elif category not in _DROPPED or char in _JOINERS:
            kept.append(char)
    return "".join(kept)


# A folder of one person: /Users/ann@example.com/llm, /Workspace/Users/…, and Databricks' older /Repos/….
PATH = re.compile(r"(?<![\w:/…])/(?:[^\s/'\"]+/){2,}[^\s/'\",;:]+")  # an absolute path of three or more parts, not a web address
PERSONAL = re.compile(r"/(Users|Repos)/([^/]+)")


def without_person(experiment: str | None) -> str | None:
    """Return an experiment's name, or a string with one in it, without the addresses that Databricks puts into it: `/Users/…/llm`."""
    return None if experiment is None else PERSONAL.sub(r"/\1/…", experiment)


def short_place(name: str) -> str:
    """Return a file system's path by its last two parts, because the rest says where a server keeps its files. Other names stay."""
    path = name.removeprefix("file://")
    parts = path.rstrip("/").split("/")
    return f"…/{'/'.join(parts[-2:])}" if path.startswith("/") and len(parts) > 3 else name


def short_places(text: str) -> str:
    """Return a string with every path of a file system in it cut to its last two parts."""
    return PATH.sub(lambda found: short_place(found[0]), text)


def cut(text: str, limit: int) -> str:
    """Cut the text to at most `limit` columns, with … where something was cut off."""
    if width(text) <= limit:
        return text
    kept, used = "", 1
    for char in text:
        used += width(char)
        if used > limit:
            break
        kept += char
    return kept + "…"


def width(text: str) -> int:
    """Return the columns that the text needs in a fixed-width font."""
    return sum(0 if unicodedata.combining(c) or c in _JOINERS else 2 if unicodedata.east_asian_width(c) in "WF" else 1 for c in text)


def person(name: str | None, people: str) -> str:
    """Return a user's name as `mail.people` asks; empty when there is none or it is hidden."""
    if not name or people == "hide":
        return ""
    if people == "pseudonym":
        return "person-" + hashlib.sha256(name.encode("utf-8", "surrogatepass")).hexdigest()[:6]
    return clean(name, 24)
