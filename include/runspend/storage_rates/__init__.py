"""What a byte costs a month by the bill itself, for each store and storage class: one place for reports and the archive plan.

    billed.sql  storage lines of a bucket over the bytes that lay in it, versions that are not current included

List prices do not belong here.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from decimal import Context, Decimal
from importlib.resources import files
from typing import Any, Protocol

__all__ = ["BilledRate", "billed_rates"]

EXACT = Context(prec=76)
TICK = Decimal("1E-22")  # what a money column holds


class Asks(Protocol):
    """What of a warehouse's reader is needed here."""

    def query(self, sql: str, parameters: Mapping[str, Any] | None = None) -> Any: ...


@dataclass(frozen=True)
class BilledRate:
    """`cost` for `byte_months` bytes over a month, in the currency asked for; exact, so the quotient is left to who needs it."""

    cost: Decimal
    byte_months: int

    def of(self, count: int) -> Decimal:
        """What so many bytes cost a month, as a money column holds it."""
        return EXACT.divide(EXACT.multiply(self.cost, Decimal(count)), Decimal(self.byte_months)).quantize(TICK, context=EXACT)

    @property
    def per_byte(self) -> Decimal:
        """Money a byte costs a month."""
        return EXACT.divide(self.cost, Decimal(self.byte_months))


def billed_rates(reader: Asks, currency: str, now: datetime) -> dict[tuple[str, str], BilledRate]:
    """(store, storage class) -> its rate, of the newest full month that has one, else of the month of `now`.

    Only stores that are all of their bucket have one: the bill is for the whole bucket. Where lines of the bill name no
    class, all classes of the bucket have its mean; so has what is of class UNKNOWN.
    """
    month = date(now.year, now.month, 1)
    parameters = {"now": now, "month": month, "since": (month - timedelta(days=62)).replace(day=1), "currency": currency}
    sql = files(__package__).joinpath("billed.sql").read_text(encoding="utf-8")
    rows = reader.query(sql, parameters).to_pylist()
    return {(row["store"], row["storage_class"]): BilledRate(row["cost"], row["byte_months"]) for row in rows}
