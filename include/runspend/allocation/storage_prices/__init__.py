"""Computes the billed price of a byte per month, for each artifact store and storage class. Reports and the archive plan use it.

    billed.sql  the cost of a bucket's storage lines, and its bytes including noncurrent versions
    stores.sql  the current contents of each store

List prices do not belong here.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any, Protocol

from runspend.core.amounts import EXACT
from runspend.warehouse.sql_files import read_sql

__all__ = ["BilledRate", "billed_rates", "first_month", "priced_stores"]

HERE = Path(__file__).parent
TICK = Decimal("1E-22")  # the precision of a money column


class Asks(Protocol):
    """The part of the interface of a warehouse reader that this module needs."""

    def query(self, sql: str, parameters: Mapping[str, Any] | None = None) -> Any: ...


@dataclass(frozen=True)
class BilledRate:
    """The price of storage: `byte_months` bytes, stored for one month, cost `cost` in the requested currency. Both values are exact."""

    cost: Decimal
    byte_months: int

    def of(self, count: int) -> Decimal:
        """Return the monthly cost of this many bytes, at the precision of a money column."""
        return EXACT.divide(EXACT.multiply(self.cost, Decimal(count)), Decimal(self.byte_months)).quantize(TICK, context=EXACT)

    @property
    def per_byte(self) -> Decimal:
        """Return the cost of one byte per month."""
        return EXACT.divide(self.cost, Decimal(self.byte_months))


def first_month(now: datetime) -> date:
    """Return the first day of the oldest month whose bill is used for rates."""
    return (date(now.year, now.month, 1) - timedelta(days=62)).replace(day=1)


def billed_rates(reader: Asks, currency: str, now: datetime) -> dict[tuple[str, str], BilledRate]:
    """Return the rate of each (store, storage class). It is from the newest full month that has one, otherwise from the month of `now`.

    Only stores that are a whole bucket have a rate, because the bill is for the whole bucket. If the bill's lines do not name a
    storage class, all classes of the bucket get its mean rate. Class UNKNOWN gets the mean rate too.
    """
    month = date(now.year, now.month, 1)
    parameters = {"now": now, "month": month, "since": first_month(now), "currency": currency}
    rows = reader.query(read_sql(HERE, "billed"), parameters).to_pylist()
    return {(row["store"], row["storage_class"]): BilledRate(row["cost"], row["byte_months"]) for row in rows}


def priced_stores(reader: Asks, currency: str, now: datetime) -> list[dict[str, Any]]:
    """Return rows of `artifact_stores`: the contents of each store and their cost per month. The cost is null if no bill has a rate."""
    rates = billed_rates(reader, currency, now)
    rows: list[dict[str, Any]] = reader.query(read_sql(HERE, "stores"), {}).to_pylist()
    for row in rows:
        counts = {name: None if row[name] is None else int(row[name]) for name in row if name.endswith("bytes") or name == "objects"}
        rate = rates.get((row["store"], row["storage_class"]))
        row |= counts | {"billing_currency": None if rate is None else currency}
        if rate is not None:
            billed = None if counts["bytes"] is None else counts["bytes"] + (counts["noncurrent_bytes"] or 0)
            priced = {"": billed, **{f"{kind}_": counts[f"{kind}_bytes"] for kind in ("noncurrent", "duplicate", "orphaned")}}
            row |= {f"{kind}month_cost": None if count is None else rate.of(count) for kind, count in priced.items()}
    return rows
