"""Google Cloud Storage by its JSON interface, for requests that obstore lacks: conditional deletes, classes, checksums, versions.

It needs a token, which Google's own log-in (extra `bigquery`) makes. Source: "Objects" and "Request preconditions" of the JSON API.
"""

from __future__ import annotations

import base64
import binascii
import json
import time
import urllib.request
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from datetime import datetime
from functools import partial
from typing import Any
from urllib.parse import quote, urlencode

from runspend.core.outside_json import parse_json
from runspend.storage.blob_clients import GOOGLE
from runspend.storage.google_clients import access_token, login_errors
from runspend.storage.rest import RestError, asked, tried

TOKEN_SECONDS = 1800  # a token is valid for an hour
_FIELDS = "nextPageToken,prefixes,items(name,size,storageClass,md5Hash,updated,timeDeleted,generation)"
_KEPT = ("contentType", "contentEncoding", "contentLanguage", "contentDisposition", "cacheControl", "customTime", "metadata")
_Items = list[dict[str, Any]]


class GoogleBucket:
    """A bucket. Creating this object contacts no server."""

    def __init__(self, bucket: str, *, endpoint: str | None, credentials: str | None) -> None:
        self._base, self._bucket = (endpoint or GOOGLE).rstrip("/"), f"/storage/v1/b/{quote(bucket, safe='')}"
        self._credentials = credentials
        self._token: tuple[str | None, float] | None = None

    @contextmanager
    def request(
        self, method: str, path: str = "/o", query: dict[str, str] | None = None, data: bytes | Iterable[bytes] | None = None, **headers: str
    ) -> Iterator[Any]:
        """Send one request below the bucket and yield its open reply; header names have underscores for dashes. Raises RestError."""
        url = f"{self._base}{'/upload' if query and 'uploadType' in query else ''}{self._bucket}{path}?{urlencode(query or {}, quote_via=quote)}"
        said = {"User-Agent": "runspend", **{key.replace("_", "-"): value for key, value in headers.items()}}
        if token := self._fresh_token():
            said["Authorization"] = f"Bearer {token}"
        with asked(urllib.request.Request(url, data=data, method=method, headers=said)) as reply:
            yield reply

    def ask(self, method: str, path: str, query: dict[str, str] | None = None, data: bytes | None = None) -> dict[str, Any]:
        """Return the JSON object of a reply; empty for an empty reply."""
        with self.request(method, path, query, data, Content_Type="application/json") as reply:
            text = reply.read()
        try:
            said = parse_json(text or b"{}")
        except ValueError as error:
            raise RestError(200, "an answer that is not one of such a store") from error
        return said if isinstance(said, dict) else {}

    def rewrite(self, name: str, query: dict[str, str], storage_class: str) -> None:
        """Copy an object onto itself in another class; large objects take several calls.

        The copy has only the properties in the request ("Objects: rewrite"), so the request repeats all of them.
        """
        path, more = object_path(name), dict[str, str]()
        found = self.ask("GET", path)
        told = json.dumps({key: found[key] for key in _KEPT if found.get(key)} | {"storageClass": storage_class}).encode()
        while True:
            said = self.ask("POST", f"{path}/rewriteTo{self._bucket.removeprefix('/storage/v1')}{path}", query | more, told)
            if said.get("done"):
                return
            more = {"rewriteToken": str(said["rewriteToken"])}

    def list(self, prefix: str, *, token: str = "", page_size: int = 1000, delimiter: str = "") -> Iterator[tuple[_Items, str]]:
        """Yield pages of (objects and versions as Google describes them, token of the next page). With a delimiter, folders are {"prefix": …}."""
        query = {"prefix": prefix, "maxResults": str(page_size), "fields": _FIELDS}
        query |= {"delimiter": delimiter} if delimiter else {"versions": "true"}
        while True:
            page = tried(partial(self.ask, "GET", "/o", query | ({"pageToken": token} if token else {})))
            following = str(page.get("nextPageToken") or "")
            yield [{"prefix": name} for name in page.get("prefixes", [])] if delimiter else page.get("items", []), following
            if not following:
                return
            if following == token:
                raise RestError(200, "a page that says there is more but gives no position")
            token = following

    def _fresh_token(self) -> str | None:
        """Return a token that stays valid for a while; a long listing needs several."""
        if self._token is None or time.monotonic() - self._token[1] > TOKEN_SECONDS:
            try:
                self._token = access_token(self._credentials), time.monotonic()
            except login_errors():
                raise RestError(401, "the credentials are not a Google key file, or the environment has no log-in") from None
        return self._token[0]


def object_path(name: str) -> str:
    """Return the path of an object below its bucket."""
    return f"/o/{quote(name, safe='')}"


def md5_of(found: dict[str, Any]) -> str | None:
    """Return the hexadecimal MD5; None for composite objects, which have none."""
    try:
        return base64.b64decode(found["md5Hash"], validate=True).hex() if found.get("md5Hash") else None
    except binascii.Error:
        return None


def microseconds(found: dict[str, Any]) -> int | None:
    """Return the time of the last write, in microseconds since 1970."""
    if not found.get("updated"):
        return None
    at = datetime.fromisoformat(found["updated"].replace("Z", "+00:00"))
    return int(at.timestamp()) * 1_000_000 + at.microsecond
