"""A warehouse that a pipeline run filled, and ways to damage a copy of it. Only copies are damaged."""

from __future__ import annotations

import os
import random
import shutil
from dataclasses import dataclass
from pathlib import Path

from runspend.schema.tables import TABLES
from runspend.warehouse.base import Unit
from runspend.warehouse.parquet.warehouse import ParquetWarehouse

NOW = "2026-11-04T06:00"
# Files whose damage is not a fault: notes that only save hashing, and locks.
NOTES = {"verified.json", "verified.lock", "lock"}


@dataclass(frozen=True)
class Flip:
    """One flipped bit. `is_silent` says whether the file keeps its time and size, as after a fault of the disk; an editor changes them."""

    path: Path
    byte: int
    bit: int
    is_silent: bool

    def make(self) -> None:
        before = self.path.stat()
        data = bytearray(self.path.read_bytes())
        data[self.byte] ^= 1 << self.bit
        with self.path.open("r+b") as file:  # in place: the inode stays the same
            file.seek(self.byte)
            file.write(data[self.byte : self.byte + 1])
        if self.is_silent:
            os.utime(self.path, ns=(before.st_atime_ns, before.st_mtime_ns))


def files_of(root: Path) -> list[Path]:
    """Return every file of a warehouse with content: units, their state files, schema and index."""
    return sorted(path for path in root.rglob("*") if path.is_file() and path.name not in NOTES and path.stat().st_size)


def choose_flips(root: Path, count: int, seed: int, *, is_silent: bool | None = None) -> list[Flip]:
    """Choose random flips in as many different files as possible, first one file per table: Parquet files, state files, schema and index."""
    moments = random.Random(seed)
    files = files_of(root)
    moments.shuffle(files)
    by_table: dict[str, list[Path]] = {}
    for path in files:
        by_table.setdefault(_kind(root, path), []).append(path)
    chosen: list[Path] = []
    while len(chosen) < min(count, len(files)):
        chosen += [group.pop() for group in by_table.values() if group][: count - len(chosen)]
    return [
        Flip(path, moments.randrange(path.stat().st_size), moments.randrange(8), moments.random() < 0.5 if is_silent is None else is_silent)
        for path in chosen
    ]


def _kind(root: Path, path: Path) -> str:
    """Return the table of a Parquet file. State files and books are separate kinds."""
    parts = path.relative_to(root).parts
    if parts[0] == "_runspend":
        return "/".join(parts[:2])
    return parts[1] if parts[0] == "_internal" else parts[0]


def unit_of(root: Path, path: Path) -> Unit:
    """Return the unit that is reported if this file is damaged."""
    parts = path.relative_to(root).parts
    if parts[:2] == ("_runspend", "units"):
        return Unit(parts[2], parts[3], path.stem)
    if parts[0] == "_runspend":
        return Unit("_runspend", "all", path.name)
    table, period = parts[-3], parts[-2].removeprefix("period=")
    assert table in TABLES
    return Unit(table, period, path.stem)


def digests(root: Path) -> dict[Unit, str]:
    """Return the content digest of every unit."""
    return {unit: state.digest for unit, state in ParquetWarehouse(root).states().items()}


def copy_of(home: Path, target: Path) -> Path:
    """Copy a world, and return its configuration. Files keep their times, as in a backup."""
    shutil.copytree(home, target, symlinks=True)
    return target / "runspend.yaml"
