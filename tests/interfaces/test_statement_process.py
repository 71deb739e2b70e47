"""A user's statement runs in its own process. It returns the library's rows, or a message if it needs too much."""

from __future__ import annotations

import json
import os
import signal
import tempfile
import threading
import time
from pathlib import Path
from urllib.parse import quote

import pyarrow as pa
import pytest
from fastapi import FastAPI

from runspend.config.settings import Settings
from runspend.core.errors import RunspendError, SqlRefused, UsageError
from runspend.core.own_process import call as calls
from runspend.interfaces.mcp_server.answers import SqlArguments
from runspend.interfaces.mcp_server.tools import ask_sql
from runspend.interfaces.statement_process import GRACE, Answered, answer_statement
from runspend.interfaces.web import create_app
from runspend.warehouse.factory import open_warehouse
from tests.actions.explain import explain_world as w
from tests.interfaces.web.test_app import request

MB = 1_000_000
GREEDY = [
    "select generate_array(1, 100000000) as numbers",
    "select repeat('x', 1000000000) as text",
    "select repeat('x', 1000000) as text from unnest(generate_array(1, 255))",
    "select array(select true from unnest(generate_array(1, 400000000))) as flags",
]
SLOW = "select count(*) as n from " + " cross join ".join(f"cost_daily c{n}" for n in range(12))


@pytest.fixture(scope="module")
def settings(tmp_path_factory: pytest.TempPathFactory) -> Settings:
    folder = tmp_path_factory.mktemp("statements")
    w.make_explained(folder / "warehouse")
    return Settings.model_validate({"home": str(folder), "warehouse": {"uri": str(folder / "warehouse")}})


@pytest.fixture(scope="module")
def app(settings: Settings) -> FastAPI:
    return create_app(settings)


def memory(name: str) -> int:
    """Return bytes of this process: "VmRSS" now, or "VmHWM" as the maximum since `forget_the_peak`."""
    lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(f"{name}:"))


def forget_the_peak() -> None:
    Path("/proc/self/clear_refs").write_text("5", encoding="ascii")


def processes_of_statements() -> list[int]:
    """Return the calls that created the waiting processes."""
    found = []
    for server in list(calls._all):
        if server.process.poll() is None:
            children = Path(f"/proc/{server.process.pid}/task/{server.process.pid}/children")
            found += [int(number) for number in children.read_text(encoding="ascii").split()]
    return found


def test_the_rows_are_those_of_the_warehouse(settings: Settings) -> None:
    statement = (
        "select * from cost_daily order by effective_cost, charge_date, service_name, experiment_id, team, allocated_to, cost_kind limit 50"
    )
    expected = open_warehouse(settings).answer(statement)
    found = answer_statement(settings, statement, "arrow", limit=1000, timeout=30)
    assert pa.ipc.open_stream(found.body).read_all().equals(expected)
    assert (found.rows, found.is_cut) == (expected.num_rows, False)
    cut = answer_statement(settings, statement, "arrow", limit=3, timeout=30)
    assert pa.ipc.open_stream(cut.body).read_all().equals(expected.slice(0, 3))
    assert (cut.rows, cut.is_cut) == (3, True)


def test_columns_of_one_name_have_the_same_keys_in_the_rows_and_in_the_list(settings: Settings) -> None:
    found = json.loads(answer_statement(settings, "select 1 as a, 2 as a, 3 as a_1", "json", limit=5, timeout=30).body)
    assert found["columns"] == list(found["rows"][0]) == ["a", "a_2", "a_1"]
    assert list(found["rows"][0].values()) == [1, 2, 3]


@pytest.mark.parametrize("form", [pytest.param("json", marks=pytest.mark.torture), "arrow"])
@pytest.mark.parametrize("statement", GREEDY)
def test_a_greedy_statement_gets_a_sentence_and_takes_nothing_of_the_server(
    app: FastAPI, settings: Settings, statement: str, form: str
) -> None:
    answer_statement(settings, "select 1 as one", form, limit=1, timeout=30)  # starts the waiting process
    forget_the_peak()
    before, began = memory("VmRSS"), time.monotonic()
    answer = request(app, f"/api/v1/sql?timeout=5&format={form}&q={quote(statement)}")
    took = time.monotonic() - began
    assert answer.status_code == 400, answer.text[:500]
    sentence = answer.json()["error"]
    assert any(why in sentence for why in ("more than 2 GB of memory", "took longer than 5 s", "larger than 64 MB")), sentence
    assert "/" not in sentence
    assert memory("VmHWM") - before < 300 * MB
    assert took < 5 + GRACE + 5, "the statement kept the server"


def test_an_assistants_statement_is_bounded_too(settings: Settings) -> None:
    forget_the_peak()
    before = memory("VmRSS")
    for statement in (*GREEDY[1:3], "select repeat('x', 5000000) as text"):
        with pytest.raises(UsageError, match=r"more than 2 GB|longer than 5 s|larger than (64|4) MB"):
            ask_sql(settings, SqlArguments(statement=statement, timeout=5), w.NOW)
    assert memory("VmHWM") - before < 300 * MB
    few = ask_sql(settings, SqlArguments(statement="select x from unnest(generate_array(1, 1000000)) as x", max_rows=2), w.NOW)
    assert (len(few.rows), few.is_cut) == (2, True)


def test_rows_that_exceed_the_limit_are_refused_with_the_limit(settings: Settings) -> None:
    with pytest.raises(SqlRefused, match=r"larger than 2 MB\. Nothing was changed\. Ask for less"):
        answer_statement(settings, "select repeat('x', 2000001) as x", "csv", limit=1, timeout=30, most_bytes=2 * MB)


def test_a_large_sort_spills_instead_of_failing(settings: Settings) -> None:
    """The engine's memory limit is below that of its process, so it writes to disk before the process is stopped."""
    text = "concat(cast(mod(x * 7919, 4000037) as string), repeat('x', 500))"
    statement = f"select {text} as text from unnest(generate_array(1, 4000000)) as x order by text"
    found = answer_statement(settings, statement, "arrow", limit=10, timeout=60)
    assert (found.rows, found.is_cut) == (10, True)


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGSEGV, signal.SIGABRT])
def test_a_statement_whose_process_dies_gets_a_sentence(
    settings: Settings, how: signal.Signals, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Runspend removes its temporary files, and answers the next statement."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    found: list[Answered | RunspendError] = []

    def ask() -> None:
        try:
            found.append(answer_statement(settings, SLOW, "json", limit=1, timeout=50))
        except RunspendError as error:
            found.append(error)

    asking = threading.Thread(target=ask)
    asking.start()
    until = time.monotonic() + 30
    while not list(tmp_path.glob("runspend-*/runspend-*")):  # the statement has begun to read
        assert time.monotonic() < until
        time.sleep(0.02)
    [process] = processes_of_statements()
    os.kill(process, how)
    asking.join(20)
    [error] = found
    assert isinstance(error, SqlRefused)
    assert "ended without an answer" in str(error)
    assert list(tmp_path.iterdir()) == []
    assert answer_statement(settings, "select 1 as one", "json", limit=1, timeout=30).rows == 1


def test_errors_of_the_warehouse_are_those_of_the_library(settings: Settings) -> None:
    for statement in ("delete from runs", "select nothing from runs", "select * from read_csv('/etc/passwd')"):
        with pytest.raises(SqlRefused) as here:
            open_warehouse(settings).answer(statement)
        with pytest.raises(SqlRefused) as apart:
            answer_statement(settings, statement, "json", limit=1, timeout=30)
        assert str(apart.value) == str(here.value)
