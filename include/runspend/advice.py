"""What the ledger says of itself: which rule settled how much, what nobody explains and what would, where names came from.

Ranked by money, and the one place for such advice: `doctor`, `try`, the night's summary and the report show what is found here.
How it is shown does not belong here. All functions read one billing period, by its first day, in the reader's currencies.
"""

from __future__ import annotations

import json
import re
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from decimal import Context, Decimal
from typing import Any

from runspend.config import Settings
from runspend.outside_json import parse_json
from runspend.warehouse import Reader

EXACT = Context(prec=76)
DIMENSIONS = ("team", "project", "cost_center", "owner")
# More different sets of tags than this, the dearest first, are not looked at one by one: the rest is "other".
TAG_SETS = 20_000
# So many tags are tried, one after another, on what no group of machines explains.
TAG_GROUPS = 8

# What a tag key that groups machines is called; the first text that is part of it, in the order of preference.
GROUP_WORDS = (
    (("nodegroup", "nodepool", "node-pool", "poolname", "instancepool"), "node group"),
    (("autoscaling",), "auto-scaling group"),
    (("fleet",), "fleet"),
    (("cluster", "job-flow"), "cluster"),
    (("job",), "job"),
)

# The tag that groups a line's machines best, as key|value, of its group keys (account|key|value, one on each line).
MACHINE_GROUP = ", ".join(
    rf"nullif(regexp_extract(group_keys, r'(?i)[|]([^|\n]*(?:{needles})[^|\n]*[|][^\n]*)'), '')" for needles in ("|".join(words) for words, _ in GROUP_WORDS)
)
# Tags that name one thing, not a group of things, inside the JSON of all tags.
OWN_TAGS = r"""r'(?i)"(?:name|aws:createdby|createdby|created_by|creator|user_name|resourceTags/user:name)": *"(?:[^"\\]|\\.)*",?'"""

UNMET = """
select match_method, reason, count(*) as runs, sum(claimed_seconds) / 3600 as hours, min(claim) as example
from unmet_claims
where billing_period = @first
group by match_method, reason
order by hours desc, match_method, reason
"""
UNMET_WORDS = {
    "no_such_machine": "no bill has it at that time",
    "not_billed_yet": "its hours are not billed yet",
    "out_of_scope": "scope excludes it",
    "over_claimed": "other runs had all of its hours",
}
CLAIM_WORDS = {"job_id": "a job", "resource_id": "a machine", "pool_time": "a pool", "instance_type_time": "an instance type"}

RUNGS = """
select
  billing_currency, allocated_to, match_method, case when match_method = 'pool_time' then pool_key end as pool_key,
  max(confidence) as confidence, sum(effective_cost) as effective_cost
from cost_allocations
where billing_period = @first
group by billing_currency, allocated_to, match_method, case when match_method = 'pool_time' then pool_key end
"""

# Of lines that were priced together one stands for all: they share what they were priced by.
UNMATCHED = f"""
with lost as (
  select
    billing_currency, source, charge_id, max(service_name) as service_name, max(sub_account_id) as sub_account_id, max(cost_kind) as cost_kind,
    max(reason) as reason, sum(effective_cost) as effective_cost
  from cost_allocations
  where billing_period = @first and allocated_to = 'unmatched'
  group by billing_currency, source, charge_id
),
one_lines as (
  select source, charge_id, min(line_id) as line_id from charge_lines where billing_period = @first group by source, charge_id
),
told as (
  select
    l.billing_currency, l.source, coalesce(l.service_name, '') as service_name, coalesce(l.sub_account_id, '') as sub_account_id, l.cost_kind,
    coalesce(l.reason, '') as reason, coalesce(b.tags, '') as tags, coalesce(array_to_string(b.group_keys, '\\n'), '') as group_keys, l.effective_cost
  from lost l
  left join one_lines o on o.source = l.source and o.charge_id = l.charge_id
  left join (select source, line_id, tags, group_keys from billing_lines where billing_period = @first) b
    on b.source = l.source and b.line_id = coalesce(o.line_id, l.charge_id)
),
grouped as (
  select
    billing_currency, source, service_name, sub_account_id, cost_kind, reason, tags, coalesce({MACHINE_GROUP}, '') as machine_group, effective_cost
  from told
),
told_once as (
  -- beside a group of machines other tags do not count
  select
    billing_currency, source, service_name, sub_account_id, cost_kind, reason, machine_group, effective_cost,
    case when machine_group = '' then regexp_replace(tags, {OWN_TAGS}, '') else '' end as tags
  from grouped
)
select
  billing_currency, source, service_name, sub_account_id, cost_kind, reason, tags, machine_group, sum(effective_cost) as effective_cost
from told_once
group by billing_currency, source, service_name, sub_account_id, cost_kind, reason, tags, machine_group
order by effective_cost desc, source, service_name, sub_account_id, cost_kind, reason, tags, machine_group
limit {TAG_SETS}
"""

ORIGINS = """
select d.billing_currency, case when c.{name} is not null then coalesce(c.{name}_from, '') end as came_from, sum(d.effective_cost) as effective_cost
from run_costs_daily d
left join run_costs c
  on c.tracking_server = d.tracking_server and c.workspace = d.workspace and c.run_id = d.run_id and c.billing_currency = d.billing_currency
where d.charge_date >= @first and d.charge_date < @next
group by d.billing_currency, case when c.{name} is not null then coalesce(c.{name}_from, '') end
"""

ACCOUNTS = """
select
  billing_currency, source, coalesce(sub_account_id, '') as sub_account_id, coalesce(service_name, '') as service_name,
  sum(case when allocated_to <> 'out_of_scope' then effective_cost end) as inside_cost,
  sum(case when allocated_to = 'out_of_scope' then effective_cost end) as outside_cost
from cost_allocations
where billing_period = @first and allocated_to <> 'shared'
group by billing_currency, source, coalesce(sub_account_id, ''), coalesce(service_name, '')
order by inside_cost desc, source, sub_account_id, service_name
"""

IDENTITY = """
select
  (select count(*) from runs where start_month = @first) as runs,
  (
    select count(distinct concat(r.tracking_server, '/', r.run_id))
    from runs r join run_resources m on m.tracking_server = r.tracking_server and m.run_id = r.run_id where r.start_month = @first
  ) as machine_runs,
  (
    select count(distinct m.resource_key)
    from runs r join run_resources m on m.tracking_server = r.tracking_server and m.run_id = r.run_id
    left join (
      -- a longer or a shorter name of the same machine ends alike
      select distinct regexp_extract(resource_key, r'[^/]*$') as last_part from billing_lines where billing_period = @first
    ) l on l.last_part = regexp_extract(m.resource_key, r'[^/]*$')
    where r.start_month = @first and l.last_part is null
  ) as unbilled_machines,
  (select count(*) from billing_lines where billing_period = @first and run_tag is not null) as tagged_lines
"""

# match_method -> what a person calls the rule, in the order of the ladder.
RULES = {
    "run_tag": "exact, by run tag",
    "job_id": "exact, by job",
    "resource_id": "by machine",
    "attached": "attached to machines",
    "artifact_bytes": "artifacts",
    "llm_cost": "LLM usage",
    "pool_time": "by pool",
    "instance_type_time": "by instance type",
    "sharing": "spread by sharing",
}


@dataclass(frozen=True)
class Rung:
    """What one rule settled, idle time on its machines included."""

    words: str
    confidence: str | None
    effective_cost: Decimal
    idle_cost: Decimal


@dataclass(frozen=True)
class Group:
    """Money without a run that one more tag or pool would explain. `selector`: its lines, as `scope` and `pools` name lines."""

    words: str
    selector: Mapping[str, str]
    effective_cost: Decimal
    advice: str


@dataclass(frozen=True)
class Coverage:
    """Run cost by where one dimension of its runs came from; None: from nowhere."""

    dimension: str
    whole: Decimal
    origins: tuple[tuple[str | None, Decimal], ...]

    @property
    def known(self) -> Decimal:
        """Cost of runs that have a value."""
        return add(cost for origin, cost in self.origins if origin is not None)


@dataclass(frozen=True)
class Identity:
    """How the runs that began in the month and the lines of its bills tell who they are."""

    runs: int
    machine_runs: int
    unbilled_machines: int
    tagged_lines: int


@dataclass(frozen=True)
class ScopeLine:
    """One entry of `scope.include`, and what it takes in of what is in scope now, and besides."""

    selector: Mapping[str, str | list[str]]
    inside_cost: Decimal
    outside_cost: Decimal

    @property
    def yaml(self) -> str:
        """Ready to paste: JSON is YAML."""
        return "{" + ", ".join(f"{key}: {json.dumps(value, ensure_ascii=False)}" for key, value in self.selector.items()) + "}"


@dataclass(frozen=True)
class UnmetClaims:
    """Runs that one rule could have matched, and why it did not; `hours` is the machine time they claim."""

    match_method: str
    reason: str
    runs: int
    hours: float
    example: str

    @property
    def words(self) -> str:
        """ "26 runs (1,204.5 h) state a machine, such as i-0abc: no bill has it at that time"."""
        one = self.runs == 1
        return f"{self.runs:,} run{'' if one else 's'} ({self.hours:,.1f} h) state{'s' if one else ''} {CLAIM_WORDS[self.match_method]}, such as {self.example}: {UNMET_WORDS[self.reason]}"


def add(costs: Iterable[Decimal | None]) -> Decimal:
    """The exact sum; null counts as 0."""
    total = Decimal(0)
    for cost in costs:
        total = EXACT.add(total, cost or Decimal(0))
    return total


def rungs(reader: Reader, first: date) -> dict[str, tuple[Rung, ...]]:
    """Currency -> the period's bill by the rule that settled it, in the order of the ladder; then "no run found", "shared" and "out of scope"."""
    found: dict[str, dict[tuple[int, str], list[Mapping[str, Any]]]] = defaultdict(lambda: defaultdict(list))
    for row in reader.query(RUNGS, {"first": first}).to_pylist():
        found[row["billing_currency"]][_rung_of(row)].append(row)
    return {
        currency: tuple(
            Rung(
                words,
                max((r["confidence"] for r in rows if r["confidence"]), default=None),
                add(r["effective_cost"] for r in rows),
                add(r["effective_cost"] for r in rows if r["allocated_to"] == "idle"),
            )
            for (_, words), rows in sorted(by_rule.items())
        )
        for currency, by_rule in found.items()
    }


def _rung_of(row: Mapping[str, Any]) -> tuple[int, str]:
    last = {"unmatched": "no run found", "shared": "shared", "out_of_scope": "out of scope"}
    if (target := row["allocated_to"]) in last:
        return len(RULES) + list(last).index(target), last[target]
    method = row["match_method"]
    name = f" {row['pool_key'].partition('|')[0]}" if row["pool_key"] else ""
    return list(RULES).index(method) if method in RULES else len(RULES) - 1, f"{RULES.get(method, method)}{name}"


def unmatched_groups(reader: Reader, first: date, settings: Settings) -> dict[str, tuple[Group, ...]]:
    """Currency -> what has no run, in groups that one more tag or pool would explain, dearest first. A line is in one group.

    A node group or cluster is preferred to other tags, these to service and account; of other tags the dearest first.
    """
    by_currency: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for row in reader.query(UNMATCHED, {"first": first}).to_pylist():
        by_currency[row["billing_currency"]].append(row)
    return {currency: tuple(_grouped(rows, settings)) for currency, rows in by_currency.items()}


def _grouped(rows: list[dict[str, Any]], settings: Settings) -> list[Group]:
    chosen: dict[tuple[tuple[str, str], ...], list[dict[str, Any]]] = defaultdict(list)
    tagged = []
    for row in rows:
        if row["machine_group"]:
            key, _, value = row["machine_group"].partition("|")
            chosen[((f"tag.{key}", value),)].append(row)
        elif pairs := _tag_pairs(row["tags"]):
            tagged.append((row, pairs))
        else:
            chosen[_place(row)].append(row)
    for _ in range(TAG_GROUPS):
        if not tagged:
            break
        sums: dict[tuple[str, str], list[Decimal]] = defaultdict(list)
        for row, pairs in tagged:
            for pair in pairs:
                sums[pair].append(row["effective_cost"])
        key, value = min(sums, key=lambda pair: (-add(sums[pair]), pair))
        chosen[((f"tag.{key}", value),)] += [row for row, pairs in tagged if (key, value) in pairs]
        tagged = [(row, pairs) for row, pairs in tagged if (key, value) not in pairs]
    for row, _ in tagged:
        chosen[_place(row)].append(row)
    made = [Group(_words(dict(key)), dict(key), add(r["effective_cost"] for r in members), _advice(dict(key), members, settings)) for key, members in chosen.items()]
    return sorted((g for g in made if g.effective_cost), key=lambda g: (-g.effective_cost, g.words))


def _tag_pairs(text: str) -> frozenset[tuple[str, str]]:
    try:
        tags = parse_json(re.sub(r",\s*}$", "}", text)) if text else {}  # what was taken out last has left its comma
    except ValueError:
        return frozenset()  # a key that ends like one of OWN_TAGS after a quote of its own: the line is told by its service
    return frozenset((key, value) for key, value in tags.items() if isinstance(value, str) and value)


def _place(row: Mapping[str, Any]) -> tuple[tuple[str, str], ...]:
    named = {"service": row["service_name"], "account": row["sub_account_id"]}
    return tuple((key, value) for key, value in named.items() if value) or (("source", row["source"]),)


def _words(selector: Mapping[str, str]) -> str:
    """ "node group gpu-spot", "tag team=vision", "Amazon SageMaker in account 1111"."""
    (first, value), *_ = selector.items()
    if first.startswith("tag."):
        word = next((word for needles, word in GROUP_WORDS if any(needle in first.lower() for needle in needles)), None)
        return f"{word} {value}" if word else f"{first.removeprefix('tag.')}={value}"
    if "service" in selector:
        return selector["service"] + (f" in account {selector['account']}" if "account" in selector else "")
    return f"{first} {value}"


def _advice(selector: Mapping[str, str], rows: Sequence[Mapping[str, Any]], settings: Settings) -> str:
    """The one thing to do, told by the dearest of the group's lines."""
    row = max(rows, key=lambda r: r["effective_cost"])
    if row["reason"] == "unknown_run":
        return "its tag names a run that no server knows: add the tracking server that has it"
    if row["cost_kind"] == "storage":
        return "if artifacts lie there, add the bucket to `stores`: its bytes are split among runs then"
    server = settings.tracking[0].name if settings.tracking else "NAME"
    lines = ", ".join(f"{key}: {json.dumps(value, ensure_ascii=False)}" for key, value in selector.items())
    name = "".join(c if c.isalnum() or c in "._-" else "-" for c in next(iter(selector.values()))).strip("._-") or "machines"
    return f"let its runs state their machine, or add a pool: {{name: {name}, runs: {{tracking: {server}}}, lines: {{{lines}}}}}"


def coverage(reader: Reader, first: date, following: date) -> dict[str, tuple[Coverage, ...]]:
    """Currency -> run cost of the charge dates from `first` until before `following`, by where each dimension came from."""
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
    """How many runs and lines of the month say who they are."""
    return Identity(**reader.query(IDENTITY, {"first": first}).to_pylist()[0])


def unmet_claims(reader: Reader, first: date) -> tuple[UnmetClaims, ...]:
    """Runs of the month that say where they ran and got no machine's cost, by rule and reason, the most hours first."""
    return tuple(UnmetClaims(**row) for row in reader.query(UNMET, {"first": first}).to_pylist())


def scope_proposal(reader: Reader, first: date) -> tuple[ScopeLine, ...]:
    """What to write under `scope.include` for what the default scope takes in now: accounts that are mostly the platform's, else their services.

    In the period's main currency. Fees are left out: they follow their account.
    """
    rows = reader.query(ACCOUNTS, {"first": first}).to_pylist()
    accounts: dict[tuple[str, str], list[dict[str, Any]]] = defaultdict(list)
    for row in rows:
        accounts[row["source"], row["sub_account_id"]].append(row)
    whole: dict[str, list[dict[str, Any]]] = defaultdict(list)
    lines = []
    for (source, account), members in accounts.items():
        if not add(r["inside_cost"] for r in members):
            continue
        if account and _is_mostly_inside(members):
            whole[source] += members
            continue
        services: dict[str, list[dict[str, Any]]] = defaultdict(list)
        for row in (r for r in members if r["inside_cost"]):
            services[row["service_name"]].append(row)
        named = [service for service in services if service]
        if named:
            place: dict[str, str | list[str]] = {"source": source, **({"account": account} if account else {}), "service": named}
            lines.append(_scope_line(place, [r for service in named for r in services[service]]))
    for source, members in whole.items():
        lines.append(_scope_line({"source": source, "account": list(dict.fromkeys(r["sub_account_id"] for r in members))}, members))
    return tuple(sorted(lines, key=lambda line: -line.inside_cost))


def _is_mostly_inside(rows: Sequence[Mapping[str, Any]]) -> bool:
    """At least nine tenths of the money."""
    inside, outside = add(r["inside_cost"] for r in rows), add(r["outside_cost"] for r in rows)
    return inside >= EXACT.multiply(outside, Decimal(9))


def _scope_line(selector: Mapping[str, str | list[str]], rows: Sequence[Mapping[str, Any]]) -> ScopeLine:
    return ScopeLine(selector, add(r["inside_cost"] for r in rows), add(r["outside_cost"] for r in rows))
