"""Digests of the inputs of each unit. Only the comparison of two digests decides whether a unit is built again.

Belongs to `pipeline/allocate.py`: the inputs of a build, and the names of units in `builds.inputs`. Building does not belong here.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

from runspend.allocation.adjacent_months import RUN_COLUMNS, no_reach, read_beside
from runspend.config.settings import Settings
from runspend.schema.rows import first_day
from runspend.warehouse.base import Reader, Unit, UnitState, Warehouse
from runspend.warehouse.sql_files import expand_macros, read_every_sql, without_comments

# A run without an end is alive if its last sign is this close to the end of the billed hours …
ALIVE_HOURS = 6
# … and without any sign it counts as ended this long after its start.
SILENT_HOURS = 24
SQL_FOLDERS = tuple(Path(__file__).parent / name for name in ("models", "checks"))

# How far each bill covers machines that serve runs (`run_spans.sql`) and machines of pools (`pools.sql`): a run's end may depend on
# the next period.
FRONTIERS = expand_macros("""
with stated as (
  select distinct resource_key from run_resources where resource_key is not null
),
billed as (
  select
    l.source, l.resource_key, l.pool_key is not null or l.instance_type is not null as is_of_pool, max(l.charge_period_end) as billed_until
  from billing_lines l
  where l.billing_period in (@period, cast(date_add(@period, interval 1 month) as date))
    and (l.resource_key is not null or l.pool_key is not null or l.instance_type is not null)
    and l.charge_period_end > l.charge_period_start
    and at_most_a_day(l.charge_period_start, l.charge_period_end)
  group by l.source, l.resource_key, is_of_pool
),
reached as (
  -- a run may state a longer or a shorter name of a machine than the bill (matched_names.sql): they end alike
  select
    b.source, b.billed_until,
    case when m.resource_key is not null then 'machines' when e.last_part is not null then 'names that end alike' when b.is_of_pool then 'pools' end as lines_of
  from billed b
  left join stated m on m.resource_key = b.resource_key
  left join (
    select distinct regexp_extract(resource_key, r'[^/]*$') as last_part from stated
  ) e on e.last_part = regexp_extract(b.resource_key, r'[^/]*$') and e.last_part <> ''
)
select source, lines_of, least(max(billed_until), timestamp_add(@window_end, interval @alive_hours hour)) as billed_until
from reached
where lines_of is not null
group by source, lines_of
order by source, lines_of
""")

# Start months of the ancestors of each start month's runs: a child may have the machine of a parent that started long ago.
OLDER_RELATIVES = """
with recursive walk as (
  select distinct tracking_server, start_month, parent_run_id as run_id, 1 as distance
  from runs
  where parent_run_id is not null
  union all
  select w.tracking_server, w.start_month, r.parent_run_id, w.distance + 1
  from walk w
  join runs r on r.tracking_server = w.tracking_server and r.run_id = w.run_id
  where r.parent_run_id is not null and w.distance < 50
)
select distinct w.tracking_server, w.start_month, r.start_month as older_month
from walk w
join runs r on r.tracking_server = w.tracking_server and r.run_id = w.run_id
where r.start_month <> w.start_month
"""

FINAL_BILLS = "final bills"  # an input of a build that is not a unit
# Others; the name of a bill or server follows.
BILL = "bill of "
BILLED_UNTIL = "billed until: "
TAGGED_RUNS = "tagged runs of "

# Settings that decide matching. Settings for locations or recipients are left out.
MATCHING = ("tracking", "billing", "stores", "scope", "shared", "pools", "dimensions", "sharing")


# Start months of runs with artifacts in the stores in each month: they pay for storage no matter how long ago they ran.
ARTIFACT_RUNS = """
select distinct a.month, r.start_month, r.tracking_server
from (select distinct month, tracking_server, owner_id from artifact_bytes where owner_kind = 'run') a
join runs r on r.tracking_server = a.tracking_server and r.run_id = a.owner_id
"""

# The time for which a period's lines need runs. Lines that are split by time need runs for their whole time. For longer lines of a machine,
# only their first month decides whether the machine served runs, so that a yearly fee does not load a year of runs.
CHARGED = expand_macros("""
with lines as (
  select
    charge_period_start, charge_period_end, run_tag,
    resource_key is not null and charge_category = 'Usage' as is_of_machine,
    (resource_key is not null or job_key is not null or pool_key is not null or principal_key is not null
      or (instance_type is not null and charge_category = 'Usage' and coalesce(charge_class, '') <> 'Correction'))
    and charge_period_end > charge_period_start
    and at_most_a_day(charge_period_start, charge_period_end) as is_timed
  from billing_lines
  where billing_period = @period
)
select
  min(case when is_timed or is_of_machine then charge_period_start end) as first,
  max(case when is_timed then charge_period_end when is_of_machine then timestamp_add(charge_period_start, interval 1 microsecond) end) as last,
  countif(run_tag is not null) as tagged
from lines
""")

# The start months of the runs in each billing period.
REACHED = """
select distinct d.billing_period, r.start_month
from (select distinct billing_period, tracking_server, workspace, run_id from run_costs_daily) d
join runs r on r.tracking_server = d.tracking_server and r.workspace = d.workspace and r.run_id = d.run_id
"""


def allocation_inputs(warehouse: Warehouse, period: str, given: Mapping[str, Any]) -> tuple[dict[str, str | None], dict[str, Any]]:
    """Return digests of all inputs of a billing period, and the months in which its charges and runs meet."""
    bills = {u: s for u, s in warehouse.states("billing_lines").items() if u.period == period}
    with warehouse.reader() as reader:
        charged = reader.query(CHARGED, {"period": first_day(period)}).to_pylist()[0]
        first, last = charged["first"] or _instant(period), charged["last"] or _instant(period)
        window = {"window_start": month_start(first), "window_end": _month_end(last)}
        reach, beside = read_beside(reader, first_day(period), window)
        window |= reach
        # Bytes in the stores split the bill's storage lines. Trace costs split the bills of LLM providers.
        bills |= {
            u: s
            for u, s in warehouse.states("artifact_bytes", "artifact_owners", "experiments", "trace_costs").items()
            if u.period in (period, "all")
        }
        inputs = common_inputs(bills, given)
        inputs |= {unit_name(u): s.digest for u, s in needed_runs(warehouse, window, reader).items()}
        lying = _ask_once(warehouse, ARTIFACT_RUNS, warehouse.states("runs", "artifact_bytes"), reader)
        stored = {(f"{row['start_month']:%Y-%m}", row["tracking_server"]) for row in lying if row["month"] == first_day(period)}
        inputs |= {unit_name(u): s.digest for u, s in warehouse.states("runs").items() if (u.period, u.writer) in stored}
        frontiers = reader.query(FRONTIERS, {"period": first_day(period), "alive_hours": ALIVE_HOURS, "window_end": window["window_end"]})
        reached: dict[str, list[str]] = {}
        for row in frontiers.to_pylist():
            reached.setdefault(row["source"], []).append(f"{row['lines_of']} {row['billed_until'].isoformat()}")
        inputs |= {f"{BILLED_UNTIL}{source}": ", ".join(until) for source, until in reached.items()}
        inputs |= {name: digest(rows) for name, rows in beside.items()}
        if charged["tagged"]:
            found = reader.query(
                f"select {RUN_COLUMNS} from runs r join (select distinct run_tag from billing_lines where billing_period = @period) t"
                " on t.run_tag = r.run_id order by r.run_id, r.tracking_server, r.workspace",
                {"period": first_day(period)},
            )
            by_server: dict[str, list[Any]] = {}
            for row in found.to_pylist():
                by_server.setdefault(row.pop("tracking_server"), []).append(row)
            inputs |= {f"{TAGGED_RUNS}{server}": digest(rows) for server, rows in by_server.items()}
    return inputs, window


def summary_inputs(
    warehouse: Warehouse, month: str, reached: Mapping[str, set[str]], given: Mapping[str, Any]
) -> tuple[dict[str, str | None], dict[str, Any]]:
    """Return digests of all inputs of a start month's `run_costs`: its runs, their children, and the bills with their costs."""
    runs = {u: s for u, s in warehouse.states("runs").items() if u.period == month}
    last = max((_time(s.extra.get("last_end")) or _instant(month) for s in runs.values()), default=_instant(month))
    window = {
        "window_start": _instant(month),
        "window_end": max(last, month_start(_instant(month) + timedelta(days=32))) + timedelta(microseconds=1),
    }
    window |= no_reach(window["window_start"])
    family = needed_runs(warehouse, window)
    periods = {period for u in family.keys() | runs.keys() for period in reached.get(u.period, ())}
    daily = {u: s for u, s in warehouse.states("run_costs_daily", "run_bill_dimensions").items() if u.period in periods}
    inputs = common_inputs(daily | family | runs, given)
    return inputs, window


def reached_months(warehouse: Warehouse) -> dict[str, set[str]]:
    """Map each start month to the billing periods that hold a cost of its runs."""
    with warehouse.reader() as reader:
        rows = reader.query(REACHED).to_pylist()
    reached: dict[str, set[str]] = {}
    for row in rows:
        reached.setdefault(f"{row['start_month']:%Y-%m}", set()).add(f"{row['billing_period']:%Y-%m}")
    return reached


def read_builds(warehouse: Warehouse) -> dict[tuple[str, str], dict[str, Any]]:
    """Return {(step, period): {"build_id", "inputs"}} of the current builds in the warehouse."""
    with warehouse.reader() as reader:
        rows = reader.query("select step, month, build_id, inputs from builds").to_pylist()
    return {(row["step"], f"{row['month']:%Y-%m}"): {"build_id": row["build_id"], "inputs": json.loads(row["inputs"])} for row in rows}


def configuration_digest(settings: Settings) -> str:
    """Return a digest of the settings for matching. Pipeline runs with the same digest match the same sources the same way."""
    said = settings.model_dump(mode="json", include=set(MATCHING))
    places = {
        key: [{k: v for k, v in source.items() if k in ("name", "uri")} for source in said[key]]
        for key in ("tracking", "billing", "stores")
    }
    return digest({**said, **places})


def unit_name(unit: Unit) -> str:
    """Return the name of a unit in `builds.inputs`: table/period/writer."""
    return "/".join(unit)


def parse_unit(name: str) -> Unit:
    """Return the unit named `table/period/writer`."""
    table, period, writer = name.split("/", 2)
    return Unit(table, period, writer)


def digest(value: Any) -> str:
    """Return 32 hexadecimal digits of the SHA-256 of a value's canonical JSON."""
    return hashlib.sha256(json_text(value).encode()).hexdigest()[:32]


def json_text(value: Any) -> str:
    """Return canonical JSON: sorted keys, no blanks; types that JSON lacks become text."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), default=str)


def month_start(moment: datetime) -> datetime:
    """Return the first instant of the moment's month, UTC."""
    return moment.astimezone(timezone.utc).replace(day=1, hour=0, minute=0, second=0, microsecond=0)


def _month_end(moment: datetime) -> datetime:
    """Return the end of the month that contains the instant before `moment`."""
    return month_start(month_start(moment - timedelta(microseconds=1)) + timedelta(days=32))


def _instant(period: str) -> datetime:
    return datetime.combine(first_day(period), datetime.min.time(), tzinfo=timezone.utc)


def _time(text: str | None) -> datetime | None:
    return None if text is None else datetime.fromisoformat(text)


def common_inputs(units: Mapping[Unit, UnitState], given: Mapping[str, Any]) -> dict[str, str | None]:
    """Return the units by name, the version of the models, and the other given inputs."""
    inputs: dict[str, str | None] = {unit_name(u): s.digest for u, s in sorted(units.items())}
    return inputs | {"models": models_digest(), "settings": digest(dict(given))}


def needed_runs(warehouse: Warehouse, window: Mapping[str, datetime], reader: Reader | None = None) -> dict[Unit, UnitState]:
    """Return the units of `runs` and `run_resources` with runs that may overlap the window, and with their ancestors.

    `reader`: an open reader; without it, one is opened if a query is needed.
    """
    states = warehouse.states("runs", "run_resources")
    window_start, window_end = window["window_start"], window["window_end"]
    months = {
        (u.period, u.writer)
        for u, s in states.items()
        if u.table == "runs"
        and (_time(s.extra.get("first_start")) or _instant(u.period)) < window_end
        and (_time(s.extra.get("last_end")) or window_start) >= window_start
    }
    older: dict[tuple[str, str], set[tuple[str, str]]] = {}
    for row in _ask_once(warehouse, OLDER_RELATIVES, warehouse.states("runs"), reader):
        older.setdefault((f"{row['start_month']:%Y-%m}", row["tracking_server"]), set()).add(
            (f"{row['older_month']:%Y-%m}", row["tracking_server"])
        )
    months |= {relative for month in months for relative in older.get(month, ())}
    return {u: s for u, s in states.items() if (u.period, u.writer) in months}


# Query -> the digest of all units it reads, and its answer. A pipeline run looks at every month but queries once.
_answers: dict[str, tuple[str, list[dict[str, Any]]]] = {}


def _ask_once(warehouse: Warehouse, sql: str, read: Mapping[Unit, UnitState], reader: Reader | None) -> list[dict[str, Any]]:
    """Return the rows of a query about all months that reads only these units."""
    asked_of = digest(sorted((*unit, state.digest) for unit, state in read.items()))
    if sql not in _answers or _answers[sql][0] != asked_of:
        with warehouse.reader() if reader is None else nullcontext(reader) as asked:
            _answers[sql] = (asked_of, asked.query(sql).to_pylist())
    return _answers[sql][1]


def models_digest(folders: Sequence[Path] = SQL_FOLDERS) -> str:
    """Return the version of the models and checks. A change in any of them rebuilds every period; a change of a comment does not."""
    return digest(sorted((f"{name}.sql", without_comments(text)) for folder in folders for name, text in read_every_sql(folder).items()))
