"""The marker of a folder that `runspend try` made: a digest of its `runspend.yaml`, as the trial wrote it.

The marker is empty while the trial is writing. Emptying and filling the folder belongs to `interfaces/trial.py`.
"""

from __future__ import annotations

import hashlib
from pathlib import Path

from runspend.config.settings import Settings
from runspend.core.own_files import write_whole

MARKER, FILE = ".trial", "runspend.yaml"


def mark(folder: Path) -> None:
    """Record that the trial has written its file, as it is now."""
    write_whole(folder / MARKER, _digest(folder).encode())


def was_changed(folder: Path) -> bool:
    """Whether a person changed the file of the trial since."""
    return (folder / FILE).is_file() and _marked(folder) not in ("", _digest(folder))


def is_trial(settings: Settings) -> bool:
    """Whether these settings are as `runspend try` wrote them: it proposed the pools, and the file did not change since."""
    path = settings.path
    return path is not None and path.name == FILE and (path.parent / MARKER).is_file() and _marked(path.parent) == _digest(path.parent)


def _marked(folder: Path) -> str:
    return (folder / MARKER).read_text(encoding="utf-8", errors="replace")


def _digest(folder: Path) -> str:
    return hashlib.sha256((folder / FILE).read_bytes()).hexdigest()
