-- one row per stated machine on the period's bill: its block. A block is 1/64 of the stated machines of a pool or instance type.
-- Runs are assigned to these machines one block at a time, so that the lines need no sorting.
with machines as (
  select l.resource_key, coalesce(concat('pool|', max(l.pool_key)), max(lower(l.instance_type)), '') as kind
  from billing_lines l
  join (select distinct resource_key from known_machines) k on k.resource_key = l.resource_key
  where l.billing_period = @period
  group by l.resource_key
)
select
  resource_key,
  div(64 * (row_number() over (partition by kind order by resource_key) - 1), count(*) over (partition by kind)) as block_number
from machines
