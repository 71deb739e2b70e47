"""Rules that hold for every world that the ledger may meet, tested on worlds that hypothesis generates.

Several worlds and their variants (lines split, weights doubled, days later, a twin of every run) are merged into one build. Each has its
own bill, server and machines.
"""

from __future__ import annotations

import datetime as dt
import random
import tempfile
from collections import defaultdict
from decimal import Decimal
from fractions import Fraction
from pathlib import Path
from typing import Any

import pyarrow as pa
from hypothesis import HealthCheck, event, given, settings
from hypothesis import strategies as st

from tests.allocation.chain import World, line, make_run, merge_worlds, rows_of, run_on_duckdb, total

MEASURES = ("list_cost", "contracted_cost", "effective_cost", "billed_cost")
LATER = dt.timedelta(days=9)
UNITS = ("machine_gpus", "machine_cpus", "machine_memory_gb")
REST = ("idle", "shared", "unallocated", "out_of_scope")

# Few examples with several worlds each: an example builds a month's ledger, and its time hardly depends on the number of worlds.
WORLDS = 5
examples = settings(max_examples=3, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large])

Costs = dict[str, dict[str, Fraction]]  # charge -> run or other target -> effective cost


# --- worlds ---------------------------------------------------------------------------------------------------------------

amounts = st.one_of(
    st.integers(-(10**12), 10**12).map(lambda n: Decimal(n).scaleb(-9)),  # up to a thousand, in billionths
    st.integers(-(10**6), 10**6).map(lambda n: Decimal(n).scaleb(-18)),
    st.integers(10**13, 10**16).map(lambda n: Decimal(n).scaleb(-7)),
    st.just(Decimal(0)),
)
minutes = st.integers(-60, 300)
machines = st.sampled_from(("m0", "m1", "m2"))


def clock(minute: int) -> str:
    """Return `HH:MM` on the fifth of the month, so that shifted times stay in the month."""
    return f"{96 + minute // 60:02d}:{minute % 60:02d}"


def window(start: int, end: int) -> str:
    """Return the window from one full hour of that day to another."""
    return f"{clock(60 * start)}..{clock(60 * end)}"


@st.composite
def runs(draw: st.DrawFn) -> list[dict[str, Any]]:
    """Draw up to seven runs on up to two machines: parallel, nested, of no length, or never ended. All or some state GPUs."""
    gpus = draw(st.sampled_from(("none", "all", "some")))
    made: list[dict[str, Any]] = []
    for number in range(draw(st.integers(0, 7))):
        start = draw(minutes)
        length = draw(st.one_of(st.integers(1, 400), st.sampled_from((0, 60, 120))))
        run: dict[str, Any] = {
            "id": f"r{number}",
            "at": f"{clock(start)}..{clock(start + length)}",
            "on": draw(st.lists(machines, max_size=2, unique=True)),
        }
        if draw(st.integers(0, 9)) == 0:
            run |= {"at": f"{clock(start)}..", "last_sign": clock(start + length)}
        if made and draw(st.booleans()):
            run["parent"] = draw(st.sampled_from(made))["id"]
        if gpus == "all" or (gpus == "some" and draw(st.booleans())):
            run["gpu_count"] = draw(st.sampled_from((0.5, 1.0, 2.0, 4.0)))
        made.append(run)
    return made


@st.composite
def lines(draw: st.DrawFn) -> list[dict[str, Any]]:
    """Draw hours and days of three machines, with parts of hours, licenses, credits, corrections, tagged lines and fees."""
    made: list[dict[str, Any]] = []
    for name in ("m0", "m1", "m2"):
        units = draw(st.sampled_from(({}, {"machine_gpus": 4}, {"machine_gpus": 8, "machine_cpus": 32, "machine_memory_gb": 64.0})))
        for hour in range(draw(st.integers(0, 4))):
            at = window(hour, hour + 1)
            made.append({"at": at, "on": name, "cost": draw(amounts), "hours": draw(st.sampled_from((None, 1, "0.25", "0.5"))), **units})
            extra = draw(st.sampled_from(("no", "no", "licence", "credit", "correction", "tagged")))
            if extra == "licence":
                made.append({"at": at, "on": name, "cost": draw(amounts), "hours": 1, "sku_id": "licence", **units})
            elif extra != "no":
                more = {
                    "credit": {"charge_category": "Credit"},
                    "correction": {"charge_class": "Correction", "hours": -1},
                    "tagged": {"run_tag": draw(st.sampled_from(("r0", "r3", "nobody")))},
                }
                made.append({"at": at, "on": name, "cost": draw(amounts), **more[extra]})
        if draw(st.booleans()):
            made.append(
                {
                    "at": window(0, 24),
                    "on": name,
                    "cost": draw(amounts),
                    "hours": draw(st.sampled_from((None, 6, 24))),
                    "sku_id": "day",
                    **units,
                }
            )
    made.append({"at": window(0, 1), "on": None, "cost": draw(amounts), "charge_category": "Tax"})
    made.append({"at": window(0, 1), "on": "other", "cost": draw(amounts), "scope": None, "service_category": "Databases"})
    return made


def several(*drawn: st.SearchStrategy[Any]) -> st.SearchStrategy[list[tuple[Any, ...]]]:
    """Draw the worlds of one build, each independently."""
    return st.lists(st.tuples(*drawn), min_size=WORLDS, max_size=WORLDS)


def build(run_rows: list[dict[str, Any]], line_rows: list[dict[str, Any]]) -> World:
    """Make the rows that the chain reads."""
    world: World = {
        "billing_lines": [line(n, id=f"line-{n}", **row) for n, row in enumerate(line_rows)],
        "billing_loads": [],
        "runs": [],
        "run_resources": [],
    }
    for row in run_rows:
        run, resources = make_run(**row)
        world["runs"].append(run)
        world["run_resources"] += resources
    return world


# --- variants -------------------------------------------------------------------------------------------------------------


def split_lines(world: World) -> World:
    """Split each line into two unequal parts, with its billed time."""
    parts = []
    for l in world["billing_lines"]:
        first = {m: (l[m] / 3).quantize(Decimal("1e-12")) for m in MEASURES}
        time = l["billed_nanoseconds"]
        parts.append(l | first | {"line_id": l["line_id"] + "/1", "billed_nanoseconds": time and time // 3})
        parts.append(
            l | {m: l[m] - first[m] for m in MEASURES} | {"line_id": l["line_id"] + "/2", "billed_nanoseconds": time and time - time // 3}
        )
    return world | {"billing_lines": parts}


def double_weights(world: World) -> World:
    """Double the GPUs that every run asks for, and those of the machines."""
    return world | {
        "runs": [r | {"gpu_count": 2 * r["gpu_count"]} if r.get("gpu_count") else r for r in world["runs"]],
        "billing_lines": [l | {u: 2 * l[u] for u in UNITS if l.get(u)} for l in world["billing_lines"]],
    }


def shift_days(world: World) -> World:
    """Move everything some days later, within the month."""

    def later(row: dict[str, Any]) -> dict[str, Any]:
        keys = ("charge_period_start", "charge_period_end", "charge_date", "start_time", "end_time", "last_sign_at", "used_from", "used_to")
        return row | {k: row[k] + LATER for k in keys if row.get(k) is not None}

    return {table: [later(row) for row in rows] for table, rows in world.items()}


def add_twins(world: World) -> World:
    """Add a copy with another id to every run that is not a parent."""
    parents = {r["parent_run_id"] for r in world["runs"]}
    leaves = [r for r in world["runs"] if r["run_id"] not in parents]
    twins = {r["run_id"] for r in leaves}
    return world | {
        "runs": world["runs"] + [r | {"run_id": r["run_id"] + "-twin"} for r in leaves],
        "run_resources": world["run_resources"]
        + [r | {"run_id": r["run_id"] + "-twin"} for r in world["run_resources"] if r["run_id"] in twins],
    }


def ledger_of(world: World) -> pa.Table:
    """Build `cost_allocations` of a world. All checks must pass."""
    with tempfile.TemporaryDirectory() as folder:
        return run_on_duckdb(world, Path(folder))["cost_allocations"]


def costs_of(rows: list[dict[str, Any]]) -> Costs:
    """Return what each target gets of each charge. Charges out of scope are sums and have no lines."""
    costs: Costs = defaultdict(lambda: defaultdict(Fraction))
    for row in rows:
        costs[row["charge_id"]][row["run_id"] or row["allocated_to"]] += Fraction(row["effective_cost"])
    return costs


def assert_close(found: dict[str, Fraction], expected: dict[str, Fraction], whole: Fraction, why: object) -> None:
    """Costs must be equal to 1e-9 of the line. Below the 18th decimal, the models themselves round."""
    for target in found.keys() | expected.keys():
        assert abs(found.get(target, Fraction(0)) - expected.get(target, Fraction(0))) <= abs(whole) * Fraction(1, 10**9) + Fraction(
            4, 10**18
        ), (why, target, dict(found), dict(expected))


# --- rules ----------------------------------------------------------------------------------------------------------------


@examples
@given(drawn=several(runs(), lines()))
def test_invariants_of_the_split(drawn: list[tuple[Any, ...]]) -> None:
    """Cost is conserved exactly, shares are between zero and the line, and equal runs get equal cost.

    Splitting, doubling and shifting change nothing.
    """
    worlds: dict[str, World] = {}
    for number, rows in enumerate(drawn):
        world = build(*rows)
        variants = {
            "base": world,
            "split": split_lines(world),
            "double": double_weights(world),
            "later": shift_days(world),
            "twins": add_twins(world),
        }
        worlds |= {f"{number}-{name}": variant for name, variant in variants.items()}
    ledger = ledger_of(merge_worlds(worlds))
    ledgers = {name: rows_of(ledger, name) for name in worlds}
    costs = {name: costs_of(rows) for name, rows in ledgers.items()}
    for name, world in worlds.items():
        assert_conserved(ledgers[name], world)
        for line_id, whole in amounts_of(world).items():
            for target, cost in costs[name][line_id].items():
                assert min(whole, 0) <= cost <= max(whole, 0), (name, line_id, target, cost, whole)
    for number in range(len(drawn)):
        base, split, double, later, twins = (costs[f"{number}-{name}"] for name in ("base", "split", "double", "later", "twins"))
        for line_id, whole in amounts_of(worlds[f"{number}-base"]).items():
            event(f"targets of a line: {len(base[line_id])}")
            assert_close(double[line_id], base[line_id], whole, ("double", line_id))
            assert_close(later[line_id], base[line_id], whole, ("later", line_id))
            assert_close(summed(split[line_id + "/1"], split[line_id + "/2"]), base[line_id], whole, ("split", line_id))
        assert_twins_pay_equal(worlds[f"{number}-twins"], twins)


def amounts_of(world: World) -> dict[str, Fraction]:
    """Return the cost of each line, except lines out of scope, which the ledger only sums."""
    return {l["line_id"]: Fraction(l["effective_cost"]) for l in world["billing_lines"] if l["scope"] is not None}


def assert_conserved(ledger: list[dict[str, Any]], world: World) -> None:
    """The sum must be equal to the last decimal in each of the four costs."""
    for measure in MEASURES:
        assert total(r[measure] for r in ledger) == total(l[measure] for l in world["billing_lines"]), measure


def summed(*parts: dict[str, Fraction]) -> dict[str, Fraction]:
    """Return what each target gets in total."""
    found: dict[str, Fraction] = defaultdict(Fraction)
    for part in parts:
        for target, cost in part.items():
            found[target] += cost
    return found


def of_runs(costs: dict[str, Fraction]) -> dict[str, Fraction]:
    """Return the cost of each run, and the sum of the rest."""
    return summed(*({"nobody" if target in REST else target: cost} for target, cost in costs.items()))


def assert_twins_pay_equal(world: World, costs: Costs) -> None:
    """A twin must get as much of a line as its run, unless the line names a run."""
    ids = {r["run_id"] for r in world["runs"]}
    tagged = {l["line_id"] for l in world["billing_lines"] if l.get("run_tag")}
    for line_id, whole in amounts_of(world).items():
        if line_id not in tagged:
            singles = {t: c for t, c in costs[line_id].items() if f"{t}-twin" in ids}
            assert_close({t: costs[line_id].get(f"{t}-twin", Fraction(0)) for t in singles}, singles, whole, ("twins", line_id))


@examples
@given(drawn=several(runs(), lines()), seed=st.integers(0, 2**32 - 1))
def test_order_of_rows_does_not_matter(drawn: list[tuple[Any, ...]], seed: int) -> None:
    """The same rows in another order give the same ledger, to the last decimal."""
    world = merge_worlds({f"{number}": build(*rows) for number, rows in enumerate(drawn)})
    draw = random.Random(seed)
    shuffled = {table: draw.sample(rows, len(rows)) for table, rows in world.items()}
    assert sorted_rows(ledger_of(world)) == sorted_rows(ledger_of(shuffled))


def sorted_rows(ledger: pa.Table) -> list[str]:
    return sorted(repr(row) for row in ledger.to_pylist())


@examples
@given(drawn=several(runs(), lines(), st.integers(1, 3)))
def test_runs_without_a_part_of_a_machines_time_get_no_cost(drawn: list[tuple[Any, ...]]) -> None:
    """Runs without a part of a machine's time get nothing and take nothing from others.

    They have no length, ran before or after it or elsewhere, or are parents whose children cover all their time.
    """
    worlds: dict[str, World] = {}
    names: set[str] = set()
    for number, (run_rows, line_rows, hours) in enumerate(drawn):
        gpus = {"gpu_count": 1.0} if run_rows and all("gpu_count" in r for r in run_rows) else {}
        nobodies = [
            {"id": "no-length", "at": f"{clock(30)}..{clock(30)}", "on": ["m0"], **gpus},
            {"id": "before", "at": window(-48, -30), "on": ["m0", "m1"], **gpus},
            {"id": "after", "at": window(24, 26), "on": ["m0"], **gpus},
            {"id": "elsewhere", "at": window(0, 5), "on": ["m9"], **gpus},
            {"id": "nowhere", "at": window(0, 5), "on": [], **gpus},
            {"id": "covered", "at": f"{clock(10)}..{clock(60 * hours)}", "on": ["m1"], **gpus},
        ]
        covering = [{"id": "child", "at": f"{clock(10)}..{clock(60 * hours)}", "on": ["m1"], "parent": "covered", **gpus}]
        # The ends of bills of stated machines decide which runs without an end are alive. They must be the same in both worlds.
        run_rows = [*run_rows, {"id": "stating", "at": f"{clock(30)}..{clock(30)}", "on": ["m0", "m1"], **gpus}]
        names |= {row["id"] for row in nobodies}
        worlds[f"{number}-more"] = build([*run_rows, *nobodies, *covering], line_rows)
        worlds[f"{number}-base"] = build([*run_rows, *({k: v for k, v in row.items() if k != "parent"} for row in covering)], line_rows)
    ledger = ledger_of(merge_worlds(worlds))
    for number in range(len(drawn)):
        base, more = (costs_of(rows_of(ledger, f"{number}-{name}")) for name in ("base", "more"))
        for costs in (base, more):
            assert all(names.isdisjoint(of_charge) for of_charge in costs.values()), (number, costs)
        for line_id, whole in amounts_of(worlds[f"{number}-base"]).items():
            # a machine that only an idle run names still serves runs, so its empty hours are idle and not unallocated
            assert_close(of_runs(more[line_id]), of_runs(base[line_id]), whole, (number, line_id))


@examples
@given(drawn=several(runs(), amounts, st.integers(1, 24)))
def test_hours_add_up_to_the_day(drawn: list[tuple[Any, ...]]) -> None:
    """At one price, 24 lines of an hour and one line of the day give every run the same cost."""
    worlds: dict[str, World] = {}
    for number, (run_rows, cost, gpus) in enumerate(drawn):
        ended = [row for row in run_rows if not row["at"].endswith("..")]
        worlds[f"{number}-day"] = build(ended, [{"at": window(0, 24), "on": "m0", "cost": cost * 24, "hours": 24, "machine_gpus": gpus}])
        worlds[f"{number}-hours"] = build(
            ended, [{"at": window(h, h + 1), "on": "m0", "cost": cost, "hours": 1, "machine_gpus": gpus} for h in range(24)]
        )
    ledger = ledger_of(merge_worlds(worlds))
    for number, (_, cost, _) in enumerate(drawn):
        day, hours = (summed(*costs_of(rows_of(ledger, f"{number}-{name}")).values()) for name in ("day", "hours"))
        assert_close(of_runs(hours), of_runs(day), Fraction(cost) * 24, number)
