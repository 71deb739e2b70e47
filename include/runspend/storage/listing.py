"""Totals and pages of a flat listing of any store. Each store's module does the listing."""

from __future__ import annotations

import binascii
import re
from base64 import b64decode
from dataclasses import dataclass, field
from typing import NamedTuple

# ETags that are MD5, or MD5 of the parts' MD5s and their number, are checksums. Others (Azure's, of encrypted objects) are not.
_CHECKSUM = re.compile(r"[0-9a-f]{32}(?:-\d{1,5})?")


class FolderTotals(NamedTuple):
    """Objects directly in one folder, of one storage class. A folder may occur several times; its rows add up.

    `bytes` is None when any size is unknown. Times are microseconds since 1970, None when unknown. A row with a checksum is one
    object. Noncurrent versions are not included in other counts; None when the store does not report them.
    """

    folder: str  # below the store's root, without slashes at its ends; "" is the root itself
    storage_class: str
    objects: int
    bytes: int | None
    oldest: int | None
    newest: int | None
    noncurrent_objects: int | None = 0
    noncurrent_bytes: int | None = 0
    checksum: str | None = None


class Page(NamedTuple):
    """The result of one request, and where the listing continues after it; None where it cannot continue."""

    rows: list[FolderTotals]
    after: dict[str, str] | None = None


@dataclass
class Listing:
    """The counts of a listing in progress."""

    objects: int = 0
    bytes: int | None = 0  # None as soon as one size is unknown
    requests: int = 0
    links: list[str] = field(default_factory=list)  # symbolic links that lead out of the root
    keeps_versions: bool | None = None  # whether the bucket keeps versions, where it was asked
    notes: list[str] = field(default_factory=list)  # properties that the store does not report, in words

    def count(self, totals: FolderTotals) -> None:
        """Add a folder's totals."""
        self.objects += totals.objects
        self.bytes = None if self.bytes is None or totals.bytes is None else self.bytes + totals.bytes


def checksum_of(etag: str | None) -> str | None:
    """Return the checksum in an ETag, if it is one."""
    text = (etag or "").strip('"').lower()
    return text if _CHECKSUM.fullmatch(text) else None


def md5_of(text: str | None) -> str | None:
    """Return an MD5 in hexadecimal that a store gives in Base64; None without one, as composite objects of Google have none."""
    try:
        return b64decode(text, validate=True).hex() if text else None
    except binascii.Error:
        return None
