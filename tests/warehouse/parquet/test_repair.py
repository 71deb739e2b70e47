"""A warehouse folder's own books are mended under its lock, from what they say then."""

from __future__ import annotations

import fcntl
import json
import threading
import time
from pathlib import Path

from runspend.schema.tables import SCHEMA_VERSION, TABLES
from runspend.warehouse.parquet.journal import write_json
from runspend.warehouse.parquet.repair import mend_folder
from runspend.warehouse.parquet.verification import seal
from runspend.warehouse.parquet.warehouse import open_folder


def wait_for_a_waiter(turn: Path) -> None:
    """Return when someone waits for the warehouse's lock: they have its turnstile."""
    with turn.open("rb") as file:
        for _ in range(1000):
            try:
                fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
            except BlockingIOError:
                return
            fcntl.flock(file, fcntl.LOCK_UN)
            time.sleep(0.01)
    raise AssertionError("nobody waits for the lock")


def test_a_schema_that_is_upgraded_while_mending_waits_stays_upgraded(tmp_path: Path) -> None:
    """The older schema that was read before the wait would hide the new columns: figures without an error."""
    schema = tmp_path / "_runspend" / "schema.json"
    (tmp_path / "_runspend" / "units").mkdir(parents=True)
    columns = {table.name: [column.name for column in table.columns] for table in TABLES.values()}
    schema.write_text(json.dumps({"version": SCHEMA_VERSION - 1, "tables": {name: names[:-1] for name, names in columns.items()}}))
    found: list[object] = []
    waiter = threading.Thread(target=lambda: found.append(mend_folder(tmp_path)))
    with open_folder(tmp_path).exclusive():
        waiter.start()
        wait_for_a_waiter(tmp_path / "_runspend" / "turn")
        write_json(schema, seal({"version": SCHEMA_VERSION, "tables": columns}))
    waiter.join(timeout=60)
    assert found == [{}]
    assert json.loads(schema.read_text())["tables"] == columns
