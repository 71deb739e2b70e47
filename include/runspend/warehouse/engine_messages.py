"""Turn the messages of engines and parsers into one line of text without control characters."""

from __future__ import annotations

import re


def in_one_line(text: object) -> str:
    """Return the text in one line, without colors and the final full stop. Control characters become the replacement character."""
    plain = re.sub(r"\x1b\[[0-9;]*m", "", str(text))
    return "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in " ".join(plain.split())).rstrip(".")
