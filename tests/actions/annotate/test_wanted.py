"""The costs that MLflow should show: short runs cost less than a cent, and still differ."""

from __future__ import annotations

import datetime as dt
from decimal import Decimal
from pathlib import Path

from runspend.actions.annotate.wanted import are_versions_read, wanted_experiments, wanted_runs
from runspend.warehouse.parquet.warehouse import ParquetWarehouse
from tests.allocation.chain import arrow, make_run, moment


def test_costs_below_a_cent_stay_distinct_and_add_up(tmp_path: Path) -> None:
    amounts = {"a": "0.00044", "b": "0.00465", "c": "-0.00005", "d": "0.00001"}
    runs = [make_run(id=name, at="2026-10-09T08:00:00..2026-10-09T08:00:05")[0] | {"lifecycle_stage": "active"} for name in amounts]
    key = {"tracking_server": "prod", "workspace": "default", "start_month": dt.date(2026, 10, 1), "billing_currency": "USD"}
    costs = [key | {"run_id": name, "effective_cost": Decimal(cost), "cost_status": "final"} for name, cost in amounts.items()]
    experiment = {"tracking_server": "prod", "workspace": "default", "experiment_id": "1", "lifecycle_stage": "active"}
    warehouse = ParquetWarehouse(tmp_path)
    with warehouse.step("test", "test") as step:
        step.put("runs", "2026-10", "prod", arrow("runs", runs))
        step.put("run_costs", "2026-10", "all", arrow("run_costs", costs))
        step.put("experiments", "all", "prod", arrow("experiments", [experiment]))
        assert step.publish()
    with warehouse.reader() as reader:
        shown = wanted_runs(reader, "prod", "")
        [whole] = wanted_experiments(reader, "prod", moment("2026-10-10T00:00:00"))
        assert not are_versions_read(reader, "prod")
    assert dict(zip(shown["run_id"].to_pylist(), shown["cost"].to_pylist(), strict=True)) == {
        "a": Decimal("0.0004"), "b": Decimal("0.0047"), "c": Decimal("-0.0001"), "d": Decimal("0.0000"),
    }  # fmt: skip
    assert whole.tags["cost_usd_total"] == "0.0051"
