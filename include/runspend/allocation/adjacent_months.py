"""Reads data of other months' bills that a billing period needs: the rest of jobs that cross its ends, and sizes of corrected machines.

Belongs to `inputs.py`, which computes digests of these rows. The models of jobs and `earlier_sizes.sql` use them.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from datetime import date, datetime
from pathlib import Path
from typing import Any

from runspend.warehouse.base import Reader
from runspend.warehouse.dialect import parameter_names
from runspend.warehouse.sql_files import expand_macros, read_sql

# Windows of a period's jobs in the bill of the month before or after. A day without a bill line ends a job.
# A job of another month also counts if a line of the period, at most a day away, is attached to one of its machines.
JOBS_BEYOND = expand_macros("""
with attached as (
  select distinct attached_to, charge_period_start, charge_period_end
  from billing_lines
  where billing_period = @period and attached_to is not null and charge_period_end > charge_period_start
    and at_most_a_day(charge_period_start, charge_period_end)
    and (charge_period_start < timestamp_add(timestamp(@period), interval 24 hour)
      or charge_period_end > timestamp_sub(timestamp(date_add(@period, interval 1 month)), interval 24 hour))
),
reached as (
  select distinct l.job_key, l.charge_period_start, l.charge_period_end
  from billing_lines l
  join attached a on a.attached_to = l.resource_key
  where l.billing_period in (cast(date_sub(@period, interval 1 month) as date), cast(date_add(@period, interval 1 month) as date))
    and l.job_key is not null
    -- Only lines near the ends of the month: a line of 25 hours, a day apart.
    and (l.billing_period > @period or l.charge_period_end > timestamp_sub(timestamp(@period), interval 50 hour))
    and (l.billing_period < @period or l.charge_period_start < timestamp_add(timestamp(date_add(@period, interval 1 month)), interval 50 hour))
    and l.charge_period_start < timestamp_add(a.charge_period_end, interval 24 hour)
    and l.charge_period_end > timestamp_sub(a.charge_period_start, interval 24 hour)
),
crossing as (
  select job_key
  from billing_lines
  where billing_period in (months_around(@period))
    and job_key is not null
  group by job_key
  having min(billing_period) < max(billing_period) and countif(billing_period = @period) > 0
  union distinct
  select job_key from reached
),
windows as (
  select
    l.job_key, l.charge_period_start, l.charge_period_end,
    countif(l.billing_period = @period) > 0 as is_of_period, countif(r.job_key is not null) > 0 as is_reached
  from billing_lines l
  join crossing c on c.job_key = l.job_key
  left join reached r
    on r.job_key = l.job_key and r.charge_period_start = l.charge_period_start and r.charge_period_end = l.charge_period_end
  where l.billing_period in (months_around(@period))
    and l.run_tag is null and l.charge_category in ('Usage', 'Credit', 'Adjustment') and coalesce(l.commitment_discount_status, '') <> 'Unused'
    and l.charge_period_end > l.charge_period_start
    and at_most_a_day(l.charge_period_start, l.charge_period_end)
  group by l.job_key, l.charge_period_start, l.charge_period_end
),
steps as (
  select
    job_key, charge_period_start, charge_period_end, is_of_period, is_reached,
    case when timestamp_diff(charge_period_start, max(charge_period_end) over (
      partition by job_key order by charge_period_start, charge_period_end
      rows between unbounded preceding and 1 preceding), microsecond) > 86400000000 then 1 else 0 end as begins
  from windows
),
lives as (
  select
    job_key, charge_period_start, charge_period_end, is_of_period, is_reached,
    cast(sum(begins) over (partition by job_key order by charge_period_start, charge_period_end rows between unbounded preceding and current row) as int64) as life
  from steps
)
select l.job_key, l.charge_period_start, l.charge_period_end
from lives l
join (select distinct job_key, life from lives where is_of_period or is_reached) o on o.job_key = l.job_key and o.life = l.life
where not l.is_of_period
order by l.job_key, l.charge_period_start, l.charge_period_end
""")

# The other months' lines between @jobs_from and @jobs_until that name a job, or a machine of one.
LINES_BEYOND = expand_macros("""
with machines as (
  select distinct resource_key
  from billing_lines
  where billing_period in (months_around(@period))
    and job_key is not null and resource_key is not null
)
select
  l.billing_period, l.job_key, l.resource_key, l.charge_period_start, l.charge_period_end, l.charge_category, l.charge_class, l.sku_id,
  l.instance_type, l.service_category, l.commitment_discount_status, l.billed_nanoseconds, l.run_tag
from billing_lines l
left join machines m on m.resource_key = l.resource_key
where l.billing_period in (cast(date_sub(@period, interval 1 month) as date), cast(date_add(@period, interval 1 month) as date))
  and l.charge_period_start >= @jobs_from and l.charge_period_end <= @jobs_until and (l.job_key is not null or m.resource_key is not null)
order by l.billing_period, l.source, l.line_id
""")

# Columns of a run that the ledger uses in addition to its machines.
RUN_COLUMNS = (
    "r.tracking_server, r.workspace, r.run_id, r.experiment_id, r.experiment_name, r.team, r.project, r.cost_center, r.owner, r.user_name, r.start_time, r.end_time,"
    " r.gpu_count, r.cpu_request, r.memory_request_gb"
)
RUNS_IN_REACH = """
from runs r
where (r.job_key is not null or r.parent_run_id is not null or array_length(r.resource_ids) > 0)
  and r.start_time < @jobs_until and coalesce(r.end_time, greatest(coalesce(r.last_sign_at, r.start_time), timestamp_add(r.start_time, interval 31 day))) >= @jobs_from
  and (r.start_time >= @window_end or coalesce(r.end_time, greatest(coalesce(r.last_sign_at, r.start_time), timestamp_add(r.start_time, interval 31 day))) < @window_start)
"""
RUNS_BEYOND = f"""
select
  {RUN_COLUMNS}, r.future_end_time, r.gaps, r.last_sign_at, r.mean_use_percent, r.parent_run_id, r.job_key, r.instance_type, r.pool_key
{RUNS_IN_REACH}
order by r.tracking_server, r.workspace, r.run_id
"""
MACHINES_BEYOND = f"""
select s.tracking_server, s.run_id, s.resource_key, s.used_from, s.used_to
from run_resources s
join (select r.tracking_server, r.run_id {RUNS_IN_REACH}) r on r.tracking_server = s.tracking_server and r.run_id = s.run_id
order by s.tracking_server, s.run_id, s.resource_key, s.used_from, s.used_to
"""
EARLIER_SIZES = read_sql(Path(__file__).parent / "models", "earlier_sizes")


def read_beside(reader: Reader, period: date, window: dict[str, datetime]) -> tuple[dict[str, datetime], dict[str, list[Any]]]:
    """Return how far jobs of the period reach beyond its lines, as parameters of the models, and the rows of other months that a build
    depends on, by kind.
    """
    reach, rows = no_reach(window["window_start"]), {}
    beyond = reader.query(JOBS_BEYOND, {"period": period}).to_pylist()
    if beyond:
        reach = {
            "jobs_from": min(row["charge_period_start"] for row in beyond),
            "jobs_until": max(row["charge_period_end"] for row in beyond),
        }
        given = {"period": period} | window | reach
        rows["jobs over the month's end"] = [
            beyond,
            *(_rows_digest(reader, sql, given) for sql in (LINES_BEYOND, RUNS_BEYOND, MACHINES_BEYOND)),
        ]
    if window["window_start"].date() < period:
        sizes = reader.query(EARLIER_SIZES, {"period": period, "window_start": window["window_start"]}).to_pylist()
        rows |= {"sizes of machines in earlier months": sorted(sizes, key=str)} if sizes else {}
    return reach, rows


def _rows_digest(reader: Reader, sql: str, given: Mapping[str, Any]) -> str:
    """Return a digest of a query's rows, read in batches: a long job may reach a month of lines and runs."""
    found = hashlib.sha256()
    asked = {name: given[name] for name in parameter_names(sql)}
    for batch in reader.batches(sql, asked, rows=10_000):
        for row in batch.to_pylist():
            found.update(repr(row).encode())
    return found.hexdigest()


def no_reach(moment: datetime) -> dict[str, datetime]:
    """Return the parameters of the models when no job continues beyond the lines they read."""
    return {"jobs_from": moment, "jobs_until": moment}
