"""Lists and reads bills in Google Cloud Storage, and in Azure Blob Storage through obstore.

Put here listing and reading. Connections to these stores are in `storage/blob_clients.py`; names, copying and S3 are in `file_sources.py`.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote, urlsplit

from runspend.config.settings import BillSource
from runspend.core.errors import SourceUnreachable
from runspend.ingest.billing.file_sources import CHUNK_BYTES, Bucket, Interrupted, Tell, changed, stamp_of
from runspend.storage.blob_clients import CannotReach, Container, StoreError, blob_errors, explain, explain_text, find_container, status_of
from runspend.storage.google import READER, GoogleBucket, md5_of

if TYPE_CHECKING:
    from obstore import GetOptions
    from obstore.store import AzureStore


def open_blobs(source: BillSource, uri: str, into: Path, tell: Tell) -> Bucket | None:
    """Return the bucket or container of a Google or Azure address, or None for an address of another kind."""
    if uri.startswith("gs://"):
        return GooglePrefix(source, uri, into, tell)
    try:
        container = find_container(uri, endpoint=source.endpoint, credentials=source.credentials, setting="billing[]")
    except CannotReach as error:
        raise _unreachable(source, error) from None
    return None if container is None else BlobPrefix(source, unquote(urlsplit(uri).path), into, tell, container)


class GooglePrefix(Bucket):
    """Everything below a prefix of a Google bucket."""

    def __init__(self, source: BillSource, uri: str, into: Path, tell: Tell) -> None:
        parts = urlsplit(uri)
        super().__init__(source, unquote(parts.path), into, tell)
        credentials = None if source.credentials is None else str(source.credentials)
        self._bucket = GoogleBucket(parts.netloc, endpoint=source.endpoint, credentials=credentials, setting="billing[]")

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
        try:
            yield from self._bucket.read(key, str(found.generation), found.size, start)
        except StoreError as error:
            if error.status in (404, 412):
                raise changed(self.source, self._name(key) or key) from None
            raise Interrupted(_broke_off(self.source, self._name(key)) if error.status is None else self._explain(error)) from None

    @contextmanager
    def _errors(self) -> Iterator[None]:
        try:
            yield
        except CannotReach as error:
            raise _unreachable(self.source, error) from None
        except StoreError as error:
            raise self._explain(error) from None

    def _explain(self, error: StoreError) -> SourceUnreachable:
        return _unreachable(self.source, explain(error, f"bucket {self._bucket.name}", READER, "billing[]"))


def _stamp(found: Any) -> str | None:
    """Return the MD5 of an object of Google's, which stays if the same bytes are written again; of a composite object its ETag."""
    return md5_of(found.md5_hash) or found.etag


class BlobPrefix(Bucket):
    """Everything below a prefix of an Azure container."""

    def __init__(self, source: BillSource, prefix: str, into: Path, tell: Tell, container: Container) -> None:
        super().__init__(source, prefix, into, tell)
        self._container = container
        self._connected: AzureStore | None = None

    def list_objects(self) -> Iterator[tuple[str, int, datetime, str | None]]:
        import obstore

        is_empty = True
        try:
            for page in obstore.list(self._store(), prefix=self.prefix or None):
                for item in page:
                    is_empty = False
                    yield item["path"], item["size"], item["last_modified"], item["e_tag"]
            if is_empty and self.prefix:  # obstore lists only folders, and the address may be that of one file
                item = obstore.head(self._store(), self.prefix)
                yield item["path"], item["size"], item["last_modified"], item["e_tag"]
        except FileNotFoundError:
            return
        except blob_errors() as error:
            raise self._explain(str(error)) from None

    def read_object(self, key: str, stamp: str | None, start: int) -> Iterator[memoryview]:
        import obstore
        from obstore.exceptions import PreconditionError

        options: GetOptions = {}
        if stamp:
            options["if_match"] = f'"{stamp}"'
        if start:
            options["range"] = {"offset": start}
        try:
            got = obstore.get(self._store(), key, options=options)
            # Compare the ETag of the answer as well: some servers ignore conditions.
            if stamp and stamp_of(got.meta["e_tag"]) != stamp:
                raise changed(self.source, self._name(key) or key)
            chunks = iter(got.stream(min_chunk_size=CHUNK_BYTES))
        except (FileNotFoundError, PreconditionError):
            raise changed(self.source, self._name(key) or key) from None
        except blob_errors() as error:
            raise self._explain(str(error)) from None
        try:
            for chunk in chunks:
                yield memoryview(chunk)
        except blob_errors() as error:
            raise Interrupted(self._explain(str(error)) if status_of(str(error)) else _broke_off(self.source, self._name(key))) from None

    def _store(self) -> AzureStore:
        if self._connected is None:
            try:
                self._connected = self._container.connect()
            except CannotReach as error:
                raise _unreachable(self.source, error) from None
            except blob_errors():
                why = CannotReach("its credentials cannot be used", "Check billing[].credentials")
                raise _unreachable(self.source, why) from None
        return self._connected

    def _explain(self, text: str) -> SourceUnreachable:
        return _unreachable(self.source, explain_text(text, self._container))


def _broke_off(source: BillSource, name: str | None) -> SourceUnreachable:
    return _unreachable(source, CannotReach(f"the store broke off in the middle of {name} each time", "Check the network, or try again later"))


def _unreachable(source: BillSource, error: CannotReach) -> SourceUnreachable:
    return SourceUnreachable(source.name, f"cannot read {source.uri} of bill {source.name}: {error}")
