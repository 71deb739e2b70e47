"""Finds the machine of a line: instance type, GPUs, vCPUs and memory, from the line's own data and a list of common types.

Belongs here: how a description becomes a machine. `normalize.py` finds the distinct descriptions of a bill.
"""

from __future__ import annotations

import csv
import re
from importlib.resources import files
from typing import Any

from runspend.core.outside_json import parse_json

AZURE_SIZE = re.compile(r"(?i)(Standard|Basic)_\w+")
# Instance types that are recognized by their form, even if they are not in the list. Azure sizes need a digit after the letters, so
# Standard_LRS, a storage account type, does not match.
TYPES = tuple(
    re.compile(pattern)
    for pattern in (
        r"(?:.*[:-])?(ml\.[a-z][a-z0-9-]*\.[a-z0-9]+)(?:-[A-Z][A-Za-z]*)?",  # SageMaker: USE1-Train:ml.g5.xlarge, ml.m5.xlarge-Training
        # AWS writes usage types such as USW2-BoxUsage:p4d.24xlarge. A type without a prefix matches too.
        r"(?:.*(?:Usage|Box|Host)[^:]*:)?([a-z][a-z0-9-]*\.[a-z0-9-]+)",
        r"((?:VM|BM)\.[A-Z][A-Za-z0-9]*(?:\.[A-Za-z0-9-]+)+)",  # Oracle: VM.GPU.A10.1
        r"((?:ct\d\w*|[a-z]\d{1,2}[a-z]?)-(?:standard|high[a-z]+|mega[a-z]+|ultra[a-z]+|hyper[a-z]+|edgegpu|max[a-z]+|custom|micro|small|medium|metal|node)(?:-[a-z0-9]+)*)",
        r"((?:Standard|Basic)_[A-Za-z]{1,3}\d[\w-]*)",
    )
)
# The names of Azure machines in meters, such as "E10 v4". Only names in the list count, because the name of a disk, such as "E10 LRS", has
# the same form. SageMaker bills the disk of ml.g5.xlarge as VolumeUsage, which no pattern matches.
AZURE_SERIES = re.compile(r"[A-Z]{1,3}\d+[a-z]*(?:[ _]\w+)*")
Machine = tuple[str | None, int | None, int | None, float | None]


def describe_machine(details: str | None, resource_type: str | None, stated: str | None, known: dict[str, Machine]) -> Machine:
    """Return (instance type, GPUs, vCPUs, GiB of memory) of a machine. Values that cannot be found are None.

    `details` is SkuPriceDetails, and `stated` is the value of the provider's own column. The instance type comes from the first of
    `details`, `stated` and `resource_type` that names one. The sizes come from `details`, or else from the type's entry in `known`.
    """
    parsed_details: dict[str, Any] = {}
    if not details and stated and stated.startswith("{"):
        details, stated = stated, None  # x_SkuDetails of Azure's FOCUS 1.0 exports
    if details:
        try:
            parsed = parse_json(details)
        except ValueError:
            parsed = None
        parsed_details = parsed if isinstance(parsed, dict) else {}
    instance_type = next(
        (
            str(parsed_details[k])
            for k in ("InstanceType", "x_InstanceType")
            if isinstance(parsed_details.get(k), str) and parsed_details[k]
        ),
        None,
    )
    if instance_type is None:  # Azure's "ServiceType" is a VM size, or a text with another meaning in other services
        sizes = (parsed_details.get(k) for k in ("ServiceType", "x_ServiceType"))
        instance_type = next((size for size in sizes if isinstance(size, str) and AZURE_SIZE.fullmatch(size)), None)
    instance_type = named_type(instance_type, known) or instance_type
    for candidate in (stated, resource_type):
        instance_type = instance_type or (named_type(candidate, known) if candidate else None)
    listed = known.get((instance_type or "").lower().removeprefix("ml."), (None, None, None, None))
    cpus, gpus, memory = (_number(parsed_details.get(k)) for k in ("CoreCount", "GpuCount", "MemorySize"))
    if cpus is None and instance_type:
        cpus = next((n for k in ("VCPUs", "x_VCPUs") if (n := _number(parsed_details.get(k)))), None)
    return (
        instance_type,
        _whole(gpus) if gpus is not None else listed[1],
        _whole(cpus) if cpus is not None else listed[2],
        memory if memory is not None else listed[3],
    )


def named_type(text: str | None, known: dict[str, Machine]) -> str | None:
    """Return the instance type that a string names, or None. It may be a type of any cloud, or an AWS usage type that contains one.
    Sources: AWS "SageMaker AI pricing" (usage types), Oracle "Compute Shapes", Google "Machine families resource", Azure "VM sizes naming".
    """
    if not text:
        return None
    if text.lower() in known:
        return text
    if AZURE_SERIES.fullmatch(text) and (azure := known.get(f"standard_{text.replace(' ', '_').lower()}")):
        return azure[0]
    return next((match[1] for pattern in TYPES if (match := pattern.fullmatch(text))), None)


def _number(value: Any) -> float | None:
    """Return the number that a value or a string such as "16 GiB" starts with, or None."""
    if isinstance(value, bool) or value is None:
        return None
    match = re.match(r"\s*(\d+(?:\.\d+)?)", str(value))
    return float(match[1]) if match else None


def _whole(value: float) -> int | None:
    return int(value) if value < 1e6 else None


def instance_types() -> dict[str, Machine]:
    """Return common machine types of the clouds by their names in lower case. instance_types.csv has the values that providers publish."""
    text = files("runspend.ingest.billing").joinpath("instance_types.csv").read_text(encoding="utf-8")
    return {
        row["instance_type"].lower(): (row["instance_type"], int(row["gpus"]), int(row["cpus"]), float(row["memory_gb"]))
        for row in csv.DictReader(text.splitlines())
    }
