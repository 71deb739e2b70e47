"""Reads the measured power of machines for each hour, for bills that price it.

Belongs here: the query in `measured_power.sql` and the form of its result. `pipeline/load.py` and `interfaces/doctor.py` run it. Reading
of metrics is in `ingest/tracking/`. `ingest/billing/formats/machines.py` turns watts into cost.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from runspend.config.settings import BillSource

if TYPE_CHECKING:
    import pyarrow as pa

MACHINE_HOURS = Path(__file__).with_suffix(".sql").read_text(encoding="utf-8")
# Resource id -> start of the hour -> (mean measured power in milliwatts, measured milliseconds of the hour).
Drawn = Mapping[str, Mapping[datetime, tuple[int, int]]]


def is_measured(bill: BillSource) -> bool:
    """Return whether any machine of a bill is billed by measured power."""
    return any(machine.is_measured for machine in bill.machines)


class QueryReader(Protocol):
    """An object that runs a query. `runspend.warehouse.Reader` is one, but this module must not import it."""

    def query(self, sql: str) -> pa.Table: ...


def read_drawn(reader: QueryReader) -> Drawn:
    """Return the mean measured power in milliwatts and the measured milliseconds of each resource id and hour."""
    found: dict[str, dict[datetime, tuple[int, int]]] = {}
    for row in reader.query(MACHINE_HOURS).to_pylist():
        found.setdefault(row["resource_id"], {})[row["hour_start"]] = row["milliwatts"], row["milliseconds"]
    return found
