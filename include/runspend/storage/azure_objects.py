"""The archive's objects in an Azure container. Changes have a condition (If-None-Match, If-Match), and every reply is checked.

Only a change of the access tier has no condition, because Azure offers none. If the account keeps versions, nothing is deleted: the bytes
would stay as a version and still be billed.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from datetime import datetime, timezone
from typing import TYPE_CHECKING, Any

from runspend.core.errors import NotDone, SourceRefused
from runspend.storage.azure import AzureContainer, Blob, if_match, translated
from runspend.storage.cloud_objects import CloudObjects, refusal_status
from runspend.storage.objects import HEADERS, Purpose, StoredObject, exactly, in_pieces, portable_metadata
from runspend.storage.store_errors import CannotReach
from runspend.storage.uris import Root

if TYPE_CHECKING:
    from runspend.config.settings import ArtifactStore

BLOCK_BYTES = 64 << 20  # size of a block; objects up to this size are written with one request
BLOCKS = 50_000  # Azure's maximum number of blocks


class AzureObjects(CloudObjects):
    """Objects below a prefix of one container. See `ObjectStore` for the methods."""

    def __init__(self, store: ArtifactStore, root: Root, purpose: Purpose) -> None:
        super().__init__(store.uri, root)
        credentials = store.delete_credentials if purpose == "delete" else store.credentials
        try:
            self._container = AzureContainer(store.uri, endpoint=store.endpoint, credentials=credentials)
        except CannotReach as error:
            raise SourceRefused(store.uri, f"cannot archive in {store.uri}: {error} Nothing was contacted.") from None

    def list(self, folder: str) -> Iterator[StoredObject]:
        """Yield every object below a folder."""
        with self._translate_errors(f"list {folder!r}"):
            for blobs, _, _ in self._container.pages(self._folder(folder)):
                for blob in blobs:
                    yield self._stored(self._own(blob.name, self._folder(folder)), blob, {})

    def folders(self, folder: str) -> Iterator[str]:
        """Yield the names of the folders directly below a folder."""
        prefix = self._folder(folder)
        with self._translate_errors(f"list {folder!r}"):
            for _, folders, _ in self._container.pages(prefix, delimiter="/"):
                for name in folders:
                    self._own(name, prefix)
                    yield name[len(prefix) :].rstrip("/")

    def head(self, key: str) -> StoredObject | None:
        """Return the current object, or None if Azure answers 404."""
        with self._translate_errors(f"look at {key!r}"):
            found = self._container.look(self._name(key))
        if found is None:
            return None
        tier = (found.blob_tier or "").upper() or "UNKNOWN"
        return self._stored(
            key,
            Blob(key, found.size, found.etag or "", found.last_modified, tier, None, found.version_id, is_current=True),
            _metadata_of(found),
        )

    def read(self, obj: StoredObject) -> Iterator[bytes]:
        """Yield the bytes of the object. Raises NotDone if it no longer has the same etag."""
        yield from self._whole(obj, self._container.read(self._name(obj.key), obj.etag))

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
        """Write an object with one put request, or with many blocks and a list of them. Raises NotDone if the key already exists."""
        block_size = max(BLOCK_BYTES, -(-size // BLOCKS))
        blocks = exactly(self.uri, key, in_pieces(chunks, block_size), size)
        with self._change(f"write {key!r}", key) as blob:
            options = _write_options(metadata or {}) | ({} if storage_class is None else {"standard_blob_tier": self._tier(storage_class)})
            if size <= block_size:
                blob.upload_blob(b"".join(blocks), length=size, overwrite=False, **options)
            else:
                self._write_blocks(blob, blocks, options)
        return self._written(key)

    def delete(self, obj: StoredObject) -> None:
        """Delete the object if it still has the same etag. Raises NotDone if the account keeps versions."""
        if obj.version is not None:
            raise NotDone(
                self.uri,
                f"cannot delete {obj.key!r} in {self.uri}: the account keeps versions, so its bytes would stay and be billed. "
                "Turn versions off, or use a lifecycle rule. Nothing was deleted.",
            )
        try:
            with self._change(f"delete {obj.key!r}", obj.key) as blob:
                blob.delete_blob(**if_match(obj.etag))
        except NotDone as error:
            if refusal_status(error) not in (404, 412) or self.head(obj.key) is not None:
                raise

    def renew(self, obj: StoredObject) -> StoredObject:
        """Write the blob's own properties again, which changes its etag (Azure's reference, "Set Blob Properties").

        Raises NotDone if the blob no longer has the old etag.
        """
        with self._change(f"renew {obj.key!r}", obj.key) as blob:
            blob.set_http_headers(blob.get_blob_properties(**if_match(obj.etag)).content_settings, **if_match(obj.etag))
        return self._written(obj.key)

    def set_class(self, obj: StoredObject, storage_class: str) -> StoredObject:
        """Set the access tier of the object.

        Azure has no condition for this request. If the object is rewritten at the same time, its new bytes are complete, but in this tier.
        """
        found = self.head(obj.key)
        if found is None or found.etag != obj.etag:
            raise NotDone(self.uri, f"cannot move {obj.key!r} in {self.uri} to {storage_class}: it has changed. Nothing was done.")
        with self._change(f"move {obj.key!r} to {storage_class}", obj.key) as blob:
            blob.set_standard_blob_tier(self._tier(storage_class))
        return self._moved(obj.key, storage_class)

    def clock(self) -> datetime:
        """Return the time of Azure, from the headers of a reply."""
        with self._translate_errors("ask for the time"):
            return self._time(self._container.date())

    # --- inside ---------------------------------------------------------------------------------------------------------

    @contextmanager
    def _change(self, what: str, key: str) -> Iterator[Any]:
        """Yield the client of one blob for a change. `what` is the action in error messages, as a verb phrase."""
        with self._translate_errors(what):
            blob = self._container.blob(self._name(key))
            with translated():
                yield blob

    def _tier(self, storage_class: str) -> Any:
        from azure.storage.blob import StandardBlobTier

        try:
            return StandardBlobTier(storage_class.capitalize())
        except ValueError:
            raise NotDone(
                self.uri, f"cannot use storage class {storage_class} in {self.uri}: Azure has no such access tier. Nothing was done."
            ) from None

    def _stored(self, key: str, blob: Blob, metadata: dict[str, str]) -> StoredObject:
        if blob.size is None or blob.etag in ("", '""') or blob.modified is None:
            raise SourceRefused(self.uri, f"cannot trust the answer of {self.uri}: {key!r} has no size, etag or time. Nothing was moved.")
        return StoredObject(key, blob.size, blob.etag, blob.version, blob.tier, blob.modified.astimezone(timezone.utc), metadata)

    def _write_blocks(self, blob: Any, blocks: Iterator[bytes], options: dict[str, Any]) -> None:
        """Write the blocks, then the list that turns them into a blob. Azure discards blocks without a list after a week."""
        from azure.core import MatchConditions
        from azure.storage.blob import BlobBlock

        ids = []
        for number, block in enumerate(blocks):
            ids.append(BlobBlock(f"{number:08d}"))
            blob.stage_block(ids[-1].id, block, length=len(block))
        blob.commit_block_list(ids, match_condition=MatchConditions.IfMissing, **options)


def _metadata_of(found: Any) -> dict[str, str]:
    named = {name: getattr(found.content_settings, name.replace("-", "_")) for name in HEADERS}
    return portable_metadata(named | {f"meta.{name}": value for name, value in (found.metadata or {}).items()})


def _write_options(metadata: Mapping[str, str]) -> dict[str, Any]:
    """Return the properties and metadata as request options of a write. Values that are not ASCII are left out: headers must be ASCII."""
    from azure.storage.blob import ContentSettings

    plain = {name: value for name, value in metadata.items() if value.isascii()}
    settings = ContentSettings(**{name.replace("-", "_"): plain[name] for name in HEADERS if name in plain})
    return {
        "content_settings": settings,
        "metadata": {name.removeprefix("meta."): value for name, value in plain.items() if name.startswith("meta.")},
    }
