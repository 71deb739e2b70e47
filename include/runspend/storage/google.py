"""Access one bucket of Google Cloud Storage through Google's own client (extra `gcs`).

Every failure becomes a StoreError with a status and a code. Google's own messages are not passed on, because they quote addresses. Pages of
a listing are requested again if the store is busy. All other requests are sent once, because a repeated change would conflict with its
first attempt.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from datetime import datetime
from functools import cached_property
from typing import Any

from runspend.core.errors import MissingExtra
from runspend.storage.google_clients import storage_credentials
from runspend.storage.store_errors import PIECE_BYTES, CannotReach, StoreError

GOOGLE = "https://storage.googleapis.com"
RETRY_SECONDS = 60.0  # a page of a listing is requested again for this long
READER = "Storage Object Viewer on the bucket"  # the role that reading needs
_FIELDS = "nextPageToken,prefixes,items(name,size,storageClass,md5Hash,etag,updated,timeDeleted,generation)"
# The metadata fields of an object. A rewrite keeps only the fields that the request repeats (Google's reference, "Objects: rewrite").
_PROPERTIES = ("cache_control", "content_disposition", "content_encoding", "content_language", "content_type", "custom_time", "metadata")


class GoogleBucket:
    """One bucket. Creating the client sends no request.

    Raises CannotReach if the credentials cannot be used, and StoreError if a request fails.
    """

    def __init__(self, name: str, *, endpoint: str | None, credentials: str | None, setting: str = "stores[]") -> None:
        self.name = name
        self._endpoint, self._credentials, self._setting = (endpoint or GOOGLE).rstrip("/"), credentials, setting
        self._date: str | None = None

    def pages(
        self, prefix: str, *, token: str = "", page_size: int = 1000, delimiter: str = "", versions: bool = True
    ) -> Iterator[tuple[Any, str]]:
        """Yield each page of a listing with the position of the next page.

        `raw_page` of a page is Google's JSON. Reading it is twice as fast as iterating over the page, which creates objects.
        """
        with translated():
            found = self._client.list_blobs(
                self.name, prefix=prefix, delimiter=delimiter or None, versions=versions and not delimiter, page_size=page_size,
                page_token=token or None, fields=_FIELDS, retry=_retry(),
            )  # fmt: skip
            pages = iter(found.pages)
        while True:
            with translated():
                page = next(pages, None)
            if page is None:
                return
            following = str(page.raw_page.get("nextPageToken") or "")
            yield page, following
            if following and following == token:
                raise StoreError(200, "a page that announces another page but does not say where it begins")
            token = following

    def look(self, name: str) -> Any:
        """Return the current object, or None if Google answers that it does not exist."""
        with translated():
            return self._bucket.get_blob(name, retry=None)

    def read(self, name: str, generation: str, size: int, start: int = 0) -> Iterator[bytes]:
        """Yield the stored bytes of this generation in pieces. Compressed objects are not decompressed."""
        blob = self._bucket.blob(name, generation=generation)
        while start < size:
            with translated():
                piece = blob.download_as_bytes(
                    start=start, end=min(start + PIECE_BYTES, size) - 1, raw_download=True, checksum=None, retry=None
                )
            if not piece:
                return
            start += len(piece)
            yield piece

    def upload(self, name: str, pieces: Iterable[bytes], size: int, properties: Mapping[str, Any]) -> None:
        """Write an object if the name does not exist yet. An upload that is interrupted leaves no object."""
        blob = self._bucket.blob(name, chunk_size=PIECE_BYTES)
        _say(blob, properties)
        with translated():
            blob.upload_from_file(
                _Stream(pieces, size), size=size, content_type=properties.get("content_type"), if_generation_match=0, retry=None
            )

    def rewrite(self, name: str, generation: str, storage_class: str) -> None:
        """Copy an object onto itself with another storage class. Source and target must still have this generation.

        A large object needs several requests.
        """
        with translated():
            source, target = self._bucket.blob(name), self._bucket.blob(name)
            source.reload(retry=None)
            _say(target, {field: getattr(source, field) for field in _PROPERTIES} | {"storage_class": storage_class})
            token, conditions = None, {"if_generation_match": generation, "if_source_generation_match": generation}
            while True:
                token, _, _ = target.rewrite(self._bucket.blob(name), token=token, **conditions, retry=None)
                if token is None:
                    return

    def delete(self, name: str, *, is_current: str | None = None, version: str | None = None) -> None:
        """Delete the object if its generation is still `is_current`. With `version`, delete only that generation, permanently."""
        with translated():
            self._bucket.blob(name, generation=version).delete(if_generation_match=is_current, retry=None)

    def keeps_versions(self) -> bool:
        """Return whether the bucket keeps versions."""
        bucket = self._client.bucket(self.name)
        with translated():
            bucket.reload(retry=None)
        return bool(bucket.versioning_enabled)

    def date(self) -> str | None:
        """Return the Date header of a reply, or None if it is missing."""
        next(self.pages("", page_size=1))
        return self._date

    # --- inside ---------------------------------------------------------------------------------------------------------

    @cached_property
    def _client(self) -> Any:
        credentials = storage_credentials(self._credentials, setting=self._setting)
        try:
            from google.api_core.client_info import ClientInfo
            from google.auth.transport.requests import AuthorizedSession
            from google.cloud.storage import Client
        except ImportError as error:
            raise MissingExtra("google-cloud-storage", "gcs") from error
        untyped: Any = AuthorizedSession
        session = untyped(credentials)
        session.resolve_redirects = lambda *_, **__: iter(())  # redirects of a store are not followed
        session.hooks["response"].append(self._note)
        # The endpoint is always given. Otherwise, environment variables could change it.
        options = {"api_endpoint": self._endpoint}
        untyped = ClientInfo
        try:
            client = Client(
                project="none", credentials=credentials, client_options=options, client_info=untyped(user_agent="runspend"), _http=session
            )
        except ValueError:  # the key belongs to another universe domain than Google's own cloud
            raise CannotReach("its credentials cannot be used", f"Check {self._setting}.credentials") from None
        client._bucket_metadata_cache = None  # it would request the bucket for tracing, which Runspend does not use
        return client

    @cached_property
    def _bucket(self) -> Any:
        return self._client.bucket(self.name)

    def _note(self, reply: Any, *_: Any, **__: Any) -> None:
        self._date = reply.headers.get("Date")


class _Stream:
    """A file object over pieces of bytes with `size` bytes in total. It can be read once, from start to end.

    The iterator of the pieces is exhausted before the last byte is returned. So a check at its end can still stop the upload.
    """

    def __init__(self, pieces: Iterable[bytes], size: int) -> None:
        self._pieces, self._size, self._held, self._at = iter(pieces), size, bytearray(), 0

    def read(self, size: int) -> bytes:
        """Return `size` bytes, or fewer at the end."""
        while len(self._held) < size or self._at + size >= self._size:
            piece = next(self._pieces, None)
            if piece is None:
                break
            self._held += piece
        found = bytes(self._held[:size])
        del self._held[:size]
        self._at += len(found)
        return found

    def tell(self) -> int:
        """Return the number of bytes that were read."""
        return self._at


@contextmanager
def translated() -> Iterator[None]:
    """Turn errors of Google's client into StoreError."""
    from google.api_core.exceptions import GoogleAPICallError, RetryError
    from google.auth.exceptions import GoogleAuthError, TransportError
    from requests.exceptions import RequestException
    from urllib3.exceptions import HTTPError

    try:
        yield
    except (GoogleAPICallError, RetryError, GoogleAuthError, RequestException, HTTPError, OSError) as error:
        cause: Any = error.cause if isinstance(error, RetryError) else error
        if isinstance(cause, GoogleAPICallError):
            reasons = [found.get("reason") for found in cause.errors if isinstance(found, dict)]
            raise StoreError(int(cause.code or 0) or None, str(reasons[0] or "") if reasons else "") from None
        if isinstance(cause, GoogleAuthError) and not isinstance(cause, TransportError):
            raise StoreError(401, "Google refused the credentials") from None
        if isinstance(cause, ValueError):  # the reply is not JSON
            raise StoreError(200, "an answer that is not in the form of this kind of store") from None
        raise StoreError(None, type(cause).__name__) from None


def microseconds(text: str | None) -> int | None:
    """Return a time in Google's ISO 8601 format as microseconds since 1970, or None without a text."""
    if not text:
        return None
    at = datetime.fromisoformat(text.replace("Z", "+00:00"))
    return int(at.timestamp()) * 1_000_000 + at.microsecond


def _say(blob: Any, properties: Mapping[str, Any]) -> None:
    for field, value in properties.items():
        if value is not None:
            setattr(blob, field, value)


def _retry() -> Any:
    from google.cloud.storage.retry import DEFAULT_RETRY

    return DEFAULT_RETRY.with_timeout(RETRY_SECONDS)
