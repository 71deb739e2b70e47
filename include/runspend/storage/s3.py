"""Flat listing of a bucket or prefix: one request per 1,000 objects, storage classes included.

Uses `list_object_versions` if the bucket keeps versions, otherwise `list_objects_v2`. Credentials never come from runspend.yaml: a profile
name of ~/.aws, or the SDK's own chain of credentials.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from runspend.core.errors import MissingExtra, SourceError, SourceRefused, SourceUnreachable
from runspend.storage.listing import FolderTotals, Listing, Page, checksum_of
from runspend.storage.store_errors import ENVIRONMENT
from runspend.storage.uris import Root

if TYPE_CHECKING:
    from runspend.config.settings import ArtifactStore

# Error codes that a retry does not fix: a person must act.
_REFUSALS = {
    "AccessDenied",
    "AllAccessDisabled",
    "ExpiredToken",
    "InvalidAccessKeyId",
    "InvalidToken",
    "SignatureDoesNotMatch",
    "403",
    "Forbidden",
}
_ADVICE = {
    "NoSuchBucket": "Correct `stores` in runspend.yaml.",
    "AccessDenied": "Grant s3:ListBucket on it to these credentials.",
    "InvalidAccessKeyId": "Correct the key.",
    "SignatureDoesNotMatch": "Correct the secret key.",
    "ExpiredToken": "Log in again.",
}


def list_bucket(
    store: ArtifactStore, root: Root, listing: Listing, after: dict[str, str] | None = None, *, page_size: int = 1000
) -> Iterator[Page]:
    """Yield pages of objects below the root, continuing after `after`. Raises SourceUnreachable or SourceRefused, possibly after some
    pages.
    """
    client, client_errors = connect(store)
    prefix = f"{root.folder}/" if root.folder else ""
    asked: dict[str, Any] = {"Bucket": root.bucket, "Prefix": prefix, "MaxKeys": page_size}
    pages = 0
    try:
        keeps_versions = listing.keeps_versions = _keeps_versions(client, root, listing)
        ask = client.list_object_versions if keeps_versions else client.list_objects_v2
        start = _start(after or {}, keeps_versions)
        first = start.get("StartAfter", "")
        while True:
            page = ask(**asked, **start)
            if first:  # a server that does not know it starts over
                page["Contents"] = [found for found in page.get("Contents", []) if found["Key"] > first]
            pages += 1
            listing.requests += 1
            yield Page(list(_rows(store, page, prefix, keeps_versions)), _last(page, keeps_versions))
            if not page.get("IsTruncated"):
                return
            following = _following(page, keeps_versions)
            if not following or following == start:
                raise SourceRefused(
                    store.uri,
                    f"cannot list {store.uri}: page {pages} announces another page but does not say where it begins. Figures stay as they were.",
                )
            start = following
    except client_errors as error:
        raise _explain(store, root, error, pages) from error
    finally:
        client.close()


def _keeps_versions(client: Any, root: Root, listing: Listing) -> bool | None:
    """Whether the bucket keeps, or once kept, versions; None, with a note, if the bucket does not report it."""
    from botocore.exceptions import ClientError

    try:
        return bool(client.get_bucket_versioning(Bucket=root.bucket).get("Status"))
    except ClientError as error:
        code = error.response.get("Error", {}).get("Code", "unknown")
        listing.notes.append(
            f"bytes of noncurrent versions in bucket {root.bucket} are unknown: {code}. Grant s3:GetBucketVersioning and s3:ListBucketVersions."
        )
        return None


def _start(after: dict[str, str], keeps_versions: bool | None) -> dict[str, str]:
    """Return the position from which an interrupted listing continues, even if the bucket has begun to keep versions meanwhile."""
    if not after:
        return {}
    if not keeps_versions:
        return {"StartAfter": after["key"]}
    return {"KeyMarker": after["key"], **({"VersionIdMarker": after["version"]} if "version" in after else {})}


def _following(page: dict[str, Any], keeps_versions: bool | None) -> dict[str, str]:
    """Return the parameters of the next request."""
    names = {"KeyMarker": "NextKeyMarker", "VersionIdMarker": "NextVersionIdMarker"}
    names = names if keeps_versions else {"ContinuationToken": "NextContinuationToken"}
    return {name: page[given] for name, given in names.items() if page.get(given)}


def _last(page: dict[str, Any], keeps_versions: bool | None) -> dict[str, str] | None:
    """Return the position after this page, valid for hours: tokens expire, names do not."""
    if keeps_versions:
        found = {"key": page.get("NextKeyMarker"), "version": page.get("NextVersionIdMarker")}
        return {name: value for name, value in found.items() if value} if found["key"] else None
    return {"key": page["Contents"][-1]["Key"]} if page.get("Contents") else None


def _rows(store: ArtifactStore, page: dict[str, Any], prefix: str, keeps_versions: bool | None) -> Iterator[FolderTotals]:
    """Yield one row per object, and one per folder and class for noncurrent versions."""
    unknown = None if keeps_versions is None else 0
    noncurrent: dict[tuple[str, str], list[int | None]] = {}
    for found in page.get("Versions" if keeps_versions else "Contents", []):
        key: str = found["Key"]
        if not key.startswith(prefix):
            raise SourceRefused(
                store.uri,
                f"cannot trust the listing of {store.uri}: it contains {key!r}, which was not requested. Figures stay as they were.",
            )
        folder, storage_class, size = key[len(prefix) :].rpartition("/")[0], found.get("StorageClass") or "STANDARD", found.get("Size")
        if not found.get("IsLatest", True):
            total = noncurrent.setdefault((folder, storage_class), [0, 0])
            total[0] = (total[0] or 0) + 1
            total[1] = None if size is None or total[1] is None else total[1] + size
            continue
        modified = found.get("LastModified")
        at = None if modified is None else int(modified.timestamp()) * 1_000_000 + modified.microsecond
        checksum = checksum_of(found.get("ETag")) if size else None
        yield FolderTotals(folder, storage_class, 1, size, at, at, unknown, unknown, checksum)
    for (folder, storage_class), (versions, size) in noncurrent.items():
        yield FolderTotals(folder, storage_class, 0, 0, None, None, versions, size)


def connect_s3(*, endpoint: str | None, region: str | None, profile: str | None, tries: int = 5) -> tuple[Any, tuple[type[Exception], ...]]:
    """Return the S3 client for all of Runspend's work there, and the exceptions that it raises on purpose. Creating the client makes no request.

    `profile` is of the AWS configuration; None or `(env)` is the SDK's own chain. Raises ValueError for settings that cannot be used.
    """
    try:
        import boto3
        from boto3.exceptions import Boto3Error
        from botocore.config import Config
        from botocore.exceptions import BotoCoreError, ClientError, HTTPClientError
    except ImportError as error:
        raise MissingExtra("boto3", "pipeline") from error
    config = Config(
        connect_timeout=10,
        read_timeout=60,
        retries={"mode": "standard", "total_max_attempts": tries},
        user_agent_extra="runspend",
        s3={"addressing_style": "path"} if endpoint else {},
        max_pool_connections=16,
    )
    try:
        session = boto3.session.Session(profile_name=None if profile == ENVIRONMENT else profile)
        client = session.client("s3", region_name=region or session.region_name or "us-east-1", endpoint_url=endpoint, config=config)
    except BotoCoreError as error:
        raise ValueError(str(error)) from error
    if endpoint:
        client.meta.events.register("before-call.s3", _stay_at_endpoint)
    return client, (BotoCoreError, Boto3Error, ClientError, HTTPClientError)


def connect(store: ArtifactStore, *, is_once: bool = False) -> tuple[Any, tuple[type[Exception], ...]]:
    """Return the client of an artifact store. is_once: whether it sends each request only once, without retries.

    Raises SourceUnreachable for credentials or an endpoint that cannot be used.
    """
    profile = None if store.credentials is None else str(store.credentials)
    try:
        return connect_s3(endpoint=store.endpoint, region=store.region, profile=profile, tries=1 if is_once else 5)
    except ValueError as error:
        raise SourceUnreachable(
            store.uri, f"cannot connect to {store.uri}: {_end(error)} Correct credentials, region or endpoint of the store."
        ) from error


def _stay_at_endpoint(context: dict[str, Any], **_: object) -> None:
    """Make the SDK treat requests as already redirected. Its search for the bucket's region never ends when a server answers 302 or 307."""
    context.setdefault("s3_redirect", {})["redirected"] = True


def _explain(store: ArtifactStore, root: Root, error: Any, pages: int) -> SourceError:
    """Explain a failed request, with the fix."""
    where = f"bucket {root.bucket}" + (f" at {store.endpoint}" if store.endpoint else "")
    after = f" after {pages} pages of 1,000" if pages else ""
    response = getattr(error, "response", None)
    if not isinstance(response, dict):
        return SourceUnreachable(
            store.uri, f"cannot list {where}{after}: {_end(error)} Check endpoint, region and credentials. Figures stay as they were."
        )
    code, text = response.get("Error", {}).get("Code", "unknown"), response.get("Error", {}).get("Message", "no message")
    advice = _ADVICE.get(code, "Check the endpoint and region of the store, then measure again.")
    kind = SourceRefused if code in _REFUSALS else SourceUnreachable
    return kind(
        store.uri,
        f"cannot list {where}{after}: {code}, {_end(text)} {advice} Figures stay as they were.",
    )


def _end(text: object) -> str:
    return str(text).rstrip(". ") + "."
