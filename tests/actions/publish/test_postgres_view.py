"""In PostgreSQL, cost_daily has the rows and costs_for_dashboards is a view on it, even if an earlier version left a table there."""

from __future__ import annotations

import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path
from typing import Any

import psycopg2
import pytest
from pydantic import SecretStr

from runspend.actions.publish import postgres as postgres_target
from runspend.actions.publish.content import BUILDS
from runspend.config.publish import PostgresTarget
from runspend.core.errors import SourceError
from runspend.schema.published import PUBLISHED_TABLES
from tests.actions.publish.seen import double_cost_daily, plain, see, tables_of
from tests.actions.publish.test_targets import make_target, publish

TARGET = {"cost_daily", "costs_for_dashboards"}
VIEW_COLUMNS = next(table.columns for table in PUBLISHED_TABLES if table.name == "costs_for_dashboards")


@pytest.fixture
def target(tmp_path: Path, postgres: str) -> PostgresTarget:
    """An empty target whose name needs quotes."""
    target = make_target("postgres", tmp_path, postgres)
    assert isinstance(target, PostgresTarget)
    return target


@pytest.fixture
def ask(target: PostgresTarget) -> Callable[[str], list[tuple[Any, ...]]]:
    """Return a function that runs SQL as an administrator. `{s}` is the schema."""

    def run(sql: str) -> list[tuple[Any, ...]]:
        with closing(psycopg2.connect(target.uri.get_secret_value())) as connection, connection, connection.cursor() as cursor:
            cursor.execute(sql.replace("{s}", f'"{target.schema_name}"'))
            return cursor.fetchall() if cursor.description else []

    return run


def make_former(ask: Callable[[str], Any]) -> None:
    """Make two tables of a target as earlier versions did, before costs_for_dashboards was a view."""
    ask(
        """
        create table {s}.former as select * from {s}.costs_for_dashboards;
        drop view {s}.costs_for_dashboards;
        alter table {s}.former rename to costs_for_dashboards;
        comment on table {s}.costs_for_dashboards is 'Written by runspend publish.';
        alter table {s}.cost_daily
          drop column list_cost_rounded, drop column contracted_cost_rounded, drop column effective_cost_rounded, drop column billed_cost_rounded;
        create index on {s}.costs_for_dashboards (charge_date)
        """
    )


def rows_of(target: PostgresTarget) -> dict[str, list[str]]:
    return {name: plain(rows) for name, rows in tables_of(target).items() if name != BUILDS.name}


def kind_of(ask: Callable[[str], Any]) -> str:
    return str(ask("select relkind from pg_class where oid = '{s}.costs_for_dashboards'::regclass")[0][0])


def test_rows_are_there_once_and_columns_are_described(home: Path, target: PostgresTarget, ask: Callable[[str], Any]) -> None:
    """The view has the columns of tables.md in their order, and the rounded costs are those in cost_daily."""
    publish(home, target)
    found = ask(
        "select attname, format_type(atttypid, atttypmod), col_description(attrelid, attnum) from pg_attribute"
        " where attrelid = '{s}.costs_for_dashboards'::regclass order by attnum"
    )
    assert found == [(c.name, postgres_target.TYPES[c.type], c.meaning) for c in VIEW_COLUMNS]
    assert ask("select sum(effective_cost_rounded) from {s}.cost_daily") == ask(
        "select sum(effective_cost_rounded) from {s}.costs_for_dashboards"
    )
    plan = "\n".join(
        line for (line,) in ask("explain select sum(effective_cost) from {s}.costs_for_dashboards where charge_date = '2026-10-01'")
    )
    assert "cost_daily" in plan and "WindowAgg" not in plan and "Subquery" not in plan and "CTE" not in plan


def test_a_former_table_becomes_a_view(home: Path, target: PostgresTarget, ask: Callable[[str], Any]) -> None:
    """Both change in one transaction, so a killed publish leaves the table. Users keep their rights to the table or to some columns, and others get none."""
    publish(home, target)
    whole = rows_of(target)
    make_former(ask)
    ask(
        """
        create role graf_reader; create role some_columns; create role nobody;
        grant select on {s}.costs_for_dashboards to graf_reader with grant option;
        grant select (team, effective_cost) on {s}.costs_for_dashboards to some_columns;
        alter default privileges in schema {s} grant select on tables to nobody;
        create view {s}.mine as select sum(effective_cost) as cost from {s}.cost_daily
        """
    )
    assert rows_of(target) == whole and publish(home, target).is_new
    assert kind_of(ask) == "v" and rows_of(target) == whole
    assert ask("select cost from {s}.mine") == ask("select sum(effective_cost) from {s}.costs_for_dashboards")
    rights = "has_table_privilege('{}', '{{s}}.costs_for_dashboards', '{}')"
    assert ask(f"select {rights.format('graf_reader', 'select with grant option')}, {rights.format('graf_reader', 'insert')}") == [
        (True, False)
    ]
    assert ask(f"select {rights.format('some_columns', 'select')}, {rights.format('nobody', 'select')}") == [(False, False)]
    columns = ask(
        "select attname from pg_attribute where attrelid = '{s}.costs_for_dashboards'::regclass"
        " and has_column_privilege('some_columns', attrelid, attnum, 'select')"
    )
    assert sorted(columns) == [("effective_cost",), ("team",)]
    assert not publish(home, target).is_new


def test_readers_are_not_kept_waiting(home: Path, target: PostgresTarget) -> None:
    """A user who keeps a transaction open does not block a publish either."""
    publish(home, target)
    double_cost_daily(home)
    uri = target.uri.get_secret_value()
    with closing(psycopg2.connect(uri)) as reader, reader.cursor() as cursor:
        cursor.execute(f'select count(*) from "{target.schema_name}".costs_for_dashboards')
        hurried = f"{uri}{'&' if '?' in uri else '?'}options=-c%20lock_timeout%3D1s"
        assert publish(home, target.model_copy(update={"uri": SecretStr(hurried)})).is_new


@pytest.mark.parametrize(
    ("depends", "gone"),
    [
        ("create view {s}.mine as select team from {s}.costs_for_dashboards", "drop view {s}.mine"),
        ("alter table {s}.costs_for_dashboards enable row level security", "alter table {s}.costs_for_dashboards disable row level security"),
        ("create index mine on {s}.costs_for_dashboards (team)", "drop index {s}.mine"),
        ("create function {s}.mine() returns setof {s}.costs_for_dashboards language sql as 'select'", "drop function {s}.mine"),
    ],
)  # fmt: skip
def test_a_table_that_something_depends_on_stays_one(
    depends: str, gone: str, home: Path, target: PostgresTarget, ask: Callable[[str], Any]
) -> None:
    """The table has the rows of the view. The view replaces it when nothing depends on it any longer."""
    depends = depends.replace("as 'select'", "as 'select * from {s}.costs_for_dashboards'")
    both = target.model_copy(update={"tables": [*TARGET]})
    publish(home, both)
    make_former(ask)
    ask(depends)
    double_cost_daily(home)
    (note,) = publish(home, both).notes
    seen = see(target, *TARGET)
    assert kind_of(ask) == "r" and seen["cost_daily"] == seen["costs_for_dashboards"]
    assert note.startswith("costs_for_dashboards is still a table")
    again = publish(home, both)
    assert (again.is_new, again.notes) == (False, [note])
    ask(gone)
    publish(home, both)
    assert kind_of(ask) == "v" and see(target, *TARGET) == seen


def test_the_view_and_its_table_can_each_be_named_alone(home: Path, target: PostgresTarget, ask: Callable[[str], Any]) -> None:
    """The view also needs its table. A table that is no longer named has no rows, and later gets its rights back."""
    wanted: dict[str, list[str]] = {}
    for number, names in enumerate((["costs_for_dashboards"], ["cost_daily"], ["alerts"], ["costs_for_dashboards"])):
        chosen = PostgresTarget(name=target.name, kind="postgres", uri=target.uri, schema_name=target.schema_name, tables=names)
        assert publish(home, chosen).is_new and not publish(home, chosen).is_new
        there = {name for (name,) in ask("select relname from pg_class where relnamespace = '{s}'::regnamespace")}
        found = {name: ask(f"select * from {{s}}.{name} order by {name}::text") for name in TARGET & there}
        for name, rows in found.items():
            is_there = name in names or (name == "cost_daily" and "costs_for_dashboards" in names)
            assert (rows == wanted.setdefault(name, rows) != []) if is_there else rows == [], names
        if number == 0:
            ask("create role reader_of_one; grant select on {s}.costs_for_dashboards to reader_of_one")
    assert ask("select has_table_privilege('reader_of_one', '{s}.costs_for_dashboards', 'select')") == [(True,)]


def test_a_view_of_others_is_refused_and_another_version_of_ours_is_replaced(
    home: Path, target: PostgresTarget, ask: Callable[[str], Any]
) -> None:
    publish(home, target)
    whole = rows_of(target)
    ask("create role some_reader; grant select on {s}.costs_for_dashboards to some_reader")
    ask("drop view {s}.costs_for_dashboards; create view {s}.costs_for_dashboards as select 7 as team")
    with pytest.raises(SourceError, match=r"has a costs_for_dashboards that `runspend publish` did not make\."):
        publish(home, target)
    ask(
        "comment on view {s}.costs_for_dashboards is 'Written by runspend publish.'; grant select on {s}.costs_for_dashboards to some_reader"
    )
    publish(home, target)
    assert rows_of(target) == whole
    assert ask("select has_table_privilege('some_reader', '{s}.costs_for_dashboards', 'select')") == [(True,)]
    ask("alter table {s}.cost_daily drop column list_cost_rounded cascade")  # this also drops the view
    ask("alter table {s}.cost_daily drop column billing_period, add column billing_period text")  # now of another type
    publish(home, target)
    assert rows_of(target) == whole
    ask("alter table {s}.cost_daily add column former text")
    publish(home, target)
    assert rows_of(target) == whole


def test_rows_are_not_duplicated_after_a_downgrade_and_an_upgrade(home: Path, target: PostgresTarget, ask: Callable[[str], Any]) -> None:
    """An earlier version, which drops the additional columns, has published in the meantime, and someone has inserted a row."""
    publish(home, target)
    double_cost_daily(home)
    publish(home, target)
    whole = rows_of(target)
    make_former(ask)
    ask("insert into {s}.cost_daily select * from {s}.cost_daily limit 1")
    publish(home, target)
    assert kind_of(ask) == "v" and rows_of(target) == whole


@pytest.mark.parametrize("kind", ["view", "table"])
def test_readers_and_a_change_of_columns_do_not_wait_for_each_other(
    kind: str, home: Path, target: PostgresTarget, ask: Callable[[str], list[tuple[Any, ...]]]
) -> None:
    """The publish locks the view or the earlier table before cost_daily, in the same order as readers."""
    publish(home, target)
    whole = rows_of(target)
    if kind == "table":
        make_former(ask)
    else:
        ask(
            """
            drop view {s}.costs_for_dashboards;
            alter table {s}.cost_daily drop column list_cost_rounded;
            create view {s}.costs_for_dashboards as select team from {s}.cost_daily;
            comment on view {s}.costs_for_dashboards is 'Written by runspend publish.'
            """
        )
    waiting = "select count(*) from pg_locks where not granted"
    with closing(psycopg2.connect(target.uri.get_secret_value())) as other, other.cursor() as cursor, ThreadPoolExecutor(2) as threads:
        cursor.execute(f'lock table "{target.schema_name}".runspend_builds in access exclusive mode')
        going = threads.submit(publish, home, target)  # adds a column to cost_daily, and waits for the table of builds
        while ask(waiting) != [(1,)]:
            time.sleep(0.05)
        reading = threads.submit(ask, "lock table {s}.costs_for_dashboards in access share mode; select count(*) from {s}.cost_daily")
        while ask(waiting) == [(1,)]:
            time.sleep(0.05)
        other.rollback()
        assert going.result().is_new and reading.result() == [(len(whole["cost_daily"]),)]
    assert {name: len(rows) for name, rows in rows_of(target).items()} == {name: len(rows) for name, rows in whole.items()}


def test_a_login_that_quotes_all_names_changes_no_columns(home: Path, target: PostgresTarget, ask: Callable[[str], Any]) -> None:
    publish(home, target)
    uri = target.uri.get_secret_value()
    quoting = f"{uri}{'&' if '?' in uri else '?'}options=-c%20quote_all_identifiers%3Don"
    assert not publish(home, target.model_copy(update={"uri": SecretStr(quoting)})).is_new


def test_the_view_belongs_to_the_owner_of_its_table(home: Path, target: PostgresTarget, ask: Callable[[str], Any]) -> None:
    """A group owns the tables, and each of its logins may publish."""
    ask("create role runspend_group; create role one login in role runspend_group; create role two login in role runspend_group")
    ask("create schema {s} authorization runspend_group")
    publish(home, target)
    for (name,) in ask("select relname from pg_class where relnamespace = '{s}'::regnamespace and relkind = 'r'"):
        ask(f"alter table {{s}}.{name} owner to runspend_group")
    whole = rows_of(target)
    make_former(ask)
    ask(
        "alter table {s}.costs_for_dashboards owner to runspend_group; create role a_reader; grant select on {s}.costs_for_dashboards to a_reader"
    )
    for login, is_new in (("one", True), ("two", False)):
        uri = target.uri.get_secret_value().replace("postgres:@", f"{login}:@")
        assert publish(home, target.model_copy(update={"uri": SecretStr(uri)})).is_new == is_new
    assert rows_of(target) == whole
    owner = "select pg_get_userbyid(relowner) from pg_class where oid = '{s}.costs_for_dashboards'::regclass"
    assert ask(owner) == [("runspend_group",)]
    assert ask("select has_table_privilege('a_reader', '{s}.costs_for_dashboards', 'select')") == [(True,)]


def test_a_refusal_names_what_depends_on_a_column(home: Path, target: PostgresTarget, ask: Callable[[str], Any]) -> None:
    publish(home, target)
    ask("alter table {s}.run_costs add column former text; create view {s}.mine as select former from {s}.run_costs")
    with pytest.raises(
        SourceError, match=r"because other objects depend on it \(view .*mine depends on column former of table .*run_costs\)\."
    ):
        publish(home, target)


def test_the_view_keeps_its_options(home: Path, target: PostgresTarget, ask: Callable[[str], Any]) -> None:
    """With security_invoker, policies of cost_daily also apply to the view's readers. An upgrade must keep that option."""
    options = "select reloptions from pg_class where oid = '{s}.costs_for_dashboards'::regclass"
    both = target.model_copy(update={"tables": [*TARGET]})
    publish(home, both)
    ask("alter view {s}.costs_for_dashboards set (security_invoker=true, security_barrier)")
    wanted = [(["security_invoker=true", "security_barrier=true"],)]
    for change in (
        "comment on view {s}.costs_for_dashboards is 'View of another version. Written by runspend publish.'",  # the view is replaced
        "alter table {s}.cost_daily add column former text",  # the view is dropped
    ):
        ask(change)
        assert publish(home, both).is_new and ask(options) == wanted, change
