-- One row per folder that a policy selects, and storage class in it, as last listed: its properties, and everything that protects it.
with recursive
{held}
folders as (
  select store, prefix, owner_kind, owner_id, tracking_server, workspace, experiment_id,
    if(min(storage_class) = max(storage_class), min(storage_class), null) as only_class,
    if(logical_and(objects is not null), sum(objects), null) as objects,
    if(logical_and(bytes is not null), sum(bytes), null) as bytes,
    min(oldest_at) as oldest_at,
    max(newest_at) as newest_at,
    min(confirmed_at) as confirmed_at
  from held
  group by store, prefix, owner_kind, owner_id, tracking_server, workspace, experiment_id
),
-- The run that made each model, and the step at which it was logged.
makers as (
  select tracking_server, workspace, model_id,
    coalesce(min(if(direction = 'source', run_id, null)), min(run_id)) as run_id,
    max(step) as step
  from model_uses
  where direction in ('source', 'output')
  group by tracking_server, workspace, model_id
),
-- Runs that logged models at steps. Their models are checkpoints.
stepped as (
  select tracking_server, workspace, run_id
  from model_uses
  where direction = 'output'
  group by tracking_server, workspace, run_id
  having max(step) > 0
),
owned as (
  select f.*, if(f.owner_kind = 'run', f.owner_id, m.run_id) as run_id, m.step, p.run_id is not null and f.owner_kind = 'logged_model' as is_checkpoint
  from folders f
  left join makers m on f.owner_kind = 'logged_model' and m.tracking_server = f.tracking_server and m.workspace = f.workspace and m.model_id = f.owner_id
  left join stepped p on p.tracking_server = m.tracking_server and p.workspace = m.workspace and p.run_id = m.run_id
),
-- Values for `keep` of a policy: it keeps the best and the last models of a run, or runs of an experiment.
model_values as (
  select tracking_server, workspace, model_id, value
  from run_metrics
  where metric = @metric and model_id <> ''
  qualify row_number() over (partition by tracking_server, workspace, model_id order by step desc, run_id) = 1
),
run_values as (
  select tracking_server, workspace, run_id, step, value, is_last
  from run_metrics
  where metric = @metric and model_id = ''
),
measured as (
  select o.store, o.prefix, o.owner_kind, o.owner_id, o.tracking_server, o.workspace,
    if(o.owner_kind = 'run', o.experiment_id, coalesce(o.run_id, o.owner_id)) as siblings,
    if(o.owner_kind = 'run', r.start_time, null) as began,
    o.step,
    coalesce(v.value, s.value) * @sign as value
  from owned o
  left join runs r on o.owner_kind = 'run' and r.tracking_server = o.tracking_server and r.workspace = o.workspace and r.run_id = o.owner_id
  left join model_values v on o.owner_kind = 'logged_model' and v.tracking_server = o.tracking_server and v.workspace = o.workspace and v.model_id = o.owner_id
  left join run_values s on s.tracking_server = o.tracking_server and s.workspace = o.workspace and s.run_id = o.run_id
    and if(o.owner_kind = 'run', s.is_last, s.step = o.step)
  where {kinds}
),
ranked as (
  select store, prefix, owner_kind, owner_id, value is null as is_unmeasured, began is null and step is null as is_undated,
    dense_rank() over (partition by tracking_server, workspace, owner_kind, siblings order by if(value is null, 1, 0), value) as best_rank,
    dense_rank() over (partition by tracking_server, workspace, owner_kind, siblings order by began desc, step desc) as last_rank
  from measured
),
versions as (
  select tracking_server, workspace, run_id, model_id, {version_location} as location,
    {version_label} as label
  from model_versions
),
-- Runs that a registered version came from, and the runs that made the models they used, up to ten levels back.
seeds as (
  select tracking_server, workspace, run_id, min(label) as label
  from (
    select tracking_server, workspace, run_id, label from versions where run_id is not null
    union all
    select u.tracking_server, u.workspace, u.run_id, v.label
    from versions v
    join model_uses u on u.tracking_server = v.tracking_server and u.workspace = v.workspace and u.model_id = v.model_id
    where u.direction in ('source', 'output')
  ) as made
  group by tracking_server, workspace, run_id
),
inputs as (
  select distinct u.tracking_server, u.workspace, u.run_id, u.model_id, m.run_id as maker_id
  from model_uses u
  left join makers m on m.tracking_server = u.tracking_server and m.workspace = u.workspace and m.model_id = u.model_id
  where u.direction = 'input'
),
walk as (
  select tracking_server, workspace, run_id, label, 0 as distance from seeds
  union all
  select w.tracking_server, w.workspace, i.maker_id, w.label, w.distance + 1
  from walk w
  join inputs i on i.tracking_server = w.tracking_server and i.workspace = w.workspace and i.run_id = w.run_id
  where i.maker_id is not null and i.maker_id <> w.run_id and w.distance < 10
),
live_runs as (
  select tracking_server, workspace, run_id, min(label) as label, min(distance) as distance
  from walk
  group by tracking_server, workspace, run_id
),
live_models as (
  select tracking_server, workspace, model_id, min(label) as label
  from (
    select tracking_server, workspace, model_id, label from versions where model_id is not null
    union all
    select i.tracking_server, i.workspace, i.model_id, concat('used by a run that led to a live model: ', l.label)
    from live_runs l
    join inputs i on i.tracking_server = l.tracking_server and i.workspace = l.workspace and i.run_id = l.run_id
  ) as needed
  group by tracking_server, workspace, model_id
),
open_runs as (
  select tracking_server, workspace, run_id, parent_run_id
  from runs
  where (end_time is null or run_status in ('RUNNING', 'SCHEDULED')) and purged_at is null
),
open_children as (
  select tracking_server, workspace, parent_run_id, min(run_id) as run_id
  from open_runs
  where parent_run_id is not null
  group by tracking_server, workspace, parent_run_id
),
model_readers as (
  select i.tracking_server, i.workspace, i.model_id,
    min(o.run_id) as open_run_id,
    max(greatest(coalesce(r.future_end_time, r.end_time, timestamp '1970-01-01 00:00:00+00'), coalesce(r.last_sign_at, timestamp '1970-01-01 00:00:00+00'), coalesce(r.start_time, timestamp '1970-01-01 00:00:00+00'))) as used_at
  from inputs i
  left join runs r on r.tracking_server = i.tracking_server and r.workspace = i.workspace and r.run_id = i.run_id
  left join open_runs o on o.tracking_server = i.tracking_server and o.workspace = i.workspace and o.run_id = i.run_id
  group by i.tracking_server, i.workspace, i.model_id
),
known as (
  select o.*, {folder_location} as location, r.run_id is null as is_run_unknown, r.run_name, r.experiment_name, r.artifact_uri, r.user_name, r.owner, r.team, r.run_status, r.start_time, r.end_time,
    r.purged_at, r.parent_run_id, r.tags, r.params, r.project, r.cost_center, e.tags as experiment_tags, e.experiment_id is null as is_experiment_unknown,
    coalesce(r.experiment_name, e.experiment_name) as experiment, m.open_run_id,
    if(o.owner_kind = 'run', r.start_time, o.oldest_at) as began_at,
    nullif(greatest(
      coalesce(o.newest_at, timestamp '1970-01-01 00:00:00+00'), coalesce(r.future_end_time, r.end_time, timestamp '1970-01-01 00:00:00+00'), coalesce(r.last_sign_at, timestamp '1970-01-01 00:00:00+00'),
      coalesce(r.start_time, timestamp '1970-01-01 00:00:00+00'), coalesce(m.used_at, timestamp '1970-01-01 00:00:00+00')
    ), timestamp '1970-01-01 00:00:00+00') as used_at
  from owned o
  left join runs r on r.tracking_server = o.tracking_server and r.workspace = o.workspace and r.run_id = o.run_id
  left join experiments e on e.tracking_server = o.tracking_server and e.workspace = o.workspace and e.experiment_id = o.experiment_id
  left join model_readers m on o.owner_kind = 'logged_model' and m.tracking_server = o.tracking_server and m.workspace = o.workspace and m.model_id = o.owner_id
  where {kinds}
),
selected as (
  select k.*, array_length(split(k.location, '/')) as depth,
    json_value(k.tags, '$."runspend.keep"') as keep_tag, json_value(k.experiment_tags, '$."runspend.keep"') as experiment_keep_tag,
    json_value(k.tags, '$."runspend.hold"') as hold_tag, json_value(k.experiment_tags, '$."runspend.hold"') as experiment_hold_tag,
    json_value(k.tags, '$.stage') as stage_tag, json_value(k.experiment_tags, '$.stage') as experiment_stage_tag
  from known k
  where {selector}
),
-- The folders of all owners. The next three parts find owners whose folder equals, is inside, or contains a selected folder.
claims as (
  select tracking_server, owner_kind, owner_id, label, location, array_length(split(location, '/')) as depth
  from (
    select tracking_server, 'run' as owner_kind, run_id as owner_id, concat('run ', run_id) as label, {run_location} as location from runs where artifact_uri is not null
    union all
    select tracking_server, owner_kind, owner_id, concat(replace(owner_kind, '_', ' '), ' ', owner_id), {owner_location} from artifact_owners where uri is not null
    union all
    select tracking_server, 'version', label, label, location from versions where location is not null
  ) as owners
),
shared as (
  select s.store, s.prefix, s.owner_kind, s.owner_id, min(case c.owner_kind when 'version' then c.label else concat('shares its folder with ', c.label) end) as reason
  from selected s
  join claims c on c.location = s.location
  where not (c.owner_kind = s.owner_kind and c.owner_id = s.owner_id and c.tracking_server = coalesce(s.tracking_server, ''))
  group by s.store, s.prefix, s.owner_kind, s.owner_id
),
inside as (
  select s.store, s.prefix, s.owner_kind, s.owner_id, min(case c.owner_kind when 'version' then c.label else concat(c.label, ' is inside its folder') end) as reason
  from (
    select c.*, regexp_extract(c.location, concat('^(?:[^/]*/){', cast(d.depth - 1 as string), '}[^/]+')) as above
    from claims c
    join (select distinct depth from selected) as d on d.depth < c.depth
  ) as c
  join selected s on s.location = c.above
  group by s.store, s.prefix, s.owner_kind, s.owner_id
),
around as (
  select s.store, s.prefix, s.owner_kind, s.owner_id, min(case c.owner_kind when 'version' then c.label else concat('is inside the folder of ', c.label) end) as reason
  from (
    select s.*, regexp_extract(s.location, concat('^(?:[^/]*/){', cast(d.depth - 1 as string), '}[^/]+')) as above
    from selected s
    join (select distinct depth from claims) as d on d.depth < s.depth
  ) as s
  join claims c on c.location = s.above
  where not (c.owner_kind = 'run' and c.owner_id = coalesce(s.run_id, '') and c.tracking_server = s.tracking_server)
  group by s.store, s.prefix, s.owner_kind, s.owner_id
),
reads as (
  select tracking_server, workspace,
    logical_or(kind = 'model_versions' and state = 'ok') and logical_or(kind = 'model_uses' and state = 'ok') as is_known,
    logical_or(kind = 'run_metrics' and state = 'ok') as is_measured
  from tracking_reads
  group by tracking_server, workspace
),
all_reads as (
  select coalesce(logical_and(is_known), false) as is_known from reads
),
judged as (
  select s.*,
    coalesce(array_to_string([
      if({stores}, null, 'its store is no longer in `stores`'),
      case when s.run_id is not null and s.is_run_unknown then 'its run is not known' when s.purged_at is not null then 'MLflow no longer shows the run: it may only be hidden' end,
      if(not s.is_run_unknown and (s.end_time is null or s.run_status in ('RUNNING', 'SCHEDULED')) and s.purged_at is null, if(s.owner_kind = 'run', 'it is running, or its end is missing', 'its run is running, or its end is missing'), null),
      if(p.run_id is not null, concat('its parent run is running: ', p.run_id), null),
      if(d.run_id is not null, concat('a child run is running: ', d.run_id), null),
      if(s.open_run_id is not null, concat('in use by a run that is running: ', s.open_run_id), null),
      if(coalesce(lower(trim(s.hold_tag)) not in ('false', 'no', '0'), false), 'legal hold: tag runspend.hold', null),
      if(coalesce(lower(trim(s.experiment_hold_tag)) not in ('false', 'no', '0'), false), "legal hold: its experiment's tag runspend.hold", null),
      if(coalesce(lower(trim(s.keep_tag)) not in ('false', 'no', '0') and coalesce(safe_cast(trim(s.keep_tag) as date) >= @today, true), false), 'its tag runspend.keep', null),
      if(coalesce(lower(trim(s.experiment_keep_tag)) not in ('false', 'no', '0') and coalesce(safe_cast(trim(s.experiment_keep_tag) as date) >= @today, true), false), "its experiment's tag runspend.keep", null),
      if(coalesce(lower(trim(s.stage_tag)) = 'production', false), 'its tag stage is production', null),
      if(coalesce(lower(trim(s.experiment_stage_tag)) = 'production', false), "its experiment's tag stage is production", null),
      if(s.owner_kind <> 'orphan' and s.is_experiment_unknown, 'its experiment, which may protect it, is not known', null),
      case
        when lm.label is not null then lm.label
        when s.owner_kind = 'run' and lr.distance = 0 then concat('it made a model: ', lr.label)
        when s.owner_kind = 'run' and lr.distance > 0 then concat('a run that led to a live model used its output: ', lr.label)
      end,
      sh.reason, i.reason, a.reason,
      if(coalesce(if(s.owner_kind = 'orphan', (select is_known from all_reads), t.is_known), false), null, 'whether a model needs it is not known: the registry or the use of models was not read'),
      if(s.owner_kind = 'orphan' and s.confirmed_at is null, 'whether it has an owner is not certain yet', null),
      if(s.objects is null or s.bytes is null, 'its bytes are unknown: the listing did not finish', null),
      if(s.used_at is null, 'when it was last used is unknown', null),
      if(s.began_at is null, 'when it began is unknown', null),
      if(s.newest_at > @margin, concat('its newest file was written on ', cast(date(s.newest_at) as string), ', within the margin'), null),
      if(s.owner_kind in ('run', 'logged_model') and @best > 0 and (k.best_rank is null or k.is_unmeasured or not coalesce(t.is_measured, false)), concat('no ', @metric, ' of it is known, by which the best are kept'), null),
      if(s.owner_kind in ('run', 'logged_model') and @best > 0 and k.best_rank <= @best and not k.is_unmeasured, concat('among the best ', cast(@best as string), ' by ', @metric), null),
      if(s.owner_kind in ('run', 'logged_model') and @last > 0 and (k.last_rank is null or k.is_undated or k.last_rank <= @last), concat('among the last ', cast(@last as string)), null),
      {unfit}
    ], '\n'), '') as reasons
  from selected s
  left join open_runs p on s.owner_kind = 'run' and p.tracking_server = s.tracking_server and p.workspace = s.workspace and p.run_id = s.parent_run_id
  left join open_children d on s.owner_kind = 'run' and d.tracking_server = s.tracking_server and d.workspace = s.workspace and d.parent_run_id = s.run_id
  left join live_runs lr on lr.tracking_server = s.tracking_server and lr.workspace = s.workspace and lr.run_id = s.run_id
  left join live_models lm on s.owner_kind = 'logged_model' and lm.tracking_server = s.tracking_server and lm.workspace = s.workspace and lm.model_id = s.owner_id
  left join shared sh on sh.store = s.store and sh.prefix = s.prefix and sh.owner_kind = s.owner_kind and sh.owner_id = s.owner_id
  left join inside i on i.store = s.store and i.prefix = s.prefix and i.owner_kind = s.owner_kind and i.owner_id = s.owner_id
  left join around a on a.store = s.store and a.prefix = s.prefix and a.owner_kind = s.owner_kind and a.owner_id = s.owner_id
  left join reads t on t.tracking_server = s.tracking_server and t.workspace = s.workspace
  left join ranked k on k.store = s.store and k.prefix = s.prefix and k.owner_kind = s.owner_kind and k.owner_id = s.owner_id
)
select
  j.store, j.prefix, j.owner_kind, j.owner_id, j.tracking_server, j.workspace, j.experiment_id, j.experiment as experiment_name, j.run_id, j.run_name,
  if(j.owner_kind = 'run', j.artifact_uri, null) as artifact_uri, j.user_name, j.owner, j.team, j.only_class, j.objects, j.bytes, j.reasons,
  div(timestamp_diff(@now, j.used_at, microsecond), 86400000000) as unused_days,
  h.storage_class, h.objects as class_objects, h.bytes as class_bytes, h.newest_at as class_newest_at
from judged j
join held h on h.store = j.store and h.prefix = j.prefix and h.owner_kind = j.owner_kind and h.owner_id = j.owner_id
order by j.store, j.prefix, j.owner_kind, j.owner_id, h.storage_class
