-- The most expensive groups of machines without a run.
with {left_lines}
select
  cell, source, account, instance_type, gpus, billing_currency, machine_group, name_prefix, other_tags, resource_key, service, is_serving, job_kind, sum(effective_cost) as effective_cost,
  max(timestamp_diff(charge_period_end, charge_period_start, microsecond)) as longest, min(charge_period_start) as first_start
from numbered
group by cell, source, account, instance_type, gpus, billing_currency, machine_group, name_prefix, other_tags, resource_key, service, is_serving, job_kind
order by effective_cost desc, cell
limit {most}
