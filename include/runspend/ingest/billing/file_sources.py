"""Where files lie and how they come to this machine: a folder of this machine, a prefix of a bucket.

Put here what all places have in common, the local folder and S3. Google Cloud Storage and Azure Blob Storage are in
`blobs.py`; how a provider lays out its files is for `manifests.py`.
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
from runspend.core.errors import ConfigError, MissingExtra, SourceRefused, SourceUnreachable

CHUNK_BYTES = 4 << 20
# A copy that breaks off is taken up where it stopped this often; the store's client tries each request again by itself.
MAX_RESUMES = 3
# A smaller file is here before anybody asks; of a larger one each tenth is told.
TELL_EACH_BYTES = 100_000_000
ALLOWED = (
    "a file, a folder, s3://bucket/prefix, gs://bucket/prefix, abfss://container@account.dfs.core.windows.net/path or az://container/path"
)

Tell = Callable[[str], None]


@dataclass(frozen=True)
class Entry:
    """One file as its folder lists it; `name` is relative to the source's uri, with forward slashes.

    `stamp` is what a store vouches for: a file of the same name, size and stamp has the same bytes. None: nobody vouches.
    """

    name: str
    bytes: int
    modified_at: datetime
    stamp: str | None = None


class Folder(Protocol):
    """Where files lie: the narrow seam to a disk or an object store."""

    def entries(self) -> list[Entry]:
        """Every file below the source's uri, by name."""
        ...

    def fetch(self, entry: Entry) -> Path:
        """The file on this machine."""
        ...


def open_folder(source: BillSource, workdir: Path, tell: Tell = lambda line: None) -> Folder:
    """The folder or bucket behind a source's uri. Large files are told of through `tell` while they are fetched."""
    uri = source.uri
    if not uri:
        raise ConfigError(f"cannot load bill {source.name}: it has no uri. Set billing[].uri to {ALLOWED}.")
    if uri.startswith("s3://"):
        return S3Prefix(source, uri, workdir / "fetched", tell)
    if "://" in uri and not uri.startswith("file://"):
        from runspend.ingest.billing.blobs import open_blobs

        if blobs := open_blobs(source, uri, workdir / "fetched", tell):
            return blobs
        raise ConfigError(f"cannot load bill {source.name} from {uri}: that kind of address is not read. Set billing[].uri to {ALLOWED}.")
    return LocalFolder(source.name, Path(unquote(uri.removeprefix("file://"))))


@dataclass
class LocalFolder:
    """A file, or a folder with everything below it. Hidden files and links that lead out of it are not read."""

    source: str
    root: Path
    _paths: dict[str, Path] = field(default_factory=dict)

    def entries(self) -> list[Entry]:
        if not self.root.exists():
            raise SourceUnreachable(self.source, f"cannot load bill {self.source}: {self.root} does not exist. Check billing[].uri.")
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
    """A store broke off in the middle of a file; `why` is what the user is told if it goes on doing so."""

    def __init__(self, why: SourceUnreachable) -> None:
        super().__init__(str(why))
        self.why = why


class Bucket(ABC):
    """Everything below a prefix of a bucket; files are copied into the work folder before they are read.

    A store of its own kind lists (`list_objects`) and reads (`read_object`); names and copying are the same for all.
    """

    def __init__(self, source: BillSource, prefix: str, into: Path, tell: Tell) -> None:
        self.source, self.prefix = source, prefix.strip("/")
        self._into, self._tell = into, tell
        self._keys: dict[str, str] = {}

    @abstractmethod
    def list_objects(self) -> Iterator[tuple[str, int, datetime, str | None]]:
        """(key, bytes, last modified, ETag) of every object whose key begins with the prefix, and maybe of others."""

    @abstractmethod
    def read_object(self, key: str, stamp: str | None, start: int) -> Iterator[bytes | memoryview]:
        """The object from a byte on, in chunks. Raises Interrupted, and SourceRefused if it is not the one of this stamp."""

    def entries(self) -> list[Entry]:
        found: dict[str, Entry] = {}
        for key, size, modified, etag in self.list_objects():
            name = self._name(key)
            if name and not any(part.startswith(".") for part in name.split("/")):
                self._keys[name] = key
                found[name] = Entry(name, size, modified.astimezone(timezone.utc), stamp_of(etag))
        # Azure with folders lists each of them as an empty file beside those in it.
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
        """The number of bytes copied. What was interrupted goes on where it stopped, if the stamp says it is the same file."""
        done = resumed = 0
        told = step = max(entry.bytes // 10, TELL_EACH_BYTES)
        while done < entry.bytes:
            try:
                for chunk in self.read_object(self._keys[entry.name], entry.stamp, done):
                    done += out.write(chunk)
                    if done >= told and done < entry.bytes:
                        told = done // step * step + step
                        self._tell(f"{self.source.name}: fetching {entry.name}, {done * 100 // entry.bytes} % of {entry.bytes:,} bytes")
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
        """The key relative to the prefix; None for a folder marker or a sibling that only starts with the same letters."""
        if key.endswith("/"):
            return None
        if key == self.prefix:
            return PurePosixPath(key).name
        folder = f"{self.prefix}/" if self.prefix else ""
        return key[len(folder) :] if key.startswith(folder) else None


def stamp_of(etag: str | None) -> str | None:
    """An ETag in one spelling: listings have it with and without quotes. A weak one (RFC 9110) does not vouch for bytes."""
    return None if not etag or etag.startswith("W/") else etag.strip('"') or None


def changed(source: BillSource, name: str) -> SourceRefused:
    """The refusal of a file that is not the one that was listed."""
    return SourceRefused(source.name, f"cannot load {name} of bill {source.name}: it changed while it was copied. Run the load again.")


class S3Prefix(Bucket):
    """Everything below an S3 prefix. `credentials` is a profile of the AWS configuration; left out, the SDK's own chain."""

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
        try:
            import boto3
        except ImportError as error:
            raise MissingExtra("boto3", "pipeline") from error
        if self._connected is None:
            profile = self.source.credentials
            assert profile is None or isinstance(profile, str)  # a secret is one of Azure's
            session = boto3.session.Session(profile_name=profile, region_name=self.source.region)
            self._connected = session.client("s3", endpoint_url=self.source.endpoint)
            if self.source.endpoint:
                # The SDK's search for the bucket's region would leave the endpoint when a server answers 301 or 307.
                self._connected.meta.events.register("before-call.s3", _stay_at_endpoint)
        return self._connected

    @contextmanager
    def _errors(self) -> Iterator[None]:
        """Turn what boto3 raises into the source's error; its messages carry no keys."""
        from botocore.exceptions import BotoCoreError, ClientError

        try:
            yield
        except (BotoCoreError, ClientError) as error:
            raise self._unreachable(error) from error

    def _unreachable(self, error: Exception) -> SourceUnreachable:
        source = self.source
        return SourceUnreachable(
            source.name, f"cannot read {source.uri} of bill {source.name}: {error}. Check the address, the credentials and their rights."
        )


def _stay_at_endpoint(context: dict[str, Any], **_: object) -> None:
    context.setdefault("s3_redirect", {})["redirected"] = True
