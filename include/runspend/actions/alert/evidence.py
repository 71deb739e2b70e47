"""The evidence for a verdict: how far back the cost tables go, and how many bills are in them.

Belongs here: the evidence stored with each alert, and the check whether today's tables may withdraw it. Tables may have been
rebuilt from fewer bills than at the time of an alert: one of two is loaded so far, or old months are gone. They then show
less money, and that is not a correction.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from typing import Any

from runspend.actions.alert.periods import BudgetPeriod
from runspend.actions.alert.series import Coverage, read_first_day
from runspend.warehouse.base import Reader


@dataclass(frozen=True)
class Ground:
    """The extent of the cost tables.

    `first_day` is the first day with any data; None if the tables are empty. Bills are counted, not named, because they may be renamed.
    """

    first_day: date | None
    bills: int

    def as_record(self) -> dict[str, Any]:
        """Return the record that an alert stores."""
        return {"first_day": self.first_day.isoformat() if self.first_day else None, "bills": self.bills}

    def is_as_wide_as(self, then: Mapping[str, Any] | None, period: BudgetPeriod) -> bool:
        """Return whether everything in a period that was known at the time `then` is known now.

        `then` is from `as_record`, or None for alerts that stored nothing.
        """
        if self.first_day is None or then is None:
            return self.first_day is not None
        since = max(date.fromisoformat(then["first_day"]), period.start) if then["first_day"] else date.max
        return self.first_day <= since and self.bills >= int(then["bills"])


def read_ground(reader: Reader, coverage: Sequence[Coverage]) -> Ground:
    """Read the current extent."""
    return Ground(read_first_day(reader), len(coverage))
