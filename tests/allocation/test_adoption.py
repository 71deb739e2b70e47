"""Adoption run by run: when a run starts to state its machine or job, or gets a tag, no other run's cost changes.

In these worlds all machines of a type cost the same. The truth is known: each run has the machine or the GPUs that it was put on.
"""

from __future__ import annotations

import datetime as dt
import random
from collections import defaultdict
from decimal import Decimal
from fractions import Fraction
from typing import Any

import pyarrow as pa
import pytest

from tests.allocation.chain import World, line, make_run, merge_worlds, moment, rows_of, run_on_duckdb, total

HOURS, PRICE = 12, Decimal("32.7726")
KINDS = ("types", "pool", "types_by_gpu", "pool_by_gpu", "pool_with_disks")
# Runs of several nodes. Adopting runs state the first or all of them; most training jobs can state the first.
NODES = ("types_of_nodes", "pool_of_nodes", "types_of_nodes_by_gpu", "pool_of_nodes_by_gpu", "types_in_a_cluster", "pool_in_a_cluster")
CLUSTER = "/subscriptions/s/resourcegroups/g/providers/microsoft.machinelearningservices/workspaces/w/computes/gpu"
# Jobs on machines rented for them, next to machines without a job. If one run states the job, the job's other runs state it or a machine.
JOBS = ("jobs", "jobs_in_a_pool")
# What an adopting run states instead of its machine: the purchase option, or the region, and every second run also the zone and the option.
STATEMENTS = ("option", "option_by_gpu", "region")
SEEDS = range(3)
SHARES = (0.0, 0.1, 0.5, 0.9, 1.0)


def adopted_world(kind: str, seed: int, share: float, *, machines: int = 5) -> tuple[World, dict[str, Fraction]]:
    """Make a world in which this share of the runs states its machine, or its place and purchase option.

    Return it with each run's true cost.
    """
    draw = random.Random(seed)
    by_gpu, in_pool = kind.endswith("by_gpu"), kind.startswith("pool")
    size: dict[str, Any] = {"machine_gpus": 8} if by_gpu else {}
    where: dict[str, Any] = {"pool_key": "gpu"} if in_pool else {"instance_type": "p4d.24xlarge"}
    bought = [
        {"pricing_category": ("Dynamic", "Standard")[m % 2], "region_id": f"r{m // 3}", "availability_zone": f"r{m // 3}{'ab'[m % 2]}"}
        for m in range(machines)
    ]
    lines = [
        line(
            machine * HOURS + hour,
            on=f"m{machine}",
            at=f"{hour:02d}:00..{hour + 1:02d}:00",
            hours=1,
            cost=PRICE,
            scope=None,
            **where,
            **size,
            **bought[machine],
        )
        for machine in range(machines)
        for hour in range(HOURS)
    ]
    if kind == "pool_with_disks":
        disk = {"service_category": "Storage", "service_name": "EBS", "scope": None, "pool_key": "gpu"}
        lines += [
            line(len(lines) + hour, id=f"disk-{hour}", on="disk", at=f"{hour:02d}:00..{hour + 1:02d}:00", cost=PRICE * machines / 4, **disk)
            for hour in range(HOURS)
        ]
    placed = []  # (start, end, machine, gpus) in seconds
    for machine in range(machines):
        # The runs of one machine need all its GPUs and do not say so.
        for lane in range(3 if by_gpu and machine else 1):
            at = draw.randrange(3600)
            while at < HOURS * 3600 - 60 and len(placed) < 60:
                end = min(HOURS * 3600, at + draw.choice((300, 1234, 3600, 9000, 12345)))
                placed.append((at, end, machine, (4, 2, 2)[lane] if by_gpu and machine else 8))
                at = end + draw.choice((0, 60, 1800, 5000))
    order = list(range(len(placed)))
    draw.shuffle(order)
    adopted = set(order[: round(share * len(placed))])
    world: World = {"billing_lines": lines, "billing_loads": [], "runs": [], "run_resources": []}
    truth: dict[str, Fraction] = {}
    for number, (start, end, machine, gpus) in enumerate(placed):
        stated: dict[str, Any] = dict(where) | ({"gpu_count": float(gpus)} if by_gpu and machine else {})
        at = "..".join(f"{moment('00:00') + dt.timedelta(seconds=t):%Y-%m-%dT%H:%M:%S}" for t in (start, end))
        is_by_id = number in adopted and kind in KINDS
        if number in adopted and not is_by_id:
            stated |= _statement(kind, bought[machine], is_whole=draw.random() < 0.5)
        run, resources = make_run(id=f"r{number:03d}", at=at, on=[f"m{machine}"] if is_by_id else [], **stated)
        world["runs"].append(run)
        world["run_resources"] += resources
        truth[run["run_id"]] = (
            Fraction(PRICE) * Fraction(end - start, 3600) * Fraction(gpus, 8) * (Fraction(5, 4) if kind == "pool_with_disks" else 1)
        )
    return world, truth


def nodes_world(kind: str, seed: int, share: float, *, machines: int = 8) -> tuple[World, dict[str, Fraction]]:
    """Make a world of runs on one to four whole machines each.

    This share of them states the first machine or all; in a cluster, which has one line for the time of all nodes, the cluster. Return it
    with the true costs.
    """
    draw = random.Random(seed)
    size: dict[str, Any] = {"machine_gpus": 8} if kind.endswith("by_gpu") else {}
    where: dict[str, Any] = {"pool_key": "gpu"} if kind.startswith("pool") else {"instance_type": "p4d.24xlarge"}
    lines = [
        line(m * HOURS + hour, on=f"m{m}", at=f"{hour:02d}:00..{hour + 1:02d}:00", hours=1, cost=PRICE, scope=None, **where, **size)
        for m in range(machines)
        for hour in range(HOURS)
    ]
    free = [0] * machines
    world: World = {"billing_lines": lines, "billing_loads": [], "runs": [], "run_resources": []}
    truth: dict[str, Fraction] = {}
    for number in range(30):
        chosen = sorted(range(machines), key=lambda m: (free[m], m))[: draw.choice((1, 2, 3, 4))]
        start = max(free[m] for m in chosen) + draw.choice((0, 60, 1800))
        end = min(HOURS * 3600, start + draw.choice((300, 1234, 3600, 9000)))
        does_adopt, states_all = draw.random() < share, draw.random() < 0.2
        if end - start < 60:
            continue
        for m in chosen:
            free[m] = end
        at = "..".join(f"{moment('00:00') + dt.timedelta(seconds=t):%Y-%m-%dT%H:%M:%S}" for t in (start, end))
        stated = chosen if states_all else chosen[:1]
        gpus = {"gpu_count": 8.0} if size else {}
        on = [CLUSTER] if kind.endswith("in_a_cluster") else [f"m{m}" for m in stated]
        run, resources = make_run(id=f"r{number:03d}", at=at, on=on if does_adopt else [], num_nodes=len(chosen), **gpus, **where)
        world["runs"].append(run)
        world["run_resources"] += resources
        truth[run["run_id"]] = Fraction(PRICE) * Fraction(end - start, 3600) * len(chosen)
    if kind.endswith("in_a_cluster"):
        hours = Decimal(round(sum(truth.values()) / Fraction(PRICE) * 3600)) / 3600
        world["billing_lines"] = [line(0, on=CLUSTER, at="00:00..24:00", hours=hours, cost=PRICE * hours, scope=None, **where, **size)]
    return world, truth


def jobs_world(kind: str, seed: int, share: float) -> tuple[World, dict[str, Fraction]]:
    """Make a world of jobs with one to three runs on one or two machines each, and of single runs on their own machines.

    This share of the jobs is stated. This share of the single runs states its machine, or the machine's lines have the run's id as a tag.
    """
    draw = random.Random(seed)
    where: dict[str, Any] = {"pool_key": "gpu"} if kind == "jobs_in_a_pool" else {"instance_type": "p4d.24xlarge"}
    world: World = {"billing_lines": [], "billing_loads": [], "runs": [], "run_resources": []}
    truth: dict[str, Fraction] = {}

    def rent(machine: str, start: int, end: int, **said: Any) -> None:
        for hour in range(start // 3600, (end - 1) // 3600 + 1):
            seconds = min(end, hour * 3600 + 3600) - max(start, hour * 3600)
            at = f"{hour:02d}:00..{hour + 1:02d}:00"
            cost = PRICE * seconds / 3600
            world["billing_lines"].append(
                line(
                    len(world["billing_lines"]),
                    on=machine,
                    at=at,
                    hours=Decimal(seconds) / 3600,
                    cost=cost,
                    scope=None,
                    **where,
                    **said,
                )
            )

    def put(start: int, end: int, machines: list[str], stated: dict[str, Any], on: list[str]) -> None:
        at = "..".join(f"{moment('00:00') + dt.timedelta(seconds=t):%Y-%m-%dT%H:%M:%S}" for t in (start, end))
        run, resources = make_run(id=f"r{len(world['runs']):03d}", at=at, on=on, num_nodes=len(machines), **where, **stated)
        world["runs"].append(run)
        world["run_resources"] += resources
        truth[run["run_id"]] = Fraction(PRICE) * Fraction(end - start, 3600) * len(machines)

    for number in range(12):
        job, machines = f"job{number}", [f"j{number}m{m}" for m in range(draw.choice((1, 1, 2)))]
        at = start = draw.randrange(0, 6) * 3600 + draw.choice((0, 900))
        is_stated, how = draw.random() < share, draw.choice(("all", "first", "last"))
        lengths = [draw.choice((900, 1800, 3600, 4500)) for _ in range(draw.choice((1, 2, 3)))]
        for part, length in enumerate(lengths):
            names_job = is_stated and (how == "all" or part == (0 if how == "first" else len(lengths) - 1))
            stated = {"job_key": job} if names_job else {}
            on = [] if names_job and draw.random() < 0.5 else machines[:1] if is_stated or draw.random() < 0.3 else []
            put(at, at + length, machines, stated, on)
            at += length
        for machine in machines:
            rent(machine, start, at, job_key=job)
    for number in range(8):
        start, length = draw.randrange(0, 8) * 3600, draw.choice((900, 3600, 7200))
        adopts = draw.choice(("machine", "tag")) if draw.random() < share else ""
        put(start, start + length, [f"m{number}"], {}, [f"m{number}"] if adopts == "machine" else [])
        rent(f"m{number}", start, start + length, **({"run_tag": world["runs"][-1]["run_id"]} if adopts == "tag" else {}))
    return world, truth


def _statement(kind: str, machine: dict[str, str], *, is_whole: bool) -> dict[str, str]:
    """Return what a run states about this machine."""
    option = {"purchase_option": "spot" if machine["pricing_category"] == "Dynamic" else "on_demand"}
    if kind.startswith("option"):
        return option
    return {"region_id": machine["region_id"]} | ({"availability_zone": machine["availability_zone"], **option} if is_whole else {})


def name_of(kind: str, seed: int, share: float) -> str:
    return f"{kind}-{seed}-{int(share * 100)}"


@pytest.fixture(scope="module")
def ledgers(tmp_path_factory: pytest.TempPathFactory) -> pa.Table:
    worlds = {
        name_of(kind, seed, share): adopted_world(kind, seed, share)[0]
        for kind in (*KINDS, *STATEMENTS)
        for seed in SEEDS
        for share in SHARES
    }
    worlds |= {name_of(kind, seed, share): nodes_world(kind, seed, share)[0] for kind in NODES for seed in SEEDS for share in SHARES}
    worlds |= {name_of(kind, seed, share): jobs_world(kind, seed, share)[0] for kind in JOBS for seed in SEEDS for share in SHARES}
    return run_on_duckdb(merge_worlds(worlds), tmp_path_factory.mktemp("adoption"))["cost_allocations"]


def run_costs(ledger: list[dict[str, Any]]) -> dict[str, Fraction]:
    costs: dict[str, Fraction] = defaultdict(Fraction)
    for row in ledger:
        if row["allocated_to"] == "run":
            costs[row["run_id"]] += Fraction(row["effective_cost"])
    return costs


def assert_true(world: World, ledger: list[dict[str, Any]], truth: dict[str, Fraction]) -> None:
    """Check that every run has its true cost to nine digits, and that the sum is the bill."""
    assert total(row["effective_cost"] for row in ledger) == total(l["effective_cost"] for l in world["billing_lines"])
    costs = run_costs(ledger)
    assert {run: (float(costs[run]), float(true)) for run, true in truth.items() if abs(costs[run] - true) > true / 10**9} == {}


@pytest.mark.parametrize("share", SHARES)
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("seed", SEEDS)
def test_each_run_gets_its_true_cost_at_any_share_of_stated_machines(kind: str, seed: int, share: float, ledgers: pa.Table) -> None:
    """Every run has its true cost at any share of adoption. The rest is idle, and the sum is the bill."""
    world, truth = adopted_world(kind, seed, share)
    ledger = rows_of(ledgers, name_of(kind, seed, share))
    assert_true(world, ledger, truth)
    if share or kind.startswith("pool"):
        known = {r["resource_key"] for r in world["run_resources"]}
        idle = [row for row in ledger if row["allocated_to"] == "idle"]
        assert {row["match_method"] for row in idle} <= {"resource_id", "pool_time"}
        if len(known) == 5:
            assert {row["allocated_to"] for row in ledger} == {"run", "idle"}
            assert all(row["resource_id"] for row in idle if row["match_method"] == "resource_id")


@pytest.mark.parametrize("share", SHARES)
@pytest.mark.parametrize("kind", STATEMENTS)
@pytest.mark.parametrize("seed", SEEDS)
def test_each_run_gets_its_true_cost_at_any_share_of_stated_places(kind: str, seed: int, share: float, ledgers: pa.Table) -> None:
    """Runs that state a region, zone or purchase option take nothing from other runs, and get only lines that agree."""
    world, truth = adopted_world(kind, seed, share)
    ledger = rows_of(ledgers, name_of(kind, seed, share))
    assert_true(world, ledger, truth)
    keys = {(row["run_id"], row["pool_key"]) for row in ledger if row["allocated_to"] == "run"}
    for run in world["runs"]:
        stated = [run[c] for c in ("region_id", "availability_zone", "purchase_option") if run.get(c)]
        assert all(set(stated) <= set(str(key).split("|")) for run_id, key in keys if run_id == run["run_id"])
    if share:
        assert any("|" in str(key) for _, key in keys)


@pytest.mark.parametrize("share", SHARES)
@pytest.mark.parametrize("kind", NODES)
@pytest.mark.parametrize("seed", SEEDS)
def test_each_run_gets_the_cost_of_all_its_nodes_however_many_it_states(kind: str, seed: int, share: float, ledgers: pa.Table) -> None:
    """A run of several nodes has its true cost whether it states none of its machines, the first or all."""
    world, truth = nodes_world(kind, seed, share)
    ledger = rows_of(ledgers, name_of(kind, seed, share))
    assert len(truth) > 10
    assert_true(world, ledger, truth)


@pytest.mark.parametrize("share", SHARES)
@pytest.mark.parametrize("kind", JOBS)
@pytest.mark.parametrize("seed", SEEDS)
def test_each_run_gets_its_true_cost_at_any_share_of_stated_jobs(kind: str, seed: int, share: float, ledgers: pa.Table) -> None:
    """No run of a job states the job, or all do, or one does and the others state a machine of the job."""
    world, truth = jobs_world(kind, seed, share)
    ledger = rows_of(ledgers, name_of(kind, seed, share))
    assert_true(world, ledger, truth)
    methods = {row["match_method"] for row in ledger}
    assert ("job_id" in methods) == any(run.get("job_key") for run in world["runs"])
    assert ("run_tag" in methods) == any(l.get("run_tag") for l in world["billing_lines"])
