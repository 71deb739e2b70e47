"""Finds deliveries: the files of a folder or bucket, grouped by their manifests or all together.

Belongs here: how providers lay out their deliveries. `file_sources.py` lists and copies files, and `verify.py` checks that they are
complete. The format's module knows the meaning of their content.

Layouts: AWS Data Exports ("Understanding export delivery"), AWS legacy Cost and Usage Report, Azure Cost Management
("Manifest file"). In all three, a manifest is a JSON document that lists the files of one billing period. It is written after these files.
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
    """One data file of a delivery, with the facts that its manifest states."""

    entry: Entry
    stated_bytes: int | None = None
    stated_rows: int | None = None
    label: str | None = None  # the manifest's name for this kind of file, such as "ActualCost"
    export: str = ""  # the export that its manifest belongs to
    manifest: str | None = None  # the manifest that lists it


@dataclass(frozen=True)
class Delivered:
    """One complete file on this machine, as a format's module reads it.

    `label` is the manifest's name for this kind of file ("ActualCost"). `beside` has the name and label of each file of the load,
    including this one.
    """

    source: BillSource
    name: str
    file: VerifiedFile
    index: int
    label: str | None = None
    beside: tuple[tuple[str, str | None], ...] = ()


@dataclass(frozen=True)
class Delivery:
    """Files that belong together. `period` is None if only the rows show it. `problem` is the reason to refuse the delivery, or None.

    `export` distinguishes exports below one address. Each of them has its own manifest for the same month.
    """

    name: str
    files: tuple[DeliveredFile, ...]
    delivered_at: datetime | None
    period: str | None = None
    problem: str | None = None
    export: str = ""
    is_unreadable: bool = False  # its manifest cannot be read
    assembly: str = ""  # the id of the month's current assembly, in the manifest of a legacy AWS report


@dataclass(frozen=True)
class Deliveries:
    """All deliveries of a source, and the files that are not read."""

    found: tuple[Delivery, ...]
    ignored: tuple[str, ...] = ()
    is_by_manifest: bool = False


def find_deliveries(source: BillSource, folder: FileSource, is_data: Callable[[str], bool]) -> Deliveries:
    """Return the deliveries of a source: one per manifest, newest first, or without manifests one delivery of all data files.

    `is_data(name)` recognizes data files. The function `is_by_manifest` decides whether manifests count.
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
    """Return whether manifests decide which files count. The setting `delivery` decides; without it, they do if manifests and data exist.

    If all files counted, a month would count once for each execution of its export. So manifests take precedence.
    """
    if source.delivery is not None:
        return source.delivery == "manifest"
    manifests = [e for e in entries if MANIFEST_NAMES.search(e.name)]
    return bool(manifests) and any(is_data(e.name) for e in entries if not MANIFEST_NAMES.search(e.name))


def period_of_name(name: str) -> str | None:
    """Return the billing period that a path names, as "2026-10", or None. Paths name it BILLING_PERIOD=2026-10 or 20261001-20261101."""
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
    """Make the current assembly of each month its newest delivery.

    A legacy AWS report keeps the assemblies of a month in one folder each. The manifest above these folders names the current assembly.
    That manifest gets a later time than all other assemblies, even if copied files have lost their times.
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
    """Return one list of deliveries per export, from one period's deliveries. The order stays: newest first, if the input has it."""
    exports: dict[str, list[Delivery]] = {}
    for delivery in found:
        exports.setdefault(delivery.export, []).append(delivery)
    return list(exports.values())


def together(several: Sequence[Delivery]) -> Delivery:
    """Return the delivery that a period is loaded from, merged from one delivery of each export."""
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
    """Return (the export that a manifest belongs to, the label of its files or None).

    Azure's manifests state a type and a scope, which identify the export. Its name does not: an export for each day and an export of the
    last month deliver the same charges under different names. Azure's ids vary in case. Other exports are identified by their folder.
    """
    block = document.get("exportConfig")
    if isinstance(block, dict):
        label = None if block.get("type") is None else str(block["type"])
        scope = str(block.get("resourceId") or block.get("exportName") or _folder_of(name))
        return f"{label or 'export'} of {scope.lower()}", label
    return _folder_of(name), None


def _folder_of(name: str) -> str:
    """Return the folder of an export: the parent of AWS's folder `metadata`, or of the billing period's folder."""
    folders = PurePosixPath(name).parts[:-1]
    for depth, folder in enumerate(folders):
        if folder == "metadata" or any(p.search(f"/{folder}/") for p in PERIOD_NAMES):
            return "/".join(folders[:depth])
    return "/".join(folders)


def _adopt_unreadable(found: Sequence[Delivery]) -> list[Delivery]:
    """Assign unreadable manifests to the export of other manifests in their folder, so that an older manifest counts instead."""
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
        if HALF_CHARACTERS.search(text):  # half of a surrogate pair without the other half cannot be stored or shown
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
    """Return (key, bytes, rows) of every file that a manifest names, or None if the manifest has no list of files."""
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
    """Return (files of a manifest below the source's uri, names of missing files).

    All names start with one prefix, which the uri already covers. The same number of folders is cut off each name. So a file of the same
    name in another folder never replaces a missing file.
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
        found = datetime.fromisoformat(text)  # Azure writes seven decimals of a second; Python keeps six
        return found.replace(tzinfo=timezone.utc) if found.tzinfo is None else found.astimezone(timezone.utc)
    except (ValueError, OverflowError):  # not a time, or a time before year 1 or after year 9999 in UTC
        return None


def _run_time(name: str) -> datetime | None:
    """Return the time in the name of an export's folder: when the export started, in UTC. Copied files lose their own times.

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
