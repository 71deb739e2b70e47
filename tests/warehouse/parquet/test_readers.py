"""Every table as people read it: pandas, pyarrow, polars and DuckDB give the same rows and sums, before, during and after a killed publish."""

from __future__ import annotations

import datetime as dt
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from decimal import Decimal, localcontext
from pathlib import Path

import duckdb
import pandas as pd
import polars as pl
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as ds
import pytest

from runspend.core.duckdb_pool import limit_threads
from runspend.core.errors import SqlRefused, UsageError, WarehouseDamaged
from runspend.schema.tables import TABLES, Table
from runspend.warehouse.parquet import verification
from runspend.warehouse.parquet.reader import _in_words
from runspend.warehouse.parquet.warehouse import ParquetWarehouse
from tests.faults.damaged_world import Flip
from tests.faults.world import TOGETHER, publish_version, rows_of
from tests.forked import run_forked

REPOSITORY = Path(__file__).parents[3]
Answer = tuple[int, Decimal]  # rows, and the sum of all money in them


def money(table: Table) -> list[str]:
    return [c.name for c in table.columns if c.type == "BIGNUMERIC"]


def read_pandas(folder: Path, table: Table, period: str | None, since: dt.date | None) -> Answer:
    filters = [("period", "=", period)] if period else None
    rows = pd.read_parquet(folder, dtype_backend="pyarrow", filters=filters)
    if since:
        rows = rows[rows[table.period_column] >= since]
    return len(rows), sum((Decimal(rows[c].sum()) for c in money(table)), Decimal(0))


def read_pyarrow(folder: Path, table: Table, period: str | None, since: dt.date | None) -> Answer:
    condition = ds.field("period") == period if period else None
    if since:
        condition = ds.field(table.period_column) >= since
    rows = ds.dataset(folder, partitioning="hive").to_table(filter=condition)
    return rows.num_rows, sum((pc.sum(rows[c]).as_py() or Decimal(0) for c in money(table)), Decimal(0))


def read_polars(folder: Path, table: Table, period: str | None, since: dt.date | None) -> Answer:
    rows = pl.scan_parquet(folder, hive_partitioning=True)
    if period:
        rows = rows.filter(pl.col("period") == period)
    if since:
        rows = rows.filter(pl.col(str(table.period_column)) >= since)
    found = rows.select(pl.len(), *(pl.col(c).sum() for c in money(table))).collect().row(0)
    return found[0], sum((Decimal(v) for v in found[1:]), Decimal(0))


def read_duckdb(folder: Path, table: Table, period: str | None, since: dt.date | None) -> Answer:
    sums = "".join(f", coalesce(sum({c}), 0)" for c in money(table))
    where = f"where period = '{period}'" if period else f"where {table.period_column} >= date '{since}'" if since else ""
    found = duckdb.sql(f"select count(*){sums} from '{folder}/**/*.parquet' {where}").fetchall()[0]
    return found[0], sum((Decimal(v) for v in found[1:]), Decimal(0))


READERS: dict[str, Callable[[Path, Table, str | None, dt.date | None], Answer]] = {
    "pandas": read_pandas,
    "pyarrow": read_pyarrow,
    "polars": read_polars,
    "duckdb": read_duckdb,
}


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Every table: two months of two writers, with 22-decimal money, nulls in one file and none in the other."""
    root = tmp_path_factory.mktemp("readers") / "warehouse"
    with ParquetWarehouse(root).step("fill", "b") as step:
        for table in TABLES.values():
            for number, period in enumerate(("2026-09", "2026-10") if table.period_column else ("all",)):
                rows = rows_of(table, period=period, cost="1234567.0000000000000000000001")
                step.put(table.name, period, "one", rows)
                step.put(table.name, period, "two", _with_nulls(rows, table) if number == 0 else rows)
        step.publish()
    return root


def _with_nulls(rows: pa.Table, table: Table) -> pa.Table:
    """Null wherever a column is neither key nor money nor the period."""
    for index, column in enumerate(table.columns):
        if not column.is_key and column.type != "BIGNUMERIC" and column.name != table.period_column:
            rows = rows.set_column(index, column.name, pa.nulls(rows.num_rows, rows.schema.field(index).type))
    return rows


def folder_of(root: Path, table: Table) -> Path:
    return root / table.name if table.is_public else root / "_internal" / table.name


@pytest.mark.parametrize("reader", READERS)
@pytest.mark.parametrize("table", TABLES.values(), ids=lambda table: table.name)
def test_everyone_reads_every_table(root: Path, table: Table, reader: str) -> None:
    """A folder, a folder's month and a date: the rows that were put, to the last decimal."""
    with localcontext(prec=76):
        each = Decimal("1234567.0000000000000000000001") * len(money(table))
        read, folder = READERS[reader], folder_of(root, table)
        files = 4 if table.period_column else 2
        assert read(folder, table, None, None) == (50 * files, 50 * files * each)
        if table.period_column:
            assert read(folder, table, "2026-10", None) == (100, 100 * each)
            assert read(folder, table, None, dt.date(2026, 10, 1)) == (100, 100 * each)


@pytest.mark.parametrize("table", TABLES.values(), ids=lambda table: table.name)
def test_our_reader_agrees(root: Path, table: Table) -> None:
    """Runspend's own reader gives the same rows and sums, in the types of tables.py."""
    with ParquetWarehouse(root).reader() as reader:
        rows = reader.query(f"select * from {table.name}")
    assert rows.schema.equals(table.arrow_schema())
    assert rows.num_rows == (200 if table.period_column else 100)


@pytest.mark.parametrize(
    "sql",
    [
        "with runs as (select * from runs) select * from runs",
        "select r.* from runs as r, (with runs as (select 1 as one) select * from runs)",
        "select * from Runs",
        "select * from main.runs",
        "select * from main.RUNS",
    ],
)
def test_a_table_is_found_however_it_is_named(root: Path, sql: str) -> None:
    """Views are made only of what a statement names, and it may name a table by another's name, in other letters or with its schema."""
    with ParquetWarehouse(root).reader() as reader:
        assert reader.query(sql).num_rows == 200
    with ParquetWarehouse(root).reader() as reader:
        assert sum(batch.num_rows for batch in reader.batches(sql, rows=64)) == 200


def test_a_mistyped_table_name_gets_a_suggestion(root: Path) -> None:
    """This includes tables that were not read yet."""
    with ParquetWarehouse(root).reader() as reader, pytest.raises(UsageError, match='Did you mean "run_costs"'):
        reader.query("select * from run_cost")


def test_another_table_is_shown_while_rows_are_on_their_way(root: Path) -> None:
    """Who reads in a currency does not disturb who reads as billed, nor the other way round."""
    with ParquetWarehouse(root).reader() as reader:
        batches = reader.batches("select * from runs", rows=16)
        read = next(batches).num_rows
        exchanged = reader.in_currency("EUR", [])
        assert exchanged.query("select * from experiments").num_rows == 100
        assert read + sum(batch.num_rows for batch in batches) == 200


def test_a_damaged_file_is_reported_each_time_it_is_read(tmp_path: Path) -> None:
    """Not as a table that there is not."""
    warehouse = ParquetWarehouse(tmp_path)
    with warehouse.step("fill", "b") as step:
        step.put("runs", "2026-09", "one", rows_of(TABLES["runs"], period="2026-09", cost="1"))
        step.publish()
    [path] = tmp_path.glob("runs/*/*.parquet")
    path.write_bytes(b"PAR1")
    with warehouse.reader() as reader:
        for _ in range(2):
            with pytest.raises(WarehouseDamaged, match="runs 2026-09 one") as error:
                reader.query("select * from runs")
            assert str(tmp_path) not in str(error.value)


MISTAKES = [
    "select nope from runs", "selec run_id from runs", "select run_id from runss", "select cast('x' as int) from runs",
    "select cast('no space left on device' as int) from runs", "select error('disk quota exceeded')",
]  # fmt: skip


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_in_a_statement_hashes_no_file(tmp_path: Path, mistake: str) -> None:
    """A bit that rotted is found by hashing alone: a typo, which costs no second a gigabyte, does not find it."""
    warehouse = ParquetWarehouse(tmp_path)
    with warehouse.step("fill", "b") as step:
        step.put("runs", "2026-09", "one", rows_of(TABLES["runs"], period="2026-09", cost="1"))
        step.publish()
    warehouse.find_damage()  # from here on the file is known by how it looks
    [path] = tmp_path.glob("runs/*/*.parquet")
    Flip(path, path.stat().st_size // 2, 0, is_silent=True).make()
    with pytest.raises(SqlRefused, match="cannot run the SQL"):
        warehouse.answer(mistake, native=True, timeout=60)


def test_an_answer_may_be_limited_to_its_first_rows(tmp_path: Path) -> None:
    """Also on a thread with an engine of few threads, whose settings are locked afterwards. The other rows are not computed."""
    warehouse = ParquetWarehouse(tmp_path)
    with warehouse.step("fill", "b") as step:
        step.put("runs", "2026-09", "one", rows_of(TABLES["runs"], period="2026-09", cost="1"))
        step.publish()
    statement = "select * from runs order by run_id"
    endless = f"select a.run_id from {' cross join '.join(f'runs as {letter}' for letter in 'abcdefgh')}"

    def ask() -> list[pa.Table]:
        return [warehouse.answer(statement, at_most=3), warehouse.answer(endless, at_most=200_000, timeout=60)]

    whole = warehouse.answer(statement)
    with ThreadPoolExecutor(1, initializer=limit_threads, initargs=(1,)) as pool:
        for first, some in (ask(), pool.submit(ask).result()):
            assert first.equals(whole.slice(0, 3))
            assert some.num_rows == 200_000
    assert warehouse.answer(statement, at_most=1000).equals(whole)
    with pytest.raises(SqlRefused, match="larger than 64 MB"):
        warehouse.answer("select repeat(run_id, 1000000) as text from runs", at_most=1000)


def test_a_file_that_is_written_to_while_it_is_verified_is_not_known_as_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What was hashed is noted with the look it had before."""
    warehouse = ParquetWarehouse(tmp_path)
    with warehouse.step("fill", "b") as step:
        step.put("runs", "2026-09", "one", rows_of(TABLES["runs"], period="2026-09", cost="1"))
        step.publish()
    [path] = tmp_path.glob("runs/*/*.parquet")
    hash_it = verification.sha256_of

    def hash_and_write(file: Path) -> str:
        found = hash_it(file)
        Flip(path, path.stat().st_size // 2, 0, is_silent=False).make()
        return found

    monkeypatch.setattr(verification, "sha256_of", hash_and_write)
    assert warehouse.find_damage() == {}  # it was whole
    monkeypatch.undo()
    assert [unit.table for unit in warehouse.find_damage(since=0.0)] == ["runs"]


def test_an_engine_that_fails_over_whole_files_is_not_damage() -> None:
    """They were just verified: `runspend nightly` would mend nothing."""
    translated = _in_words(duckdb.InternalException("INTERNAL Error: Attempted to access index 3"), True)
    assert not isinstance(translated, WarehouseDamaged)
    assert "the database engine failed" in str(translated) and "are whole" in str(translated)
    assert "are whole" not in str(_in_words(duckdb.InternalException("INTERNAL Error"), False))


def test_a_doubt_ends_with_the_time_of_the_statement(tmp_path: Path) -> None:
    """Of many large files only those are hashed that there is time for."""
    warehouse = ParquetWarehouse(tmp_path)
    with warehouse.step("fill", "b") as step:
        step.put("runs", "2026-09", "one", rows_of(TABLES["runs"], period="2026-09", cost="1"))
        step.publish()
    with warehouse.reader() as reader:
        units = warehouse.states("runs")
        assert reader._guard.doubt(units, time.monotonic() + 60) is True
        assert reader._guard.doubt(units, time.monotonic() - 1) is False


@pytest.mark.parametrize("point", ["publish.before_journal", "publish.after_first_move", "publish.after_moves"])
def test_readers_agree_around_a_killed_publish(tmp_path: Path, point: str) -> None:
    """Before, after the kill and after the next opening, all four readers give one answer per table: the old or the new version's."""
    root = tmp_path / "warehouse"
    publish_version(root, 1)
    with localcontext(prec=76):
        assert {answers(root, name) for name in TOGETHER} == {version_answers(name, 1) for name in TOGETHER}
        killed = run_forked("tests.faults.world", str(root), "publish", "2", RUNSPEND_CRASH_AT=point)
        assert killed.returncode == -signal.SIGKILL
        for name in TOGETHER:
            assert answers(root, name) in (version_answers(name, 1), version_answers(name, 2))
        ParquetWarehouse(root)
        version = 1 if point == "publish.before_journal" else 2
        for name in TOGETHER:
            assert answers(root, name) == version_answers(name, version)


def test_readers_agree_during_publishes(tmp_path: Path) -> None:
    """While another process publishes, each read of a table is of one version, for every reader."""
    root = tmp_path / "warehouse"
    publish_version(root, 1)
    script = f"from pathlib import Path\nfrom tests.faults.world import publish_version\nfor n in range(2, 40): publish_version(Path({str(root)!r}), n)"
    process = subprocess.Popen([sys.executable, "-c", script], cwd=REPOSITORY)
    allowed = {name: {version_answers(name, n) for n in range(1, 40)} for name in TOGETHER}
    reads = 0
    with localcontext(prec=76):
        while process.poll() is None or not reads:
            for name in TOGETHER:
                for reader in ("pyarrow", "duckdb"):
                    assert (name, READERS[reader](folder_of(root, TABLES[name]), TABLES[name], None, None)) in {
                        (name, a) for a in allowed[name]
                    }
                    reads += 1
    assert process.returncode == 0
    assert {answers(root, name) for name in TOGETHER} == {version_answers(name, 39) for name in TOGETHER}


def answers(root: Path, name: str) -> Answer:
    """What all four readers say of a table; they must agree."""
    found = {read(folder_of(root, TABLES[name]), TABLES[name], None, None) for read in READERS.values()}
    assert len(found) == 1, found
    return found.pop()


def version_answers(name: str, version: int) -> Answer:
    return 50, Decimal(50 * version * len(money(TABLES[name])))
