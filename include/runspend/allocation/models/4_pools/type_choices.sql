-- one row per instance type, statement of runs that ask for it and matching cell: properties that are in both have equal values
with cells as (
  select target_key, lower(instance_type) as instance_type, cell_account, cell_region, cell_zone, cell_option
  from timed_candidates
  where match_method = 'instance_type_time'
  union distinct
  select target_key, instance_type, cell_account, cell_region, cell_zone, cell_option
  from offered_machines
  where match_method = 'instance_type_time'
),
statements as (
  select distinct instance_type, statement, stated_account, stated_region, stated_zone, stated_option
  from type_claims
),
agreeing as (
  select s.instance_type, s.statement, c.target_key
  from statements s
  join cells c on c.instance_type = s.instance_type
  where (s.stated_account is null or c.cell_account is null or c.cell_account = s.stated_account)
    and (s.stated_region is null or c.cell_region is null or c.cell_region = s.stated_region)
    and (s.stated_zone is null or c.cell_zone is null or c.cell_zone = s.stated_zone)
    and (s.stated_option is null or c.cell_option is null or c.cell_option = s.stated_option)
),
named as (
  -- Statements that match the same cells ask for the same machines.
  select instance_type, statement, string_agg(target_key, ' or ' order by target_key) as claim_key
  from agreeing
  group by instance_type, statement
)
select a.instance_type, a.statement, n.claim_key, a.target_key
from agreeing a
join named n on n.instance_type = a.instance_type and n.statement = a.statement
