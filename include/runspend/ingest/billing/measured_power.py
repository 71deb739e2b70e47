"""What measured machines drew, hour by hour, as a bill that pays for it wants to know it.

The question to the warehouse stands here, beside what it means; `pipeline/__init__.py` and `interfaces/doctor.py` ask it. How metrics are read is in
`ingest/tracking/`, how watts become money in `ingest/billing/formats/machines.py`.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import TYPE_CHECKING, Protocol

from runspend.config.settings import BillSource

if TYPE_CHECKING:
    import pyarrow as pa

# By resource id and hour: the mean of what was measured, in milliwatts, and for how many milliseconds of the hour.
Drawn = Mapping[str, Mapping[datetime, tuple[int, int]]]

# One row per machine and hour. A GPU's mean over all runs of the hour, each by the time it measured: runs that overlap measure the same
# GPU. It is rounded here, to whole milliwatts, and never again. Measured is the time that at least one run covers.
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
    """Whether any of a bill's machines pays for measured watts."""
    return any(machine.is_measured for machine in bill.machines)


class Reader(Protocol):
    """Who answers a query: `runspend.warehouse.Reader`, which is not known here."""

    def query(self, sql: str) -> pa.Table: ...


def read_drawn(reader: Reader) -> Drawn:
    """What machines drew, by resource id and hour: the mean of what was measured, in milliwatts, and for how many milliseconds of the hour."""
    found: dict[str, dict[datetime, tuple[int, int]]] = {}
    for row in reader.query(MACHINE_HOURS).to_pylist():
        found.setdefault(row["resource_id"], {})[row["hour_start"]] = row["milliwatts"], row["milliseconds"]
    return found
