-- Computes how bill lines are split, from `splits` (the weights) and `staged` (the lines). The results are `split_parts` (the parts of each
-- group of lines, with cumulative weights) and `split_lines` (the group of each line).
-- Times are microseconds since 1970. Weights are integers in units of 10^-22.

-- The lines that may be split: lines of a machine, of a resource that is attached to it, or of a pool. They last 25 hours at most. The
-- ledger splits the same lines by time.
create or replace temp table split_candidates as
select
  l.position, l.row_hash, l.sku_id, l.charge_class, l.resource_key, l.resource_name, l.attached_to, l.charge_category, l.billing_currency, l.billing_period,
  l.file_index,
  -- The cost of the machine itself. The weights of pods are for its CPU, GPU and memory, not for traffic and disks.
  case when l.charge_category = 'Usage' and coalesce(l.service_category, '') not in ('Networking', 'Storage') then coalesce(l.effective_cost, 0) else 0 end as used_cost,
  -- The time that the line bills, by the rule of the ledger (`machine_slots.sql`).
  case when l.charge_category = 'Usage' and l.charge_class is null and l.billed_nanoseconds > 0 then l.billed_nanoseconds // 1000 end as billed_us,
  epoch_us(l.charge_period_start) as from_us, epoch_us(l.charge_period_end) as to_us
from (select row_number() over () - 1 as position, * from staged) l
where l.reject_reason is null and l.charge_category in ('Usage', 'Credit', 'Adjustment') and l.allocated_method_id is null
  and l.commitment_discount_status is distinct from 'Unused'
  and epoch_us(l.charge_period_end) > epoch_us(l.charge_period_start)
  and epoch_us(l.charge_period_end) - epoch_us(l.charge_period_start) <= 90000000000
  and (l.billed_cost <> 0 or l.effective_cost <> 0 or l.list_cost <> 0 or l.contracted_cost <> 0);  -- no cost, nothing to split

-- The names by which weights may find a line: its resource, the name of the resource, the names of the machine that it is attached to,
-- and its pool.
create or replace temp table split_names as
with machines as (
  select position, 'r|' || resource_key as name from split_candidates where resource_key is not null
  union all
  select position, 'n|' || resource_name from split_candidates where resource_name is not null
  union all
  -- A Google instance can be found by its name alone, if the bill has only one instance with that name.
  select c.position, 'i|' || i.last_part
  from split_candidates c
  join (
    select regexp_extract(resource_key, '[^/]+$') as last_part, min(resource_key) as only_key
    from split_candidates
    where resource_key like 'projects/%/instances/%'
    group by last_part
    having count(distinct resource_key) = 1
  ) i on i.only_key = c.resource_key
),
found as (
  select position, name, false as is_attached from machines
  union
  -- An attached line is split only if the machine has a line in the same window. Otherwise the unused part of the machine is unknown.
  select a.position, n.name, true
  from split_candidates a
  join split_candidates m
    on m.resource_key = a.attached_to and m.billing_period = a.billing_period and m.billing_currency = a.billing_currency
    and m.from_us = a.from_us and m.to_us = a.to_us
  join machines n on n.position = m.position
)
select position, name, is_attached from found
union all
select c.position, p.name, false from split_pools p join split_candidates c on c.position = p.position;

-- For each machine of the weights, the first of its names that is on the bill.
create or replace temp table split_machines as
with machines as (
  select distinct rank, names from splits
),
places as (
  select rank, names, unnest(string_split(names, chr(31))) as name, unnest(range(len(string_split(names, chr(31))))) as place from machines
)
select p.rank, p.names, p.name
from places p
where p.name in (select name from split_names)
qualify row_number() over (partition by p.rank, p.names order by p.place) = 1;

-- Groups of lines that are split in the same way: the lines of one machine and charge period, or of one pool and day.
create or replace temp table split_groups as
with targets as (
  select n.position, n.is_attached, m.rank, m.name
  from split_names n
  join (select distinct rank, name from split_machines) m on m.name = n.name
),
windows as (
  select
    t.position, t.rank, t.name, c.billing_period, c.billing_currency,
    case when getvariable('split_by_file') then c.file_index end as file_index,
    case when starts_with(t.name, 'p|') then c.from_us // 86400000000 * 86400000000 else c.from_us end as from_us,
    case when starts_with(t.name, 'p|') then c.from_us // 86400000000 * 86400000000 + 86400000000 else c.to_us end as to_us,
    -- An attached line adds neither cost nor time to the machine.
    c.sku_id, case when t.is_attached then 0 else c.used_cost end as used_cost, case when not t.is_attached then c.billed_us end as billed_us
  from targets t
  join split_candidates c on c.position = t.position
),
skus as (
  select
    rank, name, billing_period, billing_currency, file_index, from_us, to_us, sku_id,
    sum(used_cost)::decimal(38, 22) as used_cost, sum(billed_us)::bigint as billed_us, list(position) as positions
  from windows
  group by all
)
select
  row_number() over () as group_number,
  rank, name, billing_period, billing_currency, file_index, from_us, to_us, used_cost, positions,
  -- The lifetime of a pod is at most the billed time of its machine. A pool has many machines, so it has no such limit.
  case when not starts_with(name, 'p|') then billed_us end as billed_us,
  -- Bounds for weights of other sources. The digest of a period covers the weights within these bounds, so it changes with every weight used.
  epoch_us(billing_period::timestamp - interval 1 month) as earliest_us, epoch_us(billing_period::timestamp + interval 1 month + interval 1 day) as latest_us
from (
  select
    rank, name, billing_period, billing_currency, file_index, from_us, to_us,
    sum(used_cost)::decimal(38, 22) as used_cost, max(billed_us) as billed_us, flatten(list(positions)) as positions
  from skus
  group by all
);

-- Pods get numbers in the order of their ids, because many weights share few strings.
create or replace temp table split_pods as
select
  row_number() over (order by part_id, part_name, part_tags) as pod, dense_rank() over (order by part_id) as part, part_id, part_name, part_tags
from (select distinct part_id, part_name, part_tags from splits);

-- The weight of each part in a group. A weight counts in proportion to the time that its window shares with that of the group:
-- floor(units x shared / whole), computed exactly.
create or replace temp table split_weights as
with hours_of_groups as (
  select *, unnest(range(from_us // 3600000000, (to_us - 1) // 3600000000 + 1)) as hour from split_groups
),
hours_of_splits as (
  select
    s.rank, m.name, p.part, p.pod, s.is_idle, s.units, s.from_us, s.to_us, s.billing_period, s.file_index,
    unnest(range(s.from_us // 3600000000, (s.to_us - 1) // 3600000000 + 1)) as hour
  from splits s
  join split_machines m on m.rank = s.rank and m.names = s.names
  join split_pods p
    on p.part_id is not distinct from s.part_id and p.part_name is not distinct from s.part_name and p.part_tags is not distinct from s.part_tags
),
shared as (
  select
    g.group_number, s.part, s.pod, s.is_idle, s.units, s.to_us - s.from_us as whole_us,
    greatest(s.from_us, g.from_us) as shared_from_us, least(s.to_us, g.to_us) as shared_to_us
  from hours_of_groups g
  join hours_of_splits s on s.rank = g.rank and s.name = g.name and s.hour = g.hour
  where s.from_us < g.to_us and s.to_us > g.from_us
    and greatest(s.from_us, g.from_us) // 3600000000 = g.hour  -- a pair that shares several hours counts once
    and (s.billing_period is null or s.billing_period = g.billing_period)
    and (s.billing_period is not null or (s.from_us < g.latest_us and s.to_us > g.earliest_us))
    and (g.file_index is null or s.file_index is null or s.file_index = g.file_index)
),
lives as (
  -- A pod of the same name may have lived several times. The time in between does not count as its lifetime.
  select
    *,
    max(shared_to_us) over (
      partition by group_number, part, is_idle order by shared_from_us, shared_to_us rows between unbounded preceding and 1 preceding) as lived_until_us
  from shared
)
select
  group_number, is_idle, max(pod) as pod,
  sum(greatest(0, shared_to_us - greatest(shared_from_us, coalesce(lived_until_us, shared_from_us))))::bigint as life_us,
  sum(units // whole_us * (shared_to_us - shared_from_us) + units % whole_us * (shared_to_us - shared_from_us) // whole_us)::hugeint as units
from lives
group by group_number, part, is_idle;

-- The parts of each group with integer weights and their cumulative sums. The idle part is last.
create or replace temp table split_parts as
with found as (
  select
    group_number, sum(units) filter (not is_idle)::hugeint as part_units, coalesce(sum(units) filter (is_idle), 0)::hugeint as idle_units
  from split_weights
  group by group_number
),
idle as (
  -- The weight of the idle part: zero if the parts fill the machine or share idle cost. Otherwise it is the stated weight, or else the
  -- cost of the machine minus the weights of its parts.
  select
    f.group_number, f.part_units,
    case
      when r.shares_idle or r.fills then 0::hugeint
      when f.idle_units > 0 then f.idle_units
      else greatest(0::hugeint, to_units(g.used_cost) - f.part_units)
    end as idle_units,
    not r.shares_idle and not r.fills and f.idle_units = 0 and f.part_units > to_units(g.used_cost) as is_scaled
  from found f
  join split_groups g on g.group_number = f.group_number
  join split_sources r on r.rank = g.rank
  where f.part_units > 0
),
weighed as (
  select w.group_number, false as is_idle, w.pod, w.life_us, w.units
  from split_weights w
  where not w.is_idle and w.units > 0
  union all
  select group_number, true, null, null, idle_units from idle where idle_units > 0
),
whole as (
  -- Last digits are dropped until the sum of a group is below 10^18, so that no product in `splits_share.sql` exceeds 2^127.
  -- Round weights keep their proportions.
  select
    *,
    units // cast('1' || repeat('0', greatest(0, length(cast(sum(units) over (partition by group_number)::hugeint as varchar)) - 18)) as hugeint)
      as weight
  from weighed
)
select
  w.group_number, w.is_idle, w.pod, w.life_us, i.is_scaled, w.weight,
  sum(w.weight) over (partition by w.group_number order by w.is_idle, w.pod)::hugeint as upto,
  sum(w.weight) over (partition by w.group_number)::hugeint as total
from whole w
join idle i on i.group_number = w.group_number
where w.weight > 0;

drop table split_weights;

-- One group per line. The bill's own weights come first, then the other sources in their order.
create or replace temp table split_lines as
with placed as (
  select unnest(g.positions) as position, g.group_number, g.rank, g.name, p.parts
  from split_groups g
  join (select group_number, count(*) as parts from split_parts group by group_number) p on p.group_number = g.group_number
),
chosen as (
  select position, group_number, parts from placed
  qualify row_number() over (partition by position order by rank, name) = 1
)
select
  c.position, c.group_number, c.parts, (sum(c.parts) over (order by c.position) - 1) // getvariable('split_share') as share,
  -- The lifetime of a pod counts once, even if several lines charge for the time of the machine.
  l.charge_category = 'Usage' and l.charge_class is null
    and row_number() over (partition by c.group_number, l.charge_category, l.charge_class, l.sku_id order by l.row_hash) = 1 as tells_time
from chosen c
join split_candidates l on l.position = c.position;
