"""Handles damage in the warehouse for a pipeline step. It verifies units before they are read, notifies operators and reports the result.

    @watching(RUNS, reads=…)      tables that the step replaces, and optional tables that it also reads
    def extract(…): warehouse = open_undamaged(settings)

A damaged unit is hidden from the step, so the step reads or builds the unit again. All other readers refuse the unit until it is
replaced or restored. `warehouse/` finds the damage.
"""

from __future__ import annotations

import functools
import time
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from datetime import datetime
from typing import TYPE_CHECKING, Any, TypeVar

from runspend.config.settings import Settings
from runspend.core.errors import RecordRefused, UsageError, WarehouseDamaged
from runspend.core.step_result import Outcome, Progress, silent
from runspend.pipeline.monitoring import note_undelivered, tell_refused_file
from runspend.pipeline.step_log import log_outcome, timed
from runspend.warehouse.base import Unit, UnitState, Warehouse
from runspend.warehouse.factory import mend_warehouse, open_warehouse

if TYPE_CHECKING:
    from runspend.warehouse.records import Records


RUNS = frozenset(
    {
        "runs",
        "run_resources",
        "machine_power",
        "experiments",
        "artifact_owners",
        "trace_costs",
        "model_versions",
        "model_uses",
        "run_metrics",
        "tracking_reads",
    }
)
ACTED = frozenset({"budget_status", "alerts", "archive_plan", "archives", "archive_objects"})
DELETING = RUNS | {
    "artifact_bytes",
    "dangling_owners",
    "archives",
    "archive_objects",
    "sources",
}  # tables that decide which artifacts are deleted
STORES = frozenset({"artifact_bytes", "dangling_owners"})
BILLS = frozenset({"billing_lines", "billing_quarantine", "billing_loads", "bill_changes"})
FOR_A_PERIOD = BILLS | {"artifact_bytes", "artifact_owners", "experiments", "trace_costs", "machine_power"}

Step = TypeVar("Step", bound=Callable[..., Outcome])


@dataclass
class Damage:
    """Damage that was found before a step began. `found`: each damaged unit and its fault. `left`: those that are hidden from the step."""

    since: float  # epoch seconds; units verified later than this need not be verified again
    found: dict[Unit, str] = field(default_factory=dict)
    before: dict[Unit, UnitState] = field(default_factory=dict)
    left: set[Unit] = field(default_factory=set)
    reported: set[Unit] = field(default_factory=set)
    concluded: set[Unit] = field(default_factory=set)  # units whose result is already reported

    def months_of(self, writer: str, tables: Collection[str]) -> set[str]:
        """Return the months in which units of this writer and these tables are damaged."""
        return {unit.period for unit in self.left if unit.writer == writer and unit.table in tables}

    def touches(self, tables: Collection[str], period: str | None = None) -> bool:
        """Return whether a unit of these tables is damaged, in this period. Default: any period."""
        return any(unit.table in tables and period in (None, unit.period) for unit in self.left)

    def lacking(self, period: str) -> dict[str, str]:
        """Return the damaged inputs without which a billing period cannot be built, with the fault of each.

        Runs may have ancestors in any earlier month. Jobs may continue in the bill of the month before or after.
        """
        near = {_shift(period, -1), period, _shift(period, 1)}
        return self._of(
            lambda unit: (
                (unit.table in ("runs", "run_resources") and unit.period <= max(near))
                or (unit.table == "billing_lines" and unit.period in near)
                or (unit.table in FOR_A_PERIOD and unit.period in (period, "all"))
            )
        )

    def lacking_of_month(self, month: str) -> dict[str, str]:
        """Return the damaged inputs that `run_costs` of a start month needs, with the fault of each.

        Costs are from the month before or later. Related runs may be from any month.
        """
        return self._of(
            lambda unit: (
                unit.table in ("runs", "run_resources")
                or (unit.table in ("run_costs_daily", "run_bill_dimensions") and unit.period >= _shift(month, -1))
            )
        )

    def lacking_of_estimates(self) -> dict[str, str]:
        """Return the damaged inputs without which estimates of unbilled hours cannot be built, with the fault of each."""
        return self._of(
            lambda unit: unit.table in ("runs", "run_resources", "billing_lines", "cost_allocations", "trace_costs", "machine_power")
        )

    def moved(self, period: str, tables: Collection[str], now: Mapping[Unit, UnitState]) -> list[str]:
        """Return a note if a closed month was rebuilt because of damage and its rows have changed. `now`: the present states."""
        if not any(unit.period == period and unit.table in (*tables, "builds") for unit in self.found):
            return []
        units = (Unit(table, period, "all") for table in tables)
        others = [
            unit.table for unit in units if unit in now and self.before.get(unit, now[unit]).digest not in ("damaged", now[unit].digest)
        ]
        if not others:
            return []
        return [
            f"{period} is closed, and the rows of {', '.join(others)} have changed: to replace what was damaged, "
            "the month was rebuilt from today's sources"
        ]

    def _of(self, is_needed: Callable[[Unit], bool]) -> dict[str, str]:
        return _named({unit: self.found[unit] for unit in self.left if is_needed(unit)})


_current: ContextVar[Damage | None] = ContextVar("damage", default=None)


def current_damage() -> Damage:
    """Return the damage that was found for the running step. Empty outside a step."""
    return _current.get() or Damage(time.time())


def open_undamaged(settings: Settings) -> Warehouse:
    """Return the warehouse without the damaged units of the running step. The step must replace these units, or not depend on them."""
    warehouse, damage = open_warehouse(settings), _current.get()
    return warehouse if damage is None else warehouse.without(damage.left)


def watching(
    replaces: Collection[str] | None = (), *, reads: Collection[str] = (), needs: Collection[str] = (), leaves: Collection[str] = ()
) -> Callable[[Step], Step]:
    """Return a decorator that makes a pipeline step look for damage before it begins.

    `replaces`: tables that the step replaces; None means all tables except `leaves`.
    `needs`: inputs that the step requires; reading a damaged one raises an error.
    `reads`: further inputs; they are verified only if `replaces` or `needs` has tables.

    If damage is found, the step continues with the work that is not affected. It ends with exit code 4 and a mail to operators, not with
    an exception.
    """

    def decorate(step: Step) -> Step:
        @functools.wraps(step)
        def watched(settings: Settings, *arguments: Any, now: datetime, progress: Progress = silent, **options: Any) -> Outcome:
            watch = Outcome(step.__name__.strip("_").replace("_", " "))
            outcome = Outcome(watch.step)
            found = Damage(time.time())
            try:
                with (
                    timed("allocate" if watch.step == "settle" else watch.step),
                    _looking(settings, watch, now, progress, replaces, reads, needs) as found,
                ):
                    outcome = step(settings, *arguments, now=now, progress=progress, **options)
                    _conclude(settings, found, outcome, replaces, leaves)
            except WarehouseDamaged as error:
                _tell_refused(settings, outcome, error, found.reported, now)
            watch.step = outcome.step
            watch.merge(outcome)
            if step.__name__ != "nightly":  # its steps logged their outcomes
                log_outcome(watch)
            return watch

        return watched  # type: ignore[return-value]

    return decorate


@contextmanager
def _looking(
    settings: Settings,
    outcome: Outcome,
    now: datetime,
    progress: Progress,
    replaces: Collection[str] | None,
    reads: Collection[str],
    needs: Collection[str],
) -> Iterator[Damage]:
    """Verify the tables of the step, notify operators of new damage, and make the damage available to `open_undamaged`."""
    outer = _current.get()
    damage = Damage(time.time()) if outer is None else Damage(outer.since, reported=outer.reported, concluded=outer.concluded)
    mended: dict[Unit, str] = {}
    if replaces is None or replaces or needs:
        mended = mend_warehouse(settings)
        warehouse = open_warehouse(settings)
        damage.before = warehouse.states()
        wanted = None if replaces is None else {unit for unit in damage.before if unit.table in {*replaces, *reads, *needs}}
        damage.found = warehouse.find_damage(wanted, since=None if outer is None else outer.since, progress=progress)
        damage.left = {unit for unit in damage.found if unit.table not in needs}
    if new := {unit: why for unit, why in (mended | damage.found).items() if unit not in damage.reported}:
        damage.reported |= new.keys()
        outcome.fail(
            WarehouseDamaged(_named(new), "No figure is computed from it. Runspend reads or builds it again if its sources are available.")
        )
        _mail(settings, outcome, new, now)
    token = _current.set(damage)
    try:
        yield damage
    finally:
        _current.reset(token)


def _conclude(settings: Settings, damage: Damage, outcome: Outcome, replaces: Collection[str] | None, leaves: Collection[str]) -> None:
    """Report the result for each damaged unit: restored with the same rows, restored with different rows, removed, or still damaged."""
    found = {
        unit
        for unit in damage.found
        if (replaces is None or unit.table in replaces) and unit.table not in leaves and unit not in damage.concluded
    }
    if not found:
        return
    damage.concluded |= found
    warehouse = open_warehouse(settings)
    still, states = warehouse.find_damage(found), warehouse.states()
    for unit in sorted(found):
        if unit in still:
            continue
        after, before = states.get(unit), damage.before[unit]
        name = " ".join(unit)
        if after is None:
            outcome.notes.append(f"{name} was damaged and removed: its sources no longer exist")
        elif before.digest == "damaged":
            outcome.notes.append(f"{name} was damaged and is restored: {after.rows:,} rows (the previous number is unknown)")
        elif after.digest == before.digest:
            outcome.notes.append(f"{name} was damaged and is restored, with the same rows")
        else:
            outcome.notes.append(f"{name} was damaged and is restored, with different rows: {after.rows:,}, previously {before.rows:,}")
    if still:
        outcome.fail(WarehouseDamaged(_named(still), STILL))


STILL = (
    "It could not be read or built again in this pipeline run, and nothing reads it. Restore its file from a backup; make its source reachable and run again; "
    "or delete it: runspend verify --drop TABLE/MONTH/WRITER"
)


def _tell_refused(settings: Settings, outcome: Outcome, error: WarehouseDamaged, reported: Collection[Unit], now: datetime) -> None:
    """Report damage that a step found while it was running. Other steps continue. `reported`: units that a mail has already reported."""
    outcome.fail(error)
    if new := {unit: why for name, why in error.units.items() if (unit := _unit_named(name)) not in reported}:
        _mail(settings, outcome, new, now)


def _unit_named(name: str) -> Unit:
    """Return the unit for its name in an error, such as "runs 2026-11 lab". For any other text, the whole text becomes the table."""
    table, *rest = name.split(" ")
    return Unit(table, *rest) if len(rest) == 2 else Unit(name, "", "")


def _shift(period: str, months: int) -> str:
    years, index = divmod(int(period[5:7]) - 1 + months, 12)
    return f"{int(period[:4]) + years:04d}-{index + 1:02d}"


def _named(units: Mapping[Unit, str]) -> dict[str, str]:
    return {" ".join(part for part in unit if part): why for unit, why in sorted(units.items())}


def _mail(settings: Settings, outcome: Outcome, units: Mapping[Unit, str], now: datetime) -> None:
    """Send one mail about all units that no mail of this day has reported.

    A refused record or notice is a separate problem. The damage is still reported and repaired.
    """
    from runspend.warehouse.records import Records

    records = Records(settings.home)
    day = f"{now:%Y-%m-%d}"
    refused: list[RecordRefused] = []
    new = {unit: why for unit, why in sorted(units.items()) if not _is_reported(records, f"{'/'.join(unit)} {day}", refused)}
    try:
        if new and settings.mail.operators:
            _send(settings, outcome, records, new, now)
            for unit in new:
                records.create("damage", f"{'/'.join(unit)} {day}", {"why": new[unit], "at": now.isoformat()})
    except RecordRefused as error:
        refused.append(error)
    for file in refused:
        outcome.fail(file)
        tell_refused_file(settings, file, now)


def _is_reported(records: Records, key: str, refused: list[RecordRefused]) -> bool:
    try:
        return records.get("damage", key) is not None
    except RecordRefused as error:
        refused.append(error)
        return False


def _send(settings: Settings, outcome: Outcome, records: Records, new: Mapping[Unit, str], now: datetime) -> None:
    from runspend.actions.alert import operators

    lines = [f"{name}: {why}" for name, why in _named(new).items()]
    what = lines[0] if len(lines) == 1 else f"{len(lines)} units of the warehouse are damaged. First: {lines[0]}"
    delivered = operators.notify(
        settings, records, "DAMAGED", "\n".join(lines), now, what,
        details=lines,
        advice=operators.Advice(
            still_works="Runspend does not read damaged units. Steps that need them end with exit code 4; all others continue.",
            do=[("List the damage", "runspend verify --full"), ("Check the disk", "dmesg; smartctl; the report of the array or provider"), ("Restore", "the files from a backup")],
            next_try="Runspend rebuilds the units in this pipeline run if their sources are available. Otherwise, later runs report them again.",
        ),
    )  # fmt: skip
    note_undelivered(outcome, delivered)


def look_at_all(settings: Settings, outcome: Outcome, *, full: bool, progress: Progress) -> None:
    """Add every damaged unit to the outcome. Without `full`, files that seem unchanged since the last verification are not hashed."""
    _mend(settings, outcome)
    if settings.warehouse.uri.startswith("bigquery://"):
        outcome.notes.append("BigQuery verifies its own data, so there is nothing to verify here")
    warehouse = open_warehouse(settings)
    damaged = warehouse.find_damage(since=None if full else 0.0, progress=progress)
    outcome.unchanged += [" ".join(unit) for unit in warehouse.states() if unit not in damaged]
    for unit, why in sorted(damaged.items()):
        outcome.fail(WarehouseDamaged({" ".join(unit): why}, HOW_TO_REPLACE.get(unit.table, BUILT_AGAIN)))


def _mend(settings: Settings, outcome: Outcome) -> None:
    for unit, why in mend_warehouse(settings).items():
        outcome.fail(WarehouseDamaged({" ".join(unit): why}, "Nothing else has to be done."))


BUILT_AGAIN = "Run: runspend nightly (builds it again)"
HOW_TO_REPLACE = dict.fromkeys(RUNS, "Run: runspend extract (reads it again), then runspend nightly")
HOW_TO_REPLACE |= dict.fromkeys(BILLS, "Run: runspend load (reads it again), then runspend nightly")
HOW_TO_REPLACE |= dict.fromkeys(STORES, "Run: runspend measure. Past months cannot be measured again: restore the file from a backup")


def drop_damaged(settings: Settings, outcome: Outcome, names: Collection[str], step_id: str) -> None:
    """Remove damaged units. If a name is not a damaged unit, raises UsageError and removes nothing."""
    _mend(settings, outcome)
    warehouse = open_warehouse(settings)
    damaged = warehouse.find_damage(since=0.0)
    known = {"/".join(unit): unit for unit in damaged}
    if unknown := sorted(set(names) - known.keys()):
        raise UsageError(
            f"cannot drop {unknown[0]!r}: it is not a damaged unit. Damaged units are {', '.join(sorted(known)) or 'none'}. Nothing was removed."
        )
    states = warehouse.states()
    with warehouse.step("verify", step_id) as step:
        for name in names:
            step.drop(*known[name])
        step.publish({known[name]: states[known[name]].digest for name in names})
    outcome.changed += [f"{' '.join(known[name])}: removed" for name in names]
