"""The id of this installation of Runspend, so that two installations that annotate the same MLflow can distinguish their values.

It is in `<home>/installation`, and in the tag `runspend.costs` of everything that this installation annotates.
"""

from __future__ import annotations

import os
import re
import secrets
from pathlib import Path

from runspend.core.own_files import fsync_path, read_bytes, refused, write_scratch


def read_installation_id(home: Path) -> str:
    """Return the id; create it on first use. Raises RecordRefused if the file has something else."""
    path = home / "installation"
    if read_bytes(path) is None:
        home.mkdir(parents=True, exist_ok=True)
        scratch = write_scratch(path, f"{secrets.token_hex(8)}\n".encode())
        try:
            os.link(scratch, path)  # creates it only if it is absent
        except FileExistsError:
            pass  # another process was quicker
        finally:
            scratch.unlink()
        fsync_path(home)
    return find_installation_id(home) or read_installation_id(home)


def find_installation_id(home: Path) -> str | None:
    """Return the id; None before the first use. Raises RecordRefused if the file has something else."""
    path = home / "installation"
    content = read_bytes(path)
    if content is None:
        return None
    found = content.decode("utf-8", "replace").strip()
    if not is_installation_id(found):
        raise refused(
            path,
            "it is not an id of 16 hexadecimal digits",
            do="Write into it the id that the tag `runspend.costs` of a run names. If nothing was ever annotated, delete the file.",
        )
    return found


def is_installation_id(text: object) -> bool:
    """Return whether this is an id as Runspend makes it."""
    return isinstance(text, str) and re.fullmatch("[0-9a-f]{16}", text) is not None
