"""Record which budgets a person has acknowledged or snoozed, and until when.

Belongs here: these records. Alerts of an acknowledged budget are decided and recorded as usual, but no mail is sent. Alerts of a snoozed
budget are not decided. If they are still true when the snooze ends, they are sent then.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import date, datetime
from typing import Literal

from runspend.core.errors import UsageError
from runspend.schema.rows import midnight
from runspend.warehouse.records import Records

QuietKind = Literal["acknowledged", "snoozed", "awake"]
RECORDS = "quiet"


@dataclass(frozen=True)
class Quiet:
    """An entry that mutes a budget until the beginning of the day `until` (UTC), or ends that, with its author, time and reason."""

    budget: str
    kind: QuietKind
    until: date
    by: str
    at: datetime
    note: str | None = None

    def holds(self, now: datetime) -> bool:
        """Return whether the budget is still muted by this entry."""
        return self.kind != "awake" and now < midnight(self.until)

    def __str__(self) -> str:
        return f"{self.kind} by {self.by} until {self.until}" + (f": {self.note}" if self.note else "")


def set_quiet(records: Records, names: Iterable[str], quiet: Quiet, now: datetime) -> None:
    """Record an acknowledgment, a snooze, or its end. `names` are the existing budgets.

    Raises UsageError for an unknown budget, or if `until` is not in the future.
    """
    known = sorted(names)
    if quiet.budget not in known:
        raise UsageError(f"cannot change budget {quiet.budget!r}: it does not exist. Budgets are {', '.join(known) or 'none'}.")
    if quiet.kind != "awake" and midnight(quiet.until) <= now:
        raise UsageError(f"cannot mute until {quiet.until}: this is not in the future (now: {now:%Y-%m-%d %H:%M} UTC). Give a later date.")
    value = {
        "budget": quiet.budget, "kind": quiet.kind, "until": quiet.until.isoformat(), "by": quiet.by, "at": quiet.at.isoformat(), "note": quiet.note,
    }  # fmt: skip
    number = sum(1 for found in records.list(RECORDS).values() if found["budget"] == quiet.budget)
    while not records.create(RECORDS, f"{quiet.budget}.{number:06d}", {**value, "number": number}):
        number += 1


def read_quiet(records: Records, now: datetime) -> dict[str, Quiet]:
    """Return the latest entry of each budget by its name. Budgets that are no longer muted are left out."""
    last: dict[str, tuple[int, Quiet]] = {}
    for value in records.list(RECORDS).values():
        quiet = Quiet(
            value["budget"],
            value["kind"],
            date.fromisoformat(value["until"]),
            value["by"],
            datetime.fromisoformat(value["at"]),
            value["note"],
        )
        if value["number"] >= last.get(quiet.budget, (-1, quiet))[0]:
            last[quiet.budget] = value["number"], quiet
    return {name: quiet for name, (_, quiet) in last.items() if quiet.holds(now)}
