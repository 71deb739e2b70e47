"""Read Amazon S3 Inventory instead of listing a bucket, for buckets that are too large to list.

The newest manifest is read, its files are checked against it, and their rows are staged. `stores[].inventory` is the folder that contains
the dated folders (s3://DESTINATION/PREFIX/SOURCE-BUCKET/CONFIG-ID/, or a local copy). Nothing outside that folder is read, even if a
manifest names it. If any file of an inventory is missing or damaged, the whole inventory is refused.
Source: "Amazon S3 Inventory", "Inventory manifest" in the S3 User Guide.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from runspend.core.ctrl_c import let_ctrl_c_interrupt
from runspend.core.errors import MissingExtra, SourceRefused, SourceUnreachable
from runspend.core.outside_json import parse_json
from runspend.ingest.artifacts.staging import Staging
from runspend.storage.listing import Listing
from runspend.storage.uris import Root

if TYPE_CHECKING:
    from runspend.config.settings import ArtifactStore

_SQL = Path(__file__).parent
_DATED = re.compile(r"\d{4}-\d\d-\d\dT\d\d-\d\dZ")
_MANIFEST_BYTES = 64_000_000  # largest accepted manifest; one with a hundred thousand files has 20 MB
_CHUNK_BYTES = 4 << 20
# Column names in the manifests of CSV inventories, and the names of the same columns in Parquet inventories.
_COLUMNS = {
    "Bucket": "bucket",
    "Key": "key",
    "IsLatest": "is_latest",
    "IsDeleteMarker": "is_delete_marker",
    "Size": "size",
    "LastModifiedDate": "last_modified_date",
    "ETag": "e_tag",
    "StorageClass": "storage_class",
}


class Files(Protocol):
    """Access to the files of inventories. File names are relative to the folder in `stores[].inventory`."""

    prefix: str  # the prefix that all keys in a manifest must have; "" if there is none
    bucket: str  # the bucket that contains the inventories; "" for a local copy

    def dated(self) -> list[str]:
        """Return the names of the folders directly below the inventory folder."""
        ...

    def read(self, name: str) -> Iterator[bytes]:
        """Yield a file in chunks. Raises FileNotFoundError if it does not exist."""
        ...


@dataclass(frozen=True)
class Manifest:
    """The manifest of one inventory."""

    name: str  # its dated folder
    created_at: datetime
    file_format: str
    columns: list[str]  # the columns of CSV files in order, with the names of Parquet files; empty for Parquet
    files: list[tuple[str, int, str]]  # name relative to the inventory folder, size in bytes, MD5


def stage_inventory(
    store: ArtifactStore,
    root: Root,
    staging: Staging,
    listing: Listing,
    workdir: Path,
    *,
    now: datetime,
    progress: Callable[[str], None],
) -> datetime:
    """Write the newest inventory that is not newer than `now` to the staging files. Return the time at which it was made.

    Raises SourceRefused if the inventory is damaged or incomplete.
    """
    files = _open(store, root)
    manifest = _read_manifest(store, root, files, now)
    copy = workdir / "inventory-file"
    staging.clear()
    with closing(_engine(workdir)) as con, let_ctrl_c_interrupt(con):
        for number, (name, size, md5) in enumerate(manifest.files):
            _fetch(store, files, name, size, md5, copy)
            listing.requests += 1
            _stage_file(con, store, root, manifest, copy, staging.folder / f"{number:06d}.parquet")
            staging.parts = number + 1
            progress(f"{store.uri}: {number + 1:,} of {len(manifest.files):,} inventory files read")
        if not manifest.files:
            staging.write([])
        counted = con.execute(
            "select sum(objects)::bigint, if(count(*) = count(bytes), sum(bytes)::bigint, null) from read_parquet($1)", [staging.files]
        ).fetchone()
    copy.unlink(missing_ok=True)
    assert counted is not None
    listing.objects, listing.bytes = (counted[0] or 0), (counted[1] if counted[0] else 0)
    hours = int((now - manifest.created_at).total_seconds() // 3600)
    listing.notes.append(
        f"{store.uri}: its inventory is from {manifest.created_at:%Y-%m-%d %H:%M} UTC, {hours} h old. Later changes are not in it."
    )
    return manifest.created_at


def describe_inventory(store: ArtifactStore, root: Root, now: datetime) -> str:
    """Return a phrase about the newest inventory for `doctor`. Only its manifest is read. Raises SourceError if it cannot be used."""
    manifest = _read_manifest(store, root, _open(store, root), now)
    hours = int((now - manifest.created_at).total_seconds() // 3600)
    return f"its inventory from {manifest.created_at:%Y-%m-%d %H:%M} UTC can be read, {hours} h old, {len(manifest.files):,} files ({manifest.file_format})"


def _read_manifest(store: ArtifactStore, root: Root, files: Files, now: datetime) -> Manifest:
    """Return the newest manifest. Raises SourceRefused if it does not match its checksum, or belongs to another bucket."""
    names = sorted(name for name in files.dated() if _DATED.fullmatch(name) and name <= f"{now.astimezone(timezone.utc):%Y-%m-%dT%H-%MZ}")
    if not names:
        raise _refused(
            store, "the folder has no inventory", "Point `inventory` at the folder with the dated inventories, or wait for the first one"
        )
    name = names[-1]
    try:
        data = _all(store, files.read(f"{name}/manifest.json"))
        checksum = _all(store, files.read(f"{name}/manifest.checksum")).decode("ascii", "replace").strip()
    except FileNotFoundError:
        raise _refused(store, f"{name} has no manifest with a checksum yet", "Measure again when it is delivered") from None
    if hashlib.md5(data, usedforsecurity=False).hexdigest() != checksum.lower():
        raise _refused(store, f"{name}/manifest.json does not match its checksum", "Copy it again, or wait for the next inventory")
    try:
        parsed = parse_json(data)
        file_format, schema = str(parsed["fileFormat"]), str(parsed["fileSchema"])
        created_at = datetime.fromtimestamp(int(parsed["creationTimestamp"]) / 1000, timezone.utc)
        listed = [(str(file["key"]), int(file["size"]), str(file["MD5checksum"])) for file in parsed["files"]]
        source, destination = str(parsed["sourceBucket"]), str(parsed["destinationBucket"]).rpartition(":")[2]
    except (ValueError, LookupError, TypeError, OverflowError, RecursionError, OSError) as error:
        raise _refused(store, f"{name}/manifest.json cannot be read ({type(error).__name__})", "Check the inventory") from error
    if source != root.bucket or (files.bucket and destination != files.bucket):
        raise _refused(
            store, f"{name} belongs to bucket {source} in {destination}", f"Point `inventory` at an inventory of bucket {root.bucket}"
        )
    if file_format.upper() not in ("PARQUET", "CSV"):
        raise _refused(store, f"its files are {file_format}", "Configure the inventory as Parquet or CSV")
    columns = [part.strip() for part in schema.split(",")] if file_format.upper() == "CSV" else []
    if columns and not {"Bucket", "Key", "Size"} <= set(columns):
        raise _refused(
            store, f"its files have no {', '.join(sorted({'Bucket', 'Key', 'Size'} - set(columns)))}", "Add it to the inventory's fields"
        )
    below = [(_below(store, files, key), size, md5) for key, size, md5 in listed]
    return Manifest(name, created_at, file_format.upper(), [_COLUMNS.get(c, f"other_{n}") for n, c in enumerate(columns)], below)


def _below(store: ArtifactStore, files: Files, key: str) -> str:
    """Return the name of a data file relative to the inventory folder. Raises SourceRefused if the file is outside that folder.

    In a local copy, the manifest's keys still name the original location, so only the text after the last /data/ is used.
    """
    name = key.removeprefix(files.prefix) if files.prefix else f"data/{key.rpartition('/data/')[2]}"
    if (files.prefix and not key.startswith(files.prefix)) or any(part in ("", ".", "..") for part in name.split("/")):
        raise _refused(store, f"its manifest names {key!r}, which is outside the inventory's folder", "Check who can write there")
    return name


def _fetch(store: ArtifactStore, files: Files, name: str, size: int, md5: str, into: Path) -> None:
    """Copy one file to `into`. Raises SourceRefused if it is missing, or its size or MD5 differs from the manifest."""
    digest, copied = hashlib.md5(usedforsecurity=False), 0
    try:
        with into.open("wb") as out:
            for chunk in files.read(name):
                digest.update(chunk)
                copied += out.write(chunk)
    except FileNotFoundError:
        raise _refused(store, f"{name}, which its manifest names, is missing", "Copy it again, or wait for the next inventory") from None
    if copied != size or digest.hexdigest() != md5.lower():
        raise _refused(
            store, f"{name} does not match its manifest ({copied:,} of {size:,} bytes)", "Copy it again, or wait for the next inventory"
        )


def _stage_file(con: Any, store: ArtifactStore, root: Root, manifest: Manifest, file: Path, part: Path) -> None:
    """Convert one data file of the inventory to a staging file. Raises SourceRefused if it cannot be read or has rows of another bucket."""
    import duckdb

    try:
        if manifest.columns:
            types = dict.fromkeys(manifest.columns, "varchar")
            con.read_csv(str(file), header=False, columns=types, quotechar='"', escapechar='"', compression="gzip").create_view(
                "given", replace=True
            )
        else:
            con.read_parquet(str(file)).create_view("given", replace=True)
        names = {row[0] for row in con.execute("describe given").fetchall()}
        if missing := {"bucket", "key", "size"} - names:
            raise _refused(store, f"its files have no {', '.join(sorted(missing))}", "Add it to the inventory's fields")
        absent = sorted(set(_COLUMNS.values()) - names)
        con.execute(
            f"create or replace temp view rows_given as select *{''.join(f', null::varchar as {name}' for name in absent)} from given"
        )
        others = con.execute("select count(*) from rows_given where bucket is distinct from $1 or key is null", [root.bucket]).fetchone()
        if others[0]:
            raise _refused(store, f"{others[0]:,} of its rows do not belong to bucket {root.bucket}", "Check the inventory")
        con.execute(
            f"create or replace temp table staged as {(_SQL / 'inventory.sql').read_text()}",
            {
                "prefix": f"{root.folder}/" if root.folder else "",
                "is_encoded": bool(manifest.columns),
                "tells_versions": "is_latest" not in absent,
            },
        )
        con.table("staged").write_parquet(str(part))
    except duckdb.Error as error:
        raise _refused(store, f"a file of {manifest.name} cannot be read: {str(error).splitlines()[0]}", "Check the inventory") from error


def _open(store: ArtifactStore, root: Root) -> Files:
    uri = store.inventory or ""
    if root.scheme != "s3":
        raise _refused(store, "only s3:// stores can have an inventory", "Leave `inventory` out: then Runspend lists the store")
    if uri.startswith("s3://"):
        bucket, _, folder = uri.removeprefix("s3://").partition("/")
        return _BucketFiles(store, bucket, f"{folder.strip('/')}/")
    if "://" in uri and not uri.startswith("file:///"):
        raise _refused(store, "it is neither an s3:// address nor a folder", "Write s3://BUCKET/PREFIX/SOURCE-BUCKET/CONFIG-ID/")
    return _FolderFiles(Path(uri.removeprefix("file://")))


class _FolderFiles:
    """A local copy of inventories."""

    prefix = bucket = ""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def dated(self) -> list[str]:
        return [path.name for path in self._folder.iterdir() if path.is_dir()] if self._folder.is_dir() else []

    def read(self, name: str) -> Iterator[bytes]:
        with (self._folder / name).open("rb") as file:
            while chunk := file.read(_CHUNK_BYTES):
                yield chunk


class _BucketFiles:
    """Inventories in an S3 bucket, read with the credentials of the artifact store."""

    def __init__(self, store: ArtifactStore, bucket: str, prefix: str) -> None:
        from runspend.storage.s3 import connect

        self.bucket, self.prefix, self._store = bucket, prefix, store
        self._client, self._errors = connect(store)

    def dated(self) -> list[str]:
        try:
            pages = self._client.get_paginator("list_objects_v2").paginate(Bucket=self.bucket, Prefix=self.prefix, Delimiter="/")
            return [p["Prefix"][len(self.prefix) :].strip("/") for page in pages for p in page.get("CommonPrefixes", [])]
        except self._errors as error:
            raise self._unreachable(error) from error

    def read(self, name: str) -> Iterator[bytes]:
        try:
            body = self._client.get_object(Bucket=self.bucket, Key=f"{self.prefix}{name}")["Body"]
            with closing(body):
                yield from body.iter_chunks(_CHUNK_BYTES)
        except self._errors as error:
            response = getattr(error, "response", None) or {}
            if response.get("Error", {}).get("Code") in ("NoSuchKey", "404"):
                raise FileNotFoundError(name) from error
            raise self._unreachable(error) from error

    def _unreachable(self, error: Exception) -> SourceUnreachable:
        text = str(error).rstrip(". ")
        return SourceUnreachable(
            self._store.uri,
            f"cannot read the inventory {self._store.inventory}: {text}. Check its address and rights. Figures stay as they were.",
        )


def _all(store: ArtifactStore, chunks: Iterator[bytes]) -> bytes:
    data = bytearray()
    for chunk in chunks:
        data += chunk
        if len(data) > _MANIFEST_BYTES:
            raise _refused(store, f"its manifest has more than {_MANIFEST_BYTES:,} bytes", "Check the inventory")
    return bytes(data)


def _engine(workdir: Path) -> Any:
    try:
        import duckdb
    except ImportError as error:
        raise MissingExtra("duckdb", "pipeline") from error
    con = duckdb.connect()
    con.execute("set temp_directory = ?", [str(workdir / "spill")])
    con.execute("set TimeZone = 'UTC'")
    return con


def _refused(store: ArtifactStore, why: str, advice: str) -> SourceRefused:
    return SourceRefused(store.uri, f"cannot use the inventory {store.inventory}: {why}. {advice}. Figures stay as they were.")
