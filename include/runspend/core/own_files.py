"""Read and change Runspend's own small files without trusting their content.

No link is followed below a root, every read has a limit, and anything other than plain JSON is refused with the name of the file. Callers
interpret the values.
"""

from __future__ import annotations

import errno
import fcntl
import json
import os
import stat
import uuid
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any, NoReturn

from runspend.core.errors import RecordRefused, UsageError
from runspend.core.outside_json import parse_json

MOST_BYTES = 64 << 20  # in one file: a journal of 100,000 units has 40 MB
MOST_TOLD = 300  # characters of the reason in an error
OPEN_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_FILE = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC  # opening a pipe does not wait
PRIVATE = 0o077  # the permissions to withhold from group and others
_umask_at_start: int | None = None
LINK_ERRORS = (errno.ELOOP, errno.ENOTDIR)


def need_folder(target: Path) -> None:
    """Raise UsageError if the folder of a file to write does not exist."""
    if not target.parent.is_dir():
        raise UsageError(f"cannot export to {target}: there is no folder {target.parent}. Make it first.")


def check_replaceable(target: Path, command: str, is_ours: Callable[[Path], bool]) -> None:
    """Raise UsageError if a file to write has no folder, or would replace something that this command did not write. An empty file may be
    replaced.
    """
    need_folder(target)
    if os.path.lexists(target) and not (target.is_file() and (target.stat().st_size == 0 or is_ours(target))):
        raise UsageError(
            f"cannot export to {target}: it is not a file that `runspend {command}` wrote. It was not changed. Choose another name, or delete it first."
        )


def keep_mode(new: Path, old: Path) -> None:
    """Give a file that will replace another one the permissions of the old file: access granted by `chmod` remains."""
    if old.is_file():
        new.chmod(stat.S_IMODE(old.stat().st_mode))


def read_json(path: Path, *, most_bytes: int = MOST_BYTES) -> Any:
    """Return the value of a JSON file; None if the file does not exist. Raises RecordRefused for a link, a device or invalid JSON."""
    text = read_bytes(path, most_bytes=most_bytes)
    if text is None:
        return None
    value = json_value(text, path)
    if value is None:
        raise refused(path, "it contains null")
    return value


def read_bytes(path: Path, *, most_bytes: int = MOST_BYTES) -> bytes | None:
    """Return the bytes of a regular file; None if the file does not exist."""
    try:
        descriptor = os.open(path, _FILE)
    except FileNotFoundError:
        return None
    except OSError as error:
        if error.errno not in (*LINK_ERRORS, errno.ENXIO):
            raise
        raise refused(path, "it is a link or not a file") from error
    try:
        found = os.fstat(descriptor)
        if not stat.S_ISREG(found.st_mode):
            raise refused(path, "it is not a file")
        if found.st_size > most_bytes:
            raise refused(path, f"it has {found.st_size:,} bytes, and Runspend writes {most_bytes:,} at most")
        with os.fdopen(descriptor, "rb", closefd=False) as file:
            return file.read(most_bytes + 1)
    finally:
        os.close(descriptor)


def json_value(text: bytes, where: object) -> Any:
    """Return the value of JSON text without duplicate keys. Raises RecordRefused that names `where`."""
    try:
        value = parse_json(text.decode("utf-8"), object_pairs_hook=_once, parse_constant=_no_constant)
        if b"\\ud" in text.lower():
            json.dumps(value, ensure_ascii=False).encode()  # an escaped half of a surrogate pair is text for json but for nothing else
        return value
    except ValueError as error:
        raise refused(where, f"it is damaged, it is not JSON: {error}") from error


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        raise ValueError("duplicate key")
    return found


def _no_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not a number")


def refused(where: object, why: str, *, do: str = "") -> RecordRefused:
    """Return the error for a file that Runspend did not write, with the wording that all such errors share."""
    advice = do or "Find out who can write there, then restore the file from a copy, or move it away."
    why = why if len(why) <= MOST_TOLD else f"{why[:MOST_TOLD]}…"
    return RecordRefused(where, f"cannot use {where}: {why}. Runspend does not write such files and ignored it. {advice}")


def write_whole(path: Path, text: bytes, *, is_alone: bool = False) -> None:
    """Write a whole file or none; it is on disk when this returns. Replaces a link in its place and does not follow it.

    `is_alone`: no other process writes the same file meanwhile, so a leftover of a killed process is found by its name and
    overwritten.
    """
    if is_alone:
        path.with_name(f"{path.name}.tmp").unlink(missing_ok=True)
    scratch = write_scratch(path, text, name=f"{path.name}.tmp" if is_alone else None)
    try:
        os.replace(scratch, path)
    except BaseException:
        scratch.unlink(missing_ok=True)
        raise
    fsync_path(path.parent)


def write_scratch(path: Path, text: bytes, *, name: str | None = None) -> Path:
    """Write a new file next to a path, whole and on disk. The caller moves or links it into place, then removes it. An error leaves no
    file.

    `name`: its name; a unique one if left out. Errors: OSError.
    """
    scratch = path.with_name(name or f".{path.name[:100]}.{uuid.uuid4().hex}.tmp")
    descriptor = os.open(scratch, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o666)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
    except BaseException:
        scratch.unlink(missing_ok=True)
        raise
    return scratch


def fsync_path(path: Path) -> None:
    """Make the bytes of a file, or the names in a folder, survive a power failure."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def private_umask() -> int:
    """Restrict everything this process creates from now on to its own account; return the umask the process started with."""
    global _umask_at_start
    before = os.umask(PRIVATE)
    if _umask_at_start is None:
        _umask_at_start = before
    os.umask(_umask_at_start | PRIVATE)
    return _umask_at_start


def own_folder(path: Path) -> Path:
    """Create a folder whose content Runspend removes on its own. Raises RecordRefused for a link: its target may belong to someone else."""
    if path.is_symlink():
        raise refused(
            path,
            "it is a link, and Runspend removes files in it",
            do="Make it a folder, or set home to a folder on the disk that it leads to.",
        )
    try:
        path.mkdir(parents=True, exist_ok=True)
    except (FileExistsError, NotADirectoryError) as error:
        raise refused(
            path, "it is not a folder, or a part of its path is not a folder", do="Move the file that is there, then run the command again."
        ) from error
    return path


def open_lock(path: Path) -> IO[bytes]:
    """Open a lock file; create it if needed, never write to it. Raises RecordRefused for a link, which would lock or create another file."""
    try:
        return os.fdopen(os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, 0o660), "r+b", buffering=0)
    except OSError as error:
        if error.errno not in (errno.ELOOP, errno.EISDIR, errno.ENXIO):
            raise
        raise refused(path, "it is a link or not a file, and Runspend locks it", do="Remove it, then run the command again.") from error


def try_lock(descriptor: int) -> bool:
    """Lock an open file exclusively if no process holds it now. Returns whether it is locked."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


class Inside:
    """Names below a root, entered one folder at a time, so that no link leads out of it. Names use slashes; the caller has checked their
    form.
    """

    def __init__(self, root: Path) -> None:
        self._root = root

    def is_file(self, name: str) -> bool:
        """Whether a regular file exists there. Raises RecordRefused for a link or device, in its path too, and for a folder."""
        with self._parent(name) as parent:
            if parent is None:
                return False
            try:
                found = os.stat(name.rpartition("/")[2], dir_fd=parent, follow_symlinks=False)
            except FileNotFoundError:
                return False
            if not stat.S_ISREG(found.st_mode):
                raise self._refused(name)
            return True

    def check_may_change(self, folder: str) -> None:
        """Raise PermissionError unless this user may change a folder, or its nearest existing parent."""
        parts = folder.split("/") if folder else []
        while True:
            with self.folder(parts) as descriptor:
                if descriptor is not None:
                    if not os.access(".", os.W_OK | os.X_OK, dir_fd=descriptor, effective_ids=os.access in os.supports_effective_ids):
                        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(self._root.joinpath(*parts)))
                    return
            parts = parts[:-1]

    def move(self, source: str, target: str) -> None:
        """Move a file over another. Does nothing if the file has already been moved."""
        with self._parent(source) as before, self._parent(target, make=True) as after:
            if before is not None and after is not None:
                try:
                    os.replace(source.rpartition("/")[2], target.rpartition("/")[2], src_dir_fd=before, dst_dir_fd=after)
                except FileNotFoundError:  # a process that was killed later has already moved it
                    return

    def remove(self, name: str) -> None:
        """Remove a file, if it exists."""
        with self._parent(name) as parent:
            if parent is not None:
                try:
                    os.unlink(name.rpartition("/")[2], dir_fd=parent)
                except FileNotFoundError:
                    return

    def settle(self, folder: str) -> None:
        """Make the names of a folder survive a power failure; remove the folder and its parents if they are empty."""
        parts = folder.split("/")
        while parts:
            with self.folder(parts) as descriptor:
                if descriptor is not None:
                    os.fsync(descriptor)
                    if os.listdir(descriptor):
                        return
            *above, name = parts
            with self.folder(above) as parent:
                if parent is not None and not self._is_removed(name, parent):
                    return
            parts = above

    @contextmanager
    def folder(self, parts: Sequence[str], *, make: bool = False) -> Iterator[int | None]:
        """Open a folder below the root and yield its descriptor; None if it does not exist."""
        descriptor = os.open(self._root, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)  # the root itself may be reached by a link
        try:
            for number, part in enumerate(parts, 1):
                below = self._enter(descriptor, part, "/".join(parts[:number]), make=make)
                if below is None:
                    yield None
                    return
                os.close(descriptor)
                descriptor = below
            yield descriptor
        finally:
            os.close(descriptor)

    def _parent(self, name: str, *, make: bool = False) -> Any:
        return self.folder(name.split("/")[:-1], make=make)

    def _enter(self, parent: int, part: str, name: str, *, make: bool) -> int | None:
        if make:
            try:
                os.mkdir(part, dir_fd=parent)
                os.fsync(parent)
            except FileExistsError:
                pass  # the folder usually exists
        try:
            return os.open(part, OPEN_FOLDER, dir_fd=parent)
        except FileNotFoundError:
            return None
        except OSError as error:
            if error.errno not in LINK_ERRORS:
                raise
            raise self._refused(name) from error

    def _is_removed(self, name: str, parent: int) -> bool:
        try:
            os.rmdir(name, dir_fd=parent)
        except FileNotFoundError:
            return True
        except OSError as error:
            if error.errno in (errno.ENOTEMPTY, errno.EEXIST, errno.EBUSY, errno.EACCES, errno.EPERM):
                return False
            raise
        os.fsync(parent)
        return True

    def _refused(self, name: str) -> RecordRefused:
        do = (
            "Find out who put it there, and move it out of the folder; to keep tables on another disk, set warehouse.uri to a folder there."
        )
        return refused(
            self._root / name,
            "it is a link or an unexpected kind of file. Runspend moves and deletes files in this place, so it stops",
            do=do,
        )
