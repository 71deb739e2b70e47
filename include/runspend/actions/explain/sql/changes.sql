-- One row per later version of a bill, charge date, service and account: by how much the version changed the costs.
select source, billing_period, version_number, charge_date, service_name, sub_account_id, billing_currency, list_cost, contracted_cost, effective_cost, billed_cost
from bill_changes
where charge_date between @first_date and @last_date and service_name in unnest(@services) and version_number > 1
order by source, billing_period, version_number, charge_date, service_name, sub_account_id
