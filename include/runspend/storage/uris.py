"""Decide whether a URI is inside a configured artifact store, by comparing scheme, bucket and folder as text.

Runspend reads or changes only what is inside a store, and this module makes that decision without a connection. An ambiguous URI (with
`.` or `..`, doubled slashes, encoded separators, backslashes, `?` or `#`) is never repaired; it counts as outside. Azure's three
spellings of a container (abfss, wasbs and https) count as the same location.
"""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING
from urllib.parse import unquote

from runspend.core.errors import SourceRefused
from runspend.core.redaction import HIDDEN

if TYPE_CHECKING:
    from runspend.config.settings import ArtifactStore

# `.`, `/`, `\`, NUL, `?` and `#` that are percent-encoded any number of times.
_ENCODED_SEPARATOR = re.compile(r"%(?:25)*(?:2e|2f|5c|00|3f|23)", re.IGNORECASE)
_AMBIGUOUS = re.compile(r"[\x00-\x1f\x7f-\x9f\\?#\u2028\u2029]")
# The hosts of storage accounts in all of Azure's clouds (Microsoft's documentation, "Azure Storage: endpoints").
_ACCOUNT = re.compile(r"([a-z0-9]{3,24})\.(?:blob|dfs)\.(core\.(?:windows\.net|chinacloudapi\.cn|usgovcloudapi\.net|cloudapi\.de))")
# An extract replaces a login or a signature in a URI by ***. What is left of them is not part of the location, so it is removed. A query is
# removed only if all of its parameters belong to a signature.
_LOGIN = re.compile(r"^(s3|gs|https)://\*\*\*@")
_SIGNED_PARAMETER = (
    r"(?:[Xx]-(?:[Aa]mz|[Gg]oog)-[A-Za-z-]+|sv|ss|srt|sp|se|st|spr|sip|si|sr|sig|skoid|sktid|skt|ske|sks|skv|saoid|suoid|scid|sdd|ses|"
    r"AWSAccessKeyId|GoogleAccessId|Signature|Expires|Policy|Key-Pair-Id|token)=[^&#?]*"
)
_SIGNATURE = re.compile(rf"\?(?=[^#?]*=\*\*\*(?:&|$)){_SIGNED_PARAMETER}(?:&{_SIGNED_PARAMETER})*$")
_BEGINNINGS = {"s3": ("s3:",), "gs": ("gs:",), "azure": ("abfss:", "wasbs:", "https:"), "file": ("file:", "/")}


@dataclass(frozen=True)
class Root:
    """The root of a store. `bucket` is empty for a local folder. `folder` neither begins nor ends with a slash."""

    scheme: str  # "s3", "gs", "azure" or "file"
    bucket: str  # for Azure: CONTAINER@ACCOUNT.core.windows.net, for every spelling of the URI
    folder: str
    other_folder: str | None = None  # a local folder's path with its links resolved, if that path differs


def parse_root(store: ArtifactStore) -> Root:
    """Return the root of a configured store.

    Raises SourceRefused if the URI does not name a bucket, is ambiguous, or has a scheme that cannot be listed.
    """
    uri = store.uri
    if uri.startswith("s3://"):
        bucket, _, folder = uri.removeprefix("s3://").partition("/")
        if not bucket:
            raise SourceRefused(uri, f"cannot measure {uri!r}: it does not name a bucket. Write s3://BUCKET/ or s3://BUCKET/PREFIX/.")
        return Root("s3", bucket, folder.strip("/"))
    if uri.startswith(("gs://", "abfss://", "wasbs://")):
        parts = _split(uri)
        if parts is None:
            raise SourceRefused(
                uri,
                f"cannot measure {uri!r}: it is ambiguous, or does not name a bucket. "
                "Write gs://BUCKET/PREFIX/ or abfss://CONTAINER@ACCOUNT.dfs.core.windows.net/PREFIX/. Nothing was contacted.",
            )
        return Root(*parts)
    if "://" in uri and not uri.startswith("file:///"):
        raise SourceRefused(
            uri,
            f"cannot measure {uri!r}: only folders, s3://, gs://, abfss:// and wasbs:// are listed. "
            "Set measure: none for it. Nothing was contacted.",
        )
    path = unquote(uri.removeprefix("file://")) if uri.startswith("file://") else uri
    plain, resolved = os.path.abspath(path).strip("/"), os.path.realpath(path).strip("/")
    return Root("file", "", plain, None if plain == resolved else resolved)


def folder_within(uri: str | None, root: Root) -> str | None:
    """Return the folder of `uri` relative to `root` ("" for the root itself), or None if the URI is outside or ambiguous."""
    parts = _split(uri)
    if parts is None or parts[:2] != (root.scheme, root.bucket):
        return None
    folder = parts[2]
    for top in (root.folder, root.other_folder):
        if top is None:
            continue
        if not top or folder == top:
            return "" if folder == top else folder
        if folder.startswith(f"{top}/"):
            return folder[len(top) + 1 :]
    return None


def is_ambiguous(uri: str, scheme: str) -> bool:
    """Return whether a URI of this scheme is refused because its spelling is ambiguous."""
    return uri.startswith(_BEGINNINGS[scheme]) and _split(uri) is None


def allowed(uri: str | None, stores: Iterable[ArtifactStore]) -> ArtifactStore | None:
    """Return the store that contains `uri`, or None. Runspend must not read or change a URI outside all stores.

    If several stores contain the URI, the innermost one is returned. A local folder that leaves its root through a symbolic link is
    outside.
    """
    found: tuple[int, ArtifactStore] | None = None
    for store in stores:
        try:
            root = parse_root(store)
        except SourceRefused:
            continue  # nothing is allowed in a store that Runspend cannot read
        folder = folder_within(uri, root)
        if folder is None or (root.scheme == "file" and not _stays_inside(root, folder)):
            continue
        if found is None or len(root.folder) > found[0]:
            found = len(root.folder), store
    return found[1] if found else None


def resolve_artifact_uri(uri: str | None, server_artifacts: str | None) -> str | None:
    """Return an artifact URI of MLflow with `mlflow-artifacts:` replaced by `server_artifacts`.

    `server_artifacts` is the location to which the server resolves such URIs. Other URIs are returned unchanged. Returns None without a
    URI, or if `server_artifacts` is needed but not configured. The host in `mlflow-artifacts://host/path` is ignored, because it names the
    server. Check the result with `allowed` before you use it.
    """
    if not uri:
        return None
    if not uri.startswith("mlflow-artifacts:"):
        return uri
    if not server_artifacts:
        return None
    path = uri.removeprefix("mlflow-artifacts:")
    if path.startswith("//"):
        path = path[2:].partition("/")[2]
    return f"{server_artifacts.rstrip('/')}/{path.lstrip('/')}"


def store_slug(uri: str) -> str:
    """Return a name for the store that is stable, unique for each URI, and safe in file names."""
    readable = re.sub(r"[^a-z0-9]+", "-", uri.lower()).strip("-")[:48].strip("-")
    return f"{readable or 'store'}-{hashlib.sha256(uri.encode('utf-8', 'surrogatepass')).hexdigest()[:10]}"


def _split(uri: str | None) -> tuple[str, str, str] | None:
    """Return scheme, bucket and folder of a URI, without redacted logins and signatures. Returns None if the URI is ambiguous."""
    uri = _SIGNATURE.sub("", _LOGIN.sub(r"\1://", uri)) if uri and HIDDEN in uri else uri
    if not uri or _AMBIGUOUS.search(uri) or _ENCODED_SEPARATOR.search(uri):
        return None
    scheme, bucket = "file", ""
    if uri.startswith(("s3://", "gs://")):
        scheme = uri[:2]
        bucket, _, path = uri[5:].partition("/")
        if not bucket or not bucket.isascii() or any(c in bucket for c in "@:%"):
            return None
    elif uri.startswith(("abfss://", "wasbs://", "https://")):
        scheme = "azure"
        container_at = _split_azure(uri)
        if container_at is None:
            return None
        bucket, path = container_at
    elif uri.startswith("file:"):
        path = uri[7:] if uri.startswith("file://") else uri[5:]
        if not path.startswith("/"):
            return None  # the URI names a host, or is relative to the working directory of another process
        try:
            path = unquote(path[1:], errors="strict")
        except UnicodeDecodeError:
            return None
        if _AMBIGUOUS.search(path):
            return None
    elif uri.startswith("/"):
        path = uri[1:]
    else:
        return None
    path = path.removesuffix("/")
    if path and any(part in ("", ".", "..") for part in path.split("/")):
        return None
    return scheme, bucket, path


def _split_azure(uri: str) -> tuple[str, str] | None:
    """Return CONTAINER@ACCOUNT.core.… and the path of an Azure URI, or None if it does not name both.

    abfss:// and wasbs:// have the container before the account. https:// has it at the beginning of the path.
    """
    place, _, path = uri.partition("://")[2].partition("/")
    container, _, host = place.rpartition("@")
    if uri.startswith("https://"):
        if container:
            return None  # the text before @ is a user name, which MLflow never writes
        container, _, path = path.partition("/")
    account = _ACCOUNT.fullmatch(host)
    if account is None or not container:
        return None
    return f"{container}@{account[1]}.{account[2]}", path


def _stays_inside(root: Root, folder: str) -> bool:
    """Return whether a local folder is inside its root after all symbolic links are resolved."""
    top = os.path.realpath(f"/{root.folder}")
    target = os.path.realpath(os.path.join(top, folder))
    return target == top or target.startswith(top.rstrip("/") + "/")
