"""Azure Blob Storage by its REST interface, for requests that obstore lacks: conditional deletes, access tiers, versions, checksums.

A SAS token signs requests: the configured one, or one made from the account key of a connection string. If an identity of the
machine logs in, there is no token, and obstore lists such containers (`ingest/artifacts/blobs.py`). Source: "List Blobs", "Create
an account SAS", "Put Blob" of the Blob service REST API.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import urllib.request
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime, timedelta, timezone
from email.utils import parsedate_to_datetime
from functools import partial
from typing import IO, Any
from urllib.parse import quote, unquote, urlencode
from xml.etree import ElementTree

from pydantic import SecretStr

from runspend.storage.blob_clients import ANONYMOUS, connection_string
from runspend.storage.objects import carried
from runspend.storage.rest import RestError, asked, tried
from runspend.storage.uris import Root

VERSION = "2021-08-06"
METADATA = "x-ms-meta-"  # names of a blob's metadata may have underscores, but not dashes
PROPERTIES = ("cache-control", "content-disposition", "content-encoding", "content-language", "content-type")
_RIGHTS = "rwdlacut"  # of a token made from the key, which itself may do anything


@dataclass(frozen=True)
class Blob:
    """One blob, from a listing or a single request."""

    name: str
    size: int | None
    etag: str  # in quotes, as in conditions
    modified: datetime | None
    tier: str  # HOT, COOL, COLD, ARCHIVE; UNKNOWN if it has none
    md5: str | None  # hexadecimal; None if none was given when it was written
    version: str | None
    is_current: bool
    told: dict[str, str] = field(default_factory=dict)  # the blob's properties and metadata, from a single request


class _Exact(str):
    """A header's name that urllib must not change: Azure keeps the case of metadata's names, and readers need it."""

    def capitalize(self) -> str:
        """Return the name unchanged."""
        return self

    def title(self) -> str:
        """Return the name unchanged."""
        return self


_Page = tuple[list[Blob], list[str], str]


def has_token(credentials: str | SecretStr | None) -> bool:
    """Whether these credentials are a SAS token or can make one; otherwise an identity of the machine logs in."""
    return bool(_secret(credentials))


class AzureContainer:
    """A container, accessed with a SAS token. Creating this object contacts no server."""

    def __init__(self, root: Root, *, endpoint: str | None, credentials: str | SecretStr | None) -> None:
        container, _, place = root.bucket.partition("@")
        account, _, suffix = place.partition(".")
        self._url = f"{(endpoint or f'https://{account}.blob.{suffix}').rstrip('/')}/{container}"
        self._token = _token(_secret(credentials), account)

    @contextmanager
    def request(
        self, method: str, name: str = "", query: dict[str, str] | None = None, data: bytes | Iterable[bytes] | None = None, **headers: str
    ) -> Iterator[Any]:
        """Send one request and yield its open reply; header names have underscores for dashes. Raises RestError, also while the reply is read."""
        query_text = "&".join(part for part in (urlencode(query or {}, quote_via=quote), self._token) if part)
        url = f"{self._url}{f'/{quote(name)}' if name else ''}?{query_text}"
        said = {_Exact(key) if key.startswith(METADATA) else key.replace("_", "-"): value for key, value in headers.items()}
        request = urllib.request.Request(url, data=data, method=method, headers={"x-ms-version": VERSION, "User-Agent": "runspend", **said})
        with asked(request, code=lambda found: found.get("x-ms-error-code") or "") as reply:
            yield reply

    def list(
        self, prefix: str, *, marker: str = "", page_size: int = 5000, delimiter: str = "", versions: bool = False
    ) -> Iterator[_Page]:
        """Yield pages of (blobs, folders if there is a delimiter, marker of the next page)."""
        query = {"restype": "container", "comp": "list", "prefix": prefix, "maxresults": str(page_size)}
        query |= {"delimiter": delimiter} if delimiter else {}
        query |= {"include": "versions"} if versions else {}
        while True:
            blobs, folders, following = tried(partial(self._page, query | ({"marker": marker} if marker else {})))
            yield blobs, folders, following
            if not following:
                return
            if following == marker:
                raise RestError(200, "a page that says there is more but gives no position")
            marker = following

    def _page(self, query: dict[str, str]) -> _Page:
        with self.request("GET", query=query) as reply:
            return _parse_page(reply)

    def look(self, name: str) -> Blob | None:
        """Return the current blob; None when the service says that it does not exist."""
        try:
            with self.request("HEAD", name) as reply:
                return _looked_at(name, reply.headers)
        except RestError as error:
            if error.status == 404:
                return None
            raise


def _parse_page(reply: IO[bytes]) -> _Page:
    try:
        tree = ElementTree.parse(reply).getroot()
    except ElementTree.ParseError as error:
        raise RestError(200, "an answer that is not a listing") from error
    blobs = [_listed(found) for found in tree.iter("Blob")]
    folders = [_name(found) for found in tree.iter("BlobPrefix")]
    return [blob for blob in blobs if blob is not None], folders, tree.findtext("NextMarker") or ""


def _listed(found: ElementTree.Element) -> Blob | None:
    """Return a blob of a listing; None for a folder entry of an account with hierarchical folders."""
    said = {part.tag: part.text or "" for part in found.find("Properties") or ()}
    if said.get("ResourceType") == "directory":
        return None
    size, modified, md5 = said.get("Content-Length"), said.get("Last-Modified"), said.get("Content-MD5")
    version = found.findtext("VersionId")
    return Blob(
        _name(found),
        int(size) if size else None,
        f'"{said.get("Etag", "").strip(chr(34))}"',
        parsedate_to_datetime(modified).astimezone(timezone.utc) if modified else None,
        said.get("AccessTier", "").upper() or "UNKNOWN",
        _hexadecimal(md5),
        version,
        version is None or found.findtext("IsCurrentVersion") == "true",
    )


def _looked_at(name: str, headers: Any) -> Blob:
    modified, size = headers.get("Last-Modified"), headers.get("Content-Length")
    return Blob(
        name,
        int(size) if size else None,
        headers.get("ETag", ""),
        parsedate_to_datetime(modified).astimezone(timezone.utc) if modified else None,
        headers.get("x-ms-access-tier", "").upper() or "UNKNOWN",
        _hexadecimal(headers.get("Content-MD5")),
        headers.get("x-ms-version-id"),
        True,
        carried({name: headers.get(name) for name in PROPERTIES} | {f"meta.{name[len(METADATA) :]}": value for name, value in headers.items() if name.lower().startswith(METADATA)}),
    )


def _name(found: ElementTree.Element) -> str:
    """Return a blob's name; names that XML cannot contain are encoded."""
    name = found.find("Name")
    text = "" if name is None else name.text or ""
    return unquote(text) if name is not None and name.get("Encoded") == "true" else text


def _hexadecimal(md5: str | None) -> str | None:
    try:
        return base64.b64decode(md5, validate=True).hex() if md5 else None
    except binascii.Error:
        return None


def _secret(credentials: str | SecretStr | None) -> str:
    return credentials.get_secret_value() if isinstance(credentials, SecretStr) else credentials or ""


def _token(secret: str, account: str) -> str:
    """Return the configured SAS token, or one for a day made from the account key; empty for anonymous access."""
    given = connection_string(secret)
    if secret == ANONYMOUS:
        return ""
    if key := given.get("accountkey"):
        until = (datetime.now(timezone.utc) + timedelta(hours=24)).strftime("%Y-%m-%dT%H:%M:%SZ")
        signed = "\n".join([account, _RIGHTS, "b", "sco", "", until, "", "", VERSION, "", ""])
        signature = base64.b64encode(hmac.new(base64.b64decode(key), signed.encode(), hashlib.sha256).digest()).decode()
        return urlencode({"sv": VERSION, "ss": "b", "srt": "sco", "sp": _RIGHTS, "se": until, "sig": signature})
    return given.get("sharedaccesssignature", secret).lstrip("?")
