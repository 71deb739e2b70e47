"""Google Cloud exports for tests: rows as in BigQuery, and the files that people export from it."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from tests.focus_files import write_bytes

LABEL = pa.struct([("key", pa.string()), ("value", pa.string())])
SCHEMA = pa.schema(
    [
        ("billing_account_id", pa.string()),
        ("service", pa.struct([("id", pa.string()), ("description", pa.string())])),
        ("sku", pa.struct([("id", pa.string()), ("description", pa.string())])),
        ("usage_start_time", pa.timestamp("us", "UTC")),
        ("usage_end_time", pa.timestamp("us", "UTC")),
        ("project", pa.struct([("id", pa.string()), ("name", pa.string()), ("labels", pa.list_(LABEL))])),
        ("labels", pa.list_(LABEL)),
        ("system_labels", pa.list_(LABEL)),
        ("tags", pa.list_(pa.struct([*LABEL, ("inherited", pa.bool_()), ("namespace", pa.string())]))),
        ("location", pa.struct([("location", pa.string()), ("region", pa.string()), ("zone", pa.string())])),
        ("resource", pa.struct([("name", pa.string()), ("global_name", pa.string())])),
        ("export_time", pa.timestamp("us", "UTC")),
        ("cost", pa.float64()),
        ("cost_at_list", pa.float64()),
        ("currency", pa.string()),
        ("usage", pa.struct([("amount", pa.float64()), ("unit", pa.string()), ("amount_in_pricing_units", pa.float64()), ("pricing_unit", pa.string())])),
        ("credits", pa.list_(pa.struct([("name", pa.string()), ("amount", pa.float64()), ("full_name", pa.string()), ("id", pa.string()), ("type", pa.string())]))),
        ("invoice", pa.struct([("month", pa.string())])),
        ("cost_type", pa.string()),
        ("adjustment_info", pa.struct([("id", pa.string()), ("description", pa.string()), ("mode", pa.string()), ("type", pa.string())])),
    ]
)  # fmt: skip
# The tests' rows contain no floats. A string is an amount exactly as the bill states it.
NUMBERS = ("cost", "cost_at_list")


def gcp(cost: str = "1.00", start: str = "2026-10-05T10:00:00Z", month: str = "202610", **other: Any) -> dict[str, Any]:
    """Return a row of the detailed export: one hour of a machine. `other` sets any other column. Numbers are strings."""
    began = datetime.fromisoformat(start)
    return {
        "billing_account_id": "01A2B3-C4D5E6-F70819",
        "service": {"id": "6F81-5844-456A", "description": "Compute Engine"},
        "sku": {"id": "2E27-4F75-95CD", "description": "N1 Predefined Instance Core running in Americas"},
        "usage_start_time": start,
        "usage_end_time": f"{began + timedelta(hours=1):%Y-%m-%dT%H:%M:%SZ}",
        "project": {"id": "ml", "name": "ML", "labels": []},
        "labels": [],
        "system_labels": [],
        "tags": [],
        "location": {"location": "us-central1", "region": "us-central1", "zone": "us-central1-a"},
        "resource": {"name": "trainer", "global_name": "//compute.googleapis.com/projects/ml/zones/us-central1-a/instances/4711"},
        "export_time": f"{began + timedelta(hours=5):%Y-%m-%dT%H:%M:%SZ}",
        "cost": cost,
        "cost_at_list": cost,
        "currency": "USD",
        "usage": {"amount": "3600", "unit": "seconds", "amount_in_pricing_units": "1", "pricing_unit": "hour"},
        "credits": [],
        "invoice": {"month": month},
        "cost_type": "regular",
        "adjustment_info": None,
        **other,
    }


def credit(amount: str, kind: str = "PROMOTION") -> dict[str, Any]:
    return {"name": "a credit", "amount": amount, "full_name": None, "id": "c-1", "type": kind}


def labels(**pairs: str) -> list[dict[str, Any]]:
    """Return labels. An underscore in a Python name becomes a hyphen in the key."""
    return [{"key": key.replace("_", "-"), "value": value} for key, value in pairs.items()]


def flat(row: Mapping[str, Any], before: str = "") -> dict[str, Any]:
    """Return the row with dotted names instead of nested objects. Lists stay lists."""
    found: dict[str, Any] = {}
    for name, value in row.items():
        if isinstance(value, dict):
            found |= flat(value, f"{before}{name}.")
        elif value is not None:
            found[f"{before}{name}"] = value
    return found


def json_text(value: Any) -> str:
    """Return JSON in which amounts are numbers with exactly the digits of their strings."""
    if isinstance(value, dict):
        return (
            "{"
            + ", ".join(
                f"{json.dumps(k)}: {v if k in (*NUMBERS, 'amount', 'amount_in_pricing_units') and v else json_text(v)}"
                for k, v in value.items()
            )
            + "}"
        )
    if isinstance(value, list):
        return "[" + ", ".join(json_text(item) for item in value) + "]"
    return json.dumps(value)


def python_text(value: Any) -> str:
    """Return a list of dictionaries as Python prints it, with float amounts, single quotes and None, as in koku's files."""
    return repr([{k: float(v) if k == "amount" else v for k, v in item.items()} for item in value])


def write_csv(path: Path, rows: Sequence[Mapping[str, Any]], *, as_python: bool = False, at: datetime | None = None) -> Path:
    """Write a CSV file with dotted headers."""
    lines = [
        {name: (python_text(v) if as_python else json_text(v)) if isinstance(v, list) else v for name, v in flat(row).items()}
        for row in rows
    ]
    header = list(dict.fromkeys(name for line in lines for name in line))
    out = io.StringIO()
    writer = csv.DictWriter(out, header, restval="", lineterminator="\n")
    writer.writeheader()
    writer.writerows(lines)
    return write_bytes(path, out.getvalue().encode(), at=at)


def write_jsonl(path: Path, rows: Sequence[Mapping[str, Any]]) -> Path:
    return write_bytes(path, "".join(json_text(row) + "\n" for row in rows).encode())


def typed(value: Any, kind: pa.DataType) -> Any:
    """Convert a value of a row to what Arrow accepts for the type."""
    if value is None:
        return None
    if pa.types.is_struct(kind):
        return {field.name: typed(value.get(field.name), field.type) for field in kind}
    if pa.types.is_list(kind):
        return [typed(item, kind.value_type) for item in value]
    if pa.types.is_floating(kind):
        return float(value)
    if pa.types.is_timestamp(kind):
        return datetime.fromisoformat(value).astimezone(timezone.utc)
    return value


def arrow_table(rows: Sequence[Mapping[str, Any]], schema: pa.Schema = SCHEMA) -> pa.Table:
    """Return the rows with BigQuery's types, in which costs are doubles."""
    return pa.Table.from_pylist([{field.name: typed(row.get(field.name), field.type) for field in schema} for row in rows], schema=schema)


def write_parquet(path: Path, rows: Sequence[Mapping[str, Any]], schema: pa.Schema = SCHEMA) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(arrow_table(rows, schema), path)
    return path
