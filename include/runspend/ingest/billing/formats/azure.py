"""Reads exports of Azure Cost Management: actual and amortized cost, separately or together, and FOCUS exports.

Belongs here: how the versions of the export spell their columns, which kind a file is of, and which rows of the two kinds count. The
mapping of a row is in azure.sql.

Amortized cost has the usage that commitments cover, and their unused part, each with its share of the fee. Actual cost has the fee
itself. So if a month has both, only purchases and returns of commitments count from actual cost. Without amortized cost, all rows of
actual cost count, and effective cost equals billed cost.

Source: Microsoft, "Understand cost details fields", "Convert Cost Management data to FOCUS", "Tutorial: Create and manage exported data".
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from runspend.ingest.billing import format_spec, texts
from runspend.ingest.billing.format_spec import FileKind
from runspend.ingest.billing.formats import focus
from runspend.ingest.billing.manifests import Delivered
from runspend.ingest.billing.staging import Staged, StagedFile
from runspend.ingest.billing.verify import refused

ACTUAL, AMORTIZED = "ActualCost", "AmortizedCost"
# The kind of a file in its path, for files without a manifest. The last match decides, because its folder is closest to the file.
KIND_NAMES = re.compile(r"(?i)(amorti[sz]ed)|(?<![a-z])(?:actual)|(?-i:Actual)")


def _cased(*names: str) -> tuple[str, ...]:
    """Return the spellings of each name: as in Enterprise Agreements, as in Customer Agreements (camelCase), and in lower case."""
    return tuple(spelling for name in names for spelling in (name, name[0].lower() + name[1:], name.lower()))


# Column of the view -> its spellings. Localized files have a translated word, followed by the name of the column in parentheses.
COLUMNS: Mapping[str, Sequence[str]] = {
    "day": (*_cased("Date", "UsageDateTime", "UsageDate"), "UsageDateTime (UsageDateTime)"),
    "localised_day": ("UsageDateTime (UsageDateTime)",),
    "cost": (*_cased("CostInBillingCurrency", "PreTaxCost", "Cost"), "PreTaxCost (PreTaxCost)"),
    "currency": _cased("BillingCurrencyCode", "BillingCurrency", "Currency"),
    "period_start": _cased("BillingPeriodStartDate"),
    "period_end": _cased("BillingPeriodEndDate"),
    "billing_account_id": _cased("BillingAccountId"),
    "billing_account_name": _cased("BillingAccountName"),
    "billing_profile_id": _cased("BillingProfileId"),
    "subscription_id": (*_cased("SubscriptionId", "SubscriptionGuid"), "Abonnement-GUID (SubscriptionGuid)"),
    "subscription_name": _cased("SubscriptionName"),
    "charge_type": _cased("ChargeType"),
    "pricing_model": _cased("PricingModel"),
    "frequency": _cased("Frequency"),
    "benefit_id": _cased("BenefitId"),
    "benefit_name": _cased("BenefitName"),
    "reservation_id": _cased("ReservationId"),
    "reservation_name": _cased("ReservationName"),
    "quantity": (*_cased("Quantity", "UsageQuantity", "ConsumedQuantity"), "UsageQuantity (UsageQuantity)"),
    "unit": (*_cased("UnitOfMeasure"), "Maßeinheit (UnitOfMeasure)"),
    "unit_price": _cased("UnitPrice"),
    "payg_price": (*_cased("PayGPrice"), "PaygPrice", "paygPrice"),
    "payg_cost": (*_cased("PaygCostInBillingCurrency"), "PayGCostInBillingCurrency", "payGCostInBillingCurrency"),
    "pricing_currency": (*_cased("PricingCurrency"), "PricingCurrencyCode"),
    "meter_category": (*_cased("MeterCategory"), "Kategorie der Verbrauchseinheit (MeterCategory)"),
    "meter_subcategory": (
        *_cased("MeterSubCategory"), "MeterSubcategory", "meterSubcategory", "MeterSubcategory (MeterSubcategory)",
    ),
    "meter_id": (*_cased("MeterId"), "ID der Verbrauchseinheit (MeterId)"),
    "meter_name": (*_cased("MeterName"), "Name der Verbrauchseinheit (MeterName)"),
    "consumed_service": (*_cased("ConsumedService"), "Genutzter Dienst (ConsumedService)"),
    "product": _cased("ProductName", "Product"),
    "location": (*_cased("ResourceLocation"), "Ressourcenstandort (ResourceLocation)", *_cased("Location", "MeterRegion")),
    "zone": _cased("AvailabilityZone"),
    "resource_id": (*_cased("ResourceId", "InstanceId", "InstanceName"), "InstanceId (InstanceId)"),
    "resource_name": _cased("ResourceName"),
    "resource_type": (*_cased("ResourceType"), "ResourceType (ResourceType)"),
    "tags": (*_cased("Tags"), "Tags (Tags)"),
    "additional_info": (*_cased("AdditionalInfo"), "Zusätzliche Informationen (AdditionalInfo)"),
    "invoice_id": _cased("InvoiceId"),
    "partner_name": _cased("PartnerName"),
    "publisher_name": _cased("PublisherName"),
    "publisher_type": _cased("PublisherType"),
}  # fmt: skip
KINDS = (FileKind(view="azure", columns=COLUMNS, required=("day", "cost"), sql="azure.sql"),)


def matches(header: Sequence[str]) -> bool:
    """Return whether a header is that of an Azure cost export, but not of a FOCUS export."""
    names = set(header)
    return not focus.matches(header) and all(names & set(COLUMNS[c]) for c in ("day", "cost", "meter_category", "consumed_service"))


def variant(header: Sequence[str]) -> str:
    """Return the kind of agreement whose export has this header, for `billing_loads.focus_version`."""
    names = set(header)
    if "UsageDateTime (UsageDateTime)" in names or "Maßeinheit (UnitOfMeasure)" in names:
        return "pay-as-you-go, localised"
    if names & set(_cased("SubscriptionGuid", "UsageDateTime")):
        return "pay-as-you-go"
    return "customer agreement" if names & set(_cased("CostInPricingCurrency", "PricingCurrency")) else "enterprise agreement"


def label(place: str, stated: str | None, header: Sequence[str]) -> str | None:
    """Return ActualCost or AmortizedCost, or None for a FOCUS file. The manifest (`stated`) decides, or else the path `place`.

    If neither names a kind, the file has actual cost.
    """
    if focus.matches(header):
        return None
    if stated is not None:
        return AMORTIZED if stated == AMORTIZED else ACTUAL
    found = [AMORTIZED if match[1] else ACTUAL for match in KIND_NAMES.finditer(place)]
    return found[-1] if found else ACTUAL


def stage(staged: Staged, delivered: Delivered) -> StagedFile:
    """Stage the rows of one file as charges. Raises SourceRefused if neither the file nor the source states a currency."""
    header = texts.read_header(delivered.source.name, delivered.name, delivered.file)
    if focus.matches(header):
        return focus.stage(staged, delivered)
    currency = delivered.source.currency
    if currency is None and not set(header) & set(COLUMNS["currency"]) and format_spec.kind_of(KINDS, header):
        raise refused(
            delivered.source.name,
            delivered.name,
            "it has no column that names the currency (BillingCurrency), and billing[].currency is not set. Write the currency of "
            "this bill there, such as `currency: EUR`",
        )
    settings = {
        "is_amortized": delivered.label == AMORTIZED,
        # A currency column of the file decides, even if it is empty.
        "currency": None if set(header) & set(COLUMNS["currency"]) else currency,
    }
    return format_spec.stage(staged, delivered, KINDS, variant, settings)


FEE = "coalesce(charge_category = 'Purchase' and pricing_category = 'Committed', false)"
ACCOUNT = "lower(coalesce(billing_account_id, ''))"
SUBSCRIPTION = "lower(coalesce(sub_account_id, ''))"


def combine(staged: Staged, labels: Mapping[int, str | None]) -> dict[str, Any]:
    """Keep only fees and returns of commitments from actual cost, in months and subscriptions that amortized cost describes.

    `labels`: file index -> kind. A subscription that only actual cost names keeps all its rows, so no charge of exports with different
    scopes is lost. Return the months in which one kind was used without the other, by problem.
    """
    con = staged.con
    for name, wanted in (("actual_files", ACTUAL), ("amortized_files", AMORTIZED)):
        con.execute(
            f"create or replace temp table {name} as select unnest(?)::integer as file_index",
            [[i for i, own in labels.items() if own == wanted]],
        )
    actual, amortized = "file_index in (from actual_files)", "file_index in (from amortized_files)"
    con.execute(
        f"create or replace temp table amortized as select distinct billing_period, {ACCOUNT} as account, {SUBSCRIPTION} as subscription "
        f"from staged where reject_reason is null and {amortized}"
    )
    without_actual = _months(
        staged, f"{amortized} and billing_period not in (select billing_period from staged where {actual} and billing_period is not null)"
    )
    is_described = f"(billing_period, {ACCOUNT}) in (select billing_period, account from amortized)"
    is_repeated = f"(billing_period, {ACCOUNT}, {SUBSCRIPTION}) in (select billing_period, account, subscription from amortized)"
    effective = staged.ask_rows(f"case when {actual} and {FEE} and {is_described} then cast(0 as decimal(38, 22)) else effective_cost end")
    staged.set(effective_cost=effective)
    staged.keep(staged.ask_rows(f"coalesce(not ({actual} and not {FEE} and {is_repeated}), true)"))
    months_by_problem = {
        "actual_cost_without_amortized": _months(staged, f"{actual} and not {FEE}"),
        "amortized_cost_without_actual": without_actual,
    }
    return {what: months for what, months in months_by_problem.items() if months}


def _months(staged: Staged, condition: str) -> list[str]:
    """Return the billing months with good rows that fulfill a SQL condition, such as "2026-10"."""
    found = staged.con.execute(
        f"select distinct strftime(billing_period, '%Y-%m') from staged where reject_reason is null and {condition} order by 1"
    ).fetchall()
    return [month for (month,) in found]
