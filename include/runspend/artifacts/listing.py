"""What a flat listing yields and counts, whatever the store. How a store is listed belongs in its own module."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import NamedTuple


class FolderTotals(NamedTuple):
    """Objects directly in one folder, of one storage class. A folder may come several times; its rows add up.

    `bytes` is None when the size of any of them is unknown; times are microseconds since 1970, None when unknown.
    """

    folder: str  # below the store's root, no slash at either end; "" is the root itself
    storage_class: str
    objects: int
    bytes: int | None
    oldest: int | None
    newest: int | None


@dataclass
class Listing:
    """What a listing counts on its way."""

    objects: int = 0
    bytes: int | None = 0  # None as soon as one size is unknown
    requests: int = 0
    links: list[str] = field(default_factory=list)  # symbolic links that lead out of the root

    def count(self, totals: FolderTotals) -> None:
        """Add a folder's totals."""
        self.objects += totals.objects
        self.bytes = None if self.bytes is None or totals.bytes is None else self.bytes + totals.bytes
