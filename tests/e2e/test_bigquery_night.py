"""The same pipeline run in a folder and in BigQuery gives equal rows, exact to the last decimal. A warehouse can move from one to the other.

The server is an emulator, or Google's in `make test-bigquery`.
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from runspend.config.settings import Settings, WarehouseSettings, load_settings
from runspend.core.errors import ConfigError, RunspendError
from runspend.pipeline import allocate, extract, load
from runspend.pipeline.copy import copy
from runspend.schema.tables import TABLES
from runspend.warehouse.base import Unit, UnitState, Warehouse
from runspend.warehouse.bigquery.jobs import Statement
from runspend.warehouse.bigquery.tables import quoted
from runspend.warehouse.bigquery.warehouse import BigQueryWarehouse
from runspend.warehouse.content_digest import sums_sql
from runspend.warehouse.factory import open_warehouse
from runspend.warehouse.parquet.warehouse import ParquetWarehouse
from tests.allocation.chain import total
from tests.allocation.test_accuracy_on_reference import MAKERS, SMALLEST
from tests.benchmarks.accuracy.cluster import moment
from tests.benchmarks.accuracy.files import make_schema, write_bill, write_settings, write_store
from tests.benchmarks.accuracy.worlds import Maker, make_world
from tests.command import run_here
from tests.e2e.conftest import copy_world
from tests.e2e.test_night import NOW, bill_rows
from tests.faults.world import rows_of
from tests.mlflow_store import run_script
from tests.servers.bigquery_target import Target

# Places and times, which differ between the two pipeline runs.
OF_PLACE_AND_TIME = (
    "builds",
    "sources",
    "billing_loads",
    "alerts",
    "alert_states",
    "reports",
    "archive_plan",
)  # the archive plan: where an archive would be written
ROW_BY_ROW = ("cost_allocations", "run_costs")
MEASURES = {"effective_cost": "EffectiveCost", "billed_cost": "BilledCost", "list_cost": "ListCost", "contracted_cost": "ContractedCost"}


@dataclass(frozen=True)
class Place:
    """A home with its configuration and the output of `nightly`."""

    config: Path
    printed: str

    @property
    def settings(self) -> Settings:
        return load_settings(self.config)

    @property
    def warehouse(self) -> Warehouse:
        return open_warehouse(self.settings)


# A sixth of the demo's jobs from the last day of October on, and November's bill. Its ledger also includes runs of October.
SMALLER = """
import sys
from dataclasses import replace
from pathlib import Path
from runspend.interfaces.demo import bills, plan, world
plan.TEAMS = tuple(replace(team, jobs=team.jobs // 6) for team in plan.TEAMS)
plan.BEGIN = bills.BEGIN = plan.BEGIN.replace(day=31)
world.CONFIG = world.CONFIG.replace("amount: 1700", "amount: 100").replace("format: focus", "format: focus, late_after: 30d")
folder = Path(sys.argv[1])
world.make_world(folder)
for path in folder.glob("bills/*/focus-2026-10.*"):
    path.unlink()
"""


@pytest.fixture(scope="module")
def small_world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A demo world with fewer runs that end some days earlier; vision still exceeds its budget. Read-only: `make_home` copies it."""
    folder = tmp_path_factory.mktemp("demo") / "world"
    run_script(SMALLER, str(folder), cwd=folder.parent)
    return folder


def make_home(small_world: Path, home: Path, warehouse: WarehouseSettings | None) -> Path:
    """Return the world's configuration over copies of its bills, with this warehouse."""
    config = copy_world(small_world, home)
    if warehouse is not None:
        given = {
            name: value
            for name, value in warehouse.model_dump(mode="json").items()
            if name in ("uri", "endpoint", "credentials") and value is not None
        }
        config.write_text(f"{config.read_text()}\nwarehouse: {given}\n")
    return config


def run_night(config: Path) -> Place:
    """Run the pipeline and return its output."""
    return Place(config, run_here("nightly", "--config", str(config), *NOW, cwd=config.parent).stdout.replace(str(config.parent), "HOME"))


@pytest.fixture(scope="module")
def folder(small_world: Path, tmp_path_factory: pytest.TempPathFactory) -> Place:
    """A home with a warehouse in a folder, after one pipeline run."""
    return run_night(make_home(small_world, tmp_path_factory.mktemp("folder") / "home", None))


@pytest.fixture(scope="module")
def bigquery(small_world: Path, tmp_path_factory: pytest.TempPathFactory, bigquery_target: Target) -> Place:
    """A home with a warehouse in BigQuery, after one pipeline run."""
    return run_night(make_home(small_world, tmp_path_factory.mktemp("bigquery") / "home", bigquery_target.settings()))


def contents(warehouse: Warehouse, tables: Sequence[str]) -> dict[str, list[dict[str, Any]]]:
    """Return the rows and sums of each table, month by month."""
    with warehouse.reader() as reader:
        return {name: reader.query(sums_sql(TABLES[name], name, group_by=TABLES[name].period_column)).to_pylist() for name in tables}


def rows(warehouse: Warehouse, name: str) -> list[tuple[Any, ...]]:
    """Return all rows in a fixed order, without bookkeeping columns."""
    table = TABLES[name]
    columns = [c.name for c in table.columns if not c.bookkeeping]
    with warehouse.reader() as reader:
        found = reader.query(f"select {', '.join(columns)} from {name}").to_pylist()
    return sorted((tuple(row[c] for c in columns) for row in found), key=repr)


def assert_equal(one: Warehouse, other: Warehouse, *, but: Sequence[str] = ()) -> None:
    """Check that every table except these has the same rows. The most important tables are compared row by row."""
    names = [name for name in TABLES if name not in but]
    here, there = contents(one, names), contents(other, names)
    assert {name for name in names if here[name] != there[name]} == set()
    for name in ROW_BY_ROW:
        assert rows(one, name) == rows(other, name), name
        assert here[name], name


# --- pipeline runs -------------------------------------------------------------------------------------------------------


def test_both_warehouses_hold_the_same_rows(folder: Place, bigquery: Place) -> None:
    """Every table has equal sums in all columns. The ledger and the costs of runs are equal row by row, to the last decimal."""
    assert_equal(folder.warehouse, bigquery.warehouse, but=OF_PLACE_AND_TIME)
    states = bigquery.warehouse.states()
    assert {u: s.rows for u, s in folder.warehouse.states().items()} == {u: s.rows for u, s in states.items()}


def test_both_pipeline_runs_report_the_same(folder: Place, bigquery: Place) -> None:
    """Every figure of the summary, every budget, every note, every mail and every report is the same."""

    def lines(place: Place) -> list[str]:
        return [line for line in place.printed.splitlines() if not any(word in line for word in ("seconds=", "took=", ".snapshot="))]

    assert lines(folder) == lines(bigquery)
    for pattern in ("mail/*", "reports/*"):
        names = [sorted(path.suffix for path in place.config.parent.glob(pattern)) for place in (folder, bigquery)]
        assert names[0] == names[1] != [], pattern


def test_the_ledger_in_bigquery_is_the_bill(bigquery: Place) -> None:
    """The sums are equal in all four measures, exactly."""
    billed = bill_rows(bigquery.config.parent)
    with bigquery.warehouse.reader() as reader:
        for measure, column in MEASURES.items():
            found = {
                row["source"]: row["total"]
                for row in reader.query(f"select source, sum({measure}) as total from cost_allocations group by source").to_pylist()
            }
            assert found == {source: total(Decimal(r[column]) for r in billed if r["source"] == source) for source in ("aws", "gcp")}, (
                measure
            )


def unchanging(states: Mapping[Unit, UnitState]) -> dict[Unit, tuple[str, int]]:
    """Return what a second run must not change, even in another home: everything except its times and the archive's path."""
    return {unit: (state.digest, state.rows) for unit, state in states.items() if unit.table != "archive_plan"}


def test_a_second_pipeline_run_changes_nothing(bigquery: Place) -> None:
    """Every unit has the same content, and no month is built again."""
    warehouse = bigquery.warehouse
    before = warehouse.states()
    again = run_night(bigquery.config)
    after = warehouse.states()
    assert unchanging(after) == unchanging(before)
    kept = ("cost_allocations", "run_costs", "billing_lines", "runs")
    assert {u: after[u].build_id for u in after if u.table in kept} == {u: before[u].build_id for u in before if u.table in kept}
    assert "exit=0" in again.printed


# --- migrating a warehouse -----------------------------------------------------------------------------------------------


class Killed(BaseException):
    """A stand-in for the end of a process between two builds."""


def test_a_warehouse_moves_to_bigquery(folder: Place, small_world: Path, bigquery_target: Target, tmp_path: Path) -> None:
    """The copy is killed half way and started again. All digests and rows are equal, and the next pipeline run finds nothing to do."""
    source, home = folder.warehouse, tmp_path / "home"
    shutil.copytree(folder.config.parent, home, ignore=shutil.ignore_patterns("warehouse"))
    settings = bigquery_target.settings()
    target = BigQueryWarehouse(settings)

    def stop(printed: str) -> None:
        if printed.startswith("copy: ") and " of " in printed:
            raise Killed

    with pytest.raises(Killed):
        copy(source, target, progress=stop)
    carried = target.states()
    assert 0 < len(carried) < len(source.states())
    outcome = copy(source, BigQueryWarehouse(settings), progress=lambda _: None)
    assert len(outcome.unchanged) == len(carried) and len(outcome.changed) == len(source.states()) - len(carried)
    assert target.states() == source.states()
    assert_equal(source, target)
    assert copy(source, target, progress=lambda _: None).changed == []
    before = target.states()
    run_night(make_home(small_world, home, settings))
    after = target.states()
    built = ("cost_allocations", "run_costs", "cost_daily", "billing_lines", "runs", "artifact_bytes")
    assert {u: s for u, s in after.items() if u.table in built} == {u: s for u, s in before.items() if u.table in built}
    assert unchanging(after) == unchanging(before)


@pytest.fixture(scope="module")
def small(bigquery_target: Target, tmp_path_factory: pytest.TempPathFactory) -> tuple[ParquetWarehouse, BigQueryWarehouse]:
    """A folder with two builds of three units, and a copy of it."""
    source, target = ParquetWarehouse(tmp_path_factory.mktemp("small") / "warehouse"), BigQueryWarehouse(bigquery_target.settings())
    for number, months in enumerate((("2026-09", "2026-10"), ("2026-11",)), 1):
        with source.step("fill", f"build-{number}") as step:
            for month in months:
                step.put(
                    "cost_daily", month, "all", rows_of(TABLES["cost_daily"], period=month, build_id=f"build-{number}"), extra={"of": month}
                )
            assert step.publish()
    assert len(copy(source, target, progress=lambda _: None).changed) == 3
    return source, target


def test_a_target_with_other_content_is_refused(small: tuple[ParquetWarehouse, BigQueryWarehouse], tmp_path: Path) -> None:
    """The target has units that the source does not have, or the source is empty. Nothing is changed."""
    source, target = small
    with target.step("fill", "other") as step:
        step.put("cost_daily", "2026-12", "all", rows_of(TABLES["cost_daily"], period="2026-12"))
        assert step.publish()
    before = target.states()
    with pytest.raises(
        ConfigError, match=r"has 1 units that the other one does not have, such as cost_daily 2026-12 all.*Nothing was changed"
    ):
        copy(source, target, progress=lambda _: None)
    with pytest.raises(ConfigError, match=r"is empty.*Nothing was changed"):
        copy(ParquetWarehouse(tmp_path / "empty"), target, progress=lambda _: None)
    assert target.states() == before
    with target.step("fill", "other") as step:
        step.drop("cost_daily", "2026-12", "all")
        assert step.publish()


def test_a_copied_row_that_changed_is_noticed(small: tuple[ParquetWarehouse, BigQueryWarehouse]) -> None:
    """One cost differs in its last decimal. The error names the table and the month."""
    source, target = small
    table, first = (
        quoted(target.places.table(TABLES["cost_daily"])),
        "billing_period = date '2026-10-01' and charge_date = date '2026-10-02'",
    )
    for change, is_noticed in (("+", True), ("-", False)):
        sql = f"update {table} set billed_cost = billed_cost {change} bignumeric '0.0000000000000000000001' where {first}"
        target.jobs.run(Statement(sql), dataset=target.places.internal, labels={"step": "other"})
        if is_noticed:
            with pytest.raises(RunspendError, match="cannot verify the copy: cost_daily of 2026-10 differs"):
                copy(source, target, progress=lambda _: None)
        else:
            assert copy(source, target, progress=lambda _: None).changed == []


def test_a_unit_that_has_changed_is_copied_again(small: tuple[ParquetWarehouse, BigQueryWarehouse]) -> None:
    """A pipeline run follows the copy. The next copy sends only what that run built."""
    source, target = small
    with source.step("fill", "build-3") as step:
        step.put(
            "cost_daily",
            "2026-11",
            "all",
            rows_of(TABLES["cost_daily"], period="2026-11", cost="2", build_id="build-3"),
            extra={"of": "2026-11"},
        )
        assert step.publish()
    outcome = copy(source, target, progress=lambda _: None)
    assert (outcome.changed, len(outcome.unchanged)) == (["cost_daily 2026-11 all"], 2)
    assert target.states() == source.states()


# --- worlds with known true costs ----------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def schema(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An empty store as MLflow creates it."""
    return make_schema(tmp_path_factory.mktemp("schema") / "mlflow.db")


@pytest.mark.torture  # tests/allocation/test_accuracy_on_reference.py always compares these on the reference implementation
@pytest.mark.parametrize("maker", MAKERS, ids=lambda maker: maker.__name__)
def test_worlds_with_known_costs_cost_the_same_in_both_warehouses(
    maker: Maker, schema: Path, bigquery_target: Target, tmp_path: Path
) -> None:
    """These are the small worlds of the accuracy benchmark, after their last pipeline run.

    Other tests check the costs in a folder. This one checks that both warehouses are equal.
    """
    world = make_world(maker, SMALLEST, seed=7)
    write_settings(tmp_path, world.settings)
    write_store(schema, tmp_path / "mlflow.db", world, world.artifact_root)
    here = load_settings(tmp_path / "runspend.yaml")
    there = here.model_copy(update={"warehouse": bigquery_target.settings(), "home": tmp_path / "other"})
    write_bill(tmp_path / "bills", world.lines, "", world.focus)
    for settings in (here, there):
        for verb in (extract, load, allocate):
            outcome = verb(settings, now=moment(world.now()))
            assert outcome.exit_code == 0, outcome.errors
    assert_equal(open_warehouse(here), open_warehouse(there), but=OF_PLACE_AND_TIME)
    with open_warehouse(there).reader() as reader:
        for measure, column in MEASURES.items():
            [found] = reader.query(f"select sum({measure}) as total from cost_allocations").to_pylist()
            assert found["total"] == total(Decimal(line.row[column]) for line in world.lines), measure
