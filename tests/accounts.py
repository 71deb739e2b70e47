"""Runs code as an account other than root, because file modes do not restrict root."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import runspend.core.machine_faults
import runspend.warehouse.parquet.step  # noqa: F401 (like the line above: Python itself may be root's alone, so nothing is imported later)

NOBODY = 65534


@contextmanager
def without_rights_of_root(folder: Path) -> Iterator[None]:
    """Run as an account that owns everything in a folder but is subject to file modes."""
    if os.geteuid() != 0:
        yield
        return
    for path in (folder, *folder.rglob("*")):
        os.chown(path, NOBODY, NOBODY)
    os.seteuid(NOBODY)
    try:
        yield
    finally:
        os.seteuid(0)
