"""The pages are read-only, guarded on every path, and serve nothing but reports."""

from __future__ import annotations

import asyncio
import html
import re
from pathlib import Path

import httpx
import pytest
from fastapi import HTTPException

from runspend.actions.report import plan_report, write_report
from runspend.config.settings import Settings
from runspend.core.errors import ConfigError
from runspend.interfaces.web import LOOPBACK, create_app
from tests.actions.report.report_world import NOW, TableReader, month_world

PATHS = (
    "/",
    "/index.html",
    "/2026-11.html",
    "/2026-11-audit.html",
    "/2026-11-runs.csv",
    "/icon.svg",
    "/nothing",
    "/a/b/c",
    "/docs",
    "/openapi.json",
    "/redoc",
    "/2026-11.html/",
)


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A home with reports of two months, and secret files next to them."""
    home = tmp_path_factory.mktemp("home")
    for period in ("2026-10", "2026-11"):
        write_report(plan_report(TableReader(month_world()), period, settings=Settings(), now=NOW), home / "reports")
    (home / "warehouse" / "_runspend").mkdir(parents=True)  # a warehouse without charges
    (home / "secret.html").write_text("secret", encoding="utf-8")
    (home / "reports" / "notes.txt").write_text("secret", encoding="utf-8")
    (home / "reports" / "2020-01.html").symlink_to(home / "secret.html")
    return home


def request(app: object, path: str, method: str = "GET", host: str = "127.0.0.1:8080") -> httpx.Response:
    """Send one request without a server."""

    async def ask() -> httpx.Response:
        transport = httpx.ASGITransport(app=app)  # type: ignore[arg-type]  # any ASGI application
        async with httpx.AsyncClient(transport=transport, base_url=f"http://{host}") as client:
            return await client.request(method, path)

    return asyncio.run(ask())


def message_of(answer: httpx.Response) -> str:
    """Return the sentence of a page that has nothing else, or the text."""
    found = re.search(r'<p class="notice">(.*?)</p>', answer.text, re.S)
    return html.unescape(found[1]) if found else answer.text


def nobody() -> None:
    """A guard that refuses everyone."""
    raise HTTPException(401, "who are you?")


def test_newest_month_list_and_sheets_are_served(home: Path) -> None:
    """`/` is the newest report. Pages and CSV files are served unchanged from disk."""
    app = create_app(Settings(home=home))
    assert request(app, "/").content == (home / "reports" / "2026-11.html").read_bytes()
    assert request(app, "/2026-10.html").content == (home / "reports" / "2026-10.html").read_bytes()
    assert request(app, "/2026-10-audit.html").content == (home / "reports" / "2026-10-audit.html").read_bytes()
    assert "October 2026" in request(app, "/index.html").text
    sheet = request(app, "/2026-11-idle-days.csv")
    assert sheet.headers["content-type"] == "text/csv; charset=utf-8"
    assert sheet.headers["content-disposition"] == 'attachment; filename="2026-11-idle-days.csv"'
    assert request(app, "/icon.svg").headers["content-type"] == "image/svg+xml"


@pytest.mark.parametrize("path", PATHS)
def test_every_path_asks_the_guard_first(home: Path, path: str) -> None:
    """Without a login, every path returns 401, even an unknown one, and reveals nothing."""
    answer = request(create_app(Settings(home=home), guard=nobody), path)
    assert (answer.status_code, answer.text) == (401, "who are you?")


@pytest.mark.parametrize(
    "path",
    [
        "/nothing",
        "/docs",
        "/openapi.json",
        "/redoc",
        "/notes.txt",
        "/secret.html",
        "/..%2fsecret.html",
        "/%2e%2e/secret.html",
        "/2020-01.html",
        "/2026-11.html%00",
        "//etc/passwd",
        "/2026-12.html",
        "/2026-11.html/",
    ],
)
def test_nothing_else_is_served(home: Path, path: str) -> None:
    """Documentation pages, other files, paths outside the folder and links are not served."""
    answer = request(create_app(Settings(home=home)), path)
    assert (answer.status_code, message_of(answer)) == (404, "no such page.")


@pytest.mark.parametrize("method", ["POST", "PUT", "PATCH", "DELETE", "OPTIONS", "HEAD"])
def test_only_get_is_answered(home: Path, method: str) -> None:
    answer = request(create_app(Settings(home=home)), "/", method)
    assert answer.status_code == 405
    assert answer.headers["allow"] == "GET"


@pytest.mark.parametrize(
    ("host", "status"),
    [("127.0.0.1:8080", 200), ("localhost", 200), ("[::1]:8080", 200), ("evil.example", 403), ("127.0.0.1.evil.example:8080", 403)],
)
def test_rebound_names_are_refused_on_loopback(home: Path, host: str, status: int) -> None:
    """A page of another site gets 403, even if its host name leads to this machine."""
    assert request(create_app(Settings(home=home), hosts=LOOPBACK), "/", host=host).status_code == status


@pytest.mark.parametrize("path", PATHS)
def test_every_answer_carries_a_strict_policy(home: Path, path: str) -> None:
    """Reports may not run scripts, and other pages only this server's. A page's own style sheet is allowed by its hash."""
    headers = request(create_app(Settings(home=home)), path).headers
    assert headers["content-security-policy"].startswith("default-src 'none'; ")
    assert headers["content-security-policy"].endswith("frame-ancestors 'self'")
    assert "unsafe" not in headers["content-security-policy"]
    scripts = re.findall(r"script-src ([^;]*)", headers["content-security-policy"])
    assert scripts == [] or (scripts == ["'self'"] and path not in ("/", "/index.html", "/2026-11.html", "/2026-11-audit.html"))
    assert headers["x-content-type-options"] == "nosniff"
    assert headers["cache-control"] == "private, no-store"


def test_no_report_yet_says_what_to_do(tmp_path: Path) -> None:
    """An empty home returns 404 and the command to run."""
    answer = request(create_app(Settings(home=tmp_path)), "/")
    assert (answer.status_code, message_of(answer)) == (404, "there is no report yet. Run: runspend nightly")


def test_a_warehouse_that_is_gone_is_not_a_cost_of_nothing(tmp_path: Path) -> None:
    """Reports exist, but the warehouse's disk is not mounted. The answer is 503, and neither the newest report nor zeros."""
    write_report(plan_report(TableReader(month_world()), "2026-11", settings=Settings(), now=NOW), tmp_path / "reports")
    app = create_app(Settings(home=tmp_path))
    for path in (
        "/",
        "/explore",
        "/search?q=a",
        "/run/abcdef12",
        "/budget/vision",
        "/api/v1/costs",
        "/api/v1/runs",
        "/api/v1/budgets",
        "/api/v1/sources",
        "/api/v1/sql?q=select+1",
        "/metrics",
        "/health",
    ):
        answer = request(app, path)
        assert answer.status_code == 503, path
        assert str(tmp_path) not in answer.text
    assert request(app, "/2026-11.html").status_code == 200


def test_settings_may_be_mended_while_it_serves(home: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Broken settings return 503 to logged-in users, and the server's log has the reason. Corrected settings work at the next request."""
    broken = True

    def settings() -> Settings:
        if broken:
            raise ConfigError("cannot read /srv/secret/runspend.yaml: line 3. Mend it.")
        return Settings(home=home)

    app = create_app(settings)
    answer = request(app, "/")
    assert answer.status_code == 503 and message_of(answer).startswith("cannot show reports: the configuration cannot be read.")
    assert "/srv" not in answer.text and "/srv/secret/runspend.yaml: line 3" in caplog.text
    assert request(create_app(settings, guard=nobody), "/").status_code == 401
    broken = False
    assert request(app, "/").status_code == 200
