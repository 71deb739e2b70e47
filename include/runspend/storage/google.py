"""One bucket of Google Cloud Storage through Google's own client (extra `gcs`).

Every failure becomes a StoreError with a status and a code, because Google's messages quote addresses. Pages of a listing are requested again
where the store is busy. Other requests are sent once, because a repeated change would conflict with its first attempt.
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
RETRY_SECONDS = 60.0  # within which a page is requested again
READER = "Storage Object Viewer on the bucket"  # the role that reading needs
_FIELDS = "nextPageToken,prefixes,items(name,size,storageClass,md5Hash,etag,updated,timeDeleted,generation)"
# Metadata of an object. A rewrite keeps only what the request repeats ("Objects: rewrite").
_PROPERTIES = ("cache_control", "content_disposition", "content_encoding", "content_language", "content_type", "custom_time", "metadata")


class GoogleBucket:
    """A bucket. Creating the client makes no request. Raises StoreError, and CannotReach for credentials that cannot be used."""

    def __init__(self, name: str, *, endpoint: str | None, credentials: str | None, setting: str = "stores[]") -> None:
        self.name = name
        self._endpoint, self._credentials, self._setting = (endpoint or GOOGLE).rstrip("/"), credentials, setting
        self._date: str | None = None

    def pages(
        self, prefix: str, *, token: str = "", page_size: int = 1000, delimiter: str = "", versions: bool = True
    ) -> Iterator[tuple[Any, str]]:
        """Yield pages and the position of the next one: `raw_page` is Google's own description, which is twice as fast as the objects that
        a page yields.
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
        """Return the object as it is now, or None if Google answers that there is none."""
        with translated():
            return self._bucket.get_blob(name, retry=None)

    def read(self, name: str, generation: str, size: int, start: int = 0) -> Iterator[bytes]:
        """Yield the bytes of that generation as they are stored, piece by piece: compressed ones are not unpacked."""
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
        """Write an object if the name is free. An upload that ends early leaves no object."""
        blob = self._bucket.blob(name, chunk_size=PIECE_BYTES)
        _say(blob, properties)
        with translated():
            blob.upload_from_file(
                _Stream(pieces, size), size=size, content_type=properties.get("content_type"), if_generation_match=0, retry=None
            )

    def rewrite(self, name: str, generation: str, storage_class: str) -> None:
        """Copy an object onto itself in another class, both ends on condition of the generation. Large ones take several calls."""
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
        """Delete the object: if its generation is still `is_current`, or permanently the one generation `version`."""
        with translated():
            self._bucket.blob(name, generation=version).delete(if_generation_match=is_current, retry=None)

    def keeps_versions(self) -> bool:
        """Return whether the bucket keeps versions."""
        bucket = self._client.bucket(self.name)
        with translated():
            bucket.reload(retry=None)
        return bool(bucket.versioning_enabled)

    def date(self) -> str | None:
        """Return the date in the headers of a reply."""
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
        # The endpoint is always given: otherwise variables of the environment name one.
        options = {"api_endpoint": self._endpoint}
        untyped = ClientInfo
        try:
            client = Client(
                project="none", credentials=credentials, client_options=options, client_info=untyped(user_agent="runspend"), _http=session
            )
        except ValueError:  # a key of another universe than Google's own cloud
            raise CannotReach("its credentials cannot be used", f"Check {self._setting}.credentials") from None
        client._bucket_metadata_cache = None  # it requests the bucket on its own, for traces that are not used
        return client

    @cached_property
    def _bucket(self) -> Any:
        return self._client.bucket(self.name)

    def _note(self, reply: Any, *_: Any, **__: Any) -> None:
        self._date = reply.headers.get("Date")


class _Stream:
    """Pieces of bytes, `size` in all, as a file that is read once, from start to end. The pieces are asked to end before the last byte is
    read.
    """

    def __init__(self, pieces: Iterable[bytes], size: int) -> None:
        self._pieces, self._size, self._held, self._at = iter(pieces), size, bytearray(), 0

    def read(self, size: int) -> bytes:
        """Return that many bytes, fewer only at the end."""
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
        """Return how many bytes were read."""
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
        if isinstance(cause, ValueError):  # a reply that is not JSON
            raise StoreError(200, "an answer that is not in the form of this kind of store") from None
        raise StoreError(None, type(cause).__name__) from None


def microseconds(text: str | None) -> int | None:
    """Return a time of Google's in microseconds since 1970."""
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
