"""Says why no pool is proposed: what the bills and runs that were examined lack."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import date, datetime, timedelta
from typing import Any

from runspend.allocation.suggest.evidence import Evidence
from runspend.warehouse.base import Reader
from runspend.warehouse.sql_files import expand_macros

# What `evidence.py` reads of bills, condition by condition.
BILL_FACTS = expand_macros("""
select
  count(*) as bill_lines,
  count(case when is_machine then 1 end) as machine_lines,
  count(case when is_machine and is_timed then 1 end) as timed_lines,
  count(case when is_machine and is_timed and effective_cost <> 0 then 1 end) as paid_lines,
  (select count(*) from billing_quarantine where billing_period >= @first) as unreadable_rows
from (
  select
    effective_cost, coalesce(instance_type, node_instance_type) is not null or coalesce(machine_gpus, node_gpus, 0) > 0 as is_machine,
    charge_category = 'Usage' and charge_class is null and charge_period_end > charge_period_start
    and at_most_a_day(charge_period_start, charge_period_end) as is_timed
  from billing_lines
  where billing_period >= @first
) l
""")
# Of all runs, and of those that ran in the time of the bills. Runs of more than 62 days are not compared.
RUN_FACTS = """
select
  count(*) as runs, min(start_time) as first_start, max(coalesce(last_moment, start_time)) as last_moment,
  count(case when start_time < @upto and last_moment > @since then 1 end) as runs_then,
  count(
    case
      when start_time < @upto and last_moment > @since and last_moment > start_time and timestamp_diff(last_moment, start_time, microsecond) < 5356800000000
      then 1
    end
  ) as timed_runs
from (
  select start_time, coalesce(end_time, last_sign_at) as last_moment
  from runs
) r
"""


def why_nothing(reader: Reader, first: date, evidence: Evidence | None, pools: int) -> str:
    """Return the reason in one sentence. `pools`: how many are in the file."""
    bill = reader.query(BILL_FACTS, {"first": first}).to_pylist()[0]
    if evidence is None:
        return _no_usage(bill)
    since, upto = evidence.moment
    lacking = [] if evidence.machines else [_no_machines(bill)]
    if not evidence.runs:
        lacking.append(_no_runs(reader.query(RUN_FACTS, {"since": since, "upto": upto}).to_pylist()[0], since, upto))
    if lacking:
        return f"{'; '.join(lacking)}."
    if pools:
        return "the runs and machines outside the file's pools do not match better than by chance."
    return "the hours of runs do not match the hours of any group of machines better than by chance. Let runs state their machine (docs/identify.md)."


def _no_usage(bill: Mapping[str, Any]) -> str:
    if bill["bill_lines"]:
        return "the bill has no usage by the hour or day."
    return "no row of the bill can be read (see billing_quarantine)." if bill["unreadable_rows"] else "the bill has no charges."


def _no_machines(bill: Mapping[str, Any]) -> str:
    if not bill["machine_lines"]:
        return "no bill line names a machine (by an instance type or a number of GPUs)"
    if not bill["timed_lines"]:
        return "no machine on the bill is billed by the hour or day"
    if not bill["paid_lines"]:
        return "the machines on the bill cost nothing"
    return "every machine on the bill has its runs, or is in a pool or out of scope"


def _no_runs(run: Mapping[str, Any], since: datetime, upto: datetime) -> str:
    if not run["runs"]:
        return "no runs were read from MLflow"
    if not run["runs_then"]:
        billed = f"between {since:%Y-%m-%d} and {upto - timedelta(microseconds=1):%Y-%m-%d}, the examined time of the bill"
        read = f" (the runs read are from {run['first_start']:%Y-%m-%d} to {run['last_moment']:%Y-%m-%d})" if run["first_start"] else ""
        return f"no run ran {billed}{read}"
    if not run["timed_runs"]:
        return "no run in the examined time of the bill has a known duration of up to 62 days"
    return "every run in the examined time of the bill has its machine, or is in a pool"
