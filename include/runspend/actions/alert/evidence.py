"""What a verdict rests on: how far back the cost tables go, and how many bills are in them.

Put here what is kept of that with each alert, and whether today's tables can take one back. Tables that were built anew and hold fewer
bills than when a crossing was told (one of two is loaded so far, old months are gone) show less money: that is no correction.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from typing import Any

from runspend.actions.alert.periods import BudgetPeriod
from runspend.actions.alert.series import Coverage, read_first_day
from runspend.warehouse import Reader


@dataclass(frozen=True)
class Ground:
    """`first_day` is the first the cost tables know anything of; None where they are empty. Bills are counted: they may be renamed."""

    first_day: date | None
    bills: int

    def as_record(self) -> dict[str, Any]:
        """What an alert keeps of it."""
        return {"first_day": self.first_day.isoformat() if self.first_day else None, "bills": self.bills}

    def is_as_wide_as(self, then: Mapping[str, Any] | None, period: BudgetPeriod) -> bool:
        """Whether all of a period is known that was known `then` (`as_record`; None of alerts that kept nothing)."""
        if self.first_day is None or then is None:
            return self.first_day is not None
        since = max(date.fromisoformat(then["first_day"]), period.start) if then["first_day"] else date.max
        return self.first_day <= since and self.bills >= int(then["bills"])


def read_ground(reader: Reader, coverage: Sequence[Coverage]) -> Ground:
    """Today's."""
    return Ground(read_first_day(reader), len(coverage))
