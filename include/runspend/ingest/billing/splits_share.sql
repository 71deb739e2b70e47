-- Splits one batch of lines into parts. Every measure is split by cumulative weights, so that the parts add up exactly.
-- u is the amount of the line in units of 10^-22, c the cumulative weight, and C the sum of the weights of the group. The parts up to c end at
-- floor(|u| x c / C), with the sign of u. A part is the difference between its end and the end before it. The last end is u itself.
-- u x c may exceed 2^127, so u is divided into two limbs: |u| = a x 2^64 + b. C is below 10^18, so no product exceeds 2^125.
-- All values are integers.
create or replace temp macro end_of(u, c, total) as sign(u)::hugeint * (
  ((abs(u) >> 64) * c // total << 64)
  + (((abs(u) >> 64) * c % total << 64) + (abs(u) & 18446744073709551615::hugeint) * c) // total
);
create or replace temp macro part_of(u, weight, upto, total) as end_of(u, upto, total) - end_of(u, upto - weight, total);

create or replace temp table split_share as
with lines as (
  select
    place, group_number, tells_time, billed_cost::hugeint as billed_cost, effective_cost::hugeint as effective_cost, list_cost::hugeint as list_cost,
    contracted_cost::hugeint as contracted_cost, pricing_currency_effective_cost::hugeint as pricing_currency_effective_cost,
    pricing_quantity::hugeint as pricing_quantity, consumed_quantity::hugeint as consumed_quantity,
    commitment_discount_quantity::hugeint as commitment_discount_quantity
  from lines_of_share
),
cut as (
  select
    l.place, p.is_idle, p.pod, case when l.tells_time then least(p.life_us, coalesce(g.billed_us, p.life_us)) end as life_us, p.upto = p.total as is_last, p.is_scaled,
    r.source, r.method,
    part_of(l.effective_cost, p.weight, p.upto, p.total) as effective_cost,
    -- Other costs are usually equal to effective_cost. They are computed only if they differ.
    case when l.billed_cost is distinct from l.effective_cost then part_of(l.billed_cost, p.weight, p.upto, p.total) end as other_billed_cost,
    case when l.list_cost is distinct from l.effective_cost then part_of(l.list_cost, p.weight, p.upto, p.total) end as other_list_cost,
    case when l.contracted_cost is distinct from l.effective_cost then part_of(l.contracted_cost, p.weight, p.upto, p.total) end as other_contracted_cost,
    l.billed_cost is not null as has_billed_cost, l.list_cost is not null as has_list_cost, l.contracted_cost is not null as has_contracted_cost,
    part_of(l.pricing_currency_effective_cost, p.weight, p.upto, p.total) as pricing_currency_effective_cost,
    part_of(l.consumed_quantity, p.weight, p.upto, p.total) as consumed_quantity,
    part_of(l.pricing_quantity, p.weight, p.upto, p.total) as pricing_quantity,
    part_of(l.commitment_discount_quantity, p.weight, p.upto, p.total) as commitment_discount_quantity
  from lines l
  join split_parts p on p.group_number = l.group_number
  join split_groups g on g.group_number = l.group_number
  join split_sources r on r.rank = g.rank
)
select
  c.place, c.is_idle, o.part_id, o.part_name, o.part_tags, life_us, is_last, method,
  case
    when is_scaled then json_object('source', source, 'is_scaled', true)
    when source is not null then json_object('source', source)
  end as details,
  effective_cost,
  case when has_billed_cost then coalesce(other_billed_cost, effective_cost) end as billed_cost,
  case when has_list_cost then coalesce(other_list_cost, effective_cost) end as list_cost,
  case when has_contracted_cost then coalesce(other_contracted_cost, effective_cost) end as contracted_cost,
  pricing_currency_effective_cost, pricing_quantity, consumed_quantity, commitment_discount_quantity
from cut c
left join split_pods o on o.pod = c.pod
order by c.place, c.is_idle, c.pod;
