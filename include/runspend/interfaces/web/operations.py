"""Define the operations of the HTTP API: their parameters, formats and answers, and the OpenAPI document that describes them.

The functions that answer are in `api.py`. `/costs` has the same parameters as the cost explorer, and its `View` reads them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from runspend import __version__
from runspend.actions.alert.overview import COLUMNS
from runspend.actions.costs.query import COST_KEYS, WHERE_KEYS
from runspend.actions.explore.view import FILTERS, GROUPS, MEASURES, MOST_DAYS, MOST_ROWS, ORDERS, PARTS, STEPS
from runspend.interfaces.web.parameters import DAY_OR_MONTH, MONTH, Parameter
from runspend.schema.tables import TABLES, Column

MOST_SECONDS = 60  # of a statement
MOST_LIMIT = 100_000
MOST_TEXT = 20_000  # characters of a statement
DAY = r"[0-9]{4}-[0-9]{2}-[0-9]{2}"

JSON, CSV, ARROW, TEXT = "application/json", "text/csv", "application/vnd.apache.arrow.stream", "text/plain"
TYPES = {"json": JSON, "csv": CSV, "arrow": ARROW, "text": TEXT}

DECIMAL = {"type": "string", "pattern": r"^-?[0-9]+(\.[0-9]+)?$", "description": "An exact decimal, as text."}
OF_COLUMNS: Mapping[str, dict[str, Any]] = {
    "STRING": {"type": "string"},
    "INT64": {"type": "integer"},
    "FLOAT64": {"type": ["number", "string"]},  # text for NaN and infinity
    "BOOL": {"type": "boolean"},
    "DATE": {"type": "string", "format": "date"},
    "TIMESTAMP": {"type": "string", "format": "date-time"},
    "BIGNUMERIC": {"type": "string", "pattern": DECIMAL["pattern"]},
    "ARRAY<STRING>": {"type": "array", "items": {"type": "string"}},
}
ERRORS = {
    400: "The address is wrong. The sentence names the parameter, its value and what is allowed.",
    401: "The server requires a login.",
    403: "You may not see this, or the server does not answer to this host name.",
    404: "There is no such run, or nothing has been loaded yet.",
    503: "The server is busy, or the warehouse cannot be read. Try again after `Retry-After` seconds.",
}


@dataclass(frozen=True)
class Operation:
    """One address of the API. `content` maps media types to schemas. `has_id` is True if the path contains a run id."""

    name: str
    path: str
    summary: str
    meaning: str
    parameters: tuple[Parameter, ...]
    content: Mapping[str, dict[str, Any]]
    errors: tuple[int, ...] = (400, 401, 403, 503)
    has_id: bool = False

    def described(self) -> dict[str, Any]:
        """Return the operation as an Operation Object of OpenAPI."""
        parameters = [parameter.described() for parameter in self.parameters]
        if self.has_id:
            parameters.insert(0, {**RUN_ID, "schema": {"type": "string"}})
        answers = {str(code): {"description": ERRORS[code], "content": {JSON: {"schema": _of("Error")}}} for code in self.errors}
        content = {media: {"schema": schema} for media, schema in self.content.items()}
        answers = {"200": {"description": self.summary, "content": content, "headers": HEADERS.get(self.name, {})}, **answers}
        return {
            "operationId": self.name,
            "summary": self.summary,
            "description": self.meaning,
            "parameters": parameters,
            "responses": answers,
        }


def _of(name: str) -> dict[str, Any]:
    return {"$ref": f"#/components/schemas/{name}"}


def _tabular(name: str) -> dict[str, dict[str, Any]]:
    """Return the media types and schemas of an answer that also comes as CSV and Arrow."""
    return {JSON: _of(name), CSV: {"type": "string"}, ARROW: {"type": "string", "format": "binary"}}


def _format(*more: str) -> Parameter:
    allowed = ("json", *more)
    return Parameter("format", "Format of the answer.", "choice", allowed=allowed, default="json", example="json")


def _choice(name: str, meaning: str, allowed: Sequence[str], *, default: str | None = None, example: str | None = None) -> Parameter:
    return Parameter(name, meaning, "choice", allowed=tuple(allowed), default=default, example=example or default)


def _limit(name: str, meaning: str) -> Parameter:
    meaning = f"{meaning} In JSON and CSV at most 10,000; in Arrow at most {MOST_LIMIT:,}."
    return Parameter(name, meaning, "number", most=MOST_LIMIT, default="1000", example="100")


RUN_ID = {
    "name": "run_id",
    "in": "path",
    "required": True,
    "description": "The run's id in MLflow, its first six or more characters, or its address in MLflow (with %2F for /).",
    "example": "3f1c9a7b",
}
TABULAR = _format("csv", "arrow")
WHICH = (
    Parameter("server", "Tracking server, if several servers have the run id. Give `workspace` too.", example="prod"),
    Parameter("workspace", "Workspace of the tracking server. Give `server` too.", example="default"),
)
STARTED = (
    Parameter("since", "First start day or month (UTC).", "pattern", pattern=DAY_OR_MONTH, example="2026-10-01"),
    Parameter("until", "Last start day or month (UTC).", "pattern", pattern=DAY_OR_MONTH, example="2026-10"),
)
OF_VIEW = (
    Parameter("from", f"First day of the charges (UTC). At most {MOST_DAYS:,} days.", "pattern", pattern=DAY, example="2026-10-01"),
    Parameter("to", "Last day of the charges (UTC).", "pattern", pattern=DAY, example="2026-10-03"),
    Parameter("by", f"One or two dimensions, separated by a comma: {', '.join(GROUPS)}.", default="team", example="team,kind"),
    Parameter("where", f"A filter, KEY=VALUE. KEY is one of: {', '.join(FILTERS)}.", example="kind=compute", is_repeated=True),
    _choice("measure", "Cost measure of FOCUS.", MEASURES, default="effective"),
    _choice("compare", "Compare with the previous period.", ("previous", "none"), default="previous"),
    _choice("every", "Time steps of the rows. Default: depends on the number of days.", STEPS, example="day"),
    _choice("sort", "Order of the rows.", ORDERS, default="-cost"),
    _choice(
        "spread",
        "1 spreads idle, shared and unallocated cost over the groups of runs, in proportion to their cost.",
        ("0", "1"),
        default="0",
    ),
    Parameter(
        "top",
        "Number of groups with their own row. The others are summed in one row.",
        "number",
        most=MOST_ROWS,
        default="50",
        example="50",
    ),
    *(
        Parameter(key, "Only charges with this value. An empty value selects charges without a value.", is_repeated=True)
        if key != "allocated_to"
        else Parameter(key, "Only this part of the bill.", "choice", allowed=PARTS, is_repeated=True)
        for key in FILTERS
    ),
)

COSTS = Operation(
    "costs",
    "/costs",
    "A view of the cost explorer",
    "The total, the parts of the bill, the groups over time, and the most expensive runs. Out-of-scope charges do not count.",
    OF_VIEW,
    {JSON: _of("View")},
    (400, 401, 403, 404, 503),
)
COSTS_CSV = Operation(
    "costsAsCsv",
    "/costs.csv",
    "The rows of a view as CSV",
    "The same groups as `/costs`, one row each.",
    OF_VIEW,
    {CSV: {"type": "string"}},
    (400, 401, 403, 404, 503),
)
COST_GROUPS = Operation(
    "costGroups",
    "/cost-groups",
    "Daily costs by any dimensions",
    "What `runspend costs` prints, the largest first. Out-of-scope charges count. Without days or months: the month of the newest charge.",
    (
        Parameter("by", f"Dimensions, separated by commas: {', '.join(COST_KEYS)}.", default="experiment", example="team,day"),
        Parameter("period", "Only this billing period.", "pattern", pattern=MONTH, example="2026-10"),
        Parameter("since", "First day or month (UTC) of the charges.", "pattern", pattern=DAY_OR_MONTH, example="2026-10-01"),
        Parameter("until", "Last day or month (UTC) of the charges.", "pattern", pattern=DAY_OR_MONTH, example="2026-10-31"),
        Parameter("where", f"A filter, KEY=VALUE. KEY is one of: {', '.join(WHERE_KEYS)}.", example="kind=compute", is_repeated=True),
        _choice("measure", "Cost measure of FOCUS.", MEASURES, default="effective"),
        _limit("top", "Number of rows."),
        _choice("each_currency", "Show each currency as billed, instead of the configured one.", ("true", "false"), default="false"),
        TABULAR,
    ),
    _tabular("Groups"),
)
RUNS = Operation(
    "runs",
    "/runs",
    "The table run_costs, in pages",
    "Runs over their whole life, ordered by their start. `next_offset` and the header `Link` lead to the next page. If `built_at` differs from that of the"
    " previous page, the tables were rebuilt in between: start again with the first page.",
    (
        *STARTED,
        _limit("limit", "Number of rows per page."),
        Parameter("offset", "Number of rows to skip before the page.", "number", least=0, most=999_999_999, default="0", example="0"),
        TABULAR,
    ),
    _tabular("Runs"),
)
RUN = Operation(
    "run",
    "/runs/{run_id}",
    "The cost of one run",
    "Its rows of run_costs: one for each currency of its bills.",
    (*WHICH, TABULAR),
    _tabular("Run"),
    (400, 401, 403, 404, 503),
    has_id=True,
)
EXPLAIN = Operation(
    "explain",
    "/explain/{run_id}",
    "Why a run costs what it costs",
    "What `runspend explain --json` prints: every charge, the run's share of it, the rule, and the others that share it.",
    (*WHICH, Parameter("period", "Only this billing period.", "pattern", pattern=MONTH, example="2026-10"), _format("text")),
    {JSON: _of("Explanation"), TEXT: {"type": "string"}},
    (400, 401, 403, 404, 503),
    has_id=True,
)
BUDGETS = Operation(
    "budgets",
    "/budgets",
    "Budgets, spend and forecasts",
    "What `runspend budgets list --json` prints: the state of each budget at the last alert step.",
    (TABULAR,),
    _tabular("Budgets"),
)
SOURCES = Operation(
    "sources",
    "/sources",
    "How fresh each source is",
    "Tracking servers, bills and stores. For bills also the newest charge, the last load and the rows that could not be read.",
    (TABULAR,),
    _tabular("Sources"),
)
SQL = Operation(
    "sql",
    "/sql",
    "The rows of one SELECT",
    "What `runspend sql` prints: one statement in GoogleSQL, read-only, over the tables of one build. Returns 403 if `mail.people` hides names of people.",
    (
        Parameter(
            "q",
            "One SELECT in GoogleSQL.",
            longest=MOST_TEXT,
            example="select team, sum(effective_cost) as cost from cost_daily group by team",
            is_required=True,
        ),
        _limit("limit", "The answer is cut after this many rows, and states that it is cut."),
        Parameter("timeout", "The statement is stopped after this many seconds.", "number", most=MOST_SECONDS, default="30", example="30"),
        TABULAR,
    ),
    _tabular("Statement"),
)
OPERATIONS = (COSTS, COSTS_CSV, COST_GROUPS, RUNS, RUN, EXPLAIN, BUDGETS, SOURCES, SQL)

_TIME = {"type": "string", "format": "date-time"}
HEADERS: Mapping[str, dict[str, Any]] = {
    "runs": {
        "Link": {"description": 'The next page, with rel="next".', "schema": {"type": "string"}},
        "Runspend-Built-At": {"description": "When the cost tables were built.", "schema": _TIME},
    },
    "sql": {"Runspend-Is-Cut": {"description": "Whether there are more rows.", "schema": {"type": "string", "enum": ["true", "false"]}}},
}


def openapi_document() -> dict[str, Any]:
    """Return the OpenAPI 3.1 document of all operations. The address of its server is relative to that of the document."""
    paths: dict[str, Any] = {operation.path: {"get": operation.described()} for operation in OPERATIONS}
    paths["/openapi.json"] = {
        "get": {
            "operationId": "openapi",
            "summary": "This document",
            "description": "The description of the API.",
            "parameters": [],
            "responses": {"200": {"description": "An OpenAPI 3.1 document.", "content": {JSON: {"schema": {"type": "object"}}}}},
        }
    }
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "Runspend",
            "version": __version__,
            "description": "What every MLflow run costs. Read-only: GET is the only method. Amounts are exact decimals, as text in JSON and CSV; times are UTC."
            " Unknown parameters are errors. In CSV, text that a spreadsheet would read as a formula starts with an apostrophe.",
        },
        "servers": [{"url": "../v1", "description": "This server."}],
        "paths": paths,
        "components": {"schemas": _schemas()},
    }


def _schemas() -> dict[str, Any]:
    run = _row(TABLES["run_costs"].columns)
    source = _row(TABLES["sources"].columns)
    source["properties"] |= {
        "newest_charge_date": _nullable({**OF_COLUMNS["DATE"], "description": "Day of the newest charge of a bill."}),
        "last_loaded_at": _nullable({**_TIME, "description": "When the newest current version of a bill was loaded."}),
        "quarantined_rows": _nullable({"type": "integer", "description": "Rows of a bill that could not be read."}),
    }
    budget = {"type": "object", "properties": {name: {"description": f"`{name}` of a budget."} for name in COLUMNS}}
    amount = {"type": "object", "properties": {"cost": DECIMAL, "previous_cost": DECIMAL, "change": DECIMAL}, "required": ["cost"]}
    many = {"type": "array", "items": {"type": "object"}}
    return {
        "Error": {
            "type": "object",
            "properties": {"error": {"type": "string", "description": "What is wrong, and what to do."}},
            "required": ["error"],
        },
        "View": {
            "type": "object",
            "properties": {"total": amount, "rows": many, "runs": many, "currency": {"type": "string"}},
            "required": ["total", "rows", "runs", "currency"],
        },
        "Groups": _rows({"type": "object", "description": "The dimensions, `billing_currency` and the cost."}),
        "Runs": _rows(run, built_at=_nullable(_TIME), next_offset={"type": ["integer", "null"]}),
        "Run": _rows(run, **{name: {"type": "string"} for name in ("tracking_server", "workspace", "run_id")}),
        "Explanation": {
            "type": "object",
            "properties": {"explains": {"const": "run"}, "key": {"type": "object"}, "currencies": many},
            "required": ["explains", "key", "currencies"],
        },
        "Budgets": _rows(budget),
        "Sources": _rows(source),
        "Statement": _rows(
            {"type": "object", "description": "The columns of the statement."},
            is_cut={"type": "boolean", "description": "Whether there are more rows than `limit`."},
            limit={"type": "integer"},
            columns={"type": "array", "items": {"type": "string"}},
        ),
    }


def _rows(row: dict[str, Any], **about: dict[str, Any]) -> dict[str, Any]:
    return {"type": "object", "properties": {**about, "rows": {"type": "array", "items": row}}, "required": [*about, "rows"]}


def _row(columns: Sequence[Column]) -> dict[str, Any]:
    properties = {column.name: _nullable({**OF_COLUMNS[column.type], "description": column.meaning}) for column in columns}
    return {"type": "object", "properties": properties, "required": list(properties)}


def _nullable(schema: dict[str, Any]) -> dict[str, Any]:
    kinds = schema["type"]
    return {**schema, "type": [*([kinds] if isinstance(kinds, str) else kinds), "null"]}
