"""A month of one bill and its runs, of any size, put into a warehouse as if extract and load had run.

Seeded by arithmetic on row numbers: the same call gives the same rows on any machine. Measuring does not belong here.
"""

from __future__ import annotations

import datetime as dt
from pathlib import Path

import duckdb

from runspend.schema.rows import month_after
from runspend.schema.tables import DUCKDB_TYPES, TABLES, Table
from runspend.warehouse.parquet.warehouse import ParquetWarehouse

MONTH = "2026-10"
NOW = dt.datetime(2026, 11, 4, 6, tzinfo=dt.timezone.utc)
HOURS = 720  # billed hours of a machine: October without its last day
START = "timestamptz '2026-10-01 00:00:00+00'"

# A uniform whole number below `size` for row `number`; `salt` keeps the columns apart.
MACROS = """
create macro pick(number, salt, size) as (hash(number * 1000 + salt) % size)::bigint;
-- Ordered by rank, so that the file is sorted as the loader sorts it without sorting; 17 hexadecimal digits as on AWS.
create macro machine(rank, machines) as printf('i-%08x%s', rank * (4294967295 // machines), left(md5(rank::varchar), 9));
create macro run_name(number) as md5('run ' || number::varchar);
"""

# Machines differ in type, account, region and price. Four costs with up to ten decimals, no two alike.
LINES = """
with numbered as (
  select range as n, range // {hours} as rank, range % {hours} as hour from range({lines})
),
priced as (
  select n, rank, hour, pick(rank, 1, 10) as family, pick(rank, 2, 40) as account, pick(rank, 3, 4) as region,
    {start} + to_hours(hour) as begins,
    -- most hours are full; every fiftieth is a machine's first or last
    case when pick(n, 4, 50) = 0 then (1 + pick(n, 5, 3599)) else 3600 end as seconds,
    (526000 + pick(rank, 6, 40) * 1234567 + pick(n, 7, 1000))::decimal(38, 0) as price
  from numbered
)
select
  'aws' as source, date '2026-10-01' as billing_period, md5('line ' || n::varchar) as line_id,
  'us-east-1' || chr((97 + region)::int) as availability_zone,
  (price * seconds * 7 + pick(n, 8, 1000))::decimal(38, 0) * 0.00000000001 as billed_cost,
  '100000000000' as billing_account_id, 'Example payer' as billing_account_name, 'Consolidated' as billing_account_type, 'USD' as billing_currency,
  timestamptz '2026-11-01 00:00:00+00' as billing_period_end, {start} as billing_period_start,
  'Usage' as charge_category,
  printf('$%.4f per On Demand Linux p%d.2xlarge Instance Hour', price::double / 1e7, family) as charge_description,
  'Usage-Based' as charge_frequency, begins + interval 1 hour as charge_period_end, begins as charge_period_start,
  seconds::decimal(38, 0) * 0.00027777777777 as consumed_quantity, 'Hours' as consumed_unit,
  (price * seconds * 9 + pick(n, 9, 1000))::decimal(38, 0) * 0.00000000001 as contracted_cost,
  price * 0.00000093 as contracted_unit_price,
  (price * seconds * 6 + pick(n, 10, 1000))::decimal(38, 0) * 0.00000000001 as effective_cost,
  'AWS' as host_provider_name,
  case when pick(rank, 11, 2) = 0 then 'INV-2026-10-0001' end as invoice_id, 'Amazon Web Services, Inc.' as invoice_issuer_name,
  (price * seconds * 10)::decimal(38, 0) * 0.00000000001 as list_cost, price * 0.000001 as list_unit_price,
  'Standard' as pricing_category, 'USD' as pricing_currency, seconds::decimal(38, 0) * 0.00027777777777 as pricing_quantity, 'Hours' as pricing_unit,
  'us-east-' || (1 + region % 2)::varchar as region_id, 'US East' as region_name,
  machine(rank, {machines}) as resource_id, 'trainer-' || rank::varchar as resource_name, 'Instance' as resource_type,
  'Compute' as service_category, 'Amazon Elastic Compute Cloud' as service_name, 'AWS' as service_provider_name, 'Virtual Machines' as service_subcategory,
  'SKU' || family::varchar as sku_id, 'Compute Usage' as sku_meter, printf('{{"InstanceType": "p%d.2xlarge"}}', family) as sku_price_details,
  'SKU' || family::varchar || '.JRTCKXETXF' as sku_price_id,
  printf('2000000000%02d', account) as sub_account_id, printf('ml-team-%d', account) as sub_account_name, 'Linked' as sub_account_type,
  printf('{{"team": "team-%d", "cost_center": "cc-%d", "Name": "trainer-%d"}}', account, account % 7, rank) as tags,
  (date '2026-10-01' + (hour // 24)::int) as charge_date, machine(rank, {machines}) as resource_key,
  printf('p%d.2xlarge', family) as instance_type,
  case when family < 3 then 8 end as machine_gpus, 8 * (1 + family) as machine_cpus, 61.0 * (1 + family) as machine_memory_gb,
  seconds * 1000000000 as billed_nanoseconds, 'include' as scope, 'load' as load_id
from priced
order by n
"""

# 20 to 120 minutes on one machine, every fifth run on two; every twentieth is the child of the run before it and runs within it.
RUNS = """
with numbered as (
  select range as n, case when range % 20 = 19 then range - 1 else range end as family from range({runs})
),
placed as (
  select n, family,
    pick(family, 20, {used_machines}) * {stride} as rank,
    {start} + to_seconds(pick(family, 21, ({hours} - 2) * 3600)) as begins,
    1200 + pick(family, 22, 6001) as seconds
  from numbered
)
select
  n, rank, 'prod' as tracking_server, 'default' as workspace, run_name(n) as run_id, date '2026-10-01' as start_month,
  'run-' || n::varchar as run_name, (pick(family, 23, 300))::varchar as experiment_id, printf('experiment-%d', pick(family, 23, 300)) as experiment_name,
  printf('user-%d', pick(family, 24, 500)) as user_name, 'FINISHED' as run_status, 'active' as lifecycle_stage,
  case when n <> family then begins + to_seconds(seconds // 4) else begins end as start_time,
  case when n <> family then begins + to_seconds(seconds // 2) else begins + to_seconds(seconds) end as end_time,
  's3://ml-artifacts/' || pick(family, 23, 300)::varchar || '/' || run_name(n) || '/artifacts' as artifact_uri,
  case when n <> family then run_name(family) end as parent_run_id,
  'train.py' as source_name, printf('team-%d', pick(family, 23, 300) % 40) as team, printf('project-%d', pick(family, 23, 300) % 60) as project,
  printf('cc-%d', pick(family, 23, 300) % 7) as cost_center, printf('user-%d', pick(family, 24, 500)) as owner,
  'experiment.tag.team' as team_from, case when pick(rank, 1, 10) < 3 then (1 + pick(n, 25, 4))::double end as gpu_count,
  [machine(rank, {machines})] as resource_ids, md5('params ' || pick(n, 26, 400000)::varchar) as params_digest, '{{"mlflow.user": "someone"}}' as tags, 'extract' as load_id
from placed
order by run_id
"""

RESOURCES = """
with nodes as (
  select run_id, rank, 0 as node from runs
  union all
  select run_id, (rank + {stride}) % ({used_machines} * {stride}), 1 from runs where pick(n, 27, 5) = 0 and parent_run_id is null
)
select 'prod' as tracking_server, 'default' as workspace, run_id, date '2026-10-01' as start_month, machine(rank, {machines}) as resource_id,
  machine(rank, {machines}) as resource_key, 0 as used_ordinal, 'extract' as load_id
from nodes
order by resource_key, run_id
"""

# Every rule: of twenty machines, thirteen are stated by their runs, two belong to jobs, two to pools, one is known by its
# type alone; one is a disk of a machine, and one a bucket. Runs say what their machine needs them to say.
LADDER_LINES = """
with lines as (
  select *, substr(resource_name, 9)::bigint as rank, rank % 20 as kind, extract(epoch from charge_period_start)::bigint // 3600 as hour from ({lines})
)
select
  * exclude (rank, kind, hour) replace (
    case when kind = 18 then replace(resource_id, 'i-', 'vol-') when kind = 19 then printf('bucket-%02d', rank // 20 % 20) else resource_id end as resource_id,
    case when kind = 18 then replace(resource_key, 'i-', 'vol-') when kind = 19 then printf('bucket-%02d', rank // 20 % 20) else resource_key end as resource_key,
    case when kind >= 18 then 'Storage' else service_category end as service_category,
    case when kind = 18 then 'Amazon Elastic Block Store' when kind = 19 then 'Amazon Simple Storage Service' else service_name end as service_name,
    case when kind = 19 then printf('2000000000%02d', rank // 20 % 20) else sub_account_id end as sub_account_id,
    case when kind = 19 then 'us-east-1' else region_id end as region_id,
    case when kind = 19 then null else invoice_id end as invoice_id,
    case when kind >= 18 then null else billed_nanoseconds end as billed_nanoseconds,
    case when kind >= 18 then null else instance_type end as instance_type
  ),
  case when kind in (13, 14) then printf('job-%d-%d', rank, hour // 24) end as job_key,
  case when kind = 18 then machine(rank - 18, {machines}) end as attached_to,
  case when kind < 13 then [printf('account|group|%d', rank // 20 % 200)] else [] end as group_keys,
  case when kind = 19 then printf('bucket-%02d', rank // 20 % 20) end as storage_key,
  case when kind = 19 then case when rank // 20 % 3 = 0 then 'STANDARD_IA' else 'STANDARD' end end as storage_class,
  case when kind in (15, 16) then printf('pool-%d', rank // 20 % 50) end as pool_key
from lines
"""

LADDER_RUNS = """
select
  * replace (case when kind < 13 then resource_ids else [] end as resource_ids),
  case when kind in (13, 14) then printf('job-%d-%d', rank, extract(epoch from start_time)::bigint // 3600 // 24) end as job_key,
  case when kind in (15, 16) then printf('pool-%d', rank // 20 % 50) end as pool_key,
  case when kind = 17 then printf('p%d.2xlarge', pick(rank, 1, 10)) end as instance_type
from (select *, rank % 20 as kind from ({runs}))
"""

# A tenth of the runs have artifacts in the twenty buckets.
LADDER_BYTES = """
select
  date '2026-10-01' as month, printf('s3://bucket-%02d', n % 20) as store, 'run' as owner_kind, run_id as owner_id, tracking_server, workspace,
  experiment_id, artifact_uri as prefix, case when n // 20 % 3 = 0 then 'STANDARD_IA' else 'STANDARD' end as storage_class,
  start_time as valid_from, 1 + pick(n, 30, 100) as objects, 1000000 + pick(n, 31, 1000000000) as bytes, true as is_complete, 'measure' as load_id
from runs
where n < {stored}
"""

LOADS = """
select 'aws' as source, date '2026-10-01' as billing_period, 'v1' as version, 'USD' as billing_currency, 1 as version_number, 'current' as state,
  timestamptz '2026-11-03 06:00:00+00' as delivered_at, timestamptz '2026-11-03 06:00:00+00' as loaded_at, false as is_invoiced,
  count(*) as row_count, sum(list_cost) as list_cost, sum(contracted_cost) as contracted_cost, sum(effective_cost) as effective_cost,
  sum(billed_cost) as billed_cost, 'load' as load_id
from read_parquet('{folder}/billing_lines.parquet')
"""


def make_ledger_year(folder: Path, *, runs: int, lines: int) -> Path:
    """Fill `folder`/warehouse with twelve months that end with MONTH, a twelfth of the runs and lines in each. Returns runspend.yaml."""
    for back in range(12):
        path = make_ledger_world(folder, runs=runs // 12, lines=lines // 12, ladder=True, months_back=back)
    return path


def make_ledger_world(
    folder: Path, *, runs: int, lines: int, used_machines: int | None = None, ladder: bool = False, months_back: int = 0
) -> Path:
    """Fill `folder`/warehouse; runs use `used_machines` of the lines / 720 machines (all of them when None). Returns runspend.yaml.

    With `ladder`, every allocation rule has lines to allocate. Without it, runs state all machines. `months_back`: another month than
    MONTH, on the same machines, with runs and lines of its own; call it again for several months in one warehouse.
    """
    first = month_after(dt.date(2026, 10, 1), -months_back)

    def of_month(sql: str) -> str:
        """The query, of this month."""
        if not months_back:
            return sql
        sql = sql.replace("2026-11", f"{month_after(first, 1):%Y-%m}").replace("2026-10", f"{first:%Y-%m}")
        return sql.replace("'run ' ||", f"'run {first:%Y-%m} ' ||").replace("'line ' ||", f"'line {first:%Y-%m} ' ||")

    folder.mkdir(parents=True, exist_ok=True)
    machines = -(-lines // HOURS)
    used = min(used_machines or machines, machines)
    sizes = {
        "runs": runs,
        "lines": lines,
        "machines": machines,
        "used_machines": used,
        "stride": machines // used,
        "hours": HOURS if not months_back else ((month_after(first, 1) - first).days - 1) * 24,
        "start": of_month(START),
        "folder": folder,
    }
    connection = duckdb.connect(config={"memory_limit": "6GB", "temp_directory": str(folder / "spill")})
    connection.execute("set TimeZone = 'UTC'")
    connection.execute(of_month(MACROS))
    runs_sql, lines_sql = of_month(RUNS).format(**sizes), of_month(LINES).format(**sizes)
    if ladder:
        runs_sql, lines_sql = (
            LADDER_RUNS.format(runs=runs_sql),
            LADDER_LINES.format(lines=lines_sql, machines=machines) + " order by resource_key, charge_period_start",
        )
    connection.execute(f"create table runs as {runs_sql}")
    resources = of_month(RESOURCES).format(**sizes)
    tables = {
        "runs": "select * exclude (n, rank) from runs",
        "run_resources": resources,
        "billing_lines": lines_sql,
        "billing_loads": of_month(LOADS).format(**sizes),
    }
    if ladder:
        tables["run_resources"] = f"select * from ({resources}) where run_id in (select run_id from runs where len(resource_ids) > 0)"
        tables["artifact_bytes"] = of_month(LADDER_BYTES).format(stored=runs // 10)
    for name, sql in tables.items():
        _write(connection, TABLES[name], sql, folder / f"{name}.parquet")
    connection.close()
    last = month_after(first, 1) - dt.timedelta(days=1)
    extras = {"runs": {"first_start": f"{first}T00:00:00+00:00", "last_end": f"{last}T00:00:00+00:00"}}
    writers = {"runs": "prod", "run_resources": "prod", "billing_lines": "aws", "billing_loads": "aws", "artifact_bytes": "s3"}
    with ParquetWarehouse(folder / "warehouse").step("inputs", "inputs") as step:
        for name in tables:
            step.put(name, f"{first:%Y-%m}", writers[name], folder / f"{name}.parquet", extra=extras.get(name))
        assert step.publish()
    path = folder / "runspend.yaml"
    path.write_text("home: home\nwarehouse: {uri: warehouse}\n", encoding="utf-8")
    return path


def _write(connection: duckdb.DuckDBPyConnection, table: Table, sql: str, target: Path) -> None:
    """The rows in the table's columns, null where the query has none, in the query's order."""
    have = {name for (name, *_) in connection.execute(f"describe {sql}").fetchall()}
    columns = ", ".join(f"cast({c.name if c.name in have else 'null'} as {DUCKDB_TYPES[c.type]}) as {c.name}" for c in table.columns)
    connection.execute(
        f"copy (select {columns} from ({sql})) to '{target}' (format parquet, compression zstd, compression_level 1, row_group_size 122880)"
    )
