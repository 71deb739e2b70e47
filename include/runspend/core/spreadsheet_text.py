"""What a spreadsheet takes for a formula, and the apostrophe that keeps it a text (OWASP ASVS 1.2.10, CWE-1236).

Put here which texts are guarded, for every CSV that is written.
"""

from __future__ import annotations

STARTERS = "=+-@\t\r\n\0|%＝＋－＠"  # in full width too
BEFORE = " \u00a0\u3000'\"\ufeff\u200b"  # blanks and quotes, behind which a spreadsheet still finds a formula
# The same as a regular expression without look-ahead, for Arrow and DuckDB.
PATTERN = f"^[{BEFORE}]*[=+\\-@\\t\\r\\n\\x00|%＝＋－＠]"


def guard_text(text: str) -> str:
    """The text, with an apostrophe before it if a spreadsheet could take it for a formula, even behind blanks or quotes."""
    starters = frozenset(STARTERS)
    return f"'{text}" if text[:1] in starters or text.lstrip(BEFORE)[:1] in starters else text
