"""What engines and parsers say, as one line of text that moves no cursor. What is said in which case does not belong here."""

from __future__ import annotations

import re

__all__ = ["in_one_line"]


def in_one_line(text: object) -> str:
    """The text without line breaks, colors and control characters, and without the full stop at its end."""
    plain = re.sub(r"\x1b\[[0-9;]*m", "", str(text))
    return "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in " ".join(plain.split())).rstrip(".")
