"""The interface to the archive's objects: list, look up, read, write, delete, and change the storage class.

Each kind of store has its own module. Every call ends in one of three ways:

* It returns. The work is done.
* It raises NotDone. The store refused the call, or the object is not the expected one. Nothing was changed.
* It raises OutcomeUnknown. There was no reply, or a broken one. The change may have happened, so check the object before you try again.

A change is never repeated without checking the object first. What to change is decided elsewhere.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Literal, Protocol

from runspend.core.errors import NotDone

Purpose = Literal["read", "archive", "delete"]
ARCHIVE_TOP = "runspend-archive"  # the folder of a store that only Runspend writes to
CHUNK_BYTES = 1 << 20  # size of the chunks of `read`
# Properties of an object other than its bytes. A restored copy gets them again. `portable_metadata` selects them.
HEADERS = ("cache-control", "content-disposition", "content-encoding", "content-language", "content-type")
_PROPERTIES = (*HEADERS, "custom-time", "mode")
_META = re.compile(r"meta\.[A-Za-z0-9!#$%&'*+.^_`|~-]{1,200}", re.ASCII)
_MODE = re.compile(r"[0-7]{3}", re.ASCII)
METADATA_CHARACTERS = 8192  # limit for all names and values of one object, as in the clouds
KEEPS_VERSIONS = "its bucket keeps versions, so the old bytes would stay and be billed as well: use a lifecycle rule of the bucket"


@dataclass(frozen=True)
class StoredObject:
    """The state of an object when it was looked up. A key that ends in "/" is an empty folder of 0 bytes."""

    key: str  # relative to the store's root
    size: int  # bytes
    etag: str  # changes compare it; in a local folder, it consists of inode, times and size
    version: str | None  # None if the store does not keep versions
    storage_class: str
    modified: datetime  # UTC
    # Set by `head`: properties by their names in `_PROPERTIES` (such as content-type), custom metadata as `meta.NAME`, a file's mode (644).
    metadata: Mapping[str, str] = field(default_factory=dict, compare=False)


class ObjectStore(Protocol):
    """The objects below one root, with the credentials for one purpose.

    Keys and folders are relative to the root. A folder's name neither begins nor ends with a slash.
    """

    uri: str

    def list(self, folder: str) -> Iterator[StoredObject]:
        """Yield every object below the folder, in any order. The folder `run1` does not include `run10`.

        If a page cannot be read, an error is raised, so a listing that ends is complete.
        """
        ...

    def folders(self, folder: str) -> Iterator[str]:
        """Yield the names of the folders directly below a folder."""
        ...

    def head(self, key: str) -> StoredObject | None:
        """Return the current object. Returns None only if the store answers that the object does not exist."""
        ...

    def read(self, obj: StoredObject) -> Iterator[bytes]:
        """Yield all bytes of the object. Raises NotDone if the object has changed since it was looked up."""
        ...

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
        """Create an object of exactly `size` bytes and return it. The object is stored durably when this returns.

        `storage_class`: None means the store's default. `unlike`: an etag that the object must not get, for stores that derive etags
        from the bytes; a pending delete of the object with that etag then fails. `metadata`: the object's properties; unknown names are
        left out. Raises NotDone if the key already exists.
        """
        ...

    def renew(self, obj: StoredObject) -> StoredObject:
        """Rewrite the object in place so that its etag changes and pending deletes fail. No bytes leave the store.

        Raises NotDone if the object has changed since it was looked up.
        """
        ...

    def delete(self, obj: StoredObject) -> None:
        """Delete the object if it has not changed. If the store keeps versions, remove that version permanently.

        An object that is already gone counts as deleted. Raises NotDone if the object has changed.
        """
        ...

    def why_no_tier(self) -> str | None:
        """Return why `set_class` is refused for all objects in this store, or None if it is allowed."""
        ...

    def set_class(self, obj: StoredObject, storage_class: str) -> StoredObject:
        """Change the storage class of the object in place, and return the changed object. Raises NotDone if the object has changed."""
        ...

    def prune(self, folder: str) -> None:
        """Delete the empty folders below this folder, but not the folder itself. Stores without folders do nothing."""
        ...

    def clock(self) -> datetime:
        """Return the store's current time in UTC."""
        ...


def portable_metadata(found: Mapping[str, str | None]) -> dict[str, str]:
    """Return the metadata that the archive stores and restores.

    Only known names with printable values are included, up to METADATA_CHARACTERS in total.
    """
    kept, left = dict[str, str](), METADATA_CHARACTERS
    for name, value in sorted(found.items()):
        is_known = bool(value and _MODE.fullmatch(value)) if name == "mode" else name in _PROPERTIES or _META.fullmatch(name)
        if value and is_known and value.isprintable() and len(name) + len(value) <= left:
            kept[name] = value
            left -= len(name) + len(value)
    return kept


def in_pieces(chunks: Iterable[bytes], size: int) -> Iterator[bytes]:
    """Yield the bytes in pieces of `size` bytes. The last piece may be shorter."""
    held = bytearray()
    for chunk in chunks:
        held += chunk
        while len(held) >= size:
            yield bytes(held[:size])
            del held[:size]
    if held:
        yield bytes(held)


def exactly(uri: str, key: str, pieces: Iterator[bytes], size: int) -> Iterator[bytes]:
    """Yield the pieces unchanged. Raises NotDone before it yields the last one if all pieces together do not have `size` bytes."""
    came = 0
    held: bytes | None = None
    for piece in pieces:
        came += len(piece)
        if held is not None:
            yield held
        held = piece
    if came != size:
        raise NotDone(uri, f"cannot write {key!r} in {uri}: {came} bytes arrived instead of {size}. Nothing was changed.")
    if held is not None:
        yield held
