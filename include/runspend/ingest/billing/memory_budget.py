"""Divides the memory that loading a bill may take: `memory` in runspend.yaml.

Belongs here: how that number is divided. The interpreter, the libraries and the memory they keep take `FIXED`, even if the rest is small.
Rows stay in memory up to `kept_bytes`. Further rows are in mapped files, whose pages are released between the steps.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

MIB = 1 << 20
FIXED = 500 * MIB
MOST = 4 << 30  # upper limit if the settings have none
CGROUP = Path("/sys/fs/cgroup/memory.max")


@dataclass(frozen=True)
class Room:
    """How a process divides its memory. Larger batches save work only up to a point, so no part is larger than is useful."""

    engine_bytes: int  # DuckDB's limit, beyond which it spills
    kept_bytes: int  # of staged rows
    asked_rows: int  # distinct values, or rows, in one SQL query
    share_rows: int  # rows as strings at once, while two more batches are read and normalized
    part_bytes: int  # CSV parsed at once, for a format that SQL maps
    quick_part_bytes: int  # the same for FOCUS, whose strings are parsed directly into their types
    is_tight: bool  # so little memory that freed memory kept by libraries matters from the start


def machine_memory() -> int:
    """Return half of the memory of the machine, or of its container: 4 GiB at most."""
    there = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    if CGROUP.exists() and (limit := CGROUP.read_text(encoding="ascii").strip()).isdigit():
        there = min(there, int(limit))
    return min(there // 2, MOST)


def room_of(memory: int | None) -> Room:
    """Return the parts of this many bytes; None means as much as the machine allows."""
    memory = machine_memory() if memory is None else memory
    return Room(
        engine_bytes=max(memory * 3 // 4, 256 * MIB),
        kept_bytes=max(memory - FIXED, memory // 4) // 4,
        asked_rows=max(memory // 4096, 100_000),
        share_rows=min(max((memory - FIXED // 2) // 15_000, 20_000), 250_000),
        part_bytes=min(max(memory // 32, 8 * MIB), 128 * MIB),
        quick_part_bytes=min(memory * 5 // 16, 1280 * MIB),
        is_tight=memory < 3 * FIXED,
    )
