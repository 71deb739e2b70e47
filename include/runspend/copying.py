"""`runspend copy --from A --to B`: a warehouse's tables in another place, from a folder to BigQuery for one.

Build by build: units that were published together appear together there too, with the same digests, so that the next night
finds nothing to do. What is there already is not sent again; at the end both sides are asked the same question of every table
and month. Records that must happen once stay in `home`, which both warehouses share.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping
from itertools import groupby
from pathlib import Path

from runspend.config import load_settings
from runspend.errors import ConfigError, RunspendError
from runspend.outcome import Outcome
from runspend.tables import TABLES
from runspend.warehouse import Unit, UnitState, Warehouse, open_warehouse
from runspend.warehouse.contents import sums_sql

__all__ = ["copy", "warehouse_at"]


def copy(source: Warehouse, target: Warehouse, *, progress: Callable[[str], None]) -> Outcome:
    """Carry every unit over and compare. Raises ConfigError if `target` holds something else, RunspendError if the two differ at the end."""
    outcome = Outcome("copy")
    wanted, there = source.states(), target.states()
    if not wanted:
        raise ConfigError("cannot copy: the warehouse to copy from holds nothing. Check --from. Nothing was changed.")
    others = sorted(there.keys() - wanted.keys())
    if others:
        names = ", ".join(" ".join(unit) for unit in others[:3])
        raise ConfigError(f"cannot copy: the warehouse to copy to holds {len(others)} units that the other does not, such as {names}. Take an empty one. Nothing was changed.")
    missing = sorted((unit for unit in wanted if not _is_same(wanted[unit], there.get(unit))), key=lambda unit: (wanted[unit].build_id, unit))
    outcome.unchanged += [" ".join(unit) for unit in sorted(wanted.keys() - set(missing))]
    done = 0
    for build_id, units in groupby(missing, key=lambda unit: wanted[unit].build_id):
        together = list(units)
        _carry(source, target, build_id, {unit: wanted[unit] for unit in together}, there)
        done += len(together)
        progress(f"copy: {done} of {len(missing)} units")
        outcome.changed += [" ".join(unit) for unit in together]
    progress("copy: comparing")
    _compare(source, target)
    outcome.notes.append(f"both hold the same rows in {len(TABLES)} tables. Set warehouse.uri to the new one; records of mails and archives stay in home.")
    return outcome


def warehouse_at(place: str) -> Warehouse:
    """The warehouse at an address, or the one a runspend.yaml names."""
    return open_warehouse(load_settings(Path(place)) if place.endswith((".yaml", ".yml")) else place)


def _is_same(wanted: UnitState, found: UnitState | None) -> bool:
    return found is not None and (found.rows, found.build_id, dict(found.extra)) == (wanted.rows, wanted.build_id, dict(wanted.extra))


def _carry(source: Warehouse, target: Warehouse, build_id: str, units: Mapping[Unit, UnitState], there: Mapping[Unit, UnitState]) -> None:
    """The units of one build, published together."""
    with tempfile.TemporaryDirectory(prefix="runspend-") as folder, target.step("copy", build_id) as step:
        for unit, state in units.items():
            file = source.fetch(unit, Path(folder))
            if file is None:
                raise RunspendError(f"cannot copy {' '.join(unit)}: it is gone from the warehouse to copy from. Run the copy again when no night runs.")
            step.put(*unit, file, extra=state.extra)
        if not step.publish({unit: there[unit].digest if unit in there else None for unit in units}):
            raise RunspendError("cannot copy: somebody else published to the new warehouse meanwhile. Run the copy again when no night runs.")


def _compare(source: Warehouse, target: Warehouse) -> None:
    """Ask both for the sums of every table, month by month."""
    with source.reader() as one, target.reader() as other:
        for table in TABLES.values():
            sql = sums_sql(table, table.name, group_by=table.period_column)
            here, copied = one.query(sql).to_pylist(), other.query(sql).to_pylist()
            if here != copied:
                months = sorted({str(row[table.period_column])[:7] for row in [*here, *copied] if row not in here or row not in copied} if table.period_column else [])
                raise RunspendError(
                    f"cannot vouch for the copy: {table.name}{' of ' + ', '.join(months) if months else ''} differs. "
                    "If a night ran meanwhile, run the copy again; the warehouse to copy from was not changed."
                )
