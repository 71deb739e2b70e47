"""Recognizes errors that are the machine's fault: a disk is full, read-only or broken, or a folder is not writable.

Such an error is not a bug and not a problem of the configuration. It ends a command with one sentence and exit code 6. Code that
reads sources and stores handles their errors itself.
"""

from __future__ import annotations

import errno
import getpass
import os
import re
import sqlite3
from collections.abc import Iterator

from runspend.core.errors import MachineFailed, RunspendError

FULL = "Free space there, then run it again."
FAULTS = {
    errno.ENOSPC: ("the disk is full", FULL),
    errno.EDQUOT: ("the disk quota is used up", "Free space there or raise the quota, then run it again."),
    errno.EROFS: (
        "the file system is read-only",
        "Mount it writable (after a disk error, the system makes it read-only: see dmesg), then run it again.",
    ),
    errno.EIO: (
        "the disk cannot be read or written (I/O error)",
        "Check dmesg and the disk's SMART report. Replace the disk or restore a backup, then run it again.",
    ),
    errno.EACCES: ("permission denied", "Let the user {user} read and write there, then run it again."),
    errno.EPERM: ("operation not permitted", "Let the user {user} read and write there, then run it again."),
}
# DuckDB reports no errno. The system's reason follows ": " and ends the message or a quotation. Quoted paths and cells do not follow ": ".
REASONS = {
    "no space left on device": errno.ENOSPC,
    "disk quota exceeded": errno.EDQUOT,
    "read-only file system": errno.EROFS,
    "input/output error": errno.EIO,
    "permission denied": errno.EACCES,
    "operation not permitted": errno.EPERM,
}
REASON = re.compile(rf""": ({"|".join(REASONS)})(?=$|["\n(])""", re.I)
NO_ROOM_TO_SPILL = "max_temp_directory_size"  # DuckDB's name of its limit, which is the free space of the disk
SQLITE = {
    sqlite3.SQLITE_FULL: errno.ENOSPC,
    sqlite3.SQLITE_READONLY: errno.EROFS,
    sqlite3.SQLITE_IOERR: errno.EIO,
    sqlite3.SQLITE_PERM: errno.EACCES,
}
PATH = re.compile(r"""["'](/[^"'\\]{1,300})\\?["']""")
DUCKDB = ("duckdb", "_duckdb")


def machine_failed(error: BaseException, what: str = "go on") -> MachineFailed | None:
    """Return the error as a sentence if the machine is at fault; otherwise None. `what`: the failed action, after "cannot"."""
    if isinstance(error, MachineFailed):
        return error
    if isinstance(error, RunspendError):
        return None  # its message already explains the fault
    fault = fault_of(error)
    kept = "Published tables stay as they were; nothing incomplete was published."
    return None if fault is None else MachineFailed(f"cannot {what}: {fault} {kept}")


def fault_of(error: BaseException) -> str | None:
    """Return the fault of the machine and what to do about it, such as "the disk is full (/srv). Free space there, then run it again."."""
    for cause in _causes(error):
        number = _errno_of(cause)
        if number is not None:
            reason, advice = FAULTS[number]
            place = _place_of(cause)
            return f"{reason}{f' ({place})' if place else ''}. {advice.format(user=_user())}"
    return None


def cannot_be_written(error: BaseException) -> bool:
    """Whether the disk written to is full or read-only. While a source is copied to this machine, the source is not at fault."""
    return _errno_of(error) in (errno.ENOSPC, errno.EDQUOT, errno.EROFS)


def has_no_room_to_spill(error: BaseException) -> bool:
    """Whether a DuckDB query needs more temporary files than fit on its disk."""
    return _is_duckdbs(error, "OutOfMemoryException") and NO_ROOM_TO_SPILL in str(error)


def _causes(error: BaseException) -> Iterator[BaseException]:
    """Yield the error and its causes.

    The context of a file or engine error counts too, since a full disk also breaks cleaning up. The context of any other error does
    not: that error is a bug and must be shown as one. RunspendError already has a message for people.
    """
    seen: set[int] = set()
    waiting: list[BaseException | None] = [error]
    while waiting:
        one = waiting.pop(0)
        if one is not None and id(one) not in seen and not isinstance(one, RunspendError):
            seen.add(id(one))
            yield one
            waiting += [one.__cause__, getattr(one, "orig", None)]
            if not one.__suppress_context__ and (isinstance(one, (OSError, sqlite3.Error)) or _is_duckdbs(one)):
                waiting.append(one.__context__)


def _errno_of(error: BaseException) -> int | None:
    """Return the errno of a fault; for engines without one, it is found by their message."""
    if isinstance(error, OSError):
        return error.errno if error.errno in FAULTS else None  # a mail server's message is not about this machine
    if isinstance(error, sqlite3.Error):
        return SQLITE.get(getattr(error, "sqlite_errorcode", -1) & 0xFF)
    if has_no_room_to_spill(error):
        return errno.ENOSPC
    found = REASON.search(str(error)) if _is_duckdbs(error, "IOException") or _is_duckdbs(error, "TransactionException") else None
    return None if found is None else REASONS[found[1].lower()]


def _is_duckdbs(error: BaseException, name: str | None = None) -> bool:
    kind = type(error)
    return kind.__module__.partition(".")[0] in DUCKDB and name in (None, kind.__name__)


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
