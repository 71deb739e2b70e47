"""Search by a part of a name: runs, machines, models, and the values of dimensions by which people know their costs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date, datetime, timedelta

from runspend.actions.costs.query import COST_KEYS
from runspend.actions.explore.view import MOST_DAYS
from runspend.core.errors import UsageError
from runspend.core.text import without_person
from runspend.warehouse.base import Reader

NAMED = ("team", "project", "cost_center", "owner", "experiment", "user", "server", "source", "service", "account", "region")
# Machines and registered models are not in `cost_daily`; each has a page of its own. A model's days are those of its versions.
OF_THINGS = (
    """select 'machine' as dimension, resource_id as name, min(charge_date) as since, max(charge_date) as last
    from cost_allocations where cost_kind = 'compute' and strpos(lower(resource_id), @text) > 0 group by resource_id""",
    """select 'model' as dimension, model_name as name, min(date(creation_time)) as since, max(date(creation_time)) as last
    from model_versions where strpos(lower(model_name), @text) > 0 and creation_time is not null group by model_name""",
)
MOST_RUNS, MOST_NAMES = 25, 50
LONGEST = 200  # characters


@dataclass(frozen=True)
class FoundRun:
    """A run whose name has the text, or whose id begins with it."""

    tracking_server: str
    workspace: str
    run_id: str
    name: str | None
    experiment: str | None
    status: str | None
    start_time: datetime | None


@dataclass(frozen=True)
class FoundName:
    """A value of a dimension, and the days of its charges (of a model: of its versions)."""

    key: str
    value: str
    since: date
    last: date


@dataclass(frozen=True)
class Found:
    """What a string finds, the newest first."""

    text: str
    runs: tuple[FoundRun, ...]
    names: tuple[FoundName, ...]


def search(reader: Reader, text: str, *, hidden: Sequence[str] = ()) -> Found:
    """Find names that have the text in any letter case. `hidden`: dimensions that may not be asked for. Raises UsageError."""
    text = text.strip()
    if not text or len(text) > LONGEST or any("\ud800" <= c <= "\udfff" or c == "\0" for c in text):
        raise UsageError(f"cannot search: give a part of a name, of at most {LONGEST} characters.")
    parameters = {"text": text.lower()}
    runs = reader.query(
        f"""
        select tracking_server, workspace, run_id, min(run_name) as run_name, min(experiment_name) as experiment_name, min(run_status) as run_status, min(start_time) as start_time
        from run_costs
        where strpos(lower(run_name), @text) > 0 or starts_with(run_id, @text)
        group by tracking_server, workspace, run_id
        order by start_time desc, run_id
        limit {MOST_RUNS}""",
        parameters,
    ).to_pylist()
    each = " union all ".join(
        f"select '{key}' as dimension, {COST_KEYS[key]} as name, min(charge_date) as since, max(charge_date) as last"
        f" from cost_daily where strpos(lower({COST_KEYS[key]}), @text) > 0 group by {COST_KEYS[key]}"
        for key in NAMED
        if key not in hidden
    )
    things = " union all ".join(OF_THINGS)
    names = reader.query(
        f"select * from ({each} union all {things}) order by last desc, dimension, name limit {MOST_NAMES}", parameters
    ).to_pylist()
    return Found(
        text,
        tuple(
            FoundRun(
                r["tracking_server"],
                r["workspace"],
                r["run_id"],
                r["run_name"],
                without_person(r["experiment_name"]) if hidden else r["experiment_name"],
                r["run_status"],
                r["start_time"],
            )
            for r in runs
        ),
        tuple(
            FoundName(r["dimension"], r["name"], max(r["since"], r["last"] - timedelta(days=MOST_DAYS - 1)), r["last"])
            for r in names
            if not hidden or without_person(r["name"]) == r["name"]
        ),
    )
