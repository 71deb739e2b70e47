"""The pipeline: one short function per step, in running order.

    extract + measure + load  →  allocate (models, checks, publish), estimate  →  report, alert, archive

Each step replaces whole units. A step that runs again gives the same result. Steps pass only names to each other; rows
travel through the warehouse. The caller always gives `now`. The inner work of a step belongs in its own package, not here.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from datetime import datetime, timedelta
from functools import partial
from typing import TYPE_CHECKING, Any

from runspend.allocation.builds import Builder, note_report, report_builds
from runspend.allocation.closing import Finality, is_bill
from runspend.allocation.estimates import CHECKS as ESTIMATE_CHECKS
from runspend.allocation.estimates import estimate_inputs, estimate_parameters, fill_estimates
from runspend.allocation.inputs import allocation_inputs, reached_months, summary_inputs
from runspend.allocation.model_order import LEDGER_CHECKS, LEDGER_SUMS, RUN_CHECKS, ledger_models, ledger_parameters, run_costs_models
from runspend.allocation.storage_prices import first_month, priced_stores
from runspend.config.settings import BillSource, Settings
from runspend.core.errors import CheckFailed, ConfigError, RecordRefused, SourceError, SourceRefused, WarehouseDamaged
from runspend.core.step_result import Outcome, Progress, silent
from runspend.ingest.billing import load_process as loading
from runspend.pipeline.damage import ACTED, BILLS, DELETING, RUNS, STORES, current_damage, open_undamaged, watching
from runspend.pipeline.monitoring import note_step, ring_heartbeat, tell_refused_file, tell_stale, telling_of_the_warehouse
from runspend.pipeline.source_status import (
    chosen,
    note_superseded,
    own_units,
    publish_read,
    published,
    read_owners,
    reading,
    rebuilt_months,
    selector_keys,
    tell_operators,
    unread_notes,
    work_folder,
)
from runspend.pipeline.splitters import Splitters
from runspend.schema.rows import arrow_rows, by_month, first_day, make_load_id
from runspend.warehouse import Step, Unit, UnitState, Warehouse, open_warehouse
from runspend.warehouse.bigquery.dry_run import QueryCosts, models_cost

if TYPE_CHECKING:
    from runspend.ingest.billing import Load
    from runspend.ingest.billing.measured_power import Drawn

LOAD_TRIES = 3  # for a bill that another process loads at the same time
BUILD_TRIES = 3  # for cost tables whose inputs another process replaces at the same time

# --- extract -----------------------------------------------------------------------------------------------------------


@watching(RUNS, reads=("billing_loads", "sources"))
def extract(settings: Settings, names: Sequence[str] | None = None, *, now: datetime, accept: Sequence[str] = (), progress: Progress = silent) -> Outcome:
    """Read runs, experiments and traces of each tracking server.

    Fills `runs`, `run_resources`, `machine_power`, `experiments`, `artifact_owners` and `trace_costs`. If there are retention
    policies, also fills `model_versions`, `model_uses`, `run_metrics` and `tracking_reads`: they show which artifacts must stay.
    """
    from runspend.ingest import tracking
    from runspend.ingest.tracking.measured_power import find_measured

    outcome = Outcome("extract")
    warehouse, damage = open_undamaged(settings), current_damage()
    for server in chosen({s.name: s for s in settings.tracking}, names, "tracking server"):
        with reading(warehouse, settings, outcome, server.name, "tracking", server.late_after, now) as report, work_folder(settings) as workdir:
            kept = own_units(warehouse, server.name, "runs", "run_resources", "machine_power", "experiments", "artifact_owners", "trace_costs", *tracking.LINK_TABLES)
            result = tracking.extract_server(
                server,
                settings.dimensions,
                now=now,
                previous=published(warehouse, server.name),
                months=None,
                known_months=sorted(u.period for u in kept if u.table == "runs"),
                known_trace_months=sorted(u.period for u in kept if u.table == "trace_costs"),
                settings_of=_written_under(kept, damage.months_of(server.name, RUNS)),
                billed_months=partial(_billed_months, warehouse, server.name, [u.period for u in kept], is_known=not damage.touches(("billing_loads", "sources"))),
                selector_keys=selector_keys(settings),
                pools=settings.pools,
                measured=find_measured(settings),
                links=tracking.find_links(settings),
                job_keys=settings.keys.run_job,
                accept=[month for name, _, month in (text.partition(":") for text in accept) if name == server.name],
                workdir=workdir,
                load_id=make_load_id(server.name, now),
                progress=progress,
            )
            with warehouse.step("extract", make_load_id(server.name, now)) as step:
                for (table, period), rows in result.tables.items():
                    step.put(table, period, server.name, rows, extra=result.extras.get((table, period)))
                report.good(step, covered_until=result.covered_until, rows=result.run_count, experiments=result.experiment_count)
                if not publish_read(step, kept, [Unit(table, period, server.name) for table, period in result.tables], outcome, only="runs"):
                    note_superseded(outcome, server.name)
            outcome.notes += result.warnings
            for refused in result.refused:
                report.bad(refused)
    return outcome


def _written_under(kept: Mapping[Unit, UnitState], damaged: Collection[str]) -> dict[str, str | None]:
    """Map each start month to the settings its runs were read under. None if a table of the month is damaged: its runs are read again."""
    return {u.period: None if u.period in damaged else state.extra.get("settings") for u, state in kept.items() if u.table == "runs"}


def _billed_months(warehouse: Warehouse, server: str, months: Sequence[str], *, is_known: bool) -> Collection[str]:
    """Return the months that bills loaded since the last extract reach. Return all months if damage hides which ones."""
    return rebuilt_months(warehouse, server) if is_known else months


# --- measure -----------------------------------------------------------------------------------------------------------


@watching(STORES, reads=("sources",))
def measure(settings: Settings, names: Sequence[str] | None = None, *, now: datetime, progress: Progress = silent) -> Outcome:
    """Measure each artifact store: bytes and objects by owner and storage class.

    Fills `artifact_bytes`, and `dangling_owners` with owners that have no artifacts.
    """
    from runspend.ingest import artifacts

    outcome = Outcome("measure")
    warehouse = open_undamaged(settings)
    stores = {artifacts.store_slug(store.uri): store for store in settings.stores if store.measure == "list"}
    for store in chosen(stores, names, "store"):
        name = artifacts.store_slug(store.uri)
        late_after = timedelta(days=9) if store.inventory else timedelta(hours=48)  # inventories come daily or weekly
        with reading(warehouse, settings, outcome, store.uri, "store", late_after, now, writer=name) as report, work_folder(settings) as workdir:
            kept = own_units(warehouse, name, "artifact_bytes", "dangling_owners")
            owners, readings = read_owners(warehouse, settings)
            result = artifacts.measure_store(
                store,
                owners,
                now=now,
                previous=partial(published(warehouse, name), "artifact_bytes"),
                known_dangling=warehouse.read(Unit("dangling_owners", "all", name)),
                readings=readings,
                workdir=workdir,
                kept=workdir.parent,
                load_id=make_load_id(name, now),
                progress=progress,
            )
            with warehouse.step("measure", make_load_id(name, now)) as step:
                for period, rows in result.tables.items():
                    step.put("artifact_bytes", period, name, rows)
                units = [Unit("artifact_bytes", period, name) for period in result.tables]
                if result.dangling is not None:
                    step.put("dangling_owners", "all", name, result.dangling)
                    units.append(Unit("dangling_owners", "all", name))
                if result.error is None:
                    report.good(step, covered_until=result.as_of or now, rows=result.objects or 0)
                if not publish_read(step, kept, units, outcome):
                    note_superseded(outcome, name)
            outcome.notes += result.warnings
            outcome.found += [result.found] if result.found else []
            if result.error is not None:
                report.bad(result.error)
    return outcome


# --- load --------------------------------------------------------------------------------------------------------------


@watching(BILLS, reads=("sources",))
def load(settings: Settings, names: Sequence[str] | None = None, *, now: datetime, accept: Sequence[str] = (), progress: Progress = silent) -> Outcome:
    """Load bills, one source at a time with all its billing periods.

    Fills `billing_lines`, `billing_quarantine`, `billing_loads` and `bill_changes`.
    """
    outcome = Outcome("load")
    loading.prepare(settings)
    warehouse = open_undamaged(settings)
    weights = Splitters(settings, progress)
    for source in chosen({s.name: s for s in settings.billing}, names, "bill"):
        if source.format == "opencost":
            _load_weights(warehouse, settings, outcome, weights, source, now)
            continue
        with reading(warehouse, settings, outcome, source.name, "bill", source.late_after, now) as report:
            read = partial(
                loading.load_bill,
                settings,
                source,
                now=now,
                scope=settings.scope,
                shared=settings.shared.lines,
                pools=settings.pools,
                dimensions=settings.dimensions,
                keys=settings.keys,
                weights=weights.of(source),
                drawn=_read_drawn(warehouse, source),
                previous=published(warehouse, source.name),
                accept=accept,
                load_id=make_load_id(source.name, now),
                progress=progress,
                damaged=current_damage().months_of(source.name, BILLS),
            )
            result = _load_bill(warehouse, settings, outcome, source.name, read, now)
            refused = [error for error in (result.error, *(period.error for period in result.periods)) if error is not None]
            for period in result.periods:
                if period.state == "unchanged":
                    outcome.unchanged.append(f"billing_lines {period.period} {source.name}")
                outcome.notes += unread_notes(source.name, period.period, period.extra)
            outcome.notes += [f"{source.name}: {what}: {count}" for what, count in result.extra.get("warnings", {}).items()]
            if refused:
                for error in refused:
                    report.bad(error)
            else:
                rows = sum(s.rows for s in own_units(warehouse, source.name, "billing_lines").values())
                with warehouse.step("load", make_load_id(source.name, now)) as step:
                    report.good(step, covered_until=result.covered_until, rows=rows)
                    step.publish()
    return outcome


def _load_bill(warehouse: Warehouse, settings: Settings, outcome: Outcome, name: str, read: Callable[..., Load], now: datetime) -> Load:
    """Read a bill and publish its rows.

    If another process published the bill meanwhile, read it again and compare it with that version. So the newer delivery wins
    and the older is refused, in any order. Raises SourceRefused if every try is overtaken.
    """
    for number in range(1, LOAD_TRIES + 1):
        with work_folder(settings) as workdir:
            kept = own_units(warehouse, name, "billing_lines", "billing_quarantine", "billing_loads", "bill_changes")
            result = read(periods_known=sorted({u.period for u in kept if u.table == "billing_loads"}), workdir=workdir)
            # All periods at once: a file recorded for one period is not read again for another period that was left out.
            with warehouse.step("load", make_load_id(name, now)) as step:
                units = {Unit(table, p.period, name): (rows, p.extra) for p in result.periods for table, rows in p.tables.items()}
                for unit, (rows, extra) in units.items():
                    step.put(*unit, rows, extra=extra if unit.table == "billing_lines" else None)
                if publish_read(step, kept, list(units), outcome, only="billing_lines"):
                    return result
        note_superseded(outcome, name, f"try {number} of {LOAD_TRIES} came to nothing")
    raise SourceRefused(
        name,
        f"cannot load bill {name}: another process published it each of the {LOAD_TRIES} times it was read. Their version stays. "
        "Run runspend load when nothing else loads this bill.",
    )


def _read_drawn(warehouse: Warehouse, source: BillSource) -> Drawn:
    """Return the power that a bill's machines drew, if the bill charges for power. It reaches as far as `extract` has read runs."""
    from runspend.ingest.billing.measured_power import is_measured, read_drawn

    if not is_measured(source):
        return {}
    with warehouse.reader() as reader:
        return read_drawn(reader)


def _load_weights(warehouse: Warehouse, settings: Settings, outcome: Outcome, weights: Splitters, source: BillSource, now: datetime) -> None:
    """Read a source that is not a bill but splits bill lines. It has a row in `sources` and no table of its own."""
    with reading(warehouse, settings, outcome, source.name, "splits", source.late_after, now) as report:
        read = weights.read(source)
        with warehouse.step("load", make_load_id(source.name, now)) as step:
            report.good(step, covered_until=read.covered_until, rows=read.rows)
            step.publish()
        outcome.notes += [f"{source.name}: {why}: {count}" for why, count in read.skip_reasons.items()]


# --- allocate and check ------------------------------------------------------------------------------------------------


def allocate(settings: Settings, *, now: datetime, periods: Sequence[str] | None = None, progress: Progress = silent) -> Outcome:
    """Run models and checks for every unit whose inputs changed since its tables were built.

    First the billing periods (`cost_allocations`, `run_costs_daily`, `cost_daily`, `unallocated_costs`), then the start
    months of the runs they reach (`run_costs`). `periods` rebuilds these billing periods even if their inputs are unchanged.
    A closed month is rebuilt only if its bill changed or `periods` names it. Other changes are noted.
    """
    outcome = Outcome("allocate")
    warehouse, damage = open_undamaged(settings), current_damage()
    known = sorted({u.period for u in warehouse.states("billing_lines")})
    for period in periods or ():
        if period not in known:
            outcome.fail(ConfigError(f"cannot allocate {period}: no bill was loaded for it. Loaded are {', '.join(known) or 'none'}."))
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
    for month in sorted({u.period for u in warehouse.states("runs")}):
        if lacking := damage.lacking_of_month(month):
            outcome.fail(WarehouseDamaged(lacking, f"run_costs of {month} were not built; they stay as they are."))
            continue
        inputs, window = summary_inputs(warehouse, month, reached, given)
        reaching = reached.get(month, set())
        is_asked = not reaching.isdisjoint(periods or ()) or damage.touches(("run_costs",), month)
        if finality.is_closed(month) and not is_asked and lives.ignored_changes(month, inputs, {f"run_costs_daily/{period}/all" for period in reaching}.__contains__) is not None:
            continue
        fill = partial(_build_run_costs, month=month, parameters={**given, **window})
        lives.build(month, inputs, fill, forced=damage.touches(("run_costs",), month))
        if finality.is_closed(month) and not reaching.intersection(periods or ()):
            outcome.notes += damage.moved(month, ("run_costs",), warehouse.states())
    return outcome


def foresee_queries(settings: Settings, *, periods: Sequence[str] | None = None, progress: Progress = silent) -> QueryCosts:
    """Ask BigQuery, model by model, how much it would read to build the cost tables of these periods. Default: the newest. Builds nothing."""
    warehouse = open_warehouse(settings)
    known = sorted({u.period for u in warehouse.states("billing_lines")})
    given = ledger_parameters(settings)
    sizes: list[tuple[str, str, int]] = []
    for period in periods or known[-1:]:
        if period not in known:
            raise ConfigError(f"cannot tell what {period} would cost: no bill was loaded for it. Loaded are {', '.join(known) or 'none'}.")
        _, window = allocation_inputs(warehouse, period, given)
        with warehouse.step("foresee", "foresee") as step:
            for name, size in models_cost(step, ledger_models(period), {"period": first_day(period), **given, **window}):
                progress(f"{period}: {name}")
                sizes.append((period, name, size))
    return QueryCosts(sizes)


def _tell_failed_check(settings: Settings, outcome: Outcome, now: datetime, what: str, error: str) -> None:
    tell_operators(settings, outcome, "CHECK FAILED", what, error, now)


def _build_ledger(step: Step, period: str, parameters: Mapping[str, Any]) -> list[str]:
    """Build and check the tables of one billing period; return their names."""
    step.run(ledger_models(period), {"period": first_day(period), **parameters})
    step.check(LEDGER_CHECKS, {"period": first_day(period), **parameters})
    return ["cost_allocations", *LEDGER_SUMS]


def _build_run_costs(step: Step, month: str, parameters: Mapping[str, Any]) -> list[str]:
    """Build and check `run_costs` for the runs that started in one month."""
    step.run(run_costs_models(month), {"period": first_day(month), **parameters})
    step.check(RUN_CHECKS, {"period": first_day(month), **parameters})
    return ["run_costs"]


def estimate(settings: Settings, *, now: datetime, progress: Progress = silent) -> Outcome:
    """Estimate the cost of runs in hours that no bill reaches yet.

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
    builder.build(period, estimate_inputs(warehouse, settings, parameters), fill, forced=damage.touches(("price_list", "estimate_errors", "run_estimates")))
    return outcome


@watching(None, leaves=ACTED)
def settle(settings: Settings, *, now: datetime, periods: Sequence[str] | None = None, progress: Progress = silent) -> Outcome:
    """Allocate billed cost, then estimate cost that is not billed yet.

    A build is dropped if one of its inputs is replaced while it runs. `measure` does that, and it does not trigger a build
    afterward. So the build is repeated here. `superseded` of the outcome holds the builds that were overtaken every time.
    """
    outcome = _settle_once(settings, now=now, periods=periods, progress=progress)
    for _ in range(BUILD_TRIES - 1):
        if not outcome.superseded:
            break
        again = _settle_once(settings, now=now, periods=periods, progress=progress)  # a closed month is built only if `periods` names it
        again.changed = [label for label in again.changed if label not in outcome.changed]
        again.unchanged = [label for label in again.unchanged if label not in outcome.changed]
        outcome.unchanged, outcome.notes, outcome.superseded = [], [], []
        outcome.merge(again)
    note_step(settings, "cost tables", outcome, now)
    return outcome


def _settle_once(settings: Settings, *, now: datetime, periods: Sequence[str] | None, progress: Progress) -> Outcome:
    """Do what `settle` does, without repeating builds that were overtaken."""
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


def price_stores(settings: Settings, outcome: Outcome, now: datetime) -> None:
    """Fill `artifact_stores`: the contents of the artifact stores and their cost per month."""
    # A bill too old to give a rate may be damaged; it is not needed.
    since = f"{first_month(now):%Y-%m}"
    warehouse = open_warehouse(settings).without({unit for unit in current_damage().left if unit.table == "billing_lines" and unit.period < since})
    kept = own_units(warehouse, "all", "artifact_stores")
    with warehouse.reader() as reader:
        rows = arrow_rows("artifact_stores", priced_stores(reader, settings.currency, now))
    if not kept and not rows.num_rows:
        return  # no artifact store was ever measured
    with warehouse.step("stores", make_load_id("stores", now)) as step:
        step.put("artifact_stores", "all", "all", rows)
        if not publish_read(step, kept, [Unit("artifact_stores", "all", "all")], outcome):
            note_superseded(outcome, "artifact_stores")


def check(settings: Settings, *, now: datetime, periods: Sequence[str] | None = None, progress: Progress = silent) -> Outcome:
    """Run every check over the published tables, without building any."""
    outcome = Outcome("check")
    warehouse = open_warehouse(settings)
    for table, names in (("cost_allocations", LEDGER_CHECKS), ("run_costs", RUN_CHECKS), ("run_estimates", ESTIMATE_CHECKS)):
        for period in sorted({u.period for u in warehouse.states(table) if not periods or u.period in periods}):
            progress(f"check {table} {period}")
            month = estimate_parameters(now)["period"] if period == "all" else first_day(period)
            with warehouse.step("check", make_load_id("check", now)) as step:
                try:
                    step.check(names, {"period": month})
                    outcome.unchanged.append(f"{table} {period}")
                except CheckFailed as error:
                    outcome.fail(error)
    return outcome


def verify(settings: Settings, *, now: datetime, full: bool = False, drop: Sequence[str] = (), progress: Progress = silent) -> Outcome:
    """Find damaged files.

    `full` hashes all files; the default hashes those that changed since they were last verified. `drop` removes damaged units
    ("TABLE/MONTH/WRITER"). Damage is printed, not mailed. A refused file or a failed machine is mailed, as in every command.
    """
    from runspend.pipeline.damage import drop_damaged, look_at_all

    outcome = Outcome("verify")
    if drop:  # first: dropped units are no longer damaged, so the exit code shows a script that the rest is sound
        drop_damaged(settings, outcome, drop, make_load_id("verify", now))
    look_at_all(settings, outcome, full=full, progress=progress)
    return outcome


def forget(settings: Settings, name: str, *, now: datetime) -> Outcome:
    """Drop all units of a server, bill or artifact store that is no longer configured, and cost tables of months that have no bill left."""
    from runspend.ingest.artifacts import store_slug

    outcome = Outcome("sources forget")
    warehouse = open_warehouse(settings)
    configured = {s.name for s in settings.tracking} | {s.name for s in settings.billing} | {store_slug(s.uri) for s in settings.stores}
    writer = store_slug(name) if "/" in name else name
    if writer in configured:
        raise ConfigError(f"cannot forget {name!r}: it is still configured. Remove it from runspend.yaml first. Nothing was changed.")
    states = warehouse.states()
    dropped = [u for u in states if u.writer == writer and u.table != "builds"]
    if not dropped:
        raise ConfigError(f"cannot forget {name!r}: the warehouse has no rows of it. Check the name with `runspend status --json`. Nothing was changed.")
    fed = {u.period for u in states if u.table == "billing_lines" and u not in dropped}
    dropped += [u for u in states if u.table in ("cost_allocations", *LEDGER_SUMS, "period_states") and u.period not in fed]
    dropped += [u for u in states if u.table == "builds" and u.writer == "allocate" and u.period not in fed]
    with warehouse.step("forget", make_load_id(name, now)) as step:
        for unit in dropped:
            step.drop(*unit)
        step.publish({unit: states[unit].digest for unit in dropped})
    outcome.changed += [" ".join(unit) for unit in dropped]
    return outcome


# --- act ---------------------------------------------------------------------------------------------------------------


@watching()
def report(settings: Settings, *, now: datetime, periods: Sequence[str] | None = None, progress: Progress = silent) -> Outcome:
    """One page and its CSVs for each billing period named, else for the newest and every other that was rebuilt since its page."""
    from runspend.actions import report as reports

    outcome = Outcome("report")
    warehouse = open_warehouse(settings)
    folder = settings.home / "reports"
    with warehouse.reader() as reader:
        for period, build_id in report_builds(warehouse, folder, periods).items():
            progress(f"report {period}")
            figures = reports.plan_report(reader, period, settings=settings, now=now)
            outcome.reported[period] = figures
            outcome.changed.append(str(reports.write_report(figures, folder)))
            if figures.problem:
                outcome.fail(SourceError("rates", figures.problem))
            if figures.estimate_note:
                outcome.notes.append(f"{period}: {figures.estimate_note}")
            note_report(folder, period, build_id)
    return outcome


def alert(settings: Settings, *, now: datetime, progress: Progress = silent) -> Outcome:
    """Budgets of the current period against their thresholds; decisions recorded once, mails sent; what is stale told, with or without a warehouse."""
    outcome = _alert(settings, now=now, progress=progress)
    ring_heartbeat(settings, outcome, now)
    return outcome


@watching(("budget_status", "alerts"))
def _alert(settings: Settings, *, now: datetime, progress: Progress) -> Outcome:
    """Without the heartbeat: of a whole night it comes last."""
    from runspend.actions import alert as alerts
    from runspend.warehouse.records import Records

    outcome = Outcome("alert")
    tell_stale(settings, outcome, now)
    progress("alert")
    with telling_of_the_warehouse(settings, outcome, now):
        warehouse = open_undamaged(settings)
        result = alerts.run(warehouse.reader, settings, Records(settings.home), now)
    with warehouse.step("alert", make_load_id("alert", now)) as step:
        for table, rows in (("budget_status", result.budget_status), ("alerts", result.alerts)):
            for period, part in by_month(table, rows):
                step.put(table, period, "all", part)
        step.publish()
    outcome.changed += [f"mail {message_id}" for message_id in result.sent]
    outcome.notes += result.notes
    for error in result.errors:
        outcome.fail(error)
    return outcome


@watching(("archive_plan",), needs=DELETING)
def archive_plan(settings: Settings, *, now: datetime, progress: Progress = silent) -> Outcome:
    """Plan what retention policies would move, with protection and progress, in `archive_plan`. It moves nothing and sends no mail."""
    from runspend.actions.archive import plan_notes
    from runspend.pipeline.archive_planning import publish_plan
    from runspend.warehouse.records import Records

    outcome = Outcome("archive plan")
    progress("archive plan")
    publish_plan(open_undamaged(settings), settings, Records(settings.home), outcome, now)
    outcome.notes += plan_notes(settings)
    return outcome


@watching(needs=DELETING)
def archive_notify(settings: Settings, *, now: datetime, progress: Progress = silent) -> Outcome:
    """One mail to each owner of what is planned and was not announced. The grace period begins when a mail server took it.

    Raises UsageError where `now` is not the machine's time: a notice must not be dated back.
    """
    from runspend.actions.archive import plan_notes
    from runspend.pipeline.archive_planning import notify_owners, publish_plan, refuse_other_times, tell_enclosing
    from runspend.warehouse.records import Records

    outcome = Outcome("archive notify")
    if settings.retention:
        refuse_other_times(now, "notify")
    warehouse, records = open_warehouse(settings), Records(settings.home)
    progress("archive plan")
    plan = publish_plan(warehouse, settings, records, Outcome("archive plan"), now)
    progress("archive notify")
    notify_owners(settings, records, plan, outcome, now)
    tell_enclosing(warehouse, settings, records, plan, now)
    publish_plan(warehouse, settings, records, outcome, now)
    outcome.notes += plan_notes(settings)
    return outcome


@watching(needs=DELETING)
def archive_apply(settings: Settings, *, now: datetime, progress: Progress = silent) -> Outcome:
    """Move what is due: announced, its grace period over, and still protected by nothing. May be killed and begun again anywhere.

    Raises UsageError where `now` is not the machine's time: no grace period ends because somebody says so.
    """
    from runspend.actions.archive import plan_notes
    from runspend.pipeline.archive_moving import apply_due
    from runspend.pipeline.archive_planning import refuse_other_times
    from runspend.warehouse.records import Records

    outcome = Outcome("archive apply")
    if settings.retention:
        refuse_other_times(now, "apply")
    progress("archive apply")
    apply_due(open_warehouse(settings), settings, Records(settings.home), outcome, now, progress)
    outcome.notes += plan_notes(settings)
    return outcome


def archive_verify(settings: Settings, *, now: datetime, full: bool = False, progress: Progress = silent) -> Outcome:
    """Whether what was archived is still there: everything listed and compared, a sample (or `full`, all of it) read and hashed."""
    from runspend.pipeline.archive_moving import verify_archives
    from runspend.warehouse.records import Records

    outcome = Outcome("archive verify")
    verify_archives(settings, Records(settings.home), outcome, now, full=full, progress=progress)
    return outcome


def archive_verify_monthly(settings: Settings, *, now: datetime, progress: Progress = silent) -> Outcome:
    """`archive_verify`, unless a look in the month of `now` found everything whole: reading a sample may cost money, so not every week."""
    from runspend.actions.archive.verify import was_whole
    from runspend.warehouse.records import Records

    if not was_whole(Records(settings.home), f"{now:%Y-%m}"):
        return archive_verify(settings, now=now, progress=progress)
    outcome = Outcome("archive verify")
    outcome.unchanged.append(f"archives: verified in {now:%Y-%m}")
    return outcome


@watching(None)
def nightly(settings: Settings, *, now: datetime, periods: Sequence[str] | None = None, accept: Sequence[str] = (), progress: Progress = silent) -> Outcome:
    """The whole line. A dead source does not stop it; the outcome's exit code says so. Nor does a file of Runspend's own that is refused."""
    outcome = Outcome("nightly")
    loading.prepare(settings)
    steps: list[Callable[[], Outcome]] = [
        lambda: extract(settings, now=now, accept=accept, progress=progress),
        lambda: measure(settings, now=now, progress=progress),
        lambda: load(settings, now=now, accept=accept, progress=progress),
        lambda: settle(settings, now=now, periods=periods, progress=progress),
        lambda: _alert(settings, now=now, progress=progress),
        *([lambda: archive_plan(settings, now=now, progress=progress)] if settings.retention else []),
        lambda: report(settings, now=now, progress=progress),  # last: the page shows what this run judged and planned
    ]
    for step in steps:
        try:
            outcome.merge(step())
        except RecordRefused as error:
            if str(error) not in outcome.problems:
                outcome.fail(error)
            tell_refused_file(settings, error, now)
    ring_heartbeat(settings, outcome, now)
    return outcome
