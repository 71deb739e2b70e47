"""Reads the rows from other months' bills that a billing period needs.

- The rest of jobs that cross the month's start or end, or that have late lines.
- Properties and times of machines whose lines are corrected later.
- Names that late lines share with earlier lines.
- Times of clusters whose machines are on another bill.
- Machines that late lines of attached resources follow, such as lines of disks and load balancers.

`allocation/inputs` computes digests of these rows. The models of jobs, `late_names.sql`, `cluster_times.sql`,
`earlier_properties.sql`, `earlier_times.sql` and `earlier_machines.sql` use them.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import date, datetime
from pathlib import Path
from typing import Any

from runspend.allocation.rows_digest import NO_ROWS, rows_digest
from runspend.warehouse.base import Reader
from runspend.warehouse.dialect import parameter_names
from runspend.warehouse.sql_files import read_sql

# The columns of a run that the ledger uses.
RUN_COLUMNS = (
    "r.tracking_server, r.workspace, r.run_id, r.experiment_id, r.experiment_name, r.team, r.project, r.cost_center, r.owner, r.user_name, r.start_time, r.end_time,"
    " r.gpu_count, r.cpu_request, r.memory_request_gb"
)

HERE = Path(__file__).parent
JOBS_BEYOND = read_sql(HERE, "jobs_beyond")
LINES_BEYOND = read_sql(HERE, "lines_beyond")
CLUSTER_TIMES_BEYOND = read_sql(HERE, "cluster_times_beyond")
RUNS_IN_REACH = read_sql(HERE, "runs_in_reach")
RUNS_BEYOND = read_sql(HERE, "runs_beyond").format(run_columns=RUN_COLUMNS, runs_in_reach=RUNS_IN_REACH)
MACHINES_BEYOND = read_sql(HERE, "machines_beyond").format(runs_in_reach=RUNS_IN_REACH)
EARLIER_PROPERTIES = (
    read_sql(HERE.parent / "models", "earlier_properties") + "\norder by resource_key, charge_period_start, charge_period_end"
)
EARLIER_TIMES = read_sql(HERE.parent / "models", "earlier_times") + "\norder by resource_key, charge_period_start, charge_period_end"
EARLIER_MACHINES = read_sql(HERE.parent / "models", "earlier_machines") + "\norder by resource_key, charge_period_start, charge_period_end"
LATE_NAMES = read_sql(HERE.parent / "models", "late_names") + (
    "\norder by source, resource_key, job_key, sub_account_id, region_id, availability_zone, service_provider_name, is_machine_time"
)


def read_beside(reader: Reader, period: date, window: dict[str, datetime]) -> tuple[dict[str, datetime], dict[str, list[Any]]]:
    """Return how far jobs of the period reach beyond its lines, as parameters of the models. Also return the rows of other months that a build
    depends on, by kind.
    """
    import pyarrow.compute as pc

    reach = dict.fromkeys(("jobs_from", "jobs_until"), window["window_start"])
    rows: dict[str, list[Any]] = {}
    beyond = reader.query(JOBS_BEYOND, {"period": period})
    if beyond.num_rows:
        reach = {
            "jobs_from": pc.min(beyond["charge_period_start"]).as_py(),
            "jobs_until": pc.max(beyond["charge_period_end"]).as_py(),
        }
        given = {"period": period} | window | reach
        rows["jobs over the month's end"] = [
            rows_digest(beyond.to_batches()),
            *(_digest_of(reader, sql, given) for sql in (LINES_BEYOND, RUNS_BEYOND, MACHINES_BEYOND)),
        ]
    if (times := _digest_of(reader, CLUSTER_TIMES_BEYOND, {"period": period})) != NO_ROWS:
        rows["times of clusters' machines in other months"] = [times]
    if window["window_start"].date() < period:
        rows["properties of machines in earlier months"] = [_digest_of(reader, EARLIER_PROPERTIES, {"period": period} | window)]
        rows["names on earlier bills"] = [_digest_of(reader, LATE_NAMES, {"period": period} | window)]
        rows["times of machines in earlier months"] = [_digest_of(reader, EARLIER_TIMES, {"period": period} | window)]
        rows["machines of attached lines in earlier months"] = [_digest_of(reader, EARLIER_MACHINES, {"period": period} | window)]
    return reach, rows


def _digest_of(reader: Reader, sql: str, given: Mapping[str, Any]) -> str:
    """Return a digest of a query's rows, read in batches: a long job may reach a month of lines and runs."""
    return rows_digest(reader.batches(sql, {name: given[name] for name in parameter_names(sql)}, rows=10_000))
