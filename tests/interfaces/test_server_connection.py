"""`runspend.connect("http://…")` returns exactly the results of a configuration file, from a real server."""

from __future__ import annotations

import asyncio
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import date, timedelta
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
import uvicorn
from fastapi import Depends, FastAPI, HTTPException
from fastapi.security import HTTPBearer

import runspend
from runspend.config.settings import load_settings
from runspend.core.errors import RunspendError, SqlRefused, UsageError
from runspend.interfaces import server_connection
from runspend.interfaces.web import LOOPBACK, create_app
from runspend.schema.tables import TABLES
from runspend.warehouse.parquet.warehouse import ParquetWarehouse
from tests.actions.explain import explain_world as w


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The warehouse of `explain`."""
    folder = tmp_path_factory.mktemp("served")
    w.make_explained(folder / "warehouse")
    (folder / "runspend.yaml").write_text("home: .\ntracking: [{name: prod, uri: 'https://mlflow.example.com'}]\n", encoding="utf-8")
    return folder / "runspend.yaml"


@contextmanager
def served(app: FastAPI) -> Iterator[str]:
    """Serve the application on a port of this machine, and yield its address."""
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        listening.listen(128)
        server = uvicorn.Server(uvicorn.Config(app, log_level="error", lifespan="off"))
        thread = threading.Thread(target=lambda: asyncio.run(server.serve([listening])))
        thread.start()
        try:
            yield f"http://127.0.0.1:{listening.getsockname()[1]}"
        finally:
            server.should_exit = True
            thread.join()


@pytest.fixture(scope="module")
def address(config: Path) -> Iterator[str]:
    with served(create_app(load_settings(config), hosts=LOOPBACK)) as found:
        yield found


@pytest.mark.parametrize(
    "question",
    [
        {},
        {"by": "team,kind", "since": "2026-10", "until": date(2026, 10, 2), "where": {"allocated_to": ["run", "idle"]}, "measure": "list"},
        {"by": ["day", "confidence"], "period": "2026-10", "top": 3, "each_currency": True},
        {"by": "team", "where": {"team": [None, "vision"], "kind": "compute"}},
        {"by": "experiment", "since": "2030-01"},
    ],
)
def test_costs_are_those_of_the_configuration_file(config: Path, address: str, question: dict[str, Any]) -> None:
    expected = runspend.connect(config).costs(**question)
    found = runspend.connect(address).costs(**question)
    assert found.to_arrow().equals(expected.to_arrow())
    assert str(found) == str(expected)


@pytest.mark.parametrize(
    "question",
    [
        {},
        {"by": "team,service", "since": "2026-10", "until": date(2026, 10, 2), "where": {"kind": ["compute", "storage"], "team": None}},
        {"by": ["run"], "spread": True, "top": 2, "measure": "list"},
    ],
)
def test_views_are_those_of_the_configuration_file(config: Path, address: str, question: dict[str, Any]) -> None:
    expected = runspend.connect(config).explore(**question)
    found = runspend.connect(address).explore(**question)
    assert found.to_arrow().equals(expected.to_arrow())
    assert len(found) > 0


def test_runs_sql_and_explanations_too(config: Path, address: str) -> None:
    here, there = runspend.connect(config), runspend.connect(f"{address}/")
    for question in ({}, {"since": "2026-10-20", "until": "2026-10"}, {"until": date(2026, 10, 1)}):
        assert there.run_costs(**question).to_arrow().equals(here.run_costs(**question).to_arrow())
    statement = "select *, 1.5 as `x ä&=+` from cost_allocations order by source, charge_id, target_id, allocated_to"
    assert there.sql(statement).to_arrow().equals(here.sql(statement).to_arrow())
    for run in (w.BIG, w.BIG[:7], f"lab/default/{w.TWICE}", f"https://mlflow.example.com/#/experiments/1/runs/{w.BIG}", w.NOWHERE):
        assert there.explain(run).to_dict() == here.explain(run).to_dict()
        assert str(there.explain(run)) == str(here.explain(run))
    assert there.explain(w.BIG, period="2026-10").to_dict()["period"] == "2026-10"


def test_all_pages_are_of_one_build(config: Path, address: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """If the tables are rebuilt after the first page, reading starts again. If that keeps happening, it stops with an error."""
    monkeypatch.setattr(server_connection, "MOST_ROWS", 4)
    expected = runspend.connect(config).run_costs().to_arrow()
    asked: list[str] = []
    rebuilt_after: set[int] = set()

    def publish(answer: Any, **_: Any) -> None:
        asked.append(answer.url)
        if len(asked) in rebuilt_after:
            row = {"step": "summarize", "month": date(2026, 10, 1), "build_id": "b", "built_at": w.NOW + timedelta(seconds=len(asked))}
            schema = TABLES["builds"].arrow_schema()
            with ParquetWarehouse(config.parent / "warehouse").step("test", "test") as step:
                step.put("builds", "2026-10", "summarize", pa.Table.from_pylist([{n: row.get(n) for n in schema.names}], schema=schema))
                assert step.publish()

    rs = runspend.connect(address)
    rs._session.hooks["response"].append(publish)
    for times, pages in ((set[int](), 4), ({1}, 6)):
        asked.clear()
        rebuilt_after |= times
        assert rs.run_costs().to_arrow().equals(expected)
        assert len(asked) == pages
    rebuilt_after |= set(range(1000))
    with pytest.raises(RunspendError, match="rebuilt during every attempt"):
        rs.run_costs()


def test_a_result_over_the_row_limit_is_an_error(address: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server_connection, "MOST_ROWS", 3)
    rs = runspend.connect(address)
    assert len(rs.sql("select run_id from runs limit 3")) == 3
    assert len(rs.costs(by="day", top=3)) == 3
    for ask in (lambda: rs.sql("select run_id from runs"), lambda: rs.costs(by="day,kind"), lambda: rs.costs(by="day,kind", top=4)):
        with pytest.raises(UsageError, match="more than 3 rows"):
            ask()


def test_wrong_questions_are_errors_in_a_sentence(address: str) -> None:
    rs = runspend.connect(address)
    for wrong, why in (
        (lambda: rs.costs(by="teem"), "cannot group costs by 'teem'"),
        (lambda: rs.costs(measure="net; drop"), "allowed values are effective, billed, contracted, list"),
        (lambda: rs.costs(by=[]), "cannot group costs: name a dimension"),
        (lambda: rs.costs(where={"team": []}), "cannot filter by team: its list of values is empty"),
        (lambda: rs.costs(top=0), "a number from 1"),
        (lambda: rs.run_costs(since="yesterday"), "write YYYY-MM-DD or YYYY-MM"),
        (lambda: rs.run_costs(since="2026-10-02", until="2026-10-01"), "is before since"),
        (lambda: rs.sql("select 1", native=True), "GoogleSQL"),
        (lambda: rs.explain("ffffffffff"), "cannot find run"),
        (lambda: rs.explain(w.TWICE), "2 match"),
        (lambda: rs.explain(w.BIG, now=w.NOW), "its own clock"),
        (lambda: runspend.connect("ftp://example.com"), "write a file such as runspend.yaml"),
        (lambda: runspend.connect("http://[::1"), "write a file such as runspend.yaml"),
        (lambda: runspend.connect("runspend.yaml", token="x"), "only a server asks for a login"),
    ):
        with pytest.raises(UsageError) as refused:
            wrong()
        assert why in str(refused.value)
    for statement in ("delete from runs", "select * from nothing"):
        with pytest.raises(SqlRefused):
            rs.sql(statement)


def test_a_server_that_is_not_there_is_an_error_without_its_password() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # the port does not listen
        rs = runspend.connect(f"http://ana:s3cret@127.0.0.1:{taken.getsockname()[1]}")
        with pytest.raises(RunspendError, match=r"cannot reach http://127.0.0.1:[0-9]+: no server answers at this address") as lost:
            rs.costs()
    assert "s3cret" not in f"{lost.value} {rs!r}"


@pytest.mark.parametrize(("status", "kind", "why"), [(200, "text/html", "not from Runspend"), (500, "text/plain", "not from Runspend"), (302, "text/html", "asks for a login"), (404, "application/json", "not from Runspend")])  # fmt: skip
def test_another_server_is_an_error(status: int, kind: str, why: str) -> None:
    class Other(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(status)
            self.send_header("Content-Type", kind)
            self.send_header("Location", "/login")
            self.end_headers()
            self.wfile.write(b"[]")

        def log_message(self, *_: object) -> None:
            """Log nothing."""

    server = HTTPServer(("127.0.0.1", 0), Other)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        rs = runspend.connect(f"http://127.0.0.1:{server.server_port}")
        for ask in (rs.costs, rs.run_costs, lambda: rs.sql("select 1"), lambda: rs.explain(w.BIG)):
            with pytest.raises(RunspendError, match=why):
                ask()
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def test_a_token_is_sent_to_a_server_that_asks_for_a_login(config: Path) -> None:
    bearer = HTTPBearer(auto_error=False)

    async def guard(given: Any = Depends(bearer)) -> str:  # noqa: B008 (FastAPI's form of a dependency)
        if given is None or given.credentials != "s3cret":
            raise HTTPException(401, "who are you?")
        return "ana"

    outer = FastAPI()
    outer.mount("/runspend", create_app(load_settings(config), guard=guard))
    with served(outer) as found:
        assert len(runspend.connect(f"{found}/runspend", token="s3cret").costs()) > 0
        with pytest.raises(UsageError, match=r"asks for a login .HTTP 401.. Pass a token"):
            runspend.connect(f"{found}/runspend").costs()


def test_an_unreadable_warehouse_is_the_servers_sentence(tmp_path: Path) -> None:
    (tmp_path / "runspend.yaml").write_text(
        "home: .\nwarehouse: {uri: 's3://secret/wh', endpoint: 'http://127.0.0.1:9'}\n", encoding="utf-8"
    )
    with (
        served(create_app(load_settings(tmp_path / "runspend.yaml"))) as found,
        pytest.raises(RunspendError, match="the warehouse cannot be read"),
    ):
        runspend.connect(found).run_costs()
