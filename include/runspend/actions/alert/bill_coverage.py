"""Read how far each bill reaches, how far back the cost tables go, and whether they may withdraw an alert.

Tables may have been rebuilt from fewer bills than at the time of an alert: one of two is loaded so far, or old months are gone.
They then show less money, and that is not a correction. So each alert stores the extent of the tables that it was judged by.
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
    """How far one bill reaches."""

    source: str
    covered_until: datetime | None
    usual_lag: timedelta | None
    state: str


@dataclass(frozen=True)
class TableExtent:
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


def read_coverage(reader: Reader, now: datetime) -> tuple[Coverage, ...]:
    """Return how far each bill reaches. Lines that cover a whole month do not count beyond now."""
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
    """Say which tracking servers could not be read, if none was ever read: no run has a cost yet. Otherwise empty."""
    rows = reader.query("select source, state, last_good_at from sources where kind = 'tracking' order by source").to_pylist()
    names = [row["source"] for row in rows if row["last_good_at"] is None and row["state"] in ("unreachable", "refused")]
    if not names or len(names) < len(rows):
        return ""
    return f"{', '.join(names)} {'was' if len(names) == 1 else 'were'} never read, so the cost of runs is not known"


def covered_until(coverage: Sequence[Coverage]) -> datetime | None:
    """Return the earliest end of all bills. None without bills, or if one bill does not state how far it reaches."""
    ends = [c.covered_until for c in coverage]
    known = [end for end in ends if end is not None]
    return min(known) if known and len(known) == len(ends) else None


def first_open_day(coverage: Sequence[Coverage], behind: timedelta = VERY_LATE_BILLS) -> date | None:
    """Return the first day that not every bill wholly covers; None if it is not known.

    A bill that ended long before the others is dead, or a failure that is reported to operators. It is left out: a forecast must not fill
    the months since then with its old costs.
    """
    newest = max((c.covered_until for c in coverage if c.covered_until is not None), default=None)
    alive = [c for c in coverage if newest is None or c.covered_until is None or newest - c.covered_until < behind]
    until = covered_until(alive)
    return None if until is None else until.astimezone(timezone.utc).date()


def read_extent(reader: Reader, coverage: Sequence[Coverage]) -> TableExtent:
    """Read the current extent of the cost tables."""
    return TableExtent(reader.query(FIRST_DAY).to_pylist()[0]["first_day"], len(coverage))
