"""The figures of the home page: the month so far, its forecast, budgets, twelve months, avoidable cost, and the freshness of bills.

The month is the explorer's view by team, up to the last day that the freshest bill covers completely. Formatting does not belong here.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

from runspend.actions.alert.forecast import HISTORY, Forecast, Seen, forecast_total
from runspend.actions.alert.overview import list_budgets
from runspend.actions.costs.query import Selection, in_one_currency, newest_day
from runspend.actions.explore.figures import OUTSIDE, Figures, read_figures
from runspend.actions.explore.view import View
from runspend.config.settings import Settings
from runspend.core.amounts import add
from runspend.core.errors import UsageError
from runspend.core.text import without_person
from runspend.schema.rows import month_after
from runspend.warehouse.base import Reader
from runspend.warehouse.records import Records
from runspend.warehouse.sql_files import read_sql

MONTHS = 12
MOST_ACTIONS = 3
LATE = timedelta(days=7)  # if the newest charge is this much later than the last complete day, the month ends with the newest charge
IN_TROUBLE = ("exceeded", "forecast to exceed", "threshold reached", "not judged")


@dataclass(frozen=True)
class Action:
    """A cost of the month that people can reduce. `kind`: idle, failed or unallocated. `count`: the number of machines or runs, or 0.

    `is_type`: whether the name is an instance type. `is_masked`: whether the name of a person was removed from it.
    """

    kind: str
    name: str | None
    cost: Decimal
    count: int
    is_type: bool = False
    is_masked: bool = False


@dataclass(frozen=True)
class Bill:
    """The state of a bill, and the time up to which it is complete. `state`: ok, late, refused or unreachable."""

    name: str
    state: str
    covered_until: datetime | None


@dataclass(frozen=True)
class Home:
    """All figures on the home page.

    `months`: the ML platform's cost by month and target, for at most twelve months. They start with the first month that has a cost.
    """

    month: Figures
    forecast: Forecast | None
    months: tuple[tuple[date, Mapping[str, Decimal]], ...]
    budgets: tuple[Mapping[str, Any], ...]
    budget_count: int
    actions: tuple[Action, ...]
    bills: tuple[Bill, ...]

    @property
    def last_month(self) -> Decimal:
        """The total cost of the previous month."""
        return add(self.months[-2][1].values()) if len(self.months) > 1 else Decimal(0)


def read_home(
    reader: Reader, settings: Settings, records: Records, now: datetime, *, currency: str | None = None, hides_people: bool = False
) -> Home | None:
    """Return the figures of the home page. `currency`: include only charges billed in it. None if there is no charge.

    Raises UsageError if costs are in several currencies and an exchange rate is missing.
    """
    newest = newest_day(reader)
    if newest is None:
        return None
    bills = _bills(reader)
    whole = _last_whole_day(bills) or newest
    last = whole if newest - LATE < whole < newest else newest
    first, after = last.replace(day=1), last + timedelta(days=1)
    if currency is not None and currency not in (known := _currencies(reader)):
        raise UsageError(f"cannot show costs in {currency[:20]!r}: bills are in {', '.join(known)}.")
    where = {} if currency is None else {"currency": (currency,)}
    month = read_figures(reader, settings, View(first, after, ("team",), where), newest, hides_people=hides_people)
    began = min(month_after(first, 1 - MONTHS), after - HISTORY)
    selection = Selection(since=began, until=month_after(first, 1), where=where)
    shown = in_one_currency(reader, settings, selection)
    days = _days(shown, selection)
    budgets = list_budgets(reader, settings, records, now)
    return Home(
        month=month,
        forecast=forecast_month(days, after),
        months=months_of(days, first, after),
        budgets=tuple(
            {**row, "title": without_person(row["title"]) if hides_people else row["title"]}
            for row in budgets
            if row["state"] in IN_TROUBLE
        ),
        budget_count=len(budgets),
        actions=_actions(shown, month, hides_people=hides_people),
        bills=bills,
    )


def _currencies(reader: Reader) -> list[str]:
    found: list[str] = reader.query("select distinct billing_currency from cost_daily order by billing_currency")[
        "billing_currency"
    ].to_pylist()
    return found


def _bills(reader: Reader) -> tuple[Bill, ...]:
    rows = reader.query("select source, state, covered_until from sources where kind = 'bill' order by source").to_pylist()
    return tuple(Bill(row["source"], row["state"], row["covered_until"]) for row in rows)


def _last_whole_day(bills: Sequence[Bill]) -> date | None:
    """Return the last day that the freshest bill covers completely. The page does not wait for late bills, but it lists them."""
    reached = [bill.covered_until for bill in bills if bill.covered_until is not None]
    return max(reached).date() - timedelta(days=1) if reached else None


def _days(reader: Reader, selection: Selection) -> dict[tuple[date, str], Decimal]:
    """Return the cost of each day by target, without out-of-scope cost."""
    where, parameters = selection.condition()
    rows = reader.query(
        "select charge_date, allocated_to, sum(effective_cost) as cost from cost_daily"
        f" where {where} and allocated_to <> '{OUTSIDE}' group by charge_date, allocated_to",
        parameters,
    ).to_pylist()
    return {(row["charge_date"], row["allocated_to"]): row["cost"] or Decimal(0) for row in rows}


def forecast_month(days: Mapping[tuple[date, str], Decimal], after: date) -> Forecast | None:
    """Forecast the total of the month of the last complete day. `after`: the day after that day.

    None if that month is over, or with less than two weeks of history.
    """
    totals: dict[date, Decimal] = {}
    for (day, _), cost in days.items():
        totals[day] = add([totals.get(day), cost])
    first = (after - timedelta(days=1)).replace(day=1)
    end = month_after(first, 1)
    spent = add(cost for day, cost in totals.items() if first <= day < after)
    seen = {day: Seen(billed=float(cost)) for day, cost in totals.items() if after <= day < end}
    return forecast_total({day: cost for day, cost in totals.items() if day < after}, after, (first, end), spent, seen)


def months_of(days: Mapping[tuple[date, str], Decimal], first: date, after: date) -> tuple[tuple[date, Mapping[str, Decimal]], ...]:
    """Return the cost by month and target before the day `after`, for at most twelve months up to that of `first`.

    Months before the first cost are left out.
    """
    found: dict[date, dict[str, Decimal]] = {month_after(first, n - MONTHS + 1): {} for n in range(MONTHS)}
    for (day, target), cost in sorted(days.items()):
        parts = found.get(day.replace(day=1))
        if parts is not None and day < after:
            parts[target] = add([parts.get(target), cost])
    return tuple(found.items())[next((n for n, parts in enumerate(found.values()) if parts), MONTHS - 1) :]


def _actions(reader: Reader, month: Figures, *, hides_people: bool) -> tuple[Action, ...]:
    """Return the largest costs that people can reduce: idle cost by instance type, failed runs by experiment, unallocated cost by service."""
    rows = reader.query(
        f"""
        select
          case when allocated_to = 'run' then 'failed' else allocated_to end as kind,
          case allocated_to when 'run' then experiment_name when 'idle' then coalesce(instance_type, service_name) else service_name end as name,
          allocated_to = 'idle' and instance_type is not null as is_type, sum(effective_cost) as cost,
          count(distinct case allocated_to when 'run' then concat(tracking_server, '/', workspace, '/', run_id) when 'idle' then concat(source, '/', coalesce(sub_account_id, ''), '/', machine) end) as things
        from ({read_sql(Path(__file__).parent, "ledger")})
        where billing_currency = @currency and (allocated_to in ('idle', 'unallocated') or (allocated_to = 'run' and run_status in ('FAILED', 'KILLED')))
        group by kind, name, is_type
        order by cost desc, kind, name, is_type
        limit {MOST_ACTIONS}""",
        {"since": month.view.since, "until": month.view.until, "currency": month.currency},
    ).to_pylist()
    found = []
    for row in rows:
        name = without_person(row["name"]) if hides_people and row["kind"] == "failed" else row["name"]
        if row["cost"] and row["cost"] > 0:
            found.append(Action(row["kind"], name, row["cost"], row["things"], row["is_type"], name != row["name"]))
    return tuple(found)
