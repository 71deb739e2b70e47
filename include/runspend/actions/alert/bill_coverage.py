"""Read how far each bill reaches, how far back the cost tables go, and whether they can withdraw an alert.

Cost tables can be rebuilt from fewer bills than at the time of an alert. For example, one of two bills is not loaded yet, or old months were
removed. The tables then show lower costs, but that is not a correction. So each alert stores the extent of the tables that it is based on.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import date, datetime, timedelta, timezone
from typing import Any

from runspend.actions.alert.periods import VERY_LATE_BILLS, BudgetPeriod
from runspend.actions.alert.selector_sql import sql
from runspend.warehouse.base import Reader

FIRST_DAY = "select min(charge_date) as first_day from cost_daily"


@dataclass(frozen=True)
class Coverage:
    """How far one bill reaches. `covered_until` is None if that is not known."""

    source: str
    covered_until: datetime | None
    usual_lag: timedelta | None
    state: str


@dataclass(frozen=True)
class TableExtent:
    """The extent of the cost tables.

    `first_day` is the first day with any data, or None if the tables are empty. `bills` is the number of bills. Their names are not stored,
    because bills can be renamed.
    """

    first_day: date | None
    bills: int

    def as_record(self) -> dict[str, Any]:
        """Return the extent as the JSON object that an alert stores."""
        return {"first_day": self.first_day.isoformat() if self.first_day else None, "bills": self.bills}

    def is_as_wide_as(self, then: Mapping[str, Any] | None, period: BudgetPeriod) -> bool:
        """Return whether these tables have at least the data of a period that the tables of an alert had.

        `then` is the stored extent (from `as_record`), or None for an alert that did not store one.
        """
        if self.first_day is None or then is None:
            return self.first_day is not None
        since = max(date.fromisoformat(then["first_day"]), period.start) if then["first_day"] else date.max
        return self.first_day <= since and self.bills >= int(then["bills"])


def read_coverage(reader: Reader, now: datetime) -> tuple[Coverage, ...]:
    """Return how far each bill reaches, but not beyond `now`: a bill line for a whole month can end in the future."""
    rows = reader.query(sql("covered")).to_pylist()
    return tuple(
        Coverage(
            row["source"],
            None if row["covered_until"] is None else min(now, row["covered_until"]),
            None if row["usual_lag_seconds"] is None else timedelta(seconds=row["usual_lag_seconds"]),
            row["state"],
        )
        for row in rows
    )


def read_unread(reader: Reader) -> str:
    """Return a sentence with the tracking servers that cannot be read, if none was ever read: then no run has a cost yet. Otherwise ""."""
    rows = reader.query("select source, state, last_good_at from sources where kind = 'tracking' order by source").to_pylist()
    names = [row["source"] for row in rows if row["last_good_at"] is None and row["state"] in ("unreachable", "refused")]
    if not names or len(names) < len(rows):
        return ""
    return f"{', '.join(names)} {'was' if len(names) == 1 else 'were'} never read, so the cost of runs is not known"


def covered_until(coverage: Sequence[Coverage]) -> datetime | None:
    """Return the time to which all bills are complete. None without bills, or if it is not known for one of them."""
    ends = [c.covered_until for c in coverage]
    known = [end for end in ends if end is not None]
    return min(known) if known and len(known) == len(ends) else None


def first_open_day(coverage: Sequence[Coverage], behind: timedelta = VERY_LATE_BILLS) -> date | None:
    """Return the first day that is not wholly covered by every bill. None if it is not known.

    A bill that ended `behind` or more before the newest bill is left out. It has ended, or its source has failed, which is reported to
    operators. Otherwise a forecast would fill the months since then with its old costs.
    """
    newest = max((c.covered_until for c in coverage if c.covered_until is not None), default=None)
    alive = [c for c in coverage if newest is None or c.covered_until is None or newest - c.covered_until < behind]
    until = covered_until(alive)
    return None if until is None else until.astimezone(timezone.utc).date()


def read_extent(reader: Reader, coverage: Sequence[Coverage]) -> TableExtent:
    """Return the current extent of the cost tables."""
    return TableExtent(reader.query(FIRST_DAY).to_pylist()[0]["first_day"], len(coverage))
