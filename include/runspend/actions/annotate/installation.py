"""Read and create the id of this installation. It distinguishes the values of two installations that annotate the same MLflow.

The id is stored in `<home>/installation`, and in the tag `runspend.costs` of everything that this installation annotates.
"""

from __future__ import annotations

import os
import re
import secrets
from pathlib import Path

from runspend.core.own_files import fsync_path, read_bytes, refused, write_scratch


def read_installation_id(home: Path) -> str:
    """Return the id of this installation. Creates it on first use. Raises RecordRefused if the file does not hold an id."""
    path = home / "installation"
    if read_bytes(path) is None:
        home.mkdir(parents=True, exist_ok=True)
        scratch = write_scratch(path, f"{secrets.token_hex(8)}\n".encode())
        try:
            os.link(scratch, path)  # raises if the file exists
        except FileExistsError:
            pass  # another process created it first
        finally:
            scratch.unlink()
        fsync_path(home)
    return find_installation_id(home) or read_installation_id(home)


def find_installation_id(home: Path) -> str | None:
    """Return the id of this installation, or None before the first use. Raises RecordRefused if the file does not hold an id."""
    path = home / "installation"
    content = read_bytes(path)
    if content is None:
        return None
    found = content.decode("utf-8", "replace").strip()
    if not is_installation_id(found):
        raise refused(
            path,
            "it is not an id of 16 hexadecimal digits",
            do="Replace its content with the id from the tag `runspend.costs` of an annotated run. If there is none, delete the file.",
        )
    return found


def is_installation_id(text: object) -> bool:
    """Return whether a value is an installation id: 16 lowercase hexadecimal digits."""
    return isinstance(text, str) and re.fullmatch("[0-9a-f]{16}", text) is not None
