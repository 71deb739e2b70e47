"""Lists the files of a local folder or a prefix of a bucket, and copies them to this machine.

Belongs here: listing and copying. Connections to object stores are in `storage/google.py`, `storage/azure.py` and `storage/s3.py`. The
file layouts of providers are in `manifests.py`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime, timezone
from pathlib import Path, PurePosixPath
from typing import IO, Any, Protocol
from urllib.parse import unquote, urlsplit

from runspend.config.settings import BillSource
from runspend.core.errors import ConfigError, SourceRefused, SourceUnreachable, bill_named
from runspend.storage import azure, google
from runspend.storage.azure import AzureContainer, is_azure
from runspend.storage.google import GoogleBucket
from runspend.storage.listing import md5_of
from runspend.storage.s3 import connect_s3
from runspend.storage.store_errors import CannotReach, StoreError, explain

CHUNK_BYTES = 4 << 20
# An interrupted copy is resumed this many times. In addition, the client of the object store retries each request.
MAX_RESUMES = 3
# The progress of larger files is reported, at each tenth but at most once per this many bytes.
TELL_EACH_BYTES = 100_000_000
ALLOWED = (
    "a file, a folder, s3://bucket/prefix, gs://bucket/prefix, abfss://container@account.dfs.core.windows.net/path or az://container/path"
)

Tell = Callable[[str], None]


@dataclass(frozen=True)
class Entry:
    """One file as its folder or bucket lists it. `name` is relative to the source's uri, with forward slashes.

    A file with the same name, size and `stamp` has the same bytes. `stamp` is None if the store cannot prove that.
    """

    name: str
    bytes: int
    modified_at: datetime
    stamp: str | None = None


class FileSource(Protocol):
    """A folder, a bucket or another source of files. Bills are read only through this interface."""

    def entries(self) -> list[Entry]:
        """Return every file below the source's uri, sorted by name."""
        ...

    def fetch(self, entry: Entry) -> Path:
        """Copy the file to this machine if necessary, and return its path here."""
        ...


def open_folder(source: BillSource, workdir: Path, tell: Tell = lambda line: None) -> FileSource:
    """Return the folder or bucket of a source's uri. `tell` is called with the progress of large files while they are fetched."""
    uri = source.uri
    if not uri:
        raise ConfigError(f"cannot load {bill_named(source.name)}: it has no uri. Set billing[].uri to {ALLOWED}.")
    if uri.startswith("s3://"):
        return S3Prefix(source, uri, workdir / "fetched", tell)
    if "://" in uri and not uri.startswith("file://"):
        if blobs := open_blobs(source, uri, workdir / "fetched", tell):
            return blobs
        raise ConfigError(
            f"cannot load {bill_named(source.name)} from {uri}: Runspend does not support that kind of address. Set billing[].uri to {ALLOWED}."
        )
    return LocalFolder(source.name, Path(unquote(uri.removeprefix("file://"))))


@dataclass
class LocalFolder:
    """A file, or a folder with everything below it. Hidden files, and links to files outside the folder, are not read."""

    source: str
    root: Path
    _paths: dict[str, Path] = field(default_factory=dict)

    def entries(self) -> list[Entry]:
        if not self.root.exists():
            raise SourceUnreachable(self.source, f"cannot load {bill_named(self.source)}: {self.root} does not exist. Check billing[].uri.")
        if self.root.is_file():
            self._paths = {self.root.name: self.root}
        else:
            base = self.root.resolve()
            self._paths = {
                path.relative_to(self.root).as_posix(): path
                for path in sorted(self.root.rglob("*"))
                if path.is_file()
                and path.resolve().is_relative_to(base)
                and not any(part.startswith(".") for part in path.relative_to(self.root).parts)
            }
        stats = {name: path.stat() for name, path in self._paths.items()}
        return [Entry(name, s.st_size, datetime.fromtimestamp(s.st_mtime, timezone.utc)) for name, s in stats.items()]

    def fetch(self, entry: Entry) -> Path:
        return self._paths[entry.name]


class Interrupted(Exception):
    """The transfer of a file ended early. `why` is the error for the user, raised if resuming does not help."""

    def __init__(self, why: SourceUnreachable) -> None:
        super().__init__(str(why))
        self.why = why


class BucketSource(ABC):
    """Everything below a prefix of a bucket. Files are copied into the work folder before they are read.

    Each kind of object store has its own `list_objects` and `read_object`. Names and copying work the same for all.
    """

    def __init__(self, source: BillSource, prefix: str, into: Path, tell: Tell) -> None:
        self.source, self.prefix = source, prefix.strip("/")
        self._into, self._tell = into, tell
        self._keys: dict[str, str] = {}

    @abstractmethod
    def list_objects(self) -> Iterator[tuple[str, int, datetime, str | None]]:
        """Yield (key, bytes, last modified, ETag) of every object whose key begins with the prefix. Others may be among them."""

    @abstractmethod
    def read_object(self, key: str, stamp: str | None, start: int) -> Iterator[bytes | memoryview]:
        """Yield the bytes of an object from position `start`, in chunks.

        Raises Interrupted if the transfer ends early, and SourceRefused if the object's stamp is no longer `stamp`.
        """

    def entries(self) -> list[Entry]:
        found: dict[str, Entry] = {}
        for key, size, modified, etag in self.list_objects():
            name = self._name(key)
            if name and not any(part.startswith(".") for part in name.split("/")):
                self._keys[name] = key
                found[name] = Entry(name, size, modified.astimezone(timezone.utc), stamp_of(etag))
        # Azure storage with a hierarchical namespace lists each folder as an empty file, in addition to the files in it.
        folders = {parent.as_posix() for name in found for parent in PurePosixPath(name).parents}
        return [found[name] for name in sorted(found) if found[name].bytes or name not in folders]

    def fetch(self, entry: Entry) -> Path:
        path = self._into / f"{len(list(self._into.glob('*'))) if self._into.exists() else 0:06d}-{PurePosixPath(entry.name).name}"
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("wb") as out:
            copied = self._copy(entry, out)
        if copied != entry.bytes:
            path.unlink()
            raise changed(self.source, entry.name)
        return path

    def _copy(self, entry: Entry, out: IO[bytes]) -> int:
        """Copy a file and return the number of bytes copied.

        An interrupted copy resumes where it stopped if a stamp proves that the file is unchanged. Otherwise it starts from the beginning.
        """
        done = resumed = 0
        next_report = step = max(entry.bytes // 10, TELL_EACH_BYTES)
        while done < entry.bytes:
            try:
                for chunk in self.read_object(self._keys[entry.name], entry.stamp, done):
                    done += out.write(chunk)
                    if done >= next_report and done < entry.bytes:
                        next_report = done // step * step + step
                        self._tell(f"{self.source.name}: fetching {entry.name}, {done * 100 // entry.bytes}% of {entry.bytes:,} bytes")
                break
            except Interrupted as error:
                if resumed == MAX_RESUMES:
                    raise error.why from None
                resumed += 1
                if entry.stamp is None:
                    done = out.seek(0)
                    out.truncate()
        return done

    def _name(self, key: str) -> str | None:
        """Return the key relative to the prefix, or None for a folder marker and for a key that is not below the prefix.

        `october` starts with the prefix `oct`, but is not below it.
        """
        if key.endswith("/"):
            return None
        if key == self.prefix:
            return PurePosixPath(key).name
        folder = f"{self.prefix}/" if self.prefix else ""
        return key[len(folder) :] if key.startswith(folder) else None


def stamp_of(etag: str | None) -> str | None:
    """Return an ETag without quotes, because only some listings have them.

    Return None for a weak ETag (RFC 9110), because it does not prove that the bytes are equal.
    """
    return None if not etag or etag.startswith("W/") else etag.strip('"') or None


def changed(source: BillSource, name: str) -> SourceRefused:
    """Return the refusal of a file that changed after it was listed."""
    return SourceRefused(
        source.name, f"cannot load {name} of {bill_named(source.name)}: it changed while it was copied. Run the load again."
    )


class S3Prefix(BucketSource):
    """Everything below an S3 prefix. `credentials` is a profile of the AWS configuration. Without it, the SDK finds credentials itself."""

    def __init__(self, source: BillSource, uri: str, into: Path, tell: Tell) -> None:
        parts = urlsplit(uri)
        super().__init__(source, unquote(parts.path), into, tell)
        self._bucket = parts.netloc
        self._connected: Any = None

    def list_objects(self) -> Iterator[tuple[str, int, datetime, str | None]]:
        with self._errors():
            for page in self._client().get_paginator("list_objects_v2").paginate(Bucket=self._bucket, Prefix=self.prefix):
                for item in page.get("Contents", ()):
                    yield item["Key"], item["Size"], item["LastModified"], item.get("ETag")

    def read_object(self, key: str, stamp: str | None, start: int) -> Iterator[bytes | memoryview]:
        from botocore.exceptions import BotoCoreError, ClientError

        request = {"Bucket": self._bucket, "Key": key}
        if stamp:
            request["IfMatch"] = f'"{stamp}"'
        if start:
            request["Range"] = f"bytes={start}-"
        with self._errors():
            try:
                body = self._client().get_object(**request)["Body"]
            except ClientError as error:
                if error.response.get("Error", {}).get("Code") in ("PreconditionFailed", "412", "NoSuchKey", "404"):
                    raise changed(self.source, self._name(key) or key) from error
                raise
        try:
            yield from body.iter_chunks(CHUNK_BYTES)
        except BotoCoreError as error:
            raise Interrupted(self._unreachable(error)) from error
        finally:
            body.close()

    def _client(self) -> Any:
        if self._connected is None:
            profile = self.source.credentials
            assert profile is None or isinstance(profile, str)  # only Azure credentials are secrets
            try:
                self._connected, _ = connect_s3(endpoint=self.source.endpoint, region=self.source.region, profile=profile)
            except ValueError as error:
                raise self._unreachable(error) from error
        return self._connected

    @contextmanager
    def _errors(self) -> Iterator[None]:
        """Raise boto3's errors as SourceUnreachable. Their messages contain no secret keys."""
        from botocore.exceptions import BotoCoreError, ClientError

        try:
            yield
        except (BotoCoreError, ClientError) as error:
            raise self._unreachable(error) from error

    def _unreachable(self, error: Exception) -> SourceUnreachable:
        source = self.source
        return SourceUnreachable(
            source.name,
            f"cannot read {source.uri} of {bill_named(source.name)}: {error}. Check the address, the credentials and their rights.",
        )


def open_blobs(source: BillSource, uri: str, into: Path, tell: Tell) -> BucketSource | None:
    """Return the bucket or container of a Google or Azure address, or None for other addresses."""
    if uri.startswith("gs://"):
        return GooglePrefix(source, uri, into, tell)
    return AzurePrefix(source, uri, into, tell) if is_azure(uri) else None


class BlobPrefix(BucketSource):
    """Everything below a prefix of a Google bucket or an Azure container."""

    what = reader = ""  # the bucket or container, and the right that reading needs

    @contextmanager
    def _errors(self, reading: str | None = None) -> Iterator[None]:
        """Raise the store's errors as errors of the source: SourceUnreachable, SourceRefused or Interrupted.

        `reading` is the key of the object if its bytes are being transferred. Only then SourceRefused and Interrupted are raised.
        """
        try:
            yield
        except CannotReach as error:
            raise _unreachable(self.source, error) from None
        except StoreError as error:
            if reading and error.status in (404, 412):
                raise changed(self.source, self._name(reading) or reading) from None
            why = explain(error, self.what, self.reader, "billing[]")
            if not reading:
                raise _unreachable(self.source, why) from None
            if error.status is None:
                why = CannotReach(
                    f"the store ended the transfer early in {self._name(reading)} each time", "Check the network, or try again later"
                )
            raise Interrupted(_unreachable(self.source, why)) from None


class GooglePrefix(BlobPrefix):
    """Everything below a prefix of a Google bucket."""

    reader = google.READER

    def __init__(self, source: BillSource, uri: str, into: Path, tell: Tell) -> None:
        parts = urlsplit(uri)
        super().__init__(source, unquote(parts.path), into, tell)
        credentials = None if source.credentials is None else str(source.credentials)
        self._bucket = GoogleBucket(parts.netloc, endpoint=source.endpoint, credentials=credentials, setting="billing[]")
        self.what = f"bucket {parts.netloc}"

    def list_objects(self) -> Iterator[tuple[str, int, datetime, str | None]]:
        with self._errors():
            for page, _ in self._bucket.pages(self.prefix, versions=False):
                for found in page:
                    yield found.name, found.size, found.updated, _stamp(found)

    def read_object(self, key: str, stamp: str | None, start: int) -> Iterator[bytes]:
        with self._errors():
            found = self._bucket.look(key)
        if found is None or (stamp and stamp_of(_stamp(found)) != stamp):
            raise changed(self.source, self._name(key) or key)
        with self._errors(reading=key):
            yield from self._bucket.read(key, str(found.generation), found.size, start)


class AzurePrefix(BlobPrefix):
    """Everything below a prefix of an Azure container."""

    reader = azure.READER

    def __init__(self, source: BillSource, uri: str, into: Path, tell: Tell) -> None:
        super().__init__(source, unquote(urlsplit(uri).path), into, tell)
        with self._errors():
            self._container = AzureContainer(uri, endpoint=source.endpoint, credentials=source.credentials, setting="billing[]")
        self.what = self._container.what

    def list_objects(self) -> Iterator[tuple[str, int, datetime, str | None]]:
        with self._errors():
            for blobs, _, _ in self._container.pages(self.prefix):
                for blob in blobs:
                    if blob.size is not None and blob.modified is not None:
                        yield blob.name, blob.size, blob.modified, blob.etag.strip('"')

    def read_object(self, key: str, stamp: str | None, start: int) -> Iterator[bytes]:
        with self._errors(reading=key):
            yield from self._container.read(key, stamp, start)


def _stamp(found: Any) -> str | None:
    """Return the MD5 of a Google object, which stays the same if the same bytes are written again. A composite object has only an ETag."""
    return md5_of(found.md5_hash) or found.etag


def _unreachable(source: BillSource, error: CannotReach) -> SourceUnreachable:
    return SourceUnreachable(source.name, f"cannot read {source.uri} of {bill_named(source.name)}: {error}")
