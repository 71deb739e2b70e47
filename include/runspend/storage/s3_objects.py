"""The archive's objects in an S3 bucket. Every change has a condition (If-None-Match, If-Match, a version), and every reply is checked.

If a bucket keeps versions, a delete has two steps. The first hides the object behind a delete marker, provided that its etag is unchanged.
The second removes that one version permanently. Older versions stay hidden, and objects written in the meantime are never touched.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from datetime import datetime, timezone
from functools import cached_property
from itertools import chain
from typing import TYPE_CHECKING, Any

from runspend.core.errors import NotDone, OutcomeUnknown, SourceRefused
from runspend.storage.cloud_objects import CloudObjects
from runspend.storage.objects import CHUNK_BYTES, HEADERS, Purpose, StoredObject, exactly, in_pieces, portable_metadata
from runspend.storage.s3 import connect
from runspend.storage.uris import Root

if TYPE_CHECKING:
    from runspend.config.settings import ArtifactStore

PART_BYTES = 64 << 20  # size of a part; objects up to this size are written with one request
PARTS = 9_000  # parts at most; S3 allows 10,000
ONE_COPY = 5_000_000_000  # bytes; S3 copies larger objects only in parts
COPY_PART = 1 << 30
_PARTS = re.compile(r'-(\d{1,5})"?$', re.ASCII)
_MD5 = re.compile(r'"[0-9a-f]{32}"', re.ASCII)
# Properties that are sent again when an object is copied onto itself. Some stores refuse a copy that changes only the storage class.
_PROPERTIES = {header.title().replace("-", ""): header for header in HEADERS}  # S3's name of each header, for example CacheControl
_KEPT = (*_PROPERTIES, "Metadata")

Parts = list[dict[str, Any]]


class S3Objects(CloudObjects):
    """Objects below a prefix of one bucket. See `ObjectStore` for the methods."""

    def __init__(self, store: ArtifactStore, root: Root, purpose: Purpose) -> None:
        super().__init__(store.uri, root)
        profile = store.delete_credentials if purpose == "delete" else store.credentials
        # A delete is sent only once: when it is retried, the check before it could be minutes old.
        self._client, self._errors = connect(store.model_copy(update={"credentials": profile}), is_once=purpose == "delete")
        self._bucket = root.bucket

    def list(self, folder: str) -> Iterator[StoredObject]:
        """Yield every object below a folder, with its version if the bucket keeps versions."""
        ask = self._client.list_object_versions if self._keeps_versions else self._client.list_objects_v2
        prefix = self._folder(folder)
        for page in self._pages(ask, prefix):
            for found in page.get("Versions", page.get("Contents", [])):
                key = self._own(found["Key"], prefix)
                if found.get("IsLatest", True):
                    yield self._stored(key, found, found.get("Size"))

    def folders(self, folder: str) -> Iterator[str]:
        """Yield the names of the folders directly below a folder."""
        prefix = self._folder(folder)
        for page in self._pages(self._client.list_objects_v2, prefix, Delimiter="/"):
            for found in page.get("CommonPrefixes", []):
                self._own(found["Prefix"], prefix)
                yield found["Prefix"][len(prefix) :].rstrip("/")

    def head(self, key: str) -> StoredObject | None:
        """Return the current object, or None if S3 answers 404."""
        try:
            with self._translate_errors(f"look at {key!r}"):
                found = self._client.head_object(Bucket=self._bucket, Key=self._prefix + key)
        except NotDone as error:
            if _status(error.__cause__) == 404:
                return None
            raise
        return self._stored(key, found, found.get("ContentLength"))

    def read(self, obj: StoredObject) -> Iterator[bytes]:
        """Yield the bytes of the object while it has the same etag; if it has a version, those of that version.

        Raises NotDone if the object has changed, and OutcomeUnknown if bytes are missing or do not match the checksum.
        """
        request = {"Bucket": self._bucket, "Key": self._prefix + obj.key, "IfMatch": obj.etag}
        if obj.version is not None:
            request["VersionId"] = obj.version
        with self._translate_errors(f"read {obj.key!r}"):
            reply = self._client.get_object(**request)
        md5 = hashlib.md5(usedforsecurity=False)
        for chunk in self._whole(obj, reply["Body"].iter_chunks(CHUNK_BYTES)):
            md5.update(chunk)
            yield chunk
        # S3 User Guide, "Checking object integrity": the etag is the MD5 of the bytes if the object was written with one put request and is
        # not encrypted, or is encrypted with S3's own keys.
        is_md5 = _MD5.fullmatch(obj.etag) and reply.get("ServerSideEncryption") in (None, "AES256") and "SSECustomerAlgorithm" not in reply
        if is_md5 and obj.etag != f'"{md5.hexdigest()}"':
            raise OutcomeUnknown(
                self.uri, f"cannot read {obj.key!r} in {self.uri}: the received bytes do not match its checksum. Nothing was done."
            )

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
        """Write an object with one put request or an upload in parts. Raises NotDone if the key already exists."""
        part_size, is_one = _part_size(size, unlike)
        parts = exactly(self.uri, key, in_pieces(chunks, part_size), size)
        first = next(parts, b"")
        target = (
            {"Bucket": self._bucket, "Key": self._prefix + key}
            | ({} if storage_class is None else {"StorageClass": storage_class})
            | _write_options(metadata or {})
        )
        with self._translate_errors(f"write {key!r}"):
            if size <= part_size:
                next(parts, None)  # this compares the size before anything is sent
            if is_one:
                self._client.put_object(**target, Body=first, IfNoneMatch="*")
            else:
                self._write_parts(target, chain([first], parts))
        return self._written(key)

    def delete(self, obj: StoredObject) -> None:
        """Delete the object if it still has the same etag. If it has a version, remove that version permanently."""
        target = {"Bucket": self._bucket, "Key": self._prefix + obj.key}
        try:
            with self._translate_errors(f"delete {obj.key!r}"):
                self._client.delete_object(**target, IfMatch=obj.etag)
        except NotDone as error:
            if _status(error.__cause__) not in (404, 409, 412) or self.head(obj.key) is not None:
                raise
        if obj.version is not None:
            with self._translate_errors(f"delete version {obj.version} of {obj.key!r}"):
                self._client.delete_object(**target, VersionId=obj.version)

    def renew(self, obj: StoredObject) -> StoredObject:
        """Copy the object onto itself in a different number of parts, which changes its etag.

        Source and target must still have the old etag. Raises NotDone if they have not.
        """
        part_size, is_one = _part_size(obj.size, obj.etag)
        with self._translate_errors(f"renew {obj.key!r}"):
            target, source = self._onto_itself(obj, obj.storage_class)
            if is_one:
                self._client.copy_object(**target, **source, IfMatch=obj.etag, MetadataDirective="REPLACE", TaggingDirective="COPY")
            else:
                self._copy_parts(target, source, obj, part_size)
        return self._after(obj.key, f"cannot find {obj.key!r} in {self.uri} after it was renewed.")

    def set_class(self, obj: StoredObject, storage_class: str) -> StoredObject:
        """Copy the object onto itself with another storage class. Source and target must still have the old etag."""
        self._refuse_if_versions(obj, storage_class)
        with self._translate_errors(f"move {obj.key!r} to {storage_class}"):
            target, source = self._onto_itself(obj, storage_class)
            if obj.size <= ONE_COPY:
                self._client.copy_object(**target, **source, IfMatch=obj.etag, MetadataDirective="REPLACE", TaggingDirective="COPY")
            else:
                self._copy_parts(target, source, obj, COPY_PART)
        return self._moved(obj.key, storage_class)

    def clock(self) -> datetime:
        """Return the time of S3, from the headers of a reply."""
        with self._translate_errors("ask for the time"):
            headers = self._client.head_bucket(Bucket=self._bucket)["ResponseMetadata"]["HTTPHeaders"]
        return self._time(headers.get("date"))

    # --- inside ---------------------------------------------------------------------------------------------------------

    @cached_property
    def _keeps_versions(self) -> bool:
        with self._translate_errors("ask whether versions are kept"):
            return bool(self._client.get_bucket_versioning(Bucket=self._bucket).get("Status"))

    def _pages(self, ask: Any, prefix: str, **request: Any) -> Iterator[dict[str, Any]]:
        request |= {"Bucket": self._bucket, "Prefix": prefix}
        while True:
            with self._translate_errors(f"list {prefix!r}"):
                page = ask(**request)
            yield page
            if not page.get("IsTruncated"):
                return
            following = {
                asked: page.get(answered)
                for asked, answered in (
                    ("ContinuationToken", "NextContinuationToken"),
                    ("KeyMarker", "NextKeyMarker"),
                    ("VersionIdMarker", "NextVersionIdMarker"),
                )
                if page.get(answered)
            }
            if not following or following.items() <= request.items():
                raise SourceRefused(
                    self.uri, f"cannot list {self.uri}: a page announces another page but does not say where it begins. Nothing was moved."
                )
            request |= following

    def _stored(self, key: str, found: dict[str, Any], size: int | None) -> StoredObject:
        if size is None or not found.get("ETag") or found.get("LastModified") is None:
            raise SourceRefused(self.uri, f"cannot trust the answer of {self.uri}: {key!r} has no size, etag or time. Nothing was moved.")
        version = found.get("VersionId")
        metadata = portable_metadata(
            {name: found.get(field) for field, name in _PROPERTIES.items()}
            | {f"meta.{name}": value for name, value in found.get("Metadata", {}).items()}
        )
        return StoredObject(
            key,
            size,
            found["ETag"],
            version,
            found.get("StorageClass") or "STANDARD",
            found["LastModified"].astimezone(timezone.utc),
            metadata,
        )

    def _write_parts(self, target: dict[str, Any], parts: Iterator[bytes]) -> None:
        with self._upload(target) as (upload, done):
            for number, part in enumerate(parts, 1):
                reply = self._client.upload_part(**upload, PartNumber=number, Body=part)
                done.append({"PartNumber": number, "ETag": reply["ETag"]})
            self._client.complete_multipart_upload(**upload, MultipartUpload={"Parts": done}, IfNoneMatch="*")

    def _onto_itself(self, obj: StoredObject, storage_class: str) -> tuple[dict[str, Any], dict[str, Any]]:
        """Return the request parameters of target and source for copying an object onto itself."""
        target: dict[str, Any] = {"Bucket": self._bucket, "Key": self._prefix + obj.key}
        source = {"CopySource": {**target}, "CopySourceIfMatch": obj.etag}
        found = self._client.head_object(**target, IfMatch=obj.etag)
        return target | {"StorageClass": storage_class, **{name: found[name] for name in _KEPT if found.get(name)}}, source

    def _copy_parts(self, target: dict[str, Any], source: dict[str, Any], obj: StoredObject, part_size: int) -> None:
        """Copy an object onto itself in parts. Raises NotDone if it has tags, because such a copy would lose them."""
        if self._client.get_object_tagging(Bucket=target["Bucket"], Key=target["Key"])["TagSet"]:
            raise NotDone(
                self.uri,
                f"cannot copy {obj.key!r} in {self.uri} onto itself in parts: it has tags, which the copy would lose. Use a lifecycle rule of the bucket.",
            )
        with self._upload(target) as (upload, done):
            if not obj.size:  # an empty object has no parts to copy
                done.append({"PartNumber": 1, "ETag": self._client.upload_part(**upload, PartNumber=1, Body=b"")["ETag"]})
            for number, start in enumerate(range(0, obj.size, part_size), 1):
                reach = f"bytes={start}-{min(start + part_size, obj.size) - 1}"
                reply = self._client.upload_part_copy(**upload, **source, PartNumber=number, CopySourceRange=reach)
                done.append({"PartNumber": number, "ETag": reply["CopyPartResult"]["ETag"]})
            self._client.complete_multipart_upload(**upload, MultipartUpload={"Parts": done}, IfMatch=obj.etag)

    @contextmanager
    def _upload(self, target: dict[str, Any]) -> Iterator[tuple[dict[str, Any], Parts]]:
        """Start an upload in parts. If it fails, abort it, because its parts would be billed."""
        started = self._client.create_multipart_upload(**target)
        upload = {"Bucket": target["Bucket"], "Key": target["Key"], "UploadId": started["UploadId"]}
        try:
            yield upload, []
        except BaseException:
            self._client.abort_multipart_upload(**upload)
            raise

    @contextmanager
    def _translate_errors(self, what: str) -> Iterator[None]:
        """Turn an error of the S3 client into NotDone if the store refused the request, otherwise into OutcomeUnknown.

        `what` is the action, as a verb phrase.
        """
        try:
            yield
        except self._errors as error:
            status, text = _status(error), str(error).rstrip(". ")
            if status == 501 or (status is not None and 400 <= status < 500):
                raise NotDone(self.uri, f"cannot {what} in {self.uri}: {text}. Nothing was done.") from error
            raise OutcomeUnknown(self.uri, f"cannot tell whether {self.uri} did {what}: {text}.") from error


def _status(error: object) -> int | None:
    response = getattr(error, "response", None)
    return response.get("ResponseMetadata", {}).get("HTTPStatusCode") if isinstance(response, dict) else None


def _write_options(metadata: Mapping[str, str]) -> dict[str, Any]:
    """Return an object's properties as request parameters of a write. Values that are not ASCII are left out, as headers must be ASCII."""
    plain = {name: value for name, value in metadata.items() if value.isascii()}
    own = {name.removeprefix("meta."): value for name, value in plain.items() if name.startswith("meta.")}
    return {field: plain[name] for field, name in _PROPERTIES.items() if name in plain} | ({"Metadata": own} if own else {})


def _part_size(size: int, unlike: str | None) -> tuple[int, bool]:
    """Return the size of a part in bytes, and whether the object is written with one put request.

    With `unlike`, the number of parts differs from that of the object with this etag. Then equal bytes get another etag: that of one put
    request is the MD5 of the bytes, and that of an upload in parts ends in their number (S3 User Guide, "Checking object integrity").
    """
    part_size = max(PART_BYTES, -(-size // PARTS))
    parts = 0 if size <= part_size else -(-size // part_size)
    if unlike is not None and parts == _parts_of(unlike):
        part_size, parts = part_size * 2, 1 if parts == 0 else parts // 2
    return part_size, parts == 0


def _parts_of(etag: str) -> int:
    """Return the number of parts that an etag states, or 0 if the object was written with one put request."""
    found = _PARTS.search(etag)
    return int(found[1]) if found else 0
