"""Reads the hours of runs without a machine and of machines without a run from the warehouse.

The warehouse computes sums and returns one row per group of machines (or of runs) and hour. `matching.py` decides which groups
belong together.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import date, datetime, timedelta, timezone
from pathlib import Path
from typing import Any

from runspend.allocation.diagnostics import MACHINE_GROUP, OWN_TAGS
from runspend.core.outside_json import parse_json
from runspend.core.service_kinds import (
    AUTOPILOT_METERS,
    ENDPOINT_METERS,
    ENDPOINT_RESOURCES,
    JOB_SERVICES,
    TRAINING_METERS,
    UNNAMED_SERVICES,
)
from runspend.warehouse.base import Reader
from runspend.warehouse.sql_files import read_sql

HOUR_MICROSECONDS = 3_600_000_000
NANOSECONDS = 3.6e12  # an hour
# Only this many groups are examined: the most expensive machines and the longest runs.
MOST_MACHINES, MOST_RUNS = 300, 600

HERE = Path(__file__).parent
LEFT_LINES = read_sql(HERE, "left_lines").format(
    machine_group=MACHINE_GROUP,
    own_tags=OWN_TAGS,
    job_services=JOB_SERVICES,
    serving=f"{ENDPOINT_RESOURCES}|{ENDPOINT_METERS}",
    autopilot=AUTOPILOT_METERS,
    unnamed=UNNAMED_SERVICES,
    training=TRAINING_METERS,
)
MACHINE_CELLS = read_sql(HERE, "machine_cells").format(left_lines=LEFT_LINES, most=MOST_MACHINES)
MACHINE_HOURS = read_sql(HERE, "machine_hours").format(left_lines=LEFT_LINES, most=MOST_MACHINES)
LEFT_RUNS = read_sql(HERE, "left_runs")
RUN_CELLS = read_sql(HERE, "run_cells").format(left_runs=LEFT_RUNS, most=MOST_RUNS)
RUN_HOURS = read_sql(HERE, "run_hours").format(left_runs=LEFT_RUNS, most=MOST_RUNS)
SPAN = read_sql(HERE, "billed_span")
HOME_ACCOUNTS = read_sql(HERE, "home_accounts")


@dataclass(frozen=True)
class Cell:
    """The smallest unit that is compared: machines, or runs, with the same names. `hours` maps each hour to machine-hours or run-hours."""

    names: Mapping[str, str]
    hours: Mapping[int, float]
    costs: Mapping[int, float] = field(default_factory=dict)
    gpus: int = 0
    is_daily: bool = False  # billed by the day, so only days can be compared
    runs: int = 0
    is_serving: bool = False  # machines that serve models: no run ran on them
    is_job: bool = False  # machines of managed jobs; their runs could state the job
    machines: Mapping[int, float] = field(default_factory=dict)  # hour -> number of machines billed in its charge period


@dataclass(frozen=True)
class Evidence:
    """All evidence. Hours are counted since 1970 (UTC), from `since` to before `upto`. Costs are in `currency`."""

    since: int
    upto: int
    currency: str
    machines: tuple[Cell, ...]
    runs: tuple[Cell, ...]
    home_accounts: frozenset[str]

    @property
    def moment(self) -> tuple[datetime, datetime]:
        """Return `since` and `upto` as times."""
        first = datetime(1970, 1, 1, tzinfo=timezone.utc)
        return first + timedelta(hours=self.since), first + timedelta(hours=self.upto)


def read_evidence(reader: Reader, first: date, currency: str) -> Evidence | None:
    """Return the evidence of the billing periods from `first` on. None if no bill has hourly or daily usage.

    If no machine is billed in `currency`, the currency of the most expensive machines is used.
    """
    span = reader.query(SPAN, {"first": first}).to_pylist()[0]
    if span["since"] is None:
        return None
    since, upto = span["since"], span["upto"]
    length = int((upto - since).total_seconds() * 1e9)
    asked = {"first": first, "steady_nanoseconds": length // 2}
    hours: dict[int, tuple[dict[int, float], dict[int, float], dict[int, float]]] = {}
    for row in reader.query(MACHINE_HOURS, asked).to_pylist():
        _spread(row, *hours.setdefault(row["cell"], ({}, {}, {})))
    cells = reader.query(MACHINE_CELLS, asked).to_pylist()
    if cells and all(row["billing_currency"] != currency for row in cells):
        currency = cells[0]["billing_currency"]  # of the most expensive machines
    machines = tuple(
        _machine_cell(row, *hours[row["cell"]]) for row in cells if row["billing_currency"] == currency and row["effective_cost"]
    )
    ran: dict[int, dict[int, float]] = {}
    times = {"first": first, "since": since, "upto": upto}
    for row in reader.query(RUN_HOURS, times).to_pylist():
        ran.setdefault(row["cell"], {})[row["hour_number"]] = row["micros"] / HOUR_MICROSECONDS
    runs = tuple(_run_cell(row, ran[row["cell"]]) for row in reader.query(RUN_CELLS, times).to_pylist())
    homes = frozenset(row["account"] for row in reader.query(HOME_ACCOUNTS, {"first": first}).to_pylist())
    return Evidence(_hour_of(since), -_hour_of(upto, -1), currency, machines, runs, homes)


def _hour_of(moment: datetime, sign: int = 1) -> int:
    """Return the hour of a moment. With `sign` -1, the hour is rounded up and negated."""
    return int(sign * moment.timestamp() // 3600)


def _spread(row: Mapping[str, Any], billed: dict[int, float], costs: dict[int, float], machines: dict[int, float]) -> None:
    """Spread the machine-hours and cost of a charge period evenly over its hours. Each hour counts all its machines."""
    first, end = _hour_of(row["charge_period_start"]), -_hour_of(row["charge_period_end"], -1)
    for hour in range(first, end):
        billed[hour] = billed.get(hour, 0.0) + row["nanoseconds"] / NANOSECONDS / (end - first)
        costs[hour] = costs.get(hour, 0.0) + float(row["effective_cost"] or 0) / (end - first)
        machines[hour] = machines.get(hour, 0.0) + row["machines"]


def _machine_cell(row: Mapping[str, Any], hours: dict[int, float], costs: dict[int, float], machines: dict[int, float]) -> Cell:
    kinds = ("source", "account", "instance_type", "machine_group", "name_prefix", "resource_key", "service")
    names = {key: row[key] for key in kinds if row[key]}
    if row["job_kind"].startswith(":"):
        names["job_resource"] = row["job_kind"]
    names |= {f"tag.{key}": value for key, value in _tags(row["other_tags"])}
    return Cell(
        names,
        hours,
        costs,
        row["gpus"],
        row["longest"] > HOUR_MICROSECONDS,
        is_serving=bool(row["is_serving"]),
        is_job=bool(row["job_kind"]),
        machines=machines,
    )


def _run_cell(row: Mapping[str, Any], hours: dict[int, float]) -> Cell:
    names = {
        "tracking": row["tracking_server"],
        **{
            key: row[column]
            for key, column in (("experiment", "experiment_name"), ("user", "user_name"), ("tag.mlflow.source.name", "source_name"))
            if row[column]
        },
    }
    return Cell(names, hours, gpus=int(row["wants_gpus"]), runs=row["runs"])


def _tags(text: str) -> Iterable[tuple[str, str]]:
    try:
        tags = parse_json(re.sub(r",\s*}$", "}", text)) if text else {}  # removing the last tag leaves its comma
    except ValueError:
        return ()
    return tuple((key, value) for key, value in tags.items() if isinstance(value, str) and value) if isinstance(tags, dict) else ()
