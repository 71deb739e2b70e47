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

from runspend.allocation import adjacent_months as months_beside
from runspend.allocation import inputs, model_order
from runspend.config.settings import Settings
from runspend.schema.tables import DUCKDB_TYPES, TABLES
from runspend.warehouse.base import Model, Unit, UnitState
from runspend.warehouse.bigquery.publish import _script
from runspend.warehouse.bigquery.tables import Places
from runspend.warehouse.bigquery.units import StagedTable
from runspend.warehouse.content_digest import sums_sql
from runspend.warehouse.dialect import duckdb_sql, table_names
from runspend.warehouse.parquet.engine import FILLED, used
from runspend.warehouse.sql_files import read_sql
from tests.benchmarks.ledger_world import MONTH, make_ledger_world
from tests.benchmarks.measured import scaled
from tests.benchmarks.scanned import MINIMUM, column_bytes, reads

PACKAGE = Path(model_order.__file__).parent
RUNS, LINES = 1_000_000, 10_000_000
USD_PER_TIB = 6.25
PARTITIONS = {t.name: t.period_column for t in TABLES.values() if t.period_column is not None}
DAY = dt.date.fromisoformat(f"{MONTH}-01")
GIB, TIB = 2**30, 2**40
SWAPPED = {
    "runs": ("runs", "run_resources", "experiments", "artifact_owners", "trace_costs"),
    "a bill": ("billing_lines", "billing_quarantine", "billing_loads", "bill_changes"),
}
GROUPS: dict[str, str | tuple[str, ...]] = {
    "models": tuple(sorted({model.name for model in (*model_order.ledger_models(MONTH), *model_order.run_costs_models(MONTH))})),
    "checks": "check ",
    "digests and months of what they made": ("  sums of", "  months of"),
    "the swap": ("  insert into", "delete from"),
}


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
        """The models of one step, as BigQuery runs them: each whole, each a job."""
        for model in models:
            text = read_sql(PACKAGE / "models", model.name)
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
            self.scan(f"check {name}", read_sql(PACKAGE / "checks", name))

    def delete(self, names: set[str]) -> None:
        """A delete reads every column of the months it deletes from."""
        for name in sorted(names):
            self.scans.append(Scan(f"delete from {name}", {name: sum(self._sizes[name].values())}, {}))

    def scan(self, name: str, sql: str) -> None:
        """Note what a job would read of the current tables."""
        scan = Scan(name, {}, {})
        known = {table: self._columns[table] for table in table_names(sql)}
        for table, read in reads(sql, known, PARTITIONS).items():
            size = sum(self._sizes[table][c] for c in read.columns)
            (scan.monthly if table not in TABLES or read.months else scan.whole)[table] = size * max(read.months, 1)
        self.scans.append(scan)

    def make(self, name: str, sql: str, parameters: Mapping[str, Any] | None = None) -> None:
        """A table of these rows, in place of one of that name; its size is taken."""
        self.connection.execute(f"create or replace table {name} as {sql}", dict(parameters or {}))
        self._measure(name)

    def _measure(self, name: str) -> None:
        self._columns[name] = {column: kind for column, kind, *_ in self.connection.execute(f"describe {name}").fetchall()}
        self._sizes[name] = column_bytes(self.connection, name)


def run_chain(folder: Path, *, runs: int, lines: int) -> tuple[list[Scan], list[Scan]]:
    """Every job of one period and one start month over a fresh ledger of that size, and those that look whether they must be built."""
    make_ledger_world(folder, runs=runs, lines=lines, ladder=True)
    chain = Chain(folder)
    # as in the measured month: a tenth of the runs have artifacts
    chain.make("artifact_bytes", f"select * from artifact_bytes order by owner_id limit {runs // 10}")
    utc = dt.timezone.utc
    given = {
        **model_order.ledger_parameters(Settings.model_validate({})),
        "period": DAY,
        "window_start": dt.datetime(2026, 10, 1, tzinfo=utc),
        "window_end": dt.datetime(2026, 11, 1, tzinfo=utc),
        "jobs_from": dt.datetime(2026, 10, 1, tzinfo=utc),
        "jobs_until": dt.datetime(2026, 10, 1, tzinfo=utc),
    }
    ledger, lives = model_order.ledger_models(MONTH), model_order.run_costs_models(MONTH)
    chain.run(ledger, given)
    chain.check(model_order.LEDGER_CHECKS)
    chain.run(lives, given)
    chain.check(model_order.RUN_CHECKS)
    chain.delete({model.target for model in (*ledger, *lives) if model.into is not None})
    assert (
        chain.connection.execute("select sum(effective_cost) from cost_allocations").fetchone()
        == chain.connection.execute("select sum(effective_cost) from billing_lines").fetchone()
    )
    built, chain.scans = chain.scans, []
    for name, sql in {
        "what is charged": inputs.CHARGED,
        "how far bills reach": inputs.FRONTIERS,
        "where jobs go on": months_beside.JOBS_BEYOND,
        "times of clusters": months_beside.CLUSTER_TIMES_BEYOND,
        "whose artifacts, once for all months": inputs.ARTIFACT_RUNS,
        "relatives, once for all months": inputs.OLDER_RELATIVES,
    }.items():
        chain.scan(name, sql)
    return built, chain.scans


@pytest.mark.bench
@pytest.mark.timeout(3600)
def test_bytes_billed_of_a_month(tmp_path: Path) -> None:
    """A tenth of the measured month, multiplied; half of that tenth says whether multiplying is right."""
    runs, lines = scaled(RUNS) // 10, scaled(LINES) // 10
    scans, looks = run_chain(tmp_path / "whole", runs=runs, lines=lines)
    half, _ = run_chain(tmp_path / "half", runs=runs // 2, lines=lines // 2)
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
    for what, names in GROUPS.items():
        part = [scan for scan in scans if scan.name.startswith(names)]
        published = (
            sum(size for scan in part for tables in (scan.monthly, scan.whole) for table, size in tables.items() if table in TABLES)
            * factor
        )
        print(
            f"  {what}: {sum(scan.billed(factor, 1) for scan in part) / GIB:.1f} GiB billed, of it {published / GIB:.1f} GiB of tables that are published"
        )
    for look in looks:
        print(
            f"  look: {look.name}: {look.billed(factor, 1) / GIB:.2f} GiB, of it {sum(look.whole.values()) * factor / GIB:.2f} GiB per month kept"
        )
    for size in (1, 10, 100, 1000):
        for months in (1, 12, 36):
            build = sum(scan.billed(factor * size, months) for scan in scans)
            look_at_all = sum(look.billed(factor * size, months) * (1 if "once" in look.name else months) for look in looks)
            words = [f"{billed / TIB:.3f} TiB, {billed / TIB * USD_PER_TIB:.2f} USD" for billed in (build, look_at_all)]
            print(f"  {size:>5} x, {months:>2} months kept: a build {words[0]}; a look at all months {words[1]}")
    least = sum(len(scan.monthly) + len(scan.whole) for scan in scans) * MINIMUM
    print(f"  jobs: {len(scans)}; a month of next to nothing: {least / GIB:.2f} GiB, {least / TIB * USD_PER_TIB:.4f} USD")
    doubled = sum(scan.billed(factor * 2, 1) for scan in half)
    print(f"  the same from half the rows: {doubled / total:.3f} of it")
    assert 0.9 < doubled / total < 1.1


TINY = {"t": {"a": "INT64", "b": "STRING", "month": "DATE"}, "u": {"a": "INT64", "c": "STRING", "month": "DATE"}}


@pytest.mark.parametrize(
    ("sql", "expected"),
    [
        ("select a from t", {"t": ({"a"}, 0)}),
        ("with x as (select * from t) select a from x", {"t": ({"a"}, 0)}),
        ("select a from t where month = @period", {"t": ({"a", "month"}, 1)}),
        ("select t.a from t join u on u.a = t.a and u.month = @period", {"t": ({"a"}, 0), "u": ({"a", "month"}, 1)}),
        (
            "select a from t where month in (@period, cast(date_add(@period, interval 1 month) as date)) and b = 'x'",
            {"t": ({"a", "b", "month"}, 2)},
        ),
        ("select t.a from t join u on u.month = t.month where u.month = @period", {"t": ({"a", "month"}, 0), "u": ({"month"}, 1)}),
        ("select a from t where month = @period union all select a from t", {"t": ({"a", "month"}, 0)}),
        ("select a from t where month = @period or b = 'x'", {"t": ({"a", "b", "month"}, 0)}),
        ("select distinct x from t cross join unnest(split(b, ' ')) as x where month = @period", {"t": ({"b", "month"}, 1)}),
        ("select count(*) as n from (select a, c from u) where c is not null", {"u": ({"c"}, 0)}),
        (
            "select a from t where month = @period and exists (select 1 from u where u.a = t.a and u.month = @period)",
            {"t": ({"a", "month"}, 1), "u": ({"a", "month"}, 1)},
        ),
    ],
)
def test_the_columns_a_query_reads(sql: str, expected: dict[str, tuple[set[str], int]]) -> None:
    """Only what is needed, once a table; a month that the text names by a parameter prunes, one taken from rows does not."""
    found = reads(sql, TINY, {"t": "month", "u": "month"})
    assert {name: (read.columns, read.months) for name, read in found.items()} == expected


def test_values_have_the_size_that_bigquery_documents() -> None:
    """As on the page "Data types" of BigQuery."""
    values = "1::bigint as i, 1.5::double as f, true as b, date '2026-10-01' as d, now() as t, 1.5::decimal(38, 22) as m, 'aé' as s, ['a', 'bc'] as l, null::varchar as n"
    sizes = column_bytes(duckdb.connect(), f"(select {values} union all select {values})")
    assert sizes == {"i": 16, "f": 16, "b": 2, "d": 16, "t": 16, "m": 64, "s": 10, "l": 14, "n": 0}


def test_small_tables_count_ten_mebibytes() -> None:
    """Each table a job reads, however small; months that are not pruned grow with what is kept."""
    scan = Scan("job", {"a": 1, "b": 100 * 2**20}, {"c": 20 * 2**20})
    assert scan.billed(1, 1) == (10 + 100 + 20) * 2**20
    assert scan.billed(2, 3) == (10 + 200 + 120) * 2**20


def test_the_swap_of_twenty_years_is_one_query() -> None:
    """BigQuery takes a query of 1 MB and 10,000 parameters; a publish is one, however many months it replaces."""
    months = [f"{year}-{month:02}" for year in range(2010, 2030) for month in range(1, 13)]
    for what, tables in SWAPPED.items():
        for size in (12, 120, 240):
            units = {Unit(table, month if TABLES[table].period_column else "all", "prod") for table in tables for month in months[:size]}
            length, parameters = swap_size(units)
            print(f"  {what} of {size} months: {len(units)} units, {length:,} bytes, {parameters:,} parameters")
            assert length < 1_000_000 and parameters < 10_000


def swap_size(units: set[Unit]) -> tuple[int, int]:
    """Bytes and parameters of the script that replaces these units, with names as long as they get."""
    place = f"acme-data-platform.mlflow_costs_staging.runspend_extract_{'x' * 70}_1"
    extra = {"first_start": "2026-01-01T00:00:00+00:00", "last_end": "2026-02-01T00:00:00+00:00"}
    staged = {
        u: ((StagedTable(place, tuple(c.name for c in TABLES[u.table].columns)),), UnitState("d" * 64, 1, "b" * 32, extra)) for u in units
    }
    script = _script(Places("acme-data-platform", "mlflow_costs"), 1, "p" * 32, "b" * 32, staged, [])
    return len(script.sql.encode()), len(script.parameters)
