"""Spread the cost of idle, shared and unallocated rows over the groups of runs, in proportion to their own cost. Exact: no digit is lost.

The explorer and the statements of teams share this arithmetic.

The groups have a fixed order. With `up_to` as the running total of their costs, a group gets the bound at its `up_to` minus the previous
bound. A bound is the amount times `up_to` divided by the whole, rounded to 22 decimals. So the shares of all groups, even those that no
page shows, add up to the amount. A group without a positive cost gets nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from decimal import ROUND_FLOOR, Decimal

from runspend.core.amounts import EXACT, add

LAST_PLACE = Decimal("1e-22")
NOTHING = Decimal(0)


@dataclass(frozen=True)
class Weight:
    """A group's position among those that share an amount: its own weight, the running total including it, and the total of all."""

    own: Decimal
    up_to: Decimal
    whole: Decimal

    def share(self, amount: Decimal) -> Decimal:
        """Return the group's part of the amount, exact to 22 decimals."""
        if not self.own or not amount:
            return NOTHING
        return EXACT.subtract(self._bound(amount, self.up_to), self._bound(amount, EXACT.subtract(self.up_to, self.own)))

    def _bound(self, amount: Decimal, up_to: Decimal) -> Decimal:
        if up_to == self.whole:
            return amount
        return EXACT.divide(EXACT.multiply(amount, up_to), self.whole).quantize(LAST_PLACE, ROUND_FLOOR, EXACT)


def weights_of(costs: Sequence[Decimal]) -> list[Weight]:
    """Return the weights of groups with these costs, in this order. A group without a positive cost has none."""
    own = [max(cost, NOTHING) for cost in costs]
    whole, up_to, found = add(own), NOTHING, []
    for weight in own:
        up_to = EXACT.add(up_to, weight)
        found.append(Weight(weight, up_to, whole))
    return found
