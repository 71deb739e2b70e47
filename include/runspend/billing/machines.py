"""What machine a line is about: instance type, GPUs, vCPUs, memory, from what the line says and a list of common types.

Put here what turns a description into a machine. Which descriptions a bill holds is for `settle.py`.
"""

from __future__ import annotations

import csv
import re
from importlib.resources import files
from typing import Any

from runspend.outside_json import parse_json

AZURE_SIZE = re.compile(r"(?i)(Standard|Basic)_\w+")
Machine = tuple[str | None, int | None, int | None, float | None]


def describe_machine(details: str | None, resource_type: str | None, stated: str | None, known: dict[str, Machine]) -> Machine:
    """(instance type, GPUs, vCPUs, GiB) by SkuPriceDetails, else the provider's own column, else the type's entry in the list."""
    said: dict[str, Any] = {}
    if not details and stated and stated.startswith("{"):
        details, stated = stated, None  # x_SkuDetails of Azure's FOCUS 1.0 exports
    if details:
        try:
            parsed = parse_json(details)
        except ValueError:
            parsed = None
        said = parsed if isinstance(parsed, dict) else {}
    instance_type = next((str(said[k]) for k in ("InstanceType", "x_InstanceType") if isinstance(said.get(k), str) and said[k]), None)
    if instance_type is None:  # Azure's "ServiceType" is the size of a VM, and what else a service calls itself
        sizes = (said.get(k) for k in ("ServiceType", "x_ServiceType"))
        instance_type = next((size for size in sizes if isinstance(size, str) and AZURE_SIZE.fullmatch(size)), None)
    if instance_type is None and stated:
        # AWS writes usage types such as USW2-BoxUsage:p4d.24xlarge; a bare type stands for itself.
        match = re.fullmatch(r"(?:.*(?:Usage|Box|Host)[^:]*:)?([a-z][a-z0-9-]*\.[a-z0-9-]+)", stated)
        instance_type = match[1] if match else stated if stated.lower() in known else None
    if instance_type is None and resource_type and resource_type.lower() in known:
        instance_type = resource_type
    listed = known.get((instance_type or "").lower(), (None, None, None, None))
    cpus, gpus, memory = (_number(said.get(k)) for k in ("CoreCount", "GpuCount", "MemorySize"))
    if cpus is None and instance_type:
        cpus = next((n for k in ("VCPUs", "x_VCPUs") if (n := _number(said.get(k)))), None)
    return (
        instance_type,
        _whole(gpus) if gpus is not None else listed[1],
        _whole(cpus) if cpus is not None else listed[2],
        memory if memory is not None else listed[3],
    )


def _number(value: Any) -> float | None:
    """A number, or the number a text such as "16 GiB" starts with."""
    if isinstance(value, bool) or value is None:
        return None
    match = re.match(r"\s*(\d+(?:\.\d+)?)", str(value))
    return float(match[1]) if match else None


def _whole(value: float) -> int | None:
    return int(value) if value < 1e6 else None


def instance_types() -> dict[str, Machine]:
    """Common machine types of the clouds by lower-cased name, from instance_types.csv (published by the providers)."""
    text = files("runspend.billing").joinpath("instance_types.csv").read_text(encoding="utf-8")
    return {
        row["instance_type"].lower(): (row["instance_type"], int(row["gpus"]), int(row["cpus"]), float(row["memory_gb"]))
        for row in csv.DictReader(text.splitlines())
    }
