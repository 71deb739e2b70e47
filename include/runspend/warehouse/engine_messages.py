"""Messages of engines and parsers as one line of text without control characters. The choice of messages does not belong here."""

from __future__ import annotations

import re


def in_one_line(text: object) -> str:
    """Return the text without line breaks, colors, control characters and the final full stop."""
    plain = re.sub(r"\x1b\[[0-9;]*m", "", str(text))
    return "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in " ".join(plain.split())).rstrip(".")
