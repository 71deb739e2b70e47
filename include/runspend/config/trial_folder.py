"""Reads and writes the marker file of a folder that `runspend try` made: a digest of `runspend.yaml` as the trial wrote it.

The marker is empty while the trial is writing. `interfaces/trial.py` empties and fills the folder.
"""

from __future__ import annotations

import hashlib
from pathlib import Path

from runspend.config.settings import Settings
from runspend.core.own_files import write_whole

MARKER, FILE = ".trial", "runspend.yaml"


def mark(folder: Path) -> None:
    """Record the present `runspend.yaml` as the file that the trial wrote."""
    write_whole(folder / MARKER, _digest(folder).encode())


def was_changed(folder: Path) -> bool:
    """Return whether `runspend.yaml` was changed after the trial wrote it."""
    return (folder / FILE).is_file() and _marked(folder) not in ("", _digest(folder))


def is_trial(settings: Settings) -> bool:
    """Return whether the file of these settings is unchanged since `runspend try` wrote it. Its pools are then proposals of the trial."""
    path = settings.path
    return path is not None and path.name == FILE and (path.parent / MARKER).is_file() and _marked(path.parent) == _digest(path.parent)


def _marked(folder: Path) -> str:
    return (folder / MARKER).read_text(encoding="utf-8", errors="replace")


def _digest(folder: Path) -> str:
    return hashlib.sha256((folder / FILE).read_bytes()).hexdigest()
