"""Random worlds, and the true cost of each run in them by brute force: every slice of time separately, in fractions.

The code follows the rules of the ledger and not its SQL: it has no clock, no windows and no joins.
"""

from __future__ import annotations

import datetime as dt
import itertools
import random
from collections import defaultdict
from decimal import Decimal
from fractions import Fraction
from typing import Any

from runspend.allocation.inputs import ALIVE_HOURS, SILENT_HOURS
from tests.allocation.chain import DAY, UTC, World, line, make_run

T0 = dt.datetime.combine(DAY, dt.time(), tzinfo=UTC)
Key = tuple[str, str]  # line id, and run id or kind of target


def random_world(seed: int, *, runs: int = 24, machines: int = 4, hours: int = 8) -> World:
    """Make runs that are parallel, nested, circular, stopped, never ended, of no length or on several nodes.

    The bill has lines of hours, parts of hours and days, with credits, corrections and fees.
    """
    draw, stops = random.Random(seed), random.Random(f"stops {seed}")
    world: World = {"billing_lines": [], "billing_loads": [], "runs": [], "run_resources": []}
    names = [f"m{n}" for n in range(machines)]
    ids = [f"run{n:03d}" for n in range(runs)]
    kind = draw.choice(("none", "gpus", "cpus", "memory", "mixed"))
    for index, run_id in enumerate(ids):
        start = T0 + dt.timedelta(seconds=draw.randrange(-3600, hours * 3600))
        end: dt.datetime | None = start + dt.timedelta(
            seconds=draw.choice((0, 1, draw.randrange(60, 7200), draw.randrange(3600, 20000), -5))
        )
        if draw.random() < 0.4:
            start, end = (t.replace(minute=draw.choice((0, 30)), second=0) for t in (start, end or start))
        more: dict[str, Any] = {}
        if draw.random() < 0.12:
            end = None
            if draw.random() < 0.7:
                more["last_sign"] = f"{start + dt.timedelta(minutes=draw.randrange(1, 500)):%Y-%m-%dT%H:%M:%S}"
        if kind in ("gpus", "mixed") and (kind == "gpus" or draw.random() < 0.7):
            more["gpu_count"] = draw.choice((0.0, 0.5, 1.0, 2.0, 4.0, 8.0))
        if kind in ("cpus", "mixed"):
            more["cpu_request"] = draw.choice((0.5, 2.0, 7.3))
        if kind == "memory":
            more["memory_request_gb"] = draw.choice((0.5, 16.0, 33.3))
        if draw.random() < 0.45:
            more["parent"] = draw.choice(ids[:index] or ids) if draw.random() < 0.9 else draw.choice([*ids, "missing"])
        stated = [] if draw.random() < 0.2 else draw.sample(names, draw.choice((1, 1, 1, 2)))
        on: list[Any] = [
            {
                "id": m,
                "from": f"{start + dt.timedelta(minutes=5):%Y-%m-%dT%H:%M:%S}",
                "to": f"{start + dt.timedelta(minutes=50):%Y-%m-%dT%H:%M:%S}",
            }
            if draw.random() < 0.1
            else m
            for m in stated
        ]
        if stops.random() < 0.25:  # stopped and resumed once or twice, perhaps for as long as it lasted
            cuts = sorted(start + dt.timedelta(minutes=stops.randrange(0, 300)) for _ in range(stops.choice((2, 2, 4))))
            more["gaps"] = [f"{a:%Y-%m-%dT%H:%M:%S}..{b:%Y-%m-%dT%H:%M:%S}" for a, b in zip(cuts[::2], cuts[1::2], strict=True) if a < b]
        at = f"{start:%Y-%m-%dT%H:%M:%S}..{f'{end:%Y-%m-%dT%H:%M:%S}' if end else ''}"
        run, resources = make_run(id=run_id, at=at, on=on, **more)
        world["runs"].append(run)
        world["run_resources"] += resources
    number = 0

    def add(**row: Any) -> None:
        nonlocal number
        number += 1
        world["billing_lines"].append(line(number, id=f"line-{number}", **row))

    for name in names:
        units = draw.choice(({}, {}, {"machine_gpus": 4, "machine_cpus": 16, "machine_memory_gb": 64.0}))
        day = draw.random() < 0.2
        if day:
            add(at="00:00..24:00", on=name, cost=_cost(draw), hours=draw.choice((None, 6, hours, 24)), **units)
        for hour in range(0 if not day else hours, hours):
            at = f"{hour:02d}:00..{hour + 1:02d}:00"
            billed = draw.choice((None, 1, 1, 0.25, "0.16666667"))
            add(at=at, on=name, cost=_cost(draw), hours=billed, **units)
            if draw.random() < 0.3:
                add(at=at, on=name, cost=_cost(draw), hours=draw.choice((1, 0.5)), sku_id="licence", **units)
            if draw.random() < 0.15:
                add(at=at, on=name, cost=-_cost(draw), charge_category="Credit")
            if draw.random() < 0.1:
                add(at=at, on=name, cost=-_cost(draw), charge_class="Correction", hours=-1)
            if draw.random() < 0.05:
                add(at=at, on=name, cost=_cost(draw), run_tag=draw.choice([*ids, "unknown"]), **units)
        if draw.random() < 0.3:
            add(at="00:20..00:20", on=name, cost=_cost(draw))
    add(at="00:00..01:00", on=None, cost=_cost(draw), charge_category="Tax")
    add(at="00:00..01:00", on="db", cost=_cost(draw), service_name="RDS", scope=None)
    add(at="00:00..01:00", on="sp", cost=_cost(draw), commitment_discount_status="Unused")
    add(at="00:00..01:00", on=names[0], cost=_cost(draw), hours=1, sku_id="reservation", capacity_reservation_status="Unused")
    draw.shuffle(world["billing_lines"])
    draw.shuffle(world["runs"])
    return world


def _cost(draw: random.Random) -> Decimal:
    return draw.choice(
        (
            Decimal(draw.randrange(1, 10**9)).scaleb(-6),
            Decimal(draw.randrange(1, 10**20)).scaleb(-13),
            Decimal(draw.randrange(10**9)).scaleb(-22),
            Decimal(0),
        )
    )


def true_costs(world: World) -> dict[Key, Fraction]:
    """Return what every line gives to runs, idle cost and other targets."""
    lines, runs = world["billing_lines"], {r["run_id"]: r for r in world["runs"]}
    spans, ancestors = _spans(world, runs), _ancestors(runs)
    first, last = _months(world)
    # a run of no length has no time, but its machine still serves runs
    empty = {
        run_id
        for run_id, r in runs.items()
        if r["end_time"] is not None and r["end_time"] <= r["start_time"] and first <= r["start_time"] < last
    }
    machines = {m for m, _ in spans} | {r["resource_key"] for r in world["run_resources"] if r["run_id"] in empty}
    inside = {l["sub_account_id"] for l in lines}  # every world has one account, with a line in scope
    truth: dict[Key, Fraction] = defaultdict(Fraction)
    for bill_line in lines:
        cost = Fraction(bill_line["effective_cost"])
        machine, start, end = bill_line["resource_key"], bill_line["charge_period_start"], bill_line["charge_period_end"]

        def give(target: str, part: Fraction, line_id: str = bill_line["line_id"]) -> None:
            truth[line_id, target] += part

        is_fee = bill_line["charge_category"] == "Tax" or _is_unused(bill_line)
        if bill_line.get("run_tag"):
            give(bill_line["run_tag"] if bill_line["run_tag"] in runs else "unallocated", cost)
        elif bill_line["scope"] is None and machine not in machines:
            give("out_of_scope", cost)
        elif is_fee:
            assert bill_line["sub_account_id"] in inside
            give("shared", cost)
        elif end <= start:
            give("unallocated", cost)
        else:
            shares = _window_shares(runs, ancestors, spans, lines, machine, start, end, world.get("earlier_lines", []))
            if shares:
                for run_id, part in shares.items():
                    give(run_id, cost * part)
            else:
                give("idle" if machine in machines else "unallocated", cost)
    return {key: value for key, value in truth.items() if value}


def _spans(world: World, runs: dict[str, dict[str, Any]]) -> dict[tuple[str, str], list[tuple[dt.datetime, dt.datetime]]]:
    """Return when each (machine, run) was in use, with inherited machines and assumed ends, clipped to the months of the bill."""
    stated: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for resource in world["run_resources"]:
        stated[resource["run_id"]].append(resource)
    ancestors = _ancestors(runs)
    billed = [
        (l["resource_key"], l["charge_period_end"])
        for l in world["billing_lines"]
        if l["resource_key"] and dt.timedelta() < l["charge_period_end"] - l["charge_period_start"] <= dt.timedelta(hours=25)
    ]
    served = {r["resource_key"] for r in world["run_resources"]}
    frontier = world.get("billed_until") or max((end for machine, end in billed if machine in served), default=T0)
    with_lines = {l["resource_key"] for l in world["billing_lines"]}
    first, last = _months(world)
    spans: dict[tuple[str, str], list[tuple[dt.datetime, dt.datetime]]] = defaultdict(list)
    for run_id, run in runs.items():
        mine = stated[run_id]
        for ancestor in ancestors[run_id]:
            mine = mine or stated[ancestor]
        for resource in mine:
            if resource["resource_key"] not in with_lines:
                continue
            start = max(resource["used_from"] or run["start_time"], run["start_time"])
            end = run["end_time"]
            if end is None:
                sign = run["last_sign_at"] or run["start_time"]
                if resource["used_to"] is not None:
                    end = resource["used_to"]
                elif sign >= frontier - dt.timedelta(hours=ALIVE_HOURS):
                    end = max(frontier, sign)
                elif run["last_sign_at"] is not None:
                    end = sign
                else:
                    end = run["start_time"] + dt.timedelta(hours=SILENT_HOURS)
            end = min(end, resource["used_to"] or end, last)
            start = max(start, first)
            if end > start:
                spans[resource["resource_key"], run_id].append((start, end))
    return spans


def _months(world: World) -> tuple[dt.datetime, dt.datetime]:
    """Return the whole months of the charges that are split by time."""
    timed = [
        l
        for l in world["billing_lines"]
        if l["resource_key"] and dt.timedelta() < l["charge_period_end"] - l["charge_period_start"] <= dt.timedelta(hours=25)
    ]
    first = min(l["charge_period_start"] for l in timed)
    last = max(l["charge_period_end"] for l in timed) - dt.timedelta(microseconds=1)
    first, last = (t.replace(day=1, hour=0, minute=0, second=0, microsecond=0) for t in (first, last))
    return first, (last + dt.timedelta(days=32)).replace(day=1)


def _ancestors(runs: dict[str, dict[str, Any]]) -> dict[str, list[str]]:
    """Return the ancestors of each run, nearest first. Runs in a circle have no ancestors and are not ancestors."""

    def walk(run_id: str) -> list[str]:
        chain: list[str] = []
        parent = runs[run_id]["parent_run_id"]
        while parent in runs and parent not in chain:
            chain.append(parent)
            parent = runs[parent]["parent_run_id"]
        return chain

    chains = {run_id: walk(run_id) for run_id in runs}
    circular = {run_id for run_id, chain in chains.items() if run_id in chain}
    return {run_id: [] if run_id in circular else [a for a in chain if a not in circular] for run_id, chain in chains.items()}


def _window_shares(
    runs: dict[str, dict[str, Any]],
    ancestors: dict[str, list[str]],
    spans: dict[tuple[str, str], list[tuple[dt.datetime, dt.datetime]]],
    lines: list[dict[str, Any]],
    machine: str,
    start: dt.datetime,
    end: dt.datetime,
    earlier: list[dict[str, Any]],
) -> dict[str, Fraction]:
    """Return each run's and idle part of the window's cost. It is empty if no run had the machine."""
    mine = {run_id: s for (m, run_id), s in spans.items() if m == machine}
    billed_from, billed_until = _billed_range([l for l in lines if l["resource_key"] == machine])
    of_the_period = _own_slices(mine, runs, ancestors, billed_from, billed_until) if mine else []
    everyone = of_the_period or (_own_slices(mine, runs, ancestors, *_extent(mine)) if mine else [])
    sharers = {run_id for _, _, active in everyone for run_id in active}
    weights, units, unknown, others = _weights(
        {r: runs[r] for r in sharers}, {r: runs[r] for r in mine}, [l for l in lines if l["resource_key"] == machine]
    )
    times: dict[str, Fraction] = defaultdict(Fraction)
    for a, b, active in _own_slices(mine, runs, ancestors, start, end):
        asked = sum(weights[r] for r in active)
        for run_id in active:
            part = Fraction(weights[run_id], max(asked, units or asked))
            if unknown & set(active):
                part = Fraction(others[run_id], sum(others[r] for r in active))
            times[run_id] += _seconds(b - a) * part
    if not times:
        return {}
    billed = _billed(lines, machine, start, end) or _billed(earlier, machine, start, end) or _seconds(end - start)
    busy = sum(times.values())
    total = max(billed, busy)
    shares = {run_id: part / total for run_id, part in times.items()}
    if total > busy:
        shares["idle"] = (total - busy) / total
    return shares


def _billed_range(lines: list[dict[str, Any]]) -> tuple[dt.datetime, dt.datetime]:
    """Return when a machine is billed in the period, without corrections of other times. Runs in it decide the kind of weight."""
    plain = [
        l for l in lines if not l.get("charge_class") and l["charge_period_end"] - l["charge_period_start"] <= dt.timedelta(hours=25)
    ] or lines
    return min(l["charge_period_start"] for l in plain), max(l["charge_period_end"] for l in plain)


def _extent(mine: dict[str, list[tuple[dt.datetime, dt.datetime]]]) -> tuple[dt.datetime, dt.datetime]:
    """Return the time from the first moment that any run had the machine to the last."""
    return min(start for s in mine.values() for start, _ in s), max(end for s in mine.values() for _, end in s)


def _own_slices(
    mine: dict[str, list[tuple[dt.datetime, dt.datetime]]],
    runs: dict[str, dict[str, Any]],
    ancestors: dict[str, list[str]],
    start: dt.datetime,
    end: dt.datetime,
) -> list[tuple[dt.datetime, dt.datetime, list[str]]]:
    """Return slices between `start` and `end` with the runs that pay: active runs without an active descendant.

    A stopped descendant counts as active.
    """
    gaps = {
        r: [tuple(dt.datetime.fromisoformat(t.replace("Z", "+00:00")) for t in gap.split("/")) for gap in runs[r].get("gaps") or ()]
        for r in mine
    }
    marks = sorted({min(max(t, start), end) for s in (*mine.values(), *gaps.values()) for pair in s for t in pair} | {start, end})
    slices = []
    for a, b in itertools.pairwise(marks):
        there = [r for r, s in mine.items() if any(x <= a and b <= y for x, y in s)]
        payers = [r for r in there if not any(r in ancestors[other] for other in there) and not any(x <= a and b <= y for x, y in gaps[r])]
        if payers:
            slices.append((a, b, payers))
    return slices


def _weights(
    deciding: dict[str, dict[str, Any]], runs: dict[str, dict[str, Any]], lines: list[dict[str, Any]]
) -> tuple[dict[str, int], int | None, set[str], dict[str, int]]:
    """Return the weight of each run, the machine's units, the runs whose weight is unknown, and the weights while one of these is active."""

    def most(column: str) -> Any:
        return max((l[column] for l in lines if l.get(column)), default=None)

    def whole(value: float) -> int:
        return int(Decimal(str(value)).to_integral_value("ROUND_HALF_UP"))

    def up(value: float) -> int:
        return int(Decimal(str(value)).to_integral_value("ROUND_CEILING"))

    use = {k: min(100, max(1, whole(r.get("mean_use_percent") or 0))) for k, r in runs.items()}
    measured = [r.get("mean_use_percent") is not None for r in deciding.values()]
    others = use if deciding and all(measured) else dict.fromkeys(runs, 1)
    for states in (all, any):
        for column, scale, machine_column in (
            ("gpu_count", 100, "machine_gpus"),
            ("cpu_request", 10, "machine_cpus"),
            ("memory_request_gb", None, "machine_memory_gb"),
        ):
            if (
                deciding
                and states(r.get(column) is not None for r in deciding.values())
                and (column != "gpu_count" or any((r[column] or 0) > 0 for r in deciding.values()))
            ):
                have = most(machine_column)
                unknown = {k for k, r in runs.items() if r.get(column) is None}
                asked = {k: 1 if k in unknown else r[column] for k, r in runs.items()}
                weights = {k: min(10000, max(1, up(n) if scale is None else whole(n * scale))) for k, n in asked.items()}
                return weights, None if not have else up(have) if scale is None else have * scale, unknown, others
    if any(measured):
        return use, None, {k for k, r in runs.items() if r.get("mean_use_percent") is None}, others
    return dict.fromkeys(runs, 1), None, set(), others


def _billed(lines: list[dict[str, Any]], machine: str, start: dt.datetime, end: dt.datetime) -> Fraction | None:
    """Return the machine's time in the window, or None if no line states it."""
    window = _seconds(end - start)
    per_sku: dict[str, Fraction] = defaultdict(Fraction)
    for l in lines:
        is_here = (l["resource_key"], l["charge_period_start"], l["charge_period_end"]) == (machine, start, end)
        is_time = l["charge_category"] == "Usage" and not l.get("charge_class") and (l["billed_nanoseconds"] or 0) > 0
        if is_here and is_time and not _is_unused(l):
            per_sku[l["sku_id"]] += Fraction(l["billed_nanoseconds"], 10**9)
    return min(max(per_sku.values()), window) if per_sku else None


def _is_unused(bill_line: dict[str, Any]) -> bool:
    return "Unused" in (bill_line.get("commitment_discount_status"), bill_line.get("capacity_reservation_status"))


def _seconds(span: dt.timedelta) -> Fraction:
    return Fraction(span // dt.timedelta(microseconds=1), 10**6)
