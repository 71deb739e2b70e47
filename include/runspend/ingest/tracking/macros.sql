-- Macros that parse the values that runs state. Unusable text becomes null and never an error, because tags are free text.

-- Blank text counts as not stated.
create macro trimmed(value) as nullif(trim(value, e' \t\n\r'), '');

-- A person's value in a users file at an instant, from the first line that is valid then. `periods` are the person's lines in all files,
-- in the order of the files.
create macro value_at(periods, number, moment) as
  list_filter(periods, lambda line: line.file = number and (line.valid_from is null or moment >= line.valid_from) and (line.valid_to is null or moment < line.valid_to))[1].value;

-- Epoch milliseconds as an instant. Zero, negative values and values after the year 9999 are not times.
create macro is_instant(ms) as ms > 0 and ms < 253402300800000;
create macro instant_utc(ms) as case when is_instant(ms) then make_timestamp_ms(ms) end;
create macro instant(ms) as case when is_instant(ms) then make_timestamp_ms(ms)::timestamptz end;

-- An instant written as text in ISO 8601 (UTC if no time zone is given) or as epoch milliseconds.
create macro written_instant(value) as
  case when regexp_full_match(value, '[0-9]{11,15}') then instant(try_cast(value as bigint)) else try_cast(value as timestamptz) end;

create macro positive(x) as case when x > 0 and x < 1e15 then x end;
create macro none_or_more(x) as case when x >= 0 and x < 1e15 then x + 0 end;
create macro whole_number(value) as case when try_cast(value as double) between 0 and 1e15 then try_cast(try_cast(value as double) as bigint) end;

-- A number of CPU cores, written as 4, 0.5 or in Kubernetes' form 500m.
create macro cores(value) as
  case when regexp_full_match(value, '[0-9.]+m') then positive(try_cast(replace(value, 'm', '') as double) / 1000)
       else positive(try_cast(value as double)) end;

-- An amount of memory in GiB, written as 16Gi, 64GB, 512Mi, 1.5TiB or 8G. A number without a unit is GiB up to 65536. A larger one is
-- bytes, as in Kubernetes. A GiB is 2^30 bytes, a GB 10^9 bytes.
create macro memory_unit(unit) as
  case unit
    when 'k' then 1e3 when 'kb' then 1e3 when 'ki' then 1024.0 when 'kib' then 1024.0
    when 'm' then 1e6 when 'mb' then 1e6 when 'mi' then 1048576.0 when 'mib' then 1048576.0
    when 'g' then 1e9 when 'gb' then 1e9 when 'gi' then 1073741824.0 when 'gib' then 1073741824.0
    when 't' then 1e12 when 'tb' then 1e12 when 'ti' then 1099511627776.0 when 'tib' then 1099511627776.0
    when 'b' then 1.0 end;
create macro gibibytes(value) as
  positive(case
    when not regexp_full_match(value, '[0-9]+([.][0-9]+)?([eE][0-9]+)? ?[A-Za-z]*') then null
    when try_cast(value as double) is not null
      then case when try_cast(value as double) <= 65536 then try_cast(value as double) else try_cast(value as double) / 1073741824 end
    else try_cast(regexp_extract(value, '^[0-9.]+') as double) * memory_unit(lower(regexp_extract(value, '([A-Za-z]+)$', 1))) / 1073741824 end);

-- A JSON object with the allowed keys that a run states. `found` are the values of `keys`, null for keys that the run does not state.
create macro is_there(found) as list_transform(found, lambda value: value is not null);
create macro copied(keys, found) as
  case when list_count(found) = 0 then '{}'
       else cast(to_json(map(list_where(keys, is_there(found)), list_where(found, is_there(found)))) as varchar) end;

-- The pairs of key and value of a JSON object, with every value as text.
create macro pairs_of(document) as map_entries(cast(cast(document as json) as map(varchar, varchar)));

-- A JSON object in which values that look like secrets are replaced. Keys are not replaced, because two of them could become equal.
create macro redacted_document(document) as
  cast(to_json(map_from_entries(list_transform(pairs_of(document), lambda pair: {'key': pair.key, 'value': redacted(pair.value)}))) as varchar);

-- The two steps of `redacted_document`, so that a query uses `redacted` only once for several documents. `values_of` returns the values of
-- an object. `with_values` returns the object with new values in the same order.
create macro values_of(document) as coalesce(map_values(cast(cast(document as json) as map(varchar, varchar))), []);
create macro with_values(document, texts) as
  case when document is not null then cast(to_json(map(map_keys(cast(cast(document as json) as map(varchar, varchar))), texts)) as varchar) end;

-- The tags of a run without the cost tags that Runspend wrote (core/cost_keys.py). The text is searched first, because that is cheaper than
-- searching the keys.
create macro is_cost_tag(pair) as
  pair.key in ('cost_status', 'cost_match', 'cost_as_of', 'runspend.costs')
  or (pair.key = 'mlflow.note.content' and regexp_full_match(pair.value, 'Cost of this run, line by line: \S+/run/[0-9A-Za-z_.-]+'));
create macro without_costs(document) as
  case when contains(document, '"cost_') or contains(document, '"runspend.costs"') or contains(document, 'Cost of this run, line by line: ')
       then cast(to_json(map_from_entries(list_filter(pairs_of(document), lambda pair: not is_cost_tag(pair)))) as varchar)
       else document end;

-- The tags of an experiment without the costs that Runspend wrote: without the record of these costs, and without the tags in that record.
create macro keys_in_record(record) as
  case when json_valid(record) and json_type(record) = 'OBJECT' then list_filter(json_keys(record), lambda key: starts_with(key, 'cost_')) else [] end;
create macro without_recorded_costs(document) as
  case when contains(document, '"runspend.costs"')
       then cast(to_json(map_from_entries(list_filter(
         pairs_of(document),
         lambda pair: pair.key <> 'runspend.costs'
           and not list_contains(keys_in_record(json_extract_string(document, '/runspend.costs')), pair.key)))) as varchar)
       else document end;

-- The further machines of a run; each has its own key. The text is searched first, because that is cheaper than searching the keys.
create macro further_machines(document) as
  case when contains(document, '"runspend.machine.further.')
       then list_filter(
         list_transform(
           list_filter(pairs_of(document), lambda pair: starts_with(pair.key, 'runspend.machine.further.')),
           lambda pair: trimmed(pair.value)),
         lambda id: id is not null)
       else [] end;

-- A JSON object without the pairs whose key or value looks like a secret. If `is_suspect` is false for the whole text, only the keys must
-- be checked.
create macro is_secret_key(key) as
  regexp_matches(key, '(?i)(passw|passwd|\bpwd\b|secret|token|api[_-]?key|apikey|access[_-]?key|private[_-]?key|credential|\bauth\b|\bauthorization\b|connection[_-]?string|\bdsn\b|\bsas\b)');
create macro is_secret_value(value) as
  regexp_matches(value, '(AKIA|ASIA)[0-9A-Z]{16}|-----BEGIN|://[^/\s:@]*:[^/\s@]+@|\b(gh[pousr]_|github_pat_|glpat-|xox[abprs]-|sk-|hf_|dapi)[A-Za-z0-9_-]{16,}|\beyJ[A-Za-z0-9_-]{10,}\.|(?i)(password|secret|token|sig)=[^&\s]{4,}')
  or redacted(value) <> value;
create macro chosen_pairs(pairs) as cast(to_json(map_from_entries(list_sort(pairs))) as varchar);
create macro all_but_secret_keys(document) as chosen_pairs(list_filter(pairs_of(document), lambda pair: not is_secret_key(pair.key)));
create macro all_but_secrets(document) as
  chosen_pairs(list_filter(pairs_of(document), lambda pair: not is_secret_key(pair.key) and not is_secret_value(pair.key) and not is_secret_value(pair.value)));

-- The fraction of a GPU that a MIG profile such as "1g.10gb" has, from its number of compute slices ("1c.3g.20gb" has one). Null for any
-- other text. A30 and RTX PRO 6000 have 4 slices, and most of their profiles do not exist on other GPUs. All other GPUs have 7 slices.
-- Source: NVIDIA "Multi-Instance GPU User Guide", supported MIG profiles.
create macro has_four_slices(type) as
  regexp_matches(type, '(?i)(\bA30\b|RTX PRO 6000|(^|[^0-9a-z])(1g\.6gb|2g\.12gb|4g\.24gb|2g\.48gb|4g\.96gb)\b)');
create macro slice_of_gpu(type) as
  try_cast(nullif(regexp_extract(type, '(?i)(?:^|[^0-9a-z])([1-7])(?:c\.[1-7])?g\.[0-9]+gb', 1), '') as double) / if(has_four_slices(type), 4, 7);
-- For a slice type such as 1g.10gb, a whole number counts slices, as in Kubernetes. A fraction is already a part of a GPU.
create macro slices_as_gpus(count, slice) as case when slice is not null and count = round(count) then count * slice else count end;
-- The plug-in writes four decimals, so 0.1429 means one seventh. A number with at most two decimals is used unchanged.
create macro exact_gpus(count) as
  case when abs(count * 100 - round(count * 100)) > 0.000001 and round(count * 7) >= 1 and abs(count * 7 - round(count * 7)) < 0.004 then round(count * 7) / 7 else count end;

-- Money from a float of MLflow. The shortest decimal text of the float is converted, not its binary value.
create macro money(x) as try_cast(cast(x as varchar) as decimal(38, 22));

-- The location and the purchase option of machines, in the form in which they are compared with bills: in lower case, regions without
-- spaces, accounts without their prefix.
create macro region_name(value) as nullif(replace(lower(trimmed(value)), ' ', ''), '');
create macro account_name(value) as
  case when regexp_full_match(trimmed(value), '[0-9]{4}-[0-9]{4}-[0-9]{4}') then replace(trimmed(value), '-', '')
       else nullif(regexp_replace(lower(trimmed(value)), '^/?(subscriptions|projects)/', ''), '') end;
-- A project number cannot be used, because bills contain the project ID.
create macro project_name(value) as case when not regexp_full_match(account_name(value), '[0-9]+') then account_name(value) end;
-- The value of a key with a general name counts only if it has the form of a cloud's value: a region such as us-east-1 or europe-west4,
-- a zone such as us-east-1a or europe-west4-a, an account of 12 digits or a UUID.
create macro region_shaped(value) as case when regexp_full_match(region_name(value), '[a-z]{2}(-[a-z]+)+-[0-9]|[a-z]+-[a-z]+[0-9]+') then region_name(value) end;
create macro zone_shaped(value) as case when regexp_full_match(region_name(value), '[a-z]{2}(-[a-z]+)+-[0-9][a-z]|[a-z]+-[a-z]+[0-9]+-[a-z]') then region_name(value) end;
create macro account_shaped(value) as
  case when regexp_full_match(account_name(value), '[0-9]{12}|[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}') then account_name(value) end;
create macro region_of_zone(zone) as
  case when regexp_full_match(zone, '[a-z]{2}(-[a-z]+)+-[0-9][a-z]') then zone[:-2]
       when regexp_full_match(zone, '[a-z]{2}(-[a-z]+)+-[0-9]-[a-z]+-[0-9][a-z]') then regexp_extract(zone, '^[a-z]{2}(-[a-z]+)+?-[0-9]')
       when regexp_full_match(zone, '[a-z]+-[a-z]+[0-9]+-[a-z]') then zone[:-3] end;
-- The words of SageMaker (True), SkyPilot (use_spot), EKS (SPOT), Google (SPOT, preemptible) and Azure (Low, LowPriority), among others.
-- Any other word gives null.
create macro purchase_option(value) as
  case
    when replace(replace(lower(trimmed(value)), '-', '_'), ' ', '_') in ('true', '1', 'yes', 'spot', 'preemptible', 'dynamic', 'low', 'low_priority', 'lowpriority') then 'spot'
    when replace(replace(lower(trimmed(value)), '-', '_'), ' ', '_') in
      ('false', '0', 'no', 'on_demand', 'ondemand', 'standard', 'regular', 'dedicated', 'reserved', 'committed', 'capacity_block') then 'on_demand'
  end;
