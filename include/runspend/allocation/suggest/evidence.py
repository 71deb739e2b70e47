"""Reads the hours of runs without a machine and of machines without a run from the warehouse.

The warehouse computes sums and returns one row per group of machines (or of runs) and hour. `matching.py` decides which groups
belong together.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import date, datetime, timedelta, timezone
from typing import Any

from runspend.allocation.diagnostics import MACHINE_GROUP, OWN_TAGS
from runspend.core.outside_json import parse_json
from runspend.core.service_kinds import JOB_SERVICES
from runspend.warehouse.base import Reader
from runspend.warehouse.sql_files import expand_macros

HOUR_MICROSECONDS = 3_600_000_000
NANOSECONDS = 3.6e12  # an hour
# Only this many groups are examined: the most expensive machines and the longest runs.
MOST_MACHINES, MOST_RUNS = 300, 600

# Machines that serve models all the time: no run ran on them.
SERVING = r"""r':endpoint/|/endpoints/|(^|-)(host|asyncinf):|online prediction'"""

# Machines of managed jobs: by service, by SageMaker's types, by workspaces of Azure ML. SageMaker's notebooks are not jobs.
JOB_MACHINES = "'/microsoft.machinelearningservices/'"
NOTEBOOKS = "':notebook-instance/'"
# The name that people give a machine, up to the first character that differs from machine to machine.
NAME_PREFIX = r"""regexp_extract(tags, r'(?i)"(?:name|user_name|resourceTags/user:name|user:name)": *"([a-z]+[-_.]?)')"""
# The columns that identify a group of machines.
NAMES = "source, account, instance_type, gpus, billing_currency, machine_group, name_prefix, other_tags, resource_key, is_serving, is_job"

LEFT_LINES = expand_macros(f"""
with taken as (
  select source, charge_id
  from cost_allocations
  where billing_period >= @first and allocated_to not in ('unallocated', 'out_of_scope', 'idle')
  group by source, charge_id
),
taken_lines as (
  select source, charge_id as line_id from taken
  union distinct
  select c.source, c.line_id from charge_lines c join taken t on t.source = c.source and t.charge_id = c.charge_id where c.billing_period >= @first
),
taken_nodes as (
  -- a machine that pods share, in windows in which one of its pods is taken
  select distinct b.source, b.node_key, b.charge_period_start, b.charge_period_end
  from billing_lines b
  join taken_lines t on t.source = b.source and t.line_id = b.line_id
  where b.billing_period >= @first and b.node_key is not null
),
lines as (
  select
    b.source, coalesce(b.sub_account_id, '') as account, lower(coalesce(b.instance_type, b.node_instance_type, '')) as instance_type,
    coalesce(b.machine_gpus, b.node_gpus, 0) as gpus, coalesce(b.node_key, b.resource_key, concat('|', b.line_id)) as machine,
    coalesce(b.node_key, b.resource_key, '') as resource_key, coalesce(b.allocated_resource_id, '') as part, coalesce(b.sku_id, '') as sku_id,
    b.billing_currency, coalesce(b.tags, '') as tags, coalesce(array_to_string(b.group_keys, '\\n'), '') as group_keys,
    case when regexp_contains(lower(coalesce(b.resource_id, '')), {SERVING}) or regexp_contains(lower(coalesce(b.sku_meter, '')), {SERVING}) then 1 else 0 end as is_serving,
    case
      when b.job_key is not null or strpos(lower(coalesce(b.resource_id, '')), {JOB_MACHINES}) > 0 then 1
      when strpos(lower(coalesce(b.resource_id, '')), {NOTEBOOKS}) > 0 then 0
      when starts_with(lower(coalesce(b.instance_type, '')), 'ml.') or regexp_contains(lower(coalesce(b.service_name, '')), r'{JOB_SERVICES}') then 1
      else 0
    end as is_job,
    b.charge_period_start, b.charge_period_end, b.billed_nanoseconds, b.effective_cost
  from billing_lines b
  left join taken_lines t on t.source = b.source and t.line_id = b.line_id
  left join taken_nodes n
    on n.source = b.source and n.node_key = b.node_key and n.charge_period_start = b.charge_period_start and n.charge_period_end = b.charge_period_end
  where b.billing_period >= @first and t.line_id is null and n.node_key is null and b.pool_key is null and b.run_tag is null and coalesce(b.scope, 'include') = 'include'
    and b.charge_category = 'Usage' and b.charge_class is null and (coalesce(b.instance_type, b.node_instance_type) is not null or coalesce(b.machine_gpus, b.node_gpus) > 0)
    and b.charge_period_end > b.charge_period_start and at_most_a_day(b.charge_period_start, b.charge_period_end)
    -- A line with zero hours and zero cost does not prove a machine.
    and not coalesce(b.billed_nanoseconds = 0 and b.effective_cost = 0, false)
),
spans as (
  -- licenses and discounts add no time: the largest SKU is the machine. Pods share a machine: the longest has its time
  select
    source, account, machine, resource_key, billing_currency, max(instance_type) as instance_type, max(gpus) as gpus,
    max(tags) as tags, max(group_keys) as group_keys, max(is_serving) as is_serving, max(is_job) as is_job, charge_period_start, charge_period_end,
    coalesce(max(nanoseconds), timestamp_diff(charge_period_end, charge_period_start, microsecond) * 1000) as nanoseconds,
    sum(effective_cost) as effective_cost
  from (
    select
      source, account, machine, resource_key, billing_currency, sku_id, part, max(instance_type) as instance_type, max(gpus) as gpus,
      max(tags) as tags, max(group_keys) as group_keys, max(is_serving) as is_serving, max(is_job) as is_job, charge_period_start, charge_period_end,
      sum(case when billed_nanoseconds > 0 then billed_nanoseconds end) as nanoseconds,
      sum(effective_cost) as effective_cost
    from lines
    group by source, account, machine, resource_key, billing_currency, sku_id, part, charge_period_start, charge_period_end
  ) s
  group by source, account, machine, resource_key, billing_currency, charge_period_start, charge_period_end
),
steady as (
  -- accelerators that are on most of the time are listed one by one
  select source, machine from spans where gpus > 0 and resource_key <> '' group by source, machine having sum(nanoseconds) >= @steady_nanoseconds
),
described as (
  select
    s.source, s.account, s.instance_type, s.gpus, s.billing_currency, coalesce({MACHINE_GROUP}, '') as machine_group, coalesce({NAME_PREFIX}, '') as name_prefix,
    regexp_replace(s.tags, {OWN_TAGS}, '') as other_tags, case when t.machine is not null then s.resource_key else '' end as resource_key,
    s.is_serving, s.is_job, s.charge_period_start, s.charge_period_end, s.nanoseconds, s.effective_cost
  from spans s
  left join steady t on t.source = s.source and t.machine = s.machine
),
grouped as (
  -- few rows before they are numbered: a group's machines of one window are one
  select
    {NAMES}, charge_period_start, charge_period_end,
    -- more time than the window means several machines in one line; up to a hundredth more is rounding
    cast(sum(greatest(1, ceil(nanoseconds / (timestamp_diff(charge_period_end, charge_period_start, microsecond) * 1000.0) - 0.01))) as int64) as machines,
    sum(nanoseconds) as nanoseconds, sum(effective_cost) as effective_cost
  from described
  group by {NAMES}, charge_period_start, charge_period_end
),
numbered as (
  select
    dense_rank() over (order by {NAMES}) as cell,
    {NAMES}, charge_period_start, charge_period_end, machines, nanoseconds, effective_cost
  from grouped
)
""")
MACHINE_CELLS = f"""{LEFT_LINES}
select
  cell, {NAMES}, sum(effective_cost) as effective_cost,
  max(timestamp_diff(charge_period_end, charge_period_start, microsecond)) as longest, min(charge_period_start) as first_start, max(charge_period_end) as last_end
from numbered
group by cell, {NAMES}
order by effective_cost desc, cell
limit {MOST_MACHINES}
"""
MACHINE_HOURS = f"""{LEFT_LINES}
, kept as (
  select cell from numbered group by cell order by sum(effective_cost) desc, cell limit {MOST_MACHINES}
),
kept_hours as (
  select n.cell, n.charge_period_start, n.charge_period_end, n.machines, n.nanoseconds, n.effective_cost
  from numbered n
  join kept k on k.cell = n.cell
)
select cell, charge_period_start, charge_period_end, machines, nanoseconds, effective_cost
from kept_hours
order by cell, charge_period_start, charge_period_end
"""

LEFT_RUNS = """
with met as (
  select distinct tracking_server, workspace, run_id
  from cost_allocations
  where billing_period >= @first and allocated_to = 'run' and match_method in ('run_tag', 'job_id', 'resource_id', 'pool_time', 'instance_type_time')
),
left_runs as (
  select
    r.tracking_server, r.workspace, r.run_id, r.parent_run_id, coalesce(r.experiment_name, '') as experiment_name, coalesce(r.user_name, '') as user_name,
    coalesce(r.source_name, '') as source_name, coalesce(r.gpu_count > 0 or r.gpu_type is not null, false) as wants_gpus,
    greatest(1, least(1000, coalesce(r.num_nodes, 1))) as nodes,
    unix_micros(greatest(r.start_time, @since)) as begins, unix_micros(least(coalesce(r.end_time, r.last_sign_at), @upto)) as ends
  from runs r
  left join met m on m.tracking_server = r.tracking_server and m.workspace = r.workspace and m.run_id = r.run_id
  where m.run_id is null and r.pool_key is null and r.start_time < @upto and coalesce(r.end_time, r.last_sign_at) > @since
    and timestamp_diff(coalesce(r.end_time, r.last_sign_at), r.start_time, microsecond) < 5356800000000
),
own_hours as (
  select
    tracking_server, workspace, run_id, parent_run_id, experiment_name, user_name, source_name, wants_gpus, nodes, hour_number,
    least(ends, (hour_number + 1) * 3600000000) - greatest(begins, hour_number * 3600000000) as micros
  from left_runs
  cross join unnest(generate_array(div(begins, 3600000000), div(ends - 1, 3600000000))) as hour_number
  where ends > begins
),
children as (
  select tracking_server, workspace, parent_run_id as run_id, hour_number, sum(micros) as micros
  from own_hours
  where parent_run_id is not null
  group by tracking_server, workspace, parent_run_id, hour_number
),
leaf_hours as (
  -- a parent has only the time its children leave
  select
    o.tracking_server, o.experiment_name, o.user_name, o.source_name, o.wants_gpus, o.run_id, o.hour_number,
    o.nodes * greatest(0, o.micros - coalesce(c.micros, 0)) as micros
  from own_hours o
  left join children c on c.tracking_server = o.tracking_server and c.workspace = o.workspace and c.run_id = o.run_id and c.hour_number = o.hour_number
),
numbered as (
  select
    dense_rank() over (order by tracking_server, experiment_name, user_name, source_name, wants_gpus) as cell,
    tracking_server, experiment_name, user_name, source_name, wants_gpus, run_id, hour_number, micros
  from leaf_hours
  where micros > 0
)
"""
RUN_CELLS = f"""{LEFT_RUNS}
select cell, tracking_server, experiment_name, user_name, source_name, wants_gpus, count(distinct run_id) as runs, sum(micros) as micros
from numbered
group by cell, tracking_server, experiment_name, user_name, source_name, wants_gpus
order by micros desc, cell
limit {MOST_RUNS}
"""
RUN_HOURS = f"""{LEFT_RUNS}
, kept as (
  select cell from numbered group by cell order by sum(micros) desc, cell limit {MOST_RUNS}
)
select n.cell, n.hour_number, sum(n.micros) as micros
from numbered n
join kept k on k.cell = n.cell
group by n.cell, n.hour_number
order by n.cell, n.hour_number
"""
SPAN = expand_macros("""
select min(charge_period_start) as since, max(charge_period_end) as upto
from billing_lines
where billing_period >= @first and charge_category = 'Usage' and charge_period_end > charge_period_start
  and at_most_a_day(charge_period_start, charge_period_end)
""")
# Accounts in which runs have machines or jobs, or to whose buckets they write: most likely the accounts of the other runs' machines.
HOME_ACCOUNTS = """
with buckets as (
  -- On Azure the account, as in storage_key; elsewhere the bucket.
  select distinct
    case
      when regexp_contains(artifact_uri, r'^(abfss?|wasbs?)://') then lower(regexp_extract(artifact_uri, r'@([^./]+)'))
      else regexp_extract(artifact_uri, r'^[a-z0-9]+://([^/]+)')
    end as bucket
  from runs
  where artifact_uri is not null
)
select distinct coalesce(b.sub_account_id, '') as account
from billing_lines b
join buckets k on k.bucket = regexp_extract(b.storage_key, r'[^/:]*$')
where b.billing_period >= @first
union distinct
select distinct coalesce(sub_account_id, '') as account
from cost_allocations
where billing_period >= @first and allocated_to = 'run' and match_method in ('run_tag', 'job_id', 'resource_id')
"""


@dataclass(frozen=True)
class Cell:
    """The smallest unit that is examined: the names of its machines (or runs), and machine-hours (run-hours) and money per hour."""

    names: Mapping[str, str]
    hours: Mapping[int, float]
    costs: Mapping[int, float] = field(default_factory=dict)
    gpus: int = 0
    is_daily: bool = False  # billed by the day, so only days can be compared
    runs: int = 0
    is_serving: bool = False  # machines that serve models: no run ran on them
    is_job: bool = False  # machines of one job, which its runs can state
    machines: Mapping[int, float] = field(default_factory=dict)  # number billed in the charge period of the hour


@dataclass(frozen=True)
class Evidence:
    """All evidence. Hours are numbers since 1970 (UTC), from `since` up to `upto`. Money is in one currency."""

    since: int
    upto: int
    currency: str
    machines: tuple[Cell, ...]
    runs: tuple[Cell, ...]
    home_accounts: frozenset[str]

    @property
    def moment(self) -> tuple[datetime, datetime]:
        """Return the span as times."""
        first = datetime(1970, 1, 1, tzinfo=timezone.utc)
        return first + timedelta(hours=self.since), first + timedelta(hours=self.upto)


def read_evidence(reader: Reader, first: date, currency: str) -> Evidence | None:
    """Return the evidence of the billing periods from `first` on. None if no bill has usage by the hour or day."""
    span = reader.query(SPAN, {"first": first}).to_pylist()[0]
    if span["since"] is None:
        return None
    since, upto = span["since"], span["upto"]
    length = int((upto - since).total_seconds() * 1e9)
    asked = {"first": first, "steady_nanoseconds": length // 2}
    hours: dict[int, tuple[dict[int, float], dict[int, float], dict[int, float]]] = {}
    for row in reader.query(MACHINE_HOURS, asked).to_pylist():
        _spread(row, *hours.setdefault(row["cell"], ({}, {}, {})))
    cells = reader.query(MACHINE_CELLS, asked).to_pylist()
    if cells and all(row["billing_currency"] != currency for row in cells):
        currency = cells[0]["billing_currency"]  # of the most expensive machines
    machines = tuple(
        _machine_cell(row, *hours[row["cell"]]) for row in cells if row["billing_currency"] == currency and row["effective_cost"]
    )
    ran: dict[int, dict[int, float]] = {}
    times = {"first": first, "since": since, "upto": upto}
    for row in reader.query(RUN_HOURS, times).to_pylist():
        ran.setdefault(row["cell"], {})[row["hour_number"]] = row["micros"] / HOUR_MICROSECONDS
    runs = tuple(_run_cell(row, ran[row["cell"]]) for row in reader.query(RUN_CELLS, times).to_pylist())
    homes = frozenset(row["account"] for row in reader.query(HOME_ACCOUNTS, {"first": first}).to_pylist())
    return Evidence(_hour_of(since), -_hour_of(upto, -1), currency, machines, runs, homes)


def _hour_of(moment: datetime, sign: int = 1) -> int:
    """Return the hour of a moment; with -1, the negative number of the first hour after it."""
    return int(sign * moment.timestamp() // 3600)


def _spread(row: Mapping[str, Any], billed: dict[int, float], costs: dict[int, float], machines: dict[int, float]) -> None:
    """Spread a window's machine-hours and money evenly over the hours it touches, each of which has all its machines."""
    first, end = _hour_of(row["charge_period_start"]), -_hour_of(row["charge_period_end"], -1)
    for hour in range(first, end):
        billed[hour] = billed.get(hour, 0.0) + row["nanoseconds"] / NANOSECONDS / (end - first)
        costs[hour] = costs.get(hour, 0.0) + float(row["effective_cost"] or 0) / (end - first)
        machines[hour] = machines.get(hour, 0.0) + row["machines"]


def _machine_cell(row: Mapping[str, Any], hours: dict[int, float], costs: dict[int, float], machines: dict[int, float]) -> Cell:
    names = {key: row[key] for key in ("source", "account", "instance_type", "machine_group", "name_prefix", "resource_key") if row[key]}
    names |= {f"tag.{key}": value for key, value in _tags(row["other_tags"])}
    return Cell(
        names,
        hours,
        costs,
        row["gpus"],
        row["longest"] > HOUR_MICROSECONDS,
        is_serving=bool(row["is_serving"]),
        is_job=bool(row["is_job"]),
        machines=machines,
    )


def _run_cell(row: Mapping[str, Any], hours: dict[int, float]) -> Cell:
    names = {
        "tracking": row["tracking_server"],
        **{
            key: row[column]
            for key, column in (("experiment", "experiment_name"), ("user", "user_name"), ("tag.mlflow.source.name", "source_name"))
            if row[column]
        },
    }
    return Cell(names, hours, gpus=int(row["wants_gpus"]), runs=row["runs"])


def _tags(text: str) -> Iterable[tuple[str, str]]:
    try:
        tags = parse_json(re.sub(r",\s*}$", "}", text)) if text else {}  # removing the last tag leaves its comma
    except ValueError:
        return ()
    return tuple((key, value) for key, value in tags.items() if isinstance(value, str) and value) if isinstance(tags, dict) else ()
