"""The queries of docs/tables.md give the expected rows, to the last decimal, in Runspend's reader and on Google's engine.

The page's snippets for other readers run unchanged.
"""

from __future__ import annotations

import re
from decimal import Decimal
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa
import pytest

from runspend.schema.tables import TABLES
from runspend.warehouse.dialect import table_names
from runspend.warehouse.parquet.warehouse import ParquetWarehouse
from tests.allocation.chain import World, build_on_duckdb, line, make_run, moment, query_reference
from tests.reference import GoogleSQL, exact_rows
from tests.sql_lint import lint

DOCS = Path(__file__).parents[2] / "docs"
QUERIES = {path.stem: path.read_text(encoding="utf-8") for path in sorted((DOCS / "example_queries").glob("*.sql"))}


def world() -> World:
    """Return three machines in October, with two sweeps of team vision, and other runs and charges.

    These are a failed run of team speech, a run without a team, a fee, and a database out of scope.
    """
    stated = [
        make_run(id="sweep", run_name="sweep 7", at="00:00..02:00", on=["gpu-1"], team="vision", user_name="ann", experiment_name="vit"),
        make_run(id="trial", at="00:00..01:00", on=["gpu-1"], parent="sweep", team="vision", user_name="ann", experiment_name="vit"),
        make_run(
            id="broken",
            at="00:00..01:00",
            on=["gpu-2"],
            gpu_count=2,
            team="speech",
            user_name="bob",
            run_status="FAILED",
            experiment_name="asr",
        ),
        make_run(
            id="nobody", at="00:00..01:00", on=["gpu-2"], gpu_count=1, run_status="KILLED", experiment_name="asr", parent="never seen"
        ),
        make_run(id="tune", at="00:00..01:00", on=[], team="vision", experiment_name="vit"),
        make_run(id="tune 1", at="00:00..01:00", on=["gpu-3"], parent="tune", team="vision", experiment_name="vit"),
        make_run(id="laptop", at="00:00..01:00", on=[], team="vision", experiment_name="vit"),
    ]
    return {
        "billing_lines": [
            line(0, on="gpu-1", at="00:00..01:00", cost="12.0000000000000000000001", invoice_id="inv-1"),
            line(1, on="gpu-1", at="01:00..02:00", cost="12.00", invoice_id="inv-1"),
            line(2, on="gpu-1", at="02:00..03:00", cost="12.00"),
            line(3, on="gpu-2", at="00:00..01:00", cost="10.00", source="eu", billing_currency="EUR"),
            line(6, on="gpu-3", at="00:00..01:00", cost="5.00", invoice_id="inv-1"),
            line(4, on=None, charge_category="Tax", cost="1.10", invoice_id="inv-1"),
            line(5, on="db", service_name="RDS", scope="exclude", cost="100.00", invoice_id="inv-1"),
        ],
        "billing_loads": [],
        "runs": [run for run, _ in stated],
        "run_resources": [row for _, rows in stated for row in rows],
    }


D = Decimal
# A third of 10 is 3.333333333333333 plus the rounding digits of a float. The parts still add up to 10.
EXPECTED: dict[str, list[tuple[Any, ...]]] = {
    "1_where_the_bill_went": [
        ("2026-10-01", "EUR", "run", D("10"), D("10")),
        ("2026-10-01", "USD", "out_of_scope", D("100"), D("100")),
        ("2026-10-01", "USD", "run", D("29.0000000000000000000001"), D("29.0000000000000000000001")),
        ("2026-10-01", "USD", "idle", D("12"), D("12")),
        ("2026-10-01", "USD", "shared", D("1.1"), D("1.1")),
    ],
    "2_what_each_team_spent": [
        ("2026-10-01", "EUR", "speech", D("6.666666666666666112"), D("6.666666666666666112")),
        ("2026-10-01", "EUR", "(untagged)", D("3.333333333333333888"), D("3.333333333333333888")),
        ("2026-10-01", "USD", "vision", D("29.0000000000000000000001"), D("29.0000000000000000000001")),
    ],
    "3_most_expensive_runs": [
        ("sweep", "sweep 7", "vit", "vision", "ann", "00:00", "USD", D("12"), D("24.0000000000000000000001"), "provisional"),
        ("broken", None, "asr", "speech", "bob", "00:00", "EUR", D("6.666666666666666112"), D("6.666666666666666112"), "provisional"),
        ("tune", None, "vit", "vision", None, "00:00", "USD", D("0"), D("5"), "none"),
        ("nobody", None, "asr", None, None, "00:00", "EUR", D("3.333333333333333888"), D("3.333333333333333888"), "provisional"),
    ],
    "4_what_failed_runs_cost": [
        ("2026-10-01", "asr", "EUR", 2, 2, D("10"), D("10")),
        ("2026-10-01", "vit", "USD", 3, 0, D("29.0000000000000000000001"), D("0")),
    ],
    "5_idle_machines": [
        ("2026-10-01", "gpu-1", "USD", D("36.0000000000000000000001"), D("12"), 2),
        ("2026-10-01", "gpu-2", "EUR", D("10"), D("0"), 2),
        ("2026-10-01", "gpu-3", "USD", D("5"), D("0"), 1),
    ],
    "6_reconcile_invoices": [
        ("2026-10-01", "aws", "(none)", "USD", D("112"), D("0")),
        ("2026-10-01", "aws", "inv-1", "USD", D("30.1000000000000000000001"), D("29.0000000000000000000001")),
        ("2026-10-01", "eu", "(none)", "EUR", D("10"), D("10")),
    ],
}


@pytest.fixture(scope="module")
def warehouse(tmp_path_factory: pytest.TempPathFactory) -> ParquetWarehouse:
    return build_on_duckdb(world(), tmp_path_factory.mktemp("warehouse"))


def test_there_are_six_and_each_says_what_it_answers() -> None:
    """Every file begins with a question, is on the page, and is tested here."""
    page = (DOCS / "tables.md").read_text(encoding="utf-8")
    assert QUERIES.keys() == EXPECTED.keys()
    for sql in QUERIES.values():
        question, _, text = sql.partition("\n")
        assert re.match(r"-- .*\?", question)
        assert text in page
        assert {TABLES[name].is_public for name in table_names(sql)} == {True}
        assert lint(sql) == []


@pytest.mark.parametrize("name", QUERIES)
def test_each_query_gives_the_expected_rows(warehouse: ParquetWarehouse, reference: GoogleSQL, name: str) -> None:
    """The rows come in the requested order, and Google's engine gives the same ones."""
    with warehouse.reader() as reader:
        answer = reader.query(QUERIES[name])
    got = [tuple(as_text(value) for value in row.values()) for row in answer.to_pylist()]
    assert got == [tuple(moment(v) if v == "00:00" else v for v in row) for row in EXPECTED[name]]

    tables = {table: pa.concat_tables([warehouse.read(unit) for unit in warehouse.states(table)]) for table in table_names(QUERIES[name])}
    theirs = query_reference(reference, QUERIES[name], tables, {})
    assert theirs.names == answer.column_names
    assert exact_rows(theirs.rows) == exact_rows(answer.to_pylist())


def as_text(value: Any) -> Any:
    """Return a date as a string, and other values unchanged."""
    return f"{value:%Y-%m-%d}" if hasattr(value, "year") and not hasattr(value, "hour") else value


def test_the_snippets_for_other_readers_give_the_same_sum(warehouse: ParquetWarehouse) -> None:
    """The page's code for pandas, polars, pyarrow, DuckDB and plain Python gives the bill as its total, to the last decimal."""
    page = (DOCS / "tables.md").read_text(encoding="utf-8")
    snippets = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    assert len(snippets) == 5
    duckdb.set_default_connection(duckdb.connect())  # other tests in this process may have left a default connection
    for snippet in snippets:
        names: dict[str, Any] = {"warehouse": str(warehouse.root)}
        exec(snippet, names)
        assert names["total"] == Decimal("152.1000000000000000000001"), snippet
