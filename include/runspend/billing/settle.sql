-- The lines of one billing period as `billing_lines` holds them: the delivered columns, and what is settled once, at load.
-- `staged` holds typed rows of any format; `repeats`, `tag_facts` and `machine_facts` hold only the values that need work.
with lines as (
  select
    s.*,
    printf('%016x', s.row_hash) || case when r.ordinal is null then '' else '-' || r.ordinal end as line_id,
    t.run_tag,
    m.instance_type,
    m.machine_gpus,
    m.machine_cpus,
    m.machine_memory_gb,
    u.nanoseconds as unit_nanoseconds
  from staged s
  left join repeats r on r.row_id = s.rowid
  left join tag_facts t on t.tags = s.tags
  left join machine_facts m on m.machine_key = s.machine_key
  left join time_units u on u.consumed_unit = s.consumed_unit
  where s.trouble is null
    and s.billing_period = getvariable('period')
    and s.file_index in (select file_index from chosen_files)
)
select
  *,
  getvariable('source') as source,
  day_of(charge_period_start) as charge_date,
  resource_key(resource_id) as resource_key,
  -- A negative quantity takes time back; it never says how long a machine ran.
  case
    when consumed_quantity >= 0 then try_cast(round(cast(consumed_quantity as double) * unit_nanoseconds) as bigint)
  end as billed_nanoseconds,
  getvariable('load_id') as load_id
from lines
