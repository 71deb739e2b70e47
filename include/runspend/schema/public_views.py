"""Views for people: queries over public tables, with the same names and columns in every warehouse.

costs_for_dashboards has two queries. `views/cost_daily_rounded.sql` adds rounded costs to the rows of cost_daily, and needs all rows of a
billing period for it. `views/costs_for_dashboards.sql` reads each of these rows by itself, so a database can compute this at query time.

Columns and their meaning are here, as those of tables are in `tables.py`. A view shows only the rows of its tables that the reader may
see, so access to its columns is decided in the same place as access to its tables (`warehouse/team_views.py`).
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cache
from importlib.resources import files

from runspend.schema.tables import BUILD_ID, COST_DAILY, COSTS, DIMENSIONS, Column, Table


@dataclass(frozen=True)
class View(Table):
    """A query with a name. `over`: the tables that it reads."""

    over: tuple[str, ...] = ()

    @property
    def sql(self) -> str:
        """The query, in GoogleSQL, over the bare names of tables."""
        return f"with {ROUNDED} as (\n{self.rounding_sql})\n{self.labels_sql}"

    @property
    def rounding_sql(self) -> str:
        """The query for the rows of ROUNDED."""
        return _text(ROUNDED)

    @property
    def labels_sql(self) -> str:
        """The query over ROUNDED, row by row."""
        return _text(self.name)


ROUNDED = "cost_daily_rounded"  # the rows of cost_daily with rounded costs, in queries


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
        Column(f"{c.name}_float", "FLOAT64", f"{c.name}, for tools without exact decimals. Sums of any rows equal the ledger to the cent.")
        for c in COSTS
    ]
    found += [
        Column(
            f"{c.name}_rounded",
            "FLOAT64",
            f"{c.name} in whole cents. The sum of a billing period is the ledger's, rounded to the cent. Each row, and sums of a bill in the period or"
            " of a bill's day, differ from the ledger by at most 1 cent. For other sums, round the sum of the exact or float column.",
        )
        for c in COSTS
    ]
    return [*found, BUILD_ID]


COSTS_FOR_DASHBOARDS = View(
    "costs_for_dashboards",
    "one row per row of cost_daily: charge date and combination of the columns before the costs",
    "cost_daily for dashboards: no text is null, and each cost appears exactly, as a float, and in whole cents.",
    tuple(_columns()),
    is_public=True,
    over=(COST_DAILY.name,),
)

COST_DAILY_AT_POSTGRES = replace(
    COST_DAILY,
    columns=(*COST_DAILY.columns, *(c for c in COSTS_FOR_DASHBOARDS.columns if c.name.endswith("_rounded"))),
)

VIEWS: dict[str, View] = {view.name: view for view in (COSTS_FOR_DASHBOARDS,)}
