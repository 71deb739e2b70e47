"""Test data that take long to create and are only read or copied.

The first worker that needs them creates them for all workers of a test run.
"""

from __future__ import annotations

import fcntl
import os
import shutil
from collections.abc import Callable
from pathlib import Path

FOLDER = "TESTS_KEPT"  # environment variable set by `conftest.py`: a folder that is deleted when the test run ends


def made_once(name: str, make: Callable[[Path], object]) -> Path:
    """Return the folder of this name after `make` has filled it. `make` gets the folder's future path, which does not exist yet."""
    kept = Path(os.environ[FOLDER])
    with (kept / f"{name}.lock").open("a") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # other workers wait for it
        done = kept / f"{name}.done"
        if not done.exists():
            shutil.rmtree(kept / name, ignore_errors=True)  # left by a failed attempt
            make(kept / name)
            done.touch()
    return kept / name


def copy_made_once(name: str, make: Callable[[Path], object], to: Path) -> None:
    """Copy the folder of this name to `to`. Outside a test run, `make` fills `to` itself."""
    if FOLDER in os.environ:
        shutil.copytree(made_once(name, make), to, dirs_exist_ok=True)
    else:
        make(to)
