"""Divides the memory that loading a bill may use: the setting `memory` in runspend.yaml.

Belongs here: how that number is divided. The interpreter, the libraries and the memory that they keep always take about `FIXED` bytes.
Rows stay in memory up to `kept_bytes`. If there are more, they are in mapped files, whose pages are released between the steps of a load.
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
    """The limits of one process. Larger batches save work only up to a point, so their sizes have a maximum."""

    engine_bytes: int  # memory limit of DuckDB; it spills to disk above it
    kept_bytes: int  # staged rows in memory
    asked_rows: int  # distinct values or rows in one SQL query
    share_rows: int  # rows in one batch of strings; two more batches are in progress at the same time
    part_bytes: int  # bytes of CSV that are parsed at once, for a format that is mapped by SQL
    quick_part_bytes: int  # the same for FOCUS, whose strings are parsed directly into their types
    is_tight: bool  # whether freed memory that libraries keep must be released from the start


def machine_memory() -> int:
    """Return half of the memory of the machine or its container, in bytes, but at most 4 GiB."""
    there = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    if CGROUP.exists() and (limit := CGROUP.read_text(encoding="ascii").strip()).isdigit():
        there = min(there, int(limit))
    return min(there // 2, MOST)


def room_of(memory: int | None) -> Room:
    """Return the limits for this many bytes. None means as much as the machine allows."""
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
