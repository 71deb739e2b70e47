"""Files that DuckDB can read and nobody can write: what an engine is given that answers people.

DuckDB opens these names through this module instead of the file system, so a statement that gets past every check still has
nothing to write to: to open for writing, to make, move or remove is an error here. Names are made up for each reader.
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

__all__ = ["ReadOnlyFiles", "offered"]

SCHEME = "published"
_offered: dict[str, Path] = {}


@contextmanager
def offered(files: Iterable[Path]) -> Iterator[dict[Path, str]]:
    """A name for each file, by which engines with `ReadOnlyFiles` read it until then."""
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
    """The files offered, as DuckDB asks for them."""

    protocol = SCHEME
    cachable = False

    def open(self, path: str, mode: str = "rb", **_: Any) -> io.RawIOBase:
        """One file, for reading only."""
        if mode != "rb":
            raise PermissionError(f"{path} can only be read")
        return _File(_file(path))

    def glob(self, path: str, **_: Any) -> list[str]:
        """The name itself: there are no patterns here."""
        return [path] if path.partition("://")[2] in _offered else []

    def exists(self, path: str, **_: Any) -> bool:
        """Whether the name was offered."""
        return path.partition("://")[2] in _offered

    isfile = exists

    def info(self, path: str, **_: Any) -> dict[str, Any]:
        """Name, size and kind."""
        return {"name": path, "size": _file(path).stat().st_size, "type": "file"}

    def modified(self, path: str) -> datetime:
        """When the file was written."""
        return datetime.fromtimestamp(_file(path).stat().st_mtime, timezone.utc)

    def _refuse(self, *_: Any, **__: Any) -> Any:
        raise PermissionError("the warehouse can only be read")

    mkdir = makedirs = rmdir = rm = rm_file = mv = cp_file = copy = touch = put_file = pipe_file = _refuse


class _File(io.RawIOBase):
    """One open file. Reading does not hold Python's lock."""

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
