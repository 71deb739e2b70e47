"""Query the cost tables in BigQuery with their money in one currency. Named subqueries (CTEs) with converted money replace the tables.

The arithmetic is that of `warehouse/currency_views.py`, in GoogleSQL. An amount is an integer number of its last decimal. It is multiplied
and divided as an integer, and rounded once, half away from zero. `config/exchange_rates.py` decides which rates apply. The rates are a
query parameter.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import sqlglot

from runspend.config.exchange_rates import Stretch
from runspend.schema.public_views import VIEWS
from runspend.schema.tables import COST_KINDS, RUN_COSTS, TABLES, Table
from runspend.warehouse.bigquery.tables import Places, quoted
from runspend.warehouse.currency_views import DATED, SUMMED, money
from runspend.warehouse.dialect import table_names

RATES, CURRENCY = "runspend_rates", "runspend_currency"
UNIT = "bignumeric '0.0000000000000000000001'"
UNITS = "bignumeric '10000000000000000000000'"
MATCHED = (
    f"left join unnest(@{RATES}) r on r.currency = t.billing_currency and t.charge_date >= r.first_date and t.charge_date < r.end_date"
)


def in_one_currency(
    sql: str, places: Places, currency: str, rates: Sequence[Stretch], names: Mapping[str, str] | None = None
) -> tuple[str, dict[str, Any]]:
    """Return the query over tables with converted money, and its additional parameters. A query that reads no such table is unchanged.

    `names`: the SQL to write after FROM for each table (default: the quoted name of the table).
    """
    names = names or {name: quoted(places.table(TABLES[name])) for name in (*DATED, *SUMMED)}
    tables = exchanged_tables(table_names(sql), names)
    if not tables or not rates:
        return sql, {}
    ours = ", ".join(f"{name} as ({text})" for name, text in tables.items())
    given = [
        {"currency": r.currency, "first_date": r.first, "end_date": r.end, "multiplier": r.multiplier, "divisor": r.divisor} for r in rates
    ]
    return put_before(sql, ours), {RATES: given, CURRENCY: currency}


def exchanged_tables(asked: frozenset[str], names: Mapping[str, str]) -> dict[str, str]:
    """Return the queries that replace the requested cost tables, followed by those of the requested views.

    `names`: the SQL to write after FROM for each table.
    """
    views = {name: view for name, view in VIEWS.items() if name in asked}
    asked = asked.union(*(view.over for view in views.values()))
    found = {name: _dated(TABLES[name], names) for name in DATED if name in asked}
    found |= {name: _summed(TABLES[name], *SUMMED[name], names) for name in SUMMED if name in asked}
    return found | {name: view.sql for name, view in views.items()}


def put_before(sql: str, subqueries: str) -> str:
    """Return the query with these named subqueries before its own ones."""
    tokens = sqlglot.tokenize(sql, read="bigquery")
    if tokens[0].text.lower() != "with":
        return f"with {subqueries}\n{sql}"
    last = tokens[1] if tokens[1].text.lower() == "recursive" else tokens[0]
    return f"{sql[: last.end + 1]} {subqueries}, {sql[last.end + 1 :]}"


def _exchanged(amount: str) -> str:
    units, multiplier, divisor = f"{amount} * {UNITS}", "cast(r.multiplier as bignumeric)", "cast(r.divisor as bignumeric)"
    whole = f"div(abs({units}), {divisor}) * {multiplier}"
    rest = f"div(mod(abs({units}), {divisor}) * {multiplier} + div({divisor}, bignumeric '2'), {divisor})"
    return f"if(r.multiplier is null, {amount}, sign({amount}) * ({whole} + {rest}) * {UNIT})"


def _dated(table: Table, names: Mapping[str, str]) -> str:
    amounts = money(table)
    columns = [f"{_exchanged(f't.{c.name}')} as {c.name}" if c.name in amounts else f"t.{c.name}" for c in table.columns]
    text = ", ".join(columns).replace("t.billing_currency", f"if(r.currency is null, t.billing_currency, @{CURRENCY}) as billing_currency")
    return f"select {text} from {names[table.name]} t {MATCHED}"


def _summed(table: Table, rows: str, which: str, key: dict[str, str], names: Mapping[str, str]) -> str:
    """Return the query that sums rows of another currency again from their converted days.

    A row is not converted if one of its days has no rate.
    """
    known = money(TABLES[rows])
    amounts = {c: f"t.{c}" for c in money(table) if c in known}
    if table is RUN_COSTS:
        amounts |= {f"{kind}_cost": f"if(t.cost_kind = '{kind}', t.effective_cost, null)" for kind in COST_KINDS}
    by_day = ", ".join(f"sum({_exchanged(expression)}) as {c}" for c, expression in amounts.items())
    keys = ", ".join(f"{expression} as {name}" for name, expression in key.items())
    places = ", ".join(str(place + 1) for place in range(len(key) + 1))
    summed = (
        f"select {keys}, t.billing_currency as from_currency, logical_and(r.currency is not null) as is_whole, {by_day}"
        f" from {names[rows]} t {MATCHED} where {which} and t.billing_currency <> @{CURRENCY} group by {places}"
    )
    # Some money columns of the sums are not in the daily rows. They become null, because they would have the wrong currency.
    instead = {c: f"if(s.is_whole, {f's.{c}' if c in amounts else 'null'}, t.{c}) as {c}" for c in money(table)}
    instead["billing_currency"] = f"if(s.is_whole, @{CURRENCY}, t.billing_currency) as billing_currency"
    columns = ", ".join(instead.get(c.name, f"t.{c.name}") for c in table.columns)
    joined = " and ".join(f"s.{name} = t.{name}" for name in key)
    return f"select {columns} from {names[table.name]} t left join ({summed}) s on s.from_currency = t.billing_currency and {joined}"
