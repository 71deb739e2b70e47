"""What a team sees is the same on both engines: DuckDB's views, and what BigQuery is asked, answered by Google's reference implementation."""

from __future__ import annotations

import datetime as dt
from collections.abc import Sequence
from decimal import Decimal

import pytest

from runspend.config.access import Viewer
from runspend.config.exchange_rates import Stretch
from runspend.config.settings import Settings
from runspend.schema.public_views import VIEWS
from runspend.schema.tables import TABLES
from runspend.warehouse.bigquery.jobs import Statement
from runspend.warehouse.bigquery.tables import Places
from runspend.warehouse.bigquery.warehouse import BigQueryReader
from runspend.warehouse.factory import open_published
from runspend.warehouse.team_views import Restriction, tables_behind
from tests import access_world as w
from tests.reference import GoogleSQL, exact_rows
from tests.warehouse.test_exchange_on_reference import RATE

OWN = (("vision", "0123abcd"),)  # a budget and its version
PLACES = Places("acme", "runspend")
pytestmark = pytest.mark.timeout(1800)  # the reference interprets each question


class Asked(Exception):
    """Raised with the statement instead of sending it."""


class Recorder:
    """Takes the place of BigQuery's jobs: it keeps what would be sent."""

    def begin_session(self, **_: object) -> str:
        return "session"

    def ask(self, statement: object, **_: object) -> None:
        raise Asked(statement)


def sent(sql: str, rates: Sequence[Stretch] = ()) -> Statement:
    """What BigQuery is asked for a question of a member of vision, with `rates` in euros."""
    reader = BigQueryReader(Recorder(), PLACES, Restriction(("vision", "it's"), OWN))  # type: ignore[arg-type]  # what is used of Jobs
    with pytest.raises(Asked) as asked:
        (reader.in_currency("EUR", rates) if rates else reader).query(sql)
    statement: Statement = asked.value.args[0]
    return statement


@pytest.fixture(scope="module")
def settings(tmp_path_factory: pytest.TempPathFactory) -> Settings:
    return w.make_two_teams(tmp_path_factory.mktemp("teams"))


@pytest.mark.parametrize("name", [*TABLES, *VIEWS])
def test_both_engines_show_a_team_the_same_rows(name: str, settings: Settings, reference: GoogleSQL) -> None:
    """Row for row, to the last digit; and no name of another team."""
    sql = f"select * from {name}"
    with open_published(settings).reader() as whole:
        behind = {table for one in (VIEWS[name].over if name in VIEWS else [name]) for table in tables_behind(one)}
        tables = {PLACES.table(TABLES[table]): whole.query(f"select * from {table}") for table in behind}
    theirs = reference.query(sent(sql).sql, tables, {}).rows
    with open_published(settings.seen_by(Viewer(("x",), ("vision", "it's"), OWN))).reader() as reader:
        ours = reader.query(sql).to_pylist()
    assert exact_rows(ours) == exact_rows(theirs)
    if name not in w.OF_NOBODY:
        assert w.DECOY not in str(theirs)


def test_a_question_with_its_own_subqueries_reads_what_is_seen(settings: Settings, reference: GoogleSQL) -> None:
    sql = "with own as (select team, effective_cost from cost_daily) select team, sum(effective_cost) as cost from own group by team order by team"
    with open_published(settings).reader() as whole:
        rows = reference.query(
            sent(sql).sql, {PLACES.table(TABLES[name]): whole.query(f"select * from {name}") for name in tables_behind("cost_daily")}, {}
        ).rows
        (cost,) = whole.query("select sum(effective_cost) as cost from cost_daily")["cost"].to_pylist()
    assert {row[0] for row in rows} == {None, "other teams", "vision"}
    assert sum(Decimal(str(row[1])) for row in rows) == cost


@pytest.mark.parametrize("name", ["cost_daily", "run_costs", "unallocated_costs", "costs_for_dashboards"])
def test_money_of_a_team_in_another_currency_is_the_same_on_both(name: str, settings: Settings, reference: GoogleSQL) -> None:
    """This also holds in a query with a table that has no money."""
    rates = [Stretch("USD", dt.date(2026, 1, 1), dt.date(9999, 12, 31), 1, 3)]
    sql = f"select t.*, (select count(*) from runs) as runs from {name} t"
    statement = sent(sql, rates)
    with open_published(settings).reader() as whole:
        tables = {
            PLACES.table(table): whole.query(f"select * from {name}")
            for name, table in TABLES.items()
            if PLACES.table(table) in statement.sql
        }
    given = {key: (value, RATE) if isinstance(value, list) else value for key, value in statement.parameters.items()}
    theirs = reference.query(statement.sql, tables, given).rows
    with open_published(settings.seen_by(Viewer(("x",), ("vision", "it's"), OWN))).reader() as reader:
        ours = reader.in_currency("EUR", rates).query(sql).to_pylist()
        plain = reader.query(sql).to_pylist()
    assert exact_rows(ours) == exact_rows(theirs) != exact_rows(plain)
    # What a pool left unallocated has a name in unallocated_costs only, so it stays as billed for everyone.
    assert {row["billing_currency"] for row in ours if row.get("allocated_to") != "unallocated"} <= {"EUR", ""}
    assert {row["runs"] for row in ours} == {3} and w.DECOY not in str(ours)
