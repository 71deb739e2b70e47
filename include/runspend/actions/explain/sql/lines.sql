-- One row per bill line of these resources: its cost, and how it is priced.
select line_id, resource_key, billed_nanoseconds, charge_description, pricing_category, instance_type, effective_cost
from billing_lines
where resource_id between @first_resource and @last_resource and billing_period in unnest(@periods) and line_id in unnest(@lines)
order by line_id
