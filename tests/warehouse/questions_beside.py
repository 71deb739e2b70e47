"""What the world of all questions has beside October's two days: a job over a month's end, a correction of September, a cluster, a bucket."""

from __future__ import annotations

import datetime as dt
import json
from decimal import Decimal
from fractions import Fraction
from pathlib import Path

from runspend.config.settings import load_settings
from runspend.schema.rows import arrow_rows
from runspend.warehouse.factory import open_warehouse
from tests.benchmarks.accuracy.cluster import DAY, HOUR, NOBODY, P4D, Line, bill_line
from tests.benchmarks.accuracy.worlds import World

BUCKET = "ml-cellar"
CLUSTER = "0925-101500-shared"
OCTOBER = {"BillingPeriodStart": "2026-10-01T00:00:00Z", "BillingPeriodEnd": "2026-11-01T00:00:00Z"}


def bill_september(world: World) -> None:
    """A job that is active when October begins and whose run starts later. Also a machine with an hour of September that is corrected in October without
    its size, and a late line of its disk. And a shared cluster, whose machine September's bill has and whose own late line October's.
    """
    october = world.begin - 4 * DAY
    world.run(october, october + HOUR).tags |= {
        "runspend.job_id": "over-the-end",
        "runspend.instance_id": "i-0000000000000000e",
    }  # of no bill
    for start in (october - HOUR, october):
        world.lines.append(_line(start, "2.5", "slurm-over", Tags=json.dumps({"slurm_job_id": "over-the-end"})))
    machine = world.machine(P4D, [(october - 5 * DAY, october - 5 * DAY + 2 * HOUR)])
    world.run(october - 5 * DAY, october - 5 * DAY + HOUR, machine)
    world.lines.append(_line(october - 5 * DAY, "-0.5", machine.name, ChargeClass="Correction", **OCTOBER))
    attached = json.dumps({"runspend.attached_to": machine.name})
    world.lines.append(
        _line(october - 5 * DAY + HOUR, "-0.1", "vol-late", ServiceName="Amazon EBS", ServiceCategory="Storage", Tags=attached, **OCTOBER)
    )
    up = {"ConsumedQuantity": "0.5", "ConsumedUnit": "Hours", "Tags": json.dumps({"ClusterId": CLUSTER})}
    world.lines.append(_line(october - 6 * DAY, "0.3", "i-0c10000000000000c", **up))
    world.lines.append(_line(october - 6 * DAY, "0.4", CLUSTER, ServiceName="All Purpose", **OCTOBER))


def bill_bucket(world: World) -> None:
    """Storage of a bucket, by the day."""
    day = world.begin
    world.lines.append(
        _line(
            day,
            "0.07",
            BUCKET,
            until=day + DAY,
            ServiceName="Amazon S3",
            ServiceCategory="Storage",
            ConsumedQuantity="3",
            ConsumedUnit="GB-Mo",
        )
    )


def record_bucket(config: Path) -> None:
    """What a measurement of that bucket leaves: bytes of a run, since the month began."""
    month = dt.date(2026, 10, 1)
    row = {
        "month": month, "store": f"s3://{BUCKET}/", "owner_kind": "other", "owner_id": "dump", "prefix": "dump", "storage_class": "UNKNOWN",
        "valid_from": dt.datetime(2026, 10, 1, tzinfo=dt.timezone.utc), "objects": 1, "bytes": 3_000_000_000, "is_complete": True,
    }  # fmt: skip
    with open_warehouse(load_settings(config)).step("measure", "bucket") as step:
        step.put("artifact_bytes", "2026-10", BUCKET, arrow_rows("artifact_bytes", [row]))
        assert step.publish()


def _line(start: int, cost: str, resource: str, *, until: int | None = None, **columns: str) -> Line:
    return bill_line(start, until or start + HOUR, Decimal(cost), {NOBODY: Fraction(1)}, ResourceId=resource, **columns)
