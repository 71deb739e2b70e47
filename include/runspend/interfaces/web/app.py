"""Serve the web application: the home page, reports with their CSV files, the cost explorer, and the explanation of each run.

It answers only GET, uses only relative links, and serves only files that are named like a report.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import suppress
from datetime import datetime, timezone
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlencode

from fastapi import APIRouter, Depends, FastAPI, HTTPException, Request
from fastapi.concurrency import run_in_threadpool
from fastapi.responses import JSONResponse, PlainTextResponse, RedirectResponse, Response
from starlette.convertors import PathConvertor, register_url_convertor
from starlette.exceptions import HTTPException as StarletteHTTPException

from runspend.actions.costs.query import newest_day
from runspend.actions.costs.runs import billing_period
from runspend.actions.explain import explain_run, run_as_page
from runspend.actions.explain.layout import currency_views
from runspend.actions.explain.resource_and_line import explain_line
from runspend.actions.explore import (
    View,
    budget_as_page,
    experiment_as_page,
    figures_as_csv,
    figures_as_json,
    figures_as_page,
    found_as_page,
    home_as_page,
    line_as_page,
    machine_as_page,
    model_as_page,
    read_budget,
    read_experiment,
    read_figures,
    read_home,
    read_machine,
    read_model,
    search,
)
from runspend.actions.explore.figures import Figures
from runspend.actions.explore.page import HAS_REPORTS, message_as_page, run_address
from runspend.actions.explore.view import FILTERS, LONGEST, next_dimension
from runspend.actions.report.render import PAGE, content_policy, live_policy, live_script
from runspend.config.access_log import log_page
from runspend.config.settings import Settings
from runspend.core.errors import ConfigError
from runspend.interfaces.web.access import CALLER, Caller, require_all, sees_all, settings_of_caller
from runspend.interfaces.web.api import api_router, is_for_programs
from runspend.interfaces.web.asking import WayOut, asked, hidden_people, key_of, known
from runspend.interfaces.web.gate import GATE
from runspend.interfaces.web.page_log import PAGE_LOG
from runspend.warehouse.factory import open_published
from runspend.warehouse.records import Records

log = logging.getLogger(__name__)


class _AnyText(PathConvertor):
    """Match the rest of a path, including line breaks, which names may contain. Starlette's own convertor stops at a line break."""

    regex = r"[\s\S]*"


register_url_convertor("any", _AnyText())

# Accepted Host headers if the pages are served only on this machine. Any other host name points to DNS rebinding.
LOOPBACK = ("127.0.0.1", "localhost", "[::1]")

MOST_WAYS = 10  # links to runs on an error page
SHEET = re.compile(r"[0-9]{4}-[0-9]{2}-[a-z-]+\.csv")
ICON = (
    '<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 24 24" fill="none" stroke="{}" stroke-width="2">'
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
    """Return the application that serves the reports in `<home>/reports` and the live pages.

    `guard` is a FastAPI dependency that every route calls first, even for unknown paths. It returns the user: a name for the access
    log, or a `Caller` with the groups that `access` uses. If it is None, every client that reaches the port may read.

    `hosts` are the accepted Host headers. If it is None, all are accepted, and the server in front decides.

    `settings` may be a function. It is called at each request, so a corrected configuration needs no restart.
    """
    app = FastAPI(title="Runspend", docs_url=None, redoc_url=None, openapi_url=None, redirect_slashes=False)
    pages = _Pages(settings, hosts)
    app.middleware("http")(pages.check_and_mark)
    app.exception_handler(StarletteHTTPException)(pages.say_why)  # also for paths without a route, such as one with a line break
    app.exception_handler(Exception)(_say_that_it_failed)
    router = APIRouter(dependencies=[Depends(_remember(guard or _nobody))])
    pages.add_to(router)
    app.include_router(router)
    return app


class _Pages:
    """The handlers of all pages. Each request reads the settings again."""

    def __init__(self, settings: Settings | Callable[[], Settings], hosts: Sequence[str] | None) -> None:
        self._settings, self._hosts = settings, hosts
        self._latest: Settings | None = None  # the settings of the latest request

    def add_to(self, router: APIRouter) -> None:
        """Add the routes to `router`. The first route that matches an address answers it."""
        routes: list[tuple[str, Callable[..., Any]]] = [
            ("/", self.home),
            ("/icon.svg", partial(_icon, "#1b2430")),
            ("/icon-dark.svg", partial(_icon, "#e6e9ee")),
            ("/pages.js", _script),
            ("/run/{run_id}", self.run),
            *((f"/{thing}/{{name:any}}", partial(self.thing, *built)) for thing, built in THINGS.items()),
            ("/explore", partial(self.explore, _explorer_page)),
            ("/api/v1/costs", partial(self.explore, _costs_as_json)),
            ("/api/v1/costs.csv", partial(self.explore, _costs_as_csv)),
            ("/search", self.search),
            *((f"/{key}/{{value:any}}", partial(self.landing, key)) for key in FILTERS if key != "run" and key not in THINGS),
        ]
        for address, answer in routes:
            router.add_api_route(address, answer, methods=["GET"])
        router.include_router(api_router(self._configured, self._whole))
        router.add_api_route("/{path:path}", self.file, methods=["GET"])

    def _configured(self) -> Settings:
        """Return the settings with what the caller may see. Raises HTTPException 503 if the configuration cannot be read."""
        found = self._whole()
        HAS_REPORTS.set(sees_all(found))
        return settings_of_caller(found)

    def _whole(self) -> Settings:
        try:
            self._latest = self._settings() if callable(self._settings) else self._settings
            return self._latest
        except ConfigError as error:
            log.error("a page failed: %s", error)  # only in the log: it contains paths that not every reader may see
            raise HTTPException(
                503,
                "cannot show reports: the configuration cannot be read. Operators find the reason in the server's log, or run: runspend doctor",
            ) from error

    def _folder(self) -> Path:
        """Return the folder of the reports. Raises HTTPException if the caller may not see all teams."""
        found = self._configured()
        require_all(found, "reports have", "Use the home page and the explorer.")
        return found.home / "reports"

    async def home(self, request: Request) -> Response:
        """Return the home page, or the newest report if there are no charges."""
        _only(request, "currency")
        page = await GATE.run(lambda: _home_page(self._configured(), request.query_params.get("currency")), key=key_of(request))
        return _page(page, policy=live_policy(page)) if page else await run_in_threadpool(self._newest_report)

    def _newest_report(self) -> Response:
        months = sorted(p.name for p in self._folder().glob("[0-9][0-9][0-9][0-9]-[0-9][0-9].html"))
        if not months:
            raise HTTPException(404, "there is no report yet. Run: runspend nightly")
        return _send(self._folder() / months[-1])

    def file(self, path: str) -> Response:
        """Return the page or CSV file of a report. Raises HTTPException 404 for any other name."""
        return _send(self._folder() / path if PAGE.fullmatch(path) or SHEET.fullmatch(path) else None)

    async def run(self, run_id: str, request: Request) -> Response:
        """Return the page of a run. The run id from the address is used as data, never as a path or as SQL."""
        where = [request.query_params.get(name) for name in ("server", "workspace")]  # for a run id that exists on two servers
        text = "/".join([*filter(None, where), run_id]) if all(where) else run_id
        return await _live_page(request, lambda: _run_page(self._configured(), text))

    async def thing(self, build: Callable[..., tuple[str, int]], allowed: Sequence[str], name: str, request: Request) -> Response:
        """Return the page that `build` makes for `name`, such as that of a budget. `allowed` are the parameters its address may have."""
        _only(request, *allowed)
        given = {key: request.query_params.get(key) for key in allowed}
        return await _live_page(request, lambda: build(self._configured(), name, **given, up=_up(request)))

    async def explore(self, write: Callable[[Figures, Settings], Response], request: Request) -> Response:
        """Return the costs that an address of the explorer asks for, in the form that `write` makes."""

        def answer() -> tuple[Response, int]:
            settings = self._configured()
            found = _figures(settings, request.query_params.multi_items())
            return write(found, settings), len(found.groups) + len(found.without_run)

        response, request.state.runspend_rows = await GATE.run(answer, key=key_of(request))
        return response

    async def search(self, request: Request) -> Response:
        """Return the results of a search for names."""
        _only(request, "q")
        return await _live_page(request, lambda: _search_page(self._configured(), request.query_params.get("q", "")))

    def landing(self, key: str, value: str, request: Request) -> Response:
        """Redirect from the short address of a team, an experiment, a user … to its costs in the newest month."""
        self._configured()  # refuses callers who may not see any costs
        return RedirectResponse(f"{_up(request)}explore?{urlencode({'by': next_dimension((key,), key), key: value}, quote_via=quote)}", 307)

    def say_why(self, request: Request, error: StarletteHTTPException) -> Response:
        """Return the answer for an error: a page for people, a sentence or JSON for programs."""
        found = HTTPException(error.status_code, "no such page." if error.detail == "Not Found" else error.detail, error.headers)
        is_page = not is_for_programs(request) and not request.scope["path"].endswith((".csv", ".svg", "/metrics"))
        if is_page and error.status_code in (400, 403, 404, 503):
            ways = _ways(request, error) if isinstance(error, WayOut) else ()
            return _message_page(found, _up(request), ways, has_reports=self._latest is None or sees_all(self._latest))
        return _say(request, str(found.detail), found.status_code, found.headers)

    async def check_and_mark(self, request: Request, answer: Callable[[Request], Awaitable[Response]]) -> Response:
        """Answer a request, write it to the access log, and add the headers that every answer has."""
        try:
            response = await self._respond(request, answer)
        except Exception:
            await self._note(request, 500)
            raise
        await self._note(request, response.status_code)
        for name, value in HEADERS.items():
            response.headers.setdefault(name, value)
        return response

    async def _respond(self, request: Request, answer: Callable[[Request], Awaitable[Response]]) -> Response:
        if self._hosts is not None and _host(request) not in self._hosts:
            return _say(request, "cannot answer: the host name is not one of this server's.", 403)
        if request.method != "GET":
            return _say(request, "these pages are read-only: only GET is allowed.", 405, {"Allow": "GET"})
        return await answer(request)

    async def _note(self, request: Request, status: int) -> None:
        """Write the request to the access log, if one is configured."""
        if self._latest is None:
            with suppress(HTTPException):
                await run_in_threadpool(self._whole)
        if self._latest is not None and self._latest.access_log is not None:
            await PAGE_LOG.note(partial(_log, self._latest, request, status))


def _icon(color: str) -> Response:
    return Response(ICON.format(color), media_type="image/svg+xml")


def _script() -> Response:
    """Return the script of live pages. Browsers may cache it, because its address changes with its content."""
    return Response(live_script()[0], media_type="text/javascript; charset=utf-8", headers={"Cache-Control": "private, max-age=86400"})


def _say_that_it_failed(request: Request, error: Exception) -> Response:  # the reason goes to the server's log
    return _say(
        request, "cannot show this page: an unexpected error occurred. Operators find the reason in the server's log.", 500, HEADERS
    )


def _nobody() -> Caller:
    """Return a caller without a name or groups. Used if no server in front of the pages identifies the user."""
    return Caller()


def _remember(guard: Callable[..., Any]) -> Callable[..., Any]:
    """Return a dependency that calls `guard` and keeps the user for the access log and for access control."""

    async def remember(request: Request, who: Any = Depends(guard)) -> None:  # noqa: B008 (FastAPI's form of a dependency)
        caller = who if isinstance(who, Caller) else Caller(who if isinstance(who, str) else None)
        request.state.runspend_who, request.state.runspend_groups = caller.name, caller.groups
        CALLER.set(caller)

    return remember


def _say(request: Request, text: str, status: int, headers: Mapping[str, str] | None = None) -> Response:
    """Return the answer for an error: a sentence, or JSON for programs."""
    if is_for_programs(request):
        return JSONResponse({"error": text}, status, headers)
    return PlainTextResponse(text, status, headers)


def _run_page(settings: Settings, run_id: str) -> tuple[str, int]:
    """Return the page of a run and its number of charge rows.

    Raises HTTPException 404 if the run does not exist, 503 if the warehouse cannot be read.
    """
    now = datetime.now(timezone.utc)
    try:
        with asked(), open_published(settings).reader() as reader:
            found = explain_run(reader, run_id, settings, now=now)
    except HTTPException as error:
        if error.status_code != 400:
            raise
        raise WayOut(404, error.detail, runs=error.runs if isinstance(error, WayOut) else ()) from error
    return run_as_page(found, today=now.date(), by="kind" if hidden_people(settings) else "user", currency=settings.currency), sum(
        len(block.rows) for view in currency_views(found) for block in view.blocks
    )


async def _live_page(request: Request, build: Callable[[], tuple[str, int]]) -> Response:
    """Return the page that `build` makes. `build` also returns the number of rows, which goes to the access log."""
    page, request.state.runspend_rows = await GATE.run(build, key=key_of(request))
    return _page(page, policy=live_policy(page))


def _home_page(settings: Settings, currency: str | None) -> str | None:
    """Return the home page, or None if there are no charges."""
    now = datetime.now(timezone.utc)
    with asked(), open_published(settings).reader() as reader:
        home = read_home(reader, settings, Records(settings.home), now, currency=currency, hides_people=bool(hidden_people(settings)))
    return None if home is None else home_as_page(home)


def _budget_page(settings: Settings, name: str, *, period: str | None, up: str) -> tuple[str, int]:
    """Return the page of a budget and its number of rows: 1.

    Raises HTTPException 404 if there is no budget with this name, 400 if the period is invalid.
    """
    now = datetime.now(timezone.utc)
    with asked(), open_published(settings).reader() as reader:
        state = read_budget(reader, settings, Records(settings.home), name, now, period=period, hidden=hidden_people(settings))
    if state is None:
        raise HTTPException(404, f"there is no budget {name[:80]!r}. The home page and the command runspend budgets list them.")
    return budget_as_page(state, up=up), 1


def _machine_page(settings: Settings, name: str, *, period: str | None, up: str) -> tuple[str, int]:
    """Return the page of a machine and its number of days.

    Raises HTTPException 404 if there is no such machine, 400 if the period is invalid.
    """
    with asked(), known(), open_published(settings).reader() as reader:
        _check_name("machine", name)
        found = read_machine(reader, settings, name, period=billing_period(period))
    return machine_as_page(found, up=up), len(found.days)


def _model_page(settings: Settings, name: str, *, up: str) -> tuple[str, int]:
    """Return the page of a registered model and its number of versions. Raises HTTPException 404 if there is no such model."""
    with asked(), open_published(settings).reader() as reader:
        _check_name("model", name)
        model = read_model(reader, settings, name, hides_people=bool(hidden_people(settings)))
    if model is None:
        raise HTTPException(
            404,
            f"there is no registered model {name[:80]!r} in the warehouse. Versions are read if `retention` has policies or a tracking server has `annotate: true`.",
        )
    return model_as_page(model, up=up), len(model.versions)


def _experiment_page(settings: Settings, name: str, *, metric: str | None, best: str | None, up: str) -> tuple[str, int]:
    """Return the page of an experiment and its number of runs.

    Raises HTTPException 404 if no experiment with this name has a cost, 400 if the metric is unknown.
    """
    hidden = hidden_people(settings)
    with asked(), open_published(settings).reader() as reader:
        _check_name("experiment", name)
        found = read_experiment(reader, settings, name, metric=metric, best=best, hides_people=bool(hidden))
    if found is None:
        raise HTTPException(404, f"there is no experiment {name[:80]!r} with a cost. The search finds names by a part of them.")
    return experiment_as_page(found, up=up, hidden=hidden), len(found.trials)


def _line_page(settings: Settings, line_id: str, *, period: str | None, up: str) -> tuple[str, int]:
    """Return the page of a bill line and its number of targets.

    Raises HTTPException 404 if there is no such line, 400 if the given part of an id is too short.
    """
    with asked(), known(), open_published(settings).reader() as reader:
        _check_name("line", line_id)
        found = explain_line(reader, line_id, period=billing_period(period))
    return line_as_page(found, up=up, hides_people=bool(hidden_people(settings))), len(found.targets)


# Pages of a single budget, machine and so on (/machine/NAME), with the parameters that their addresses may have.
THINGS: dict[str, tuple[Callable[..., tuple[str, int]], tuple[str, ...]]] = {
    "budget": (_budget_page, ("period",)),
    "machine": (_machine_page, ("period",)),
    "model": (_model_page, ()),
    "experiment": (_experiment_page, ("metric", "best")),
    "line": (_line_page, ("period",)),
}


def _check_name(kind: str, name: str) -> None:
    """Raise HTTPException 404 for text that cannot be a name in the warehouse."""
    if not name or len(name) > LONGEST or any("\ud800" <= c <= "\udfff" or c == "\0" for c in name):
        raise HTTPException(404, f"there is no {kind} with this name.")


def _costs_as_json(found: Figures, _: Settings) -> Response:
    return Response(figures_as_json(found), media_type="application/json")


def _costs_as_csv(found: Figures, _: Settings) -> Response:
    headers = {"Content-Disposition": 'attachment; filename="costs.csv"'}
    return Response(figures_as_csv(found), media_type="text/csv; charset=utf-8", headers=headers)


def _explorer_page(found: Figures, settings: Settings) -> Response:
    """Return the explorer's page with its content security policy."""
    page = figures_as_page(found, hidden=hidden_people(settings))
    return _page(page, policy=live_policy(page))


def _message_page(error: HTTPException, up: str, ways: Sequence[tuple[str, str]], *, has_reports: bool) -> Response:
    """Return a page that states the error and links to `ways` (name, address) and to the home page, whose relative path is `up`."""
    page = message_as_page(str(error.detail), up=up, ways=ways, has_reports=has_reports)
    return _page(page, error.status_code, error.headers, policy=live_policy(page))


def _ways(request: Request, error: WayOut) -> list[tuple[str, str]]:
    """Return the links of an error page, as (name, address)."""
    runs = [(f"{run.run_name or run.key.run_id[:8]} on {run.key.tracking_server}", run.key) for run in error.runs[:MOST_WAYS]]
    return [
        *((f"Only {code}", _with_currency(request, code)) for code in error.currencies),
        *((name, f"{_up(request)}{run_address(key)}") for name, key in runs),
    ]


def _with_currency(request: Request, code: str) -> str:
    """Return the address of the same page with the costs of one currency."""
    kept = [(key, value) for key, value in request.query_params.multi_items() if key != "currency"]
    return f"?{urlencode([*kept, ('currency', code)], quote_via=quote)}"


def _only(request: Request, *allowed: str) -> None:
    """Raise HTTPException 400 for an unknown parameter. A misspelled parameter must not silently use its default."""
    for key in request.query_params:
        if key not in allowed:
            known = f"Known parameters are {', '.join(allowed)}." if allowed else "This page has no parameters."
            raise HTTPException(400, f"cannot read the address: {key[:40]!r} is unknown. {known}")


def _up(request: Request) -> str:
    """Return the relative path from the requested address to the home page. Relative links work below any path prefix."""
    path: bytes = request.scope.get("raw_path") or quote(request.scope["path"]).encode()
    own = path.removeprefix(request.scope.get("root_path", "").encode())
    return "../" * (own.count(b"/") - 1)


def _figures(settings: Settings, query: list[tuple[str, str]]) -> Figures:
    """Return the figures that an address asks for. Raises HTTPException 400 if the address is wrong, 404 if no bill was loaded."""
    with asked(), open_published(settings).reader() as reader:
        newest = newest_day(reader)
        if newest is None:
            raise HTTPException(404, "no bill has been loaded yet. Run: runspend nightly")
        hidden = hidden_people(settings)
        return read_figures(reader, settings, View.of(query, newest, hidden=hidden), newest, hides_people=bool(hidden))


def _search_page(settings: Settings, text: str) -> tuple[str, int]:
    """Return the search results page for a string, and its number of rows."""
    with asked(), open_published(settings).reader() as reader:
        found = search(reader, text, hidden=hidden_people(settings))
    return found_as_page(found), len(found.runs) + len(found.names)


def _log(settings: Settings, request: Request, status: int) -> None:
    """Write a line of the access log, if one is configured."""
    pattern = getattr(request.scope.get("route"), "path", "/{path:path}")  # a refused request does not have a route
    who = getattr(request.state, "runspend_who", None)
    groups = getattr(request.state, "runspend_groups", ())
    rows = getattr(request.state, "runspend_rows", None)
    log_page(settings, who=who, groups=groups, pattern=pattern, path=request.scope["path"], status=status, rows=rows)


def _host(request: Request) -> str:
    """Return the Host header without its port."""
    return re.sub(r":[0-9]+$", "", request.headers.get("host", "")).lower()


def _send(file: Path | None) -> Response:
    """Return the content of a report's file. Raises HTTPException 404 if it does not exist or is a symbolic link."""
    if file is None or file.is_symlink() or not file.is_file():
        raise HTTPException(404, "no such page.")
    content = file.read_bytes()
    if file.suffix == ".csv":
        headers = {"Content-Disposition": f'attachment; filename="{file.name}"'}
        return Response(content, media_type="text/csv; charset=utf-8", headers=headers)
    return _page(content.decode("utf-8"))


def _page(text: str, status: int = 200, headers: Mapping[str, str] | None = None, *, policy: str | None = None) -> Response:
    """Return a page with its content security policy. Default: the policy of a report."""
    allowed = {"Content-Security-Policy": f"{policy or content_policy(text)}; frame-ancestors 'self'"}
    return Response(text, status, media_type="text/html; charset=utf-8", headers={**(headers or {}), **allowed})
