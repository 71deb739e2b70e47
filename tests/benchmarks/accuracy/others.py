"""Three published formulas, re-implemented from their descriptions, over the same runs and lines.

Each formula gets the data that its authors have: runs with start and end, the machines that runs state, and the lines of those machines.
If a run states no machine, its cost is zero in all of them.

* `mozilla`: duration ÷ uptime × cost of the machine. Uptime and cost are summed over the 30 days before the run's last day. Inner joins
  drop runs without a machine. Runs longer than the uptime are left out (`uptime >= duration`, since May 2026). Source:
  mozilla/bigquery-etl, sql/moz-fx-data-shared-prod/fxci_derived/task_run_costs_v1/query.sql with worker_costs_v1.
* `optscale`: cost of the machine over the whole days from the first to the last run of a task × duration ÷ hours billed in them. Each of
  k simultaneous runs pays the whole cost. Source: hystax/optscale, rest_api/rest_api_server/controllers/profiling/base.py,
  `_get_run_costs`.
* `snowpatrol`: elapsed time ÷ all elapsed time of the day on which the run ended × the machine's cost on that day. Source:
  astronomer/snowpatrol, include/sql/initial_setup/view_reporting_dag_cost.sql with reporting_query_history.sql and
  reporting_warehouse_credits.sql.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Callable
from datetime import date, timedelta

from tests.benchmarks.accuracy.cluster import DAY, HOUR, Run, moment
from tests.benchmarks.accuracy.worlds import World, millis_of

Costs = dict[str, float]  # run id -> cost
DAYS_BACK = 30


class _Bill:
    """Cost and billed time of each machine and day according to the bill, under the id that runs know."""

    def __init__(self, world: World) -> None:
        names = {machine.billed_as or machine.name: machine.name for machine in world.machines}
        self.cost: dict[str, dict[date, float]] = defaultdict(lambda: defaultdict(float))
        self.time: dict[str, dict[date, float]] = defaultdict(lambda: defaultdict(float))
        for line in world.lines:
            machine = names.get(line.row.get("ResourceId", ""))
            if machine is not None:
                day = moment(millis_of(line)).date()
                self.cost[machine][day] += float(line.row["EffectiveCost"])
                if line.row.get("ConsumedUnit") == "Hours" and not line.row.get("ChargeClass"):
                    self.time[machine][day] += float(line.row["ConsumedQuantity"]) * HOUR

    def cost_of(self, machine: str, first: date, last: date) -> float:
        return sum(cost for day, cost in self.cost[machine].items() if first <= day <= last)

    def time_of(self, machine: str, first: date, last: date) -> float:
        return sum(time for day, time in self.time[machine].items() if first <= day <= last)


def stated_machines(run: Run) -> list[str]:
    """Return the machines that a run states, in any of the three tags."""
    if "runspend.resources" in run.tags:
        return sorted({machine["id"] for machine in json.loads(run.tags["runspend.resources"])})
    if "runspend.resource_ids" in run.tags:
        return list(json.loads(run.tags["runspend.resource_ids"]))
    return [run.tags["runspend.instance_id"]] if "runspend.instance_id" in run.tags else []


def mozilla(world: World) -> Costs:
    bill, costs = _Bill(world), defaultdict(float)
    for run in world.runs:
        if run.end is None:
            continue  # `resolved` is null, so the duration is null too
        last = moment(run.end).date()
        for machine in stated_machines(run):
            uptime = bill.time_of(machine, last - timedelta(days=DAYS_BACK), last)
            if uptime >= run.end - run.start:
                costs[run.run_id] += (run.end - run.start) / uptime * bill.cost_of(machine, last - timedelta(days=DAYS_BACK), last)
    return costs


def optscale(world: World) -> Costs:
    bill, costs = _Bill(world), defaultdict(float)
    tasks: dict[str, list[Run]] = defaultdict(list)
    for run in world.runs:
        tasks[run.experiment].append(run)
    for runs in tasks.values():
        ends = {run.run_id: world.now() if run.end is None else run.end for run in runs}
        first = moment(min(run.start for run in runs)).date()
        last = moment(max(ends.values()) - max(ends.values()) % DAY + DAY).date() - timedelta(days=1)
        for run in runs:
            for machine in stated_machines(run):
                hours = bill.time_of(machine, first, last) / HOUR or 24.0
                costs[run.run_id] += bill.cost_of(machine, first, last) * ((ends[run.run_id] - run.start) / HOUR) / hours
    return costs


def snowpatrol(world: World) -> Costs:
    bill, costs = _Bill(world), defaultdict(float)
    ended = [
        (run, machine, moment(run.end).date(), run.end - run.start)
        for run in world.runs
        if run.end is not None
        for machine in stated_machines(run)
    ]
    elapsed: dict[tuple[str, date], int] = defaultdict(int)
    for _, machine, day, time in ended:
        elapsed[machine, day] += time
    for run, machine, day, time in ended:
        costs[run.run_id] += time / elapsed[machine, day] * bill.cost[machine][day]
    return costs


OTHERS: dict[str, Callable[[World], Costs]] = {"Mozilla": mozilla, "OptScale": optscale, "SnowPatrol": snowpatrol}
