"""Write the Grafana dashboards: `python deploy/grafana/generate.py` fills `dashboards/postgres` and `dashboards/bigquery` beside this file.

Titles, layout, units and links of panels are here. Queries and descriptions are in `queries/*.sql`, one section per panel, with names in
braces for what differs between PostgreSQL and BigQuery (`DIALECTS`). The JSON files are committed; a test compares them with this program.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from grafana_foundation_sdk.builders import barchart, bargauge, bigquery, common, dashboard, piechart, stat, table, timeseries
from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.cog.plugins import register_default_plugins
from grafana_foundation_sdk.cog.variants import Dataquery
from grafana_foundation_sdk.models.bigquery import EditorMode, QueryFormat
from grafana_foundation_sdk.models.common import (
    BarGaugeDisplayMode,
    BigValueGraphMode,
    GraphDrawStyle,
    LegendDisplayMode,
    LegendPlacement,
    StackingMode,
    TooltipDisplayMode,
    VisibilityMode,
    VizOrientation,
)
from grafana_foundation_sdk.models.dashboard import (
    Dashboard,
    DashboardCursorSync,
    DashboardLinkType,
    DataSourceRef,
    DynamicConfigValue,
    Threshold,
    ThresholdsMode,
    VariableHide,
    VariableOption,
    VariableRefresh,
    VariableSort,
)

HERE = Path(__file__).resolve().parent
INTERNAL = ("alerts", "budget_status", "builds", "unallocated_costs")  # in BigQuery, they are in the dataset <dataset>_internal
ALL = "$__all"
SECTION = re.compile(r"^-- (?P<name>\w+)(?: \((?P<dialect>\w+)\))?: (?P<text>.+)\n(?P<sql>(?:(?!-- ).*\n?)+)", re.MULTILINE)

MONEY, SHARE, COUNT = ("locale", 2), ("percentunit", 1), ("locale", 0)
DAY, TIME, HOURS = ("time:YYYY-MM-DD", None), ("dateTimeAsIso", None), ("h", 1)
# Column of a query: its heading, unit and decimals. Others are strings that are shown as they are.
COLUMNS: dict[str, tuple[str, tuple[str, int | None] | None]] = {
    "cost": ("Cost", MONEY), "cost_before": ("Cost before", MONEY), "difference": ("Difference", MONEY), "change": ("Change", SHARE),
    "cost_of_all": ("Cost of all runs", MONEY), "cost_per_gpu_hour": ("Cost per GPU hour", MONEY), "gpu_hours": ("GPU hours", ("locale", 1)),
    "effective_cost": ("Effective cost", MONEY), "billed_cost": ("Billed cost", MONEY), "compute": ("Compute", MONEY),
    "storage": ("Storage", MONEY), "network": ("Network", MONEY), "llm": ("Language models", MONEY), "other": ("Other", MONEY),
    "amount": ("Budget", MONEY), "spent": ("Spent", MONEY), "estimated": ("Estimated, not billed yet", MONEY), "used": ("Used", SHARE),
    "forecast": ("Forecast", MONEY), "forecast_low": ("Forecast, low", MONEY), "forecast_high": ("Forecast, high", MONEY),
    "share": ("Idle", SHARE), "utilization": ("Utilization", SHARE), "with_run": ("With a run", SHARE), "with_team": ("With a team", SHARE),
    "unallocated": ("Unallocated", SHARE), "costs_for_dashboards": ("costs_for_dashboards", MONEY),
    "run_costs_daily": ("run_costs_daily", MONEY), "run_costs": ("run_costs", MONEY), "difference_daily": ("run_costs_daily - costs_for_dashboards", MONEY),
    "runs": ("Runs", COUNT), "failed_runs": ("Failed runs", COUNT), "budgets": ("Budgets", COUNT), "resources": ("Resources", COUNT),
    "row_count": ("Rows", COUNT), "hours": ("Hours", HOURS), "hours_behind": ("Behind", HOURS), "usual_hours": ("Usually", HOURS),
    "late_after_hours": ("Late after", HOURS), "billing_period": ("Month", DAY), "newest_day": ("Newest day", DAY), "month": ("Month", DAY),
    "last_charge_date": ("Last charge", DAY), "exceeded_on": ("Exceeded on", DAY), "start_time": ("Start", TIME), "decided_at": ("Decided", TIME),
    "covered_until": ("Complete until", TIME), "last_used_at": ("Last used", TIME), "last_good_at": ("Last good read", TIME),
    "published_at": ("Published", TIME), "built_at": ("Built", TIME), "part": ("Part of the bill", None), "team": ("Team", None),
    "experiment_name": ("Experiment", None), "tracking_server": ("Tracking server", None), "workspace": ("Workspace", None), "user_name": ("User", None),
    "service_name": ("Service", None), "source": ("Source", None), "cost_status": ("Status", None), "run_status": ("Status", None), "run": ("Run", None),
    "run_id": ("Run id", None), "title": ("Budget", None), "budget": ("Budget's name", None), "budget_period": ("Period", None),
    "threshold_reached": ("Reached", None), "next_threshold": ("Next", None), "owner": ("Owner", None), "muted": ("Muted", None),
    "not_judged": ("Not judged", None), "kind": ("Kind", None), "threshold": ("Threshold", None), "resource_id": ("Resource", None),
    "instance_type": ("Instance type", None), "region_id": ("Region", None), "suspected_owner": ("Probable owner", None), "reason": ("Reason", None),
    "state": ("State", None), "last_error": ("Last error", None), "confidence": ("Confidence", None), "table_name": ("Table", None),
    "period": ("Month", None), "build_id": ("Build", None), "name": ("${dimension}", None), "step": ("Step", None),
}  # fmt: skip
# Page of the Runspend site that a column leads to, and the columns that its address needs.
PAGES = {
    "run": ("/run/{run_id}?server={tracking_server}&workspace={workspace}", ("run_id", "tracking_server", "workspace")),
    "title": ("/budget/{budget}", ("budget",)),
    "resource_id": ("/machine/{resource_id}", ("resource_id",)),
    "experiment_name": ("/experiment/{experiment_name}", ("experiment_name",)),
}


@dataclass(frozen=True)
class Dialect:
    """How PostgreSQL or BigQuery say what the queries name in braces."""

    name: str
    plugin: str
    label: str
    fragments: Mapping[str, Callable[..., str]]
    table: Callable[[str], str]


FROM, TO = "date(timestamp '${__from:date:iso}')", "date(timestamp '${__to:date:iso}')"
COMMON: dict[str, Callable[..., str]] = {"measure": lambda: "${measure:raw}", "dimension": lambda: "${dimension:raw}"}
POSTGRES = Dialect(
    "postgres",
    "grafana-postgresql-datasource",
    "PostgreSQL",
    {
        **COMMON,
        "days": lambda column: f"$__timeFilter({column})",
        "moments": lambda column: f"$__timeFilter({column})",
        "days_before": lambda column: (
            f"{column} between $__timeFrom()::date - ($__timeTo()::date - $__timeFrom()::date + 1) and $__timeFrom()::date - 1"
        ),
        "months": lambda column: f"{column} > $__timeFrom()::date - interval '1 month' and {column} <= $__timeTo()::date",
        "last_day": lambda: "$__timeTo()::date",
        "time": lambda column: f"$__time({column})",
        "hours_since": lambda column: f"extract(epoch from current_timestamp - {column}) / 3600",
        "is": lambda column, variable: f"{column} = ${{{variable}:sqlstring}}",
        "in": lambda column, variable=None: f"{column} in (${{{variable or column}:sqlstring}})",
    },
    lambda name: f"${{schema:doublequote}}.{name}",
)
BIGQUERY = Dialect(
    "bigquery",
    "grafana-bigquery-datasource",
    "BigQuery",
    {
        **COMMON,
        # The plugin's own macros compare with strings, which is an error for a DATE, and quote strings in a way that is not GoogleSQL's.
        "days": lambda column: f"{column} between {FROM} and {TO}",
        "moments": lambda column: f"{column} between timestamp '${{__from:date:iso}}' and timestamp '${{__to:date:iso}}'",
        "days_before": lambda column: (
            f"{column} between date_sub({FROM}, interval date_diff({TO}, {FROM}, day) + 1 day) and date_sub({FROM}, interval 1 day)"
        ),
        "months": lambda column: f"{column} > date_sub({FROM}, interval 1 month) and {column} <= {TO}",
        "last_day": lambda: TO,
        "time": lambda column: f"timestamp({column}) as time",
        "hours_since": lambda column: f"timestamp_diff(current_timestamp(), {column}, second) / 3600",
        "is": lambda column, variable: f"{column} = ${{{variable}:json}}",
        "in": lambda column, variable=None: f"{column} in unnest(${{{variable or column}:json}})",
    },
    lambda name: f"`${{dataset:raw}}{'_internal' if name in INTERNAL else ''}.{name}`",
)
DIALECTS = (POSTGRES, BIGQUERY)


@dataclass(frozen=True)
class Section:
    """A query of `queries/*.sql`, and its description."""

    text: str
    sql: str


def read_sections(file: str, dialect: Dialect) -> dict[str, Section]:
    """Return the sections of a file in a dialect. A section for one dialect replaces that for all."""
    shared = _raw_sections("shared", dialect)
    found = _raw_sections(file, dialect)

    def expand(sql: str) -> str:
        def replace(match: re.Match[str]) -> str:
            word, *arguments = match[1].split()
            if word in dialect.fragments:
                return dialect.fragments[word](*arguments)
            return expand(shared[word].sql).rstrip() if word in shared else dialect.table(word)

        return re.sub(r"(?<!\$)\{([\w .]+)\}", replace, sql)

    return {name: Section(one.text, expand(one.sql).strip()) for name, one in found.items()}


def _raw_sections(file: str, dialect: Dialect) -> dict[str, Section]:
    found: dict[str, Section] = {}
    for match in SECTION.finditer((HERE / "queries" / f"{file}.sql").read_text(encoding="utf-8")):
        if match["dialect"] in (None, dialect.name):
            found[match["name"]] = Section(match["text"], match["sql"])
    return found


@dataclass(frozen=True)
class Panel:
    """A panel: its kind, title, the section of its query, and its width out of 24."""

    kind: str
    title: str
    section: str
    width: int
    height: int = 8
    thresholds: tuple[tuple[float | None, str], ...] = ()  # (the first value with a color, or None for the lowest; the color)


@dataclass(frozen=True)
class Board:
    """A dashboard. `variables`: those next to the data source, in order."""

    name: str
    title: str
    text: str
    variables: tuple[str, ...]
    panels: tuple[Panel, ...] = field(default_factory=tuple)


OVER = ((None, "green"), (0.8, "orange"), (1.0, "red"))
BAD = ((None, "green"), (1.0, "red"))
COSTS = ("currency", "measure", "team")
BOARDS = (
    Board(
        "overview",
        "Overview",
        "What the machine learning platform costs, where the money went, and what changed.",
        COSTS,
        (
            Panel("stat", "Cost ($currency)", "total", 6, 5),
            Panel("stat", "Compared with the days before ($currency)", "change", 10, 5),
            Panel("bars", "Cost by part of the bill ($currency)", "parts", 8, 5),
            Panel("days", "Cost per day by part of the bill ($currency)", "days", 24, 9),
            Panel("table", "Teams ($currency)", "teams", 12),
            Panel("table", "Services ($currency)", "services", 12),
            Panel("days", "Cost per day by kind ($currency)", "kinds", 12),
            Panel("table", "Bills ($currency)", "bills", 12),
        ),
    ),
    Board(
        "teams",
        "Teams and experiments",
        "What each team, project, cost center, owner or user costs, and which experiments.",
        (*COSTS, "dimension"),
        (
            Panel("days", "Cost per day by $dimension ($currency)", "days", 24, 9),
            Panel("table", "Cost by $dimension ($currency)", "totals", 16),
            Panel("stat", "Cost of runs without a team ($currency)", "untagged", 8),
            Panel("table", "Experiments ($currency)", "experiments", 14, 10),
            Panel("bars", "Users ($currency)", "users", 10, 10),
            Panel("days", "Cost per day of the ten most expensive experiments ($currency)", "experiment_days", 24, 9),
        ),
    ),
    Board(
        "runs",
        "Runs",
        "What runs cost, and which cost most.",
        (*COSTS, "experiment"),
        (
            Panel("stat", "Cost of runs ($currency)", "total", 5, 5),
            Panel("stat", "Runs with a cost", "runs", 4, 5),
            Panel("stat", "Failed and killed runs ($currency)", "failed", 5, 5),
            Panel("stat", "GPU hours", "gpu_hours", 5, 5),
            Panel("stat", "Cost per GPU hour ($currency)", "gpu_hour_cost", 5, 5),
            Panel("days", "Cost of runs per day by kind ($currency)", "days", 16, 9),
            Panel("pie", "Cost by status ($currency)", "statuses", 8, 9),
            Panel("table", "Most expensive runs ($currency)", "most_expensive", 24, 14),
        ),
    ),
    Board(
        "budgets",
        "Budgets",
        "Which budgets are exceeded or will be, and the alerts about them.",
        ("currency", "budget"),
        (
            Panel("stat", "Budgets", "count", 8, 4),
            Panel("stat", "Exceeded", "exceeded", 8, 4, BAD),
            Panel("stat", "Probably exceeded by the end of their period", "at_risk", 8, 4, ((None, "green"), (1.0, "orange"))),
            Panel("bars", "Used", "used", 10, 10, OVER),
            Panel("columns", "Budget, spent and forecast ($currency)", "amounts", 14, 10),
            Panel("table", "All budgets ($currency)", "budgets", 24),
            Panel("table", "Alerts ($currency)", "alerts", 24),
        ),
    ),
    Board(
        "idle",
        "Idle and waste",
        "Money that bought nothing: idle machines, failed runs, unused parts of machines, artifacts without a run.",
        ("currency", "measure"),
        (
            Panel("stat", "Idle ($currency)", "idle", 4, 5),
            Panel("stat", "Idle part of the cost of machines", "idle_share", 4, 5),
            Panel("stat", "Failed and killed runs ($currency)", "failed", 4, 5),
            Panel("stat", "Not requested by runs ($currency)", "unused", 4, 5),
            Panel("stat", "Start-up and gaps of jobs ($currency)", "overhead", 4, 5),
            Panel("stat", "Orphaned artifacts ($currency)", "orphaned", 4, 5),
            Panel("days", "Idle cost per day by service ($currency)", "days", 12, 9),
            Panel("days", "Failed and killed runs per day ($currency)", "failed_days", 12, 9),
            Panel("table", "Idle machines ($currency)", "machines", 24, 10),
            Panel("table", "Unallocated cost ($currency)", "unallocated", 12),
            Panel("table", "Failed and killed runs by experiment ($currency)", "failed_experiments", 12),
        ),
    ),
    Board(
        "freshness",
        "Freshness and quality",
        "How far the data reach, what was published, and how much of the cost is known how surely.",
        ("currency", "measure"),
        (
            Panel("stat", "Newest day", "newest_day", 5, 5),
            Panel("bars", "Hours behind, by bill", "bill_lag", 7, 5),
            Panel("stat", "Published", "published", 6, 5),
            Panel("stat", "Build", "build", 6, 5),
            Panel("table", "Sources", "sources", 24),
            Panel("stat", "How much of the cost is known", "coverage", 12, 5),
            Panel("stat", "Cost of runs in three tables ($currency)", "agreement", 12, 5),
            Panel("pie", "Cost of runs by confidence ($currency)", "confidence", 8, 9),
            Panel("days", "Provisional and final cost per day ($currency)", "statuses", 16, 9),
            Panel("table", "Published tables", "tables", 24, 10),
        ),
    ),
)


class PostgresQuery(Dataquery):
    """A query of Grafana's PostgreSQL data source, for which the SDK has no type."""

    def __init__(self, sql: str, is_series: bool) -> None:
        self._json: dict[str, object] = {
            "datasource": source_of(POSTGRES),
            "editorMode": "code",
            "format": "time_series" if is_series else "table",
            "rawQuery": True,
            "rawSql": sql,
            "refId": "A",
        }

    def build(self) -> PostgresQuery:
        """Return itself: the SDK's panels take builders."""
        return self

    def to_json(self) -> dict[str, object]:
        """Return what Grafana saves."""
        return self._json


def source_of(dialect: Dialect) -> DataSourceRef:
    """Return the reference to the data source that is chosen above the dashboard."""
    return DataSourceRef(type_val=dialect.plugin, uid="${datasource}")


def query_of(dialect: Dialect, sql: str, is_series: bool) -> Any:
    """Return a builder of the query."""
    if dialect is POSTGRES:
        return PostgresQuery(sql, is_series)
    made = bigquery.Dataquery().raw_sql(sql).raw_query(True).editor_mode(EditorMode.CODE).datasource(source_of(dialect))
    return made.format(QueryFormat.TIMESERIES if is_series else QueryFormat.TABLE).ref_id("A")


def panel_of(panel: Panel, section: Section, dialect: Dialect) -> Any:
    """Return a builder of the panel."""
    made: Any = {"stat": _stat, "bars": _bars, "pie": _pie, "days": _days, "columns": _columns, "table": _table}[panel.kind]()
    made.title(panel.title).description(section.text).datasource(source_of(dialect)).span(panel.width).height(panel.height)
    made.with_target(query_of(dialect, section.sql, panel.kind == "days"))
    steps = panel.thresholds or ((None, "text" if panel.kind == "stat" else "blue"),)
    made.thresholds(dashboard.ThresholdsConfig().mode(ThresholdsMode.ABSOLUTE).steps([Threshold(value=v, color=c) for v, c in steps]))
    if panel.kind == "days":
        made.unit(MONEY[0]).decimals(MONEY[1])
        if dialect is BIGQUERY:
            made.display_name("${__field.labels.metric}")
        return made
    columns = columns_of(section.sql)
    for name in columns:
        _show(made, name, columns)
    return made


def columns_of(sql: str) -> list[str]:
    """Return the columns of the query's last select that `COLUMNS` knows."""
    last = sql[sql.rindex("\nselect") if "\nselect" in sql else 0 :]
    chosen = last[: re.search(r"^from ", last, re.MULTILINE).start()]  # type: ignore[union-attr]
    return [name for name in COLUMNS if re.search(rf"(?:\bas {name}\b|(?<![\w.(]){name}(?=\s*(?:,|\Z)))", chosen)]


def _show(made: Any, name: str, columns: Sequence[str]) -> None:
    heading, unit = COLUMNS[name]
    shown = [DynamicConfigValue("displayName", heading)]
    if unit is not None:
        shown += [DynamicConfigValue("unit", unit[0])] + ([DynamicConfigValue("decimals", unit[1])] if unit[1] is not None else [])
    path, needed = PAGES.get(name, ("", ()))
    if path and {*needed} <= {*columns}:
        url = "${site:raw}" + path.format(**{column: f"${{__data.fields.{column}:percentencode}}" for column in needed})
        shown.append(DynamicConfigValue("links", [{"title": "Open in Runspend", "url": url, "targetBlank": True}]))
    made.override_by_name(name, shown)


def _reduced(fields: str = "/.*/", values: bool = False) -> Any:
    return common.ReduceDataOptions().calcs(["lastNotNull"]).fields(fields).values(values)


def _stat() -> Any:
    return stat.Panel().graph_mode(BigValueGraphMode.NONE).reduce_options(_reduced())


def _bars() -> Any:
    shown = bargauge.Panel().display_mode(BarGaugeDisplayMode.BASIC).orientation(VizOrientation.HORIZONTAL).min(0)
    return shown.reduce_options(_reduced("", values=True))


def _pie() -> Any:
    legend = piechart.PieChartLegendOptions().display_mode(LegendDisplayMode.TABLE).placement(LegendPlacement.RIGHT).show_legend(True)
    return piechart.Panel().reduce_options(_reduced("", values=True)).legend(legend)


def _days() -> Any:
    legend = (
        common.VizLegendOptions().display_mode(LegendDisplayMode.TABLE).placement(LegendPlacement.RIGHT).calcs(["sum"]).show_legend(True)
    )
    made = (
        timeseries.Panel().draw_style(GraphDrawStyle.BARS).fill_opacity(80).line_width(0).show_points(VisibilityMode.NEVER).legend(legend)
    )
    made.stacking(common.StackingConfig().mode(StackingMode.NORMAL).group("A")).axis_soft_min(0).interval("1d")
    return made.tooltip(common.VizTooltipOptions().mode(TooltipDisplayMode.MULTI))


def _columns() -> Any:
    return barchart.Panel().orientation(VizOrientation.VERTICAL).x_field("title").show_value(VisibilityMode.AUTO).fill_opacity(80)


def _table() -> Any:
    return table.Panel().filterable(True)


def _option(value: str, text: str | None = None) -> VariableOption:
    return VariableOption(selected=True, text=text or value, value=value)


def _choice(name: str, label: str, values: Sequence[tuple[str, str]], text: str) -> Any:
    options = [VariableOption(selected=i == 0, text=shown, value=value) for i, (shown, value) in enumerate(values)]
    made = dashboard.CustomVariable(name).label(label).description(text).values(", ".join(f"{shown} : {value}" for shown, value in values))
    return made.options(options).current(options[0])


def variables_of(board: Board, dialect: Dialect) -> list[Any]:
    """Return builders of the variables of a dashboard: where the data are, the address of the Runspend site, and what can be chosen."""
    lists = read_sections("shared", dialect)
    made = [dashboard.DatasourceVariable("datasource").label("Data source").type(dialect.plugin)]
    if dialect is POSTGRES:
        made += [
            _query("schema", "Schema", lists["schemas"].sql, "The schema that runspend publish fills.", dialect).hide(
                VariableHide.HIDE_VARIABLE
            ),
            _query("site", "Runspend", lists["site"].sql, "site.url of runspend.yaml, for links.", dialect).hide(
                VariableHide.HIDE_VARIABLE
            ),
        ]
    else:
        made += [
            dashboard.ConstantVariable("dataset")
            .label("Dataset")
            .description("Project and dataset of the warehouse.")
            .value("my-project.runspend"),
            dashboard.ConstantVariable("site").label("Runspend").description("site.url of runspend.yaml, for links.").value(""),
        ]
    known = {
        "currency": lambda: _query("currency", "Currency", lists["currencies"].sql, "Costs are never added across currencies.", dialect),
        "team": lambda: _several("team", "Team", lists["teams"].sql, "Names in brackets are parts of the bill without a team.", dialect),
        "experiment": lambda: _several("experiment", "Experiment", lists["experiments"].sql, "Experiments of the time range.", dialect),
        "budget": lambda: _several("budget", "Budget", lists["budget_names"].sql, "Budgets of runspend.yaml.", dialect),
        "measure": lambda: _choice(
            "measure",
            "Measure",
            [
                ("Effective cost", "effective_cost"),
                ("Billed cost", "billed_cost"),
                ("Contracted cost", "contracted_cost"),
                ("List cost", "list_cost"),
            ],
            "Effective cost spreads commitments over their use; billed cost is the cost on invoices.",
        ),
        "dimension": lambda: _choice(
            "dimension",
            "Group by",
            [("Team", "team"), ("Project", "project"), ("Cost center", "cost_center"), ("Owner", "owner"), ("User", "user_name")],
            "What costs are grouped by.",
        ),
    }
    return [*made, *(known[name]() for name in board.variables)]


def _query(name: str, label: str, sql: str, text: str, dialect: Dialect) -> Any:
    asked: Any = sql if dialect is POSTGRES else {"rawSql": sql, "format": 1, "editorMode": "code", "rawQuery": True, "refId": name}
    made = dashboard.QueryVariable(name).label(label).description(text).datasource(source_of(dialect)).query(asked)
    return made.refresh(VariableRefresh.ON_TIME_RANGE_CHANGED).sort(VariableSort.DISABLED)


def _several(name: str, label: str, sql: str, text: str, dialect: Dialect) -> Any:
    """Any number of values. "All" compares the column with itself, so that it has no list of names that could be long, old or empty."""
    column = "experiment_name" if name == "experiment" else name
    made = _query(name, label, sql, text, dialect).multi(True).include_all(True).current(_option(ALL, "All"))
    return made.all_value(column if dialect is POSTGRES else f"[{column}]")


RANGES = (
    ("This month so far", "now/M", "now"),
    ("Last month", "now-1M/M", "now-1M/M"),
    ("Last 7 days", "now-7d/d", "now"),
    ("Last 30 days", "now-30d/d", "now"),
    ("Last 90 days", "now-90d/d", "now"),
    ("This year so far", "now/y", "now"),
)


def dashboard_of(board: Board, dialect: Dialect) -> str:
    """Return the JSON of a dashboard."""
    sections = read_sections(board.name, dialect)
    prefix = "runspend" if dialect is POSTGRES else f"runspend-{dialect.name}"
    made = dashboard.Dashboard(f"Runspend: {board.title}").uid(f"{prefix}-{board.name}").tags(["runspend", dialect.name])
    made.description(board.text).timezone("utc").time("now-30d/d", "now").tooltip(DashboardCursorSync.CROSSHAIR)
    made.timepicker(dashboard.TimePicker().quick_ranges([dashboard.TimeOption().display(d).from_val(f).to(t) for d, f, t in RANGES]))
    made.link(
        dashboard.DashboardLink("Runspend")
        .type(DashboardLinkType.DASHBOARDS)
        .tags([dialect.name, "runspend"])
        .keep_time(True)
        .include_vars(True)
    )
    made.variables(variables_of(board, dialect))
    for panel in board.panels:
        made.with_panel(panel_of(panel, sections[panel.section], dialect))
    built = made.build()
    for number, panel_built in enumerate(built.panels or (), 1):
        panel_built.id_val = number
    register_default_plugins()
    whole = Dashboard.from_json(json.loads(json.dumps(built, cls=JSONEncoder)))  # adds the defaults of panels
    return json.dumps(whole, cls=JSONEncoder, indent=2, sort_keys=True, ensure_ascii=False) + "\n"


def files() -> dict[Path, str]:
    """Return the text of each file of dashboards."""
    return {HERE / "dashboards" / d.name / f"{board.name}.json": dashboard_of(board, d) for d in DIALECTS for board in BOARDS}


if __name__ == "__main__":
    for path, text in files().items():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
        print(path.relative_to(HERE))
