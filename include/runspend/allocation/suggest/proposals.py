"""Proposes pools from the hours of runs and machines, and writes them as YAML with the evidence as comments.

A proposal changes no figure until it is added to `runspend.yaml`. Runs and machines of existing pools are not proposed again.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from decimal import Decimal
from typing import Any

from runspend.allocation.suggest.evidence import Cell, Evidence, read_evidence
from runspend.allocation.suggest.hour_fit import HOURS_A_DAY
from runspend.allocation.suggest.matching import Group, Match, find_matches
from runspend.allocation.suggest.nothing_found import why_nothing
from runspend.config.settings import Pool, Settings
from runspend.core.amounts import rough_money
from runspend.core.selectors import matches
from runspend.core.text import counted
from runspend.schema.rows import first_day
from runspend.warehouse.base import Reader, Warehouse

Selector = dict[str, list[str]]
MOST_POOLS = 20
FEW_TIMES = 2  # a warning is added if prices in one pool differ by more than this factor
# Few or no cells have these properties. A pool that selects lines by one of them may contain any machine.
UNTOLD = ("region", "service", "meter", "category")


@dataclass(frozen=True)
class Proposal:
    """One pool that is not configured yet, and the match behind it."""

    name: str
    runs: Selector
    lines: Selector
    match: Match
    currency: str

    @property
    def pool(self) -> Pool:
        """Return the pool in the form of the settings."""
        return Pool.model_validate({"name": self.name, "runs": self.runs, "lines": self.lines})


@dataclass(frozen=True)
class Proposals:
    """The proposals and their evidence, or the reason why nothing is proposed. `evidence` is None if there was nothing to examine."""

    proposals: tuple[Proposal, ...]
    evidence: Evidence | None
    reason: str = ""


def propose_pools(warehouse: Warehouse, settings: Settings) -> Proposals:
    """Propose pools for the runs and machines that no allocation rule matched in the newest two billing periods."""
    periods = sorted({u.period for u in warehouse.states("billing_lines")})
    if not periods or not warehouse.states("cost_allocations"):
        return Proposals((), None, f"no {'costs are allocated' if periods else 'bill is loaded'} yet. Run `runspend nightly` first.")
    with warehouse.reader() as reader:
        return propose(reader, settings, first_day(periods[-2:][0]))


def propose(reader: Reader, settings: Settings, first: date) -> Proposals:
    """Propose pools for the billing periods from `first` on."""
    evidence = read_evidence(reader, first, settings.currency)
    if evidence is None:
        return Proposals((), None, why_nothing(reader, first, None, len(settings.pools)))
    known: list[tuple[Selector, Selector]] = [(pool.runs, pool.lines) for pool in settings.pools]
    names = {pool.name.casefold() for pool in settings.pools}
    found: list[Proposal] = []
    while len(found) < MOST_POOLS:
        free = {n for n, cell in enumerate(evidence.machines) if not any(_has_machine(cell, lines) for _, lines in known)}
        runs = [cell for cell in evidence.runs if not any(_has_run(cell, chosen) for chosen, _ in known)]
        new = find_matches(evidence, free, runs)
        if not new:
            break
        for match in in_order(new, evidence):
            proposal = Proposal(
                _free_name(match.group, names), _run_selector(match, evidence), _line_selector(match.group), match, evidence.currency
            )
            found.append(proposal)
            known.append((proposal.runs, proposal.lines))
    reason = "" if found else why_nothing(reader, first, evidence, len(settings.pools))
    return Proposals(tuple(found[:MOST_POOLS]), evidence, reason)


def in_order(found: Sequence[Match], evidence: Evidence) -> Sequence[Match]:
    """Sort the matches for the file: accelerators first, then by money.

    If any selectors overlap, the order stays as it is, because the first pool that names a bill line gets its cost.
    """
    taken = {n for match in found for n in match.group.cells}
    for match in found:
        lines = _line_selector(match.group)
        if any(_has_machine(evidence.machines[n], lines) for n in taken - match.group.cells):
            return found
    return sorted(found, key=lambda m: (not m.group.gpus, -m.explained_cost))


# --- selectors ---------------------------------------------------------------------------------------------------------------


def _line_selector(group: Group) -> Selector:
    place = {"account": [group.account]} if group.account else {"source": [group.source]}
    if group.service:
        place["service"] = [group.service]
    key, patterns = group.jobs
    if key:
        place[key] = list(patterns)
    if group.kind == "machine_group":
        key, _, value = group.values[0].partition("|")
        return {f"tag.{key}": [value], **place}
    # Buckets, databases and models may have the same tag, but the evidence covers only machines.
    machines = {"instance_type": list(group.types)} if group.types else {}
    if group.kind == "tag":
        return {group.values[0]: [group.values[1]], **place, **machines}
    if group.kind == "name_prefix":
        return {"tag.Name": [f"{group.values[0]}*"], **place, **machines}
    if group.kind == "resource_key":
        return {"resource": [group.values[0]], **place}
    return place if group.kind == "service" else {**place, "instance_type": list(group.values)}


def _run_selector(match: Match, evidence: Evidence) -> Selector:
    servers = {cell.names["tracking"] for cell in evidence.runs}
    if match.kind == "tracking":
        return {"tracking": list(match.values)}
    # The same name on another server is a different experiment.
    place = {"tracking": list(match.servers)} if len(servers) > 1 and match.kind != "user" else {}
    return {**place, match.kind: list(match.values)}


def _has_machine(cell: Cell, lines: Mapping[str, Sequence[str]]) -> bool:
    """Return whether a line selector names a group of machines. Properties that few groups have (UNTOLD) count as matched if missing."""
    for key, patterns in lines.items():
        if key in UNTOLD and key not in cell.names:
            continue
        values = _values_of(cell, key)
        if not any(matches(p.lower() if key == "instance_type" else p, value) for p in patterns for value in values):
            return False
    return True


def _values_of(cell: Cell, key: str) -> list[str]:
    if key == "resource":
        return [v for v in (cell.names.get("resource_key"), cell.names.get("job_resource")) if v]
    if key == "tag.Name" and "name_prefix" in cell.names:
        return [cell.names["name_prefix"]]
    group = cell.names.get("machine_group", "").partition("|")
    own = [group[2]] if key == f"tag.{group[0]}" else []
    return own + [v for v in (cell.names.get(key),) if v]


def _has_run(cell: Cell, runs: Mapping[str, Sequence[str]]) -> bool:
    return all(any(matches(p, cell.names.get(key)) for p in patterns) for key, patterns in runs.items())


def _free_name(group: Group, names: set[str]) -> str:
    """Return a pool name that is not in `names`, and add it there."""
    text = (
        "gpu-machines" if group.kind == "accelerators" else "machines" if group.kind == "machines" else group.values[-1].rpartition("|")[2]
    )
    base = re.sub(r"[^A-Za-z0-9_.-]+", "-", text).strip("._-")[:50] or "machines"
    name, number = base, 1
    while name.casefold() in names:
        number += 1
        name = f"{base}-{number}"
    names.add(name.casefold())
    return name


# --- text --------------------------------------------------------------------------------------------------------------------


def proposals_yaml(found: Proposals) -> str:
    """Return `pools:` and its entries, ready for `runspend.yaml`."""
    return "\n".join(["pools:", *(line for proposal in found.proposals for line in proposal_lines(proposal, "  "))]) + "\n"


def proposal_lines(proposal: Proposal, indent: str) -> list[str]:
    """Return one entry of `pools`, with its evidence above it."""
    entry = [f"- name: {shown_value(proposal.name)}", f"  runs: {_flow(proposal.runs)}", f"  lines: {_flow(proposal.lines)}"]
    return [*(f"{indent}# {line}" for line in evidence_lines(proposal)), *(f"{indent}{line}" for line in entry)]


def evidence_lines(proposal: Proposal) -> list[str]:
    """Return the evidence for a proposal, one sentence per line.

    Amounts are approximate: whole hours are compared, so runs that overlap within an hour count as if they ran one after another.
    """
    match, fit = proposal.match, proposal.match.fit
    explained, residual = (rough_money(Decimal(cost)) for cost in (match.explained_cost, match.cost - match.explained_cost))
    lines = [
        f"{counted(match.runs, 'run')} on {group_words(match.group)}: explains about {explained} of {match.cost:,.2f} {proposal.currency}, "
        f"about {residual} stays idle. Confidence medium.",
        f"These runs ran in {_part(match.used_hours, match.billed_hours)} of {match.billed_hours:,.0f} billed machine-hours; a machine was billed in {_part(match.met_hours, match.run_hours)} of their {match.run_hours:,.0f} hours.",
    ]
    if match.is_by_elimination:
        lines.append(
            "Check this one: the hours do not show which runs used these machines, for example because they are always on. These are the runs that no other machines explain."
        )
    else:
        floor = f"{match.floor:,.1f}".removesuffix(".0")
        always = "1 machine that is" if floor == "1" else f"{floor} machines that are"
        rest = f"Apart from {always} always on, the" if match.floor else "The"
        lines.append(
            f"{rest} hours are {fit.likeness * 100:.0f}% alike; by chance, they would be {fit.chance * 100:.0f}% alike. Score {_rounded(fit.score, 2):.2f} of 1."
        )
    lowest, highest = match.hour_costs
    if highest > FEW_TIMES * max(lowest, 0):
        lines.append(
            f"Check this one: an hour of these machines costs {lowest:,.2f} to {highest:,.2f} {proposal.currency}, and all runs of a pool pay the mean price.{' Make a pool of each instance type if you know its runs.' if match.group.types else ''}"
        )
    if match.group.service:
        lines.append(
            "The bill does not name these jobs or pods. Better: label them, so that runs that state the label match exactly, without a pool (docs/identify.md#label-jobs-and-pods-on-google-cloud)."
        )
    elif match.group.has_jobs:
        lines.append(
            "Machines of managed jobs are in this pool. Better: runs that state their job match it exactly, without a pool (docs/identify.md#jobs)."
        )
    return lines


def group_words(group: Group) -> str:
    """Describe a group: "machines of type g5.2xlarge in account 1111"."""
    place = f"in account {group.account}" if group.account else f"on bill {group.source}"
    if group.kind == "machine_group":
        key, _, value = group.values[0].partition("|")
        what = f"machines with {key}={value}"
    elif group.kind == "tag":
        what = f"machines with {group.values[0].removeprefix('tag.')}={group.values[1]}"
    elif group.kind == "name_prefix":
        what = f"machines with a name like {group.values[0]}*"
    elif group.kind == "resource_key":
        what = f"machine {group.values[0]}"
    elif group.kind == "service":
        what = f"{'jobs' if group.has_jobs else 'pods'} of {group.values[0]}"
    else:
        what = f"machines of type {', '.join(group.values)}"
    key, patterns = group.jobs
    if key and group.kind != "service":
        what = f"{patterns[0].strip('*:/').replace('-', ' ') if key == 'resource' else 'training job'}s on {what}"
    return one_line(f"{what} {place}")


def header_lines(found: Proposals) -> list[str]:
    """Describe the evidence that was examined."""
    evidence = found.evidence
    if evidence is None:
        return []
    since, upto = evidence.moment
    runs, cost = sum(c.runs for c in evidence.runs), sum(sum(c.costs.values()) for c in evidence.machines if not c.is_serving)
    days = (evidence.upto - evidence.since) / HOURS_A_DAY
    return [
        f"Examined {days:,.0f} days, {since:%Y-%m-%d} to {upto:%Y-%m-%d} (UTC): {runs:,} runs without a machine, {cost:,.2f} {evidence.currency} of machines without a run.",
        "A pool gives the cost of its machines to its runs, by time, and leaves the rest idle. Correct it where you know better.",
    ]


def as_records(found: Proposals) -> list[dict[str, Any]]:
    """Return the proposals in machine-readable form."""
    return [
        {
            "name": p.name, "runs": p.runs, "lines": p.lines, "confidence": "medium", "currency": p.currency, "cost": round(p.match.cost, 2),
            "explained_cost": round(p.match.explained_cost, 2), "billed_hours": round(p.match.billed_hours, 2), "run_hours": round(p.match.run_hours, 2),
            "common_hours": round(p.match.used_hours, 2), "score": _rounded(p.match.fit.score, 4), "is_by_elimination": p.match.is_by_elimination, "has_jobs": p.match.group.has_jobs, "run_count": p.match.runs,
        }
        for p in found.proposals
    ]  # fmt: skip


def shown(value: object) -> str:
    """Format a value for YAML as JSON; invisible characters become escapes."""
    return re.sub(
        r"[^\x20-\U0010ffff]|[\x7f-\xa0\u00ad\u200b-\u200f\u2028-\u202e\u2060-\u206f\ud800-\udfff\ufeff\ufff9-\uffff]",
        lambda m: f"\\u{ord(m[0]):04x}",
        json.dumps(value, ensure_ascii=False),
    )


def shown_value(value: str | list[str]) -> str:
    """Format a value for YAML: in double quotes unless it is a plain word. `${` is written as `$${`, so it is not read as a variable."""
    if (
        isinstance(value, str)
        and re.fullmatch(r"[A-Za-z][A-Za-z0-9_-]*", value)
        and value.lower() not in ("null", "true", "false", "yes", "no", "on", "off", "y", "n")
    ):
        return value
    return shown(value).replace("${", "$${")


def _flow(selector: Selector) -> str:
    return "{" + ", ".join(f"{_key(key)}: {_patterns(values)}" for key, values in selector.items()) + "}"


def _key(key: str) -> str:
    return key if re.fullmatch(r"[A-Za-z][A-Za-z0-9_.-]*", key) else shown(key)


def _patterns(values: list[str]) -> str:
    return shown_value(values[0]) if len(values) == 1 else "[" + ", ".join(shown_value(v) for v in values) + "]"


def _rounded(value: float, places: int) -> float:
    """Return a rounded number that is never -0.0."""
    return round(value, places) + 0.0


def _part(part: float, whole: float) -> str:
    return f"{100 * part / whole:.0f}%" if whole else "0%"


def one_line(text: str) -> str:
    """Return a user's text for a comment, without line breaks."""
    return re.sub(r"[\x00-\x1f\x7f-\x9f\u2028\u2029\ufeff]+", " ", text)
