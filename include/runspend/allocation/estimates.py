"""Estimates the cost of hours that no bill covers yet. Contains the inputs and the order of the models.

The estimates are in `run_estimates` and in no other table. `models/estimates/estimate_*.sql` replace the models that read a bill: they
make lines for the hours from the end of a machine's bill until now. The models that split the lines of a bill then split these lines.
When an hour is billed, the next build removes its estimate and records its error.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta, timezone
from typing import TYPE_CHECKING, Any

from runspend.allocation.inputs import ALIVE_HOURS, SILENT_HOURS, common_inputs, month_start, needed_runs
from runspend.allocation.model_order import GAPS
from runspend.config.settings import Settings
from runspend.schema.rows import arrow_rows, first_day
from runspend.warehouse.base import Model, Step, Unit, UnitState, Warehouse

if TYPE_CHECKING:
    import pyarrow as pa

# Older hours are not estimated. If their bill is still missing, its source is stale, which is reported elsewhere.
REACH = timedelta(days=62)
# Prices come from the 30 billed days before the end of a bill.
LEARNED_FROM = timedelta(days=31)
UNIT = ("all", "all")
CHECKS = ("run_estimates_grain", "run_estimates_not_billed")


def estimate_models() -> list[Model]:
    """Return the models of the estimates, in running order."""
    return [
        Model("window_runs"),
        Model("run_ancestors"),
        GAPS,
        Model("type_claims"),
        Model("estimate_seen"),
        Model("estimate_names", makes="bill_names"),
        Model("matched_names"),
        Model("run_names"),
        Model("stated_machines"),
        Model("estimate_stated"),
        Model("estimate_claims"),
        Model("estimate_frontiers"),
        Model("estimate_families"),
        Model("estimate_allocated"),
        Model("estimate_open"),
        Model("estimate_windows"),
        Model("estimate_errors", into=UNIT),  # compares the stored estimates, so it must run before they are replaced
        Model("estimate_prices"),
        Model("estimate_machines"),
        Model("estimate_spans", makes="run_spans"),
        Model("estimate_units", makes="machine_units"),
        Model("estimate_lines", makes="ledger_lines"),
        Model("run_intervals"),
        Model("cluster_times", makes="borrowed_times"),  # only because `machine_slots` reads it; it covers billed hours
        *(Model(name) for name in ("machine_slots", "slot_uses", "machine_clock", "slot_targets")),
        Model("run_estimates", into=UNIT),
    ]


def estimate_parameters(now: datetime) -> dict[str, Any]:
    """Return the parameters of the models. `now` is rounded down to the hour, because an unfinished hour is not estimated."""
    hour = now.astimezone(timezone.utc).replace(minute=0, second=0, microsecond=0)
    lines_from = hour - REACH - LEARNED_FROM
    return {
        "now": hour,
        "window_start": hour - REACH,
        "window_end": hour,
        "jobs_from": hour - REACH,
        "jobs_until": hour - REACH,
        "lines_from": lines_from,
        "first_period": lines_from.date().replace(day=1),
        "month_start": month_start(hour),
        "period": lines_from.date().replace(day=1),  # the period of the checks
        "alive_hours": ALIVE_HOURS,
        "silent_hours": SILENT_HOURS,
    }


def estimate_inputs(warehouse: Warehouse, settings: Settings, parameters: Mapping[str, Any]) -> dict[str, str | None]:
    """Return the digests of all inputs of the estimates: recent bills and their ledger, runs, traces, prices, and the hour."""
    read: dict[Unit, UnitState] = {
        unit: state
        for unit, state in warehouse.states("billing_lines", "cost_allocations").items()
        if first_day(unit.period) >= parameters["first_period"]
    }
    read |= warehouse.states("trace_costs")
    read |= needed_runs(warehouse, {"window_start": parameters["window_start"], "window_end": parameters["window_end"]})
    given = {"now": parameters["now"].isoformat(), "prices": price_list(settings).to_pylist()}
    return common_inputs(read, given)


def fill_estimates(step: Step, settings: Settings, parameters: Mapping[str, Any], older: Sequence[Unit]) -> list[Unit]:
    """Run the models and their checks, and return the units that they fill. `older`: outdated units to drop."""
    for unit in older:
        step.drop(*unit)
    step.put("price_list", *UNIT, price_list(settings))
    step.run(estimate_models(), parameters)
    step.check(CHECKS, parameters)
    return [Unit(table, *UNIT) for table in ("price_list", "estimate_errors", "run_estimates")]


def price_list(settings: Settings) -> pa.Table:
    """Return `rates.prices` as a table."""
    return arrow_rows(
        "price_list",
        [
            {
                "instance_type": price.instance_type,
                "region_id": price.region or "",
                "pricing_category": price.pricing_category or "",
                "billing_currency": price.currency,
                "hour_price": price.price,
            }
            for price in settings.rates.prices
        ],
    )
