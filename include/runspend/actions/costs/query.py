"""Queries of the command line: costs by dimension, the list of tables, and the status of sources.

This module builds SQL over the published tables and text for a terminal. It writes nothing.
"""

from __future__ import annotations

import csv
import difflib
import io
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date, datetime, timedelta
from decimal import Decimal
from typing import TYPE_CHECKING, Any

from runspend.allocation import diagnostics
from runspend.config.exchange_rates import missing_rates, stretches
from runspend.config.settings import Settings
from runspend.core.amounts import money, plain
from runspend.core.errors import SourceError, UsageError
from runspend.schema.public_views import VIEWS
from runspend.schema.rows import first_day, month_after
from runspend.schema.tables import DIMENSION_NAMES, TABLES, Table
from runspend.warehouse.base import Reader
from runspend.warehouse.factory import open_warehouse

if TYPE_CHECKING:
    import pyarrow as pa

# Dimension of `--by` and `--where` -> its column in cost_daily.
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
    "region": "region_id",
    "provider": "service_provider_name",
    "confidence": "confidence",
    "currency": "billing_currency",
    "day": "charge_date",
    "period": "billing_period",
}

BEYOND = "outside the years 1 to 9999"  # text for dates that Python cannot represent

NEWEST_CHARGE = "select coalesce(max(case when is_spread then null else charge_date end), max(charge_date)) as newest from cost_daily"

# Tables for people show this for a missing value of a dimension in DIMENSION_NAMES, such as team.
UNTAGGED = "untagged"

# Dimensions that only runs have. Cost without a run has no value here, except a value of DIMENSION_NAMES that the bill itself states.
OF_RUNS = (*DIMENSION_NAMES, "experiment_name", "user_name", "tracking_server")


# `--where` does not accept days and periods: `--period`, `--since` and `--until` select those.
WHERE_KEYS = tuple(key for key in COST_KEYS if key not in ("day", "period"))


class NoRate(SourceError):
    """Raised if costs cannot be shown in one currency, because an exchange rate is missing.

    `currencies` are the other currencies of the selected charges.
    """

    def __init__(self, source: str, message: str, currencies: Sequence[str]) -> None:
        super().__init__(source, message)
        self.currencies = tuple(currencies)


@dataclass(frozen=True)
class Selection:
    """The charges to count. `None` for a period or day means no limit.

    `period` is the first day of a billing period. `since` is the first day of charges, and `until` is the day after the last.
    `where` has the allowed values of each dimension; "" means a missing value.
    """

    period: date | None = None
    since: date | None = None
    until: date | None = None
    where: Mapping[str, Sequence[str]] = field(default_factory=dict)

    @classmethod
    def of(cls, *, period: str | None = None, since: date | None = None, until: date | None = None, where: Sequence[str] = ()) -> Selection:
        """Return the selection for command-line values: `period` is YYYY-MM, `where` is KEY=VALUE.

        Raises UsageError for an unknown dimension, for a value that is not KEY=VALUE, and if `until` is not after `since`.
        """
        if since and until and until <= since:
            raise UsageError(f"cannot show costs: --until ends on {until - timedelta(days=1)}, before --since, {since}. Swap them.")
        values: dict[str, list[str]] = {}
        for text in where:
            key, sign, value = text.partition("=")
            if not sign:
                raise UsageError(f"cannot use --where {text!r}: it has no `=`. Write KEY=VALUE, such as team=vision.")
            if any("\ud800" <= c <= "\udfff" for c in value):
                raise UsageError(f"cannot use --where {text!r}: it is not UTF-8 text. Correct the value.")
            values.setdefault(key.strip(), []).append(value)
        for key in values:
            if key in ("day", "period"):
                raise UsageError(f"cannot use --where {key}=…: use --period for a billing period, and --since and --until for days.")
            if key not in WHERE_KEYS:
                raise UsageError(f"cannot select costs by {key!r}: allowed keys are {', '.join(WHERE_KEYS)}.{_nearest(key, WHERE_KEYS)}")
        return cls(None if period is None else first_day(period), since, until, values)

    @property
    def has_days(self) -> bool:
        """Whether it limits the months or days. If not, `runspend costs` shows the newest month."""
        return any((self.period, self.since, self.until))

    def condition(self, columns: Mapping[str, str] = COST_KEYS) -> tuple[str, dict[str, Any]]:
        """Return an SQL condition and its parameters. `columns` maps each dimension to its column."""
        days = {
            "period": ("billing_period =", self.period),
            "since": ("charge_date >=", self.since),
            "until": ("charge_date <", self.until),
        }
        parts = [f"{text} @{name}" for name, (text, value) in days.items() if value is not None]
        parameters: dict[str, Any] = {name: value for name, (_, value) in days.items() if value is not None}
        for key, values in self.where.items():
            either = [f"{columns[key]} is null"] if "" in values else []
            for number, value in enumerate(v for v in values if v):
                parameters[f"{key}_{number}"] = value
                either.append(f"{columns[key]} = @{key}_{number}")
            parts.append(f"({' or '.join(either)})")
        return " and ".join(parts), parameters


def _nearest(key: str, known: Iterable[str]) -> str:
    near = difflib.get_close_matches(key, known, n=1)
    return f" Did you mean {near[0]!r}?" if near else ""


def costs_sql(by: Sequence[str], chosen: Selection, *, top: int, measure: str) -> tuple[str, dict[str, Any]]:
    """Return the SQL statement of `runspend costs` and its parameters. Raises UsageError for an unknown key of `by`."""
    columns = []
    for key in (k.strip() for k in by):
        if key not in COST_KEYS:
            raise UsageError(f"cannot group costs by {key!r}: allowed keys are {', '.join(COST_KEYS)}.{_nearest(key, COST_KEYS)}")
        columns.append(COST_KEYS[key])
    grouped = ", ".join(dict.fromkeys([*columns, "billing_currency"]))
    names = ", ".join(columns)
    # Cost without a run shows its target in parentheses instead of an empty name, such as (idle).
    # If the bill itself names the team, project and so on, it shows that name.
    shown = ", ".join(
        f"case when allocated_to = 'run'{f' or {c} is not null' if c in DIMENSION_NAMES else ''} then {c} else concat('(', allocated_to, ')') end as {c}"
        if c in OF_RUNS
        else c
        for c in dict.fromkeys([*columns, "billing_currency"])
    )
    where, parameters = _condition(chosen)
    sql = (
        f"with costs as (select {shown}, {measure}_cost from cost_daily where {where})"
        f" select {grouped}, sum({measure}_cost) as {measure}_cost from costs"
        f" group by {grouped} order by {measure}_cost desc, {names} limit {int(top)}"
    )
    return sql, parameters


def _condition(chosen: Selection) -> tuple[str, dict[str, Any]]:
    """Return the SQL condition on cost_daily and its parameters. If `chosen` has no months or days, it selects the newest month."""
    where, parameters = chosen.condition()
    newest = f"cast(date_trunc(charge_date, month) as date) = (select cast(date_trunc(newest, month) as date) from ({NEWEST_CHARGE}))"
    return " and ".join(part for part in (where, "" if chosen.has_days else newest) if part), parameters


def costs(settings: Settings, by: Sequence[str], chosen: Selection, *, top: int, measure: str, is_exchanged: bool = True) -> pa.Table:
    """Return the rows of `runspend costs`, converted to the configured currency.

    If `is_exchanged` is false, each currency has its own rows, as billed. Raises NoRate if an exchange rate is missing.
    """
    statement = costs_sql(by, chosen, top=top, measure=measure)
    with open_warehouse(settings).reader() as reader:
        return read_costs(in_one_currency(reader, settings, chosen) if is_exchanged else reader, statement)


def read_costs(reader: Reader, statement: tuple[str, dict[str, Any]]) -> pa.Table:
    """Return the rows of a statement that `costs_sql` built."""
    sql, parameters = statement
    return reader.query(sql, parameters)


def in_one_currency(reader: Reader, settings: Settings, chosen: Selection) -> Reader:
    """Return a reader that converts costs to the configured currency.

    Returns the same reader if all selected charges are in that currency, or if they are selected by currency: those stay as billed.
    Raises NoRate if an exchange rate is missing.
    """
    if "currency" in chosen.where:
        return reader
    where, parameters = _condition(chosen)
    days = reader.query(f"select distinct billing_currency, charge_date from cost_daily where {where}", parameters).to_pylist()
    foreign = {day["billing_currency"] for day in days}
    if foreign <= {settings.currency}:
        return reader
    rates = stretches(settings.rates.exchange, settings.currency)
    missing = missing_rates(rates, settings.currency, ((day["billing_currency"], day["charge_date"]) for day in days))
    if missing is not None:
        raise NoRate(missing.source, f"{missing} Or show each currency as billed: --each-currency", sorted(foreign))
    return reader.in_currency(settings.currency, rates)


def no_charges(settings: Settings) -> str:
    """Return a sentence that explains why no charges match."""
    with open_warehouse(settings).reader() as reader:
        newest = newest_day(reader)
    return "No charges match: no bill has been loaded yet." if newest is None else f"No charges match. The newest charge is from {newest}."


def newest_day(reader: Reader) -> date | None:
    """Return the day of the newest charge, or None without charges.

    Charges that were spread over several days count only if there are no others. Such a charge may last to the end of a year, so its
    last day does not show how new the bill is.
    """
    newest: date | None = reader.query(NEWEST_CHARGE)["newest"][0].as_py()
    return newest


def coverage_footer(settings: Settings, by: Sequence[str], chosen: Selection) -> list[str]:
    """Return one line per dimension in `by`: the share of allocated cost that has a value for it, by the source of the value."""
    from runspend.actions.report.labels import coverage_words

    names = [key.strip() for key in by if key.strip() in diagnostics.DIMENSIONS]
    if not names:
        return []
    with open_warehouse(settings).reader() as reader:
        newest = newest_day(reader)
        if newest is None:
            return []
        period = chosen.period
        first = chosen.since or period or (newest.replace(day=1) if chosen.until is None else date.min)
        end = chosen.until or (date.max if chosen.since and not period else month_after(period or newest, 1))
        found = diagnostics.coverage(reader, first, end)
    shown = {
        currency: coverage_words([part for part in parts if part.dimension in names], every=True)
        for currency, parts in sorted(found.items())
    }
    return [line if len(shown) == 1 else f"{currency} {line}" for currency, lines in shown.items() for line in lines]


def tables_text(name: str | None = None) -> str:
    """Return a text with the grain of each table, or with the columns of one named table. Raises UsageError for an unknown name."""
    if name is not None:
        return _columns_text(_table(name))
    lines = []
    for title, is_public in (("Public tables", True), ("Internal tables", False)):
        lines += [title, *(f"  {t.name:20} {t.grain}" for t in _listed() if t.is_public is is_public)]
    lines.append("To list the columns of a table: runspend sql --tables run_costs")
    return "\n".join(lines) + "\n"


def tables_rows(name: str | None = None) -> pa.Table:
    """Return one row for each table, or one row for each column of a named table. Raises UsageError for an unknown name."""
    import pyarrow as pa

    if name is not None:
        return pa.Table.from_pylist([{"column": c.name, "type": c.type, "meaning": c.meaning} for c in _table(name).columns])
    return pa.Table.from_pylist([{"table": t.name, "is_public": t.is_public, "grain": t.grain, "meaning": t.meaning} for t in _listed()])


def _listed() -> list[Table]:
    return [*TABLES.values(), *VIEWS.values()]


def _table(name: str) -> Table:
    found = {table.name: table for table in _listed()}
    if name not in found:
        raise UsageError(f"cannot show table {name!r}: it does not exist. Tables are {', '.join(found)}.")
    return found[name]


def _columns_text(table: Table) -> str:
    width = max(len(c.name) for c in table.columns)
    lines = [f"{table.name}: {table.grain}", table.meaning, *(f"  {c.name:{width}}  {c.type:13}  {c.meaning}" for c in table.columns)]
    return "\n".join(lines) + "\n"


def status_of(settings: Settings, now: datetime) -> tuple[int, str, list[dict[str, Any]]]:
    """Return (exit code, one line of text, rows of `sources`).

    The code is 0 if the last read of every configured source succeeded and its data is not late.
    """
    with open_warehouse(settings).reader() as reader:
        rows = reader.query("select * from sources order by source").to_pylist()
        spared = reader.query(
            "select billing_period, min(ignored_changes) as ignored_changes from period_states where ignored_changes is not null group by billing_period order by billing_period"
        ).to_pylist()
    known = {row["source"]: row for row in rows}
    names = (
        [s.name for s in settings.tracking] + [s.name for s in settings.billing] + [s.uri for s in settings.stores if s.measure == "list"]
    )
    troubles = []
    for name in names:
        row = known.get(name)
        if row is None:
            troubles.append(f"{name} was never read")
        elif row["state"] in ("refused", "unreachable"):
            troubles.append(f"{name} is {row['state']}: {row['last_error']}")
        elif row["covered_until"] is not None and (now - row["covered_until"]).total_seconds() > row["late_after_seconds"]:
            troubles.append(f"{name} is stale: complete to {row['covered_until']:%Y-%m-%d %H:%M} UTC")
    remarks = [f"{name} is no longer configured, but its rows still count" for name in known if name not in names]
    remarks += [f"{row['billing_period']:%Y-%m} is closed, skipped changes: {row['ignored_changes']}" for row in spared]
    code = SourceError.exit_code if troubles else 0
    state = f"PROBLEM {len(troubles)} of {len(names)} sources" if troubles else f"OK {len(names)} sources"
    return code, " · ".join([state, *troubles, *remarks]), rows


def as_values(rows: pa.Table) -> list[dict[str, Any]]:
    """Return rows as dicts of Python values. If two columns have the same name, the second one is named `name_1`, as in DuckDB."""
    names, cells = distinct_names(rows.column_names), [_column_values(column) for column in rows.columns]
    return [dict(zip(names, row, strict=True)) for row in zip(*cells, strict=True)]


def distinct_names(names: Sequence[str]) -> list[str]:
    """Return the column names, made unique: repeated names get a number, such as `name_1`."""
    found: dict[str, None] = {}
    for name in names:
        one, number = name, 0
        while one in found or (number and one in names):
            number += 1
            one = f"{name}_{number}"
        found[one] = None
    return list(found)


def _column_values(column: pa.ChunkedArray) -> list[Any]:
    """Return one column as Python values.

    Python cannot represent dates before year 1 or after year 9999, or `infinity`. They become the text BEYOND.
    """
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


def csv_text(rows: pa.Table, *, guard: Callable[[str], str] = str) -> str:
    """Return rows as CSV with exact values. A null is an empty field.

    `guard` is applied to strings and column names, for example to disarm text that a spreadsheet would run as a formula.
    """
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow([guard(name) for name in distinct_names(rows.column_names)])
    writer.writerows(zip(*([_exact(value, guard) for value in _column_values(column)] for column in rows.columns), strict=True))
    return text.getvalue()


def _exact(value: Any, guard: Callable[[str], str]) -> str:
    if value is None:
        return ""
    if isinstance(value, str):
        return guard(value)
    if isinstance(value, Decimal):
        return plain(value)
    if isinstance(value, (bool, dict, list)):
        return json.dumps(value, default=str, ensure_ascii=False)
    return value.isoformat() if isinstance(value, (date, datetime)) else str(value)


def table_text(rows: pa.Table, *, is_money: bool = False) -> str:
    """Return rows as aligned text, with numbers aligned to the right.

    Decimals have all their digits, at least two. With `is_money`, a column of decimals is rounded to two digits, or to six if all
    its amounts are below 1.
    """
    if rows.num_rows == 0:
        return "no rows\n"
    columns = []
    for name, column in zip(rows.column_names, rows.columns, strict=True):  # names may repeat
        values = _column_values(column)
        is_number = all(v is None or (isinstance(v, (int, float, Decimal)) and not isinstance(v, bool)) for v in values)
        if is_money:
            amounts = [abs(v) for v in values if isinstance(v, Decimal)]
            places = 6 if amounts and 0 < max(amounts) < 1 else 2
            values = [
                money(v, places) if isinstance(v, Decimal) else UNTAGGED if v is None and name in DIMENSION_NAMES else v for v in values
            ]
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
    # Users choose the names. Replace control characters, because they could move the cursor.
    return "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in str(value))
