"""`runspend sql` from the command line: columns that share a name all appear in the answer."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from runspend.schema.public_views import VIEWS
from runspend.schema.tables import TABLES
from tests.command import run_here


@pytest.fixture
def config(tmp_path: Path) -> Path:
    path = tmp_path / "runspend.yaml"
    path.write_text("home: .\n", encoding="utf-8")
    return path


@pytest.mark.parametrize(
    ("statement", "row"),
    [
        ("select 1 as a, 2 as a", {"a": 1, "a_1": 2}),
        ("select 1 as a, 2 as a, 3 as a_1, 4 as a", {"a": 1, "a_2": 2, "a_1": 3, "a_3": 4}),
        ("select 1 as a_1, 2 as a, 3 as a", {"a_1": 1, "a": 2, "a_2": 3}),
        ("select 1 as a, 2 as b", {"a": 1, "b": 2}),
    ],
)
@pytest.mark.parametrize("native", [(), ("--native",)])
def test_columns_of_one_name_are_all_answered(config: Path, statement: str, row: dict[str, int], native: tuple[str, ...]) -> None:
    answered = json.loads(run_here("sql", statement, *native, "--json", "--config", str(config)).stdout)
    assert answered == [row]
    header, values = run_here("sql", statement, *native, "--quiet", "--config", str(config)).stdout.splitlines()
    assert len(header.split()) == len(values.split()) == len(row)


def test_a_statement_comes_from_a_file_or_from_standard_input(config: Path, tmp_path: Path) -> None:
    file = tmp_path / "one.sql"
    file.write_bytes("\ufeff-- ünits\nselect 1 as a,\n  'ü' as b;\n".encode())
    words = ("--quiet", "--format", "csv", "--config", str(config))
    assert run_here("sql", "-f", str(file), *words).stdout == "a,b\n1,ü\n"
    for place in (("-",), ("-f", "-"), ("--file", "-")):
        command = [sys.executable, "-m", "runspend.interfaces.cli", "sql", *place, *words]
        done = subprocess.run(command, input=file.read_bytes(), capture_output=True, timeout=300, check=False)
        assert (done.returncode, done.stdout.decode()) == (0, "a,b\n1,ü\n"), done.stderr


@pytest.mark.parametrize("attempt", range(4))
def test_ctrl_c_during_a_query_stops_the_command(config: Path, attempt: int) -> None:
    """Python's main thread sometimes waits for a DuckDB thread that does all the work. During that time it does not check for signals."""
    endless = "select sum(hash(n)::double) as s from range(1000000000000) as t(n)"
    command = [sys.executable, "-m", "runspend.interfaces.cli", "sql", endless, "--native", "--quiet", "--config", str(config)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as asked:
        try:
            until = time.monotonic() + 120
            while processor_seconds(asked.pid) < 2:  # starting takes less than one second of processor time
                assert asked.poll() is None and time.monotonic() < until
                time.sleep(0.1)
            asked.send_signal(signal.SIGINT)
            answer, errors = asked.communicate(timeout=60)
        finally:
            asked.kill()
    assert (asked.returncode, answer) == (130, "")
    assert errors.strip() == "Stopped. Finished steps stay published. Run the command again to do the rest."


def processor_seconds(process: int) -> float:
    fields = Path(f"/proc/{process}/stat").read_text(encoding="ascii").rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def test_tables_and_columns_are_listed_as_json_and_csv(config: Path) -> None:
    words = ("sql", "--tables", "--config", str(config))
    tables = json.loads(run_here(*words, "--json").stdout)
    assert [table["table"] for table in tables] == [*TABLES, *VIEWS]
    columns = json.loads(run_here(*words, "--json", "run_costs").stdout)
    assert [column["column"] for column in columns] == [column.name for column in TABLES["run_costs"].columns]
    assert run_here(*words, "--format", "csv", "run_costs").stdout.startswith("column,type,meaning\n")


def test_csv_has_exact_values(config: Path) -> None:
    statement = "select numeric '12.50' as cost, timestamp '2026-10-01 00:00:00+00' as at, date '2026-10-01' as day, cast(null as string) as none, 'a,\"b' as text, true as yes"
    assert run_here("sql", statement, "--format", "csv", "--quiet", "--config", str(config)).stdout == (
        'cost,at,day,none,text,yes\n12.5,2026-10-01T00:00:00+00:00,2026-10-01,,"a,""b",true\n'
    )


@pytest.mark.parametrize(
    ("words", "text", "says"),
    [
        (("select 1", "-f", "{file}"), b"select 1", "error: cannot answer: STATEMENT and --file are both given. Give only one."),
        (("-f", "{file}"), b" \n", "is empty. Give one SELECT."),
        (("-f", "{file}"), b"\xff\xfe", "it is not UTF-8 text. Give a file with one SELECT."),
        (("-f", "{file}.gone"), b"", "does not exist"),
    ],
)
def test_a_statement_that_cannot_be_read_is_wrong_use(config: Path, tmp_path: Path, words: tuple[str, ...], text: bytes, says: str) -> None:
    (tmp_path / "one.sql").write_bytes(text)
    assert says in run_here("sql", *(word.format(file=tmp_path / "one.sql") for word in words), "--config", str(config), code=2).stderr
