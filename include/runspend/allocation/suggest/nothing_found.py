"""Explains why no pool is proposed: what is missing in the examined bills and runs."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import date, datetime, timedelta
from pathlib import Path
from typing import Any

from runspend.allocation.suggest.evidence import Evidence
from runspend.core.service_kinds import AUTOPILOT_METERS, TRAINING_METERS
from runspend.warehouse.base import Reader
from runspend.warehouse.sql_files import read_sql

HERE = Path(__file__).parent
BILL_FACTS = read_sql(HERE, "bill_facts").format(unnamed=f"{AUTOPILOT_METERS}|{TRAINING_METERS}")
RUN_FACTS = read_sql(HERE, "run_facts")


def why_nothing(reader: Reader, first: date, evidence: Evidence | None, pools: int) -> str:
    """Return the reason why no pool is proposed, in one sentence. `pools`: the number of configured pools."""
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
        return "the runs and machines that are not in a pool yet do not match better than by chance."
    return "the hours of runs do not match the hours of any group of machines better than by chance. Let runs state their machine (docs/identify.md)."


def _no_usage(bill: Mapping[str, Any]) -> str:
    if bill["bill_lines"]:
        return "the bill has no usage by the hour or day."
    return "no row of the bill can be read (see billing_quarantine)." if bill["unreadable_rows"] else "the bill has no charges."


def _no_machines(bill: Mapping[str, Any]) -> str:
    if not bill["machine_lines"]:
        inside = " inside `scope`" if bill["excluded_lines"] else ""  # the warehouse has only sums of lines that `scope` excludes
        return f"no bill line{inside} names a machine (by an instance type or a number of GPUs)"
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
