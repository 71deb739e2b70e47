-- rows: account and two bills that both contain its charges of the period, which would be counted twice.
-- Two SLURM bills may share an account, for example if there are two price lists. They must not share the time of a job.
with held as (
  select
    source, billing_account_id, coalesce(sub_account_id, '') as sub_account_id, billing_currency,
    coalesce(sum(billed_cost), bignumeric '0') as billed_cost,
    logical_and(coalesce(service_provider_name = 'SLURM', false)) as is_slurm
  from billing_lines
  where billing_period = @period and billing_account_id is not null and scope is distinct from 'exclude'
  group by source, billing_account_id, coalesce(sub_account_id, ''), billing_currency
),
pairs as (
  select
    a.billing_account_id, a.sub_account_id, a.billing_currency,
    a.source as first_source, b.source as second_source,
    a.billed_cost as first_billed_cost, b.billed_cost as second_billed_cost,
    a.is_slurm and b.is_slurm as is_slurm
  from held a
  join held b
    on b.billing_account_id = a.billing_account_id and b.sub_account_id = a.sub_account_id and b.billing_currency = a.billing_currency
    and a.source < b.source
),
jobs as (
  select source, billing_account_id, coalesce(sub_account_id, '') as sub_account_id, billing_currency, resource_key, charge_date, charge_period_start, charge_period_end
  from billing_lines
  where billing_period = @period and service_provider_name = 'SLURM' and scope is distinct from 'exclude'
    and source in (select first_source from pairs where is_slurm union distinct select second_source from pairs where is_slurm)
),
twice as (
  -- A bill line of SLURM never crosses midnight.
  select distinct p.billing_account_id, p.sub_account_id, p.billing_currency, p.first_source, p.second_source
  from pairs p
  join jobs a
    on a.source = p.first_source and a.billing_account_id = p.billing_account_id and a.sub_account_id = p.sub_account_id and a.billing_currency = p.billing_currency
  join jobs b
    on b.source = p.second_source and b.billing_account_id = a.billing_account_id and b.sub_account_id = a.sub_account_id and b.billing_currency = a.billing_currency
    and b.resource_key = a.resource_key and b.charge_date = a.charge_date
    and b.charge_period_start < a.charge_period_end and b.charge_period_end > a.charge_period_start
  where p.is_slurm
)
select
  p.billing_account_id, p.sub_account_id, p.billing_currency, p.first_source, p.second_source, p.first_billed_cost, p.second_billed_cost
from pairs p
left join twice t
  on t.billing_account_id = p.billing_account_id and t.sub_account_id = p.sub_account_id and t.billing_currency = p.billing_currency
  and t.first_source = p.first_source and t.second_source = p.second_source
where not p.is_slurm or t.first_source is not null
