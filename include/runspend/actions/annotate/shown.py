"""Cache the costs that the last annotation wrote to MLflow. With the cache, a pipeline run requests only runs whose cost changed.

There is one file per tracking server in `<home>/annotated`. Without the file, every run is compared with MLflow. If an annotation began to
write and did not finish, MLflow may differ from the file. A second file with the suffix `.doubt`, the mark, records this.
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
    """Return the costs of runs that MLflow shows, as RUN_COSTS. None if the file is missing or damaged: then MLflow must be read.

    `place` is the name and the address of the tracking server.
    """
    content = read_bytes(_path(home, place), most_bytes=MOST_BYTES)
    if content is None or hashlib.sha256(content[DIGEST:]).digest() != content[:DIGEST]:
        return None
    try:
        found = pq.read_table(pa.BufferReader(content[DIGEST:])).select(RUN_COSTS.names).cast(RUN_COSTS)
    except (KeyError, pa.ArrowException):  # a file that Runspend did not write can have a correct digest too
        return None
    return None if any(found[name].null_count for name in ("workspace", "experiment_id", "run_id", "currency")) else found


def write_shown(home: Path, place: str, runs: pa.Table, *, is_sure: bool = True) -> None:
    """Replace the file with a SHA-256 digest followed by Parquet. `is_sure` removes the mark, because MLflow shows exactly these costs."""
    path, sink = _path(home, place), pa.BufferOutputStream()
    pq.write_table(runs, sink)
    content = sink.getvalue().to_pybytes()
    own_folder(path.parent)
    write_whole(path, hashlib.sha256(content).digest() + content)
    if is_sure:
        _mark(path).unlink(missing_ok=True)


def doubt_shown(home: Path, place: str) -> None:
    """Write the mark that MLflow may differ from the file. The mark is on disk when this returns."""
    mark = _mark(_path(home, place))
    own_folder(mark.parent)
    write_whole(mark, b"")


def is_doubted(home: Path, place: str) -> bool:
    """Return whether the mark exists, so MLflow may differ from the file."""
    return _mark(_path(home, place)).exists()


def _mark(path: Path) -> Path:
    return path.with_suffix(".doubt")


def _path(home: Path, place: str) -> Path:
    return home / "annotated" / f"{hashlib.sha256(f'{VERSION} {read_installation_id(home)} {place}'.encode()).hexdigest()[:16]}.runs"
