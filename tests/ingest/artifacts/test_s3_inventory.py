"""S3 Inventory files instead of a listing: what they contain, how old they are, and every reason to refuse one."""

from __future__ import annotations

import csv
import gzip
import hashlib
import io
import json
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from runspend.config.settings import ArtifactStore
from runspend.core.errors import SourceRefused
from runspend.core.step_result import ReadJob
from runspend.ingest.artifacts import Measurement, measure_store, probe_store
from tests.ingest.artifacts.owners import run_owners

UTC = timezone.utc
NOW = datetime(2026, 10, 14, 2, tzinfo=UTC)
MADE = datetime(2026, 10, 13, 1, tzinfo=UTC)
WRITTEN = datetime(2026, 9, 1, 12, tzinfo=UTC)
COLUMNS = (
    "Bucket",
    "Key",
    "VersionId",
    "IsLatest",
    "IsDeleteMarker",
    "Size",
    "LastModifiedDate",
    "ETag",
    "StorageClass",
    "IsMultipartUploaded",
)
PARQUET = ("bucket", "key", "version_id", "is_latest", "is_delete_marker", "size", "last_modified_date", "e_tag", "storage_class", "x")


def entry(key: str, size: int | None, **more: Any) -> dict[str, Any]:
    """Make one row of an inventory, with Amazon's column names."""
    etag = hashlib.md5(f"{key}{size}".encode(), usedforsecurity=False).hexdigest()
    row = {"Bucket": "b", "Key": key, "VersionId": "v1", "IsLatest": True, "IsDeleteMarker": False, "Size": size}
    return {**row, "LastModifiedDate": WRITTEN, "ETag": etag, "StorageClass": "STANDARD", "IsMultipartUploaded": False, **more}


@dataclass
class Inventory:
    """An inventory delivered to a folder. `tamper` may change the manifest before its checksum is computed."""

    folder: Path
    file_format: str = "Parquet"
    columns: tuple[str, ...] = COLUMNS
    bucket: str = "b"
    destination: str = "dest"
    files: list[Path] = field(default_factory=list)

    def deliver(
        self, *parts: list[dict[str, Any]], made: datetime = MADE, tamper: Callable[[dict[str, Any]], object] = lambda manifest: None
    ) -> Path:
        dated = self.folder / f"{made:%Y-%m-%dT%H-%MZ}"
        dated.mkdir(parents=True)
        (self.folder / "data").mkdir(exist_ok=True)
        listed = []
        for rows in parts:
            path = self.folder / "data" / f"{len(self.files):08x}.{'csv.gz' if self.file_format == 'CSV' else 'parquet'}"
            data = self._csv(rows) if self.file_format == "CSV" else self._parquet(rows)
            path.write_bytes(data)
            self.files.append(path)
            md5 = hashlib.md5(data, usedforsecurity=False).hexdigest()
            listed.append({"key": f"inv/b/all/data/{path.name}", "size": len(data), "MD5checksum": md5})
        manifest = {
            "sourceBucket": self.bucket,
            "destinationBucket": f"arn:aws:s3:::{self.destination}",
            "version": "2016-11-30",
            "creationTimestamp": str(int(made.timestamp() * 1000)),
            "fileFormat": self.file_format,
            "fileSchema": ", ".join(self.columns) if self.file_format == "CSV" else "message s3.inventory { … }",
            "files": listed,
        }
        tamper(manifest)
        text = json.dumps(manifest).encode()
        (dated / "manifest.json").write_bytes(text)
        (dated / "manifest.checksum").write_text(hashlib.md5(text, usedforsecurity=False).hexdigest() + "\n")
        return dated

    def _csv(self, rows: list[dict[str, Any]]) -> bytes:
        text = io.StringIO()
        writer = csv.writer(text, quoting=csv.QUOTE_ALL, lineterminator="\n")
        for row in rows:
            shown = {
                **row,
                "Key": quote(row["Key"], safe="/").replace("%20", "+"),
                "LastModifiedDate": row["LastModifiedDate"].strftime("%Y-%m-%dT%H:%M:%S.000Z"),
            }
            writer.writerow(
                [str(shown[c]).lower() if isinstance(shown[c], bool) else "" if shown[c] is None else shown[c] for c in self.columns]
            )
        return gzip.compress(text.getvalue().encode())

    def _parquet(self, rows: list[dict[str, Any]]) -> bytes:
        names = dict(zip(COLUMNS, PARQUET, strict=True))
        sink = pa.BufferOutputStream()
        kinds = {
            "Size": pa.int64(),
            "LastModifiedDate": pa.timestamp("ms"),
            "IsLatest": pa.bool_(),
            "IsDeleteMarker": pa.bool_(),
            "IsMultipartUploaded": pa.bool_(),
        }
        columns = {
            names[c]: pa.array([r[c].replace(tzinfo=None) if c == "LastModifiedDate" else r[c] for r in rows], kinds.get(c, pa.string()))
            for c in self.columns
        }
        pq.write_table(pa.table(columns), sink)
        return bytes(sink.getvalue())


@pytest.fixture(params=["Parquet", "CSV"])
def inventory(request: pytest.FixtureRequest, tmp_path: Path) -> Inventory:
    return Inventory(tmp_path / "inventory", request.param)


def measure(
    delivered: Inventory, *runs: str, now: datetime = NOW, root: str = "s3://b", months: dict[str, pa.Table] | None = None, **store: Any
) -> Measurement:
    """Measure once, as a pipeline run does. Each run owns the folder of its name."""
    return measure_store(
        ArtifactStore(**{"uri": root, "inventory": str(delivered.folder), **store}),
        run_owners(*(f"{root.rstrip('/')}/{run}" for run in runs)),
        ReadJob(now, "night", delivered.folder.parent / "work"),
        previous=(months or {}).get,
    )


def figures(found: Measurement, *columns: str) -> dict[str, tuple[Any, ...]]:
    return {r["owner_id"]: tuple(r[c] for c in columns) for r in found.tables["2026-10"].to_pylist() if r["valid_to"] is None}


def test_an_inventory_has_everything_that_a_listing_has(inventory: Inventory) -> None:
    """Two files give bytes, storage classes, times, noncurrent versions and duplicates. Names are odd, and no server is contacted."""
    inventory.deliver(
        [
            entry("r1/a", 10),
            entry("r1/a", 4, IsLatest=False, VersionId="v0"),
            entry("r1/deep/b", 3, StorageClass="GLACIER"),
            entry("r10/x", 1),
        ],
        [
            entry("r2/a b+c%41/ü#?", 7),
            entry("r2/gone", None, IsDeleteMarker=True, ETag="", StorageClass=""),
            entry("r2/gone", 50, IsLatest=False),
            entry("r3/copy", 10, ETag=entry("r1/a", 10)["ETag"], LastModifiedDate=WRITTEN + timedelta(days=1)),
        ],
    )
    found = measure(inventory, "r1", "r10", "r2", "r3")
    assert (found.error, found.is_complete, found.objects, found.bytes, found.as_of) == (None, True, 5, 31, MADE)
    rows = {(r["owner_id"], r["storage_class"]): r for r in found.tables["2026-10"].to_pylist()}
    assert {
        k: (r["objects"], r["bytes"], r["noncurrent_objects"], r["noncurrent_bytes"], r["duplicate_bytes"]) for k, r in rows.items()
    } == {
        ("r1", "STANDARD"): (1, 10, 1, 4, 0),
        ("r1", "GLACIER"): (1, 3, 0, 0, 0),
        ("r10", "STANDARD"): (1, 1, 0, 0, 0),
        ("r2", "STANDARD"): (1, 7, 1, 50, 0),
        ("r3", "STANDARD"): (1, 10, 0, 0, 10),
    }
    assert (rows["r1", "STANDARD"]["oldest_at"], rows["r3", "STANDARD"]["newest_at"]) == (WRITTEN, WRITTEN + timedelta(days=1))
    assert found.found == (
        "s3://b: 5 objects; written 2026-09-01 to 2026-09-02; 3 bytes GLACIER, 28 bytes STANDARD; 54 bytes in noncurrent versions; "
        "10 bytes in duplicate objects; 0 bytes orphaned; 0 bytes without an owner, to be confirmed; 0 owners without objects"
    )
    assert found.warnings == ["s3://b: its inventory is from 2026-10-13 01:00 UTC, 25 h old. Later changes are not in it."]


def test_doctor_says_how_old_the_inventory_is(inventory: Inventory) -> None:
    """`doctor` reads only the manifest. A damaged manifest is an error here too."""
    dated = inventory.deliver([entry("r1/a", 10)])
    store = ArtifactStore(uri="s3://b", inventory=str(inventory.folder))
    kind = inventory.file_format.upper()
    assert probe_store(store, NOW) == f"its inventory from 2026-10-13 01:00 UTC can be read, 25 h old, 1 files ({kind})"
    (dated / "manifest.checksum").write_text("0" * 32)
    with pytest.raises(SourceRefused):
        probe_store(store, NOW)


def test_odd_names_are_the_same_in_csv_and_parquet(inventory: Inventory) -> None:
    """CSV encodes keys like a URL. Each name still owns its own folder."""
    names = ["a b", "a+b", "%41", "A", "😀", "it's", 'q"q', "a,b", "ü", "new\nline"]
    inventory.deliver([entry(f"{name}/x/{name}", 2**n) for n, name in enumerate(names)])
    plain = [name for name in names if name != "new\nline"]
    found = measure(inventory, *plain)
    assert found.error is None
    assert {k: v[0] for k, v in figures(found, "bytes").items()} == {name: 2**n for n, name in enumerate(names)}


def test_only_objects_below_the_store_count(inventory: Inventory) -> None:
    """The store is a folder of its bucket."""
    inventory.deliver([entry("mlflow/r1/a", 1), entry("mlflow2/r1/a", 20), entry("mlflow", 300), entry("r1/a", 4000)])
    found = measure(inventory, "r1", root="s3://b/mlflow/")
    assert (found.objects, found.bytes, figures(found, "bytes")) == (1, 1, {"r1": (1,)})


def test_an_inventory_without_versions_says_nothing_of_them(inventory: Inventory) -> None:
    """The inventory lists only current versions, so noncurrent bytes are unknown, not 0.

    Without ETags, duplicates are unknown; without classes, the storage class is UNKNOWN.
    """
    inventory.columns = ("Bucket", "Key", "Size")
    inventory.deliver([entry("r1/a", 10)])
    found = measure(inventory, "r1")
    columns = ("storage_class", "bytes", "noncurrent_bytes", "duplicate_bytes", "newest_at")
    assert figures(found, *columns) == {"r1": ("UNKNOWN", 10, None, None, None)}


def test_the_newest_inventory_that_is_not_younger_than_now_is_read(inventory: Inventory) -> None:
    """A repeated pipeline run reads the same inventory as the first."""
    inventory.deliver([entry("r1/a", 1)], made=MADE - timedelta(days=1))
    inventory.deliver([entry("r1/a", 2)])
    inventory.deliver([entry("r1/a", 3)], made=NOW + timedelta(hours=1))
    (inventory.folder / "hive").mkdir()
    assert figures(measure(inventory, "r1"), "bytes") == {"r1": (2,)}
    assert figures(measure(inventory, "r1", now=NOW - timedelta(hours=26)), "bytes") == {"r1": (1,)}


def test_an_empty_inventory_is_an_empty_bucket(inventory: Inventory) -> None:
    """The manifest names no file."""
    inventory.deliver()
    found = measure(inventory, "r1")
    assert (found.error, found.objects, found.bytes, figures(found, "bytes")) == (None, 0, 0, {})


def test_a_model_newer_than_the_inventory_is_not_dangling(inventory: Inventory) -> None:
    """Objects that are newer than the inventory are not in it, so Runspend cannot know that they are gone."""
    inventory.deliver([entry("r1/a", 1)])
    found = measure(inventory, "r1", "r2")
    assert found.dangling is not None
    assert found.dangling.num_rows == 0


def test_an_owner_with_nothing_but_old_versions_is_dangling(inventory: Inventory) -> None:
    """Its bytes are billed but cannot be loaded."""
    inventory.deliver([entry("r1/a", 1), entry("r2/a", 2)], made=MADE - timedelta(days=1))
    months = dict(measure(inventory, "r1", "r2", now=NOW - timedelta(days=1)).tables)
    inventory.deliver([entry("r1/a", 1, IsLatest=False), entry("r2/a", 2)])
    found = measure(inventory, "r1", "r2", months=months)
    assert found.dangling is not None
    assert [(r["owner_id"], r["had_bytes"]) for r in found.dangling.to_pylist()] == [("r1", 1)]


def lose(name: str) -> Callable[[Inventory, Path], object]:
    return lambda inventory, dated: (dated / name).unlink()


def shorten(inventory: Inventory, _: Path) -> None:
    inventory.files[1].write_bytes(inventory.files[1].read_bytes()[:-20])


def flip(inventory: Inventory, _: Path) -> None:
    data = bytearray(inventory.files[1].read_bytes())
    data[len(data) // 2] ^= 1
    inventory.files[1].write_bytes(data)


def retouch(_: Inventory, dated: Path) -> None:
    (dated / "manifest.json").write_text((dated / "manifest.json").read_text().replace('"b"', '"c"'))


DAMAGE: dict[str, tuple[Callable[[Inventory, Path], object], str]] = {
    "no manifest": (lose("manifest.json"), "has no manifest with a checksum yet"),
    "no checksum": (lose("manifest.checksum"), "has no manifest with a checksum yet"),
    "manifest changed": (retouch, "manifest.json does not match its checksum"),
    "file missing": (lambda inventory, _: inventory.files[1].unlink(), "which its manifest names, is missing"),
    "file short": (shorten, "does not match its manifest"),
    "bit flipped": (flip, "does not match its manifest"),
}


@pytest.mark.parametrize("damage", DAMAGE, ids=str)
def test_a_damaged_or_incomplete_inventory_is_refused_and_the_old_figures_stay(inventory: Inventory, damage: str) -> None:
    """The good files of the inventory do not count either."""
    inventory.deliver([entry("r1/a", 1)], made=MADE - timedelta(days=1))
    months = dict(measure(inventory, "r1", now=NOW - timedelta(days=1)).tables)
    before = months["2026-10"].to_pylist()
    inventory.files.clear()
    (inventory.folder / "data").rename(inventory.folder / "old")
    dated = inventory.deliver([entry("r1/a", 5)], [entry("r1/b", 6)])
    harm, why = DAMAGE[damage]
    harm(inventory, dated)
    found = measure(inventory, "r1", months=months)
    assert isinstance(found.error, SourceRefused)
    assert why in str(found.error)
    assert "Figures stay as they were." in str(found.error)
    assert (found.is_complete, found.bytes, found.dangling) == (False, None, None)
    assert found.tables["2026-10"].to_pylist() == before


TAMPERED: dict[str, tuple[Callable[[dict[str, Any]], object], str]] = {
    "another bucket": (lambda m: m.update(sourceBucket="c"), "belongs to bucket c"),
    "ORC": (lambda m: m.update(fileFormat="ORC"), "Configure the inventory as Parquet or CSV"),
    "no time": (lambda m: m.pop("creationTimestamp"), "cannot be read (KeyError)"),
    "size is text": (lambda m: m["files"][0].update(size="many"), "cannot be read (ValueError)"),
    "climbs out": (lambda m: m["files"][0].update(key="inv/b/all/data/../../secret"), "which is outside the inventory's folder"),
    "absolute": (lambda m: m["files"][0].update(key="inv/b/all/data//etc/passwd"), "which is outside the inventory's folder"),
}


@pytest.mark.parametrize("what", TAMPERED, ids=str)
def test_a_manifest_that_makes_no_sense_is_refused(inventory: Inventory, what: str) -> None:
    """The manifest is whole and has its checksum. Runspend reads nothing outside the inventory's folder."""
    tamper, why = TAMPERED[what]
    (inventory.folder.parent / "secret").write_text("x")
    inventory.deliver([entry("r1/a", 5)], tamper=tamper)
    found = measure(inventory, "r1")
    assert isinstance(found.error, SourceRefused)
    assert why in str(found.error)


@pytest.mark.parametrize(
    ("rows", "why"),
    [
        ([entry("r1/a", 5, Bucket="c")], "1 of its rows do not belong to bucket b"),
        ([entry("r1/a", 5), entry("r2/a", 1, Bucket="")], "1 of its rows"),
    ],
    ids=["other bucket", "no bucket"],
)
def test_rows_of_another_bucket_are_refused(inventory: Inventory, rows: list[dict[str, Any]], why: str) -> None:
    inventory.deliver(rows)
    assert why in str(measure(inventory, "r1").error)


def test_a_file_that_is_not_an_inventory_is_refused(inventory: Inventory) -> None:
    """The checksum is right, but the content is neither Parquet nor CSV."""

    def other(manifest: dict[str, Any]) -> None:
        data = b"PAR1 not really"
        inventory.files[0].write_bytes(data)
        manifest["files"][0] |= {"size": len(data), "MD5checksum": hashlib.md5(data, usedforsecurity=False).hexdigest()}

    inventory.deliver([entry("r1/a", 5)], tamper=other)
    found = measure(inventory, "r1")
    assert isinstance(found.error, SourceRefused)
    assert "cannot be read" in str(found.error)


def test_a_size_that_is_not_stated_is_unknown(inventory: Inventory) -> None:
    """Only its owner's bytes are unknown."""
    inventory.deliver([entry("r1/a", None), entry("r1/b", 4), entry("r2/a", 3)])
    found = measure(inventory, "r1", "r2")
    assert (found.objects, found.bytes, figures(found, "bytes")) == (3, None, {"r1": (None,), "r2": (3,)})


@pytest.mark.parametrize(
    ("store", "why"),
    [
        ({"root": "/data"}, "only s3:// stores can have an inventory"),
        ({"inventory": "https://169.254.169.254/inv"}, "it is neither an s3:// address nor a folder"),
        ({"inventory": "/nowhere/at/all"}, "the folder has no inventory"),
    ],
    ids=["folder", "elsewhere", "missing"],
)
def test_impossible_settings_of_an_inventory_are_refused(tmp_path: Path, store: dict[str, str], why: str) -> None:
    inventory = Inventory(tmp_path / "inventory")
    found = measure(inventory, "r1", **store)
    assert isinstance(found.error, SourceRefused)
    assert why in str(found.error)
