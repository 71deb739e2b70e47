"""Azure cost exports for tests: rows of an Enterprise Agreement export, and export runs with their manifests.

Real exports from outside this repository come from the `samples` fixture.
"""

from __future__ import annotations

import gzip
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tests.focus_files import csv_text, write_bytes

SUBSCRIPTION = "11111111-12ab-34dc-56ef-123456abcdef"
VM = f"/subscriptions/{SUBSCRIPTION}/resourceGroups/ml/providers/Microsoft.Compute/virtualMachines/gpu-1"
COST = {
    "BillingAccountId": "12345678",
    "BillingCurrencyCode": "EUR",
    "BillingPeriodStartDate": "10/01/2026",
    "BillingPeriodEndDate": "10/31/2026",
    "SubscriptionId": SUBSCRIPTION,
    "Date": "10/05/2026",
    "MeterCategory": "Virtual Machines",
    "MeterId": "3dbc3a0c-32b6-4c4d-adbb-3ee577aaba4d",
    "ConsumedService": "Microsoft.Compute",
    "ResourceId": VM,
    "ChargeType": "Usage",
    "PricingModel": "OnDemand",
    "Frequency": "UsageBased",
    "Quantity": "24",
    "UnitOfMeasure": "1 Hour",
    "UnitPrice": "",
    "PayGPrice": "",
    "CostInBillingCurrency": "1.00",
    "Tags": "",
    "AdditionalInfo": "",
}


def cost(amount: str, **other: str) -> dict[str, str]:
    """Return one row with this cost. `other` sets any other column."""
    return {**COST, "CostInBillingCurrency": amount, **other}


def november(**other: str) -> dict[str, str]:
    """Return the date columns of a row in the next month. `other` sets any other column."""
    return {"BillingPeriodStartDate": "11/01/2026", "BillingPeriodEndDate": "11/30/2026", "Date": "11/05/2026", **other}


def text(rows: Sequence[Mapping[str, str]]) -> str:
    return csv_text(rows, list(dict.fromkeys([*COST, *(name for row in rows for name in row)])))


def write_run(
    root: Path,
    export: str,
    run: str,
    rows: Sequence[Mapping[str, str]],
    *,
    submitted: str,
    type: str = "ActualCost",
    scope: str = f"/subscriptions/{SUBSCRIPTION}",
    month: str = "20261001-20261031",
    parts: int = 1,
    packed: bool = False,
    wrong: Mapping[str, Any] | None = None,
    cut: bool = False,
) -> Path:
    """Write one run of an export as Azure does: its parts and manifest. `wrong` overrides what the manifest states about the first blob."""
    folder = root / "exports" / export / month / run / "8c1f0c2e-guid"
    blobs = []
    for part in range(parts):
        own = rows[part::parts]
        plain = text(own).encode()
        data = gzip.compress(plain, mtime=0) if packed else plain
        path = write_bytes(folder / f"part_{part}_0001.csv{'.gz' if packed else ''}", data)
        blobs.append({"blobName": path.relative_to(root).as_posix(), "byteCount": len(data), "dataRowCount": len(own), "headerRowCount": 1})
    size = sum(blob["byteCount"] for blob in blobs)
    blobs[0] |= wrong or {}
    document = {
        "manifestVersion": "2024-04-01",
        "byteCount": size,
        "blobCount": parts,
        "dataRowCount": len(rows),
        "exportConfig": {
            "exportName": export, "resourceId": scope, "dataVersion": "2021-10-01", "apiVersion": "2023-07-01-preview", "type": type,
            "timeFrame": "MonthToDate", "granularity": "Daily",
        },
        "deliveryConfig": {"partitionData": True, "dataOverwriteBehavior": "CreateNewReport", "fileFormat": "Csv", "rootFolderPath": "exports"},
        "runInfo": {
            "executionType": "Scheduled", "submittedTime": submitted, "runId": run,
            "startDate": f"{month[:4]}-{month[4:6]}-01T00:00:00", "endDate": f"{month[9:13]}-{month[13:15]}-{month[15:17]}T00:00:00",
        },
        "blobs": blobs,
    }  # fmt: skip
    written = json.dumps(document, indent=1)
    (folder / "manifest.json").write_text(written[: len(written) // 2] if cut else written)
    return folder
