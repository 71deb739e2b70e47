"""Reads the power that measured machines drew, hour by hour, for bills that price it.

Belongs here: the query to the warehouse, beside its meaning; `pipeline/load.py` and `interfaces/doctor.py` run it. Reading of metrics
is in `ingest/tracking/`; how watts become money is in `ingest/billing/formats/machines.py`.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import TYPE_CHECKING, Protocol

from runspend.config.settings import BillSource

if TYPE_CHECKING:
    import pyarrow as pa

# By resource id and hour: the mean power that was measured, in milliwatts, and the milliseconds of the hour that were measured.
Drawn = Mapping[str, Mapping[datetime, tuple[int, int]]]

# One row per machine and hour. A GPU's mean covers all runs of the hour, each weighted by its measured time, because overlapping runs
# measure the same GPU. It is rounded here to whole milliwatts, once. The measured time is the time that at least one run covers.
MACHINE_HOURS = """
with gpus as (
  select
    resource_id, hour_start, gpu,
    div(2 * cast(sum(energy_microjoules) as int64) + cast(sum(measured_milliseconds) as int64), 2 * cast(sum(measured_milliseconds) as int64)) as milliwatts
  from machine_power
  group by resource_id, hour_start, gpu
),
stretches as (
  select
    resource_id, hour_start, measured_to,
    greatest(
      measured_from,
      coalesce(
        max(measured_to) over (partition by resource_id, hour_start order by measured_from, measured_to rows between unbounded preceding and 1 preceding),
        measured_from
      )
    ) as new_from
  from machine_power
),
covered as (
  select resource_id, hour_start, cast(sum(greatest(0, timestamp_diff(measured_to, new_from, microsecond))) as int64) as microseconds
  from stretches
  group by resource_id, hour_start
),
drawn as (
  select resource_id, hour_start, cast(sum(milliwatts) as int64) as milliwatts from gpus group by resource_id, hour_start
)
select d.resource_id, d.hour_start, d.milliwatts, div(c.microseconds, 1000) as milliseconds
from drawn d
join covered c on c.resource_id = d.resource_id and c.hour_start = d.hour_start
"""


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
