"""Which runs say where they ran, by experiment and user: what `runspend doctor` reports of the last month, and what to do for the rest."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

from runspend.core.amounts import money
from runspend.warehouse.base import Reader
from runspend.warehouse.sql_files import read_sql

__all__ = ["Group", "read_groups", "say_who_is_identified"]

DAYS = 30
SHOWN = 5


@dataclass(frozen=True)
class Group:
    """The runs of one person in one experiment. `hours`, `cost` and `currency`: of those that name no machine and no job."""

    experiment: str
    person: str
    runs: int
    identified: int
    since: datetime | None
    hours: float
    cost: Decimal
    currency: str | None


def read_groups(reader: Reader, now: datetime) -> list[Group]:
    """Return the groups of the last 30 days: the largest cost of runs that name nothing first, then the most hours."""
    rows = reader.query(read_sql(Path(__file__).parent, "identified_runs"), {"since": now - timedelta(days=DAYS), "now": now}).to_pylist()
    return [_group(row) for row in rows]


def _group(row: dict[str, Any]) -> Group:
    return Group(
        row["experiment"],
        row["person"],
        row["runs"],
        row["identified"],
        row["since"],
        row["hours"],
        row["cost"] or Decimal(0),
        row["currency"],
    )


def say_who_is_identified(groups: list[Group]) -> Iterator[str]:
    """Yield the lines of the doctor, the share of all first. Nothing without runs."""
    runs, identified = sum(group.runs for group in groups), sum(group.identified for group in groups)
    if not runs:
        return
    yield f"{identified:,} of {runs:,} runs of the last {DAYS} days name their machine or job ({100 * identified // runs} %)"
    missing = [group for group in groups if group.identified < group.runs]
    for group in missing[:SHOWN]:
        since = f", since {group.since.day} {group.since:%b %Y}" if group.since else ""
        cost = f" and cost {money(group.cost)} {group.currency}" if group.cost else ""
        yield (
            f"{group.experiment} of {group.person}: {group.identified:,} of {group.runs:,}{since}; the others took {group.hours:,.1f} h{cost}"
        )
    if len(missing) > SHOWN:
        yield f"and {len(missing) - SHOWN:,} more"
    if missing:
        yield "To identify them, run `pip install runspend` where they train (docs/identify.md)"
