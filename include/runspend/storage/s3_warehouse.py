"""Read and write the warehouse's objects below one prefix of an S3 bucket. No other module of the warehouse uses S3.

Objects are always written as a whole, most of them with a condition. If a condition fails, a method returns None or False. Every other
failure is raised as an error with cause and fix. `warehouse/parquet/bucket.py` defines what the objects contain.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime, timezone
from email.utils import parsedate_to_datetime
from pathlib import Path
from typing import Any

from runspend.core.errors import ConfigError, SourceUnreachable
from runspend.core.own_files import MOST_BYTES, refused
from runspend.storage.s3 import connect_s3

BLOCK = 1 << 20
ONE_COPY = 5_000_000_000  # bytes; larger objects are copied in parts
ADVICE = {
    "NoSuchBucket": "Create the bucket, or correct warehouse.uri.",
    "InvalidAccessKeyId": "Correct the credentials.",
    "SignatureDoesNotMatch": "Correct the credentials.",
    "ExpiredToken": "Log in again.",
    "NotImplemented": "The store does not support conditional writes. Set warehouse.uri to a folder, or to a store that supports them.",
}


class NotAllowed(ConfigError):
    """The store refused the request because the credentials lack the right. It may still allow reading."""


@dataclass(frozen=True)
class Object:
    """A small object that was read. `age` is its age in seconds by the store's clock, which is the same for all machines."""

    body: bytes
    etag: str
    age: float


class Bucket:
    """The objects below `s3://bucket/prefix`. All keys are relative to the prefix."""

    def __init__(self, uri: str, *, endpoint: str | None = None, region: str | None = None, credentials: str | None = None) -> None:
        found = re.fullmatch(r"s3://([^/]+)(?:/(.*?))?/*", uri)
        if found is None:
            raise ConfigError(f"cannot open warehouse {uri!r}: it does not name a bucket. Write s3://bucket/prefix.")
        self.name, prefix = found[1], (found[2] or "").strip("/")
        self.prefix = f"{prefix}/" if prefix else ""
        self.uri = f"s3://{self.name}/{self.prefix}".rstrip("/")
        self.where = self.uri + (f" at {endpoint}" if endpoint else "")
        try:
            self._client, self._errors = connect_s3(endpoint=endpoint, region=region, profile=credentials)
        except ValueError as error:
            raise ConfigError(
                f"cannot open warehouse {self.where}: {error}. Correct credentials, region or endpoint of the warehouse."
            ) from error

    def get(self, key: str) -> Object | None:
        """Return a small object, or None if it does not exist. Raises an error if it is larger than MOST_BYTES."""
        with self._translate_errors(f"read {key}"):
            try:
                answer = self._client.get_object(Bucket=self.name, Key=self.prefix + key)
                if answer["ContentLength"] > MOST_BYTES:
                    where, why = (
                        f"{self.uri}/{key}",
                        f"it has {answer['ContentLength']:,} bytes, and Runspend writes {MOST_BYTES:,} at most",
                    )
                    raise refused(where, why, do="Restore an older version of the object.")
                return Object(answer["Body"].read(), answer["ETag"], _age(answer, answer["LastModified"]))
            except self._errors as error:
                if _code(error) in ("NoSuchKey", "404"):
                    return None
                raise

    def etag(self, key: str) -> str | None:
        """Return the ETag of the current object, or None if it does not exist."""
        with self._translate_errors(f"read {key}"):
            try:
                return str(self._client.head_object(Bucket=self.name, Key=self.prefix + key)["ETag"])
            except self._errors as error:
                if _code(error) in ("NoSuchKey", "404"):
                    return None
                raise

    def create(self, key: str, body: bytes) -> str | None:
        """Create an object and return its ETag, or None if another object with this key exists."""
        return self._put_if(key, body, {"IfNoneMatch": "*"})

    def replace(self, key: str, body: bytes, etag: str) -> str | None:
        """Replace an object if it still has this ETag, and return the new ETag. Returns None if the object has changed.

        Every body that is written under a key must be different from all others, because a body identifies its writer.
        """
        return self._put_if(key, body, {"IfMatch": etag})

    def upload(self, key: str, path: Path) -> None:
        """Upload a file. An existing object is overwritten."""
        with self._translate_errors(f"write {key}"):
            self._client.upload_file(str(path), self.name, self.prefix + key)

    def download(self, key: str, path: Path) -> str | None:
        """Download an object to a file and return the SHA-256 of its bytes, or None if the object does not exist."""
        digest = hashlib.sha256()
        with self._translate_errors(f"read {key}"):
            try:
                body = self._client.get_object(Bucket=self.name, Key=self.prefix + key)["Body"]
            except self._errors as error:
                if _code(error) in ("NoSuchKey", "404"):
                    return None
                raise
            with path.open("wb") as file:
                for block in body.iter_chunks(BLOCK):
                    digest.update(block)
                    file.write(block)
        return digest.hexdigest()

    def copy(self, source: str, target: str, size: int) -> bool:
        """Copy an object of `size` bytes inside the store. Returns False if the source does not exist."""
        origin = {"Bucket": self.name, "Key": self.prefix + source}
        with self._translate_errors(f"write {target}"):
            try:
                if size < ONE_COPY:
                    self._client.copy_object(CopySource=origin, Bucket=self.name, Key=self.prefix + target)
                else:
                    self._client.copy(origin, self.name, self.prefix + target)
            except self._errors as error:
                if _code(error) in ("NoSuchKey", "404"):
                    return False
                raise
        return True

    def delete(self, key: str, *, etag: str | None = None) -> None:
        """Delete an object; with `etag`, only if it still has this ETag. Does nothing if the object is gone or has changed."""
        with self._translate_errors(f"remove {key}"):
            try:
                self._client.delete_object(Bucket=self.name, Key=self.prefix + key, **({"IfMatch": etag} if etag else {}))
            except self._errors as error:
                if _code(error) not in ("NoSuchKey", "404", "PreconditionFailed", "412", "ConditionalRequestConflict", "409"):
                    raise

    def ages(self, prefix: str) -> Iterator[tuple[str, float]]:
        """Yield the keys that begin with a prefix, and the ages of their objects in seconds."""
        with self._translate_errors(f"list {prefix}"):
            for page in self._client.get_paginator("list_objects_v2").paginate(Bucket=self.name, Prefix=self.prefix + prefix):
                for entry in page.get("Contents", []):
                    yield entry["Key"].removeprefix(self.prefix), _age(page, entry["LastModified"])

    def _put_if(self, key: str, body: bytes, condition: dict[str, str]) -> str | None:
        with self._translate_errors(f"write {key}"):
            try:
                return str(self._client.put_object(Bucket=self.name, Key=self.prefix + key, Body=body, **condition)["ETag"])
            except self._errors as error:
                if _code(error) not in ("PreconditionFailed", "412", "ConditionalRequestConflict", "409", "NoSuchKey", "404"):
                    raise
        there = self.get(key)  # if a put was retried because its answer was lost, the object may be its own
        return there.etag if there is not None and there.body == body else None

    @contextmanager
    def _translate_errors(self, what: str) -> Iterator[None]:
        try:
            yield
        except self._errors as error:
            code = _code(error)
            text = f"cannot use warehouse {self.where}: could not {what}: {error}"
            if code in ("AccessDenied", "403"):
                raise NotAllowed(f"{text}. Give the credentials the right to do this, or use other credentials.") from error
            if code in ADVICE:
                raise ConfigError(f"{text}. {ADVICE[code]}") from error
            advice = "Check endpoint and network, then run the command again. It continues where it stopped."
            raise SourceUnreachable("warehouse", f"{text}. {advice}") from error


def _code(error: Exception) -> str:
    response = getattr(error if hasattr(error, "response") else error.__context__, "response", None)  # upload errors wrap the response
    return str(response.get("Error", {}).get("Code", "")) if isinstance(response, dict) else ""


def _age(answer: Any, modified: datetime) -> float:
    """Return the seconds since an object was written, by the clock of the store."""
    date = answer["ResponseMetadata"]["HTTPHeaders"].get("date")
    now = datetime.now(timezone.utc) if date is None else parsedate_to_datetime(date)
    return (now - modified).total_seconds()
