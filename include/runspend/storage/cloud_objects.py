"""The common part of the archive's objects at S3, Google and Azure: keys below a prefix, checked names, counted replies.

Conditions, classes and versions are each service's own and stay in its module.
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
    """Objects below a prefix of one bucket or container. `head` is the service's own."""

    def __init__(self, uri: str, root: Root) -> None:
        self.uri = uri
        self._prefix = f"{root.folder}/" if root.folder else ""

    @abstractmethod
    def head(self, key: str) -> StoredObject | None:
        """The object as it is now."""

    def prune(self, folder: str) -> None:  # noqa: B027 - nothing to do here is the whole of it
        """There are no folders that could remain."""

    @property
    def _keeps_versions(self) -> bool:
        """Whether a change of the storage class leaves the old bytes as a version. At Azure it does not; the others are asked once."""
        return False

    def why_no_tier(self) -> str | None:
        """Return why `set_class` is refused for every object here; None if it is not."""
        return KEEPS_VERSIONS if self._keeps_versions else None

    def _refuse_if_versions(self, obj: StoredObject, storage_class: str) -> None:
        if why := self.why_no_tier():
            raise NotDone(self.uri, f"cannot move {obj.key!r} in {self.uri} to {storage_class}: {why}. Nothing was done.")

    def _folder(self, folder: str) -> str:
        return f"{self._prefix}{folder}/" if folder else self._prefix

    def _name(self, key: str) -> str:
        """The name of a key in the bucket; one that ends in "/" is the marker of a folder."""
        if any(part in ("", ".", "..") for part in key.removesuffix("/").split("/")):
            raise NotDone(self.uri, f"cannot use {key!r} in {self.uri}: a service may read it ambiguously. Nothing was done.")
        return self._prefix + key

    def _own(self, name: str, prefix: str) -> str:
        """The key of a name that a listing of `prefix` gave."""
        if not name.startswith(prefix):
            raise SourceRefused(
                self.uri, f"cannot trust the listing of {self.uri}: it contains {name!r}, which was not requested. Nothing was moved."
            )
        return name[len(self._prefix) :]

    def _whole(self, obj: StoredObject, pieces: Iterable[bytes]) -> Iterator[bytes]:
        """All bytes of an object."""
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
        """Return the object after a successful change. `unknown`: the error if it is not there."""
        found = self.head(key)
        if found is None:
            raise OutcomeUnknown(self.uri, unknown)
        return found

    def _written(self, key: str) -> StoredObject:
        return self._after(key, f"cannot write {key!r} in {self.uri}: the store confirmed the write, but the object does not exist.")

    def _moved(self, key: str, storage_class: str) -> StoredObject:
        return self._after(key, f"cannot find {key!r} in {self.uri} after it was moved to {storage_class}.")

    def _time(self, date: str | None) -> datetime:
        """The time of a Date header."""
        if not date:
            raise NotDone(self.uri, f"cannot get the time of {self.uri}: its replies have no date.")
        return parsedate_to_datetime(date).astimezone(timezone.utc)

    @contextmanager
    def _translate_errors(self, what: str) -> Iterator[None]:
        """NotDone if the service refused or was not asked, OutcomeUnknown if its answer does not say."""
        try:
            yield
        except CannotReach as error:
            raise NotDone(self.uri, f"cannot {what} in {self.uri}: {error} Nothing was done.") from error
        except StoreError as error:
            if error.is_refusal:
                raise NotDone(self.uri, f"cannot {what} in {self.uri}: {error}. Nothing was done.") from error
            raise OutcomeUnknown(self.uri, f"cannot tell whether {self.uri} did {what}: {error}.") from error


def refusal_status(error: NotDone) -> int | None:
    """The status with which a service refused; None where none did."""
    return error.__cause__.status if isinstance(error.__cause__, StoreError) else None
