-- one row per pool and pool that has its lines: the pool itself or, for a statement that matches several cells, each of these cells
with open_statements as (
  select distinct p.pool_number, c.pool_number as cell_number, p.kind_number
  from type_choices t
  join pools p on p.match_method = 'instance_type_time' and p.target_key = t.claim_key
  join pools c on c.match_method = 'instance_type_time' and c.target_key = t.target_key
  where p.is_group
),
sizes as (
  select kind_number, count(*) as cells
  from pools
  where not is_group
  group by kind_number
)
select pool_number, pool_number as cell_number, false as is_group, false as is_whole
from pools
where not is_group
union all
select g.pool_number, g.cell_number, true, count(*) over (partition by g.pool_number) = s.cells
from open_statements g
join sizes s on s.kind_number = g.kind_number
