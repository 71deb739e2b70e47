"""Money in one currency is the same with both ways to convert it: DuckDB in views, or BigQuery in subqueries put before the question.

What BigQuery is asked is made of the question's text; Google's reference implementation answers it here, over the tables as they
are billed.
"""

from __future__ import annotations

import datetime as dt
from decimal import Decimal
from pathlib import Path

import pyarrow as pa
import pytest

from runspend.actions import report
from runspend.config.exchange_rates import Stretch
from runspend.schema.tables import TABLES
from runspend.warehouse.base import Reader
from runspend.warehouse.bigquery.exchange import in_one_currency
from runspend.warehouse.bigquery.tables import Places
from runspend.warehouse.currency_views import DATED, SUMMED
from runspend.warehouse.dialect import parameter_names, table_names
from runspend.warehouse.parquet.warehouse import ParquetWarehouse
from tests.allocation.chain import World, build_on_duckdb, line, make_run
from tests.reference import GoogleSQL, exact_rows

PLACES = Places("acme", "runspend")
# A third, a rate of many digits that changes, a currency without one.
RATES = [
    Stretch("EUR", dt.date(2026, 1, 1), dt.date(2026, 10, 2), 117310987654321, 10**14),
    Stretch("EUR", dt.date(2026, 10, 2), dt.date(9999, 12, 31), 1, 3),
    Stretch("JPY", dt.date(2026, 1, 1), dt.date(9999, 12, 31), 10**15 + 1, 15 * 10**16),
]
RATE = pa.list_(
    pa.struct(
        [
            ("currency", pa.string()),
            ("first_date", pa.date32()),
            ("end_date", pa.date32()),
            ("multiplier", pa.int64()),
            ("divisor", pa.int64()),
        ]
    )
)
TWICE = "with a as (select run_id, sum(effective_cost) as effective_cost from run_costs_daily group by run_id) select a.run_id, a.effective_cost, c.billed_cost from a join run_costs c on c.run_id = a.run_id"
FILES = Path(report.__file__).parent / "sql"
QUESTIONS = {
    **{name: f"select * from {name}" for name in (*DATED, *SUMMED)},
    "two tables": TWICE,
    **{name: (FILES / f"{name}.sql").read_text(encoding="utf-8") for name in ("parts", "top_runs", "unallocated", "waste_runs")},
}
MONTH = {"first": dt.date(2026, 10, 1), "next": dt.date(2026, 11, 1)}


def world() -> World:
    """Bills in four currencies over two days, credits and last decimals included; one run pays in two of them."""
    stated = [
        make_run(id="A", at="00:00..30:00", on=["m1", "m2"], run_status="FAILED"),
        make_run(id="B", at="00:20..01:00", on=["m2"]),
        make_run(id="C", at="25:00..26:00", on=["m3", "m4"], run_status="KILLED"),
    ]
    bills = (("us", "USD", "m1"), ("eu", "EUR", "m2"), ("jp", "JPY", "m3"), ("ch", "CHF", "m4"))
    lines = [
        line(100 * n + h, source=source, billing_currency=currency, on=machine, at=f"{h:02d}:00..{h + 1:02d}:00", cost=cost)
        for n, (source, currency, machine) in enumerate(bills)
        for h, cost in [
            (0, "10.0000000000000000000001"),
            (1, "-0.3333333333333333333333"),
            (25, "123456789.123456789"),
            *((h, f"{h}.{7 * h}12345678901234567{h}9") for h in range(2, 8)),
        ]
    ]
    return {
        "billing_lines": lines,
        "billing_loads": [],
        "runs": [run for run, _ in stated],
        "run_resources": [row for _, rows in stated for row in rows],
    }


@pytest.fixture(scope="module")
def warehouse(tmp_path_factory: pytest.TempPathFactory) -> ParquetWarehouse:
    return build_on_duckdb(world(), tmp_path_factory.mktemp("exchange"))


def ask_as_bigquery(reference: GoogleSQL, reader: Reader, sql: str) -> list[tuple[object, ...]]:
    """The rows of what BigQuery would be asked."""
    text, given = in_one_currency(sql, PLACES, "USD", RATES)
    tables = {PLACES.table(table): reader.query(f"select * from {name}") for name, table in TABLES.items() if PLACES.table(table) in text}
    tables |= {name: reader.query(f"select * from {name}") for name in table_names(sql) - {*DATED, *SUMMED} if name in TABLES}
    parameters = {name: (value, RATE) if isinstance(value, list) else value for name, value in {**given, **MONTH}.items()}
    return reference.query(text, tables, {name: value for name, value in parameters.items() if name in parameter_names(text)}).rows


@pytest.mark.parametrize("name", QUESTIONS)
def test_both_ways_give_the_same_money(name: str, warehouse: ParquetWarehouse, reference: GoogleSQL) -> None:
    """To the last of 22 decimals; what has no rate stays as it is billed."""
    sql = QUESTIONS[name]
    with warehouse.reader() as reader:
        given = {key: value for key, value in MONTH.items() if key in parameter_names(sql)}
        ours = reader.in_currency("USD", RATES).query(sql, given)
        theirs = ask_as_bigquery(reference, reader, sql)
        plain = reader.query(sql, given)
    assert exact_rows(ours.to_pylist()) == exact_rows(theirs)
    if name not in ("run_estimates", "estimate_errors"):  # a world without an estimate
        assert ours.num_rows and exact_rows(ours.to_pylist()) != exact_rows(plain.to_pylist())
        assert "CHF" in str(theirs) or name == "two tables"


def test_money_is_converted(warehouse: ParquetWarehouse) -> None:
    """Both could be wrong in the same way: one figure by hand."""
    with warehouse.reader() as reader:
        rows = (
            reader.in_currency("USD", RATES)
            .query("select effective_cost from cost_allocations where source = 'eu' and charge_date = date '2026-10-02'")
            .to_pylist()
        )
    assert sum(row["effective_cost"] for row in rows) == Decimal("41152263.041152263")
