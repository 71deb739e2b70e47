"""Archive objects in an Azure container: every change is conditional (If-None-Match, If-Match), and every reply is checked.

If blobs keep versions, nothing is deleted: the bytes would stay as a version and still be billed.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from datetime import datetime
from typing import TYPE_CHECKING
from xml.sax.saxutils import escape

from runspend.core.errors import NotDone, SourceRefused
from runspend.storage.azure import METADATA, PROPERTIES, AzureContainer, Blob, has_token
from runspend.storage.objects import Purpose, StoredObject, exactly, in_pieces
from runspend.storage.rest_objects import RestObjects, refusal_status
from runspend.storage.uris import Root

if TYPE_CHECKING:
    from runspend.config.settings import ArtifactStore

BLOCK_BYTES = 64 << 20  # of a write in several parts; smaller objects are one request
_SAID = ("Cache-Control", "Content-Type", "Content-MD5", "Content-Encoding", "Content-Language", "Content-Disposition")
BLOCKS = 50_000  # Azure's limit


class AzureObjects(RestObjects):
    """Objects below a prefix of one container."""

    def __init__(self, store: ArtifactStore, root: Root, purpose: Purpose) -> None:
        super().__init__(store.uri, root)
        credentials = store.delete_credentials if purpose == "delete" else store.credentials
        if not has_token(credentials):
            raise SourceRefused(
                store.uri,
                f"cannot archive in {store.uri}: conditional deletes need a token. Write a SAS token or connection string into its credentials. Nothing was contacted.",
            )
        self._container = AzureContainer(root, endpoint=store.endpoint, credentials=credentials)

    def list(self, folder: str) -> Iterator[StoredObject]:
        """Yield every object below a folder."""
        with self._words(f"list {folder!r}"):
            for blobs, _, _ in self._container.list(self._folder(folder)):
                for blob in blobs:
                    yield self._stored(self._own(blob.name, self._folder(folder)), blob)

    def folders(self, folder: str) -> Iterator[str]:
        """Yield the names of the folders directly below a folder."""
        prefix = self._folder(folder)
        with self._words(f"list {folder!r}"):
            for _, folders, _ in self._container.list(prefix, delimiter="/"):
                for name in folders:
                    self._own(name, prefix)
                    yield name[len(prefix) :].rstrip("/")

    def head(self, key: str) -> StoredObject | None:
        """Return the current object; None when Azure answers 404."""
        with self._words(f"look at {key!r}"):
            blob = self._container.look(self._name(key))
        return None if blob is None else self._stored(key, blob)

    def read(self, obj: StoredObject) -> Iterator[bytes]:
        """Yield the object's bytes, while it has that etag."""
        yield from self._read(obj, self._container.request("GET", self._name(obj.key), If_Match=obj.etag))

    def write(
        self, key: str, chunks: Iterable[bytes], *, size: int, storage_class: str | None = None, unlike: str | None = None, told: Mapping[str, str] | None = None
    ) -> StoredObject:
        """Send one put, or many blocks and their list, on condition that the key is free."""
        block_size = max(BLOCK_BYTES, -(-size // BLOCKS))
        blocks = exactly(self.uri, key, in_pieces(chunks, block_size), size)
        said = {"If_None_Match": "*", **_headers(told or {})}
        if storage_class is not None:
            said["x_ms_access_tier"] = storage_class.capitalize()
        with self._words(f"write {key!r}"):
            if size <= block_size:
                data = b"".join(blocks)
                with self._container.request("PUT", self._name(key), None, data, **{"x_ms_blob_type": "BlockBlob", **said}) as reply:
                    reply.read()
            else:
                self._write_blocks(self._name(key), blocks, said)
        return self._written(key)

    def delete(self, obj: StoredObject) -> None:
        """Delete on condition of the etag."""
        if obj.version is not None:
            raise NotDone(
                self.uri,
                f"cannot delete {obj.key!r} in {self.uri}: the account keeps versions, so its bytes would stay and be billed. "
                "Turn versions off, or use a lifecycle rule. Nothing was deleted.",
            )
        try:
            with self._words(f"delete {obj.key!r}"), self._container.request("DELETE", self._name(obj.key), If_Match=obj.etag) as reply:
                reply.read()
        except NotDone as error:
            if refusal_status(error) not in (404, 412) or self.head(obj.key) is not None:
                raise

    def renew(self, obj: StoredObject) -> StoredObject:
        """Set the blob's properties to their current values, on condition of its etag, so that it gets a new one ("Set Blob Properties")."""
        with self._words(f"renew {obj.key!r}"):
            with self._container.request("HEAD", self._name(obj.key), If_Match=obj.etag) as reply:
                said = {f"x_ms_blob_{name.lower().replace('-', '_')}": reply.headers[name] for name in _SAID if reply.headers.get(name)}
            with self._container.request("PUT", self._name(obj.key), {"comp": "properties"}, b"", **{"If_Match": obj.etag, **said}) as reply:
                reply.read()
        return self._written(obj.key)

    def why_no_tier(self) -> str | None:
        """None: a tier applies to the current blob and does not create a version."""
        return None

    def set_class(self, obj: StoredObject, storage_class: str) -> StoredObject:
        """Set the access tier. Azure has no condition for it. Bytes written meanwhile would be in that tier, and complete."""
        found = self.head(obj.key)
        if found is None or found.etag != obj.etag:
            raise NotDone(self.uri, f"cannot move {obj.key!r} in {self.uri} to {storage_class}: it has changed. Nothing was done.")
        tier = storage_class.capitalize()
        change = self._container.request("PUT", self._name(obj.key), {"comp": "tier"}, b"", x_ms_access_tier=tier)
        with self._words(f"move {obj.key!r} to {storage_class}"), change as reply:
            reply.read()
        return self._moved(obj.key, storage_class)

    def clock(self) -> datetime:
        """Return the time in the headers of a reply."""
        return self._time_of(self._container.request("GET", query={"restype": "container", "comp": "list", "maxresults": "1"}))

    # --- inside ---------------------------------------------------------------------------------------------------------

    def _stored(self, key: str, blob: Blob) -> StoredObject:
        if blob.size is None or blob.etag in ("", '""') or blob.modified is None:
            raise SourceRefused(self.uri, f"cannot believe {self.uri}: {key!r} has no size, etag or time. Nothing was moved.")
        return StoredObject(key, blob.size, blob.etag, blob.version, blob.tier, blob.modified, blob.told)

    def _write_blocks(self, name: str, blocks: Iterator[bytes], said: dict[str, str]) -> None:
        """Write the blocks and their list. Azure removes blocks without a list after a week."""
        ids = []
        for number, block in enumerate(blocks):
            ids.append(f"{number:06d}xx")  # of equal length, and already valid base64
            with self._container.request("PUT", name, {"comp": "block", "blockid": ids[-1]}, block) as reply:
                reply.read()
        listed = "".join(f"<Latest>{escape(one)}</Latest>" for one in ids)
        body = f'<?xml version="1.0" encoding="utf-8"?><BlockList>{listed}</BlockList>'.encode()
        with self._container.request("PUT", name, {"comp": "blocklist"}, body, **said) as reply:
            reply.read()


def _headers(told: Mapping[str, str]) -> dict[str, str]:
    """Return the headers that describe the blob: properties as in "Put Blob", and metadata."""
    plain = {name: value for name, value in told.items() if value.isascii()}
    properties = {f"x-ms-blob-{name}": plain[name] for name in PROPERTIES if name in plain}
    return properties | {f"{METADATA}{name.removeprefix('meta.')}": value for name, value in plain.items() if name.startswith("meta.")}
