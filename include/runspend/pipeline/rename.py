"""Renames the rows of a server or bill that has a new name in `runspend.yaml`: `runspend sources rename OLD NEW`.

Names are keys of rows. One publish moves all units from the old name to the new name, and rewrites rows of other writers that contain the
name. The next pipeline run rebuilds the cost tables of open months, because their inputs changed. Closed months are not rebuilt, so their
cost tables are rewritten here. The new name is also recorded for alerts, so that alerts that were already sent still count as sent.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from datetime import datetime
from typing import Any, Literal

from runspend.actions.alert.renamed_sources import note_rename
from runspend.allocation.inputs import BILL, BILLED_UNTIL, FINAL_BILLS, TAGGED_RUNS, digest, json_text, parse_unit, unit_name
from runspend.config.settings import Settings
from runspend.core.errors import ConfigError
from runspend.core.step_result import Outcome
from runspend.schema.rows import arrow_rows, make_load_id
from runspend.schema.tables import TABLES
from runspend.warehouse.base import Reader, Step, Unit, UnitState
from runspend.warehouse.factory import open_warehouse
from runspend.warehouse.records import Records

# Kind of a source -> the column that contains its name.
COLUMN = {"tracking": "tracking_server", "bill": "source"}


def rename(settings: Settings, old: str, new: str, *, now: datetime) -> Outcome:
    """Move every row from `old` to `new`.

    `old` must no longer be in the file. `new` must be in the file and must not have rows. Otherwise, raises ConfigError and changes
    nothing.
    """
    outcome = Outcome("sources rename")
    warehouse = open_warehouse(settings)
    states = warehouse.states()
    kind = _agree(settings, states, old, new)
    note_rename(Records(settings.home), kind, old, new)
    moved: dict[Unit, Unit] = {}
    with warehouse.reader() as reader:
        builds = reader.query("select * from builds").to_pylist()
        closed = {
            f"{row['billing_period']:%Y-%m}"
            for row in reader.query("select distinct billing_period from period_states where state = 'closed'").to_pylist()
        }
        referring = list(_referring(reader, states, builds, closed, COLUMN[kind], old))
    with warehouse.step("rename", make_load_id(f"{old} {new}", now)) as step:
        for unit in [u for u in states if u.writer == old and u.table != "builds"]:
            moved[unit] = Unit(unit.table, unit.period, new)
        moved |= {unit: unit for unit in referring if unit not in moved}
        digests = {unit: _rewrite(step, unit, target, kind, (old, new), states[unit]) for unit, target in moved.items()}
        for row in (row for row in builds if f"{row['month']:%Y-%m}" in closed):
            unit = Unit("builds", f"{row['month']:%Y-%m}", row["step"])
            step.put(*unit, arrow_rows("builds", [_rebooked(row, states, moved, digests, (old, new))]))
            moved[unit] = unit
        inputs: dict[Unit, str | None] = {unit: states[unit].digest for unit in moved}
        inputs |= {target: None for target in moved.values() if target not in states}
        if not step.publish(inputs):
            raise ConfigError(
                f"cannot rename {old!r}: a pipeline run published meanwhile. Wait until it ends, then run this command again. Nothing was changed."
            )
    outcome.changed += [" ".join(target) for target in moved.values()]
    outcome.changed.sort()
    outcome.notes.append(
        f"{old} is now {new}. Cost tables of open months still have the old name until the next pipeline run, or `runspend allocate`, builds them."
    )
    return outcome


def _agree(settings: Settings, states: Mapping[Unit, UnitState], old: str, new: str) -> Literal["tracking", "bill"]:
    """Return the kind of the renamed source. Raises ConfigError if the names do not fit the configuration or the existing rows."""
    configured = {**{s.name: "tracking" for s in settings.tracking}, **{s.name: "bill" for s in settings.billing}}
    tables = {u.table for u in states if u.writer == old} - {"sources", "builds"}
    nothing = "Nothing was changed."
    if old in configured:
        raise ConfigError(f"cannot rename {old!r}: it is still configured. Write the new name into runspend.yaml first. {nothing}")
    if not tables:
        raise ConfigError(f"cannot rename {old!r}: the warehouse has no rows of that name. It may have been renamed already. {nothing}")
    if new not in configured:
        raise ConfigError(f"cannot rename to {new!r}: it is not configured. Known names are {', '.join(configured) or 'none'}. {nothing}")
    kind: Literal["bill", "tracking", "store"] = (
        "bill" if "billing_loads" in tables else "tracking" if tables & {"runs", "experiments"} else "store"
    )
    if kind == "store":
        raise ConfigError(f"cannot rename {old!r}: a store is known by its URI. Run: runspend sources forget {old}. {nothing}")
    if kind != configured[new]:
        what = {"bill": "a bill", "tracking": "a tracking server"}
        raise ConfigError(f"cannot rename {old!r}, which is {what[kind]}, to {new!r}, which is {what[configured[new]]}. {nothing}")
    taken = sorted({u.table for u in states if u.writer == new} - {"sources"})
    if taken:
        raise ConfigError(
            f"cannot rename to {new!r}: it already has rows ({', '.join(taken)}). "
            f"To remove them, take it out of runspend.yaml, run `runspend sources forget {new}`, and put it back. {nothing}"
        )
    return kind


def _referring(
    reader: Reader, states: Mapping[Unit, UnitState], builds: list[dict[str, Any]], closed: set[str], column: str, old: str
) -> Iterator[Unit]:
    """Yield the units of other writers that contain the name and that the next pipeline run does not rebuild.

    These are the units of tables that are not built, and the built units of closed months.
    """
    built = {table for row in builds for table in json.loads(row["outputs"])}
    for name, table in TABLES.items():
        if column not in {c.name for c in table.columns} or table.period_column is None:
            continue
        rows = reader.query(f"select distinct {table.period_column} as month from {name} where {column} = @old", {"old": old})
        months = {f"{month:%Y-%m}" for month in rows["month"].to_pylist()}
        yield from (
            u for u in states if u.table == name and u.period in months and u.writer != old and (name not in built or u.period in closed)
        )


def _rewrite(step: Step, unit: Unit, target: Unit, kind: str, names: tuple[str, str], state: UnitState) -> str:
    """Stage the unit with the new name. Return its new digest."""
    columns = {c.name for c in TABLES[unit.table].columns}
    renamed = {COLUMN[kind]: names} if COLUMN[kind] in columns else {}
    if unit.table == "sources":
        renamed = {"source": names}
    elif "target_id" in columns and kind == "tracking":
        renamed["target_id"] = (f"{names[0]}/", f"{names[1]}/")
    return step.rename(unit, target.writer, renamed, extra=state.extra).digest


def _rebooked(
    row: Mapping[str, Any],
    states: Mapping[Unit, UnitState],
    moved: Mapping[Unit, Unit],
    digests: Mapping[Unit, str],
    names: tuple[str, str],
) -> dict[str, Any]:
    """Return a row of `builds` with its inputs renamed, so that the inputs of a closed month do not seem to have changed."""
    old, new = names
    inputs: dict[str, str | None] = {}
    for name, value in json.loads(row["inputs"]).items():
        unit = parse_unit(name) if "/" in name else None
        if unit is not None and unit in moved and value == states[unit].digest:
            inputs[unit_name(moved[unit])] = digests[unit]
        elif name == FINAL_BILLS:
            inputs[name] = ", ".join(sorted(new if bill == old else bill for bill in (value or "").split(", ")))
        else:
            kept = next((prefix for prefix in (BILL, BILLED_UNTIL, TAGGED_RUNS) if name == f"{prefix}{old}"), None)
            inputs[name if kept is None else f"{kept}{new}"] = value
    outputs = {
        table: digests.get(Unit(table, f"{row['month']:%Y-%m}", "all"), value) for table, value in json.loads(row["outputs"]).items()
    }
    return {**row, "inputs": json_text(inputs), "outputs": json_text(outputs), "build_id": digest(inputs)}
