"""SQL conditions for the rows of a unit in a BigQuery table.

Views cannot have parameters. So the text of a view contains the names of units and the id of a build. This is safe: `checked_unit` allows
only letters, digits, dots, dashes and underscores in these names, and the step checks the id.
"""

from __future__ import annotations

from typing import Any, NamedTuple

from runspend.schema.tables import TABLES, Table
from runspend.warehouse.base import Unit
from runspend.warehouse.bigquery.tables import WRITER, quoted
from runspend.warehouse.parquet.engine import FILLED, month_of


class StagedTable(NamedTuple):
    """A staging table with rows of a unit, and the names of its columns."""

    table: str
    columns: tuple[str, ...]


def digest_identifies_rows(table: Table) -> bool:
    """Whether two units of this table with equal digests have equal rows, apart from the ids of loads and builds."""
    return not table.digest_columns and all(c.name in FILLED for c in table.columns if c.bookkeeping)


def is_left(table: Table, period: str, replaced: set[Unit], standing: set[Unit]) -> str:
    """Return a condition that excludes the rows of all replaced units of a month.

    If all published units of the month (`standing`) are replaced, the condition excludes the month, so that BigQuery skips its partition.
    """
    if {unit for unit in standing if unit.period == period} - replaced:
        return " and ".join(f"not ({is_of(table, unit)})" for unit in sorted(replaced))
    if table.period_column is None:
        return "false"
    first, after = month_of(period)
    return f"({table.period_column} < date '{first}' or {table.period_column} >= date '{after}')"


def is_of(table: Table, unit: Unit) -> str:
    """Return a condition for the rows of the unit, without parameters."""
    condition = f"{WRITER.name} = '{unit.writer}'"
    if table.period_column is None:
        return condition
    first, after = month_of(unit.period)
    return f"{condition} and {table.period_column} >= date '{first}' and {table.period_column} < date '{after}'"


def rows_of(unit: Unit) -> tuple[str, dict[str, Any]]:
    """Return a condition for the rows of the unit, and its parameters."""
    column, writer = TABLES[unit.table].period_column, f"{WRITER.name} = @writer"
    if column is None:
        return writer, {"writer": unit.writer}
    first, after = month_of(unit.period)
    return f"{writer} and {column} >= @first and {column} < @after", {"writer": unit.writer, "first": first, "after": after}


def columns_of(table: Table, part: StagedTable, build_id: str) -> str:
    """Return a query for the rows of a staging table, with the columns and types of `table`."""
    columns = [f"cast({c.name} as {c.type}) as {c.name}" if c.name in part.columns else f"'{build_id}' as {c.name}" for c in table.columns]
    return f"select {', '.join(columns)} from {quoted(part.table)}"


def renamed(column: str, old: str) -> str:
    """Return SQL for a column in which the value of the parameter @old_COLUMN is replaced by @new_COLUMN."""
    if old.endswith("/"):
        return f"if(starts_with({column}, @old_{column}), concat(@new_{column}, substr({column}, length(@old_{column}) + 1)), {column}) as {column}"
    return f"if({column} = @old_{column}, @new_{column}, {column}) as {column}"
