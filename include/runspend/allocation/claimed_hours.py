"""How much of an instance type's hours runs claim by type alone, in words: for doctor, the summary and explain.

Put here what a share of claimed hours means for a reader. How it is counted is in `allocation/models/instance_type_hours.sql`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from typing import Any

from runspend.warehouse import Reader

NEARLY_ALL, NEARLY_NONE = 0.9, 0.1
SPREAD = 1.1  # prices further apart than this are worth a word
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
    """One row of `instance_type_hours`: machines of a type that agree in what runs state, in a billing period. Times in seconds."""

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
        """The type and what else runs state: p4d.24xlarge, spot."""
        text = self.pool_key.replace("|", ", ").replace("_", " ")
        return "".join(each if each.isprintable() else "?" for each in text)  # a bill's text goes to a terminal

    @property
    def has_spread(self) -> bool:
        """Whether an hour costs clearly more in one account, region or purchase option than in another."""
        return self.lowest_hour_cost is not None and self.highest_hour_cost is not None and self.highest_hour_cost > SPREAD * self.lowest_hour_cost

    @property
    def is_notable(self) -> bool:
        """Whether the share or the price says that the split is a rough guess."""
        return self.has_spread or not NEARLY_NONE < self.claimed_ratio < NEARLY_ALL

    @property
    def words(self) -> str:
        """One sentence on the hours, and one on the price where it differs."""
        share = f"{self.claimed_ratio:.0%}" if self.claimed_ratio >= NEARLY_NONE else f"{self.claimed_ratio:.1%}"
        text = f"runs claim {share} of {self.billed_seconds / 3600:,.0f} h of {self.label}{_meaning(self.claimed_ratio)}"
        return f"{text}; {self.spread_words}" if self.has_spread else text

    @property
    def spread_words(self) -> str:
        """What an hour costs, at least and at most."""
        return f"an hour costs {self.lowest_hour_cost:,.2f} to {self.highest_hour_cost:,.2f} {self.billing_currency}, and runs do not state which"


def _meaning(ratio: float) -> str:
    if ratio > 1.005:
        return ": more than was billed, so their shares are scaled down"
    if ratio >= NEARLY_ALL:
        return ": nearly all, so other work on these machines would be charged to runs"
    if ratio <= NEARLY_NONE:
        return ": nearly none, so their machines are hard to tell from others"
    return ""


def claimed_hours(reader: Reader, first: date) -> tuple[ClaimedHours, ...]:
    """Of a billing period, the most hours first. Where a statement leaves rows of a type open, these share one spread of prices."""
    return with_open_prices(reader.query(HOURS, {"first": first}).to_pylist())


def with_open_prices(rows: Sequence[Mapping[str, Any]]) -> tuple[ClaimedHours, ...]:
    """The rows, where runs state what tells them apart in some and leave it open in others with the prices of all that are open."""
    found = [ClaimedHours(**row) for row in rows]
    return tuple(_with_prices(one, [o for o in found if (o.billing_period, o.instance_type) == (one.billing_period, one.instance_type)]) for one in found)


def _with_prices(one: ClaimedHours, kin: Iterable[ClaimedHours]) -> ClaimedHours:
    if not one.open_seconds:
        return one
    open_kin = [o for o in kin if o.open_seconds and o.lowest_hour_cost is not None and o.highest_hour_cost is not None]
    if len({o.billing_currency for o in open_kin}) != 1:
        return one
    prices = [price for o in open_kin for price in (o.lowest_hour_cost, o.highest_hour_cost) if price is not None]
    return ClaimedHours(**{**vars(one), "lowest_hour_cost": min(prices), "highest_hour_cost": max(prices), "billing_currency": open_kin[0].billing_currency})
