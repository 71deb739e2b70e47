"""A model that fills `cost_allocations` with a row per bill line, for the tests of warehouses."""

from __future__ import annotations

import datetime as dt

COST_ALLOCATIONS = """-- one row per line
select source, billing_period, line_id as charge_id, concat('t', cast(machine_gpus as string)) as target_id, charge_date, charge_period_start,
  charge_period_end, service_provider_name, billing_account_id, sub_account_id, region_id, service_name, charge_category, resource_id, invoice_id,
  'compute' as cost_kind, 'idle' as allocated_to, cast(null as string) as tracking_server, cast(null as string) as workspace,
  cast(null as string) as run_id, 1.0 as allocated_ratio, list_cost, contracted_cost, effective_cost, billed_cost, billing_currency,
  cast(null as bignumeric) as unused_cost, cast(null as bignumeric) as overhead_cost, 'none' as match_method, cast(null as string) as confidence,
  cast(null as string) as owner_id, cast(null as string) as pool_key, cast(null as string) as reason, cast(null as string) as weight_kind,
  cast(null as string) as run_end_rule, false as is_scaled, 'final' as cost_status, line_team, line_project, line_cost_center, line_owner
from {source} where billing_period = @period
"""


def first_of(month: str) -> dt.date:
    return dt.date.fromisoformat(f"{month}-01")
