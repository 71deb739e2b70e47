"""Exports of Databricks' system tables for tests: usage, prices and timelines, in three file formats.

Columns and values come from Databricks' documentation. They were not compared with a real workspace.
"""

from __future__ import annotations

import csv
import json
from collections.abc import Mapping, Sequence
from decimal import Decimal
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

Row = dict[str, Any]
QUANTITY = pa.decimal128(38, 18)
TEXTS = pa.map_(pa.string(), pa.string())


def usage(quantity: str = "10", at: str = "2026-10-10T10:00:00Z", end: str | None = None, **other: Any) -> Row:
    """Return one hour of a jobs cluster. `metadata` and `tags` are objects; `other` sets any other column by its name."""
    metadata, tags = other.pop("metadata", {}), other.pop("tags", {})
    return {
        "record_id": "r",
        "account_id": "acc-1",
        "workspace_id": "4242",
        "sku_name": "PREMIUM_JOBS_COMPUTE",
        "cloud": "AWS",
        "usage_start_time": at,
        "usage_end_time": end or f"{at[:11]}{int(at[11:13]) + 1:02d}{at[13:]}",
        "usage_date": at[:10],
        "custom_tags": tags,
        "usage_unit": "DBU",
        "usage_quantity": quantity,
        "usage_metadata": metadata,
        "record_type": "ORIGINAL",
        "ingestion_date": at[:10],
        "billing_origin_product": "JOBS",
        "usage_type": "COMPUTE_TIME",
        "product_features": {},
        **other,
    }


def list_price(
    price: str = "0.50", start: str = "2026-01-01T00:00:00Z", end: str | None = None, effective: str | None = None, **other: Any
) -> Row:
    """Return a list price. `effective` is the price during a promotion."""
    pricing = {"default": price, "promotional": {"default": effective}, "effective_list": {"default": effective or price}}
    return {
        "account_id": "acc-1",
        "sku_name": "PREMIUM_JOBS_COMPUTE",
        "cloud": "AWS",
        "currency_code": "USD",
        "usage_unit": "DBU",
        "price_start_time": start,
        "price_end_time": end,
        "pricing": pricing,
        **other,
    }


def account_price(price: str, start: str = "2026-01-01T00:00:00Z", end: str | None = None, **other: Any) -> Row:
    """Return a price that the account pays."""
    return list_price(price, start, end, **other) | {"pricing": {"default": price}}


def task_run(run_id: str, job_run_id: str, hours: int = 1, clusters: Sequence[str] = ()) -> list[Row]:
    """Return a task run's rows in the timeline: one for each hour."""
    return [
        {
            "account_id": "acc-1", "workspace_id": "4242", "job_id": "7", "run_id": run_id, "job_run_id": job_run_id, "task_key": f"task-{run_id}",
            "period_start_time": f"2026-10-10T{10 + hour}:00:00Z", "period_end_time": f"2026-10-10T{11 + hour}:00:00Z", "compute_ids": list(clusters),
        }
        for hour in range(hours)
    ]  # fmt: skip


def job_run(run_id: str, run_type: str = "JOB_RUN", clusters: Sequence[str] = ()) -> Row:
    """Return one run of a job, or of a notebook that another notebook calls."""
    return {
        "account_id": "acc-1", "workspace_id": "4242", "job_id": "7", "run_id": run_id, "run_type": run_type, "trigger_type": "PERIODIC",
        "period_start_time": "2026-10-10T10:00:00Z", "period_end_time": "2026-10-10T11:00:00Z", "compute_ids": list(clusters),
    }  # fmt: skip


def write(path: Path, rows: Sequence[Mapping[str, Any]]) -> Path:
    """Write the rows in the format that the file's name gives. Structs and maps are JSON strings in CSV, and native in Parquet and JSON lines."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".csv":
        with path.open("w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, list(rows[0]), lineterminator="\n")
            writer.writeheader()
            writer.writerows({k: json.dumps(v) if isinstance(v, (dict, list)) else v for k, v in row.items()} for row in rows)
    elif path.suffix == ".jsonl":
        # Spark leaves out null values.
        path.write_text("".join(json.dumps({k: v for k, v in row.items() if v is not None}) + "\n" for row in rows), encoding="utf-8")
    else:
        pq.write_table(arrow(rows), path)
    return path


def arrow(rows: Sequence[Mapping[str, Any]]) -> pa.Table:
    """Return the rows with the tables' own types: maps, structs, decimals and times."""
    columns: dict[str, pa.Array] = {}
    for name in rows[0]:
        values = [row[name] for row in rows]
        if name == "custom_tags":
            columns[name] = pa.array([list(v.items()) for v in values], TEXTS)
        elif name in ("usage_metadata", "product_features"):
            fields = sorted({k for v in values for k in v} | {"job_id"})
            columns[name] = pa.array(values, pa.struct([(k, pa.string()) for k in fields]))
        elif name == "usage_quantity":
            columns[name] = pa.array([Decimal(v) for v in values], QUANTITY)
        elif name.endswith("_time"):
            columns[name] = pa.array(values, pa.string()).cast(pa.timestamp("us", "UTC"))
        elif name.endswith("_date"):
            columns[name] = pa.array(values, pa.string()).cast(pa.date32())
        else:
            columns[name] = pa.array(values)
    return pa.table(columns)
