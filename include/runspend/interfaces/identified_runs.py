"""Report for `runspend doctor` which runs state where they ran, by experiment and user, and advise on the other runs."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta
from decimal import Decimal
from itertools import groupby
from pathlib import Path

from runspend.core.amounts import money
from runspend.warehouse.base import Reader
from runspend.warehouse.sql_files import read_sql

DAYS = 30
SHOWN = 5
GROUP_KEY = ("tracking_server", "workspace", "experiment", "person")


@dataclass(frozen=True)
class Group:
    """The runs of one person in one experiment.

    `hours` and `costs` (by currency) are those of the runs that name neither a machine nor a job.
    """

    tracking_server: str
    workspace: str
    experiment: str
    person: str
    runs: int
    identified: int
    since: datetime | None
    hours: float
    costs: dict[str, Decimal]


def read_groups(reader: Reader, now: datetime) -> list[Group]:
    """Return the groups of the last 30 days, those with the largest cost of unidentified runs first.

    Costs are ranked within their currency, and the best rank of a group counts. Equal groups are sorted by their hours.
    """
    rows = reader.query(read_sql(Path(__file__).parent, "identified_runs"), {"since": now - timedelta(days=DAYS), "now": now}).to_pylist()
    groups: list[tuple[float, Group]] = []
    for _, of_group in groupby(rows, key=lambda row: [row[key] for key in GROUP_KEY]):
        found = list(of_group)
        costs = {row["currency"]: row["cost"] for row in found if row["cost"]}
        first = min((row["place"] for row in found if row["cost"]), default=math.inf)
        values = {key: found[0][key] for key in (*GROUP_KEY, "runs", "identified", "since", "hours")}
        groups.append((first, Group(**values, costs=costs)))
    return [group for _, group in sorted(groups, key=lambda one: (one[0], -one[1].hours))]


def say_who_is_identified(groups: list[Group]) -> Iterator[str]:
    """Yield the lines for the doctor: the share of all runs, the largest groups, and advice. Yield nothing if there are no runs."""
    runs, identified = sum(group.runs for group in groups), sum(group.identified for group in groups)
    if not runs:
        return
    yield f"{identified:,} of {runs:,} runs of the last {DAYS} days name their machine or job ({100 * identified // runs}%)"
    has_several = len({(group.tracking_server, group.workspace) for group in groups}) > 1
    missing = [group for group in groups if group.identified < group.runs]
    for group in missing[:SHOWN]:
        since = f", since {group.since.day} {group.since:%b %Y}" if group.since else ""
        place = f" on {group.tracking_server}/{group.workspace}" if has_several else ""
        cost = " and ".join(f"{money(cost)} {currency}" for currency, cost in group.costs.items())
        yield (
            f"{group.experiment} of {group.person}{place}: {group.identified:,} of {group.runs:,}{since}; the others took {group.hours:,.1f} h{cost and f' and cost {cost}'}"
        )
    if len(missing) > SHOWN:
        yield f"and {len(missing) - SHOWN:,} more"
    if any(not group.identified for group in missing):
        yield "If no run of a group is identified, run `pip install runspend` where the group trains (docs/identify.md)"
    if any(group.identified for group in missing):
        yield (
            "If only some runs are identified, the others ran elsewhere, were made by MlflowClient.create_run, or were resumed: call runspend.identify(run_id) for them (docs/identify.md)"
        )
