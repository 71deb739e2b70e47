"""Builds the cost tables and the estimates, and checks them before they are published."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from functools import partial
from typing import Any

from runspend.allocation.builds import Builder
from runspend.allocation.closing import Finality, is_bill
from runspend.allocation.estimates import estimate_inputs, estimate_parameters, fill_estimates
from runspend.allocation.inputs import allocation_inputs, reached_months, summary_inputs, unit_name
from runspend.allocation.model_order import LEDGER_CHECKS, LEDGER_SUMS, RUN_CHECKS, ledger_models, ledger_parameters, run_costs_models
from runspend.allocation.storage_prices import first_month, priced_stores
from runspend.config.settings import Settings
from runspend.core.errors import CheckFailed, ConfigError, WarehouseDamaged
from runspend.core.step_result import Outcome, Progress, silent
from runspend.pipeline.damage import ACTED, current_damage, open_undamaged, watching
from runspend.pipeline.monitoring import note_step
from runspend.pipeline.source_status import (
    note_superseded,
    own_units,
    publish_read,
    tell_operators,
)
from runspend.schema.rows import arrow_rows, first_day, make_load_id
from runspend.warehouse.base import Step, Unit
from runspend.warehouse.bigquery.dry_run import QueryCosts, models_cost
from runspend.warehouse.factory import open_warehouse

BUILD_TRIES = 3  # for cost tables whose inputs another process replaces at the same time


@watching(None, leaves=ACTED)
def settle(settings: Settings, *, now: datetime, periods: Sequence[str] | None = None, progress: Progress = silent) -> Outcome:
    """Allocate billed cost, then estimate cost that is not billed yet.

    A build is dropped if another process replaces one of its inputs meanwhile. For example, `measure` does so, and no build follows it.
    Therefore, dropped builds are repeated up to BUILD_TRIES times in total. If the last try is dropped too, `superseded` of the outcome
    names the build.
    """
    outcome = _build_once(settings, now=now, periods=periods, progress=progress)
    for _ in range(BUILD_TRIES - 1):
        if not outcome.superseded:
            break
        again = _build_once(settings, now=now, periods=periods, progress=progress)  # a closed month is built only if `periods` names it
        again.changed = [label for label in again.changed if label not in outcome.changed]
        again.unchanged = [label for label in again.unchanged if label not in outcome.changed]
        outcome.unchanged, outcome.notes, outcome.superseded = [], [], []
        outcome.merge(again)
    note_step(settings, "cost tables", outcome, now)
    return outcome


def _build_once(settings: Settings, *, now: datetime, periods: Sequence[str] | None, progress: Progress) -> Outcome:
    """Allocate and estimate once. Dropped builds are not repeated."""
    outcome = allocate(settings, now=now, periods=periods, progress=progress)
    if outcome.kinds & {CheckFailed, WarehouseDamaged}:
        outcome.notes.append("estimates are unchanged, because a ledger that they depend on was not rebuilt")
    else:
        outcome.merge(estimate(settings, now=now, progress=progress))
    if CheckFailed not in outcome.kinds:
        try:
            price_stores(settings, outcome, now)
        except WarehouseDamaged as error:  # costs that are already allocated are still reported
            outcome.fail(error)
    return outcome


def allocate(settings: Settings, *, now: datetime, periods: Sequence[str] | None = None, progress: Progress = silent) -> Outcome:
    """Run models and checks for every unit whose inputs changed since its tables were built.

    Billing periods are built first (`cost_allocations`, `run_costs_daily`, `cost_daily`, `unallocated_costs`). The start months of runs
    follow (`run_costs`). `periods` rebuilds these billing periods even if their inputs are unchanged. A closed month is rebuilt only if
    its bill changed or `periods` names it. Other changes in closed months are listed in the notes.
    """
    outcome = Outcome("allocate")
    warehouse, damage = open_undamaged(settings), current_damage()
    known = sorted({u.period for u in warehouse.states("billing_lines")})
    for period in periods or ():
        if period not in known:
            outcome.fail(
                ConfigError(f"cannot allocate {period}: no bill was loaded for it. Loaded months are {', '.join(known) or 'none'}.")
            )
    given = ledger_parameters(settings)
    ledger = Builder(warehouse, outcome, "allocate", now, progress, partial(_tell_failed_check, settings, outcome, now))
    finality = Finality(warehouse, settings, now)
    for period in known:
        if lacking := damage.lacking(period):
            outcome.fail(WarehouseDamaged(lacking, f"{period} was not built; its tables stay as they are."))
            continue
        inputs, window = allocation_inputs(warehouse, period, given)
        inputs |= finality.inputs(period)
        is_forced = period in (periods or ()) or damage.touches(("cost_allocations", *LEDGER_SUMS), period)
        ignored_changes = ledger.ignored_changes(period, inputs, is_bill) if finality.is_closed(period) and not is_forced else None
        finality.publish(period, ignored_changes)
        if ignored_changes is None:
            ledger.build(period, inputs, partial(_build_ledger, period=period, parameters={**given, **window}), forced=is_forced)
            if finality.is_closed(period) and period not in (periods or ()):
                outcome.notes += damage.moved(period, ("cost_allocations", *LEDGER_SUMS), warehouse.states())
    outcome.notes += finality.notes()
    lives = ledger.beside("summarize")
    reached = reached_months(warehouse)
    daily = {unit_name(unit): state.digest for unit, state in warehouse.states("run_costs_daily").items()}
    # If the runs of a month were removed by `forget`, its run_costs are removed too.
    for month in sorted({u.period for u in warehouse.states("runs", "run_costs")}):
        if lacking := damage.lacking_of_month(month):
            outcome.fail(WarehouseDamaged(lacking, f"run_costs of {month} were not built; they stay as they are."))
            continue
        inputs = summary_inputs(warehouse, month, reached, given)
        reaching = reached.get(month, set())
        is_asked = not reaching.isdisjoint(periods or ()) or damage.touches(("run_costs",), month)
        # Changed inputs among the costs that the last build read or that this build would read.
        before = lives.built.get(("summarize", month), {"inputs": {}})["inputs"]
        moved = {name for name in {*daily, *before} if name.startswith("run_costs_daily/") and daily.get(name) != before.get(name)}
        if finality.is_closed(month) and not is_asked and lives.ignored_changes(month, inputs, moved.__contains__) is not None:
            continue
        fill = partial(_build_run_costs, month=month, parameters=given)
        lives.build(month, inputs, fill, forced=damage.touches(("run_costs",), month))
        if finality.is_closed(month) and not reaching.intersection(periods or ()):
            outcome.notes += damage.moved(month, ("run_costs",), warehouse.states())
    return outcome


def _build_ledger(step: Step, period: str, parameters: Mapping[str, Any]) -> list[str]:
    """Build and check the tables of one billing period. Return their names."""
    step.run(ledger_models(period), {"period": first_day(period), **parameters})
    step.check(LEDGER_CHECKS, {"period": first_day(period), **parameters})
    return ["cost_allocations", *LEDGER_SUMS]


def _build_run_costs(step: Step, month: str, parameters: Mapping[str, Any]) -> list[str]:
    """Build and check `run_costs` for the runs that started in one month. Return the name of the table."""
    step.run(run_costs_models(month), {"period": first_day(month), **parameters})
    step.check(RUN_CHECKS, {"period": first_day(month), **parameters})
    return ["run_costs"]


def estimate(settings: Settings, *, now: datetime, progress: Progress = silent) -> Outcome:
    """Estimate the cost of runs in hours that are not billed yet.

    Fills `run_estimates`, and `estimate_errors` with the errors of earlier estimates.
    """
    outcome = Outcome("estimate")
    warehouse, damage = open_undamaged(settings), current_damage()
    if lacking := damage.lacking_of_estimates():
        outcome.fail(WarehouseDamaged(lacking, "Nothing was estimated; the estimates stay as they are."))
        return outcome
    parameters = estimate_parameters(now)
    period = f"{parameters['now']:%Y-%m}"
    older = [u for u in open_warehouse(settings).states("builds") if u.writer == "estimate" and u.period != period]
    builder = Builder(warehouse, outcome, "estimate", now, progress, partial(_tell_failed_check, settings, outcome, now))
    fill = partial(fill_estimates, settings=settings, parameters=parameters, older=older)
    builder.build(
        period,
        estimate_inputs(warehouse, settings, parameters),
        fill,
        forced=damage.touches(("price_list", "estimate_errors", "run_estimates")),
    )
    return outcome


def price_stores(settings: Settings, outcome: Outcome, now: datetime) -> None:
    """Fill `artifact_stores`: the contents of the artifact stores and their cost per month."""
    # Bills that are too old for rates are not needed, so they may be damaged.
    since = f"{first_month(now):%Y-%m}"
    warehouse = open_warehouse(settings).without(
        {unit for unit in current_damage().left if unit.table == "billing_lines" and unit.period < since}
    )
    kept = own_units(warehouse, "all", "artifact_stores")
    with warehouse.reader() as reader:
        rows = arrow_rows("artifact_stores", priced_stores(reader, settings.currency, now))
    if not kept and not rows.num_rows:
        return  # no artifact store was ever measured
    with warehouse.step("stores", make_load_id("stores", now)) as step:
        step.put("artifact_stores", "all", "all", rows)
        if not publish_read(step, kept, [Unit("artifact_stores", "all", "all")], outcome):
            note_superseded(outcome, "artifact_stores")


def foresee_queries(settings: Settings, *, periods: Sequence[str] | None = None, progress: Progress = silent) -> QueryCosts:
    """Return how many bytes BigQuery would read to build the cost tables of these periods, for each model. Nothing is built.

    Default: the newest period. Raises ConfigError if no bill was loaded for a period.
    """
    warehouse = open_warehouse(settings)
    known = sorted({u.period for u in warehouse.states("billing_lines")})
    given = ledger_parameters(settings)
    sizes: list[tuple[str, str, int]] = []
    for period in periods or known[-1:]:
        if period not in known:
            raise ConfigError(
                f"cannot tell what {period} would cost: no bill was loaded for it. Loaded months are {', '.join(known) or 'none'}."
            )
        _, window = allocation_inputs(warehouse, period, given)
        with warehouse.step("foresee", "foresee") as step:
            for name, size in models_cost(step, ledger_models(period), {"period": first_day(period), **given, **window}):
                progress(f"{period}: {name}")
                sizes.append((period, name, size))
    return QueryCosts(sizes)


def _tell_failed_check(settings: Settings, outcome: Outcome, now: datetime, what: str, error: str) -> None:
    tell_operators(settings, outcome, "CHECK FAILED", what, error, now)
