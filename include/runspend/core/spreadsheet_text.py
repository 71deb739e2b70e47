"""Guards text that a spreadsheet would run as a formula with an apostrophe (OWASP ASVS 1.2.10, CWE-1236).

Every CSV file that Runspend writes uses it.
"""

from __future__ import annotations

STARTERS = "=+-@\t\r\n\0|%＝＋－＠"  # also the full-width forms
BEFORE = " \u00a0\u3000'\"\ufeff\u200b"  # blanks and quotes after which a spreadsheet still finds a formula
# The same as a regular expression without look-ahead, for Arrow and DuckDB.
PATTERN = f"^[{BEFORE}]*[=+\\-@\\t\\r\\n\\x00|%＝＋－＠]"


def guard_text(text: str) -> str:
    """Put an apostrophe before the text if a spreadsheet could read it as a formula, even after blanks or quotes."""
    starters = frozenset(STARTERS)
    return f"'{text}" if text[:1] in starters or text.lstrip(BEFORE)[:1] in starters else text
