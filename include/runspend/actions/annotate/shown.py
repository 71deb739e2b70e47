"""The values that an earlier annotation wrote to MLflow, so that a pipeline run reads and writes only runs whose cost changed.

A file per tracking server under `<home>/annotated`. It only saves requests: without it every run is compared with MLflow. A mark beside it
means that MLflow may differ from the file: an annotation began to write and did not finish.
"""

from __future__ import annotations

import hashlib
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from runspend.actions.annotate.installation import read_installation_id
from runspend.actions.annotate.wanted import RUN_COSTS
from runspend.core.own_files import own_folder, read_bytes, write_whole

MOST_BYTES = 1 << 30
DIGEST = 32
VERSION = 1  # of the columns


def read_shown(home: Path, place: str) -> pa.Table | None:
    """Return the runs' costs as MLflow shows them, as RUN_COSTS. None if the file is missing or damaged, so that MLflow must be asked.

    `place`: the name and the address of the server.
    """
    content = read_bytes(_path(home, place), most_bytes=MOST_BYTES)
    if content is None or hashlib.sha256(content[DIGEST:]).digest() != content[:DIGEST]:
        return None
    try:
        found = pq.read_table(pa.BufferReader(content[DIGEST:])).select(RUN_COSTS.names).cast(RUN_COSTS)
    except (KeyError, pa.ArrowException):  # Runspend did not write it: anyone can make the digest
        return None
    return None if any(found[name].null_count for name in ("workspace", "experiment_id", "run_id", "currency")) else found


def write_shown(home: Path, place: str, runs: pa.Table, *, is_sure: bool = True) -> None:
    """Replace the file: a SHA-256 digest, then Parquet. `is_sure`: MLflow shows exactly this, so the mark is removed."""
    path, sink = _path(home, place), pa.BufferOutputStream()
    pq.write_table(runs, sink)
    content = sink.getvalue().to_pybytes()
    own_folder(path.parent)
    write_whole(path, hashlib.sha256(content).digest() + content)
    if is_sure:
        _mark(path).unlink(missing_ok=True)


def doubt_shown(home: Path, place: str) -> None:
    """Set the mark. It is on disk when this returns."""
    mark = _mark(_path(home, place))
    own_folder(mark.parent)
    write_whole(mark, b"")


def is_doubted(home: Path, place: str) -> bool:
    """Return whether MLflow may differ from the file."""
    return _mark(_path(home, place)).exists()


def _mark(path: Path) -> Path:
    return path.with_suffix(".doubt")


def _path(home: Path, place: str) -> Path:
    return home / "annotated" / f"{hashlib.sha256(f'{VERSION} {read_installation_id(home)} {place}'.encode()).hexdigest()[:16]}.runs"
