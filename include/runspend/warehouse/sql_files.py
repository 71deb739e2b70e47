"""Models, checks and views: SQL files in a folder and its subfolders, and the macros that they may use.

`exact_money(PRODUCT)` becomes the expression that turns a float into exact money, to 18 decimals. `price_money(PRODUCT)` does the same
to 12 decimals, for estimated prices. A float never becomes money by a cast, because engines would round it differently. Here its whole
part and its decimals become integers, which every engine adds up equally.
"""

from __future__ import annotations

import re
from pathlib import Path

__all__ = ["expand_macros", "read_every_sql", "read_sql", "sql_files"]

DECIMALS = {"exact_money": 18, "price_money": 12}
_MACRO = re.compile(rf"\b({'|'.join(DECIMALS)})\(")


def read_sql(folder: Path, name: str) -> str:
    """Return the GoogleSQL of the file NAME.sql in a folder or its subfolders, with macros expanded."""
    return expand_macros(sql_files(folder)[name].read_text(encoding="utf-8"))


def read_every_sql(folder: Path) -> dict[str, str]:
    """Return the GoogleSQL of all files in a folder and its subfolders by name, with macros expanded. Looking for each by itself takes long."""
    return {name: expand_macros(path.read_text(encoding="utf-8")) for name, path in sql_files(folder).items()}


def sql_files(folder: Path) -> dict[str, Path]:
    """Return the SQL files of a folder and its subfolders by name. No two have the same name."""
    return {path.stem: path for path in sorted(folder.rglob("*.sql"))}


def expand_macros(text: str) -> str:
    """Return the text with each macro replaced by its expression. The argument may have parentheses, but no macro."""
    before, *uses = _MACRO.split(text)
    for name, rest in zip(uses[::2], uses[1::2], strict=True):
        end = _end_of_argument(rest)
        before += _money(rest[:end], DECIMALS[name]) + rest[end + 1 :]
    return before


def _money(product: str, decimals: int) -> str:
    """Return SQL for a float as exact money."""
    unit = f"bignumeric '0.{'1':0>{decimals}}'"
    return f"cast(cast(trunc({product}) as int64) + cast(round(({product} - trunc({product})) * 1e{decimals}) as int64) * {unit} as bignumeric)"


def _end_of_argument(text: str) -> int:
    """Return the position of the first parenthesis that closes more than was opened."""
    depth = 1
    for position, character in enumerate(text):
        depth += {"(": 1, ")": -1}.get(character, 0)
        if not depth:
            return position
    raise ValueError("cannot expand a macro: its parenthesis is not closed.")
