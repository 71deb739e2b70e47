"""Runspend's page in Airflow: in the navigation, open to people who are logged in, closed to everybody else."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest

from runspend.actions.report import plan_report, write_report
from runspend.config import Settings
from tests.unit.report_world import NOW, TableReader, month_world

PATHS = (
    "/runspend/",
    "/runspend/index.html",
    "/runspend/2026-11.html",
    "/runspend/2026-11-runs.csv",
    "/runspend/icon.svg",
    "/runspend/nothing",
    "/runspend/docs",
    "/runspend/openapi.json",
)
Ask = Callable[..., httpx.Response]
# Airflow imports Starlette's test client, which warns of its own future.
pytestmark = pytest.mark.filterwarnings("ignore:Using `httpx` with `starlette.testclient`")


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A home with one month's report, and the runspend.yaml that names it."""
    home = tmp_path_factory.mktemp("home")
    write_report(plan_report(TableReader(month_world()), "2026-11", settings=Settings(), now=NOW), home / "reports")
    (home / "runspend.yaml").write_text("home: .\n", encoding="utf-8")
    return home


@pytest.fixture(scope="module")
def airflow(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Airflow's own web application with our plug-in, on an empty database, with one person who may log in."""
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
    """One request to Airflow, without a server."""
    monkeypatch.setenv("RUNSPEND_CONFIG", str(home / "runspend.yaml"))

    def request(method: str, path: str, **more: Any) -> httpx.Response:
        async def send() -> httpx.Response:
            async with httpx.AsyncClient(transport=httpx.ASGITransport(app=airflow), base_url="http://airflow.test") as client:
                return await client.request(method, path, **more)

        return asyncio.run(send())

    return request


def token(ask: Ask) -> str:
    """What logging in gives."""
    answer = ask("POST", "/auth/token", json={"username": "vera", "password": "s3cret"})
    assert answer.status_code == 201, answer.text
    return str(answer.json()["access_token"])


@pytest.mark.parametrize("path", PATHS)
def test_without_a_login_every_route_is_401(ask: Ask, path: str) -> None:
    """No page, sheet, icon or unknown path says anything to somebody who is not logged in."""
    answer = ask("GET", path)
    assert answer.status_code == 401
    assert "Runspend" not in answer.text


def test_with_a_wrong_token_nobody_comes_in(ask: Ask) -> None:
    """A made-up token is refused."""
    assert ask("GET", "/runspend/", headers={"Authorization": "Bearer made.up.token"}).status_code in (401, 403)


def test_with_a_login_the_newest_report_is_shown(ask: Ask, home: Path) -> None:
    """Header and browser cookie both work; unknown paths are 404; nothing can be written."""
    header = {"Authorization": f"Bearer {token(ask)}"}
    newest = (home / "reports" / "2026-11.html").read_bytes()
    assert ask("GET", "/runspend/", headers=header).content == newest
    assert ask("GET", "/runspend/", headers={"Cookie": f"_token={token(ask)}"}).content == newest
    for path in PATHS[1:5]:
        assert ask("GET", path, headers=header).status_code == 200
    for path in PATHS[5:]:
        assert ask("GET", path, headers=header).status_code == 404
    assert ask("POST", "/runspend/", headers=header).status_code == 405


def test_page_may_be_framed_by_airflow_only_and_runs_nothing(ask: Ask) -> None:
    """The policy allows no script and no foreign frame."""
    policy = ask("GET", "/runspend/", headers={"Authorization": f"Bearer {token(ask)}"}).headers["content-security-policy"]
    assert policy.startswith("default-src 'none'; style-src 'sha256-")
    assert policy.endswith("frame-ancestors 'self'")


def test_plugin_loads_without_errors_and_is_in_the_navigation(ask: Ask) -> None:
    """Airflow lists our view and no import error; the view's address is relative."""
    header = {"Authorization": f"Bearer {token(ask)}"}
    from airflow import plugins_manager

    assert plugins_manager.get_import_errors() == {}
    (plugin,) = [p for p in plugins_manager.get_plugin_info() if p["name"] == "runspend"]
    (view,) = plugin["external_views"]
    assert (view["destination"], view["href"], view["nav_top_level"]) == ("nav", "runspend/", True)
    assert ask("GET", f"/{view['icon']}", headers=header).headers["content-type"] == "image/svg+xml"


def test_importing_the_plugin_imports_nothing_heavy() -> None:
    """Every Airflow process and task imports the file: no library of ours, no warehouse, no FastAPI application is built."""
    import subprocess
    import sys

    plugins = Path(__file__).parents[2] / "plugins"
    before = "import airflow.plugins_manager, sys; loaded = set(sys.modules)"
    code = f"{before}; import runspend_plugin; print(sorted(m for m in set(sys.modules) - loaded if not m.startswith('airflow')))"
    done = subprocess.run([sys.executable, "-c", code], cwd=plugins, capture_output=True, text=True, check=True)
    assert done.stdout.strip().splitlines()[-1] == "['runspend_plugin']"
