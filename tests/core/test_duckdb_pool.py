"""Engines are borrowed, and kept for the next user, who finds no trace of the previous one and can set all options."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from contextlib import AbstractContextManager, ExitStack
from pathlib import Path

import duckdb
import pyarrow as pa
import pytest

from runspend.core import duckdb_pool as engines

made: list[duckdb.DuckDBPyConnection] = []


def make() -> duckdb.DuckDBPyConnection:
    engine = duckdb.connect(":memory:")
    engine.execute("create schema kept; create table kept.rows as select 1 as a; create macro twice(x) as 2 * x")
    made.append(engine)
    return engine


@pytest.fixture(autouse=True)
def none_idle() -> Iterator[None]:
    """Each test begins and ends without an engine."""
    made.clear()
    yield
    for engine in engines._idle.pop("test", []):
        engine.close()


def lent(tmp_path: Path, memory: str = "200MB") -> AbstractContextManager[duckdb.DuckDBPyConnection]:
    return engines.borrow_connection("test", make, tmp_path / "spill", memory=memory)


def test_a_borrowed_connection_has_nothing_of_its_former_user(tmp_path: Path) -> None:
    """This covers tables, views, types, temporary and registered ones, variables and settings of the connection. Options of the engine stay."""
    with lent(tmp_path) as con:
        con.execute('create type colour as enum (\'red\'); create table "a ""b" (c colour); create view v as select * from "a ""b"')
        con.execute(
            "create temp table t as select 1 as a; create or replace temp macro half(x) as x / 2; set variable seen = 7; set TimeZone = 'Asia/Tokyo'"
        )
        con.register("w", pa.table({"a": [1]}))
        con.execute("set search_path = 'kept,main'")
    with lent(tmp_path) as con:
        assert con.execute("select count(*) from duckdb_tables() where schema_name <> 'kept'").fetchall() == [(0,)]
        assert con.execute("select count(*) from duckdb_views() where not internal").fetchall() == [(0,)]
        assert con.execute("select count(*) from duckdb_types() where type_name = 'colour'").fetchall() == [(0,)]
        assert con.execute("select getvariable('seen'), current_setting('TimeZone') <> 'Asia/Tokyo', current_schema()").fetchall() == [
            (None, True, "main")
        ]
        for gone in ("from t", "from w", "select half(2)", "from rows"):
            with pytest.raises(duckdb.CatalogException):
                con.execute(gone)
        assert con.execute("select a, twice(a) from kept.rows").fetchall() == [(1, 2)]
    assert len(made) == 1


def test_a_parser_is_kept_and_its_memory_limit_stays(tmp_path: Path) -> None:
    """Setting the limit would return the memory of a step that is running to the system."""

    def make_parser() -> duckdb.DuckDBPyConnection:
        made.append(duckdb.connect(config={"memory_limit": "123MB"}))
        return made[-1]

    waiting, engines._idle["parser"] = engines._idle.pop("parser", []), []
    try:
        for _ in range(2):
            with engines.borrow_parser(make_parser) as con:
                assert len(con.extract_statements("select 1; select 2")) == 2
                assert con.execute("select current_setting('memory_limit')").fetchall() == [("117.3 MiB",)]
        assert len(made) == 1
        with pytest.raises(ZeroDivisionError), engines.borrow_parser(make_parser):
            raise ZeroDivisionError
        assert engines._idle["parser"] == []
    finally:
        for engine in made:
            engine.close()
        engines._idle["parser"] = waiting


def test_memory_and_folder_are_those_of_who_asks(tmp_path: Path) -> None:
    for folder, memory, shown in (("one", "100MB", "95.3 MiB"), ("two", "300MB", "286.1 MiB")):
        with lent(tmp_path / folder, memory) as con:
            assert con.execute("select current_setting('memory_limit'), current_setting('temp_directory')").fetchall() == [
                (shown, str(tmp_path / folder / "spill"))
            ]
    assert len(made) == 1


def test_two_at_once_are_two(tmp_path: Path) -> None:
    with lent(tmp_path / "one") as one, lent(tmp_path / "two") as two:
        one.execute("create table t as select 1 as a")
        with pytest.raises(duckdb.CatalogException):
            two.execute("from t")
    assert len(made) == 2


def test_many_at_once_are_not_all_kept(tmp_path: Path) -> None:
    """After a burst of requests, the web pages do not keep an engine for each request, each with its threads."""
    with ExitStack() as several:
        for number in range(engines.KEPT + 3):
            several.enter_context(lent(tmp_path / str(number)))
    assert len(engines._idle["test"]) == engines.KEPT and len(made) == engines.KEPT + 3


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="this system does not say what memory a process has")
def test_memory_is_given_back(tmp_path: Path) -> None:
    """A waiting engine keeps none of its memory."""
    found = subprocess.run([sys.executable, "-c", FILLED], cwd=tmp_path, check=True, timeout=120, capture_output=True, text=True)
    before, full, after = map(int, found.stdout.split())
    assert full - before > 300 and after - before < (full - before) / 3, found.stdout


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
def test_a_connection_whose_user_failed_is_closed(tmp_path: Path, error: type[BaseException]) -> None:
    def fail() -> None:
        with lent(tmp_path) as con:
            con.execute("create table t as select 1 as a")
            raise error

    with pytest.raises(error):
        fail()
    with lent(tmp_path):
        assert len(made) == 2
    with pytest.raises(duckdb.ConnectionException):
        made[0].execute("select 1")


def test_one_that_is_locked_is_closed(tmp_path: Path) -> None:
    with lent(tmp_path) as con:
        con.execute("set enable_external_access = false; set lock_configuration = true")
    with lent(tmp_path):
        assert len(made) == 2


def test_one_that_spilled_is_closed(tmp_path: Path) -> None:
    """DuckDB accepts no other folder for an engine that has already spilled."""
    with lent(tmp_path, "60MB") as con:
        con.execute("set threads = 1; create table t as select range as a, repeat(hash(range)::varchar, 8) as b from range(600_000)")
        assert (tmp_path / "spill").exists()
    with lent(tmp_path / "next") as con:
        assert con.execute("select 1").fetchall() == [(1,)]
    assert len(made) == 2


FILLED = """
from pathlib import Path
import duckdb
from runspend.core import duckdb_pool as engines

def megabytes():
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096 // 1_000_000

with engines.borrow_connection("test", lambda: duckdb.connect(":memory:"), Path("spill"), memory="2GB") as con:
    before = megabytes()
    con.execute("create table t as select range as a, hash(range) as b, repeat(hash(range)::varchar, 2) as c from range(8_000_000)")
    full = megabytes()
assert len(engines._idle["test"]) == 1
print(before, full, megabytes())
"""

FORK = """
import os, sys
from contextlib import AbstractContextManager, ExitStack
from pathlib import Path
import duckdb
from runspend.core import duckdb_pool as engines

def ask():
    with engines.borrow_connection("test", lambda: duckdb.connect(":memory:"), Path("spill"), memory="100MB") as con:
        assert con.execute("select count(*) from range(1000000) where range % 3 = 0").fetchall() == [(333334,)]

ask()
assert len(engines._idle["test"]) == 1
child = os.fork()
if not child:
    assert engines._idle["test"] == []
    ask()
    sys.exit(7)  # through the interpreter's end, which closes what is there
assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 7
ask()
"""


def test_a_child_has_engines_of_its_own(tmp_path: Path) -> None:
    """An engine's threads do not exist in a child process. If the child used the engine, it would wait for them forever."""
    subprocess.run([sys.executable, "-W", "ignore", "-c", FORK], cwd=tmp_path, check=True, timeout=120)


def test_ctrl_c_during_a_query_is_no_error_of_the_engine(tmp_path: Path) -> None:
    """DuckDB's RuntimeError would look like a bug and be mailed. Other errors stay as they are. The engine is closed after both."""
    for shown, raised in (("Query interrupted", KeyboardInterrupt), ("Something else", RuntimeError)):
        with pytest.raises(raised), lent(tmp_path):
            raise RuntimeError(shown)
    assert engines._idle["test"] == []
