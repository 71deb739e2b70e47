"""Reads tracking servers into the warehouse."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from datetime import datetime
from functools import partial

from runspend.allocation.pools_without_runs import pools_without_runs
from runspend.config.settings import Settings
from runspend.core.step_result import Outcome, Progress, ReadJob, silent
from runspend.pipeline.damage import RUNS, current_damage, open_undamaged, watching
from runspend.pipeline.source_status import (
    SourceReport,
    chosen,
    note_superseded,
    own_units,
    publish_read,
    published,
    rebuilt_months,
    selector_keys,
    work_folder,
)
from runspend.schema.rows import make_load_id
from runspend.warehouse.base import Unit, UnitState, Warehouse


@watching(RUNS, reads=("billing_loads", "sources"))
def extract(
    settings: Settings, names: Sequence[str] | None = None, *, now: datetime, accept: Sequence[str] = (), progress: Progress = silent
) -> Outcome:
    """Read runs, experiments and traces of each tracking server.

    Fills `runs`, `run_resources`, `machine_power`, `experiments`, `artifact_owners` and `trace_costs`. If there are retention
    policies, it also fills `model_versions`, `model_uses`, `run_metrics` and `tracking_reads`. They show which artifacts must stay.
    """
    from runspend.ingest import tracking
    from runspend.ingest.tracking.measured_power import find_measured

    outcome = Outcome("extract")
    warehouse, damage = open_undamaged(settings), current_damage()
    row_settings = tracking.RowSettings(
        settings.dimensions,
        settings.pools,
        settings.keys.run_job,
        selector_keys(settings),
        find_measured(settings),
        tracking.find_links(settings),
    )
    for server in chosen({s.name: s for s in settings.tracking}, names, "tracking server"):
        with (
            SourceReport(warehouse, settings, outcome, server.name, "tracking", server.late_after, now).reading() as report,
            work_folder(settings) as workdir,
        ):
            kept = own_units(warehouse, server.name, *sorted(RUNS))
            result = tracking.extract_server(
                server,
                row_settings,
                tracking.PublishedRuns(
                    published(warehouse, server.name),
                    months=sorted(u.period for u in kept if u.table == "runs"),
                    trace_months=sorted(u.period for u in kept if u.table == "trace_costs"),
                    settings_of=_written_under(kept, damage.months_of(server.name, RUNS)),
                    billed_months=partial(
                        _billed_months,
                        warehouse,
                        server.name,
                        [u.period for u in kept],
                        is_known=not damage.touches(("billing_loads", "sources")),
                    ),
                ),
                ReadJob(now, make_load_id(server.name, now), workdir, progress),
                accept=[month for name, _, month in (text.partition(":") for text in accept) if name == server.name],
            )
            with warehouse.step("extract", make_load_id(server.name, now)) as step:
                for (table, period), rows in result.tables.items():
                    step.put(table, period, server.name, rows, extra=result.extras.get((table, period)))
                report.good(step, covered_until=result.covered_until, rows=result.run_count, experiments=result.experiment_count)
                if not publish_read(
                    step, kept, [Unit(table, period, server.name) for table, period in result.tables], outcome, only="runs"
                ):
                    note_superseded(outcome, server.name)
            outcome.notes += result.warnings
            for refused in result.refused:
                report.bad(refused)
    if settings.pools and names is None and not outcome.problems and not damage.touches(("runs",)):  # all runs were read with these pools
        with warehouse.reader() as reader:
            outcome.notes += pools_without_runs(reader, settings)
    return outcome


def _written_under(kept: Mapping[Unit, UnitState], damaged: Collection[str]) -> dict[str, str | None]:
    """Return the settings with which the runs of each start month were read. None if a table of the month is damaged.

    Runs of such a month are read again.
    """
    return {u.period: None if u.period in damaged else state.extra.get("settings") for u, state in kept.items() if u.table == "runs"}


def _billed_months(warehouse: Warehouse, server: str, months: Sequence[str], *, is_known: bool) -> Collection[str]:
    """Return the months whose bills were loaded since the last extract. If damage makes them unknown, return `months`."""
    return rebuilt_months(warehouse, server) if is_known else months
