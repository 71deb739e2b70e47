"""Diagnoses the ledger: cost allocated by each rule, claims that were not met, sources of dimension values.

Cost without a run, and advice about it, is in `allocation/without_run`. Display does not belong here. All functions read one billing
period, given by its first day, in the currencies of the reader.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import date
from decimal import Decimal
from pathlib import Path
from typing import Any

from runspend.core.amounts import EXACT, add
from runspend.warehouse.base import Reader
from runspend.warehouse.sql_files import read_sql

HERE = Path(__file__).parent
UNMET = read_sql(HERE, "unmet_by_reason")
RULE_COSTS = read_sql(HERE, "rule_costs")
ORIGINS = read_sql(HERE, "dimension_origins")
IDENTITY = read_sql(HERE, "identity")
DIMENSIONS = ("team", "project", "cost_center", "owner")

# Tag keys that contain one of these words group machines. The first entry that matches counts.
GROUP_WORDS = (
    (("nodegroup", "nodepool", "node-pool", "poolname", "instancepool"), "node group"),
    (("autoscaling",), "auto-scaling group"),
    (("fleet",), "fleet"),
    (("cluster", "job-flow"), "cluster"),
    (("job",), "job"),
)

# SQL: the best machine group of a bill line, as key|value. It is taken from `group_keys` (account|key|value, one on each line).
MACHINE_GROUP = ", ".join(
    rf"nullif(regexp_extract(group_keys, r'(?i)[|]([^|\n]*(?:{needles})[^|\n]*[|][^\n]*)'), '')"
    for needles in ("|".join(words) for words, _ in GROUP_WORDS)
)
# SQL: a pattern of tags to ignore, in the JSON of all tags. They name one resource, not a group, or a cloud sets them on every machine.
OWN_TAGS = r"""r'(?i)"(?:name|aws:createdby|createdby|created_by|creator|user_name|resourceTags/user:name|goog-k8s-cluster-(?:name|location)|k8s-workload-(?:name|type)|k8s-label/[^"]*(?:job-name|uid|hash|pod-name)|vertex-ai-pipelines-run-billing-id|goog:compute\.googleapis\.com/[^"]*)": *"(?:[^"\\]|\\.)*",?'"""

# Advice for runs that state a machine if the bill gives the machine's cost to its pods.
STATE_THE_POD = "State the pod (docs/identify.md#kubernetes), or set `pods: whole` on the bill"
UNMET_WORDS = {
    "no_such_machine": "no bill has it at that time and place",
    "not_billed_yet": "its hours are not billed yet",
    "out_of_scope": "scope excludes it",
    "over_claimed": "other runs used all of its hours",
    "declared_shared": "`shared` declares it as cost of the platform",
    "split_into_pods": f"the bill gives its cost to its pods. {STATE_THE_POD}",
}
CLAIM_WORDS = {
    "job_id": ("states", "state", "a job"),
    "resource_id": ("states", "state", "a machine"),
    "pool_time": ("belongs to", "belong to", "a pool"),
    "instance_type_time": ("states", "state", "an instance type"),
    "llm_identity": ("states", "state", "an IAM principal"),
}
# The kind of shared cost by `charge_category`, unless its reason or service is more specific.
SHARED_KINDS = {"Tax": "taxes", "Purchase": "purchases", "Credit": "credits", "Adjustment": "adjustments"}

# match_method -> the rule's name for people, in the order of the allocation rules.
RULES = {
    "run_tag": "exact, by run tag",
    "job_id": "exact, by job",
    "resource_id": "by machine",
    "attached": "attached to machines",
    "artifact_bytes": "artifacts",
    "llm_identity": "LLM usage by caller",
    "llm_cost": "LLM usage",
    "pool_time": "by pool",
    "instance_type_time": "by instance type",
    "sharing": "spread by sharing",
}


@dataclass(frozen=True)
class RuleCost:
    """The cost that one rule allocated, including idle time on its machines.

    `caller_cost`: the part of unallocated cost that a known caller of a language model caused. `kinds`: shared cost by kind.
    """

    words: str
    confidence: str | None
    effective_cost: Decimal
    idle_cost: Decimal
    caller_cost: Decimal = Decimal(0)
    kinds: Mapping[str, Decimal] = field(default_factory=dict)


@dataclass(frozen=True)
class Coverage:
    """Allocated cost by the source of one dimension's value. The source None means that the run has no value."""

    dimension: str
    whole: Decimal
    origins: tuple[tuple[str | None, Decimal], ...]

    @property
    def known(self) -> Decimal:
        """Return the cost of runs that have a value."""
        return add(cost for origin, cost in self.origins if origin is not None)


@dataclass(frozen=True)
class Identity:
    """Counts of the runs that began in the month, and of the lines of its bills, that identify their machine or run.

    `split_machines`: machines that runs state, but whose cost the bill gives to their pods.
    """

    runs: int
    machine_runs: int
    unbilled_machines: int
    tagged_lines: int
    split_machines: int = 0


@dataclass(frozen=True)
class UnmetClaims:
    """Runs that one allocation rule could have matched, and why it did not. `hours` is the machine time they claim."""

    match_method: str
    reason: str
    runs: int
    hours: float
    example: str

    @property
    def words(self) -> str:
        """ "26 runs (1,204.5 h) state a machine, such as i-0abc: no bill has it at that time and place"."""
        singular, plural, claim = CLAIM_WORDS[self.match_method]
        runs = f"1 run ({self.hours:,.1f} h) {singular}" if self.runs == 1 else f"{self.runs:,} runs ({self.hours:,.1f} h) {plural}"
        is_empty_pool = (self.match_method, self.reason) == ("pool_time", "no_such_machine")
        why = "no bill has its machines at that time" if is_empty_pool else UNMET_WORDS[self.reason]
        return f"{runs} {claim}, such as {self.example}: {why}"


def rule_costs(reader: Reader, first: date) -> dict[str, tuple[RuleCost, ...]]:
    """Return the cost of the bill by allocation rule, for each currency. "unallocated", "shared" and "out of scope" come last."""
    found: dict[str, dict[tuple[int, str], list[Mapping[str, Any]]]] = defaultdict(lambda: defaultdict(list))
    for row in reader.query(RULE_COSTS, {"first": first}).to_pylist():
        found[row["billing_currency"]][_rule_of(row)].append(row)
    return {
        currency: tuple(
            RuleCost(
                words,
                _most_of(rows),
                add(r["effective_cost"] for r in rows),
                add(r["effective_cost"] for r in rows if r["allocated_to"] == "idle"),
                add(r["effective_cost"] for r in rows if (r["allocated_to"], r["match_method"]) == ("unallocated", "llm_identity")),
                shared_kinds(r for r in rows if r["allocated_to"] == "shared"),
            )
            for (_, words), rows in sorted(by_rule.items())
        )
        for currency, by_rule in found.items()
    }


def _most_of(rows: Iterable[Mapping[str, Any]]) -> str | None:
    """Return the confidence that most of the cost has. None if no row has one."""
    costs: dict[str, Decimal] = defaultdict(Decimal)
    for row in rows:
        if row["confidence"]:
            costs[row["confidence"]] = EXACT.add(costs[row["confidence"]], row["effective_cost"] or Decimal(0))
    return max(costs, key=lambda name: (costs[name], name), default=None)


def _rule_of(row: Mapping[str, Any]) -> tuple[int, str]:
    last = {"unallocated": "unallocated", "shared": "shared", "out_of_scope": "out of scope"}
    method = row["match_method"]
    if (target := row["allocated_to"]) in last:
        return len(RULES) + list(last).index(target), last[target]
    name = f" {row['pool_key'].partition('|')[0]}" if row["pool_key"] else ""
    return list(RULES).index(method) if method in RULES else len(RULES) - 1, f"{RULES.get(method, method)}{name}"


def shared_kinds(rows: Iterable[Mapping[str, Any]]) -> dict[str, Decimal]:
    """Return shared cost by kind ("taxes", "platform services"), largest first.

    Each row must have `reason`, `service_name`, `charge_category` and `effective_cost`.
    """
    kinds: dict[str, list[Decimal | None]] = defaultdict(list)
    for row in rows:
        kinds[_shared_kind(row)].append(row["effective_cost"])
    return dict(sorted(((kind, add(costs)) for kind, costs in kinds.items()), key=lambda item: (-item[1], item[0])))


def _shared_kind(row: Mapping[str, Any]) -> str:
    if row["reason"] == "platform":
        return "platform services"
    if row["reason"] not in (None, "fee"):  # then it is the policy from `sharing`
        return "distributed by sharing"
    if "support" in (row["service_name"] or "").lower():
        return "support"
    return SHARED_KINDS.get(row["charge_category"], "other fees")


def coverage(reader: Reader, first: date, following: date) -> dict[str, tuple[Coverage, ...]]:
    """Return allocated cost by the source of each dimension, for each currency. Charge dates are from `first` to before `following`."""
    found: dict[str, dict[str, list[tuple[str | None, Decimal]]]] = defaultdict(lambda: defaultdict(list))
    for name in DIMENSIONS:
        for row in reader.query(ORIGINS.format(name=name), {"first": first, "next": following}).to_pylist():
            found[row["billing_currency"]][name].append((row["came_from"], row["effective_cost"] or Decimal(0)))
    return {
        currency: tuple(
            Coverage(name, add(cost for _, cost in origins), tuple(sorted(origins, key=lambda o: (o[0] is None, -o[1], o[0] or ""))))
            for name, origins in by_name.items()
        )
        for currency, by_name in found.items()
    }


def identity(reader: Reader, first: date) -> Identity:
    """Return the counts of runs and bill lines of the month that identify their machine or run."""
    return Identity(**reader.query(IDENTITY, {"first": first}).to_pylist()[0])


def unmet_claims(reader: Reader, first: date) -> tuple[UnmetClaims, ...]:
    """Return runs of the month that state a machine but got no machine cost, by rule and reason, most hours first."""
    return tuple(UnmetClaims(**row) for row in reader.query(UNMET, {"first": first}).to_pylist())
