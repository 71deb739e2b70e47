"""What the modules of Google's formats share: the macros of `_google.sql`, in the engine before their SQL is read."""

from __future__ import annotations

from importlib.resources import files
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from runspend.ingest.billing.staging import Staged


def add_macros(staged: Staged) -> None:
    """Lists of structs as texts, tags and service categories, for the SQL of a format."""
    staged.con.execute(files("runspend.ingest.billing.formats").joinpath("_google.sql").read_text(encoding="utf-8"))
