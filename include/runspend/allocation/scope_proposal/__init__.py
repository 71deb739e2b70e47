"""Proposes entries for `scope.include`. Also contains the query for single bill lines that are out of scope (`OUTSIDE`).

The ledger keeps only the sums of lines that are out of scope. `allocation/without_run` groups these lines and advises what to do.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import date
from decimal import Decimal
from pathlib import Path
from typing import Any

from runspend.allocation.diagnostics import shared_kinds
from runspend.core.amounts import EXACT, add
from runspend.core.selectors import selector_yaml
from runspend.core.service_kinds import POD_METERS, is_accelerator
from runspend.warehouse.base import Reader
from runspend.warehouse.sql_files import read_sql

Row = Mapping[str, Any]

HERE = Path(__file__).parent
OUTSIDE = read_sql(HERE, "outside")
ACCOUNTS = read_sql(HERE, "accounts")
KINDS = read_sql(HERE, "kinds")
OTHER_MONTHS = read_sql(HERE, "other_months")
ACCELERATED = read_sql(HERE, "accelerated").format(outside=OUTSIDE, pods=POD_METERS)


@dataclass(frozen=True)
class ScopeLine:
    """One entry of `scope.include`.

    `inside_cost`: cost that it matches and that is in scope now. `outside_cost`: cost that it adds. `accelerated_cost`: the accelerators
    in `outside_cost`.
    """

    selector: Mapping[str, str | list[str]]
    inside_cost: Decimal
    outside_cost: Decimal
    accelerated_cost: Decimal = field(default=Decimal(0))

    @property
    def yaml(self) -> str:
        """Return the entry as YAML on one line, ready to paste."""
        return selector_yaml(self.selector)

    def has(self, row: Row) -> bool:
        """Return whether the entry matches all bill lines of the row's source, account and service."""
        if "instance_type" in self.selector:
            return False
        values = {"source": row["source"], "account": row["sub_account_id"], "service": row["service_name"]}
        return all(values[key] in ([wanted] if isinstance(wanted, str) else wanted) for key, wanted in self.selector.items())


@dataclass(frozen=True)
class LeftOut:
    """Cost that is in scope now but matched by no entry, by kind, in one currency."""

    currency: str
    kinds: Mapping[str, Decimal]


@dataclass(frozen=True)
class Allocated:
    """Cost of the ML platform, and the part of it that is allocated to runs. In the main currency of the period."""

    run_cost: Decimal = field(default=Decimal(0))
    platform_cost: Decimal = field(default=Decimal(0))


@dataclass(frozen=True)
class ScopeProposal:
    """Entries for `scope.include`, and the cost that they leave out because no selector matches it without other cost.

    `machines_cost`: cost of other machines in the same accounts that are out of scope now. Runs may use them without stating it.
    `now`, `then`: what is allocated to runs now, and with the entries. `other_months`: cost of runs in other months that the entries leave
    out, largest first.
    """

    entries: tuple[ScopeLine, ...] = ()
    left_out: tuple[LeftOut, ...] = ()
    machines_cost: Decimal = field(default=Decimal(0))
    now: Allocated = field(default_factory=Allocated)
    then: Allocated = field(default_factory=Allocated)
    other_months: tuple[Row, ...] = ()


def scope_proposal(reader: Reader, first: date) -> ScopeProposal:
    """Propose entries for `scope.include` that cover the default scope and every account and service with accelerators.

    An account whose cost is mostly in scope is included as a whole. Of other accounts, single services are included. Fees do not influence
    this choice. If only the accelerators of a service are to be included, the entry names their instance types. Fees without an account
    get their own entries if these add no other cost. Amounts are in the main currency of the period.
    """
    accelerated: dict[tuple[str, str, str], list[Row]] = defaultdict(list)
    machines: list[Row] = []
    for row in reader.query(ACCELERATED, {"first": first}).to_pylist():
        if is_accelerator(row["machine_gpus"], row["instance_type"], row["meter"]):
            accelerated[row["source"], row["sub_account_id"], row["service_name"]].append(row)
        else:
            machines.append(row)
    rows = reader.query(ACCOUNTS, {"first": first}).to_pylist()
    accounts: dict[tuple[str, str], list[dict[str, Any]]] = defaultdict(list)
    for row in rows:
        boxes = accelerated.get((row["source"], row["sub_account_id"], row["service_name"]), ())
        row["accelerated_cost"] = add(each["effective_cost"] for each in boxes)
        row["accelerated_types"] = sorted({each["instance_type"] for each in boxes}) if all(each["instance_type"] for each in boxes) else []
        accounts[row["source"], row["sub_account_id"]].append(row)
    whole: dict[str, list[dict[str, Any]]] = defaultdict(list)
    entries = []
    for (source, account), members in accounts.items():
        if account and add(r["inside_cost"] for r in members) and _is_mostly_inside(members):
            whole[source] += members
        else:
            entries += _service_lines({"source": source, **({"account": account} if account else {})}, members, rows)
    for source, members in whole.items():
        entries.append(_scope_line({"source": source, "account": list(dict.fromkeys(r["sub_account_id"] for r in members))}, rows))
    for source in dict.fromkeys(r["source"] for r in rows):
        entries = _with_fees(entries, [r for r in rows if r["source"] == source])
    in_part = {
        (entry.selector["source"], entry.selector.get("account", ""))
        for entry in entries
        if "service" in entry.selector and entry.inside_cost
    }
    return ScopeProposal(
        tuple(sorted(entries, key=lambda entry: (-entry.inside_cost, -entry.accelerated_cost))),
        _left_out(entries, reader.query(KINDS, {"first": first}).to_pylist()),
        add(
            row["effective_cost"]
            for row in machines
            if (row["source"], row["sub_account_id"]) in in_part and not any(entry.has(row) for entry in entries)
        ),
        *_allocated(entries, rows),
        _lost(entries, reader.query(OTHER_MONTHS, {"first": first}).to_pylist()) if entries else (),
    )


def _allocated(entries: Sequence[ScopeLine], rows: Sequence[Row]) -> tuple[Allocated, Allocated]:
    """Return what is allocated to runs now, and what would be allocated with these entries."""
    own = [r for r in rows if r["billing_currency"] == rows[0]["billing_currency"]]
    kept = [r for r in own if any(entry.has(r) for entry in entries)]
    types = [entry.outside_cost for entry in entries if "instance_type" in entry.selector]
    costs = ("inside_cost", "shared_cost")
    return (
        Allocated(add(r["run_cost"] for r in own), add(r[name] for r in own for name in costs)),
        Allocated(add(r["run_cost"] for r in kept), add([*(r[name] for r in kept for name in (*costs, "outside_cost")), *types])),
    )


def _lost(entries: Sequence[ScopeLine], rows: Sequence[Row]) -> tuple[Row, ...]:
    """Return the rows whose service and account are in no entry. An entry with instance types counts for its whole service."""
    whole = [replace(entry, selector={k: v for k, v in entry.selector.items() if k != "instance_type"}) for entry in entries]
    return tuple(r for r in rows if r["effective_cost"] and not any(entry.has(r) for entry in whole))


def _service_lines(place: Mapping[str, str], members: Sequence[Row], rows: Sequence[Row]) -> list[ScopeLine]:
    """Return the entries of an account that is not included as a whole: first its services, then its accelerators by instance type.

    If only the accelerators of a service are to be included, the entry names their instance types, where the bill has them.
    """
    named = [r for r in members if r["service_name"]]
    only_types = [r for r in named if not r["inside_cost"] and r["accelerated_types"]]
    wanted = [
        r
        for r in named
        # the last condition: platform services, if the entry adds no other cost
        if r not in only_types and (r["inside_cost"] or r["accelerated_cost"] or ("account" in place and _is_inside(r)))
    ]
    entries = [_scope_line({**place, "service": list(dict.fromkeys(r["service_name"] for r in wanted))}, rows)] if wanted else []
    if only_types:
        cost = add(r["accelerated_cost"] for r in only_types)
        types = sorted({name for r in only_types for name in r["accelerated_types"]})
        selector: dict[str, str | list[str]] = {
            **place,
            "service": list(dict.fromkeys(r["service_name"] for r in only_types)),
            "instance_type": types,
        }
        entries.append(ScopeLine(selector, Decimal(0), cost, cost))
    return entries


def _is_mostly_inside(rows: Sequence[Row]) -> bool:
    """Return whether the cost in scope is at least nine times the cost out of scope."""
    inside, outside = add(r["inside_cost"] for r in rows), add(r["outside_cost"] for r in rows)
    return inside >= EXACT.multiply(outside, Decimal(9))


def _with_fees(entries: list[ScopeLine], rows: Sequence[Row]) -> list[ScopeLine]:
    """Return the entries, completed with one bill's fees that they do not match. A new entry must not add any other cost.

    No selector can express "without an account". If the entries match all other cost of the bill, one entry for the whole bill replaces
    them. Otherwise, the new entry names those services of the fees that have no cost out of scope.
    """
    left = [r for r in rows if not any(entry.has(r) for entry in entries)]
    missed = [r for r in left if _is_inside(r)]
    if not missed:
        return entries
    source = missed[0]["source"]
    if all(_is_inside(r) for r in left):
        return [*(entry for entry in entries if entry.selector["source"] != source), _scope_line({"source": source}, rows)]
    outside = {r["service_name"] for r in left if not _is_inside(r)}
    named = list(dict.fromkeys(r["service_name"] for r in missed if r["service_name"] and r["service_name"] not in outside))
    if not named:
        return entries
    fees = [r for r in left if r["service_name"] in named]
    return [*entries, _scope_line({"source": source, "service": named}, fees)]


def _is_inside(row: Row) -> bool:
    return (row["inside_cost"] is not None or row["shared_cost"] is not None) and row["outside_cost"] is None


def _scope_line(selector: Mapping[str, str | list[str]], rows: Sequence[Row]) -> ScopeLine:
    """Return an entry for the selector, with the cost of the rows that it matches."""
    entry = ScopeLine(selector, Decimal(0), Decimal(0))
    own = [r for r in rows if entry.has(r)]
    inside = add(cost for r in own for cost in (r["inside_cost"], r["shared_cost"]))
    return replace(
        entry,
        inside_cost=inside,
        outside_cost=add(r["outside_cost"] for r in own),
        accelerated_cost=add(r["accelerated_cost"] for r in own),
    )


def _left_out(entries: Sequence[ScopeLine], rows: Sequence[Row]) -> tuple[LeftOut, ...]:
    left: dict[str, list[Row]] = defaultdict(list)
    for row in rows:
        if not any(entry.has(row) for entry in entries):
            left[row["billing_currency"]].append(row)
    found = {
        currency: {
            "usage": add(row["effective_cost"] for row in members if not row["is_shared"]),
            **shared_kinds(row for row in members if row["is_shared"]),
        }
        for currency, members in left.items()
    }
    ranked = {
        currency: {kind: kinds[kind] for kind in sorted(kinds, key=lambda kind: (-kinds[kind], kind)) if kinds[kind]}
        for currency, kinds in found.items()
    }
    return tuple(LeftOut(currency, kinds) for currency, kinds in ranked.items() if kinds)
