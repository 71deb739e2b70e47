"""Lists and reads bills in Google Cloud Storage and Azure Blob Storage.

Connections to these stores are in `storage/google.py` and `storage/azure.py`; names, copying and S3 are in `file_sources.py`.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

from runspend.config.settings import BillSource
from runspend.core.errors import SourceUnreachable
from runspend.ingest.billing.file_sources import Bucket, Interrupted, Tell, changed, stamp_of
from runspend.storage import azure, google
from runspend.storage.azure import AzureContainer, is_azure
from runspend.storage.google import GoogleBucket, md5_of
from runspend.storage.store_errors import CannotReach, StoreError, explain


def open_blobs(source: BillSource, uri: str, into: Path, tell: Tell) -> Bucket | None:
    """Return the bucket or container of a Google or Azure address, or None for an address of another kind."""
    if uri.startswith("gs://"):
        return GooglePrefix(source, uri, into, tell)
    return AzurePrefix(source, uri, into, tell) if is_azure(uri) else None


class BlobPrefix(Bucket):
    """Everything below a prefix of a Google bucket or an Azure container."""

    what = reader = ""  # the bucket or container, and the right that reading needs

    @contextmanager
    def _errors(self, reading: str | None = None) -> Iterator[None]:
        """Raise the store's errors as the source's error. `reading` is the key of an object whose bytes are coming."""
        try:
            yield
        except CannotReach as error:
            raise _unreachable(self.source, error) from None
        except StoreError as error:
            if reading and error.status in (404, 412):
                raise changed(self.source, self._name(reading) or reading) from None
            why = explain(error, self.what, self.reader, "billing[]")
            if not reading:
                raise _unreachable(self.source, why) from None
            if error.status is None:
                why = CannotReach(f"the store ended the transfer early in {self._name(reading)} each time", "Check the network, or try again later")
            raise Interrupted(_unreachable(self.source, why)) from None


class GooglePrefix(BlobPrefix):
    """Everything below a prefix of a Google bucket."""

    reader = google.READER

    def __init__(self, source: BillSource, uri: str, into: Path, tell: Tell) -> None:
        parts = urlsplit(uri)
        super().__init__(source, unquote(parts.path), into, tell)
        credentials = None if source.credentials is None else str(source.credentials)
        self._bucket = GoogleBucket(parts.netloc, endpoint=source.endpoint, credentials=credentials, setting="billing[]")
        self.what = f"bucket {parts.netloc}"

    def list_objects(self) -> Iterator[tuple[str, int, datetime, str | None]]:
        with self._errors():
            for page, _ in self._bucket.pages(self.prefix, versions=False):
                for found in page:
                    yield found.name, found.size, found.updated, _stamp(found)

    def read_object(self, key: str, stamp: str | None, start: int) -> Iterator[bytes]:
        with self._errors():
            found = self._bucket.look(key)
        if found is None or (stamp and stamp_of(_stamp(found)) != stamp):
            raise changed(self.source, self._name(key) or key)
        with self._errors(reading=key):
            yield from self._bucket.read(key, str(found.generation), found.size, start)


class AzurePrefix(BlobPrefix):
    """Everything below a prefix of an Azure container."""

    reader = azure.READER

    def __init__(self, source: BillSource, uri: str, into: Path, tell: Tell) -> None:
        super().__init__(source, unquote(urlsplit(uri).path), into, tell)
        with self._errors():
            self._container = AzureContainer(uri, endpoint=source.endpoint, credentials=source.credentials, setting="billing[]")
        self.what = self._container.what

    def list_objects(self) -> Iterator[tuple[str, int, datetime, str | None]]:
        with self._errors():
            for blobs, _, _ in self._container.pages(self.prefix):
                for blob in blobs:
                    if blob.size is not None and blob.modified is not None:
                        yield blob.name, blob.size, blob.modified, blob.etag.strip('"')

    def read_object(self, key: str, stamp: str | None, start: int) -> Iterator[bytes]:
        with self._errors(reading=key):
            yield from self._container.read(key, stamp, start)


def _stamp(found: Any) -> str | None:
    """Return the MD5 of an object of Google's, which stays if the same bytes are written again; of a composite object its ETag."""
    return md5_of(found.md5_hash) or found.etag


def _unreachable(source: BillSource, error: CannotReach) -> SourceUnreachable:
    return SourceUnreachable(source.name, f"cannot read {source.uri} of bill {source.name}: {error}")
