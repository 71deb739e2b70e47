"""What a flat listing yields and counts, whatever the store. How a store is listed belongs in its own module."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import NamedTuple

# ETags that are made of the bytes: MD5, or MD5 of the parts' MD5s and their number. Others (Azure's, of encrypted objects) say nothing.
_CHECKSUM = re.compile(r"[0-9a-f]{32}(?:-\d{1,5})?")


class FolderTotals(NamedTuple):
    """Objects directly in one folder, of one storage class. A folder may come several times; its rows add up.

    `bytes` is None when the size of any of them is unknown; times are microseconds since 1970, None when unknown. A row
    with a checksum is one object. Noncurrent versions are in no other count; None when the store does not tell.
    """

    folder: str  # below the store's root, no slash at either end; "" is the root itself
    storage_class: str
    objects: int
    bytes: int | None
    oldest: int | None
    newest: int | None
    noncurrent_objects: int | None = 0
    noncurrent_bytes: int | None = 0
    checksum: str | None = None


class Page(NamedTuple):
    """What one request brought, and where the listing goes on after it; None where nobody can say."""

    rows: list[FolderTotals]
    after: dict[str, str] | None = None


@dataclass
class Listing:
    """What a listing counts on its way."""

    objects: int = 0
    bytes: int | None = 0  # None as soon as one size is unknown
    requests: int = 0
    links: list[str] = field(default_factory=list)  # symbolic links that lead out of the root
    keeps_versions: bool | None = None  # whether a bucket does, where it was asked
    notes: list[str] = field(default_factory=list)  # what the store does not tell, in words

    def count(self, totals: FolderTotals) -> None:
        """Add a folder's totals."""
        self.objects += totals.objects
        self.bytes = None if self.bytes is None or totals.bytes is None else self.bytes + totals.bytes


def checksum_of(etag: str | None) -> str | None:
    """The checksum that an ETag is, if it is one."""
    text = (etag or "").strip('"').lower()
    return text if _CHECKSUM.fullmatch(text) else None
