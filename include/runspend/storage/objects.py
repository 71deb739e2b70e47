"""What the archive does with single objects: list, look, read, write, delete, change the storage class. One protocol, one module a kind of store.

Every call ends in one of three ways: it returns (done), raises NotDone (refused, or the object is not the one that was meant:
nothing happened), or raises OutcomeUnknown (no reply, a broken reply: it may have happened, so look before you act again).
Nothing is retried blindly here, nothing is decided here.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import TYPE_CHECKING, Literal, Protocol

from runspend.core.errors import NotDone, OutcomeUnknown
from runspend.storage.uris import parse_root

if TYPE_CHECKING:
    from runspend.config.settings import ArtifactStore

__all__ = ["ARCHIVE_TOP", "CHUNK_BYTES", "KEEPS_VERSIONS", "NotDone", "ObjectStore", "OutcomeUnknown", "Purpose", "StoredObject", "carried", "exactly", "in_pieces", "open_objects"]

Purpose = Literal["read", "archive", "delete"]
ARCHIVE_TOP = "runspend-archive"  # the folder of a store that only Runspend writes to
CHUNK_BYTES = 1 << 20  # of what `read` yields
# What an object says of itself beside its bytes, and a copy that comes back says again: `carried` tells what of it.
_TOLD = ("cache-control", "content-disposition", "content-encoding", "content-language", "content-type", "custom-time", "mode")
_META = re.compile(r"meta\.[A-Za-z0-9!#$%&'*+.^_`|~-]{1,200}", re.ASCII)
_MODE = re.compile(r"[0-7]{3}", re.ASCII)
TOLD_CHARACTERS = 8192  # in all; the clouds allow no more of an object
KEEPS_VERSIONS = "its bucket keeps versions, so the old bytes would stay and be billed as well: use a lifecycle rule of the bucket"


@dataclass(frozen=True)
class StoredObject:
    """An object as it was when it was looked at. A key that ends in "/" is a folder with nothing in it, of no bytes."""

    key: str  # below the store's root
    size: int  # bytes
    etag: str  # what a conditional call compares; a folder's is made of inode, time and size
    version: str | None  # of a store that keeps versions
    storage_class: str
    modified: datetime  # UTC
    # From `head`: content type and the like by the names of `_TOLD`, metadata of its writer's own as `meta.NAME`, of a file its mode (644).
    told: Mapping[str, str] = field(default_factory=dict, compare=False)


class ObjectStore(Protocol):
    """One root, as one purpose may use it. Keys and folders count from the root; a folder has no slash at either end."""

    uri: str

    def list(self, folder: str) -> Iterator[StoredObject]:
        """Every object below the folder, in no promised order; `run1` never lists `run10`. A page that fails raises: half a list is no list."""
        ...

    def folders(self, folder: str) -> Iterator[str]:
        """Names of the folders directly below a folder."""
        ...

    def head(self, key: str) -> StoredObject | None:
        """The object as it is now; None only when the store says that there is none."""
        ...

    def read(self, obj: StoredObject) -> Iterator[bytes]:
        """The bytes of that state of the object, all of them or an error; NotDone when it is another by now."""
        ...

    def write(
        self, key: str, chunks: Iterable[bytes], *, size: int, storage_class: str | None = None, unlike: str | None = None, told: Mapping[str, str] | None = None
    ) -> StoredObject:
        """Make an object of exactly `size` bytes; NotDone, and nothing changed, when the key is taken. Safe from a power cut when it returns.

        storage_class: None is the store's own. unlike: an etag that the object must not get, where a store makes etags of the bytes: whoever still
        means to delete the object of that etag finds another. told: what it is to say of itself; what such a store does not know is left out.
        """
        ...

    def renew(self, obj: StoredObject) -> StoredObject:
        """Make it another state of the same bytes, if it still is in that one, so that whoever meant to delete it finds another; no byte leaves the store."""
        ...

    def delete(self, obj: StoredObject) -> None:
        """Remove the object if it is still in that state (then, with versions, for good). One that is gone already is done."""
        ...

    def why_no_tier(self) -> str | None:
        """Why `set_class` is refused for every object here, in words; None where it is not."""
        ...

    def set_class(self, obj: StoredObject, storage_class: str) -> StoredObject:
        """Move the object to another storage class in place if it is still in that state; the object afterwards."""
        ...

    def prune(self, folder: str) -> None:
        """Remove folders below (not the folder itself) that hold nothing. Stores without folders have nothing to do."""
        ...

    def clock(self) -> datetime:
        """What time the store thinks it is, UTC."""
        ...


def open_objects(store: ArtifactStore, purpose: Purpose) -> ObjectStore:
    """The objects of a store of the allow-list. Connects to nobody yet.

    Raises NotDone for purpose "delete" when the store has no `delete_credentials`, SourceRefused for a kind of store that is not known.
    """
    root = parse_root(store)
    if purpose == "delete" and store.delete_credentials is None:
        raise NotDone(
            store.uri,
            f"cannot delete in {store.uri}: it has no `delete_credentials`. Name a profile that may delete there (`local` for a folder) in `stores`. Nothing was deleted.",
        )
    if root.scheme == "file":
        from runspend.storage.local_objects import LocalObjects

        return LocalObjects(store, root)
    if root.scheme == "s3":
        from runspend.storage.s3_objects import S3Objects

        return S3Objects(store, root, purpose)
    if root.scheme == "azure":
        from runspend.storage.azure_objects import AzureObjects

        return AzureObjects(store, root, purpose)
    from runspend.storage.google_objects import GoogleObjects

    return GoogleObjects(store, root, purpose)


def carried(found: Mapping[str, str | None]) -> dict[str, str]:
    """What of this an archive keeps and brings back: names that are known, and values that can be said in one line."""
    kept, left = dict[str, str](), TOLD_CHARACTERS
    for name, value in sorted(found.items()):
        is_known = bool(value and _MODE.fullmatch(value)) if name == "mode" else name in _TOLD or _META.fullmatch(name)
        if value and is_known and value.isprintable() and len(name) + len(value) <= left:
            kept[name] = value
            left -= len(name) + len(value)
    return kept


def in_pieces(chunks: Iterable[bytes], size: int) -> Iterator[bytes]:
    """The same bytes in pieces of `size`, the last one shorter."""
    held = bytearray()
    for chunk in chunks:
        held += chunk
        while len(held) >= size:
            yield bytes(held[:size])
            del held[:size]
    if held:
        yield bytes(held)


def exactly(uri: str, key: str, pieces: Iterator[bytes], size: int) -> Iterator[bytes]:
    """The pieces; NotDone at the end, before the last is used, when they are not `size` bytes together."""
    came = 0
    held: bytes | None = None
    for piece in pieces:
        came += len(piece)
        if held is not None:
            yield held
        held = piece
    if came != size:
        raise NotDone(uri, f"cannot write {key!r} in {uri}: {came} bytes came, not {size}. Nothing was changed.")
    if held is not None:
        yield held
