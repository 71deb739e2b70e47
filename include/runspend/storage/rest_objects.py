"""Shared code for archive objects at Google and at Azure: keys below a prefix, checked names, checked replies.

Conditions, classes and versions are in each service's module.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from datetime import datetime, timezone
from email.utils import parsedate_to_datetime
from typing import Any

from runspend.core.errors import NotDone, OutcomeUnknown, SourceRefused
from runspend.storage.objects import CHUNK_BYTES, StoredObject
from runspend.storage.rest import RestError
from runspend.storage.uris import Root

__all__ = ["RestObjects", "refusal_status"]


class RestObjects(ABC):
    """Objects below a prefix of one bucket or container. Each service implements `head`."""

    def __init__(self, uri: str, root: Root) -> None:
        self.uri = uri
        self._prefix = f"{root.folder}/" if root.folder else ""

    @abstractmethod
    def head(self, key: str) -> StoredObject | None:
        """Return the current object."""

    def prune(self, folder: str) -> None:  # noqa: B027 - nothing to do here is the whole of it
        """Do nothing: there are no folders that could remain."""

    def _folder(self, folder: str) -> str:
        return f"{self._prefix}{folder}/" if folder else self._prefix

    def _name(self, key: str) -> str:
        """Return the object name of a key in the bucket; a key that ends in "/" is the marker of a folder."""
        if any(part in ("", ".", "..") for part in key.removesuffix("/").split("/")):
            raise NotDone(self.uri, f"cannot use {key!r} in {self.uri}: a service may read it ambiguously. Nothing was done.")
        return self._prefix + key

    def _own(self, name: str, prefix: str) -> str:
        """Return the key of a name in a listing of `prefix`."""
        if not name.startswith(prefix):
            raise SourceRefused(self.uri, f"cannot believe the listing of {self.uri}: it contains {name!r}, which was not requested. Nothing was moved.")
        return name[len(self._prefix) :]

    def _read(self, obj: StoredObject, request: AbstractContextManager[Any]) -> Iterator[bytes]:
        """Yield all bytes of a reply."""
        size = 0
        with self._words(f"read {obj.key!r}"), request as reply:
            while chunk := reply.read(CHUNK_BYTES):
                size += len(chunk)
                yield chunk
        if size != obj.size:
            raise OutcomeUnknown(self.uri, f"cannot read {obj.key!r} in {self.uri}: {size} bytes arrived instead of {obj.size}. Nothing was done.")

    def _after(self, key: str, told: str) -> StoredObject:
        """Return the object after a change that the store confirmed. `told`: the error if it does not exist."""
        found = self.head(key)
        if found is None:
            raise OutcomeUnknown(self.uri, told)
        return found

    def _written(self, key: str) -> StoredObject:
        return self._after(key, f"cannot write {key!r} in {self.uri}: the store confirmed the write, but the object does not exist.")

    def _moved(self, key: str, storage_class: str) -> StoredObject:
        return self._after(key, f"cannot find {key!r} in {self.uri} after it was moved to {storage_class}.")

    def _time_of(self, request: AbstractContextManager[Any]) -> datetime:
        """Return the time in the headers of a reply."""
        with self._words("ask for the time"), request as reply:
            date = reply.headers.get("Date")
        if not date:
            raise NotDone(self.uri, f"cannot get the time of {self.uri}: its replies have no date.")
        return parsedate_to_datetime(date).astimezone(timezone.utc)

    @contextmanager
    def _words(self, what: str) -> Iterator[None]:
        """Raise NotDone if the service refused, OutcomeUnknown if it did not answer clearly."""
        try:
            yield
        except RestError as error:
            if error.is_refusal:
                raise NotDone(self.uri, f"cannot {what} in {self.uri}: {error}. Nothing was done.") from error
            raise OutcomeUnknown(self.uri, f"cannot tell whether {self.uri} did {what}: {error}.") from error


def refusal_status(error: NotDone) -> int | None:
    """Return the status with which a service refused; None if it did not."""
    return error.__cause__.status if isinstance(error.__cause__, RestError) else None
