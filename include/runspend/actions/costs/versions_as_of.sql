-- The versions of each bill that were loaded before a time, and the changes that they made.
versions as (
  select source, billing_period, version_number
  from billing_loads
  where state in ('current', 'replaced') and loaded_at < @loaded_until
  group by source, billing_period, version_number
),
changes as (
  select
    c.source, c.billing_period, c.charge_date, c.service_name, c.sub_account_id, c.billing_currency,
    c.list_cost, c.contracted_cost, c.effective_cost, c.billed_cost
  from bill_changes c
  join versions v on v.source = c.source and v.billing_period = c.billing_period and v.version_number = c.version_number
)
