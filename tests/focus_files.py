"""FOCUS files for tests: rows with every mandatory column, and loads as the pipeline runs them.

Real bills from outside this repository come from the `samples` fixture.
"""

from __future__ import annotations

import csv
import gzip
import io
import os
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timezone
from decimal import Decimal
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from runspend.config.settings import BillSource, ScopeSettings
from runspend.core.step_result import ReadJob
from runspend.ingest.billing import Load, PeriodLoad, load_source
from runspend.ingest.billing.load_context import PublishedBill
from runspend.ingest.billing.normalize import Rules

NOW = datetime(2026, 11, 24, 2, tzinfo=timezone.utc)
ROW = {
    "BilledCost": "1.00",
    "EffectiveCost": "1.00",
    "ListCost": "1.00",
    "ContractedCost": "1.00",
    "BillingCurrency": "USD",
    "BillingAccountId": "1234567890123",
    "BillingPeriodStart": "2026-10-01T00:00:00Z",
    "BillingPeriodEnd": "2026-11-01T00:00:00Z",
    "ChargePeriodStart": "2026-10-05T10:00:00Z",
    "ChargePeriodEnd": "2026-10-05T11:00:00Z",
    "ChargeCategory": "Usage",
    "ServiceName": "Compute",
    "ProviderName": "AWS",
    "PublisherName": "AWS",
    "ResourceId": "i-1",
    "Tags": "",
}


def row(cost: str = "1.00", **other: str) -> dict[str, str]:
    """Return a FOCUS row with this cost in all four measures. `more` sets other columns."""
    return {**ROW, **dict.fromkeys(("BilledCost", "EffectiveCost", "ListCost", "ContractedCost"), cost), **other}


def month(period: str) -> dict[str, str]:
    """Return the time columns of a row in another month."""
    year, number = (int(part) for part in period.split("-"))
    following = f"{year + number // 12}-{number % 12 + 1:02d}"
    return {
        "BillingPeriodStart": f"{period}-01T00:00:00Z",
        "BillingPeriodEnd": f"{following}-01T00:00:00Z",
        "ChargePeriodStart": f"{period}-05T10:00:00Z",
        "ChargePeriodEnd": f"{period}-05T11:00:00Z",
    }


def csv_text(rows: Sequence[Mapping[str, str]], header: Sequence[str] | None = None) -> str:
    """Return rows as CSV. Without a header, the columns of the first row are used."""
    out = io.StringIO()
    writer = csv.DictWriter(out, list(header or (rows[0] if rows else ROW)), lineterminator="\n", restval="")
    writer.writeheader()
    writer.writerows(rows)
    return out.getvalue()


def write_csv(path: Path, rows: Sequence[Mapping[str, str]], *, at: datetime | None = None, header: Sequence[str] | None = None) -> Path:
    """Write a CSV file, last modified at `at`. A name that ends in .gz compresses it."""
    data = csv_text(rows, header).encode()
    return write_bytes(path, gzip.compress(data, mtime=0) if path.suffix == ".gz" else data, at=at)


def write_bytes(path: Path, data: bytes, *, at: datetime | None = None) -> Path:
    """Write a file of these bytes, last modified at `at`."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
    if at is not None:
        os.utime(path, (at.timestamp(), at.timestamp()))
    return path


@dataclass
class Nights:
    """Loads one bill repeatedly, and keeps what each load publishes, as the pipeline does."""

    workdir: Path
    source: BillSource
    store: dict[tuple[str, str], pa.Table] = field(default_factory=dict)
    progress: list[str] = field(default_factory=list)
    count: int = 0

    def load(
        self,
        *,
        accept: Collection[str] = (),
        scope: ScopeSettings | None = None,
        source: BillSource | None = None,
        now: datetime = NOW,
        **rules: Any,
    ) -> Load:
        """Load the bill once. `rules` are pools, dimensions and keys."""
        self.count += 1
        source = source or self.source
        options = {key: rules.pop(key) for key in ("drawn", "memory") if key in rules}
        published = PublishedBill(
            lambda table, period: self.store.get((table, period)),
            sorted({period for table, period in self.store if table == "billing_loads"}),
            rules.pop("damaged", ()),
        )
        job = ReadJob(now, f"load-{self.count}", self.workdir / f"night-{self.count}", self.progress.append)
        load = load_source(source, Rules.of(source, scope=scope, **rules), published, job, accept=accept, **options)
        for period in load.periods:
            for table, rows in period.tables.items():
                self.store[table, period.period] = pq.read_table(rows) if isinstance(rows, Path) else rows
        return load

    def lines(self, period: str = "2026-10") -> list[dict[str, Any]]:
        return self.rows("billing_lines", period)

    def rows(self, table: str, period: str = "2026-10") -> list[dict[str, Any]]:
        return self.store[table, period].to_pylist() if (table, period) in self.store else []

    def total(self, period: str = "2026-10", column: str = "billed_cost") -> Decimal:
        lines = self.store.get(("billing_lines", period))
        return sum((cost for cost in lines[column].to_pylist() if cost is not None), Decimal(0)) if lines is not None else Decimal(0)


def nights(tmp_path: Path, uri: Path | str, **settings: Any) -> Nights:
    """Return the loader of a bill named "bill" at `uri`."""
    return Nights(tmp_path / "work", BillSource(name="bill", uri=str(uri), **settings))


def only(load: Load, period: str = "2026-10") -> PeriodLoad:
    """Return the outcome of the only period."""
    return next(p for p in load.periods if p.period == period)
