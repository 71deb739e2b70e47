"""Read the sources of the pipeline for programs: how fresh each one is, what was loaded, and how many rows could not be read."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from runspend.warehouse.base import Reader

if TYPE_CHECKING:
    import pyarrow as pa


def read_sources(reader: Reader) -> pa.Table:
    """Return one row per source. `newest_charge_date`, `last_loaded_at` and `quarantined_rows` are null for sources other than bills."""
    return reader.query(Path(__file__).with_suffix(".sql").read_text(encoding="utf-8"))
