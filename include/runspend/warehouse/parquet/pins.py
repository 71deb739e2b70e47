"""Names for files that stay what they are while others publish: what a reader reads after it let go of the lock.

A publish puts other files under the names of the old ones and never writes into a file, so an open descriptor or a second
name keeps the old rows. Descriptors need no right to write and leave nothing behind, but a process has few of them.
Which files belong together does not belong here.
"""

from __future__ import annotations

import errno
import os
import resource
from collections.abc import Mapping
from contextlib import ExitStack, suppress
from pathlib import Path

from runspend.warehouse import Unit

__all__ = ["link", "pin_by_descriptor", "pin_by_link"]

FEW = 256  # files one reader may keep open: of the usual 1,024 descriptors, beside those of other readers and of whoever serves them
SPARE = 128  # descriptors left to others by a reader that has no other way
_OPEN = next((folder for folder in (Path("/proc/self/fd"), Path("/dev/fd")) if folder.exists()), None)


def pin_by_descriptor(files: Mapping[Unit, Path], folder: Path, stack: ExitStack, *, few: int | None = None) -> dict[Unit, Path] | None:
    """Names in `folder` for files that are kept open until `stack` is closed; None where they are too many, or this system has no such names."""
    most = FEW if few is None else few
    if _OPEN is None or len(files) > most:
        return None
    pinned = {}
    with ExitStack() as opened:
        for number, (unit, file) in enumerate(files.items()):
            # No two readers share a name: DuckDB remembers parts of files by their names, and numbers of descriptors come again.
            pinned[unit] = name = folder / f"{number}-{unit.table}-{unit.period}-{unit.writer}.parquet"
            try:
                descriptor = os.open(file, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)  # a pipe in its place is not waited for
            except FileNotFoundError:  # it is for those who ask for its rows to fail
                continue
            except OSError as error:
                if error.errno in (errno.EMFILE, errno.ENFILE):
                    return None
                raise
            opened.callback(os.close, descriptor)
            name.symlink_to(_OPEN / str(descriptor))
        stack.push(opened.pop_all())
    return pinned


def room_for_descriptors() -> int:
    """How many files a reader may keep open where it cannot make second names."""
    limit, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    used = 0
    with suppress(OSError):
        used = len(os.listdir(_OPEN or "/proc/self/fd"))
    return max(limit - used - SPARE, 0)


def pin_by_link(files: Mapping[Unit, Path], folder: Path) -> dict[Unit, Path] | None:
    """Second names in `folder`, for as long as that is there; None where the file system has no such thing or this user may not."""
    pinned = {}
    for unit, file in files.items():
        pin = folder / unit.table / f"{unit.period}+{unit.writer}.parquet"
        pin.parent.mkdir(parents=True, exist_ok=True)
        if link(file, pin) is not pin:
            return None
        pinned[unit] = pin
    return pinned


def link(path: Path, pin: Path) -> Path:
    """A second name for a file, which stays when the first is replaced; the first name where there can be no second."""
    try:
        os.link(path, pin)
    except FileNotFoundError:
        if path.exists() or not pin.parent.exists():
            raise
    except OSError as error:
        if error.errno in (errno.EPERM, errno.EACCES, errno.ENOTSUP, errno.EMLINK, errno.EXDEV):
            return path
        raise
    return pin
