"""Verifies delivered files before any row is read: size, digest, every gzip checksum, limits.

Belongs here: checks that do not need the columns of a format. They are necessary because DuckDB reads a gzip with a flipped byte without
an error, and then misses parts of it. The meaning of rows does not belong here.
"""

from __future__ import annotations

import hashlib
import shutil
import zlib
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from runspend.core.errors import SourceRefused, bill_named

CHUNK_BYTES = 1 << 20
# Bills do not have longer lines. DuckDB gets the same limit, which also applies to records with line breaks inside quotes.
MAX_LINE_BYTES = 16 << 20
# Bills become 8 to 40 times smaller by compression. The ratio is checked only if a file has more than `RATIO_FROM_BYTES` of text.
MAX_RATIO = 250
RATIO_FROM_BYTES = 64 << 20
MAX_TEXT_BYTES = 200 << 30
MAX_COLUMNS = 5_000  # the widest real export known has fewer than 1,000: a legacy AWS report with every tag


@dataclass(frozen=True)
class VerifiedFile:
    """A file that is complete. `readable` is plain text or Parquet; a gzip was unpacked into the work folder."""

    readable: Path
    kind: str  # csv, json or parquet
    bytes: int
    sha256: str
    lines: int = 0  # lines of text, including a last line without a line break


def verify_file(source: str, name: str, path: Path, *, stated_bytes: int | None, unpack_to: Path) -> VerifiedFile:
    """Read a whole file once, and return its readable form and digest. Raises SourceRefused if it is damaged, unreadable or too large."""
    try:
        return _verify(source, name, path, stated_bytes, unpack_to)
    except FileNotFoundError as error:
        raise refused(source, name, "it disappeared after the folder was listed. Run the load again") from error
    except PermissionError as error:
        raise refused(source, name, "it is not readable. Check its permissions") from error


def _verify(source: str, name: str, path: Path, stated_bytes: int | None, unpack_to: Path) -> VerifiedFile:
    size = path.stat().st_size
    if stated_bytes is not None and size != stated_bytes:
        raise refused(source, name, f"it has {size} bytes, but the manifest states {stated_bytes}. Deliver it again")
    lower = name.lower()
    if lower.endswith(".parquet"):
        return VerifiedFile(path, "parquet", size, _check_parquet(source, name, path))
    kind = "json" if lower.removesuffix(".gz").endswith((".json", ".jsonl", ".ndjson")) else "csv"
    if lower.endswith(".gz"):
        digest, lines = _unpack(source, name, path, unpack_to)
        return VerifiedFile(unpack_to, kind, size, digest, lines)
    hashed = hashlib.sha256()
    text = _LineGuard(source, name)
    with ThreadPoolExecutor(1) as beside:  # hashing releases the interpreter lock, so the next piece is read and checked meanwhile
        hashing = beside.submit(hashed.update, b"")
        for chunk in _chunks(path):
            text.take(chunk)
            hashing.result()
            hashing = beside.submit(hashed.update, chunk)
        hashing.result()
    return VerifiedFile(path, kind, size, hashed.hexdigest(), text.finish())


class _LineGuard:
    """Counts lines of text. Raises SourceRefused for text that is not in any bill: NUL bytes, very long lines, or nothing at all."""

    def __init__(self, source: str, name: str) -> None:
        self.source, self.name = source, name
        self.bytes = 0
        self.since_newline = 0
        self.newlines = 0

    def take(self, chunk: bytes) -> None:
        self.bytes += len(chunk)
        if self.bytes > MAX_TEXT_BYTES:
            raise refused(self.source, self.name, f"it has more than {MAX_TEXT_BYTES} bytes of text. Split the export")
        if b"\0" in chunk:
            raise refused(self.source, self.name, "it contains a NUL byte, so it is not UTF-8 CSV. Export it as UTF-8")
        first = chunk.find(b"\n")
        self.newlines += chunk.count(b"\n")
        longest = self.since_newline + (len(chunk) if first < 0 else first)
        if longest > MAX_LINE_BYTES:
            raise refused(self.source, self.name, f"it has a line of more than {MAX_LINE_BYTES} bytes. Check the export that wrote it")
        self.since_newline = longest if first < 0 else len(chunk) - chunk.rfind(b"\n") - 1

    def finish(self) -> int:
        """Return the number of lines. Raises SourceRefused if there was no text."""
        if not self.bytes:
            raise refused(self.source, self.name, "it is empty: it does not even have a header. Deliver it again")
        return self.newlines + (self.since_newline > 0)


def _unpack(source: str, name: str, path: Path, unpack_to: Path) -> tuple[str, int]:
    """Unpack a gzip of one or more members. Return (the SHA-256 of the packed bytes, the number of lines of text).

    zlib checks the checksum of every member.
    """
    digest = hashlib.sha256()
    text = _LineGuard(source, name)
    packed = path.stat().st_size
    unpack_to.parent.mkdir(parents=True, exist_ok=True)
    member = zlib.decompressobj(wbits=31)
    is_open = False

    def keep(plain: bytes) -> None:
        text.take(plain)
        if text.bytes > RATIO_FROM_BYTES and text.bytes > MAX_RATIO * packed:
            raise refused(source, name, f"it unpacks to more than {MAX_RATIO} times its {packed} bytes. Check the export that wrote it")
        out.write(plain)

    with unpack_to.open("wb") as out, ThreadPoolExecutor(1) as beside:  # one piece is written while the next is unpacked
        keeping = beside.submit(keep, b"")
        for chunk in _chunks(path):
            digest.update(chunk)
            while chunk:
                if not is_open:
                    chunk = chunk.lstrip(b"\0")  # gzip allows padding between and after members
                    if not chunk:
                        break
                    member, is_open = zlib.decompressobj(wbits=31), True
                try:
                    plain = member.decompress(chunk, CHUNK_BYTES)
                except zlib.error as error:
                    raise refused(source, name, f"its gzip is damaged ({error}). Deliver it again") from error
                keeping.result()
                keeping = beside.submit(keep, plain)
                if member.eof:
                    chunk, is_open = member.unused_data, False
                else:
                    chunk = member.unconsumed_tail
        keeping.result()
        if is_open or not packed:
            raise refused(source, name, "its gzip ends in the middle. Deliver it again")
    return digest.hexdigest(), text.finish()


def _check_parquet(source: str, name: str, path: Path) -> str:
    import pyarrow as pa
    import pyarrow.parquet as pq

    digest = hashlib.sha256()
    for chunk in _chunks(path):
        digest.update(chunk)
    try:
        metadata = pq.read_metadata(path)
    except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
        raise refused(source, name, f"its Parquet cannot be opened ({error}). Deliver it again") from error
    if metadata.num_columns > MAX_COLUMNS:
        raise refused(source, name, f"it has {metadata.num_columns:,} columns, more than {MAX_COLUMNS:,}. Check the export that wrote it")
    unpacked = sum(metadata.row_group(i).total_byte_size for i in range(metadata.num_row_groups))
    if unpacked > MAX_TEXT_BYTES or (unpacked > RATIO_FROM_BYTES and unpacked > MAX_RATIO * path.stat().st_size):
        raise refused(source, name, f"it unpacks to {unpacked} bytes. Check the export that wrote it")
    return digest.hexdigest()


def _chunks(path: Path) -> Iterator[bytes]:
    with path.open("rb") as file:
        while chunk := file.read(CHUNK_BYTES):
            yield chunk


def free_bytes(folder: Path) -> int:
    """Return the free bytes on the disk of the work folder. They also limit how much DuckDB may spill there."""
    return shutil.disk_usage(folder).free


def refused(source: str, name: str, why: str) -> SourceRefused:
    """Return the error for a file that cannot be loaded."""
    return SourceRefused(source, f"cannot load {name} of {bill_named(source)}: {why}. The period did not change.")
