"""Queries of the command line: costs by dimension, the list of tables, the status of sources.

Holds SQL over the published tables and text for a terminal. Writes nothing.
"""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from datetime import date, datetime, timedelta
from decimal import Decimal
from typing import TYPE_CHECKING, Any

from runspend.allocation import diagnostics as advice
from runspend.config.exchange_rates import missing_rates, stretches
from runspend.config.settings import Settings
from runspend.core.errors import SourceError, UsageError
from runspend.schema.tables import TABLES, Table
from runspend.warehouse import Reader, open_warehouse

if TYPE_CHECKING:
    import pyarrow as pa

# Value of --by -> its column of cost_daily.
COST_KEYS = {
    "team": "team",
    "project": "project",
    "cost_center": "cost_center",
    "owner": "owner",
    "experiment": "experiment_name",
    "user": "user_name",
    "server": "tracking_server",
    "kind": "cost_kind",
    "allocated_to": "allocated_to",
    "source": "source",
    "service": "service_name",
    "account": "sub_account_id",
    "provider": "service_provider_name",
    "day": "charge_date",
    "period": "billing_period",
}

BEYOND = "beyond the years 1 to 9999"

# Dimensions that only a run has.
OF_RUNS = ("team", "project", "cost_center", "owner", "experiment_name", "user_name", "tracking_server")


def costs_sql(by: Sequence[str], *, since: str | None, top: int, measure: str) -> tuple[str, dict[str, Any]]:
    """Return the statement of `runspend costs` and its parameters. An unknown key raises an error that lists the known ones."""
    columns = []
    for key in (k.strip() for k in by):
        if key not in COST_KEYS:
            near = difflib.get_close_matches(key, COST_KEYS, n=1)
            hint = f" Did you mean {near[0]!r}?" if near else ""
            raise UsageError(f"cannot group costs by {key!r}: allowed are {', '.join(COST_KEYS)}.{hint}")
        columns.append(COST_KEYS[key])
    names = ", ".join(columns)
    # Show cost without a run by its target, not under an empty name.
    shown = ", ".join(f"case when allocated_to = 'run' then {c} else concat('(', allocated_to, ')') end as {c}" if c in OF_RUNS else c for c in columns)
    where, parameters = _since(since)
    sql = (
        f"with costs as (select {shown}, billing_currency, {measure}_cost from cost_daily where {where})"
        f" select {names}, billing_currency, sum({measure}_cost) as {measure}_cost from costs"
        f" group by {names}, billing_currency order by {measure}_cost desc, {names} limit {int(top)}"
    )
    return sql, parameters


def _since(since: str | None) -> tuple[str, dict[str, Any]]:
    """Return a condition on charge_date: from the given month on, or the newest month."""
    if since is None:
        return "charge_date >= (select cast(date_trunc(max(charge_date), month) as date) from cost_daily)", {}
    return "charge_date >= @since", {"since": date.fromisoformat(f"{since}-01")}


def costs(settings: Settings, by: Sequence[str], *, since: str | None, top: int, measure: str, is_exchanged: bool = True) -> pa.Table:
    """Return the rows of `runspend costs`, in the configured currency. A missing rate is an error. Not `is_exchanged`: by currency."""
    sql, parameters = costs_sql(by, since=since, top=top, measure=measure)
    with open_warehouse(settings).reader() as reader:
        if is_exchanged:
            reader = in_one_currency(reader, settings, since)
        return reader.query(sql, parameters)


def in_one_currency(reader: Reader, settings: Settings, since: str | None) -> Reader:
    """Return the reader, or one that shows charges in other currencies in the configured one."""
    where, parameters = _since(since)
    foreign = reader.query(f"select distinct billing_currency from cost_daily where {where}", parameters)["billing_currency"].to_pylist()
    if not set(foreign) - {settings.currency}:
        return reader
    days = reader.query(f"select distinct billing_currency, charge_date from cost_daily where {where}", parameters).to_pylist()
    rates = stretches(settings.rates.exchange, settings.currency)
    missing = missing_rates(rates, settings.currency, ((r["billing_currency"], r["charge_date"]) for r in days))
    if missing is not None:
        raise SourceError(missing.source, f"{missing} Or see each currency by itself: --each-currency")
    return reader.in_currency(settings.currency, rates)


def nothing_since(settings: Settings, since: str) -> str:
    """Explain why there are no rows since a month."""
    with open_warehouse(settings).reader() as reader:
        newest: date | None = reader.query("select max(charge_date) as newest from cost_daily")["newest"][0].as_py()
    return f"There are no charges since {since}: {'no bill was loaded yet' if newest is None else f'the newest charge is of {newest}'}."


def coverage_footer(settings: Settings, by: Sequence[str], since: str | None) -> list[str]:
    """Return one line per requested dimension: the share of allocated cost that has it, by source."""
    from runspend.actions.report.labels import coverage_words

    names = [key.strip() for key in by if key.strip() in advice.DIMENSIONS]
    if not names:
        return []
    with open_warehouse(settings).reader() as reader:
        newest: date | None = reader.query("select max(charge_date) as newest from cost_daily")["newest"][0].as_py()
        if newest is None:
            return []
        first = newest.replace(day=1) if since is None else date.fromisoformat(f"{since}-01")
        found = advice.coverage(reader, first, newest + timedelta(days=1))
    shown = {currency: coverage_words([part for part in parts if part.dimension in names], every=True) for currency, parts in sorted(found.items())}
    return [line if len(shown) == 1 else f"{currency} {line}" for currency, lines in shown.items() for line in lines]


def tables_text(name: str | None = None) -> str:
    """Describe the tables with their grain, or the columns of one named table."""
    if name is not None:
        if name not in TABLES:
            raise UsageError(f"cannot show table {name!r}: there is none. Tables are {', '.join(TABLES)}.")
        return _columns_text(TABLES[name])
    lines = []
    for title, is_public in (("for everybody", True), ("internal", False)):
        lines += [title, *(f"  {t.name:20} {t.grain}" for t in TABLES.values() if t.is_public is is_public)]
    lines.append("columns of one: runspend sql --tables run_costs")
    return "\n".join(lines) + "\n"


def _columns_text(table: Table) -> str:
    width = max(len(c.name) for c in table.columns)
    lines = [f"{table.name}: {table.grain}", table.meaning, *(f"  {c.name:{width}}  {c.type:13}  {c.meaning}" for c in table.columns)]
    return "\n".join(lines) + "\n"


def status_of(settings: Settings, now: datetime) -> tuple[int, str, list[dict[str, Any]]]:
    """Return (exit code, one line, rows of `sources`). The code is 0 if every configured source was read well and in time."""
    with open_warehouse(settings).reader() as reader:
        rows = reader.query("select * from sources order by source").to_pylist()
        spared = reader.query(
            "select billing_period, min(ignored_changes) as ignored_changes from period_states where ignored_changes is not null group by billing_period order by billing_period"
        ).to_pylist()
    known = {row["source"]: row for row in rows}
    names = [s.name for s in settings.tracking] + [s.name for s in settings.billing] + [s.uri for s in settings.stores if s.measure == "list"]
    troubles = []
    for name in names:
        row = known.get(name)
        if row is None:
            troubles.append(f"{name} never read")
        elif row["state"] in ("refused", "unreachable"):
            troubles.append(f"{name} {row['state']}: {row['last_error']}")
        elif row["covered_until"] is not None and (now - row["covered_until"]).total_seconds() > row["late_after_seconds"]:
            troubles.append(f"{name} late: complete to {row['covered_until']:%Y-%m-%d %H:%M} UTC")
    remarks = [f"{name} is no longer configured, its rows are kept" for name in known if name not in names]
    remarks += [f"{row['billing_period']:%Y-%m} is closed, left out: {row['ignored_changes']}" for row in spared]
    code = SourceError.exit_code if troubles else 0
    word = "TROUBLE" if troubles else "OK"
    return code, f"{word} {len(names)} sources{''.join(f' · {t}' for t in (*troubles, *remarks))}", rows


def as_values(rows: pa.Table) -> list[dict[str, Any]]:
    """Return rows as Python values. A second column of the same name becomes `name_1`, as in a DuckDB subquery: none is lost."""
    names, cells = _different(rows.column_names), [_column_values(column) for column in rows.columns]
    return [dict(zip(names, row, strict=True)) for row in zip(*cells, strict=True)]


def _different(names: Sequence[str]) -> list[str]:
    found: dict[str, None] = {}
    for name in names:
        one, number = name, 0
        while one in found or (number and one in names):
            number += 1
            one = f"{name}_{number}"
        found[one] = None
    return list(found)


def _column_values(column: pa.ChunkedArray) -> list[Any]:
    """Return one column as Python values. Dates before year 1 or after 9999, and `infinity`, become text: Python lacks them."""
    try:
        values: list[Any] = column.to_pylist()
    except (OverflowError, ValueError):
        values = [_value(cell) for cell in column]
    return values


def _value(cell: pa.Scalar) -> Any:
    try:
        return cell.as_py()
    except (OverflowError, ValueError):
        return BEYOND


def table_text(rows: pa.Table) -> str:
    """Return rows as aligned text: numbers to the right, money with all its decimals but at least two."""
    if rows.num_rows == 0:
        return "no rows\n"
    columns = []
    for name, column in zip(rows.column_names, rows.columns, strict=True):  # names may repeat
        values = _column_values(column)
        is_number = all(v is None or (isinstance(v, (int, float, Decimal)) and not isinstance(v, bool)) for v in values)
        cells = [_cell(name), *(_cell(v) for v in values)]
        width = max(len(c) for c in cells)
        columns.append([c.rjust(width) if is_number else c.ljust(width) for c in cells])
    return "".join("  ".join(line).rstrip() + "\n" for line in zip(*columns, strict=True))


def _cell(value: Any) -> str:
    if value is None:
        return "-"
    if isinstance(value, Decimal):
        whole, _, digits = f"{value:f}".partition(".")
        return f"{whole}.{digits.rstrip('0'):0<2}"
    if isinstance(value, datetime):
        return f"{value:%Y-%m-%d %H:%M:%S}"
    # Users choose names: nothing in them may move the cursor.
    return "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in str(value))
