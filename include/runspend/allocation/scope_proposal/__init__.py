"""Proposes entries for `scope.include`, and lists single bill lines that are out of scope: the ledger keeps only their sums.

The kinds of those lines, and advice about them, are in `allocation/without_run`.
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
    """One entry of `scope.include`: cost it covers that is in scope now, and cost it adds. `accelerated_cost`: added accelerators."""

    selector: Mapping[str, str | list[str]]
    inside_cost: Decimal
    outside_cost: Decimal
    accelerated_cost: Decimal = field(default=Decimal(0))

    @property
    def yaml(self) -> str:
        """Return the entry, ready to paste: JSON is YAML."""
        return selector_yaml(self.selector)

    def has(self, row: Row) -> bool:
        """Whether the entry matches all bill lines of this source, account and service."""
        if "instance_type" in self.selector:
            return False
        values = {"source": row["source"], "account": row["sub_account_id"], "service": row["service_name"]}
        return all(values[key] in ([wanted] if isinstance(wanted, str) else wanted) for key, wanted in self.selector.items())


@dataclass(frozen=True)
class LeftOut:
    """Cost in one currency that is in scope now and that no entry matches, by kind."""

    currency: str
    kinds: Mapping[str, Decimal]


@dataclass(frozen=True)
class Allocated:
    """Cost of the ML platform in the period's main currency, and the part of it that runs have."""

    run_cost: Decimal = field(default=Decimal(0))
    platform_cost: Decimal = field(default=Decimal(0))


@dataclass(frozen=True)
class ScopeProposal:
    """Entries for `scope.include`, and what they leave out because no selector matches it without other cost.

    `machines_cost`: other machines in the same accounts, out of scope now. Their runs may only be unknown. `now`, `then`: what is
    allocated to runs now and with the entries. `other_months`: cost of runs in other months that the entries leave out, largest first.
    """

    entries: tuple[ScopeLine, ...] = ()
    left_out: tuple[LeftOut, ...] = ()
    machines_cost: Decimal = field(default=Decimal(0))
    now: Allocated = field(default_factory=Allocated)
    then: Allocated = field(default_factory=Allocated)
    other_months: tuple[Row, ...] = ()


def scope_proposal(reader: Reader, first: date) -> ScopeProposal:
    """Propose entries for `scope.include`: the contents of the default scope, and every account and service with accelerators.

    An account that belongs mostly to the platform is named as a whole; of other accounts, single services: fees do not decide this. An
    account with nothing but accelerators to include is named with their instance types.
    Fees without an account get entries of their own where these add no other cost. Amounts are in the period's main currency.
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
    """Return what is allocated to runs now, and with these entries."""
    own = [r for r in rows if r["billing_currency"] == rows[0]["billing_currency"]]
    kept = [r for r in own if any(entry.has(r) for entry in entries)]
    types = [entry.outside_cost for entry in entries if "instance_type" in entry.selector]
    costs = ("inside_cost", "shared_cost")
    return (
        Allocated(add(r["run_cost"] for r in own), add(r[name] for r in own for name in costs)),
        Allocated(add(r["run_cost"] for r in kept), add([*(r[name] for r in kept for name in (*costs, "outside_cost")), *types])),
    )


def _lost(entries: Sequence[ScopeLine], rows: Sequence[Row]) -> tuple[Row, ...]:
    """Return the rows whose service and account no entry is about."""
    whole = [replace(entry, selector={k: v for k, v in entry.selector.items() if k != "instance_type"}) for entry in entries]
    return tuple(r for r in rows if r["effective_cost"] and not any(entry.has(r) for entry in whole))


def _service_lines(place: Mapping[str, str], members: Sequence[Row], rows: Sequence[Row]) -> list[ScopeLine]:
    """Return the entries of an account that is not the platform's as a whole: its services that are in scope, then its accelerators.

    A service with nothing but accelerators to include is named with their instance types, where the bill has them.
    """
    named = [r for r in members if r["service_name"]]
    only_types = [r for r in named if not r["inside_cost"] and r["accelerated_types"]]
    wanted = [
        r
        for r in named
        # platform services, if the entry adds no other cost
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
    """Return whether at least nine tenths of the money is in scope."""
    inside, outside = add(r["inside_cost"] for r in rows), add(r["outside_cost"] for r in rows)
    return inside >= EXACT.multiply(outside, Decimal(9))


def _with_fees(entries: list[ScopeLine], rows: Sequence[Row]) -> list[ScopeLine]:
    """Return the entries with those of one bill's fees that they miss. An entry is added only if it adds no other cost.

    No selector means "without an account". So the whole bill is named if the entries have all its other cost. Otherwise, the fees'
    services are named, if nothing else of the bill has them.
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
    """Return the entry with the cost of the rows that it matches."""
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
