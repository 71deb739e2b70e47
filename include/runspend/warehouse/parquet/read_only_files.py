"""A file system for DuckDB in which files can only be read. Engines that run user-written statements use it.

DuckDB opens published files through this module and not from the disk. Here, opening for writing, creating, moving and removing are
errors. So a statement cannot write, even if it passes all other checks. Each reader gets new file names.
"""

from __future__ import annotations

import io
import os
import uuid
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from fsspec import AbstractFileSystem

SCHEME = "published"
_offered: dict[str, Path] = {}


@contextmanager
def offered(files: Iterable[Path]) -> Iterator[dict[Path, str]]:
    """Yield a name for each file. An engine with `ReadOnlyFiles` can read the file by that name until the context ends."""
    place = uuid.uuid4().hex
    names = {file: f"{SCHEME}://{place}/{number}-{file.name}" for number, file in enumerate(files)}
    own = {name.partition("://")[2]: file for file, name in names.items()}
    _offered.update(own)
    try:
        yield names
    finally:
        for name in own:
            del _offered[name]


class ReadOnlyFiles(AbstractFileSystem):  # type: ignore[misc]  # fsspec has no types
    """The offered files as a file system for DuckDB."""

    protocol = SCHEME
    cachable = False

    def open(self, path: str, mode: str = "rb", **_: Any) -> io.RawIOBase:
        """Open one file for reading. Raises PermissionError for any mode other than "rb"."""
        if mode != "rb":
            raise PermissionError(f"{path} can only be read")
        return _File(_file(path))

    def glob(self, path: str, **_: Any) -> list[str]:
        """Return the name itself if it was offered. Patterns are not supported."""
        return [path] if path.partition("://")[2] in _offered else []

    def exists(self, path: str, **_: Any) -> bool:
        """Return whether the name was offered."""
        return path.partition("://")[2] in _offered

    isfile = exists

    def info(self, path: str, **_: Any) -> dict[str, Any]:
        """Return the name, the size in bytes and the type of a file."""
        return {"name": path, "size": _file(path).stat().st_size, "type": "file"}

    def modified(self, path: str) -> datetime:
        """Return the time of the last write to the file, in UTC."""
        return datetime.fromtimestamp(_file(path).stat().st_mtime, timezone.utc)

    def _refuse(self, *_: Any, **__: Any) -> Any:
        raise PermissionError("the warehouse can only be read")

    mkdir = makedirs = rmdir = rm = rm_file = mv = cp_file = copy = touch = put_file = pipe_file = _refuse


class _File(io.RawIOBase):
    """One open file. `os.pread` releases Python's global lock, so other threads run during a read."""

    def __init__(self, file: Path) -> None:
        self._descriptor = os.open(file, os.O_RDONLY | os.O_CLOEXEC)
        self._size = os.fstat(self._descriptor).st_size
        self._place = 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._place

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        self._place = offset + {io.SEEK_SET: 0, io.SEEK_CUR: self._place, io.SEEK_END: self._size}[whence]
        return self._place

    def read(self, size: int = -1) -> bytes:
        left = max(self._size - self._place, 0)
        block = os.pread(self._descriptor, left if size < 0 else min(size, left), self._place)
        self._place += len(block)
        return block

    def close(self) -> None:
        if not self.closed:
            os.close(self._descriptor)
        super().close()


def _file(path: str) -> Path:
    try:
        return _offered[path.partition("://")[2]]
    except KeyError:
        raise FileNotFoundError(f"{path} is not a published file") from None
