"""What takes long to make and is only read or copied: made once for all workers of a run, by the first that asks."""

from __future__ import annotations

import fcntl
import os
import shutil
from collections.abc import Callable
from pathlib import Path

FOLDER = "TESTS_KEPT"  # environment variable, set by `conftest.py`: a folder that goes when the run ends


def made_once(name: str, make: Callable[[Path], object]) -> Path:
    """The folder of this name, once `make` has filled it. It is given where the folder will be, which does not exist."""
    kept = Path(os.environ[FOLDER])
    with (kept / f"{name}.lock").open("a") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # others wait for it
        done = kept / f"{name}.done"
        if not done.exists():
            shutil.rmtree(kept / name, ignore_errors=True)  # of one that failed
            make(kept / name)
            done.touch()
    return kept / name


def copy_made_once(name: str, make: Callable[[Path], object], to: Path) -> None:
    """Copy the folder of this name to `to`. Outside of a test run, `make` fills `to` itself."""
    if FOLDER in os.environ:
        shutil.copytree(made_once(name, make), to, dirs_exist_ok=True)
    else:
        make(to)
