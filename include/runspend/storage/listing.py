"""The data types of a listing: totals of folders, and pages. Each kind of store has its own module for listing."""

from __future__ import annotations

import binascii
import re
from base64 import b64decode
from dataclasses import dataclass, field
from typing import NamedTuple

# An ETag is a checksum if it is an MD5, or the MD5 of the parts' MD5s with the number of parts. Other ETags (Azure's, and those of
# encrypted objects) are not checksums.
_CHECKSUM = re.compile(r"[0-9a-f]{32}(?:-\d{1,5})?")


class FolderTotals(NamedTuple):
    """Totals of the objects directly in one folder with one storage class. A folder may have several rows, whose totals add up.

    `bytes` is None if any size is unknown. Times are microseconds since 1970, or None if unknown. A row with a checksum describes one
    object. Noncurrent versions are counted only in their own two fields, which are None if the store does not report them.
    """

    folder: str  # relative to the store's root, without a slash at either end; "" is the root itself
    storage_class: str
    objects: int
    bytes: int | None
    oldest: int | None
    newest: int | None
    noncurrent_objects: int | None = 0
    noncurrent_bytes: int | None = 0
    checksum: str | None = None


class Page(NamedTuple):
    """The result of one request. `after` is the position from which a listing can continue after this page, or None."""

    rows: list[FolderTotals]
    after: dict[str, str] | None = None


@dataclass
class Listing:
    """The counts and findings of a listing in progress."""

    objects: int = 0
    bytes: int | None = 0  # None if any size is unknown
    requests: int = 0
    links: list[str] = field(default_factory=list)  # symbolic links that lead out of the root
    keeps_versions: bool | None = None  # whether the bucket keeps versions; None if unknown
    notes: list[str] = field(default_factory=list)  # sentences about facts that the store does not report

    def count(self, totals: FolderTotals) -> None:
        """Add the totals of a folder to the counts."""
        self.objects += totals.objects
        self.bytes = None if self.bytes is None or totals.bytes is None else self.bytes + totals.bytes


def checksum_of(etag: str | None) -> str | None:
    """Return the checksum that an ETag contains, or None if it is not a checksum."""
    text = (etag or "").strip('"').lower()
    return text if _CHECKSUM.fullmatch(text) else None


def md5_of(text: str | None) -> str | None:
    """Return an MD5 in hexadecimal from the store's Base64 text. Returns None without an MD5: Google's composite objects have none."""
    try:
        return b64decode(text, validate=True).hex() if text else None
    except binascii.Error:
        return None
