"""Why no pool is proposed: what the bill lacks, what the runs lack, or that all cost is allocated."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import date
from pathlib import Path
from typing import Any

import pytest

from runspend.allocation.suggest import propose_pools
from runspend.allocation.suggest.proposals import propose
from runspend.config.settings import Settings
from runspend.warehouse.parquet.warehouse import ParquetWarehouse
from tests.allocation.chain import DAY, line, make_run, put_world

BOX: Mapping[str, Any] = {"at": "00:00..24:00", "on": "box", "machine_gpus": 1, "instance_type": "g5.xlarge", "cost": 24}
QUEUE: Mapping[str, Any] = {"at": "00:00..24:00", "on": "queue", "service_name": "SQS"}
YEARLY: Mapping[str, Any] = {**BOX, "at": "00:00..480:00"}
RUN: Mapping[str, Any] = {"id": "a" * 32, "at": "02:00..05:00", "on": []}
EARLY: Mapping[str, Any] = {"id": "b" * 32, "at": "2026-07-03T02:00..2026-07-04T05:00", "on": []}
ENDLESS: Mapping[str, Any] = {"id": "c" * 32, "at": "2026-07-03T02:00..2026-10-02T05:00", "on": []}
UNREADABLE: Mapping[str, Any] = {"source": "aws", "billing_period": date(2026, 10, 1), "line_id": "q", "reason": "BilledCost is missing"}


@pytest.mark.parametrize(
    ("lines", "runs", "reason"),
    [
        ([BOX], [], "no runs were read from MLflow."),
        (
            [BOX],
            [EARLY],
            "no run ran between 2026-10-01 and 2026-10-01, the examined time of the bill (the runs read are from 2026-07-03 to 2026-07-04).",
        ),
        ([BOX], [ENDLESS], "no run in the examined time of the bill has a known duration of up to 62 days."),
        ([QUEUE], [RUN], "no bill line names a machine (by an instance type or a number of GPUs)."),
        ([QUEUE], [], "no bill line names a machine (by an instance type or a number of GPUs); no runs were read from MLflow."),
        (
            [QUEUE, {**QUEUE, "scope": "exclude"}],
            [RUN],
            "no bill line inside `scope` names a machine (by an instance type or a number of GPUs).",
        ),
        ([QUEUE, YEARLY], [RUN], "no machine on the bill is billed by the hour or day."),
        (
            [{**QUEUE, "node_key": "n", "node_instance_type": "box"}],
            [EARLY],
            "no run ran between 2026-10-01 and 2026-10-01, the examined time of the bill (the runs read are from 2026-07-03 to 2026-07-04).",
        ),
        ([{**BOX, "cost": 0}], [RUN], "the machines on the bill cost nothing."),
        ([{**BOX, "scope": "exclude"}], [RUN], "every machine on the bill has its runs, or is in a pool or out of scope."),
        ([BOX], [{**RUN, "pool_key": "gpu"}], "every run in the examined time of the bill has its machine, or is in a pool."),
        ([YEARLY], [RUN], "the bill has no usage by the hour or day."),
    ],
)
def test_the_reason_names_what_is_missing(
    tmp_path: Path, lines: Sequence[Mapping[str, Any]], runs: Sequence[Mapping[str, Any]], reason: str
) -> None:
    warehouse = ParquetWarehouse(tmp_path)
    with warehouse.step("inputs", "inputs") as step:
        put_world(step, {"billing_lines": [line(n, **row) for n, row in enumerate(lines)], "runs": [make_run(**run)[0] for run in runs]})
        assert step.publish()
    with warehouse.reader() as reader:
        assert propose(reader, Settings(), DAY).reason == reason


def test_a_bill_without_a_readable_row_says_so(tmp_path: Path) -> None:
    warehouse = ParquetWarehouse(tmp_path)
    with warehouse.step("inputs", "inputs") as step:
        put_world(step, {"billing_lines": [], "billing_quarantine": [dict(UNREADABLE)]})
        assert step.publish()
    with warehouse.reader() as reader:
        assert propose(reader, Settings(), DAY).reason == "no row of the bill can be read (see billing_quarantine)."


def test_without_a_bill_the_reason_asks_for_a_pipeline_run(tmp_path: Path) -> None:
    assert propose_pools(ParquetWarehouse(tmp_path), Settings()).reason == "no bill is loaded yet. Run `runspend nightly` first."
