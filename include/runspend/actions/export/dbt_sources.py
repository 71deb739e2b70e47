"""Write the published tables as dbt sources. Columns, types, descriptions and tests come from the table definitions.

The tests check that key columns are never null, and that keys are unique. They check that columns with documented values have only these
values, and that text columns of `costs_for_dashboards` are never null. The file in deploy/dbt is the output of `runspend export dbt`. A test
compares the two.

Source: dbt "Source properties", "Data tests", "Cross-database macros".
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from runspend.actions.publish.content import BUILDS
from runspend.schema.public_views import INSTEAD_OF_NULL, View
from runspend.schema.published import PUBLISHED_TABLES
from runspend.schema.tables import Column, Table

HEAD = """\
# The tables that `runspend publish` writes, as sources of dbt. Written by `runspend export dbt`; needs dbt 1.11 or newer.
#
# Set where they are in dbt_project.yml, under `vars`: runspend_database and runspend_schema. Types are GoogleSQL's, as in Runspend's
# documentation.
"""
FIRST = HEAD[:60]
WIDTH = 140


def is_dbt_sources(file: Path) -> bool:
    """Return whether a file starts like the files that this module writes."""
    with file.open("rb") as read:
        return read.read(len(FIRST)) == FIRST.encode()


def dbt_sources() -> str:
    """Return the content of the YAML file."""
    source = {
        "name": "runspend",
        "description": "What every MLflow run costs. Sums of costs over cost_allocations and cost_daily equal the bills exactly.",
        "database": "{{ var('runspend_database', target.database) }}",
        "schema": "{{ var('runspend_schema', 'runspend') }}",
        "tables": [*(_table(table) for table in PUBLISHED_TABLES), _builds()],
    }
    text = yaml.safe_dump({"version": 2, "sources": [source]}, sort_keys=False, allow_unicode=True, width=WIDTH, default_flow_style=False)
    return f"{HEAD}\n{text}"


def _table(table: Table) -> dict[str, Any]:
    found = _described(table)
    # The key of cost_daily is not tested: it is all columns before the costs.
    if len(table.key) > 1 and not isinstance(table, View) and table.name != "cost_daily":
        found["data_tests"] = [{"unique": {"name": f"{table.name}_key_is_unique", "arguments": {"column_name": _joined(table)}}}]
    found["columns"] = [_column(table, column) for column in table.columns]
    return found


def _joined(table: Table) -> str:
    """Return an expression for the key as one string. DuckDB, PostgreSQL and BigQuery accept dates in `concat` too."""
    names = ", '/', ".join(table.key)
    return f"concat({names})"


def _builds() -> dict[str, Any]:
    """Return the table that records when each build was published, which `dbt source freshness` reads.

    A BigQuery warehouse does not have this table.
    """
    found = _described(BUILDS)
    found["config"] = {
        "loaded_at_field": "published_at",
        "freshness": {"warn_after": {"count": 36, "period": "hour"}, "error_after": {"count": 4, "period": "day"}},
    }
    found["columns"] = [_described_column(column) for column in BUILDS.columns]
    return found


def _described(table: Table) -> dict[str, Any]:
    return {"name": table.name, "description": table.description}


def _described_column(column: Column) -> dict[str, Any]:
    return {"name": column.name, "data_type": column.type, "description": column.meaning}


def _column(table: Table, column: Column) -> dict[str, Any]:
    tests: list[str | Mapping[str, Any]] = []
    if column.is_key or (isinstance(table, View) and column.name in INSTEAD_OF_NULL):
        tests.append("not_null")
    if column.words:
        tests.append({"accepted_values": {"arguments": {"values": list(column.words)}}})
    return {**_described_column(column), **({"data_tests": tests} if tests else {})}
