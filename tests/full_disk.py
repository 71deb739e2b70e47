"""A full disk: a small file system in memory."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest


@contextmanager
def full_disk(place: Path, left: int = 40_000) -> Iterator[Path]:
    """Mount a file system with this many bytes left. Skip the test if mounting is refused."""
    place.mkdir()
    made = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "runspend-test", place], capture_output=True, text=True, check=False)
    if made.returncode:
        pytest.skip(f"cannot test full disks: mounting a tmpfs is refused here ({made.stderr.strip()})")
    try:
        (place / "filler").write_bytes(bytes((1 << 20) - left))
        yield place
    finally:
        subprocess.run(["umount", "--lazy", place], check=True)
