"""A view of the daily costs, and the address that contains it: `?from=2026-10-01&to=2026-10-31&by=team,experiment&team=vision`.

The address is the whole state, so everyone who opens it sees the same view. Queries of the warehouse do not belong here.
"""

from __future__ import annotations

import re
from collections.abc import Container, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import date, timedelta
from typing import Literal, cast, get_args
from urllib.parse import quote, urlencode

from runspend.actions.costs.query import COST_KEYS, OF_RUNS, WHERE_KEYS, Selection
from runspend.core.errors import UsageError
from runspend.core.text import quoted_value
from runspend.schema.rows import month_after
from runspend.schema.tables import ALLOCATED_TO, DIMENSION_NAMES

Measure = Literal["effective", "billed", "contracted", "list"]
Step = Literal["day", "week", "month"]
Order = Literal["-cost", "cost", "name", "-name", "-change", "change"]

MEASURES: tuple[str, ...] = get_args(Measure)
STEPS: tuple[str, ...] = get_args(Step)
ORDERS: tuple[str, ...] = get_args(Order)
# Dimensions that the daily costs do not have, and their columns in `ledger.sql`. A view with one of these dimensions reads single charges.
FINE_KEYS = {"run": "run_id", "model": "model_name", "machine": "machine", "instance_type": "instance_type", "status": "run_status"}
COLUMNS = {**COST_KEYS, **FINE_KEYS}
ONLY_OF_RUNS = (*OF_RUNS, "run_id", "model_name", "run_status")
# Columns that are always empty for cost without a run. The dimensions of a cost center, owner, project or team may come from the bill.
NEVER_WITHOUT_RUN = tuple(column for column in ONLY_OF_RUNS if column not in DIMENSION_NAMES)
FAILED = ("FAILED", "KILLED")  # MLflow's statuses of a run that Runspend counts as failed
FILTERS = (*WHERE_KEYS, *FINE_KEYS)  # days and months are the axis of the chart
GROUPS = tuple(key for key in FILTERS if key != "currency")  # each sum is in one currency
PARTS = ALLOCATED_TO
NEXT = {  # the dimension by which a group is split after a click on it
    "team": "experiment", "project": "experiment", "cost_center": "team", "owner": "experiment", "user": "experiment", "experiment": "kind",
    "server": "experiment", "kind": "service", "allocated_to": "service", "source": "service", "service": "account", "account": "service",
    "region": "service", "provider": "service", "confidence": "experiment", "run": "kind", "model": "run", "machine": "run",
    "instance_type": "machine", "status": "experiment",
}  # fmt: skip
PEOPLE = ("owner", "user")
OTHER_KEYS = ("from", "to", "by", "where", "measure", "compare", "every", "sort", "top", "spread")
SPREAD_PARTS = ("idle", "shared", "unallocated")
EARLIEST = date(1970, 1, 1)
MOST_DAYS = 1100  # three years
MOST_ROWS = 1000
MOST_CELLS = 60_000  # number of rows times number of steps
MOST_VALUES = 50  # values of all filters together
LONGEST = 5000  # characters of a filter's value


@dataclass(frozen=True)
class View:
    """The choices that define a page of costs: days (`until` is the day after the last), groups, filters, measure, comparison, order.

    `is_spread`: idle, shared and unallocated cost is spread over the groups of runs, in proportion to their own cost.
    """

    since: date
    until: date
    by: tuple[str, ...] = ("team",)
    where: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    measure: Measure = "effective"
    is_compared: bool = True
    every: Step = "day"
    order: Order = "-cost"
    top: int = 50
    is_spread: bool = False

    @classmethod
    def of(cls, query: Iterable[tuple[str, str]], newest: date, *, hidden: Sequence[str] = ()) -> View:
        """Read the query string of an address. `newest`: the day of the newest charge. The view ends there unless the address has `to`.

        `hidden`: dimensions that the viewer may not use. Raises UsageError, with the key, the value and the allowed values, if the address
        is not valid.
        """
        given: dict[str, list[str]] = {}
        for key, value in query:
            if value or key in FILTERS:  # a dimension without a value (`team=`) selects cost that has no value
                given.setdefault(key, []).append(value)
        known = [*OTHER_KEYS, *(key for key in FILTERS if key not in hidden)]
        for key in given:
            if key not in known:
                raise UsageError(f"cannot read the address: {quoted_value(key)} is unknown. Known parameters are {', '.join(known)}.")
        single = {key: _single(key, given[key]) for key in OTHER_KEYS if key in given and key != "where"}
        until = _day("to", single["to"]) + timedelta(days=1) if "to" in single else newest + timedelta(days=1)
        since = _day("from", single["from"]) if "from" in single else (until - timedelta(days=1)).replace(day=1)
        if since >= until:
            raise UsageError(f"cannot show costs from {since} to {until - timedelta(days=1)}: the last day is before the first.")
        if (until - since).days > MOST_DAYS:
            raise UsageError(f"cannot show {(until - since).days:,} days at once: at most {MOST_DAYS:,}. Choose a later `from`.")
        by = tuple(dict.fromkeys(key.strip() for key in single.get("by", "team").split(",")))
        for key in by:
            _one_of("by", key, [group for group in GROUPS if group not in hidden])
        if len(by) > 2:
            raise UsageError(f"cannot group by {', '.join(by)}: at most two dimensions.")
        every = single.get("every") or fitting_step(since, until - timedelta(days=1))
        found = cls(
            since=since,
            until=until,
            by=by,
            where=_filters(given, hidden),
            measure=cast("Measure", _one_of("measure", single.get("measure", "effective"), MEASURES)),
            # Days after the newest charge are incomplete, so they cannot be compared with complete ones.
            is_compared=_one_of("compare", single.get("compare", "previous"), ("previous", "none")) == "previous"
            and until <= newest + timedelta(days=1),
            every=cast("Step", _one_of("every", every, STEPS)),
            order=cast("Order", _one_of("sort", single.get("sort", "-cost"), ORDERS)),
            top=_number("top", single.get("top", "50"), MOST_ROWS),
            is_spread=_one_of("spread", single.get("spread", "0"), ("0", "1")) == "1",
        )
        if found.top * len(found.steps) > MOST_CELLS:
            raise UsageError(
                f"cannot show {found.top:,} rows in {len(found.steps):,} steps at once: choose every=month, a smaller `top` or fewer days."
            )
        return found

    @property
    def last(self) -> date:
        """The last day."""
        return self.until - timedelta(days=1)

    @property
    def selects_parts(self) -> bool:
        """Whether a filter selects parts of the bill. Otherwise the view has the cost of the ML platform: everything in scope."""
        return "allocated_to" in self.where

    @property
    def splits_parts(self) -> bool:
        """Whether cost without a run has rows of its own. It does if the view groups by a dimension that only runs have."""
        return any(COLUMNS[key] in ONLY_OF_RUNS for key in self.by)

    @property
    def is_fine(self) -> bool:
        """Whether it uses a dimension that only single charges have: run, model, machine, instance type or status."""
        return any(key in FINE_KEYS for key in (*self.by, *self.where))

    @property
    def steps(self) -> tuple[date, ...]:
        """The first day of each step on the time axis; weeks begin on Mondays."""
        if self.every == "month":
            first, months = self.since.replace(day=1), (self.last.year - self.since.year) * 12 + self.last.month - self.since.month + 1
            return tuple(month_after(first, n) for n in range(months))
        length = 1 if self.every == "day" else 7
        first = self.since if self.every == "day" else self.since - timedelta(days=self.since.weekday())
        return tuple(first + timedelta(days=n) for n in range(0, (self.last - first).days + 1, length))

    @property
    def previous(self) -> tuple[date, date]:
        """The first day of the previous period, and the day after its last day.

        A view that starts on the first day of a month is compared with the same number of months before it. If the view does not end with
        a month, the last of these months is cut after the same day. Any other view is compared with the same number of days before it.
        """
        if self.since.day != 1:
            return self.since - (self.until - self.since), self.since
        months = (self.last.year - self.since.year) * 12 + self.last.month - self.since.month + 1
        begin = month_after(self.since, -months)
        if self.until.day == 1:
            return begin, self.since
        last_month = month_after(self.since, -1)
        return begin, min(last_month + timedelta(days=self.until.day - 1), self.since)

    @property
    def selection(self) -> Selection:
        """The selection of charges on the view's days and, if the view is compared, in the previous period."""
        return Selection(since=self.previous[0] if self.is_compared else self.since, until=self.until, where=self.where)

    def with_filter(self, key: str, value: str | None) -> View:
        """Return the view with one value of a dimension. None selects cost without a value."""
        return replace(self, where={**self.where, key: (value or "",)})

    def without_filter(self, key: str, value: str) -> View:
        """Return the view without one filter."""
        left = tuple(v for v in self.where.get(key, ()) if v != value)
        return replace(self, where={k: v for k, v in {**self.where, key: left}.items() if v})

    def address(self, **changed: object) -> str:
        """Return the query string of this view, without default values. `changed`: fields to change first."""
        view = replace(self, **changed)  # type: ignore[arg-type]  # fields of this class
        parts = [("from", f"{view.since}"), ("to", f"{view.last}"), ("by", ",".join(view.by))]
        parts += [(key, value) for key, values in view.where.items() for value in values]
        if view.measure != "effective":
            parts.append(("measure", view.measure))
        if not view.is_compared:
            parts.append(("compare", "none"))
        if view.every != fitting_step(view.since, view.last):
            parts.append(("every", view.every))
        if view.order != "-cost":
            parts.append(("sort", view.order))
        if view.top != 50:
            parts.append(("top", f"{view.top}"))
        if view.is_spread:
            parts.append(("spread", "1"))
        return urlencode(parts, quote_via=quote, safe=",")


def next_dimension(chosen: Container[str], key: str) -> str:
    """Return the dimension by which to split a group of `key` next. Dimensions in `chosen` are skipped."""
    seen = {key}
    key = NEXT.get(key, "team")
    while key in chosen and key not in seen:
        seen.add(key)
        key = NEXT[key]
    return key


def _filters(given: Mapping[str, list[str]], hidden: Sequence[str]) -> dict[str, tuple[str, ...]]:
    pairs = [(key, value) for key in FILTERS for value in given.get(key, ())]
    for text in given.get("where", ()):
        key, sign, value = text.partition("=")
        if not sign:
            raise UsageError(f"cannot read where={quoted_value(text)}: write where=KEY=VALUE, such as where=team=vision.")
        pairs.append((_one_of("where", key.strip(), [group for group in FILTERS if group not in hidden]), value))
    if len(pairs) > MOST_VALUES:
        raise UsageError(f"cannot use {len(pairs)} filters at once: at most {MOST_VALUES}.")
    found: dict[str, tuple[str, ...]] = {}
    for key, value in pairs:
        if len(value) > LONGEST or any("\ud800" <= c <= "\udfff" or c == "\0" for c in value):
            raise UsageError(f"cannot select {key}={quoted_value(value)}: a value is text of at most {LONGEST} characters.")
        if key == "allocated_to":
            _one_of(key, value, PARTS)
        found[key] = (*found.get(key, ()), *(() if value in found.get(key, ()) else (value,)))
    return found


def fitting_step(since: date, last: date) -> Step:
    """Return the step that suits the number of days: day up to 92, week up to 370, otherwise month."""
    days = (last - since).days + 1
    return "day" if days <= 92 else "week" if days <= 370 else "month"


def _day(key: str, text: str) -> date:
    try:
        found = date.fromisoformat(text) if re.fullmatch(r"[0-9]{4}-[0-9]{2}-[0-9]{2}", text) else None
    except ValueError:
        found = None
    if found is None or not 1970 <= found.year <= 2999:
        raise UsageError(f"cannot read {key}={quoted_value(text)}: it must be a day such as 2026-10-31, from 1970 to 2999.")
    return found


def _number(key: str, text: str, most: int) -> int:
    if not re.fullmatch(r"[0-9]{1,6}", text) or not 1 <= int(text) <= most:
        raise UsageError(f"cannot read {key}={quoted_value(text)}: it must be a number from 1 to {most:,}.")
    return int(text)


def _single(key: str, values: Sequence[str]) -> str:
    if len(values) > 1:
        raise UsageError(f"cannot read the address: {key} is given {len(values)} times.")
    return values[0]


def _one_of(key: str, value: str, allowed: Sequence[str]) -> str:
    if value not in allowed:
        raise UsageError(f"cannot read {key}={quoted_value(value)}: allowed values are {', '.join(allowed)}.")
    return value
