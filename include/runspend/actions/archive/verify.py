"""Verify archives: list every copy and compare it with its manifest, then read and hash a sample of the copies, or all of them.

Each verification draws a new random sample. It is so large that it finds damage in a given share of the copies with a given
probability. Some stores charge for reads: `price_of_reading` returns the price before anything is read.
"""

from __future__ import annotations

import math
import random
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import datetime
from decimal import Decimal
from urllib.parse import urlsplit

from runspend.actions.archive.context import OpenStore, Tools, digest_of, find_store
from runspend.actions.archive.find import Found, find_archives, lacks_copies, load_manifest, readable_stores, tombstone_of
from runspend.actions.archive.manifest import Entry, Manifest
from runspend.actions.archive.savings import GB, PROVIDERS, list_prices
from runspend.config.settings import Settings
from runspend.core.amounts import EXACT
from runspend.core.errors import NotDone, SourceError
from runspend.core.step_result import Progress, silent
from runspend.core.text import counted
from runspend.storage.factory import open_objects
from runspend.storage.objects import ObjectStore, StoredObject
from runspend.warehouse.records import Records

CONFIDENCE, SHARE = 0.95, 0.01
KIND = "archive_verifications"
COLD = ("GLACIER", "DEEP_ARCHIVE", "ARCHIVE")  # storage classes that can be read only hours after a retrieval request


@dataclass(frozen=True)
class Reading:
    """The objects and bytes of a full read, and its price at list prices. The price is None if a list price is not known."""

    objects: int
    bytes: int
    price: Decimal | None
    currency: str


@dataclass
class Verification:
    """The result of a verification: counts, and problems.

    `damaged` has one sentence per damaged copy. `unknown` has one for each archive or store that could not be checked.
    """

    archives: int = 0
    objects: int = 0  # copies; equal files share one copy in an archive
    bytes: int = 0
    read: int = 0
    read_bytes: int = 0
    not_readable: int = 0  # in a storage class that must be retrieved first
    left_over: int = 0  # copies that no manifest names: from unfinished archives, or from failed attempts to copy
    left_over_bytes: int = 0
    damaged: list[str] = field(default_factory=list)
    unknown: list[str] = field(default_factory=list)
    confidence: float = CONFIDENCE
    share: float = SHARE

    @property
    def summary(self) -> str:
        """The conclusion, in one sentence."""
        listed = f"{counted(self.archives, 'archive')}, {counted(self.objects, 'object')}, {self.bytes:,} bytes listed"
        checked = f"{listed}; {counted(self.read, 'object')} read"
        if self.damaged or self.unknown:
            return f"{checked}; {len(self.damaged)} damaged, {len(self.unknown)} could not be checked"
        if not self.archives:
            return "nothing is archived"
        if self.read == self.objects:
            return f"{checked}: each one equals what was archived"
        if self.read < min(self.objects - self.not_readable, sample_size(self.confidence, self.share)):
            return f"{checked}: too few to conclude more"
        among = " of those that can be read" if self.not_readable else ""
        return f"{checked}, none damaged. With {self.confidence:.0%} confidence, less than {self.share:.1%}{among} are damaged"


@dataclass(frozen=True)
class _Copy:
    """A copy as described by its manifest and its store."""

    found: Found
    manifest: Manifest
    entry: Entry
    stored: StoredObject


def sample_size(confidence: float, share: float) -> int:
    """Return how many copies to read.

    If at least `share` of all copies are damaged, a sample of this size contains a damaged copy with probability `confidence`. That
    holds for any number of copies.
    """
    return math.ceil(math.log(1 - confidence) / math.log(1 - share))


def price_of_reading(settings: Settings, *, now: datetime, open_store: OpenStore = open_objects, progress: Progress = silent) -> Reading:
    """Return what `verify` with `full` would read, and its price. This only lists objects; it reads none."""
    seen = Verification()
    prices = list_prices(settings, now.date())
    objects, size = 0, 0
    price: Decimal | None = Decimal(0)
    for copy in _listed(settings, seen, open_store, progress):
        objects, size = objects + 1, size + copy.stored.size
        provider = PROVIDERS.get(urlsplit(copy.found.store.uri).scheme)
        if provider is None or price is None:
            continue
        listed = prices.get((provider, copy.stored.storage_class.upper()))
        asked = (
            None
            if listed is None
            else EXACT.add(
                EXACT.divide(listed.read_per_1000, Decimal(1000)),
                EXACT.divide(EXACT.multiply(listed.retrieve_per_gb, Decimal(copy.stored.size)), Decimal(GB)),
            )
        )
        price = None if asked is None else EXACT.add(price, asked)
    return Reading(objects, size, price, settings.currency)


def verify(
    settings: Settings,
    records: Records,
    *,
    now: datetime,
    full: bool = False,
    confidence: float = CONFIDENCE,
    share: float = SHARE,
    chance: random.Random | None = None,
    tools: Tools = Tools(),  # noqa: B008 (frozen)
) -> Verification:
    """Compare every archive of every store with its manifest, and read a sample of the copies, or all of them (`full`).

    Changes nothing in any store, and records the result under home. `confidence` and `share` set the size of the sample, see
    `sample_size`. Copies that were written again since they were archived are read in addition, because they are most likely damaged.
    """
    open_store, progress = tools.open_store, tools.progress
    chance = chance or random.SystemRandom()
    result = Verification(confidence=confidence, share=share)
    size = sample_size(confidence, share)
    chosen, odd = list[_Copy](), list[_Copy]()
    for number, copy in enumerate(_listed(settings, result, open_store, progress)):
        if full:
            chosen.append(copy)
        elif copy.stored.etag != copy.entry.copy_etag:
            odd.append(copy)  # written again since it was archived: read these in addition to the sample
        elif len(chosen) < size:
            chosen.append(copy)
        elif (at := chance.randrange(number + 1)) < size:
            chosen[at] = copy
    chosen += odd[:size]
    if odd[size:]:
        result.unknown.append(
            f"{len(odd) - size:,} more copies were written again since they were archived. They were not read. To read them: runspend archive verify --full"
        )
    with ThreadPoolExecutor(tools.workers) as pool:
        for number, (copy, problem) in enumerate(pool.map(_read, chosen), 1):
            progress(f"{number:,} of {len(chosen):,} objects read")
            if problem is None:
                result.read, result.read_bytes = result.read + 1, result.read_bytes + copy.stored.size
            elif problem.startswith("?"):
                result.not_readable += 1
            else:
                result.read, result.read_bytes = result.read + 1, result.read_bytes + copy.stored.size
                result.damaged.append(_describe(copy.found, copy.manifest, copy.entry, problem, settings, open_store))
    record = {"at": now.isoformat(), "objects": result.objects, "read": result.read, "damaged": result.damaged, "unknown": result.unknown}
    records.create(KIND, now.isoformat(), record)
    return result


def was_whole(records: Records, month: str) -> bool:
    """Whether a verification in `month` ("2026-11") found no damage and could check every archive."""
    looks = records.list(KIND).values()
    return any(look["at"].startswith(month) and not look["damaged"] and not look["unknown"] for look in looks)


def _listed(settings: Settings, result: Verification, open_store: OpenStore, progress: Progress) -> Iterator[_Copy]:
    """Yield every copy that exists with the right size. Record the others, and archives that cannot be listed, in `result`."""
    for store in readable_stores(settings):
        opened = open_store(store, "read")
        try:
            archives = list(find_archives(opened))
        except SourceError as error:
            result.unknown.append(str(error))
            continue
        for found in archives:
            progress(f"{result.archives:,} archives listed")
            try:
                manifest = load_manifest(found)
                if tombstone_of(found) is None or (
                    manifest is not None and not lacks_copies(found, manifest)
                ):  # its deletion has not begun
                    yield from _compared(found, manifest, result, settings, open_store)
            except SourceError as error:
                result.unknown.append(str(error))


def _compared(found: Found, manifest: Manifest | None, result: Verification, settings: Settings, open_store: OpenStore) -> Iterator[_Copy]:
    """Yield each copy of one archive that exists with the right size. Record the others in `result`."""
    folder = found.folder
    held = {stored.key[len(folder) + 1 :]: stored for stored in found.store.list(f"{folder}/data")}
    named = {} if manifest is None else {entry.data or "": entry for entry in manifest.entries}
    left = [stored for data, stored in held.items() if data not in named]
    result.left_over, result.left_over_bytes = result.left_over + len(left), result.left_over_bytes + sum(stored.size for stored in left)
    if manifest is None:
        return
    result.archives += 1
    for data, entry in named.items():
        result.objects, result.bytes = result.objects + 1, result.bytes + entry.size
        stored = held.get(data)
        if stored is None or stored.size != entry.size:
            what = "is missing" if stored is None else f"has {stored.size:,} bytes, not {entry.size:,}"
            result.damaged.append(_describe(found, manifest, entry, what, settings, open_store))
        else:
            yield _Copy(found, manifest, entry, stored)


def _read(copy: _Copy) -> tuple[_Copy, str | None]:
    """Read a copy, and return it with its problem: None if it is intact, "?" if it must be retrieved first, otherwise a text."""
    try:
        sha256 = digest_of(copy.found.store.read(copy.stored))
    except SourceError as error:
        is_cold = isinstance(error, NotDone) and copy.stored.storage_class.upper() in COLD
        return copy, "?" if is_cold else f"cannot be read: {error}"
    return copy, None if sha256 == copy.entry.sha256 else f"has other bytes: sha256 {sha256}"


def _describe(found: Found, manifest: Manifest, entry: Entry, what: str, settings: Settings, open_store: OpenStore) -> str:
    """Return sentences on a damaged copy: its problem, the files that it belongs to, and where else its bytes are."""
    item = manifest.item
    names = [other.key for other in manifest.entries if other.data == entry.data]
    also = f" (and {len(names) - 1} equal files)" if len(names) > 1 else ""
    return (
        f"{found.where}/{entry.data} {what}. It is {names[0]!r}{also} of {item.name}, {entry.size:,} bytes, sha256 {entry.sha256}, "
        f"archived {manifest.planned_at[:10]} from {item.store.rstrip('/')}/{item.prefix}. {_elsewhere(found, item.prefix, item.store, entry, settings, open_store)}"
    )


def _elsewhere(found: Found, prefix: str, store: str, entry: Entry, settings: Settings, open_store: OpenStore) -> str:
    """Return a sentence on where else the same bytes are: in their original place, or in another archive of the same store."""
    try:
        source = open_store(find_store(settings, store), "read")
        there = source.head(f"{prefix}/{entry.key}")
        if there is not None and there.size == entry.size and digest_of(source.read(there)) == entry.sha256:
            return "The same bytes are still in their original place."
        for other in find_archives(found.store):
            if other.archive_id != found.archive_id and _holds(found.store, other, entry):
                return f"The same bytes are in {other.where}."
    except SourceError as error:
        return f"Whether the bytes are elsewhere is unknown: {error}"
    return "No other copy of it is known."


def _holds(store: ObjectStore, other: Found, entry: Entry) -> bool:
    copy = store.head(f"{other.folder}/data/{entry.sha256}")
    return copy is not None and copy.size == entry.size and digest_of(store.read(copy)) == entry.sha256
