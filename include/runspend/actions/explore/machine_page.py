"""The page of a machine: its cost day by day in one month, the runs that paid for it, and the idle cost.

The month contains the charges dated in it, as in the explorer, so the total equals the explorer's total for this machine. Charges that have
no hours in this month have their own rows. Those on another month's bill are in the total. Those longer than a day are listed apart from it.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any, Literal

from markupsafe import Markup

from runspend.actions.costs.query import NoRate, Selection, in_one_currency
from runspend.actions.explain.figures import MachineHour, User
from runspend.actions.explain.resource_and_line import find_resource, hours_of, not_allocated, not_billed_in, users_of
from runspend.actions.explain.run import Names, run_key_of
from runspend.actions.explore import chart
from runspend.actions.explore.page import PART_COLORS, PART_WORDS, render_page
from runspend.actions.explore.view import PARTS, View
from runspend.actions.report import render as report
from runspend.config.settings import Settings
from runspend.core import amounts
from runspend.schema.rows import first_day, month_after
from runspend.warehouse.base import Reader
from runspend.warehouse.sql_files import read_sql

MOST_RUNS = 50
HERE = Path(__file__).parent
Row = Mapping[str, Any]
# Where the page shows a charge: in the row of its day, or in its own row without hours (see `Apart`).
Kind = Literal["daily", "other_bill", "long", "other_month", "other"]
COUNTED: tuple[Kind, ...] = ("daily", "other_bill")  # the charges in the total


@dataclass(frozen=True)
class Day:
    """One day of a machine: the hours of its charges, its cost by part of the bill, and the number of runs that paid."""

    day: date
    hours: Decimal
    parts: dict[str, Decimal]
    runs: int

    @property
    def cost(self) -> Decimal:
        """The total cost of the day."""
        return amounts.add(self.parts.values())

    @property
    def hour_cost(self) -> Decimal | None:
        """The cost per hour. None without hours."""
        return amounts.EXACT.divide(self.cost, self.hours) if self.hours else None

    @property
    def used(self) -> Decimal | None:
        """The percentage of the cost that runs paid. None unless the cost is positive."""
        cost = self.cost
        return amounts.EXACT.divide(self.parts.get("run", Decimal(0)) * 100, cost) if cost > 0 else None


@dataclass(frozen=True)
class Apart:
    """Charges that are shown in their own row, without hours. `first` and `last`: their days. `bill`: the month of their bill.

    `kind`:
        other_bill   charges of this month on another month's bill
        long         charges longer than a day
        other_month  charges of another month on this month's bill
        other        charges that the explorer does not count as cost of a machine
    """

    kind: Kind
    bill: date
    first: date
    last: date
    currency: str
    parts: dict[str, Decimal]

    @property
    def cost(self) -> Decimal:
        """The total cost."""
        return amounts.add(self.parts.values())


@dataclass(frozen=True)
class Machine:
    """A resource of the bill in one month, in the currency in which it cost the most.

    `others`: charges in the total that have no hours. `beside`: charges that are not in the total. `is_machine`: whether the explorer has
    costs of the resource as a machine. `is_converted`: whether amounts in other currencies are converted at exchange rates.
    `needs_filter`: whether a rate is missing, so that links to the explorer must select one currency.
    """

    resource_ids: tuple[str, ...]
    resource_key: str
    instance_types: tuple[str, ...]
    month: date
    other_months: tuple[date, ...]
    currency: str
    other_currencies: tuple[str, ...]
    is_converted: bool
    needs_filter: bool
    is_machine: bool
    services: tuple[str, ...]
    days: tuple[Day, ...]
    others: tuple[Apart, ...]
    beside: tuple[Apart, ...]
    users: tuple[User, ...]

    @property
    def name(self) -> str:
        """The name on the bill, or its normalized form if bills have several names."""
        return self.resource_ids[0] if len(self.resource_ids) == 1 else self.resource_key

    @property
    def whole(self) -> Day:
        """The sum of all days."""
        return Day(self.month, amounts.add(d.hours for d in self.days), _summed([d.parts for d in self.days]), 0)

    @property
    def parts(self) -> dict[str, Decimal]:
        """The total by part of the bill."""
        return _summed([*(d.parts for d in self.days), *(one.parts for one in self.others)])

    @property
    def total(self) -> Decimal:
        """Its cost in the explorer for this month."""
        return amounts.add(self.parts.values())


def read_machine(reader: Reader, settings: Settings, text: str, *, period: str | None = None) -> Machine:
    """Return the cost of a resource in one month, by default the newest month with charges.

    `text`: the machine's ID on the bill, or the end of that ID. Raises UnknownName if no charge in that month has it.
    """
    rows = find_resource(reader, text)
    allocated = reader.query(read_sql(HERE, "machine_months"), {"resources": sorted({r["resource_id"] for r in rows})}).to_pylist()
    newest = max(r["charge_month"] for r in (allocated or rows))
    months = sorted({month for r in (*rows, *allocated) for month in (r["charge_month"], r["billing_period"])})
    first = newest if period is None else first_day(period)
    if first not in months:
        raise not_billed_in(text, str(period), [f"{month:%Y-%m}" for month in months])
    needs_filter = False
    try:
        shown = in_one_currency(reader, settings, Selection(since=first, until=month_after(first, 1)))
    except NoRate:  # without an exchange rate, costs are shown as billed
        shown, needs_filter = reader, True
    charges = _charges_of(shown, rows, allocated, first)
    if not charges:
        raise not_allocated(text, f"{first:%Y-%m}")
    is_machine = any(r["is_machine"] and not r["is_long"] and _is_in(first, r) for r in charges)
    kinds = [(_kind_of(r, first, is_machine), r) for r in charges]
    counted = [(kind, r) for kind, r in kinds if kind in COUNTED]
    sums: dict[str, Decimal] = {}
    for row in [r for _, r in counted] or charges:
        sums[row["billing_currency"]] = amounts.add([sums.get(row["billing_currency"]), row["effective_cost"]])
    currency = min(sums, key=lambda code: (-sums[code], code))
    counted = [(kind, r) for kind, r in counted if r["billing_currency"] == currency]
    names = Names(reader, {key for _, r in counted if (key := run_key_of(r)) is not None})
    apart = _apart(kinds)
    return Machine(
        resource_ids=tuple(sorted({r["resource_id"] for r in charges})),
        resource_key=rows[0]["resource_key"],
        instance_types=tuple(sorted({r["instance_type"] for _, r in counted if r["instance_type"]})),
        month=first,
        other_months=tuple(month for month in months if month != first),
        currency=currency,
        other_currencies=tuple(sorted(sums.keys() - {currency})),
        is_converted=shown is not reader,
        needs_filter=needs_filter,
        is_machine=is_machine,
        services=tuple(sorted({r["service_name"] for r in charges if r["service_name"]})),
        days=tuple(days_of(hours_of([r for kind, r in counted if kind == "daily"], names))),
        others=tuple(one for one in apart if one.kind == "other_bill" and one.currency == currency),
        beside=tuple(one for one in apart if one.kind != "other_bill"),
        users=users_of(hours_of([r for _, r in counted], names)),
    )


def _charges_of(reader: Reader, rows: Sequence[Row], allocated: Sequence[Row], first: date) -> list[dict[str, Any]]:
    """Return the charges dated in a month or on its bill."""
    mine = [r for r in (*rows, *allocated) if first in (r["charge_month"], r["billing_period"])]
    charges: list[dict[str, Any]] = reader.query(
        read_sql(HERE, "machine_charges"),
        {
            "resources": sorted({r["resource_id"] for r in rows}),
            "since": first,
            "until": month_after(first, 1),
            "first_date": min(r["first_date"] for r in mine),
            "last_date": max(r["last_date"] for r in mine),
        },
    ).to_pylist()
    return [r for r in charges if r["billing_period"] == first or _is_in(first, r)]


def _is_in(first: date, row: Row) -> bool:
    """Return whether a charge is dated in the month."""
    day: date = row["charge_date"]
    return first <= day < month_after(first, 1)


def _kind_of(row: Row, first: date, is_machine: bool) -> Kind:
    if not _is_in(first, row):
        return "other_month"
    if row["is_long"]:
        return "long"
    if is_machine and not row["is_machine"]:
        return "other"
    return "daily" if row["billing_period"] == first else "other_bill"


def _apart(kinds: Sequence[tuple[Kind, Row]]) -> list[Apart]:
    """Return the charges that have their own rows, summed by kind, bill, month of their days, and currency.

    Charges longer than a day are summed by the days that they cover, in place of the month.
    """
    grouped: dict[tuple[Any, ...], list[Row]] = defaultdict(list)
    for kind, row in kinds:
        if kind != "daily":
            days = (row["charge_date"], _last_day(row)) if kind == "long" else (row["charge_date"].replace(day=1),)
            grouped[(kind, row["billing_period"], *days, row["billing_currency"])].append(row)
    return [
        Apart(
            kind,
            bill,
            min(r["charge_date"] for r in rows),
            max(_last_day(r) if kind == "long" else r["charge_date"] for r in rows),
            rows[0]["billing_currency"],
            _summed([{r["allocated_to"]: r["effective_cost"] or Decimal(0)} for r in rows]),
        )
        for (kind, bill, *_), rows in sorted(grouped.items())
    ]


def _last_day(row: Row) -> date:
    end: datetime = row["charge_period_end"]
    return (end - timedelta(microseconds=1)).date()


def days_of(hours: Sequence[MachineHour]) -> list[Day]:
    """Sum the charges of a machine by the day on which they start (UTC). An hour counts once, even if it has several charges."""
    by_day: dict[date, list[MachineHour]] = defaultdict(list)
    for hour in hours:
        by_day[hour.starts_at.date()].append(hour)
    found = []
    reached: datetime | None = None  # the time before this moment is already counted
    for day, mine in sorted(by_day.items()):
        seconds = 0
        for hour in sorted(mine, key=lambda h: (h.starts_at, h.ends_at)):
            begin = hour.starts_at if reached is None else max(hour.starts_at, reached)
            seconds += max((hour.ends_at - begin) // timedelta(seconds=1), 0)
            reached = max(begin, hour.ends_at)
        runs = {share.run for hour in mine for share in hour.shares if share.run is not None}
        parts = _summed([{share.allocated_to: share.effective_cost} for hour in mine for share in hour.shares])
        found.append(Day(day, Decimal(seconds) / 3600, parts, len(runs)))
    return found


def machine_as_page(m: Machine, *, up: str) -> str:
    """Return one self-contained HTML page. `up` is the relative path from its address to the home page."""
    parts = m.parts
    users = [(user, PART_WORDS[user.share.allocated_to]) for user in m.users]
    return render_page(
        "machine.html.j2",
        m=m,
        name=report.short_name(m.name),
        month=amounts.month_name(f"{m.month:%Y-%m}"),
        month_name=lambda day: amounts.month_name(f"{day:%Y-%m}"),
        days=_days_in_words,
        whole=m.whole,
        parts=[(part, PART_WORDS[part], PART_COLORS.get(part, "g0")) for part in PARTS if part in parts],
        sums=parts,
        users=users[:MOST_RUNS],
        more=len(users) - MOST_RUNS,
        places=amounts.places_for(m.total),
        drawing=_drawing(m.days),
        ways=_ways(m),
        types=[(name, _view(m, instance_type=(name,)).address(by=("machine",))) for name in m.instance_types],
        up=up,
    )


def _ways(m: Machine) -> list[tuple[str, str]]:
    """Return links to the explorer's views of the month, as (name, query string).

    They show the machine. For a resource that is not a machine, they show its services, which include other resources.
    """
    if m.is_machine:
        return [("Explore its costs", _view(m, machine=m.resource_ids).address(by=("run",)))]
    return [(f"Explore {name}", _view(m, service=(name,)).address(by=("account",))) for name in m.services]


def _view(m: Machine, **where: tuple[str, ...]) -> View:
    """Return the explorer's view of the month, with a filter on the currency if a rate is missing."""
    currency = {"currency": (m.currency,)} if m.needs_filter else {}
    return View(m.month, month_after(m.month, 1), where={**where, **currency}, is_compared=False)


def _days_in_words(one: Apart) -> str:
    return amounts.day(one.first) if one.first == one.last else f"{amounts.day(one.first)} to {amounts.day(one.last)}"


def _summed(several: Sequence[Mapping[str, Decimal]]) -> dict[str, Decimal]:
    """Add costs by part of the bill."""
    return {part: amounts.add(parts.get(part) for parts in several) for part in PARTS if any(part in parts for parts in several)}


def _drawing(days: Sequence[Day]) -> Markup:
    """Draw the cost of each day by part, for wide screens and for phones. Days without a charge are empty."""
    if not days:
        return Markup()
    steps = [days[0].day + timedelta(days=n) for n in range((days[-1].day - days[0].day).days + 1)]
    by_day = {d.day: d.parts for d in days}
    stacks = [
        (PART_WORDS[part], PART_COLORS.get(part, "g0"), [by_day.get(step, {}).get(part, Decimal(0)) for step in steps])
        for part in PARTS
        if any(part in parts for parts in by_day.values())
    ]
    return Markup("").join(
        chart.stacked_columns(
            steps, stacks, (), width, css, "Effective cost of the machine by day; the table has the numbers", is_by_month=False
        )
        for width, css in ((report.WIDE, "chart wide"), (report.NARROW, "chart narrow"))
    )
