"""Reads the system tables of a Databricks account directly through a SQL warehouse, as if they were the files of a folder.

Belongs here: the queries, how they are run, and how their rows become files. The meaning of the files is in
`ingest/billing/formats/databricks.py`. Tests replace `run_query` with a fake. This module has not been verified on a real workspace.

Each month of usage is one file, and so is each price list and timeline. Rows are sorted, so equal rows make equal bytes, and an unchanged
month keeps its version. The stamp of a month is its number of records and its newest `ingestion_date`. Databricks only adds usage
records, so a month with the same stamp is not fetched again.

Sources: Databricks, "Databricks SQL Connector for Python", "Databricks SDK for Python: authentication".
"""

from __future__ import annotations

import re
from datetime import date, datetime, timezone
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from runspend.config.settings import BillSource
from runspend.core.errors import ConfigError, MissingExtra, RunspendError, SourceUnreachable, bill_named
from runspend.ingest.billing.file_sources import Entry

if TYPE_CHECKING:
    import pyarrow as pa

SCHEME = "databricks://"
HTTP_PATH = re.compile(r"/sql/1\.0/(?:warehouses|endpoints)/[A-Za-z0-9]+")

MONTHS = """
select date_format(usage_date, 'yyyy-MM') as month, count(*) as records, max(ingestion_date) as changed_on
from system.billing.usage group by 1 order by 1
"""
# The columns that the format reads. Names and mail addresses of users (identity_metadata) are not queried.
USAGE = """
select record_id, account_id, workspace_id, sku_name, cloud, usage_start_time, usage_end_time, usage_date, to_json(custom_tags) as custom_tags,
  usage_unit, cast(usage_quantity as string) as usage_quantity, usage_type, record_type, billing_origin_product,
  to_json(usage_metadata) as usage_metadata, to_json(product_features) as product_features
from system.billing.usage
where usage_date >= date '{first}' and usage_date < add_months(date '{first}', 1)
order by record_id, record_type, usage_start_time, usage_quantity
"""
LIST_PRICES = """
select 'list_prices' as price_table, account_id, sku_name, cloud, usage_unit, currency_code, price_start_time, price_end_time,
  cast(pricing.default as string) as `pricing.default`, cast(pricing.effective_list.default as string) as `pricing.effective_list.default`
from system.billing.list_prices order by sku_name, cloud, usage_unit, price_start_time
"""
ACCOUNT_PRICES = """
select 'account_prices' as price_table, account_id, sku_name, cloud, usage_unit, currency_code, price_start_time, price_end_time,
  cast(pricing.default as string) as `pricing.default`
from system.billing.account_prices order by sku_name, cloud, usage_unit, price_start_time
"""
TASK_RUNS = """
select distinct workspace_id, job_run_id, run_id, task_key, to_json(compute_ids) as compute_ids
from system.lakeflow.job_task_run_timeline order by workspace_id, job_run_id, run_id, task_key, compute_ids
"""
# Only the runs of notebooks that are called by other notebooks are queried. All other runs are in the timeline of task runs.
JOB_RUNS = """
select distinct workspace_id, run_id, run_type, to_json(compute_ids) as compute_ids
from system.lakeflow.job_run_timeline where run_type = 'WORKFLOW_RUN'
order by workspace_id, run_id, compute_ids
"""
# File name -> (query, whether the table is required). A workspace may lack the other tables: account prices are a preview, and an
# administrator must enable the schema of the timelines.
OTHERS = {
    "list_prices.parquet": (LIST_PRICES, True),
    "account_prices.parquet": (ACCOUNT_PRICES, False),
    "job_task_run_timeline.parquet": (TASK_RUNS, False),
    "job_run_timeline.parquet": (JOB_RUNS, False),
}


class TableMissing(RunspendError):
    """A table does not exist or may not be read. Databricks does not reveal which of the two."""


def run_query(source: BillSource, sql: str) -> pa.Table:
    """Run a query in the SQL warehouse at a source's uri, and return its rows. Raises TableMissing, or SourceUnreachable for other errors.

    The Databricks SDK finds the login for the profile or host in its environment variables, in ~/.databrickscfg, or in the identity of a
    job. Runspend never handles a token.
    """
    try:
        from databricks import sql as connector  # type: ignore[attr-defined]  # not installed where types are checked
        from databricks.sdk.core import Config
    except ImportError as error:
        raise MissingExtra("databricks-sql-connector", "databricks") from error
    place, http_path = address_of(source)
    try:
        config = Config(host=f"https://{place}") if "." in place else Config(profile=source.credentials or place)
        host = urlsplit(config.host or "").netloc
        login = {"server_hostname": host, "http_path": http_path, "credentials_provider": lambda: config.authenticate}
        with connector.connect(**login) as connection, connection.cursor() as cursor:
            cursor.execute(sql)
            answer: pa.Table = cursor.fetchall_arrow()
            return answer
    except (connector.Error, ValueError, OSError) as error:  # the SDK raises ValueError if it finds no login
        if "TABLE_OR_VIEW_NOT_FOUND" in str(error) or "INSUFFICIENT_PERMISSIONS" in str(error):
            raise TableMissing(str(error).splitlines()[0]) from error
        raise SourceUnreachable(
            source.name,
            f"cannot read {bill_named(source.name)} from {source.uri}: {str(error).splitlines()[0]}. "
            "Check the profile or host, the id of the SQL warehouse, and that this login may use it.",
        ) from error


def address_of(source: BillSource) -> tuple[str, str]:
    """Return (profile or host, HTTP path of the SQL warehouse) of `databricks://PLACE/sql/1.0/warehouses/ID`."""
    parts = urlsplit(source.uri or "")
    if not parts.netloc or not HTTP_PATH.fullmatch(parts.path):
        raise ConfigError(
            f"cannot load {bill_named(source.name)} from {source.uri}: it does not name an SQL warehouse. "
            "Write databricks://PROFILE_OR_HOST/sql/1.0/warehouses/ID; the warehouse's page shows the last part as its HTTP path."
        )
    return parts.netloc, parts.path


class SystemTables:
    """A `FileSource` with the current content of the system tables."""

    def __init__(self, source: BillSource, into: Path) -> None:
        address_of(source)
        self._source, self._into = source, into

    def entries(self) -> list[Entry]:
        """Return one file per month of usage, with the day of its newest record, and one per lookup table.

        `Entry.bytes` is the number of records, because the size is not known yet.
        """
        try:
            months = run_query(self._source, MONTHS).to_pylist()
        except TableMissing as error:
            raise self._missing("system.billing.usage", error) from error
        found = [
            Entry(
                f"usage/billing_period={row['month']}/usage.parquet",
                row["records"],
                _midnight(row["changed_on"]),
                f"to {row['changed_on']}",
            )
            for row in months
        ]
        newest = max((entry.modified_at for entry in found), default=datetime(1970, 1, 1, tzinfo=timezone.utc))
        for name, (sql, is_needed) in OTHERS.items():
            try:
                table = run_query(self._source, sql)
            except TableMissing as error:
                if is_needed:
                    raise self._missing(f"system.billing.{name.removesuffix('.parquet')}", error) from error
                continue
            if table.num_rows:
                self._write(name, table)
                found.append(Entry(name, table.num_rows, newest))
        return sorted(found, key=lambda entry: entry.name)

    def fetch(self, entry: Entry) -> Path:
        if entry.name in OTHERS:
            return self._into / entry.name
        month = entry.name.split("billing_period=")[1][:7]
        try:
            return self._write(f"usage-{month}.parquet", run_query(self._source, USAGE.format(first=f"{month}-01")))
        except TableMissing as error:
            raise self._missing("system.billing.usage", error) from error

    def _write(self, name: str, table: pa.Table) -> Path:
        import pyarrow.parquet as pq

        self._into.mkdir(parents=True, exist_ok=True)
        path = self._into / name
        pq.write_table(table.replace_schema_metadata(None), path, compression="zstd")
        return path

    def _missing(self, table: str, error: TableMissing) -> SourceUnreachable:
        return SourceUnreachable(
            self._source.name,
            f"cannot read {table} for {bill_named(self._source.name)}: {error}. An account administrator grants it: "
            f"GRANT SELECT ON TABLE {table} TO `…`, and USE SCHEMA on its schema.",
        )


def _midnight(day: date | datetime | str) -> datetime:
    return datetime.fromisoformat(str(day)[:10]).replace(tzinfo=timezone.utc)
