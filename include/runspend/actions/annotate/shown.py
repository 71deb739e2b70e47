"""What an earlier annotation left in MLflow, so that a night reads and writes only runs whose cost changed.

A file per tracking server under `<home>/annotated`. It only saves requests: without it every run is compared with MLflow.
"""

from __future__ import annotations

import hashlib
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from runspend.actions.annotate.wanted import RUN_COSTS
from runspend.core.own_files import own_folder, read_bytes, write_whole

__all__ = ["forget_shown", "read_shown", "write_shown"]

MOST_BYTES = 1 << 30
DIGEST = 32
VERSION = 1  # of the columns


def read_shown(home: Path, place: str) -> pa.Table | None:
    """Return the runs as they stand in MLflow, as RUN_COSTS. None if the file is missing or damaged: then MLflow has to be asked.

    `place`: the name and the address of the server.
    """
    content = read_bytes(_path(home, place), most_bytes=MOST_BYTES)
    if content is None or hashlib.sha256(content[DIGEST:]).digest() != content[:DIGEST]:
        return None
    return pq.read_table(pa.BufferReader(content[DIGEST:])).select(RUN_COSTS.names).cast(RUN_COSTS)


def write_shown(home: Path, place: str, runs: pa.Table) -> None:
    """Replace the file: a SHA-256 digest, then Parquet."""
    path, sink = _path(home, place), pa.BufferOutputStream()
    pq.write_table(runs, sink)
    content = sink.getvalue().to_pybytes()
    own_folder(path.parent)
    write_whole(path, hashlib.sha256(content).digest() + content)


def forget_shown(home: Path, place: str) -> None:
    """Delete the file: the next annotation compares every run with MLflow."""
    _path(home, place).unlink(missing_ok=True)


def _path(home: Path, place: str) -> Path:
    return home / "annotated" / f"{hashlib.sha256(f'{VERSION} {place}'.encode()).hexdigest()[:16]}.runs"
