"""Random worlds for the rules that price from a pool, with each line's parts computed by brute force, slice by slice, in fractions.

The code follows the rules and not the models: it has no clocks, no hours and no joins.
"""

from __future__ import annotations

import datetime as dt
import itertools
import math
import random
from collections import defaultdict
from collections.abc import Mapping
from decimal import Decimal
from fractions import Fraction
from typing import Any

from runspend.allocation.inputs import ALIVE_HOURS, SILENT_HOURS
from tests.allocation.chain import World, moment
from tests.allocation.pooled_chain import WINDOW_END, WINDOW_START, artifact, pool_run, rest_line

Key = tuple[str, str]  # line id, target
KINDS = (("gpu_count", "machine_gpus", 100), ("cpu_request", "machine_cpus", 10), ("memory_request_gb", "machine_memory_gb", 1))
MOST = {"gpu_count": 100, "cpu_request": 1000, "memory_request_gb": 10_000}
HOUR = dt.timedelta(hours=1)
PLACES = {"sub_account_id": "123", "region_id": ("r1", "r2"), "availability_zone": ("r1a", "r2a"), "purchase_option": ("spot", "on_demand")}
STATED = (
    ("sub_account_id", "sub_account_id"),
    ("region_id", "region_id"),
    ("availability_zone", "availability_zone"),
    ("purchase_option", "pricing_category"),
)  # column of a run, column of a line
OPTIONS = {"Dynamic": "spot", "Standard": "on_demand", "Committed": "on_demand"}
LINE_KEYS = ("source", "line_id", "resource_key", "pool_key", "instance_type")


def merge_pool_worlds(worlds: Mapping[str, World]) -> World:
    """Merge several worlds, where each has its own bill, server, pools, types and buckets."""
    merged: World = {"lines": [], "runs": [], "artifacts": [], "traces": [], "next_lines": []}
    for name, world in worlds.items():

        def own(text: str | None, name: str = name) -> str | None:
            return None if text is None else f"{name}.{text}"

        accounts = {row["store"].partition("@")[2].partition(".")[0].lower() for row in world["artifacts"]}  # their names have no dots
        for table in ("lines", "next_lines"):
            for line in world.get(table, []):
                key = line.get("storage_key")
                stored = {"storage_key": f"{name}-{key}" if key in accounts else own(key)}
                merged[table].append({**line, **{column: own(line.get(column)) for column in LINE_KEYS}, **stored})
        for run in world["runs"]:
            merged["runs"].append({**run, **{column: own(run.get(column)) for column in ("tracking_server", "pool_key", "instance_type")}})
        for row in world["artifacts"]:
            store = row["store"]
            store = store.replace("@", f"@{name}-") if "@" in store else store.replace("://", f"://{name}.")
            merged["artifacts"].append({**row, "store": store, "tracking_server": own(row["tracking_server"])})
        merged["traces"] += [{**row, "tracking_server": own(row["tracking_server"])} for row in world["traces"]]
    return merged


def rented_in(worlds: Mapping[str, World]) -> dict[str, str]:
    """Return the models' parameter for the rented pools of these worlds."""
    return {"rented_pools": "|".join(["", *(f"{name}.rented" for name in worlds), ""])}


def random_pools(seed: int, *, runs: int = 18, machines: int = 4, hours: int = 6) -> World:
    """Make pools and types with machines by hour, minute and day.

    Their runs are parallel, nested, never ended, claimed, or on several nodes.
    """
    draw = random.Random(seed)
    world: World = {"lines": [], "runs": [], "artifacts": [], "traces": []}
    stated = draw.choice(("nothing", "gpus", "cpus", "memory", "use", "mixed"))
    pools, types = ["pool", "rented"], ["g5", "m5"]
    states = draw.choice(
        ((), (), ("purchase_option",), ("purchase_option", "region_id"), ("sub_account_id", "availability_zone", "purchase_option"))
    )
    is_sweep = draw.random() < 0.4  # children that state nothing, with a few parents that state a type
    ids = [f"run{n:02d}" for n in range(runs)]
    for number, run_id in enumerate(ids):
        start = draw.randrange(0, hours * 3600) if draw.random() < 0.7 else draw.randrange(hours) * 3600
        length = draw.choice((0, 1, draw.randrange(60, 7200), draw.randrange(3600, 30000), 3600, -5))
        row: dict[str, Any] = {"id": run_id, "at": f"{_clock(start)}..{_clock(start + length) if draw.random() < 0.88 else ''}"}
        if row["at"].endswith("..") and draw.random() < 0.6:
            row["last_sign"] = _clock(start + draw.randrange(1, 20000))
        row["pool"] = draw.choice([*pools, None, None, "elsewhere"])
        if draw.random() < 0.5:
            row["type"] = draw.choice(types)
        if number and draw.random() < 0.5:
            row["parent"] = draw.choice(ids[:number]) if draw.random() < 0.9 else draw.choice([*ids, "missing"])
        if draw.random() < 0.25:
            row["num_nodes"] = draw.choice((1, 2, 4))
        if stated in ("gpus", "mixed") and (stated == "gpus" or draw.random() < 0.6):
            row["gpu_count"] = draw.choice((0.0, 0.5, 1.0, 2.0, 8.0, 16.0))
        if stated in ("cpus", "mixed") and draw.random() < 0.97:
            row["cpu_request"] = draw.choice((0.5, 2.0, 7.3, 16.0))
        if stated == "memory":
            row["memory_request_gb"] = draw.choice((0.5, 16.0, 33.3))
        if stated == "use":
            row["mean_use_percent"] = draw.choice((0.0, 12.4, 55.5, 100.0))
        row["claimed"] = draw.random() < 0.08
        if draw.random() < 0.2:
            row["own"] = [f"{_clock(start + draw.choice((0, -60, 300)))}..{_clock(start + draw.randrange(301, 9000))}"]
        if is_sweep and number > 2:
            row |= {"pool": None, "type": None, "parent": draw.choice(ids[: draw.choice((2, number))])}
            row.pop("num_nodes", None)
            row.pop("gpu_count", None)
        elif is_sweep:
            row |= {"pool": None, "type": types[0]}
        if states and draw.random() < 0.6:
            row |= {column: draw.choice(PLACES[column]) for column in draw.sample(states, draw.randrange(1, len(states) + 1))}
        world["runs"].append(pool_run(**row))
    number = 0
    known: dict[str, int] = {}  # machine that runs state -> number of parts into which they divide it

    def add(**row: Any) -> None:
        nonlocal number
        number += 1
        if row["machine"] in known:
            row |= _taken(draw, row, known[row["machine"]])
        world["lines"].append(rest_line(number, **row))

    for pool in (*pools, *types):
        where = {"pool": pool} if pool in pools else {"type": draw.choice((pool, pool.title()))}
        units = draw.choice(({}, {"machine_gpus": 4, "machine_cpus": 16, "machine_memory_gb": 61.5}))
        for index in range(machines):
            name = f"{pool}-m{index}"
            place = {
                "sub_account_id": draw.choice("12"),
                "region_id": draw.choice(("R1", "r2")),
                "availability_zone": draw.choice(("r1a", "r2a", None)),
            }
            option = draw.choice(("Dynamic", "Standard", "Committed"))
            if draw.random() < 0.4:
                known[name] = draw.choice((1, 1, 4))
            size = units if pool in types or draw.random() < 0.9 else {**units, "machine_gpus": 8}
            size = size | place | {"pricing_category": option}
            if draw.random() < 0.15:
                add(at="00:00..24:00", machine=name, hours=draw.choice((None, 6, 24)), **where, **size)
                continue
            for hour in range(hours):
                if draw.random() < 0.3:
                    continue
                at = f"{hour:02d}:00..{hour + 1:02d}:00"
                shape = draw.random()
                if shape < 0.6:
                    add(at=at, machine=name, hours=draw.choice((None, 1, 1, 0.25, "0.16666667", 2.5)), **where, **size)
                elif shape < 0.8:
                    add(at=f"{hour:02d}:10..{hour:02d}:30", machine=name, hours=draw.choice((None, 0.25)), **where, **size)
                    add(at=f"{hour:02d}:30..{hour:02d}:40", machine=name, **where, **size)
                elif shape < 0.9:
                    add(at=at, machine=name, hours=0.5, **where, **size)
                    add(at=at, machine=name, hours=0.5, **where, **size)
                    add(at=at, machine=name, hours=1, sku_id="licence", **where, pricing_category=draw.choice((None, option)))
                else:
                    add(at=f"{hour:02d}:30..{hour + 1:02d}:30", machine=name, hours=1, **where, **size)
        if pool in pools:
            for hour in range(hours):
                if draw.random() < 0.4:
                    add(at=f"{hour:02d}:00..{hour + 1:02d}:00", machine="nat", cost_kind="network", hours=1, **where)
            add(at="00:00..24:00", machine=None, charge_category="Adjustment", **where)
            if draw.random() < 0.5:
                add(at="02:00..03:00", machine=None, hours=3, **where, **units)
    for rows in world.values():
        draw.shuffle(rows)
    return world


def _taken(draw: random.Random, row: dict[str, Any], units: int) -> dict[str, Any]:
    """Draw how much of a line its runs use and leave. Both are inputs of the models, so they may be random."""
    start, end = (int(_seconds(moment(t) - WINDOW_START)) for t in row["at"].split(".."))
    stretches, at = [], start
    while at < end and draw.random() < 0.6:
        until = min(end, at + draw.randrange(1, end - start + 1))
        stretches.append(f"{_clock(at)}..{_clock(until)} {draw.randrange(1, units + 1)}/{units}")
        at = min(end, until + draw.choice((0, draw.randrange(0, 2000))))
    free = Decimal(draw.randrange(1, (end - start) * 1000)) / 3_600_000
    return {"known": True, "taken": stretches, "free": free if stretches else draw.choice((None, "0.25"))}


def random_bytes(seed: int, *, owners: int = 12, lines: int = 6) -> World:
    """Make stores with bytes of runs, models, orphans and other owners, in several classes, that come and go during the month."""
    draw = random.Random(seed)
    world: World = {"lines": [], "runs": [], "artifacts": [], "traces": []}
    for number in range(lines):
        world["lines"].append(
            rest_line(
                number, machine=None, storage_key=draw.choice(("bucket", "acct", "elsewhere")), storage_class=draw.choice(("STANDARD", "GLACIER", None)), cost_kind="storage",
                at=draw.choice(("00:00..744:00", "00:00..01:00", "100:00..101:00", "-24:00..00:00")),
                **draw.choice((
                    {}, {"consumed_unit": "Requests", "consumed_quantity": Decimal(7)}, {"consumed_unit": "GB-Mo", "consumed_quantity": Decimal(draw.randrange(10**6)) / 10},
                    {"consumed_unit": "GiB Hours", "consumed_quantity": Decimal(draw.randrange(10**9)) / 8}, {"pricing_unit": "byte-seconds", "pricing_quantity": Decimal(draw.randrange(10**15))},
                    {"charge_category": "Credit", "consumed_unit": "GB-Mo", "consumed_quantity": Decimal(9)},
                )),
            )
        )  # fmt: skip
    for number in range(owners):
        kind = draw.choice(("run", "run", "logged_model", "orphan", "other", "trace"))
        store = draw.choice(("s3://bucket/", "abfss://c@acct.dfs.core.windows.net/mlflow", "gs://nobody"))
        for storage_class in draw.sample(("STANDARD", "GLACIER", "UNKNOWN"), draw.choice((1, 2))):
            first = draw.choice((1, draw.randrange(100, 3100) / 100))
            size = None if storage_class == "UNKNOWN" else draw.choice((0, 1, draw.randrange(10**6), draw.randrange(10**13)))
            row: dict[str, Any] = {"kind": kind, "id": f"{kind}{number}", "store": store, "class": storage_class, "bytes": size}
            if draw.random() < 0.4:
                middle = draw.randrange(int(first * 100), 3200) / 100
                world["artifacts"].append(artifact(**row, at=f"{first}..{middle}"))
                world["artifacts"].append(artifact(**row | {"bytes": None if size is None else size * 2, "at": f"{middle}"}))
            else:
                world["artifacts"].append(artifact(**row, at=f"{first}"))
    return world


def true_bytes(world: World) -> dict[Key, Fraction]:
    """Return the parts of every storage line: bytes x time of each owner in the line's bucket and class, up to the billed bytes."""
    truth: dict[Key, Fraction] = defaultdict(Fraction)
    where = {"s3://bucket/": "bucket", "abfss://c@acct.dfs.core.windows.net/mlflow": "acct"}
    first_known = {
        store: min((r["valid_from"] for r in world["artifacts"] if r["store"] == store and r["bytes"] is not None), default=None)
        for store in where
    }
    for line in world["lines"]:
        if not line.get("storage_key"):
            continue
        alike = [
            l for l in world["lines"] if (l.get("storage_key"), l.get("storage_class")) == (line["storage_key"], line.get("storage_class"))
        ]
        reach = max(l["charge_period_end"] for l in alike)
        until = min(reach, WINDOW_END) if reach > WINDOW_START else WINDOW_END
        since = max(min(l["charge_period_start"] for l in alike), WINDOW_START)
        times: dict[str, Fraction] = defaultdict(Fraction)
        for row in world["artifacts"]:
            if (
                where.get(row["store"]) == line["storage_key"]
                and line.get("storage_class") in (None, row["storage_class"])
                and row["bytes"]
            ):
                # bytes of the first measurement were there before it, up to the billed bytes
                came = (
                    min(row["valid_from"], since)
                    if row["valid_from"] == first_known[row["store"]]
                    else max(row["valid_from"], WINDOW_START)
                )
                lasted = min(row["valid_to"] or until, until) - came
                owner = (
                    row["owner_id"]
                    if row["owner_kind"] in ("run", "logged_model")
                    else "orphan"
                    if row["owner_kind"] == "orphan"
                    else "unallocated"
                )
                times[owner] += row["bytes"] * (max(lasted, dt.timedelta()) // dt.timedelta(microseconds=1))
        total = Fraction(sum(times.values()))
        billed = _billed_bytes(world, line["storage_key"], line.get("storage_class"))
        # the container is only a part of the account, so its part is unknown without billed bytes
        if not total or (line["storage_key"] == "acct" and not billed):
            truth[line["line_id"], "left"] = Fraction(1)
            continue
        whole = max(total, billed) if line["storage_key"] == "acct" else total
        times["unallocated"] += whole - total
        for owner, part in times.items():
            if part:
                truth[line["line_id"], owner] += Fraction(part) / whole
    return dict(truth)


def _billed_bytes(world: World, storage_key: str, storage_class: str | None) -> Fraction:
    """Return the bytes x microseconds that a bucket's lines of a class bill. Without a class, all its lines count."""
    sizes = {
        "GB-Mo": 2**30 * 31 * 86_400 * 10**6,
        "GiB Hours": 2**30 * 3_600 * 10**6,
        "byte-seconds": 10**6,
    }
    return sum(
        (
            Fraction(l.get("consumed_quantity") or l.get("pricing_quantity") or 0)
            * sizes.get(l.get("consumed_unit") or l.get("pricing_unit"), 0)
            for l in world["lines"]
            if l.get("storage_key") == storage_key and storage_class in (None, l.get("storage_class")) and l["charge_category"] == "Usage"
        ),
        Fraction(0),
    )


def true_parts(world: World) -> dict[Key, Fraction]:
    """Return the parts of every line by pool, then by instance type."""
    runs = {r["run_id"]: r for r in world["runs"]}
    ancestors = _ancestors(runs)
    frontier = min(max(l["charge_period_end"] for l in world["lines"]), WINDOW_END + dt.timedelta(hours=ALIVE_HOURS))
    spans = {run_id: span for run_id, run in runs.items() if (span := _span(run, frontier))}
    pools: dict[tuple[str, str], list[dict[str, Any]]] = defaultdict(list)
    for line in world["lines"]:
        pools[("pool", line["pool_key"]) if line["pool_key"] else ("type", line["instance_type"].lower())].append(line)
    truth: dict[Key, Fraction] = {}
    for (sort, name), lines in pools.items():
        if sort == "pool":
            asks = {r: r for r in spans if runs[r]["pool_key"] == name}
            truth |= _Pool(sort, name, lines, runs, ancestors, spans, asks).parts()
        else:
            with_pool = {r for r in runs if ("pool", runs[r]["pool_key"]) in pools}
            asks = {r: holder for r in spans if r not in with_pool and (holder := _holder(r, runs, ancestors, name))}
            truth |= _type_parts(name, lines, runs, ancestors, spans, asks)
    return {key: part for key, part in truth.items() if part}


def _type_parts(
    name: str, lines: list[dict[str, Any]], runs: dict[str, dict[str, Any]], ancestors: dict[str, list[str]], spans: dict[str, tuple[dt.datetime, dt.datetime]], asks: dict[str, str],
) -> dict[Key, Fraction]:  # fmt: skip
    """Return the parts of a type's lines, cell by cell: each statement gets what earlier, narrower statements leave."""
    stated = {r: _stated(r, runs, ancestors) for r in runs if _holder(r, runs, ancestors, name)}
    asking = [r for r in stated if not _has_own_machines(runs[r]) and (runs[r]["end_time"] or WINDOW_END) >= WINDOW_START]
    cut = [n for n in range(len(STATED)) if any(stated[r][n] for r in asking)]
    cell_of = _cells(lines, cut)
    cells = sorted(set(cell_of.values()), key=str)
    fits = {r: frozenset(c for c in cells if all(c[n] is None or stated[r][n] in (None, c[n]) for n in cut)) for r in asks}
    asks = {r: holder for r, holder in asks.items() if fits[r]}
    kin = _Pool("type", name, lines, runs, ancestors, spans, asks)

    def pool_of(group: frozenset[Any]) -> _Pool:
        mine = [l for l in lines if cell_of[l["line_id"]] in group]
        return _Pool(
            "type", name, mine, runs, ancestors, spans, {r: h for r, h in asks.items() if fits[r] == group}, kin=kin, is_open=len(group) > 1
        )

    own = {c: pool_of(frozenset([c])) for c in cells}
    groups = {g: pool_of(g) for g in set(fits.values()) if len(g) > 1}
    truth: dict[Key, Fraction] = {}
    for cell in cells:
        for window, there in own[cell].windows.items():
            shares = _cell_shares(cell, window, own, groups)
            for line in there:
                truth |= {(line["line_id"], r): part for r, part in shares.items()}
                truth[line["line_id"], "rest" if shares else "left"] = 1 - sum(shares.values())
    return truth


def _cell_shares(
    cell: Any, window: tuple[dt.datetime, dt.datetime], own: dict[Any, _Pool], groups: dict[frozenset[Any], _Pool]
) -> dict[str, Fraction]:
    """Return each run's part of a cell's window.

    Runs that fit only this cell come first, then those that fit several, then those that fit all.
    """
    shares = dict(own[cell].shares(window)) if window in own[cell].windows else {}
    there = {c: pool for c, pool in own.items() if window in pool.windows}
    free = {c: 1 - sum(pool.shares(window).values()) for c, pool in there.items()}
    for is_whole in (False, True):
        found = {g: pool for g, pool in groups.items() if (len(g) == len(own)) is is_whole and window in pool.windows}
        asked: dict[frozenset[Any], dict[str, Fraction]] = {}
        for group, pool in found.items():
            widths = {c: there[c].unit_time(window, pool.units) for c in group if c in there}
            if not sum(widths.values()):
                widths = dict.fromkeys(widths, Fraction(1))
            is_free = sum(width * free[c] for c, width in widths.items()) / sum(widths.values())
            wanted = pool.shares(window)
            divisor = max(is_free, sum(wanted.values()))
            asked[group] = {r: share / divisor for r, share in wanted.items()} if divisor else {}
        taken = {c: sum((share for g, wanted in asked.items() if c in g for share in wanted.values()), Fraction(0)) for c in there}
        for group, wanted in asked.items():
            if cell in group:
                shares |= {r: part for r, share in wanted.items() if (part := share * free[cell] / max(1, taken[cell]))}
        free = {c: part * (1 - min(1, taken[c])) for c, part in free.items()}
    return shares


def _stated(run_id: str, runs: dict[str, dict[str, Any]], ancestors: dict[str, list[str]]) -> list[str | None]:
    """Return the account, region, zone and purchase option of a run.

    Without its own type, it inherits what the ancestor with a type states.
    """
    mine = [runs[run_id].get(column) for column, _ in STATED]
    if runs[run_id]["instance_type"]:
        return mine
    holder = next(a for a in ancestors[run_id] if runs[a]["instance_type"])
    theirs = [runs[holder].get(column) for column, _ in STATED]
    return [
        own or (None if column == "availability_zone" and mine[1] else other)
        for own, other, (column, _) in zip(mine, theirs, STATED, strict=True)
    ]


def _has_own_machines(run: dict[str, Any]) -> bool:
    """Return whether the run has stated machines all its time, so that it asks for none of its type."""
    start = max(run["start_time"], WINDOW_START)
    return run["claimed"] or any(a <= start and (run["end_time"] is None or b >= min(run["end_time"], WINDOW_END)) for a, b in run["own"])


def _cells(lines: list[dict[str, Any]], cut: list[int]) -> dict[str, tuple[str | None, ...]]:
    """Return the cell of each line, from the properties that runs state. A line that lacks some has those of its machine."""

    def said(line: dict[str, Any], number: int) -> str | None:
        value = line.get(STATED[number][1]) if number in cut else None
        return OPTIONS.get(value) if number == 3 and value else value.lower() if value else None

    found = {}
    for line in lines:
        beside = [l for l in lines if l["resource_key"] and l["resource_key"] == line["resource_key"]]
        every = [{said(l, n) for l in beside} - {None} for n in range(len(STATED))]
        found[line["line_id"]] = tuple(said(line, n) or (next(iter(every[n])) if len(every[n]) == 1 else None) for n in range(len(STATED)))
    return found


class _Pool:
    """A pool: its machines by window and its claims by slice."""

    def __init__(
        self, sort: str, name: str, lines: list[dict[str, Any]], runs: dict[str, dict[str, Any]], ancestors: dict[str, list[str]],
        spans: dict[str, tuple[dt.datetime, dt.datetime]], asks: dict[str, str], kin: _Pool | None = None, is_open: bool = False,
    ) -> None:  # fmt: skip
        self.kin = kin  # all machines of the type and all runs that ask for them, which share one kind of weight
        self.sort, self.name, self.lines, self.runs, self.ancestors, self.spans, self.asks = sort, name, lines, runs, ancestors, spans, asks
        self.windows: dict[tuple[dt.datetime, dt.datetime], list[dict[str, Any]]] = defaultdict(list)
        for line in lines:
            self.windows[_window(line)].append(line)
        usage = [l for l in lines if l["charge_category"] == "Usage" and not l.get("charge_class")]
        likeness = {m: min(_likeness(l) for l in usage if self._machine(l) == m) for m in {self._machine(l) for l in usage}}
        self.known = {self._machine(l) for l in usage if l["is_offered"]}
        self.usage = [
            l
            for l in usage
            if (self._machine(l) in self.known or likeness[self._machine(l)] == min(likeness.values()))
            and (_likeness(l) < 3 or likeness[self._machine(l)] == 3)  # a machine's traffic has no time
        ]
        self.machines = {window: self._machines(window) for window in self.windows}
        self.uncounted = {
            m
            for machines in self.machines.values()
            for m, (n, _) in machines.items()
            if m not in self.known and (n > 1 or m.startswith("("))
        }
        self.taken = [
            (machine, *stretch)
            for machine, stretch in {(self._machine(l), stretch) for l in lines if not is_open for stretch in l["taken"]}
        ]
        marks = {t for s in spans.values() for t in s} | {t for w in self.windows for t in w}
        marks |= {t for r in runs for own in runs[r]["own"] for t in own} | {t for _, start, end, *_ in self.taken for t in (start, end)}
        self.slices = [(a, b, self._payers(a, b)) for a, b in itertools.pairwise(sorted(marks))]
        self._weigh()

    def _machine(self, line: dict[str, Any]) -> str:
        return str(line["resource_key"] or ("pile", line["source"], (line["instance_type"] or "").lower()))

    def _machines(self, window: tuple[dt.datetime, dt.datetime]) -> dict[str, tuple[int, Fraction]]:
        """Return (number of machines, billed seconds) of each machine."""
        length = _seconds(window[1] - window[0])
        billed: dict[str, Fraction] = defaultdict(Fraction)
        mine = [l for l in self.usage if _window(l) == window]
        for machine, start, end in sorted({(self._machine(l), l["charge_period_start"], l["charge_period_end"]) for l in mine}):
            per_sku: dict[str, Fraction] = defaultdict(Fraction)
            for l in mine:
                if (self._machine(l), l["charge_period_start"], l["charge_period_end"]) == (machine, start, end) and l[
                    "billed_nanoseconds"
                ]:
                    per_sku[l["sku_id"]] += Fraction(l["billed_nanoseconds"], 10**9)
            free = [
                l["free_nanoseconds"]
                for l in mine
                if (self._machine(l), l["charge_period_start"], l["charge_period_end"]) == (machine, start, end)
                and l["free_nanoseconds"] is not None
            ]
            billed[machine] += Fraction(max(free), 10**9) if free else max(per_sku.values(), default=_seconds(end - start))
        counts = {machine: max(1, math.ceil((time - length / 100) / length)) for machine, time in billed.items()}
        return {machine: (counts[machine], min(time, counts[machine] * length)) for machine, time in billed.items()}

    def _payers(self, a: dt.datetime, b: dt.datetime) -> list[str]:
        there = [r for r in (self.kin or self).asks if self.spans[r][0] <= a and b <= self.spans[r][1]]
        asking = [
            r for r in there if r in self.asks and not any(r in self.ancestors[other] for other in there) and not self.runs[r]["claimed"]
        ]
        return [r for r in asking if not any(start <= a and b <= end for start, end in self.runs[r]["own"])]

    def _weigh(self) -> None:
        if self.kin:
            self.units, self.nodes, self.weights, self.unknown = self.kin.units, self.kin.nodes, self.kin.weights, self.kin.unknown
            return
        windows = [w for w, machines in self.machines.items() if machines]
        first, last = min((w[0] for w in windows), default=WINDOW_START), max((w[1] for w in windows), default=WINDOW_END)
        deciding = {r for a, b, payers in self.slices if a < last and b > first for r in payers}
        names = {machine for machines in self.machines.values() for machine in machines}

        def has(machine: str, column: str) -> Any:
            return max((l[column] for l in self.usage if self._machine(l) == machine and l.get(column)), default=None)

        def all_state(column: str) -> bool:
            return (
                bool(deciding)
                and all(self._asked(r, column) is not None for r in deciding)
                and (column != "gpu_count" or any(self._asked(r, column) > 0 for r in deciding))
            )

        known = [k for k in KINDS if names and all(has(m, k[1]) for m in names)]
        some = [k for k in known if any((self._asked(r, k[0]) or 0) > 0 for r in deciding)]
        if self.sort == "type":
            kinds = [k for k in some if k[0] == "gpu_count"]
        else:
            kinds = [k for k in known if all_state(k[0])] or some
        self.units: dict[str, int] | None = None
        if kinds:
            column, machine_column, scale = kinds[0]
            if column == "gpu_count":
                scale = gpu_unit([asked for r in deciding if (asked := self._asked(r, column)) is not None])
            self.units = {m: math.ceil(has(m, machine_column)) * scale for m in names}
        else:
            column, scale = next(((c, s) for c, _, s in KINDS if self.sort == "pool" and all_state(c)), ("", 1))
            if not column and self.sort == "pool" and all_state("mean_use_percent"):
                column = "mean_use_percent"
        self.nodes = {r: min(1000, max(1, self.runs[h].get("num_nodes") or 1)) for r, h in self.asks.items()}
        self.weights: dict[str, int] = {}
        self.unknown = {r for r in self.asks if self.units and self.sort == "pool" and self._asked(r, column) is None}
        for r in self.asks:
            asked = self._asked(r, column) if column else None
            if not column:
                weight = 1
            elif asked is None:
                weight = max(self.units.values()) if self.units else scale
            elif column == "memory_request_gb":
                weight = math.ceil(Decimal(str(asked)))
            else:
                weight = min(MOST.get(column, 100) * scale, int((Decimal(str(asked)) * scale).to_integral_value("ROUND_HALF_UP")))
            weight = max(1, weight)
            if self.units and (self.sort == "type" or self.nodes[r] > 1):
                weight = min(weight, max(self.units.values()))
            self.weights[r] = weight * self.nodes[r]

    def _asked(self, run_id: str, column: str) -> Any:
        return self.runs[self.asks[run_id] if column == "gpu_count" else run_id].get(column)

    def _slice_shares(self, a: dt.datetime, payers: list[str]) -> tuple[dict[str, Fraction], bool]:
        """Return each run's part of all machines in a slice, and whether there are any."""
        covering = [w for w in self.windows if w[0] <= a < w[1]]
        machines = sum(n for w in covering for n, _ in self.machines[w].values())
        families: dict[str, list[str]] = defaultdict(list)
        for r in payers:
            families[self.asks[r]].append(r)
        shares: dict[str, Fraction] = {}
        weights = {h: self._left_of(h, self.weights[members[0]], members, a) for h, members in families.items()}
        nodes = {h: self._left_of(h, self.nodes[members[0]], members, a) for h, members in families.items()}
        asked = weights if self.units else nodes
        here = sum(self._units_of(w) + self._more(w) for w in covering)
        free = max(
            0,
            here
            - sum(
                self._taken_units(m, taken, parts)
                for m, start, end, taken, parts in self.taken
                if start <= a < end and any(m in self.machines[w] for w in covering)
            ),
        )
        if not here:
            of = {h: Fraction(weights[h], sum(weights.values())) for h in families}
        elif sum(asked.values()) <= free:
            of = {h: Fraction(asked[h], here) for h in families}
        else:
            by = nodes if self.unknown & set(payers) else weights
            of = {h: Fraction(free, here) * Fraction(by[h], sum(by.values())) for h in families}
        for holder, members in families.items():
            for r in members:
                shares[r] = of[holder] / len(members)
        return shares, machines > 0

    def _more(self, window: tuple[dt.datetime, dt.datetime]) -> int:
        """Return the machines, or units, that runs ask for and that the time of lines of several machines does not show but suffices for."""
        start, end = window
        units = {m: self.units[m] if self.units else 1 for m in self.machines[window]}
        there = {m: (n * units[m], time * units[m]) for m, (n, time) in self.machines[window].items()}
        own, own_time = (sum(there[m][i] for m in there if m in self.uncounted) for i in (0, 1))
        if not own:
            return 0
        rest = sum(time for m, (_, time) in there.items() if m in self.known)
        whole = sum(n for m, (n, _) in there.items() if m not in self.known)
        counted = whole + math.floor(rest / _seconds(end - start))
        asked: dict[str, list[Any]] = {}  # who asks: from, to, how many
        for a, b, payers in self.slices:
            for r in payers if start <= a and b <= end else []:
                many = self.weights[r] if self.units else self.nodes[r]
                asked[self.asks[r]] = [asked[self.asks[r]][0] if self.asks[r] in asked else a, b, many]
        marks = sorted({t for first, last, _ in asked.values() for t in (first, last)})
        levels = [(sum(n for first, last, n in asked.values() if first <= a < last), _seconds(b - a)) for a, b in itertools.pairwise(marks)]
        most = max((n for n, _ in levels), default=0) - whole
        if most <= 0:
            return 0
        lacks = [(n - counted, time) for n, time in levels if n > counted]
        lacking = sum(n * time for n, time in lacks)
        left = own_time - own * sum(time for _, time in lacks)
        if lacking <= left + Fraction(own_time) / 100:
            return most
        return most * math.floor(max(left, 0) * 1000) // max(1, math.floor(lacking * 1000))

    def _units_of(self, window: tuple[dt.datetime, dt.datetime]) -> int:
        return sum(n * (self.units[m] if self.units else 1) for m, (n, _) in self.machines[window].items())

    def _left_of(self, holder: str, asked: int, members: list[str], a: dt.datetime) -> int:
        """Return what a family asks for when some of its members have their own machines, in whole units, rounded up."""
        own = 0
        for r, h in (self.kin or self).asks.items():
            if h == holder and r != h and r in self.asks and self.spans[r][0] <= a < self.spans[r][1]:
                own += sum(start <= a < end for start, end in self.runs[r]["own"]) + self.runs[r]["claimed"]
        return math.ceil(Fraction(asked * len(members), len(members) + own))

    def _taken_units(self, machine: str, taken: int, parts: int) -> int:
        """Return the units of a machine that are taken. A machine without known units is taken as a whole or not at all."""
        if taken >= parts:
            return self.units[machine] if self.units else 1
        return math.ceil(Fraction(self.units[machine] * taken, parts)) if self.units else 0

    def unit_time(self, window: tuple[dt.datetime, dt.datetime], units: Mapping[str, int] | None) -> Fraction:
        """Return the billed seconds of machines, multiplied by their units."""
        return sum((time * (units[m] if units else 1) for m, (_, time) in self.machines[window].items()), Fraction(0))

    def shares(self, window: tuple[dt.datetime, dt.datetime]) -> dict[str, Fraction]:
        """Return each run's part of the window's machines."""
        start, end = window
        times: dict[str, Fraction] = defaultdict(Fraction)
        there = Fraction(0)
        for a, b, payers in self.slices:
            if start <= a and b <= end:
                shares, has_machines = self._slice_shares(a, payers)
                for r, share in shares.items():
                    times[r] += share * _seconds(b - a)
                there += _seconds(b - a) if has_machines or payers else 0
        machines = self.machines[window]
        if machines:
            there = self.unit_time(window, self.units) / (self._units_of(window) + self._more(window))
        busy = sum(times.values())
        total = busy if self.name.startswith("rented") and busy else max(there, busy)
        return {r: time / total for r, time in times.items()} if busy else {}

    def shares_beside(self, window: tuple[dt.datetime, dt.datetime]) -> dict[str, Fraction] | None:
        """Return each run's part of disks and traffic in this window, by its time on machines of shorter or longer windows.

        Return None if there are no such machines.
        """
        kinds = {
            (l["cost_kind"] == "compute", _is_long(_window(l)))
            for l in self.lines
            if l["cost_kind"] != "compute" or l["charge_category"] == "Usage"
        }
        if self.sort != "pool" or not ({(True, True), (False, False)} <= kinds or {(True, False), (False, True)} <= kinds):
            return None
        times: dict[str, Fraction] = defaultdict(Fraction)
        used, idle, of_days, is_decided = Fraction(0), Fraction(0), Fraction(0), False
        for other, machines in self.machines.items():
            there = sum((time for _, time in machines.values()), Fraction(0))
            if not there:
                continue
            shares = self.shares(other)
            if window[0] <= other[0] and other[1] <= window[1]:
                idle += (1 - sum(shares.values())) * there
                for r, share in shares.items():
                    times[r] += share * there
                is_decided |= other != window
            elif _is_long(other) and not _is_long(window) and other[0] < window[1] and window[0] < other[1]:
                of_days += there * _seconds(window[1] - window[0]) / _seconds(other[1] - other[0])
                for r, share in shares.items():
                    there_too = (max(window[0], other[0]), min(window[1], other[1]))
                    whole, here = (
                        sum(_seconds(b - a) for a, b, payers in self.slices if r in payers and start <= a and b <= end)
                        for start, end in (other, there_too)
                    )
                    times[r] += share * there * here / whole
                    used += share * there * here / whole
                is_decided = True
        if not self.name.startswith("rented"):
            idle += max(Fraction(0), of_days - used)
        total = sum(times.values()) + idle
        return {r: time / total for r, time in times.items() if time} if is_decided and total else None

    def parts(self) -> dict[Key, Fraction]:
        truth: dict[Key, Fraction] = {}
        machines = {l["resource_key"] for l in self.lines if l["cost_kind"] == "compute" and l["charge_category"] == "Usage"} - {None}
        for window, lines in self.windows.items():
            of_machines, beside = self.shares(window), self.shares_beside(window)
            for line in lines:
                is_beside = line["cost_kind"] != "compute" and line["resource_key"] not in machines and beside is not None
                shares = beside if is_beside and beside is not None else of_machines
                truth |= {(line["line_id"], r): share for r, share in shares.items()}
                truth[line["line_id"], "idle"] = 1 - sum(shares.values())
        return truth


def _is_long(window: tuple[dt.datetime, dt.datetime]) -> bool:
    return window[1] > window[0].replace(minute=0, second=0, microsecond=0) + HOUR


def gpu_unit(counts: list[float]) -> int:
    """Return the number of units of a GPU: the fewest of which every run asks for a whole number. If a run asks for none, it is 100."""
    exact = [Fraction(count).limit_denominator(10_000) for count in counts]
    units = (1, 7, 16, 100) if min(exact) > 0 else (100,)
    return next((unit for unit in units if all((count * unit).denominator == 1 for count in exact)), 5600)


def _likeness(line: dict[str, Any]) -> int:
    if line["cost_kind"] != "compute":
        return 3
    return 1 if (line["billed_nanoseconds"] or 0) > 0 or line["instance_type"] else 2


def _window(line: dict[str, Any]) -> tuple[dt.datetime, dt.datetime]:
    hour = line["charge_period_start"].replace(minute=0, second=0, microsecond=0)
    return (hour, hour + HOUR) if line["charge_period_end"] <= hour + HOUR else (line["charge_period_start"], line["charge_period_end"])


def _span(run: dict[str, Any], frontier: dt.datetime) -> tuple[dt.datetime, dt.datetime] | None:
    start, end, sign = run["start_time"], run["end_time"], run["last_sign_at"]
    if end is None:
        if (sign or start) >= frontier - dt.timedelta(hours=ALIVE_HOURS):
            end = max(frontier, sign or start)
        else:
            end = sign or start + dt.timedelta(hours=SILENT_HOURS)
    start, end = max(start, WINDOW_START), min(end, WINDOW_END)
    return (start, end) if end > start else None


def _ancestors(runs: dict[str, dict[str, Any]]) -> dict[str, list[str]]:
    """Return the ancestors of each run, nearest first. Runs in a circle have no ancestors and are not ancestors."""
    chains: dict[str, list[str]] = {}
    for run_id in runs:
        chain: list[str] = []
        parent = runs[run_id]["parent_run_id"]
        while parent in runs and parent not in chain:
            chain.append(parent)
            parent = runs[parent]["parent_run_id"]
        chains[run_id] = chain
    circular = {run_id for run_id, chain in chains.items() if run_id in chain}
    return {run_id: [] if run_id in circular else [a for a in chain if a not in circular] for run_id, chain in chains.items()}


def _holder(run_id: str, runs: dict[str, dict[str, Any]], ancestors: dict[str, list[str]], name: str) -> str | None:
    """Return the run in whose name this run asks for machines of a type, or None if it asks for none."""
    if runs[run_id]["instance_type"]:
        return run_id if runs[run_id]["instance_type"].lower() == name else None
    holder = next((a for a in ancestors[run_id] if runs[a]["instance_type"]), None)
    if holder is None or runs[holder]["instance_type"].lower() != name:
        return None
    return run_id if runs[run_id].get("num_nodes") or runs[run_id].get("gpu_count") is not None else holder


def _clock(seconds: int) -> str:
    sign = "-" if seconds < 0 else ""
    seconds = abs(seconds)
    return f"{sign}{seconds // 3600:02d}:{seconds % 3600 // 60:02d}:{seconds % 60:02d}"


def _seconds(span: dt.timedelta) -> Fraction:
    return Fraction(span // dt.timedelta(microseconds=1), 10**6)
