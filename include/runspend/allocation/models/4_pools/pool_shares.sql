-- one row per pool, charge period and target (a run, or time that no run claimed): its share of the charge period, as a range between 0 and 1
with family_advances as (
  select
    f.pool_number, f.claim_number, f.mark,
    case when f.members > 0
      then div((f.weight * (lead(c.weight_clock) over claim - c.weight_clock) + f.nodes * (lead(c.node_clock) over claim - c.node_clock)), f.members)
      else 0
    end as share_advance
  from pool_families f
  join pool_clock c on c.pool_number = f.pool_number and c.mark = f.mark
  window claim as (partition by f.pool_number, f.claim_number order by f.mark)
),
family_clock as (
  select
    pool_number, claim_number, mark,
    cast(coalesce(sum(share_advance) over (
      partition by pool_number, claim_number order by mark rows between unbounded preceding and 1 preceding), 0) as int64) as share_clock
  from family_advances
),
parts as (
  select
    u.pool_number, u.window_start, u.window_end, u.run_number, u.run_end_rule, u.weight_kind,
    u.weight * (b.weight_clock - a.weight_clock) + u.nodes * (b.node_clock - a.node_clock) as ticks
  from pool_uses u
  join pool_clock a on a.pool_number = u.pool_number and a.mark = u.used_from
  join pool_clock b on b.pool_number = u.pool_number and b.mark = u.used_to
  where not u.is_family
  union all
  select
    u.pool_number, u.window_start, u.window_end, u.run_number, u.run_end_rule, u.weight_kind,
    b.share_clock - a.share_clock
  from pool_uses u
  join family_clock a on a.pool_number = u.pool_number and a.claim_number = u.claim_number and a.mark = u.used_from
  join family_clock b on b.pool_number = u.pool_number and b.claim_number = u.claim_number and b.mark = u.used_to
  where u.is_family
),
shares as (
  select
    pool_number, window_start, window_end, run_number, min(run_end_rule) as run_end_rule, min(weight_kind) as weight_kind, cast(sum(ticks) as int64) as ticks
  from parts
  group by pool_number, window_start, window_end, run_number
),
slots as (
  select
    w.pool_number, w.window_start, w.window_end, w.billed_microseconds,
    b.busy_clock - a.busy_clock as busy_ticks,
    -- If a charge period has no machines of its own (traffic, a credit), its length is the time in which the pool had machines or runs.
    coalesce(w.billed_ticks, b.open_clock - a.open_clock) as billed_ticks,
    b.over_clock > a.over_clock or coalesce(b.busy_clock - a.busy_clock > w.billed_ticks, false) as is_scaled,
    p.match_method = 'pool_time' and strpos(@rented_pools, concat('|', regexp_extract(p.target_key, r'^[^|]*'), '|')) > 0 as is_rented
  from pool_windows w
  join pools p on p.pool_number = w.pool_number
  join pool_clock a on a.pool_number = w.pool_number and a.mark = w.window_start
  join pool_clock b on b.pool_number = w.pool_number and b.mark = w.window_end
),
running as (
  select
    h.pool_number, h.window_start, h.window_end, h.run_number, h.run_end_rule, h.weight_kind, h.ticks,
    s.billed_microseconds, s.busy_ticks, s.is_scaled,
    -- If a pool is rented for its runs, its unused time belongs to them too.
    case when s.is_rented then s.busy_ticks else greatest(s.billed_ticks, s.busy_ticks) end as total_ticks,
    cast(sum(h.ticks) over (w rows between unbounded preceding and current row) as int64) as upto,
    lead(h.run_number) over w is null as is_last_run
  from shares h
  join slots s on s.pool_number = h.pool_number and s.window_start = h.window_start and s.window_end = h.window_end
  where s.busy_ticks > 0
  window w as (partition by h.pool_number, h.window_start, h.window_end order by h.run_number)
),
targets as (
  -- The last run gets the remainder of the integer division, so that the shares add up to exactly the claimed time.
  select
    pool_number, window_start, window_end, run_number, run_end_rule, weight_kind, billed_microseconds, is_scaled,
    upto - ticks as starts_at,
    case when is_last_run then busy_ticks else upto end as ends_at,
    total_ticks
  from running
  union all
  select
    pool_number, window_start, window_end, cast(null as int64), cast(null as string), weight_kind, billed_microseconds, is_scaled,
    busy_ticks, total_ticks, total_ticks
  from running
  where is_last_run and total_ticks > busy_ticks
),
run_names as (
  select pool_number, run_number, tracking_server, workspace, run_id, logical_or(is_capped) as is_capped
  from pool_claims
  group by pool_number, run_number, tracking_server, workspace, run_id
)
select
  t.pool_number, t.window_start, t.window_end, r.tracking_server, r.workspace, r.run_id, t.run_end_rule, t.weight_kind, t.is_scaled or coalesce(r.is_capped, false) as is_scaled,
  -- The run's share of the billed time. It is never more than the billed time.
  case when t.billed_microseconds > 0 then cast(round((t.ends_at - t.starts_at) / t.total_ticks * (t.billed_microseconds * 1000.0)) as int64) end as nanoseconds,
  t.starts_at / t.total_ticks as ratio_from,
  t.ends_at / t.total_ticks as ratio_to,
  t.ends_at = t.total_ticks as is_last
from targets t
left join run_names r on r.pool_number = t.pool_number and r.run_number = t.run_number
where t.ends_at > t.starts_at
