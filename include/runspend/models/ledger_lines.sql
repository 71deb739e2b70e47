-- one row per bill line of the period: what may settle it, and whether it is the ML platform's
with lines as (
  select
    source, billing_period, line_id, charge_date, charge_period_start, charge_period_end, service_provider_name, billing_account_id,
    sub_account_id, region_id, service_name, charge_category, resource_id, resource_key, invoice_id, billing_currency,
    list_cost, contracted_cost, effective_cost, billed_cost, run_tag, scope, service_category, service_subcategory,
    sku_id, charge_class, billed_nanoseconds,
    case
      when charge_category in ('Purchase', 'Tax') then 'fee'
      when commitment_discount_status = 'Unused' then 'fee'
      when strpos(lower(coalesce(service_name, '')), 'support') > 0 then 'fee'
      when resource_key is null and (charge_category in ('Credit', 'Adjustment') or charge_class = 'Correction' or billed_cost < 0) then 'fee'
      when resource_key is not null and charge_period_end > charge_period_start
        and timestamp_diff(charge_period_end, charge_period_start, microsecond) <= 86400000000 then 'timed'
      else 'plain'
    end as line_kind,
    case
      when service_subcategory = 'Generative AI' then 'llm'
      when service_category in ('Compute', 'AI and Machine Learning') then 'compute'
      when service_category = 'Storage' then 'storage'
      when service_category = 'Networking' then 'network'
      else 'other'
    end as cost_kind
  from billing_lines
  where billing_period = @period
)
select
  l.source, l.billing_period, l.line_id, l.charge_date, l.charge_period_start, l.charge_period_end, l.service_provider_name, l.billing_account_id,
  l.sub_account_id, l.region_id, l.service_name, l.charge_category, l.resource_id, l.resource_key, l.invoice_id, l.billing_currency,
  l.list_cost, l.contracted_cost, l.effective_cost, l.billed_cost, l.run_tag, l.scope, l.line_kind, l.cost_kind,
  l.sku_id, l.charge_class, l.billed_nanoseconds,
  case
    when l.scope is not null then l.scope = 'include'
    when l.run_tag is not null or i.resource_key is not null or l.service_category = 'AI and Machine Learning' then true
    when l.line_kind = 'fee' then a.source is not null
    else false
  end as is_inside
from lines l
left join (select distinct resource_key from inside_resources where resource_key is not null) i on i.resource_key = l.resource_key
left join inside_accounts a on a.source = l.source and a.sub_account_id = coalesce(l.sub_account_id, '')
