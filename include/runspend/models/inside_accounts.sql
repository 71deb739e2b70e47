-- one row per bill and account that has a line of the ML platform: fees of these accounts are shared, fees of others out of scope
select distinct l.source, coalesce(l.sub_account_id, '') as sub_account_id
from billing_lines l
left join inside_resources i on i.resource_key = l.resource_key
where l.billing_period = @period
  and (i.resource_key is not null or l.run_tag is not null or l.scope = 'include' or l.service_category = 'AI and Machine Learning')
union distinct
select distinct l.source, '' as sub_account_id
from billing_lines l
left join inside_resources i on i.resource_key = l.resource_key
where l.billing_period = @period
  and (i.resource_key is not null or l.run_tag is not null or l.scope = 'include' or l.service_category = 'AI and Machine Learning')
