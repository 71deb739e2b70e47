"""What the models of a month would cost on BigQuery, per model: bytes billed, derived from the columns each text reads.

The chain runs on DuckDB over a small ledger; sizes of all tables, those that live until the step ends as well, are taken in
BigQuery's measure and multiplied up to a million runs x ten million lines. Not measured on BigQuery: docs/scale.md says so.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import duckdb
import pytest

from runspend import ladder
from runspend.config import Settings
from runspend.tables import TABLES
from runspend.warehouse import Model
from runspend.warehouse.contents import sums_sql
from runspend.warehouse.dialect import duckdb_sql, table_names
from runspend.warehouse.engine import DUCKDB_TYPES, FILLED, used
from tests.benchmarks.ledger_world import MONTH, make_ledger_world
from tests.benchmarks.measured import scaled
from tests.benchmarks.scanned import MINIMUM, column_bytes, reads

PACKAGE = Path(ladder.__file__).parent
RUNS, LINES = 1_000_000, 10_000_000
USD_PER_TIB = 6.25
PARTITIONS = {t.name: t.period_column for t in TABLES.values() if t.period_column is not None}
DAY = dt.date.fromisoformat(f"{MONTH}-01")
GIB, TIB = 2**30, 2**40


@dataclass(frozen=True)
class Scan:
    """One job. `monthly`: bytes of tables or months that grow with one month; `whole`: of tables of which every month is read."""

    name: str
    monthly: dict[str, int]
    whole: dict[str, int]

    def billed(self, factor: float, months: int) -> int:
        """Bytes at `factor` times the rows, with `months` months in the warehouse; each table counts as 10 MiB at least."""
        sizes = [size * factor for size in self.monthly.values()] + [size * factor * months for size in self.whole.values()]
        return sum(max(MINIMUM, int(size)) for size in sizes)


class Chain:
    """The jobs of a step in running order on DuckDB, and what each reads."""

    def __init__(self, folder: Path) -> None:
        self.connection = duckdb.connect(config={"memory_limit": "4GB", "temp_directory": str(folder / "spill")})
        self.connection.execute("set TimeZone = 'UTC'")
        self.scans: list[Scan] = []
        self._columns: dict[str, dict[str, str]] = {}
        self._sizes: dict[str, dict[str, int]] = {}
        for name, table in TABLES.items():
            place = f"{folder}/warehouse/{'' if table.is_public else '_internal/'}{name}"
            files = sorted(Path(place).rglob("*.parquet"))
            columns = ", ".join(f"cast(null as {DUCKDB_TYPES[c.type]}) as {c.name}" for c in table.columns)
            self.make(name, f"select * from read_parquet({[str(f) for f in files]})" if files else f"select {columns} limit 0")

    def run(self, models: list[Model], parameters: Mapping[str, Any]) -> None:
        """Models as BigQuery runs them: each whole, each a job."""
        for model in models:
            text = (PACKAGE / "models" / f"{model.name}.sql").read_text(encoding="utf-8")
            self.scan(model.name, text)
            if model.into is None:
                self.make(model.target, duckdb_sql(text), used(text, parameters))
                continue
            table = TABLES[model.target]
            self.make("part", duckdb_sql(text), used(text, parameters))
            types = {c.name: c.type for c in table.columns if c.name not in FILLED}
            columns = ", ".join(f"cast({name} as {DUCKDB_TYPES[kind]}) as {name}" for name, kind in types.items())
            if model.fills is None:
                self.connection.execute(f"delete from {table.name}")
            self.connection.execute(f"insert into {table.name} by name select {columns} from part")
            # the part is measured by its sums, counted by its month, and put into the table; what was there before is deleted
            self.scan(f"  sums of {table.name}", sums_sql(table, "part"))
            self.scan(f"  months of {table.name}", f"select countif({table.period_column} is null) as strays from part")
            self.scan(f"  insert into {table.name}", f"select {', '.join(types)} from part")
            self._measure(table.name)

    def check(self, names: tuple[str, ...]) -> None:
        """Checks over what the models made."""
        for name in names:
            self.scan(f"check {name}", (PACKAGE / "checks" / f"{name}.sql").read_text(encoding="utf-8"))

    def delete(self, names: set[str]) -> None:
        """A delete reads every column of the months it deletes from."""
        for name in sorted(names):
            self.scans.append(Scan(f"delete from {name}", {name: sum(self._sizes[name].values())}, {}))

    def scan(self, name: str, sql: str) -> None:
        """Note what a job would read of the tables as they stand."""
        scan = Scan(name, {}, {})
        known = {table: self._columns[table] for table in table_names(sql)}
        for table, read in reads(sql, known, PARTITIONS).items():
            (scan.monthly if table not in TABLES or read.is_pruned else scan.whole)[table] = sum(
                self._sizes[table][c] for c in read.columns
            )
        self.scans.append(scan)

    def make(self, name: str, sql: str, parameters: Mapping[str, Any] | None = None) -> None:
        """A table of these rows, in place of one of that name; its size is taken."""
        self.connection.execute(f"create or replace table {name} as {sql}", dict(parameters or {}))
        self._measure(name)

    def _measure(self, name: str) -> None:
        self._columns[name] = {column: kind for column, kind, *_ in self.connection.execute(f"describe {name}").fetchall()}
        self._sizes[name] = column_bytes(self.connection, name)


def run_chain(folder: Path, *, runs: int, lines: int) -> list[Scan]:
    """Every job of one period and one start month over a fresh ledger of that size."""
    make_ledger_world(folder, runs=runs, lines=lines, ladder=True)
    chain = Chain(folder)
    chain.make(
        "artifact_bytes", f"select * from artifact_bytes order by owner_id limit {runs // 10}"
    )  # as in the measured month: of a tenth of the runs
    utc = dt.timezone.utc
    given = {
        **ladder.ledger_parameters(Settings.model_validate({})),
        "period": DAY,
        "window_start": dt.datetime(2026, 10, 1, tzinfo=utc),
        "window_end": dt.datetime(2026, 11, 1, tzinfo=utc),
    }
    ledger, lives = ladder.ledger_models(MONTH), ladder.run_costs_models(MONTH)
    chain.run(ledger, given)
    chain.check(ladder.LEDGER_CHECKS)
    chain.run(lives, given)
    chain.check(ladder.RUN_CHECKS)
    chain.delete({model.target for model in (*ledger, *lives) if model.into is not None})
    assert (
        chain.connection.execute("select sum(effective_cost) from cost_allocations").fetchone()
        == chain.connection.execute("select sum(effective_cost) from billing_lines").fetchone()
    )
    return chain.scans


@pytest.mark.bench
@pytest.mark.timeout(3600)
def test_bytes_billed_of_a_month(tmp_path: Path) -> None:
    """A tenth of the measured month, multiplied; half of that tenth says whether multiplying is right."""
    runs, lines = scaled(RUNS) // 10, scaled(LINES) // 10
    scans = run_chain(tmp_path / "whole", runs=runs, lines=lines)
    half = run_chain(tmp_path / "half", runs=runs // 2, lines=lines // 2)
    factor = RUNS / runs
    print(
        f"\n  {runs:,} runs x {lines:,} lines, times {factor:,.0f}; one month in the warehouse\n\n  | job | GiB billed | GiB of tables of which every month is read |\n  |---|---|---|"
    )
    for name in sorted({scan.name for scan in scans}, key=lambda name: -sum(scan.billed(factor, 1) for scan in scans if scan.name == name)):
        same = [scan for scan in scans if scan.name == name]
        whole = {table: size * factor / GIB for scan in same for table, size in scan.whole.items() if size * factor > MINIMUM}
        times = f" ({len(same)} times)" if len(same) > 1 else ""
        print(
            f"  | {name}{times} | {sum(scan.billed(factor, 1) for scan in same) / GIB:.2f} | {', '.join(f'{table} {size:.2f}' for table, size in whole.items())} |"
        )
    total = sum(scan.billed(factor, 1) for scan in scans)
    for size in (1, 10, 100, 1000):
        for months in (1, 12, 36):
            billed = sum(scan.billed(factor * size, months) for scan in scans)
            print(
                f"  {size:>5} x, {months:>2} months kept: {billed / TIB:10.3f} TiB, {billed / TIB * USD_PER_TIB:12.2f} USD at {USD_PER_TIB} USD per TiB"
            )
    least = sum(len(scan.monthly) + len(scan.whole) for scan in scans) * MINIMUM
    print(f"  jobs: {len(scans)}; a month of next to nothing: {least / GIB:.2f} GiB, {least / TIB * USD_PER_TIB:.4f} USD")
    doubled = sum(scan.billed(factor * 2, 1) for scan in half)
    print(f"  the same from half the rows: {doubled / total:.3f} of it")
    assert 0.9 < doubled / total < 1.1


TINY = {"t": {"a": "INT64", "b": "STRING", "month": "DATE"}, "u": {"a": "INT64", "c": "STRING", "month": "DATE"}}


@pytest.mark.parametrize(
    ("sql", "expected"),
    [
        ("select a from t", {"t": ({"a"}, False)}),
        ("with x as (select * from t) select a from x", {"t": ({"a"}, False)}),
        ("select a from t where month = @period", {"t": ({"a", "month"}, True)}),
        ("select t.a from t join u on u.a = t.a and u.month = @period", {"t": ({"a"}, False), "u": ({"a", "month"}, True)}),
        (
            "select a from t where month in (@period, cast(date_add(@period, interval 1 month) as date)) and b = 'x'",
            {"t": ({"a", "b", "month"}, True)},
        ),
        ("select t.a from t join u on u.month = t.month where u.month = @period", {"t": ({"a", "month"}, False), "u": ({"month"}, True)}),
        ("select a from t where month = @period union all select a from t", {"t": ({"a", "month"}, False)}),
        ("select a from t where month = @period or b = 'x'", {"t": ({"a", "b", "month"}, False)}),
        ("select distinct x from t cross join unnest(split(b, ' ')) as x where month = @period", {"t": ({"b", "month"}, True)}),
        ("select count(*) as n from (select a, c from u) where c is not null", {"u": ({"c"}, False)}),
        (
            "select a from t where month = @period and exists (select 1 from u where u.a = t.a and u.month = @period)",
            {"t": ({"a", "month"}, True), "u": ({"a", "month"}, True)},
        ),
    ],
)
def test_the_columns_a_query_reads(sql: str, expected: dict[str, tuple[set[str], bool]]) -> None:
    """Only what is needed, once a table; a month that the text names by a parameter prunes, one taken from rows does not."""
    found = reads(sql, TINY, {"t": "month", "u": "month"})
    assert {name: (read.columns, read.is_pruned) for name, read in found.items()} == expected


def test_the_size_of_values() -> None:
    """As on the page "Data types" of BigQuery."""
    values = "1::bigint as i, 1.5::double as f, true as b, date '2026-10-01' as d, now() as t, 1.5::decimal(38, 22) as m, 'aé' as s, ['a', 'bc'] as l, null::varchar as n"
    sizes = column_bytes(duckdb.connect(), f"(select {values} union all select {values})")
    assert sizes == {"i": 16, "f": 16, "b": 2, "d": 16, "t": 16, "m": 64, "s": 10, "l": 14, "n": 0}


def test_small_tables_count_ten_mebibytes() -> None:
    """Each table a job reads, however small; months that are not pruned grow with what is kept."""
    scan = Scan("job", {"a": 1, "b": 100 * 2**20}, {"c": 20 * 2**20})
    assert scan.billed(1, 1) == (10 + 100 + 20) * 2**20
    assert scan.billed(2, 3) == (10 + 200 + 120) * 2**20
