"""Lists and reads bills in Google Cloud Storage and Azure Blob Storage through obstore.

Put here listing and reading. Connections to these stores are in `storage/blob_clients.py`; names, copying and S3 are in `file_sources.py`.
"""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import unquote, urlsplit

from runspend.config.settings import BillSource
from runspend.core.errors import SourceUnreachable
from runspend.ingest.billing.file_sources import CHUNK_BYTES, Bucket, Interrupted, Tell, changed, stamp_of
from runspend.storage.blob_clients import CannotReach, Container, blob_errors, explain, find_container, status_of

if TYPE_CHECKING:
    from obstore import GetOptions
    from obstore.store import AzureStore, GCSStore


def open_blobs(source: BillSource, uri: str, into: Path, tell: Tell) -> Bucket | None:
    """Return the bucket or container of a Google or Azure address, or None for an address of another kind."""
    try:
        container = find_container(uri, endpoint=source.endpoint, credentials=source.credentials, setting="billing[]")
    except CannotReach as error:
        raise _unreachable(source, error) from None
    return None if container is None else BlobPrefix(source, unquote(urlsplit(uri).path), into, tell, container)


class BlobPrefix(Bucket):
    """Everything below a prefix of a Google bucket or an Azure container."""

    def __init__(self, source: BillSource, prefix: str, into: Path, tell: Tell, container: Container) -> None:
        super().__init__(source, prefix, into, tell)
        self._container = container
        self._connected: GCSStore | AzureStore | None = None

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
            why = CannotReach(f"the store ended the transfer early in {self._name(key)} each time", "Check the network, or try again later")
            raise Interrupted(self._explain(str(error)) if status_of(str(error)) else _unreachable(self.source, why)) from None

    def _store(self) -> GCSStore | AzureStore:
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
        return _unreachable(self.source, explain(text, self._container))


def _unreachable(source: BillSource, error: CannotReach) -> SourceUnreachable:
    return SourceUnreachable(source.name, f"cannot read {source.uri} of bill {source.name}: {error}")
