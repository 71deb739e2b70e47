"""Copies the tables of a warehouse to another warehouse, for example from a folder to BigQuery: `runspend warehouse copy --from A --to B`.

Units that were published together are also published together in the target. Units that the target already has are not copied again.
`builds` is copied last, with the target's digests of the same rows, so that the next pipeline run rebuilds nothing. At the end, the sums
of every table and month in both warehouses are compared. Records of mails and archives stay in `home`, which both warehouses use.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable, Mapping
from itertools import groupby
from pathlib import Path
from typing import Any

from runspend.allocation.inputs import digest, json_text, parse_unit
from runspend.config.settings import load_settings
from runspend.core.errors import ConfigError, RunspendError
from runspend.core.step_result import Outcome
from runspend.schema.rows import arrow_rows
from runspend.schema.tables import TABLES
from runspend.warehouse.base import Unit, UnitState, Warehouse
from runspend.warehouse.content_digest import sums_sql
from runspend.warehouse.factory import open_warehouse


def copy(source: Warehouse, target: Warehouse, *, progress: Callable[[str], None]) -> Outcome:
    """Copy every unit, then compare the warehouses.

    Raises ConfigError if `source` is empty or `target` contains other units, RunspendError if the warehouses differ at the end.
    """
    outcome = Outcome("warehouse copy")
    wanted, there = source.states(), target.states()
    if not wanted:
        raise ConfigError("cannot copy: the warehouse to copy from is empty. Check --from. Nothing was changed.")
    others = sorted(there.keys() - wanted.keys())
    if others:
        names = ", ".join(" ".join(unit) for unit in others[:3])
        raise ConfigError(
            f"cannot copy: the warehouse to copy to has {len(others)} units that the other one does not have, such as {names}. Give an empty one to --to. Nothing was changed."
        )
    rows = {unit: state for unit, state in wanted.items() if unit.table != "builds"}
    missing = sorted((unit for unit in rows if not _is_same(wanted[unit], there.get(unit))), key=lambda unit: (wanted[unit].build_id, unit))
    outcome.unchanged += [" ".join(unit) for unit in sorted(rows.keys() - set(missing))]
    done = 0
    for build_id, units in groupby(missing, key=lambda unit: wanted[unit].build_id):
        together = list(units)
        _carry(source, target, build_id, {unit: wanted[unit] for unit in together}, there)
        done += len(together)
        progress(f"copy: {done} of {len(missing)} units")
        outcome.changed += [" ".join(unit) for unit in together]
    booked = _rebook(source, target, wanted)
    outcome.changed += booked
    outcome.unchanged += sorted({" ".join(unit) for unit in wanted.keys() - rows.keys()} - set(booked))
    progress("copy: comparing")
    _compare(source, target)
    outcome.notes.append(
        f"Both warehouses have the same rows in {len(TABLES)} tables, compared month by month. Set warehouse.uri to the new one. Records of mails and archives stay in home."
    )
    return outcome


def warehouse_at(place: str) -> Warehouse:
    """Return the warehouse at an address. If `place` is a YAML file, return the warehouse of that configuration."""
    return open_warehouse(load_settings(Path(place)) if place.endswith((".yaml", ".yml")) else place)


def _is_same(wanted: UnitState, found: UnitState | None) -> bool:
    return found is not None and (found.rows, found.build_id, dict(found.extra)) == (wanted.rows, wanted.build_id, dict(wanted.extra))


def _carry(source: Warehouse, target: Warehouse, build_id: str, units: Mapping[Unit, UnitState], there: Mapping[Unit, UnitState]) -> None:
    """Copy the units of one build, and publish them together. Raises RunspendError if another process publishes meanwhile."""
    with tempfile.TemporaryDirectory(prefix="runspend-") as folder, target.step("copy", build_id) as step:
        for unit, state in units.items():
            file = source.fetch(unit, Path(folder))
            if file is None:
                raise RunspendError(
                    f"cannot copy {' '.join(unit)}: it is no longer in the warehouse to copy from. Run the copy again when the pipeline is not running."
                )
            step.put(*unit, file, extra=state.extra)
        if not step.publish({unit: there[unit].digest if unit in there else None for unit in units}):
            raise RunspendError(
                "cannot copy: another process published to the new warehouse meanwhile. Run the copy again when the pipeline is not running."
            )


def _rebook(source: Warehouse, target: Warehouse, wanted: Mapping[Unit, UnitState]) -> list[str]:
    """Copy `builds` with the target's digests of the same rows, because each engine computes its own digests of model results.

    Return the units that changed.
    """
    there = target.states()
    carried = []
    for unit in (unit for unit in wanted if unit.table == "builds"):
        rows = source.read(unit)
        if rows is None:
            raise RunspendError(
                f"cannot copy {' '.join(unit)}: it is no longer in the warehouse to copy from. Run the copy again when the pipeline is not running."
            )
        rebooked = arrow_rows("builds", [_rebooked(row, wanted, there) for row in rows.to_pylist()])
        standing = target.read(unit) if unit in there else None
        if standing is not None and standing.to_pylist() == rebooked.to_pylist():
            continue
        carried.append(" ".join(unit))
        with target.step("copy", wanted[unit].build_id) as step:
            step.put(*unit, rebooked, extra=wanted[unit].extra)
            step.publish()
    return carried


def _rebooked(row: Mapping[str, Any], wanted: Mapping[Unit, UnitState], there: Mapping[Unit, UnitState]) -> dict[str, Any]:
    """Return one row of `builds` with the target's digests. Digests of inputs and results that are no longer current stay as they are."""
    inputs: dict[str, str | None] = {}
    for name, value in json.loads(row["inputs"]).items():
        unit = parse_unit(name) if "/" in name else None
        is_standing = unit is not None and unit in wanted and value == wanted[unit].digest
        inputs[name] = there[unit].digest if is_standing and unit is not None else value
    period = f"{row['month']:%Y-%m}"
    outputs = {}
    for table, value in json.loads(row["outputs"]).items():
        unit = next((u for u in (Unit(table, period, "all"), Unit(table, "all", "all")) if u in wanted), None)
        outputs[table] = there[unit].digest if unit is not None and value == wanted[unit].digest else value
    if inputs == json.loads(row["inputs"]):
        return {**row, "outputs": json_text(outputs)}
    return {**row, "inputs": json_text(inputs), "outputs": json_text(outputs), "build_id": digest(inputs)}


def _compare(source: Warehouse, target: Warehouse) -> None:
    """Raise RunspendError if the sums of any table differ between the warehouses in any month."""
    with source.reader() as one, target.reader() as other:
        for table in (t for t in TABLES.values() if t.name != "builds"):  # the digests in `builds` differ between engines
            sql = sums_sql(table, table.name, group_by=table.period_column)
            here, copied = one.query(sql).to_pylist(), other.query(sql).to_pylist()
            if here != copied:
                months = sorted(
                    {str(row[table.period_column])[:7] for row in [*here, *copied] if row not in here or row not in copied}
                    if table.period_column
                    else []
                )
                raise RunspendError(
                    f"cannot verify the copy: {table.name}{' of ' + ', '.join(months) if months else ''} differs. "
                    "If a pipeline run wrote to it meanwhile, run the copy again. If that fails too, copy into an empty warehouse. The warehouse to copy from was not changed."
                )
