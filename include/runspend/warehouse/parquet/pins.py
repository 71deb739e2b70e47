"""Keep published files readable after the lock is released, even if others publish meanwhile.

A publish replaces files but never writes into one. So an open descriptor or a second name (a hard link) keeps the old rows. Descriptors
need no write permission and leave no files on the disk, but a process has few of them. This module does not know which files belong
together.
"""

from __future__ import annotations

import errno
import os
import resource
from collections.abc import Mapping
from contextlib import ExitStack, suppress
from pathlib import Path

from runspend.warehouse.base import Unit

FEW = 256  # files that one reader may keep open; other readers and the server need the rest of the usual 1,024 descriptors
SPARE = 128  # descriptors that stay free if a reader has no choice but to keep more files open
_OPEN = next((folder for folder in (Path("/proc/self/fd"), Path("/dev/fd")) if folder.exists()), None)


def pin_by_descriptor(files: Mapping[Unit, Path], folder: Path, stack: ExitStack, *, few: int | None = None) -> dict[Unit, Path] | None:
    """Open the files until `stack` is closed, and return a name in `folder` for each: a link to its descriptor.

    Returns None if there are more than `few` files, if the process cannot open so many, or if the system has no names for descriptors.
    """
    most = FEW if few is None else few
    if _OPEN is None or len(files) > most:
        return None
    pinned = {}
    with ExitStack() as opened:
        for number, (unit, file) in enumerate(files.items()):
            # Each reader needs its own names, because DuckDB caches parts of files by name and descriptor numbers are reused.
            pinned[unit] = name = folder / f"{number}-{unit.table}-{unit.period}-{unit.writer}.parquet"
            try:
                descriptor = os.open(file, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)  # O_NONBLOCK: a pipe in its place must not block
            except FileNotFoundError:  # an error is raised only if its rows are read
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
    """Return how many files a reader may keep open if it cannot create hard links."""
    limit, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    used = 0
    with suppress(OSError):
        used = len(os.listdir(_OPEN or "/proc/self/fd"))
    return max(limit - used - SPARE, 0)


def pin_by_link(files: Mapping[Unit, Path], folder: Path) -> dict[Unit, Path] | None:
    """Return a hard link in `folder` for each file. The links are valid as long as the folder exists.

    Returns None if the file system or the permissions do not allow hard links.
    """
    pinned = {}
    for unit, file in files.items():
        pin = folder / unit.table / f"{unit.period}+{unit.writer}.parquet"
        pin.parent.mkdir(parents=True, exist_ok=True)
        if link(file, pin) is not pin:
            return None
        pinned[unit] = pin
    return pinned


def link(path: Path, pin: Path) -> Path:
    """Create the hard link `pin` to a file and return it. It keeps the old rows when `path` is replaced.

    Returns `path` if hard links are not possible.
    """
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
