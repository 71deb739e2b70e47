"""Suggestions and coverage as one line each, with the same words on every screen and page.

`runspend.allocation.diagnostics` computes their data.
"""

from __future__ import annotations

from collections.abc import Sequence
from decimal import Decimal

from runspend.allocation.diagnostics import Coverage
from runspend.allocation.without_run import Group
from runspend.core.amounts import money, percent, places_for, share_of

# Kinds of `Waste`.
WASTE = {
    "failed": "failed or killed runs",
    "repeated": "repeated runs: same code and parameters as an earlier finished run",
    "unused": "units of a machine that its run did not request",
    "no_run": "machines without a run all month (by billing period)",
}

# Allocation rules, by `match_method`.
RULES = {
    "run_tag": "the bill has the run’s id",
    "job_id": "the bill names the run’s job",
    "resource_id": "run and bill name the same machine",
    "attached": "attached to a machine, split like that machine",
    "artifact_bytes": "bytes in the artifact store",
    "pool_time": "time in a pool",
    "instance_type_time": "time on an instance type",
    "llm_identity": "the caller of a language model",
    "llm_cost": "token cost of traces",
    "sharing": "shared-cost distribution",
    "none": "no rule",
}


def suggestion(group: Group, platform: Decimal) -> str:
    """Return a line such as "tag node group gpu-spot: explains 1,087.51, 5.9%".

    The percentage is a share of the ML platform's cost. Out-of-scope cost has none, because it is not part of that cost.
    """
    places = places_for(max(platform, group.effective_cost))
    share = f", {percent(share_of(group.inside_cost, platform))}" if platform > 0 and group.inside_cost else ""
    whole = money(group.effective_cost, places)
    if not group.outside_cost:
        return f"{group.action}: explains {whole}{share}"
    outside = "out of scope now" if not group.inside_cost else f"including {money(group.outside_cost, places)} out of scope now"
    return f"{group.action}: explains {whole}{share}, {outside}"


def coverage_words(parts: Sequence[Coverage], *, every: bool = False) -> list[str]:
    """Return lines such as "92.1% of allocated cost has a team (run.tag.team 61.0%, experiment.tag.team 31.1%)".

    Dimensions other than the team are left out if no cost has a value, unless `every` is set.
    """
    found = []
    for part in parts:
        if part.whole <= 0 or not (every or part.known or part.dimension == "team"):
            continue  # companies that do not use projects, for example, do not need a line about them
        named = [(origin or "run", cost) for origin, cost in part.origins if origin is not None]
        places = ", ".join(f"{origin} {percent(share_of(cost, part.whole))}" for origin, cost in named)
        name = f"{'an' if part.dimension == 'owner' else 'a'} {part.dimension.replace('_', ' ')}"
        found.append(f"{percent(share_of(part.known, part.whole))} of allocated cost has {name}{f' ({places})' if named else ''}")
    return found
