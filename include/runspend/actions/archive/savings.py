"""Monthly savings and one-time cost of moving a folder, at the bill's own rates if it has them, otherwise at list prices.

This module computes the money of the archive plan, as exact decimals. `storage_rates.csv` has the list prices of storage, requests,
retrieval and early deletion, each with its source page. `rates.storage` of the settings overrides them. `plan.sql` selects the folders
and finds what protects them.
"""

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import date, datetime
from decimal import Decimal
from functools import cache
from importlib.resources import files
from urllib.parse import urlsplit

from runspend.allocation.storage_prices import billed_rates
from runspend.config.exchange_rates import stretches
from runspend.config.retention import StorageRate
from runspend.config.settings import ExchangeRate, Settings
from runspend.core.amounts import EXACT, SMALLEST
from runspend.warehouse.base import Reader

GB = 2**30  # the clouds' gigabyte of storage
MONTH_DAYS = 30  # days per month in early-deletion charges
PROVIDERS = {"s3": "s3", "gs": "gs", "abfss": "azure", "abfs": "azure", "az": "azure", "wasbs": "azure"}


@dataclass(frozen=True)
class Rates:
    """Rates in one currency: the billed cost of one byte for one month, and list prices.

    Billed rates are effective cost. `by_bucket` has them by (bucket, storage class). `by_class` has the lowest rate of each storage
    class. `listed` has list prices by (provider, storage class).
    """

    by_bucket: Mapping[tuple[str, str], Decimal]
    by_class: Mapping[str, Decimal]
    listed: Mapping[tuple[str, str], StorageRate]
    currency: str
    archive_class: str | None = None  # storage class of copies in the archive store, if `archive.storage_class` is set

    def billed_where_written(self, store: str) -> Decimal | None:
        """Return the billed rate of a new object in the store: that of class STANDARD, or of the only class billed in its bucket."""
        found = {storage_class: rate for (bucket, storage_class), rate in self.by_bucket.items() if bucket == bucket_of(store)}
        return found.get("STANDARD", next(iter(found.values())) if len(found) == 1 else None)

    def billed(self, store: str, storage_class: str) -> Decimal | None:
        """Return the billed rate of a storage class in a store: that of its bucket, otherwise the lowest rate of all buckets."""
        return self.by_bucket.get((bucket_of(store) or "", storage_class), self.by_class.get(storage_class))

    def list_price(self, store: str, storage_class: str) -> StorageRate | None:
        """Return the list prices of a storage class at the store's provider; None for folders and unknown classes."""
        return self.listed.get((PROVIDERS.get(urlsplit(store).scheme, ""), storage_class.upper()))


@dataclass(frozen=True)
class ClassTotal:
    """The objects of a folder in one storage class."""

    storage_class: str
    objects: int
    bytes: int
    newest_at: datetime | None


@dataclass(frozen=True)
class Money:
    """Savings and cost of one item, in `currency`. A value is None if a rate is not known."""

    monthly_saving: Decimal | None
    action_cost: Decimal | None
    rates_from: str | None  # bill, list, or bill and list

    @property
    def payback_months(self) -> float | None:
        """Months until the saving has paid for the move, for display. None if it never does, or if a value is not known."""
        if self.monthly_saving is None or self.action_cost is None or self.monthly_saving <= 0:
            return None
        return float(EXACT.divide(self.action_cost, self.monthly_saving))


def price_item(action: str, to: str | None, store: str, parts: Sequence[ClassTotal], rates: Rates, now: datetime) -> Money:
    """Return the monthly saving and the one-time cost of moving all parts of a folder.

    `to` is the new storage class for `tier`, and the URI of the archive store for `archive`.
    """
    saving: Decimal | None = Decimal(0)
    cost: Decimal | None = Decimal(0)
    sources: set[str] = set()
    for part in parts:
        if action == "tier" and part.storage_class == to:
            continue
        here, here_from = _rate_here(store, part.storage_class, rates)
        there, there_from = _cost_there(action, to, store, part, rates)
        known = None if here is None or there is None else EXACT.subtract(EXACT.multiply(here, Decimal(part.bytes)), there)
        saving = None if saving is None or known is None else EXACT.add(saving, known)
        spent = _cost_of_moving(action, to, store, part, rates, now)
        cost = None if cost is None or spent is None else EXACT.add(cost, spent)
        sources |= {source for source in (here_from, there_from) if source}
    return Money(_tick(saving), _tick(cost), " and ".join(sorted(sources)) if saving is not None and sources else None)


def _rate_here(store: str, storage_class: str, rates: Rates) -> tuple[Decimal | None, str | None]:
    """Return the monthly cost of a byte where it is now, and the source of the rate."""
    billed = rates.by_bucket.get(
        (bucket_of(store) or "", storage_class), rates.billed_where_written(store) if storage_class == "UNKNOWN" else None
    )
    if billed is not None:
        return billed, "bill"
    listed = rates.list_price(store, storage_class)
    return (None, None) if listed is None else (EXACT.divide(listed.month_per_gb, Decimal(GB)), "list")


def _cost_there(action: str, to: str | None, store: str, part: ClassTotal, rates: Rates) -> tuple[Decimal | None, str | None]:
    """Return the monthly cost of the part at its target, and the source of the rate.

    Small objects count with the minimum size that the provider bills, and every object with its overhead.
    """
    if action == "delete":
        return Decimal(0), None
    if action == "archive" and rates.archive_class is None:
        rate = rates.billed_where_written(to or "")
        return (None, None) if rate is None else (EXACT.multiply(rate, Decimal(part.bytes)), "bill")
    place, storage_class = (store, to or "") if action == "tier" else (to or "", rates.archive_class or "")
    listed, rate = rates.list_price(place, storage_class), rates.billed(place, storage_class)
    if listed is None:
        return (None, None) if rate is None else (EXACT.multiply(rate, Decimal(part.bytes)), "bill")
    billed_bytes = max(part.bytes, part.objects * listed.minimum_object_bytes) + part.objects * listed.overhead_bytes
    source = "list" if rate is None else "bill"
    return EXACT.multiply(EXACT.divide(listed.month_per_gb, Decimal(GB)) if rate is None else rate, Decimal(billed_bytes)), source


def _cost_of_moving(action: str, to: str | None, store: str, part: ClassTotal, rates: Rates, now: datetime) -> Decimal | None:
    """Return the one-time cost of moving a part: early deletion, requests and retrieval. None if a price is not known.

    The cost of early deletion is an upper bound: it takes all objects as young as the newest one.
    """
    if "://" not in store or store.startswith("file:"):
        return Decimal(0) if action == "delete" else _copies(to or "", part, rates)
    here = rates.list_price(store, part.storage_class)
    if here is None:
        return None
    age = 0 if part.newest_at is None else max(0, (now - part.newest_at).days)
    early = _times(here.month_per_gb, part.bytes * max(0, here.minimum_days - age), GB * MONTH_DAYS)
    if action == "delete":
        return early
    read = EXACT.add(_times(here.read_per_1000, part.objects, 1000), _times(here.retrieve_per_gb, part.bytes, GB))
    write = _writes(store, to or "", part, rates) if action == "tier" else _copies(to or "", part, rates)
    return None if write is None else EXACT.add(EXACT.add(early, read), write)


def _copies(store: str, part: ClassTotal, rates: Rates) -> Decimal | None:
    """Return the cost of writing every object to the archive store and reading it back. Requests to a folder cost nothing."""
    provider = PROVIDERS.get(urlsplit(store).scheme)
    if provider is None:
        return Decimal(0)
    storage_class = rates.archive_class or {"azure": "HOT"}.get(provider, "STANDARD")
    there, write = rates.list_price(store, storage_class), _writes(store, storage_class, part, rates)
    if there is None or write is None:
        return None
    return EXACT.add(write, EXACT.add(_times(there.read_per_1000, part.objects, 1000), _times(there.retrieve_per_gb, part.bytes, GB)))


def _writes(store: str, storage_class: str, part: ClassTotal, rates: Rates) -> Decimal | None:
    there = rates.list_price(store, storage_class)
    return None if there is None else _times(there.write_per_1000, part.objects, 1000)


def _times(price: Decimal, amount: int, per: int) -> Decimal:
    return EXACT.divide(EXACT.multiply(price, Decimal(amount)), Decimal(per))


def _tick(money: Decimal | None) -> Decimal | None:
    return None if money is None else money.quantize(SMALLEST, context=EXACT)


def read_rates(reader: Reader, settings: Settings, now: datetime) -> Rates:
    """Return the rates of a plan, all in `currency`: billed rates (see `billed_rates`) and list prices.

    If a bucket has no billed rate for a storage class, the lowest billed rate of that class counts.
    """
    by_bucket: dict[tuple[str, str], Decimal] = {}
    by_class: dict[str, Decimal] = {}
    for (store, storage_class), rate in billed_rates(reader, settings.currency, now).items():
        if (bucket := bucket_of(store)) is not None:
            by_bucket[bucket, storage_class] = rate.per_byte
            by_class[storage_class] = min(rate.per_byte, by_class.get(storage_class, rate.per_byte))
    return Rates(by_bucket, by_class, list_prices(settings, now.date()), settings.currency, settings.archive.storage_class)


def list_prices(settings: Settings, day: date) -> dict[tuple[str, str], StorageRate]:
    """Return list prices by (provider, storage class), in `currency`. `rates.storage` overrides the built-in prices.

    Prices in a currency without an exchange rate on `day` are left out.
    """
    written = {(rate.provider, rate.storage_class.upper()): rate for rate in (*_ours(), *settings.rates.storage)}
    factors = {rate.currency: _factor(settings.rates.exchange, rate.currency, settings.currency, day) for rate in written.values()}
    return {key: _converted(rate, factor) for key, rate in written.items() if (factor := factors[rate.currency]) is not None}


@cache
def _ours() -> tuple[StorageRate, ...]:
    text = files(__package__).joinpath("storage_rates.csv").read_text(encoding="utf-8")
    return tuple(StorageRate.model_validate(row) for row in csv.DictReader(text.splitlines()))


def _factor(exchange: Sequence[ExchangeRate], currency: str, to: str, day: date) -> tuple[int, int] | None:
    if currency == to:
        return 1, 1
    return next(((s.multiplier, s.divisor) for s in stretches(exchange, to) if s.currency == currency and s.first <= day < s.end), None)


def _converted(rate: StorageRate, factor: tuple[int, int]) -> StorageRate:
    money = ("month_per_gb", "write_per_1000", "read_per_1000", "retrieve_per_gb")
    return rate.model_copy(update={name: _times(getattr(rate, name), *factor) for name in money})


def bucket_of(store: str) -> str | None:
    """Return the bucket of a store whose root is the whole bucket. Return None for other roots: a bill cannot be assigned to them."""
    parts = urlsplit(store)
    return parts.netloc if parts.scheme in ("s3", "gs") and parts.netloc and parts.path in ("", "/") else None
