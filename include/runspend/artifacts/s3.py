"""Flat listing of a bucket or prefix with `list_objects_v2`: one request per 1,000 objects, storage classes included.

boto3, because obstore's listing, four times as fast, has no storage class. Credentials never come from runspend.yaml: a
profile name of ~/.aws, or the SDK's own chain of places.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from runspend.artifacts.listing import FolderTotals, Listing
from runspend.artifacts.roots import Root
from runspend.errors import MissingExtra, SourceError, SourceRefused, SourceUnreachable

if TYPE_CHECKING:
    from runspend.config import ArtifactStore

# Error codes after which asking again tomorrow changes nothing: somebody has to act.
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


def list_bucket(store: ArtifactStore, root: Root, listing: Listing, *, page_size: int = 1000) -> Iterator[FolderTotals]:
    """One row per folder, class and page. Raises SourceUnreachable or SourceRefused, also half-way."""
    client, client_errors = _connect(store)
    prefix = f"{root.folder}/" if root.folder else ""
    request: dict[str, Any] = {"Bucket": root.bucket, "Prefix": prefix, "MaxKeys": page_size}
    try:
        while True:
            try:
                page = client.list_objects_v2(**request)
            except client_errors as error:
                raise _explain(store, root, error, listing.requests) from error
            listing.requests += 1
            yield from _sum_page(store, page.get("Contents", []), prefix)
            if not page.get("IsTruncated"):
                return
            token = page.get("NextContinuationToken")
            if not token or token == request.get("ContinuationToken"):
                raise SourceRefused(
                    store.uri,
                    f"cannot list {store.uri}: page {listing.requests} says there is more but not where. Figures stay as they were.",
                )
            request["ContinuationToken"] = token
    finally:
        client.close()


def _sum_page(store: ArtifactStore, contents: list[dict[str, Any]], prefix: str) -> Iterator[FolderTotals]:
    """Totals per folder and class of one page."""
    sums: dict[tuple[str, str], list[Any]] = {}
    for found in contents:
        key: str = found["Key"]
        if not key.startswith(prefix):
            raise SourceRefused(
                store.uri, f"cannot believe the listing of {store.uri}: it answered with {key!r}. Figures stay as they were."
            )
        size, modified = found.get("Size"), found.get("LastModified")
        at = None if modified is None else int(modified.timestamp()) * 1_000_000 + modified.microsecond
        group = key[len(prefix) :].rpartition("/")[0], found.get("StorageClass") or "STANDARD"
        total = sums.get(group)
        if total is None:
            sums[group] = [1, size, at, at]
            continue
        total[0] += 1
        total[1] = None if size is None or total[1] is None else total[1] + size
        if at is not None:
            total[2] = at if total[2] is None else min(total[2], at)
            total[3] = at if total[3] is None else max(total[3], at)
    for (folder, storage_class), (objects, size, oldest, newest) in sums.items():
        yield FolderTotals(folder, storage_class, objects, size, oldest, newest)


def _connect(store: ArtifactStore) -> tuple[Any, tuple[type[Exception], ...]]:
    """A client, and the exceptions it raises on purpose. Making it contacts nobody."""
    try:
        import boto3
        from botocore.config import Config
        from botocore.exceptions import BotoCoreError, ClientError, HTTPClientError
    except ImportError as error:
        raise MissingExtra("boto3", "pipeline") from error
    config = Config(
        connect_timeout=10,
        read_timeout=60,
        retries={"mode": "standard", "max_attempts": 4},
        user_agent_extra="runspend",
        s3={"addressing_style": "path"} if store.endpoint else {},
    )
    profile = None if store.credentials in (None, "(env)") else store.credentials
    try:
        session = boto3.session.Session(profile_name=profile)
        region = store.region or session.region_name or "us-east-1"
        client = session.client("s3", region_name=region, endpoint_url=store.endpoint, config=config)
    except (BotoCoreError, ValueError) as error:  # ValueError: an endpoint that is no URL
        raise SourceUnreachable(
            store.uri, f"cannot connect to {store.uri}: {_end(error)} Correct credentials, region or endpoint of the store."
        ) from error
    if store.endpoint:
        client.meta.events.register("before-call.s3", _stay_at_endpoint)
    return client, (BotoCoreError, ClientError, HTTPClientError)


def _stay_at_endpoint(context: dict[str, Any], **_: object) -> None:
    """Tell the SDK it was redirected already: its search for the bucket's region recurses for ever when a server answers 302 or 307."""
    context.setdefault("s3_redirect", {})["redirected"] = True


def _explain(store: ArtifactStore, root: Root, error: Any, pages: int) -> SourceError:
    """The error of a request, in words, with what to do."""
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
