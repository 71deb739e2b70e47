"""The bills of a plan, as FOCUS files: AWS (1.2, gzip CSV, one file a month) and Google Cloud (1.0, CSV).

As at AWS, a machine's hour is one line for the whole hour, with the billed part as its quantity. The bills also have lines that
every bill has: disks, a database without training, tax, support, a credit, a correction.
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
COLUMNS_1_2 = (
    "BilledCost,BillingAccountId,BillingAccountName,BillingCurrency,BillingPeriodEnd,BillingPeriodStart,ChargeCategory,ChargeClass,"
    "ChargeDescription,ChargeFrequency,ChargePeriodEnd,ChargePeriodStart,ConsumedQuantity,ConsumedUnit,ContractedCost,EffectiveCost,InvoiceId,"
    "InvoiceIssuerName,ListCost,PricingQuantity,PricingUnit,ProviderName,PublisherName,RegionId,ResourceId,ResourceType,ServiceCategory,"
    "ServiceName,ServiceSubcategory,SkuId,SkuPriceDetails,SkuPriceId,SubAccountId,SubAccountName,Tags"
).split(",")
COLUMNS_1_0 = [c for c in COLUMNS_1_2 if c not in ("InvoiceId", "ServiceSubcategory", "SkuPriceDetails")]
DISCOUNT = Decimal("0.92")


def write_bills(folder: Path, plan: Plan, run_tags: dict[str, list[tuple[datetime, datetime, str]]]) -> None:
    """Write `aws/` and `gcp/`. `run_tags` maps machines to the stretches whose lines have a run id."""
    lines = sorted(_lines(plan, run_tags), key=lambda row: (row["ChargePeriodStart"], row["ResourceId"], row["SkuId"]))
    for provider, name, columns in (("AWS", "aws", COLUMNS_1_2), ("Google Cloud", "gcp", COLUMNS_1_0)):
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
        yield _line(
            "AWS",
            moment,
            moment + HOUR,
            Decimal("0.4120000000"),
            Charge(
                service="Amazon RDS",
                category="Databases",
                resource="arn:aws:rds:eu-west-1:111122223333:db:shop",
                sku="rds-r6g",
                quantity=Decimal(1),
                unit="Hours",
                account="999988887777",
            ),
        )
        if moment.hour == 3 and moment.weekday() < 5:
            yield _line(
                "AWS",
                moment,
                moment + HOUR,
                Decimal("7.3400000000"),
                Charge(
                    service="Amazon SageMaker",
                    category="AI and Machine Learning",
                    resource="arn:aws:sagemaker:eu-west-1:111122223333:notebook-instance/old-notebook",
                    sku="sagemaker-notebook",
                    quantity=Decimal(1),
                    unit="Hours",
                ),
            )
        moment += HOUR
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
                resource=f"arn:aws:ec2:eu-west-1:111122223333:volume/vol-{machine.resource_id[2:]}",
                sku="gp3",
                quantity=Decimal("0.68"),
                unit="GB-Months",
                tags=tags | {"instance_id": machine.resource_id},
            ),
        )


@dataclass(frozen=True)
class Charge:
    """What is charged for. Quantities are in `unit`."""

    service: str
    category: str
    kind: str = "Usage"
    klass: str = ""
    resource: str = ""
    sku: str = ""
    quantity: Decimal | None = None
    unit: str = ""
    frequency: str = "Usage-Based"
    account: str = "111122223333"
    tags: dict[str, str] = field(default_factory=dict)
    details: dict[str, Any] = field(default_factory=dict)


def _line(provider: str, start: datetime, end: datetime, list_cost: Decimal, charge: Charge) -> dict[str, Any]:
    """Return one FOCUS row. Contracted, effective and billed cost are the list price minus a private discount, on usage only."""
    month = start.replace(day=1, hour=0, minute=0, second=0, microsecond=0)
    cost = list_cost * DISCOUNT if charge.kind == "Usage" and not charge.klass else list_cost
    is_aws = provider == "AWS"
    return {
        "BilledCost": cost,
        "EffectiveCost": cost,
        "ContractedCost": cost,
        "ListCost": list_cost,
        "BillingAccountId": "000011112222" if is_aws else "01AB23-45CD67-89EF01",
        "BillingAccountName": "Acme",
        "BillingCurrency": "USD",
        "BillingPeriodStart": _text(month),
        "BillingPeriodEnd": _text(_month_end(month)),
        "ChargeCategory": charge.kind,
        "ChargeClass": charge.klass,
        "ChargeDescription": f"{charge.service} {charge.sku}".strip(),
        "ChargeFrequency": charge.frequency,
        "ChargePeriodStart": _text(start),
        "ChargePeriodEnd": _text(end),
        "ConsumedQuantity": "" if charge.quantity is None else charge.quantity,
        "ConsumedUnit": charge.unit,
        "PricingQuantity": "" if charge.quantity is None else charge.quantity,
        "PricingUnit": charge.unit,
        "InvoiceId": "EUINV26-1004711" if month.month == 10 and is_aws else "",
        "InvoiceIssuerName": provider,
        "ProviderName": provider,
        "PublisherName": provider,
        "RegionId": "eu-west-1" if is_aws else "europe-west4",
        "ResourceId": charge.resource,
        "ResourceType": "",
        "ServiceCategory": charge.category,
        "ServiceName": charge.service,
        "ServiceSubcategory": "Virtual Machines" if charge.category == "Compute" else "",
        "SkuId": charge.sku,
        "SkuPriceId": f"{charge.sku}.od" if charge.sku else "",
        "SkuPriceDetails": json.dumps(charge.details) if charge.details else "",
        "SubAccountId": charge.account if is_aws else "acme-ml",
        "SubAccountName": "ml" if charge.account == "111122223333" else "shop",
        "Tags": json.dumps(charge.tags) if charge.tags else "{}",
    }


def _month_end(month: datetime) -> datetime:
    return (month + timedelta(days=32)).replace(day=1)


def _text(moment: datetime) -> str:
    return f"{moment:%Y-%m-%dT%H:%M:%SZ}"
