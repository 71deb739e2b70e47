"""Runspend's own files, which it reads again: journal, states of units, records, archive manifests. Anyone with write access may have changed them."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from datetime import date, datetime, timezone
from pathlib import Path
from typing import Any

import pyarrow as pa

from runspend.actions.alert.notices import read_receipts
from runspend.actions.alert.outbox import recipient_states, send_outbox
from runspend.actions.archive.archive_records import ArchiveRecords
from runspend.actions.archive.items import Item
from runspend.actions.archive.lease import take_lease
from runspend.actions.archive.manifest import Entry, check_key, read_manifest, write_manifest
from runspend.config.settings import Settings
from runspend.warehouse.parquet.warehouse import ParquetWarehouse
from runspend.warehouse.records import Records
from tests.focus_files import NOW
from tests.fuzz.guard import Finding
from tests.fuzz.mutations import as_json

Run = Callable[[bytes, Path], None]
PRECIOUS = "precious"
TABLE = "experiments"


def published(root: Path) -> ParquetWarehouse:
    """A warehouse with one table of one row."""
    warehouse = ParquetWarehouse(root)
    rows = pa.table({c.name: [_value(c.type)] for c in _columns(TABLE)})
    with warehouse.step("load", "build") as step:
        step.put(TABLE, "all", "lab", rows)
        step.publish()
    return warehouse


def _columns(table: str) -> Any:
    from runspend.schema.tables import TABLES

    return TABLES[table].columns


def _value(kind: str) -> Any:
    return {
        "STRING": "x",
        "INT64": 1,
        "FLOAT64": 1.0,
        "BOOL": True,
        "DATE": date(2026, 10, 1),
        "TIMESTAMP": datetime(2026, 10, 1, tzinfo=timezone.utc),
    }[kind]


def bookkeeping(name: str) -> Run:
    """A target: the input is this file below the warehouse's `_runspend`, then the warehouse is opened, read and written."""

    def run(data: bytes, work: Path) -> None:
        (work / PRECIOUS).write_text("decoy")  # beside the warehouse: nothing may move it
        root = work / "warehouse"
        published(root)
        (root / "_runspend" / name).parent.mkdir(parents=True, exist_ok=True)
        (root / "_runspend" / name).write_bytes(data)
        try:
            warehouse = ParquetWarehouse(root)
            warehouse.states()
            warehouse.find_damage()
            with warehouse.reader() as reader:
                reader.query(f"select count(*) as n from {TABLE}")
            published(root)
        finally:
            if not (work / PRECIOUS).exists() or (work / PRECIOUS).read_text() != "decoy":
                raise Finding("a file outside the warehouse was moved, changed or deleted")
            if strangers := {p.name for p in work.iterdir()} - {PRECIOUS, "warehouse", "tmp"}:
                raise Finding(f"{strangers} was written outside the warehouse")

    return run


KEYS = {
    "archive_lease": "lease",
    "notices": "archive.n1",
    "outbox": "k",
    "archives": "a1",
    "webhooks": "since",
    "alerts": "a",
    "digests": "d",
}


def record(kind: str) -> Run:
    """A target: the input is the value of one record of this kind; then everything that reads such records does."""

    def run(data: bytes, work: Path) -> None:
        value = as_json(data)
        try:
            json.dumps(value, ensure_ascii=False).encode()
        except UnicodeEncodeError:
            return  # half a character: text to json and to nothing else, so no record has one
        settings = Settings(home=work / "home")
        records = Records(work / "home")
        if not isinstance(value, dict) or not records.create(kind, KEYS[kind], value):
            return
        if kind == "archive_lease":
            take_lease(records)
        elif kind == "archives":
            ArchiveRecords(records).all()
        else:
            read_receipts(records, "n1")
            recipient_states(records)
            send_outbox(settings, records, NOW)

    return run


def raw_record(data: bytes, work: Path) -> None:
    """The bytes of a record's file."""
    records = Records(work / "home")
    records.create("notices", "a", {"x": 1})
    [path] = (work / "home" / "records" / "notices").glob("*.json")
    path.write_bytes(data)
    found = records.get("notices", "a")
    records.list("notices")
    if found is not None:
        records.replace("notices", "a", {"x": 2}, found[1])


def archive_manifest(data: bytes, work: Path) -> None:
    """An archive's manifest: what is believed can be written again, to the same lines, and stays in its folder."""
    found = read_manifest([data], "m")
    for entry in found.entries:
        if entry.key and (check_key(entry.key) or entry.key.startswith("/")):
            raise Finding(f"the key {entry.key!r} is believed")
        entry.at("p")
    lines = b"".join(write_manifest(found.archive_id, found.item, found.planned_at, found.entries, len(found.entries), found.bytes))
    if read_manifest([lines], "m") != found:
        raise Finding("it is not the same when it is written again")


def archive_manifest_signed(data: bytes, work: Path) -> None:
    """The same with a last line that counts and hashes the lines before it, as an attacker could write it."""
    lines = data.rstrip(b"\n").split(b"\n")
    entries = []
    for line in lines[1:]:
        try:
            entries.append(json.loads(line))
        except (ValueError, RecursionError):
            entries.append({})
    sizes = [e.get("size") for e in entries if isinstance(e, dict)]
    total = sum(size for size in sizes if type(size) is int)
    body = b"\n".join(lines) + b"\n"
    end = {"end": len(entries), "bytes": total, "sha256": hashlib.sha256(body).hexdigest()}
    try:
        head = json.loads(lines[0])
        head |= {"objects": len(entries), "bytes": total}
        body = b"\n".join([json.dumps(head).encode(), *lines[1:]]) + b"\n"
        end["sha256"] = hashlib.sha256(body).hexdigest()
    except (ValueError, TypeError, RecursionError):
        pass
    archive_manifest(body + json.dumps(end).encode() + b"\n", work)


# --- seeds ---------------------------------------------------------------------------------------------------------------

STAGED = {
    "moves": [["_runspend/stage/load-1/a.parquet", "runs/period=2026-10/lab.parquet"]],
    "removals": ["runs/period=2026-09/lab.parquet"],
    "build_id": "b",
}
ESCAPES = [
    {"moves": [["../precious", "runs/period=2026-10/lab.parquet"]], "removals": []},
    {"moves": [], "removals": ["../precious"]},
    {"moves": [["_runspend/schema.json", "../stolen"]], "removals": []},
    {"moves": [["_runspend/stage/x", "_runspend/stage/../../../precious"]], "removals": ["."]},
]
MAIL = {
    "message_id": "<archive.n1@example.com>", "kind": "archive-notice", "sender": "Runspend <runspend@example.com>", "recipients": ["ana@example.com"], "subject": "s", "date": "Tue, 24 Nov 2026 02:00:00 +0000",
    "text": "t", "html": "<p>t</p>", "list_id": "Runspend archive <archive.runspend.example.com>", "reply_to": None, "thread": None, "picture": None,
}  # fmt: skip
NOTICE = {"kind": "ARCHIVE NOTICE", "decided_at": "2026-11-24T02:00:00+00:00", "mail": MAIL}
SENT = {
    "message_id": MAIL["message_id"],
    "recipient": "ana@example.com",
    "kind": "x",
    "subject": "s",
    "state": "waiting",
    "reply": "",
    "at": "2026-11-24T02:00:00+00:00",
    "backend": "smtp",
    "attempts": 1,
}
LEASE = {"number": 3, "until": "2026-11-24T02:00:00+00:00", "host": "h", "process": 1, "machine": "m", "began": "5"}


def unit_state(work: Path) -> bytes:
    """The state of the one unit, as it was written."""
    published(work / "seed")
    return (work / "seed" / "_runspend" / "units" / TABLE / "all" / "lab.json").read_bytes()


def schema(work: Path) -> bytes:
    """The file of the schema's version."""
    published(work / "seed")
    return (work / "seed" / "_runspend" / "schema.json").read_bytes()


def manifest_seed() -> bytes:
    """An archive of two objects."""
    item = Item(
        "old",
        "d",
        "archive",
        None,
        "prod",
        "default",
        "run",
        "r1",
        "1",
        "r1",
        "s3://b/art/1/r1/artifacts",
        "s3://b/art/",
        "1/r1/artifacts",
        None,
        2,
        3,
    )
    entries = [
        Entry("model/weights", 3, "e1", None, "STANDARD", "2026-10-01T00:00:00+00:00", "copied", "a" * 64, f"data/{'a' * 64}", "c1"),
        Entry("empty/", 0, "e2", None, "STANDARD", "2026-10-01T00:00:00+00:00", "copied", "b" * 64, f"data/{'b' * 64}-1", "c2"),
    ]
    return b"".join(write_manifest("0" * 32, item, "2026-11-24T02:00:00+00:00", entries, 2, 3))
