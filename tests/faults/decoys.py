"""What an attack must not change: other users' files, and every file of a folder as it was."""

from __future__ import annotations

import os
import stat
from pathlib import Path

__all__ = ["make_decoys", "seen"]


def make_decoys(folder: Path) -> Path:
    """Create a folder of files that must not be touched."""
    (folder / "below").mkdir(parents=True)
    (folder / "victim.txt").write_text("someone else's")
    (folder / "below" / "victim.parquet").write_text("someone else's, too")
    (folder / "000000.parquet").write_text("named like a part of a listing")
    return folder


def seen(folder: Path) -> dict[str, object]:
    """Return every name below a folder with its content: bytes of files, and targets of links."""
    found: dict[str, object] = {}
    for path in sorted(folder.rglob("*")):
        kind = path.lstat().st_mode
        found[str(path.relative_to(folder))] = (
            os.readlink(path) if stat.S_ISLNK(kind) else path.read_bytes() if stat.S_ISREG(kind) else stat.S_IFMT(kind)
        )
    return found
