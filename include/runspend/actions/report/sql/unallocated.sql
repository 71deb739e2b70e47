-- Idle and unmatched money of the billing period by resource (by service where lines name no resource), the largest first.
with ranked as (
  select
    *,
    case when resource_id = '' then service_name else '' end as lines_of,
    row_number() over (
      partition by billing_currency, allocated_to, resource_id, case when resource_id = '' then service_name else '' end
      order by last_used_at desc, effective_cost desc, source, service_name, sub_account_id
    ) as place
  from unallocated_costs
  where billing_period = @first
),
grouped as (
  select
    billing_currency, allocated_to, resource_id, lines_of,
    sum(effective_cost) as effective_cost, max(billed_seconds) as billed_seconds, max(used_seconds) as used_seconds,
    max(case when place = 1 then service_name end) as service_name,
    max(instance_type) as instance_type, max(region_id) as region_id,
    max(case when place = 1 then last_run_id end) as last_run_id,
    max(case when place = 1 then last_used_at end) as last_used_at,
    max(case when place = 1 then suspected_owner end) as suspected_owner,
    max(case when place = 1 then reason end) as reason
  from ranked
  group by billing_currency, allocated_to, resource_id, lines_of
)
select *
from grouped
where effective_cost <> 0
qualify row_number() over (partition by billing_currency, allocated_to order by effective_cost desc, resource_id, lines_of) <= 500
order by billing_currency, allocated_to, effective_cost desc, resource_id, lines_of
