"""Single objects of the archive: list, look up, read, write, delete, change the storage class. One protocol, and one module per store.

Every call ends in one of three ways. It returns (done). It raises NotDone: the call was refused, or the object is not the expected one, and
nothing happened. It raises OutcomeUnknown: there was no reply, or a broken one. The change may have happened, so check before you try
again. This module retries nothing blindly and decides nothing.
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
CHUNK_BYTES = 1 << 20  # of the chunks of `read`
# Properties of an object other than its bytes, which a restored copy has again; `portable_metadata` selects them.
HEADERS = ("cache-control", "content-disposition", "content-encoding", "content-language", "content-type")
_PROPERTIES = (*HEADERS, "custom-time", "mode")
_META = re.compile(r"meta\.[A-Za-z0-9!#$%&'*+.^_`|~-]{1,200}", re.ASCII)
_MODE = re.compile(r"[0-7]{3}", re.ASCII)
METADATA_CHARACTERS = 8192  # in total, the clouds' limit per object
KEEPS_VERSIONS = "its bucket keeps versions, so the old bytes would stay and be billed as well: use a lifecycle rule of the bucket"


@dataclass(frozen=True)
class StoredObject:
    """An object as it was when it was looked up. A key that ends in "/" is an empty folder of 0 bytes."""

    key: str  # below the store's root
    size: int  # bytes
    etag: str  # compared by conditional calls; a folder's is made of inode, time and size
    version: str | None  # for a store that keeps versions
    storage_class: str
    modified: datetime  # UTC
    # From `head`: properties such as the content type by the names in `_PROPERTIES`, custom metadata as `meta.NAME`, a file's mode (644).
    metadata: Mapping[str, str] = field(default_factory=dict, compare=False)


class ObjectStore(Protocol):
    """One root, with the rights of one purpose. Keys and folders are relative to the root; a folder has no slash at its ends."""

    uri: str

    def list(self, folder: str) -> Iterator[StoredObject]:
        """Yield every object below the folder, in any order; `run1` never lists `run10`. A failed page raises, so a listing is complete."""
        ...

    def folders(self, folder: str) -> Iterator[str]:
        """Yield the names of the folders directly below a folder."""
        ...

    def head(self, key: str) -> StoredObject | None:
        """Return the current object; None only if the store answers that it does not exist."""
        ...

    def read(self, obj: StoredObject) -> Iterator[bytes]:
        """Yield the object's bytes in that state, all of them or an error. Raises NotDone when the object has changed."""
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
        """Create an object of exactly `size` bytes; it survives a power failure when this returns. Raises NotDone if the key is taken.

        storage_class: None means the store's own. unlike: an etag that the object must not get, where a store derives etags from
        the bytes; then a pending delete of the object with that etag fails. metadata: the object's properties; unknown ones are left
        out.
        """
        ...

    def renew(self, obj: StoredObject) -> StoredObject:
        """Rewrite the object in place so that its ETag changes and pending deletes fail, if it is still in that state. No bytes leave the
        store.
        """
        ...

    def delete(self, obj: StoredObject) -> None:
        """Remove the object if it is still in that state; with versions, permanently. Succeeds if the object is already gone."""
        ...

    def why_no_tier(self) -> str | None:
        """Return why `set_class` is refused for every object here; None if it is not."""
        ...

    def set_class(self, obj: StoredObject, storage_class: str) -> StoredObject:
        """Move the object to another storage class in place if it is still in that state; return the changed object."""
        ...

    def prune(self, folder: str) -> None:
        """Remove empty folders below (not the folder itself). Stores without folders do nothing."""
        ...

    def clock(self) -> datetime:
        """Return the store's current time, UTC."""
        ...


def portable_metadata(found: Mapping[str, str | None]) -> dict[str, str]:
    """Return the metadata that an archive keeps and restores: known names, and values without line breaks."""
    kept, left = dict[str, str](), METADATA_CHARACTERS
    for name, value in sorted(found.items()):
        is_known = bool(value and _MODE.fullmatch(value)) if name == "mode" else name in _PROPERTIES or _META.fullmatch(name)
        if value and is_known and value.isprintable() and len(name) + len(value) <= left:
            kept[name] = value
            left -= len(name) + len(value)
    return kept


def in_pieces(chunks: Iterable[bytes], size: int) -> Iterator[bytes]:
    """Split the bytes into pieces of `size`; the last one may be shorter."""
    held = bytearray()
    for chunk in chunks:
        held += chunk
        while len(held) >= size:
            yield bytes(held[:size])
            del held[:size]
    if held:
        yield bytes(held)


def exactly(uri: str, key: str, pieces: Iterator[bytes], size: int) -> Iterator[bytes]:
    """Yield the pieces. Raises NotDone before the last piece is used if the pieces do not add up to `size` bytes."""
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
