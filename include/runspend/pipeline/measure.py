"""Measures artifact stores."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta
from functools import partial

from runspend.config.settings import Settings
from runspend.core.step_result import Outcome, Progress, ReadJob, silent
from runspend.pipeline.damage import STORES, open_undamaged, watching
from runspend.pipeline.source_status import (
    SourceReport,
    chosen,
    note_superseded,
    own_units,
    publish_read,
    published,
    read_owners,
    work_folder,
)
from runspend.schema.rows import make_load_id
from runspend.warehouse.base import Unit


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
        late_after = timedelta(days=9) if store.inventory else timedelta(hours=48)  # inventories are delivered daily or weekly
        with (
            SourceReport(warehouse, settings, outcome, store.uri, "store", late_after, now, name).reading() as report,
            work_folder(settings) as workdir,
        ):
            kept = own_units(warehouse, name, *sorted(STORES))
            owners, readings = read_owners(warehouse, settings)
            result = artifacts.measure_store(
                store,
                owners,
                ReadJob(now, make_load_id(name, now), workdir, progress),
                previous=partial(published(warehouse, name), "artifact_bytes"),
                known_dangling=warehouse.read(Unit("dangling_owners", "all", name)),
                readings=readings,
                kept=workdir.parent,
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
