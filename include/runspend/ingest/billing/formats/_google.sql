-- Macros that Google's formats share: for lists of structs that are delivered as text, for tags, for machines, and for the FOCUS category
-- of a service.

-- The tokens of a list that is JSON or the text of a Python list. koku and nise write `[{'amount': -5e-06, 'full_name': None}]`.
create or replace macro google_tokens(list_text) as regexp_extract_all(
  list_text,
  '''(?:[^''\\]|\\.)*''|"(?:[^"\\]|\\.)*"|-?[0-9]+(?:[.][0-9]*)?(?:[eE][-+]?[0-9]+)?|None|True|False|null|true|false|[][{},:]|\s+'
);

create or replace macro google_json_token(token) as case
  when token = 'None' then 'null'
  when token = 'True' then 'true'
  when token = 'False' then 'false'
  -- Python does not escape " inside single quotes. In a string with both kinds of quotes, it escapes the '.
  when token[1] = '''' then '"' || replace(replace(token[2:-2], '\''', ''''), '"', '\"') || '"'
  -- Numbers become strings, because JSON readers would turn amounts into doubles.
  when regexp_matches(token, '^[-0-9]') then '"' || token || '"'
  else token
end;

-- The list with its tokens rewritten as JSON. Null if the tokens do not cover the whole text: such a text is unreadable.
-- DuckDB expands a macro wherever it is used. So expensive expressions are passed to a lambda and computed once.
create or replace macro google_rewritten(list_text) as list_transform(
  [google_tokens(list_text)],
  lambda tokens: case
    when array_to_string(tokens, '') = list_text then array_to_string(list_transform(tokens, lambda token: google_json_token(token)), '')
  end
)[1];

create or replace macro google_has_long_number(list_text) as regexp_matches(list_text, '[0-9.]{19}') and coalesce(
  list_max(list_transform(regexp_extract_all(list_text, '[0-9]+[.][0-9]+'), lambda number: length(ltrim(replace(number, '.', ''), '0')))) > 17, false
);

-- The list as JSON, or null if the text is not a list. JSON with only short numbers is used unchanged, because DuckDB reads a short number
-- exactly as a double. In all other lists, numbers become strings.
create or replace macro google_json(list_text) as list_transform(
  [case when not google_has_long_number(list_text) and json_valid(list_text) then list_text else google_rewritten(list_text) end],
  lambda found: case
    when list_text is null then '[]'
    when json_valid(found) then case when json_type(found) = 'ARRAY' then found end
  end
)[1];

-- The keys and values of a list of labels, from its JSON and the paths of key and value in each entry. Null if an entry has no key, no
-- value, or a nested key or value.
create or replace macro google_labels(list_json, key_path, value_path) as case
  when len(json_extract_string(list_json, key_path)) = json_array_length(list_json)
    and len(json_extract_string(list_json, value_path)) = json_array_length(list_json)
    and not list_has_any(json_type(list_json, value_path), ['OBJECT', 'ARRAY'])
    and not list_has_any(json_type(list_json, key_path), ['OBJECT', 'ARRAY', 'NULL'])
    then list_transform(
      json_extract_string(list_json, key_path),
      lambda key, place: {'key': key, 'value': json_extract_string(list_json, value_path)[place]}
    )
end;

-- Google's own labels, with the prefix `goog:`. Keys of users cannot contain a colon, so the two cannot be confused.
create or replace macro google_own(labels) as list_transform(
  labels, lambda label: {'key': case when starts_with(label.key, 'goog-') then label.key else 'goog:' || label.key end, 'value': label.value}
);

-- `labels`, followed by the entries of `more` whose keys are not in `labels`.
create or replace macro google_beside(labels, more) as case
  when len(more) = 0 then labels
  else list_concat(labels, list_filter(more, lambda label: not list_contains(list_transform(labels, lambda other: other.key), label.key)))
end;

-- Labels as the text of a JSON object. If a key is twice in a list, it is twice in the object. `tags.py` drops and counts such tags.
create or replace macro google_tags(labels) as case
  when labels is null then 'no list of labels'
  when len(labels) > 0 then '{' || array_to_string(
    list_transform(labels, lambda label: cast(to_json(label.key) as varchar) || ':' || coalesce(cast(to_json(label.value) as varchar), 'null')), ','
  ) || '}'
end;

create or replace macro google_label_value(labels, name) as
  list_filter(labels, lambda label: label.key = 'goog:compute.googleapis.com/' || name)[1].value;

-- The properties of a machine, with the names that FOCUS uses in SkuPriceDetails. Google states memory in MB.
create or replace macro google_machine(labels) as case
  when google_label_value(labels, 'machine_spec') is not null then json_object(
    'InstanceType', google_label_value(labels, 'machine_spec'),
    'CoreCount', google_label_value(labels, 'cores'),
    'MemorySize', cast(try_cast(google_label_value(labels, 'memory') as double) / 1024 as varchar)
  )
end;

-- The running time of a machine. SKUs of cores and GPUs bill core-hours and GPU-hours, which give the running time only if the number of
-- cores is known. For a shared-core machine, they bill only a part of the core. Pods of Autopilot are billed in thousandths of a core.
create or replace macro google_is_clock(unit) as coalesce(regexp_full_match(lower(unit), '(second|minute|hour|day)s?'), false);
create or replace macro google_is_of_cores(sku) as coalesce(regexp_matches(sku, '(?i)\b(core|v?cpu)s?\b'), false);
create or replace macro google_whole_cores(labels) as case
  when not coalesce(regexp_matches(google_label_value(labels, 'machine_spec'), '^(e2-(micro|small|medium)|f1-micro|g1-small)$'), false)
    then nullif(try_cast(google_label_value(labels, 'cores') as double), 0)
end;
create or replace macro google_clock_quantity(quantity, unit, sku, cores) as case
  when google_is_clock(unit) and google_is_of_cores(sku) and cores is not null then cast(try_cast(quantity as double) / cores as varchar)
  else quantity
end;
create or replace macro google_clock_unit(unit, sku, cores) as case
  when google_is_clock(unit) and regexp_matches(sku, '(?i)\bgpus?\b') then 'GPU-' || unit
  when google_is_clock(unit) and regexp_matches(sku, '(?i)\bmcpu\b') then 'mCPU-' || unit
  when google_is_clock(unit) and google_is_of_cores(sku) and cores is null then 'vCPU-' || unit
  else unit
end;

-- Whether a SKU is the hourly fee of a commitment, such as "Commitment v1: A2 Cpu in Americas for 1 Year" or "Commitment - dollar based v1:
-- GCE for 1 year". Google's cost type does not distinguish such a fee from usage.
create or replace macro google_is_commitment_fee(sku) as coalesce(regexp_matches(sku, '(?i)^commitment\b'), false);

-- Whether a charge is for a month before its invoice month. In FOCUS, a correction changes a month that is already invoiced. Invoice months
-- are in Los Angeles time.
create or replace macro google_is_of_earlier_month(usage_start, month) as
  strftime(timezone('America/Los_Angeles', instant(usage_start)), '%Y%m') < month;

-- The FOCUS category of a service, which Google's export does not state. The first pattern that matches applies. All others are Other.
create or replace macro google_service_category(service) as case
  when regexp_matches(service, '(?i)(vertex|gemini|\bAI\b|machine learning|\bML\b|dialogflow|generative|natural language|vision api|speech|translation|automl|notebooks|\bTPU\b|recommendations|document ai|agent)')
    then 'AI and Machine Learning'
  when regexp_matches(service, '(?i)(bigquery|dataflow|dataproc|looker|composer|pub/?sub|data fusion|dataplex|datastream|analytics)') then 'Analytics'
  when regexp_matches(service, '(?i)(cloud sql|spanner|bigtable|firestore|datastore|memorystore|alloydb|database|mongodb|redis|\bsql\b)') then 'Databases'
  when regexp_matches(service, '(?i)(storage|filestore|backup|netapp|parallelstore|managed lustre)') then 'Storage'
  when regexp_matches(service, '(?i)(compute engine|kubernetes|cloud run|app engine|functions|batch|vmware|anthos|bare metal)') then 'Compute'
  when regexp_matches(service, '(?i)(network|\bdns\b|cdn|vpn|interconnect|load balanc|nat\b|private service connect|armor|domains)') then 'Networking'
  when regexp_matches(service, '(?i)(security|key management|\bkms\b|secret|certificate|recaptcha|chronicle)') then 'Security'
  when regexp_matches(service, '(?i)(identity|\biam\b)') then 'Identity'
  when regexp_matches(service, '(?i)(build|artifact registry|container registry|source repositories|deploy|workstations|firebase)') then 'Developer Tools'
  when regexp_matches(service, '(?i)(logging|monitoring|operations|stackdriver|trace|support|billing)') then 'Management and Governance'
  when regexp_matches(service, '(?i)(workflows|tasks|scheduler|eventarc|apigee|api gateway|integration)') then 'Integration'
  when regexp_matches(service, '(?i)(transcoder|video|livestream)') then 'Media'
  when regexp_matches(service, '(?i)(migrat|transfer)') then 'Migration'
  else 'Other'
end;
