"""What many budgets cost a night: 500 of them over 400 days, quiet and all broken at once, and as many experiments with one in their tags."""

from __future__ import annotations

import json
import time
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from runspend.actions import alert
from runspend.warehouse.parquet.warehouse import ParquetWarehouse
from runspend.warehouse.records import Records
from tests.actions.alert.alert_world import NOW, budget, cost, source, warehouse
from tests.benchmarks.measured import load_average, scaled
from tests.settings_builder import make_settings

pytestmark = [pytest.mark.bench, pytest.mark.timeout(3600)]

DAYS, GOAL_SECONDS = 400, 15.0


@pytest.fixture(scope="module")
def house(tmp_path_factory: pytest.TempPathFactory) -> ParquetWarehouse:
    """A team and an experiment for each budget, a row a day."""
    root, last, count = tmp_path_factory.mktemp("budgets") / "w", NOW.date() - timedelta(days=2), scaled(500)
    rows = [
        cost((last - timedelta(days=n)).isoformat(), f"{5 + (n * 7 + t) % 11}.{t:04d}", team=f"t{t}", experiment_id=str(t))
        for n in range(DAYS)
        for t in range(count)
    ]
    tags = json.dumps({"runspend.budget": "400 USD / month"})
    experiments = [
        {"tracking_server": "prod", "workspace": "default", "experiment_id": str(t), "lifecycle_stage": "active", "tags": tags}
        for t in range(count)
    ]
    with warehouse(root, cost_daily=rows, sources=[source()], experiments=experiments):
        return ParquetWarehouse(root)


@pytest.mark.parametrize("kind", ["quiet", "broken", "tags"])
def test_a_pipeline_run_judges_five_hundred_budgets_fast_enough(tmp_path: Path, house: ParquetWarehouse, kind: str) -> None:
    """Two nights each, in seconds of one processor: the first, which tells, and the next, which has nothing to tell."""
    amount = "100" if kind == "broken" else "900"
    entries: list[Any] = [budget(f"b{n}", amount, **{"for": {"team": f"t{n}"}}) for n in range(scaled(500))]
    given = make_settings(tmp_path, *([{"from": "experiment_tags", "notify": ["a@acme.com"]}] if kind == "tags" else entries))
    for night in (0, 1):
        begun = time.process_time()
        found = alert.run(house.reader, given, Records(tmp_path), NOW + timedelta(days=night))
        used = time.process_time() - begun
        print(f"\n  {kind}, night {night}: {found.budget_status.num_rows} budgets, {used:.1f} s of a processor ({load_average()})")
        assert found.budget_status.num_rows == scaled(500)
        assert used < GOAL_SECONDS
