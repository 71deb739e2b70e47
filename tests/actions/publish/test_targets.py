"""Each target has exactly the rows of the warehouse, and changes are replaced. A killed publish leaves the old or the new rows."""

from __future__ import annotations

import errno
import json
import os
import select
import shutil
import signal
import socket
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from datetime import datetime, timezone
from decimal import Decimal
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import duckdb
import psycopg2
import pyarrow as pa
import pytest
from psycopg2.extensions import parse_dsn
from pydantic import SecretStr

from runspend.actions.publish import Found, Published, open_content
from runspend.actions.publish import content as content_module
from runspend.actions.publish import duckdb_file as duckdb_target
from runspend.actions.publish import iceberg as iceberg_target
from runspend.actions.publish import postgres as postgres_target
from runspend.actions.publish.content import BUILDS
from runspend.actions.publish.postgres import csv_rows
from runspend.config.publish import DuckDBTarget, IcebergTarget, PostgresTarget
from runspend.core.errors import SourceError, SourceUnreachable
from runspend.pipeline.publish import _publish_to
from runspend.schema.public_views import COST_DAILY_AT_POSTGRES
from runspend.schema.published import PUBLISHED_TABLES
from runspend.warehouse.base import Unit
from runspend.warehouse.factory import open_warehouse
from tests.actions.publish.seen import add_days, double_cost_daily, plain, see, tables_of
from tests.full_disk import full_disk

REPOSITORY = Path(__file__).parents[3]
NOW = datetime(2026, 10, 4, 6, tzinfo=timezone.utc)
Target = PostgresTarget | DuckDBTarget | IcebergTarget
KINDS = ("postgres", "duckdb", "iceberg")


def make_target(kind: str, folder: Path, postgres: str) -> Target:
    """Make an empty target of a kind."""
    if kind == "postgres":
        schema = f"runspend {folder.name}"  # this name needs quotes
        return PostgresTarget(name="grafana", kind="postgres", uri=postgres, schema=schema)  # type: ignore[arg-type,call-arg]
    if kind == "duckdb":
        return DuckDBTarget(name="laptop", kind="duckdb", file=folder / "out" / "costs.duckdb")
    catalog = {"type": "sql", "uri": f"sqlite:///{folder}/catalog.db", "warehouse": f"file://{folder}/lake"}
    return IcebergTarget(name="lake", kind="iceberg", catalog=catalog)  # type: ignore[arg-type]


@pytest.fixture
def target_of(tmp_path: Path, postgres: str) -> Callable[[str], Target]:
    """Make an empty target of a kind."""
    return lambda kind: make_target(kind, tmp_path, postgres)


def publish(home: Path, target: Target, now: datetime = NOW) -> Published:
    with open_content(open_warehouse(f"{home}/warehouse")) as content:
        return _publish_to(target, content, now)


def in_warehouse(home: Path) -> dict[str, pa.Table]:
    with open_warehouse(f"{home}/warehouse").reader() as reader:
        return {
            table.name: reader.query(f"select {', '.join(c.name for c in table.columns)} from {table.name}") for table in PUBLISHED_TABLES
        }


@pytest.mark.parametrize("kind", KINDS)
def test_a_target_has_the_rows_of_the_warehouse(kind: str, home: Path, target_of: Callable[[str], Target]) -> None:
    """The target has the same rows, and the view. A second publish copies nothing. A third copies only changes and removes a deleted month."""
    target = target_of(kind)
    first = publish(home, target)
    found = tables_of(target)
    assert {name: plain(rows) for name, rows in found.items() if name != BUILDS.name} == {
        n: plain(t) for n, t in in_warehouse(home).items()
    }
    whole = next(row for row in found[BUILDS.name] if row["table_name"] == "all")
    counted = sum(first.rows.values())
    assert (whole["build_id"], whole["row_count"], whole["published_at"]) == (first.build_id, counted, NOW) and counted > 30
    before = see(target)
    assert publish(home, target, NOW.replace(day=5)) == Published(first.build_id, is_new=False)
    assert see(target) == before

    double_cost_daily(home)
    second = publish(home, target, NOW.replace(day=6))
    assert second.build_id != first.build_id
    if kind != "duckdb":  # a DuckDB file is written as a whole
        assert set(second.rows) == {"cost_daily", "costs_for_dashboards"}
        when = {row["table_name"]: row["published_at"].day for row in tables_of(target)[BUILDS.name]}
        assert (when["cost_daily"], when["runs"], when["all"]) == (6, 4, 6)
    assert {n: plain(rows) for n, rows in tables_of(target).items() if n != BUILDS.name} == {
        n: plain(t) for n, t in in_warehouse(home).items()
    }

    warehouse = open_warehouse(f"{home}/warehouse")
    with warehouse.step("gone", "gone") as step:
        for unit in warehouse.states("cost_daily"):
            step.drop(*unit)
        assert step.publish()
    publish(home, target)
    left = tables_of(target)
    assert left["cost_daily"] == left["costs_for_dashboards"] == [] and left["runs"]
    assert not [row for row in left[BUILDS.name] if row["table_name"] == "cost_daily"]


@pytest.mark.parametrize("kind", ["postgres", "iceberg"])
@pytest.mark.parametrize("rows", [1, 3])
def test_rounded_costs_do_not_depend_on_the_files_that_days_are_in(
    kind: str, rows: int, home: Path, target_of: Callable[[str], Target], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Runspend computes large months some days at a time."""
    computed = []
    monkeypatch.setattr("runspend.actions.publish.content.ROWS_PER_FILE", rows)
    query_file = content_module._query_file
    monkeypatch.setattr("runspend.actions.publish.content._query_file", lambda *given: computed.append(given[0]) or query_file(*given))
    add_days(home)
    target = target_of(kind)
    publish(home, target)
    assert sum(" where charge_date >= " in sql for sql in computed) > 1
    assert {n: plain(found) for n, found in tables_of(target).items() if n != BUILDS.name} == {
        n: plain(t) for n, t in in_warehouse(home).items()
    }


def test_postgres_gets_every_text_list_and_number_as_it_is(postgres: str) -> None:
    """Only NUL is left out, because PostgreSQL's strings cannot contain it. A line with the end-of-copy mark of `psql` has no effect."""
    texts = ["", None, "NULL", '"', "a\n\\.\nb", "\\.", "\\", "a,b\r\n;", "\\N", "né\u2028", "'; drop table x", "x\0y"]
    lists = [[], None, [""], ["a", 'q"', "b\\"], ["{}", ",", "NULL"], [None, "a"], ["\n\\.\n"], *[["x"]] * 5]
    numbers = [0.1, None, float("inf"), float("-inf"), 1e-300, 2.5e17, -0.0, 1 / 3, 5e-324, 1.0, 123456789.123, 7.0]
    moments = [datetime(2026, 10, 25, 0, 30, 0, n, timezone.utc) if n else None for n in range(12)]
    money = [Decimal("0.0000000000000000000001"), None, Decimal("-9999999999999999.9999999999999999999999"), *[Decimal(1)] * 9]
    types = {"t": pa.string(), "l": pa.list_(pa.string()), "n": pa.float64(), "m": pa.timestamp("us", "UTC"), "c": pa.decimal128(38, 22)}
    rows = pa.table({"t": texts, "l": lists, "n": numbers, "m": moments, "c": money}, schema=pa.schema(list(types.items())))
    with closing(psycopg2.connect(postgres)) as connection, connection.cursor() as cursor:
        cursor.execute("create temp table x (t text, l text[], n float8, m timestamptz, c numeric(38,22))")
        stream = csv_rows.ByteStream(iter([*csv_rows.write_csv(rows[:5]), *csv_rows.write_csv(rows[5:])]))
        cursor.copy_expert("copy x from stdin (format csv)", stream, 7)
        cursor.execute("select * from x")
        found = cursor.fetchall()
    wanted = [tuple(row.values()) for row in rows.to_pylist()]
    assert found == [*wanted[:-1], ("xy", *wanted[-1][1:])]


POINTS = {
    "postgres": [*(f"publish.postgres.{name}" for name in ("cost_daily", "before_commit", "after_commit"))],
    "duckdb": [*(f"publish.duckdb.{name}" for name in ("cost_daily", "before_replace", "after_replace"))],
    "iceberg": ["publish.iceberg.cost_daily"],
}
DONE = ("publish.postgres.after_commit", "publish.duckdb.after_replace")
Seen = tuple[bool, dict[str, list[Any]]]


@pytest.fixture(scope="module")
def killed(made_home: Path, tmp_path_factory: pytest.TempPathFactory, postgres: str) -> dict[str, list[Seen]]:
    """Return what a reader sees after each step: a killed first publish, a whole one, a change of the warehouse, killed ones, a whole one."""
    asked = []
    for kind in KINDS:
        folder = tmp_path_factory.mktemp(kind)
        shutil.copytree(made_home, folder / "home")
        target = make_target(kind, folder, postgres)
        shown = target.model_dump(by_alias=True, mode="json")
        shown |= {"uri": target.uri.get_secret_value()} if isinstance(target, PostgresTarget) else {}
        asked.append(
            {
                "home": f"{folder / 'home'}",
                "target": shown,
                "steps": ["" if kind == "iceberg" else POINTS[kind][0], "", "double", *POINTS[kind], ""],
            }
        )
    done = subprocess.run(
        [sys.executable, "-m", "tests.actions.publish.killed", json.dumps(asked)],
        cwd=REPOSITORY, env={**os.environ}, capture_output=True, text=True, check=False, timeout=500,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return dict(zip(KINDS, map(json.loads, done.stdout.splitlines()), strict=True))


@pytest.mark.parametrize("kind", KINDS)
def test_a_killed_publish_leaves_the_old_or_the_new_build(kind: str, killed: dict[str, list[Seen]]) -> None:
    first, (_, old), changed, *between, (_, new) = killed[kind]
    assert first == ([False, old] if kind == "iceberg" else [True, {}])
    assert changed == [False, old] and new != old
    assert all(is_killed for is_killed, _ in between)
    for point, (_, found) in zip(POINTS[kind], between, strict=True):
        if kind == "iceberg":  # Iceberg has one commit per table: each table is old or new, and the table of builds is the last
            assert all(found[name] in (old[name], new[name]) for name in old), point
            assert found["cost_daily"] == new["cost_daily"] and found[BUILDS.name] == old[BUILDS.name]
        else:
            assert found == (new if point in DONE else old), point


def test_postgres_gets_names_without_nul(home: Path, target_of: Callable[[str], Target]) -> None:
    """MLflow's names can contain NUL, but PostgreSQL's strings cannot."""
    warehouse = open_warehouse(f"{home}/warehouse")
    unit = Unit("runs", "2026-10", "decoys")
    rows = warehouse.read(unit)
    assert rows is not None
    odd = pa.Table.from_pylist([row | {"run_name": "a\0b"} for row in rows.to_pylist()], rows.schema)
    with warehouse.step("odd", "odd") as step:
        step.put(*unit, odd)
        assert step.publish()
    target = target_of("postgres")
    publish(home, target)
    assert "ab" in {row["run_name"] for row in tables_of(target)["runs"]}


def test_postgres_keeps_grants_and_views_of_others(home: Path, target_of: Callable[[str], Target]) -> None:
    """Runspend does not recreate tables. They have comments, exact types, and indexes on dates."""
    target = target_of("postgres")
    assert isinstance(target, PostgresTarget)
    publish(home, target)
    schema = f'"{target.schema_name}"'
    with psycopg2.connect(target.uri.get_secret_value()) as connection, connection.cursor() as cursor:
        cursor.execute("create role grafana")
        cursor.execute(f"grant select on {schema}.cost_daily to grafana")
        cursor.execute(f"create view {schema}.mine as select team, sum(effective_cost) as cost from {schema}.cost_daily group by team")
        cursor.execute(f"alter table {schema}.cost_daily drop column project cascade")  # columns that an older version may not have had
        cursor.execute(f"alter table {schema}.cost_daily add column gone text")
    double_cost_daily(home)
    publish(home, target)
    with psycopg2.connect(target.uri.get_secret_value()) as connection, connection.cursor() as cursor:

        def ask(sql: str) -> list[tuple[Any, ...]]:
            cursor.execute(sql)
            return cursor.fetchall()

        table = f"'{schema}.cost_daily'::regclass"
        assert ask(f"select has_table_privilege('grafana', {table}, 'select')") == [(True,)]
        assert ask(f"select sum(cost) from {schema}.mine") == ask(f"select sum(effective_cost) from {schema}.costs_for_dashboards")
        assert ask(f"select count(project) > 0 from {schema}.cost_daily") == [(True,)]
        columns = ask(
            f"select attname, format_type(atttypid, atttypmod), col_description(attrelid, attnum) from pg_attribute where attrelid = {table} and attnum > 0 and not attisdropped"
        )
        described = {c.name: c for c in COST_DAILY_AT_POSTGRES.columns}
        assert {name for name, *_ in columns} == described.keys()
        assert all(comment == described[name].meaning for name, _, comment in columns)
        assert ("effective_cost", "numeric(38,22)") in [(name, type_) for name, type_, _ in columns]
        indexed = ask(f"select indexdef from pg_indexes where schemaname = '{target.schema_name}' and tablename = 'cost_daily'")
        assert sorted(text.rpartition("(")[2] for (text,) in indexed) == ["billing_period)", "charge_date)"]


@pytest.mark.parametrize("kind", KINDS)
def test_tables_that_runspend_did_not_make_are_never_changed(
    kind: str, home: Path, target_of: Callable[[str], Target], tmp_path: Path
) -> None:
    """MLflow's own database also has a table `runs`."""
    target = target_of(kind)
    if isinstance(target, PostgresTarget):
        with psycopg2.connect(target.uri.get_secret_value()) as connection, connection.cursor() as cursor:
            cursor.execute(f'create schema "{target.schema_name}"')
            cursor.execute(f'create table "{target.schema_name}".runs as select 7 as mine')
    elif isinstance(target, DuckDBTarget):
        target.file.parent.mkdir()
        target.file.write_bytes(b"mine")
    else:
        from pyiceberg.catalog import load_catalog

        catalog = load_catalog(target.name, **target.properties)
        catalog.create_namespace("runspend")
        catalog.create_table("runspend.runs", schema=pa.schema([("mine", pa.int64())]))
    with pytest.raises(SourceError, match=r"did not make\.|is not a file that `runspend publish` wrote"):
        publish(home, target)
    if isinstance(target, PostgresTarget):
        with psycopg2.connect(target.uri.get_secret_value()) as connection, connection.cursor() as cursor:
            cursor.execute(f'select mine from "{target.schema_name}".runs')
            assert cursor.fetchall() == [(7,)]
    elif isinstance(target, DuckDBTarget):
        assert target.file.read_bytes() == b"mine"


def forge_builds(target: DuckDBTarget, rows: str) -> None:
    """Write a file in which these rows (build_id, published_at) say that all tables have been published."""
    target.file.parent.mkdir()
    with duckdb.connect(target.file) as connection:
        connection.sql(f"create table {BUILDS.name} as select 'all' as table_name, * from (values ({rows})) t(build_id, published_at)")


@pytest.mark.parametrize("rows", ["'x', null::timestamptz", "null, now()", "'x', 'infinity'::timestamptz", "[1], now()"])
def test_forged_builds_in_a_duckdb_file_are_ignored(rows: str, home: Path, target_of: Callable[[str], Target]) -> None:
    target = target_of("duckdb")
    assert isinstance(target, DuckDBTarget)
    forge_builds(target, rows)
    assert publish(home, target).is_new


def test_a_duckdb_file_with_a_time_that_python_lacks_is_refused(home: Path, target_of: Callable[[str], Target]) -> None:
    target = target_of("duckdb")
    assert isinstance(target, DuckDBTarget)
    forge_builds(target, "'x', '200000-01-01'::timestamptz")
    before = target.file.read_bytes()
    with pytest.raises(SourceError, match="It was not changed"):
        publish(home, target)
    assert target.file.read_bytes() == before


def test_forged_builds_in_postgresql_are_ignored(home: Path, target_of: Callable[[str], Target]) -> None:
    """Runspend copies the parts that they name again, and ignores a name that is not a month."""
    target = target_of("postgres")
    assert isinstance(target, PostgresTarget)
    first = publish(home, target)
    before = {name: plain(rows) for name, rows in tables_of(target).items() if name != BUILDS.name}
    forged = (
        "insert into {t} values ('cost_daily', '13', 'x', 1, now()), ('cost_daily', 'all', 'x', 1, now()), ('runs', null, 'x', 1, now()), (null, null, null, null, null)",
        "update {t} set row_count = null",
        "update {t} set published_at = 'infinity'",
        "update {t} set published_at = null, build_id = null",
    )
    for statement in forged:
        with psycopg2.connect(target.uri.get_secret_value()) as connection, connection.cursor() as cursor:
            cursor.execute(statement.format(t=f'"{target.schema_name}".{BUILDS.name}') + "; ")
            cursor.execute(f"update \"{target.schema_name}\".{BUILDS.name} set build_id = 'x' where table_name = 'all'")
        postgres_target.probe(target)
        assert publish(home, target).build_id == first.build_id
        assert {name: plain(rows) for name, rows in tables_of(target).items() if name != BUILDS.name} == before


def test_deleted_months_are_removed_even_if_no_build_names_them(home: Path, target_of: Callable[[str], Target]) -> None:
    """Someone has emptied the table of builds, or an earlier version that does not know a table has written it."""
    target = target_of("postgres")
    assert isinstance(target, PostgresTarget)
    publish(home, target)
    with closing(psycopg2.connect(target.uri.get_secret_value())) as connection, connection, connection.cursor() as cursor:
        cursor.execute(f'delete from "{target.schema_name}".{BUILDS.name}')
    warehouse = open_warehouse(f"{home}/warehouse")
    with warehouse.step("gone", "gone") as step:
        for unit in warehouse.states("cost_daily"):
            step.drop(*unit)
        assert step.publish()
    publish(home, target)
    assert {n: plain(rows) for n, rows in tables_of(target).items() if n != BUILDS.name} == {
        n: plain(t) for n, t in in_warehouse(home).items()
    }


def test_code_of_other_users_does_not_run_with_the_rights_of_the_login(home: Path, target_of: Callable[[str], Target]) -> None:
    """Neither another user's operator nor a trigger on another user's table runs. This login is an administrator."""
    target = target_of("postgres")
    assert isinstance(target, PostgresTarget)
    publish(home, target)
    uri = target.uri.get_secret_value()
    with closing(psycopg2.connect(uri)) as connection, connection, connection.cursor() as cursor:
        cursor.execute("create schema theirs; create role mallory")
        cursor.execute("create function theirs.spring(bigint, numeric) returns boolean language plpgsql as 'begin raise ''sprung''; end'")
        cursor.execute("create operator theirs.<= (leftarg = bigint, rightarg = numeric, function = theirs.spring)")
    try:
        path = f"{uri}{'&' if '?' in uri else '?'}options=-c%20search_path%3Dtheirs,pg_catalog"
        assert not publish(home, target.model_copy(update={"uri": SecretStr(path)})).is_new
        with closing(psycopg2.connect(uri)) as connection, connection, connection.cursor() as cursor:
            cursor.execute(f'alter table "{target.schema_name}".cost_daily owner to mallory')
        with pytest.raises(SourceError, match=r"cost_daily in the schema .* belongs to mallory"):
            publish(home, target)
    finally:
        with closing(psycopg2.connect(uri)) as connection, connection, connection.cursor() as cursor:
            cursor.execute("drop schema theirs cascade; drop owned by mallory cascade; drop role mallory")


def test_a_view_in_place_of_the_table_of_builds_is_not_read(home: Path, target_of: Callable[[str], Target], tmp_path: Path) -> None:
    """The view could read any file of this account, or run forever."""
    target = target_of("duckdb")
    assert isinstance(target, DuckDBTarget)
    (tmp_path / "secret").write_text("hush")
    target.file.parent.mkdir()
    with duckdb.connect(target.file) as connection:
        text = f"select 'all' as table_name, content as build_id, now() as published_at from read_text('{tmp_path / 'secret'}')"
        connection.sql(f"create view {BUILDS.name} as {text}")
    before = target.file.read_bytes()
    for ask in (lambda: publish(home, target), lambda: duckdb_target.probe(target)):
        with pytest.raises(SourceError, match="is not a file that `runspend publish` wrote"):
            ask()
    assert target.file.read_bytes() == before


def metadata_of(target: IcebergTarget) -> Path:
    """Return the file with the metadata of cost_daily. Everyone who can write to the lake can change it."""
    with closing(sqlite3.connect(target.properties["uri"].removeprefix("sqlite:///"))) as catalog:
        ((place,),) = catalog.execute("select metadata_location from iceberg_tables where table_name = 'cost_daily'")
    return Path(place.removeprefix("file://"))


def forge(target: IcebergTarget, fields: dict[str, Any], properties: dict[str, str]) -> None:
    """Change the metadata and the build, so that the next publish reads the table."""
    file = metadata_of(target)
    metadata = json.loads(file.read_text()) | fields
    metadata["properties"] |= {iceberg_target.BUILD: "x"} | properties
    file.write_text(json.dumps(metadata))


@pytest.fixture
def lake(home: Path, target_of: Callable[[str], Target]) -> IcebergTarget:
    """An Iceberg target with cost_daily."""
    target = target_of("iceberg").model_copy(update={"tables": ["cost_daily"]})
    assert isinstance(target, IcebergTarget) and publish(home, target).is_new
    return target


def test_forged_parts_in_iceberg_are_ignored(home: Path, lake: IcebergTarget) -> None:
    """Runspend copies all rows again, each only once."""
    [month, *_] = json.loads(json.loads(metadata_of(lake).read_text())["properties"][iceberg_target.PARTS])
    before, when = see(lake)["cost_daily"], "2026-10-04T06:00:00+00:00"
    forged = (
        {}, {month: None}, {"13": ["x", 1, when]}, {"all": ["x", 1, when]}, {month: ["x", "many", when]}, {month: ["x", 10**30, when]},
        {month: ["x", 1, "0001-01-01T00:00:00+23:00"]},
    )  # fmt: skip
    for text in ("{", "[" * 100_000, *map(json.dumps, forged)):
        forge(lake, {}, {iceberg_target.PARTS: text})
        assert publish(home, lake).is_new
        assert see(lake)["cost_daily"] == before


def test_a_table_that_leads_pyiceberg_elsewhere_is_refused(home: Path, lake: IcebergTarget, tmp_path: Path) -> None:
    """Such a table could run a class, send Runspend's keys to another server, or write and delete any file."""
    decoy = tmp_path / "decoy" / "00001-a.metadata.json"
    decoy.parent.mkdir()
    decoy.write_text("precious")
    log = [{"metadata-file": f"file://{decoy}", "timestamp-ms": 1}]
    forged: tuple[tuple[dict[str, Any], dict[str, str], str], ...] = (
        ({}, {"py-io-impl": "subprocess.Popen"}, "has the property py-io-impl"),
        ({}, {"write.py-location-provider.impl": "subprocess.Popen"}, "has the property write.py"),
        ({}, {"s3.endpoint": "http://127.0.0.1:9"}, "has the property s3.endpoint"),
        ({}, {"write.data.path": f"{tmp_path}/lake/../decoy"}, "writes to .*decoy"),
        ({}, {"write.metadata.path": f"file:{tmp_path}/decoy"}, "writes to .*decoy"),
        ({"location": f"file://{tmp_path}/decoy"}, {}, "writes to .*decoy"),
        ({"metadata-log": log}, {"write.metadata.delete-after-commit.enabled": "true", "write.metadata.previous-versions-max": "1"}, "lists .*decoy"),
    )  # fmt: skip
    file = metadata_of(lake)
    whole = file.read_text()
    for fields, properties, why in forged:
        forge(lake, fields, properties)
        with pytest.raises(SourceError, match=why):
            publish(home, lake)
        assert [found.read_text() for found in decoy.parent.iterdir()] == ["precious"]
        file.write_text(whole)
    forge(lake, {}, {"write.metadata.delete-after-commit.enabled": "true"})  # in the table's own folder
    assert publish(home, lake).is_new


def test_errors_state_their_cause_without_a_password(home: Path, tmp_path: Path) -> None:
    nowhere = PostgresTarget(name="grafana", kind="postgres", uri="postgresql://u:canary-1@127.0.0.1:9/db")  # type: ignore[arg-type]
    with pytest.raises(SourceUnreachable, match=r"cannot publish to grafana: .*refused") as refused:
        publish(home, nowhere)
    assert "canary-1" not in str(refused.value) and str(refused.value).endswith("The schema runspend is unchanged.")
    catalog = {"type": "rest", "uri": "http://127.0.0.1:9", "token": "canary-2"}
    with pytest.raises(SourceUnreachable, match="cannot publish to lake") as refused:
        publish(home, IcebergTarget(name="lake", kind="iceberg", catalog=catalog))  # type: ignore[arg-type]
    assert "canary-2" not in str(refused.value)


@pytest.mark.parametrize("kind", ["duckdb", "iceberg"])
def test_a_full_disk_is_one_plain_sentence(kind: str, home: Path, tmp_path: Path) -> None:
    """The target keeps its rows, and no unfinished file stays on the full disk."""
    with full_disk(tmp_path / "disk") as disk:
        target = make_target(kind, disk, "")
        with pytest.raises(
            SourceError, match=rf"cannot publish to {target.name}: the disk is full.* Free space there, then run it again\. "
        ) as raised:
            publish(home, target)
        assert "SQL" not in str(raised.value) and "Error" not in str(raised.value)
        assert not [path for path in disk.rglob("*") if ".publishing" in path.name]


@pytest.mark.parametrize("kind", ["postgres", "duckdb"])
def test_a_target_gets_the_tables_that_it_names(kind: str, home: Path, target_of: Callable[[str], Target]) -> None:
    """DuckDB can have the view without its table. PostgreSQL also gets the table, and the rows of tables that are no longer named are deleted."""
    target = target_of(kind)
    publish(home, target)
    chosen = type(target)(**{**dict(target), "tables": ["costs_for_dashboards", "alerts"]})
    published = publish(home, chosen)
    assert published.is_new and not publish(home, chosen).is_new
    if isinstance(target, PostgresTarget):
        found = tables_of(target)
        assert found["run_costs"] == [] and len(found["cost_daily"]) == len(found["costs_for_dashboards"]) > 0
        assert {row["table_name"] for row in found[BUILDS.name]} <= {"cost_daily", "costs_for_dashboards", "alerts", "all"}
        assert postgres_target.probe(chosen).build_id == published.build_id  # type: ignore[arg-type]
    elif isinstance(target, DuckDBTarget):
        with duckdb.connect(target.file, read_only=True) as connection:
            assert {name for (name,) in connection.sql("select table_name from duckdb_tables()").fetchall()} == {
                "costs_for_dashboards", "alerts", BUILDS.name,
            }  # fmt: skip
            assert connection.sql("select count(*) > 0 from costs_for_dashboards").fetchall() == [(True,)]


def test_no_target_gets_addresses_of_mails() -> None:
    (alerts,) = (table for table in PUBLISHED_TABLES if table.name == "alerts")
    assert not {"message_id", "recipients"} & {column.name for column in alerts.columns}


def test_a_login_without_rights_is_found_before_a_publish(home: Path, target_of: Callable[[str], Target]) -> None:
    """The login may not create the schema, add a table, or replace another login's rows."""
    target = target_of("postgres")
    assert isinstance(target, PostgresTarget)
    with psycopg2.connect(target.uri.get_secret_value()) as connection, connection.cursor() as cursor:
        cursor.execute("create role guest login superuser password 'guest'")
        cursor.execute("alter role guest nosuperuser")
    guest = target.model_copy(update={"uri": SecretStr(as_login(target.uri.get_secret_value(), "guest"))})
    assert "guest may not create the schema" in (postgres_target.probe(guest).problem or "")
    assert postgres_target.probe(target) == Found()
    published = publish(home, target)
    assert "guest may not create tables" in (postgres_target.probe(guest).problem or "")
    with psycopg2.connect(target.uri.get_secret_value()) as connection, connection.cursor() as cursor:
        cursor.execute(f'grant all on schema "{target.schema_name}" to guest')
    assert "guest does not own alerts, budget_status" in (postgres_target.probe(guest).problem or "")
    assert postgres_target.probe(target) == Found(published.build_id, NOW)


def test_ctrl_c_leaves_no_half_written_file(home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    target = make_target("duckdb", tmp_path, "")
    monkeypatch.setattr(duckdb_target, "_fill", Mock(side_effect=KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        publish(home, target)
    assert not [path for path in tmp_path.rglob("*") if ".publishing" in path.name]


def as_login(uri: str, login: str) -> str:
    """Return the address with another login, whose password is its name."""
    from sqlalchemy.engine import make_url

    return make_url(uri).set(username=login, password=login).render_as_string(hide_password=False)


def test_an_error_while_rows_are_made_is_reported_unchanged(
    home: Path, target_of: Callable[[str], Target], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ctrl-C ends the command, and a full disk is reported as such. By itself, PostgreSQL would only report that COPY was canceled."""
    target = target_of("postgres")
    publish(home, target)
    before = see(target)
    double_cost_daily(home)
    for error, wanted, text in (
        (KeyboardInterrupt(), KeyboardInterrupt, None),
        (
            OSError(errno.ENOSPC, "No space left on device", "/scratch"),
            SourceError,
            r"cannot publish to grafana: the disk is full \(/scratch\)\.",
        ),
    ):
        for place in ("postgres.csv_rows._without_nul", "content._query_file"):
            with monkeypatch.context() as patched:
                patched.setattr(f"runspend.actions.publish.{place}", Mock(side_effect=error))
                with pytest.raises(wanted, match=text):
                    publish(home, target)
            assert see(target) == before
    assert publish(home, target).is_new


def test_a_signal_between_two_pieces_ends_the_publish(
    home: Path, target_of: Callable[[str], Target], monkeypatch: pytest.MonkeyPatch
) -> None:
    """For any exception in a signal's handler, psycopg2 only reports that reading failed. So Ctrl-C looked like a failed target."""
    target = target_of("postgres")
    publish(home, target)
    before = see(target)
    double_cost_daily(home)
    read = csv_rows.ByteStream.read

    def interrupted(stream: csv_rows.ByteStream, size: int) -> bytes:
        os.kill(os.getpid(), signal.SIGUSR1)
        time.sleep(0.1)
        return read(stream, size)

    former = signal.signal(signal.SIGUSR1, signal.default_int_handler)
    try:
        with monkeypatch.context() as patched:
            patched.setattr(csv_rows.ByteStream, "read", interrupted)
            with pytest.raises(KeyboardInterrupt):
                publish(home, target)
    finally:
        signal.signal(signal.SIGUSR1, former)
    assert see(target) == before
    assert publish(home, target).is_new


@contextmanager
def cut_at_commit(server: str, *, is_done: bool) -> Iterator[str]:
    """Yield the address of a relay to PostgreSQL that closes the connection at COMMIT, before or (with `is_done`) after the server executes it."""
    with socket.create_server(("127.0.0.1", 0)) as listening:

        def relay() -> None:
            client, _ = listening.accept()
            behind = socket.socket(socket.AF_UNIX)
            behind.connect(f"{parse_dsn(server)['host']}/.s.PGSQL.5432")
            with client, behind:
                while True:
                    for ready in select.select([client, behind], [], [])[0]:
                        data = ready.recv(65_536)
                        is_commit = ready is client and b"COMMIT\0" in data
                        if not data or (is_commit and not is_done):
                            return
                        (behind if ready is client else client).sendall(data)
                        if is_commit:
                            behind.recv(65_536)  # the server's answer
                            return

        thread = threading.Thread(target=relay)
        thread.start()
        yield f"postgresql://postgres@127.0.0.1:{listening.getsockname()[1]}/{parse_dsn(server)['dbname']}"
        thread.join()


def test_a_connection_lost_at_the_commit_may_have_published(home: Path, target_of: Callable[[str], Target]) -> None:
    target = target_of("postgres")
    assert isinstance(target, PostgresTarget)
    for is_done in (False, True):
        with (
            cut_at_commit(target.uri.get_secret_value(), is_done=is_done) as uri,
            pytest.raises(
                SourceUnreachable, match=r"cannot tell whether the publish to grafana succeeded: .* or what it had before\. The next"
            ),
        ):
            publish(home, target.model_copy(update={"uri": SecretStr(uri)}))
        assert bool(tables_of(target)) == is_done
    assert not publish(home, target).is_new


def test_a_target_does_not_fail_because_of_the_one_before(
    home: Path, target_of: Callable[[str], Target], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Runspend computes the rounded costs of the newest month once for all targets, but again if the disk was full."""
    target = target_of("postgres").model_copy(update={"tables": ["cost_daily"]})
    assert isinstance(target, PostgresTarget)
    full = OSError(errno.ENOSPC, "No space left on device", "/scratch")
    with open_content(open_warehouse(f"{home}/warehouse")) as content:
        with monkeypatch.context() as patched:
            patched.setattr("runspend.actions.publish.content._query_file", Mock(side_effect=full))
            with pytest.raises(SourceError, match="the disk is full"):
                _publish_to(target, content, NOW)
        assert not list(content.folder.iterdir())
        assert _publish_to(target, content, NOW).rows["cost_daily"] > 0
