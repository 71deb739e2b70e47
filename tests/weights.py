"""Weights for tests: the shares of pods on machines as a weight source states them, and OpenCost's output with the same content."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timezone
from decimal import Decimal
from typing import Any

import pyarrow as pa

from runspend.ingest.billing.cost_splits import Weights, digest_rows

TEXTS = ("resource", "resource_name", "part_id", "part_name", "part_tags", "skip_reason", "cluster")
SCHEMA = pa.schema(
    [(name, pa.string()) for name in TEXTS]
    + [(name, pa.timestamp("us", "UTC")) for name in ("from_time", "to_time", "step_from", "step_to")]
    + [("weight", pa.decimal128(38, 22)), ("is_idle", pa.bool_()), ("billing_period", pa.date32())]
)


def time(text: str) -> datetime:
    """Return `HH:MM` on 5 October 2026, or a full ISO time."""
    if "T" not in text:
        text = f"2026-10-05T{text}"
    return datetime.fromisoformat(text).replace(tzinfo=timezone.utc)


def claim(pod: str | None, weight: str | Decimal, at: str = "10:00..11:00", on: str = "i-1", **other: Any) -> dict[str, Any]:
    """Return a pod's weight on a machine in a window. Without a pod, it is the idle part."""
    start, end = (time(text) for text in at.split(".."))
    named = {"part_id": f"k8s://c/ml/{pod}", "part_name": pod} if pod else {"is_idle": True}
    return {"resource": on, "from_time": start, "to_time": end, "weight": Decimal(weight), "is_idle": False, **named, **other}


def weights(claims: Sequence[dict[str, Any]], source: str = "k8s", **settings: Any) -> Weights:
    """Return a source that states these weights."""
    rows = pa.Table.from_pylist([dict(each) for each in claims], schema=SCHEMA)
    return Weights(source, "opencost", rows, digest_rows(rows), **settings)
