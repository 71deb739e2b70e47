"""Open the objects of an artifact store, which is a local folder or is in S3, Azure or Google Cloud Storage."""

from __future__ import annotations

from typing import TYPE_CHECKING

from runspend.core.errors import NotDone
from runspend.storage.objects import ObjectStore, Purpose
from runspend.storage.uris import parse_root

if TYPE_CHECKING:
    from runspend.config.settings import ArtifactStore


def open_objects(store: ArtifactStore, purpose: Purpose) -> ObjectStore:
    """Return access to the objects of a configured store. No request is sent yet.

    Raises NotDone if the purpose is "delete" and the store has no `delete_credentials`. Raises SourceRefused for an unsupported kind of
    store.
    """
    root = parse_root(store)
    if purpose == "delete" and store.delete_credentials is None:
        raise NotDone(
            store.uri,
            f"cannot delete in {store.uri}: it has no `delete_credentials`. Name a profile that may delete there (`local` for a folder) in `stores`. Nothing was deleted.",
        )
    if root.scheme == "file":
        from runspend.storage.local_objects import LocalObjects

        return LocalObjects(store, root)
    if root.scheme == "s3":
        from runspend.storage.s3_objects import S3Objects

        return S3Objects(store, root, purpose)
    if root.scheme == "azure":
        from runspend.storage.azure_objects import AzureObjects

        return AzureObjects(store, root, purpose)
    from runspend.storage.google_objects import GoogleObjects

    return GoogleObjects(store, root, purpose)
