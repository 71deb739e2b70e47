"""The archive's objects in a Google bucket. Every change has a generation as its condition, and every reply is checked.

If a bucket keeps versions, a delete has two steps. The object first becomes a noncurrent version, which is then removed permanently.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from datetime import datetime, timezone
from functools import cached_property
from typing import TYPE_CHECKING, Any

from runspend.core.errors import NotDone, SourceRefused
from runspend.storage.cloud_objects import CloudObjects, refusal_status
from runspend.storage.google import GoogleBucket
from runspend.storage.objects import CHUNK_BYTES, HEADERS, Purpose, StoredObject, exactly, in_pieces, portable_metadata
from runspend.storage.uris import Root

if TYPE_CHECKING:
    from runspend.config.settings import ArtifactStore


class GoogleObjects(CloudObjects):
    """Objects below a prefix of one bucket. See `ObjectStore` for the methods.

    The etag of an object is its generation, which changes with every write of its bytes.
    """

    def __init__(self, store: ArtifactStore, root: Root, purpose: Purpose) -> None:
        super().__init__(store.uri, root)
        credentials = store.delete_credentials if purpose == "delete" else store.credentials
        self._bucket = GoogleBucket(root.bucket, endpoint=store.endpoint, credentials=None if credentials is None else str(credentials))

    def list(self, folder: str) -> Iterator[StoredObject]:
        """Yield every object below a folder, without noncurrent versions."""
        with self._translate_errors(f"list {folder!r}"):
            for page, _ in self._bucket.pages(self._folder(folder), versions=False):
                for found in page:
                    yield self._stored(self._own(found.name, self._folder(folder)), found)

    def folders(self, folder: str) -> Iterator[str]:
        """Yield the names of the folders directly below a folder."""
        prefix = self._folder(folder)
        with self._translate_errors(f"list {folder!r}"):
            for page, _ in self._bucket.pages(prefix, delimiter="/"):
                for name in page.raw_page.get("prefixes", ()):
                    self._own(name, prefix)
                    yield name[len(prefix) :].rstrip("/")

    def head(self, key: str) -> StoredObject | None:
        """Return the current object, or None if Google answers 404."""
        with self._translate_errors(f"look at {key!r}"):
            found = self._bucket.look(self._name(key))
        return None if found is None else self._stored(key, found)

    def read(self, obj: StoredObject) -> Iterator[bytes]:
        """Yield the stored bytes of this generation. Raises NotDone if it no longer exists."""
        if not obj.size and self.head(obj.key) != obj:  # no bytes are requested for an empty object, so it is looked up instead
            raise NotDone(self.uri, f"cannot read {obj.key!r} in {self.uri}: it has changed. Nothing was done.")
        yield from self._whole(obj, self._bucket.read(self._name(obj.key), obj.etag, obj.size))

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
        """Upload an object. Raises NotDone if the key already exists. An upload that is interrupted leaves no object."""
        pieces = exactly(self.uri, key, in_pieces(chunks, CHUNK_BYTES), size)
        with self._translate_errors(f"write {key!r}"):
            self._bucket.upload(self._name(key), pieces, size, _write_options(metadata or {}) | {"storage_class": storage_class})
        return self._written(key)

    def delete(self, obj: StoredObject) -> None:
        """Delete the object if it still has the same generation. If the bucket keeps it as a version, remove that version permanently."""
        try:
            with self._translate_errors(f"delete {obj.key!r}"):
                self._bucket.delete(self._name(obj.key), is_current=obj.etag)
        except NotDone as error:
            if refusal_status(error) not in (404, 412) or self.head(obj.key) is not None:
                raise
        try:
            with self._translate_errors(f"delete generation {obj.etag} of {obj.key!r}"):
                self._bucket.delete(self._name(obj.key), version=obj.etag)
        except NotDone as error:
            if refusal_status(error) != 404:
                raise

    def renew(self, obj: StoredObject) -> StoredObject:
        """Rewrite the object in place, which changes its generation. Source and target must still have the old generation."""
        with self._translate_errors(f"renew {obj.key!r}"):
            self._bucket.rewrite(self._name(obj.key), obj.etag, obj.storage_class)
        return self._written(obj.key)

    def set_class(self, obj: StoredObject, storage_class: str) -> StoredObject:
        """Rewrite the object in place with another storage class. Source and target must still have the old generation."""
        self._refuse_if_versions(obj, storage_class)
        with self._translate_errors(f"move {obj.key!r} to {storage_class}"):
            self._bucket.rewrite(self._name(obj.key), obj.etag, storage_class)
        return self._moved(obj.key, storage_class)

    def clock(self) -> datetime:
        """Return the time of Google, from the headers of a reply."""
        with self._translate_errors("ask for the time"):
            return self._time(self._bucket.date())

    # --- inside ---------------------------------------------------------------------------------------------------------

    @cached_property
    def _keeps_versions(self) -> bool:
        with self._translate_errors("ask whether versions are kept"):
            return self._bucket.keeps_versions()

    def _stored(self, key: str, found: Any) -> StoredObject:
        """Return an object from the description by Google's client. Raises SourceRefused if it lacks a size, generation or time."""
        if found.size is None or not found.generation or found.updated is None:
            raise SourceRefused(
                self.uri, f"cannot trust the answer of {self.uri}: {key!r} has no size, generation or time. Nothing was moved."
            )
        return StoredObject(
            key, found.size, str(found.generation), None, found.storage_class or "UNKNOWN", found.updated, _metadata_of(found)
        )


def _metadata_of(found: Any) -> dict[str, str]:
    named = {name: getattr(found, name.replace("-", "_")) for name in HEADERS}
    named["custom-time"] = found.custom_time.isoformat().replace("+00:00", "Z") if found.custom_time else None
    return portable_metadata(named | {f"meta.{name}": value for name, value in (found.metadata or {}).items()})


def _write_options(metadata: Mapping[str, str]) -> dict[str, Any]:
    """Return the properties that an upload sets on the object, with the field names of Google's client."""
    own = {name.removeprefix("meta."): value for name, value in metadata.items() if name.startswith("meta.")}
    options: dict[str, Any] = {name.replace("-", "_"): metadata[name] for name in HEADERS if name in metadata}
    if at := metadata.get("custom-time"):
        options["custom_time"] = datetime.fromisoformat(at.replace("Z", "+00:00")).astimezone(timezone.utc)
    return options | ({"metadata": own} if own else {})
