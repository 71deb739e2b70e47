"""What every step may rely on: whole units, one build, exact types, the same rows in one piece or in shards."""

from __future__ import annotations

import datetime as dt
import json
import os
import random
import signal
import threading
import time
from decimal import Decimal
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from runspend.core.errors import ConfigError, RunspendError, UsageError, WarehouseDamaged
from runspend.schema import tables
from runspend.schema.tables import TABLES
from runspend.warehouse.base import Model, Unit
from runspend.warehouse.factory import open_warehouse
from runspend.warehouse.parquet import made_tables, pins
from runspend.warehouse.parquet import shards as shards_module
from runspend.warehouse.parquet import snapshots as moments
from runspend.warehouse.parquet.journal import write_json
from runspend.warehouse.parquet.repair import mend_folder
from runspend.warehouse.parquet.verification import seal
from runspend.warehouse.parquet.warehouse import ParquetWarehouse
from tests import former_schema as former
from tests.faults.world import PERIOD, rows_of, with_new_column
from tests.forked import run_forked
from tests.warehouse.cost_allocations_model import COST_ALLOCATIONS

REPOSITORY = Path(__file__).parents[3]
LINES = TABLES["billing_lines"]
MONTH = dt.date(2026, 10, 1)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return tmp_path / "warehouse"


def fill(root: Path, rows: pa.Table, *, table: str = "billing_lines", period: str = PERIOD, writer: str = "aws") -> str:
    with ParquetWarehouse(root).step("fill", "fill") as step:
        state = step.put(table, period, writer, rows)
        assert step.publish()
    return state.digest


def ask(root: Path, query: str) -> list[dict[str, object]]:
    with ParquetWarehouse(root).reader() as reader:
        return list(reader.query(query).to_pylist())


# --- units ---------------------------------------------------------------------------------------------------------------


def test_layout_and_state(root: Path) -> None:
    """A unit is one file where the design says; its state tells rows, build and extra facts without reading it."""
    with ParquetWarehouse(root).step("fill", "b1") as step:
        staged = step.put("billing_lines", PERIOD, "aws", rows_of(LINES), extra={"last": "2026-10-31"})
        step.put("runs", PERIOD, "prod", rows_of(TABLES["runs"]))
        step.put("experiments", "all", "prod", rows_of(TABLES["experiments"], period="all"))
        assert step.state(Unit("billing_lines", PERIOD, "aws")) == staged
        assert step.publish()
    files = sorted(str(p.relative_to(root)) for p in root.rglob("*.parquet"))
    assert files == [
        "_internal/billing_lines/period=2026-10/aws.parquet",
        "_internal/experiments/period=all/prod.parquet",
        "runs/period=2026-10/prod.parquet",
    ]
    states = open_warehouse(str(root)).states("billing_lines")
    assert states == {Unit("billing_lines", PERIOD, "aws"): staged}
    assert (staged.rows, staged.build_id, staged.extra) == (50, "b1", {"last": "2026-10-31"})


def test_digest_is_of_content_only(root: Path) -> None:
    """Row order and bookkeeping change nothing; a value in any content column, a doubled or a missing row does."""
    table = TABLES["cost_allocations"]
    rows = rows_of(table)
    digest = fill(root, rows, table=table.name)
    shuffled = rows.take(random.Random(1).sample(range(50), 50))
    rebuilt = shuffled.set_column(rows.schema.get_field_index("build_id"), "build_id", pa.array(["other"] * 50))
    assert fill(root, rebuilt, table=table.name) == digest
    assert fill(root, rows.slice(1), table=table.name) != digest
    assert fill(root, pa.concat_tables([rows, rows.slice(0, 1), rows.slice(0, 1)]), table=table.name) != digest
    for index, name in enumerate(table.content):
        if name == table.period_column:
            continue
        changed = rows.column(name).to_pylist()
        changed[7] = None
        assert (
            fill(
                root,
                rows.set_column(rows.column_names.index(name), name, pa.array(changed, rows.schema.field(name).type)),
                table=table.name,
            )
            != digest
        ), index


def test_digest_of_known_rows_is_pinned(root: Path) -> None:
    """Digests are kept in `builds`: an engine that hashes otherwise makes every month look changed. Say so in CHANGELOG.md when this fails."""
    assert fill(root, rows_of(TABLES["cost_daily"], count=3), table="cost_daily") == PINNED


PINNED = "fa32db2f4ac542d0c184a147763ec7f69f190d6fc42b88722ae3d0727aa0bf1a"


def test_leaving_without_publish_changes_nothing(root: Path) -> None:
    """Staged rows are thrown away with the step."""
    with ParquetWarehouse(root).step("fill", "b") as step:
        step.put("billing_lines", PERIOD, "aws", rows_of(LINES))
    assert ParquetWarehouse(root).states() == {}
    assert [p for p in root.rglob("*") if p.is_file() and p.name not in ("lock", "turn")] == []


def test_an_error_in_a_step_changes_nothing(root: Path) -> None:
    """So does an exception."""
    before = fill(root, rows_of(LINES))

    def interrupted() -> None:
        with ParquetWarehouse(root).step("fill", "b") as step:
            step.put("billing_lines", PERIOD, "aws", rows_of(LINES, cost="2"))
            raise KeyError

    with pytest.raises(KeyError):
        interrupted()
    assert {s.digest for s in ParquetWarehouse(root).states().values()} == {before}
    assert list((root / "_runspend" / "stage").iterdir()) == []


# --- readers -------------------------------------------------------------------------------------------------------------


def test_an_empty_warehouse_has_every_table(root: Path) -> None:
    """Tables nothing was published into are empty, in the types of tables.py; reading makes no folder."""
    with ParquetWarehouse(root).reader() as reader:
        for table in TABLES.values():
            assert reader.query(f"select * from {table.name}").schema.equals(table.arrow_schema())
    assert ParquetWarehouse(root).states() == {}
    assert not root.exists()


FORBIDDEN = [
    "insert into runs select * from runs",
    "drop view runs",
    "create table x as select 1",
    "copy (select 1 as a) to '{file}' (format parquet)",
    "export database '{file}'",
    "attach '{file}'",
    "install httpfs",
    "load httpfs",
    "set threads = 1",
    "select 1; select 2",
    "select * from read_text('{secret}')",
    "select * from read_csv('{secret}')",
    "select * from glob('{folder}/*')",
    "select * from '{secret}'",
    "select * from secret_rows",
]


@pytest.mark.parametrize("native", [False, True])
@pytest.mark.parametrize("statement", FORBIDDEN)
def test_people_cannot_write_or_look_outside(root: Path, tmp_path: Path, statement: str, native: bool) -> None:
    """SQL from people reads the warehouse's tables and nothing else; no file appears or changes."""
    fill(root, rows_of(LINES))
    secret_rows = pa.table({"a": [1]})
    secret = tmp_path / "secret.csv"
    secret.write_text("a\n1\n")
    before = {p: p.stat().st_mtime_ns for p in tmp_path.rglob("*") if p.is_file()}
    with pytest.raises(UsageError):
        ParquetWarehouse(root).answer(statement.format(file=tmp_path / "out", secret=secret, folder=tmp_path), native=native)
    assert {p: p.stat().st_mtime_ns for p in tmp_path.rglob("*") if p.is_file()} == before
    assert secret_rows.num_rows == 1


def test_a_warehouse_behind_a_link(root: Path, tmp_path: Path) -> None:
    """A folder that is reached through a symbolic link, or has a quote in its name, reads like any other."""
    odd = tmp_path / "it's here"
    odd.mkdir()
    link = tmp_path / "link"
    link.symlink_to(odd)
    for place in (odd, link, link / ".." / "link"):
        fill(place, rows_of(LINES))
        assert ask(place, "select count(*) as n from billing_lines") == [{"n": 50}]


def test_native_sql_is_optional_and_missing_parameters_are_named(root: Path) -> None:
    """GoogleSQL by default, DuckDB's own on request; both take parameters, and a missing one is named."""
    fill(root, rows_of(LINES, cost="0.3333333333333333333333"))
    with ParquetWarehouse(root).reader() as reader:
        total = reader.query(
            "select sum(billed_cost) as c, countif(true) as n from billing_lines where billing_period = @month",
            {"month": MONTH, "unused": 1},
        )
        assert total.schema.types == [pa.decimal128(38, 22), pa.int64()]
        assert total.to_pylist() == [{"c": Decimal("16.6666666666666666666650"), "n": 50}]
        assert reader.query(
            "select count(*)::int as n from billing_lines where billing_period = $month", {"month": MONTH}, native=True
        ).to_pylist() == [{"n": 50}]
        with pytest.raises(UsageError, match="no value for @month"):
            reader.query("select @month")


def test_publishing_inside_a_reader_does_not_wait(root: Path) -> None:
    """The reader holds no lock. It still sees its build, and so do other reads of its thread."""
    fill(root, rows_of(LINES))
    warehouse, unit = ParquetWarehouse(root), Unit("billing_lines", PERIOD, "aws")
    before = warehouse.states()[unit]
    with warehouse.reader() as reader:
        after = fill(root, rows_of(LINES, cost="2", count=20))
        assert after != before.digest
        assert warehouse.states()[unit] == before
        assert reader.query("select max(billed_cost) as c from billing_lines").to_pylist() == [{"c": Decimal("1.0000000000000000000000")}]
        rows, file = warehouse.read(unit), warehouse.fetch(unit, root)
        assert rows is not None and file is not None and pq.read_table(file).equals(rows)
        assert set(rows["billed_cost"].to_pylist()) == {Decimal("1.0000000000000000000000")}
    assert warehouse.states()[unit].digest == after


@pytest.mark.parametrize("way", ["descriptors", "second names", "many descriptors"])
def test_a_reader_keeps_its_build_while_another_publishes(root: Path, way: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A publish does not wait for the reader, and the reader's answers do not change, in whichever way its files are kept."""
    if way != "descriptors":
        monkeypatch.setattr(pins, "FEW", 0)
    if way == "many descriptors":
        monkeypatch.setattr(moments, "pin_by_link", lambda *_: None)
    fill(root, rows_of(LINES))
    fill(root, rows_of(TABLES["runs"]), table="runs")
    with ParquetWarehouse(root).reader() as reader:
        other = threading.Thread(target=fill, args=(root, rows_of(LINES, cost="2")))
        other.start()
        other.join(timeout=10)
        assert not other.is_alive()
        for _ in range(2):
            assert reader.query("select max(billed_cost) as c from billing_lines").to_pylist() == [
                {"c": Decimal("1.0000000000000000000000")}
            ]
        assert reader.query("select count(*) as n from runs").to_pylist() == [{"n": 50}]
    assert ask(root, "select max(billed_cost) as c from billing_lines") == [{"c": Decimal("2.0000000000000000000000")}]
    assert not list((root / "_runspend" / "stage").iterdir())


def test_a_reader_that_keeps_the_lock_blocks_publishers_for_a_limited_time(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where files cannot be kept the lock is held, until a deadline: then what it asks is stopped, and a sentence says why."""
    monkeypatch.setattr(pins, "FEW", 0)
    monkeypatch.setattr(moments, "pin_by_link", lambda *_: None)
    monkeypatch.setattr(moments, "room_for_descriptors", lambda: 0)
    monkeypatch.setattr(moments, "HOLD", 1.5)
    fill(root, rows_of(LINES))
    other = threading.Thread(target=fill, args=(root, rows_of(LINES, cost="2")))
    with ParquetWarehouse(root).reader() as reader:
        other.start()
        other.join(timeout=0.5)
        assert other.is_alive()
        assert reader.query("select max(billed_cost) as c from billing_lines").to_pylist() == [{"c": Decimal("1.0000000000000000000000")}]
        with pytest.raises(RunspendError, match=r"publishers waited 1.5 s for it"):
            reader.query("select count(*) as n from range(100000) a, range(100000) b, range(1000) c", native=True)
        with pytest.raises(RunspendError, match="cannot continue reading"):
            reader.query("select 1 as one")
        other.join(timeout=10)
        assert not other.is_alive()
        assert ask(root, "select max(billed_cost) as c from billing_lines") == [{"c": Decimal("2.0000000000000000000000")}]


def test_a_reader_that_holds_the_lock_and_its_thread_do_not_wait_for_each_other(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """While a publisher waits at the turnstile for this reader, the reader's own thread may open the warehouse again."""
    monkeypatch.setattr(pins, "FEW", 0)
    monkeypatch.setattr(moments, "pin_by_link", lambda *_: None)
    monkeypatch.setattr(moments, "room_for_descriptors", lambda: 0)
    fill(root, rows_of(LINES))
    other = threading.Thread(target=fill, args=(root, rows_of(LINES, cost="2")))
    with ParquetWarehouse(root).reader():
        other.start()
        time.sleep(0.5)
        assert ask(root, "select count(*) as n from billing_lines") == [{"n": 50}]
        with pytest.raises(RunspendError, match="Close the reader first"):
            fill(root, rows_of(LINES, cost="3"))
    other.join(timeout=10)
    assert not other.is_alive()


def test_a_bit_flip_is_found(root: Path) -> None:
    """`verify` names the unit whose file is not what was published, wherever the bit is."""
    fill(root, rows_of(LINES))
    fill(root, rows_of(TABLES["runs"]), table="runs")
    warehouse = ParquetWarehouse(root)
    unit = Unit("billing_lines", PERIOD, "aws")
    path = warehouse.path(unit)
    data = path.read_bytes()
    moments = random.Random(5)
    for _ in range(200):
        flipped = bytearray(data)
        flipped[moments.randrange(len(data))] ^= 1 << moments.randrange(8)
        path.write_bytes(flipped)
        assert list(warehouse.find_damage()) == [unit]
    path.write_bytes(data)
    assert warehouse.find_damage() == {}


# --- models and checks ---------------------------------------------------------------------------------------------------


def charges(root: Path, sql: Path, models: list[Model], build_id: str = "b", checks: list[str] | None = None) -> str:
    with ParquetWarehouse(root, models=sql, checks=sql).step("allocate", build_id) as step:
        step.run(models, {"period": MONTH})
        step.check(checks or [], {"period": MONTH})
        assert step.publish()
        return step.state(Unit("cost_allocations", PERIOD, "all")).digest


def test_a_model_fills_a_unit(root: Path, sql: Path) -> None:
    """Rows of a model are written in the table's types and order; the warehouse adds the build id."""
    fill(root, rows_of(LINES))
    (sql / "lines.sql").write_text("select * from billing_lines")
    (sql / "cost_allocations.sql").write_text(COST_ALLOCATIONS.format(source="lines"))
    charges(root, sql, [Model("lines"), Model("cost_allocations", (PERIOD, "all"))], "build-7")
    unit = Unit("cost_allocations", PERIOD, "all")
    rows = ParquetWarehouse(root).read(unit)
    assert rows is not None
    assert set(rows["build_id"].to_pylist()) == {"build-7"}
    order = list(zip(rows["charge_date"].to_pylist(), rows["target_id"].to_pylist(), strict=True))
    assert order == sorted(order)
    assert pq.read_schema(ParquetWarehouse(root).path(unit)).equals(TABLES["cost_allocations"].arrow_schema())


def test_shards_give_the_same_rows(root: Path, sql: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Split by a column with nulls, repeated and absent values, models give what they give in one piece."""
    rows = rows_of(LINES, count=120)
    keys = [None if n % 7 == 0 else f"machine {n % 11}" for n in range(120)]
    rows = rows.set_column(rows.column_names.index("resource_key"), "resource_key", pa.array(keys))
    fill(root, rows)
    (sql / "lines.sql").write_text("select * from billing_lines")
    (sql / "weights.sql").write_text("select resource_key, count(*) as lines from lines group by resource_key")
    (sql / "cost_allocations.sql").write_text(
        COST_ALLOCATIONS.format(source="lines").replace("from lines", "from lines l left join weights using (resource_key)")
    )
    (sql / "totals.sql").write_text("select resource_key, sum(lines) as lines from weights group by resource_key")
    (sql / "cost_daily.sql").write_text("select 1 as wrong from totals")
    (sql / "small.sql").write_text("select * from totals where lines is null or lines < 9")
    whole = charges(root, sql, [Model("lines"), Model("weights"), Model("cost_allocations", (PERIOD, "all"))])
    seen = []
    monkeypatch.setattr(shards_module, "FEW_ROWS", 0)
    for size in (1000, 30, 5, 1):
        monkeypatch.setattr(shards_module, "ROWS_PER_SHARD", size)
        group = [Model(name, shard_by="resource_key") for name in ("lines", "weights", "totals")]
        models = [*group[:2], Model("cost_allocations", (PERIOD, "all"), shard_by="resource_key"), group[2], Model("small")]
        with ParquetWarehouse(root, models=sql, checks=sql).step("allocate", "b") as step:
            step.run(models, {"period": MONTH}, keep=["small"])
            found = step.connection.execute("select * from small order by all").fetchall()
            seen.append((step.state(Unit("cost_allocations", PERIOD, "all")).digest, found))
    assert seen == [seen[0]] * 4
    assert seen[0][0] == whole
    assert len(seen[0][1]) == 1  # the null machine has 18 lines, most others 9 or 10; one has 8


@pytest.mark.parametrize(("few", "is_split"), [(119, True), (120, False)])
def test_models_of_few_rows_run_without_shards(few: int, is_split: bool, root: Path, sql: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every table that they read has at most so many rows. The rows are the same."""
    fill(root, rows_of(LINES, count=120))
    monkeypatch.setattr(shards_module, "FEW_ROWS", few)
    models = two_models(sql, "select resource_key, count(*) as number from lines group by resource_key")
    with ParquetWarehouse(root, models=sql).step("allocate", "b") as step:
        step.run(models, {"period": MONTH}, keep=["numbers"])
        assert ("numbers" in step.kept) == is_split
        assert step.connection.execute("select sum(number) from numbers").fetchall() == [(120,)]


def fill_six_shards(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Fill a bill with 120 lines of 11 machines, whose models run in six shards."""
    rows = rows_of(LINES, count=120)
    keys = pa.array([f"machine {n % 11}" for n in range(120)])
    fill(root, rows.set_column(rows.column_names.index("resource_key"), "resource_key", keys))
    monkeypatch.setattr(shards_module, "ROWS_PER_SHARD", 20)


def two_models(sql: Path, second: str) -> list[Model]:
    """Two models that run shard by shard. `second` is the SQL of the second one."""
    (sql / "lines.sql").write_text("select * from billing_lines")
    (sql / "numbers.sql").write_text(second)
    return [Model("lines", shard_by="resource_key"), Model("numbers", shard_by="resource_key")]


@pytest.mark.parametrize(
    ("reader", "stored"),
    [
        ("select sum(billed_cost) as cost from lines", {"resource_key", "billed_cost"}),
        ("select count(*) as n from lines", {"resource_key"}),
        ("select n.* from lines n", {c.name for c in TABLES["billing_lines"].columns}),
    ],
)
def test_shards_keep_the_columns_that_later_models_read(
    root: Path, sql: Path, monkeypatch: pytest.MonkeyPatch, reader: str, stored: set[str]
) -> None:
    """They include the column of the shards, by which a later group may read the rows again."""
    fill_six_shards(root, monkeypatch)
    lines, numbers = two_models(sql, reader)
    found = []
    with ParquetWarehouse(root, models=sql).step("allocate", "b") as step:
        drop_made = step.drop_made

        def look_first(name: str) -> None:
            if name == "lines" and name in step.kept:
                found.append({c for (c,) in step.connection.execute("select column_name from (describe lines)").fetchall()})
            drop_made(name)

        monkeypatch.setattr(step, "drop_made", look_first)
        step.run([lines, Model("numbers"), numbers], {"period": MONTH})
    assert found[0] == stored


def test_a_shard_that_fails_ends_the_step_and_the_next_one_runs(root: Path, sql: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The step raises the error of the shard, and no thread is left."""
    fill_six_shards(root, monkeypatch)
    failing = "select resource_key, cast(case when resource_key = 'machine 7' then 'seven' else '1' end as int64) as number from lines"
    threads = threading.active_count()
    with (
        pytest.raises(duckdb.ConversionException, match="seven"),
        ParquetWarehouse(root, models=sql).step("allocate", "b") as step,
    ):
        step.run(two_models(sql, failing), {"period": MONTH}, keep=["numbers"])
    assert threading.active_count() <= threads
    with ParquetWarehouse(root, models=sql).step("allocate", "b") as step:
        step.run(two_models(sql, failing.replace("seven", "7")), {"period": MONTH}, keep=["numbers"])
        assert step.connection.execute("select count(*), sum(number) from numbers").fetchall() == [(120, 120 + 6 * 11)]


def test_ctrl_c_stops_all_shards(root: Path, sql: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Queries that would run far longer end with the signal, even if someone sends it again while they end."""
    fill_six_shards(root, monkeypatch)
    many = "(select distinct resource_key, number from lines, unnest(generate_array(1, 100000)) as number)"
    models = two_models(
        sql, f"select resource_key, sum(number * other) as sums from {many} cross join unnest(generate_array(1, 3000)) as other group by 1"
    )
    again = [KeyboardInterrupt()]

    def sleep(seconds: float) -> None:
        if again:
            raise again.pop()
        time.sleep(seconds)

    monkeypatch.setattr(shards_module, "time", SimpleNamespace(sleep=sleep))
    threads = threading.active_count()
    begun = time.monotonic()
    timer = threading.Timer(1, os.kill, [os.getpid(), signal.SIGINT])
    timer.start()
    with pytest.raises(KeyboardInterrupt), ParquetWarehouse(root, models=sql).step("allocate", "b") as step:
        step.run(models, {"period": MONTH}, keep=["numbers"])
    took = time.monotonic() - begun
    timer.join()
    assert took < 10, took
    assert not again
    assert threading.active_count() <= threads


def test_shards_run_one_after_another_if_two_need_too_much_memory(root: Path, sql: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The first error of memory in a shard is not the step's. The rows are the same."""
    fill_six_shards(root, monkeypatch)
    models = two_models(sql, "select resource_key, count(*) as number from lines group by resource_key")
    run_shard, at_once, most = shards_module._run_shard, [0], [0]

    def run_in_little_memory(*arguments: Any) -> dict[str, Path]:
        at_once[0] += 1
        most[0] = max(most[0], at_once[0])
        time.sleep(0.05)
        try:
            if at_once[0] > 1:
                raise duckdb.OutOfMemoryException("could not allocate block")
            return run_shard(*arguments)
        finally:
            at_once[0] -= 1

    monkeypatch.setattr(shards_module, "_run_shard", run_in_little_memory)
    with ParquetWarehouse(root, models=sql).step("allocate", "b") as step:
        step.run(models, {"period": MONTH}, keep=["numbers"])
        assert step.connection.execute("select count(*), sum(number) from numbers").fetchall() == [(11, 120)]
    assert most == [2]


def test_texts_of_a_shard_stay_texts(root: Path, sql: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Few or many, odd or empty, strings come back as they were, compare with others and sort as bytes do."""
    texts = [None, "", "9", "10", "a'b", 'a"b', "A\0b", "ß", "😀", "Z"]
    rows = rows_of(LINES, count=120)
    for column, values in (("sub_account_id", texts), ("resource_key", ["m1", "m2", "m3"])):
        rows = rows.set_column(rows.column_names.index(column), column, pa.array([values[n % len(values)] for n in range(120)]))
    fill(root, rows)
    (sql / "lines.sql").write_text("select * from billing_lines")
    (sql / "cost_allocations.sql").write_text(COST_ALLOCATIONS.format(source="lines"))
    (sql / "accounts.sql").write_text(
        "select resource_key, min(sub_account_id) as low, max(sub_account_id) as high, countif(sub_account_id in ('10', 'none')) as tens from lines group by resource_key"
    )
    (sql / "kept.sql").write_text("select low, high, sum(tens) as tens from accounts group by low, high")
    seen = []
    for few in (0, 5, 10_000):
        monkeypatch.setattr(shards_module, "MAX_ENUM_TEXTS", few)
        monkeypatch.setattr(shards_module, "ROWS_PER_SHARD", 50)
        models = [
            Model(name, shard_by="resource_key", into=(PERIOD, "all") if name == "cost_allocations" else None)
            for name in ("lines", "accounts", "cost_allocations")
        ]
        with ParquetWarehouse(root, models=sql).step("allocate", "b") as step:
            step.run([*models, Model("kept")], {"period": MONTH}, keep=["kept"])
            found = step.connection.execute("select * from kept order by all").fetchall()
            numbered = step.connection.execute("select count(*) from duckdb_types() where type_name like 'shard%'").fetchall()[0][0]
            assert step.publish()
        kept = ParquetWarehouse(root).read(Unit("cost_allocations", PERIOD, "all"))
        assert kept is not None
        assert (numbered > 0) == (few > 0)
        seen.append((found, sorted(map(str, kept["sub_account_id"].to_pylist())), kept.schema))
    assert seen == [seen[0]] * 3
    assert found == [("", "😀", 12)]
    assert seen[0][1] == sorted(str(texts[n % 10]) for n in range(120))


EMPTY_MODELS = {
    "given": "select @value as value from billing_lines",
    "copied": "select value, [value] as list_of_values from given",
    "one_type": "select 1 as value from billing_lines",
    "other_type": "select 'text' as value from billing_lines",
}
GIVEN = [
    1,
    2**40,
    Decimal("1.50"),
    Decimal("1.5"),
    "1",
    True,
    None,
    MONTH,
    dt.datetime(2026, 10, 1, tzinfo=dt.UTC).replace(tzinfo=None),
    dt.datetime(2026, 10, 1, tzinfo=dt.UTC),
]


def test_a_table_without_rows_has_the_types_of_its_query(root: Path, sql: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is created without running the query if the same one ran before, with inputs and parameters of the same types."""
    for name, text in EMPTY_MODELS.items():
        (sql / f"{name}.sql").write_text(text)
    ran: list[str] = []
    duckdb_sql = made_tables.duckdb_sql
    monkeypatch.setattr(made_tables, "duckdb_sql", lambda text: ran.append(text) or duckdb_sql(text))
    monkeypatch.setattr(made_tables, "_known", {})

    def types_of(models: list[Model], value: object) -> list[object]:
        with ParquetWarehouse(root, models=sql).step("allocate", "b") as step:
            step.run(models, {"value": value}, keep=["copied"])
            return step.connection.execute("from copied").fetchall() + step.connection.execute("describe copied").fetchall()

    models = [Model("given"), Model("copied")]
    first = [types_of(models, value) for value in GIVEN]
    assert ran == [EMPTY_MODELS["given"], EMPTY_MODELS["copied"]] * len(GIVEN)
    ran.clear()
    assert [types_of(models, value) for value in GIVEN] == first
    assert ran == []
    types = [rows[0][1] for rows in first]
    assert types == [
        "INTEGER",
        "BIGINT",
        "DECIMAL(3,2)",
        "DECIMAL(2,1)",
        "VARCHAR",
        "BOOLEAN",
        '"NULL"',
        "DATE",
        "TIMESTAMP",
        "TIMESTAMP WITH TIME ZONE",
    ]
    for made, kind in (("one_type", "INTEGER"), ("other_type", "VARCHAR"), ("one_type", "INTEGER")):
        assert types_of([Model(made, makes="given"), Model("copied")], None)[0][1] == kind
    fill(root, rows_of(LINES, count=3))
    assert types_of(models, 7)[:3] == [(7, [7])] * 3


def test_a_table_that_lists_its_strings_is_not_remembered(root: Path, sql: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Strings of a shard may be ENUMs, with other strings in each month. Queries of such a table run, even if it has no rows."""
    fill_six_shards(root, monkeypatch)
    monkeypatch.setattr(made_tables, "_known", {})
    models = two_models(sql, "select resource_key from lines where line_id is null")
    (sql / "whole.sql").write_text("select resource_key from numbers")
    (sql / "more.sql").write_text("select resource_key from whole")
    for _ in range(2):
        with ParquetWarehouse(root, models=sql).step("allocate", "b") as step:
            step.run([*models, Model("whole"), Model("more")], {"period": MONTH}, keep=["more"])
            assert step.connection.execute("from more").fetchall() == []
    assert made_tables._known == {}


def test_a_model_without_rows_adds_nothing_to_a_unit(root: Path, sql: Path) -> None:
    """It does not run if its input has no rows. Without `fills`, it replaces the unit."""
    fill(root, rows_of(LINES, count=20))
    (sql / "cost_allocations.sql").write_text(COST_ALLOCATIONS.format(source="billing_lines"))
    (sql / "nothing.sql").write_text("select * from billing_lines where false")
    (sql / "more.sql").write_text(COST_ALLOCATIONS.format(source="nothing"))
    one = charges(root, sql, [Model("cost_allocations", (PERIOD, "all"))])
    more = [Model("nothing"), Model("more", (PERIOD, "all"), fills="cost_allocations")]
    assert charges(root, sql, [Model("cost_allocations", (PERIOD, "all")), *more]) == one
    assert ask(root, "select count(*) as n from cost_allocations") == [{"n": 20}]
    assert charges(root, sql, more) != one
    assert ask(root, "select count(*) as n from cost_allocations") == [{"n": 0}]


def test_a_second_model_adds_to_the_same_unit(root: Path, sql: Path) -> None:
    """`fills` puts a model's rows after those another model of the step put into the unit."""
    fill(root, rows_of(LINES, count=20))
    (sql / "cost_allocations.sql").write_text(COST_ALLOCATIONS.format(source="billing_lines"))
    (sql / "more.sql").write_text(
        COST_ALLOCATIONS.format(source="billing_lines").replace("line_id as charge_id", "concat('x', line_id) as charge_id")
    )
    one = charges(root, sql, [Model("cost_allocations", (PERIOD, "all"))])
    two = charges(root, sql, [Model("cost_allocations", (PERIOD, "all")), Model("more", (PERIOD, "all"), fills="cost_allocations")])
    assert one != two
    assert ask(root, "select count(*) as n, countif(starts_with(charge_id, 'x')) as x from cost_allocations") == [{"n": 40, "x": 20}]
    rows = ParquetWarehouse(root).read(Unit("cost_allocations", PERIOD, "all"))
    assert rows is not None
    assert fill(root, rows, table="cost_allocations", writer="all") == two


def test_a_model_may_use_only_words_that_its_column_lists(root: Path, sql: Path) -> None:
    fill(root, rows_of(LINES))
    (sql / "cost_allocations.sql").write_text(COST_ALLOCATIONS.format(source="billing_lines").replace("'idle' as", "'nobody' as"))
    with pytest.raises(RunspendError, match=r"'nobody'.* A word must be one that tables.py lists"):
        charges(root, sql, [Model("cost_allocations", (PERIOD, "all"))])


def test_a_step_reads_one_build(root: Path, sql: Path) -> None:
    """What others publish while a step runs, it does not see; its publish is then superseded."""
    digest = fill(root, rows_of(LINES, cost="1"))
    (sql / "a.sql").write_text("select sum(billed_cost) as c from billing_lines")
    (sql / "b.sql").write_text("select sum(billed_cost) as c from billing_lines")
    with ParquetWarehouse(root, models=sql).step("allocate", "b") as step:
        step.run([Model("a")], {}, keep=["a"])
        fill(root, rows_of(LINES, count=51, cost="2"))
        step.run([Model("b")], {}, keep=["a", "b"])
        assert step.connection.execute("select (select c from a) = (select c from b)").fetchall() == [(True,)]
        assert step.publish({Unit("billing_lines", PERIOD, "aws"): digest}) is False


# --- schema version ------------------------------------------------------------------------------------------------------


def test_a_newer_warehouse_is_refused(root: Path) -> None:
    """A warehouse that a newer runspend wrote is not touched."""
    fill(root, rows_of(LINES))
    path = root / "_runspend" / "schema.json"
    write_json(path, seal({**json.loads(path.read_text()), "version": tables.SCHEMA_VERSION + 1}))
    with pytest.raises(ConfigError, match="Install the newer runspend"):
        ParquetWarehouse(root)


@pytest.mark.parametrize("way_back", ["restored", "replaced"])
def test_a_damaged_file_does_not_prevent_publishing_new_columns(root: Path, monkeypatch: pytest.MonkeyPatch, way_back: str) -> None:
    """It stays refused, restored too, until it has the columns of its table: the next pipeline run adds them, or replaces it."""
    for writer in ("all", "other"):
        fill(root, rows_of(TABLES["run_costs"]), table="run_costs", writer=writer)
    good, bad = Unit("run_costs", PERIOD, "all"), Unit("run_costs", PERIOD, "other")
    data = ParquetWarehouse(root).path(bad).read_bytes()
    ParquetWarehouse(root).path(bad).write_bytes(data[:-9])
    wider = with_new_column(TABLES["run_costs"])
    monkeypatch.setitem(TABLES, "run_costs", wider)
    monkeypatch.setattr("runspend.warehouse.parquet.warehouse.SCHEMA_VERSION", tables.SCHEMA_VERSION + 1)
    fill(root, rows_of(LINES))
    assert pq.read_schema(ParquetWarehouse(root).path(good)).equals(wider.arrow_schema())
    assert ask(root, "select count(*) as n from billing_lines") == [{"n": 50}]
    assert mend_folder(root) == {}
    with pytest.raises(WarehouseDamaged, match="run_costs 2026-10 other"):
        ask(root, "select count(*) as n from run_costs")
    if way_back == "restored":
        ParquetWarehouse(root).path(bad).write_bytes(data)
        with pytest.raises(WarehouseDamaged, match="when columns were added to its table"):
            ask(root, "select count(*) as n from run_costs")
        mend_folder(root)
    else:
        with ParquetWarehouse(root).without({bad}).step("again", "again") as step:
            step.put(*bad, rows_of(wider))
            assert step.publish({bad: None})
    assert ParquetWarehouse(root).find_damage() == {}
    assert ask(root, "select count(*) as n, count(distinct run_name) > 0 as is_read from run_costs") == [{"n": 100, "is_read": True}]
    assert pq.read_schema(ParquetWarehouse(root).path(bad)).equals(wider.arrow_schema())


def test_a_new_column_is_added_before_the_next_publish(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Readers see it as null at once; the next publish rewrites the files that lack it, and digests of old rows stay as they were."""
    digest = fill(root, rows_of(TABLES["run_costs"]), table="run_costs", writer="all")
    wider = with_new_column(TABLES["run_costs"])
    monkeypatch.setitem(TABLES, "run_costs", wider)
    monkeypatch.setattr("runspend.warehouse.parquet.warehouse.SCHEMA_VERSION", tables.SCHEMA_VERSION + 1)
    assert ask(root, "select countif(new_cost is null) as n from run_costs") == [{"n": 50}]
    unit = Unit("run_costs", PERIOD, "all")
    assert "new_cost" not in pq.read_schema(ParquetWarehouse(root).path(unit)).names
    fill(root, rows_of(LINES))
    assert pq.read_schema(ParquetWarehouse(root).path(unit)).equals(wider.arrow_schema())
    assert ParquetWarehouse(root).states()[unit].digest == digest
    assert ParquetWarehouse(root).find_damage() == {}
    assert ask(root, "select count(*) as n, countif(new_cost is null) as empty from run_costs") == [{"n": 50, "empty": 50}]


def fill_former(root: Path) -> dict[Unit, pa.Table]:
    """Make a warehouse of the schema version before; return what its units hold in today's words."""
    for unit in former.UNITS:
        fill(root, former.todays_rows(unit), table=unit.table, writer=unit.writer)
    before = former.contents(ParquetWarehouse(root).read)
    former.make_former(root)
    return before


def asked(root: Path) -> dict[Unit, pa.Table]:
    """What queries see of the units."""
    with ParquetWarehouse(root).reader() as reader:
        return former.contents(lambda unit: reader.query(f"select * from {unit.table}"))


def test_former_names_and_values_are_read_and_the_next_publish_replaces_them(root: Path, tmp_path: Path) -> None:
    """Readers see today's names at once. The next publish rewrites the files with equal content and digests."""
    before = fill_former(root)
    warehouse = ParquetWarehouse(root)
    digests = {unit: state.digest for unit, state in warehouse.states().items()}
    path = warehouse.path(Unit("cost_daily", PERIOD, "all"))
    assert "unmatched" in pq.read_table(path, partitioning=None)["allocated_to"].to_pylist()
    for found in (former.contents(warehouse.read), asked(root)):
        assert found == before
    fetched = warehouse.fetch(Unit("period_states", PERIOD, "all"), tmp_path)
    assert fetched is not None and pq.read_schema(fetched).equals(TABLES["period_states"].arrow_schema())
    fill(root, rows_of(LINES))
    assert json.loads((root / "_runspend" / "schema.json").read_text())["version"] == tables.SCHEMA_VERSION
    for unit in former.UNITS:
        file = ParquetWarehouse(root).path(unit)
        assert pq.read_schema(file).equals(TABLES[unit.table].arrow_schema())
        assert "unmatched" not in str(pq.read_table(file, partitioning=None).to_pylist())
    assert former.contents(ParquetWarehouse(root).read) == asked(root) == before
    assert {unit: state.digest for unit, state in ParquetWarehouse(root).states().items() if unit in digests} == digests
    assert ParquetWarehouse(root).find_damage() == {}


@pytest.mark.parametrize("point", ["before_journal", "after_journal", "after_first_move", "after_moves", "after_journal_dropped"])
def test_an_upgrade_that_is_killed_is_completed_or_begun_again(root: Path, point: str) -> None:
    """Wherever it is killed, the units hold the same content, before and after the next publish."""
    before = fill_former(root)
    command = ("tests.faults.world", str(root), "rounds", "other", "1")
    assert run_forked(*command, RUNSPEND_CRASH_AT=f"publish.{point}").returncode == -signal.SIGKILL
    assert asked(root) == before
    assert run_forked(*command).returncode == 0
    assert json.loads((root / "_runspend" / "schema.json").read_text())["version"] == tables.SCHEMA_VERSION
    assert former.contents(ParquetWarehouse(root).read) == asked(root) == before
    assert ParquetWarehouse(root).find_damage() == {}


def test_former_values_are_found_when_the_schema_version_was_lost(root: Path) -> None:
    """A mended `schema.json` is of the version before where a file has a former value, so the next publish rewrites them."""
    before = fill_former(root)
    (root / "_runspend" / "schema.json").write_bytes(b"{")
    mend_folder(root)
    assert asked(root) == before
    fill(root, rows_of(LINES))
    assert former.contents(ParquetWarehouse(root).read) == asked(root) == before
