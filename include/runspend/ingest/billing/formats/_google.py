"""Adds the macros of `_google.sql`, which Google's formats share, to the engine. The SQL of a format needs them."""

from __future__ import annotations

from importlib.resources import files
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from runspend.ingest.billing.staging import Staged


def add_macros(staged: Staged) -> None:
    """Create the macros of `_google.sql`: for lists of structs as strings, tags, machines and service categories."""
    staged.con.execute(files("runspend.ingest.billing.formats").joinpath("_google.sql").read_text(encoding="utf-8"))
