"""What people ask: SQL, runs by name or address, pages, command lines. Asked of one small warehouse, which stays as it was."""

from __future__ import annotations

import asyncio
import atexit
import contextlib
import functools
import io
import json
import os
import shutil
import tempfile
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import click

from runspend.actions import explain
from runspend.actions.costs.query import as_values, table_text
from runspend.config.settings import Settings
from runspend.core.errors import RunspendError
from runspend.interfaces.cli import cli
from runspend.interfaces.web import LOOPBACK, create_app
from runspend.warehouse.dialect import duckdb_sql, names_read, parameter_names, table_names
from runspend.warehouse.parquet.warehouse import ParquetWarehouse
from tests.actions.explain.explain_world import BIG, NOW, make_explained
from tests.fuzz.guard import SHARED, Finding
from tests.fuzz.mutations import as_json

DECOY = "decoy-51c0a9"
COMMANDS = ("costs", "explain", "sql", "status", "budgets", "doctor", "config")


OUTSIDE = os.environ.get("TESTS_KEPT") or tempfile.gettempdir()  # not in the work folder of the input that asks first


@functools.cache
def home() -> Path:
    """A folder with the warehouse, a report of it, and a secret beside them; made once in a process."""
    folder = Path(tempfile.mkdtemp(prefix="runspend-fuzz-world-", dir=OUTSIDE))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    make_explained(folder / "warehouse")
    SHARED.append(os.path.realpath(folder / "warehouse" / "_runspend"))
    (folder / "secret.txt").write_text(DECOY)
    (folder / "reports").mkdir()
    (folder / "reports" / "2026-10.html").write_text("<p>October</p>")
    (folder / "reports" / "2026-10-runs.csv").write_text("run,cost\n")
    (folder / "reports" / "notes.txt").write_text(DECOY)
    (folder / "reports" / "2020-01.html").symlink_to(folder / "secret.txt")
    return folder


@functools.cache
def settings() -> Settings:
    """Its configuration."""
    return Settings.model_validate(
        {
            "home": str(home()),
            "warehouse": {"uri": str(home() / "warehouse")},
            "tracking": [{"name": "prod", "uri": "https://mlflow.example.com"}],
            "billing": [{"name": "aws", "uri": "bills"}],
        }
    )


def state() -> dict[str, tuple[int, int]]:
    """Size and time of every file of the world, but for those that say who reads."""
    locks = home() / "warehouse" / "_runspend"
    files = (p for p in sorted(home().rglob("*")) if p.is_file() and (p.parent != locks or p.suffix == ".json"))
    return {str(p): (p.lstat().st_size, p.lstat().st_mtime_ns) for p in files}


def googlesql(data: bytes, work: Path) -> None:
    """A statement, translated or refused; nothing is run."""
    text = data.decode("utf-8", "replace")
    table_names(text)
    names_read(text)
    parameter_names(text)
    duckdb_sql(text)


def sql(data: bytes, work: Path) -> None:
    """A statement, translated and run: an answer or a refusal, and the warehouse as it was."""
    _answer(data, work, native=False)


def native_sql(data: bytes, work: Path) -> None:
    """DuckDB's own SQL: the same. `_UNIT_` is a published file, `_SECRET_` a file that is not one."""
    unit = next((home() / "warehouse" / "cost_daily").rglob("*.parquet"))
    _answer(data.replace(b"_UNIT_", bytes(unit)).replace(b"_SECRET_", bytes(home() / "secret.txt")), work, native=True)


def _answer(data: bytes, work: Path, *, native: bool) -> None:
    before = state()
    os.chdir(work)
    try:
        found = ParquetWarehouse(home() / "warehouse").answer(data.decode("utf-8", "replace"), native=native)
        rows = found.slice(0, 50)
        json.dumps(as_values(rows), default=str)
        shown = table_text(rows)
        if DECOY in shown:
            raise Finding("a file that is no table was read")
        if "\x1b" in shown:
            raise Finding("the answer moves the cursor")
    finally:
        if state() != before:
            raise Finding("the warehouse, or what lies beside it, was changed")
        if set(os.listdir(work)) != {"tmp"}:
            raise Finding(f"files were written: {os.listdir(work)}")


def run_name(data: bytes, work: Path) -> None:
    """What a person types for a run, a resource or a line."""
    text = data.decode("utf-8", "surrogateescape")
    with ParquetWarehouse(home() / "warehouse").reader() as reader:
        for ask in (
            lambda: explain.run_as_text(explain.explain_run(reader, text, settings(), now=NOW)),
            lambda: explain.resource_as_text(explain.explain_resource(reader, text)),
            lambda: explain.line_as_text(explain.explain_line(reader, text)),
        ):
            with contextlib.suppress(RunspendError):
                ask()


def page(data: bytes, work: Path) -> None:
    """One request: a line with method and target, then headers. An answer that is not a server error, with its headers, and no secret."""
    first, *lines = data.decode("latin-1").split("\n")
    method, _, target = first.partition(" ")
    path, _, query = target.partition("?")
    headers = [(b"host", b"127.0.0.1:8080")] + [
        (k.strip().lower().encode("latin-1"), v.strip().encode("latin-1"))
        for k, _, v in (line.partition(":") for line in lines)
        if k.strip()
    ]
    before = state()
    status, sent, body = asyncio.run(_request(method, path if path.startswith("/") else f"/{path}", query, headers))
    if state() != before:
        raise Finding(f"{first!r} changed the warehouse, or what lies beside it")
    if status >= 500:
        raise Finding(f"{first!r} is answered {status}: {body[:200]!r}")
    if DECOY.encode() in body or str(home()).encode() in body:
        raise Finding(f"{first!r} shows what it must not: {body[:200]!r}")
    names = {name for name, _ in sent}
    if not {b"content-security-policy", b"x-content-type-options", b"cache-control"} <= names:
        raise Finding(f"{first!r} is answered without {b'content-security-policy'!r} and its like")


async def _request(method: str, path: str, query: str, headers: list[tuple[bytes, bytes]]) -> tuple[int, list[tuple[bytes, bytes]], bytes]:
    """What a server would hand to the application, without one: its client would tidy up the target."""
    scope: dict[str, Any] = {
        "type": "http", "asgi": {"version": "3.0"}, "http_version": "1.1", "method": method, "scheme": "http", "path": unquote(path), "raw_path": path.encode("latin-1"),
        "query_string": query.encode("latin-1"), "root_path": "", "headers": headers, "client": ("127.0.0.1", 1), "server": ("127.0.0.1", 8080),
    }  # fmt: skip
    sent: list[dict[str, Any]] = []

    async def receive() -> dict[str, Any]:
        return {"type": "http.request", "body": b"", "more_body": False}

    async def send(message: dict[str, Any]) -> None:
        sent.append(message)

    app: Any = _application()
    await app(scope, receive, send)
    start = next(m for m in sent if m["type"] == "http.response.start")
    return start["status"], list(start["headers"]), b"".join(m.get("body", b"") for m in sent if m["type"] == "http.response.body")


@functools.cache
def _application() -> Any:
    return create_app(settings(), hosts=LOOPBACK)


def command_line(data: bytes, work: Path) -> None:
    """A JSON list of arguments of a command that only reads: an exit code from 0 to 5, and no traceback."""
    arguments = as_json(data)
    if not isinstance(arguments, list) or not arguments or arguments[0] not in COMMANDS:
        return
    arguments = [str(a).replace("\x00", "") for a in arguments]
    config = work / "runspend.yaml"
    config.write_text(
        json.dumps(
            {
                "home": str(work / "home"),
                "warehouse": {"uri": str(home() / "warehouse")},
                "tracking": [{"name": "prod", "uri": "sqlite:////nowhere/mlflow.db"}],
            }
        )
    )
    os.chdir(work)
    out = io.StringIO()
    before = dict(os.environ)
    os.environ["RUNSPEND_CONFIG"] = str(config)
    try:
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(out):
            cli.main([*arguments, "--now", "2026-10-04T06:00"], prog_name="runspend", standalone_mode=False)
    except (click.ClickException, click.exceptions.Exit, RunspendError):
        pass
    except SystemExit as ended:
        if ended.code not in range(6):
            raise Finding(f"{arguments} ended with {ended.code}") from ended
    finally:
        os.environ.clear()
        os.environ.update(before)
    if "\x1b[" in out.getvalue():
        raise Finding(f"{arguments} moves the cursor")


STATEMENTS = (
    "select team, sum(effective_cost) as cost from cost_daily group by team order by cost desc limit 5",
    "select count(*) from runs where start_time >= timestamp '2026-10-01 00:00:00+00' and run_name like '%a%'",
    "with x as (select run_id, bignumeric '0.1' as c from runs) select r.run_id, x.c from x join runs r using (run_id)",
    "select date_trunc(charge_date, month), div(cast(1 as int64), 2), countif(team = 'x'), timestamp_diff(max(start_time), min(start_time), microsecond) from runs, cost_daily group by 1",
    "select safe_cast('x' as int64), json_value(tags, '$.team'), array_agg(run_id) from runs group by 2",
)
NATIVE = (
    *STATEMENTS,
    "select * from runs limit 3",
    "describe runs",
    "explain select 1",
    "select * from read_parquet('x')",
    "with x as (copy (select 1) to 'x.csv') select * from x",
    "select unnest([1, 2]), list_transform([1], x -> x + 1), struct_pack(a := 1), {'a': 1}['a']",
    "from runs select run_id qualify row_number() over (order by run_id) = 1",
    "select * from read_text('_SECRET_')",
    "select getenv('HOME'), current_setting('temp_directory')",
)
REQUESTS = (
    "GET /", "GET /2026-10.html?x=1", "GET /2026-10-runs.csv", f"GET /run/{BIG}?period=2026-10", "GET /run/%2e%2e%2fsecret.txt", "GET /../secret.txt", "GET /2020-01.html", "POST /run/x", "GET /icon.svg\nhost: evil.example",
    "GET /run/https%3A%2F%2Fmlflow.example.com%2F%23%2Fexperiments%2F1%2Fruns%2F3f1c9a7be2d8",
)  # fmt: skip
NAMES = (
    BIG,
    BIG[:8],
    "https://mlflow.example.com/#/experiments/1/runs/" + BIG,
    f"prod/default/{BIG}",
    f"runs:/{BIG}/model",
    "m1",
    "mlflow.example.com/runs/x",
    "000064",
)
COMMAND_LINES = (
    ["costs", "--by", "team,experiment", "--since", "2026-10", "--top", "3", "--measure", "list"],
    ["costs", "--as-of", "2026-11-24", "--by", "service"],
    ["explain", BIG[:8], "--period", "2026-10", "--full", "--history"],
    ["explain", "--resource", "m1", "--json"],
    ["sql", "select count(*) from runs", "--json"],
    ["sql", "--tables"],
    ["status"],
    ["budgets", "list"],
    ["config"],
    ["costs", "--where", "team=vision", "--period", "2026-10", "--until", "2026-10-15", "--format", "csv"],
)
