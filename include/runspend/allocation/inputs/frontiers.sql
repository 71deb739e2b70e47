-- The time until which each bill covers machines that serve runs (`run_spans.sql`) and machines of pools (`pools.sql`).
-- The next period is included, because the end of a run may depend on it.
with stated as (
  select distinct resource_key from run_resources where resource_key is not null
),
billed as (
  select
    l.source, l.resource_key, l.pool_key is not null or l.instance_type is not null as is_of_pool, max(l.charge_period_end) as billed_until
  from billing_lines l
  where l.billing_period in (@period, cast(date_add(@period, interval 1 month) as date))
    and (l.resource_key is not null or l.pool_key is not null or l.instance_type is not null)
    and l.charge_period_end > l.charge_period_start
    and at_most_a_day(l.charge_period_start, l.charge_period_end)
  group by l.source, l.resource_key, is_of_pool
),
reached as (
  -- A run may state a longer or shorter name of a machine than the bill (matched_names.sql). Both names have the same last part.
  select
    b.source, b.billed_until,
    case when m.resource_key is not null then 'machines' when e.last_part is not null then 'names that end alike' when b.is_of_pool then 'pools' end as lines_of
  from billed b
  left join stated m on m.resource_key = b.resource_key
  left join (
    select distinct regexp_extract(resource_key, r'[^/]*$') as last_part from stated
  ) e on e.last_part = regexp_extract(b.resource_key, r'[^/]*$') and e.last_part <> ''
)
select source, lines_of, least(max(billed_until), timestamp_add(@window_end, interval @alive_hours hour)) as billed_until
from reached
where lines_of is not null
group by source, lines_of
order by source, lines_of
