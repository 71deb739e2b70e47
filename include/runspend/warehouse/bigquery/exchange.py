"""The cost tables with their money in one currency, for a question asked of BigQuery: named subqueries put before its own.

The same arithmetic as `warehouse/currency_views.py`, in GoogleSQL: money as a whole number of its last decimals, multiplied and divided as
whole numbers, rounded once, half away from zero. Which rates hold is decided in `config/exchange_rates.py`; they travel as a parameter.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import sqlglot

from runspend.config.exchange_rates import Stretch
from runspend.schema.tables import COST_KINDS, RUN_COSTS, TABLES, Table
from runspend.warehouse.bigquery.tables import Places, quoted
from runspend.warehouse.currency_views import DATED, SUMMED, money
from runspend.warehouse.dialect import table_names

__all__ = ["exchanged_tables", "in_one_currency"]

RATES, CURRENCY = "runspend_rates", "runspend_currency"
UNIT = "bignumeric '0.0000000000000000000001'"
UNITS = "bignumeric '10000000000000000000000'"
MATCHED = f"left join unnest(@{RATES}) r on r.currency = t.billing_currency and t.charge_date >= r.first_date and t.charge_date < r.end_date"


def in_one_currency(sql: str, places: Places, currency: str, rates: Sequence[Stretch]) -> tuple[str, dict[str, Any]]:
    """The question over exchanged tables, and the parameters that go with it; as it was, if it asks none of them."""
    tables = exchanged_tables(table_names(sql), {name: quoted(places.table(TABLES[name])) for name in (*DATED, *SUMMED)})
    if not tables or not rates:
        return sql, {}
    ours = ", ".join(f"{name} as ({text})" for name, text in tables.items())
    given = [
        {"currency": r.currency, "first_date": r.first, "end_date": r.end, "multiplier": r.multiplier, "divisor": r.divisor} for r in rates
    ]
    return _put_before(sql, ours), {RATES: given, CURRENCY: currency}


def exchanged_tables(asked: frozenset[str], names: Mapping[str, str]) -> dict[str, str]:
    """The query that stands for each of the cost tables that are asked for; `names`: what the tables themselves are called in it."""
    found = {name: _dated(TABLES[name], names) for name in DATED if name in asked}
    return found | {name: _summed(TABLES[name], *SUMMED[name], names) for name in SUMMED if name in asked}


def _put_before(sql: str, subqueries: str) -> str:
    """The text with named subqueries before its own."""
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
    """Rows of another currency anew from their days; a row that has a day without a rate stays as it is."""
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
    # money of several runs or days that these rows do not know is not shown in a currency it is not in
    instead = {c: f"if(s.is_whole, {f's.{c}' if c in amounts else 'null'}, t.{c}) as {c}" for c in money(table)}
    instead["billing_currency"] = f"if(s.is_whole, @{CURRENCY}, t.billing_currency) as billing_currency"
    columns = ", ".join(instead.get(c.name, f"t.{c.name}") for c in table.columns)
    joined = " and ".join(f"s.{name} = t.{name}" for name in key)
    return f"select {columns} from {names[table.name]} t left join ({summed}) s on s.from_currency = t.billing_currency and {joined}"
