"""Former names of columns and former values, in warehouses of an older schema version.

Readers translate files that are not rewritten yet. The next publish rewrites the files. In BigQuery, the tables are changed in place.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping

from runspend.schema.tables import Column, Table

RENAMED_COLUMNS: Mapping[str, Mapping[str, str]] = {  # table -> {current name: name before schema version 5}
    "budget_status": {"exceeded_on": "passes_on", "muted": "quiet", "threshold_reached": "crossed"},
    "period_states": {"ignored_changes": "held_back"},
}
RENAMED_VALUES: Mapping[str, str] = {"unmatched": "unallocated"}  # value before schema version 5 -> current value
VALUE_COLUMNS: Mapping[str, tuple[str, ...]] = {  # table -> columns that may contain these values
    "cost_allocations": ("allocated_to", "target_id"),
    "cost_daily": ("allocated_to",),
    "unallocated_costs": ("allocated_to",),
}
VALUES_VERSION = 5  # the first schema version with the current values
FORMER = "former:"  # prefix of a column's name, which marks that the files contain former values of the column


def published_columns(version: int, columns: Mapping[str, list[str]]) -> dict[str, list[str]]:
    """Return the columns of published files, by table. The names of columns with former values get the prefix FORMER."""
    marked = {} if version >= VALUES_VERSION else VALUE_COLUMNS
    return {
        table: [FORMER + name if name in marked[table] else name for name in names] if table in marked else [*names]
        for table, names in columns.items()
    }


def has_former_values(column: Column, present: Collection[str]) -> bool:
    """Whether the files contain former values of a column. `present`: the files' columns as returned by `published_columns`."""
    return FORMER + column.name in present


def former_name(table: Table, column: Column, present: Collection[str]) -> str | None:
    """Return the former name of a column if the files have the column under it, otherwise None."""
    name = RENAMED_COLUMNS.get(table.name, {}).get(column.name)
    return name if name is not None and name in present else None
