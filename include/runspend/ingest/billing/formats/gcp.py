"""Reads Google Cloud's billing export, detailed (`gcp_billing_export_resource_v1_…`) or standard (`gcp_billing_export_v1_…`).

Belongs here: how its columns are spelled and where the export is stored. `gcp.sql` has the meaning of the columns. Exported files may be
CSV with dotted headers, JSON lines, or Parquet with structs. The table itself is read from BigQuery (`remote/bigquery.py`).

Credits are added to the cost of their own line, including credits of committed use. Google bills the fee of a commitment as separate
lines, and cancels the covered usage with a credit on its line. BilledCost and EffectiveCost are both the net cost, so they are equal on
every line. The cost of a commitment stays on the lines of its fee and is not part of any usage.

Sources: Google Cloud "Structure of Standard data export", "Structure of Detailed data export".
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from pathlib import Path

from runspend.config.settings import BillSource
from runspend.ingest.billing import format_spec
from runspend.ingest.billing.format_spec import FileKind
from runspend.ingest.billing.formats._google import add_macros
from runspend.ingest.billing.manifests import Delivered
from runspend.ingest.billing.remote.bigquery import BigQueryTable, Export, open_table
from runspend.ingest.billing.staging import Staged, StagedFile

COLUMNS = {
    "billing_account_id": "billing_account_id",
    "service_name": "service.description",
    "sku_id": "sku.id",
    "sku_description": "sku.description",
    "usage_start_time": "usage_start_time",
    "usage_end_time": "usage_end_time",
    "project_id": "project.id",
    "project_name": "project.name",
    "project_labels": "project.labels",
    "labels": "labels",
    "system_labels": "system_labels",
    "tags": "tags",
    "location": "location.location",
    "region": "location.region",
    "zone": "location.zone",
    "resource_name": "resource.name",
    "resource_global_name": "resource.global_name",
    "cost": "cost",
    "credits": "credits",
    "cost_at_list": "cost_at_list",
    "currency": "currency",
    "effective_price": "price.effective_price",
    "usage_amount": "usage.amount",
    "usage_unit": "usage.unit",
    "pricing_amount": "usage.amount_in_pricing_units",
    "pricing_unit": "usage.pricing_unit",
    "invoice_month": "invoice.month",
    "cost_type": "cost_type",
    "adjustment_id": "adjustment_info.id",
    "adjustment_description": "adjustment_info.description",
    "adjustment_mode": "adjustment_info.mode",
    "adjustment_type": "adjustment_info.type",
    "subscription_id": "subscription.instance_id",
    "transaction_type": "transaction_type",
    "seller_name": "seller_name",
}
KINDS = (
    FileKind(
        view="gcp",
        columns={name: (spelling,) for name, spelling in COLUMNS.items()},
        required=("billing_account_id", "usage_start_time", "usage_end_time", "cost", "credits", "currency", "invoice_month"),
        sql="gcp.sql",
    ),
)
EXPORT = Export(
    month="invoice.month",
    exported="export_time",
    columns=tuple(dict.fromkeys(spelling.split(".")[0] for spelling in COLUMNS.values())),
)


def open_place(source: BillSource, workdir: Path, now: datetime) -> BigQueryTable | None:
    """Return the BigQuery table at an address such as bigquery://project/dataset/table, or None for other addresses."""
    return open_table(source, workdir, EXPORT)


def names(name: str) -> bool:
    """Return whether a file name ends in .json or .json.gz, which JSON lines often do."""
    return name.lower().endswith((".json", ".json.gz"))


def matches(header: Sequence[str]) -> bool:
    """Return whether a header is that of this export. Only Google's bills have the column `invoice.month`."""
    return {"billing_account_id", "usage_start_time", "cost", "invoice.month"} <= set(header)


def export_version(header: Sequence[str]) -> str:
    """Return which export a header belongs to: "detailed" or "standard"."""
    return "detailed" if any(name.startswith(("resource.", "price.")) for name in header) else "standard"


def stage(staged: Staged, delivered: Delivered) -> StagedFile:
    """Stage the rows of one file as charges."""
    add_macros(staged)
    return format_spec.stage(staged, delivered, KINDS, version=export_version)
