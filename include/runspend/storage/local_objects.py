"""The archive's objects in a local folder. All paths are opened part by part and links are never followed.

So a folder that is replaced by a link during the work cannot redirect it.

* In a run's folder, new folders get the mode of their parent folder, because MLflow must be able to read them. A restored file gets its
  old mode.
* In the archive folder, the umask of the process decides.
* An etag consists of a file's inode, times and size.
* A file is written completely or not at all. Before a file is deleted, it is moved aside and compared again, so that no other file is
  deleted.
* An empty folder is an object with a key that ends in "/".
"""

from __future__ import annotations

import errno
import hashlib
import os
import re
import stat
import time
import uuid
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from datetime import datetime, timezone
from typing import TYPE_CHECKING

from runspend.core.errors import NotDone, SourceRefused, SourceUnreachable
from runspend.core.own_files import LINK_ERRORS, OPEN_FOLDER
from runspend.storage.local import STORAGE_CLASS
from runspend.storage.objects import ARCHIVE_TOP, CHUNK_BYTES, StoredObject
from runspend.storage.uris import Root

if TYPE_CHECKING:
    from runspend.config.settings import ArtifactStore

_SCRATCH = re.compile(r"\.runspend-write-[0-9a-f]{32}\.tmp")
# Temporary files of Runspend: files being written, and files that an interrupted delete moved aside.
_OWN = re.compile(_SCRATCH.pattern + r"|\.runspend-delete-[0-9a-f]{32}")
_SCRATCH_SECONDS = 86_400  # a temporary file older than this belongs to an interrupted write


class LocalObjects:
    """The files and empty folders below one folder. See `ObjectStore` for the methods."""

    def __init__(self, store: ArtifactStore, root: Root) -> None:
        self.uri = store.uri
        self._top = os.path.realpath(f"/{root.folder}")

    def list(self, folder: str) -> Iterator[StoredObject]:
        """Yield all files and empty folders below a folder.

        Raises SourceRefused for a link or a device, because it could not be restored. Raises SourceUnreachable if a folder cannot be read
        or changes while it is listed.
        """
        below = [folder]
        while below:
            path = below.pop()
            try:
                with self._open(path) as descriptor:
                    if descriptor is None:
                        continue
                    names = sorted(name for name in os.listdir(descriptor) if not _OWN.fullmatch(name))
                    if not names and path != folder:
                        yield _stored(f"{path}/", os.fstat(descriptor))
                    for name in names:
                        key = f"{path}/{name}" if path else name
                        found = self._kind(key, os.stat(name, dir_fd=descriptor, follow_symlinks=False))
                        if found is None:
                            below.append(key)
                        else:
                            yield found
            except FileNotFoundError as error:
                raise SourceUnreachable(self.uri, f"cannot list {self.uri}: {path!r} changed while it was listed. Try again.") from error
            except OSError as error:
                raise SourceUnreachable(self.uri, f"cannot list {path!r} in {self.uri}: {error.strerror}. Nothing was moved.") from error

    def folders(self, folder: str) -> Iterator[str]:
        """Yield the names of the folders directly below a folder."""
        try:
            with self._open(folder) as descriptor:
                names = [] if descriptor is None else sorted(os.listdir(descriptor))
                found = [name for name in names if stat.S_ISDIR(os.stat(name, dir_fd=descriptor, follow_symlinks=False).st_mode)]
        except OSError as error:
            raise NotDone(self.uri, f"cannot list {folder!r} in {self.uri}: {error.strerror}.") from error
        yield from found

    def head(self, key: str) -> StoredObject | None:
        """Return the current file, or the current folder if the key ends in "/". Returns None if it does not exist.

        Raises NotDone for a link or a device.
        """
        folder, name = self._split(key)
        try:
            with self._open(folder) as parent:
                found = None if parent is None else _look(parent, name)
        except OSError as error:
            raise NotDone(self.uri, f"cannot look at {key!r} in {self.uri}: {error.strerror}.") from error
        if found is None or stat.S_ISDIR(found.st_mode) != key.endswith("/"):
            return None
        if not stat.S_ISDIR(found.st_mode) and not stat.S_ISREG(found.st_mode):
            raise NotDone(self.uri, f"cannot look at {key!r} in {self.uri}: it is a link or a device. Nothing was done.")
        return _stored(key, found)

    def read(self, obj: StoredObject) -> Iterator[bytes]:
        """Yield the bytes of the file. Raises NotDone if the file has changed since it was looked up, or changes while it is read."""
        if obj.key.endswith("/"):
            if self.head(obj.key) is None:
                raise self._changed(obj.key)
            return
        folder, name = self._split(obj.key)
        try:
            with self._open(folder) as parent:
                descriptor = None if parent is None else self._open_file(parent, name)
        except OSError as error:
            raise NotDone(self.uri, f"cannot read {obj.key!r} in {self.uri}: {error.strerror}.") from error
        if descriptor is None:
            raise self._changed(obj.key)
        try:
            found = os.fstat(descriptor)
            if not stat.S_ISREG(found.st_mode) or _etag(found) != obj.etag:
                raise self._changed(obj.key)
            size = 0
            while chunk := os.read(descriptor, CHUNK_BYTES):
                size += len(chunk)
                yield chunk
            if size != obj.size or _etag(os.fstat(descriptor)) != obj.etag:
                raise self._changed(obj.key)
        except OSError as error:
            raise NotDone(self.uri, f"cannot read {obj.key!r} in {self.uri}: {error.strerror}.") from error
        finally:
            os.close(descriptor)

    def write(
        self,
        key: str,
        chunks: Iterable[bytes],
        *,
        size: int,
        storage_class: str | None = None,
        unlike: str | None = None,
        metadata: Mapping[str, str] | None = None,
    ) -> StoredObject:
        """Write a file with exactly these bytes and flush it to disk. Every new file has a unique etag.

        Only `mode` and `modified` (ISO 8601) of `metadata` are used. Raises NotDone if the file already exists or cannot be written.
        """
        folder, name = self._split(key)
        if storage_class is not None:
            raise NotDone(self.uri, f"cannot write {key!r} as {storage_class}: {self.uri} is a folder, which has no storage classes.")
        try:
            with self._open(folder, make=True) as parent:
                assert parent is not None
                if key.endswith("/"):
                    found = self._make_folder(parent, name, key, metadata or {})
                else:
                    found = self._write_file(parent, name, key, chunks, size, metadata or {})
                os.fsync(parent)
        except FileExistsError as error:
            raise NotDone(self.uri, f"cannot write {key!r} in {self.uri}: it already exists. Nothing was changed.") from error
        except OSError as error:
            raise NotDone(self.uri, f"cannot write {key!r} in {self.uri}: {error.strerror}. Nothing was changed.") from error
        return _stored(key, found)

    def delete(self, obj: StoredObject) -> None:
        """Delete a file or an empty folder. Raises NotDone if it has changed.

        A file is first moved aside and compared, then deleted.
        """
        folder, name = self._split(obj.key)
        try:
            with self._open(folder) as parent:
                if parent is None:
                    return
                if obj.key.endswith("/"):
                    self._remove_folder(parent, name, obj)
                else:
                    self._remove_file(parent, name, obj)
                os.fsync(parent)
        except OSError as error:
            raise NotDone(self.uri, f"cannot delete {obj.key!r} in {self.uri}: {error.strerror}. It stays.") from error

    def renew(self, obj: StoredObject) -> StoredObject:
        """Set the modification time of the file to now, which changes its etag."""
        folder, name = self._split(obj.key)
        try:
            with self._open(folder) as parent:
                descriptor = None if parent is None else self._open_file(parent, name)
        except OSError as error:
            raise NotDone(self.uri, f"cannot open {obj.key!r} in {self.uri}: {error.strerror}.") from error
        if descriptor is None:
            raise self._changed(obj.key)
        try:
            if _etag(os.fstat(descriptor)) != obj.etag:
                raise self._changed(obj.key)
            os.utime(descriptor)
            os.fsync(descriptor)
            return _stored(obj.key, os.fstat(descriptor))
        except OSError as error:
            raise NotDone(self.uri, f"cannot renew {obj.key!r} in {self.uri}: {error.strerror}.") from error
        finally:
            os.close(descriptor)

    def why_no_tier(self) -> str | None:
        """Return why `set_class` is refused: folders have no storage classes."""
        return f"{self.uri} is a folder, which has no storage classes"

    def set_class(self, obj: StoredObject, storage_class: str) -> StoredObject:
        """Raise NotDone, because folders have no storage classes."""
        raise NotDone(self.uri, f"cannot move {obj.key!r} to {storage_class}: {self.uri} is a folder, which has no storage classes.")

    def prune(self, folder: str) -> None:
        """Delete the empty folders below a folder, and temporary files of writes that were interrupted more than a day ago."""
        with self._open(folder) as top:
            if top is not None:
                self._prune_below(top)

    def clock(self) -> datetime:
        """Return the current time of this machine."""
        return datetime.now(timezone.utc)

    # --- inside ---------------------------------------------------------------------------------------------------------

    def _split(self, key: str) -> tuple[str, str]:
        folder, _, name = key.removesuffix("/").rpartition("/")
        if name in ("", ".", "..") or "\0" in key:
            raise NotDone(self.uri, f"cannot use the key {key!r}: it is not a file name. Nothing was done.")
        return folder, name

    @contextmanager
    def _open(self, folder: str, *, make: bool = False) -> Iterator[int | None]:
        """Open the folder one part at a time and yield its descriptor, or None if it does not exist. `make`: create missing folders.

        Raises NotDone if a part of the path is a link or a file.
        """
        try:
            descriptor = os.open(self._top, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        except OSError as error:
            raise NotDone(
                self.uri, f"cannot open {self.uri}: {error.strerror}. Mount it, or correct `stores` in runspend.yaml. Nothing was done."
            ) from error
        try:
            for part in folder.split("/") if folder else ():
                if part in ("", ".", "..") or "\0" in part:
                    raise NotDone(self.uri, f"cannot use the folder {folder!r}: it is ambiguous. Nothing was done.")
                try:
                    below = self._enter(descriptor, part, folder, make=make)
                except FileNotFoundError:
                    yield None
                    return
                except OSError as error:
                    if error.errno not in LINK_ERRORS:
                        raise
                    raise NotDone(
                        self.uri, f"cannot enter {folder!r} in {self.uri}: {part!r} is a link or a file. Nothing was done."
                    ) from error
                os.close(descriptor)
                descriptor = below
            yield descriptor
        finally:
            os.close(descriptor)

    def _enter(self, parent: int, part: str, folder: str, *, make: bool) -> int:
        is_new = False
        if make:
            try:
                os.mkdir(part, dir_fd=parent)
                os.fsync(parent)
                is_new = True
            except FileExistsError:
                pass  # the folder usually exists
        descriptor = os.open(part, OPEN_FOLDER, dir_fd=parent)
        try:
            if is_new and not _is_archive(folder):
                os.fchmod(descriptor, os.fstat(parent).st_mode & 0o2777)
        except BaseException:
            os.close(descriptor)
            raise
        return descriptor

    def _kind(self, key: str, found: os.stat_result) -> StoredObject | None:
        """Return the file as an object, or None for a folder. Raises SourceRefused for a link or a device."""
        if stat.S_ISDIR(found.st_mode):
            return None
        if stat.S_ISREG(found.st_mode):
            return _stored(key, found)
        raise SourceRefused(
            self.uri, f"cannot list {key!r} in {self.uri}: it is a link or a device, which cannot be restored. Nothing was moved."
        )

    def _open_file(self, parent: int, name: str) -> int | None:
        try:
            return os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=parent)
        except FileNotFoundError:
            return None

    def _make_folder(self, parent: int, name: str, key: str, metadata: Mapping[str, str]) -> os.stat_result:
        os.mkdir(name, dir_fd=parent)
        descriptor = os.open(name, OPEN_FOLDER, dir_fd=parent)  # chmod by name would follow a link that has replaced the folder
        try:
            if mode := metadata.get("mode"):
                os.fchmod(descriptor, int(mode, 8) | stat.S_IRWXU)
            elif not _is_archive(key):
                os.fchmod(descriptor, os.fstat(parent).st_mode & 0o2777)
            return os.fstat(descriptor)
        finally:
            os.close(descriptor)

    def _write_file(
        self, parent: int, name: str, key: str, chunks: Iterable[bytes], size: int, metadata: Mapping[str, str]
    ) -> os.stat_result:
        scratch = f".runspend-write-{uuid.uuid4().hex}.tmp"
        descriptor = os.open(scratch, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o666, dir_fd=parent)
        try:
            try:
                written = 0
                for chunk in chunks:
                    view = memoryview(chunk)
                    while view:
                        count = os.write(descriptor, view)
                        written, view = written + count, view[count:]
                if written != size:
                    raise NotDone(
                        self.uri, f"cannot write {key!r} in {self.uri}: {written} bytes arrived instead of {size}. Nothing was changed."
                    )
                if mode := metadata.get("mode"):
                    os.fchmod(descriptor, int(mode, 8) | stat.S_IRUSR)  # a file without read permission could not be read back
                elif not _is_archive(key):
                    os.fchmod(descriptor, os.fstat(parent).st_mode & 0o666 | stat.S_IRUSR)
                if modified := metadata.get("modified"):
                    at = round(datetime.fromisoformat(modified).timestamp() * 10**6) * 1000
                    os.utime(descriptor, ns=(at, at))
                os.fsync(descriptor)
                os.link(scratch, name, src_dir_fd=parent, dst_dir_fd=parent, follow_symlinks=False)
            finally:
                os.unlink(scratch, dir_fd=parent)
            return os.fstat(descriptor)  # read last, because creating and removing names changes a time in the etag
        finally:
            os.close(descriptor)

    def _remove_file(self, parent: int, name: str, obj: StoredObject) -> None:
        aside = f".runspend-delete-{hashlib.sha256(f'{obj.key} {obj.etag}'.encode('utf-8', 'surrogatepass')).hexdigest()[:32]}"
        before = _look(parent, aside)
        if before is not None and _is_same(before, obj):  # an earlier delete of this file was interrupted after moving it aside
            os.unlink(aside, dir_fd=parent)
        elif before is not None:  # an interrupted delete had moved another file aside: restore it
            os.link(aside, name, src_dir_fd=parent, dst_dir_fd=parent, follow_symlinks=False)
            os.unlink(aside, dir_fd=parent)
        found = _look(parent, name)
        if found is None:
            return
        if not stat.S_ISREG(found.st_mode) or _etag(found) != obj.etag:
            raise self._changed(obj.key)
        os.rename(name, aside, src_dir_fd=parent, dst_dir_fd=parent)
        if not _is_same(os.stat(aside, dir_fd=parent, follow_symlinks=False), obj):  # the file was replaced after the check: restore it
            os.link(aside, name, src_dir_fd=parent, dst_dir_fd=parent, follow_symlinks=False)
            os.unlink(aside, dir_fd=parent)
            raise self._changed(obj.key)
        os.unlink(aside, dir_fd=parent)

    def _remove_folder(self, parent: int, name: str, obj: StoredObject) -> None:
        try:
            os.rmdir(name, dir_fd=parent)
        except FileNotFoundError:
            return
        except OSError as error:
            raise self._changed(obj.key) from error

    def _prune_below(self, parent: int) -> None:
        for name in os.listdir(parent):
            found = _look(parent, name)
            if found is None:
                continue
            if stat.S_ISDIR(found.st_mode):
                below = os.open(name, OPEN_FOLDER, dir_fd=parent)
                try:
                    self._prune_below(below)
                finally:
                    os.close(below)
                try:
                    os.rmdir(name, dir_fd=parent)
                except OSError as error:
                    if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
                        raise NotDone(self.uri, f"cannot remove the empty folder {name!r} in {self.uri}: {error.strerror}.") from error
            elif _SCRATCH.fullmatch(name) and time.time() - found.st_mtime > _SCRATCH_SECONDS:
                os.unlink(name, dir_fd=parent)

    def _changed(self, key: str) -> NotDone:
        return NotDone(self.uri, f"{key!r} in {self.uri} has changed since it was listed. Nothing was done.")


def _is_archive(key: str) -> bool:
    """Return whether a key or folder is in the archive folder, to which only Runspend writes."""
    return key.partition("/")[0] == ARCHIVE_TOP


def _look(parent: int, name: str) -> os.stat_result | None:
    try:
        return os.stat(name, dir_fd=parent, follow_symlinks=False)
    except FileNotFoundError:
        return None


def _etag(found: os.stat_result) -> str:
    return f"{found.st_ino:x}-{found.st_mtime_ns:x}-{found.st_ctime_ns:x}-{found.st_size:x}"


def _is_same(found: os.stat_result, obj: StoredObject) -> bool:
    """Return whether a file has the object's etag, without comparing the change time, which renaming updates."""
    inode, modified, _, size = obj.etag.split("-")
    return [f"{found.st_ino:x}", f"{found.st_mtime_ns:x}", f"{found.st_size:x}"] == [inode, modified, size]


def _stored(key: str, found: os.stat_result) -> StoredObject:
    size = 0 if key.endswith("/") else found.st_size
    # Whole microseconds, rounded down. A float of seconds could round up.
    modified = datetime.fromtimestamp(found.st_mtime_ns // 10**9, timezone.utc).replace(microsecond=found.st_mtime_ns // 1000 % 10**6)
    return StoredObject(key, size, _etag(found), None, STORAGE_CLASS, modified, {"mode": f"{found.st_mode & 0o777:03o}"})
