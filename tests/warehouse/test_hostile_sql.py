"""SQL of people reads the warehouse's tables and does nothing else: a list of statements, statements made up from its pieces, and the engine by itself."""

from __future__ import annotations

import hashlib
import os
import random
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import duckdb
import pytest

from runspend.core.errors import SqlRefused
from runspend.schema.tables import TABLES
from runspend.warehouse.base import Unit
from runspend.warehouse.factory import open_warehouse
from runspend.warehouse.parquet.engine import create_view, guarded_engine, parser, restrict
from runspend.warehouse.parquet.read_only_files import ReadOnlyFiles, offered
from runspend.warehouse.parquet.warehouse import ParquetWarehouse
from runspend.warehouse.read_only_sql import check_only_reads, text_to_run
from runspend.warehouse.time_limit import time_limit
from tests.command import run_here, run_process
from tests.faults.world import PERIOD, rows_of

CORPUS = Path(__file__).with_name("hostile_sql.txt")
UNIT = Unit("runs", PERIOD, "prod")
SECRET = "hush-hush-hush"
# These take numbers for addresses in memory, or wait: straight on the engine they would end the test.
NOT_ON_THE_ENGINE = re.compile(r"arrow_scan|pandas_scan|python_map_function|seq_scan|sleep", re.IGNORECASE)
QUOTED = re.compile(r"\$(\w*)\$.*?\$\1\$|\be'(?:\\.|[^'\\])*'|'[^']*'|\"[^\"]*\"|`[^`]*`|--.*|/\*.*?\*/", re.IGNORECASE)
# What the guard must keep from it, once quoted strings are ''. Elsewhere these names are of columns, tables or types (`sleep_ms(1) 'a'` is a string of a
# type), or of table functions in the place of others, which do not run.
CALLS = re.compile(
    r"\b(?:pg_sleep|sleep_ms)\s*\((?![^()]*\)\s*'')|\b(?:from|join)\s+\w*(?:arrow_scan|pandas_scan|map_function|seq_scan)\s*\(",
    re.IGNORECASE,
)


class World:
    """A small warehouse with a secret beside it, and what must not change."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.root = folder / "warehouse"
        with ParquetWarehouse(self.root).step("fill", "b") as step:
            step.put(*UNIT, rows_of(TABLES["runs"]))
            step.put("cost_daily", PERIOD, "all", rows_of(TABLES["cost_daily"]))
            step.publish()
        (folder / "secret.csv").write_text(f"{SECRET}\n1\n", encoding="utf-8")
        self.before = self.files()

    def files(self) -> dict[str, str]:
        """Every file by its digest."""
        return {str(p): hashlib.sha256(p.read_bytes()).hexdigest() for p in self.folder.rglob("*") if p.is_file()}

    def fill_in(self, statement: str) -> str:
        """The statement about this world."""
        names = {
            "unit": ParquetWarehouse(self.root).path(UNIT),
            "out": self.folder / "out",
            "secret": self.folder / "secret.csv",
            "folder": self.folder,
        }
        for name, path in names.items():
            statement = statement.replace(f"{{{name}}}", str(path))
        return statement.replace("{{", "{").replace("}}", "}")


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    """One for all tests: nothing changes it."""
    return World(tmp_path_factory.mktemp("world"))


def corpus(dialect: str) -> list[tuple[str, str]]:
    """(outcome, statement) of the list."""
    found = []
    for line in CORPUS.read_text(encoding="utf-8").splitlines():
        if not line.startswith("#"):
            which, outcome, statement = line.split(" | ", 2)
            if which in (dialect, "both"):
                plain = re.sub(r"\\([n0\\])", lambda m: {"n": "\n", "0": "\0", "\\": "\\"}[m[1]], statement)
                found.append((outcome, plain))
    return found


@pytest.mark.parametrize("dialect", ["native", "googlesql"])
def test_no_statement_of_the_list_does_more_than_read(world: World, dialect: str) -> None:
    """What is refused is refused in one sentence with exit 2, what only reads is answered; no file changes or appears, no secret is seen."""
    warehouse = open_warehouse(str(world.root))
    statements = corpus(dialect)
    assert len(statements) > 250
    for outcome, statement in statements:
        if outcome == "refused":
            with pytest.raises(SqlRefused) as error:
                warehouse.answer(world.fill_in(statement), native=dialect == "native", timeout=20)
            message = str(error.value)
            assert error.value.exit_code == 2 and message.startswith("cannot ") and message.endswith(".") and message.isprintable(), message
        else:
            message = str(warehouse.answer(world.fill_in(statement), native=dialect == "native", timeout=20).to_pylist())
        assert SECRET not in message, statement
        assert world.files() == world.before, statement


@pytest.mark.parametrize(
    "statement",
    [
        "with x as (copy (select 1 as a) to '{unit}' (format parquet)) select * from x",
        "explain analyze copy (select 1 as a) to '{unit}' (format parquet)",
        "with x as (insert into never.rows values (2) returning *) select * from x",
        "select pg_sleep(80)",
    ],
)
def test_the_command_exits_with_2_and_explains_why(world: World, statement: str, tmp_path: Path) -> None:
    """`runspend sql --native`, as people type it."""
    home = tmp_path / "home"
    (tmp_path / "runspend.yaml").write_text(f"home: {home}\nwarehouse: {{uri: {world.root}}}\n", encoding="utf-8")
    command = ("sql", "--quiet", "--config", str(tmp_path / "runspend.yaml"))
    started = time.monotonic()
    done = run_here(*command, "--native", world.fill_in(statement), code=2)
    assert done.stderr.startswith("error: cannot run the SQL: the warehouse is read-only here") and done.stderr.count("\n") == 1, (
        done.stderr
    )
    assert time.monotonic() - started < 30
    assert world.files() == world.before
    assert run_here(*command, "select count(*) as n from runs").stdout.split() == ["n", "50"]
    done = run_here(
        *command, "--native", "--timeout", "0.5", "select count(*) as n from range(1000000) a, range(1000000) b, range(1000000) c", code=2
    )
    assert "took longer than 0.5 s" in done.stderr


# --- statements made up from pieces ---------------------------------------------------------------------------------------


class Maker:
    """Statements made of pieces of the list, DuckDB's keywords and its functions."""

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)
        self.statements = [statement for dialect in ("native", "googlesql") for _, statement in corpus(dialect)]
        with parser() as connection:
            self.keywords = sorted(word for (word,) in connection.execute("select keyword_name from duckdb_keywords()").fetchall())
            names = connection.execute(
                "select distinct function_name from duckdb_functions() where regexp_matches(function_name, '^[a-z]')"
            ).fetchall()
        self.functions = sorted(name for (name,) in names)
        self.tokens = [re.findall(r"'[^']*'|\"[^\"]*\"|\w+|\s+|[^\w\s]", statement) for statement in self.statements]

    def make(self) -> str:
        """The next one."""
        pick = self.random
        tokens = list(pick.choice(self.tokens)) or ["select"]
        for _ in range(pick.randint(1, 4)):
            place = pick.randrange(len(tokens) + 1)
            change = pick.randrange(7)
            if change == 0:
                tokens.insert(place, f" {pick.choice(self.keywords)} ")
            elif change == 1:
                tokens[place:place] = pick.choice(self.tokens)
            elif change == 2:
                tokens[place : place + pick.randint(1, 3)] = []
            elif change == 3:
                tokens.insert(place, f" {pick.choice(self.functions)}('{{secret}}') ")
            elif change == 4:
                tokens = ["with x as (", *tokens, ") select * from x"]
            elif change == 5:
                tokens = [
                    pick.choice(("explain ", "explain analyze ", "describe ", "summarize ", "select * from (", "(", "/* ")),
                    *tokens,
                    pick.choice((")", "", ";", " */")),
                ]
            else:
                tokens.insert(
                    place,
                    pick.choice(
                        ("'", '"', "$$", "--", "/*", "*/", ";", "(", ")", "\0", "\n", "e'\\''", "copy (select 1 as a) to '{unit}'")
                    ),
                )
        return "".join(tokens)


@contextmanager
def engine(world: World) -> Iterator[tuple[duckdb.DuckDBPyConnection, Path]]:
    """The engine that answers people, as it is when it is asked, and the folder it may spill into."""
    path = ParquetWarehouse(world.root).path(UNIT)
    with (
        tempfile.TemporaryDirectory(dir=world.folder.parent) as scratch,
        guarded_engine(Path(scratch) / "spill") as connection,
        offered([path]) as names,
    ):
        create_view(connection, TABLES["runs"], [names[path]], [c.name for c in TABLES["runs"].columns])
        restrict(connection, names.values())
        connection.execute("begin transaction read only")
        yield connection, Path(scratch)


def run(connection: duckdb.DuckDBPyConnection, statement: str) -> object:
    """Some rows of it; nothing where there was nothing to run."""
    answer = connection.execute(statement)
    return None if answer is None else answer.fetchmany(1000)  # type: ignore[redundant-expr]  # DuckDB's own types do not say so


def fuzz_guard(world: World, seed: int, seconds: float, most: int) -> tuple[int, int]:
    """How many statements were made up and how many of them only read, which then ran."""
    maker, ends, made, ran = Maker(seed), time.monotonic() + seconds, 0, 0
    with engine(world) as (connection, _), parser() as looker:
        while made < most and time.monotonic() < ends:
            made += 1
            statement = world.fill_in(maker.make())
            try:
                check_only_reads(looker, statement)
            except SqlRefused:
                continue
            ran += 1
            assert not CALLS.search(QUOTED.sub("''", statement)), statement
            with connection.cursor() as cursor:
                try:
                    cursor.execute("begin transaction read only")
                    with time_limit(cursor.interrupt, 5):
                        rows = run(cursor, statement)
                except (duckdb.Error, SqlRefused):
                    continue
            assert SECRET not in str(rows), statement
            if ran % 20 == 0:
                assert world.files() == world.before, statement
    assert world.files() == world.before
    return made, ran


def fuzz_engine(world: World, seed: int, seconds: float, most: int) -> int:
    """Return how many statements ran without a check. Writing is impossible, not only refused."""
    maker, ends, made = Maker(seed), time.monotonic() + seconds, 0
    while made < most and time.monotonic() < ends:
        with engine(world) as (connection, _):
            for _ in range(25):
                statement = world.fill_in(maker.make())
                if NOT_ON_THE_ENGINE.search(statement):
                    continue
                made += 1
                try:
                    with time_limit(connection.interrupt, 5):
                        rows = run(connection, statement)
                except (duckdb.Error, SqlRefused):
                    continue
                assert SECRET not in str(rows), statement
                assert world.files() == world.before, statement
    assert world.files() == world.before
    return made


def test_statements_assembled_from_pieces_do_not_write_either(world: World) -> None:
    """Tests the guard and the statements that it accepts, with a fixed seed."""
    made, ran = fuzz_guard(world, seed=17, seconds=20, most=2500)
    assert made > 100 and ran > 0


def test_the_engine_by_itself_cannot_write(world: World) -> None:
    """Statements of the list straight to the engine, past the guard: the warehouse and its neighborhood stay as they are."""
    statements = [s for o, s in corpus("native") if o == "refused" and not NOT_ON_THE_ENGINE.search(s)]
    for start in range(0, len(statements), 20):
        with engine(world) as (connection, scratch):
            for statement in statements[start : start + 20]:
                try:
                    with time_limit(connection.interrupt, 20):
                        rows = run(connection, world.fill_in(statement))
                except (duckdb.Error, SqlRefused):
                    continue
                assert SECRET not in str(rows), statement
            assert world.files() == world.before, statements[start : start + 20]
            assert [p for p in scratch.rglob("*") if p.is_file()] == [], statements[start : start + 20]


@pytest.mark.torture
@pytest.mark.timeout(1500)
@pytest.mark.parametrize("seed", range(4))
def test_no_generated_statement_writes_in_a_long_run(world: World, seed: int) -> None:
    """The same for longer, guard and bare engine."""
    seconds = float(os.environ.get("RUNSPEND_FUZZ_SECONDS", "120"))
    made, ran = fuzz_guard(world, seed, seconds, 10**9)
    print(
        f"seed {seed}: {made:,} statements looked through, {ran:,} ran; {fuzz_engine(world, seed, seconds, 10**9):,} straight to the engine"
    )


# --- what the parts promise -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "statement",
    [
        "copy (select 1 as a) to '{name}' (format parquet)",
        "copy (select 1 as a) to '{name}' (format parquet, use_tmp_file false)",
        "copy (select 1 as a) to '{spill}/../pinned.parquet' (format parquet)",
        "copy (select 1 as a) to '{spill}/../../out.csv'",
        "attach '{spill}/../other.db'",
        "create table t as select 1 as a",
        "create view v as select 1 as a",
        "create or replace view runs as select 1 as a",
    ],
)
def test_a_statement_cannot_write_to_its_own_names(world: World, statement: str) -> None:
    """The engine and the file system refuse writes to the names that the engine reads, and to paths outside of its spill folder."""
    path = ParquetWarehouse(world.root).path(UNIT)
    with (
        tempfile.TemporaryDirectory(dir=world.folder.parent) as scratch,
        guarded_engine(Path(scratch) / "spill") as connection,
        offered([path]) as names,
    ):
        pinned = Path(scratch) / "pinned.parquet"
        pinned.symlink_to(path)
        (Path(scratch) / "spill").mkdir()
        restrict(connection, [names[path], names[path].replace("0-", "tmp_0-")])
        connection.execute("begin transaction read only")
        with pytest.raises((duckdb.Error, PermissionError)):
            connection.execute(statement.format(name=names[path], spill=Path(scratch) / "spill"))
    assert world.files() == world.before


@pytest.mark.parametrize("mode", ["wb", "ab", "r+b", "w", "xb", "rb+"])
def test_the_files_refuse_to_be_written(world: World, mode: str) -> None:
    """Opening one for anything but reading is an error, and there is no other way in."""
    path = ParquetWarehouse(world.root).path(UNIT)
    files = ReadOnlyFiles()
    with offered([path]) as names:
        with pytest.raises(PermissionError):
            files.open(names[path], mode)
        for name in ("rm", "mv", "touch", "mkdir", "makedirs", "cp_file", "put_file", "pipe_file", "rm_file", "rmdir"):
            with pytest.raises(PermissionError):
                getattr(files, name)(names[path], names[path])
        assert files.open(names[path]).read() == path.read_bytes()
        assert files.exists(names[path]) and not files.exists(names[path] + "x") and files.glob("published://*") == []
    assert not files.exists(names[path])
    with pytest.raises(FileNotFoundError):
        files.open(names[path])


@pytest.mark.parametrize("native", [True, False])
@pytest.mark.parametrize("depth", [12, 100, 300, 3000, 30000])
def test_a_statement_nested_as_deeply_as_you_like_is_a_sentence(world: World, depth: int, native: bool) -> None:
    """Parentheses, subqueries and sums without end are refused or answered, never an error of Python's."""
    for statement in (
        f"select {'(' * depth}1{')' * depth} as a",
        f"{'select * from (' * depth}select 1 as a{')' * depth}",
        "select " + "+".join(["1"] * depth) + " as a",
        f"select {'struct(' * depth}1{')' * depth} as a",
        f"select {'date(if[f(' * depth}1{')])' * depth} as a",
        f"{'with a as (' * depth}select 1 as a{') select * from a' * depth}",
    ):
        with suppress(SqlRefused):
            text_to_run(statement, native=native)


@pytest.mark.parametrize(
    "statement",
    [
        "select count(*) as n from range(1000000) a, range(1000000) b, range(1000000) c",
        "with recursive r as (select 1 as n union all select n + 1 from r) select max(n) as n from r",
        "select count(*) as n from runs a, runs b, runs c, runs d, runs e, runs f where a.run_id || b.run_id || c.run_id like '%x%y%' || f.run_id",
    ],
)
def test_a_question_without_end_is_stopped(world: World, statement: str) -> None:
    """A limit of time ends it with a sentence, and the warehouse is free at once."""
    warehouse = open_warehouse(str(world.root))
    started = time.monotonic()
    with pytest.raises(SqlRefused, match=r"took longer than 1 s and was stopped|Memory") as error:
        warehouse.answer(statement, native=True, timeout=1)
    assert "Nothing was changed" in str(error.value) or "Memory" in str(error.value)
    assert time.monotonic() - started < 30


def test_one_piece_of_work_without_end_is_stopped_too(world: World, tmp_path: Path) -> None:
    """What the engine does not interrupt ends with the process, with the same sentence and exit code."""
    (tmp_path / "runspend.yaml").write_text(f"home: {tmp_path / 'home'}\nwarehouse: {{uri: {world.root}}}\n", encoding="utf-8")
    started = time.monotonic()
    statement = "select list_sum(list_transform(range(100000000), lambda x: sqrt(x) * sin(x) * cos(x) * tan(x))) as n"
    done = run_process("sql", "--quiet", "--config", str(tmp_path / "runspend.yaml"), "--native", "--timeout", "0.5", statement, code=2)
    assert "took longer than 0.5 s" in done.stderr and done.stdout == ""
    assert time.monotonic() - started < 40


def test_sleeping_is_stopped_too() -> None:
    """DuckDB's own sleep, which the guard refuses, would not get past the limit of time either."""
    with duckdb.connect(":memory:") as connection:
        started = time.monotonic()
        with pytest.raises(SqlRefused, match="took longer than 1 s"), time_limit(connection.interrupt, 1):
            connection.execute("select pg_sleep(20) from range(2)")
        assert time.monotonic() - started < 15


def test_the_types_people_get_are_those_of_the_tables(world: World) -> None:
    """Exact money, times in UTC, lists: the same columns as in Python."""
    warehouse = ParquetWarehouse(world.root)
    with warehouse.reader() as reader:
        for name in ("runs", "cost_daily"):
            for native in (True, False):
                assert warehouse.answer(f"select * from {name}", native=native).schema == reader.query(f"select * from {name}").schema


def test_a_python_variable_of_the_caller_is_not_a_table(world: World) -> None:
    """DuckDB would find a local variable of Python by its name, if it were let."""
    secret_rows = rows_of(TABLES["runs"])
    with pytest.raises(SqlRefused):
        open_warehouse(str(world.root)).answer("select * from secret_rows", native=True)
    assert secret_rows.num_rows == 50


def test_fork_and_ask(world: World) -> None:
    """A child process that was forked after a question asks its own."""
    code = (
        "import os, sys\nfrom runspend.warehouse.factory import open_warehouse\nw = open_warehouse(sys.argv[1])\nask = lambda: w.answer('select count(*) as n from runs').to_pylist()\n"
        "print(ask(), flush=True)\npid = os.fork()\nos.write(1, f'{ask()}\\n'.encode())\nif pid: os.waitpid(pid, 0)\n"
    )
    result = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", code, str(world.root)], capture_output=True, text=True, timeout=120, check=True
    )
    assert result.stdout == "[{'n': 50}]\n" * 3
