"""Search by a part of a name for runs, machines, models, and values of dimensions such as team or service."""

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
# Machines and registered models are not in `cost_daily`, and each has its own page. The days of a model are those of its versions.
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
    """A run whose name contains the text, or whose ID begins with it."""

    tracking_server: str
    workspace: str
    run_id: str
    name: str | None
    experiment: str | None
    status: str | None
    start_time: datetime | None


@dataclass(frozen=True)
class FoundName:
    """A value of a dimension, and the first and last day of its charges. For a model, these are the days of its versions."""

    key: str
    value: str
    since: date
    last: date


@dataclass(frozen=True)
class Found:
    """The results of a search, newest first."""

    text: str
    runs: tuple[FoundRun, ...]
    names: tuple[FoundName, ...]


def search(reader: Reader, text: str, *, hidden: Sequence[str] = ()) -> Found:
    """Return the names that contain the text, in any letter case. `hidden`: dimensions that the viewer may not use.

    Raises UsageError if the text is empty, too long or not valid Unicode.
    """
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
