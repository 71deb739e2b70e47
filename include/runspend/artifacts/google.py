"""Google Cloud Storage listed by its JSON interface: storage classes, checksums and versions, which obstore does not tell.

It needs a token: Google's own log-in (extra `bigquery`) makes one. Source: "Objects: list" of the JSON API.
"""

from __future__ import annotations

import base64
import binascii
import json
import time
import urllib.request
from collections.abc import Iterator
from datetime import datetime
from functools import partial
from typing import Any
from urllib.parse import quote, urlencode

from runspend.artifacts.rest import RestError, asked, tried
from runspend.blob_clients import GOOGLE
from runspend.google_clients import access_token

TOKEN_SECONDS = 1800  # of the hour it is good for
_FIELDS = "nextPageToken,items(name,size,storageClass,md5Hash,updated,timeDeleted)"


class GoogleBucket:
    """A bucket. Making it contacts nobody."""

    def __init__(self, bucket: str, *, endpoint: str | None, credentials: str | None) -> None:
        self._url = f"{(endpoint or GOOGLE).rstrip('/')}/storage/v1/b/{quote(bucket, safe='')}/o"
        self._credentials = credentials
        self._token: tuple[str | None, float] | None = None

    def list(self, prefix: str, *, token: str = "", page_size: int = 1000) -> Iterator[tuple[list[dict[str, Any]], str]]:
        """Pages of (objects and versions as Google describes them, where to go on). Raises RestError."""
        query = {"prefix": prefix, "maxResults": str(page_size), "versions": "true", "fields": _FIELDS}
        while True:
            page = tried(partial(self._page, query | ({"pageToken": token} if token else {})))
            following = str(page.get("nextPageToken") or "")
            yield page.get("items", []), following
            if not following:
                return
            if following == token:
                raise RestError(200, "a page that says there is more but not where")
            token = following

    def _page(self, query: dict[str, str]) -> dict[str, Any]:
        headers = {"User-Agent": "runspend"}
        if token := self._fresh_token():
            headers["Authorization"] = f"Bearer {token}"
        request = urllib.request.Request(f"{self._url}?{urlencode(query, quote_via=quote)}", headers=headers)
        with asked(request) as reply:
            try:
                page = json.load(reply)
            except ValueError as error:
                raise RestError(200, "an answer that is no listing") from error
        if not isinstance(page, dict):
            raise RestError(200, "an answer that is no listing")
        return page

    def _fresh_token(self) -> str | None:
        """A token that is good for a while; a long listing needs several."""
        if self._token is None or time.monotonic() - self._token[1] > TOKEN_SECONDS:
            self._token = access_token(self._credentials), time.monotonic()
        return self._token[0]


def md5_of(found: dict[str, Any]) -> str | None:
    """Hexadecimal; None for composite objects, which have none."""
    try:
        return base64.b64decode(found["md5Hash"], validate=True).hex() if found.get("md5Hash") else None
    except binascii.Error:
        return None


def microseconds(found: dict[str, Any]) -> int | None:
    """When it was last written, since 1970."""
    if not found.get("updated"):
        return None
    at = datetime.fromisoformat(found["updated"].replace("Z", "+00:00"))
    return int(at.timestamp()) * 1_000_000 + at.microsecond
