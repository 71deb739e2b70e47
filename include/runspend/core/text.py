"""Names as people read them: one visible line, cut to size, and harmless with any characters in them.

Amounts and dates are in `core/amounts.py`. Whole mails are in `actions/alert/render.py`.
"""

from __future__ import annotations

import hashlib
import unicodedata

# Characters that break lines, hide, or reverse the text next to them. Zero-width joiners stay: emoji and Indic scripts need them.
_SPACES = ("Cc", "Zl", "Zp", "Zs")
_DROPPED = ("Cf", "Co", "Cn")
_JOINERS = "\u200c\u200d"


def clean(text: object, limit: int = 60) -> str:
    """Make a name fit for a header, a line of text and a table cell: one line, visible, no direction controls, at most `limit` wide."""
    return cut(" ".join(visible(str(text)[: 8 * limit]).split()), limit) or "(no name)"


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
