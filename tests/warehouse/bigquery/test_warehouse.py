"""A warehouse in BigQuery keeps the same promises as one in a folder. The server is an emulator, unless `make test-bigquery` names Google's.

Tests share a warehouse if they can, and each uses its own month and writers: on Google's BigQuery, creating the tables takes a minute.
"""

from __future__ import annotations

import datetime as dt
import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from decimal import Decimal
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from runspend.config.settings import WarehouseSettings
from runspend.core.errors import ConfigError, RunspendError, UsageError
from runspend.schema.former_names import RENAMED_COLUMNS, VALUE_COLUMNS
from runspend.schema.public_views import VIEWS
from runspend.schema.tables import SCHEMA_VERSION, TABLES, Column, Table
from runspend.warehouse.base import Model, Unit, UnitState
from runspend.warehouse.bigquery.jobs import Jobs, Statement
from runspend.warehouse.bigquery.tables import DAY_MS, PUBLISHED, WRITER, make_dataset, quoted, sweep_steps, type_of
from runspend.warehouse.bigquery.warehouse import BigQueryWarehouse
from runspend.warehouse.parquet.warehouse import ParquetWarehouse
from tests import former_schema as former
from tests.allocation.chain import run_on_duckdb, summarize_on_duckdb
from tests.faults.world import rows_of
from tests.reference import exact_rows
from tests.servers.bigquery_target import Target, only_real
from tests.warehouse import test_exchange_on_reference as exchange
from tests.warehouse.conftest import MONTHS
from tests.warehouse.cost_allocations_model import COST_ALLOCATIONS, first_of

LINES = TABLES["billing_lines"]
SMALLEST = Decimal("0.0000000000000000000001")
LARGEST = "9999999999999999.9999999999999999999999"  # as in Runspend's Parquet files
ODD = ["ä ß 東京 🙂", 'it\'s "quoted" \\ and\nbroken\ttwice', "e\u0301 is not \u00e9", "\u202egnirts", "'); drop table runs --", "", " "]


@pytest.fixture
def warehouse(bigquery_warehouse: BigQueryWarehouse) -> BigQueryWarehouse:
    """The warehouse that tests share."""
    return bigquery_warehouse


@pytest.fixture
def fresh(bigquery_target: Target) -> BigQueryWarehouse:
    """A warehouse that no process has opened yet."""
    return BigQueryWarehouse(bigquery_target.settings())


def again(warehouse: BigQueryWarehouse, **more: Any) -> BigQueryWarehouse:
    """The same tables, opened by another process."""
    return BigQueryWarehouse(warehouse.jobs._settings, **more)


def fill(warehouse: BigQueryWarehouse, unit: Unit, rows: pa.Table | Path, **more: Any) -> UnitState:
    with warehouse.step("fill", "fill") as step:
        state = step.put(*unit, rows, **more)
        assert step.publish()
    return state


def ask(warehouse: BigQueryWarehouse, query: str, parameters: Mapping[str, Any] | None = None) -> list[dict[str, Any]]:
    with warehouse.reader() as reader:
        return list(reader.query(query, parameters).to_pylist())


def script(warehouse: BigQueryWarehouse, text: str) -> None:
    """Run a script, as another user of the tables would."""
    warehouse.jobs.run(Statement(text), dataset=warehouse.places.internal, labels={"step": "other"})


# --- tables --------------------------------------------------------------------------------------------------------------


def test_tables_are_made_from_tables_py(warehouse: BigQueryWarehouse) -> None:
    """Columns, types, descriptions, month partitions, clusters and labels come from tables.py. Access rights belong to datasets."""
    warehouse.make_ready()
    client, places = warehouse.jobs.client, warehouse.places
    for table in TABLES.values():
        found = client.get_table(f"{places.public if table.is_public else places.internal}.{table.name}")
        assert [(f.name, type_of(f), f.description) for f in found.schema] == [
            (c.name, c.type, c.meaning) for c in (*table.columns, WRITER)
        ]
        partitioning = found.time_partitioning and (found.time_partitioning.type_, found.time_partitioning.field)
        assert partitioning == (None if table.period_column is None else ("MONTH", table.period_column)), table.name
        wanted = [
            c
            for c in dict.fromkeys(("charge_date", *table.sort))
            if c in {x.name for x in table.columns if x.type not in ("FLOAT64", "ARRAY<STRING>")}
        ]
        assert (found.clustering_fields or []) == wanted[:4], table.name
        assert found.labels == {"runspend": "warehouse"}
        assert found.description.startswith(table.meaning) and table.grain.removeprefix("one row ") in found.description
        if table.is_public:
            view = client.get_table(f"{places.internal}.{table.name}")
            assert (view.table_type, [f.name for f in view.schema]) == ("VIEW", [c.name for c in table.columns])
    expirations = {name: client.get_dataset(name).default_table_expiration_ms for name in (places.public, places.internal, places.staging)}
    assert expirations == {places.public: None, places.internal: None, places.staging: DAY_MS}
    for described in VIEWS.values():
        for dataset in (places.public, places.internal):
            view = client.get_table(f"{dataset}.{described.name}")
            assert (view.table_type, [(f.name, type_of(f)) for f in view.schema]) == ("VIEW", [(c.name, c.type) for c in described.columns])
        view = client.get_table(places.table(described))
        assert [f.description for f in view.schema] == [c.meaning for c in described.columns]
        assert view.description.startswith(described.meaning)
    assert {item.table_id for item in client.list_tables(places.public)} == {t.name for t in TABLES.values() if t.is_public} | VIEWS.keys()
    assert {item.table_id for item in client.list_tables(places.internal)} >= {*TABLES, PUBLISHED.name}


def test_opening_makes_no_request() -> None:
    """A warehouse can be opened even if no server listens there."""
    nowhere = BigQueryWarehouse(WarehouseSettings(uri="bigquery://project/dataset", endpoint="http://127.0.0.1:9", credentials="anonymous"))
    assert nowhere.places.staging == "project.dataset_staging"
    nowhere.jobs.client._connection.API_BASE_URL  # noqa: B018 - a client is made, but no server is asked


@pytest.mark.parametrize(
    "uri", ["bigquery://project", "bigquery://project/data-set", "bigquery://pro ject/dataset", "bigquery://project/a/b"]
)
def test_an_invalid_address_is_refused(uri: str) -> None:
    with pytest.raises(ConfigError, match=r"Set warehouse\.uri to bigquery://project/dataset"):
        BigQueryWarehouse(WarehouseSettings(uri=uri))


def with_columns(table: Table, columns: Sequence[Column]) -> Table:
    return replace(table, columns=tuple(columns))


def test_a_new_column_is_added_and_is_null_in_old_rows(fresh: BigQueryWarehouse, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A public and an internal table get the column. Old rows keep their digests, and new rows fill the column."""
    units = [Unit("run_costs", "2026-10", "all"), Unit("experiments", "all", "prod")]
    before = [fill(fresh, unit, rows_of(TABLES[unit.table], period=unit.period)) for unit in units]
    for unit in units:
        table = TABLES[unit.table]
        monkeypatch.setitem(
            TABLES,
            unit.table,
            with_columns(table, (*table.columns, Column("new_cost", "BIGNUMERIC", "New."), Column("new_ids", "ARRAY<STRING>", "New too."))),
        )
    wider = again(fresh)
    with wider.reader() as reader:
        for unit, state in zip(units, before, strict=True):
            assert reader.query(
                f"select count(*) as n from {unit.table} where new_cost is null and array_length(new_ids) = 0"
            ).to_pylist() == [{"n": 50}]
            assert wider.states()[unit] == state
    rows = wider.read(units[0])
    assert rows is not None and rows.schema.equals(TABLES["run_costs"].arrow_schema()) and rows["new_cost"].null_count == 50
    file = wider.fetch(units[0], tmp_path)
    assert file is not None and pq.read_schema(file).equals(TABLES["run_costs"].arrow_schema())
    fill(wider, units[0], rows_of(TABLES["run_costs"], cost="2"))
    assert ask(wider, "select sum(new_cost) as c, max(new_ids[safe_offset(0)]) as i from run_costs") == [
        {"c": Decimal(100), "i": "new_ids 9"}
    ]
    fields = {f.name: f.description for f in wider.jobs.client.get_table(wider.places.table(TABLES["run_costs"])).schema}
    assert (fields["new_cost"], fields["new_ids"]) == ("New.", "New too.")


def test_former_names_and_values_are_replaced_in_place(fresh: BigQueryWarehouse, monkeypatch: pytest.MonkeyPatch) -> None:
    """Tables of the previous schema version get the current names and values with equal content, even if an update was started before."""
    for unit in former.UNITS:
        fill(fresh, unit, former.todays_rows(unit))
    before, states = former.contents(fresh.read), fresh.states()
    for table, names in RENAMED_COLUMNS.items():
        for now, name in names.items():
            script(fresh, f"alter table {quoted(fresh.places.table(TABLES[table]))} rename column {now} to {name}")
    for table, columns in VALUE_COLUMNS.items():
        for column in columns:
            script(fresh, f"update {quoted(fresh.places.table(TABLES[table]))} set {column} = 'unmatched' where {column} = 'unallocated'")
    extra = json.dumps({"schema_version": former.FORMER_VERSION, "schema": "another"})
    script(fresh, f"update {quoted(fresh.places.published)} set extra = '{extra}' where table_name = ''")
    with monkeypatch.context() as patched:
        patched.setattr("runspend.warehouse.bigquery.tables._rename_values", Mock(side_effect=RunspendError("killed")))
        with pytest.raises(RunspendError, match="killed"):  # after the renamed columns, before the renamed values
            again(fresh).make_ready()
    for _ in range(2):
        upgraded = again(fresh)
        upgraded.make_ready()
        assert former.contents(upgraded.read) == before
        assert upgraded.states() == states
    assert upgraded.head().extra["schema_version"] == SCHEMA_VERSION


def retyped(table: Table) -> Table:
    return with_columns(table, [replace(c, type="STRING") if c.name == "billed_cost" else c for c in table.columns])


def narrower(table: Table) -> Table:
    return with_columns(table, [c for c in table.columns if c.name != "billed_cost"])


def undated(table: Table) -> Table:
    return replace(table, period_column=None)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            retyped,
            r"column billed_cost is BIGNUMERIC and must be STRING.*run: alter table `[\w.-]+\.run_costs` alter column billed_cost set data type STRING",
        ),
        (
            narrower,
            r"it has a column billed_cost that this version does not know.*run: alter table `[\w.-]+\.run_costs` drop column billed_cost",
        ),
        (undated, r"it is partitioned by \w+ and must be by nothing.*run: alter table `[\w.-]+\.run_costs` rename to run_costs_old"),
    ],
)
def test_any_other_difference_is_refused_with_the_statement_to_run(
    warehouse: BigQueryWarehouse, monkeypatch: pytest.MonkeyPatch, change: Callable[[Table], Table], message: str
) -> None:
    """Runspend does not change such a table itself."""
    warehouse.make_ready()
    before, head = warehouse.jobs.client.get_table(warehouse.places.table(TABLES["run_costs"])), warehouse.head()
    monkeypatch.setitem(TABLES, "run_costs", change(TABLES["run_costs"]))
    with pytest.raises(ConfigError, match=message) as refused, again(warehouse).reader():
        pass
    assert "Nothing was changed" in str(refused.value)
    after = warehouse.jobs.client.get_table(warehouse.places.table(TABLES["run_costs"]))
    assert (after.schema, after.description, after.time_partitioning) == (before.schema, before.description, before.time_partitioning)
    assert warehouse.head() == head


def test_a_newer_warehouse_is_refused(fresh: BigQueryWarehouse) -> None:
    """Runspend neither reads nor writes a warehouse that a newer version wrote."""
    fresh.make_ready()
    extra = json.dumps({"schema_version": SCHEMA_VERSION + 1, "schema": "another"})
    script(fresh, f"update {quoted(fresh.places.published)} set extra = '{extra}' where table_name = ''")
    newer = again(fresh)
    for use in (
        newer.states,
        newer.reader().__enter__,
        newer.step("fill", "b").__enter__,
        lambda: newer.read(Unit("runs", "2026-10", "prod")),
    ):
        with pytest.raises(ConfigError, match=f"schema version {SCHEMA_VERSION + 1}.*Install the newer runspend. Nothing was changed"):
            use()


def test_an_empty_warehouse_has_every_table(warehouse: BigQueryWarehouse) -> None:
    """Opening creates all tables, with the types in tables.py, before there are rows."""
    with warehouse.reader() as reader:
        for table in TABLES.values():
            found = reader.query(f"select * from {table.name} where false").schema
            assert [(f.name, f.type) for f in found] == [(f.name, f.type) for f in table.arrow_schema()], table.name
        assert reader.query("select runspend_writer from billing_lines where false").schema.names == [WRITER.name]


def test_reading_states_of_nothing_makes_nothing(fresh: BigQueryWarehouse) -> None:
    """Reading states creates no datasets."""
    assert fresh.states() == {}
    assert fresh.read(Unit("runs", "2026-10", "prod")) is None
    assert not [item for item in fresh.jobs.client.list_datasets() if item.dataset_id.startswith(fresh.places.dataset)]


# --- units ---------------------------------------------------------------------------------------------------------------


def test_odd_values_come_back_as_they_were_put(warehouse: BigQueryWarehouse, month: str) -> None:
    """The values are Unicode, quotes, empty strings and lists, nulls in every column that is not a key, and the largest and smallest money."""
    rows = rows_of(LINES, period=month, count=len(ODD))
    money = [Decimal(text) for text in (f"{SMALLEST:f}", f"-{SMALLEST:f}", LARGEST, f"-{LARGEST}", "0", "0.1")] + [None]
    columns: dict[str, list[Any]] = {
        "service_name": ODD, "line_id": [f"{n} {text}" for n, text in enumerate(ODD)], "tags": [*ODD[:-1], None], "billed_cost": money,
        "group_keys": [ODD, [], [""], ["a,b", "c"], ["-"], [], ODD[:2]], "machine_memory_gb": [0.1, -0.0, 1e300, None, 5e-324, 1.0, 2.5],
        "charge_period_start": [dt.datetime(1, 1, 1, tzinfo=dt.timezone.utc), dt.datetime(9999, 12, 31, 23, 59, 59, 999999, dt.timezone.utc), *[None] * 5],
    }  # fmt: skip
    for name, values in columns.items():
        rows = rows.set_column(rows.column_names.index(name), name, pa.array(values, rows.schema.field(name).type))
    unit = Unit("billing_lines", month, "odd")
    fill(warehouse, unit, rows)
    found = warehouse.read(unit)
    assert found is not None
    key = [("line_id", "ascending")]
    assert found.sort_by(key).to_pylist() == rows.sort_by(key).to_pylist()


def test_a_nul_in_a_text_comes_back(warehouse: BigQueryWarehouse, month: str) -> None:
    """SQLite can store NUL characters, so names of runs may contain them."""
    rows = rows_of(TABLES["runs"], period=month, count=1)
    rows = rows.set_column(rows.column_names.index("run_name"), "run_name", pa.array(["a\0b"]))
    unit = Unit("runs", month, "prod")
    fill(warehouse, unit, rows)
    found = warehouse.read(unit)
    assert found is not None and found["run_name"].to_pylist() == ["a\0b"]


def test_writers_of_one_month_do_not_touch_each_other(warehouse: BigQueryWarehouse, month: str) -> None:
    """A writer puts, replaces, empties and drops only its own rows of one month. A unit without rows is still a unit."""
    units = {name: Unit("billing_lines", month, name) for name in ("aws", "gcp", "aws-2")}
    other = Unit("billing_lines", next(MONTHS), "aws")
    with warehouse.step("fill", "b1") as step:
        for name, unit in units.items():
            step.put(*unit, rows_of(LINES, period=month, source=name, count=10))
        step.put(*other, rows_of(LINES, period=other.period, source="other", count=7))
        assert step.publish()

    def count() -> dict[str, int]:
        found = ask(
            warehouse,
            "select source, count(*) as n from billing_lines where billing_period in (@a, @b) group by 1",
            {"a": first_of(month), "b": first_of(other.period)},
        )
        return {row["source"]: row["n"] for row in found}

    assert count() == {"aws": 10, "gcp": 10, "aws-2": 10, "other": 7}
    restated = fill(warehouse, units["aws"], rows_of(LINES, period=month, source="aws", cost="97.31", count=4))
    assert count() == {"aws": 4, "gcp": 10, "aws-2": 10, "other": 7}
    assert warehouse.states("billing_lines")[units["aws"]] == restated
    empty = fill(warehouse, units["gcp"], rows_of(LINES, period=month).slice(0, 0))
    assert count() == {"aws": 4, "aws-2": 10, "other": 7}
    assert warehouse.states("billing_lines")[units["gcp"]].rows == 0 == empty.rows
    found = warehouse.read(units["gcp"])
    assert found is not None and found.num_rows == 0 and found.schema.equals(LINES.arrow_schema())
    with warehouse.step("fill", "b2") as step:
        step.drop(*units["aws"])
        step.drop(*units["gcp"])
        step.drop("billing_lines", month, "never-there")
        assert step.publish()
    assert count() == {"aws-2": 10, "other": 7}
    assert {u for u in warehouse.states("billing_lines") if u.period == month} == {units["aws-2"]}
    assert warehouse.read(units["aws"]) is None


def test_the_digest_of_rows_that_were_put_is_the_folders(warehouse: BigQueryWarehouse, month: str, tmp_path: Path) -> None:
    """The digests are equal, so a copied warehouse is up to date."""
    rows, unit = rows_of(LINES, period=month), Unit("billing_lines", month, "aws")
    with ParquetWarehouse(tmp_path / "folder").step("fill", "fill") as step:
        wanted = step.put(*unit, rows)
    assert fill(warehouse, unit, rows) == wanted
    assert fill(warehouse, unit, rows.take([7, *range(7), *range(8, 50)])).digest == wanted.digest
    assert fill(warehouse, unit, rows.slice(1)).digest != wanted.digest


def test_a_unit_takes_another_name(warehouse: BigQueryWarehouse, month: str) -> None:
    """Runspend renames a writer by its whole name or by the beginning of its name. The same transaction removes the old unit."""
    table = TABLES["run_costs"]
    old, new = Unit("run_costs", month, "old"), Unit("run_costs", month, "new")
    rows = rows_of(table, period=month, count=4)
    names = {"tracking_server": ["old", "old", "older", "old"], "run_id": ["old/1", "old/", "x/old/2", "old"]}
    for name, values in names.items():
        rows = rows.set_column(rows.column_names.index(name), name, pa.array(values))
    fill(warehouse, old, rows, extra={"a": 1})
    with warehouse.step("rename", "renamed") as step:
        state = step.rename(old, "new", {"tracking_server": ("old", "n'ew"), "run_id": ("old/", "new/")}, extra={"b": 2})
        assert step.publish()
    assert (state.rows, state.extra, state.build_id) == (4, {"b": 2}, "renamed")
    states = warehouse.states("run_costs")
    assert states[new] == state and old not in states and warehouse.read(old) is None
    found = warehouse.read(new)
    assert found is not None
    assert sorted(zip(found["tracking_server"].to_pylist(), found["run_id"].to_pylist(), strict=True)) == [
        ("n'ew", "new/"),
        ("n'ew", "new/1"),
        ("n'ew", "old"),
        ("older", "x/old/2"),
    ]
    others = [c for c in table.content if c not in names]
    assert found.select(others).sort_by("run_name").equals(rows.select(others).sort_by("run_name"))


def test_leaving_without_publish_leaves_only_what_expires(warehouse: BigQueryWarehouse, month: str) -> None:
    """The end of the step removes staged rows, even after an error. A staging table that remains expires by itself."""
    unit = Unit("billing_lines", month, "aws")
    before = warehouse.head()

    def interrupted() -> None:
        with warehouse.step("fill", "b") as step:
            step.put(*unit, rows_of(LINES, period=month))
            raise KeyError

    with pytest.raises(KeyError):
        interrupted()
    with warehouse.step("fill", "b") as step:
        step.put(*unit, rows_of(LINES, period=month))
        step.drop("runs", month, "prod")
    assert (warehouse.head(), warehouse.read(unit)) == (before, None)
    assert ask(warehouse, "select count(*) as n from billing_lines where billing_period = @month", {"month": first_of(month)}) == [{"n": 0}]
    client = warehouse.jobs.client
    left = [item.reference for item in client.list_tables(warehouse.places.staging) if month.replace("-", "_") in item.table_id]
    assert len(left) == 1 and client.get_table(left[0]).expires is not None


# --- models and checks ---------------------------------------------------------------------------------------------------


def charges(
    warehouse: BigQueryWarehouse, sql: Path, month: str, models: list[Model], build_id: str = "b", checks: Sequence[str] = ()
) -> UnitState:
    with again(warehouse, models=sql, checks=sql).step("allocate", build_id) as step:
        step.run(models, {"period": first_of(month), "unused": 1})
        step.check(checks, {"period": first_of(month)})
        assert step.publish()
        return step.state(Unit("cost_allocations", month, "all"))


def step_datasets(warehouse: BigQueryWarehouse) -> list[str]:
    return [
        item.dataset_id for item in warehouse.jobs.client.list_datasets() if item.dataset_id.startswith(f"{warehouse.places.dataset}_step_")
    ]


def test_models_fill_units(warehouse: BigQueryWarehouse, month: str, sql: Path) -> None:
    """Models read published and staged rows. They fill a unit with the table's types and the build's id. Temporary tables end with the step."""
    fill(warehouse, Unit("billing_lines", month, "aws"), rows_of(LINES, period=month, count=20))
    (sql / "lines.sql").write_text("select * from billing_lines where billing_period = @period")
    (sql / "other_lines.sql").write_text("select * from lines where true")
    (sql / "cost_allocations.sql").write_text(COST_ALLOCATIONS.format(source="lines"))
    unit = Unit("cost_allocations", month, "all")
    with again(warehouse, models=sql, checks=sql).step("allocate", "build-7") as step:
        step.put("billing_lines", month, "gcp", rows_of(LINES, period=month, count=5, source="gcp", cost="0.0000000000000000000001"))
        step.run(
            [Model("lines"), Model("other_lines", makes="lines"), Model("cost_allocations", (month, "all"))], {"period": first_of(month)}
        )
        assert len(step_datasets(warehouse)) == 1
        state = step.state(unit)
        assert step.publish()
    assert step_datasets(warehouse) == []
    assert (state.rows, state.build_id) == (25, "build-7") and warehouse.states()[unit] == state
    rows = warehouse.read(unit)
    assert rows is not None and rows.schema.equals(TABLES["cost_allocations"].arrow_schema())
    assert set(rows["build_id"].to_pylist()) == {"build-7"}
    assert sum(rows["billed_cost"].to_pylist()) == 20 + 5 * SMALLEST
    order = list(zip(rows["charge_date"].to_pylist(), rows["target_id"].to_pylist(), strict=True))
    assert order == sorted(order)


def test_the_digest_of_models_is_of_their_content(warehouse: BigQueryWarehouse, month: str, sql: Path) -> None:
    """The digest is the same for another build, for shards, and for two models instead of one. Other rows have another digest."""
    fill(warehouse, Unit("billing_lines", month, "aws"), rows_of(LINES, period=month, count=20))
    (sql / "cost_allocations.sql").write_text(COST_ALLOCATIONS.format(source="billing_lines"))
    whole = charges(warehouse, sql, month, [Model("cost_allocations", (month, "all"))], "one")
    assert (
        charges(warehouse, sql, month, [Model("cost_allocations", (month, "all"), shard_by="resource_key")], "two").digest == whole.digest
    )
    for name, condition in (("cost_allocations", "machine_gpus < 3"), ("more", "machine_gpus >= 3")):
        (sql / f"{name}.sql").write_text(COST_ALLOCATIONS.format(source="billing_lines") + f" and {condition}")
    parts = [Model("cost_allocations", (month, "all")), Model("more", (month, "all"), fills="cost_allocations")]
    both = charges(warehouse, sql, month, parts, "three")
    assert (both.digest, both.rows) == (whole.digest, whole.rows)
    assert (
        len(
            {
                r["charge_id"]
                for r in ask(warehouse, "select charge_id from cost_allocations where billing_period = @m", {"m": first_of(month)})
            }
        )
        == 20
    )
    assert charges(warehouse, sql, month, parts[:1]).digest != whole.digest


def test_a_later_model_sees_what_an_earlier_one_staged(warehouse: BigQueryWarehouse, month: str, sql: Path) -> None:
    """It sees staged rows instead of published ones, does not see dropped rows, and sees rows added to staged ones."""
    unit = Unit("cost_allocations", month, "all")
    fill(warehouse, unit, rows_of(TABLES["cost_allocations"], period=month, count=9))
    fill(warehouse, Unit("billing_lines", month, "aws"), rows_of(LINES, period=month, count=6))
    fill(warehouse, Unit("billing_lines", month, "gcp"), rows_of(LINES, period=month, count=3))
    (sql / "cost_allocations.sql").write_text(COST_ALLOCATIONS.format(source="billing_lines"))
    (sql / "wrong.sql").write_text("select count(*) as n from cost_allocations where billing_period = @period having count(*) <> @rows")
    with again(warehouse, models=sql, checks=sql).step("allocate", "b") as step:
        for rows in (9, 6, 12):
            if rows == 6:
                step.drop("billing_lines", month, "gcp")
            if rows > 6:
                step.run([Model("cost_allocations", (month, "all"), fills="cost_allocations")], {"period": first_of(month)})
            elif rows == 6:
                step.run([Model("cost_allocations", (month, "all"))], {"period": first_of(month)})
            step.check(["wrong"], {"period": first_of(month), "rows": rows})


def test_a_check_that_saw_two_builds_supersedes(warehouse: BigQueryWarehouse, month: str, sql: Path) -> None:
    """Views show rows that others publish in the meantime. A check that fails then proves nothing, and the step publishes nothing."""
    lines, unit = Unit("billing_lines", month, "aws"), Unit("cost_allocations", month, "all")
    fill(warehouse, lines, rows_of(LINES, period=month))
    (sql / "cost_allocations.sql").write_text(COST_ALLOCATIONS.format(source="billing_lines"))
    (sql / "differs.sql").write_text(
        "select sum(billed_cost) as c from billing_lines where billing_period = @period having sum(billed_cost) <> (select sum(billed_cost) from cost_allocations where billing_period = @period)"
    )
    with again(warehouse, models=sql, checks=sql).step("allocate", "b") as step:
        step.run([Model("cost_allocations", (month, "all"))], {"period": first_of(month)})
        step.check(["differs"], {"period": first_of(month)})
        fill(warehouse, lines, rows_of(LINES, period=month, count=51))
        step.check(["differs"], {"period": first_of(month)})
        assert step.publish() is False
    assert unit not in warehouse.states()


def test_a_step_over_an_older_input_is_superseded(warehouse: BigQueryWarehouse, month: str) -> None:
    """If an input was changed, removed or added, the step publishes nothing."""
    lines, unit, other = Unit("billing_lines", month, "aws"), Unit("cost_daily", month, "all"), Unit("billing_lines", month, "gcp")
    read = fill(warehouse, lines, rows_of(LINES, period=month)).digest
    for inputs, is_published in (
        ({lines: "another"}, False),
        ({lines: None}, False),
        ({lines: read, other: "gone"}, False),
        ({lines: read, other: None}, True),
    ):
        with warehouse.step("allocate", "b") as step:
            step.put(*unit, rows_of(TABLES["cost_daily"], period=month))
            assert step.publish(inputs) is is_published
        assert (unit in warehouse.states()) is is_published


def test_a_model_may_not_have_the_name_of_a_table(warehouse: BigQueryWarehouse, sql: Path) -> None:
    (sql / "runs.sql").write_text("select 1 as a")
    with again(warehouse, models=sql).step("allocate", "b") as step, pytest.raises(ValueError, match="without `into`"):
        step.run([Model("runs")], {})


def test_datasets_of_killed_steps_are_swept(fresh: BigQueryWarehouse) -> None:
    """Runspend removes datasets older than the lifetime of their tables. It keeps younger ones, which a step may still use, and other datasets."""
    jobs, places = fresh.jobs, fresh.places
    killed, unlabelled = places.step("0123456789abcdef"), places.step("fedcba9876543210")
    others = (places.public, f"{places.public}_stepson", places.step("functions"), places.step("0123456789abcdef_internal"))
    make_dataset(jobs, killed, None, step="allocate")
    make_dataset(jobs, unlabelled, None)
    for name in others:
        make_dataset(jobs, name, None, step="allocate")
    script(fresh, f"create table `{killed}.t` as select 1 as a")

    def there() -> set[str]:
        return {item.dataset_id for item in jobs.client.list_datasets()}

    now = dt.datetime.now(dt.timezone.utc)
    sweep_steps(jobs, places, now - dt.timedelta(days=1))
    assert killed.rpartition(".")[2] in there()
    sweep_steps(jobs, places, now + dt.timedelta(minutes=5))
    assert killed.rpartition(".")[2] not in there()
    assert there() >= {name.rpartition(".")[2] for name in (unlabelled, *others)}


# --- jobs ----------------------------------------------------------------------------------------------------------------


def jobs_since(warehouse: BigQueryWarehouse, moment: dt.datetime) -> list[Any]:
    """Return the jobs of this warehouse in the project, oldest first."""
    found = [
        job for job in warehouse.jobs.client.list_jobs(min_creation_time=moment) if job.created >= moment
    ]  # the emulator lists all jobs
    return sorted(
        (job for job in found if warehouse.places.dataset in repr(job.to_api_repr()["configuration"])), key=lambda job: job.created
    )


@pytest.fixture
def since() -> dt.datetime:
    return dt.datetime.now(dt.timezone.utc)


def loads(warehouse: BigQueryWarehouse, since: dt.datetime, month: str) -> list[str]:
    return [job.job_id for job in jobs_since(warehouse, since) if job.job_type == "load" and month in job.job_id.replace("_", "-")]


def test_the_same_rows_go_up_once(warehouse: BigQueryWarehouse, month: str, since: dt.datetime) -> None:
    """A load's id contains step, unit and content. So the same rows find the finished job, and other rows get a new job."""
    unit, rows = Unit("billing_lines", month, "aws"), rows_of(LINES, period=month)
    for _ in range(2):
        with warehouse.step("fill", "fill") as step:
            step.put(*unit, rows)
    fill(again(warehouse), unit, rows)
    [first] = loads(warehouse, since, month)
    assert re.fullmatch(rf"runspend-fill-billing_lines_{month.replace('-', '_')}_aws-[0-9a-f]{{24}}-1", first)
    fill(warehouse, unit, rows_of(LINES, period=month, cost="2"))
    assert len(loads(warehouse, since, month)) == 2
    assert warehouse.states()[unit].rows == 50


def test_rows_that_are_already_there_are_not_sent_again(warehouse: BigQueryWarehouse, month: str, since: dt.datetime) -> None:
    """Runspend uploads and swaps nothing if the rows differ only in their load id. It does if other values or the unit's metadata differ."""
    unit, table = Unit("runs", month, "prod"), TABLES["runs"]
    first = fill(warehouse, unit, rows_of(table, period=month, build_id="one"), extra={"last": "1"})
    number, sent = warehouse.head().number, len(loads(warehouse, since, month))
    with warehouse.step("fill", "later") as step:
        assert step.put(*unit, rows_of(table, period=month, build_id="two"), extra={"last": "1"}) == first
        assert step.state(unit) == first
        assert step.publish({unit: first.digest})
    assert (warehouse.head().number, len(loads(warehouse, since, month))) == (number, sent)
    assert {
        row["load_id"] for row in ask(warehouse, "select load_id from runs where start_month = @month", {"month": first_of(month)})
    } == {"one"}
    assert fill(warehouse, unit, rows_of(table, period=month, build_id="two"), extra={"last": "2"}) != first
    assert len(loads(warehouse, since, month)) == sent + 1


def test_rows_that_are_already_there_must_still_be_there_at_the_end(warehouse: BigQueryWarehouse, month: str) -> None:
    """Another writer replaced the rows that the step had skipped as equal. The step uploads them after all, unless the unit was to stay as it was."""
    unit, other = Unit("runs", month, "prod"), Unit("run_resources", month, "prod")
    first = fill(warehouse, unit, rows_of(TABLES["runs"], period=month))
    for count, inputs, is_published in ((3, {unit: first.digest}, False), (4, {}, True)):
        fill(again(warehouse), unit, rows_of(TABLES["runs"], period=month))
        with warehouse.step("fill", "later") as step:
            step.put(*unit, rows_of(TABLES["runs"], period=month))
            step.put(*other, rows_of(TABLES["run_resources"], period=month))
            fill(again(warehouse), unit, rows_of(TABLES["runs"], period=month, count=count))
            assert step.publish(inputs) == is_published
        assert (other in warehouse.states()) == is_published
        assert warehouse.states()[unit].rows == (50 if is_published else count)


def test_rows_whose_digest_does_not_identify_them_are_sent_again(warehouse: BigQueryWarehouse, month: str, since: dt.datetime) -> None:
    """The digest of a bill covers its lines, but not the way they were read. The digest of a source does not cover its times."""
    for table in ("billing_lines", "sources"):
        unit = Unit(table, month if TABLES[table].period_column else "all", f"aws{month}")
        fill(warehouse, unit, rows_of(TABLES[table], period=unit.period))
        before = warehouse.head().number
        fill(warehouse, unit, rows_of(TABLES[table], period=unit.period))
        assert warehouse.head().number == before + 1


def test_a_load_whose_table_is_gone_is_sent_again_under_the_next_id(warehouse: BigQueryWarehouse, month: str, since: dt.datetime) -> None:
    """The staging table of a finished job has expired, so the job is of no further use."""
    unit, rows = Unit("billing_lines", month, "aws"), rows_of(LINES, period=month)
    for number in (1, 2):
        with warehouse.step("fill", "fill") as step:
            step.put(*unit, rows)
        assert [job_id[-2:] for job_id in loads(warehouse, since, month)] == [f"-{n}" for n in range(1, number + 1)]
        table = loads(warehouse, since, month)[-1].replace("-", "_")
        warehouse.jobs.client.delete_table(f"{warehouse.places.staging}.{table}")
    fill(warehouse, unit, rows)
    assert warehouse.states()[unit].rows == 50


def test_a_load_that_failed_is_sent_again_under_the_next_id(
    warehouse: BigQueryWarehouse, month: str, since: dt.datetime, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A failed job leaves no table, and BigQuery does not accept its id again."""
    unit, rows, load = Unit("billing_lines", month, "aws"), rows_of(LINES, period=month), Jobs.load

    def damaged(self: Jobs, file: Path, *rest: Any) -> Any:
        (file.parent / "damaged").write_bytes(b"PAR1 and nothing more")
        return load(self, file.parent / "damaged", *rest)

    with warehouse.step("fill", "fill") as step:
        monkeypatch.setattr(Jobs, "load", damaged)
        with pytest.raises(RunspendError, match="Parquet"):
            step.put(*unit, rows)
        monkeypatch.undo()
        step.put(*unit, rows)
        assert step.publish()
    assert [job_id[-2:] for job_id in loads(warehouse, since, month)] == ["-1", "-2"]
    assert warehouse.states()[unit].rows == 50


def test_a_staging_table_with_other_rows_is_refused(warehouse: BigQueryWarehouse, month: str, since: dt.datetime) -> None:
    """Runspend counts the loaded rows before the swap."""
    unit, rows = Unit("billing_lines", month, "aws"), rows_of(LINES, period=month)
    with warehouse.step("fill", "fill") as step:
        step.put(*unit, rows)
    table = quoted(f"{warehouse.places.staging}.{loads(warehouse, since, month)[0].replace('-', '_')}")
    script(warehouse, f"insert into {table} select * from {table} where line_id = 'line_id 0'")
    with (
        warehouse.step("fill", "fill") as step,
        pytest.raises(RunspendError, match=r"has 51 rows, but 50 were sent\. Nothing was changed"),
    ):
        step.put(*unit, rows)


def test_every_job_has_a_label_and_a_cost_limit(warehouse: BigQueryWarehouse, month: str, sql: Path, since: dt.datetime) -> None:
    """Labels name product, step and month. No query may read more than the settings allow."""
    (sql / "cost_allocations.sql").write_text(COST_ALLOCATIONS.format(source="billing_lines"))
    fill(warehouse, Unit("billing_lines", month, "aws"), rows_of(LINES, period=month, count=5))
    charges(warehouse, sql, month, [Model("cost_allocations", (month, "all"))])
    ask(warehouse, "select 1 as a")
    found = jobs_since(warehouse, since)
    assert {job.labels.get("runspend") for job in found} == {"warehouse"}
    assert {job.labels.get("step") for job in found} >= {"fill", "allocate", "read"}
    assert {job.labels.get("period") for job in found if job.job_type == "load"} == {month}
    assert month in {job.labels.get("period") for job in found if job.job_type == "query" and job.labels["step"] == "allocate"}
    limit = int(warehouse.jobs._settings.maximum_bytes_billed)
    queries = [
        job
        for job in found
        if job.job_type == "query" and job.statement_type not in ("SCRIPT", "BEGIN_TRANSACTION", "ROLLBACK_TRANSACTION")
    ]
    assert len(queries) >= 5 and {job.maximum_bytes_billed for job in queries} == {limit}


# --- readers -------------------------------------------------------------------------------------------------------------

FORBIDDEN = [
    "insert into runs select * from runs",
    "delete from runs where true",
    "drop table runs",
    "create table x as select 1 as a",
    "create or replace view runs as select 1 as a",
    "select 1; select 2",
    "begin transaction; delete from runs where true; commit transaction;",
    "declare x int64 default 1; select x;",
    "call bq.abort_session()",
    "commit transaction",
    "truncate table runs",
    "selekt 1",
]


@pytest.mark.parametrize("native", [False, True])
@pytest.mark.parametrize("statement", FORBIDDEN)
def test_people_cannot_write(warehouse: BigQueryWarehouse, statement: str, native: bool) -> None:
    """SQL from users must be one SELECT."""
    before = warehouse.head()
    with warehouse.reader() as reader, pytest.raises(UsageError):
        reader.query(statement, native=native)
    with pytest.raises(UsageError):
        warehouse.answer(statement, native=native, timeout=60)
    assert warehouse.head() == before


def test_an_answer_may_be_limited_to_its_first_rows(warehouse: BigQueryWarehouse, month: str) -> None:
    """A server then holds no more rows than it sends."""
    fill(warehouse, Unit("billing_lines", month, "aws"), rows_of(LINES, period=month, cost="0.3333333333333333333333"))
    statement = f"select line_id, billed_cost from billing_lines where billing_period = date '{month}-01' order by line_id"
    whole = warehouse.answer(statement, timeout=60)
    assert whole.num_rows == 50
    assert warehouse.answer(statement, timeout=60, at_most=7).equals(whole.slice(0, 7))
    assert warehouse.answer(statement, timeout=60, at_most=50).equals(whole)


def test_queries_accept_every_kind_of_parameter(warehouse: BigQueryWarehouse, month: str) -> None:
    """Callers pass every kind of parameter. A missing parameter is named in the error, a surplus one is not sent, and money is exact."""
    fill(warehouse, Unit("billing_lines", month, "aws"), rows_of(LINES, period=month, cost="0.3333333333333333333333"))
    with warehouse.reader() as reader:
        total = reader.query(
            "select sum(billed_cost) as c, countif(true) as n from billing_lines where billing_period = @month",
            {"month": first_of(month), "unused": 1},
        )
        assert total.schema.types == [pa.decimal128(38, 22), pa.int64()]
        assert total.to_pylist() == [{"c": Decimal("16.6666666666666666666650"), "n": 50}]
        assert reader.query(
            "select count(*) as n from billing_lines where billing_period = @month", {"month": first_of(month)}, native=True
        ).to_pylist() == [{"n": 50}]
        with pytest.raises(UsageError, match="no value for @month"):
            reader.query("select @month")
        moment = dt.datetime(2026, 10, 1, 12, 30, 0, 1, tzinfo=dt.timezone.utc)
        given: dict[str, Any] = {
            "word": "it's\n\"ä\\ @month", "number": -(2**62), "flag": True, "day": first_of(month), "moment": moment, "money": SMALLEST, "share": 0.1, "words": ["a", "b'"],
        }  # fmt: skip
        sql = "select @word as word, @number as number, @flag as flag, @day as day, @moment as moment, @money as money, @share as share, @words as words"
        assert reader.query(sql, given).to_pylist() == [given]


def test_a_question_that_fails_ends_the_moment(warehouse: BigQueryWarehouse) -> None:
    """A later query of this reader could see another snapshot, so the reader refuses it. A new reader answers it."""
    with warehouse.reader() as reader:
        with pytest.raises(RunspendError, match=r"[Dd]ivision"):
            reader.query("select div(1, 0) as a from (select 1)")
        with pytest.raises(RunspendError, match="Open another reader"):
            reader.query("select 1 as a")
    assert ask(warehouse, "select 1 as a") == [{"a": 1}]


def test_money_goes_up_as_bignumeric(warehouse: BigQueryWarehouse, month: str, since: dt.datetime) -> None:
    """Without this type, BigQuery stores a Parquet file's decimals as NUMERIC and refuses more than nine decimal places."""
    fill(warehouse, Unit("billing_lines", month, "aws"), rows_of(LINES, period=month))
    [job] = [job for job in jobs_since(warehouse, since) if job.job_type == "load"]
    assert job.to_api_repr()["configuration"]["load"]["decimalTargetTypes"] == ["BIGNUMERIC"]


def test_rows_come_in_batches(warehouse: BigQueryWarehouse, month: str) -> None:
    """A reader returns all rows, at most the requested number at a time, with exact money."""
    fill(warehouse, Unit("billing_lines", month, "aws"), rows_of(LINES, period=month, cost="0.3333333333333333333333"))
    with warehouse.reader() as reader:
        batches = list(
            reader.batches(
                "select line_id, billed_cost from billing_lines where billing_period = @month", {"month": first_of(month)}, rows=20
            )
        )
    assert max(batch.num_rows for batch in batches) <= 20
    rows = pa.Table.from_batches(batches)
    assert rows.schema.field("billed_cost").type == pa.decimal128(38, 22)
    assert sorted(rows["line_id"].to_pylist()) == sorted(f"line_id {n}" for n in range(50))


def test_a_reader_sees_one_moment(warehouse: BigQueryWarehouse, month: str, tmp_path: Path) -> None:
    """All its answers, states and fetched files are from the moment of its first query. Writers do not wait for it."""
    unit = Unit("billing_lines", month, "aws")
    old = fill(warehouse, unit, rows_of(LINES, period=month))
    query = "select max(billed_cost) as c, count(*) as n from billing_lines where billing_period = @month"
    with warehouse.reader() as reader:
        before = reader.query(query, {"month": first_of(month)}).to_pylist()
        new = fill(again(warehouse), unit, rows_of(LINES, period=month, cost="2", count=60))
        assert reader.query(query, {"month": first_of(month)}).to_pylist() == before == [{"c": Decimal(1), "n": 50}]
        assert warehouse.states()[unit] == old
        file = warehouse.fetch(unit, tmp_path)
        assert file is not None and pq.read_table(file)["billed_cost"].to_pylist() == [Decimal(1)] * 50
        with again(warehouse).reader() as other:
            assert other.query(query, {"month": first_of(month)}).to_pylist() == [{"c": Decimal(2), "n": 60}]
    assert warehouse.states()[unit] == new


def test_publishing_inside_a_reader_does_not_disturb_it(warehouse: BigQueryWarehouse, month: str) -> None:
    """A folder refuses this, because the lock would wait for itself. BigQuery has no such lock."""
    unit = Unit("billing_lines", month, "aws")
    with warehouse.reader() as reader:
        assert reader.query("select 1 as a").to_pylist() == [{"a": 1}]
        new = fill(warehouse, unit, rows_of(LINES, period=month))
        assert unit not in warehouse.states()
    assert warehouse.states()[unit] == new


def test_money_in_one_currency_is_the_folders(bigquery_target: Target, tmp_path: Path) -> None:
    """Reports and users' queries in one currency return a folder's rows to the last decimal, at once and in batches.

    The reference implementation checks the other queries.
    """
    run_on_duckdb(exchange.world(), tmp_path)
    summarize_on_duckdb(tmp_path)
    folder, copied = ParquetWarehouse(tmp_path), BigQueryWarehouse(bigquery_target.settings())
    with copied.step("fill", "b") as step:
        for unit in folder.states():
            step.put(*unit, folder.read(unit))
        assert step.publish()
    with folder.reader() as one, copied.reader() as other:
        here, there = one.in_currency("USD", exchange.RATES), other.in_currency("USD", exchange.RATES)
        for name in ("cost_allocations", "run_costs", "two tables", "unallocated"):
            sql = exchange.QUESTIONS[name]
            given = {key: value for key, value in exchange.MONTH.items() if f"@{key}" in sql}
            wanted, found = here.query(sql, given), there.query(sql, given)
            assert found.column_names == wanted.column_names, name
            assert exact_rows(found.to_pylist()) == exact_rows(wanted.to_pylist()), name
        batches = [batch.to_pylist() for batch in there.batches(exchange.TWICE, rows=1)]
        assert exact_rows([row for batch in batches for row in batch]) == exact_rows(here.query(exchange.TWICE).to_pylist())
        assert here.query("select count(*) as n from cost_allocations where billing_currency = 'USD'").to_pylist()[0]["n"] > 20


def test_a_query_that_reads_too_much_is_refused(warehouse: BigQueryWarehouse, month: str) -> None:
    """The error names the setting that allows more."""
    fill(warehouse, Unit("billing_lines", month, "aws"), rows_of(LINES, period=month))
    settings = WarehouseSettings(**{**warehouse.jobs._settings.model_dump(), "maximum_bytes_billed": 1})
    with BigQueryWarehouse(settings).reader() as reader, pytest.raises(ConfigError, match=r"warehouse\.maximum_bytes_billed"):
        reader.query("select max(billed_cost) as c from billing_lines")


@only_real
def test_a_month_reads_a_month(warehouse: BigQueryWarehouse, month: str) -> None:
    """BigQuery prunes partitions of internal tables, and of public tables through their views."""
    other = next(MONTHS)
    for table in (LINES, TABLES["run_costs_daily"]):
        for period in (month, other):
            fill(warehouse, Unit(table.name, period, "all"), rows_of(table, period=period))
        with warehouse.reader() as reader:
            one, all_ = (
                reader.cost_of(f"select * from {table.name} where {table.period_column} {which}")
                for which in (f"= date '{month}-01'", "is not null")
            )
        assert 0 < one < all_
