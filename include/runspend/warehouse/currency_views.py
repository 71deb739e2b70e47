"""Views of the cost tables with their money in one currency, for reports, budgets and `runspend costs`.

On one connection, the views replace the tables of the same names. The stored tables are never converted. The arithmetic is exact: an
amount is an integer number of its last decimal, it is multiplied and divided as an integer, and it is rounded once.
`config/exchange_rates.py` decides which rates apply.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from runspend.config.exchange_rates import Stretch
from runspend.core.sql_quoting import sql_name, sql_text
from runspend.schema.tables import COST_KINDS, RUN_COSTS, TABLES, Table

if TYPE_CHECKING:
    import duckdb


# Tables in which each row is of one day.
DATED = ("cost_daily", "run_costs_daily", "cost_allocations", "run_estimates", "estimate_errors")
# Tables in which each row is a sum over days: (the table with the days, a filter on it, the key in both tables).
SUMMED = {
    "run_costs": ("run_costs_daily", "true", {c: c for c in ("tracking_server", "workspace", "run_id")}),
    "unallocated_costs": (
        "cost_allocations",
        "allocated_to in ('idle', 'unallocated')",
        {c: c for c in ("source", "billing_period", "allocated_to")}
        | {c: f"coalesce({c}, '')" for c in ("resource_id", "service_name", "sub_account_id")},
    ),
}
MACROS = (
    # Convert a decimal(38, 22) to an integer number of its last decimal, and back.
    "units(cost) as cast(replace(cast(cost as varchar), '.', '') as hugeint)",
    "from_units(units) as cast(cast(units // 100000000000 as decimal(27, 0)) * cast('0.00000000001' as decimal(11, 11)) as decimal(38, 22))"
    " + cast(units % 100000000000 as decimal(11, 0)) * cast('0.0000000000000000000001' as decimal(22, 22))",
    # units x multiplier / divisor, rounded half away from zero. No product needs more than 128 bits.
    "in_units(units, multiplier, divisor) as sign(units)"
    " * ((abs(units) // divisor) * multiplier + ((abs(units) % divisor) * multiplier + divisor // 2) // divisor)",
    "exchanged(cost, multiplier, divisor) as"
    " case when multiplier is null then cost else from_units(in_units(units(cost), multiplier, divisor)) end",
)


def exchange(connection: duckdb.DuckDBPyConnection, currency: str, rates: Sequence[Stretch]) -> None:
    """Create the temporary views on `connection`. Queries on this connection then read the views instead of the tables."""
    database = connection.execute("select current_database()").fetchall()[0][0]
    for macro in MACROS:
        connection.execute(f"create or replace temp macro {macro}")
    connection.execute(
        "create or replace temp table exchange_stretches (currency varchar, first_date date, end_date date, multiplier hugeint, divisor hugeint)"
    )
    for rate in rates:
        connection.execute(
            "insert into exchange_stretches values (?, ?, ?, ?::hugeint, ?::hugeint)",
            [rate.currency, rate.first, rate.end, str(rate.multiplier), str(rate.divisor)],
        )
    for name in DATED:
        connection.execute(f"create or replace temp view {sql_name(name)} as {_dated(TABLES[name], database, currency)}")
    for name, (rows, which, key) in SUMMED.items():
        connection.execute(f"create or replace temp view {sql_name(name)} as {_summed(TABLES[name], rows, which, key, database, currency)}")


def money(table: Table) -> list[str]:
    """Return the names of the money columns of a cost table."""
    return [c.name for c in table.columns if c.type == "BIGNUMERIC" and "cost" in c.name]


def _dated(table: Table, database: str, currency: str) -> str:
    amounts = ", ".join(f"exchanged(t.{c}, r.multiplier, r.divisor) as {c}" for c in money(table))
    return (
        f"select t.* replace ({amounts}, case when r.currency is null then t.billing_currency else {sql_text(currency)} end as billing_currency)"
        f" from {sql_name(database)}.main.{table.name} t left join temp.exchange_stretches r"
        f" on r.currency = t.billing_currency and t.charge_date >= r.first_date and t.charge_date < r.end_date"
    )


def _summed(table: Table, rows: str, which: str, key: dict[str, str], database: str, currency: str) -> str:
    """Return the query that sums rows of another currency again from their converted days.

    A row is not converted if one of its days has no rate.
    """
    known = money(TABLES[rows])
    amounts = {c: c for c in money(table) if c in known}
    if table is RUN_COSTS:
        amounts |= {f"{kind}_cost": f"case when cost_kind = '{kind}' then effective_cost end" for kind in COST_KINDS}
    by_day = ", ".join(f"sum(exchanged({expression}, r.multiplier, r.divisor)) as {c}" for c, expression in amounts.items())
    keys = ", ".join(f"{expression} as {name}" for name, expression in key.items())
    summed = (
        f"select {keys}, t.billing_currency as from_currency, bool_and(r.currency is not null) as is_whole, {by_day}"
        f" from {sql_name(database)}.main.{rows} t left join temp.exchange_stretches r"
        f" on r.currency = t.billing_currency and t.charge_date >= r.first_date and t.charge_date < r.end_date"
        f" where {which} and t.billing_currency <> {sql_text(currency)} group by all"
    )
    # Money of several runs or days that the daily rows do not have is set to null, not shown in the wrong currency.
    replaced = ", ".join(f"case when s.is_whole then {f's.{c}' if c in amounts else 'null'} else t.{c} end as {c}" for c in money(table))
    joined = " and ".join(f"s.{name} = t.{name}" for name in key)
    return (
        f"select t.* replace ({replaced}, case when s.is_whole then {sql_text(currency)} else t.billing_currency end as billing_currency)"
        f" from {sql_name(database)}.main.{table.name} t left join ({summed}) s on s.from_currency = t.billing_currency and {joined}"
    )
