"""Shares between Google's formats the names of files, and the macros of `_google.sql`, which are in the engine before the SQL of a format
is read.
"""

from __future__ import annotations

from importlib.resources import files
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from runspend.ingest.billing.staging import Staged


def names(name: str) -> bool:
    """Return whether a file is called .json, as JSON lines often are."""
    return name.lower().endswith((".json", ".json.gz"))


def add_macros(staged: Staged) -> None:
    """Add macros for the SQL of a format: lists of structs as strings, tags, and service categories."""
    staged.con.execute(files("runspend.ingest.billing.formats").joinpath("_google.sql").read_text(encoding="utf-8"))
