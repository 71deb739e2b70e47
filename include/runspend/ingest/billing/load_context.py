"""What every step of one bill's load needs to know, and the one way to refuse.

Put here what is the same for all files and periods of tonight. What is done with it is in `load.py`.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING

from runspend.config.settings import BillSource
from runspend.core.errors import SourceRefused
from runspend.ingest.billing import versions
from runspend.ingest.billing.normalize import Rules
from runspend.ingest.billing.versions import Book

if TYPE_CHECKING:
    import pyarrow as pa

Previous = Callable[[str, str], "pa.Table | None"]


@dataclass
class Tonight:
    """The arguments of `load_source`, once."""

    source: BillSource
    now: datetime
    rules: Rules
    previous: Previous
    accept: Collection[str]
    workdir: Path
    load_id: str
    progress: Callable[[str], None]
    books: dict[str, Book]
    settings: str
    memory: int | None = None  # bytes; None is as many as the machine allows
    damaged: Collection[str] = ()  # periods whose published rows are damaged

    def settings_of(self, period: str) -> str:
        """What besides a period's files decides its rows: the settings, and the weights of other sources that reach into it."""
        return "\n".join([self.settings, *(weights.digest_of(period) for weights in self.rules.weights)])

    def book(self, period: str) -> Book:
        if period not in self.books:
            self.books[period] = versions.read_book(self.source.name, period, self.previous("billing_loads", period))
        return self.books[period]

    def standing(self, period: str) -> str | None:
        """The version whose rows need not be read again: the one in place, unless its rows are damaged."""
        return None if period in self.damaged else self.book(period).version


def refused(tonight: Tonight, why: str, period: str | None) -> SourceRefused:
    name = tonight.source.name
    if why.startswith("cannot "):
        return SourceRefused(name, why, period=period)
    what = f"{period} of bill {name}" if period else f"bill {name}"
    return SourceRefused(name, f"cannot load {what}: {why}. The period was left as it was.", period=period)
