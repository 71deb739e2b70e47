"""Serve the HTTP API for programs: `/api/v1/…`, `/health` and `/metrics`. It only reads.

Its answers are those of the commands and the Python interface. This module has the routes and the limits of their answers. Their
parameters and descriptions are in `operations.py`.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import datetime, timezone
from functools import cache, partial
from urllib.parse import urlencode

import pyarrow as pa
from fastapi import APIRouter, HTTPException, Request
from fastapi.responses import JSONResponse, PlainTextResponse, Response

from runspend.actions.alert.overview import COLUMNS, list_budgets
from runspend.actions.costs.query import NoRate, Selection, costs_sql, in_one_currency, read_costs
from runspend.actions.costs.runs import ChosenRuns, billing_period, day_or_month, newest_build, read_run_costs
from runspend.actions.costs.sources import read_sources
from runspend.actions.explain import explain_run, explanation_as_json, run_as_text
from runspend.actions.explain.find import find_run
from runspend.config.access_log import log_statement
from runspend.config.settings import Settings
from runspend.core.amounts import iso_utc
from runspend.core.errors import RunspendError, SqlRefused, UsageError
from runspend.interfaces.statement_process import answer_statement
from runspend.interfaces.web import operations as described
from runspend.interfaces.web.access import require_all
from runspend.interfaces.web.answers import Rows, json_answer, rows_answer, without_people
from runspend.interfaces.web.asking import asked, hidden_people, key_of, known
from runspend.interfaces.web.gate import GATE, Gate
from runspend.interfaces.web.metrics import read_metrics
from runspend.interfaces.web.page_log import PAGE_LOG
from runspend.interfaces.web.parameters import Query, read_query
from runspend.schema.tables import TABLES
from runspend.warehouse.factory import open_published
from runspend.warehouse.records import Records

# Statements have their own gate, so that a slow statement never delays a page. Probes have one because they must not wait for pages.
SQL_GATE = Gate(at_once=1, wait=3.0, longest=described.MOST_SECONDS + 10.0, command="runspend sql")
PROBE_GATE = Gate(at_once=1, longest=10.0, command="runspend status")
MOST_ROWS_OF_TEXT = 10_000  # JSON and CSV are built from Python values, which is slow; Arrow is not

Configured = Callable[[], Settings]
Work = Callable[[Settings, Query], tuple[Response, int | None]]


def is_for_programs(request: Request) -> bool:
    """Return whether the address belongs to the API, even if the application is mounted below another path."""
    path: str = request.scope["path"]
    return path.removeprefix(request.scope.get("root_path", "")).startswith("/api/")


def api_router(configured: Configured, whole: Configured) -> APIRouter:
    """Return the routes of the API.

    Both functions return the settings at each request: `configured` with what the caller may see, `whole` as they are in the file.
    """
    router = APIRouter()

    async def respond(request: Request, operation: described.Operation, work: Work) -> Response:
        with asked():
            query = read_query(operation.parameters, request.query_params.multi_items())
        response, request.state.runspend_rows = await GATE.run(lambda: work(configured(), query), key=key_of(request))
        return response

    @router.get("/api/v1/cost-groups")
    async def cost_groups(request: Request) -> Response:
        return await respond(request, described.COST_GROUPS, _cost_groups)

    @router.get("/api/v1/runs")
    async def runs(request: Request) -> Response:
        return await respond(request, described.RUNS, partial(_runs, request))

    @router.get("/api/v1/runs/{run_id:path}")
    async def one_run(run_id: str, request: Request) -> Response:
        return await respond(request, described.RUN, partial(_run, run_id))

    @router.get("/api/v1/explain/{run_id:path}")
    async def explain(run_id: str, request: Request) -> Response:
        return await respond(request, described.EXPLAIN, partial(_explain, run_id))

    @router.get("/api/v1/budgets")
    async def budgets(request: Request) -> Response:
        return await respond(request, described.BUDGETS, _budgets)

    @router.get("/api/v1/sources")
    async def sources(request: Request) -> Response:
        return await respond(request, described.SOURCES, _sources)

    @router.get("/api/v1/sql")
    async def sql(request: Request) -> Response:
        with asked():
            query = read_query(described.SQL.parameters, request.query_params.multi_items())
        return await _sql(request, configured, query)

    @router.get("/api/v1/openapi.json")
    def openapi() -> Response:
        return Response(_document(), media_type="application/json")

    @router.get("/health")
    async def health() -> Response:
        try:
            await PROBE_GATE.run(lambda: _open(whole()))
        except HTTPException as error:  # its reason is in the server's log
            return JSONResponse({"status": "unavailable"}, 503, error.headers)
        return JSONResponse({"status": "ok"})

    @router.get("/metrics")
    async def metrics() -> Response:
        return PlainTextResponse(
            await PROBE_GATE.run(lambda: _metrics(configured())), media_type="text/plain; version=0.0.4; charset=utf-8"
        )

    return router


@cache
def _document() -> str:
    return json.dumps(described.openapi_document(), ensure_ascii=False, indent=1) + "\n"


def _cost_groups(settings: Settings, query: Query) -> tuple[Response, int]:
    """Return the answer of `runspend costs` and its number of rows."""
    hidden = hidden_people(settings)
    with asked():
        period, since, until = query.text("period"), query.text("since"), query.text("until")
        chosen = Selection.of(
            period=billing_period(period),
            since=None if since is None else day_or_month(since)[0],
            until=None if until is None else day_or_month(until)[1],
            where=query.texts("where"),
        )
        by = [key.strip() for key in (query.text("by") or "").split(",")]
        for key in (*by, *chosen.where):
            if key in hidden:
                raise UsageError(f"cannot show costs by {key}: names of people are hidden here (mail.people).")
        statement = costs_sql(by, chosen, top=_limit(query, "top"), measure=query.text("measure") or "effective")
        with open_published(settings).reader() as reader:
            shown = reader
            if query.text("each_currency") == "false":
                try:
                    shown = in_one_currency(reader, settings, chosen)
                except NoRate as error:
                    raise UsageError(
                        f"{str(error).partition(' Or show')[0]} Or show each currency as billed: each_currency=true."
                    ) from error
            found = read_costs(shown, statement)
    return _rows_of(settings, query, Rows("costs", found))


def _runs(request: Request, settings: Settings, query: Query) -> tuple[Response, int]:
    """Return one page of the table `run_costs` and its number of rows."""
    limit, offset = _limit(query, "limit"), query.number("offset")
    with asked():
        chosen = ChosenRuns.of(query.text("since"), query.text("until"), limit=limit + 1, offset=offset)
        with open_published(settings).reader() as reader:
            built, found = newest_build(reader), read_run_costs(reader, chosen)
    headers = {} if built is None else {"Runspend-Built-At": iso_utc(built)}
    following = offset + limit if found.num_rows > limit else None
    if following is not None:
        left = [(key, value) for key, value in request.query_params.multi_items() if key != "offset"]
        headers["Link"] = f'<?{urlencode([*left, ("offset", following)])}>; rel="next"'
    about = {"built_at": built, "next_offset": following}
    return _rows_of(settings, query, Rows("runs", found.slice(0, limit), about, headers))


def _run(run_id: str, settings: Settings, query: Query) -> tuple[Response, int]:
    """Return the rows of one run in `run_costs`, and how many there are."""
    with asked(), known(), open_published(settings).reader() as reader:
        key = find_run(reader, _named(run_id, query), settings).key
        found = read_run_costs(reader, ChosenRuns(run=key))
    about = {"tracking_server": key.tracking_server, "workspace": key.workspace, "run_id": key.run_id}
    return _rows_of(settings, query, Rows("run", found, about))


def _explain(run_id: str, settings: Settings, query: Query) -> tuple[Response, int]:
    """Return the answer of `runspend explain`, as JSON or text, and the number of charge rows in it."""
    with asked(), known(), open_published(settings).reader() as reader:
        period = billing_period(query.text("period"))
        found = explain_run(reader, _named(run_id, query), settings, now=datetime.now(timezone.utc), period=period)
    rows = sum(len(currency.parts) for currency in found.currencies)
    if query.text("format") == "text":
        return PlainTextResponse(run_as_text(found)), rows
    return json_answer(explanation_as_json(found)), rows


def _budgets(settings: Settings, query: Query) -> tuple[Response, int]:
    """Return the answer of `runspend budgets list` and its number of rows."""
    with asked(), open_published(settings).reader() as reader:
        listed = list_budgets(reader, settings, Records(settings.home), datetime.now(timezone.utc))
    return _rows_of(settings, query, Rows("budgets", pa.Table.from_pylist(listed, schema=_budget_schema())))


def _sources(settings: Settings, query: Query) -> tuple[Response, int]:
    """Return the state of each source, and the number of sources. Raises HTTPException 403 if the caller may not see all teams."""
    require_all(settings, "sources count", "The home page shows how far the bills reach.")
    with asked(), open_published(settings).reader() as reader:
        found = read_sources(reader)
    return _rows_of(settings, query, Rows("sources", found))


async def _sql(request: Request, configured: Configured, query: Query) -> Response:
    """Return the answer to one statement, and log the statement as `runspend sql` does."""
    settings: list[Settings] = []
    rows, failed = None, None
    try:
        response, rows = await SQL_GATE.run(lambda: _statement(settings, configured, query))
    except BaseException as error:  # log the statement even if the browser disconnects
        failed = _cause(error)
        raise
    finally:
        if settings:
            who = getattr(request.state, "runspend_who", None) or "unknown (HTTP)"
            text = query.text("q") or ""
            groups = getattr(request.state, "runspend_groups", ())
            await PAGE_LOG.note(partial(log_statement, settings[0], text, native=False, rows=rows, error=failed, who=who, groups=groups))
    request.state.runspend_rows = rows
    return response


def _statement(asking: list[Settings], configured: Configured, query: Query) -> tuple[Response, int]:
    """Return the rows of a statement, and how many there are.

    Adds the settings to `asking`, because the statement is logged even if it fails.
    """
    asking.append(settings := configured())
    if hidden_people(settings):
        raise HTTPException(
            403,
            "cannot answer SQL: names of people are hidden here (mail.people), and a statement could read them."
            " Use another route, or run where the warehouse can be read: runspend sql",
        )
    if settings.warehouse.uri.startswith("bigquery://"):  # a statement can name a table with its dataset, and so read all teams
        require_all(settings, "in BigQuery, SQL reads", "Use another route.")
    limit, form = _limit(query, "limit"), query.text("format") or "json"
    with asked():
        try:
            found = answer_statement(settings, query.text("q") or "", form, limit=limit, timeout=query.number("timeout"))
        except SqlRefused as error:
            raise UsageError(str(error).replace(", or pass --native", "")) from error  # a word of the command line
    return rows_answer("sql", form, found.body, {"Runspend-Is-Cut": "true" if found.is_cut else "false"}), found.rows


def _cause(error: BaseException) -> str:
    """Return the class name of the RunspendError that caused this error, or else of the error itself."""
    while isinstance(error.__cause__, RunspendError):
        error = error.__cause__
    return type(error).__name__


def _open(settings: Settings) -> None:
    """Raise HTTPException if the warehouse cannot be opened."""
    with asked():
        open_published(settings).states("sources")


def _metrics(settings: Settings) -> str:
    require_all(settings, "metrics have", "Give the scraper a group that sees all.")
    with asked():
        return read_metrics(settings, datetime.now(timezone.utc))


def _rows_of(settings: Settings, query: Query, rows: Rows) -> tuple[Response, int]:
    if hidden_people(settings):
        rows = Rows(rows.name, without_people(rows.rows), rows.about, rows.headers)
    return rows.answer(query.text("format") or "json"), rows.rows.num_rows


def _limit(query: Query, name: str) -> int:
    """Return the number of requested rows. Raises HTTPException if there are too many for the format."""
    limit, form = query.number(name), query.text("format")
    if form != "arrow" and limit > MOST_ROWS_OF_TEXT:
        raise HTTPException(
            400, f"cannot read {name}='{limit}': with format={form} it must be a number from 1 to {MOST_ROWS_OF_TEXT:,}. Use format=arrow."
        )
    return limit


def _named(run_id: str, query: Query) -> str:
    """Return the text that identifies a run: its id, or server, workspace and id, joined by slashes.

    The longer form is needed if two servers have the same id. Raises UsageError if only one of server and workspace is given.
    """
    where = [query.text("server"), query.text("workspace")]
    if not all(where) and any(where):
        raise UsageError("cannot find a run: server and workspace belong together. Give both or none.")
    return "/".join([*filter(None, where), run_id])


@cache
def _budget_schema() -> pa.Schema:
    """Return the columns of `list_budgets`, with the types of `budget_status` where that table has them."""
    known = {field.name: field.type for field in TABLES["budget_status"].arrow_schema()}
    own = {
        "state": pa.string(),
        "percent": known["amount"],
        "last_mail": pa.string(),
        "notify": pa.list_(pa.string()),
        "reason": pa.string(),
    }
    return pa.schema([(name, own.get(name) or known[name]) for name in COLUMNS])
