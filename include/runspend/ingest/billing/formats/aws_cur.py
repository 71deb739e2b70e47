"""Reads AWS Cost and Usage Reports, CUR 2.0 and legacy, as CSV or Parquet.

Belongs here: how the reports spell their columns, and whether costs are read net of private discounts. `aws_cur.sql` maps the line item
types to FOCUS.

Sources: AWS "Cost and Usage Report (CUR) 2.0" table dictionary, "Cost and Usage Report data dictionary", "Running Amazon Athena
queries" (how Athena spells legacy columns).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from decimal import Decimal, InvalidOperation
from typing import TYPE_CHECKING

from runspend.ingest.billing import columns, format_spec, texts
from runspend.ingest.billing.format_spec import FileKind
from runspend.ingest.billing.manifests import Delivered
from runspend.ingest.billing.staging import Staged, StagedFile

if TYPE_CHECKING:
    import pyarrow as pa

# Column of CUR 2.0 -> its spellings in the legacy report. Legacy Parquet and Athena mostly spell columns as CUR 2.0 does. If they do not,
# their spelling comes last.
SPELLINGS: dict[str, tuple[str, ...]] = {
    "bill_invoice_id": ("bill/InvoiceId",),
    "bill_invoicing_entity": ("bill/InvoicingEntity",),
    "bill_billing_entity": ("bill/BillingEntity",),
    "bill_payer_account_id": ("bill/PayerAccountId",),
    "bill_payer_account_name": (),
    "bill_billing_period_start_date": ("bill/BillingPeriodStartDate",),
    "bill_billing_period_end_date": ("bill/BillingPeriodEndDate",),
    "line_item_usage_account_id": ("lineItem/UsageAccountId",),
    "line_item_usage_account_name": (),
    "line_item_line_item_type": ("lineItem/LineItemType",),
    "line_item_usage_start_date": ("lineItem/UsageStartDate",),
    "line_item_usage_end_date": ("lineItem/UsageEndDate",),
    "line_item_product_code": ("lineItem/ProductCode",),
    "line_item_usage_type": ("lineItem/UsageType",),
    "line_item_operation": ("lineItem/Operation",),
    "line_item_availability_zone": ("lineItem/AvailabilityZone",),
    "line_item_resource_id": ("lineItem/ResourceId",),
    "line_item_iam_principal": (),
    "line_item_usage_amount": ("lineItem/UsageAmount",),
    "line_item_currency_code": ("lineItem/CurrencyCode",),
    "line_item_unblended_cost": ("lineItem/UnblendedCost",),
    "line_item_net_unblended_cost": ("lineItem/NetUnblendedCost",),
    "line_item_line_item_description": ("lineItem/LineItemDescription",),
    "line_item_tax_type": ("lineItem/TaxType",),
    "line_item_legal_entity": ("lineItem/LegalEntity",),
    "pricing_public_on_demand_cost": ("pricing/publicOnDemandCost",),
    "pricing_public_on_demand_rate": ("pricing/publicOnDemandRate",),
    "pricing_unit": ("pricing/unit",),
    "pricing_rate_id": ("pricing/RateId",),
    "pricing_rate_code": ("pricing/RateCode",),
    "pricing_currency": ("pricing/currency",),
    "product": (),
    "product_name": ("product/ProductName", "product_product_name"),
    "product_servicecode": ("product/servicecode",),
    "product_product_family": ("product/productFamily",),
    "product_instance_type": ("product/instanceType",),
    "product_region_code": ("product/regionCode", "product/region", "product_region"),
    "product_location": ("product/location",),
    "product_sku": ("product/sku",),
    "reservation_reservation_a_r_n": ("reservation/ReservationARN",),
    "reservation_effective_cost": ("reservation/EffectiveCost",),
    "reservation_net_effective_cost": ("reservation/NetEffectiveCost",),
    "reservation_unused_amortized_upfront_fee_for_billing_period": ("reservation/UnusedAmortizedUpfrontFeeForBillingPeriod",),
    "reservation_net_unused_amortized_upfront_fee_for_billing_period": ("reservation/NetUnusedAmortizedUpfrontFeeForBillingPeriod",),
    "reservation_unused_recurring_fee": ("reservation/UnusedRecurringFee",),
    "reservation_net_unused_recurring_fee": ("reservation/NetUnusedRecurringFee",),
    "savings_plan_savings_plan_a_r_n": ("savingsPlan/SavingsPlanARN", "savingsPlan/SavingsPlanArn"),
    "savings_plan_offering_type": ("savingsPlan/OfferingType",),
    "savings_plan_savings_plan_effective_cost": ("savingsPlan/SavingsPlanEffectiveCost",),
    "savings_plan_net_savings_plan_effective_cost": ("savingsPlan/NetSavingsPlanEffectiveCost",),
    "savings_plan_total_commitment_to_date": ("savingsPlan/TotalCommitmentToDate",),
    "savings_plan_used_commitment": ("savingsPlan/UsedCommitment",),
    "split_line_item_parent_resource_id": ("splitLineItem/ParentResourceId",),
    "split_line_item_split_usage": ("splitLineItem/SplitUsage",),
    "split_line_item_split_usage_ratio": ("splitLineItem/SplitUsageRatio",),
    "split_line_item_split_cost": ("splitLineItem/SplitCost",),
    "split_line_item_unused_cost": ("splitLineItem/UnusedCost",),
    "split_line_item_net_split_cost": ("splitLineItem/NetSplitCost",),
    "split_line_item_net_unused_cost": ("splitLineItem/NetUnusedCost",),
    "resource_tags": (),
    "tags": (),  # newer than `resource_tags`; on one row either may be empty ("{}") while the other is not
}
# Cost column -> column with the same cost net of private discounts.
NET_OF = {
    "line_item_unblended_cost": "line_item_net_unblended_cost",
    "reservation_effective_cost": "reservation_net_effective_cost",
    "reservation_unused_amortized_upfront_fee_for_billing_period": "reservation_net_unused_amortized_upfront_fee_for_billing_period",
    "reservation_unused_recurring_fee": "reservation_net_unused_recurring_fee",
    "savings_plan_savings_plan_effective_cost": "savings_plan_net_savings_plan_effective_cost",
}
NET_COLUMNS = (*NET_OF.values(), "split_line_item_net_split_cost", "split_line_item_net_unused_cost")
# Line item type of a fee -> columns that state the unused part of the commitment. Without them, no sum contains the unused part.
UNUSED_OF = {
    "SavingsPlanRecurringFee": ("savings_plan_total_commitment_to_date", "savings_plan_used_commitment"),
    "RIFee": ("reservation_unused_recurring_fee",),
}
KINDS = (
    FileKind(
        view="cur",
        columns={name: (name, *others) for name, others in SPELLINGS.items()},
        required=(
            "bill_payer_account_id", "bill_billing_period_start_date", "bill_billing_period_end_date", "line_item_line_item_type",
            "line_item_usage_start_date", "line_item_usage_end_date", "line_item_product_code", "line_item_currency_code",
            "line_item_unblended_cost",
        ),
        gathered={"tag_columns": ("resourceTags/", "resource_tags_")},
        sql="aws_cur.sql",
        splits_sql="aws_cur_splits.sql",
        splits_of=("line_item_operation", ("EKSPod-EC2", "ECSTask-EC2")),
    ),
)  # fmt: skip


def matches(header: Sequence[str]) -> bool:
    """Return whether a header is that of a Cost and Usage Report, in any spelling."""
    return _spelled("line_item_line_item_type", header) is not None and _spelled("line_item_unblended_cost", header) is not None


def cur_version(header: Sequence[str]) -> str:
    """Return "CUR 2.0" if a header has a column that only this version has, such as `resource_tags`. Otherwise return "CUR legacy"."""
    if "lineItem/LineItemType" in header:
        return "CUR legacy"
    return "CUR 2.0" if {"resource_tags", "tags", "product", "bill_payer_account_name"} & set(header) else "CUR legacy"


NET, ZEROS = "net", "zeros"


class _NetCosts(Exception):
    """Raised while a file is read without net costs, if it has net costs (net of private discounts) other than zero."""


def stage(staged: Staged, delivered: Delivered) -> StagedFile:
    """Stage the rows of one file as charges. Raises SourceRefused if the file does not fit its header.

    Either all costs of a file are read net of private discounts, or none. Otherwise one price would be billed and another amortized.
    Reports of payers with private discounts have net columns. They are used if each cost column in the file has its net column, and if
    the net columns have an amount other than zero. If they have only zeros, the other files of the month decide (`read_again`).
    """
    zeros = False

    def look(rows: pa.Table) -> None:
        nonlocal zeros
        net_costs = [text for column in NET_COLUMNS for text in rows.column(column).chunk(0).dictionary.to_pylist() if text]
        if any(_is_amount(text) for text in net_costs):
            raise _NetCosts
        zeros = zeros or bool(net_costs)

    header = texts.read_header(delivered.source.name, delivered.name, delivered.file)
    has_siblings = all(_spelled(net, header) for column, net in NET_OF.items() if _spelled(column, header))
    try:
        # Most files have no net costs, so every file is first read without them. The first net cost stops this, and the file is read again.
        found = _stage(staged, delivered, header, look if has_siblings else None)
        return replace(found, reading=ZEROS if zeros else None)
    except _NetCosts:
        return stage_again(staged, delivered)


def stage_again(staged: Staged, delivered: Delivered) -> StagedFile:
    """Stage the rows of one file again, with net costs."""
    staged.drop(delivered.index)
    header = texts.read_header(delivered.source.name, delivered.name, delivered.file)
    return replace(_stage(staged, delivered, header, None, is_net=True), reading=NET)


def _stage(
    staged: Staged, delivered: Delivered, header: Sequence[str], look: Callable[[pa.Table], None] | None, *, is_net: bool = False
) -> StagedFile:
    """Stage the rows of one file, with or without net costs. `look` is called with each batch of rows.

    If the file lacks a column for the unused part of commitments, the fees are counted as unreadable values of that column.
    """
    lacking = {
        kind: lacked for kind, needed in UNUSED_OF.items() if (lacked := next((c for c in needed if _spelled(c, header) is None), None))
    }
    fees: dict[str, int] = {}

    def see(rows: pa.Table) -> None:
        if look is not None:
            look(rows)
        if rows.num_rows and rows.column(texts.ROW_NUMBER)[0].as_py() == 1:
            fees.clear()  # the file is read again from its start
        for kind, count in (
            columns.count_values(rows.column("line_item_line_item_type").chunk(0)).items() if rows.num_rows and lacking else ()
        ):
            fees[kind] = fees.get(kind, 0) + count

    found = format_spec.stage(staged, delivered, KINDS, cur_version, {"is_net": is_net}, see if look or lacking else None)
    untold = {lacked: fees[kind] for kind, lacked in lacking.items() if fees.get(kind)}
    return replace(found, unreadable={**found.unreadable, **untold})


def read_again(staged: Staged, files: Mapping[int, StagedFile]) -> list[int]:
    """Return the indexes of files whose net costs are all zero, if other files of the month have net costs. Zero is their true cost."""
    net, zeros = ([index for index, file in files.items() if file.reading == reading] for reading in (NET, ZEROS))
    if not net or not zeros:
        return []
    months = "select billing_account_id, billing_period from staged where list_contains(?, file_index)"
    asked = "select distinct file_index from staged where list_contains(?, file_index) and (billing_account_id, billing_period) in"
    return [index for (index,) in staged.con.execute(f"{asked} ({months}) order by 1", [zeros, net]).fetchall()]


def _spelled(column: str, header: Sequence[str]) -> str | None:
    return next((name for name in (column, *SPELLINGS[column]) if name in header), None)


def _is_amount(text: str) -> bool:
    """Return whether a string is a number other than zero."""
    try:
        return Decimal(text) != 0
    except InvalidOperation:
        return False
