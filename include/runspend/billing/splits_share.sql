-- The parts of one share of the lines: every measure by bounds. With the line's amount u in whole units of 10^-22, c of C weights of the
-- line end at floor(|u| x c / C) with u's sign; a part is the difference of its two ends, and the last end is the line's amount itself.
-- In two limbs, since u x c may pass 2^127: |u| = a x 10^19 + b with a, b < 10^19 and C < 4 x 10^18, so that no product passes 8 x 10^37.
create or replace temp macro end_of(u, c, total) as sign(u)::hugeint * (
  abs(u) // 10000000000000000000 * c // total * 10000000000000000000
  + (abs(u) // 10000000000000000000 * c % total * 10000000000000000000 + abs(u) % 10000000000000000000 * c) // total
);
create or replace temp macro part_of(u, weight, upto, total) as end_of(u::hugeint, upto, total) - end_of(u::hugeint, upto - weight, total);

create or replace temp table split_share as
select
  l.at, p.is_idle, p.part_id, p.part_name, p.part_tags, case when l.tells_time then p.to_us - p.from_us end as life_us, r.method, p.upto = p.total as is_last,
  case
    when p.is_scaled then json_object('source', r.source, 'is_scaled', true)
    when r.source is not null then json_object('source', r.source)
  end as details,
  part_of(l.billed_cost, p.weight, p.upto, p.total) as billed_cost,
  part_of(l.effective_cost, p.weight, p.upto, p.total) as effective_cost,
  part_of(l.list_cost, p.weight, p.upto, p.total) as list_cost,
  part_of(l.contracted_cost, p.weight, p.upto, p.total) as contracted_cost,
  part_of(l.pricing_currency_effective_cost, p.weight, p.upto, p.total) as pricing_currency_effective_cost,
  part_of(l.pricing_quantity, p.weight, p.upto, p.total) as pricing_quantity,
  part_of(l.consumed_quantity, p.weight, p.upto, p.total) as consumed_quantity,
  part_of(l.commitment_discount_quantity, p.weight, p.upto, p.total) as commitment_discount_quantity
from lines_of_share l
join split_parts p on p.group_number = l.group_number
join split_groups g on g.group_number = l.group_number
join split_sources r on r.rank = g.rank
order by l.at, p.is_idle, p.part_id;
