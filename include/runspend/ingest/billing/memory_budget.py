"""How much memory loading a bill may take, and what follows from that one number: `memory` in runspend.yaml.

Put here how the number is shared out. The interpreter, the libraries and what they hold on to take `FIXED` however small the rest is.
Rows are held in memory up to `kept_bytes`; beyond, they lie in files that are mapped, whose pages are given back between the steps.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

MIB = 1 << 20
FIXED = 500 * MIB
MOST = 4 << 30  # that is taken without being told
CGROUP = Path("/sys/fs/cgroup/memory.max")


@dataclass(frozen=True)
class Room:
    """The parts of it. More rows at a time is less work a row, up to a point: none is larger than what pays off."""

    engine_bytes: int  # DuckDB's limit, beyond which it spills
    kept_bytes: int  # of staged rows
    asked_rows: int  # of distinct values, or of rows, that SQL is asked about at once
    share_rows: int  # that are texts at once, while two more shares of them are read and settled
    part_bytes: int  # of CSV parsed at once for a format that SQL maps
    quick_part_bytes: int  # and for FOCUS, whose texts are read as what they are
    is_tight: bool  # so little that what libraries keep of memory that was freed matters from the start


def machine_memory() -> int:
    """Half of what the machine has, or of what its container may use: 4 GiB at most."""
    there = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    if CGROUP.exists() and (limit := CGROUP.read_text(encoding="ascii").strip()).isdigit():
        there = min(there, int(limit))
    return min(there // 2, MOST)


def room_of(memory: int | None) -> Room:
    """The parts of so many bytes; None is as many as the machine allows."""
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
