"""Holds the context that every step of one bill's load needs, and the function that builds a refusal.

Belongs here: values that are the same for all files and periods of a load. `load.py` creates the context.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING

from runspend.config.settings import BillSource
from runspend.core.errors import SourceRefused, bill_named
from runspend.ingest.billing import versions
from runspend.ingest.billing.normalize import Rules
from runspend.ingest.billing.versions import LoadHistory, VersionFacts

if TYPE_CHECKING:
    import pyarrow as pa

Previous = Callable[[str, str], "pa.Table | None"]


@dataclass(frozen=True)
class PublishedBill:
    """The data of a bill in the warehouse before a load. `rows(table, "2026-10")` returns a period's rows of a table, or None."""

    rows: Previous
    periods: Sequence[str] = ()
    damaged: Collection[str] = ()  # periods whose rows are damaged, which are read again even if their files have not changed


@dataclass
class LoadContext:
    """The arguments of `load_source`, and the load histories of the bill's periods."""

    source: BillSource
    now: datetime
    rules: Rules
    previous: Previous
    accept: Collection[str]
    workdir: Path
    load_id: str
    progress: Callable[[str], None]
    histories: dict[str, LoadHistory]
    settings: str
    memory: int | None = None  # in bytes; None means as much as the machine allows
    damaged: Collection[str] = ()  # periods whose published rows are damaged

    def settings_of(self, period: str) -> str:
        """Return everything except the files that decides the rows of a period: the settings, and the weights of other sources."""
        return "\n".join([self.settings, *(weights.digest_of(period) for weights in self.rules.weights)])

    def history(self, period: str) -> LoadHistory:
        if period not in self.histories:
            self.histories[period] = versions.read_history(self.source.name, period, self.previous("billing_loads", period))
        return self.histories[period]

    def standing(self, period: str) -> str | None:
        """Return the version in place, or None if its rows are damaged. A delivery with this version is not read again."""
        return None if period in self.damaged else self.history(period).version

    def version_facts(self, period: str, parts: Iterable[str], delivered_at: datetime | None = None) -> VersionFacts:
        """Return the facts of the version that these parts (digests) make, without rows. `delivered_at`: None means now."""
        return VersionFacts(versions.version_of(parts, self.settings_of(period)), delivered_at or self.now, self.now, self.load_id)


def refused(context: LoadContext, why: str, period: str | None) -> SourceRefused:
    name = context.source.name
    if why.startswith("cannot "):
        return SourceRefused(name, why, period=period)
    what = f"{period} of {bill_named(name)}" if period else bill_named(name)
    return SourceRefused(name, f"cannot load {what}: {why}. The period did not change.", period=period)
