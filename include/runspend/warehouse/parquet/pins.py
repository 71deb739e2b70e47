"""Keep published files readable while others publish, for readers that have released the lock.

A publish replaces files but never writes into one, so an open descriptor or a second name keeps the old rows. Descriptors need no
write permission and leave nothing behind, but a process has few of them. Which files belong together does not belong here.
"""

from __future__ import annotations

import errno
import os
import resource
from collections.abc import Mapping
from contextlib import ExitStack, suppress
from pathlib import Path

from runspend.warehouse.base import Unit

FEW = 256  # files that one reader may keep open: of the usual 1,024 descriptors, next to other readers and the server around them
SPARE = 128  # descriptors that a reader without another way leaves free
_OPEN = next((folder for folder in (Path("/proc/self/fd"), Path("/dev/fd")) if folder.exists()), None)


def pin_by_descriptor(files: Mapping[Unit, Path], folder: Path, stack: ExitStack, *, few: int | None = None) -> dict[Unit, Path] | None:
    """Return names in `folder` for files kept open until `stack` is closed; None if there are too many, or the system has no such names."""
    most = FEW if few is None else few
    if _OPEN is None or len(files) > most:
        return None
    pinned = {}
    with ExitStack() as opened:
        for number, (unit, file) in enumerate(files.items()):
            # Names must be unique per reader: DuckDB caches parts of files by name, and descriptor numbers are reused.
            pinned[unit] = name = folder / f"{number}-{unit.table}-{unit.period}-{unit.writer}.parquet"
            try:
                descriptor = os.open(file, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)  # do not wait for a pipe in its place
            except FileNotFoundError:  # reported when its rows are read
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
    """Return how many files a reader may keep open if it cannot create second names."""
    limit, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    used = 0
    with suppress(OSError):
        used = len(os.listdir(_OPEN or "/proc/self/fd"))
    return max(limit - used - SPARE, 0)


def pin_by_link(files: Mapping[Unit, Path], folder: Path) -> dict[Unit, Path] | None:
    """Return second names in `folder`, valid as long as it exists; None if the file system or the permissions do not allow them."""
    pinned = {}
    for unit, file in files.items():
        pin = folder / unit.table / f"{unit.period}+{unit.writer}.parquet"
        pin.parent.mkdir(parents=True, exist_ok=True)
        if link(file, pin) is not pin:
            return None
        pinned[unit] = pin
    return pinned


def link(path: Path, pin: Path) -> Path:
    """Create a second name for a file, which stays when the first is replaced; return the first name if that is impossible."""
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
