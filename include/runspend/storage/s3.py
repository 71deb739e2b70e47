"""Connect to S3, and list a bucket or a prefix with the storage classes of its objects. One request returns up to 1,000 objects.

The listing uses `list_object_versions` if the bucket keeps versions, otherwise `list_objects_v2`. runspend.yaml never contains the
credentials themselves. They come from a named profile in ~/.aws, or from the SDK's default chain of credentials.
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

# Error codes that a retry does not fix, because someone must change a setting or a permission.
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
    """Yield pages of the objects below the root. If `after` is given, continue after that position.

    Raises SourceUnreachable or SourceRefused if the bucket cannot be listed, possibly after some pages.
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
            if first:  # a server that does not support StartAfter lists all objects again
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
    """Return whether the bucket keeps versions now, or did so before. If the bucket does not report it, add a note and return None."""
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
    """Return the request parameters that continue an interrupted listing, even if the bucket has begun to keep versions since then."""
    if not after:
        return {}
    if not keeps_versions:
        return {"StartAfter": after["key"]}
    return {"KeyMarker": after["key"], **({"VersionIdMarker": after["version"]} if "version" in after else {})}


def _following(page: dict[str, Any], keeps_versions: bool | None) -> dict[str, str]:
    """Return the parameters that request the page after this one."""
    names = {"KeyMarker": "NextKeyMarker", "VersionIdMarker": "NextVersionIdMarker"}
    names = names if keeps_versions else {"ContinuationToken": "NextContinuationToken"}
    return {name: page[given] for name, given in names.items() if page.get(given)}


def _last(page: dict[str, Any], keeps_versions: bool | None) -> dict[str, str] | None:
    """Return the position after this page as names of objects and versions. Unlike a continuation token, it does not expire."""
    if keeps_versions:
        found = {"key": page.get("NextKeyMarker"), "version": page.get("NextVersionIdMarker")}
        return {name: value for name, value in found.items() if value} if found["key"] else None
    return {"key": page["Contents"][-1]["Key"]} if page.get("Contents") else None


def _rows(store: ArtifactStore, page: dict[str, Any], prefix: str, keeps_versions: bool | None) -> Iterator[FolderTotals]:
    """Yield one row for each object, and one row for the noncurrent versions of each folder and storage class.

    Raises SourceRefused if a key is outside the requested prefix.
    """
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
    """Return an S3 client with Runspend's settings, and the exception types that it raises. Creating the client sends no request.

    `profile` is the name of a profile in the AWS configuration. None or `(env)` means the SDK's default chain of credentials. Raises
    ValueError if the settings cannot be used.
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
    """Return the S3 client of an artifact store, and the exception types that it raises. `is_once`: send each request only once.

    Raises SourceUnreachable if the credentials, region or endpoint of the store cannot be used.
    """
    profile = None if store.credentials is None else str(store.credentials)
    try:
        return connect_s3(endpoint=store.endpoint, region=store.region, profile=profile, tries=1 if is_once else 5)
    except ValueError as error:
        raise SourceUnreachable(
            store.uri, f"cannot connect to {store.uri}: {_end(error)} Correct credentials, region or endpoint of the store."
        ) from error


def _stay_at_endpoint(context: dict[str, Any], **_: object) -> None:
    """Make the SDK treat the request as already redirected.

    Otherwise, if a server answers 302 or 307, the SDK searches for the bucket's region without end.
    """
    context.setdefault("s3_redirect", {})["redirected"] = True


def _explain(store: ArtifactStore, root: Root, error: Any, pages: int) -> SourceError:
    """Return the error to raise for a failed request. Its message contains the cause and the fix."""
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
