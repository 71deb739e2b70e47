"""Runspend's page in Airflow: it is in the navigation, and only logged-in users can open it."""

from __future__ import annotations

import asyncio
import json
import socket
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest

from runspend.actions.report import plan_report, write_report
from runspend.config.settings import Settings
from tests.actions.explain import explain_world as w
from tests.actions.report.report_world import NOW, TableReader, month_world
from tests.interfaces.web.test_load import storm

PATHS = (
    "/runspend/",
    "/runspend/index.html",
    "/runspend/2026-11.html",
    "/runspend/2026-11-audit.html",
    "/runspend/2026-11-runs.csv",
    "/runspend/icon.svg",
    "/runspend/api/v1/openapi.json",
    "/runspend/nothing",
    "/runspend/docs",
    "/runspend/openapi.json",
)
Ask = Callable[..., httpx.Response]
# Airflow imports Starlette's test client, which warns about its planned removal.
pytestmark = pytest.mark.filterwarnings("ignore:Using `httpx` with `starlette.testclient`")


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A home with one month's report, a warehouse without charges, and the runspend.yaml that names it."""
    home = tmp_path_factory.mktemp("home")
    (home / "warehouse" / "_runspend").mkdir(parents=True)
    write_report(plan_report(TableReader(month_world()), "2026-11", settings=Settings(), now=NOW), home / "reports")
    (home / "runspend.yaml").write_text("home: .\n", encoding="utf-8")
    return home


@pytest.fixture(scope="module")
def airflow(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Airflow's own web application with the plug-in, on an empty database, with one user."""
    with pytest.MonkeyPatch.context() as patch:
        passwords = tmp_path_factory.mktemp("auth") / "passwords.json"
        passwords.write_text(json.dumps({"vera": "s3cret"}), encoding="utf-8")
        patch.setenv("AIRFLOW__CORE__SIMPLE_AUTH_MANAGER_USERS", "vera:viewer")
        patch.setenv("AIRFLOW__CORE__SIMPLE_AUTH_MANAGER_PASSWORDS_FILE", str(passwords))
        patch.setenv("AIRFLOW__API_AUTH__JWT_SECRET", "x" * 64)
        from airflow.api_fastapi.app import create_app
        from airflow.utils.db import initdb

        initdb()
        yield create_app(apps="core")


@pytest.fixture
def ask(airflow: Any, home: Path, monkeypatch: pytest.MonkeyPatch) -> Ask:
    """Return a function that sends one request to Airflow without a server."""
    monkeypatch.setenv("RUNSPEND_CONFIG", str(home / "runspend.yaml"))

    def request(method: str, path: str, **more: Any) -> httpx.Response:
        async def send() -> httpx.Response:
            async with httpx.AsyncClient(transport=httpx.ASGITransport(app=airflow), base_url="http://airflow.test") as client:
                return await client.request(method, path, **more)

        return asyncio.run(send())

    return request


def token(ask: Ask) -> str:
    """Log in, and return the token."""
    answer = ask("POST", "/auth/token", json={"username": "vera", "password": "s3cret"})
    assert answer.status_code == 201, answer.text
    return str(answer.json()["access_token"])


@pytest.mark.parametrize("path", PATHS)
def test_without_a_login_every_route_is_401(ask: Ask, path: str) -> None:
    """No page, style sheet, icon or unknown path reveals anything to users who are not logged in."""
    answer = ask("GET", path)
    assert answer.status_code == 401
    assert "Runspend" not in answer.text


def test_a_wrong_token_is_refused(ask: Ask) -> None:
    assert ask("GET", "/runspend/", headers={"Authorization": "Bearer made.up.token"}).status_code in (401, 403)


def test_with_a_login_the_newest_report_is_shown(ask: Ask, home: Path) -> None:
    """A header and a browser cookie both work. Unknown paths return 404, and writes are refused."""
    header = {"Authorization": f"Bearer {token(ask)}"}
    newest = (home / "reports" / "2026-11.html").read_bytes()
    assert ask("GET", "/runspend/", headers=header).content == newest
    assert ask("GET", "/runspend/", headers={"Cookie": f"_token={token(ask)}"}).content == newest
    for path in PATHS[1:7]:
        assert ask("GET", path, headers=header).status_code == 200
    for path in PATHS[7:]:
        assert ask("GET", path, headers=header).status_code == 404
    assert ask("POST", "/runspend/", headers=header).status_code == 405
    assert ask("GET", "/runspend/api/v1/nothing", headers=header).json() == {"error": "no such page."}
    assert ask("GET", "/runspend/api/v1/sql?q=select+1+as+one", headers=header).json()["rows"] == [{"one": 1}]
    assert ask("GET", "/runspend/health", headers=header).json() == {"status": "ok"}


def test_a_role_of_airflow_says_which_teams_are_seen(ask: Ask, home: Path) -> None:
    """Vera is a viewer. She sees what `access` grants her role or name, and reports only with `all`. Otherwise she sees nothing."""
    header = {"Authorization": f"Bearer {token(ask)}"}
    found = []
    try:
        for access in (
            "groups: {Op: all}",
            "groups: {viewer: [vision]}",
            "groups: {viewer: all}",
            "users: {vera: all}",
            "users: {viewer: all}",
        ):
            (home / "runspend.yaml").write_text(f"home: .\naccess: {{{access}}}\n", encoding="utf-8")
            answers = [ask("GET", f"/runspend/{path}", headers=header) for path in ("api/v1/runs", "2026-11.html", "health")]
            found.append([answer.status_code for answer in answers])
    finally:
        (home / "runspend.yaml").write_text("home: .\n", encoding="utf-8")
    assert found == [[403, 403, 200], [200, 403, 200], [200, 200, 200], [200, 200, 200], [403, 403, 200]]


def test_page_may_be_framed_by_airflow_only_and_runs_nothing(ask: Ask) -> None:
    """The policy allows no script and no foreign frame."""
    policy = ask("GET", "/runspend/", headers={"Authorization": f"Bearer {token(ask)}"}).headers["content-security-policy"]
    assert policy.startswith("default-src 'none'; style-src 'sha256-")
    assert policy.endswith("frame-ancestors 'self'")


def test_plugin_loads_without_errors_and_is_in_the_navigation(ask: Ask) -> None:
    """Airflow lists Runspend's view and no import error. The view's address is relative."""
    header = {"Authorization": f"Bearer {token(ask)}"}
    from airflow import plugins_manager

    assert plugins_manager.get_import_errors() == {}
    (plugin,) = [p for p in plugins_manager.get_plugin_info() if p["name"] == "runspend"]
    (view,) = plugin["external_views"]
    assert (view["destination"], view["href"], view["nav_top_level"]) == ("nav", "runspend/", True)
    for name in ("icon", "icon_dark_mode"):  # an image cannot take the color of the text around it
        icon = ask("GET", f"/{view[name]}", headers=header)
        assert icon.headers["content-type"] == "image/svg+xml" and "currentColor" not in icon.text


def test_importing_the_plugin_imports_nothing_heavy() -> None:
    """Every Airflow process and task imports this file. The import loads no library, opens no warehouse, and builds no FastAPI application."""
    import subprocess
    import sys

    plugins = Path(__file__).parents[2] / "plugins"
    before = "import airflow.plugins_manager, sys; loaded = set(sys.modules)"
    code = f"{before}; import runspend_plugin; print(sorted(m for m in set(sys.modules) - loaded if not m.startswith('airflow')))"
    done = subprocess.run([sys.executable, "-c", code], cwd=plugins, capture_output=True, text=True, check=True)
    assert done.stdout.strip().splitlines()[-1] == "['runspend_plugin']"


def test_eighty_run_pages_at_once_leave_airflow_its_health_check(airflow: Any, ask: Ask, home: Path) -> None:
    """Airflow's own server answers some of the eighty requests, and asks the others to retry. Health checks still work, and requests are logged."""
    w.make_explained(home / "warehouse")
    (home / "runspend.yaml").write_text("home: .\naccess_log: {file: access.jsonl}\n", encoding="utf-8")
    import uvicorn

    login = {"Authorization": f"Bearer {token(ask)}"}
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        listening.listen(128)
        server = uvicorn.Server(uvicorn.Config(airflow, log_level="error", lifespan="off"))
        thread = threading.Thread(target=lambda: asyncio.run(server.serve([listening])))
        thread.start()
        address = f"http://127.0.0.1:{listening.getsockname()[1]}"
        try:
            assert httpx.get(f"{address}/runspend/run/{w.BIG}", headers=login, timeout=120).status_code == 200
            answers, took = asyncio.run(storm(address, f"/runspend/run/{w.BIG}", "/api/v2/version", 80, login))
        finally:
            server.should_exit = True
            thread.join()
            (home / "runspend.yaml").write_text("home: .\n", encoding="utf-8")
    codes = [answer.status_code for answer in answers]
    print(f"pages shown {codes.count(200)}, asked to come back {codes.count(503)}; health checks {len(took)}, slowest {max(took):.2f} s")
    assert set(codes) <= {200, 503} and codes.count(200) >= 2
    assert all(answer.headers["retry-after"] for answer in answers if answer.status_code == 503)
    assert max(took) < 15
    logged = [json.loads(line) for line in (home / "access.jsonl").read_text(encoding="ascii").splitlines()]
    assert len(logged) == 81 and {line["who"] for line in logged} == {"vera"} and {line["what"] for line in logged} == {"/run/{run_id}"}
