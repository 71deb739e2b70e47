"""Shares the macros of `_google.sql` between Google's formats. They are in the engine before the SQL of a format is read."""

from __future__ import annotations

from importlib.resources import files
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from runspend.ingest.billing.staging import Staged


def add_macros(staged: Staged) -> None:
    """Add macros for the SQL of a format: lists of structs as strings, tags, and service categories."""
    staged.con.execute(files("runspend.ingest.billing.formats").joinpath("_google.sql").read_text(encoding="utf-8"))
