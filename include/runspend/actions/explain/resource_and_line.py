"""Explain a resource by hour, or a bill line and its targets. If a name is not a run, suggest the option that explains it.

This module only reads. An unknown name raises an error that lists similar names. `figures.py` defines the values.
"""

from __future__ import annotations

import json
import shlex
from collections import defaultdict
from collections.abc import Sequence
from datetime import date, datetime
from decimal import Decimal
from typing import Any

from runspend.actions.explain.figures import LineExplanation, MachineHour, ResourceExplanation, RunExplanation, Share, Target, User
from runspend.actions.explain.find import AmbiguousName, UnknownName, ask, clean
from runspend.actions.explain.run import ZERO, Names, costs_of, explain_run, run_key_of, summed
from runspend.config.settings import Settings
from runspend.core.amounts import add, plain
from runspend.core.errors import UsageError
from runspend.schema.rows import first_day
from runspend.schema.tables import FOCUS_COLUMNS
from runspend.warehouse.base import Reader

Row = dict[str, Any]
SETTLED = (
    "resource_key", "run_tag", "job_key", "attached_to", "group_keys", "storage_key", "storage_class", "pool_key", "instance_type",
    "machine_gpus", "machine_cpus", "machine_memory_gb", "billed_nanoseconds", "node_key", "node_instance_type", "node_gpus", "line_team", "line_project", "line_cost_center", "line_owner", "scope",
)  # fmt: skip
SHORTEST_LINE = 6
EARLIEST, LATEST = date(1970, 1, 1), date(9999, 1, 1)


def explain_named(reader: Reader, text: str, settings: Settings, *, now: datetime, period: str | None = None) -> RunExplanation:
    """Return the explanation of the run that `text` names, for a person at a terminal.

    Raises UnknownName if `text` is a resource or a bill line instead; the message has the command that explains it. Raises
    AmbiguousName if several runs match, and UsageError or UnknownName if none does.
    """
    try:
        return explain_run(reader, text, settings, now=now, period=period)
    except AmbiguousName:
        raise
    except UsageError as error:
        wanted, shown = text.strip(), clean(text.strip())
        for kind, option, is_one in (("resource", "--resource", _is_resource), ("charge", "--line", _is_line)):
            if is_one(reader, wanted):
                raise UnknownName(
                    f"cannot find run {shown!r}: it is a {kind} of a bill. Run: runspend explain {option} {shlex.quote(shown)}"
                ) from error
        near = ask(reader, "near_resources", part=wanted.lower()) if len(wanted) > 2 and not getattr(error, "candidates", ()) else []
        if not near:
            raise
        names = ", ".join(clean(r["resource_key"]) for r in near)
        raise UnknownName(
            f"{error} Billed resources with a similar name: {names}. Explain one with: runspend explain --resource ID"
        ) from error


def _is_resource(reader: Reader, text: str) -> bool:
    return bool(ask(reader, "resource_ids", resource=text))


def _is_line(reader: Reader, text: str) -> bool:
    return len(text) >= SHORTEST_LINE and bool(ask(reader, "find_lines", id=text, first_period=EARLIEST, last_period=LATEST))


def explain_resource(reader: Reader, text: str, *, period: str | None = None) -> ResourceExplanation:
    """Return the explanation of a resource by hour of one billing period: `period` ("YYYY-MM"), or its newest one.

    `text` is the resource's ResourceId, its normalized form (`resource_key`), or the last parts of that form. Raises UnknownName if
    no charge of the resource was found or allocated, and UsageError if it is billed in several currencies.
    """
    rows = find_resource(reader, text)
    periods = sorted({f"{r['billing_period']:%Y-%m}" for r in rows})
    chosen = period or periods[-1]
    if chosen not in periods:
        raise not_billed_in(text, chosen, periods)
    mine = [r for r in rows if f"{r['billing_period']:%Y-%m}" == chosen]
    resources = sorted({r["resource_id"] for r in mine})
    found = ask(
        reader, "machines", resources=resources, first_date=min(r["first_date"] for r in mine), last_date=max(r["last_date"] for r in mine)
    )
    found = [r for r in found if f"{r['billing_period']:%Y-%m}" == chosen]
    if not found:
        raise not_allocated(text, chosen)
    currencies = sorted({r["billing_currency"] for r in found})
    if len(currencies) > 1:
        raise UsageError(
            f"cannot explain resource {clean(text)!r}: it is billed in {' and '.join(currencies)}. To see each currency, use `runspend sql`."
        )
    names = Names(reader, {key for key in map(run_key_of, found) if key is not None})
    hours = hours_of(found, names)
    return ResourceExplanation(
        resource_id=resources[0] if len(resources) == 1 else mine[0]["resource_key"],
        instance_type=next((r["instance_type"] for r in mine if r["instance_type"]), None),
        period=chosen,
        other_periods=tuple(p for p in periods if p != chosen),
        currency=currencies[0],
        effective_cost=add([h.effective_cost for h in hours]),
        hours=hours,
        users=users_of(hours),
    )


def not_billed_in(text: str, period: str, periods: Sequence[str]) -> UnknownName:
    """Return the error for a resource that has no charge in this billing period."""
    return UnknownName(f"cannot find resource {clean(text)!r} in {period}: it is billed in {', '.join(periods)}. Name one of them.")


def not_allocated(text: str, period: str) -> UnknownName:
    """Return the error for a resource whose charges were not allocated in this billing period."""
    return UnknownName(
        f"cannot explain resource {clean(text)!r} in {period}: its charges are out of scope, or the month was not allocated yet. Check `scope:` in runspend.yaml, or run: runspend allocate"
    )


def find_resource(reader: Reader, wanted: str) -> list[Row]:
    """Return the rows of the one resource that a string names: one per spelling, billing period and month of its charges.

    Raises UnknownName if no resource matches, or if several do.
    """
    rows = ask(reader, "resource_ids", resource=wanted)
    if not rows and wanted != wanted.strip():
        return find_resource(reader, wanted.strip())
    if not rows:
        near = ask(reader, "near_resources", part=wanted.lower()) if len(wanted) > 2 else []
        hint = f" Did you mean: {', '.join(clean(r['resource_key']) for r in near)}?" if near else ""
        raise UnknownName(f"cannot find resource {clean(wanted)!r}: no loaded bill has a charge for it.{hint}")
    rows = [r for r in rows if wanted in (r["resource_key"], r["resource_id"])] or rows
    keys = sorted({r["resource_key"] for r in rows})
    if len(keys) > 1:
        raise UnknownName(
            f"cannot tell which resource {clean(wanted)!r} is: the bill has {', '.join(clean(key) for key in keys[:5])}. Name one of them."
        )
    return rows


def hours_of(rows: Sequence[Row], names: Names) -> tuple[MachineHour, ...]:
    """Return the billed windows of a resource in order of time, each with its cost and its targets."""
    windows: dict[tuple[datetime, datetime], list[Row]] = defaultdict(list)
    for row in rows:
        windows[row["charge_period_start"], row["charge_period_end"]].append(row)
    return tuple(_hour(start, end, found, names) for (start, end), found in sorted(windows.items()))


def _hour(start: datetime, end: datetime, rows: Sequence[Row], names: Names) -> MachineHour:
    whole = add([r["effective_cost"] or ZERO for r in rows])
    targets: dict[str, list[Row]] = defaultdict(list)
    for row in rows:
        targets[row["target_id"]].append(row)
    shares = []
    for found in targets.values():
        key = run_key_of(found[0])
        cost = add([r["effective_cost"] or ZERO for r in found])
        shares.append(Share(found[0]["allocated_to"], key, names.name(key), None, float(cost / whole) if whole else 0.0, cost))
    shares.sort(key=lambda s: (s.run is None, -s.effective_cost, s.allocated_to))
    return MachineHour(start, end, len({r["charge_id"] for r in rows}), whole, tuple(shares))


def users_of(hours: Sequence[MachineHour]) -> tuple[User, ...]:
    """Return the targets of all windows, highest cost first. Each has its total cost and its number of windows."""
    grouped: dict[tuple[str, Any], list[Share]] = defaultdict(list)
    for hour in hours:
        for share in hour.shares:
            grouped[share.allocated_to, share.run].append(share)
    whole = add([h.effective_cost for h in hours])
    users = []
    for shares in grouped.values():
        cost = add([s.effective_cost for s in shares])
        first = shares[0]
        users.append(
            User(Share(first.allocated_to, first.run, first.run_name, None, float(cost / whole) if whole else 0.0, cost), len(shares))
        )
    return tuple(sorted(users, key=lambda u: (-u.share.effective_cost, u.share.allocated_to, str(u.share.run))))


def explain_line(reader: Reader, text: str, *, period: str | None = None) -> LineExplanation:
    """Return the explanation of a bill line, or of a charge that combines several lines.

    `text` is the full id, or at least six characters of its beginning or end. `period` ("YYYY-MM") limits the search to one billing
    period. Raises UsageError if `text` is too short, UnknownName if no line matches, and AmbiguousName if several do.
    """
    wanted = text.strip().removeprefix("…")
    if len(wanted) < SHORTEST_LINE:
        raise UsageError(f"cannot find line {clean(wanted)!r}: the id is too short. Give at least {SHORTEST_LINE} characters.")
    first, last = (first_day(period),) * 2 if period else (EARLIEST, LATEST)
    rows = ask(reader, "find_lines", id=wanted, first_period=first, last_period=last)
    rows = [r for r in rows if r["line_id"] == wanted] or rows
    if not rows:
        raise UnknownName(
            f"cannot find line {clean(wanted)!r}: no loaded bill has a charge whose id starts or ends like this. `runspend explain RUN` shows the charges of a run."
        )
    if len(rows) > 1:
        listed = "\n".join(f"  {clean(r['line_id'])}  {r['source']} {r['billing_period']:%Y-%m}" for r in rows)
        raise AmbiguousName(f"cannot tell which line {clean(wanted)!r} is: {len(rows)} or more match. Give more of the id:\n{listed}")
    key = {"source": rows[0]["source"], "period": rows[0]["billing_period"]}
    line_id = rows[0]["line_id"]
    delivered = ask(reader, "line", line=line_id, **key)
    pooled = ask(reader, "line_charge", line=line_id, **key)
    charge_id = pooled[0]["charge_id"] if pooled else line_id
    rows_of = ask(reader, "targets", charge=charge_id, **key)
    if pooled and delivered:  # the part of the line for runs that state their machine is a separate charge
        rows_of = [*ask(reader, "targets", charge=line_id, **key), *rows_of]
    targets = _targets(reader, rows_of)
    row = delivered[0] if delivered else {}
    currency = row.get("billing_currency") or (rows_of[0]["billing_currency"] if rows_of else "")
    return LineExplanation(
        source=key["source"],
        period=f"{key['period']:%Y-%m}",
        line_id=line_id,
        facts=tuple((_focus_name(c.name), _text(row[c.name])) for c in FOCUS_COLUMNS if row.get(c.name) is not None),
        settled=tuple((name, _text(row[name])) for name in SETTLED if row.get(name) not in (None, [])),
        charge_id=charge_id if rows_of else None,
        lines_in_charge=max(len(pooled), 1),
        currency=currency,
        line_costs=costs_of(row) if row else None,
        targets=targets,
        summed=summed(t.costs for t in targets),
    )


def _targets(reader: Reader, rows: Sequence[Row]) -> tuple[Target, ...]:
    names = Names(reader, {key for key in map(run_key_of, rows) if key is not None})
    return tuple(
        Target(
            r["allocated_to"],
            key,
            r["owner_id"],
            names.name(key),
            r["allocated_ratio"] if r["allocated_ratio"] is not None else 1.0,
            costs_of(r),
            r["match_method"],
            r["confidence"],
            r["reason"],
            r["weight_kind"],
            r["run_end_rule"],
            bool(r["is_scaled"]),
        )
        for r, key in ((r, run_key_of(r)) for r in rows)
    )


def _focus_name(column: str) -> str:
    """Return the FOCUS name of a column: BilledCost for billed_cost."""
    return "".join(word.capitalize() for word in column.split("_"))


def _text(value: Any) -> str:
    """Return a value as text for people, not rounded."""
    if isinstance(value, Decimal):
        return plain(value)
    if isinstance(value, datetime):
        return f"{value:%Y-%m-%dT%H:%M:%SZ}"
    if isinstance(value, list):
        return json.dumps(value, ensure_ascii=False)
    return str(value)
