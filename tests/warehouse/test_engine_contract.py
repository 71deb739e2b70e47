"""The guarantees of every warehouse engine. To test another engine, add it to ENGINES."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from runspend.core.errors import CheckFailed, RunspendError
from runspend.schema.tables import TABLES, Table
from runspend.warehouse.base import Model, Unit, UnitState, Warehouse
from runspend.warehouse.bigquery.warehouse import BigQueryWarehouse
from runspend.warehouse.parquet.warehouse import ParquetWarehouse
from tests.faults.world import rows_of
from tests.warehouse.cost_allocations_model import COST_ALLOCATIONS, first_of

ENGINES = ("folder", "bigquery")
LINES = TABLES["billing_lines"]


@dataclass(frozen=True)
class Engine:
    """A warehouse that tests share. Each test uses its own month."""

    open: Callable[..., Warehouse]  # with the folders of models and checks
    leftovers: Callable[[], list[Any]]  # what steps created for themselves and did not remove

    def fill(self, unit: Unit, rows: pa.Table, **more: Any) -> UnitState:
        with self.open().step("fill", "fill") as step:
            state = step.put(*unit, rows, **more)
            assert step.publish()
        return state

    def allocate(self, sql: Path, month: str, *checks: str) -> None:
        """Run the only model of `sql`, and then these checks."""
        with self.open(models=sql, checks=sql).step("allocate", "b") as step:
            step.run([Model("cost_allocations", (month, "all"))], {"period": first_of(month)})
            step.check(checks, {"period": first_of(month)})
            assert step.publish()


@pytest.fixture(scope="module", params=ENGINES)
def engine(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Engine:
    if request.param == "folder":
        root = tmp_path_factory.mktemp("engine") / "warehouse"
        return Engine(lambda **more: ParquetWarehouse(root, **more), lambda: list((root / "_runspend" / "stage").iterdir()))
    shared: BigQueryWarehouse = request.getfixturevalue("bigquery_warehouse")

    def datasets_of_steps() -> list[str]:
        names = [item.dataset_id for item in shared.jobs.client.list_datasets()]
        return [name for name in names if name.startswith(f"{shared.places.dataset}_step_")]

    return Engine(lambda **more: BigQueryWarehouse(shared.jobs._settings, **more) if more else shared, datasets_of_steps)


@pytest.mark.parametrize("table", TABLES.values(), ids=lambda table: table.name)
def test_rows_come_back_as_they_were_put(engine: Engine, month: str, table: Table, tmp_path: Path) -> None:
    """All tables and types keep their rows, to the last decimal, in the table's order.

    States return rows, build and extra values without reading the rows.
    """
    unit = Unit(table.name, month if table.period_column else "all", f"w-{month}")
    rows = rows_of(table, period=unit.period, cost="1234567.0000000000000000000001", count=20)
    state = engine.fill(unit, rows, extra={"last": f"{month}-28", "ä": [1, None]})
    warehouse = engine.open()
    assert warehouse.states(table.name)[unit] == state
    assert (state.rows, state.build_id, state.extra) == (20, "fill", {"last": f"{month}-28", "ä": [1, None]})
    found, file = warehouse.read(unit), warehouse.fetch(unit, tmp_path)
    assert found is not None and file is not None
    key = [(c, "ascending") for c in table.sort or rows.column_names[:1]]
    assert found.sort_by(key).equals(rows.sort_by(key))
    assert found.select(table.sort).equals(rows.sort_by(key).select(table.sort))
    assert pq.read_table(file).sort_by(key).equals(rows.sort_by(key))
    assert warehouse.read(unit._replace(writer="nobody")) is None


def test_a_file_is_taken_and_its_schema_must_fit(engine: Engine, month: str, tmp_path: Path) -> None:
    """A Parquet file must have exactly the table's columns and types. Otherwise the error names the difference, and the file stays."""
    good, bad, other = tmp_path / "good.parquet", tmp_path / "bad.parquet", tmp_path / "other.parquet"
    rows = rows_of(LINES, period=month)
    pq.write_table(rows, good)
    pq.write_table(rows.drop_columns(["tags"]), bad)
    pq.write_table(rows.set_column(rows.column_names.index("billed_cost"), "billed_cost", pa.array([1.5] * 50)), other)
    with engine.open().step("fill", "b") as step:
        step.put("billing_lines", month, "aws", good)
        with pytest.raises(RunspendError, match=r"lacks columns \['tags'\]"):
            step.put("billing_lines", month, "aws", bad)
        with pytest.raises(RunspendError, match="billed_cost is double and must be decimal128"):
            step.put("billing_lines", month, "aws", other)
        assert step.publish()
    assert (good.exists(), bad.exists(), other.exists()) == (False, True, True)
    assert engine.open().states("billing_lines")[Unit("billing_lines", month, "aws")].rows == 50
    with engine.open().reader() as reader:
        found = reader.query("select line_id from billing_lines where billing_period = @month", {"month": first_of(month)})
    assert found.num_rows == 50


def test_a_row_of_another_month_is_refused(engine: Engine, month: str) -> None:
    """One row belongs to another month, and the next replacement would lose it. So the whole put is refused."""
    unit = Unit("billing_lines", month, "aws")
    before = engine.fill(unit, rows_of(LINES, period=month))
    rows = pa.concat_tables([rows_of(LINES, period=month), rows_of(LINES, count=1, period="1999-11")])
    with engine.open().step("fill", "b2") as step, pytest.raises(RunspendError, match=r"1 of 51 rows.*Nothing was changed"):
        step.put(*unit, rows)
    assert engine.open().states("billing_lines")[unit] == before


@pytest.mark.parametrize(
    ("table", "period", "writer"),
    [("billing_lines", "all", "aws"), ("billing_lines", "2026-13", "aws"), ("experiments", "2026-10", "prod"), ("nothing", "2026-10", "aws"),
     ("billing_lines", "2026-10", "../aws"), ("billing_lines", "2026-10", "_aws"), ("billing_lines", "2026-10", ""), ("billing_lines", "2026-10", "a' or true --")],
)  # fmt: skip
def test_impossible_units_are_refused(engine: Engine, table: str, period: str, writer: str) -> None:
    """A name that only one warehouse accepts, that gives an odd path, or that readers skip is refused."""
    with engine.open().step("fill", "b") as step:
        with pytest.raises(ValueError, match="cannot write"):
            step.put(table, period, writer, rows_of(LINES))
        with pytest.raises(ValueError, match="cannot write"):
            step.drop(table, period, writer)


def test_a_step_publishes_once(engine: Engine) -> None:
    """A second publish is an error of the caller."""
    with engine.open().step("fill", "b") as step:
        assert step.publish()
        with pytest.raises(RunspendError, match="twice"):
            step.publish()


def test_a_failed_check_keeps_the_tables(engine: Engine, month: str, sql: Path) -> None:
    """Checks see staged rows instead of published ones. The error shows up to twenty failing rows, and nothing is published."""
    lines, unit = Unit("billing_lines", month, "aws"), Unit("cost_allocations", month, "all")
    engine.fill(lines, rows_of(LINES, period=month, count=30))
    (sql / "cost_allocations.sql").write_text(COST_ALLOCATIONS.format(source="billing_lines"))
    (sql / "no_charges.sql").write_text(
        "select charge_id, billed_cost from cost_allocations where billing_period = @period order by charge_id"
    )
    engine.allocate(sql, month)
    before = engine.open().states()[unit]
    engine.fill(lines, rows_of(LINES, period=month, count=31))
    with pytest.raises(CheckFailed) as failed:
        engine.allocate(sql, month, "no_charges")
    assert (failed.value.check, len(failed.value.rows), failed.value.period) == ("no_charges", 20, month)
    assert failed.value.rows[0] == {"charge_id": "line_id 0", "billed_cost": Decimal(1)}
    assert engine.open().states()[unit] == before
    assert engine.leftovers() == []


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ((" billed_cost,", " "), r"lacks \['billed_cost'\]"),
        (("cost_status", "cost_status, 1 as extra"), r"has \['extra'\] in addition"),
        ((" billed_cost,", " cast(1.5 as float64) as billed_cost,"), r"\['billed_cost'\] are floats"),
        (
            ("select source, billing_period", "select source, date_add(billing_period, interval 1 month) as billing_period"),
            "5 of 5 rows into cost_allocations.*Nothing was changed",
        ),
    ],
)
def test_a_model_must_select_the_table(engine: Engine, month: str, sql: Path, change: tuple[str, str], message: str) -> None:
    """A missing or extra column, a float instead of money, and a row of another month are errors that name the problem."""
    engine.fill(Unit("billing_lines", month, "aws"), rows_of(LINES, period=month, count=5))
    (sql / "cost_allocations.sql").write_text(COST_ALLOCATIONS.format(source="billing_lines").replace(*change))
    with pytest.raises(RunspendError, match=message):
        engine.allocate(sql, month)
