"""The web application: the newest report, the list of months, the CSVs, and the explanation of any single run.

GET only, relative links only. Serves only files with the name of a report.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from datetime import datetime, timezone
from functools import partial
from pathlib import Path
from typing import Any

from fastapi import APIRouter, Depends, FastAPI, HTTPException, Request
from fastapi.concurrency import run_in_threadpool
from fastapi.responses import PlainTextResponse, Response

from runspend.actions.explain import explain_run, run_as_page
from runspend.actions.explain.layout import currency_views
from runspend.actions.report.render import content_policy
from runspend.config.access_log import log_page
from runspend.config.settings import Settings
from runspend.core.errors import ConfigError, MissingExtra, RunspendError, SqlRefused, UsageError, WarehouseDamaged
from runspend.interfaces.web.gate import GATE
from runspend.interfaces.web.page_log import PAGE_LOG
from runspend.warehouse.factory import open_warehouse

log = logging.getLogger(__name__)

RETRY = {"Retry-After": "60"}

# Hosts a browser may name when the pages are served on this machine alone: any other is a rebound name (DNS rebinding).
LOOPBACK = ("127.0.0.1", "localhost", "[::1]")

REPORT = re.compile(r"(?:index|[0-9]{4}-[0-9]{2})\.html")
SHEET = re.compile(r"[0-9]{4}-[0-9]{2}-[a-z-]+\.csv")
ICON = (
    '<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 24 24" fill="none" stroke="currentColor" stroke-width="2">'
    '<path d="M4 20V11M10 20V5M16 20v-7M22 20H2"/></svg>'
)
HEADERS = {
    "Cache-Control": "private, no-store",
    "Content-Security-Policy": "default-src 'none'; frame-ancestors 'self'",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
}


def create_app(
    settings: Settings | Callable[[], Settings], guard: Callable[..., Any] | None = None, *, hosts: Sequence[str] | None = None
) -> FastAPI:
    """Return the application over `<home>/reports`.

    `guard` is a FastAPI dependency that every route calls first, also for unknown paths (None: every client of the port may read).
    It returns the user's name, for the access log.
    `hosts` are the only Host headers answered (None: any; the server in front decides). `settings` may be a function, called
    at each request, so that a repaired configuration needs no restart.
    """
    app = FastAPI(title="Runspend", docs_url=None, redoc_url=None, openapi_url=None, redirect_slashes=False)
    router = APIRouter(dependencies=[] if guard is None else [Depends(_remember(guard))])

    latest: list[Settings] = []  # as of the newest request

    def configured() -> Settings:
        try:
            latest[:] = [settings() if callable(settings) else settings]
            return latest[0]
        except ConfigError as error:
            log.error("a page failed: %s", error)  # contains paths that not every reader may see
            raise HTTPException(
                503,
                "cannot show reports: the configuration cannot be read. Operators find the reason in the server's log, or run: runspend doctor",
            ) from error

    def folder() -> Path:
        return configured().home / "reports"

    @router.get("/")
    def newest() -> Response:
        months = sorted(p.name for p in folder().glob("[0-9][0-9][0-9][0-9]-[0-9][0-9].html"))
        if not months:
            raise HTTPException(404, "there is no report yet. Run: runspend nightly")
        return _send(folder() / months[-1])

    @router.get("/icon.svg")
    def icon() -> Response:
        return Response(ICON, media_type="image/svg+xml")

    @router.get("/run/{run_id}")
    async def one_run(run_id: str, request: Request) -> Response:
        # The run id from the address is used as data, never as a path or as SQL.
        page, request.state.runspend_rows = await GATE.run(lambda: _run_page(configured(), run_id))
        return _page(page)

    @router.get("/{path:path}")
    def one_file(path: str) -> Response:
        return _send(folder() / path if REPORT.fullmatch(path) or SHEET.fullmatch(path) else None)

    @app.exception_handler(Exception)
    def say_that_it_failed(_: Request, error: Exception) -> Response:  # the reason goes to the server's log
        return PlainTextResponse(
            "cannot show this page: an unexpected error occurred. Operators find the reason in the server's log.", 500, headers=HEADERS
        )

    @app.exception_handler(HTTPException)
    def say_why(_: Request, error: HTTPException) -> Response:
        return PlainTextResponse(str(error.detail), error.status_code, headers=error.headers)

    @app.middleware("http")
    async def check_and_mark(request: Request, answer: Callable[[Request], Awaitable[Response]]) -> Response:
        try:
            response = await respond(request, answer)
        except Exception:
            await note(request, 500)
            raise
        await note(request, response.status_code)
        for name, value in HEADERS.items():
            response.headers.setdefault(name, value)
        return response

    async def respond(request: Request, answer: Callable[[Request], Awaitable[Response]]) -> Response:
        if hosts is not None and _host(request) not in hosts:
            return PlainTextResponse("cannot answer: the host name is not one of this server's.", 403)
        if request.method != "GET":
            return PlainTextResponse("these pages are read-only: only GET is allowed.", 405, headers={"Allow": "GET"})
        return await answer(request)

    async def note(request: Request, status: int) -> None:
        """Write the request to the access log, if one is configured."""
        if not latest:
            with suppress(HTTPException):
                await run_in_threadpool(configured)
        if latest and latest[0].access_log is not None:
            await PAGE_LOG.note(partial(_log, latest[0], request, status))

    app.include_router(router)
    return app


def _remember(guard: Callable[..., Any]) -> Callable[..., Any]:
    """Wrap the guard to keep the name it returns for the access log."""

    async def remember(request: Request, who: Any = Depends(guard)) -> None:  # noqa: B008 (FastAPI's form of a dependency)
        request.state.runspend_who = who if isinstance(who, str) else None

    return remember


def _run_page(settings: Settings, run_id: str) -> tuple[str, int]:
    """Return the page of a run and its number of charge rows.

    Raises HTTPException 404 if the run does not exist, 503 if the warehouse cannot be read.
    """
    try:
        with open_warehouse(settings).reader() as reader:
            found = explain_run(reader, run_id, settings, now=datetime.now(timezone.utc))
    except (SqlRefused, ConfigError, MissingExtra) as error:  # also usage errors, but not caused by the reader of the page
        raise _unreadable(error) from error
    except UsageError as error:
        raise HTTPException(404, str(error)) from error
    except WarehouseDamaged as error:  # names units, not paths
        raise HTTPException(503, str(error), RETRY) from error
    except (RunspendError, OSError) as error:
        raise _unreadable(error) from error
    return run_as_page(found), sum(len(block.rows) for view in currency_views(found) for block in view.blocks)


def _unreadable(error: Exception) -> HTTPException:
    log.error("a page failed: %s", error)  # contains paths and hosts that not every reader may see
    return HTTPException(
        503,
        "cannot show this run: the warehouse cannot be read. Operators find the reason in the server's log, or run: runspend doctor",
        RETRY,
    )


def _log(settings: Settings, request: Request, status: int) -> None:
    """Write a line of the access log, if one is configured."""
    pattern = getattr(request.scope.get("route"), "path", "/{path:path}")  # refused requests have no route
    who = getattr(request.state, "runspend_who", None)
    log_page(settings, who=who, pattern=pattern, path=request.url.path, status=status, rows=getattr(request.state, "runspend_rows", None))


def _host(request: Request) -> str:
    """Return the Host header without its port."""
    return re.sub(r":[0-9]+$", "", request.headers.get("host", "")).lower()


def _send(file: Path | None) -> Response:
    """Return a report's file, never a link's target."""
    if file is None or file.is_symlink() or not file.is_file():
        raise HTTPException(404, "no such page.")
    content = file.read_bytes()
    if file.suffix == ".csv":
        headers = {"Content-Disposition": f'attachment; filename="{file.name}"'}
        return Response(content, media_type="text/csv; charset=utf-8", headers=headers)
    return _page(content.decode("utf-8"))


def _page(text: str) -> Response:
    """Return a page with its content security policy."""
    policy = f"{content_policy(text)}; frame-ancestors 'self'"
    return Response(text, media_type="text/html; charset=utf-8", headers={"Content-Security-Policy": policy})
