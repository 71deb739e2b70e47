"""Flat listing of an Azure container or a Google bucket.

`storage/google.py`, and with a token `storage/azure.py`, give classes, checksums and versions, and an interrupted listing continues
where it stopped. Azure with a machine identity is listed through obstore. It gives neither storage classes nor noncurrent versions:
the class is UNKNOWN, which bills of any class match. Its listing starts over.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from runspend.core.errors import SourceError, SourceRefused, SourceUnreachable
from runspend.storage.azure import AzureContainer, Blob, has_token
from runspend.storage.blob_clients import CannotReach, Container, StoreError, blob_errors, explain, explain_text, find_container
from runspend.storage.google import READER, GoogleBucket, md5_of, microseconds
from runspend.storage.listing import FolderTotals, Listing, Page, checksum_of
from runspend.storage.rest import RestError
from runspend.storage.uris import Root

if TYPE_CHECKING:
    from obstore.store import AzureStore, GCSStore

    from runspend.config.settings import ArtifactStore

UNKNOWN_CLASS = "UNKNOWN"
_REFUSALS = ("lack the rights", "not a Google key file", "are of type", "cannot be used")


def list_blobs(
    store: ArtifactStore, root: Root, listing: Listing, after: dict[str, str] | None = None, *, page_size: int = 1000
) -> Iterator[Page]:
    """Yield pages of objects below the root. Raises SourceUnreachable or SourceRefused, also midway."""
    if tells_classes(store, root):
        yield from (_list_azure if root.scheme == "azure" else _list_google)(store, root, listing, after or {}, page_size)
        return
    import obstore

    container = _container(store)
    connected = _connect(store, container)
    prefix = f"{root.folder}/" if root.folder else ""
    try:
        for page in obstore.list(connected, prefix=prefix or None, chunk_size=page_size):
            listing.requests += 1
            yield Page([_row(store, prefix, item["path"], item["size"], item["last_modified"].timestamp(), item["e_tag"]) for item in page])
    except FileNotFoundError:
        raise _unreachable(store, CannotReach(f"there is no {container.what}", "Check stores[].uri and endpoint")) from None
    except blob_errors() as error:
        raise _unreachable(store, explain_text(str(error), container)) from None


def tells_classes(store: ArtifactStore, root: Root) -> bool:
    """Return whether the listing of a bucket or container gives the class of each object."""
    return root.scheme != "azure" or has_token(store.credentials)


def _list_azure(store: ArtifactStore, root: Root, listing: Listing, after: dict[str, str], page_size: int) -> Iterator[Page]:
    """List with versions if the account gives them. If it refuses, versions are unknown, and the first page is requested again."""
    container = AzureContainer(root, endpoint=store.endpoint, credentials=store.credentials)
    prefix, marker = f"{root.folder}/" if root.folder else "", after.get("marker", "")
    tells_versions = after.get("versions", "yes") == "yes"
    while True:
        try:
            for blobs, _, following in container.list(prefix, marker=marker, page_size=page_size, versions=tells_versions):
                listing.requests += 1
                rows = [_blob_row(store, prefix, blob, 0 if tells_versions else None) for blob in blobs]
                yield Page(rows, {"marker": following, "versions": "yes" if tells_versions else "no"} if following else None)
            return
        except RestError as error:
            if not tells_versions or marker or listing.requests or error.status not in (400, 403):
                raise _unreachable(store, _explain(error, root)) from None
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
            yield Page([_object_row(store, prefix, found) for found in page.raw_page.get("items", ())], {"token": following} if following else None)
    except CannotReach as error:
        raise _unreachable(store, error) from None
    except StoreError as error:
        raise _unreachable(store, explain(error, f"bucket {root.bucket}", READER, "stores[]")) from None


def _object_row(store: ArtifactStore, prefix: str, found: dict[str, Any]) -> FolderTotals:
    folder, storage_class = _folder(store, prefix, str(found.get("name"))), str(found.get("storageClass") or UNKNOWN_CLASS)
    size = int(found["size"]) if found.get("size") else None
    if found.get("timeDeleted"):
        return FolderTotals(folder, storage_class, 0, 0, None, None, 1, size)
    at = microseconds(found.get("updated"))
    return FolderTotals(folder, storage_class, 1, size, at, at, checksum=checksum_of(md5_of(found.get("md5Hash"))) if size else None)


def _explain(error: RestError, root: Root) -> CannotReach:
    what = f"bucket {root.bucket}" if root.scheme == "gs" else "container " + root.bucket.partition(".")[0].replace("@", " in account ")
    if error.status in (401, 403):
        return CannotReach(f"the credentials lack the rights to read it ({error})", "Check them: they need read and list, and may have expired")
    if error.status == 404:
        return CannotReach(f"there is no {what} ({error})", "Check stores[].uri and endpoint")
    if error.status is not None and 300 <= error.status < 400:
        return CannotReach(f"the store redirects ({error}), and Runspend does not follow redirects", "Check endpoint")
    return CannotReach(f"the store answered {error}" if error.status else f"the store did not answer ({error.code})", "Check the network and endpoint, or try again later")


def _folder(store: ArtifactStore, prefix: str, key: str) -> str:
    """Return the folder of a key below the root. A key outside the root is refused."""
    if not key.startswith(prefix):
        raise SourceRefused(
            store.uri, f"cannot believe the listing of {store.uri}: it contains {key!r}, which was not requested. Figures stay as they were."
        )
    return key[len(prefix) :].rpartition("/")[0]


def _row(store: ArtifactStore, prefix: str, key: str, size: int, modified: float, etag: str | None) -> FolderTotals:
    at = round(modified * 1_000_000)
    return FolderTotals(_folder(store, prefix, key), UNKNOWN_CLASS, 1, size, at, at, None, None, checksum_of(etag) if size else None)


def _container(store: ArtifactStore) -> Container:
    try:
        container = find_container(store.uri, endpoint=store.endpoint, credentials=store.credentials, setting="stores[]")
    except CannotReach as error:
        raise _unreachable(store, error) from None
    assert container is not None  # parse_root knows no other kind
    return container


def _connect(store: ArtifactStore, container: Container) -> GCSStore | AzureStore:
    try:
        return container.connect()
    except CannotReach as error:
        raise _unreachable(store, error) from None
    except blob_errors():
        raise _unreachable(store, CannotReach("its credentials cannot be used", "Check stores[].credentials")) from None


def _unreachable(store: ArtifactStore, error: CannotReach) -> SourceError:
    kind = SourceRefused if any(words in error.why for words in _REFUSALS) else SourceUnreachable
    return kind(store.uri, f"cannot list {store.uri}: {error} Figures stay as they were.")
