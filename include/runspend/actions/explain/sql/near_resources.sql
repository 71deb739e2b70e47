-- One row per resource whose name contains the text, highest cost first.
select resource_key, sum(effective_cost) as effective_cost
from billing_lines
where strpos(lower(resource_id), @part) > 0
group by resource_key
order by effective_cost desc, resource_key
limit 10
