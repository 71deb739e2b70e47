"""Run the product over a world as its user would, and compare its results with the truth: by rule and by run, to the last decimal.

`_verdict` and its neighbors state what must hold in every world:

* The ledger equals the bill in all four measures.
* Above confidence `medium`, no run gets money of a charge in which it had no part.
* Costs are within the world's bar.

What happens in a world belongs in `worlds.py`.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from tests.benchmarks.accuracy.cluster import IDLE, NOBODY, SHARED, Shares, moment
from tests.benchmarks.accuracy.files import write_bill, write_settings, write_store
from tests.benchmarks.accuracy.others import OTHERS, Costs
from tests.benchmarks.accuracy.worlds import WITH_IDS, Night, World

MEASURES = {"list_cost": "ListCost", "contracted_cost": "ContractedCost", "effective_cost": "EffectiveCost", "billed_cost": "BilledCost"}
POTS = {"idle": IDLE, "shared": SHARED, "unallocated": NOBODY, "out_of_scope": NOBODY}
CERTAIN = ("exact", "high")
BY_ID = ("run_tag", "job_id", "resource_id", "attached", "artifact_bytes")  # rules that know the run and do not estimate
NO_COST = Fraction(0)

RunNight = Callable[[Path, str], None]  # folder of runspend.yaml, --now


@dataclass
class Rule:
    """What one allocation rule did in a world. The rule `all` is the sum of all of them."""

    name: str
    truth: Fraction = NO_COST  # the runs' true cost in the charges that the rule allocated
    error: Fraction = NO_COST  # Σ over runs |cost - truth|
    settled: Fraction = NO_COST  # Σ of the charges that the rule allocated, idle time included
    to_runs: Fraction = NO_COST
    estimated: Fraction = NO_COST  # cost of runs with a confidence below `high`
    scaled: Fraction = NO_COST  # cost of runs that claimed more than was billed
    false_matches: int = 0  # pairs (charge, run) with money where the run truly has none
    false_money: Fraction = NO_COST
    certain_false_matches: int = 0  # those of them with a confidence above medium
    worst_run: tuple[Fraction, str] = (NO_COST, "")  # largest |cost - truth| of a run, and the run's id

    @property
    def relative_error(self) -> Fraction:
        return self.error / self.truth if self.truth else self.error


@dataclass
class Judgement:
    """The result of a world."""

    world: World
    bill: Fraction
    rules: dict[str, Rule]
    others: dict[str, Rule]
    faults: list[str] = field(default_factory=list)

    @property
    def whole(self) -> Rule:
        return self.rules["all"]


def play(
    world: World,
    folder: Path,
    schema: Path,
    run_night: RunNight,
    *,
    bucket: str = "",
    endpoint: str = "",
    put: Callable[[Night], None] | None = None,
) -> Judgement:
    """Write the world, run all its nights, and judge the last one."""
    folder.mkdir(parents=True, exist_ok=True)
    write_settings(folder, world.settings.replace("{bucket}", bucket).replace("{endpoint}", endpoint))
    write_store(schema, folder / "mlflow.db", world, world.artifact_root.replace("{bucket}", bucket))
    for night in [*world.earlier, Night(world.now(), world.lines, world.objects)]:
        write_bill(folder / "bills", night.lines, bucket, world.focus)
        if put is not None:
            put(night)
        run_night(folder, f"{moment(night.now):%Y-%m-%dT%H:%M}")
    return judge(world, folder / "home" / "warehouse")


def judge(world: World, warehouse: Path) -> Judgement:
    """Compare the published tables with the truth."""
    allocations = _read(warehouse, "cost_allocations")
    judgement = Judgement(world, sum((line.cost() for line in world.lines), NO_COST), {}, {})
    judgement.faults += _conservation(world, allocations)
    charges = _charges(warehouse)
    judgement.rules = _compare(world, allocations, charges)
    judgement.faults += _verdict(judgement)
    judgement.faults += _run_costs(world, warehouse, allocations)
    if world.bar == WITH_IDS and world.idle_is_known:
        judgement.faults += _pots(world, allocations)
    for name, formula in OTHERS.items():
        judgement.others[name] = _compare_other(name, formula(world), world)
    return judgement


def _read(warehouse: Path, table: str) -> list[dict[str, Any]]:
    files = sorted([*warehouse.glob(f"{table}/period=*/*.parquet"), *warehouse.glob(f"_internal/{table}/period=*/*.parquet")])
    return [row for file in files for row in pq.read_table(file).to_pylist()]


def _conservation(world: World, allocations: list[dict[str, Any]]) -> list[str]:
    """Compare the sums of ledger and bill exactly, per billing period and measure."""
    billed: dict[tuple[str, str], Fraction] = defaultdict(Fraction)
    found: dict[tuple[str, str], Fraction] = defaultdict(Fraction)
    for measure, column in MEASURES.items():
        for line in world.lines:
            billed[line.row["BillingPeriodStart"][:7], measure] += Fraction(line.row[column])
        for row in allocations:
            found[f"{row['billing_period']:%Y-%m}", measure] += Fraction(row[measure])
    return [
        f"{measure} of {period}: the bill has {float(billed[period, measure])}, the ledger {float(found[period, measure])}"
        for period, measure in sorted(billed.keys() | found.keys())
        if billed[period, measure] != found[period, measure]
    ]


def _charges(warehouse: Path) -> dict[str, list[int]]:
    """Return the numbers of the lines that each charge represents."""
    numbers = {row["line_id"]: int(row["charge_description"].removeprefix("line ")) for row in _read(warehouse, "billing_lines")}
    charges = {line_id: [number] for line_id, number in numbers.items()}
    made: dict[str, list[int]] = defaultdict(list)
    for row in _read(warehouse, "charge_lines"):
        made[row["charge_id"]].append(numbers[row["line_id"]])
    return charges | made


def _compare(world: World, allocations: list[dict[str, Any]], charges: dict[str, list[int]]) -> dict[str, Rule]:
    """Compare, for each rule and for all rules together, what runs got of its charges with what they truly have of them."""
    runs = {run.run_id for run in world.runs}
    got: dict[str, dict[str, Shares]] = defaultdict(lambda: defaultdict(lambda: defaultdict(Fraction)))  # rule -> charge -> run -> cost
    rules = {"all": Rule("all")}
    offered: set[int] = set()  # lines of machines that runs state; another rule was offered their unclaimed time
    for row in allocations:
        name, cost = row["match_method"], Fraction(row["effective_cost"])
        rule = rules.setdefault(name, Rule(name))
        rule.settled += cost
        target = row["run_id"] if row["allocated_to"] == "run" else row["owner_id"] if row["allocated_to"] == "logged_model" else None
        # idle time of a machine that runs state belongs to that rule, even if the time was offered to another rule
        is_offered = "|" not in row["charge_id"] and row["pool_key"] is not None  # but no run reached it: it has the line's own id
        offered |= set(charges[row["charge_id"]]) if is_offered else set()
        is_own = row["allocated_to"] != "idle" or (row["charge_id"].startswith(f"{name}|") if "|" in row["charge_id"] else not is_offered)
        if row["charge_id"] in charges and is_own:
            of_charge = got[name][row["charge_id"]]  # counts if this rule allocated the charge to any run
            if target is not None:
                of_charge[target] += cost
                rule.to_runs += cost
                rule.estimated += cost if row["confidence"] not in CERTAIN else 0
                rule.scaled += cost if row["is_scaled"] else 0
                if cost and not any(world.lines[number].shares.get(target) for number in charges[row["charge_id"]]):
                    rule.false_matches += 1
                    rule.false_money += abs(cost)
                    rule.certain_false_matches += row["confidence"] in CERTAIN
    costs_of_all: Shares = defaultdict(Fraction)
    # A line that runs of its machine share is in two charges: one with their part, and one with the rest for all other runs.
    pooled = {number for charge, of in charges.items() if "|" in charge for number in of} | offered
    by_machine = got.get("resource_id", {})
    stated = {
        of[0]: set(by_machine[charge]) for charge, of in charges.items() if "|" not in charge and of[0] in pooled and charge in by_machine
    }
    for name, of_rule in got.items():
        costs: Shares = defaultdict(Fraction)
        for of_charge in of_rule.values():
            for run_id, cost in of_charge.items():
                costs[run_id] += cost
                costs_of_all[run_id] += cost
        parts = ((number, stated.get(number), "|" not in charge) for charge in of_rule for number in charges[charge])
        _measure(rules[name], costs, _truth_of_runs(world, parts, runs))
    whole = rules["all"]
    _measure(whole, costs_of_all, _truth_of_runs(world, whole_lines(world), runs))
    for rule in [r for r in rules.values() if r is not whole]:
        whole.settled += rule.settled if rule.name != "none" else 0
        whole.to_runs += rule.to_runs
        whole.scaled += rule.scaled
        whole.false_matches += rule.false_matches
        whole.false_money += rule.false_money
        whole.certain_false_matches += rule.certain_false_matches
    return rules


def whole_lines(world: World) -> Iterable[tuple[int, set[str] | None, bool]]:
    return ((number, None, True) for number in range(len(world.lines)))


def _truth_of_runs(world: World, parts: Iterable[tuple[int, set[str] | None, bool]], runs: set[str]) -> Shares:
    """Return what runs truly have of these parts of lines. A part is a line's number, the runs that state its machine, and whether the part is theirs.

    Without stated runs (None), the part is the whole line.
    """
    truth: Shares = defaultdict(Fraction)
    for number, stated, is_theirs in parts:
        line = world.lines[number]
        cost = line.cost()
        for target, share in line.shares.items():
            if target in runs and (stated is None or (target in stated) == is_theirs):
                truth[target] += cost * share
    return truth


def _measure(rule: Rule, costs: Shares, truth: Shares) -> None:
    errors = {run_id: abs(costs.get(run_id, NO_COST) - truth.get(run_id, NO_COST)) for run_id in costs.keys() | truth.keys()}
    rule.truth, rule.error = sum(truth.values(), NO_COST), sum(errors.values(), NO_COST)
    rule.worst_run = max(((error, run_id) for run_id, error in errors.items()), default=(NO_COST, ""))


def _compare_other(name: str, costs: Costs, world: World) -> Rule:
    rule, mine = Rule(name), {run_id: Fraction(cost) for run_id, cost in costs.items()}
    _measure(rule, mine, _truth_of_runs(world, whole_lines(world), {run.run_id for run in world.runs}))
    rule.to_runs = sum(mine.values(), NO_COST)
    return rule


def _verdict(judgement: Judgement) -> list[str]:
    world, faults = judgement.world, []
    for rule in judgement.rules.values():
        if world.is_identified and rule.certain_false_matches and rule.name != "all":
            faults.append(
                f"{rule.name}: {rule.certain_false_matches} charges went, above confidence medium, to runs that had no part in them"
            )
    for name in BY_ID:
        # Lines attached to machines that runs of a pool or a type may have are only as accurate as those rules. The world's bar then covers
        # all of them together.
        is_estimated = name == "attached" and name in judgement.rules and judgement.rules[name].estimated and world.bar != WITH_IDS
        if world.bar is not None and name in judgement.rules and judgement.rules[name].relative_error > WITH_IDS and not is_estimated:
            faults.append(f"{name}: error {float(judgement.rules[name].relative_error):.3g} of the truth, more than {float(WITH_IDS):g}")
    if world.bar is not None and judgement.whole.relative_error > world.bar:
        error, run_id = judgement.whole.worst_run
        faults.append(
            f"error {float(judgement.whole.relative_error):.3g} of the truth, more than {float(world.bar):g}; worst run {run_id}, off by {float(error):.6g}"
        )
    return faults


def _run_costs(world: World, warehouse: Path, allocations: list[dict[str, Any]]) -> list[str]:
    """Check that `run_costs` has every run, and the same sums as the ledger."""
    sums: Shares = defaultdict(Fraction)
    for row in allocations:
        if row["allocated_to"] == "run":
            sums[row["run_id"]] += Fraction(row["effective_cost"])
    rows = {row["run_id"]: Fraction(row["effective_cost"] or 0) for row in _read(warehouse, "run_costs")}
    faults = [f"run_costs has no run {run.run_id}" for run in world.runs if run.run_id not in rows]
    return faults + [
        f"run_costs says {float(rows[run_id])} of run {run_id}, the ledger {float(cost)}"
        for run_id, cost in sums.items()
        if run_id in rows and rows[run_id] != cost
    ]


def _pots(world: World, allocations: list[dict[str, Any]]) -> list[str]:
    """Check idle, shared and unallocated cost too: if runs state their ids, all three are known."""
    found: Shares = defaultdict(Fraction)
    truth: Shares = defaultdict(Fraction)
    for row in allocations:
        if row["allocated_to"] in POTS:
            found[POTS[row["allocated_to"]]] += Fraction(row["effective_cost"])
    for line in world.lines:
        for target, share in line.shares.items():
            if target in POTS.values():
                truth[target] += line.cost() * share
    whole = sum((abs(line.cost()) for line in world.lines), NO_COST)
    return [
        f"{pot} is {float(found[pot]):.6f}, truly {float(truth[pot]):.6f}"
        for pot in sorted(set(POTS.values()))
        if abs(found[pot] - truth[pot]) > WITH_IDS * whole
    ]
