"""Write the bills of the demo as FOCUS files, one per month: AWS (FOCUS 1.3, gzip CSV) and Google Cloud (FOCUS 1.0, CSV).

As on real AWS bills, each hour of a machine is one charge. Its charge period is the whole hour; its quantity is the billed part of it.

The AWS bill also has charges that are typical of any company: disks, tax, support, a credit, a correction, and a web shop without
training. The shop uses a savings plan and a capacity reservation, and has charges for their used and unused parts. It also uses a
product of another vendor, paid in credits.

The AWS files have one column of FOCUS 1.4: CommitmentProgramEligibilityDetails.
"""

from __future__ import annotations

import csv
import gzip
import io
import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

from runspend.interfaces.demo.plan import BEGIN, BILLED_UNTIL, Machine, Plan

HOUR = timedelta(hours=1)
COLUMNS_1_3 = (
    "AvailabilityZone,BilledCost,BillingAccountId,BillingAccountName,BillingAccountType,BillingCurrency,BillingPeriodEnd,BillingPeriodStart,"
    "CapacityReservationId,CapacityReservationStatus,ChargeCategory,ChargeClass,ChargeDescription,ChargeFrequency,ChargePeriodEnd,ChargePeriodStart,"
    "CommitmentDiscountCategory,CommitmentDiscountId,CommitmentDiscountName,CommitmentDiscountQuantity,CommitmentDiscountStatus,"
    "CommitmentDiscountType,CommitmentDiscountUnit,CommitmentProgramEligibilityDetails,ConsumedQuantity,ConsumedUnit,ContractedCost,"
    "ContractedUnitPrice,EffectiveCost,HostProviderName,InvoiceId,InvoiceIssuerName,ListCost,ListUnitPrice,PricingCategory,PricingCurrency,"
    "PricingCurrencyContractedUnitPrice,PricingCurrencyEffectiveCost,PricingCurrencyListUnitPrice,PricingQuantity,PricingUnit,ProviderName,"
    "PublisherName,RegionId,RegionName,ResourceId,ResourceName,ResourceType,ServiceCategory,ServiceName,ServiceProviderName,ServiceSubcategory,SkuId,"
    "SkuMeter,SkuPriceDetails,SkuPriceId,SubAccountId,SubAccountName,SubAccountType,Tags"
).split(",")
# fmt: off
SINCE_1_0 = {
    "BillingAccountType", "CapacityReservationId", "CapacityReservationStatus", "CommitmentDiscountQuantity", "CommitmentDiscountUnit",
    "CommitmentProgramEligibilityDetails", "HostProviderName", "InvoiceId", "PricingCurrency", "PricingCurrencyContractedUnitPrice",
    "PricingCurrencyEffectiveCost", "PricingCurrencyListUnitPrice", "ServiceProviderName", "ServiceSubcategory", "SkuMeter", "SkuPriceDetails", "SubAccountType",
}
# fmt: on
COLUMNS_1_0 = [c for c in COLUMNS_1_3 if c not in SINCE_1_0]
DISCOUNT = Decimal("0.92")
ML, SHOP = "111122223333", "999988887777"
SUBCATEGORIES = {
    "AI and Machine Learning": "AI Platforms",
    "Analytics": "Search", "Compute": "Virtual Machines", "Databases": "Relational Databases",
    "Management and Governance": "Support", "Storage": "Block Storage",
}  # fmt: skip
SAVINGS_PLAN = {
    "CommitmentDiscountCategory": "Spend", "CommitmentDiscountId": "arn:aws:savingsplans::000011112222:savingsplan/5b1f0c52-shop",
    "CommitmentDiscountName": "shop-databases", "CommitmentDiscountType": "Database Savings Plan", "CommitmentDiscountUnit": "USD",
}  # fmt: skip
RESERVATION = "arn:aws:ec2:eu-west-1:999988887777:capacity-reservation/cr-0a1b2c3d4e5f60718"
# The vendor provides its marketplace product, and the cloud hosts and bills it.
SOLD_BY_FINDWELL = {"PublisherName": "Findwell", "ServiceProviderName": "Findwell"}
WEB_SERVER = "arn:aws:ec2:eu-west-1:999988887777:instance/i-0d3m0web5e4fe4000"
# Commitment programs that could cover a charge, by service category.
PROGRAMS = {
    "Compute": {"CommitmentPrograms": [{"ProgramType": "Compute Savings Plan"}, {"ProgramType": "Capacity Reservation"}]},
    "Databases": {"CommitmentPrograms": [{"ProgramType": "Database Savings Plan"}]},
}
CREDITS = Decimal(2000)  # bought in one purchase
CREDIT_PRICE = Decimal("0.02")  # USD
EUR_PRICE = Decimal("1.08")  # USD


def write_bills(folder: Path, plan: Plan, run_tags: dict[str, list[tuple[datetime, datetime, str]]]) -> None:
    """Write the bills to `aws/` and `gcp/` in `folder`.

    `run_tags` maps the resource id of a machine to (start, end, run id). Charges for hours in that time have the run id as a tag.
    """
    lines = sorted(_lines(plan, run_tags), key=lambda row: (row["ChargePeriodStart"], row["ResourceId"], row["SkuId"]))
    for provider, name, columns in (("AWS", "aws", COLUMNS_1_3), ("Google Cloud", "gcp", COLUMNS_1_0)):
        (folder / name).mkdir(parents=True)
        for month in sorted({row["BillingPeriodStart"] for row in lines}):
            mine = [row for row in lines if row["BillingPeriodStart"] == month and row["ProviderName"] == provider]
            text = io.StringIO()
            writer = csv.DictWriter(text, columns, extrasaction="ignore", restval="")
            writer.writeheader()
            writer.writerows(mine)
            path = folder / name / f"focus-{month[:7]}.csv"
            if name == "aws":
                path.with_suffix(".csv.gz").write_bytes(gzip.compress(text.getvalue().encode(), mtime=0))
            else:
                path.write_text(text.getvalue())


def _lines(plan: Plan, run_tags: dict[str, list[tuple[datetime, datetime, str]]]) -> Iterator[dict[str, Any]]:
    for machine in plan.machines:
        tagged = run_tags.get(machine.resource_id, [])
        for start, hours in _billed_hours(plan.uptimes.get(machine.resource_id, [])):
            tag = next((run_id for begin, end, run_id in tagged if begin < start + HOUR and end > start), None)
            yield from _machine_lines(machine, start, hours, tag)
    moment = BEGIN
    while moment < BILLED_UNTIL:
        if moment.hour == 3 and moment.weekday() < 5:
            for description, price, quantity, unit in (
                ("", "7.2400000000", "1", "Hours"),
                ("data transfer out", "0.1000000000", "1.25", "GB"),
            ):
                yield _line(
                    "AWS",
                    moment,
                    moment + HOUR,
                    Decimal(price),
                    Charge(
                        service="Amazon SageMaker",
                        category="AI and Machine Learning",
                        resource=f"arn:aws:sagemaker:eu-west-1:{ML}:notebook-instance/old-notebook",
                        sku="sagemaker-notebook" if not description else "sagemaker-transfer",
                        quantity=Decimal(quantity),
                        unit=unit,
                        more={"ChargeDescription": f"Amazon SageMaker {description}"} if description else {},
                    ),
                )
        moment += HOUR
    yield from _shop_lines()
    for month, tax, support in (
        (datetime(2026, 10, 1, tzinfo=BEGIN.tzinfo), "411.2300000000", "190.0000000000"),
        (datetime(2026, 11, 1, tzinfo=BEGIN.tzinfo), "702.1100000000", "316.2900000000"),
    ):
        end = _month_end(month)
        yield _line("AWS", month, end, Decimal(tax), Charge(kind="Tax", service="Tax", category="Other", frequency="Recurring"))
        yield _line(
            "AWS",
            month,
            end,
            Decimal(support),
            Charge(
                kind="Purchase",
                service="AWS Support (Business)",
                category="Management and Governance",
                sku="support",
                frequency="Recurring",
            ),
        )
        yield _line(
            "AWS",
            month,
            month + timedelta(days=1),
            Decimal("-25.0000000000"),
            Charge(kind="Credit", service="Amazon EC2", category="Compute", frequency="One-Time"),
        )
    first = next(m for m in plan.machines if m.kind.provider == "AWS" and plan.uptimes.get(m.resource_id))
    hour = plan.uptimes[first.resource_id][0][0].replace(minute=0, second=0, microsecond=0)
    correction = _line(
        "AWS",
        hour,
        hour + HOUR,
        Decimal("-1.2500000001"),
        Charge(service="Amazon EC2", category="Compute", resource=first.billed_as, sku="correction", klass="Correction"),
    )
    november = datetime(2026, 11, 1, tzinfo=BEGIN.tzinfo)
    yield {**correction, "BillingPeriodStart": _text(november), "BillingPeriodEnd": _text(_month_end(november))}


def _shop_lines() -> Iterator[dict[str, Any]]:
    """Yield the charges of the web shop: a database, a web server and a search service. Together they cost 0.37904 USD in every hour."""
    day = BEGIN.replace(hour=0, minute=0, second=0, microsecond=0)
    while day < BILLED_UNTIL:
        begin, end = max(day, BEGIN), min(day + 24 * HOUR, BILLED_UNTIL)
        hours = Decimal((end - begin) // HOUR)
        yield from _database_lines(begin, end)
        yield from _web_server_lines(begin, end)
        used = hours * Decimal("0.0276")
        yield _line(
            "AWS",
            begin,
            end,
            hours * Decimal("0.0300000000"),
            Charge(
                service="Findwell Search",
                category="Analytics",
                account=SHOP,
                resource=f"arn:aws:marketplace:eu-west-1:{SHOP}:findwell/shop",
                sku="findwell-search",
                quantity=hours,
                unit="Hours",
                more=SOLD_BY_FINDWELL
                | {
                    "BilledCost": Decimal(0),
                    "EffectiveCost": used,
                    "PricingCurrency": "Credits",
                    "PricingCurrencyEffectiveCost": used / CREDIT_PRICE,
                    "PricingCurrencyListUnitPrice": Decimal("1.5"),
                    "PricingCurrencyContractedUnitPrice": Decimal("1.38"),
                },
            ),
        )
        day += 24 * HOUR
    yield _line(
        "AWS",
        BEGIN,
        BEGIN + HOUR,
        CREDITS * CREDIT_PRICE,
        Charge(
            kind="Purchase",
            service="Findwell Search",
            category="Analytics",
            account=SHOP,
            sku="findwell-credits",
            frequency="One-Time",
            quantity=CREDITS,
            unit="Credits",
            more=SOLD_BY_FINDWELL
            | {
                "EffectiveCost": Decimal(0),
                "PricingCurrency": "EUR",
                "PricingCurrencyEffectiveCost": Decimal(0),
                "PricingCurrencyListUnitPrice": round(CREDIT_PRICE / EUR_PRICE, 8),
                "PricingCurrencyContractedUnitPrice": round(CREDIT_PRICE / EUR_PRICE, 8),
            },
        ),
    )


def _database_lines(begin: datetime, end: datetime) -> Iterator[dict[str, Any]]:
    """Yield the charges of the database, which a savings plan covers, from `begin` to `end`.

    The plan's fee has the billed cost. Each hour has its part of the fee as effective cost. On Mondays, the database is stopped for
    two hours, and the plan is unused in these hours.
    """
    rate = Decimal("0.3054400000")
    moment = begin
    while moment < end:
        is_used = not (moment.weekday() == 0 and moment.hour in (2, 3))
        status = {"CommitmentDiscountStatus": "Used" if is_used else "Unused", "CommitmentDiscountQuantity": rate}
        unused = {
            "ConsumedQuantity": "", "ConsumedUnit": "", "ContractedCost": rate, "ContractedUnitPrice": rate,
            "PricingCurrencyContractedUnitPrice": rate, "ResourceId": SAVINGS_PLAN["CommitmentDiscountId"],
        }  # fmt: skip
        yield _line(
            "AWS",
            moment,
            moment + HOUR,
            Decimal("0.4360000000") if is_used else rate,
            Charge(
                service="Amazon RDS",
                category="Databases",
                account=SHOP,
                resource=f"arn:aws:rds:eu-west-1:{SHOP}:db:shop",
                sku="rds-r6g",
                quantity=Decimal(1),
                unit="Hours",
                more=SAVINGS_PLAN
                | status
                | ({} if is_used else unused)
                | {"BilledCost": Decimal(0), "EffectiveCost": rate, "PricingCategory": "Committed", "PricingCurrencyEffectiveCost": rate},
            ),
        )
        moment += HOUR
    fee = rate * ((end - begin) // HOUR)
    yield _line(
        "AWS",
        begin,
        end,
        fee,
        Charge(
            kind="Purchase",
            service="Amazon RDS",
            category="Databases",
            account=SHOP,
            sku="database-savings-plan",
            frequency="Recurring",
            quantity=Decimal((end - begin) // HOUR),
            unit="Hours",
            more=SAVINGS_PLAN
            | {"CommitmentDiscountQuantity": fee, "EffectiveCost": Decimal(0), "PricingCurrencyEffectiveCost": Decimal(0)},
        ),
    )


def _web_server_lines(begin: datetime, end: datetime) -> Iterator[dict[str, Any]]:
    """Yield the charges of the web server from `begin` to `end`, at most one day.

    It runs from 06:00 to 22:00. In the other hours, its capacity is still reserved and billed.
    """
    hours = [begin + number * HOUR for number in range((end - begin) // HOUR)]
    open_hours = sum(6 <= hour.hour < 22 for hour in hours)
    for status, count, resource in (("Used", open_hours, WEB_SERVER), ("Unused", len(hours) - open_hours, RESERVATION)):
        if count:
            yield _line(
                "AWS",
                begin,
                end,
                count * Decimal("0.0500000000"),
                Charge(
                    service="Amazon EC2",
                    category="Compute",
                    account=SHOP,
                    resource=resource,
                    sku="m5.large" if status == "Used" else "m5.large-reserved",
                    quantity=Decimal(count),
                    unit="Hours",
                    more={"AvailabilityZone": "eu-west-1a", "CapacityReservationId": RESERVATION, "CapacityReservationStatus": status}
                    | ({} if status == "Used" else {"ConsumedQuantity": "", "ConsumedUnit": ""}),
                ),
            )


def _billed_hours(spans: list[tuple[datetime, datetime]]) -> Iterator[tuple[datetime, Decimal]]:
    """Yield (hour, billed part of the hour) of a machine's uptime, up to the end of the bill."""
    billed: dict[datetime, timedelta] = {}
    for start, end in spans:
        hour = start.replace(minute=0, second=0, microsecond=0)
        while hour < min(end, BILLED_UNTIL):
            billed[hour] = billed.get(hour, timedelta()) + min(end, hour + HOUR) - max(start, hour)
            hour += HOUR
    for hour in sorted(billed):
        yield hour, Decimal(round(billed[hour].total_seconds())) / 3600


def _machine_lines(machine: Machine, start: datetime, hours: Decimal, run_id: str | None) -> Iterator[dict[str, Any]]:
    hours = round(hours, 8)
    tags = {"team": machine.team} | ({"mlflow_run_id": run_id} if run_id else {})
    details = {
        "InstanceType": machine.kind.name,
        "InstanceSeries": machine.kind.name.rpartition(".")[0] or machine.kind.name.split("-")[0],
        "GpuCount": machine.kind.gpus,
        "CoreCount": machine.kind.cpus,
        "MemorySize": f"{machine.kind.memory_gb} GiB",
    }
    service = "Amazon EC2" if machine.kind.provider == "AWS" else "Compute Engine"
    yield _line(
        machine.kind.provider,
        start,
        start + HOUR,
        Decimal(machine.kind.price) * hours,
        Charge(
            service=service,
            category="Compute",
            resource=machine.billed_as,
            sku=machine.kind.name,
            quantity=hours,
            unit="Hours",
            tags=tags,
            details=details,
            more={"AvailabilityZone": _zone(machine), "ResourceName": machine.resource_id, "ResourceType": "Virtual Machine"},
        ),
    )
    if machine.kind.provider == "AWS":
        yield _line(
            "AWS",
            start,
            start + HOUR,
            Decimal("0.0660000000"),
            Charge(
                service="Amazon EBS",
                category="Storage",
                resource=f"arn:aws:ec2:eu-west-1:{ML}:volume/vol-{machine.resource_id[2:]}",
                sku="gp3",
                quantity=Decimal("0.68"),
                unit="GB-Months",
                tags=tags | {"instance_id": machine.resource_id},
                more={"AvailabilityZone": _zone(machine), "ResourceType": "Volume"},
            ),
        )


def _zone(machine: Machine) -> str:
    """Return the availability zone. AWS has two, and the last digit of the instance id decides. Google Cloud has one."""
    return "europe-west4-a" if machine.kind.provider != "AWS" else f"eu-west-1{'ab'[int(machine.resource_id[-1], 16) % 2]}"


@dataclass(frozen=True)
class Charge:
    """The subject of a charge. `quantity` is in `unit`. `more` has the columns that differ from those of an ordinary charge."""

    service: str
    category: str
    kind: str = "Usage"
    klass: str = ""
    resource: str = ""
    sku: str = ""
    quantity: Decimal | None = None
    unit: str = ""
    frequency: str = "Usage-Based"
    account: str = ML
    tags: dict[str, str] = field(default_factory=dict)
    details: dict[str, Any] = field(default_factory=dict)
    more: dict[str, Any] = field(default_factory=dict)


def _line(provider: str, start: datetime, end: datetime, list_cost: Decimal, charge: Charge) -> dict[str, Any]:
    """Return one FOCUS row. Its contracted, effective and billed costs are the list cost, minus a private discount for usage.

    Corrections and charges of other kinds do not get the discount.
    """
    month = start.replace(day=1, hour=0, minute=0, second=0, microsecond=0)
    cost = list_cost * DISCOUNT if charge.kind == "Usage" and not charge.klass else list_cost
    is_aws = provider == "AWS"
    quantity = "" if charge.quantity is None else charge.quantity
    is_priced = bool(charge.quantity) and not charge.klass
    list_price, price = (round(amount / charge.quantity, 10) if is_priced and charge.quantity else "" for amount in (list_cost, cost))
    is_eligible = is_aws and charge.kind == "Usage" and charge.category in ("Compute", "Databases")
    return {
        "BilledCost": cost,
        "EffectiveCost": cost,
        "ContractedCost": cost,
        "ListCost": list_cost,
        "BillingAccountId": "000011112222" if is_aws else "01AB23-45CD67-89EF01",
        "BillingAccountName": "Acme",
        "BillingAccountType": "Organization",
        "BillingCurrency": "USD",
        "BillingPeriodStart": _text(month),
        "BillingPeriodEnd": _text(_month_end(month)),
        "ChargeCategory": charge.kind,
        "ChargeClass": charge.klass,
        "ChargeDescription": f"{charge.service} {charge.sku}".strip(),
        "ChargeFrequency": charge.frequency,
        "ChargePeriodStart": _text(start),
        "ChargePeriodEnd": _text(end),
        "CommitmentProgramEligibilityDetails": json.dumps(PROGRAMS[charge.category]) if is_eligible else "",
        "ConsumedQuantity": quantity if charge.kind == "Usage" else "",
        "ConsumedUnit": charge.unit if charge.kind == "Usage" else "",
        "ContractedUnitPrice": price,
        "HostProviderName": provider,
        "ListUnitPrice": list_price,
        "PricingCategory": "Standard" if charge.kind in ("Usage", "Purchase") else "",
        "PricingCurrency": "USD",
        "PricingCurrencyContractedUnitPrice": price,
        "PricingCurrencyEffectiveCost": cost,
        "PricingCurrencyListUnitPrice": list_price,
        "PricingQuantity": quantity,
        "PricingUnit": charge.unit,
        "InvoiceId": "EUINV26-1004711" if month.month == 10 and is_aws else "",
        "InvoiceIssuerName": provider,
        "ProviderName": provider,
        "PublisherName": provider,
        "RegionId": "eu-west-1" if is_aws else "europe-west4",
        "RegionName": "Europe (Ireland)" if is_aws else "Netherlands",
        "ResourceId": charge.resource,
        "ServiceCategory": charge.category,
        "ServiceName": charge.service,
        "ServiceProviderName": provider,
        "ServiceSubcategory": SUBCATEGORIES.get(charge.category, f"Other ({charge.category})"),
        "SkuId": charge.sku,
        "SkuMeter": f"{charge.unit} of {charge.sku}" if charge.unit else "",
        "SkuPriceId": f"{charge.sku}.od" if is_priced else "",
        "SkuPriceDetails": json.dumps(charge.details) if charge.details else "",
        "SubAccountId": charge.account if is_aws else "acme-ml",
        "SubAccountName": "ml" if charge.account == ML else "shop",
        "SubAccountType": "Linked account",
        "Tags": json.dumps(charge.tags) if charge.tags else "{}",
        **charge.more,
    }


def _month_end(month: datetime) -> datetime:
    return (month + timedelta(days=32)).replace(day=1)


def _text(moment: datetime) -> str:
    return f"{moment:%Y-%m-%dT%H:%M:%SZ}"
