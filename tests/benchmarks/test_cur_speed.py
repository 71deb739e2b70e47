"""AWS Cost and Usage Reports verified, mapped, settled, sorted and published, beside DuckDB's bare typed COPY of the same files.

Goals: 0.6 of the bare COPY's speed, in the same run, from CSV.gz (checksums included) and from Parquet; less than 2 GB. And a bill
whose strings share nothing, every line with a machine, a description and tags of its own, within what `memory` says.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import duckdb
import pytest

from tests.benchmarks.measured import load_average, run_python, run_runspend, scaled

pytestmark = [pytest.mark.bench, pytest.mark.timeout(3600)]

LINES = 2_000_000
LINES_OF_THEIR_OWN = 1_800_000
PARTS = 4
MONTH = "2026-10"
# The columns of CUR 2.0 by groups (AWS, "Cost and Usage Report (CUR) 2.0"). What is not filled below is empty, as most of it is.
GROUPS = {
    "bill": "bill_type billing_entity billing_period_end_date billing_period_start_date invoice_id invoicing_entity payer_account_id payer_account_name",
    "capacity_reservation": "capacity_reservation_arn capacity_reservation_status capacity_reservation_type",
    "discount": "bundled_discount total_discount",
    "identity": "line_item_id time_interval",
    "line_item": """availability_zone blended_cost blended_rate currency_code legal_entity line_item_description line_item_type net_unblended_cost
        net_unblended_rate normalization_factor normalized_usage_amount operation product_code resource_id tax_type unblended_cost unblended_rate
        usage_account_id usage_account_name usage_amount usage_end_date usage_start_date usage_type""",
    "pricing": """currency lease_contract_length offering_class public_on_demand_cost public_on_demand_rate purchase_option rate_code rate_id
        term unit""",
    "product": """comment fee_code fee_description from_location from_location_type from_region_code instance_family instance_type instancesku
        location location_type operation pricing_unit product_family region_code servicecode sku to_location to_location_type to_region_code usagetype""",
    "reservation": """amortized_upfront_cost_for_usage amortized_upfront_fee_for_billing_period availability_zone effective_cost end_time
        modification_status net_amortized_upfront_cost_for_usage net_amortized_upfront_fee_for_billing_period net_effective_cost
        net_recurring_fee_for_usage net_unused_amortized_upfront_fee_for_billing_period net_unused_recurring_fee net_upfront_value
        normalized_units_per_reservation number_of_reservations recurring_fee_for_usage reservation_a_r_n start_time subscription_id
        total_reserved_normalized_units total_reserved_units units_per_reservation unused_amortized_upfront_fee_for_billing_period
        unused_normalized_unit_quantity unused_quantity unused_recurring_fee upfront_value""",
    "savings_plan": """amortized_upfront_commitment_for_billing_period end_time instance_type_family
        net_amortized_upfront_commitment_for_billing_period net_recurring_commitment_for_billing_period net_savings_plan_effective_cost offering_type
        payment_option purchase_term recurring_commitment_for_billing_period region savings_plan_a_r_n savings_plan_effective_cost savings_plan_rate
        start_time total_commitment_to_date used_commitment""",
    "split_line_item": """actual_usage net_split_cost net_unused_cost parent_resource_id public_on_demand_split_cost public_on_demand_unused_cost
        reserved_usage split_cost split_usage split_usage_ratio unused_cost""",
}  # fmt: skip
MAPS = ("cost_category", "discount", "product", "resource_tags")
NAMES = [f"{group}_{name}" for group, names in GROUPS.items() for name in names.split()] + list(MAPS)
NUMBERS = (
    "_cost",
    "_rate",
    "_amount",
    "_fee",
    "_usage",
    "_commitment",
    "_to_date",
    "_discount",
    "_factor",
    "_period",
    "_value",
    "_quantity",
    "_ratio",
)
# A line is an hour of one of 2,700 machines: the machine itself for a round price, its disk or its traffic for a crooked one.
FILLED = """
    'Anniversary' as bill_bill_type, 'AWS' as bill_billing_entity, timestamp '2026-10-01' as bill_billing_period_start_date,
    timestamp '2026-11-01' as bill_billing_period_end_date, 'Amazon Web Services, Inc.' as bill_invoicing_entity,
    '012345678901' as bill_payer_account_id, 'payer' as bill_payer_account_name,
    md5(n::varchar) || md5(n::varchar)[:20] as identity_line_item_id,
    strftime(hour, '%Y-%m-%dT%H:00:00Z') || '/' || strftime(hour + interval 1 hour, '%Y-%m-%dT%H:00:00Z') as identity_time_interval,
    'us-east-1' || chr(97 + (machine % 4)::integer) as line_item_availability_zone, 'USD' as line_item_currency_code,
    'Amazon Web Services, Inc.' as line_item_legal_entity, what || ' per hour' as line_item_line_item_description,
    kind as line_item_line_item_type, operation as line_item_operation, 'AmazonEC2' as line_item_product_code,
    if(what = 'disk', 'vol-', 'i-') || lpad(to_hex(machine), 17, '0') as line_item_resource_id,
    cost as line_item_unblended_cost, price as line_item_unblended_rate, cost as line_item_blended_cost,
    lpad((machine % 40)::varchar, 12, '0') as line_item_usage_account_id, 'account ' || machine % 40 as line_item_usage_account_name,
    if(what = 'machine', 1, amount) as line_item_usage_amount, hour as line_item_usage_start_date, hour + interval 1 hour as line_item_usage_end_date,
    case what when 'machine' then 'BoxUsage:' || model when 'disk' then 'EBS:VolumeUsage.gp3' else 'DataTransfer-Out-Bytes' end as line_item_usage_type,
    'USD' as pricing_currency, if(what = 'machine', price, null) as pricing_public_on_demand_cost, price as pricing_public_on_demand_rate,
    'SKU' || machine % 60 || '.JRTCKXETXF.6YS6EN2CT7' as pricing_rate_code, 'OnDemand' as pricing_term,
    case what when 'machine' then 'Hrs' when 'disk' then 'GB-Mo' else 'GB' end as pricing_unit,
    if(what = 'machine', model, null) as product_instance_type, 'US East (N. Virginia)' as product_location, 'us-east-1' as product_region_code,
    case what when 'machine' then 'Compute Instance' when 'disk' then 'Storage' else 'Data Transfer' end as product_product_family,
    'AmazonEC2' as product_servicecode, 'SKU' || machine % 60 as product_sku,
    if(kind = 'SavingsPlanCoveredUsage', price * 0.6, null) as savings_plan_savings_plan_effective_cost,
    if(starts_with(kind, 'SavingsPlan'), 'arn:aws:savingsplans::012345678901:savingsplan/sp-1', null) as savings_plan_savings_plan_a_r_n,
    map {'product_name': 'Amazon Elastic Compute Cloud'} as product,
    case machine % 3
      when 0 then map {'user_mlflow_run_id': md5((machine * 31 + n // 86400)::varchar), 'user_team': 'team ' || machine % 7}
      when 1 then map {'user_team': 'team ' || machine % 7}
      else map([]::varchar[], []::varchar[])
    end as resource_tags
"""
OF_THEIR_OWN = """
  select * replace (
    line_item_line_item_description || ' ' || identity_line_item_id as line_item_line_item_description,
    line_item_resource_id || identity_line_item_id as line_item_resource_id,
    map {'user_mlflow_run_id': identity_line_item_id, 'user_team': 'team ' || identity_line_item_id} as resource_tags
  ) from filled
"""
ROWS = """
  select *, case what when 'machine' then if(kind = 'SavingsPlanNegation', -price, price) else round(amount * price / 730, 10) end as cost
  from (
    select
      n, n % 2700 as machine, timestamp '2026-10-01' + to_hours((n // 2700) % 744) as hour,
      case when n % 10 < 6 then 'machine' when n % 10 < 9 then 'disk' else 'traffic' end as what,
      case n % 10 when 1 then 'SavingsPlanCoveredUsage' when 2 then 'SavingsPlanNegation' else 'Usage' end as kind,
      case when n % 10 < 6 then 'RunInstances' when n % 10 < 9 then 'CreateVolume-Gp3' else 'InterZone' end as operation,
      ['p4d.24xlarge', 'g5.xlarge', 'm5.large', 'c5.4xlarge'][1 + n % 4] as model,
      [32.7726::double, 1.006, 0.096, 0.68][1 + n % 4] as price,
      (hash(n) % 1000003) / 1000::double as amount
    from range({first}, {last}) t(n)
  )
"""
BARE = """
import sys, duckdb
connection = duckdb.connect(config={"threads": 2})
connection.execute("set TimeZone = 'UTC'")
connection.execute(f"copy (select * from {sys.argv[1]}) to 'bare.parquet' (format parquet, compression zstd)")
"""


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[Path]:
    yield tmp_path
    shutil.rmtree(tmp_path)


def type_of(name: str) -> str:
    """The type AWS gives a column of CUR 2.0 in Parquet."""
    if name in MAPS:
        return "map(varchar, varchar)"
    if name.endswith(("start_date", "end_date")):
        return "timestamp"
    is_number = name.endswith(NUMBERS) and not name.endswith(("purchase_option", "usage_type", "time_interval"))
    return "double" if is_number else "varchar"


def write_cur(folder: Path, lines: int, kind: str, query: str = "from filled") -> Path:
    """An export of so many lines in a few files; `query` may replace columns of `filled`."""
    (folder / "bill").mkdir()
    connection = duckdb.connect(config={"memory_limit": "4GB", "threads": 2, "temp_directory": str(folder / "spill")})
    connection.execute("set TimeZone = 'UTC'")
    for part in range(PARTS):
        rows = ROWS.format(first=lines * part // PARTS, last=lines * (part + 1) // PARTS)
        connection.execute(f"create or replace temp view filled as select {FILLED} from ({rows})")
        there = {row[0] for row in connection.execute("describe filled").fetchall()}
        columns = []
        for name in NAMES:
            value = name if name in there else "null"
            if kind == "parquet":
                columns.append(f"cast({value} as {type_of(name)}) as {name}")
            elif name in MAPS:
                columns.append(f"cast(to_json({value}) as varchar) as {name}")
            elif type_of(name) == "timestamp":
                columns.append(f"strftime({value}, '%Y-%m-%dT%H:%M:%S.000Z') as {name}")
            else:
                columns.append(f"{value} as {name}")
        form = "format parquet, compression snappy" if kind == "parquet" else "format csv, header, compression gzip"
        connection.execute(f"copy (select {', '.join(columns)} from ({query})) to '{folder}/bill/cur-{part:05d}.{kind}' ({form})")
    connection.close()
    return folder / "bill"


def bare_sql(bill: Path, kind: str) -> str:
    """What DuckDB reads the files with: types given, nothing to sniff; amounts of text as the decimals they are."""
    if kind == "parquet":
        return f"read_parquet('{bill}/*.parquet')"
    texts = {"double": "decimal(38, 22)", "timestamp": "timestamptz", "map(varchar, varchar)": "varchar"}
    types = "{" + ", ".join(f"'{name}': '{texts.get(type_of(name), 'varchar')}'" for name in NAMES) + "}"
    return f"read_csv('{bill}/*.csv.gz', delim = ',', quote = '\"', escape = '\"', header = true, auto_detect = false, columns = {types})"


@pytest.mark.parametrize("kind", ["csv.gz", "parquet"])
def test_cur(folder: Path, kind: str) -> None:
    """One month of CUR 2.0, 130 columns, in four files."""
    lines = scaled(LINES)
    bill = write_cur(folder, lines, kind)
    (folder / "runspend.yaml").write_text(
        "home: home\nwarehouse: {uri: warehouse}\nbilling: [{name: aws, format: aws-cur, uri: bill, delivery: parts, late_after: 400d}]\n"
    )
    bare = bare_sql(bill, kind)
    first = run_python(folder, BARE, bare)
    took = run_runspend(folder, "load", "--now", "2026-11-04T06:00")
    least = min(first, run_python(folder, BARE, bare), key=lambda m: m.wall)

    published = folder / f"warehouse/_internal/billing_lines/period={MONTH}/aws.parquet"
    exact = "cast(cast({} as varchar) as decimal(38, 22))"
    ours = duckdb.execute(f"select count(*), sum(billed_cost), sum(effective_cost) from '{published}'").fetchall()
    theirs = duckdb.execute(
        f"select count(*), sum({exact.format('line_item_unblended_cost')}) filter (line_item_line_item_type = 'Usage'), "
        f"sum({exact.format('coalesce(savings_plan_savings_plan_effective_cost, line_item_unblended_cost)')}) "
        f"from '{folder}/bare.parquet' where line_item_line_item_type <> 'SavingsPlanNegation'"
    ).fetchall()
    assert ours == theirs
    size = sum(path.stat().st_size for path in bill.iterdir())
    print(f"\n  {lines:,} lines of {len(NAMES)} columns, {size / 2**20:,.0f} MB of {kind} [{load_average()}]")
    for what, m in (("runspend load", took), ("bare typed COPY", least)):
        print(f"  {what:16} {lines / m.wall:9,.0f} lines/s: {m}")
    print(f"  ratio to the bare COPY: {least.wall / took.wall:.2f} by the clock, {least.cpu / took.cpu:.2f} by processor seconds; goal 0.6")


@pytest.mark.parametrize("kind", ["csv.gz", "parquet"])
@pytest.mark.parametrize("memory", ["1GB", "2GB"])
def test_memory_stays_within_the_configured_amount(folder: Path, kind: str, memory: str) -> None:
    """The peak of the process that reads the bill, resident pages of mapped files included. It may take a quarter more."""
    lines = scaled(LINES_OF_THEIR_OWN)
    bill = write_cur(folder, lines, kind, OF_THEIR_OWN)
    (folder / "runspend.yaml").write_text(
        f"home: home\nmemory: {memory}\nwarehouse: {{uri: warehouse}}\n"
        "billing: [{name: aws, format: aws-cur, uri: bill, delivery: parts, late_after: 400d}]\n"
    )
    took = run_runspend(folder, "load", "--now", "2026-11-04T06:00")
    published = folder / f"warehouse/_internal/billing_lines/period={MONTH}/aws.parquet"
    [(count, machines, runs)] = duckdb.execute(
        f"select count(*), count(distinct resource_id), count(distinct run_tag) from '{published}'"
    ).fetchall()
    assert count == machines == runs
    assert count + lines // 10 == lines  # a tenth are negations, which charge nothing
    size = sum(path.stat().st_size for path in bill.iterdir())
    print(f"\n  memory: {memory}, {lines:,} lines whose texts share nothing, {size / 2**20:,.0f} MB of {kind} [{load_average()}]: {took}")
    assert took.memory_gb * 2**30 < int(memory.removesuffix("GB")) * 10**9 * 5 // 4
