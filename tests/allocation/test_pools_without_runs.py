"""Pools that no run belongs to are named, with what to correct."""

from __future__ import annotations

from pathlib import Path

from runspend.allocation.pools_without_runs import pools_without_runs
from runspend.warehouse.parquet.warehouse import ParquetWarehouse
from tests.allocation.chain import make_run, put_world
from tests.settings_builder import make_settings

LINES = {"account": ["1111"]}


def test_a_pool_that_no_run_belongs_to_is_named(tmp_path: Path) -> None:
    settings = make_settings(
        tmp_path,
        pools=[
            {"name": "gpu", "runs": {"experiment": "bert"}, "lines": LINES, "equal": ["team"]},
            {"name": "pasted", "runs": {"experiment": "EXPERIMENT"}, "lines": LINES},
            {"name": "late", "runs": {"experiment": "bert"}, "lines": LINES},
        ],
    )
    warehouse = ParquetWarehouse(tmp_path)
    with warehouse.reader() as reader:
        assert pools_without_runs(reader, settings) == []  # no runs were read yet
    runs = [make_run(id=f"{number:032x}", at="00:00..01:00", pool_key=key)[0] for number, key in enumerate(("gpu|team=vision", None))]
    with warehouse.step("inputs", "inputs") as step:
        put_world(step, {"billing_lines": [], "runs": runs})
        assert step.publish()
    with warehouse.reader() as reader:
        pasted, late = pools_without_runs(reader, settings)
    assert pasted == (
        'pool pasted: no run matches its `runs`, {experiment: ["EXPERIMENT"]}, or earlier pools have those runs. '
        "Time of its machines that no run claims stays idle. Replace EXPERIMENT with the name of an experiment."
    )
    assert late.endswith("stays idle. Correct `runs`.")
