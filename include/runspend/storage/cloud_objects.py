"""The common part of the archive's objects in S3, Google Cloud Storage and Azure.

Belongs here: keys below a prefix, checks of names, and checks that all bytes arrived. Conditions, storage classes and versions differ
between the services and are in their own modules.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from datetime import datetime, timezone
from email.utils import parsedate_to_datetime

from runspend.core.errors import NotDone, OutcomeUnknown, SourceRefused
from runspend.storage.objects import KEEPS_VERSIONS, StoredObject
from runspend.storage.store_errors import CannotReach, StoreError
from runspend.storage.uris import Root


class CloudObjects(ABC):
    """Objects below a prefix of one bucket or container. Each service implements `head`."""

    def __init__(self, uri: str, root: Root) -> None:
        self.uri = uri
        self._prefix = f"{root.folder}/" if root.folder else ""

    @abstractmethod
    def head(self, key: str) -> StoredObject | None:
        """Return the current object, or None if the service answers that it does not exist."""

    def prune(self, folder: str) -> None:  # noqa: B027 (not abstract: it has nothing to do)
        """Do nothing, because cloud stores have no empty folders."""

    @property
    def _keeps_versions(self) -> bool:
        """Whether changing the storage class leaves the old bytes as a version. False for Azure; the other services are asked once."""
        return False

    def why_no_tier(self) -> str | None:
        """Return why `set_class` is refused for all objects in this store, or None if it is allowed."""
        return KEEPS_VERSIONS if self._keeps_versions else None

    def _refuse_if_versions(self, obj: StoredObject, storage_class: str) -> None:
        if why := self.why_no_tier():
            raise NotDone(self.uri, f"cannot move {obj.key!r} in {self.uri} to {storage_class}: {why}. Nothing was done.")

    def _folder(self, folder: str) -> str:
        return f"{self._prefix}{folder}/" if folder else self._prefix

    def _name(self, key: str) -> str:
        """Return the full name of a key in the bucket. A name that ends in "/" marks an empty folder.

        Raises NotDone if the key has an empty part, "." or "..".
        """
        if any(part in ("", ".", "..") for part in key.removesuffix("/").split("/")):
            raise NotDone(self.uri, f"cannot use {key!r} in {self.uri}: a service may read it ambiguously. Nothing was done.")
        return self._prefix + key

    def _own(self, name: str, prefix: str) -> str:
        """Return the key of a full name in a listing of `prefix`. Raises SourceRefused if the name does not begin with `prefix`."""
        if not name.startswith(prefix):
            raise SourceRefused(
                self.uri, f"cannot trust the listing of {self.uri}: it contains {name!r}, which was not requested. Nothing was moved."
            )
        return name[len(self._prefix) :]

    def _whole(self, obj: StoredObject, pieces: Iterable[bytes]) -> Iterator[bytes]:
        """Yield the pieces of an object. Raises OutcomeUnknown at the end if fewer or more bytes arrived than the object has."""
        size = 0
        with self._translate_errors(f"read {obj.key!r}"):
            for piece in pieces:
                size += len(piece)
                yield piece
        if size != obj.size:
            raise OutcomeUnknown(
                self.uri, f"cannot read {obj.key!r} in {self.uri}: {size} bytes arrived instead of {obj.size}. Nothing was done."
            )

    def _after(self, key: str, unknown: str) -> StoredObject:
        """Return the object after a successful change. Raises OutcomeUnknown with the text `unknown` if it does not exist."""
        found = self.head(key)
        if found is None:
            raise OutcomeUnknown(self.uri, unknown)
        return found

    def _written(self, key: str) -> StoredObject:
        return self._after(key, f"cannot write {key!r} in {self.uri}: the store confirmed the write, but the object does not exist.")

    def _moved(self, key: str, storage_class: str) -> StoredObject:
        return self._after(key, f"cannot find {key!r} in {self.uri} after it was moved to {storage_class}.")

    def _time(self, date: str | None) -> datetime:
        """Return the time of a Date header in UTC. Raises NotDone if the header is missing."""
        if not date:
            raise NotDone(self.uri, f"cannot get the time of {self.uri}: its replies have no date.")
        return parsedate_to_datetime(date).astimezone(timezone.utc)

    @contextmanager
    def _translate_errors(self, what: str) -> Iterator[None]:
        """Turn an error of the service into NotDone if it refused or no request was sent, otherwise into OutcomeUnknown.

        `what` is the action, as a verb phrase.
        """
        try:
            yield
        except CannotReach as error:
            raise NotDone(self.uri, f"cannot {what} in {self.uri}: {error} Nothing was done.") from error
        except StoreError as error:
            if error.is_refusal:
                raise NotDone(self.uri, f"cannot {what} in {self.uri}: {error}. Nothing was done.") from error
            raise OutcomeUnknown(self.uri, f"cannot tell whether {self.uri} did {what}: {error}.") from error


def refusal_status(error: NotDone) -> int | None:
    """Return the HTTP status of the service's refusal, or None if the error does not come from the service."""
    return error.__cause__.status if isinstance(error.__cause__, StoreError) else None
