"""Bills of every format, delivery manifests and inventories: each is refused, quarantined or loaded, and a loaded bill is complete."""

from __future__ import annotations

import csv
import hashlib
import io
import json
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping
from datetime import date, datetime, timezone
from decimal import Decimal
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from runspend.config.settings import ArtifactStore, BillSource
from runspend.core.step_result import ReadJob
from runspend.ingest.artifacts import measure_store
from runspend.ingest.billing import Load, read_weights
from runspend.ingest.billing.file_sources import open_folder
from runspend.ingest.billing.manifests import find_deliveries
from tests import azure_files, cur_files, databricks_files, focus_files, gcp_files
from tests.focus_files import Nights, write_bytes
from tests.fuzz.guard import Finding
from tests.ingest.artifacts import test_s3_inventory as inventory_files
from tests.ingest.artifacts.owners import OWNER_SCHEMA
from tests.ingest.billing.formats import test_opencost as opencost_files
from tests.ingest.billing.formats import test_slurm as slurm_files

Run = Callable[[bytes, Path], None]
CURRENT = datetime(2026, 11, 1, tzinfo=timezone.utc)
MEASURES = ("billed_cost", "effective_cost", "list_cost", "contracted_cost")


def bill(name: str, **settings: Any) -> Run:
    """A target: the input is one file of that name, loaded as a bill with these settings."""

    def run(data: bytes, work: Path) -> None:
        write_bytes(work / "bill" / name, data, at=CURRENT)
        load(
            Nights(
                work / "nights", BillSource.model_validate({"name": "bill", "uri": str(work / "bill"), "late_after": "900d", **settings})
            )
        )

    return run


def load(nights: Nights) -> Load:
    """One load, its money and rows added up again."""
    loaded = nights.load()
    for period in loaded.periods:
        if period.state != "loaded":
            continue
        lines, quarantined = nights.store["billing_lines", period.period], nights.rows("billing_quarantine", period.period)
        current = [row for row in nights.rows("billing_loads", period.period) if row["state"] == "current"]
        sums: dict[tuple[str, str], Decimal] = defaultdict(Decimal)
        for line in lines.select(["billing_currency", *MEASURES]).to_pylist():
            for measure in MEASURES:
                sums[line["billing_currency"], measure] = EXACT_SUM(sums[line["billing_currency"], measure], line[measure] or Decimal(0))
        reported = {
            (row["billing_currency"], measure): row[measure] or Decimal(0) for row in current for measure in MEASURES if row["row_count"]
        }
        if {k: v for k, v in sums.items() if v} != {k: v for k, v in reported.items() if v}:
            raise Finding(f"{period.period}: lines add up to {dict(sums)}, the load says {reported}")
        if sum(row["row_count"] for row in current) != lines.num_rows:
            raise Finding(f"{period.period}: {lines.num_rows} lines, the load says {sum(row['row_count'] for row in current)}")
        if max((row["quarantined_count"] for row in current), default=0) != len(quarantined):
            raise Finding(
                f"{period.period}: {len(quarantined)} rows in quarantine, the load says {[row['quarantined_count'] for row in current]}"
            )
    return loaded


def EXACT_SUM(one: Decimal, other: Decimal) -> Decimal:
    """Without rounding."""
    from decimal import Context

    return Context(prec=90).add(one, other)


def focus_csv(data: bytes, work: Path) -> None:
    """A FOCUS CSV; where Python's own reader sees only plain rows of one month, what is loaded and quarantined is as many."""
    nights = Nights(work / "nights", BillSource(name="bill", uri=str(work / "bill"), late_after="900d"))  # type: ignore[arg-type]
    write_bytes(work / "bill" / "bill.csv", data, at=CURRENT)
    loaded = load(nights)
    if loaded.error or any(p.state != "loaded" for p in loaded.periods):
        return
    rows = plain_rows(data)
    kept = sum(nights.store["billing_lines", p.period].num_rows + len(nights.rows("billing_quarantine", p.period)) for p in loaded.periods)
    skipped = sum(sum(p.extra.get("skip_reasons", {}).values()) for p in loaded.periods if hasattr(p, "extra"))
    if rows is not None and kept + skipped != rows:
        raise Finding(f"{rows} rows were delivered, {kept} are kept")


def plain_rows(data: bytes) -> int | None:
    """How many rows a CSV has; None where two readers may tell them differently."""
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError:
        return None
    if any(c in text for c in "\r\x00\x0b\x0c\x1c\x1d\x1e\x85\u2028\u2029") or '"' in text:
        return None
    rows = list(csv.reader(io.StringIO(text)))
    if not rows or any(len(row) != len(rows[0]) for row in rows):
        return None
    return len(rows) - 1


def typed_parquet(format_name: str) -> Run:
    """A target: the input is a JSON list of {column: value}; Arrow makes of it what types it can, and a Parquet file."""

    def run(data: bytes, work: Path) -> None:
        try:
            rows = json.loads(data)
            table = pa.Table.from_pylist(rows)
            (work / "bill").mkdir()
            pq.write_table(table, work / "bill" / "bill.parquet")
        except (ValueError, TypeError, KeyError, RecursionError, AttributeError, OverflowError, pa.ArrowException):
            return  # no Parquet file: nothing to be read
        source = BillSource(name="bill", format=format_name, uri=str(work / "bill"), late_after="900d")  # type: ignore[arg-type]
        load(Nights(work / "nights", source))

    return run


def weights(name: str) -> Run:
    """A target: the input is one output of OpenCost."""

    def run(data: bytes, work: Path) -> None:
        write_bytes(work / "bill" / name, data, at=CURRENT)
        source = BillSource(name="k8s", format="opencost", uri=str(work / "bill"))
        read_weights(source, workdir=work / "weights", progress=lambda text: None)

    return run


def own_machines(data: bytes, work: Path) -> None:
    """A list of own machines, as in `machines:`. A ValueError is a mistake that is reported with its line."""
    source = BillSource.model_validate({"name": "own", "format": "machines", "currency": "EUR", "machines": json.loads(data)})
    load(Nights(work / "nights", source))


def manifest(path: str) -> Run:
    """A target: the input is the manifest at this path, beside two files."""

    def run(data: bytes, work: Path) -> None:
        for name in ("a.csv", "b.csv"):
            write_bytes(work / "bill" / "x" / "data" / name, b"x" * 10, at=CURRENT)
        write_bytes(work / "bill" / path, data, at=CURRENT)
        source = BillSource(name="bill", uri=str(work / "bill"), delivery="manifest")
        found = find_deliveries(source, open_folder(source, work / "nights", lambda text: None), lambda name: name.endswith(".csv"))
        for delivery in found.found:
            if delivery.period is not None:
                date.fromisoformat(f"{delivery.period}-01")
            if any(not file.entry.name.startswith("x/") for file in delivery.files):
                raise Finding(f"{delivery.files} is named by a manifest and no file of the bill")

    return run


def delivered(format_name: str) -> Run:
    """A target: the input is a manifest of that provider's format, and the files it names are a good bill: all of a load."""

    def run(data: bytes, work: Path) -> None:
        write_bytes(work / "bill" / "x" / "data" / "a.csv", focus_files.csv_text([focus_files.row("1.00")]).encode(), at=CURRENT)
        write_bytes(work / "bill" / "x" / "metadata" / "BILLING_PERIOD=2026-10" / "x-Manifest.json", data, at=CURRENT)
        load(Nights(work / "nights", BillSource(name="bill", format=format_name, uri=str(work / "bill"))))

    return run


def inventory(data: bytes, work: Path) -> None:
    """A manifest of S3 Inventory whose checksum is right, beside a data file."""
    dated = inventory_files.Inventory(work / "inventory").deliver([inventory_files.entry("art/a", 5)])
    (dated / "manifest.json").write_bytes(data)
    (dated / "manifest.checksum").write_text(hashlib.md5(data, usedforsecurity=False).hexdigest())
    _measure(work)


def inventory_rows(data: bytes, work: Path) -> None:
    """The rows of an S3 Inventory file, CSV."""
    import gzip

    one = inventory_files.Inventory(work / "inventory", file_format="CSV")
    dated = one.deliver([inventory_files.entry("art/a", 5)])
    packed = gzip.compress(data, mtime=0)
    one.files[0].write_bytes(packed)
    parsed = json.loads((dated / "manifest.json").read_bytes())
    parsed["files"][0] |= {"size": len(packed), "MD5checksum": hashlib.md5(packed, usedforsecurity=False).hexdigest()}
    text = json.dumps(parsed).encode()
    (dated / "manifest.json").write_bytes(text)
    (dated / "manifest.checksum").write_text(hashlib.md5(text, usedforsecurity=False).hexdigest())
    _measure(work)


def _measure(work: Path) -> None:
    store = ArtifactStore(uri="s3://b/art/", inventory=str(work / "inventory"))
    (work / "measure").mkdir()
    owners = pa.table([pa.array([], field.type) for field in OWNER_SCHEMA], schema=OWNER_SCHEMA)
    measure_store(store, owners, ReadJob(inventory_files.NOW, "load", work / "measure"), previous=lambda period: None)


# --- seeds ---------------------------------------------------------------------------------------------------------------


def focus_rows() -> list[dict[str, str]]:
    """A machine, a tax, a credit and a commitment."""
    return [
        focus_files.row("1.50", Tags='{"team": "vision", "mlflow_run_id": "0123456789abcdef0123456789abcdef"}'),
        focus_files.row("0.0000000001", ChargeCategory="Tax", ResourceId=""),
        focus_files.row("-0.5", ChargeCategory="Credit"),
        focus_files.row("2", **focus_files.month("2026-09")),
    ]


def csv_of(rows: Iterable[Mapping[str, Any]]) -> bytes:
    """A CSV as the helpers write it."""
    return focus_files.csv_text([{k: str(v) for k, v in row.items()} for row in rows]).encode()


def jsonl_of(rows: Iterable[Mapping[str, Any]]) -> bytes:
    """One object a line."""
    return "".join(json.dumps(row) + "\n" for row in rows).encode()


def parquet_of(rows: list[dict[str, Any]]) -> bytes:
    """A small Parquet file."""
    out = io.BytesIO()
    pq.write_table(pa.Table.from_pylist(rows), out, compression="none", write_statistics=False, store_schema=False)
    return out.getvalue()


def databricks_rows() -> list[dict[str, Any]]:
    """Two hours of a jobs cluster."""
    return [
        databricks_files.usage(metadata={"job_id": "7", "job_run_id": "70", "cluster_id": "c-1"}, tags={"team": "vision"}),
        databricks_files.usage("5", record_id="s"),
    ]


def databricks_csv(rows: Iterable[Mapping[str, Any]]) -> bytes:
    """Structs and maps as JSON strings."""
    return csv_of({k: json.dumps(v) if isinstance(v, (dict, list)) else v for k, v in row.items()} for row in rows)


def gcp_csv() -> bytes:
    """Two rows of the detailed export."""
    return csv_of(
        {k: gcp_files.json_text(v) if isinstance(v, (dict, list)) else v for k, v in gcp_files.flat(row).items()} for row in gcp_rows()
    )


def gcp_rows() -> list[dict[str, Any]]:
    """An hour with a credit, and one without."""
    return [gcp_files.gcp("1.5", labels=gcp_files.labels(team="vision"), credits=[gcp_files.credit("-0.5")]), gcp_files.gcp("0.25")]


def aws_manifest() -> bytes:
    """AWS Data Exports."""
    return json.dumps({"billingPeriod": {"start": "2026-10-01T00:00:00.000Z"}, "dataFiles": ["s3://b/exports/x/data/a.csv"]}).encode()


def azure_manifest() -> bytes:
    """Azure Cost Management."""
    return json.dumps(
        {
            "exportConfig": {"exportName": "focus", "type": "FocusCost", "resourceId": "/subscriptions/s"},
            "runInfo": {
                "submittedTime": "2026-11-01T01:00:00.1234567Z",
                "startDate": "2026-10-01T00:00:00",
                "endDate": "2026-10-31T00:00:00",
            },
            "blobs": [{"blobName": "x/data/a.csv", "byteCount": 10, "dataRowCount": 1}],
        }
    ).encode()


def inventory_manifest() -> bytes:
    """S3 Inventory, of one file that is not the existing one."""
    return json.dumps(
        {
            "sourceBucket": "b", "destinationBucket": "arn:aws:s3:::dest", "version": "2016-11-30", "creationTimestamp": "1791853200000", "fileFormat": "Parquet", "fileSchema": "message s3.inventory {}",
            "files": [{"key": "inv/b/all/data/00000000.parquet", "size": 5, "MD5checksum": "0" * 32}],
        }
    ).encode()  # fmt: skip


def sacct() -> bytes:
    """Two jobs."""
    return slurm_files.text([slurm_files.job(), slurm_files.job(JobIDRaw="101", AllocTRES="cpu=1,mem=1G,node=1")])


def allocations() -> bytes:
    """What `/allocation` answers."""
    return opencost_files.answer([opencost_files.allocation("a", 1, 2), opencost_files.allocation("__idle__", 3)])


MACHINES = [
    {
        "resource_id": "gpubox",
        "gpus": 4,
        "from": "2026-09-01",
        "purchase": {"amount": 28800, "months": 36},
        "per_month": 210,
        "power": {"per_kwh": 0.31, "watts": 650},
    }
]
CUR_ROWS = [cur_files.line(), cur_files.line("Tax", "0.20"), cur_files.line("DiscountedUsage", "0")]
AZURE_ROWS = [azure_files.cost("1.5", Tags='"team": "vision"'), azure_files.cost("2", ChargeType="Purchase")]


def gzip_of(data: bytes) -> bytes:
    """Packed, the same each time."""
    import gzip

    return gzip.compress(data, mtime=0)


def opencost_csv() -> bytes:
    """The CSV of `kubectl cost` and its like."""
    return csv_of([opencost_files.flat(opencost_files.allocation("a", 1, 2)), opencost_files.flat(opencost_files.allocation("b", 3))])


def inventory_csv() -> bytes:
    """Rows as S3 writes them: no header."""
    return b'"b","art/a","v1","true","false","5","2026-09-01T12:00:00.000Z","abc","STANDARD","false"\n"b","art/b%20c","","true","false","7","2026-09-01T12:00:00.000Z","abd","GLACIER","false"\n'
