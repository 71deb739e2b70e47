"""Whether an error is the machine's fault: a disk that is full, read-only or broken, a folder that may not be written.

Such an error is no bug and nothing a configuration explains. It ends a command with one sentence and exit code 6. Errors of sources
and stores belong to whoever reads them.
"""

from __future__ import annotations

import errno
import getpass
import os
import re
import sqlite3
from collections.abc import Iterator

from runspend.errors import MachineFailed, RunspendError

__all__ = ["machine_failed"]

FULL = "Free space there, then run it again."
FAULTS = {
    errno.ENOSPC: ("the disk is full", FULL),
    errno.EDQUOT: ("the disk quota is used up", "Free space there or raise the quota, then run it again."),
    errno.EROFS: ("the file system is read-only", "Mount it writable (after an error of the disk it turns read-only by itself: see dmesg), then run it again."),
    errno.EIO: ("the disk cannot be read or written (I/O error)", "See dmesg and the disk's own report; replace the disk or restore a backup, then run it again."),
    errno.EACCES: ("permission denied", "Let the user {user} read and write there, then run it again."),
    errno.EPERM: ("operation not permitted", "Let the user {user} read and write there, then run it again."),
}
# How engines say it that keep no errno: DuckDB, Arrow, SQLite.
SAID = (
    (re.compile(r"no space left on device|database or disk is full|failed to offload data block|max_temp_directory_size", re.I), errno.ENOSPC),
    (re.compile(r"disk quota exceeded", re.I), errno.EDQUOT),
    (re.compile(r"read-only file system|attempt to write a readonly database", re.I), errno.EROFS),
    (re.compile(r"input/output error|disk i/o error", re.I), errno.EIO),
    (re.compile(r"permission denied", re.I), errno.EACCES),
)
PATH = re.compile(r"""["'](/[^"']{1,300})["']""")
ENGINES = ("duckdb", "_duckdb", "pyarrow")


def machine_failed(error: BaseException, what: str = "go on") -> MachineFailed | None:
    """The same error as a sentence, if it is the machine's fault; None if it is not. `what`: what could not be done, after "cannot"."""
    if isinstance(error, MachineFailed):
        return error
    if isinstance(error, RunspendError):
        return None  # it says itself what it is
    for cause in _causes(error):
        number = _errno_of(cause)
        if number is not None:
            reason, advice = FAULTS[number]
            place = _place_of(cause)
            where = f" ({place})" if place else ""
            kept = "What was published stays as it was; nothing half-done was published."
            return MachineFailed(f"cannot {what}: {reason}{where}. {advice.format(user=_user())} {kept}")
    return None


def _causes(error: BaseException) -> Iterator[BaseException]:
    """The error, and what it came from."""
    seen: set[int] = set()
    waiting: list[BaseException | None] = [error]
    while waiting:
        one = waiting.pop(0)
        if one is not None and id(one) not in seen:
            seen.add(id(one))
            yield one
            waiting += [one.__cause__, one.__context__, getattr(one, "orig", None)]


def _errno_of(error: BaseException) -> int | None:
    if isinstance(error, OSError) and error.errno in FAULTS:
        return error.errno
    is_engines = type(error).__module__.partition(".")[0] in ENGINES or isinstance(error, (OSError, sqlite3.Error))
    if not is_engines or (isinstance(error, OSError) and error.errno is not None):
        return None
    return next((number for pattern, number in SAID if pattern.search(str(error))), None)


def _place_of(error: BaseException) -> str | None:
    named = getattr(error, "filename", None)
    if isinstance(named, (str, bytes)):
        return os.fsdecode(named)
    found = PATH.search(str(error))
    return found[1] if found else None


def _user() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # a container without a passwd entry
        return str(os.getuid())
