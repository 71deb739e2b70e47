"""Former names of columns and of their values, in warehouses of an older schema version.

Readers translate files that are not rewritten yet. The next publish rewrites them; tables in BigQuery are altered in place.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping

from runspend.schema.tables import Column, Table

RENAMED_COLUMNS: Mapping[str, Mapping[str, str]] = {  # table -> {name now: name before schema version 5}
    "budget_status": {"exceeded_on": "passes_on", "muted": "quiet", "threshold_reached": "crossed"},
    "period_states": {"ignored_changes": "held_back"},
}
RENAMED_VALUES: Mapping[str, str] = {"unmatched": "unallocated"}  # value before schema version 5 -> value now
VALUE_COLUMNS: Mapping[str, tuple[str, ...]] = {  # table -> columns that may hold the values
    "cost_allocations": ("allocated_to", "target_id"),
    "cost_daily": ("allocated_to",),
    "unallocated_costs": ("allocated_to",),
}
VALUES_VERSION = 5  # the first schema version with today's values
FORMER = "former:"  # before the name of a column: the files hold its former values


def published_columns(version: int, columns: Mapping[str, list[str]]) -> dict[str, list[str]]:
    """Return the columns of published files, by table. Columns with former values are marked, so that they differ from today's."""
    marked = {} if version >= VALUES_VERSION else VALUE_COLUMNS
    return {
        table: [FORMER + name if name in marked[table] else name for name in names] if table in marked else [*names]
        for table, names in columns.items()
    }


def has_former_values(column: Column, present: Collection[str]) -> bool:
    """Whether the files hold former values of a column. `present`: their columns, as `published_columns` returns them."""
    return FORMER + column.name in present


def former_name(table: Table, column: Column, present: Collection[str]) -> str | None:
    """Return the files' name for a column if they lack today's name; None if they lack the column."""
    name = RENAMED_COLUMNS.get(table.name, {}).get(column.name)
    return name if name is not None and name in present else None
