"""Describes how many hours of an instance type are claimed by runs that state only the type. `doctor`, `explain` and the summary show it.

This module explains what a share of claimed hours means. `allocation/models/6_public/instance_type_hours.sql` counts the hours.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from typing import Any

from runspend.warehouse.base import Reader

NEARLY_ALL, NEARLY_NONE = 0.9, 0.1
SPREAD = 1.1  # a price range is shown if prices differ by more than this factor
HOURS = """
select
  billing_period, pool_key, instance_type, billed_seconds, claimed_seconds, open_seconds, allocated_seconds, claimed_ratio,
  lowest_hour_cost, highest_hour_cost, billing_currency
from instance_type_hours
where billing_period = @first
order by billed_seconds desc, pool_key
"""


@dataclass(frozen=True)
class ClaimedHours:
    """One row of `instance_type_hours`: the machines of one type with the same properties, in one billing period. Times are in seconds."""

    billing_period: date
    pool_key: str
    instance_type: str
    billed_seconds: float
    claimed_seconds: float
    open_seconds: float
    allocated_seconds: float
    claimed_ratio: float
    lowest_hour_cost: float | None
    highest_hour_cost: float | None
    billing_currency: str | None

    @property
    def label(self) -> str:
        """Return the type and the other properties that runs can state: "p4d.24xlarge, spot"."""
        text = self.pool_key.replace("|", ", ").replace("_", " ")
        return "".join(each if each.isprintable() else "?" for each in text)  # text from a bill must not send control codes to a terminal

    @property
    def has_spread(self) -> bool:
        """Return whether the price of an hour differs clearly between accounts, regions or purchase options."""
        return (
            self.lowest_hour_cost is not None
            and self.highest_hour_cost is not None
            and self.highest_hour_cost > SPREAD * self.lowest_hour_cost
        )

    @property
    def is_notable(self) -> bool:
        """Return whether the share or the price range shows that the split is only a rough estimate. False if no run claims the hours."""
        return self.claimed_seconds > 0 and (self.has_spread or not NEARLY_NONE < self.claimed_ratio < NEARLY_ALL)

    @property
    def words(self) -> str:
        """Return one sentence on the claimed hours and, if prices differ, one on the price range."""
        share = f"{self.claimed_ratio:.0%}" if self.claimed_ratio >= NEARLY_NONE else f"{self.claimed_ratio:.1%}"
        text = f"runs claim {share} of {self.billed_seconds / 3600:,.0f} h of {self.label}{_meaning(self.claimed_ratio)}"
        return f"{text}; {self.spread_words}" if self.has_spread else text

    @property
    def spread_words(self) -> str:
        """Return the lowest and highest price of an hour."""
        return f"an hour costs {self.lowest_hour_cost:,.2f} to {self.highest_hour_cost:,.2f} {self.billing_currency}, and runs do not state which price applies"


def _meaning(ratio: float) -> str:
    if ratio > 1.005:
        return ": more than was billed, so their shares are scaled down"
    if ratio >= NEARLY_ALL:
        return ": nearly all, so other work on these machines would be charged to runs"
    if ratio <= NEARLY_NONE:
        return ": nearly none, so their machines are hard to tell from others"
    return ""


def claimed_hours(reader: Reader, first: date) -> tuple[ClaimedHours, ...]:
    """Return the rows of a billing period, most billed hours first. Prices are as in `with_open_prices`."""
    return with_open_prices(reader.query(HOURS, {"first": first}).to_pylist())


def with_open_prices(rows: Sequence[Mapping[str, Any]]) -> tuple[ClaimedHours, ...]:
    """Return the rows with the price ranges that apply to the runs that claim them.

    Some runs do not state the properties that separate the rows of a type. They may have used a machine of any of these rows, so
    such rows get the common price range.
    """
    found = [ClaimedHours(**row) for row in rows]
    return tuple(
        _with_prices(one, [o for o in found if (o.billing_period, o.instance_type) == (one.billing_period, one.instance_type)])
        for one in found
    )


def _with_prices(one: ClaimedHours, kin: Iterable[ClaimedHours]) -> ClaimedHours:
    if not one.open_seconds:
        return one
    open_kin = [o for o in kin if o.open_seconds and o.lowest_hour_cost is not None and o.highest_hour_cost is not None]
    if len({o.billing_currency for o in open_kin}) != 1:
        return one
    prices = [price for o in open_kin for price in (o.lowest_hour_cost, o.highest_hour_cost) if price is not None]
    return ClaimedHours(
        **{**vars(one), "lowest_hour_cost": min(prices), "highest_hour_cost": max(prices), "billing_currency": open_kin[0].billing_currency}
    )
