"""Produces the next item while the previous one is in use."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

Item = TypeVar("Item")


class Ahead(Iterator[Item]):
    """Iterate over the same items, reading each one while its predecessor is processed. Reading starts at once. Close it after use."""

    def __init__(self, items: Iterator[Item]) -> None:
        self._beside = ThreadPoolExecutor(1)
        self._items = items
        self._following = self._beside.submit(next, items, None)

    def __next__(self) -> Item:
        item = self._following.result()
        if item is None:
            raise StopIteration
        self._following = self._beside.submit(next, self._items, None)
        return item

    def close(self) -> None:
        """Wait for the current read, then release the thread."""
        self._beside.shutdown()
