"""List an Azure container or a Google bucket, with storage classes, checksums and versions.

An interrupted listing can continue where it stopped.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from runspend.core.errors import SourceError, SourceRefused, SourceUnreachable
from runspend.storage import azure, google
from runspend.storage.azure import AzureContainer, Blob
from runspend.storage.google import GoogleBucket, microseconds
from runspend.storage.listing import FolderTotals, Listing, Page, checksum_of, md5_of
from runspend.storage.store_errors import CannotReach, StoreError, explain
from runspend.storage.uris import Root

if TYPE_CHECKING:
    from runspend.config.settings import ArtifactStore

UNKNOWN_CLASS = "UNKNOWN"
_REFUSALS = ("lack the rights", "not a Google key file", "are of type", "cannot be used", "no Google log-in")


def list_blobs(
    store: ArtifactStore, root: Root, listing: Listing, after: dict[str, str] | None = None, *, page_size: int = 1000
) -> Iterator[Page]:
    """Yield pages of the objects below the root. If `after` is given, continue after that position.

    Raises SourceUnreachable or SourceRefused if the store cannot be listed, possibly after some pages.
    """
    try:
        yield from (_list_azure if root.scheme == "azure" else _list_google)(store, root, listing, after or {}, page_size)
    except CannotReach as error:
        raise _unreachable(store, error) from None


def _list_azure(store: ArtifactStore, root: Root, listing: Listing, after: dict[str, str], page_size: int) -> Iterator[Page]:
    """List a container with its versions.

    If the account refuses to list versions, the first page is requested again without them, and noncurrent versions are unknown.
    """
    container = AzureContainer(store.uri, endpoint=store.endpoint, credentials=store.credentials)
    prefix, marker = f"{root.folder}/" if root.folder else "", after.get("marker", "")
    tells_versions = after.get("versions", "yes") == "yes"
    while True:
        try:
            for blobs, _, following in container.pages(prefix, marker=marker, page_size=page_size, versions=tells_versions):
                listing.requests += 1
                rows = [_blob_row(store, prefix, blob, 0 if tells_versions else None) for blob in blobs]
                yield Page(rows, {"marker": following, "versions": "yes" if tells_versions else "no"} if following else None)
            return
        except StoreError as error:
            if not tells_versions or marker or listing.requests or error.status not in (400, 403):
                raise explain(error, container.what, azure.READER, "stores[]") from None
            tells_versions = False
            listing.notes.append(f"noncurrent versions in {store.uri} are unknown: {error}.")


def _blob_row(store: ArtifactStore, prefix: str, blob: Blob, unknown: int | None) -> FolderTotals:
    folder = _folder(store, prefix, blob.name)
    if not blob.is_current:
        return FolderTotals(folder, blob.tier, 0, 0, None, None, 1, blob.size)
    at = None if blob.modified is None else int(blob.modified.timestamp()) * 1_000_000
    return FolderTotals(folder, blob.tier, 1, blob.size, at, at, unknown, unknown, checksum_of(blob.md5) if blob.size else None)


def _list_google(store: ArtifactStore, root: Root, listing: Listing, after: dict[str, str], page_size: int) -> Iterator[Page]:
    credentials = None if store.credentials is None else str(store.credentials)
    bucket, prefix = GoogleBucket(root.bucket, endpoint=store.endpoint, credentials=credentials), f"{root.folder}/" if root.folder else ""
    try:
        for page, following in bucket.pages(prefix, token=after.get("token", ""), page_size=page_size):
            listing.requests += 1
            yield Page(
                [_object_row(store, prefix, found) for found in page.raw_page.get("items", ())], {"token": following} if following else None
            )
    except StoreError as error:
        raise explain(error, f"bucket {root.bucket}", google.READER, "stores[]") from None


def _object_row(store: ArtifactStore, prefix: str, found: dict[str, Any]) -> FolderTotals:
    folder, storage_class = _folder(store, prefix, str(found.get("name"))), str(found.get("storageClass") or UNKNOWN_CLASS)
    size = int(found["size"]) if found.get("size") else None
    if found.get("timeDeleted"):
        return FolderTotals(folder, storage_class, 0, 0, None, None, 1, size)
    at = microseconds(found.get("updated"))
    return FolderTotals(folder, storage_class, 1, size, at, at, checksum=checksum_of(md5_of(found.get("md5Hash"))) if size else None)


def _folder(store: ArtifactStore, prefix: str, key: str) -> str:
    """Return the folder of a key relative to the root. Raises SourceRefused for a key outside the root."""
    if not key.startswith(prefix):
        raise SourceRefused(
            store.uri,
            f"cannot trust the listing of {store.uri}: it contains {key!r}, which was not requested. Figures stay as they were.",
        )
    return key[len(prefix) :].rpartition("/")[0]


def _unreachable(store: ArtifactStore, error: CannotReach) -> SourceError:
    kind = SourceRefused if any(words in error.why for words in _REFUSALS) else SourceUnreachable
    return kind(store.uri, f"cannot list {store.uri}: {error} Figures stay as they were.")
