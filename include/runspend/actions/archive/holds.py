"""Runs and experiments that users exclude from retention until a date, with `runspend archive keep`.

This module keeps the records of these exclusions. The tag `runspend.keep` in MLflow is separate: `plan.sql` reads it from the tables.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from pathlib import Path
from typing import Any

from runspend.core.errors import UsageError
from runspend.warehouse.base import Reader
from runspend.warehouse.records import Records
from runspend.warehouse.sql_files import read_sql

KIND = "archive_keeps"
LASTS = timedelta(days=365)  # duration of an exclusion without an end date


@dataclass(frozen=True)
class Keep:
    """A user's request to exclude a run or an experiment from retention, up to and including the day `until`."""

    kind: str  # run or experiment
    tracking_server: str
    workspace: str
    id: str
    name: str | None
    until: date
    reason: str | None

    @property
    def sentence(self) -> str:
        """The reason that the plan shows for the excluded items."""
        return f"excluded from retention until {self.until}" + (f": {self.reason}" if self.reason else "")


def record_keep(reader: Reader, records: Records, what: str, *, until: date | None, reason: str | None, now: datetime) -> Keep:
    """Exclude a run or an experiment from all policies, record that, and return the record.

    `what` is the id of a run, a prefix of it with at least six characters, or the id or name of an experiment. `until` is the last day;
    without it, the exclusion lasts for a year. Raises UsageError if the day is over, or if `what` does not name exactly one of them.
    """
    last = (now + LASTS).date() if until is None else until
    if last < now.date():
        raise UsageError(f"cannot keep {what!r} until {last}: that day is over. Give a later day. Nothing was recorded.")
    found = reader.query(read_sql(Path(__file__).parent, "named_objects"), {"what": what}).to_pylist()
    exact = [row for row in found if what in (row["id"], row["name"])] or found
    if len(exact) != 1:
        named = ", ".join(f"{row['kind']} {row['id']} ({row['tracking_server']}, {row['name']})" for row in exact[:5])
        why = f"it may be {named}" if exact else "no run or experiment has that id or name"
        raise UsageError(f"cannot keep {what!r}: {why}. Give one full id. Nothing was recorded.")
    keep = Keep(**exact[0], until=last, reason=reason)
    value = {**vars(keep), "until": last.isoformat(), "at": now.isoformat()}
    key = f"{keep.tracking_server}/{keep.workspace}/{keep.kind}/{keep.id}"
    while not records.create(KIND, key, value):
        before = records.get(KIND, key)
        if before is not None and records.replace(KIND, key, value, before[1]):
            break
    return keep


def read_keeps(records: Records, now: datetime) -> dict[tuple[str, str, str, str], Keep]:
    """Return the exclusions that have not ended, by (kind, tracking server, workspace, id)."""
    found = [
        Keep(**{name: value[name] for name in value if name not in ("at", "until")}, until=date.fromisoformat(value["until"]))
        for value in records.list(KIND).values()
    ]
    return {(keep.kind, keep.tracking_server, keep.workspace, keep.id): keep for keep in found if keep.until >= now.date()}


def keep_of(keeps: Mapping[tuple[str, str, str, str], Keep], row: Mapping[str, Any]) -> Keep | None:
    """Return the exclusion that applies to a row of the plan: that of its run, otherwise that of its experiment, otherwise None."""
    place = (row["tracking_server"], row["workspace"])
    return keeps.get(("run", *place, row["run_id"])) or keeps.get(("experiment", *place, row["experiment_id"]))
