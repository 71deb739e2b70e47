concat(
  case
    when aliases is not null and aliases <> '[]' then concat('alias ', replace(replace(replace(aliases, '["', ''), '"]', ''), '","', ', '), ' on ')
    else 'registered as '
  end,
  model_name, '/', cast(model_version as string),
  if(stage in ('Production', 'Staging'), concat(' in stage ', stage), '')
)
