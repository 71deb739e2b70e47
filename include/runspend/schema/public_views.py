"""The public views: queries over public tables, with the same names and columns in every warehouse.

costs_for_dashboards has two queries. `views/cost_daily_rounded.sql` adds rounded costs to the rows of cost_daily. It needs all rows of a
billing period to do so. `views/costs_for_dashboards.sql` handles each of these rows separately, so a database can compute it at query time.

This module defines the columns of the views and their meaning, as `tables.py` does for tables. A view contains only those rows of its tables
that the reader may see. So the rules for tables (`warehouse/team_views.py`) also decide what a reader sees in a view.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cache
from importlib.resources import files

from runspend.schema.tables import BUILD_ID, COST_DAILY, COSTS, DIMENSIONS, Column, Table


@dataclass(frozen=True)
class View(Table):
    """A query that can be read like a table."""

    over: tuple[str, ...] = ()  # the tables that the query reads

    @property
    def sql(self) -> str:
        """The query in GoogleSQL. It names its tables without a schema."""
        return f"with {ROUNDED} as (\n{self.rounding_sql})\n{self.labels_sql}"

    @property
    def rounding_sql(self) -> str:
        """The query for the rows of ROUNDED."""
        return _text(ROUNDED)

    @property
    def labels_sql(self) -> str:
        """The query over ROUNDED. It handles each row separately."""
        return _text(self.name)


ROUNDED = "cost_daily_rounded"  # the name of the subquery with the rows of cost_daily and their rounded costs


@cache
def _text(name: str) -> str:
    return files("runspend.schema").joinpath("views", f"{name}.sql").read_text(encoding="utf-8")


_PART = "the part of the bill, such as (idle) or (shared)"
INSTEAD_OF_NULL = {
    "service_provider_name": "(no provider)",
    "billing_account_id": "(no account)",
    "sub_account_id": "(no account)",
    "region_id": "(no region)",
    "service_name": "(no service)",
    "charge_category": "(no category)",
    "tracking_server": _PART,
    "workspace": _PART,
    "experiment_id": f"(no experiment) for runs, otherwise {_PART}",
    "experiment_name": f"the id, or (no experiment) for runs, otherwise {_PART}",
    **{c.name: f"(untagged) for runs and models, otherwise {_PART}" for c in DIMENSIONS},
    "user_name": f"(no user) for runs, otherwise {_PART}",
    "confidence": "(no rule)",
}
PART = Column("part", "STRING", "allocated_to in words: runs, models without a run, orphaned, idle, shared, unallocated or out of scope.")


def _without_null(column: Column) -> Column:
    if column.name not in INSTEAD_OF_NULL:
        return Column(column.name, column.type, column.meaning)
    return Column(
        column.name, column.type, f"{column.meaning.partition(';')[0].rstrip('.')}. Instead of null: {INSTEAD_OF_NULL[column.name]}."
    )


def _columns() -> list[Column]:
    found = [_without_null(c) for c in COST_DAILY.columns if c not in (*COSTS, BUILD_ID)]
    found.insert([c.name for c in found].index("allocated_to") + 1, PART)
    found += COSTS
    found += [
        Column(
            f"{c.name}_float", "FLOAT64", f"{c.name} for tools without exact decimals. The sum of any rows equals the ledger to the cent."
        )
        for c in COSTS
    ]
    found += [
        Column(
            f"{c.name}_rounded",
            "FLOAT64",
            f"{c.name} in whole cents. The sum over a billing period equals that of the ledger, rounded to the cent. A row, the sum of a bill in the period,"
            " and the sum of a day of a bill each differ from the ledger by at most 1 cent. For other sums, round the sum of the exact or float column.",
        )
        for c in COSTS
    ]
    return [*found, BUILD_ID]


COSTS_FOR_DASHBOARDS = View(
    "costs_for_dashboards",
    "one row per row of cost_daily: charge date and combination of the columns before the costs",
    "cost_daily for dashboards: no string is null, and each cost is available as an exact value, as a float, and in whole cents.",
    tuple(_columns()),
    is_public=True,
    over=(COST_DAILY.name,),
)

COST_DAILY_AT_POSTGRES = replace(
    COST_DAILY,
    columns=(*COST_DAILY.columns, *(c for c in COSTS_FOR_DASHBOARDS.columns if c.name.endswith("_rounded"))),
)

VIEWS: dict[str, View] = {view.name: view for view in (COSTS_FOR_DASHBOARDS,)}
