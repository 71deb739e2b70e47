"""Proposes entries for `scope.include`, and lists single bill lines that are out of scope: the ledger keeps only their sums.

The kinds of those lines, and advice about them, are in `without_run.py`.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date
from decimal import Decimal
from typing import Any

from runspend.allocation.remedies import selector_yaml
from runspend.core.amounts import EXACT, add
from runspend.core.service_kinds import is_accelerator
from runspend.warehouse.base import Reader

# Usage lines that no charge of the ledger has, and accelerators that `scope` excludes: their sums keep the kind.
OUTSIDE = """
out_of_scope as (
  select distinct source, charge_date, coalesce(service_name, '') as service_name, coalesce(sub_account_id, '') as sub_account_id
  from cost_allocations
  where billing_period = @first and allocated_to = 'out_of_scope'
),
beside as (
  select
    b.source, b.line_id, b.service_name, b.service_category, b.service_subcategory, b.sub_account_id, b.billing_currency, b.effective_cost,
    b.tags, b.group_keys, b.sku_meter, b.charge_description, b.instance_type, b.machine_gpus, b.resource_id,
    case when b.scope = 'exclude' then 'explicit_scope' else 'default_scope' end as reason
  from billing_lines b
  join out_of_scope o
    on o.source = b.source and o.charge_date = b.charge_date and o.service_name = coalesce(b.service_name, '') and o.sub_account_id = coalesce(b.sub_account_id, '')
  where b.billing_period = @first
    and (b.scope is null or (b.scope = 'exclude' and starts_with(coalesce(b.charge_description, ''), 'accelerators: ')))
    and b.charge_category not in ('Purchase', 'Tax') and coalesce(b.commitment_discount_status, '') <> 'Unused'
    and strpos(lower(coalesce(b.service_name, '')), 'support') = 0
),
allocated as (
  select source, charge_id as line_id from cost_allocations where billing_period = @first and allocated_to <> 'out_of_scope'
  union all
  select source, line_id from charge_lines where billing_period = @first
),
outside as (
  select b.*
  from beside b
  left join allocated a on a.source = b.source and a.line_id = b.line_id
  where a.line_id is null
)
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

# Out-of-scope lines that may be accelerators; `is_accelerator` decides.
ACCELERATED = f"""
with {OUTSIDE.strip()}
select
  source, coalesce(sub_account_id, '') as sub_account_id, coalesce(service_name, '') as service_name,
  machine_gpus, instance_type, case when instance_type is null then coalesce(sku_meter, charge_description) end as meter, sum(effective_cost) as effective_cost
from outside
where reason = 'default_scope' and (coalesce(machine_gpus, 0) > 0 or instance_type is not null or regexp_contains(coalesce(sku_meter, charge_description, ''), r'(?i)gpu|tpu|nvidia|trainium|inferentia'))
group by source, coalesce(sub_account_id, ''), coalesce(service_name, ''), machine_gpus, instance_type, case when instance_type is null then coalesce(sku_meter, charge_description) end
"""


@dataclass(frozen=True)
class ScopeLine:
    """One entry of `scope.include`: cost it covers that is in scope now, and cost it adds. `accelerated_cost`: added accelerators."""

    selector: Mapping[str, str | list[str]]
    inside_cost: Decimal
    outside_cost: Decimal
    accelerated_cost: Decimal = field(default=Decimal(0))

    @property
    def yaml(self) -> str:
        """Return the entry, ready to paste: JSON is YAML."""
        return selector_yaml(self.selector)


def scope_proposal(reader: Reader, first: date) -> tuple[ScopeLine, ...]:
    """Propose entries for `scope.include`: the contents of the default scope, and every account and service with accelerators.

    An account that belongs mostly to the platform is named as a whole; of other accounts, single services. Amounts are in the
    period's main currency. Fees are left out: they follow their account.
    """
    accelerated: dict[tuple[str, str, str], list[Decimal]] = defaultdict(list)
    for row in reader.query(ACCELERATED, {"first": first}).to_pylist():
        if is_accelerator(row["machine_gpus"], row["instance_type"], row["meter"]):
            accelerated[row["source"], row["sub_account_id"], row["service_name"]].append(row["effective_cost"])
    rows = reader.query(ACCOUNTS, {"first": first}).to_pylist()
    accounts: dict[tuple[str, str], list[dict[str, Any]]] = defaultdict(list)
    for row in rows:
        row["accelerated_cost"] = add(accelerated.get((row["source"], row["sub_account_id"], row["service_name"]), ()))
        accounts[row["source"], row["sub_account_id"]].append(row)
    whole: dict[str, list[dict[str, Any]]] = defaultdict(list)
    lines = []
    for (source, account), members in accounts.items():
        if account and add(r["inside_cost"] for r in members) and _is_mostly_inside(members):
            whole[source] += members
        elif wanted := [r for r in members if r["service_name"] and (r["inside_cost"] or r["accelerated_cost"])]:
            named = list(dict.fromkeys(r["service_name"] for r in wanted))
            place: dict[str, str | list[str]] = {"source": source, **({"account": account} if account else {}), "service": named}
            lines.append(_scope_line(place, [r for r in members if r["service_name"] in named]))
    for source, members in whole.items():
        lines.append(_scope_line({"source": source, "account": list(dict.fromkeys(r["sub_account_id"] for r in members))}, members))
    return tuple(sorted(lines, key=lambda line: (-line.accelerated_cost, -line.inside_cost)))


def _is_mostly_inside(rows: Sequence[Mapping[str, Any]]) -> bool:
    """Return whether at least nine tenths of the money is in scope."""
    inside, outside = add(r["inside_cost"] for r in rows), add(r["outside_cost"] for r in rows)
    return inside >= EXACT.multiply(outside, Decimal(9))


def _scope_line(selector: Mapping[str, str | list[str]], rows: Sequence[Mapping[str, Any]]) -> ScopeLine:
    return ScopeLine(selector, *(add(r[f"{part}_cost"] for r in rows) for part in ("inside", "outside", "accelerated")))
