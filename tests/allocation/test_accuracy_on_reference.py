"""The smallest worlds of the accuracy benchmark have the same ledger on DuckDB and on Google's reference implementation.

`tests/e2e/test_true_costs.py` has the expected figures. Here both engines must agree on all of them, to the last decimal. Other tests of
this folder compare every model and all cases; this slow test adds more worlds.
"""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pyarrow as pa
import pytest

from runspend.allocation import model_order
from runspend.allocation.inputs import allocation_inputs
from runspend.config.settings import load_settings
from runspend.pipeline import allocate, extract, load
from runspend.schema.rows import first_day
from runspend.schema.tables import TABLES
from runspend.warehouse.factory import open_warehouse
from tests.allocation.chain import FILLED, run_on_reference
from tests.allocation.test_reference import multiset
from tests.benchmarks.accuracy import worlds
from tests.benchmarks.accuracy.cluster import moment
from tests.benchmarks.accuracy.files import make_schema, write_bill, write_settings, write_store
from tests.benchmarks.accuracy.worlds import Maker, Night, Size, World, make_world
from tests.reference import GoogleSQL

SMALLEST = Size(1, 1)
OUTPUTS = ("cost_allocations", *model_order.LEDGER_SUMS)


SHARING = (worlds.shared_gpus, worlds.shared_cores, worlds.autoscaled, worlds.spot, worlds.parallel_runs, worlds.restated)
# A chain of models takes ten seconds on the reference even with few rows, so one build has several worlds. Worlds that look at all machines
# of a cluster come first. Jobs are billed for three more days, so they come last. `tests/allocation/test_reference.py` compares ends of
# months and stored bytes.
MAKERS = (
    worlds.together(
        "stated",
        worlds.reused_names,
        worlds.one_run_a_machine,
        worlds.sweeps,
        worlds.multi_node,
        worlds.zombies,
        worlds.silent_dead,
        worlds.daily_bills,
        *SHARING,
    ),
    worlds.together(
        "unstated", worlds.pools, worlds.types_gpus, worlds.types_shared, worlds.spot_mix, worlds.attached, worlds.rented, worlds.jobs
    ),
)


@pytest.fixture(scope="module")
def schema(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An empty store as MLflow makes it."""
    return make_schema(tmp_path_factory.mktemp("schema") / "mlflow.db")


def run_nights(world: World, folder: Path, schema: Path) -> None:
    """Run the pipeline up to the ledger, once per day of the world."""
    write_settings(folder, world.settings)
    write_store(schema, folder / "mlflow.db", world, world.artifact_root)
    settings = load_settings(folder / "runspend.yaml")
    for night in [*world.earlier, Night(world.now(), world.lines)]:
        write_bill(folder / "bills", night.lines, "", world.focus)
        for step in (extract, load, allocate):
            assert step(settings, now=moment(night.now)).exit_code == 0


@pytest.mark.torture
@pytest.mark.parametrize("maker", MAKERS, ids=lambda m: m.__name__)
def test_both_engines_have_one_ledger(maker: Maker, reference: GoogleSQL, schema: Path, tmp_path: Path) -> None:
    """Both engines fill every table of the ledger's models with the same rows, for every billing period and start month."""
    run_nights(make_world(maker, SMALLEST, seed=7), tmp_path, schema)
    settings = load_settings(tmp_path / "runspend.yaml")
    warehouse, given = open_warehouse(settings), model_order.ledger_parameters(settings)
    with warehouse.reader() as reader:
        ours = {name: reader.query(f"select * from {name}") for name in TABLES}
    inputs = {name: table.slice(0, 0) if name in (*OUTPUTS, "run_costs") else table for name, table in ours.items()}
    theirs: dict[str, list[pa.Table]] = {name: [] for name in (*OUTPUTS, "run_costs")}
    for period in sorted({u.period for u in warehouse.states("cost_allocations")}):
        _, window = allocation_inputs(warehouse, period, given)
        made = run_on_reference(reference, model_order.ledger_models(period), inputs, {**given, **window, "period": first_day(period)})
        for name in OUTPUTS:
            theirs[name].append(made[name])
    inputs |= {name: pa.concat_tables(theirs[name]) for name in OUTPUTS}
    for month in sorted({u.period for u in warehouse.states("run_costs")}):
        theirs["run_costs"].append(
            run_on_reference(reference, model_order.run_costs_models(month), inputs, {**given, "period": first_day(month)})["run_costs"]
        )
    for name, tables in theirs.items():
        columns = [c for c in ours[name].column_names if c not in FILLED]
        mine, other = multiset(ours[name], columns), multiset(pa.concat_tables(tables), columns)
        assert (mine - other, other - mine) == (Counter(), Counter()), name
    assert ours["cost_allocations"].num_rows > 50 and ours["run_costs"].num_rows > 5
