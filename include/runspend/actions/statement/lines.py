"""Distribute the bill of a month over the statements of the teams, in exact amounts and in amounts that are rounded to the cent.

Every cost is in exactly one line of one statement. Spread cost is distributed to teams in proportion to their direct cost, and then in the same
way to the experiments of each team. The explorer uses the same arithmetic. Rounded amounts also add up: all statements add up to the rounded
bill, and the lines of a statement to its rounded total.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

from runspend.core.amounts import add, round_parts
from runspend.core.spread import NOTHING, weights_of

DIRECT = "direct"
OUTSIDE = "out of scope"
# Value of `allocated_to` -> part of a statement, in the order of the parts.
PART_OF = {
    "run": DIRECT,
    "logged_model": "models",
    "orphan": "orphaned",
    "idle": "idle",
    "shared": "shared",
    "unallocated": "unallocated",
    "out_of_scope": OUTSIDE,
}
PARTS = tuple(PART_OF.values())
PLACES = 2
MOST_EXPERIMENTS = 5_000  # only a team's most expensive experiments have their own line; the others share one line
OTHERS = "(other experiments)"

Team = str | None  # None: cost without a team
Key = tuple[str | None, str | None, str]  # experiment, cost center, part
Own = dict[Key, Decimal]


@dataclass(frozen=True)
class Line:
    """One amount of a statement. `experiment` is None for cost without a run."""

    experiment: str | None
    cost_center: str | None
    part: str
    currency: str
    cost: Decimal
    rounded: Decimal


@dataclass(frozen=True)
class Sums:
    """A sum of lines, exact and rounded."""

    cost: Decimal
    rounded: Decimal


def sums_of(lines: Iterable[Line]) -> Sums:
    """Return the sums of lines. All lines must have the same currency."""
    kept = list(lines)
    return Sums(add(line.cost for line in kept), add(line.rounded for line in kept))


def distribute(
    rows: Iterable[Mapping[str, Any]], measure: str, spread: Collection[str], teams: Collection[Team] = ()
) -> dict[Team, tuple[Line, ...]]:
    """Return the lines of each team's statement. The key None has the lines without a team.

    `rows` are the bill by team, experiment_name, cost_center, allocated_to and billing_currency. `spread` names the parts that are spread over
    teams. `teams` get a statement even without a cost.
    """
    lines: dict[Team, list[Line]] = {team: [] for team in (*teams, None)}
    by_currency = defaultdict[str, list[Mapping[str, Any]]](list)
    for row in rows:
        by_currency[row["billing_currency"]].append(row)
    for currency, found in sorted(by_currency.items()):
        shared = _share(found, measure, spread)
        names = sorted(shared, key=_by_name)
        totals = round_parts([add(shared[team].values()) for team in names], PLACES)
        for team, total in zip(names, totals, strict=True):
            keys = _in_order(shared[team])
            costs = [shared[team][key] for key in keys]
            rounded = round_parts(costs, PLACES, total)
            made = [Line(*key, currency, cost, even) for key, cost, even in zip(keys, costs, rounded, strict=True)]
            lines.setdefault(team, []).extend(made)
    return {team: tuple(lines[team]) for team in sorted(lines, key=_by_name)}


def _by_name(team: Team) -> tuple[bool, str]:
    return team is None, team or ""


def _share(rows: Sequence[Mapping[str, Any]], measure: str, spread: Collection[str]) -> dict[Team, Own]:
    """Return the exact amounts of one currency by team, and then by experiment, cost center and part."""
    own: dict[Team, Own] = defaultdict(lambda: defaultdict(Decimal))
    pot: dict[str, Decimal] = {}
    for row in rows:
        part, cost = PART_OF[row["allocated_to"]], row[measure] or NOTHING
        if row["team"] is None and part in spread:
            pot[part] = add([pot.get(part), cost])
        else:
            key = (row["experiment_name"], row["cost_center"], part)
            team = None if part == OUTSIDE else row["team"]
            own[team][key] = add([own[team].get(key), cost])
    direct = {team: _most_expensive(costs) for team, costs in own.items()}
    whole = {team: add(costs.values()) for team, costs in direct.items()}
    order = sorted((team for team in whole if direct[team]), key=lambda team: (-whole[team], team is not None, team or ""))
    weights = weights_of([whole[team] for team in order])
    for part, amount in pot.items():
        if not weights or not weights[0].whole:  # no team has a direct cost
            own[None][None, None, part] = add([own[None].get((None, None, part)), amount])
            continue
        for team, weight in zip(order, weights, strict=True):
            share, inner = weight.share(amount), direct[team]
            for (experiment, cost_center, _), place in zip(inner, weights_of(list(inner.values())), strict=True):
                if piece := place.share(share):
                    key = (experiment, cost_center, part)
                    own[team][key] = add([own[team].get(key), piece])
    return {team: {key: cost for key, cost in costs.items() if cost} for team, costs in own.items()}


def _most_expensive(costs: Own) -> Own:
    """Return the direct costs, largest first. Experiments beyond MOST_EXPERIMENTS are merged into one. `costs` is changed in the same way."""
    order = sorted((key for key in costs if key[2] == DIRECT), key=lambda key: (-costs[key], key[0] or "", key[1] or ""))
    if len(order) > MOST_EXPERIMENTS:
        costs[OTHERS, None, DIRECT] = add([costs.get((OTHERS, None, DIRECT)), *(costs.pop(key) for key in order[MOST_EXPERIMENTS:])])
        order = [*order[:MOST_EXPERIMENTS], (OTHERS, None, DIRECT)]
    return {key: costs[key] for key in order}


def _in_order(costs: Own) -> list[Key]:
    """Return the keys in the order of lines: the most expensive experiments first, and cost without an experiment last. Then by part."""
    whole = defaultdict[tuple[str | None, str | None], list[Decimal]](list)
    for key, cost in costs.items():
        whole[key[:2]].append(cost)
    sums = {place: add(values) for place, values in whole.items()}
    return sorted(costs, key=lambda k: (k[0] is None, -sums[k[:2]], k[0] or "", k[1] or "", PARTS.index(k[2])))
