"""The access log: one JSON line for each page and each `runspend sql` statement, if `access_log` is set.

Without `values: true` a line contains no searched values: it has only the pattern of an address, and of a statement only
SQL words and Runspend's names of tables and columns. Everything else becomes `?`. Callers decide what is logged where.
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

# Literals, quoted names and comments, as DuckDB and as GoogleSQL read them. Comments may nest in DuckDB, so one pattern ends at their
# first end and one at their last.
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
    """Log one requested page, answered or not. `pattern`: its address without the values in it. `groups`: the groups of the user who asks."""
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
    """Log one statement. `error`: the class of the error it ended with. `who` asked: by default this user of the machine."""
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
    """Replace everything in a statement by `?`, except SQL words, Runspend's names and signs.

    Anything that some dialect reads as a literal or a comment is a value, even if it is an SQL word.
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
    """Return the groups of the user who asks, if `access` uses them."""
    return {} if settings.access is None else {"groups": ", ".join(groups)}


def _with_values(settings: Settings) -> bool:
    return settings.access_log is not None and settings.access_log.values


def _user() -> str:
    """Return the machine's user, by number: anybody can set the environment variables."""
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
    except OSError as error:  # the request is answered anyway: a full disk hides no figures
        log.warning("cannot write the access log: %s. The request is not in it. Free its disk, or correct access_log.file.", error.strerror)


def _append(file: Path, line: bytes) -> None:
    """Append a whole line or none, even when several processes write. A new file is private to its owner, and links are not followed."""
    file.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    descriptor = os.open(file, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    try:
        written = os.write(descriptor, line)  # one call, so lines of other processes come before or after it
        if written < len(line):
            os.write(descriptor, b"\n")
            raise OSError(28, "no space left for a whole line")
    finally:
        os.close(descriptor)
