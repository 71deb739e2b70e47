"""Reads Databricks system tables of usage and prices, as exported files or in place through a SQL warehouse.

The lines are the records of `system.billing.usage`, as delivered. A correction cancels the old record (RETRACTION, with a negative
quantity) and states it again (RESTATEMENT), so the sum is correct. Usage records have quantities but no costs. Their prices are looked
up in `system.billing.account_prices` and `list_prices`. The tables `job_task_run_timeline` and `job_run_timeline` of `system.lakeflow`
map the id of a task's run to its job run.

Sources: Databricks, "Billable usage system table reference", "Pricing system table reference", "Jobs system table reference".
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from importlib.resources import files
from pathlib import Path

from runspend.config.settings import BillSource, DatabricksPrices
from runspend.core.errors import SourceRefused
from runspend.ingest.billing import format_spec, texts
from runspend.ingest.billing.file_sources import FileSource
from runspend.ingest.billing.format_spec import FileKind
from runspend.ingest.billing.manifests import Delivered
from runspend.ingest.billing.remote import databricks as databricks_warehouse
from runspend.ingest.billing.staging import Staged, StagedFile
from runspend.ingest.billing.verify import refused

METADATA = (
    "cluster_id", "job_id", "job_run_id", "job_name", "notebook_id", "notebook_path", "warehouse_id", "instance_pool_id", "node_type",
    "dlt_pipeline_id", "endpoint_id", "endpoint_name", "run_name", "app_id", "app_name", "database_instance_id", "usage_policy_id",
    "source_region",
)  # fmt: skip
RENAMED = {"usage_policy_id": ("usage_metadata.budget_policy_id",)}  # the name until 2025

USAGE = FileKind(
    view="databricks_usage",
    columns={
        **{
            name: (name,)
            for name in (
                "record_id", "account_id", "workspace_id", "sku_name", "cloud", "usage_start_time", "usage_end_time", "usage_date", "custom_tags",
                "usage_unit", "usage_quantity", "usage_type", "record_type", "billing_origin_product", "usage_metadata", "product_features",
            )
        },
        **{name: (f"usage_metadata.{name}", *RENAMED.get(name, ())) for name in METADATA},
        "serving_type": ("product_features.serving_type",),
    },
    required=("account_id", "sku_name", "cloud", "usage_start_time", "usage_end_time", "usage_unit", "usage_quantity"),
    sql="databricks.sql",
    gathered={"tag_columns": ("custom_tags.",)},  # JSON lines have one field per tag
)  # fmt: skip
PRICES = FileKind(
    view="databricks_prices",
    columns={
        "account_id": ("account_id",),
        "sku_name": ("sku_name",),
        "cloud": ("cloud",),
        "usage_unit": ("usage_unit",),
        "currency_code": ("currency_code",),
        "price_start_time": ("price_start_time",),
        "price_end_time": ("price_end_time",),
        "price": ("pricing.default", "pricing"),  # a CSV has the whole struct as JSON
        "effective_price": ("pricing.effective_list.default",),
        "price_table": ("price_table",),
    },
    required=("sku_name", "cloud", "usage_unit", "currency_code", "price_start_time", "price"),
)
TASK_RUNS = FileKind(
    view="databricks_task_runs",
    columns={name: (name,) for name in ("workspace_id", "job_run_id", "run_id", "task_key", "compute_ids")},
    required=("workspace_id", "job_run_id", "run_id", "task_key"),
)
JOB_RUNS = FileKind(
    view="databricks_job_runs",
    columns={name: (name,) for name in ("workspace_id", "run_id", "run_type", "compute_ids")},
    required=("workspace_id", "run_id", "run_type"),
)
KINDS = (USAGE, PRICES, TASK_RUNS, JOB_RUNS)


def matches(header: Sequence[str]) -> bool:
    """Return whether a header has all required columns of one of the tables."""
    names = set(header)
    return any(all(names & set(kind.columns[column]) for column in kind.required) for kind in KINDS)


def is_aside(header: Sequence[str]) -> bool:
    """Return whether a file has prices or timelines, which are lookup tables and not charges."""
    kind = format_spec.kind_of(KINDS, header)
    return kind is not None and kind.sql is None


def open_place(source: BillSource, workdir: Path, now: datetime) -> FileSource | None:
    """Return the system tables at an address `databricks://PROFILE_OR_HOST/sql/1.0/warehouses/ID`, or None for other addresses."""
    if source.uri and source.uri.startswith(databricks_warehouse.SCHEME):
        return databricks_warehouse.SystemTables(source, workdir / "fetched")
    return None


def stage(staged: Staged, delivered: Delivered) -> StagedFile:
    """Stage the rows of one file, as charges or as a lookup table.

    Raises SourceRefused for overlapping or unreadable prices, and for usage without prices.
    """
    settings = delivered.source.prices or DatabricksPrices()
    variables = {"prices_from": settings.from_, "prices_else": settings.else_, "discount": str(settings.discount)}
    if format_spec.kind_of(KINDS, texts.read_header(delivered.source.name, delivered.name, delivered.file)) is USAGE:
        _show_prices(staged)
        if not staged.con.execute("select count(*) from databricks_price_list").fetchall()[0][0]:
            raise _refused(delivered, "usage has no prices, and its folder has no price list. Export system.billing.list_prices as well")
    file = format_spec.stage(staged, delivered, KINDS, version=_version, variables=variables)
    if file.is_aside:
        _check_prices(staged, delivered)
    return file


def _version(header: Sequence[str]) -> str:
    """Return the name of the table that a header belongs to, for `billing_loads.focus_version`."""
    kind = format_spec.kind_of(KINDS, header)
    return "" if kind is None else kind.view.replace("_", " ")


def _show_prices(staged: Staged) -> None:
    """Create the view `databricks_price_list` over the price lists that are staged."""
    format_spec.show_aside(staged, KINDS)
    query = files(__package__).joinpath("databricks_prices.sql").read_text(encoding="utf-8")
    staged.con.execute(f"create or replace view databricks_price_list as {query}")


def _check_prices(staged: Staged, delivered: Delivered) -> None:
    """Raise SourceRefused for unreadable prices, and for two prices of the same time, which would charge the usage of that time twice."""
    _show_prices(staged)
    con = staged.con
    # If no column names the table of a price, the file name decides. Otherwise the SQL decides: only list prices have a public price.
    lower = delivered.name.lower()
    named = next((table for table in ("account_prices", "list_prices") if table in lower), None)
    con.execute("update databricks_prices set price_table = ? where price_table is null and file_index = ?", [named, delivered.index])
    bad = con.execute(
        "select row_number, reject_reason from databricks_price_list where reject_reason is not null order by row_number limit 1"
    ).fetchall()
    if bad:
        raise _refused(delivered, f"row {bad[0][0]}: {bad[0][1]}. Export the table again without changes")
    overlaps = con.execute(
        "select a.price_table, a.sku_name, a.cloud, a.usage_unit, a.valid_from, b.valid_from from databricks_price_list a join databricks_price_list b "
        "on a.price_table = b.price_table and a.sku_name = b.sku_name and a.cloud = b.cloud and a.usage_unit = b.usage_unit and a.number < b.number "
        "and (a.account_id is null or b.account_id is null or a.account_id = b.account_id) "
        "and a.valid_from < coalesce(b.valid_to, timestamptz 'infinity') and b.valid_from < coalesce(a.valid_to, timestamptz 'infinity') "
        "order by a.sku_name, a.valid_from, b.valid_from limit 1"
    ).fetchall()
    if overlaps:
        table, sku, cloud, unit, first, second = overlaps[0]
        raise _refused(
            delivered,
            f"two prices of {sku} ({cloud}, {unit}) apply at the same time: one from {first:%Y-%m-%d %H:%M:%S}, one from {second:%Y-%m-%d %H:%M:%S} UTC. "
            f"Export the whole table system.billing.{table} once, with price_end_time",
        )


def _refused(delivered: Delivered, why: str) -> SourceRefused:
    return refused(delivered.source.name, delivered.name, why)
