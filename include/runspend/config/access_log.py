"""Writes the access log: one JSON line for each page and each `runspend sql` statement, if `access_log` is set.

Without `values: true`, a line contains no searched values. Of an address, it contains only the pattern. Of a statement, it contains only
SQL words and Runspend's names of tables and columns; everything else becomes `?`.
"""

from __future__ import annotations

import json
import logging
import os
import re
from collections.abc import Mapping, Sequence
from datetime import datetime, timezone
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

from runspend.schema.tables import TABLES

if TYPE_CHECKING:
    from runspend.config.settings import Settings


LONGEST = 4000  # characters of a value in a line
WORDS = frozenset(
    """
    all and any array as asc between bigint bignumeric bool by case cast count countif cross current_date date date_trunc day decimal desc describe distinct
    else end except exists explain extract false filter first float64 following for from full group having if ifnull in inner int64 intersect into interval is
    join json json_value last lateral left like limit list max mean median min month not null nullif numeric offset on or order outer over partition pivot
    preceding qualify range recursive replace right round row row_number rows safe_divide sample select set show string struct sum summarize table then
    timestamp to true try_cast union unnest unpivot using values varchar when where window with year coalesce avg concat lower upper abs exclude columns
    copy insert update delete merge create drop alter attach export install load call pragma execute returning
    """.split()
)

# Literals, quoted names and comments, as DuckDB and GoogleSQL read them. Comments may be nested in DuckDB. Therefore, one pattern ends
# at the first end of a comment (_COMMENT), and the other at the last (_OUTER).
_COMMENT = r"--[^\n]*|/\*.*?(?:\*/|\Z)"
_OUTER = r"--[^\n]*|/\*.*(?:\*/|\Z)"
_DUCKDB = r"""|[eE]'(?:[^'\\]|\\(?:.|\Z)|'')*(?:'|\Z)|'(?:[^']|'')*(?:'|\Z)|"(?:[^"]|"")*(?:"|\Z)|\$([A-Za-z_]*)\$.*?(?:\$\1\$|\Z)"""
_ESCAPED = "|".join(rf"{mark}(?:\\(?:.|\Z)|[^\\])*?(?:{mark}|\Z)" for mark in ("'''", '"""', "'", '"', "`"))
_GOOGLESQL = rf"|\#[^\n]*|{_ESCAPED}"
LITERALS = tuple(re.compile(comment + rest, re.DOTALL) for comment in (_COMMENT, _OUTER) for rest in (_DUCKDB, _GOOGLESQL))

log = logging.getLogger(__name__)


def log_page(
    settings: Settings, *, who: str | None, pattern: str, path: str, status: int, rows: int | None, groups: Sequence[str] = ()
) -> None:
    """Log one requested page, even if the request failed.

    `pattern`: the address without the values in it. `groups`: the groups of the user.
    """
    _write(
        settings,
        {
            "who": who,
            **_groups(settings, groups),
            "kind": "page",
            "what": path if _with_values(settings) else pattern,
            "status": status,
            "rows": rows,
        },
    )


def log_statement(
    settings: Settings,
    statement: str,
    *,
    native: bool,
    rows: int | None,
    error: str | None = None,
    who: str | None = None,
    groups: Sequence[str] = (),
) -> None:
    """Log one statement. `error`: the class of the error that ended it. `who`: the user; default: the user of this process."""
    what = statement if _with_values(settings) else without_values(statement)
    _write(
        settings,
        {
            "who": who or _user(),
            **_groups(settings, groups),
            "kind": "sql",
            "dialect": "native" if native else "googlesql",
            "what": what,
            "error": error,
            "rows": rows,
        },
    )


def without_values(statement: str) -> str:
    """Return a statement with everything replaced by `?`, except SQL words, Runspend's names of tables and columns, and signs.

    If any dialect reads a part as a literal or a comment, the part is replaced, even if it is an SQL word.
    """
    inside = bytearray(len(statement))
    for literals in LITERALS:
        for found in literals.finditer(statement):
            inside[found.start() : found.end()] = b"\x01" * (found.end() - found.start())
    known = _names() | WORDS
    shown = []
    for found in re.finditer(r"\w+|[()\[\],.*=<>+/|;:-]", statement):
        is_known = not re.match(r"\w", found[0]) or (found[0].lower() in known and not any(inside[found.start() : found.end()]))
        shown.append(found[0] if is_known else "?")
    return " ".join(shown)


@lru_cache(maxsize=1)
def _names() -> frozenset[str]:
    return frozenset(TABLES) | {column.name for table in TABLES.values() for column in table.columns}


def _groups(settings: Settings, groups: Sequence[str]) -> dict[str, str]:
    """Return the log entry of the user's groups. Empty if `access` is not set."""
    return {} if settings.access is None else {"groups": ", ".join(groups)}


def _with_values(settings: Settings) -> bool:
    return settings.access_log is not None and settings.access_log.values


def _user() -> str:
    """Return the user of this process, found by user id: environment variables could be changed by the user."""
    import pwd

    try:
        return pwd.getpwuid(os.getuid()).pw_name
    except KeyError:
        return f"uid {os.getuid()}"


def _write(settings: Settings, entry: Mapping[str, str | int | None]) -> None:
    if settings.access_log is None:
        return
    line = {"at": f"{datetime.now(timezone.utc):%Y-%m-%dT%H:%M:%S.%fZ}"} | {
        k: v[:LONGEST] if isinstance(v, str) else v for k, v in entry.items()
    }
    try:
        _append(settings.access_log.file, json.dumps(line).encode() + b"\n")
    except OSError as error:  # the request is still answered: a full disk must not make the figures unavailable
        log.warning("cannot write the access log: %s. The request is not in it. Free its disk, or correct access_log.file.", error.strerror)


def _append(file: Path, line: bytes) -> None:
    """Append a line to the file. Lines of several processes do not mix. Raises OSError if the whole line does not fit.

    A new file is private to its owner. Symbolic links are not followed.
    """
    file.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    descriptor = os.open(file, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    try:
        written = os.write(descriptor, line)  # one call, so that lines of other processes cannot come in between
        if written < len(line):
            os.write(descriptor, b"\n")
            raise OSError(28, "no space left for a whole line")
    finally:
        os.close(descriptor)
