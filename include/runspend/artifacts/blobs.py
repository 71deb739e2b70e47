"""Flat listing of a bucket of Google or a container of Azure through obstore: one request per 1,000 (Google) or 5,000 (Azure) objects.

obstore tells neither storage classes nor versions that are not current: the class is UNKNOWN, which bills of any class match.
Google's listing goes on after a name; Azure's cannot, and is read from its beginning again.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from runspend.artifacts.listing import FolderTotals, Listing, Page, checksum_of
from runspend.artifacts.roots import Root
from runspend.blob_clients import CannotReach, Container, blob_errors, explain, find_container
from runspend.errors import SourceError, SourceRefused, SourceUnreachable

if TYPE_CHECKING:
    from obstore.store import AzureStore, GCSStore

    from runspend.config import ArtifactStore

UNKNOWN_CLASS = "UNKNOWN"
_REFUSALS = ("no right to it", "no key file", "are of type", "cannot be used")


def list_blobs(
    store: ArtifactStore, root: Root, listing: Listing, after: dict[str, str] | None = None, *, page_size: int = 1000
) -> Iterator[Page]:
    """Pages of objects below the root. Raises SourceUnreachable or SourceRefused, also half-way."""
    import obstore

    container = _container(store)
    connected = _connect(store, container)
    prefix = f"{root.folder}/" if root.folder else ""
    is_resumable = root.scheme == "gs"
    offset = (after or {}).get("key") if is_resumable else None
    try:
        for page in obstore.list(connected, prefix=prefix or None, offset=offset, chunk_size=page_size):
            listing.requests += 1
            rows = [
                _row(store, prefix, item["path"], item["size"], item["last_modified"].timestamp(), item["e_tag"])
                for item in page
                if offset is None or item["path"] > offset  # a server that does not know offsets begins again
            ]
            yield Page(rows, {"key": page[-1]["path"]} if is_resumable else None)
    except FileNotFoundError:
        raise _unreachable(store, CannotReach(f"there is no {container.what}", "Check stores[].uri and endpoint")) from None
    except blob_errors() as error:
        raise _unreachable(store, explain(str(error), container)) from None


def _row(store: ArtifactStore, prefix: str, key: str, size: int, modified: float, etag: str | None) -> FolderTotals:
    if not key.startswith(prefix):
        raise SourceRefused(
            store.uri, f"cannot believe the listing of {store.uri}: it answered with {key!r}. Figures stay as they were."
        )
    at = round(modified * 1_000_000)
    return FolderTotals(key[len(prefix) :].rpartition("/")[0], UNKNOWN_CLASS, 1, size, at, at, None, None, checksum_of(etag) if size else None)


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
