"""The public views have the documented columns on both engines, and their rounded costs add up to the ledger."""

from __future__ import annotations

import datetime as dt
import itertools
from decimal import ROUND_HALF_UP, Context, Decimal
from typing import Any

import duckdb
import pyarrow as pa
import pytest

from runspend.actions.explore.page import PART_WORDS
from runspend.schema.public_views import COSTS_FOR_DASHBOARDS, VIEWS
from runspend.schema.tables import ALLOCATED_TO, COST_DAILY, DUCKDB_TYPES, TABLES
from runspend.warehouse.dialect import duckdb_sql, table_names
from tests.reference import GoogleSQL, exact_rows
from tests.sql_lint import lint

COSTS = ("list_cost", "contracted_cost", "effective_cost", "billed_cost")


def daily(count: int = 60) -> pa.Table:
    """Return rows of two bills in two periods and two currencies. Most amounts are fractions of a cent, and some names are null."""
    rows = []
    teams, targets = itertools.cycle([None, "nlp", "vision"]), itertools.cycle(ALLOCATED_TO)
    for n, team, target in zip(range(count), teams, targets, strict=False):
        month = 10 + n % 2
        rows.append(
            dict.fromkeys(c.name for c in COST_DAILY.columns)
            | {
                "source": "aws" if n % 3 else "gcp",
                "billing_period": dt.date(2026, month, 1),
                "charge_date": dt.date(2026, month, 1 + n % 7),
                "service_name": f"service {n}" if n % 5 else None,
                "cost_kind": "compute",
                "allocated_to": target,
                "team": team if target in ("run", "idle") else None,
                "experiment_id": f"{n}" if target == "run" and n % 4 else None,
                "billing_currency": "EUR" if n % 10 == 9 else "USD",
                "cost_status": "final",
                "is_spread": n % 2 == 0,
                "list_cost": None,
                "contracted_cost": Decimal("-0.004999"),
                "effective_cost": Decimal("0.0049999999999999999999") * (1 + n % 4),
                "billed_cost": Decimal(n) / 8,
            }
        )
    return pa.Table.from_pylist(rows, schema=COST_DAILY.arrow_schema())


@pytest.fixture(scope="module")
def view() -> duckdb.DuckDBPyConnection:
    """A database with the view and the table that it reads."""
    connection = duckdb.connect()
    connection.register("cost_daily", daily())
    connection.execute(f"create view costs_for_dashboards as {duckdb_sql(COSTS_FOR_DASHBOARDS.sql)}")
    return connection


@pytest.mark.parametrize("name", VIEWS)
def test_a_view_has_the_columns_and_tables_that_are_described(name: str, view: duckdb.DuckDBPyConnection) -> None:
    described = VIEWS[name]
    found = view.execute(f"select column_name, column_type from (describe {name})").fetchall()
    assert found == [(c.name, DUCKDB_TYPES[c.type].replace("(38, 22)", "(38,22)")) for c in described.columns]
    assert table_names(described.sql) == {*described.over} and {*described.over} <= TABLES.keys()
    assert all(c.meaning for c in described.columns) and lint(described.sql) == []


def test_both_engines_show_the_same_rows(view: duckdb.DuckDBPyConnection) -> None:
    ours = view.execute("select * from costs_for_dashboards").fetchall()
    theirs = GoogleSQL().query(COSTS_FOR_DASHBOARDS.sql, {"cost_daily": daily()}, {})
    assert theirs.columns == [(c.name, c.type) for c in COSTS_FOR_DASHBOARDS.columns]
    assert exact_rows(ours) == exact_rows(theirs.rows) and len(ours) == 60


def test_texts_are_labels_and_never_null(view: duckdb.DuckDBPyConnection) -> None:
    names = [c.name for c in COSTS_FOR_DASHBOARDS.columns if c.type == "STRING" and c.name != "build_id"]
    nulls = ", ".join(f"count(*) - count({name})" for name in names)
    assert view.execute(f"select {nulls} from costs_for_dashboards").fetchall() == [(0,) * len(names)]
    assert dict(view.execute("select distinct allocated_to, part from costs_for_dashboards").fetchall()) == PART_WORDS
    found = view.execute("select distinct team, owner from costs_for_dashboards where allocated_to in ('run', 'idle', 'shared')").fetchall()
    assert {*found} == {
        ("(untagged)", "(untagged)"), ("nlp", "(untagged)"), ("vision", "(untagged)"),
        ("(idle)", "(idle)"), ("nlp", "(idle)"), ("vision", "(idle)"), ("(shared)", "(shared)"),
    }  # fmt: skip


def cents(amount: Decimal) -> Decimal:
    return amount.quantize(Decimal("0.01"), ROUND_HALF_UP, Context(prec=76))


@pytest.mark.parametrize("cost", ["contracted_cost", "effective_cost", "billed_cost"])
def test_rounded_costs_add_up_to_the_ledger(cost: str, view: duckdb.DuckDBPyConnection) -> None:
    """A period's costs add up to the cent. A bill, its day and a row differ from the ledger by at most a cent. Floats of any rows add up."""

    def sums(*keys: str) -> list[tuple[Any, ...]]:
        return view.execute(
            f"select sum({cost}), sum({cost}_rounded), sum({cost}_float) from costs_for_dashboards group by {', '.join(keys)}"
        ).fetchall()

    period = ("billing_period", "billing_currency")
    assert all(round(rounded, 6) == float(cents(exact)) for exact, rounded, _ in sums(*period))
    for keys in ((*period, "source"), (*period, "source", "charge_date"), tuple(c.name for c in COST_DAILY.columns if c.name not in COSTS)):
        assert all(abs(rounded - float(exact)) < 0.01 + 1e-9 for exact, rounded, _ in sums(*keys)), keys
    assert all(abs(of_floats - float(exact)) < 1e-9 for exact, _, of_floats in (*sums("team"), *sums("service_name")))


def test_a_cost_that_is_null_stays_null(view: duckdb.DuckDBPyConnection) -> None:
    assert view.execute("select count(list_cost_rounded), count(list_cost_float) from costs_for_dashboards").fetchall() == [(0, 0)]
