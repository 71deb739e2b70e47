"""Cost and Usage Reports for tests: line items with their CUR 2.0 names, written in each file format that AWS delivers.

Real reports from outside this repository come from the `samples` fixture.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from tests.focus_files import write_bytes, write_csv

LINE = {
    "bill_invoice_id": "",
    "bill_invoicing_entity": "Amazon Web Services, Inc.",
    "bill_billing_entity": "AWS",
    "bill_payer_account_id": "012345678901",
    "bill_billing_period_start_date": "2026-10-01T00:00:00Z",
    "bill_billing_period_end_date": "2026-11-01T00:00:00Z",
    "line_item_usage_account_id": "000000000042",
    "line_item_line_item_type": "Usage",
    "line_item_usage_start_date": "2026-10-05T10:00:00Z",
    "line_item_usage_end_date": "2026-10-05T11:00:00Z",
    "line_item_product_code": "AmazonEC2",
    "line_item_usage_type": "BoxUsage:p4d.24xlarge",
    "line_item_operation": "RunInstances",
    "line_item_availability_zone": "us-east-1a",
    "line_item_resource_id": "i-0123456789abcdef0",
    "line_item_usage_amount": "1",
    "line_item_currency_code": "USD",
    "line_item_unblended_cost": "1.00",
    "line_item_line_item_description": "an hour",
    "line_item_tax_type": "",
    "line_item_legal_entity": "Amazon Web Services, Inc.",
    "pricing_public_on_demand_cost": "",
    "pricing_public_on_demand_rate": "",
    "pricing_unit": "Hrs",
    "pricing_rate_code": "",
    "product_servicecode": "AmazonEC2",
    "product_product_family": "Compute Instance",
    "product_instance_type": "p4d.24xlarge",
    "product_region_code": "us-east-1",
    "product_sku": "SKU1",
    "reservation_reservation_a_r_n": "",
    "reservation_effective_cost": "",
    "reservation_unused_amortized_upfront_fee_for_billing_period": "",
    "reservation_unused_recurring_fee": "",
    "savings_plan_savings_plan_a_r_n": "",
    "savings_plan_savings_plan_effective_cost": "",
    "savings_plan_total_commitment_to_date": "",
    "savings_plan_used_commitment": "",
    "resource_tags": "",
}
# Column names of the legacy report ("Cost and Usage Report data dictionary"), which has one column per tag.
LEGACY = {
    "bill_invoice_id": "bill/InvoiceId",
    "bill_invoicing_entity": "bill/InvoicingEntity",
    "bill_billing_entity": "bill/BillingEntity",
    "bill_payer_account_id": "bill/PayerAccountId",
    "bill_billing_period_start_date": "bill/BillingPeriodStartDate",
    "bill_billing_period_end_date": "bill/BillingPeriodEndDate",
    "line_item_usage_account_id": "lineItem/UsageAccountId",
    "line_item_line_item_type": "lineItem/LineItemType",
    "line_item_usage_start_date": "lineItem/UsageStartDate",
    "line_item_usage_end_date": "lineItem/UsageEndDate",
    "line_item_product_code": "lineItem/ProductCode",
    "line_item_usage_type": "lineItem/UsageType",
    "line_item_operation": "lineItem/Operation",
    "line_item_availability_zone": "lineItem/AvailabilityZone",
    "line_item_resource_id": "lineItem/ResourceId",
    "line_item_usage_amount": "lineItem/UsageAmount",
    "line_item_currency_code": "lineItem/CurrencyCode",
    "line_item_unblended_cost": "lineItem/UnblendedCost",
    "line_item_net_unblended_cost": "lineItem/NetUnblendedCost",
    "line_item_line_item_description": "lineItem/LineItemDescription",
    "line_item_tax_type": "lineItem/TaxType",
    "line_item_legal_entity": "lineItem/LegalEntity",
    "pricing_public_on_demand_cost": "pricing/publicOnDemandCost",
    "pricing_public_on_demand_rate": "pricing/publicOnDemandRate",
    "pricing_unit": "pricing/unit",
    "pricing_rate_code": "pricing/RateCode",
    "product_servicecode": "product/servicecode",
    "product_product_family": "product/productFamily",
    "product_instance_type": "product/instanceType",
    "product_region_code": "product/regionCode",
    "product_sku": "product/sku",
    "reservation_reservation_a_r_n": "reservation/ReservationARN",
    "reservation_effective_cost": "reservation/EffectiveCost",
    "reservation_net_effective_cost": "reservation/NetEffectiveCost",
    "reservation_unused_amortized_upfront_fee_for_billing_period": "reservation/UnusedAmortizedUpfrontFeeForBillingPeriod",
    "reservation_unused_recurring_fee": "reservation/UnusedRecurringFee",
    "savings_plan_savings_plan_a_r_n": "savingsPlan/SavingsPlanARN",
    "savings_plan_savings_plan_effective_cost": "savingsPlan/SavingsPlanEffectiveCost",
    "savings_plan_net_savings_plan_effective_cost": "savingsPlan/NetSavingsPlanEffectiveCost",
    "savings_plan_total_commitment_to_date": "savingsPlan/TotalCommitmentToDate",
    "savings_plan_used_commitment": "savingsPlan/UsedCommitment",
}
# The same amounts net of private discounts. Only payers with such a discount get these columns.
NET = {
    "line_item_net_unblended_cost": "",
    "reservation_net_effective_cost": "",
    "reservation_net_unused_amortized_upfront_fee_for_billing_period": "",
    "reservation_net_unused_recurring_fee": "",
    "savings_plan_net_savings_plan_effective_cost": "",
}
AMOUNTS = ("cost", "amount", "rate", "fee", "commitment", "commitment_to_date", "fee_for_billing_period")


def line(kind: str = "Usage", cost: str = "1.00", **other: str) -> dict[str, str]:
    """Return a line item of this type and unblended cost. `more` sets other columns by their CUR 2.0 names."""
    return {**LINE, "line_item_line_item_type": kind, "line_item_unblended_cost": cost, **other}


def month(period: str) -> dict[str, str]:
    """Return the time columns of a line in another month: one hour on the fifth."""
    year, number = (int(part) for part in period.split("-"))
    return {
        "bill_billing_period_start_date": f"{period}-01T00:00:00Z",
        "bill_billing_period_end_date": f"{year + number // 12}-{number % 12 + 1:02d}-01T00:00:00Z",
        "line_item_usage_start_date": f"{period}-05T10:00:00Z",
        "line_item_usage_end_date": f"{period}-05T11:00:00Z",
    }


def legacy(lines: Sequence[Mapping[str, str]], prefix: str = "resourceTags/user:") -> list[dict[str, str]]:
    """Return the lines with the legacy report's names. A tag `user_k` becomes a column `resourceTags/user:k`."""
    tags = [json.loads(each["resource_tags"] or "{}") for each in lines]
    keys = sorted({key for each in tags for key in each})
    return [
        {LEGACY[name]: value for name, value in each.items() if name in LEGACY}
        | {prefix + key.removeprefix("user_"): line_tags.get(key, "") for key in keys}
        for each, line_tags in zip(lines, tags, strict=True)
    ]


def athena(lines: Sequence[Mapping[str, str]]) -> list[dict[str, str]]:
    """Return the lines with the names of legacy Parquet and Athena: snake case, and one column `resource_tags_user_k` per tag."""
    tags = legacy(lines, prefix="resource_tags_user_")
    return [
        {name: value for name, value in each.items() if name != "resource_tags"}
        | {name: value for name, value in line_tags.items() if name.startswith("resource_tags_")}
        for each, line_tags in zip(lines, tags, strict=True)
    ]


def write_cur(path: Path, lines: Sequence[Mapping[str, str]], *, at: datetime | None = None) -> Path:
    """Write these lines to a file: CSV, CSV.gz or Parquet, depending on its name."""
    if path.suffix != ".parquet":
        return write_csv(path, lines, at=at, header=None if lines else list(LINE))
    table = parquet_table(lines)
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(table, path)
    return path if at is None else write_bytes(path, path.read_bytes(), at=at)


def parquet_table(lines: Sequence[Mapping[str, str]], money: Any = None) -> pa.Table:
    """Return CUR 2.0 as Parquet: amounts are doubles (or `money`), times are timestamps, tags and products are maps, and the rest are strings."""
    names = list(lines[0]) if lines else list(LINE)

    def column(name: str) -> pa.Array:
        values = [each[name] or None for each in lines]
        if name.endswith(("start_date", "end_date")):
            times = [datetime.fromisoformat(v).astimezone(timezone.utc).replace(tzinfo=None) if v else None for v in values]
            return pa.array(times, pa.timestamp("ms"))
        if name in ("resource_tags", "product"):
            maps = [list(json.loads(v).items()) if v else [] for v in values]
            return pa.array(maps, pa.map_(pa.string(), pa.string()))
        if name.endswith(AMOUNTS):
            if money is not None:
                return pa.array(values, pa.string()).cast(money)
            return pa.array([float(v) if v else None for v in values], pa.float64())
        return pa.array(values, pa.string())

    return pa.table([column(name) for name in names], names=names)
