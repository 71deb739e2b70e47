"""Load files into BigQuery. The id of a load job contains a digest of the file, so the same file is sent only once, by any process.

The job's id is runspend-<step>-<unit>-<digest>-<n>, and its staging table has the same name. `n` counts up from 1, past every job that
failed or whose table is gone or expires soon. BigQuery does not allow the id of such a job to be used again.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from datetime import datetime, timedelta, timezone
from itertools import count
from pathlib import Path
from typing import Any

from runspend.core.crash_points import crash_point
from runspend.core.errors import RunspendError
from runspend.schema.tables import TABLES
from runspend.warehouse.base import Unit
from runspend.warehouse.bigquery.jobs import Jobs
from runspend.warehouse.bigquery.tables import Places, schema_of
from runspend.warehouse.parquet.verification import sha256_of

NEEDED = timedelta(hours=12)  # a staging table must exist at least this long, because a long step still needs it


def stage_file(jobs: Jobs, places: Places, step: str, unit: Unit, file: Path, rows: int, labels: Mapping[str, str]) -> str:
    """Return the name of a staging table with the rows of the file. Loads the file unless an earlier attempt already loaded it.

    `rows`: the number of rows in the file. Raises RunspendError if the table is gone after the load, or has another number of rows.
    """
    table = TABLES[unit.table]
    key = hashlib.sha256("/".join((*unit, sha256_of(file))).encode()).hexdigest()[:24]
    base = f"runspend-{step}-{re.sub('[^A-Za-z0-9]+', '_', '-'.join(unit))}-{key}"
    for number in count(1):
        job_id = f"{base}-{number}"
        staged = f"{places.staging}.{job_id.replace('-', '_')}"
        job = jobs.find(job_id)
        is_found = job is not None
        if job is None:
            jobs.load(file, staged, schema_of(table), job_id, labels)
        elif jobs.has_failed(job):
            continue
        crash_point("load.done")
        found = jobs.find_table(staged)
        if is_found and (found is None or _goes_soon(found)):
            continue
        if found is None:
            raise RunspendError(
                f"cannot load {table.name} of {unit.period}: {staged} disappeared after its load. Check that the dataset's expiration is at least a day. Nothing was changed."
            )
        if found.num_rows != rows:
            raise RunspendError(
                f"cannot load {table.name} of {unit.period}: {staged} has {found.num_rows} rows, but {rows} were sent. Nothing was changed."
            )
        return staged
    raise AssertionError("unreachable")


def _goes_soon(found: Any) -> bool:
    return found.expires is not None and bool(found.expires - datetime.now(timezone.utc) < NEEDED)
