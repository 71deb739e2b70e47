"""Loads bills into the warehouse."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import datetime
from functools import partial
from typing import TYPE_CHECKING

from runspend.config.settings import BillSource, Settings
from runspend.core.errors import SourceRefused, bill_named
from runspend.core.step_result import Outcome, Progress, ReadJob, silent
from runspend.core.text import finding
from runspend.ingest.billing import load_process as loading
from runspend.ingest.billing.load_context import PublishedBill
from runspend.ingest.billing.normalize import Rules
from runspend.pipeline.damage import BILLS, current_damage, open_undamaged, watching
from runspend.pipeline.source_status import (
    SourceReport,
    chosen,
    note_superseded,
    own_units,
    publish_read,
    published,
    unread_notes,
    work_folder,
)
from runspend.pipeline.splitters import Splitters
from runspend.schema.rows import make_load_id
from runspend.warehouse.base import Unit, Warehouse

if TYPE_CHECKING:
    from runspend.ingest.billing import Load
    from runspend.ingest.billing.measured_power import Drawn


LOAD_TRIES = 3  # for a bill that another process loads at the same time


@watching(BILLS, reads=("sources",))
def load(
    settings: Settings, names: Sequence[str] | None = None, *, now: datetime, accept: Sequence[str] = (), progress: Progress = silent
) -> Outcome:
    """Load bills, one source at a time with all its billing periods.

    Fills `billing_lines`, `billing_quarantine`, `billing_loads` and `bill_changes`.
    """
    outcome = Outcome("load")
    loading.warm_up(settings)
    warehouse = open_undamaged(settings)
    weights = Splitters(settings, progress)
    for source in chosen({s.name: s for s in settings.billing}, names, "bill"):
        if source.format == "opencost":
            _load_weights(warehouse, settings, outcome, weights, source, now)
            continue
        with SourceReport(warehouse, settings, outcome, source.name, "bill", source.late_after, now).reading() as report:
            rules = Rules.of(
                source,
                scope=settings.scope,
                shared=settings.shared.lines,
                pools=settings.pools,
                dimensions=settings.dimensions,
                keys=settings.keys,
                weights=weights.of(source),
            )
            before = PublishedBill(published(warehouse, source.name), damaged=current_damage().months_of(source.name, BILLS))
            read = partial(loading.load_bill, settings, source, rules, accept=accept, drawn=_read_drawn(warehouse, source))
            result = _load_bill(warehouse, settings, outcome, source.name, read, before, now=now, progress=progress)
            refused = [error for error in (result.error, *(period.error for period in result.periods)) if error is not None]
            for period in result.periods:
                if period.state == "unchanged":
                    outcome.unchanged.append(f"billing_lines {period.period} {source.name}")
                outcome.notes += unread_notes(source.name, period.period, period.extra)
            outcome.notes += [f"{source.name}: {finding(what, found)}" for what, found in result.extra.get("warnings", {}).items()]
            if refused:
                for error in refused:
                    report.bad(error)
            else:
                rows = sum(s.rows for s in own_units(warehouse, source.name, "billing_lines").values())
                with warehouse.step("load", make_load_id(source.name, now)) as step:
                    report.good(step, covered_until=result.covered_until, rows=rows)
                    step.publish()
    return outcome


def _load_bill(
    warehouse: Warehouse,
    settings: Settings,
    outcome: Outcome,
    name: str,
    read: Callable[..., Load],
    before: PublishedBill,
    *,
    now: datetime,
    progress: Progress,
) -> Load:
    """Read a bill and publish its rows.

    If another process published the bill meanwhile, the bill is read again and compared with that version. The newer delivery is therefore
    kept, and the older one is refused, in any order of the processes. Raises SourceRefused if this happens in each of LOAD_TRIES tries.
    """
    for number in range(1, LOAD_TRIES + 1):
        with work_folder(settings) as workdir:
            kept = own_units(warehouse, name, *sorted(BILLS))
            periods = sorted({u.period for u in kept if u.table == "billing_loads"})
            result = read(replace(before, periods=periods), ReadJob(now, make_load_id(name, now), workdir, progress))
            # Publish all periods together. A file that is recorded for one period is not read again for another period.
            with warehouse.step("load", make_load_id(name, now)) as step:
                units = {Unit(table, p.period, name): (rows, p.extra) for p in result.periods for table, rows in p.tables.items()}
                for unit, (rows, extra) in units.items():
                    step.put(*unit, rows, extra=extra if unit.table == "billing_lines" else None)
                if publish_read(step, kept, list(units), outcome, only="billing_lines"):
                    return result
        note_superseded(outcome, name, f"try {number} of {LOAD_TRIES} failed")
    raise SourceRefused(
        name,
        f"cannot load {bill_named(name)}: another process published it each of the {LOAD_TRIES} times it was read. That version stays. "
        "Run runspend load when nothing else loads this bill.",
    )


def _read_drawn(warehouse: Warehouse, source: BillSource) -> Drawn:
    """Return the measured power of a bill's machines. Empty if the bill does not charge for measured power.

    The measurements cover the runs that `extract` has read.
    """
    from runspend.ingest.billing.measured_power import is_measured, read_drawn

    if not is_measured(source):
        return {}
    with warehouse.reader() as reader:
        return read_drawn(reader)


def _load_weights(
    warehouse: Warehouse, settings: Settings, outcome: Outcome, weights: Splitters, source: BillSource, now: datetime
) -> None:
    """Read a source that is not a bill, but splits bill lines. It has a row in `sources`, but no table of its own."""
    with SourceReport(warehouse, settings, outcome, source.name, "splits", source.late_after, now).reading() as report:
        read = weights.read(source)
        with warehouse.step("load", make_load_id(source.name, now)) as step:
            report.good(step, covered_until=read.covered_until, rows=read.rows)
            step.publish()
        outcome.notes += [f"{source.name}: {why}: {count}" for why, count in read.skip_reasons.items()]
