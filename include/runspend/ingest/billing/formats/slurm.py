"""Reads a list of SLURM jobs, as `sacct --parsable2` writes it, and prices it by `billing[].slurm`: a line per job and UTC day.

Belongs here: the time for which a file is charged, and the rate cards in the form that `slurm.sql` reads. The SQL computes the charges.

Source: SLURM, sacct(1) "Job accounting fields" and "Trackable RESources (TRES)".
"""

from __future__ import annotations

import json
import mmap
import re
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from datetime import date, datetime, timedelta
from pathlib import Path, PurePosixPath
from typing import Any
from zoneinfo import ZoneInfo

from runspend.config.settings import BillSource, SlurmPrices, SlurmSettings
from runspend.core.errors import bill_named
from runspend.ingest.billing import format_spec
from runspend.ingest.billing.format_spec import FileKind
from runspend.ingest.billing.manifests import Delivered
from runspend.ingest.billing.staging import Staged, StagedFile
from runspend.ingest.billing.verify import refused

KINDS = (
    FileKind(
        view="sacct",
        columns={
            "job_raw": ("JobIDRaw", "JobID"),
            "job": ("JobID", "JobIDRaw"),
            "job_name": ("JobName",),
            "account": ("Account",),
            "user_name": ("User",),
            "partition_name": ("Partition",),
            "cluster": ("Cluster",),
            "state": ("State",),
            "started": ("Start",),
            "ended": ("End",),
            "elapsed": ("ElapsedRaw",),
            "tres": ("AllocTRES",),
            "cores": ("AllocCPUS", "NCPUS"),
            "nodes": ("AllocNodes", "NNodes"),
        },
        required=("job_raw", "started", "elapsed", "tres"),
        sql="slurm.sql",
    ),
)
NAMES = re.compile(r"(?i)\.(txt|txt\.gz|psv|psv\.gz|sacct)$")
MONTH = re.compile(r"(?<!\d)(\d{4})-(\d{2})(?!-?\d)")
DAY = re.compile(r"(?<!\d)(\d{4})-(\d{2})-(\d{2})(?!\d)")
UNITS = 10**10  # prices are integers in ten-billionths of the currency, so that products are exact
PRICES = ("gpu", "cpu", "mem_gb", "node", "billing")
CHUNK_BYTES = 4 << 20


def matches(header: Sequence[str]) -> bool:
    """Return whether a header is of this format."""
    return {"Start", "ElapsedRaw", "AllocTRES"} <= set(header) and bool({"JobIDRaw", "JobID"} & set(header))


def names(name: str) -> bool:
    """Return whether a file name is that of a job list: .txt, .psv or .sacct. These are in addition to the names that all formats read."""
    return bool(NAMES.search(name))


def stands_for(source: BillSource, name: str) -> str | None:
    """Return the month (2026-10) or the day (2026-10-05) in a file's name, or None. The setting `one_file_per` decides which."""
    is_month = source.slurm is None or source.slurm.one_file_per == "month"
    found = (MONTH if is_month else DAY).search(PurePosixPath(name).name)
    if found is None:
        return None
    try:
        date.fromisoformat(f"{found[0]}-01" if is_month else found[0])
    except ValueError:
        return None  # a number that is not a date
    return found[0]


def stage(staged: Staged, delivered: Delivered) -> StagedFile:
    """Stage the jobs of one file. They are charged for the time in the file's name.

    Raises SourceRefused if the source has no prices or no currency.
    """
    source = delivered.source
    settings = source.slurm
    if settings is None or source.currency is None:
        missing = "`slurm:` with their prices" if settings is None else "`currency`"
        raise refused(
            source.name, delivered.name, f"it lists jobs of SLURM, and {bill_named(source.name)} has no {missing}. Add it to billing[]"
        )
    month, start, end = _time_of(stands_for(source, delivered.name), settings.timezone)
    variables = {
        "bill": source.name, "currency": source.currency, "timezone": settings.timezone, "cards": json.dumps(rate_cards(settings)),
        "file_month": month, "file_start": start, "file_end": end,
    }  # fmt: skip
    with _unquoted(delivered) as plain:
        return format_spec.stage(staged, plain, KINDS, version=lambda header: "sacct", variables=variables)


def rate_cards(settings: SlurmSettings) -> list[dict[str, Any]]:
    """Return the general rate card (partition None), and a complete card for each partition with own prices.

    Prices are in ten-billionths of the currency.
    """

    def card(partition: str | None, *layers: SlurmPrices) -> dict[str, Any]:
        found: dict[str, Any] = {"partition": partition, **dict.fromkeys(PRICES, 0), "gpu_types": {}}
        for layer in layers:
            found |= {key: int(getattr(layer, key) * UNITS) for key in PRICES if getattr(layer, key) is not None}
            if layer.gpu is not None:
                found["gpu_types"] = {}  # a partition's GPU price applies to all its GPUs
            found["gpu_types"] = found["gpu_types"] | {kind.lower(): int(price * UNITS) for kind, price in layer.gpu_types.items()}
        return found

    return [card(None, settings.prices), *(card(name, settings.prices, own) for name, own in settings.partitions.items())]


def _time_of(named: str | None, timezone: str) -> tuple[date | None, datetime | None, datetime | None]:
    """Return (first day of the month, start, end) for the month or day in a file's name, in the time zone of the file.

    If `named` is None, all three are None, and the jobs are charged as a whole. The command sacct lists every job that ran in the requested
    time, with its whole duration. So a job that runs over midnight is in two files, and each file is charged for its own part.
    """
    if named is None:
        return None, None, None
    is_month = len(named) == len("2026-10")
    first = date.fromisoformat(f"{named}-01" if is_month else named)
    after = (first.replace(day=1) + timedelta(days=32)).replace(day=1) if is_month else first + timedelta(days=1)
    start, end = (datetime(day.year, day.month, day.day, tzinfo=ZoneInfo(timezone)) for day in (first, after))
    return first.replace(day=1), start, end


@contextmanager
def _unquoted(delivered: Delivered) -> Iterator[Delivered]:
    """Yield the file, or if it has quotes, a copy with apostrophes instead.

    sacct does not quote fields. So a quote in a job name would make the CSV reader treat the following fields as quoted text.
    """
    path = delivered.file.readable
    if delivered.file.kind != "csv" or not _has_quotes(path):
        yield delivered
        return
    with tempfile.TemporaryDirectory(prefix="runspend-sacct-") as folder:
        copy = Path(folder) / path.name
        with path.open("rb") as file, copy.open("wb") as out:
            while chunk := file.read(CHUNK_BYTES):
                out.write(chunk.replace(b'"', b"'"))
        yield replace(delivered, file=replace(delivered.file, readable=copy))


def _has_quotes(path: Path) -> bool:
    """Return whether a file contains a quote and was written by sacct itself. A CSV that was made from its output may be quoted."""
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
        return b"|" in content.readline() and content.find(b'"', 0) >= 0
