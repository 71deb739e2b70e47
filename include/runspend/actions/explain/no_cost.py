"""Find why a run has no cost. The reasons are checked in a fixed order, and each has one action to take.

This is used only for a run without a charge. It reads the run's machines, their bill lines, and the freshness of the sources.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any

from runspend.actions.explain.figures import NoCost
from runspend.actions.explain.find import ask, clean
from runspend.config.settings import Settings
from runspend.core.amounts import instant, plain
from runspend.warehouse.base import Reader

Row = dict[str, Any]
IDENTIFY = "docs/identify.md"


def why_no_cost(reader: Reader, settings: Settings, rows: Sequence[Row], *, now: datetime, resources: Sequence[Row]) -> NoCost:
    """Return the first reason that applies.

    `rows` has the rows of the run from `sql/run.sql`. `resources` are the machines that the run or its nearest ancestor states.
    """
    run = rows[0]
    start, end = run["start_time"], run["end_time"]
    if start is None:
        return NoCost(
            "no_start",
            "MLflow has no start time for it, so Runspend cannot split charges by time.",
            f"Log the run with a start time, or tag its resources with its id ({IDENTIFY}).",
        )
    if end is not None and end <= start:
        words = (
            "it started and ended at the same time"
            if end == start
            else f"it ended {_span(start - end)} before it started, because two clocks differ"
        )
        return NoCost(
            "zero_length",
            f"It has no duration, so it gets no cost by time: {words}.",
            f"If it used a machine, tag that machine with the run's id ({IDENTIFY}).",
        )
    keys = sorted({r["resource_key"] for r in resources if r["resource_key"]})
    if not keys and not run["job_key"] and not run["pool_key"]:
        if run["instance_type"] and (of_bills := _of_bills(reader, settings, start)):
            return of_bills
        stated = [str(run[c]).replace("_", " ") for c in ("purchase_option", "availability_zone", "region_id", "sub_account_id") if run[c]]
        place = f" ({clean(', '.join(stated))})" if stated else ""
        agree = " that matches" if stated else " of that type"
        kind = (
            f". Only its instance type {clean(run['instance_type'])}{place} is known, and no unused charge{agree} is left"
            if run["instance_type"]
            else ""
        )
        return NoCost(
            "no_machine",
            f"Neither the run nor a parent run states a machine, and no pool contains it{kind}.",
            f"Set MLFLOW_RUN_CONTEXT on the machine, or name its machines in `pools:` ({IDENTIFY}).",
        )
    return _of_bills(reader, settings, start) or _of_lines(reader, run, keys, start, end or now)


def _of_bills(reader: Reader, settings: Settings, start: datetime) -> NoCost | None:
    """Return a reason from the bills: none is configured, none covers the run's start yet, or one could not be read. Otherwise None."""
    if not settings.billing and not ask(reader, "bills"):
        return NoCost("no_bill", "No bill is configured.", "Add one under `billing:` in runspend.yaml.")
    reached: dict[str, datetime | None] = {}
    for bill in ask(reader, "bills"):
        known = [t for t in (reached.get(bill["source"]), bill["covered_until"]) if t is not None]
        reached[bill["source"]] = max(known, default=None)
    troubles = {
        r["source"]: r
        for r in reader.query("select source, state, last_error from sources where kind = 'bill' order by source").to_pylist()
    }
    names = {*reached, *troubles, *(b.name for b in settings.billing)}
    behind = sorted(name for name in names if (until := reached.get(name)) is None or until <= start)
    if len(behind) < len(names):
        return None  # a bill that covers its hours is loaded
    down = [name for name in behind if troubles.get(name, {}).get("state") in ("refused", "unreachable", "late")]
    if down:
        error = troubles[down[0]]
        return NoCost(
            "source_down",
            f"The bill {down[0]} is {error['state']} and {_reach(reached.get(down[0]))}; the run started {instant(start)}.",
            f"Fix it: {clean(error['last_error'])}" if error["last_error"] else "Ask its provider, or run: runspend doctor",
        )
    newest = max((t for t in reached.values() if t is not None), default=None)
    return NoCost(
        "no_bill_yet",
        f"Its hours are not billed yet: the newest bill {_reach(newest)}; the run started {instant(start)}.",
        "Wait for the next pipeline run. `runspend status` shows the typical lag of each bill.",
    )


def _of_lines(reader: Reader, run: Row, keys: Sequence[str], start: datetime, end: datetime) -> NoCost:
    """Return a reason from the cost tables, or from the bill lines of the run's machines."""
    if run["cost_with_children"]:
        family = f"{plain(run['cost_with_children'])} {run['billing_currency']}"
        return NoCost("children", f"Its child runs cover all of its time and get its cost: together {family}.", "Explain its child runs.")
    if not run["is_summarized"]:
        return _of_month(reader, start)
    seen = {r["resource_key"]: r for r in ask(reader, "machine_on_bill", keys=list(keys), starts_at=start, ends_at=end)} if keys else {}
    then = [r for r in seen.values() if r["lines_then"]]
    if keys and not seen:
        return NoCost(
            "not_on_bill",
            f"No loaded bill has a charge for {_some(keys)}{_near(reader, keys[0])}.",
            f"State the machine as the bill's ResourceId column does ({IDENTIFY}). If `scope:` excludes its account, extend it.",
        )
    if keys and not then:
        row = next(iter(seen.values()))
        return NoCost(
            "not_on_bill",
            f"The bill has {clean(row['resource_key'])} from {row['first_at']:%d %b %H:%M} to {row['last_at']:%d %b %H:%M} UTC, but not during the run.",
            "Check the clocks, and whether the machine's name was reused.",
        )
    if then and all(r["excluded_then"] == r["lines_then"] for r in then):
        return NoCost(
            "out_of_scope",
            f"`scope:` excludes the charges of {_some([r['resource_key'] for r in then])}.",
            "Add its account or tag to `scope.include`, then run: runspend load",
        )
    if then and all(r["pod_lines_then"] == r["lines_then"] for r in then):
        return NoCost(
            "split_into_pods",
            f"The bill gives the cost of {_some([r['resource_key'] for r in then])} to its pods.",
            f"Let the run state its pod ({IDENTIFY}#kubernetes), or set `pods: whole` on the bill {clean(then[0]['source'])}, then run: runspend load",
        )
    if not keys:
        what = f"pool {run['pool_key']}" if run["pool_key"] else f"job {run['job_id']}"
        return NoCost(
            "not_on_bill",
            f"The bill has no charge for the run's {clean(what)} during the run.",
            "Check `lines:` of the pool, or the bill itself (runspend sql).",
        )
    return NoCost(
        "unknown",
        "The bill has charges for its machine at that time, but none was allocated to the run.",
        "Run: runspend explain --resource " + clean(then[0]["resource_id"]),
    )


def _of_month(reader: Reader, start: datetime) -> NoCost:
    """Return the reason for a run that is newer than the cost tables.

    The next pipeline run builds the tables, unless the month is closed. Then only a changed bill or an explicit command rebuilds them.
    """
    month = f"{start:%Y-%m}"
    states = reader.query(
        "select state from period_states where billing_period = @period and state = 'closed'", {"period": start.date().replace(day=1)}
    )
    if states.num_rows:
        return NoCost(
            "not_allocated",
            f"{month} was closed before Runspend read the run, so its costs no longer change.",
            f"Run: runspend allocate --period {month}",
        )
    return NoCost("not_allocated", "The cost tables are older than the run.", "Run: runspend allocate")


def _reach(until: datetime | None) -> str:
    return f"is complete to {instant(until)}" if until is not None else "was never read successfully"


def _span(length: timedelta) -> str:
    return f"{length.total_seconds():,.0f} s"


def _some(names: Sequence[str]) -> str:
    return clean(names[0]) if len(names) == 1 else f"{clean(names[0])} or {len(names) - 1} more"


def _near(reader: Reader, key: str) -> str:
    """Return a remark with the machines of the bill whose name contains the last part of this name, or an empty text."""
    part = max((key.rpartition(mark)[2] for mark in "/:."), key=lambda p: (p != key, len(p))).lower()
    found: Sequence[Mapping[str, Any]] = ask(reader, "near_resources", part=part) if len(part) > 2 else []
    return f" (it has {', '.join(clean(r['resource_key']) for r in found[:3])})" if found else ""
