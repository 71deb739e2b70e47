"""Write a Superset dashboard over the tables that `publish` writes to PostgreSQL, as a ZIP file that Superset imports.

Names, labels and descriptions of datasets and metrics come from the table definitions. Identifiers are always the same, so importing a newer
ZIP replaces the dashboard. The ZIP never contains a password: Superset asks for it.

Source: Superset "Importing and exporting", version 1 of the format (superset/*/schemas.py, Import…Schema).
"""

from __future__ import annotations

import io
import json
import uuid
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, urlencode, urlsplit, urlunsplit

import yaml

from runspend.actions.export.tableau_files import label
from runspend.core.errors import UsageError
from runspend.schema.public_views import COSTS_FOR_DASHBOARDS
from runspend.schema.tables import COSTS, RUN_COSTS, Table

MASK = "XXXXXXXXXX"  # in place of a password; Superset then asks for it
KEPT_OPTIONS = ("host", "port", "sslmode")  # options of the address that are kept; others may be secrets
EPOCH = (1980, 1, 1, 0, 0, 0)  # the time of all files in the ZIP, so that equal input gives an equal ZIP
MONEY = ",.2f"
TITLE = "Runspend"
ROOT = "runspend"  # the folder of all files in the ZIP
READER = "superset"
SQL_TYPES = {"STRING": "TEXT", "INT64": "BIGINT", "FLOAT64": "DOUBLE PRECISION", "BOOL": "BOOLEAN", "DATE": "DATE", "TIMESTAMP": "TIMESTAMP WITH TIME ZONE", "BIGNUMERIC": "NUMERIC(38, 22)", "ARRAY<STRING>": "TEXT[]"}  # fmt: skip
# Metrics that are not the sum of a column, by table: name, label, expression and format.
FURTHER = {
    COSTS_FOR_DASHBOARDS.name: [("idle_cost", "Idle cost", "SUM(CASE WHEN part = 'idle' THEN effective_cost ELSE 0 END)", MONEY)],
    RUN_COSTS.name: [
        ("run_count", "Runs", "COUNT(*)", ",d"),
        ("gpu_hours", "GPU hours", "SUM(gpu_seconds) / 3600", ",.1f"),
        ("machine_hours", "Machine hours", "SUM(machine_seconds) / 3600", ",.1f"),
    ],
}


@dataclass(frozen=True)
class Chart:
    """A chart, or a table if it has no `day`. `day`: the date column on its axis. `filters`: column, operator and value."""

    label: str
    table: Table
    metrics: tuple[str, ...]
    groups: tuple[str, ...]
    day: str = ""
    filters: tuple[tuple[str, str, str], ...] = ()
    row_limit: int = 10_000
    width: int = 12  # out of the 12 columns of a dashboard


INSIDE = (("part", "!=", "out of scope"),)
CHARTS = (
    Chart("Cost by team and day", COSTS_FOR_DASHBOARDS, ("effective_cost",), ("billing_currency", "team"), day="charge_date", filters=INSIDE),
    Chart("Cost by team and period", COSTS_FOR_DASHBOARDS, ("effective_cost", "billed_cost"), ("billing_period", "billing_currency", "team"), filters=INSIDE, width=6),
    Chart("Cost by part of the bill", COSTS_FOR_DASHBOARDS, ("effective_cost", "billed_cost"), ("billing_period", "billing_currency", "part"), width=6),
    Chart("Idle cost by day", COSTS_FOR_DASHBOARDS, ("idle_cost",), ("billing_currency", "service_name"), day="charge_date", filters=(("part", "==", "idle"),)),
    Chart("Top 50 runs", RUN_COSTS, ("effective_cost", "gpu_hours"), ("billing_currency", "run_id", "run_name", "experiment_name", "team"), row_limit=50),
)  # fmt: skip
TABLES = (COSTS_FOR_DASHBOARDS, RUN_COSTS)


def superset_zip(uri: str, schema: str) -> bytes:
    """Return the ZIP for the database at the address `uri` and the schema to which `publish` writes."""
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, text in superset_files(uri, schema).items():
            archive.writestr(zipfile.ZipInfo(f"{ROOT}/{name}", EPOCH), text)
    return file.getvalue()


def is_superset_zip(file: Path) -> bool:
    """Return whether a file is a ZIP that any version of this module wrote."""
    try:
        with zipfile.ZipFile(file) as archive:
            return f"{ROOT}/dashboards/{TITLE}.yaml" in archive.namelist()
    except (OSError, zipfile.BadZipFile):
        return False


def superset_files(uri: str, schema: str) -> dict[str, str]:
    """Return the files of the ZIP by name."""
    found: dict[str, Mapping[str, Any]] = {
        "metadata.yaml": {"version": "1.0.0", "type": "Dashboard", "timestamp": "2026-01-01T00:00:00+00:00"},
        f"databases/{TITLE}.yaml": _database(uri),
        **{f"datasets/{TITLE}/{table.name}.yaml": _dataset(table, schema) for table in TABLES},
        **{f"charts/{chart.label.replace(' ', '_')}.yaml": _chart(chart) for chart in CHARTS},
        f"dashboards/{TITLE}.yaml": _dashboard(),
    }
    return {name: yaml.safe_dump(content, sort_keys=False, allow_unicode=True, width=140) for name, content in found.items()}


def _id(name: str) -> str:
    return str(uuid.uuid5(uuid.NAMESPACE_URL, f"runspend superset {name}"))


def as_reader(uri: str) -> str:
    """Return the address of a `publish` target with the login `superset` in place of the target's login, which may write."""
    parts = urlsplit(uri)
    return urlunsplit(parts._replace(netloc=f"{READER}:@{parts.netloc.rpartition('@')[2]}"))


def database_uri(uri: str) -> str:
    """Return the address in Superset's form, without its password. Raises UsageError if it is not the address of a PostgreSQL database."""
    parts = urlsplit(uri)
    if parts.scheme.partition("+")[0] not in ("postgres", "postgresql") or not parts.path.strip("/"):
        raise UsageError(
            "cannot export for Superset: the address of a PostgreSQL database is needed, such as postgresql://superset@db:5432/costs. Give --uri."
        )
    login, at, place = parts.netloc.rpartition("@")
    user, colon, _ = login.partition(":")
    kept = urlencode([(key, value) for key, value in parse_qsl(parts.query) if key in KEPT_OPTIONS], safe="/")
    return urlunsplit(("postgresql+psycopg2", f"{user}{colon}{MASK if colon else ''}{at}{place}", parts.path, kept, ""))


def _database(uri: str) -> dict[str, Any]:
    return {
        "database_name": TITLE,
        "sqlalchemy_uri": database_uri(uri),
        "expose_in_sqllab": True,
        "allow_run_async": False,
        "allow_ctas": False,
        "allow_cvas": False,
        "allow_dml": False,
        "allow_csv_upload": False,
        "extra": {"allows_virtual_table_explore": True},
        "uuid": _id("database"),
        "version": "1.0.0",
    }


def _dataset(table: Table, schema: str) -> dict[str, Any]:
    costs = [(c.name, label(c.name), f"SUM({c.name})", MONEY) for c in COSTS]
    return {
        "table_name": table.name,
        "main_dttm_col": "charge_date" if table is COSTS_FOR_DASHBOARDS else "start_time",
        "description": table.description,
        "schema": schema,
        "filter_select_enabled": True,
        "uuid": _id(f"dataset {table.name}"),
        "metrics": [
            {"metric_name": name, "verbose_name": text, "expression": expression, "d3format": form}
            for name, text, expression, form in [*costs, *FURTHER[table.name]]
        ],
        "columns": [
            {
                "column_name": c.name,
                "verbose_name": label(c.name),
                "type": SQL_TYPES[c.type],
                "is_dttm": c.type in ("DATE", "TIMESTAMP"),
                "is_active": True,
                "groupby": c.type not in ("BIGNUMERIC", "FLOAT64"),
                "filterable": True,
                "description": c.meaning,
            }
            for c in table.columns
        ],
        "version": "1.0.0",
        "database_uuid": _id("database"),
    }


def _chart(chart: Chart) -> dict[str, Any]:
    kind = "echarts_timeseries_bar" if chart.day else "table"
    filters = [
        {"clause": "WHERE", "expressionType": "SIMPLE", "subject": column, "operator": operator, "comparator": value}
        for column, operator, value in chart.filters
    ]
    params: dict[str, Any] = {
        "viz_type": kind, "metrics": list(chart.metrics), "groupby": list(chart.groups), "adhoc_filters": filters, "row_limit": chart.row_limit,
        "order_desc": True,
    }  # fmt: skip
    if chart.day:
        params |= {
            "x_axis": chart.day,
            "time_grain_sqla": "P1D",
            "stack": "Stack",
            "y_axis_format": MONEY,
            "show_legend": True,
            "x_axis_time_format": "%Y-%m-%d",
        }
    else:
        params |= {
            "query_mode": "aggregate",
            "timeseries_limit_metric": chart.metrics[0],
            "table_timestamp_format": "%Y-%m-%d",
            "server_page_length": 50,
        }
    return {
        "slice_name": chart.label,
        "viz_type": kind,
        "params": params,
        "query_context": json.dumps(_query(chart, params)),
        "uuid": _id(f"chart {chart.label}"),
        "version": "1.0.0",
        "dataset_uuid": _id(f"dataset {chart.table.name}"),
    }


def _query(chart: Chart, params: Mapping[str, Any]) -> dict[str, Any]:
    """Return the query that Superset sends for the chart. Superset inserts the number of the dataset."""
    axis = {"columnType": "BASE_AXIS", "timeGrain": "P1D", "sqlExpression": chart.day, "label": chart.day, "expressionType": "SQL"}
    query = {
        "columns": [*([axis] if chart.day else []), *chart.groups],
        "metrics": list(chart.metrics),
        "filters": [{"col": column, "op": operator, "val": value} for column, operator, value in chart.filters],
        "orderby": [[chart.metrics[0], False]],
        "row_limit": chart.row_limit,
    }
    asked = {"force": False, "queries": [query], "form_data": dict(params), "result_format": "json", "result_type": "full"}
    return {"datasource": {"id": 0, "type": "table"}, **asked}


def _dashboard() -> dict[str, Any]:
    position: dict[str, Any] = {
        "DASHBOARD_VERSION_KEY": "v2",
        "ROOT_ID": {"type": "ROOT", "id": "ROOT_ID", "children": ["GRID_ID"]},
        "GRID_ID": {"type": "GRID", "id": "GRID_ID", "children": [], "parents": ["ROOT_ID"]},
        "HEADER_ID": {"type": "HEADER", "id": "HEADER_ID", "meta": {"text": TITLE}},
    }
    used = 12
    row = ""
    for number, chart in enumerate(CHARTS):
        if used + chart.width > 12:
            row, used = f"ROW-{number}", 0
            position["GRID_ID"]["children"].append(row)
            meta = {"background": "BACKGROUND_TRANSPARENT"}
            position[row] = {"type": "ROW", "id": row, "children": [], "parents": ["ROOT_ID", "GRID_ID"], "meta": meta}
        used += chart.width
        name = f"CHART-{number}"
        position[row]["children"].append(name)
        meta_of_chart = {
            "uuid": _id(f"chart {chart.label}"),
            "chartId": number + 1,
            "sliceName": chart.label,
            "width": chart.width,
            "height": 50,
        }
        position[name] = {"type": "CHART", "id": name, "children": [], "parents": ["ROOT_ID", "GRID_ID", row], "meta": meta_of_chart}
    return {
        "dashboard_title": TITLE,
        "description": "What every MLflow run costs. Written by `runspend export superset`.",
        "slug": "runspend",
        "published": True,
        "uuid": _id("dashboard"),
        "position": position,
        "metadata": {"color_scheme": "supersetColors", "native_filter_configuration": [_filter("billing_currency"), _filter("team"), _time_filter()]},
        "version": "1.0.0",
    }  # fmt: skip


def _filter(column: str) -> dict[str, Any]:
    return {
        "id": f"NATIVE_FILTER-{column}",
        "name": label(column),
        "type": "NATIVE_FILTER",
        "filterType": "filter_select",
        "targets": [{"datasetUuid": _id(f"dataset {COSTS_FOR_DASHBOARDS.name}"), "column": {"name": column}}],
        "defaultDataMask": {"extraFormData": {}, "filterState": {}},
        "controlValues": {"multiSelect": True, "enableEmptyFilter": False, "searchAllOptions": True},
        "cascadeParentIds": [],
        "scope": {"rootPath": ["ROOT_ID"], "excluded": []},
    }


def _time_filter() -> dict[str, Any]:
    return {
        "id": "NATIVE_FILTER-time",
        "name": "Time range",
        "type": "NATIVE_FILTER",
        "filterType": "filter_time",
        "targets": [{}],
        "defaultDataMask": {"extraFormData": {}, "filterState": {}},
        "controlValues": {},
        "cascadeParentIds": [],
        "scope": {"rootPath": ["ROOT_ID"], "excluded": []},
    }
