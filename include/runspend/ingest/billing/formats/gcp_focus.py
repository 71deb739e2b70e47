"""Reads Google's own FOCUS: the BigQuery view that users create from the detailed export, and the native FOCUS export (Preview).

Both use the names of FOCUS columns, but not always with their meaning, so they are a separate format. The view writes billing periods in
Los Angeles time, with the last day as their end. It writes FOCUS values in lower case, tags as a list of structs, and the billing account
as the sub-account. Its costs have nine decimals. `gcp_focus.sql` converts all of this to FOCUS. EffectiveCost is Google's value, which
the view sets to BilledCost.

The view joins the price list of one export date. If a price is in the list twice, the view returns rows twice. Runspend cannot
distinguish these from rows that are correctly equal. So users should compare the sum of the view with that of the detailed export once.

Sources: Google Cloud "FOCUS BigQuery view" template of 19 March 2024, "Structure of FOCUS data export".
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from pathlib import Path

from runspend.config.settings import BillSource
from runspend.ingest.billing import format_spec
from runspend.ingest.billing.focus_columns import COLUMNS
from runspend.ingest.billing.format_spec import FileKind
from runspend.ingest.billing.formats._google import add_macros
from runspend.ingest.billing.manifests import Delivered
from runspend.ingest.billing.remote.bigquery import BigQueryTable, Export, open_table
from runspend.ingest.billing.staging import Staged, StagedFile

FOCUS_NAMES = {column.name: name for name, column in COLUMNS.items()}
USED = (
    "billed_cost", "effective_cost", "list_cost", "contracted_cost", "list_unit_price", "contracted_unit_price", "billing_currency", "pricing_currency",
    "pricing_currency_effective_cost", "pricing_currency_list_unit_price", "pricing_currency_contracted_unit_price", "billing_account_id",
    "billing_account_type", "sub_account_id", "sub_account_name", "billing_period_start", "billing_period_end", "charge_period_start", "charge_period_end",
    "charge_category", "charge_class", "charge_description", "pricing_category", "pricing_quantity", "pricing_unit", "consumed_quantity", "consumed_unit",
    "commitment_discount_id", "commitment_discount_name", "commitment_discount_category", "commitment_discount_type", "invoice_id", "invoice_issuer_name",
    "service_provider_name", "service_name", "service_category", "sku_id", "sku_price_id", "resource_id", "resource_name", "resource_type", "region_id",
    "region_name", "availability_zone", "tags",
)  # fmt: skip
KINDS = (
    FileKind(
        view="gcp_focus",
        columns={
            **{name: (FOCUS_NAMES[name],) for name in USED},
            "provider_name": ("ProviderName",),
            "publisher_name": ("PublisherName",),
            "project_id": ("x_Project.id", "x_Project.Id"),
            "project_name": ("x_Project.name", "x_Project.Name"),
            "labels": ("x_Labels",),
            "resource_tags": ("x_Tags",),
            "project_labels": ("x_ProjectLabels",),
            "system_labels": ("x_SystemLabels",),
        },
        required=(
            "billed_cost", "contracted_cost", "billing_currency", "billing_account_id", "billing_period_start", "charge_period_start", "charge_period_end",
            "charge_category", "service_name",
        ),
        sql="gcp_focus.sql",
    ),
)  # fmt: skip
EXPORT = Export(
    # Midnight of the 1st is in the same UTC month, whether it is Los Angeles time or UTC.
    month="format_timestamp('%Y%m', BillingPeriodStart)",
    exported="x_ExportTime",
    columns=tuple(dict.fromkeys([*(n.split(".")[0] for names in KINDS[0].columns.values() for n in names), "x_CostType", "x_ServiceId"])),
)


def open_place(source: BillSource, workdir: Path, now: datetime) -> BigQueryTable | None:
    """Return the BigQuery view or table at an address such as bigquery://project/dataset/table, or None for other addresses."""
    return open_table(source, workdir, EXPORT)


def names(name: str) -> bool:
    """Return whether a file name ends in .json or .json.gz, which JSON lines often do."""
    return name.lower().endswith((".json", ".json.gz"))


def matches(header: Sequence[str]) -> bool:
    """Return whether a header is that of Google's FOCUS. No other producer has these three columns with the prefix `x_`."""
    return {"BilledCost", "BillingPeriodStart", "x_CostType", "x_ExportTime", "x_ServiceId"} <= set(header)


def export_version(header: Sequence[str]) -> str:
    """Return the FOCUS version of a header: 1.2 for the native export, as it is commonly called, and 1.0 for the view."""
    return "1.2" if "x_Labels" in header else "1.0"


def stage(staged: Staged, delivered: Delivered) -> StagedFile:
    """Stage the rows of one file as charges."""
    add_macros(staged)
    return format_spec.stage(staged, delivered, KINDS, version=export_version)
