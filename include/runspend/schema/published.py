"""The tables that `runspend publish` copies to other tools: the public tables, the views over them, and three internal tables for dashboards.

The copy of `alerts` does not have the columns with mail addresses and message ids.
"""

from __future__ import annotations

from dataclasses import replace

from runspend.schema.public_views import VIEWS
from runspend.schema.tables import TABLES, Table, public_tables

_MAIL = ("message_id", "recipients")
_ALERTS = replace(
    TABLES["alerts"],
    meaning="All budget alerts that were ever decided.",
    columns=tuple(c for c in TABLES["alerts"].columns if c.name not in _MAIL),
)

PUBLISHED_TABLES: tuple[Table, ...] = (
    *public_tables(),
    *VIEWS.values(),
    TABLES["unallocated_costs"],
    TABLES["budget_status"],
    _ALERTS,
)
