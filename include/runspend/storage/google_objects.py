"""Archive objects in a Google bucket: every change is conditional on a generation, and every reply is checked.

If a bucket keeps versions, deleting turns the object into a noncurrent version, which is then removed permanently.
"""

from __future__ import annotations

import json
import uuid
from collections.abc import Iterable, Iterator, Mapping
from datetime import datetime, timezone
from functools import cached_property
from itertools import chain
from typing import TYPE_CHECKING, Any

from runspend.core.errors import MissingExtra, NotDone, SourceRefused
from runspend.storage.google import GoogleBucket, microseconds, object_path
from runspend.storage.google_clients import has_google_auth
from runspend.storage.objects import CHUNK_BYTES, KEEPS_VERSIONS, Purpose, StoredObject, carried, exactly, in_pieces
from runspend.storage.rest_objects import RestObjects, refusal_status
from runspend.storage.uris import Root

if TYPE_CHECKING:
    from runspend.config.settings import ArtifactStore

AT_ONCE_BYTES = 64 << 20  # larger objects are streamed
_SAID = {
    "cacheControl": "cache-control", "contentDisposition": "content-disposition", "contentEncoding": "content-encoding", "contentLanguage": "content-language",
    "contentType": "content-type", "customTime": "custom-time",
}  # fmt: skip
_BOUNDARY = uuid.uuid4().hex  # between the parts of an upload; no object can contain it


class GoogleObjects(RestObjects):
    """Objects below a prefix of one bucket. An object's etag is its generation, which changes with its bytes."""

    def __init__(self, store: ArtifactStore, root: Root, purpose: Purpose) -> None:
        if not has_google_auth():
            raise MissingExtra("google-auth", "bigquery")
        super().__init__(store.uri, root)
        credentials = store.delete_credentials if purpose == "delete" else store.credentials
        self._bucket = GoogleBucket(root.bucket, endpoint=store.endpoint, credentials=None if credentials is None else str(credentials))

    def list(self, folder: str) -> Iterator[StoredObject]:
        """Yield every object below a folder, without noncurrent versions."""
        with self._words(f"list {folder!r}"):
            for items, _ in self._bucket.list(self._folder(folder)):
                for found in items:
                    if not found.get("timeDeleted"):
                        yield self._stored(self._own(str(found.get("name")), self._folder(folder)), found)

    def folders(self, folder: str) -> Iterator[str]:
        """Yield the names of the folders directly below a folder."""
        prefix = self._folder(folder)
        with self._words(f"list {folder!r}"):
            for items, _ in self._bucket.list(prefix, delimiter="/"):
                for found in items:
                    self._own(found["prefix"], prefix)
                    yield found["prefix"][len(prefix) :].rstrip("/")

    def head(self, key: str) -> StoredObject | None:
        """Return the current object; None when Google answers 404."""
        try:
            with self._words(f"look at {key!r}"):
                found = self._bucket.ask("GET", self._path(key))
        except NotDone as error:
            if refusal_status(error) == 404:
                return None
            raise
        return self._stored(key, found)

    def read(self, obj: StoredObject) -> Iterator[bytes]:
        """Yield the bytes of that generation as stored; compressed objects are not decompressed."""
        query = {"alt": "media", "generation": obj.etag}
        yield from self._read(obj, self._bucket.request("GET", self._path(obj.key), query, Accept_Encoding="gzip"))

    def write(
        self, key: str, chunks: Iterable[bytes], *, size: int, storage_class: str | None = None, unlike: str | None = None, told: Mapping[str, str] | None = None
    ) -> StoredObject:
        """Send one upload on condition that the key is free. An upload that ends early creates no object."""
        self._path(key)
        pieces = exactly(self.uri, key, in_pieces(chunks, CHUNK_BYTES), size)
        data: bytes | Iterable[bytes] = b"".join(pieces) if size <= AT_ONCE_BYTES else pieces
        query = {"uploadType": "media", "name": self._prefix + key, "ifGenerationMatch": "0"}
        said = {"Content_Type": "application/octet-stream", "Content_Length": str(size)}
        resource = _resource(told or {}) | ({} if storage_class is None else {"storageClass": storage_class})
        if resource:  # sent in its own part, before the bytes
            head, tail = _around(resource)
            data = head + data + tail if isinstance(data, bytes) else chain([head], data, [tail])
            query["uploadType"] = "multipart"
            said = {"Content_Type": f"multipart/related; boundary={_BOUNDARY}", "Content_Length": str(len(head) + size + len(tail))}
        with self._words(f"write {key!r}"), self._bucket.request("POST", "/o", query, data, **said) as reply:
            reply.read()
        return self._written(key)

    def delete(self, obj: StoredObject) -> None:
        """Delete on condition of the generation; if the bucket kept it as a version, remove that version permanently."""
        try:
            with self._words(f"delete {obj.key!r}"):
                self._bucket.ask("DELETE", self._path(obj.key), {"ifGenerationMatch": obj.etag})
        except NotDone as error:
            if refusal_status(error) not in (404, 412) or self.head(obj.key) is not None:
                raise
        try:
            with self._words(f"delete generation {obj.etag} of {obj.key!r}"):
                self._bucket.ask("DELETE", self._path(obj.key), {"generation": obj.etag})
        except NotDone as error:
            if refusal_status(error) != 404:
                raise

    def renew(self, obj: StoredObject) -> StoredObject:
        """Rewrite the object in place, with both ends on condition of its generation."""
        with self._words(f"renew {obj.key!r}"):
            self._bucket.rewrite(self._prefix + obj.key, {"ifGenerationMatch": obj.etag, "ifSourceGenerationMatch": obj.etag}, obj.storage_class)
        return self._written(obj.key)

    def why_no_tier(self) -> str | None:
        """Rewriting leaves the previous object as a version if the bucket keeps versions. The store is asked once."""
        return KEEPS_VERSIONS if self._keeps_versions else None

    def set_class(self, obj: StoredObject, storage_class: str) -> StoredObject:
        """Rewrite the object in place, with both ends on condition of its generation."""
        if why := self.why_no_tier():
            raise NotDone(self.uri, f"cannot move {obj.key!r} in {self.uri} to {storage_class}: {why}. Nothing was done.")
        query = {"ifGenerationMatch": obj.etag, "ifSourceGenerationMatch": obj.etag}
        with self._words(f"move {obj.key!r} to {storage_class}"):
            self._bucket.rewrite(self._prefix + obj.key, query, storage_class)
        return self._moved(obj.key, storage_class)

    def clock(self) -> datetime:
        """Return the time in the headers of a reply."""
        return self._time_of(self._bucket.request("GET", "/o", {"maxResults": "1", "prefix": self._prefix}))

    # --- inside ---------------------------------------------------------------------------------------------------------

    @cached_property
    def _keeps_versions(self) -> bool:
        with self._words("ask whether versions are kept"):
            return bool((self._bucket.ask("GET", "", {"fields": "versioning"}).get("versioning") or {}).get("enabled"))

    def _path(self, key: str) -> str:
        return object_path(self._name(key))

    def _stored(self, key: str, found: dict[str, Any]) -> StoredObject:
        at = microseconds(found)
        if found.get("size") is None or not found.get("generation") or at is None:
            raise SourceRefused(self.uri, f"cannot believe {self.uri}: {key!r} has no size, generation or time. Nothing was moved.")
        modified = datetime.fromtimestamp(at // 1_000_000, timezone.utc).replace(microsecond=at % 1_000_000)
        return StoredObject(key, int(found["size"]), str(found["generation"]), None, str(found.get("storageClass") or "UNKNOWN"), modified, _told(found))


def _told(found: dict[str, Any]) -> dict[str, str]:
    return carried({name: found.get(field) for field, name in _SAID.items()} | {f"meta.{name}": value for name, value in (found.get("metadata") or {}).items()})


def _resource(told: Mapping[str, str]) -> dict[str, Any]:
    """Return the object's properties in Google's format."""
    metadata = {name.removeprefix("meta."): value for name, value in told.items() if name.startswith("meta.")}
    return {field: told[name] for field, name in _SAID.items() if name in told} | ({"metadata": metadata} if metadata else {})


def _around(resource: dict[str, Any]) -> tuple[bytes, bytes]:
    """Return the bytes before and after an upload's content when the upload also has properties."""
    told, kind = json.dumps(resource), resource.get("contentType", "application/octet-stream")
    head = f"--{_BOUNDARY}\r\nContent-Type: application/json\r\n\r\n{told}\r\n--{_BOUNDARY}\r\nContent-Type: {kind}\r\n\r\n"
    return head.encode(), f"\r\n--{_BOUNDARY}--\r\n".encode()
