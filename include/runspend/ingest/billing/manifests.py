"""Finds deliveries: the files of a folder or bucket, grouped as `manifest`, `parts` or `versions`.

Belongs here: how providers lay out their deliveries. Locating and copying files is in `file_sources.py`, the check that a file is whole
in `verify.py`, and the meaning of its content in the format's module.

Layouts: AWS Data Exports ("Understanding export delivery"), AWS legacy Cost and Usage Report, Azure Cost Management
("Manifest file"). All three list the files of one billing period in one JSON document that is written after them.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta, timezone
from pathlib import PurePosixPath
from typing import Any
from urllib.parse import unquote, urlsplit

from runspend.config.settings import BillSource
from runspend.core.outside_json import parse_json
from runspend.ingest.billing.file_sources import Entry, FileSource
from runspend.ingest.billing.verify import VerifiedFile

DATA_NAMES = re.compile(r"(?i)\.(csv|csv\.gz|parquet|jsonl|jsonl\.gz|ndjson|ndjson\.gz)$")
MANIFEST_NAMES = re.compile(r"(?i)(^|[/-])manifest\.json$")
PERIOD_NAMES = (
    re.compile(r"(?i)billing_period=(\d{4})-(\d{2})(?=/|$)"),
    re.compile(r"(?:^|/)(\d{4})(\d{2})\d{2}-\d{8}(?=/|$)"),
)
MAX_MANIFEST_BYTES = 64 << 20
HALF_CHARACTERS = re.compile(r"\\u[dD][89a-fA-F]")


@dataclass(frozen=True)
class DeliveredFile:
    """One data file of a delivery, with what its manifest states about it."""

    entry: Entry
    stated_bytes: int | None = None
    stated_rows: int | None = None
    label: str | None = None  # the manifest's name for files of its kind: "ActualCost"
    export: str = ""  # the export that its manifest belongs to
    manifest: str | None = None  # the manifest that lists it


@dataclass(frozen=True)
class Delivered:
    """One whole file on this machine, as a format's module reads it.

    `label` is the manifest's name for such files ("ActualCost"). `beside` are the names and labels of all files of the load, including
    this one.
    """

    source: BillSource
    name: str
    file: VerifiedFile
    index: int
    label: str | None = None
    beside: tuple[tuple[str, str | None], ...] = ()


@dataclass(frozen=True)
class Delivery:
    """Files that belong together. `period` is None if only the rows show it. `problem` is why the delivery must be refused.

    `export` distinguishes exports below one address: each has its own manifest for the same month.
    """

    name: str
    files: tuple[DeliveredFile, ...]
    delivered_at: datetime | None
    period: str | None = None
    problem: str | None = None
    export: str = ""
    is_unreadable: bool = False  # its manifest cannot be read
    assembly: str = ""  # the assembly that the manifest of a legacy AWS report names for the month


@dataclass(frozen=True)
class Deliveries:
    """All deliveries of a source, and the files that are not read."""

    found: tuple[Delivery, ...]
    ignored: tuple[str, ...] = ()
    is_by_manifest: bool = False


def find_deliveries(source: BillSource, folder: FileSource, is_data: Callable[[str], bool]) -> Deliveries:
    """Return the current deliveries of a source: every manifest, newest first, or without manifests one delivery of all data files.

    `is_data(name)` recognizes data files. `is_by_manifest` decides if `delivery` is not set.
    """
    entries = folder.entries()
    if is_by_manifest(source, entries, is_data):
        return _by_manifest(folder, entries)
    data = [e for e in entries if is_data(e.name) and not MANIFEST_NAMES.search(e.name)]
    names = {e.name for e in data}
    ignored = tuple(e.name for e in entries if e.name not in names)
    if not data:
        return Deliveries((), ignored)
    newest = max(e.modified_at for e in data)
    return Deliveries((Delivery("", tuple(DeliveredFile(e) for e in data), newest),), ignored)


def is_by_manifest(source: BillSource, entries: Sequence[Entry], is_data: Callable[[str], bool]) -> bool:
    """Return whether manifests decide which files count: as `delivery` states; otherwise they do if there are manifests and data files.

    With a wildcard, a month would count once for each of its executions. So manifests take precedence if providers write them.
    """
    if source.delivery is not None:
        return source.delivery == "manifest"
    manifests = [e for e in entries if MANIFEST_NAMES.search(e.name)]
    return bool(manifests) and any(is_data(e.name) for e in entries if not MANIFEST_NAMES.search(e.name))


def period_of_name(name: str) -> str | None:
    """Return the billing period a path names (BILLING_PERIOD=2026-10, 20261001-20261101), as "2026-10"."""
    for pattern in PERIOD_NAMES:
        if (match := pattern.search(name)) and 1 <= int(match[2]) <= 12:
            return f"{match[1]}-{match[2]}"
    return None


def _by_manifest(folder: FileSource, entries: list[Entry]) -> Deliveries:
    manifests = [e for e in entries if MANIFEST_NAMES.search(e.name)]
    if not manifests:
        return Deliveries((), tuple(e.name for e in entries), is_by_manifest=True)
    by_name = {e.name: e for e in entries}
    found = _lift_named_assemblies([_read_manifest(folder, entry, by_name) for entry in manifests])
    found.sort(key=lambda d: (d.delivered_at or datetime.min.replace(tzinfo=timezone.utc), d.name), reverse=True)
    named = {f.entry.name for d in found for f in d.files} | {e.name for e in manifests}
    return Deliveries(tuple(_adopt_unreadable(found)), tuple(e.name for e in entries if e.name not in named), is_by_manifest=True)


def _lift_named_assemblies(found: Sequence[Delivery]) -> list[Delivery]:
    """Give the assembly that counts a date later than all others of its month.

    A legacy AWS report keeps a month's assemblies in folders of their names. The manifest above them names the one that counts: it is
    newer than every other, even if copied files have lost their times.
    """
    below: dict[PurePosixPath, list[tuple[str, datetime]]] = {}
    for delivery in found:
        folder = PurePosixPath(delivery.name).parent
        if delivery.delivered_at and folder.name:
            below.setdefault(folder.parent, []).append((folder.name, delivery.delivered_at))
    lifted = []
    for delivery in found:
        above = PurePosixPath(delivery.name).parent
        is_above = delivery.assembly not in ("", above.name)
        others = [at for name, at in below.get(above, ()) if name != delivery.assembly] if is_above else []
        if delivery.delivered_at and others:
            delivery = replace(delivery, delivered_at=max(delivery.delivered_at, max(others) + timedelta(microseconds=1)))
        lifted.append(delivery)
    return lifted


def by_export(found: Sequence[Delivery]) -> list[list[Delivery]]:
    """Group one period's deliveries, newest first, by export. The first good one of each export counts."""
    exports: dict[str, list[Delivery]] = {}
    for delivery in found:
        exports.setdefault(delivery.export, []).append(delivery)
    return list(exports.values())


def together(several: Sequence[Delivery]) -> Delivery:
    """Merge one delivery of each export into the one that the period is loaded from."""
    if len(several) == 1:
        return several[0]
    return Delivery(
        " and ".join(d.name for d in several),
        tuple(f for d in several for f in d.files),
        max((d.delivered_at for d in several if d.delivered_at), default=None),
        several[0].period,
        next((d.problem for d in several if d.problem), None),
    )


def _export_of(name: str, document: Mapping[str, Any]) -> tuple[str, str | None]:
    """Return (the export a manifest belongs to, its name for its files).

    Azure states the type and the scope. A daily export and one of last month deliver the same, even under different names. Azure's ids
    vary in case. Other exports are identified by their folder.
    """
    block = document.get("exportConfig")
    if isinstance(block, dict):
        label = None if block.get("type") is None else str(block["type"])
        scope = str(block.get("resourceId") or block.get("exportName") or _folder_of(name))
        return f"{label or 'export'} of {scope.lower()}", label
    return _folder_of(name), None


def _folder_of(name: str) -> str:
    """Return the folder of an export: the one above AWS's `metadata` or above the billing period."""
    folders = PurePosixPath(name).parts[:-1]
    for depth, folder in enumerate(folders):
        if folder == "metadata" or any(p.search(f"/{folder}/") for p in PERIOD_NAMES):
            return "/".join(folders[:depth])
    return "/".join(folders)


def _adopt_unreadable(found: Sequence[Delivery]) -> list[Delivery]:
    """Assign an unreadable manifest to the export of the other manifests of its folder, so that an older one counts instead."""
    known = {_folder_of(d.name): d.export for d in reversed(found) if not d.is_unreadable}
    return [replace(d, export=known.get(_folder_of(d.name), d.export)) if d.is_unreadable else d for d in found]


def _read_manifest(folder: FileSource, entry: Entry, by_name: Mapping[str, Entry]) -> Delivery:
    period = period_of_name(entry.name)

    def problem(why: str) -> Delivery:
        complaint = f"manifest {entry.name} {why}"
        return Delivery(
            entry.name, (), _run_time(entry.name) or entry.modified_at, period, complaint, _folder_of(entry.name), is_unreadable=True
        )

    if entry.bytes > MAX_MANIFEST_BYTES:
        return problem(f"has {entry.bytes} bytes, more than a manifest can")
    try:
        text = folder.fetch(entry).read_bytes().decode("utf-8-sig")
        document = parse_json(text)
        if HALF_CHARACTERS.search(text):  # a lone one cannot be stored or shown
            json.dumps(document, ensure_ascii=False).encode()
    except ValueError as error:
        return problem(f"is not valid JSON ({error})")
    if not isinstance(document, dict):
        return problem("is not a JSON object")
    period = period or _stated_period(document)
    if period is None:
        return problem("names no billing period, neither in its path nor in its text")
    try:
        stated = _stated_files(document)
    except ValueError as error:
        return problem(str(error))
    if stated is None:
        return problem("lists no files (dataFiles, reportKeys or blobs)")
    try:
        files, missing = _resolve(stated, by_name)
    except ValueError as error:
        return problem(f"names a file by an address that cannot be read ({error})")
    export, label = _export_of(entry.name, document)
    files = [replace(f, label=label, export=export, manifest=entry.name) for f in files]
    why = None
    if missing:
        why = f"manifest {entry.name} names {len(stated)} files, of which {len(missing)} are missing: {', '.join(missing[:3])}"
    for file in files:
        if file.stated_bytes is not None and file.entry.bytes != file.stated_bytes:
            why = why or f"{file.entry.name} has {file.entry.bytes} bytes, but manifest {entry.name} states {file.stated_bytes}"
    delivered_at = _stated_time(document) or _run_time(entry.name) or entry.modified_at
    return Delivery(entry.name, tuple(files), delivered_at, period, why, export, assembly=str(document.get("assemblyId") or ""))


def _stated_files(document: Mapping[str, Any]) -> list[tuple[str, int | None, int | None]] | None:
    """Return (key, bytes, rows) of every file a manifest names, or None if it has no such list."""
    for key in ("dataFiles", "reportKeys", "blobs"):
        if isinstance(document.get(key), list):
            return [_stated_file(item) for item in document[key]]
    return None


def _stated_file(item: Any) -> tuple[str, int | None, int | None]:
    if not isinstance(item, dict):
        return str(item), None, None

    def first(*keys: str) -> Any:
        return next((item[k] for k in keys if item.get(k) is not None), None)

    size, rows = first("byteCount", "size", "bytes"), first("dataRowCount", "rowCount", "rows")
    name = str(first("blobName", "key", "path", "name"))
    for key, value in (("bytes", size), ("rows", rows)):
        if value is not None and not (isinstance(value, (int, str)) and str(value).isdecimal()):
            raise ValueError(f"states {value!r} {key} for {name}, which is not a whole number")
    return name, None if size is None else int(size), None if rows is None else int(rows)


def _resolve(stated: list[tuple[str, int | None, int | None]], by_name: Mapping[str, Entry]) -> tuple[list[DeliveredFile], list[str]]:
    """Find the named files below the source's uri. Returns (the files, the names that are missing).

    All names share one prefix that the uri already covers, so a file of the same name elsewhere is never used for a missing one.
    """
    paths = [PurePosixPath(unquote(urlsplit(key).path) if "://" in key else key.lstrip("/")).parts for key, _, _ in stated]
    paths = [p[1:] if p and p[0] == "/" else p for p in paths]
    depth = max((len(p) for p in paths), default=0)
    best = max(range(depth), key=lambda cut: (sum("/".join(p[cut:]) in by_name for p in paths), -cut), default=0)
    files, missing = [], []
    for parts, (key, size, rows) in zip(paths, stated, strict=True):
        if entry := by_name.get("/".join(parts[best:])):
            files.append(DeliveredFile(entry, size, rows))
        else:
            missing.append(key)
    return files, missing


def _stated_period(document: Mapping[str, Any]) -> str | None:
    for outer, inner in (("billingPeriod", "start"), ("runInfo", "startDate")):
        block = document.get(outer)
        if isinstance(block, dict) and (match := re.match(r"([1-9][0-9]{3})-?(0[1-9]|1[0-2])", str(block.get(inner, "")))):
            return f"{match[1]}-{match[2]}"
    return None


def _stated_time(document: Mapping[str, Any]) -> datetime | None:
    block = document.get("runInfo")
    text = str(block.get("submittedTime", "")) if isinstance(block, dict) else ""
    try:
        found = datetime.fromisoformat(text)  # Azure writes seven digits of a second; six are kept
        return found.replace(tzinfo=timezone.utc) if found.tzinfo is None else found.astimezone(timezone.utc)
    except (ValueError, OverflowError):  # not a time, or one before year 1 or after 9999 in UTC
        return None


def _run_time(name: str) -> datetime | None:
    """Return when an export's run began, by its folder name, because copied files have other times.

    Azure writes 202609301442. AWS Data Exports that keep every execution write 2026-11-01T12:34:56.789Z and an id.
    """
    azure = re.search(r"/\d{8}-\d{8}/(\d{12})/", f"/{name}")
    aws = re.search(r"/(\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(?:\.\d{1,6})?)Z-[^/]+/[^/]+$", f"/{name}")
    try:
        if azure:
            return datetime.strptime(azure[1], "%Y%m%d%H%M").replace(tzinfo=timezone.utc)
        return datetime.fromisoformat(aws[1]).replace(tzinfo=timezone.utc) if aws else None
    except ValueError:
        return None
