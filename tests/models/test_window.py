"""From when to when a period's runs are looked at: its lines that are split by time decide, whatever names their machine."""

from __future__ import annotations

from pathlib import Path

import pytest

from runspend.inputs import allocation_inputs
from runspend.warehouse.parquet import ParquetWarehouse
from tests.models.chain import World, line, parameters_of, put_world

TYPE = {"on": None, "instance_type": "p4d.24xlarge"}


@pytest.mark.parametrize(
    ("rows", "months"),
    [
        ([TYPE], ("2026-10", "2026-11")),
        ([{"on": None}], ("2026-10", "2026-10")),
        ([{}, TYPE | {"at": "2026-08-31T23:00:00..2026-09-01T00:00:00"}], ("2026-08", "2026-11")),
        ([{}, TYPE | {"at": "2026-08-31T23:00:00..2026-09-01T00:00:00", "charge_class": "Correction"}], ("2026-10", "2026-11")),
        ([{}, {"on": None, "pool_key": "gpu", "at": "2026-10-31T23:30:00..2026-11-01T00:30:00"}], ("2026-10", "2026-12")),
        ([{}, {"at": "2026-10-01T00:00:00..2027-10-01T00:00:00"}], ("2026-10", "2026-11")),
        ([{"at": "2026-10-01T00:00:00..2026-11-01T00:00:00"}], ("2026-10", "2026-11")),
        ([{"at": "2026-09-01T00:00:00..2026-10-01T00:00:00"}], ("2026-09", "2026-10")),
        ([{"at": "2026-09-01T00:00:00..2026-10-01T00:00:00", "charge_category": "Credit"}], ("2026-10", "2026-10")),
    ],
    ids=[
        "a type",
        "no machine",
        "a type of another month",
        "a correction that names none",
        "a pool over the month's end",
        "a year",
        "a month",
        "another month",
        "a refund",
    ],
)
def test_window(rows: list[dict[str, object]], months: tuple[str, str], tmp_path: Path) -> None:
    """The months these lines lie in; the other tests of the models tell them the same."""
    world: World = {
        "billing_lines": [line(number, **row) for number, row in enumerate(rows)],
        "billing_loads": [],
        "runs": [],
        "run_resources": [],
    }
    warehouse = ParquetWarehouse(tmp_path)
    with warehouse.step("inputs", "inputs") as step:
        put_world(step, world)
        assert step.publish()
    _, window = allocation_inputs(warehouse, "2026-10", {})
    assert (f"{window['window_start']:%Y-%m}", f"{window['window_end']:%Y-%m}") == months
    told = parameters_of(world, world["billing_lines"][0]["billing_period"])
    assert {name: told[name] for name in window} == window
