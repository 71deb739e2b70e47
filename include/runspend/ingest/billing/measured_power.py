"""Reads the power that measured machines drew, hour by hour, for bills that price it.

Belongs here: the meaning of the query in `measured_power.sql`; `pipeline/load.py` and `interfaces/doctor.py` run it. Reading of metrics
is in `ingest/tracking/`; how watts become money is in `ingest/billing/formats/machines.py`.
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
# By resource id and hour: the mean power that was measured, in milliwatts, and the milliseconds of the hour that were measured.
Drawn = Mapping[str, Mapping[datetime, tuple[int, int]]]


def is_measured(bill: BillSource) -> bool:
    """Return whether any of a bill's machines is billed by measured watts."""
    return any(machine.is_measured for machine in bill.machines)


class QueryReader(Protocol):
    """Answers a query: `runspend.warehouse.Reader`, which this module does not import."""

    def query(self, sql: str) -> pa.Table: ...


def read_drawn(reader: QueryReader) -> Drawn:
    """Return the mean measured power in milliwatts and the measured milliseconds, by resource id and hour."""
    found: dict[str, dict[datetime, tuple[int, int]]] = {}
    for row in reader.query(MACHINE_HOURS).to_pylist():
        found.setdefault(row["resource_id"], {})[row["hour_start"]] = row["milliwatts"], row["milliseconds"]
    return found
